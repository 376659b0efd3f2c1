"""A reading that is cut short goes on where it stopped, to the same sums; what is kept for it is checked, bounded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dragoman
from dragoman.core import Talk
from dragoman.maps.aligned import Aligned
from dragoman.models.aligned import read_aligned
from dragoman.models.harvest import Reader
from dragoman.models.paired import ReadingOptions
from dragoman.store.arrays import read_arrays, write_arrays
from dragoman.store.spool import Spool
from planted_readers import PlantedPair, planted_pair, same_everything
from small_world import World

SMALL = ReadingOptions(first=1, batch_size=32)


@pytest.fixture
def pair() -> PlantedPair:
    return planted_pair()


class Counting:
    """A reader that counts the batches it was asked for."""

    def __init__(self, reader: Any) -> None:
        self.reader, self.batches = reader, 0

    def rows(self, *given: Any, **how: Any) -> Any:
        self.batches += 1
        return self.reader.rows(*given, **how)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.reader, name)


def cut_short(pair: PlantedPair, spool: Spool, after: int) -> None:
    def stop(done: int, _of: int) -> None:
        if done >= after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        read_aligned(pair.source, pair.target, pair.texts, pair.encoder, options=SMALL, progress=stop, spool=spool)


def whole(pair: PlantedPair, spool: Spool | None) -> tuple[Aligned, int]:
    """The sums, and how many batches of the source were read for them, the few read beforehand aside."""
    source: Any = Counting(pair.source)
    found = read_aligned(source, pair.target, pair.texts, pair.encoder, options=SMALL, spool=spool)
    return found, source.batches


def test_a_reading_goes_on_where_it_stopped_to_the_same_sums(pair: PlantedPair, tmp_path: Path) -> None:
    want, every = whole(pair, None)
    cut_short(pair, Spool(tmp_path / "spool"), 96)
    again = Spool(tmp_path / "spool")
    assert again.there == 3
    found, read = whole(pair, again)
    assert every - read == 3, "the three batches that were read are not read again"
    same_everything(found, want, 0, 0)
    assert found.report == want.report
    np.testing.assert_array_equal(found.held_out.x, want.held_out.x)


def test_what_is_damaged_or_of_another_batch_is_read_again(pair: PlantedPair, tmp_path: Path) -> None:
    want, every = whole(pair, None)
    cut_short(pair, Spool(tmp_path), 96)
    first, second, third = sorted(tmp_path.glob("*.safetensors"))
    first.write_bytes(first.read_bytes()[:-3])
    second.write_bytes(third.read_bytes())
    found, read = whole(pair, Spool(tmp_path))
    assert every - read == 1
    same_everything(found, want, 0, 0)
    arrays, told = read_arrays(third)
    write_arrays(third, arrays, told | {"counts": {**told["counts"], "more": 1}})  # what was counted has a part in it
    found, read = whole(pair, Spool(tmp_path))
    assert read == 1
    same_everything(found, want, 0, 0)


def test_a_spool_keeps_to_its_room_and_goes_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {"x": np.ones((4, 8), np.float32)}
    spool = Spool(tmp_path / "s", most=300)
    for name in ("a", "b", "c"):
        spool.keep(name, rows, {"n": 1})
    assert [spool.get(name) is not None for name in ("a", "b", "c")] == [True, True, False]
    assert spool.get("a")[1] == {"n": 1}  # type: ignore[index]
    assert Spool(tmp_path / "s", most=300).there == 2
    spool.remove()
    assert not (tmp_path / "s").exists() and spool.get("a") is None
    (tmp_path / "file").write_text("x")
    full = Spool(tmp_path / "file" / "s")  # nothing can be written there
    full.keep("a", rows, {})
    assert full.get("a") is None


def test_explain_goes_on_with_a_reading_and_keeps_nothing_of_it(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRAGOMAN_CACHE", str(tmp_path / "cache"))
    sae = dragoman.open_dictionary(world.sae, site=world.source)
    said: list[str] = []
    plain, reads = Reader.rows, []

    def failing(self: Reader, *given: Any, **how: Any) -> Any:
        reads.append(self.site)
        if len(reads) == 4:  # of two batches of 32 texts, the second's target
            raise KeyboardInterrupt
        return plain(self, *given, **how)

    how: dict[str, Any] = {"texts": world.root / "texts.txt", "talk": Talk(say=said.append)}
    monkeypatch.setattr(Reader, "rows", failing)
    with pytest.raises(KeyboardInterrupt):
        dragoman.fit_crossing(sae, world.target, **how)
    (kept,) = (tmp_path / "cache" / "reading").iterdir()
    assert len(list(kept.iterdir())) == 1
    dragoman.fit_crossing(sae, world.target, features=[3], **how)
    assert "going on after 1 batches of texts that were read before" in said
    assert len(reads) == 6 and not list((tmp_path / "cache" / "reading").iterdir())
