"""What the yardstick says: one line a route and control, measures side by side, their dealt nulls, the differences.

In: a folder that ``yardstick_run`` filled. Out: plain values for JSON, and lines of a table. Refuses folders that are
not whole. Intervals are over latents (Student's t); differences between two routes are paired over the latents both
have, those between the dictionary's latents and random projections are Welch's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dragoman.core import Refusal
from dragoman.measures.firing import FINAL, FORMS, WORD, final_token, named_table, names_word, quoted, spoken_of
from dragoman.measures.overlap import overlap_table, rank_auroc
from dragoman.stats.planted import names_category
from dragoman.stats.roc import auroc
from dragoman.store import RunFolder, read_arrays, read_json
from studies.ground import FAINT, GROUNDS, Latent
from studies.measures import difference
from studies.row_judge import summary

Doubles = NDArray[np.float64]
PerLatent = Mapping[str, float]
FAKES = {"fires": "fake fires", "writes": "fake writes"}
# Not alike for fake latents: their nearest relatives are nearly orthogonal, so they have no hard negatives; and they
# have no category.
UNLIKE = ("cofiring_auroc", "category")
LINES = (
    "fires", "writes", "blend", "post", "post, its relative penalty", "post, tuned", "procrustes", "silent",
    "before the first firing", "dealt rows", "random directions", "shuffled map", "fake fires", "fake writes",
)  # fmt: skip
SPOKEN = (
    "digit", "capital", "capitals only", "plural", "possessive", "past tense", "-ing form", "hyphenated", "quote",
    "comma", "full stop", "question or exclamation mark", "colon or semicolon", "bracket",
)  # fmt: skip
FORM, COMMON = 0.8, 0.3  # a class holds that much of the activation, and no more than this of all tokens


def judged(folder: Path, *, seed: int = 0) -> dict[str, Any]:
    """Every measure of one direction of the pair."""
    if not (folder / "facts.json").exists():
        raise Refusal(f"{folder}", "nothing was made there yet", "run the bench without --judge first")
    facts, ground = read_json(folder / "facts.json"), GROUNDS[folder.name]
    texts: dict[str, dict[str, str]] = {}
    for row in RunFolder.open(folder / "run").rows():
        texts.setdefault(row["condition"], {})[row["feature"]] = row["text"]
    values = {
        name: dict(_measures(name, facts, texts.get(name, {}), folder, ground.words, ground.latents))
        for name in LINES
        if name in facts["routes"]
    }
    lines = {
        name: {m: summary(own, [] if dealt is None else [dealt]) for m, (own, dealt) in found.items()}
        for name, found in values.items()
    }
    return {
        "notes": facts["notes"] | {"lam_rel of writes": facts["penalty"]},
        "n": {k: len(v) for k, v in facts["chosen"].items()},
        "routes": lines,
        "silent": lines.get("silent"),
        "random_projection": {"fires": lines.get("fake fires"), "writes": lines.get("fake writes")},
        "ceilings": _ceilings(facts),
        "probe": _probes(facts, texts, ground.latents),
        "fires_minus_silent": _less(values, "fires", "silent"),
        "writes_minus_fires": _less(values, "writes", "fires"),
        "latents_minus_random_projections": {
            name: _less(values, name, fake) for name, fake in FAKES.items() if name in values and fake in values
        },
    }


def _ceilings(facts: Any) -> dict[str, Any]:
    """Co-firing of read-outs that no carried row can pass, over the latents drawn."""
    drawn = {*facts["chosen"]["drawn"]}
    return {
        name: {
            f"{measure}_auroc": summary({i: v for i, v in zip(told["ids"], told[measure], strict=True) if i in drawn})
            for measure in ("cofiring", "cofiring_silent")
        }
        for name, told in facts["ceilings"].items()
    }


def _measures(
    name: str, facts: Any, texts: Mapping[str, str], folder: Path, words: Any, latents: Any
) -> Iterator[tuple[str, tuple[PerLatent, float | None]]]:
    """(measure, (value per latent, mean of the dealt ones)) of one route."""
    told, drawn = facts["routes"][name], {*facts["chosen"]["drawn"], *facts["chosen"]["fakes"]}
    ids = told["ids"]
    kept = [k for k, i in enumerate(ids) if i in drawn]
    for measure in ("cofiring", "cofiring_silent"):
        if measure in told:
            own = _some({ids[k]: told[measure][k] for k in kept})
            yield f"{measure}_auroc", (own, _mean([told[f"{measure}_dealt"][k] for k in kept]))
    overlap = overlap_table([told["lens_words"][k] for k in kept], [facts["source_lens"][ids[k]] for k in kept])
    yield "lens_overlap", ({ids[k]: float(overlap[n, n]) for n, k in enumerate(kept)}, _off_diagonal(overlap))
    single = facts["chosen"]["one_word"]
    there = [i for i in ids if i in single and i in texts]
    if there:
        table = named_table([spoken_of(texts[i]) for i in there], [single[i] for i in there])
        yield (
            "firing_word",
            ({i: float(table[n, n]) for n, i in enumerate(there)}, _dealt(table, [single[i] for i in there])),
        )
        last = [final_token(texts[i]) for i in there]
        found = np.array([[float(token == single[j]) for j in there] for token in last])
        yield "final_token", ({i: found[n, n] for n, i in enumerate(there)}, _dealt(found, [single[i] for i in there]))
    many = [i for i in ids if i in drawn and i in texts and facts["words"][i]]
    if many and len(many) > len(kept) // 2:
        tops = [next(iter(facts["words"][i])) for i in many]
        table = named_table([spoken_of(texts[i]) for i in many], tops)
        yield "top_word", ({i: float(table[n, n]) for n, i in enumerate(many)}, _dealt(table, tops))
        yield from _forms(facts, many, texts)
        named = [i for i in many if i in latents and latents[i].selectivity >= FAINT]
        if named:
            hits = np.array(
                [[float(names_category(texts[i], words[latents[j].category])) for j in named] for i in named]
            )
            kinds = [latents[i].category for i in named]
            yield "category", ({i: hits[n, n] for n, i in enumerate(named)}, _dealt(hits, kinds))
    steering = _kept(folder / "steering.safetensors", name)
    if steering is not None:
        steered = [i for i in ids if i in drawn]
        yield "steering_auroc", (dict(zip(steered, rank_auroc(steering).tolist(), strict=True)), 0.5)
    written = _kept(folder / "generation.safetensors", name)
    if written is not None:
        asked = [i for i in ids if i in drawn and i in texts]
        yield "generation", (dict(zip(asked, rank_auroc(written.T).tolist(), strict=True)), 0.5)
    if (folder / "detection.json").exists() and name in (weighed := read_json(folder / "detection.json")):
        own, dealt = (_detection(weighed[name], which) for which in ("own", "dealt"))
        yield "detection", (own, _mean(list(dealt.values())))


def _forms(
    facts: Any, ids: Sequence[str], texts: Mapping[str, str]
) -> Iterator[tuple[str, tuple[PerLatent, float | None]]]:
    """Whether the token that a text says comes last is of the class in which the latent fires."""
    base = facts["base_forms"]
    classes = {}
    for i in ids:
        best = max(SPOKEN, key=lambda form: facts["forms"][i].get(form, 0.0))
        if facts["forms"][i].get(best, 0.0) >= FORM and base.get(best, 0.0) <= COMMON:
            classes[i] = best
    if len(classes) < 2:
        return
    there = list(classes)
    hits = np.array([[float(_of_form(_last_quote(texts[i]), classes[j])) for j in there] for i in there])
    yield "form", ({i: hits[n, n] for n, i in enumerate(there)}, _dealt(hits, [classes[i] for i in there]))


def _last_quote(text: str) -> str:
    """What a text quotes as its final token, case and marks kept; empty where it speaks of none."""
    for found in FINAL.finditer(text):
        if said := quoted(text[found.end() :].split("\n", 1)[0]):
            return said[0]
    return ""


def _of_form(quote: str, form: str) -> bool:
    """Whether the last mark or the last word of a quotation is of a class."""
    words = [m.end() for m in WORD.finditer(quote)]
    return any(FORMS[form](quote, end) for end in {len(quote), *words[-1:]} if end)


def _probes(facts: Any, texts: Mapping[str, Mapping[str, str]], latents: Mapping[str, Latent]) -> dict[str, Any]:
    """What is named without a verbalizer.

    The firing word by a linear read-out of the row, by its lens words, by its firing contexts alone, or by the text of
    the latent whose row is nearest; the category of the documents by the packaged linear probe.
    """
    single, found = facts["chosen"]["one_word"], {}
    for name in ("fires", "writes", "silent"):
        told = facts["routes"][name]
        where = {i: k for k, i in enumerate(told["ids"])}
        there = [i for i in single if i in where]
        hits = {
            "word means, nearest to the row": [float(told["probe_word"][where[i]] == single[i]) for i in there],
            "lens words of the bare row": [float(single[i] in told["lens_words"][where[i]]) for i in there],
        }
        found[name] = {what: summary(dict(zip(there, some, strict=True))) for what, some in hits.items()}
        drawn = [i for i in facts["chosen"]["drawn"] if i in where and latents[i].selectivity >= FAINT]
        right = {i: float(told["probe_category"][where[i]] == latents[i].category) for i in drawn}
        found[name]["category by the linear probe"] = summary(right)
    there = [i for i in single if facts["fit_words"].get(i)]
    found["no model: the word of other documents"] = summary(
        {i: float(facts["fit_words"][i] == single[i]) for i in there}
    )
    said = texts.get("fires", {})
    near = [i for i in single if facts["nearest"][i] in said]
    found["text of the nearest row"] = summary(
        {i: float(names_word(spoken_of(said[facts["nearest"][i]]), single[i])) for i in near}
    )
    return found


def _detection(weighed: Any, which: str) -> dict[str, float]:
    """AUROC of what a text adds to the log-probability: firing windows against silent and hard ones."""
    found = {}
    for name, kinds, values in zip(weighed["ids"], weighed["kinds"], weighed[which], strict=True):
        n = kinds["firing"]
        fires, others = np.array(values[:n]), np.array(values[n:])
        if n and len(others):
            found[name] = auroc(fires, others)
    return found


def _kept(path: Path, name: str) -> Doubles | None:
    if not path.exists():
        return None
    arrays, _ = read_arrays(path)
    return arrays[name].astype(np.float64) if name in arrays else None


def _some(values: Mapping[str, float | None]) -> dict[str, float]:
    return {i: v for i, v in values.items() if v is not None}


def _mean(values: Sequence[float | None]) -> float | None:
    there = [v for v in values if v is not None]
    return float(np.mean(there)) if there else None


def _off_diagonal(table: NDArray[Any]) -> float | None:
    n = len(table)
    return float((table.sum() - np.trace(table)) / (n * (n - 1))) if n > 1 else None


def _dealt(table: NDArray[Any], kinds: Sequence[str]) -> float | None:
    """Mean over pairs of a text and a latent of another kind."""
    label = np.array(kinds)
    other = label[:, None] != label[None, :]
    return float(table[other].mean()) if other.any() else None


def _less(values: Mapping[str, Any], first: str, second: str) -> dict[str, Any]:
    """Mean of first less second by measure: paired over latents, or Welch's against those of other names."""
    found = {}
    for measure, (own, _) in values.get(first, {}).items():
        if measure in values.get(second, {}):
            gap = difference(own, values[second][measure][0])
            if gap is not None and not (second in FAKES.values() and measure in UNLIKE):
                found[measure] = gap
    return found


MEASURES = (
    "firing_word", "final_token", "top_word", "form", "cofiring_auroc",
    "cofiring_silent_auroc", "lens_overlap", "steering_auroc", "generation",
    "detection", "category",
)  # fmt: skip


def table_of(found: Mapping[str, Any]) -> Iterator[str]:
    """Lines of a table for a terminal: routes down, measures across, dealt ones in brackets."""
    for name, one in found.items():
        yield ""
        yield f"{name}: n {one['n']}, {one['notes']}"
        yield f"{'':26}" + "".join(f"{m[:14]:>16}" for m in MEASURES)
        for route, line in one["routes"].items():
            yield f"{route:26}" + "".join(f"{_cell(line.get(m)):>16}" for m in MEASURES)
        for what in ("fires_minus_silent", "writes_minus_fires"):
            yield f"{what:26}" + "".join(f"{_span(one[what].get(m)):>16}" for m in MEASURES)
        for route, line in one["latents_minus_random_projections"].items():
            yield f"{route + ' - fake':26}" + "".join(f"{_span(line.get(m)):>16}" for m in MEASURES)
        for what, line in one["ceilings"].items():
            yield f"{'ceiling: ' + what:26}" + "".join(f"{_cell(line.get(m)):>16}" for m in MEASURES)
        yield f"without a verbalizer: {one['probe']}"


def _cell(told: Mapping[str, Any] | None) -> str:
    if not told or told["value"] is None:
        return ""
    dealt = "" if told["dealt"] is None else f" ({told['dealt']:.2f})"
    return f"{told['value']:.3f}{dealt}"


def _span(told: Mapping[str, Any] | None) -> str:
    return f"[{told['low']:+.2f},{told['high']:+.2f}]" if told and told["low"] is not None else ""
