"""From references to things: the dictionary's directions and labels, the verbalizers, the texts.

In: a ``Request``. Out: Directions with labels, open verbalizers, texts. Refuses references that lead nowhere, and
checkpoints whose contract nobody knows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from dragoman import tiny
from dragoman.core import Directions, Refusal, Site
from dragoman.dictionaries import DictionaryRef, Encoder, check_encoder, pinned, read_directions, read_encoder
from dragoman.dictionaries.beside import TRUTH, beside, read_truth
from dragoman.explain.request import Request, Talk
from dragoman.models.decode import LocalVerbalizer
from dragoman.models.resolve import dictionary_at, hub_place
from dragoman.neuronpedia import Export, NeuronpediaRef, SourceRecord, is_reference, parse, refuse_elsewhere
from dragoman.store import read_jsonl, read_texts
from dragoman.verbalizers import registry

OTHER_LABELS = "pass the export of this dictionary's own source (--resid-pre for one that counts the block it enters)"


def dictionary_of(request: Request) -> Path | DictionaryRef:
    """Where the dictionary's files are: a packaged folder, a path, or a reference read by ranges, at one commit.

    Raises:
        Refusal: a Neuronpedia id without an export that says what the source was made from.
    """
    named = _neuronpedia(request.dictionary)
    where = DictionaryRef.parse(_record(request, named).dictionary) if named else dictionary_at(request.dictionary)
    return pinned(where) if isinstance(where, DictionaryRef) else where


def directions_of(request: Request) -> Directions:
    """The directions asked for, with labels from an export or from beside the dictionary.

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
    found = read_directions(dictionary_of(request), site=site, features=wanted, **how_rows(request))
    if request.labels is None:
        return found
    export = Export.open(request.labels, named.at(None) if named else None)
    if named is None:
        _refuse_others_labels(export, found.site, resid_pre=request.resid_pre)
    told = export.labels().chosen()
    return replace(found, labels=tuple(told.get(i, "") for i in found.ids))


def how_rows(request: Request) -> dict[str, Any]:
    """What the request says of how the dictionary's rows lie, as ``read_directions`` takes it."""
    return {"key": request.key, "d_model": request.d_model, "orientation": request.orientation}


def how_encoder(request: Request) -> dict[str, Any]:
    """What the request says of the dictionary's encoder, as ``read_encoder`` takes it."""
    return {"key": request.key, "orientation": request.orientation, "k": request.k}


def encoder_of(request: Request) -> Encoder:
    """The dictionary's encoder, whole.

    Raises:
        Refusal: it cannot be read or used; the sentence says how to do without it.
    """
    with _without():
        return read_encoder(dictionary_of(request), **how_encoder(request))


def refuse_unusable_encoder(request: Request) -> None:
    """Refuse, before any model is opened for it, an encoder that could not be used later; only headers are read.

    Raises:
        Refusal: as ``encoder_of``.
    """
    with _without():
        required = request.route not in ("map", "auto")
        check_encoder(dictionary_of(request), **how_encoder(request), required=required)


@contextmanager
def _without() -> Iterator[None]:
    """Refusals of an encoder, with the way to carry the dictionary's rows that needs none."""
    try:
        yield
    except Refusal as refusal:
        instead = f"{refusal.instead}, or carry its rows without an encoder: --map post --route map"
        raise Refusal(refusal.what, refusal.why, instead) from refusal


def tell_dead(directions: Directions, talk: Talk) -> None:
    """Say how many features were set aside because they have no direction."""
    dead, first = len(directions.dead), ", ".join(directions.dead[:5])
    if dead:
        more = ", ..." if dead > 5 else ""
        talk.say(
            f"set aside {dead} of {dead + len(directions)} features whose rows are zero and have no direction"
            f" ({first}{more})"
        )


def _refuse_others_labels(export: Export, site: Site, *, resid_pre: bool) -> None:
    """Refuse the labels of an export that is of another block or model than the dictionary."""
    record = export.source()
    if record is not None and record.hook is not None:
        there = record.site  # also refuses what is not in the residual stream
        resid_pre = there.block != record.ref.layer
    ref = record.ref if record is not None else export.told_by_rows()
    refuse_elsewhere(ref, site, resid_pre=resid_pre, whose="the dictionary's", instead=OTHER_LABELS)


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


def planted(dictionary: Path | DictionaryRef, ids: Sequence[str]) -> dict[str, Any]:
    """Planted truth that lies beside a dictionary, of the features asked for, and the words that name a category.

    Scores by planted truth are read over whole runs: with a feature of which none is known there are none.
    """
    path = beside(dictionary, TRUTH)
    if path is None:
        return {}
    truth = read_truth(path)
    if not all(i in truth.features for i in ids):
        return {"feature_info": {}}
    return {"feature_info": {i: truth.features[i] for i in ids}, "category_words": truth.category_words}
