"""What a contract is: it reads a checkpoint's file, makes the prompt, and turns vectors into embeddings and hooks.

In: ``CheckpointRequest``, the checkpoint with everything said about it. Out: a ``Prompt`` and, for vectors, a
``Feed``. Refuses settings a contract does not know, values of another kind, and vectors whose norm is beyond float32.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch

from dragoman.core import Refusal, Site
from dragoman.models.load import check_site
from dragoman.models.resolve import called
from dragoman.store.spans import shown
from dragoman.verbalizers.prompt import DAY, Prompt, Wording, build_prompt, checked_day
from dragoman.verbalizers.sidecar import (
    Described,
    Origin,
    Overrides,
    Sidecar,
    checked,
    read_sidecar,
    sidecar_file,
    stated_in,
)

Change = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hook:
    """A change of block ``block``'s output at ``positions`` of the prompt, while the prompt is read and never after.

    ``change``: hidden states (n, len(positions), d_model) of those positions to new ones of the same shape.
    """

    block: int
    positions: tuple[int, ...]
    change: Change


@dataclass(frozen=True, slots=True, kw_only=True)
class Feed:
    """What the engine runs for n vectors.

    ``embeddings``: (n, T, d_model) of the prompt; ``hooks``: what is changed on the way; ``shared``: how many
    leading positions are the same in every row and touched by no hook, so that they need to be read only once.
    """

    embeddings: torch.Tensor
    hooks: tuple[Hook, ...] = ()
    shared: int

    def __post_init__(self) -> None:
        """Refuse hooks inside what rows share, and outside the prompt."""
        length = self.embeddings.shape[1]
        for hook in self.hooks:
            if not all(self.shared <= p < length for p in hook.positions):
                why = f"rows share the first {self.shared} of {length} positions, and it must lie behind them"
                raise Refusal(f"a hook at positions {hook.positions}", why, "lower shared")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How its makers sample it; recorded, never applied unasked. ``source``: who does so."""

    temperature: float
    max_new_tokens: int
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointRequest:
    """A checkpoint and what is said about it.

    ``ref``: what it was asked for by. ``folder``: its files. ``settings``: what a person or the registry says where
    the file is silent. ``base``: the model under it, where a person names one. ``width_of``: width of a model by its
    reference, None if it cannot be told.
    """

    ref: str
    folder: Path
    settings: Mapping[str, Any] = field(default_factory=dict)
    base: str | None = None
    width_of: Callable[[str], int | None] = lambda _ref: None

    @property
    def has_file(self) -> bool:
        """Whether a sidecar lies beside the checkpoint."""
        return sidecar_file(self.folder).is_file()

    @property
    def stated(self) -> dict[str, object]:
        """What its sidecar states; refuse a checkpoint without a readable one."""
        return stated_in(self.folder)

    @property
    def name(self) -> str:
        """What it is called: its folder's name, or its repository's with the folder inside."""
        return called(self.ref)

    @property
    def what(self) -> str:
        """How refusals call it."""
        return f"verbalizer {self.ref}"

    @property
    def sidecar_name(self) -> str:
        """How refusals call its sidecar."""
        return f"sidecar {sidecar_file(self.folder)}"


class Contract(ABC):
    """One way of feeding vectors to a verbalizer; a subclass's name is its file's.

    ``sidecar``: how the checkpoint wants its vector. ``weights``: folder of the model or adapter. ``width``: of the
    vectors it takes; ``stream``: of the residual stream they are put into.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    sampling: ClassVar[Sampling]
    # Setting: the types it may have. The common ones are those of the prompt and of the block.
    settings: ClassVar[Mapping[str, tuple[type, ...]]] = {}
    common: ClassVar[Mapping[str, tuple[type, ...]]] = {
        "slots": (Mapping,),
        "chat_template": (bool,),
        "prefill": (str,),
        "tagged": (bool,),
        "block": (int,),
        "date": (str,),
    }
    scaled: ClassVar[bool] = True
    # Why the plain loop alone can feed it; empty where the captured engine can too.
    loop_only: ClassVar[str] = ""
    # Whether it was trained on bare dictionary rows, so that washing takes a vector off what it knows.
    trained_on_rows: ClassVar[bool] = False
    # Texts that end an answer, beside the closing tag and the model's own end of a text.
    closing: ClassVar[tuple[str, ...]] = ()

    def __init__(self, request: CheckpointRequest) -> None:
        """Read what the contract needs; refuse what it lacks."""
        self._refuse_settings(request.settings)
        self.request = request
        self.weights = request.folder
        self.sidecar = self.read(request)

    @classmethod
    def claims(cls, stated: Mapping[str, Any]) -> bool:
        """Whether a sidecar says, in this contract's own way, that it is of this contract."""
        return False

    @classmethod
    def contradiction(cls, stated: Mapping[str, Any]) -> str:
        """Why a sidecar cannot be of this contract; empty when it can.

        Of a contract without a scale: a stated scale or mode belongs to another way of feeding.
        """
        return "" if cls.scaled else scale_stated(stated) or other_kind(stated)

    def read(self, request: CheckpointRequest) -> Sidecar:
        """Resolve the sidecar."""
        norm, block = request.settings.get("norm"), request.settings.get("block")
        overrides = Overrides(scaled=self.scaled, norm=norm, block=block, width_of=request.width_of)
        return read_sidecar(request.folder, name=request.name, overrides=overrides)

    @property
    def width(self) -> int:
        """Width of the vectors it takes."""
        return self.sidecar.d_model

    @property
    def stream(self) -> int:
        """Width of the verbalizer's own residual stream."""
        return self.sidecar.d_model

    @property
    def loudest(self) -> float:
        """The largest norm it puts into the model, as far as it can be told beforehand."""
        return self.sidecar.injection_scale or 0.0

    @property
    def tagged(self) -> bool:
        """Whether answers stand between tags."""
        return self.request.settings.get("tagged", True)

    @property
    def reads_length(self) -> bool:
        """Whether a vector's length counts, and not its direction alone."""
        return False

    def answer(self, said: str) -> tuple[str, tuple[str, ...]]:
        """What of a decoded text is the answer, and what is wrong with its form; tags are taken off later."""
        return said, ()

    @property
    def identity(self) -> dict[str, object]:
        """What of it decides the words, beside the sidecar's bytes and the prompt."""
        scale, settings = self.sidecar.injection_scale, dict(sorted(self.request.settings.items()))
        named = {"injection_scale": scale, "settings": settings or None}
        return {name: value for name, value in named.items() if value is not None}

    def site(self, base: str) -> Site:
        """The stream whose vectors it reads; ``base`` is the model the checkpoint was made from."""
        return Site(self.sidecar.base or base, self.sidecar.block)

    def check(self, net: Any, site: Site) -> None:
        """Refuse a model that the contract cannot be used on."""
        check_site(site, net)

    def prompt(self, tokenizer: Any) -> Prompt:
        """The checked prompt."""
        return build_prompt(self.sidecar, tokenizer, wording=self.wording())

    def wording(self, **slots: str) -> Wording:
        """The prompt's wording by settings and sidecar; refuse a chat template the sidecar denies, or asks for."""
        said, stored = self.request.settings, self.sidecar.chat_template
        chat = said.get("chat_template", True if stored is None else stored)
        if stored is not None and chat != stored:
            why = f"it was trained {'with' if stored else 'without'} a chat template, and the setting says otherwise"
            raise Refusal(self.request.sidecar_name, why, "leave the setting out")
        told = {**slots, **{str(k): str(v) for k, v in said.get("slots", {}).items()}}
        return Wording(slots=told, chat=chat, prefill=said.get("prefill", ""), day=checked_day(said.get("date", DAY)))

    @abstractmethod
    def feed(self, prompt: Prompt, rows: torch.Tensor, vectors: torch.Tensor) -> Feed:
        """Embeddings and hooks for vectors.

        Args:
            prompt: the checked prompt.
            rows: its embeddings (T, stream), as the model's own module gives them.
            vectors: (n, width) float32 on the CPU, each with a direction.
        """

    def places(self, prompt: Prompt) -> tuple[int, ...]:
        """Positions of the prompt that the vector changes."""
        return (prompt.slot,)

    def carried(self, vectors: torch.Tensor) -> torch.Tensor:
        """What stands in the prompt of vectors (n, width) and turns round with them; (n, stream)."""
        norm = self.sidecar.injection_scale
        return vectors if norm is None else at_norm(vectors, norm, self.request.what)

    def resting(self) -> torch.Tensor | None:
        """What stands beside it, whatever the vector is, (stream,); None for nothing."""
        return None

    def added(self, stream: torch.Tensor) -> torch.Tensor:
        """Norms (k,) of what is added to a block's output (k, d) at the places of the vector, where hooks add."""
        return torch.linalg.vector_norm(stream, dim=-1)

    def _refuse_settings(self, said: Mapping[str, Any]) -> None:
        known = {**self.common, **self.settings}
        for key, value in said.items():
            if key not in known:
                why = f"it takes {', '.join(sorted(known))}"
                raise Refusal(f"setting '{key}' of contract '{self.name}'", why, "drop it")
            # A bool is an int to Python, and never meant as one here.
            if not isinstance(value, known[key]) or (isinstance(value, bool) and bool not in known[key]):
                kinds = " or ".join(kind.__name__ for kind in known[key])
                raise Refusal(f"setting '{key}' of contract '{self.name}'", f"{value!r} is no {kinds}", "give one")


class _Beside(Described[Origin]):
    """What a sidecar may say of a checkpoint that was published without one."""

    extraction: Origin = Origin()


def beside(request: CheckpointRequest) -> tuple[str | None, int]:
    """Base and block of a checkpoint whose contract has no sidecar of its own: by words, and by a sidecar all the same.

    Raises:
        Refusal: nothing tells the block, or two things tell two.
    """
    found = checked(_Beside, request.stated, request.sidecar_name) if request.has_file else _Beside()
    said = request.settings.get("block")
    blocks = {*found.blocks.values(), *([] if said is None else [said])}
    if len(blocks) > 1:
        why = f"its file and what is said tell of blocks {', '.join(map(str, sorted(blocks)))}"
        raise Refusal(request.what, why, "name the one it was trained on")
    if not blocks or min(blocks) < 0:
        why = "nothing says whose output its vectors are"
        raise Refusal(request.what, why, "pass --setting block=K, or write settings.block into its nla_meta.yaml")
    return request.base or found.base, blocks.pop()


def section(stated: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A section of a sidecar; empty where there is none."""
    found = stated.get(name)
    return found if isinstance(found, Mapping) else {}


def other_kind(stated: Mapping[str, Any]) -> str:
    """Why a sidecar is of no verbalizer's or dataset's kind; empty where it is, or does not say."""
    if stated.get("kind") in (None, "nla_model", "nla_dataset"):
        return ""
    return f"its sidecar is of kind '{shown(stated['kind'])}'"


def scale_stated(stated: Mapping[str, Any]) -> str:
    """Why a sidecar is of a contract that fixes a norm, or says its injection mode; empty where it says neither."""
    for part, key in (("extraction", "injection_scale"), ("training", "injection_mode")):
        value = section(stated, part).get(key)
        if value is not None:
            return f"its sidecar states {part}.{key} {shown(value)}, and this contract has none"
    return ""


def at_norm(vectors: torch.Tensor, norm: float, what: str) -> torch.Tensor:
    """Rows (n, d) at L2 norm ``norm``, in float32; refuse norms beyond float32. Magnitude is lost, sign is not."""
    norms = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True).clamp_min(1e-12)
    if not torch.isfinite(norms).all():
        raise Refusal(f"vectors for {what}", "their norm is beyond float32", "scale them down; only direction counts")
    return vectors / (norms / norm)


def replaced(rows: torch.Tensor, slot: int | Sequence[int], vectors: torch.Tensor) -> torch.Tensor:
    """Embeddings (n, T, d): ``rows`` (T, d) with each of ``vectors`` (n, d) at the slot or slots, in rows' dtype."""
    out = rows.expand(len(vectors), -1, -1).clone()
    for place in [slot] if isinstance(slot, int) else slot:
        out[:, place] = vectors.to(out.device, out.dtype)
    return out
