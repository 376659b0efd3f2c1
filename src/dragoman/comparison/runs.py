"""Runs read to be compared, and whether they may be.

In: run folders, names of conditions. Out: ``Compared``: runs that were read, the conditions that go together, settings
in which they differ. Refuses unfinished runs, runs of other dictionaries, places or prompts, conditions a run does not
have, and runs of which no conditions go together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dragoman.comparison.records import Differing
from dragoman.core import Refusal, refuse_other_site
from dragoman.records import SOURCE_ROWS
from dragoman.report.opened import Manifest
from dragoman.report.words import SHOWN, in_order
from dragoman.scores import Scores
from dragoman.scoring.judged_run import JudgedRun
from dragoman.store import RunFolder
from dragoman.store.manifests import check_whole
from dragoman.store.runs import NULLS
from dragoman.store.scored import scores_of
from dragoman.store.spans import meant, shown

_TOLD = (
    "settings",
    "verbalizers",
    "digests",
    "seeds",
    "versions",
    "dragoman",
)  # of a manifest, what runs may differ in
_SAME = 1e-5  # of unit rows, read in one precision or another
_LONGEST = 60  # characters of a value
_FINISH = (
    "run the same rank --by again, or explain with nulls, to have these directions of nothing said to the end, or "
    "remove this folder to compare without them"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """A run and its scores, None where it was not scored; ``nulls``: the run in its folder of directions of nothing."""

    run: JudgedRun
    scores: Scores | None
    nulls: JudgedRun | None = None

    @classmethod
    def of(cls, folder: RunFolder) -> Compared:
        """Read a run.

        Raises:
            Refusal: it is not finished, or not as this version writes it.
        """
        where = folder.path / "manifest.json"
        check_whole(where, folder.manifest)
        Manifest.of(folder.manifest, f"{where}")  # what else stands there is refused as by every other command
        run, nulls = JudgedRun.of(folder), None
        run.refuse_unfinished()
        if (inside := folder.path / NULLS / "manifest.json").exists():
            nulls = JudgedRun.of(RunFolder.open(inside.parent))
            nulls.refuse_unfinished(_FINISH)
        return cls(run=run, scores=scores_of(folder), nulls=nulls)

    @property
    def manifest(self) -> Mapping[str, Any]:
        """How it was made."""
        return self.run.folder.manifest

    @property
    def name(self) -> str:
        """Where it is."""
        return f"{self.run.folder.path}"

    def texts(self, condition: str) -> Mapping[str, str]:
        """First samples by feature."""
        return self.run.texts[condition]

    @property
    def claims(self) -> list[str]:
        """Conditions that a claim is made of, in the order in which they stand side by side."""
        return in_order(self.run.claims, SHOWN)


def refuse_unlike(a: Compared, b: Compared, *, targets: bool) -> None:
    """Refuse runs whose features are not the same things; ``targets``: and those of another target.

    Raises:
        Refusal: as said, naming what differs.
    """
    refuse_other_site(f"{b.name}, of features", b.run.source, a.run.source)
    if targets:
        refuse_other_site(f"{b.name}, read", b.run.target, a.run.target)
    mine, theirs = _whose(a.manifest), _whose(b.manifest)
    if mine != theirs:
        why = f"one is of {mine[0]}, the other of {theirs[0]}"
        if mine[0] == theirs[0]:
            why = f"both are of {mine[0]}, but of different contents"
        raise Refusal(f"{a.name} beside {b.name}", why, "compare runs of one dictionary")
    _refuse_other_rows(a, b)
    _refuse_other_tokens(a, b)


def _whose(manifest: Mapping[str, Any]) -> tuple[str, object]:
    """What a run's features are of, as it is called, and what decides whether another run's are the same."""
    if prompts := manifest.get("prompts"):
        return "activations at prompts", ("prompts", prompts.get("digest"))
    dictionary = manifest.get("dictionary") or {}
    # Of one on the hub the digest is of the rows that were asked for, and the commit is in its place.
    return f"dictionary {shown(str(dictionary.get('ref', '(not told)')))}", dictionary.get("at") or dictionary.get(
        "digest"
    )


def _refuse_other_rows(a: Compared, b: Compared) -> None:
    """Refuse runs of one place that held other rows when each was made: a folder may change where it lies."""
    kept = [_rows(one) for one in (a, b)]
    for feature in sorted(kept[0].keys() & kept[1].keys()):
        mine, theirs = kept[0][feature], kept[1][feature]
        if mine.shape != theirs.shape or not np.allclose(mine, theirs, rtol=0, atol=_SAME):
            why = f"feature {shown(feature)} has another row of its dictionary in each"
            raise Refusal(f"{a.name} beside {b.name}", why, "compare runs of one dictionary")


def _rows(one: Compared) -> dict[str, NDArray[Any]]:
    """A run's own rows of its dictionary by feature, (d_source,) each; none where it keeps none."""
    if not one.run.folder.has_vectors:
        return {}
    kept, _ = one.run.folder.vectors()
    features = one.manifest.get("features") or ()
    return dict(zip(map(str, features), kept.get(SOURCE_ROWS, ()), strict=False))


def _refuse_other_tokens(a: Compared, b: Compared) -> None:
    tokens = [{row.feature: row.token for row in one.run.rows} for one in (a, b)]
    for feature, token in tokens[0].items():
        if feature in tokens[1] and tokens[1][feature] != token:
            why = f"{shown(feature)} is another token in each"
            raise Refusal(f"{a.name} beside {b.name}", why, "compare runs of the same prompts")


def paired_conditions(a: Compared, b: Compared, asked: Sequence[str] = ()) -> list[tuple[str, str]]:
    """Which condition of A stands beside which of B.

    Args:
        a: one run.
        b: the other.
        asked: names, ``NAME`` for both or ``NAME_A=NAME_B``; by default those that both have, else the only one of
            each.

    Raises:
        Refusal: a name that a run does not have, one said twice, or nothing that goes together.
    """
    if asked:
        pairs = [_named(word, a, b) for word in asked]
        if len(set(pairs)) < len(pairs):
            raise Refusal(f"condition {', '.join(asked)}", "one is named twice", "name each once")
        return pairs
    both = [name for name in a.claims if name in b.claims]
    if both:
        return [(name, name) for name in both]
    if len(a.claims) == len(b.claims) == 1:
        return [(a.claims[0], b.claims[0])]
    have = " and ".join(", ".join(one.claims) or "none" for one in (a, b))
    why = f"no condition is in both (they have {have})"
    raise Refusal(f"{a.name} beside {b.name}", why, "say which go together, --condition NAME_A=NAME_B")


def named_conditions(runs: Sequence[Compared], asked: Sequence[str] = ()) -> list[tuple[str, ...]]:
    """A condition of each run, as often as there are several: those asked for, or that all have, or the only ones.

    A run with a single one, such as that of a verbalizer of the dictionary's own stream, has it beside each that all
    the others have.

    Raises:
        Refusal: a run does not have one, or no condition is in all of them.
    """
    for name in asked:
        for one in runs:
            _refuse_unknown(name, one)
    both = list(dict.fromkeys(asked)) or [name for name in runs[0].claims if all(name in one.claims for one in runs)]
    if both:
        return [(name,) * len(runs) for name in both]
    if all(len(one.claims) == 1 for one in runs):
        return [tuple(one.claims[0] for one in runs)]
    if all(one.claims for one in runs):
        several = [one.claims for one in runs if len(one.claims) > 1]
        beside = [name for name in several[0] if all(name in claims for claims in several)]
        if beside:
            return [tuple(one.claims[0] if len(one.claims) == 1 else name for one in runs) for name in beside]
    have = "; ".join(", ".join(one.claims) or "none" for one in runs)
    raise Refusal("these runs", f"no condition is in all of them (they have {have})", "explain them alike")


def _refuse_unknown(name: str, one: Compared, otherwise: str = "name one of these") -> None:
    known = list(one.run.entries)
    if name not in known:
        have, instead = ", ".join(known), meant(name, known, otherwise)
        raise Refusal(f"condition '{shown(name)}' of {one.name}", f"it has {have}", instead)


def _named(word: str, a: Compared, b: Compared) -> tuple[str, str]:
    first, equals, second = word.partition("=")
    pair = (first, second if equals else first)
    for name, one in zip(pair, (a, b), strict=True):
        _refuse_unknown(name, one, "name one of these, or NAME_A=NAME_B")
    return pair


def shared_features(a: Compared, b: Compared, pair: tuple[str, str]) -> list[str]:
    """Features that both conditions have texts of, in A's order.

    Raises:
        Refusal: there are none.
    """
    there = b.texts(pair[1])
    both = [feature for feature in a.texts(pair[0]) if feature in there]
    if not both:
        raise Refusal(
            f"{pair[0]} of {a.name} beside {pair[1]} of {b.name}",
            "they have no feature in common",
            "explain the same features in both",
        )
    return both


def shared_topics(runs: Sequence[Compared], features: Sequence[str]) -> list[str] | None:
    """Categories that features cluster by, where any of the runs tells them; of several the fewest.

    Which run is named first decides nothing.
    """
    told = [found for one in runs if (found := one.run.groups(features)) is not None]
    return min(told, key=lambda found: (len(set(found)), found)) if told else None


def differing(a: Compared, b: Compared) -> tuple[Differing, ...]:
    """Settings, verbalizers, digests and versions in which two runs differ."""
    first, second = (
        dict(_flat({name: one.manifest[name] for name in _TOLD if name in one.manifest})) for one in (a, b)
    )
    names = [name for name in dict.fromkeys([*first, *second]) if first.get(name) != second.get(name)]
    return tuple(Differing(name=name, a=_short(first.get(name)), b=_short(second.get(name))) for name in names)


def _short(value: str | None) -> str | None:
    return None if value is None else shown(value, _LONGEST)


def _flat(told: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    """Every value of a manifest's part under a name of its own, as text."""
    for name, value in told.items():
        called = f"{before} {name}".strip().removeprefix("settings ")
        if isinstance(value, Mapping):
            yield from _flat(value, called)
        elif value is not None:
            yield called, value if isinstance(value, str) else repr(value)
