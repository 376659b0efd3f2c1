"""Known answers and nulls constructed in a person's own two models, from tokens that both of them read.

In: documents of the evidence, two readers, a crossing. Out: ``Pairs``; mean differences of concept words and mixtures
of them; random directions of the stream's covariance; fake latents with all that a crossing counts of real ones; a map
of rows that do not belong together. Refuses documents without a token that both models end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from dragoman.core import Directions, Floats, Refusal, Site
from dragoman.maps import Crossing, FiringSums, LinearMap, Moments
from dragoman.maps.aligned import FiringsTally
from dragoman.maps.linear import fit_ridge
from dragoman.maps.words import WORD, WordTally, word_span
from dragoman.measures.fake import FakeEncoder, fake_dictionary
from dragoman.measures.firing import variants
from dragoman.models.encoding import encoded
from dragoman.models.harvest import Reader, shared_ends
from dragoman.models.paired import FIRST
from dragoman.store import digest, document_name

PARTS = ("documents", "ends", "x", "y")  # arrays of pairs
CHUNK = 64  # documents read together
EARLY = 40  # characters of a document that no concept's word counts in
COSINES = (1.0, 0.7, 0.5)  # of a constructed direction with its concept's mean difference
SHORTEST, RAREST = 4, 6  # letters of a concept's word, and documents that hold it
_ORDINARY = 0.1  # share of documents above which a word is no concept


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pairs:
    """n tokens that end at the same character in both models.

    ``texts``: by the documents' names. ``documents``, ``ends`` (n,): whose, and the character at which they end.
    ``x`` (n, p), ``y`` (n, q): rows of source and target.
    """

    texts: dict[int, str]
    documents: NDArray[np.int64]
    ends: NDArray[np.int64]
    x: Floats
    y: Floats


def read_pairs(source: Reader, target: Reader, texts: Sequence[str], progress: Any = None) -> Pairs:
    """Read documents with both models; early tokens and sinks are left out.

    Raises:
        Refusal: no token end is shared.
    """
    typical = [reader.typical(texts) for reader in (source, target)]
    parts: list[tuple[NDArray[np.int64], NDArray[np.int64], Floats, Floats]] = []
    for start in range(0, len(texts), CHUNK):
        piece = list(texts[start : start + CHUNK])
        x, y = (r.rows(piece, most) for r, most in zip((source, target), typical, strict=True))
        left, right = shared_ends(x, y)
        late = (x.position[left] >= FIRST) & (y.position[right] >= FIRST)
        left, right = left[late], right[late]
        names = np.array([document_name(text) for text in piece], dtype=np.int64)
        parts.append((names[x.document[left]], x.end[left], x.x[left], y.x[right]))
        if progress is not None:
            progress(min(start + CHUNK, len(texts)), len(texts))
    documents, ends = np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])
    x, y = np.concatenate([part[2] for part in parts]), np.concatenate([part[3] for part in parts])
    if not len(documents):
        raise Refusal("these texts", "the two tokenizers share no token end late enough", "give longer running text")
    order = np.lexsort((ends, documents))
    known = {document_name(text): text for text in texts}
    return Pairs(texts=known, documents=documents[order], ends=ends[order], x=x[order], y=y[order])


def read_rows(reader: Reader, texts: Sequence[str], take: Any, progress: Any = None) -> None:
    """Read documents with one model, and hand on (rows, documents' names, ends) of some at a time."""
    typical = reader.typical(texts)
    for start in range(0, len(texts), CHUNK):
        piece = list(texts[start : start + CHUNK])
        rows = reader.rows(piece, typical)
        late = rows.position >= FIRST
        names = np.array([document_name(text) for text in piece], dtype=np.int64)
        take(rows.x[late], names[rows.document[late]], rows.end[late])
        if progress is not None:
            progress(min(start + CHUNK, len(texts)), len(texts))


def concept_words(evidence: Sequence[str], outcome: Sequence[str], n: int, *, seed: int) -> tuple[str, ...]:
    """Words of four letters or more that stand in several documents of either kind, and in no more than a tenth."""
    counts = [_documents_with(texts) for texts in (evidence, outcome)]
    most = [max(_ORDINARY * len(texts), RAREST) for texts in (evidence, outcome)]
    able = sorted(
        word for word, many in counts[0].items() if RAREST <= many <= most[0] and RAREST <= counts[1][word] <= most[1]
    )
    order = sorted(able, key=lambda word: digest("concept", str(seed), word))
    return tuple(sorted(order[:n]))


def _documents_with(texts: Sequence[str]) -> Counter[str]:
    found: Counter[str] = Counter()
    for text in texts:
        late = {m.group().lower() for m in WORD.finditer(text) if m.start() >= EARLY}
        found.update(w for w in late if len(w) >= SHORTEST and w.isalpha())
    return found


def mean_differences(pairs: Pairs, words: Sequence[str], site: Site) -> Directions:
    """Of each word the source's mean at tokens that end it less that at the other tokens of the same documents.

    Words that end at no token that was kept are left out.
    """
    spoken = np.array(
        [_ended(pairs.texts[int(d)], int(e)) for d, e in zip(pairs.documents, pairs.ends, strict=True)], dtype=object
    )
    rows, kept = [], []
    for word in words:
        own = spoken == word
        others = np.isin(pairs.documents, pairs.documents[own]) & ~own
        if own.any() and others.any():
            rows.append(pairs.x[own].mean(axis=0, dtype=np.float64) - pairs.x[others].mean(axis=0, dtype=np.float64))
            kept.append(word)
    if not kept:
        raise Refusal(
            "constructed directions", "no concept's word stands in the texts read by both models", "read more texts"
        )
    return Directions.of(site, np.array(rows), kept, kind="custom", origin="mean differences of words")


def _ended(text: str, end: int) -> str:
    """The word that ends at this character, "" where it goes on or is none."""
    start, stop = word_span(text, end)
    return text[start:stop].lower() if stop == end else ""


def standing(texts: Sequence[str], words: Sequence[str]) -> csr_array:
    """(texts, words): 1 where a word, or one that differs from it in its ending, stands in a text."""
    spoken = [{m.group().lower() for m in WORD.finditer(text)} for text in texts]
    forms = [variants(word) for word in words]
    return csr_array(np.array([[not own.isdisjoint(said) for own in forms] for said in spoken], dtype=np.float64))


def mixtures(concepts: Directions, unrelated: Directions, *, seed: int) -> tuple[Directions, dict[str, str]]:
    """Each concept at cosine 1, 0.7 and 0.5, the rest an unrelated row; id -> its word.

    Raises:
        Refusal: what ``Directions`` refuses.
    """
    rng, rows, names, words = np.random.default_rng([seed, 3]), [], [], dict[str, str]()
    for own, word in zip(concepts.unit.astype(np.float64), concepts.ids, strict=True):
        for cosine in COSINES:
            other = unrelated.unit[int(rng.integers(len(unrelated)))].astype(np.float64)
            other = other - (other @ own) * own
            rows.append(cosine * own + np.sqrt(1 - cosine**2) * other / max(float(np.linalg.norm(other)), 1e-12))
            names.append(f"{word} at {cosine:g}")
            words[names[-1]] = word
    made = Directions.of(concepts.site, np.array(rows), names, kind="custom", origin="made of words")
    return made, words


def like_activations(x: NDArray[Any], site: Site, ids: Sequence[str], *, seed: int) -> Directions:
    """Random directions drawn with the covariance of rows x (n, p), under the names of features."""
    rng = np.random.default_rng([seed, 4])
    values, vectors = np.linalg.eigh(np.cov(x, rowvar=False, dtype=np.float64))
    rows = (rng.normal(size=(len(ids), x.shape[1])) * np.sqrt(np.maximum(values, 0))) @ vectors.T
    return Directions.of(site, rows, ids, origin="random, of the stream's covariance")


def shuffled_map(pairs: Pairs, forward: LinearMap, *, seed: int) -> LinearMap:
    """A ridge over rows that do not belong together, at the map's own relative penalty."""
    order = np.random.default_rng([seed, 5]).permutation(len(pairs.y))
    moments = Moments.of(pairs.x, pairs.y[order])
    lam = float(forward.settings.get("lam_rel", 1.0)) * float(np.trace(moments.sxx)) / moments.p
    made = fit_ridge(moments, forward.source, forward.target, lam, allow_underdetermined=True)
    return replace(made, report=dict(forward.report) | {"shuffled": True})


def fakes_of(pairs: Pairs, rates: NDArray[Any], crossing: Crossing, *, seed: int) -> tuple[Directions, Crossing]:
    """Fake latents of some firing rates, and a crossing that has counted of them what it counts of real ones.

    They count as features of a dictionary of their own: cards, windows and firing words are made as of real ones.
    """
    directions, encoder = fake_latents(pairs, rates, crossing.source, seed=seed)
    directions = replace(directions, kind="feature")
    return directions, _counted(pairs, directions.ids, encoder, crossing)


def fake_latents(pairs: Pairs, rates: NDArray[Any], site: Site, *, seed: int) -> tuple[Directions, FakeEncoder]:
    """The same fake latents, with what says where they fire."""
    able = np.clip(np.asarray(rates, dtype=np.float64), 2 / len(pairs.x), 0.5)
    return fake_dictionary(pairs.x, able, site=site, seed=seed, draw="covariance")


def under_nulls(names: Sequence[str], n: int, *, seed: int) -> list[str]:
    """Latents under whose names nulls stand."""
    return sorted(names, key=lambda name: digest("null", str(seed), name))[:n]


def firing_rates(fired: Any) -> NDArray[np.float64]:
    """Share of rows at which each column of (n, m) activations fires."""
    return np.diff(fired.tocsc().indptr) / max(fired.shape[0], 1)


def _counted(pairs: Pairs, ids: Sequence[str], encoder: FakeEncoder, crossing: Crossing) -> Crossing:
    fired = encoded(encoder, pairs.x)  # type: ignore[arg-type]
    at_target = FiringSums(crossing.target, ids, pairs.y.shape[1]).add(fired, pairs.y, pairs.documents)
    at_source = FiringSums(crossing.source, ids, pairs.x.shape[1]).add(fired, pairs.x, pairs.documents)
    firings, words = FiringsTally(ids), WordTally(ids)
    firings.add(fired, pairs.documents, pairs.ends)
    words.add(fired, [pairs.texts[int(d)] for d in pairs.documents], pairs.ends)
    return replace(
        crossing, direct=at_target.table(), fired=at_source, firings=firings.finish(), words=words.finish(),
        tokens=None, sums=None, solved=None, texts=tuple(pairs.texts.values()),
    )  # fmt: skip
