"""Dictionary ridge: the target's stream regressed on all of the SAE's activations at once.

In: the SAE's activations of the source and the target's rows at the same positions. Out: one target direction per
feature, row k of (Sff + lam I)^-1 Sfy. Refuses dictionaries too large to be solved whole, and rare features.

The direct route's mean is the *total* effect: what usually fires along with a feature is in it too. This is the
*partial* effect, with everything else the dictionary sees held fixed. A large dictionary is solved feature by feature,
each against the features that most often fire with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.sparse import csr_array

from dragoman.core import Directions, Refusal, Site
from dragoman.routes.direct import FLOOR, DirectStatistics, DirectTable
from dragoman.routes.moments import Doubles
from dragoman.store import Contents, write_arrays

WHOLE = 8192  # features solved at once: 0.5 GB and some ten seconds
PARTNERS = 256  # co-active features held fixed when the dictionary is larger
LAM_REL = 1e-2  # of the mean activation variance
_GRAM = Contents(
    called="dictionary statistics",
    holds="co-firing",
    origin="dragoman harvest",
    arrays={"data": "n", "indices": "n", "indptr": "r"},
    words={"features": int},
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DictionaryStatistics:
    """The direct route's sums and, beside them, which features fire together.

    ``direct``: sums of M features. ``gram``: sparse (M, M) float64, f'f over all rows, not centred.
    """

    direct: DirectStatistics
    gram: csr_array

    @classmethod
    def empty(cls, site: Site, ids: Sequence[str | int], d_model: int) -> DictionaryStatistics:
        """Nothing seen yet of features ``ids`` at target ``site``, ``d_model`` wide."""
        return cls(direct=DirectStatistics.empty(site, ids, d_model), gram=csr_array((len(ids), len(ids))))

    def accumulate(self, f: Any, y: NDArray[Any], documents: NDArray[Any]) -> DictionaryStatistics:
        """These statistics with more rows added; arguments and refusals as ``DirectStatistics.accumulate``."""
        f = csr_array(f, dtype=np.float64)
        direct = self.direct.accumulate(f, y, documents)
        return replace(self, direct=direct, gram=csr_array(self.gram + f.T @ f))

    def merge(self, other: DictionaryStatistics) -> DictionaryStatistics:
        """The statistics of both shards; refuses as ``DirectStatistics.merge``."""
        return replace(self, direct=self.direct.merge(other.direct), gram=csr_array(self.gram + other.gram))

    def table(
        self, ids: Iterable[str | int] | None = None, *, lam_rel: float = LAM_REL, partners: int | None = None
    ) -> DirectTable:
        """The partial effect of the named features, or of all, as a table that cards and directions are read from.

        Args:
            ids: features; all when left out.
            lam_rel: penalty relative to the mean variance of an activation, 0 or more.
            partners: solve each feature against this many co-active ones; all at once when left out, up to 8192
                features, 256 beyond.

        Raises:
            Refusal: an unknown feature, a negative penalty, or features that cannot be told apart without one.
        """
        if not (np.isfinite(lam_rel) and lam_rel >= 0):
            raise Refusal(f"dictionary ridge with lam_rel {lam_rel}", "the penalty is 0 or more", "use 1e-2")
        have = self.direct.ids
        where = {name: i for i, name in enumerate(have)}
        wanted = list(have) if ids is None else [str(i) for i in ids]
        for name in wanted:
            if name not in where:
                raise Refusal(f"feature {name}", f"it was not among the {len(have)} watched", "harvest with it")
        rows = np.array([where[name] for name in wanted])
        if partners is None and len(have) > WHOLE:
            partners = PARTNERS
        beta = self._whole(lam_rel)[rows] if partners is None else self._one_by_one(rows, lam_rel, partners)
        return DirectTable.of(self.direct.site, wanted, beta, self.direct.n_eff[rows])

    def directions(
        self,
        ids: Iterable[str | int],
        *,
        floor: float = FLOOR,
        labels: Sequence[str] | None = None,
        lam_rel: float = LAM_REL,
        partners: int | None = None,
    ) -> Directions:
        """Target directions of the named features; see ``table`` and ``DirectTable.directions``."""
        wanted = [str(i) for i in ids]
        return self.table(wanted, lam_rel=lam_rel, partners=partners).directions(wanted, floor=floor, labels=labels)

    @property
    def _variance(self) -> Doubles:
        """Centred sums of squares (M,) of the activations."""
        d = self.direct
        return np.maximum(self.gram.diagonal() - d.weight_sum**2 / max(d.count, 1), 0.0)

    def _solved(self, rows: NDArray[np.int64], lam: float) -> Doubles:
        """(Sff + lam I)^-1 Sfy over the features ``rows`` only."""
        d = self.direct
        sums = d.weight_sum[rows]
        shared = self.gram[rows][:, rows].toarray() - np.outer(sums, sums / d.count)
        silent = np.diag(shared) <= 0
        shared[np.diag_indices_from(shared)] += np.where(
            silent, 1.0, lam
        )  # a silent feature's row is zero on the right
        try:
            factor = cho_factor(shared, overwrite_a=True)
        except np.linalg.LinAlgError:
            raise Refusal(
                "dictionary ridge without a penalty",
                "some features always fire together and cannot be told apart",
                "use a lam_rel above 0",
            ) from None
        return cho_solve(factor, d.weighted_sum[rows] - np.outer(sums, d.mean_y))

    def _whole(self, lam_rel: float) -> Doubles:
        every = np.arange(len(self.direct.ids))
        return self._solved(every, lam_rel * float(self._variance.mean()))

    def _one_by_one(self, rows: NDArray[np.int64], lam_rel: float, partners: int) -> Doubles:
        variance = self._variance
        lam, length = lam_rel * float(variance.mean()), np.sqrt(np.where(variance > 0, variance, np.inf))
        beta = np.zeros((len(rows), self.direct.y_sum.size))
        for k, row in enumerate(rows):
            together = self.gram[[row]].toarray()[0] / length
            together[row] = np.inf  # itself first
            most = np.argsort(-together, kind="stable")[: partners + 1]
            beta[k] = self._solved(most, lam)[0]
        return beta

    def save(self, folder: Path) -> None:
        """Write the sums and the table of co-firing into a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        self.direct.save(folder / "direct.safetensors")
        arrays = {"data": self.gram.data, "indices": self.gram.indices, "indptr": self.gram.indptr}
        write_arrays(folder / "gram.safetensors", arrays, {"holds": "co-firing", "features": len(self.direct.ids)})

    @classmethod
    def load(cls, folder: Path) -> DictionaryStatistics:
        """Read what ``save`` wrote."""
        arrays, words = _GRAM.read(folder / "gram.safetensors")
        direct, m = DirectStatistics.load(folder / "direct.safetensors"), words["features"]
        try:
            gram = csr_array((arrays["data"], arrays["indices"], arrays["indptr"]), shape=(m, m))
            gram.check_format(full_check=True)
        except (ValueError, OverflowError) as error:
            raise Refusal(f"{folder}", f"its table of co-firing is damaged ({error})", "make it again") from error
        if m != len(direct.ids):
            raise Refusal(f"{folder}", f"its table is of {m} features, its sums of {len(direct.ids)}", "make it again")
        return cls(direct=direct, gram=gram)
