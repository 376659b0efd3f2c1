"""Examine a subject: every check whose means are at hand, or the quick ones before a run.

In: a ``Subject``. Out: findings in a fixed order. ``quick`` raises the first fault as a refusal; ``examine`` never
raises one, since a fault is its answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
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
from dragoman.store.arrays import load_background
from dragoman.verbalizers.protocol import AnyVerbalizer

T = TypeVar("T")


def examine(subject: Subject) -> list[Finding]:
    """Every check; what is not at hand is skipped with the reason."""
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
    sae: str | None = None,
    sae_how: Mapping[str, Any] | None = None,
    by: str | None = None,
    contract: str | None = None,
    settings: Mapping[str, Any] | None = None,
    base: str | None = None,
    source: str | None = None,
    ar: str | None = None,
    texts: tuple[str, ...] | None = None,
    dtype: str = "float32",
    device: str = "cpu",
) -> Subject:
    """Open what is named, by reference; what does not open becomes a finding, not an end.

    ``sae``: dictionary, with ``sae_how`` as ``open_dictionary`` takes it. ``by``: verbalizer, with ``contract``,
    ``settings`` and ``base`` as ``Verbalizer.open`` takes them. ``source``: MODEL:BLOCK where the dictionary's
    directions live, None takes what it says itself. ``ar``: reconstructor, whose files are read.
    """
    refusals: dict[str, Refusal] = {}

    def tried(name: str, opening: Callable[[], T]) -> T | None:
        try:
            return opening()
        except Refusal as refusal:
            refusals[name] = refusal
            return None

    how: dict[str, Any] = {"dtype": dtype, "device": device}
    verbalizer = dictionary = encoder = reader = background = None
    if by:
        verbalizer = tried(by, lambda: Verbalizer.open(by, contract=contract, settings=settings, base=base, **how))
    if sae:
        dictionary = tried(sae, lambda: open_dictionary(sae, **(sae_how or {})))
    if sae and dictionary is not None:
        encoder = tried(sae, dictionary.need_encoder)
        background = tried(sae, lambda: _background(dictionary, verbalizer))
    site = tried(source, lambda: Site.parse(source)) if source else encoder.site if encoder else None
    if sae and site:
        reader = tried(str(site), lambda: Reader.open(site, **how))
    return Subject(
        by=by,
        verbalizer=verbalizer,
        base=base or _given(verbalizer),
        dictionary=sae,
        encoder=encoder,
        source=reader,
        ar=ar,
        background=background,
        texts=texts or SENTENCES,
        refusals=refusals,
    )


def _background(dictionary: Dictionary, verbalizer: Verbalizer | None) -> Background | None:
    """The verbalizer's background where one lies beside the dictionary."""
    folder = dictionary.direct_folder(verbalizer.site) if verbalizer is not None else None
    return load_background(folder / BACKGROUND) if folder is not None else None
