"""The main job with everything it needs opened once: what a service answers from.

In: a dictionary or a site, a verbalizer, perhaps a crossing; then, again and again, features, vectors or prompts. Out:
a ``Run`` each, in a folder of its own, with the texts that ``explain`` gives. Refuses what ``explain`` refuses; a site
alone without what carries its vectors; prompts where the source's model was not opened.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dragoman.core import Refusal, Site, Talk
from dragoman.dictionaries import Dictionary, Features, open_dictionary
from dragoman.maps import Crossing
from dragoman.maps.direct import WHOLE
from dragoman.maps.points import fit_points
from dragoman.models.algebra import algebra_of
from dragoman.models.decode import site_of_verbalizer
from dragoman.models.load import check_device
from dragoman.models.sizes import check_read
from dragoman.runs import prompted
from dragoman.runs.common import tell_labels
from dragoman.runs.crossings import map_alone, nothing_to_cross, prepare
from dragoman.runs.given import dictionary_of, opened_crossing
from dragoman.runs.identity import refuse_uncalibrated
from dragoman.runs.options import Options
from dragoman.runs.readings import Readings
from dragoman.runs.run import Run
from dragoman.runs.speakers import speakers
from dragoman.runs.texts import Texts
from dragoman.runs.written import written_run
from dragoman.scoring import add_claims, add_confidence, check_confidence
from dragoman.scoring.judged_run import CachedEmbedder
from dragoman.store import write_arrays
from dragoman.verbalizers.protocol import AnyVerbalizer, HowFed, HowOpened

if TYPE_CHECKING:
    from dragoman.embed import Embedder
    from dragoman.models.harvest import Reader

VECTORS = "vectors.safetensors"
LOOKED_AT = 8  # features by which a crossing of another dictionary is told before models are opened
KEPT = 20_000  # texts whose places are kept between two pieces of work


class NotThere(Refusal):
    """A feature that the dictionary does not have, or that has no direction."""


class Progress:
    """Where progress goes at the moment: to who opens, then to who waits for the piece of work that goes on."""

    def __init__(self, talk: Talk) -> None:
        """To ``talk``, until another takes its place."""
        self.now = talk

    def talk(self) -> Talk:
        """A ``Talk`` for all time."""
        return Talk(
            say=lambda text: self.now.say(text),
            bar=lambda what, done, total: self.now.bar(what, done, total),
            step=lambda name: self.now.step(name),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Opened:
    """What explains: opened by `open`, used by one piece of work at a time.

    ``dictionary``: None where vectors and prompts alone are explained. ``crossing``: of the dictionary's features;
    ``alone``: of vectors, by the map alone; ``points``: of activations at tokens of prompts. Of the latter two what
    there is not is None. ``reader``: the source's model, where prompts may be asked for. ``width``: of the source's
    stream. ``progress.now``: where what is said and how far it is goes; a bar that raises ends the work between two
    batches.
    """

    dictionary: Dictionary | None
    source: Site
    width: int
    by: AnyVerbalizer
    options: Options
    readings: Readings
    crossing: Crossing
    alone: Crossing | None
    points: Crossing | None
    reader: Reader | None
    embedder: Embedder | None
    confidence: Path | None
    progress: Progress

    @classmethod
    def open(
        cls,
        what: Dictionary | str | Path | Site,
        *,
        by: AnyVerbalizer | str,
        through: Crossing | str | Path | None = None,
        contract: str | None = None,
        settings: Mapping[str, Any] | None = None,
        base: str | None = None,
        texts: Texts | Sequence[str] | str | Path | None = None,
        options: Options | None = None,
        prompts: bool = False,
        confidence: str | Path | None = None,
        dtype: str = "float32",
        device: str = "cpu",
        talk: Talk | None = None,
    ) -> Opened:
        """Open all that answers need, and look at the verbalizer as ``explain`` does.

        Args:
            what: a dictionary, its reference, or the site where vectors and prompts live.
            by: the verbalizer, or its reference.
            through: a crossing that was fitted before, or its folder; fitted (and cached) when None, which takes a
                dictionary that is counted whole.
            contract: how ``by`` is fed, with ``settings`` and ``base``, as of ``explain``.
            settings: what that contract leaves open.
            base: the model that the adapter of ``by`` sits on.
            texts: that both models read where a crossing is fitted.
            options: reading, route, map and washout of all answers.
            prompts: whether prompts may be asked for: the source's model is then opened too.
            confidence: a file of confidences; those beside the dictionary, if of this pair, when None.
            dtype: what is opened here computes in.
            device: what is opened here runs on.
            talk: where progress goes while it is opened.

        Raises:
            Refusal: as the module says.
        """
        options, talk = options or Options(), talk or Talk()
        check_device(device)
        fitted, read = opened_crossing(through, texts, None), Texts.of(texts)
        dictionary, source = (None, what) if isinstance(what, Site) else _with_site(dictionary_of(what))
        fed = HowFed(contract=contract, settings=settings, base=base)
        if fitted is None or prompts:
            check_read(source, None if dictionary is None else dictionary.d_model)
        target = site_of_verbalizer(by, **fed) if isinstance(by, str) else by.site
        _refuse_early(dictionary, source, target, fitted, options)
        if fitted is None:
            check_read(target, what="what the verbalizer reads")
            counted = dictionary is not None and dictionary.direct_folder(target) is not None
            read.refuse_few(source, target, map=options.map, route=options.serving, counted=counted)
        if confidence is not None:
            check_confidence(confidence)
            refuse_uncalibrated(confidence, dictionary or source, target, options)
        if dictionary is not None:
            tell_labels(dictionary, talk)
        how: HowOpened = {"dtype": dtype, "device": device, "engine": "auto", "compiled": False}
        by, _ = speakers(by, None, fed, talk, how)
        refuse_uncalibrated(confidence, dictionary or source, by.site, options, by)
        progress = Progress(talk)
        readings = Readings(source=source, target=by.site, texts=read, talk=progress.talk(), dtype=dtype, device=device)
        crossing = fitted if fitted is not None else _prepared(dictionary, readings, options)
        alone, points = _others(crossing, readings, fitted, prompts=prompts)
        reader = None
        if prompts:
            from dragoman.models.harvest import Reader

            talk.say(f"opening {source.model}, which reads prompts")
            reader = Reader.open(source, dtype=dtype, device=device)
        embedder, progress.now = _embedder(talk, device), Talk()
        return cls(
            dictionary=dictionary, source=source, width=_width(dictionary, crossing), by=by, options=options,
            readings=readings, crossing=crossing, alone=alone, points=points, reader=reader, embedder=embedder,
            confidence=None if confidence is None else Path(confidence), progress=progress,
        )  # fmt: skip

    def features(self, ids: Sequence[str], out: Path, **options: Any) -> Run:
        """Explain features of the dictionary; ``options``: of ``Options``, in place of those it was opened with.

        Raises:
            NotThere: a feature is not there.
            Refusal: anything else that ``explain`` refuses.
        """
        if self.dictionary is None:
            raise Refusal("features", "no dictionary was opened, only a site", "ask for vectors, or open a dictionary")
        try:
            chosen = self.dictionary.features(list(ids))
        except Refusal as refusal:
            raise NotThere(refusal.what, refusal.why, refusal.instead) from refusal
        self.crossing.refuse_others(chosen.directions, None)
        return self._written(chosen, self.crossing, out, options)

    def vectors(self, rows: NDArray[Any], out: Path, **options: Any) -> Run:
        """Explain vectors (n, width) of the source's stream, numbered from 0, as those of a file of them."""
        if self.alone is None:
            raise Refusal("vectors", f"{self.crossing.name} has no map, which is what carries them", "ask for features")
        path = out.parent / f"{out.name}-{VECTORS}"
        write_arrays(path, {"vectors": np.asarray(rows, dtype=np.float32)})
        what = open_dictionary(path, site=self.source, orientation="rows", d_model=self.width)
        return self._written(what.features(list(range(len(rows)))), self.alone, out, options)

    def prompts(self, prompts: Sequence[Mapping[str, Any]], out: Path, *, most: int, **options: Any) -> Run:
        """Explain activations at tokens of prompts; ``most``: of them, in all."""
        from dragoman.models.prompts import prompts_of, read_prompts

        if self.reader is None:
            raise Refusal("prompts", "the source's model was not opened to read them", "open it with prompts")
        what = read_prompts(self.reader, prompts_of(prompts), self.readings.talk)
        if len(what) > most:
            raise Refusal(f"{len(what)} tokens", f"at most {most} are explained at once", "name fewer of them")
        chosen = replace(self.options, reading=None, **options)  # an activation has no two readings
        prompted.refuse_of_features(chosen)
        how = {"dtype": self.readings.dtype, "device": self.readings.device, "texts": None}
        return Run(prompted.written(what, self.readings, self.by, None, chosen, self.points, out, how))

    def _written(self, chosen: Features, crossing: Crossing, out: Path, options: Mapping[str, Any]) -> Run:
        asked, device = replace(self.options, **options), self.readings.device
        how = {"dtype": self.readings.dtype, "device": device, **self.readings.texts.settings}
        folder = written_run(chosen, crossing, self.readings, self.by, None, asked, out, how, self.confidence)
        if self.embedder is not None:
            say = self.readings.talk.say
            add_claims(folder, say, device=device, embedder=self.embedder)
            add_confidence(folder, self.confidence, say, device=device, embedder=self.embedder)
        return Run(folder)


def _with_site(dictionary: Dictionary) -> tuple[Dictionary, Site]:
    return dictionary, dictionary.site


def _refuse_early(
    dictionary: Dictionary | None, source: Site, target: Site, fitted: Crossing | None, options: Options
) -> None:
    """Refuse, before models are opened, what could not be carried."""
    if fitted is not None:
        fitted.refuse_others(None, target)
        if fitted.source != source:
            why = f"it carries from {fitted.source}"
            raise Refusal(f"{source} through {fitted.name}", why, "name a dictionary or a site that it is of")
        if dictionary is not None and fitted.dictionary is not None:
            some = dictionary.features(fitted.dictionary.ids[:LOOKED_AT])
            fitted.refuse_others(some.directions, None)
    elif source != target and dictionary is None and options.serving != "as-is":
        why = "nothing says what carries its vectors to the verbalizer's stream"
        raise Refusal(f"site {source}", why, "name a crossing with --through (dragoman fit makes one)")
    elif source != target and dictionary is not None and options.serving != "as-is" and dictionary.d_sae > WHOLE:
        why = f"it has {dictionary.d_sae} features, too many to count without knowing which are asked for"
        raise Refusal(dictionary.name, why, "fit a crossing with --features all and pass it with --through")


def _prepared(dictionary: Dictionary | None, readings: Readings, options: Options) -> Crossing:
    if dictionary is None:
        return nothing_to_cross(readings)
    return prepare(dictionary, (), readings, options)


def _others(
    crossing: Crossing, readings: Readings, fitted: Crossing | None, *, prompts: bool
) -> tuple[Crossing | None, Crossing | None]:
    """What carries vectors, and what carries activations; None of what there is not."""
    if crossing.source == crossing.target or crossing.map is None:
        alone = crossing if crossing.map is None and crossing.direct is None else None
        return alone, fitted
    points = fitted
    if prompts and fitted is None and crossing.recipe == "aligned":
        # As for a prompt alone: by the penalty that predicts activations best, not by that of rows.
        aligned, key = readings.aligned(None)
        points = Crossing(
            recipe="aligned", source=crossing.source, target=crossing.target, background=aligned.background,
            map=fit_points(aligned, algebra_of(readings.device)), digests={"aligned": key},
        )  # fmt: skip
    return map_alone(crossing), points


def _width(dictionary: Dictionary | None, crossing: Crossing) -> int:
    """Of the source's stream."""
    if dictionary is not None:
        return dictionary.d_model
    if crossing.source_background is None:
        raise Refusal(crossing.name, "the source's background is not in it, which tells its width", "fit it again")
    return int(crossing.source_background.mean.shape[0])


def _embedder(talk: Talk, device: str) -> Embedder | None:
    """The packaged sentence model; None, and a sentence, where it is not installed."""
    from dragoman.models.embedder import SentenceEmbedder, packaged_folder

    try:
        packaged_folder()
    except Refusal as refusal:
        talk.say(f"texts will have no confidence, and no sentence is checked: {refusal.why}")
        return None
    return CachedEmbedder(SentenceEmbedder(device=device), KEPT)  # windows of other features are the same every time
