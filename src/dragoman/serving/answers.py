"""What is open, asked: a request's explanations with what each rests on.

In: an `Opened`, a request's body. Out: an ``Answer``; ``Health``. Refuses what `Opened` refuses.
"""

from __future__ import annotations

import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from dragoman.core import NO_LENGTH, Refusal, Talk
from dragoman.report.opened import Manifest
from dragoman.runs.build import versions
from dragoman.runs.opened import Opened
from dragoman.runs.run import FeatureExplanation, Run
from dragoman.serving.asked import Answer, Bounds, Confidence, Explained, Health
from dragoman.serving.worker import Check, Worker
from dragoman.store import plain
from dragoman.store.spans import shown

_TOLD = ("map_report", "digests", "about")  # of a manifest, besides its settings


def kinds_of(opened: Opened) -> tuple[str, ...]:
    """What may be asked for of what is open."""
    there = {
        "features": opened.dictionary is not None,
        "vectors": opened.alone is not None,
        "prompts": opened.reader is not None,
    }
    return tuple(kind for kind, is_there in there.items() if is_there)


def answer(opened: Opened, asked: Any, bounds: Bounds, check: Check) -> Answer:
    """Explain what is asked for.

    Args:
        opened: used by nobody else meanwhile.
        asked: the body, of a model of `asked.request_model`.
        bounds: of tokens of prompts.
        check: called between batches; raises to end the work.

    Raises:
        Refusal: something asked for is not as it must be.
    """
    start = time.monotonic()
    how = {name: getattr(asked, name) for name in ("samples", "max_new_tokens", "seed")}
    opened.progress.now = Talk(bar=lambda _what, _done, _total: check())
    try:
        with tempfile.TemporaryDirectory(prefix="dragoman-answer-") as folder:
            out = Path(folder) / "run"
            if (ids := getattr(asked, "features", None)) is not None:
                run = opened.features(_once(ids), out, **how)
            elif (rows := getattr(asked, "vectors", None)) is not None:
                run = opened.vectors(_finite(rows), out, **how)
            else:
                told = [one.model_dump() for one in _short(asked.prompts, bounds)]
                run = opened.prompts(told, out, most=bounds.vectors, **how)
            return _answer(run, time.monotonic() - start)
    finally:
        opened.progress.now = Talk()


def _once(ids: list[str]) -> list[str]:
    if twice := next((one for k, one in enumerate(ids) if one in ids[:k]), None):
        raise Refusal(f"feature {shown(twice)}", "it is named twice", "name it once")
    return ids


def _finite(rows: list[list[float]]) -> Any:
    """Rows as float32; refuse, by the vector's number, those beyond it and those without a direction."""
    with np.errstate(over="ignore"):
        found = np.asarray(rows, dtype=np.float32)
    if not np.isfinite(found).all():
        row = int(np.flatnonzero(~np.isfinite(found).all(axis=1))[0])
        raise Refusal(f"vector {row}", "it holds a number too large for float32", "scale it down")
    lengths = np.linalg.norm(found.astype(np.float64), axis=1)
    for bad, why, instead in (
        (lengths > np.finfo(np.float32).max, "its length is beyond float32", "scale it down"),
        (lengths < NO_LENGTH, "it is zero, so it has no direction", "leave it out"),
    ):
        if bad.any():
            raise Refusal(f"vector {int(np.argmax(bad))}", why, instead)
    return found


def _short(prompts: list[Any], bounds: Bounds) -> list[Any]:
    length = sum(len(one.text) for one in prompts)
    if length > bounds.characters:
        why = f"at most {bounds.characters} are read at once"
        raise Refusal(f"prompts of {length} characters", why, "shorten them, or ask for some at a time")
    return prompts


def _answer(run: Run, seconds: float) -> Answer:
    manifest = Manifest.of(run.manifest, "the manifest")
    told = manifest.verbalizers or {}
    by = told["by"].checkpoint if "by" in told else None
    return Answer(
        dragoman=version("dragoman"),
        source=manifest.source,
        target=manifest.target,
        verbalizer=by or str(run.manifest["conditions"][0].get("verbalizer", "")),
        settings=_settings(run),
        explanations=tuple(_explained(one) for one in run.explanations()),
        map_doubt=manifest.about.map if manifest.about else None,
        too_rare={name: manifest.too_rare(name) or "" for name in manifest.all_too_rare},
        background=manifest.about.background if manifest.about else {},
        seconds=round(seconds, 3),
    )


def _settings(run: Run) -> dict[str, object]:
    """How the texts were made: options alone, no places of files."""
    names = ("reading", "route", "map", "washout", "samples", "temperature", "max_new_tokens", "seed", "dtype")
    settings = run.manifest.get("settings") or {}
    return {name: settings[name] for name in names if name in settings}


def _explained(one: FeatureExplanation) -> Explained:
    sure = None
    if one.confidence is not None:
        sure = Confidence(probability=one.confidence, answered=bool(one.answered))
    return Explained(
        feature=one.feature,
        label=one.label,
        condition=one.condition,
        reading=one.reading,
        sample=one.sample,
        text=one.text,
        problems=one.problems,
        log_probability=one.log_probability,
        short=one.short,
        claims=one.claims,
        card=one.card,
        confidence=sure,
        token=one.token,
    )


def health(opened: Opened, bounds: Bounds, worker: Worker) -> Health:
    """What is served, and how busy it is."""
    crossing = opened.crossing
    how = {"recipe": crossing.recipe, "map": crossing.map.method if crossing.map else None}
    told = {} if crossing.map is None else {"held_out": plain(crossing.map.report["held_out"])}
    dictionary = opened.dictionary
    return Health(
        status="ok",
        dragoman=version("dragoman"),
        source=str(opened.source),
        target=str(opened.by.site),
        width=opened.width,
        asks=kinds_of(opened),
        dictionary=None if dictionary is None else f"{dictionary.name}, {dictionary.d_sae} features",
        crossing={**how, **told, "digests": dict(crossing.digests)},
        verbalizer={"name": opened.by.name, **plain(opened.by.identity)},
        versions=versions(),
        bounds={name: float(getattr(bounds, name)) for name in bounds.__slots__},
        busy=worker.busy,
        waiting=worker.waiting,
    )
