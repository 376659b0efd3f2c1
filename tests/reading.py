"""Dictionaries opened for one thing, as most tests want them.

Loads no torch by itself: the fuzz and the bombs read through here in processes of their own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dragoman.core import Directions
from dragoman.dictionaries import Encoder, open_dictionary

if TYPE_CHECKING:
    from dragoman.explain import Request


def read_directions(ref: Any, *, features: Any = None, **how: Any) -> Directions:
    """Rows of a dictionary, opened for them alone."""
    return open_dictionary(ref, **how).features(features).directions


def read_encoder(ref: Any, **how: Any) -> Encoder:
    """The encoder of a dictionary, opened for it alone; plain vectors are refused."""
    return open_dictionary(ref, **how).need_encoder()


def check_encoder(ref: Any, **how: Any) -> None:
    """Settings, names and shapes of the encoder of a dictionary, opened for them alone."""
    open_dictionary(ref, **how).check_encoder()


def directions_of(request: Request) -> Directions:
    """What a request asks for, of a dictionary opened for it alone."""
    from dragoman.explain import open_for

    return open_for(request).features(request.features or None).directions
