"""A run folder as one page that a reader can judge the run by.

In: a run folder. Out: one static HTML file. Refuses what `opened` refuses. Computes no number: what stands on the page
stood in the folder, sorted, counted, formatted.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from dragoman.core import Refusal, Site, harmless
from dragoman.records import ConditionEntry
from dragoman.report import figures, tables, words
from dragoman.report.cards import FeatureCard, feature_cards, wrote_more
from dragoman.report.figures import LiftRow, finite
from dragoman.report.headline import Counted, headline
from dragoman.report.opened import ShownRun
from dragoman.report.words import Controls, in_order, spokesman
from dragoman.scores import Scores
from dragoman.store import RunFolder, write_text
from dragoman.store.outputs import check_file

if TYPE_CHECKING:
    from jinja2 import Environment

_TEMPLATES = Path(__file__).parent / "templates"
_DRAWN = ("plain", "washed", "direct")  # have marks of their own in the figure; others take what is left
_SLOTS = {name: slot for slot, name in enumerate(_DRAWN)} | {"writes": 1, "fires": 2}  # no run has both
# Line ends between blocks say nothing, and a page of hundreds of features has a hundred thousand of them. Text that was
# verbalized holds no angle brackets any more, so none of it can match.
_BETWEEN = re.compile(
    r"(?<=>)\s*\n\s*(?=</?(?:article|d[dlt]|details|div|h[1-6]|li|option|p|section|summary|t[dhr]|tbody|thead|ul)\b)"
)
_CONTROLS = 100  # random directions whose texts are shown; they are there for a look, not for reading
_EACH = ("features", "feature_info")  # of a manifest, an entry for each feature
LISTED = 500  # a run of more features than this has an overview, which names the viewer
_UNFOLDED = 12  # a run of more features than this opens as a list


def write_page(run: RunFolder, out: Path, tell: Callable[[str], None] | None = None) -> Path:
    """Write the run's page to ``out`` and return it; without the features' texts where they are more than `LISTED`.

    ``tell``: is told what the page says first, of a map that is unusable and of a run that is not finished.

    Raises:
        Refusal: for a run that cannot be shown (see `ShownRun.of`), or a place that `check_file` refuses.
    """
    check_file(out)
    listed = len(run.manifest.get("features") or ()) <= LISTED
    shown = ShownRun.of(run, windows=listed, texts=listed)
    page = environment().get_template("page.html.j2").render(vars(_contents(shown, run.path)))
    write_text(out, clean(page))
    if tell is not None:
        for wrong in filter(None, (shown.manifest.distrust, shown.unfinished)):
            tell(wrong)
    return out


def clean(page: str) -> str:
    """HTML that can be written and shows the words that are there: see ``harmless``."""
    return harmless(_BETWEEN.sub("", page))


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What the template reads besides the records of ``run``: its places in words, its cards and what they are called.

    ``answers``: by condition, controls last, how many texts have a confidence, and how many are answered for.
    ``texts``: how many explanations are no control's. ``columns``: of the list of features. ``speaker``: the condition
    that speaks for the run. ``called``, ``anchors``: names and places on the page by feature. ``listed``: whether the
    features stand on the page; where they do not, the ``command`` shows them.
    """

    run: ShownRun
    listed: bool
    command: str
    answers: Sequence[tuple[str, int, int]]
    source: str
    target: str
    headline: str
    texts: int
    figure: Figure | None
    features: Sequence[FeatureCard]
    controls: Sequence[FeatureCard]
    columns: Sequence[str]
    speaker: str | None
    conditions: Sequence[ConditionEntry]
    called: Mapping[str, str]
    anchors: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Figure:
    """The figure of lifts, sorted by the condition ``by``.

    ``drawn``: the conditions with marks, and which; ``band``: those of random directions; ``order``: the features'.
    """

    svg: str
    drawn: Sequence[tuple[str, int]]
    by: str
    band: Sequence[str]
    left_out: Sequence[str]
    order: Sequence[str]


def _contents(run: ShownRun, path: Path) -> Contents:
    scores, controls = run.scores, run.controls
    lifts = _lifts(scores)
    slots = _slots(lifts, controls)
    cards = feature_cards(run, slots)
    features = [card for card in cards if not card.control]
    listed = run.counted is None and len(features) <= LISTED
    figure = _figure(features, lifts, slots, controls) if listed else None
    asked = run.in_full.get("features") if isinstance(run.in_full, Mapping) else None
    asked = [str(one) for one in asked] if isinstance(asked, list) else []
    place = {feature: k for k, feature in enumerate(figure.order if figure else asked)}
    features.sort(key=lambda card: place.get(card.id, len(place)))
    told = run.counted or Counted.of(scores)
    answers = [(condition, n, answered) for condition, (answered, n) in told.answered.items() if n]
    texts = sum(row.condition not in controls for row in run.rows)
    names = [entry.name for entry in run.conditions]
    order = in_order(names, words.SHOWN)
    readings = [entry.name for entry in run.conditions if entry.reading == entry.name]
    return Contents(
        run=run,
        listed=listed,
        command=f"dragoman view {shlex.quote(f'{path}')}",
        source=site_words(run.manifest.source),
        target=site_words(run.manifest.target),
        headline=headline(
            scores,
            len(features),
            texts,
            controls,
            readings=readings,
            rare=len(run.manifest.all_too_rare),
            noun="activations" if any(card.token for card in features) else "features",
            told=told,
        ),
        answers=sorted(answers, key=lambda one: one[0] in controls),
        texts=texts,
        figure=figure,
        features=features,
        controls=[card for card in cards if card.control],
        columns=_columns(features),
        speaker=spokesman(names, controls),
        conditions=sorted(run.conditions, key=lambda entry: order.index(entry.name)),
        called={card.id: card.name for card in cards if card.name != f"Feature {card.id}"},
        anchors={card.id: card.anchor for card in features},
    )


def _columns(features: Sequence[FeatureCard]) -> list[str]:
    """Which columns the list of features has: those that at least one feature fills."""
    there = {
        "category": any(card.category for card in features),
        "status": any(card.status for card in features),
        "lift": any(card.head.lift is not None for card in features),
        "back": any(card.head.read_back for card in features),
        "confidence": any(card.head.confidence for card in features),
    }
    return [name for name, filled in there.items() if filled]


def _lifts(scores: Scores) -> dict[str, dict[str, float]]:
    """Condition -> feature -> lift, where there is one."""
    lifts = {
        condition: {one.feature: one.lift for one in some if finite(one.lift)}
        for condition, some in scores.per_feature.items()
    }
    return {condition: some for condition, some in lifts.items() if some}


def _slots(lifts: Iterable[str], controls: Controls) -> dict[str, int]:
    """The conditions the figure has marks for, and which: the spokesman first, then those of the post, then others."""
    scored = [c for c in lifts if c not in controls and c != "native"]
    first = spokesman(scored, controls)
    drawn = in_order(scored, [first, *_DRAWN] if first else _DRAWN)[: figures.SLOTS]
    own = {c: _SLOTS[c] for c in drawn if c in _SLOTS}
    free = iter([k for k in range(figures.SLOTS) if k not in own.values()])
    slots = {c: own[c] if c in own else next(free) for c in drawn}
    return dict(sorted(slots.items(), key=lambda item: item[1]))


def _figure(
    cards: Sequence[FeatureCard],
    lifts: Mapping[str, Mapping[str, float]],
    slots: Mapping[str, int],
    controls: Controls,
) -> Figure | None:
    """The figure of lifts, sorted by the condition that speaks for the run; None when nothing has a lift."""
    by = spokesman(slots, controls)
    if by is None:
        return None
    rows = [
        LiftRow(
            feature=card.id,
            label=card.name,
            note=card.category,
            anchor=card.anchor,
            lifts={c: lifts[c][card.id] for c in slots if card.id in lifts[c]},
        )
        for card in cards
    ]
    rows = [row for row in rows if row.lifts]
    rows.sort(key=lambda row: -row.lifts.get(by, -math.inf))
    band = [c for c in lifts if c in controls.random]
    spread = [lift for c in band for lift in lifts[c].values()]
    places = [next((c for c in slots if slots[c] == k), "") for k in range(figures.SLOTS)]
    return Figure(
        svg=figures.lifts_figure(rows, places, (min(spread), max(spread)) if spread else None),
        drawn=list(slots.items()),
        by=by,
        band=band,
        left_out=[c for c in lifts if c not in slots and c not in controls and c != "native"],
        order=[row.feature for row in rows],
    )


@cache
def environment(*folders: Path) -> Environment:
    """Jinja with autoescape, strict about names, and the filters the templates use; looks in ``folders`` first."""
    # Here, not above: ``dragoman --help`` must stay quick.
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    room = Environment(
        loader=FileSystemLoader([*folders, _TEMPLATES]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = (_TEMPLATES / "script.js").read_text(encoding="utf-8")
    room.filters.update({name: getattr(figures, name) for name in ("signed", "number", "probability", "share")})
    room.filters.update(brief=_brief, pretty=_pretty, wrote_more=wrote_more)
    room.filters.update(problem=words.problem_words, condition=words.condition_words, title_of=words.title)
    room.filters.update(reasons=tables.reasons, confidence=tables.confidence_words)
    room.filters["drawing"] = Markup  # only ever given what figures.py made, which escapes its labels
    room.globals.update(
        glyph=figures.glyph,
        diagnostics=words.DIAGNOSTICS,
        measures=words.MEASURES,
        beside_labels=words.beside_labels,
        known_statuses=words.STATUSES,
        guess=tables.GUESS,
        mark=tables.mark,
        tables=tables,
        most_unfolded=_UNFOLDED,
        most_controls=_CONTROLS,
        style=Markup((_TEMPLATES / "style.css").read_text(encoding="utf-8")),
        script=Markup(script),
        seal=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
    return room


def _brief(value: object) -> str:
    """A value of the manifest in a line: digests cut to ten characters, mappings as ``name value``."""
    if isinstance(value, Mapping):
        return ", ".join(
            f"{k} ({_brief(v)})" if isinstance(v, Mapping) else f"{k} {_brief(v)}" for k, v in value.items()
        )
    if isinstance(value, (list, tuple)):
        return ", ".join(_brief(v) for v in value)
    return str(value)[:10] if re.fullmatch(r"[0-9a-f]{24,}", str(value)) else str(value)


def _pretty(manifest: object) -> str:
    """A manifest as it is written, but for what it tells of each of many features."""
    if isinstance(manifest, Mapping):
        long = {k: v for k, v in manifest.items() if k in _EACH and isinstance(v, Mapping | list) and len(v) > LISTED}
        manifest = {**manifest, **{name: f"({len(value)} entries)" for name, value in long.items()}}
    return json.dumps(manifest, indent=2, ensure_ascii=False, default=str)


def site_words(text: str) -> str:
    """A site in words; text that is no site stays as it is."""
    try:
        site = Site.parse(text)
    except Refusal:
        return text
    return f"{site.model}, block {site.block}"
