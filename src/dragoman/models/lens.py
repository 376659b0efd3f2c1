"""The logit lens of directions: which words a row writes, read off a model's unembedding without building the model.

In: a model's reference, rows (n, d_model) of its residual stream. Out: scores of words, and the words that score most.
Refuses adapters, quantised weights, and models whose final norm is of a family not known here: a norm applied wrongly
gives other words without a complaint.

A direction is a difference of points, so what counts is how the logits change along it: W_U (g * d), with g the scale
of the final norm (1 + w in the Gemma family), the row centred first where the norm is a LayerNorm. The norm's division
by the stream's length is the same for all words. After nostalgebraist, "interpreting GPT: the logit lens" (2020).

Memory: the rows of the unembedding that begin a word, as float32; 100 MB for a vocabulary of 262,144 of width 640.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dragoman.core import Floats, Refusal
from dragoman.models.bounds import quantised, read_config
from dragoman.models.folder import TOKENIZER, check_folder, weight_files
from dragoman.models.load import is_adapter, load_tokenizer
from dragoman.models.resolve import folder_of
from dragoman.store import ArraysFile

LETTERS = 3  # fewer are pieces of words
_MARKS = ("Ġ", "▁")  # how vocabularies write the space before a word
_ONE_PLUS = ("gemma", "gemma2", "gemma3", "gemma3_text", "recurrent_gemma")  # their norms scale by 1 + w
_RMS = ("llama", "mistral", "mixtral", "qwen2", "qwen3", "phi3", "olmo2", "smollm3", "granite", "cohere2")
_LAYER = ("gpt2", "gpt_neox", "opt", "phi", "gptj", "bloom")  # LayerNorm: the row is centred
_NORMS = ("norm.weight", "final_layernorm.weight", "ln_f.weight", "final_layer_norm.weight")
_HEADS = ("lm_head.weight", "embed_out.weight")
_TABLES = ("embed_tokens.weight", "wte.weight", "embed_in.weight", "word_embeddings.weight")
_ROWS = 256  # directions at a time


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Lens:
    """A model's way from its residual stream to words.

    ``ref``: the model. ``words``: W lower-cased words of at least three letters that one token with a space before it
    writes. ``rows``: (V, d_model) float32 rows of the unembedding, scaled by the final norm, of the tokens that write
    them; ``word``: (V,) which word each writes. ``centred``: whether a row's mean is taken off first.
    """

    ref: str
    words: tuple[str, ...]
    rows: torch.Tensor
    word: torch.Tensor
    centred: bool

    @classmethod
    def open(cls, ref: str | Path, *, device: str = "cpu") -> Lens:
        """Read the final norm, the unembedding and the vocabulary of a model.

        Raises:
            Refusal: as the module says.
        """
        folder = folder_of(ref)
        check_folder(folder, f"the lens of {ref}")
        if is_adapter(folder):
            raise Refusal(f"the lens of {ref}", "it is an adapter", "name the model it was made from")
        config = read_config(folder)
        if quantised(config):
            raise Refusal(f"the lens of {ref}", "its weights are quantised", "use its weights in bfloat16")
        kind = _kind(config, f"{ref}")
        files = [ArraysFile(path) for path in weight_files(folder, f"{ref}")]
        where = {name: file for file in files for name in file.names}
        norm = where[name].whole(name) if (name := _final(where, _NORMS)) else None
        head = _final(where, _HEADS) or _final(where, _TABLES)
        if norm is None or head is None:
            raise Refusal(f"the lens of {ref}", "its final norm or unembedding was not found", "use another model")
        ids, words, which = _vocabulary(ref, folder, where[head].shapes[head][0])
        rows = torch.from_numpy(where[head].array(head).rows(ids).astype(np.float32)).to(device)
        scale = torch.from_numpy(norm.astype(np.float32)).to(device) + (1.0 if kind == "one plus" else 0.0)
        word = torch.from_numpy(which).to(device)
        return cls(ref=f"{ref}", words=words, rows=rows * scale, word=word, centred=kind == "layer")

    @property
    def d_model(self) -> int:
        """Width of the stream."""
        return int(self.rows.shape[1])

    def scores(self, rows: NDArray[Any]) -> Floats:
        """(n, W): how much each word's logit rises along each row (n, d_model); of a word's tokens the most.

        Raises:
            Refusal: rows of another width.
        """
        if rows.ndim != 2 or rows.shape[1] != self.d_model:
            raise Refusal(
                f"rows of shape {rows.shape}", f"the stream of {self.ref} is {self.d_model} wide", "carry them"
            )
        parts = []
        for start in range(0, len(rows), _ROWS):
            d = torch.from_numpy(np.array(rows[start : start + _ROWS], dtype=np.float32)).to(self.rows.device)
            if self.centred:
                d = d - d.mean(dim=1, keepdim=True)
            found = d @ self.rows.T
            best = torch.full((len(d), len(self.words)), -torch.inf, device=found.device)
            best.scatter_reduce_(1, self.word.expand(len(d), -1), found, "amax")
            parts.append(best.cpu().numpy())
        return np.concatenate(parts)

    def top(self, rows: NDArray[Any], k: int = 20, *, among: Collection[str] | None = None) -> list[tuple[str, ...]]:
        """The ``k`` words that each row writes most, most first; of ``among`` alone where that is given."""
        allowed = np.array([w in among for w in self.words]) if among is not None else np.ones(len(self.words), bool)
        places = np.flatnonzero(allowed)
        scores = self.scores(rows)[:, places]
        some = np.argpartition(-scores, min(k, scores.shape[1]) - 1, axis=1)[:, :k]
        order = np.take_along_axis(some, np.argsort(-np.take_along_axis(scores, some, 1), axis=1, kind="stable"), 1)
        return [tuple(self.words[places[j]] for j in row) for row in order]


def shared_words(a: Lens, b: Lens) -> tuple[str, ...]:
    """Words that both vocabularies can write: lists are compared over these alone."""
    theirs = set(b.words)
    return tuple(w for w in a.words if w in theirs)


def _kind(config: dict[str, Any], what: str) -> str:
    """How the final norm scales: "rms", "one plus" or "layer"."""
    inner = config.get("text_config")
    told = [inner.get("model_type") if isinstance(inner, dict) else None, config.get("model_type")]
    for kind, families in (("one plus", _ONE_PLUS), ("rms", _RMS), ("layer", _LAYER)):
        if any(str(name) in families for name in told if name):
            return kind
    known = ", ".join((*_ONE_PLUS, *_RMS, *_LAYER))
    raise Refusal(
        f"the lens of {what}", f"how its final norm scales is not known ({told[-1]}; known: {known})", "do without"
    )


def _final(names: Collection[str], ends: Sequence[str]) -> str | None:
    """The one array outside the blocks whose name ends so; of a vision tower's none."""
    found = [
        name
        for name in names
        if name.endswith(tuple(f".{end}" for end in ends) + tuple(ends))
        and ".layers." not in name
        and ".h." not in name
        and "vision" not in name
    ]
    return min(found, key=len) if found else None


def _vocabulary(ref: str | Path, folder: Path, size: int) -> tuple[list[int], tuple[str, ...], NDArray[np.int64]]:
    """Token ids that write a word, the words, and which word each id writes."""
    if not (folder / TOKENIZER).is_file():
        raise Refusal(f"the lens of {ref}", "it has no tokenizer.json", "save the fast tokenizer there")
    tokens = json.loads(load_tokenizer(ref).backend_tokenizer.to_str())["model"]["vocab"]
    pairs = tokens.items() if isinstance(tokens, dict) else ((piece, i) for i, (piece, _) in enumerate(tokens))
    found: dict[str, list[int]] = {}
    for piece, number in pairs:
        bare = piece[1:].lower()
        if piece.startswith(_MARKS) and len(bare) >= LETTERS and bare.isalpha() and number < size:
            found.setdefault(bare, []).append(number)
    words = tuple(sorted(found))
    flat = sorted((number, k) for k, word in enumerate(words) for number in found[word])
    return [n for n, _ in flat], words, np.array([k for _, k in flat], dtype=np.int64)
