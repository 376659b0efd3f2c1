"""The viewer under load: how long a first index takes, and how long searches and pages of 65,536 features.

A run is made by the store's own writers: two readings of every feature, cards, confidences, windows with the
activations of their tokens, lens words and directions. The index is made by ``dragoman view`` in a process of its own,
then a client asks the running server over loopback, one request after the other. Times are the 95th percentile of the
whole request, in milliseconds; processor times and the load of the machine stand beside, as a busy machine makes
everything wait.

A search by meaning embeds what is asked, and goes through the embeddings of all features. These are drawn here, unit
rows of the embedder's width: no time depends on what they are, and to make them takes what ``texts_a_second`` tells,
measured on 512 of the run's texts. Pages are asked for before and after, as they name what is alike once it is there.

    python bench/viewer.py [--features 65536] [--requests 200]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import resource
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

import httpx
import numpy as np

from dragoman.models.embedder import SentenceEmbedder
from dragoman.records import TokenWindow
from dragoman.store import RunFolder, digest
from dragoman.store.firing import write_tokens

RESULTS = Path(__file__).parent / "results" / "viewer.json"
WIDTH = 576  # of the source's stream
WORDS = 20_000  # known to the texts, drawn by Zipf's law
LENGTH = 130  # words of a text
BATCH = 2048
STATUSES = ("ok", "weak", "unverified", "differs")
FEW = (2, 3)  # syllables of a word


def vocabulary(rng: np.random.Generator) -> np.ndarray:
    """Different pronounceable words."""
    syllables = [a + b + c for a in "bdfgklmnprstv" for b in "aeiou" for c in ("", "n", "r", "s", "l")]
    made = dict.fromkeys("".join(rng.choice(syllables, rng.integers(*FEW, endpoint=True))) for _ in range(3 * WORDS))
    return np.array(list(made)[:WORDS])


def card(k: int, reading: str, status: str, draws: np.ndarray) -> dict:
    """Diagnostics of one feature, as both of its readings have them but for the route."""
    return {
        "coverage": float(draws[0]), "kappa": float(draws[1]), "norm": 1.1, "rel": float(draws[2]),
        "coverage_over_random": 0.97, "coverage_over_dictionary": 0.4, "n_eff": float(500 * draws[3]),
        "agreement": float(draws[4]), "margin": float(draws[4] - 0.2), "nearest": str((k * 7919) % 65_536),
        "status": status, "why": "both routes agree on it", "route": "direct" if reading == "fires" else "map",
        "route_why": "it is read where it fires" if reading == "fires" else "its row is read as the map carries it",
    }  # fmt: skip


def token_window(text: str, rng: np.random.Generator) -> TokenWindow:
    """A window whose words are its tokens, at five of which the feature fires."""
    ends = np.cumsum([len(word) + 1 for word in text.split(" ")]) - 1
    at = np.sort(rng.choice(len(ends), 5, replace=False))
    fires = tuple(round(float(one), 3) for one in rng.uniform(0.1, 9, 5))
    return TokenWindow(ends=tuple(ends.tolist()), at=tuple(at.tolist()), fires=fires)


def make_run(path: Path, features: int, seed: int = 0) -> RunFolder:
    """A run of this many features, by the store's own writers."""
    rng = np.random.default_rng(seed)
    words, chance = vocabulary(rng), 1 / np.arange(1, WORDS + 1) ** 1.05
    ids = [str(k) for k in range(features)]
    conditions = [
        {"name": name, "route": route, "washout": "on-shell", "verbalizer": "av", "reading": name, "role": "claim"}
        for name, route in (("fires", "direct"), ("writes", "map"))
    ]
    run = RunFolder.create(path, {
        "dragoman": "0.1.0", "source": "source:20", "target": "target:12", "conditions": conditions, "features": ids,
        "plan_digest": digest("bench", str(features), str(seed)), "dictionary": {"ref": "bench"},
    })  # fmt: skip
    confidence: dict[str, list] = {"fires": [], "writes": []}
    contexts, lens, tokens = {}, {}, {}
    with run.writing() as file:
        for first in range(0, features, BATCH):
            some = ids[first : first + BATCH]
            drawn = words[rng.choice(WORDS, (len(some), 2, LENGTH), p=chance / chance.sum())]
            numbers = rng.uniform(0.05, 0.98, (len(some), 7))
            rows = []
            for reading, name in enumerate(("fires", "writes")):
                for k, feature in enumerate(some):
                    said, status = drawn[k, reading], STATUSES[(first + k) % 4]
                    text = (
                        f"Text about {' '.join(said[:12])}.\n\nThe salient words are “{said[12]}” and "
                        f"“{said[13]}”: {' '.join(said[14:90])}.\n\nThe final token is “{said[90]}”; "
                        f"{' '.join(said[91:])}."
                    )
                    rows.append({
                        "feature": feature, "label": "", "kind": "feature", "condition": name, "sample": 0,
                        "text": text, "raw": text, "problems": [], "tokens": 170, "log_probability": -1.1,
                        "card": card(first + k, name, status, numbers[k]),
                    })  # fmt: skip
                    chance_right = float(numbers[k, 5 + reading])
                    confidence[name].append({
                        "feature": feature, "probability": chance_right, "answered": chance_right > 0.6,
                        "member": "direct", "why": [{"evidence": "coverage", "adds": chance_right - 0.6}],
                    })  # fmt: skip
            for k, feature in enumerate(some):
                firing = [" ".join(drawn[k, 0, at : at + 30]) for at in range(0, 100, 20)]
                tokens[feature] = [token_window(text, rng) for text in firing]
                shares = {str(drawn[k, 0, 3]): 0.6, str(drawn[k, 0, 7]): 0.2}
                contexts[feature] = {"firing": firing, "silent": firing[:2], "words": shares, "forms": {}}
                lens[feature] = {"source": list(drawn[k, 0, :20]), "carried": list(drawn[k, 1, :20])}
            file.append(rows)
    run.write_contexts(contexts)
    write_tokens(run, tokens)
    run.write_lens({"writes": lens})
    member = {"needs": ["n_eff"], "reads": ["coverage"], "threshold": 0.6}
    run.write_scores({
        "format": 2, "embedder": "all-MiniLM-L6-v2",
        "confidence": {"embedder": "all-MiniLM-L6-v2", "members": {"direct": member}, "per_feature": confidence},
    })  # fmt: skip
    run.write_vectors({"source": rng.standard_normal((features, WIDTH)).astype(np.float32)})
    return run


def asked(rng: np.random.Generator, count: int, seed: int = 0) -> list[str]:
    """Searches as people make them: rare and frequent words, two words, beginnings of words, filters, later pages."""
    words = vocabulary(np.random.default_rng(seed))
    made = []
    for k in range(count):
        rare, frequent = str(words[rng.integers(50, WORDS)]), str(words[rng.integers(0, 50)])
        made.append([
            f"q={rare}", f"q={frequent}", f"q={rare}+{frequent}", f"q={frequent[:3]}",
            f"q={frequent}&status=ok&trust=answered", f"q=%22{frequent}%22&condition=writes&sort=sure",
            f"status=weak&sort=unsure&page={rng.integers(1, 200)}", f"q=text+about&page={rng.integers(1, 200)}",
        ][k % 8])  # fmt: skip
    return made


def asked_by_meaning(rng: np.random.Generator, count: int) -> list[str]:
    """Searches by meaning: words, sentences, with filters, later pages; no two are the same."""
    words, made = vocabulary(np.random.default_rng(0)), []
    for k in range(count):
        said = "+".join(str(one) for one in rng.choice(words, (2, 6, 15)[k % 3]))
        more = ("", "&status=ok", "&condition=writes", f"&page={rng.integers(1, 20)}", "&trust=answered&least=0.7")
        made.append(f"by=meaning&q={said}{more[k % 5]}")
    return made


def draw_meaning(path: Path, features: int) -> float:
    """Embeddings beside the run's index, as the viewer keeps them; how many texts are embedded a second."""
    embedder, rng = SentenceEmbedder(), np.random.default_rng(2)
    with closing(sqlite3.connect(path / "index.sqlite")) as database:
        (state,) = database.execute("SELECT value FROM meta WHERE key = 'state'").fetchone()
        texts = [text for (text,) in database.execute("SELECT gist FROM texts LIMIT 512")]
    width = embedder.encode(["width"]).shape[1]
    start = time.perf_counter()
    embedder.encode(texts)
    a_second = len(texts) / (time.perf_counter() - start)
    rows = np.memmap(path / "meaning.f32", np.float32, "w+", shape=(features, width))
    for first in range(0, features, BATCH):
        some = rng.standard_normal((min(BATCH, features - first), width)).astype(np.float32)
        rows[first : first + BATCH] = some / np.linalg.norm(some, axis=1, keepdims=True)
    rows.flush()
    told = {"state": state, "embedder": embedder.name, "width": width, "done": features}
    (path / "meaning.json").write_text(json.dumps(told))
    return a_second


def timed(client: httpx.Client, addresses: list[str], **headers: str) -> list[float]:
    """Milliseconds that each address took."""
    took = []
    for address in addresses:
        start = time.perf_counter()
        answer = client.get(address, headers=headers)
        took.append(1000 * (time.perf_counter() - start))
        answer.raise_for_status()
    return took


def processor_seconds(process: int) -> float:
    """Processor time of a process so far, all of its threads; 0 where the system does not tell."""
    told = Path(f"/proc/{process}/stat")
    if not told.exists():
        return 0.0
    fields = told.read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Make, index, ask, tell."""
    words = argparse.ArgumentParser()
    words.add_argument("--features", type=int, default=65_536)
    words.add_argument("--requests", type=int, default=200)
    words.add_argument("--run", type=Path, help="a folder to make the run in, or one that was made there before")
    asks = words.parse_args()
    with tempfile.TemporaryDirectory() as place:
        path = asks.run or Path(place) / "run"
        if not path.exists():
            make_run(path, asks.features)
        (path / "index.sqlite").unlink(missing_ok=True)
        start = time.perf_counter()
        server = subprocess.Popen(
            [sys.executable, "-m", "dragoman", "view", str(path), "--port", "0"], stdout=subprocess.PIPE, text=True
        )
        try:
            told = server.stdout.readline() if server.stdout else ""
            index_seconds = time.perf_counter() - start
            found = re.search(r"http://\S+/", told)
            if found is None:
                raise SystemExit(f"the viewer said {told!r}")
            index_cpu = processor_seconds(server.pid)
            embedded = draw_meaning(path, asks.features)
            measured = measure(found[0], path.name, asks.features, asks.requests, server.pid)
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(20)
        size = (path / "index.sqlite").stat().st_size
    result = {
        "features": asks.features,
        "index_seconds": round(index_seconds, 1),
        "index_cpu_seconds": round(index_cpu, 1),
        **measured,
        "requests": asks.requests,
        "texts_a_second": round(embedded),
        "load_average": round(os.getloadavg()[0], 1),
        "index_megabytes": round(size / 1e6),
        "peak_megabytes": round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e3),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    }
    print(json.dumps(result, indent=2))
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")


def measure(base: str, name: str, features: int, requests: int, process: int) -> dict[str, float]:
    """95th percentiles of searches by words, of pages, of searches by meaning, and of pages once there is meaning.

    The first of each is asked twice, as it opens files.
    """
    rng = np.random.default_rng(1)
    with httpx.Client(base_url=base, timeout=60) as client:
        searches = [f"/{name}/features?{query}" for query in asked(rng, requests)]
        pages = [f"/{name}/feature?id={rng.integers(0, features)}" for _ in range(requests)]
        timed(client, [searches[0], pages[0]])
        spent = -processor_seconds(process)
        search_ms, page_ms = timed(client, searches, **{"HX-Request": "true"}), timed(client, pages)
        spent += processor_seconds(process)
        by_meaning = [f"/{name}/features?{query}" for query in asked_by_meaning(rng, requests)]
        while "cosine with what was asked" not in client.get(by_meaning[0]).text:
            time.sleep(0.5)  # it opens the embedder
        timed(client, pages[:1])
        spent -= processor_seconds(process)
        meaning_ms = timed(client, by_meaning, **{"HX-Request": "true"})
        page_meaning_ms = timed(client, pages)
        spent += processor_seconds(process)
    for times, addresses in ((search_ms, searches), (meaning_ms, by_meaning)):
        slowest = max(zip(times, addresses, strict=True))
        print(f"slowest search: {slowest[1]}, {slowest[0]:.0f} ms", file=sys.stderr)
    return {
        "search_ms": round(float(np.percentile(search_ms, 95)), 1),
        "meaning_ms": round(float(np.percentile(meaning_ms, 95)), 1),
        "page_ms": round(float(np.percentile(page_ms, 95)), 1),
        "page_meaning_ms": round(float(np.percentile(page_meaning_ms, 95)), 1),
        "search_median_ms": round(float(np.median(search_ms)), 1),
        "meaning_median_ms": round(float(np.median(meaning_ms)), 1),
        "page_median_ms": round(float(np.median(page_ms)), 1),
        "page_meaning_median_ms": round(float(np.median(page_meaning_ms)), 1),
        "cpu_ms_a_request": round(1000 * spent / (4 * requests), 1),
    }


if __name__ == "__main__":
    main()
