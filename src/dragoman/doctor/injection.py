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
from dragoman.doctor.finding import Finding, judged, refused, skipped
from dragoman.doctor.stream import median_norm, overflow
from dragoman.doctor.subject import COMPARED, Subject
from dragoman.models.watch import dtype_of, embedding_factors
from dragoman.verbalizers.protocol import parse

COSINE = 0.99  # bfloat16 rounds each entry by 0.4 % at most: the cosine of a rounded vector stays above 0.9999
RATIO = 0.02  # the same for a norm (0.4 %), with room for a factor that was itself rounded to bfloat16
# The large published checkpoints' scales are 0.97 to 1.7 times the median norm at their site, the embedded pair's 1.1.
# But a scale is whatever the model was trained with: one published adapter states 1.01 where streams are tens long, and
# this project's random test models have 1/50 of theirs. A unit gone wrong (500 times) is off by more than all of these.
SCALE_RANGE = 200.0
FACTOR = 0.05  # a missing or doubled square root of the width is off by 5 or more; bfloat16 by 0.004
# Largest difference of two rows of logits over their spread. Of opposite vectors: 0.03 (norm-matched add on a random
# Gemma) to 2.4 (embedded pair) in clean models, 0 behind a cache. One vector read twice, in another row and call: 0 on
# a CPU; three times what it is here is asked for, in case a device is not so exact.
CACHED, NOISES = 1e-3, 3.0
# Of a dropped vector and the bare marker, which are read in passes of other shapes: up to 4e-6 in float32, 0.05 in
# bfloat16.
BARE = 0.06
WEAK = 0.01  # opposite vectors that change logits less than this say the same by more than chance
CANARY = 24  # tokens: past the opening that a verbalizer's texts share


def check_injection(subject: Subject) -> list[Finding]:
    """All checks of what the vector does."""
    if subject.local is None:
        reason = "the verbalizer does not run in this process, so its passes cannot be watched"
        return [skipped("slot", subject.verbalizer_name, "what the vector changes", reason)]
    changed = _changed(subject)
    if changed is None:
        reason = "its passes over the prompt could not be put together"
        if subject.fed.refusal is not None:
            reason = f"it refused to decode: {subject.fed.refusal.why}"
        return [skipped("slot", subject.verbalizer_name, "what the vector changes", reason)]
    block, half, mean = changed
    found = [slot(subject, half)]
    places = np.flatnonzero(lengths(half) > 1e-4 * lengths(half).max()) if half.any() else np.array([], int)
    if len(places) == len(subject.places):
        found += [sign(subject, half[places[0]]), scale(subject, half, mean, int(places[0]), block)]
    return [*found, scale_at_site(subject), embedding_scale(subject)]


def lengths(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Norm of each row."""
    return np.linalg.norm(rows, axis=-1)


def _changed(subject: Subject) -> tuple[int, NDArray[np.float64], NDArray[np.float64]] | None:
    """First block whose input the vector changes, half the difference (T, d) of the opposite readings, their mean."""
    entering = subject.fed.entering
    if not entering:
        return None
    for block in sorted(entering):
        plus, minus = entering[block].astype(np.float64)
        # Replaced in both readings alike, up to the arithmetic of a batch.
        if lengths(plus - minus).max() > 1e-4 * max(float(np.abs(plus).max()), 1e-30):
            return block, (plus - minus) / 2, (plus + minus) / 2
    plus, minus = entering[min(entering)].astype(np.float64)
    return min(entering), np.zeros_like(plus), (plus + minus) / 2


def slot(subject: Subject, half: NDArray[np.float64]) -> Finding:
    """The vector changes the input at the marker's position and nowhere else."""
    brought = lengths(half)
    places = np.flatnonzero(brought > 1e-4 * brought.max()).tolist() if half.any() else []
    wanted, fault = subject.places, ""
    if not places:
        fault = "the vector is never read: check that the engine takes embeddings and that its hooks run"
    elif places != wanted:
        fault = "it must arrive at the marker alone: check BOS, prefix length and the slot's index"
    return judged(
        "slot",
        subject.verbalizer_name,
        "positions that change with the vector",
        measured=", ".join(map(str, places[:6])) or "none",
        against=", ".join(map(str, wanted)),
        origin="the marker's position in the prompt",
        fault=fault,
    )


def sign(subject: Subject, brought: NDArray[np.float64]) -> Finding:
    """What arrives must point where the vector points: verbalizers drop length, not sign."""
    if not subject.at_home:
        reason = "its contract carries the vector into another space first"
        return skipped("sign", subject.verbalizer_name, "cosine of the vector with what it brings", reason)
    vector = subject.opposite[0].astype(np.float64)
    cosine = float(brought @ vector / (np.linalg.norm(brought) * np.linalg.norm(vector)))
    fault = ""
    if cosine < -COSINE:
        fault = "its sign is flipped: inject the vector as it is"
    elif cosine < COSINE:
        fault = "it is another vector by the time it arrives: look for a projection, a permutation or a lossy cast"
    return judged(
        "sign",
        subject.verbalizer_name,
        "cosine of the vector with what it brings",
        measured=cosine,
        against=1.0,
        origin="the vector itself",
        fault=fault,
    )


def scale(
    subject: Subject,
    half: NDArray[np.float64],
    mean: NDArray[np.float64],
    place: int,
    block: int,
) -> Finding:
    """Norm the vector arrives with: the sidecar's where it replaces, that of the stream where it is added."""
    brought, held = float(np.linalg.norm(half[place])), float(np.linalg.norm(mean[place]))
    added = held > 1e-3 * brought
    stated = None if subject.local is None else subject.local.sidecar.injection_scale
    if added:
        against, origin = held, f"norm of the stream it is added to, before block {block}"
    elif stated:
        against, origin = float(stated), "injection_scale of the sidecar"
    else:
        reason = "the sidecar states no injection_scale"
        return skipped("scale", subject.verbalizer_name, "norm the vector arrives with", reason)
    ratio = brought / against
    return judged(
        "scale",
        subject.verbalizer_name,
        f"norm the vector arrives with before block {block}",
        measured=brought,
        against=against,
        origin=origin,
        fault="" if abs(ratio - 1) <= RATIO else f"it is {ratio:.4g} times too long: scale it once, in float32",
    )


def scale_at_site(subject: Subject) -> Finding:
    """The sidecar's scale beside the length activations have where they were taken: a scale of another unit shows."""
    what = "injection_scale of the sidecar"
    stream, local = subject.own_stream, subject.local
    stated = None if local is None else local.sidecar.injection_scale
    if not stated or stream is None or local is None:
        return skipped(
            "scale-at-site", subject.verbalizer_name, what, "the sidecar states none; vectors are matched to the stream"
        )
    usual = median_norm(stream.rest[local.site.block])
    ratio = float(stated) / usual if usual > 0 else float("inf")
    fine = 1 / SCALE_RANGE <= ratio <= SCALE_RANGE
    return judged(
        "scale-at-site",
        subject.verbalizer_name,
        what,
        measured=float(stated),
        against=usual,
        origin=f"median norm of activations at {local.site} (0.97 to 1.7 times is usual, 1/200 to 200 possible)",
        fault="" if fine else f"it is {ratio:.3g} times the usual norm: get the published sidecar again",
    )


def embedding_scale(subject: Subject) -> Finding:
    """Rows of the prompt before block 0, by the table's: on Gemma the square root of the width, once."""
    what = "factor between the embedding table and what enters block 0 of its prompt"
    local, name = subject.local, subject.verbalizer_name
    if local is None or 0 not in subject.fed.entering:
        return skipped("embedding-scale", name, what, "its passes over the prompt could not be watched")
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
    return judged("embedding-scale", name, what, measured=factor, against=expected, origin=origin, fault=fault)


def check_reading(subject: Subject, *, texts: bool = True) -> list[Finding]:
    """All checks of what is read; ``texts=False`` leaves out those that decode whole texts from a model here."""
    if subject.verbalizer is None:
        return []
    if subject.local is None:
        return [canary(subject)]
    found = [numbers_hold(subject)]
    if subject.fed.refusal is not None:
        return found
    found += [logits_canary(subject), marker_read(subject)]
    return [*found, background_text(subject)] if texts else found


def numbers_hold(subject: Subject) -> Finding:
    """The stream under the injected vector stays within its dtype."""
    dtype = "" if subject.local is None else dtype_of(subject.local)
    found = overflow(
        subject.verbalizer_name, "largest entry of its stream while it reads a vector", subject.fed.peak, dtype
    )
    if found.status == "ok" and subject.fed.refusal is not None:
        return refused("overflow", subject.verbalizer_name, "decoding one token", subject.fed.refusal)
    return found


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
    what = "difference of the logits of two opposite vectors, over their spread"
    found = opposed(subject)
    if found is None:
        return judged(
            "cache",
            subject.verbalizer_name,
            what,
            measured="a call without a pass through the model",
            against="one pass a call",
            origin="two calls with opposite vectors",
            fault="answers come from a cache that does not see the vector: turn prefix caching off",
        )
    least, limit = found
    return judged(
        "cache",
        subject.verbalizer_name,
        what,
        measured=least,
        against=limit,
        origin="clean models have 0.03 to 2.4, a cache 0",
        fault="" if least > limit else "turn prefix caching off: its keys are token ids, which all vectors share",
    )


def marker_read(subject: Subject) -> Finding:
    """Where opposite vectors give one answer, it must not be the bare marker's."""
    what = "difference of the logits with a vector and with the bare marker, over their spread"
    once, bare, found = subject.fed.logits, subject.bare_logits, opposed(subject)
    if once is None or bare is None or found is None:
        return skipped("marker-read", subject.verbalizer_name, what, "the passes could not be watched")
    nearest = min(apart(row, bare) for row in once)
    dropped = found[0] <= found[1] and nearest <= BARE
    return judged(
        "marker-read",
        subject.verbalizer_name,
        what,
        measured=nearest,
        against=BARE,
        origin="a vector that is dropped has less, and so has its opposite",
        fault="the engine drops the embeddings it is given: feed embeddings only, never ids" if dropped else "",
    )


def canary(subject: Subject) -> Finding:
    """Vectors and their opposites must not all give one text, neither in one call nor across calls; for any server.

    Three pairs: a verbalizer may say one stock phrase to a vector it makes nothing of, but a cache says one to all.
    """
    what = f"different texts of three vectors and their opposites, {CANARY} tokens"
    verbalizer = subject.verbalizer
    if verbalizer is None or not subject.width:
        return skipped("canary", subject.verbalizer_name, what, "the width of its vectors is not known")
    rows = np.random.default_rng(1).normal(size=(3, subject.width))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    pairs = np.stack([rows, -rows], axis=1).reshape(6, -1).astype(np.float32)  # each followed by its opposite
    try:
        first = verbalizer.verbalize(pairs, max_new_tokens=CANARY)
        again = [e.raw for e in verbalizer.verbalize(pairs[::-1].copy(), max_new_tokens=CANARY)]
    except Refusal as refusal:
        return refused("canary", subject.verbalizer_name, what, refusal)
    once = [e.raw for e in first]
    fault = ""
    if len(set(once)) == 1:
        fault = "turn prefix caching off on the server: its keys are token ids, which all vectors share"
    elif all("other script" in e.problems for e in first):
        fault = "every answer is about a sign of another script: the marker is read, the vector is not; check slot"
    elif once == again:
        fault = "answers come from an earlier call, whatever the vector: turn response and prefix caching off"
    return judged(
        "canary",
        subject.verbalizer_name,
        what,
        measured=f"{len(set(once))}{', repeated when the order is turned' if once == again else ''}",
        against="2 or more",
        origin=f"{len(once)} vectors, in two calls of opposite order",
        fault=fault,
    )


def background_text(subject: Subject) -> Finding:
    """The background's text must not be the one said when nothing is injected.

    Two other vectors are read beside it, and their logits count: a model with little to say may repeat itself.
    """
    what = "vectors (background, two opposite ones) that get the text of the bare marker"
    background, local, bare = subject.background_mean, subject.local, subject.bare_text
    if background is None or local is None or bare is None:
        return skipped("background-text", subject.verbalizer_name, what, "no background of its width is at hand")
    said = local.verbalize(np.vstack([background[None], subject.opposite]), max_new_tokens=COMPARED)
    nothing = parse(bare, opened=local.prompt.opened).text
    same = sum(one.text.split() == nothing.split() for one in said)
    found = opposed(subject)
    weak = found is None or found[0] <= WEAK
    return judged(
        "background-text",
        subject.verbalizer_name,
        what,
        measured=float(same),
        against="not 3 of 3",
        origin=f"said of the background: '{' '.join(said[0].text.split())[:40]}', "
        f"of the bare marker: '{' '.join(nothing.split())[:40]}'",
        fault="nothing is read but the marker: check slot, scale and contract" if same == len(said) and weak else "",
    )
