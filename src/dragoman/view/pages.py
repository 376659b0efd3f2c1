"""The viewer's pages as HTML: an overview, a list, a page for each feature; where they are, for a server or in files.

In: a ``Viewed`` run, a selection. Out: HTML. Refuses nothing of its own. Everything a run holds is escaped where it is
shown; nothing on a page is loaded from elsewhere.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from shlex import join
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote, urlencode

from dragoman.report import words
from dragoman.report.figures import number
from dragoman.report.headline import Counted, headline
from dragoman.report.lit import LEVELS, OF_LARGEST
from dragoman.report.page import clean, environment, site_words
from dragoman.report.words import in_order, spokesman
from dragoman.view.across import Elsewhere
from dragoman.view.find import ORDERS, TRUSTS, Found, Line, Selection, statuses
from dragoman.view.opened import FeaturePage, Viewed

if TYPE_CHECKING:
    from jinja2 import Environment

HERE = Path(__file__).parent
_BETWEEN = "<!---->"  # two lines of a list
_REASONS = 3  # told of those that an abstention had


class Front(Protocol):
    """The address of a run's first page."""

    def overview(self) -> str:
        """The run."""
        ...


class Links(Front, Protocol):
    """Addresses of a run's pages. ``served``: whether a server answers, which can search and make tables."""

    served: bool

    def home(self) -> str:
        """All runs."""
        ...

    def features(self, query: str = "") -> str:
        """Its list, or a view of it."""
        ...

    def feature(self, name: str, query: str = "") -> str:
        """One feature; ``query``: the view that one came from."""
        ...

    def table(self, kind: str, query: str = "") -> str:
        """A selection as a file."""
        ...

    def neuronpedia(self) -> str:
        """A selection in Neuronpedia's layout; which one, and what it is called there, is asked behind it."""
        ...


class Served:
    """Addresses on the server, of the run that is called so."""

    served = True

    def __init__(self, name: str) -> None:
        """Under the run's name."""
        self._root = f"/{quote(name, safe='')}"

    def home(self) -> str:
        """All runs."""
        return "/"

    def overview(self) -> str:
        """The run."""
        return f"{self._root}/"

    def features(self, query: str = "") -> str:
        """Its list, or a view of it."""
        return f"{self._root}/features{'?' if query else ''}{query}"

    def feature(self, name: str, query: str = "") -> str:
        """One feature; ids are any text, so they stand behind the question mark."""
        told = urlencode({"id": name}, errors="replace")
        return f"{self._root}/feature?{told}{'&' if query else ''}{query}"

    def table(self, kind: str, query: str = "") -> str:
        """A selection as a file."""
        return f"{self._root}/table.{kind}{'?' if query else ''}{query}"

    def neuronpedia(self) -> str:
        """A selection in Neuronpedia's layout."""
        return f"{self._root}/neuronpedia.zip"


@cache
def _pages() -> Environment:
    room = environment(HERE / "templates")
    room.globals.update(
        orders=ORDERS,
        trusts=TRUSTS,
        titled=words.title,
        light=LEVELS,
        of_largest=OF_LARGEST,
    )
    room.filters.update(plural=_plural, figure=_figure)
    return room


def _plural(count: int, one: str, many: str = "") -> str:
    return f"{number(count)} {one if count == 1 else many or f'{one}s'}"


def _figure(value: float) -> str:
    return f"{value:.3g}"


def _render(template: str, view: Viewed | None, links: Links | None, **told: Any) -> str:
    base = {
        "view": view,
        "links": links,
        "served": links.served if links else True,
        "assets": "/static/",
        "policy": "",
        "several": False,
        "here": "",
        "changed": False,
        "title": "",
    }
    if view is not None:
        told = {
            "run": view,
            "manifest": view.manifest,
            "about": view.index.about,
            "source": site_words(view.manifest.source),
            "target": site_words(view.manifest.target),
            "selection": Selection(),
        } | told
    return clean(_pages().get_template(template).render(base | told))


def overview(view: Viewed, links: Links, **told: Any) -> str:
    """What was run, what it scored, how many it abstained from and why."""
    names, tallies = view.index.conditions, view.index.about["tallies"]
    order = in_order(names, words.SHOWN)
    return _render(
        "overview.html.j2",
        view,
        links,
        here="overview",
        headline=_headline(view),
        answers=_answers(view),
        abstained=_abstained(tallies["reasons"]),
        statuses=[(word, tallies["statuses"][word], words.STATUSES.get(word, "")) for word in statuses(view.index)],
        problems=[
            (word, count, words.PROBLEMS.get(word, ""))
            for word, count in sorted(tallies["problems"].items(), key=lambda item: -item[1])
        ],
        conditions=sorted(view.entries, key=lambda entry: order.index(entry.name)),
        speaker=spokesman(names, view.controls),
        **told,
    )


def _headline(view: Viewed) -> str:
    """The run in a sentence or two; what is said of single features is counted in the index."""
    about, tallies = view.index.about, view.index.about["tallies"]
    readings = [entry.name for entry in view.entries if entry.reading == entry.name]
    told = Counted(
        answered={condition: (answered, n) for condition, n, answered in _answers(view)},
        claims={condition: Counter(found) for condition, found in tallies["claims"].items()},
    )
    return headline(
        view.scores,
        about["features"],
        tallies["texts"],
        view.controls,
        readings=readings,
        rare=len(view.manifest.all_too_rare),
        told=told,
    )


def _answers(view: Viewed) -> list[tuple[str, int, int]]:
    found = view.index.about["tallies"]["answers"]
    counts = [(c, sum(by.values()), int(by.get("answered", 0))) for c, by in found.items()]
    return sorted(counts, key=lambda row: row[0] in view.controls)


def _abstained(reasons: Mapping[str, Mapping[str, int]]) -> list[tuple[str, int, str]]:
    """Condition, how many abstentions have a reason, and the most frequent of what weighed most against."""
    told = list[tuple[str, int, str]]()
    for condition, by in reasons.items():
        most = sorted(by.items(), key=lambda item: (-item[1], item[0]))[:_REASONS]
        told.append((condition, sum(by.values()), ", ".join(f"{name} ({number(count)})" for name, count in most)))
    return told


def features(view: Viewed, links: Links, selection: Selection, found: Found, *, only_results: bool, **told: Any) -> str:
    """The list, or only what changes of it."""
    about = view.index.about
    choices = [
        ("status", "any verdict", [(one, one, about["tallies"]["statuses"][one]) for one in statuses(view.index)]),
        ("category", "any category", [(k, k, n) for k, n in sorted(about["tallies"]["categories"].items())]),
        ("condition", "texts that speak for each", [(c, words.title(c), None) for c in view.index.conditions]),
        ("route", "any route", [(one, one, None) for one in about["routes"]]),
        ("verbalizer", "any verbalizer", [(one, one, None) for one in about["verbalizers"]]),
    ]
    if about["tallies"]["answers"]:
        choices.append(("trust", "any confidence", [(k, v, None) for k, v in TRUSTS.items()]))
    if about["tallies"]["problems"]:
        choices.append(("flagged", "flagged or not", [("yes", "flagged", None)]))
    if about["controls"]:
        choices.append(("kind", "features", [("controls", "random directions", about["controls"])]))
    few = {"route", "verbalizer", "condition", "category"}
    return _render(
        "results.html.j2" if only_results else "features.html.j2",
        view,
        links,
        here="features",
        selection=selection,
        found=found,
        fields=selection.fields(),
        choices=[one for one in choices if len(one[2]) > (one[0] in few)],
        commands=[] if links.served else _commands(view),
        **told,
    )


def _commands(view: Viewed) -> list[tuple[str, str]]:
    """What a script does not write, and the command line that does, where the run's folder lies."""
    there = view.elsewhere
    model, source = (there.model, there.source) if there else ("MODEL", "SOURCE")
    made = ["dragoman", "export", view.run.path.resolve().name]
    named = ["--model-id", model or "MODEL", "--source-id", source or "SOURCE", "--author-id", "AUTHOR"]
    return [("Parquet:", join([*made, "--format", "parquet"])), ("Neuronpedia’s layout:", join([*made, *named]))]


def items(view: Viewed, links: Links, lines: Sequence[Line]) -> list[str]:
    """Lines of the list, one by one."""
    told = _render("items.html.j2", view, links, lines=lines)
    return told.split(_BETWEEN)[:-1]  # whatever a run holds is escaped, so none of it is this


def feature(
    view: Viewed, links: Links, page: FeaturePage, *, query: str = "", elsewhere: Sequence[Elsewhere] = (), **told: Any
) -> str:
    """One feature."""
    return _render("feature.html.j2", view, links, page=page, card=page.card, query=query, elsewhere=elsewhere, **told)


def home(views: Sequence[tuple[Viewed, Front]], **told: Any) -> str:
    """Several runs."""
    return _render("home.html.j2", None, None, views=views, **told)


def refused(sentence: str, **told: Any) -> str:
    """Why there is no such page."""
    return _render("refused.html.j2", None, None, sentence=sentence, **told)
