"""The texts that both models read: a person's own, or those that come with the embedded pair.

In: a path, texts, or nothing. Out: ``Texts``. Refuses what the readers of files refuse, texts that are no text, and
texts that are too few, or alike, for what is to be made of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from dragoman import tiny
from dragoman.core import Site
from dragoman.maps.moments import FOLDS
from dragoman.maps.penalty import FEWEST
from dragoman.store import listed_texts, read_jsonl, read_texts, refuse_alike


@dataclass(frozen=True, kw_only=True, eq=False)
class Texts:
    """Texts for both models, read once.

    ``own``: a person's, for every use; None for the packaged ones, of which every use has its own. ``path``: the file
    they were read from, if any.
    """

    own: tuple[str, ...] | None = None
    path: str | None = None

    @classmethod
    def of(cls, given: Texts | Sequence[str] | str | Path | None) -> Texts:
        """Texts as they are given: a file, a list or tuple, nothing (the packaged ones), or these already.

        Raises:
            Refusal: as ``listed_texts`` or the readers of files.
        """
        if isinstance(given, Texts):
            return given
        if given is None:
            return cls()
        if isinstance(given, str | Path):
            return cls(own=tuple(read_texts(Path(given))), path=str(given))
        return cls(own=listed_texts(given, "pass a list of str, or a file"))

    @property
    def sentences(self) -> list[str]:
        """For a map: all of a person's, or the packaged thousand."""
        return self._split("map")

    @property
    def openings(self) -> list[str]:
        """For the direct route: all of a person's, or nine thousand openings of the packaged documents."""
        return self._split("direct")

    @property
    def all(self) -> list[str]:
        """Both."""
        return self._split("map", "direct")

    def refuse_few(self, source: Site, target: Site, *, map: str, route: str = "auto", native: bool = False) -> None:
        """Refuse too few of a person's texts, or texts alike, before any model is opened.

        Args:
            source: of the directions.
            target: of the verbalizer.
            map: what kind of crossing is made.
            route: which route is asked for; no map is fitted for some.
            native: whether a verbalizer of the source speaks too.

        Raises:
            Refusal: as said; the sentence names the file and how many there are.
        """
        if self.own is None:
            return
        least, why = 2, "what is usual of a model is told by several"
        if source != target and route != "as-is":
            if map == "aligned":
                least, why = 2 * FOLDS, f"{FOLDS} folds of documents are judged on one another"
            elif route != "direct" or native:
                least, why = FEWEST, "the map is judged on a fifth of them, two at least"
        refuse_alike(self.own, least, why, self.path or "")

    def _split(self, *names: str) -> list[str]:
        if self.own is not None:
            return list(self.own)
        return [row["text"] for name in names for row in self._packaged if row["split"] == name]

    @cached_property
    def _packaged(self) -> list[dict[str, str]]:
        return read_jsonl(tiny.data("tiny-documents"))
