"""A second opinion: which latent of another dictionary, perhaps with a label, fires where a feature fires.

In: two dictionaries of two models (or of one), texts. Out: ``Matching``, which is JSON too. Refuses vectors, which have
no encoder, more features than there is room for, and what reading models and dictionaries refuses.

No verbalizer has a part in it, so it may be held beside one's words. It tells that both fire together, not that they
mean the same: a latent may fire more widely, and a label is its maker's.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dragoman.core import Refusal, Talk
from dragoman.dictionaries import Asked, Dictionary
from dragoman.models.algebra import in_double
from dragoman.models.encoding import encoding_of
from dragoman.models.load import check_device
from dragoman.models.matching import read_matching
from dragoman.models.paired import ReadingOptions
from dragoman.models.sizes import check_read
from dragoman.records import Record
from dragoman.runs.forecast import CHARACTERS, TEXTS
from dragoman.runs.given import dictionary_of, talk_of
from dragoman.runs.options import check_seed
from dragoman.runs.readings import Readings, encoder_of
from dragoman.runs.texts import Texts
from dragoman.store import Cache, read_json, write_json
from dragoman.store.spool import Spool

FEWEST = 10  # documents in which a feature fires, below which any latent may seem to fire as it does


class Match(Record):
    """The latent that fires most as a feature does. See ``maps.matching.Matched`` for the numbers.

    ``often``: whether the feature fires in ten documents or more, of those that ``r`` is told of. ``above_chance``:
    whether it does, and ``low`` is above the ``dealt`` of every feature that does.
    """

    feature: str
    label: str
    latent: str
    latent_label: str
    r: float
    low: float
    high: float
    dealt: float
    often: bool
    above_chance: bool
    shared: float
    returned: float
    tokens: int
    documents: int


class Matching(Record):
    """Matches of the features that were asked for.

    ``texts``: that were read; ``pairs``: of tokens. ``line``: the highest ``dealt`` of any that fires often; None where
    none does.
    """

    dictionary: str
    source: str
    other: str
    target: str
    texts: int
    pairs: int
    line: float | None
    matches: tuple[Match, ...]


def match(
    dictionary: Dictionary | str | Path,
    other: Dictionary | str | Path,
    *,
    features: Sequence[str | int] | str | Asked | None = None,
    texts: Texts | Sequence[str] | str | Path | None = None,
    seed: int = 0,
    dtype: str = "float32",
    device: str = "cpu",
    talk: Talk | None = None,
) -> Matching:
    """Read both models over the same texts, once; what was found is cached.

    Args:
        dictionary: whose features are asked for.
        other: whose latents are looked through, with its labels; of another model, another block, or the same stream.
        features: as ``explain`` takes them; all when None.
        texts: that both models read, as ``explain`` takes them.
        seed: of the draw of features ("random:100") and of pairs of tokens.
        dtype: both models compute in.
        device: both models run on.
        talk: where progress goes.

    Raises:
        Refusal: as the module says.
    """
    talk, read = talk_of(talk), Texts.of(texts)
    read.tell(talk)
    check_seed(seed)
    check_device(device)
    opened, beside = dictionary_of(dictionary), dictionary_of(other)
    for one in (opened, beside):
        check_read(one.site, one.d_model)
    read.refuse_few(opened.site, beside.site, map="aligned")
    words = Asked.parse(features) if isinstance(features, str) else features
    if isinstance(words, Asked) and words.needs_firings:
        why = "which features fire most often is counted while texts are read"
        raise Refusal(f"features {features if isinstance(features, str) else 'top:N'}", why, "name ids, or random:100")
    asked = opened.features(words, seed=seed).directions
    kind = "cpu" if in_double(device) is None else "gpu"
    options = ReadingOptions(batch_size=TEXTS[kind], batch_characters=CHARACTERS[kind], seed=seed)
    readings = Readings(source=opened.site, target=beside.site, texts=read, dtype=dtype, device=device, talk=talk)
    cache, told = Cache(say=talk.say), (opened.fingerprint(), beside.fingerprint(), repr(options))
    key = readings.key("matching-1", read.sentences, *told, " ".join(asked.ids))

    def make(path: Path) -> None:
        # First: they may be refused, and models take long to open.
        encoders = [encoding_of(encoder_of(one), in_double(device)) for one in (opened, beside)]
        talk.say(f"reading {len(read.sentences)} texts at {opened.site} and {beside.site}, token by token")
        spool = Spool(cache.path("reading", readings.key("pairs-2", read.sentences, repr(options))))
        if spool.there:
            talk.say(f"going on after {spool.there} batches of texts that were read before")
        reading = partial(read_matching, options=options, spool=spool, progress=talk.towards("matching"))
        columns = np.array([int(name) for name in asked.ids])
        found = readings.read(
            lambda source, target: reading(
                source, target, read.sentences, encoders[0], columns, encoders[1], stay=kind == "gpu"
            )
        )
        write_json(path, {name: _plain(getattr(found, name)) for name in found.__slots__})
        spool.remove()

    path, reused = cache.get_or_make("matching", key, make)
    if reused:
        talk.say(f"reused matching {key[:8]} ({len(read.sentences)} texts)")
    return _matching(opened, beside, asked.ids, asked.labels, read_json(path), len(read.sentences))


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else value


def _matching(
    opened: Dictionary, beside: Dictionary, ids: Sequence[str], labels: Sequence[str], found: Any, texts: int
) -> Matching:
    """With labels, which may have changed since."""
    pairs, named, matches = found.pop("pairs"), beside.labels, []
    often = [documents >= FEWEST for documents in found["documents"]]
    line = max((dealt for dealt, enough in zip(found["dealt"], often, strict=True) if enough), default=None)
    for row, (name, label) in enumerate(zip(ids, labels, strict=True)):
        own = {key: values[row] for key, values in found.items()}
        own["latent"] = str(own["latent"])
        own |= {"feature": name, "label": label, "latent_label": named.get(own["latent"], "")}
        above = often[row] and line is not None and own["low"] > line
        matches.append(Match(**own, often=often[row], above_chance=above))
    return Matching(
        dictionary=opened.name,
        source=str(opened.site),
        other=beside.name,
        target=str(beside.site),
        texts=texts,
        pairs=pairs,
        line=line,
        matches=tuple(matches),
    )
