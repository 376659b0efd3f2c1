"""The main job: features of one model in another model's words, from a dictionary to a run folder.

In: a dictionary's features, a verbalizer, perhaps a crossing; route, washout, samples. Out: a ``Run``: rows, where the
features fire, confidences where some are calibrated. Refuses whatever reading, crossing, washing and verbalizing
refuses, and verbalizers in which the doctor finds a fault. Everything dear is kept in the cache under the digest of
what decides it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from dragoman.confidence.model import ConfidenceSet
from dragoman.core import Background, Directions, Refusal, Site, Talk
from dragoman.dictionaries import Asked, Dictionary, Features
from dragoman.dictionaries.beside import CONFIDENCE, beside
from dragoman.maps import Crossing
from dragoman.maps.crossing import Route, refuse_far
from dragoman.models.asked import by_vllm, check_engine, check_on, refuse_beside_server
from dragoman.models.decode import site_of_verbalizer
from dragoman.models.load import check_device
from dragoman.models.prompts import Activations
from dragoman.models.ray_workers import Cluster, cluster
from dragoman.models.resolve import check_named
from dragoman.models.sizes import check_place, check_read
from dragoman.records import UNUSABLE_MAP
from dragoman.runs import prompted
from dragoman.runs.build import RunBuilder, refuse_ended, together
from dragoman.runs.carried import About, Carried, conditions_of, unusable, washable, without
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
from dragoman.runs.nulls import check_nulls, say_nulls
from dragoman.runs.options import AskedReading, MapKind, Options
from dragoman.runs.order import one_at_a_time
from dragoman.runs.plan import MAX_NEW_TOKENS
from dragoman.runs.progress import logged
from dragoman.runs.readings import Held, Readings, refuse_unusable_encoder
from dragoman.runs.run import Run
from dragoman.runs.speakers import refuse_open, speakers
from dragoman.runs.texts import Texts
from dragoman.scoring import add_claims, add_confidence, check_confidence
from dragoman.store import RunFolder, plain
from dragoman.store.outputs import check_run
from dragoman.store.spans import shown
from dragoman.verbalizers.protocol import UNSAID, AnyVerbalizer, HowFed, HowOpened
from dragoman.washout import wash


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
    nulls: int = 0,
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
        nulls: how many directions that mean nothing are said besides, in a folder "nulls" in the run's, for agreement
            of verbalizers to stand beside (see ``dragoman.rank``); 0, or 40 and more.
        confidence: a file of confidences, or a calibration; the confidences that lie beside the dictionary, if of this
            pair, when None.
        dtype: what is opened here computes in.
        device: what is opened here runs on.
        engine: what says the words of verbalizers opened here: auto, loop, captured, vllm (see ``models.engines``), or
            vllm:ADDRESS, a vLLM server that runs (see ``models.vllm.server``).
        compiled: whether the captured engine's step goes through ``torch.compile``.
        on: where verbalizers speak and texts are read token by token, if not in this process: "ray", workers on this
            machine's GPUs, or "ray://HOST:PORT", those of a Ray cluster; see ``models.ray_workers``.
        workers: how many, one a GPU when None (one a node where ``device`` is none).
        talk: where progress goes.

    Raises:
        Refusal: something is not as it must be; nothing is written by halves. Or a row ended every worker that was to
            say it: all others are written.
        Interrupted: on Ctrl-C; what was finished is on disk.
    """
    with logged(talk_of(talk)) as talk, ExitStack() as held:
        out, options = path_of(out, "out"), {"reading": reading, "route": route, "washout": washout_of(washout)}
        options |= {"samples": samples, "temperature": temperature, "max_new_tokens": max_new_tokens}
        common = Common.of(
            verbalizer_of(by, "by"),
            None if native is None else verbalizer_of(native, "native"),
            fed=HowFed(contract=contract, settings=settings, base=base),
            options=options | {"batch_size": batch_size, "seed": seed},
            through=through,
            map=map,
            texts=texts,
            confidence=confidence,
            how={"dtype": dtype, "device": device, "engine": engine, "compiled": compiled},
            on=on,
            workers=workers,
        )
        options, fitted = common.options, common.fitted
        if isinstance(what, Activations):
            prompted.refuse_of_features(options, features=features, confidence=confidence)
            if nulls:
                raise Refusal("nulls of activations", "agreement is told of features", "leave nulls out")
        check_run(out)
        check_nulls(nulls, out)
        common.check()
        common.texts.tell(talk)
        chosen, later = (what, None) if isinstance(what, Activations) else chosen_of(what, features, options, fitted)
        directions = chosen.directions
        common.refuse_absent(None if isinstance(chosen, Activations) else directions.site, directions.d_model)
        target = common.target
        if isinstance(chosen, Activations):
            prompted.refuse_early(directions.site, target, options, fitted, common.texts)
        else:
            common.refuse_early(chosen.dictionary, chosen.directions, later, target, out)
            if later is None:
                chosen = left_of(out, chosen)
            tell_labels(chosen.dictionary, talk)
        width, d_sae = directions.d_model, 0 if isinstance(chosen, Activations) else chosen.dictionary.d_sae
        pool, features_of = held.enter_context(common.cluster(talk)), len(directions.ids)
        common = common.opened(directions.site, target, talk, pool, width=width, d_sae=d_sae, features=features_of)
        if isinstance(chosen, Activations):
            readings, settings_of = common.readings(directions.site, talk), common.settings
            how = (options, fitted, out, settings_of)
            return Run(refuse_ended(prompted.written(chosen, readings, common.open_by, common.open_native, *how)))
        refuse_uncalibrated(confidence, chosen.dictionary, target, options, common.open_by)
        return common.explained(chosen, later, out, talk, nulls=nulls)


@dataclass(frozen=True, slots=True, kw_only=True)
class Common:
    """What explaining goes by, whatever is explained: the verbalizers, the options, the texts, where it computes.

    ``by``, ``native``: open, or references, fed as ``fed`` says. ``fitted``: a crossing that is named. ``how``: dtype,
    device, engine and whether it is compiled, of what is opened here. ``on``, ``workers``: where verbalizers speak, if
    not here, and in how many; ``pool``: those workers, once there are some. ``held``: models that stay open to be read.
    """

    by: AnyVerbalizer | str
    native: AnyVerbalizer | str | None
    fed: HowFed
    options: Options
    fitted: Crossing | None
    texts: Texts
    confidence: str | Path | None
    how: HowOpened
    on: str | None = None
    workers: int | None = None
    pool: Cluster | None = None
    held: Held | None = None

    @classmethod
    def of(
        cls,
        by: AnyVerbalizer | str,
        native: AnyVerbalizer | str | None,
        *,
        fed: HowFed,
        options: Mapping[str, Any],
        through: Crossing | str | Path | None,
        map: MapKind | None,
        texts: Texts | Sequence[str] | str | Path | None,
        confidence: str | Path | None,
        how: HowOpened,
        on: str | None = None,
        workers: int | None = None,
    ) -> Common:
        """Words as what they mean; ``options``: all of ``Options`` but the map."""
        fitted = opened_crossing(through, texts, map)
        kind: MapKind = map if map is not None else fitted.recipe if fitted is not None else "aligned"
        made = Options(map=kind, **options)
        read = Texts.of(texts)
        return cls(
            by=by, native=native, fed=fed, options=made, fitted=fitted, texts=read, confidence=confidence, how=how,
            on=on, workers=workers,
        )  # fmt: skip

    def check(self) -> None:
        """Refuse what can be told without a dictionary: devices, engines, a file of confidences that is none."""
        check_device(self.how["device"])
        check_engine(self.how["engine"])
        check_on(self.on, self.workers, self.how["device"])
        refuse_beside_server(self.how["engine"], self.native if isinstance(self.native, str) else None, self.on)
        refuse_open(self.on, self.by, self.native)
        if self.confidence is not None:
            _refuse_unread(self.confidence)
        if not isinstance(self.by, str) and any(self.fed.values()):
            raise Refusal(f"verbalizer {self.by.name}", "it is open, and fed as it was opened", "pass its reference")

    def refuse_absent(self, source: Site | None, width: int) -> None:
        """Refuse, before even the verbalizer is fetched, models that will be opened and are nowhere.

        ``source``: whose model is read unless a crossing or a table is there in its place. ``width``: of what is there.
        """
        options, native = self.options, self.native
        unread = self.texts.unread(options.map, options.serving, native=native is not None)
        if source is not None and self.fitted is None and not unread:
            check_read(source, width)
        if isinstance(native, str):
            check_named(native)

    @property
    def target(self) -> Site:
        """What ``by`` reads; refuses references of which nobody knows it."""
        engine = self.how["engine"]
        if isinstance(self.native, str) and by_vllm(engine):
            site_of_verbalizer(self.native, engine=engine)
        return site_of_verbalizer(self.by, **self.fed, engine=engine) if isinstance(self.by, str) else self.by.site

    @property
    def open_by(self) -> AnyVerbalizer:
        """The verbalizer, once it was opened."""
        if isinstance(self.by, str):
            raise TypeError(f"{self.by} was not opened")
        return self.by

    @property
    def open_native(self) -> AnyVerbalizer | None:
        """The source's own, once it was opened."""
        if isinstance(self.native, str):
            raise TypeError(f"{self.native} was not opened")
        return self.native

    @property
    def settings(self) -> dict[str, object]:
        """What a manifest tells of texts and machine."""
        return {"dtype": self.how["dtype"], "device": self.how["device"], **self.texts.settings}

    def cluster(self, talk: Talk) -> AbstractContextManager[Cluster | None]:
        """Inside, there are workers, where verbalizers are to speak in some."""
        return cluster(self.on, self.workers, self.how["device"], talk)

    def opened(self, source: Site, target: Site, talk: Talk, pool: Cluster | None, **about: Any) -> Common:
        """With the verbalizers open, or closed until they speak where the memory would not do for all at once.

        ``pool``: workers that open them. ``about``: ``width``, ``d_sae`` and ``features`` of what is explained.
        """
        about |= {"dtype": self.how["dtype"], "device": self.how["device"]}
        about |= {"read": self.fitted is None, "workers": pool is not None}
        one = one_at_a_time((self.by, self.fed), self.native, source, target, self.options, talk, **about)
        by, native = speakers(self.by, self.native, self.fed, talk, self.how, one_at_a_time=one, pool=pool)
        return replace(self, by=by, native=native, pool=pool)

    def readings(self, source: Site, talk: Talk) -> Readings:
        """What both models make of the texts."""
        return Readings(
            source=source, target=self.open_by.site, texts=self.texts, dtype=self.how["dtype"],
            device=self.how["device"], talk=talk, once=True, held=self.held, workers=partial(nullcontext, self.pool),
        )  # fmt: skip

    def explained(self, chosen: Features, later: Asked | None, out: Path, talk: Talk, *, nulls: int = 0) -> Run:
        """Cross, say, check; ``later``: words that only firings tell. Refused as the module says."""
        options, fitted, by, native = self.options, self.fitted, self.open_by, self.open_native
        readings = self.readings(chosen.directions.site, talk)
        crossing = fitted if fitted is not None else _prepared(chosen, readings, options, native=native is not None)
        if later is not None:
            asked = chosen.dictionary.features(later, seed=options.seed, firings=firings_of(crossing))
            chosen = left_of(out, asked)
        if fitted is not None or chosen.directions is not chosen.dictionary.rows():
            tell_dead(chosen.directions, talk)
        how = self.settings | {"labels": chosen.dictionary.labels_ref, **chosen.dictionary.read_as}
        folder = written_run(chosen, crossing, readings, by, native, options, out, how, self.confidence)
        if nulls:
            say_nulls(folder, nulls, crossing, readings, {"by": by} | ({"native": native} if native else {}), options)
        add_claims(folder, talk.say, device=self.how["device"])
        add_confidence(folder, self.confidence, talk.say, device=self.how["device"])
        return Run(refuse_ended(folder))

    def refuse_early(
        self, dictionary: Dictionary, directions: Directions | None, later: Asked | None, target: Site, out: Path
    ) -> None:
        """Refuse, before models are opened, what could not be carried, counted, read, kept or told later.

        ``directions``: what is explained, where it was read; their width and place are the dictionary's.

        Raises:
            Refusal: the crossing or the dictionary's encoder cannot be used, the texts are too few or alike, another
                run lies in the folder, or what lies beside the dictionary (planted truth, confidence) is no file of
                that kind.
        """
        source, options, fitted = dictionary.site, self.options, self.fitted
        if fitted is not None and directions is not None:
            fitted.refuse_others(directions, None)
        if later is not None:
            refuse_uncounted(later, dictionary, target, options)
        check_place(source, dictionary.d_model)
        check_place(target, what="what the verbalizer reads")
        if fitted is None:
            counted = dictionary.direct_folder(target) is not None
            kind, route, native = options.map, options.serving, self.native is not None
            self.texts.refuse_few(source, target, map=kind, route=route, native=native, counted=counted)
            if not (counted and self.texts.unread(kind, route, native=native)):
                check_read(source, dictionary.d_model)
                check_read(target, what="what the verbalizer reads")
        _ = dictionary.truth  # read when it is asked for
        if (calibrated := beside(dictionary.where, CONFIDENCE)) is not None:
            ConfidenceSet.load(calibrated)
        if options.serving == "as-is":
            refuse_crossed_as_is(fitted)
            refuse_far(source, target)
        elif fitted is not None:
            fitted.refuse_others(None, target)
        elif source != target and options.asks_firings:
            refuse_unusable_encoder(dictionary, required=options.serving not in ("map", "auto"))
        refuse_uncalibrated(self.confidence, dictionary, target, options)
        refuse_another(out, {"source": str(source), "target": str(target), "settings": options.settings})


def check_explain(
    what: Dictionary,
    asked: Asked | None,
    *,
    by: Sequence[str],
    out: Sequence[Path],
    dtype: str,
    device: str,
    **options: Any,
) -> None:
    """Refuse what `explain` would of one of several verbalizers before it opens a model, so that none is opened.

    Args:
        what: the dictionary.
        asked: its features.
        by: the verbalizers.
        out: the folder of each one's run.
        dtype: what it computes in.
        device: what it runs on.
        options: ``texts``, and of ``Options``.

    Raises:
        Refusal: as said; names that are none come before files are fetched.
    """
    texts, how = options.pop("texts"), HowOpened(dtype=dtype, device=device, engine="auto", compiled=False)
    each = [
        Common.of(one, None, fed=UNSAID, options=options, through=None, map=None, texts=texts, confidence=None, how=how)
        for one in by
    ]
    for common, name in zip(each, by, strict=True):
        common.check()
        check_named(name)
        common.refuse_absent(what.site, what.d_model)
    chosen, later = chosen_of(what, asked, each[0].options, None)
    for common, folder in zip(each, out, strict=True):
        common.refuse_early(what, chosen.directions, later, common.target, folder)


def _refuse_unread(confidence: str | Path) -> None:
    """Refuse a file of confidences that is none, and one without the embedder that it reads with."""
    from dragoman.models.embedder import packaged_folder

    check_confidence(confidence)
    packaged_folder()


def chosen_of(
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
    confidence: str | Path | None = None,
) -> RunFolder:
    """Carry, wash, say and keep; a calibration of other routes is refused before anything is said."""
    directions, talk = chosen.directions, readings.talk
    carried, about = conditions_of(directions, crossing, options, talk.say)
    routes = sorted({one.route for one in carried})
    refuse_uncalibrated(confidence, chosen.dictionary, by.site, options, by, routes)
    if native is not None:
        carried = _with_natives(chosen.directions, carried, _own(crossing), options, about, talk)
    directions = _explained(chosen, carried, about.get("background", {}))
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
    windows = windows_of(crossing, directions, seed=options.seed)
    if windows is not None:
        keep_windows(folder, windows)
        if tokens := tokens_of(crossing, windows):
            keep_tokens(folder, tokens)
    if words:
        keep_words(folder, words)
    return folder


def _with_natives(
    directions: Directions,
    carried: Sequence[Carried],
    own: Background,
    options: Options,
    about: About,
    talk: Talk,
) -> list[Carried]:
    """Conditions without features whose native row cannot be washed: every text is judged beside its native one."""
    rows = Carried(name="native", directions=directions, route="identity", cards=(), reading=None)
    left, aside = washable(rows, own, options.washout, talk.say)
    if left is None:
        wash(directions, own, options.washout)  # refuses, with the reason
    if not aside:
        return list(carried)
    about["background"] = {"native": aside, **about.get("background", {})}
    kept = [without(one, set(aside)) for one in carried]
    return [one for one in kept if one is not None]


def _explained(chosen: Features, carried: Sequence[Carried], background: Mapping[str, Sequence[str]]) -> Directions:
    """The directions without those set aside in every condition they might have; refuse the latter asked for by id.

    ``background``: by condition, which are set aside.
    """
    kept, ids = {name for one in carried for name in one.directions.ids}, chosen.directions.ids
    aside = {name for some in background.values() for name in some} - kept
    named = [name for name in ids if name in aside and (not kept or name in chosen.by_id)]
    if named:
        of = f"feature {shown(named[0])}" if len(named) == 1 else f"{len(named)} features ({shown(', '.join(named))})"
        why = "what is injected would be nothing but background, of which washing leaves nothing"
        raise Refusal(f"{of} of {chosen.dictionary.name}", why, "leave it out of --features, or say --washout none")
    return chosen.directions.pick([name for name in ids if name not in aside]) if aside else chosen.directions


def _own(crossing: Crossing) -> Background:
    """What the source's stream has in common, for its own verbalizer."""
    if crossing.source_background is None:
        raise Refusal("a native verbalizer", "the source's background was not read", "fit the crossing again")
    return crossing.source_background
