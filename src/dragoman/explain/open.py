"""From references to things: the dictionary's directions and labels, the verbalizers, the texts.

In: a ``Request``. Out: Directions with labels, open verbalizers, texts. Refuses references that lead nowhere, and
checkpoints whose contract nobody knows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dragoman import tiny
from dragoman.core import Directions, Refusal
from dragoman.directions import DictionaryRef, pinned, read_directions
from dragoman.explain.request import Request
from dragoman.lm.decode import LocalVerbalizer
from dragoman.lm.resolve import dictionary_at, hub_place
from dragoman.neuronpedia import Export, NeuronpediaRef, SourceRecord, is_reference, parse
from dragoman.store import read_json, read_jsonl, read_texts
from dragoman.verbalize import registry


def dictionary_of(request: Request) -> Path | DictionaryRef:
    """Where the dictionary's files are: a packaged folder, a path, or a reference read by ranges, at one commit.

    Raises:
        Refusal: a Neuronpedia id without an export that says what the source was made from.
    """
    named = _neuronpedia(request.dictionary)
    where = DictionaryRef.parse(_record(request, named).dictionary) if named else dictionary_at(request.dictionary)
    return pinned(where) if isinstance(where, DictionaryRef) else where


def directions_of(request: Request) -> Directions:
    """The directions asked for, with labels from an export or the embedded list.

    A Neuronpedia id brings its place in the model along; another dictionary says it itself, or the request does.

    Raises:
        Refusal: features named twice, or whatever the readers of dictionaries and exports refuse.
    """
    named, site = _neuronpedia(request.dictionary), request.source
    wanted: Sequence[str] | None = request.features or None
    if named and named.index is not None:
        if wanted:
            raise Refusal(f"'{request.dictionary}'", "its features are named twice", "drop --features, or the index")
        wanted = (named.index,)
    if named and site is None:
        site = _record(request, named).site
    found = read_directions(dictionary_of(request), site=site, features=wanted)
    if request.labels is None:
        return with_labels(found, request.dictionary)
    told = Export.open(request.labels, named.at(None) if named else None).labels().chosen()
    return replace(found, labels=tuple(told.get(i, "") for i in found.ids))


def _neuronpedia(dictionary: str) -> NeuronpediaRef | None:
    """A Neuronpedia id; None for anything else, and for a path that only looks like one."""
    return parse(dictionary) if is_reference(dictionary) and not Path(dictionary).exists() else None


def _record(request: Request, named: NeuronpediaRef) -> SourceRecord:
    """What the export says of the source."""
    record = Export.open(request.labels, named.at(None)).source() if request.labels else None
    if record is not None:
        return record
    raise Refusal(
        f"'{request.dictionary}'",
        "a Neuronpedia id does not say where the weights are"
        + (f", and the export in {request.labels} has no source.jsonl" if request.labels else ""),
        "pass --labels with the folder or address of its export, or name the dictionary as sae:RELEASE/SAE_ID",
    )


def open_verbalizer(ref: str, request: Request, *, native: bool = False) -> LocalVerbalizer:
    """A verbalizer, fed as its sidecar says, as the registry knows, or as the request says (which is for ``by``)."""
    said = (None, {}, None) if native else (request.contract, request.settings, request.base)
    return LocalVerbalizer(ref, **how_fed(ref, *said), dtype=request.dtype, device=request.device)


def how_fed(ref: str, contract: str | None, settings: Mapping[str, Any], base: str | None) -> dict[str, Any]:
    """``contract``, ``settings`` and ``base`` of a verbalizer: what is said, and else what the registry knows.

    Raises:
        Refusal: the registry is sure and is contradicted; or not sure, and nobody says; or knows that the verbalizer
            lies in a sub-folder of its repository.
    """
    known = registry.find(ref)
    if known is None:
        return {"contract": contract, "settings": settings or None, "base": base}
    place = hub_place(ref)
    if known.folder and place and not place.inside and not Path(ref).exists():
        raise Refusal(
            f"verbalizer {ref}", f"it lies in a folder of that repository, {known.folder}", f"use {known.ref}"
        )
    if known.usable:
        stated = {"contract": known.contract, **known.settings}
        given = {**({"contract": contract} if contract else {}), **settings}
        odd = next((name for name in given if name in stated and given[name] != stated[name]), None)
        if odd:
            raise Refusal(
                f"{odd} {given[odd]!r} for {ref}",
                f"it was trained with {odd} {stated[odd]!r}, as dragoman's registry knows",
                "leave it out, or, where the registry is wrong, pass a copy of the checkpoint in a folder of your own",
            )
    return {
        "contract": contract or registry.contract_of(ref),
        "settings": {**known.settings, **settings} or None,
        "base": base or known.switches.stacked_on,
    }


def default_texts(texts: str | None, split: str = "map") -> list[str]:
    """Texts of a file, or those that come with the embedded pair.

    ``split``: "map", a thousand sentences; "direct", nine thousand openings; "all", both.
    """
    if texts is not None:
        return read_texts(Path(texts))
    wanted = ("map", "direct") if split == "all" else (split,)
    rows = read_jsonl(tiny.data("tiny-documents"))
    return [row["text"] for name in wanted for row in rows if row["split"] == name]


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
