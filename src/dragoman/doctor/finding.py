"""What the doctor says: one finding per check.

In: a measured value and what it is held against. Out: a frozen ``Finding``, and the refusal a fault becomes before a
run. Refuses nothing itself.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from dragoman.core import Refusal

Status = Literal["ok", "fault", "skipped"]
Value = float | str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was checked.

    ``check``: its short name, stable for scripts. ``subject``: whose fault it would be (a reference or site).
    ``what``: what was looked at. ``measured``: the value found. ``against``: the value it is held against, and
    ``origin`` where that comes from. ``status``: ok, fault or skipped. ``do``: what to do about a fault, or why the
    check was skipped; empty when all is well.
    """

    check: str
    subject: str
    what: str
    measured: Value = None
    against: Value = None
    origin: str = ""
    status: Status
    do: str = ""

    def plain(self) -> dict[str, Any]:
        """The finding as JSON takes it; numbers that are no numbers become words."""
        return {k: str(v) if isinstance(v, float) and not abs(v) < float("inf") else v for k, v in asdict(self).items()}

    def refusal(self) -> Refusal:
        """The fault as the one sentence that stops a run."""
        compared = f", against {shown(self.against)} ({self.origin})" if self.against is not None else ""
        return Refusal(f"{self.subject}, {self.what}", f"measured {shown(self.measured)}{compared}", self.do)


def shown(value: Value) -> str:
    """A value for a person: four significant digits."""
    if value is None:
        return "nothing"
    return value if isinstance(value, str) else f"{value:.4g}"


def judged(
    check: str, subject: str, what: str, *, measured: Value, against: Value, origin: str, fault: str = ""
) -> Finding:
    """A finding that could be made: a fault where ``fault`` says what to do, else ok."""
    return Finding(
        check=check,
        subject=subject,
        what=what,
        measured=measured,
        against=against,
        origin=origin,
        status="fault" if fault else "ok",
        do=fault,
    )


def skipped(check: str, subject: str, what: str, reason: str) -> Finding:
    """A finding that could not be made, and why."""
    return Finding(check=check, subject=subject, what=what, status="skipped", do=reason)


def refused(check: str, subject: str, what: str, refusal: Refusal) -> Finding:
    """A room below said no: its reason is the measurement, its advice the thing to do."""
    return Finding(
        check=check,
        subject=subject,
        what=what,
        measured=f"refused: {refusal.what}: {refusal.why}",
        status="fault",
        do=refusal.instead,
    )
