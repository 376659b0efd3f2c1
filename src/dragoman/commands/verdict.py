"""Which texts of a run to believe, and a few of its features with their texts side by side.

In: rows with what was judged of them (``show.with_scores``), the manifest, scores. Out: lines on stdout. Refuses rows
and manifests of another form. Computes no number but counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

from dragoman.commands.printing import console, styled

if TYPE_CHECKING:
    from dragoman.report.opened import Manifest
    from dragoman.scores import Scores

    Json = Mapping[str, object]

TOLD = 8  # features named in one sentence
# How many of a feature's texts name the topic of its documents, from all to none.
_KINDS = ("both name it", "one of them names it", "its one text names it", "none names it")
_GAP = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Belief:
    """What speaks for one text: its name, and whether it is borne out, in part, or not; None where nothing tells.

    ``calibrated``: a sentence of it has a probability, and it holds where one has an answer.
    """

    feature: str
    reading: str
    chance: float | None
    holds: bool | None
    calibrated: bool = False


def beliefs(rows: Sequence[Json], manifest: Json) -> list[Belief]:
    """One for each feature and condition: by its confidence, else by whether any sentence of it is supported.

    Texts that an unusable map carried are left out: none of them is to be believed.
    """
    from dragoman.records import UNUSABLE_MAP
    from dragoman.report.opened import entries_of
    from dragoman.report.words import title

    controls = {entry.name for entry in entries_of(manifest, "the manifest") if entry.is_null}
    found = []
    for row in rows:
        condition = str(row["condition"])
        problems = row.get("problems")
        carried_by_none = isinstance(problems, Sequence) and UNUSABLE_MAP in problems
        if row["sample"] != 0 or condition in controls or carried_by_none:
            continue
        confidence, claims = row.get("confidence"), row.get("claims")
        chance, holds, calibrated = None, None, False
        if isinstance(confidence, Mapping):
            chance, holds = float(confidence["probability"]), bool(confidence["answered"])
        elif isinstance(claims, Sequence) and not isinstance(claims, str):
            some = [one for one in claims if isinstance(one, Mapping)]
            calibrated = any(one.get("probability") is not None for one in some)
            if calibrated or not some or any(one.get("status") != "unchecked" for one in some):
                holds = any(one.get("answered") if calibrated else one.get("status") == "supported" for one in some)
        belief = Belief(
            feature=str(row["feature"]), reading=title(condition), chance=chance, holds=holds, calibrated=calibrated
        )
        found.append(belief)
    return found


def believed(rows: Sequence[Json], manifest: Json) -> list[str]:
    """Sentences that say which texts to believe, and by what.

    ``rows``: as `show.with_scores` makes them. The first sentence is about the map where that is unusable.
    """
    from dragoman.report.opened import Manifest

    made, told = [], Manifest.of(manifest, "the manifest")
    if told.distrust:
        made.append(told.distrust)
    judged = beliefs(rows, manifest)
    if any(one.chance is not None for one in judged):
        made += _by_confidence([one for one in judged if one.chance is not None])
    elif any(one.holds is not None for one in judged):
        made += _by_claims(judged)
    elif judged:
        made.append("Nothing here was checked against where the features fire; take every text for a guess.")
    return made


def _by_confidence(judged: Sequence[Belief]) -> list[str]:
    sure, doubtful = [one for one in judged if one.holds], [one for one in judged if not one.holds]
    made = []
    if sure:
        made.append(f"Believe {_share(sure, judged)}: {_named(sure)}.")
    if doubtful:
        made.append(f"Do not believe {_share(doubtful, judged)}, on which dragoman abstains: {_named(doubtful)}.")
    return made


def _by_claims(judged: Sequence[Belief]) -> list[str]:
    some = [one for one in judged if one.holds]
    if not some and any(one.calibrated for one in judged):
        return ["Believe no sentence: none has an answer."]
    if not some:
        return ["Believe no sentence: none is borne out where its feature fires."]
    if any(one.calibrated for one in judged):
        answered = f"Believe of {_share(some, judged)} the sentences whose P has an answer: {_named(some)}."
        return [f"{answered} Of all others nothing is answered."]
    return [
        f"Believe of {_share(some, judged)} the sentences without a mark, which are borne out where the feature "
        f"fires: {_named(some)}. No confidence is calibrated for these models."
    ]


def _share(some: Sequence[Belief], judged: Sequence[Belief]) -> str:
    return f"{len(some)} of {len(judged)} texts" if len(judged) != 1 else "this text"


def _named(some: Sequence[Belief]) -> str:
    """``4497 fires on (0.93), writes (0.92); 16 ...``, so many features."""
    by: dict[str, list[str]] = {}
    for one in some:
        by.setdefault(one.feature, []).append(one.reading + (f" ({one.chance:.2f})" if one.chance is not None else ""))
    first = [f"{feature} {', '.join(readings)}" for feature, readings in list(by.items())[:TOLD]]
    more = f"; and {len(by) - TOLD} features more" if len(by) > TOLD else ""
    return "; ".join(first) + more


def show_believed(rows: Sequence[Json], manifest: Json, run: Path | None) -> None:
    """The sentences, what a confidence rests on, and the next command where a run is named."""
    out, told = console(), believed(rows, manifest)
    for line in told:
        out.print(styled(line, "bold"))
    if any("confidence" in row for row in rows):
        from dragoman.report.tables import GUESS

        out.print(styled(f"A confidence is as good as what it was fitted on; {GUESS}.", "dim"))
    if run is not None:
        out.print(styled(f"next: {next_after(rows, manifest, run)}"), soft_wrap=True)


def next_after(rows: Sequence[Json], manifest: Json, run: Path) -> str:
    """The command to type next: a score, by a reconstructor where a run holds nothing to be judged by."""
    from dragoman.report.opened import entries_of

    native = any(entry.role == "native" for entry in entries_of(manifest, "the manifest"))
    judged = native or manifest.get("feature_info") or any("claims" in row for row in rows)
    return f"dragoman score {run}" + ("" if judged else " --ar AR")


# --- the demo's end ---------------------------------------------------------------------------------------------------


def three(scores: Scores, manifest: Manifest, readings: Mapping[str, str]) -> list[tuple[str, str]]:
    """Three features, one of each kind where there is one: both readings name the topic, one does, none does.

    The first of its kind in the run's own order, so nobody picks them. ``readings``: title -> condition.
    """
    named: dict[str, dict[str, bool]] = {}
    for condition in readings.values():
        for one in scores.per_feature.get(condition, ()):
            if one.names_category is not None:
                named.setdefault(one.feature, {})[condition] = one.names_category
    order = [name for name in manifest.feature_info if name in named]
    kinds = [(name, _kind(named[name], len(readings))) for name in order]
    first = [next((one for one in kinds if one[1] == word), None) for word in (_KINDS[0], _KINDS[1], _KINDS[3])]
    chosen = [one for one in first if one is not None]
    return (chosen + [one for one in kinds if one not in chosen])[:3]


def _kind(found: Mapping[str, bool], readings: int) -> str:
    if len(found) < readings:
        return _KINDS[2] if any(found.values()) else _KINDS[3]
    return _KINDS[0] if all(found.values()) else _KINDS[1] if any(found.values()) else _KINDS[3]


def show_three(rows: Sequence[Json], scores: Scores, manifest: Manifest, readings: Mapping[str, str]) -> None:
    """Those features, what each text says in a column of its own, and the topic of the documents they fire in."""
    texts = {(str(r["feature"]), str(r["condition"])): str(r["text"]) for r in rows if r["sample"] == 0}
    out = console()
    for feature, kind in three(scores, manifest, readings):
        info = manifest.feature_info[feature]
        topic = f"{info.category}: {info.topic}" if info.topic else info.category
        out.print(styled(f"feature {feature}", "bold"), styled(f"fires in documents about {topic}; {kind}", "dim"))
        columns = [
            (title, texts.get((feature, condition), "it fires too rarely for this reading"))
            for title, condition in readings.items()
        ]
        for line in beside(columns, out.width):
            out.print(styled(line), soft_wrap=True)
        out.print()


def beside(columns: Sequence[tuple[str, str]], width: int) -> list[str]:
    """Texts side by side under their titles as lines of at most ``width`` columns, broken between words."""
    from rich.cells import cell_len

    own = (width - _GAP * (len(columns) - 1)) // len(columns)
    cells = [[title, *_wrapped(text, own)] for title, text in columns]
    lines = []
    for parts in zip_longest(*cells, fillvalue=""):
        padded = [part + " " * (own - cell_len(part)) for part in parts]
        lines.append((" " * _GAP).join(padded).rstrip())
    return lines


def _wrapped(text: str, width: int) -> list[str]:
    """A text's lines, each sentence where it stands, its blank lines left out."""
    from rich.text import Text

    measure = console(width=width)
    lines = [line for part in text.split("\n") if part.strip() for line in Text(part.strip()).wrap(measure, width)]
    return [line.plain.rstrip() for line in lines]


def show_demo_verdict(scores: Scores, readings: Mapping[str, str]) -> None:
    """One sentence on what the experiment found."""
    rates = {row.condition: row.category for row in scores.table if row.category is not None}
    own = [(title, rates[condition]) for title, condition in readings.items() if condition in rates]
    parts = [f"“{title}” {round(rate.value * rate.n)} of {rate.n}" for title, rate in own]
    random = next((rate.random for _, rate in own if rate.random is not None), None)
    if random is not None:
        parts.append(f"random directions {random:.0%}")
    said = f"Texts that name the topic of the documents a feature fires in: {', '.join(parts)}."
    console().print(styled(said if parts else "Nothing told which texts name their feature's topic.", "bold"))
