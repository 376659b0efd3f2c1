"""Which features are meant by a line of words: ids, ranges, all, a file of ids, the most often firing, a random draw.

In: a line such as ``982,0-99,random:20``; of a dictionary its size, the names of its rows, which of them have a
direction, how often each fires. Out: ``Asked``, and row numbers in the order they were written. Refuses empty and
overlong ids, what is named twice, ids and ranges beyond the dictionary, more than there are, ``all`` beside anything
else, files that hold no ids, and ``top`` where firings were not counted.

``random`` and ``top`` choose among features that have a direction and that no other word names. Of ``all`` and of
ranges, rows without a direction are set aside; an id that is written out is not.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from dragoman.core import Refusal
from dragoman.dictionaries.rows import wanted
from dragoman.store import check_name, read_bounded, stable_json
from dragoman.store.spans import shown

LONGEST_ID = 200
GRAMMAR = "982,1748, 0-99, all, @FILE (one id a line), top:100 (most often firing), random:100, or several of these"
_MOST_BYTES = 64 << 20  # of a file of ids
_SPAN = re.compile(r"([0-9]{1,12})-([0-9]{1,12})")
_COUNTED = re.compile(r"(top|random):(.*)", re.DOTALL)
_WRITE = "write ids with a comma between them, such as --features 982,1748, or leave --features out for all"
_SIMPLE = f"write {GRAMMAR}"


@dataclass(frozen=True, slots=True)
class _Some:
    """``count`` features chosen by ``how``."""

    how: Literal["top", "random"]
    count: int

    def __str__(self) -> str:
        return f"{self.how}:{self.count}"


@dataclass(frozen=True, slots=True)
class _Span:
    """Row numbers from ``first`` to ``last``, both included."""

    first: int
    last: int

    def __str__(self) -> str:
        return f"{self.first}-{self.last}"


_Part = str | _Span | _Some


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """What a dictionary tells of its rows.

    ``name``: of the dictionary. ``count``: how many. ``number_of``: an id's row number, or a refusal; ``id_of``:
    the other way. ``living``: of row numbers, those whose row has a direction.
    """

    name: str
    count: int
    number_of: Callable[[str], int]
    id_of: Callable[[int], str]
    living: Callable[[Sequence[int]], list[int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Features as they are asked for. ``text``: the words; ``parts``: what they mean, none for all features."""

    text: str
    parts: tuple[_Part, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Asked:
        """Words as what they mean; of a file, its ids are read now.

        Raises:
            Refusal: as the module says, but for what only a dictionary can tell.
        """
        words = [word.strip() for word in text.split(",")]
        if "" in words:
            raise Refusal(f"features '{shown(text)}'", "an id is empty", _WRITE)
        if "all" in words:
            if len(words) > 1:
                raise Refusal(f"features '{shown(text)}'", "all names every feature already", "say all alone")
            return cls(text=text)
        parts = [part for word in words for part in _parts(word)]
        _refuse_twice(text, parts)
        return cls(text=text, parts=tuple(parts))

    @property
    def spelled_out(self) -> str:
        """What the words mean, as one text: a file of ids may hold others tomorrow."""
        return self.text if self.every else stable_json([str(part) for part in self.parts])

    @property
    def every(self) -> bool:
        """Whether all features are meant."""
        return not self.parts

    @property
    def needs_firings(self) -> bool:
        """Whether it takes counts of firings to tell which are meant."""
        return any(isinstance(part, _Some) and part.how == "top" for part in self.parts)

    def ids_and_count(self, count: int, name: str, own: Sequence[str] = ()) -> tuple[list[str] | None, int]:
        """Ids, where the words tell them without looking at a row, and how many features are meant at most.

        Args:
            count: features of the dictionary.
            name: of the dictionary.
            own: names of its rows, if they have any.

        Raises:
            Refusal: a range, or an id, beyond the dictionary.
        """
        if self.every:
            return None, count
        ids, more = list[str](), 0
        for part in self.parts:
            if isinstance(part, _Some):
                more += part.count
            elif isinstance(part, str):
                ids.append(part)
            elif part.last >= count:
                raise Refusal(f"features {part} of {name}", f"it has 0 to {count - 1}", "name a range within them")
            else:
                ids += [own[k] if own else str(k) for k in range(part.first, part.last + 1)]
        if ids:
            wanted(ids, count, name, own)
        return (None if more else ids), min(count, len(ids) + more)

    def numbers(
        self, rows: Rows, *, seed: int = 0, firings: Mapping[str, float] | None = None
    ) -> tuple[list[int], tuple[int, ...]]:
        """Row numbers in the order asked for, and those of ranges that are set aside because they have no direction.

        Args:
            rows: of the dictionary.
            seed: of ``random``.
            firings: in how many documents each feature fires, by id, for ``top``.

        Raises:
            Refusal: as the module says; the sentence names the word.
        """
        found: list[tuple[_Part, list[int]]] = []
        taken: dict[int, str] = {}
        dead: list[int] = []
        for part in self.parts:
            own = [] if isinstance(part, _Some) else _of_named(part, rows)
            for number in own:
                if number in taken:
                    why = f"it is named twice, by {taken[number]} and by {part}"
                    raise Refusal(f"feature {rows.id_of(number)} of {rows.name}", why, "name every feature once")
                taken[number] = shown(part)
            if isinstance(part, _Span):
                living = rows.living(own)
                kept = set(living)
                dead += [number for number in own if number not in kept]
                own = living
            found.append((part, own))
        rng, chosen = np.random.default_rng(seed), list[int]()
        for part, own in found:
            if isinstance(part, _Some):
                own = _drawn(part, rows, taken, rng) if part.how == "random" else _most(part, rows, taken, firings)
                taken |= dict.fromkeys(own, str(part))
            chosen += own
        if not chosen:
            raise Refusal(
                f"features '{shown(self.text)}' of {rows.name}", "none of them has a direction", "name others"
            )
        return chosen, tuple(dead)


def _parts(word: str) -> list[_Part]:
    """What one word between commas means."""
    if word.startswith("@"):
        return list(_ids_of_file(word[1:]))
    if counted := _COUNTED.fullmatch(word):
        number = counted[2].strip()
        if not (number.isascii() and number.isdecimal() and 0 < len(number) < 10 and int(number)):
            why = "it takes a whole number of 1 or more"
            raise Refusal(f"features '{shown(word)}'", why, f"write {counted[1]}:100")
        return [_Some("top" if counted[1] == "top" else "random", int(number))]
    if span := _SPAN.fullmatch(word):
        first, last = int(span[1]), int(span[2])
        if last < first:
            raise Refusal(f"features '{word}'", "it runs backwards", f"write {last}-{first}")
        return [_Span(first, last)]
    _refuse_long(word)
    return [word]


def _refuse_long(name: str) -> None:
    if len(name) > LONGEST_ID:
        raise Refusal(f"feature '{shown(name)}'", f"no id has {len(name)} characters", "name ids as in the dictionary")


def _ids_of_file(name: str) -> list[str]:
    """Ids of a text file, one a line; blank lines are passed over.

    Raises:
        Refusal: it cannot be read, holds no id, or a line that is none or stands there twice.
    """
    if not name:
        raise Refusal("features '@'", "no file is named", "write @FILE, a file with one id a line")
    path = Path(check_name(name, "file of ids"))
    try:
        lines = read_bounded(path, _MOST_BYTES, "ids of features").decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise Refusal(f"{path}", "it is no text", "write one id a line") from error
    ids: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if not (word := line.strip()):
            continue
        if "," in word or word == "all" or word.startswith("@") or _COUNTED.fullmatch(word) or _SPAN.fullmatch(word):
            raise Refusal(f"{path}, line {number}", f"'{shown(word)}' is no id", "write one id a line")
        _refuse_long(word)
        if word in ids:
            raise Refusal(f"{path}, line {number}", f"{shown(word)} stands in line {ids[word]} too", "name it once")
        ids[word] = number
    if not ids:
        raise Refusal(f"{path}", "there is no id in it", "write one id a line")
    return list(ids)


def _refuse_twice(text: str, parts: Sequence[_Part]) -> None:
    """Refuse what is there twice by its words alone; ranges are compared where the dictionary is known."""
    seen: set[str] = set()
    for part in parts:
        word = part.how if isinstance(part, _Some) else str(part)
        if word in seen:
            raise Refusal(f"features '{shown(text)}'", f"{shown(word)} is there twice", "name every feature once")
        seen.add(word)


def _of_named(part: str | _Span, rows: Rows) -> list[int]:
    if isinstance(part, str):
        return [rows.number_of(part)]
    if part.last >= rows.count:
        why = f"it has {rows.count} features (d_sae {rows.count})"
        raise Refusal(f"features {part} of {rows.name}", why, f"name ids from 0 to {rows.count - 1}")
    return list(range(part.first, part.last + 1))


def _drawn(part: _Some, rows: Rows, taken: Mapping[int, str], rng: np.random.Generator) -> list[int]:
    """So many features at random that have a direction and are not taken; only rows that are looked at are read."""
    found = _first_living([k for k in rng.permutation(rows.count).tolist() if k not in taken], part.count, rows)
    if len(found) < part.count:
        why = f"{len(found)} of its {rows.count} features have a direction and are not named otherwise"
        raise Refusal(f"features {part} of {rows.name}", why, f"ask for {len(found)} at most")
    return found


def _most(part: _Some, rows: Rows, taken: Mapping[int, str], firings: Mapping[str, float] | None) -> list[int]:
    """So many features that fire in the most documents and are not taken; equals go by their number."""
    what, instead = f"features {part} of {rows.name}", "fit a crossing over tokens and pass it, or name ids"
    if firings is None:
        raise Refusal(what, "how often its features fire was not counted", instead)
    uncounted = [k for k in range(rows.count) if rows.id_of(k) not in firings]
    if uncounted and (missing := len(rows.living(uncounted))):
        why = f"firings of {missing} of its {rows.count} features were not counted"
        raise Refusal(what, why, "name ids, or fit a crossing with --features all, which counts every feature")
    often = [(firings.get(rows.id_of(k), 0.0), k) for k in range(rows.count) if k not in taken]
    order = [k for count, k in sorted(often, key=lambda pair: (-pair[0], pair[1])) if count > 0]
    order = _first_living(order, part.count, rows)
    if len(order) < part.count:
        why = f"{len(order)} features that are not named otherwise fire in the texts that were read"
        raise Refusal(what, why, f"ask for {len(order)} at most")
    return order


def _first_living(order: Sequence[int], count: int, rows: Rows) -> list[int]:
    """The first that have a direction, in order; rows that come after them are not read."""
    found: list[int] = []
    at = 0
    while len(found) < count and at < len(order):
        some = order[at : at + count - len(found)]
        found, at = found + rows.living(some), at + len(some)
    return found
