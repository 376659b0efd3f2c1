import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from dragoman.core import Refusal
from dragoman.maps import Moments
from dragoman.maps.direct import add_by_fold
from dragoman.maps.linear import fit_ridge, relative_lambda
from dragoman.maps.moments import FoldedMoments, MomentStream, fold_of
from planted_worlds import SOURCE, TARGET, cosines, rows, shifted, sparse_world, sums_by_fold

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
def test_joined_chunks_of_any_size_in_any_order_equal_one_batch(sizes, random):
    x, y = rows(sum(sizes), 6, 4, np.random.default_rng(1))
    edges = np.cumsum(sizes)[:-1]
    parts = [Moments.of(a, b) for a, b in zip(np.split(x, edges), np.split(y, edges), strict=True)]
    random.shuffle(parts)
    same(Moments.together(parts), Moments.of(x, y))


def test_batches_longer_than_one_block_equal_one_product():
    x, y = rows(9001, 5, 3, np.random.default_rng(2))
    same(Moments.of(x, y), shifted(x, y, (x[0], y[0])))
    assert_allclose(Moments.of(x, y).sxy, (x - x.mean(0)).T @ (y - y.mean(0)), rtol=1e-9)


def worst_direction(x, y, directions, **how):
    """Largest 1 - cos between directions mapped by this fit and by a float64 one."""
    lam = relative_lambda(Moments.of(x, y), 1e-3)
    right = fit_ridge(Moments.of(x, y), SOURCE, TARGET, lam)
    here = fit_ridge(shifted(x, y, **how), SOURCE, TARGET, lam)
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


def test_moments_refuse_a_file_that_holds_something_else(tmp_path):
    m = fit_ridge(Moments.of(*rows(50, 4, 3, np.random.default_rng(5))), SOURCE, TARGET, 1.0)
    m.save(tmp_path / "map.safetensors")
    with pytest.raises(Refusal, match="does not hold moments"):
        Moments.load(tmp_path / "map.safetensors")


def test_parts_joined_at_once_equal_one_batch():
    x, y = rows(90, 6, 4, np.random.default_rng(6))
    parts = [Moments.of(a, b) for a, b in zip(np.split(x, [10, 50]), np.split(y, [10, 50]), strict=True)]
    same(Moments.together(parts), Moments.of(x, y))
    with pytest.raises(Refusal, match="there are no parts"):
        Moments.together([])
    with pytest.raises(Refusal, match="moments of several widths"):
        Moments.together([Moments.of(np.eye(3), np.eye(3)), Moments.of(np.eye(4), np.eye(4))])


def test_reversed_and_rescaled_moments_equal_those_of_such_rows():
    x, y = rows(90, 6, 4, np.random.default_rng(7))
    m, scale = Moments.of(x, y), np.arange(1.0, 7.0)
    same(m.reversed(), Moments.of(y, x))
    same(m.rescaled(scale), Moments.of(x / scale, y))


# --- streams and folds -------------------------------------------------------------------------------------------


def streamed(x, y, documents, size=333, **how):
    stream = MomentStream(x.shape[1], y.shape[1], **how)
    for start in range(0, len(x), size):
        piece = slice(start, start + size)
        stream.add(x[piece], y[piece], documents[piece])
    return stream.finish()


def test_a_document_lies_whole_in_one_fold_which_its_place_in_the_corpus_does_not_tell():
    ids = np.arange(5000)
    folds = fold_of(ids)
    assert np.array_equal(folds, np.concatenate([fold_of(part) for part in np.split(ids, 5)]))
    assert np.bincount(folds).min() > 900
    for period in (2, 5, 20):  # a corpus may deal its topics in turn
        for topic in range(period):
            assert np.bincount(folds[ids % period == topic], minlength=5).min() > 5000 / period / 5 * 0.5


def test_a_stream_puts_each_documents_rows_into_its_fold():
    rng = np.random.default_rng(8)
    x, y = rows(2000, 6, 4, rng)
    documents = rng.integers(0, 150, 2000)
    folded = streamed(x, y, documents, folds=3)
    for k, moments in enumerate(folded.folds):
        mine = fold_of(documents, 3) == k
        same(moments, Moments.of(x[mine], y[mine]))
    same(folded.total, Moments.of(x, y))
    assert np.array_equal(folded.documents, np.unique(documents))
    assert folded.rows_per_document == pytest.approx(2000 / len(np.unique(documents)))
    assert folded.count == 2000
    assert_allclose(folded.source_variance(), x.var(axis=0), rtol=1e-10)


def bytes_of(m):
    return sum(array.nbytes for array in (m.mean_x, m.mean_y, m.sxx, m.sxy, m.syy))


def test_sums_do_not_grow_with_the_number_of_pairs():
    p, q, held, peaks = 48, 64, [], []
    rng = np.random.default_rng(9)
    x, y = rng.normal(size=(500, p)).astype(np.float32), rng.normal(size=(500, q)).astype(np.float32)
    for batches in (100, 400):
        tracemalloc.start()
        stream = MomentStream(p, q)
        for turn in range(batches):
            stream.add(x, y, 10 * turn + np.arange(500) // 50)
        sums = [getattr(one, name) for one in stream._sums if one for name in ("sum_x", "sum_y", "sxx", "sxy", "syy")]
        waiting = [side for rows in stream._waiting for pair in rows for side in pair]
        held.append(sum(array.nbytes for array in (*sums, *waiting)))
        folded = stream.finish()
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    formula = 8 * (p * p + p * q + q * q + p + q)
    assert [bytes_of(m) for m in folded.folds] == [formula] * 5
    assert max(held) < 5 * (formula + 2 * 1024 * 4 * (p + q))
    assert peaks[1] < 1.05 * peaks[0]


def test_a_stream_needs_no_second_copy_of_its_sums_to_finish():
    stream = MomentStream(300, 400)
    rng = np.random.default_rng(10)
    stream.add(rng.normal(size=(600, 300)), rng.normal(size=(600, 400)), np.arange(600))
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    folded = stream.finish()
    peak = tracemalloc.get_traced_memory()[1] - before
    tracemalloc.stop()
    one = bytes_of(folded.folds[0])
    assert peak < 7 * one  # five sets of sums, a product and a band; a second copy would make ten


def test_folded_moments_survive_the_disk(tmp_path):
    x, y = rows(800, 6, 4, np.random.default_rng(11))
    documents = np.arange(800) // 4
    whole = streamed(x, y, documents)
    whole.save(tmp_path / "moments")
    back = FoldedMoments.load(tmp_path / "moments")
    for a, b in zip(back.folds, whole.folds, strict=True):
        same(a, b, rel=0)
    assert np.array_equal(back.documents, whole.documents)
    with pytest.raises(Refusal, match="does not hold folded moments"):
        FoldedMoments.load(tmp_path)


def test_a_stream_refuses_rows_it_was_not_opened_for():
    stream, x = MomentStream(3, 2), np.ones((4, 3))
    with pytest.raises(Refusal, match="the stream takes widths 3 and 2 and one document a row"):
        stream.add(x, x, np.arange(4))
    with pytest.raises(Refusal, match="one document a row"):
        stream.add(x, x[:, :2], np.arange(3))
    with pytest.raises(Refusal, match="they are integers"):
        stream.add(x, x[:, :2], np.ones(4))
    with pytest.raises(Refusal, match="a fold without documents leaves nothing to judge on"):
        stream.finish()


def test_a_finished_stream_is_closed():
    stream, x = MomentStream(3, 2), np.eye(3)
    stream.add(np.tile(x, (20, 1)), np.tile(x[:, :2], (20, 1)), np.arange(60))
    stream.finish()
    with pytest.raises(Refusal, match="the stream was finished"):
        stream.add(x, x[:, :2], np.arange(3))
    with pytest.raises(Refusal, match="it was finished before"):
        stream.finish()


def test_folds_refuse_to_be_one():
    m = Moments.of(np.eye(3), np.eye(3))
    with pytest.raises(Refusal, match="use at least two"):
        FoldedMoments(folds=(m,), documents=np.arange(1))


def test_the_direct_route_by_folds_sees_each_document_in_its_own_fold():
    world = sparse_world(n=3000, m=96)
    folds = sums_by_fold(TARGET, 96, 96)
    for start in range(0, 3000, 1000):
        piece = slice(start, start + 1000)
        add_by_fold(folds, world.f[piece], world.y[piece], world.documents[piece])
    mine = fold_of(world.documents) == 2
    assert_allclose(folds[2].weight_sum, world.f[mine].sum(axis=0))
    assert_allclose(sum(fold.weighted_sum for fold in folds), world.f.T @ world.y, rtol=1e-9)
