"""Tables that fit their screen: no word is broken within a cell, and what cannot stand side by side stands below.

In: a title, headings, rows of cells. Out: lines on a console. Refuses nothing. Headings give way first, then columns of
words; numbers never do. Where a screen is too narrow even for the longest words, each row becomes a few lines.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from dragoman.commands.printing import console, styled, visible

if TYPE_CHECKING:
    from rich.console import Console

_GAP = 2  # columns between two columns


def show_table(
    title: str, heads: Sequence[str], rows: Iterable[Sequence[str]], *, words: int = 1, out: Console | None = None
) -> None:
    """Print a table whose first ``words`` columns hold words, which may take several lines, and the others numbers."""
    out = out or console()
    cells = [[visible(cell) for cell in row] for row in rows]
    if title:
        out.print(styled(title, "bold"))
    widths = widths_for(out.width, heads, cells, words=words)
    if widths is None:
        _stacked(out, heads, cells)
    else:
        _side_by_side(out, heads, cells, widths, words)


def widths_for(room: int, heads: Sequence[str], rows: Sequence[Sequence[str]], *, words: int = 1) -> list[int] | None:
    """A width for each column, so that they take ``room`` columns at most; None where no word may be broken for it."""
    whole = [max(map(_length, (row[k] for row in rows)), default=0) for k in range(len(heads))]
    natural = [max(one, _length(head)) for one, head in zip(whole, heads, strict=True)]
    room -= _GAP * (len(heads) - 1)
    if sum(natural) <= room:
        return natural
    least = [
        max(_longest(head), max((_longest(row[k]) for row in rows), default=0) if k < words else whole[k])
        for k, head in enumerate(heads)
    ]
    if sum(least) > room:
        return None
    widths = list(least)
    # What is left goes to columns of words first, from the left, then to headings.
    for k, most in enumerate(natural):
        more = min(most - widths[k], room - sum(widths))
        widths[k] += max(more, 0)
    return widths


def _side_by_side(
    out: Console, heads: Sequence[str], rows: Sequence[Sequence[str]], widths: Sequence[int], words: int
) -> None:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for k, (head, width) in enumerate(zip(heads, widths, strict=True)):
        table.add_column(head, width=width, justify="left" if k < words else "right", overflow="fold")
    for row in rows:
        table.add_row(*map(styled, row))
    out.print(table)


def _stacked(out: Console, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Each row as its first cell, and below it what the others are called and hold."""
    from rich.padding import Padding

    for row in rows:
        first, *others = zip(heads, row, strict=True)
        if first[1]:
            out.print(styled(first[1]), soft_wrap=True)
        # No break within a part, a heading and its value, where it fits a line.
        parts = [f"{head} {cell}" for head, cell in others if cell]
        parts = [one.replace(" ", "\u00a0") if _length(one) < out.width - 5 else one for one in parts]
        out.print(Padding(styled(", ".join(parts)), (0, 0, 0, 4), expand=False))


def _length(text: str) -> int:
    from rich.cells import cell_len

    return max(map(cell_len, text.split("\n")), default=0)


def _longest(text: str) -> int:
    return max(map(_length, text.split()), default=0)
