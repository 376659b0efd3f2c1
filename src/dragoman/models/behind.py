"""Work on batches that goes on before and after, while another batch is read.

In: pieces of work, one after the other. Out: what they give, or their effects, in their order. What a piece raises ends
the whole where it is waited for.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")
AHEAD = 2  # pieces that are done before they are asked for
TURN = 1e-4  # seconds after which a thread of Python lets another one go on; 5e-3 unless somebody says otherwise


@contextmanager
def one_behind(device: str | None) -> Iterator[Callable[[Callable[[], None]], None]]:
    """What does pieces of work: at once where no device is named; else beside its caller, never more than one waiting.

    A device computes while the host waits for it, so what the host has to count of one batch costs nothing there. On
    CUDA the work has a stream of its own: whoever waits for a number in it does not wait for the batch that is being
    read. It starts when what its caller asked of the device before is done, and is done there when it ends.
    """
    if device is None:
        yield lambda work: work()
        return
    waiting: list[Future[None]] = []
    beside, turn = _own_stream(torch.device(device)), sys.getswitchinterval()

    def later(work: Callable[[], None]) -> None:
        if waiting:
            waiting.pop().result()
        waiting.append(thread.submit(beside(work)))

    # Whoever reads launches thousands of kernels a batch, and each time has to be let in again by what is counting.
    sys.setswitchinterval(min(turn, TURN))
    try:
        with ThreadPoolExecutor(max_workers=1) as thread:
            yield later
            if waiting:
                waiting.pop().result()
    finally:
        sys.setswitchinterval(turn)


def _own_stream(device: torch.device) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """What makes a piece of work one of a stream that goes first; on a CPU nothing has to be made of it."""
    if device.type != "cuda":
        return lambda work: work
    stream = torch.cuda.Stream(device, priority=-1)

    def done(work: Callable[[], None], before: Any) -> None:
        with torch.cuda.stream(stream):
            stream.wait_event(before)
            work()
            # What the caller made is given up when the work ends: its memory must not be read any more by then.
            stream.synchronize()

    return lambda work: partial(done, work, torch.cuda.current_stream(device).record_event())


def ahead(make: Callable[[T], R], every: Iterable[T], *, beside: bool) -> Iterator[tuple[T, R]]:
    """Each thing and what ``make`` makes of it: when it is asked for; or ``beside``, the next two on one thread."""
    if not beside:
        for one in every:
            yield one, make(one)
        return
    waiting: deque[tuple[T, Future[R]]] = deque()
    with ThreadPoolExecutor(max_workers=1) as thread:
        for one in every:
            waiting.append((one, thread.submit(make, one)))
            if len(waiting) > AHEAD:
                first, made = waiting.popleft()
                yield first, made.result()
        for first, made in waiting:
            yield first, made.result()
