"""What every verbalizer does: vectors of one site in, one Explanation per vector out.

In: vectors (n, d) of a site. Out: Explanations in the same order. ``ScriptedVerbalizer`` answers from a function or
from the nearest stored direction and needs no model. Refuses vectors of another shape or width and rows without a
direction.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from dragoman.core import Directions, Explanation, Floats, Refusal, Site, unit_rows
from dragoman.verbalizers.prompt import parse


@runtime_checkable
class Verbalizer(Protocol):
    """Puts vectors of one residual stream into words."""

    @property
    def site(self) -> Site:
        """The stream it was trained to read."""
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


COLDEST, HOTTEST = 1e-3, 1e3  # logits over less are infinite, over more all alike


def check_temperature(temperature: float) -> None:
    """Refuse what no sample can be drawn at: 0 is greedy, and else it lies between 0.001 and 1000.

    Raises:
        Refusal: negative, infinite, no number, or out of that range.
    """
    if temperature != 0 and not COLDEST <= temperature <= HOTTEST:
        raise Refusal(
            f"temperature {temperature:g}",
            f"it is 0, for the likeliest, or lies between {COLDEST:g} and {HOTTEST:g}",
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


class ScriptedVerbalizer:
    """A verbalizer without a model: its answer is a function of the vector.

    Deterministic: temperature, seed and length are accepted and change nothing.
    """

    def __init__(
        self, site: Site, width: int, answer: Callable[[Floats], str], *, name: str = "scripted", script: str = ""
    ) -> None:
        """Answer vectors (width,) at ``site`` with ``answer``; ``script`` tells two scripts of one name apart."""
        self._site, self._name, self._width, self._answer, self._script = (site, name, width, answer, script)

    @classmethod
    def nearest(cls, directions: Directions, texts: Sequence[str], *, name: str = "scripted") -> ScriptedVerbalizer:
        """Answer with the text of the stored direction of highest cosine; refuse unequal counts."""
        said = tuple(texts)
        if len(said) != len(directions):
            raise Refusal(
                f"a script of {len(said)} texts for {len(directions)} directions",
                "each stored direction needs one text",
                "pass as many texts as directions",
            )
        script = hashlib.sha256(directions.unit.tobytes() + "\0".join(said).encode()).hexdigest()

        def answer(vector: Floats) -> str:
            return said[int(np.argmax(directions.unit @ vector))]

        return cls(directions.site, directions.d_model, answer, name=name, script=script)

    @property
    def site(self) -> Site:
        """The stream it answers for."""
        return self._site

    @property
    def name(self) -> str:
        """What it is called."""
        return self._name

    @property
    def identity(self) -> dict[str, Any]:
        """Name, site and script."""
        return {"contract": "scripted", "name": self._name, "site": str(self._site), "script": self._script}

    def verbalize(
        self, vectors: NDArray[Any], *, temperature: float = 0.0, seed: int = 0, max_new_tokens: int = 200
    ) -> list[Explanation]:
        """One scripted answer per row of ``vectors`` (n, width), parsed as a real one would be.

        An answer that has no tags of its own is put between them.
        """
        rows = checked_vectors(vectors, self._width, f"verbalizer {self._name}")
        said = [self._answer(row) for row in rows]
        raws = [text if "explanation>" in text else f"<explanation>\n{text}\n</explanation>" for text in said]
        return [parse(raw, tokens=len(raw.split())) for raw in raws]
