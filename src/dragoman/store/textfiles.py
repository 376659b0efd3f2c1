"""Texts from where people have them: lines, JSON lines, tables, folders of such files.

In: a path, or an open file and its name; the column that the texts are in. Out: texts, in the order they stand there;
of a folder, file by file, sorted by name. Refuses files of other kinds, rows and tables without that column, texts with
half a character, links that lead out of a folder, and files without a text. Parquet is read by pyarrow, a group of rows
at a time and the one column alone; no file is run.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path, PurePath
from typing import IO, Any

from dragoman.core import Refusal
from dragoman.store.cells import arrow
from dragoman.store.files import opened, refusing
from dragoman.store.spans import listed, shown, words_of
from dragoman.store.texts import lines, objects, packed_size, refuse_halves, whole_lines

COLUMN = "text"
_PACKED = (".txt", ".jsonl", ".csv")  # that may end in .gz
KINDS = (*_PACKED, ".parquet")
_ROWS = 256  # of Parquet that are held at a time
_GROUP = 1 << 30  # bytes of one column in one group of rows, unpacked
_OPTION = "--text-column"


def read_texts(path: Path | str, column: str = COLUMN, most: int | None = None) -> list[str]:
    """Texts of a file: one a line in ``.txt``; of a column of ``.jsonl``, ``.csv`` or ``.parquet``; or of a folder.

    Args:
        path: a file, ``.gz`` allowed but for Parquet, or a folder of such files.
        column: the field that holds the text; lines of ``.txt`` have none.
        most: how many are read, from the first; all when None.

    Raises:
        Refusal: there is no text in it, a row has no such column or half a character in it, or the file's name ends
            otherwise.
    """
    path = Path(path)
    with refusing("reading", path):
        folder = path.is_dir()
    texts: list[str] = []
    for file in text_files(path) if folder else [path]:
        with opened(file) as raw, closing(texts_in(raw, f"{file}", column, packed_size(file))) as found:
            texts += islice(found, None if most is None else most - len(texts))
        if len(texts) == most:
            break
    if not texts:
        what = "in its files" if folder else "in it"
        raise Refusal(f"{path}", f"there is no text {what}", "pass a file with at least one text")
    return texts


def kind_of(name: str) -> str:
    """How a file is read, by its name: one of ``KINDS``, or nothing where no reader knows it."""
    pure = PurePath(name.lower())
    packed = PurePath(pure.stem).suffix if pure.suffix == ".gz" else ""
    kind = packed if packed in _PACKED else pure.suffix
    return kind if kind in KINDS else ""


def text_files(folder: Path) -> list[Path]:
    """The files of texts in a folder and below it, sorted; names that begin with a dot are passed over.

    Raises:
        Refusal: there is none, or a link leads out of the folder, or to another folder.
    """
    found = list[Path]()
    root = Path(os.path.realpath(folder))
    with refusing("reading", folder):
        for place, below, names in os.walk(folder, onerror=_raised):
            below[:] = [name for name in below if not name.startswith(".")]
            found += [Path(place) / name for name in names if not name.startswith(".") and kind_of(name)]
            for name in below:
                if (Path(place) / name).is_symlink():
                    raise Refusal(f"{Path(place) / name}", "it is a link to a folder", "name that folder itself")
    for path in found:
        if path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(root):
            raise Refusal(f"{path}", "it is a link that leads out of its folder", "name the file itself, or copy it")
    if not found:
        why = f"no file in it ends in {listed_kinds()}"
        raise Refusal(f"folder {folder}", why, "name a folder of texts, or a file")
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def texts_in(raw: IO[bytes], name: str, column: str = COLUMN, packed: int | None = None) -> Generator[str]:
    """Texts of an open file, one by one; those without a word are passed over. To be closed before the file is.

    Args:
        raw: the file; of Parquet one that can be read anywhere.
        name: its name, by which its kind is known and which refusals say.
        column: see `read_texts`.
        packed: how many bytes it has, if it is gzip.
    """
    kind = kind_of(name)
    if not kind:
        why = f"texts are not read from '{shown(PurePath(name).suffix)}' files"
        raise Refusal(name, why, f"pass {listed_kinds()}, .gz allowed for all but .parquet")
    if kind == ".txt":
        with closing(lines(name, raw, packed)) as found:
            yield from (line.strip() for _, line in found)
        return
    rows = _parquet(raw, name, column) if kind == ".parquet" else _READERS[kind](raw, name, column, packed)
    with closing(rows) as found:
        for number, text in found:
            refuse_halves(text, f"{name}, row {number}")
            if text.strip():
                yield text


def listed_kinds() -> str:
    """The kinds in words."""
    return f"{', '.join(KINDS[:-1])} or {KINDS[-1]}"


def _raised(error: OSError) -> None:
    raise error


def _json_lines(raw: IO[bytes], name: str, column: str, packed: int | None) -> Generator[tuple[int, str]]:
    with closing(objects(name, raw, packed)) as rows:
        for number, row in enumerate(rows, 1):
            text = row.get(column)
            if not isinstance(text, str):
                told = f", but {listed(list(row))}" if column not in row and row else ""
                why = f'it has no string "{shown(column)}"{told}'
                raise Refusal(
                    f"{name}, row {number}", why, f'give every row a field "text", or name one with {_OPTION}'
                )
            yield number, text


def _cells(raw: IO[bytes], name: str, column: str, packed: int | None) -> Generator[tuple[int, str]]:
    """Of a CSV whose first row names the columns, by commas, semicolons or tabs."""
    with closing(whole_lines(name, raw, packed)) as told:
        try:
            first = next(told, "")
            delimiter = max(",;\t", key=first.count)
            rows = csv.reader(_from(first, told), delimiter=delimiter, strict=True)
            heading = next(rows, [])
            _check_named(name, column, heading)
            at = heading.index(column)
            for number, row in enumerate((row for row in rows if row), 1):
                if len(row) != len(heading):
                    why = f"it has {len(row)} cells where the heading names {len(heading)} columns"
                    raise Refusal(f"{name}, row {number}", why, "put quotes around cells that hold separators")
                yield number, row[at]
        except csv.Error as error:
            raise Refusal(name, f"it is no CSV ({words_of(error)})", "write it as .jsonl or .parquet") from error


def _from(first: str, rest: Iterator[str]) -> Iterator[str]:
    yield first
    yield from rest


_READERS: dict[str, Callable[[IO[bytes], str, str, int | None], Generator[tuple[int, str]]]] = {
    ".jsonl": _json_lines,
    ".csv": _cells,
}


def _check_named(name: str, column: str, there: Sequence[str]) -> None:
    """Refuse a table without that column, and one with several of its name: which is meant nothing tells."""
    if column not in there:
        raise _no_column(name, column, there)
    if (count := there.count(column)) > 1:
        why = f"{count} of its columns are named '{shown(column)}'"
        raise Refusal(name, why, f"name them differently, or name another with {_OPTION}")


def _no_column(name: str, column: str, there: Sequence[str]) -> Refusal:
    why = f"it has no column '{shown(column)}', but {listed(there)}" if there else "it has no columns"
    return Refusal(name, why, f"name one of its columns with {_OPTION}")


def _parquet(raw: IO[bytes], name: str, column: str) -> Generator[tuple[int, str]]:
    """Of a Parquet file, read group by group."""
    parquet, kinds = arrow(name, "pyarrow.parquet"), arrow(name, "pyarrow.types")
    try:
        file = parquet.ParquetFile(raw)
        _check_column(file, kinds, name, column)
        number = 0
        for group in range(file.metadata.num_row_groups):
            for batch in file.iter_batches(_ROWS, row_groups=[group], columns=[column], use_threads=False):
                # By its name: of "a.b", pyarrow reads the field b of a column a too.
                for text in batch.column(column).to_pylist():
                    number += 1
                    if text is not None:
                        yield number, text
    except Refusal:
        raise
    # pyarrow fails in as many ways as a file can be odd; each means the same to the reader.
    except Exception as error:
        why = f"it is not a whole Parquet file ({words_of(error)})"
        raise Refusal(name, why, "fetch or write the file again") from error


def _is_text(kinds: Any, kind: Any) -> bool:
    return kinds.is_string(kind) or kinds.is_large_string(kind) or kinds.is_string_view(kind)


def _check_column(file: Any, kinds: Any, name: str, column: str) -> None:
    """Refuse a table without that column of text, and one that unpacks to more than can be held."""
    schema = file.schema_arrow
    _check_named(name, column, schema.names)
    kind = schema.field(column).type
    kind = kind.value_type if kinds.is_dictionary(kind) else kind
    if not _is_text(kinds, kind):
        texts = [one.name for one in schema if _is_text(kinds, one.type)]
        why = f"its column '{shown(column)}' holds {shown(str(kind))}, not text"
        told = f"columns of text are {listed(texts)}" if texts else "no column holds text"
        raise Refusal(name, f"{why}, and {told}", f"name one with {_OPTION}" if texts else "name another file")
    for group in range(file.metadata.num_row_groups):
        told = file.metadata.row_group(group)
        parts = [told.column(k) for k in range(told.num_columns)]
        size = sum(part.total_uncompressed_size for part in parts if part.path_in_schema == column)
        if size > _GROUP:
            why = f"its column '{shown(column)}' unpacks to {size} bytes in one group of rows"
            raise Refusal(name, why, "write it in smaller groups of rows, or as .jsonl")
