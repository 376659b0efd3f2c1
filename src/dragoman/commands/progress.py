"""Progress of a command: bars and sentences on stderr.

In: what a job tells. Out: lines on stderr, a bar where it is a terminal. Refuses nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from dragoman.commands.printing import console, spoken
from dragoman.core import Talk


@contextmanager
def talking() -> Iterator[Talk]:
    """Progress bars and sentences on stderr."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    shown = console(stderr=True)
    columns = (
        TextColumn("{task.description:<20}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=shown) as progress:
        tasks: dict[str, Any] = {}

        def bar(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(spoken(what), total=total)
            progress.update(tasks[what], completed=done, total=total)

        yield Talk(say=lambda text: shown.print(spoken(text)), bar=bar)
