"""Steer a model by directions, and see which words become likelier: the one causal test of what a row writes.

In: a reader at the directions' site, directions (n, d_model), word lists. Out: a table of rises of log-probability.
Refuses directions of another width, without a length or not finite; lists without a word; a stream without a usual
length; tokenizers that write the space before a word as a token of its own. After Turner et al., "Activation Addition"
(2023, arXiv 2308.10248).

Every direction is added, at a share of the stream's usual length, to all positions of a few prompts that say nothing
in particular, after the site's block; the rise is against the same prompts without it, at the position that follows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dragoman.core import NO_LENGTH, Floats, Refusal
from dragoman.models.harvest import Reader
from dragoman.models.load import decoder_blocks, hidden_of
from dragoman.models.logits import Logits, hidden_rows, logits_of

NEUTRAL = ("The", "It is", "I think that", "There was a")
TIMES = 0.4  # of the stream's median length
_BEFORE = "The"  # what words are written after, to see their tokens
_ROWS = 64  # of the whole vocabulary's logits at a time


@torch.inference_mode()
def steering_table(
    reader: Reader,
    directions: NDArray[Any],
    word_lists: Sequence[Sequence[str]],
    *,
    median_norm: float,
    times: float = TIMES,
    prompts: Sequence[str] = NEUTRAL,
    batch_size: int = 32,
    progress: Callable[[int, int], None] | None = None,
) -> Floats:
    """(n, N): rise of the mean log-probability of list j's words when direction i is added; nats.

    A word of several tokens counts by its first (``first_tokens``). In bfloat16 a logit is known to a tenth of a nat, a
    mean over twenty words and four prompts to a hundredth.

    Args:
        reader: the model, at the site where the directions live.
        directions: (n, d_model), of any length.
        word_lists: N lists of words.
        median_norm: median length of the stream's rows at the site, as ``reader.typical`` gives it.
        times: how much of it is added.
        prompts: that are read.
        batch_size: directions at a time; every prompt is a batch of its own, so nothing is padded.
        progress: directions done with the last prompt, and all.

    Raises:
        Refusal: as the module says.
    """
    rows = _steps(reader, directions, times * median_norm)
    ids, member = _words(reader.tokenizer, word_lists)
    model, device = reader.model, reader.model.device
    ids, member, logits = ids.to(device), member.to(device), logits_of(model)
    block = decoder_blocks(model)[reader.site.block]
    total = torch.zeros((len(rows), len(word_lists)), device=device)
    for prompt in prompts:
        tokens = torch.tensor([reader.tokenizer(prompt)["input_ids"]], device=device)
        plain = _last(reader, logits, tokens, ids)
        for start in range(0, len(rows), batch_size):
            added = torch.from_numpy(rows[start : start + batch_size]).to(device, model.dtype)
            with _adding(block, added):
                found = _last(reader, logits, tokens.expand(len(added), -1), ids)
            total[start : start + len(added)] += (found - plain) @ member.T
            if progress is not None and prompt == prompts[-1]:
                progress(min(start + batch_size, len(rows)), len(rows))
    return (total / len(prompts)).cpu().numpy()


def _steps(reader: Reader, directions: NDArray[Any], length: float) -> Floats:
    """Directions (n, d_model) brought to one length."""
    rows = np.asarray(directions, dtype=np.float64)
    if rows.ndim != 2 or rows.shape[1] != reader.width:
        raise Refusal(f"directions of shape {rows.shape}", f"{reader.site} is {reader.width} wide", "carry them")
    if not (np.isfinite(length) and length > 0):
        why = f"{length:g} of it would be added, and that is no length"
        raise Refusal(f"steering at {reader.site}", why, "pass the median length of the stream's rows")
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    if not (lengths > NO_LENGTH).all() or not np.isfinite(lengths).all():
        raise Refusal("steering", "a direction has no length, or is not finite", "leave that feature out")
    return (rows / lengths * length).astype(np.float32)


@contextmanager
def _adding(block: torch.nn.Module, rows: torch.Tensor) -> Iterator[None]:
    """Inside, ``rows`` (b, d_model) are added to every position of a block's output, one to each text of the batch."""

    def change(_module: torch.nn.Module, _args: Any, output: Any) -> Any:
        hidden = hidden_of(output) + rows[:, None]
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    handle = block.register_forward_hook(change)
    try:
        yield
    finally:
        handle.remove()


def _last(reader: Reader, logits: Logits, tokens: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Log-probabilities (b, W) of the tokens ``ids`` after the last position."""
    parts = []
    for rows in hidden_rows(reader.model, tokens)[:, -1].split(_ROWS):
        every = logits(rows)
        parts.append(every.index_select(1, ids) - torch.logsumexp(every, dim=1, keepdim=True))
    found = torch.cat(parts)
    if not torch.isfinite(found).all():
        what = f"steering {reader.site} in {reader.dtype.removeprefix('torch.')}"
        raise Refusal(what, "its log-probabilities are not finite", "use bfloat16 or float32")
    return found


def _words(tokenizer: Any, lists: Sequence[Sequence[str]]) -> tuple[torch.Tensor, torch.Tensor]:
    """First tokens of all words (W,), and a matrix (N, W) that averages over each list."""
    if not lists or not all(lists):
        raise Refusal("steering", "a list holds no word", "leave that feature out")
    words = sorted({word for some in lists for word in some})
    first = {word: n for word, n in zip(words, first_tokens(tokenizer, words), strict=True) if n is not None}
    ids = sorted(set(first.values()))
    place = {number: k for k, number in enumerate(ids)}
    member = torch.zeros((len(lists), len(ids)))
    for row, some in enumerate(lists):
        able = [word for word in some if word in first]
        if not able:
            why = f"the tokenizer begins none of {', '.join(some)} with a token of its own"
            raise Refusal("steering", why, "leave that feature out")
        for word in able:
            member[row, place[first[word]]] += 1 / len(able)
    return torch.tensor(ids), member


def first_tokens(tokenizer: Any, words: Sequence[str]) -> list[int | None]:
    """The token that begins each word where it is written after another word.

    Of a word as it is given, capitalised and in capitals, the first form of fewest tokens: a vocabulary that has Paris
    whole begins "paris" with a piece of other words. Read off a text, not off the word with a space before it: some
    tokenizers put a space before every text themselves. None where every form begins with a token of nothing but the
    space, which tells the word from no other.
    """
    before = tokenizer(_BEFORE, add_special_tokens=False)["input_ids"]
    forms = [tuple(dict.fromkeys((word, word.capitalize(), word.upper()))) for word in words]
    flat = [f"{_BEFORE} {form}" for some in forms for form in some]
    whole = iter(tokenizer(flat, add_special_tokens=False)["input_ids"])
    found: list[int | None] = []
    for some in forms:
        able = [ids[len(before) :] for ids in (next(whole) for _ in some) if ids[: len(before)] == before]
        able = [ids for ids in able if ids and tokenizer.decode(ids[0]).strip()]
        found.append(int(min(able, key=len)[0]) if able else None)
    return found
