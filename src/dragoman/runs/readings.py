"""What two models make of the same texts; each reading is made once and kept in the cache under what decides it.

In: two sites, texts, a dictionary. Out: pooled rows, the direct route's table, sums over aligned tokens, each with its
key. Refuses what the readers of models, dictionaries and files refuse.

A key counts what is read (models, tokenizers and dictionaries by their bytes, texts one by one), how (dtype, settings
of the reading), and by what: dragoman, transformers and tokenizers, which run models and split texts, and torch, whose
sums they are. An upgrade therefore reads once more, and a fault mended in one of them is mended here too. Places count
as well: what is kept names its sites, and some layouts learn of a dictionary from the folders it lies in. Not counted:
the device and threads, which move sums by rounding alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from dragoman.core import Background, Refusal, Site, Talk
from dragoman.dictionaries import Dictionary, Encoder
from dragoman.dictionaries.beside import BACKGROUND, TABLE
from dragoman.maps import DirectTable
from dragoman.maps.aligned import Aligned
from dragoman.maps.dictionary import to_watch
from dragoman.maps.direct import WHOLE
from dragoman.models.algebra import in_double
from dragoman.models.aligned import read_aligned
from dragoman.models.harvest import open_both
from dragoman.models.lens import LensPair
from dragoman.models.load import fingerprint_of_model
from dragoman.models.paired import Harvest, Reader, ReadingOptions, direct_statistics, harvest, told_left_out
from dragoman.models.ray_reading import ReadingPool
from dragoman.models.ray_workers import Cluster
from dragoman.models.room import let_go
from dragoman.models.sizes import model_ref
from dragoman.runs.forecast import CHARACTERS, TEXTS
from dragoman.runs.texts import Texts
from dragoman.store import Cache, digest, read_json, write_json
from dragoman.store.arrays import load_background, save_background
from dragoman.store.libraries import version_of
from dragoman.store.spool import Spool

_BY = ("dragoman", "transformers", "tokenizers", "torch")
_LEFT_OUT = "left_out.json"
T = TypeVar("T")


class Held:
    """Models that are read again and again, each opened once up to the farthest block that it is read at."""

    def __init__(self, sites: Iterable[Site]) -> None:
        """``sites``: all that will be read."""
        self._open = dict[str, Reader]()
        self._blocks = dict[str, int]()
        for site in sites:
            self._blocks[model_ref(site)] = max(site.block, self._blocks.get(model_ref(site), 0))

    def reader(self, site: Site, dtype: str, device: str) -> Reader:
        """The model of a site, open to be read there."""
        ref = model_ref(site)
        if ref not in self._open:
            self._open[ref] = Reader.open(site, upto=self._blocks[ref], dtype=dtype, device=device)
        return replace(self._open[ref], site=site)

    def close(self, device: str) -> None:
        """Give their memory back."""
        self._open.clear()
        let_go(device)


@dataclass(frozen=True, kw_only=True)
class Readings:
    """Two models over the same texts.

    ``dtype``, ``device``: what they compute in, and where. ``once``: for one run alone, so that what was opened to read
    is closed before anything is said. ``held``: models that stay open for other readings. ``workers``: inside of it,
    those that read token by token in place of this process, which opens no model for that; all else is read here.
    """

    source: Site
    target: Site
    texts: Texts
    dtype: str = "float32"
    device: str = "cpu"
    talk: Talk = field(default_factory=Talk)
    once: bool = False
    held: Held | None = None
    workers: Callable[[], AbstractContextManager[Cluster | None]] = nullcontext

    @cached_property
    def lenses(self) -> LensPair | None:
        """Both models' lenses, opened when first asked for; None, and a sentence, where one cannot be read."""
        try:
            return LensPair.open(model_ref(self.source), model_ref(self.target), device=self.device)
        except Refusal as refusal:
            self.talk.say(f"what rows write is neither told nor has a part in fitting: {refusal.what}, {refusal.why}")
            return None

    def pooled(self) -> tuple[Harvest, str]:
        """The pooled rows of both models, one a text and model."""
        texts, talk = self.texts.sentences, self.talk
        key = self.key("harvest-4", texts)

        def make(path: Path) -> None:
            talk.say(f"reading {len(texts)} texts with {self._models}")
            progress = talk.towards("harvest")
            self.read(lambda source, target: harvest(source, target, texts, progress=progress).save(path))

        path, reused = Cache(say=talk.say).get_or_make("harvest", key, make)
        if reused:
            talk.say(f"reused harvest {key[:8]} ({len(texts)} texts)")
        rows = Harvest.load(path)
        for sentence in told_left_out(rows.left_out, self.source, self.target):
            talk.say(sentence)
        return rows, key

    def direct(self, dictionary: Dictionary, *, from_scratch: bool = False) -> tuple[DirectTable, Background, str]:
        """The direct route's rows and background: those beside the dictionary, else made from texts."""
        beside, talk = dictionary.direct_folder(self.target), self.talk
        if beside is not None and self.texts.own is None and not from_scratch:
            talk.say("using the direct route's statistics that lie beside the dictionary")
            return DirectTable.load(beside / TABLE), load_background(beside / BACKGROUND), digest(beside / TABLE)
        texts = self.texts.openings
        key = self.key("direct-3", texts, dictionary.fingerprint())

        def make(path: Path) -> None:
            encoder = encoder_of(dictionary)  # first: it may be refused, and models take long to open
            talk.say(f"reading {len(texts)} texts with both models for the direct route")
            progress = talk.towards("direct route")
            how = {"progress": progress, "device": in_double(self.device)}
            stats, background, left_out = self.read(
                lambda source, target: direct_statistics(source, target, encoder, texts, **how)
            )
            path.mkdir()
            stats.table().save(path / TABLE)
            save_background(background, path / BACKGROUND)
            write_json(path / _LEFT_OUT, left_out)

        path, reused = Cache(say=talk.say).get_or_make("direct", key, make)
        if reused:
            talk.say(f"reused direct-route statistics {key[:8]}")
        for sentence in told_left_out(read_json(path / _LEFT_OUT), self.source, self.target):
            talk.say(sentence)
        return DirectTable.load(path / TABLE), load_background(path / BACKGROUND), key

    def aligned_texts(self, dictionary: Dictionary | None) -> list[str]:
        """What is read token by token: all texts; the sentences alone for a map alone, or where a direct table lies."""
        alone = dictionary is None or dictionary.direct_folder(self.target) is not None
        return self.texts.sentences if alone else self.texts.all

    def aligned(
        self, dictionary: Dictionary | None, features: Sequence[str | int] = (), *, seed: int = 0
    ) -> tuple[Aligned, str]:
        """Sums over aligned tokens; of a large dictionary ``features``, their rivals and some others are counted.

        On a device that sums in float64 all its features get direct rows, whether they are counted or not. Without a
        dictionary nothing is watched: what a map alone needs.
        """
        texts, talk, watched = self.aligned_texts(dictionary), self.talk, None
        if dictionary is not None and len(rows := dictionary.rows()) > WHOLE:
            watched = to_watch(rows, features or dictionary.indices, seed=seed)
        there = in_double(self.device) is not None
        kind = "gpu" if there else "cpu"
        options = ReadingOptions(watched=watched, batch_size=TEXTS[kind], batch_characters=CHARACTERS[kind])
        every = watched is not None and there
        more = [
            dictionary.fingerprint() if dictionary else "no dictionary",
            repr(options),
            *(["every row"] if every else []),
        ]
        key = self.key("aligned-9", texts, *more)

        def make(path: Path) -> None:
            talk.say(f"reading {len(texts)} texts with {self._models}, token by token")
            # Which pairs there are does not depend on the features: a reading for others goes on with them.
            manner = repr(replace(options, watched=None, calibration=None))
            spool = Spool(cache.path("reading", self.key("pairs-2", texts, manner)))
            if spool.there:
                talk.say(f"going on after {spool.there} batches of texts that were read before")
            # First: it may be refused, and models take long to open.
            encoder = self._encoder(dictionary) if dictionary else None
            progress = talk.towards("aligned tokens")
            how = {"options": options, "progress": progress, "spool": spool}
            how |= {"device": in_double(self.device), "every": every and encoder is not None}

            def read(source: Any, target: Any, **more: Any) -> None:
                read_aligned(source, target, texts, encoder, **how, **more).save(path)

            with self.workers() as where:
                if where is None:
                    self.read(read)
                else:
                    with self._pool(where, texts, -(-len(texts) // options.batch_size)) as pool:
                        read(*pool.readers, workers=pool)
            spool.remove()

        cache = Cache(say=talk.say)
        path, reused = cache.get_or_make("aligned", key, make)
        if reused:
            talk.say(f"reused aligned tokens {key[:8]} ({len(texts)} texts)")
        return Aligned.load(path), key

    def key(self, kind: str, texts: Sequence[str], *more: str) -> str:
        """The name of what the two models give over texts.

        ``kind``: what is kept, with a number that goes up when its making changes. ``more``: what else decides it.
        """
        return digest(
            kind,
            *(f"{name} {version_of(name).partition('+')[0]}" for name in _BY),  # after the plus: for which machine
            *(
                part
                for site in (self.source, self.target)
                for part in (str(site), fingerprint_of_model(model_ref(site)))
            ),
            self.dtype,
            *more,
            digest(*texts),
        )

    @property
    def _models(self) -> str:
        names = dict.fromkeys((self.source.model, self.target.model))
        return " and ".join(names)

    def close(self) -> None:
        """Give back the memory of what was opened to read: the lenses are opened again where they are asked for."""
        self.__dict__.pop("lenses", None)
        let_go(self.device)

    def read(self, work: Callable[[Reader, Reader], T]) -> T:
        """What is read with both models; they are closed afterwards."""
        try:
            return work(*self._readers())
        finally:
            let_go(self.device)

    def _readers(self) -> tuple[Reader, Reader]:
        """Both models, opened; one that is read at two blocks is opened once."""
        dtype, device, held = self.dtype, self.device, self.held
        if held is not None:
            return held.reader(self.source, dtype, device), held.reader(self.target, dtype, device)
        return open_both(self.source, self.target, dtype=dtype, device=device)

    def _pool(self, where: Cluster, texts: Sequence[str], batches: int) -> ReadingPool:
        """Workers that have both models open, for texts in so many batches."""
        opened, summed = {"dtype": self.dtype, "device": self.device}, in_double(self.device)
        return ReadingPool(self.source, self.target, opened, where, self.talk, texts=texts, most=batches, summed=summed)

    def _encoder(self, dictionary: Dictionary) -> Encoder | None:
        """The dictionary's encoder; plain vectors have none, and then only the map can carry them."""
        if dictionary.layout != "vectors":
            return encoder_of(dictionary)
        self.talk.say(f"{dictionary.name} holds vectors without an encoder, so there is no route but the map")
        return None


def encoder_of(dictionary: Dictionary) -> Encoder:
    """The dictionary's encoder, whole.

    Raises:
        Refusal: it cannot be read or used; the sentence says how to do without it.
    """
    with _without():
        return dictionary.need_encoder()


def refuse_unusable_encoder(dictionary: Dictionary, *, required: bool) -> None:
    """Refuse, before any model is opened for it, an encoder that could not be used later; only headers are read.

    Raises:
        Refusal: as ``encoder_of``, and of plain vectors where an encoder is ``required``.
    """
    with _without():
        dictionary.check_encoder(required=required)


@contextmanager
def _without() -> Iterator[None]:
    """Refusals of an encoder, with the way to carry the dictionary's rows that needs none."""
    try:
        yield
    except Refusal as refusal:
        instead = f"{refusal.instead}, or carry its rows without an encoder: --map post --route map"
        raise Refusal(refusal.what, refusal.why, instead) from refusal
