"""What explaining goes by, whatever is explained: verbalizers, options, texts, a crossing that is named, a machine.

In: what ``explain`` is given. Out: ``Common``, which refuses early what could not be carried, counted, read or kept,
opens the verbalizers, and explains chosen features. Refuses whatever those steps refuse.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from dragoman.confidence.model import ConfidenceSet
from dragoman.core import Directions, Refusal, Site, Talk
from dragoman.dictionaries import Asked, Dictionary, Features
from dragoman.dictionaries.beside import CONFIDENCE, beside
from dragoman.maps import Crossing
from dragoman.maps.crossing import refuse_far
from dragoman.models.asked import by_vllm, check_engine, check_on, refuse_beside_server
from dragoman.models.decode import site_of_verbalizer
from dragoman.models.load import check_device
from dragoman.models.ray_workers import Cluster, cluster
from dragoman.models.resolve import check_named
from dragoman.models.sizes import check_place, check_read
from dragoman.runs.build import refuse_ended
from dragoman.runs.crossings import firings_of, prepare, refuse_uncounted, tell_dead
from dragoman.runs.given import (
    dictionary_of,
    opened_crossing,
    refuse_crossed_as_is,
)
from dragoman.runs.grow import left_of, refuse_another
from dragoman.runs.identity import refuse_uncalibrated
from dragoman.runs.nulls import say_nulls
from dragoman.runs.options import MapKind, Options
from dragoman.runs.order import one_at_a_time
from dragoman.runs.readings import Held, Readings, refuse_unusable_encoder
from dragoman.runs.run import Run
from dragoman.runs.speakers import refuse_open, speakers
from dragoman.runs.texts import Texts
from dragoman.runs.written import written_run
from dragoman.scoring import add_claims, add_confidence, check_confidence
from dragoman.verbalizers.protocol import UNSAID, AnyVerbalizer, HowFed, HowOpened


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
