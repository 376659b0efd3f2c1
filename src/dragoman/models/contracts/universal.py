"""The universal bundle: a source model's own linear encoder carries the vector into one shared verbalizer's space.

z = W_tag h, brought to norm sqrt(d_shared), replaces one prompt embedding of the shared verbalizer; the prompt names
the source model by its tag. In: a folder with ``nla_meta.yaml`` (``av_base``, ``d_shared``, template, marker), the
verbalizer's adapter in ``av``, encoders ``encoders.<tag>.weight`` (d_shared, d_M) in ``adapters/adapters.safetensors``
and what the file does not say: ``model_tag``, and the ``model`` and ``block`` that tag stands for. Out: embeddings, no
hooks. Refuses tags without encoder, encoders of other shapes or classes, and bundles whose encoders lie elsewhere
unless ``encoder`` (a file in the bundle) and ``key`` name one.

Source: Universal NLA (AlexWortega, 2026): its training script's writer, its server's reader, its encoder container.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dragoman.core import Refusal, Site
from dragoman.models.contracts.base import CheckpointRequest, Contract, Feed, Sampling, at_norm, replaced, section
from dragoman.store import ArraysFile, digest, read_json
from dragoman.store.spans import listed, shown
from dragoman.verbalizers.prompt import Prompt, Wording
from dragoman.verbalizers.sidecar import SLOT, Sidecar, slots_of

ADAPTERS, WEIGHTS, META = "adapters", "adapters.safetensors", "meta.json"
LINEAR, CONVOLVED = "LinearAdapter", "ConvAdapter"


class Universal(Contract):
    """A linear encoder per source model, then embedding replacement in a shared verbalizer."""

    name = "universal"
    summary = "a source model's linear encoder, then one prompt embedding of a shared verbalizer is replaced"
    sampling = Sampling(temperature=0.0, max_new_tokens=80, source="the bundle's own server")
    settings = {"model_tag": (str,), "model": (str,), "encoder": (str,), "key": (str,)}

    def __init__(self, request: CheckpointRequest) -> None:
        """Read sidecar and encoder; the weights are an adapter one folder down."""
        super().__init__(request)
        self.weights = request.folder / "av"

    @classmethod
    def claims(cls, stated: Mapping[str, Any]) -> bool:
        """The bundle's writer alone stores these two."""
        return "av_base" in stated and "d_shared" in stated

    @classmethod
    def contradiction(cls, stated: Mapping[str, Any]) -> str:
        """A file without them is of another contract."""
        return "" if cls.claims(stated) else "its sidecar states no av_base and d_shared, so it is no such bundle"

    def read(self, request: CheckpointRequest) -> Sidecar:
        """Resolve the bundle's sidecar and load the one encoder that is asked for."""
        stated, said = request.stated, request.settings
        missing = [name for name in ("model_tag", "model", "block") if name not in said]
        if missing:
            raise Refusal(
                request.what,
                f"its bundle reads several models, and {', '.join(missing)} of yours is not given",
                "pass --setting model_tag=TAG (in the bundle), --setting model=ID and --setting block=K",
            )
        shared, tokens = _count(stated.get("d_shared")), section(stated, "tokens")
        template = section(stated, "prompt_templates").get("actor")
        marker, marker_id = tokens.get("injection_char"), _count(tokens.get("injection_token_id"))
        if not shared or not isinstance(template, str) or not isinstance(marker, str) or marker_id is None:
            why = "it lacks d_shared, tokens.injection_char, tokens.injection_token_id or prompt_templates.actor"
            raise Refusal(request.sidecar_name, why, "get the published file again")
        if SLOT not in slots_of(template, request.sidecar_name):
            why = "its template has no place for the vector"
            raise Refusal(request.sidecar_name, why, "get the published file again")
        scale = stated.get("injection_scale", "sqrt_d_model")
        if scale != "sqrt_d_model":
            why = f"its injection_scale is {shown(scale)}, and only the root of the shared width is known to be used"
            raise Refusal(request.sidecar_name, why, "use a bundle whose writer is known")
        self._weight, self._kernel = _encoder(request, shared)
        return Sidecar(
            d_model=self._weight.shape[1],
            block=said["block"],
            injection_scale=math.sqrt(shared),
            marker=marker,
            marker_id=marker_id,
            template=template,
            left_id=_count(tokens.get("injection_left_neighbor_id")),
            right_id=_count(tokens.get("injection_right_neighbor_id")),
            base=str(stated["av_base"]),
        )

    @property
    def stream(self) -> int:
        """Width of the shared space, which is the verbalizer's own."""
        return self._weight.shape[0]

    @property
    def identity(self) -> dict[str, object]:
        """With the encoder's bytes."""
        parts = [self._weight.numpy(), *([] if self._kernel is None else [self._kernel.numpy()])]
        return {**super().identity, "encoder": digest(*parts)}

    def site(self, base: str) -> Site:
        """The source model's stream; the verbalizer's own model is another."""
        return Site(self.request.settings["model"], self.sidecar.block)

    def check(self, net: Any, site: Site) -> None:
        """The site is a block of the source model, which is not at hand: nothing to check on the verbalizer's."""

    def wording(self, **slots: str) -> Wording:
        """The template names the source model by its tag."""
        return super().wording(model_tag=self.request.settings["model_tag"], **slots)

    def feed(self, prompt: Prompt, rows: torch.Tensor, vectors: torch.Tensor) -> Feed:
        """The encoded vector in float32 at norm sqrt(d_shared), cast to the model's dtype, in place of the marker."""
        # Encoders have no bias, so a vector's length cancels; taken out first, no sum can overflow.
        encoded = at_norm(vectors, math.sqrt(self.width), self.request.what) @ self._weight.T
        if self._kernel is not None:
            encoded = torch.nn.functional.conv1d(encoded[:, None], self._kernel, padding="same")[:, 0]
        lost = torch.linalg.vector_norm(encoded, dim=-1) < 1e-6
        if lost.any():
            raise Refusal(
                f"vectors for {self.request.what}",
                f"its encoder leaves nothing of row {int(lost.nonzero()[0])}",
                "use directions of the model that the tag stands for",
            )
        at = at_norm(encoded, math.sqrt(self.stream), self.request.what)
        return Feed(embeddings=replaced(rows, prompt.slot, at), shared=prompt.slot)


def _encoder(request: CheckpointRequest, shared: int) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Weight (shared, width of the source model) of the tag's encoder, and the kernel (1, 1, k) if it has one."""
    said, tag = request.settings, request.settings["model_tag"]
    if ("encoder" in said) != ("key" in said):
        raise Refusal(request.what, "encoder and key name a tensor only together", "pass both, or neither")
    kernel, width = None, None
    if "encoder" in said:
        weight = _tensor(request, request.folder / said["encoder"], said["key"])
    else:
        kind, widths = _layout(request)
        if tag not in widths:
            raise Refusal(request.what, f"it has no encoder for '{tag}'", f"its tags are {listed(sorted(widths))}")
        file, width = request.folder / ADAPTERS / WEIGHTS, widths[tag]
        weight = _tensor(request, file, f"encoders.{tag}.weight")
        kernel = _tensor(request, file, f"encoders.{tag}.conv.weight") if kind == CONVOLVED else None
    if weight.ndim != 2 or weight.shape[0] != shared or width not in (None, weight.shape[1]):
        why = f"its encoder for '{tag}' has shape {tuple(weight.shape)}, not ({shared}, {width or 'd_model'})"
        raise Refusal(request.what, why, "name the encoder into the shared space, stored output by input")
    if kernel is not None and (kernel.ndim != 3 or kernel.shape[:2] != (1, 1) or kernel.shape[2] % 2 == 0):
        raise Refusal(request.what, f"its kernel has shape {tuple(kernel.shape)}, not (1, 1, odd)", "get it again")
    return weight, kernel


def _layout(request: CheckpointRequest) -> tuple[str, dict[str, int]]:
    """The class of a bundle's encoders and the width of each tag's model."""
    path = request.folder / ADAPTERS / META
    if not path.is_file() or not (path.parent / WEIGHTS).is_file():
        raise Refusal(
            request.what,
            f"it holds no {ADAPTERS}/{META} with {ADAPTERS}/{WEIGHTS}, so where its encoders lie is not known",
            "pass --setting encoder=FILE (in the bundle) and --setting key=NAME (the tensor in it)",
        )
    read = read_json(path)
    meta = read if isinstance(read, dict) else {}
    widths = {str(tag): width for tag, width in section(meta, "model_dims").items() if _count(width)}
    kind = meta.get("adapter_class", LINEAR)
    if kind not in (LINEAR, CONVOLVED):
        raise Refusal(request.what, f"its encoders are of class '{shown(kind)}'", f"known are {LINEAR} and {CONVOLVED}")
    return kind, widths


def _tensor(request: CheckpointRequest, path: Path, key: str) -> torch.Tensor:
    """One tensor as float32, without reading the others."""
    try:
        file = ArraysFile(path)
        stored = file.array(key).whole() if key in file.names else None
    except Refusal as refusal:
        why = f"{path} cannot be read as safetensors ({refusal.why[:120]})"
        raise Refusal(request.what, why, "name a file of the bundle") from refusal
    if stored is None:
        raise Refusal(request.what, f"{path} has no tensor '{shown(key)}'", "name one that it has")
    with np.errstate(over="ignore"):  # what float32 cannot hold is infinite, and refused
        found = torch.from_numpy(np.array(stored, np.float32))
    if not torch.isfinite(found).all():
        raise Refusal(request.what, f"tensor '{shown(key)}' of {path} holds NaN or infinite numbers", "get it again")
    return found


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
