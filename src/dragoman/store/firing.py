"""``tokens.jsonl`` of a run: how much features fire at each token of the windows of text that are kept with it.

In: a run, token windows by feature. Out: a file of one line a feature, behind a first line that names its format and
the plan of the run's first rows; lines by their places, so that a large run's are read one at a time. Refuses another
run's file, another format, lines of another form, and a feature told of twice.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from dragoman.core import Refusal
from dragoman.records import Record, TokenWindow
from dragoman.store.files import opened, refusing, replacing
from dragoman.store.runs import PLAN, TOKENS, RunFolder
from dragoman.store.spans import shown

FORMAT = 1
_AGAIN = "make the run again"
_LONGEST = 1 << 22  # bytes of a line: ten windows of 260 characters take a thousandth of it


class _Head(Record):
    format: Literal[1]
    holds: Literal["activations of tokens"]
    plan: str = Field(alias=PLAN)


class _Line(Record):
    feature: str
    windows: tuple[TokenWindow, ...]


def write_tokens(run: RunFolder, windows: Mapping[str, Sequence[TokenWindow]]) -> None:
    """Keep the token windows of features with the run, in place of earlier ones; the same windows, the same bytes."""
    with replacing(run.path / TOKENS) as file:
        head = {"format": FORMAT, "holds": "activations of tokens", PLAN: run.rows_plan}
        file.write(_bytes(head))
        for feature, some in windows.items():
            file.write(_bytes(_Line(feature=feature, windows=tuple(some)).to_json()))


def _bytes(told: Mapping[str, object]) -> bytes:
    return json.dumps(told, separators=(",", ":"), allow_nan=False).encode("ascii") + b"\n"


def token_places(path: Path, plan: str) -> Iterator[tuple[str, int, int]]:
    """Each feature's id, and where its line starts in the file and how many bytes it has; none where there is no file.

    Raises:
        Refusal: as the module says; of a line only its id is read.
    """
    with refusing("reading", path):
        if not path.exists():
            return
    with opened(path) as file:
        head = file.readline(_LONGEST)
        if _Head.read(head, f"{path}, line 1").plan != plan:
            raise Refusal(f"{path}", "it does not hold this run's activations", _AGAIN)
        start, number, seen = len(head), 1, set[str]()
        while line := file.readline(_LONGEST):
            number += 1
            feature = _feature_of(line, f"{path}, line {number}")
            if feature in seen:
                raise Refusal(f"{path}, line {number}", f"feature {shown(feature)} is there twice", _AGAIN)
            seen.add(feature)
            yield feature, start, len(line)
            start += len(line)


def _feature_of(line: bytes, what: str) -> str:
    """The id that a line begins with, without reading its windows."""
    begin = b'{"feature":'
    try:
        if not line.startswith(begin) or not line.endswith(b"]}\n"):
            raise ValueError
        found, _ = json.JSONDecoder().raw_decode(line.decode("ascii"), len(begin))
    except (ValueError, RecursionError) as error:
        raise Refusal(what, "it is not a feature's activations", _AGAIN) from error
    if not isinstance(found, str):
        raise Refusal(what, "it names no feature", _AGAIN)
    return found


def windows_at(path: Path, start: int, size: int, feature: str) -> tuple[TokenWindow, ...]:
    """The windows of a line that `token_places` told of.

    Raises:
        Refusal: they are of another form, or of another feature.
    """
    with opened(path) as file, refusing("reading", path):
        line = os.pread(file.fileno(), size, start)
    found = _Line.read(line, f"{path}, byte {start}")
    if found.feature != feature:
        raise Refusal(f"{path}", f"its line at byte {start} is of another feature", _AGAIN)
    return found.windows


def read_tokens(run: RunFolder) -> dict[str, tuple[TokenWindow, ...]]:
    """All token windows of a run by feature; empty where none are kept."""
    path = run.path / TOKENS
    places = list(token_places(path, run.rows_plan))
    return {feature: windows_at(path, start, size, feature) for feature, start, size in places}
