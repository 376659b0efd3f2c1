"""What the corrected post says: every route and washout by planted truth, lift against every null, both directions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from dragoman.embed import Embedder, LexicalEmbedder
from dragoman.stats.lift import lift_per_feature, paired_difference, similarity
from dragoman.stats.nulls import against_each, holm
from dragoman.stats.power import plan
from studies.figure import across, legend_above, panels
from studies.judged import Heard, Said, accuracy, both, paired, plain
from studies.results import NAMES, Answer, Table, number, percent, signed
from studies.topics import nameable, named_estimate, token_table, topic_estimates

ROUTES = ("native", "post", "procrustes", "map", "dictionary", "blend", "direct", "auto")
WORDS = {
    "native": "native verbalizer",
    "post": "the post's map",
    "procrustes": "Procrustes",
    "map": "map, aligned tokens",
    "dictionary": "dictionary ridge",
    "blend": "blend",
    "direct": "direct",
    "auto": "auto (default)",
}
NULL_OF = {"random": "random directions", "shuffled": "shuffled map", "unused": "unused rows"}
MAIN = (
    "native, none",
    "post, none",
    "post, on-shell",
    "procrustes, on-shell",
    "map, on-shell",
    "direct, on-shell",
    "auto, on-shell",
)
DEALS = 999
OTHERS = "other features"


def answer(heard: Mapping[str, Heard], *, seed: int) -> Answer:
    """Planted truth for all conditions; lift, nulls and tests for the main ones."""
    data = {ground: _judged(one, seed) for ground, one in heard.items()}
    tables: list[Table] = []
    for ground, found in data.items():
        tables += [_planted(ground, found), _lifts(ground, found), _more(ground, found)]
    return Answer(
        findings=[_finding(ground, found) for ground, found in data.items()],
        tables=tables,
        data={"grounds": data},
        draw=lambda path: _draw(path, data),
        caption="Share of explanations that name the planted category, by route and washout, over all stratified "
        "features; 95 % intervals over categories. Grey: the same texts dealt to features of other categories.",
    )


def _judged(heard: Heard, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    asked = len(heard.run.manifest["features"])
    carried = {n: s for n, s in heard.said.items() if s.told["kind"] in ("native", "carried")}
    found: dict[str, Any] = {"n": asked, "measured": heard.run.manifest["measured"]}
    found["table"] = {
        name: {"collapsed": s.told["collapsed"], **accuracy(heard, s, of=asked)} for name, s in carried.items()
    }
    found["contrast"] = _contrast(heard)
    native = heard.said["native, on-shell"]
    lexical = LexicalEmbedder(native.texts)
    found["lift"], lifts = {}, {}
    for name in (n for n in MAIN if n in carried):
        said = carried[name]
        found["lift"][name], lifts[name] = _against(heard, said, native, lexical, rng)
    found["adjusted"] = _adjusted(found["lift"])
    found["paired"] = _paired(heard, lifts, rng)
    found["truth"] = {
        name: _truth(heard, carried[name], rng) for name in ("post, on-shell", "auto, on-shell", "native, on-shell")
    }
    return found


def _against(
    heard: Heard, said: Said, native: Said, lexical: Embedder, rng: np.random.Generator
) -> tuple[dict[str, Any], dict[str, float]]:
    """Lift of one condition against every null there is, by the sentence model.

    Against other features also by words.
    """
    place = {f: k for k, f in enumerate(native.features)}
    rows = [place[f] for f in said.features]
    b = heard.embedded(native)[rows]
    s = similarity(heard.embedded(said), b)
    topics = heard.categories(said)
    washout = said.told["washout"]
    nulls = {}
    for key, name in NULL_OF.items():
        route = "post" if said.told["route"] in ("post", "procrustes") else "map"
        other = heard.said.get(f"{key} by {route}, {washout}")
        if other is not None and said.told["kind"] == "carried":
            nulls[name] = similarity(heard.embedded(other), b)
    if said.told["kind"] == "carried":
        nulls["background alone"] = similarity(heard.embedded(heard.said["background alone"]), b)
    against = against_each(s, nulls, topics=topics, rng=rng, permutations=DEALS)
    words = similarity(lexical.encode(said.texts), lexical.encode([native.texts[k] for k in rows]))
    by_words = against_each(words, {}, topics=topics, rng=rng, permutations=DEALS)["other features"]
    told = {
        null: {key: plain(getattr(one, key)) for key in ("lift", "centred", "top1", "mrr")}
        for null, one in against.items()
    }
    told["other features, by words"] = {
        key: plain(getattr(by_words, key)) for key in ("lift", "centred", "top1", "mrr")
    }
    return told, dict(zip(said.features, lift_per_feature(s).tolist(), strict=True))


def _adjusted(lifts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Holm over conditions x embedders: centred lift against other features."""
    tests = {
        f"{name} ({judge})": one[key]["centred"]["p"]
        for name, one in lifts.items()
        for judge, key in (("sentence model", "other features"), ("words", "other features, by words"))
    }
    p = np.array(list(tests.values()))
    found = holm(p)
    told = {"names": list(tests), "p": p.tolist(), "adjusted": found.tolist(), "holds": (found <= 0.05).tolist()}
    return told | {"level": 0.05, "method": "holm"}


def _paired(heard: Heard, lifts: Mapping[str, Mapping[str, float]], rng: np.random.Generator) -> dict[str, Any]:
    """Washed against plain, and default against the post's: lift and planted category of the same features; power."""
    found: dict[str, Any] = {}
    for first, second in (
        ("post, none", "post, on-shell"),
        ("post, on-shell", "auto, on-shell"),
        ("procrustes, on-shell", "post, on-shell"),
    ):
        shared = [f for f in lifts[first] if f in lifts[second]]
        a, b = (np.array([lifts[c][f] for f in shared]) for c in (first, second))
        left, right, categories = both(heard, heard.said[first], heard.said[second])
        found[f"{second} minus {first}"] = {
            "lift": plain(paired_difference(a, b, rng)),
            "category": paired(left, right, categories),
            "correlation": float(np.corrcoef(a, b)[0, 1]),
            "features_for_power_80": asdict(plan(b - a)),
        }
    return found


def _truth(heard: Heard, said: Said, rng: np.random.Generator) -> dict[str, Any]:
    """Topic, topics kept from the verbalizers, and top tokens: each beside the same texts dealt to other features."""
    latents = [heard.latents[f] for f in said.features]
    topics = [one.topic for one in latents]
    kept_out = held_out_topics()
    found = topic_estimates(
        said.texts,
        topics,
        {t: [t] for t in set(topics)},
        held_out=[t in kept_out for t in topics],
        rng=rng,
        permutations=DEALS,
    )
    told: dict[str, Any] = {name: plain(one) for name, one in found.items()}
    tokens = [one.top_tokens for one in latents]
    able = nameable(tokens)
    if len(able) >= 3:
        table = token_table([said.texts[k] for k in able], [tokens[k] for k in able])
        told["top tokens"] = plain(named_estimate(table, what="share of top tokens used", rng=rng, permutations=DEALS))
    return told


def held_out_topics() -> frozenset[str]:
    """Topics no verbalizer was trained on."""
    from dragoman import tiny
    from dragoman.store import read_jsonl

    return frozenset(row["topic"] for row in read_jsonl(tiny.data("tiny-documents")) if row["split"] == "heldout")


def _contrast(heard: Heard) -> dict[str, float]:
    """Of texts that name the category: how often the text of the opposite direction names it too (it should not)."""
    plus, minus = heard.said["auto, on-shell"], heard.said["opposite, on-shell"]
    left, right, categories = both(heard, plus, minus)
    return {"plus": float(left.mean()), "minus": float(right.mean()), "n": len(categories)}


def _planted(ground: str, found: Mapping[str, Any]) -> Table:
    washouts = ("none", "0.5", "on-shell", "projected")
    rows = []
    for route in ROUTES:
        cells = [found["table"].get(f"{route}, {w}") for w in washouts]
        if not any(cells):
            continue
        shell = found["table"][f"{route}, on-shell"]
        levels = " / ".join(f"{100 * one['value']:.0f}" for one in shell["by_level"].values())
        rows.append(
            (WORDS[route], *(percent(c["accuracy"]) if c else "–" for c in cells), levels, str(shell["accuracy"]["n"]))
        )
    dealt = found["table"]["auto, on-shell"]["dealt"]
    return Table(
        title=f"{NAMES[ground]}: names the planted category",
        columns=("route", "bare", "mix 0.5", "on-shell", "projected", "faint / middling / sharp, on-shell", "n"),
        rows=rows,
        note=f"Dealt to features of other categories, the default's texts name {100 * dealt:.1f} %. The opposite "
        f"direction's texts name {100 * found['contrast']['minus']:.1f} %. Direct, blend and dictionary leave out "
        f"features that fire too rarely. Routes of the default: {found['measured']['routes']}.",
    )


def _lifts(ground: str, found: Mapping[str, Any]) -> Table:
    nulls = (*NULL_OF.values(), "background alone")
    return Table(
        title=f"{NAMES[ground]}: lift, by two embedders and over each null",
        columns=(
            "condition",
            "centred",
            "centred, by words",
            "top-1 (chance)",
            "over others (the post's)",
            *(f"over {n}" for n in nulls),
        ),
        rows=[
            (
                name,
                signed(one[OTHERS]["centred"]),
                signed(one[f"{OTHERS}, by words"]["centred"]),
                f"{number(one[OTHERS]['top1']['value'])} ({number(one[OTHERS]['top1']['extra']['chance'])})",
                signed(one[OTHERS]["lift"]),
                *(signed(one[null]["lift"]) if null in one else "–" for null in nulls),
            )
            for name, one in found["lift"].items()
        ],
        note="Cosine with the native text (washed) of the same feature, less that of: other features' "
        "natives; texts of the null. Centred: each text's mean over all natives is taken off first, "
        "and with it whatever style all carried texts share with all natives; it is the same number "
        "against every null. By all-MiniLM-L6-v2, and by weighted words. Intervals over categories. "
        f"Holm over conditions and both embedders: {_survivors(found['adjusted'])}. A native text that "
        "is wrong is no yardstick: where lift and the planted category disagree, believe the category.",
    )


def _survivors(adjusted: Mapping[str, Any]) -> str:
    return f"{sum(adjusted['holds'])} of {len(adjusted['holds'])} stay below {adjusted['level']:g}"


def _more(ground: str, found: Mapping[str, Any]) -> Table:
    rows = [
        (
            what,
            signed(one["lift"]),
            f"{one['lift']['p']:.4f}",
            signed(one["category"]),
            number(one["correlation"], 2),
            str(one["features_for_power_80"]["n"]),
        )
        for what, one in found["paired"].items()
    ]
    return Table(
        title=f"{NAMES[ground]}: paired differences",
        columns=("difference", "lift", "p", "category", "correlation of the two lifts", "features for 80 % power"),
        rows=rows,
        note="; ".join(
            f"{name}: topic {percent(one['all'])}"
            + (
                f", topics no verbalizer was trained on {percent(one['held out'])} (dealt "
                f"{100 * one['held out']['extra']['others']:.0f} %)"
                if "held out" in one
                else ""
            )
            + (
                f", top tokens used {number(one['top tokens']['value'])} (dealt "
                f"{number(one['top tokens']['extra']['others'])})"
                if "top tokens" in one
                else ""
            )
            for name, one in found["truth"].items()
        )
        + ".",
    )


def _finding(ground: str, found: Mapping[str, Any]) -> str:
    auto, post = found["table"]["auto, on-shell"], found["table"]["post, on-shell"]
    washed = found["paired"]["post, on-shell minus post, none"]
    turned = found["paired"]["post, on-shell minus procrustes, on-shell"]
    return (
        f"**{NAMES[ground]}**, {found['n']} features. The default names the planted category of "
        f"{percent(auto['accuracy'])}, the post's recipe, washed, of {percent(post['accuracy'])}: "
        f"{auto['accuracy']['value'] / post['accuracy']['value']:.1f} times as many. Washing the "
        f"post's own directions changes lift by {signed(washed['lift'])} (p {washed['lift']['p']:.4f}) "
        f"and the category by {signed(washed['category'])}. Ridge minus Procrustes, both washed: lift "
        f"{signed(turned['lift'])}, category {signed(turned['category'])}."
    )


def _draw(path: Path, data: Mapping[str, Any]) -> None:
    washouts: Sequence[tuple[str, str]] = (
        ("none", "bare"),
        ("0.5", "mix 0.5"),
        ("on-shell", "on-shell"),
        ("projected", "projected"),
    )
    with panels(path, len(data), width=5.6, height=4.3) as axes:
        for axis, (ground, found) in zip(axes, data.items(), strict=True):
            for k, (washout, label) in enumerate(washouts):
                cells = [(i, found["table"].get(f"{route}, {washout}")) for i, route in enumerate(ROUTES)]
                shown = [(i + 0.17 * (k - 1.5), one["accuracy"]) for i, one in cells if one]
                across(axis, [y for y, _ in shown], [rate for _, rate in shown], label, k)
            axis.axvline(found["table"]["auto, on-shell"]["dealt"], color="#999", lw=0.9, ls=":")
            axis.set_yticks(range(len(ROUTES)), [WORDS[r] for r in ROUTES])
            axis.invert_yaxis()
            axis.set_xlim(left=0)
            axis.set_xlabel("names the planted category")
            axis.set_title(NAMES[ground])
        legend_above(axes[0])
