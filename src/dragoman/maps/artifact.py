"""A crossing as a folder that can be shared: ``crossing.json``, arrays, the texts it was read from, a README.

In: a ``Crossing``, or such a folder. Out: the folder, the same bytes for the same crossing; the crossing again, which
carries the same. Refuses folders that hold something else, another format, and files that are missing, torn or changed.

``crossing.json`` is written last. It holds the sha256 of every other file but the README, which its owner may edit.
"""

from __future__ import annotations

import gzip
import io
import json
import re
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import Field

from dragoman.core import Background, Refusal, Site, frozen, is_format
from dragoman.maps.aligned import Firings
from dragoman.maps.diagnostics import Baselines, beside_baselines, usable
from dragoman.maps.dictionary import DictionaryKey
from dragoman.maps.direct import DirectTable, FiringSums
from dragoman.maps.firing_tokens import FiringTokens
from dragoman.maps.linear import LinearMap
from dragoman.maps.moments import FoldedMoments, Moments
from dragoman.maps.words import FiringWords
from dragoman.records import Record
from dragoman.store import (
    Contents,
    digest,
    file_sha256,
    plain,
    read_json,
    read_jsonl,
    write_arrays,
    write_bytes,
    write_json,
    write_text,
)
from dragoman.store.outputs import new_folder

if TYPE_CHECKING:
    from dragoman.maps.crossing import Crossing

FORMAT = 1  # of the folder
_INDEX = "crossing.json"
_TEXTS = "texts.jsonl.gz"
_NEEDED = {"aligned": {"map", "back", "baselines", "backgrounds", "dictionary"}, "post": {"map", "backgrounds"}}
_BACKGROUNDS = Contents(called="backgrounds", holds=None, arrays={"source": "p", "target": "q"})
_BASELINES = Contents(
    called="baselines",
    holds=None,
    arrays={"random_coverage": "r", "random_norm": "r", "dictionary_coverage": "d", "dictionary_cycle": "d"},
)


class DictionaryInfo(Record):
    """Which dictionary a crossing was fitted on: how many features have a direction, and a digest of their rows."""

    features: int
    digest: str


class TextsInfo(Record):
    """Digest of the texts both models read; how many activations each background is the mean of."""

    digest: str
    n_source: Annotated[int, Field(gt=0)]
    n_target: Annotated[int, Field(gt=0)]


class CrossingIndex(Record):
    """``crossing.json``."""

    holds: Literal["crossing"]
    format: int
    dragoman: str
    recipe: Literal["aligned", "post"]
    source: str
    target: str
    source_width: int
    target_width: int
    dictionary: DictionaryInfo | None
    texts: TextsInfo
    method: str
    map_settings: Mapping[str, Any]
    settings: Mapping[str, Any]
    held_out: Mapping[str, float]
    files: Mapping[str, str]

    @classmethod
    def at(cls, folder: Path) -> CrossingIndex:
        """The index of a folder.

        Raises:
            Refusal: it holds no crossing, or one of another format.
        """
        path = folder / _INDEX
        stated = read_json(path) if path.is_file() else {}
        if not isinstance(stated, dict) or stated.get("holds") != "crossing":
            raise Refusal(f"{folder}", "it does not hold a crossing", "name a folder that dragoman fit wrote")
        if not is_format(stated.get("format"), FORMAT):
            raise Refusal(
                f"{folder}",
                f"it is a crossing of format {stated.get('format')}, and this dragoman reads format {FORMAT}",
                "use the version that wrote it, or fit the crossing again",
            )
        return cls.read(json.dumps(stated), f"{path}")


def save_crossing(crossing: Crossing, folder: Path) -> None:
    """Write a new folder; see ``Crossing.save``."""
    map_, own = crossing.map, crossing.source_background
    if map_ is None or own is None:
        raise Refusal(f"saving a crossing to {folder}", "no map was fitted", "prepare it with route map")
    if crossing.direct is not None and crossing.dictionary is None:
        raise Refusal(
            f"saving a crossing to {folder}",
            "it does not know the dictionary of its direct table",
            "make it with that dictionary",
        )
    with new_folder(folder) as made:
        _write_parts(crossing, made)
        means = {"source": own.mean, "target": crossing.background.mean}
        write_arrays(made / "backgrounds.safetensors", means)
        if crossing.texts:
            write_bytes(made / _TEXTS, _packed(crossing.texts))
        names = sorted(path.relative_to(made).as_posix() for path in made.rglob("*") if path.is_file())
        key = crossing.dictionary
        index = CrossingIndex(
            holds="crossing",
            format=FORMAT,
            dragoman=version("dragoman"),
            recipe=crossing.recipe,
            source=str(crossing.source),
            target=str(crossing.target),
            source_width=map_.mean_x.size,
            target_width=map_.mean_y.size,
            dictionary=_information(key),
            texts=TextsInfo(digest=crossing.background.texts, n_source=own.n, n_target=crossing.background.n),
            method=map_.method,
            map_settings=map_.settings,
            settings=crossing.settings,
            held_out=map_.report["held_out"],
            files={name: file_sha256(made / name) for name in names},
        )
        write_text(made / "README.md", readme(crossing, index))
        write_json(made / _INDEX, index.to_json())


def _write_parts(crossing: Crossing, made: Path) -> None:
    parts: dict[str, LinearMap | FiringSums | Firings | FiringWords | FiringTokens | DictionaryKey | Moments | None] = {
        "map": crossing.map,
        "back": crossing.back,
        "fired": crossing.fired,
        "firings": crossing.firings,
        "words": crossing.words,
        "tokens": crossing.tokens,
        "dictionary": crossing.dictionary,
        "moments": crossing.moments if crossing.folds is None else None,  # else they are those of all folds
    }
    for name, part in parts.items():
        if part is not None:
            part.save(made / f"{name}.safetensors")
    for name, table in (("direct", crossing.direct), ("partial", crossing.partial)):
        if table is not None:
            table.save(made / f"{name}.safetensors", exact=True)
    if crossing.folds is not None:
        crossing.folds.save(made / "folds")
    if crossing.baselines is not None:
        write_arrays(
            made / "baselines.safetensors", {name: getattr(crossing.baselines, name) for name in _BASELINES.arrays}
        )


def _packed(texts: tuple[str, ...]) -> bytes:
    """Texts as gzipped JSON lines, the same bytes whenever they are written."""
    held = io.BytesIO()
    with gzip.GzipFile(filename="", fileobj=held, mode="wb", mtime=0) as file:
        for text in texts:
            file.write(json.dumps({"text": text}).encode() + b"\n")
    return held.getvalue()


def parts_of(folder: Path) -> Mapping[str, Any]:
    """The fields of the crossing in a folder; see ``Crossing.load``."""
    index = CrossingIndex.at(folder)
    _refuse_changed(index, folder)

    def there(name: str) -> Path | None:
        return folder / f"{name}.safetensors" if f"{name}.safetensors" in index.files else None

    source, target = Site.parse(index.source), Site.parse(index.target)
    means, _ = _BACKGROUNDS.read(folder / "backgrounds.safetensors")
    map_ = _checked_map(index, folder)
    folds = FoldedMoments.load(folder / "folds") if "folds/folds.json" in index.files else None
    base = _BASELINES.read(path)[0] if (path := there("baselines")) else None
    texts = index.texts
    return {
        "recipe": index.recipe,
        "source": source,
        "target": target,
        "background": Background(target, frozen(means["target"]), texts.n_target, texts.digest),
        "source_background": Background(source, frozen(means["source"]), texts.n_source, texts.digest),
        "map": map_,
        "moments": folds.total if folds is not None else Moments.load(folder / "moments.safetensors"),
        "direct": DirectTable.load(path, exact=True) if (path := there("direct")) else None,
        "back": LinearMap.load(path) if (path := there("back")) else None,
        "baselines": None if base is None else Baselines(**{k: frozen(v, np.float64) for k, v in base.items()}),
        "folds": folds,
        "fired": FiringSums.load(path) if (path := there("fired")) else None,
        "firings": Firings.load(path) if (path := there("firings")) else None,
        "words": FiringWords.load(path) if (path := there("words")) else None,
        "tokens": FiringTokens.load(path) if (path := there("tokens")) else None,
        "solved": DirectTable.load(path, exact=True) if (path := there("partial")) else None,
        "dictionary": _checked_key(index, folder),
        "texts": _texts(index, folder),
        "settings": index.settings,
        "digests": {"crossing": file_sha256(folder / _INDEX)},
    }


def _checked_map(index: CrossingIndex, folder: Path) -> LinearMap:
    """The map of a crossing; refuse an index that tells of other sites, widths, settings or numbers than its own."""
    map_ = LinearMap.load(folder / "map.safetensors")
    stated = (index.source, index.target, (index.source_width, index.target_width), index.method, index.held_out)
    own = (str(map_.source), str(map_.target), map_.weight.shape, map_.method, map_.report.get("held_out"))
    if stated != own or plain(index.map_settings) != plain(map_.settings):
        raise Refusal(f"{folder}", f"its {_INDEX} tells of another map than it holds", "fetch the crossing again")
    return map_


def _information(key: DictionaryKey | None) -> DictionaryInfo | None:
    return None if key is None else DictionaryInfo(features=len(key.ids), digest=key.digest)


def _checked_key(index: CrossingIndex, folder: Path) -> DictionaryKey | None:
    """The key of the dictionary a crossing was fitted on; refuse an index that tells of another, or of none."""
    name = "dictionary.safetensors"
    key = DictionaryKey.load(folder / name) if name in index.files else None
    if index.dictionary != _information(key):
        why = f"its {_INDEX} tells of another dictionary than it was fitted on"
        raise Refusal(f"{folder}", why, "fetch the crossing again")
    return key


def _refuse_changed(index: CrossingIndex, folder: Path) -> None:
    """Refuse files that are not the crossing's, missing, torn or changed."""
    needed = {f"{name}.safetensors" for name in _NEEDED[index.recipe]}
    needed.add("folds/folds.json" if index.recipe == "aligned" else "moments.safetensors")
    lacking = sorted(needed - set(index.files))
    if lacking:
        raise Refusal(f"{folder}", f"its {_INDEX} does not name {lacking[0]}", "fetch the crossing again")
    parts = sorted(folder.rglob("*.safetensors"))  # without one of them it would carry otherwise, or have no windows
    for part in [*parts, *folder.glob(_TEXTS)]:
        if (name := part.relative_to(folder).as_posix()) not in index.files:
            raise Refusal(f"{folder}", f"its {_INDEX} does not name {name}", "fetch the crossing again")
    for name, sha256 in index.files.items():
        path = folder / name
        if PurePath(name).is_absolute() or ".." in PurePath(name).parts:
            raise Refusal(f"{folder}", f"its {_INDEX} names a file outside of it, {name}", "do not use it")
        if not path.is_file():
            raise Refusal(f"{path}", "it is missing from the crossing", "fetch the crossing again")
        if file_sha256(path) != sha256:
            raise Refusal(f"{path}", f"it is not the file that {_INDEX} names (torn or changed)", "fetch it again")


def _texts(index: CrossingIndex, folder: Path) -> tuple[str, ...]:
    if _TEXTS not in index.files:
        return ()
    texts = tuple(str(row.get("text")) for row in read_jsonl(folder / _TEXTS))
    if digest("\n".join(texts)) != index.texts.digest:
        raise Refusal(f"{folder / _TEXTS}", "they are not the texts its maps were read from", "fetch it again")
    return texts


def readme(crossing: Crossing, index: CrossingIndex) -> str:
    """A card for people: what this is, how good it is beside its baselines, and how to use it."""
    source, target = _public(crossing.source), _public(crossing.target)
    bases = [site.model for site in (crossing.source, crossing.target) if re.fullmatch(r"[\w.-]+/[\w.-]+", site.model)]
    front = ["library_name: dragoman", "tags:", *(f"- {tag}" for tag in ("dragoman", "crossing", "interpretability"))]
    front += ["base_model:", *(f"- {json.dumps(base)}" for base in bases)] if bases else []
    word, why = usable(index.held_out)
    how = "tokens that end at the same character" if crossing.recipe == "aligned" else "one mean row a text"
    on = f"It was fitted on a dictionary of {index.dictionary.features} features. " if index.dictionary else ""
    routes = "auto, map, direct, blend, dictionary" if crossing.recipe == "aligned" else "map"
    lines = [
        "---",
        *front,
        "---",
        f"# From {source} to {target}",
        "",
        "A dragoman crossing: it carries directions of one model's residual stream into another's, so that a",
        f"verbalizer of the second can say what features of the first mean. The map is {index.method}, from width",
        f"{index.source_width} to {index.target_width}, fitted on {how}.",
        *_penalty_lines(crossing),
        f"{on}Made by dragoman {index.dragoman}.",
        "",
        "## How good it is",
        "",
        f"**{word.capitalize()}**: {why}. On {index.held_out['n']:.0f} pairs of rows from texts it was not fitted on:",
        "",
        *_table(index.held_out),
        "",
        "## How to use it",
        "",
        "```",
        "dragoman explain SAE --through FOLDER --by AV",
        "```",
        "",
        f"`SAE` is the dictionary, `FOLDER` this folder, `AV` a verbalizer of {target}; routes: {routes}.",
        "",
    ]
    return "\n".join(lines)


def _table(held_out: Mapping[str, float]) -> list[str]:
    """The held-out report; every number beside what means nothing would reach."""
    shown = [
        f"| {measure} | " + " | ".join("" if one is None else f"{one:.3f}" for one in numbers) + " |"
        for measure, *numbers in beside_baselines(held_out)
    ]
    return ["| measure | this map | the mean alone | rows dealt at random |", "| --- | --- | --- | --- |", *shown]


def inspect_crossing(folder: Path) -> CrossingIndex:
    """What a crossing's folder says of it, which is checked with every file's bytes.

    Raises:
        Refusal: it holds no crossing, one of another format, files that are missing, torn or changed, or it tells of
            another map, dictionary or texts than it holds.
    """
    index = CrossingIndex.at(folder)
    _refuse_changed(index, folder)
    for check in (_checked_map, _checked_key, _texts):
        check(index, folder)
    return index


def lines_of(index: CrossingIndex) -> list[str]:
    """What a crossing is, in lines for a terminal."""
    word, why = usable(index.held_out)
    how = "tokens that end together" if index.recipe == "aligned" else "one mean row a text, the post's recipe"
    fitted = f"{index.dictionary.features} features" if index.dictionary else "none: any dictionary at its source"
    return [
        f"from        {index.source}, width {index.source_width}",
        f"to          {index.target}, width {index.target_width}",
        f"map         {index.method}, over {how}",
        *([f"penalty     {stated}"] if (stated := penalty_of(index.map_settings)) else []),
        f"dictionary  {fitted}",
        f"texts       {index.texts.n_source} activations of the source, {index.texts.n_target} of the target",
        f"made by     dragoman {index.dragoman}",
        f"{word}: {why}",
    ]


def penalty_of(settings: Mapping[str, Any]) -> str:
    """A ridge map's penalty, in its own units and relative to the source's mean variance; "" where there is none."""
    lam, relative = settings.get("lam"), settings.get("lam_rel")
    if not isinstance(lam, int | float) or not isinstance(relative, int | float):
        return ""
    return f"lambda {lam:.4g}, which is lambda_rel {relative:.2g} of the source's mean variance"


def _penalty_lines(crossing: Crossing) -> list[str]:
    """The penalty and, where it was chosen, why it is this one."""
    if crossing.map is None or not (stated := penalty_of(crossing.map.settings)):
        return []
    reason = (crossing.map.report.get("penalty") or {}).get("reason")
    return [f"Penalty: {stated}{f': {reason}' if reason else ''}.", ""]


def _public(site: Site) -> str:
    """A site without the place its model lies at on one machine."""
    local = PurePath(site.model).is_absolute() or site.model.startswith((".", "~"))
    name = PurePath(site.model).name if local else site.model
    return str(Site(name, site.block, site.revision))
