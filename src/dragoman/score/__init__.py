"""How far to trust the words: lift over other features, planted truth, and the intervals both are given with.

Features are the unit of analysis, never samples; every result is an ``Estimate`` that names its null.
"""

from dragoman.score.intervals import clustered_interval, mean_estimate, t_interval, wilson_interval
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
from dragoman.score.planted import accuracy_estimate, first_named, names_category

__all__ = [
    "accuracy_estimate",
    "clustered_interval",
    "doubly_centred",
    "doubly_centred_lift",
    "first_named",
    "lift_estimate",
    "lift_over_random",
    "lift_per_feature",
    "mean_estimate",
    "names_category",
    "paired_difference",
    "permutation_moments",
    "permutation_p",
    "similarity",
    "t_interval",
    "wilson_interval",
]
