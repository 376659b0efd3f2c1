"""Dictionaries and vector files in; directions, encoders and random controls out.

In: references (`DictionaryRef`): paths, hub repositories, SAELens releases. Out: `Directions` at a site (`read`), an
`Encoder` (`encoder`). Each published layout is one module of ``layouts``. Refuses unknown layouts, pickles, ids that
are not there, transposed decoders, and encoders whose activation it does not know.
"""

from dragoman.directions.encoder import Encoder
from dragoman.directions.hub import commit_of, pinned
from dragoman.directions.layout import Dictionary
from dragoman.directions.read import check_encoder, dictionary, random_directions, read_directions, read_encoder
from dragoman.directions.refs import DictionaryRef

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
