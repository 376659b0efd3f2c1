"""How much likelier a description makes a window of text: detection by likelihood.

In: a judge, descriptions, windows. Out: rises of log-probability; whether they tell firing windows from others. Refuses
windows without a token, log-probabilities that are not finite, and models whose last step is not known (``logits``).

No instruction has to be followed: the description stands before the window, and what counts is how much likelier that
becomes than behind the same prompt without one (the judges of Paulo et al., arXiv 2410.13928, are asked instead).
On the embedded pair it does not tell direct texts from those of silent tokens, so no command uses it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dragoman.core import Floats, Refusal
from dragoman.models.encode import encode_texts
from dragoman.models.language import BEFORE, MOST, Judge, padded
from dragoman.models.logits import Logits, hidden_rows, logits_of
from dragoman.stats.roc import FEWEST, auroc

WITHOUT = "Text:"
_POSITIONS = 2048  # whose whole vocabulary's logits are held at a time
Progress = Callable[[int, int], None]
Ids = list[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Detector:
    """A judge that weighs windows."""

    judge: Judge
    _logits: Logits = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """See that the model's last step is known."""
        object.__setattr__(self, "_logits", logits_of(self.judge.model))

    @torch.inference_mode()
    def surprise(
        self,
        descriptions: Sequence[str],
        windows: Sequence[Sequence[str]],
        *,
        batch_size: int = 32,
        progress: Progress | None = None,
    ) -> list[list[Floats]]:
        """Of each description and each of its windows: how much likelier each token of the window becomes by it.

        (tokens,) float32, log p(token | description, window so far) - log p(token | window so far), nats. Their mean
        weighs the window as a whole, ``most_surprised`` the place that the description tells most of. The first 256
        tokens are read, as of the description.

        Args:
            descriptions: n texts.
            windows: of each description, any number; a window that several have is weighed alone once.
            batch_size: windows weighed together.
            progress: windows weighed, and all.

        Raises:
            Refusal: a window without a token, or log-probabilities that are not finite.
        """
        own = self.judge.beginnings(descriptions)
        bare = sorted({w for some in windows for w in some})
        jobs = [(BEFORE.format(text), w) for text, some in zip(own, windows, strict=True) for w in some]
        jobs += [(WITHOUT, w) for w in bare]
        values = self._weighed(jobs, batch_size, progress)
        alone = dict(zip(bare, values[len(jobs) - len(bare) :], strict=True))
        found, at = [], 0
        for some in windows:
            found.append([v - alone[w] for v, w in zip(values[at : at + len(some)], some, strict=True)])
            at += len(some)
        return found

    def _weighed(self, jobs: Sequence[tuple[str, str]], batch_size: int, progress: Progress | None) -> list[Floats]:
        """Log-probabilities of each window's tokens after its prompt."""
        ids = self._ids(jobs)
        order = sorted(range(len(jobs)), key=lambda k: len(ids[k][0]) + len(ids[k][1]))
        found = [np.zeros(0, np.float32)] * len(jobs)
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            for k, value in zip(chosen, self._batch([ids[k] for k in chosen]), strict=True):
                found[k] = value
            if progress is not None:
                progress(min(start + batch_size, len(order)), len(order))
        return found

    def _ids(self, jobs: Sequence[tuple[str, str]]) -> list[tuple[Ids, Ids]]:
        """Token ids of prompts (with what the tokenizer puts first) and windows (as they stand behind a prompt)."""
        prompts = list(dict.fromkeys(p for p, _ in jobs))
        windows = list(dict.fromkeys(w for _, w in jobs))
        long = 4 * MOST  # nothing is cut here: descriptions have been
        begun = dict(zip(prompts, encode_texts(self.judge.tokenizer, prompts, long).ids, strict=True))
        placed = encode_texts(self.judge.tokenizer, [f"{WITHOUT} {w}" for w in windows], long)
        behind = {
            w: [i for i, (_, end) in zip(ids, spans, strict=True) if end > len(WITHOUT)][:MOST]
            for w, ids, spans in zip(windows, placed.ids, placed.spans, strict=True)
        }
        empty = next((w for w in windows if not w.strip() or not behind[w]), None)
        if empty is not None:
            raise Refusal(f"window {empty!r}", "it has no token to be weighed", "leave it out")
        return [(begun[p], behind[w]) for p, w in jobs]

    def _batch(self, ids: Sequence[tuple[Ids, Ids]]) -> list[Floats]:
        """Log-probabilities of the second ids after the first, nats, and after those before them."""
        device = self.judge.model.device
        rows, mask = padded([a + b for a, b in ids], left=False)
        hidden = hidden_rows(self.judge.model, rows.to(device), mask.to(device))
        where = [(row, len(a) + k - 1, b[k]) for row, (a, b) in enumerate(ids) for k in range(len(b))]
        row, position, token = (torch.tensor(part, device=device) for part in zip(*where, strict=True))
        parts = []
        for start in range(0, len(row), _POSITIONS):
            part = slice(start, start + _POSITIONS)
            logits = self._logits(hidden[row[part], position[part]])
            parts.append(logits.gather(1, token[part, None])[:, 0] - torch.logsumexp(logits, dim=1))
        flat = torch.cat(parts).cpu().numpy()
        if not np.isfinite(flat).all():
            raise Refusal("windows", "their log-probabilities are not finite", "use bfloat16 or float32")
        return np.split(flat, np.cumsum([len(b) for _, b in ids])[:-1])


def most_surprised(rises: NDArray[Any], most: int = 3) -> float:
    """Mean of the ``most`` largest rises of a window's tokens: a feature fires at one place, not all over a window."""
    return float(np.sort(rises)[-most:].mean()) if len(rises) else 0.0


def detection_auroc(
    rises: Sequence[Sequence[float] | NDArray[Any]], firing: Sequence[Sequence[bool]]
) -> NDArray[np.float64]:
    """(n,): how often a description's rise is larger at a window in which its latent fires than at one in which not.

    Args:
        rises: of each description, one number a window, such as the mean of what ``Judge.surprise`` gives.
        firing: of each description, whether the latent fires in each of the windows.

    Returns:
        Areas under the ROC curve; NaN where there are fewer than three windows of either kind.

    Raises:
        Refusal: a description with other numbers of rises and of windows.
    """
    if len(rises) != len(firing) or any(len(a) != len(b) for a, b in zip(rises, firing, strict=True)):
        raise Refusal("detection", "rises and windows do not go together", "pass one number and one answer a window")
    found = np.full(len(rises), np.nan)
    for k, (values, fires) in enumerate(zip(rises, firing, strict=True)):
        where = np.asarray(fires, dtype=bool)
        if min(int(where.sum()), int((~where).sum())) >= FEWEST:
            found[k] = auroc(np.asarray(values)[where], np.asarray(values)[~where])
    return found
