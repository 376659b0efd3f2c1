"""What a run keeps of each feature's windows and words, one feature at a time: a run may hold more than memory should.

In: a run's folder, a condition. Out: mappings by feature that read from the disk what is asked of them, and hold only
where it stands. Refuses what `RunFolder` and `firing` refuse of the same files.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar

from dragoman.core import Refusal
from dragoman.records import TokenWindow
from dragoman.store.files import refusing
from dragoman.store.firing import token_places, windows_at
from dragoman.store.forms import is_lens, is_windows
from dragoman.store.rowfile import own_members
from dragoman.store.runs import LENS, TOKENS, RunFolder
from dragoman.store.streams import JsonStream, json_stream

T = TypeVar("T")
_CONTEXTS = "contexts.json"


class _Apart(Mapping[str, T]):
    """Values by feature; ``places``: where each starts and how long it is; ``read``: what stands at one of them."""

    def __init__(self, places: Mapping[str, tuple[int, int]], read: Callable[[str, int, int], T]) -> None:
        self._places, self._read = places, read

    def __getitem__(self, feature: str) -> T:
        return self._read(feature, *self._places[feature])

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


@contextmanager
def windows_apart(run: RunFolder) -> Iterator[Mapping[str, dict[str, Any]]]:
    """The run's windows by feature, as ``RunFolder.contexts``; none where it keeps none."""
    path = run.path / _CONTEXTS

    def each(stream: JsonStream) -> Iterator[tuple[str, object]]:
        for feature in own_members(stream, run.rows_plan, path):
            value = stream.value()
            if not is_windows(value):
                why = "it does not hold windows of text by feature"
                raise Refusal(f"{path}", why, "remove it, or make the run again")
            yield feature, value

    with _spooled(path, each) as found:
        yield found


@contextmanager
def lens_apart(run: RunFolder, condition: str) -> Iterator[Mapping[str, dict[str, list[str]]]]:
    """Words of one condition by feature, as ``RunFolder.lens``; none where it keeps none."""
    path = run.path / LENS

    def each(stream: JsonStream) -> Iterator[tuple[str, object]]:
        for name in own_members(stream, run.rows_plan, path):
            for feature in stream.members():
                value = stream.value()
                if not is_lens({name: {feature: value}}):
                    why = "it does not hold words by condition and feature"
                    raise Refusal(f"{path}", why, "remove it, or make it again")
                if name == condition:
                    yield feature, value

    with _spooled(path, each) as found:
        yield found


def tokens_apart(run: RunFolder) -> Mapping[str, tuple[TokenWindow, ...]]:
    """The tokens of the run's windows by feature; none where it keeps none."""
    path = run.path / TOKENS
    places = {feature: (start, size) for feature, start, size in token_places(path, run.rows_plan)}
    return _Apart(places, lambda feature, start, size: windows_at(path, start, size, feature))


@contextmanager
def _spooled(path: Path, each: Callable[[JsonStream], Iterator[tuple[str, object]]]) -> Iterator[Mapping[str, Any]]:
    """Values of a JSON file, each written to a temporary file by itself; gone when the block ends."""
    with refusing("reading", path):
        if not path.exists():
            yield {}
            return
    with ExitStack() as stack:
        with refusing("writing", Path(tempfile.gettempdir())):
            file: IO[bytes] = stack.enter_context(tempfile.TemporaryFile())
            places, start = dict[str, tuple[int, int]](), 0
            with json_stream(path) as stream:
                for feature, value in each(stream):
                    written = file.write(json.dumps(value).encode("ascii"))
                    places[feature] = (start, written)
                    start += written

        def read(_feature: str, at: int, size: int) -> Any:
            file.seek(at)
            return json.loads(file.read(size))

        yield _Apart(places, read)
