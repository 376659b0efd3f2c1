"""Files that dragoman wrote, opened with a look at what is in them.

In: the path of an arrays file or of a folder's index, and the ``Contents`` it should have. Out: those arrays and words,
no others. Refuses files that hold something else, that lack an array or a word, or whose arrays do not fit together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from dragoman.core import Refusal
from dragoman.store.arrays import ArraysFile
from dragoman.store.files import read_json
from dragoman.store.spans import shown

_KINDS: dict[type, str] = {
    str: "text",
    int: "a whole number from 0 up",
    dict: "an object",
    list: "a list of texts",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What a kind of file holds.

    ``called``: with its article, "a map". ``holds``: the word it is marked by, None for a file that only a folder's
    index tells of. ``origin``: what wrote it, "dragoman fit". ``arrays``: a letter for each axis; one letter is one
    length in all of them ("pq", "p", "q"). ``words``: the type of each, of str, int (not negative), dict and list (of
    texts).
    """

    called: str
    holds: str | None
    origin: str = "dragoman"
    arrays: Mapping[str, str] = field(default_factory=dict)
    words: Mapping[str, type] = field(default_factory=dict)

    def read(self, path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """The arrays and words of an arrays file.

        Raises:
            Refusal: as the module says, or the file is no arrays file.
        """
        file = ArraysFile(path)
        if self.holds is not None and file.meta.get("holds") != self.holds:
            raise self._another(path, "file")
        words = self._words(path, file.meta)
        absent = next((name for name in self.arrays if name not in file.names), None)
        if absent is not None:
            raise self._damaged(path, f"it has no array '{absent}'")
        self._refuse_shapes(path, file.shapes)
        arrays = {name: file.whole(name) for name in self.arrays}
        odd = next((name for name, array in arrays.items() if array.dtype.kind not in "fiu"), None)
        if odd is not None:
            raise self._damaged(path, f"its array '{odd}' holds no numbers")
        return arrays, words

    def read_index(self, path: Path) -> dict[str, Any]:
        """The words of a folder's index, which is JSON and is written last.

        Raises:
            Refusal: as the module says, or the index is no JSON.
        """
        stated = read_json(path) if path.is_file() else {}
        if not isinstance(stated, dict) or stated.get("holds") != self.holds:
            raise self._another(path.parent, "folder")
        return self._words(path, stated)

    def _words(self, path: Path, stated: Mapping[str, Any]) -> dict[str, Any]:
        for name, kind in self.words.items():
            if name not in stated:
                raise self._damaged(path, f"it does not say its {name}")
            if not _is(stated[name], kind):
                raise self._damaged(path, f"its {name} is {shown(repr(stated[name]))}, not {_KINDS[kind]}")
        return {name: stated[name] for name in self.words}

    def _refuse_shapes(self, path: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Refuse arrays with other axes than they should have, or with one axis of two lengths."""
        lengths: dict[str, tuple[int, str]] = {}
        for name, axes in self.arrays.items():
            if len(shapes[name]) != len(axes):
                raise self._damaged(path, f"its array '{name}' has shape {shapes[name]}, not {len(axes)} axes")
            for axis, length in zip(axes, shapes[name], strict=True):
                known, by = lengths.setdefault(axis, (length, name))
                if known != length:
                    raise self._damaged(
                        path, f"its arrays '{by}' {shapes[by]} and '{name}' {shapes[name]} do not fit together"
                    )

    def _another(self, path: Path, place: str) -> Refusal:
        return Refusal(f"{path}", f"it does not hold {self.called}", f"name a {place} that {self.origin} wrote")

    def _damaged(self, path: Path, why: str) -> Refusal:
        return Refusal(f"{path}", f"it holds {self.called}, but {why}", f"make it again with {self.origin}")


def _is(value: Any, kind: type) -> bool:
    if kind is int:
        return type(value) is int and value >= 0
    if kind is list:
        return isinstance(value, list) and all(isinstance(item, str) for item in value)
    return isinstance(value, kind)
