"""The logit lens of directions: which words a row writes, read off a model's unembedding without building the model.

In: a model's reference, rows (n, d_model) of its residual stream. Out: scores of words, and the words that score most.
Refuses adapters, quantised weights, models whose final norm is of a family not known here (applied wrongly, a norm
gives other words without a complaint), a final norm or unembedding that is not there or is there twice, weights and
rows that are not finite, and vocabularies whose tokens do not say where a word begins.

A direction is a difference of points, so what counts is how the logits change along it: W_U (g * d), with g the scale
of the final norm (1 + w in the Gemma family), the row centred first where the norm is a LayerNorm. The norm's division
by the stream's length is the same for all words, and so are biases and what is done to all logits alike. After
nostalgebraist, "interpreting GPT: the logit lens" (2020).

Memory: the rows of the unembedding that begin a word, as float32: 35 MB for SmolLM2-135M, 200 MB for a Gemma of width
640, 2 GB for one of width 5,376; and scores of 256 rows at a time.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import decoders
from transformers import AutoConfig

from dragoman.core import Floats, Refusal
from dragoman.models.bounds import quietly, refuse_counts
from dragoman.models.folder import CONFIG, check_folder, read_config, shapes_in, weight_files
from dragoman.models.load import check_device, is_adapter, load_tokenizer
from dragoman.models.resolve import folder_of
from dragoman.store import ArraysFile
from dragoman.store.boundary import AGAIN, opening
from dragoman.store.spans import listed, shown

LETTERS = 3  # fewer are pieces of words
FEWEST = 100  # words that two vocabularies have to share
BYTES, PLAIN = "Ġ", "▁"  # the space before a word, in vocabularies of bytes and of characters
# How final norms scale, by the text model's type. The tests hold every one against transformers.
_ONE_PLUS = ("gemma", "gemma2", "gemma3_text", "vaultgemma", "qwen3_next", "qwen3_5_text")
_RMS = (
    *("llama", "llama4_text", "mistral", "mixtral", "ministral", "ministral3", "qwen2", "qwen2_moe", "qwen3"),
    *("qwen3_moe", "qwen2_vl_text", "qwen2_5_vl_text", "qwen3_vl_text", "phi3", "olmo2", "olmo3", "olmoe", "smollm3"),
    *("gemma4_text", "granite", "granitemoe", "deepseek_v2", "deepseek_v3", "gpt_oss", "glm", "glm4"),
    *("glm4_moe", "exaone4", "apertus", "arcee", "seed_oss", "hunyuan_v1_dense", "ernie4_5", "lfm2", "helium"),
)
_LAYER = (
    *("gpt2", "gpt_neo", "gpt_neox", "gptj", "opt", "bloom", "falcon", "phi", "stablelm", "starcoder2", "cohere"),
    *("cohere2", "gpt_bigcode", "mpt"),
)
_KINDS = {**dict.fromkeys(_ONE_PLUS, "one plus"), **dict.fromkeys(_RMS, "rms"), **dict.fromkeys(_LAYER, "layer")}
# Where families keep them, alone or inside a multimodal wrapper; a vision tower's have other paths.
_WRAPPED = r"(?:(?:model|language_model|text_model|transformer|gpt_neox|decoder)\.)*"
_NORM = re.compile(
    rf"^{_WRAPPED}(?:norm|final_layernorm|final_layer_norm|ln_f|norm_f|final_norm|embedding_norm)\.weight$"
)
_HEAD = re.compile(rf"^{_WRAPPED}(?:lm_head|embed_out)\.weight$")
_TABLE = re.compile(rf"^{_WRAPPED}(?:embed_tokens|wte|embed_in|word_embeddings)\.weight$")
_PACKED = ("quantization_config", "compression_config", "quantization")
_BLOCK, _ROWS = 4096, 256  # rows of the unembedding read together; directions scored together


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Lens:
    """A model's way from its residual stream to words.

    ``ref``: the model. ``words``: W lower-cased words of at least three letters that one token with a space before it
    writes, sorted. ``rows``: (V, d_model) float32 rows of the unembedding, scaled by the final norm, of the tokens that
    write them, word after word (The, THE and the are one word); ``starts``: (W,) where each word's tokens begin.
    ``centred``: whether a row's mean is taken off first.
    """

    ref: str
    words: tuple[str, ...]
    rows: torch.Tensor
    starts: NDArray[np.int64]
    centred: bool

    @classmethod
    def open(cls, ref: str | Path, *, device: str = "cpu") -> Lens:
        """Read the final norm, the unembedding and the vocabulary of a model.

        Args:
            ref: packaged name, folder or hub id of a whole model.
            device: where the rows lie and scores are computed, in torch's words.

        Raises:
            Refusal: as the module says.
        """
        check_device(device)
        what, folder = f"the lens of {ref}", folder_of(ref)
        check_folder(folder, what)
        if is_adapter(folder):
            raise Refusal(what, "it is an adapter, which has no unembedding", "name the model it was made from")
        files = weight_files(folder, f"{ref}")
        kind, tied = _settings(folder, files, what)
        stored = {name: file for file in map(ArraysFile, files) for name in file.names}
        scale = torch.from_numpy(_numbers(stored, _only_one(stored, _NORM, "final norm", what), None, what))
        scale = (scale + 1 if kind == "one plus" else scale).to(device)
        head = _unembedding(stored, tied, what)
        size, width = stored[head].shapes[head]
        if width != len(scale):
            why = f"its unembedding is {width} wide and its final norm {len(scale)}: something stands between them"
            raise Refusal(what, why, "do without")
        ids, words, starts = _vocabulary(load_tokenizer(ref), size, what)
        rows = torch.empty((len(ids), width), device=device)
        for first in range(0, len(ids), _BLOCK):
            part = _numbers(stored, head, ids[first : first + _BLOCK], what)
            torch.mul(torch.from_numpy(part).to(device), scale, out=rows[first : first + _BLOCK])
        return cls(ref=f"{ref}", words=words, rows=rows, starts=starts, centred=kind == "layer")

    def only(self, words: Collection[str]) -> Lens:
        """The lens for some of its words alone: quicker, and what two models' lists are compared over.

        Raises:
            Refusal: it has none of them.
        """
        wanted = set(words)
        kept = np.array([k for k, word in enumerate(self.words) if word in wanted], dtype=np.int64)
        if not len(kept):
            raise Refusal(f"the lens of {self.ref}", f"it has none of the {len(wanted)} words", "name words it has")
        counts = self._counts()
        starts = np.cumsum(counts[kept]) - counts[kept]
        tokens = np.repeat(self.starts[kept] - starts, counts[kept]) + np.arange(counts[kept].sum())
        rows = self.rows[torch.from_numpy(tokens).to(self.rows.device)]
        return replace(self, words=tuple(self.words[k] for k in kept), rows=rows, starts=starts)

    @property
    def d_model(self) -> int:
        """Width of the stream."""
        return int(self.rows.shape[1])

    def scores(self, rows: NDArray[Any]) -> Floats:
        """(n, W): how much each word's logit rises along each row (n, d_model); of a word's tokens the most.

        In units of the row's length over the stream's root mean square (standard deviation, under a LayerNorm), up to
        a factor that a model may put on all logits.

        Raises:
            Refusal: rows of another width, or not finite.
        """
        parts = [part.cpu().numpy() for part in self._scored(rows)]
        return np.concatenate(parts) if parts else np.zeros((0, len(self.words)), np.float32)

    def top(self, rows: NDArray[Any], k: int = 20, *, among: Collection[str] | None = None) -> list[tuple[str, ...]]:
        """The ``k`` words that each row (n, d_model) writes most, most first; of ``among`` alone where that is given.

        Raises:
            Refusal: as ``scores`` and ``only``.
        """
        lens = self if among is None else self.only(among)
        return [tuple(lens.words[j] for j in row) for row in lens.top_places(rows, k)]

    def top_places(self, rows: NDArray[Any], k: int) -> NDArray[np.int64]:
        """(n, k): numbers of words, never more than a batch's scores in memory."""
        k = min(k, len(self.words))
        found = [part.topk(k, dim=1).indices.cpu().numpy() for part in self._scored(rows)]
        return np.concatenate(found) if found else np.zeros((0, k), np.int64)

    def _scored(self, rows: NDArray[Any]) -> Iterator[torch.Tensor]:
        """Scores (b, W) of some rows at a time, on the lens's device."""
        rows = np.asarray(rows)
        if rows.ndim != 2 or rows.shape[1] != self.d_model:
            raise Refusal(
                f"rows of shape {rows.shape}", f"the stream of {self.ref} is {self.d_model} wide", "carry them"
            )
        starts, counts = torch.from_numpy(self.starts), torch.from_numpy(self._counts())
        further = [(counts > more).nonzero()[:, 0] for more in range(1, int(counts.max()))]
        for first in range(0, len(rows), _ROWS):
            d = torch.from_numpy(np.array(rows[first : first + _ROWS], dtype=np.float32)).to(self.rows.device)
            if not torch.isfinite(d).all():
                raise Refusal("rows", "some are NaN or infinite", "leave them out")
            if self.centred:
                d = d - d.mean(dim=1, keepdim=True)
            tokens = d @ self.rows.T
            best = tokens[:, starts.to(d.device)]
            for more, some in enumerate(further, start=1):
                other = tokens[:, (starts[some] + more).to(d.device)]
                some = some.to(d.device)
                best[:, some] = torch.maximum(best[:, some], other)
            yield best

    def _counts(self) -> NDArray[np.int64]:
        """(W,): tokens of each word."""
        return np.diff([*self.starts, len(self.rows)]).astype(np.int64)


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
        own, theirs = self.source.top_places(rows, k), self.target.top_places(images, k)
        words = [np.array(lens.words) for lens in (self.source, self.target)]
        pairs = zip(words[0][own], words[1][theirs], strict=True)
        return np.array([len(set(a) & set(b)) for a, b in pairs], dtype=np.float64)


def shared_words(a: Lens, b: Lens) -> tuple[str, ...]:
    """Words that both vocabularies can write, sorted."""
    theirs = set(b.words)
    return tuple(w for w in a.words if w in theirs)


def norm_kind(family: str) -> str | None:
    """How the final norm of a text model of this type scales: "rms" w, "one plus" 1 + w, "layer" w after centring."""
    return _KINDS.get(family)


def _settings(folder: Path, files: list[Path], what: str) -> tuple[str, bool]:
    """How the final norm scales, and whether the unembedding is the table of embeddings, by the model's config.json."""
    config = read_config(folder)
    parts = (config, config.get("text_config"))
    packed = any(part.get(name) for part in parts if isinstance(part, Mapping) for name in _PACKED)
    if packed:
        raise Refusal(what, "its weights are quantised", "use its weights in bfloat16")
    refuse_counts(folder, config, shapes_in(files, quantised=False))
    with quietly(), opening(folder / CONFIG, "transformers cannot read it"):
        told: Any = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        text = told.get_text_config()
    kind = norm_kind(str(text.model_type))
    if kind is None:
        why = f"how the final norm of {shown(text.model_type)} models scales is not known here"
        raise Refusal(what, f"{why} (known: {', '.join(_KINDS)})", "do without")
    return kind, bool(getattr(told, "tie_word_embeddings", False) or getattr(text, "tie_word_embeddings", False))


def _only_one(names: Collection[str], pattern: re.Pattern[str], called: str, what: str) -> str:
    """The one array of that name."""
    found = sorted(name for name in names if pattern.match(name))
    if len(found) != 1:
        held = f"{len(found)} arrays could be it ({listed(found, 2)})" if found else "no array of a known name is it"
        raise Refusal(what, f"its {called} was not found: {held}", "do without")
    return found[0]


def _unembedding(stored: Mapping[str, ArraysFile], tied: bool, what: str) -> str:
    """The stored unembedding, or the table of embeddings where the model says that they are one."""
    apart = any(_HEAD.match(name) for name in stored)
    head = _only_one(stored, _HEAD, "unembedding", what) if apart else None
    if head is None and not tied:
        raise Refusal(what, "it stores no unembedding, and its config.json does not tie it to its embeddings", AGAIN)
    if head is not None and not tied:
        return head
    table = _only_one(stored, _TABLE, "table of embeddings", what)
    if head is not None and not _alike(stored, head, table):
        raise Refusal(what, f"its config.json ties {head} to {table}, and they are stored with other numbers", AGAIN)
    return table


def _alike(stored: Mapping[str, ArraysFile], first: str, second: str) -> bool:
    """Whether two matrices hold the same numbers, told by some of their rows."""
    a, b = stored[first].shapes[first], stored[second].shapes[second]
    some = np.unique(np.linspace(0, a[0] - 1, 64).astype(np.int64))
    return a == b and np.array_equal(stored[first].array(first).rows(some), stored[second].array(second).rows(some))


def _numbers(stored: Mapping[str, ArraysFile], name: str, rows: Sequence[int] | None, what: str) -> Floats:
    """An array, or some of its rows, as float32; refuse what is not finite."""
    array = stored[name].array(name)
    found = np.asarray(array.whole() if rows is None else array.rows(rows), dtype=np.float32)
    if not np.isfinite(found).all():
        raise Refusal(what, f"its {name} holds NaN or infinite numbers", "get the published files again")
    return np.ascontiguousarray(found)


def _vocabulary(tokenizer: Any, size: int, what: str) -> tuple[list[int], tuple[str, ...], NDArray[np.int64]]:
    """Ids of tokens that write a word, word after word; the words; where each word's ids begin."""
    found: dict[str, list[int]] = {}
    bytes_of = decoders.ByteLevel()
    for piece, number in tokenizer.get_vocab().items():
        if not piece.startswith((BYTES, PLAIN)) or number >= size:
            continue
        # Vocabularies of bytes write each byte as a letter: é is two of them, and half a character looks like a word.
        bare = (bytes_of.decode([piece])[1:] if piece.startswith(BYTES) else piece[1:]).lower()
        if len(bare) >= LETTERS and bare.isalpha():
            found.setdefault(bare, []).append(number)
    if not found:
        why = f"no token of its vocabulary is a word with a space before it ({BYTES} or {PLAIN})"
        raise Refusal(what, why, "do without")
    words = tuple(sorted(found))
    counts = np.array([len(found[word]) for word in words], dtype=np.int64)
    return [number for word in words for number in sorted(found[word])], words, np.cumsum(counts) - counts
