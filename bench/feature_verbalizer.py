"""What readers of many sites say of held-out latents: ``python bench/feature_verbalizer.py --work FOLDER``.

In: what ``training/many.py`` left: records of half B, windows, texts by arm and seed. Out: ``results/
feature_verbalizer.json``: per arm and site the F1 of firing words above dealt, detection by an embedder that gave no
evidence (silent windows; hard ones), themes asserted without one; beside them the rule's text and that of the nearest
latent trained on, words of the output layer and of the nearest mean activations, texts of random directions; mixtures
of two rows (is the lesser one named?), vectors that mean nothing; the form in which an arm reads rows best, chosen on
one half of the clusters and told on the other; differences that were declared, with intervals over clusters of latents,
and by seed. No model is opened but the embedder.

``--instead ARM=OTHER``: an arm that stands for one that was not run, in the lines that were declared.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent / "training"))

from dragoman.embed import Embedder, LexicalEmbedder  # noqa: E402
from dragoman.scoring.judged_run import CachedEmbedder  # noqa: E402
from dragoman.stats.intervals import clustered_interval  # noqa: E402
from dragoman.stats.roc import ContextEmbeddings, detection_table  # noqa: E402
from dragoman.store import read_jsonl  # noqa: E402
from judged import Told, f1  # noqa: E402
from latents import Record, theme_of  # noqa: E402

# (what, arm, arm or who it is compared with, at which sites, measure, at least); training/README.md tells why.
DECLARED = (
    ("many sites against one", "many-everything", "activations-23", ("tiny-smollm2-23",), "words", 0.08),
    ("detection, many sites against one", "many-everything", "activations-23", ("tiny-smollm2-23",), "detection", 0.0),
    ("against rows of one site", "many-everything", "rows-23", ("tiny-smollm2-23",), "words", -0.02),
    ("block never seen", "without-blocks", "activations-17", ("tiny-smollm2-13",), "words", 0.0),
    ("another block never seen", "without-blocks", "activations-23", ("tiny-smollm2-26",), "words", 0.0),
    ("model reached by a map", "without-model", "activations-23", ("tiny-gemma-12",), "words", 0.0),
    ("above looking up", "many-everything", "nearest", ("tiny-smollm2-23",), "words", 0.0),
    ("above the verbalizer as packaged", "many-everything", "as-packaged", ("tiny-smollm2-23",), "words", 0.0),
    ("above the lens", "many-everything", "lens", ("tiny-smollm2-23",), "words", 0.0),
    ("above words of the nearest means", "many-everything", "probe", ("tiny-smollm2-23",), "words", 0.0),
    ("above texts of random directions", "many-everything", "random", ("tiny-smollm2-23",), "words", 0.0),
    ("above labels from contexts", "many-everything", "from-contexts", ("tiny-smollm2-23",), "words", 0.0),
    ("above a scale and a bias", "many-everything", "affine", ("tiny-smollm2-23",), "words", 0.0),
    ("above activations of many sites", "many-everything", "many-activations", ("tiny-smollm2-23",), "words", 0.0),
    ("told near words, above the table", "many-everything-near", "probe", ("tiny-smollm2-23",), "words", 0.0),
    ("told near words, above not told", "many-everything-near", "many-everything", ("tiny-smollm2-23",), "words", 0.0),
    ("above half as many vectors", "many-everything-again", "many-everything", ("tiny-smollm2-23",), "words", 0.0),
)
DETECTED = {site for *_, at, measure, _ in DECLARED if measure == "detection" for site in at}  # windows take minutes
MEASURES = ("words", "detection", "hard", "false_theme", "theme", "nothing")
OF_LATENTS = ("reader", "rule", "lens", "nearest", "probe", "random")  # beside these, mixtures ("mixed-0.5")
FORMS = ("reader", "washed-0.5", "washed-1.5", "bare", "centred")  # in which rows are given; the first is on-shell
HOME = "tiny-smollm2-23"  # where they are given in all of them


@dataclass(frozen=True, slots=True)
class Judged:
    """Of one latent at one site: its values by measure, NaN where one does not apply.

    ``cluster``: of latents that are judged and correlate, or its word where it is held out for that; ``why``: it is
    held out with all that correlates with it ("apart"), for its word or for its topic.
    """

    latent: int
    cluster: str
    values: Mapping[str, float]
    why: str = "apart"


def judged_site(
    said: Mapping[int, str], records: Mapping[int, Record], windows: Mapping[int, Any], embedder: Embedder | None
) -> list[Judged]:
    """The texts of one arm, seed and site, latent by latent; without an embedder no windows are told apart."""
    ids = [k for k in said if k in records and k in windows]
    told = {k: Told.of(said[k]) for k in ids}
    rows = embedder.encode([said[k] for k in ids]).astype(np.float64) if ids and embedder else np.zeros((0, 1))
    out = []
    with_words = [k for k in ids if records[k].words]
    dealt = {k: with_words[(i + 1) % len(with_words)] for i, k in enumerate(with_words)}
    for i, k in enumerate(ids):
        words = (*told[k].token, *told[k].words)
        has = bool(theme_of(records[k])[0])
        own = f1(words, list(records[k].words)) if records[k].words else np.nan
        chance = f1(words, list(records[dealt[k]].words)) if k in dealt else np.nan
        values = {
            "words": own - chance,
            "false_theme": np.nan if has else float(bool(told[k].theme)),
            "theme": float(theme_of(records[k])[0] in told[k].theme) if has else np.nan,
            "nothing": float(told[k].nothing),
        }
        for name, other in (("detection", "silent"), ("hard", "hard")):
            firing, silent = windows[k]["firing"], windows[k][other]
            values[name] = np.nan
            if embedder and len(firing) > 2 and len(silent) > 2:
                contexts = ContextEmbeddings.of(embedder.encode(firing), embedder.encode(silent))
                values[name] = float(detection_table(rows[i : i + 1], [contexts])[0, 0])
        why = windows[k]["why"]
        cluster = next(iter(records[k].words), "") if why == "word" else str(windows[k]["cluster"])
        out.append(Judged(k, cluster, values, why))
    return out


def spoken(work: Path) -> dict[tuple[str, int], list[dict[str, Any]]]:
    """(arm, seed) -> what it said: site, who, latent (a number), text, nothing_margin."""
    out: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for file in sorted(work.glob("spoken-*.jsonl.gz")):
        arm, _, seed = file.name.removesuffix(".jsonl.gz").removeprefix("spoken-").rpartition("-")
        out[arm, int(seed)] = list(read_jsonl(file))
    return out


def by_site_and_who(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, dict[int, str]]]:
    """Site -> who -> number -> text."""
    texts: dict[str, dict[str, dict[int, str]]] = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        texts[row["site"]][row["who"]][row["latent"]] = row["text"]
    return texts


def judged_there(work: Path) -> dict[str, dict[str, Any]]:
    """What was judged where the reader was: means without intervals, real activations among them."""
    out = {}
    for file in sorted(work.glob("judged-*.json")):
        made = json.loads(file.read_text())
        out[f"{made['arm']} {made['seed']}"] = {"training": made["training"], "sites": made["sites"]}
    return out


def nulls(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """By site, of vectors that mean nothing: how they are told from held-out latents' rows, as said and by a line.

    ``nothing``: share told "nothing in particular"; ``rows_nothing``: of rows. ``auroc``: of a null against a row by
    how much likelier "nothing" was than a theme. ``at_line``: shares of nulls and rows above the line that 98 % of half
    of the nulls of all sites are above, over the other half of them.
    """
    by_site: dict[str, dict[str, list[Mapping[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row["who"] in ("null", "reader"):
            by_site[row["site"]][row["who"]].append(row)
    told = lambda some: round(float(np.mean([Told.of(r["text"]).nothing for r in some])), 4)  # noqa: E731
    margins = lambda some: np.array([r["nothing_margin"] for r in some])  # noqa: E731
    known = [by_who for by_who in by_site.values() if by_who["null"] and "nothing_margin" in by_who["null"][0]]
    half = np.concatenate([margins(by_who["null"])[::2] for by_who in known]) if known else np.zeros(0)
    line = float(np.quantile(half, 0.02)) if len(half) else np.nan
    out: dict[str, dict[str, Any]] = {}
    for site, by_who in by_site.items():
        if not by_who["null"]:
            continue
        null, reader = by_who["null"], by_who["reader"]
        out[site] = {"nothing": told(null), "n": len(null), "rows_nothing": told(reader), "rows": len(reader)}
        if by_who in known:
            one, other = margins(null), margins(reader)
            true = np.r_[np.ones(len(one)), np.zeros(len(other))]
            out[site]["auroc"] = round(float(roc_auc_score(true, np.r_[one, other])), 4)
            out[site]["at_line"] = {
                "nulls": round(float((one[1::2] > line).mean()), 4),
                "rows": round(float((other > line).mean()), 4),
            }
    return out


def load(
    work: Path, embedder: Embedder, said_by: Mapping[tuple[str, int], Sequence[Mapping[str, Any]]]
) -> dict[tuple[str, int], dict[str, dict[str, list[Judged]]]]:
    """(arm, seed) -> site -> who (reader, rule, lens, nearest, mixed-SHARE) -> latents."""
    out: dict[tuple[str, int], dict[str, dict[str, list[Judged]]]] = {}
    for key, rows in said_by.items():
        made = out.setdefault(key, {})
        for site, by_who in by_site_and_who(rows).items():
            records = {r["latent"]: Record.read(r) for r in read_jsonl(work / f"records-{site}-b.jsonl.gz")}
            windows = {w["latent"]: w for w in read_jsonl(work / f"windows-{site}.jsonl.gz")}
            detected = embedder if site in DETECTED else None
            if null := list(by_who.get("null", {}).values()):
                by_who["random"] = {k: null[i % len(null)] for i, k in enumerate(by_who["reader"])}
            made[site] = {
                who: judged_site(said, records, windows, detected if who in OF_LATENTS else None)
                for who, said in by_who.items()
                if who in OF_LATENTS or who in FORMS or who.startswith("mixed-")
            }
    return out


def told(latents: Sequence[Judged], measure: str) -> dict[str, Any]:
    """Mean with its interval over clusters; without one where all are of the same."""
    some = [one for one in latents if not np.isnan(one.values[measure])]
    if len({one.cluster for one in some}) < 2:
        mean = {"value": round(float(np.mean([one.values[measure] for one in some])), 4)} if some else {}
        return mean | {"n": len(some)}
    values, clusters = np.array([one.values[measure] for one in some]), [one.cluster for one in some]
    low, high, _, _ = clustered_interval(values, clusters)
    return {"value": round(float(values.mean()), 4), "low": round(low, 4), "high": round(high, 4), "n": len(some)}


def by_why(latents: Sequence[Judged]) -> dict[str, Any]:
    """Every measure of latents held out with all that correlates, of those held out for their word, for their topic."""
    reasons = dict.fromkeys(("apart", *(one.why for one in latents)))
    return {why: {m: told([one for one in latents if one.why == why], m) for m in MEASURES} for why in reasons}


def difference(
    one: Sequence[Sequence[Judged]], other: Sequence[Sequence[Judged]], measure: str, why: str = "apart"
) -> dict[str, Any]:
    """Paired by latent, each latent's mean over seeds first, with an interval over clusters; and seed by seed.

    ``why``: of latents that are held out for this.
    """
    one, other = ([[x for x in latents if x.why == why] for latents in seeds] for seeds in (one, other))

    def means(seeds: Sequence[Sequence[Judged]]) -> dict[int, tuple[float, str]]:
        found: dict[int, list[float]] = defaultdict(list)
        cluster = {}
        for latents in seeds:
            for latent in latents:
                found[latent.latent].append(latent.values[measure])
                cluster[latent.latent] = latent.cluster
        return {k: (float(np.mean(v)), cluster[k]) for k, v in found.items()}

    a, b = means(one), means(other)
    both = [k for k in a if k in b and not np.isnan(a[k][0]) and not np.isnan(b[k][0])]
    made = [Judged(k, a[k][1], {measure: a[k][0] - b[k][0]}) for k in both]
    seeds = [
        round(float(np.nanmean([x.values[measure] for x in i]) - np.nanmean([y.values[measure] for y in j])), 4)
        for i, j in zip(one, other, strict=False)
        if i and j
    ]
    return told(made, measure) | {"by_seed": seeds}


def figures(found: Mapping[tuple[str, int], Any], instead: Mapping[str, str]) -> dict[str, Any]:
    """Every arm, and what was declared, met or not; ``met`` is null where an arm of a line was not run."""
    arms = sorted({arm for arm, _ in found})
    seeds = {arm: sorted(seed for a, seed in found if a == arm) for arm in arms}
    table = {
        f"{arm} {seed}": {
            site: {who: by_why(rows) for who, rows in by_who.items()} for site, by_who in found[arm, seed].items()
        }
        for arm, seed in sorted(found)
    }
    lines = []
    for what, declared, against, sites, measure, least in DECLARED:
        arm, other = (instead.get(one, one) for one in (declared, against))
        for site in sites:
            line: dict[str, Any] = {"what": what, "arm": arm, "against": other, "site": site, "measure": measure}
            line |= {"must": least, "met": None}
            at = lambda name, who="reader", site=site: [  # noqa: E731
                found[name, s][site][who] for s in seeds.get(name, ()) if who in found[name, s].get(site, {})
            ]
            one, two = at(arm), at(arm, other) if other in OF_LATENTS else at(other)
            if one and two:
                line |= difference(one, two, measure)
                line["of unseen words"] = difference(one, two, measure, "word")
                above = [line.get("low", np.nan), *line["by_seed"]]
                line["met"] = "value" in line and line["value"] >= least and all(v > min(0.0, least) for v in above)
            lines.append(line)
    return {"seeds": seeds, "instead": dict(instead), "declared": lines, "arms": table}


def best_form(by_who: Mapping[str, Sequence[Judged]]) -> dict[str, Any]:
    """Of one reader at one site the form of a row that half of the clusters name words best in, told on the others.

    ``of``: there, with its interval; ``above_on_shell``: less the same latents' on-shell, paired; ``chosen_by``: the
    first half's mean of every form.
    """
    forms = {
        form: [one for one in by_who[form] if one.why == "apart" and not np.isnan(one.values["words"])]
        for form in FORMS
        if form in by_who
    }
    if len(forms) < 2:
        return {}
    choosing = set(sorted({one.cluster for some in forms.values() for one in some})[::2])
    means = {
        form: float(np.mean([one.values["words"] for one in some if one.cluster in choosing]))
        for form, some in forms.items()
    }
    best = max(means, key=means.__getitem__)
    others = {form: [one for one in forms[form] if one.cluster not in choosing] for form in (best, "reader")}
    return {
        "form": best,
        "chosen_by": {form: round(mean, 4) for form, mean in means.items()},
        "of": told(others[best], "words"),
        "above_on_shell": difference([others[best]], [others["reader"]], "words"),
    }


def by_lines(found: Mapping[str, Any]) -> str:
    """JSON with a line for every arm and every declared difference: some 30,000 lines otherwise."""
    parts = []
    for name, value in found.items():
        if isinstance(value, dict) and value:
            inner = ",\n".join(f" {json.dumps(key)}: {json.dumps(one)}" for key, one in value.items())
            parts.append(f"{json.dumps(name)}: {{\n{inner}\n}}")
        elif isinstance(value, list) and value:
            inner = ",\n".join(f" {json.dumps(one)}" for one in value)
            parts.append(f"{json.dumps(name)}: [\n{inner}\n]")
        else:
            parts.append(f"{json.dumps(name)}: {json.dumps(value)}")
    return "{" + ",\n".join(parts) + "}\n"


def main() -> None:
    """Judge and write."""
    parse = argparse.ArgumentParser(description=__doc__)
    parse.add_argument("--work", type=Path, required=True)
    parse.add_argument("--instead", action="append", default=[], help="ARM=OTHER: OTHER stands for ARM")
    parse.add_argument("--embedder", default="lexical", help="lexical, minilm, or a folder of another sentence model")
    parse.add_argument("--out", type=Path, default=HERE / "results" / "feature_verbalizer.json")
    args = parse.parse_args()
    embedder: Embedder = LexicalEmbedder()
    if args.embedder != "lexical":
        from dragoman.models.embedder import SentenceEmbedder

        embedder = SentenceEmbedder(None if args.embedder == "minilm" else args.embedder)
    texts = spoken(args.work)
    judged = load(args.work, CachedEmbedder(embedder), texts)
    found = figures(judged, dict(pair.split("=") for pair in args.instead))
    forms = {f"{arm} {seed}": best_form(sites.get(HOME, {})) for (arm, seed), sites in sorted(judged.items())}
    found["forms"] = {arm: form for arm, form in forms.items() if form}
    found["nulls"] = {f"{arm} {seed}": nulls(texts[arm, seed]) for arm, seed in sorted(texts)}
    found["judged there"] = judged_there(args.work)
    args.out.write_text(by_lines({"embedder": args.embedder} | found))
    for line in found["declared"]:
        sys.stdout.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
