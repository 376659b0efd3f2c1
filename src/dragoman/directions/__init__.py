"""Dictionaries and vector files in; directions, encoders and random controls out.

In: paths. Out: `Directions` at a site (`read`), an `Encoder` (`encoder`). Refuses unknown layouts, pickles, ids
that are not there, transposed decoders, and encoders whose activation it does not know.
"""

from dragoman.directions.encoder import Encoder, read_encoder
from dragoman.directions.read import random_directions, read_directions

__all__ = ["Encoder", "random_directions", "read_directions", "read_encoder"]
