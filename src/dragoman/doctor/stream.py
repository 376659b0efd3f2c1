"""Is the source stream fit to be read: tokenizer, BOS, embeddings, loud rows, sinks, numbers that stay numbers.

In: the source model's activations over a few texts. Out: findings ``tokenizer``, ``bos``, ``embedding-scale``,
``loud-rows``, ``sink``, ``overflow`` of the source model, and ``background``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dragoman.core import Floats
from dragoman.doctor.finding import Finding, judged, skipped
from dragoman.doctor.prompt import bos, tokenizer_whole
from dragoman.doctor.subject import Subject
from dragoman.models.watch import Stream, dtype_of, embedding_factors

# Share of rows past position 0 whose norm is over 10 medians. At the sites of the embedded pair, and at every block
# that was looked at there but Gemma's block 0 (5 %), it is 0: the longest row is 1.8 medians long. A mean or a fit
# over rows of which one in fifty is ten times too loud is mostly about those rows.
LOUD, LOUD_SHARE = 10.0, 0.02
SINK = 3.0  # times the median norm at position 0; the embedded pair has 60 and 7, models without a sink about 1
FLOAT16 = 65504.0  # the largest float16
# Texts vary: the longest row of the embedded pair is 1.2 to 1.8 times the median. Half the range leaves a factor of 2.
HEADROOM = 0.5
# Cosine of a background with the mean of three sentences at the same site: 0.99 on the embedded Gemma, whose spread is
# small; a stream of large spread has less. Unrelated means have about 0.
SAME_BACKGROUND = 0.7


def check_stream(subject: Subject) -> list[Finding]:
    """All checks of the source model's stream."""
    stream, source = subject.source_stream, subject.source
    if stream is None or source is None:
        return [skipped("loud-rows", "source model", "norms at the site", "no source model is at hand; pass --source")]
    name = str(source.site)
    factor, expected, origin = embedding_factors(source, stream.embedded, stream.ids.tolist())
    longest = max(stream.leading, key=lambda ids: sum(i == source.tokenizer.bos_token_id for i in ids))
    return [
        tokenizer_whole(name, source.tokenizer),
        bos(name, "beginning-of-text tokens of a text it reads", source.tokenizer, longest),
        judged(
            "embedding-scale",
            name,
            "factor between the embedding table and what enters block 0",
            measured=factor,
            against=expected,
            origin=origin,
            fault="" if abs(factor / expected - 1) <= 0.05 else "use the model's own embedding module, and only once",
        ),
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
    return judged(
        "loud-rows",
        name,
        f"share of rows over {LOUD:g} median norms, position 0 left out",
        measured=share,
        against=LOUD_SHARE,
        origin="0 at both sites of the embedded pair; the longest row there is 1.3 medians",
        fault="" if share <= LOUD_SHARE else "use another block, or texts without the tokens that are so loud",
    )


def sink(name: str, stream: Stream, block: int) -> Finding:
    """Position 0 may be as loud as it likes, since it is left out; a second sink is not left out."""
    usual = median_norm(stream.rest[block])
    ratio = median_norm(stream.first[block]) / usual
    loudest = float(norms_of(stream.rest[block]).max(initial=0.0)) / usual
    second = ratio > SINK and loudest > ratio / 2
    return judged(
        "sink",
        name,
        "norm of position 0, which is left out, over the median"
        if ratio > SINK
        else "norm of position 0 over the median (no sink)",
        measured=ratio,
        against=loudest,
        origin="loudest later row over the median",
        fault="later positions are as loud as the sink: read texts with one BOS, and without template tokens"
        if second
        else "",
    )


def overflow(name: str, what: str, peak: float, dtype: str) -> Finding:
    """Numbers must stay numbers: float16 ends at 65504, and what is past it is dropped or turns to NaN in silence."""
    half = dtype == "float16"
    limit = HEADROOM * FLOAT16 if half else float(np.finfo(np.float32).max)
    fine = np.isfinite(peak) and peak <= limit
    return judged(
        "overflow",
        name,
        f"{what}, in {dtype or 'its dtype'}",
        measured=peak,
        against=limit,
        origin="half of 65504, the largest float16" if half else "the largest number of the dtype",
        fault="" if fine else "use bfloat16 or float32" if half else "its weights are damaged: fetch them again",
    )


def check_background(subject: Subject) -> list[Finding]:
    """The background must be the mean of the stream it is mixed into."""
    background, mean, local = subject.background, subject.own_mean, subject.local
    what = "cosine of the background with the mean activation of a few sentences"
    if background is None or mean is None or local is None:
        return [
            skipped("background", subject.verbalizer_name, what, "no background or no model at its site is at hand")
        ]
    stored = background.mean.astype(np.float64)
    if stored.shape != mean.shape:
        cosine = 0.0
    else:
        cosine = float(mean @ stored / (np.linalg.norm(mean) * np.linalg.norm(stored)))
    return [
        judged(
            "background",
            subject.verbalizer_name,
            what,
            measured=cosine,
            against=SAME_BACKGROUND,
            origin=f"activations at {local.site}; the embedded pair has 0.99",
            fault="" if cosine >= SAME_BACKGROUND else "it is of another site or model: make it again at this one",
        )
    ]
