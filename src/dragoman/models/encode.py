"""Texts as tokens, in one way wherever a text is read: cut at its end, and markup in it taken as characters.

In: a tokenizer and texts. Out: token ids with the characters each token stands for; the place up to which two
tokenizers both read a text. Refuses texts with half a character, and markup that cannot be taken as characters.

Markup: special tokens, tokens of the form <|...|>, and those that the chat template writes. A text that names one of
them ("<eos>", "<|im_start|>") is no end of a text and no turn, so its characters are encoded. Other added tokens
(runs of newlines, HTML) are vocabulary like any, and stay.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from tokenizers import Tokenizer

from dragoman.core import Refusal
from dragoman.store import refuse_halves
from dragoman.store.boundary import opening

Span = tuple[int, int]
_FORM = re.compile(r"<[|｜].+[|｜]>", re.DOTALL)
_AS_CHARACTERS: WeakKeyDictionary[Any, dict[frozenset[int], Tokenizer]] = WeakKeyDictionary()


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """``ids``: token ids of each text; ``spans``: (begin, end) characters of each token, equal where it has none."""

    ids: list[list[int]]
    spans: list[list[Span]]


def markup_of(tokenizer: Any) -> dict[int, str]:
    """Ids of the tokens that mark texts and turns, and how they are written."""
    template = str(getattr(tokenizer, "chat_template", None) or "")
    known = tokenizer.added_tokens_decoder.items()
    return {int(i): t.content for i, t in known if t.special or _is_markup(t.content, template)}


def _is_markup(written: str, template: str) -> bool:
    if _FORM.fullmatch(written):
        return True
    return not written.isspace() and not written.isalnum() and len(written) > 1 and written in template


def encode_texts(tokenizer: Any, texts: Sequence[str], max_tokens: int) -> Encoded:
    """The first ``max_tokens`` tokens of each text, special ones that the tokenizer adds itself included.

    Whatever side the tokenizer's own settings cut, texts are cut at their end: two models read the same beginning.
    """
    for number, text in enumerate(texts):
        refuse_halves(text, f"text {number}")
    if not texts:
        return Encoded(ids=[], spans=[])
    tokenizer.truncation_side = "right"
    with opening(_name(tokenizer), "its tokenizer cannot encode the texts"):
        told: Any = tokenizer(list(texts), return_offsets_mapping=True, truncation=True, max_length=max_tokens)
    ids: list[list[int]] = list(told["input_ids"])
    spans: list[list[Span]] = list(told["offset_mapping"])
    markup = markup_of(tokenizer)
    marked = [k for k in range(len(texts)) if _written(ids[k], spans[k], markup) is not None]
    if marked:
        plain = _as_characters(tokenizer, markup)
        plain.enable_truncation(max_tokens)
        for k, again in zip(marked, plain.encode_batch([texts[k] for k in marked]), strict=True):
            ids[k], spans[k] = list(again.ids), list(again.offsets)
            left = _written(ids[k], spans[k], markup)
            if left is not None:
                why = f"its tokenizer makes one token of '{left}' in it"
                raise Refusal(f"text {k}", why, "leave out texts with such markup")
    return Encoded(ids=ids, spans=spans)


def _written(ids: Sequence[int], spans: Sequence[Span], markup: dict[int, str]) -> str | None:
    """Markup that stands in the text itself: what a tokenizer adds has no characters."""
    return next((markup[i] for i, (b, e) in zip(ids, spans, strict=True) if e > b and i in markup), None)


def _as_characters(tokenizer: Any, markup: Iterable[int]) -> Tokenizer:
    """A copy of the tokenizer that takes some of its markup for characters; ids and all other rules are the same."""
    some, copies = frozenset(markup), _AS_CHARACTERS.setdefault(tokenizer, {})
    if some not in copies:
        told = json.loads(tokenizer.backend_tokenizer.to_str())
        told["truncation"] = told["padding"] = None
        # A token that is left out would move the ids of others; a special one can be told not to be looked for.
        for token in told["added_tokens"]:
            token["special"] = token["id"] in some
        copies[some] = Tokenizer.from_str(json.dumps(told))
        copies[some].encode_special_tokens = True
    return copies[some]


def encode_filled(tokenizer: Any, fill: Callable[[str], str], text: str, *, special: bool) -> list[int]:
    """Ids of a template with a text in it: markup in the text is characters, markup of the template is what it is.

    ``fill``: the template, from the text to the whole. ``special``: whether the tokenizer adds its own special tokens.

    Raises:
        Refusal: half a character, or a text with the very markup that its template has.
    """
    refuse_halves(text, "a text")
    markup, whole = markup_of(tokenizer), fill(text)
    named = {i: written for i, written in markup.items() if written in text}
    if not named:
        with opening(_name(tokenizer), "its tokenizer cannot encode the text"):
            return [int(i) for i in tokenizer.encode(whole, add_special_tokens=special)]
    frame = fill("")
    both = next((written for written in named.values() if written in frame), None)
    if both is not None:
        why = "the template around it has that markup too"
        raise Refusal(f"a text with '{both}' in it", why, "leave that text out")
    return list(_as_characters(tokenizer, named).encode(whole, add_special_tokens=special).ids)


def encode_as_characters(tokenizer: Any, text: str) -> list[int]:
    """Ids of a text that stands in a prompt: its markup is characters, and nothing is added before or after it.

    Raises:
        Refusal: half a character, or markup that cannot be taken as characters.
    """
    refuse_halves(text, "a text")
    markup = markup_of(tokenizer)
    with opening(_name(tokenizer), "its tokenizer cannot encode the text"):
        told = _as_characters(tokenizer, markup).encode(text, add_special_tokens=False)
    left = _written(told.ids, told.offsets, markup)
    if left is not None:
        raise Refusal("a text", f"its tokenizer makes one token of '{left}' in it", "leave that text out")
    return list(told.ids)


def _name(tokenizer: Any) -> str:
    """What the tokenizer was opened from."""
    return str(getattr(tokenizer, "name_or_path", "") or "the tokenizer")


def shared_cuts(first: Encoded, second: Encoded, texts: Sequence[str], max_tokens: int) -> list[int]:
    """Up to which character of each text both have read: all of it, or, where one was cut, to the last common end.

    Two tokenizers seldom need the same number of tokens for the same characters.
    """
    return [
        _shared_cut(a, b, len(text), max_tokens) for a, b, text in zip(first.spans, second.spans, texts, strict=True)
    ]


def _shared_cut(first: Sequence[Span], second: Sequence[Span], length: int, max_tokens: int) -> int:
    if len(first) < max_tokens and len(second) < max_tokens:
        return length
    ends = [{e for b, e in spans if e > b} for spans in (first, second)]
    common = ends[0] & ends[1]
    return max(common) if common else min(max(own, default=0) for own in ends)


def cut_at(encoded: Encoded, until: Sequence[int]) -> Encoded:
    """Without the tokens of each text that reach beyond a character."""
    lengths = [
        next((k for k, (_, end) in enumerate(spans) if end > most), len(spans))
        for spans, most in zip(encoded.spans, until, strict=True)
    ]
    return Encoded(
        ids=[ids[:n] for ids, n in zip(encoded.ids, lengths, strict=True)],
        spans=[spans[:n] for spans, n in zip(encoded.spans, lengths, strict=True)],
    )


def whole_characters(text: str, spans: Sequence[Span], max_tokens: int) -> list[Span]:
    """Spans of a text's tokens; where the text was cut inside a character, its pieces are given no characters.

    A piece bears its whole character's end. Of a whole text the last piece has read all of it; a cut one may not have.
    """
    end = max((e for _, e in spans), default=0)
    if len(spans) < max_tokens or not end or text[end - 1].isascii():
        return list(spans)
    return [(0, 0) if e == end else (b, e) for b, e in spans]
