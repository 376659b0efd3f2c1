"""From evidence and outcomes to a calibration: two steps, the smaller probability, a line, and what that is worth.

Beside them a test whether a latent stands out as learnt ones do: of those that fail it nothing is answered, so that
fake latents are answered no more than other nulls, whatever documents bear out of where they fire.

In: sentences of latents with evidence, outcome and group; texts of nulls with their sentences' evidence. Out:
``Fitted``. Refuses what fitting refuses: too few sentences, too few right or wrong, evidence that does not vary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from dragoman.calibration.texts import FAKE
from dragoman.confidence.calibration import Reliability
from dragoman.confidence.evidence import Evidence
from dragoman.confidence.fit import calibration_error, ece_estimate, fit_unseen, platt, reliability_curve
from dragoman.confidence.learnt import READ, LearntTest, fit_learnt, line_of, measured
from dragoman.confidence.model import Doubles, Step, expit, tabled
from dragoman.confidence.risk import NEVER, Line, answer_line
from dragoman.stats.roc import Outcomes, area_of

TOGETHER = 0.3  # correlation of firing above which two latents count as one
_DRAWS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Sentences:
    """n sentences: ``evidence``, whether each is ``right``, its ``feature`` and the ``group`` of features it is of."""

    evidence: Sequence[Evidence]
    right: NDArray[np.bool_]
    feature: NDArray[np.int64]
    group: NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class NullText:
    """One text of a null: its name, the group it may not be parted from, evidence on each of its sentences.

    ``right``: whether each is borne out all the same, as what is said of a fake latent may be by where that one fires;
    none is where nothing stands here.
    """

    null: str
    group: int
    evidence: Sequence[Evidence]
    right: Sequence[bool] = ()

    @property
    def outcomes(self) -> Sequence[bool]:
        """One for each sentence."""
        return self.right or (False,) * len(self.evidence)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """Steps, the scale of the smaller one's log-odds, the line; ``unseen``: probabilities by fits without the group.

    ``answers``: (n,) which sentences are answered. ``answered``: share of each null's texts with an answer, borne out
    or not. ``learnt``: the test of latents, None where there are too few fake ones to fit it.
    """

    right: Step
    with_nulls: Step | None
    slope: float
    offset: float
    spans: Mapping[str, tuple[float, float]]
    line: Line
    unseen: Doubles
    answers: NDArray[np.bool_]
    answered: Mapping[str, float]
    learnt: LearntTest | None = None


def components(fired: Any) -> NDArray[np.int64]:
    """Groups (m,) of latents that fire together, by the correlation of activations (n, m)."""
    f = csr_array(fired, dtype=np.float64)
    n, m = fired.shape
    mean = np.asarray(f.sum(axis=0)).ravel() / max(n, 1)
    second = (f.T @ f).toarray() / max(n, 1) - np.outer(mean, mean)
    spread = np.sqrt(np.maximum(np.diag(second), 0))
    scale = np.outer(spread, spread)
    alike = np.divide(second, scale, out=np.zeros_like(second), where=scale > 0) > TOGETHER
    return connected_components(csr_array(alike), directed=False)[1].astype(np.int64)[:m]


def fitted(own: Sentences, nulls: Sequence[NullText], *, seed: int) -> Fitted:
    """Fit on sentences of latents, and beside nulls.

    Raises:
        Refusal: as the module says.
    """
    spans = _spans(own.evidence)
    evidence = [_within(row, spans) for row in own.evidence]
    right, z = fit_unseen(evidence, own.right, groups=own.group, seed=seed)
    rows = [(k, _within(row, spans)) for k, text in enumerate(nulls) for row in text.evidence]
    borne_out = np.array([one for text in nulls for one in text.outcomes], dtype=bool)
    of_nulls, with_nulls = np.zeros(len(rows)), None
    if rows:
        groups = np.append(own.group, [nulls[k].group for k, _ in rows])
        together = [*evidence, *(row for _, row in rows)]
        outcome = np.append(own.right, borne_out)
        with_nulls, second = fit_unseen(together, outcome, groups=groups, seed=seed)
        z = np.minimum(z, second[: len(evidence)])
        alone = [row for _, row in rows]
        of_nulls = np.minimum(right.slope * right.log_odds(alone) + right.offset, second[len(evidence) :])
    slope, offset = platt(z, own.right)
    unseen = expit(slope * z + offset)
    p = expit(slope * of_nulls + offset)
    whose = np.array([k for k, _ in rows], dtype=np.int64)
    surest = _surest(p[~borne_out], whose[~borne_out], nulls)
    line, test, may = answer_line(unseen, own.right, own.group, surest), None, unseen
    if line.threshold is not None:
        sure = np.array(_surest_of_each(p, whose, nulls)) >= line.threshold
        test, passed, passed_by_nulls = _learnt(own, nulls, sure, seed=seed)
        if test is not None:
            p[~passed_by_nulls] = NEVER
            counts = ~borne_out | np.array([nulls[k].null == FAKE for k in whose], dtype=bool)
            surest = _surest(p[counts], whose[counts], nulls)
            may = np.where(passed, unseen, NEVER)
            line = answer_line(may, own.right, own.group, surest)
            if not passed.any():
                line = replace(line, why="no latent stands out along its row more than a random direction does")
    reached = np.inf if line.threshold is None else line.threshold
    answered = {name: float(np.mean(np.array(some) >= reached)) for name, some in _surest(p, whose, nulls).items()}
    return Fitted(
        right=right, with_nulls=with_nulls, slope=slope, offset=offset, spans=spans, line=line, unseen=unseen,
        answers=may >= reached, answered=answered, learnt=test,
    )  # fmt: skip


def _learnt(
    own: Sentences, nulls: Sequence[NullText], sure: NDArray[np.bool_], *, seed: int
) -> tuple[LearntTest | None, NDArray[np.bool_], NDArray[np.bool_]]:
    """The test, and which sentences of latents and of nulls are of one that passes, by fits that had not seen it.

    ``sure``: which texts of nulls have a sentence that reaches the line. Nulls but fake latents stand under a latent's
    name, and pass as it does.
    """
    of_latents = [_latent(row) for row in own.evidence]
    of_texts = [_latent(text.evidence[0]) if text.evidence else None for text in nulls]
    groups = {one: group for one, group in zip(of_latents, own.group.tolist(), strict=True) if one is not None}
    fake = [one if text.null == FAKE else None for one, text in zip(of_texts, nulls, strict=True)]
    fakes = [one for one in dict.fromkeys(fake) if one is not None]
    told = fit_learnt([*map(_evidence, groups)], np.array(list(groups.values())), [*map(_evidence, fakes)], seed=seed)
    if told is None:
        return None, np.empty(0, bool), np.empty(0, bool)
    odds = dict(zip((*groups, *fakes), (*told.latents.tolist(), *told.fakes.tolist()), strict=True))
    answered = [odds[one] for one, is_sure in zip(fake, sure, strict=True) if one is not None and is_sure]
    test = told.test(line_of(np.array(answered), sum(text.null == FAKE for text in nulls)))
    passes = {one: value >= test.line for one, value in odds.items()}
    left = [one for one in dict.fromkeys(of_texts) if one is not None and one not in passes]
    passes |= dict(zip(left, test.passes([*map(_evidence, left)]).tolist(), strict=True))
    by_text = [one is not None and passes[one] for one in of_texts]
    by_sentence = [may for may, text in zip(by_text, nulls, strict=True) for _ in text.evidence]
    return test, np.array([one is not None and passes[one] for one in of_latents]), np.array(by_sentence, dtype=bool)


def _latent(row: Evidence) -> tuple[float, ...] | None:
    """What the test reads of a sentence's latent, the same of all its sentences; None where it was not measured."""
    return tuple(float(row[name] or 0.0) for name in READ) if measured(row) else None


def _evidence(latent: tuple[float, ...]) -> Evidence:
    return dict(zip(READ, latent, strict=True))


def _surest(p: Doubles, whose: NDArray[np.int64], nulls: Sequence[NullText]) -> dict[str, list[float]]:
    """By null, the largest probability among each text's sentences; below 0 of a text without one."""
    found: dict[str, list[float]] = {}
    for text, most in zip(nulls, _surest_of_each(p, whose, nulls), strict=True):
        found.setdefault(text.null, []).append(most)
    return found


def _surest_of_each(p: Doubles, whose: NDArray[np.int64], nulls: Sequence[NullText]) -> list[float]:
    surest = np.full(len(nulls), NEVER)
    np.maximum.at(surest, whose, p)
    return surest.tolist()


def reliability(
    made: Fitted,
    own: Sentences,
    *,
    features: int,
    kappa: float,
    known: int,
    left_out: int,
    seed: int,
) -> Reliability:
    """What the probabilities are worth on sentences that no fit had seen."""
    outcomes, line = Outcomes.of(made.unseen, own.right), made.line
    bins = max(2, min(10, len(own.right) // 20))
    ece = ece_estimate(outcomes, rng=np.random.default_rng(seed), bins=bins, draws=_DRAWS)
    area = area_of(outcomes.score, outcomes.right)
    return Reliability(
        n=len(own.right),
        features=features,
        right=int(own.right.sum()),
        ece=calibration_error(made.unseen, own.right, bins),
        ece_floor=float(ece.extra["if_calibrated"]),
        auroc=None if np.isnan(area) else area,
        answered=line.answered / line.n,
        features_answered=len(np.unique(own.feature[made.answers])) / features,
        error=line.wrong / line.answered if line.answered else None,
        bound=line.bound,
        nulls=line.nulls,
        nulls_answered=made.answered,
        kappa=kappa,
        known=known,
        bins=tuple((one.predicted, one.observed, one.n) for one in reliability_curve(outcomes, bins=bins)),
        left_out=left_out,
        why=line.why,
    )


def _spans(rows: Sequence[Evidence]) -> dict[str, tuple[float, float]]:
    names = sorted({name for row in rows for name, value in row.items() if value is not None} - set(READ))
    table = tabled(rows, names)
    return {
        name: (float(np.nanmin(column)), float(np.nanmax(column))) for name, column in zip(names, table.T, strict=True)
    }


def _within(row: Evidence, spans: Mapping[str, tuple[float, float]]) -> Evidence:
    """Evidence on names that the latents have, drawn in to what was seen of them."""
    return {
        name: None if (value := row.get(name)) is None else min(max(value, low), high)
        for name, (low, high) in spans.items()
    }
