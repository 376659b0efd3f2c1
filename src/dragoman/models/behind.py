"""Work on batches that goes on while the next batch is read.

In: pieces of work, one after the other. Out: their effects, in their order. What a piece raises ends the whole at the
next piece, or at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager


@contextmanager
def one_behind(*, beside: bool) -> Iterator[Callable[[Callable[[], None]], None]]:
    """What does pieces of work: at once; or ``beside`` its caller, on one thread, never more than one of them waiting.

    A device computes while the host waits for it, so what the host has to count of one batch costs nothing there.
    """
    if not beside:
        yield lambda work: work()
        return
    waiting: list[Future[None]] = []

    def later(work: Callable[[], None]) -> None:
        if waiting:
            waiting.pop().result()
        waiting.append(thread.submit(work))

    with ThreadPoolExecutor(max_workers=1) as thread:
        yield later
        if waiting:
            waiting.pop().result()
