"""Where runs that are viewed together meet: the same feature of another run, and its features with like texts.

In: a feature's page; other runs, with what leads to a feature of theirs. Out: features of theirs, run by run.
Refuses nothing: a run whose texts were not read for their meaning has the same features alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from dragoman.store.cells import whole
from dragoman.view.find import Line, lines_of
from dragoman.view.meaning import best
from dragoman.view.opened import NEAREST, FeaturePage, Viewed


@dataclass(frozen=True, slots=True, kw_only=True)
class Elsewhere:
    """A feature of another run: the same by its id (``cosine`` None), or one with a like text."""

    run: str
    href: str
    line: Line
    cosine: float | None


def elsewhere(
    view: Viewed, page: FeaturePage, others: Iterable[tuple[Viewed, Callable[[str], str]]]
) -> list[Elsewhere]:
    """The same feature of other runs of this dictionary, and features of other runs with like texts."""
    made, row = list[Elsewhere](), view.meaning.row(page.n)
    for other, address in others:
        near = list[tuple[int, float | None]]()
        with other.index.reading() as database:
            same = database.execute("SELECT n FROM features WHERE id = ?", (whole(page.card.id),)).fetchone()
            if same and other.manifest.source == view.manifest.source and not page.card.control:
                near.append((int(same[0]), None))
            cosines = other.meaning.near(row) if row is not None else None
            if cosines is not None:
                near += best(cosines, other.features_only, NEAREST // 2)
            told = dict(near[::-1])
            for line in lines_of(database, [n for n, _ in near]):
                made.append(Elsewhere(run=other.name, href=address(line.id), line=line, cosine=told[line.n]))
    return made
