import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from dragoman.core import Directions, Refusal
from dragoman.routes import DirectStatistics, Moments, fit_procrustes, fit_ridge, make_cards
from planted_worlds import ELSEWHERE, SOURCE, TARGET, at_source, cosines, rows, sparse_world, unit


def column(cards, name):
    return np.array([card[name] for card in cards], dtype=float)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.integers(5, 60), st.floats(1e-2, 1e5))
def test_coverage_and_kappa_are_shares_and_kappa_squared_is_at_least_coverage(seed, n, lam):
    rng = np.random.default_rng(seed)
    moments = Moments.of(*rows(n, 20, 12, rng))
    bridge = fit_ridge(moments, SOURCE, TARGET, lam, allow_underdetermined=True)
    cards = make_cards(at_source(rng.normal(size=(8, 20))), bridge, moments)
    coverage, kappa = column(cards, "coverage"), column(cards, "kappa")
    assert (coverage >= 0).all()
    assert (kappa <= 1).all()
    assert (kappa**2 >= coverage - 1e-9).all()


def test_coverage_and_kappa_equal_their_definition():
    rng = np.random.default_rng(0)
    moments = Moments.of(*rows(40, 20, 12, rng))
    d = unit(rng.normal(size=(8, 20)))
    h = np.linalg.solve(moments.sxx + 3.0 * np.eye(20), moments.sxx)
    cards = make_cards(at_source(d), fit_ridge(moments, SOURCE, TARGET, 3.0), moments)
    assert_allclose(column(cards, "coverage"), np.sum(d @ h * d, axis=1), rtol=1e-6)
    assert_allclose(column(cards, "kappa"), cosines(d @ h, d), rtol=1e-6)


def test_coverage_falls_with_lambda_and_grows_with_rows():
    rng = np.random.default_rng(1)
    x, y = rows(60, 20, 12, rng)
    d = at_source(rng.normal(size=(8, 20)))

    def coverage(n, lam):
        moments = Moments.of(x[:n], y[:n])
        return column(make_cards(d, fit_ridge(moments, SOURCE, TARGET, lam), moments), "coverage")

    ladder = [coverage(60, lam) for lam in (1e-3, 1.0, 1e3)]
    assert (np.diff(ladder, axis=0) < 0).all()
    assert (coverage(60, 10.0) > coverage(30, 10.0)).all()


def test_random_directions_keep_the_share_of_the_space_that_rows_span():
    rng = np.random.default_rng(2)
    n, p = 50, 200
    moments = Moments.of(rng.normal(size=(n, p)), rng.normal(size=(n, 10)))
    d = at_source(rng.normal(size=(400, p)))
    ridge = fit_ridge(moments, SOURCE, TARGET, 1e-6, allow_underdetermined=True)
    assert column(make_cards(d, ridge, moments), "coverage").mean() == pytest.approx((n - 1) / p, abs=0.01)


def test_procrustes_covers_its_informative_subspace():
    rng = np.random.default_rng(3)
    moments = Moments.of(*rows(15, 40, 60, rng))
    bridge = fit_procrustes(moments, SOURCE, TARGET, allow_underdetermined=True)
    span = np.linalg.svd(moments.sxy)[0][:, :14]
    d = unit(rng.normal(size=(6, 40)))
    cards = make_cards(at_source(d), bridge, moments)
    inside = np.sum((d @ span) ** 2, axis=1)
    assert_allclose(column(cards, "coverage"), inside, rtol=1e-5)
    assert_allclose(column(cards, "kappa"), np.sqrt(inside), rtol=1e-5)
    assert_allclose(column(cards, "norm"), bridge.settings["scale"] * np.sqrt(inside), rtol=1e-5)


def drifted_world(seed):
    """Feature 0 is rare; sibling 1 is fifty times more frequent, near it in the source, unrelated in the target."""
    rng = np.random.default_rng(seed)
    source = unit(rng.normal(size=(192, 64)))
    across = source[1] - source[1] @ source[0] * source[0]
    source[1] = 0.6 * source[0] + 0.8 * unit(across)
    rates = np.full(192, 0.03)
    rates[0], rates[1] = 0.003, 0.15
    return sparse_world(rates=rates, source=source, seed=seed)


def cards_of(world, lam_rel=1e-4):
    moments = Moments.of(world.x, world.y)
    bridge = fit_ridge(moments, SOURCE, TARGET, lam_rel * np.trace(moments.sxx) / moments.p)
    m = len(world.source)
    direct = DirectStatistics.empty(TARGET, range(m), moments.q).accumulate(world.f, world.y, world.documents).table()
    return make_cards(at_source(world.source), bridge, moments, direct), bridge, moments, direct


@pytest.mark.parametrize("seed", range(6))
def test_margin_names_the_planted_drifted_neighbour(seed):
    # At almost no penalty the margin is negative all the same, but in 1 of 24 worlds another relative is nearer still.
    cards, *_ = cards_of(drifted_world(seed), lam_rel=0.1)
    assert cards[0]["margin"] < -0.2
    assert cards[0]["nearest"] == "1"
    assert np.median(column(cards[2:], "margin")) > 0
    assert cards[1]["margin"] > 0


def test_margin_is_wide_where_no_feature_overlaps():
    world = sparse_world(m=64, n=3200, source=np.eye(64), noise=0.0)
    cards, bridge, _, _ = cards_of(world, lam_rel=1e-10)
    assert cosines(bridge.weight, world.target).min() > 1 - 1e-9
    assert column(cards, "margin").min() > 0.5
    assert column(cards, "agreement").min() > 0.9
    assert_allclose(column(cards, "coverage"), 1, atol=1e-6)


def test_agreement_margin_and_nearest_equal_their_definitions():
    cards, bridge, _, direct = cards_of(sparse_world(n=4000))
    table = unit(unit(at_source(sparse_world(n=4000).source).unit @ bridge.weight)) @ unit(direct.beta).T
    assert_allclose(column(cards, "agreement"), np.diag(table), atol=1e-6)
    np.fill_diagonal(table, -np.inf)
    assert_allclose(column(cards, "margin"), column(cards, "agreement") - table.max(axis=1), atol=1e-6)
    assert [card["nearest"] for card in cards] == [str(j) for j in np.argmax(table, axis=1)]
    assert_allclose(column(cards, "n_eff"), direct.n_eff)


def test_cards_say_nothing_where_the_direct_route_cannot_answer():
    world = sparse_world(n=2000, rates=np.r_[0.0005, np.full(191, 0.05)])
    cards, bridge, moments, direct = cards_of(world)
    assert cards[0]["n_eff"] < 20
    assert cards[0]["agreement"] is cards[0]["margin"] is None
    assert "0" not in {card["nearest"] for card in cards}
    stray = make_cards(at_source(np.eye(64)[:2], ["r0", "r1"]), bridge, moments, direct)
    assert stray[0]["n_eff"] is stray[0]["margin"] is None
    assert stray[0]["nearest"] in direct.ids
    namesake = Directions.of(SOURCE, np.eye(64)[:1], ["7"], kind="random")
    assert make_cards(namesake, bridge, moments, direct)[0]["margin"] is None
    alone = make_cards(at_source(world.source), bridge, moments)
    assert alone[0]["nearest"] is None
    assert set(alone[0]) == set(cards[0])


def test_cards_refuse_what_belongs_elsewhere():
    rng = np.random.default_rng(4)
    moments = Moments.of(*rows(40, 20, 12, rng))
    bridge, d = fit_ridge(moments, SOURCE, TARGET, 1.0), at_source(np.eye(20))
    with pytest.raises(Refusal, match="third-model"):
        make_cards(Directions.of(ELSEWHERE, np.eye(20), range(20)), bridge, moments)
    with pytest.raises(Refusal, match="the map was fitted on"):
        make_cards(d, bridge, Moments.of(*rows(40, 20, 13, rng)))
    with pytest.raises(Refusal, match="third-model"):
        make_cards(d, bridge, moments, DirectStatistics.empty(ELSEWHERE, "ab", 12).table())
    with pytest.raises(Refusal, match="direct statistics of width 13: the map's images are 12 wide"):
        make_cards(d, bridge, moments, DirectStatistics.empty(TARGET, "ab", 13).table())


def test_a_direction_outside_the_rows_has_no_coverage_and_no_kappa():
    rng = np.random.default_rng(5)
    x, y = rows(40, 20, 12, rng)
    x[:, 0] = 3.0
    moments = Moments.of(x, y)
    card = make_cards(at_source(np.eye(20)[0]), fit_ridge(moments, SOURCE, TARGET, 1.0), moments)[0]
    assert card["coverage"] == card["kappa"] == 0
    assert card["norm"] < 1e-9
