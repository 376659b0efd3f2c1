"""The embedded base models, from their packages' GGUF to a plain checkpoint folder, once.

In: a ``PackagedModel``. Out: a folder with config.json, model.safetensors (bfloat16) and tokenizer files, in the cache.
Refuses bytes whose sha256 is not the pinned one, a tokenizer that does not split a known sentence as it must, and disks
that are full or forbidden.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import tempfile
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from dragoman.core import Refusal
from dragoman.store import Cache, digest, opened, refusing, write_text
from dragoman.tiny import PackagedModel, model_parts

log = logging.getLogger(__name__)
_MAKING = "conversion-1"  # goes up when what is done here changes
_NUMBER = re.compile(r"os error (\d+)")  # of the system, in what the safetensors library says


def converted(model: PackagedModel) -> Path:
    """Folder of the converted checkpoint; made on first use (about a minute on two cores), reused after that."""
    # transformers reads the GGUF: the same bytes gave another tokenizer in another of its versions.
    made_by = digest(_MAKING, version("transformers"))
    name = f"{model.name}-{model.sha256[:16]}-{made_by[:8]}"
    folder, reused = Cache().get_or_make("model", name, lambda p: _make(model, p))
    if not reused:
        log.info("converted %s from its package into %s", model.name, folder)
    return folder


def _make(model: PackagedModel, folder: Path) -> None:
    with refusing("writing", folder):
        folder.mkdir(parents=True, exist_ok=True)
        # In the cache, which must have room for the model anyway; a temporary folder is often kept in memory.
        held = tempfile.TemporaryDirectory(dir=folder)
    with held as scratch:
        whole = Path(scratch) / "model.gguf"
        join_verified(model_parts(model), whole, model)
        _convert(Path(scratch), whole.name, folder, model)


def join_verified(parts: Iterable[Path], whole: Path, model: PackagedModel) -> None:
    """Join the parts and refuse them unless the sum is the pinned one."""
    sha = hashlib.sha256()
    with refusing("writing", whole), whole.open("wb") as out:
        for block in (block for part in parts for block in _blocks(part)):
            sha.update(block)
            out.write(block)
    if sha.hexdigest() != model.sha256:
        raise Refusal(
            f"model {model.name}",
            f"wrong sha256: its package holds {sha.hexdigest()[:12]}…, not {model.sha256[:12]}…",
            "reinstall the pinned package version; the verbalizers were trained on exactly those weights",
        )


def _blocks(part: Path) -> Iterator[bytes]:
    """A file in pieces; what the disk says while they are written is not said of this file."""
    with opened(part) as file:
        while block := file.read(1 << 22):
            yield block


def _convert(scratch: Path, gguf: str, folder: Path, model: PackagedModel) -> None:
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging as talk

    talk.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(scratch, gguf_file=gguf)
    check_tokens(model, tokenizer.tokenize(model.sentence))
    _save_tokenizer(tokenizer, folder)
    net = AutoModelForCausalLM.from_pretrained(scratch, gguf_file=gguf, dtype=torch.bfloat16)
    # A model loaded from GGUF is marked quantised and refuses save_pretrained: write its state dict instead.
    tied = "lm_head.weight" if net.config.tie_word_embeddings else None
    state = {k: v.to(torch.bfloat16).contiguous() for k, v in net.state_dict().items() if k != tied}
    with refusing("writing", folder / "model.safetensors"):
        try:
            save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
        except SafetensorError as error:
            found = _NUMBER.search(str(error))
            raise OSError(int(found[1]) if found else None, str(error)) from error
    config = net.config.to_dict()
    for key in ("quantization_config", "_name_or_path", "_model_name_or_path"):
        config.pop(key, None)
    config.update(dtype="bfloat16", architectures=[type(net).__name__])
    write_text(folder / "config.json", json.dumps(config, indent=1))


def _save_tokenizer(tokenizer: Any, folder: Path) -> None:
    # The fast tokenizer's own file, under the generic class: saving through the model's class lost Gemma's merges
    # between transformers versions (one token per character, silently).
    write_text(folder / "tokenizer.json", tokenizer.backend_tokenizer.to_str())
    settings: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    settings |= {key: str(value) for key, value in tokenizer.special_tokens_map.items()}
    settings["pad_token"] = settings.get("pad_token") or settings["eos_token"]
    if tokenizer.chat_template:
        settings["chat_template"] = tokenizer.chat_template
    write_text(folder / "tokenizer_config.json", json.dumps(settings, indent=1, ensure_ascii=False))


def check_tokens(model: PackagedModel, tokens: Iterable[str]) -> None:
    """Refuse a tokenizer that does not split the known sentence as the pinned one does."""
    found = tuple(tokens)
    if found != model.tokens:
        raise Refusal(
            f"the tokenizer of {model.name}",
            f"it splits a known sentence into {len(found)} tokens instead of {len(model.tokens)} (lost merges?)",
            "delete the cached folder and install the pinned transformers version",
        )
