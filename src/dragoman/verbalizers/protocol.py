"""What every verbalizer does: vectors of one site in, one Explanation per vector out.

In: vectors (n, d) of a site. Out: Explanations in the same order. Refuses vectors of another shape or width and rows
without a direction.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from dragoman.core import Explanation, Floats, Refusal, Site, unit_rows


@runtime_checkable
class AnyVerbalizer(Protocol):
    """Puts vectors of one residual stream into words."""

    @property
    def site(self) -> Site:
        """The stream it was trained to read."""
        ...

    @property
    def width(self) -> int:
        """Width of the vectors it takes; 0 where it is not known."""
        ...

    @property
    def name(self) -> str:
        """What a person calls it."""
        ...

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that decides its words (checkpoint, digests, contract, dtype, scale), for a run's manifest."""
        ...

    def verbalize(
        self, vectors: NDArray[Any], *, temperature: float = 0.0, seed: int = 0, max_new_tokens: int = 200
    ) -> list[Explanation]:
        """One explanation per row of ``vectors`` (n, d_model); only a row's direction counts, sign included."""
        ...


COLDEST, HOTTEST = 1e-6, 1e3  # logits over less may be infinite, over more they are all alike


def check_temperature(temperature: float) -> None:
    """Refuse what no sample can be drawn at: 0 is greedy, and else it lies between 0.000001 and 1000.

    Raises:
        Refusal: negative, infinite, no number, or out of that range.
    """
    if temperature != 0 and not COLDEST <= temperature <= HOTTEST:
        raise Refusal(
            f"temperature {temperature}",
            f"it is 0, for the likeliest, or lies between {COLDEST:f} and {HOTTEST:g}",
            "use 0 for greedy decoding, 1 for the verbalizer's own distribution",
        )


def checked_vectors(vectors: NDArray[Any], width: int, what: str) -> Floats:
    """Rows (n, width) as contiguous float32; refuse another shape or width, and rows that have no direction."""
    rows = np.ascontiguousarray(vectors, dtype=np.float32)
    if rows.ndim != 2:
        raise Refusal(
            f"vectors of shape {rows.shape} for {what}",
            "it takes one row per vector",
            "pass rows of shape (n, d_model)",
        )
    if rows.shape[1] != width:
        raise Refusal(
            f"vectors of width {rows.shape[1]} for {what}",
            f"its residual stream has width {width}",
            "carry the directions to its site first, or use a verbalizer of their own model",
        )
    if len(rows):
        with np.errstate(over="ignore"):  # only whether there is a direction is asked here
            unit_rows(rows, f"vectors for {what}")
    return rows
