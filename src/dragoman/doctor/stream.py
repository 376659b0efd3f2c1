"""Is the source stream fit to be read, and does the dictionary belong to it: right block, right model, right way up.

In: the source model's activations over a few texts, an encoder. Out: findings ``tokenizer``, ``bos``,
``embedding-scale``, ``loud-rows``, ``sink``, ``overflow`` of the source model, ``background``; ``off-by-one``,
``wrong-dictionary``, ``decoder-orientation``, ``dictionary-width``. A wrong answer to any of the last four reads as
fluent nonsense later, because every direction still has a length and a sign.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dragoman.core import Floats
from dragoman.dictionaries import Encoder
from dragoman.doctor.finding import BESIDE, Check, Finding
from dragoman.doctor.prompt import bos, tokenizer_whole
from dragoman.doctor.subject import Subject
from dragoman.models.harvest import OUTLIER
from dragoman.models.watch import Stream, dtype_of, embedding_factors, table_shape

# Share of rows past position 0 whose norm is over 10 medians. At the sites of the embedded pair, and at every block
# that was looked at there but Gemma's block 0 (5 %), it is 0: the longest row is 1.8 medians long. A mean or a fit
# over rows of which one in fifty is ten times too loud is mostly about those rows.
LOUD, LOUD_SHARE = 10.0, 0.02
FACTOR = 0.05  # a missing or doubled square root of the width is off by 5 or more; bfloat16 by 0.004
SINK = 3.0  # times the median norm at position 0; the embedded pair has 60 and 7, models without a sink about 1
FLOAT16 = 65504.0  # the largest float16
# Texts vary: the longest row of the embedded pair is 1.2 to 1.8 times the median. Half the range leaves a factor of 2.
HEADROOM = 0.5
# Cosine of a background with the mean of three sentences at the same site: 0.99 on the embedded Gemma, whose spread is
# small; a stream of large spread has less. Unrelated means have about 0.
SAME_BACKGROUND = 0.7
# Share of a stream's variance a dictionary may leave out. On its own kind of text the embedded SAE leaves 0.14 at its
# block, 0.30 and 0.53 one block beside it and 0.81 three blocks away; turned by a random rotation, as if of another
# model, more than the mean would, which leaves 1.
WRONG_DICTIONARY = 0.9
# A neighbour that leaves less than this times what the stated block leaves is where the dictionary was trained. On
# the embedded SAE and the doctor's own sentences (0.37, 0.24, 0.60 at blocks 22 to 24) the ratio is 0.65 and 0.40 when
# the block is one off, and 1.5 when it is right. All are measured on the same tokens, so sampling hardly moves their
# ratio; large models change less from block to block, hence a limit close to 1.
NEIGHBOUR = 0.9
# Mean cosine of encoder columns with decoder rows: 0.73 in the embedded SAE; unrelated vectors of width d have
# 1 / sqrt(d) at most (0.04 at 576). Transposing leaves the latter.
ALIGNED = 0.1
ROWS = 4096

EMBEDDING_SCALE = Check(
    "embedding-scale", "factor between the embedding table and what enters block 0", relation=f"within {FACTOR:.0%} of"
)
LOUD_ROWS = Check(
    "loud-rows",
    f"share of rows over {LOUD:g} median norms, position 0 left out",
    "0 at both sites of the embedded pair; the longest row there is 1.3 medians",
    "at most",
)
SINK_NORM = Check(
    "sink",
    "norm of position 0, which is left out, over the median",
    "loudest later row over the median",
    "at least 2 times",
)
OVERFLOW = Check("overflow", "largest entry of its stream", "the largest number of the dtype", "at most")
BACKGROUND = Check("background", "cosine of the background with the mean activation of a few sentences", "", "at least")
WIDTH = Check("dictionary-width", "width of its rows")
WRONG = Check(
    "wrong-dictionary",
    "unexplained variance at the site and beside it",
    "the mean alone leaves 1; the embedded SAE leaves 0.14 at its block, 0.81 three blocks away",
    "below",
)
OFF_BY_ONE = Check(
    "off-by-one", "reconstruction at the block and beside it", relation=f"at most {1 / NEIGHBOUR:.2f} times"
)
ORIENTATION = Check(
    "decoder-orientation",
    "mean cosine of encoder columns with decoder rows",
    "the embedded SAE has 0.73, unrelated vectors about 0",
    "at least",
)


def check_stream(subject: Subject) -> list[Finding]:
    """All checks of the source model's stream."""
    stream, source = subject.source_stream, subject.source
    if stream is None or source is None:
        return [LOUD_ROWS.skipped("source model", "no source model is at hand; pass --source")]
    name = str(source.site)
    factor, expected, origin = embedding_factors(source, stream.embedded, stream.ids.tolist())
    fault = "" if abs(factor / expected - 1) <= FACTOR else "use the model's own embedding module, and only once"
    longest = max(stream.leading, key=lambda ids: sum(i == source.tokenizer.bos_token_id for i in ids))
    return [
        tokenizer_whole(name, source.tokenizer),
        bos(name, "beginning-of-text tokens of a text it reads", source.tokenizer, longest),
        EMBEDDING_SCALE.of(name, factor, expected, fault, origin=origin),
        loud_rows(name, stream.rest[source.site.block]),
        sink(name, stream, source.site.block),
        overflow(name, "largest entry of its stream over the texts", stream.peak, dtype_of(source)),
    ]


def median_norm(rows: Floats) -> float:
    """Median length of rows (n, d) that are numbers."""
    norms = norms_of(rows)
    return float(np.median(norms)) if len(norms) else float("nan")


def norms_of(rows: Floats) -> NDArray[np.float64]:
    """Lengths of the rows (n, d) that are numbers."""
    norms = np.linalg.norm(rows.astype(np.float64), axis=1)
    return norms[np.isfinite(norms)]


def loud_rows(name: str, rows: Floats) -> Finding:
    """Rows many times louder than the others decide every mean and fit."""
    norms = norms_of(rows)
    share = float(np.mean(norms > LOUD * np.median(norms))) if len(norms) else float("nan")
    fault = "" if share <= LOUD_SHARE else "use another block, or texts without the tokens that are so loud"
    return LOUD_ROWS.of(name, share, LOUD_SHARE, fault)


def sink(name: str, stream: Stream, block: int) -> Finding:
    """Position 0 may be as loud as it likes, since it is left out; a second sink is not left out."""
    usual = median_norm(stream.rest[block])
    ratio = median_norm(stream.first[block]) / usual
    loudest = float(norms_of(stream.rest[block]).max(initial=0.0)) / usual
    what = "" if ratio > SINK else "norm of position 0 over the median (no sink)"
    fault = ""
    if ratio > SINK and loudest > ratio / 2:
        fault = "later positions are as loud as the sink: read texts with one BOS, and without template tokens"
    return SINK_NORM.of(name, ratio, loudest, fault, what=what, relation=None if ratio > SINK else BESIDE)


def overflow(name: str, what: str, peak: float, dtype: str) -> Finding:
    """Numbers must stay numbers: float16 ends at 65504, and what is past it is dropped or turns to NaN in silence."""
    half = dtype == "float16"
    limit = HEADROOM * FLOAT16 if half else float(np.finfo(np.float32).max)
    fine = np.isfinite(peak) and peak <= limit
    fault = "" if fine else "use bfloat16 or float32" if half else "its weights are damaged: fetch them again"
    origin = "half of 65504, the largest float16" if half else ""
    return OVERFLOW.of(name, peak, limit, fault, what=f"{what}, in {dtype}", origin=origin)


def check_background(subject: Subject) -> list[Finding]:
    """The background must be the mean of the stream it is mixed into."""
    background, mean, local = subject.background, subject.own_mean, subject.local
    if background is None or mean is None or local is None:
        return [BACKGROUND.skipped(subject.verbalizer_name, "no background or no model at its site is at hand")]
    stored, cosine = background.mean.astype(np.float64), 0.0
    if stored.shape == mean.shape:
        cosine = float(mean @ stored / (np.linalg.norm(mean) * np.linalg.norm(stored)))
    fault = "" if cosine >= SAME_BACKGROUND else "it is of another site or model: make it again at this one"
    origin = f"activations at {local.site}; the embedded pair has 0.99"
    return [BACKGROUND.of(subject.verbalizer_name, cosine, SAME_BACKGROUND, fault, origin=origin)]


def check_dictionary(subject: Subject) -> list[Finding]:
    """All checks of the dictionary."""
    name, encoder, source = subject.dictionary_name, subject.encoder, subject.source
    if encoder is None:
        reason = "no dictionary with an encoder is at hand; pass --sae"
        return [check.skipped(name, reason) for check in (OFF_BY_ONE, ORIENTATION)]
    found = [orientation(name, encoder)]
    if source is None:
        return [*found, OFF_BY_ONE.skipped(name, "the source model is not at hand; pass --source MODEL:BLOCK")]
    width, origin = table_shape(source)[1], f"embedding width of {source.site.model}"
    fault = "" if encoder.d_in == width else "use a dictionary that was trained on this model"
    found.append(WIDTH.of(name, float(encoder.d_in), float(width), fault, origin=origin))
    return found if fault else found + reconstruction(subject)


def reconstruction(subject: Subject) -> list[Finding]:
    """Unexplained variance at the stated block and the ones beside it, on the same tokens."""
    stream, source, encoder = subject.source_stream, subject.source, subject.encoder
    if stream is None or source is None or encoder is None:
        return []
    left = {block: unexplained(encoder, usual(rows)) for block, rows in stream.rest.items()}
    block, name = source.site.block, subject.dictionary_name
    own, others = left[block], {b: v for b, v in left.items() if b != block}
    fewest, here = min(left.values()), f"unexplained variance at {source.site}"
    foreign = moved = ""
    if fewest >= WRONG_DICTIONARY or not np.isfinite(fewest):
        foreign = "it was trained on another model or a far block: check model_name and hook_name in its cfg.json"
    what = f"{here} and beside it, least of {len(left)} blocks"
    found = [WRONG.of(name, fewest, WRONG_DICTIONARY, foreign, what=what)]
    if not others:
        return [*found, OFF_BY_ONE.skipped(name, "the source model has no block beside that one")]
    best = min(others, key=lambda b: others[b])
    if not foreign and others[best] < NEIGHBOUR * own:
        moved = (
            f"it reads the output of block {best}: state {source.site.model}:{best} "
            "(a resid_pre hook at block k is the output of block k - 1)"
        )
    table = ", ".join(f"{left[b]:.3f} at block {b}" for b in sorted(others))
    origin = f"block {best}, the better neighbour ({table})"
    relation = BESIDE if foreign else None  # of another model: no block is its own
    return [*found, OFF_BY_ONE.of(name, own, others[best], moved, what=here, origin=origin, relation=relation)]


def usual(rows: Floats) -> Floats:
    """Rows (n, d) without those that are no numbers or longer than 5 medians."""
    norms = np.linalg.norm(rows.astype(np.float64), axis=1)
    fine = np.isfinite(norms)
    return rows[fine & (norms <= OUTLIER * np.median(norms[fine]))] if fine.any() else rows[:0]


def unexplained(encoder: Encoder, rows: Floats) -> float:
    """FVU of rows (n, d): squared error of the reconstruction over squared distance from the mean."""
    if len(rows) < 2:
        return float("nan")
    error = 0.0
    for start in range(0, len(rows), ROWS):
        x = rows[start : start + ROWS]
        error += float(np.sum((x - encoder.reconstruct(x)).astype(np.float64) ** 2))
    return error / float(np.sum((rows - rows.mean(axis=0, dtype=np.float64)) ** 2))


def orientation(name: str, encoder: Encoder) -> Finding:
    """Encoder columns must point the way of their decoder rows; a transposed square decoder still has every shape."""
    own = aligned(encoder.W_enc, encoder.W_dec)
    square = encoder.d_in == encoder.d_sae
    turned = aligned(encoder.W_enc, encoder.W_dec.T) if square else 0.0
    rows, columns = (spread(np.linalg.norm(encoder.W_dec, axis=axis)) for axis in (1, 0))
    fault = ""
    if square and turned > max(2 * own, ALIGNED):
        fault = "its decoder is stored transposed (d_in, d_sae): transpose it, rows are features"
    elif own < ALIGNED:
        fault = (
            "encoder and decoder do not belong together, or the decoder is transposed: check its layout, rows are "
            "features; if it is a transcoder, read it as directions only"
        )
    elif columns < 1e-3 < 1e-2 < rows:
        fault = "its columns have one length and its rows have not: transpose the decoder, rows are features"
    origin = ORIENTATION.origin + (f"; {turned:.3f} when the decoder is transposed" if square else "")
    return ORIENTATION.of(name, own, ALIGNED, fault, origin=origin)


def aligned(encoder: NDArray[np.float32], decoder: NDArray[np.float32]) -> float:
    """Mean cosine of columns (d_in, n) with rows (n, d_in), over at most 4096 features."""
    step = max(1, len(decoder) // 4096)
    columns, rows = encoder[:, ::step].T.astype(np.float64), decoder[::step].astype(np.float64)
    lengths = np.linalg.norm(columns, axis=1) * np.linalg.norm(rows, axis=1)
    kept = lengths > 0
    return float(np.mean(np.sum(columns * rows, axis=1)[kept] / lengths[kept])) if kept.any() else 0.0


def spread(norms: NDArray[np.float32]) -> float:
    """Standard deviation over mean."""
    mean = float(norms.mean())
    return float(norms.std()) / mean if mean > 0 else float("inf")
