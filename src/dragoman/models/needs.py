"""What models would take, told by their files alone: nothing is opened, fetched, converted or written.

In: references, and how a verbalizer is fed. Out: ``ModelNeeds``; where a verbalizer reads, and what it is made of.
Refuses embedded models whose packages are absent, what the hub says that it does not have, and verbalizers whose place
only files that are not here would tell.
Asks the hub for a listing where it has to.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from dragoman import tiny
from dragoman.core import Refusal, Site
from dragoman.models.folder import CONFIG, NEVER_READ, TOKENIZER, read_config, shapes_in, weight_files
from dragoman.models.packaged import converted_at
from dragoman.models.resolve import cached, how_fed, hub_place, no_of
from dragoman.models.sizes import HEAD, place_of, readable_in_part, sizes_of
from dragoman.store import refusing
from dragoman.tiny import model_parts
from dragoman.verbalizers import registry
from dragoman.verbalizers.protocol import HowFed

STORED = 2  # bytes of a number in weights of which nothing but the size is known


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelNeeds:
    """Of one model; None of what nothing tells.

    ``parameters``: of the whole. ``width``, ``blocks``: of its stream. ``keys``: width of
    one block's keys. ``vocabulary``: tokens it knows. ``tokenizer``:
    its tokenizer.json, None where it is not here. ``tokenizer_bytes``: of that. ``fetched``: bytes that would come from
    the hub. ``written``: bytes that making a plain copy of it would put on the disk besides. ``why``: what is not
    known. ``by_block``: parameters of each block, of a model that can be opened in part; ``beside``: those before and
    behind the blocks that are opened with them. ``opened``: parameters that are in memory, where not all are.
    """

    ref: str
    parameters: int | None
    width: int | None = None
    blocks: int | None = None
    keys: int | None = None
    vocabulary: int | None = None
    tokenizer: Path | None = None
    tokenizer_bytes: int = 0
    fetched: int | None = 0
    written: int = 0
    why: str = ""
    by_block: tuple[int, ...] = ()
    beside: int = 0
    opened: int | None = None

    def upto(self, block: int) -> ModelNeeds:
        """The same, opened to be read at a block: without what comes behind, where that can be left out."""
        if block + 1 >= len(self.by_block):
            return self
        return replace(self, opened=self.beside + sum(self.by_block[: block + 1]))


@dataclass(frozen=True, slots=True, kw_only=True)
class VerbalizerNeeds:
    """Where a verbalizer reads; ``whole``: the model that is opened for it; ``fetched``: of its adapter, if any."""

    site: Site
    whole: ModelNeeds
    fetched: int | None = 0


def model_needs(ref: str, pair: Mapping[str, Mapping[str, int]]) -> ModelNeeds:
    """What opening a model takes.

    Args:
        ref: a packaged name, folder or hub id.
        pair: of the embedded models, what their packages' files do not tell before they are converted.

    Raises:
        Refusal: an embedded model whose package is absent; weights of a folder here that no library could read.
    """
    if ref in tiny.MODELS:
        model = tiny.MODELS[ref]
        folder, told = converted_at(model), pair.get(ref, {})
        if folder.is_dir():
            return _of_folder(ref, folder)
        model_parts(model)
        by_block, beside = _evenly(told)
        return ModelNeeds(
            ref=ref, parameters=told.get("parameters"), width=told.get("width"), blocks=told.get("blocks"),
            keys=told.get("keys"), vocabulary=told.get("vocabulary"), tokenizer_bytes=told.get("tokenizer_bytes", 0),
            written=told.get("stored_bytes", 0), by_block=by_block, beside=beside,
        )  # fmt: skip
    folder = folder_here(ref)
    return _of_folder(ref, folder) if folder is not None else _of_hub(ref)


def verbalizer_needs(ref: str, fed: HowFed, pair: Mapping[str, Mapping[str, int]]) -> VerbalizerNeeds:
    """Where a verbalizer reads and what opening it takes.

    Args:
        ref: packaged name, folder or hub id.
        fed: as it is said.
        pair: see `model_needs`.

    Raises:
        Refusal: its files are not here, and dragoman's registry does not know where it reads; or what is said
            contradicts what is known.
    """
    how = how_fed(ref, fed["contract"], fed["settings"] or {}, fed["base"])
    folder, known = folder_here(ref), registry.find(ref)
    sure = known is not None and known.usable and len(known.blocks) == 1 and known.contract != "universal"
    if folder is not None and not sure:
        from dragoman.models.contracts import contract_for
        from dragoman.models.contracts.base import CheckpointRequest
        from dragoman.models.load import base_of, is_adapter

        request = CheckpointRequest(
            ref=ref, folder=folder, settings=dict(how["settings"] or {}), width_of=lambda base: sizes_of(base).width
        )
        contract = contract_for(request, how["contract"])
        base = base_of(contract.weights, contract.sidecar.base, how["base"], f"verbalizer {ref}")
        whole = model_needs(base, pair) if is_adapter(contract.weights) else _of_folder(ref, contract.weights)
        return VerbalizerNeeds(site=contract.site(base), whole=whole)
    block = known.blocks[0] if known is not None and len(known.blocks) == 1 else (how["settings"] or {}).get("block")
    if known is None or not isinstance(block, int):
        why = "its files are not here, and dragoman's registry does not know where it reads"
        place = hub_place(ref)
        raise Refusal(f"verbalizer {ref}", why, f"fetch them first: {place.command if place else ref}")
    base = how["base"] or known.base
    own = _of_hub(ref, known) if folder is None else ModelNeeds(ref=ref, parameters=None)
    if known.switches.weights == "full" and folder is not None:
        own = _of_folder(ref, folder)
    if known.switches.weights == "lora":
        return VerbalizerNeeds(site=Site(base, block), whole=model_needs(base, pair), fetched=own.fetched)
    return VerbalizerNeeds(site=Site(base, block), whole=own)


def folder_here(ref: str) -> Path | None:
    """The folder of a packaged verbalizer, of a path, or of the hub's cache; nothing is fetched or converted for it."""
    if ref in tiny.DATA:
        return tiny.data(ref)
    with refusing("reading", Path(ref)):
        path = Path(ref).expanduser()
        return path if path.is_dir() else cached(ref)


def _evenly(told: Mapping[str, int]) -> tuple[tuple[int, ...], int]:
    """The same of an embedded model before it is converted: its blocks are alike, and its output layer is its table."""
    parameters, count = told.get("parameters"), told.get("blocks", 0)
    table = told.get("vocabulary", 0) * told.get("width", 0)
    if not parameters or not table or not count:
        return (), 0
    return ((parameters - table) // count,) * count, table


def _of_folder(ref: str, folder: Path) -> ModelNeeds:
    """By headers and settings."""
    shapes = shapes_in(weight_files(folder, ref), quantised=True)
    config = read_config(folder) if (folder / CONFIG).is_file() else {}
    text = config.get("text_config")
    known = {**config, **text} if isinstance(text, dict) else config
    tokenizer, sizes = folder / TOKENIZER, sizes_of(str(folder))
    by_block, beside = _parts(config, known, shapes)
    words, heads, head = (known.get(name) for name in ("vocab_size", "num_key_value_heads", "head_dim"))
    if not isinstance(head, int) and isinstance(count := known.get("num_attention_heads"), int) and sizes.width:
        head = sizes.width // max(count, 1)
    return ModelNeeds(
        ref=ref,
        parameters=sum(math.prod(shape) for shape in shapes.values()),
        width=sizes.width,
        blocks=sizes.blocks,
        keys=heads * head if isinstance(heads, int) and isinstance(head, int) else None,
        vocabulary=words if isinstance(words, int) else None,
        tokenizer=tokenizer if tokenizer.is_file() else None,
        tokenizer_bytes=tokenizer.stat().st_size if tokenizer.is_file() else 0,
        by_block=by_block,
        beside=beside,
    )


def _parts(
    config: Mapping[str, object], text: Mapping[str, object], shapes: Mapping[str, tuple[int, ...]]
) -> tuple[tuple[int, ...], int]:
    """Parameters by block and beside the blocks, of a model that can be opened in part."""
    families = config.get("model_type"), text.get("model_type")
    if not readable_in_part(*families) or config.get("quantization_config"):
        return (), 0
    blocks, beside = dict[int, int](), 0
    for name, shape in shapes.items():
        place, count = place_of(name), math.prod(shape)
        if place is not None:
            blocks[place[0]] = blocks.get(place[0], 0) + count
        elif not HEAD.search(name):
            beside += count
    if sorted(blocks) != list(range(len(blocks))):
        return (), 0
    return tuple(blocks[number] for number in sorted(blocks)), beside


def _of_hub(ref: str, known: registry.Checkpoint | None = None) -> ModelNeeds:
    """By the hub's listing, of what would be fetched; ``known``: what the registry says of it."""
    from huggingface_hub import snapshot_download

    place, sizes = hub_place(ref), sizes_of(ref if known is None else known.base)
    billions = None if known is None else known.billions
    if place is None:
        raise Refusal(f"'{ref}'", "there is no such folder here, and it is no hub id", "check the name")
    least = None if billions is None else int(billions * 1e9)
    of_hub = partial(ModelNeeds, ref=ref, width=sizes.width, blocks=sizes.blocks)
    try:
        files = snapshot_download(
            place.repo, revision=place.revision, allow_patterns=place.patterns, ignore_patterns=list(NEVER_READ),
            dry_run=True,
        )  # fmt: skip
        weights = sum(file.file_size or 0 for file in files if str(file.filename).endswith(".safetensors"))
        fetched = sum(file.file_size or 0 for file in files if file.will_download)
    # Whatever keeps the hub from answering, the size is not known then.
    except Exception as error:
        why_not = error.__cause__ if isinstance(error.__cause__, Exception) else error  # it may say no plan alone
        no, refusal = no_of(place, ref, why_not)
        if no in ("repository", "gated", "revision", "name"):
            raise refusal from error
        why = f"the hub does not say how large {ref} is ({type(error).__name__})"
        return of_hub(parameters=least, fetched=None, why=why)
    why = "" if least else f"{ref} is taken to be stored in 16 bits"
    return of_hub(parameters=least or weights // STORED, fetched=fetched, why=why)
