"""``dragoman rank``: one table over several verbalizers of the same features.

In: finished runs; or a dictionary, verbalizers and a folder, where their runs are made first. Out: a table on stdout,
or JSON, perhaps a page. Refuses what ``dragoman.explain`` and ``dragoman.comparison`` refuse.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dragoman.commands.compare import show_agreement
from dragoman.commands.printing import console, put, put_record, styled, talking, tell
from dragoman.commands.tables import show_table
from dragoman.commands.words import (
    CROSSES,
    EXPLAINED,
    MACHINE,
    SAYS,
    VERBALIZER,
    Device,
    Dtype,
    Labels,
    MaxTexts,
    ReadingOf,
    Seed,
    Source,
    TextColumn,
    Texts,
    features_from,
    folder_path,
    out_file,
    out_folder,
)
from dragoman.core import MOST_TOKENS, Refusal, Site
from dragoman.store import check_name

if TYPE_CHECKING:
    from dragoman.comparison.records import RankedCondition, RankedMeasure, Ranking
    from dragoman.runs.texts import Texts as BothTexts
    from dragoman.store import RunFolder
    from dragoman.store.runsets import RunSet


PAIRS = 6  # whose agreement is told on a screen
# What says how runs are made, and nothing of runs that are there.
_OF_MAKING = ("features", "source", "labels", "reading", "texts", "text_column", "max_texts")
_OF_MAKING += ("nulls", "max_new_tokens", "out", "dtype", "device")


def rank(
    context: typer.Context,
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN",
            help="Run folders, or folders of runs of the same dictionaries, a verbalizer each; or one SAE, with --by, "
            "whose runs are made first.",
        ),
    ],
    by: Annotated[
        list[str] | None,
        typer.Option("--by", metavar="AV", rich_help_panel=VERBALIZER, help="A verbalizer; twice or more."),
    ] = None,
    features: Annotated[
        str | None,
        typer.Option(metavar="IDS", rich_help_panel=EXPLAINED, help="With --by: which features, as of explain."),
    ] = None,
    source: Source = None,
    labels: Labels = None,
    reading: ReadingOf = None,
    texts: Texts = None,
    text_column: TextColumn = None,
    max_texts: MaxTexts = None,
    max_new_tokens: Annotated[
        int,
        typer.Option(metavar="N", min=1, max=MOST_TOKENS, rich_help_panel=SAYS, help="Longest answer, in tokens."),
    ] = 200,
    nulls: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=0,
            rich_help_panel=SAYS,
            help="With --by: so many directions that mean nothing are said besides, which agreement stands beside; "
            "0: none.",
        ),
    ] = 40,
    out: Annotated[
        Path,
        typer.Option(
            "-o",
            "--out",
            parser=out_folder,
            metavar="FOLDER",
            rich_help_panel=MACHINE,
            help="With --by: folder to write the runs into; the same command goes on where it stopped.",
        ),
    ] = Path("runs/rank"),
    condition: Annotated[
        list[str] | None,
        typer.Option(
            "--condition",
            metavar="NAME",
            rich_help_panel=CROSSES,
            help="Which conditions are ranked; may be repeated. Default: those that all runs have.",
        ),
    ] = None,
    page: Annotated[
        Path | None,
        typer.Option("--page", parser=out_file, metavar="FILE", rich_help_panel=MACHINE, help="Page to write."),
    ] = None,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    seed: Seed = 0,
    as_json: Annotated[
        bool, typer.Option("--json", rich_help_panel=MACHINE, help="The table on stdout as JSON.")
    ] = False,
) -> None:
    """One table over several verbalizers: what each reaches beside its null, and which of them are told apart.

    Runs that no test tells apart share a place; p of every two runs by every measure is adjusted as one family.
    """
    from dragoman.comparison.page import write_ranking
    from dragoman.comparison.ranked import rank_runs
    from dragoman.runs.texts import Texts as BothTexts
    from dragoman.store import RunFolder
    from dragoman.store.runsets import RunSet

    if by:
        read = BothTexts.read(texts, column=text_column, most=max_texts)
        folders = _explained(
            runs, by, out, features, source, labels, nulls, texts=read, reading=reading,
            max_new_tokens=max_new_tokens, seed=seed, dtype=dtype, device=device,
        )  # fmt: skip
    else:
        if said := next((name for name in _OF_MAKING if _typed(context, name)), None):
            option = f"--{said.replace('_', '-')}"
            raise Refusal(f"{option} of finished runs", "it says how runs are made", "leave it out, or name --by")
        paths = [folder_path(one) for one in runs]
        if (sets := [RunSet.at(one) for one in paths]) != [None] * len(paths):
            if page is not None:
                raise Refusal("--page of folders of runs", "each dictionary has a table", "name one run of each")
            for name, own in _by_dictionary(paths, sets):
                with talking() as talk:
                    found = rank_runs(list(map(RunFolder.open, own)), conditions=condition or (), seed=seed, talk=talk)
                if as_json:
                    put_record("ranking", {"dictionary": name, **found.to_json()})
                else:
                    console().print(styled(f"{name}\n", "bold underline"))
                    show_ranking(found)
                    put("")
            return
        folders = list(map(RunFolder.open, paths))
    with talking() as talk:
        found = rank_runs(folders, conditions=condition or (), seed=seed, talk=talk)
    written = None if page is None else write_ranking(found, page)
    if as_json:
        put_record("ranking", found.to_json() | ({} if written is None else {"page": str(written)}))
        return
    show_ranking(found)
    if written is not None:
        put(f"page: {written}")


def _by_dictionary(paths: Sequence[Path], sets: Sequence[RunSet | None]) -> list[tuple[str, list[Path]]]:
    """Each dictionary of which every folder of runs holds one, and those runs, in the first folder's order.

    Raises:
        Refusal: a path is a single run, or the folders have no dictionary in common.
    """
    from dragoman.store.runsets import runs_of

    found = list[dict[str, Path]]()
    for path, one in zip(paths, sets, strict=True):
        if one is None:
            why = "it is one run, and others are folders of several"
            raise Refusal(f"{path}", why, "name folders alone, or one run of each")
        found.append(dict(zip([each.dictionary for each in one.runs], runs_of(path), strict=True)))
    both = [name for name in found[0] if all(name in one for one in found)]
    if not both:
        raise Refusal("these folders of runs", "they have no dictionary in common", "name folders of the same ones")
    for name in dict.fromkeys(name for one in found for name in one if name not in both):
        tell(f"{name}: not all of these folders have a run of it, so it is left out")
    return [(name, [one[name] for one in found]) for name in both]


def _typed(context: typer.Context, name: str) -> bool:
    """Whether an option was given in so many words."""
    where = context.get_parameter_source(name)
    return where is not None and where.name == "COMMANDLINE"


def _explained(
    named: Sequence[str],
    by: Sequence[str],
    out: Path,
    features: str | None,
    source: str | None,
    labels: str | None,
    nulls: int,
    *,
    texts: BothTexts,
    dtype: str,
    device: str,
    **options: Any,
) -> list[RunFolder]:
    """A run for each verbalizer, through a crossing of its own; ``options``: of ``Options``."""
    from dragoman.dictionaries import open_dictionary
    from dragoman.models.load import check_device
    from dragoman.runs.common import check_explain
    from dragoman.runs.explain import explain
    from dragoman.runs.nulls import check_nulls
    from dragoman.runs.options import Options
    from dragoman.store.outputs import check_run

    if len(named) != 1:
        raise Refusal(f"{len(named)} names beside --by", "verbalizers read one dictionary here", "name one SAE")
    folders = {one: out / (re.sub(r"[^\w.-]+", "-", check_name(one, "--by")).strip("-.") or "av") for one in by}
    if len(by) < 2 or len(set(folders.values())) < len(by):
        raise Refusal(f"--by {', '.join(by)}", "two different verbalizers are the least", "name each once")
    asked = features_from(features)
    Options(**options)
    check_device(device)
    how = options | {"texts": texts, "dtype": dtype, "device": device}
    for folder in folders.values():
        check_run(folder)
        check_nulls(nulls, folder)
    dictionary = open_dictionary(named[0], site=None if source is None else Site.parse(source), labels=labels)
    check_explain(dictionary, asked, by=by, out=list(folders.values()), **how)
    made = []
    with talking() as talk:
        for one, folder in folders.items():
            talk.say(f"explaining by {one}")
            run = explain(dictionary, features=asked, by=one, out=folder, talk=talk, nulls=nulls, **how)
            run.write_page()
            made.append(run.folder)
    return made


def show_ranking(found: Ranking) -> None:
    """Who is ranked, and a table for each condition."""
    out = console()
    for number, (name, run, target) in enumerate(zip(found.names, found.runs, found.targets, strict=True), 1):
        out.print(styled(f"{number}: {name}, {run.run}, at {target}"), soft_wrap=True)
        if run.distrust:
            out.print(styled(run.distrust, "bold red"))
    for condition in found.conditions:
        out.print()
        _show_condition(condition, found.names)
    out.print()
    if found.tests:
        out.print(
            styled(
                f"place: verbalizers that no test tells apart share one (=). Holm: p of the difference to the best "
                f"mean, adjusted over all {found.tests} differences of two runs that were tested (paired sign-flip "
                f"permutation); an interval is a bootstrap over features. dealt: the same texts, or rows, of other "
                f"features.",
                "dim",
            )
        )


def _show_condition(condition: RankedCondition, names: Sequence[str]) -> None:
    from dragoman.comparison.values import MEASURES

    out = console()
    called = condition.conditions[0] if len(set(condition.conditions)) == 1 else " | ".join(condition.conditions)
    rows = [cells for one in condition.measures for cells in _rows(one, names, MEASURES[one.measure][0])]
    heads = ("measure", "verbalizer", "mean", "95 % interval", "dealt", "Holm", "place")
    title = f"{called}: {condition.n} feature{'' if condition.n == 1 else 's'} in all runs"
    if rows:
        show_table(title, heads, rows, words=2)
    else:
        out.print(styled(title, "bold"))
    tied = [MEASURES[one.measure][0] for one in condition.measures if one.tied]
    if tied:
        out.print(styled(f"no two verbalizers are told apart by: {', '.join(tied)}."))
    for one in condition.over_nulls[:PAIRS]:
        show_agreement(one, f"{one.first + 1} and {one.second + 1}: " if len(names) > 2 else "")
    if (more := len(condition.over_nulls) - PAIRS) > 0:
        out.print(styled(f"agreement of {more} more pairs: --json and the page have it.", "dim"))
    if condition.missing:
        missing = ", ".join(MEASURES[one.measure][0] for one in condition.missing)
        out.print(styled(f"missing: {missing} (--json and the page say why).", "dim"))


def _rows(one: RankedMeasure, names: Sequence[str], called: str) -> list[list[str]]:
    """A measure's lines, best mean first."""
    order = sorted(one.rated, key=lambda each: each.value if one.fewer else -each.value)
    many = [sum(other.place == each.place for other in order) for each in order]
    return [
        [
            "" if k else f"{called} ({one.features})",
            names[each.run],
            f"{each.value:.2f}",
            f"[{each.low:.2f}, {each.high:.2f}]",
            "" if each.dealt is None else f"{each.dealt:.2f}",
            "" if (pair := one.to_best(each.run)) is None else f"{pair.adjusted:.2g}",
            f"{each.place}{'=' if shared > 1 else ''}",
        ]
        for k, (each, shared) in enumerate(zip(order, many, strict=True))
    ]
