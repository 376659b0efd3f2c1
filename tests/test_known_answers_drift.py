"""Fact 18 of the design's list: a rare feature's image drifts to a frequent sibling, and its card says so."""

import numpy as np
import pytest

from dragoman.maps import FiringSums, Moments, make_cards
from dragoman.maps.linear import fit_ridge, relative_lambda
from dragoman.maps.moments import MomentStream
from dragoman.maps.penalty import Calibration, choose_penalty, fit_map
from planted_worlds import SOURCE, TARGET, at_source, cosines, sparse_world, sums_by_fold, unit


def drifted(seed, ratio=50):
    """Feature 0 is rare; sibling 1 is more frequent, cosine 0.6 in the source, unrelated in the target."""
    rng = np.random.default_rng(seed)
    source = unit(rng.normal(size=(192, 64)))
    across = source[1] - source[1] @ source[0] * source[0]
    source[1] = 0.6 * source[0] + 0.8 * unit(across)
    rates = np.full(192, 0.03)
    rates[0], rates[1] = 0.003, 0.003 * ratio
    return sparse_world(rates=rates, source=source, seed=seed, noise=1.0)


def first_card(world):
    """By the default rule for the penalty."""
    stream = MomentStream(64, 96)
    stream.add(world.x, world.y, world.documents)
    folded = stream.finish()
    direct = sums_by_fold(TARGET, 192, 96, world)
    every = FiringSums(TARGET, range(192), 96).add(world.fired, world.y, world.documents)
    d = at_source(world.source)
    penalty = choose_penalty(folded, Calibration(directions=d, direct=direct), grid=np.logspace(-6, 1, 8))
    bridge = fit_map(folded, SOURCE, TARGET, penalty=penalty)
    return make_cards(d.pick([0]), bridge, folded.total, every.table())[0]


def test_18_the_margin_flags_planted_drift_and_names_the_sibling_in_24_of_24_worlds():
    cards = [first_card(drifted(seed)) for seed in range(24)]
    assert max(card.margin for card in cards) < -0.2
    assert [card.nearest for card in cards] == ["1"] * 24
    assert {card.status for card in cards} == {"differs"}


def test_18_at_a_tenfold_rate_the_margin_is_still_below_zero():
    assert max(first_card(drifted(seed, ratio=10)).margin for seed in range(6)) < 0


@pytest.mark.parametrize(("per_dimension", "mean_difference"), [(50, 0.98), (500, 0.998)])
def test_18_where_no_feature_overlaps_every_route_is_right(per_dimension, mean_difference):
    world = sparse_world(m=64, n=64 * per_dimension, source=np.eye(64), noise=0.0)
    m = Moments.of(world.x, world.y)
    bridge = fit_ridge(m, SOURCE, TARGET, relative_lambda(m, 1e-9))
    both = FiringSums(TARGET, range(64), 96, pairs=True).add(world.fired, world.y, world.documents)
    direct = both.table()
    cards = make_cards(at_source(world.source), bridge, m, direct)
    assert min(card.margin for card in cards) > 0.5
    assert np.max(1 - cosines(world.source @ bridge.weight, world.target)) < 1e-12
    assert np.max(1 - cosines(both.partial_table(lam_rel=1e-9).beta, world.target)) < 1e-12
    assert cosines(direct.beta, world.target).min() > mean_difference
