"""The body of ``dragoman confidence fit|recalibrate``: a run's evidence joined to the rows that somebody checked.

In: a run folder, a file of checked rows, by name a reconstructor, a set of confidences to recalibrate. Out: a set and
its reliability. Writes nothing. Refuses what its parts refuse.
"""

from __future__ import annotations

from pathlib import Path

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
from dragoman.score.confidence import Say, confidence_set, run_evidence
from dragoman.score.judged_run import JudgedRun
from dragoman.score.reconstruction import open_reconstructor, sought_directions
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
    run = folder.manifest
    return fit_checked(found, fitted_on=f"{run['source']} in the words of {run['target']}", seed=seed)


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
    """Recalibrate a file's confidences, or those that ship, on the rows of a run that were checked."""
    base = confidence_set(confidence, say)
    if base is None:
        raise Refusal("recalibrating", "no confidence ships here", "name a file with --confidence, or fit one")
    found = checked_evidence(folder, checked, ar=ar, layout=layout, dtype=dtype, device=device, say=say)
    return recalibrate_checked(base, found, seed=seed)


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
        reconstructor = open_reconstructor(ar, layout=layout, dtype=dtype, device=device)
        directions = sought_directions(run, reconstructor.site)
    say("gathering what is known of each text")
    embedder = SentenceEmbedder(device=device)
    evidence = run_evidence(run, embedder, reconstructor=reconstructor, directions=directions)
    return matched(rows, evidence, run.claims, str(checked))
