"""The viewer's pages as files that open anywhere, without a server: for sharing a run of a few thousand features.

In: ``Viewed`` runs, a folder that is not there yet. Out: the folder, whole or not at all: an overview, a list that the
browser searches, a page for each feature; of several runs a folder each. Refuses runs of more features than a browser
searches well, and a folder that is there.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from dragoman.core import Refusal
from dragoman.store import write_bytes, write_text
from dragoman.store.outputs import new_folder
from dragoman.view import pages
from dragoman.view.find import Found, Selection, lines_of
from dragoman.view.index import HEAD
from dragoman.view.opened import Viewed

MOST = 5000  # features of a run
_LONGEST = 4000  # characters of a text that the browser searches
_STATIC = {
    "page.css": pages.HERE.parent / "report" / "templates" / "style.css",
    "view.css": pages.HERE / "static" / "view.css",
    "view.js": pages.HERE / "static" / "view.js",
}
# Of a file, browsers take 'self' to be nothing or every file; neither is elsewhere.
_POLICY = (
    "default-src 'none'; style-src 'self' file:; script-src 'self' file:; img-src data:; base-uri 'none'; "
    "form-action 'none'"
)
Bar = Callable[[str, int, int], None]


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
        """Its list."""
        return "features.html"

    def feature(self, name: str, query: str = "") -> str:
        """One feature; one that has no page leads to the list."""
        return self._files.get(name, "features.html")

    def table(self, kind: str, query: str = "") -> str:
        """A file makes no tables."""
        return "features.html"

    def neuronpedia(self) -> str:
        """Nor any other export."""
        return "features.html"


class _Folder:
    """Addresses of one of several runs, from the page of all."""

    def __init__(self, name: str) -> None:
        self._name = name

    def overview(self) -> str:
        """The run."""
        return f"{self._name}/index.html"


def check_bundle(views: Sequence[Viewed]) -> None:
    """Refuse runs that are too large, before anything is written."""
    for view in views:
        count = view.index.about["features"]
        if count > MOST:
            why = f"it has {count} features, and a browser alone searches up to {MOST}"
            raise Refusal(f"a bundle of {view.run.path}", why, "share the run, or a table of the viewer, instead")


def write_bundle(views: Sequence[Viewed], out: Path, bar: Bar) -> Path:
    """Write the folder and return the page to open first.

    Raises:
        Refusal: as the module says, or a row is not the run's own.
    """
    check_bundle(views)
    several = len(views) > 1
    with new_folder(out) as folder:
        for name, path in _STATIC.items():
            write_bytes(folder / name, path.read_bytes())
        for k, view in enumerate(views):
            inside = folder / f"run-{k + 1}" if several else folder
            inside.mkdir(exist_ok=True)
            _write_run(view, inside, "../" if several else "", bar)
        if several:
            listed = [(view, _Folder(f"run-{k + 1}")) for k, view in enumerate(views)]
            page = pages.home(listed, served=False, assets="", policy=_POLICY)
            write_text(folder / "index.html", page)
    return out / "index.html"


def _write_run(view: Viewed, folder: Path, root: str, bar: Bar) -> None:
    told = {"several": bool(root), "assets": root, "policy": _POLICY}
    with view.index.reading() as database:
        ids = database.execute(
            "SELECT f.n, f.id FROM features f JOIN texts t ON t.feature = f.n AND t.condition = ? "
            "WHERE t.control = 0 ORDER BY f.n",
            (HEAD,),
        ).fetchall()
        files = {name: _file(n, name) for n, name in ids}
        links = Filed(files, root)
        write_text(folder / "index.html", pages.overview(view, links, **told))
        lines = [line for k in range(0, len(ids), 500) for line in lines_of(database, [n for n, _ in ids[k : k + 500]])]
        held = _held([_texts(view, database, n) for n, _ in ids])
        found = Found(lines=lines, count=len(lines))
        listed = pages.features(view, links, Selection(), found, only_results=False, held=held, **told)
        write_text(folder / "features.html", listed)
        for k, (n, name) in enumerate(ids, 1):
            page = view.feature(database, n)
            there = {
                end: one if (one := getattr(page, end)) is not None and one in files else None
                for end in ("before", "after")
            }
            write_text(folder / files[name], pages.feature(view, links, replace(page, **there), **told))
            bar("writing pages", k, len(ids))


def _file(n: int, name: str) -> str:
    """A file's name: the feature's id where every system can have that, in capitals or not; else its number."""
    return f"feature-{name}.html" if re.fullmatch(r"[0-9a-z_-]{1,64}", name, re.ASCII) else f"nth-{n}.html"


def _texts(view: Viewed, database: sqlite3.Connection, n: int) -> str:
    """What the browser searches of a feature, in small letters."""
    card = view.told(database, n).card
    said = [row.text[:_LONGEST] for one in [*card.shown, *card.folded] for row in one.rows]
    return "\n".join([card.id, card.name, card.label, card.category, *said]).lower()


def _held(texts: Sequence[str]) -> str:
    """Texts as JSON that no markup can end."""
    told = json.dumps(texts)
    return told.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
