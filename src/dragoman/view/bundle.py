"""The viewer's pages as files that open anywhere, without a server: for sharing runs of a few thousand features.

In: ``Viewed`` runs, a folder that is not there yet. Out: the folder, whole or not at all: an overview, a list that the
browser filters, orders, searches by words and makes tables of, a page for each feature with its neighbours in all of
these runs; of several runs a folder each. Refuses runs of more features than a browser searches well, ids that are one
where they are shown, runs that change meanwhile, and a folder that is there.

``list.js`` beside each list holds what `find.Columns` chooses by, every text as the index cuts it into words, and how
it cuts them: ``static/bundle.js`` answers from it what `find` answers on a server. ``tables.js`` holds the rows of its
tables.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import cache, cached_property
from math import isfinite
from pathlib import Path
from typing import Any

from dragoman.core import Refusal, harmless
from dragoman.exports.tables import COLUMNS
from dragoman.records import Record
from dragoman.store import write_bytes, write_text
from dragoman.store.outputs import new_folder
from dragoman.view import pages, tables
from dragoman.view.across import elsewhere
from dragoman.view.build import words_of
from dragoman.view.find import ORDERS, PAGE, RANKED, TRUSTS, UNRANKED, Columns, Found, Selection, lines_of
from dragoman.view.index import HEAD, words_table
from dragoman.view.opened import Viewed

MOST = 5000  # features of a run
_LONGEST = 20_000  # characters of what a feature says in a condition that the browser searches
_MANY = 500  # lines asked for at once
_CODES = (range(1, 0xD800), range(0xE000, 0x20000), range(0xE0000, 0xE0200))  # all others are letters to the index
_STATIC = {
    "page.css": pages.HERE.parent / "report" / "templates" / "style.css",
    "view.css": pages.HERE / "static" / "view.css",
    "view.js": pages.HERE / "static" / "view.js",
    "bundle.js": pages.HERE / "static" / "bundle.js",
}
# Of a file, browsers take 'self' to be nothing or every file; neither is elsewhere.
_POLICY = (
    "default-src 'none'; style-src 'self' file:; script-src 'self' file:; img-src data:; base-uri 'none'; "
    "form-action 'self' file:"
)
Bar = Callable[[str, int, int], None]


class BundledRun(Record):
    """A run in a bundle: its ``name``, its first page, how many features and controls have a page.

    ``no_meaning``: why its features are not compared by what is said of them; "" where they are.
    """

    name: str
    page: str
    features: int
    controls: int
    no_meaning: str


class Bundle(Record):
    """What was written: the ``page`` to open first, and each run's. Paths as they were asked for."""

    page: str
    runs: tuple[BundledRun, ...]


class Filed:
    """Addresses of files beside one another; ``files``: of each feature that has one."""

    served = False

    def __init__(self, files: Mapping[str, str], root: str) -> None:
        """In a folder; ``root`` leads to the page of all runs."""
        self._files, self._root = files, root

    def home(self) -> str:
        """All runs."""
        return f"{self._root}index.html"

    def overview(self) -> str:
        """The run."""
        return "index.html"

    def features(self, query: str = "") -> str:
        """Its list, or a view of it."""
        return f"features.html{'?' if query else ''}{query}"

    def feature(self, name: str, query: str = "") -> str:
        """One feature; one that has no page leads to the list."""
        return self._files.get(name, "features.html")

    def table(self, kind: str, query: str = "") -> str:
        """The list: its script makes tables."""
        return "features.html"

    def neuronpedia(self) -> str:
        """The list: it tells the command."""
        return "features.html"


class _Part:
    """A run and where it goes: ``inside`` the bundle's folder, "" or the name of one of its own."""

    def __init__(self, view: Viewed, inside: str) -> None:
        self.view, self.inside = view, inside

    @cached_property
    def ids(self) -> list[tuple[int, str]]:
        """Number and id of everything that has a page, features before controls, each in the run's order."""
        with self.view.index.reading() as database:
            return database.execute(
                "SELECT f.n, f.id FROM features f JOIN texts t ON t.feature = f.n AND t.condition = ? "
                "ORDER BY t.control, f.n",
                (HEAD,),
            ).fetchall()

    @cached_property
    def files(self) -> dict[str, str]:
        """By id, the name of its page.

        Raises:
            Refusal: two ids differ only in what no text can hold, so that one page would stand for both.
        """
        found = {name: _file(n, name) for n, name in self.ids}
        if len(found) < len(self.ids):
            why = "two of its features have one id, but for characters that no text can hold"
            raise Refusal(f"a bundle of {self.view.run.path}", why, "share the run, or name its features anew")
        return found

    def overview(self) -> str:
        """The run, from the page of all."""
        return f"{self.inside}/index.html"

    def from_another(self, name: str) -> str:
        """A feature, from another run's page."""
        return f"../{self.inside}/{self.files[name]}"


def check_bundle(views: Sequence[Viewed]) -> None:
    """Refuse runs that are too large, before anything is written."""
    for view in views:
        count = view.index.about["features"]
        if count > MOST:
            why = f"it has {count} features, and a browser alone searches up to {MOST}"
            raise Refusal(f"a bundle of {view.run.path}", why, "share the run, or a table of the viewer, instead")


def write_bundle(views: Sequence[Viewed], out: Path, bar: Bar) -> Bundle:
    """Write the folder.

    Raises:
        Refusal: as the module says, or a row is not the run's own.
    """
    check_bundle(views)
    several = len(views) > 1
    parts = [_Part(view, f"run-{k}" if several else "") for k, view in enumerate(views, 1)]
    for part in parts:
        _ = part.files  # refused before anything is written
        part.view.meaning.made(bar)
    with new_folder(out) as folder:
        for name, path in _STATIC.items():
            write_bytes(folder / name, path.read_bytes())
        for part in parts:
            (folder / part.inside).mkdir(exist_ok=True)
            _write_run(part, [one for one in parts if one is not part], folder / part.inside, bar)
        if several:
            page = pages.home([(part.view, part) for part in parts], served=False, assets="", policy=_POLICY)
            write_text(folder / "index.html", page)
        for view in views:
            if view.changed:
                why = "it has changed since its index was made, so its pages would tell of what it was"
                raise Refusal(f"a bundle of {view.run.path}", why, "run the same command again")
    return Bundle(page=f"{out / 'index.html'}", runs=tuple(_told(part, out) for part in parts))


def _told(part: _Part, out: Path) -> BundledRun:
    view, about = part.view, part.view.index.about
    return BundledRun(
        name=view.name,
        page=f"{out / part.inside / 'index.html'}",
        features=about["features"],
        controls=about["controls"],
        no_meaning=view.meaning.why,
    )


def _write_run(part: _Part, others: Sequence[_Part], folder: Path, bar: Bar) -> None:
    view, ids, root = part.view, part.ids, "../" if part.inside else ""
    links = Filed(part.files, root)
    told = {"several": bool(root), "assets": root, "policy": _POLICY}
    addresses = [(one.view, one.from_another) for one in others]
    words, rows = list[list[Any]](), list[list[Any]]()
    with view.index.reading() as database:
        write_text(folder / "index.html", pages.overview(view, links, **told))
        numbers = [n for n, _ in ids[: view.index.about["features"]]]
        found = Found(lines=_lines(database, numbers, HEAD), count=len(numbers))
        listed = pages.features(view, links, Selection(), found, only_results=False, **told)
        write_text(folder / "features.html", listed)
        for k, (n, name) in enumerate(ids, 1):
            page = view.feature(database, n)
            words.append([n, part.files[name], harmless(name), *_searched(page.card, view)])
            rows += [[n, *cells] for cells in tables.cells(view, database, n)]
            there = {
                end: one if (one := getattr(page, end)) is not None and one in part.files else None
                for end in ("before", "after")
            }
            html = pages.feature(
                view, links, replace(page, **there), elsewhere=elsewhere(view, page, addresses), **told
            )
            write_text(folder / part.files[name], html)
            bar("writing pages", k, len(ids))
        held = _held(view, links, database, words)
    write_text(folder / "list.js", _script("held", held))
    write_text(folder / "tables.js", _script("tables", {"columns": COLUMNS, "rows": rows}))


def _script(name: str, told: Mapping[str, object]) -> str:
    """A script that holds something; a page of a file may read no other file."""
    return f"globalThis.{name} = {json.dumps(told, allow_nan=False)};\n"


def _file(n: int, name: str) -> str:
    """A file's name: the feature's id where every system can have that, in capitals or not; else its number."""
    return f"feature-{name}.html" if re.fullmatch(r"[0-9a-z_-]{1,64}", name, re.ASCII) else f"nth-{n}.html"


def _lines(database: sqlite3.Connection, numbers: Sequence[int], condition: int) -> list[Any]:
    return [
        line for k in range(0, len(numbers), _MANY) for line in lines_of(database, numbers[k : k + _MANY], condition)
    ]


def _held(view: Viewed, links: Filed, database: sqlite3.Connection, words: Sequence[Any]) -> dict[str, object]:
    """What the browser answers from: ``columns`` and ``lines`` of what speaks for features, then of each condition.

    ``lines``: those that do not stand on the list's page. ``words``: number, page, id and words of each feature.
    ``known``: what may be asked for by name, as `find.Selection` has it. ``cut``: how words are cut. ``exported``:
    conditions that ``dragoman export`` takes. ``called``: what tables of the run are called, but for their endings.
    """
    about, lines, columns = view.index.about, list[dict[int, str]](), list[Any]()
    for k, name in enumerate(["", *view.index.conditions], HEAD):
        asked = view.columns(Selection(condition=name))
        columns.append(_columns(asked))
        numbers = asked.feature[asked.bits["control"] == 1] if k == HEAD else asked.feature
        some = _lines(database, numbers.tolist(), k)
        lines.append(dict(zip([one.n for one in some], pages.items(view, links, some), strict=True)))
    return {
        "page": PAGE,
        "features": about["features"],
        "controls": about["controls"],
        "conditions": view.index.conditions,
        "routes": about["routes"],
        "verbalizers": about["verbalizers"],
        "orders": {name: [column, largest] for name, (_, column, largest) in ORDERS.items()},
        "known": {
            "condition": view.index.conditions,
            "status": list(about["tallies"]["statuses"]),
            "category": list(about["tallies"]["categories"]),
            "route": about["routes"],
            "verbalizer": about["verbalizers"],
            "trust": list(TRUSTS),
            "flagged": ["yes"],
            "kind": ["controls"],
            "sort": list(ORDERS),
            "by": [],
        },
        "cut": _as_ranges(cuts()),
        "longest": _LONGEST,
        "ranked": RANKED,
        "unranked": UNRANKED,
        "exported": [one for one in view.index.conditions if one not in view.controls],
        "called": tables.file_name(view, ""),
        "columns": columns,
        "lines": lines,
        "words": words,
    }


def _columns(asked: Columns) -> dict[str, list[Any]]:
    """As lists; what is not known, or no finite number, is null, and of several routes each has its number."""
    words = list(asked.words)
    numbers = {name: [one if isfinite(one) else None for one in some.tolist()] for name, some in asked.numbers.items()}
    bits = {name: asked.bits[name].tolist() for name in ("control", "flagged")}
    several = {
        name: [[k for k in range(one.bit_length()) if one >> k & 1] for one in asked.bits[name].tolist()]
        for name in ("routes", "verbalizers")
    }
    codes = {name: [words[one] for one in some.tolist()] for name, some in asked.codes.items()}
    return {"feature": asked.feature.tolist(), **numbers, **bits, **several, **codes}


def _searched(card: Any, view: Viewed) -> list[Any]:
    """How many words a feature has, and whether all of them are here; then its names' and each condition's."""
    texts = words_of(card, view.index.conditions)
    kept = [one if len(one) <= _LONGEST else one[:_LONGEST].rpartition(" ")[0] for one in texts]
    size = sum(len(folded(one).split()) for one in texts)
    return [size, kept == texts, *(folded(one) for one in kept)]


def folded(text: str) -> str:
    """A text's words as the index has them, between single blanks."""
    return " ".join(text.translate(cuts()).split())


@cache
def cuts() -> Mapping[int, str]:
    """How the index cuts words, told by itself: what stands for a character that does not stand for itself.

    A letter, nothing (a mark that goes), or a blank (what stands between words).
    """
    found = dict[int, str]()
    with closing(sqlite3.connect(":memory:")) as database:
        database.execute(words_table(0))
        database.execute("CREATE VIRTUAL TABLE cut USING fts5vocab('words', 'instance')")
        # Each between two letters, after a word that tells which one it is.
        asked = " ".join(f"n{code:x} a{chr(code)}b" for some in _CODES for code in some)
        database.execute("INSERT INTO words (rowid, names) VALUES (1, ?)", (asked,))
        code = 0
        for (term,) in database.execute("SELECT term FROM cut ORDER BY offset"):
            if term.startswith("n"):
                code = int(term[1:], 16)
            elif term == "a":
                found[code] = " "
            elif term != "b" and term != f"a{chr(code)}b":
                found[code] = term[1:-1]
    return found


def _as_ranges(found: Mapping[int, str]) -> dict[str, str | list[list[int]]]:
    """The same for a browser: codes from and to which characters part words or go, and pairs of letters."""
    letters = "".join(f"{chr(code)}{letter}" for code, letter in found.items() if letter.strip())
    return {
        "parts": _ranges(code for code, letter in found.items() if letter == " "),
        "goes": _ranges(code for code, letter in found.items() if not letter),
        "letters": letters,
    }


def _ranges(codes: Iterable[int]) -> list[list[int]]:
    made = list[list[int]]()
    for code in codes:
        if made and made[-1][1] == code - 1:
            made[-1][1] = code
        else:
            made.append([code, code])
    return made
