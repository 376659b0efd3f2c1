"""Read ``nla_meta.yaml``, the file beside a verbalizer that says how its vector must be fed.

In: a checkpoint folder. Out: a resolved, frozen ``Sidecar``. Refuses a missing or unreadable file, sidecars of
datasets and reconstructors, other injection modes, and files without scale, template, marker or layer.
Field names and fallbacks are those found in published checkpoints (kitft's schema version 2 and its variants).
"""

from __future__ import annotations

import math
import re
import string
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from dragoman.core import Refusal

NAME = "nla_meta.yaml"
SLOT = "injection_char"
VERBALIZER_ROLES = ("av", "actor", "verbalizer")
_LAYER_IN_NAME = re.compile(r"(?:^|[-_./])L(\d+)(?=$|[-_./@])")


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class _Extraction(_Part):
    injection_scale: float | str | None = None
    d_model: int | None = None
    layer_index: int | None = None
    base_model: str | None = None


class _Tokens(_Part):
    injection_char: str | None = None
    injection_token_id: int | None = None
    injection_left_neighbor_id: int | None = None
    injection_right_neighbor_id: int | None = None


class _Templates(_Part):
    verbalizer: str | None = None
    av: str | None = None
    actor: str | None = None


class _Reader(_Part):
    extraction_layer_index: int | None = None
    num_hidden_layers: int | None = None


class _Training(_Part):
    injection_mode: str | None = None


class _File(_Part):
    """The file as written; every field may be absent, the rules are in ``read_sidecar``."""

    kind: str | None = None
    role: str | None = None
    base_checkpoint: str | None = None
    d_model: int | None = None
    extraction_layer_index: int | None = None
    extraction: _Extraction = _Extraction()
    tokens: _Tokens = _Tokens()
    prompt_templates: _Templates = _Templates()
    ar: _Reader | None = None
    critic: _Reader | None = None
    reconstructor: _Reader | None = None
    training: _Training | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sidecar:
    """How a verbalizer wants its vector.

    ``d_model`` width of the vector; ``block`` whose output it reads; ``injection_scale`` L2 norm the vector is given;
    ``marker`` and ``marker_id`` the token whose embedding is replaced; ``left_id`` and ``right_id`` its neighbours in
    the prompt, when stored; ``template`` the user message, with its slots; ``base`` the model it was made from, when
    stored.
    """

    d_model: int
    block: int
    injection_scale: float
    marker: str
    marker_id: int
    template: str
    left_id: int | None = None
    right_id: int | None = None
    base: str | None = None


def read_sidecar(folder: Path, *, name: str | None = None) -> Sidecar:
    """Resolve ``folder/nla_meta.yaml``.

    Args:
        folder: the checkpoint's folder.
        name: what the checkpoint is called, read for its layer (``-L20-``) when the file names none.

    Raises:
        Refusal: the file is absent, damaged, about something else, or leaves out what decides the injection.
    """
    what = f"sidecar {folder / NAME}"
    found = _read(folder / NAME, what)
    if found.kind == "nla_dataset":
        raise Refusal(
            what,
            "it describes a dataset (kind nla_dataset), which stores no injection scale",
            "use a checkpoint with a sidecar of kind nla_model; norm-matched adding is another contract",
        )
    if found.kind != "nla_model":
        raise Refusal(
            what, f"its kind is {found.kind!r}, not nla_model", "use the sidecar that came with the verbalizer"
        )
    if found.role is not None and found.role not in VERBALIZER_ROLES:
        raise Refusal(what, f"its role is '{found.role}', not a verbalizer's", "pass the folder of the verbalizer (av)")
    mode = found.training.injection_mode if found.training else None
    if mode not in (None, "normalize", "replace"):
        raise Refusal(
            what,
            f"it was trained with injection mode '{mode}'",
            "dragoman feeds verbalizers that replace one prompt embedding by a rescaled vector",
        )
    width = found.d_model or found.extraction.d_model
    if not width:
        raise Refusal(what, "it states no d_model", "add d_model, the width of the vectors it was trained on")
    marker, marker_id = found.tokens.injection_char, found.tokens.injection_token_id
    if not marker or marker_id is None:
        raise Refusal(what, "it names no marker token", "add tokens.injection_char and tokens.injection_token_id")
    return Sidecar(
        d_model=width,
        block=_block(found, name or folder.name, what),
        injection_scale=_scale(found.extraction.injection_scale, width, what),
        marker=marker,
        marker_id=marker_id,
        template=_template(found.prompt_templates, marker, what),
        left_id=found.tokens.injection_left_neighbor_id,
        right_id=found.tokens.injection_right_neighbor_id,
        base=found.base_checkpoint or found.extraction.base_model,
    )


def slots_of(template: str, what: str) -> set[str]:
    """Names of the ``{slots}`` of a template; refuse one that cannot be filled in."""
    try:
        names = {field for _, field, _, _ in string.Formatter().parse(template) if field is not None}
    except ValueError as err:
        raise Refusal(what, f"its template has unbalanced braces ({err})", "mend the template") from err
    odd = sorted(n for n in names if not n.isidentifier())
    if odd:
        raise Refusal(what, f"its template has a slot '{{{odd[0]}}}' that is no name", "double literal braces as {{ }}")
    return names


def _read(path: Path, what: str) -> _File:
    """Parse the file as plain YAML; tags that would build Python objects are errors to safe_load."""
    if not path.is_file():
        raise Refusal(
            f"verbalizer folder {path.parent}",
            f"it holds no {NAME}, so the scale, marker and template of its vector are unknown",
            "copy the sidecar that was published with the checkpoint into it",
        )
    try:
        loaded: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as err:
        detail = " ".join(str(err).split())[:160]
        raise Refusal(what, f"it cannot be read as plain YAML ({detail})", "get the published file again") from err
    if not isinstance(loaded, dict):
        raise Refusal(what, "it is not a mapping of names to values", "get the published file again")
    # Published files write an empty section as null.
    sections = {key: value for key, value in loaded.items() if value is not None}
    try:
        return _File.model_validate(sections)
    except ValidationError as err:
        first = err.errors()[0]
        where = ".".join(str(p) for p in first["loc"])
        raise Refusal(what, f"its field {where} is wrong ({first['msg']})", "mend that field") from err


def _scale(stated: float | str | None, width: int, what: str) -> float:
    """A number (YAML reads 8e4 as text), or the square root of the width; never a guess."""
    if stated == "sqrt_d_model":
        return math.sqrt(width)
    try:
        scale = math.nan if stated is None else float(stated)
    except ValueError:
        scale = math.nan
    if not (math.isfinite(scale) and scale > 0):
        raise Refusal(
            what,
            f"its extraction.injection_scale is {stated!r}, not a positive number",
            "write the norm the checkpoint was trained with; any other is off its training distribution",
        )
    return scale


def _template(templates: _Templates, marker: str, what: str) -> str:
    """The verbalizer's template, under its newest name first."""
    template = templates.verbalizer or templates.av or templates.actor
    if not template:
        raise Refusal(what, "it holds no verbalizer template", "add prompt_templates.av")
    if SLOT not in slots_of(template, what) and marker not in template:
        raise Refusal(
            what,
            f"its template has no place for the vector (neither {{{SLOT}}} nor '{marker}')",
            "use the template the checkpoint was trained with",
        )
    return template


def _block(found: _File, name: str, what: str) -> int:
    """Block whose output is read; refuse when two fields disagree, or nothing tells."""
    readers = [r for r in (found.ar, found.critic, found.reconstructor) if r is not None]
    stated = [found.extraction_layer_index, found.extraction.layer_index]
    # In a sidecar the reconstructor's num_hidden_layers is the block itself, not the count its config.json states.
    stated += [
        r.extraction_layer_index if r.extraction_layer_index is not None else r.num_hidden_layers for r in readers
    ]
    blocks = [b for b in stated if b is not None]
    if not blocks:
        blocks = [int(n) for n in _LAYER_IN_NAME.findall(name)]
    if not blocks:
        raise Refusal(what, "it does not say which block's output it reads", "add extraction_layer_index")
    if len(set(blocks)) > 1:
        raise Refusal(
            what,
            f"its fields disagree about the block ({', '.join(map(str, sorted(set(blocks))))})",
            "correct extraction_layer_index",
        )
    return blocks[0]
