"""Does the verbalizer read its vector at all: no cache between opposite vectors, no marker read in their stead.

In: a verbalizer, here or on a server. Out: findings ``cache``, ``marker-read``, ``background-text``, ``overflow`` of
one in this process, ``canary`` of any other. A prefix cache keyed by token ids gives every vector the first one's
answer; an engine that drops embeddings reads the marker.
"""

from __future__ import annotations

import numpy as np

from dragoman.core import Floats, Refusal
from dragoman.doctor.finding import Finding, judged, refused, skipped
from dragoman.doctor.stream import overflow
from dragoman.doctor.subject import COMPARED, Subject
from dragoman.models.watch import dtype_of
from dragoman.verbalizers.answer import parse

# Largest difference of two rows of logits over their spread. Of opposite vectors: 0.03 (norm-matched add on a random
# Gemma) to 2.4 (embedded pair) in clean models, 0 behind a cache. One vector read twice, in another row and call: 0 on
# a CPU; three times what it is here is asked for, in case a device is not so exact.
CACHED, NOISES = 1e-3, 3.0
# Of a dropped vector and the bare marker, which are read in passes of other shapes: up to 4e-6 in float32, 0.05 in
# bfloat16.
BARE = 0.06
WEAK = 0.01  # opposite vectors that change logits less than this say the same by more than chance
CANARY = 24  # tokens: past the opening that a verbalizer's texts share


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
