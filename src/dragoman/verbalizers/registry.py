"""Published verbalizers and reconstructors: what each is, how it wants to be fed, which one to take for a model.

In: ``checkpoints.yaml`` beside this file, read once, when first asked for. Out: frozen `Checkpoint` records,
`Recommendation` lists. Refuses to name a contract that is not known at first hand: a checkpoint's files do not say
which one it was trained under, and a wrong one yields fluent nonsense instead of an error.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from dragoman.core import Refusal, Site
from dragoman.store.plainyaml import parse_yaml
from dragoman.store.spans import shown
from dragoman.verbalizers.modelnames import family, same_but_tuning, same_model

Contract = Literal["kitft", "karvonen", "oracle", "universal", "selfie", "continuous", "span-add", "unknown"]
Mark = Literal["confirmed", "second-hand", "unknown"]
Role = Literal["av", "ar", "pair", "map"]
Relation = Literal["native", "other tuning", "own encoder", "family", "foreign"]
Scale = Annotated[float | Literal["sqrt_d_model", "raw"] | None, Field(union_mode="left_to_right")]
# YAML folds long lines; a sentence is one line again here.
Words = Annotated[str, BeforeValidator(lambda text: " ".join(text.split()) if isinstance(text, str) else text)]

TRAINED_ON_ROWS: tuple[Contract, ...] = ("selfie", "continuous", "span-add")  # their files say no base to read for
_CACHED = re.compile(r"(?:^|[/\\])models--(?P<org>[^/\\]+?)--(?P<name>[^/\\]+)(?=$|[/\\])")
_ORDER: Sequence[Relation] = ("native", "other tuning", "own encoder", "family", "foreign")
# GB of weights in bfloat16 that leave room for activations, and where they then fit.
FITS = ((4.0, "fits a laptop"), (18.0, "fits a 24 GB card"), (40.0, "fits a 48 GB card"), (66.0, "fits an 80 GB card"))


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Sae(_Record):
    """A dictionary near a checkpoint's block: SAELens ``release`` and ``sae_id``, or ``repo`` and ``path``, or both.

    ``neuronpedia``: MODEL/SOURCE there. ``checked`` is false where the name follows a pattern nobody looked up.
    """

    block: int
    release: str | None = None
    sae_id: str | None = None
    repo: str | None = None
    revision: str | None = None
    path: str | None = None
    neuronpedia: str | None = None
    checked: bool = True
    note: Words = ""

    @model_validator(mode="after")
    def _named(self) -> Sae:
        if not self.repo and not (self.release and self.sae_id):
            raise ValueError("a dictionary needs release and sae_id, or repo")
        return self

    @property
    def refs(self) -> tuple[str, ...]:
        """How dragoman is asked for it, the form that needs no registry first."""
        hub = ""
        if self.repo:
            where = f"{self.repo}@{self.revision}" if self.revision else self.repo
            hub = f"hf:{where}/{self.path}" if self.path else where
        listed = f"sae:{self.release}/{self.sae_id}" if self.release else ""
        return tuple(ref for ref in (hub, listed) if ref)


class Switches(_Record):
    """What a checkpoint's contract leaves open; None where it is not known before its sidecar is read.

    ``scale``: L2 norm of the injected vector, ``raw`` for none. ``opens_tag``: the prompt already ends in
    ``<explanation>``. ``slots``: further names in the template. ``hook_block``: whose output is added to.
    ``prompt``: which of its contract's published prompts it was trained with. ``ar_bos``: whether the reconstructor's
    text starts with BOS where the tokenizer has one. ``stacked_on``: what an adapter sits on when its files do not say,
    or it is not the base.
    """

    weights: Literal["full", "lora"] | None = None
    scale: Scale = None
    marker: str | None = None
    marker_id: int | None = None
    neighbours: tuple[int, int] | None = None
    chat_template: bool | None = None
    opens_tag: bool = False
    slots: tuple[str, ...] = ()
    hook_block: int | None = None
    prompt: str | None = None
    ar_bos: bool | None = None
    ar_head_bias: bool | None = None
    stacked_on: str | None = None


class Quality(_Record):
    """A published figure: what, how much, and who says so; ``own`` when they made the checkpoint."""

    metric: str
    value: float
    whose: str
    own: bool = False
    second_hand: bool = False

    def __str__(self) -> str:
        """``FVE 0.75 (its card)``."""
        return f"{self.metric} {self.value:g} ({self.whose}{', second-hand' if self.second_hand else ''})"


class Checkpoint(_Record):
    """One published checkpoint, or several whose names differ only where ``id`` has a ``*``.

    ``blocks``: whose output it reads; empty with ``any_block`` when the depth stands in the prompt. ``billions`` of
    parameters to be held. ``mark`` speaks of the layout; whatever is not confirmed says what is ``missing``. ``older``
    names the upload to prefer. ``folder`` and ``ar_folder``: where in the repository verbalizer and reconstructor lie,
    if not at its top. ``reads``: models a universal bundle brings an encoder for. ``demo``: only shows the machinery.
    """

    id: str
    role: Role
    base: str
    contract: Contract
    blocks: tuple[int, ...] = ()
    any_block: bool = False
    n_blocks: int | None = None
    d_model: int | None = None
    billions: float | None = None
    partner: str | None = None
    folder: str | None = None
    ar_folder: str | None = None
    switches: Switches = Switches()
    quality: tuple[Quality, ...] = ()
    saes: tuple[Sae, ...] = ()
    reads: tuple[str, ...] = ()
    mark: Mark = "confirmed"
    missing: Words = ""
    older: str | None = None
    demo: bool = False
    note: Words = ""

    @model_validator(mode="after")
    def _whole(self) -> Checkpoint:
        if (self.mark == "confirmed") == bool(self.missing):
            raise ValueError(f"{self.id}: what is not confirmed, and only that, says what is missing")
        if (self.contract == "unknown") != (self.mark == "unknown"):
            raise ValueError(f"{self.id}: an unknown contract and the mark unknown go together")
        if self.n_blocks is not None and any(not 0 <= b < self.n_blocks for b in self.blocks):
            raise ValueError(f"{self.id}: block {self.blocks} of {self.n_blocks}")
        placed = bool(self.blocks) != self.any_block or self.contract == "universal"
        if self.mark == "confirmed" and not placed:
            raise ValueError(f"{self.id}: a confirmed checkpoint has blocks, or reads any")
        return self

    @property
    def ref(self) -> str:
        """How dragoman is asked for its verbalizer."""
        return f"{self.id}/{self.folder}" if self.folder else self.id

    @property
    def reader_ref(self) -> str | None:
        """How dragoman is asked for the reconstructor that belongs to it."""
        return f"{self.id}/{self.ar_folder}" if self.ar_folder else self.partner

    @property
    def usable(self) -> bool:
        """Known well enough to be run: its contract is one of those that are built."""
        return self.mark == "confirmed"

    @property
    def gigabytes(self) -> float | None:
        """Weights in bfloat16."""
        return None if self.billions is None else 2 * self.billions

    @property
    def settings(self) -> dict[str, object]:
        """What a loader is told beside the checkpoint's own file, in the words of the contracts' settings.

        The block is among them, so that a file which says another one is refused rather than believed.
        """
        said: dict[str, object] = {"block": self.blocks[0]} if len(self.blocks) == 1 else {}
        if self.switches.hook_block is not None:
            said["hook_block"] = self.switches.hook_block
        if self.switches.chat_template is False:
            said["chat_template"] = False
        if self.switches.opens_tag:
            said["prefill"] = "<explanation>"
        if self.switches.prompt:
            said["prompt"] = self.switches.prompt
        if self.usable and self.contract in TRAINED_ON_ROWS:
            said["model"] = self.base
        return said

    @property
    def reader_layout(self) -> str | None:
        """How its reconstructor is laid out (``kitft`` or ``easynla``), None where that is not known."""
        known = {"kitft": "kitft", "karvonen": "easynla"}
        return known.get(self.contract) if self.usable and self.role in ("ar", "pair") else None

    @property
    def where(self) -> str:
        """The block in words: ``20/28``, ``any``, ``?``."""
        if self.any_block:
            return "any"
        if self.contract == "universal":
            return "half depth"
        if not self.blocks:
            return "?"
        return ", ".join(map(str, self.blocks)) + (f"/{self.n_blocks}" if self.n_blocks else "")

    def distance(self, sae: Sae) -> int:
        """Blocks from the verbalizer's to the dictionary's: negative is early, 0 is exact (or the depth is free)."""
        if not self.blocks:
            return 0
        return min((sae.block - block for block in self.blocks), key=abs)


class Recommendation(_Record):
    """A checkpoint for a source model, with the reason; ``usable`` says whether dragoman can run it as it stands."""

    checkpoint: Checkpoint
    relation: Relation
    reason: str
    usable: bool


@cache
def checkpoints() -> tuple[Checkpoint, ...]:
    """All checkpoints, in the file's order; refused when the file, which comes with the package, is damaged."""
    return parse_registry((files("dragoman.verbalizers") / "checkpoints.yaml").read_text(encoding="utf-8"))


def parse_registry(text: str) -> tuple[Checkpoint, ...]:
    """Read a registry's YAML; refuse one that is not whole, naming the entry."""
    what = "dragoman's checkpoint registry"
    loaded = parse_yaml(text, what, "it is damaged", "reinstall dragoman")
    entries = loaded.get("checkpoints") if isinstance(loaded, dict) else None
    if not isinstance(entries, list):
        raise Refusal(what, "it is damaged (it lists no checkpoints)", "reinstall dragoman")
    try:
        found = tuple(Checkpoint.model_validate(entry) for entry in entries)
    except ValidationError as error:
        raise Refusal(what, f"it is damaged ({shown(error.errors()[0]['msg'], 200)})", "reinstall dragoman") from error
    names = [c.id.casefold() for c in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise Refusal(what, f"it lists {shown(twice[0])} twice", "reinstall dragoman")
    return found


def find(ref: str) -> Checkpoint | None:
    """The record of a checkpoint, by hub id (perhaps with ``@revision`` and sub-folder), packaged name or cache folder.

    A folder of another name is not looked up: what it is called says nothing about what is in it.
    """
    text = str(ref).strip().rstrip("/\\")
    cached = _CACHED.search(text)
    # A folder inside a repository (org/name/sub) is the repository's.
    name = f"{cached['org']}/{cached['name']}" if cached else "/".join(text.partition("@")[0].split("/")[:2])
    name = name.casefold()
    exact = next((c for c in checkpoints() if c.id.casefold() == name), None)
    if exact is not None:
        return exact
    # The longest pattern is the most specific one.
    fits = [c for c in checkpoints() if "*" in c.id and fnmatchcase(name, c.id.casefold())]
    return max(fits, key=lambda c: len(c.id), default=None)


def contract_of(ref: str) -> Contract:
    """The injection contract a published checkpoint was trained under.

    Raises:
        Refusal: it is not in the registry, or its layout is not known at first hand; the sentence says what is missing.
    """
    found = find(ref)
    named = [name for name in get_args(Contract) if name != "unknown"]
    instead = f"read its card and name the contract yourself ({', '.join(named[:-1])} or {named[-1]})"
    if found is None:
        raise Refusal(
            f"checkpoint {ref}",
            "it is not in dragoman's registry, and a checkpoint's files do not say which injection contract it was"
            " trained under",
            f"{instead}; dragoman checkpoints lists the known ones",
        )
    if found.mark == "unknown":
        raise Refusal(f"checkpoint {ref}", f"how it wants to be fed is not known; missing: {found.missing}", instead)
    if found.mark == "second-hand":
        raise Refusal(f"checkpoint {ref}", f"its layout is known second-hand only; missing: {found.missing}", instead)
    return found.contract


def recommend(source: str, d_model: int | None = None, *, block: int | None = None) -> list[Recommendation]:
    """Verbalizers for the features of a source model, best first, each with its reason.

    Order: what can be run before what cannot; the model's own (nearest block first), its other tuning, a bundle with an
    encoder of its own, its family, the others; then figures by somebody else before the makers' own; then the smaller.

    Args:
        source: hub id or packaged name, or a site (``MODEL:BLOCK``), whose block then counts.
        d_model: width of its stream; natives of another width are taken for another model's.
        block: where the directions live.
    """
    if re.search(r":\d+$", source):
        site = Site.parse(source)
        source, block = site.model, site.block if block is None else block
    readers = [c for c in checkpoints() if c.role in ("av", "pair") and c.older is None]
    found = []
    for c in readers:
        relation = _relation(c, source, d_model)
        reason = _reason(c, relation, block)
        found.append(Recommendation(checkpoint=c, relation=relation, reason=reason, usable=c.usable))
    return _first_to_take(sorted(found, key=lambda r: _rank(r, block)))


def _first_to_take(ranked: list[Recommendation]) -> list[Recommendation]:
    """The same, with the best that can be named as it stands in front of patterns, which stand for several."""
    at = next((k for k, one in enumerate(ranked) if one.usable and "*" not in one.checkpoint.id), 0)
    return [ranked[at], *ranked[:at], *ranked[at + 1 :]] if ranked else []


def _relation(c: Checkpoint, source: str, d_model: int | None) -> Relation:
    fits = d_model is None or c.d_model is None or c.d_model == d_model
    if c.contract == "universal":
        own = any(same_but_tuning(source, model.rpartition(":")[0] or model) for model in c.reads)
        return "own encoder" if own else "foreign"
    if same_model(source, c.base) and fits:
        return "native"
    if same_but_tuning(source, c.base) and fits:
        return "other tuning"
    return "family" if family(source) == family(c.base) else "foreign"


def _off(c: Checkpoint, block: int | None) -> int:
    """Blocks between the directions and the nearest place this checkpoint reads."""
    return 0 if block is None or not c.blocks else min(abs(b - block) for b in c.blocks)


def _rank(r: Recommendation, block: int | None) -> tuple[float, ...]:
    c, near = r.checkpoint, r.relation in ("native", "other tuning")
    firsthand = [q for q in c.quality if not q.second_hand]
    tier = 0 if any(not q.own for q in firsthand) else 1 if firsthand else 2
    size = math.inf if c.billions is None else c.billions
    toy = c.demo and not near
    return (not r.usable, toy, _ORDER.index(r.relation), _off(c, block) if near else 0, tier, size)


def _reason(c: Checkpoint, relation: Relation, block: int | None) -> str:
    """One sentence: relation and block, figure, size, and what stands in the way."""
    off = _off(c, block)
    at = "reads any block" if c.any_block else f"reads block {c.where}" if c.blocks else f"reads {c.where}"
    if block is not None and c.blocks and relation in ("native", "other tuning"):
        at = f"reads block {c.where}, " + ("exactly yours" if off == 0 else f"{off} block{'s' * (off > 1)} from yours")
    who = {
        "native": "your model's own verbalizer",
        "other tuning": "your model in another tuning",
        "own encoder": "brings a linear encoder for your model",
        "family": "same family",
        "foreign": "another family",
    }[relation]
    best = max((q for q in c.quality if not q.second_hand), key=lambda q: not q.own, default=None)
    said = [f"{who}, {at}", str(best) if best else "no figure at first hand", _size(c)]
    if c.demo:
        said.append("tiny: for trying the machinery")
    if not c.usable:
        said.append(f"refused: {c.missing}")
    return "; ".join(part for part in said if part)


def _size(c: Checkpoint) -> str:
    held = c.gigabytes
    if held is None:
        return ""
    return f"{held:.3g} GB in bfloat16, " + next((fits for most, fits in FITS if held <= most), "needs several cards")
