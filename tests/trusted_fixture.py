"""A finished run with all that judging adds, by the code that makes it: nulls, embedders, detection, confidences.

Only the texts and the kits are planted.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dragoman.confidence.evidence import Evidence
from dragoman.confidence.fit import fit_confidence
from dragoman.confidence.model import ConfidenceSet
from dragoman.embed import LexicalEmbedder
from dragoman.store import RunFolder
from judging import believed, judged
from report_fixture import HOSTILE, build_run
from word_hash import HashEmbedder

PARTS = ("nulls", "embedders", "adjusted", "power", "detection")


def kits() -> ConfidenceSet:
    """Two kits that read the fixture's cards; the first needs a margin, which some features lack."""
    draw = np.random.default_rng(0)
    rows: list[Evidence] = [
        {"margin": float(m), "coverage": float(c), "detection": float(d)}
        for m, c, d in zip(
            draw.normal(0.15, 0.1, 200), draw.uniform(0.6, 1, 200), draw.uniform(0.3, 1, 200), strict=True
        )
    ]
    sums = np.array([6 * (r["margin"] or 0) + (r["coverage"] or 0) + 2 * (r["detection"] or 0) for r in rows])
    right = sums + draw.normal(0, 0.4, 200) > np.median(sums)
    full, bare = fit_confidence(rows, right), fit_confidence([{"coverage": r["coverage"]} for r in rows], right)
    fitted = {"fitted_on": "the embedded pair, both ways"}
    made = [c.model_copy(update={"report": {**c.report, **fitted}}) for c in (full, bare)]
    return ConfidenceSet.holding(
        {"card and contexts": (("margin", "detection"), made[0]), "card": (("coverage",), made[1])}
    )


def trusted_run(path: Path, *, count: int = 45) -> RunFolder:
    """The run of ``report_fixture`` with everything judged."""
    run = build_run(path, count=count)
    draw = np.random.default_rng(4)
    info = run.manifest["feature_info"]
    words = ["people", "meet", "it", "every", "day", "in", "towns", "by", "the", "sea", "where", "examples", "follow"]

    def some(count: int) -> str:
        return " ".join(draw.choice(words, count))

    windows = {
        f: {
            "firing": [f"{some(9)} {i['topic']} {some(5)}" for _ in range(6)],
            "silent": [some(15) for _ in range(6)],
        }
        for f, i in info.items()
    }
    windows[run.manifest["features"][0]] = {"firing": [HOSTILE] * 3, "silent": ["quiet it is"] * 3}
    run.write_contexts(windows)
    for condition in run.manifest["conditions"]:
        if condition["name"].startswith("random"):
            condition["null"] = "random directions"
    run.manifest["category_words"] = {i["category"]: [i["category"]] for i in info.values()}
    found = judged(run, HashEmbedder(), seed=0, also=[LexicalEmbedder()])
    scores = {**(run.scores or {}), **{name: found[name] for name in PARTS if name in found}}
    scores["embedder"] = found["embedder"]
    run.write_scores(scores | {"confidence": believed(run, HashEmbedder(), kits())})
    return run
