"""What two models' streams have in common, token by token: everything one reading of the texts leaves behind.

In: the sums that ``models.aligned`` makes. Out: ``Aligned``, from which maps, the direct route, dictionary ridge, cards
and washout are made without reading again; a folder on disk. Refuses a folder that is there already, or another thing.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dragoman.core import Background, Floats, Refusal, Site, frozen
from dragoman.routes.dictionary import DictionaryStatistics
from dragoman.routes.direct import DirectStatistics, DirectTable
from dragoman.routes.firings import Firings
from dragoman.routes.folds import FoldedDirect, FoldedMoments
from dragoman.store import Contents, refusing, write_arrays, write_json

_INDEX = "aligned.json"
_FOLDER = Contents(
    called="aligned pairs",
    holds="aligned pairs",
    origin="dragoman harvest",
    words={"source": str, "target": str, "n": int, "texts": str, "calibration": int, "report": dict},
)
_BACKGROUNDS = Contents(
    called="backgrounds", holds=None, origin="dragoman harvest", arrays={"source": "p", "target": "q"}
)
_JUDGES = Contents(
    called="pairs to judge on",
    holds=None,
    origin="dragoman harvest",
    arrays={"x": "np", "y": "nq", "documents": "n"},
    words={"fold": int},
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Judges:
    """A few pairs of one ``fold`` kept whole, to judge a map fitted on the other folds: sums cannot tell its top-1.

    ``x``: (n, p) and ``y``: (n, q) float32; ``documents``: (n,) whose they are.
    """

    fold: int
    x: Floats
    y: Floats
    documents: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Aligned:
    """Sums over pairs of tokens of two models that end at the same character.

    ``folded``: for maps. ``sums``: where each watched feature fires, at the target; ``dictionary``: the same with
    which features fire together; ``fired``: at the source, for purity; ``calibration``: at the target by fold, for a
    few frequent features; ``firings``: documents and tokens in which each fires most. These five are None where there
    was no SAE, ``dictionary`` also where too many features were watched, ``firings`` also in folders that were written
    before it was kept. The backgrounds: mean unit activation over the pairs, at either site. ``report``: what was read
    and left out, with reasons.
    """

    source: Site
    target: Site
    folded: FoldedMoments
    sums: DirectStatistics | None
    dictionary: DictionaryStatistics | None
    fired: DirectStatistics | None
    calibration: FoldedDirect | None
    background: Background
    source_background: Background
    judges: Judges
    report: Mapping[str, Any]
    firings: Firings | None = None

    @cached_property
    def direct(self) -> DirectTable | None:
        """The direct route's finished means; None where there was no SAE."""
        return None if self.sums is None else self.sums.table()

    @cached_property
    def partial(self) -> DirectTable | None:
        """Dictionary ridge of every watched feature, all solved at once; None where it was not counted."""
        return None if self.dictionary is None else self.dictionary.table()

    def save(self, folder: Path) -> None:
        """Write a new folder: whole, or (interrupted, refused) not there.

        Raises:
            Refusal: it is there already, or the disk refuses.
        """
        if folder.exists():
            raise Refusal(f"{folder}", "it is there already", "name a new folder")
        partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
        with refusing("writing", folder):
            try:
                self._write(partial)
                partial.rename(folder)
            except BaseException:
                shutil.rmtree(partial, ignore_errors=True)
                raise

    def _write(self, folder: Path) -> None:
        self.folded.save(folder / "folds")
        if self.dictionary is not None:
            self.dictionary.save(folder / "dictionary")
        elif self.sums is not None:
            self.sums.save(folder / "sums.safetensors")
        if self.fired is not None:
            self.fired.save(folder / "fired.safetensors")
        if self.firings is not None:
            self.firings.save(folder / "firings.safetensors")
        kept = self.calibration.folds if self.calibration else ()
        for k, fold in enumerate(kept):
            fold.save(folder / f"calibration-{k}.safetensors")
        means = {"source": self.source_background.mean, "target": self.background.mean}
        write_arrays(folder / "backgrounds.safetensors", means)
        rows = {"x": self.judges.x, "y": self.judges.y, "documents": self.judges.documents}
        write_arrays(folder / "judges.safetensors", rows, {"fold": self.judges.fold})
        words = {"holds": "aligned pairs", "source": str(self.source), "target": str(self.target)}
        counts = {"n": self.background.n, "texts": self.background.texts, "calibration": len(kept)}
        write_json(folder / _INDEX, words | counts | {"report": dict(self.report)})

    @classmethod
    def load(cls, folder: Path) -> Aligned:
        """Read what ``save`` wrote."""
        index = _FOLDER.read_index(folder / _INDEX)
        source, target = Site.parse(index["source"]), Site.parse(index["target"])
        dictionary = sums = fired = None
        if (folder / "dictionary").is_dir():
            dictionary = DictionaryStatistics.load(folder / "dictionary")
            sums = dictionary.direct
        elif (folder / "sums.safetensors").is_file():
            sums = DirectStatistics.load(folder / "sums.safetensors")
        if (folder / "fired.safetensors").is_file():
            fired = DirectStatistics.load(folder / "fired.safetensors")
        parts = [DirectStatistics.load(folder / f"calibration-{k}.safetensors") for k in range(index["calibration"])]
        means, _ = _BACKGROUNDS.read(folder / "backgrounds.safetensors")
        rows, told = _JUDGES.read(folder / "judges.safetensors")
        return cls(
            source=source,
            target=target,
            folded=FoldedMoments.load(folder / "folds"),
            sums=sums,
            dictionary=dictionary,
            fired=fired,
            calibration=FoldedDirect(folds=tuple(parts)) if parts else None,
            background=Background(target, frozen(means["target"]), index["n"], index["texts"]),
            source_background=Background(source, frozen(means["source"]), index["n"], index["texts"]),
            judges=Judges(
                fold=told["fold"],
                x=frozen(rows["x"]),
                y=frozen(rows["y"]),
                documents=frozen(rows["documents"], np.int64),
            ),
            report=index["report"],
            firings=Firings.load(where) if (where := folder / "firings.safetensors").is_file() else None,
        )
