"""What a verbalizer's answer says: the text between its tags, and the signs that something went wrong.

In: a decoded answer. Out: an ``Explanation``. Refuses nothing: an answer with problems is kept and flagged.
A stock phrase is a sign that a vector was read as empty or not read at all; it is no proof.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from dragoman.core import Explanation

OPEN, CLOSE = "<explanation>", "</explanation>"
_SPECIAL = re.compile(r"<\|[^<>|]{1,40}\|>|</?(?:s|bos|eos|pad|unk|start_of_turn|end_of_turn)>")
_CJK = re.compile(r"[\u1100-\u11ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff]")
_MARKER_BLOCK = re.compile(r"[\u3200-\u33ff]")  # where published checkpoints take their marker from
_CHARACTER_RUN = re.compile(r"(\S{1,8}?)\1{11,}")


@dataclass(frozen=True, slots=True, kw_only=True)
class StockPhrase:
    """``name``: the flag. ``pattern``: what to look for. ``whose``: who says it, and when."""

    name: str
    pattern: re.Pattern[str]
    whose: str


_SCRIPT = r"(?:Chinese|Japanese|Korean|CJK|East[ -]Asian|Hangul)"
_SIGN = r"(?:characters?|keywords?|symbols?|glyphs?|ideographs?|ideograms?|logograms?|kanji|hanzi)"

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
    letters = sum(c.isalpha() for c in text)
    return bool(_MARKER_BLOCK.search(text)) or 10 * len(_CJK.findall(text)) > letters


def _repeats(text: str) -> bool:
    """Fewer than half of its word 4-grams are distinct (of at least 12), or a few characters run on and on."""
    words = text.split()
    grams = [tuple(words[k : k + 4]) for k in range(len(words) - 3)]
    return (len(grams) >= 12 and 2 * len(set(grams)) < len(grams)) or bool(_CHARACTER_RUN.search(text))
