"""Everything between a direction at the source and a vector at the target, prepared once and cached by digest.

In: a ``Request`` and the two sites. Out: a ``Crossing``: backgrounds, the map and its moments, the direct route's rows.
Refuses a route that was not prepared, and whatever the rooms below refuse.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from dragoman import tiny
from dragoman.core import Background, Directions, Site
from dragoman.dictionaries import Encoder, read_directions
from dragoman.dictionaries import dictionary as open_dictionary
from dragoman.explain.keys import fingerprint_of_dictionary, key_of
from dragoman.explain.open import default_texts, dictionary_of, encoder_of, how_encoder, how_rows, tell_dead
from dragoman.explain.request import Request, Talk
from dragoman.maps import Crossing as Prepared
from dragoman.maps import DirectTable, LinearMap, Moments, fit_pooled
from dragoman.maps.aligned import Aligned
from dragoman.maps.crossing import to_watch
from dragoman.maps.direct import WHOLE
from dragoman.models.aligned import read_aligned
from dragoman.models.manner import Manner
from dragoman.models.paired import SIDES, Harvest, LeftOut, Reader, direct_statistics, harvest, told_left_out
from dragoman.store import Cache, Contents, digest, read_json, write_arrays, write_json

_BACKGROUND = Contents(
    called="a background", holds="background", arrays={"mean": "d"}, words={"site": str, "n": int, "texts": str}
)

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
    request: Request, source: Site, target: Site, talk: Talk, *, from_scratch: bool = False
) -> tuple[DirectTable, Background, str]:
    """The direct route's rows and background: shipped for the embedded pair, else made from texts and cached."""
    packaged = request.dictionary == "tiny-sae" and (source, target) == (tiny.SOURCE, tiny.TARGET)
    if packaged and request.texts is None and not from_scratch:
        path = tiny.data("tiny-direct")
        talk.say("using the direct route's statistics that ship with the embedded pair")
        return DirectTable.load(path), load_background(tiny.data("tiny-background")), digest(path)
    texts = default_texts(request.texts, "direct")
    where = dictionary_of(request)
    key = key_of("direct-3", request, source, target, texts, fingerprint_of_dictionary(where), *_reading(request))

    def make(path: Path) -> None:
        encoder = encoder_of(request)  # first: it may be refused, and models take long to open
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
        stats.table().save(path / "direct.safetensors")
        save_background(background, path / "background.safetensors")
        write_json(path / _LEFT_OUT, left_out)

    path, reused = Cache(say=talk.say).get_or_make("direct", key, make)
    if reused:
        talk.say(f"reused direct-route statistics {key[:8]}")
    for sentence in told_left_out(read_json(path / _LEFT_OUT), source, target):
        talk.say(sentence)
    return DirectTable.load(path / "direct.safetensors"), load_background(path / "background.safetensors"), key


def save_background(background: Background, path: Path) -> None:
    """Write a background to one file."""
    words = {"holds": "background", "site": str(background.site), "n": background.n, "texts": background.texts}
    write_arrays(path, {"mean": background.mean}, words)


def load_background(path: Path) -> Background:
    """Read what ``save_background`` wrote."""
    arrays, meta = _BACKGROUND.read(path)
    return Background(Site.parse(meta["site"]), arrays["mean"], meta["n"], meta["texts"])


def crossing(
    request: Request, source: Site, target: Site, routes: Sequence[str], talk: Talk, *, from_scratch: bool = False
) -> tuple[Crossing, Harvest | None]:
    """Prepare what the routes need; a direction's own stream needs nothing but a background."""
    if request.map == "aligned" and source != target:
        return by_tokens(request, source, target, talk, from_scratch=from_scratch), None
    digests: dict[str, str] = {}
    rows = direct = background = None
    if "direct" in routes or "blend" in routes:
        direct, background, digests["direct"] = direct_table(request, source, target, talk, from_scratch=from_scratch)
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


def by_tokens(request: Request, source: Site, target: Site, talk: Talk, *, from_scratch: bool = False) -> Crossing:
    """A crossing over aligned tokens: every route from one reading of the texts.

    For the embedded pair the direct route's table ships, from more documents and other ones: cards are the better.
    """
    dictionary = read_directions(dictionary_of(request), site=source, **how_rows(request))
    tell_dead(dictionary, talk)
    aligned, key = paired_tokens(request, target, dictionary, talk)
    digests, direct = {"aligned": key}, None
    packaged = request.dictionary == "tiny-sae" and (source, target) == (tiny.SOURCE, tiny.TARGET)
    if packaged and request.texts is None and not from_scratch:
        direct, _, digests["direct"] = direct_table(request, source, target, talk)
    left_out = aligned_left_out(aligned)
    for sentence in told_left_out(left_out, source, target):
        talk.say(sentence)
    talk.say(f"fitting the map on {aligned.report['pairs']} pairs of tokens")
    texts = default_texts(request.texts, texts_of(request))
    made = Crossing.from_tokens(aligned, dictionary, direct=direct, seed=request.seed, texts=texts)
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


def texts_of(request: Request) -> str:
    """Which packaged texts are read token by token: the sentences; all of them where no direct table ships."""
    return "all" if request.dictionary == "tiny-gemma-sae" else "map"


def paired_tokens(request: Request, target: Site, dictionary: Directions, talk: Talk) -> tuple[Aligned, str]:
    """The sums over aligned tokens, from the cache when nothing that decides them has changed."""
    source, where = dictionary.site, dictionary_of(request)
    texts = default_texts(request.texts, texts_of(request))
    watched = to_watch(dictionary, request.features, seed=request.seed) if len(dictionary) > WHOLE else None
    manner = Manner(watched=watched)
    dictionary_key = fingerprint_of_dictionary(where)
    key = key_of("aligned-4", request, source, target, texts, dictionary_key, repr(manner), *_reading(request))

    def make(path: Path) -> None:
        talk.say(f"reading {len(texts)} texts with {source.model} and {target.model}, token by token")
        encoder = _encoder(request, talk)  # first: it may be refused, and models take long to open
        how = {"dtype": request.dtype, "device": request.device}
        readers = (Reader.open(source, **how), Reader.open(target, **how))
        read_aligned(*readers, texts, encoder, manner=manner, progress=talk.towards("aligned tokens")).save(path)

    path, reused = Cache(say=talk.say).get_or_make("aligned", key, make)
    if reused:
        talk.say(f"reused aligned tokens {key[:8]} ({len(texts)} texts)")
    return Aligned.load(path), key


def _encoder(request: Request, talk: Talk) -> Encoder | None:
    """The dictionary's encoder; plain vectors have none, and then only the map can carry them.

    Raises:
        Refusal: a dictionary has an encoder that cannot be read or used; to go on without would change the routes.
    """
    with open_dictionary(dictionary_of(request), **how_encoder(request)) as opened:
        name, plain = opened.name, opened.layout == "vectors"
    if not plain:
        return encoder_of(request)
    talk.say(f"{name} holds vectors without an encoder, so there is no route but the map")
    return None


def _reading(request: Request) -> list[str]:
    """What the request says of how the dictionary is read, where it says anything."""
    said = {name: value for name, value in {**how_rows(request), **how_encoder(request)}.items() if value is not None}
    return [repr(sorted(said.items()))] if said else []
