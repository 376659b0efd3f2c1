"""Does the text alone rebuild the direction it is said of? What a reconstructor (AR) makes of it, centred, is compared.

In: an AR's outputs for n texts and the n unit directions they were said of, at the AR's own site. Out: cosines (n, n)
and Estimates: cosine, cosine over shuffled texts, FVE, retrieval top-1 and MRR. Refuses directions of another site,
fewer than three texts, unequal shapes, and an AR that gives one vector whatever the text.

An AR was trained to give whole activations, and a decoder row is a difference of activations. What all activations
share is nearly everything on some models (a constant reaches a raw cosine of 0.97 on Gemma-3-27B) and is not in the
direction, so the mean of the AR's unit outputs is taken off first: c_i = r_i / |r_i| - mean, p_i = c_i / |c_i|.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dragoman.core import Directions, Estimate, Refusal, Site, refuse_other_site
from dragoman.stats.intervals import Topics, rate_interval
from dragoman.stats.lift import dealt_estimate, doubly_centred_lift, lift_estimate
from dragoman.stats.nulls import row_credits

Doubles = NDArray[np.float64]
NULL = "texts dealt to directions at random"
_NOTHING = 1e-6  # float32 outputs of one text differ by less


def mean_output(outputs: NDArray[Any]) -> Doubles:
    """Mean (d,) of unit-normalised AR outputs (n, d), not renormalised: what `centred_cosines` takes off."""
    return _unit(np.asarray(outputs, dtype=np.float64)).mean(axis=0)


def centred_cosines(outputs: NDArray[Any], directions: Directions, *, site: Site) -> Doubles:
    """S (n, n), S_ik = <p_i, d_k>: centred reconstruction of text i against unit direction k.

    Args:
        outputs: the AR's vectors (n, d), row i of the text said of direction i.
        directions: n directions at the AR's site.
        site: the AR's site.

    The mean is that of these texts, which leaves text i's own share of 1 / n in (it scales c_i and does not turn it).

    Raises:
        Refusal: another site, fewer than three texts, unequal shapes, numbers that are not finite, or outputs that do
            not depend on the text.
    """
    refuse_other_site("directions", directions.site, site)
    outputs = np.asarray(outputs, dtype=np.float64)
    if outputs.shape != directions.unit.shape:
        raise Refusal(
            f"reconstructions of shape {outputs.shape}",
            f"there are {len(directions)} directions of width {directions.d_model}",
            "reconstruct one text per direction, in the same order",
        )
    if len(outputs) < 3:
        raise Refusal(
            f"{len(outputs)} reconstructions", "retrieval and its null need three at least", "score more features"
        )
    if not np.isfinite(outputs).all():
        raise Refusal("reconstructions", "some are NaN or infinite", "run the reconstructor in float32")
    if (np.ptp(_unit(outputs), axis=0) < _NOTHING).all():
        raise Refusal(
            "reconstructions",
            "they are all the same vector, whatever the text",
            "check that the texts differ, and the reconstructor's weights",
        )
    return centred(outputs, mean_output(outputs)) @ directions.unit.astype(np.float64).T


def centred(outputs: NDArray[Any], mean: Doubles) -> Doubles:
    """AR outputs (n, d) at unit length, less ``mean`` (d,), at unit length again: p of the module."""
    left = _unit(np.asarray(outputs, dtype=np.float64)) - mean
    lengths = np.linalg.norm(left, axis=1, keepdims=True)
    # A text that gives the mean itself says nothing of any direction: its cosines are 0.
    return np.where(lengths > _NOTHING, left / np.where(lengths > 0, lengths, 1.0), 0.0)


def reconstruction_estimates(
    cosines: NDArray[Any], directions: Directions, *, rng: np.random.Generator, topics: Topics = None
) -> dict[str, Estimate]:
    """What S (n, n) of `centred_cosines` says, each number beside what chance and a constant get.

    With d_bar the mean of the directions and V = 1 - |d_bar|^2 their spread:

    - ``cosine``: mean S_ii. ``extra``: ``shuffled``, mean S_ij over i != j; ``constant`` = |d_bar|, which unit(d_bar)
      reaches for every direction.
    - ``cosine_over_shuffled``: mean doubly-centred lift of S, that is ``cosine`` less ``shuffled``.
    - ``fve``: 1 - sum |p_i - d_i|^2 / sum |d_i - d_bar|^2 = 1 - 2 (1 - cosine) / V, the NLA papers' form with both
      sides at unit length. The constant d_bar scores 0; nearly orthogonal directions make it 2 cosine - 1.
      ``extra``: ``constant_unit`` = (|d_bar| - 1) / (|d_bar| + 1), the same of unit(d_bar); ``shuffled``; ``spread``,
      V; ``scaled``, 1 - min over one a >= 0 for all texts of sum |d_bar + a p_i - d_i|^2 / sum |d_i - d_bar|^2, which
      asks for the direction alone and is never below 0.
    - ``top1``: share of texts whose nearest direction is their own; ``mrr``: mean reciprocal rank of their own; ties
      share their places. ``extra``: ``chance``, the exact mean when texts are dealt at random.

    Args:
        cosines: S.
        directions: the n directions of its columns.
        rng: for the permutation p values, all two-sided.
        topics: one per direction; intervals are then over topics.
    """
    s = np.asarray(cosines, dtype=np.float64)
    n, own = len(directions), np.diag(s)
    if s.shape != (n, n):
        raise Refusal(f"cosines of shape {s.shape}", f"there are {n} directions", "pass those of centred_cosines")
    constant = float(np.linalg.norm(directions.unit.astype(np.float64).mean(axis=0)))
    spread = 1.0 - constant**2
    if spread < _NOTHING:
        raise Refusal("directions", "they are all the same", "score different features")
    shuffled = float((s.sum() - own.sum()) / (n * (n - 1)))
    mean = partial(dealt_estimate, topics=topics, null=NULL, rng=rng)
    cosine = mean(
        s,
        own,
        statistic="mean cosine of AR(text) less the AR's mean with the direction",
        extra={"shuffled": shuffled, "constant": constant},
    )
    over = lift_estimate(s, topics, rng=rng)
    hits, reciprocal = row_credits(s)
    top1 = mean(
        hits,
        np.diag(hits),
        statistic=f"top-1 retrieval among {n} directions",
        extra={"chance": float(hits.mean())},
    )
    mrr = mean(
        reciprocal,
        np.diag(reciprocal),
        statistic=f"mean reciprocal rank among {n} directions",
        extra={"chance": float(reciprocal.mean())},
    )
    low, high = rate_interval(np.diag(hits), topics)
    return {
        "cosine": cosine,
        "cosine_over_shuffled": replace(over, statistic="mean cosine over that of shuffled texts", null=NULL),
        "fve": _fve(cosine, s, directions, constant),
        "top1": replace(top1, low=low, high=high, method=top1.method.replace("t interval", "Wilson interval")),
        "mrr": mrr,
    }


def per_direction(cosines: NDArray[Any], directions: Directions) -> list[dict[str, Any]]:
    """For each direction its text's ``cosine``, doubly-centred ``lift``, ``rank``, and the id it was ``nearest`` to."""
    s = np.asarray(cosines, dtype=np.float64)
    own = np.diag(s)
    ranks = 1 + (s > own[:, None]).sum(axis=1)
    lifts, nearest = doubly_centred_lift(s), s.argmax(axis=1)
    return [
        {
            "feature": name,
            "cosine": float(own[k]),
            "lift": float(lifts[k]),
            "rank": int(ranks[k]),
            "nearest": directions.ids[nearest[k]],
        }
        for k, name in enumerate(directions.ids)
    ]


def among_drawn(
    outputs: NDArray[Any], directions: Directions, read: NDArray[Any], drawn: Directions, mean_shuffled: float
) -> list[dict[str, Any]]:
    """What `per_direction` tells, of directions that are not among those drawn, each beside the drawn ones alone.

    Args:
        outputs: (n, d) the AR's of their texts.
        directions: the n of them.
        read: (m, d) the AR's of the drawn ones' texts, whose mean is taken off.
        drawn: the m drawn directions.
        mean_shuffled: mean cosine of the drawn ones' texts with the other drawn directions.
    """
    mean = mean_output(read)
    p, unit = centred(outputs, mean), directions.unit.astype(np.float64)
    own, s = np.einsum("kd,kd->k", p, unit), p @ drawn.unit.astype(np.float64).T
    ranks, nearest, nearness = 1 + (s > own[:, None]).sum(axis=1), s.argmax(axis=1), s.max(axis=1)
    lifts = own - s.mean(axis=1) - unit @ centred(read, mean).mean(axis=0) + mean_shuffled
    return [
        {
            "feature": name,
            "cosine": float(own[k]),
            "lift": float(lifts[k]),
            "rank": int(ranks[k]),
            "nearest": name if own[k] >= nearness[k] else drawn.ids[nearest[k]],
        }
        for k, name in enumerate(directions.ids)
    ]


def _fve(cosine: Estimate, s: Doubles, directions: Directions, constant: float) -> Estimate:
    """FVE is linear in the mean cosine, so its interval and p are the cosine's."""
    spread = 1.0 - constant**2

    def of(value: float) -> float:
        return 1.0 - 2.0 * (1.0 - value) / spread

    n = len(s)
    # <p_i, d_i - d_bar>: the mean of row i is <p_i, d_bar>.
    along = float(np.sum(np.diag(s) - s.mean(axis=1)))
    return replace(
        cosine,
        value=of(cosine.value),
        low=of(cosine.low),
        high=of(cosine.high),
        statistic="FVE of unit directions, 1 - 2 (1 - cosine) / spread",
        extra={
            "constant_unit": (constant - 1.0) / (constant + 1.0),
            "shuffled": of(cosine.extra["shuffled"]),
            "spread": spread,
            "scaled": max(0.0, along) ** 2 / (n * n * spread),
        },
    )


def _unit(rows: Doubles) -> Doubles:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(norms > 0, norms, 1.0)
