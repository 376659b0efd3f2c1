"""Small worlds whose truth is known: paired rows made from planted features or a planted map."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.sparse import csr_array

from dragoman.core import Directions, Site
from dragoman.maps.direct import FiringSums, add_by_fold
from dragoman.maps.moments import Sums

SOURCE = Site("source-model", 20)
TARGET = Site("target-model", 12)
ELSEWHERE = Site("third-model", 3)


def rows(n, p, q, rng, *, noise=0.5):
    """Paired rows from a random affine map with noise: x (n, p), y (n, q)."""
    weight = rng.normal(size=(p, q)) / np.sqrt(p)
    x = rng.normal(size=(n, p)) @ np.diag(np.linspace(0.5, 2.0, p)) + rng.normal(size=p)
    return x, x @ weight + noise * rng.normal(size=(n, q)) + rng.normal(size=q)


def shifted(x, y, pilot=None, product=np.float64):
    """Moments of rows with a pilot (their own means if None) taken off before they are multiplied in ``product``."""
    pilot = pilot or (x.mean(0, dtype=np.float64), y.mean(0, dtype=np.float64))
    sums = Sums(x.shape[1], y.shape[1])
    for start in range(0, len(x), 4096):
        block = slice(start, start + 4096)
        sums.add((x[block] - pilot[0]).astype(product), (y[block] - pilot[1]).astype(product))
    return sums.sealed(*pilot)


def at_source(array, ids=None):
    array = np.atleast_2d(array)
    return Directions.of(SOURCE, array, range(len(array)) if ids is None else ids, origin="planted")


def cosines(a, b):
    """Row by row."""
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    return np.sum(a * b, axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def unit(array):
    return array / np.linalg.norm(array, axis=-1, keepdims=True)


@dataclass
class SparseWorld:
    """x = fired @ source + noise, y = fired @ target + a large mean; fired non-negative; document = 20 rows."""

    fired: csr_array
    x: np.ndarray
    y: np.ndarray
    documents: np.ndarray
    source: np.ndarray
    target: np.ndarray

    @cached_property
    def f(self):
        """What fired, written out (n, m)."""
        return self.fired.toarray()


def sums_by_fold(site, m, width, world=None, folds=5):
    """Direct sums of ``m`` features by fold of documents, of a world's rows if there is one."""
    found = [FiringSums(site, range(m), width) for _ in range(folds)]
    if world is not None:
        add_by_fold(found, world.fired, world.y, world.documents)
    return found


def sparse_world(*, n=20_000, p=64, q=96, m=192, rate=0.03, rates=None, source=None, noise=0.05, seed=0):
    rng = np.random.default_rng(seed)
    source = unit(rng.normal(size=(m, p))) if source is None else source
    target = unit(rng.normal(size=(m, q)))
    rates = np.full(m, rate) if rates is None else rates
    places = np.nonzero(rng.random((n, m)) < rates)
    fired = csr_array((rng.lognormal(0.0, 0.3, size=len(places[0])), places), shape=(n, m))
    x = fired @ source + noise * rng.normal(size=(n, p)) / np.sqrt(p) + 1.0
    y = fired @ target + noise * rng.normal(size=(n, q)) / np.sqrt(q) + 3.0
    return SparseWorld(fired, x, y, np.arange(n) // 20, source, target)
