"""Windows in which features fire, as rows of Neuronpedia's table of activations.

In: windows in tokens with activations. Out: rows; ids are hashes of them. Refuses nothing: a token whose activation
nobody knows is left off an end of its window, and a window that has one in between is left out, as the table has no
word for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A window of one feature: tokens in order, each with its activation, None where nobody knows it."""

    index: str
    tokens: Sequence[tuple[str, float | None]]

    @property
    def known(self) -> list[tuple[str, float]]:
        """The tokens between unknown ones at either end; empty where one stands in between, or it fires nowhere."""
        there = [k for k, (_, value) in enumerate(self.tokens) if value is not None]
        some = self.tokens[there[0] : there[-1] + 1] if there else ()
        found = [(text, value) for text, value in some if value is not None]
        return found if len(found) == len(some) and any(value > 0 for _, value in found) else []


def activation_rows(
    windows: Iterable[Window], model: str, source: str, author: str, made_id: Callable[..., str]
) -> Iterator[dict[str, object]]:
    """One row a window, with the columns that have no default. ``made_id``: of parts of text."""
    for number, window in enumerate(windows):
        known = window.known
        if not known:
            continue
        tokens, values = [text for text, _ in known], [value for _, value in known]
        most = max(range(len(values)), key=values.__getitem__)
        yield {
            "id": made_id("activation", model, source, window.index, str(number), *tokens, *map(str, values)),
            "tokens": tokens,
            "index": window.index,
            "layer": source,
            "modelId": model,
            "maxValue": values[most],
            "maxValueTokenIndex": most,
            "minValue": min(values),
            "values": values,
            "creatorId": author,
        }
