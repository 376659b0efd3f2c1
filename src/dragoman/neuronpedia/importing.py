"""What Neuronpedia's importer needs beside the explanations, and what its database must hold already.

In: names of the method and the model, the author's id in the receiving database, what is already in the folder. Out:
the five files its importer reads first (``v1/config``), a README. Refuses ids and names that the database cannot
take, and a folder that describes the same method or model otherwise.

By the public schema and importer of hijohnnylin/neuronpedia, as of August 2026.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dragoman.core import Refusal
from dragoman.neuronpedia.ids import NeuronpediaRef
from dragoman.store import read_jsonl
from dragoman.store.spans import shown

TYPES, MODELS = "explanation_type.jsonl", "explanation_model_type.jsonl"
# Its importer reads these too and stops where one is not there; empty ones add nothing.
ALSO_READ = ("explanation_score_model.jsonl", "explanation_score_type.jsonl", "eval_type.jsonl")
MOST_FILES = 1000  # it asks for one page of a folder's listing
LONGEST_NAME = 200

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


def check_author(author: str) -> str:
    """The author's id, if it has the form of one.

    Raises:
        Refusal: there is none, or it is no id.
    """
    if not _ID.fullmatch(author):
        raise Refusal(
            f"author '{shown(author)}'",
            "every explanation belongs to a user of the receiving database, and a row without one is rejected",
            'pass --author-id with the id of a row of its table "User" (DEFAULT_CREATOR_USER_ID in its settings)',
        )
    return author


def check_name(what: str, name: str) -> str:
    """A name that can be a key of the database.

    Raises:
        Refusal: it is empty, long, or holds what is no printed character.
    """
    odd = any(unicodedata.category(c) in ("Cc", "Cs") for c in name)
    if not name.strip() or name != name.strip() or odd or len(name) > LONGEST_NAME:
        why = f"a name is one line of 1 to {LONGEST_NAME} printed characters, without spaces around it"
        raise Refusal(f"name of the {what} '{shown(name)}'", why, f"name the {what} so")
    return name


def config_files(folder: Path, *, type_name: str, model_name: str, author: str) -> dict[Path, bytes]:
    """The files of ``v1/config``: the method and the model, added to those that are described there already.

    Raises:
        Refusal: the folder describes one of them otherwise.
    """
    maker = model_name.partition("/")[0] if "/" in model_name else "unknown"
    kind = {
        "name": type_name,
        "displayName": type_name,
        "description": "Words that a verbalizer says of the feature's direction in the residual stream; by dragoman.",
        "creatorName": "dragoman",
        "creatorId": author,
    }
    model = {
        "name": model_name,
        "displayName": model_name.rpartition("/")[2],
        "description": "A verbalizer: a language model trained to say what a vector of its residual stream means.",
        "creatorName": maker,
    }
    made = {folder / TYPES: _with(folder / TYPES, kind), folder / MODELS: _with(folder / MODELS, model)}
    return made | {folder / name: b"" for name in ALSO_READ if not (folder / name).exists()}


def must_exist(source: NeuronpediaRef, author: str) -> list[tuple[str, str]]:
    """(table, row) of all that must be in the receiving database before explanations go in."""
    feature = f"modelId '{source.model}', layer '{source.source}'"
    return [
        ("User", f"id '{author}' (the author)"),
        ("Model", f"id '{source.model}'"),
        ("Source", f"modelId '{source.model}', id '{source.source}', and with it its SourceSet"),
        ("Neuron", f"one row for every feature explained: {feature}, and the feature's index"),
    ]


def readme(
    source: NeuronpediaRef, *, type_name: str, model_name: str, author: str, indices: Sequence[str], files: int
) -> bytes:
    """The export's README: what is in it, what must be there, how it goes in."""
    rows = "\n".join(f"| `{table}` | {row} |" for table, row in must_exist(source, author))
    return f"""\
# Explanations of {source.model}/{source.source}

{len(indices)} explanations of {len(set(indices))} features, in {files} files `explanations/batch-N.jsonl.gz`, for
Neuronpedia's importer. Method `{type_name}`, model `{model_name}`, author `{author}`. Written by dragoman; nothing was
uploaded.

## What must exist in the receiving database

| table | row |
|---|---|
{rows}

A foreign key guards each of them: without one, the importer rejects the rows. It makes the method (`ExplanationType`)
and the model (`ExplanationModelType`) itself, out of `v1/config/{TYPES}` and `v1/config/{MODELS}`. It
reads `{"`, `".join(ALSO_READ)}` before as well, which is why they are here, empty.
Where the bucket has such files already, append these lines to them; do not replace them.

## How it goes in

1. Put the folder `v1` into the bucket that the importing site reads (its `DATASET_BUCKET`).
2. As an administrator, or on localhost, ask for
   `/api/admin/import?modelId={source.model}&sourceId={source.source}&explanations=only`.

A row whose id is there already is passed over, so a second import changes nothing.

## Without access to the bucket

`POST /api/feature/upload-batch` takes features with their explanations from the user who created the source set, 128
features a call. It asks for at least one activation (tokens and values) of every feature, which this export does not
hold; it writes method and model in lower case and refuses those it does not know.
""".encode()


def _with(path: Path, row: Mapping[str, Any]) -> bytes:
    """A file's lines, and the row's behind them where it is not among them."""
    there = read_jsonl(path) if path.exists() and path.stat().st_size else []
    known = next((other for other in there if other.get("name") == row["name"]), None)
    if known is not None and known != row:
        raise Refusal(
            f"{path}", f"it describes '{shown(row['name'])}' otherwise", "name a new folder, or another name for it"
        )
    rows = [*there, *([] if known else [row])]
    return b"".join(json.dumps(one, allow_nan=False).encode("ascii") + b"\n" for one in rows)
