"""Dictionaries and vector files, opened once: rows, labels, encoder, and what lies beside them.

In: packaged names, paths, hub repositories, SAELens releases, Neuronpedia ids. Out: a `Dictionary`; of it `Features`,
`Directions` at a site, an `Encoder`. Each published layout is one module of ``layouts``. Refuses unknown layouts,
pickles, ids that are not there, transposed decoders, and encoders whose activation it does not know.
"""

from dragoman.dictionaries.asked import Asked
from dragoman.dictionaries.beside import DictionaryRef
from dragoman.dictionaries.encoder import Encoder
from dragoman.dictionaries.opened import READ_AS, Dictionary, Features, open_dictionary
from dragoman.dictionaries.rows import random_directions

__all__ = [
    "READ_AS",
    "Asked",
    "Dictionary",
    "DictionaryRef",
    "Encoder",
    "Features",
    "open_dictionary",
    "random_directions",
]
