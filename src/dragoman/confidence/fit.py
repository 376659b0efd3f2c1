"""Fitting a step of a confidence, calibrated on groups it had not seen; and whether probabilities are what they say.

In: evidence and outcomes of one set of explanations; ``Outcomes`` whose scores are probabilities. Out: a ``Step``; bins
of the reliability curve and the calibration error. Refuses too few, one class only, unequal lengths, numbers that are
not finite, evidence that does not vary, groups that leave a fold without one class, scores that are no probabilities,
and bins of fewer than two.

A step is a ridge logistic regression. Evidence is standardised, with a flag for each number that is sometimes missing;
weights have the sign they must have; then Platt's (1999) calibration of the log-odds of whole groups the fit had not
seen. If those log-odds carry no signal (slope <= 0), every explanation gets the base rate.

The calibration error is a sum of absolute values, so noise only ever adds to it: perfect probabilities of 500
explanations in 10 bins score about 0.045. That floor stands beside every value, with a test against it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dragoman.confidence.evidence import SIGNS, Evidence
from dragoman.confidence.model import Confidence, Doubles, Step, standardised, tabled
from dragoman.core import Estimate, Refusal
from dragoman.stats.intervals import DRAWS, bootstrap, rate_interval
from dragoman.stats.roc import Outcomes

FEWEST, FEWEST_EACH = 30, 5
PENALTIES = (0.1, 1.0, 10.0, 100.0, 1000.0)
FOLDS = 5
THRESHOLD = 0.5
Groups = Sequence[Any] | NDArray[Any] | None
BINS = 10


def fit_confidence(
    rows: Sequence[Evidence], right: Sequence[Any] | NDArray[Any], *, groups: Groups = None, seed: int = 0
) -> Confidence:
    """A confidence in one step, which answers from even odds on; arguments and refusals as of ``fit_step``."""
    return Confidence.in_one_step(fit_step(rows, right, groups=groups, seed=seed))


def fit_step(
    rows: Sequence[Evidence], right: Sequence[Any] | NDArray[Any], *, groups: Groups = None, seed: int = 0
) -> Step:
    """Fit on n explanations.

    Args:
        rows: evidence, one per explanation; a name absent from a row is missing there.
        right: n times yes or no.
        groups: what may not be split between fitting and calibrating: the feature where one has several rows, or
            its topic. Each row by itself if None.
        seed: of the deal of groups into five folds.

    Raises:
        Refusal: fewer than 30 rows, fewer than 5 right or wrong, no number that varies, or groups that leave a
            fold without one class.
    """
    return fit_unseen(rows, right, groups=groups, seed=seed)[0]


def fit_unseen(
    rows: Sequence[Evidence], right: Sequence[Any] | NDArray[Any], *, groups: Groups = None, seed: int = 0
) -> tuple[Step, Doubles]:
    """As ``fit_step``, and the calibrated log-odds (n,) of each row by a fit that had not seen its group."""
    y = outcomes_of(rows, right)
    names = tuple(sorted({name for row in rows for name, value in row.items() if value is not None}))
    named, flagged, centre, scale = _scales(tabled(rows, names), names)
    if not named:
        raise Refusal("confidence", "no evidence varies between these explanations", "pass evidence that does")
    parts = _folds(y, groups, seed)
    # Standardising uses no outcome, so one scaling serves all folds.
    x = standardised(rows, named, flagged, centre, scale)
    signs = np.array([SIGNS.get(name, 0) for name in named] + [0] * len(flagged))
    unseen = {penalty: _unseen(x, y, parts, penalty, signs) for penalty in PENALTIES}
    losses = {penalty: log_loss(z, y) for penalty, z in unseen.items()}
    best = min(losses, key=lambda penalty: (losses[penalty], -penalty))
    weights, intercept = fit_signed(x, y, best, signs)
    slope, offset = platt(unseen[best], y)
    rate = float(y.mean())
    report = {
        "n": len(y),
        "right": int(y.sum()),
        "groups": len(y) if groups is None else len(np.unique(np.asarray(groups))),
        "penalty": best,
        "log_loss": {f"{candidate:g}": loss for candidate, loss in losses.items()},
        "log_loss_calibrated": log_loss(slope * unseen[best] + offset, y),
        "log_loss_base_rate": log_loss(np.full(len(y), np.log(rate / (1 - rate))), y),
        "dropped": sorted(set(names) - set(named)),
    }
    step = Step(
        names=named,
        flagged=flagged,
        centre=centre,
        scale=scale,
        weights=tuple(weights.tolist()),
        intercept=intercept,
        slope=slope,
        offset=offset,
        threshold=THRESHOLD,
        report=report,
    )
    return step, slope * unseen[best] + offset


def outcomes_of(rows: Sequence[Evidence], right: Sequence[Any] | NDArray[Any]) -> Doubles:
    """Outcomes as numbers (n,); refuse unequal lengths, others than yes and no, and too few."""
    given = np.asarray(right)
    if given.shape != (len(rows),) or not np.isin(given, (0, 1)).all():
        raise Refusal(
            f"{len(rows)} explanations with outcomes of shape {given.shape}",
            "each needs one, right or wrong",
            "pass two lists of equal length",
        )
    y = given.astype(np.float64)
    hits = int(y.sum())
    if len(y) < FEWEST or min(hits, len(y) - hits) < FEWEST_EACH:
        raise Refusal(
            f"confidence from {hits} right and {len(y) - hits} wrong explanations",
            f"it takes {FEWEST} at least, {FEWEST_EACH} of each kind",
            "judge more features",
        )
    return y


def log_loss(z: NDArray[Any], y: NDArray[Any]) -> float:
    """Mean negative log-likelihood of outcomes y (n,) at log-odds z (n,)."""
    return float(np.mean(np.logaddexp(0.0, z) - y * z))


def fit_signed(x: NDArray[Any], y: NDArray[Any], penalty: float, signs: NDArray[Any]) -> tuple[Doubles, float]:
    """Weights w (p,) and intercept b that minimise sum_i loss_i + penalty |w|^2 / 2; the intercept is free.

    Args:
        x: (n, p).
        y: (n,) outcomes 0 or 1, or shares between.
        penalty: at least 0; 0 has an answer only where the outcomes overlap.
        signs: (p,) weights may not be negative where it is 1, nor positive where it is -1.

    Raises:
        Refusal: outcomes all 0 or all 1.
    """
    from scipy.optimize import minimize
    from scipy.special import expit

    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if y.min() == y.max() and y.min() in (0.0, 1.0):
        raise Refusal(f"a logistic regression on {len(y)} outcomes", "all are the same", "fit on a set that holds both")
    wide = np.column_stack([x, np.ones(len(x))])
    ridge = np.append(np.full(x.shape[1], float(penalty)), 0.0)

    def objective(at: Doubles) -> tuple[float, Doubles]:
        z = wide @ at
        loss = np.sum(np.logaddexp(0.0, z) - y * z) + 0.5 * np.sum(ridge * at**2)
        return float(loss), wide.T @ (expit(z) - y) + ridge * at

    spans = [(0, None) if sign > 0 else (None, 0) if sign < 0 else (None, None) for sign in [*signs, 0]]
    start = np.append(np.zeros(x.shape[1]), np.log(y.mean() / (1 - y.mean())))
    exact = {"maxiter": 20_000, "maxfun": 100_000, "maxcor": 30, "ftol": 0.0, "gtol": 1e-10 * len(y)}
    best = minimize(objective, start, jac=True, method="L-BFGS-B", bounds=spans, options=exact).x
    return best[:-1], float(best[-1])


def platt(z: NDArray[Any], right: NDArray[Any]) -> tuple[float, float]:
    """Slope and offset of Platt's (1999) calibration of log-odds z (n,).

    Outcomes are drawn in to (n+ + 1) / (n+ + 2) and 1 / (n- + 2), so that a few perfectly ordered ones do not become
    certain. A slope below 0 would turn the order round on the strength of noise: the slope is then 0, and the offset
    the base rate's log-odds.
    """
    y = np.asarray(right, dtype=np.float64)
    hits = y.sum()
    weights, offset = fit_signed(np.asarray(z)[:, None], drawn_in(y), 0.0, np.zeros(1))
    if weights[0] <= 0:
        return 0.0, float(np.log(hits / (len(y) - hits)))
    return float(weights[0]), offset


def drawn_in(y: Doubles) -> Doubles:
    """Platt's targets for outcomes y (n,)."""
    hits = y.sum()
    return np.where(y > 0, (hits + 1) / (hits + 2), 1 / (len(y) - hits + 2))


def _scales(
    table: Doubles, names: tuple[str, ...]
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[float, ...], tuple[float, ...]]:
    """Names that vary or are sometimes missing, those sometimes missing, and their means and standard deviations."""
    named: list[str] = []
    flagged: list[str] = []
    centre: list[float] = []
    scale: list[float] = []
    for name, column in zip(names, table.T, strict=True):
        there = column[~np.isnan(column)]
        if not len(there):
            continue
        spread, missing = float(there.std()), len(there) < len(column)
        varies = spread > 1e-9 * max(1.0, float(np.abs(there).max()))
        if not varies and not missing:
            continue
        named.append(name)
        centre.append(float(there.mean()))
        scale.append(spread if varies else 1.0)
        if missing:
            flagged.append(name)
    return tuple(named), tuple(flagged), tuple(centre), tuple(scale)


def _folds(y: Doubles, groups: Groups, seed: int) -> NDArray[np.intp]:
    """Fold of each row, whole groups together, the same for the same seed."""
    labels = np.arange(len(y)) if groups is None else np.asarray(groups)
    if len(labels) != len(y):
        raise Refusal(f"{len(labels)} groups for {len(y)} explanations", "each needs one", "pass equal lengths")
    names, where = np.unique(labels, return_inverse=True)
    if len(names) < FOLDS:
        raise Refusal(
            f"{len(names)} groups in {FOLDS} folds", "each fold needs a group", "judge features of more topics"
        )
    dealt = np.random.default_rng(seed).permutation(len(names)) % FOLDS
    parts = dealt[where]
    for part in range(FOLDS):
        if len(np.unique(y[parts != part])) < 2:
            raise Refusal(
                "confidence",
                "leaving one fold of groups out leaves only right or only wrong explanations",
                "judge features of more topics",
            )
    return parts.astype(np.intp)


def _unseen(x: Doubles, y: Doubles, parts: NDArray[np.intp], penalty: float, signs: NDArray[Any]) -> Doubles:
    """Log-odds (n,) of every row from a fit without its fold."""
    z = np.empty(len(y))
    for part in np.unique(parts):
        weights, intercept = fit_signed(x[parts != part], y[parts != part], penalty, signs)
        z[parts == part] = x[parts == part] @ weights + intercept
    return z


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """``n`` explanations of similar probability: its mean, and the share that was right with Wilson's interval."""

    predicted: float
    observed: float
    low: float
    high: float
    n: int


def bins_of(p: NDArray[Any], bins: int = BINS) -> NDArray[np.intp]:
    """Bin of each probability (n,): equal mass by rank; equal probabilities share a bin, so bins may be fewer."""
    p = np.asarray(p, dtype=np.float64)
    if bins < 1 or len(p) < 2 * bins:
        raise Refusal(
            f"{bins} bins of {len(p)} explanations",
            "a bin needs at least two explanations",
            "ask for fewer bins, or score more features",
        )
    order = np.sort(p)
    # A value belongs where the middle of its run of equals falls.
    middle = (np.searchsorted(order, p, "left") + np.searchsorted(order, p, "right") - 1) / 2
    return np.minimum((middle * bins / len(p)).astype(np.intp), bins - 1)


def reliability_curve(outcomes: Outcomes, *, bins: int = BINS) -> list[Bin]:
    """Predicted against observed, by equal-mass bins, low probabilities first."""
    p, right = outcomes.probabilities("a reliability curve"), outcomes.right
    where = bins_of(p, bins)
    curve: list[Bin] = []
    for k in np.unique(where):
        rows = where == k
        low, high = rate_interval(right[rows])
        curve.append(
            Bin(
                predicted=float(p[rows].mean()),
                observed=float(right[rows].mean()),
                low=low,
                high=high,
                n=int(rows.sum()),
            )
        )
    return curve


def calibration_error(p: NDArray[Any], right: NDArray[Any], bins: int = BINS) -> float:
    """Expected calibration error: sum over equal-mass bins of share * |mean probability - share right|."""
    where = bins_of(p, bins)
    return float(np.abs(np.bincount(where, weights=np.asarray(p) - np.asarray(right))).sum() / len(where))


def ece_estimate(outcomes: Outcomes, *, rng: np.random.Generator, bins: int = BINS, draws: int = DRAWS) -> Estimate:
    """Expected calibration error over equal-mass bins.

    Interval: bootstrap over features or topics, the outer ends of the percentile and the basic interval, since the
    value is biased upwards and its bootstrap twice so. ``p``: that the probabilities are exact, one-sided, by drawing
    outcomes from them; it takes explanations to be independent. ``extra``: ``if_calibrated``, the mean over those
    draws (the floor); ``corrected``, the value less its bootstrap bias; ``signed``, mean probability minus share right.
    """
    p, right = outcomes.probabilities("a calibration error"), outcomes.right.astype(np.float64)
    value = calibration_error(p, right, bins)
    spread = bootstrap(
        lambda rows: calibration_error(p[rows], right[rows], bins),
        len(outcomes),
        rng=rng,
        clusters=outcomes.clusters,
        draws=draws,
    )
    where = bins_of(p, bins)
    exact = np.array(
        [np.abs(np.bincount(where, weights=p - (rng.random(len(p)) < p))).sum() / len(p) for _ in range(draws)]
    )
    return Estimate(
        value=value,
        low=max(0.0, min(spread.low, 2 * value - spread.high)),
        high=min(1.0, max(spread.high, 2 * value - spread.low)),
        p=float((1 + (exact >= value - 1e-12).sum()) / (1 + draws)),
        n=spread.units,
        statistic=f"expected calibration error, {len(np.unique(where))} equal-mass bins",
        null="probabilities that are exact",
        unit=spread.unit,
        method=f"{spread.method}, outer ends of percentile and basic; one-sided p by drawing outcomes",
        extra={
            "if_calibrated": float(exact.mean()),
            "corrected": max(0.0, 2 * value - spread.mean),
            "signed": float(p.mean() - right.mean()),
            "bins": len(np.unique(where)),
        },
    )
