"""What ``dragoman calibrate`` does: from a dictionary, a verbalizer and texts to a calibration.

In: names or open things, sizes, a seed. Out: a ``Calibration``. Refuses what reading, crossing and explaining refuse;
verbalizers of the dictionary's own stream; too few texts or latents; the reading "fires" of vectors without an encoder;
and held-out documents whose verdicts do not agree with the known answers. Goes on where it was interrupted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dragoman.calibration.answers import calibrated
from dragoman.calibration.constructed import COSINES, firing_rates, like_activations, mean_differences, mixtures
from dragoman.calibration.deal import dealt
from dragoman.calibration.inputs import Inputs, concept, read_inputs, read_made
from dragoman.calibration.outcome import Verdicts, verdicts
from dragoman.calibration.sizes import LEAST, Sizes
from dragoman.calibration.texts import CalibrationText, TextPlan
from dragoman.confidence.calibration import MADE, Calibration, RunIdentity
from dragoman.core import Interrupted, Refusal, Talk
from dragoman.dictionaries import Dictionary
from dragoman.dictionaries.layout import VECTORS
from dragoman.embed import LexicalEmbedder
from dragoman.maps import Crossing
from dragoman.models.asked import check_engine
from dragoman.models.decode import site_of_verbalizer
from dragoman.models.load import check_device
from dragoman.models.sizes import check_read
from dragoman.runs.carried import conditions_of
from dragoman.runs.given import dictionary_of, path_of, talk_of, verbalizer_of, washout_of, word_of
from dragoman.runs.identity import run_identity
from dragoman.runs.options import AskedReading, Options, check_seed
from dragoman.runs.plan import MAX_NEW_TOKENS
from dragoman.runs.readings import Readings, refuse_unusable_encoder
from dragoman.runs.speakers import speakers
from dragoman.runs.texts import Texts
from dragoman.scoring.judged_run import CachedEmbedder
from dragoman.store import Cache, digest, plain, refuse_alike, stable_json
from dragoman.store.outputs import check_file
from dragoman.verbalizers.protocol import AnyVerbalizer, HowFed, HowOpened

KEPT = 4096  # texts whose places by rare words are held
_MAKING = "calibration-3"  # goes up when what is made from the same texts changes


def calibrate(
    dictionary: Dictionary | str | Path,
    *,
    by: AnyVerbalizer | str | Path,
    out: str | Path | None = None,
    texts: Texts | Sequence[str] | str | Path | None = None,
    latents: int = 400,
    documents: int = 6000,
    known: int = 40,
    nulls: int = 60,
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
    """Learn how likely held-out documents bear out each sentence about a latent, on these two models.

    Reads both models over two thirds of the texts, and the source over the rest, which no evidence is made of. Latents
    are drawn at random; where they fire in the source's documents says which sentences are right, and has to agree with
    known answers. Interrupted or killed, the same call goes on.

    Of vectors without an encoder (probes, steering vectors) nothing tells where they fire. For them directions are made
    in the source's model: mean differences of words, at cosine 1, 0.7 and 0.5 the rest a random direction; where the
    word stands in the held-out texts says which sentences are right. Such a calibration is for any vectors without an
    encoder at that site, and says that it is of made directions, not of latents.

    Args:
        dictionary: an open one, or its reference; or vectors without an encoder.
        by: the verbalizer, or its reference.
        out: file to write the calibration to, if any.
        texts: that both models read: a file, texts, or None for those that come with the embedded pair.
        latents: drawn at random; of vectors without an encoder, directions made.
        documents: of the texts, read at most.
        known: known answers of each kind; of made directions all are known.
        nulls: texts of each null.
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
    from dragoman.models.embedder import SentenceEmbedder, packaged_folder

    talk, sizes = talk_of(talk), Sizes(latents=latents, documents=documents, known=known, nulls=nulls)
    check_seed(seed)
    check_device(device)
    check_engine(word_of(engine, "engine"))
    path = None if out is None else path_of(out, "out")
    if path is not None:
        check_file(path)
    options = Options(
        reading=reading, washout=washout_of(washout), max_new_tokens=max_new_tokens, batch_size=batch_size, seed=seed
    )
    packaged_folder()  # what is not installed is told before anything is read
    read = Texts.of(texts)
    from_file = read.path is not None and Path(read.path).exists()  # else they are of a data set, or given
    if path is not None and from_file and path.exists() and path.samefile(str(read.path)):
        raise Refusal(f"writing {path}", "it is the file of texts, which would be lost", "name another file")
    fed = HowFed(contract=contract, settings=settings, base=base)
    how = HowOpened(dtype=dtype, device=device, engine=engine, compiled=False)
    done = work_of(dictionary, by, read, sizes, options, fed, how, talk)
    embedder = CachedEmbedder(SentenceEmbedder(device=device))
    day = when or datetime.now(UTC).date().isoformat()
    watched, by_documents = done.inputs.watched, done.verdicts
    calibration = calibrated(watched, by_documents, done.identity, sizes, seed, day, done.texts, embedder, talk)
    if path is not None:
        calibration.save(path)
    return calibration


@dataclass(frozen=True, kw_only=True, eq=False)
class Work:
    """What was read, said and checked, of what; ``texts``: digest of the documents."""

    inputs: Inputs
    verdicts: Verdicts
    identity: RunIdentity
    texts: str


def work_of(
    dictionary: Dictionary | str | Path,
    by: AnyVerbalizer | str | Path,
    texts: Texts,
    sizes: Sizes,
    options: Options,
    fed: HowFed,
    how: HowOpened,
    talk: Talk,
) -> Work:
    """Read, say and check; what was read and said before is kept.

    Args:
        dictionary: an open one, or its reference.
        by: the verbalizer, or its reference.
        texts: dealt into evidence and outcome.
        sizes: how much.
        options: as of ``explain``.
        fed: how a verbalizer that is a reference is fed.
        how: it is opened then; the source is read in the same dtype, on the same device.
        talk: where progress goes.

    Raises:
        Refusal: as ``calibrate``.
        Interrupted: on Ctrl-C.
    """
    by, seed = verbalizer_of(by, "by"), options.seed
    opened = dictionary_of(dictionary)
    check_read(opened.site, opened.d_model)
    target = site_of_verbalizer(by, **fed) if isinstance(by, str) else by.site
    _refuse_early(opened, target, options)
    check_read(target, what="what the verbalizer reads")
    if texts.own is not None:  # counted before they are dealt: the sentence tells how many a person gave
        refuse_alike(texts.own, LEAST["documents"], "a third of them is held out", str(texts.path or ""))
    evidence, outcome = dealt(texts.all, sizes.documents, seed)
    Texts(own=tuple(evidence), path=texts.path).refuse_few(opened.site, target, map="aligned")
    by, _ = speakers(by, None, fed, talk, how)
    readings = Readings(
        source=opened.site, target=by.site, texts=Texts(own=tuple(evidence)), talk=talk, dtype=how["dtype"],
        device=how["device"],
    )  # fmt: skip
    documents = digest(*evidence, "", *outcome)
    key = readings.key(
        _MAKING,
        [documents],
        opened.fingerprint(),
        stable_json(asdict(options)),
        stable_json(by.identity),
        stable_json(asdict(sizes)),
    )
    made = opened.layout == VECTORS
    talk.say(cost(sizes, evidence, outcome, made=made))
    work = Cache(say=talk.say).path("calibration", key)
    try:
        inputs = (read_made if made else read_inputs)(opened, readings, evidence, outcome, sizes, work, seed)
        texts_of_all = said_texts(inputs, opened, readings, by, options, sizes, work)
        rare = CachedEmbedder(LexicalEmbedder(evidence), KEPT)
        found = verdicts(texts_of_all, inputs.watched, rare, dealt=sizes.dealt, seed=seed, talk=talk)
    except KeyboardInterrupt as stop:
        raise Interrupted("interrupted: what was read and said is kept; the same command goes on.") from stop
    if made:
        identity = run_identity(opened, by.site, options, plain(by.identity), ("map",))
    else:
        identity = _identity(opened, inputs.watched.latents[:1], by, options, inputs.crossing)
    return Work(inputs=inputs, verdicts=found, identity=identity, texts=documents)


def said_texts(
    inputs: Inputs,
    dictionary: Dictionary,
    readings: Readings,
    by: AnyVerbalizer,
    options: Options,
    sizes: Sizes,
    work: Path,
) -> list[CalibrationText]:
    """Have everything said that was not said before."""
    seed, watched, pairs, concepts = options.seed, inputs.watched, inputs.pairs, None
    every, about, rows = (*watched.latents, *watched.extra), dict[str, str](), dictionary.rows()
    common = inputs.crossing, readings, options
    words = [str(one.word) for one in watched.truth.values()] if watched.on == MADE else list(watched.words)
    if words:
        means = mean_differences(pairs, words, readings.source)
        unrelated = like_activations(pairs.x, readings.source, words, seed=seed + 1) if watched.on == MADE else rows
        concepts, of = mixtures(means, unrelated, seed=seed)
        about = {name: concept(word) for name, word in of.items()}
    if watched.on == MADE and concepts is not None:
        plan = TextPlan.of_made(*common, concepts, about, pairs, nulls=sizes.nulls, seed=seed)
    else:
        plan = TextPlan.of(
            *common, rows.pick(every), pairs, concepts, about=about,
            rates=dict(zip(every, firing_rates(watched.fired).tolist(), strict=True)), nulls=sizes.nulls, seed=seed,
        )  # fmt: skip
    return plan.write(work / "run", by, readings.talk)[1]


def cost(sizes: Sizes, evidence: Sequence[str], outcome: Sequence[str], *, made: bool = False) -> str:
    """What is read and said, in one sentence, told before any of it is done; ``made``: of made directions."""
    if made:
        said = len(COSINES) * sizes.words + 2 * min(sizes.nulls, sizes.words)
        return (
            f"this reads {len(evidence)} documents with both models, looks words up in {len(outcome)} that no model "
            f"reads, and says about {said} texts"
        )
    said = 2 * (sizes.latents + sizes.known) + len(COSINES) * sizes.known + 4 * sizes.nulls
    return (
        f"this reads {len(evidence)} documents with both models and {len(outcome)} with the source, and says about "
        f"{said} texts"
    )


def _refuse_early(dictionary: Dictionary, target: Any, options: Options) -> None:
    if dictionary.site == target:
        why = "the verbalizer reads the dictionary's own stream, and what crosses nothing is not calibrated yet"
        raise Refusal(f"calibrating {dictionary.name}", why, "explain without --confidence")
    if dictionary.layout == VECTORS and options.reading in ("fires", "both"):
        why = "it holds vectors without an encoder, which fire nowhere"
        raise Refusal(f"calibrating the reading '{options.reading}' of {dictionary.name}", why, "leave --reading out")
    refuse_unusable_encoder(dictionary, required=dictionary.layout != VECTORS)


def _identity(
    dictionary: Dictionary, some: Sequence[str], by: AnyVerbalizer, options: Options, crossing: Crossing
) -> RunIdentity:
    """What a calibration of this is of; ``some``: latents that go by every route asked for."""
    chosen = dictionary.features(some)
    carried, _ = conditions_of(chosen.directions, crossing, options, lambda _text: None)
    return run_identity(dictionary, by.site, options, plain(by.identity), sorted({one.route for one in carried}))
