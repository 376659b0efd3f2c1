"""The texts that both models read: a person's own, a data set's, or those that come with the embedded pair.

In: a path, a data set's reference, texts, or nothing. Out: ``Texts``. Refuses what the readers of files and data sets
refuse, texts that are no text, texts that are too few, or alike, for what is to be made of them; and, where none are
given, the embedded pair's if they are not here.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from dragoman import tiny
from dragoman.core import Refusal, Site, Talk
from dragoman.maps.moments import FOLDS
from dragoman.maps.penalty import FEWEST
from dragoman.store import listed_texts, read_jsonl, read_texts, refuse_alike
from dragoman.store.datasets import MOST, PREFIX, DatasetRef, dataset_texts
from dragoman.store.textfiles import COLUMN

# docs/results/data.md: 100,000 aligned tokens, of 2,347 texts; twice as many add a hundredth of co-firing AUROC.
ENOUGH = 2_500
WAYS = (
    f"name some with --texts: a .txt, .jsonl, .csv or .parquet file, a folder of them, or a data set of the hub "
    f"(hf:ORG/NAME); {ENOUGH} paragraphs are enough"
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Texts:
    """Texts for both models, read once.

    ``own``: a person's, for every use; None for the packaged ones, of which every use has its own. ``path``: the file
    they were read from, if any, or the data set's reference with its commit. ``column``, ``most``: as of `read`, where
    they were said, or are usual of what was read.
    """

    own: tuple[str, ...] | None = None
    path: str | None = None
    column: str | None = None
    most: int | None = None

    @classmethod
    def of(cls, given: Texts | Sequence[str] | str | Path | None) -> Texts:
        """Texts as they are given: see `read`; a list or tuple, nothing (the packaged ones), or these already.

        Raises:
            Refusal: as ``listed_texts`` or the readers of files.
        """
        if isinstance(given, Texts):
            return given
        if given is None:
            return cls()
        if isinstance(given, str | Path):
            return cls.read(given)
        return cls(own=listed_texts(given, "pass a list of str, or a file"))

    @classmethod
    def read(cls, where: str | Path | None, *, column: str | None = None, most: int | None = None) -> Texts:
        """Texts of a file, of a folder of files, or of a data set of the hub; the packaged ones where it is None.

        Args:
            where: a path, or ``hf:ORG/NAME[@REVISION][:SPLIT[:COLUMN]]``, of which only what is read is fetched.
            column: that holds the texts of a table or of JSON lines; "text" when None.
            most: how many are read, from the first; of a file all when None, of a data set ``MOST``.

        Raises:
            Refusal: as the module says, and a column or a number of texts where none are named.
        """
        if most is not None and most < 1:
            raise Refusal(f"max_texts {most}", "it is below 1", "ask for one text at least")
        most = None if most is None else min(most, sys.maxsize)
        if where is None:
            said = "a column" if column is not None else "a number" if most is not None else None
            if said is not None:
                raise Refusal(f"{said} of texts", "no texts are named", "name them with --texts, or leave it out")
            return cls()
        if isinstance(where, str) and where.startswith(PREFIX):
            most = MOST if most is None else most
            texts, ref = dataset_texts(DatasetRef.parse(where), column, most)
            return cls(own=tuple(texts), path=str(ref), column=ref.column, most=most)
        if isinstance(where, str) and not where.strip():
            raise Refusal(f"texts '{where}'", "it names nothing", WAYS)
        texts = read_texts(Path(where), COLUMN if column is None else column, most)
        return cls(own=tuple(texts), path=str(where), column=column, most=most)

    @property
    def settings(self) -> dict[str, object]:
        """Where they are from, as a manifest tells it."""
        said = {"text_column": self.column, "max_texts": self.most}
        return {"texts": self.path, **{name: one for name, one in said.items() if one is not None}}

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

    def tell(self, talk: Talk) -> None:
        """Say which commit of a data set they are of."""
        if self.own is not None and (self.path or "").startswith(PREFIX):
            talk.say(f"{len(self.own)} texts of {self.path}")

    def refuse_few(
        self,
        source: Site,
        target: Site,
        *,
        map: str,
        route: str = "auto",
        native: bool = False,
        counted: bool = False,
    ) -> None:
        """Refuse too few of a person's texts, texts alike, and none at all, before any model is opened.

        Args:
            source: of the directions.
            target: of the verbalizer.
            map: what kind of crossing is made.
            route: which route is asked for; no map is fitted for some.
            native: whether a verbalizer of the source speaks too.
            counted: whether the direct route's table lies beside the dictionary, where nobody gives texts.

        Raises:
            Refusal: as said; the sentence names the file and how many there are.
        """
        if self.own is None:
            if not (counted and source != target and self.unread(map, route, native=native)):
                refuse_none()
            return
        least, why = 2, "what is usual of a model is told by several"
        if source != target and route != "as-is":
            if map == "aligned":
                least, why = 2 * FOLDS, f"{FOLDS} folds of documents are judged on one another"
            elif route != "direct" or native:
                least, why = FEWEST, "the map is judged on a fifth of them, two at least"
        refuse_alike(self.own, least, why, self.path or "")

    def unread(self, map: str, route: str, *, native: bool) -> bool:
        """Whether a table that lies beside the dictionary would spare reading any, and so opening models for it."""
        return self.own is None and map == "post" and route == "direct" and not native

    def _split(self, *names: str) -> list[str]:
        if self.own is not None:
            return list(self.own)
        return [row["text"] for name in names for row in self._packaged if row["split"] == name]

    @cached_property
    def _packaged(self) -> list[dict[str, str]]:
        return read_jsonl(tiny.data("tiny-documents"))


def refuse_none() -> None:
    """Refuse, where nobody gives texts, that those which come with the embedded pair are not installed.

    Raises:
        Refusal: as said, with ways to get some.
    """
    try:
        tiny.data("tiny-documents")
    except Refusal as refusal:
        why = f"none are given, and those that are the default are not here: {refusal.why}"
        raise Refusal("texts for both models", why, WAYS) from refusal
