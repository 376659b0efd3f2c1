"""Dictionaries and vector files in; directions, encoders and random controls out.

In: references (`DictionaryRef`): paths, hub repositories, SAELens releases. Out: `Directions` at a site (`read`), an
`Encoder` (`encoder`). Each published layout is one module of ``layouts``. Refuses unknown layouts, pickles, ids that
are not there, transposed decoders, and encoders whose activation it does not know.
"""

from dragoman.dictionaries.encoder import Encoder
from dragoman.dictionaries.hub import commit_of, pinned
from dragoman.dictionaries.layout import Dictionary
from dragoman.dictionaries.read import check_encoder, dictionary, random_directions, read_directions, read_encoder
from dragoman.dictionaries.refs import DictionaryRef

__all__ = [
    "Dictionary",
    "DictionaryRef",
    "Encoder",
    "check_encoder",
    "commit_of",
    "dictionary",
    "pinned",
    "random_directions",
    "read_directions",
    "read_encoder",
]
