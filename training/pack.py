"""The texts and probes that the package carries, cut from the corpus.

In: documents; fresh ones, written later, that no verbalizer, SAE, probe or list of latents was made from; probe
tensors. Out: ``documents.jsonl.gz`` and ``probes.safetensors``. Splits of the fresh documents: ``map``: sentences for
the live map; ``direct``: texts of the direct route's statistics; ``judge``: texts that crossings and explanations are
judged on. Of the others ``test`` and ``heldout``: documents no verbalizer has seen, with the character at which one
activation is read.
"""

from __future__ import annotations

import gzip
import io
import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

import corpus
import settings as s
from dragoman.store import read_jsonl


def opening(text: str, limit: int) -> str:
    """The leading sentences of a text, at most ``limit`` characters."""
    cut = text[:limit]
    stop = max(cut.rfind(mark) for mark in (". ", "! ", "? ", ".\n"))
    return (cut[: stop + 1] if stop > limit // 3 else cut[: cut.rfind(" ")]).strip()


def word_end(text: str, rng: np.random.Generator) -> int:
    """A character at which a word ends, past the first sixty and not the very end."""
    ends = [m.end() for m in corpus.WORD.finditer(text) if 60 < m.end() < len(text) - 10]
    return int(rng.choice(ends))


def pick(
    documents: list[corpus.Document], key: str, splits: set[str], count: int, rng: np.random.Generator
) -> list[corpus.Document]:
    """``count`` documents for each value of ``key``."""
    groups: dict[str, list[corpus.Document]] = defaultdict(list)
    for document in documents:
        if document.split in splits:
            groups[getattr(document, key)].append(document)
    return [g[i] for name, g in sorted(groups.items()) for i in sorted(rng.permutation(len(g))[:count])]


def fresh_rows(fresh: list[corpus.Document]) -> list[dict[str, object]]:
    """Openings that maps, direct tables and judges read, no two alike; map sentences first.

    Openings, not whole documents: what counts for a mean is in how many documents a feature fires.
    """
    rng = np.random.default_rng(s.SEED + 3)
    by_text = {opening(d.text, s.OPENING_CHARACTERS): d for d in fresh}
    left = [replace(d, text=text) for text, d in by_text.items()]
    chosen = {"map": [left[i] for i in sorted(rng.permutation(len(left))[: s.MAP_DOCUMENTS])]}
    for split, count in (("direct", s.DIRECT_PER_CATEGORY), ("judge", s.JUDGE_PER_CATEGORY)):
        gone = {d.text for some in chosen.values() for d in some}
        chosen[split] = pick([d for d in left if d.text not in gone], "category", {"fresh"}, count, rng)
    return [
        {"split": split, "category": d.category, "topic": d.topic, "text": d.text}
        for split, some in chosen.items()
        for d in some
    ]


def unseen_rows(documents: list[corpus.Document]) -> list[dict[str, object]]:
    """Documents of the corpus that no verbalizer was trained on, with the character at which one activation is read."""
    rng = np.random.default_rng(s.SEED + 2)
    return [
        {"split": split, "category": d.category, "topic": d.topic, "text": d.text, "end": word_end(d.text, rng)}
        for split, key, count in (("test", "category", s.TEST_PER_CATEGORY), ("heldout", "topic", s.HELDOUT_PER_TOPIC))
        for d in pick(documents, key, {split}, count, rng)
    ]


def write_rows(rows: Iterable[dict[str, Any]], path: Path) -> None:
    """JSON lines, gzipped; the header carries no time, so the same rows are the same bytes."""
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0) as file:
        for row in rows:
            file.write((json.dumps(row, ensure_ascii=False) + "\n").encode())
    path.write_bytes(buffer.getvalue())


def write_texts(documents: list[corpus.Document], fresh: list[corpus.Document], out: Path) -> None:
    """Write the texts; unseen documents that are packed already stay, since published figures rest on them."""
    path = out / "documents.jsonl.gz"
    packed = [row for row in read_jsonl(path) if row["split"] in ("test", "heldout")] if path.exists() else []
    write_rows(fresh_rows(fresh) + (packed or unseen_rows(documents)), path)


def human_rows(passages: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Passages of public or permissive sources in the splits of maps, tables and judging, with where they come from."""
    rng = np.random.default_rng(s.SEED + 4)
    kept = [one for one in passages if one["share"] and one["split"] in s.HUMAN_PACKED]
    out = []
    for split, count in s.HUMAN_PACKED.items():
        own = [one for one in kept if one["split"] == split]
        out += [own[i] for i in sorted(rng.permutation(len(own))[:count])]
    keys = ("split", "register", "work", "package", "version", "licence", "text")
    return [{"category": "", "topic": ""} | {k: one[k] for k in keys} for one in out]


def write_with_human(packed: list[dict[str, Any]], passages: Path | None, out: Path) -> None:
    """Packed documents as they are, without human ones of before, and human passages behind them."""
    planted = [row for row in packed if row["category"]]
    write_rows(planted + (human_rows(read_jsonl(passages)) if passages else []), out / "documents.jsonl.gz")


def write_probes(documents: list[corpus.Document], work: Path, out: Path) -> None:
    """Write both probes to one file."""
    tensors = {}
    for name, key in (("smollm2-av", "source"), ("gemma-av", "target")):
        probe = load_file(work / f"probe-{name}.safetensors")
        tensors |= {f"{key}_weight": probe["weight"], f"{key}_bias": probe["bias"]}
    save_file(
        tensors,
        out / "probes.safetensors",
        metadata={"classes": json.dumps(sorted({d.category for d in documents if d.category}))},
    )
