"""What a feature of one language model means, in the words of a verbalizer that was trained for another.

The names here are the public ones; each is imported when it is first used, so that ``import dragoman`` stays light.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dragoman.calibration.calibrate import calibrate
    from dragoman.confidence.calibration import Calibration
    from dragoman.confidence.model import ConfidenceSet
    from dragoman.core import Background, Directions, Estimate, Interrupted, Refusal, Site, Talk
    from dragoman.dictionaries import Dictionary, Features, open_dictionary
    from dragoman.doctor import Finding, examine
    from dragoman.embed import LexicalEmbedder
    from dragoman.maps import Crossing
    from dragoman.models.decode import Verbalizer
    from dragoman.models.embedder import SentenceEmbedder
    from dragoman.models.prompts import Activations, activations
    from dragoman.models.reconstruct import Reconstructor
    from dragoman.records import Card
    from dragoman.runs.compare import compare, rank
    from dragoman.runs.crossings import fit_crossing
    from dragoman.runs.explain import explain
    from dragoman.runs.run import Explanations, FeatureExplanation, Run
    from dragoman.runs.score import fit_confidence, recalibrate_confidence, score
    from dragoman.scores import Scores
    from dragoman.verbalizers.protocol import AnyVerbalizer

    __version__: str

_HOMES = {
    "Activations": "models.prompts",
    "AnyVerbalizer": "verbalizers.protocol",
    "Background": "core",
    "Calibration": "confidence.calibration",
    "Card": "records",
    "ConfidenceSet": "confidence.model",
    "Crossing": "maps",
    "Dictionary": "dictionaries",
    "Directions": "core",
    "Estimate": "core",
    "Explanations": "runs.run",
    "FeatureExplanation": "runs.run",
    "Features": "dictionaries",
    "Finding": "doctor",
    "Interrupted": "core",
    "LexicalEmbedder": "embed",
    "Reconstructor": "models.reconstruct",
    "Refusal": "core",
    "Run": "runs.run",
    "Scores": "scores",
    "SentenceEmbedder": "models.embedder",
    "Site": "core",
    "Talk": "core",
    "Verbalizer": "models.decode",
    "activations": "models.prompts",
    "calibrate": "calibration.calibrate",
    "compare": "runs.compare",
    "examine": "doctor",
    "explain": "runs.explain",
    "fit_confidence": "runs.score",
    "fit_crossing": "runs.crossings",
    "open_dictionary": "dictionaries",
    "rank": "runs.compare",
    "recalibrate_confidence": "runs.score",
    "score": "runs.score",
}
__all__ = [
    "Activations",
    "AnyVerbalizer",
    "Background",
    "Calibration",
    "Card",
    "ConfidenceSet",
    "Crossing",
    "Dictionary",
    "Directions",
    "Estimate",
    "Explanations",
    "FeatureExplanation",
    "Features",
    "Finding",
    "Interrupted",
    "LexicalEmbedder",
    "Reconstructor",
    "Refusal",
    "Run",
    "Scores",
    "SentenceEmbedder",
    "Site",
    "Talk",
    "Verbalizer",
    "__version__",
    "activations",
    "calibrate",
    "compare",
    "examine",
    "explain",
    "fit_confidence",
    "fit_crossing",
    "open_dictionary",
    "rank",
    "recalibrate_confidence",
    "score",
]


def __getattr__(name: str) -> Any:
    """A public name, imported on first use."""
    if name == "__version__":
        from importlib.metadata import version

        return version("dragoman")
    if name not in _HOMES:
        raise AttributeError(f"module 'dragoman' has no attribute '{name}'")
    found = globals()[name] = getattr(import_module(f"dragoman.{_HOMES[name]}"), name)
    return found


def __dir__() -> list[str]:
    """The public names."""
    return __all__
