"""Workers of a Ray cluster that open the same and are asked by a driver; the one place where ray is imported.

In: ``ray``, for a cluster started here and stopped again, or the address of one that runs; what workers open, and
pieces of work. Out: what is found of the pieces, in order. Refuses a cluster that does not answer or has no such
workers, workers of other versions, those that end whenever they open what they are to open, and what whoever deals the
pieces refuses.

A worker is a process on one GPU, or a share of the threads where there is none. Workers write nothing. What one does
not survive is dealt again, by `shards` or `in_order`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

from dragoman.core import Refusal, Talk
from dragoman.models.asked import LOCAL, check_on

OPENINGS = 3  # in a row that end their workers
WAIT = 60  # seconds until it is told that workers are waited for
STORE = 2**29  # bytes of vectors on their way; what is more goes to the disk
# A cluster of our own is reached from this machine alone, tells nobody of itself, and kills no worker by its own count
# of memory. The first is what Ray has for desktops: its nodes then lie at 127.0.0.1.
_SETTINGS = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_memory_monitor_refresh_ms": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
_SAME = ("dragoman", "torch", "transformers")  # what decides words besides files
_QUIET = {"log_to_driver": False, "logging_level": "ERROR"}


@dataclass(frozen=True, slots=True)
class Cluster:
    """``workers``: at most so many at once, of so many ``threads``. ``where``: as it was asked for."""

    workers: int
    threads: int
    where: str


@contextmanager
def cluster(where: str | None, workers: int | None, device: str, talk: Talk) -> Iterator[Cluster | None]:
    """Inside, a cluster is there; None where none is asked for. One that this process is connected to is taken.

    Args:
        where: ``ray``: this machine's processors and GPUs; ``ray://HOST:PORT``: a cluster that runs.
        workers: one a GPU when None, or one a node where the device is none.
        device: that workers open verbalizers on.
        talk: where it is told.

    Raises:
        Refusal: ray is not installed, the cluster does not answer, or it has not so many GPUs or processors.
    """
    check_on(where, workers, device)
    if where is None:
        yield None
        return
    ray = ray_of(where)
    ours = not ray.is_initialized()
    try:
        if ours:
            _connect(ray, where, workers, device)
        yield _places(ray, where, workers, device, talk)
    finally:
        if ours:
            ray.shutdown()


class Deals(Protocol):
    """Which piece of work is next, and what became of it: ``shards.Deal``, ``in_order.InOrder``."""

    @property
    def over(self) -> bool:
        """Whether all is answered and taken."""
        ...

    @property
    def waiting(self) -> int:
        """How many pieces nobody works on."""
        ...

    def next(self) -> Any:
        """A piece; None where none is to be worked on now."""
        ...

    def said(self, piece: Any, found: Any, /) -> None:
        """A piece was answered."""
        ...

    def lost(self, piece: Any, why: str, /) -> str:
        """A piece's worker ended; what is done about it, or a refusal."""
        ...

    def whole(self) -> Iterator[Any]:
        """What can be taken next, in order."""
        ...


class Workers:
    """Processes that open the same and work on one piece at a time each; those that end are replaced."""

    def __init__(self, what: str, where: Cluster, device: str, talk: Talk) -> None:
        """None is started. ``what``: they open; ``device``: on what."""
        self._what, self._cluster, self._device, self._talk = what, where, device, talk
        self._idle: list[Any] = []
        self._opening: dict[Any, Any] = {}  # reference of the answer -> worker
        self._busy: dict[Any, tuple[Any, Any]] = {}  # reference of the answer -> worker, piece
        self._failed = 0

    def kind(self) -> type:
        """What a worker is."""
        raise NotImplementedError

    def asked(self) -> tuple[Any, ...]:
        """What a worker is told to open; after it come the folder and the threads."""
        raise NotImplementedError

    def check(self, worker: Any, told: Mapping[str, Any]) -> None:
        """Refuse a worker that has opened something else."""
        raise NotImplementedError

    def taken(self, found: Any) -> Any:
        """What is kept of an answer."""
        return found

    def close(self) -> None:
        """End them."""
        ray = ray_of()
        for worker in [*self._idle, *self._opening.values(), *(one for one, _ in self._busy.values())]:
            with suppress(Exception):  # it may have ended, and its cluster too
                ray.kill(worker)
        self._idle.clear()
        self._opening.clear()
        self._busy.clear()

    def first(self, count: int) -> None:
        """Start so many, and wait until one is there; none is left where that is refused."""
        try:
            while not self._idle:
                while len(self._opening) < count:
                    self._start()
                self._hear(None)
        except BaseException:
            self.close()
            raise

    def dealt(self, deal: Deals, ask: Callable[[Any, Any], Any]) -> Iterator[Any]:
        """What is found of all pieces, in order; ``ask``: has a worker work on a piece."""
        while not deal.over:
            while self._idle and (piece := deal.next()) is not None:
                worker = self._idle.pop()
                self._busy[ask(worker, piece)] = worker, piece
            at_work = len(self._idle) + len(self._busy)
            while len(self._opening) < min(deal.waiting - len(self._idle), self._cluster.workers - at_work):
                self._start()
            if whole := list(deal.whole()):
                yield from whole
            else:
                self._hear(deal)

    def _start(self) -> None:
        """Have another worker open it."""
        gpus = 1 if self._device.startswith("cuda") else 0
        kind = ray_of().remote(self.kind()).options(
            num_cpus=1, num_gpus=gpus, max_restarts=0, max_task_retries=0, scheduling_strategy="SPREAD"
        )  # fmt: skip
        worker = kind.remote()
        self._opening[worker.open.remote(*self.asked(), str(Path.cwd()), self._cluster.threads)] = worker

    def _hear(self, deal: Deals | None) -> None:
        """Wait for the next answers, and take them."""
        ray, ready = ray_of(), []
        while not ready:
            ready = ray.wait([*self._opening, *self._busy], num_returns=1, timeout=WAIT)[0]
            if not ready and self._opening and not self._busy:
                self._talk.say(f"{len(self._opening)} workers are not there yet: the cluster may be busy")
        for ref in ready:
            worker, piece = self._busy.pop(ref) if ref in self._busy else (self._opening.pop(ref), None)
            found = heard(ray, ref)
            if isinstance(found, Ended):
                with suppress(Exception):
                    ray.kill(worker)
                self._ended(found.why, piece, deal)
            elif piece is None:
                self._check_versions(found)
                self.check(worker, found)
                self._failed = 0
                self._idle.append(worker)
            elif deal is not None:
                deal.said(piece, self.taken(found))
                self._idle.append(worker)

    def _ended(self, why: str, piece: Any, deal: Deals | None) -> None:
        """A worker has ended: deal again what it had, or have another one open the same."""
        if piece is not None and deal is not None:
            self._talk.say(f"a worker ended ({why}): {deal.lost(piece, why)}")
            return
        self._failed += 1
        if self._failed >= OPENINGS:
            ended = f"{self._failed} workers ended, one after another, while they opened it ({why})"
            raise Refusal(self._what, ended, "look whether it opens without --on, and into its memory")
        self._talk.say(f"a worker ended while it opened {self._what} ({why}): another one opens it")

    @staticmethod
    def _check_versions(told: Mapping[str, Any]) -> None:
        """Refuse a worker of other versions."""
        ours = _versions()
        for name, found in told["versions"].items():
            if found != ours[name]:
                why = f"it has {name} {found}, and here is {ours[name]}"
                raise Refusal(
                    f"a worker on {told['host']}", why, "install the same there: other ones give other words and sums"
                )


_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True, slots=True)
class Ended:
    """Of a worker, or of what it did, and why."""

    why: str


@dataclass(frozen=True, slots=True)
class _Refused:
    """A worker's refusal, in its three parts."""

    what: str
    why: str
    instead: str


def settled(folder: str, threads: int) -> dict[str, object]:
    """Have this worker be where the driver is, if there is such a folder, on its threads; who it is."""
    import torch

    with suppress(OSError):
        os.chdir(folder)
    torch.set_num_threads(threads)
    return {"versions": _versions(), "host": os.uname().nodename}


def refusing(work: Callable[[], Any]) -> Any:
    """What work gives, or its refusal, which is an answer too."""
    try:
        return work()
    except Refusal as refusal:
        return _Refused(refusal.what, refusal.why, refusal.instead)


def heard(ray: Any, ref: Any) -> Any:
    """An answer; `Ended` where its worker has failed. Raises what a worker refuses."""
    try:
        found = ray.get(ref)
    except ray.exceptions.RayTaskError as error:
        cause = getattr(error, "cause", error)
        return Ended(f"{type(cause).__name__}: {' '.join(str(cause).split())[:160]}")
    except ray.exceptions.RayError as error:
        lines = [line.strip() for line in _COLOURS.sub("", str(error)).splitlines() if line.strip()]
        dead = (line for line in lines if line.startswith("The actor is dead because"))
        return Ended(next(dead, lines[-1] if lines else type(error).__name__)[:200].rstrip(". "))
    if isinstance(found, _Refused):
        raise Refusal(found.what, found.why, found.instead)
    return found


def _versions() -> dict[str, str]:
    found = {}
    for name in _SAME:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # of a source tree on the path
            found[name] = "of a source tree"
    return found


def ray_of(where: str | None = None) -> Any:
    """Ray itself, imported when it is asked for."""
    if where == LOCAL:
        for name, value in _SETTINGS.items():
            os.environ.setdefault(name, value)
    import ray  # pyright: ignore[reportMissingImports]

    return ray


def _connect(ray: Any, where: str, workers: int | None, device: str) -> None:
    import torch

    try:
        if where == LOCAL:
            # Read from the environment when ray is imported, which somebody may have done before.
            ray._private.ray_constants.ENABLE_RAY_CLUSTER = False
            ray._private.worker._worker_logs_enabled = False  # it tells of ended workers on stdout, whatever is said
            own = {"num_cpus": max(os.cpu_count() or 1, workers or 1), "object_store_memory": STORE}
            own["num_gpus"] = torch.cuda.device_count() if device == "cuda" else 0
            ray.init(address="local", include_dashboard=False, **own, **_QUIET)
        else:
            ray.init(address=where, **_QUIET)
    except Exception as error:  # whatever a network, another version or a disk raises
        told = " ".join(str(error).split())[:200]
        instead = "check its address, and the token: RAY_AUTH_MODE=token" if where != LOCAL else "look into Ray's logs"
        if "AF_UNIX path length" in told:
            instead = "name a folder with a short path for Ray's sockets: RAY_TMPDIR=/tmp"
        raise Refusal(f"--on {where}", f"no cluster answers ({type(error).__name__}: {told})", instead) from error


def _places(ray: Any, where: str, workers: int | None, device: str, talk: Talk) -> Cluster:
    """How many workers there are."""
    import torch

    gpu = device.startswith("cuda")
    there = ray.cluster_resources()
    most, what = int(there.get("GPU" if gpu else "CPU", 0)), "GPUs" if gpu else "processors"
    nodes = sum(bool(node["Alive"]) for node in ray.nodes())
    count = workers or (most if gpu else nodes)
    if not 0 < count <= most:
        instead = "ask for fewer workers, or use --device cpu" if gpu else "ask for fewer workers"
        raise Refusal(f"--on {where}, {max(count, 1)} workers", f"there are {most} {what} for them", instead)
    talk.say(f"{where}: {count} worker{'s' * (count > 1)}, {'one a GPU' if gpu else 'on processors'}")
    return Cluster(count, max(1, torch.get_num_threads() * nodes // count), where)
