"""The universal bundle: encoded by the source model's own encoder, then fed as embedding replacement; rows by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from dragoman.core import Refusal, Site
from dragoman.models.decode import Verbalizer
from dragoman.verbalizers.protocol import AnyVerbalizer
from plain_reading import Plain
from tiny_checkpoints import TEMPLATE, WIDTH, save_adapter, save_checkpoint, sidecar_of, tokenizer_of
from verbalizer_doubles import next_logits, prompt_embeddings

SHARED = WIDTH["qwen3"]
WIDTHS = {"small-1b": 20, "large-9b": 50}
ACTOR = "The source model is {model_tag}. " + TEMPLATE
SETTINGS = {"model_tag": "large-9b", "model": "org/large-9b", "block": 17}


def write_bundle(folder: Path, base: Path, *, kernel: int = 0, **changes: Any) -> Path:
    """nla_meta.yaml, av/, adapters/ as the published bundles have them."""
    save_adapter(folder / "av", "qwen3", base)
    (folder / "av" / "nla_meta.yaml").unlink()  # a bundle has its sidecar above
    (folder / "adapters").mkdir()
    generator, tensors = torch.Generator().manual_seed(3), {}
    for tag, width in WIDTHS.items():
        tensors[f"encoders.{tag}.weight"] = torch.randn(SHARED, width, generator=generator)
        tensors[f"decoders.{tag}.weight"] = torch.randn(width, SHARED, generator=generator)
        if kernel:
            tensors[f"encoders.{tag}.conv.weight"] = torch.randn(1, 1, kernel, generator=generator)
    save_file(tensors, folder / "adapters" / "adapters.safetensors")
    meta = {
        "d_shared": SHARED,
        "model_dims": WIDTHS,
        "adapter_class": "ConvAdapter" if kernel else "LinearAdapter",
        "adapter_kwargs": {"kernel": kernel} if kernel else {},
    }
    (folder / "adapters" / "meta.json").write_text(json.dumps(meta))
    stated = {
        "kind": "nla_model_universal",
        "schema_version": "v8_mixed",
        "av_base": str(base),
        "d_shared": SHARED,
        "injection_scale": "sqrt_d_model",
        "tokens": sidecar_of("qwen3")["tokens"],
        "prompt_templates": {"actor": ACTOR},
        "training_tags": sorted(WIDTHS),
        **changes,
    }
    (folder / "nla_meta.yaml").write_text(yaml.safe_dump(stated, allow_unicode=True), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("trunk") / "base", "qwen3")


@pytest.fixture(scope="module")
def bundle(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("universal") / "bundle", base)


def vectors_for(tag: str, count: int = 3) -> NDArray[np.float32]:
    return np.random.default_rng(5).normal(size=(count, WIDTHS[tag])).astype(np.float32)


def plain_rows(bundle: Path, base: Path, tag: str, vector: NDArray[np.float32]) -> torch.Tensor:
    """Step by step from the description; a kernel is a plain sum over neighbouring channels."""
    tokens, tokenizer = sidecar_of("qwen3")["tokens"], tokenizer_of("qwen3")
    message = ACTOR.format(model_tag=tag, injection_char=tokens["injection_char"])
    text = f"<|im_start|>user\n{message}<|im_end|>\n<|im_start|>assistant\n"
    ids = tokenizer.encode(text, add_special_tokens=False)
    weights = load_file(bundle / "adapters" / "adapters.safetensors")
    z = weights[f"encoders.{tag}.weight"] @ torch.tensor(vector)
    kernel = weights.get(f"encoders.{tag}.conv.weight")
    if kernel is not None:
        taps, half = kernel.flatten().tolist(), kernel.numel() // 2
        padded = [0.0] * half + z.tolist() + [0.0] * half
        z = torch.tensor([sum(t * padded[k + j] for j, t in enumerate(taps)) for k in range(len(z))])
    (table,) = [t for k, t in load_file(base / "model.safetensors").items() if k.endswith("embed_tokens.weight")]
    rows = table[torch.tensor(ids)].clone()
    rows[ids.index(tokens["injection_token_id"])] = z / z.norm() * math.sqrt(SHARED)
    return rows


@pytest.mark.parametrize("tag", WIDTHS)
@pytest.mark.parametrize("kernel", [0, 7])
def test_embeddings_and_logits_equal_the_plain_reading(tmp_path: Path, base: Path, tag: str, kernel: int) -> None:
    bundle = write_bundle(tmp_path / "bundle", base, kernel=kernel)
    ours = Verbalizer(bundle, contract="universal", settings={**SETTINGS, "model_tag": tag})
    vectors = vectors_for(tag)
    want = torch.stack([plain_rows(bundle, base, tag, v) for v in vectors])
    torch.testing.assert_close(prompt_embeddings(ours, vectors), want, rtol=1e-4, atol=1e-5)
    net = Plain.open("qwen3", base, bundle / "av").net
    with torch.no_grad():
        logits = torch.stack([net(inputs_embeds=row[None], use_cache=False).logits[0, -1] for row in want])
    torch.testing.assert_close(next_logits(ours, vectors), logits, rtol=1e-3, atol=1e-3 * float(logits.abs().max()))


def test_it_reads_the_source_models_stream_and_says_which(bundle: Path, base: Path) -> None:
    ours = Verbalizer(bundle, settings=SETTINGS)  # the file is the bundle's own writer's
    assert isinstance(ours, AnyVerbalizer) and ours.contract.name == "universal"
    assert ours.site == Site("org/large-9b", 17)
    assert "The source model is large-9b." in ours.prompt.text
    identity = ours.identity
    assert identity["contract"] == "universal" and identity["settings"] == dict(sorted(SETTINGS.items()))
    assert identity["base"] == str(base) and set(identity["base_weights"]) == {"model.safetensors"}
    other = Verbalizer(bundle, settings={**SETTINGS, "model_tag": "small-1b"})
    assert other.identity["encoder"] != identity["encoder"]
    json.dumps(identity)
    with pytest.raises(Refusal, match="vectors of width 36 .* has width 50"):
        ours.verbalize(np.ones((1, SHARED), np.float32))


def test_a_batch_says_what_its_rows_say_alone_whatever_their_length(bundle: Path) -> None:
    ours, vectors = Verbalizer(bundle, settings=SETTINGS), vectors_for("large-9b")
    said = ours.verbalize(vectors, max_new_tokens=6)
    assert [ours.verbalize(v[None] * np.float32(1e15), max_new_tokens=6)[0] for v in vectors] == said
    assert len({e.raw for e in said}) > 1


def test_the_captured_engine_says_the_same(bundle: Path) -> None:
    ours, vectors = Verbalizer(bundle, settings=SETTINGS, engine="captured"), vectors_for("large-9b")
    said = ours.verbalize(vectors, max_new_tokens=8)
    with ours.looped():
        assert [e.raw for e in said] == [e.raw for e in ours.verbalize(vectors, max_new_tokens=8)]


def test_an_encoder_that_lies_elsewhere_is_named_by_file_and_key(tmp_path: Path, base: Path, bundle: Path) -> None:
    moved = write_bundle(tmp_path / "moved", base)
    tensors = load_file(moved / "adapters" / "adapters.safetensors")
    save_file({"w": tensors["encoders.large-9b.weight"]}, moved / "enc.safetensors")
    (moved / "adapters" / "meta.json").unlink()
    with pytest.raises(Refusal, match=r"holds no adapters/meta.json with .* where its encoders lie is not known"):
        Verbalizer(moved, settings=SETTINGS)
    with pytest.raises(Refusal, match="encoder and key name a tensor only together"):
        Verbalizer(moved, settings={**SETTINGS, "encoder": "enc.safetensors"})
    with pytest.raises(Refusal, match="has no tensor 'v'"):
        Verbalizer(moved, settings={**SETTINGS, "encoder": "enc.safetensors", "key": "v"})
    with pytest.raises(Refusal, match="cannot be read as safetensors"):
        Verbalizer(moved, settings={**SETTINGS, "encoder": "nla_meta.yaml", "key": "w"})
    named = Verbalizer(moved, settings={**SETTINGS, "encoder": "enc.safetensors", "key": "w"})
    vectors = vectors_for("large-9b")
    want = Verbalizer(bundle, settings=SETTINGS)
    assert torch.equal(prompt_embeddings(named, vectors), prompt_embeddings(want, vectors))
    assert named.identity["encoder"] == want.identity["encoder"]


def test_what_the_bundle_does_not_say_must_be_given(bundle: Path) -> None:
    with pytest.raises(Refusal, match="its bundle reads several models, and model_tag, model, block of yours is not"):
        Verbalizer(bundle)
    with pytest.raises(Refusal, match="has no encoder for 'gpt2'; its tags are large-9b, small-1b"):
        Verbalizer(bundle, settings={**SETTINGS, "model_tag": "gpt2"})


def test_other_files_are_no_bundle_and_a_bundle_is_no_other_contract(bundle: Path, base: Path) -> None:
    with pytest.raises(Refusal, match="states no av_base and d_shared, so it is no such bundle"):
        Verbalizer(base, contract="universal", settings=SETTINGS)
    for contract in ("kitft", "karvonen"):
        with pytest.raises(Refusal, match="its sidecar is of kind 'nla_model_universal'"):
            Verbalizer(bundle, contract=contract)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"injection_scale": 150}, "its injection_scale is 150, and only the root of the shared width"),
        ({"prompt_templates": {"actor": "no place"}}, "its template has no place for the vector"),
        ({"prompt_templates": None}, "it lacks d_shared, tokens.injection_char"),
        ({"d_shared": 40}, r"encoder for 'large-9b' has shape \(36, 50\), not \(40, 50\)"),
    ],
)
def test_a_bundle_with_an_odd_sidecar_is_refused(
    tmp_path: Path, base: Path, changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(Refusal, match=sentence):
        Verbalizer(write_bundle(tmp_path / "bundle", base, **changes), settings=SETTINGS)


def test_encoders_of_unknown_classes_and_damaged_ones_are_refused(tmp_path: Path, base: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle", base, kernel=3)
    path, meta = bundle / "adapters" / "adapters.safetensors", bundle / "adapters" / "meta.json"
    tensors, stated = load_file(path), json.loads(meta.read_text())
    name = "encoders.large-9b."
    meta.write_text(json.dumps({**stated, "adapter_class": "MlpAdapter"}))
    with pytest.raises(Refusal, match="its encoders are of class 'MlpAdapter'; known are LinearAdapter and Conv"):
        Verbalizer(bundle, settings=SETTINGS)
    meta.write_text(json.dumps(stated))
    save_file({**tensors, f"{name}conv.weight": torch.ones(1, 1, 4)}, path)
    with pytest.raises(Refusal, match=r"its kernel has shape \(1, 1, 4\), not \(1, 1, odd\)"):
        Verbalizer(bundle, settings=SETTINGS)
    save_file({**tensors, f"{name}weight": tensors[f"{name}weight"] * float("nan")}, path)
    with pytest.raises(Refusal, match="holds NaN or infinite numbers"):
        Verbalizer(bundle, settings=SETTINGS)
    save_file({**tensors, f"{name}weight": torch.zeros(SHARED, 50)}, path)
    with pytest.raises(Refusal, match="its encoder leaves nothing of row 0"):
        Verbalizer(bundle, settings=SETTINGS).verbalize(vectors_for("large-9b"))
