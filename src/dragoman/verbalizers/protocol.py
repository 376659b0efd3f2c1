"""What every verbalizer does: vectors of one site in, one Explanation per vector out; and what its answers say.

In: vectors (n, d) of a site; a decoded answer. Out: Explanations in the same order, with the signs that something went
wrong. Refuses vectors of another shape or width and rows without a direction; an answer with problems is kept and
flagged. A stock phrase is a sign that a vector was read as empty or not read at all; it is no proof.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypedDict, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from dragoman.core import Explanation, Floats, Refusal, Site, unit_rows

COLDEST, HOTTEST = 1e-6, 1e3  # logits over less may be infinite, over more they are all alike
OPEN, CLOSE = "<explanation>", "</explanation>"
_SPECIAL = re.compile(r"<\|[^<>|]{1,40}\|>|</?(?:s|bos|eos|pad|unk|start_of_turn|end_of_turn)>")
_CJK = re.compile(r"[\u1100-\u11ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff]")
_MARKER_BLOCK = re.compile(r"[\u3200-\u33ff]")  # where published checkpoints take their marker from
_CHARACTER_RUN = re.compile(r"(\S{1,8}?)\1{11,}")
_SHORTEST_RUN = 12  # characters of the shortest
_SCRIPT = r"(?:Chinese|Japanese|Korean|CJK|East[ -]Asian|Hangul)"
_SIGN = r"(?:characters?|keywords?|symbols?|glyphs?|ideographs?|ideograms?|logograms?|kanji|hanzi)"


class HowFed(TypedDict):
    """How a verbalizer is fed, as far as it is said: see ``Verbalizer.open``."""

    contract: str | None
    settings: Mapping[str, Any] | None
    base: str | None


class HowOpened(TypedDict):
    """In what, where and by which engine a verbalizer is opened: see ``Verbalizer.open``."""

    dtype: str
    device: str
    engine: str
    compiled: bool


UNSAID = HowFed(contract=None, settings=None, base=None)


@runtime_checkable
class AnyVerbalizer(Protocol):
    """Puts vectors of one residual stream into words."""

    @property
    def site(self) -> Site:
        """The stream it was trained to read."""
        ...

    @property
    def width(self) -> int:
        """Width of the vectors it takes; 0 where it is not known."""
        ...

    @property
    def name(self) -> str:
        """What a person calls it."""
        ...

    @property
    def identity(self) -> dict[str, object]:
        """Everything that decides its words (checkpoint, digests, contract, dtype, scale), for a run's manifest."""
        ...

    def verbalize(
        self, vectors: NDArray[Any], *, temperature: float = 0.0, seed: int = 0, max_new_tokens: int = 200
    ) -> list[Explanation]:
        """One explanation per row of ``vectors`` (n, d_model); only a row's direction counts, sign included."""
        ...


class CallSettings(TypedDict):
    """What ``verbalize`` takes besides vectors."""

    temperature: float
    seed: int
    max_new_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What ``verbalize`` is asked once, before it is asked.

    ``count``: rows. ``vectors``: gives those of a range of them, (n, d_model). The rest as for ``verbalize``.
    """

    count: int
    vectors: Callable[[range], NDArray[Any]]
    temperature: float
    seed: int
    max_new_tokens: int

    @property
    def settings(self) -> CallSettings:
        """What ``verbalize`` takes besides vectors."""
        return {"temperature": self.temperature, "seed": self.seed, "max_new_tokens": self.max_new_tokens}


@runtime_checkable
class Dealing(Protocol):
    """A verbalizer that has many calls said side by side."""

    def answers(self, calls: Sequence[Call]) -> Iterator[list[Explanation]]:
        """What each call is answered, in order."""
        ...


def answers(verbalizer: AnyVerbalizer, calls: Sequence[Call]) -> Iterator[list[Explanation]]:
    """What each call is answered, in order; by a verbalizer that does not deal them, each when it is asked for."""
    if isinstance(verbalizer, Dealing):
        yield from verbalizer.answers(calls)
        return
    for call in calls:
        yield verbalizer.verbalize(call.vectors(range(call.count)), **call.settings)


def check_temperature(temperature: float) -> None:
    """Refuse what no sample can be drawn at: 0 is greedy, and else it lies between 0.000001 and 1000."""
    if temperature != 0 and not COLDEST <= temperature <= HOTTEST:
        raise Refusal(
            f"temperature {temperature}",
            f"it is 0, for the likeliest, or lies between {COLDEST:f} and {HOTTEST:g}",
            "use 0 for greedy decoding, 1 for the verbalizer's own distribution",
        )


def checked_vectors(vectors: NDArray[Any], width: int, what: str) -> Floats:
    """Rows (n, width) as contiguous float32; refuse another shape or width, and rows that have no direction."""
    rows = np.ascontiguousarray(vectors, dtype=np.float32)
    if rows.ndim != 2:
        why = "it takes one row per vector"
        raise Refusal(f"vectors of shape {rows.shape} for {what}", why, "pass rows of shape (n, d_model)")
    if rows.shape[1] != width:
        instead = "carry the directions to its site first, or use a verbalizer of their own model"
        raise Refusal(f"vectors of width {rows.shape[1]} for {what}", f"its residual stream has width {width}", instead)
    if len(rows):
        with np.errstate(over="ignore"):  # only whether there is a direction is asked here
            unit_rows(rows, f"vectors for {what}")
    return rows


@dataclass(frozen=True, slots=True, kw_only=True)
class StockPhrase:
    """``name``: the flag. ``pattern``: what to look for. ``whose``: who says it, and when."""

    name: str
    pattern: re.Pattern[str]
    whose: str


STOCK_PHRASES = (
    StockPhrase(
        name='fallback "e.g."',
        pattern=re.compile(r"\bfinal token\W{1,4}e\.g\.", re.IGNORECASE),
        whose="the published Gemma-3-27B verbalizer, at BOS, newlines and turn starts, and for bare decoder directions",
    ),
    StockPhrase(
        name="describes a CJK character",
        pattern=re.compile(rf"\b{_SCRIPT}(?:[ -]\w+)?[ -]{_SIGN}\b|\b(?:kanji|hanzi)\b", re.IGNORECASE),
        whose="any verbalizer whose vector was not injected: it reads the marker's own embedding",
    ),
    StockPhrase(
        name="the end of text",
        pattern=re.compile(r"\bthe end of text\b", re.IGNORECASE),
        whose="verbalizers that meet a vector without content",
    ),
)


def parse(raw: str, *, tokens: int = 0, opened: bool = False, tagged: bool = True) -> Explanation:
    """What stood between the tags of a decoded answer, and which health checks it failed.

    Nothing is dropped: an answer without a closing tag keeps its body, one without tags is returned whole, without
    special tokens; both are flagged. ``opened``: the prompt ended with the opening tag. ``tagged``: the verbalizer
    was trained to use tags at all. Problems: "no opening tag", "no closing tag", "other script" (a tenth of the
    letters are Chinese, Japanese or Korean, or a sign of the block markers are taken from occurs: the marker's own
    embedding was read), "repeats itself", the names of stock phrases, "empty".
    """
    problems = []
    body = raw
    if OPEN in body:
        body = body.split(OPEN, 1)[1]
    elif tagged and not opened:
        problems.append("no opening tag")
    if CLOSE in body:
        body = body.split(CLOSE, 1)[0]
    elif tagged:
        problems.append("no closing tag")
    text = _SPECIAL.sub("", body).strip()
    if _foreign(text):
        problems.append("other script")
    if _repeats(text):
        problems.append("repeats itself")
    problems.extend(stock_phrases(text))
    if not text:
        problems.append("empty")
    return Explanation(text=text, raw=raw, problems=tuple(problems), tokens=tokens)


def stock_phrases(text: str) -> tuple[str, ...]:
    """Names of the stock phrases in a text, each once, in the order of ``STOCK_PHRASES``."""
    return tuple(phrase.name for phrase in STOCK_PHRASES if phrase.pattern.search(text))


def _foreign(text: str) -> bool:
    if _MARKER_BLOCK.search(text):
        return True
    signs = len(_CJK.findall(text))
    return bool(signs) and 10 * signs > sum(c.isalpha() for c in text)


def _repeats(text: str) -> bool:
    """Fewer than half of its word 4-grams are distinct (of at least 12), or a few characters run on and on."""
    words = text.split()
    grams = [tuple(words[k : k + 4]) for k in range(len(words) - 3)]
    if len(grams) >= 12 and 2 * len(set(grams)) < len(grams):
        return True
    # A run holds no space, so it lies within one word; few are as long as the shortest run.
    return any(_CHARACTER_RUN.search(word) for word in words if len(word) >= _SHORTEST_RUN)
