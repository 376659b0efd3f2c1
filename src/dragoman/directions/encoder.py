"""When a dictionary's features fire: its encoder, in numpy.

In: a SAELens folder. Out: an `Encoder` whose ``encode`` gives feature activations. Refuses activations and input
normalisations it does not know, because a near miss would look right and be wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dragoman.core import Floats, Refusal, Site, frozen
from dragoman.directions.read import (
    CONFIG,
    WEIGHTS,
    decoder_shape,
    own_site,
    read_config,
)
from dragoman.store import ArraysFile

Architecture = Literal["topk", "relu", "jumprelu"]
_ARCHITECTURES: dict[str, Architecture] = {
    "topk": "topk",
    "relu": "relu",
    "standard": "relu",
    "jumprelu": "jumprelu",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoder:
    """A dictionary's encoder.

    ``W_enc``: (d_in, d_sae); ``b_enc``: (d_sae,); ``b_dec``: (d_in,); ``W_dec``: (d_sae, d_in); all float32, read-only.
    ``k``: how many features a TopK keeps. ``threshold``: (d_sae,) of a JumpReLU. ``apply_b_dec_to_input``: whether
    ``b_dec`` is taken off the input. ``rescale_by_decoder_norm``: whether pre-activations are multiplied by the decoder
    rows' lengths before the TopK chooses. ``site``: what the config says, if it does.
    """

    W_enc: Floats
    b_enc: Floats
    b_dec: Floats
    W_dec: Floats
    architecture: Architecture
    k: int | None = None
    threshold: Floats | None = None
    apply_b_dec_to_input: bool = True
    rescale_by_decoder_norm: bool = False
    site: Site | None = None

    def __post_init__(self) -> None:
        """Check every shape against ``W_dec``, once."""
        d_sae, d_in = self.W_dec.shape
        shapes = {
            "W_enc": (d_in, d_sae),
            "b_enc": (d_sae,),
            "b_dec": (d_in,),
            "W_dec": (d_sae, d_in),
        }
        if self.architecture == "jumprelu":
            shapes["threshold"] = (d_sae,)
        for name, need in shapes.items():
            have = getattr(self, name)
            if have is None or have.shape != need:
                raise Refusal(
                    f"encoder array {name}",
                    f"it has shape {None if have is None else have.shape}, W_dec {(d_sae, d_in)} needs {need}",
                    "fetch the dictionary again",
                )
            object.__setattr__(self, name, frozen(have))
        if self.architecture == "topk" and not (self.k is not None and 1 <= self.k <= d_sae):
            raise Refusal(
                "TopK encoder",
                f"its k is {self.k} for {d_sae} features",
                f"say k in {CONFIG}",
            )

    @property
    def d_in(self) -> int:
        """Width of the stream."""
        return int(self.W_dec.shape[1])

    @property
    def d_sae(self) -> int:
        """How many features."""
        return int(self.W_dec.shape[0])

    def encode(self, x: NDArray[Any]) -> Floats:
        """Feature activations ``(n, d_sae)``, float32 and >= 0, of residual-stream rows ``x: (n, d_in)``.

        With p = (x - b_dec) W_enc + b_enc, the input bias only where the dictionary applies it: ReLU gives max(p, 0),
        JumpReLU max(p, 0) where p > threshold, TopK max(p, 0) at the k largest p of each row (as SAELens).

        Raises:
            Refusal: when the width differs.
        """
        x = np.asarray(x, dtype=np.float32)
        if x.ndim != 2 or x.shape[1] != self.d_in:
            raise Refusal(
                f"activations of shape {x.shape}",
                f"the dictionary reads width {self.d_in}",
                "pass (n, d_in) rows",
            )
        before = (x - self.b_dec if self.apply_b_dec_to_input else x) @ self.W_enc + self.b_enc
        if self.rescale_by_decoder_norm:
            before = before * np.linalg.norm(self.W_dec, axis=1)
        fired = np.maximum(before, 0)
        if self.architecture == "jumprelu" and self.threshold is not None:
            return np.where(before > self.threshold, fired, np.float32(0))
        if self.architecture == "topk" and self.k is not None:
            kept = np.argpartition(before, self.d_sae - self.k, axis=1)[:, self.d_sae - self.k :]
            out = np.zeros_like(fired)
            np.put_along_axis(out, kept, np.take_along_axis(fired, kept, axis=1), axis=1)
            return out
        return fired


def read_encoder(folder: Path | str) -> Encoder:
    """Read the encoder of a SAELens folder (whole, into memory).

    Raises:
        Refusal: on an unknown layout or activation, a transposed decoder, or arrays that do not fit together.
    """
    folder = Path(folder)
    config = read_config(folder)
    architecture = _architecture(folder, config)
    file = ArraysFile(folder / WEIGHTS)
    decoder_shape(file, config)
    needed = ["W_enc", "b_enc", "b_dec", "W_dec"] + (["threshold"] if architecture == "jumprelu" else [])
    missing = [name for name in needed if name not in file.names]
    if missing:
        raise Refusal(
            f"encoder of {folder.name}",
            f"{WEIGHTS} has no {missing[0]}",
            "fetch the dictionary again",
        )
    arguments = config.get("activation_fn_kwargs")
    k = config.get("k", arguments.get("k") if isinstance(arguments, Mapping) else None)
    return Encoder(
        **{name: file.whole(name) for name in needed},
        architecture=architecture,
        k=int(k) if architecture == "topk" and k is not None else None,
        apply_b_dec_to_input=bool(config.get("apply_b_dec_to_input", True)),
        rescale_by_decoder_norm=bool(config.get("rescale_acts_by_decoder_norm", False)),
        site=own_site(folder, config),
    )


def _architecture(folder: Path, config: Mapping[str, Any]) -> Architecture:
    """Which activation, from the config; older releases call it activation_fn_str."""
    named = str(config.get("architecture") or "standard")
    activation = config.get("activation_fn") or config.get("activation_fn_str")
    if named == "standard" and activation is not None:
        named = str(activation)
    if named not in _ARCHITECTURES:
        raise Refusal(
            f"encoder of {folder.name}",
            f"architecture '{named}' is not known",
            f"use {', '.join(sorted(_ARCHITECTURES))}",
        )
    for setting in ("normalize_activations", "reshape_activations"):
        if config.get(setting, "none") not in ("none", False):
            raise Refusal(
                f"encoder of {folder.name}",
                f"{setting} is '{config[setting]}', which is not done here",
                "fold it into the weights, or use a dictionary without it",
            )
    return _ARCHITECTURES[named]
