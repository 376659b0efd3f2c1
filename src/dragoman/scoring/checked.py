"""The body of ``dragoman confidence fit|recalibrate``: a run's evidence joined to the rows that somebody checked.

In: a run folder, a file of checked rows, by name a reconstructor, a set of confidences to recalibrate. Out: a set and
its reliability. Writes nothing. Refuses what its parts refuse.
"""

from __future__ import annotations

from pathlib import Path

from dragoman import tiny
from dragoman.confidence.checked import (
    Checked,
    Reliability,
    fit_checked,
    matched,
    read_checked,
    recalibrate_checked,
)
from dragoman.confidence.sets import ConfidenceSet
from dragoman.core import Refusal
from dragoman.dictionaries.beside import CONFIDENCE, beside
from dragoman.scoring.confidence import Say, confidence_set, run_evidence, set_beside
from dragoman.scoring.judged_run import JudgedRun
from dragoman.scoring.reconstruction import sought_directions
from dragoman.store import RunFolder


def fit_from(
    folder: RunFolder,
    checked: Path,
    *,
    ar: str | None = None,
    layout: str | None = None,
    dtype: str = "float32",
    device: str = "cpu",
    seed: int = 0,
    say: Say = lambda _text: None,
) -> tuple[ConfidenceSet, Reliability]:
    """Fit a confidence on a run's evidence and the rows of it that were checked; see ``confidence.checked``."""
    found = checked_evidence(folder, checked, ar=ar, layout=layout, dtype=dtype, device=device, say=say)
    run = JudgedRun.of(folder)
    made, reliability = fit_checked(found, fitted_on=f"{run.source} in the words of {run.target}", seed=seed)
    return _of_pair(made, run), reliability


def recalibrate_from(
    folder: RunFolder,
    checked: Path,
    confidence: str | Path | None,
    *,
    ar: str | None = None,
    layout: str | None = None,
    dtype: str = "float32",
    device: str = "cpu",
    seed: int = 0,
    say: Say = lambda _text: None,
) -> tuple[ConfidenceSet, Reliability]:
    """Recalibrate a file's confidences, or those beside the run's dictionary or the embedded one, on checked rows."""
    run = JudgedRun.of(folder)
    named = confidence_set(confidence, say) if confidence is not None else None
    base = named or set_beside(run) or _shipped()
    found = checked_evidence(folder, checked, ar=ar, layout=layout, dtype=dtype, device=device, say=say)
    made, reliability = recalibrate_checked(base, found, seed=seed)
    return _of_pair(made, run), reliability


def _shipped() -> ConfidenceSet:
    """The set beside the embedded dictionary."""
    try:
        path = beside(tiny.data("tiny-sae"), CONFIDENCE)
    except Refusal:
        path = None
    if path is None:
        raise Refusal("recalibrating", "no confidence ships here", "name a file with --confidence, or fit one")
    return ConfidenceSet.load(path)


def _of_pair(made: ConfidenceSet, run: JudgedRun) -> ConfidenceSet:
    """A set with the pair of sites that it was calibrated on."""
    return made.model_copy(update={"sites": (str(run.source), str(run.target))})


def checked_evidence(
    folder: RunFolder, checked: Path, *, ar: str | None, layout: str | None, dtype: str, device: str, say: Say
) -> Checked:
    """The checked rows of a run with everything known of them; the file is read before any model is opened."""
    from dragoman.models.embedder import SentenceEmbedder

    rows, run = read_checked(checked), JudgedRun.of(folder)
    bare = {condition: dict.fromkeys(by_feature, {}) for condition, by_feature in run.texts.items()}
    matched(rows, bare, run.claims, str(checked))  # refused before anything dear is done
    reconstructor = directions = None
    if ar is not None:
        from dragoman.models.reconstruct import Reconstructor

        reconstructor = Reconstructor.open(ar, layout=layout, dtype=dtype, device=device)
        directions = sought_directions(run, reconstructor.site)
    say("gathering what is known of each text")
    embedder = SentenceEmbedder(device=device)
    evidence = run_evidence(run, embedder, reconstructor=reconstructor, directions=directions)
    return matched(rows, evidence, run.claims, str(checked))
