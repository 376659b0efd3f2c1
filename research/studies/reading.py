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
from dragoman.models.reconstruct import Reconstructor
from dragoman.stats.roc import FEWEST, ContextEmbeddings
from dragoman.store import RunFolder, digest, read_arrays, write_arrays

FILE, CONTEXTS = "reading.safetensors", "contexts.safetensors"
STEP = 2048


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reading:
    """``texts`` (n, e): unit embeddings of the rows' texts.

    ``rebuilt``: by reconstructor, (n, d) unit outputs of first samples; NaN for the others, which nobody asks for.
    """

    texts: Floats
    rebuilt: Mapping[str, Floats]


def read_back(
    run: RunFolder,
    embedder: Embedder,
    readers: Mapping[str, Reconstructor],
    progress: Callable[[int, int], None] | None = None,
) -> Reading:
    """Read a run's texts, or take what was read before of the same texts by the same models."""
    texts, distinct, first = _texts(run)
    names = [embedder.name, *(f"{key} {reader.name}" for key, reader in readers.items())]
    key, path = digest("\n".join(names), "\n\n\n".join(distinct)), run.path / FILE
    if path.exists():
        arrays, meta = read_arrays(path)
        if meta.get("key") == key and _fits(arrays, meta, distinct, first):
            return _spread(arrays, distinct, first, texts)
    made: dict[str, list[NDArray[Any]]] = {"texts": [], **{name: [] for name in readers}}
    for start in range(0, len(distinct), STEP):
        made["texts"].append(embedder.encode(distinct[start : start + STEP]).astype(np.float16))
        if progress:
            progress(min(start + STEP, len(distinct)), len(distinct))
    for name, reader in readers.items():
        for start in range(0, len(first), STEP):
            outputs = reader.reconstruct(first[start : start + STEP]).astype(np.float64)
            made[name].append((outputs / np.linalg.norm(outputs, axis=1, keepdims=True)).astype(np.float16))
    arrays = {name: np.concatenate(parts) for name, parts in made.items()}
    write_arrays(path, arrays, {"holds": "reading", "key": key, "said": _said(distinct, first)})
    return _spread(arrays, distinct, first, texts)


def read_contexts(run: RunFolder, embedder: Embedder) -> dict[str, ContextEmbeddings]:
    """Where features fire and where not, embedded; from ``contexts.json`` of the run, once. Too few leave one out."""
    told: dict[str, dict[str, list[str]]] = run.contexts or {}
    spans = [(name, kind, [t or "(empty)" for t in told[name][kind]]) for name in told for kind in ("firing", "silent")]
    distinct = sorted({text for _, _, texts in spans for text in texts})
    key, path = digest(embedder.name, "\n\n\n".join(distinct)), run.path / CONTEXTS
    arrays, meta = read_arrays(path) if path.exists() else ({}, {})
    if meta.get("key") != key:
        arrays = {"texts": embedder.encode(distinct).astype(np.float16)}
        write_arrays(path, arrays, {"holds": "contexts", "key": key})
    rows = arrays["texts"].astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    where = {text: k for k, text in enumerate(distinct)}
    found: dict[str, dict[str, Floats]] = {}
    for name, kind, texts in spans:
        found.setdefault(name, {})[kind] = rows[[where[text] for text in texts]]
    enough = {name: kinds for name, kinds in found.items() if min(map(len, kinds.values())) >= FEWEST}
    return {name: ContextEmbeddings.of(kinds["firing"], kinds["silent"]) for name, kinds in enough.items()}


def kept(run: RunFolder) -> Reading | None:
    """What was read of a run before, if its texts are still those; None where nothing was."""
    path = run.path / FILE
    if not path.exists():
        return None
    arrays, meta = read_arrays(path)
    texts, distinct, first = _texts(run)
    return _spread(arrays, distinct, first, texts) if _fits(arrays, meta, distinct, first) else None


def _fits(
    arrays: Mapping[str, NDArray[Any]], meta: Mapping[str, Any], distinct: Sequence[str], first: Sequence[str]
) -> bool:
    """Whether arrays are of these texts; files from before their digest was kept are held to the numbers alone."""
    many = all(len(rows) == len(distinct if name == "texts" else first) for name, rows in arrays.items())
    return many and meta.get("said", said := _said(distinct, first)) == said


def _said(distinct: Sequence[str], first: Sequence[str]) -> str:
    """Digest of the texts and of those of them that are first samples."""
    return digest("\n\n\n".join(distinct), "\n\n\n".join(first))


def _texts(run: RunFolder) -> tuple[list[str], list[str], list[str]]:
    """Every row's text, the different ones, and those of them that are somebody's first sample."""
    rows = run.rows()
    texts = [row["text"] or "(empty)" for row in rows]
    first = {text for text, row in zip(texts, rows, strict=True) if row["sample"] == 0}
    return texts, sorted(set(texts)), sorted(first)


def _spread(
    arrays: Mapping[str, NDArray[Any]], distinct: Sequence[str], first: Sequence[str], texts: Sequence[str]
) -> Reading:
    """From different texts back to rows."""
    where = {text: k for k, text in enumerate(distinct)}
    wide = arrays["texts"].astype(np.float32)
    wide /= np.linalg.norm(wide, axis=1, keepdims=True)
    place = {text: k for k, text in enumerate(first)}
    rebuilt: dict[str, Floats] = {}
    for name, values in arrays.items():
        if name != "texts":
            padded = np.vstack([values.astype(np.float32), np.full((1, values.shape[1]), np.nan, np.float32)])
            rebuilt[name] = padded[[place.get(text, len(first)) for text in texts]]
    return Reading(texts=wide[[where[text] for text in texts]], rebuilt=rebuilt)
