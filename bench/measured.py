"""What benches of the real size measure memory with, and where they write."""

from __future__ import annotations

import json
import os
import platform
import resource
import shutil
import subprocess
import threading
from pathlib import Path
from typing import Any

import torch
import transformers

from dragoman.store import read_json, write_json

GIB = 2**30


class Peak:
    """The largest memory of this process, and on a GPU what torch allocated and the driver gave out; GiB.

    ``host_gib`` counts pages of mapped files too, which the system takes back when it needs them; ``own_gib`` does not.
    The driver is asked by ``nvidia-smi``, in a process of its own: while a step is captured nothing else may be asked
    of CUDA here.
    """

    def __init__(self, device: str) -> None:
        """Watch from now on."""
        self._device, self._driver = device, list[int]()
        self._gpu = device.startswith("cuda")
        self._own, self._lately, self._over = 0, 0, threading.Event()
        threading.Thread(target=self._watch_own, daemon=True).start()
        if self._gpu:
            torch.cuda.init()
            # By its own name: which number the driver gives it, visible devices do not tell.
            card = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
            asked = ["nvidia-smi", "-i", card, "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
            line_by_line = ["stdbuf", "-oL"] if shutil.which("stdbuf") else []
            self._smi = subprocess.Popen([*line_by_line, *asked, "-lms", "20"], stdout=subprocess.PIPE, text=True)
            self._thread = threading.Thread(target=self._watch, daemon=True)
            self._thread.start()

    def _watch_own(self) -> None:
        """Every fiftieth of a second, as the system keeps no largest figure of it."""
        status = Path("/proc/self/status")
        while not self._over.wait(0.02) and status.is_file():
            line = next(one for one in status.read_text(encoding="ascii").splitlines() if one.startswith("RssAnon"))
            now = int(line.split()[1]) * 1024
            self._own, self._lately = max(self._own, now), max(self._lately, now)

    def lately(self) -> float:
        """The most of this process's own memory since this was asked last, GiB."""
        found, self._lately = self._lately / GIB, 0
        return found

    def _watch(self) -> None:
        self._driver += (int(line) for line in self._smi.stdout or () if line.strip().isdigit())

    def told(self) -> dict[str, float]:
        """Of all this time; ``driver_gib`` with the driver's own share and whatever else lies on the card."""
        self._over.set()
        found = {"host_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB}
        found["own_gib"] = self._own / GIB
        if self._gpu:
            self._smi.terminate()
            self._thread.join()
            found["allocated_gib"] = torch.cuda.max_memory_allocated(self._device) / GIB
            found["reserved_gib"] = torch.cuda.max_memory_reserved(self._device) / GIB
            found["driver_gib"] = max(self._driver, default=0) / 1024
        return found


class Record:
    """The figures, on disk as soon as they are there."""

    def __init__(self, out: Path, machine: str) -> None:
        """``machine``: what they were measured on."""
        self._out, self._machine = out, machine

    def put(self, name: str, value: float, **more: Any) -> None:
        """Keep a figure and what belongs to it, and print it."""
        whole = read_json(self._out) if self._out.is_file() else {}
        write_json(self._out, whole | {name: {"value": value, "machine": self._machine, **more}})
        print(f"{name} {value:.2f} {json.dumps(more)}", flush=True)


def machine_of(device: str, shape: str) -> str:
    """What figures are measured on."""
    where = torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.machine()
    told = f"{where}, {os.cpu_count()} cores, torch {torch.__version__}, transformers {transformers.__version__}"
    return told if shape == "real" else f"{told}, shape {shape}"
