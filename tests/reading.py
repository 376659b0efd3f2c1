"""Dictionaries opened for one thing, as most tests want them."""

from __future__ import annotations

from typing import Any

from dragoman.core import Directions
from dragoman.dictionaries import Encoder, open_dictionary


def read_directions(ref: Any, *, features: Any = None, **how: Any) -> Directions:
    """Rows of a dictionary, opened for them alone."""
    return open_dictionary(ref, **how).features(features).directions


def read_encoder(ref: Any, **how: Any) -> Encoder:
    """The encoder of a dictionary, opened for it alone; plain vectors are refused."""
    return open_dictionary(ref, **how).need_encoder()


def check_encoder(ref: Any, **how: Any) -> None:
    """Settings, names and shapes of the encoder of a dictionary, opened for them alone."""
    open_dictionary(ref, **how).check_encoder()
