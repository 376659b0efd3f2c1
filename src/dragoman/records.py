"""What a run folder holds, typed: cards, rows, conditions. The scores are in `scores`.

In: JSON text, or values. Out: frozen records, and JSON objects to write. Refuses a record whose
fields are missing, unknown or of another type, by the name of the file it stands in. Computes nothing.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, field_validator, model_validator

from dragoman.core import Refusal, harmless

SOURCE_ROWS = "source"  # among a run's vectors: the dictionary's own rows, which a reconstructor there is asked for

Status = Literal["ok", "weak", "differs", "unverified"]
Reading = Literal["fires", "writes"]
READINGS: tuple[Reading, ...] = ("fires", "writes")
Role = Literal["native", "claim", "null"]
NullName = Literal["random directions", "shuffled map", "unused rows", "background alone"]
NULL_NAMES: tuple[NullName, ...] = ("random directions", "shuffled map", "unused rows", "background alone")


def _refusal(error: ValidationError, where: str) -> Refusal:
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(map(str, first["loc"])) or "the record"
    return Refusal(where, f"{place}: {first['msg'][:1].lower()}{first['msg'][1:]}", "use the version that wrote it")


def _with_tuples(value: object) -> object:
    if isinstance(value, Mapping):
        return {key: _with_tuples(one) for key, one in value.items()}
    return tuple(map(_with_tuples, value)) if isinstance(value, list) else value


_NAMES: dict[frozenset[str], set[str]] = {}  # of the fields that were set in some record


class Record(BaseModel):
    """A frozen record that knows all of its fields; numbers are not taken from text."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    def model_post_init(self, context: Any, /) -> None:
        """Have the names of the fields that were set once for all records alike: they are a third of their size."""
        names = self.__pydantic_fields_set__
        object.__setattr__(self, "__pydantic_fields_set__", _NAMES.setdefault(frozenset(names), names))

    @field_validator("format", mode="before", check_fields=False)
    @classmethod
    def _whole_number(cls, value: object) -> object:
        if type(value) is not int:
            raise ValueError("a format is a whole number")
        return value

    @classmethod
    def read(cls, text: str | bytes, where: str) -> Self:
        """A record from JSON text.

        Raises:
            Refusal: it is not JSON, lacks a field, or has an unknown one or one of another type; ``where`` names its
                file.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise _refusal(error, where) from error

    @classmethod
    def of(cls, told: object, where: str) -> Self:
        """A record from a JSON object that is parsed already, whose lists may stand for tuples; refusals as of `read`.

        Text that is not valid Unicode (half of a surrogate pair) is kept as it is, which JSON text cannot hold.
        """
        try:
            return cls.model_validate(_with_tuples(told))
        except ValidationError as error:
            raise _refusal(error, where) from error

    def to_json(self) -> dict[str, Any]:
        """Its fields as they are written, in the order they are declared."""
        return self.model_dump(mode="json")

    def set_fields(self) -> dict[str, Any]:
        """Its fields that were set, as they are, in the order they are declared."""
        return {name: getattr(self, name) for name in type(self).model_fields if name in self.model_fields_set}


def _status(value: object) -> object:
    """A status, also by the name that rows written before had for it."""
    return "differs" if value == "drift" else value


class Card(Record):
    """Diagnostics of one direction's crossing; None where something could not be known.

    ``coverage``: d H d' in [0, 1], the share of the direction the map explains. ``kappa``: cos(d, dH). ``norm``: |dW|.
    ``rel``: how little other texts would turn the image. ``cycle``: cosine after the map there and the map back.
    ``purity``: the feature's own part of the mixture its image is. ``*_over_random``, ``*_over_dictionary``: shares of
    random directions and of the dictionary's that have less. ``n_eff``: effective documents in which it fires.
    ``agreement``: cosine of the map's image with the direct route's row. ``margin``: that cosine less the largest with
    another feature, ``nearest``. ``home_*``: the same in the source itself. ``status`` and ``why``: one word and its
    reason. ``route`` and ``route_why``: how it was carried.
    """

    coverage: float | None = None
    kappa: float | None = None
    norm: float | None = None
    rel: float | None = None
    cycle: float | None = None
    purity: float | None = None
    coverage_over_random: float | None = None
    coverage_over_dictionary: float | None = None
    cycle_over_dictionary: float | None = None
    n_eff: float | None = None
    agreement: float | None = None
    margin: float | None = None
    nearest: str | None = None
    home_agreement: float | None = None
    home_margin: float | None = None
    home_nearest: str | None = None
    status: Annotated[Status, BeforeValidator(_status)] = "unverified"
    why: str = ""
    route: str | None = None
    route_why: str | None = None

    def _repr_html_(self) -> str:
        """Its status in words, then what is known of the crossing, every word escaped: for a notebook."""
        told = {key: one for key, one in self if one is not None and key not in ("status", "why")}
        cells = {key: f"{one:.3g}" if isinstance(one, float) else str(one) for key, one in told.items()}
        rows = "".join(f"<tr><th>{key}</th><td>{html.escape(harmless(one))}</td></tr>" for key, one in cells.items())
        head = f"<b>{self.status}</b>{': ' if self.why else ''}{html.escape(harmless(self.why))}"
        return f"<p>{head}</p><table><tbody>{rows}</tbody></table>"


ENDED = "ended its workers"  # a flag on a text that is none: no worker survived what it was to be said of
UNUSABLE_MAP = "unusable map"  # a flag on texts of directions that a map carried which is worth nothing


def distrust_of(doubt: str | None) -> str:
    """What is said first of a run whose map is unusable, by what is wrong with it; "" where nothing is."""
    return f"{doubt[:1].upper()}{doubt[1:]}. Believe no text that it carried." if doubt else ""


class PromptToken(Record):
    """The token whose activation was read.

    ``prompt``: all of it, the ``number``-th from 0. ``token``: as it is written, blanks before it included; ``begin``
    and ``end``: its characters in the prompt. ``position``: which token it is, 0 the first, a model's own mark of the
    beginning counted.
    """

    prompt: str
    number: int
    token: str
    position: int
    begin: int
    end: int

    def around(self, width: int) -> tuple[str, str, str]:
        """What stands before the token, the token without blanks around it, and what follows.

        ``width``: characters on either side, after which three dots stand for the rest.
        """
        token = self.token.strip()
        begin = self.begin + len(self.token) - len(self.token.lstrip()) if token else self.begin
        end = begin + len(token) if token else self.end
        before, after = self.prompt[:begin], self.prompt[end:]
        before = f"…{before[-width:]}" if len(before) > width else before
        after = f"{after[:width]}…" if len(after) > width else after
        return before, self.prompt[begin:end], after


class TokenWindow(Record):
    """The tokens of a window of text in which a feature fires.

    ``ends``: the characters at which tokens end, rising; a token is the text from the end before it to its own, and
    what follows the last one is a token cut short. ``at``: tokens at which the feature fires, by number, and ``fires``,
    how much, above 0. ``unread``: tokens of which nobody knows; at all others it is silent. ``before`` and ``after``:
    what of its first and last sentence stands outside of the window.
    """

    ends: tuple[int, ...] = ()
    at: tuple[int, ...] = ()
    fires: tuple[float, ...] = ()
    unread: tuple[int, ...] = ()
    before: str = ""
    after: str = ""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        rising = all(a < b for a, b in zip((0, *self.ends), self.ends, strict=False))
        known = all(0 <= n < len(self.ends) for n in (*self.at, *self.unread))
        if not rising or not known or len(self.at) != len(self.fires) or not all(0 < f < math.inf for f in self.fires):
            raise ValueError("its tokens and activations do not go together")
        return self

    def fits(self, text: str) -> bool:
        """Whether these can be tokens of a window."""
        return not self.ends or self.ends[-1] <= len(text)

    def tokens(self, text: str) -> list[tuple[str, float | None]]:
        """The window ``text`` in tokens, each with its activation; None where nobody knows it."""
        fires = dict(zip(self.at, self.fires, strict=True)) | dict.fromkeys(self.unread)
        made, start = list[tuple[str, float | None]](), 0
        for n, end in enumerate(self.ends):
            made.append((text[start:end], fires.get(n, 0.0)))
            start = end
        return [*made, (text[start:], None)] if start < len(text) else made


class Row(Record):
    """One explanation as it is written in ``rows.jsonl``.

    ``kind``: "feature", "random", "shuffled", "custom" or "activation", which has the ``token`` it was read at.
    ``sample``: 0 for the first. ``raw``: what the verbalizer wrote, ``text``: what stands between its tags.
    ``problems``: flags on the text. ``log_probability``: mean per token at temperature 1. ``digest``: of this row and
    of the plan it belongs to.
    """

    feature: str
    label: str
    kind: str
    condition: str
    sample: int
    text: str
    raw: str
    problems: tuple[str, ...]
    tokens: int
    log_probability: float | None
    card: Card | None
    digest: str = ""
    token: PromptToken | None = None


class LabelsHead(Record):
    """The first line of ``context_labels.jsonl``: what made the labels behind it.

    ``model``: by its reference; ``files``: digest of all that decides it; ``dtype`` it computes in. ``prompt``: digest
    of what is asked of it, chat template included. ``windows``: the most of a feature that it was shown; ``tokens``:
    the most of a label.
    """

    format: Literal[1]
    holds: Literal["labels from contexts"]
    model: str
    files: str
    dtype: str
    prompt: str
    windows: int
    tokens: int


class ContextLabel(Record):
    """What a language model made of windows of text in which a feature fires; no verbalizer has a part in it.

    ``label``: its words, "" where it said nothing. ``windows``: how many it was shown, ``shown``: their digest.
    """

    feature: str
    label: str
    windows: int
    shown: str


def _null_name(value: object) -> object:
    """A null's name; its first word is enough ("random")."""
    return next((name for name in NULL_NAMES if value in (name, name.split()[0])), value)


class ConditionEntry(Record):
    """What the manifest tells of one condition.

    ``role``: "native" is what lift is measured against, "claim" what a claim is made of, "null" what it is compared
    with; ``null`` then says which null. An entry that does not tell its role has the one its null or its name gives.
    ``reading``: "fires", read where the feature fires, or "writes", what its row writes; None of everything else.
    """

    name: str
    route: str
    washout: str
    verbalizer: str
    map: str | None = None
    role: Role = "claim"
    reading: Reading | None = None
    null: Annotated[NullName | None, BeforeValidator(_null_name)] = None
    collapsed: int = 0
    about: Mapping[str, Any] = {}

    @model_validator(mode="before")
    @classmethod
    def _with_role(cls, told: object) -> object:
        if not isinstance(told, Mapping) or "role" in told:
            return told
        role = "null" if told.get("null") is not None else "native" if told.get("name") == "native" else "claim"
        return {**told, "role": role}

    @classmethod
    def of_manifest(cls, entry: Mapping[str, object], where: str) -> Self:
        """A manifest's entry: what it leaves out is empty, and what a recipe adds of its own is kept apart."""
        own = {key: value for key, value in entry.items() if key in cls.model_fields}
        about = {key: value for key, value in entry.items() if key not in cls.model_fields}
        return cls.of({"route": "", "washout": "", "verbalizer": "", **own, "about": about}, where)

    @model_validator(mode="after")
    def _null_has_a_name(self) -> Self:
        if self.is_null != (self.null is not None):
            raise ValueError("a null names which one it is, and nothing else does")
        return self

    @property
    def is_null(self) -> bool:
        """Whether it is there only to be compared with."""
        return self.role == "null"
