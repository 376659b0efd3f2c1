"""Does a text say which word a feature fires on? A truth that every feature with an encoder brings along.

In: texts, and the words of ``FiringWords`` (which ``maps.words`` counts while reading; its names are here too). Out:
the one word of a feature that has one, tables of which text names which word, the final token that a text speaks of.
Refuses nothing.

Of a table's cells the diagonal is a text's own word; an own word named in texts of features with other words tells what
chance would reach. A word counts as named if the text holds it whole, in any case, or its plural or singular; a mark if
the text quotes it or calls it by its name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from dragoman.maps.words import FORMS, WORD, FiringWords, WordTally, word_at

__all__ = [
    "FORMS",
    "WORD",
    "FiringWords",
    "WordTally",
    "final_token",
    "named_table",
    "names_word",
    "one_word",
    "quoted",
    "spoken_of",
    "variants",
    "word_at",
]

_INSIDE = r"(?:[^'’\n]|(?<=[^\W_])['’](?=[^\W_])){1,80}"  # apostrophes within words end no quotation
QUOTED = re.compile(
    r'"([^"\n]{1,80})"|“([^”\n]{1,80})”|«([^»\n]{1,80})»' + rf"|(?<![^\W_])['‘]({_INSIDE})['’](?![^\W_])"
)
FINAL = re.compile(r"\b(?:final|last)[ -](?:token|word)s?\b", re.IGNORECASE)
MARKS = {
    ",": ("comma",),
    ".": ("full stop", "period"),
    "?": ("question mark",),
    "!": ("exclamation mark",),
    ":": ("colon",),
    ";": ("semicolon",),
    "-": ("hyphen", "dash"),
    "–": ("dash",),
    "—": ("dash",),
    '"': ("quotation mark", "quote"),
    "“": ("quotation mark", "quote"),
    "”": ("quotation mark", "quote"),
    "'": ("apostrophe", "quotation mark"),
    "(": ("bracket", "parenthesis"),
    ")": ("bracket", "parenthesis"),
    "\n": ("newline", "line break"),
}


def one_word(words: Mapping[str, float], least: float = 0.7) -> str | None:
    """The word that takes at least ``least`` of the activation, if one does; spaces and line breaks are no words."""
    return next((word for word, share in words.items() if share >= least and word.strip()), None)


@lru_cache(maxsize=1 << 16)
def variants(word: str) -> frozenset[str]:
    """A lower-cased word with its plural and singular, by spelling, and its possessives."""
    low = word.lower()
    if not WORD.fullmatch(low):
        return frozenset({low})
    found = {low, f"{low}s", f"{low}es", f"{low}'s", f"{low}’s"}
    if low.endswith("y"):
        found.add(f"{low[:-1]}ies")
    if len(low) > 3 and low.endswith("s") and not low.endswith("ss"):
        found.add(low[:-1])
        if low.endswith("es"):
            found.add(low[:-2])
        if low.endswith("ies"):
            found.add(f"{low[:-3]}y")
    return frozenset(found - {""})


def quoted(text: str) -> tuple[str, ...]:
    """What a text puts in quotation marks, as it stands there; apostrophes within words quote nothing."""
    return tuple(next(filter(None, found)).strip() for found in QUOTED.findall(text) if any(f.strip() for f in found))


def spoken_of(text: str) -> str:
    """The single words and marks that a text puts in quotation marks, each still in them.

    What it speaks of, and not the words it is made of: *the* stands in every text. Quoted phrases are left out.
    """
    return " ".join(f'"{said}"' for said in quoted(text) if len(said.split()) == 1)


def names_word(text: str, word: str) -> bool:
    """Whether a text holds a word whole, in any case, or its plural or singular; a mark in quotes or by its name."""
    return bool(_held(text) & variants(word))


def named_table(texts: Sequence[str], words: Sequence[str]) -> NDArray[np.int8]:
    """(n, N) whether text i names word j: own words on the diagonal of paired lists, dealt ones off it."""
    table, at = np.zeros((len(texts), len(words)), np.int8), dict[str, list[int]]()
    for j, word in enumerate(words):
        for key in variants(word):
            at.setdefault(key, []).append(j)
    for i, text in enumerate(texts):
        table[i, [j for key in _held(text) for j in at.get(key, ())]] = 1
    return table


def final_token(text: str) -> str | None:
    """What the first sentence about the final or last token (or word) quotes first, lower-cased; None without one.

    Of ``"Need,"`` the word alone: marks are kept only where there is no word.
    """
    for found in FINAL.finditer(text):
        if said := quoted(text[found.end() :].split("\n", 1)[0]):
            words = WORD.findall(said[0])
            return (words[-1] if words else said[0]).lower()
    return None


def _held(text: str) -> set[str]:
    """Words of a text, lower-cased, and the marks that it quotes or calls by name."""
    low = text.lower()
    held = {m.group() for m in WORD.finditer(low)}
    marks = {q for q in quoted(text) if not WORD.search(q)}
    marks |= {mark for mark, names in MARKS.items() if any(re.search(rf"\b{name}s?\b", low) for name in names)}
    return held | marks
