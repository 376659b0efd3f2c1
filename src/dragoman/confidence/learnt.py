"""Whether a latent stands out along its own row as learnt ones do, and no fake one would.

In: evidence on latents and on fake ones (random directions that fire as often). Out: a ``LearntTest``, which says of a
latent's evidence whether it passes. Refuses what fitting refuses.

What a text says of where a fake latent fires may be true, and documents then bear it out; whether anything was learnt
they cannot tell. So a sentence is answered only where its latent passes, and the line is drawn where of all texts of
fakes one in a hundred would be answered still: half of what a null may, as it is drawn by them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from dragoman.confidence.evidence import Evidence
from dragoman.confidence.fit import FEWEST, fit_unseen
from dragoman.confidence.model import Doubles, Number, Step
from dragoman.records import Record

READ = ("row_sharpness", "row_cosine", "row_share")
LOWEST = -1e9  # a line that everything reaches
OF_FAKES = 0.01  # of texts of fakes that may be answered
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]


class LearntTest(Record):
    """``step`` reads evidence on a latent alone; one passes whose log-odds reach ``line``.

    ``latents`` of ``n`` and ``fakes`` of ``n_fakes`` pass, each by a fit that had not seen it.
    """

    step: Step
    line: Number
    latents: Share
    n: Count
    fakes: Share
    n_fakes: Count

    def passes(self, rows: Sequence[Evidence]) -> NDArray[np.bool_]:
        """(n,) whether each row's latent does; not where nothing of it is known."""
        known = np.array([measured(row) for row in rows], dtype=bool)
        found = np.zeros(len(rows), dtype=bool)
        if known.any():
            some = [row for row, there in zip(rows, known, strict=True) if there]
            found[known] = self.step.slope * self.step.log_odds(some) + self.step.offset >= self.line
        return found


def measured(row: Evidence) -> bool:
    """Whether all that the test reads is there."""
    return all(row.get(name) is not None for name in READ)


@dataclass(frozen=True, slots=True, kw_only=True)
class LearntFit:
    """``step``, and the log-odds of (n,) ``latents`` and (m,) ``fakes`` by fits that had not seen them."""

    step: Step
    latents: Doubles
    fakes: Doubles

    def test(self, line: float) -> LearntTest:
        """With this line."""
        passed = self.latents >= line, self.fakes >= line
        shares = {"latents": float(passed[0].mean()), "fakes": float(passed[1].mean())}
        return LearntTest(step=self.step, line=line, n=len(self.latents), n_fakes=len(self.fakes), **shares)


def fit_learnt(
    latents: Sequence[Evidence], groups: NDArray[Any], fakes: Sequence[Evidence], *, seed: int
) -> LearntFit | None:
    """Latents against fakes; None of fewer than 30 of either.

    Args:
        latents: evidence on n latents.
        groups: (n,) of those that fire together, which no fit parts.
        fakes: evidence on fake latents, each by itself.
        seed: of the deal into folds.
    """
    if min(len(latents), len(fakes)) < FEWEST:
        return None
    rows = [{name: row[name] for name in READ} for row in (*latents, *fakes)]
    apart = np.arange(len(fakes)) + int(np.max(groups, initial=0)) + 1
    learnt = np.arange(len(rows)) < len(latents)
    step, unseen = fit_unseen(rows, learnt, groups=np.append(groups, apart), seed=seed)
    return LearntFit(step=step, latents=unseen[learnt], fakes=unseen[~learnt])


def line_of(answered: Doubles, texts: int) -> float:
    """The lowest line that so few of the ``answered`` fakes' log-odds reach, of so many texts of fakes in all."""
    surest, may = np.sort(answered)[::-1], int(OF_FAKES * texts)
    return float(np.nextafter(surest[may], np.inf)) if len(surest) > may else LOWEST
