"""A contract's changes of blocks' outputs, in force while a prompt is read and gone afterwards.

In: a model, the hooks of a feed, and how many positions were read before. Out: a context in which they act.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from dragoman.models.contracts.base import Hook
from dragoman.models.load import decoder_blocks, hidden_of


@contextmanager
def hooked(net: Any, hooks: Sequence[Hook], shared: int, shape: tuple[int, int] | None = None) -> Iterator[None]:
    """Inside, blocks' outputs are changed as hooks say, their positions counted from behind the shared ones.

    ``shape``: rows and positions, where a block's output has them as one dimension: (rows * positions, 1, d_model).
    """
    blocks = decoder_blocks(net)
    with ExitStack() as handles:
        for hook in hooks:
            handle = blocks[hook.block].register_forward_hook(_changing(hook, shared, shape))
            handles.callback(handle.remove)
        yield


def _changing(hook: Hook, shared: int, shape: tuple[int, int] | None) -> Any:
    places = [position - shared for position in hook.positions]

    def change(_module: Any, _args: Any, output: Any) -> Any:
        hidden: torch.Tensor = hidden_of(output).clone()
        rows = hidden if shape is None else hidden.view(*shape, hidden.shape[-1])
        rows[:, places] = hook.change(rows[:, places])
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    return change
