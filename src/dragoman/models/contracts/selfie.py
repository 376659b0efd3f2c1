"""Self-interpretation adapters: a trained map turns the direction into a soft token of a model that is left as it was.

scale x/|x| + bias, or one of its kin (low rank, full rank, scale alone), replaces the embedding of a reserved token
wherever the prompt shows it; the published prompts show it twice. In: a folder with the adapter as safetensors, whose
header names the projection; the model it was trained on (its header's, ``base_checkpoint`` of a sidecar, or --base);
``block``; the prompt, where the header keeps none: ``prompt`` (one of the published ones) or ``template`` and
``marker``. Out: embeddings, no hooks. Refuses pickles, tensors of other names or shapes, adapters that take vectors
at their own length, and prompts that are not said.

An answer ends with the quotation mark that the prompt opened, which is taken off.

Source: Pepper et al. 2026 (arXiv 2602.10352): their projections, reader of adapters, training settings and examples.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dragoman.core import Refusal, Site
from dragoman.models.contracts.base import (
    CheckpointRequest,
    Contract,
    Feed,
    Sampling,
    at_norm,
    beside,
    replaced,
    section,
)
from dragoman.models.resolve import folder_of
from dragoman.store import ArraysFile, file_sha256
from dragoman.store.spans import listed, shown
from dragoman.verbalizers.prompt import Prompt, encoded, refuse_damaged, refuse_torn
from dragoman.verbalizers.sidecar import Sidecar

# The prompts they publish, by family: the marker, and the text around it, in the words of their settings.
_ASKS = 'What is the meaning of "{marker}"?'
_BEGINS = 'The meaning of "{marker}" is "'
PROMPTS = {
    "llama-3": (
        "<|reserved_special_token_0|>",
        f"<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n{_ASKS}<|eot_id|>"
        f"<|start_header_id|>assistant<|end_header_id|>\n\n{_BEGINS}",
    ),
    "qwen-2.5": (
        "<|fim_pad|>",
        f"<|im_start|>user\n{_ASKS}<|im_end|>\n<|im_start|>assistant\n{_BEGINS}",
    ),
}
# Tensors of each projection; d is the width, r the rank.
TENSORS = {
    "scale_only": {"log_scale": "1"},
    "scalar_affine": {"log_scale": "1", "bias": "d"},
    "low_rank_only": {"U": "dr", "V": "dr", "bias": "d"},
    "scalar_affine_plus_low_rank": {"log_scale": "1", "U": "dr", "V": "dr", "bias": "d"},
    "full_rank": {"weight": "dd", "bias": "d"},
}
QUOTE = '"'
UNKNOWN = -1  # the marker's id, before there is a tokenizer


class Selfie(Contract):
    """A trained soft token in a model that is left as it was."""

    name = "selfie"
    summary = "a trained scale and bias turn the vector into the embedding of a reserved token, in an untrained model"
    sampling = Sampling(temperature=0.5, max_new_tokens=50, source="the authors' examples")
    settings = {"adapter": (str,), "prompt": (str,), "template": (str,), "marker": (str,), "model": (str,)}
    common = {"block": (int,)}
    scaled = False
    trained_on_rows = True

    def __init__(self, request: CheckpointRequest) -> None:
        """Read the adapter; the weights are those of the model it was trained on."""
        super().__init__(request)
        self.weights = folder_of(self._base)

    def read(self, request: CheckpointRequest) -> Sidecar:
        """The adapter, its header, and what neither says."""
        self._file = _adapter_file(request)
        self._map = _read_map(request, self._file)
        base, block = beside(request)
        base = base or _text(section(self._map.header, "model").get("name"))
        if not base:
            why = "its header names no model, and the adapter is nothing without the one it was trained on"
            raise Refusal(request.what, why, "pass --base with that model")
        self._base = base
        marker, template = _prompt_of(request, self._map.header)
        return Sidecar(
            d_model=self._map.width,
            block=block,
            injection_scale=None,
            marker=marker,
            marker_id=UNKNOWN,
            template=template,
            base=request.settings.get("model", base),
        )

    @property
    def tagged(self) -> bool:
        """An answer is all that is said."""
        return False

    @property
    def loudest(self) -> float:
        """At most so long is any soft token."""
        return self._map.longest

    @property
    def identity(self) -> dict[str, object]:
        """With the adapter's bytes."""
        return {**super().identity, "adapter": self._file.name, "adapter_sha256": self._sha256}

    @cached_property
    def _sha256(self) -> str:
        return file_sha256(self._file)

    def site(self, base: str) -> Site:
        """The stream of the model it was trained on; setting ``model`` where that has another name, too."""
        return Site(self.sidecar.base or base, self.sidecar.block)

    def answer(self, said: str) -> tuple[str, tuple[str, ...]]:
        """Up to the last quotation mark, as its makers take it: labels may hold some of their own."""
        if QUOTE not in said:
            return said, ("no closing quotation mark",)
        return said.rpartition(QUOTE)[0], ()

    def prompt(self, tokenizer: Any) -> Prompt:
        """The checked prompt; ``slot`` is the first place of the marker."""
        refuse_damaged(tokenizer)
        text, marker = self.sidecar.template, self.sidecar.marker
        refuse_torn(text, tokenizer)
        found = encoded(marker, tokenizer)
        if len(found) != 1 or found[0] == getattr(tokenizer, "unk_token_id", None):
            why = f"this tokenizer splits it into {len(found)} tokens, and only one can be replaced"
            raise Refusal(f"marker '{shown(marker)}'", why, "use the tokenizer the adapter was trained with")
        self.sidecar = replace(self.sidecar, marker_id=found[0])
        ids = encoded(text, tokenizer)
        prompt = Prompt(ids=ids, slot=0, left_id=0, right_id=0, text=text)
        places = self.places(prompt)
        if len(places) != text.count(marker) or places[0] == 0 or places[-1] == len(ids) - 1:
            why = f"it stands {text.count(marker)} times in the text and {len(places)} times inside the encoded prompt"
            raise Refusal(f"marker '{shown(marker)}'", why, "use the tokenizer and prompt of the adapter")
        slot = places[0]
        return Prompt(ids=ids, slot=slot, left_id=ids[slot - 1], right_id=ids[slot + 1], text=text)

    def places(self, prompt: Prompt) -> tuple[int, ...]:
        """Wherever the marker stands."""
        return tuple(k for k, i in enumerate(prompt.ids) if i == self.sidecar.marker_id)

    def carried(self, vectors: torch.Tensor) -> torch.Tensor:
        """The part without the bias."""
        return self._map.linear(at_norm(vectors, 1.0, self.request.what))

    def resting(self) -> torch.Tensor | None:
        """The bias."""
        return self._map.tensors.get("bias")

    def feed(self, prompt: Prompt, rows: torch.Tensor, vectors: torch.Tensor) -> Feed:
        """The soft token, made in float32 and cast to the model's dtype, wherever the marker stands."""
        soft, bias = self.carried(vectors), self.resting()
        soft = soft if bias is None else soft + bias
        return Feed(embeddings=replaced(rows, self.places(prompt), soft), shared=prompt.slot)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Map:
    """A projection. ``tensors``: by name, float32; ``width``: of what it takes and gives; ``header``: its settings."""

    tensors: Mapping[str, torch.Tensor]
    width: int
    header: Mapping[str, Any]

    def linear(self, unit: torch.Tensor) -> torch.Tensor:
        """All but the bias, of rows (n, d) of length 1."""
        found = torch.zeros_like(unit)
        if "log_scale" in self.tensors:
            found = found + self.tensors["log_scale"].exp() * unit
        if "U" in self.tensors:
            found = found + unit @ self.tensors["U"] @ self.tensors["V"].T
        if "weight" in self.tensors:
            found = found + unit @ self.tensors["weight"].T
        return found

    @property
    def longest(self) -> float:
        """A bound of the norm of what it gives."""
        size = {name: float(torch.linalg.vector_norm(tensor)) for name, tensor in self.tensors.items()}
        scale = float(self.tensors["log_scale"].exp()) if "log_scale" in size else 0.0
        low = size.get("U", 0.0) * size.get("V", 0.0)
        return scale + low + size.get("weight", 0.0) + size.get("bias", 0.0)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _adapter_file(request: CheckpointRequest) -> Path:
    """The adapter in a folder: the one that is named, or the only one."""
    names = sorted(path.name for path in request.folder.glob("*.safetensors"))
    named = request.settings.get("adapter")
    if named in names:
        return request.folder / named
    why = f"it holds no '{shown(named)}'" if named else "it holds several files of tensors, and one of them is meant"
    if named and named.endswith((".pt", ".pth", ".bin")):
        why = f"'{shown(named)}' is a pickle, which is never read"
    elif not names:
        why = "it holds no adapter as safetensors (pickles are never read)"
    elif not named and len(names) == 1:
        return request.folder / names[0]
    instead = f"pass --setting adapter=NAME, one of {listed(names)}" if names else "get the adapter's .safetensors"
    raise Refusal(request.what, why, instead)


def _read_map(request: CheckpointRequest, path: Path) -> _Map:
    """The projection in a file, every tensor of it checked."""
    file, what = ArraysFile(path), f"adapter {path}"
    header = _header(file, what)
    projection = section(header, "projection")
    kind = projection.get("type")
    if not isinstance(kind, str) or kind not in TENSORS:
        raise Refusal(what, f"its projection is '{shown(kind)}'", f"known are {', '.join(TENSORS)}")
    if projection.get("normalize_input") is not True:
        why = "it was trained on vectors at a length of their own (normalize_input is not true)"
        raise Refusal(what, why, "use an adapter that takes directions")
    wanted = TENSORS[kind]
    if set(file.names) != set(wanted):
        why = f"it holds {listed(file.names) or 'nothing'}, and a {kind} projection is {', '.join(wanted)}"
        raise Refusal(what, why, "get the published file again")
    width, rank = _sizes(file, projection, header, what)
    sizes = {"1": (1,), "d": (width,), "dr": (width, rank), "dd": (width, width)}
    for name, form in wanted.items():
        if file.shapes[name] != sizes[form]:
            why = f"its tensor {name} has shape {file.shapes[name]}, not {sizes[form]}"
            raise Refusal(what, why, "get the published file again")
    tensors = {name: _tensor(file, name, what) for name in wanted}
    if "log_scale" in tensors and not torch.isfinite(tensors["log_scale"].exp()).all():
        raise Refusal(what, "its scale is beyond float32", "get the published file again")
    return _Map(tensors=tensors, width=width, header=header)


def _header(file: ArraysFile, what: str) -> Mapping[str, Any]:
    """The settings in a file's header, whole as JSON or flat as an older writer put them."""
    told = file.meta
    if "config_json" in told:
        try:
            found = json.loads(told["config_json"])
        except (ValueError, RecursionError, TypeError):
            found = None
        if not isinstance(found, dict):
            raise Refusal(what, "config_json of its header is no JSON object", "get the published file again")
        return {**found, "model_dim": told.get("model_dim")}
    if "projection_type" not in told:
        why = "its header says no projection, so what its tensors mean is not known"
        raise Refusal(what, why, "use a file of the format selfie_adapter_v1")
    # Their reader takes a missing word for true.
    projection = {
        "type": told["projection_type"],
        "normalize_input": str(told.get("normalize_input", "true")).lower() == "true",
        "low_rank_rank": told.get("low_rank_rank"),
    }
    return {"projection": projection, "model_dim": told.get("model_dim")}


def _sizes(
    file: ArraysFile, projection: Mapping[str, Any], header: Mapping[str, Any], what: str
) -> tuple[int, int | None]:
    """Width and rank, by header and tensors; refuse a file that tells neither."""
    rank = next(iter(file.shapes.get("U", ())[1:]), None)
    stated = projection.get("low_rank_rank")
    if rank is not None and stated is not None and str(stated) != str(rank):
        raise Refusal(what, f"its header says rank {shown(stated)}, its tensors {rank}", "get the published file again")
    dim, first = header.get("model_dim"), next((file.shapes[n] for n in ("bias", "U") if n in file.shapes), ())
    width = int(dim) if isinstance(dim, str) and dim.isdecimal() and len(dim) < 10 else None
    width = width or (first[0] if first else None)
    if not width:
        raise Refusal(what, "nothing tells its width", "use a file whose header has model_dim")
    return width, rank


def _tensor(file: ArraysFile, name: str, what: str) -> torch.Tensor:
    with np.errstate(over="ignore"):  # what float32 cannot hold is infinite, and refused
        found = torch.from_numpy(np.array(file.array(name).whole(), np.float32))
    if not torch.isfinite(found).all():
        raise Refusal(what, f"its tensor {name} holds NaN or infinite numbers", "get the published file again")
    return found


def _prompt_of(request: CheckpointRequest, header: Mapping[str, Any]) -> tuple[str, str]:
    """Marker and text of the prompt: what is said, else what the header keeps; refuse when they differ, or nothing."""
    said, kept = request.settings, section(header, "soft_prompt")
    if ("template" in said) != ("marker" in said) or ("template" in said and "prompt" in said):
        raise Refusal(request.what, "its prompt is said by halves", "pass prompt alone, or template and marker")
    given = None
    if "prompt" in said:
        if said["prompt"] not in PROMPTS:
            raise Refusal(f"prompt '{shown(said['prompt'])}'", f"known are {', '.join(PROMPTS)}", "pass one of these")
        marker, form = PROMPTS[said["prompt"]]
        given = (marker, form.format(marker=marker))
    elif "template" in said:
        given = (said["marker"], said["template"])
    stored = (_text(kept.get("reserved_token")), _text(kept.get("template")))
    if given and None not in stored and stored != given:
        raise Refusal(request.what, "its header keeps another prompt than the one that is said", "leave it out")
    marker, text = given or stored
    if not marker or not text:
        why = "its header keeps no prompt, and in another one its soft token means nothing"
        instead = f"pass --setting prompt={' or prompt='.join(PROMPTS)}, or template and marker, as its makers say"
        raise Refusal(request.what, why, instead)
    if marker not in text:
        raise Refusal(request.what, f"its prompt does not show the marker '{shown(marker)}'", "correct the template")
    return marker, text
