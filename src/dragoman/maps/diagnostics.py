"""How good a map is: on directions, by weights and moments alone, and on rows it has not seen.

In: directions at the source, a map, the moments it was fitted on, for purity where features fire in the source itself;
paired held-out rows. Out: ``Retained``, reliabilities, ``Baselines`` to rank them by, purities, one number per
direction each; of held-out rows a dict of numbers, the trustworthy ones first. Refuses directions and sums of another
site, and rows that do not pair.

For ridge E[dW] = dHW*, H = (Sxx + lam I)^-1 Sxx: the map explains dH, not d, and nothing in its output says so. Pushing
d through least squares regresses the target on a linear read-out of x, and every overlapping feature leaks into it:
dW = sum_j m_j t_j with m = Cov(f, x)(Sx + lam/n)^-1 d. Purity is what the feature itself has of this mixture. These
numbers saturate with more rows, but their ranks among random directions and the dictionary's keep telling.

Of held-out rows a raw cosine comes last because it says almost nothing where activations share a large mean: on
Gemma-3-27B a constant already reaches 0.971. It is therefore never given without the constant's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dragoman.core import Directions, Refusal, refuse_other_site
from dragoman.maps.direct import FiringSums
from dragoman.maps.linear import LinearMap, solve_shifted, source_scale
from dragoman.maps.moments import Doubles, FoldedMoments, Moments

RANDOM = 1000
MOST = 4096  # rows of a dictionary that are measured: enough for a quartile
_CANDIDATES = 1000
_LOUD = 10
_USABLE, _GOOD, _FOUND = 0.15, 0.25, 0.3


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Retained:
    """``coverage`` d H d' and ``kappa`` cos(d, dH), (k,), in [0, 1]; ``spread`` d A d' (k,), None but for ridge.

    A = (S + lam)^-1 S (S + lam)^-1, so that Cov(dW) = (d A d') Cov(errors).
    """

    coverage: Doubles
    kappa: Doubles
    spread: Doubles | None


def retained(unit: Doubles, map_: LinearMap, moments: Moments) -> Retained:
    """What the map keeps of unit rows (k, p)."""
    spread = None
    if map_.method == "procrustes":  # a truncated rotation keeps the projection on its informative directions
        turn = map_.weight / map_.settings["scale"]
        through = unit @ turn @ turn.T
    else:
        lam = map_.settings["lam"]
        scale = source_scale(np.diag(moments.sxx) / moments.count) if map_.settings.get("standardised") else None
        rows, fitted = (unit, moments) if scale is None else (unit / scale, moments.rescaled(scale))
        solved = solve_shifted(fitted.sxx, lam, rows.T)
        through = rows - lam * solved.T  # dH; I - H = lam (Sxx + lam I)^-1
        if scale is not None:
            through = through * scale
        if map_.method == "ridge":
            spread = np.sum(solved * (fitted.sxx @ solved), axis=0)
    coverage = np.clip(np.sum(through * unit, axis=1), 0.0, 1.0)
    length = np.linalg.norm(through, axis=1)
    # Nothing kept is 0, not rounding noise.
    kappa = np.clip(coverage / np.where(length > 1e-9, length, 1.0), 0.0, 1.0)
    return Retained(coverage=coverage, kappa=kappa, spread=spread)


def reliability(image: Doubles, spread: Doubles, map_: LinearMap, moments: Moments) -> Doubles:
    """Expected cosine (k,) of an image with what infinitely many such rows would give: sqrt(Q / (Q + N)).

    N = (d A d') RSS / (n - df) is the noise's energy, Q = max(|dW|^2 - N, 0) the signal's.
    Rows of one document are alike, so n overstates what was seen: ``reliability_of_folds`` does not.
    """
    weight, lam = map_.weight, map_.settings["lam"]
    rss = np.trace(moments.syy) - 2 * np.sum(weight * moments.sxy) + np.sum(weight * (moments.sxx @ weight))
    fitted = moments
    if map_.settings.get("standardised"):
        fitted = moments.rescaled(source_scale(np.diag(moments.sxx) / moments.count))
    values = np.clip(np.linalg.eigvalsh(fitted.sxx), 0.0, None)
    freedom = max(moments.count - 1.0 - float(np.sum(values / (values + lam))), 1e-9)
    return _share(np.sum(image**2, axis=1), spread * max(float(rss), 0.0) / freedom)


def reliability_of_folds(unit: Doubles, map_: LinearMap, folds: FoldedMoments) -> Doubles:
    """The same (k,) with N from a jackknife over folds of documents: (K - 1)/K sum_f |dW_-f - mean|^2 (ridge only)."""
    images = []
    for k in range(len(folds.folds)):
        fitted = folds.without(k)
        rows = unit
        if map_.settings.get("standardised"):
            scale = source_scale(np.diag(fitted.sxx) / fitted.count)
            rows, fitted = unit / scale, fitted.rescaled(scale)
        lam = map_.settings["lam_rel"] * float(np.trace(fitted.sxx)) / fitted.p
        images.append(solve_shifted(fitted.sxx, lam, rows.T).T @ fitted.sxy)
    mean = np.mean(images, axis=0)
    noise = (len(images) - 1) / len(images) * np.sum([np.sum((i - mean) ** 2, axis=1) for i in images], axis=0)
    return _share(np.sum(mean**2, axis=1), noise)


def _share(energy: Doubles, noise: Doubles) -> Doubles:
    signal = np.maximum(energy - noise, 0.0)
    return np.sqrt(signal / np.where(signal + noise > 0, signal + noise, 1.0))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Baselines:
    """Sorted values: coverage and |dW| of random directions, coverage and cycle of the dictionary's own."""

    random_coverage: Doubles
    random_norm: Doubles
    dictionary_coverage: Doubles
    dictionary_cycle: Doubles | None

    @classmethod
    def of(
        cls,
        map_: LinearMap,
        moments: Moments,
        dictionary: Directions,
        back: LinearMap | None = None,
        *,
        rng: np.random.Generator,
    ) -> Baselines:
        """Measure 1000 isotropic directions and at most 4096 of the dictionary's, drawn at random."""
        refuse_other_site("dictionary directions", dictionary.site, map_.source)
        noise = rng.normal(size=(RANDOM, moments.p))
        noise /= np.linalg.norm(noise, axis=1, keepdims=True)
        rows = dictionary.unit
        if len(rows) > MOST:
            rows = rows[np.sort(rng.choice(len(rows), MOST, replace=False))]
        rows = rows / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
        both = retained(np.concatenate([noise, rows]), map_, moments)
        return cls(
            random_coverage=np.sort(both.coverage[:RANDOM]),
            random_norm=np.sort(np.linalg.norm(noise @ map_.weight, axis=1)),
            dictionary_coverage=np.sort(both.coverage[RANDOM:]),
            dictionary_cycle=None if back is None else np.sort(cycle(rows, map_, back)),
        )


def below(values: Doubles, found: NDArray[Any]) -> Doubles:
    """Share of sorted ``values`` that lie below each number of ``found``, ties counted half."""
    left, right = np.searchsorted(values, found, "left"), np.searchsorted(values, found, "right")
    return (left + right) / (2.0 * len(values))


def cycle(unit: Doubles, map_: LinearMap, back: LinearMap) -> Doubles:
    """cos(d, d W V) (k,) of unit rows with V the map back; 0 where nothing comes back."""
    returned = unit @ map_.weight @ back.weight
    length = np.linalg.norm(returned, axis=1)
    return np.sum(returned * unit, axis=1) / np.where(length > 0, length, 1.0)


def purity(directions: Directions, fired: FiringSums, moments: Moments, lam: float) -> Doubles:
    """m_kk^2 / sum_j m_kj^2 (k,), in [0, 1]; nan for directions that are none of the watched features.

    Args:
        directions: at the source.
        fired: sums of the SAE's activations with the *source's* rows in the place of the target's.
        moments: of the fitted rows; only the source's side is used.
        lam: the map's penalty.

    Raises:
        Refusal: another site or width.
    """
    refuse_of_another_stream("statistics for purity", directions, fired, moments)
    covariance = fired.weighted_sum - np.outer(fired.weight_sum, fired.mean_y)  # Cov(f, x) but for 1 / n
    unit = directions.unit.astype(np.float64)
    mixture = (covariance @ solve_shifted(moments.sxx, lam, unit.T)).T ** 2
    where = {name: i for i, name in enumerate(fired.ids)}
    own = [where.get(name, -1) if directions.kind == "feature" else -1 for name in directions.ids]
    total = mixture.sum(axis=1)
    share = mixture[np.arange(len(own)), own] / np.where(total > 0, total, 1.0)
    return np.where(np.array(own) >= 0, share, np.nan)


def refuse_of_another_stream(what: str, directions: Directions, fired: FiringSums, moments: Moments) -> None:
    """Refuse directions, sums of firings and moments that are not all of one source."""
    refuse_other_site(what, fired.site, directions.site)
    if not directions.d_model == moments.p == fired.y_sum.size:
        raise Refusal(
            f"directions of width {directions.d_model}, moments of {moments.p} and statistics of {fired.y_sum.size}",
            "all three are of the source",
            "accumulate the activations with the source's own rows",
        )


def held_out(
    map_: LinearMap,
    x: NDArray[Any],
    y: NDArray[Any],
    *,
    seed: int = 0,
    documents: NDArray[Any] | None = None,
) -> dict[str, float]:
    """Judge ``map_`` on held-out rows ``x`` (n, p) and ``y`` (n, q).

    Args:
        map_: the map.
        x: source rows it has not seen.
        y: target rows of the same positions.
        seed: of the shuffle, and of the choice of one row a document.
        documents: (n,) whose rows they are. Retrieval is then among rows of different documents only, since rows of one
            document resemble each other.

    Returns:
        In this order: ``n``; ``fve_raw``, the fraction of variance about the *training* mean that is explained;
        ``fve_unit``, the same on unit rows as the NLA papers report it, 1 - 2 (1 - cos) / Var, Var the spread of the
        held-out unit rows; ``centred_cosine`` and its 10th percentile ``centred_cosine_p10``, after subtracting the
        training mean from both sides (0 where a prediction is the mean itself); ``top1``, how often a prediction is
        nearest its own row among ``top1_among`` (evenly spaced when there are more than 1000), by centred cosine, and
        ``mrr``, the mean of 1 / rank; ``median_r2``, over target dimensions; ``fve_quiet``, ``fve_raw`` without the 10
        dimensions that vary most (or half of them, if there are fewer than 20).

        Then the baselines: ``shuffled_fve`` and ``shuffled_centred_cosine`` of the same predictions dealt to other
        rows, and ``shuffled_top1``, what that leads to expect; ``constant_fve_unit`` of predicting the training mean
        (whose ``fve_raw`` and centred cosine are 0) and ``constant_cosine``, its raw cosine. Last ``raw_cosine``, not
        comparable between models.

    Raises:
        Refusal: fewer than two rows, or rows or documents that do not pair.
    """
    x, y = np.asarray(x), np.asarray(y, dtype=np.float64)
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y) or len(y) < 2 or y.shape[1] != map_.mean_y.size:
        raise Refusal(
            f"held-out rows of shapes {x.shape} and {y.shape}",
            f"a map into width {map_.mean_y.size} is judged on at least two pairs of rows",
            "pass x of shape (n, p) and y of shape (n, q)",
        )
    n, truth = len(y), y - map_.mean_y
    guess = map_.points(x) - map_.mean_y
    unit_y = _unit(y)
    raw = np.sum(_unit(guess + map_.mean_y) * unit_y, axis=1)
    constant = unit_y @ _unit(map_.mean_y[None])[0]
    spread = 1.0 - float(np.sum(unit_y.mean(axis=0) ** 2))
    flat_guess, flat_truth = _unit(guess), _unit(truth)
    centred = np.sum(flat_guess * flat_truth, axis=1)
    few = _candidates(n, documents, seed)
    ranks = _ranks(flat_guess[few] @ flat_truth[few].T)
    dealt = np.random.default_rng(seed).permutation(n)
    per_output = 1.0 - _ratio(np.sum((truth - guess) ** 2, axis=0), np.sum(truth**2, axis=0))
    quiet = np.argsort(-np.var(truth, axis=0), kind="stable")[min(_LOUD, truth.shape[1] // 2) :]
    return {
        "n": n,
        "fve_raw": _explained(guess, truth),
        "fve_unit": float(1.0 - 2.0 * (1.0 - raw.mean()) / spread),
        "centred_cosine": float(centred.mean()),
        "centred_cosine_p10": float(np.quantile(centred, 0.1)),
        "top1": float(np.mean(ranks == 1)),
        "mrr": float(np.mean(1.0 / ranks)),
        "top1_among": len(few),
        "median_r2": float(np.median(per_output)),
        "fve_quiet": _explained(guess[:, quiet], truth[:, quiet]),
        "shuffled_fve": _explained(guess[dealt], truth),
        "shuffled_centred_cosine": float(np.mean(np.sum(flat_guess[dealt] * flat_truth, axis=1))),
        "shuffled_top1": 1.0 / len(few),
        "constant_fve_unit": float(1.0 - 2.0 * (1.0 - constant.mean()) / spread),
        "constant_cosine": float(np.mean(constant)),
        "raw_cosine": float(raw.mean()),
    }


def usable(report: Mapping[str, float]) -> tuple[str, str]:
    """``good``, ``usable`` or ``unusable`` by what ``held_out`` found, and the reason.

    Gates of Gemma-like targets, provisional: unit-row FVE of 0.15 to be used and 0.25 to be good, top-1 of 0.3 among a
    thousand, and a shuffled map that explains nothing. A high raw cosine speaks for no map, but one that is not above
    what a constant reaches speaks against it.
    """
    fve, top1, shuffled = report["fve_unit"], report["top1"], report["shuffled_fve"]
    if not np.isfinite([fve, top1, shuffled]).all():
        return "unusable", "held-out rows do not tell what it explains: they hardly vary, or are no finite numbers"
    if shuffled > 0:
        return "unusable", f"predictions dealt to other rows explain {shuffled:.2f} too, so rows are not told apart"
    raw, constant = report.get("raw_cosine"), report.get("constant_cosine")
    if raw is not None and constant is not None and raw <= constant:
        return "unusable", f"its cosine with held-out rows ({raw:.4f}) is not above that of a constant ({constant:.4f})"
    if fve < _USABLE:
        return "unusable", f"it explains {fve:.2f} of the unit rows' variance, {_USABLE:g} are needed"
    if fve < _GOOD or top1 < _FOUND:
        return "usable", f"it explains {fve:.2f} of the unit rows' variance and finds {top1:.0%} of its rows"
    return "good", f"it explains {fve:.2f} of the unit rows' variance and finds {top1:.0%} of its rows"


def usable_means() -> str:
    """What the three words of ``usable`` mean, in a line."""
    return (
        f"good: explains {_GOOD:g} of the unit rows' variance and finds {_FOUND:.0%} of its rows, or more; "
        f"usable: explains {_USABLE:g} or more; unusable: less, or rows dealt at random are explained too, or a "
        "constant comes as near"
    )


def _candidates(n: int, documents: NDArray[Any] | None, seed: int) -> NDArray[np.int64]:
    """Rows that retrieval is among: at most 1000, evenly spaced; one a document, drawn at random, where they are known.

    Raises:
        Refusal: not one document a row, or rows of a single one.
    """
    rows = np.arange(n)
    if documents is not None:
        documents = np.asarray(documents)
        if documents.shape != (n,) or len(np.unique(documents)) < 2:
            raise Refusal(
                f"documents of shape {documents.shape} for {n} rows",
                "each row has one, and retrieval is among at least two",
                "pass the document of every held-out row",
            )
        order = np.random.default_rng(seed).permutation(n)
        rows = np.sort(order[np.unique(documents[order], return_index=True)[1]])
    return rows[np.unique(np.linspace(0, len(rows) - 1, min(len(rows), _CANDIDATES)).astype(int))]


def _ranks(scores: Doubles) -> NDArray[np.int64]:
    """Place (n,) of each row's own column among its scores, 1 the best; ties go to the first, as in arg-max."""
    own = np.diag(scores)[:, None]
    before = np.tril(np.ones(scores.shape, dtype=bool), -1)
    return 1 + np.sum((scores > own) | ((scores == own) & before), axis=1)


def _ratio(top: Doubles, bottom: Doubles) -> Doubles:
    """Quotient; 1 where nothing varies, so that nothing is explained there."""
    return np.where(bottom > 0, top / np.where(bottom > 0, bottom, 1.0), 1.0)


def _explained(guess: Doubles, truth: Doubles) -> float:
    """1 - SSE / SST, both already about the training mean."""
    return float(1.0 - np.sum((truth - guess) ** 2) / np.sum(truth**2))


def _unit(rows: Doubles) -> Doubles:
    """Unit rows; a zero row stays zero, so that its cosines are 0."""
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(norms > 0, norms, 1.0)


def beside_baselines(held_out: Mapping[str, float]) -> list[tuple[str, float, float | None, float | None]]:
    """A held-out report as lines: measure, this map, the mean alone, rows dealt at random (None: there is no such)."""
    names: list[tuple[str, str, str | None, str | None]] = [
        ("variance explained, unit rows", "fve_unit", "constant_fve_unit", None),
        ("variance explained, raw rows", "fve_raw", None, "shuffled_fve"),
        ("cosine, mean taken off", "centred_cosine", None, "shuffled_centred_cosine"),
        (f"own row nearest of {held_out['top1_among']:.0f}", "top1", None, "shuffled_top1"),
        ("cosine, raw", "raw_cosine", "constant_cosine", None),
    ]
    return [
        (what, held_out[own], held_out[mean] if mean else None, held_out[dealt] if dealt else None)
        for what, own, mean, dealt in names
    ]
