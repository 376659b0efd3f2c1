"""What both releases of Gemma Scope share: a JumpReLU whose five arrays differ in their names only.

In: a file's arrays, and how they are called. Out: which way the decoder lies; the `Encoder`. Refuses files that lack an
array, and decoders as `lies_across` does.

Semantics: arXiv 2408.05147: p = x W_enc + b_enc, max(p, 0) where p > threshold; b_dec is not taken off.
"""

from __future__ import annotations

from dataclasses import dataclass

from dragoman.core import Site
from dragoman.dictionaries.encoder import Encoder
from dragoman.dictionaries.layout import Orientation, everywhere, floats, length, need
from dragoman.dictionaries.orientation import Evidence, lies_across
from dragoman.store.spans import Arrays, Matrix


@dataclass(frozen=True, slots=True, kw_only=True)
class JumpReLU:
    """Arrays of ``file``: ``w_enc`` (d_in, d_sae) and ``w_dec`` (d_sae, d_in) as called here, b_enc, b_dec, threshold.

    Both matrices are named because letters' case is all the releases differ in.
    """

    arrays: Arrays
    file: str
    w_enc: str
    w_dec: str

    def lies_across(self, decoder: Matrix, what: str, asked: Orientation | None) -> bool:
        """Whether the decoder's features are its columns, by the length of the biases."""
        arrays = self.arrays
        return lies_across(
            decoder,
            Evidence(
                what=what,
                name=self.w_dec,
                expected="rows",
                d_sae=length(arrays, "b_enc"),
                d_in=length(arrays, "b_dec"),
                said_by="the length of its biases",
                asked=asked,
                encoder=(lambda ids: arrays.array(self.w_enc).columns(ids).T) if self.w_enc in arrays.names else None,
            ),
        )

    def encoder(self, what: str, across: bool, site: Site | None) -> Encoder:
        """The encoder, whole."""
        arrays = self.arrays
        need(arrays, [self.w_enc, "b_enc", "b_dec", self.w_dec, "threshold"], what, self.file)
        bias = arrays.array("b_enc").whole()
        return Encoder(
            W_enc=floats(arrays.array(self.w_enc).whole()),
            b_enc=floats(bias),
            b_dec=floats(arrays.array("b_dec").whole()),
            W_dec=floats(arrays.array(self.w_dec).whole(), turned=across),
            architecture="jumprelu",
            threshold=floats(everywhere(arrays.array("threshold").whole(), bias.size)),
            apply_b_dec_to_input=False,
            site=site,
        )
