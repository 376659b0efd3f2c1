"""What the texts of a study are worth: planted truth and its null, condition by condition.

In: a run and its ``Reading``. Out: plain tables. Refuses nothing of its own. The null of every naming rate is the same
texts dealt to features of other categories; that of every lift is dealing, and whatever texts the run has that know
nothing of the features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dragoman.core import Floats, Refusal
from dragoman.stats.intervals import clustered_interval, rate_interval
from dragoman.stats.planted import names_category
from dragoman.store import RunFolder
from studies.ground import GROUNDS, LEVELS, Latent, level_of
from studies.reading import Reading

Doubles = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Said:
    """First samples of one condition: ``features`` and ``texts`` in order, ``rows`` their numbers in the run."""

    name: str
    told: Mapping[str, Any]
    features: tuple[str, ...]
    texts: tuple[str, ...]
    rows: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Heard:
    """A run ready to be judged."""

    run: RunFolder
    reading: Reading | None

    @cached_property
    def latents(self) -> dict[str, Latent]:
        """Planted truth of the study's features."""
        return {i: Latent.of(row) for i, row in self.run.manifest["feature_info"].items()}

    @property
    def words(self) -> Mapping[str, Sequence[str]]:
        """Category -> the words that name it."""
        return self.run.manifest["category_words"]

    @cached_property
    def said(self) -> dict[str, Said]:
        """Condition -> its first samples."""
        told = {c["name"]: c for c in self.run.manifest["conditions"]}
        found: dict[str, list[tuple[str, str, int]]] = {name: [] for name in told}
        for number, row in enumerate(self.run.rows()):
            if row["sample"] == 0:
                found[row["condition"]].append((row["feature"], row["text"] or "(empty)", number))
        return {
            name: Said(
                name=name,
                told=told[name],
                features=tuple(f for f, _, _ in rows),
                texts=tuple(t for _, t, _ in rows),
                rows=np.array([n for _, _, n in rows], dtype=np.int64),
            )
            for name, rows in found.items()
        }

    def embedded(self, said: Said) -> Floats:
        """(n, e) embeddings of a condition's texts."""
        if self.reading is None:
            raise unread(self.run)
        return self.reading.texts[said.rows]

    def right(self, said: Said) -> NDArray[np.bool_]:
        """(n,) whether each text names its feature's category; a text of a feature that has none names nothing."""
        return own(self.table(said)).astype(bool)

    def table(self, said: Said) -> Doubles:
        """(n, n): whether text i names the category of feature j; a feature without one is a column of zeros."""
        found = np.zeros((len(said.texts), len(said.features)))
        known = [j for j, f in enumerate(said.features) if f in self.latents]
        if known:
            words = [self.words[self.latents[said.features[j]].category] for j in known]
            found[:, known] = naming_table(said.texts, words)
        return found

    def categories(self, said: Said) -> list[str]:
        """Category of each feature."""
        return [self.latents[f].category for f in said.features]


def naming_table(texts: Sequence[str], words: Sequence[Sequence[str]]) -> Doubles:
    """(n, N) of 0 and 1: whether text i names feature j by the naming rule; ``words``: what names feature j's topic."""
    distinct = {tuple(one) for one in words}
    told = {one: np.array([names_category(text, one) for text in texts], dtype=np.float64) for one in distinct}
    return np.stack([told[tuple(one)] for one in words], axis=1)


def unread(run: RunFolder) -> Refusal:
    """A run that was said, and stopped before its texts were read."""
    return Refusal(
        f"{run.path}", "its texts have not been read by the sentence model", "give the command again without --finished"
    )


def own(table: Doubles) -> Doubles:
    """The diagonal of a table."""
    return np.diag(table).copy()


def rate(values: NDArray[Any], clusters: Sequence[str] | None = None) -> dict[str, float]:
    """Mean of yes and no with Wilson's interval, over categories where several features share one."""
    values = np.asarray(values, dtype=np.float64)
    many = clusters is not None and 1 < len(set(clusters)) < len(values)
    low, high = rate_interval(values, clusters if many else None)
    return {"value": float(values.mean()), "low": low, "high": high, "n": len(values)}


def mean(values: NDArray[Any], clusters: Sequence[str]) -> dict[str, float]:
    """Mean with an interval over categories."""
    low, high, _, groups = clustered_interval(values, clusters)
    return {"value": float(np.mean(values)), "low": low, "high": high, "n": len(values), "clusters": groups}


def accuracy(heard: Heard, said: Said, *, of: int | None = None) -> dict[str, Any]:
    """Share of texts that name the planted category; the same texts dealt to other categories' features; by level.

    ``of``: how many features were asked for: those without a text count as wrong in ``of_all``.
    """
    table, categories = heard.table(said), heard.categories(said)
    right = own(table)
    label = np.array(categories)
    other = label[:, None] != label[None, :]
    found: dict[str, Any] = {"accuracy": rate(right, categories)}
    found["dealt"] = float(table[other].mean()) if other.any() else None
    levels = np.array([str(level_of(heard.latents[f])) for f in said.features])
    found["by_level"] = {
        level: rate(right[levels == level], [c for c, k in zip(categories, levels, strict=True) if k == level])
        for level in LEVELS
        if (levels == level).sum() >= 2
    }
    if of is not None:
        found["of_all"] = float(right.sum() / of)
    return found


def paired(first: NDArray[Any], second: NDArray[Any], clusters: Sequence[str]) -> dict[str, float]:
    """Mean of second - first over the same features, interval over categories, two-sided p of the cluster t test."""
    gap = np.asarray(second, dtype=np.float64) - np.asarray(first, dtype=np.float64)
    low, high, p, groups = clustered_interval(gap, clusters)
    return {"value": float(gap.mean()), "low": low, "high": high, "p": p, "n": len(gap), "clusters": groups}


def both(heard: Heard, a: Said, b: Said) -> tuple[NDArray[np.bool_], NDArray[np.bool_], list[str]]:
    """Right or not of the features two conditions share, and their categories."""
    place = {f: k for k, f in enumerate(b.features)}
    shared = [(k, place[f]) for k, f in enumerate(a.features) if f in place]
    left, right = [k for k, _ in shared], [k for _, k in shared]
    categories = [heard.latents[a.features[k]].category for k in left]
    return heard.right(a)[left], heard.right(b)[right], categories


def plain(estimate: Any) -> dict[str, Any]:
    """An ``Estimate`` as a dict without its words."""
    told = asdict(estimate)
    return {k: told[k] for k in ("value", "low", "high", "p", "n", "null", "unit")} | {"extra": told["extra"]}


def grounds_in(folder: Any) -> list[str]:
    """Which directions of the pair have a run under a study's folder, in the usual order."""
    return [name for name in GROUNDS if (folder / name / "manifest.json").exists()]
