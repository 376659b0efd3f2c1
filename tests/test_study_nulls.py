"""What studies plant: turned rows, rows under other names, directions like activations, maps of shuffled pairs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from dragoman.core import Background, Directions, Refusal, frozen
from dragoman.maps import FiringSums, Moments, make_cards
from dragoman.maps.aligned import HeldOutPairs
from dragoman.maps.diagnostics import held_out
from dragoman.maps.linear import fit_ridge, relative_lambda
from planted_worlds import SOURCE, TARGET, at_source, cosines, sparse_world, unit
from studies.cast import COLLAPSED, standing
from studies.controls import like_activations, shuffled_map
from studies.drift import DEGREES, bend, nearest_rows, towards
from studies.trust import dealt
from study_worlds import ground_with, latent

# --- drift -----------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), degrees=st.floats(0, 180), scale=st.floats(0.01, 100))
def test_a_row_is_bent_by_exactly_the_angle_within_the_plane_of_the_two(
    seed: int, degrees: float, scale: float
) -> None:
    rng = np.random.default_rng(seed)
    d, other = rng.normal(size=(2, 5, 9))
    found = bend(scale * d, other / scale, degrees)
    assert_allclose(np.linalg.norm(found, axis=1), 1.0, atol=1e-12)
    assert_allclose(cosines(found, d), np.cos(np.radians(degrees)), atol=1e-9)
    for row, a, b in zip(found, d, other, strict=True):
        inside = np.linalg.qr(np.stack([a, b], axis=1))[0]
        assert_allclose(inside @ (inside.T @ row), row, atol=1e-9)
        toward = unit(b) - (unit(b) @ unit(a)) * unit(a)
        assert row @ toward >= -1e-9  # to the other row's side, not away from it


def test_bending_by_the_angle_between_them_arrives_at_the_other_row() -> None:
    d, other = np.eye(3)[:1], unit(np.array([[1.0, 1.0, 0.0]]))
    assert_allclose(bend(d, other, 45.0), other, atol=1e-12)
    assert_allclose(bend(d, other, 90.0), [[0.0, 1.0, 0.0]], atol=1e-12)


def test_nought_degrees_leave_the_rows_and_their_name() -> None:
    rows, others = at_source(np.eye(4)[:2]), at_source(np.eye(4)[2:])
    assert towards(rows, others, 0) is rows
    turned = towards(rows, others, 30)
    assert (turned.ids, turned.site, turned.origin) == (rows.ids, SOURCE, "planted, turned by 30 degrees")


def test_a_row_that_is_its_own_neighbour_cannot_be_turned() -> None:
    rows = at_source(np.eye(4)[:2])
    with np.errstate(invalid="ignore"), pytest.raises(Refusal, match="NaN or infinite"):
        towards(rows, rows, 30)


def test_the_nearest_row_is_another_one() -> None:
    rng = np.random.default_rng(0)
    array = rng.normal(size=(50, 6))
    array[31] = array[30] + 1e-3  # each other's nearest, so that one is named twice
    array[32] = array[30] - 2e-3
    dictionary = at_source(array)
    asked = dictionary.pick(["49", "3", "30", "31", "32"])
    found = nearest_rows(dictionary, asked)
    c = unit(array) @ unit(array).T
    np.fill_diagonal(c, -2.0)
    assert found.ids == tuple(str(k) for k in c[[49, 3, 30, 31, 32]].argmax(axis=1))
    assert all(mine != other for mine, other in zip(asked.ids, found.ids, strict=True))
    assert found.ids[2:] == ("31", "30", "30")
    assert_array_equal(found.unit, dictionary.unit[[int(i) for i in found.ids]])


def test_rows_turned_further_stand_worse_at_home_and_name_the_neighbour() -> None:
    world = sparse_world(n=4000, p=48, q=56, m=96, rate=0.05)
    moments = Moments.of(world.x, world.y)
    bridge = fit_ridge(moments, SOURCE, TARGET, relative_lambda(moments, 1e-2))
    fired = FiringSums(SOURCE, range(96), 48).add(world.f, world.x, world.documents)
    dictionary = at_source(world.source)
    rows = dictionary.pick(range(40))
    neighbours = nearest_rows(dictionary, rows)
    margins, named = [], []
    for degrees in DEGREES:
        cards = make_cards(towards(rows, neighbours, degrees), bridge, moments, fired=fired)
        margins.append([card.home_margin for card in cards])
        named.append(np.mean([card.home_nearest == other for card, other in zip(cards, neighbours.ids, strict=True)]))
    assert (np.diff(np.mean(margins, axis=1)) < 0).all()
    assert np.min(margins[0]) > 0 > np.max(margins[-1])
    assert named[-1] > 0.9


# --- nulls -----------------------------------------------------------------------------------------------------------


def test_no_row_is_dealt_to_a_feature_of_its_own_category() -> None:
    rng = np.random.default_rng(1)
    categories = rng.choice(["birds", "boats", "bread"], size=60)
    ground = ground_with([latent(str(k), c) for k, c in enumerate(categories)])
    features = ground.directions([str(k) for k in range(15)])
    unused = tuple(str(k) for k in range(20, 60))
    found = dealt(ground, features, unused)
    assert (found.ids, found.labels, found.site) == (features.ids, features.labels, SOURCE)
    owner = {row.tobytes(): name for name, row in zip(ground.rows.ids, ground.rows.unit, strict=True)}
    given_ = [owner[row.tobytes()] for row in found.unit]
    assert len(set(given_)) == 15 and set(given_) <= set(unused)
    assert all(categories[int(a)] != categories[int(b)] for a, b in zip(features.ids, given_, strict=True))
    assert_array_equal(found.norms, ground.rows.pick(given_).norms)


def test_directions_like_activations_have_the_sources_covariance() -> None:
    rng = np.random.default_rng(0)
    mix = rng.normal(size=(6, 6)) * np.array([5.0, 3.0, 2.0, 1.0, 0.5, 0.1])
    x = rng.normal(size=(400, 6)) @ mix.T + 9.0
    moments = Moments.of(x, x[:, :2])
    found = like_activations(moments, SOURCE, 60_000, np.random.default_rng(1))
    rows = found.unit.astype(float) * found.norms[:, None]
    assert_allclose(rows.T @ rows / len(rows), moments.sxx, atol=0.03 * moments.sxx.max())
    assert np.linalg.norm(rows.mean(axis=0)) < 0.02 * np.sqrt(np.trace(moments.sxx))  # differences, not points
    assert found.kind == "random" and found.ids[:2] == ("random-0", "random-1") and found.site == SOURCE
    again = like_activations(moments, SOURCE, 5, np.random.default_rng(1))
    assert_array_equal(again.unit, like_activations(moments, SOURCE, 5, np.random.default_rng(1)).unit)


def test_a_map_of_shuffled_pairs_explains_nothing_of_rows_left_out() -> None:
    world = sparse_world(n=6000, p=40, q=56, m=30, rate=0.1)
    moments = Moments.of(world.x[:4000], world.y[:4000])
    forward = fit_ridge(moments, SOURCE, TARGET, relative_lambda(moments, 0.1))
    judges = HeldOutPairs(
        fold=0, x=frozen(world.x[2000:4000]), y=frozen(world.y[2000:4000]), documents=world.documents[2000:4000]
    )
    mixed = shuffled_map(judges, forward, seed=0)
    assert (mixed.source, mixed.target, mixed.report["shuffled"]) == (SOURCE, TARGET, True)
    assert mixed.settings["lam_rel"] == pytest.approx(forward.settings["lam_rel"])
    left = world.x[4000:], world.y[4000:]
    assert held_out(mixed, *left)["fve_raw"] < 0.0 < 0.8 < held_out(forward, *left)["fve_raw"]
    carried = mixed.carry(at_source(world.source))
    assert abs(cosines(carried.unit, world.target).mean()) < 0.1
    assert_array_equal(mixed.weight, shuffled_map(judges, forward, seed=0).weight)


def test_features_that_fire_too_rarely_are_not_asked_of_a_table() -> None:
    f, y = np.zeros((600, 3)), np.random.default_rng(0).normal(size=(600, 4))
    f[:, 0], f[:10, 1], f[::20, 2] = 1.0, 1.0, 1.0
    table = FiringSums(TARGET, range(3), 4).add(f, y, np.arange(600) // 20).table()
    asked = at_source(np.eye(4)[:4], ["2", "1", "0", "7"])
    assert table.frequent(asked).ids == ("2", "0")


def test_directions_stand_where_the_background_has_not_swallowed_them() -> None:
    b = np.array([0.6, 0.0, 0.0])
    rows = [[np.cos(t), np.sin(t), 0.0] for t in np.arccos([COLLAPSED + 0.01, COLLAPSED - 0.01, 0.0])]
    rows += [[-x for x in rows[0]], [-x for x in rows[1]]]
    found = standing(Directions.of(TARGET, np.array(rows), "abcde"), Background(TARGET, frozen(b), 10))
    assert found.ids == ("b", "c", "e")
