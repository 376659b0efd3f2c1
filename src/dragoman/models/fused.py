"""What a GPU spends most of its time on beside matrix products while texts are read and said, in one kernel each.

In: a model; activations of features and rows. Out: its norms as one kernel while a context lasts; sums of
activation times row. Both are what transformers and plain torch say, but for the order in which a row's squares are
added. Without CUDA or Triton everything stays plain torch.

RMS norm: Zhang and Sennrich 2019 (arXiv 1910.07467). transformers writes it as six kernels in float32.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_array

_ROWS = 8  # random rows on which a norm's kernel is compared with the norm itself


@cache
def has_kernels(device: torch.device) -> bool:
    """Whether kernels can be launched there: one is, as Triton may lack the compiler that it asks for."""
    if device.type != "cuda" or importlib.util.find_spec("triton") is None:
        return False
    from dragoman.models.kernels import norm

    ones = torch.ones(2, 16, device=device)
    try:
        return bool(torch.allclose(norm(ones, ones[0], 1e-6, around_one=False), ones))
    except Exception:  # whatever a compiler, a driver or Triton itself raises
        return False


@contextmanager
def fused_norms(device: torch.device | str | None, models: Callable[[], Iterable[Any]]) -> Iterator[int]:
    """Inside, RMS norms of ``models()`` on a ``device`` are computed in one kernel each; how many of them are.

    A norm is replaced only where the kernel says what it says on random rows, but for roundings of its precision.
    Without a device, or kernels there, models are not asked for.
    """
    replaced: list[Any] = []
    if device is not None and has_kernels(torch.device(device)):
        from dragoman.models.kernels import norm

        replaced = [module for model in models() for module in model.modules() if _replace(module, norm)]
    try:
        yield len(replaced)
    finally:
        for module in replaced:
            del module.forward


@torch.inference_mode()
def _replace(module: Any, norm: Callable[..., torch.Tensor]) -> bool:
    """Give a norm the kernel's forward if one of the two ways of weighing gives what its own does."""
    if not type(module).__name__.endswith("RMSNorm") or "forward" in vars(module):
        return False
    weight, eps = getattr(module, "weight", None), getattr(module, "eps", getattr(module, "variance_epsilon", None))
    if not isinstance(weight, torch.Tensor) or weight.ndim != 1 or not isinstance(eps, float):
        return False
    generator = torch.Generator(weight.device).manual_seed(0)
    rows = torch.randn(_ROWS, len(weight), device=weight.device, generator=generator).to(weight.dtype)
    wanted, step = module(rows), torch.finfo(weight.dtype).eps
    for around_one in (False, True):
        quick = partial(norm, weight=weight, eps=eps, around_one=around_one)
        found = quick(rows)
        if found.dtype == wanted.dtype and torch.allclose(found.double(), wanted.double(), rtol=4 * step, atol=0):
            module.forward = quick
            return True
    return False


def add_sums(total: torch.Tensor, fired: csr_array, y: torch.Tensor) -> None:
    """Add to ``total`` (M, q) the sums over rows of activation times row; only features that fire are touched.

    ``fired``: (n, M) activations on the host. ``y``: (n, q) float64 rows, where ``total`` is.
    """
    columns = fired.tocsc()
    columns.sort_indices()
    firing = np.flatnonzero(np.diff(columns.indptr))
    if not len(firing):
        return
    if not has_kernels(total.device):
        found = columns[:, firing].astype(np.float64).T @ y.cpu().numpy()
        total[torch.as_tensor(firing, device=total.device)] += torch.as_tensor(found, device=total.device)
        return
    from dragoman.models.kernels import firing_sums

    starts = np.append(columns.indptr[firing], columns.indptr[-1])
    parts = [(firing, torch.int64), (starts, torch.int64), (columns.indices, torch.int64), (columns.data, total.dtype)]
    features, begins, rows, values = (torch.as_tensor(a, dtype=t).to(total.device) for a, t in parts)
    firing_sums(total, features, begins, rows, values, y)
