"""A comparison as one page: the table of differences, then the texts side by side, those least alike first.

In: a comparison, and the two run folders whose rows it was made of. Out: one static HTML file, nothing loaded from
anywhere, every text escaped. Refuses a place that `check_file` refuses. Computes no number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dragoman.comparison.records import Comparison, ConditionPair, FeatureAgreement, FeaturePair, RankedMeasure, Ranking
from dragoman.comparison.values import MEASURES
from dragoman.records import Row
from dragoman.report.figures import interval_mark
from dragoman.report.page import clean, environment, site_words
from dragoman.report.tables import Span, span_of
from dragoman.report.words import title
from dragoman.store import RunFolder, write_text
from dragoman.store.outputs import check_file
from dragoman.view.marked import Stretch, stretches, words_in

HERE = Path(__file__).parent / "templates"
HABITS = (
    "Verbalizers that were taught on texts of one kind share habits and say alike things of nothing: agreement is "
    "evidence only above what nulls give, and no proof that either is right."
)
LISTED = 500  # features whose texts stand on the page


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """Two texts of one feature: each in stretches, words that the other lacks marked, and their numbers."""

    pair: ConditionPair
    numbers: FeaturePair
    a: Sequence[Stretch]
    b: Sequence[Stretch]
    agreed: FeatureAgreement | None = None

    @property
    def same(self) -> bool:
        """Whether the two are the same to the letter."""
        return self.numbers.likeness == 1 and [one.text for one in self.a] == [one.text for one in self.b]


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureBeside:
    """A feature, its label, and its texts by pair of conditions."""

    feature: str
    label: str
    texts: Sequence[Beside]


def write_comparison(found: Comparison, first: RunFolder, second: RunFolder, out: Path) -> Path:
    """Write the page to ``out`` and return it.

    Args:
        found: of ``compare_runs``.
        first: A's folder.
        second: B's.
        out: the file.

    Raises:
        Refusal: as the module says, or a row is not the run's own.
    """
    check_file(out)
    features = _features(found, first, second)
    page = (
        environment(HERE)
        .get_template("comparison.html.j2")
        .render(
            found=found,
            source=site_words(found.source),
            target=site_words(found.target),
            features=features[:LISTED],
            count=len(features),
            called=MEASURES,
            title=title,
            habits=HABITS,
            spans=[_span(pair) for pair in found.pairs],
        )
    )
    write_text(out, clean(page))
    return out


def _span(pair: ConditionPair) -> Span:
    """The scale of a pair's differences of shares; of counted words they go beyond it, and are written alone."""
    return span_of([one for one in pair.differences if one.measure != "lens_overlap"])


def _features(found: Comparison, first: RunFolder, second: RunFolder) -> list[FeatureBeside]:
    """Every feature that a pair of conditions has in common, least alike first."""
    rows = [_first_rows(folder) for folder in (first, second)]
    by: dict[str, list[tuple[ConditionPair, FeaturePair]]] = {}
    for pair in found.pairs:
        for one in pair.features:
            by.setdefault(one.feature, []).append((pair, one))
    order = sorted(by, key=lambda feature: min(one.likeness for _, one in by[feature]))
    made = list[FeatureBeside]()
    for place, feature in enumerate(order):
        texts = [_beside(pair, one, rows) for pair, one in by[feature]] if place < LISTED else []
        pair = by[feature][0][0]
        made.append(FeatureBeside(feature=feature, label=rows[0][pair.a, feature].label, texts=texts))
    return made


def _first_rows(folder: RunFolder) -> dict[tuple[str, str], Row]:
    rows = [Row.of(row, f"{folder.path}, row {k}") for k, row in enumerate(folder.rows(), 1)]
    return {(row.condition, row.feature): row for row in rows if row.sample == 0}


def _beside(pair: ConditionPair, one: FeaturePair, rows: Sequence[Mapping[tuple[str, str], Row]]) -> Beside:
    a, b = rows[0][pair.a, one.feature].text, rows[1][pair.b, one.feature].text
    each = pair.over_nulls.features if pair.over_nulls is not None else ()
    agreed = next((told for told in each if told.feature == one.feature), None)
    return Beside(pair=pair, numbers=one, a=stretches(a, words_in(b)), b=stretches(b, words_in(a)), agreed=agreed)


def write_ranking(found: Ranking, out: Path) -> Path:
    """Write the table over several verbalizers to ``out`` and return it.

    Raises:
        Refusal: as the module says.
    """
    check_file(out)
    template = environment(HERE).get_template("ranking.html.j2")
    page = template.render(
        found=found,
        source=site_words(found.source),
        called=MEASURES,
        title=title,
        habits=HABITS,
        spans=[{one.measure: _scale(one) for one in condition.measures} for condition in found.conditions],
        drawn=interval_mark,
    )
    write_text(out, clean(page))
    return out


def _scale(one: RankedMeasure) -> Span:
    """From 0 or the lowest end to the highest one."""
    ends = [0.0, *(end for each in one.rated for end in (each.low, each.high))]
    return min(ends), max(ends)
