"""What a Neuronpedia source was made from: its weights' references and its place in the model.

In: the fields of a source's record. Out: a `SourceRecord`, dictionary references, a `Site`. Refuses records without
weights, hooks outside the residual stream, and a hook that disagrees with the source's own number.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dragoman import hooks
from dragoman.core import Refusal, Site
from dragoman.neuronpedia.ids import HUB_MODELS, NeuronpediaRef, hub_model
from dragoman.store.spans import shown

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceRecord:
    """What a source was made from: enough to reach its weights without anybody's registry.

    ``config``: its SAELens configuration. ``hub``: the hub id of the model, when the model's record says it.
    """

    ref: NeuronpediaRef
    release: str | None = None
    sae_id: str | None = None
    repo: str | None = None
    folder: str | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    hub: str | None = None

    @property
    def dictionaries(self) -> tuple[str, ...]:
        """References to its weights: ``hf:REPO/FOLDER``, which needs no registry, before ``sae:RELEASE/SAE_ID``."""
        hub = f"hf:{self.repo}/{self.folder.strip('/')}" if self.repo and self.folder else None
        listed = f"sae:{self.release}/{self.sae_id}" if self.release and self.sae_id else None
        whole = f"hf:{self.repo}" if self.repo and not self.folder and not listed else None
        return tuple(ref for ref in (hub, listed, whole) if ref)

    @property
    def dictionary(self) -> str:
        """The first of `dictionaries`.

        Raises:
            Refusal: the record names no weights.
        """
        if not self.dictionaries:
            raise Refusal(
                f"source {self.ref}",
                "its record names neither a SAELens release nor a hub repository",
                "name the dictionary yourself",
            )
        return self.dictionaries[0]

    @property
    def hook(self) -> str | None:
        """The hook the dictionary was trained at, in SAELens' words."""
        metadata = self.config.get("metadata")
        for place in (self.config, metadata if isinstance(metadata, dict) else {}):
            for key in ("hook_name", "hook_point"):
                if isinstance(place.get(key), str):
                    return place[key]
        return None

    @property
    def site(self) -> Site:
        """The stream its rows live in; ``hook_resid_pre`` of a block is the output of the one before.

        Raises:
            Refusal: the hook is not in the residual stream, or disagrees with the source's own number.
        """
        model = self.hub or self._model()
        hook = self.hook
        if hook is None:
            return Site(model, self.ref.layer)
        found = hooks.parsed(hook)
        if found is None or found.place not in ("output", "input"):
            raise Refusal(
                f"source {self.ref}",
                f"its hook '{shown(hook)}' is not in the residual stream, where verbalizers read",
                "use a source of a residual stream",
            )
        block = found.block
        if block != self.ref.layer:
            raise Refusal(
                f"source {self.ref}",
                f"its id says layer {self.ref.layer} and its hook '{shown(hook)}'",
                "name the site yourself as MODEL:BLOCK",
            )
        if found.place == "input":
            return Site.before_block(model, block, what=f"source {self.ref}")
        return Site(model, block)

    def _model(self) -> str:
        named = self.config.get("model_name")
        return named if isinstance(named, str) and "/" in named else hub_model(self.ref.model)


def refuse_elsewhere(source: NeuronpediaRef, own: Site, *, resid_pre: bool, whose: str, instead: str) -> None:
    """Refuse labels of a source at another block or of another model than directions at ``own``.

    Models are compared only where the table knows both: ours by its hub id, their id, or the last part of a path.

    Args:
        source: what the labels are of.
        own: where the directions are.
        resid_pre: the source counts the block that it enters.
        whose: what the directions are called, for the refusal.
        instead: what else to do.

    Raises:
        Refusal: another block, or another model.
    """
    block = Site.block_before(source.layer, f"source {source}") if resid_pre else source.layer
    if block != own.block:
        why = f"its rows live at block {block}, {whose} at block {own.block}"
        raise Refusal(f"labels for {source}", why, instead)
    theirs, ours = HUB_MODELS.get(source.model.lower()), known_model(own.model)
    if theirs and ours and theirs.casefold() != ours.casefold():
        why = f"that is {theirs}, {whose} directions are of {own.model}"
        raise Refusal(f"labels for {source}", why, instead)


def known_model(name: str) -> str | None:
    """The hub id of a model by its hub id, their id, or a folder that is called like one of the table; else None."""
    if name.lower() in HUB_MODELS:
        return HUB_MODELS[name.lower()]
    last = name.rstrip("/").rpartition("/")[2].casefold()
    found = next((hub for hub in HUB_MODELS.values() if hub.rpartition("/")[2].casefold() == last), None)
    return found or (name if _HUB_ID.fullmatch(name) and not Path(name).exists() else None)
