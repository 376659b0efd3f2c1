"""What may be asked of the service and what it answers, typed: the schemas of its OpenAPI page.

In: a width, bounds. Out: models of requests for exactly this service, of answers and refusals. Refuses, as the schemas
say: fields it does not know, numbers that are not finite, vectors of another width, more than the bounds allow; each
in one sentence of dragoman's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, RootModel, Tag, create_model

from dragoman.core import MOST_SEED, Refusal
from dragoman.records import Card, PromptToken
from dragoman.scores import ClaimStatus
from dragoman.store.spans import shown

KINDS = ("features", "vectors", "prompts")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What one request may ask for, and how many may wait.

    ``body``: bytes. ``vectors``: features, vectors or tokens of prompts. ``prompts``: texts, of ``characters`` in all.
    ``tokens``: of one explanation. ``samples``: explanations of one of them. ``waiting``: requests besides the one that
    is worked on. ``seconds``: until an answer is given up.
    """

    body: int = 8 << 20
    vectors: int = 64
    prompts: int = 16
    characters: int = 20_000
    tokens: int = 512
    samples: int = 8
    waiting: int = 8
    seconds: float = 600.0

    def __post_init__(self) -> None:
        """Refuse bounds that let nothing through."""
        for name in self.__slots__:
            if not getattr(self, name) > 0:
                raise Refusal(f"bound {name} {getattr(self, name)}", "it lets nothing through", "pass a positive one")


_Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]  # no text, no truth value


class _Plain(BaseModel):
    """Knows all of its fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Refused(_Plain):
    """Why nothing was done: one sentence, and its three parts."""

    message: str
    what: str
    why: str
    instead: str

    @classmethod
    def of(cls, refusal: Refusal) -> Refused:
        """A refusal as it is told."""
        return cls(message=str(refusal), what=refusal.what, why=refusal.why, instead=refusal.instead)


class Confidence(_Plain):
    """The calibrated chance that a text is right; not ``answered``: dragoman abstains."""

    probability: float
    answered: bool


class Explained(_Plain):
    """One text.

    ``feature``: the feature's id, the vector's number, or ``p0t5`` for position 5 of prompt 0. ``reading``: "fires",
    what the feature fires on, "writes", what its row writes, or null. ``condition``: how it was read. ``sample``: 0 for
    the first. ``problems``: flags on the text. ``short``: a label of its supported sentences. ``claims``: its
    sentences, each with whether where the feature fires bears it out. ``card``: how the direction crossed.
    ``confidence``: null where none is calibrated. ``token``: of a prompt.
    """

    feature: str
    label: str
    condition: str
    reading: Literal["fires", "writes"] | None
    sample: int
    text: str
    problems: tuple[str, ...]
    log_probability: float | None
    short: str
    claims: tuple[ClaimStatus, ...]
    card: Card | None
    confidence: Confidence | None
    token: PromptToken | None


class Answer(_Plain):
    """What was said.

    ``map_doubt``: what is wrong with the map, where texts crossed by one that is no better than none; believe none of
    them then. ``too_rare``: features without the reading "fires", and why. ``background``: by condition, features of
    which nothing but background arrived, so that nothing is said. ``seconds``: of work.
    """

    dragoman: str
    source: str
    target: str
    verbalizer: str
    settings: Mapping[str, Any]
    explanations: tuple[Explained, ...]
    map_doubt: str | None
    too_rare: Mapping[str, str]
    background: Mapping[str, tuple[str, ...]]
    seconds: float


class Health(_Plain):
    """What is served, and how busy it is.

    ``asks``: what may be asked for. ``width``: of vectors. ``crossing``: how directions cross, and digests of what that
    was made from. ``verbalizer``: all that decides its words. ``bounds``: see the service's documentation.
    """

    status: Literal["ok"]
    dragoman: str
    source: str
    target: str
    width: int
    asks: tuple[str, ...]
    dictionary: str | None
    crossing: Mapping[str, Any]
    verbalizer: Mapping[str, Any]
    versions: Mapping[str, str]
    bounds: Mapping[str, float]
    busy: bool
    waiting: int


class Prompt(_Plain):
    """A text, and the token that is meant: what is written there ("mango", "mango#2"), "last", "all", or "#7"."""

    text: Annotated[str, Field(min_length=1)]
    at: Annotated[str, Field(min_length=1, max_length=200)] = "last"


def _whole(least: int, most: int) -> Any:
    """A whole number, which JSON may write as 1.0 too."""
    return Annotated[int, Field(ge=least, le=most, strict=True), BeforeValidator(_as_whole)]


def _as_whole(told: object) -> object:
    return int(told) if isinstance(told, float) and told.is_integer() else told


def request_model(kinds: Sequence[str], width: int, bounds: Bounds) -> Any:
    """The type of a request's body: features, vectors or prompts, each with how many texts are said and how.

    Args:
        kinds: which of ``KINDS`` this service answers.
        width: of its vectors.
        bounds: of a request.
    """
    how: dict[str, Any] = {
        "samples": (_whole(1, bounds.samples), 1),
        "max_new_tokens": (_whole(1, bounds.tokens), min(200, bounds.tokens)),
        "seed": (_whole(0, MOST_SEED), 0),
    }
    several = Field(min_length=1, max_length=bounds.vectors)
    own: dict[str, Any] = {
        "features": Annotated[
            list[Annotated[str, Field(min_length=1, max_length=200)]],
            Field(min_length=1, max_length=bounds.vectors, description="Ids, as the dictionary has them."),
        ],
        "vectors": Annotated[
            list[Annotated[list[_Number], Field(min_length=width, max_length=width)]],
            several,
        ],
        "prompts": Annotated[list[Prompt], Field(min_length=1, max_length=bounds.prompts)],
    }
    made = {
        kind: create_model(f"Of{kind.capitalize()}", __base__=_Plain, **{kind: (own[kind], ...)}, **how)
        for kind in kinds
    }
    tagged: Any = Union[*(Annotated[model, Tag(kind)] for kind, model in made.items())]  # noqa: UP007
    asked: Any = Annotated[tagged, Discriminator(kind_of)] if len(made) > 1 else next(iter(made.values()))
    return create_model("Asked", __base__=RootModel[asked], __doc__="One of these: what is asked for.")


def kind_of(told: Any) -> str | None:
    """What a request asks for, by the name that is in it."""
    have = told if isinstance(told, Mapping) else type(told).model_fields if isinstance(told, BaseModel) else ()
    return next((kind for kind in KINDS if kind in have), None)


# What a schema finds wrong, by its kind: why, and what to do instead, with what the schema says of it.
_WRONG: dict[str, tuple[str, str]] = {
    "list_type": ("it is no list", "send a list, in square brackets"),
    "string_type": ("it is no text", "send a text, in quotes"),
    "string_too_short": ("it is empty", "write something, or leave it out"),
    "string_too_long": ("it has more than {max_length} characters", "shorten it"),
    "too_short": ("it has {actual_length} entries, and {min_length} is the least", "send at least {min_length}"),
    "too_long": ("it has more entries than are taken at once", "send at most {max_length}"),
    "greater_than_equal": ("it is below {ge}", "send {ge} or more"),
    "less_than_equal": ("it is above {le}", "send {le} or less"),
    "int_type": ("it is no whole number", "send one, without quotes"),
    "int_from_float": ("it is no whole number", "send one"),
    "float_type": ("it is no number", "send one, without quotes"),
    "finite_number": ("it is no finite number", "send one"),
    "missing": ("it is missing", "send it"),
}
_OBJECT = ("model_type", "model_attributes_type", "dict_type")
_SEE = "see /openapi.json for what may be asked"


def refusal_of(found: Mapping[str, Any], kinds: Sequence[str]) -> Refusal:
    """What a schema finds wrong with a body, in one sentence, without what was sent.

    Args:
        found: the first finding of the schemas' library: ``type``, ``loc``, ``ctx``.
        kinds: what may be asked for.
    """
    kind, told = found.get("type"), found.get("ctx") or {}
    named = [str(one) for one in found.get("loc", ()) if one != "body"]
    if len(named) > 1 and named[0] in KINDS and not named[1].isdecimal():
        named = named[1:]  # by which of several models
    place = shown(".".join(named), 100)
    what = f"the body's {place}" if place else "the body"
    one_of = f"send {'one of ' if len(kinds) > 1 else ''}{', '.join(kinds)}"
    if kind == "json_invalid":
        return Refusal("the body", "it is not JSON", f"{one_of}, as JSON")
    if kind == "union_tag_not_found" or (kind == "missing" and named == list(kinds)):
        why = f"it names neither {_either(kinds)}" if len(kinds) > 1 else f"it names no {kinds[0]}"
        return Refusal("the body", why, f"{one_of}, as application/json")
    if kind == "union_tag_invalid":
        return Refusal(f"the body's {told.get('tag')}", "that is not asked for here", one_of)
    if kind in _OBJECT or (kind == "missing" and not named):
        why = "it is no JSON object" if named or kind != "missing" else "there is none"
        return Refusal(what, why, "send an object, in curly brackets, as application/json")
    if kind == "extra_forbidden":
        if named[-1] in kinds:
            return Refusal(what, "one request asks for one kind", one_of)
        instead = one_of if named[-1] in KINDS else f"leave it out, or {_SEE}"
        return Refusal(what, "there is no such thing to ask for here", instead)
    if kind in ("too_short", "too_long") and len(named) == 2 and named[0] == "vectors":
        width = told.get("min_length", told.get("max_length"))
        why = f"it has {told.get('actual_length', 'other')} numbers, and vectors of the source are {width} wide"
        return Refusal(what, why, f"send {width} numbers each")
    why, instead = _WRONG.get(str(kind), ("it is not as it must be", _SEE))
    return Refusal(what, why.format_map(_Told(told)), instead.format_map(_Told(told)))


class _Told(dict[str, object]):
    """What a schema says of a finding; what it does not say has no number."""

    def __missing__(self, name: str) -> str:
        return "the bound"


def _either(kinds: Sequence[str]) -> str:
    """``features, vectors nor prompts``."""
    return " nor ".join([", ".join(kinds[:-1]), kinds[-1]])
