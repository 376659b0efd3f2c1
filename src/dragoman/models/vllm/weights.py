"""What vLLM is handed: what it can serve at all, and the folder that it loads.

In: a contract, a model's folder; or a merged model. Out: nothing, or a folder. Refuses contracts that change the stream
inside the model, quantised weights, and a device that the installed vLLM does not run on; all before weights are read.

vLLM loads folders, and adapters are merged here, checked against PEFT, and only then handed over: the merged model is
written once, as safetensors, into the cache under the digest of everything that decides it. vLLM's own LoRA is not
used: it takes no settings beyond plain LoRA, and nothing would check the sum.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dragoman.core import Refusal
from dragoman.models.bounds import quantised, quietly
from dragoman.models.contracts.base import Contract
from dragoman.models.folder import CONFIG, read_config
from dragoman.store import Cache, digest, read_json, write_json

LOOP = "use --engine captured or loop"
_DECIDE = ("weights", "files", "base", "dtype")  # words of an identity, and their endings, that decide merged weights


def refuse_unserved(contract: Contract, whole: Path, what: str) -> None:
    """Refuse what vLLM cannot be handed, by files alone.

    Args:
        contract: what feeds the verbalizer.
        whole: folder of the model, or of the one under its adapters.
        what: how refusals call the verbalizer.

    Raises:
        Refusal: the contract adds inside the model, or the weights are quantised.
    """
    if contract.adds_inside:
        why = f"contract '{contract.name}' adds its vector inside the model, and vLLM takes embeddings alone"
        raise Refusal(f"{what} by vLLM", why, LOOP)
    if (whole / CONFIG).is_file() and quantised(read_config(whole)):
        why = "its weights are quantised, and embeddings are compared with whole weights only"
        raise Refusal(f"{what} by vLLM", why, LOOP)


def merged_folder(net: Any, tokenizer: Any, identity: Mapping[str, object]) -> Path:
    """The folder of a model with adapters in its weights; written where it is not in the cache yet.

    Args:
        net: the model, merged.
        tokenizer: its own.
        identity: of the verbalizer; what decides its weights is taken from it.

    Raises:
        Refusal: the disk refused.
    """
    decides = {key: value for key, value in identity.items() if key.endswith(_DECIDE)}

    def make(folder: Path) -> None:
        with quietly():
            net.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
        _untied(net, folder / CONFIG)

    folder, _ = Cache().get_or_make("merged", digest(json.dumps(decides, sort_keys=True)), make)
    return folder


def _untied(net: Any, path: Path) -> None:
    """Say so in a config.json where the two ends of a model no longer share their weights."""
    if net.get_input_embeddings().weight is net.get_output_embeddings().weight:
        return
    config: Any = read_json(path)
    for part in (config, config.get("text_config")):
        if isinstance(part, dict):
            part["tie_word_embeddings"] = False
    write_json(path, config)
