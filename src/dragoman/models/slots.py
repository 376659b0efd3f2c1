"""Attention of rows over slots of a preallocated cache: what rows share is kept once, what is a row's own in its slot.

In: a transformers model whose attention enters by its attention interface. Out: the same modules, run over rows that
each stand at a position of their own. Refuses attention that is none of ours: without query, key and value
projections, with softcaps or sinks, on several devices.

A model is called without a cache and without a mask; its modules then hand the new queries, keys and values, normed and
turned, to ``slot_attention``, and with them the rows (slot and position). Keys and values hang on the attention modules
as ``slot_tables``: those of the shared positions (kv heads, P, d) once, and (slots, kv heads, own, d) behind them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from dragoman.core import Refusal
from dragoman.models.load import decoder_blocks, text_stack

NAME = "dragoman_slots"
FAR = 1 << 30  # a window that shuts nothing out
LOOP = "use --engine loop"
_SETTING = "_attn_implementation"  # transformers tells which attention is set under no other name
_TABLES = ("shared_keys", "shared_values", "own_keys", "own_values")

Tables = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


@dataclass(eq=False)  # plain, so that torch.compile sees its tensors
class Rows:
    """Where the rows of one call stand.

    ``slot``, ``position``: (rows,) int64 each. ``kind``: "shared", the rows are the shared positions themselves;
    "prompt", positions of prompts behind them, several of a slot; "step", one new token of each slot. ``length``: most
    own keys of any row, the new one counted; as many as there is room for where that is not known without waiting for
    the device. ``whole``: the slots are 0, 1, 2 ... in order.
    """

    slot: torch.Tensor
    position: torch.Tensor
    kind: str
    length: int
    whole: bool = False


def attended(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, tables: Tables, rows: Rows, scale: float, window: int
) -> torch.Tensor:
    """What queries (rows, heads, 1, d) see of the keys up to their own position; the new keys and values are kept.

    ``key``, ``value``: (rows, kv heads, 1, d), of the rows' own positions. A key at position j is seen from position n
    where n - window < j <= n. Returns (rows, 1, heads, d).
    """
    shared = tables[0].shape[1]
    if rows.kind == "shared":
        tables[0][:, rows.position] = key[:, :, 0].transpose(0, 1).to(tables[0].dtype)
        tables[1][:, rows.position] = value[:, :, 0].transpose(0, 1).to(tables[1].dtype)
    elif rows.kind == "prompt" or not query.is_cuda:
        tables[2][rows.slot, :, rows.position - shared] = key[:, :, 0].to(tables[2].dtype)
        tables[3][rows.slot, :, rows.position - shared] = value[:, :, 0].to(tables[3].dtype)
    if query.is_cuda:
        from dragoman.models import kernels

        how = {"scale": scale, "window": window, "write": rows.kind == "step"}
        return kernels.attend(query, key, value, tables, rows.slot, rows.position, **how)
    return _plainly(query, tables, rows, scale, window)


def _plainly(query: torch.Tensor, tables: Tables, rows: Rows, scale: float, window: int) -> torch.Tensor:
    """Attention of rows whose keys and values are written, in plain torch and float32."""
    count, heads, _, d = query.shape
    kv_heads, shared = tables[0].shape[:2]
    group = heads // kv_heads
    length = 0 if rows.kind == "shared" else rows.length
    asked = (query[:, :, 0].float() * scale).view(count, kv_heads, group, d)
    by_head = asked.transpose(0, 1).reshape(kv_heads, count * group, d)
    scores = (by_head @ tables[0].float().transpose(1, 2)).view(kv_heads, count, group, shared).transpose(0, 1)
    near = [table[:, :, :length] for table in tables[2:]]
    own = [(table[:count] if rows.whole else table[rows.slot]).float() for table in near]
    scores = torch.cat([scores, asked @ own[0].transpose(2, 3)], dim=3)
    at = torch.arange(shared + length, device=query.device)
    seen = (at <= rows.position[:, None]) & (at > rows.position[:, None] - window)
    weight = scores.masked_fill_(~seen[:, None, None], float("-inf")).softmax(dim=3)
    once = weight[..., :shared].transpose(0, 1).reshape(kv_heads, count * group, shared) @ tables[1].float()
    found = once.view(kv_heads, count, group, d).transpose(0, 1) + weight[..., shared:] @ own[1]
    return found.reshape(count, 1, heads, d).to(query.dtype)


@torch.library.custom_op("dragoman::attended", mutates_args=_TABLES)
def _opaque(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    shared_keys: torch.Tensor,
    shared_values: torch.Tensor,
    own_keys: torch.Tensor,
    own_values: torch.Tensor,
    slot: torch.Tensor,
    position: torch.Tensor,
    scale: float,
    window: int,
) -> torch.Tensor:
    """One step's attention as torch.compile sees it: a call it does not look into."""
    tables = (shared_keys, shared_values, own_keys, own_values)
    return attended(query, key, value, tables, Rows(slot, position, "step", own_keys.shape[2]), scale, window)


@_opaque.register_fake
def _(query: torch.Tensor, *_: Any) -> torch.Tensor:
    return query.new_empty(query.shape[0], 1, query.shape[1], query.shape[3])


def slot_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Any = None,
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    slots: Rows | None = None,
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """Transformers' attention interface, for calls of the captured engine alone."""
    if slots is None:
        raise RuntimeError(f"attention '{NAME}' was met outside the captured engine")
    odd = [name for name in ("softcap", "s_aux", "sinks", "position_bias", "head_mask") if more.get(name) is not None]
    if odd or attention_mask is not None or key.shape[2] != 1 or scaling is None:
        raise _refused(module, f"its attention wants {', '.join(odd) or 'a mask'}")
    tables, window = module.slot_tables, int(sliding_window or FAR)
    if torch.compiler.is_compiling():
        return _opaque(query, key, value, *tables, slots.slot, slots.position, float(scaling), window), None
    return attended(query, key, value, tables, slots, float(scaling), window), None


ALL_ATTENTION_FUNCTIONS.register(NAME, slot_attention)


class SlotCache:
    """Keys and values of a model's attention, for rows in slots; the last slot is for padding.

    ``slots``: how many rows at most; ``shared``: positions all rows share; ``own``: positions of one row behind them.
    """

    def __init__(self, net: Any, *, slots: int, shared: int, own: int) -> None:
        """Take the memory; refuse a model whose attention is not known here."""
        self.slots, self.shared, self.own = slots, shared, own
        self.stack: Any = text_stack(net)
        self._config: Any = self.stack.config
        self._modules = attention_of(net)
        try:
            self._take(net)
        except torch.OutOfMemoryError:
            self.close()
            raise

    def _take(self, net: Any) -> None:
        for module, (kv_heads, d) in self._modules:
            weight = module.k_proj.weight
            # Half precision would have to be widened at every step on a CPU, and rounds scores that need not be.
            how = {"device": weight.device, "dtype": torch.float32 if weight.device.type == "cpu" else net.dtype}
            once = [torch.zeros(kv_heads, self.shared, d, **how) for _ in range(2)]
            each = [torch.zeros(self.slots + 1, kv_heads, self.own, d, **how) for _ in range(2)]
            module.slot_tables = (*once, *each)

    def close(self) -> None:
        """Give the memory back."""
        for module, _ in self._modules:
            module.__dict__.pop("slot_tables", None)

    def hidden(self, embeddings: torch.Tensor, rows: Rows) -> torch.Tensor:
        """(rows, d_model) behind the final norm of one token each, of embeddings (rows, d_model)."""
        with self.attending():
            found = self.stack(
                inputs_embeds=embeddings[:, None], position_ids=rows.position[:, None], use_cache=False, slots=rows
            )
        return found.last_hidden_state[:, 0]

    @contextmanager
    def attending(self) -> Iterator[None]:
        """Inside, the model's attention is over slots; an ordinary prompt would meet no mask there."""
        before = getattr(self._config, _SETTING)
        setattr(self._config, _SETTING, NAME)
        try:
            yield
        finally:
            setattr(self._config, _SETTING, before)


def attention_of(net: Any) -> list[tuple[Any, tuple[int, int]]]:
    """The attention module of each block, with its key heads and their width.

    Raises:
        Refusal: it is none that slots are known for.
    """
    places = {parameter.device for parameter in text_stack(net).parameters()}
    if len(places) != 1:
        raise Refusal(f"a {type(net).__name__}", f"its blocks are on {len(places)} devices", LOOP)
    found = []
    for at, block in enumerate(decoder_blocks(net)):
        module: Any = getattr(block, "self_attn", None)
        d = getattr(module, "head_dim", None)
        if module is None or not isinstance(d, int) or not hasattr(getattr(module, "k_proj", None), "weight"):
            raise Refusal(f"a {type(net).__name__}", f"its block {at} has no attention with keys in heads", LOOP)
        if getattr(module, "attn_logit_softcapping", None) is not None:
            raise _refused(module, "it caps scores")
        found.append((module, (int(module.k_proj.out_features) // d, d)))
    return found


def _refused(module: Any, why: str) -> Refusal:
    return Refusal(f"a {type(module).__name__} over slots", why, LOOP)
