"""What a command's help shows beside its options: lines to type, and which options most people need first.

In: a command's name. Out: text for the foot of its help; names of options. Refuses nothing.
"""

from __future__ import annotations

MOST_USED = "Most used"
# Options that stand first in the help of a command with many, under a heading of their own.
FIRST = {
    "explain": ("features", "by", "out", "source", "reading", "through", "texts", "native", "samples", "device"),
    "fit": ("features", "by", "target", "source", "texts", "out", "map_kind", "dtype", "device", "as_json"),
    "calibrate": ("by", "source", "texts", "latents", "documents", "reading", "out", "engine", "device", "as_json"),
    "rank": ("by", "features", "source", "texts", "condition", "out", "page", "dtype", "device", "as_json"),
    "serve": ("by", "source", "prompts", "through", "texts", "confidence", "port", "most_vectors", "dtype", "device"),
}
_WITH_WORDS = ("explain", "fit")
_EXAMPLES = {
    "demo": ("dragoman demo", "dragoman demo --features 2 -o runs/more"),
    "explain": (
        "dragoman explain tiny-sae --features 1505,4497 --by tiny-gemma-av",
        "dragoman explain SAE --features top:100 --through CROSSING --by AV",
        "dragoman explain probes.npz --source MODEL:20 --by AV",
        "dragoman explain SAE --features 982 --route as-is --by AV",
        "dragoman explain 'sae:RELEASE/layer_*/16k' --graph graph.json --by AV",
    ),
    "fit": ("dragoman fit tiny-sae --by tiny-gemma-av -o pair", "dragoman fit SAE --target MODEL:41 --texts mine.txt"),
    "calibrate": (
        "dragoman calibrate tiny-sae --by tiny-gemma-av -o pair.json",
        "dragoman calibrate SAE --by AV --texts mine.txt --latents 400 -o pair.json",
        "dragoman explain SAE --by AV --confidence pair.json",
    ),
    "inspect": ("dragoman inspect pair",),
    "score": ("dragoman score runs/explain", "dragoman score runs/explain --steer --json"),
    "label": ("dragoman label runs/explain --with tiny-smollm2", "dragoman label RUN --with MODEL --device cuda"),
    "view": ("dragoman view runs/explain", "dragoman view runs/a runs/b", "dragoman view runs/explain --bundle shared"),
    "compare": (
        "dragoman compare runs/a runs/b -o compared.html",
        "dragoman compare runs/post runs/post --condition plain=washed",
    ),
    "report": ("dragoman report runs/explain -o page.html",),
    "rank": (
        "dragoman rank runs/a runs/b runs/c --page ranked.html",
        "dragoman rank SAE --by AV --by AV2 --features top:100 -o runs/ranked",
    ),
    "match": (
        "dragoman match tiny-sae tiny-gemma-sae --features 1505,4497",
        "dragoman match SAE OTHER --features random:50 --other-labels EXPORT --texts mine.txt",
    ),
    "serve": (
        "dragoman serve tiny-sae --by tiny-gemma-av",
        "dragoman serve --source MODEL:20 --through CROSSING --by AV --prompts",
        'curl 127.0.0.1:8766/explain --json \'{"features": ["1505"]}\'',
    ),
    "checkpoints": (
        "dragoman checkpoints",
        "dragoman checkpoints --for Qwen/Qwen2.5-7B-Instruct:20",
    ),
    "doctor": ("dragoman doctor", "dragoman doctor --sae SAE --by AV"),
    "export": ("dragoman export RUN --model-id ID --source-id ID --author-id ID -o out",),
    "fit confidence": ("dragoman confidence fit runs/explain --checked checked.csv",),
    "recalibrate": ("dragoman confidence recalibrate runs/explain --checked checked.csv",),
}


def examples(name: str) -> str:
    """The foot of a command's help: a line each, none broken where the screen is 80 columns wide."""
    words = ["", "Words: docs/glossary.md"] if name in _WITH_WORDS else []
    return "\n".join(["Examples:", *(f"  {line}" for line in _EXAMPLES[name]), *words])
