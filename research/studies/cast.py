"""Conditions of a study as they are gathered, and the run folder they are said into.

In: directions, washouts, words to tell of each. Out: a ``Prepared`` plan; a run folder with its rows. Refuses what
``study`` refuses. Resumes: what is said stays said.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dragoman.core import Background, Directions, Floats
from dragoman.explain import Talk, background_report, own_version, versions
from dragoman.maps import Crossing
from dragoman.records import Card
from dragoman.store import RunFolder
from dragoman.study import Condition, Plan, carry_out
from dragoman.verbalizers.protocol import Verbalizer
from dragoman.washout import wash
from studies.ground import Ground

COLLAPSED = 0.9  # cosine with the background above which ``washout`` refuses: nothing of a direction would be left


@dataclass(kw_only=True)
class Cast:
    """Gathers conditions of one direction of the pair.

    ``features``: the study's. ``measured``: numbers that need no words. ``samples``: see ``study.Plan``.
    """

    ground: Ground
    features: tuple[str, ...]
    background: Background
    own_background: Background
    samples: int = 1
    conditions: list[Condition] = field(default_factory=list)
    told: list[dict[str, Any]] = field(default_factory=list)
    measured: dict[str, Any] = field(default_factory=dict)
    bare: dict[str, Directions] = field(default_factory=dict)

    @classmethod
    def on(cls, ground: Ground, crossing: Crossing, features: tuple[str, ...], *, samples: int = 1) -> Cast:
        """Nothing gathered yet; what both verbalizers take for background is what the crossing has read."""
        if crossing.source_background is None:
            raise RuntimeError("a crossing over tokens has both backgrounds")
        return cls(
            ground=ground,
            features=features,
            background=crossing.background,
            own_background=crossing.source_background,
            samples=samples,
        )

    def add(
        self,
        name: str,
        carried: Directions,
        washout: str = "on-shell",
        *,
        by: str = "by",
        vectors: Floats | None = None,
        cards: Sequence[Card] = (),
        **told: Any,
    ) -> None:
        """One condition: directions at the verbalizer's site, washed out unless the vectors are given.

        Images that have collapsed onto the background are left out, and told as ``collapsed``.
        """
        own = self.own_background if by == "native" else self.background
        kept, shown = carried, list(cards)
        if vectors is None and washout not in ("none", "0.5"):
            kept = standing(carried, own)
            there = set(kept.ids)
            shown = [card for card, name in zip(cards, carried.ids, strict=True) if name in there] if cards else []
        injected = wash(kept, own, washout) if vectors is None else vectors
        self.conditions.append(Condition.of(name, kept, by, vectors=injected, cards=shown))
        collapsed = len(carried) - len(kept)
        self.told.append({"name": name, "washout": washout, "verbalizer": by, "collapsed": collapsed, **told})
        self.bare[name] = kept

    def say(
        self,
        folder: Path,
        verbalizers: Mapping[str, Verbalizer],
        *,
        seed: int,
        batch_size: int,
        talk: Talk,
        max_new_tokens: int = 120,
    ) -> RunFolder:
        """Have everything said that is not yet; vectors are kept with the rows."""
        plan = Plan(
            conditions=tuple(self.conditions),
            batch_size=batch_size,
            samples=self.samples,
            temperature=1.0 if self.samples > 1 else 0.0,
            seed=seed,
            max_new_tokens=max_new_tokens,
        )
        ground = self.ground
        manifest = {
            "dragoman": own_version(),
            "ground": ground.name,
            "source": str(ground.source),
            "target": str(ground.target),
            "conditions": self.told,
            "features": list(self.features),
            "feature_info": ground.information(self.features),
            "category_words": dict(ground.words),
            "measured": self.measured,
            "background": background_report(self.background),
            "own_background": background_report(self.own_background),
            "verbalizers": {key: verbalizers[key].identity for key in verbalizers},
            "versions": versions(),
            "seeds": {"seed": seed},
            "plan_digest": plan.digest(verbalizers),
        }
        run = RunFolder.create(folder, manifest)
        carry_out(plan, run, verbalizers, talk.bar)
        kept = {c.name: c.vectors for c in self.conditions} | {f"bare/{n}": d.unit for n, d in self.bare.items()}
        run.write_vectors(kept | {"source": ground.directions(self.features).unit})
        return run


def standing(carried: Directions, background: Background) -> Directions:
    """Those that have not collapsed onto the background: ``washout`` refuses the others."""
    b = background.mean.astype(np.float64)
    there = np.abs(carried.unit @ (b / np.linalg.norm(b))) < COLLAPSED
    return carried.pick(name for name, ok in zip(carried.ids, there, strict=True) if ok)
