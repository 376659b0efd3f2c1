"""Runs of 65,536 features: said, resumed, killed, judged and shown, with no model: ``python bench/many_features.py``.

What is measured is what stays when the verbalizer and the sentence embedder cost nothing. The verbalizer answers by a
digest of the vector: a topic and words out of a pool, as trained verbalizers word them, no two texts alike. The
embedder places texts and windows by the topic they name. Rows are random directions of width 576, said natively and
once more with cards; 256 directions of nothing stand beside, and every feature has five windows of either kind.

Each step is a process of its own: ``seconds`` of its work, without its imports and without what these two stand-ins
take (``stand_in_seconds``), ``ms_per_feature``, the same of the processor's time, as a busy machine makes everything
wait, and ``peak_gib``, the most memory of the process, torch and all other imports in it. ``--features 300`` rehearses,
and writes nothing.

    python bench/many_features.py [--features 65536] [--scratch FOLDER]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import resource
import signal
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import dragoman.models.embedder as embedders
from dragoman.core import Directions, Explanation, Floats, Site, Talk
from dragoman.records import Card
from dragoman.report.page import write_page
from dragoman.runs.build import RunBuilder, refuse_ended
from dragoman.runs.options import Options
from dragoman.scoring import score_run
from dragoman.store import RunFolder, write_json

RESULTS = Path(__file__).parent / "results" / "many_features.json"
SOURCE, TARGET = Site.parse("bench/source:20"), Site.parse("bench/target:12")
WIDTH, TOPICS, WORDS, NOTHING, WINDOWS = 576, 512, 4000, 256, 5
PLACES = 384  # the width of all-MiniLM-L6-v2
GIB = 2**30


def word(number: int) -> str:
    """A pronounceable word of its own for each number."""
    syllables = [a + b for a in "bdfgklmnprstvz" for b in "aeiou"]
    return "".join(syllables[number // len(syllables) ** place % len(syllables)] for place in range(3))


VOCABULARY = [word(k) for k in range(WORDS)]


def text_of(number: int) -> str:
    """A verbalizer's text: a theme, words that stand out, a final token; by a number of 64 bits."""
    rng = np.random.default_rng(number)
    topic, (first, second, last) = number % TOPICS, rng.integers(0, WORDS, 3)
    more = " ".join(VOCABULARY[k] for k in rng.integers(0, WORDS, 40).tolist())
    return (
        f"Passages about {word(topic)} and {more}.\n\nThe salient words are “{word(int(first))}” and "
        f"“{word(int(second))}”.\n\nThe final token is “{word(int(last))}”; what follows is {word(number % 9973)}."
    )


class Spent:
    """Wall clock's and processor's seconds that both stand-ins took themselves, which are none of the run's."""

    seconds, cpu = 0.0, 0.0

    def __enter__(self) -> None:
        """From now on."""
        Spent.seconds -= time.perf_counter()
        Spent.cpu -= time.process_time()

    def __exit__(self, *_of: object) -> None:
        """Until now."""
        Spent.seconds += time.perf_counter()
        Spent.cpu += time.process_time()


class Scripted:
    """A verbalizer that costs nothing. ``dies``: how many vectors it says before its process is killed."""

    width, together = WIDTH, 256

    def __init__(self, name: str, site: Site, dies: int | None = None) -> None:
        """By name, at a site."""
        self.name, self.site, self._left = name, site, dies

    @property
    def identity(self) -> dict[str, object]:
        """Its name decides all it says."""
        return {"name": self.name}

    def verbalize(self, vectors: Any, **_how: Any) -> list[Explanation]:
        """A text for each row, by its bytes."""
        if self._left is not None:
            self._left -= len(vectors)
            if self._left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
        with Spent():
            return [self._said(np.ascontiguousarray(row, np.float32)) for row in vectors]

    def _said(self, row: Floats) -> Explanation:
        number = int.from_bytes(hashlib.blake2b(row.tobytes(), digest_size=8).digest(), "little")
        text = text_of(number)
        return Explanation(text=text, raw=f"<explanation>{text}</explanation>", tokens=90, log_probability=-1.2)


class Placed:
    """An embedder that costs next to nothing: a place for each topic that a text's third word names, and some noise."""

    name = "places"

    def __init__(self, **_how: Any) -> None:
        """As the packaged embedder is opened."""
        rng = np.random.default_rng(5)
        self._topics = {word(k): row for k, row in enumerate(rng.standard_normal((TOPICS, PLACES)).astype(np.float32))}
        self._noise = rng.standard_normal((4096, PLACES)).astype(np.float32)

    def encode(self, texts: Sequence[str]) -> Floats:
        """(n, 384) float32 unit rows."""
        with Spent():
            return self._rows(texts)

    def _rows(self, texts: Sequence[str]) -> Floats:
        rows = np.empty((len(texts), PLACES), np.float32)
        for row, text in zip(rows, texts, strict=True):
            row[:] = self._noise[zlib.crc32(text.encode()) % 4096]
            if (topic := self._topics.get((text.split(" ", 3) + [""] * 3)[2])) is not None:
                row += topic
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def windows_of(features: int) -> dict[str, Any]:
    """Where features fire and are silent; the topics are those that the texts name."""
    rng, found = np.random.default_rng(1), dict[str, Any]()
    rows = directions(features).unit
    for k in range(features):
        own = Scripted("", SOURCE)._said(rows[k]).text.split(" ", 3)[2]
        kinds = {}
        for kind in ("firing", "silent"):
            drawn = rng.integers(0, WORDS, (WINDOWS, 20)).tolist()
            told = own if kind == "firing" else word(int(rng.integers(0, TOPICS)))
            kinds[kind] = [f"There, about {told} " + " ".join(VOCABULARY[k] for k in some) for some in drawn]
        found[str(k)] = kinds | {"words": {own: 0.5, word(k % WORDS): 0.3}, "forms": {own: 0.5}}
    return found


def directions(features: int) -> Directions:
    """The rows of a dictionary."""
    rows = np.random.default_rng(0).standard_normal((features, WIDTH)).astype(np.float32)
    return Directions.of(SOURCE, rows, [str(k) for k in range(features)])


def say(folder: Path, features: int, dies: int | None = None) -> RunFolder:
    """Have everything said that is not yet, as ``explain`` does."""
    rows = directions(features)
    noise = np.random.default_rng(9).standard_normal((NOTHING, WIDTH)).astype(np.float32)
    nothing = Directions.of(TARGET, noise, [f"random {k}" for k in range(NOTHING)])
    numbers = np.random.default_rng(2).uniform(0.05, 0.98, (features, 6)).tolist()
    cards = [
        Card(
            coverage=a, kappa=b, norm=1.1, rel=c, cycle=d, coverage_over_random=0.9, coverage_over_dictionary=e,
            n_eff=500 * f, agreement=a, margin=b, nearest=str(k % 97), status="ok", why="both routes agree on it",
        )
        for k, (a, b, c, d, e, f) in enumerate(numbers)
    ]  # fmt: skip
    builder = RunBuilder(directions=rows, backgrounds={}, target=TARGET)
    builder.add("native", rows, route="identity", washout="none", by="native")
    arrived = Directions.of(TARGET, rows.unit, rows.ids)
    builder.add("plain", arrived, route="map", washout="none", cards=cards, keep_bare=True)
    builder.add("random", nothing, route="map", washout="none", null="random directions")
    verbalizers = {"by": Scripted("by", TARGET), "native": Scripted("native", SOURCE, dies)}
    run = builder.write(folder, verbalizers, Options(washout="none"), Talk(), {})
    return refuse_ended(run)


def judge(folder: Path) -> None:
    """What ``dragoman score`` does, by an embedder that costs nothing."""
    embedders.SentenceEmbedder = Placed
    score_run(RunFolder.open(folder), seed=0)


def step(name: str, folder: Path, features: int) -> None:
    """One step in this process; what it took, as a line of JSON."""
    windows = windows_of(features) if name == "windows" else {}
    start, before = time.perf_counter(), time.process_time()
    if name == "windows":
        RunFolder.open(folder).write_contexts(windows)
    elif name == "judge":
        judge(folder)
    elif name == "page":
        write_page(RunFolder.open(folder), folder / "page.html")
    else:
        say(folder, features, features // 2 if name == "killed" else None)
    took, cpu = time.perf_counter() - start - Spent.seconds, time.process_time() - before - Spent.cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB
    print(json.dumps({
        "seconds": round(took, 1), "cpu_seconds": round(cpu, 1),
        "ms_per_feature": round(1000 * took / features, 3), "cpu_ms_per_feature": round(1000 * cpu / features, 3),
        "peak_gib": round(peak, 2), "stand_in_seconds": round(Spent.seconds, 1),
    }))  # fmt: skip


def measured(name: str, folder: Path, features: int) -> dict[str, float]:
    """A step in a process of its own; nothing of one that is killed."""
    words = [sys.executable, __file__, "--step", name, "--scratch", f"{folder}", "--features", f"{features}"]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True)
    if name == "killed":
        if done.returncode != -signal.SIGKILL:
            raise SystemExit(f"it was to be killed, and ended with {done.returncode}")
        return {}
    if done.returncode:
        raise SystemExit(f"{name} ended with {done.returncode}")
    found = json.loads(done.stdout.splitlines()[-1])
    print(f"{name:8} {json.dumps(found)}", flush=True)
    return found


def main() -> None:
    """What is asked."""
    words = argparse.ArgumentParser()
    words.add_argument("--features", type=int, default=65_536)
    words.add_argument("--scratch", type=Path, help="a new folder for the runs, some 2 GB")
    words.add_argument("--step", help=argparse.SUPPRESS)
    asked = words.parse_args()
    if asked.step:
        step(asked.step, asked.scratch, asked.features)
    else:
        every(asked.features, asked.scratch, write=asked.features == words.get_default("features"))


def every(features: int, scratch: Path | None, *, write: bool) -> None:
    """All steps, one after the other; ``write``: into the results."""
    with tempfile.TemporaryDirectory() as place:
        whole, half = ((scratch or Path(place)) / name for name in ("whole", "half"))
        steps = {name: measured(name, whole, features) for name in ("say", "windows", "resume")}
        measured("killed", half, features)
        steps["resume_half"] = measured("half", half, features)
        same = (whole / "rows.jsonl").read_bytes() == (half / "rows.jsonl").read_bytes()
        steps |= {name: measured(name, whole, features) for name in ("judge", "page")}
        sizes = {one.name: round(one.stat().st_size / 1e6) for one in whole.iterdir() if one.suffix}
    result = {
        "features": features,
        "steps": steps,
        "same_rows_after_kill": same,
        "megabytes": sizes,
        "load_average": round(os.getloadavg()[0], 1),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
    }
    print(json.dumps(result, indent=2))
    if write:
        write_json(RESULTS, result)


if __name__ == "__main__":
    main()
