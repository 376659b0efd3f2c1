"""Findings for a person and for a script.

In: findings. Out: lines for a terminal (colour is never the only sign), JSON, an exit code. Refuses nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dragoman.doctor.finding import Finding, shown

if TYPE_CHECKING:
    from rich.console import Group

STYLE = {"ok": "green", "fault": "bold red", "skipped": "dim"}


def as_json(findings: Sequence[Finding], seconds: float) -> dict[str, Any]:
    """``{"faults": n, "seconds": s, "findings": [...]}``."""
    return {
        "faults": faults(findings),
        "seconds": round(seconds, 2),
        "findings": [finding.plain() for finding in findings],
    }


def faults(findings: Sequence[Finding]) -> int:
    """How many are faults."""
    return sum(finding.status == "fault" for finding in findings)


def sheet(findings: Sequence[Finding], seconds: float) -> Group:
    """Faults first and in full; then, subject by subject, one line for each check that was well; then what was skipped.

    Lines, not columns: six columns of sentences do not fit a terminal.
    """
    from rich.console import Group
    from rich.padding import Padding
    from rich.text import Text

    counts = {v: sum(f.status == v for f in findings) for v in STYLE}
    lines: list[Text | Padding] = []
    for finding in (f for f in findings if f.status == "fault"):
        lines.append(Text.assemble(("fault ", STYLE["fault"]), (f"{finding.subject}: {finding.check}", "bold")))
        held = f", against {shown(finding.against)}" if finding.against is not None else ""
        origin = f" ({finding.origin})" if finding.origin else ""
        body = Text(f"{finding.what}: {_flat(finding)}{held}{origin}\n")
        lines.append(Padding(body.append(finding.do, style="bold"), (0, 0, 1, 6)))
    for subject in dict.fromkeys(f.subject for f in findings if f.status == "ok"):
        lines.append(Text(subject, style="bold"))
        for finding in (f for f in findings if f.status == "ok" and f.subject == subject):
            against = f" (against {shown(finding.against)})" if finding.against is not None else ""
            line = Text.assemble(("ok    ", STYLE["ok"]), f"{finding.check:<20} ", (finding.what, "dim"))
            lines.append(Padding(line.append(f": {_flat(finding)}{against}"), (0, 0, 0, 2)))
    for finding in (f for f in findings if f.status == "skipped"):
        lines.append(Text(f"skipped {finding.subject}: {finding.check}, {finding.do}", style=STYLE["skipped"]))
    plural = "" if counts["fault"] == 1 else "s"
    total = f"{counts['fault']} fault{plural}, {counts['ok']} ok, {counts['skipped']} skipped, {seconds:.0f} s"
    return Group(*lines, Text(total, style="bold"))


def _flat(finding: Finding) -> str:
    return " ".join(shown(finding.measured).split())
