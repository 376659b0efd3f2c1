"""Read ``nla_meta.yaml``, the file beside a verbalizer that says how its vector must be fed.

In: a checkpoint folder, and what a person says where the file is silent. Out: a resolved, frozen ``Sidecar``. Refuses a
missing or unreadable file, sidecars of reconstructors, of datasets where a scale is needed, other injection modes,
files without scale, template, marker or layer, and words that contradict the file. What the sidecars of reconstructors
have in common with it is checked here for both, and the types of fields of every file beside a checkpoint stand here.
Field names and fallbacks are those found in published checkpoints (kitft's schema version 2 and its variants).
"""

from __future__ import annotations

import math
import re
import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from dragoman.core import Refusal
from dragoman.store import read_json
from dragoman.store.plainyaml import read_yaml
from dragoman.store.spans import shown

NAME = "nla_meta.yaml"
SLOT = "injection_char"
VERBALIZER_ROLES = ("av", "actor", "verbalizer")
REPLACING = (None, "normalize", "replace")  # injection modes that overwrite one embedding at a fixed norm
RAW = "raw"
LOUDEST = 1e30  # a norm that float32 still computes with
_LAYER_IN_NAME = re.compile(r"(?:^|[-_./])L(\d+)(?=$|[-_./@])")


def _no_bool(value: Any) -> Any:
    """YAML's true is 1 to Python, and never meant as a number."""
    if isinstance(value, bool):
        raise ValueError("a number is due, not a yes or no")
    return value


def _short(value: Any) -> Any:
    """A number, a number as text, or one of a few words."""
    if isinstance(value, str) and len(value) > 40:
        raise ValueError(f"a number or a word is due, not {len(value)} characters")
    return value


Natural = Annotated[int, BeforeValidator(_no_bool), Field(ge=0, le=1 << 53)]
Width = Annotated[int, BeforeValidator(_no_bool), Field(ge=1, le=1 << 53)]
Scale = Annotated[float | str, BeforeValidator(_short), BeforeValidator(_no_bool)]


class Part(BaseModel):
    """A file or a section of one; what is not named here is of no account."""

    model_config = ConfigDict(extra="ignore", frozen=True)


_Model = TypeVar("_Model", bound=BaseModel)


class Reader(Part):
    """A reconstructor's section of a sidecar: the block it predicts, under two names."""

    extraction_layer_index: Natural | None = None
    num_hidden_layers: Natural | None = None

    @property
    def block(self) -> int | None:
        """In a sidecar ``num_hidden_layers`` is the block itself, not the count of blocks that config.json states."""
        return self.num_hidden_layers if self.extraction_layer_index is None else self.extraction_layer_index


class Origin(Part):
    """Section ``extraction``: where the vectors are from."""

    d_model: Width | None = None
    layer_index: Natural | None = None
    base_model: str | None = None


_Origin = TypeVar("_Origin", bound=Origin)


class Described(Part, Generic[_Origin]):
    """What the sidecars of verbalizers and of reconstructors have in common; every field may be absent."""

    kind: str | None = None
    role: str | None = None
    base_checkpoint: str | None = None
    d_model: Width | None = None
    extraction_layer_index: Natural | None = None
    extraction: _Origin
    reconstructor: Reader | None = None
    ar: Reader | None = None
    critic: Reader | None = None

    @property
    def base(self) -> str | None:
        """The model it was made from."""
        return self.base_checkpoint or self.extraction.base_model

    @property
    def blocks(self) -> dict[str, int]:
        """The block by each field that states it; they should all be one."""
        stated = {
            "extraction_layer_index": self.extraction_layer_index,
            "extraction.layer_index": self.extraction.layer_index,
        }
        readers = {"reconstructor": self.reconstructor, "ar": self.ar, "critic": self.critic}
        stated |= {name: None if reader is None else reader.block for name, reader in readers.items()}
        return {name: block for name, block in stated.items() if block is not None}


def checked(model: type[_Model], values: Any, what: str) -> _Model:
    """A file's values as its model; refuse what is no mapping, and fields of another type.

    Published files write an empty section as null.
    """
    if not isinstance(values, dict):
        raise Refusal(what, "it is not a mapping of names to values", "get the published file again")
    try:
        return model.model_validate({str(k): v for k, v in values.items() if v is not None})
    except ValidationError as err:
        first = err.errors()[0]
        where = ".".join(str(p) for p in first["loc"])
        raise Refusal(what, f"its field {shown(where)} is wrong ({first['msg']})", "mend that field") from err


def block_in_name(name: str, what: str) -> int | None:
    """The block a checkpoint's name tells (``-L20-``), None where it tells none; refuse a name that tells of two."""
    found = sorted({int(digits) for digits in _LAYER_IN_NAME.findall(name)})
    if len(found) > 1:
        why = f"its files state no block, and its name tells of several ({', '.join(map(str, found))})"
        raise Refusal(what, why, "add extraction_layer_index to its sidecar")
    return found[0] if found else None


class _Extraction(Origin):
    injection_scale: Scale | None = None


class _Tokens(Part):
    injection_char: str | None = None
    injection_token_id: Natural | None = None
    injection_left_neighbor_id: Natural | None = None
    injection_right_neighbor_id: Natural | None = None


class _Templates(Part):
    verbalizer: str | None = None
    av: str | None = None
    actor: str | None = None


class _Training(Part):
    injection_mode: str | None = None
    chat_template: bool | None = None


class _File(Described[_Extraction]):
    """The file as written; every field may be absent, the rules are in ``read_sidecar``."""

    extraction: _Extraction = _Extraction()
    tokens: _Tokens = _Tokens()
    prompt_templates: _Templates = _Templates()
    training: _Training | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sidecar:
    """How a verbalizer wants its vector.

    ``d_model`` width of the vector; ``block`` whose output it reads; ``injection_scale`` L2 norm the vector is given,
    None where the contract fixes no norm; ``marker`` and ``marker_id`` the token that stands for the vector;
    ``left_id`` and ``right_id`` its neighbours in the prompt, when stored; ``template`` the user message, with its
    slots; ``base`` the model it was made from, when stored; ``chat_template`` whether the message was a chat turn in
    training, when stored.
    """

    d_model: int
    block: int
    injection_scale: float | None
    marker: str
    marker_id: int
    template: str
    left_id: int | None = None
    right_id: int | None = None
    base: str | None = None
    chat_template: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Overrides:
    """What is said about a checkpoint beside its file, by a person or by the registry.

    ``scaled``: its contract needs a norm. ``norm``: that norm, or "sqrt_d_model", for files that state none or "raw";
    ``block``: the block, for files that state none. ``width_of``: the width of a base model, by its reference.
    """

    scaled: bool = True
    norm: float | str | None = None
    block: int | None = None
    width_of: Callable[[str], int | None] | None = None


def sidecar_file(folder: Path) -> Path:
    """The sidecar of the checkpoint in ``folder``: its own, else the one a folder up, if ``folder`` holds weights.

    EasyNLA and nanoNLA keep one for a whole run (``run/nla_meta.yaml`` beside ``run/iter_000400``); further up it would
    be somebody else's. Where there is none, the place it should have.
    """
    own = folder / NAME
    if own.is_file() or not any(folder.glob("*.safetensors")):
        return own
    above = folder.resolve().parent / NAME
    return above if above.is_file() else own


def stated_in(folder: Path) -> dict[str, object]:
    """A checkpoint's sidecar as plain YAML, empty sections left out; refuse a missing or unreadable one."""
    path = sidecar_file(folder)
    return _load(path, f"sidecar {path}")


def refuse_reader(stated: Mapping[str, Any], what: str) -> None:
    """Refuse the sidecar of a reconstructor."""
    role = stated.get("role")
    if role is not None and role not in VERBALIZER_ROLES:
        why = f"its role is '{shown(role)}', not a verbalizer's"
        raise Refusal(what, why, "pass the folder of the verbalizer (av)")


def read_sidecar(folder: Path, *, name: str | None = None, overrides: Overrides | None = None) -> Sidecar:
    """Resolve a checkpoint's ``nla_meta.yaml``; see ``sidecar_file`` for where it may lie.

    ``name``: what the checkpoint is called, read for its layer (``-L20-``) when the file names none. ``overrides``:
    what is known beside the file; nothing of it may contradict the file.

    Raises:
        Refusal: the file is absent, damaged, about something else, or leaves out what decides the injection.
    """
    what, overrides = f"sidecar {sidecar_file(folder)}", overrides or Overrides()
    stated = stated_in(folder)
    found = checked(_File, stated, what)
    _refuse_kind(found, overrides, what)
    refuse_reader(stated, what)
    mode = found.training.injection_mode if found.training else None
    if overrides.scaled and mode not in REPLACING:
        instead = "use a contract that feeds it so; this one replaces one prompt embedding by a rescaled vector"
        raise Refusal(what, f"it was trained with injection mode '{shown(mode)}'", instead)
    width = _width(found, folder, overrides, what)
    stated_scale, norm = found.extraction.injection_scale, overrides.norm
    marker, marker_id = found.tokens.injection_char, found.tokens.injection_token_id
    if not marker or marker_id is None:
        raise Refusal(what, "it names no marker token", "add tokens.injection_char and tokens.injection_token_id")
    return Sidecar(
        d_model=width,
        block=_block(found, name or folder.name, overrides.block, what),
        injection_scale=_scale(stated_scale, norm, width, what) if overrides.scaled else None,
        marker=marker,
        marker_id=marker_id,
        template=_template(found.prompt_templates, marker, what),
        left_id=found.tokens.injection_left_neighbor_id,
        right_id=found.tokens.injection_right_neighbor_id,
        base=found.base,
        chat_template=found.training.chat_template if found.training else None,
    )


def slots_of(template: str, what: str) -> set[str]:
    """Names of the ``{slots}`` of a template; refuse one that cannot be filled in."""
    try:
        slots = [(name, spec, how) for _, name, spec, how in string.Formatter().parse(template) if name is not None]
    except ValueError as err:
        raise Refusal(what, f"its template has unbalanced braces ({err})", "mend the template") from err
    names = {name for name, _, _ in slots}
    odd = sorted(n for n in names if not n.isidentifier())
    if odd:
        why = f"its template has a slot '{{{shown(odd[0])}}}' that is no name"
        raise Refusal(what, why, "double literal braces as {{ }}")
    # {x:>9999999999} would fill the memory when it is filled in.
    formed = next((name for name, spec, how in slots if spec or how), None)
    if formed is not None:
        raise Refusal(what, f"its template gives a form for slot '{{{shown(formed)}}}'", "write the name alone")
    return names


def _load(path: Path, what: str) -> dict[str, object]:
    """Parse the file as plain YAML; tags that would build Python objects are errors to safe_load."""
    if not path.is_file():
        raise Refusal(
            f"verbalizer folder {path.parent}",
            f"it holds no {NAME}, so the scale, marker and template of its vector are unknown",
            "copy the sidecar that was published with the checkpoint into it",
        )
    loaded = read_yaml(path, what)
    if not isinstance(loaded, dict):
        raise Refusal(what, "it is not a mapping of names to values", "get the published file again")
    # Published files write an empty section as null.
    return {str(key): value for key, value in loaded.items() if value is not None}


def _refuse_kind(found: _File, overrides: Overrides, what: str) -> None:
    """A dataset's sidecar, copied beside an adapter, does where no scale is needed or one is given."""
    if found.kind == "nla_dataset":
        if overrides.scaled and overrides.norm is None:
            instead = "use a checkpoint with a sidecar of kind nla_model, or a contract that needs no scale"
            raise Refusal(what, "it describes a dataset (kind nla_dataset), which stores no injection scale", instead)
    elif found.kind != "nla_model":
        why = f"its kind is '{shown(found.kind)}', not nla_model"
        raise Refusal(what, why, "use the sidecar that came with the verbalizer")


def _width(found: _File, folder: Path, overrides: Overrides, what: str) -> int:
    """Top level, then extraction, then the checkpoint's own configuration, then its base model's."""
    stated = {w for w in (found.d_model, found.extraction.d_model) if w}
    if len(stated) > 1:
        raise Refusal(what, f"its fields disagree about d_model ({sorted(stated)})", "correct d_model")
    width = next(iter(stated), None) or width_in(folder)
    if not width and found.base and overrides.width_of:
        width = overrides.width_of(found.base)
    if not width:
        raise Refusal(what, "it states no d_model", "add d_model, the width of the vectors it was trained on")
    return width


def width_in(folder: Path) -> int | None:
    """Width of the model in a folder by its config.json, a multimodal wrapper's text part included; None if untold."""
    path = folder / "config.json"
    config = read_json(path) if path.is_file() else {}
    text = config.get("text_config") or config if isinstance(config, dict) else {}
    width = text.get("hidden_size") if isinstance(text, dict) else None
    return width if isinstance(width, int) and not isinstance(width, bool) and 0 < width < 1 << 53 else None


def _scale(stated: float | str | None, given: float | str | None, width: int, what: str) -> float:
    """A number (YAML reads 8e4 as text), or the square root of the width; what is given only where none is stated."""
    if stated in (None, RAW) and given is not None:
        return _norm(given, width, what, "the given norm", "give the norm the checkpoint was trained with")
    instead = "write the norm the checkpoint was trained with; any other is off its training distribution"
    if stated == RAW:
        instead = "give a norm (about the median norm of its block), because a direction has none of its own"
    scale = _norm(stated, width, what, "its extraction.injection_scale", instead)
    if given is not None and not math.isclose(_norm(given, width, what, "the given norm", instead), scale):
        why = f"its injection_scale is {scale:g}, and the norm given is {shown(given)}"
        raise Refusal(what, why, "leave the norm out")
    return scale


def _norm(value: float | str | None, width: int, what: str, whose: str, instead: str) -> float:
    if value == "sqrt_d_model":
        return math.sqrt(width)
    try:
        norm = math.nan if value is None else float(value)
    except ValueError:
        norm = math.nan
    if not 0 < norm < LOUDEST:
        raise Refusal(what, f"{whose} is {shown(repr(value))}, not a positive number that float32 can hold", instead)
    return norm


def _template(templates: _Templates, marker: str, what: str) -> str:
    """The verbalizer's template, under its newest name first."""
    template = templates.verbalizer or templates.av or templates.actor
    if not template:
        raise Refusal(what, "it holds no verbalizer template", "add prompt_templates.av")
    if SLOT not in slots_of(template, what) and marker not in template:
        why = f"its template has no place for the vector (neither {{{SLOT}}} nor '{shown(marker)}')"
        raise Refusal(what, why, "use the template the checkpoint was trained with")
    return template


def _block(found: _File, name: str, given: int | None, what: str) -> int:
    """Block whose output is read; refuse when two sources disagree, or nothing tells."""
    blocks = list(found.blocks.values())
    if given is not None and any(b != given for b in blocks):
        raise Refusal(what, f"it reads block {blocks[0]}, and the block given is {given}", "leave the block out")
    if not blocks:
        block = block_in_name(name, what) if given is None else given
        if block is None:
            raise Refusal(what, "it does not say which block's output it reads", "add extraction_layer_index")
        return block
    if len(set(blocks)) > 1:
        why = f"its fields disagree about the block ({', '.join(map(str, sorted(set(blocks))))})"
        raise Refusal(what, why, "correct extraction_layer_index")
    return blocks[0]
