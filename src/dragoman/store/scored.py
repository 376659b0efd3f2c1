"""A run's scores in two parts: what they say of the run, and what of single features, a record at a time.

In: ``scores.json``. Out: ``Scores``, whole however large, or without single features, and records by part, condition
and feature; the same put together again for one feature. Refuses scores of another run or form.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from dragoman.core import Refusal
from dragoman.records import Record
from dragoman.scores import (
    FORMAT,
    FeatureClaims,
    FeatureConfidence,
    FeatureDetection,
    FeatureGenerated,
    FeatureMeasures,
    FeatureReadBack,
    FeatureScore,
    Scores,
)
from dragoman.store.files import refusing
from dragoman.store.runs import SCORES, WHOLE, RunFolder
from dragoman.store.streams import JsonStream, json_stream

# Parts that hold lists of records by condition: of the scores themselves, and of an object in them.
_LISTED: Mapping[str, type[Record]] = {
    "per_feature": FeatureScore,
    "claims": FeatureClaims,
    "generated": FeatureGenerated,
    "measured": FeatureMeasures,
}
_NESTED: Mapping[str, type[Record]] = {
    "confidence": FeatureConfidence,
    "reconstruction": FeatureReadBack,
    "detection": FeatureDetection,
    "context_labels": FeatureDetection,
}
KINDS = {**_LISTED, **_NESTED}

Keep = Callable[[str, str, Any], None]


def read_scores(path: Path, plan: str, keep: Keep) -> Scores:
    """What the scores say of the run; ``keep(part, condition, record)`` is told of every single feature.

    Raises:
        Refusal: they are of another run, or of another form than this version writes.
    """
    told = dict[str, object]()
    with json_stream(path) as stream:
        for key in stream.members():
            if key in _LISTED:
                told[key] = _lists(stream, key, keep)
            elif key in _NESTED and stream.holds() == "{":
                told[key] = {
                    name: _lists(stream, key, keep) if name == "per_feature" else stream.value()
                    for name in stream.members()
                }
            else:
                told[key] = stream.value()
    if told.pop("plan_digest", None) != plan:
        raise Refusal(f"{path}", "it does not hold this run's scores", "score the run again")
    return Scores.of(told, f"{path}")


def scores_of(run: RunFolder) -> Scores | None:
    """All of a run's scores, None where it was not scored; a file too large to be parsed in one go is read by records.

    Raises:
        Refusal: as `read_scores`.
    """
    path, found = run.path / SCORES, list[tuple[str, str, Record]]()
    with refusing("reading", path):
        large = path.exists() and path.stat().st_size > WHOLE
    if not large:
        told = run.scores
        return None if told is None else Scores.of(told, f"{path}")
    bare = read_scores(
        path, run.plan, lambda part, where, one: found.append((part, where, KINDS[part].of(one, f"{path}")))
    )
    return of_features(bare, found)


def _lists(stream: JsonStream, part: str, keep: Keep) -> dict[str, object]:
    for condition in stream.members():
        for _ in stream.items():
            keep(part, condition, stream.value())
    return {}


def of_features(scores: Scores, records: Iterable[tuple[str, str, Record]]) -> Scores:
    """The scores with these records of single features, by part and condition."""
    by: dict[str, dict[str, list[Record]]] = {part: {} for part in KINDS}
    for part, condition, record in records:
        by[part].setdefault(condition, []).append(record)
    whole = {part: {condition: tuple(some) for condition, some in found.items()} for part, found in by.items()}
    nested = {part: held for part in _NESTED if (held := getattr(scores, part)) is not None}
    update = {part: whole[part] for part in _LISTED if part in scores.model_fields_set}
    update |= {part: held.model_copy(update={"per_feature": whole[part]}) for part, held in nested.items()}
    return scores.model_copy(update=update)


def record_of(part: str, told: str, where: str) -> Record:
    """A record of a part from its JSON; refused where it is of another form."""
    return KINDS[part].read(told, where)


def nothing_scored() -> Scores:
    """Scores of a run that was not scored."""
    return Scores(format=FORMAT)
