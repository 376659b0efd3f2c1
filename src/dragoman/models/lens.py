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
from dataclasses import dataclass, replace
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
FEWEST = 100  # words that two vocabularies have to share
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
    them, word after word; ``starts``: (W,) where each word's tokens begin. ``centred``: whether a row's mean is taken
    off first.
    """

    ref: str
    words: tuple[str, ...]
    rows: torch.Tensor
    starts: NDArray[np.int64]
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
        ids, words, starts = _vocabulary(ref, folder, where[head].shapes[head][0])
        rows = torch.from_numpy(where[head].array(head).rows(ids).astype(np.float32)).to(device)
        scale = torch.from_numpy(norm.astype(np.float32)).to(device) + (1.0 if kind == "one plus" else 0.0)
        return cls(ref=f"{ref}", words=words, rows=rows * scale, starts=starts, centred=kind == "layer")

    def only(self, words: Collection[str]) -> Lens:
        """The lens for some of its words alone: quicker, and what two models' lists are compared over."""
        wanted = set(words)
        kept = [k for k, word in enumerate(self.words) if word in wanted]
        counts = np.diff([*self.starts, len(self.rows)])
        tokens = np.concatenate([np.arange(self.starts[k], self.starts[k] + counts[k]) for k in kept] or [[]])
        starts = np.concatenate([[0], np.cumsum(counts[kept])[:-1]]).astype(np.int64) if kept else self.starts[:0]
        rows = self.rows[torch.from_numpy(tokens.astype(np.int64)).to(self.rows.device)]
        return replace(self, words=tuple(self.words[k] for k in kept), rows=rows, starts=starts)

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
            parts.append(np.maximum.reduceat((d @ self.rows.T).cpu().numpy(), self.starts, axis=1))
        return np.concatenate(parts)

    def top(self, rows: NDArray[Any], k: int = 20, *, among: Collection[str] | None = None) -> list[tuple[str, ...]]:
        """The ``k`` words that each row writes most, most first; of ``among`` alone where that is given."""
        lens = self if among is None else self.only(among)
        return [tuple(lens.words[j] for j in row) for row in lens._top(rows, k)]

    def _top(self, rows: NDArray[Any], k: int) -> NDArray[np.int64]:
        scores = self.scores(rows)
        some = np.argpartition(-scores, min(k, scores.shape[1]) - 1, axis=1)[:, :k]
        return np.take_along_axis(some, np.argsort(-np.take_along_axis(scores, some, 1), axis=1, kind="stable"), 1)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LensPair:
    """The lenses of a source and a target over the words that both vocabularies can write, which lists share or not."""

    source: Lens
    target: Lens

    @classmethod
    def open(cls, source: str | Path, target: str | Path, *, device: str = "cpu") -> LensPair:
        """Read both.

        Raises:
            Refusal: as ``Lens.open``, or the two share hardly a word.
        """
        return cls.of(Lens.open(source, device=device), Lens.open(target, device=device))

    @classmethod
    def of(cls, source: Lens, target: Lens) -> LensPair:
        """Two lenses, each for the shared words alone.

        Raises:
            Refusal: they share fewer than a hundred words.
        """
        shared = shared_words(source, target)
        if len(shared) < FEWEST:
            why = f"their vocabularies share {len(shared)} words"
            raise Refusal(f"the lenses of {source.ref} and {target.ref}", why, "do without")
        return cls(source=source.only(shared), target=target.only(shared))

    def shared(self, rows: NDArray[Any], images: NDArray[Any], k: int = 20) -> NDArray[np.float64]:
        """(n,): how many of a row's ``k`` words its image writes too."""
        own, theirs = self.source._top(rows, k), self.target._top(images, k)
        words = [np.array(lens.words) for lens in (self.source, self.target)]
        pairs = zip(words[0][own], words[1][theirs], strict=True)
        return np.array([len(set(a) & set(b)) for a, b in pairs], dtype=np.float64)


def shared_words(a: Lens, b: Lens) -> tuple[str, ...]:
    """Words that both vocabularies can write."""
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
    """Token ids that write a word, word after word, the words, and where each word's ids begin."""
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
    counts = [len(found[word]) for word in words]
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.int64)
    return [number for word in words for number in sorted(found[word])], words, starts
