"""A run of two readings with everything the viewer shows, made without a model, and a client of its server."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from dragoman.embed import Embedder, LexicalEmbedder
from dragoman.records import TokenWindow
from dragoman.store import RunFolder, digest
from dragoman.store.firing import write_tokens
from dragoman.view.opened import Viewed
from report_fixture import HOSTILE, TOPICS

PORT = 8765
HERE = f"http://127.0.0.1:{PORT}"
TOPIC = list(TOPICS.values())
STATUSES = ("ok", "weak", "unverified", "differs")
HOSTILE_ID, LONG_ID, RARE_ID, ODD_ID = "5", "6", "7", "../../etc/passwd?x=1&y=<b>"
TURNED = "\u202egnorw si siht\u202c \x1b[31m\x07 end"
WHY = {
    "ok": "both routes agree on it",
    "weak": "little of it crossed",
    "unverified": "it fires too rarely",
    "differs": "its two readings differ",
}


def said(topic: str, other: str) -> str:
    return (
        f"Text about {topic}, for general readers.\n\nThe salient word is “{other}”.\n\nThe final token is “{topic}”."
    )


def text_of(k: int, condition: str, sample: int, feature: str) -> str:
    if feature == HOSTILE_ID:
        return f"{HOSTILE} {TURNED}"
    if feature == LONG_ID:
        return "many words. " * 17_000
    other = TOPIC[(k + (3 if condition == "fires" else 7) + sample) % 45]
    return said(TOPIC[k % 45], other)


def manifest_of(ids: list[str], **more: Any) -> dict[str, Any]:
    common = {"washout": "on-shell", "verbalizer": "some/av"}
    return {
        "dragoman": "0.1.0",
        "source": "gemma-2-2b:20",
        "target": "some/target:12",
        "dictionary": {"ref": "np:gemma-2-2b/20-gemmascope-res-16k"},
        "conditions": [
            {"name": "fires", "route": "direct", "reading": "fires", "role": "claim", **common},
            {"name": "writes", "route": "map", "reading": "writes", "role": "claim", **common},
            {"name": "random_washed", "route": "map", "role": "null", "null": "random directions", **common},
        ],
        "features": ids,
        "plan_digest": digest("viewed", *ids),
        "about": {"too_rare": {"least": 20, "documents": {RARE_ID: 8.2}}},
        **more,
    }


def card_of(k: int, condition: str, ids: list[str]) -> dict[str, Any]:
    status = STATUSES[k % 4]
    return {
        "coverage": 0.3 + 0.01 * k, "n_eff": 85.4, "agreement": 0.4, "margin": 0.2, "nearest": ids[(k + 1) % len(ids)],
        "home_nearest": "40404",
        "status": status, "why": WHY[status], "route": "direct" if condition == "fires" else "map",
    }  # fmt: skip


def rows_of(ids: list[str]) -> list[dict[str, Any]]:
    rows = []
    for condition in ("fires", "writes"):
        for k, feature in enumerate(ids):
            if condition == "fires" and feature == RARE_ID:
                continue
            for sample in range(2):
                text = text_of(k, condition, sample, feature)
                rows.append({
                    "feature": feature, "label": f"mentions of {TOPIC[k % 45]}" if k % 3 == 0 else "",
                    "kind": "feature", "condition": condition, "sample": sample, "text": text, "raw": text,
                    "problems": ["repeats itself"] if feature == LONG_ID else [], "tokens": 90,
                    "log_probability": -1.2, "card": card_of(k, condition, ids),
                })  # fmt: skip
    for k in range(4):
        rows.append({
            "feature": f"random-{k}", "label": "", "kind": "random", "condition": "random_washed", "sample": 0,
            "text": said("nothing", "noise"), "raw": "", "problems": [], "tokens": 9, "log_probability": None,
            "card": None,
        })  # fmt: skip
    return rows


def scores_of(ids: list[str]) -> dict[str, Any]:
    claims: dict[str, list[Any]] = {"fires": [], "writes": []}
    sure: dict[str, list[Any]] = {"fires": [], "writes": []}
    for name in claims:
        for k, feature in enumerate(ids):
            if feature in (HOSTILE_ID, LONG_ID) or (name, feature) == ("fires", RARE_ID):
                continue
            first, second, third = text_of(k, name, 0, feature).split("\n\n")
            common = {"why": "of what was measured", "figures": {}, "quoted": []}
            claims[name].append({
                "feature": feature, "label": f"About {TOPIC[k % 45]}",
                "claims": [
                    {"sentence": first, "kind": "theme", "status": "supported", **common},
                    {"sentence": second, "kind": "words", "status": "unchecked", **common},
                    {"sentence": third, "kind": "token", "status": "unsupported", **common},
                ],
            })  # fmt: skip
            chance = round(0.05 + 0.9 * ((7 * k) % len(ids)) / len(ids), 3)
            sure[name].append({
                "feature": feature, "probability": chance, "answered": chance > 0.6, "member": "direct",
                "why": [{"evidence": "coverage", "adds": chance - 0.6}],
            })  # fmt: skip
    member = {"needs": ["n_eff"], "reads": ["coverage"], "threshold": 0.6}
    return {
        "format": 2,
        "embedder": "words",
        "claims": claims,
        "confidence": {"embedder": "words", "members": {"direct": member}, "per_feature": sure},
    }


def window_of(text: str) -> TokenWindow:
    """Words as tokens: the first was not read, the last fires most, "day" less than a quarter of that."""
    ends = [match.end() for match in re.finditer(r"\S+", text)]
    at = [k for k, end in enumerate(ends) if text[:end].endswith((" day,", "valley."))] or [len(ends) - 1]
    fires = [1.25, 7.5][-len(at) :]
    return TokenWindow(
        ends=tuple(ends), at=tuple(at), fires=tuple(fires), unread=(0,), before="<i>Once. ", after=" & so on."
    )


def make_run(
    path: Path, count: int = 60, *, scored: bool = True, odd: bool = False, tokens: bool = True, **more: Any
) -> RunFolder:
    """A run of ``count`` features; ``odd``: the last has an id that no path could hold; ``tokens``: lit by them."""
    ids = [str(k) for k in range(count - odd)] + ([ODD_ID] if odd else [])
    run = RunFolder.create(path, manifest_of(ids, **more))
    run.append(rows_of(ids))
    if scored:
        run.write_scores(scores_of(ids))
    firing = {
        feature: {
            "firing": [HOSTILE if feature == HOSTILE_ID else f"They spoke of {TOPIC[k % 45]} all day, of the valley."],
            "silent": ["Nothing."],
            "words": {TOPIC[k % 45].split()[-1].lower(): 0.62, "valley": 0.1, ",": 0.03},
            "forms": {},
        }
        for k, feature in enumerate(ids)
    }
    run.write_contexts(firing)
    if tokens:
        write_tokens(run, {feature: [window_of(text) for text in own["firing"]] for feature, own in firing.items()})
    words = {f: {"source": [" wheat", "<b>", "\n"], "carried": [" wheat", " rye"]} for f in ids}
    run.write_lens({"writes": words})
    vectors = np.random.default_rng(0).standard_normal((count, 300)).astype(np.float32)
    vectors[1] = vectors[0] + 0.3 * vectors[1]
    run.write_vectors({"source": vectors})
    return run


def words_alone() -> Embedder:
    """An embedder that needs no model."""
    return LexicalEmbedder(width=512)


def viewed(run: RunFolder, name: str = "run") -> Viewed:
    return Viewed(run, name, words_alone)


def client_of(*views: Viewed) -> Any:
    from starlette.testclient import TestClient

    from dragoman.view.app import app_of

    return TestClient(app_of(views, PORT), base_url=HERE)


@contextmanager
def serving(view: Viewed) -> Iterator[int]:
    """A real server of a run on this machine; its port."""
    import uvicorn

    from dragoman.view.app import app_of, bound

    listening = bound(0)
    port = listening.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(app_of([view], port), log_level="error", lifespan="off"))
    thread = threading.Thread(target=lambda: server.run(sockets=[listening]))
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield port
    server.should_exit = True
    thread.join()
    listening.close()
    view.close()
