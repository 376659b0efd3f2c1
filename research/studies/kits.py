"""Which evidence a trust may ask for, from most to least: what is at hand decides which is used.

In: nothing. Out: names. The choice was made on the first direction of the pair, by log-loss and AUROC over left-out
categories; the other direction was not fitted on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

_RIGHT = ("sample_agreement", "log_probability", "context_gap", "n_eff")
_ROUTES = ("agreement", "margin")

KITS: Mapping[str, Mapping[str, Sequence[str]]] = {
    "dictionary, samples, many features, reconstructor": {
        "right": (*_RIGHT, "detection_centred"),
        "arrived": (*_ROUTES, "reconstruction"),
    },
    "dictionary, samples, many features": {"right": (*_RIGHT, "detection_centred"), "arrived": _ROUTES},
    "dictionary, samples": {"right": (*_RIGHT, "detection_cosine"), "arrived": _ROUTES},
    "dictionary": {"right": ("log_probability", "context_gap", "n_eff", "detection_cosine"), "arrived": _ROUTES},
    "vectors, samples, reconstructor": {
        "right": ("sample_agreement", "log_probability"),
        "arrived": ("reconstruction", "sample_agreement", "log_probability"),
    },
    "vectors": {"right": ("log_probability",), "arrived": ("log_probability", "cycle")},
}
