"""Words for how a model is run, before anything that runs one is imported.

In: words. Out: nothing. Refuses those that name no engine, one that is not installed, no kind of device, and no place
where workers run.
"""

from __future__ import annotations

import re

from dragoman.core import Refusal
from dragoman.store.libraries import refuse_absent
from dragoman.store.spans import shown

LOCAL = "ray"  # a cluster of this machine
_CLUSTER = re.compile(r"ray://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):\d{1,5}")
ENGINES = ("auto", "loop", "captured", "vllm")
_DEVICE = re.compile(r"cpu|mps|cuda(:\d+)?")


def check_engine(word: str) -> None:
    """Refuse words that are no engine, and vLLM where it is not installed."""
    if word not in ENGINES:
        raise Refusal(f"engine '{shown(word, 40)}'", f"known are {', '.join(ENGINES)}", "use one of these")
    if word == "vllm":
        refuse_absent("--engine vllm", "vllm", extra="vllm", more=" (or use --engine captured or loop)")


def check_device_word(word: str) -> None:
    """Refuse words that are no device that models run on; whether this machine has it is not looked at."""
    if not _DEVICE.fullmatch(word):
        raise Refusal(f"device '{shown(word, 40)}'", "it is no device", "use cpu, cuda, cuda:N or mps")


def check_on(where: str | None, workers: int | None, device: str) -> None:
    """Refuse words that name no place for workers, ray where it is not installed, one GPU named for all of them."""
    if where is None:
        if workers is not None:
            raise Refusal("--workers without --on", "nothing is dealt to workers", "say --on ray as well")
        return
    if where != LOCAL and not _CLUSTER.fullmatch(where):
        known = "known are ray (this machine) and ray://HOST:PORT (a cluster that runs)"
        raise Refusal(f"--on {shown(where, 60)}", known, "use one of these")
    if workers is not None and workers < 1:
        raise Refusal(f"{workers} workers", "at least one is needed", "ask for 1 or more, or for none")
    if where == LOCAL:
        refuse_absent("--on ray", "ray", extra="ray")
    else:
        refuse_absent(f"--on {where}", "ray", "grpc", extra="ray")
    if device.startswith("cuda:"):
        raise Refusal(f"--device {device} with --on {where}", "each worker has a GPU of its own", "say --device cuda")
