"""What models read off a run's texts, once: where a sentence model places them, what reconstructors make of them.

In: a run, an embedder, reconstructors. Out: ``Reading``, arrays row by row of ``rows.jsonl``, kept in the run's folder
as float16 (cosines to 1e-3), so that judging needs no model. Refuses nothing of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dragoman.core import Floats
from dragoman.embed import Embedder
from dragoman.score.reconstruct import Reconstructor
from dragoman.store import RunFolder, digest, read_arrays, write_arrays

FILE = "reading.safetensors"
STEP = 2048


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reading:
    """``texts`` (n, e): unit embeddings of the rows' texts. ``rebuilt``: by reconstructor, (n, d) outputs."""

    texts: Floats
    rebuilt: Mapping[str, Floats]


def read_back(
    run: RunFolder,
    embedder: Embedder,
    readers: Mapping[str, Reconstructor],
    progress: Callable[[int, int], None] | None = None,
) -> Reading:
    """Read a run's texts, or take what was read before of the same texts by the same models."""
    texts = [row["text"] or "(empty)" for row in run.rows()]
    distinct = sorted(set(texts))
    names = [embedder.name, *(f"{key} {reader.name}" for key, reader in readers.items())]
    key, path = digest("\n".join(names), "\n\n\n".join(distinct)), run.path / FILE
    if path.exists():
        arrays, meta = read_arrays(path)
        if meta.get("key") == key:
            return _spread(arrays, distinct, texts)
    made: dict[str, list[NDArray[Any]]] = {"texts": [], **{name: [] for name in readers}}
    for start in range(0, len(distinct), STEP):
        piece = distinct[start : start + STEP]
        made["texts"].append(embedder.encode(piece).astype(np.float16))
        for name, reader in readers.items():
            outputs = reader.reconstruct(piece).astype(np.float64)
            made[name].append((outputs / np.linalg.norm(outputs, axis=1, keepdims=True)).astype(np.float16))
        if progress:
            progress(min(start + STEP, len(distinct)), len(distinct))
    arrays = {name: np.concatenate(parts) for name, parts in made.items()}
    write_arrays(path, arrays, {"holds": "reading", "key": key})
    return _spread(arrays, distinct, texts)


def _spread(arrays: Mapping[str, NDArray[Any]], distinct: Sequence[str], texts: Sequence[str]) -> Reading:
    """From distinct texts back to rows."""
    where = {text: k for k, text in enumerate(distinct)}
    rows = [where[text] for text in texts]
    wide = {name: values.astype(np.float32)[rows] for name, values in arrays.items()}
    norms = np.linalg.norm(wide["texts"], axis=1, keepdims=True)
    return Reading(texts=wide.pop("texts") / norms, rebuilt=wide)
