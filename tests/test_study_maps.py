"""Maps on parts of the same rows, and what judges them, against planted features and brute force."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.linear_model import Ridge

from dragoman.core import Directions, Site
from dragoman.maps import DirectTable, LinearMap, Moments
from dragoman.maps.linear import fit_ridge
from planted_worlds import SOURCE, TARGET, SparseWorld, at_source, cosines, sparse_world, unit
from studies.data import FEWEST, nested
from studies.depth import background_at
from studies.maps import aligned_map, direct, identities, identity, moments_of, pooled
from studies.procrustes import participation, variants
from studies.tokens import Tokens
from studies.tuning import ridge_at
from study_worlds import ground_with, latent, tokens_of

RARE = slice(0, 12)


@pytest.fixture(scope="module")
def world() -> SparseWorld:
    rates = np.full(96, 0.05)
    rates[RARE] = 0.0005
    return sparse_world(n=6000, p=40, q=56, m=96, rates=rates)


@pytest.fixture(scope="module")
def tokens(world: SparseWorld) -> Tokens:
    rng = np.random.default_rng(5)
    return tokens_of(world, x={3: rng.normal(size=world.x.shape)}, y={4: rng.normal(size=world.y.shape)})


@pytest.fixture(scope="module")
def table(tokens: Tokens) -> DirectTable:
    return direct(tokens, np.arange(len(tokens)), TARGET)


def test_the_direct_table_is_the_weighted_mean_less_the_mean(tokens: Tokens, world: SparseWorld) -> None:
    rows = tokens.of(slice(20, 260))
    assert_array_equal(rows, np.flatnonzero((world.documents >= 20) & (world.documents < 260)))
    found = direct(tokens, rows, TARGET)
    f, y, documents = world.f[rows], world.y[rows], world.documents[rows]
    for k in (0, 20, 95):
        if f[:, k].any():
            assert_allclose(found.beta[k], np.average(y, axis=0, weights=f[:, k]) - y.mean(axis=0), atol=1e-5)
            totals = np.array([f[documents == d, k].sum() for d in np.unique(documents)])
            assert found.n_eff[k] == pytest.approx(totals.sum() ** 2 / (totals**2).sum(), rel=1e-5)
    other = direct(tokens, rows, replace(TARGET, block=4))
    assert other.site.block == 4 and np.linalg.norm(other.beta[20]) < 0.6 < np.linalg.norm(found.beta[20])


def test_a_tables_own_rows_are_all_nearest_themselves(table: DirectTable) -> None:
    own = table.rows(range(12, 96))
    found = identity(own, table)
    assert found["top1"] == 1.0 and found["cosine"] == pytest.approx(1.0, abs=1e-6)
    assert abs(found["others"]) < 0.1


def test_directions_that_mean_nothing_have_the_identity_of_chance(table: DirectTable) -> None:
    rng = np.random.default_rng(0)
    drawn = [Directions.of(TARGET, rng.normal(size=(84, 56)), range(12, 96)) for _ in range(20)]
    rates = [identity(one, table)["top1"] for one in drawn]
    assert np.mean(rates) == pytest.approx(1 / 84, abs=0.01)
    own = table.rows(range(12, 96))
    assert identity(replace(own, ids=(*own.ids[1:], own.ids[0])), table)["top1"] == 0.0


def test_identity_counts_those_that_have_a_row_among_rows_that_fire_often_enough(table: DirectTable) -> None:
    assert (table.n_eff[RARE] < 20).all() and (table.n_eff[12:] >= 20).all()
    asked = Directions.of(TARGET, np.eye(56)[:4], ["0", "40", "50", "of nobody"])
    found = identity(asked, table)
    assert (found["n"], found["among"]) == (2, 84)
    assert identity(asked.pick(["0", "of nobody"]), table) == {"n": 0, "among": 84}


@pytest.mark.parametrize("centred", [True, False])
def test_a_fit_that_is_not_centred_is_a_ridge_without_an_intercept(world: SparseWorld, centred: bool) -> None:
    x, y, new = world.x[:500], world.y[:500], world.x[500:600]
    found = fit_ridge(moments_of(x, y, centred=centred), SOURCE, TARGET, 3.0)
    expected = Ridge(alpha=3.0, fit_intercept=centred).fit(x, y)
    assert_allclose(found.weight, expected.coef_.T, rtol=1e-6, atol=1e-8)
    assert_allclose(found.points(new), expected.predict(new), rtol=1e-6, atol=1e-8)


def test_pooled_rows_are_the_means_of_each_document(tokens: Tokens) -> None:
    rows = np.random.default_rng(1).permutation(tokens.of(slice(7, 30)))[:300]
    x, y = pooled(tokens, rows, 3, TARGET.block)
    documents = tokens.documents[rows]
    assert len(x) == len(y) == len(np.unique(documents))
    for k, document in enumerate(np.unique(documents)):
        mine = rows[documents == document]
        assert_allclose(x[k], tokens.x[3][mine].mean(axis=0), atol=1e-5)
        assert_allclose(y[k], tokens.y[TARGET.block][mine].mean(axis=0), atol=1e-5)


# --- how much data ---------------------------------------------------------------------------------------------------


def documents_of(lengths: np.ndarray) -> Tokens:
    documents = np.repeat(np.arange(len(lengths)), lengths)
    nothing = np.zeros((len(documents), 1), dtype=np.float32)
    ends = np.arange(len(documents))
    return Tokens(documents=documents, ends=ends, x={20: nothing}, y={12: nothing}, fired=None, left_out=0)


@pytest.mark.parametrize("seed", range(4))
def test_amounts_of_whole_documents_are_nested_and_in_order(seed: int) -> None:
    tokens = documents_of(np.random.default_rng(seed).integers(5, 30, size=400))
    pool, before = tokens.of(slice(0, 300)), 0
    for pairs in (1000, 1500, 2500, 4000):
        rows = nested(tokens, pool, pairs, seed=0)
        assert_array_equal(rows, pool[: len(rows)])  # the first of the pool, so each amount holds the one before
        documents = tokens.documents[rows]
        assert tokens.documents[len(rows)] != documents[-1]  # the last one is whole
        assert pairs <= len(rows) <= pairs + 30 and len(np.unique(documents)) >= FEWEST
        assert len(rows) > before
        before = len(rows)


@pytest.mark.parametrize("pairs", [100, 300, 600])
def test_few_pairs_are_drawn_from_forty_documents(pairs: int) -> None:
    tokens = documents_of(np.full(100, 20))
    pool = tokens.of(slice(0, 80))
    rows = nested(tokens, pool, pairs, seed=0)
    assert len(rows) == len(set(rows)) == pairs and (np.diff(rows) > 0).all()
    documents = np.unique(tokens.documents[rows])
    assert documents.max() < FEWEST and len(documents) > 0.85 * FEWEST  # a row of each is not promised
    assert_array_equal(rows, nested(tokens, pool, pairs, seed=0))
    assert not np.array_equal(rows, nested(tokens, pool, pairs, seed=1))


@pytest.mark.parametrize("pairs", [670, 700, 799, 800, 801, 1599])
def test_amounts_are_as_asked_to_a_fifth(pairs: int) -> None:
    tokens = documents_of(np.full(100, 20))
    assert len(nested(tokens, tokens.of(slice(0, 80)), pairs, seed=0)) == pytest.approx(pairs, rel=0.2)


def test_more_pairs_than_there_are_give_all_there_are() -> None:
    tokens = documents_of(np.full(100, 20))
    pool = tokens.of(slice(10, 80))
    assert_array_equal(nested(tokens, pool, 10_000, seed=0), pool)


def test_the_aligned_map_carries_planted_rows_where_they_belong(world: SparseWorld) -> None:
    small = sparse_world(n=4000, p=40, q=56, m=30, rate=0.1, noise=0.02)
    tokens = tokens_of(small)
    dictionary = at_source(small.source)
    made = aligned_map(tokens, tokens.of(slice(0, 150)), dictionary, TARGET)
    assert (made.source, made.target) == (SOURCE, TARGET)
    assert cosines(made.carry(dictionary).unit, small.target).min() > 0.98


# --- what procrustes and depth are told by ---------------------------------------------------------------------------


def test_participation_counts_the_dimensions_that_vary() -> None:
    rng = np.random.default_rng(0)
    even, thin = rng.normal(size=(5000, 10)), rng.normal(size=(5000, 10))
    thin[:, 2:] *= 1e-4
    assert participation(even + 7.0)["dimensions"] == pytest.approx(10, abs=0.1)
    assert participation(thin) == {"dimensions": pytest.approx(2, abs=0.01), "width": 10}


class TakesTheFirst:
    """In the place of a tuner: the first setting, and of penalties a small one."""

    def best(self, make: Callable[[Any], LinearMap], settings: Sequence[Any]) -> LinearMap:
        return make(settings[0])

    def ridge(self, moments: Moments, source: Site, target: Site) -> LinearMap:
        return ridge_at(moments, source, target, 0.001)


def test_variants_of_procrustes_differ_by_what_they_say(world: SparseWorld) -> None:
    """Two sides with the same rows turned: a rotation is the truth, and only a rank too low or no centring miss it."""
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(40, 40)))[0]
    x, y = world.x[:3000], world.x[:3000] @ turn + 5.0
    ground = ground_with([latent("0")])
    tuner: Any = TakesTheFirst()
    made = dict(variants(ground, moments_of(x, y), moments_of(x, y, centred=False), tuner))
    assert len(made) == 8 and made["Procrustes, rank tuned"].settings["rank"] == 16
    found = {name: cosines(m.carry(at_source(world.source)).unit, world.source @ turn) for name, m in made.items()}
    for name in ("ridge", "Procrustes", "Procrustes, informative rank", "half way (gamma 0.5)", "Procrustes, whitened"):
        assert found[name].min() > 0.97, name
    assert found["Procrustes, rank tuned"].mean() < 0.9
    assert found["Procrustes, not centred"].min() < found["Procrustes"].min()


def test_a_blocks_background_is_its_mean_unit_row(tokens: Tokens, world: SparseWorld) -> None:
    rows = tokens.of(slice(3, 9))
    found = background_at(tokens, rows, TARGET)
    assert found.site == TARGET and found.n == len(rows) == 120
    assert_allclose(found.mean, unit(world.y[rows]).mean(axis=0), atol=1e-6)


def test_identities_one_by_one_have_the_share_that_identity_tells(world: SparseWorld) -> None:
    tokens = tokens_of(world)
    table = direct(tokens, tokens.of(slice(0, None)), TARGET)
    rng = np.random.default_rng(3)
    own = table.beta / np.linalg.norm(table.beta, axis=1, keepdims=True)
    rows = own + 0.5 * rng.normal(size=own.shape)
    carried = Directions.of(TARGET, rows, table.ids)
    kept = identities(carried, table)
    judged = [one for one in kept if one is not None]
    assert [one is None for one in kept] == (table.n_eff < 20).tolist()
    assert np.mean(judged) == identity(carried, table)["top1"]
    assert 0 < np.mean(judged) < 1
