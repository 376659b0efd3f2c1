"""Triton kernels: of decoding, attention and a row's next token; of reading, a norm and sums over firings.

In: tensors as ``slots``, ``captured`` and ``fused`` keep them, on a GPU, or on the CPU in Triton's interpreter
(``TRITON_INTERPRET=1``). Out: written in place, but for a norm. What each must say, ``slots.attended``,
``board.chosen``, a model's own norm and ``fused.add_sums`` say in plain torch. Needs Triton, which torch brings along
where it was built for CUDA; importing this without it fails.

Attention is the online softmax of Milakov and Gimelshein 2018 (arXiv 1805.02867), one program a row and a key head, as
in Dao et al. 2022 (arXiv 2205.14135); a draw inverts the cumulative distribution, chunk by chunk of the vocabulary.
"""
# Arguments of kernels are pointers and numbers that Triton types itself.
# ruff: noqa: ANN001, ANN202

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]

CHUNK = 4096  # logits one program reads
KEYS = 16  # keys a step of the loop takes; with one warp and three stages the fastest that was measured on an H200
_WARPS, _STAGES, _PICKING_WARPS = 1, 3, 8
_WIDTH = 1024  # of a sum over firings one program adds up


def jit(function: Callable[..., Any]) -> Any:
    """A kernel, launched by ``kernel[grid](...)``."""
    return triton.jit(function)


@jit
def _block(at, ok, rows, d, D: tl.constexpr, DP: tl.constexpr):
    """Rows (BN, D) of a table, as (BN, DP); zeros where a row is not wanted and past D."""
    known = ok[:, None]
    if D != DP:
        known = known & (d < D)[None, :]
    return tl.load(at + rows[:, None] * D + d[None, :], mask=known, other=0.0)


@jit
def _over(
    q, top, weight, mean, keys, values, low, high, scale, d,
    D: tl.constexpr, DP: tl.constexpr, BN: tl.constexpr, EXACT: tl.constexpr,
):  # fmt: skip
    """Go on with an online softmax over keys low..high of a table (length, D)."""
    for start in range(low // BN * BN, high, BN):
        at = start + tl.arange(0, BN)
        ok = (at >= low) & (at < high)
        k = _block(keys, ok, at, d, D, DP)
        x = tl.dot(q, tl.trans(k), input_precision=EXACT) * scale
        x = tl.where(ok[None, :], x, float("-inf"))
        higher = tl.maximum(top, tl.max(x, 1))
        p = tl.exp(x - higher[:, None])
        shrunk = tl.exp(top - higher)
        weight = weight * shrunk + tl.sum(p, 1)
        v = _block(values, ok, at, d, D, DP)
        mean = mean * shrunk[:, None] + tl.dot(p.to(v.dtype), v, input_precision=EXACT)
        top = higher
    return top, weight, mean


@jit
def _attend(
    q, k_new, v_new, k_shared, v_shared, k_own, v_own, out, slot, position,
    q_row, q_head, k_row, k_head, v_row, v_head, SHARED, OWN, scale, window,
    HEADS: tl.constexpr, GROUP: tl.constexpr, GP: tl.constexpr, D: tl.constexpr, DP: tl.constexpr,
    BN: tl.constexpr, WRITE: tl.constexpr, EXACT: tl.constexpr,
):  # fmt: skip
    """One row and one key head: its new key and value first, then the shared ones, then those of its slot."""
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    s = tl.load(slot + row).to(tl.int64)
    n = tl.load(position + row).to(tl.int32)
    g = tl.arange(0, GP)
    d = tl.arange(0, DP)
    inside = d < D
    heads = head * GROUP + g
    known = (g < GROUP)[:, None] & inside[None, :]
    query = tl.load(q + row * q_row + heads[:, None] * q_head + d[None, :], mask=known, other=0.0)
    k1 = tl.load(k_new + row * k_row + head * k_head + d, mask=inside, other=0.0)
    v1 = tl.load(v_new + row * v_row + head * v_head + d, mask=inside, other=0.0)
    own = (s * HEADS + head) * OWN * D
    if WRITE:
        tl.store(k_own + own + (n - SHARED) * D + d, k1, mask=inside)
        tl.store(v_own + own + (n - SHARED) * D + d, v1, mask=inside)
    # The softmax starts from the new token, which is always seen: the loops see older keys alone, and read back nothing
    # that was just written.
    top = tl.sum(query.to(tl.float32) * k1[None, :].to(tl.float32), 1) * scale
    weight = tl.full([GP], 1.0, tl.float32)
    mean = tl.zeros([GP, DP], tl.float32) + v1[None, :].to(tl.float32)
    first = tl.maximum(n - window + 1, 0)
    shared = head.to(tl.int64) * SHARED * D
    top, weight, mean = _over(
        query, top, weight, mean, k_shared + shared, v_shared + shared, first, tl.minimum(n, SHARED), scale, d,
        D, DP, BN, EXACT,
    )  # fmt: skip
    top, weight, mean = _over(
        query, top, weight, mean, k_own + own, v_own + own, tl.maximum(first - SHARED, 0), n - SHARED, scale, d,
        D, DP, BN, EXACT,
    )  # fmt: skip
    found = (mean / weight[:, None]).to(out.dtype.element_ty)
    tl.store(out + (row * HEADS * GROUP + heads[:, None]) * D + d[None, :], found, mask=known)


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    tables: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor],
    slot: torch.Tensor,
    position: torch.Tensor,
    *,
    scale: float,
    window: int,
    write: bool,
) -> torch.Tensor:
    """As ``slots.attended``; ``tables``: shared keys and values, then the slots' own."""
    rows, heads, _, d = query.shape
    k_shared, v_shared, k_own, v_own = _laid_out(*tables)
    kv_heads, group = key.shape[1], heads // key.shape[1]
    query, key, value = (x if x.stride(-1) == 1 else x.contiguous() for x in (query, key, value))
    slot, position = slot.contiguous(), position.contiguous()  # an expanded view steps by nothing
    out = query.new_empty(rows, 1, heads, d)
    strides = [x.stride(at) for x in (query, key, value) for at in (0, 1)]
    with _on(query):
        _attend[(rows, kv_heads)](
            query, key, value, k_shared, v_shared, k_own, v_own, out, slot, position,
            *strides, k_shared.shape[1], k_own.shape[2], scale, window,
            HEADS=kv_heads, GROUP=group, GP=max(16, triton.next_power_of_2(group)), D=d,
            DP=max(16, triton.next_power_of_2(d)), BN=KEYS, WRITE=write,
            EXACT="ieee" if query.dtype == torch.float32 else "tf32", num_warps=_WARPS, num_stages=_STAGES,
        )  # fmt: skip
    return out


def _on(x: torch.Tensor) -> AbstractContextManager[object]:
    """Inside, kernels are launched where the tensor is: Triton's are launched on the current device otherwise."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()


def _laid_out(*written: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Tensors that a kernel writes into by counting elements; a copy would take what was written with it."""
    if not all(tensor.is_contiguous() for tensor in written):
        raise ValueError("a kernel writes into tensors that are laid out row by row")
    return written


@jit
def _scan(
    logits, tops, where, weights, heats, inverse, vocabulary, stride, chunks,
    CHUNK: tl.constexpr, DRAWN: tl.constexpr,
):  # fmt: skip
    """One row and one chunk of the vocabulary: its largest logit, where, and the sums of exponentials below it."""
    row = tl.program_id(0).to(tl.int64)
    chunk = tl.program_id(1)
    at = chunk * CHUNK + tl.arange(0, CHUNK)
    x = tl.load(logits + row * stride + at, mask=at < vocabulary, other=float("-inf")).to(tl.float32)
    top = tl.max(x, 0)
    base = tl.where(top == float("-inf"), 0.0, top)  # a chunk without any weight weighs nothing
    to = row * chunks + chunk
    tl.store(tops + to, top)
    tl.store(where + to, chunk * CHUNK + tl.argmax(x, 0))
    tl.store(weights + to, tl.sum(tl.exp(x - base), 0))
    if DRAWN:
        tl.store(heats + to, tl.sum(tl.exp((x - base) * tl.load(inverse)), 0))


@jit
def _choose(
    logits, tops, where, weights, heats, inverse, slot, state, said, sure, uniform, ends, vocabulary, stride, chunks,
    slots, MOST, CP: tl.constexpr, CHUNK: tl.constexpr, DRAWN: tl.constexpr,
):  # fmt: skip
    """One row: combine its chunks, choose, take the log-probability, and move the row's slot on by one token."""
    row = tl.program_id(0).to(tl.int64)
    s = tl.load(slot + row).to(tl.int64)
    c = tl.arange(0, CP)
    at = row * chunks + c
    m = tl.load(tops + at, mask=c < chunks, other=float("-inf"))
    top = tl.max(m, 0)
    weight = tl.load(weights + at, mask=c < chunks, other=0.0)
    whole = top + tl.log(tl.sum(tl.where(m == float("-inf"), 0.0, weight * tl.exp(m - top)), 0))
    # state is (facts, slots): token, position, count, limit, done, closers, undefined; see board.
    count = tl.load(state + 2 * slots + s)
    if DRAWN:
        colder = tl.load(inverse)
        hot = tl.load(heats + at, mask=c < chunks, other=0.0)
        hot = tl.where(m == float("-inf"), 0.0, hot * tl.exp((m - top) * colder))
        below = tl.cumsum(hot, 0)
        u = tl.load(uniform + s * MOST + tl.maximum(tl.minimum(count, MOST - 1), 0))
        level = tl.maximum((u * tl.sum(hot, 0).to(tl.float64)).to(tl.float32), 1e-30)
        k = tl.minimum(tl.sum((below < level).to(tl.int32), 0), chunks - 1)
        before = tl.max(tl.where(c < k, below, 0.0), 0)
        i = tl.arange(0, CHUNK)
        here = k * CHUNK + i
        x = tl.load(logits + row * stride + here, mask=here < vocabulary, other=float("-inf")).to(tl.float32)
        p = tl.exp((x - top) * colder)
        j = tl.sum((before + tl.cumsum(p, 0) < level).to(tl.int32), 0)
        # Rounding may put the level past the last sum: then the last token that has weight.
        token = k * CHUNK + tl.minimum(j, tl.max(tl.where(p > 0, i, 0), 0))
    else:
        first = tl.min(tl.where(m == top, c, CP), 0)
        token = tl.load(where + row * chunks + tl.minimum(first, chunks - 1))
    token = tl.minimum(token, vocabulary - 1)  # of logits that are no numbers any token is chosen, and refused later
    log_probability = tl.load(logits + row * stride + token).to(tl.float32) - whole
    if tl.load(state + 4 * slots + s) == 0:
        tl.store(state + slots + s, tl.load(state + slots + s) + 1)
        tl.store(state + 2 * slots + s, count + 1)
        wrong = (whole != whole) | (whole == float("inf")) | (whole == float("-inf"))
        tl.store(state + 6 * slots + s, tl.load(state + 6 * slots + s) | wrong.to(tl.int32))
        if count >= 0:  # below zero the row is still being read its prompt
            tl.store(said + s * MOST + count, token)
            tl.store(sure + s * MOST + count, log_probability)
            tl.store(state + s, token)
            kind = tl.load(ends + token)
            tl.store(state + 5 * slots + s, tl.load(state + 5 * slots + s) + (kind == 2).to(tl.int32))
            over = (kind == 1) | (count + 1 >= tl.load(state + 3 * slots + s))
            tl.store(state + 4 * slots + s, over.to(tl.int32))


def choose(logits: torch.Tensor, slot: torch.Tensor, board: Any, *, draws: bool) -> None:
    """As ``board.chosen``."""
    rows, vocabulary = logits.shape
    logits, slot = logits if logits.stride(-1) == 1 else logits.contiguous(), slot.contiguous()
    _laid_out(board.state, board.said, board.sure, board.uniform, board.ends)
    chunks = -(-vocabulary // CHUNK)
    tops, weights, heats = (torch.empty(rows, chunks, device=logits.device) for _ in range(3))
    where = torch.empty(rows, chunks, dtype=torch.int32, device=logits.device)
    with _on(logits):
        _scan[(rows, chunks)](
            logits, tops, where, weights, heats, board.inverse, vocabulary, logits.stride(0), chunks,
            CHUNK=CHUNK, DRAWN=draws, num_warps=_PICKING_WARPS,
        )  # fmt: skip
        _choose[(rows,)](
            logits, tops, where, weights, heats, board.inverse, slot, board.state, board.said, board.sure,
            board.uniform, board.ends, vocabulary, logits.stride(0), chunks, board.state.shape[1], board.said.shape[1],
            CP=max(16, triton.next_power_of_2(chunks)), CHUNK=CHUNK, DRAWN=draws, num_warps=_PICKING_WARPS,
        )  # fmt: skip


@jit
def _norm(x, weight, out, eps, D: tl.constexpr, DP: tl.constexpr, AROUND_ONE: tl.constexpr):
    """One row: divided by the root of its mean square, then weighed, in float32 or in its own precision."""
    row = tl.program_id(0).to(tl.int64)
    d = tl.arange(0, DP)
    inside = d < D
    a = tl.load(x + row * D + d, mask=inside, other=0.0).to(tl.float32)
    a = a * tl.rsqrt(tl.sum(a * a, 0) / D + eps)
    w = tl.load(weight + d, mask=inside, other=0.0).to(tl.float32)
    # Gemma's weights lie around zero, and there is one rounding, at the end; Llama's rows are rounded, then weighed.
    a = a * (1.0 + w) if AROUND_ONE else a.to(out.dtype.element_ty).to(tl.float32) * w
    tl.store(out + row * D + d, a.to(out.dtype.element_ty), mask=inside)


def norm(x: torch.Tensor, weight: torch.Tensor, eps: float, *, around_one: bool) -> torch.Tensor:
    """RMS norm of rows (..., d) of any layout; laid out as they are."""
    turned = x.ndim == 4 and not x.is_contiguous()  # heads before positions, as attention wants them
    rows = (x.transpose(1, 2) if turned else x).contiguous()
    out, d = torch.empty_like(rows), rows.shape[-1]
    size = triton.next_power_of_2(d)
    with _on(rows):
        _norm[(rows.numel() // d,)](
            rows, weight.contiguous(), out, eps, D=d, DP=size, AROUND_ONE=around_one,
            num_warps=max(1, min(8, size // 512)),
        )  # fmt: skip
    return out.transpose(1, 2) if turned else out


@jit
def _firing_sums(total, features, begins, rows, values, y, q, WIDTH: tl.constexpr):
    """One feature and some columns: its firings one after the other, so that the same firings give the same bits."""
    at = tl.program_id(0)
    d = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    inside = d < q
    here = total + tl.load(features + at) * q + d
    found = tl.load(here, mask=inside, other=0.0)
    for k in range(tl.load(begins + at), tl.load(begins + at + 1)):
        found += tl.load(values + k) * tl.load(y + tl.load(rows + k) * q + d, mask=inside, other=0.0)
    tl.store(here, found, mask=inside)


def firing_sums(
    total: torch.Tensor,
    features: torch.Tensor,
    begins: torch.Tensor,
    rows: torch.Tensor,
    values: torch.Tensor,
    y: torch.Tensor,
) -> None:
    """Add to ``total`` (M, q) at ``features`` (k,) their values times rows of ``y`` (n, q); see ``fused.add_sums``.

    ``begins`` (k + 1,): where each feature's entries of ``rows`` and ``values`` begin and the last one's end.
    """
    _laid_out(total)
    q = total.shape[1]
    grid = (len(features), triton.cdiv(q, _WIDTH))
    with _on(total):
        _firing_sums[grid](total, features, begins, rows, values, y.contiguous(), q, WIDTH=_WIDTH)
