import io
import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from dragoman import core
from dragoman.core import Refusal, Site, frozen, row_lengths, unit_rows
from dragoman.dictionaries import Encoder, random_directions
from reading import read_directions, read_encoder

SITE = Site("tiny-smollm2", 20)
CONFIG = {
    "architecture": "topk",
    "k": 3,
    "d_in": 8,
    "d_sae": 20,
    "apply_b_dec_to_input": True,
    "metadata": {"model_name": "tiny-smollm2", "hook_name": "blocks.20.hook_resid_post"},
}


def weights(d_sae: int = 20, d_in: int = 8) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {"W_dec": (d_sae, d_in), "W_enc": (d_in, d_sae), "b_enc": (d_sae,), "b_dec": (d_in,)}
    arrays = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    arrays["threshold"] = rng.standard_normal(d_sae).astype(np.float32)
    return arrays


def dictionary(folder: Path, arrays: dict[str, np.ndarray] | None = None, **config: Any) -> Path:
    folder.mkdir(exist_ok=True)
    told, arrays = {**CONFIG, **config}, weights() if arrays is None else arrays
    kept = {
        k: v for k, v in arrays.items() if k != "threshold" or told["architecture"] not in ("topk", "relu", "standard")
    }
    save_file(kept, folder / "sae_weights.safetensors")
    (folder / "cfg.json").write_text(json.dumps(told))
    return folder


# Dictionaries


def test_rows_asked_for_come_in_that_order_at_unit_length(tmp_path: Path) -> None:
    found = read_directions(dictionary(tmp_path), features=[7, 0, 19])
    raw = weights()["W_dec"][[7, 0, 19]]
    assert found.ids == ("7", "0", "19") and found.site == SITE and found.kind == "feature"
    np.testing.assert_allclose(found.unit * found.norms[:, None], raw, rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(found.unit, axis=1), 1, rtol=1e-6)
    assert len(read_directions(tmp_path)) == 20
    assert read_directions(str(tmp_path), features=["7"]).ids == ("7",)


def test_labels_lying_beside_are_read(tmp_path: Path) -> None:
    (dictionary(tmp_path) / "labels.json").write_text('{"7": "food", "8": "law"}')
    assert read_directions(tmp_path, features=[7, 9]).labels == ("food", "")
    np.save(tmp_path / "probe.npy", np.ones(8))
    assert read_directions(tmp_path / "probe.npy", site=SITE).labels == ("",)
    (tmp_path / "labels.json").write_text('["food"]')
    with pytest.raises(Refusal, match="labels are a JSON object"):
        read_directions(tmp_path, features=[7])


@pytest.mark.parametrize(
    ("config", "block"),
    [
        ({"metadata": {"model_name": "m", "hook_name": "blocks.3.hook_resid_post", "hook_layer": 3}}, 3),
        ({"metadata": {"model_name": "m", "hook_name": "blocks.3.hook_resid_pre"}}, 2),
        ({"metadata": {"model_name": "m", "hook_name": "model.layers.5"}}, 5),
        ({"metadata": None, "model_name": "m", "hook_layer": 4}, 4),
        ({"metadata": None, "model_name": "m", "hook_name": "blocks.0.hook_resid_post"}, 0),
    ],
)
def test_a_config_says_which_block(tmp_path: Path, config: dict[str, Any], block: int) -> None:
    assert read_directions(dictionary(tmp_path, **config), features=[0]).site == Site("m", block)


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"metadata": {"model_name": "m", "hook_name": "blocks.3.hook_mlp_out"}}, "is not the output of a block"),
        ({"metadata": {"model_name": "m", "hook_name": "blocks.0.hook_resid_pre"}}, "is not the output of a block"),
        ({"metadata": {"model_name": "m", "hook_name": "blocks.3.attn.hook_z"}}, "is not the output of a block"),
        (
            {"metadata": {"model_name": "m", "hook_name": "blocks.3.hook_resid_post", "hook_layer": 4}},
            "its hook is blocks.3.hook_resid_post but its hook_layer 4",
        ),
        ({"metadata": {"model_name": "m"}}, "names no model and hook"),
    ],
)
def test_a_dictionary_of_no_residual_stream_is_refused(tmp_path: Path, config: dict[str, Any], why: str) -> None:
    with pytest.raises(Refusal, match=why):
        read_directions(dictionary(tmp_path, **config), features=[0])


def test_another_blocks_dictionary_is_refused_but_models_go_by_several_names(tmp_path: Path) -> None:
    dictionary(tmp_path)
    assert read_directions(tmp_path, site=Site("Org/Model", 20), features=[0]).site == Site("Org/Model", 20)
    with pytest.raises(Refusal, match=r"tiny-smollm2:19: its cfg.json says block 20"):
        read_directions(tmp_path, site=Site("tiny-smollm2", 19), features=[0])


def test_a_width_that_is_not_the_sites_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="width 8 is not the width 576 of the stream at tiny-smollm2:20"):
        read_directions(dictionary(tmp_path), d_model=576)
    assert read_directions(tmp_path, d_model=8).d_model == 8


def test_features_that_are_not_there_are_refused_with_the_size(tmp_path: Path) -> None:
    dictionary(tmp_path)
    for feature in (20, -1, "x", 1.5):
        with pytest.raises(Refusal, match=r"feature .*d_sae 20"):
            read_directions(tmp_path, features=[feature])  # type: ignore[list-item]
    with pytest.raises(Refusal, match="asked for twice"):
        read_directions(tmp_path, features=[3, 3])
    with pytest.raises(Refusal, match="nothing to read"):
        read_directions(tmp_path, features=[])


@pytest.mark.parametrize(("value", "why"), [(0.0, "its row is zero"), (np.nan, "not finite"), (np.inf, "not finite")])
def test_features_without_a_direction_are_refused_by_their_number(tmp_path: Path, value: float, why: str) -> None:
    arrays = weights()
    arrays["W_dec"][11] = value
    dictionary(tmp_path, arrays)
    with pytest.raises(Refusal, match=f"feature 11 of .*{why}"):
        read_directions(tmp_path, features=[2, 11])
    assert len(read_directions(tmp_path, features=[2])) == 1


def test_a_transposed_decoder_is_detected_where_the_config_tells(tmp_path: Path) -> None:
    arrays = weights()
    arrays["W_dec"] = np.ascontiguousarray(arrays["W_dec"].T)
    dictionary(tmp_path, arrays)
    for read in (read_directions, read_encoder):
        with pytest.raises(Refusal, match=r"shape \(8, 20\) is transposed"):
            read(tmp_path)
    with pytest.raises(Refusal, match="d_sae 21"):
        read_directions(dictionary(tmp_path, d_sae=21))


def test_unknown_layouts_are_refused_with_the_known_ones(tmp_path: Path) -> None:
    (tmp_path / "ae").mkdir()
    (tmp_path / "ae" / "config.json").write_text("{}")
    (tmp_path / "v.xyz").write_text("1,2")
    known = r"SAELens.*\.safetensors, \.npy, \.npz, \.pt, \.csv, \.jsonl, \.parquet or \.gguf file"
    for ref in (tmp_path / "ae", tmp_path / "v.xyz"):
        with pytest.raises(Refusal, match=known):
            read_directions(ref, site=SITE)
    with pytest.raises(Refusal, match=r"gone: there is no such file or folder here; check the path\.$"):
        read_directions(tmp_path / "gone", site=SITE)
    with pytest.raises(Refusal, match=r"unknown dictionary layout \(it holds config.json\)"):
        read_encoder(tmp_path / "ae")
    with pytest.raises(Refusal, match=r"no 2-D W_dec among decoder\); name a SAELens folder"):
        read_directions(dictionary(tmp_path / "d", {"decoder": np.ones((20, 8))}))
    (tmp_path / "d" / "cfg.json").write_text("[]")
    with pytest.raises(Refusal, match="not a JSON object"):
        read_directions(tmp_path / "d")


def test_a_truncated_dictionary_is_refused(tmp_path: Path) -> None:
    path = dictionary(tmp_path) / "sae_weights.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(Refusal, match="not a whole safetensors file"):
        read_directions(tmp_path, features=[0])


def sparse(path: Path, d_sae: int, d_in: int, rows: dict[int, np.ndarray]) -> None:
    """A dictionary of gigabytes that takes kilobytes of disk: holes read as zeros."""
    size = d_sae * d_in * 4
    header = json.dumps({"W_dec": {"dtype": "F32", "shape": [d_sae, d_in], "data_offsets": [0, size]}}).encode()
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        start = file.tell()
        file.truncate(start + size)
        for row, values in rows.items():
            file.seek(start + row * d_in * 4)
            file.write(values.astype("<f4").tobytes())


def test_only_asked_rows_of_a_big_dictionary_are_read(tmp_path: Path) -> None:
    d_sae, d_in = 1 << 19, 1024  # 2 GiB
    rng = np.random.default_rng(0)
    planted = {row: rng.standard_normal(d_in) for row in (0, 250_000, d_sae - 1)}
    dictionary(tmp_path, d_sae=d_sae, d_in=d_in)
    sparse(tmp_path / "sae_weights.safetensors", d_sae, d_in, planted)
    tracemalloc.start()
    found = read_directions(tmp_path, features=list(planted))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_allclose(found.unit * found.norms[:, None], np.stack(list(planted.values())), rtol=1e-5)
    assert peak < 2 << 20


# Vector files


@pytest.mark.parametrize("suffix", ["safetensors", "npy", "npz"])
def test_vector_files_give_rows(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"v.{suffix}"
    rows = np.random.default_rng(1).standard_normal((6, 8)).astype(np.float32)
    if suffix == "safetensors":
        save_file({"v": rows}, path)
    elif suffix == "npy":
        np.save(path, rows)
    else:
        np.savez(path, v=rows)
    found = read_directions(path, site=SITE, features=[5, 1])
    assert found.ids == ("5", "1")
    np.testing.assert_allclose(found.unit * found.norms[:, None], rows[[5, 1]], rtol=1e-6)
    with pytest.raises(Refusal, match="does not say where they live"):
        read_directions(path)
    with pytest.raises(Refusal, match="d_sae 6"):
        read_directions(path, site=SITE, features=[6])


@pytest.mark.parametrize("suffix", ["safetensors", "npy", "npz"])
def test_one_vector_may_stand_alone(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"probe.{suffix}"
    probe = np.arange(1.0, 9.0)
    if suffix == "safetensors":
        save_file({"probe": probe}, path)
    elif suffix == "npy":
        np.save(path, probe)
    else:
        np.savez(path, probe=probe)
    found = read_directions(path, site=SITE)
    assert found.ids == ("0" if suffix == "npy" else "probe",)
    np.testing.assert_allclose(found.unit[0], probe / np.linalg.norm(probe), rtol=1e-6)


@pytest.mark.parametrize("suffix", ["safetensors", "npz"])
def test_several_arrays_need_a_key(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"v.{suffix}"
    arrays = {"a": np.eye(3), "b": 2 * np.eye(3)}
    if suffix == "safetensors":
        save_file(arrays, path)
    else:
        np.savez(path, **arrays)  # type: ignore[arg-type]
    assert read_directions(path, site=SITE, key="b").norms[0] == 2
    with pytest.raises(Refusal, match=r"several arrays \(a, b\)"):
        read_directions(path, site=SITE)
    with pytest.raises(Refusal, match=r"no array 'c' \(a, b\)"):
        read_directions(path, site=SITE, key="c")


class Trap:
    """Unpickling this would leave a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_object_arrays_are_refused_without_unpickling(tmp_path: Path, suffix: str) -> None:
    trap, path = tmp_path / "sprung", tmp_path / f"v.{suffix}"
    if suffix == "npy":
        np.save(path, np.array([Trap(trap)], dtype=object), allow_pickle=True)
    else:
        np.savez(path, v=np.array([Trap(trap)], dtype=object))
    with pytest.raises(Refusal, match="holds pickled objects"):
        read_directions(path, site=SITE)
    assert not trap.exists()
    np.load(path, allow_pickle=True) if suffix == "npy" else np.load(path, allow_pickle=True)["v"]
    assert trap.exists()  # the trap was real


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".pkl", ".PT"])
def test_pickles_are_refused_with_the_reason(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"v{suffix}").write_bytes(b"\x80\x02}")
    with pytest.raises(Refusal, match="pickle.*can run code when read; convert the file to safetensors"):
        read_directions(tmp_path / f"v{suffix}", site=SITE)


def test_a_pickle_called_npy_is_refused(tmp_path: Path) -> None:
    (tmp_path / "v.npy").write_bytes(b"\x80\x04]\x94.")
    with pytest.raises(Refusal, match="holds pickled objects"):
        read_directions(tmp_path / "v.npy", site=SITE)


@pytest.mark.parametrize("suffix", ["npy", "npz"])
@pytest.mark.parametrize("keep", [0, 5, 40, -30])
def test_torn_numpy_files_are_refused(tmp_path: Path, suffix: str, keep: int) -> None:
    content = io.BytesIO()
    (np.save if suffix == "npy" else np.savez)(content, np.eye(8))
    (tmp_path / f"v.{suffix}").write_bytes(content.getvalue()[:keep])
    with pytest.raises(Refusal, match=r"not a whole numpy file|pickled objects"):
        read_directions(tmp_path / f"v.{suffix}", site=SITE)


@pytest.mark.parametrize(
    ("array", "why"),
    [
        (np.ones((2, 2, 2)), r"shape \(2, 2, 2\) is not rows"),
        (np.float64(1), r"shape \(\) is not rows"),
        (np.ones((0, 4)), r"shape \(0, 4\) is not rows"),
        (np.array(["a"]), "is not a real number's"),
        (np.ones((2, 2), dtype=complex), "is not a real number's"),
    ],
)
def test_arrays_that_are_not_vectors_are_refused(tmp_path: Path, array: np.ndarray, why: str) -> None:
    np.save(tmp_path / "v.npy", array)
    with pytest.raises(Refusal, match=why):
        read_directions(tmp_path / "v.npy", site=SITE)


# Encoders


def explicit(x: np.ndarray, architecture: str, k: int, arrays: dict[str, np.ndarray], *, centred: bool) -> np.ndarray:
    """The formulas, row by row and feature by feature."""
    a = {name: array.astype(np.float64) for name, array in arrays.items()}
    out = np.zeros((len(x), len(a["b_enc"])))
    for i, row in enumerate(x.astype(np.float64)):
        seen = row - a["b_dec"] if centred else row
        before = [float(seen @ a["W_enc"][:, j] + a["b_enc"][j]) for j in range(out.shape[1])]
        largest = sorted(range(len(before)), key=lambda j: -before[j])[:k]
        for j, p in enumerate(before):
            fires = {
                "relu": p > 0,
                "topk": j in largest and p > 0,
                "jumprelu": p > max(float(a["threshold"][j]), 0.0),
            }[architecture]
            out[i, j] = p if fires else 0.0
    return out


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("architecture", ["relu", "topk", "jumprelu"])
def test_encoders_equal_the_explicit_formula(tmp_path: Path, architecture: str, centred: bool) -> None:
    named = "standard" if architecture == "relu" else architecture
    encoder = read_encoder(dictionary(tmp_path, architecture=named, apply_b_dec_to_input=centred))
    assert encoder.architecture == architecture and encoder.site == SITE
    x = np.random.default_rng(2).standard_normal((40, 8)).astype(np.float32)
    want = explicit(x, architecture, 3, weights(), centred=centred)
    got = encoder.encode(x)
    assert got.dtype == np.float32 and 0 < (got > 0).mean() < 1
    np.testing.assert_array_equal(got > 0, want > 0)
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_a_topk_keeps_at_most_k_and_never_a_negative(tmp_path: Path) -> None:
    encoder = read_encoder(dictionary(tmp_path, k=20))
    x = np.random.default_rng(2).standard_normal((40, 8))
    np.testing.assert_array_equal(
        encoder.encode(x), read_encoder(dictionary(tmp_path, architecture="standard")).encode(x)
    )
    fired = read_encoder(dictionary(tmp_path, k=5)).encode(x)
    assert ((fired > 0).sum(axis=1) <= 5).all() and (fired >= 0).all()


def test_a_topk_that_rescales_chooses_by_length(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    encoder = read_encoder(dictionary(tmp_path, rescale_acts_by_decoder_norm=True))
    a = {name: torch.from_numpy(array) for name, array in weights().items()}
    x = torch.randn((30, 8), generator=torch.Generator().manual_seed(0))
    before = ((x - a["b_dec"]) @ a["W_enc"] + a["b_enc"]) * a["W_dec"].norm(dim=1)
    top = before.topk(3)
    want = torch.zeros_like(before).scatter(1, top.indices, top.values.relu())
    np.testing.assert_allclose(encoder.encode(x.numpy()), want.numpy(), atol=1e-5)


def test_older_configs_name_their_activation_otherwise(tmp_path: Path) -> None:
    folder = dictionary(
        tmp_path, architecture="standard", k=None, activation_fn_str="topk", activation_fn_kwargs={"k": 4}
    )
    encoder = read_encoder(folder)
    assert (encoder.architecture, encoder.k) == ("topk", 4)


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"architecture": "gated"}, "architecture 'gated' is not known"),
        ({"k": None}, "k is None for 20 features"),
        ({"k": 21}, "k is 21 for 20 features"),
        ({"normalize_activations": "whitened"}, "normalize_activations is 'whitened'"),
        ({"reshape_activations": "hook_z"}, "reshape_activations is 'hook_z'"),
    ],
)
def test_encoders_it_does_not_know_are_refused(tmp_path: Path, config: dict[str, Any], why: str) -> None:
    with pytest.raises(Refusal, match=why):
        read_encoder(dictionary(tmp_path, **config))


def test_encoder_arrays_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    arrays = weights()
    del arrays["b_enc"]
    with pytest.raises(Refusal, match="has no b_enc"):
        read_encoder(dictionary(tmp_path, arrays))
    with pytest.raises(Refusal, match=r"W_enc: it has shape \(20, 8\)"):
        read_encoder(dictionary(tmp_path, {**weights(), "W_enc": weights()["W_dec"]}))
    with pytest.raises(Refusal, match="reads width 8"):
        read_encoder(dictionary(tmp_path)).encode(np.ones((2, 9)))
    a = weights()
    with pytest.raises(Refusal, match="threshold: it has shape None"):
        Encoder(W_enc=a["W_enc"], b_enc=a["b_enc"], b_dec=a["b_dec"], W_dec=a["W_dec"], architecture="jumprelu")


# Controls


def test_random_directions_are_unit_reproducible_and_spread_evenly() -> None:
    one = random_directions(SITE, 32, 2000, np.random.default_rng(5))
    two = random_directions(SITE, 32, 2000, np.random.default_rng(5))
    other = random_directions(SITE, 32, 2000, np.random.default_rng(6))
    assert one.kind == "random" and one.site == SITE and one.ids[:2] == ("random-0", "random-1")
    assert one.unit.tobytes() == two.unit.tobytes() != other.unit.tobytes()
    np.testing.assert_allclose(np.linalg.norm(one.unit, axis=1), 1, rtol=1e-6)
    # Uniform on the sphere: mean 0, second moment 1/d in every coordinate; five standard errors of 2000 draws.
    assert np.abs(one.unit.mean(axis=0)).max() < 5 / np.sqrt(2000 * 32)
    np.testing.assert_allclose((one.unit**2).mean(axis=0), 1 / 32, atol=5 * np.sqrt(2) / 32 / np.sqrt(2000))


def test_rows_come_to_unit_length_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.random.default_rng(0).standard_normal((10, 4)).astype(np.float32)
    whole, lengths = unit_rows(rows, "rows")
    monkeypatch.setattr(core, "BAND", 3)
    unit, norms = unit_rows(rows, "rows")
    assert unit.tobytes() == whole.tobytes() and norms.tobytes() == lengths.tobytes()
    assert not unit.flags.writeable and not norms.flags.writeable
    assert np.array_equal(row_lengths(rows), np.linalg.norm(rows.astype(np.float64), axis=1))
    assert row_lengths(rows[:0]).shape == (0,)
    for value, why in ((np.nan, "it holds NaN"), (0.0, "its length is zero")):
        broken = rows.copy()
        broken[7] = value
        with pytest.raises(Refusal, match=f"^rows, row 7: {why}"):
            unit_rows(broken, "rows")


def test_what_nobody_can_change_is_not_copied_once_more() -> None:
    own = frozen([[1.0, 2.0]])
    assert frozen(own) is own
    for changing in (own[:1], own.astype(np.float32), own.astype(np.float64), own.T):
        again = frozen(changing)
        assert not np.shares_memory(again, changing) and not again.flags.writeable
