"""A few rows said by the plain loop and by vLLM: one that reads embeddings otherwise is refused, not believed.

In: a model, a feed of a few vectors; then what vLLM said of the same. Out: nothing. Refuses tokens that the model
itself finds less likely than others, and log-probabilities that are not the model's own.

The loop's whole distributions are kept, so that each of vLLM's tokens is weighed by the model, under the same tokens
before it, up to and with the first that differs; the model itself may leave the device meanwhile. Embeddings that are
scaled twice, cut, or mixed up between rows give other distributions from the first token on. In half precision only
what changes a token by a tenth of a nat is told from rounding: who wants to be sure of a new version tries float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache

from dragoman.core import Refusal
from dragoman.models.choose import refuse_undefined
from dragoman.models.contracts.base import Feed

ROWS, TOKENS = 8, 8  # that are compared
INSTEAD = "use --engine captured or loop, or a vLLM that it is known to run with (see docs/performance.md)"
# Nats of one token that other sums in float32 explain: 5e-6 is what was measured.
_CLOSE = 1e-2
# In half precision, of the mean over all tokens: 0.005 is what engines of dragoman's own differ by on an H200.
_CLOSE_HALF = 0.1


@dataclass(frozen=True, slots=True)
class Reference:
    """What the plain loop says of n rows: ``ids`` (n, steps), and ``logs`` (n, steps, vocabulary) in nats.

    ``kind``: what the model computes in.
    """

    ids: torch.Tensor
    logs: torch.Tensor
    kind: torch.dtype

    def within(self, steps: int) -> Reference:
        """Its first tokens."""
        return Reference(self.ids[:, :steps], self.logs[:, :steps], self.kind)


@dataclass(frozen=True, slots=True)
class Apart:
    """How far vLLM is from the model over ``tokens`` tokens, in nats; ``mean`` and ``most`` of either measure.

    ``reported``: of log-probabilities from the model's own. ``behind``: how much less likely its tokens are than the
    likeliest.
    """

    tokens: int
    reported_mean: float
    reported_most: float
    behind_mean: float
    behind_most: float

    def holds(self, kind: torch.dtype, *, drawn: bool = False) -> bool:
        """Whether rounding explains it; what is no number is not explained. ``drawn``: words need not be likeliest."""
        if kind is torch.float32:
            return self.reported_most <= _CLOSE and (drawn or self.behind_most <= _CLOSE)
        return self.reported_mean <= _CLOSE_HALF and (drawn or self.behind_mean <= _CLOSE_HALF)


@torch.inference_mode()
def reference(net: Any, feed: Feed, steps: int = TOKENS) -> Reference:
    """The likeliest tokens of each row, one eager step after another; a token that ends a text ends nothing here.

    Args:
        net: the model.
        feed: of a few rows, without hooks.
        steps: tokens of each.

    Raises:
        Refusal: logits that are no numbers.
    """
    cache = DynamicCache(config=net.config)
    inputs: dict[str, torch.Tensor] = {"inputs_embeds": feed.embeddings}
    ids, logs = [], []
    for _ in range(steps):
        logits = net(**inputs, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1].float()
        refuse_undefined(logits.amax(dim=-1))
        logs.append(logits.log_softmax(dim=-1).cpu())
        chosen = logits.argmax(dim=-1)
        ids.append(chosen.cpu())
        inputs = {"input_ids": chosen[:, None]}
    return Reference(torch.stack(ids, dim=1), torch.stack(logs, dim=1), net.dtype)


def apart(wanted: Reference, ids: Sequence[Sequence[int]], sure: Sequence[Sequence[float]]) -> Apart:
    """How far rows of vLLM are from the model's own.

    Args:
        wanted: what the loop says.
        ids: tokens of each row, as many as the reference has or fewer.
        sure: natural-log probability of each.
    """
    reported, behind = [], []
    for row, (said, told) in enumerate(zip(ids, sure, strict=True)):
        for step, (token, log) in enumerate(zip(said, told, strict=True)):
            weighed = wanted.logs[row, step]
            reported.append(abs(log - float(weighed[token])))
            behind.append(float(weighed.max() - weighed[token]))
            if token != int(wanted.ids[row, step]):
                break  # what follows stands behind other tokens
    found = torch.tensor([reported, behind], dtype=torch.float64)
    mean, most = found.mean(dim=1).tolist(), found.amax(dim=1).tolist()
    return Apart(len(reported), mean[0], most[0], mean[1], most[1])


def refuse_other(
    wanted: Reference, ids: Sequence[Sequence[int]], sure: Sequence[Sequence[float]], what: str, *, drawn: bool = False
) -> Apart:
    """Refuse what rounding does not explain; ``what``: how refusals call vLLM. How far it is, where it is let through.

    ``drawn``: the tokens were drawn above temperature 0, so their log-probabilities alone are weighed.

    Raises:
        Refusal: vLLM says other words than the model, or reports other log-probabilities, or says nothing.
    """
    if len(ids) != len(wanted.ids) or not all(len(one) == wanted.ids.shape[1] for one in ids):
        raise Refusal(
            what, f"it said {[len(one) for one in ids]} tokens where {wanted.ids.shape[1]} were asked", INSTEAD
        )
    found = apart(wanted, ids, sure)
    if not found.holds(wanted.kind, drawn=drawn):
        why = (
            f"it does not say what the plain loop says of the same embeddings (of {found.tokens} tokens its "
            f"log-probabilities are {found.reported_mean:.3g} nats off, at most {found.reported_most:.3g}, and its "
            f"words {found.behind_mean:.3g} less likely than the model's own, at most {found.behind_most:.3g})"
        )
        raise Refusal(what, why, INSTEAD)
    return found
