"""A finished run scored: against natives, nulls, planted truth, contexts, a reconstructor; confidence; sentences."""

from dragoman.scoring.calibrated import calibration_of, check_confidence
from dragoman.scoring.claims import add_claims, claim_scores
from dragoman.scoring.confidence import confidence_set, run_evidence
from dragoman.scoring.judge import judge_run
from dragoman.scoring.judged_run import JudgedRun
from dragoman.scoring.reconstruction import (
    reconstruction_scores,
    sought_directions,
)
from dragoman.scoring.run import add_confidence, fit_from, recalibrate_from, score_run

__all__ = [
    "JudgedRun",
    "add_claims",
    "add_confidence",
    "calibration_of",
    "check_confidence",
    "claim_scores",
    "confidence_set",
    "fit_from",
    "judge_run",
    "recalibrate_from",
    "reconstruction_scores",
    "run_evidence",
    "score_run",
    "sought_directions",
]
