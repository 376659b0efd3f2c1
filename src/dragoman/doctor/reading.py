"""Does the verbalizer read its vector at all: no cache between opposite vectors, no marker read in their stead.

In: a verbalizer, here or on a server. Out: findings ``cache``, ``marker-read``, ``background-text``, ``overflow`` of
one in this process, ``canary`` of any other. A prefix cache keyed by token ids gives every vector the first one's
answer; an engine that drops embeddings reads the marker.
"""

from __future__ import annotations

import numpy as np

from dragoman.core import Floats, Refusal
from dragoman.doctor.finding import Finding, judged, refused, skipped
from dragoman.doctor.patient import SAID, Patient, Probes
from dragoman.doctor.stream import dtype_of, overflow
from dragoman.verbalizers.prompt import parse

# Largest difference of two rows of logits over their spread. Of opposite vectors: 0.03 (norm-matched add on a random
# Gemma) to 2.4 (embedded pair) in clean models, 0 behind a cache. One vector read twice, in another row and call: 0 on
# a CPU; three times what it is here is asked for, in case a device is not so exact.
CACHED, NOISES = 1e-3, 3.0
# Of a dropped vector and the bare marker, which are read in passes of other shapes: up to 4e-6 in float32, 0.05 in
# bfloat16.
BARE = 0.06
WEAK = 0.01  # opposite vectors that change logits less than this say the same by more than chance
CANARY = 24  # tokens: past the opening that a verbalizer's texts share


def check_reading(patient: Patient, probes: Probes, *, texts: bool = True) -> list[Finding]:
    """All checks of what is read; ``texts=False`` leaves out those that decode whole texts from a model here."""
    if patient.verbalizer is None:
        return []
    if probes.model is None:
        return [canary(patient, probes)]
    found = [numbers_hold(patient, probes)]
    if probes.fed.refusal is not None:
        return found
    found += [logits_canary(patient, probes), marker_read(patient, probes)]
    return [*found, background_text(patient, probes)] if texts else found


def numbers_hold(patient: Patient, probes: Probes) -> Finding:
    """The stream under the injected vector stays within its dtype."""
    dtype = dtype_of(probes.model.net) if probes.model else ""
    found = overflow(patient.voice, "largest entry of its stream while it reads a vector", probes.fed.peak, dtype)
    if found.verdict == "ok" and probes.fed.refusal is not None:
        return refused("overflow", patient.voice, "decoding one token", probes.fed.refusal)
    return found


def apart(left: Floats, right: Floats) -> float:
    """Largest difference of two rows of logits, over the standard deviation of the first."""
    spread = float(np.std(left.astype(np.float64)))
    return float(np.abs(left.astype(np.float64) - right).max()) / max(spread, 1e-12)


def opposed(probes: Probes) -> tuple[float, float] | None:
    """Least difference of opposite vectors' logits, in one call and across two; and the difference below which it is 0.

    None when a call made no pass through the model.
    """
    once, again = probes.fed.logits, probes.fed_again.logits
    if once is None or again is None:
        return None
    limit = max(CACHED, NOISES * apart(once[0], again[1]))
    return min(apart(once[0], once[1]), apart(once[0], again[0])), limit


def logits_canary(patient: Patient, probes: Probes) -> Finding:
    """Opposite vectors, in one call and as the first of two calls, must not have one next token's logits."""
    what = "difference of the logits of two opposite vectors, over their spread"
    found = opposed(probes)
    if found is None:
        return judged(
            "cache",
            patient.voice,
            what,
            measured="a call without a pass through the model",
            against="one pass a call",
            origin="two calls with opposite vectors",
            fault="answers come from a cache that does not see the vector: turn prefix caching off",
        )
    least, limit = found
    return judged(
        "cache",
        patient.voice,
        what,
        measured=least,
        against=limit,
        origin="clean models have 0.03 to 2.4, a cache 0",
        fault="" if least > limit else "turn prefix caching off: its keys are token ids, which all vectors share",
    )


def marker_read(patient: Patient, probes: Probes) -> Finding:
    """Where opposite vectors give one answer, it must not be the bare marker's."""
    what = "difference of the logits with a vector and with the bare marker, over their spread"
    once, bare, found = probes.fed.logits, probes.bare_logits, opposed(probes)
    if once is None or bare is None or found is None:
        return skipped("marker-read", patient.voice, what, "the passes could not be watched")
    nearest = min(apart(row, bare) for row in once)
    dropped = found[0] <= found[1] and nearest <= BARE
    return judged(
        "marker-read",
        patient.voice,
        what,
        measured=nearest,
        against=BARE,
        origin="a vector that is dropped has less, and so has its opposite",
        fault="the engine drops the embeddings it is given: feed embeddings only, never ids" if dropped else "",
    )


def canary(patient: Patient, probes: Probes) -> Finding:
    """Vectors and their opposites must not all give one text, neither in one call nor across calls; for any server.

    Three pairs: a verbalizer may say one stock phrase to a vector it makes nothing of, but a cache says one to all.
    """
    what = f"different texts of three vectors and their opposites, {CANARY} tokens"
    verbalizer = patient.verbalizer
    if verbalizer is None or not probes.width:
        return skipped("canary", patient.voice, what, "the width of its vectors is not known")
    try:
        first = verbalizer.verbalize(probes.pairs, max_new_tokens=CANARY)
        again = [e.raw for e in verbalizer.verbalize(probes.pairs[::-1].copy(), max_new_tokens=CANARY)]
    except Refusal as refusal:
        return refused("canary", patient.voice, what, refusal)
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
        patient.voice,
        what,
        measured=f"{len(set(once))}{', repeated when the order is turned' if once == again else ''}",
        against="2 or more",
        origin=f"{len(once)} vectors, in two calls of opposite order",
        fault=fault,
    )


def background_text(patient: Patient, probes: Probes) -> Finding:
    """The background's text must not be the one said when nothing is injected.

    Two other vectors are read beside it, and their logits count: a model with little to say may repeat itself.
    """
    what = "vectors (background, two opposite ones) that get the text of the bare marker"
    background, verbalizer, bare = probes.background, patient.verbalizer, probes.bare_text
    if background is None or verbalizer is None or bare is None:
        return skipped("background-text", patient.voice, what, "no background of its width is at hand")
    said = verbalizer.verbalize(np.vstack([background[None], probes.opposite]), max_new_tokens=SAID)
    nothing = parse(bare, opened=bool(getattr(probes.prompt, "opened", False))).text
    same = sum(one.text.split() == nothing.split() for one in said)
    found = opposed(probes)
    weak = found is None or found[0] <= WEAK
    return judged(
        "background-text",
        patient.voice,
        what,
        measured=float(same),
        against="not 3 of 3",
        origin=f"said of the background: '{' '.join(said[0].text.split())[:40]}', "
        f"of the bare marker: '{' '.join(nothing.split())[:40]}'",
        fault="nothing is read but the marker: check slot, scale and contract" if same == len(said) and weak else "",
    )
