"""Batches read by workers that are scripted: sums are the single reading's to the bit, whoever ends when."""

from __future__ import annotations

import random
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.core import Refusal, Talk
from dragoman.dictionaries import open_dictionary
from dragoman.maps.aligned import Aligned
from dragoman.models import ray_reading, ray_workers
from dragoman.models.aligned import Documents, read_aligned
from dragoman.models.harvest import PILOT, Reader, pilot_texts
from dragoman.models.in_order import TRIES, InOrder, Piece
from dragoman.models.paired import ReadingOptions, distinct
from dragoman.models.pairing import Pairing, Pairs
from dragoman.models.ray_workers import Cluster
from dragoman.runs import crossings, readings
from dragoman.runs.crossings import fit_crossing
from dragoman.store.spool import Spool
from planted_readers import TEXTS, PlantedPair, planted_pair, same_everything
from small_world import World
from tiny_checkpoints import CORPUS

SMALL = ReadingOptions(first=1, batch_size=16)
READ = [f"{' '.join(CORPUS)[7 * (i % 40) : 7 * (i % 40) + 60 + i]} number {i}" for i in range(90)]


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


class Ended(Exception):
    """What Ray raises of a worker that ended."""


class InOneProcess:
    """What of Ray is used, in this process: each answer is made when it is waited for, the last asked one first.

    Workers end at what is named in ``ends``, once each, and whenever they read ``poison`` beforehand.
    """

    def __init__(self, ends: Sequence[str] = (), poison: str | None = None) -> None:
        self.ends, self.poison, self.kinds, self.told = list(ends), poison, list[type](), list[str]()
        errors = {"RayTaskError": type("RayTaskError", (Exception,), {}), "RayError": Ended}
        self.exceptions = SimpleNamespace(**errors)

    def remote(self, kind: type) -> Any:
        self.kinds.append(kind)
        return SimpleNamespace(options=lambda **_: SimpleNamespace(remote=lambda: self._actor(kind())))

    def _actor(self, one: Any) -> Any:
        def method(name: str) -> Any:
            return SimpleNamespace(remote=lambda *given: (name, partial(getattr(one, name), *given)))

        return SimpleNamespace(**{name: method(name) for name in ("open", "pilot", "read")})

    def wait(self, refs: Sequence[Any], **_: Any) -> tuple[list[Any], list[Any]]:
        return [refs[-1]], list(refs[:-1])

    def get(self, ref: Any) -> Any:
        self.told.append(ref[0])
        if ref[0] in self.ends:
            self.ends.remove(ref[0])
            raise Ended("killed")
        if ref[0] == "pilot" and self.poison in ref[1].args[1]:
            raise Ended("killed")
        return ref[1]()

    def kill(self, _worker: Any) -> None:
        """There is nothing to end."""


@pytest.fixture
def fitted(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, bytes]]:
    """A crossing's files, read here or by workers of a Ray in this process."""

    def made(name: str, ray: InOneProcess | None = None, texts: Sequence[str] = READ) -> dict[str, bytes]:
        monkeypatch.setenv("DRAGOMAN_CACHE", str(tmp_path / "cache" / name))
        if ray is not None:
            monkeypatch.setattr(ray_workers, "ray_of", lambda: ray)
            monkeypatch.setattr(crossings, "check_on", lambda *_: None)  # ray need not be installed
            monkeypatch.setattr(crossings, "cluster", lambda *_: nullcontext(Cluster(2, 1, "ray")))
            monkeypatch.setattr(readings, "open_both", None)  # what workers read needs no model here
        shutil.rmtree(tmp_path / name, ignore_errors=True)
        how: dict[str, Any] = {"texts": texts, "on": "ray" if ray else None, "talk": Talk(say=lambda _: None)}
        fit_crossing(open_dictionary(world.sae, site=world.source), world.target, **how).save(tmp_path / name)
        return {path.name: path.read_bytes() for path in (tmp_path / name).rglob("*") if path.is_file()}

    return made


def test_workers_read_what_this_process_would(fitted: Callable[..., dict[str, bytes]]) -> None:
    """Some end while they open, while they read the first few texts, and while they read."""
    whole, ray = fitted("single"), InOneProcess(["open", "pilot", "read", "read"])
    assert fitted("dealt", ray) == whole and len(whole) > 3
    assert not ray.ends and ray.told.count("read") == 3 + 2 and ray.told.count("pilot") == 2 + 1
    assert set(ray.kinds) == {ray_reading._Worker}
    again = InOneProcess()
    assert fitted("dealt", again) == whole and not again.kinds, "what is there already needs no worker"


def test_workers_that_always_end_are_refused(fitted: Callable[..., dict[str, bytes]]) -> None:
    with pytest.raises(Refusal, match="^reading with .*llama and .*gemma: 3 workers ended, one after another, while"):
        fitted("opening", InOneProcess(["open"] * 9))


def test_a_folder_too_deep_for_sockets_is_told_from_a_cluster_that_does_not_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def init(**_: Any) -> None:
        raise OSError(
            "validate_socket_filename failed: AF_UNIX path length cannot exceed 107 bytes: /deep/plasma_store"
        )

    constants, worker = SimpleNamespace(), SimpleNamespace()
    private = SimpleNamespace(ray_constants=constants, worker=worker)
    ray = SimpleNamespace(is_initialized=lambda: False, init=init, shutdown=lambda: None, _private=private)
    monkeypatch.setattr(ray_workers, "ray_of", lambda *_: ray)
    monkeypatch.setattr(ray_workers, "check_on", lambda *_: None)
    told = r"^--on ray: .*/deep/plasma_store\); name a folder with a short path .*RAY_TMPDIR=/tmp"
    with pytest.raises(Refusal, match=told), ray_workers.cluster("ray", 1, "cpu", Talk()):
        pass


def test_texts_read_first_that_always_end_workers_are_named_and_can_be_left_out(
    fitted: Callable[..., dict[str, bytes]],
) -> None:
    """All at once: one left out alone has another read in its place, which tells nothing of the others."""
    texts = [*READ[:4], " ", READ[0], *READ[4:]]  # a blank one and a copy, which keep their places
    first = {READ[i] for i in pilot_texts(READ, PILOT)}
    mine = [k for k, text in enumerate(texts, 1) if text in first]
    ray = InOneProcess(poison=texts[mine[-1] - 1])
    with pytest.raises(Refusal) as told:
        fitted("pilot", ray, texts)
    named, _, rest = str(told.value).partition(", read first by ")
    assert named == f"texts {', '.join(map(str, mine))} (counted from 1)"
    assert re.match(r"\S+llama: each of 3 workers ended that was to read them \(killed\); look without --on", rest)
    assert rest.endswith(
        "or leave out all of these at once: others are then read first, and if they end workers too, "
        "it is not the texts."
    )
    assert ray.told.count("pilot") == TRIES
    assert fitted("others", ray, [text for text in texts if text not in first])


def test_rows_of_a_device_come_back_as_they_are_read_on_the_host(readers: tuple[Reader, Reader]) -> None:
    documents, _ = distinct(TEXTS)
    both: dict[str, Any] = {"source": readers[0], "target": readers[1], "options": ReadingOptions()}
    host, device = (Pairing(**both, typical={"source": 9e9, "target": 9e9}, stay=stay) for stay in (False, True))
    (want, counts), (found, counted) = (
        host.pairs(documents).kept,
        device.pairs(documents, device.prepared(documents)).kept,
    )
    assert counts == counted and len(want["x"]) and want.keys() == found.keys()
    for name, rows in want.items():
        assert isinstance(found[name], np.ndarray)
        np.testing.assert_array_equal(found[name], rows, err_msg=name)


def test_a_map_on_pooled_rows_is_not_dealt(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crossings, "check_on", lambda *_: None)
    with pytest.raises(Refusal, match="^--on ray with --map post: what is read token by token alone is dealt"):
        fit_crossing(world.request().open(), world.target, map="post", on="ray", texts=world.root / "texts.txt")
