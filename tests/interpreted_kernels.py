"""The Triton kernels against plain torch; run by ``test_kernels``, in Triton's interpreter or on a device.

In: nothing with TRITON_INTERPRET=1, or ``cuda``. Out: one line of JSON, the largest differences; exit code 1 on an
exception.
"""

from __future__ import annotations

import itertools
import json
import sys
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_array
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm

from dragoman.models import kernels
from dragoman.models.board import COUNT, DONE, LIMIT, Board, _chosen_plainly
from dragoman.models.slots import FAR, Rows, Tables, attended

SHARED, OWN, SLOTS = 37, 32, 3
DEVICE = torch.device(sys.argv[1] if len(sys.argv) > 1 else "cpu")


class Ends:
    """Two tokens that end a row, and one that may."""

    stops, closers = frozenset({5, 7}), frozenset({11})


def tables(heads: int, d: int, generator: torch.Generator) -> Tables:
    """Shared keys and values, and those of slots."""
    shapes = ((heads, SHARED, d), (heads, SHARED, d), (SLOTS, heads, OWN, d), (SLOTS, heads, OWN, d))
    a, b, c, e = (torch.randn(shape, generator=generator) for shape in shapes)
    return a, b, c, e


def attention(group: int, d: int, window: int, kind: str) -> float:
    """The largest difference of an attention and of what it wrote."""
    generator = torch.Generator().manual_seed(d + group)
    heads = 2
    mine = tables(heads, d, generator)
    theirs: Any = tuple(table.clone() for table in mine)
    if kind == "shared":
        position = torch.arange(SHARED)
        slot = torch.zeros(SHARED, dtype=torch.int64)
    elif kind == "prompt":
        slot = torch.tensor([2, 2, 2, 0, 0, 0])
        position = SHARED + torch.tensor([0, 1, 2, 0, 1, 2])
    elif kind == "one prompt":  # expanded: its slots step by nothing in memory, and so do its positions' rows
        slot, position = torch.tensor([2]).expand(3), SHARED + torch.tensor([[0, 1], [1, 1], [2, 1]])[:, 0]
    else:
        slot, position = torch.tensor([1, 0, 2]), SHARED + torch.tensor([OWN - 1, 0, 9])
    rows = Rows(slot, position, kind.split()[-1], 3 if "prompt" in kind else OWN)
    # As a model hands them over: views, heads and positions turned.
    q = torch.randn(len(slot), 1, heads * group, d, generator=generator).transpose(1, 2)
    k, v = (torch.randn(len(slot), 1, heads, d, generator=generator).transpose(1, 2) for _ in range(2))
    want = attended(q, k, v, theirs, rows, d**-0.5, window)
    if kind != "step":
        mine = theirs
    there: Any = tuple(table.to(DEVICE) for table in mine)
    rest = {"scale": d**-0.5, "window": window, "write": kind == "step"}
    q, k, v, position = (tensor.to(DEVICE) for tensor in (q, k, v, position))
    slot = slot[:1].to(DEVICE).expand(3) if kind == "one prompt" else slot.to(DEVICE)
    got = kernels.attend(q, k, v, there, slot, position, **rest)
    wrote = max(float((a.cpu() - b).abs().max()) for a, b in zip(there, theirs, strict=True))
    return max(float((got.cpu() - want).abs().max()), wrote)


def choice(vocabulary: int, *, draws: bool, odd: str = "") -> list[float]:
    """How many facts of the board are others, and by how much the log-probabilities differ."""
    generator = torch.Generator().manual_seed(vocabulary)
    boards = [Board(device, 6, 4, vocabulary, Ends()) for device in (DEVICE, torch.device("cpu"))]  # type: ignore[arg-type]
    start = boards[1].state.clone()
    start[COUNT] = torch.tensor([0, 3, 1, -2, 0, 2, 0])
    start[LIMIT] = 4
    start[DONE, 4] = 1
    uniform = torch.rand(7, 4, generator=generator, dtype=torch.float64)
    slot = torch.tensor([3, 0, 5, 1, 4, 2])
    logits = torch.randn(6, vocabulary, generator=generator) * 3
    logits[1, 7], logits[2, 11] = (40.0, 40.0) if not draws else (logits[1, 7], logits[2, 11])
    logits[0, 3] = logits[0, vocabulary - 1] = 50.0 if not draws else 0.0  # of equal ones the first
    if odd == "nan":
        logits[3, vocabulary // 2] = float("nan")
    if odd == "masked":
        logits[:, 20:] = float("-inf")
    for board in boards:
        board.state.copy_(start)
        board.uniform.copy_(uniform)
        board.temperature = 0.7
        board.inverse.fill_(1 / 0.7)
    kernels.choose(logits.to(DEVICE), slot.to(DEVICE), boards[0], draws=draws)
    _chosen_plainly(logits, slot, boards[1], draws=draws)
    if odd == "nan":  # the token of such a row is nothing's
        return [
            float(not torch.equal(boards[0].state[6].cpu(), boards[1].state[6])),
            float(boards[1].state[6].sum() - 1),
        ]
    facts = sum(int((a.cpu() != b).sum()) for a, b in zip(vars_of(boards[0]), vars_of(boards[1]), strict=True))
    return [float(facts), float((boards[0].sure.cpu() - boards[1].sure).abs().max())]


def norms() -> float:
    """The largest difference of a norm from transformers' own, on layouts that models hand over, in steps of size."""
    torch.manual_seed(5)
    worst = 0.0
    kinds: Any = ((Qwen2RMSNorm, False), (Gemma3RMSNorm, True))
    for (kind, around_one), dtype in itertools.product(kinds, (torch.float32, torch.bfloat16)):
        for d, shape in ((12, (2, 3, 12)), (96, (2, 5, 3, 96)), (3000, (1, 4, 3000))):
            own = kind(d, eps=1e-6).to(dtype)
            own.weight.data.normal_()
            x = torch.randn(shape).to(dtype) * 30
            x = x.transpose(1, 2) if x.ndim == 4 else x
            wanted = own(x).detach()
            weight = own.weight.data.to(DEVICE)
            found = kernels.norm(x.to(DEVICE), weight, 1e-6, around_one=around_one).cpu()
            assert found.shape == wanted.shape and found.stride() == wanted.stride() and found.dtype == dtype
            apart = (found.double() - wanted.double()).abs() / wanted.double().abs().clamp_min(1e-30)
            worst = max(worst, float(apart.max()) / torch.finfo(dtype).eps)
    return worst


def firings() -> float:
    """The largest relative difference of sums over firings from a dense product; untouched features stay."""
    rng = np.random.default_rng(1)
    dense = (rng.random((50, 40)) < 0.1) * rng.lognormal(size=(50, 40))
    dense[:, [3, 39]] = 0
    fired = csr_array(dense)
    y, total = rng.normal(size=(50, 1100)) + 1e3, rng.normal(size=(40, 1100))
    there = torch.tensor(total, device=DEVICE)
    columns = fired.tocsc()
    firing = np.flatnonzero(np.diff(columns.indptr))
    parts = firing, columns.indptr[np.append(firing, 40)], columns.indices
    places = [torch.tensor(part, dtype=torch.int64, device=DEVICE) for part in parts]
    values, rows = (torch.tensor(a, device=DEVICE) for a in (columns.data, y))
    kernels.firing_sums(there, *places, values, rows)
    wanted = total + fired.T @ y
    return float(np.abs(there.cpu().numpy() / wanted - 1).max())


def vars_of(board: Board) -> tuple[torch.Tensor, torch.Tensor]:
    """What is compared exactly."""
    return board.state, board.said


def main() -> int:
    """Every combination once."""
    kinds = ("shared", "prompt", "one prompt", "step")
    worst = max(attention(*one) for one in itertools.product((1, 3), (16, 12), (FAR, 5, 40), kinds))
    found: dict[str, Any] = {"attention": worst, "wide": attention(2, 64, FAR, "step")}
    found |= {"norms": norms(), "firings": firings()}
    for draws in (False, True):
        for vocabulary in (300, kernels.CHUNK + 77) if DEVICE.type == "cpu" else (300, 152_064, 262_208):
            for odd in ("", "masked", "nan"):
                found[f"choice {draws} {vocabulary} {odd}".strip()] = choice(vocabulary, draws=draws, odd=odd)
    sys.stdout.write(json.dumps(found) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
