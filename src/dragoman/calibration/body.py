"""The body of ``dragoman calibrate``: from a dictionary, a verbalizer and texts to a calibration.

In: names or open things, sizes, a seed. Out: a ``Calibration``. Refuses what reading, crossing and explaining refuse;
verbalizers of the dictionary's own stream; too few texts or latents; and a source model whose verdicts do not agree
with the known answers. Goes on where it was interrupted.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dragoman.calibration.cast import MADE, NULLS, Cast, Said
from dragoman.calibration.deal import dealt
from dragoman.calibration.draw import Truth, drawn, truths
from dragoman.calibration.fitted import NullText, Sentences, components, fitted, reliability
from dragoman.calibration.held_out import OutcomeTally, OutcomeWindows, of_words
from dragoman.calibration.made import (
    PARTS,
    Pairs,
    concept_words,
    mean_differences,
    mixtures,
    read_pairs,
    read_rows,
)
from dragoman.calibration.outcome import Asked, Outcome, areas, by_embedder, dealt_sentences, judged, kappa
from dragoman.calibration.sizes import Sizes
from dragoman.confidence.calibration import Calibration, Made
from dragoman.core import Interrupted, Refusal, Talk
from dragoman.dictionaries import Dictionary, Encoder
from dragoman.dictionaries.layout import VECTORS
from dragoman.embed import Embedder, LexicalEmbedder
from dragoman.maps import Crossing
from dragoman.maps.direct import FLOOR, WHOLE
from dragoman.models.aligned import encoded
from dragoman.models.decode import site_of_verbalizer
from dragoman.models.harvest import Reader
from dragoman.models.language import Judge
from dragoman.models.load import check_device, fingerprint_of_model
from dragoman.models.weigh import last_word_rises
from dragoman.runs.carried import conditions_of
from dragoman.runs.crossings import by_tokens
from dragoman.runs.explain import speakers
from dragoman.runs.given import dictionary_of, path_of, talk_of, verbalizer_of, washout_of
from dragoman.runs.options import AskedReading, Options, check_seed
from dragoman.runs.plan import MAX_NEW_TOKENS
from dragoman.runs.readings import Readings, encoder_of, model_ref, refuse_unusable_encoder
from dragoman.runs.texts import Texts
from dragoman.scoring.judged_run import CachedEmbedder
from dragoman.scoring.sentences import Reference, Told, sentence_evidence
from dragoman.store import Cache, digest, document_name, plain, read_arrays, read_json, write_arrays, write_json
from dragoman.store.outputs import check_file
from dragoman.verbalizers.protocol import AnyVerbalizer

AGREEMENT = 0.4  # Cohen's kappa with the known answers below which nothing is calibrated
FEWEST_KNOWN = 30  # sentences by which that is told
REFERENCE = 64  # sentences of a kind that others are held against
_MAKING = "calibration-1"  # goes up when what is made from the same texts changes


@dataclass(frozen=True, kw_only=True, eq=False)
class Ground:
    """What was read: ``evidence`` and ``outcome`` documents, the crossing, latents, pairs, windows held out."""

    evidence: Sequence[str]
    outcome: Sequence[str]
    crossing: Crossing
    latents: tuple[str, ...]
    extra: tuple[str, ...]
    truth: Mapping[str, Truth]
    pairs: Pairs
    fired: Any
    windows: OutcomeWindows
    words: Mapping[str, str]


@dataclass(frozen=True, kw_only=True, eq=False)
class Judged:
    """Texts, and outcomes of their sentences."""

    said: Sequence[Said]
    outcomes: Mapping[Asked, Outcome]
    dealt: Mapping[Asked, Outcome]
    second: Mapping[Asked, float]


def calibrate(
    dictionary: Dictionary | str | Path,
    *,
    by: AnyVerbalizer | str | Path,
    out: str | Path | None = None,
    texts: Texts | Sequence[str] | str | Path | None = None,
    sizes: Sizes | None = None,
    reading: AskedReading | None = None,
    washout: str | float = "on-shell",
    max_new_tokens: int = MAX_NEW_TOKENS,
    batch_size: int | None = None,
    contract: str | None = None,
    settings: Mapping[str, Any] | None = None,
    base: str | None = None,
    seed: int = 0,
    when: str | None = None,
    dtype: str = "float32",
    device: str = "cpu",
    engine: str = "auto",
    talk: Talk | None = None,
) -> Calibration:
    """Learn how likely each sentence about a latent passes detection on unseen windows, on these two models.

    Reads both models over two thirds of the texts, and the source over the rest, which no evidence is made of. Latents
    are drawn at random; the source's own model says which sentences are right, and has to agree with known answers.
    Interrupted or killed, the same call goes on.

    Args:
        dictionary: an open one with an encoder, or its reference.
        by: the verbalizer, or its reference.
        out: file to write the calibration to, if any.
        texts: that both models read: a file, texts, or None for those that come with the embedded pair.
        sizes: how much is read, said and weighed.
        reading: which readings are calibrated; both when None.
        washout: as of ``explain``.
        max_new_tokens: of one text.
        batch_size: vectors handed over together; what suits the verbalizer's engine when None.
        contract: how ``by`` is fed, where it is a reference that does not say.
        settings: what that contract leaves open.
        base: the model that the adapter of ``by`` sits on.
        seed: of all randomness.
        when: the day that is written down; today when None.
        dtype: what is opened here computes in.
        device: what is opened here runs on.
        engine: what says the words, as of ``explain``.
        talk: where progress goes.

    Raises:
        Refusal: as the module says; nothing is written then.
        Interrupted: on Ctrl-C; what was finished is kept.
    """
    talk, by, sizes = talk_of(talk), verbalizer_of(by, "by"), sizes or Sizes()
    check_seed(seed)
    check_device(device)
    path = None if out is None else path_of(out, "out")
    if path is not None:
        check_file(path)
    options = Options(
        reading=reading, washout=washout_of(washout), max_new_tokens=max_new_tokens, batch_size=batch_size, seed=seed
    )
    opened, read = dictionary_of(dictionary), Texts.of(texts)
    fed = {"contract": contract, "settings": settings, "base": base}
    target = site_of_verbalizer(by, **fed) if isinstance(by, str) else by.site
    _refuse_early(opened, target)
    evidence, outcome = dealt(read.all, sizes.documents, seed)
    Texts(own=tuple(evidence), path=read.path).refuse_few(opened.site, target, map="aligned")
    how: dict[str, Any] = {"dtype": dtype, "device": device}
    by, _ = speakers(by, None, fed, talk, {**how, "engine": engine, "compiled": False})
    readings = Readings(source=opened.site, target=by.site, texts=Texts(own=tuple(evidence)), talk=talk, **how)
    key = readings.key(
        _MAKING, [*evidence, "", *outcome], opened.fingerprint(), _told(asdict(options)), _told(by.identity),
        _told(asdict(sizes)),
    )  # fmt: skip
    work = Cache(say=talk.say).path("calibration", key)
    try:
        ground = _read(opened, readings, evidence, outcome, sizes, work, seed)
        found = _weighed(ground, opened, readings, by, options, sizes, work)
    except KeyboardInterrupt as stop:
        raise Interrupted("interrupted: what was read, said and weighed is kept; the same command goes on.") from stop
    made = _made(opened, by, options, ground.crossing, talk)
    day = when or datetime.now(UTC).date().isoformat()
    calibration = _calibrated(ground, found, made, sizes, seed, day, digest(*evidence, "", *outcome), device, talk)
    if path is not None:
        calibration.save(path)
    return calibration


def _told(value: Any) -> str:
    return json.dumps(plain(value), sort_keys=True, default=str)


def _refuse_early(dictionary: Dictionary, target: Any) -> None:
    if dictionary.site == target:
        why = "the verbalizer reads the dictionary's own stream, and what crosses nothing is not calibrated yet"
        raise Refusal(f"calibrating {dictionary.name}", why, "explain without --confidence")
    if dictionary.layout == VECTORS:
        why = "it holds vectors without an encoder, and nothing tells where they fire"
        raise Refusal(f"calibrating {dictionary.name}", why, "name a dictionary with an encoder")
    refuse_unusable_encoder(dictionary, required=True)


def _read(
    dictionary: Dictionary,
    readings: Readings,
    evidence: Sequence[str],
    outcome: Sequence[str],
    sizes: Sizes,
    work: Path,
    seed: int,
) -> Ground:
    """Read the models, and settle what is said and on which windows it is judged."""
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
    share = {name: max(own.values(), default=0.0) for name, own in zip(crossing.words.ids, crossing.words.words, strict=True)}
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
    windows = _held_out(dictionary, encoder, readings, every, words, outcome, sizes, work, seed)
    return Ground(
        evidence=evidence, outcome=outcome, crossing=crossing, latents=latents, extra=extra, pairs=pairs, fired=fired,
        truth={name: truth[name] for name in every if name in truth}, windows=windows,
        words={word: _concept(word) for word in words if _concept(word) in windows},
    )  # fmt: skip


def _pairs(readings: Readings, texts: Sequence[str], work: Path) -> Pairs:
    """Some documents' tokens in both models, read once and kept."""
    kept, talk = work / "pairs.safetensors", readings.talk
    if not kept.exists():
        talk.say(f"reading {len(texts)} documents with both models again, for what is made")
        how = {"dtype": readings.dtype, "device": readings.device}
        source, target = (Reader.open(site, **how) for site in (readings.source, readings.target))
        made = read_pairs(source, target, texts, talk.towards("pairs"))
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_arrays(kept, {name: getattr(made, name) for name in PARTS}, {"holds": "pairs"})
    arrays, _ = read_arrays(kept)
    return Pairs(texts={document_name(text): text for text in texts}, **{name: arrays[name] for name in PARTS})


def _known(truth: Mapping[str, Truth], latents: Sequence[str], n: int) -> tuple[str, ...]:
    """Latents with a known answer that were not drawn, so that there are ``n`` of one word and ``n`` of a rule."""
    found: list[str] = []
    for kind in ("word", "form"):
        able = [name for name, one in truth.items() if getattr(one, kind) is not None]
        there = sum(name in set(latents) for name in able)
        found += [name for name in able if name not in set(latents)][: max(n - there, 0)]
    return tuple(found)


def _concept(word: str) -> str:
    return f"word:{word}"


def _held_out(
    dictionary: Dictionary,
    encoder: Encoder,
    readings: Readings,
    latents: Sequence[str],
    words: Sequence[str],
    outcome: Sequence[str],
    sizes: Sizes,
    work: Path,
    seed: int,
) -> OutcomeWindows:
    """Windows of the outcome's documents, read once and kept."""
    kept, talk = work / "windows.json", readings.talk
    if kept.exists():
        return read_json(kept)
    source = Reader.open(readings.source, dtype=readings.dtype, device=readings.device)
    talk.say(f"reading {len(outcome)} documents with {source.site.model}, which nothing else is made of")
    siblings = _siblings(dictionary, latents)
    ids = tuple(dict.fromkeys((*latents, *siblings.values())))
    columns, texts = np.array([int(i) for i in ids]), {document_name(text): text for text in outcome}
    tally = OutcomeTally(ids, siblings, seed=seed)

    def take(x: NDArray[Any], documents: NDArray[np.int64], ends: NDArray[np.int64]) -> None:
        if len(x):
            tally.add(encoded(encoder, x, columns), documents, ends, texts)

    read_rows(source, outcome, take, talk.towards("outcome"))
    found = tally.finish(texts, sizes)
    found |= {_concept(word): own for word, own in of_words(outcome, words, sizes, seed=seed).items()}
    kept.parent.mkdir(parents=True, exist_ok=True)
    write_json(kept, found)
    return found


def _siblings(dictionary: Dictionary, latents: Sequence[str]) -> dict[str, str]:
    """Of each latent the one with the nearest row."""
    rows = dictionary.rows()
    at = {name: k for k, name in enumerate(rows.ids)}
    found = {}
    for name in latents:
        cosines = rows.unit @ rows.unit[at[name]]
        cosines[at[name]] = -np.inf
        found[name] = rows.ids[int(np.argmax(cosines))]
    return found


def _weighed(
    ground: Ground,
    dictionary: Dictionary,
    readings: Readings,
    by: AnyVerbalizer,
    options: Options,
    sizes: Sizes,
    work: Path,
) -> Judged:
    """Have everything said, and weigh the sentences."""
    talk, seed = readings.talk, options.seed
    every, rows = (*ground.latents, *ground.extra), dictionary.rows()
    made = None
    if ground.words:
        concepts = mean_differences(ground.pairs, list(ground.words), readings.source)
        made, _ = mixtures(concepts, rows, seed=seed)
    many = np.diff(ground.fired.tocsc().indptr) / max(ground.fired.shape[0], 1)
    cast = Cast.of(
        ground.crossing, readings, options, rows.pick(every), ground.pairs, made,
        rates=dict(zip(every, many.tolist(), strict=True)), nulls=sizes.nulls, seed=seed,
    )  # fmt: skip
    _, said = cast.write(work / "run", by, talk)
    own = [ask for one in said if not one.null for ask in _asked(one, ground)]
    by_kind: dict[str, dict[str, list[str]]] = {}
    for one in said:
        if not one.null and one.condition != MADE:
            for claim in one.told.claims:
                by_kind.setdefault(claim.kind, {}).setdefault(one.feature, []).append(claim.text)
    others = dealt_sentences(by_kind, list(ground.windows), sizes.dealt, seed=seed)
    asked = list(dict.fromkeys([*own, *others]))
    windows = sum(len(some) for kinds in ground.windows.values() for some in kinds.values())
    talk.say(f"weighing {len(asked)} sentences on {windows} windows of {len(ground.windows)} latents and words")
    judge = Judge.open(model_ref(readings.source), dtype=readings.dtype, device=readings.device)
    plan = digest("rises-1", fingerprint_of_model(model_ref(readings.source)), readings.dtype)
    rises = areas(
        asked, ground.windows, lambda s, w: last_word_rises(judge, s, w), work / "rises.jsonl", plan,
        talk.towards("sentences"),
    )  # fmt: skip
    dealt_areas = {one: rises[one] for one in others if one in rises}
    outcomes = judged({one: rises[one] for one in own if one in rises}, dealt_areas)
    second = by_embedder([one for one in own if one in rises], ground.windows, CachedEmbedder(LexicalEmbedder(ground.evidence)))
    return Judged(said=said, outcomes=outcomes, dealt=judged(dealt_areas, dealt_areas), second=second)


def _asked(one: Said, ground: Ground) -> list[Asked]:
    """The sentences of a text on the windows that it is about; none where there are none."""
    feature = one.feature
    if one.condition == MADE:
        feature = _concept(one.feature.rsplit(" at ", 1)[0])
    if feature not in ground.windows:
        return []
    return [Asked(claim.text, claim.kind, feature) for claim in one.told.claims]


def _made(
    dictionary: Dictionary, by: AnyVerbalizer, options: Options, crossing: Crossing, talk: Talk
) -> Made:
    rows = dictionary.rows()
    some = rows.pick(rows.ids[:1]) if crossing.direct is None else rows
    routes = {one.route for one in conditions_of(some, crossing, options, lambda _text: None)[0]}
    del talk
    return Made(
        source=str(dictionary.site),
        target=str(by.site),
        dictionary=digest(dictionary.fingerprint()),
        verbalizer=by.identity,
        map=crossing.recipe,
        routes=tuple(sorted(routes)),
        washout=options.washout,
        samples=options.samples,
        temperature=options.drawn_at,
        max_new_tokens=options.max_new_tokens,
    )


def _calibrated(
    ground: Ground,
    found: Judged,
    made: Made,
    sizes: Sizes,
    seed: int,
    when: str,
    texts: str,
    device: str,
    talk: Talk,
) -> Calibration:
    """Gather evidence, refuse a judge that knows nothing, fit."""
    agreement, known = agreement_with_known(found, ground)
    if known < FEWEST_KNOWN or agreement < AGREEMENT:
        few = f"only {known} sentences have a known answer to hold it against ({FEWEST_KNOWN} at least)"
        low = f"its verdicts agree with {known} known answers by kappa {agreement:.2f} ({AGREEMENT:g} at least)"
        what = f"calibrating by what {made.source} makes of sentences"
        raise Refusal(what, few if known < FEWEST_KNOWN else low, "read more texts, or use a larger source model")
    talk.say(f"the source's model agrees with {known} known answers by kappa {agreement:.2f}; gathering evidence")
    embedder = _embedder(device)
    reference = Reference(sentences=_reference(found, seed), embedder=embedder)
    own, nulls = gathered(found, ground, reference)
    talk.say(f"fitting on {len(own.right)} sentences, {int(own.right.sum())} of which pass, and {len(nulls)} texts of nulls")
    result = fitted(own, nulls, seed=seed)
    drawn_latents = {one.feature for one in found.said if not one.null and one.feature in set(ground.latents)}
    judged_ones = {ask.feature for ask in found.outcomes if ask.feature in drawn_latents}
    worth = reliability(
        result, own, features=len(judged_ones), kappa=agreement, known=known, second=_second(found),
        left_out=len(ground.latents) - len(judged_ones), seed=seed,
    )  # fmt: skip
    return Calibration(
        version=version("dragoman"),
        made=made,
        on="latents",
        when=when,
        seed=seed,
        texts=texts,
        sizes=asdict(sizes),
        embedder=embedder.name,
        sentences={kind: tuple(some) for kind, some in reference.sentences.items()},
        right=result.right,
        with_nulls=result.with_nulls,
        slope=result.slope,
        offset=result.offset,
        spans=result.spans,
        line=result.line.threshold,
        reliability=worth,
    )


def _embedder(device: str) -> Embedder:
    from dragoman.models.embedder import SentenceEmbedder, packaged_folder

    packaged_folder()
    return CachedEmbedder(SentenceEmbedder(device=device))


def agreement_with_known(found: Judged, ground: Ground) -> tuple[float, int]:
    """Kappa of the model's verdicts with the known answers, and over how many sentences.

    Own sentences and dealt ones alike, of those that name words; a theme may be right without naming the word, so
    themes count only where a verbalizer says nothing else.
    """
    truth = dict(ground.truth) | {_concept(word): Truth(word=word) for word in ground.words}
    every = [(ask, one) for some in (found.outcomes, found.dealt) for ask, one in some.items() if ask.feature in truth]
    named = [pair for pair in every if pair[0].kind != "theme"] or every
    from dragoman.measures.firing import quoted

    says = [one.right for _, one in named]
    true = [truth[ask.feature].named_by(ask.sentence, quoted(ask.sentence)) for ask, _ in named]
    return kappa(says, true), len(named)


def _second(found: Judged) -> float | None:
    """Kappa of the model's verdicts with those of words alone, at the same area."""
    asked = [one for one in found.outcomes if one in found.second]
    if not asked:
        return None
    return kappa([found.outcomes[one].right for one in asked], [found.second[one] >= 0.75 for one in asked])


def _reference(found: Judged, seed: int) -> dict[str, list[str]]:
    """Sentences of the latents' texts by kind, drawn by the seed."""
    kinds: dict[str, set[str]] = {}
    for one in found.said:
        if not one.null and one.condition != MADE:
            for claim in one.told.claims:
                kinds.setdefault(claim.kind, set()).add(claim.text)
    return {
        kind: sorted(some, key=lambda text: digest("reference", str(seed), text))[:REFERENCE]
        for kind, some in sorted(kinds.items())
    }


def gathered(found: Judged, ground: Ground, reference: Reference) -> tuple[Sentences, list[NullText]]:
    """Evidence on the drawn latents' sentences that have an outcome, and on every null's."""
    group = dict(zip((*ground.latents, *ground.extra), components(ground.fired).tolist(), strict=True))
    most = max(group.values(), default=0) + 1
    evidence, right, groups = [], [], []
    nulls: list[NullText] = []
    chosen, fakes = set(ground.latents), dict[str, int]()
    for one in found.said:
        if one.null:
            name = one.feature
            mine = group[name] if name in group else fakes.setdefault(name, most + len(fakes))
            nulls.append(NullText(null=one.null, group=mine, evidence=sentence_evidence(one.told, reference)))
        elif one.feature in chosen and one.condition != MADE:
            asks = [Asked(claim.text, claim.kind, one.feature) for claim in one.told.claims]
            if not any(ask in found.outcomes for ask in asks):
                continue
            for ask, own in zip(asks, sentence_evidence(one.told, reference), strict=True):
                evidence.append(own)
                right.append(found.outcomes[ask].right)
                groups.append(group[one.feature])
    return Sentences(evidence=evidence, right=np.array(right, bool), group=np.array(groups, np.int64)), nulls


