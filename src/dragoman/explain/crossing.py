"""Everything between a direction at the source and a vector at the target, prepared once and cached by digest.

In: a ``Request`` and the two sites. Out: a ``Crossing``: backgrounds, the map and its moments, the direct route's rows.
Refuses a route that was not prepared, and whatever the rooms below refuse.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from dragoman.core import Background, Site
from dragoman.dictionaries import Dictionary, Encoder
from dragoman.dictionaries.beside import BACKGROUND, TABLE
from dragoman.explain.keys import key_of
from dragoman.explain.open import default_texts, encoder_of, tell_dead
from dragoman.explain.request import Request, Talk
from dragoman.maps import Crossing as Prepared
from dragoman.maps import DirectTable, LinearMap, Moments, fit_pooled
from dragoman.maps.aligned import Aligned
from dragoman.maps.crossing import to_watch
from dragoman.maps.direct import WHOLE
from dragoman.models.aligned import read_aligned
from dragoman.models.options import ReadingOptions
from dragoman.models.paired import SIDES, Harvest, LeftOut, Reader, direct_statistics, harvest, told_left_out
from dragoman.store import Cache, digest, read_json, write_json
from dragoman.store.arrays import load_background, save_background

_LEFT_OUT = "left_out.json"


@dataclass(frozen=True, kw_only=True, eq=False)
class Crossing(Prepared):
    """A crossing, and ``digests`` of what it was made from."""

    digests: Mapping[str, str] = field(default_factory=dict)
    left_out: LeftOut = field(default_factory=dict)  # by side: rows kept, outliers, and rows that are not finite


def harvested(request: Request, source: Site, target: Site, talk: Talk) -> tuple[Harvest, str]:
    """The pooled rows of both models over the texts, from the cache when nothing that decides them has changed."""
    texts = default_texts(request.texts)
    key = key_of("harvest-4", request, source, target, texts)

    def make(path: Path) -> None:
        talk.say(f"reading {len(texts)} texts with {source.model} and {target.model}")
        how = {"dtype": request.dtype, "device": request.device}
        made = harvest(Reader.open(source, **how), Reader.open(target, **how), texts, progress=talk.towards("harvest"))
        made.save(path)

    path, reused = Cache(say=talk.say).get_or_make("harvest", key, make)
    if reused:
        talk.say(f"reused harvest {key[:8]} ({len(texts)} texts)")
    rows = Harvest.load(path)
    for sentence in told_left_out(rows.left_out, source, target):
        talk.say(sentence)
    return rows, key


def fitted(
    rows: Harvest, request: Request, method: Literal["ridge", "procrustes"] = "ridge"
) -> tuple[LinearMap, Moments]:
    """The post's map over a harvest, and the moments of the rows it was fitted on."""
    return fit_pooled(rows.x, rows.y, rows.source, rows.target, lam=request.lam, seed=request.seed, method=method)


def direct_table(
    dictionary: Dictionary, request: Request, source: Site, target: Site, talk: Talk, *, from_scratch: bool = False
) -> tuple[DirectTable, Background, str]:
    """The direct route's rows and background: those beside the dictionary, else made from texts and cached."""
    beside = dictionary.direct_folder(target)
    if beside is not None and request.texts is None and not from_scratch:
        talk.say("using the direct route's statistics that lie beside the dictionary")
        return DirectTable.load(beside / TABLE), load_background(beside / BACKGROUND), digest(beside / TABLE)
    texts = default_texts(request.texts, "direct")
    key = key_of("direct-3", request, source, target, texts, dictionary.fingerprint(), *_reading(request))

    def make(path: Path) -> None:
        encoder = encoder_of(dictionary)  # first: it may be refused, and models take long to open
        talk.say(f"reading {len(texts)} texts with both models for the direct route")
        how = {"dtype": request.dtype, "device": request.device}
        readers = (Reader.open(source, **how), Reader.open(target, **how))
        stats, background, left_out = direct_statistics(
            *readers,
            encoder,
            texts,
            progress=talk.towards("direct route"),
        )
        path.mkdir()
        stats.table().save(path / TABLE)
        save_background(background, path / BACKGROUND)
        write_json(path / _LEFT_OUT, left_out)

    path, reused = Cache(say=talk.say).get_or_make("direct", key, make)
    if reused:
        talk.say(f"reused direct-route statistics {key[:8]}")
    for sentence in told_left_out(read_json(path / _LEFT_OUT), source, target):
        talk.say(sentence)
    return DirectTable.load(path / TABLE), load_background(path / BACKGROUND), key


def crossing(
    dictionary: Dictionary,
    request: Request,
    source: Site,
    target: Site,
    routes: Sequence[str],
    talk: Talk,
    *,
    from_scratch: bool = False,
) -> tuple[Crossing, Harvest | None]:
    """Prepare what the routes need; a direction's own stream needs nothing but a background."""
    if request.map == "aligned" and source != target:
        return by_tokens(dictionary, request, target, talk), None
    digests: dict[str, str] = {}
    rows = direct = background = None
    if "direct" in routes or "blend" in routes:
        table = direct_table(dictionary, request, source, target, talk, from_scratch=from_scratch)
        direct, background, digests["direct"] = table
    if "map" in routes or "blend" in routes or background is None or request.native:
        rows, digests["harvest"] = harvested(request, source, target, talk)
        background = rows.background
    own = rows.source_background if rows else None
    if rows and own and source != target:
        made = Crossing.from_pooled(
            rows.x,
            rows.y,
            own,
            background,
            direct=direct,
            lam=request.lam,
            seed=request.seed,
            texts=default_texts(request.texts),
        )
        return replace(made, digests=digests, left_out=rows.left_out), rows
    made = Crossing(
        recipe="pooled",
        source=source,
        target=target,
        background=background,
        source_background=own,
        direct=direct,
        digests=digests,
        left_out=rows.left_out if rows is not None else {},
    )
    return made, rows


def by_tokens(dictionary: Dictionary, request: Request, target: Site, talk: Talk) -> Crossing:
    """A crossing over aligned tokens: every route from one reading of the texts.

    Where the direct route's table lies beside the dictionary it is used instead, being from more documents and other
    ones: cards are the better.
    """
    source, rows = dictionary.site, dictionary.rows()
    tell_dead(rows, talk)
    aligned, key = paired_tokens(dictionary, request, target, talk)
    digests, direct = {"aligned": key}, None
    if request.texts is None and dictionary.direct_folder(target) is not None:
        direct, _, digests["direct"] = direct_table(dictionary, request, source, target, talk)
    left_out = aligned_left_out(aligned)
    for sentence in told_left_out(left_out, source, target):
        talk.say(sentence)
    talk.say(f"fitting the map on {aligned.report['pairs']} pairs of tokens")
    texts = default_texts(request.texts, texts_of(dictionary, target))
    made = Crossing.from_tokens(aligned, rows, direct=direct, seed=request.seed, texts=texts)
    return replace(made, digests=digests, left_out=left_out)


def aligned_left_out(aligned: Aligned) -> LeftOut:
    """What became of the tokens of either model, by the report of the reading; outliers are those among the pairs."""
    found = {}
    for side in SIDES:
        told = aligned.report["tokens"][side]
        out = sum(told["left out"][why] for why in ("special", "first", "not finite"))
        odd = aligned.report["pairs_left_out"][f"outlier at {side}"]
        found[side] = {"kept": told["all"] - out - odd, "outliers": odd, "not finite": told["left out"]["not finite"]}
    return found


def texts_of(dictionary: Dictionary, target: Site) -> str:
    """Which packaged texts are read token by token: all, or only the sentences where a direct table lies beside."""
    return "all" if dictionary.direct_folder(target) is None else "map"


def paired_tokens(dictionary: Dictionary, request: Request, target: Site, talk: Talk) -> tuple[Aligned, str]:
    """The sums over aligned tokens, from the cache when nothing that decides them has changed."""
    source, rows = dictionary.site, dictionary.rows()
    texts = default_texts(request.texts, texts_of(dictionary, target))
    asked = request.features or dictionary.indices
    watched = to_watch(rows, asked, seed=request.seed) if len(rows) > WHOLE else None
    options = ReadingOptions(watched=watched)
    told = (dictionary.fingerprint(), repr(options), *_reading(request))
    key = key_of("aligned-4", request, source, target, texts, *told)

    def make(path: Path) -> None:
        talk.say(f"reading {len(texts)} texts with {source.model} and {target.model}, token by token")
        encoder = _encoder(dictionary, talk)  # first: it may be refused, and models take long to open
        how = {"dtype": request.dtype, "device": request.device}
        readers = (Reader.open(source, **how), Reader.open(target, **how))
        read_aligned(*readers, texts, encoder, options=options, progress=talk.towards("aligned tokens")).save(path)

    path, reused = Cache(say=talk.say).get_or_make("aligned", key, make)
    if reused:
        talk.say(f"reused aligned tokens {key[:8]} ({len(texts)} texts)")
    return Aligned.load(path), key


def _encoder(dictionary: Dictionary, talk: Talk) -> Encoder | None:
    """The dictionary's encoder; plain vectors have none, and then only the map can carry them.

    Raises:
        Refusal: a dictionary has an encoder that cannot be read or used; to go on without would change the routes.
    """
    if dictionary.layout != "vectors":
        return encoder_of(dictionary)
    talk.say(f"{dictionary.name} holds vectors without an encoder, so there is no route but the map")
    return None


def _reading(request: Request) -> list[str]:
    """What the request says of how the dictionary is read, where it says anything."""
    names = ("d_model", "k", "key", "orientation")
    said = [(name, getattr(request, name)) for name in names if getattr(request, name) is not None]
    return [repr(said)] if said else []
