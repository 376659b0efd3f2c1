"""Names of what is kept in the cache: digests of everything that decides it.

In: a ``Request``, sites, texts. Out: a digest. Refuses what the readers of files refuse.

Counted: what is read (models, tokenizers and dictionaries by their bytes, texts one by one), how (dtype, settings of
the reading), and by what: dragoman, transformers and tokenizers, which run models and split texts, and torch, whose
sums they are. An upgrade therefore reads once more, and a fault mended in one of them is mended here too. Places count
as well: what is kept names its sites, and some layouts learn of a dictionary from the folders it lies in. Not counted:
the device and threads, which move sums by rounding alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version

from dragoman.core import Site
from dragoman.explain.request import Request
from dragoman.models.deciding import fingerprint_of_model
from dragoman.store import digest

_BY = ("dragoman", "transformers", "tokenizers", "torch")


def key_of(kind: str, request: Request, source: Site, target: Site, texts: Sequence[str], *more: str) -> str:
    """The name of what two models give over texts.

    ``kind``: what is kept, with a number that goes up when its making changes. ``more``: what else decides it.
    """
    return digest(
        kind,
        *(
            f"{name} {version(name).partition('+')[0]}" for name in _BY
        ),  # behind the plus: which machine it is built for
        str(source),
        fingerprint_of_model(_ref(source)),
        str(target),
        fingerprint_of_model(_ref(target)),
        request.dtype,
        *more,
        digest(*texts),
    )


def _ref(site: Site) -> str:
    return f"{site.model}@{site.revision}" if site.revision else site.model
