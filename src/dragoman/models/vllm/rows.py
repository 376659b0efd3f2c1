"""What a vLLM in this process and one on a server have in common: what they are handed, and what is believed of them.

In: a model that transformers opened, what ends a row, and for each row what its contract feeds. Out: token ids and
log-probabilities of every row, as of the other engines. Refuses embeddings that vLLM would cast or hang on,
temperatures it would change, rows that ended by no rule of ours, and what the canary refuses.

vLLM draws with a seed a row, so equal seeds give equal words whatever else is in the batch; they are other words than
the loop's, which draws by other rules.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from dragoman.core import Refusal
from dragoman.models.captured import AT_ONCE, FeedOf, RowTokens
from dragoman.models.choose import Ending, undefined
from dragoman.models.contracts.base import Feed
from dragoman.models.vllm import canary
from dragoman.models.vllm.weights import LOOP

WHAT = "vLLM"
COLDEST = 0.01  # below, vLLM draws at this, and warns
_FAULT = "report this as a fault of dragoman"


class HowSaid(NamedTuple):
    """How rows are said: at most ``most`` tokens each, by ``seeds`` of their own above temperature 0.

    ``ends``: whether what ends a text ends a row; else each has ``most`` tokens.
    """

    most: int
    temperature: float = 0.0
    seeds: Sequence[int] | None = None
    ends: bool = True


class RowsByVllm(ABC):
    """VLLM on one verbalizer's model.

    ``net``, ``ending``: as the other engines have them. ``folder``: gives the folder that vLLM loads, when it is
    needed. ``trial``: gives the feed of the canary's rows. ``dtype``: what it computes in. ``compared``: how far
    vLLM was from the loop, once it has been.
    """

    def __init__(
        self, net: Any, ending: Ending, *, folder: Callable[[], Path], trial: Callable[[], Feed], dtype: str
    ) -> None:
        """Nothing is started yet."""
        self._net, self._ending, self._folder, self._trial, self._dtype = net, ending, folder, trial, dtype
        table = net.get_input_embeddings().weight
        self._device, self._width = table.device, int(table.shape[1])
        self.compared: canary.Apart | None = None

    @property
    @abstractmethod
    def name(self) -> str:
        """Which vLLM: what decides its words, beside the model."""

    @property
    @abstractmethod
    def together(self) -> int:
        """How many rows a call had best be given."""

    @abstractmethod
    def close(self) -> None:
        """Give back what it holds; it starts again when rows are said."""

    @abstractmethod
    def _ready(self, length: int, how: HowSaid) -> None:
        """Have a vLLM that the canary lets through, with room for prompts of ``length`` and what is asked."""

    @abstractmethod
    def _said(self, prompts: list[torch.Tensor], how: HowSaid) -> list[tuple[RowTokens, str]]:
        """Ids and log-probabilities of each row, and what vLLM says it ended by."""

    def say(
        self,
        feed_of: FeedOf,
        count: int,
        most: int,
        *,
        temperature: float = 0.0,
        seeds: Sequence[int] | None = None,
    ) -> list[RowTokens]:
        """Ids and log-probabilities of ``count`` rows of at most ``most`` tokens each.

        Args:
            feed_of: what a contract feeds for a range of rows.
            count: rows.
            most: tokens of each.
            temperature: 0 takes the likeliest; above it, ``seeds`` decide what is drawn.
            seeds: each row's own.

        Returns:
            Ids and natural-log probabilities at temperature 1 of each row, the token that ends it included.

        Raises:
            Refusal: as the module says; or vLLM cannot be had, with what it says.
        """
        if temperature > 0 and seeds is None:
            raise ValueError("a temperature above 0 needs seeds to draw by")
        refuse_cold(temperature)
        parts = [range(at, min(at + AT_ONCE, count)) for at in range(0, count, AT_ONCE)]
        prompts = [row for part in parts for row in self._prompts(feed_of(part), len(part))]
        how = HowSaid(most, temperature, seeds)
        self._ready(len(prompts[0]), how)
        return [self._checked(*one, most) for one in self._said(prompts, how)]

    def _weigh(self, wanted: canary.Reference, prompts: list[torch.Tensor], temperature: float = 0.0) -> None:
        """Refuse a vLLM that says something else than the model of the canary's rows."""
        seeds = range(len(prompts)) if temperature > 0 else None
        told = self._said(prompts, HowSaid(wanted.ids.shape[1], temperature, seeds, ends=False))
        ids, sure = [one[0] for one, _ in told], [one[1] for one, _ in told]
        found = canary.refuse_other(wanted, ids, sure, self.name, drawn=temperature > 0)
        self.compared = self.compared if temperature > 0 else found

    def _prompts(self, feed: Feed, count: int) -> list[torch.Tensor]:
        """Embeddings (T, d_model) of each row, on the CPU; refuse what vLLM would cast, misread or hang on."""
        given = feed.embeddings
        kind = self._net.get_input_embeddings().weight.dtype
        if feed.hooks:
            raise Refusal(WHAT, "hooks act inside the model, and it takes embeddings alone", LOOP)
        if given.ndim != 3 or given.shape[0] != count or given.shape[2] != self._width or not given.shape[1]:
            why = f"they are {tuple(given.shape)}, and ({count}, tokens, {self._width}) is wanted"
            raise Refusal(f"embeddings for {WHAT}", why, _FAULT)
        if given.dtype != kind:
            raise Refusal(f"embeddings for {WHAT}", f"they are {given.dtype}, and it computes in {kind}", _FAULT)
        if not bool(torch.isfinite(given).all()):
            raise Refusal(f"embeddings for {WHAT}", "some are NaN or infinite", "use bfloat16 or float32")
        return list(given.to("cpu").contiguous().unbind(0))

    def _checked(self, told: RowTokens, reason: str, most: int) -> RowTokens:
        """A row up to where it ends by our rule; refuse one that ended by another."""
        ids, sure = told
        end = self._ending.within(ids)
        if end is None and len(ids) != most:
            why = f"it ended a row after {len(ids)} tokens (by {reason}), where none of ours ends"
            raise Refusal(self.name, why, canary.INSTEAD)
        return ids[:end], sure[:end]


def counted(ids: list[int], sure: list[float], numbers: int) -> RowTokens:
    """A row whose ids and log-probabilities were read; refuse those that are no numbers, or not one a token."""
    if not ids or numbers != len(ids):
        raise Refusal(WHAT, f"it gave {len(ids)} tokens and {numbers} numbers", canary.INSTEAD)
    if not torch.isfinite(torch.tensor(sure)).all():
        raise undefined()
    return ids, sure


def refuse_cold(temperature: float) -> None:
    """Refuse temperatures that vLLM would change."""
    if 0 < temperature < COLDEST:
        raise Refusal(f"temperature {temperature:g} by {WHAT}", f"it draws at {COLDEST:g} instead", LOOP)
