"""Which sentences pass detection on windows that no evidence was made of, by the source's own model.

In: sentences, windows of documents held out, a judge. Out: ``Outcome`` by sentence: the AUROC of its rises at firing
windows against silent and hard ones, the line it has to pass, whether it does. Refuses what weighing refuses. What was
weighed is kept as it goes, so that a killed calibration goes on.

A sentence is right if its AUROC is 0.75 or more, and above what 95 % of other latents' sentences of its kind reach on
the same windows. Few of these are weighed on each latent's windows, so that quantile is told from all of them: a mean
by kind, the latent's own part, shrunk by how much latents differ at all, and the 95th percentile of what is left.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dragoman.calibration.held_out import OutcomeWindows
from dragoman.embed import Embedder
from dragoman.stats.roc import auroc
from dragoman.store import Rows, digest

AREA, ABOVE = 0.75, 0.95
TOGETHER = 64  # sentences whose outcomes are kept at a time
Weigh = Callable[[Sequence[str], Sequence[Sequence[str]]], Sequence[Any]]  # sentences, windows of each -> rises of each


@dataclass(frozen=True, slots=True)
class Asked:
    """A sentence of a ``kind`` on the windows of a latent (or a concept's word)."""

    sentence: str
    kind: str
    feature: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """``area``: AUROC. ``line``: what has to be passed. ``right``: it is."""

    area: float
    line: float

    @property
    def right(self) -> bool:
        """Whether the sentence passes."""
        return self.area >= AREA and self.area > self.line


def windows_in_order(windows: OutcomeWindows, feature: str) -> tuple[list[str], int]:
    """A latent's windows, firing ones first, and how many these are."""
    kinds = windows[feature]
    return [*kinds["firing"], *kinds["silent"], *kinds["hard"]], len(kinds["firing"])


def areas(
    asked: Sequence[Asked], windows: OutcomeWindows, weigh: Weigh, kept: Path, plan: str, progress: Any = None
) -> dict[Asked, float]:
    """The AUROC of each sentence, of those whose latent has windows.

    Args:
        asked: sentences on windows; what comes twice is weighed once.
        windows: held out.
        weigh: rises of each sentence at each of its windows.
        kept: file of what was weighed before, and is from now on.
        plan: digest of what decides rises besides sentence and windows.
        progress: sentences weighed, and all.
    """
    wanted = [one for one in dict.fromkeys(asked) if one.feature in windows]
    jobs = {one: (*windows_in_order(windows, one.feature), _key(one, windows)) for one in wanted}
    kept.parent.mkdir(parents=True, exist_ok=True)
    rows = Rows(kept, plan)
    try:
        known = {row["key"]: [float(v) for v in row["rises"]] for row in rows.read()}
        order = sorted(wanted, key=lambda one: (len(one.sentence), one.sentence, one.feature, one.kind))
        # The same pieces whoever weighs them: rises depend, in their last digits, on what is weighed together.
        for start in range(0, len(order), TOGETHER):
            piece = order[start : start + TOGETHER]
            if any(jobs[one][2] not in known for one in piece):
                rises = weigh([one.sentence for one in piece], [jobs[one][0] for one in piece])
                made = {
                    jobs[one][2]: [round(float(v), 4) for v in some] for one, some in zip(piece, rises, strict=True)
                }
                rows.append([{"key": key, "rises": some} for key, some in made.items()])
                known |= made
            if progress is not None:
                progress(start + len(piece), len(order))
    finally:
        rows.close()
    found = {}
    for one in wanted:
        _, firing, key = jobs[one]
        values = np.array(known[key])
        found[one] = auroc(values[:firing], values[firing:])
    return found


def _key(one: Asked, windows: OutcomeWindows) -> str:
    return digest(one.sentence, *windows_in_order(windows, one.feature)[0])[:24]


def by_embedder(asked: Sequence[Asked], windows: OutcomeWindows, embedder: Embedder) -> dict[Asked, float]:
    """The same by the cosine of sentence and window: a second opinion."""
    found: dict[Asked, float] = {}
    for one in dict.fromkeys(asked):
        if one.feature in windows:
            every, firing = windows_in_order(windows, one.feature)
            cosines = embedder.encode(every).astype(np.float64) @ embedder.encode([one.sentence])[0]
            found[one] = auroc(cosines[:firing], cosines[firing:])
    return found


def dealt_sentences(
    own: Mapping[str, Mapping[str, Sequence[str]]], features: Sequence[str], n: int, *, seed: int
) -> list[Asked]:
    """For each latent ``n`` sentences of each kind that it has, of other latents.

    ``own``: kind -> latent -> its sentences.
    """
    made: list[Asked] = []
    for kind, by_feature in own.items():
        names = sorted(by_feature, key=lambda name: digest("dealt", str(seed), kind, name))
        at = {name: k for k, name in enumerate(names)}
        for feature in features:
            mine, taken = set(by_feature.get(feature, ())), 0
            for step in range(1, len(names)):
                if taken == n:
                    break
                other = names[(at.get(feature, len(feature)) + step) % len(names)]
                said = [text for text in by_feature[other] if text not in mine]
                if other != feature and said:
                    made.append(Asked(said[0], kind, feature))
                    taken += 1
    return made


def judged(own: Mapping[Asked, float], dealt: Mapping[Asked, float]) -> dict[Asked, Outcome]:
    """Outcomes of sentences, by the line that dealt ones on the same windows give."""
    lines = dealt_lines(dealt)
    return {one: Outcome(area=area, line=lines(one.kind, one.feature)) for one, area in own.items()}


def dealt_lines(dealt: Mapping[Asked, float]) -> Callable[[str, str], float]:
    """(kind, latent) -> what 95 % of dealt sentences of the kind keep below on the latent's windows."""
    kinds = sorted({one.kind for one in dealt})
    values = {kind: np.array([area for one, area in dealt.items() if one.kind == kind]) for kind in kinds}
    mean = {kind: float(some.mean()) for kind, some in values.items()}
    by_feature: dict[str, list[float]] = {}
    for one, area in dealt.items():
        by_feature.setdefault(one.feature, []).append(area - mean[one.kind])
    shrunk = _shrunk(by_feature)
    left = {
        kind: np.array([a - mean[kind] - shrunk[one.feature] for one, a in dealt.items() if one.kind == kind])
        for kind in kinds
    }
    above = {kind: float(np.quantile(some, ABOVE)) for kind, some in left.items()}

    def line(kind: str, feature: str) -> float:
        if kind not in mean:
            return AREA
        return mean[kind] + shrunk.get(feature, 0.0) + above[kind]

    return line


def _shrunk(by_feature: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Each latent's own part: its mean, shrunk by the share of its variance that is of latents."""
    several = [np.array(some) for some in by_feature.values() if len(some) > 1]
    within = float(np.mean([some.var(ddof=1) for some in several])) if several else 0.0
    means = np.array([np.mean(some) for some in by_feature.values()])
    sizes = np.array([len(some) for some in by_feature.values()])
    between = (
        max(float(means.var(ddof=1)) - within * float(np.mean(1 / sizes)), 0.0) if several and len(means) > 1 else 0.0
    )
    total = between + within / sizes
    weights = np.divide(between, total, out=np.zeros_like(means), where=total > 0)
    return dict(zip(by_feature, (weights * means).tolist(), strict=True))


def kappa(first: Sequence[bool], second: Sequence[bool]) -> float:
    """Cohen's (1960) agreement of two yes-or-no judges beyond chance; 0 where either always says the same."""
    a, b = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    if not len(a):
        return 0.0
    agree, chance = float(np.mean(a == b)), float(a.mean() * b.mean() + (1 - a.mean()) * (1 - b.mean()))
    return 0.0 if chance >= 1 else (agree - chance) / (1 - chance)
