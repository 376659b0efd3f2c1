"""Whether a model's config.json and tokenizer.json stay within bounds, told before a library acts on them.

In: the configuration as JSON, the shapes of the stored tensors, the class that opens it; a tokenizer.json. Out:
nothing. Refuses more blocks, experts or labels than the weights could fill, models of several times the stored numbers,
encoder-decoders, families that transformers does not know, and tokenizers that grow texts, take for ever or draw at
random. What transformers builds while it reads a configuration grows with these numbers: 10^8 blocks are 10^8 Python
objects before the first weight is looked at. What a tokenizer.json does to a text is Rust's business and cannot be
stopped from here: it is tried in a process of its own first (`tokenizer_child`).
"""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import logging as talk

from dragoman.core import Refusal
from dragoman.models.folder import CONFIG
from dragoman.store import file_sha256
from dragoman.store.boundary import AGAIN, Limits, ask, opening
from dragoman.store.spans import shown
from dragoman.verbalizers.prompt import PLAIN_ENGLISH

_OF_BLOCKS = re.compile(r"layer|depth|block|stage")
_COUNT = re.compile(r"^(?:num|n)_|experts|labels")
_SPARE = 64  # blocks of towers whose weights a checkpoint may leave out
_HARMLESS = 10_000  # of anything else
_ALONE = 2_000  # blocks where there are no weights to compare with: of a folder that holds a tokenizer
_TIMES, _TIMES_QUANTISED = 2, 16  # a tied matrix counts twice; packed weights hold up to sixteen numbers in one
_MORE = 50_000_000

# Gemma's, of 33 MB and a quarter of a million words, takes 2 seconds and 600 MB.
LIMITS = Limits(seconds=30, megabytes=4000)
_CHILD = Path(__file__).with_name("tokenizer_child.py")
INSTEAD = "copy the original tokenizer.json of the base model into the folder"
_TEXTS = (
    PLAIN_ENGLISH,
    "".join(map(chr, range(32, 127))) * 4,
    "a" * 200 + "!\n\t  Zäöß € 東京 \U0001f600 ﷺ",
    " " * 200,
)

_tried: set[str] = set()  # digests of those that held
_built: dict[tuple[str, str], WithoutNumbers] = {}  # by class and content of config.json


def quantised(config: Mapping[str, Any]) -> bool:
    """Whether the weights are stored packed."""
    return bool(config.get("quantization_config"))


def refuse_unknown_packing(folder: Path, config: Mapping[str, Any]) -> None:
    """Refuse a way of packing weights that transformers does not know: it would go on as if there were none."""
    from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

    told = config.get("quantization_config")
    if not told:
        return
    method = told.get("quant_method") if isinstance(told, Mapping) else told
    known = {*AUTO_QUANTIZATION_CONFIG_MAPPING, "bitsandbytes"}  # there by its number of bits
    if not isinstance(method, str) or method not in known:
        why = f"its weights are quantised by '{shown(method)}', which transformers {transformers.__version__} has not"
        raise Refusal(f"{folder / CONFIG}", why, "use its weights in bfloat16")


@contextmanager
def quietly() -> Iterator[None]:
    """Keep transformers from telling of missing weights and odd settings as advice; here they are judged.

    One inside another costs nothing; the outermost makes Python forget of every logger what it lets through.
    """
    before = talk.get_verbosity()
    if before >= logging.ERROR:
        yield
        return
    talk.set_verbosity_error()
    try:
        yield
    finally:
        talk.set_verbosity(before)


def refuse_counts(folder: Path, config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]] | None) -> None:
    """Refuse counts that the stored tensors could not fill; ``shapes`` None where there are no weights."""
    refuse_unknown_packing(folder, config)
    largest = max((side for shape in shapes.values() for side in shape), default=0) if shapes else 0
    for name, value in _whole_numbers(config):
        if _OF_BLOCKS.search(name):
            limit = _ALONE if shapes is None else len(shapes) + _SPARE
        elif _COUNT.search(name):
            limit = max(_HARMLESS, largest)
        else:
            continue
        if value > limit:
            held = "" if shapes is None else f", and its weights are {len(shapes)} tensors"
            raise Refusal(f"{folder / CONFIG}", f"its {shown(name)} is {shown(value)}{held}", AGAIN)


def refuse_size(folder: Path, auto: Any, config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> Any:
    """Build the model without its numbers, and refuse one far larger than what is stored.

    Returns its configuration as transformers has it: reading that takes milliseconds, so it is read once a model.
    """
    path = folder / CONFIG
    for part in (config, config.get("text_config")):
        if isinstance(part, Mapping) and _has_encoder(part):
            _refuse_encoder(path, part.get("model_type"))
    why = f"transformers {transformers.__version__} cannot build the model it tells of"
    with quietly(), opening(path, why):
        told = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        if told.is_encoder_decoder:
            _refuse_encoder(path, told.model_type)
        asked = without_numbers(auto, told, config).count
    held = sum(math.prod(shape) for shape in shapes.values())
    if asked > held * (_TIMES_QUANTISED if quantised(config) else _TIMES) + _MORE:
        why = f"the model it tells of has {asked} numbers, and {held} are stored beside it"
        raise Refusal(f"{path}", why, "use the config.json and weights of one checkpoint")
    return told


@dataclass(frozen=True, slots=True)
class WithoutNumbers:
    """Of a model that is built without its numbers: how many it has, shapes by name, shape of its output layer."""

    count: int
    shapes: Mapping[str, tuple[int, ...]]
    head: tuple[int, ...] | None


def without_numbers(auto: Any, told: Any, config: Mapping[str, Any]) -> WithoutNumbers:
    """What a configuration tells of, by a class of transformers; a file's content is built once a process."""
    key = auto.__name__, json.dumps(config)
    if key not in _built:
        with torch.device("meta"):
            net: Any = auto.from_config(told, trust_remote_code=False)
        head = net.get_output_embeddings() if hasattr(net, "get_output_embeddings") else None
        _built[key] = WithoutNumbers(
            count=sum(part.numel() for part in (*net.parameters(), *net.buffers())),
            shapes={name: tuple(tensor.shape) for name, tensor in net.state_dict().items()},
            head=None if head is None else tuple(head.weight.shape),
        )
    return _built[key]


def _refuse_encoder(path: Path, kind: object) -> None:
    raise Refusal(f"{path}", f"it is of an encoder-decoder model ({shown(kind)})", "use a decoder-only model")


def _has_encoder(config: Mapping[str, Any]) -> bool:
    """Whether a model has an encoder whose output its decoder reads, by its configuration or by its type.

    Some types (BART, Whisper) have a decoder that stands alone as well, and then say false; of the others (T5) a
    configuration that says so is wrong.
    """
    stated, kind = config.get("is_encoder_decoder"), config.get("model_type")
    if stated is True:
        return True
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        return False
    usual = getattr(CONFIG_MAPPING[kind], "is_encoder_decoder", False) is True
    return usual and (stated is not False or kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def _whole_numbers(settings: Any, depth: int = 8) -> Iterator[tuple[str, int]]:
    """Name and value of every whole number, however deep."""
    if not isinstance(settings, Mapping) or not depth:
        return
    for name, value in settings.items():
        if isinstance(value, int) and not isinstance(value, bool):
            yield str(name), value
        elif isinstance(value, float) and value.is_integer():
            yield str(name), int(value)
        else:
            yield from _whole_numbers(value, depth - 1)


def refuse_unbounded(path: Path) -> None:
    """Try a tokenizer.json in a process of its own, the same bytes once; refuse one that does not stay in bounds."""
    content = file_sha256(path)
    if content not in _tried:
        ask(_CHILD, {"path": str(path), "texts": list(_TEXTS)}, LIMITS, f"{path}", INSTEAD)
        _tried.add(content)
