"""Neuronpedia's names and files: ids and URLs, its exports read, explanations written in its layout.

In: ids, URLs, export folders or their addresses, explanations. Out: parsed references, labels, contexts, source
records, files. Refuses what is not theirs, what is torn, and what would grow without bound. Nothing is ever uploaded.
"""

from dragoman.neuronpedia.ids import NeuronpediaRef, hub_model, is_reference, parse
from dragoman.neuronpedia.importing import must_exist
from dragoman.neuronpedia.read import Context, Export, FeatureRow, Label, Labels
from dragoman.neuronpedia.source import SourceRecord, refuse_elsewhere
from dragoman.neuronpedia.write import Explained, short_label, write_explanations

__all__ = [
    "Context",
    "Explained",
    "Export",
    "FeatureRow",
    "Label",
    "Labels",
    "NeuronpediaRef",
    "SourceRecord",
    "hub_model",
    "is_reference",
    "must_exist",
    "parse",
    "refuse_elsewhere",
    "short_label",
    "write_explanations",
]
