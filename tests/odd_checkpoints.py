"""Odd files, configurations and weights of verbalizers; entered in `odd_changes.ODD`."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import torch

from odd_changes import (
    EVIL,
    INDEX,
    NESTED,
    SHARDS,
    UP,
    WEIGHTS,
    code,
    config,
    content,
    cut,
    every,
    first_shard,
    gone,
    indexed,
    instead,
    odd,
    one,
    opens,
    poisoned,
    sharded,
    tensors,
    then,
    with_code,
)

# --- every file of a folder, in every way a file can be wrong ------------------------------------------------------

FILES = (
    "config.json",
    WEIGHTS,
    "tokenizer.json",
    "tokenizer_config.json",
    "generation_config.json",
    "chat_template.jinja",
    "nla_meta.yaml",
)
HARMLESS_WITHOUT = ("tokenizer_config.json", "generation_config.json")
for _name in FILES:
    _dots = _name.replace(".", r"\.")
    _lost = {"chat_template.jinja": "it has no chat template", WEIGHTS: r"\*\.safetensors weights"}.get(_name, _dots)
    odd(f"{_name} gone", opens if _name in HARMLESS_WITHOUT else _lost, gone(_name))
    odd(f"{_name} empty", _dots if _name != "nla_meta.yaml" else "it is not a mapping", content(_name, ""))
    odd(f"{_name} a folder", _dots, instead(_name, Path.mkdir))
    odd(f"{_name} a pipe", _dots, instead(_name, os.mkfifo))
    odd(f"{_name} a device", _dots, instead(_name, lambda p: p.symlink_to("/dev/zero")))
    odd(f"{_name} a link to nothing", _dots, instead(_name, lambda p: p.symlink_to("nowhere")))
    odd(
        f"{_name} of zeros", "encoded prompt" if _name == "chat_template.jinja" else _dots, content(_name, b"\0" * 3000)
    )
    odd(f"{_name} not text", _dots, content(_name, b"\xff\xfe\x00{" * 40))
    if _name.endswith("json") or _name == WEIGHTS:
        odd(f"{_name} cut short", _dots, cut(_name))
    if _name.endswith("json"):
        odd(f"{_name} a list", _dots, content(_name, "[1, 2]"))
        odd(f"{_name} a number", _dots, content(_name, "7"))
        odd(f"{_name} nested deep", _dots, content(_name, '{"a": ' + NESTED))
        odd(f"{_name} a web page", _dots, content(_name, "<!DOCTYPE html><html>404</html>"))
        odd(
            f"{_name} a pointer to large files",
            _dots,
            content(_name, "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12\n"),
        )

# --- config.json -------------------------------------------------------------------------------------------------

for _key, _value in [
    ("num_hidden_layers", 10**8), ("num_hidden_layers", 10**400), ("num_hidden_layers", 1e8), ("num_labels", 10**9),
    ("num_hidden_layers", 5), ("num_hidden_layers", 3), ("num_hidden_layers", 0), ("num_hidden_layers", -1),
    ("num_hidden_layers", "four"), ("num_hidden_layers", [4]), ("num_hidden_layers", None),
    ("hidden_size", 10**9), ("hidden_size", 0), ("hidden_size", -48), ("hidden_size", "48"), ("hidden_size", 49),
    ("vocab_size", 10**10), ("vocab_size", 10), ("vocab_size", -1), ("vocab_size", 1.5), ("vocab_size", 10**7),
    ("intermediate_size", 10**10), ("intermediate_size", 0), ("intermediate_size", 63),
    ("num_attention_heads", 0), ("num_attention_heads", 10**9), ("num_attention_heads", 5),
    ("num_key_value_heads", 3), ("num_key_value_heads", 0), ("hidden_act", "evil"), ("hidden_act", 3),
    ("rms_norm_eps", "small"), ("max_position_embeddings", "many"), ("rope_parameters", "x"),
    ("rope_parameters", {"rope_type": "evil"}), ("layer_types", ["evil"] * 4), ("layer_types", ["full_attention"]),
    ("model_type", "evil"), ("model_type", ["qwen2"]), ("model_type", 2), ("model_type", "t5"), ("model_type", "bert"),
    ("model_type", "whisper"), ("model_type", "clip"), ("model_type", "gpt2"), ("model_type", "mamba"),
    ("model_type", ...), ("is_encoder_decoder", True), ("text_config", [1]), ("eos_token_id", "end"),
    ("eos_token_id", [[1]]), ("eos_token_id", -3), ("eos_token_id", 1.5),
    ("transformers_weights", "../stray.safetensors"), ("attn_implementation", "evil/kernel"),
    ("_attn_implementation", "evil/kernel:0"), ("attn_implementation", "evil"),
]:  # fmt: skip
    _words = "taken out" if _value is ... else repr(_value)[:24]
    _what = r"config\.json|config_json" if _key != "hidden_size" else r"config\.json|width"
    odd(f"config.json's {_key} {_words}", _what, config(**{_key: _value}))
for _kind in ("t5", "mt5", "bart", "pegasus", "whisper", "t5gemma", "led"):
    for _flag in (..., None, True, *([] if _kind in ("bart", "pegasus", "whisper") else [False])):
        odd(
            f"encoder-decoder {_kind}, said {_flag}".replace("Ellipsis", "nowhere"),
            rf"config\.json: it is of an encoder-decoder model \('?{_kind}'?\); use a decoder-only model",
            config(model_type=_kind, is_encoder_decoder=_flag),
        )
odd(
    "encoder-decoder inside",
    r"encoder-decoder model \('?t5'?\)",
    config(model_type="blip-2", text_config={"model_type": "t5"}),
)
for _method in ("bitsandbytes", "gptq", "awq", "compressed-tensors", "aqlm", "eetq", "hqq", "quanto", "evil"):
    _how = {"quant_method": _method, "bits": 4, "load_in_4bit": True}
    odd(f"quantised by {_method}", "is quantised|are quantised by 'evil'", config(quantization_config=_how))
odd("quantised by a list", r"config.json: its weights are quantised by", config(quantization_config=["gptq"]))
odd("quantised by nobody", "quantised by 'None'", config(quantization_config={"bits": 4}))


odd("code for an unknown family", "config.json: its auto_map .*own code.*never run", code(EVIL, model_type="evil"))
odd(
    "code for a known family",
    "config.json: its auto_map .*EvilForCausalLM",
    code({"AutoModelForCausalLM": EVIL["AutoModelForCausalLM"]}),
)
odd(
    "code of another repository",
    "its auto_map .*own code",
    code({"AutoModelForCausalLM": "evil/repo--modeling_evil.Evil"}),
)
odd("code for the configuration", "its auto_map .*EvilConfig", code({"AutoConfig": EVIL["AutoConfig"]}))
odd(
    "code for the tokenizer",
    "tokenizer_config.json: its auto_map .*EvilTokenizer",
    code({"AutoTokenizer": ["tokenization_evil.EvilTokenizer", None]}, "tokenizer_config.json"),
)
odd(
    "code for the tokenizer in the old form",
    "tokenizer_config.json: its auto_map",
    code(["tokenization_evil.EvilTokenizer", None], "tokenizer_config.json"),
)
odd("code of the family's own names", opens, code({"AutoModelForCausalLM": "modeling_evil.Qwen2ForCausalLM"}))
odd(
    "code in a processor nobody opens",
    opens,
    then(with_code, content("processor_config.json", json.dumps({"auto_map": {"AutoProcessor": "evil.Evil"}}))),
)
odd("a map of code that is a number", "its auto_map", code({"AutoModelForCausalLM": 7}))

# --- weights -----------------------------------------------------------------------------------------------------

odd("a weight missing", rf"1 weights would stay at random \(the first is {UP}\)", tensors(lambda h: h.pop(UP)))
odd(
    "a block too many",
    "1 weights of decoder blocks have no place",
    tensors(lambda h: h.update({UP.replace("1", "7"): torch.ones(2, 2)})),
)
odd("a weight of another shape", rf"the first is {UP}: \(64, 47\)", one(UP, lambda t: t[:, 1:].contiguous()))
odd("a weight in one row", rf"the first is {UP}: \(3072,\)", one(UP, lambda t: t.reshape(-1)))
odd("a weight NaN", f"its weight {UP} holds NaN or infinite", one(UP, poisoned(float("nan"))))
odd("a weight infinite", f"its weight {UP} holds NaN or infinite", one(UP, poisoned(float("-inf"))))
odd("the table NaN", "embed_tokens.weight holds NaN", one("model.embed_tokens.weight", lambda t: t * float("nan")))
odd("a weight in whole numbers", rf"'{UP}' holds whole numbers \(int64\)", one(UP, lambda t: t.long()))
odd("a weight of truths", rf"'{UP}' holds whole numbers \(bool\)", one(UP, lambda t: t > 0))
odd(
    "bits of bfloat16 as uint16",
    r"holds whole numbers \(uint16\)",
    tensors(lambda h: h.update({n: t.bfloat16().view(torch.uint16) for n, t in h.items()})),
)
odd("weights of float64", opens, every(torch.float64))
odd("weights of bfloat16", opens, every(torch.bfloat16))
odd("weights of float16", opens, every(torch.float16))
odd("weights of complex numbers", "model.safetensors", one(UP, lambda t: t.to(torch.complex64)))
odd("no weights in the file", "would stay at random", tensors(dict.clear))
odd(
    "weights of another family",
    "would stay at random|no place",
    tensors(lambda h: [h.update({f"transformer.h.{n}": h.pop(n)}) for n in list(h)]),
)
odd(
    "pickled weights",
    "pickled weights are never loaded",
    then(gone(WEIGHTS), lambda f: torch.save({"a": torch.ones(2)}, f / "pytorch_model.bin")),
)
odd(
    "weights with a byte too many",
    "model.safetensors: it is not a whole",
    lambda f: os.truncate(f / WEIGHTS, (f / WEIGHTS).stat().st_size + 1),
)
odd(
    "weights with a header beyond the file",
    "model.safetensors: it is not a whole",
    content(WEIGHTS, (1 << 40).to_bytes(8, "little") + b"{}" * 40),
)
odd(
    "weights with a header of no JSON",
    "model.safetensors: it is not a whole",
    content(WEIGHTS, (8).to_bytes(8, "little") + b"notjson!"),
)
odd("shards", opens, sharded)
odd("a shard missing", "it lacks 1 of the 2 shards its index names", then(sharded, gone(SHARDS[1])))
odd("a shard cut short", SHARDS[1], then(sharded, cut(SHARDS[1])))
odd("a shard empty", SHARDS[0], then(sharded, content(SHARDS[0], "")))
odd("a shard a folder", SHARDS[0], then(sharded, instead(SHARDS[0], Path.mkdir)))
odd("shards without their index", f"neither {WEIGHTS} nor {INDEX}", then(sharded, gone(INDEX)))
odd("an index without shards", "it lacks 2 of the 2 shards", then(sharded, gone(SHARDS[0]), gone(SHARDS[1])))
odd(
    "an index that leaves its folder",
    "names the shard '../stray.safetensors'",
    then(
        lambda f: shutil.copy(f / WEIGHTS, f.parent / "stray.safetensors"), indexed(first_shard("../stray.safetensors"))
    ),
)
odd("an index of a path from the root", "names the shard '/etc/", indexed(first_shard("/etc/x.safetensors")))
odd("an index into a folder below", "names the shard 'below/", indexed(first_shard("below/x.safetensors")))
odd("an index of pickles", "names the shard 'pytorch_model.bin'", indexed(first_shard("pytorch_model.bin")))
odd("an index of numbers", "names the shard '7'", indexed(first_shard(7)))  # type: ignore[arg-type]
odd("an index without names", f"{INDEX}: it is no index", indexed(lambda told: told.pop("weight_map")))
odd("an index of a list", f"{INDEX}: it is no index", indexed(lambda told: told.update(weight_map=[1])))
odd("an index without metadata", f"{INDEX}: it is no index", indexed(lambda told: told.pop("metadata")))
odd("an index cut short", f"{INDEX}: it is not JSON", then(sharded, cut(INDEX)))
odd(
    "an index of names that are not there",
    opens,
    indexed(lambda told: told["weight_map"].update({"x.weight": SHARDS[0]})),
)
