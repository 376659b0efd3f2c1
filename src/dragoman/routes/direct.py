"""The direct route: where a feature fires in the source, what does the target's stream have in common?

In: the SAE's activations of the source, and the target's rows at the same positions. Out: one target direction per
feature, beta_k = sum_i f_ik (y_i - mean y) / sum_i f_ik. No map and no regression: beta is Cov(y, f_k) up to scale,
read off the SAE's own sparse activation instead of a linear read-out that overlapping features leak into. It is the
*total* effect: what usually comes along with the feature comes along here too. Refuses features that fire too rarely.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dragoman.core import Directions, Floats, Refusal, Site, frozen, refuse_other_site
from dragoman.routes.batch import Batch
from dragoman.routes.moments import Doubles
from dragoman.store import Contents, write_arrays

FLOOR = 20.0  # effective documents below which a mean is noise; 50 are comfortable

_ARRAYS = ("weight_sum", "weight_sq_sum", "weighted_sum", "y_sum", "documents")
_SUMS = Contents(
    called="direct statistics",
    holds="direct statistics",
    origin="dragoman harvest",
    arrays=dict(zip(_ARRAYS, ("m", "m", "mq", "q", "n"), strict=True)),
    words={"site": str, "ids": list, "count": int},
)
_TABLE = Contents(
    called="a direct table",
    holds="direct table",
    arrays={"unit": "mq", "norms": "m", "n_eff": "m"},
    words={"site": str, "ids": list},
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DirectStatistics:
    """Running sums over rows for M source features, all float64; they add up over shards.

    ``site``: the target. ``ids``: M feature ids. ``weight_sum`` (M,) sum of activations; ``weight_sq_sum`` (M,) sum
    over documents of the squared activation total of each; ``weighted_sum`` (M, q) sum of activation times target row;
    ``y_sum`` (q,) and ``count`` over all rows; ``documents`` ids of those seen, so that none is counted as two.
    """

    site: Site
    ids: tuple[str, ...]
    count: int
    weight_sum: Doubles
    weight_sq_sum: Doubles
    weighted_sum: Doubles
    y_sum: Doubles
    documents: NDArray[np.int64]

    @classmethod
    def empty(cls, site: Site, ids: Sequence[str | int], d_model: int) -> DirectStatistics:
        """Nothing seen yet of features ``ids`` at target ``site``, ``d_model`` wide."""
        m = len(ids)
        zeros = [frozen(np.zeros(shape), np.float64) for shape in (m, m, (m, d_model), d_model)]
        return cls(
            site=site,
            ids=tuple(str(i) for i in ids),
            count=0,
            weight_sum=zeros[0],
            weight_sq_sum=zeros[1],
            weighted_sum=zeros[2],
            y_sum=zeros[3],
            documents=frozen([], np.int64),
        )

    def accumulate(self, f: Any, y: NDArray[Any], documents: NDArray[Any]) -> DirectStatistics:
        """These statistics with more rows added; the old value stays as it was (``Tally`` adds in place).

        Args:
            f: (n, M) activations >= 0, dense or scipy sparse (much faster for a TopK dictionary).
            y: (n, q) target rows at the same positions.
            documents: (n,) integer id of each row's document. A document's rows must all come in one call.

        Raises:
            Refusal: shapes that do not fit, negative or non-finite numbers, or a document seen before.
        """
        batch = Batch.of(f, y, documents, features=len(self.ids), width=self.y_sum.size)
        more = DirectStatistics(
            site=self.site,
            ids=self.ids,
            count=len(batch.y),
            weight_sum=batch.weight_sum,
            weight_sq_sum=batch.weight_sq_sum,
            weighted_sum=batch.f.T @ batch.y,
            y_sum=batch.y.sum(axis=0),
            documents=batch.documents,
        )
        return self.merge(more)

    def merge(self, other: DirectStatistics) -> DirectStatistics:
        """The statistics of both shards; refuses other features, another site, and documents split between them."""
        refuse_other_site("direct statistics", other.site, self.site)
        if (self.ids, self.y_sum.shape) != (other.ids, other.y_sum.shape):
            raise Refusal(
                "direct statistics of other features or width",
                "sums add up only feature by feature",
                "merge shards made with the same ids",
            )
        seen = np.intersect1d(self.documents, other.documents)
        if seen.size:
            raise Refusal(
                f"document {seen[0]}",
                "it is in both shards, and its firings would be counted as two documents'",
                "keep a document's rows together",
            )
        arrays = {name: frozen(getattr(self, name) + getattr(other, name), np.float64) for name in _ARRAYS[:4]}
        documents = frozen(np.union1d(self.documents, other.documents), np.int64)
        return DirectStatistics(
            site=self.site, ids=self.ids, count=self.count + other.count, documents=documents, **arrays
        )

    @property
    def n_eff(self) -> Doubles:
        """Effective documents (M,): (sum w)^2 / sum w^2 over documents' activation totals w; 0 if it never fires."""
        return self.weight_sum**2 / np.where(self.weight_sq_sum > 0, self.weight_sq_sum, 1.0)

    @property
    def mean_y(self) -> Doubles:
        """Mean (q,) of all target rows."""
        return self.y_sum / max(self.count, 1)

    def beta(self) -> Doubles:
        """Activation-weighted mean of the target minus its overall mean, (M, q); zero rows for silent features."""
        fires = self.weight_sum > 0
        mean = self.weighted_sum / np.where(fires, self.weight_sum, 1.0)[:, None]
        return np.where(fires[:, None], mean - self.mean_y, 0.0)

    def table(self) -> DirectTable:
        """The finished means, a tenth of the sums' size: what ships, and what cards and directions are read from."""
        return DirectTable.of(self.site, self.ids, self.beta(), self.n_eff)

    def directions(
        self, ids: Iterable[str | int], *, floor: float = FLOOR, labels: Sequence[str] | None = None
    ) -> Directions:
        """Target directions of the named features; see ``DirectTable.directions``."""
        return self.table().directions(ids, floor=floor, labels=labels)

    def save(self, path: Path) -> None:
        """Write the sums to one file."""
        words = {"holds": "direct statistics", "site": str(self.site), "ids": list(self.ids), "count": self.count}
        write_arrays(path, {name: getattr(self, name) for name in _ARRAYS}, words)

    @classmethod
    def load(cls, path: Path) -> DirectStatistics:
        """Read what ``save`` wrote."""
        arrays, words = _SUMS.read(path)
        ids, rows = tuple(words["ids"]), len(arrays["weight_sum"])
        if len(ids) != rows:
            raise Refusal(f"{path}", f"it holds {len(ids)} ids and sums of {rows} features", "make it again")
        kept = {name: frozen(array, array.dtype) for name, array in arrays.items()}
        return cls(site=Site.parse(words["site"]), ids=ids, count=words["count"], **kept)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DirectTable:
    """What the direct route found: one target row per feature, and on how much it rests.

    ``site``: the target. ``ids``: M feature ids. ``beta``: (M, q) float32, zero rows for silent features.
    ``n_eff``: (M,) effective documents.
    """

    site: Site
    ids: tuple[str, ...]
    beta: Floats
    n_eff: Floats

    @classmethod
    def of(cls, site: Site, ids: Sequence[str], beta: NDArray[Any], n_eff: NDArray[Any]) -> DirectTable:
        """Check that everything is one per feature."""
        if beta.ndim != 2 or not len(ids) == len(beta) == len(n_eff):
            raise Refusal(
                f"direct rows of shape {beta.shape}", f"there are {len(ids)} ids", "pass one row, id and count each"
            )
        return cls(site=site, ids=tuple(ids), beta=frozen(beta), n_eff=frozen(n_eff))

    def directions(
        self, ids: Iterable[str | int], *, floor: float = FLOOR, labels: Sequence[str] | None = None
    ) -> Directions:
        """Target directions of the named features.

        Raises:
            Refusal: an unknown feature, or one with fewer than ``floor`` effective documents.
        """
        wanted, row = [str(i) for i in ids], {name: i for i, name in enumerate(self.ids)}
        for name in wanted:
            if name not in row:
                raise Refusal(f"feature {name}", f"it was not among the {len(self.ids)} watched", "harvest with it")
            if self.n_eff[row[name]] < floor:
                raise Refusal(
                    f"feature {name}",
                    f"it fires too rarely: in {self.n_eff[row[name]]:.1f} effective documents of the {floor:g} needed",
                    "carry it by the map, or harvest more text in which it fires",
                )
        beta = self.beta[[row[name] for name in wanted]]
        return Directions.of(self.site, beta, wanted, labels=labels, origin=f"direct route to {self.site}")

    def save(self, path: Path) -> None:
        """Write to one file; rows as float16 at unit length with their norms beside, which keeps them exact to 1e-3."""
        norms = np.linalg.norm(self.beta, axis=1)
        unit = (self.beta / np.where(norms > 0, norms, 1.0)[:, None]).astype(np.float16)
        words = {"holds": "direct table", "site": str(self.site), "ids": list(self.ids)}
        write_arrays(path, {"unit": unit, "norms": norms.astype(np.float32), "n_eff": self.n_eff}, words)

    @classmethod
    def load(cls, path: Path) -> DirectTable:
        """Read what ``save`` wrote."""
        arrays, words = _TABLE.read(path)
        beta = arrays["unit"].astype(np.float32) * arrays["norms"][:, None]
        return cls.of(Site.parse(words["site"]), words["ids"], beta, arrays["n_eff"])


def blend(a: Directions, b: Directions, share: float = 0.5) -> Directions:
    """unit(share a + (1 - share) b) of unit rows: half the map's answer, half the direct route's.

    Raises:
        Refusal: another site, other features, a share outside [0, 1], or rows that cancel.
    """
    refuse_other_site("directions", b.site, a.site)
    if a.ids != b.ids:
        raise Refusal("blending directions", "the two sets name different features", "pick the same ids of both")
    if not 0 <= share <= 1:
        raise Refusal(f"share {share:g}", "a share lies between 0 and 1", "use 0.5 for equal parts")
    rows = share * a.unit.astype(np.float64) + (1 - share) * b.unit
    return a.moved(a.site, rows, f"{share:g} of [{a.origin}] and the rest of [{b.origin}]")
