"""The embedded base models, converted once: from their packages' GGUF to a plain checkpoint folder in the cache.

In: a packaged model. Out: its folder. Refuses bytes whose sha256 is not the pinned one, a tokenizer that does not split
a known sentence as it must, and a disk without room.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import tempfile
from collections.abc import Generator, Iterable
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from dragoman.core import Refusal
from dragoman.store import Cache, digest, opened, refusing, write_text
from dragoman.store.libraries import refuse_absent, version_of
from dragoman.tiny import PackagedModel, model_parts

log = logging.getLogger(__name__)
_MAKING = "conversion-1"  # goes up when what is done here changes
_NUMBER = re.compile(r"os error (\d+)")  # of the system, in what the safetensors library says


def converted(model: PackagedModel) -> Path:
    """Folder of the converted checkpoint; made on first use (about half a minute), reused after that."""
    folder, reused = Cache().get_or_make("model", converted_at(model).name, lambda p: _make(model, p))
    if not reused:
        log.info("converted %s from its package into %s", model.name, folder)
    return folder


def converted_at(model: PackagedModel) -> Path:
    """Where the converted checkpoint is, or would be."""
    # transformers reads the GGUF: the same bytes gave another tokenizer in another of its versions.
    made_by = digest(_MAKING, version_of("transformers"))
    return Cache().path("model", f"{model.name}-{model.sha256[:16]}-{made_by[:8]}")


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
        for part in parts:
            with closing(_blocks(part)) as blocks:
                for block in blocks:
                    sha.update(block)
                    out.write(block)
    if sha.hexdigest() != model.sha256:
        raise Refusal(
            f"model {model.name}",
            f"wrong sha256: its package holds {sha.hexdigest()[:12]}…, not {model.sha256[:12]}…",
            "reinstall the pinned package version; the verbalizers were trained on exactly those weights",
        )


def _blocks(part: Path) -> Generator[bytes]:
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
    with _read_once():
        tokenizer = AutoTokenizer.from_pretrained(scratch, gguf_file=gguf, trust_remote_code=False)
        check_tokens(model, tokenizer.tokenize(model.sentence))
        _save_tokenizer(tokenizer, folder)
        net = AutoModelForCausalLM.from_pretrained(
            scratch, gguf_file=gguf, dtype=torch.bfloat16, trust_remote_code=False
        )
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


@contextmanager
def _read_once() -> Generator[None]:
    """Have transformers read a GGUF once for its tokenizer, config and weights, and tensor names once for all modules.

    Its vocabulary is a million small arrays in Python: read three times, they are most of the minute it takes.
    """
    refuse_absent("an embedded model's weights", "gguf", extra="gguf")
    import gguf

    class Plain(gguf.GGUFReader):
        """Of its mapped bytes a plain array: a slice of that costs a quarter."""

        @property
        def data(self) -> Any:
            return self._bytes

        @data.setter
        def data(self, mapped: Any) -> None:
            self._bytes = np.asarray(mapped)

    own = gguf.GGUFReader, gguf.get_tensor_name_map
    module: Any = gguf
    try:
        module.GGUFReader, module.get_tensor_name_map = cache(Plain), cache(gguf.get_tensor_name_map)
        yield
    finally:
        module.GGUFReader, module.get_tensor_name_map = own


def _save_tokenizer(tokenizer: Any, folder: Path) -> None:
    # The fast tokenizer's own file, under the generic class: saving through the model's class lost Gemma's merges
    # between transformers versions (one token per character, silently).
    write_text(folder / "tokenizer.json", tokenizer.backend_tokenizer.to_str())
    special = {key: str(value) for key, value in tokenizer.special_tokens_map.items()}
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        **special,
        "pad_token": special.get("pad_token") or special["eos_token"],
        **({"chat_template": tokenizer.chat_template} if tokenizer.chat_template else {}),
    }
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
