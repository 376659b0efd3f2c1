"""Does the text alone rebuild the direction it is said of? What a reconstructor (AR) makes of it, centred, is compared.

In: an AR's outputs for n texts and the n unit directions they were said of, at the AR's own site. Out: cosines (n, n)
and Estimates: cosine, cosine over shuffled texts, FVE, retrieval top-1 and MRR. Refuses directions of another site,
fewer than three texts, unequal shapes, and an AR that gives one vector whatever the text.

An AR was trained to give whole activations, and a decoder row is a difference of activations. What all activations
share is nearly everything on some models (a constant reaches a raw cosine of 0.97 on Gemma-3-27B) and is not in the
direction, so the mean of the AR's unit outputs is taken off first: c_i = r_i / |r_i| - mean, p_i = c_i / |c_i|.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from dragoman.core import Directions, Estimate, Floats, Refusal, Site, refuse_other_site
from dragoman.score.intervals import PERMUTATIONS, clustered_interval, rate_interval, t_interval
from dragoman.score.lift import doubly_centred_lift, lift_estimate, permutation_p
from dragoman.score.retrieval import row_credits

Doubles = NDArray[np.float64]
NULL = "texts dealt to directions at random"
_NOTHING = 1e-6  # float32 outputs of one text differ by less


@runtime_checkable
class Reconstructor(Protocol):
    """Gives the vector a text describes."""

    @property
    def site(self) -> Site:
        """The stream it predicts."""
        ...

    @property
    def name(self) -> str:
        """What a person calls it."""
        ...

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that decides its vectors, for a run's scores."""
        ...

    def reconstruct(self, texts: Sequence[str]) -> Floats:
        """Vectors (n, d_model) at ``site``, one per text."""
        ...


def mean_output(outputs: NDArray[Any]) -> Doubles:
    """Mean (d,) of unit-normalised AR outputs (n, d), not renormalised: what `centred_cosines` takes off."""
    return _unit(np.asarray(outputs, dtype=np.float64)).mean(axis=0)


def centred_cosines(
    outputs: NDArray[Any], directions: Directions, *, site: Site, mean: NDArray[Any] | None = None
) -> Doubles:
    """S (n, n), S_ik = <p_i, d_k>: centred reconstruction of text i against unit direction k.

    Args:
        outputs: the AR's vectors (n, d), row i of the text said of direction i.
        directions: n directions at the AR's site.
        site: the AR's site.
        mean: `mean_output` of other texts of the same kind; by default of these, which leaves text i's own share of
            1 / n in (it scales c_i and does not turn it).

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
    centre = mean_output(outputs) if mean is None else np.asarray(mean, dtype=np.float64)
    if centre.shape != outputs.shape[1:] or np.linalg.norm(centre) > 1 + _NOTHING:
        raise Refusal(
            f"a mean output of shape {centre.shape} and length {np.linalg.norm(centre):.3g}",
            f"it is the mean of unit rows of width {directions.d_model}, so at most 1 long",
            "make it with mean_output",
        )
    left = _unit(outputs) - centre
    lengths = np.linalg.norm(left, axis=1, keepdims=True)
    if (np.ptp(_unit(outputs), axis=0) < _NOTHING).all():
        raise Refusal(
            "reconstructions",
            "they are all the same vector, whatever the text",
            "check that the texts differ, and the reconstructor's weights",
        )
    # A text that gives the mean itself says nothing of any direction: its cosines are 0.
    p = np.where(lengths > _NOTHING, left / np.where(lengths > 0, lengths, 1.0), 0.0)
    return p @ directions.unit.astype(np.float64).T


def reconstruction_estimates(
    cosines: NDArray[Any],
    directions: Directions,
    *,
    rng: np.random.Generator,
    topics: Sequence[Any] | None = None,
    permutations: int = PERMUTATIONS,
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
        permutations: draws.
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
    mean = _Means(rng=rng, topics=topics, permutations=permutations)
    cosine = mean.of(
        s,
        "mean cosine of AR(text) less the AR's mean with the direction",
        {"shuffled": shuffled, "constant": constant},
    )
    over = lift_estimate(s, topics, rng=rng, permutations=permutations)
    hits, reciprocal = row_credits(s)
    top1 = mean.of(hits, f"top-1 retrieval among {n} directions", {"chance": float(hits.mean())})
    low, high = rate_interval(np.diag(hits), topics)
    return {
        "cosine": cosine,
        "cosine_over_shuffled": replace(over, statistic="mean cosine over that of shuffled texts", null=NULL),
        "fve": _fve(cosine, s, directions, constant),
        "top1": replace(top1, low=low, high=high, method=top1.method.replace("t interval", "Wilson interval")),
        "mrr": mean.of(reciprocal, f"mean reciprocal rank among {n} directions", {"chance": float(reciprocal.mean())}),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Means:
    """How a mean over texts becomes an Estimate; each takes its permutations from ``rng`` in turn."""

    rng: np.random.Generator
    topics: Sequence[Any] | None
    permutations: int

    def of(self, dealt: Doubles, statistic: str, extra: dict[str, float]) -> Estimate:
        """Mean of the diagonal of ``dealt`` (n, n): [i, k] is what text i would count if it were said of k."""
        values = np.diag(dealt)
        (low, high), units, unit = _interval(values, self.topics)
        return Estimate(
            value=float(values.mean()),
            low=low,
            high=high,
            p=permutation_p(dealt, self.rng, self.permutations),
            n=units,
            statistic=statistic,
            null=NULL,
            unit=unit,
            method=f"t interval over {unit}; two-sided permutation p, at most {self.permutations} draws",
            extra=extra,
        )


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


def reconstruction_scores(
    rows: Sequence[Mapping[str, Any]],
    directions: Directions | Mapping[str, Directions],
    reconstructor: Reconstructor,
    *,
    seed: int = 0,
    topics: Mapping[str, Any] | None = None,
    permutations: int = PERMUTATIONS,
) -> dict[str, Any]:
    """Judge a run's texts by a reconstructor of the source model or of the target model; no native AV is needed.

    A source AR is held against the dictionary's own directions, whoever said the text: no map is in the scorer then.
    A target AR is held against the directions as they arrived, before washout: it judges the words and is blind to
    what the map lost.

    Args:
        rows: rows of a run; the first sample of each feature counts.
        directions: at the reconstructor's site, by id; one set for all conditions, or one per condition.
        reconstructor: reads every different text once.
        seed: of the permutations.
        topics: id to topic, when intervals are to be over topics.
        permutations: draws.

    Returns:
        ``reconstructor``, ``site``, ``identity``; ``table``: per condition ``n`` and the Estimates as dicts;
        ``per_feature``: per condition the rows of `per_direction`. Outputs are centred on the mean over the texts of
        their own condition: what these share is style. Conditions with fewer than three texts of known directions
        (random ones, as a rule) are left out.

    Raises:
        Refusal: no condition can be scored, or the directions are at another site.
    """
    said = _said(rows, directions, reconstructor.name)
    sets = {c: (directions if isinstance(directions, Directions) else directions[c]).pick(said[c]) for c in said}
    for chosen in sets.values():
        refuse_other_site("directions", chosen.site, reconstructor.site)
    distinct = list(dict.fromkeys(text for texts in said.values() for text in texts.values()))
    outputs = dict(zip(distinct, reconstructor.reconstruct(distinct), strict=True))
    table, per_feature = [], {}
    for condition, texts in said.items():
        chosen = sets[condition]
        s = centred_cosines(np.stack([outputs[t] for t in texts.values()]), chosen, site=reconstructor.site)
        rng, groups = np.random.default_rng(seed), _groups(texts, topics)
        found = reconstruction_estimates(s, chosen, rng=rng, topics=groups, permutations=permutations)
        table.append({"condition": condition, "n": len(texts), **{k: asdict(e) for k, e in found.items()}})
        per_feature[condition] = per_direction(s, chosen)
    return {
        "reconstructor": reconstructor.name,
        "site": str(reconstructor.site),
        "identity": reconstructor.identity,
        "table": table,
        "per_feature": per_feature,
    }


def _said(
    rows: Sequence[Mapping[str, Any]], directions: Directions | Mapping[str, Directions], name: str
) -> dict[str, dict[str, str]]:
    """Condition -> feature -> text, first samples of known directions; conditions with three of them at least.

    Raises:
        Refusal: there is no such condition.
    """
    said: dict[str, dict[str, str]] = {}
    for row in rows:
        known = directions if isinstance(directions, Directions) else directions.get(row["condition"])
        if row["sample"] == 0 and known is not None and row["feature"] in known.ids:
            # A reconstructor refuses empty text; an empty explanation is a bad one, not a missing one.
            said.setdefault(row["condition"], {})[row["feature"]] = row["text"].strip() or "(empty)"
    said = {condition: texts for condition, texts in said.items() if len(texts) >= 3}
    if not said:
        raise Refusal(
            f"scores by {name}",
            "no condition has texts of three of the directions",
            "pass directions with the ids of the run's features",
        )
    return said


def _groups(texts: Mapping[str, str], topics: Mapping[str, Any] | None) -> list[Any] | None:
    """Topics of the features of ``texts``; None where one has none, or they are all alike or all different."""
    if not topics or not all(feature in topics for feature in texts):
        return None
    groups = [topics[feature] for feature in texts]
    return groups if 1 < len(set(groups)) < len(groups) else None


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


def _interval(values: Doubles, topics: Sequence[Any] | None) -> tuple[tuple[float, float], int, str]:
    if topics is None:
        low, high, _ = t_interval(float(values.mean()), float(values.std(ddof=1)), len(values))
        return (low, high), len(values), "features"
    low, high, _, count = clustered_interval(values, topics)
    return (low, high), count, "topics"


def _unit(rows: Doubles) -> Doubles:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(norms > 0, norms, 1.0)
