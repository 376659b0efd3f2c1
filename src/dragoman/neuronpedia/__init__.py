"""Neuronpedia's names and files: ids and URLs, its exports read, explanations written in its layout.

In: ids, URLs, export folders or their addresses, explanations. Out: parsed references, labels, source records, files.
Refuses what is not theirs, what is torn, and what would grow without bound. Nothing is ever uploaded.
"""

from dragoman.neuronpedia.ids import NeuronpediaRef, is_reference, parse
from dragoman.neuronpedia.read import Export, SourceRecord, refuse_elsewhere
from dragoman.neuronpedia.write import Explained, must_exist, short_label, write_explanations

__all__ = [
    "Explained",
    "Export",
    "NeuronpediaRef",
    "SourceRecord",
    "is_reference",
    "must_exist",
    "parse",
    "refuse_elsewhere",
    "short_label",
    "write_explanations",
]
