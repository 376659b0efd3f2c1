"""What a run says, laid out to be judged: first samples by condition, their categories, nulls.

In: rows and manifest of a run. Out: ``Said``. Refuses a null that nobody knows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dragoman.core import Floats, Refusal
from dragoman.embed import Embedder
from dragoman.score import NULLS, similarity

Doubles = NDArray[np.float64]
ALONE = NULLS[-1]  # the background alone is washed by nothing, and is what every washout mixes in
NOTHING = "(empty)"
_WORD = re.compile(r"\w")
FEWEST = 3  # features that a lift needs


def first_samples(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """Condition -> feature -> text of the first sample, in file order."""
    texts: dict[str, dict[str, str]] = {}
    for row in rows:
        if row["sample"] == 0:
            texts.setdefault(row["condition"], {})[row["feature"]] = row["text"]
    return texts


def dealt_to(said: Mapping[str, str], order: Sequence[str]) -> dict[str, str]:
    """Texts by feature, in one order; random directions, with ids of their own, are dealt to features as they come."""
    if any(f in said for f in order):
        return {f: said[f] for f in order if f in said}
    return dict(zip(order, said.values(), strict=False))


def null_of(entry: Mapping[str, Any]) -> str | None:
    """Which of ``score.NULLS`` a condition of the manifest serves as; its first word is enough ("random").

    Raises:
        Refusal: a null nobody knows.
    """
    said = entry.get("null")
    if said is None:
        return None
    found = next((name for name in NULLS[1:] if said in (name, name.split()[0])), None)
    if found is None:
        raise Refusal(
            f"null '{said}' of condition '{entry.get('name')}'",
            f"those with texts of their own are {', '.join(NULLS[1:])}",
            "mend the manifest",
        )
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """First samples of a run: ``texts`` by condition and feature, ``dealt`` the same in the features' order.

    ``told``: the manifest's entry of each condition that has texts, in its order; ``category``: of planted features.
    """

    texts: Mapping[str, Mapping[str, str]]
    dealt: Mapping[str, Mapping[str, str]]
    told: Mapping[str, Mapping[str, Any]]
    category: Mapping[str, str]

    @property
    def features(self) -> list[str]:
        """Conditions that are neither natives nor nulls: those a claim is made of."""
        return [c for c, told in self.told.items() if c != "native" and not is_null(told)]

    def groups(self, features: Sequence[str]) -> list[str] | None:
        """Categories of features where several share one: they succeed and fail together."""
        if not all(f in self.category for f in features):
            return None
        found = [self.category[f] for f in features]
        return found if 1 < len(set(found)) < len(found) else None

    def nulls_for(self, condition: str) -> dict[str, list[str]]:
        """Null -> texts of the conditions that serve as it for this one.

        They are washed as it was and said by the same verbalizer; of several those by its own route, if there are any.
        """
        own, found = self.told[condition], dict[str, list[tuple[str, bool]]]()
        for name, told in self.told.items():
            null = null_of(told)
            if null is None or name == condition or told.get("verbalizer") != own.get("verbalizer"):
                continue
            if null == ALONE or told.get("washout") == own.get("washout"):
                found.setdefault(null, []).append((name, told.get("route") == own.get("route")))
        chosen = {null: [c for c, near in some if near] or [c for c, _ in some] for null, some in found.items()}
        return {null: [t for c in names for t in self.texts[c].values()] for null, names in chosen.items()}

    def similarities(self, embedder: Embedder) -> dict[str, Doubles]:
        """S = C B' of every condition with the natives of the same features, where there are at least three."""
        if len(self.dealt.get("native", {})) < FEWEST:
            return {}
        native = self.natives(embedder)
        return {
            condition: similarity(embedder.encode(list(said.values())), np.stack([native[f] for f in said]))
            for condition, said in self.dealt.items()
            if condition != "native" and len(said) >= FEWEST
        }

    def natives(self, embedder: Embedder) -> dict[str, Floats]:
        """Embedded native texts by feature."""
        native = self.dealt["native"]
        return dict(zip(native, embedder.encode(list(native.values())), strict=True))


class Once:
    """An embedder that reads every different text once, and one without a word as "(empty)" instead of refusing it.

    An explanation that says nothing is a bad one, not a missing one.
    """

    def __init__(self, embedder: Embedder) -> None:
        """Nothing read yet."""
        self._embedder = embedder
        self._rows: dict[str, Floats] = {}

    @property
    def name(self) -> str:
        """The embedder's own."""
        return self._embedder.name

    def encode(self, texts: Sequence[str]) -> Floats:
        """(n, width) float32 unit rows."""
        texts = [text if _WORD.search(text) else NOTHING for text in texts]
        new = [text for text in dict.fromkeys(texts) if text not in self._rows]
        if new or not texts:
            found = self._embedder.encode(new)
            self._rows |= dict(zip(new, found, strict=True))
            if not texts:
                return found
        return np.stack([self._rows[text] for text in texts])


def is_null(told: Mapping[str, Any]) -> bool:
    """Whether a condition is there only to be compared with; older manifests say so by its name."""
    return told.get("null") is not None or str(told.get("name")).startswith(("random", "shuffled"))
