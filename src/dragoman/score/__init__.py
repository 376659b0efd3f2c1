"""How far to trust the words: lift over every null, planted truth, detection, and one calibrated confidence.

Features are the unit of analysis, never samples; every result is an ``Estimate`` that names its null, or has
``to_dict``.
"""

from dragoman.score.calibration import (
    Bin,
    bins_of,
    brier_estimate,
    brier_parts,
    calibration_error,
    ece_estimate,
    reliability_curve,
)
from dragoman.score.ceiling import ceiling_estimate, share_of_ceiling
from dragoman.score.confidence import Confidence, platt
from dragoman.score.contexts import (
    FiringTopic,
    firing_topic,
    nameable,
    named_estimate,
    naming_table,
    token_table,
    topic_estimates,
)
from dragoman.score.detection import (
    Contexts,
    Detected,
    detection_estimate,
    detection_per_feature,
    detection_table,
    length_matched,
)
from dragoman.score.evidence import SIGNS, Evidence, evidence, percentiles, sample_agreement
from dragoman.score.fallback import Fallbacks
from dragoman.score.intervals import (
    clustered_interval,
    mean_estimate,
    rate_interval,
    t_interval,
    two_way_interval,
    wilson_interval,
)
from dragoman.score.kits import Judged, Kit, Kits
from dragoman.score.lift import (
    doubly_centred,
    doubly_centred_lift,
    lift_estimate,
    lift_over_random,
    lift_per_feature,
    paired_difference,
    permutation_moments,
    permutation_p,
    similarity,
)
from dragoman.score.logistic import expit, fit_logistic, fit_signed, log_loss
from dragoman.score.multiple import Adjusted, adjust, benjamini_hochberg, holm
from dragoman.score.nulls import NULLS, Against, against_each, against_others, against_texts, feature_p
from dragoman.score.outcomes import Outcomes
from dragoman.score.planted import accuracy_estimate, first_named, names_category
from dragoman.score.power import Needed, detectable, features_needed, plan, power_of
from dragoman.score.resample import Bootstrap, bootstrap, resampled
from dragoman.score.retrieval import chance, credits
from dragoman.score.roc import auroc, auroc_estimate, auroc_interval
from dragoman.score.selective import (
    RiskCoverage,
    Threshold,
    accuracy_at,
    against_one_feature,
    answered_accuracy,
    false_label_rate,
    risk_coverage,
    threshold_for_nulls,
)
from dragoman.score.verdict import ConfidenceReport, confidence_report

__all__ = [
    "Adjusted",
    "Against",
    "Bin",
    "Bootstrap",
    "Confidence",
    "ConfidenceReport",
    "Contexts",
    "Detected",
    "Evidence",
    "Fallbacks",
    "FiringTopic",
    "Judged",
    "Kit",
    "Kits",
    "NULLS",
    "Needed",
    "Outcomes",
    "RiskCoverage",
    "SIGNS",
    "Threshold",
    "accuracy_at",
    "accuracy_estimate",
    "adjust",
    "against_each",
    "against_one_feature",
    "against_others",
    "against_texts",
    "answered_accuracy",
    "auroc",
    "auroc_estimate",
    "auroc_interval",
    "benjamini_hochberg",
    "bins_of",
    "bootstrap",
    "brier_estimate",
    "brier_parts",
    "calibration_error",
    "ceiling_estimate",
    "chance",
    "clustered_interval",
    "confidence_report",
    "credits",
    "detectable",
    "detection_estimate",
    "detection_per_feature",
    "detection_table",
    "doubly_centred",
    "doubly_centred_lift",
    "ece_estimate",
    "evidence",
    "expit",
    "false_label_rate",
    "feature_p",
    "features_needed",
    "firing_topic",
    "first_named",
    "fit_logistic",
    "fit_signed",
    "holm",
    "length_matched",
    "lift_estimate",
    "lift_over_random",
    "lift_per_feature",
    "log_loss",
    "mean_estimate",
    "nameable",
    "named_estimate",
    "names_category",
    "naming_table",
    "paired_difference",
    "percentiles",
    "permutation_moments",
    "permutation_p",
    "plan",
    "platt",
    "power_of",
    "rate_interval",
    "reliability_curve",
    "resampled",
    "risk_coverage",
    "sample_agreement",
    "share_of_ceiling",
    "similarity",
    "t_interval",
    "threshold_for_nulls",
    "token_table",
    "topic_estimates",
    "two_way_interval",
    "wilson_interval",
]
