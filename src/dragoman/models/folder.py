"""The files of a model's or tokenizer's folder, looked at before any library opens them.

In: a folder. Out: the weight files that are read; the files that decide, and their sha256. Refuses what is no folder;
files that are missing, empty, too large, cut short, no JSON object, or no file at all (a folder, a pipe, a device, a
link to nothing); a shard index that leaves its folder; settings that name files elsewhere or code. Code out of a
checkpoint is never run and nobody is asked about it.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from dragoman.core import Refusal
from dragoman.store import ArraysFile, file_sha256, of_each, read_json, refusing
from dragoman.store.boundary import AGAIN
from dragoman.store.spans import listed, shown
from dragoman.verbalizers.sidecar import NAME

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
TOKENIZER, TOKENIZER_SETTINGS, SPECIAL = "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"
ADAPTER, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
TEMPLATE, MORE_TEMPLATES = "chat_template.jinja", "additional_chat_templates"
_SETTINGS = (CONFIG, INDEX, "generation_config.json", TOKENIZER_SETTINGS, SPECIAL, "added_tokens.json")
_OBJECTS = (*_SETTINGS, "chat_template.json", "adapter_config.json")
# What the libraries read besides: vocabularies of older tokenizers. The sidecar has its own digest.
_OTHERS = (TOKENIZER, TEMPLATE, "vocab.json", "merges.txt", "vocab.txt", "tokenizer.model", "spiece.model")
# Megabytes. The largest published tokenizer takes 35, the settings beside it 2, an index of a thousand shards 10.
_MOST = {TOKENIZER: 200, INDEX: 100, TEMPLATE: 1, "vocab.json": 100, "merges.txt": 100}
_MOST_OTHERS = 20
# Never read: pickles and other formats, and the second copy of the weights (140 GB) in Llama repositories.
NEVER_READ = ("original/*", "consolidated*", "*.bin", "*.pt", "*.pth", "*.gguf", "*.h5", "*.msgpack", "*.onnx")
_FOR_PEOPLE = ("readme*", "licen[cs]e*", "notice*", "use_policy*", "*.md", "*.pdf", "*.png", "*.jp*g", "*.gif", "*.svg")
_OF_TRAINING = ("training.yaml", "trainer_state.json")  # what trainers note for people
_RUN = ("AutoConfig", "AutoModel", "AutoModelForCausalLM", "AutoTokenizer")  # what dragoman opens folders by


def check_folder(folder: Path, what: str) -> None:
    """Refuse a folder whose settings no library should be handed, as the module says; it may lack any of them."""
    if not folder.is_dir():
        why = "it is a file, not a folder" if folder.exists() else "there is no such folder"
        raise Refusal(what, f"{folder}: {why}", "name the folder that holds the checkpoint's files")
    for path in _opened(folder):
        _refuse_odd_file(path)
        if path.name in _OBJECTS:
            settings = read_json(path)
            if not isinstance(settings, dict):
                raise Refusal(f"{path}", "it is not a JSON object", AGAIN)
            _refuse_settings(path, settings)
        elif path.suffix == ".jinja":
            read_template(path)


def read_config(folder: Path) -> dict[str, object]:
    """A folder's config.json; refuse one that is missing or is no object."""
    path = folder / CONFIG
    if not path.is_file():
        raise Refusal(f"{folder}", f"it holds no {CONFIG}", "download all of the checkpoint's files")
    config = read_json(path)
    if not isinstance(config, dict):
        raise Refusal(f"{path}", "it is not a JSON object", AGAIN)
    return config


def need_tokenizer(folder: Path, what: str) -> Path:
    """The fast tokenizer's file; refuse a folder without one."""
    path = folder / TOKENIZER
    if not path.is_file():
        why = "it holds no tokenizer.json, and offsets need a fast tokenizer"
        raise Refusal(what, why, "save the fast tokenizer there")
    return path


def read_template(path: Path) -> str:
    """A chat template's text; refuse one that is not text."""
    _refuse_odd_file(path)
    try:
        with refusing("reading", path):
            return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise Refusal(f"{path}", f"it is not UTF-8 text ({error.reason})", AGAIN) from error


def weight_files(folder: Path, what: str) -> list[Path]:
    """The weight files that transformers reads, each whole: one file, or the shards that the index names.

    Raises:
        Refusal: none are there; shards without their index, or an index without its shards; a name that leads out of
            the folder; a file that is cut short or is not safetensors.
    """
    whole, index = folder / WEIGHTS, folder / INDEX
    there = sorted(path.name for path in folder.glob("*.safetensors"))
    if WEIGHTS in there:
        files = [whole]
    elif index.is_file():
        files = [folder / name for name in _shards(index)]
    elif there:
        why = f"the folder holds {listed(there, 2)}, and neither {WEIGHTS} nor {INDEX}"
        raise Refusal(what, why, "download all of its files")
    else:
        why = "the folder holds no *.safetensors weights, and pickled weights are never loaded"
        raise Refusal(what, why, "convert them to safetensors, or download them so")
    for path in files:
        _refuse_odd_file(path)
    return files


def shapes_in(files: list[Path], *, quantised: bool) -> dict[str, tuple[int, ...]]:
    """Shapes of all tensors in weight files, from their headers.

    Raises:
        Refusal: a file is cut short or is not safetensors, or, in a model that is not quantised, a weight is stored in
            whole numbers: bits of something else, taken for numbers without a word.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for path in files:
        file = ArraysFile(path)
        shapes |= file.shapes
        for name in () if quantised else file.names:
            stored = file.array(name)
            if name.endswith(".weight") and not stored.kind and stored.dtype.kind in "iub":
                why = f"its tensor '{shown(name)}' holds whole numbers ({stored.dtype}), not weights"
                raise Refusal(f"{path}", why, AGAIN)
    return shapes


def deciding(folder: Path) -> list[str]:
    """Names of the files of a folder that decide what its model gives, sorted: weights, settings, tokenizer, templates.

    All but what is never read, or read by people alone; a file counts also where no library reads it yet.
    """
    skipped = (*NEVER_READ, *_FOR_PEOPLE, *_OF_TRAINING)
    with refusing("reading", folder):
        names = [path.name for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")]
    names = [name for name in names if not any(fnmatch(name.lower(), pattern) for pattern in skipped)]
    return sorted([*names, *(path.relative_to(folder).as_posix() for path in _more_templates(folder))])


def digests(folder: Path, prefix: str = "") -> dict[str, dict[str, str]]:
    """Hex sha256 of every file that decides, every byte read: ``weights``, and the ``files`` beside them.

    ``prefix`` stands before the two words. The sidecar is left out: whoever reads it has its own digest.
    """
    names = [name for name in deciding(folder) if name != NAME]
    found = dict(zip(names, of_each(file_sha256, [folder / name for name in names]), strict=True))
    weights = {name: sha for name, sha in found.items() if name.endswith(".safetensors")}
    files = {name: sha for name, sha in found.items() if name not in weights}
    return {f"{prefix}weights": weights, f"{prefix}files": files}


def _more_templates(folder: Path) -> list[Path]:
    return sorted((folder / MORE_TEMPLATES).glob("*.jinja"))


def _opened(folder: Path) -> Iterator[Path]:
    """What libraries open beside the weights."""
    for name in sorted({*_OBJECTS, *_OTHERS}):
        if (folder / name).exists() or (folder / name).is_symlink():
            yield folder / name
    yield from _more_templates(folder)


def _refuse_odd_file(path: Path) -> None:
    """Refuse what stands under a file's name and is none, is empty, or is larger than any of its kind."""
    if path.is_symlink() and not path.exists():
        raise Refusal(f"{path}", "it is a link to nothing, as an unfinished download leaves behind", AGAIN)
    with refusing("reading", path):
        found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        kind = "folder" if stat.S_ISDIR(found.st_mode) else "pipe or device"
        raise Refusal(f"{path}", f"it is a {kind}, not a file", AGAIN)
    if not found.st_size:
        raise Refusal(f"{path}", "it is empty", AGAIN)
    most = _MOST.get(path.name, _MOST_OTHERS)
    if path.suffix != ".safetensors" and found.st_size > most << 20:
        raise Refusal(f"{path}", f"it takes {found.st_size >> 20} MB, and such files take {most} at most", AGAIN)


def _shards(index: Path) -> list[str]:
    """The file names in an index, each in the index's own folder."""
    _refuse_odd_file(index)
    read = read_json(index)
    told = read.get("weight_map") if isinstance(read, dict) else None
    if not isinstance(told, dict) or not told or not isinstance(read.get("metadata"), dict):
        raise Refusal(f"{index}", "it is no index: it has no weight_map and metadata", AGAIN)
    names = list(told.values())
    odd = next(
        (n for n in names if not isinstance(n, str) or not n.endswith(".safetensors") or Path(n).name != n), None
    )
    if odd is not None:
        why = f"it names the shard '{shown(odd)}', and shards are *.safetensors files beside it"
        raise Refusal(f"{index}", why, "put the shards into the same folder")
    missing = sorted({name for name in names if not (index.parent / name).exists()})
    if missing:
        why = f"it lacks {len(missing)} of the {len(set(names))} shards its index names ({listed(missing, 2)})"
        raise Refusal(f"{index.parent}", why, "finish the download")
    return sorted(set(names))


def _refuse_settings(path: Path, settings: Mapping[str, Any]) -> None:
    """Refuse settings that reach for code, or for files elsewhere."""
    for where, value in _named(settings, "auto_map"):
        _refuse_code(path, where, value)
    kernels = [*_named(settings, "attn_implementation"), *_named(settings, "_attn_implementation")]
    for where, value in [*kernels, *_named(settings, "experts_implementation")]:
        if "/" in str(value):
            why = f"its {where} wants code from elsewhere ({shown(value)}), which is never run"
            raise Refusal(f"{path}", why, "delete it")
    if settings.get("transformers_weights") is not None:
        named = shown(settings["transformers_weights"])
        raise Refusal(f"{path}", f"it names other weights ({named})", f"call them {WEIGHTS}, and delete the setting")
    if path.name == SPECIAL:
        odd = next((key for key in settings if not str(key).endswith(("_token", "_tokens"))), None)
        if odd is not None:
            raise Refusal(f"{path}", f"its '{shown(odd)}' is no special token", AGAIN)


def _named(settings: Any, name: str, depth: int = 8) -> Iterator[tuple[str, Any]]:
    """Every value of that name, however deep, and what to call it."""
    if isinstance(settings, Mapping) and depth:
        if settings.get(name) is not None:
            yield name, settings[name]
        for value in settings.values():
            yield from _named(value, name, depth - 1)


def _refuse_code(path: Path, where: str, value: Any) -> None:
    """Refuse classes that transformers has not itself.

    Many published checkpoints still carry the code that their family began with; transformers opens them by its own
    class of that name, and their code stays unread.
    """
    import transformers

    told = value if isinstance(value, Mapping) else {"AutoTokenizer": value}
    for auto in _RUN:
        named = told.get(auto)
        for reference in named if isinstance(named, list | tuple) else [named]:
            if reference is None:
                continue
            try:
                known = hasattr(transformers, str(reference).rpartition(".")[2])
            except Exception:  # an optional library of that class is absent, or has a fault
                known = False
            if not known:
                raise Refusal(
                    f"{path}",
                    f"its {where} wants the checkpoint's own code ({auto}: {shown(reference)}), and code out of a "
                    "checkpoint is never run",
                    "use a checkpoint of a family that transformers has a class for",
                )
