"""What a reconstructor's folder must not be: every refusal, by its sentence."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from ar_checkpoints import (
    BLOCK,
    TEMPLATE,
    WIDTH,
    edit,
    edit_tensors,
    save_base,
    save_easy,
    save_full,
    save_peft,
    sidecar_of,
    tokenizer_for,
    write_sidecar,
)
from dragoman.core import Refusal
from dragoman.models.reconstruct import Reconstructor
from tiny_checkpoints import model_of, tokenizer_of

META, CONFIG, EASY = "nla_meta.yaml", "adapter_config.json", "ar_lora_value_head.safetensors"
HEAD, LORA = "value_head.safetensors", "adapter_model.safetensors"
Edit = Callable[[Path], Any]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("ars")
    base = save_base(root / "base", "llama")
    return {
        "base": base,
        "full": save_full(root / "full", "llama"),
        "peft": save_peft(root / "peft", "llama", base),
        "easy": save_easy(root / "easy", "llama", base),
    }


def refused(made: dict[str, Path], tmp_path: Path, which: str, change: Edit, sentence: str, **how: Any) -> None:
    folder = Path(shutil.copytree(made[which], tmp_path / "ar"))
    change(folder)
    how = {"layout": "easynla" if which == "easy" else "kitft"} | how
    with pytest.raises(Refusal, match=sentence):
        Reconstructor(folder, **how)


def yaml_with(**changes: Any) -> Edit:
    return lambda folder: edit(folder, META, **changes)


def drop(name: str) -> Edit:
    return lambda folder: (folder / name).unlink()


def put(name: str, content: str) -> Edit:
    return lambda folder: (folder / name).write_text(content, encoding="utf-8")


def tensors(name: str, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Edit:
    return lambda folder: edit_tensors(folder, name, change)


LAYOUT = [
    ("full", lambda _: None, "layout 'nanonla': known are kitft, easynla", {"layout": "nanonla"}),
    ("peft", lambda _: None, "named as easynla, but adapter_config.json belongs to the kitft", {"layout": "easynla"}),
    ("easy", lambda _: None, f"named as kitft, but {EASY} belongs to the easynla", {"layout": "kitft"}),
    ("full", put("ar_meta.json", "{}"), "named as kitft, but ar_meta.json belongs", {}),
    ("full", lambda f: save_file({"a": torch.ones(1)}, f / LORA), "holds both an adapter and a full checkpoint", {}),
    ("easy", lambda f: save_file({"weight": torch.ones(1)}, f / HEAD), f"both an adapter and {HEAD}", {}),
    ("full", drop("model.safetensors"), "holds no model.safetensors", {}),
    ("full", drop("config.json"), "holds no config.json", {}),
    ("full", drop(HEAD), f"holds no {HEAD}", {}),
    ("peft", drop(HEAD), f"holds no {HEAD}", {}),
    ("peft", drop(LORA), f"holds no {LORA}", {}),
    ("peft", drop(CONFIG), f"holds no {CONFIG}", {}),
    ("easy", drop("ar_meta.json"), "holds no ar_meta.json", {}),
    ("easy", drop(EASY), f"holds no {EASY}", {}),
    ("full", drop(META), f"holds no {META}, so its template and block are unknown", {}),
]


@pytest.mark.parametrize(("which", "change", "sentence", "how"), LAYOUT)
def test_refuses_files_that_are_not_one_layout(
    made: dict[str, Path], tmp_path: Path, which: str, change: Edit, sentence: str, how: dict[str, Any]
) -> None:
    refused(made, tmp_path, which, change, sentence, **how)


SIDECAR = [
    ("full", put(META, "a: [b"), "cannot be read as plain YAML"),
    ("full", put(META, "!!python/object/apply:os.getcwd []"), "cannot be read as plain YAML"),
    ("full", put(META, "- a"), "is not a mapping of names to values"),
    ("full", yaml_with(kind="nla_dataset"), "its kind is 'nla_dataset', not nla_model"),
    ("easy", yaml_with(kind="other"), "its kind is 'other', not nla_model or nla_dataset"),
    ("full", yaml_with(role="av"), "its role is 'av', not a reconstructor's"),
    ("full", yaml_with(d_model="wide"), "its field d_model is wrong"),
    (
        "full",
        yaml_with(d_model=WIDTH + 1),
        f"disagree about the width: d_model says {WIDTH + 1}, config.json says {WIDTH}",
    ),
    ("peft", yaml_with(d_model=None), "no file states its width"),
    ("peft", yaml_with(d_model=WIDTH * 2), "its head is "),
    ("full", yaml_with(extraction_layer_index=BLOCK + 1), "disagree about the block: .* number of blocks less one"),
    ("full", yaml_with(critic={"num_hidden_layers": BLOCK + 1}), "disagree about the block"),
    ("easy", yaml_with(extraction_layer_index=BLOCK + 1), "disagree about the block: .*ar_num_layers less one says 1"),
    ("peft", yaml_with(extraction_layer_index=None), "no file says which block's output it predicts"),
    ("full", yaml_with(extraction={"mse_scale": "loud"}), "mse_scale is 'loud', not a positive number"),
    ("full", yaml_with(prompt_templates={"av": "x"}), "its sidecar holds no reconstructor template"),
    ("full", yaml_with(prompt_templates={"ar": "no slot"}), "its template has no {explanation}"),
    ("full", yaml_with(prompt_templates={"ar": TEMPLATE + "{depth_pct}"}), "also asks for {depth_pct}"),
    ("full", yaml_with(prompt_templates={"ar": "{explanation"}), "unbalanced braces"),
    ("full", yaml_with(base_checkpoint=None), "no file names the model it was made from"),
]


@pytest.mark.parametrize(("which", "change", "sentence"), SIDECAR)
def test_refuses_sidecars_that_leave_the_reading_open(
    made: dict[str, Path], tmp_path: Path, which: str, change: Edit, sentence: str
) -> None:
    refused(made, tmp_path, which, change, sentence)


def without(key: str) -> Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
    def change(held: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        assert key in held
        return {k: v for k, v in held.items() if k != key}

    return change


def with_more(key: str, *shape: int, value: float = 0.5) -> Callable[..., dict[str, torch.Tensor]]:
    return lambda held: held | {key: torch.full(shape, value)}


FIRST = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
EASY_FIRST = "backbone.model.layers.0.self_attn.q_proj.lora_B.default.weight"
WEIGHTS = [
    ("full", tensors(HEAD, without("weight")), "it holds no weight but nothing"),
    ("full", tensors(HEAD, with_more("scale", 1)), "beside the head it holds 'scale'"),
    ("full", tensors(HEAD, with_more("bias", 3)), r"its head is \(24, 24\) and a bias \(3,\), and the width is 24"),
    ("full", tensors(HEAD, with_more("bias", WIDTH, value=float("nan"))), "its head holds NaN"),
    ("easy", tensors(EASY, without("value_head.weight")), "it holds no value_head.weight"),
    ("full", put(HEAD, "truncated"), "is not a whole safetensors file"),
    ("full", tensors("model.safetensors", without("model.layers.1.mlp.up_proj.weight")),
     r"1 weights are missing .*layers\.1\.mlp\.up_proj\.weight.* left random"),
    ("full", tensors("model.safetensors", lambda held: {f"x.{k}": v for k, v in held.items()}), "would be left random"),
    ("full", tensors("model.safetensors", with_more("model.layers.2.mlp.up_proj.weight", 32, WIDTH)),
     r"1 weights of its checkpoint have no place .*layers\.2"),
    ("full", tensors("model.safetensors", with_more("model.norm.weight", WIDTH)), "final norm that is not all ones"),
    ("full", tensors("model.safetensors", with_more("model.embed_tokens.weight", 3, WIDTH)),
     r"1 have another shape, the first is embed_tokens\.weight: \(3, 24\) stored"),
    ("peft", tensors(LORA, without(FIRST)), r"1 tensors of its adapter are missing and 0 .*q_proj\.lora_A"),
    ("peft", tensors(LORA, with_more(FIRST.replace("layers.0", "layers.2"), 2, WIDTH)),
     r"0 tensors .* and 1 have no place in blocks 0 to 1"),
    ("peft", tensors(LORA, with_more(FIRST, 2, WIDTH + 1)), r"has shape \(2, 25\) where \(2, 24\) is needed"),
    ("peft", tensors(LORA, with_more(FIRST, 2, WIDTH, value=float("inf"))), "of its adapter holds NaN or infinite"),
    ("peft", tensors(LORA, with_more("base_model.model.model.embed_tokens.lora_embedding_A", 2, 2)),
     r"0 tensors of its adapter are missing and 1 have no place in .*\(first embed_tokens\.lora_embedding_A\)"),
    ("peft", tensors(LORA, with_more("base_model.model.lm_head.lora_A.weight", 2, 2)),
     "lm_head.lora_A.weight' of its adapter is no LoRA matrix of a text block or of the input embeddings"),
    ("easy", tensors(EASY, with_more("backbone.encoder.layers.0.self_attn.q_proj.lora_A.weight", 2, 2)),
     "is no LoRA matrix of a text block"),
    ("easy", tensors(EASY, without(EASY_FIRST)), "1 tensors of its adapter are missing"),
]  # fmt: skip


@pytest.mark.parametrize(("which", "change", "sentence"), WEIGHTS)
def test_refuses_weights_that_are_missing_or_have_no_place(
    made: dict[str, Path], tmp_path: Path, which: str, change: Edit, sentence: str
) -> None:
    refused(made, tmp_path, which, change, sentence)


ADAPTER = [
    ({"peft_type": "IA3"}, "its adapter is not plain LoRA"),
    ({"bias": "all"}, "its adapter is not plain LoRA"),
    ({"use_dora": True}, "its adapter uses use_dora"),
    ({"modules_to_save": ["lm_head"]}, "its adapter uses modules_to_save"),
    ({"init_lora_weights": "pissa_niter_4"}, "its adapter uses init_lora_weights=pissa_niter_4"),
    ({"r": None}, "states no r;"),
    ({"target_modules": ["c_attn"]}, "its adapter does not fit its base .*c_attn"),
]


@pytest.mark.parametrize(("changes", "sentence"), ADAPTER)
def test_refuses_adapters_that_are_more_than_lora(
    made: dict[str, Path], tmp_path: Path, changes: dict[str, Any], sentence: str
) -> None:
    refused(made, tmp_path, "peft", lambda f: edit(f, CONFIG, **changes), sentence)


@pytest.mark.parametrize("key", ["ar_num_layers", "lora_r", "lora_alpha", "target_modules"])
def test_refuses_an_easynla_meta_that_cannot_rebuild_the_adapter(
    made: dict[str, Path], tmp_path: Path, key: str
) -> None:
    refused(made, tmp_path, "easy", lambda f: edit(f, "ar_meta.json", **{key: None}), f"its field {key} is wrong")


def test_refuses_a_base_of_another_width_or_too_few_blocks(made: dict[str, Path], tmp_path: Path) -> None:
    refused(
        made, tmp_path, "peft", yaml_with(extraction_layer_index=9), "it reads block 9, and its base has blocks 0 to 3"
    )
    model_of("qwen2").save_pretrained(tmp_path / "wide")
    tokenizer_of("qwen2").save_pretrained(tmp_path / "wide")
    with pytest.raises(Refusal, match="it was trained at width 24, its base .* has width 48"):
        Reconstructor(made["peft"], layout="kitft", base=str(tmp_path / "wide"))


def test_refuses_a_base_that_would_be_partly_random(made: dict[str, Path], tmp_path: Path) -> None:
    base = Path(shutil.copytree(made["base"], tmp_path / "base"))
    edit_tensors(base, "model.safetensors", without("model.norm.weight"))
    with pytest.raises(Refusal, match=r"1 weights are missing .*norm\.weight"):
        Reconstructor(made["easy"], layout="easynla", base=str(base))


def test_refuses_a_merged_checkpoint_whose_norm_is_in_doubt(made: dict[str, Path], tmp_path: Path) -> None:
    meta = json.loads((made["easy"] / "ar_meta.json").read_text()) | {"final_norm_stripped": False}
    write = put("ar_meta.json", json.dumps(meta))
    refused(made, tmp_path, "full", write, "ar_meta.json says it was trained with its final norm", layout="easynla")


def tokenizer_without(folder: Path, part: str) -> None:
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {part: None}))


def test_refuses_a_tokenizer_that_lost_its_bos(made: dict[str, Path], tmp_path: Path) -> None:
    sentence = re.escape("does not write its beginning-of-text token (<|begin_of_text|>)")
    refused(made, tmp_path, "full", lambda f: tokenizer_without(f, "post_processor"), sentence)


def test_a_turn_mark_called_bos_is_not_asked_for(made: dict[str, Path], tmp_path: Path) -> None:
    folder = save_full(tmp_path / "ar", "qwen2")
    edit(folder, "tokenizer_config.json", bos_token="<|im_start|>")
    ar = Reconstructor(folder, layout="kitft")
    assert ar._tokenizer.bos_token == "<|im_start|>" and ar.token_ids(["x"])[0][0] != ar._tokenizer.bos_token_id


def test_refuses_a_doubled_bos_and_a_template_that_ends_otherwise(made: dict[str, Path], tmp_path: Path) -> None:
    twice = {"ar": "<|begin_of_text|>" + TEMPLATE}
    refused(made, tmp_path / "a", "full", yaml_with(prompt_templates=twice), "its encoding begins with two of")
    other = {"ar": TEMPLATE + " and"}
    refused(made, tmp_path / "b", "full", yaml_with(prompt_templates=other), r"its encoded template ends with ids \[")
    ends = tokenizer_for("llama").encode("the city vote", add_special_tokens=False)
    refused(
        made, tmp_path / "c", "peft", yaml_with(tokens={"critic_suffix_ids": ends}), "its encoded template ends with"
    )


def test_refuses_a_tokenizer_that_adds_something_at_the_end(made: dict[str, Path], tmp_path: Path) -> None:
    def change(folder: Path) -> None:
        path = folder / "tokenizer.json"
        content = json.loads(path.read_text())
        processor = content["post_processor"]
        processor["single"].append({"SpecialToken": {"id": "<|begin_of_text|>", "type_id": 0}})
        path.write_text(json.dumps(content))
        edit(folder, META, tokens=None)

    refused(made, tmp_path, "full", change, "its encoded template ends with ids")


def test_refuses_texts_with_nothing_to_read(made: dict[str, Path]) -> None:
    ar = Reconstructor(made["full"], layout="kitft")
    with pytest.raises(Refusal, match="text 1 for reconstructor .*: it is empty"):
        ar.reconstruct(["fine", "<explanation>\n \n</explanation>"])
    with pytest.raises(Refusal, match="they are one string"):
        ar.reconstruct("a text")
    with pytest.raises(Refusal, match="it reads 256 at most"):
        ar.reconstruct(["vote " * 300])


def test_refuses_outputs_that_are_not_finite(made: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(made["full"], tmp_path / "ar"))
    edit_tensors(folder, "model.safetensors", lambda held: {
        k: v * 3e4 if k.endswith("down_proj.weight") else v for k, v in held.items()
    })  # fmt: skip
    assert Reconstructor(folder, layout="kitft").reconstruct(["vote"]).shape == (1, WIDTH)
    with pytest.raises(Refusal, match="outputs in float16 are not finite; use bfloat16 or float32"):
        Reconstructor(folder, layout="kitft", dtype="float16").reconstruct(["vote"])


def test_refuses_a_tokenizer_of_a_larger_vocabulary(made: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(made["full"], tmp_path / "ar"))
    tokenizer = tokenizer_for("llama")
    tokenizer.add_tokens(["people"])
    tokenizer.save_pretrained(folder)
    write_sidecar(folder, sidecar_of("llama", "x"))
    with pytest.raises(Refusal, match="its tokenizer gives id .*, its model knows"):
        Reconstructor(folder, layout="kitft")
