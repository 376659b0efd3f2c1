"""Small whole files of every format dragoman reads, and for each the reader that takes it.

What the corpus of malformed files and the fuzz loop start from. `SAMPLES` makes them, `READERS` reads them: each reader
takes a path and goes as far into the file as dragoman ever does, without a model.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from safetensors.numpy import save_file

import dictionary_folders as folders
from dragoman.core import Refusal, Site
from dragoman.neuronpedia import Export
from dragoman.store import RunFolder, read_arrays, read_json, read_jsonl, read_texts, write_arrays
from dragoman.store.torchfile import TorchFile
from dragoman.verbalizers.registry import parse_registry
from dragoman.verbalizers.sidecar import Overrides, read_sidecar
from reading import read_directions, read_encoder

SITE = Site("m", folders.BLOCK)
ROWS = np.random.default_rng(0).standard_normal((12, 6)).astype(np.float32)
WIDTH = 8
SQUARE = np.eye(WIDTH, dtype=np.float32)
SIDECAR: dict[str, Any] = {
    "kind": "nla_model",
    "schema_version": 2,
    "role": "av",
    "base_checkpoint": "org/base",
    "d_model": 24,
    "extraction_layer_index": 3,
    "extraction": {"injection_scale": 1.5, "mse_scale": None},
    "tokens": {"injection_char": "@", "injection_token_id": 5, "injection_left_neighbor_id": 4},
    "prompt_templates": {"av": "Say <concept>{injection_char}</concept>."},
    "training": {"injection_mode": "replace", "chat_template": True},
}
AR_SIDECAR: dict[str, Any] = {
    "kind": "nla_model",
    "role": "ar",
    "base_checkpoint": "org/base",
    "d_model": WIDTH,
    "extraction_layer_index": 1,
    "extraction": {"mse_scale": 2.8},
    "tokens": {"critic_suffix_ids": [5, 6]},
    "prompt_templates": {"ar": "Summary: {explanation} <summary>"},
}
UNIVERSAL: dict[str, Any] = {
    "kind": "nla_model_universal",
    "av_base": "org/base",
    "d_shared": WIDTH,
    "injection_scale": "sqrt_d_model",
    "tokens": {"injection_char": "@", "injection_token_id": 5},
    "prompt_templates": {"actor": "{model_tag}: {injection_char}"},
}
UNIVERSAL_SETTINGS = {"model_tag": "small-1b", "model": "org/small-1b", "block": 3}
ADAPTER: dict[str, Any] = {
    "peft_type": "LORA",
    "r": 2,
    "lora_alpha": 4,
    "target_modules": ["q_proj"],
    "bias": "none",
    "base_model_name_or_path": "org/base",
}
EASY_META: dict[str, Any] = {
    "ar_num_layers": 2,
    "lora_r": 2,
    "lora_alpha": 4,
    "quant": None,
    "final_norm_stripped": True,
    "target_modules": r".*\.self_attn\.(q_proj|o_proj)|.*\.mlp\.(down_proj)",
}
REGISTRY = {
    "models": {"m": {"base": "org/base", "n_blocks": 30, "d_model": 576}},
    "checkpoints": [
        {"id": "org/av", "role": "av", "base": "org/base", "contract": "kitft", "blocks": [20], "n_blocks": 30,
         "quality": [{"metric": "FVE", "value": 0.7, "whose": "its card"}], "billions": 0.1,
         "saes": [{"block": 20, "repo": "org/sae", "path": "a/b"}]},
        {"id": "org/other", "role": "pair", "base": "org/base", "contract": "unknown", "mark": "unknown",
         "missing": "the contract", "switches": {"scale": "raw", "neighbours": [1, 2]}},
    ],
}  # fmt: skip
EXPORTED = {"modelId": "gemma-2-2b", "layer": "20-gemmascope-res-16k"}
SOURCE: dict[str, Any] = {
    "id": EXPORTED["layer"],
    "modelId": EXPORTED["modelId"],
    "saelensRelease": "gemma-scope-2b-pt-res-canonical",
    "saelensSaeId": "layer_20/width_16k/canonical",
    "hfRepoId": "google/gemma-scope-2b-pt-res",
    "hfFolderId": "layer_20/width_16k/average_l0_71",
    "saelensConfig": json.dumps({"hook_name": "blocks.20.hook_resid_post", "model_name": "gemma-2-2b"}),
}
MANIFEST = {"plan_digest": "0" * 64, "source": "m:20", "target": "n:3", "features": ["1", "2"]}


# Readers


def vectors(path: Path) -> Any:
    """A file of vectors, all rows."""
    return read_directions(path, site=SITE)


def dictionary(path: Path) -> Any:
    """Two rows of a dictionary, then its encoder."""
    return read_directions(path, site=SITE, features=[0, 3]), read_encoder(path)


def tensors(path: Path) -> Any:
    """Every tensor of a .pt file."""
    file = TorchFile(path)
    return {name: file.array(name).whole() for name in file.names}


def sidecar(path: Path) -> Any:
    """A verbalizer's sidecar, with a norm and without."""
    return read_sidecar(path, overrides=Overrides(scaled=False)), read_sidecar(path)


def contract(path: Path) -> Any:
    """A verbalizer's contract, by what its sidecar says."""
    from dragoman.models.contracts import contract_for
    from dragoman.models.contracts.base import CheckpointRequest

    universal = (path / "adapters").exists()
    settings = UNIVERSAL_SETTINGS if universal else {}
    request = CheckpointRequest(ref=str(path), folder=path, settings=settings)
    return contract_for(request, None)


def norm_matched(path: Path) -> Any:
    """The same under another contract's name."""
    from dragoman.models.contracts import contract_for
    from dragoman.models.contracts.base import CheckpointRequest

    return contract_for(CheckpointRequest(ref=str(path), folder=path), "karvonen")


def reconstructor(path: Path) -> Any:
    """A reconstructor's contract and value head."""
    from dragoman.models.reconstruct.contract import EASY_WEIGHTS, read_contract, read_head

    layout = "easynla" if (path / EASY_WEIGHTS).exists() else "kitft"
    found = read_contract(path, layout)
    return found, read_head(path / found.head_file, found.d_model)


def registry(path: Path) -> Any:
    """The table of checkpoints."""
    return parse_registry(path.read_text(encoding="utf-8", errors="replace"))


def run(path: Path) -> Any:
    """All parts of a run folder."""
    folder = RunFolder.open(path)
    return _all([folder.rows, lambda: folder.scores, folder.vectors])


def export(path: Path) -> Any:
    """All parts of a Neuronpedia export."""
    found = Export.open(path)

    def source() -> Any:
        record = found.source()
        return record and (record.site, record.dictionary)

    return _all([found.labels, source])


def _all(parts: list[Callable[[], Any]]) -> list[Any]:
    """Every part, also those behind one that is refused; the first refusal at the end."""
    out, refused = [], None
    for part in parts:
        try:
            out.append(part())
        except Refusal as refusal:
            refused = refused or refusal
    if refused:
        raise refused
    return out


READERS: dict[str, Callable[[Path], Any]] = {
    "arrays": read_arrays,
    "vectors": vectors,
    "dictionary": dictionary,
    "tensors": tensors,
    "sidecar": sidecar,
    "contract": contract,
    "norm-matched": norm_matched,
    "reconstructor": reconstructor,
    "registry": registry,
    "json": read_json,
    "jsonl": read_jsonl,
    "texts": read_texts,
    "run": run,
    "export": export,
}
# Those that load torch, or transformers with it.
HEAVY = {"tensors", "contract", "norm-matched", "reconstructor"}


# Whole files


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A whole file or folder: ``make`` writes it into an empty folder and gives what ``reader`` is called with."""

    name: str
    reader: str
    make: Callable[[Path], Path]
    heavy: bool = False

    @property
    def loads_torch(self) -> bool:
        return self.heavy or self.reader in HEAVY


def written(path: Path, content: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def jsonl(rows: list[Any]) -> str:
    return "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)


def arrays_file(folder: Path) -> Path:
    write_arrays(folder / "a.safetensors", {"x": ROWS, "n": np.arange(4), "on": np.array([True])}, {"holds": "rows"})
    return folder / "a.safetensors"


def npy(folder: Path) -> Path:
    np.save(folder / "v.npy", ROWS)
    return folder / "v.npy"


def npz(folder: Path) -> Path:
    np.savez(folder / "v.npz", v=ROWS)
    return folder / "v.npz"


def packed_npz(folder: Path) -> Path:
    np.savez_compressed(folder / "v.npz", v=np.asfortranarray(ROWS))
    return folder / "v.npz"


def safetensors_vectors(folder: Path) -> Path:
    save_file({"v": ROWS.astype(np.float16)}, folder / "v.safetensors")
    written(folder / "labels.json", json.dumps({"0": "rivers", "3": "commas"}))
    return folder / "v.safetensors"


def pt(folder: Path) -> Path:
    import torch

    rows = torch.from_numpy(ROWS.copy())
    torch.save({"v": rows, "cfg": {"k": 3, "name": "x"}, "half": rows.half()}, folder / "v.pt")
    return folder / "v.pt"


def checkpoint(folder: Path) -> Path:
    written(folder / "nla_meta.yaml", yaml.safe_dump(SIDECAR, allow_unicode=True))
    written(folder / "config.json", json.dumps({"hidden_size": 24, "text_config": {"hidden_size": 24}}))
    return folder


def oddly_fed(folder: Path) -> Path:
    stated = {k: v for k, v in SIDECAR.items() if k != "training"} | {"kind": "nla_dataset", "extraction": {}}
    written(folder / "nla_meta.yaml", yaml.safe_dump(stated))
    return folder


def universal(folder: Path) -> Path:
    written(folder / "nla_meta.yaml", yaml.safe_dump(UNIVERSAL))
    meta = {"d_shared": WIDTH, "model_dims": {"small-1b": 6}, "adapter_class": "LinearAdapter"}
    written(folder / "adapters/meta.json", json.dumps(meta))
    save_file({"encoders.small-1b.weight": np.ones((WIDTH, 6), np.float32)}, folder / "adapters/adapters.safetensors")
    return folder


def full_reader(folder: Path) -> Path:
    written(folder / "nla_meta.yaml", yaml.safe_dump(AR_SIDECAR))
    written(folder / "config.json", json.dumps({"text_config": {"hidden_size": WIDTH, "num_hidden_layers": 2}}))
    save_file({"weight": SQUARE, "bias": SQUARE[0]}, folder / "value_head.safetensors")
    save_file({"x": ROWS}, folder / "model.safetensors")
    return folder


def peft_reader(folder: Path) -> Path:
    written(folder / "nla_meta.yaml", yaml.safe_dump(AR_SIDECAR))
    written(folder / "adapter_config.json", json.dumps(ADAPTER))
    save_file({"weight": SQUARE}, folder / "value_head.safetensors")
    save_file(lora("base_model.model.model.", ".weight"), folder / "adapter_model.safetensors")
    return folder


def easy_reader(folder: Path) -> Path:
    written(folder / "nla_meta.yaml", yaml.safe_dump(AR_SIDECAR | {"kind": "nla_dataset", "role": None}))
    written(folder / "ar_meta.json", json.dumps(EASY_META))
    head = {"value_head.weight": SQUARE}
    save_file(head | lora("backbone.model.", ".default.weight"), folder / "ar_lora_value_head.safetensors")
    return folder


def lora(before: str, after: str) -> dict[str, np.ndarray]:
    """A and B of rank 2 for one projection of each of two blocks."""
    places = [f"{before}layers.{block}.self_attn.q_proj" for block in (0, 1)]
    a = {f"{place}.lora_A{after}": np.ones((2, WIDTH), np.float32) for place in places}
    return a | {f"{place}.lora_B{after}": np.ones((WIDTH, 2), np.float32) for place in places}


def run_folder(folder: Path) -> Path:
    made = RunFolder.create(folder / "run", MANIFEST)
    made.append([{"feature": "1", "kind": "feature", "text": "rivers", "sample": k, "card": None} for k in range(3)])
    made.write_vectors({"plain": ROWS}, {"ids": ["1", "2"]})
    made.write_scores({"plain": {"lift": 0.25, "per_feature": [0.1, 0.4]}})
    return folder / "run"


def export_folder(folder: Path) -> Path:
    kinds = {
        "explanations": [{**EXPORTED, "index": str(i), "description": f"rivers {i}", "typeName": "a"} for i in (0, 1)],
    }
    for kind, rows in kinds.items():
        written(folder / kind / "batch-0.jsonl.gz", gzip.compress(jsonl(rows).encode(), mtime=0))
    written(folder / "source.jsonl", jsonl([SOURCE]))
    written(folder / "model.jsonl", jsonl([{"id": "gemma-2-2b", "hfRepoId": "google/gemma-2-2b"}]))
    return folder


def text_file(name: str, content: str, *, packed: bool = False) -> Callable[[Path], Path]:
    body = gzip.compress(content.encode(), mtime=0) if packed else content.encode()
    return lambda folder: written(folder / name, body)


_TEXTS = jsonl([{"text": "The first."}, {"text": "The second, with é."}, {"text": "third"}])

SAMPLES: tuple[Sample, ...] = (
    Sample(name="arrays", reader="arrays", make=arrays_file),
    Sample(name="npy", reader="vectors", make=npy),
    Sample(name="npz", reader="vectors", make=npz),
    Sample(name="packed npz", reader="vectors", make=packed_npz),
    Sample(name="safetensors with labels", reader="vectors", make=safetensors_vectors),
    Sample(name="pt", reader="tensors", make=pt),
    Sample(
        name="saelens", reader="dictionary", make=lambda f: folders.saelens(f / "sae", normalize_activations="none")
    ),
    Sample(name="gemma scope", reader="dictionary", make=folders.gemma_scope),
    Sample(name="packed gemma scope", reader="dictionary", make=lambda f: folders.gemma_scope(f, packed=True)),
    Sample(name="gemma scope 2", reader="dictionary", make=folders.gemma_scope_2),
    Sample(name="llama scope", reader="dictionary", make=folders.llama_scope),
    Sample(name="sparsify", reader="dictionary", make=folders.sparsify),
    Sample(name="dictionary_learning", reader="dictionary", make=folders.dictionary_learning, heavy=True),
    Sample(
        name="dictionary_learning topk",
        reader="dictionary",
        make=lambda f: folders.dictionary_learning(f, "AutoEncoderTopK"),
        heavy=True,
    ),
    Sample(name="qwen scope", reader="dictionary", make=folders.qwen_scope, heavy=True),
    Sample(name="goodfire", reader="dictionary", make=folders.goodfire, heavy=True),
    Sample(name="sidecar", reader="sidecar", make=checkpoint),
    Sample(name="kitft", reader="contract", make=checkpoint),
    Sample(name="universal", reader="contract", make=universal),
    Sample(name="karvonen", reader="norm-matched", make=oddly_fed),
    Sample(name="full reconstructor", reader="reconstructor", make=full_reader),
    Sample(name="adapter reconstructor", reader="reconstructor", make=peft_reader),
    Sample(name="easynla reconstructor", reader="reconstructor", make=easy_reader),
    Sample(name="registry", reader="registry", make=lambda f: written(f / "r.yaml", yaml.safe_dump(REGISTRY))),
    Sample(name="json", reader="json", make=text_file("a.json", json.dumps({"a": [1, 2.5, None], "b": "x"}))),
    Sample(name="jsonl", reader="jsonl", make=text_file("a.jsonl", _TEXTS)),
    Sample(name="txt", reader="texts", make=text_file("a.txt", "One.\nTwo é.\n")),
    Sample(name="packed texts", reader="texts", make=text_file("a.jsonl.gz", _TEXTS, packed=True)),
    Sample(name="run", reader="run", make=run_folder),
    Sample(name="export", reader="export", make=export_folder),
)
