"""Fitting by a recipe: ridge at a penalty chosen by leaving documents out, or the seed post's map as it was made.

In: ``FoldedMoments`` and, where the SAE's encoder is at hand, the direct route's sums by fold for some frequent
features; for the post's recipe one pooled row per text and model. Out: a ``LinearMap``, with both curves and the reason
of its penalty, or judged on the fifth of the texts it was not fitted on. Refuses penalties that do not increase from
above 0, fewer rows than the map needs, rows that do not pair, and splits that leave a side empty.

The error of predicting rows is not what a map of *directions* is for. The direction criterion asks for the image of
each calibration feature to lie nearer to where the target's stream points when that feature fires, in documents the map
has not seen, than to where it points for any other: the mean margin. The mean cosine alone over-shrinks: firings of
frequent features have much in common, and a large penalty finds what is common best (on the embedded pair it leaves
36 % of 6100 rows nearest to themselves, the margin 79 %; ``research/penalty.py``). Without an encoder: the smallest
penalty that predicts left-out documents within 3 % of the best.

The post's recipe is kept for comparison: mean-pooled texts, 80 % for fitting, ridge with lambda 100 or Procrustes. It
is underdetermined at the post's size (800 texts, width 3584) and says so on its report.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dragoman.core import Directions, Refusal, Site
from dragoman.maps.diagnostics import held_out as judge
from dragoman.maps.direct import FLOOR, FiringSums
from dragoman.maps.linear import LinearMap, RidgePath, fit_procrustes, fit_ridge, relative_lambda, source_scale
from dragoman.maps.moments import Doubles, FoldedMoments, Moments, refuse_few

GRID: Doubles = np.logspace(-6, 3, 28)  # relative penalties, three a decade
CALIBRATION = 150  # features the direction criterion averages over
LEAST = 30  # features below which their mean cosine decides nothing
WITHIN = 0.97  # of the best R2, for the fallback
LOUD = 1e3  # times the median variance, above which one source dimension would set the penalty for all
ENOUGH = 10  # rows per source dimension below which a map is called thin
HELD_OUT = 0.2  # share of the texts that judges a map by the post's recipe
FEWEST = 8  # texts: the fifth of them that judges is two


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What the direction criterion needs: ``directions`` at the source and ``direct``, sums of the same folds.

    Features of ``directions`` that ``direct`` does not watch are passed over.
    """

    directions: Directions
    direct: Sequence[FiringSums]


@dataclass(frozen=True, slots=True, kw_only=True)
class PenaltyChoice:
    """The chosen relative penalty, why, and what it was chosen from.

    ``rule``: ``"direction"``, or ``"fallback"`` on R2. ``grid``: relative penalties; ``r2``: of left-out documents at
    each, about the training mean; ``margin`` and ``cosine``: of images with left-out direct directions, the mean cosine
    with their own less that with the nearest other, and the former alone, if they were asked.
    ``edge``: ``"upper"`` or ``"lower"`` when the choice is the end of the grid (an upper end means that the rows hardly
    predict each other), else empty. ``features``: how many the direction criterion used, mean over folds.
    """

    lam_rel: float
    rule: Literal["direction", "fallback"]
    reason: str
    grid: tuple[float, ...]
    r2: tuple[float, ...]
    margin: tuple[float, ...] | None
    cosine: tuple[float, ...] | None
    edge: str
    features: float


def choose_penalty(
    moments: FoldedMoments,
    calibration: Calibration | None = None,
    *,
    grid: NDArray[Any] = GRID,
    scale: Doubles | None = None,
) -> PenaltyChoice:
    """Choose lam_rel (lam = lam_rel tr(Sxx)/p of the fitted rows) on left-out folds of documents.

    Args:
        moments: by fold.
        calibration: for the direction criterion; the fallback decides when it is left out, or when fewer than 30 of its
            features fire in ``FLOOR`` effective documents of every fold.
        grid: relative penalties (k,), increasing.
        scale: standard deviations (p,) to divide the source by first, if the map is to be fitted that way.

    Raises:
        Refusal: a grid that does not increase from above 0, or a calibration of other folds or another site.
    """
    grid = np.asarray(grid, dtype=np.float64)
    if grid.ndim != 1 or len(grid) < 2 or grid[0] <= 0 or (np.diff(grid) <= 0).any():
        raise Refusal("this grid of penalties", "penalties increase from above 0, two at least", "use the default")
    wanted = _wanted(moments, calibration)
    errors, spreads = np.zeros(len(grid)), 0.0
    told: list[Doubles] = []
    for k, fold in enumerate(moments.folds):
        fitted = moments.without(k)
        if scale is not None:
            fitted, fold = fitted.rescaled(scale), fold.rescaled(scale)
        path, lams = RidgePath(fitted), grid * relative_lambda(fitted, 1.0)
        errors += path.held_out_curve(lams, fold)
        spreads += float(np.trace(fold.syy) + fold.count * np.sum((fold.mean_y - fitted.mean_y) ** 2))
        if wanted is not None:
            rows, betas = wanted[k]
            told.append(_criterion(path, lams, rows if scale is None else rows / scale, betas))
    r2 = 1.0 - errors / spreads
    if wanted is not None:
        margin, cosine = np.mean(told, axis=0)
        features = float(np.mean([len(rows) for rows, _ in wanted]))
        at = int(np.argmax(margin))
        reason = (
            f"images of {features:.0f} features are told apart best by left-out direct directions "
            f"(margin {margin[at]:+.3f}, cosine {cosine[at]:.3f})"
        )
        return _chosen(grid, r2, (margin, cosine), at, "direction", reason, features)
    best = float(r2.max())
    near = np.flatnonzero(r2 >= WITHIN * best) if best > 0 else np.array([int(np.argmax(r2))])
    lead = "no calibration features were given" if calibration is None else f"fewer than {LEAST} calibration features"
    reason = f"{lead}; smallest penalty within {WITHIN:g} of the best R2 of left-out documents ({best:.3f})"
    return _chosen(grid, r2, None, int(near[0]), "fallback", reason, 0.0)


def _wanted(moments: FoldedMoments, calibration: Calibration | None) -> list[tuple[Doubles, Doubles]] | None:
    """Per fold: source rows (k, p) and unit direct directions (k, q) of the features that fire often enough in it."""
    if calibration is None:
        return None
    folds, directions = calibration.direct, calibration.directions
    if len(folds) != len(moments.folds) or directions.d_model != moments.folds[0].p:
        raise Refusal(
            f"a calibration of {len(folds)} folds and width {directions.d_model}",
            f"the moments have {len(moments.folds)} folds and a source of width {moments.folds[0].p}",
            "make both from the same documents and sites",
        )
    where = {name: i for i, name in enumerate(folds[0].ids)}
    rows = [i for i, name in enumerate(directions.ids) if name in where]
    columns = [where[directions.ids[i]] for i in rows]
    often = np.argsort(-np.sum([f.n_eff[columns] for f in folds], axis=0), kind="stable")[:CALIBRATION]
    found: list[tuple[Doubles, Doubles]] = []
    for fold in folds:
        if fold.y_sum.size != moments.folds[0].q:
            raise Refusal(
                f"a calibration of target width {fold.y_sum.size}",
                f"the moments' target is {moments.folds[0].q} wide",
                "make both at the same target",
            )
        able = [i for i in often if fold.n_eff[columns[i]] >= FLOOR]
        if len(able) < LEAST:
            return None
        betas = fold.beta()[[columns[i] for i in able]]
        unit = directions.unit[[rows[i] for i in able]].astype(np.float64)
        found.append((unit, betas / np.linalg.norm(betas, axis=1, keepdims=True)))
    return found


def _criterion(path: RidgePath, lams: Doubles, rows: Doubles, betas: Doubles) -> Doubles:
    """Mean margin and mean cosine (2, k) at every penalty of mapped rows with unit betas."""
    found = []
    for lam in lams:
        image = path.images(rows, float(lam))
        length = np.linalg.norm(image, axis=1)
        cosines = image @ betas.T / np.where(length > 0, length, 1.0)[:, None]
        own = cosines.diagonal().copy()
        np.fill_diagonal(cosines, -np.inf)
        found.append((np.mean(own - cosines.max(axis=1)), np.mean(own)))
    return np.array(found).T


def _chosen(
    grid: Doubles,
    r2: Doubles,
    told: tuple[Doubles, Doubles] | None,
    at: int,
    rule: Literal["direction", "fallback"],
    reason: str,
    features: float,
) -> PenaltyChoice:
    edge = "upper" if at == len(grid) - 1 else "lower" if at == 0 else ""
    return PenaltyChoice(
        lam_rel=float(grid[at]),
        rule=rule,
        reason=reason,
        grid=tuple(grid.tolist()),
        r2=tuple(r2.tolist()),
        margin=None if told is None else tuple(told[0].tolist()),
        cosine=None if told is None else tuple(told[1].tolist()),
        edge=edge,
        features=features,
    )


def fit_map(
    moments: FoldedMoments,
    source: Site,
    target: Site,
    *,
    calibration: Calibration | None = None,
    penalty: PenaltyChoice | float | None = None,
    standardise: bool | Literal["auto"] = "auto",
    allow_underdetermined: bool = False,
) -> LinearMap:
    """Ridge on all rows at the penalty ``choose_penalty`` gives: all is chosen by rule, the reasons are on its report.

    Args:
        moments: by fold of documents.
        source: where x was read.
        target: where y was read.
        calibration: for the direction criterion.
        penalty: a choice made before, or a relative penalty, to leave the choosing out.
        standardise: divide the source by its standard deviations before fitting. ``"auto"`` does so where the loudest
            dimension has more than 1000 times the median variance. Scaling the target would change no direction.
        allow_underdetermined: fit no more rows than the source is wide.

    Returns:
        A map whose report has ``penalty`` (the choice), ``loudness`` (largest over median source variance),
        ``rows_per_dimension`` and ``thin`` (below 10).

    Raises:
        Refusal: too few rows, or as ``choose_penalty`` does.
    """
    refuse_few(moments.count, moments.folds[0].p, allow_underdetermined=allow_underdetermined)
    variance = moments.source_variance()
    median = float(np.median(variance))
    loudness = float(variance.max() / median) if median > 0 else float("inf")
    scale: Doubles | None = None
    if standardise is True or (standardise == "auto" and loudness > LOUD):
        scale = source_scale(variance)
    if penalty is None:
        penalty = choose_penalty(moments, calibration, scale=scale)
    chosen = penalty if isinstance(penalty, PenaltyChoice) else None
    lam_rel = chosen.lam_rel if chosen else float(penalty)  # type: ignore[arg-type]
    total = moments.total  # only now: choosing needs the room
    fitted = total if scale is None else total.rescaled(scale)
    lam = relative_lambda(fitted, lam_rel)
    made = fit_ridge(fitted, source, target, lam, allow_underdetermined=True)
    ratio = total.count / total.p
    report = made.report | {"loudness": loudness, "rows_per_dimension": ratio, "thin": ratio < ENOUGH}
    report |= {"penalty": asdict(chosen) if chosen else None, "rows_per_document": moments.rows_per_document}
    if scale is None:
        return replace(made, report=report)
    settings = made.settings | {"standardised": True}
    weight = made.weight / scale[:, None]
    return replace(made, weight=weight, mean_x=total.mean_x, settings=settings, report=report)


def fit_pooled(
    x_pooled: NDArray[Any],
    y_pooled: NDArray[Any],
    source: Site,
    target: Site,
    *,
    lam: float = 100.0,
    seed: int = 0,
    method: Literal["ridge", "procrustes"] = "ridge",
) -> tuple[LinearMap, Moments]:
    """Fit on a random 80 % of the texts and judge on the rest.

    Args:
        x_pooled: (texts, p) mean over a text's source activations.
        y_pooled: (texts, q) the same of the target.
        source: where ``x_pooled`` was read.
        target: where ``y_pooled`` was read.
        lam: ridge penalty on the raw scale, scikit-learn's ``alpha``; Procrustes has none.
        seed: of the split.
        method: ``"ridge"`` or ``"procrustes"``.

    Returns:
        The map, and the moments of the texts it was fitted on, which cards speak of.

    Raises:
        Refusal: rows that do not pair, fewer than 3 texts to fit or 2 to judge on, or an unknown method.
    """
    x, y = np.asarray(x_pooled), np.asarray(y_pooled)
    if method not in ("ridge", "procrustes"):
        raise Refusal(f"method '{method}'", "the post used ridge and Procrustes", "say ridge or procrustes")
    judged = round(HELD_OUT * len(x))
    if not 2 <= judged <= len(x) - 3:
        raise Refusal(
            f"holding out {HELD_OUT:g} of {len(x)} texts",
            "at least 3 texts are needed to fit and 2 to judge",
            "pass more texts",
        )
    if len(x) != len(y):
        raise Refusal(f"{len(x)} source and {len(y)} target rows", "they pair one to one", "pool the same texts twice")
    order = np.random.default_rng(seed).permutation(len(x))
    fitted, kept = order[judged:], order[:judged]
    moments = Moments.of(x[fitted], y[fitted])
    if method == "ridge":
        made = fit_ridge(moments, source, target, lam, allow_underdetermined=True)
    else:
        made = fit_procrustes(moments, source, target, allow_underdetermined=True)
    settings = made.settings | {"recipe": "post", "pooling": "mean", "held_out": HELD_OUT, "seed": seed}
    report = made.report | {"held_out": judge(made, x[kept], y[kept], seed=seed)}
    return replace(made, settings=settings, report=report), moments
