"""One calibrated probability for every explanation of a run, before anybody checks it.

In: a run, an embedder, a set of confidences, perhaps a reconstructor. Out: evidence, the part "confidence" of the
scores, and sets: a file's, or the one beside the run's dictionary. Refuses what reading texts back refuses, and a named
file that holds anything else. Nothing here knows an answer: no native text, no planted category, no label.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dragoman.confidence.evidence import Evidence, ReadBack, gather_evidence
from dragoman.confidence.model import ConfidenceSet, Member, Prediction
from dragoman.core import Directions, Floats, Refusal, refuse_other_site
from dragoman.dictionaries.beside import CONFIDENCE, beside, place_of
from dragoman.embed import Embedder
from dragoman.records import Row
from dragoman.scores import ConfidenceScores, FeatureConfidence, MemberReport, Reason
from dragoman.scoring.by_windows import embedded_contexts
from dragoman.scoring.judged_run import BLOCK, EMPTY, CachedEmbedder, JudgedRun, blocks_of
from dragoman.stats.reconstruct import mean_output

if TYPE_CHECKING:
    from dragoman.models.reconstruct import Reconstructor

MANY = 30  # different texts that show a verbalizer's manner, which is then taken off before detection
CENTRED = 10  # different texts that show what all of them share; with fewer, a reconstruction cannot be centred
Say = Callable[[str], None]
Doubles = NDArray[np.float64]


def run_evidence(
    run: JudgedRun,
    embedder: Embedder,
    *,
    reconstructor: Reconstructor | None = None,
    directions: Directions | Mapping[str, Directions] | None = None,
    seed: int = 0,
) -> dict[str, dict[str, Evidence]]:
    """Condition -> feature -> evidence on its first sample.

    Args:
        run: its contexts, if it has some, give ``detection`` and its kin.
        embedder: places the texts.
        reconstructor: at the target it gives ``reconstruction``, at the source ``reconstruction_source``, where there
            are ten different texts or more, on whose mean they are centred.
        directions: what it should find, at its site, as for ``judge_run``; the ranks are among these.
        seed: draws the features, of a run of many, whose texts are centred on and whose directions ranks are among.
    """
    few, bare = run.compared(seed), embedder
    embedder, many = CachedEmbedder(bare), run.many
    contexts = None if many else embedded_contexts(run.contexts, embedder)
    drawn = _by_condition(few.rows)
    distinct = list(dict.fromkeys(_text(r) for rows in drawn.values() for r in rows if r.sample == 0))
    outputs: dict[str, Floats] = {}
    if reconstructor is not None and directions is not None and len(distinct) >= CENTRED:
        outputs = dict(zip(distinct, reconstructor.reconstruct(distinct), strict=True))
    usual = embedder.encode(distinct).mean(axis=0) if len(distinct) >= MANY else None
    mean = mean_output(np.stack(list(outputs.values()))) if outputs else None
    found: dict[str, dict[str, Evidence]] = {}
    for condition, every in _by_condition(run.rows).items():
        found[condition] = {}
        for rows in _blocks(every) if many else [every]:
            back = None
            if reconstructor is not None and mean is not None:
                sought = directions if isinstance(directions, Directions) else (directions or {}).get(condition)
                rivals = few.texts.get(condition) if many else None
                back = _read_back(rows, outputs, mean, sought, rivals, reconstructor, run)
            here = contexts
            if here is None:
                embedder = CachedEmbedder(bare)
                watched = {r.feature: run.contexts[r.feature] for r in rows if r.feature in run.contexts}
                here = embedded_contexts(watched, embedder)
            texts = embedder.encode([_text(row) for row in rows])
            found[condition] |= gather_evidence(rows, texts, read_back=back, contexts=here, usual=usual)
    return found


def _by_condition(rows: Iterable[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row.condition, []).append(row)
    return found


def _blocks(rows: Sequence[Row]) -> Iterator[list[Row]]:
    """The rows of one condition, all samples of so many features at a time."""
    by_feature: dict[str, list[Row]] = {}
    for row in rows:
        by_feature.setdefault(row.feature, []).append(row)
    for some in blocks_of(list(by_feature), BLOCK):
        yield [row for feature in some for row in by_feature[feature]]


def confidence_scores(
    evidence: Mapping[str, Mapping[str, Evidence]], confidences: ConfidenceSet, embedder: str
) -> ConfidenceScores:
    """Judge every explanation by the first member whose evidence is there.

    A feature for which no member applies is left out, and so is its condition where that is so of all.

    Args:
        evidence: of `run_evidence`.
        confidences: the set.
        embedder: name of the one that placed the texts, which should be the one the set was fitted with.
    """
    per_feature: dict[str, tuple[FeatureConfidence, ...]] = {}
    for condition, by_feature in evidence.items():
        predictions = zip(by_feature, confidences.predict(list(by_feature.values())), strict=True)
        rows = tuple(_row(feature, one) for feature, one in predictions if one is not None)
        if rows:
            per_feature[condition] = rows
    used = {row.member for rows in per_feature.values() for row in rows}
    members = {member.name: _report(member) for member in confidences.members if member.name in used}
    return ConfidenceScores(embedder=embedder, members=members, per_feature=per_feature)


def confidence_set(
    path: str | Path | None, say: Say = lambda _text: None, run: JudgedRun | None = None
) -> ConfidenceSet | None:
    """The set of a file, or the one beside the run's dictionary if it was calibrated on the run's pair; else None.

    A confident label on models that nobody calibrated it on would be the worst there is, so it takes a file, named.

    Raises:
        Refusal: a named file is not there, any file holds something else, or the one beside names no pair of sites.
    """
    pair = None if run is None else (run.source, run.target)
    if path is not None:
        named = ConfidenceSet.load(Path(path))
        if pair is not None and named.pair not in (None, pair):
            say(f"{path} was calibrated on other models: its confidences are a guess until you have checked some")
        return named
    lying = None if run is None else set_beside(run)
    if run is None or lying is None:
        say("no confidence: none lies beside the dictionary; --confidence names a file")
        return None
    if lying.pair != pair:
        told = "; ".join(lying.sites or ())
        say(f"no confidence: the one beside the dictionary was calibrated on {told}; --confidence names a file")
        return None
    return lying


def set_beside(run: JudgedRun) -> ConfidenceSet | None:
    """The set that lies beside the run's dictionary on this machine, of whatever pair; None where none does.

    Raises:
        Refusal: the file holds something else, or names no pair of sites.
    """
    where = place_of(run.folder.manifest.get("dictionary") or {})
    path = beside(where, CONFIDENCE) if where is not None else None
    if path is None:
        return None
    found = ConfidenceSet.load(path)
    if found.sites is None:
        raise Refusal(f"{path}", "it names no pair of sites that it was calibrated on", 'add "sites": [SOURCE, TARGET]')
    return found


def _text(row: Row) -> str:
    return row.text.strip() or EMPTY


def _row(feature: str, one: Prediction) -> FeatureConfidence:
    why = tuple(Reason(evidence=name, adds=adds) for name, adds in one.why.items())
    return FeatureConfidence(
        feature=feature, probability=one.probability, answered=one.answered, member=one.member, why=why
    )


def _report(member: Member) -> MemberReport:
    confidence = member.confidence
    fitted = {key: confidence.report.get(key) for key in ("fitted_on", "n", "right")}
    return MemberReport(needs=member.needs, reads=confidence.names, threshold=confidence.threshold, **fitted)


def _read_back(
    rows: Sequence[Row],
    outputs: Mapping[str, Floats],
    mean: Doubles,
    sought: Directions | None,
    rivals: Iterable[str] | None,
    reconstructor: Reconstructor,
    run: JudgedRun,
) -> dict[str, ReadBack] | None:
    """The evidence of texts of one condition read back, under the name of the reconstructor's place.

    ``outputs``: of texts that were read before; ``rivals``: ids of those that ranks are among, all when None.
    """
    if sought is None:
        return None
    site, source = reconstructor.site, run.source
    refuse_other_site("directions", sought.site, site)
    new = list(dict.fromkeys(t for row in rows if row.sample == 0 and (t := _text(row)) not in outputs))
    read = {**outputs, **dict(zip(new, reconstructor.reconstruct(new), strict=True))} if new else outputs
    unread = np.full_like(next(iter(read.values())), np.nan)  # of later samples, which nobody asks for
    own = np.stack([read[_text(row)] if row.sample == 0 else unread for row in rows])
    there = set(sought.ids)
    among = sought if rivals is None else sought.pick(f for f in rivals if f in there)
    back = ReadBack(outputs=own, mean=mean, sought=sought, rivals=among)
    at_home = (site.model, site.block) == (source.model, source.block)
    return {"reconstruction_source" if at_home else "reconstruction": back}
