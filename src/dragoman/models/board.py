"""What a GPU knows of every slot while many rows are said: where each stands, what it said, and what it says next.

In: logits of the rows of one step. Out: the board one token further on, in place and without waiting for the device,
and looks at it. A row is drawn or chosen by the same rules as ``choose`` has them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from dragoman.models.choose import Ending, drawn, log_probability

# A row of the board is a fact of all slots.
FACTS = 7
TOKEN, POSITION, COUNT, LIMIT, DONE, CLOSERS, UNDEFINED = range(FACTS)


class Board:
    """What the device knows of every slot.

    ``state``: (facts, slots). ``said``, ``sure``, ``uniform``: (slots, tokens) ids, their log-probabilities, and the
    numbers to draw at. ``ends``: (vocabulary,) 1 where a token surely ends a row, 2 where it may end the tag.
    ``inverse``: 1 / temperature, on the device; ``temperature``: itself, for the CPU.
    """

    def __init__(self, device: torch.device, slots: int, most: int, vocabulary: int, ending: Ending) -> None:
        """All slots are done."""
        self.state = torch.zeros(FACTS, slots + 1, dtype=torch.int32, device=device)
        self.said = torch.zeros(slots + 1, most, dtype=torch.int32, device=device)
        self.sure = torch.zeros(slots + 1, most, dtype=torch.float32, device=device)
        self.uniform = torch.zeros(slots + 1, most, dtype=torch.float64, device=device)
        self.inverse = torch.ones(1, dtype=torch.float32, device=device)
        self.temperature = 1.0
        ends = torch.zeros(vocabulary, dtype=torch.int32)
        for kind, ids in ((2, ending.closers), (1, ending.stops)):
            ends[[i for i in ids if i < vocabulary]] = kind
        self.ends = ends.to(device)


def chosen(logits: torch.Tensor, slot: torch.Tensor, board: Board, *, draws: bool) -> None:
    """Choose a token for each of logits (rows, vocabulary), the likeliest or a drawn one, and move its slot on.

    A slot that is done stays as it is; one whose count is below zero is still being fed its prompt and says nothing.
    """
    if logits.is_cuda:
        from dragoman.models import kernels

        kernels.choose(logits, slot, board, draws=draws)
    else:
        _chosen_plainly(logits, slot, board, draws=draws)


def _chosen_plainly(logits: torch.Tensor, slot: torch.Tensor, board: Board, *, draws: bool) -> None:
    state = board.state[:, slot]
    top, ids = logits.max(dim=-1)
    at = state[COUNT].clamp_min(0).long()
    if draws:
        ids = drawn(logits, board.uniform[slot, at.clamp_max(board.uniform.shape[1] - 1)], board.temperature)
    going = state[DONE] == 0
    says = going & (state[COUNT] >= 0)
    ids = ids.clamp_max(logits.shape[1] - 1)  # of logits that are no numbers any token is chosen, and refused later
    ends = board.ends[ids]
    board.said[slot[says], at[says]] = ids[says].int()
    board.sure[slot[says], at[says]] = log_probability(logits, ids)[says]
    state[TOKEN] = torch.where(says, ids.int(), state[TOKEN])
    state[CLOSERS] += (says & (ends == 2)).int()
    state[UNDEFINED] |= (going & ~torch.isfinite(top)).int()
    state[POSITION] += going.int()
    state[COUNT] += going.int()
    state[DONE] |= (says & ((ends == 1) | (state[COUNT] >= state[LIMIT]))).int()
    board.state[:, slot] = state


@dataclass(frozen=True, slots=True)
class Look:
    """What was on the board after the ``turn``-th round of steps; on its way from the device until ``wait`` returns."""

    turn: int
    state: torch.Tensor
    said: torch.Tensor
    sure: torch.Tensor
    arrived: Any

    def wait(self) -> None:
        """Until it is there."""
        if self.arrived is not None:
            self.arrived.synchronize()
