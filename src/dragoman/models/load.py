"""Open a model and its tokenizer, whatever family it is, and find its decoder blocks.

In: a reference or folder, of a whole model or of a LoRA adapter on one (`merge` adds it); a device in torch's words.
Out: a transformers model in eval mode, its fast tokenizer, its blocks. Refuses folders without safetensors (pickles are
never loaded) or tokenizer.json, weights that would stay at random or lose a block, adapters on nothing, unknown dtypes,
devices that are not here, models without decoder blocks, and embedded tokenizers that split a known sentence otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import torch
import transformers
from torch import nn
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast
from transformers.utils import logging as talk

from dragoman import tiny
from dragoman.core import Refusal, Site
from dragoman.models.adapters import named_base, read_settings
from dragoman.models.bounds import (
    INSTEAD,
    quantised,
    quietly,
    refuse_counts,
    refuse_size,
    refuse_unbounded,
)
from dragoman.models.first import Shapes, first_blocks
from dragoman.models.folder import (
    ADAPTER,
    ADAPTER_WEIGHTS,
    CONFIG,
    TOKENIZER,
    TOKENIZER_SETTINGS,
    check_folder,
    deciding,
    need_tokenizer,
    read_config,
    shapes_in,
    weight_files,
)
from dragoman.models.packaged import check_tokens
from dragoman.models.resolve import folder_of
from dragoman.models.sizes import place_of
from dragoman.store import digest, fingerprint_of, read_json
from dragoman.store.boundary import AGAIN, opening
from dragoman.store.spans import words_of

_held: WeakValueDictionary[tuple[Any, ...], Any] = WeakValueDictionary()  # tokenizers, by the files beside them
NO_ROOM, SMALLER = "it cannot be put on device", "use another device, or a smaller model"
_HAS_BFLOAT16 = ("AVX512", "SVE")  # instructions of a CPU that come with products of it, or with quick stand-ins
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

talk.disable_progress_bar()


def torch_dtype(name: str) -> torch.dtype:
    """A dtype by its word; refuse others."""
    if name not in DTYPES:
        raise Refusal(f"dtype '{name}'", f"known are {', '.join(DTYPES)}", "use one of these")
    return DTYPES[name]


def load_model(
    ref: str | Path, *, dtype: str = "float32", device: str = "cpu", upto: int | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """A causal language model in eval mode with its tokenizer.

    Args:
        ref: packaged name, folder or hub id.
        dtype: it computes in.
        device: it runs on.
        upto: the last block that is read; None where the whole model is wanted. What stands behind that block, the
            output layer too, is then not opened, where the family is one that makes the same of fewer blocks
            (``first``). ``blocks_of`` tells how many the whole model has.
    """
    folder, kind = folder_of(ref), torch_dtype(dtype)
    with quietly():
        net = None if upto is None else _first_alone(folder, kind, f"{ref}", device, upto)
        if net is None:
            net, report = open_weights(AutoModelForCausalLM, folder, kind, f"{ref}", device)
            _refuse_partial(report, f"{ref}")
        return ready(net, folder, device), load_tokenizer(ref)


def _first_alone(folder: Path, kind: torch.dtype, what: str, device: str, upto: int) -> Any:
    """Blocks 0 to ``upto`` without output layer; None where anything is odd: the whole model tells what it is."""
    config, shapes, told = _looked_at(AutoModelForCausalLM, folder, what)
    found = first_blocks(told, config, shapes, upto)
    if found is None:
        return None
    shorter, count = found
    net, report = _loaded(AutoModel, folder, kind, what, device, config, shorter)
    lost = [k for k in report["unexpected_keys"] if (place := place_of(k)) and not upto < place[0] < count]
    if report["missing_keys"] or report["mismatched_keys"] or lost:
        return None
    net.blocks_of_the_whole = count
    return net


def load_tokenizer(ref: str | Path) -> PreTrainedTokenizerFast:
    """The fast tokenizer in a folder; the embedded ones are checked against a known tokenisation."""
    folder, packaged = folder_of(ref), str(ref) in tiny.MODELS
    check_folder(folder, f"tokenizer {ref}")
    path = need_tokenizer(folder, f"{ref}")
    if (folder / CONFIG).is_file():  # transformers reads it to choose a class
        refuse_counts(folder, read_config(folder), None)
    if not packaged:
        refuse_unbounded(path)
    tokenizer = _opened_once(folder, _packaged_tokenizer if packaged else _opened_tokenizer)
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise Refusal(f"{ref}", f"its tokenizer is a {type(tokenizer).__name__}, not a fast one", INSTEAD)
    if packaged:
        check_tokens(tiny.MODELS[str(ref)], tokenizer.tokenize(tiny.MODELS[str(ref)].sentence))
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"
    return tokenizer


def with_template(tokenizer: Any, template: str) -> Any:
    """A tokenizer that renders chats by ``template``; the one that is given, which others may hold, stays as it is."""
    own = copy(tokenizer)
    own.chat_template = template
    return own


def _opened_tokenizer(folder: Path) -> Any:
    with quietly(), opening(folder / TOKENIZER, "transformers cannot open the tokenizer"):
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)


def _packaged_tokenizer(folder: Path) -> Any:
    """An embedded model's, by its own settings, under the generic class that `resolve` names in them.

    `AutoTokenizer` gives the same, but reads Gemma's 14 MB twice more before it does, as JSON in Python, which takes
    longer than the opening itself.
    """
    settings = read_json(folder / TOKENIZER_SETTINGS)
    settings.pop("tokenizer_class", None)
    with quietly(), opening(folder / TOKENIZER, "transformers cannot open the tokenizer"):
        file = f"{folder / TOKENIZER}"
        return PreTrainedTokenizerFast(tokenizer_file=file, name_or_path=f"{folder}", **settings)


def _opened_once(folder: Path, opened: Callable[[Path], Any]) -> Any:
    """A tokenizer, opened once for as long as somebody holds it and no file beside it changes.

    A verbalizer, the reader and the lens of one model hold the same one, of which a large one takes seconds.
    """
    stamps = [(path, path.stat()) for path in sorted(folder.iterdir()) if path.is_file()]
    # Sizes and times of the first kind stay as they were when a file is written over by one who sets them.
    key = (opened, *((f"{path}", one.st_size, one.st_mtime_ns, one.st_ctime_ns, one.st_ino) for path, one in stamps))
    tokenizer = _held.get(key)
    if tokenizer is None:
        tokenizer = _held[key] = opened(folder)
    return tokenizer


def open_weights(auto: Any, folder: Path, kind: torch.dtype, what: str, device: str = "cpu") -> tuple[Any, Any]:
    """A model by one of transformers' classes, and its report of what was missing or had no place.

    On a GPU (``device``) its weights are put there as they are read, without a second copy in the host's memory.

    Raises:
        Refusal: the folder's files are not what they should be (`folder`), its config.json tells of a model of another
            size (`bounds`), transformers cannot load it, whatever it raises, or the device has no room for it.
    """
    config, _, told = _looked_at(auto, folder, what)
    net, report = _loaded(auto, folder, kind, what, device, config, told)
    odd = sorted(report["mismatched_keys"], key=str)
    if odd:
        name, stored, wanted = odd[0]
        raise Refusal(
            what,
            f"its weights do not fit its config.json ({len(odd)} have another shape, the first is {name}: "
            f"{tuple(stored)} stored, {tuple(wanted)} wanted)",
            "use the config.json and weights of one checkpoint",
        )
    return net, report


def _looked_at(auto: Any, folder: Path, what: str) -> tuple[Mapping[str, Any], Shapes, Any]:
    """A folder's config.json, shapes of its weights, transformers' configuration; when nothing forbids opening it."""
    check_folder(folder, what)
    if is_adapter(folder):
        raise Refusal(what, f"{folder} holds an adapter, not a whole model", "merge it into its base first")
    files, config = weight_files(folder, what), read_config(folder)
    shapes = shapes_in(files, quantised=quantised(config))
    refuse_counts(folder, config, shapes)
    return config, shapes, refuse_size(folder, auto, config, shapes)


def _loaded(
    auto: Any, folder: Path, kind: torch.dtype, what: str, device: str, config: Mapping[str, Any], told: Any
) -> tuple[Any, Any]:
    """What transformers makes of a folder by a configuration (``told``), its own or a shorter one, and its report."""
    why, instead = f"transformers {transformers.__version__} cannot load it", AGAIN
    if quantised(config):
        why, instead = f"it is quantised, and {why}", "use its weights in bfloat16, or install that library"
    placed = {"device_map": device} if straight_to(device) else {}
    with quietly(), opening(what, why, instead):
        try:
            return auto.from_pretrained(
                folder,
                dtype=kind,
                use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are in the report, and refused by name
                trust_remote_code=False,
                local_files_only=True,
                config=told,
                **placed,
            )
        except torch.OutOfMemoryError as error:
            raise Refusal(f"{folder}", f"{NO_ROOM} {device} ({words_of(error)})", SMALLER) from error


def quicker_dtype(device: str) -> str:
    """bfloat16, or float32 where a CPU has no products of it and takes eight times as long (measured with AVX2)."""
    quick = torch.device(device).type != "cpu" or torch.backends.cpu.get_cpu_capability().startswith(_HAS_BFLOAT16)
    return "bfloat16" if quick else "float32"


def straight_to(device: str) -> bool:
    """Whether weights are put on a device as they are read: a GPU has its own memory."""
    return torch.device(device).type == "cuda"


def ready(net: Any, folder: Path, device: str) -> Any:
    """A model as it is read with: on its device, in eval mode, seen to run.

    Raises:
        Refusal: a weight is NaN or infinite, the device does not take the model, or two tokens do not pass through it.
    """
    for name, weight in net.named_parameters():
        plain = weight.is_floating_point() and weight.element_size() > 1 and weight.numel()  # eight bits are packed
        if plain and not torch.isfinite(torch.stack(weight.aminmax())).all():
            why = f"its weight {name} holds NaN or infinite numbers in {str(weight.dtype).removeprefix('torch.')}"
            raise Refusal(f"{folder}", why, "get the published files again, or use float32")
    with opening(f"{folder}", f"{NO_ROOM} {device}", SMALLER):
        net = net.to(device).eval().requires_grad_(False)
    with opening(folder / CONFIG, "the model it tells of does not run"), torch.inference_mode():
        net(input_ids=torch.zeros((1, 2), dtype=torch.long, device=device), use_cache=True)
    return net


def _refuse_partial(report: Any, ref: str) -> None:
    """Refuse a load after which any weight is random, or a stored decoder block has no place."""
    missing = sorted(report["missing_keys"])
    if missing:
        raise Refusal(
            ref,
            f"{len(missing)} weights would stay at random (the first is {missing[0]}), "
            f"and {len(report['unexpected_keys'])} stored ones have no place",
            "use the config.json and weights of one checkpoint",
        )
    lost = sorted(k for k in report["unexpected_keys"] if place_of(k) is not None)
    if lost:
        raise Refusal(
            ref,
            f"{len(lost)} weights of decoder blocks have no place in the model its config.json tells of "
            f"(the first is {lost[0]})",
            "use the config.json and weights of one checkpoint",
        )


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds a PEFT adapter rather than a whole model."""
    return (folder / ADAPTER).is_file()


def sits_on(folder: Path) -> str | None:
    """The model an adapter says it was trained on, at the revision it says."""
    return named_base(read_settings(folder), folder / ADAPTER)


def base_of(folder: Path, sidecar: str | None, base: str | None, what: str) -> str:
    """The reference of the model a checkpoint was made from, by a person, its ``sidecar`` or its adapter.

    Raises:
        Refusal: the folder holds no weights; or nobody names a base, or sidecar and adapter name two.
    """
    adapted = is_adapter(folder)
    if adapted and not (folder / ADAPTER_WEIGHTS).is_file():
        raise Refusal(what, "the folder holds no adapter_model.safetensors", "download the adapter's weights")
    if not adapted:
        weight_files(folder, what)
    below = sits_on(folder) if adapted else None
    if not base and below and sidecar and Path(below).name.lower() != Path(sidecar).name.lower():
        raise Refusal(
            what,
            f"its adapter was trained on {below}, its sidecar names {sidecar}, "
            "and on another model than its own an adapter says fluent nonsense",
            "pass --base with the model, or the merged earlier stage, that it sits on",
        )
    stated = base or sidecar or below
    if not stated:
        why = "neither sidecar nor adapter names the model it was made from"
        raise Refusal(what, why, "add base_checkpoint to the sidecar")
    return str(stated)


def stacked(folder: Path, base: str, what: str) -> tuple[list[Path], str]:
    """Adapters to merge, lowest first, and the whole model under them: an adapter may sit on an adapter.

    ``folder``: of an adapter, or of a whole model (then nothing is to be merged). ``base``: what the adapter in
    ``folder`` sits on; those below it say so themselves.
    """
    stack: list[Path] = []
    while is_adapter(folder):
        if stack:
            base = sits_on(folder) or ""
        if folder in stack or not base:
            why = "sits on itself" if base else "does not say what it sits on"
            raise Refusal(what, f"the adapter in {folder} {why}", "correct base_model_name_or_path there")
        stack.insert(0, folder)
        folder = folder_of(base)
    return stack, base


def fingerprint_of_model(ref: str | Path) -> str:
    """Digest of all files that decide a model, or an adapter and the models under it."""
    folder = folder_of(ref)
    if not is_adapter(folder):
        return fingerprint_of(folder, deciding(folder))
    adapters, root = stacked(folder, sits_on(folder) or "", f"model {ref}")
    folders = [*adapters, folder_of(root)]
    return digest(*(fingerprint_of(each, deciding(each)) for each in folders))


def hidden_of(output: Any) -> torch.Tensor:
    """What a layer puts out, whatever else it returns beside it."""
    return output[0] if isinstance(output, tuple) else output


def text_stack(model: nn.Module) -> nn.Module:
    """The module that owns ``layers``: through PEFT and multimodal wrappers."""
    seen = model
    for _ in range(6):
        if isinstance(getattr(seen, "layers", None), nn.ModuleList):
            return seen
        for name in ("language_model", "model", "base_model", "text_model"):
            inner = getattr(seen, name, None)
            if isinstance(inner, nn.Module) and inner is not seen:
                seen = inner
                break
    raise Refusal(f"a {type(model).__name__}", "no list of decoder blocks was found in it", "use a decoder-only model")


def decoder_blocks(model: nn.Module) -> nn.ModuleList:
    """The decoder blocks, block 0 first."""
    blocks = text_stack(model).layers
    if not isinstance(blocks, nn.ModuleList):
        raise Refusal(f"a {type(model).__name__}", "its layers are no module list", "use a decoder-only model")
    return blocks


def blocks_of(model: nn.Module) -> int:
    """How many decoder blocks a model has, those that were not opened among them."""
    return int(getattr(model, "blocks_of_the_whole", None) or len(decoder_blocks(model)))


def check_site(site: Site, model: nn.Module) -> int:
    """Width of the stream at a site; refuse a block that the model does not have, or that was not opened."""
    count, opened = blocks_of(model), len(decoder_blocks(model))
    if site.block >= count:
        raise Refusal(f"site {site}", f"the model has blocks 0 to {count - 1}", "name one of these")
    if site.block >= opened:
        raise Refusal(f"site {site}", f"of the model blocks 0 to {opened - 1} were opened", "open it at this site")
    table: Any = model
    return int(table.get_input_embeddings().weight.shape[1])


def check_device(name: str) -> None:
    """Refuse a device that torch does not know or this machine does not have, before anything is loaded."""
    here = devices()
    try:
        device = torch.device(name)
    except (RuntimeError, ValueError, TypeError):
        raise Refusal(f"device '{str(name)[:40]}'", "it is no device", f"use one of {', '.join(here)}") from None
    if device.type not in here or (device.index or 0) >= (torch.cuda.device_count() if device.type == "cuda" else 1):
        raise Refusal(f"device '{str(name)[:40]}'", "this machine has none such", f"use one of {', '.join(here)}")


def devices() -> list[str]:
    """Kinds and places of the devices that are here."""
    found = ["cpu"]
    if torch.cuda.is_available():
        found += ["cuda", *(f"cuda:{n}" for n in range(torch.cuda.device_count()))]
    if torch.backends.mps.is_available():
        found.append("mps")
    return found
