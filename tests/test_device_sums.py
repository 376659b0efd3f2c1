"""Reading, encoding and fitting in torch say what numpy says; torch's CPU stands for the device where there is none."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csr_array

from dragoman.core import Refusal
from dragoman.dictionaries import Encoder
from dragoman.dictionaries.encoder import Whitening
from dragoman.maps import Crossing, FiringSums
from dragoman.maps.algebra import HOST
from dragoman.maps.aligned import Aligned
from dragoman.maps.moments import FoldedMoments, Moments, MomentStream
from dragoman.maps.penalty import Calibration, choose_penalty, fit_map
from dragoman.models.algebra import DeviceAlgebra, algebra_of, in_double
from dragoman.models.aligned import read_aligned
from dragoman.models.behind import TURN, one_behind
from dragoman.models.encoding import DeviceEncoding, HostEncoding, encoded, to_host
from dragoman.models.fused import add_sums
from dragoman.models.harvest import Reader
from dragoman.models.paired import ReadingOptions, direct_statistics
from dragoman.models.sums import Weighted
from dragoman.store.spool import Spool
from planted_readers import FIRST, FLOAT32, TEXTS, PlantedPair, sae, same_everything
from planted_worlds import SOURCE, TARGET, at_source, sparse_world, sums_by_fold

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
D, M = 24, 60
KINDS: dict[str, dict[str, Any]] = {
    "relu": {"architecture": "relu"},
    "topk": {"architecture": "topk", "k": 5},
    "jumprelu": {"architecture": "jumprelu", "threshold": np.linspace(0, 3, M).astype(np.float32)},
    "groupmax": {"architecture": "groupmax", "k": 6},
    "never": {"architecture": "jumprelu", "threshold": np.full(M, np.inf, np.float32)},
    "bias kept": {"architecture": "relu", "apply_b_dec_to_input": False},
    "rescaled": {"architecture": "topk", "k": 5, "rescale_by_decoder_norm": True},
    "constant norm": {"architecture": "relu", "normalize": "constant_norm_rescale"},
    "layer norm": {"architecture": "topk", "k": 5, "normalize": "layer_norm"},
    "factor": {"architecture": "relu", "normalize": "factor", "input_factor": 0.37},
    "whitening": {"architecture": "relu", "normalize": "whitening"},
}


def encoder_of(kind: str) -> Encoder:
    rng = np.random.default_rng(3)
    w_enc, w_dec = rng.normal(size=(D, M)), rng.normal(size=(M, D)) * rng.uniform(0.3, 3, size=(M, 1))
    told = dict(KINDS[kind])
    if told.get("normalize") == "whitening":
        matrix = rng.normal(size=(D, D)) / 4 + np.eye(D)
        told["whitening"] = Whitening(mean=rng.normal(size=D), matrix=matrix, inverse=np.linalg.inv(matrix))
    biases = {"b_enc": rng.normal(size=M) / 3, "b_dec": rng.normal(size=D)}
    arrays = {name: a.astype(np.float32) for name, a in ({"W_enc": w_enc, "W_dec": w_dec} | biases).items()}
    return Encoder(**arrays, **told)


@pytest.mark.parametrize("kind", KINDS)
def test_activations_are_those_of_numpy(kind: str) -> None:
    encoder = encoder_of(kind)
    x = np.random.default_rng(4).normal(size=(300, D)).astype(np.float32) * 2
    x[7] = 0
    want = encoder.encode(x)
    assert (want > 0).any() == (kind != "never"), "there is something to compare"
    found = encoded(encoder, x, device=DEVICE)
    assert_allclose(found.toarray(), want, rtol=1e-4, atol=1e-4)
    assert_array_equal(encoded(encoder, x).toarray(), want)
    some = np.array([5, 0, 41])
    assert_allclose(DeviceEncoding(encoder, DEVICE).sparse(x, some).toarray(), want[:, some], rtol=1e-4, atol=1e-4)


def test_slices_of_rows_and_none_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = encoder_of("topk")
    x = np.random.default_rng(5).normal(size=(50, D)).astype(np.float32)
    whole = encoded(encoder, x, device=DEVICE).toarray()
    monkeypatch.setattr("dragoman.models.encoding._DEVICE_CELLS", M * 7)
    monkeypatch.setattr("dragoman.models.encoding._CELLS", M * 7)
    assert_allclose(encoded(encoder, x, device=DEVICE).toarray(), whole, rtol=1e-5, atol=1e-6)
    assert_allclose(HostEncoding(encoder).sparse(x).toarray(), whole, rtol=1e-4, atol=1e-4)
    assert DeviceEncoding(encoder, DEVICE).sparse(x[:0]).shape == (0, M)
    assert DeviceEncoding(encoder, DEVICE).sparse(x, np.empty(0, np.int64)).shape == (len(x), 0)


def test_rows_of_another_width_are_refused() -> None:
    with pytest.raises(Refusal, match="the dictionary reads width 24"):
        encoded(encoder_of("relu"), np.zeros((3, 8), np.float32), device=DEVICE)


# --- reading ------------------------------------------------------------------------------------------------------


def test_what_is_read_is_summed_alike(pair: PlantedPair, found: Aligned) -> None:
    again = read_aligned(pair.source, pair.target, pair.texts, pair.encoder, options=FIRST, device=DEVICE)
    same_everything(again, found, 1e-10, FLOAT32)
    assert again.words and found.words and again.words.ids == found.words.ids
    assert again.words.base_forms == found.words.base_forms
    assert again.tokens and found.tokens
    assert_array_equal(again.tokens.which, found.tokens.which)
    assert_allclose(again.tokens.strength, found.tokens.strength, rtol=1e-5)


def test_sums_that_differ_are_told_apart(pair: PlantedPair, found: Aligned) -> None:
    """The comparison above fails where a dictionary is another one."""
    other = sae(48, m=40)
    again = read_aligned(pair.source, pair.target, pair.texts, other, options=FIRST, device=DEVICE)
    with pytest.raises(AssertionError):
        same_everything(again, found, 1e-10, FLOAT32)


def test_rows_of_models_stay_in_torch(readers: tuple[Reader, Reader]) -> None:
    both = [replace(one, model=deepcopy(one.model).to(DEVICE)) for one in readers]
    encoder, options = sae(readers[0].width), ReadingOptions(first=1, batch_size=8)
    host = read_aligned(*both, TEXTS, encoder, options=options)
    there = read_aligned(*both, TEXTS, encoder, options=options, device=DEVICE)
    # On CUDA products and norms are other kernels', so that rows are alike to float32's rounding, sums as rows are.
    same_everything(there, host, *((1e-10, 1e-5) if DEVICE == "cpu" else (1e-5, 1e-4)))
    rows = both[0].rows(TEXTS[:3], np.inf, stay=True)
    assert isinstance(rows.x, torch.Tensor) and rows.x.device.type == DEVICE
    assert_array_equal(rows.x.cpu().numpy(), both[0].rows(TEXTS[:3], np.inf).x)


def test_without_an_encoder_moments_alone_are_summed(pair: PlantedPair) -> None:
    host = read_aligned(pair.source, pair.target, pair.texts, options=FIRST)
    there = read_aligned(pair.source, pair.target, pair.texts, options=FIRST, device=DEVICE)
    assert there.sums is None and there.firings is None
    for mine, theirs in zip(there.folded.folds, host.folded.folds, strict=True):
        assert_allclose(mine.sxy, theirs.sxy, rtol=1e-9, atol=1e-9 * np.abs(theirs.sxy).max())


def test_all_features_get_direct_rows_besides_the_watched_ones(
    pair: PlantedPair, found: Aligned, tmp_path: Path
) -> None:
    options = ReadingOptions(first=1, watched=("3", "17"))
    how: dict[str, Any] = {"options": options, "device": DEVICE}
    again = read_aligned(pair.source, pair.target, pair.texts, pair.encoder, every=True, **how)
    assert again.sums and again.sums.ids == ("3", "17") and again.table and found.sums
    want = found.sums.table()
    assert again.table.ids == want.ids
    assert_allclose(again.table.beta, want.beta, rtol=1e-4, atol=1e-5)
    assert_allclose(again.table.n_eff, want.n_eff, rtol=1e-5)
    few = read_aligned(pair.source, pair.target, pair.texts, pair.encoder, **how)
    assert few.table is None and few.direct and few.direct.ids == ("3", "17")
    again.save(tmp_path / "kept")
    kept = Aligned.load(tmp_path / "kept")
    assert kept.direct and kept.direct.ids == want.ids
    assert_allclose(kept.direct.beta, want.beta, rtol=1e-2, atol=1e-3)
    rows = at_source(pair.world.source)
    made = Crossing.from_tokens(kept, rows)
    assert made.directions(rows.pick(["30"]), "direct").unit @ want.rows(["30"]).unit[0] == pytest.approx(1, abs=1e-4)


def test_silent_features_have_no_direct_row() -> None:
    sums = FiringSums(TARGET, "abc", 4)
    there, dense = Weighted(sums, DEVICE), torch.tensor([[1.0, 0.0, 2.0], [3.0, 0.0, 0.0]], device=DEVICE)
    y = torch.tensor([[1.0, 2, 3, 4], [5, 6, 7, 9]], dtype=torch.float64)
    there.add(to_host(dense), y.to(DEVICE), np.array([1, 2]))
    table = there.table()
    assert_allclose(table.beta, [(y[0] + 3 * y[1]) / 4 - y.mean(0), np.zeros(4), y[0] - y.mean(0)], atol=1e-6)
    there.finish()
    assert_allclose(sums.table().beta, table.beta, atol=1e-6)


def test_sums_over_firings_are_scipys_also_of_a_batch_in_which_nothing_fires() -> None:
    rng, total = np.random.default_rng(7), torch.zeros((30, 12), dtype=torch.float64, device=DEVICE)
    wanted = np.zeros((30, 12))
    for share in (0.05, 0.0, 0.4):
        fired = csr_array(((rng.random((40, 30)) < share) * rng.lognormal(0, 0.5, (40, 30))).astype(np.float32))
        y = 1e4 + rng.normal(size=(40, 12))
        add_sums(total, fired, torch.tensor(y, device=DEVICE))
        wanted += fired.astype(np.float64).T @ y
    assert_allclose(total.cpu().numpy(), wanted, rtol=1e-12)


@pytest.mark.parametrize(("shape", "documents"), [((2, 3), 1), ((2, 7), 2), ((2, 3), 3)])
def test_activations_that_fit_nothing_are_refused_and_nothing_is_counted(
    shape: tuple[int, int], documents: int
) -> None:
    sums = FiringSums(TARGET, "abc", 4)
    with pytest.raises(Refusal, match="3 features are watched; pass f \\(n, M\\) and documents"):
        sums.add_activations(csr_array(np.ones(shape)), np.arange(documents))
    assert sums.count == 0 and not len(sums.documents) and not sums.weight_sum.any()


@pytest.mark.parametrize("device", [None, DEVICE])
def test_watching_no_feature_is_refused(pair: PlantedPair, device: str | None) -> None:
    with pytest.raises(Refusal, match="watching no feature"):
        read_aligned(
            pair.source, pair.target, pair.texts, pair.encoder, options=ReadingOptions(watched=()), device=device
        )


def test_direct_statistics_are_summed_alike(readers: tuple[Reader, Reader]) -> None:
    encoder = sae(readers[0].width)
    host, around, left = direct_statistics(*readers, encoder, TEXTS)
    there, background, left_out = direct_statistics(*readers, encoder, TEXTS, device=DEVICE)
    assert left == left_out and there.count == host.count
    assert_allclose(there.beta(), host.beta(), rtol=1e-4, atol=1e-5)
    assert_allclose(there.n_eff, host.n_eff, rtol=1e-4)
    assert_allclose(background.mean, around.mean, rtol=1e-5, atol=1e-7)


def test_a_reading_begun_on_a_device_goes_on_on_the_host(pair: PlantedPair, tmp_path: Path, found: Aligned) -> None:
    def stop(done: int, _of: int) -> None:
        if done >= 96:
            raise KeyboardInterrupt

    how: dict[str, Any] = {"options": FIRST}
    with pytest.raises(KeyboardInterrupt):
        read_aligned(
            pair.source, pair.target, pair.texts, pair.encoder, progress=stop, device=DEVICE,
            spool=Spool(tmp_path / "spool"), **how,
        )  # fmt: skip
    spool = Spool(tmp_path / "spool")
    assert spool.there == 3
    again = read_aligned(pair.source, pair.target, pair.texts, pair.encoder, spool=spool, **how)
    same_everything(again, found, 0, 0)


def test_what_goes_wrong_beside_ends_the_reading(pair: PlantedPair, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise Refusal("the disk", "it is full", "make room")

    monkeypatch.setattr("dragoman.maps.words.WordTally.add", full)
    with pytest.raises(Refusal, match="the disk: it is full"):
        read_aligned(pair.source, pair.target, pair.texts, pair.encoder, options=FIRST, device=DEVICE)


@pytest.mark.parametrize("beside", [False, True])
def test_pieces_of_work_are_done_in_their_order(beside: bool) -> None:
    done: list[int] = []
    turn = sys.getswitchinterval()
    with one_behind(DEVICE if beside else None) as later:
        # Whoever launches kernels would wait for what counts, as long as Python lets a thread go on.
        assert sys.getswitchinterval() == pytest.approx(TURN if beside else turn)
        for k in range(50):
            later(lambda k=k: done.append(k))
    assert done == list(range(50)) and sys.getswitchinterval() == turn


def test_the_last_piece_is_heard_too() -> None:
    def wrong() -> None:
        raise ValueError("the last one")

    turn = sys.getswitchinterval()
    with pytest.raises(ValueError, match="the last one"), one_behind(DEVICE) as later:
        later(wrong)
    assert sys.getswitchinterval() == turn


# --- fitting ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made() -> Iterator[tuple[FoldedMoments, Calibration, Any]]:
    world = sparse_world(n=6000, p=40, q=52, m=120, rate=0.05)
    stream = MomentStream(40, 52)
    stream.add(world.x, world.y, world.documents)
    direct = sums_by_fold(TARGET, 120, 52, world)
    yield stream.finish(), Calibration(directions=at_source(world.source), direct=direct), world


@pytest.mark.parametrize("scaled", [False, True])
def test_a_left_out_fold_is_judged_alike(made: Any, scaled: bool) -> None:
    moments, _, world = made
    scale = np.sqrt(moments.source_variance()) if scaled else None
    grid, rows = np.logspace(-6, 3, 10), np.random.default_rng(0).normal(size=(7, 40))
    there = DeviceAlgebra(DEVICE)
    for k in (0, 3):
        mine, theirs = there.left_out(moments, k, scale), HOST.left_out(moments, k, scale)
        assert mine.spread == pytest.approx(theirs.spread, rel=1e-10)
        assert_allclose(mine.errors(grid), theirs.errors(grid), rtol=1e-8)
        for lam_rel in (1e-6, 0.1, 100.0):
            images = theirs.images(rows, lam_rel)
            assert_allclose(mine.images(rows, lam_rel), images, rtol=1e-6, atol=1e-9 * np.abs(images).max())
        reads = theirs.read_outs(images)
        assert_allclose(mine.read_outs(images), reads, rtol=1e-7, atol=1e-9 * np.abs(reads).max())


def test_the_same_penalty_is_chosen_and_the_same_map_fitted(made: Any) -> None:
    moments, calibration, _ = made
    mine, theirs = (choose_penalty(moments, calibration, algebra=a) for a in (DeviceAlgebra(DEVICE), HOST))
    assert (mine.lam_rel, mine.rule, mine.edge) == (theirs.lam_rel, theirs.rule, theirs.edge)
    assert mine.cofiring and theirs.cofiring
    assert_allclose(mine.r2, theirs.r2, atol=1e-9)
    assert_allclose(mine.cofiring, theirs.cofiring, atol=1e-9)
    here = fit_map(moments, SOURCE, TARGET, calibration=calibration)
    there = fit_map(moments, SOURCE, TARGET, calibration=calibration, algebra=DeviceAlgebra(DEVICE))
    assert_allclose(there.weight, here.weight, rtol=1e-8, atol=1e-11)


def test_ridge_at_a_penalty_is_scikit_learns(made: Any) -> None:
    from sklearn.linear_model import Ridge

    world = made[2]
    moments, lam = Moments.of(world.x, world.y), 3.0
    found = DeviceAlgebra(DEVICE).solve_shifted(moments.sxx, lam, moments.sxy)
    assert_allclose(found, Ridge(alpha=lam).fit(world.x, world.y).coef_.T, rtol=1e-7, atol=1e-10)


def test_moments_turned_round_are_those_of_the_rows_turned_round(made: Any) -> None:
    moments, _, world = made
    there = DeviceAlgebra(DEVICE)
    turned = there.reversed(moments)
    want, mine = Moments.of(world.y, world.x), there.total(turned)
    for name in ("mean_x", "mean_y", "sxx", "sxy", "syy"):
        of_fold, of_rows = getattr(mine, name), getattr(want, name)
        assert_allclose(of_fold, of_rows, rtol=1e-9, atol=1e-9 * np.abs(of_rows).max())
    grid = np.array([0.1])
    ours, theirs = (algebra.left_out(turned, 1, None).errors(grid) for algebra in (there, HOST))
    assert_allclose(ours, theirs, rtol=1e-8)
    assert there.total(moments).count == mine.count, "the way there is known still"


def test_a_crossing_is_the_same_crossing(pair: PlantedPair, found: Aligned) -> None:
    rows = at_source(pair.world.source)
    here = Crossing.from_tokens(found, rows)
    there = Crossing.from_tokens(found, rows, algebra=DeviceAlgebra(DEVICE))
    assert_allclose(there.directions(rows).unit, here.directions(rows).unit, rtol=1e-5, atol=1e-6)
    assert there.map and here.map and there.map.report["usable"] == here.map.report["usable"]
    for mine, theirs in zip(there.cards(rows), here.cards(rows), strict=True):
        assert mine.model_dump().keys() == theirs.model_dump().keys()
        assert mine.status == theirs.status


def test_a_penalty_that_is_none_is_refused(made: Any) -> None:
    with pytest.raises(Refusal, match="the penalty must be a positive number"):
        DeviceAlgebra(DEVICE).paths(made[0].total).images(np.ones((1, 40)), 0.0)


def test_cards_that_compute_in_float64_are_used_and_no_others() -> None:
    assert in_double("cuda:1") == "cuda:1" and in_double("cpu") is None and in_double("mps") is None
    assert algebra_of("cpu") is HOST and isinstance(algebra_of("cuda"), DeviceAlgebra)
