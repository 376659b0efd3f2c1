"""A run folder as a finished run leaves it, made without a model: 45 features under seven conditions.

Statuses, routes and what was read back are made by the code that makes them in a run, so that the page is tested on
the shapes it will meet.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import asdict
from functools import cache, partial
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from dragoman.core import Directions, Site
from dragoman.maps.cards import choose, status_of
from dragoman.records import Card
from dragoman.report import write_page
from dragoman.scores import FORMAT
from dragoman.stats import reconstruct
from dragoman.store import RunFolder, digest

HOSTILE = (
    '</p></article><script>alert("x")</script>\n\n<img src=x onerror=alert(1)> {{ 7*7 }} "&amp;\n\nhttp://example.org/'
)
TOPICS = {
    "agriculture": "beekeeping", "animals": "birds of prey", "architecture": "cathedrals", "art": "oil painting",
    "astronomy": "black holes", "biology": "cell division", "chemistry": "acids and bases", "computing": "databases",
    "cooking": "baking bread", "crime": "bank robbery", "death": "cemeteries", "economics": "supply and demand",
    "education": "university exams", "energy": "wind turbines", "environment": "deforestation", "family": "siblings",
    "fashion": "tailoring suits", "film": "movie soundtracks", "finance": "stock markets", "food": "tropical fruit",
    "games": "chess", "geography": "volcanoes", "history": "the Industrial Revolution", "home": "house cleaning",
    "language": "sign language", "law": "constitutional rights", "literature": "fairy tales", "love": "love letters",
    "mathematics": "prime numbers", "medicine": "heart surgery", "music": "jazz improvisation", "ocean": "lighthouses",
    "philosophy": "free will", "plants": "mushrooms", "politics": "elections", "psychology": "memory",
    "religion": "prayer", "sports": "marathon running", "technology": "satellites", "time": "calendars",
    "transport": "aviation pilots", "travel": "train journeys", "war": "naval battles", "weather": "snow storms",
    "work": "job interviews",
}  # fmt: skip
# condition: (route, washout, verbalizer, mean lift, spread of lift, share naming the category)
CONDITIONS: dict[str, tuple[str, str, str, float, float, float]] = {
    "native": ("identity", "none", "source-av", 0.0, 0.0, 0.63),
    "plain": ("map (ridge)", "none", "target-av", 0.134, 0.1, 0.33),
    "washed": ("map (ridge)", "mix 0.30", "target-av", 0.249, 0.11, 0.71),
    "direct": ("direct", "mix 0.30", "target-av", 0.286, 0.08, 0.97),
    "random_plain": ("map (ridge)", "none", "target-av", 0.004, 0.025, 0.03),
    "random_washed": ("map (ridge)", "mix 0.30", "target-av", 0.002, 0.025, 0.02),
    "procrustes_washed": ("map (procrustes)", "mix 0.30", "target-av", 0.049, 0.06, 0.10),
}
VOID = {"meta", "link", "img", "br", "hr", "input"}  # of HTML; drawings close their own
RULE = (
    "An explanation names a category when one of that category’s words, fixed beforehand, stands in it as a whole word."
)


def _text(topic: str, category: str, rng: np.random.Generator) -> str:
    words = [str(w) for w in rng.choice([*" ".join(TOPICS.values()).split()], 5, replace=False)]
    return (
        f"Text about {topic} ({category}), written as an explanation for general readers: it opens with a definition "
        f"and turns to how people meet {topic} in daily life.\n\n"
        f"The salient words of the passage are “{topic.split()[-1]}”, “{words[0]}” and “{words[1]}”; the tone is even, "
        f"the sentences long, and an example from {words[2]} follows.\n\n"
        f"The final word is “{topic.split()[0]}”; what comes next is probably “and the {words[3]} of {words[4]}”."
    )


def _estimate(values: np.ndarray, null: str, what: str = "feature-specific lift") -> dict[str, Any]:
    half = 2.015 * values.std(ddof=1) / np.sqrt(len(values))
    mean = float(values.mean())
    return {
        "value": mean, "low": mean - float(half), "high": mean + float(half), "n": len(values), "level": 0.95,
        "p": 1e-4 if abs(mean) > half else 0.41, "statistic": what, "null": null, "unit": "feature",
        "method": "Intervals are Student’s t over features; p is two-sided, from 9,999 permutations.", "extra": {},
    }  # fmt: skip


def _pairs(count: int) -> list[tuple[str, str]]:
    """(category, topic) of every feature; topics come round again after 45."""
    return [list(TOPICS.items())[k % len(TOPICS)] for k in range(count)]


def _manifest(count: int) -> dict[str, Any]:
    features = {str(100 + 37 * k): item for k, item in enumerate(_pairs(count))}
    conditions = [
        {"name": name, "route": how[0], "washout": how[1], "verbalizer": how[2]}
        | ({"null": "random directions"} if name.startswith("random") else {})
        for name, how in CONDITIONS.items()
    ]
    ridge = {"n": 160, "fve_unit": 0.41, "centred_cosine": 0.638, "raw_cosine": 0.987, "constant_cosine": 0.979}
    rotation = {"n": 160, "fve_unit": 0.27, "centred_cosine": 0.531, "raw_cosine": 0.984, "constant_cosine": 0.979}
    return {
        "dragoman": "0.1.0",
        "source": "tiny-smollm2:20",
        "target": "tiny-gemma:12",
        "dictionary": {"ref": "tiny-sae", "digest": digest("dictionary")},
        "conditions": conditions,
        "features": list(features),
        "settings": {"washout": 0.3, "ridge_lambda": 100.0, "held_out": 0.2, "max_new_tokens": 200, "labels": None},
        "digests": {"texts": digest("texts"), "map": digest("map"), "background": digest("background")},
        "verbalizers": {
            "source-av": {
                "checkpoint": "tiny-smollm2-av",
                "contract": "kitft",
                "dtype": "bfloat16",
                "weights": digest("a"),
            },
            "target-av": {
                "checkpoint": "tiny-gemma-av",
                "contract": "kitft",
                "dtype": "bfloat16",
                "weights": digest("b"),
            },
        },
        "versions": {"python": "3.11.7", "numpy": "2.3.1", "torch": "2.13.0", "transformers": "5.23.0"},
        "seeds": {"split": 0, "random directions": 1, "permutations": 2},
        "plan_digest": digest("plan"),
        "map_report": {
            "ridge": {**ridge, "top1": 0.594, "shuffled_fve": -0.32},
            "procrustes": {**rotation, "top1": 0.319, "shuffled_fve": -0.18},
        },
        "background": {"spread": 0.14, "constant_cosine": 0.927, "on_shell_degrees": 22.0},
        "feature_info": {
            feature: {"category": category, "topic": topic, "top_tokens": [f" {w}" for w in topic.split()] + [category]}
            for feature, (category, topic) in features.items()
        },
    }


def _cards(features: list[str], rng: np.random.Generator) -> dict[str, dict[str, Any]]:
    """A card per feature with every diagnostic; the second is not watched, of few the readings differ."""
    cards = {}
    for k, feature in enumerate(features):
        n_eff = None if k == 1 else float(rng.uniform(8, 240))
        seen = n_eff is not None and n_eff >= 20
        margin = float(rng.normal(0.15, 0.09)) if seen else None
        card: dict[str, Any] = {
            "coverage": float(rng.uniform(0.6, 0.98)),
            "kappa": float(rng.uniform(0.85, 0.99)),
            "norm": 1.21 + k / 100,
            "rel": float(rng.uniform(0.66, 0.99)),
            "cycle": float(rng.uniform(0.3, 0.9)),
            "purity": None,
            "coverage_over_random": float(rng.uniform(0.7, 1.0)),
            "coverage_over_dictionary": float(rng.uniform(0.05, 1.0)),
            "cycle_over_dictionary": float(rng.uniform(0.2, 1.0)),
            "n_eff": n_eff,
            "agreement": 0.3 + margin if margin is not None else None,
            "margin": margin,
            "nearest": features[(k + 1) % len(features)] if seen else None,
            "home_agreement": 0.9 if seen else None,
            "home_margin": 0.5 - 0.02 * k if seen else None,
            "home_nearest": features[(k + 2) % len(features)] if seen else None,
        }
        known = Card(**card)
        card["status"], card["why"] = status_of(known)
        card["route"], card["route_why"] = choose(known) if k % 3 == 0 else ("map", "it was asked for")
        cards[feature] = card
    return cards


def _rows(rng: np.random.Generator, judged: dict[str, list[dict[str, Any]]], manifest: dict[str, Any]) -> list[dict]:
    features, rows = manifest["features"], []
    pairs, cards = _pairs(len(features)), _cards(features, rng)
    for name, how in CONDITIONS.items():
        control = name.startswith("random")
        for k, feature in enumerate(features):
            category, topic = pairs[k]
            named = bool(rng.random() < how[5])
            if not named:
                category, topic = _pairs(45)[(k + int(rng.integers(1, 45))) % 45]
            identity = f"random-{k}" if control else feature
            text = HOSTILE if (name, k) == ("washed", 3) else _text(topic, category, rng)
            problems = [str(rng.choice(["no closing tag", 'fallback "e.g."', "repeats itself"]))]
            rows.append({
                "feature": identity, "label": identity if control else f"{pairs[k][1]} and the like",
                "kind": "random" if control else "feature", "condition": name, "sample": 0, "text": text,
                "raw": f"<explanation>{text}", "problems": problems if rng.random() < 0.03 else [], "tokens": 93,
                "log_probability": None,
                "card": cards[feature] if name in ("plain", "washed") else None,
            })  # fmt: skip
            lift = float(np.clip(rng.normal(how[3] if named or control else how[3] / 3, how[4]), -0.15, 0.6))
            entry = {"feature": identity, "lift": lift, "names_category": named}
            judged[name].append({k: v for k, v in entry.items() if name != "native" or k != "lift"})
    return rows


def _reconstruction(source: str, features: tuple[str, ...]) -> dict[str, Any]:
    """What a reconstructor made of every condition of features: cosines planted, judged as a run's are."""
    rng, site = np.random.default_rng(11), Site.parse(source)
    directions = Directions.of(site, rng.standard_normal((len(features), 96)), features)
    table, rows = [], {}
    # A page shows the p; ten thousand draws of hundreds of features would take a second each.
    few = patch.object(reconstruct, "dealt_estimate", partial(reconstruct.dealt_estimate, permutations=400))
    for name, found in {"native": 0.5, "plain": 0.12, "washed": 0.3, "direct": 0.34}.items():
        own = np.diag(found * rng.uniform(0.2, 1.2, len(features)))
        s = own + rng.normal(0.0, 0.07, (len(features), len(features)))
        with few:
            estimates = reconstruct.reconstruction_estimates(s, directions, rng=rng)
        table.append({"condition": name, "n": len(features), **{k: asdict(e) for k, e in estimates.items()}})
        rows[name] = reconstruct.per_direction(s, directions)
    words = {"reconstructor": "tiny-smollm2-ar", "site": str(site), "identity": {"layout": "kitft"}}
    return {**words, "table": table, "per_feature": rows}


def _scores(judged: dict[str, list[dict[str, Any]]], manifest: dict[str, Any]) -> dict[str, Any]:
    table, lifts = [], {}
    for entry in manifest["conditions"]:
        name = entry["name"]
        named = np.array([e["names_category"] for e in judged[name]], float)
        rate = float(named.mean())
        chance = CONDITIONS["random_plain" if name == "plain" else "random_washed"][5]
        row: dict[str, Any] = {"condition": name, "route": entry["route"], "washout": entry["washout"]}
        middle, half = (rate + 1.921 / 45) / 1.0854, 1.96 * np.sqrt(rate * (1 - rate) / 45 + 0.000474) / 1.0854
        ends = {"low": float(max(middle - half, 0.0)), "high": float(min(middle + half, 1.0))}
        row["category"] = {**_estimate(named, "the rate of random directions", "share"), **ends, "random": chance}
        if name != "native":
            lifts[name] = np.array([e["lift"] for e in judged[name]])
            row["lift"] = _estimate(lifts[name], "native texts shuffled between features")
        table.append(row)
    paired = [
        {"what": "washed minus plain", **_estimate(lifts["washed"] - lifts["plain"], "signs flipped", "difference")},
        {"what": "direct minus washed", **_estimate(lifts["direct"] - lifts["washed"], "signs flipped", "difference")},
    ]
    return {
        "format": FORMAT,
        "embedder": "all-MiniLM-L6-v2",
        "rule": RULE,
        "table": table,
        "paired": paired,
        "per_feature": judged,
        "reconstruction": _reconstruction(manifest["source"], tuple(manifest["features"])),
    }


def whole_row(**fields: Any) -> dict[str, Any]:
    """A row of ``rows.jsonl`` with these fields; the others are as a run writes them where there is nothing to say."""
    row = {"feature": "1", "label": "", "kind": "feature", "condition": "plain", "sample": 0, "text": "t", "raw": ""}
    return {**row, "problems": [], "tokens": 1, "log_probability": None, "card": None, **fields}


def whole_estimate(value: float = 0.1, low: float = 0.0, high: float = 0.2, **fields: Any) -> dict[str, Any]:
    """An estimate of ``scores.json`` with these fields."""
    words = {"statistic": "lift", "null": "deals", "unit": "features", "method": "t"}
    return {"value": value, "low": low, "high": high, "p": 0.001, "n": 9, **words, **fields}


def build_run(
    path: Path,
    *,
    scored: bool = True,
    without: tuple[str, ...] = (),
    info: bool = True,
    labels: str | None = None,
    count: int = len(TOPICS),
) -> RunFolder:
    """Write a run of ``count`` features to ``path``.

    With or without scores and feature_info, without the conditions named, with ``labels`` of an export.
    """
    whole, judged, every = _written(count)
    manifest = deepcopy(whole)
    manifest["settings"]["labels"] = labels
    rows = [row for row in every if row["condition"] not in without]
    manifest["conditions"] = [c for c in manifest["conditions"] if c["name"] not in without]
    if not info:
        del manifest["feature_info"]
    run = RunFolder.create(path, manifest)
    run.append(rows)
    if scored:
        scores = dict(_scored(count))
        scores["table"] = [row for row in scores["table"] if row["condition"] not in without]
        scores["per_feature"] = {name: entries for name, entries in judged.items() if name not in without}
        run.write_scores(scores)
    return run


@cache
def _written(count: int) -> tuple[dict[str, Any], dict[str, list[dict[str, Any]]], list[dict[str, Any]]]:
    """Manifest, what was judged and rows of every condition: only read, by every run that is made of them."""
    manifest, judged = _manifest(count), {name: [] for name in CONDITIONS}
    return manifest, judged, _rows(np.random.default_rng(7), judged, manifest)


@cache
def _scored(count: int) -> dict[str, Any]:
    """Scores of every condition: only read."""
    manifest, judged, _ = _written(count)
    return _scores(judged, manifest)


class Page(HTMLParser):
    """Reads a page strictly: every tag that opens closes, in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.blocks: dict[str, str] = {}
        self.feed(text)
        self.close()
        assert not self.open, f"left open: {self.open}"
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> closes another tag, line {self.getpos()[0]}"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("script", "style"):
            self.blocks[self.open[-1]] = data
        else:
            self.words.append(data)

    def having(self, tag: str, **wanted: str) -> list[dict[str, str | None]]:
        return [a for t, a in self.tags if t == tag and all(v in (a.get(k) or "").split() for k, v in wanted.items())]


def page_of(run: RunFolder, out: Path) -> Page:
    return Page(write_page(run, out).read_text(encoding="utf-8"))
