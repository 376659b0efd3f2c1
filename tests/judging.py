"""Runs judged in tests, as they are written down, and rows with all their fields."""

from __future__ import annotations

from typing import Any

from dragoman.confidence.model import ConfidenceSet
from dragoman.embed import Embedder
from dragoman.scoring import JudgedRun, judge_run, run_evidence
from dragoman.scoring.confidence import confidence_scores
from dragoman.store import RunFolder


def judged(run: RunFolder, embedder: Embedder, **how: Any) -> dict[str, Any]:
    """The scores as they stand in ``scores.json``."""
    return judge_run(JudgedRun.of(run), embedder, **how).to_json()


def believed(run: RunFolder, embedder: Embedder, confidences: ConfidenceSet, **how: Any) -> dict[str, Any]:
    """The part "confidence" of them."""
    evidence = run_evidence(JudgedRun.of(run), embedder, **how)
    return confidence_scores(evidence, confidences, embedder.name).to_json()


def whole(row: dict[str, Any]) -> dict[str, Any]:
    """A row with every field that a run folder's have."""
    text = str(row["text"])
    bare = {"label": "", "kind": "feature", "raw": text, "problems": [], "tokens": len(text.split()) or 1}
    return {**bare, "log_probability": None, "card": None, **row}
