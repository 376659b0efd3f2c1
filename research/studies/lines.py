"""The lines of a study: rows judged as they are added, texts asked for where a latent has one word to name.

In: a cast, judges of rows, latents of one word. Out: conditions in the cast, and its ``measured`` filled with what an
answer needs. Refuses what the judges refuse.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from dragoman.core import Directions, Floats
from studies.cast import Cast
from studies.row_judge import RowJudge

Kind = Literal["route", "control"]


@dataclass(kw_only=True)
class Lines:
    """Adds lines to a cast.

    ``judge``: of the latents drawn by frequency; ``fakes``: of random projections; either None where a study has no
    rows to judge. ``one_word``: latents whose texts are asked for, with the word that each fires on.
    """

    cast: Cast
    judge: RowJudge | None
    fakes: RowJudge | None
    one_word: Mapping[str, str]

    def __post_init__(self) -> None:
        """Nothing is measured yet."""
        self.cast.measured |= {"one_word": dict(self.one_word), "lines": {}, "pairs": [], "choose": []}

    def add(
        self,
        name: str,
        rows: Directions,
        *,
        kind: Kind = "route",
        texts: Sequence[str] = ("on-shell",),
        judge: RowJudge | None = None,
        **about: Any,
    ) -> None:
        """A line of rows at the target: judged, and read out at the washouts in ``texts``.

        Images that have collapsed onto the background are judged as rows, for that needs no washout, and have no text.
        ``judge``: another than the usual one, of the latents or fakes that the rows are named after.
        """
        judge = judge or (self.fakes if self._of_fakes(rows) else self.judge)
        told: dict[str, Any] = {"kind": kind, **about}
        if judge is not None:
            known = set(judge.rows.ids)
            told["rows"] = judge.judged(rows.pick(i for i in rows.ids if i in known))
        self.cast.measured["lines"][name] = told
        for washout in texts:
            self.text(name if washout == "on-shell" else f"{name}, {washout}", rows, washout, kind=kind, **about)

    def text(
        self,
        name: str,
        rows: Directions,
        washout: str = "on-shell",
        *,
        vectors: Floats | None = None,
        kind: Kind = "route",
        **about: Any,
    ) -> None:
        """Texts of the one-word latents alone; ``vectors``: (n, d) injected as they are, one a row of ``rows``."""
        place = {i: k for k, i in enumerate(rows.ids)}
        there = [i for i in self.one_word if i in place]
        if not there:
            return
        asked = rows.pick(there)
        given = None if vectors is None else vectors[[place[i] for i in there]]
        self.cast.measured["lines"].setdefault(name, {"kind": kind, **about})
        self.cast.add(name, asked, washout, vectors=given, kind=kind, route=about.pop("route", name), **about)

    def compare(self, *pairs: tuple[str, str]) -> None:
        """Differences that the answer reports, first less second; Holm's correction counts all of them."""
        self.cast.measured["pairs"] += [list(pair) for pair in pairs]

    def _of_fakes(self, rows: Directions) -> bool:
        return self.fakes is not None and rows.ids[0] in set(self.fakes.rows.ids)
