"""What a run's directions cross by: a crossing fitted for it, or all that is needed where there is nothing to cross.

In: a dictionary, a target, texts. Out: a ``Crossing``, its digests told; windows of its texts in which features fire.
Refuses a fit within one stream, routes that were not prepared, texts that are not those that were read, and whatever
reading models, dictionaries and texts refuses.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from numbers import Real
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dragoman.core import Directions, Refusal, Site, Talk
from dragoman.dictionaries import Asked, Dictionary
from dragoman.dictionaries.layout import VECTORS
from dragoman.dictionaries.rows import ids_of
from dragoman.maps import Crossing
from dragoman.maps.aligned import Aligned, Firings, by_name, contexts
from dragoman.maps.along_row import along_rows
from dragoman.maps.dictionary import OTHERS as OTHERS_WATCHED
from dragoman.maps.direct import WHOLE
from dragoman.maps.firing_tokens import token_windows
from dragoman.models.algebra import algebra_of
from dragoman.models.asked import check_on
from dragoman.models.load import check_device
from dragoman.models.paired import SIDES, Harvest, LeftOut, told_left_out
from dragoman.models.ray_workers import cluster
from dragoman.models.sizes import check_read
from dragoman.records import TokenWindow
from dragoman.runs.given import dictionary_of, talk_of, target_of
from dragoman.runs.options import MAPS, MapKind, Options, check_seed
from dragoman.runs.readings import Readings, refuse_unusable_encoder
from dragoman.runs.texts import Texts
from dragoman.store.spans import meant, shown
from dragoman.verbalizers.protocol import AnyVerbalizer

Method = Literal["ridge", "procrustes"]
Windows = dict[str, dict[str, Any]]
OTHERS = 64  # features not asked for, whose windows show what any text has in common with any feature
FEWEST = 3  # windows of each of those
LAM = 100.0  # the post's ridge penalty, in the activations' own units


def fit_crossing(
    dictionary: Dictionary | str | Path,
    target: Site | str | AnyVerbalizer,
    *,
    map: MapKind = "aligned",
    method: Method = "ridge",
    lam: float = LAM,
    features: Sequence[str | int] | str | Asked | None = (),
    texts: Texts | Sequence[str] | str | Path | None = None,
    seed: int = 0,
    dtype: str = "float32",
    device: str = "cpu",
    on: str | None = None,
    workers: int | None = None,
    talk: Talk | None = None,
) -> Crossing:
    """Fit what carries a dictionary's features to a target; both models are read once, and the readings are cached.

    Args:
        dictionary: an open one, or its reference.
        target: where directions should arrive: a verbalizer, its site, or that as text (MODEL:BLOCK).
        map: "aligned": over tokens that end together, with every route; "post": over pooled texts, the map alone.
        method: of the post's map; the aligned one is a ridge regression.
        lam: penalty of the post's ridge map; the aligned one's is chosen on left-out documents.
        features: of a dictionary too large to count whole, those that will be asked for: ids, or words ("0-99").
        texts: that both models read: a file, a folder, a data set of the hub, texts, or None for those that come with
            the embedded pair; see ``runs.texts.Texts.read``.
        seed: of all randomness.
        dtype: both models compute in.
        device: both models run on.
        on: where both models are read token by token, if not in this process: "ray", workers on this machine's GPUs, or
            "ray://HOST:PORT", those of a Ray cluster; see ``models.ray_reading``.
        workers: how many, one a GPU when None (one a node where ``device`` is none).
        talk: where progress goes.

    Raises:
        Refusal: source and target are one stream, a feature is not there, the dictionary's encoder cannot be used, or a
                reading is refused.
    """
    talk, read, target = talk_of(talk), Texts.of(texts), target_of(target)
    read.tell(talk)
    check_method(map, method, lam)
    asked = check_asked(map, features)
    check_seed(seed)
    check_device(device)
    check_fit_on(map, on, workers, device)
    opened = dictionary_of(dictionary)
    if opened.site == target:
        raise Refusal(
            f"a crossing from {opened.site} to {target}",
            "that is one stream, so there is nothing to fit",
            "run explain without --through: the verbalizer reads the dictionary's own stream",
        )
    check_read(opened.site, opened.d_model)
    check_read(target, what="the target")
    read.refuse_few(opened.site, target, map=map)
    ids: tuple[str, ...] = ()
    if asked:
        ids = opened.features(asked, seed=seed).directions.ids  # what is not there is refused before models are opened
    readings = Readings(
        source=opened.site, target=target, texts=read, dtype=dtype, device=device, talk=talk,
        workers=partial(cluster, on, workers, device, talk),
    )  # fmt: skip
    if map == "post":
        return by_texts(readings, lam=lam, seed=seed, method=method)[0]
    refuse_unusable_encoder(opened, required=False)
    return by_tokens(opened, readings, ids, seed=seed)


def prepare(
    dictionary: Dictionary, features: Sequence[str | int], readings: Readings, options: Options, *, native: bool = False
) -> Crossing:
    """What the options' route needs; a stream read where it is needs nothing but its background.

    ``native``: whether a verbalizer of the source speaks too, which needs the source's background.
    """
    source, target, route = readings.source, readings.target, options.serving
    if source == target or route == "as-is":
        return nothing_to_cross(readings)
    if options.map == "aligned":
        return by_tokens(dictionary, readings, features, seed=options.seed)
    if route == "direct" and not native:
        table, background, key = readings.direct(dictionary)
        return Crossing(
            recipe="post", source=source, target=target, background=background, direct=table, digests={"direct": key}
        )
    return by_texts(readings, seed=options.seed, direct_of=dictionary if route in ("direct", "blend") else None)[0]


def by_texts(
    readings: Readings,
    *,
    lam: float = LAM,
    seed: int = 0,
    method: Method = "ridge",
    direct_of: Dictionary | None = None,
    from_scratch: bool = False,
) -> tuple[Crossing, Harvest]:
    """The seed post's crossing, over pooled texts, and the rows it was fitted on.

    ``direct_of``: the dictionary whose features are also counted for the direct route, ``from_scratch`` even where a
    table lies beside it.
    """
    direct, digests = None, dict[str, str]()
    if direct_of is not None:
        direct, _, digests["direct"] = readings.direct(direct_of, from_scratch=from_scratch)
    rows, digests["harvest"] = readings.pooled()
    made = Crossing.from_pooled(
        rows.x,
        rows.y,
        rows.source_background,
        rows.background,
        direct=direct,
        lam=lam,
        seed=seed,
        method=method,
        texts=readings.texts.sentences,
    )
    return replace(made, digests=digests, left_out=rows.left_out), rows


def by_tokens(
    dictionary: Dictionary, readings: Readings, features: Sequence[str | int] = (), *, seed: int = 0
) -> Crossing:
    """A crossing over aligned tokens: every route from one reading of the texts.

    Where the direct route's table lies beside the dictionary it is used instead, being from more documents and other
    ones: cards are the better.
    """
    talk, rows = readings.talk, dictionary.rows()
    tell_dead(rows, talk)
    aligned, key = readings.aligned(dictionary, features, seed=seed)
    digests, direct = {"aligned": key}, None
    if readings.texts.own is None and dictionary.direct_folder(readings.target) is not None:
        direct, _, digests["direct"] = readings.direct(dictionary)
    left_out = aligned_left_out(aligned)
    for sentence in told_left_out(left_out, readings.source, readings.target):
        talk.say(sentence)
    talk.say(f"fitting the map on {aligned.report['pairs']} pairs of tokens")
    texts = readings.aligned_texts(dictionary)
    overlap = readings.lenses.shared if readings.lenses is not None else None
    algebra = algebra_of(readings.device)
    made = Crossing.from_tokens(aligned, rows, direct=direct, overlap=overlap, seed=seed, texts=texts, algebra=algebra)
    return replace(made, digests=digests, left_out=left_out)


def nothing_to_cross(readings: Readings) -> Crossing:
    """What there is to know of one stream, or of neighbouring ones: the backgrounds alone."""
    rows, key = readings.pooled()
    return Crossing(
        recipe="post",
        source=readings.source,
        target=readings.target,
        background=rows.background,
        source_background=rows.source_background,
        digests={"harvest": key},
        left_out=rows.left_out,
    )


def map_alone(crossing: Crossing) -> Crossing:
    """The crossing without what it knows of its dictionary's features by their ids: for vectors that are none of them.

    Raises:
        Refusal: it has no map.
    """
    if crossing.map is None and crossing.source != crossing.target:
        raise Refusal(f"vectors through {crossing.name}", "it has no map, which is what carries them", "fit one")
    return replace(
        crossing, direct=None, fired=None, firings=None, words=None, sums=None, solved=None, dictionary=None, texts=()
    )


def lens_words(
    readings: Readings, directions: Directions, carried: Mapping[str, Directions]
) -> dict[str, dict[str, dict[str, list[str]]]]:
    """Condition -> feature -> the twenty words that its own row writes most, and those that the carried row does.

    Nothing where the lens of a model cannot be read.
    """
    lenses = readings.lenses if carried else None
    if lenses is None:
        return {}
    own = dict(zip(directions.ids, lenses.source.top(directions.unit), strict=True))
    return {
        name: {
            i: {"source": list(own[i]), "carried": list(words)}
            for i, words in zip(rows.ids, lenses.target.top(rows.unit), strict=True)
        }
        for name, rows in carried.items()
    }


def aligned_left_out(aligned: Aligned) -> LeftOut:
    """What became of the tokens of either model, by the report of the reading; outliers are those among the pairs."""
    counts = {}
    for side in SIDES:
        tokens = aligned.report["tokens"][side]
        out = sum(tokens["left out"][why] for why in ("special", "first", "not finite"))
        odd, undefined = aligned.report["pairs_left_out"][f"outlier at {side}"], tokens["left out"]["not finite"]
        counts[side] = {"kept": tokens["all"] - out - odd, "outliers": odd, "not finite": undefined}
    return counts


def tell_dead(directions: Directions, talk: Talk) -> None:
    """Say how many features were set aside because they have no direction."""
    dead, first = len(directions.dead), ", ".join(directions.dead[:5])
    if dead:
        more = ", ..." if dead > 5 else ""
        talk.say(
            f"set aside {dead} of {dead + len(directions)} features whose rows are zero and have no direction"
            f" ({first}{more})"
        )


def check_fit_on(map: str, on: str | None, workers: int | None, device: str) -> None:
    """Refuse places that are none, and any for a map that is fitted on pooled rows: these are read here."""
    check_on(on, workers, device)
    if on is not None and map == "post":
        raise Refusal(f"--on {on} with --map post", "what is read token by token alone is dealt", "leave --on out")


def check_method(map: str, method: str, lam: float = LAM) -> None:
    """Refuse words that are no map and no method, a penalty that is none, and the method or penalty of another map."""
    if map not in MAPS:
        raise Refusal(
            f"map '{shown(map, 40)}'", f"known are {', '.join(MAPS)}", meant(str(map), MAPS, "use one of these")
        )
    if method not in ("ridge", "procrustes"):
        raise Refusal(f"method '{shown(method, 40)}'", "known are ridge, procrustes", "use one of these")
    if map == "aligned" and method != "ridge":
        raise Refusal(f"method '{method}'", "over aligned tokens the map is a ridge regression", "say --map post")
    if not isinstance(lam, Real) or not 0 < lam < math.inf:
        raise Refusal(f"penalty {lam}", "it is no positive number", "leave --lam out, or pass one")
    if lam != LAM and (map == "aligned" or method == "procrustes"):
        which = "it is chosen on left-out documents" if map == "aligned" else "a procrustes map has none"
        raise Refusal(f"penalty {lam}", which, "leave --lam out, or say --map post --method ridge")


def check_asked(map: str, features: Sequence[str | int] | str | Asked | None) -> list[str | int] | Asked | None:
    """The features that a fit should count, None where nobody says; refuse them of a map that counts none.

    Raises:
        Refusal: as said, and words that only the counts of a fit could tell.
    """
    words = Asked.parse(features) if isinstance(features, str) else features
    asked = words if words is None or isinstance(words, Asked) else ids_of(words) or None
    if asked is not None and map == "post":
        raise Refusal("features", "the post's map counts no feature", "leave --features out, or say --map aligned")
    if isinstance(asked, Asked) and asked.needs_firings:
        why = "which features fire most often is known once it is fitted"
        raise Refusal(f"features '{shown(asked.text)}' of a fit", why, "say it to explain --through, or name ids here")
    return asked


def firings_of(crossing: Crossing) -> dict[str, float] | None:
    """In how many (effective) documents each counted feature fires; None where nobody counted."""
    table = crossing.direct
    return None if table is None else dict(zip(table.ids, table.n_eff.tolist(), strict=True))


def refuse_uncounted(asked: Asked, dictionary: Dictionary, target: Site, options: Options) -> None:
    """Refuse, before any model is opened, to choose by firings that this run will not count.

    Raises:
        Refusal: the verbalizer reads the dictionary's own stream, vectors have no encoder, the map counts nothing, or
            the dictionary has more features than are counted unasked.
    """
    what, instead = f"features '{shown(asked.text)}' of {dictionary.name}", "name ids"
    if dictionary.site == target or options.serving == "as-is":
        raise Refusal(what, "how often they fire is counted on the way to another stream, and there is none", instead)
    if dictionary.layout == VECTORS:
        raise Refusal(what, "vectors have no encoder that could fire", instead)
    if not options.asks_firings:
        raise Refusal(what, "the post's map counts no firings", "leave --map post out, or name ids")
    if options.map == "aligned" and dictionary.d_sae > WHOLE and dictionary.direct_folder(target) is None:
        why = f"of its {dictionary.d_sae} features only those asked for and {OTHERS_WATCHED} others would be counted"
        raise Refusal(what, why, "fit a crossing with --features all and pass it with --through, or name ids")


def windows_of(crossing: Crossing, rows: Directions, *, seed: int) -> Windows | None:
    """Where each feature that was watched fires most, and where it is silent; None where none was watched.

    ``rows``: the features, at the source. ``words`` and ``forms``, where they were counted: shares of its activation by
    word and by form, above 0.00005. ``along_row``: how its row stands out there, see ``maps.along_row``.
    Besides, where up to 64 others fire, drawn from the watched ones, with no silent windows. What is drawn of a feature
    depends on the seed and its own id, not on the others asked for.
    """
    firings, texts, features = crossing.firings, crossing.texts, rows.ids
    watched = set(firings.ids) if firings is not None else set()
    if firings is None or not texts or not watched.intersection(features):
        return None
    documents, windows = by_name(texts), Windows()
    counted = crossing.fired is not None and crossing.moments is not None
    along = along_rows(rows, crossing.fired, crossing.moments) if counted else {}  # type: ignore[arg-type]
    for name in features:
        if name in watched:
            rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
            firing, silent = contexts(firings, documents, name, rng=rng)
            windows[name] = {"firing": firing, "silent": silent} | _shares(crossing, name)
            windows[name] |= {"along_row": along[name]} if name in along else {}
    for name in _others(firings, features, seed):
        firing, _ = contexts(firings, documents, name, rng=np.random.default_rng(seed))
        windows[name] = {"firing": firing, "silent": []} | _shares(crossing, name)
    return windows


def tokens_of(crossing: Crossing, features: Iterable[str]) -> dict[str, list[TokenWindow]]:
    """How much features fire at each token of the windows that ``windows_of`` cut; empty where that was not read.

    ``features``: those that have windows.
    """
    firings, tokens = crossing.firings, crossing.tokens
    if firings is None or tokens is None:
        return {}
    documents = by_name(crossing.texts)
    return {name: token_windows(firings, tokens, documents, name) for name in features}


def _shares(crossing: Crossing, feature: str) -> dict[str, dict[str, float]]:
    """On which words a feature fires, and on which forms of words; nothing where they were not counted."""
    if crossing.words is None or feature not in crossing.words.ids:
        return {}
    words, forms = ({name: round(share, 4) for name, share in shares.items()} for shares in crossing.words.of(feature))
    return {k: {n: s for n, s in shares.items() if s} for k, shares in {"words": words, "forms": forms}.items()}


def _others(firings: Firings, features: Sequence[str], seed: int) -> list[str]:
    """Ids drawn from those that fire in documents enough, the asked ones left out."""
    often = np.flatnonzero((firings.documents >= 0).sum(axis=1) >= FEWEST)
    names = [firings.ids[k] for k in often]
    left = [name for name in names if name not in set(features)]
    return [left[k] for k in np.random.default_rng(seed).permutation(len(left))[:OTHERS]]
