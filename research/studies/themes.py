"""How many sentences about a theme are borne out, of latents that have a topic and of latents that have none.

In: the facts and texts that ``yardstick_run`` kept, an embedder. Out: rates with their intervals. The evidence is what
a run would hold: windows and firing words of the texts the product reads, none of them judging texts. Texts of rows
made where the features are silent stand beside: what they reach is not of the feature but of its documents.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dragoman.embed import Embedder
from dragoman.measures.claims import Windows, check_claims, claims_of
from dragoman.scoring.judged_run import CachedEmbedder
from dragoman.stats.intervals import wilson_interval
from dragoman.store import RunFolder, read_json

KINDS = ("topicless", "topical")
ROUTES = ("fires", "writes", "silent")


def themes_of(folder: Path, embedder: Embedder) -> dict[str, Any]:
    """Route -> ``themes`` of its texts, for the two readings and for rows made where the features are silent."""
    facts, texts = read_json(folder / "facts.json"), dict[str, dict[str, str]]()
    for row in RunFolder.open(folder / "run").rows():
        texts.setdefault(row["condition"], {})[row["feature"]] = row["text"]
    return {route: themes(facts, texts[route], embedder) for route in ROUTES if route in texts}


def themes(facts: Mapping[str, Any], texts: Mapping[str, str], embedder: Embedder) -> dict[str, Any]:
    """Kind of latent -> kind of sentence -> share supported, of one route's texts.

    ``any``: share of latents of which some theme sentence is supported, which is what a reader would take for a topic.
    """
    embedder = CachedEmbedder(embedder)
    known = {
        i: Windows(firing=one["firing"], silent=one["silent"], words=one.get("words") or None)
        for i, one in facts["evidence"].items()
    }
    claims = {i: claims_of(texts[i]) for i in known if i in texts}
    first = {i: next((c.text for c in own if c.kind == "theme"), "") for i, own in claims.items()}
    windows = [text for one in known.values() for text in (*one.firing, *one.silent)]
    embedder.encode([*windows, *(text for text in first.values() if text)])  # all at once: small batches are slow
    found: dict[str, Any] = {}
    for kind in KINDS:
        hits: dict[str, list[bool]] = {}
        for i in facts["chosen"][kind]:
            if i not in claims or not known[i].firing:
                continue
            others = [w for k, w in known.items() if k != i and w.firing]
            dealt = [text for k, text in first.items() if k != i and text and text != first[i]]
            checked = check_claims(claims[i], known[i], others=others, dealt=dealt, embedder=embedder)
            for claim in checked:
                if claim.status != "unchecked":
                    hits.setdefault(claim.kind, []).append(claim.status == "supported")
            themed = [c.status == "supported" for c in checked if c.kind == "theme"]
            hits.setdefault("any theme", []).append(any(themed))
        found[kind] = {name: _rate(some) for name, some in hits.items()}
    return found


def _rate(some: list[bool]) -> dict[str, float]:
    low, high = wilson_interval(sum(some), len(some))
    return {"value": sum(some) / len(some), "low": low, "high": high, "n": len(some)}
