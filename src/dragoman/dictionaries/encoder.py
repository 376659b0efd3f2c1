"""When a dictionary's features fire: its encoder, in numpy.

In: a dictionary's arrays and how it was trained. Out: an `Encoder` whose ``encode`` gives feature activations and whose
``reconstruct`` gives back the stream. Refuses arrays that do not fit together, a TopK without its k, and rows of
another width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dragoman.core import Floats, Refusal, Site, frozen
from dragoman.store.spans import Arrays, listed

_AGAIN = "fetch the dictionary again"
_SAMPLE = 64  # rows of the product of both matrices that are looked at
_CLOSE = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class Whitening:
    """What is done to a row before the encoder, and undone after the decoder; ``width`` d."""

    mean: Floats
    matrix: Floats
    inverse: Floats

    @property
    def width(self) -> int:
        """Width of the stream."""
        return len(self.mean)

    @classmethod
    def read(cls, arrays: Arrays, width: int, what: str) -> Whitening:
        """All three arrays."""
        mean, matrix = _read(arrays, "mean", (width,), what), _read(arrays, "matrix", (width, width), what)
        inverse = _read(arrays, "inverse_matrix", (width, width), what)
        chosen = np.unique(np.linspace(0, width - 1, min(width, _SAMPLE)).astype(np.int64))
        left = inverse[chosen] @ matrix - np.eye(width)[chosen]
        if not np.abs(left).max() < _CLOSE:
            raise Refusal(what, "its whitening matrix and inverse_matrix are not each other's inverse", _AGAIN)
        return cls(mean=frozen(mean), matrix=frozen(matrix), inverse=frozen(inverse))

    def applied(self, x: Floats) -> Floats:
        """Rows (n, d) of the stream as the encoder was trained on them."""
        return np.asarray((x - self.mean) @ self.matrix, dtype=np.float32)

    def undone(self, z: Floats) -> Floats:
        """White rows (n, d) as they are in the stream."""
        return np.asarray(z @ self.inverse + self.mean, dtype=np.float32)


def unwhitened(rows: NDArray[Any], arrays: Arrays, what: str) -> NDArray[np.float64]:
    """Decoder rows (n, d) of white activations as directions of the stream: times the stored inverse.

    Raises:
        Refusal: it is not there, or of another width.
    """
    width = rows.shape[1]
    return rows.astype(np.float64) @ _read(arrays, "inverse_matrix", (width, width), what)


def _read(arrays: Arrays, name: str, shape: tuple[int, ...], what: str) -> NDArray[np.float64]:
    """One array in float64, in which they are kept."""
    if name not in arrays.names or arrays.array(name).shape != shape:
        held = listed(arrays.names) or "nothing"
        raise Refusal(what, f"its whitening holds {held}, and no {name} of shape {shape}", _AGAIN)
    found = arrays.array(name).whole()
    if found.dtype.kind != "f" or not np.isfinite(found).all():
        raise Refusal(what, f"its whitening's {name} holds numbers that are not finite or not real", _AGAIN)
    return found.astype(np.float64)


Architecture = Literal["topk", "relu", "jumprelu", "groupmax"]
Normalize = Literal["none", "constant_norm_rescale", "layer_norm", "factor", "whitening"]
_EPSILON = 1e-5  # SAELens' layer_norm adds it to the standard deviation


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoder:
    """A dictionary's encoder.

    ``W_enc``: (d_in, d_sae); ``b_enc``: (d_sae,); ``b_dec``: (d_in,); ``W_dec``: (d_sae, d_in); all float32, read-only.
    ``k``: how many features a TopK keeps, or how many groups a GroupMax has. ``threshold``: (d_sae,) of a JumpReLU; a
    BatchTopK is one at inference, with the threshold it learnt. ``apply_b_dec_to_input``: whether ``b_dec`` is taken
    off the (normalised) input. ``rescale_by_decoder_norm``: whether pre-activations are multiplied by the decoder rows'
    lengths, as if the decoder had unit rows. ``normalize``: what is done to each input row x before anything else:
    "constant_norm_rescale" x sqrt(d_in) / |x|, "layer_norm" (x - mean) / (standard deviation + 1e-5), "factor"
    x ``input_factor``, "whitening" as ``whitening`` says; undone after decoding (``output_factor``, the same number
    where None). ``site``: what the dictionary says, if it does.
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
    normalize: Normalize = "none"
    input_factor: float = 1.0
    output_factor: float | None = None
    whitening: Whitening | None = None
    site: Site | None = None

    def __post_init__(self) -> None:
        """Check every shape against ``W_dec``, once."""
        if np.ndim(self.W_dec) != 2:
            raise Refusal("encoder array W_dec", f"it has shape {np.shape(self.W_dec)}", "fetch the dictionary again")
        d_sae, d_in = self.W_dec.shape
        shapes = {"W_enc": (d_in, d_sae), "b_enc": (d_sae,), "b_dec": (d_in,), "W_dec": (d_sae, d_in)}
        if self.architecture == "jumprelu":
            shapes["threshold"] = (d_sae,)
        for name, need in shapes.items():
            have = getattr(self, name)
            if have is None or have.shape != need:
                why = f"it has shape {None if have is None else have.shape}, W_dec {(d_sae, d_in)} needs {need}"
                raise Refusal(f"encoder array {name}", why, "fetch the dictionary again")
            object.__setattr__(self, name, _kept(have))
            _refuse_undefined(name, have)
        self._check_settings()

    def _check_settings(self) -> None:
        """K and the factors are numbers that make sense."""
        if self.architecture == "topk" and not (self.k is not None and 1 <= self.k <= self.d_sae):
            raise Refusal("TopK encoder", f"its k is {self.k} for {self.d_sae} features", "say k in its configuration")
        if self.architecture == "groupmax" and not (self.k is not None and self.k > 0 and self.d_sae % self.k == 0):
            why = f"{self.d_sae} features do not make {self.k} groups"
            raise Refusal("GroupMax encoder", why, "say k in its configuration")
        if self.normalize == "whitening" and (self.whitening is None or self.whitening.width != self.d_in):
            raise Refusal("encoder", "its whitening is not there, or of another width", "fetch the dictionary again")
        for factor in (self.input_factor, self.output_factor):
            if factor is not None and not (np.isfinite(factor) and factor > 0):
                raise Refusal("encoder", f"its normalisation factor is {factor}", "fetch the dictionary again")

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

        With z the normalised rows and p = (z - b_dec) W_enc + b_enc, the bias only where the dictionary applies it, and
        p times the decoder rows' lengths where it does that: ReLU gives max(p, 0), JumpReLU max(p, 0) where
        p > threshold, TopK max(p, 0) at the k largest p of each row, GroupMax max(p, 0) at the largest p of each of k
        groups of neighbours.

        Raises:
            Refusal: when the width differs.
        """
        before = self.pre_activations(x)
        fired = np.maximum(before, 0)
        if self.architecture == "jumprelu" and self.threshold is not None:
            return np.where(before > self.threshold, fired, np.float32(0))
        if self.architecture == "topk" and self.k is not None:
            kept = np.argpartition(before, self.d_sae - self.k, axis=1)[:, self.d_sae - self.k :]
            return _only(fired, kept)
        if self.architecture == "groupmax" and self.k is not None:
            groups = fired.reshape(len(fired), self.k, -1)
            return _only(fired, groups.argmax(axis=2) + np.arange(self.k) * groups.shape[2])
        return fired

    def pre_activations(self, x: NDArray[Any]) -> Floats:
        """What ``encode`` chooses among: p ``(n, d_sae)``, float32, of residual-stream rows ``x: (n, d_in)``.

        Raises:
            Refusal: when the width differs.
        """
        return self._before(self._normalised(self._rows(x))[0])

    def reconstruct(self, x: NDArray[Any]) -> Floats:
        """What the dictionary makes of rows ``x: (n, d_in)``: decoded features, normalisation undone.

        Raises:
            Refusal: when the width differs.
        """
        x = self._rows(x)
        acts = self.encode(x)
        if self.rescale_by_decoder_norm:
            lengths = np.linalg.norm(self.W_dec, axis=1)
            acts = acts / np.where(lengths > 0, lengths, np.float32(1))
        out = acts @ self.W_dec + self.b_dec
        if self.normalize == "whitening" and self.whitening is not None:
            return self.whitening.undone(out)
        _, scale, shift = self._normalised(x)
        return out * scale + shift

    def _rows(self, x: NDArray[Any]) -> Floats:
        """Rows of the right width."""
        x = np.asarray(x, dtype=np.float32)
        if x.ndim != 2 or x.shape[1] != self.d_in:
            why = f"the dictionary reads width {self.d_in}"
            raise Refusal(f"activations of shape {x.shape}", why, "pass (n, d_in) rows")
        return x

    def _before(self, z: Floats) -> Floats:
        """Pre-activations ``(n, d_sae)`` of normalised rows."""
        before = (z - self.b_dec if self.apply_b_dec_to_input else z) @ self.W_enc + self.b_enc
        if self.rescale_by_decoder_norm:
            before = before * np.linalg.norm(self.W_dec, axis=1)
        return before

    def _normalised(self, x: Floats) -> tuple[Floats, Floats, Floats]:
        """Rows as the encoder was trained on them, and by what to multiply and shift what is decoded."""
        none = np.zeros(1, np.float32)
        if self.normalize == "constant_norm_rescale":
            lengths = np.linalg.norm(x, axis=1, keepdims=True)
            scale = np.where(lengths > 0, lengths / np.sqrt(self.d_in), 1).astype(np.float32)
            return x / scale, scale, none
        if self.normalize == "layer_norm":
            mean = x.mean(axis=1, keepdims=True)
            # One degree of freedom less, as torch's std.
            deviation = x.std(axis=1, keepdims=True, ddof=1)
            return (x - mean) / (deviation + np.float32(_EPSILON)), deviation, mean
        if self.normalize == "whitening" and self.whitening is not None:
            return self.whitening.applied(x), none + 1, none
        if self.normalize == "factor":
            back = np.float32(1 / (self.output_factor or self.input_factor))
            return x * np.float32(self.input_factor), back.reshape(1), none
        return x, none + 1, none


def _refuse_undefined(name: str, array: NDArray[Any]) -> None:
    """Refuse NaN anywhere, and infinite numbers anywhere but in a threshold, where they switch a feature off."""
    # One sum tells, in float64, where float32 numbers do not overflow; nothing of the array's size is allocated.
    with np.errstate(invalid="ignore"):
        total = float(np.sum(array, dtype=np.float64))
    undefined = np.isnan(array).any() if name == "threshold" else not np.isfinite(total)
    if undefined:
        raise Refusal(f"encoder array {name}", "it holds NaN or infinite numbers", "fetch the dictionary again")


def _only(fired: Floats, kept: NDArray[np.integer]) -> Floats:
    """Activations at the kept columns of each row, zero elsewhere."""
    out = np.zeros_like(fired)
    np.put_along_axis(out, kept, np.take_along_axis(fired, kept, axis=1), axis=1)
    return out


def _kept(array: NDArray[Any]) -> Floats:
    """A read-only float32 array: itself when nobody else can change it, so that gigabytes are not copied."""
    if array.dtype == np.float32 and not array.flags.writeable:
        return array
    out = np.array(array, dtype=np.float32)
    out.flags.writeable = False
    return out
