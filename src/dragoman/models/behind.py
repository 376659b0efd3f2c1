"""Work on batches that goes on before and after, while another batch is read.

In: pieces of work, one after the other. Out: what they give, or their effects, in their order. What a piece raises ends
the whole where it is waited for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")
AHEAD = 2  # pieces that are done before they are asked for


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
