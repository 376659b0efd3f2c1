"""Every malformed file is refused in one sentence, runs nothing, takes no time and no memory."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import fuzz
from dragoman.core import Refusal
from malformed import CANARY, Case, corpus
from nursery import Nursery
from whole_files import READERS, SAMPLES

CORPUS = corpus()
BOMBS = [case for case in CORPUS if case.bomb]
SECONDS = 2.0  # of the processor: the machine may be busy with other things
MEGABYTES = 400  # that a bomb may make its reader's process grow


def one_sentence(said: str, case: Case) -> None:
    assert fuzz.fault_of(said) is None, said
    assert re.search(case.said, said), f"{case.said!r} does not match {said!r}"


@pytest.fixture(scope="module", autouse=True)
def readers_are_loaded(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What a reader imports the first time is not the file's doing; and whole files are read."""
    for sample in SAMPLES:
        READERS[sample.reader](sample.make(tmp_path_factory.mktemp("whole")))


@pytest.mark.parametrize("case", [c for c in CORPUS if not c.bomb], ids=lambda case: case.name)
def test_it_is_refused_in_one_sentence(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # where a canary would sit
    (tmp_path / "case").mkdir()
    path = case.make(tmp_path / "case")
    start = time.process_time()
    with fuzz.broken_off(), pytest.raises(Refusal) as refusal:
        READERS[case.reader](path)
    assert time.process_time() - start < SECONDS
    one_sentence(str(refusal.value), case)
    assert not list(tmp_path.rglob(CANARY))


@pytest.fixture(scope="module")
def defused(nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What was said of each bomb in a process of limited memory: a bare one, and for heavy ones one with torch."""
    command = [sys.executable, str(Path(__file__).with_name("malformed.py")), "light"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    log = tmp_path_factory.mktemp("defused") / "heavy"
    code = nursery.run(["heavy"], log=log, SCRIPT="malformed")
    assert code == 0, log.with_suffix(".err").read_text()[-2000:]
    said = done.stdout + log.with_suffix(".out").read_text()
    return {row["name"]: row for row in map(json.loads, said.splitlines())}


@pytest.mark.parametrize("case", BOMBS, ids=lambda case: case.name)
def test_a_bomb_is_refused_and_not_unpacked(case: Case, defused: dict[str, dict[str, Any]]) -> None:
    found = defused[case.name]
    one_sentence(found["said"], case)
    assert found["seconds"] < SECONDS and found["megabytes"] < MEGABYTES, found


def test_the_corpus_is_as_large_as_it_should_be() -> None:
    assert len(CORPUS) >= 300 and len(BOMBS) >= 25
    assert {case.reader for case in CORPUS} == set(READERS)


def test_a_short_fuzz_finds_nothing() -> None:
    every = fuzz.wholes()
    count = 12 * len(every)
    found = list(fuzz.shift(every, 7, 0, count, time.monotonic() + 60, bytearray(8)))
    faults = [(number, name, words) for number, name, outcome, words in found if outcome == "fault"]
    assert not faults, faults
    outcomes = [outcome for _, _, outcome, _ in found]
    # A fuzz whose files are all read, or all refused at the door, looks at nothing.
    assert len(found) == count and outcomes.count("read") > count / 10 and outcomes.count("refused") > count / 4


def test_a_seed_always_makes_the_same_files() -> None:
    every = fuzz.wholes(torch=False)
    first, again, other = (fuzz.case(every, seed, 40)[1] for seed in (1, 1, 2))
    assert first == again != other


def test_a_fault_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def reader(path: Path) -> None:
        raise ValueError(f"planted, {len(path.read_bytes())} bytes")

    whole = fuzz.wholes("txt")[0]
    monkeypatch.setitem(READERS, "texts", reader)
    outcome, words = fuzz.tried("texts", fuzz.put(tmp_path, whole, whole.files))
    assert outcome == "fault" and "ValueError: planted" in words
    for said in ("two\nlines.", "no full stop", "x" * 700 + "."):
        monkeypatch.setitem(READERS, "texts", lambda path, said=said: (_ for _ in ()).throw(Odd(said)))
        assert fuzz.tried("texts", tmp_path)[0] == "fault"


def test_a_reader_that_kills_its_process_is_a_finding_and_the_fuzz_goes_on(tmp_path: Path) -> None:
    code = (
        "import argparse, os, sys\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "import fuzz\n"
        "from pathlib import Path\n"
        "every = fuzz.wholes('txt')\n"
        "fuzz.wholes = lambda only: every\n"
        "fuzz.READERS['texts'] = lambda path: os.abort() if len(path.read_bytes()) < 8 else None\n"
        "told = dict(seconds=60, seed=3, iterations=60, save=Path(sys.argv[2]), only='txt')\n"
        "sys.exit(fuzz.fuzz(argparse.Namespace(**told)))\n"
    )
    command = [sys.executable, "-c", code, str(Path(__file__).parent), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and "the process ended with status" in done.stderr, done.stderr[-2000:]
    assert re.search(r"seed 3: 60 files, [1-9]\d* findings", done.stdout)
    kept = [folder / "files/a.txt" for folder in tmp_path.iterdir()]
    assert kept and all(len(path.read_bytes()) < 8 for path in kept)


class Odd(Refusal):
    def __init__(self, said: str) -> None:
        self.said = said

    def __str__(self) -> str:
        return self.said
