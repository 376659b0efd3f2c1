"""Contracts of verbalizers trained on rows: what must be said, what files may hold, and what is refused by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from ar_checkpoints import base_of
from asking import explain
from dragoman.core import Directions, Explanation, Refusal, Site, Talk
from dragoman.models.contracts import contract_class
from dragoman.models.contracts.continuous import WORDINGS
from dragoman.models.contracts.selfie import PROMPTS
from dragoman.models.decode import Verbalizer
from dragoman.models.engines import engine_for
from dragoman.models.resolve import how_fed
from dragoman.runs.build import RunBuilder
from dragoman.runs.options import Options
from dragoman.verbalizers.registry import checkpoints, find
from reserved_tokens import reserving, save_tokenizer
from small_world import build
from tiny_checkpoints import WIDTH, save_checkpoint
from verbalizer_doubles import ScriptedVerbalizer, prompt_embeddings

D = WIDTH["qwen2"]
ROW_TOKENS = tuple(f"<|reserved_special_token_{n}|>" for n in (10, 11, 12))
SOFT, PAD = "<|reserved_special_token_0|>", "<|fim_pad|>"
VECTORS = np.random.default_rng(3).normal(size=(2, D)).astype(np.float32)
NAMED = {"adapter": "b.safetensors", "block": 1, "prompt": "qwen-2.5"}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = save_checkpoint(tmp_path_factory.mktemp("rows") / "base", "qwen2")
    return save_tokenizer(folder, reserving("qwen2", SOFT, PAD, *ROW_TOKENS))


def parts(kind: str = "scalar_affine", rank: int = 2) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    sizes = {"log_scale": (1,), "bias": (D,), "U": (D, rank), "V": (D, rank), "weight": (D, D)}
    names = {
        "scale_only": ("log_scale",),
        "scalar_affine": ("log_scale", "bias"),
        "low_rank_only": ("U", "V", "bias"),
        "scalar_affine_plus_low_rank": ("log_scale", "U", "V", "bias"),
        "full_rank": ("weight", "bias"),
    }[kind]
    return {name: torch.randn(sizes[name], generator=draw) for name in names}


def adapter(
    folder: Path, tensors: dict[str, torch.Tensor] | None = None, kind: str = "scalar_affine", **changes: Any
) -> Path:
    """``b.safetensors`` in a folder; ``changes`` of its projection's settings, and of the header by name."""
    folder.mkdir(exist_ok=True)
    projection = {"type": kind, "normalize_input": True, **changes.pop("projection", {})}
    header = {"config_json": json.dumps({"projection": projection, **changes}), "model_dim": str(D)}
    save_file(parts(kind) if tensors is None else tensors, folder / "b.safetensors", metadata=header)
    return folder


def selfie(folder: Path, base: Path, **settings: Any) -> Verbalizer:
    return Verbalizer(folder, contract="selfie", base=str(base), settings={"block": 1, "prompt": "qwen-2.5"} | settings)


# --- adapters ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind", ["scale_only", "scalar_affine", "low_rank_only", "scalar_affine_plus_low_rank", "full_rank"]
)
def test_every_projection_gives_the_soft_token_of_its_formula(tmp_path: Path, base: Path, kind: str) -> None:
    ours = selfie(adapter(tmp_path / "a", kind=kind), base)
    p = {name: tensor.double().numpy() for name, tensor in parts(kind).items()}
    for vector, rows in zip(VECTORS.astype(np.float64), prompt_embeddings(ours, VECTORS), strict=True):
        x = vector / np.linalg.norm(vector)
        want = np.exp(p["log_scale"]) * x if "log_scale" in p else np.zeros(D)
        want = want + (p["V"] @ (p["U"].T @ x) if "U" in p else 0) + (p["weight"] @ x if "weight" in p else 0)
        want = want + p.get("bias", 0)
        places = ours.contract.places(ours.prompt)
        assert len(places) == 2
        for place in places:
            np.testing.assert_allclose(rows[place].numpy(), want, rtol=1e-5, atol=1e-5)
        assert np.linalg.norm(want) <= ours.contract.loudest * 1.0001


def test_the_published_prompts_are_theirs_to_the_letter() -> None:
    marker, text = PROMPTS["llama-3"]
    header = "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n"
    between = "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    said = f'What is the meaning of "{SOFT}"?', f'The meaning of "{SOFT}" is "'
    assert (marker, text.format(marker=marker)) == (SOFT, f"{header}{said[0]}{between}{said[1]}")
    marker, text = PROMPTS["qwen-2.5"]
    asked = '<|im_start|>user\nWhat is the meaning of "<|fim_pad|>"?<|im_end|>\n'
    assert text.format(marker=marker) == f'{asked}<|im_start|>assistant\nThe meaning of "<|fim_pad|>" is "'


def test_older_headers_are_flat_and_a_header_may_keep_model_and_prompt(tmp_path: Path, base: Path) -> None:
    flat = {"projection_type": "scalar_affine", "normalize_input": "True", "model_dim": str(D)}
    (tmp_path / "flat").mkdir()
    save_file(parts(), tmp_path / "flat" / "b.safetensors", metadata=flat)
    kept = {"template": f'The city {PAD} is "', "reserved_token": PAD}
    whole = adapter(tmp_path / "whole", model={"name": str(base)}, soft_prompt=kept)
    a, b = selfie(tmp_path / "flat", base), Verbalizer(whole, contract="selfie", settings={"block": 1})
    assert b.prompt.text == kept["template"] and b.site == Site(str(base), 1) and b.base == str(base)
    assert (
        a.identity["adapter_sha256"] != b.identity["adapter_sha256"] and a.identity["weights"] == b.identity["weights"]
    )
    with pytest.raises(Refusal, match="its header keeps another prompt than the one that is said"):
        Verbalizer(whole, contract="selfie", settings=NAMED)


def test_an_answer_is_a_label_up_to_its_last_quotation_mark(tmp_path: Path, base: Path) -> None:
    contract = selfie(adapter(tmp_path / "a"), base).contract
    assert contract.answer('words about "cats" and dogs"<|im_end|>') == ('words about "cats" and dogs', ())
    assert contract.answer("cut off in the mid") == ("cut off in the mid", ("no closing quotation mark",))


TENSORS = {
    "it holds U, V, bias, log_scale, and a scalar_affine projection is": parts("scalar_affine_plus_low_rank"),
    r"its tensor bias has shape \(47,\), not \(48,\)": parts() | {"bias": torch.zeros(D - 1)},
    r"its tensor log_scale has shape \(2,\), not \(1,\)": parts() | {"log_scale": torch.zeros(2)},
    r"its tensor log_scale has shape \(\), not \(1,\)": parts() | {"log_scale": torch.tensor(0.5)},
    "its tensor bias holds NaN": parts() | {"bias": torch.full((D,), torch.nan)},
    "its scale is beyond float32": parts() | {"log_scale": torch.tensor([99.0])},
}


@pytest.mark.parametrize("why", TENSORS)
def test_tensors_that_are_not_the_projections_are_refused(tmp_path: Path, base: Path, why: str) -> None:
    with pytest.raises(Refusal, match=why):
        selfie(adapter(tmp_path / "a", TENSORS[why]), base)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"projection": {"type": ["mlp"]}}, "its projection is"),
        ({"projection": {"type": "mlp"}}, "its projection is 'mlp'; known are scale_only"),
        ({"projection": {"normalize_input": False}}, "trained on vectors at a length of their own"),
        ({"kind": "low_rank_only", "projection": {"low_rank_rank": 3}}, "its header says rank 3, its tensors 2"),
    ],
)
def test_headers_that_say_another_thing_are_refused(
    tmp_path: Path, base: Path, changes: dict[str, Any], why: str
) -> None:
    with pytest.raises(Refusal, match=why):
        selfie(adapter(tmp_path / "a", **changes), base)


def test_what_no_file_says_of_an_adapter_must_be_said(tmp_path: Path, base: Path) -> None:
    folder = adapter(tmp_path / "a")
    for left, why in (
        ({"prompt"}, "its header keeps no prompt, and in another one its soft token means nothing"),
        ({"block"}, "nothing says whose output its vectors are; pass --setting block=K"),
    ):
        with pytest.raises(Refusal, match=why):
            Verbalizer(folder, contract="selfie", base=str(base), settings={k: NAMED[k] for k in NAMED.keys() - left})
    with pytest.raises(Refusal, match="its header names no model, .* pass --base with that model"):
        Verbalizer(folder, contract="selfie", settings=NAMED)
    with pytest.raises(Refusal, match="this tokenizer splits <.begin_of_text.> into"):
        selfie(folder, base, prompt="llama-3")
    for settings, why in (
        ({"prompt": "mistral"}, "known are llama-3, qwen-2.5"),
        ({"prompt": "llama-3", "template": "x"}, "its prompt is said by halves"),
        ({"chat_template": False}, "setting 'chat_template' of contract 'selfie': it takes adapter, block, marker"),
    ):
        with pytest.raises(Refusal, match=why):
            selfie(folder, base, **settings)


def test_one_of_several_files_is_named_and_pickles_are_never_read(tmp_path: Path, base: Path) -> None:
    folder = adapter(tmp_path / "a")
    (folder / "old.pt").write_bytes(b"\x80\x02never")
    shutil.copy(folder / "b.safetensors", folder / "c.safetensors")
    selfie(folder, base, adapter="c.safetensors")
    with pytest.raises(Refusal, match=r"several files of tensors.* adapter=NAME, one of b.safetensors, c.safetensors"):
        selfie(folder, base)
    with pytest.raises(Refusal, match=r"'old.pt' is a pickle, which is never read"):
        selfie(folder, base, adapter="old.pt")
    with pytest.raises(Refusal, match=r"it holds no '../a/b.safetensors'"):
        selfie(folder, base, adapter="../a/b.safetensors")
    for name in ("b", "c"):
        (folder / f"{name}.safetensors").unlink()
    with pytest.raises(Refusal, match=r"it holds no adapter as safetensors \(pickles are never read\)"):
        selfie(folder, base)


# --- rows as they are --------------------------------------------------------------------------------------------


def continuous(base: Path, **settings: Any) -> Verbalizer:
    return Verbalizer(base, contract="continuous", settings={"model": "org/m", "block": 2, "norm": "row"} | settings)


def test_rows_keep_their_length_or_are_brought_to_one_that_is_said(base: Path) -> None:
    own, said = continuous(base), continuous(base, norm=7)
    assert (own.reads_length, said.reads_length) == (True, False) and own.site == Site("org/m", 2)
    slot, lengths = own.prompt.slot, np.linalg.norm(VECTORS, axis=1)
    assert torch.equal(prompt_embeddings(own, VECTORS)[:, slot], torch.tensor(VECTORS))
    at = prompt_embeddings(said, VECTORS)[:, slot].numpy()
    np.testing.assert_allclose(at, 7 * VECTORS / lengths[:, None], rtol=1e-5)
    assert own.identity["settings"]["norm"] == "row" and said.identity["injection_scale"] == 7


def test_length_is_asked_for_because_nobody_publishes_it(base: Path) -> None:
    with pytest.raises(Refusal, match=r"norm is not given, and how long the rows .* norm=row or norm=NUMBER"):
        Verbalizer(base, contract="continuous", settings={"model": "org/m", "block": 2})
    for wrong in ("unit", 0, -2.0, float("inf")):
        with pytest.raises(Refusal, match="it is no length; pass norm=row, or a positive number"):
            continuous(base, norm=wrong)


def test_the_six_wordings_say_the_block_and_others_can_be_said(base: Path) -> None:
    feature = "<|reserved_special_token_10|><|reserved_special_token_12|><|reserved_special_token_11|>"
    texts = [continuous(base, wording=n).prompt.text for n in (1, 5)]
    assert texts == [f"At layer 2, {feature} encodes ", f"What does {feature} encode at layer 2? "]
    assert len(set(WORDINGS)) == 6
    mine = continuous(base, template="{layer} and {injection_char} in the city", marker=PAD, chat_template=True)
    assert f"user\n2 and {PAD} in the city<|im_end|>" in mine.prompt.text
    for settings, why in (
        ({"wording": 7}, "wording 7: there are 6 of them"),
        ({"wording": 1, "template": "x"}, "its prompt is said twice"),
        ({"template": "{injection_char} here"}, "its template lacks the slot {layer}"),
    ):
        with pytest.raises(Refusal, match=why):
            continuous(base, **settings)


@pytest.mark.parametrize("engine", ["loop", "captured"])
def test_a_line_ends_an_answer_in_every_engine(base: Path, engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"model": "org/m", "block": 2, "norm": "row"}
    plain = Verbalizer(base, contract="continuous", settings=settings, engine=engine)
    (whole,) = plain.verbalize(VECTORS[:1], max_new_tokens=12)
    # Some text of the answer stands for a line's end, as these random models hardly write one.
    ids = plain.tokenizer.encode(whole.raw, add_special_tokens=False)
    end = plain.ending.text(ids[2:3])[-1]
    monkeypatch.setattr(contract_class("continuous"), "closing", (end,))
    (cut,) = Verbalizer(base, contract="continuous", settings=settings, engine=engine).verbalize(VECTORS[:1])
    assert whole.raw.startswith(cut.raw) and cut.raw.count(end) == 1 and len(cut.raw) < len(whole.raw)
    assert cut.text == cut.raw.split(end)[0].strip() and "\u010a" in str(
        plain.tokenizer.convert_ids_to_tokens(sorted(plain.ending.closers))
    )


def test_maps_from_another_width_and_torn_tokens_are_refused(base: Path, tmp_path: Path) -> None:
    other = shutil.copytree(base, tmp_path / "mapped")
    tensors = load_file(other / "model.safetensors")
    save_file(tensors | {"embed_projs.3.weight": torch.zeros(D, 9)}, other / "model.safetensors")
    with pytest.raises(Refusal, match=r"it holds maps from another model's stream \(embed_projs.N\)"):
        continuous(other)
    bare = save_checkpoint(tmp_path / "bare", "qwen2")
    with pytest.raises(Refusal, match=r"states extraction.injection_scale 1.5, and this contract has none"):
        continuous(bare)
    (bare / "nla_meta.yaml").unlink()
    with pytest.raises(Refusal, match="this tokenizer splits <.reserved_special_token_10.> into"):
        continuous(bare)


# --- added at the end of the prompt --------------------------------------------------------------------------------


def test_the_published_place_share_and_span_are_its_own_and_others_are_checked(base: Path) -> None:
    known = {"model": "org/m", "block": 1}
    with pytest.raises(Refusal, match="a hook at block 16: the model has blocks 0 to 3"):
        Verbalizer(base, contract="span-add", settings=known)
    ours = Verbalizer(base, contract="span-add", settings={**known, "hook_block": 1})
    assert {k: ours.identity[k] for k in ("hook_block", "share", "span")} == {"hook_block": 1, "share": 0.2, "span": 4}
    assert ours.contract.places(ours.prompt) == tuple(range(len(ours.prompt.ids) - 4, len(ours.prompt.ids)))
    for settings, why in (
        ({"share": 0.0}, "share 0.0: it is a positive number"),
        ({"span": 0}, "span 0: its prompt has"),
        ({"span": 10_000}, "span 10000: its prompt has"),
        ({"prefill": "x"}, "setting 'prefill' of contract 'span-add': it takes block, date, hook_block, model"),
    ):
        with pytest.raises(Refusal, match=why):
            Verbalizer(base, contract="span-add", settings={**known, "hook_block": 1, **settings})
    with pytest.raises(Refusal, match="it has no sidecar, and whose rows it reads is not given"):
        Verbalizer(base, contract="span-add", settings={"block": 1, "hook_block": 1})


def test_auto_takes_the_loop_and_says_why() -> None:
    prompt: Any = SimpleNamespace(device=torch.device("cuda"))
    why = contract_class("span-add").loop_only
    engine, said = engine_for("auto", None, None, prompt, loop_only=why)  # type: ignore[arg-type]
    assert engine is None and said.endswith(why) and "the last position of the prompt" in said


# --- files and registry --------------------------------------------------------------------------------------------


def test_a_sidecar_may_name_contract_and_settings_and_is_not_contradicted(base: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(base, tmp_path / "told")
    told = {"kind": "nla_model", "contract": "span-add", "base_checkpoint": "org/m", "extraction_layer_index": 2}
    told["settings"] = {"hook_block": 1, "share": 0.3}
    (folder / "nla_meta.yaml").write_text(yaml.safe_dump(told))
    ours = Verbalizer(folder)
    assert (ours.contract.name, ours.site, ours.identity["share"]) == ("span-add", Site("org/m", 2), 0.3)
    with pytest.raises(Refusal, match=r"it says share 0.3, and the setting says 0.2; leave the setting out"):
        Verbalizer(folder, settings={"share": 0.2})
    with pytest.raises(Refusal, match="its file and what is said tell of blocks 1, 2"):
        Verbalizer(folder, settings={"block": 1})


def test_the_registry_says_all_it_knows_of_them_and_nothing_else() -> None:
    fed = how_fed("keenanpepper/selfie-adapters-llama-3.1-8b-instruct", None, {"adapter": "x.safetensors"}, None)
    llama = "meta-llama/Llama-3.1-8B-Instruct"
    assert fed["base"] == llama and fed["contract"] == "selfie"
    said = {"adapter": "x.safetensors", "block": 19, "prompt": "llama-3", "model": llama}
    assert fed["settings"] == said
    fed = how_fed("THU-KEG/SAEVerbalizer-27B", None, {}, None)
    assert fed["settings"] == {"block": 16, "hook_block": 16, "model": "google/gemma-3-27b-it"}
    fed = how_fed("Transluce/features_explain_llama3.1_8b_llama3_8b", None, {"block": 4, "norm": 1}, None)
    assert fed["settings"] == {"block": 4, "norm": 1, "model": "meta-llama/Llama-3.1-8B", "chat_template": False}
    for c in checkpoints():
        if c.usable and c.contract in ("selfie", "continuous", "span-add") and c.role == "av":
            known = contract_class(c.contract)
            assert c.settings.keys() <= {**known.common, **known.settings}.keys(), c.id
    found = find("keenanpepper/selfie-adapters-llama-3.1-8b-instruct")
    assert found is not None and found.settings["prompt"] in PROMPTS


# --- runs ----------------------------------------------------------------------------------------------------------


def test_a_run_hands_rows_over_at_their_lengths_where_lengths_count(tmp_path: Path) -> None:
    class Reads(ScriptedVerbalizer):
        reads_length = trained_on_rows = True

        def verbalize(self, vectors: Any, **how: Any) -> list[Explanation]:
            met.append(np.asarray(vectors))
            return super().verbalize(vectors, **how)

    class Plain(Reads):
        reads_length = False

    site, rows = Site("m", 1), VECTORS * np.array([[3], [0.5]], np.float32)
    for kind, want in ((Reads, rows), (Plain, rows / np.linalg.norm(rows, axis=1, keepdims=True))):
        met: list[Any] = []
        told: list[str] = []
        directions = Directions.of(site, rows, ["a", "b"])
        builder = RunBuilder(directions=directions, backgrounds={}, target=site)
        builder.add("as-is", directions, route="as-is", washout="none")
        by, talk = {"by": kind(site, D, lambda _v: "x")}, Talk(say=told.append)
        folder = builder.write(tmp_path / kind.__name__, by, Options(), talk, {})
        assert not told
        np.testing.assert_allclose(np.concatenate(met), want, rtol=1e-5)
        np.testing.assert_allclose(folder.vectors()[0]["as-is"], want, rtol=1e-5)


def test_it_is_said_when_rows_are_washed_for_a_verbalizer_of_bare_ones(tmp_path: Path) -> None:
    class Rows(ScriptedVerbalizer):
        trained_on_rows = True

    site, told = Site("m", 1), list[str]()
    directions = Directions.of(site, VECTORS, ["a", "b"])
    builder = RunBuilder(directions=directions, backgrounds={}, target=site)
    builder.add("washed", directions, route="as-is", washout="on-shell", vectors=directions.unit)
    builder.write(tmp_path / "run", {"by": Rows(site, D, str)}, Options(), Talk(say=told.append), {})
    assert told == ["scripted was trained on bare rows, and these are washed: pass --washout none"]


# --- the whole way -------------------------------------------------------------------------------------------------


def test_explain_says_rows_at_the_length_that_their_dictionary_gives_them(tmp_path: Path) -> None:
    world = build(tmp_path)
    at = tmp_path / "explainer"
    save_tokenizer(save_checkpoint(at, "llama", model=base_of("llama")), reserving("llama", *ROW_TOKENS))
    tensors = load_file(tmp_path / "sae" / "sae_weights.safetensors")
    lengths = torch.linspace(0.5, 4, len(tensors["W_dec"]))
    save_file(tensors | {"W_dec": tensors["W_dec"] * lengths[:, None]}, tmp_path / "sae" / "sae_weights.safetensors")
    settings = {"model": world.source.model, "block": world.source.block, "norm": "row"}
    how: dict[str, Any] = {"contract": "continuous", "settings": settings, "washout": "none", "by": str(at)}
    run = explain(world.request(**how), tmp_path / "run")
    (condition,) = run.manifest["conditions"]
    kept = run.vectors()[0][condition["name"]]
    want = world.rows[[0, 3, 7, 11]] * lengths[[0, 3, 7, 11], None].numpy()
    np.testing.assert_allclose(kept, want, rtol=1e-5)
    said = Verbalizer(at, contract="continuous", settings=settings).verbalize(want, max_new_tokens=6)
    assert [row["text"] for row in run.rows()] == [e.text for e in said]
