"""Fitting by a recipe: ridge at a penalty chosen by leaving documents out, or the seed post's map as it was made.

In: ``FoldedMoments`` and, where the SAE's encoder is at hand, the direct route's sums by fold for some frequent
features; for the post's recipe one pooled row per text and model. Out: a ``LinearMap``, with both curves and the reason
of its penalty, or judged on the fifth of the texts it was not fitted on. Refuses penalties that do not increase from
above 0, fewer rows than the map needs, rows that do not pair, and splits that leave a side empty.

A map of directions is for saying what a row writes. So the penalty is the one at which images keep most of their rows'
lens words (``overlap``, where both models' unembeddings can be read), and among those within 2 % of it the one whose
images co-fire best with their features in documents the map has not seen. Without lenses co-firing alone decides;
without an encoder the smallest penalty that predicts left-out documents within 3 % of the best. No label and no text
has a part in it; the features are drawn at random among those that fire often enough.

Co-firing is had from sums. For an image d and S the target's covariance, tokens where the feature fires and others
differ in the best read-out for d, S^-1 d, by d S^-1 delta, delta being the difference of their means, and vary by
d S d' of it = d S^-1 d. Were both normal with covariance S, the AUROC would be Phi(d S^-1 delta / sqrt(2 d S^-1 d)).
delta is taken to be beta, the activation-weighted mean at firings less the mean of *all* tokens, which is right for
features that fire rarely.

The post's recipe is kept for comparison: mean-pooled texts, 80 % for fitting, ridge with lambda 100 or Procrustes. It
is underdetermined at the post's size (800 texts, width 3584) and says so on its report.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from dragoman.core import Directions, Refusal, Site
from dragoman.maps.algebra import HOST, Algebra, LeftOutFold
from dragoman.maps.diagnostics import held_out as judge
from dragoman.maps.direct import FLOOR, FiringSums
from dragoman.maps.linear import LinearMap, fit_procrustes, fit_ridge, relative_lambda, source_scale
from dragoman.maps.moments import Doubles, FoldedMoments, Moments, refuse_few

GRID: Doubles = np.logspace(-6, 3, 28)  # relative penalties, three a decade
CALIBRATION = 150  # features that both criteria average over
LEAST = 30  # features below which their mean decides nothing
WITHIN = 0.97  # of the best R2, for the fallback
NEAR = 0.98  # of the most lens words kept: among penalties that keep so many, co-firing decides
Overlap = Callable[[Doubles, Doubles], Doubles]  # rows (n, p), images (n, q) -> (n,) lens words they share
LOUD = 1e3  # times the median variance, above which one source dimension would set the penalty for all
ENOUGH = 10  # rows per source dimension below which a map is called thin
HELD_OUT = 0.2  # share of the texts that judges a map by the post's recipe
FEWEST = 8  # texts: the fifth of them that judges is two


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What the label-free criteria need: ``directions`` at the source and ``direct``, sums of the same folds.

    Features of ``directions`` that ``direct`` does not watch are passed over. ``overlap``: counts the lens words that
    rows and their images share; None where no lens is at hand. ``seed``: of the draw of features.
    """

    directions: Directions
    direct: Sequence[FiringSums]
    overlap: Overlap | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PenaltyChoice:
    """The chosen relative penalty, why, and what it was chosen from.

    ``rule``: ``"lens"`` (most lens words kept, then co-firing), ``"cofiring"`` alone, or ``"fallback"`` on R2.
    ``grid``: relative penalties; ``r2``: of left-out documents at each, about the training mean; ``cofiring``: mean
    AUROC of images with left-out firings; ``overlap``: mean number of lens words that rows and images share; both None
    where they were not asked. ``edge``: ``"upper"`` or ``"lower"`` when the choice is the end of the grid (an upper end
    means that the rows hardly predict each other), else empty. ``features``: how many were averaged over, mean over
    folds.
    """

    lam_rel: float
    rule: Literal["lens", "cofiring", "fallback"]
    reason: str
    grid: tuple[float, ...]
    r2: tuple[float, ...]
    cofiring: tuple[float, ...] | None
    overlap: tuple[float, ...] | None
    edge: str
    features: float


def choose_penalty(
    moments: FoldedMoments,
    calibration: Calibration | None = None,
    *,
    grid: NDArray[Any] = GRID,
    scale: Doubles | None = None,
    algebra: Algebra = HOST,
) -> PenaltyChoice:
    """Choose lam_rel (lam = lam_rel tr(Sxx)/p of the fitted rows) on left-out folds of documents.

    Args:
        moments: by fold.
        calibration: for the label-free criteria; the fallback decides when it is left out, or when fewer than 30 of its
            features fire in ``FLOOR`` effective documents of every fold.
        grid: relative penalties (k,), increasing.
        scale: standard deviations (p,) to divide the source by first, if the map is to be fitted that way.
        algebra: where it is computed.

    Raises:
        Refusal: a grid that does not increase from above 0, or a calibration of other folds or another site.
    """
    grid = np.asarray(grid, dtype=np.float64)
    if grid.ndim != 1 or len(grid) < 2 or grid[0] <= 0 or (np.diff(grid) <= 0).any():
        raise Refusal("this grid of penalties", "penalties increase from above 0, two at least", "use the default")
    wanted = _wanted(moments, calibration)
    errors, spreads = np.zeros(len(grid)), 0.0
    areas: list[Doubles] = []
    for k in range(len(moments.folds)):
        fold = algebra.left_out(moments, k, scale)
        errors += fold.errors(grid)
        spreads += fold.spread
        if wanted is not None:
            rows, betas = wanted[k]
            areas.append(_cofiring(fold, grid, rows if scale is None else rows / scale, betas))
    r2 = 1.0 - errors / spreads
    if wanted is None or calibration is None:
        best = float(r2.max())
        near = np.flatnonzero(r2 >= WITHIN * best) if best > 0 else np.array([int(np.argmax(r2))])
        lead = (
            "no calibration features were given" if calibration is None else f"fewer than {LEAST} calibration features"
        )
        reason = f"{lead}; smallest penalty within {WITHIN:g} of the best R2 of left-out documents ({best:.3f})"
        return _chosen(grid, r2, None, None, int(near[0]), "fallback", reason, 0.0)
    cofiring = np.mean(areas, axis=0)
    features = float(np.mean([len(rows) for rows, _ in wanted]))
    overlap = None
    if calibration.overlap is not None:
        total = algebra.total(moments)
        total = total if scale is None else total.rescaled(scale)
        overlap = _overlap(total, grid, scale, wanted, calibration.overlap, algebra)
    near = np.arange(len(grid)) if overlap is None else np.flatnonzero(overlap >= NEAR * overlap.max())
    at = int(near[np.argmax(cofiring[near])])
    reason = f"images of {features:.0f} features drawn at random co-fire with them best (AUROC {cofiring[at]:.3f})"
    if overlap is not None:
        reason += f" among penalties at which they keep most of their rows' lens words ({overlap[at]:.2f})"
    return _chosen(grid, r2, cofiring, overlap, at, "cofiring" if overlap is None else "lens", reason, features)


def _overlap(
    total: Moments,
    grid: Doubles,
    scale: Doubles | None,
    wanted: Sequence[tuple[Doubles, Doubles]],
    overlap: Overlap,
    algebra: Algebra,
) -> Doubles:
    """Mean lens words (k,) that rows and their images share, of the map that all rows give."""
    rows = max((rows for rows, _ in wanted), key=len)
    paths, lams = algebra.paths(total), grid * relative_lambda(total, 1.0)
    own = rows if scale is None else rows / scale
    return np.array([float(np.mean(overlap(rows, paths.images(own, float(lam))))) for lam in lams])


def _wanted(moments: FoldedMoments, calibration: Calibration | None) -> list[tuple[Doubles, Doubles]] | None:
    """Per fold: source rows (k, p) and direct rows (k, q) of features that fire often enough in it, drawn at random."""
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
    enough = np.flatnonzero(np.min([f.n_eff[columns] for f in folds], axis=0) >= FLOOR)
    drawn = np.sort(np.random.default_rng(calibration.seed).permutation(enough)[:CALIBRATION])
    found: list[tuple[Doubles, Doubles]] = []
    for fold in folds:
        if fold.y_sum.size != moments.folds[0].q:
            raise Refusal(
                f"a calibration of target width {fold.y_sum.size}",
                f"the moments' target is {moments.folds[0].q} wide",
                "make both at the same target",
            )
        if len(drawn) < LEAST:
            return None
        betas = fold.beta()[[columns[i] for i in drawn]]
        found.append((directions.unit[[rows[i] for i in drawn]].astype(np.float64), betas))
    return found


def _cofiring(fold: LeftOutFold, grid: Doubles, rows: Doubles, betas: Doubles) -> Doubles:
    """Mean AUROC (k,) of images at every penalty with left-out direct rows, see the module."""
    found = []
    for lam_rel in grid:
        image = fold.images(rows, float(lam_rel))
        reads = fold.read_outs(image)
        length = np.sqrt(np.maximum(np.einsum("ij,ij->i", reads, image), 1e-300))
        apart = np.einsum("ij,ij->i", reads, betas) / length
        found.append(float(np.mean(ndtr(apart / np.sqrt(2.0)))))
    return np.array(found)


def _chosen(
    grid: Doubles,
    r2: Doubles,
    cofiring: Doubles | None,
    overlap: Doubles | None,
    at: int,
    rule: Literal["lens", "cofiring", "fallback"],
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
        cofiring=None if cofiring is None else tuple(cofiring.tolist()),
        overlap=None if overlap is None else tuple(overlap.tolist()),
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
    algebra: Algebra = HOST,
) -> LinearMap:
    """Ridge on all rows at the penalty ``choose_penalty`` gives: all is chosen by rule, the reasons are on its report.

    Args:
        moments: by fold of documents.
        source: where x was read.
        target: where y was read.
        calibration: for the label-free criteria.
        penalty: a choice made before, or a relative penalty, to leave the choosing out.
        standardise: divide the source by its standard deviations before fitting. ``"auto"`` does so where the loudest
            dimension has more than 1000 times the median variance. Scaling the target would change no direction.
        allow_underdetermined: fit no more rows than the source is wide.
        algebra: where it is computed.

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
        penalty = choose_penalty(moments, calibration, scale=scale, algebra=algebra)
    chosen = penalty if isinstance(penalty, PenaltyChoice) else None
    lam_rel = chosen.lam_rel if chosen else float(penalty)  # type: ignore[arg-type]
    total = algebra.total(moments)  # only now: choosing needs the room
    fitted = total if scale is None else total.rescaled(scale)
    lam = relative_lambda(fitted, lam_rel)
    made = fit_ridge(fitted, source, target, lam, allow_underdetermined=True, solve=algebra.solve_shifted)
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
