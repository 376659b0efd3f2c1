"""Words for how a model is run, before anything that runs one is imported.

In: words. Out: nothing. Refuses those that name no engine, one that is not installed, no kind of device, no place where
workers run, and what a server that says the words leaves no place for.
"""

from __future__ import annotations

import re
from contextlib import suppress
from urllib.parse import urlsplit

from dragoman.core import Refusal, public_address
from dragoman.store.libraries import refuse_absent
from dragoman.store.spans import shown

LOCAL = "ray"  # a cluster of this machine
_CLUSTER = re.compile(r"ray://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):\d{1,5}")
ENGINES = ("auto", "loop", "captured", "vllm")
SERVER = "vllm:"  # before the address of a server that runs
_DEVICE = re.compile(r"cpu|mps|cuda(:\d+)?")


def check_engine(word: str) -> None:
    """Refuse words that are no engine, an address that no server has, and vLLM where it is not installed."""
    address = server_of(word)
    if address is not None:
        _check_address(address)
        return
    if word not in ENGINES:
        known = f"known are {', '.join(ENGINES)} and {SERVER}ADDRESS, of a server that runs"
        raise Refusal(f"engine '{shown(public_address(word), 40)}'", known, "use one of these")
    if word == "vllm":
        refuse_absent("--engine vllm", "vllm", extra="vllm", more=" (or use --engine captured or loop)")


def by_vllm(word: str) -> bool:
    """Whether an engine is vLLM, in this process or on a server."""
    return word == "vllm" or server_of(word) is not None


def server_of(word: str) -> str | None:
    """The address in vllm:ADDRESS; None of other engines."""
    return word.removeprefix(SERVER) if word.startswith(SERVER) else None


def refuse_beside_server(engine: str, native: object, on: str | None) -> None:
    """Refuse what a server that says the words leaves no place for."""
    address = server_of(engine)
    if address is None:
        return
    what = f"with --engine {SERVER}{public_address(address)}"
    if native is not None:
        why = "a server says one verbalizer's words, and the native one is another"
        raise Refusal(f"--native {what}", why, "leave it out, or use another engine")
    if on is not None:
        why = "the server says the words, and workers would open the model only to wait for it"
        raise Refusal(f"--on {shown(on, 60)} {what}", why, "leave one out")


def _check_address(address: str) -> None:
    """Refuse what is no address of a server."""
    sound = False
    with suppress(ValueError):  # of a port, or of brackets
        found = urlsplit(address)
        sound = found.scheme in {"http", "https"} and bool(found.hostname) and found.port != 0
        sound = sound and not found.query and not found.fragment and address.isprintable() and " " not in address
    if not sound:
        told = shown(f"{SERVER}{public_address(address)}", 60)
        raise Refusal(f"engine '{told}'", "no server has such an address", "say vllm:http://HOST:PORT")


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
