"""The main job: features of one model in another model's words, from references to a run folder.

In: a ``Request`` of plain words (dictionary, features, verbalizer, route, washout). Out: a run folder with rows, and
what was reused. Refuses whatever the rooms below refuse. Everything dear is kept in the cache under the digest of what
decides it.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from dragoman import study, tiny
from dragoman.core import Background, Directions, Refusal, Site
from dragoman.directions import read_directions, read_encoder
from dragoman.lm.decode import LocalVerbalizer
from dragoman.lm.paired import Harvest, Reader, direct_statistics, harvest
from dragoman.lm.resolve import folder_of
from dragoman.routes import DirectTable, LinearMap, Moments, blend, make_cards, the_posts_recipe
from dragoman.store import Cache, RunFolder, digest, read_arrays, read_json, read_jsonl, read_texts, write_arrays
from dragoman.verbalize.protocol import Verbalizer
from dragoman.washout import wash

Route = Literal["map", "direct", "blend"]
Say = Callable[[str], None]
Bar = Callable[[str, int, int], None]
ROUTES = ("map", "direct", "blend")


@dataclass(frozen=True, slots=True, kw_only=True)
class Talk:
    """Where progress goes: a sentence, or ``bar(what, done, total)``."""

    say: Say = lambda _text: None
    bar: Bar = lambda _what, _done, _total: None

    def towards(self, what: str) -> Callable[[int, int], None]:
        """A bar's callback for one piece of work."""
        return lambda done, total: self.bar(what, done, total)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What was asked, in the words of the command line.

    ``dictionary``: packaged name, folder, file or hub id. ``features``: ids, empty for all. ``by``: the verbalizer.
    ``native``: a verbalizer of the source model to compare with, if there is one. ``texts``: a file, or None for the
    sentences that come with the embedded pair. ``washout``: none, on-shell, or the direction's share in (0, 1).
    """

    dictionary: str
    features: tuple[str, ...]
    by: str
    source: Site | None = None
    native: str | None = None
    route: Route = "map"
    washout: str = "on-shell"
    texts: str | None = None
    lam: float = 100.0
    samples: int = 1
    temperature: float = 0.0
    seed: int = 0
    batch_size: int = 64
    max_new_tokens: int = 120
    dtype: str = "float32"
    device: str = "cpu"


@dataclass(frozen=True, slots=True, kw_only=True)
class Crossing:
    """Everything between a direction at the source and a vector at the target: made once, shared by conditions."""

    source: Site
    target: Site
    background: Background
    source_background: Background | None
    bridge: LinearMap | None
    moments: Moments | None
    direct: DirectTable | None
    digests: Mapping[str, str]

    def carry(self, directions: Directions, route: Route) -> Directions:
        """Directions at the target by a route; refuse one that was not prepared."""
        if self.source == self.target:
            return directions
        if route in ("map", "blend") and self.bridge is None or route in ("direct", "blend") and self.direct is None:
            raise Refusal(f"route '{route}'", "it was not prepared", "prepare the crossing with that route")
        mapped = self.bridge.directions(directions) if self.bridge and route != "direct" else None
        direct = (
            self.direct.directions(directions.ids, labels=directions.labels) if self.direct and route != "map" else None
        )
        if mapped is not None and direct is not None:
            return blend(mapped, direct)
        return mapped or direct or directions

    def cards(self, directions: Directions) -> list[dict[str, Any]]:
        """What is known of each crossing: the two routes check each other."""
        if self.bridge is None or self.moments is None:
            return []
        return make_cards(directions, self.bridge, self.moments, self.direct)


def default_texts(texts: str | None, split: str = "map") -> list[str]:
    """Texts of a file, or the sentences that come with the embedded pair."""
    if texts is not None:
        return read_texts(Path(texts))
    return [row["text"] for row in read_jsonl(tiny.data("tiny-documents")) if row["split"] == split]


def harvested(request: Request, source: Site, target: Site, talk: Talk) -> tuple[Harvest, str]:
    """The pooled rows of both models over the texts, from the cache when nothing that decides them has changed."""
    texts = default_texts(request.texts)
    key = digest(
        "harvest-2", str(source), str(target), "\n".join(texts), request.dtype, _weights(source), _weights(target)
    )

    def make(path: Path) -> None:
        talk.say(f"reading {len(texts)} texts with {source.model} and {target.model}")
        how = {"dtype": request.dtype, "device": request.device}
        made = harvest(Reader.open(source, **how), Reader.open(target, **how), texts, progress=talk.towards("harvest"))
        made.save(path)

    path, reused = Cache().get_or_make("harvest", key, make)
    if reused:
        talk.say(f"reused harvest {key[:8]} ({len(texts)} texts)")
    return Harvest.load(path), key


def fitted(
    rows: Harvest, request: Request, method: Literal["ridge", "procrustes"] = "ridge"
) -> tuple[LinearMap, Moments]:
    """The post's map over a harvest, and the moments of the rows it was fitted on."""
    import numpy as np

    bridge = the_posts_recipe(
        rows.x, rows.y, rows.source, rows.target, lam=request.lam, seed=request.seed, method=method
    )
    # The same split as the recipe's: cards speak of the rows the map was fitted on.
    order = np.random.default_rng(request.seed).permutation(len(rows.x))[round(0.2 * len(rows.x)) :]
    return bridge, Moments.of(rows.x[order], rows.y[order])


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
    folder = folder_of(request.dictionary)
    key = digest(
        "direct-1",
        str(source),
        str(target),
        "\n".join(texts),
        request.dtype,
        _weights(source),
        _weights(target),
        folder,
    )

    def make(path: Path) -> None:
        talk.say(f"reading {len(texts)} texts with both models for the direct route")
        how = {"dtype": request.dtype, "device": request.device}
        stats, background = direct_statistics(
            Reader.open(source, **how),
            Reader.open(target, **how),
            read_encoder(folder),
            texts,
            progress=talk.towards("direct route"),
        )
        path.mkdir()
        stats.table().save(path / "direct.safetensors")
        save_background(background, path / "background.safetensors")

    path, reused = Cache().get_or_make("direct", key, make)
    if reused:
        talk.say(f"reused direct-route statistics {key[:8]}")
    return DirectTable.load(path / "direct.safetensors"), load_background(path / "background.safetensors"), key


def save_background(background: Background, path: Path) -> None:
    """Write a background to one file."""
    words = {"holds": "background", "site": str(background.site), "n": background.n, "texts": background.texts}
    write_arrays(path, {"mean": background.mean}, words)


def load_background(path: Path) -> Background:
    """Read what ``save_background`` wrote."""
    arrays, meta = read_arrays(path)
    if meta.get("holds") != "background":
        raise Refusal(f"{path}", "it does not hold a background", "name a file that dragoman wrote")
    return Background(Site.parse(meta["site"]), arrays["mean"], int(meta["n"]), meta["texts"])


def crossing(
    request: Request, source: Site, target: Site, routes: Sequence[str], talk: Talk, *, from_scratch: bool = False
) -> tuple[Crossing, Harvest | None]:
    """Prepare what the routes need; a direction's own stream needs nothing but a background."""
    digests: dict[str, str] = {}
    rows = direct = background = own = bridge = moments = None
    if "direct" in routes or "blend" in routes:
        direct, background, digests["direct"] = direct_table(request, source, target, talk, from_scratch=from_scratch)
    if "map" in routes or "blend" in routes or background is None or request.native:
        rows, digests["harvest"] = harvested(request, source, target, talk)
        background, own = rows.background, rows.source_background
        if source != target:
            bridge, moments = fitted(rows, request)
    made = Crossing(
        source=source,
        target=target,
        background=background,
        source_background=own,
        bridge=bridge,
        moments=moments,
        direct=direct,
        digests=digests,
    )
    return made, rows


def check_route(route: str, washout: str) -> None:
    """Refuse words that are no route and no washout, before anything dear is done."""
    if route not in ROUTES:
        raise Refusal(f"route '{route}'", f"known are {', '.join(ROUTES)}", "use one of these")
    if washout in ("none", "on-shell"):
        return
    try:
        share = float(washout)
    except ValueError:
        share = -1.0
    if not 0 < share < 1:
        raise Refusal(
            f"washout '{washout}'", "it is none, on-shell or the direction's share between 0 and 1", "use one of these"
        )


def explain(request: Request, out: Path, talk: Talk | None = None) -> RunFolder:
    """Explain features of the source model by a verbalizer of another (or the same) model into a run folder.

    Interrupted or killed, the same call goes on where it stopped.

    Raises:
        Refusal: one of the rooms below refused; nothing is written by halves.
    """
    talk = talk or Talk()
    check_route(request.route, request.washout)
    directions = read_directions(folder_of(request.dictionary), site=request.source, features=request.features or None)
    directions = with_labels(directions, request.dictionary)
    talk.say(f"opening verbalizer {request.by}")
    how = {"dtype": request.dtype, "device": request.device}
    verbalizers: dict[str, Verbalizer] = {"by": LocalVerbalizer(request.by, **how)}
    if request.native:
        verbalizers["native"] = LocalVerbalizer(request.native, **how)
    target = verbalizers["by"].site
    cross, _ = crossing(request, directions.site, target, [request.route], talk)
    carried = cross.carry(directions, request.route)
    vectors = wash(carried, cross.background, request.washout)
    name = {"map": "plain" if request.washout == "none" else "washed"}.get(request.route, request.route)
    conditions = [study.Condition.of(name, carried, "by", vectors=vectors, cards=cross.cards(directions))]
    told = [{"name": name, "route": request.route, "washout": request.washout, "verbalizer": request.by}]
    if request.native:
        # Native and foreign are fed alike: a bare decoder row is as far off one model's shell as off the other's.
        own = wash(directions, cross.source_background, request.washout)
        conditions.insert(0, study.Condition.of("native", directions, "native", vectors=own))
        told.insert(
            0, {"name": "native", "route": "identity", "washout": request.washout, "verbalizer": request.native}
        )
    return carry_out(request, directions, cross, conditions, told, verbalizers, out, talk)


def carry_out(
    request: Request,
    directions: Directions,
    cross: Crossing,
    conditions: list[study.Condition],
    told: list[dict[str, Any]],
    verbalizers: dict[str, Verbalizer],
    out: Path,
    talk: Talk,
    more: Mapping[str, Any] | None = None,
) -> RunFolder:
    """Write the manifest, verbalize what is missing, keep the vectors."""
    plan = study.Plan(
        conditions=tuple(conditions),
        batch_size=request.batch_size,
        samples=request.samples,
        seed=request.seed,
        temperature=request.temperature,
        max_new_tokens=request.max_new_tokens,
    )
    manifest = {
        "dragoman": own_version(),
        "source": str(directions.site),
        "target": str(cross.target),
        "dictionary": {"ref": request.dictionary, "digest": digest(folder_of(request.dictionary))},
        "conditions": told,
        "features": list(directions.ids),
        "settings": {
            k: getattr(request, k)
            for k in (
                "route",
                "washout",
                "lam",
                "samples",
                "temperature",
                "dtype",
                "device",
                "batch_size",
                "max_new_tokens",
                "texts",
            )
        },
        "digests": dict(cross.digests),
        "verbalizers": {key: v.identity for key, v in verbalizers.items()},
        "versions": versions(),
        "seeds": {"seed": request.seed},
        "plan_digest": plan.digest(verbalizers),
        "map_report": {cross.bridge.method: cross.bridge.report["held_out"]} if cross.bridge else {},
        "background": background_report(cross.background),
        **planted(request.dictionary, directions.ids),
        **(more or {}),
    }
    run = RunFolder.create(out, manifest)
    done = study.carry_out(plan, run, verbalizers, talk.bar)
    if done.reused:
        talk.say(f"kept {done.reused} rows that were there, made {done.made}")
    run.write_vectors({c.name: c.vectors for c in conditions})
    return run


def with_labels(directions: Directions, dictionary: str) -> Directions:
    """Planted labels of the embedded SAE's features, where the dictionary brings none."""
    if dictionary != "tiny-sae":
        return directions
    info = {f["id"]: f"{f['category']}: {f['topic']}" for f in read_json(tiny.data("tiny-features"))}
    labels = tuple(given or info.get(i, "") for i, given in zip(directions.ids, directions.labels, strict=True))
    return replace(directions, labels=labels)


def planted(dictionary: str, ids: Sequence[str]) -> dict[str, Any]:
    """Planted truth of the embedded SAE's features: category, topic, top tokens, and the words that name a category."""
    if dictionary != "tiny-sae":
        return {}
    info = {f["id"]: f for f in read_json(tiny.data("tiny-features")) if f["id"] in set(ids)}
    if len(info) < len(ids):  # planted scores are read over whole runs
        return {"feature_info": {}}
    return {"feature_info": {i: info[i] for i in ids}, "category_words": category_words()}


def category_words() -> dict[str, list[str]]:
    """Category -> the words that name it: its own name and its topics' names."""
    words: dict[str, set[str]] = {}
    for row in read_jsonl(tiny.data("tiny-documents")):
        words.setdefault(row["category"], {row["category"]}).add(row["topic"])
    return {category: sorted(found) for category, found in sorted(words.items())}


def background_report(background: Background) -> dict[str, Any]:
    """Spread, constant predictor and on-shell angle of a background."""
    import math

    degrees = math.degrees(math.asin(math.sqrt(max(background.spread, 0.0))))
    return {
        "spread": background.spread,
        "constant_cosine": background.constant_cosine,
        "on_shell_degrees": degrees,
        "n": background.n,
        "texts": background.texts,
    }


def own_version() -> str:
    """The installed version."""
    return version("dragoman")


def versions() -> dict[str, str]:
    """What the rows depend on besides the plan."""
    found = {"python": platform.python_version()}
    for name in ("dragoman", "dragoman-tiny", "numpy", "torch", "transformers", "tokenizers", "peft"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found


def _weights(site: Site) -> str:
    """Digest of a model's files by name, size and time, and of its config: reading gigabytes would cost more."""
    ref = f"{site.model}@{site.revision}" if site.revision else site.model
    folder = folder_of(ref)
    return digest(
        *(
            f"{p.name}:{p.resolve().name}:{p.stat().st_size}:{p.stat().st_mtime_ns}"
            for p in sorted(folder.glob("*.safetensors"))
        ),
        folder / "config.json",
    )
