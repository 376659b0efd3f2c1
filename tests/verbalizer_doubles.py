"""A verbalizer without a model, and windows into one that has one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import DynamicCache

from dragoman.core import Directions, Explanation, Floats, Site
from dragoman.models.decode import Verbalizer
from dragoman.verbalizers.protocol import checked_vectors, parse


def prompt_embeddings(verbalizer: Verbalizer, vectors: NDArray[Any]) -> torch.Tensor:
    """Embeddings (n, prompt length, d_model) of the prompt for each of ``vectors`` (n, d_model)."""
    return verbalizer.feed(vectors).embeddings


@torch.inference_mode()
def next_logits(verbalizer: Verbalizer, vectors: NDArray[Any]) -> torch.Tensor:
    """Logits (n, vocabulary) of the first token said of each of ``vectors`` (n, d_model)."""
    return verbalizer._prefill(verbalizer.feed(vectors), DynamicCache(config=verbalizer.model.config))


class ScriptedVerbalizer:
    """A verbalizer without a model: its answer is a function of the vector.

    Deterministic: temperature, seed and length are accepted and change nothing.
    """

    def __init__(
        self, site: Site, width: int, answer: Callable[[Floats], str], *, name: str = "scripted", script: str = ""
    ) -> None:
        """Answer vectors (width,) at ``site`` with ``answer``; ``script`` tells two scripts of one name apart."""
        self.site, self.name, self.width = site, name, width
        self._answer, self._script = answer, script

    @classmethod
    def nearest(cls, directions: Directions, texts: Sequence[str], *, name: str = "scripted") -> ScriptedVerbalizer:
        """Answer with the text of the stored direction of highest cosine."""
        said = tuple(texts)
        script = hashlib.sha256(directions.unit.tobytes() + "\0".join(said).encode()).hexdigest()

        def answer(vector: Floats) -> str:
            return said[int(np.argmax(directions.unit @ vector))]

        return cls(directions.site, directions.d_model, answer, name=name, script=script)

    @property
    def identity(self) -> dict[str, Any]:
        """Name, site and script."""
        return {"contract": "scripted", "name": self.name, "site": str(self.site), "script": self._script}

    def verbalize(
        self, vectors: NDArray[Any], *, temperature: float = 0.0, seed: int = 0, max_new_tokens: int = 200
    ) -> list[Explanation]:
        """One scripted answer per row of ``vectors`` (n, width), parsed as a real one would be.

        An answer that has no tags of its own is put between them.
        """
        rows = checked_vectors(vectors, self.width, f"verbalizer {self.name}")
        said = [self._answer(row) for row in rows]
        raws = [text if "explanation>" in text else f"<explanation>\n{text}\n</explanation>" for text in said]
        return [parse(raw, tokens=len(raw.split())) for raw in raws]
