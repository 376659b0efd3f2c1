"""Runs of one dictionary under several settings, made without a model: what each text says is planted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dragoman.store import RunFolder, digest
from judging import whole

WORDS = ["owl", "boat", "bread", "lamp", "river", "stone", "glove", "train", "piano", "onion", "ladder", "candle"]
IDS = [str(100 + k) for k in range(len(WORDS))]
WORD = dict(zip(IDS, WORDS, strict=True))
DEALT = dict(zip(IDS, [*WORDS[1:], WORDS[0]], strict=True))  # every feature has the next one's word
Says = Callable[[str], str]


def own(feature: str) -> str:
    """A text that quotes its feature's word and calls it the final token."""
    return said(WORD[feature])


def dealt(feature: str) -> str:
    """The same of another feature."""
    return said(DEALT[feature])


def said(word: str) -> str:
    return f'Text about the {word} and people.\n\nIt turns on "{word}".\n\nFinal token "{word}" ends the phrase.'


def run_of(
    path: Path,
    texts: Mapping[str, Says],
    *,
    ids: Sequence[str] = tuple(IDS),
    scores: Mapping[str, Any] | None = None,
    contexts: bool = True,
    **manifest: Any,
) -> RunFolder:
    """A finished run; ``texts``: condition -> what it says of a feature."""
    told = {
        "dragoman": "0.1.0",
        "source": "m:1",
        "target": "n:2",
        "dictionary": {"ref": "some-sae", "digest": digest("some-sae")},
        "settings": {"washout": "on-shell"},
        "verbalizers": {"by": {"checkpoint": "some/av", "contract": "kitft"}},
        "conditions": [
            {"name": name, "route": "direct" if name == "fires" else "map", "washout": "on-shell", "verbalizer": "av"}
            | ({"reading": name} if name in ("fires", "writes") else {})
            for name in texts
        ],
        "features": list(ids),
        **manifest,
    }
    run = RunFolder.create(path, {"plan_digest": digest(path.name, repr(sorted(told)), *texts), **told})
    rows = [
        whole({"feature": f, "condition": name, "sample": 0, "text": says(f)})
        for name, says in texts.items()
        for f in ids
    ]
    run.append(rows)
    if contexts:
        fires = {
            f: {
                "firing": [f"They spoke of the {WORD[f]} all day."] * 3,
                "silent": ["Nothing of the kind was there."] * 3,
                "words": {WORD[f]: 0.8, "the": 0.1},
            }
            for f in ids
        }
        run.write_contexts(fires)
    if scores is not None:
        run.write_scores({"format": 2, **scores})
    return run


def sure_of(chances: Mapping[str, float], condition: str = "fires", *, threshold: float = 0.6) -> dict[str, Any]:
    """The part "confidence" of scores."""
    member = {"needs": ["n_eff"], "reads": ["coverage"], "threshold": threshold, "fitted_on": "a pair"}
    rows = [
        {"feature": f, "probability": p, "answered": p > threshold, "member": "direct", "why": []}
        for f, p in chances.items()
    ]
    return {"confidence": {"embedder": "words", "members": {"direct": member}, "per_feature": {condition: rows}}}


def claims_of(statuses: Mapping[str, Mapping[str, str]], condition: str = "fires") -> dict[str, Any]:
    """The part "claims": feature -> kind -> status, a sentence each."""
    rows = [
        {
            "feature": f,
            "label": "",
            "claims": [
                {"sentence": kind, "kind": kind, "status": status, "why": "planted", "figures": {}, "quoted": []}
                for kind, status in kinds.items()
            ],
        }
        for f, kinds in statuses.items()
    ]
    return {"claims": {condition: rows}}
