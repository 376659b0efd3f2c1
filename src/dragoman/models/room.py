"""How much memory is free where models run, what a GPU is called, and giving back what closed models held there.

In: a device in torch's words. Out: bytes, a name. Refuses nothing: what nothing tells is None. Imports torch where a
GPU is asked for, or was in use, alone.
"""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path

_AVAILABLE = "MemAvailable:"
# Limits of containers, and what is taken of them: the newer kernels' files, then the older ones'.
_LIMITS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


def free_bytes(device: str) -> int | None:
    """Bytes that are free on a device: of a GPU's memory, or of the host's where models run on the CPU.

    None where nothing tells: a GPU that is not here, or a system without such figures.
    """
    if device.partition(":")[0] == "cuda":
        return _of_gpu(device)
    return _of_host() if device == "cpu" else None


def gpu_name(device: str) -> str:
    """What a GPU's maker calls it; the device's own word where it is not here."""
    import torch

    number = int(device.partition(":")[2] or 0)
    here = device.startswith("cuda") and torch.cuda.is_available() and number < torch.cuda.device_count()
    return str(torch.cuda.get_device_name(number)) if here else device


def let_go(device: str) -> None:
    """Have the memory of models that nobody holds any more given back, on the host and on the device."""
    gc.collect()  # a model may hold itself: its output layer by a closure, its blocks by hooks
    torch = sys.modules.get("torch")
    if torch is not None and device.partition(":")[0] == "cuda" and torch.cuda.is_available():
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()


def _of_gpu(device: str) -> int | None:
    import torch

    number = int(device.partition(":")[2] or 0)
    if not torch.cuda.is_available() or number >= torch.cuda.device_count():
        return None
    unused = torch.cuda.memory_reserved(number) - torch.cuda.memory_allocated(number)
    return int(torch.cuda.mem_get_info(number)[0] + unused)


def _of_host() -> int | None:
    """The least that the system or a container's limit leaves."""
    found = [one for one in (_available(), *map(_below_limit, _LIMITS)) if one is not None]
    return min(found, default=None)


def _available() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii", errors="replace").splitlines()
        told = next((int(line.split()[1]) for line in lines if line.startswith(_AVAILABLE)), None)
    except (OSError, ValueError, IndexError):
        told = None
    if told is not None:
        return told * 1024
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def _below_limit(names: tuple[str, str]) -> int | None:
    limit, taken = Path(names[0]), Path(names[1])
    try:
        most, now = int(limit.read_text(encoding="ascii")), int(taken.read_text(encoding="ascii"))
    except (OSError, ValueError):  # no such limit, or the word "max"
        return None
    return max(0, most - now)
