"""``context_labels.jsonl`` of a run: what a language model made of windows of text in which its features fire.

In: a run's folder. Out: ``ContextLabels``, or None where it holds none. Refuses another run's file, changed rows, and
lines of another form. Who makes them is ``runs.label``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dragoman.core import Refusal
from dragoman.records import ContextLabel, LabelsHead
from dragoman.store.runs import LABELS, RunFolder, read_whole_rows

FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextLabels:
    """What made them, and each feature's, in the order they were made."""

    head: LabelsHead
    by_feature: Mapping[str, ContextLabel]

    def __len__(self) -> int:
        """How many."""
        return len(self.by_feature)


def need_labels(run: RunFolder) -> ContextLabels:
    """The labels of a run that has some; refused where it has none."""
    found = read_labels(run)
    if found is None:
        raise Refusal(f"{run.path}", "it holds no labels from contexts", "make some with dragoman label")
    return found


def read_labels(run: RunFolder) -> ContextLabels | None:
    """The run's labels from contexts; a torn last line is no label yet.

    Raises:
        Refusal: as the module says; the file may be removed and made again.
    """
    path = run.path / LABELS
    try:
        lines = read_whole_rows(path, run.rows_plan)
        if not lines:
            return None
        head = LabelsHead.of(lines[0], f"{path}, line 1")
        made = [ContextLabel.of(line, f"{path}, line {number}") for number, line in enumerate(lines[1:], 2)]
    except Refusal as refusal:
        raise Refusal(refusal.what, refusal.why, f"remove {LABELS} and label the run again") from refusal
    return ContextLabels(head=head, by_feature={one.feature: one for one in made})
