"""How much likelier a sentence makes the word that a window of text ends with.

In: a judge, sentences, windows of each. Out: one rise a window: the mean over the tokens of its last word of their
log-probability behind the sentence less that behind nothing. Refuses windows without a token behind the first, and
log-probabilities that are not finite.

Windows that end where a feature fires tell features from documents better than windows around it
(``bench/yardstick.py``), and only the last word's tokens are looked at: what the words before it share with a sentence
is the document's. A sentence is read once, and its keys and values serve all of its windows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache

from dragoman.core import Floats, Refusal
from dragoman.maps.words import word_span
from dragoman.models.encode import encode_texts
from dragoman.models.language import BEFORE, MOST, WITHOUT, Ids, Judge
from dragoman.models.load import text_stack

ROWS = 256  # windows weighed together, each behind its own copy of a sentence's keys and values
Progress = Callable[[int, int], None]
_Weighed = tuple[Ids, int]  # tokens of a window, and how many of them are its last word's


def last_word_rises(
    judge: Judge,
    sentences: Sequence[str],
    windows: Sequence[Sequence[str]],
    *,
    rows: int = ROWS,
    progress: Progress | None = None,
) -> list[Floats]:
    """Of each sentence (its windows,) float32: how much likelier it makes each window's last word, nats a token.

    Args:
        judge: an opened model.
        sentences: n texts, of which the first 256 tokens are read.
        windows: of each sentence, any number; one that several have is weighed alone once.
        rows: windows weighed together.
        progress: sentences weighed, and all.

    Raises:
        Refusal: a window without a token, or log-probabilities that are not finite.
    """
    distinct = list(dict.fromkeys(w for some in windows for w in some))
    known = dict(zip(distinct, _ids(judge, distinct), strict=True))
    bare = _behind(judge, _prompts(judge, [WITHOUT]), [[known[w] for w in distinct]], rows) if distinct else [[]]
    alone = dict(zip(distinct, bare[0], strict=True))
    prompts = _prompts(judge, [BEFORE.format(text) for text in _cut(judge, sentences)])
    found = _behind(judge, prompts, [[known[w] for w in some] for some in windows], rows, progress)
    return [
        np.array([value - alone[w] for value, w in zip(values, some, strict=True)], dtype=np.float32)
        for values, some in zip(found, windows, strict=True)
    ]


def _cut(judge: Judge, texts: Sequence[str]) -> list[str]:
    spans = encode_texts(judge.tokenizer, texts, MOST).spans if texts else []
    return [text[: max((end for _, end in own), default=0)] for text, own in zip(texts, spans, strict=True)]


def _prompts(judge: Judge, texts: Sequence[str]) -> list[Ids]:
    return encode_texts(judge.tokenizer, texts, 4 * MOST).ids if texts else []


def _ids(judge: Judge, windows: Sequence[str]) -> list[_Weighed]:
    """Tokens of each window as they stand behind a prompt, and how many belong to its last word."""
    if not windows:
        return []
    lead = len(WITHOUT) + 1
    placed = encode_texts(judge.tokenizer, [f"{WITHOUT} {window}" for window in windows], 4 * MOST)
    made = []
    for window, ids, spans in zip(windows, placed.ids, placed.spans, strict=True):
        start = lead + (word_span(window, len(window))[0] if window else 0)
        own = [(i, end) for i, (_, end) in zip(ids, spans, strict=True) if end > len(WITHOUT)][-MOST:]
        last = sum(end > start for _, end in own)
        if not window.strip() or not last:
            raise Refusal(f"window {window!r}", "it has no token to be weighed", "leave it out")
        made.append(([i for i, _ in own], last))
    return made


def _behind(
    judge: Judge,
    prompts: Sequence[Ids],
    windows: Sequence[Sequence[_Weighed]],
    rows: int,
    progress: Progress | None = None,
) -> list[list[float]]:
    """Of each prompt the mean log-probability of each window's last tokens behind it."""
    found: list[list[float]] = [[0.0] * len(some) for some in windows]
    jobs = [(k, slice(at, at + rows)) for k, some in enumerate(windows) for at in range(0, len(some), rows)]
    order = sorted(jobs, key=lambda job: (len(prompts[job[0]]), len(windows[job[0]][job[1]])))
    batch: list[tuple[int, slice]] = []
    done = 0

    def weigh() -> None:
        nonlocal done
        some = [windows[k][part] for k, part in batch]
        values = iter(_batch(judge, [prompts[k] for k, _ in batch], some))
        for k, part in batch:
            own = range(*part.indices(len(windows[k])))
            for j in own:
                found[k][j] = next(values)
        done += len(batch)
        if progress is not None:
            progress(done, len(order))

    for job in order:
        held = sum(len(windows[k][part]) for k, part in batch)
        mine = len(windows[job[0]][job[1]])
        if batch and (len(prompts[job[0]]) != len(prompts[batch[0][0]]) or held + mine > rows):
            weigh()
            batch = []
        batch.append(job)
    if batch:
        weigh()
    return found


@torch.inference_mode()
def _batch(judge: Judge, prompts: Sequence[Ids], windows: Sequence[Sequence[_Weighed]]) -> list[float]:
    """Prompts of one length are read together, and each one's keys and values stand before all of its windows."""
    model: Any = judge.model
    stack: Any = text_stack(judge.model)
    device, length = model.device, len(prompts[0])
    many = [len(some) for some in windows]
    cache = DynamicCache(config=model.config)
    begun = stack(input_ids=torch.tensor(list(prompts), device=device), past_key_values=cache, use_cache=True)
    whose = torch.repeat_interleave(torch.arange(len(many), device=device), torch.tensor(many, device=device))
    cache.reorder_cache(whose.long())  # type: ignore[arg-type]
    flat = [one for some in windows for one in some]
    width = max(len(ids) for ids, _ in flat)
    padded = torch.zeros((len(flat), width), dtype=torch.long)
    mask = torch.ones((len(flat), length + width), dtype=torch.long)
    for row, (ids, _) in enumerate(flat):
        padded[row, : len(ids)] = torch.tensor(ids)
        mask[row, length + len(ids) :] = 0
    hidden = stack(
        input_ids=padded.to(device),
        attention_mask=mask.to(device),
        position_ids=torch.arange(length, length + width, device=device)[None].expand(len(flat), -1),
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state
    # The row before a token foretells it; before a window's first token that is the prompt's last.
    before = torch.cat([begun.last_hidden_state[whose, -1:], hidden], dim=1)
    where = [
        (row, len(ids) - last + k, ids[len(ids) - last + k])
        for row, (ids, last) in enumerate(flat)
        for k in range(last)
    ]
    row, position, token = (torch.tensor(part, device=device) for part in zip(*where, strict=True))
    logits = judge.logits(before[row, position])
    value = logits.gather(1, token[:, None])[:, 0] - torch.logsumexp(logits, dim=1)
    sums = torch.zeros(len(flat), device=device).index_add_(0, row, value)
    means = (sums / torch.tensor([last for _, last in flat], device=device)).cpu().numpy()
    if not np.isfinite(means).all():
        raise Refusal("windows", "their log-probabilities are not finite", "use bfloat16 or float32")
    return means.tolist()
