"""Odd adapters, reconstructors and sentence embedders; entered in `odd_changes.ODD`."""

from __future__ import annotations

import json
import os
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from odd_changes import (
    EVIL,
    UP,
    WEIGHTS,
    Change,
    code,
    config,
    content,
    cut,
    first_shard,
    gone,
    indexed,
    instead,
    named,
    odd,
    one,
    opens,
    poisoned,
    replacing,
    settings,
    sidecar,
    tensors,
    then,
    tokenizer,
    with_code,
)

# --- adapters: the folder of one, with its base in ``base`` beside it ----------------------------------------------

ADAPTER, LORA = "adapter_config.json", "adapter_model.safetensors"
adapter = partial(odd, kind="adapter")


def base(change: Change) -> Change:
    """A change of the base."""
    return lambda folder: change(folder.parent / "base")


def on_base(folder: Path, base: Path) -> None:
    """Let an adapter sit on the base beside it."""
    peft(base_model_name_or_path=str(base))(folder)
    sidecar(base_checkpoint=str(base))(folder)


def peft(**changes: Any) -> Change:
    return settings(ADAPTER, **changes)


def links_to_itself(folder: Path) -> None:
    """An adapter that says it sits on itself."""
    settings(ADAPTER, base_model_name_or_path=str(folder))(folder)
    sidecar(base_checkpoint=str(folder))(folder)


adapter("an adapter", opens, lambda _: None)
adapter("an adapter without weights", "no adapter_model.safetensors", gone(LORA))
adapter("an adapter cut short", "adapter_(model|config)", cut(LORA))
adapter("an adapter of zeros", "adapter_(model|config)", content(LORA, b"\0" * 900))
adapter("an adapter of no tensors", "adapter's tensors|adapter_", lambda f: save_file({}, f / LORA))
for _words, _text in [("cut short", '{"r": 4'), ("a list", "[1]"), ("nested deep", "[" * 100_000), ("empty", "")]:
    adapter(f"adapter settings {_words}", r"adapter_config\.json", content(ADAPTER, _text))
adapter("adapter settings a pipe", "the folder holds adapter_model", instead(ADAPTER, os.mkfifo))
for _key, _value in [
    ("r", "four"), ("r", 10**9), ("r", 0), ("r", [4]), ("lora_alpha", "much"), ("target_modules", 7),
    ("target_modules", ["nothing_of_that_name"]), ("target_modules", "(a+)+$"),
    ("peft_type", "EVIL"), ("peft_type", "PROMPT_TUNING"), ("peft_type", 3),
    ("layer_replication", [[0, 10**8]]), ("layer_replication", [[0, 4]] * 2), ("layers_to_transform", "all"),
    ("modules_to_save", 7), ("use_dora", True), ("bias", "evil"), ("init_lora_weights", "evil"),
    ("rank_pattern", {"(a+)+$": 4}),
    ("megatron_config", {"a": 1}), ("task_type", "EVIL"), ("base_model_name_or_path", ["x"]),
]:  # fmt: skip
    adapter(f"adapter setting {_key} {str(_value)[:24]}", "adapter|PEFT|peft", peft(**{_key: _value}))
adapter(
    "an adapter that imports a module",
    "adapter",
    then(with_code, peft(megatron_config={"tensor_model_parallel_size": 1}, megatron_core="evil")),
)
adapter("an adapter on itself", "sits on itself", links_to_itself)
adapter("an adapter on nothing", "there is no such folder", lambda f: on_base(f, Path("./nowhere-at-all")))
adapter("an adapter on a long name", "File name too long", lambda f: on_base(f, Path("x" * 300)))
adapter("an adapter on nobody's folder", "home directory", lambda f: on_base(f, Path("~nobody-of-that-name/base")))
adapter("an adapter of another width", "width 7, its base .* has width 48", sidecar(d_model=7))
adapter(
    "an adapter on a file",
    "it is a file, not a folder",
    lambda f: then(peft(base_model_name_or_path=str(f / ADAPTER)), sidecar(base_checkpoint=str(f / ADAPTER)))(f),
)
adapter("an adapter on a torn base", "model.safetensors: it is not a whole", base(cut(WEIGHTS)))
adapter("an adapter on a base with code", "own code", base(code(EVIL, model_type="evil")))
adapter(
    "an adapter on a base of 10^8 blocks",
    "config.json: its num_hidden_layers is 100000000",
    base(config(num_hidden_layers=10**8)),
)
adapter(
    "an adapter with an odd tokenizer",
    "its normalizer can make",
    lambda f: then(
        lambda g: shutil.copy(g.parent / "base" / "tokenizer.json", g),
        tokenizer(normalizer=replacing({"String": "a"}, "aa", 40)),
    )(f),
)
adapter(
    "an adapter with a template that is no text",
    "chat_template.jinja: it is not UTF-8",
    content("chat_template.jinja", b"\xff\xfe"),
)

# --- reconstructors ------------------------------------------------------------------------------------------------

reader = partial(odd, kind="reconstructor")
AR_UP = UP.replace("layers.1", "layers.0")
reader("a reconstructor", opens, lambda _: None)
for _name in ("config.json", WEIGHTS, "tokenizer.json", "value_head.safetensors"):
    reader(f"a reconstructor's {_name} cut short", _name.replace(".", r"\."), cut(_name))
    reader(f"a reconstructor's {_name} gone", r"weights|it holds no", gone(_name))
    reader(f"a reconstructor's {_name} a folder", r"it holds no|it is a folder|weights", instead(_name, Path.mkdir))
reader("a reconstructor with code", "own code", code(EVIL, model_type="evil"))
reader(
    "a reconstructor whose tokenizer is code",
    "own code",
    code({"AutoTokenizer": ["evil.EvilTokenizer", None]}, "tokenizer_config.json"),
)
reader("a reconstructor of 10^8 blocks", "disagree about the block", config(num_hidden_layers=10**8))
reader("a reconstructor of a wide vocabulary", r"config\.json", config(vocab_size=10**10))
reader("a reconstructor of an unknown family", r"config\.json", config(model_type="evil"))
reader("a reconstructor with a weight NaN", "holds NaN", one(AR_UP, poisoned(float("nan"))))
reader("a reconstructor with a weight of whole numbers", "holds whole numbers", one(AR_UP, lambda t: t.int()))
reader("a reconstructor with a weight missing", "1 weights are missing", tensors(lambda h: h.pop(AR_UP)))
reader(
    "a reconstructor whose index leaves its folder",
    "names the shard|it holds no",
    indexed(first_shard("../stray.safetensors")),
)
reader(
    "a reconstructor whose tokenizer grows",
    "its normalizer can make",
    tokenizer(normalizer=replacing({"String": "a"}, "aa", 40)),
)
reader("a reconstructor whose tokenizer fails", "tokenizer", named(model_max_length="long"))
reader("a reconstructor quantised", "quantised", config(quantization_config={"quant_method": "gptq", "bits": 4}))

# --- sentence embedders --------------------------------------------------------------------------------------------

embedder = partial(odd, kind="embedder")
MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
]


def modules(first: dict[str, Any]) -> Change:
    return content("modules.json", json.dumps([MODULES[0] | first, MODULES[1]]))


embedder("an embedder", opens, lambda _: None)
embedder(
    "an embedder of its own code", "'evil.Evil' is code of its own", then(with_code, modules({"type": "evil.Evil"}))
)
embedder("an embedder with code", "own code", code({"AutoModel": "modeling_evil.Evil"}, model_type="evil"))
embedder("an embedder elsewhere", "its module's folder '../x' is not in the model's", modules({"path": "../x"}))
embedder("an embedder of no list", "modules.json: it is no list", content("modules.json", "{}"))
embedder("an embedder cut short", "model.safetensors: it is not a whole", cut(WEIGHTS))
embedder("an embedder of a torn tokenizer", "tokenizer.json", cut("tokenizer.json"))
embedder("an embedder of 10^8 blocks", "num_hidden_layers is 100000000", config(num_hidden_layers=10**8))
embedder("an embedder of an unknown family", "cannot open it", config(model_type="evil"))
embedder("an embedder of pickles", "pickled", then(gone(WEIGHTS), lambda f: torch.save({}, f / "pytorch_model.bin")))
embedder("an embedder without weights", "cannot open it", gone(WEIGHTS))
embedder("an embedder that pools oddly", "cannot open it", content("1_Pooling/config.json", '{"evil": 1}'))
