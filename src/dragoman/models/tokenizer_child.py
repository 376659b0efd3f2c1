"""Try a tokenizer.json out, in the process that `store.boundary` starts: does it load, and can a text grow in it.

In: the file, texts to try. Out: nothing but that it holds. Raises an exception where a text could grow beyond a factor
(told from the rules that write characters, whatever text would set them off), where tokens are drawn at random, and
where the texts do not come through.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from tokenizers import Tokenizer

GROWTH = 100  # characters that may come of one; compatibility forms of Unicode make up to 18
IDS = 8  # tokens a character may take, and this many more for the special ones


def answer(question: dict[str, Any]) -> dict[str, Any]:
    """``path`` and ``texts`` to an empty answer."""
    tokenizer = Tokenizer.from_file(question["path"])
    tokenizer.no_padding()
    tokenizer.no_truncation()
    dropout = getattr(tokenizer.model, "dropout", None)
    if dropout:
        raise ValueError(f"it drops merges at random (dropout {dropout}), so no text has certain tokens")
    for name in ("normalizer", "pre_tokenizer", "decoder", "post_processor"):
        part = getattr(tokenizer, name)
        told = json.loads(part.__getstate__()) if part is not None else None
        grown = _growth(told)
        if grown > GROWTH:
            raise ValueError(f"its {name} can make {grown:.3g} characters of one")
        if name == "post_processor":
            _refuse_repeats(told)
    for text in question["texts"]:
        ids = tokenizer.encode(text).ids
        if len(ids) > IDS * (len(text) + IDS):
            raise ValueError(f"it makes {len(ids)} tokens of {len(text)} characters")
        tokenizer.decode(ids)
    return {}


def _rules(told: Any) -> Iterator[dict[str, Any]]:
    """Every rule of a part, however it is nested."""
    if isinstance(told, dict):
        if "type" in told:
            yield told
        for value in told.values():
            yield from _rules(value)
    elif isinstance(told, list):
        for value in told:
            yield from _rules(value)


def _growth(told: Any) -> float:
    """Characters that rules which replace text can make of one, all of them together."""
    grown = 1.0
    for rule in _rules(told):
        if rule["type"] == "Replace":
            grown *= max(1.0, len(rule["content"]) / _least(rule["pattern"]))
        elif rule["type"] == "Prepend":
            grown *= max(1.0, len(rule["prepend"]) / 10)  # once a text, not once a character
    return grown


def _least(pattern: dict[str, str]) -> float:
    """The fewest characters that a pattern takes away; between two characters lies one place where it may take none."""
    if "String" in pattern:
        return max(0.5, len(pattern["String"]))
    try:
        return 0.5 if re.fullmatch(pattern["Regex"], "") else 1.0
    except re.error:  # in Oniguruma's own way of writing
        return 0.5


def _refuse_repeats(told: Any) -> None:
    """Refuse a template that writes the text, or special tokens, over and over."""
    for rule in _rules(told):
        if rule["type"] != "TemplateProcessing":
            continue
        ids = sum(len(token["ids"]) for token in rule["special_tokens"].values())
        if max(len(rule["single"]), len(rule["pair"]), ids) > GROWTH:
            raise ValueError(f"its template has {len(rule['single'])} parts and {ids} special tokens")
