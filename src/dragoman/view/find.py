"""Which features somebody asks for: words, filters, order and page, as one line that is the view's address.

In: what stands behind the question mark of an address; an index. Out: ``Selection``, and the features it finds. Refuses
conditions, routes and other names that the run does not have, and an order nobody knows.

Bare words also find words that begin with them; what stands in quotation marks is found as it stands. Each word must
stand in one of a feature's texts, its label or its id.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self
from urllib.parse import urlencode

from dragoman.core import Refusal
from dragoman.report.words import STATUSES, in_order
from dragoman.store.spans import shown
from dragoman.view.index import HEAD, Index

PAGE = 50  # features on a page
_LONGEST = 300  # characters of a query that are read
_MOST_WORDS = 24
_RANKED = 20_000  # hits; more of them are not put in order of their match
_WORD = re.compile(r'"([^"]*)"|(\S+)')

# order: (what it is called, the column, whether large ones come first)
ORDERS: Mapping[str, tuple[str, str, bool]] = {
    "run": ("as in the run", "t.feature", False),
    "match": ("best match", "", True),
    "sure": ("most confident", "t.confidence", True),
    "unsure": ("least confident", "t.confidence", False),
    "lift": ("largest lift", "t.lift", True),
    "agreement": ("routes agree most", "t.agreement", True),
    "coverage": ("most coverage", "t.coverage", True),
    "documents": ("fires most often", "t.n_eff", True),
    "rare": ("fires most rarely", "t.n_eff", False),
    "likely": ("said most readily", "t.likely", True),
}
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
        told: dict[str, Any] = {name: value for name, value in asked.items() if name in known and value}
        told["q"] = " ".join(told.get("q", "").replace("\0", " ").split())[:_LONGEST]
        told["page"] = _page(str(told.get("page", "1")))
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
        return cls(**told)

    def query(self, **changed: Any) -> str:
        """The address of this view, or of one that differs by what is ``changed``."""
        new = replace(self, **({"page": 1} | changed)) if changed else self
        told = {one.name: getattr(new, one.name) for one in fields(new)}
        return urlencode({k: v for k, v in told.items() if v and (k, v) != ("page", 1)}, errors="replace")

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


def _refuse_unknown(name: str, told: Mapping[str, Any], known: Any) -> None:
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
            parts.append(f'"{said}"' if exact is not None else f'"{said}"*')
    whole = " AND ".join(parts)
    return f"{{{' '.join(columns)}}} : ({whole})" if whole and columns else whole


class Where:
    """The condition of a selection, for SQL; ``words``: as FTS5 reads them."""

    def __init__(self, selection: Selection, index: Index) -> None:
        """Of a selection of this run."""
        names = index.conditions
        at = names.index(selection.condition) if selection.condition else HEAD
        self.clauses, self.values = ["t.condition = ?"], [at]
        if not selection.condition:
            self._add("t.control = ?", int(selection.kind == "controls"))
        for name in ("status", "category"):
            if value := getattr(selection, name):
                self._add(f"t.{name} = ?", value)
        for name, column in (("route", "routes"), ("verbalizer", "verbalizers")):
            if value := getattr(selection, name):
                self._add(f"t.{column} & ?", 1 << list(index.about[column]).index(value))
        if selection.trust:
            self._add("t.answered IS ?", {"answered": 1, "abstained": 0, "none": None}[selection.trust])
        if selection.least:
            self._add("t.confidence >= ?", float(selection.least))
        if selection.flagged:
            self.clauses.append("t.flagged")
        columns = ["names", f"c{at}"] if selection.condition else []
        self.words = expression(selection.q, columns) if selection.q and not selection.by else ""

    def _add(self, clause: str, value: Any) -> None:
        self.clauses.append(clause)
        self.values.append(value)

    @property
    def sql(self) -> str:
        """After WHERE."""
        hits = ["t.feature IN (SELECT rowid FROM words WHERE words MATCH ?)"] if self.words else []
        return " AND ".join([*self.clauses, *hits])

    @property
    def given(self) -> list[Any]:
        """The values that stand for its question marks."""
        return [*self.values, *([self.words] if self.words else [])]


_LINE = (
    "SELECT f.n, f.id, f.name, f.label, f.category, t.spoken, t.status, t.answered, t.confidence, t.lift, t.flagged, "
    "t.gist FROM texts t JOIN features f ON f.n = t.feature"
)


def found(database: sqlite3.Connection, selection: Selection, index: Index) -> Found:
    """A page of a selection by words and filters (`meaning.by_meaning` finds by meaning)."""
    where = Where(selection, index)
    if selection.q and not where.words:
        return Found(lines=(), count=0, note="there is no word to look for in this")
    count, note = int(database.execute(f"SELECT count(*) FROM texts t WHERE {where.sql}", where.given).fetchone()[0]), ""
    order = selection.order
    if order == "match" and not where.words:
        order = "run"
    if order == "match" and count > _RANKED:
        order, note = "run", f"too many to order by match; shown {ORDERS['run'][0]}"
    page = (PAGE, PAGE * (selection.page - 1))
    if order == "match":
        clauses = " AND ".join(where.clauses)
        sql = (
            f"{_LINE} JOIN (SELECT rowid AS hit, bm25(words, 8.0) AS worse FROM words WHERE words MATCH ?) "
            f"ON hit = t.feature WHERE {clauses} ORDER BY worse, t.feature LIMIT ? OFFSET ?"
        )
        rows = database.execute(sql, [where.words, *where.values, *page])
    else:
        sql = f"SELECT t.feature FROM texts t WHERE {where.sql} ORDER BY {_ordered(order)} LIMIT ? OFFSET ?"
        some = [n for (n,) in database.execute(sql, [*where.given, *page])]
        return Found(lines=lines_of(database, some, where.values[0]), count=count, note=note)
    return Found(lines=[_line(row) for row in rows], count=count, note=note)


def _ordered(order: str) -> str:
    _, column, largest = ORDERS[order]
    if order == "run":
        return column
    return f"{column} IS NULL, {column}{' DESC' if largest else ''}, t.feature"


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


def every(database: sqlite3.Connection, selection: Selection, index: Index) -> list[int]:
    """The numbers of all features of a selection by words and filters, in its order but for the match's."""
    where = Where(selection, index)
    if selection.q and not selection.by and not where.words:
        return []
    order = "run" if selection.order == "match" else selection.order
    sql = f"SELECT t.feature FROM texts t WHERE {where.sql} ORDER BY {_ordered(order)}"
    return [n for (n,) in database.execute(sql, where.given)]


def statuses(index: Index) -> list[str]:
    """The run's, in the order of the page's."""
    return in_order(index.about["tallies"]["statuses"], [one for one in STATUSES if one in index.about["tallies"]["statuses"]])
