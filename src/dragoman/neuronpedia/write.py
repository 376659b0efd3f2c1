"""Explanations as files that Neuronpedia's importer reads: ``v1/{model}/{source}/explanations/batch-N.jsonl.gz``.

In: explanations with their provenance, the source they are of, their author's id there. Out: gzipped JSON lines, the
same bytes for the same explanations, and what the importer needs beside them (`importing`); ids are hashes of the rows.
Refuses empty explanations, repeated ones, and folders that hold other batches. Nothing is uploaded.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
import shutil
import tempfile
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from dragoman.core import Refusal
from dragoman.neuronpedia.activations import Window, activation_rows
from dragoman.neuronpedia.files import batch_files
from dragoman.neuronpedia.ids import NeuronpediaRef
from dragoman.store import file_sha256, plain, read_jsonl, refusing, replacing, write_bytes
from dragoman.store.files import refuse_target
from dragoman.store.spans import shown

LONGEST = 512  # UTF-16 units, which is how their site counts characters
BATCH = 1024
_TAGS = re.compile(
    r"</?(?:explanation|concept|text|summary|s|bos|eos|pad|unk|start_of_turn|end_of_turn)>|<\|[^<>|]{1,60}\|>",
    re.IGNORECASE,
)
_SENTENCE = re.compile(r"[.!?…][\"'”’)\]]*(?=\s)")
_NULL = re.compile(r"\x00|\\u0000")
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    """One explanation to be written.

    ``index``: the feature's, as their ids count. ``text``: all of it. ``confidence``: a probability, where one was
    made. ``notes``: provenance, written as JSON beside the text. ``type_name``: the method, where it has its own.
    """

    index: str
    text: str
    confidence: float | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)
    type_name: str | None = None


def write_explanations(
    out: Path | str,
    source: NeuronpediaRef,
    explained: Sequence[Explained],
    *,
    type_name: str,
    model_name: str,
    author: str,
    batch_size: int = BATCH,
    windows: Iterable[Window] = (),
    distrust: str = "",
) -> list[Path]:
    """Write the batches under ``out``, with their README and the importer's other files, and give their paths.

    ``windows``: in which the features fire, written beside as ``activations``; a batch of them is held at a time.
    ``distrust``: what the README says first, where the map that carried them is unusable.

    A file that is already there with the same bytes stays; so a second call changes nothing. The time is in none of
    them: the database says when a row came in.

    Raises:
        Refusal: nothing to write, an explanation without a word or given twice, an author or a name that the database
            cannot take, more batches than the importer lists, or other batches in the folder.
    """
    if not explained:
        raise Refusal(f"explanations of {source}", "there are none to write", "choose a condition that has some")
    check_author(author)
    types = list(dict.fromkeys(one.type_name or type_name for one in explained))
    for name in types:
        check_name("method", name)
    check_name("model", model_name)
    if batch_size < 1 or len(explained) > batch_size * MOST_FILES:
        why = f"a batch has at least one row, and the importer lists at most {MOST_FILES} batches of a source"
        raise Refusal(f"batches of {batch_size} of {len(explained)} rows", why, "write larger batches")
    ordered = sorted(explained, key=_order)
    rows = [_row(one, source, one.type_name or type_name, model_name, author) for one in ordered]
    seen: set[object] = set()
    for row in rows:
        if row["id"] in seen:
            raise Refusal(f"explanation of feature {row['index']}", "it is given twice", "give every explanation once")
        seen.add(row["id"])
    root = Path(out) / "v1"
    folder = root / source.model / source.source / "explanations"
    held = folder.parent / "activations"
    with _aside(Path(out)) as aside:
        ready, _ = _batches(aside / "explanations", folder, rows, batch_size)
        fires = activation_rows(_whole_windows(windows), source.model, source.source, author, _id)
        active, count = _batches(aside / "activations", held, fires, batch_size)
        there = _refuse_others(folder, ready) | _refuse_others(held, active)
        indices = [str(row["index"]) for row in rows]
        description = readme(
            source, types=types, model_name=model_name, author=author, indices=indices, files=len(ready),
            windows=count, distrust=distrust,
        )  # fmt: skip
        beside = config_files(root / "config", types=types, model_name=model_name, author=author)
        beside |= {folder.parent / "README.md": description}
        moved = {path: made for path, made in (ready | active).items() if path not in there}
        for path in moved:
            refuse_target(path)
        for path, made in moved.items():
            with refusing("writing", path):
                path.parent.mkdir(parents=True, exist_ok=True)
                made.replace(path)
        for path, content in beside.items():
            write_bytes(path, content)
    return list(ready)


@contextmanager
def _aside(out: Path) -> Iterator[Path]:
    """A folder on the same disk for what is not in its place yet; gone when the block ends."""
    whole = out.absolute()
    with refusing("writing", out):
        nearest = next(place for place in (whole, *whole.parents) if place.is_dir())
        made = Path(tempfile.mkdtemp(prefix=".", suffix=".partial", dir=nearest))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _batches(aside: Path, folder: Path, rows: Iterable[Mapping[str, Any]], size: int) -> tuple[dict[Path, Path], int]:
    """Rows in files of so many; where each belongs and where it lies now, and how many rows there are."""
    found, count, rows = dict[Path, Path](), 0, iter(rows)
    aside.mkdir()
    while batch := list(islice(rows, size)):
        if len(found) == MOST_FILES:
            why = f"of {folder.name} there would be more than the {MOST_FILES} that the importer lists"
            raise Refusal(f"batches of {size} rows", why, "write larger batches")
        name = f"batch-{len(found)}.jsonl.gz"
        with replacing(aside / name) as file:
            file.write(packed(batch))
        found[folder / name], count = aside / name, count + len(batch)
    return found, count


def short_label(text: str, most: int = LONGEST) -> str:
    """A label for a list: the first paragraph in one line, tags removed, cut at a sentence or a word.

    Args:
        text: what a verbalizer said.
        most: longest result in UTF-16 units (characters outside the basic plane count twice, as on their site).
    """
    said = _untagged(text)
    paragraphs = (" ".join(_printable(p).split()) for p in re.split(r"\n\s*\n", said))
    first = next((p for p in paragraphs if p), "")
    if _units(first) <= most:
        return first
    kept = _prefix(first, most)
    ends = [m.end() for m in _SENTENCE.finditer(first) if len(kept) // 2 <= m.end() <= len(kept)]
    if ends:
        return first[: ends[-1]]
    kept = _prefix(first, most - 1)
    head, space, _ = kept.rpartition(" ")
    return (head.rstrip(" ,;:-") if space and head else kept) + "…"


def packed(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Rows as gzipped JSON lines, without name or time in the header."""
    held = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", fileobj=held, compresslevel=9, mtime=0) as file:
        for row in rows:
            file.write(json.dumps(row, allow_nan=False).encode("ascii") + b"\n")
    return held.getvalue()


def _row(one: Explained, source: NeuronpediaRef, type_name: str, model_name: str, author: str) -> dict[str, object]:
    """One row: columns of their table that have no default, and the notes; the database fills in what is left out."""
    feature = source.at(one.index)
    label = _importable(short_label(one.text))
    if not label:
        raise Refusal(f"explanation of {feature}", "there is not a word in it", "leave it out")
    notes = _importable({**plain(dict(one.notes)), "confidence": plain(one.confidence), "text": one.text})
    noted = json.dumps(notes, ensure_ascii=True, sort_keys=True, allow_nan=False)
    return {
        "id": _id(feature.path, type_name, model_name, noted),
        "modelId": source.model,
        "layer": source.source,
        "index": one.index,
        "authorId": author,
        "description": label,
        "embedding": None,
        "typeName": type_name,
        "explanationModelName": model_name,
        "notes": noted,
    }


def _id(*parts: str) -> str:
    """25 characters in the form of their ids: c and 24 base-36 digits of a sha256."""
    number = int.from_bytes(hashlib.sha256(json.dumps(parts).encode()).digest(), "big")
    digits = []
    for _ in range(24):
        number, digit = divmod(number, 36)
        digits.append(_DIGITS[digit])
    return "c" + "".join(digits)


def _order(one: Explained) -> tuple[int, int, str]:
    """By number; indices that are none come after."""
    return (0, int(one.index), "") if one.index.isdecimal() else (1, 0, one.index)


def _refuse_others(folder: Path, ready: Mapping[Path, Path]) -> set[Path]:
    """Refuse a folder whose batches are not these ones: labels of another run must not be mixed in or written over.

    ``ready``: by where it belongs, where each batch lies. Gives those of these that are there already.
    """
    there = set(batch_files(folder))
    for path in sorted(there):
        own = ready.get(path)
        if own is None or file_sha256(path) != file_sha256(own):
            raise Refusal(f"{path}", "it holds other explanations", "name a new folder")
    return there


def _whole_windows(windows: Iterable[Window]) -> Iterator[Window]:
    """Windows whose tokens the importer leaves whole."""
    for one in windows:
        yield Window(index=one.index, tokens=[(_importable(t), value) for t, value in one.tokens])


def _untagged(text: str) -> str:
    """Without tags, also those that removing one uncovers."""
    while (less := _TAGS.sub(" ", text)) != text:
        text = less
    return text


def _importable(value: Any) -> Any:
    r"""Text as the importer leaves it whole.

    It replaces ``\u0000`` by a space in the file's text, escaped or not, and that breaks the line around it.
    """
    if isinstance(value, str):
        return _NULL.sub(" ", value)
    if isinstance(value, Mapping):
        return {_importable(key): _importable(one) for key, one in value.items()}
    return [_importable(one) for one in value] if isinstance(value, list) else value


def _printable(text: str) -> str:
    """Without control characters and halves of characters, which databases refuse."""
    spaced = text.replace("\n", " ")
    if spaced.isprintable():  # as nearly all texts are; the look at each character takes a hundred times as long
        return spaced
    return "".join(" " if unicodedata.category(c) in ("Cc", "Cs") else c for c in text)


def _units(text: str) -> int:
    return len(text) if text.isascii() else len(text) + sum(ord(c) > 0xFFFF for c in text)


def _prefix(text: str, most: int) -> str:
    """As many characters from the front as fit."""
    left = most
    for at, character in enumerate(text):
        left -= 2 if ord(character) > 0xFFFF else 1
        if left < 0:
            return text[:at]
    return text


WORDS = "Words that a verbalizer says of the feature's direction in the residual stream; by dragoman."
TYPES, MODELS = "explanation_type.jsonl", "explanation_model_type.jsonl"
# Its importer reads these too and stops where one is not there; empty ones add nothing.
ALSO_READ = ("explanation_score_model.jsonl", "explanation_score_type.jsonl", "eval_type.jsonl")
MOST_FILES = 1000  # it asks for one page of a folder's listing
LONGEST_NAME = 200

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


def check_author(author: str) -> str:
    """The author's id, if it has the form of one. Refused when there is none, or it is no id."""
    if not _ID.fullmatch(author):
        raise Refusal(
            f"author '{shown(author)}'",
            "every explanation belongs to a user of the receiving database, and a row without one is rejected",
            'pass --author-id with the id of a row of its table "User" (DEFAULT_CREATOR_USER_ID in its settings)',
        )
    return author


def check_name(what: str, name: str) -> str:
    """A name that can be a key of the database. Refused when empty, long, or with what is no printed character."""
    odd = any(unicodedata.category(c) in ("Cc", "Cs") for c in name)
    if not name.strip() or name != name.strip() or odd or len(name) > LONGEST_NAME:
        why = f"a name is one line of 1 to {LONGEST_NAME} printed characters, without spaces around it"
        raise Refusal(f"name of the {what} '{shown(name)}'", why, f"name the {what} so")
    return name


def config_files(folder: Path, *, types: Sequence[str], model_name: str, author: str) -> dict[Path, bytes]:
    """The files of ``v1/config``: the methods and the model, added to those that are described there already.

    Raises:
        Refusal: the folder describes one of them otherwise.
    """
    maker = model_name.partition("/")[0] if "/" in model_name else "unknown"
    kinds = [
        {
            "name": name,
            "displayName": name,
            "description": WORDS,
            "creatorName": "dragoman",
            "creatorId": author,
        }
        for name in types
    ]
    model = {
        "name": model_name,
        "displayName": model_name.rpartition("/")[2],
        "description": "A verbalizer: a language model trained to say what a vector of its residual stream means.",
        "creatorName": maker,
    }
    made = {folder / TYPES: _with(folder / TYPES, *kinds), folder / MODELS: _with(folder / MODELS, model)}
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
    source: NeuronpediaRef,
    *,
    types: Sequence[str],
    model_name: str,
    author: str,
    indices: Sequence[str],
    files: int,
    windows: int = 0,
    distrust: str = "",
) -> bytes:
    """The export's README: what is in it, what must be there, how it goes in.

    ``windows``: rows of activations. ``distrust``: said before all else.
    """
    doubt, features = f"**{distrust}**\n\n" if distrust else "", len(set(indices))
    active = (
        f"""It asks for at least one activation (tokens and values) of every feature: the {windows} rows of
`activations/batch-N.jsonl.gz` are such. An import of explanations only does not read them; one of the whole source
does. Tokens whose activation is not known are left off. The call writes method and model in lower case and refuses
those it does not know."""
        if windows
        else """It asks for at least one activation (tokens and values) of every feature, which this export does not
hold; it writes method and model in lower case and refuses those it does not know."""
    )
    rows = "\n".join(f"| `{table}` | {row} |" for table, row in must_exist(source, author))
    methods = f"{'Method' if len(types) == 1 else 'Methods'} `{'`, `'.join(types)}`"
    return f"""\
# Explanations of {source.model}/{source.source}

{doubt}{len(indices)} explanations of {features} features, in {files} files `explanations/batch-N.jsonl.gz`, for
Neuronpedia's importer. {methods}, model `{model_name}`, author `{author}`. Written by dragoman; nothing was
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
features a call. {active}
""".encode()


def _with(path: Path, *rows: Mapping[str, Any]) -> bytes:
    """A file's lines, and each row's behind them where it is not among them."""
    there = read_jsonl(path) if path.exists() and path.stat().st_size else []
    for row in rows:
        known = next((other for other in there if other.get("name") == row["name"]), None)
        if known is not None and known != row:
            why = f"it describes '{shown(row['name'])}' otherwise"
            raise Refusal(f"{path}", why, "name a new folder, or another name for it")
        there = [*there, *([] if known else [row])]
    return b"".join(json.dumps(one, allow_nan=False).encode("ascii") + b"\n" for one in there)
