"""The direct routes: where a feature fires in the source, what does the target's stream have in common?

In: the SAE's activations of the source, and the target's rows at the same positions. Out: one target direction per
feature. Route ``direct``: beta_k = sum_i f_ik (y_i - mean y) / sum_i f_ik, Cov(y, f_k) up to scale, read off the SAE's
own sparse activation instead of a linear read-out that overlapping features leak into. It is the *total* effect: what
usually comes along with the feature is in it. Route ``dictionary``: row k of (Sff + lam I)^-1 Sfy, the *partial*
effect, with everything else the dictionary sees held fixed. Refuses rows that do not pair, documents that come twice,
and features that fire too rarely.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.sparse import csr_array

from dragoman.core import Directions, Floats, Refusal, Site, frozen, refuse_other_site
from dragoman.maps.moments import Doubles, fold_of
from dragoman.store import Contents, write_arrays

FLOOR = 20.0  # effective documents below which a mean is noise; 50 are comfortable
WHOLE = 8192  # features that dictionary ridge holds fixed at once: 0.5 GB and some ten seconds
LAM_REL = 1e-2  # dictionary ridge's penalty, of the mean activation variance
_BAND = 1024  # features whose sums are made at a time
_SUMS = ("weight_sum", "weight_sq_sum", "weighted_sum", "y_sum")
_FILE = Contents(
    called="direct statistics",
    holds="direct statistics",
    origin="dragoman harvest",
    arrays=dict(zip((*_SUMS, "documents"), ("m", "m", "mq", "q", "n"), strict=True))
    | {"data": "e", "indices": "e", "indptr": "r"},
    words={"site": str, "ids": list, "count": int, "pairs": int},
)
_TABLE = Contents(
    called="a direct table",
    holds="direct table",
    arrays={"unit": "mq", "norms": "m", "n_eff": "m"},
    words={"site": str, "ids": list},
)
_EXACT = Contents(
    called="a direct table",
    holds="exact direct table",
    arrays={"beta": "mq", "n_eff": "m"},
    words={"site": str, "ids": list},
)


class FiringSums:
    """Running sums over rows for M source features, float64, added to in place: 8 M q bytes.

    ``site``: where the rows y are read. ``ids``: M feature ids. ``count``: rows. ``weight_sum`` (M,) sum of
    activations; ``weight_sq_sum`` (M,) sum over documents of the squared activation total of each; ``weighted_sum``
    (M, q) sum of activation times row; ``y_sum`` (q,) sum of rows. ``gram``: sparse (M, M), f'f over all rows, not
    centred, for dictionary ridge (12 bytes an entry); None where it is not counted.
    """

    def __init__(self, site: Site, ids: Iterable[str | int], d_model: int, *, pairs: bool = False) -> None:
        """Nothing seen yet of features ``ids`` at ``site``, ``d_model`` wide; with ``pairs`` the gram is counted."""
        self.site, self.ids = site, tuple(str(i) for i in ids)
        m = len(self.ids)
        self.count = 0
        self.weight_sum, self.weight_sq_sum = np.zeros(m), np.zeros(m)
        self.weighted_sum, self.y_sum = np.zeros((m, d_model)), np.zeros(d_model)
        self.gram = csr_array((m, m)) if pairs else None
        self._documents: set[int] = set()

    def add(self, f: Any, y: NDArray[Any], documents: NDArray[Any]) -> Self:
        """Add rows; these sums are given back.

        Args:
            f: (n, M) activations >= 0, dense or scipy sparse (much faster for a TopK dictionary).
            y: (n, q) rows at the same positions.
            documents: (n,) integer id of each row's document. A document's rows must all come in one call.

        Raises:
            Refusal: shapes that do not fit, negative or non-finite numbers, or a document seen before.
        """
        f, y, documents = csr_array(f, dtype=np.float64), np.asarray(y, dtype=np.float64), np.asarray(documents)
        m, q = len(self.ids), self.y_sum.size
        if f.shape != (len(y), m) or y.shape[1:] != (q,) or documents.shape != (len(y),):
            raise Refusal(
                f"activations {f.shape}, target rows {y.shape} and documents {documents.shape}",
                f"{m} features and width {q} are watched",
                "pass f (n, M), y (n, q) and documents (n,) of the same rows",
            )
        refuse_impossible(f, y)
        self.add_activations(f, documents)
        self.y_sum += y.sum(axis=0)
        columns = f.tocsc()
        for start in range(0, len(self.ids), _BAND):
            band = columns[:, start : start + _BAND]
            if band.nnz:
                self.weighted_sum[start : start + _BAND] += band.T @ y
        return self

    def add_activations(self, f: csr_array, documents: NDArray[Any], *, pairs: bool = True) -> None:
        """Count rows by their activations f (n, M) alone; ``weighted_sum`` and ``y_sum`` are their caller's to add.

        ``gram`` too, unless ``pairs``.

        Raises:
            Refusal: shapes that do not fit, activations that are negative or not finite, or a document seen before.
        """
        if f.shape != (len(documents), len(self.ids)) or documents.ndim != 1:
            raise Refusal(
                f"activations {f.shape} and documents {documents.shape}",
                f"{len(self.ids)} features are watched",
                "pass f (n, M) and documents (n,) of the same rows",
            )
        refuse_impossible(f)
        if not np.issubdtype(documents.dtype, np.integer):
            raise Refusal(f"document ids of type {documents.dtype}", "they are integers", "number the documents")
        names, where = np.unique(documents, return_inverse=True)
        fresh = set(names.tolist())
        again = fresh & self._documents
        if again:
            raise Refusal(
                f"document {min(again)}", "its rows came before, and it would count twice", "keep a document together"
            )
        member = csr_array((np.ones(len(where)), (where, np.arange(len(where)))), shape=(len(names), len(where)))
        totals: Any = member @ f
        self._documents |= fresh
        self.count += len(documents)
        self.weight_sum += np.asarray(f.sum(axis=0))
        self.weight_sq_sum += np.asarray(totals.power(2).sum(axis=0))
        if self.gram is not None and pairs:
            self.gram = csr_array(self.gram + f.T @ f)

    @property
    def documents(self) -> NDArray[np.int64]:
        """Ids of the documents seen, sorted."""
        return np.array(sorted(self._documents), dtype=np.int64)

    @property
    def n_eff(self) -> Doubles:
        """Effective documents (M,): (sum w)^2 / sum w^2 over documents' activation totals w; 0 if it never fires."""
        return self.weight_sum**2 / np.where(self.weight_sq_sum > 0, self.weight_sq_sum, 1.0)

    @property
    def mean_y(self) -> Doubles:
        """Mean (q,) of all rows."""
        return self.y_sum / max(self.count, 1)

    def beta(self) -> Doubles:
        """Activation-weighted mean of the rows minus their overall mean, (M, q); zero rows for silent features."""
        fires = self.weight_sum > 0
        mean = self.weighted_sum / np.where(fires, self.weight_sum, 1.0)[:, None]
        return np.where(fires[:, None], mean - self.mean_y, 0.0)

    def table(self) -> DirectTable:
        """The finished means, a tenth of the sums' size: what ships, and what cards and directions are read from."""
        return DirectTable.of(self.site, self.ids, self.beta(), self.n_eff)

    def partial_table(self, *, lam_rel: float = LAM_REL) -> DirectTable | None:
        """The partial effect of every feature, all solved at once; None where no gram was counted.

        Args:
            lam_rel: penalty relative to the mean variance of an activation, 0 or more.

        Raises:
            Refusal: a negative penalty, or features that cannot be told apart without one.
        """
        if not (np.isfinite(lam_rel) and lam_rel >= 0):
            raise Refusal(f"dictionary ridge with lam_rel {lam_rel}", "the penalty is 0 or more", "use 1e-2")
        if self.gram is None:
            return None
        sums, count = self.weight_sum, self.count
        variance = np.maximum(self.gram.diagonal() - sums**2 / max(count, 1), 0.0)
        shared = self.gram.toarray() - np.outer(sums, sums / count)
        silent = np.diag(shared) <= 0  # a silent feature's row is zero on the right
        shared[np.diag_indices_from(shared)] += np.where(silent, 1.0, lam_rel * float(variance.mean()))
        try:
            factor = cho_factor(shared, overwrite_a=True)
        except np.linalg.LinAlgError:
            raise Refusal(
                "dictionary ridge without a penalty",
                "some features always fire together and cannot be told apart",
                "use a lam_rel above 0",
            ) from None
        beta = cho_solve(factor, self.weighted_sum - np.outer(sums, self.mean_y))
        return DirectTable.of(self.site, self.ids, beta, self.n_eff)

    def save(self, path: Path) -> None:
        """Write the sums to one file."""
        words = {"holds": "direct statistics", "site": str(self.site), "ids": list(self.ids), "count": self.count}
        gram = csr_array((0, 0)) if self.gram is None else self.gram
        arrays = {name: getattr(self, name) for name in (*_SUMS, "documents")}
        arrays |= {name: getattr(gram, name) for name in ("data", "indices", "indptr")}
        write_arrays(path, arrays, words | {"pairs": int(self.gram is not None)})

    @classmethod
    def load(cls, path: Path) -> FiringSums:
        """Read what ``save`` wrote."""
        arrays, words = _FILE.read(path)
        ids, rows = words["ids"], len(arrays["weight_sum"])
        if len(ids) != rows:
            raise Refusal(f"{path}", f"it holds {len(ids)} ids and sums of {rows} features", "make it again")
        found = cls(Site.parse(words["site"]), ids, arrays["y_sum"].size)
        found.count, found._documents = words["count"], set(arrays["documents"].tolist())
        for name in _SUMS:
            setattr(found, name, arrays[name].astype(np.float64, copy=False))
        if words["pairs"]:
            try:
                gram = csr_array((arrays["data"], arrays["indices"], arrays["indptr"]), shape=(rows, rows))
                gram.check_format(full_check=True)
            except (ValueError, OverflowError) as error:
                raise Refusal(f"{path}", f"its table of co-firing is damaged ({error})", "make it again") from error
            found.gram = gram
        return found


def refuse_impossible(f: csr_array, y: NDArray[Any] | None = None) -> None:
    """Refuse activations that are negative, and numbers that are not finite."""
    finite = np.isfinite(f.data).all() and (y is None or np.isfinite(y).all())
    if not finite or (f.data < 0).any():
        raise Refusal(
            "activations or target rows",
            "some are NaN, infinite or, for activations, negative",
            "pass the SAE's activations after its nonlinearity",
        )


def add_by_fold(folds: Sequence[FiringSums], f: Any, y: NDArray[Any], documents: NDArray[Any]) -> None:
    """Add rows to the sums of their documents' folds, as ``fold_of`` deals them."""
    f, y, documents = csr_array(f), np.asarray(y), np.asarray(documents)
    mine = fold_of(documents, len(folds))
    for k in np.unique(mine):
        rows = np.flatnonzero(mine == k)
        folds[k].add(f[rows], y[rows], documents[rows])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DirectTable:
    """What a direct route found: one target row per feature, and on how much it rests.

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

    def rows(self, ids: Iterable[str | int], *, labels: Sequence[str] | None = None) -> Directions:
        """Target directions of the named features.

        Raises:
            Refusal: an unknown feature, or one with fewer than ``FLOOR`` effective documents.
        """
        wanted, row = [str(i) for i in ids], {name: i for i, name in enumerate(self.ids)}
        for name in wanted:
            if name not in row:
                raise Refusal(f"feature {name}", f"it was not among the {len(self.ids)} watched", "harvest with it")
            if self.n_eff[row[name]] < FLOOR:
                raise Refusal(
                    f"feature {name}",
                    f"it fires too rarely: in {self.n_eff[row[name]]:.1f} effective documents of the {FLOOR:g} needed",
                    "carry it by the map, or harvest more text in which it fires",
                )
        beta = self.beta[[row[name] for name in wanted]]
        return Directions.of(self.site, beta, wanted, labels=labels, origin=f"direct route to {self.site}")

    def frequent(self, directions: Directions) -> Directions:
        """Those of the directions that this table can answer for."""
        n_eff = dict(zip(self.ids, self.n_eff, strict=True))
        return directions.pick(i for i in directions.ids if n_eff.get(i, 0.0) >= FLOOR)

    def save(self, path: Path, *, exact: bool = False) -> None:
        """Write to one file; unless ``exact``, as float16 rows of unit length and their norms: half as large."""
        words = {"site": str(self.site), "ids": list(self.ids)}
        if exact:
            write_arrays(path, {"beta": self.beta, "n_eff": self.n_eff}, {"holds": _EXACT.holds, **words})
            return
        norms = np.linalg.norm(self.beta, axis=1)
        unit = (self.beta / np.where(norms > 0, norms, 1.0)[:, None]).astype(np.float16)
        arrays = {"unit": unit, "norms": norms.astype(np.float32), "n_eff": self.n_eff}
        write_arrays(path, arrays, {"holds": _TABLE.holds, **words})

    @classmethod
    def load(cls, path: Path, *, exact: bool = False) -> DirectTable:
        """Read what ``save`` wrote in the same form."""
        arrays, words = (_EXACT if exact else _TABLE).read(path)
        beta = arrays["beta"] if exact else arrays["unit"].astype(np.float32) * arrays["norms"][:, None]
        return cls.of(Site.parse(words["site"]), words["ids"], beta, arrays["n_eff"])


def blend(a: Directions, b: Directions) -> Directions:
    """unit(a / 2 + b / 2) of unit rows: half the map's answer, half the direct route's.

    Raises:
        Refusal: another site, other features, or rows that cancel.
    """
    refuse_other_site("directions", b.site, a.site)
    if a.ids != b.ids:
        raise Refusal("blending directions", "the two sets name different features", "pick the same ids of both")
    rows = 0.5 * a.unit.astype(np.float64) + (1 - 0.5) * b.unit
    return a.moved(a.site, rows, f"0.5 of [{a.origin}] and the rest of [{b.origin}]")
