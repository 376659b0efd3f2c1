"""Conditions of a study as they are gathered, and the run folder they are said into.

In: directions, washouts, words to tell of each. Out: a run folder with its rows. Refuses what a run's builder
does. Resumes: what is said stays said.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dragoman import AnyVerbalizer, Background, Card, Crossing, Directions, Talk
from dragoman.core import Floats
from dragoman.runs.build import RunBuilder, background_report
from dragoman.runs.options import Options
from dragoman.store import RunFolder
from studies.ground import Ground

COLLAPSED = 0.9  # cosine with the background above which ``washout`` refuses: nothing of a direction would be left


@dataclass(kw_only=True)
class Cast(RunBuilder):
    """Gathers conditions of one direction of the pair.

    ``features``: the study's. ``measured``: numbers that need no words. ``samples``: see ``Options``.
    """

    ground: Ground
    features: tuple[str, ...]
    samples: int = 1
    measured: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def on(cls, ground: Ground, crossing: Crossing, features: tuple[str, ...], *, samples: int = 1) -> Cast:
        """Nothing gathered yet; what both verbalizers take for background is what the crossing has read."""
        if crossing.source_background is None:
            raise RuntimeError("a crossing over tokens has both backgrounds")
        return cls(
            ground=ground,
            features=features,
            directions=ground.directions(features),
            backgrounds={"by": crossing.background, "native": crossing.source_background},
            samples=samples,
        )

    @property
    def background(self) -> Background:
        """Of the target."""
        return self.backgrounds["by"]

    def add(  # type: ignore[override]
        self,
        name: str,
        directions: Directions,
        washout: str = "on-shell",
        *,
        by: str = "by",
        vectors: Floats | None = None,
        cards: Sequence[Card] = (),
        route: str = "",
        **about: Any,
    ) -> None:
        """One condition: directions at the verbalizer's site, washed out unless the vectors are given.

        Images that have collapsed onto the background are left out, and told as ``collapsed``.
        """
        kept, shown = directions, list(cards)
        if vectors is None and washout not in ("none", "0.5"):
            kept = standing(directions, self.backgrounds[by])
            there = set(kept.ids)
            shown = [card for card, name in zip(cards, directions.ids, strict=True) if name in there] if cards else []
        super().add(
            name,
            kept,
            route=route,
            washout=washout,
            by=by,
            vectors=vectors,
            cards=shown,
            keep_bare=True,
            collapsed=len(directions) - len(kept),
            **about,
        )

    def say(
        self,
        folder: Path,
        verbalizers: Mapping[str, AnyVerbalizer],
        *,
        seed: int,
        batch_size: int,
        talk: Talk,
        max_new_tokens: int = 120,
    ) -> RunFolder:
        """Have everything said that is not yet; vectors are kept with the rows."""
        options = Options(samples=self.samples, seed=seed, batch_size=batch_size, max_new_tokens=max_new_tokens)
        ground = self.ground
        more = {
            "ground": ground.name,
            "feature_info": ground.information(self.features),
            "category_words": dict(ground.words),
            "measured": self.measured,
            "own_background": background_report(self.backgrounds["native"]),
        }
        return self.write(folder, verbalizers, options, talk, more)


def standing(carried: Directions, background: Background) -> Directions:
    """Those that have not collapsed onto the background: ``washout`` refuses the others."""
    b = background.mean.astype(np.float64)
    there = np.abs(carried.unit @ (b / np.linalg.norm(b))) < COLLAPSED
    return carried.pick(name for name, ok in zip(carried.ids, there, strict=True) if ok)
