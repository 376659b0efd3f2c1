import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.sparse import csr_array

from dragoman.core import Directions, Refusal, Site
from dragoman.maps import FiringSums
from dragoman.maps.crossing import neighbouring
from dragoman.maps.direct import blend
from planted_worlds import ELSEWHERE, TARGET, at_source, cosines, sparse_world, unit


@pytest.fixture(scope="module")
def world():
    return sparse_world(n=6000, m=96)


def watch(world, rows=slice(None), site=TARGET):
    empty = FiringSums(site, range(world.f.shape[1]), world.y.shape[1])
    return empty.add(world.f[rows], world.y[rows], world.documents[rows])


def test_direct_route_recovers_planted_target_directions(world):
    found = watch(world).table().rows(range(96))
    assert cosines(found.unit, world.target).mean() > 0.93
    nearest = np.argmax(found.unit @ world.target.T, axis=1)
    assert np.array_equal(nearest, np.arange(96))
    assert found.site == TARGET


@pytest.mark.parametrize(("n", "m"), [(1000, 96), (6000, 96), (6000, 400)])
def test_direct_route_is_as_right_as_its_effective_positives_allow(n, m):
    world = sparse_world(n=n, m=m)
    direct = watch(world)
    rowwise = direct.weight_sum**2 / np.sum(world.f**2, axis=0)  # the planted rows are independent
    strength = np.linalg.norm(world.target, axis=1) * (1 - world.f.mean(axis=0))
    noise = np.mean(np.sum((world.y - direct.mean_y) ** 2, axis=1))
    predicted = 1 / np.sqrt(1 + noise / (rowwise * np.mean(strength) ** 2))
    assert cosines(direct.beta(), world.target).mean() == pytest.approx(predicted.mean(), abs=0.03)


def test_beta_is_the_activation_weighted_mean_about_the_overall_mean(world):
    k, f = 5, world.f[:, 5]
    loop = sum(a * row for a, row in zip(f, world.y, strict=True)) / f.sum() - world.y.mean(axis=0)
    assert_allclose(watch(world).beta()[k], loop, atol=1e-10)


def test_rows_added_in_pieces_equal_one_pass_in_any_order(world):
    merged, whole = FiringSums(TARGET, range(96), 96), watch(world)
    for start in (4000, 0, 2000):
        rows = slice(start, start + 2000)
        merged.add(world.f[rows], world.y[rows], world.documents[rows])
    assert_allclose(merged.beta(), whole.beta(), rtol=1e-9, atol=1e-12)
    assert_allclose(merged.n_eff, whole.n_eff, rtol=1e-12)
    assert merged.count == whole.count


def test_sparse_and_dense_activations_give_the_same(world):
    sparse = FiringSums(TARGET, range(96), 96).add(csr_array(world.f), world.y, world.documents)
    assert np.array_equal(sparse.beta(), watch(world).beta())


def test_effective_positives_are_counted_over_documents():
    f = np.array([[1.0, 1.0, 0.0]] * 10)
    f[5:, 1] = 0
    y = np.random.default_rng(0).normal(size=(10, 4))
    one_document = FiringSums(TARGET, "abc", 4).add(f, y, np.zeros(10, dtype=int))
    ten_documents = FiringSums(TARGET, "abc", 4).add(f, y, np.arange(10))
    assert_allclose(one_document.n_eff, [1, 1, 0])
    assert_allclose(ten_documents.n_eff, [10, 5, 0])
    uneven = FiringSums(TARGET, "abc", 4).add(f, y, np.array([0] * 9 + [1]))
    assert_allclose(uneven.n_eff, [100 / 82, 1, 0])
    assert_allclose(one_document.beta()[2], 0)


def test_direct_route_refuses_rare_features(world):
    rare = sparse_world(n=6000, m=96, rates=np.r_[np.full(95, 0.03), 0.0005])
    with pytest.raises(Refusal, match=r"feature 95: it fires too rarely: in \d+\.\d effective documents of the 20"):
        watch(rare).table().rows([3, 95])
    assert watch(rare).table().frequent(at_source(rare.source)).ids == tuple(str(i) for i in range(95))


def test_direct_route_refuses_unknown_features(world):
    with pytest.raises(Refusal, match="feature 400: it was not among the 96 watched"):
        watch(world).table().rows([400])


def test_direct_route_refuses_a_document_that_comes_in_two_pieces(world):
    whole = watch(world, slice(0, 1010))
    with pytest.raises(Refusal, match="document 50: its rows came before, and it would count twice"):
        whole.add(world.f[1010:], world.y[1010:], world.documents[1010:])


def test_direct_route_refuses_activations_that_cannot_be(world):
    empty = FiringSums(TARGET, "ab", 3)
    y, documents = np.ones((4, 3)), np.arange(4)
    with pytest.raises(Refusal, match="after its nonlinearity"):
        empty.add(np.full((4, 2), -1.0), y, documents)
    with pytest.raises(Refusal, match="after its nonlinearity"):
        empty.add(np.ones((4, 2)), y * np.nan, documents)
    with pytest.raises(Refusal, match="2 features and width 3 are watched"):
        empty.add(np.ones((4, 3)), y, documents)
    with pytest.raises(Refusal, match="they are integers"):
        empty.add(np.ones((4, 2)), y, np.array(list("abcd")))


def test_direct_statistics_survive_the_disk(tmp_path, world):
    whole = watch(world)
    whole.save(tmp_path / "direct.safetensors")
    back = FiringSums.load(tmp_path / "direct.safetensors")
    assert np.array_equal(back.beta(), whole.beta())
    assert np.array_equal(back.n_eff, whole.n_eff)
    assert (back.site, back.ids, back.count) == (TARGET, whole.ids, whole.count)
    with pytest.raises(Refusal, match="document 0: its rows came before"):
        back.add(world.f[:1], world.y[:1], world.documents[:1])


def test_blend_is_the_unit_mean_of_unit_rows():
    rng = np.random.default_rng(0)
    a, b = (Directions.of(TARGET, rng.normal(size=(3, 5)) * s, "xyz") for s in (1, 50))
    assert_allclose(blend(a, b).unit, unit(a.unit + b.unit), atol=1e-6)


def test_blend_refuses_other_sites_and_features_and_rows_that_cancel():
    a = Directions.of(TARGET, np.eye(3), "xyz")
    with pytest.raises(Refusal, match="third-model"):
        blend(a, Directions.of(ELSEWHERE, np.eye(3), "xyz"))
    with pytest.raises(Refusal, match="different features"):
        blend(a, Directions.of(TARGET, np.eye(3), "abc"))
    with pytest.raises(Refusal, match="length is zero"):
        blend(a, Directions.of(TARGET, -np.eye(3), "xyz"))


# --- inside one model --------------------------------------------------------------------------------------------

HERE, NEXT = Site("gemma", 40, "main"), Site("gemma", 41)


def test_a_neighbouring_block_reads_a_direction_as_it_is():
    d = Directions.of(HERE, np.random.default_rng(1).normal(size=(3, 5)), "xyz", labels=["a", "b", "c"], origin="file")
    there = neighbouring(d, NEXT)
    assert there.site == NEXT
    assert np.array_equal(there.unit, d.unit)
    assert (there.ids, there.labels) == (d.ids, d.labels)
    assert "as it is at block 41" in there.origin
    assert neighbouring(d, Site("gemma", 40)).origin == "file"


def test_as_is_refuses_other_models_revisions_and_distant_blocks():
    d = Directions.of(HERE, np.eye(3), "xyz")
    for other in (Site("qwen", 40), Site("gemma", 40, "other")):
        with pytest.raises(Refusal, match="they are streams of different models"):
            neighbouring(d, other)
    with pytest.raises(Refusal, match="they are 3 blocks apart, and 2 count as neighbours"):
        neighbouring(d, Site("gemma", 43))
