"""Centred scoring by a reconstructor: planted truth is found, swapped texts and other sites are not taken for it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dragoman.core import Directions, Floats, Refusal, Site
from dragoman.records import Row
from dragoman.scoring import reconstruction_scores
from dragoman.stats.reconstruct import centred_cosines, per_direction, reconstruction_estimates
from judging import whole

SITE = Site("planted", 3)
N, D = 30, 64
FEW = 499


def directions_of(n: int = N, d: int = D, seed: int = 0, site: Site = SITE) -> Directions:
    rows = np.random.default_rng(seed).normal(size=(n, d))
    return Directions.of(site, rows, [f"f{k}" for k in range(n)])


def outputs_of(directions: Directions, *, common: float = 40.0, noise: float = 0.5, seed: int = 1) -> Floats:
    """What an AR gives: nearly all of it the same for every text, a little of the direction, a little noise."""
    rng = np.random.default_rng(seed)
    n, d = directions.unit.shape
    shared = rng.normal(size=d)
    rows = common * shared / np.linalg.norm(shared) + directions.unit + noise / math.sqrt(d) * rng.normal(size=(n, d))
    return (rows * rng.uniform(0.5, 2, (n, 1)) * 100).astype(np.float32)


def estimates(outputs: Floats, directions: Directions, **how: Any) -> dict[str, Any]:
    s = centred_cosines(outputs, directions, site=directions.site)
    return reconstruction_estimates(s, directions, rng=np.random.default_rng(0), **how)


def test_planted_directions_are_found_under_a_mean_forty_times_their_size() -> None:
    directions = directions_of()
    found = estimates(outputs_of(directions), directions)
    # 1 / sqrt(1 + noise^2), what a direction in noise of that size has left
    assert found["cosine"].value == pytest.approx(1 / math.sqrt(1.25), abs=0.04)
    assert found["top1"].value == 1 and found["mrr"].value == 1
    assert found["top1"].p < 0.01 > found["cosine"].p
    assert found["fve"].value == pytest.approx(2 * found["cosine"].value - 1, abs=0.05)
    assert found["fve"].extra["scaled"] == pytest.approx(0.8, abs=0.05)
    # Without centring the answer would have been nearly one vector for all.
    raw = outputs_of(directions) / np.linalg.norm(outputs_of(directions), axis=1, keepdims=True)
    assert (raw @ raw.T).min() > 0.99


def test_swapped_texts_score_at_chance() -> None:
    directions = directions_of()
    found = estimates(np.roll(outputs_of(directions), 1, axis=0), directions)
    assert found["top1"].value == 0 and found["cosine"].value == pytest.approx(
        found["cosine"].extra["shuffled"], abs=0.1
    )
    assert found["mrr"].value < 0.2 and found["fve"].value < found["fve"].extra["constant_unit"] + 0.2
    assert found["cosine_over_shuffled"].p > 0.01


def test_an_ar_that_listens_to_nothing_scores_at_chance() -> None:
    directions = directions_of(200, 32)
    noise = np.random.default_rng(5).normal(size=(200, 32)) + 3
    found = estimates(noise.astype(np.float32), directions)
    for name in ("cosine", "cosine_over_shuffled", "mrr", "top1"):
        assert found[name].p > 0.01, name
    assert found["top1"].value < 0.03
    assert found["fve"].extra["scaled"] < 0.01


def test_every_number_is_given_with_its_chance_or_constant() -> None:
    directions = directions_of()
    found = estimates(outputs_of(directions), directions)
    assert set(found) == {"cosine", "cosine_over_shuffled", "fve", "top1", "mrr"}
    assert all(e.null == "texts dealt to directions at random" and e.n == N for e in found.values())
    assert found["top1"].extra["chance"] == pytest.approx(1 / N)
    assert found["mrr"].extra["chance"] == pytest.approx(sum(1 / k for k in range(1, N + 1)) / N)
    length = np.linalg.norm(directions.unit.mean(axis=0))
    assert found["cosine"].extra["constant"] == pytest.approx(length, rel=1e-5)
    assert all(e.low <= e.value <= e.high + 1e-9 for e in found.values())


def test_fve_is_what_its_definition_says_and_the_constants_score_what_is_said_of_them() -> None:
    directions, rng = directions_of(12, 20), np.random.default_rng(3)
    tilted = Directions.of(SITE, directions.unit + 0.3, directions.ids)
    s = centred_cosines(outputs_of(tilted, noise=2.0), tilted, site=SITE)
    found = reconstruction_estimates(s, tilted, rng=rng)["fve"]
    d, outputs = tilted.unit.astype(np.float64), outputs_of(tilted, noise=2.0).astype(np.float64)
    units = outputs / np.linalg.norm(outputs, axis=1, keepdims=True)
    p = units - units.mean(axis=0)
    p /= np.linalg.norm(p, axis=1, keepdims=True)
    bar = d.mean(axis=0)
    total = np.sum((d - bar) ** 2)
    assert found.value == pytest.approx(1 - np.sum((p - d) ** 2) / total, rel=1e-6)
    best = min(np.sum((bar + a * p - d) ** 2) for a in np.linspace(0, 2, 20001))
    assert found.extra["scaled"] == pytest.approx(1 - best / total, abs=1e-6)
    constant = bar / np.linalg.norm(bar)
    assert found.extra["constant_unit"] == pytest.approx(1 - np.sum((constant - d) ** 2) / total, rel=1e-6)
    assert found.extra["spread"] == pytest.approx(total / len(d), rel=1e-6)


def test_ties_share_their_places_so_that_one_text_for_all_scores_chance() -> None:
    directions = directions_of(10, 16)
    same = np.repeat(outputs_of(directions)[:1], 10, axis=0)
    same[0] += 50  # one differs, so that there is something to centre
    s = centred_cosines(same, directions, site=SITE)
    tied = np.zeros_like(s)
    found = reconstruction_estimates(tied, directions, rng=np.random.default_rng(0))
    assert found["top1"].value == pytest.approx(0.1) and found["top1"].p == 1
    assert found["mrr"].value == pytest.approx(found["mrr"].extra["chance"])


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**31), st.floats(1e-3, 1e3))
def test_lengths_of_outputs_and_their_order_do_not_matter(seed: int, scale: float) -> None:
    directions = directions_of(8, 12)
    rng = np.random.default_rng(seed)
    outputs = outputs_of(directions, seed=seed)
    s = centred_cosines(outputs, directions, site=SITE)
    stretched = outputs * (scale * rng.uniform(0.1, 10, (8, 1)))
    assert np.allclose(centred_cosines(stretched, directions, site=SITE), s, atol=1e-4)
    order = rng.permutation(8)
    turned = centred_cosines(outputs[order], directions.pick([directions.ids[k] for k in order]), site=SITE)
    assert np.allclose(turned, s[np.ix_(order, order)], atol=1e-5)


def test_topics_widen_the_interval_when_features_fail_together() -> None:
    directions = directions_of()
    outputs = outputs_of(directions)
    topics = [k // 6 for k in range(N)]
    for topic in (1, 3):
        rows = [k for k in range(N) if topics[k] == topic]
        outputs[rows] = outputs[np.roll(rows, 1)]
    plain, grouped = estimates(outputs, directions), estimates(outputs, directions, topics=topics)
    for name in ("cosine", "top1"):
        a, b = plain[name], grouped[name]
        assert (b.n, b.unit) == (5, "topics") and b.high - b.low > a.high - a.low


def test_per_direction_names_the_direction_a_swapped_text_belongs_to() -> None:
    directions = directions_of()
    outputs = outputs_of(directions)
    outputs[[0, 1]] = outputs[[1, 0]]
    rows = per_direction(centred_cosines(outputs, directions, site=SITE), directions)
    assert [r["nearest"] for r in rows[:3]] == ["f1", "f0", "f2"]
    assert rows[0]["rank"] > 1 == rows[2]["rank"] and rows[0]["lift"] < 0.2 < rows[2]["lift"]


class Planted:
    """A reconstructor that knows what each word means."""

    def __init__(self, directions: Directions, site: Site = SITE) -> None:
        self.rows = dict(zip(directions.ids, outputs_of(directions), strict=True))
        self.site, self.name, self.read = site, "planted-ar", list[str]()

    @property
    def identity(self) -> dict[str, Any]:
        return {"contract": "planted"}

    def reconstruct(self, texts: Sequence[str]) -> Floats:
        self.read += texts
        # Texts that name no feature are heard as the mean of all.
        return np.stack([self.rows.get(t, np.mean(list(self.rows.values()), axis=0)) for t in texts])


def rows_of(condition: str, said: dict[str, str]) -> list[Row]:
    rows = [{"condition": condition, "feature": f, "sample": 0, "text": t} for f, t in said.items()]
    rows += [{**r, "sample": 1, "text": "another"} for r in rows]
    return [Row.of(whole(row), "rows.jsonl") for row in rows]


def test_a_run_is_judged_condition_by_condition_and_every_text_read_once() -> None:
    directions = directions_of()
    ar = Planted(directions)
    ids = directions.ids
    rows = rows_of("native", {f: f for f in ids}) + rows_of("swapped", dict(zip(ids, ids[1:] + ids[:1], strict=True)))
    rows += rows_of("random_plain", {f"r{k}": "noise" for k in range(9)}) + rows_of("few", {"f0": "", "f1": "f1"})
    scores = reconstruction_scores(rows, directions, ar).to_json()
    assert [line["condition"] for line in scores["table"]] == ["native", "swapped"]
    native, swapped = scores["table"]
    assert native["top1"]["value"] == 1 and native["n"] == N and swapped["top1"]["value"] == 0
    assert sorted(ar.read) == sorted(ids)
    assert scores["reconstructor"] == "planted-ar" and scores["site"] == str(SITE)
    assert {r["nearest"] for r in scores["per_feature"]["swapped"]} == set(ids)
    again = reconstruction_scores(rows, directions, Planted(directions)).to_json()
    assert again["table"] == scores["table"]


def test_a_run_may_have_directions_of_its_own_for_each_condition_and_empty_texts() -> None:
    directions = directions_of()
    ids = directions.ids
    rows = rows_of("plain", {f: f for f in ids}) + rows_of("direct", {f: "" if f == "f0" else f for f in ids})
    sets = {"plain": directions, "direct": directions.pick(ids[::-1])}
    scores = reconstruction_scores(rows, sets, Planted(directions)).to_json()
    assert [line["top1"]["value"] > 0.9 for line in scores["table"]] == [True, True]
    assert scores["per_feature"]["direct"][0]["cosine"] < 0.9
    topics = {f: k % 5 for k, f in enumerate(ids)}
    grouped = reconstruction_scores(rows, sets, Planted(directions), topics=topics).to_json()
    assert grouped["table"][0]["cosine"]["unit"] == "topics"


def test_refuses_directions_of_another_site() -> None:
    directions = directions_of()
    with pytest.raises(Refusal, match="directions at planted:3: it is needed at planted:4"):
        centred_cosines(outputs_of(directions), directions, site=Site("planted", 4))
    ar = Planted(directions, Site("other", 3))
    with pytest.raises(Refusal, match="needed at other:3"):
        reconstruction_scores(rows_of("native", {f: f for f in directions.ids}), directions, ar)
    assert not ar.read, "refused before anything dear is done"


def test_refuses_shapes_numbers_and_counts_that_cannot_be_scored() -> None:
    directions = directions_of(4, 8)
    outputs = outputs_of(directions)
    with pytest.raises(Refusal, match=r"reconstructions of shape \(3, 8\): there are 4 directions"):
        centred_cosines(outputs[:3], directions, site=SITE)
    with pytest.raises(Refusal, match="2 reconstructions: retrieval and its null need three"):
        centred_cosines(outputs[:2], directions.pick(["f0", "f1"]), site=SITE)
    with pytest.raises(Refusal, match="some are NaN or infinite"):
        centred_cosines(np.where(outputs > 0, np.nan, outputs), directions, site=SITE)
    with pytest.raises(Refusal, match="all the same vector, whatever the text"):
        centred_cosines(np.repeat(outputs[:1], 4, axis=0), directions, site=SITE)
    with pytest.raises(Refusal, match=r"cosines of shape \(3, 3\): there are 4 directions"):
        reconstruction_estimates(np.eye(3), directions, rng=np.random.default_rng(0))
    alike = Directions.of(SITE, np.ones((4, 8)), "abcd")
    with pytest.raises(Refusal, match="directions: they are all the same"):
        reconstruction_estimates(np.eye(4), alike, rng=np.random.default_rng(0))
    with pytest.raises(Refusal, match="no condition has texts of three of the directions"):
        reconstruction_scores(rows_of("native", {"f0": "f0", "x": "y"}), directions, Planted(directions))
