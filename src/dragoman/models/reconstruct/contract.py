"""What a reconstructor's folder says about how it is read: layout, form, block, template, head, adapter.

In: a folder and the name of its layout. Out: a frozen ``Contract``; the value head. Refuses layouts that are not known,
files of another layout or of two forms, missing and damaged ones, files that disagree about block or width, templates
without a place for the text, merged checkpoints whose norm is in doubt, adapters that are no plain LoRA, and heads that
are no square matrix of the stream's width. Pickles are never read.
The layout is told, never guessed: a full checkpoint of either looks the same on disk and wants another tokenisation.

kitft: ``value_head.safetensors`` beside a full checkpoint of K + 1 blocks, or beside a PEFT adapter; BOS is written;
the head takes the hidden state as it is.
easynla (also nanoNLA): ``ar_lora_value_head.safetensors`` with ``ar_meta.json``, or a merged full checkpoint with
``value_head.safetensors``; no BOS; the head takes the hidden state brought to norm sqrt(d).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from dragoman.core import Floats, Refusal
from dragoman.models.adapters import (
    PLAIN,
    check_places,
    named_base,
    read_settings,
    refuse_rank,
    refuse_settings,
    refuse_slow,
)
from dragoman.models.folder import ADAPTER, ADAPTER_WEIGHTS
from dragoman.store import read_arrays, read_json
from dragoman.store.plainyaml import read_yaml
from dragoman.store.spans import meant, shown
from dragoman.verbalizers.sidecar import (
    NAME,
    Described,
    Natural,
    Origin,
    Part,
    Scale,
    Width,
    block_in_name,
    checked,
    sidecar_file,
    slots_of,
)

LAYOUTS = ("kitft", "easynla")
SLOT = "explanation"
RECONSTRUCTOR_ROLES = ("reconstructor", "ar", "critic")
HEAD = "value_head.safetensors"
EASY_META, EASY_WEIGHTS = "ar_meta.json", "ar_lora_value_head.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class Contract:
    """How a reconstructor is read.

    ``form``: "full" or "adapter". ``block``: whose output it predicts, and its own last one. ``template``: a raw
    string with ``{explanation}``. ``special``: whether the tokenizer adds its special tokens (BOS). ``final_norm``:
    whether the base model's final norm stands before the head. ``scale``: norm the hidden state is brought to before
    the head, None for as it is. ``mse_scale``: norm both sides had in training, None for raw. ``suffix_ids``: how
    every encoded text ends, when stored. ``base``: the base model, when stored. ``quant``: precision the adapter's
    base had in training, when stored. ``lora``: the adapter, in the words of PEFT's LoraConfig.
    """

    layout: str
    form: str
    d_model: int
    block: int
    template: str
    special: bool
    final_norm: bool
    scale: float | None
    mse_scale: float | None
    suffix_ids: tuple[int, ...] | None = None
    base: str | None = None
    quant: str | None = None
    lora: Mapping[str, Any] = field(default_factory=dict)

    @property
    def head_file(self) -> str:
        """Name of the file that holds the value head."""
        return EASY_WEIGHTS if self.layout == "easynla" and self.form == "adapter" else HEAD


def read_contract(folder: Path, layout: str, *, name: str | None = None) -> Contract:
    """Resolve a reconstructor's files in the ``layout`` its authors or the registry name.

    ``name``: what the checkpoint is called, read for its block (``-L20-``) when no file names one.

    Raises:
        Refusal: files are missing, contradict the layout or each other, or leave out what decides the reading.
    """
    what = f"reconstructor {folder}"
    if layout not in LAYOUTS:
        instead = meant(str(layout), LAYOUTS, "name the one it was trained in")
        raise Refusal(f"layout '{layout}'", f"known are {', '.join(LAYOUTS)}", instead)
    form = form_of(folder, layout, what)
    meta = read_meta(folder)
    _refuse_doubtful_norm(form, meta, what)
    # EasyNLA copies the sidecar of its training data into the checkpoint.
    kinds = ("nla_model", "nla_dataset") if layout == "easynla" else ("nla_model",)
    found, adapter = read_sidecar_of_ar(folder, kinds, what), read_adapter_config(folder, what)
    config = read_config(folder) if form == "full" else {}
    width = _width(found, config, what)
    scale = _mse_scale(found.extraction, width, what)
    return Contract(
        layout=layout,
        form=form,
        d_model=width,
        block=_block(found, config, meta, name or folder.name, what),
        template=_template(found.prompt_templates, what),
        special=layout == "kitft",
        final_norm=meta is not None and not meta.final_norm_stripped,
        scale=scale if layout == "easynla" else None,
        mse_scale=scale,
        suffix_ids=found.tokens.critic_suffix_ids,
        base=found.base or named_base(adapter, folder / ADAPTER),
        quant=meta.quant if meta else None,
        lora=lora_of(meta, adapter) if form == "adapter" else {},
    )


def _refuse_doubtful_norm(form: str, meta: Meta | None, what: str) -> None:
    if form == "full" and meta is not None and not meta.final_norm_stripped:
        raise Refusal(
            what,
            "it is a merged checkpoint whose ar_meta.json says it was trained with its final norm, "
            "and its authors' own loader removes that norm",
            f"use the adapter it was merged from ({EASY_WEIGHTS})",
        )


def _one(stated: Mapping[str, int | None], quantity: str, what: str) -> int | None:
    """The one value all files state, or None; refuse when they disagree."""
    known = {where: value for where, value in stated.items() if value is not None}
    if len(set(known.values())) > 1:
        said = ", ".join(f"{where} says {value}" for where, value in known.items())
        raise Refusal(what, f"its files disagree about the {quantity}: {said}", "use files of one checkpoint")
    return next(iter(known.values()), None)


def _width(found: Sidecar, config: Mapping[str, Any], what: str) -> int:
    stated = {
        "d_model": found.d_model,
        "extraction.d_model": found.extraction.d_model,
        "config.json": config.get("hidden_size"),
    }
    width = _one(stated, "width", what)
    if width is None:
        raise Refusal(what, "no file states its width", f"add d_model to {NAME}")
    return width


def _block(found: Sidecar, config: Mapping[str, Any], meta: Meta | None, name: str, what: str) -> int:
    """The block whose output is predicted; it is the reconstructor's last one."""
    stated: dict[str, int | None] = {**found.blocks}
    count = config.get("num_hidden_layers")
    stated["config.json's number of blocks less one"] = None if count is None else int(count) - 1
    stated["ar_num_layers less one"] = None if meta is None else meta.ar_num_layers - 1
    block = _one(stated, "block", what)
    block = block_in_name(name, what) if block is None else block
    if block is None:
        raise Refusal(what, "no file says which block's output it predicts", f"add extraction_layer_index to {NAME}")
    return block


def _mse_scale(extraction: Extraction, width: int, what: str) -> float | None:
    """A number, sqrt(d) when absent, None when it is stated to be null: then training compared raw vectors."""
    stated = extraction.mse_scale
    if "mse_scale" not in extraction.model_fields_set or stated == "sqrt_d_model":
        return math.sqrt(width)
    if stated is None or stated in ("raw", "none"):
        return None
    try:
        scale = float(stated)
    except ValueError:
        scale = math.nan
    if not (math.isfinite(scale) and scale > 0):
        raise Refusal(what, f"its extraction.mse_scale is {stated!r}, not a positive number", "mend that field")
    return scale


def _template(templates: Templates, what: str) -> str:
    """The reconstructor's template, under its newest name first."""
    template = templates.reconstructor or templates.ar or templates.critic
    if not template:
        raise Refusal(what, "its sidecar holds no reconstructor template", "add prompt_templates.ar")
    slots = slots_of(template, what)
    if SLOT not in slots:
        raise Refusal(what, f"its template has no {{{SLOT}}}", "use the template it was trained with")
    if len(slots) > 1:
        why = f"its template also asks for {{{min(slots - {SLOT})}}}, and no published loader says what to write there"
        raise Refusal(what, why, "write the value into the template of a copy")
    return template


class Extraction(Origin):
    """Section ``extraction``: where the vectors are from; its other fields are those of datasets."""

    mse_scale: Scale | None = None


class Tokens(Part):
    """Section ``tokens``, as far as a reconstructor is concerned."""

    critic_suffix_ids: tuple[Natural, ...] | None = None


class Templates(Part):
    """The reconstructor's template under its three names, newest first."""

    reconstructor: str | None = None
    ar: str | None = None
    critic: str | None = None


class Sidecar(Described[Extraction]):
    """The sidecar as written; every field may be absent, the rules are below."""

    extraction: Extraction = Extraction()
    tokens: Tokens = Tokens()
    prompt_templates: Templates = Templates()


class Meta(Part):
    """``ar_meta.json``: how EasyNLA's trainers rebuild the adapter."""

    ar_num_layers: Width
    lora_r: Width
    lora_alpha: float = Field(gt=0, allow_inf_nan=False)
    target_modules: str | list[str]
    quant: str | None = None
    # Checkpoints from before June 2026 do not say, and were trained with the norm.
    final_norm_stripped: bool = False
    # Never written: the trainers always set it.
    use_rslora: bool = True


class Config(Part):
    """What of ``config.json`` is compared with the other files."""

    hidden_size: Width | None = None
    num_hidden_layers: Natural | None = None


class Adapter(Part):
    """``adapter_config.json`` beside its places, as far as a plain LoRA is told by it; the rest is of no account."""

    lora_alpha: float = Field(gt=0, allow_inf_nan=False)
    base_model_name_or_path: str | None = None
    use_rslora: bool | None = None
    fan_in_fan_out: bool | None = None


def form_of(folder: Path, layout: str, what: str) -> str:
    """Tell "full" from "adapter"; refuse files of the other layout, of both forms, or none at all."""
    peft, easy = _has(folder, ADAPTER) or _has(folder, ADAPTER_WEIGHTS), _has(folder, EASY_WEIGHTS)
    other = "easynla" if layout == "kitft" else "kitft"
    strange = (EASY_WEIGHTS, EASY_META) if layout == "kitft" else (ADAPTER, ADAPTER_WEIGHTS)
    found = [name for name in strange if _has(folder, name)]
    if found:
        why = f"it is named as {layout}, but {found[0]} belongs to the {other} layout"
        raise Refusal(what, why, "name the layout its authors used")
    full = any(folder.glob("model*.safetensors"))
    if (peft or easy) and full or (easy and _has(folder, HEAD)):
        beside = "a full checkpoint" if full else HEAD
        raise Refusal(what, f"it holds both an adapter and {beside}", "keep files that belong together in one folder")
    needed = (EASY_META,) if easy else (ADAPTER, ADAPTER_WEIGHTS, HEAD) if peft else ("config.json", HEAD)
    missing = [name for name in needed if not _has(folder, name)]
    if not (peft or easy or full):
        missing = [EASY_WEIGHTS if layout == "easynla" else "model.safetensors"]
    if missing:
        why = f"it holds no {missing[0]}"
        raise Refusal(what, why, "download all files of the reconstructor (pickles are not read)")
    return "adapter" if peft or easy else "full"


def read_sidecar_of_ar(folder: Path, kinds: tuple[str, ...], what: str) -> Sidecar:
    """``nla_meta.yaml``; refuse one that is not a reconstructor's."""
    path = sidecar_file(folder)
    if not path.is_file():
        instead = "copy the sidecar that was published with it, or with the run it is from, into the folder"
        raise Refusal(what, f"it holds no {NAME}, so its template and block are unknown", instead)
    found = checked(Sidecar, read_yaml(path, f"{path}"), f"{path}")
    if found.kind not in kinds:
        why = f"its kind is '{shown(found.kind)}', not {' or '.join(kinds)}"
        raise Refusal(f"{path}", why, "use the sidecar of the reconstructor")
    if found.role is not None and found.role not in RECONSTRUCTOR_ROLES:
        why = f"its role is '{shown(found.role)}', not a reconstructor's"
        raise Refusal(f"{path}", why, "pass the folder of the reconstructor (ar)")
    return found


def read_meta(folder: Path) -> Meta | None:
    """``ar_meta.json``, if there is one."""
    path = folder / EASY_META
    if not path.is_file():
        return None
    meta = checked(Meta, read_json(path), f"{path}")
    refuse_slow([meta.target_modules] if isinstance(meta.target_modules, str) else [], path)
    if _has(folder, EASY_WEIGHTS):
        refuse_rank([meta.lora_r], folder / EASY_WEIGHTS, path)
    return meta


def read_config(folder: Path) -> Mapping[str, Any]:
    """The text model's part of config.json."""
    path = folder / "config.json"
    config = read_json(path)
    text = config.get("text_config") or config if isinstance(config, dict) else {}
    return checked(Config, text, f"{path}").model_dump()


def read_adapter_config(folder: Path, what: str) -> Mapping[str, Any]:
    """``adapter_config.json``, if there is one; refuse other adapters than plain LoRA."""
    if not _has(folder, ADAPTER):
        return {}
    path, config = folder / ADAPTER, read_settings(folder)
    if config.get("peft_type") != "LORA":
        raise Refusal(what, "its adapter is not plain LoRA", "merge it into its base and use the full form")
    refuse_settings(config, what, plain=True)
    lacking = [name for name in ("r", "lora_alpha", "target_modules") if not config.get(name)]
    if lacking:
        raise Refusal(what, f"its {ADAPTER} states no {lacking[0]}", "get the published file again")
    checked(Adapter, config, f"{path}")
    check_places(config, folder)
    return config


def lora_of(meta: Meta | None, adapter: Mapping[str, Any]) -> dict[str, object]:
    """The adapter in the words of PEFT's LoraConfig, from whichever file describes it."""
    if adapter:
        return {name: adapter[name] for name in PLAIN if adapter.get(name) is not None}
    if meta is None:
        return {}
    return {
        "r": meta.lora_r,
        "lora_alpha": meta.lora_alpha,
        "target_modules": meta.target_modules,
        "use_rslora": meta.use_rslora,
    }


def read_head(path: Path, width: int) -> tuple[Floats, Floats | None, dict[str, NDArray[Any]]]:
    """Value head's weight (d, d) and bias (d,) or None, float32, and the adapter's arrays if it shares their file."""
    arrays, _ = read_arrays(path)
    prefix = "value_head." if path.name == EASY_WEIGHTS else ""
    weight, bias = arrays.pop(f"{prefix}weight", None), arrays.pop(f"{prefix}bias", None)
    if weight is None:
        held = ", ".join(shown(name) for name in sorted(arrays)[:3]) or "nothing"
        raise Refusal(f"{path}", f"it holds no {prefix}weight but {held}", "get the published file again")
    if not prefix and arrays:
        raise Refusal(f"{path}", f"beside the head it holds '{shown(min(arrays))}'", "get the published file again")
    if weight.shape != (width, width) or (bias is not None and bias.shape != (width,)):
        shapes = f"{weight.shape}{'' if bias is None else f' and a bias {bias.shape}'}"
        why = f"its head is {shapes}, and the width is {width}"
        raise Refusal(f"{path}", why, "use the head that was trained with it")
    with np.errstate(over="ignore"):  # what float32 cannot hold is infinite, and refused
        weight = weight.astype(np.float32)
        bias = None if bias is None else bias.astype(np.float32)
    if not all(np.isfinite(a).all() for a in (weight, bias) if a is not None):
        raise Refusal(f"{path}", "its head holds NaN or infinite numbers", "get the published file again")
    return weight, bias, arrays


def _has(folder: Path, name: str) -> bool:
    return (folder / name).is_file()
