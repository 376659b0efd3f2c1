"""A run folder as the page and the terminal read it, typed once.

In: a run folder. Out: ``ShownRun``: its rows, conditions, scores, and what its manifest tells. Refuses a manifest that
names no conditions, a run without a single row, and records that are not as this version writes them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import ConfigDict, Field

from dragoman.core import Refusal
from dragoman.records import ConditionEntry, ContextLabel, Record, Row, TokenWindow, distrust_of
from dragoman.report.claims import counted
from dragoman.report.headline import Counted
from dragoman.report.words import BACKGROUND_ALONE, Controls, too_rare
from dragoman.scores import FORMAT, FeatureClaims, FeatureConfidence, Scores
from dragoman.store import RunFolder
from dragoman.store.files import uncollected
from dragoman.store.firing import read_tokens
from dragoman.store.labels import read_labels
from dragoman.store.manifests import short_of
from dragoman.store.runs import SCORES
from dragoman.store.scored import read_scores, scores_of


class Part(Record):
    """What is shown of an object that may hold more."""

    model_config = ConfigDict(extra="ignore")


class FeatureInfo(Part):
    """What is known of a planted feature."""

    category: str
    topic: str = ""
    top_tokens: tuple[str, ...] = ()


class VerbalizerIdentity(Part):
    """What decides a verbalizer's words, in short."""

    checkpoint: str | None = None
    contract: str | None = None
    dtype: str | None = None


class HeldOut(Part):
    """A map's quality on ``n`` texts it was not fitted on; see ``maps.diagnostics.held_out``."""

    n: int | None = None
    fve_unit: float | None = None
    centred_cosine: float | None = None
    raw_cosine: float | None = None
    constant_cosine: float | None = None
    top1: float | None = None
    shuffled_fve: float | None = None


class TargetBackground(Part):
    """What the target's activations have in common; the angle in degrees."""

    spread: float | None = None
    constant_cosine: float | None = None
    on_shell_degrees: float | None = None


class Settings(Part):
    """``labels``: the export that the rows' labels are of; None where they are the dictionary's own."""

    labels: str | None = None


class ExportOfLabels(Part):
    """The ``source`` that an export's labels are of, and whether anything tells that it is the run's dictionary."""

    source: str = "another source"
    verified: bool = True


class TooRare(Part):
    """Effective documents of features that fire in fewer than the ``least``; None where nobody counted."""

    least: float
    documents: Mapping[str, float | None]


class About(Part):
    """What else a manifest tells.

    ``map``: what is wrong with the map, where anything is. ``too_rare``: features without the reading "fires".
    ``background``: by condition, features that are set aside because what was carried of them is nothing else.
    """

    map: str | None = None
    too_rare: TooRare | None = None
    background: Mapping[str, tuple[str, ...]] = {}


class Manifest(Part):
    """What a manifest tells besides its conditions; ``dictionary`` to ``versions`` are shown as they are written."""

    dragoman: str = ""
    plan_digest: str = ""
    source: str = ""
    target: str = ""
    feature_info: Mapping[str, FeatureInfo] = {}
    settings: Settings | None = None
    export: ExportOfLabels | None = Field(default=None, alias="labels")
    verbalizers: Mapping[str, VerbalizerIdentity] | None = None
    map_report: Mapping[str, HeldOut] | None = None
    background: TargetBackground | None = None
    about: About | None = None
    dictionary: object = None
    digests: object = None
    seeds: object = None
    versions: object = None

    @property
    def labels(self) -> str | None:
        """The export that the rows' labels are of."""
        return self.settings.labels if self.settings else None

    @property
    def distrust(self) -> str:
        """What is said first of a run whose map is unusable; "" of all others."""
        return distrust_of(self.about.map if self.about else None)

    @property
    def all_too_rare(self) -> Sequence[str]:
        """Features that have no reading "fires", because they fire too rarely."""
        return tuple(self.about.too_rare.documents) if self.about and self.about.too_rare else ()

    def too_rare(self, feature: str) -> str | None:
        """Why a feature has no reading "fires", in words; None where nothing says so."""
        rare = self.about.too_rare if self.about else None
        return too_rare(rare.documents[feature], rare.least) if rare and feature in rare.documents else None

    def absent(self, feature: str, condition: str) -> str | None:
        """Why a feature has no text of a condition, in words; None where nothing says so."""
        aside = self.about.background.get(condition, ()) if self.about else ()
        return BACKGROUND_ALONE if feature in aside else self.too_rare(feature) if condition == "fires" else None

    @property
    def absences(self) -> Mapping[str, Mapping[str, str]]:
        """By feature and condition, why a feature has no text of it."""
        found = {name: {"fires": self.too_rare(name) or ""} for name in self.all_too_rare}
        for condition, some in (self.about.background if self.about else {}).items():
            for name in some:
                found.setdefault(name, {})[condition] = BACKGROUND_ALONE
        return found

    @property
    def doubtful_labels(self) -> str | None:
        """The source that these labels are of, where nothing tells that they are this dictionary's own."""
        return self.export.source if self.export and not self.export.verified else None


def entries_of(manifest: Mapping[str, object], where: str) -> list[ConditionEntry]:
    """A manifest's conditions."""
    told = manifest.get("conditions") or []
    return [ConditionEntry.of_manifest(one, where) for one in told] if isinstance(told, list) else []


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownRun:
    """A run to show; ``in_full``: its manifest as it is written.

    ``contexts``: windows of text by feature, perhaps with the shares of its activation by word and by form. ``lens``:
    by condition and feature, the words that the source's row and what was carried of it write most. ``tokens``: by
    feature, the tokens of its firing windows, where the run keeps them. ``labels``: from contexts, by
    feature, where ``labelled_by`` made some. ``counted``: of single features, where the scores are without them.
    """

    manifest: Manifest
    in_full: object
    conditions: Sequence[ConditionEntry]
    controls: Controls
    rows: Sequence[Row]
    scores: Scores
    contexts: Mapping[str, Mapping[str, Any]]
    lens: Mapping[str, Mapping[str, Mapping[str, Sequence[str]]]]
    tokens: Mapping[str, Sequence[TokenWindow]] = field(default_factory=dict)
    labels: Mapping[str, ContextLabel] = field(default_factory=dict)
    labelled_by: str = ""
    counted: Counted | None = None

    @property
    def unfinished(self) -> str:
        """What is said of a run that holds fewer texts than it will; "" of a whole one."""
        short = short_of(self.in_full, len(self.rows)) if isinstance(self.in_full, Mapping) else ""
        return f"The run is not finished: {short}. Run the same explain again to finish it." if short else ""

    @classmethod
    def of(cls, run: RunFolder, *, windows: bool = True, texts: bool = True) -> ShownRun:
        """Read a run.

        ``windows``: with those of text in which features fire, and lens words; ``texts``: with texts, and what is told
        of single features, which of many are larger than what is told of all.

        Raises:
            Refusal: its manifest names no conditions, it holds no row, or a record is not as this version writes it.
        """
        where, manifest = f"{run.path}", f"{run.path}/manifest.json"
        conditions = entries_of(run.manifest, manifest)
        if not conditions or not all(one.name for one in conditions):
            raise Refusal(where, "its manifest names no conditions", "name a folder that dragoman wrote")
        bare = {} if texts else {"text": "", "raw": ""}
        with uncollected():
            rows = [Row.of({**row, **bare}, f"{where}, row {k}") for k, row in enumerate(run.each_row(), 1)]
        if not rows:
            raise Refusal(where, "it holds no explanation yet", "finish the run first")
        (scores, told), labels = (scores_of(run), None) if texts else _counted(run), read_labels(run)
        return cls(
            manifest=Manifest.of(run.manifest, manifest),
            in_full=run.manifest,
            conditions=conditions,
            controls=Controls.of(conditions),
            rows=rows,
            scores=Scores(format=FORMAT) if scores is None else scores,
            contexts=(run.contexts if windows else None) or {},
            lens=(run.lens if windows else None) or {},
            tokens=read_tokens(run) if windows else {},
            labels=labels.by_feature if labels else {},
            labelled_by=labels.head.model if labels else "",
            counted=told,
        )


def _counted(run: RunFolder) -> tuple[Scores | None, Counted]:
    """The scores without single features, and what is counted of these; None where nothing was scored."""
    path, told = run.path / SCORES, Counted(answered={}, claims={})
    if not path.exists():
        return None, told
    answered, claims = dict[str, tuple[int, int]](), dict[str, Counter[str]]()

    def keep(part: str, condition: str, one: object) -> None:
        if part == "confidence":
            found, n = answered.get(condition, (0, 0))
            answered[condition] = found + FeatureConfidence.of(one, f"{path}").answered, n + 1
        elif part == "claims":
            claims.setdefault(condition, Counter()).update(counted([FeatureClaims.of(one, f"{path}")]))

    return read_scores(path, run.plan, keep), Counted(answered=answered, claims=claims)
