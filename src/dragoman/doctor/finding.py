"""What the doctor says: one finding per check, for a person and for a script.

In: a measured value and what it is held against. Out: a frozen ``Finding``, the refusal a fault becomes before a run,
lines for a terminal (colour is never the only sign), JSON. Refuses nothing itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

from dragoman.core import Refusal

Status = Literal["ok", "fault", "skipped"]
Value = float | str | None
if TYPE_CHECKING:
    from rich.console import Group, RenderableType
    from rich.table import Table
    from rich.text import Text
BESIDE = "beside"  # a value that is shown with the measure and is no limit to it
STYLE = {"ok": "green", "fault": "bold red", "skipped": "dim"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was checked.

    ``check``: its short name, stable for scripts. ``subject``: whose fault it would be (a reference or site).
    ``what``: what was looked at. ``measured``: the value found. ``against``: the value it is held against,
    ``relation`` what it should be to that (``below``, ``at least``; ``beside`` where it is only shown beside it), and
    ``origin`` where that comes from. ``status``: ok, fault or skipped. ``do``: what to do about a fault, or why the
    check was skipped; empty when all is well.
    """

    check: str
    subject: str
    what: str
    measured: Value = None
    against: Value = None
    relation: str = ""
    origin: str = ""
    status: Status
    do: str = ""

    def plain(self) -> dict[str, object]:
        """The finding as JSON takes it; numbers that are no numbers become words."""
        return {k: str(v) if isinstance(v, float) and not abs(v) < float("inf") else v for k, v in asdict(self).items()}

    def refusal(self) -> Refusal:
        """The fault as the one sentence that stops a run."""
        compared = f", {self.held} ({self.origin})" if self.against is not None else ""
        return Refusal(f"{self.subject}, {self.what}", f"measured {shown(self.measured)}{compared}", self.do)

    @property
    def held(self) -> str:
        """``below 45``, or ``must be below 45`` of a fault; empty where it is held against nothing."""
        if self.against is None:
            return ""
        must = "must be" if self.status == "fault" and self.relation != BESIDE else ""
        return " ".join(filter(None, (must, self.relation, shown(self.against))))


def shown(value: Value) -> str:
    """A value for a person: four significant digits."""
    if value is None:
        return "nothing"
    return value if isinstance(value, str) else f"{value:.4g}"


@dataclass(frozen=True, slots=True)
class Check:
    """What is looked at: its short name, what it is in words, and where the value it is held against comes from.

    ``relation``: what the measure should be to that value, in words that stand before it.
    """

    name: str
    what: str
    origin: str = ""
    relation: str = "equal to"

    def of(
        self,
        subject: str,
        measured: Value,
        against: Value,
        fault: str = "",
        *,
        what: str = "",
        origin: str = "",
        relation: str | None = None,
    ) -> Finding:
        """A finding that could be made: a fault where ``fault`` says what to do, else ok.

        ``what``, ``origin`` and ``relation`` stand for the check's own where these depend on what was found.
        """
        return Finding(
            check=self.name,
            subject=subject,
            what=what or self.what,
            measured=measured,
            against=against,
            relation=self.relation if relation is None else relation,
            origin=origin or self.origin,
            status="fault" if fault else "ok",
            do=fault,
        )

    def skipped(self, subject: str, reason: str) -> Finding:
        """A finding that could not be made, and why."""
        return Finding(check=self.name, subject=subject, what=self.what, status="skipped", do=reason)

    def refused(self, subject: str, refusal: Refusal) -> Finding:
        """A room below refused: its reason is the measurement, its advice the thing to do."""
        return Finding(
            check=self.name,
            subject=subject,
            what=self.what,
            measured=f"refused: {refusal.what}: {refusal.why}",
            status="fault",
            do=refusal.instead,
        )


def as_json(findings: Sequence[Finding], seconds: float) -> dict[str, object]:
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

    Lines, not columns: six columns of sentences do not fit a terminal. What is wrapped keeps its indent.
    """
    from rich.console import Group
    from rich.padding import Padding
    from rich.text import Text

    counts = {v: sum(f.status == v for f in findings) for v in STYLE}
    lines: list[RenderableType] = []
    for finding in (f for f in findings if f.status == "fault"):
        title = Text(f"{finding.subject}: {finding.check}", style="bold")
        lines.append(_hanging((6, Text("fault", STYLE["fault"])), body=title))
        origin = f" ({finding.origin})" if finding.origin else ""
        body = Text(f"{finding.what}: {', '.join(filter(None, (_flat(finding), finding.held)))}{origin}\n")
        lines.append(Padding(body.append(finding.do, style="bold"), (0, 0, 1, 6)))
    for subject in dict.fromkeys(f.subject for f in findings if f.status == "ok"):
        lines.append(Text(subject, style="bold"))
        for finding in (f for f in findings if f.status == "ok" and f.subject == subject):
            body = Text.assemble(
                (finding.what, "dim"), f": {_flat(finding)}", f" ({finding.held})" * bool(finding.held)
            )
            lines.append(_hanging((8, Text("  ok", STYLE["ok"])), (21, Text(finding.check)), body=body))
    for finding in (f for f in findings if f.status == "skipped"):
        style, body = STYLE["skipped"], f"{finding.subject}: {finding.check}, {finding.do}"
        lines.append(_hanging((8, Text("skipped", style)), body=Text(body, style)))
    plural = "" if counts["fault"] == 1 else "s"
    total = f"{counts['fault']} fault{plural}, {counts['ok']} ok, {counts['skipped']} skipped, {seconds:.0f} s"
    return Group(*lines, Text(total, style="bold"))


def _hanging(*leading: tuple[int, Text], body: Text) -> Table:
    """What stands before a text, each so many columns wide, and the text, whose further lines begin where it does."""
    from rich.table import Table

    grid = Table.grid()
    for width, _ in leading:
        grid.add_column(width=width)
    grid.add_column(overflow="fold")
    grid.add_row(*(text for _, text in leading), body)
    return grid


def _flat(finding: Finding) -> str:
    return " ".join(shown(finding.measured).split())
