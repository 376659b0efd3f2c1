import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.sparse import csr_array
from sklearn.linear_model import Ridge

from dragoman.core import Refusal
from dragoman.maps import FiringSums, make_cards
from planted_worlds import TARGET, cosines, sparse_world


@pytest.fixture(scope="module")
def world():
    """Frequencies over two decades, and every odd feature fires mostly where the even one before it does."""
    made = sparse_world(n=8000, m=96, rates=np.geomspace(0.15, 0.005, 96))
    rng = np.random.default_rng(1)
    follow = rng.random((8000, 48)) < 0.8
    f = made.f.copy()
    f[:, 1::2] = np.where(follow, f[:, ::2] * rng.lognormal(0, 0.3, size=(8000, 48)), f[:, 1::2])
    made.y = made.y + (f - made.f) @ made.target
    made.f = f
    return made


def watch(world, rows=slice(None), site=TARGET):
    return FiringSums(site, range(96), 96, pairs=True).add(world.f[rows], world.y[rows], world.documents[rows])


@pytest.mark.parametrize("lam_rel", [0.0, 1e-2, 1.0])
def test_dictionary_ridge_equals_scikit_learn(world, lam_rel):
    lam = lam_rel * np.sum(np.var(world.f, axis=0)) * len(world.f) / 96
    oracle = Ridge(alpha=lam).fit(world.f, world.y).coef_.T
    assert_allclose(watch(world).partial_table(lam_rel=lam_rel).beta, oracle, atol=2e-6)


def test_the_partial_effect_is_right_where_features_fire_together_and_the_total_effect_is_not(world):
    both = watch(world)
    odd = np.arange(1, 96, 2)
    partial = cosines(both.partial_table().beta, world.target)
    total = cosines(both.beta(), world.target)
    assert partial.min() > 0.98
    assert total[odd].mean() < 0.85


def test_rows_added_in_pieces_equal_one_pass_also_sparse(world):
    merged, whole = FiringSums(TARGET, range(96), 96, pairs=True), watch(world)
    for start in (4000, 0, 6000, 2000):
        rows = slice(start, start + 2000)
        merged.add(world.f[rows], world.y[rows], world.documents[rows])
    assert_allclose(merged.partial_table().beta, whole.partial_table().beta, atol=1e-6)
    sparse = FiringSums(TARGET, range(96), 96, pairs=True)
    sparse = sparse.add(csr_array(world.f), world.y, world.documents)
    assert_allclose(sparse.partial_table().beta, whole.partial_table().beta, atol=1e-6)


def test_silent_features_have_no_direction_and_rare_ones_are_refused(world):
    silent = world.f.copy()
    silent[:, 10] = 0
    silent[40:, 11] = 0
    silent[:40, 11] = 1
    both = FiringSums(TARGET, range(96), 96, pairs=True).add(silent, world.y, world.documents)
    table = both.partial_table()
    assert not table.beta[10].any() and np.isfinite(table.beta).all()
    with pytest.raises(Refusal, match="feature 10: it fires too rarely"):
        table.rows([3, 10])
    with pytest.raises(Refusal, match="feature 11: it fires too rarely: in 2.0 effective documents"):
        table.rows([11])
    assert table.rows([3, 5]).site == TARGET


def test_cards_can_be_made_with_partial_effects(world):
    from dragoman.maps.linear import fit_ridge
    from dragoman.maps.moments import Moments
    from planted_worlds import SOURCE, at_source

    m = Moments.of(world.x, world.y)
    cards = make_cards(at_source(world.source), fit_ridge(m, SOURCE, TARGET, 1.0), m, watch(world).partial_table())
    assert all(card.n_eff > 0 for card in cards)


def test_dictionary_statistics_survive_the_disk(tmp_path, world):
    both = watch(world)
    both.save(tmp_path / "sums.safetensors")
    back = FiringSums.load(tmp_path / "sums.safetensors")
    assert np.array_equal(back.partial_table().beta, both.partial_table().beta)
    assert FiringSums(TARGET, range(96), 96).partial_table() is None


def test_dictionary_ridge_refuses_what_it_cannot_tell_apart_or_does_not_know(world):
    twins = world.f.copy()
    twins[:, 1] = twins[:, 0]
    both = FiringSums(TARGET, range(96), 96, pairs=True).add(twins, world.y, world.documents)
    with pytest.raises(Refusal, match="always fire together"):
        both.partial_table(lam_rel=0.0)
    assert np.isfinite(both.partial_table().beta).all()
    with pytest.raises(Refusal, match="the penalty is 0 or more"):
        both.partial_table(lam_rel=-1.0)
