"""A run read back: its explanations as typed rows, its scores, its page; as a table for pandas and notebooks.

In: a run folder. Out: a ``Run``, its ``Explanations``. Refuses folders and rows that dragoman did not write.
"""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, overload

from dragoman.core import Refusal, harmless
from dragoman.records import Card, ConditionEntry, PromptToken, Reading, Row, distrust_of
from dragoman.report.claims import claims_by_row, confidences_by_row
from dragoman.runs.given import path_of
from dragoman.scores import ClaimStatus, FeatureClaims, FeatureConfidence, Scores
from dragoman.store import RunFolder
from dragoman.store.manifests import check_whole
from dragoman.store.scored import scores_of
from dragoman.store.spans import meant

if TYPE_CHECKING:
    import pandas

_OF_TOKEN = ("prompt", "token", "position")
_SHOWN = ("feature", "condition", "short", "text", "status", "confidence")


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureExplanation:
    """What one condition says of one feature.

    ``text``: between the verbalizer's tags. ``problems``: flags on it. ``card``: diagnostics of the crossing, None
    where nothing was crossed. ``confidence``: probability that the text is right, None where none is calibrated for
    this pair; ``answered``: whether that is enough to answer for it. ``sample``: 0 for the first, which scores read.
    ``reading``: "fires", what the feature fires on, "writes", what its row writes, None of what is neither. ``label``:
    the dictionary's. ``short``: a label made of the text's supported sentences, "" where none is. ``claims``: what the
    evidence says of each sentence, where a score checked them. ``token``: of an activation, where it was read.
    """

    feature: str
    label: str
    condition: str
    sample: int
    text: str
    problems: tuple[str, ...]
    log_probability: float | None
    card: Card | None
    confidence: float | None
    answered: bool | None
    reading: Reading | None = None
    short: str = ""
    claims: tuple[ClaimStatus, ...] = ()
    token: PromptToken | None = None


class Explanations(Sequence[FeatureExplanation]):
    """Explanations of a run, in the order they were made; shown as a table in a notebook."""

    def __init__(self, rows: Sequence[FeatureExplanation]) -> None:
        """Keep them."""
        self._rows = tuple(rows)

    @overload
    def __getitem__(self, at: int) -> FeatureExplanation: ...
    @overload
    def __getitem__(self, at: slice) -> Explanations: ...
    def __getitem__(self, at: int | slice) -> FeatureExplanation | Explanations:
        """One, or some."""
        return Explanations(self._rows[at]) if isinstance(at, slice) else self._rows[at]

    def __len__(self) -> int:
        """How many."""
        return len(self._rows)

    def __iter__(self) -> Iterator[FeatureExplanation]:
        """In order."""
        return iter(self._rows)

    def __eq__(self, other: object) -> bool:
        """Whether the rows are the same, in the same order."""
        return self._rows == other._rows if isinstance(other, Explanations) else NotImplemented

    def __hash__(self) -> int:
        """Of the rows."""
        return hash(self._rows)

    def __repr__(self) -> str:
        """How many, of how many features, under which conditions."""
        conditions = ", ".join(dict.fromkeys(row.condition for row in self)) or "no condition"
        return f"Explanations({len(self)} of {len({row.feature for row in self})} features: {conditions})"

    def to_pandas(self) -> pandas.DataFrame:
        """A row each, the card's fields as columns ``card_...``.

        Raises:
            Refusal: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise Refusal("a table of explanations", "pandas is not installed", "run: pip install pandas") from error
        names = [name for name in FeatureExplanation.__slots__ if name not in ("card", "claims", "token")]
        cards = [f"card_{name}" for name in Card.model_fields]
        rows = [
            {name: getattr(row, name) for name in names}
            | {"claims": [claim.to_json() for claim in row.claims]}
            | ({name: getattr(row.token, name) for name in _OF_TOKEN} if row.token else {})
            | ({f"card_{k}": v for k, v in row.card.model_dump().items()} if row.card else {})
            for row in self
        ]
        return pandas.DataFrame(rows, columns=[*names, "claims", *_OF_TOKEN, *cards])

    def _repr_html_(self) -> str:
        """A table, every word of it escaped; columns in which nothing stands are left out."""
        rows = [_cells(row) for row in self]
        kept = [k for k in range(len(_SHOWN)) if not rows or any(row[k] for row in rows)]
        head = "".join(f"<th>{_SHOWN[k]}</th>" for k in kept)
        cell = '<td style="text-align: left; white-space: pre-line">{}</td>'  # a text has several lines
        lines = ("".join(cell.format(html.escape(harmless(row[k]))) for k in kept) for row in rows)
        body = "".join(f"<tr>{line}</tr>" for line in lines)
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cells(row: FeatureExplanation) -> tuple[str, ...]:
    sure = "" if row.confidence is None else f"{row.confidence:.2f}{'' if row.answered else ' (abstains)'}"
    name = f"{row.feature} {row.label}" if row.token else row.feature
    return name, row.condition, row.short, row.text, row.card.status if row.card else "", sure


class Run:
    """A finished run. ``folder``: its files, which `open` finds again."""

    def __init__(self, folder: RunFolder) -> None:
        """Of a run's folder.

        Raises:
            Refusal: its manifest does not tell source, target and conditions.
        """
        check_whole(folder.path / "manifest.json", folder.manifest)
        self.folder = folder

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """A run that is there.

        Raises:
            Refusal: the folder holds no run, or one of another format.
        """
        return cls(RunFolder.open(path_of(path, "run")))

    @property
    def path(self) -> Path:
        """Where it is."""
        return self.folder.path

    @property
    def manifest(self) -> Mapping[str, Any]:
        """How it was made: settings, versions, revisions, digests, seeds."""
        return self.folder.manifest

    @property
    def scores(self) -> Scores | None:
        """What it was scored, if it was."""
        return scores_of(self.folder)

    def explanations(self, condition: str | None = None) -> Explanations:
        """All explanations, or those of one condition, with confidences where there are some.

        Raises:
            Refusal: no such condition, or a row that this run did not write.
        """
        names = [str(entry["name"]) for entry in self.manifest["conditions"]]
        if condition is not None and condition not in names:
            raise Refusal(
                f"condition '{condition[:40]}'",
                f"the run has {', '.join(names)}",
                meant(condition, names, "name one of these"),
            )
        rows = [Row.of(row, f"{self.path}, row {k}") for k, row in enumerate(self.folder.each_row(), 1)]
        entries = [ConditionEntry.of_manifest(one, f"{self.path}") for one in self.manifest["conditions"]]
        reading: dict[str, Reading | None] = {entry.name: entry.reading for entry in entries}
        scores = self.scores
        sure, claims = (confidences_by_row(scores), claims_by_row(scores)) if scores else ({}, {})
        chosen = [row for row in rows if condition in (None, row.condition)]
        return Explanations(
            [
                _explained(row, reading.get(row.condition), sure.get(at), claims.get(at))
                for row in chosen
                for at in [(row.condition, row.feature)]
            ]
        )

    def to_pandas(self) -> pandas.DataFrame:
        """Its explanations as a table; see ``Explanations.to_pandas``.

        Raises:
            Refusal: pandas is not installed, or as of `explanations`.
        """
        return self.explanations().to_pandas()

    def write_page(self, path: str | Path | None = None) -> Path:
        """Write its page, static HTML, into the run's folder or to ``path``."""
        from dragoman.report import write_page

        return write_page(self.folder, self.folder.page if path is None else path_of(path, "path"))

    def __repr__(self) -> str:
        """Where it is, and what it carries."""
        return f"Run({str(self.path)!r}: {self.manifest['source']} -> {self.manifest['target']})"

    def _repr_html_(self) -> str:
        """Where it leads, whether its map is unusable, and its explanations as a table."""
        leads = f"{self.manifest['source']} in the words of {self.manifest['target']}"
        wrong = distrust_of((self.manifest.get("about") or {}).get("map"))
        told = f"<p><b>{html.escape(harmless(wrong))}</b></p>" if wrong else ""
        return f"<p>{html.escape(harmless(leads))}</p>{told}{self.explanations()._repr_html_()}"


def _explained(
    row: Row, reading: Reading | None, sure: FeatureConfidence | None, claims: FeatureClaims | None
) -> FeatureExplanation:
    """A row, with its confidence and its claims if it is the first sample, which they were made of."""
    sure, claims = (sure, claims) if row.sample == 0 else (None, None)
    return FeatureExplanation(
        feature=row.feature,
        label=row.label,
        condition=row.condition,
        sample=row.sample,
        text=row.text,
        problems=row.problems,
        log_probability=row.log_probability,
        card=row.card,
        confidence=sure.probability if sure else None,
        answered=sure.answered if sure else None,
        reading=reading,
        short=claims.label if claims else "",
        claims=claims.claims if claims else (),
        token=row.token,
    )
