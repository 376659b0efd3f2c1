"""A selection in Neuronpedia's layout, as one file: what ``dragoman export`` writes, in a ZIP archive.

In: a ``Viewed`` run, the numbers of features, what they are called there. Out: bytes, the same for the same selection.
Refuses large selections, and what ``exports.neuronpedia`` refuses: a model, source or author that is not named.
"""

from __future__ import annotations

import io
import sqlite3
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dragoman.core import Refusal
from dragoman.exports.neuronpedia import Asked, write_neuronpedia
from dragoman.view.opened import Viewed

MOST = 5000  # features of a selection that are held in memory
_TIME = (1980, 1, 1, 0, 0, 0)  # the first that the format knows: no file tells when it was made


def packed(view: Viewed, database: sqlite3.Connection, features: Sequence[int], asked: Asked) -> bytes:
    """The archive.

    Raises:
        Refusal: as the module says.
    """
    for name, value in (("model", asked.model_id), ("source", asked.source_id), ("author", asked.author_id)):
        if not value:
            what = "an export for Neuronpedia"
            raise Refusal(what, f"no {name} id is given", f"fill in what the {name} is called there")
    if not features:
        raise Refusal("an export for Neuronpedia", "nothing is selected", "change the filters")
    if len(features) > MOST:
        why = f"{len(features)} features are selected, and {MOST} at most go into one file"
        raise Refusal("an export for Neuronpedia", why, "narrow the selection, or write all with dragoman export")
    if not np.isin(features, view.features_only).all():
        why = "random directions are selected, which nobody has an index for"
        raise Refusal("an export for Neuronpedia", why, "select features")
    shown = view.shown(database, features)
    ids: dict[int, str] = dict(database.execute("SELECT n, id FROM features"))
    tokens = {ids[n]: view.tokens(database, n, ids[n]) for n in features}
    with tempfile.TemporaryDirectory() as place:
        write_neuronpedia(shown, Path(place), view.name, asked, tokens)
        return _zipped(Path(place))


def _zipped(folder: Path) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                entry = zipfile.ZipInfo(path.relative_to(folder).as_posix(), _TIME)
                entry.external_attr = 0o644 << 16
                archive.writestr(entry, path.read_bytes(), zipfile.ZIP_DEFLATED)
    return held.getvalue()
