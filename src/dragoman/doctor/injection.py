"""Does the vector arrive: at the marker, right way round, at its norm, among embeddings that are scaled once.

In: what the model's first blocks really took in while two opposite vectors were read. Out: findings ``slot``, ``sign``,
``scale``, ``scale-at-site``, ``embedding-scale``. Half the difference of the two readings is what the vector brought;
that holds for replaced embeddings and for vectors that are added alike.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dragoman.doctor.finding import Finding, judged, skipped
from dragoman.doctor.stream import median_norm
from dragoman.doctor.subject import Subject
from dragoman.models.watch import embedding_factors

COSINE = 0.99  # bfloat16 rounds each entry by 0.4 % at most: the cosine of a rounded vector stays above 0.9999
RATIO = 0.02  # the same for a norm (0.4 %), with room for a factor that was itself rounded to bfloat16
# The large published checkpoints' scales are 0.97 to 1.7 times the median norm at their site, the embedded pair's 1.1.
# But a scale is whatever the model was trained with: one published adapter states 1.01 where streams are tens long, and
# this project's random test models have 1/50 of theirs. A unit gone wrong (500 times) is off by more than all of these.
SCALE_RANGE = 200.0
FACTOR = 0.05  # a missing or doubled square root of the width is off by 5 or more; bfloat16 by 0.004


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
