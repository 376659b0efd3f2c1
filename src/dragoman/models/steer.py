"""Steer a model by directions, and see which words become likelier: the one causal test of what a row writes.

In: a reader at the directions' site, directions (n, d_model), word lists. Out: a table of rises of log-probability.
Refuses directions of another width, and lists without a word. After Turner et al., "Activation Addition" (2023).

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

from dragoman.core import Floats, Refusal
from dragoman.models.harvest import Reader
from dragoman.models.load import decoder_blocks, hidden_of

NEUTRAL = ("The", "It is", "I think that", "There was a")
TIMES = 0.4  # of the stream's median length


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

    A word of several tokens counts by its first.

    Args:
        reader: the model, at the site where the directions live.
        directions: (n, d_model), of any length.
        word_lists: N lists of words.
        median_norm: of the stream's rows.
        times: how much of it is added.
        prompts: that are read.
        batch_size: directions at a time.
        progress: directions done, and all.

    Raises:
        Refusal: as the module says.
    """
    if directions.ndim != 2 or directions.shape[1] != reader.width:
        raise Refusal(f"directions of shape {directions.shape}", f"{reader.site} is {reader.width} wide", "carry them")
    if not all(word_lists):
        raise Refusal("steering", "a list holds no word", "leave that feature out")
    model, device = reader.model, reader.model.device
    rows = np.asarray(directions, dtype=np.float32)
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True) * (times * median_norm)
    ids, member = _words(reader.tokenizer, word_lists)
    ids, member = ids.to(device), member.to(device)
    total = torch.zeros((len(rows), len(word_lists)), device=device)
    for prompt in prompts:
        tokens = torch.tensor([_encoded(reader.tokenizer, prompt)], device=device)
        plain = _last(model, tokens, ids)
        for start in range(0, len(rows), batch_size):
            added = torch.from_numpy(rows[start : start + batch_size]).to(device, model.dtype)
            with _adding(decoder_blocks(model)[reader.site.block], added):
                found = _last(model, tokens.expand(len(added), -1), ids)
            total[start : start + len(added)] += (found - plain) @ member.T
            if progress is not None and prompt == prompts[-1]:
                progress(min(start + batch_size, len(rows)), len(rows))
    return (total / len(prompts)).cpu().numpy()


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


def _last(model: Any, tokens: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Log-probabilities (b, W) of the tokens ``ids`` after the last position."""
    logits = model(input_ids=tokens, use_cache=False, logits_to_keep=1).logits[:, -1].float()
    return logits.index_select(1, ids) - torch.logsumexp(logits, dim=1, keepdim=True)


def _encoded(tokenizer: Any, prompt: str) -> list[int]:
    return tokenizer(prompt)["input_ids"]


def _words(tokenizer: Any, lists: Sequence[Sequence[str]]) -> tuple[torch.Tensor, torch.Tensor]:
    """First tokens of all words (W,), and a matrix (N, W) that averages over each list."""
    words = sorted({word for some in lists for word in some})
    encoded = tokenizer([f" {word}" for word in words], add_special_tokens=False)["input_ids"]
    first = {word: own[0] for word, own in zip(words, encoded, strict=True)}
    ids = sorted(set(first.values()))
    place = {number: k for k, number in enumerate(ids)}
    member = torch.zeros((len(lists), len(ids)))
    for row, some in enumerate(lists):
        for word in some:
            member[row, place[first[word]]] += 1 / len(some)
    return torch.tensor(ids), member
