"""Which features somebody asks for: words, filters, order and page, as one line that is the view's address.

In: what stands behind the question mark of an address; an index. Out: ``Selection``, and the features it finds. Refuses
conditions, routes and other names that the run does not have, and an order nobody knows.

Bare words of three letters and more also find words that begin with them; what stands in quotation marks is found as it
stands. Each word must stand in one of a feature's texts, its label or its id.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self
from urllib.parse import urlencode

import numpy as np
from numpy.typing import NDArray

from dragoman.core import Refusal
from dragoman.report.words import STATUSES, in_order
from dragoman.store.spans import shown
from dragoman.view.index import HEAD, Index

PAGE = 50  # features on a page
_LONGEST = 300  # characters of a query that are read
_MOST_WORDS = 24
RANKED = 3000  # hits; more of them are not put in order of their match
_BITS, _CODES = ("control", "flagged", "routes", "verbalizers"), ("status", "category")
_NUMBERS = ("answered", "confidence", "lift", "coverage", "agreement", "n_eff", "likely")
_SHORT = 3  # letters; shorter words do not stand for those that begin with them
_WORD = re.compile(r'"([^"]*)"|(\S+)')

# order: (what it is called, the column, "" for none, whether large ones come first)
ORDERS: Mapping[str, tuple[str, str, bool]] = {
    "run": ("as in the run", "", False),
    "match": ("best match", "", True),
    "sure": ("most confident", "confidence", True),
    "unsure": ("least confident", "confidence", False),
    "lift": ("largest lift", "lift", True),
    "agreement": ("routes agree most", "agreement", True),
    "coverage": ("most coverage", "coverage", True),
    "documents": ("fires most often", "n_eff", True),
    "rare": ("fires most rarely", "n_eff", False),
    "likely": ("said most readily", "likely", True),
}
UNRANKED = f"too many to order by match; shown {ORDERS['run'][0]}"
TRUSTS = {"answered": "answered for", "abstained": "abstained from", "none": "without a confidence"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """A view of the list. Empty words are no filter.

    ``q``: words, or with ``by`` "meaning" a sentence. ``condition``: whose texts are shown; the others pick features.
    ``least``: of confidence. ``kind``: "controls" for random directions. ``page``: from 1.
    """

    q: str = ""
    by: str = ""
    condition: str = ""
    status: str = ""
    category: str = ""
    route: str = ""
    verbalizer: str = ""
    trust: str = ""
    least: str = ""
    flagged: str = ""
    kind: str = ""
    sort: str = ""
    page: int = 1

    @classmethod
    def of(cls, asked: Mapping[str, str], index: Index) -> Self:
        """What an address asks for.

        Raises:
            Refusal: a name that the run does not have; an order, a number or a page that is none.
        """
        known = {one.name for one in fields(cls)}
        told = {name: value for name, value in asked.items() if name in known and value}
        told["q"] = " ".join(told.get("q", "").replace("\0", " ").split())[:_LONGEST]
        page = _page(told.pop("page", "1"))
        about, tallies = index.about, index.about["tallies"]
        _refuse_unknown("by", told, ("meaning",))
        _refuse_unknown("condition", told, index.conditions)
        _refuse_unknown("status", told, tallies["statuses"])
        _refuse_unknown("category", told, tallies["categories"])
        _refuse_unknown("route", told, about["routes"])
        _refuse_unknown("verbalizer", told, about["verbalizers"])
        _refuse_unknown("trust", told, TRUSTS)
        _refuse_unknown("flagged", told, ("yes",))
        _refuse_unknown("kind", told, ("controls",))
        _refuse_unknown("sort", told, ORDERS)
        if told.get("least") and not re.fullmatch(r"0?\.\d{1,3}|0|1|1\.0{1,3}|0\.", told["least"]):
            raise Refusal(f"confidence '{shown(told['least'])}'", "it is no number from 0 to 1", "write one, as 0.7")
        return cls(**told, page=page)

    def query(self, **changed: Any) -> str:
        """The address of this view, or of one that differs by what is ``changed``."""
        new = replace(self, **({"page": 1} | changed)) if changed else self
        return urlencode(new.fields(), errors="replace")

    def fields(self) -> dict[str, str | int]:
        """What the address tells, by name."""
        told = {one.name: getattr(self, one.name) for one in fields(self)}
        return {k: v for k, v in told.items() if v and (k, v) != ("page", 1)}

    @property
    def order(self) -> str:
        """In which order it is shown: what was asked for, else the best match of words, else the run's."""
        return self.sort or ("match" if self.q else "run")

    @property
    def narrowed(self) -> bool:
        """Whether anything is left out."""
        return any(getattr(self, one.name) for one in fields(self) if one.name not in ("sort", "page", "by", "kind"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A feature in the list: ``score``, the cosine of a search by meaning."""

    n: int
    id: str
    name: str
    label: str
    category: str
    spoken: int
    status: str
    answered: bool | None
    confidence: float | None
    lift: float | None
    flagged: bool
    gist: str
    score: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A page of a selection; ``count``: of the whole. ``note``: what should be known of it, "" for nothing."""

    lines: Sequence[Line]
    count: int
    note: str = ""

    @property
    def pages(self) -> int:
        """How many there are, at least one."""
        return max(1, -(-self.count // PAGE))


def _page(text: str) -> int:
    if not re.fullmatch(r"[1-9]\d{0,6}", text):
        raise Refusal(f"page '{shown(text)}'", "pages are counted from 1", "follow the links of the list")
    return int(text)


def _refuse_unknown(name: str, told: Mapping[str, str], known: Any) -> None:
    value = told.get(name)
    if value and value not in known:
        there = ", ".join(list(known)[:12]) or "none"
        raise Refusal(f"{name} '{shown(value)}'", f"this run has {there}", "choose one of these")


def expression(text: str, columns: Sequence[str] = ()) -> str:
    """What is typed as FTS5 reads it, every word quoted; "" where no word is in it."""
    parts = list[str]()
    for found in list(_WORD.finditer(text))[:_MOST_WORDS]:
        exact, bare = found[1], found[2]
        said = (exact if exact is not None else bare).replace('"', " ").strip()
        if re.search(r"[^\W_]", said):
            begins = exact is None and len(said) >= _SHORT
            parts.append(f'"{said}"*' if begins else f'"{said}"')
    whole = " AND ".join(parts)
    return f"{{{' '.join(columns)}}} : ({whole})" if whole and columns else whole


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """What the texts of one condition, or those that speak for features, are chosen and ordered by: an entry for each.

    ``feature``: its number, rising. Words are numbers in ``words``; a number that is not known is NaN.
    """

    feature: NDArray[np.int64]
    numbers: Mapping[str, NDArray[np.float64]]
    bits: Mapping[str, NDArray[np.int64]]
    codes: Mapping[str, NDArray[np.int32]]
    words: Mapping[str, int]

    @classmethod
    def read(cls, database: sqlite3.Connection, condition: int) -> Self:
        """Read them from an index."""
        names = ["feature", *_BITS, *_CODES, *_NUMBERS]
        sql = f"SELECT {', '.join(names)} FROM texts WHERE condition = ? ORDER BY feature"
        rows = database.execute(sql, (condition,)).fetchall()
        told = dict(zip(names, zip(*rows, strict=True), strict=True)) if rows else dict.fromkeys(names, ())
        words = {word: k for k, word in enumerate(dict.fromkeys(one for name in _CODES for one in told[name]))}
        return cls(
            feature=np.array(told["feature"], np.int64),
            numbers={name: np.array(told[name], np.float64) for name in _NUMBERS},
            bits={name: np.array(told[name], np.int64) for name in _BITS},
            codes={name: np.array([words[one] for one in told[name]], np.int32) for name in _CODES},
            words=words,
        )

    def chosen(self, selection: Selection, index: Index) -> NDArray[np.bool_]:
        """Which of them a selection's filters leave."""
        left = np.ones(len(self.feature), bool)
        if not selection.condition:
            left &= self.bits["control"] == int(selection.kind == "controls")
        for name in _CODES:
            if value := getattr(selection, name):
                left &= self.codes[name] == self.words.get(value, -1)
        for name in ("routes", "verbalizers"):
            if value := getattr(selection, name.removesuffix("s")):
                left &= self.bits[name] & (1 << list(index.about[name]).index(value)) != 0
        if selection.trust == "none":
            left &= np.isnan(self.numbers["answered"])
        elif selection.trust:
            left &= self.numbers["answered"] == float(selection.trust == "answered")
        if selection.least:
            left &= self.numbers["confidence"] >= float(selection.least)
        if selection.flagged:
            left &= self.bits["flagged"] != 0
        return left

    def ordered(self, left: NDArray[np.bool_], order: str) -> NDArray[np.int64]:
        """Numbers of the features that are left, in an order; those that lack what it goes by are last."""
        _, column, largest = ORDERS[order]
        if not column:
            return self.feature[left]
        values = self.numbers[column][left]
        at = np.argsort(-values if largest else values, kind="stable")  # NaN comes last either way
        return self.feature[left][at]


def condition_of(selection: Selection, index: Index) -> int:
    """The number of the condition whose texts are shown."""
    return index.conditions.index(selection.condition) if selection.condition else HEAD


def words_of(selection: Selection, index: Index) -> str:
    """What a selection looks for, as FTS5 reads it."""
    columns = ["names", f"c{condition_of(selection, index)}"] if selection.condition else []
    return expression(selection.q, columns)


_LINE = (
    "SELECT f.n, f.id, f.name, f.label, f.category, t.spoken, t.status, t.answered, t.confidence, t.lift, t.flagged, "
    "t.gist FROM texts t JOIN features f ON f.n = t.feature"
)


def chosen(
    database: sqlite3.Connection, selection: Selection, index: Index, columns: Columns
) -> tuple[NDArray[np.int64], str]:
    """The numbers of all features of a selection by words and filters, in its order; and what should be known of it."""
    left, order = columns.chosen(selection, index), selection.order
    if not selection.q:
        return columns.ordered(left, "run" if order == "match" else order), ""
    words = words_of(selection, index)
    if not words:
        return np.zeros(0, np.int64), "there is no word to look for in this"
    hits = np.fromiter(
        (n for (n,) in database.execute("SELECT rowid FROM words WHERE words MATCH ?", (words,))), np.int64
    )
    left &= np.isin(columns.feature, hits, assume_unique=True)
    if order != "match":
        return columns.ordered(left, order), ""
    if len(hits) > RANKED:
        return columns.ordered(left, "run"), UNRANKED
    sql = "SELECT rowid FROM words WHERE words MATCH ? ORDER BY bm25(words, 8.0), rowid"
    ranked = np.fromiter((n for (n,) in database.execute(sql, (words,))), np.int64)
    return ranked[np.isin(ranked, columns.feature[left])], ""


def found(database: sqlite3.Connection, selection: Selection, index: Index, columns: Columns) -> Found:
    """A page of a selection by words and filters (`meaning.by_meaning` finds by meaning)."""
    numbers, note = chosen(database, selection, index, columns)
    first = PAGE * (selection.page - 1)
    some = numbers[first : first + PAGE].tolist()
    lines = lines_of(database, some, condition_of(selection, index))
    return Found(lines=lines, count=len(numbers), note=note)


def _line(row: Sequence[Any], score: float | None = None) -> Line:
    n, name, called, label, category, spoken, status, answered, confidence, lift, flagged, gist = row
    return Line(
        n=n,
        id=name,
        name=called,
        label=label,
        category=category,
        spoken=spoken,
        status=status,
        answered=None if answered is None else bool(answered),
        confidence=confidence,
        lift=lift,
        flagged=bool(flagged),
        gist=gist,
        score=score,
    )


def lines_of(
    database: sqlite3.Connection, features: Sequence[int], condition: int = HEAD, scores: Sequence[float] = ()
) -> list[Line]:
    """Lines of these features in this order; those without a text of the condition are left out."""
    marks = ", ".join("?" * len(features))
    rows = database.execute(f"{_LINE} WHERE t.condition = ? AND t.feature IN ({marks})", [condition, *features])
    by = {row[0]: row for row in rows}
    told = scores or [None] * len(features)
    return [_line(by[n], score) for n, score in zip(features, told, strict=True) if n in by]


def statuses(index: Index) -> list[str]:
    """The run's, in the order of the page's."""
    return in_order(
        index.about["tallies"]["statuses"], [one for one in STATUSES if one in index.about["tallies"]["statuses"]]
    )
