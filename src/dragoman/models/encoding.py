"""When a dictionary's features fire, computed where the activations are: in numpy on the host, in torch on a device.

In: an ``Encoder`` and rows (n, d_in) of the source's stream. Out: activations, dense on the device or sparse on the
host. Both compute in float32, whatever the model computed in, so that a JumpReLU's thresholds are judged alike; they
agree but for rounding. Refuses rows of another width.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array, vstack

from dragoman.core import Refusal
from dragoman.dictionaries import Encoder

_CELLS = 2**24  # activations encoded at a time on the host: 64 MB
_DEVICE_CELLS = 2**27  # and on a device: 0.5 GB, and as much again for what is not chosen yet
_AMONG_OTHERS = {"topk", "groupmax"}  # architectures in which it depends on the others whether a feature fires


class Encodes(Protocol):
    """Sparse activations of rows, wherever they are computed."""

    @property
    def encoder(self) -> Encoder:
        """Whose they are."""
        ...

    def sparse(self, x: Any, columns: NDArray[np.int64] | None = None) -> csr_array:
        """Activations (n, M) on the host, of all features or of those in ``columns``."""
        ...


class HostEncoding:
    """An encoder in numpy."""

    def __init__(self, encoder: Encoder) -> None:
        """As it is."""
        self.encoder = encoder

    def sparse(self, x: Any, columns: NDArray[np.int64] | None = None) -> csr_array:
        """A few rows at a time: a dense (n, d_sae) array could be gigabytes."""
        step = max(_CELLS // self.encoder.d_sae, 1)
        parts = []
        for start in range(0, len(x), step):
            fired = self.encoder.encode(x[start : start + step])
            parts.append(csr_array(fired if columns is None else fired[:, columns]))
        return csr_array(vstack(parts))


class DeviceEncoding:
    """The same encoder with its arrays on a device: 4 d_in d_sae bytes there, and a slice of rows at a time."""

    def __init__(self, encoder: Encoder, device: str | torch.device) -> None:
        """Copy what encoding needs; the decoder stays on the host."""
        self.encoder, self.device = encoder, torch.device(device)
        self._w_enc, self._b_enc, self._b_dec = (self._here(a) for a in (encoder.W_enc, encoder.b_enc, encoder.b_dec))
        self._threshold = None if encoder.threshold is None else self._here(encoder.threshold)
        self._lengths = None
        if encoder.rescale_by_decoder_norm:
            self._lengths = self._here(np.linalg.norm(encoder.W_dec, axis=1))
        self._whitening = None
        if encoder.whitening is not None:
            self._whitening = self._here(encoder.whitening.mean), self._here(encoder.whitening.matrix)

    def _here(self, array: NDArray[Any]) -> torch.Tensor:
        return torch.tensor(array, dtype=torch.float32, device=self.device)

    def dense(self, x: torch.Tensor, columns: torch.Tensor | None = None) -> torch.Tensor:
        """Activations (n, M) on the device, of all features or of those in ``columns``.

        Raises:
            Refusal: rows of another width.
        """
        if x.ndim != 2 or x.shape[1] != self.encoder.d_in:
            why = f"the dictionary reads width {self.encoder.d_in}"
            raise Refusal(f"activations of shape {tuple(x.shape)}", why, "pass (n, d_in) rows")
        width = self.encoder.d_sae if columns is None else len(columns)
        # Where features are chosen from one another all of them are needed to tell about a few.
        alone = columns if self.encoder.architecture not in _AMONG_OTHERS else None
        step = max(_DEVICE_CELLS // max(self.encoder.d_sae if alone is None else width, 1), 1)
        parts = []
        for start in range(0, len(x), step):
            rows = self._normalised(x[start : start + step].to(self.device).float())
            fired = self._chosen(self._before(rows, alone), alone)
            parts.append(fired if columns is None or alone is not None else fired[:, columns])
        return torch.cat(parts) if parts else torch.zeros((0, width), device=self.device)

    @torch.inference_mode()
    def sparse(self, x: Any, columns: NDArray[np.int64] | None = None) -> csr_array:
        """Activations (n, M) on the host; ``x`` may lie on either side."""
        rows = torch.as_tensor(x, device=self.device)
        return to_host(self.dense(rows, None if columns is None else torch.as_tensor(columns, device=self.device)))

    def _normalised(self, x: torch.Tensor) -> torch.Tensor:
        """Rows as the encoder was trained on them; see ``Encoder``."""
        encoder = self.encoder
        if encoder.normalize == "constant_norm_rescale":
            lengths = torch.linalg.vector_norm(x, dim=1, keepdim=True)
            scale = torch.where(lengths > 0, lengths / float(np.sqrt(encoder.d_in)), torch.ones_like(lengths))
            return x / scale
        if encoder.normalize == "layer_norm":
            # One degree of freedom less, as torch's own default.
            return (x - x.mean(dim=1, keepdim=True)) / (x.std(dim=1, keepdim=True) + 1e-5)
        if encoder.normalize == "whitening" and self._whitening is not None:
            mean, matrix = self._whitening
            return (x - mean) @ matrix
        return x * encoder.input_factor if encoder.normalize == "factor" else x

    def _before(self, z: torch.Tensor, columns: torch.Tensor | None) -> torch.Tensor:
        shifted = z - self._b_dec if self.encoder.apply_b_dec_to_input else z
        before = torch.addmm(_some(self._b_enc, columns), shifted, _some(self._w_enc, columns))
        return before if self._lengths is None else before * _some(self._lengths, columns)

    def _chosen(self, before: torch.Tensor, columns: torch.Tensor | None) -> torch.Tensor:
        """What is left of pre-activations (n, M) of all features or of ``columns``; see ``Encoder.encode``."""
        encoder, fired = self.encoder, before.clamp_min(0)
        if encoder.architecture == "jumprelu" and self._threshold is not None:
            return fired.masked_fill_(before <= _some(self._threshold, columns), 0)
        if encoder.architecture == "topk" and encoder.k is not None:
            kept = before.topk(encoder.k, dim=1).indices
        elif encoder.architecture == "groupmax" and encoder.k is not None:
            groups = fired.view(len(fired), encoder.k, -1)
            start = torch.arange(encoder.k, device=fired.device) * groups.shape[2]
            kept = groups.argmax(dim=2) + start
        else:
            return fired
        return torch.zeros_like(fired).scatter_(1, kept, fired.gather(1, kept))


def _some(of_all: torch.Tensor, columns: torch.Tensor | None) -> torch.Tensor:
    """The last axis at ``columns``, all of it where there are none."""
    return of_all if columns is None else of_all[..., columns]


def encoding_of(encoder: Encoder, device: str | None) -> HostEncoding | DeviceEncoding:
    """In torch on a device, in numpy where none is named."""
    return HostEncoding(encoder) if device is None else DeviceEncoding(encoder, device)


def encoded(
    encoder: Encoder, x: Any, columns: NDArray[np.int64] | None = None, *, device: str | None = None
) -> csr_array:
    """Sparse activations (n, M) of rows, on the host; of all features or of those in ``columns``."""
    return encoding_of(encoder, device).sparse(x, columns)


def to_host(f: torch.Tensor) -> csr_array:
    """Dense activations (n, M) of a device, sparse on the host: of thousands of features some tens fire at a token."""
    rows, columns = f.nonzero(as_tuple=True)
    values = f[rows, columns].cpu().numpy()
    starts = np.zeros(len(f) + 1, np.int64)
    np.cumsum(torch.bincount(rows, minlength=len(f)).cpu().numpy(), out=starts[1:])
    return csr_array((values, columns.cpu().numpy(), starts), shape=tuple(f.shape))
