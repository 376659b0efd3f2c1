"""``dragoman calibrate``: how likely sentences are to be right, learnt on a person's own two models.

In: words of the command line. Out: a calibration's file, what it is worth on stdout. Refuses what
``dragoman.calibrate`` refuses.
"""

from __future__ import annotations

from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dragoman.commands.printing import put, put_record, talking
from dragoman.commands.words import (
    CROSSES,
    EXPLAINED,
    MACHINE,
    SAYS,
    VERBALIZER,
    ArrayKey,
    Base,
    ContractName,
    Device,
    Dtype,
    Engine,
    Lying,
    OutJson,
    ReadingOf,
    Sae,
    Seed,
    Settings,
    Source,
    Texts,
    TopK,
    Width,
    named,
    settings_from,
)
from dragoman.core import MOST_TOGETHER, MOST_TOKENS, Site

if TYPE_CHECKING:
    from dragoman.confidence.calibration import Calibration


def calibrate(
    sae: Sae,
    source: Source = None,
    key: ArrayKey = None,
    orientation: Lying = None,
    d_model: Width = None,
    k: TopK = None,
    latents: Annotated[
        int,
        typer.Option(
            metavar="N", min=20, rich_help_panel=EXPLAINED, help="Latents drawn at random, or directions made."
        ),
    ] = 400,
    nulls: Annotated[int, typer.Option(metavar="N", min=3, rich_help_panel=EXPLAINED, help="Of each null.")] = 60,
    known: Annotated[
        int, typer.Option(metavar="N", min=3, rich_help_panel=EXPLAINED, help="Known answers of each kind.")
    ] = 40,
    reading: ReadingOf = None,
    washout: Annotated[
        str, typer.Option(metavar="SHARE", rich_help_panel=CROSSES, help="As of explain, which must say the same.")
    ] = "on-shell",
    texts: Texts = None,
    documents: Annotated[
        int, typer.Option(metavar="N", min=40, rich_help_panel=CROSSES, help="Texts that are read at most.")
    ] = 6000,
    by: Annotated[
        str,
        typer.Option(callback=named, metavar="AV", rich_help_panel=VERBALIZER, help="Verbalizer, as of explain."),
    ] = "tiny-gemma-av",
    contract: ContractName = None,
    setting: Settings = None,
    base: Base = None,
    max_new_tokens: Annotated[
        int, typer.Option(metavar="N", min=1, max=MOST_TOKENS, rich_help_panel=SAYS, help="Longest text, in tokens.")
    ] = 200,
    out: OutJson = Path("pair.json"),
    batch_size: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, max=MOST_TOGETHER, rich_help_panel=MACHINE, help="Directions handed over together."
        ),
    ] = None,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    engine: Engine = "auto",
    seed: Seed = 0,
    as_json: Annotated[
        bool, typer.Option("--json", rich_help_panel=MACHINE, help="What it is worth, on stdout as JSON.")
    ] = False,
) -> None:
    """Learn how likely each sentence about a feature is right, on your own two models and texts.

    Right means: documents that no evidence was made of bear it out, by where the feature fires in them. Vectors without
    an encoder fire nowhere: for them it is learnt on directions made of words, and says so.

    Interrupted, the same command goes on. explain and score take the file with --confidence.
    """
    from dragoman.calibration.calibrate import calibrate as run_calibrate
    from dragoman.dictionaries import open_dictionary
    from dragoman.models.load import check_device
    from dragoman.runs.texts import Texts as BothTexts

    check_device(device)
    stated = Site.parse(source) if source is not None else None
    fed, read = settings_from(setting or []), BothTexts.of(texts)
    asked: Any = reading
    with talking() as talk:
        opened = open_dictionary(sae, site=stated, key=key, orientation=orientation, d_model=d_model, k=k)
        made = run_calibrate(
            opened,
            by=by,
            out=out,
            texts=read,
            latents=latents,
            documents=documents,
            known=known,
            nulls=nulls,
            reading=asked,
            washout=washout,
            max_new_tokens=max_new_tokens,
            batch_size=batch_size,
            contract=contract,
            settings=fed,
            base=base,
            seed=seed,
            dtype=dtype,
            device=device,
            engine=engine,
            talk=talk,
        )
    if as_json:
        put_record("calibration", {"calibration": str(out), **made.reliability.to_json()})
        return
    for line in lines_of(made):
        put(line)
    put(f"calibration: {out}")


def lines_of(made: Calibration) -> list[str]:
    """What a calibration is worth, as lines of at most 80 columns."""
    from dragoman.confidence.calibration import KINDS, MADE

    worth = made.reliability
    kinds = [
        f"{KINDS[kind]:22s}{one.n:6d}{one.right:11d}{'' if one.calibrated else '  too few: no answer'}"
        for kind, one in made.kinds.items()
    ]
    whose = f"{worth.features} latents" if made.on != MADE else f"{MADE} ({worth.features} words), not of latents"
    lines = [
        f"sentences of {whose}, by documents held out",
        "",
        f"{'about':22s}{'judged':>6s}{'borne out':>11s}",
        *kinds,
        "",
        f"those answered for, {worth.n}, each judged by a fit that had not seen its feature",
        "",
        "    n  predicted  observed",
        *(f"{n:5d}  {predicted:9.3f}  {observed:8.3f}" for predicted, observed, n in worth.bins),
        "",
        f"calibration error {worth.ece:.3f}; exact ones score {worth.ece_floor:.3f}",
        f"agrees with {worth.known} known answers by kappa {worth.kappa:.2f}",
    ]
    if worth.auroc is not None:
        lines.append(f"AUROC {worth.auroc:.3f}")
    if made.line is None:
        return [*lines, *wrap(f"answers nothing: {worth.why}", 80)]
    lines.append(
        f"answers {worth.answered:.0%} at P >= {made.line:.2f}, of which {worth.error:.0%} are wrong "
        f"(at most {worth.bound:.0%})"
    )
    if worth.features_answered is not None:
        whose = "latents" if made.on != MADE else "words"
        lines.append(f"{worth.features_answered:.0%} of the {worth.features} {whose} have a sentence that is answered")
    if (test := made.learnt) is not None:
        passing = f"{test.latents:.0%} of {test.n} latents, {test.fakes:.0%} of {test.n_fakes} fakes"
        lines += [f"stand out along their rows as learnt ones do: {passing}", "of the others nothing is answered"]
    return [*lines, *(null_line(name, share, worth.nulls_answered[name]) for name, share in worth.nulls.items())]


def null_line(name: str, wrong: float, answered: float) -> str:
    """Of one null's texts how many have an answer that is not borne out, and any, where that is another number."""
    line = f"null '{name}' answered wrongly: {wrong:.1%}"
    return line if wrong == answered else f"{line}; with what is true of it: {answered:.1%}"
