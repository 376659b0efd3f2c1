"""What two models' streams have in common, token by token: everything one reading of the texts leaves behind.

In: the sums that ``models.aligned`` makes. Out: ``Aligned``, from which crossings are made without reading again; a
folder on disk. Refuses a folder that is there already or is another thing.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dragoman.core import Background, Floats, Refusal, Site, frozen
from dragoman.maps.direct import FiringSums
from dragoman.maps.firings import Firings
from dragoman.maps.folds import FoldedMoments
from dragoman.store import Contents, refusing, write_arrays, write_json

_INDEX = "aligned.json"
_FOLDER = Contents(
    called="aligned pairs",
    holds="aligned pairs",
    origin="dragoman harvest",
    words={"source": str, "target": str, "n": int, "texts": str, "calibration": int, "parts": list, "report": dict},
)
_BACKGROUNDS = Contents(
    called="backgrounds", holds=None, origin="dragoman harvest", arrays={"source": "p", "target": "q"}
)
_HELD_OUT = Contents(
    called="held-out pairs",
    holds=None,
    origin="dragoman harvest",
    arrays={"x": "np", "y": "nq", "documents": "n"},
    words={"fold": int},
)


def refuse_there(folder: Path) -> None:
    """Refuse a folder that is there already."""
    with refusing("writing", folder):
        there = folder.exists() or folder.is_symlink()
    if there:
        raise Refusal(f"{folder}", "it is there already", "name a new folder")


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder to write into, which takes its place when the block ends well, and is not there when it does not.

    Raises:
        Refusal: it is there already, or the disk refuses.
    """
    refuse_there(folder)
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    with refusing("writing", folder):
        try:
            partial.mkdir(parents=True)
            yield partial
            refuse_there(folder)  # another process may have been faster
            partial.rename(folder)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HeldOutPairs:
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

    ``folded``: for maps. ``sums``: where each watched feature fires, at the target, with which features fire together
    unless too many were watched; ``fired``: at the source, for purity; ``calibration``: at the target by fold, for a
    few frequent features; ``firings``: documents and tokens in which each fires most. These four are None where there
    was no SAE. The backgrounds: mean unit activation over the pairs, at either site. ``held_out``: whole pairs to judge
    a map by. ``report``: what was read and left out, with reasons.
    """

    source: Site
    target: Site
    folded: FoldedMoments
    sums: FiringSums | None
    fired: FiringSums | None
    calibration: tuple[FiringSums, ...] | None
    background: Background
    source_background: Background
    held_out: HeldOutPairs
    report: Mapping[str, Any]
    firings: Firings | None = None

    def save(self, folder: Path) -> None:
        """Write a new folder: whole, or (interrupted, refused) not there.

        Raises:
            Refusal: it is there already, or the disk refuses.
        """
        with new_folder(folder) as made:
            self.folded.save(made / "folds")
            for name in ("sums", "fired", "firings"):
                if (part := getattr(self, name)) is not None:
                    part.save(made / f"{name}.safetensors")
            calibration = self.calibration or ()
            for k, fold in enumerate(calibration):
                fold.save(made / f"calibration-{k}.safetensors")
            means = {"source": self.source_background.mean, "target": self.background.mean}
            write_arrays(made / "backgrounds.safetensors", means)
            rows = {"x": self.held_out.x, "y": self.held_out.y, "documents": self.held_out.documents}
            write_arrays(made / "held_out.safetensors", rows, {"fold": self.held_out.fold})
            words = {"holds": "aligned pairs", "source": str(self.source), "target": str(self.target)}
            counts = {"n": self.background.n, "texts": self.background.texts, "calibration": len(calibration)}
            there = {"parts": [name for name in ("sums", "fired", "firings") if getattr(self, name) is not None]}
            write_json(made / _INDEX, words | counts | there | {"report": dict(self.report)})

    @classmethod
    def load(cls, folder: Path) -> Aligned:
        """Read what ``save`` wrote."""
        index = _FOLDER.read_index(folder / _INDEX)
        source, target = Site.parse(index["source"]), Site.parse(index["target"])
        sums, fired = (
            FiringSums.load(folder / f"{name}.safetensors") if name in index["parts"] else None
            for name in ("sums", "fired")
        )
        calibration = [FiringSums.load(folder / f"calibration-{k}.safetensors") for k in range(index["calibration"])]
        means, _ = _BACKGROUNDS.read(folder / "backgrounds.safetensors")
        rows, told = _HELD_OUT.read(folder / "held_out.safetensors")
        return cls(
            source=source,
            target=target,
            folded=FoldedMoments.load(folder / "folds"),
            sums=sums,
            fired=fired,
            calibration=tuple(calibration) or None,
            background=Background(target, frozen(means["target"]), index["n"], index["texts"]),
            source_background=Background(source, frozen(means["source"]), index["n"], index["texts"]),
            held_out=HeldOutPairs(
                fold=told["fold"],
                x=frozen(rows["x"]),
                y=frozen(rows["y"]),
                documents=frozen(rows["documents"], np.int64),
            ),
            report=index["report"],
            firings=Firings.load(folder / "firings.safetensors") if "firings" in index["parts"] else None,
        )
