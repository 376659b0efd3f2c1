"""Does the vector arrive (at the marker, right way round, at its norm, among embeddings scaled once), and is it read.

In: what the model's first blocks really took in while two opposite vectors were read, and what was said. Out: findings
``slot``, ``sign``, ``scale``, ``scale-at-site``, ``embedding-scale``; ``cache``, ``marker-read``, ``background-text``,
``overflow``; ``canary`` of a verbalizer on a server. Half the difference of the two readings is what the vector
brought; that holds for replaced embeddings and for vectors that are added alike. A prefix cache keyed by token ids
gives every vector the first one's answer; an engine that drops embeddings reads the marker.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dragoman.core import Floats, Refusal
from dragoman.doctor.finding import BESIDE, Check, Finding
from dragoman.doctor.stream import FACTOR, median_norm, overflow
from dragoman.doctor.subject import Subject
from dragoman.models.decode import Verbalizer
from dragoman.models.watch import Expected, bare_logits, bare_text, dtype_of, embedding_factors, expected_of
from dragoman.verbalizers.protocol import AnyVerbalizer, parse

COSINE = 0.99  # bfloat16 rounds each entry by 0.4 % at most: the cosine of a rounded vector stays above 0.9999
RATIO = 0.02  # the same for a norm (0.4 %), with room for a factor that was itself rounded to bfloat16
# The large published checkpoints' scales are 0.97 to 1.7 times the median norm at their site, the embedded pair's 1.1.
# But a scale is whatever the model was trained with: one published adapter states 1.01 where streams are tens long, and
# this project's random test models have 1/50 of theirs. A unit gone wrong (500 times) is off by more than all of these.
SCALE_RANGE = 200.0
# Largest difference of two rows of logits over their spread. Of opposite vectors: 0.03 (norm-matched add on a random
# Gemma) to 2.4 (embedded pair) in clean models, 0 behind a cache. One vector read twice, in another row and call: 0 on
# a CPU; three times what it is here is asked for, in case a device is not so exact.
CACHED, NOISES = 1e-3, 3.0
# Of a dropped vector and the bare marker, which are read in passes of other shapes: up to 4e-6 in float32, 0.05 in
# bfloat16.
BARE = 0.06
WEAK = 0.01  # opposite vectors that change logits less than this say the same by more than chance
COMPARED = 8  # tokens of a text here that is compared with another one
NEXT = 24  # the same of a server's texts: past the opening that a verbalizer's texts share

SLOT = Check("slot", "positions that change with the vector", "the marker's position in the prompt")
SIGN = Check("sign", "cosine of the vector with what it brings", "the vector itself", f"within {1 - COSINE:.2g} of")
SCALE = Check("scale", "norm the vector arrives with", relation=f"within {RATIO:.0%} of")
SCALE_AT_SITE = Check(
    "scale-at-site",
    "injection_scale of the sidecar",
    relation=f"between 1/{SCALE_RANGE:g} and {SCALE_RANGE:g} times",
)
EMBEDDING_SCALE = Check(
    "embedding-scale",
    "factor between the embedding table and what enters block 0 of its prompt",
    relation=f"within {FACTOR:.0%} of",
)
NUMBERS = Check("overflow", "decoding one token")
CACHE = Check(
    "cache",
    "difference of the logits of two opposite vectors, over their spread",
    "clean models have 0.03 to 2.4, a cache 0",
    "above",
)
MARKER_READ = Check(
    "marker-read",
    "difference of the logits with a vector and with the bare marker, over their spread",
    "a vector that is dropped has less, and so has its opposite",
    "above",
)
CANARY = Check("canary", f"different texts of three vectors and their opposites, {NEXT} tokens", relation="at least")
BACKGROUND_TEXT = Check(
    "background-text", "vectors (background, two opposite ones) that get the text of the bare marker", relation=""
)


def check_injection(subject: Subject) -> list[Finding]:
    """All checks of what the vector does."""
    local, name = subject.local, subject.verbalizer_name
    if local is None:
        return [SLOT.skipped(name, "the verbalizer does not run in this process, so its passes cannot be watched")]
    changed = _changed(subject)
    if changed is None:
        reason = "its passes over the prompt could not be put together"
        if subject.fed.refusal is not None:
            reason = f"it refused to decode: {subject.fed.refusal.why}"
        return [SLOT.skipped(name, reason)]
    block, half, mean = changed
    places = _places(half)
    found = [slot(subject, places)]
    if len(places) == len(subject.places):
        wanted = expected_of(local, subject.opposite[0], mean[places].astype(np.float32))
        brought, held = half[places[0]], mean[places[0]]
        found += [sign(subject, brought, wanted), scale(name, local, brought, held, block, wanted)]
    return [*found, scale_at_site(subject, local), embedding_scale(subject, local)]


def _changed(subject: Subject) -> tuple[int, NDArray[np.float64], NDArray[np.float64]] | None:
    """First block whose input the vector changes, half the difference (T, d) of the opposite readings, their mean."""
    entering = subject.fed.entering
    if not entering:
        return None
    for block in sorted(entering):
        plus, minus = entering[block].astype(np.float64)
        # Replaced in both readings alike, up to the arithmetic of a batch.
        if _lengths(plus - minus).max() > 1e-4 * max(float(np.abs(plus).max()), 1e-30):
            return block, (plus - minus) / 2, (plus + minus) / 2
    plus, minus = entering[min(entering)].astype(np.float64)
    return min(entering), np.zeros_like(plus), (plus + minus) / 2


def _lengths(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.linalg.norm(rows, axis=-1)


def _places(half: NDArray[np.float64]) -> list[int]:
    """Positions at which the vector brought anything (T, d)."""
    brought = _lengths(half)
    return np.flatnonzero(brought > 1e-4 * brought.max()).tolist() if half.any() else []


def slot(subject: Subject, places: list[int]) -> Finding:
    """The vector changes the input at the marker's position and nowhere else."""
    wanted, fault = subject.places, ""
    if not places:
        fault = "the vector is never read: check that the engine takes embeddings and that its hooks run"
    elif places != wanted:
        fault = "it must arrive at the marker alone: check BOS, prefix length and the slot's index"
    measured = ", ".join(map(str, places[:6])) or "none"
    return SLOT.of(subject.verbalizer_name, measured, ", ".join(map(str, wanted)), fault)


def sign(subject: Subject, brought: NDArray[np.float64], wanted: Expected) -> Finding:
    """What arrives must point where the contract turns the vector to: verbalizers drop length, not sign."""
    if not subject.at_home:
        return SIGN.skipped(subject.verbalizer_name, "its contract carries the vector into another space first")
    vector = wanted.carried.astype(np.float64)
    cosine = float(brought @ vector / (np.linalg.norm(brought) * np.linalg.norm(vector)))
    fault = ""
    if cosine < -COSINE:
        fault = "its sign is flipped: inject the vector as it is"
    elif cosine < COSINE:
        fault = "it is another vector by the time it arrives: look for a projection, a permutation or a lossy cast"
    return SIGN.of(subject.verbalizer_name, cosine, 1.0, fault)


def scale(
    name: str,
    local: Verbalizer,
    change: NDArray[np.float64],
    stream: NDArray[np.float64],
    block: int,
    wanted: Expected,
) -> Finding:
    """Norm the vector arrives with: the contract's where it replaces, a share of the stream's where it is added.

    Where it replaces, nothing else may stand there but what the contract itself puts beside it (an adapter's bias).
    """
    brought, bias = float(np.linalg.norm(change)), float(np.linalg.norm(wanted.resting))
    held, beside = float(np.linalg.norm(stream)), float(np.linalg.norm(stream - wanted.resting))
    stated, origin = local.sidecar.injection_scale, f"norm of the stream it is added to, before block {block}"
    if wanted.added is not None:
        against = wanted.added
        if abs(against / held - 1) > RATIO:
            origin = f"what its contract adds there, {against / held:.3g} times the {origin}"
    elif beside <= max(1e-3 * brought, RATIO * bias):
        against = float(stated or np.linalg.norm(wanted.carried))
        origin = "injection_scale of the sidecar" if stated else "norm that its contract gives the vector"
    elif bias:
        fault, origin = "get the adapter again: something else stands there than its bias", "the adapter's bias"
        return SCALE.of(
            name, beside, 0.0, fault, what="norm of what stands beside the vector", origin=origin, relation="about"
        )
    else:
        against = held
    ratio = brought / against
    fault = "" if abs(ratio - 1) <= RATIO else f"it is {ratio:.4g} times too long: scale it once, in float32"
    return SCALE.of(name, brought, against, fault, what=f"{SCALE.what} before block {block}", origin=origin)


def scale_at_site(subject: Subject, local: Verbalizer) -> Finding:
    """The sidecar's scale beside the length activations have where they were taken: a scale of another unit shows."""
    stream, stated = subject.own_stream, local.sidecar.injection_scale
    if not stated or stream is None:
        reason = "the sidecar states none"
        return SCALE_AT_SITE.skipped(subject.verbalizer_name, reason)
    usual = median_norm(stream.rest[local.site.block])
    ratio = float(stated) / usual if usual > 0 else float("inf")
    fine = 1 / SCALE_RANGE <= ratio <= SCALE_RANGE
    fault = "" if fine else f"it is {ratio:.3g} times the usual norm: get the published sidecar again"
    origin = f"median norm of activations at {local.site} (0.97 to 1.7 times is usual, 1/200 to 200 possible)"
    return SCALE_AT_SITE.of(subject.verbalizer_name, float(stated), usual, fault, origin=origin)


def embedding_scale(subject: Subject, local: Verbalizer) -> Finding:
    """Rows of the prompt before block 0, by the table's: on Gemma the square root of the width, once."""
    if 0 not in subject.fed.entering:
        return EMBEDDING_SCALE.skipped(subject.verbalizer_name, "its passes over the prompt could not be watched")
    ids = list(local.prompt.ids)
    kept = [k for k in range(len(ids)) if abs(k - local.prompt.slot) > 1]
    factor, expected, origin = embedding_factors(local, subject.fed.entering[0][0][kept], [ids[k] for k in kept])
    fault = ""
    if not abs(factor / expected - 1) <= FACTOR:
        fault = "look the embeddings up through the model's own module, which scales them once"
        if expected > 1 and abs(factor - 1) <= FACTOR:
            fault = "the square root of the width is missing: " + fault
        elif expected > 1 and abs(factor / expected**2 - 1) <= FACTOR:
            fault = "the square root of the width is in there twice: " + fault
    return EMBEDDING_SCALE.of(subject.verbalizer_name, factor, expected, fault, origin=origin)


def check_reading(subject: Subject, *, texts: bool = True) -> list[Finding]:
    """All checks of what is read; ``texts=False`` leaves out those that decode whole texts from a model here."""
    verbalizer, local, name = subject.verbalizer, subject.local, subject.verbalizer_name
    if verbalizer is None:
        return []
    if local is None:
        return [canary(name, verbalizer, subject.width)]
    numbers = overflow(name, "largest entry of its stream while it reads a vector", subject.fed.peak, dtype_of(local))
    if subject.fed.refusal is not None:
        return [NUMBERS.refused(name, subject.fed.refusal) if numbers.status == "ok" else numbers]
    found = [numbers, logits_canary(subject), marker_read(subject, local)]
    return [*found, background_text(subject, local)] if texts else found


def apart(left: Floats, right: Floats) -> float:
    """Largest difference of two rows of logits, over the standard deviation of the first."""
    spread = float(np.std(left.astype(np.float64)))
    return float(np.abs(left.astype(np.float64) - right).max()) / max(spread, 1e-12)


def opposed(subject: Subject) -> tuple[float, float] | None:
    """Least difference of opposite vectors' logits, in one call and across two; and the difference below which it is 0.

    None when a call made no pass through the model.
    """
    once, again = subject.fed.logits, subject.fed_again.logits
    if once is None or again is None:
        return None
    limit = max(CACHED, NOISES * apart(once[0], again[1]))
    return min(apart(once[0], once[1]), apart(once[0], again[0])), limit


def logits_canary(subject: Subject) -> Finding:
    """Opposite vectors, in one call and as the first of two calls, must not have one next token's logits."""
    name, found = subject.verbalizer_name, opposed(subject)
    if found is None:
        fault = "answers come from a cache that does not see the vector: turn prefix caching off"
        measured, origin = "a call without a pass through the model", "two calls with opposite vectors"
        return CACHE.of(name, measured, "one pass a call", fault, origin=origin, relation="")
    least, limit = found
    fault = "" if least > limit else "turn prefix caching off: its keys are token ids, which all vectors share"
    return CACHE.of(name, least, limit, fault)


def marker_read(subject: Subject, local: Verbalizer) -> Finding:
    """Where opposite vectors give one answer, it must not be the bare marker's."""
    once, found = subject.fed.logits, opposed(subject)
    if once is None or found is None:
        return MARKER_READ.skipped(subject.verbalizer_name, "the passes could not be watched")
    bare = bare_logits(local)
    nearest = min(apart(row, bare) for row in once)
    dropped = found[0] <= found[1] and nearest <= BARE
    fault = "the engine drops the embeddings it is given: feed embeddings only, never ids" if dropped else ""
    # Below the limit all is well where opposite vectors are told apart: a vector may say what the bare marker says.
    relation = BESIDE if nearest <= BARE and not dropped else None
    return MARKER_READ.of(subject.verbalizer_name, nearest, BARE, fault, relation=relation)


def canary(name: str, verbalizer: AnyVerbalizer, width: int) -> Finding:
    """Vectors and their opposites must not all give one text, neither in one call nor across calls; for any server.

    Three pairs: a verbalizer may say one stock phrase to a vector it makes nothing of, but a cache says one to all.
    """
    if not width:
        return CANARY.skipped(name, "the width of its vectors is not known")
    rows = np.random.default_rng(1).normal(size=(3, width))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    pairs = np.stack([rows, -rows], axis=1).reshape(6, -1).astype(np.float32)  # each followed by its opposite
    try:
        first = verbalizer.verbalize(pairs, max_new_tokens=NEXT)
        again = [e.raw for e in verbalizer.verbalize(pairs[::-1].copy(), max_new_tokens=NEXT)]
    except Refusal as refusal:
        return CANARY.refused(name, refusal)
    once = [e.raw for e in first]
    fault = ""
    if len(set(once)) == 1:
        fault = "turn prefix caching off on the server: its keys are token ids, which all vectors share"
    elif all("other script" in e.problems for e in first):
        fault = "every answer is about a sign of another script: the marker is read, the vector is not; check slot"
    elif once == again:
        fault = "answers come from an earlier call, whatever the vector: turn response and prefix caching off"
    measured = f"{len(set(once))}{', repeated when the order is turned' if once == again else ''}"
    origin = f"{len(once)} vectors, in two calls of opposite order"
    return CANARY.of(name, measured, 2.0, fault, origin=origin)


def background_text(subject: Subject, local: Verbalizer) -> Finding:
    """The background's text must not be the one said when nothing is injected.

    Two other vectors are read beside it, and their logits count: a model with little to say may repeat itself.
    """
    background = subject.background_mean
    if background is None:
        return BACKGROUND_TEXT.skipped(subject.verbalizer_name, "no background of its width is at hand")
    texts = local.verbalize(np.vstack([background[None], subject.opposite]), max_new_tokens=COMPARED)
    nothing = parse(bare_text(local, COMPARED), opened=local.prompt.opened).text
    same = sum(one.text.split() == nothing.split() for one in texts)
    found = opposed(subject)
    weak = found is None or found[0] <= WEAK
    fault = "nothing is read but the marker: check slot, scale and contract" if same == len(texts) and weak else ""
    told = f"{same} of {len(texts)} alike{'' if same < len(texts) or weak else ', whose logits differ'}"
    first, second = (" ".join(text.split())[:40] for text in (texts[0].text, nothing))
    origin = f"said of the background: '{first}', of the bare marker: '{second}'"
    return BACKGROUND_TEXT.of(
        subject.verbalizer_name, told, "fewer than all, or with other logits", fault, origin=origin
    )
