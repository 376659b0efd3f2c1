"""The service's line: who goes leaves it, what is given up is no error in the log, and a panic does not end it."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Callable

import pytest

pytest.importorskip("fastapi", reason="run: pip install 'dragoman[serve]'")
from dragoman.serving import app
from dragoman.serving.app import _waited
from dragoman.serving.worker import Check, Full, Job, Late, Unheard, Worker
from records_of_logs import logged


class Asking:
    """A request whose sender has gone, or has not."""

    def __init__(self, gone: bool) -> None:
        self.gone = gone

    async def is_disconnected(self) -> bool:
        return self.gone


def until(what: Callable[[], bool]) -> None:
    for _ in range(500):
        if what():
            return
        time.sleep(0.01)
    raise AssertionError("it never came about")


@pytest.fixture
def gate() -> threading.Event:
    return threading.Event()


def busy_worker(gate: threading.Event, waiting: int) -> tuple[Worker, Job]:
    """A worker that waits at a gate, and what it works on."""
    worker = Worker(waiting)

    def work(check: Check) -> str:
        assert gate.wait(30)
        check()
        return "done"

    job = worker.submit(work, 60)
    until(lambda: worker.busy)
    return worker, job


def test_who_has_gone_takes_no_place_in_the_line(gate: threading.Event, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "_LOOK", 0.01)
    worker, first = busy_worker(gate, 1)
    worked = list[str]()
    gone = worker.submit(lambda _check: worked.append("gone"), 60)
    with pytest.raises(Full):
        worker.submit(lambda _check: None, 60)
    with pytest.raises(Unheard):
        asyncio.run(_waited(gone, Asking(True), worker))  # type: ignore[arg-type]
    assert worker.waiting == 0
    after = worker.submit(lambda _check: worked.append("after"), 60)
    gate.set()
    assert first.done.result(10) == "done"
    after.done.result(10)
    assert worked == ["after"]
    worker.end()
    assert worker.join(10)


def test_what_was_given_up_is_no_error_in_the_log(gate: threading.Event) -> None:
    worker, first = busy_worker(gate, 1)
    first.ends = time.monotonic() + 0.05
    jobs = [first]
    del first  # nothing is logged of what somebody still holds

    async def late() -> str:
        said = ""
        try:
            await _waited(jobs.pop(), Asking(False), worker)  # type: ignore[arg-type]
        except Late:
            said = "late"
        gate.set()
        await asyncio.wrap_future(worker.submit(lambda _check: None, 60).done)
        await asyncio.sleep(0.05)
        gc.collect()
        return said

    with logged() as records:
        assert asyncio.run(late()) == "late"
        gc.collect()
    assert not records
    worker.end()
    assert worker.join(10)


def test_a_panic_of_a_library_is_a_fault_and_the_next_is_answered() -> None:
    class Panic(BaseException):
        """As those of libraries written in Rust, which are no ``Exception``."""

    def work(_check: Check) -> None:
        raise Panic

    worker = Worker(1)
    with pytest.raises(RuntimeError, match="Panic"):
        worker.submit(work, 60).done.result(10)
    assert worker.submit(lambda _check: 7, 60).done.result(10) == 7
    worker.end()
    assert worker.join(10)
