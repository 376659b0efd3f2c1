from functools import reduce

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from dragoman.core import Refusal
from dragoman.routes import Moments, fit_ridge, relative_lambda
from planted_worlds import SOURCE, TARGET, cosines, rows

PARTS = ("mean_x", "mean_y", "sxx", "sxy", "syy")


def same(a, b, rel=1e-10):
    assert a.count == b.count
    for name in PARTS:
        expected = getattr(b, name)
        assert_allclose(getattr(a, name), expected, rtol=rel, atol=rel * np.abs(expected).max(), err_msg=name)


def test_moments_equal_numpy_on_centred_rows():
    x, y = rows(300, 7, 5, np.random.default_rng(0))
    m = Moments.of(x, y)
    joint = np.cov(np.hstack([x, y]), rowvar=False) * 299
    assert_allclose(m.sxx, joint[:7, :7], rtol=1e-10)
    assert_allclose(m.sxy, joint[:7, 7:], rtol=1e-10, atol=1e-9)
    assert_allclose(m.syy, joint[7:, 7:], rtol=1e-10)
    assert_allclose(m.mean_x, x.mean(axis=0))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=2, max_size=6), st.randoms(use_true_random=False))
def test_merged_chunks_of_any_size_in_any_order_equal_one_batch(sizes, random):
    x, y = rows(sum(sizes), 6, 4, np.random.default_rng(1))
    edges = np.cumsum(sizes)[:-1]
    parts = [Moments.of(a, b) for a, b in zip(np.split(x, edges), np.split(y, edges), strict=True)]
    random.shuffle(parts)
    same(reduce(Moments.merge, parts), Moments.of(x, y))


def test_batches_longer_than_one_block_equal_one_product():
    x, y = rows(9001, 5, 3, np.random.default_rng(2))
    same(Moments.of(x, y), Moments.of(x, y, pilot=(x[0], y[0])))
    assert_allclose(Moments.of(x, y).sxy, (x - x.mean(0)).T @ (y - y.mean(0)), rtol=1e-9)


def test_subtracting_a_fold_equals_never_having_seen_it():
    x, y = rows(500, 8, 6, np.random.default_rng(3))
    same(Moments.of(x, y).minus(Moments.of(x[:100], y[:100])), Moments.of(x[100:], y[100:]))


def worst_direction(x, y, directions, **how):
    """Largest 1 - cos between directions mapped by this fit and by a float64 one."""
    lam = relative_lambda(Moments.of(x, y), 1e-3)
    right = fit_ridge(Moments.of(x, y), SOURCE, TARGET, lam)
    here = fit_ridge(Moments.of(x, y, **how), SOURCE, TARGET, lam)
    return np.max(1 - cosines(directions @ here.weight, directions @ right.weight))


def test_float32_products_are_right_only_because_of_the_pilot_shift():
    rng = np.random.default_rng(4)
    p, q, n = 64, 80, 20_000
    x = rng.normal(size=(n, p)) @ rng.normal(size=(p, p)) * np.arange(1, p + 1) ** -0.5
    y = x @ rng.normal(size=(p, q)) + x.std() * rng.normal(size=(n, q)) * 4
    x, y = (x + 30 * x.std(axis=0)).astype(np.float32), (y + 30 * y.std(axis=0)).astype(np.float32)
    d = rng.normal(size=(100, p))
    pilot = (x[:512].mean(axis=0), y[:512].mean(axis=0))
    assert worst_direction(x, y, d, product=np.float32) < 1e-8
    assert worst_direction(x, y, d, product=np.float32, pilot=pilot) < 1e-8
    unshifted = (np.zeros(p), np.zeros(q))
    assert worst_direction(x, y, d, product=np.float32, pilot=unshifted) > 1e-4
    assert worst_direction(x, y, d, pilot=unshifted) < 1e-8


def test_moments_survive_the_disk(tmp_path):
    m = Moments.of(*rows(50, 4, 3, np.random.default_rng(5)))
    m.save(tmp_path / "m.safetensors")
    same(Moments.load(tmp_path / "m.safetensors"), m, rel=0)


def test_moments_cannot_be_changed_behind_their_back():
    m = Moments.of(*rows(50, 4, 3, np.random.default_rng(5)))
    with pytest.raises(ValueError, match="read-only"):
        m.sxx[0, 0] = 1


def test_moments_refuse_rows_that_do_not_pair():
    with pytest.raises(Refusal, match="pair one to one"):
        Moments.of(np.ones((3, 2)), np.ones((4, 2)))
    with pytest.raises(Refusal, match="at least one"):
        Moments.of(np.ones((0, 2)), np.ones((0, 2)))


def test_moments_refuse_rows_that_are_not_finite():
    with pytest.raises(Refusal, match="target rows: they hold NaN"):
        Moments.of(np.ones((2, 2)), np.array([[1.0], [np.nan]]))


def test_moments_refuse_to_combine_with_other_widths():
    a, b = Moments.of(np.eye(3), np.eye(3)), Moments.of(np.eye(4), np.eye(4))
    with pytest.raises(Refusal, match="do not combine"):
        a.merge(b)


def test_moments_refuse_to_subtract_everything():
    m = Moments.of(np.eye(3), np.eye(3))
    with pytest.raises(Refusal, match="nothing would be left"):
        m.minus(m)


def test_moments_refuse_a_file_that_holds_something_else(tmp_path):
    m = fit_ridge(Moments.of(*rows(50, 4, 3, np.random.default_rng(5))), SOURCE, TARGET, 1.0)
    m.save(tmp_path / "map.safetensors")
    with pytest.raises(Refusal, match="does not hold moments"):
        Moments.load(tmp_path / "map.safetensors")
