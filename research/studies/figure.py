"""One style for the studies' figures: matplotlib, written as SVG that is the same every time.

In: a path, panels to draw. Out: the file. Refuses where matplotlib is not installed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dragoman.core import Refusal

COLOURS = ("#0b6e8a", "#c2571a", "#5a7d2b", "#7a4fa3", "#8a8a8a", "#b8920a", "#a33b5c", "#2b3f8c")
MARKS = ("o", "s", "^", "D", "v", "P", "X", "*")
STYLE: Any = {
    "font.size": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    "axes.titleweight": "bold",
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "svg.hashsalt": "dragoman",  # ids in the file are otherwise drawn at random
    "svg.fonttype": "none",  # a fifth of the size of letters drawn as paths
}


@contextmanager
def panels(path: Path, columns: int, *, rows: int = 1, width: float = 4.4, height: float = 3.4) -> Iterator[Any]:
    """A figure of ``rows`` x ``columns`` axes; inside, draw; afterwards it is on disk."""
    try:
        import matplotlib as mpl
    except ModuleNotFoundError:
        raise Refusal("a figure", "matplotlib is not installed", "run: pip install 'dragoman[studies]'") from None
    mpl.use("svg")
    import matplotlib.pyplot as plt

    with mpl.rc_context(STYLE):
        figure, axes = plt.subplots(
            rows, columns, figsize=(width * columns, height * rows), squeeze=False, layout="constrained"
        )
        try:
            yield axes[0] if rows == 1 else axes
            figure.savefig(path, format="svg", metadata={"Date": None, "Creator": "dragoman"})
        finally:
            plt.close(figure)


def points(axis: Any, x: Any, rates: list[dict[str, float]], label: str, number: int = 0) -> None:
    """Values with their intervals, joined; ``number`` picks colour and mark, so that print and every eye tell them."""
    y = [rate["value"] for rate in rates]
    axis.errorbar(x, y, yerr=_spans(rates), linewidth=1.4, elinewidth=0.9, **_look(label, number))


def across(axis: Any, places: list[float], rates: list[dict[str, float]], label: str, number: int = 0) -> None:
    """The same along x, one place above the other, not joined."""
    x = [rate["value"] for rate in rates]
    axis.errorbar(x, places, xerr=_spans(rates), linewidth=0, elinewidth=1.0, **_look(label, number))


def _spans(rates: list[dict[str, float]]) -> list[list[float]]:
    """How far intervals reach below and above."""
    below = [max(rate["value"] - rate["low"], 0.0) for rate in rates]
    return [below, [max(rate["high"] - rate["value"], 0.0) for rate in rates]]


def _look(label: str, number: int) -> dict[str, Any]:
    told = {"label": label, "color": COLOURS[number % len(COLOURS)], "marker": MARKS[number % len(MARKS)]}
    return told | {"markersize": 4.5, "capsize": 2}


def legend_above(axis: Any) -> None:
    """One legend for the whole figure, above it, where it hides nothing."""
    handles, labels = axis.get_legend_handles_labels()
    axis.figure.legend(handles, labels, loc="outside upper center", ncols=len(labels))
