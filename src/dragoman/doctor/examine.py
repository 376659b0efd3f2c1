"""Examine a subject: every check whose means are at hand, or the quick ones before a run.

In: a ``Subject``, or what it is opened from. Out: findings in a fixed order. ``quick`` raises the first fault as a
refusal; ``examine`` never raises one, since a fault is its answer. Refuses a call that names nothing to examine, and
texts that are none or too short.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from dragoman.core import Background, Refusal, Site
from dragoman.dictionaries import Dictionary, Encoder, open_dictionary
from dragoman.dictionaries.beside import BACKGROUND
from dragoman.doctor.checkpoint import check_checkpoint
from dragoman.doctor.finding import Check, Finding
from dragoman.doctor.injection import check_injection, check_reading
from dragoman.doctor.prompt import check_prompt
from dragoman.doctor.stream import check_background, check_dictionary, check_stream, orientation
from dragoman.doctor.subject import SENTENCES, Subject
from dragoman.models.decode import Verbalizer
from dragoman.models.harvest import Reader
from dragoman.models.load import check_device
from dragoman.models.sizes import check_read
from dragoman.store import listed_texts
from dragoman.store.arrays import load_background
from dragoman.verbalizers.protocol import AnyVerbalizer

MOST_TEXTS = 32  # that the source model reads
T = TypeVar("T")


def examine(
    subject: Subject | None = None,
    /,
    *,
    sae: str | Path | Dictionary | None = None,
    by: str | Path | AnyVerbalizer | None = None,
    source: str | Site | None = None,
    ar: str | Path | None = None,
    contract: str | None = None,
    settings: Mapping[str, Any] | None = None,
    base: str | None = None,
    texts: Sequence[str] | None = None,
    dtype: str = "float32",
    device: str = "cpu",
) -> list[Finding]:
    """Every check of a dictionary, a verbalizer and what lies between them.

    What is not at hand is skipped with the reason; what does not open is a finding.

    Args:
        subject: what is at hand already, measured once; then nothing else is named.
        sae: dictionary, by reference or opened by ``open_dictionary``.
        by: verbalizer, by reference or open.
        source: MODEL:BLOCK where the dictionary's directions live; None takes what it says itself.
        ar: reference of a reconstructor, whose files are checked.
        contract: with ``settings`` and ``base``, how a verbalizer that is named by reference is fed.
        settings: as of ``Verbalizer.open``.
        base: as of ``Verbalizer.open``.
        texts: what the source model reads, at most 32 of them; None takes six of our own.
        dtype: of models that are opened here.
        device: of models that are opened here.

    Raises:
        Refusal: nothing is named, or a source alone; a subject and more; settings of a verbalizer that is open; a
            source that is no site or whose model is nowhere, a device that is not here, or texts that are no list of
            texts, or too short.
    """
    named = (sae, by, source, ar, contract, settings, base, texts)
    if subject is not None:
        if any(one is not None for one in named):
            raise Refusal("examine", "it is given a subject and what to open besides", "pass one or the other")
        return _examined(subject)
    if sae is None and by is None and (ar is None or source is not None):
        why = "nothing is named" if source is None else "a source alone says nothing about a dictionary or a verbalizer"
        raise Refusal("examine", why, "pass sae= or by=, or both")
    by = str(by) if isinstance(by, Path) else by
    if not (by is None or isinstance(by, str)) and any(one is not None for one in (contract, settings, base)):
        why = f"{by.name} is open, so it is settled how it is fed"
        raise Refusal("examine", why, "leave contract, settings and base out")
    if isinstance(texts, str):
        raise Refusal("texts", "they are one text, and several are read", "pass a list of texts")
    check_device(device)
    site = Site.parse(source) if isinstance(source, str) else source
    if site is not None:
        check_read(site)
    texts = None if texts is None else listed_texts(texts, "pass a list of texts")
    return _examined(
        open_subject(
            sae=str(sae) if isinstance(sae, Path) else sae,
            by=by,
            source=site,
            ar=str(ar) if isinstance(ar, Path) else ar,
            contract=contract,
            settings=settings,
            base=base,
            texts=texts,
            dtype=dtype,
            device=device,
        )
    )


def _examined(subject: Subject) -> list[Finding]:
    """What every check finds."""
    found = [Check("opening", "opening it").refused(name, refusal) for name, refusal in subject.refusals.items()]
    if subject.by is not None or subject.ar is not None:
        found += check_checkpoint(subject)
    if subject.verbalizer is not None:
        for check in (check_prompt, check_injection, check_reading, check_background):
            found += check(subject)
    if subject.encoder is not None or subject.dictionary is not None:
        found += check_dictionary(subject)
    if subject.source is not None:
        found += check_stream(subject)
    return found


def quick(verbalizers: Iterable[AnyVerbalizer], *, encoder: Encoder | None = None) -> list[Finding]:
    """What takes seconds, before a run: files, prompt, injection and caches of verbalizers, a dictionary's shape.

    A few passes over the prompt and three sentences for each verbalizer in this process; two short answers from each
    that is elsewhere. Returns the findings, none of them a fault: the first fault is refused in one sentence.
    """
    found: list[Finding] = []
    for verbalizer in verbalizers:
        subject = Subject(by=verbalizer.name, verbalizer=verbalizer, base=_given(verbalizer))
        for check in (check_checkpoint, check_prompt, check_injection):
            found += passed(check(subject))
        found += passed(check_reading(subject, texts=False))
    if encoder is not None:
        found += passed([orientation("dictionary", encoder)])
    return found


def _given(verbalizer: AnyVerbalizer | None) -> str | None:
    """The base a person gave for an open verbalizer: the one it runs on, where its sidecar names another or none."""
    if not isinstance(verbalizer, Verbalizer) or verbalizer.base == verbalizer.sidecar.base:
        return None
    return verbalizer.base


def passed(findings: list[Finding]) -> list[Finding]:
    """The findings; the first fault among them is raised."""
    for finding in findings:
        if finding.status == "fault":
            raise finding.refusal()
    return findings


def open_subject(
    *,
    sae: str | Dictionary | None = None,
    sae_how: Mapping[str, Any] | None = None,
    by: str | AnyVerbalizer | None = None,
    contract: str | None = None,
    settings: Mapping[str, Any] | None = None,
    base: str | None = None,
    source: str | Site | None = None,
    ar: str | None = None,
    texts: Sequence[str] | None = None,
    dtype: str = "float32",
    device: str = "cpu",
) -> Subject:
    """Open what is named by reference; what does not open becomes a finding, not an end. What is open stays as it is.

    ``sae``: dictionary, with ``sae_how`` as ``open_dictionary`` takes it. ``by``: verbalizer, with ``contract``,
    ``settings`` and ``base`` as ``Verbalizer.open`` takes them. ``source``: MODEL:BLOCK where the dictionary's
    directions live, None takes what it says itself. ``ar``: reconstructor, whose files are read. ``texts``: of which
    the source model reads the first 32.
    """
    refusals: dict[str, Refusal] = {}

    def tried(name: str, opening: Callable[[], T]) -> T | None:
        try:
            return opening()
        except Refusal as refusal:
            refusals[name] = refusal
            return None

    encoder = reader = background = stated = None
    verbalizer, by_ref = (None, by) if by is None or isinstance(by, str) else (by, by.name)
    dictionary, sae_ref = (sae, sae.ref) if isinstance(sae, Dictionary) else (None, sae)
    if by_ref and verbalizer is None:
        opening = partial(Verbalizer.open, by_ref, contract=contract, settings=settings, base=base)
        verbalizer = tried(by_ref, partial(opening, dtype=dtype, device=device))
    if sae_ref and dictionary is None:
        dictionary = tried(sae_ref, lambda: open_dictionary(sae_ref, **(sae_how or {})))
    if sae_ref and dictionary is not None:
        encoder = tried(sae_ref, dictionary.need_encoder)
        background = tried(sae_ref, lambda: _background(dictionary, verbalizer))
        stated = dictionary.asked_site or (encoder.site if encoder else None)
    site = tried(source, lambda: Site.parse(source)) if isinstance(source, str) and source else source or stated
    if sae_ref and isinstance(site, Site):
        reader = tried(str(site), lambda: Reader.open(site, dtype=dtype, device=device, whole=True))
    return Subject(
        by=by_ref,
        verbalizer=verbalizer,
        base=base or _given(verbalizer),
        dictionary=sae_ref,
        encoder=encoder,
        source=reader,
        ar=ar,
        background=background,
        texts=tuple(texts[:MOST_TEXTS]) if texts else SENTENCES,
        refusals=refusals,
    )


def _background(dictionary: Dictionary, verbalizer: AnyVerbalizer | None) -> Background | None:
    """The verbalizer's background where one lies beside the dictionary."""
    folder = dictionary.direct_folder(verbalizer.site) if verbalizer is not None else None
    return load_background(folder / BACKGROUND) if folder is not None else None
