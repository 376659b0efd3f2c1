"""A study's answer on disk: JSON with everything, a page of tables and sentences, a figure.

In: finished runs under ``work/STUDY/GROUND``. Out: ``out/STUDY.json``, ``.md``, ``.svg``. Refuses a study of which no
direction has been said.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from dragoman.core import Refusal
from dragoman.store import RunFolder, write_json, write_text
from studies.judged import Heard, grounds_in
from studies.reading import kept
from studies.run import study_of

ROOMS = {"drift": "drift", "trust": "trust"}  # the others are all judged by measures of features
NAMES = {"smollm2-to-gemma": "SmolLM2 → Gemma", "gemma-to-smollm2": "Gemma → SmolLM2"}


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of the page: ``title``, ``columns``, ``rows`` of cells already written out, ``note`` under it."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""

    def markdown(self) -> str:
        """As a Markdown table."""
        lines = [f"### {self.title}", "", "| " + " | ".join(self.columns) + " |", "|" + "---|" * len(self.columns)]
        lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in self.rows]
        return "\n".join([*lines, *(["", self.note] if self.note else [])])


@dataclass(frozen=True, kw_only=True)
class Answer:
    """``findings``: sentences that begin the page. ``data``: everything, for JSON. ``draw``: writes the figure.

    ``files``: more JSON, by name beside the page.
    """

    findings: Sequence[str]
    tables: Sequence[Table]
    data: Mapping[str, Any]
    draw: Callable[[Path], None]
    caption: str
    files: Mapping[str, Any] = field(default_factory=dict)


class Answers(Protocol):
    """A module of ``studies.answers``."""

    def answer(self, heard: Mapping[str, Heard], *, seed: int) -> Answer:
        """What the runs of all directions say together."""
        ...


def written(name: str, work: Path, out: Path, *, seed: int = 0) -> Path:
    """Judge a study's runs and write its answer; the page's path."""
    study = study_of(name)
    grounds = grounds_in(work / name)
    if not grounds:
        raise Refusal(
            f"{work / name}",
            "nothing was said there yet",
            f"run python research/study.py {name} without --finished first",
        )
    runs = {ground: RunFolder.open(work / name / ground) for ground in grounds}
    heard = {ground: Heard(run=run, reading=kept(run)) for ground, run in runs.items()}
    room: Answers = import_module(f"studies.answers.{ROOMS.get(name, 'lines')}")  # type: ignore[assignment]
    found = room.answer(heard, seed=seed)
    out.mkdir(parents=True, exist_ok=True)
    figure, page = out / f"{name}.svg", out / f"{name}.md"
    found.draw(figure)
    made = {
        ground: {k: run.manifest[k] for k in ("dragoman", "versions", "seeds", "plan_digest", "background")}
        | {"features": len(run.manifest["features"]), "rows": len(run.rows())}
        for ground, run in runs.items()
    }
    write_json(out / f"{name}.json", {"study": name, "question": study.question, "made": made, **found.data})
    for other, told in found.files.items():
        (out / other).parent.mkdir(parents=True, exist_ok=True)
        write_json(out / other, told)
    command = f"python research/study.py {name}"
    write_text(page, paged(study.question, found, figure.name, command, comes_to(name, out)))
    return page


def comes_to(name: str, out: Path) -> str:
    """What a person wrote of a study in the index beside its page; "" where there is none."""
    index = out / "index.md"
    rows = index.read_text().splitlines() if index.exists() else []
    told = [re.split(r"(?<!\\)\|", row) for row in rows if row.startswith("| ") and f"]({name}.md)" in row]
    return told[0][3].strip() if told else ""


def paged(question: str, found: Answer, figure: str, command: str, short: str = "") -> str:
    """The page in Markdown; ``short``: what the study comes to."""
    parts = [f"# {question}", *([f"**In short:** {short}."] if short else []), "\n\n".join(found.findings)]
    parts += [f"![{found.caption}]({figure})", f"*{found.caption}*"]
    parts += [table.markdown() for table in found.tables]
    parts.append(
        f"Made again by `{command}` (rows on a GPU with `--device cuda --batch-size 1024 --rows-only`, judged anywhere "
        "with `--finished`). Everything behind these tables, with versions, seeds and digests, is in the JSON beside."
    )
    return "\n\n".join(parts) + "\n"


def percent(rate: Mapping[str, float] | None) -> str:
    """``41 % [36, 46]``."""
    if not rate:
        return "–"
    return f"{100 * rate['value']:.0f} % [{100 * rate['low']:.0f}, {100 * rate['high']:.0f}]"


def signed(found: Mapping[str, float] | None) -> str:
    """``+0.153 [+0.120, +0.186]``."""
    if not found:
        return "–"
    return f"{found['value']:+.3f} [{found['low']:+.3f}, {found['high']:+.3f}]"


def number(value: Any, digits: int = 3) -> str:
    """A number, or a dash."""
    return "–" if value is None or value != value else f"{value:.{digits}f}"
