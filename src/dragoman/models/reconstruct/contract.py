"""What a reconstructor's folder says about how it is read: layout, form, block, template, head, adapter.

In: a folder and the name of its layout. Out: a frozen ``Contract``. Refuses layouts that are not known, files that
disagree about block or width, templates without a place for the text, and merged checkpoints whose norm is in doubt.
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

from dragoman.core import Refusal
from dragoman.models.reconstruct.files import (
    EASY_WEIGHTS,
    HEAD,
    Extraction,
    Meta,
    Sidecar,
    Templates,
    form_of,
    lora_of,
    read_adapter_config,
    read_config,
    read_meta,
    read_sidecar_of_ar,
)
from dragoman.verbalizers.fields import block_in_name
from dragoman.verbalizers.sidecar import NAME, slots_of

LAYOUTS = ("kitft", "easynla")
SLOT = "explanation"


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
    """Resolve a reconstructor's files.

    Args:
        folder: the checkpoint's folder.
        layout: "kitft" or "easynla", as the checkpoint's authors or the registry name it.
        name: what the checkpoint is called, read for its block (``-L20-``) when no file names one.

    Raises:
        Refusal: files are missing, contradict the layout or each other, or leave out what decides the reading.
    """
    what = f"reconstructor {folder}"
    if layout not in LAYOUTS:
        raise Refusal(f"layout '{layout}'", f"known are {', '.join(LAYOUTS)}", "name the one it was trained in")
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
        base=found.base or adapter.get("base_model_name_or_path"),
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
        raise Refusal(
            what,
            f"its template also asks for {{{min(slots - {SLOT})}}}, and no published loader says what to write there",
            "write the value into the template of a copy",
        )
    return template
