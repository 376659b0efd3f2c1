"""Read a model's residual stream over texts: pooled per text, or at aligned token ends of two models.

In: texts and models. Out: numpy activations, float32, with the document and character end of each row. Leaves out the
first position (an attention sink in SmolLM2, BOS in Gemma), norm outliers and rows that are not finite, and counts what
it left out. Refuses more than 1 % of rows that are not finite; pooling refuses fewer than two texts and texts without a
row.

What an outlier is, is settled on a few texts chosen by their digest and read in one batch of their own: how the rest
are batched or ordered has no part in which rows are left out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from dragoman.core import Floats, Refusal, Site
from dragoman.models.batches import Batch
from dragoman.models.encode import Encoded, cut_at, encode_texts, whole_characters
from dragoman.models.load import check_site, decoder_blocks, hidden_of, load_model, text_stack
from dragoman.models.sizes import model_ref
from dragoman.store import refuse_alike

Progress = Callable[[int, int], None]
OUTLIER = 5.0  # times the median norm; alignment.md section 3: sinks are tens of times the median
PILOT = 32  # texts whose tokens give the median norm: a thousand tokens or two
MAX_TOKENS = 256
# Not finite at most. Sinks are the model's own and few; a number that is not finite is the dtype's fault. Overflow
# takes the longest rows first and then, through attention, what follows them: the rest is no fair sample of the texts.
UNDEFINED = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRows:
    """Activations of single tokens, in document order.

    ``x``: (n, d_model) float32, in numpy, or in torch on the model's device where rows stay there; ``document``: (n,)
    index of the text; ``end``: (n,) character offset at which the token ends; ``position``: (n,) token position;
    ``dropped``: how many were left out, norm outliers and ``undefined`` ones, which are not finite. Left out besides:
    ``special`` tokens, which have no characters, and ``first`` positions, which have some.
    """

    x: Any
    document: NDArray[np.int64]
    end: NDArray[np.int64]
    position: NDArray[np.int64]
    dropped: int
    special: int = 0
    first: int = 0
    undefined: int = 0

    @property
    def seen(self) -> int:
        """Rows that were looked at: kept and dropped ones."""
        return len(self.x) + self.dropped


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """A model opened to be read at one site."""

    site: Site
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast

    @classmethod
    def open(
        cls, site: Site, *, dtype: str = "float32", device: str = "cpu", upto: int | None = None, whole: bool = False
    ) -> Reader:
        """Load the model of a site, up to its block alone where the family is known to take that (``models.first``).

        Args:
            site: where it is read.
            dtype: it computes in.
            device: it runs on.
            upto: a later block up to which it is loaded, where that is read too.
            whole: load all of it: who steers it, lets it write or looks at other blocks needs what comes behind.
        """
        last = None if whole else max(site.block, site.block if upto is None else upto)
        model, tokenizer = load_model(model_ref(site), dtype=dtype, device=device, upto=last)
        return cls(site=site, model=model, tokenizer=tokenizer)

    @property
    def dtype(self) -> str:
        """What it computes in."""
        return str(self.model.dtype)

    @property
    def width(self) -> int:
        """Width of the stream at the site; refuses a block the model does not have."""
        return check_site(self.site, self.model)

    def pilot(self, texts: Sequence[str]) -> TokenRows:
        """Rows of any length of at most 32 of the texts, their first 256 tokens, read as one batch whatever others are.

        One at a time would owe nothing to padding either, but small bfloat16 batches cost a CPU as much as large ones.

        Raises:
            Refusal: more than 1 % of them are not finite; a reading of all texts would end there too, later.
        """
        chosen = sorted(texts[i] for i in pilot_texts(texts, PILOT))
        if not chosen:
            none = np.zeros(0, dtype=np.int64)
            return TokenRows(x=np.zeros((0, 0), np.float32), document=none, end=none, position=none, dropped=0)
        (rows,) = token_rows(self, chosen, batch_size=len(chosen), typical=np.inf)
        refuse_undefined(rows.undefined, rows.seen, self.site, self.model.dtype)
        return rows

    def typical(self, texts: Sequence[str]) -> float:
        """Median norm over the pilot's tokens; infinite where there are none, so that nothing is an outlier."""
        return median_norm(self.pilot(texts).x)

    def ends(self, texts: Sequence[str], *, max_tokens: int = MAX_TOKENS) -> list[NDArray[np.int64]]:
        """Of each text the characters at which its tokens end, rising: also of those that `rows` leaves out."""
        return ends_of(self.tokenizer, texts, max_tokens)

    def prepared(self, texts: Sequence[str], *, max_tokens: int = MAX_TOKENS) -> Batch:
        """A few texts, ready to be read together; made beforehand, it spares a device waiting for it."""
        encoded = encoded_whole(self.tokenizer, texts, max_tokens)
        batch = Batch.of(encoded, shortest_first(encoded), self.pad)
        return batch.pinned() if self.model.device.type == "cuda" else batch

    @property
    def pad(self) -> int:
        """What fills up the shorter texts of a batch."""
        pad: Any = self.tokenizer.pad_token_id
        return pad or 0

    def rows(
        self,
        texts: Sequence[str],
        typical: float | None = None,
        *,
        batch_size: int = 32,
        max_tokens: int = MAX_TOKENS,
        stay: bool = False,
        prepared: Batch | None = None,
    ) -> TokenRows:
        """Every token of a few texts, one block of rows; those longer than 5 times ``typical`` are left out.

        ``typical`` is these texts' own when left out: read in pieces, pass that of all the texts. ``stay``: whether
        rows stay on the model's device, in torch. ``prepared``: all of these texts, where that was made before.
        """
        batches = None if prepared is None else [prepared]
        parts = list(
            token_rows(
                self, texts, batch_size=batch_size, max_tokens=max_tokens, typical=typical, stay=stay, batches=batches
            )
        )
        if len(parts) == 1:
            return parts[0]
        return TokenRows(
            x=torch.cat([p.x for p in parts]) if stay else np.concatenate([p.x for p in parts]),
            document=np.concatenate([p.document for p in parts]),
            end=np.concatenate([p.end for p in parts]),
            position=np.concatenate([p.position for p in parts]),
            dropped=sum(p.dropped for p in parts),
            special=sum(p.special for p in parts),
            first=sum(p.first for p in parts),
            undefined=sum(p.undefined for p in parts),
        )


def open_both(source: Site, target: Site, *, dtype: str = "float32", device: str = "cpu") -> tuple[Reader, Reader]:
    """Two models, opened as `Reader.open` does; one that is read at two blocks is opened once."""
    if model_ref(source) == model_ref(target):
        first = Reader.open(source, upto=target.block, dtype=dtype, device=device)
        return first, replace(first, site=target)
    return Reader.open(source, dtype=dtype, device=device), Reader.open(target, dtype=dtype, device=device)


def ends_of(tokenizer: Any, texts: Sequence[str], max_tokens: int) -> list[NDArray[np.int64]]:
    """Of each text the characters at which its tokens end, rising; of a model that is not opened its tokenizer does."""
    spans = encoded_whole(tokenizer, texts, max_tokens).spans
    return [np.unique(np.array([end for begin, end in own if end > begin], np.int64)) for own in spans]


def refuse_undefined(undefined: int, seen: int, site: Site, dtype: object) -> None:
    """Refuse a reading of which more than 1 % is not finite; the sentence says what to do instead."""
    if undefined > UNDEFINED * seen:
        half = str(dtype).endswith("float16") and not str(dtype).endswith("bfloat16")
        raise Refusal(
            f"reading {site} in {str(dtype).removeprefix('torch.')}",
            f"{undefined} of {seen} activations are NaN or infinite ({undefined / seen:.1%}; {UNDEFINED:.0%} at most)",
            "use bfloat16, whose range is that of float32" if half else "check the model's weights",
        )


@contextmanager
def reading(model: PreTrainedModel, block: int) -> Iterator[list[torch.Tensor]]:
    """Inside, a forward pass stops after ``block`` and leaves that block's output as the list's only entry."""
    stack, blocks, caught = text_stack(model), decoder_blocks(model), []

    def catch(_module: nn.Module, _args: Any, output: Any) -> None:
        caught[:] = [hidden_of(output)]

    handle = blocks[block].register_forward_hook(catch)
    # Later blocks cannot change this one's output: leave them out instead of paying for them.
    stack.layers = nn.ModuleList(blocks[: block + 1])
    try:
        yield caught
    finally:
        handle.remove()
        stack.layers = blocks


def pilot_texts(texts: Sequence[str], most: int) -> list[int]:
    """Which texts an outlier is judged by: ``most`` distinct ones of smallest digest, whatever their order."""
    found: dict[bytes, int] = {}
    for i, text in enumerate(texts):
        found.setdefault(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest(), i)
    return [found[key] for key in sorted(found)[:most]]


def unit_sum(x: NDArray[Any]) -> NDArray[np.float64]:
    """Sum (d,) of rows (n, d) each brought to unit length."""
    wide = np.asarray(x, dtype=np.float64)
    return (wide / np.linalg.norm(wide, axis=1, keepdims=True)).sum(axis=0)


def median_norm(x: Floats) -> float:
    """Median length of rows (n, d); infinite without any."""
    return float(np.median(np.linalg.norm(x.astype(np.float64), axis=1))) if len(x) else np.inf


def lengths(rows: Floats | torch.Tensor) -> Floats:
    """Lengths (n,) of rows on either side, on the host."""
    if isinstance(rows, torch.Tensor):
        return torch.linalg.vector_norm(rows, dim=1).cpu().numpy()
    return np.linalg.norm(rows, axis=1)


def on_host(rows: Floats | torch.Tensor) -> Floats:
    """The same rows as numpy."""
    return rows.cpu().numpy() if isinstance(rows, torch.Tensor) else rows


@torch.inference_mode()
def token_rows(
    reader: Reader,
    texts: Sequence[str],
    *,
    batch_size: int = 32,
    max_tokens: int = MAX_TOKENS,
    typical: float | None = None,
    until: Sequence[int] | None = None,
    progress: Progress | None = None,
    stay: bool = False,
    batches: Iterable[Batch] | None = None,
) -> Iterator[TokenRows]:
    """Activations at a site, batch by batch (documents of similar length together, so little is padded).

    Special tokens (no characters) and position 0 are left out, and so are rows that are not finite or longer than 5
    times ``typical``, that of these texts unless another is given (infinite to keep every length).
    ``until``: the character up to which each text is read, where that is not as far as ``max_tokens`` reach.
    ``stay``: whether rows stay on the model's device, in torch. ``batches``: the texts, where they were prepared.
    """
    model, site = reader.model, reader.site
    check_site(site, model)
    if typical is None:
        typical = reader.typical(texts)
    if batches is None:
        batches = _batches(reader, texts, batch_size, max_tokens, until)
    base: Any = text_stack(model)
    done = 0
    with reading(model, site.block) as caught:
        for batch in batches:
            ids, mask = (part.to(model.device, non_blocking=True) for part in (batch.ids, batch.mask))
            base(input_ids=ids, attention_mask=mask, use_cache=False)
            yield _keep(caught[0], batch, OUTLIER * typical, stay=stay)
            done += len(batch.ids)
            if progress:
                progress(done, len(texts))


def _batches(
    reader: Reader, texts: Sequence[str], batch_size: int, max_tokens: int, until: Sequence[int] | None
) -> Iterator[Batch]:
    encoded = encoded_whole(reader.tokenizer, texts, max_tokens)
    if until is not None:
        encoded = cut_at(encoded, until)
    order = shortest_first(encoded)
    for start in range(0, len(order), batch_size):
        yield Batch.of(encoded, order[start : start + batch_size], reader.pad)


def shortest_first(encoded: Encoded) -> list[int]:
    """Which text comes when: those of similar length together, so that little is padded."""
    return sorted(range(len(encoded.ids)), key=lambda i: len(encoded.ids[i]))


def encoded_whole(tokenizer: Any, texts: Sequence[str], max_tokens: int = MAX_TOKENS) -> Encoded:
    """Texts as tokens that bear characters they have read whole."""
    encoded = encode_texts(tokenizer, texts, max_tokens)
    spans = [whole_characters(text, own, max_tokens) for text, own in zip(texts, encoded.spans, strict=True)]
    return Encoded(ids=encoded.ids, spans=spans)


def _keep(hidden: torch.Tensor, batch: Batch, longest: float, *, stay: bool) -> TokenRows:
    """Of a block's output (b, width, d_model) the rows that are kept."""
    row, position = (part.to(hidden.device, non_blocking=True) for part in (batch.row, batch.position))
    there = hidden[row, position].float()
    x = there if stay else on_host(there)
    norms = lengths(x)
    finite = np.isfinite(norms)
    keep = finite & (norms <= longest)
    return TokenRows(
        x=x if keep.all() else x[keep] if isinstance(x, np.ndarray) else x[torch.from_numpy(keep)],
        document=batch.document[keep],
        end=batch.end[keep],
        position=batch.position.numpy()[keep],
        dropped=int((~keep).sum()),
        special=batch.special,
        first=batch.first,
        undefined=int((~finite).sum()),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Pooled:
    """Mean activation of each text.

    ``rows``: (n_texts, d_model) float32; ``unit_mean``: (d_model,) mean of the unit-normalised token activations that
    went into them, ``tokens`` of them; ``dropped``: left out, norm outliers and ``undefined`` ones, not finite.
    """

    rows: Floats
    unit_mean: Floats
    tokens: int
    dropped: int
    undefined: int = 0


def pool(reader: Reader, texts: Sequence[str], **how: Any) -> Pooled:
    """Mean over each text's tokens, first position and outliers left out (the post's mode)."""
    width, site = reader.width, reader.site
    refuse_alike(texts, 2, "a map is fitted over several documents")
    total, count, units = np.zeros((len(texts), width)), np.zeros(len(texts)), np.zeros(width)
    dropped = undefined = 0
    for rows in token_rows(reader, texts, **how):
        x = rows.x.astype(np.float64)
        np.add.at(total, rows.document, x)
        np.add.at(count, rows.document, 1.0)
        units += unit_sum(x)
        dropped += rows.dropped
        undefined += rows.undefined
    n = int(count.sum())
    refuse_undefined(undefined, n + dropped, site, reader.model.dtype)
    if (count == 0).any():
        _refuse_without_rows(int(np.argmin(count)), reader.tokenizer, texts, site)
    return Pooled(
        rows=(total / count[:, None]).astype(np.float32),
        unit_mean=(units / n).astype(np.float32),
        tokens=n,
        dropped=dropped,
        undefined=undefined,
    )


def _refuse_without_rows(number: int, tokenizer: Any, texts: Sequence[str], site: Site) -> None:
    """Say why a text has no row: it has no token after the first, or those it has were left out."""
    (spans,) = encoded_whole(tokenizer, [texts[number]]).spans
    if any(end > begin for begin, end in spans[1:]):
        why = f"all its activations at {site} are outliers or not finite"
        raise Refusal(f"text {number}", why, "leave that text out")
    raise Refusal(f"text {number}", "it has no token after the first", "leave empty or one-word texts out")


def shared_ends(source: TokenRows, target: TokenRows) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of the two that end at the same character of the same document: equal ends are equal prefixes.

    Where several tokens of one model share an end (pieces of one character) the last is taken.
    """
    stride = int(max(source.end.max(initial=0), target.end.max(initial=0))) + 1
    keys = [rows.document * stride + rows.end for rows in (source, target)]
    picks = []
    for key in keys:
        # np.unique keeps the first of equals: search from the back to keep the last piece.
        values, first = np.unique(key[::-1], return_index=True)
        picks.append((values, len(key) - 1 - first))
    common, left, right = np.intersect1d(picks[0][0], picks[1][0], return_indices=True)
    del common
    return picks[0][1][left], picks[1][1][right]
