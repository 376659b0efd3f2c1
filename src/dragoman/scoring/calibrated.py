"""A run's sentences, each with its chance by a calibration of the same pair, dictionary, verbalizer and route.

In: a run whose sentences were checked, a calibration's file, an embedder. Out: the same claims with probabilities.
Refuses what a calibration refuses: another pair, dictionary, verbalizer, route, washout or way of saying.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dragoman.confidence.calibration import MADE, Calibration, RunIdentity, is_calibration
from dragoman.confidence.model import ConfidenceSet
from dragoman.core import Refusal
from dragoman.dictionaries.layout import VECTORS
from dragoman.embed import Embedder
from dragoman.measures.claims import claims_of
from dragoman.records import Row
from dragoman.scores import CalibrationSummary, ClaimStatus, FeatureClaims, NoAnswer
from dragoman.scoring.claims import known_windows
from dragoman.scoring.judged_run import CachedEmbedder, JudgedRun
from dragoman.scoring.sentences import Reference, TextInContext, sentence_evidence
from dragoman.store import read_json
from dragoman.store.spans import shown

Claims = Mapping[str, tuple[FeatureClaims, ...]]
_NOWHERE = "a vector without an encoder fires nowhere that it could be checked by"


def calibration_of(path: str | Path | None) -> Calibration | None:
    """The calibration that a file holds; None where none is named, or the file says it is something else.

    Raises:
        Refusal: it is not there, of another version, or damaged.
    """
    if path is None or not is_calibration(read_json(Path(path))):
        return None
    return Calibration.load(Path(path))


def check_confidence(path: str | Path) -> None:
    """Refuse a file that holds neither a calibration nor a set of confidences."""
    if calibration_of(path) is None:
        ConfidenceSet.load(Path(path))


def refuse_another_run(calibration: Calibration, run: JudgedRun, path: str | Path, embedder: str) -> None:
    """Refuse a run, or an embedder, that the calibration is not of.

    Raises:
        Refusal: naming what differs, or that the run does not say it.
    """
    calibration.refuse_another(identity_of_run(run), str(path))
    said = {feature for condition in run.claims for feature in run.texts[condition]}
    firing = {name: known for name, known in run.contexts.items() if name in said and known["firing"]}
    bare = next((name for name, known in firing.items() if "along_row" not in known), None)
    if calibration.learnt is not None and bare is not None:
        why = f"it does not tell how feature {shown(bare)} stands out along its row, by which this calibration answers"
        raise Refusal(f"{run.folder.path}", why, "explain anew with this version, or leave --confidence out")
    if embedder != calibration.embedder:
        why = f"its evidence was placed by {calibration.embedder}, and {embedder} is here"
        raise Refusal(f"{path}", why, "calibrate again")


def identity_of_run(run: JudgedRun) -> RunIdentity:
    """What a run is of, as calibrations tell it.

    Raises:
        Refusal: its manifest does not say.
    """
    manifest = run.folder.manifest
    settings, dictionary = manifest.get("settings") or {}, manifest.get("dictionary") or {}
    own = [run.entries[name] for name in run.claims]
    try:
        told: dict[str, Any] = {
            "source": str(run.source),
            "target": str(run.target),
            "dictionary": "" if dictionary.get("layout") == VECTORS else dictionary.get("at") or dictionary["digest"],
            "verbalizer": manifest["verbalizers"]["by"],
            "map": settings["map"],
            "routes": tuple(sorted({entry.route or "" for entry in own})),
            "washout": settings["washout"],
            **{name: settings[name] for name in ("samples", "temperature", "max_new_tokens")},
        }
    except (KeyError, TypeError) as error:
        why = "its manifest does not tell how it was made"
        raise Refusal(f"a calibration for {run.folder.path}", why, "explain anew, or leave --confidence out") from error
    return RunIdentity.of(told, str(run.folder.path))


def calibrated_claims(run: JudgedRun, calibration: Calibration, claims: Claims, embedder: Embedder) -> dict[str, Any]:
    """Scores' parts: ``claims`` with a probability for each sentence that is judged, and ``calibration`` in words.

    Of vectors without an encoder no sentence was checked, and all are judged.
    """
    claims = _unchecked(run) if calibration.on == MADE else claims
    reference = Reference(sentences=calibration.sentences, embedder=CachedEmbedder(embedder))
    rows = {(row.condition, row.feature): row for row in run.rows if row.sample == 0}
    lens = run.folder.lens or {}
    made: dict[str, tuple[FeatureClaims, ...]] = {}
    for condition, some in claims.items():
        told = (_known(run, condition, one.feature, rows, lens) for one in some)
        made[condition] = tuple(
            _with_chances(one, of, calibration, reference) for one, of in zip(some, told, strict=True)
        )
    line = CalibrationSummary(told=calibration.told, line=calibration.line, on=calibration.on, when=calibration.when)
    return {"claims": made, "calibration": line}


def _unchecked(run: JudgedRun) -> Claims:
    """The sentences of a run's texts, none of them checked."""
    found: dict[str, tuple[FeatureClaims, ...]] = {}
    for condition in run.claims:
        rows = []
        for feature, text in run.texts[condition].items():
            told = (
                ClaimStatus(sentence=one.text, kind=one.kind, status="unchecked", why=_NOWHERE, quoted=one.quoted)
                for one in claims_of(text)
            )
            rows.append(FeatureClaims(feature=feature, label="", claims=tuple(told)))
        found[condition] = tuple(rows)
    return found


def _known(
    run: JudgedRun, condition: str, feature: str, rows: Mapping[tuple[str, str], Row], lens: Mapping[str, Any]
) -> TextInContext | None:
    """A text with what the run knows around it; None of a condition that no claim is made of."""
    row, entry = rows.get((condition, feature)), run.entries.get(condition)
    if row is None or entry is None or condition not in run.claims:
        return None
    known, written = run.contexts.get(feature), lens.get(condition, {}).get(feature)
    windows = None if known is None else known_windows(known)
    readings = {name: run.entries[name].reading for name in run.claims}
    pair = next(
        (n for n, r in readings.items() if r is not None and entry.reading is not None and r != entry.reading), ""
    )
    other = rows.get((pair, feature))
    return TextInContext(
        row=row, reading=entry.reading, windows=windows, other="" if other is None else other.text,
        lens=None if written is None else (written["source"], written["carried"]),
    )  # fmt: skip


def _with_chances(
    one: FeatureClaims, text: TextInContext | None, calibration: Calibration, reference: Reference
) -> FeatureClaims:
    if text is None or (text.windows is None and calibration.on != MADE):
        return one
    chances = calibration.predict(sentence_evidence(text, reference))
    claims: list[ClaimStatus] = list(one.claims)
    for k, chance in enumerate(chances[: len(claims)]):
        if chance.probability is not None:
            more: dict[str, Any] = {"probability": round(chance.probability, 4), "answered": chance.answered}
            if chance.unanswered is not None:
                figures = {**claims[k].figures, **_held_against(calibration, chance.unanswered)}
                more |= {"unanswered": chance.unanswered, "figures": figures}
            claims[k] = claims[k].model_copy(update=more)
    return one.model_copy(update={"claims": tuple(claims)})


def _held_against(calibration: Calibration, why: NoAnswer) -> dict[str, float]:
    """The number that tells how far a sentence without an answer is from one, where there is one."""
    if why == "below the line" and calibration.line is not None:
        return {"answer_line": round(calibration.line, 4)}
    if why == "row does not stand out" and calibration.learnt is not None:
        return {"fakes_stand_out": round(calibration.learnt.fakes, 4)}
    return {}
