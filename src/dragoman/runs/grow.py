"""A run that is there: gone on with, or grown by features that it lacks; refused where it is another run.

In: the folder of a run, what is asked for now, the manifest of what is to be said. Out: which features are left to say,
the folder to write their rows into, and after how many rows they come. Refuses a run that was asked for otherwise,
naming what differs, and growing one that is not finished.

A run grows part by part. Rows of a part stand behind those of the parts before, and are the rows that a run of that
part alone would make: batches and their seeds begin anew. Scores are of the features that were there, so they go.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dragoman.core import Refusal
from dragoman.dictionaries import Features
from dragoman.records import ENDED, SOURCE_ROWS, TokenWindow
from dragoman.store import RunFolder, digest, plain, read_arrays, write_json
from dragoman.store.firing import read_tokens, write_tokens
from dragoman.store.runs import PLAN, ROWS_PLAN, SCORES
from dragoman.store.spans import shown

PARTS = "parts"
# What of the settings decides rows, whatever the rest says; a reading that nobody names is both.
_SETTINGS = ("reading", "route", "washout", "samples", "temperature", "max_new_tokens", "batch_size", "seed")
_INSTEAD = "name a new folder, or ask for the same run to go on with it"
_LOOKED_AT, _SAME = (
    8,
    1e-5,
)  # rows that are read again, and how far unit rows may differ by the precision they are read in
_VECTORS = "vectors.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Features that were asked for together, how many rows they have, and the digest of the plan that makes these."""

    features: tuple[str, ...]
    rows: int
    plan: str


def parts_of(manifest: Mapping[str, Any]) -> list[Part]:
    """The parts of a run, one for a run that has not grown."""
    whole = {"features": manifest.get("features", ()), "rows": manifest.get("rows", 0), "plan": manifest[PLAN]}
    return [
        Part(features=tuple(one["features"]), rows=int(one["rows"]), plan=str(one["plan"]))
        for one in manifest.get(PARTS) or [whole]
    ]


def left_of(out: Path, chosen: Features) -> Features:
    """What is to be said: the features that the run there lacks; where it lacks none, those of its last part.

    Raises:
        Refusal: some are lacking, and the run there is not finished, or the dictionary holds other rows now.
    """
    if not RunFolder.written(out):
        return chosen
    found = RunFolder.open(out)
    parts, asked = parts_of(found.manifest), chosen.directions.ids
    known = {name for part in parts for name in part.features}
    aside = [name for name in dict.fromkeys(_background(found.manifest)) if name not in known]
    if new := [name for name in asked if name not in known and name not in aside]:
        _refuse_unfinished(found)
        _refuse_changed(found, chosen)
    # What was set aside is carried and set aside again: what is read may depend on all that was asked for.
    wanted = tuple(new) or (*parts[-1].features, *(aside if len(parts) == 1 else ()))
    if [name for name in wanted if name not in aside] == [name for name in asked if name not in aside]:
        return chosen
    if set(wanted) <= set(asked):
        return replace(chosen, directions=chosen.directions.pick(wanted))
    return replace(chosen.dictionary.features(wanted), by_id=frozenset())


def _background(manifest: Mapping[str, Any]) -> list[str]:
    """Features that a run set aside in some condition because nothing but background was carried of them."""
    told = (manifest.get("about") or {}).get("background") or {}
    return [name for some in told.values() for name in some]


def _refuse_unfinished(run: RunFolder) -> None:
    # A row that ended its workers is there without a text, and only its own command says it again.
    there = sum(ENDED not in (row.get("problems") or ()) for row in run.each_row())
    all_of_it = int(run.manifest.get("rows", 0))
    if there < all_of_it:
        raise Refusal(
            f"more features for {run.path}",
            f"the run there is not finished ({there} of {all_of_it} rows)",
            "run its own command again first, or name a new folder",
        )


def _refuse_changed(run: RunFolder, chosen: Features) -> None:
    """Refuse a dictionary of other rows or another encoder by now: a folder may change where it lies under its name."""
    _refuse_changed_rows(run, chosen)
    files = (run.manifest.get("dictionary") or {}).get("files")
    if files not in (None, chosen.dictionary.fingerprint()):
        why = "the files of its dictionary are not those that the run was made with"
        raise Refusal(f"more features for {run.path}", why, "name a new folder")


def _refuse_changed_rows(run: RunFolder, chosen: Features) -> None:
    kept = run.vectors()[0].get(SOURCE_ROWS) if run.has_vectors else None
    if kept is None:
        return
    names = [str(name) for name in run.manifest["features"]]
    some = names[:_LOOKED_AT]
    now = chosen.dictionary.features(some).directions
    for name, row in zip(now.ids, now.unit, strict=True):
        if not np.allclose(kept[names.index(name)], row, rtol=0, atol=_SAME):
            why = f"feature {shown(name)} of its dictionary has another row now than when the run was made"
            raise Refusal(f"more features for {run.path}", why, "name a new folder")


def begun(out: Path, manifest: Mapping[str, Any], *, grows: bool) -> tuple[RunFolder, int]:
    """The folder that rows go into, and how many rows of earlier parts it holds.

    ``manifest``: of the features that are to be said now. ``grows``: whether they may be others than those there.

    Raises:
        Refusal: the folder holds another run, or other files.
    """
    if not RunFolder.written(out):
        return RunFolder.create(out, manifest), 0
    found = RunFolder.open(out)
    parts = parts_of(found.manifest)
    before = sum(part.rows for part in parts[:-1])
    if parts[-1].plan == manifest[PLAN]:
        return (RunFolder.create(out, manifest) if len(parts) == 1 else found), before
    refuse_another(out, manifest)
    if not grows or set(manifest["features"]) & {name for part in parts for name in part.features}:
        return RunFolder.create(out, manifest), 0  # which refuses, by its digest
    _refuse_unfinished(found)
    return _grown(found, manifest, parts), before + parts[-1].rows


def refuse_another(out: Path, manifest: Mapping[str, Any]) -> None:
    """Refuse a folder that holds a run asked for otherwise, naming the first thing that differs.

    ``manifest``: as much of it as is known; what it leaves out is not compared.
    """
    if not RunFolder.written(out):
        return
    before, now = _compared(RunFolder.open(out).manifest), _compared(manifest)
    for name, value in now.items():
        if name in before and before[name] != value:
            was, own = shown(before[name], 40), shown(value, 40)
            why = f"it holds another run (its {name} is {was}, and {own} is asked for)"
            raise Refusal(f"output folder {out}", why, _INSTEAD)


def _compared(manifest: Mapping[str, Any]) -> dict[str, object]:
    """What two parts of one run have in common, each under a name that a sentence can have."""
    told = json.loads(json.dumps(plain(manifest)))
    found = {name: told[name] for name in ("source", "target") if name in told}
    settings = told.get("settings") or {}
    found |= {name: settings[name] for name in _SETTINGS if name in settings}
    if "reading" in found and found.get("route") is None:
        found["reading"] = found["reading"] or "both"
    for name in ("verbalizers", "digests"):
        found |= {f"{name[:-1]} {key}": value for key, value in (told.get(name) or {}).items()}
    for one in told.get("conditions") or []:
        found[f"condition {one['name']}"] = [one.get(key) for key in ("route", "washout", "verbalizer", "reading")]
    dictionary = told.get("dictionary") or {}
    if where := dictionary.get("at") or dictionary.get("digest"):  # of one on the hub, the digest is of rows asked for
        found["dictionary"] = where
    return found


def _grown(run: RunFolder, manifest: Mapping[str, Any], parts: Sequence[Part]) -> RunFolder:
    """The run with another part announced; its scores go."""
    new = Part(features=tuple(manifest["features"]), rows=int(manifest["rows"]), plan=str(manifest[PLAN]))
    merged = _merged(run.manifest, manifest) | {
        PLAN: digest(run.plan, new.plan),
        ROWS_PLAN: run.rows_plan,
        PARTS: [{"features": list(p.features), "rows": p.rows, "plan": p.plan} for p in (*parts, new)],
    }
    with run.locked():
        (run.path / SCORES).unlink(missing_ok=True)
        write_json(run.path / "manifest.json", merged)
    return RunFolder.open(run.path)


def _merged(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, object]:
    """The manifest of both parts."""
    there = {one["name"] for one in before["conditions"]}
    about, more = dict(before.get("about") or {}), now.get("about") or {}
    rare = [one["too_rare"] for one in (about, more) if "too_rare" in one]
    lost = [one.get("background") or {} for one in (about, more)]
    about |= {key: value for key, value in more.items() if key not in ("too_rare", "background")}
    if any(lost):
        about["background"] = {name: [*lost[0].get(name, ()), *lost[1].get(name, ())] for name in lost[0] | lost[1]}
    if rare:
        about["too_rare"] = {
            "least": rare[0]["least"],
            "documents": {k: v for r in rare for k, v in r["documents"].items()},
        }
    infos = [one.get("feature_info") or {} for one in (before, now)]
    return {
        **before,
        "features": [*before["features"], *now["features"]],
        "rows": before["rows"] + now["rows"],
        "conditions": [*before["conditions"], *(one for one in now["conditions"] if one["name"] not in there)],
        "about": about,
        # Planted truth is told of all features or of none.
        **({"feature_info": infos[0] | infos[1] if all(infos) else {}} if any(infos) else {}),
    }


def with_vectors_before(run: RunFolder, vectors: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]] | None:
    """A part's vectors behind those of the parts before; None where the run holds them already.

    Raises:
        Refusal: the vectors there are of another run.
    """
    parts, path = parts_of(run.manifest), run.path / _VECTORS
    if len(parts) == 1:
        return dict(vectors)
    arrays, told = read_arrays(path)
    whose = told.get(PLAN)
    if whose == run.plan:
        return None
    before = parts[0].plan
    for part in parts[1:-1]:
        before = digest(before, part.plan)
    if whose != before:
        raise Refusal(f"{path}", "it does not hold this run's vectors", "make the run again in another folder")
    names = dict.fromkeys((*arrays, *vectors))
    return {name: np.concatenate([one[name] for one in (arrays, vectors) if name in one]) for name in names}


def keep_windows(run: RunFolder, windows: Mapping[str, Mapping[str, Any]]) -> None:
    """Windows in which features fire, beside those of earlier parts; one that was asked for keeps its silent ones."""
    merged = dict(run.contexts or {}) if len(parts_of(run.manifest)) > 1 else {}
    for name, own in windows.items():
        if own["silent"] or name not in merged:
            merged[name] = dict(own)
    run.write_contexts(merged)


def keep_tokens(run: RunFolder, tokens: Mapping[str, Sequence[TokenWindow]]) -> None:
    """Activations at the tokens of the windows that the run keeps, beside those of earlier parts."""
    before = read_tokens(run) if len(parts_of(run.manifest)) > 1 else {}
    write_tokens(run, {**before, **tokens})


def keep_words(run: RunFolder, words: Mapping[str, Mapping[str, Any]]) -> None:
    """Words that rows write most, beside those of earlier parts."""
    before = (run.lens or {}) if len(parts_of(run.manifest)) > 1 else {}
    run.write_lens({name: {**before.get(name, {}), **words.get(name, {})} for name in (*before, *words)})
