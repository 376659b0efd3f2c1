"""Batches read by workers that are scripted: sums are the single reading's to the bit, whoever ends when."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.core import Refusal
from dragoman.maps.aligned import Aligned
from dragoman.models.aligned import Documents, read_aligned
from dragoman.models.in_order import TRIES, InOrder, Piece
from dragoman.models.paired import ReadingOptions
from dragoman.models.pairing import Pairing, Pairs
from dragoman.runs.crossings import fit_crossing
from dragoman.store.spool import Spool
from planted_readers import PlantedPair, planted_pair, same_everything
from small_world import World

SMALL = ReadingOptions(first=1, batch_size=16)


@pytest.fixture(scope="module")
def pair() -> PlantedPair:
    return planted_pair()


class Scripted:
    """Workers that end at ``poison``, and half of the time at anything, and answer in any order."""

    def __init__(self, pair: PlantedPair, poison: str = "nowhere", *, ends: bool = False, ahead: int = 4) -> None:
        self.pair, self.poison, self.ends, self.ahead = pair, poison, ends, ahead
        self.read, self.chance, self.most = 0, random.Random(0), 0

    def pairs(self, deal: InOrder[Documents], typical: Mapping[str, float], options: ReadingOptions) -> Iterator[Pairs]:
        both: dict[str, Any] = {"source": self.pair.source, "target": self.pair.target}
        pairing, busy, found = Pairing(**both, typical=typical, options=options), list[Piece](), 0
        while not deal.over:
            while len(busy) < 3 and (piece := deal.next()) is not None:
                busy.append(piece)
            self.most = max(self.most, max((one.number for one in busy), default=0) - found)
            if busy:
                piece = busy.pop(self.chance.randrange(len(busy)))
                documents = deal.pieces[piece.number]
                died = self.ends and piece.lost < TRIES - 1 and self.chance.random() < 0.5
                if died or any(self.poison in one.text for one in documents):
                    deal.lost(piece, "killed")
                else:
                    self.read += 1
                    deal.said(piece, Pairs.of(pairing.pairs(documents).kept))
            for pairs in deal.whole():
                found += 1
                yield pairs


def read(pair: PlantedPair, **how: Any) -> Aligned:
    return read_aligned(pair.source, pair.target, pair.texts, pair.encoder, options=SMALL, **how)  # type: ignore[arg-type]


def bytes_of(found: Aligned, folder: Path) -> dict[str, bytes]:
    found.save(folder)
    files = [path for path in sorted([folder, *folder.rglob("*")]) if path.is_file()]
    assert files
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.parametrize("ends", [False, True])
def test_sums_are_the_single_readings_whoever_ends(pair: PlantedPair, tmp_path: Path, ends: bool) -> None:
    workers, seen = Scripted(pair, ends=ends), list[tuple[int, int]]()
    found = read(pair, workers=workers, progress=lambda done, of: seen.append((done, of)))
    assert bytes_of(found, tmp_path / "dealt") == bytes_of(read(pair), tmp_path / "single")
    assert workers.read == 10 and workers.most < workers.ahead
    assert seen == [*((k, 150) for k in range(16, 150, 16)), (150, 150)]


def test_on_a_device_they_are_too(pair: PlantedPair) -> None:
    same_everything(read(pair, workers=Scripted(pair), device="cpu"), read(pair, device="cpu"), 0, 0)


def test_a_batch_that_ends_everyone_is_named_and_what_was_read_is_kept(pair: PlantedPair, tmp_path: Path) -> None:
    with pytest.raises(Refusal) as told:
        read(pair, workers=Scripted(pair, poison=pair.texts[149]), spool=Spool(tmp_path / "spool"))
    numbers, _, rest = str(told.value).removeprefix("texts ").partition(" (counted from 1): ")
    assert "150" in numbers.split(", ") and len(numbers.split(", ")) == 16
    assert rest.startswith("each of 3 workers ended that was to read them (killed); look without --on")
    spool = Spool(tmp_path / "spool")
    workers = Scripted(pair)
    same_everything(read(pair, workers=workers, spool=spool), read(pair), 0, 0)
    assert 0 < spool.there == 10 - workers.read


@given(st.integers(0, 9), st.integers(1, 5), st.integers(0, 2**32))
def test_pieces_come_back_once_in_order_and_never_too_far_ahead(count: int, ahead: int, seed: int) -> None:
    chance = random.Random(seed)
    kept = {k: -k for k in range(count) if chance.random() < 0.3}
    deal, busy, found = InOrder(range(count), ahead, named=str, kept=kept.get), list[Piece](), list[int]()
    while not deal.over:
        while deal.waiting and (piece := deal.next()) is not None:
            busy.append(piece)
        assert len(busy) <= ahead
        if busy:
            piece = busy.pop(chance.randrange(len(busy)))
            if piece.lost < TRIES - 1 and chance.random() < 0.4:
                deal.lost(piece, "killed")
            else:
                deal.said(piece, piece.number)
        found += deal.whole()
    assert found == [kept.get(k, k) for k in range(count)]


def test_a_map_on_pooled_rows_is_not_dealt(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dragoman.runs.crossings.check_on", lambda *_: None)  # ray need not be installed
    with pytest.raises(Refusal, match="^--on ray with --map post: what is read token by token alone is dealt"):
        fit_crossing(world.request().open(), world.target, map="post", on="ray", texts=world.root / "texts.txt")
