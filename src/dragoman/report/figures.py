"""Numbers as people read them: written out, and drawn as inline SVG.

In: numbers and labels. Out: words; the lift of every feature, and one interval on a shared scale, as SVG text with
every label escaped and no reference to anything outside it. Refuses nothing: what is not a finite number is not drawn.

Horizontal places are percentages, so one drawing serves a phone and a wide screen without shrinking its letters.
Colours are CSS classes, so the page's light and dark palettes and its print style reach the drawing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TypeGuard

SLOTS = 3  # distinct marks: ring, disc, diamond (told apart without colour)
_LEFT, _RIGHT = 28.0, 98.5  # per cent of the width between which lifts are drawn; labels stand to the left
_BARE = 4.0  # where they start when there are no labels
_TOP, _BOTTOM = 30, 12  # pixels above the first and below the last row
_STEPS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
_DENSE, _FINE = 90, 250  # more features than these are drawn without their names, and with smaller marks


@dataclass(frozen=True, slots=True, kw_only=True)
class LiftRow:
    """One feature of the figure: its ``lifts`` by condition, the words beside it and the place it links to."""

    feature: str
    label: str
    note: str
    anchor: str
    lifts: Mapping[str, float]


def finite(value: object) -> TypeGuard[float]:
    """Whether this is a number that can be drawn and written."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def signed(value: object, digits: int = 3) -> str:
    """Write ``+0.249`` with a real minus sign; a dash for what is not a finite number."""
    if not finite(value):
        return "–"
    return f"{round(value, digits) + 0.0:+.{digits}f}".replace("-", "\N{MINUS SIGN}")  # + 0.0: no minus before 0


def number(value: object, digits: int = 3) -> str:
    """A number as people write it: whole ones whole, others with ``digits`` decimals, a dash for none."""
    if not finite(value):
        return value if isinstance(value, str) and value else "–"
    if float(value).is_integer() and isinstance(value, int):
        return f"{value:,}".replace(",", "\N{NARROW NO-BREAK SPACE}").replace("-", "\N{MINUS SIGN}")
    return f"{value:.{digits}f}".replace("-", "\N{MINUS SIGN}")


def probability(value: object) -> str:
    """A p value: three decimals, or a power of ten when it is below one in a thousand."""
    if not finite(value):
        return "–"
    if value >= 0.001 or value <= 0:
        return f"{value:.3f}" if value > 0 else "< 0.001"
    digits, power = f"{value:.1e}".split("e")
    raised = str(int(power)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{digits} × 10{raised}"


def share(value: object) -> str:
    """A rate in per cent; a decimal where rounding would hide that it is not zero or not all."""
    if not finite(value):
        return "–"
    return f"{100 * value:.1f}%" if 0.0005 <= value < 0.01 or 0.99 < value <= 0.9995 else f"{100 * value:.0f}%"


def _shape(slot: int) -> str:
    """The mark of a slot, drawn around (0, 0)."""
    if slot == 0:
        return '<circle class="mark s0" r="3.6"/>'
    if slot == 1:
        return '<circle class="mark s1" r="4.2"/>'
    return '<path class="mark s2" d="M0-5 5 0 0 5-5 0Z"/>'


def glyph(slot: int) -> str:
    """The mark of a slot as a small drawing for legends and headings."""
    return f'<svg class="glyph" width="14" height="12" viewBox="-7 -6 14 12" aria-hidden="true">{_shape(slot)}</svg>'


def _axis(values: Sequence[float]) -> tuple[float, float, list[float]]:
    """Ends and at most seven ticks of an axis that holds all ``values`` and zero."""
    low, high = min([0.0, *values]), max([0.0, *values])
    span = max(high - low, 0.02)
    step = next((s for s in _STEPS if span / s <= 6), span / 4)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    last = max(last, first + 1)
    return first * step, last * step, [k * step for k in range(first, last + 1)]


def _short(text: str, room: int) -> str:
    """The text cut at ``room`` characters."""
    return text if len(text) <= room else text[: room - 1].rstrip() + "…"


class _Scale:
    """Places on the horizontal axis, in per cent of the drawing's width."""

    def __init__(self, low: float, high: float, left: float = _LEFT) -> None:
        """From the two ends of the axis, and where it starts."""
        self.low, self.high, self.left = low, high, left

    def at(self, value: float) -> float:
        """Where ``value`` stands."""
        return round(self.left + (_RIGHT - self.left) * (value - self.low) / (self.high - self.low), 2)


def _ticks(scale: _Scale, ticks: Sequence[float], height: int) -> list[str]:
    """Tick lines with their numbers above; zero is drawn heavier."""
    parts = []
    nought = min(range(len(ticks)), key=lambda k: abs(ticks[k]))
    for k, tick in enumerate(ticks):
        x, zero = scale.at(tick), k == nought
        kind = "zero" if zero else "tick"
        parts.append(f'<line class="{kind}" x1="{x}%" x2="{x}%" y1="{_TOP - 8}" y2="{height - _BOTTOM}"/>')
        words = "0" if zero else signed(tick, 2)
        every_other = " odd" if (k - nought) % 2 else ""  # left out on a phone
        parts.append(f'<text class="axis{every_other}" x="{x}%" y="{_TOP - 14}" text-anchor="middle">{words}</text>')
    return parts


def _row(row: LiftRow, conditions: Sequence[str], scale: _Scale, y: float, pitch: int) -> list[str]:
    """One feature, a link: a hairline between its extreme lifts, a mark for each condition, its name to the left."""
    drawn = [(c, row.lifts[c]) for c in conditions if c in row.lifts and math.isfinite(row.lifts[c])]
    name = row.label or row.feature
    title = ", ".join([f"{name} ({row.feature})", *(f"{c} {signed(lift)}" for c, lift in drawn)])
    parts = [f'<a class="row" href="#{escape(row.anchor)}" tabindex="-1"><title>{escape(title)}</title>']
    parts.append(f'<rect class="stripe" width="100%" y="{y - pitch / 2}" height="{pitch}"/>')
    if pitch > 9:
        note = f' <tspan class="note">{escape(_short(row.note, 16))}</tspan>' if row.note else ""
        at = f'x="{_LEFT - 1.2}%" y="{y + 3.8}" text-anchor="end"'
        long, short = escape(_short(name, 26)), escape(_short(name, 14))
        parts.append(f'<text class="name long" {at}>{long}{note}</text>')
        parts.append(f'<text class="name short" {at}>{short}</text>')
    if len(drawn) > 1:
        ends = sorted(scale.at(lift) for _, lift in drawn)
        parts.append(f'<line class="range" x1="{ends[0]}%" x2="{ends[-1]}%" y1="{y}" y2="{y}"/>')
    for condition, lift in drawn:
        mark = _shape(min(conditions.index(condition), SLOTS - 1))
        parts.append(f'<svg class="dot" x="{scale.at(lift)}%" y="{y}">{mark}</svg>')
    parts.append("</a>")
    return parts


def lifts_figure(rows: Sequence[LiftRow], conditions: Sequence[str], band: tuple[float, float] | None) -> str:
    """Lift of every feature, one line each, in the order given.

    Args:
        rows: the features, already sorted.
        conditions: at most three names; the n-th is drawn with the n-th mark.
        band: lowest and highest lift of the random directions, drawn as a grey band; None leaves it out.

    Returns:
        An ``<svg>`` with a title, a description and a hover title on every line; exactly one element of class ``dot``
        for each finite lift.
    """
    values = [v for row in rows for c, v in row.lifts.items() if c in conditions and math.isfinite(v)]
    low, high, ticks = _axis([*values, *(band or ())])
    pitch = 17 if len(rows) <= _DENSE else 7 if len(rows) <= _FINE else 4
    scale = _Scale(low, high, _LEFT if pitch > 9 else _BARE)
    height = _TOP + pitch * len(rows) + _BOTTOM
    described = f"{len(rows)} features, one line each; marks for {', '.join(filter(None, conditions))}; axis from "
    described += f"{signed(low, 2)} to {signed(high, 2)}."
    fine = " fine" if pitch < 7 else ""
    parts = [
        f'<svg class="lifts{fine}" width="100%" height="{height}" role="group" '
        'aria-labelledby="lifts-title lifts-desc">',
        f'<title id="lifts-title">Lift of each feature</title><desc id="lifts-desc">{escape(described)}</desc>',
    ]
    if band:
        left, right = scale.at(band[0]), scale.at(band[1])
        title = f"<title>random directions: {signed(band[0])} to {signed(band[1])}</title>"
        size = f'width="{round(right - left, 2)}%" y="{_TOP - 8}" height="{height - _TOP - _BOTTOM + 8}"'
        parts.append(f'<rect class="band" x="{left}%" {size}>{title}</rect>')
    parts += _ticks(scale, ticks, height)
    for number, row in enumerate(rows):
        parts += _row(row, conditions, scale, _TOP + pitch * (number + 0.5), pitch)
    return "".join([*parts, "</svg>"])


def interval_mark(
    value: float, low: float, high: float, span: tuple[float, float], reference: float | None = None
) -> str:
    """One estimate with its interval on the scale ``span``; a tick at ``reference`` (say zero, or the random rate)."""
    if not all(math.isfinite(v) for v in (value, low, high, *span)) or span[1] <= span[0]:
        return ""

    def at(number: float) -> float:
        inside = min(max(number, span[0]), span[1])
        return round(4 + 92 * (inside - span[0]) / (span[1] - span[0]), 1)

    tick = ""
    if reference is not None and math.isfinite(reference):
        tick = f'<line class="zero" x1="{at(reference)}" x2="{at(reference)}" y1="1" y2="15"/>'
    return (
        '<svg class="interval" width="100" height="16" viewBox="0 0 100 16" aria-hidden="true">'
        f'<line class="base" x1="4" x2="96" y1="8" y2="8"/>{tick}'
        f'<line class="whisker" x1="{at(low)}" x2="{at(high)}" y1="8" y2="8"/>'
        f'<circle class="point" cx="{at(value)}" cy="8" r="3"/></svg>'
    )
