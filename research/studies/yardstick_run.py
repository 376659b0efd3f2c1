"""Everything the yardstick is judged by, made once and kept: rows and facts, texts, steering, writing, weighing.

In: names of directions of the pair, a folder, where to compute. Out: per direction ``facts.json``, its rows, a run
folder, ``steering.safetensors``, ``generation.safetensors``, ``detection.json``. What is there is not made again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from dragoman import tiny
from dragoman.core import Directions, Floats, Talk
from dragoman.maps.moments import Doubles
from dragoman.measures.firing import word_at
from dragoman.models.decode import Verbalizer
from dragoman.models.language import Judge, passage_peaks
from dragoman.models.steer import steering_table
from dragoman.runs.build import RunBuilder
from dragoman.runs.options import Options
from dragoman.store import RunFolder, read_arrays, read_json, write_arrays, write_json
from dragoman.washout import on_shell
from studies.ceiling import ceilings
from studies.choice import words_of
from studies.controls import dealt
from studies.detection import Detector, most_surprised
from studies.ground import GROUNDS, Ground
from studies.library import Library
from studies.row_judge import plain
from studies.windows import windows
from studies.yardstick import PairReading, Sizes

SMALL = Sizes(drawn=24, fakes=9, one_word=12, topicless=9, topical=9)
WHOLE = ("fires", "writes", "silent", "before the first firing")  # verbalized for every chosen latent
FAKE = ("fake fires", "fake writes")
STEERED = ("fires", "writes", "blend", "silent", "post", "post, tuned", "procrustes", "random directions", *FAKE)
WRITTEN = ("fires", "writes", "silent", *FAKE)  # generation and detection
COMMON = 20  # tokens a word has to have for a mean of its own
PASSAGES, PASSAGE = 5, 40
NEW_TOKENS = 110


def make(
    names: Sequence[str],
    work: Path,
    talk: Talk,
    *,
    limit: int | None,
    sizes: Sizes,
    device: str,
    dtype: str,
    batch_size: int,
    seed: int,
) -> None:
    """All of it, direction by direction, going on wherever an earlier process stopped."""
    library = Library(device=device, dtype=dtype, limit=limit, talk=talk)
    for name in names:
        ground, folder = GROUNDS[name], work / name
        folder.mkdir(parents=True, exist_ok=True)
        pair: PairReading | None = None
        if not (folder / "facts.json").exists():
            pair = PairReading.read(ground, library, sizes, seed=seed)
            routes = pair.routes()
            keep_rows(folder / "rows.safetensors", routes, pair)
            write_json(folder / "facts.json", facts_of(pair, routes))
        facts, routes = read_json(folder / "facts.json"), kept_rows(folder / "rows.safetensors", ground)
        run = verbalized(
            ground, library, facts, routes, folder, talk, device=device, dtype=dtype, batch_size=batch_size
        )
        if not (folder / "steering.safetensors").exists():
            talk.say(f"{name}: steering")
            write_arrays(folder / "steering.safetensors", steered(ground, library, facts, routes, batch_size))
        if not (folder / "generation.safetensors").exists():
            talk.say(f"{name}: writing from texts, and weighing windows by them")
            pair = pair or PairReading.read(ground, library, sizes, seed=seed)
            made, weighed = written_and_weighed(pair, facts, run, device, dtype, batch_size)
            write_json(folder / "detection.json", weighed)
            write_arrays(folder / "generation.safetensors", made)


def keep_rows(path: Path, routes: Mapping[str, Directions], pair: PairReading) -> None:
    """Rows of every condition, the latents' own, and the background they are washed in."""
    arrays = {name: rows.unit for name, rows in routes.items()}
    arrays |= {"source": pair.ground.rows.pick(pair.chosen.every).unit, "fake source": pair.fakes.unit}
    ids = {name: list(rows.ids) for name, rows in routes.items()}
    write_arrays(path, arrays, {"ids": ids | {"source": list(pair.chosen.every), "fake source": list(pair.fakes.ids)}})


def kept_rows(path: Path, ground: Ground) -> dict[str, Directions]:
    """What ``keep_rows`` wrote."""
    arrays, words = read_arrays(path)
    at = {"source": ground.source, "fake source": ground.source}
    return {name: Directions.of(at.get(name, ground.target), rows, words["ids"][name]) for name, rows in arrays.items()}


def facts_of(pair: PairReading, routes: Mapping[str, Directions]) -> dict[str, Any]:
    """What needs the tokens: co-firing, lens words, probes, firing words and windows."""
    ground, ids = pair.ground, pair.chosen.every
    pair.library.talk.say(f"{ground.name}: co-firing, lenses, probes")
    judges = [pair.row_judge(names) for names in (ids, pair.fakes.ids)]
    own = {name: words for judge in judges for name, words in zip(judge.rows.ids, judge.words, strict=True)}
    words, centroids = word_means(pair)
    weight, bias, classes = probe_of(ground)
    told: dict[str, Any] = {}
    for name, rows in routes.items():
        judge, injected = pair.judge_of(rows), on_shell(rows, pair.crossing.background)
        others = dealt(rows, pair.seed)
        told[name] = {
            "ids": rows.ids,
            "cofiring": plain(judge.cofiring(rows)),
            "cofiring_dealt": plain(judge.cofiring(others)),
            "cofiring_silent": plain(judge.cofiring_silent(rows)),
            "cofiring_silent_dealt": plain(judge.cofiring_silent(others)),
            "lens_words": judge.lens_words(rows),
            "probe_word": [words[k] for k in nearest(rows.unit, centroids)],
            "probe_category": [classes[k] for k in np.argmax(injected * scale_of(pair) @ weight.T + bias, axis=1)],
        }
    fake_words = words_of(pair.judge, pair.fake_fired, pair.fakes.ids)
    every = {**{i: pair.words.of(i) for i in ids}, **{i: fake_words.of(i) for i in pair.fakes.ids}}
    near = pair.relatives
    return {
        "notes": pair.notes,
        "chosen": {
            "drawn": pair.chosen.drawn,
            "one_word": dict(pair.chosen.one_word),
            "topicless": pair.chosen.topicless,
            "topical": pair.chosen.topical,
            "fakes": pair.fakes.ids,
        },
        "background": pair.crossing.background.mean.tolist(),
        "penalty": pair.crossing.map.settings["lam_rel"] if pair.crossing.map else None,
        "source_lens": own,
        "words": {i: dict(found[0]) for i, found in every.items()},
        "forms": {i: dict(found[1]) for i, found in every.items()},
        "base_forms": dict(pair.words.base_forms),
        "fit_words": {i: next(iter(found), "") for i, found in fit_words(pair, ids).items()},
        "nearest": {i: near[i][0] for i in ids},
        "routes": told,
        "ceilings": ceilings(pair, pair.library.device),
        "evidence": evidence_of(pair),
        "windows": windows_of(pair, near),
    }


def evidence_of(pair: PairReading) -> dict[str, Any]:
    """What a run would hold of latents with and without a topic: windows and words of the texts the product reads."""
    ids, words = (*pair.chosen.topicless, *pair.chosen.topical), pair.crossing.words
    found = pair.library.contexts(pair.ground, ids, seed=pair.seed)
    return {i: {**found[i], "words": dict(words.of(i)[0]) if words is not None else {}} for i in ids}


def fit_words(pair: PairReading, ids: Sequence[str]) -> dict[str, Mapping[str, float]]:
    """Firing words read off the openings: what is known without any model of language, verbalizer or map."""
    found = words_of(pair.fit)
    return {i: found.of(i)[0] for i in ids}


def word_means(pair: PairReading) -> tuple[list[str], Doubles]:
    """Words, and the target's mean where a token ends each of them, less the overall mean: a probe for words."""
    tokens, y = pair.fit, pair.fit.y[pair.ground.target.block]
    spoken = [word_at(tokens.texts[int(d)], int(e)) for d, e in zip(tokens.documents, tokens.ends, strict=True)]
    words, where, counts = np.unique(spoken, return_inverse=True, return_counts=True)
    kept = np.flatnonzero(counts >= COMMON)
    member = csr_array((np.ones(len(where)), (where, np.arange(len(where)))), shape=(len(words), len(where)))
    sums = member.tocsr()[kept] @ y.astype(np.float64)
    return words[kept].tolist(), sums / counts[kept][:, None] - y.mean(axis=0, dtype=np.float64)


def nearest(rows: Floats, others: Doubles) -> NDArray[np.int64]:
    """Of each row the number of the nearest other one, by cosine."""
    return np.argmax(rows @ (others / np.linalg.norm(others, axis=1, keepdims=True)).T, axis=1)


def probe_of(ground: Ground) -> tuple[Doubles, Doubles, list[str]]:
    """The packaged linear probe for categories at the target."""
    arrays, words = read_arrays(tiny.data("tiny-probes"))
    side = "target" if ground.target == tiny.TARGET else "source"
    classes = json.loads(words["classes"])
    return arrays[f"{side}_weight"].astype(np.float64), arrays[f"{side}_bias"].astype(np.float64), classes


def scale_of(pair: PairReading) -> float:
    """The length real activations have at the target, at which the probe was trained."""
    return float(np.median(np.linalg.norm(pair.fit.y[pair.ground.target.block], axis=1)))


def windows_of(pair: PairReading, near: Mapping[str, Sequence[str]]) -> dict[str, dict[str, list[str]]]:
    """Judging windows of the latents drawn by frequency, and of the fakes."""
    drawn = pair.chosen.drawn
    siblings = {i: [int(k) for k in near[i]] for i in drawn}
    found = windows(pair.judge, pair.judge.fired, drawn, [int(i) for i in drawn], siblings, seed=pair.seed)
    fakes = pair.fakes.ids
    where = {name: k for k, name in enumerate(fakes)}
    theirs = {i: [where[k] for k in near[i]] for i in fakes}
    return found | windows(pair.judge, pair.fake_fired, fakes, list(range(len(fakes))), theirs, seed=pair.seed)


def verbalized(
    ground: Ground,
    library: Library,
    facts: Mapping[str, Any],
    routes: Mapping[str, Directions],
    folder: Path,
    talk: Talk,
    *,
    device: str,
    dtype: str,
    batch_size: int,
) -> RunFolder:
    """Texts: the two readings and the controls of every latent, the other routes of the one-word ones."""
    background = library.crossing(ground).background
    builder = RunBuilder(directions=routes["source"], backgrounds={"by": background})
    single = list(facts["chosen"]["one_word"])
    for name, rows in routes.items():
        if name in ("source", "fake source"):
            continue
        if name not in (*WHOLE, *FAKE):
            there = set(rows.ids)
            rows = rows.pick(i for i in single if i in there)
        builder.add(name, rows, route=name, washout="on-shell")
    options = Options(batch_size=batch_size, max_new_tokens=NEW_TOKENS)
    by = Verbalizer(ground.by, dtype=dtype, device=device)
    return builder.write(folder / "run", {"by": by}, options, talk, {"ground": ground.name})


def steered(
    ground: Ground, library: Library, facts: Mapping[str, Any], routes: Mapping[str, Directions], batch_size: int
) -> dict[str, Floats]:
    """Route -> (n, n) rise of the log-probability of latent j's lens words when row i is added at the target."""
    reader = library.reader(ground.target)
    chosen = set(facts["chosen"]["drawn"]) | set(facts["chosen"]["fakes"])
    typical = reader.typical(library.texts["judge"])
    found: dict[str, Floats] = {}
    for name in STEERED:
        rows = routes[name].pick(i for i in routes[name].ids if i in chosen)
        lists = [facts["source_lens"][i] for i in rows.ids]
        found[name] = steering_table(reader, rows.unit, lists, median_norm=typical, batch_size=max(batch_size // 4, 1))
    return found


def written_and_weighed(
    pair: PairReading, facts: Mapping[str, Any], run: RunFolder, device: str, dtype: str, batch_size: int
) -> tuple[dict[str, Floats], dict[str, Any]]:
    """Passages written from each text, read back for every latent; and what each text adds to each window."""
    ground, library = pair.ground, pair.library
    judge = Judge.open(ground.source.model, dtype=dtype, device=device)
    detector = Detector(judge=judge)
    reader = library.reader(ground.source)
    drawn, fakes = set(facts["chosen"]["drawn"]), set(facts["chosen"]["fakes"])
    made: dict[str, Floats] = {}
    weighed: dict[str, Any] = {}
    for name in WRITTEN:
        rows = [r for r in run.rows() if r["condition"] == name and r["feature"] in drawn | fakes]
        ids, texts = [r["feature"] for r in rows], [r["text"] or "(empty)" for r in rows]
        passages = judge.write_from(texts, n=PASSAGES, tokens=PASSAGE, seed=pair.seed, batch_size=batch_size)
        encoder: Any = pair.fake_encoder if name in FAKE else ground.encoder
        where = {i: k for k, i in enumerate(pair.fakes.ids)}
        columns = [where[i] if name in FAKE else int(i) for i in ids]
        peaks = passage_peaks(passages, reader, encoder, columns, batch_size=batch_size)
        made[name] = np.stack([one.mean(axis=0) for one in peaks])
        kinds = [kept_windows(facts, i) for i in ids]
        every = [[w for some in kind.values() for w in some] for kind in kinds]
        own, others = (detector.surprise(of, every, batch_size=batch_size) for of in (texts, texts[1:] + texts[:1]))
        weighed[name] = {
            "ids": ids,
            "kinds": [{k: len(some) for k, some in kind.items()} for kind in kinds],
            "own": [[most_surprised(one) for one in some] for some in own],
            "dealt": [[most_surprised(one) for one in some] for some in others],
        }
    return made, weighed


def kept_windows(facts: Mapping[str, Any], name: str) -> dict[str, list[str]]:
    """Firing, silent and hard windows of one latent."""
    return facts["windows"].get(name, {"firing": [], "silent": [], "hard": []})
