"""What a calibration reads: both models over the evidence's documents, the source over the outcome's.

In: a dictionary, readings, documents dealt in two. Out: ``Inputs``: a crossing, latents drawn at random and some whose
answer is known, tokens of both models, windows and words held out. Refuses what reading refuses, and too few latents
that fire often enough. What was read is kept beside what is said later.

Of vectors without an encoder nothing tells where they fire. For them there are words in the place of latents: each is a
concept whose direction is made of the evidence's tokens, and held-out documents tell where it stands.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dragoman.calibration.constructed import (
    PARTS,
    Pairs,
    concept_words,
    fake_latents,
    firing_rates,
    mean_differences,
    read_pairs,
    read_rows,
    standing,
    under_nulls,
)
from dragoman.calibration.draw import FEWEST, Truth, drawn, truths
from dragoman.calibration.held_out import HeldOut, HeldOutTally, of_words
from dragoman.calibration.sizes import Sizes
from dragoman.confidence.calibration import MADE, On
from dragoman.core import Refusal
from dragoman.dictionaries import Dictionary
from dragoman.maps import Crossing
from dragoman.maps.direct import FLOOR, WHOLE
from dragoman.measures.firing import variants
from dragoman.models.encoding import encoded
from dragoman.models.harvest import Reader
from dragoman.runs.crossings import by_tokens
from dragoman.runs.readings import Readings, encoder_of
from dragoman.store import Cache, digest, document_name, read_arrays, read_json, write_arrays, write_json

_READ = "reading"  # what is kept of the two models, each whole or made again


@dataclass(frozen=True, kw_only=True, eq=False)
class WatchedLatents:
    """Of ``latents`` drawn at random and ``extra`` ones: ``truth`` of those that have one, and when they fire.

    ``on``: what they are; "made directions" are concepts, each the key of a word.

    ``fired``: (n, latents and extra) activations at some tokens. ``held_out``: what documents that no evidence was made
    of tell of each latent, fake latent and concept. ``words``: of concepts.
    """

    latents: tuple[str, ...]
    extra: tuple[str, ...]
    truth: Mapping[str, Truth]
    fired: Any
    held_out: HeldOut
    words: tuple[str, ...]
    on: On = "latents"


@dataclass(frozen=True, kw_only=True, eq=False)
class Inputs:
    """What was read of the ``evidence`` and the ``outcome`` documents."""

    evidence: Sequence[str]
    outcome: Sequence[str]
    crossing: Crossing
    pairs: Pairs
    watched: WatchedLatents


def read_inputs(
    dictionary: Dictionary,
    readings: Readings,
    evidence: Sequence[str],
    outcome: Sequence[str],
    sizes: Sizes,
    work: Path,
    seed: int,
) -> Inputs:
    """Read the models, and settle of what texts are asked for and by what they are judged."""
    talk, rows = readings.talk, dictionary.rows()
    asked: Sequence[str] = ()
    if len(rows) > WHOLE:  # of a large dictionary candidates alone are counted
        order = np.random.default_rng([seed, 2]).permutation(len(rows))[: 4 * sizes.latents]
        asked = [rows.ids[k] for k in sorted(order.tolist())]
    crossing = by_tokens(dictionary, readings, asked, seed=seed)
    if crossing.direct is None or crossing.words is None or crossing.fired is None:
        raise Refusal(f"calibrating {dictionary.name}", "no feature was watched in these texts", "read more texts")
    n_eff = dict(zip(crossing.direct.ids, crossing.direct.n_eff.tolist(), strict=True))
    often = {name: n for name, n in n_eff.items() if n >= FLOOR and (not asked or name in set(asked))}
    share = {
        name: max(own.values(), default=0.0) for name, own in zip(crossing.words.ids, crossing.words.words, strict=True)
    }
    latents = drawn(often, share, sizes.latents, seed=seed)
    truth = truths(crossing.words, sorted(often, key=lambda i: digest("known", str(seed), i)))
    extra = _known(truth, latents, sizes.known)
    told = f"{len(latents)} latents drawn at random, and {len(extra)} more whose answer is known"
    talk.say(f"{told}; {len(evidence)} documents for evidence, {len(outcome)} for the outcome")
    encoder, every = encoder_of(dictionary), (*latents, *extra)
    some = sorted(evidence, key=lambda text: digest("pairs", str(seed), text))[: sizes.paired]
    pairs = _pairs(readings, some, work)
    fired = encoded(encoder, pairs.x, np.array([int(i) for i in every]))
    words = concept_words(some, outcome, sizes.known, seed=seed)
    rates = dict(zip(every, firing_rates(fired).tolist(), strict=True))
    often_of_fakes = np.array([rates[name] for name in under_nulls(every, sizes.nulls, seed=seed)])
    fakes, fake = fake_latents(pairs, often_of_fakes, readings.source, seed=seed)
    columns = np.array([int(i) for i in every])
    encoders = [(every, encoder, columns), (fakes.ids, fake, None)]
    held_out = _held_out(encoders, readings, words, outcome, sizes, work, seed)
    watched = WatchedLatents(
        latents=latents,
        extra=extra,
        truth={name: truth[name] for name in every if name in truth},
        fired=fired,
        held_out=held_out,
        words=words,
    )
    return Inputs(evidence=evidence, outcome=outcome, crossing=crossing, pairs=pairs, watched=watched)


def read_made(
    dictionary: Dictionary,
    readings: Readings,
    evidence: Sequence[str],
    outcome: Sequence[str],
    sizes: Sizes,
    work: Path,
    seed: int,
) -> Inputs:
    """The same for vectors without an encoder, whichever they are: words whose directions will be made.

    Cards do not compare with the user's vectors, which may be two.

    Raises:
        Refusal: fewer than 20 words stand in documents enough.
    """
    crossing = replace(by_tokens(dictionary, readings, (), seed=seed), baselines=None)
    some = sorted(evidence, key=lambda text: digest("pairs", str(seed), text))[: sizes.paired]
    able = _different(concept_words(some, outcome, sizes.words, seed=seed))
    pairs = _pairs(readings, some, work) if len(able) >= FEWEST else None
    words = mean_differences(pairs, able, readings.source).ids if pairs is not None else able
    if pairs is None or len(words) < FEWEST:
        why = f"{len(words)} words stand in documents enough to make directions of, and {FEWEST} are the fewest"
        raise Refusal("calibrating on made directions", why, "read more texts")
    told = f"{dictionary.name} has no encoder, so it is calibrated on {MADE}, not on latents: {len(words)} words"
    readings.talk.say(f"{told}; {len(evidence)} documents for evidence, {len(outcome)} for the outcome")
    keys = tuple(map(concept, words))
    watched = WatchedLatents(
        latents=keys,
        extra=(),
        truth={key: Truth(word=word) for key, word in zip(keys, words, strict=True)},
        fired=standing(some, words),
        held_out={concept(word): own for word, own in of_words(outcome, words, sizes, seed=seed).items()},
        words=(),
        on=MADE,
    )
    return Inputs(evidence=evidence, outcome=outcome, crossing=crossing, pairs=pairs, watched=watched)


def _different(words: Sequence[str]) -> tuple[str, ...]:
    """Of words that differ in their endings alone the first, so that no other direction is another's twin."""
    kept: list[str] = []
    used: set[str] = set()
    for word in words:
        own = variants(word)
        if own.isdisjoint(used):
            kept.append(word)
            used |= own
    return tuple(kept)


def _pairs(readings: Readings, texts: Sequence[str], work: Path) -> Pairs:
    """Some documents' tokens in both models, read once and kept."""
    talk = readings.talk

    def make(path: Path) -> None:
        talk.say(f"reading {len(texts)} documents with both models again, for what is constructed")
        source, target = (
            Reader.open(site, dtype=readings.dtype, device=readings.device)
            for site in (readings.source, readings.target)
        )
        made = read_pairs(source, target, texts, talk.towards("pairs"))
        write_arrays(path, {name: getattr(made, name) for name in PARTS}, {"holds": "pairs"})

    arrays, _ = read_arrays(Cache(work, say=talk.say).get_or_make(_READ, "pairs", make)[0])
    return Pairs(texts={document_name(text): text for text in texts}, **{name: arrays[name] for name in PARTS})


def _known(truth: Mapping[str, Truth], latents: Sequence[str], n: int) -> tuple[str, ...]:
    """Latents with a known answer that were not drawn, so that there are ``n`` of one word and ``n`` of a rule."""
    found: list[str] = []
    for kind in ("word", "form"):
        able = [name for name, one in truth.items() if getattr(one, kind) is not None]
        there = sum(name in set(latents) for name in able)
        found += [name for name in able if name not in set(latents)][: max(n - there, 0)]
    return tuple(found)


def concept(word: str) -> str:
    """The key of a concept, which no latent's id is."""
    return f"word:{word}"


def _held_out(
    encoders: Sequence[tuple[Sequence[str], Any, NDArray[np.int64] | None]],
    readings: Readings,
    words: Sequence[str],
    outcome: Sequence[str],
    sizes: Sizes,
    work: Path,
    seed: int,
) -> HeldOut:
    """What the outcome's documents tell, read once and kept; ``encoders``: latents, what encodes, which columns."""
    talk = readings.talk

    def make(path: Path) -> None:
        source = Reader.open(readings.source, dtype=readings.dtype, device=readings.device)
        talk.say(f"reading {len(outcome)} documents with {source.site.model}, which nothing else is made of")
        texts = {document_name(text): text for text in outcome}
        tallies = [HeldOutTally(ids, seed=seed) for ids, _, _ in encoders]

        def take(x: NDArray[Any], documents: NDArray[np.int64], ends: NDArray[np.int64]) -> None:
            if len(x):
                for tally, (_, encoder, columns) in zip(tallies, encoders, strict=True):
                    tally.add(encoded(encoder, x, columns), documents, ends, texts)

        read_rows(source, outcome, take, talk.towards("outcome"))
        found: HeldOut = {}
        for tally in tallies:
            found |= tally.finish(texts, sizes)
        found |= {concept(word): own for word, own in of_words(outcome, words, sizes, seed=seed).items()}
        write_json(path, found)

    return read_json(Cache(work, say=talk.say).get_or_make(_READ, "held-out", make)[0])
