"""The main job: features of one model in another model's words, from a dictionary to a run folder.

In: a dictionary's features, a verbalizer, perhaps a crossing; route, washout, samples. Out: a ``Run``: rows, where the
features fire, confidences where some are calibrated. Refuses whatever reading, crossing, washing and verbalizing
refuses, and verbalizers in which the doctor finds a fault. Everything dear is kept in the cache under the digest of
what decides it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from dragoman.confidence.model import ConfidenceSet
from dragoman.core import Background, Refusal, Site, Talk, public_address
from dragoman.dictionaries import Asked, Dictionary, Features
from dragoman.dictionaries.beside import CONFIDENCE, beside
from dragoman.doctor import quick
from dragoman.maps import Crossing
from dragoman.maps.crossing import Route, neighbouring
from dragoman.models.asked import check_engine, check_on
from dragoman.models.decode import Verbalizer, site_of_verbalizer
from dragoman.models.load import check_device
from dragoman.models.prompts import Activations
from dragoman.models.ray_pool import Cluster, Pool, cluster
from dragoman.models.sizes import check_place
from dragoman.records import UNUSABLE_MAP
from dragoman.runs import prompted
from dragoman.runs.build import RunBuilder, together
from dragoman.runs.carried import conditions_of, unusable
from dragoman.runs.crossings import firings_of, lens_words, prepare, refuse_uncounted, tell_dead, tokens_of, windows_of
from dragoman.runs.given import (
    dictionary_of,
    opened_crossing,
    path_of,
    refuse_crossed_as_is,
    talk_of,
    verbalizer_of,
    washout_of,
)
from dragoman.runs.grow import keep_tokens, keep_windows, keep_words, left_of, refuse_another
from dragoman.runs.identity import entry_of, refuse_uncalibrated
from dragoman.runs.options import AskedReading, MapKind, Options
from dragoman.runs.order import one_at_a_time
from dragoman.runs.plan import MAX_NEW_TOKENS
from dragoman.runs.progress import logged
from dragoman.runs.readings import Readings, refuse_unusable_encoder
from dragoman.runs.run import Run
from dragoman.runs.texts import Texts
from dragoman.runs.turns import InTurn
from dragoman.scoring import add_claims, add_confidence, check_confidence
from dragoman.store import RunFolder, plain
from dragoman.store.outputs import check_run
from dragoman.verbalizers.protocol import AnyVerbalizer


def explain(
    what: Features | Dictionary | Activations | str | Path,
    *,
    by: AnyVerbalizer | str | Path,
    out: str | Path,
    features: Sequence[str | int] | str | Asked | None = None,
    through: Crossing | str | Path | None = None,
    native: AnyVerbalizer | str | Path | None = None,
    contract: str | None = None,
    settings: Mapping[str, Any] | None = None,
    base: str | None = None,
    reading: AskedReading | None = None,
    route: Route | None = None,
    map: MapKind | None = None,
    washout: str | float = "on-shell",
    texts: Texts | Sequence[str] | str | Path | None = None,
    samples: int = 1,
    temperature: float | None = None,
    max_new_tokens: int = MAX_NEW_TOKENS,
    batch_size: int | None = None,
    seed: int = 0,
    confidence: str | Path | None = None,
    dtype: str = "float32",
    device: str = "cpu",
    engine: str = "auto",
    compiled: bool = False,
    on: str | None = None,
    workers: int | None = None,
    talk: Talk | None = None,
) -> Run:
    """Explain features of the source model by a verbalizer of another (or the same) model, into a run folder.

    Interrupted or killed, the same call goes on where it stopped. Asked again with other features into the same folder,
    it says those that the run there lacks.

    Args:
        what: features of an open dictionary, a dictionary, or its reference; or activations at tokens of prompts, see
            ``dragoman.activations``: they cross by the map alone, and no washout, confidence or reading is theirs.
        by: the verbalizer, or its reference.
        out: the run's folder, a new one or the same run's.
        features: ids, where ``what`` does not say which, or words such as "982,0-99" or "top:100" (see
            ``dragoman.dictionaries.asked``); all when None.
        through: a crossing that was fitted before, or its folder; fitted (and cached) when None.
        native: a verbalizer of the source model to compare with, or its reference.
        contract: how ``by`` is fed, where it is a reference whose files and the registry do not say.
        settings: what that contract leaves open.
        base: the model that the adapter of ``by`` sits on, if it names none.
        reading: "fires": what a feature fires on, by the direct route; "writes": what its row writes, by the map;
            "both", the default where the dictionary has an encoder: a condition each, under these names.
        route: one condition by this route in their place, see ``Crossing.carry``.
        map: what kind of crossing is fitted, see ``fit_crossing``.
        washout: how much of the target's background is mixed in, see ``dragoman.washout.wash``.
        texts: that both models read: a file, a folder, a data set of the hub, texts, or None for those that come with
            the embedded pair; see ``runs.texts.Texts.read``.
        samples: explanations per feature, of several the first greedy.
        temperature: what the others are drawn at; see ``Options``.
        max_new_tokens: of one explanation.
        batch_size: vectors handed over together; what suits the verbalizers' engine when None.
        seed: of all randomness.
        confidence: a file of confidences, or a calibration; the confidences that lie beside the dictionary, if of this
            pair, when None.
        dtype: what is opened here computes in.
        device: what is opened here runs on.
        engine: what says the words of verbalizers opened here: auto, loop, captured or vllm, see ``models.engines``.
        compiled: whether the captured engine's step goes through ``torch.compile``.
        on: where verbalizers speak, if not in this process: "ray", workers on this machine's GPUs, or
            "ray://HOST:PORT", those of a Ray cluster; see ``models.ray_pool``. Models are read here all the same.
        workers: how many, one a GPU when None (one a node where ``device`` is none).
        talk: where progress goes.

    Raises:
        Refusal: something is not as it must be; nothing is written by halves. Or a row ended every worker that was to
            say it: all others are written.
        Interrupted: on Ctrl-C; what was finished is on disk.
    """
    with logged(talk_of(talk)) as talk, ExitStack() as held:
        by, out = verbalizer_of(by, "by"), path_of(out, "out")
        native = None if native is None else verbalizer_of(native, "native")
        fitted = opened_crossing(through, texts, map)
        options = Options(
            reading=reading,
            route=route,
            map=map if map is not None else fitted.recipe if fitted is not None else "aligned",
            washout=washout_of(washout),
            samples=samples,
            temperature=temperature,
            max_new_tokens=max_new_tokens,
            batch_size=batch_size,
            seed=seed,
        )
        if isinstance(what, Activations):
            prompted.refuse_of_features(options, features=features, confidence=confidence)
        check_run(out)
        check_device(device)
        check_engine(engine)
        check_on(on, workers, device)
        _refuse_open(on, by, native)
        read = Texts.of(texts)
        read.tell(talk)
        if confidence is not None:
            _refuse_unread(confidence)
        chosen, later = (what, None) if isinstance(what, Activations) else _chosen(what, features, options, fitted)
        directions = chosen.directions
        fed = {"contract": contract, "settings": settings, "base": base}
        if not isinstance(by, str) and any(fed.values()):
            raise Refusal(f"verbalizer {by.name}", "it is open, and fed as it was opened", "pass its reference")
        target = site_of_verbalizer(by, **fed, engine=engine) if isinstance(by, str) else by.site
        if isinstance(native, str) and engine == "vllm":
            site_of_verbalizer(native, engine=engine)
        if isinstance(chosen, Activations):
            prompted.refuse_early(directions.site, target, options, fitted, read)
        else:
            _refuse_early(chosen, later, target, options, fitted, read, out, native=native is not None)
            if later is None:
                chosen = left_of(out, chosen)
            tell_labels(chosen.dictionary, talk)
        how: dict[str, Any] = {"dtype": dtype, "device": device}
        width, d_sae = directions.d_model, 0 if isinstance(chosen, Activations) else chosen.dictionary.d_sae
        about: dict[str, Any] = {"width": width, "d_sae": d_sae, "features": len(directions.ids), **how}
        pool = held.enter_context(cluster(on, workers, device, talk))
        about |= {"read": fitted is None, "workers": pool is not None}
        one = one_at_a_time((by, fed), native, directions.site, target, options, talk, **about)
        speak: dict[str, Any] = {**how, "engine": engine, "compiled": compiled}
        by, native = speakers(by, native, fed, talk, speak, one_at_a_time=one, pool=pool)
        refuse_uncalibrated(confidence, chosen, by, options)
        readings = Readings(
            source=directions.site, target=by.site, texts=read, dtype=dtype, device=device, talk=talk, once=True
        )
        how |= read.settings
        if isinstance(chosen, Activations):
            return Run(prompted.written(chosen, readings, by, native, options, fitted, out, how))
        crossing = fitted if fitted is not None else _prepared(chosen, readings, options, native=native is not None)
        if later is not None:
            chosen = left_of(out, chosen.dictionary.features(later, seed=seed, firings=firings_of(crossing)))
        if fitted is not None or chosen.directions is not chosen.dictionary.rows():
            tell_dead(chosen.directions, talk)
        how |= {"labels": chosen.dictionary.labels_ref, **chosen.dictionary.read_as}
        folder = written_run(chosen, crossing, readings, by, native, options, out, how)
        add_claims(folder, talk.say, device=device)
        add_confidence(folder, confidence, talk.say, device=device)
        return Run(folder)


def _refuse_unread(confidence: str | Path) -> None:
    """Refuse a file of confidences that is none, and one without the embedder that it reads with."""
    from dragoman.models.embedder import packaged_folder

    check_confidence(confidence)
    packaged_folder()


def speakers(
    by: AnyVerbalizer | str,
    native: AnyVerbalizer | str | None,
    fed: Mapping[str, Any],
    talk: Talk,
    how: Mapping[str, Any],
    *,
    one_at_a_time: bool = False,
    pool: Cluster | None = None,
) -> tuple[AnyVerbalizer, AnyVerbalizer | None]:
    """The verbalizers, opened if they are references (``how``: in what, where), and looked at by the doctor.

    ``one_at_a_time``: those that are opened here are closed again, and open only while they speak. ``pool``: the
    workers that open them in place of this process.
    """
    if pool is not None:
        stays = not one_at_a_time and native is None
        own = None if native is None else _in_workers(native, {}, talk, how, pool, stays=stays)
        return _in_workers(by, fed, talk, how, pool, stays=stays), own
    if one_at_a_time:
        return _in_turn(by, fed, talk, how), None if native is None else _in_turn(native, {}, talk, how)
    if isinstance(by, str):
        talk.say(f"opening verbalizer {public_address(by)}")
        by = Verbalizer.open(by, **fed, **how)
        if how["engine"] != "auto":
            talk.say(by.engine)
    if isinstance(native, str):
        native = Verbalizer.open(native, **how)
    talk.say("checking the verbalizers")
    quick([by] if native is None else [by, native])
    return by, native


def _in_turn(one: AnyVerbalizer | str, fed: Mapping[str, Any], talk: Talk, how: Mapping[str, Any]) -> AnyVerbalizer:
    """A verbalizer looked at by the doctor; closed until it speaks where it was opened here."""
    if not isinstance(one, str):
        quick([one])
        return one
    talk.say(f"opening verbalizer {public_address(one)} and checking it")
    made = InTurn(lambda: Verbalizer.open(one, **fed, **how), lambda it: quick([it]), how["device"], talk)
    if how["engine"] != "auto":
        talk.say(made.engine)
    return made


def _in_workers(
    one: AnyVerbalizer | str,
    fed: Mapping[str, Any],
    talk: Talk,
    how: Mapping[str, Any],
    pool: Cluster,
    *,
    stays: bool,
) -> AnyVerbalizer:
    """A verbalizer that workers open, and the doctor has looked at in one of them; ``stays``: they are kept then."""
    talk.say(f"opening verbalizer {public_address(str(one))} in a worker and checking it")
    made = Pool(str(one), {**fed, **how}, pool, _looked_at, talk, stays=stays)
    if how["engine"] != "auto":
        talk.say(made.engine)
    return made


def _looked_at(one: AnyVerbalizer) -> None:
    quick([one])


def _refuse_open(on: str | None, *verbalizers: AnyVerbalizer | str | None) -> None:
    """Refuse verbalizers that are open here where workers are to open them."""
    for one in verbalizers:
        if on is not None and one is not None and not isinstance(one, str):
            raise Refusal(f"verbalizer {one.name} on {on}", "it is open in this process", "pass its reference")


def _chosen(
    what: Features | Dictionary | str | Path,
    features: Sequence[str | int] | str | Asked | None,
    options: Options,
    fitted: Crossing | None,
) -> tuple[Features, Asked | None]:
    """The features that are asked for; where only firings yet to be counted tell them, all, and the words."""
    asked = Asked.parse(features) if isinstance(features, str) else features
    if isinstance(what, Features):
        if asked is not None:
            raise Refusal(
                "features", "they are named twice", "pass features of a dictionary, or the dictionary and ids"
            )
        return what, None
    dictionary = dictionary_of(what)
    if isinstance(asked, Asked) and asked.needs_firings and fitted is None:
        return dictionary.features(None), asked
    firings = None if fitted is None else firings_of(fitted)
    return dictionary.features(asked, seed=options.seed, firings=firings), None


def _prepared(chosen: Features, readings: Readings, options: Options, *, native: bool) -> Crossing:
    """A crossing made for these features; rows without a direction are told of where making it does not."""
    whole = chosen.directions is chosen.dictionary.rows()
    if whole and (readings.source == readings.target or options.map != "aligned"):
        tell_dead(chosen.directions, readings.talk)
    return prepare(chosen.dictionary, () if whole else chosen.directions.ids, readings, options, native=native)


def _refuse_early(
    chosen: Features,
    later: Asked | None,
    target: Site,
    options: Options,
    fitted: Crossing | None,
    texts: Texts,
    out: Path,
    *,
    native: bool,
) -> None:
    """Refuse, before models are opened, what could not be carried, counted, read, kept or told later.

    Raises:
        Refusal: the crossing or the dictionary's encoder cannot be used, the texts are too few or alike, another run
            lies in the folder, or what lies beside the dictionary (planted truth, confidence) is no file of that kind.
    """
    source, dictionary = chosen.directions.site, chosen.dictionary
    if fitted is not None:
        fitted.refuse_others(chosen.directions, None)
    if later is not None:
        refuse_uncounted(later, dictionary, target, options)
    check_place(source, chosen.directions.d_model)
    check_place(target, what="what the verbalizer reads")
    if fitted is None:
        counted = dictionary.direct_folder(target) is not None
        how: dict[str, Any] = {"map": options.map, "route": options.serving, "native": native, "counted": counted}
        texts.refuse_few(source, target, **how)
    _ = dictionary.truth  # read when it is asked for
    if (calibrated := beside(dictionary.where, CONFIDENCE)) is not None:
        ConfidenceSet.load(calibrated)
    if options.serving == "as-is":
        refuse_crossed_as_is(fitted)
        neighbouring(chosen.directions, target)
    elif fitted is not None:
        fitted.refuse_others(None, target)
    elif source != target and options.asks_firings:
        refuse_unusable_encoder(dictionary, required=options.serving not in ("map", "auto"))
    refuse_another(out, {"source": str(source), "target": str(target), "settings": options.settings})


def tell_labels(dictionary: Dictionary, talk: Talk) -> None:
    """Say where nothing tells that an export's labels are this dictionary's own."""
    labels = dictionary.labelled
    if labels.source and not labels.told_by:
        talk.say(f"the labels are of {labels.source}, and nothing tells whether that is this dictionary")


def written_run(
    chosen: Features,
    crossing: Crossing,
    readings: Readings,
    by: AnyVerbalizer,
    native: AnyVerbalizer | None,
    options: Options,
    out: Path,
    settings: Mapping[str, Any],
) -> RunFolder:
    """Carry, wash, say and keep."""
    directions, talk = chosen.directions, readings.talk
    carried, about = conditions_of(directions, crossing, options, talk.say)
    verbalizers, backgrounds = {"by": by}, {"by": crossing.background}
    if native is not None:
        # Native and foreign are fed alike: a bare decoder row is as far off one model's shell as off the other's.
        verbalizers = {"by": by, "native": native}
        backgrounds |= {"native": _own(crossing)}
    rows, words = {one.name: one.directions for one in carried if one.route != "as-is"}, {}
    if crossing.source != crossing.target:
        words = lens_words(readings, directions, rows)
    if readings.once:
        readings.close()
    builder = RunBuilder(directions=directions, backgrounds=backgrounds)
    if native is not None:
        builder.add("native", directions, route="identity", washout=options.washout, by="native")
    for one in carried:
        how = {"route": one.route, "washout": options.washout, "cards": one.cards, "reading": one.reading}
        how["flags"] = [UNUSABLE_MAP] if unusable(crossing, one.route) else []
        builder.add(one.name, one.directions, keep_bare=True, map=options.map, **how)
    truth = chosen.dictionary.truth
    folder = builder.write(
        out,
        verbalizers,
        options,
        talk,
        {
            "dictionary": entry_of(chosen.dictionary, directions, crossing.dead),
            "settings": {**options.settings, "batch_size": together(options, verbalizers), **settings},
            **({"labels": whose} if (whose := chosen.dictionary.labelled.to_json()) else {}),
            "digests": dict(crossing.digests),
            "map_report": {crossing.map.method: crossing.map.report["held_out"]} if crossing.map else {},
            "about": ({"left_out": plain(crossing.left_out)} if crossing.left_out else {}) | about,
            **(truth.of(directions.ids) if truth is not None else {}),
        },
        grows=True,
    )
    windows = windows_of(crossing, directions.ids, seed=options.seed)
    if windows is not None:
        keep_windows(folder, windows)
        if tokens := tokens_of(crossing, windows):
            keep_tokens(folder, tokens)
    if words:
        keep_words(folder, words)
    return folder


def _own(crossing: Crossing) -> Background:
    """What the source's stream has in common, for its own verbalizer."""
    if crossing.source_background is None:
        raise Refusal("a native verbalizer", "the source's background was not read", "fit the crossing again")
    return crossing.source_background
