"""The tables of Neuronpedia that an import touches, described anew as a database with their keys, and its importer.

By the public schema of hijohnnylin/neuronpedia (apps/webapp/prisma, August 2026): which columns have no default, their
types, and which foreign key each carries. `imported` does what its admin import does with ``explanations=only``: five
files of settings first, method and model written over or added, then every batch, row by row into Explanation, columns
that the table lacks passed over, ids that are there already too.
"""

from __future__ import annotations

import gzip
import json
import sqlite3
from pathlib import Path
from typing import Any

# table -> column -> (type, required: no default and never null)
NEEDED, FREE = True, False
COLUMNS: dict[str, dict[str, tuple[str, bool]]] = {
    "User": {"id": ("TEXT", NEEDED), "name": ("TEXT", NEEDED)},
    "Model": {
        "id": ("TEXT", NEEDED), "creatorId": ("TEXT", NEEDED), "layers": ("INTEGER", NEEDED),
        "neuronsPerLayer": ("INTEGER", NEEDED), "owner": ("TEXT", NEEDED),
    },
    "SourceSet": {
        "modelId": ("TEXT", NEEDED), "name": ("TEXT", NEEDED), "description": ("TEXT", NEEDED),
        "creatorName": ("TEXT", NEEDED), "creatorId": ("TEXT", NEEDED),
    },
    "Source": {
        "id": ("TEXT", NEEDED), "modelId": ("TEXT", NEEDED), "setName": ("TEXT", NEEDED), "creatorId": ("TEXT", NEEDED),
    },
    "Neuron": {
        "modelId": ("TEXT", NEEDED), "layer": ("TEXT", NEEDED), "index": ("TEXT", NEEDED),
        "sourceSetName": ("TEXT", FREE), "creatorId": ("TEXT", FREE),
    },
    "ExplanationType": {
        "name": ("TEXT", NEEDED), "displayName": ("TEXT", NEEDED), "description": ("TEXT", NEEDED),
        "creatorName": ("TEXT", NEEDED), "creatorId": ("TEXT", NEEDED), "url": ("TEXT", FREE),
        "settings": ("TEXT", FREE), "featured": ("INTEGER", FREE), "isAttention": ("INTEGER", FREE),
    },
    "ExplanationModelType": {
        "name": ("TEXT", NEEDED), "displayName": ("TEXT", NEEDED), "description": ("TEXT", NEEDED),
        "creatorName": ("TEXT", NEEDED), "url": ("TEXT", FREE), "openRouterModelId": ("TEXT", FREE),
        "featured": ("INTEGER", FREE),
    },
    "Explanation": {
        "id": ("TEXT", NEEDED), "modelId": ("TEXT", NEEDED), "layer": ("TEXT", NEEDED), "index": ("TEXT", NEEDED),
        "embedding": ("BLOB", FREE), "description": ("TEXT", NEEDED), "authorId": ("TEXT", NEEDED),
        "triggeredByUserId": ("TEXT", FREE), "notes": ("TEXT", FREE), "scoreV1": ("REAL", FREE),
        "typeName": ("TEXT", FREE), "explanationModelName": ("TEXT", FREE),
    },
    "Activation": {  # lists as JSON, which no table here has a type for
        "id": ("TEXT", NEEDED), "modelId": ("TEXT", NEEDED), "layer": ("TEXT", NEEDED), "index": ("TEXT", NEEDED),
        "tokens": ("TEXT", NEEDED), "values": ("TEXT", NEEDED), "maxValue": ("REAL", NEEDED),
        "maxValueTokenIndex": ("INTEGER", NEEDED), "minValue": ("REAL", NEEDED), "creatorId": ("TEXT", NEEDED),
        "dataIndex": ("TEXT", FREE), "dataSource": ("TEXT", FREE), "qualifyingTokenIndex": ("INTEGER", FREE),
    },
}  # fmt: skip
# table -> what no two rows share
UNIQUE = {
    "User": ("id",), "Model": ("id",), "SourceSet": ("modelId", "name"), "Source": ("modelId", "id"),
    "Neuron": ("modelId", "layer", "index"), "ExplanationType": ("name",), "ExplanationModelType": ("name",),
    "Explanation": ("id",), "Activation": ("id",),
}  # fmt: skip
# table -> (columns, table they lead to, columns there)
KEYS: dict[str, list[tuple[tuple[str, ...], str, tuple[str, ...]]]] = {
    "Model": [(("creatorId",), "User", ("id",))],
    "SourceSet": [(("modelId",), "Model", ("id",)), (("creatorId",), "User", ("id",))],
    "Source": [(("modelId", "setName"), "SourceSet", ("modelId", "name")), (("creatorId",), "User", ("id",))],
    "Neuron": [
        (("modelId",), "Model", ("id",)),
        (("modelId", "layer"), "Source", ("modelId", "id")),
        (("modelId", "sourceSetName"), "SourceSet", ("modelId", "name")),
        (("creatorId",), "User", ("id",)),
    ],
    "ExplanationType": [(("creatorId",), "User", ("id",))],
    "Explanation": [
        (("authorId",), "User", ("id",)),
        (("triggeredByUserId",), "User", ("id",)),
        (("modelId",), "Model", ("id",)),
        (("modelId", "layer", "index"), "Neuron", ("modelId", "layer", "index")),
        (("typeName",), "ExplanationType", ("name",)),
        (("explanationModelName",), "ExplanationModelType", ("name",)),
    ],
    "Activation": [
        (("creatorId",), "User", ("id",)),
        (("modelId", "layer", "index"), "Neuron", ("modelId", "layer", "index")),
    ],
}
SETTINGS = (
    "explanation_model_type.jsonl", "explanation_type.jsonl", "explanation_score_model.jsonl",
    "explanation_score_type.jsonl", "eval_type.jsonl",
)  # fmt: skip


def database() -> sqlite3.Connection:
    """The tables, empty, with types and keys enforced."""
    held = sqlite3.connect(":memory:", isolation_level=None)
    held.execute("PRAGMA foreign_keys = ON")
    for table, columns in COLUMNS.items():
        lines = [f'"{name}" {kind}{" NOT NULL" if needed else ""}' for name, (kind, needed) in columns.items()]
        lines.append(f"UNIQUE ({_names(UNIQUE[table])})")
        lines += [
            f'FOREIGN KEY ({_names(here)}) REFERENCES "{to}" ({_names(there)})'
            for here, to, there in KEYS.get(table, [])
        ]
        held.execute(f'CREATE TABLE "{table}" ({", ".join(lines)}) STRICT')
    return held


def put(held: sqlite3.Connection, table: str, **row: Any) -> None:
    """One row, ids that are there already passed over; every key is checked at once."""
    marks = ", ".join("?" * len(row))
    held.execute(f'INSERT INTO "{table}" ({_names(row)}) VALUES ({marks}) ON CONFLICT DO NOTHING', list(row.values()))


def with_source(held: sqlite3.Connection, model: str, source: str, indices: list[str], creator: str) -> None:
    """What must exist before explanations go in."""
    put(held, "User", id=creator, name="somebody")
    put(held, "Model", id=model, creatorId=creator, layers=30, neuronsPerLayer=1, owner="them")
    held_by = {"modelId": model, "creatorId": creator}
    put(held, "SourceSet", **held_by, name="set", description="a set", creatorName="them")
    put(held, "Source", **held_by, id=source, setName="set")
    for index in indices:
        put(held, "Neuron", **held_by, layer=source, index=index, sourceSetName="set")


def imported(held: sqlite3.Connection, root: Path, model: str, source: str) -> int:
    """Rows of Explanation after an import of a folder that holds ``v1``.

    Raises:
        FileNotFoundError: a file of settings that it reads is not there.
        sqlite3.IntegrityError: a row that a key, a type or a required column rejects.
    """
    for name in SETTINGS:
        table = {"explanation_type.jsonl": "ExplanationType", "explanation_model_type.jsonl": "ExplanationModelType"}
        for line in filter(None, (root / "v1/config" / name).read_text(encoding="utf-8").split("\n")):
            row = json.loads(line)
            # Its client library rejects fields that the table does not have.
            assert set(row) <= set(COLUMNS[table[name]]), f"{name}: unknown {set(row) - set(COLUMNS[table[name]])}"
            put(held, table[name], **row)
    return _batches(held, root / "v1" / model / source / "explanations", "Explanation")


def activated(held: sqlite3.Connection, root: Path, model: str, source: str) -> int:
    """Rows of Activation after what an import of the whole source reads besides; raises as ``imported``."""
    return _batches(held, root / "v1" / model / source / "activations", "Activation")


def _batches(held: sqlite3.Connection, folder: Path, table: str) -> int:
    for path in sorted(folder.glob("*.jsonl.gz"))[:1000]:
        text = gzip.decompress(path.read_bytes()).decode().replace("\\u0000", " ").strip()
        known = [name for name in json.loads(text.split("\n")[0]) if name in COLUMNS[table]]
        for line in text.split("\n"):
            row = {name: json.loads(line).get(name) for name in known}
            put(held, table, **{k: json.dumps(v) if isinstance(v, list) else v for k, v in row.items()})
    return held.execute(f'SELECT count(*) FROM "{table}"').fetchone()[0]


def _names(columns: Any) -> str:
    return ", ".join(f'"{name}"' for name in columns)
