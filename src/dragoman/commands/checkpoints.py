"""``dragoman checkpoints``: what is published, and which verbalizer to take for a model.

In: a source model, by hub id, site or Neuronpedia id, or nothing. Out: a table or a ranked list on stdout, JSON when
asked for. Refuses Neuronpedia ids of models it does not know.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Annotated

import typer

from dragoman.commands.printing import console, put_json, styled, tell, with_schema
from dragoman.commands.tables import show_table
from dragoman.commands.words import named
from dragoman.core import Refusal
from dragoman.store.spans import meant

if TYPE_CHECKING:
    from dragoman.verbalizers.registry import Checkpoint, Recommendation

FOOT = (
    "role: av puts vectors into words, ar turns words back into vectors, a pair holds both, a map carries vectors. "
    "block: whose output it reads, counted from 0. contract: how its vector is fed. quality: the first figure at first "
    "hand, on texts of each maker's choosing; compare within a block only. layout: how well it is known how the "
    "checkpoint wants to be fed; what is not confirmed is refused until you name the contract. * stands for any name. "
    "Next: dragoman checkpoints --for MODEL:BLOCK recommends, and says why."
)
SHOWN = 8


def checkpoints(
    source: Annotated[
        str | None,
        typer.Option(
            "--for",
            callback=named,
            metavar="MODEL",
            help="Recommend for features of MODEL, MODEL:BLOCK, or a Neuronpedia id or address.",
        ),
    ] = None,
    width: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, max=10**6, help="Width of that model's stream: leaves out namesakes of another width."
        ),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help=f"All recommendations, not only the first {SHOWN}.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Records on stdout as one JSON array.")] = False,
) -> None:
    """List published verbalizers and reconstructors, or recommend a verbalizer for a model's features."""
    from dragoman.verbalizers import registry
    from dragoman.verbalizers.known import is_known

    if source is None:
        listed = registry.checkpoints()
        if as_json:
            put_json([with_schema("checkpoint", told(c)) for c in listed], indent=2)
        else:
            show_checkpoints(listed)
        return
    asked = place(source)
    if not is_known(asked):
        tell_unknown(asked)
    ranked = registry.recommend(asked, width)
    found = ranked if every else ranked[:SHOWN]
    if as_json:
        told_of = [{"rank": n, **recommended(r)} for n, r in enumerate(found, 1)]
        put_json([with_schema("recommendation", one) for one in told_of], indent=2)
    else:
        show_recommended(source, found, len(ranked))


def place(source: str) -> str:
    """A source in the registry's words: Neuronpedia ids and addresses become the hub's model and the block."""
    from dragoman.neuronpedia.ids import is_reference, parse

    return str(parse(source).site) if is_reference(source) else source


def tell_unknown(source: str) -> None:
    """Say that nothing was made for a model; refuse what is no model's name at all.

    Raises:
        Refusal: neither ORG/NAME nor a name that any checkpoint or family has.
    """
    from dragoman.verbalizers.known import models

    likely = meant(re.sub(r":\d+$", "", source), models(), "")
    if "/" not in source:
        raise Refusal(f"model '{source[:80]}'", "no checkpoint knows it", likely or "write its hub id, ORG/NAME")
    also = f" ({likely}?)" if likely else ""
    tell(f"no checkpoint was made for {source} or its family{also}; these read other models, reached by a map")


def told(c: Checkpoint) -> dict[str, object]:
    """A record as JSON, with what is derived from it."""
    saes = [{**s.model_dump(), "refs": list(s.refs), "distance": c.distance(s)} for s in c.saes]
    return {**c.model_dump(mode="json"), "usable": c.usable, "gigabytes": c.gigabytes, "saes": saes}


def recommended(r: Recommendation) -> dict[str, object]:
    """A recommendation as JSON."""
    return {"relation": r.relation, "reason": r.reason, "usable": r.usable, "checkpoint": told(r.checkpoint)}


def show_checkpoints(listed: Iterable[Checkpoint]) -> None:
    """One table a base model, in the registry's order."""
    from rich.text import Text

    out = console()
    for base, group in groupby(sorted_by_base(listed), key=lambda c: c.base):
        members = list(group)
        facts = [f"{n} blocks" for n in {c.n_blocks for c in members} if n]
        facts += [f"width {d}" for d in {c.d_model for c in members} if d]
        rows = [(c.id, c.role, c.where.partition("/")[0], c.contract, figure(c), c.mark) for c in members]
        title = base + (f"  ({', '.join(facts)})" if facts else "")
        show_table(title, ("checkpoint", "role", "block", "contract", "quality", "layout"), rows, words=6, out=out)
        out.print()
    out.print(Text(textwrap.fill(FOOT, out.width), style="dim"))


def sorted_by_base(listed: Iterable[Checkpoint]) -> list[Checkpoint]:
    """Bases in the order they first come, everything of one base together."""
    rows = list(listed)
    order = {base: n for n, base in reversed(list(enumerate(c.base for c in rows)))}
    return sorted(rows, key=lambda c: order[c.base])


def figure(c: Checkpoint) -> str:
    """``FVE 0.748``, preferring somebody else's measurement."""
    firsthand = [q for q in c.quality if not q.second_hand]
    if not firsthand:
        return ""
    best = max(firsthand, key=lambda q: not q.own)
    return f"{best.metric.split(' ')[0].rstrip(',')} {best.value:g}"


def show_recommended(source: str, found: Sequence[Recommendation], known: int) -> None:
    """A numbered list: checkpoint, why, its reconstructor; the model's dictionaries near those blocks; what next."""
    from rich.text import Text

    out = console()
    out.print(styled(f"verbalizers for {source}, best first", style="bold"))
    for n, r in enumerate(found, 1):
        c = r.checkpoint
        head = Text(f"{n:2d}. ")
        head.append(c.ref, style="bold" if r.usable else "dim")
        head.append(f"  {c.contract}")
        out.print(head)
        several = "stands for several checkpoints: name one of them" if "*" in c.ref else ""
        said = [several, r.reason, c.note, f"reconstructor: {c.reader_ref}" if c.reader_ref and r.usable else ""]
        for text in filter(None, said):
            out.print(Text(indented(text, out.width)), soft_wrap=True)
    saes = {s.refs[0]: s for r in found if r.relation in ("native", "other tuning") for s in r.checkpoint.saes}
    if saes:
        out.print(Text("its dictionaries near these blocks", style="bold"))
    for ref, sae in sorted(saes.items(), key=lambda pair: -pair[1].block):
        seen = f" (np:{sae.neuronpedia})" if sae.neuronpedia else ""
        out.print(Text(indented(f"block {sae.block}: {ref}{seen}", out.width)), soft_wrap=True)
        if sae.note:
            out.print(Text(indented(sae.note, out.width)), soft_wrap=True)
    rest = f"The first {len(found)} of {known}; --all shows the others. " if len(found) < known else ""
    advice = f"{rest}Next: dragoman explain DICTIONARY --by ID, with the id of one of these."
    out.print(Text(textwrap.fill(advice, out.width), style="dim"))


def indented(text: str, width: int) -> str:
    """A paragraph four columns in, references never broken."""
    return textwrap.fill(
        text, width, initial_indent="    ", subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
    )
