"""Which files of a model's folder decide what the model gives, and a digest of them.

In: a folder, or a reference. Out: names, digests of contents. Refuses what `resolve` and the readers of files refuse.
"""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path

from dragoman.models.load import is_adapter, sits_on, stacked
from dragoman.models.resolve import SKIP, folder_of
from dragoman.store import digest, fingerprint_of, refusing

# Beside what is never read (SKIP): what people read. All else counts, also what no library reads yet.
_FOR_PEOPLE = ["readme*", "licen[cs]e*", "notice*", "use_policy*", "*.md", "*.pdf", "*.png", "*.jp*g", "*.gif", "*.svg"]


def deciding(folder: Path, *, weights: bool = True) -> list[str]:
    """Names of the files of a folder that decide: configuration, tokenizer, templates, weights unless left out."""
    skipped = [*SKIP, *_FOR_PEOPLE, *([] if weights else ["*.safetensors"])]
    with refusing("reading", folder):
        names = [p.name for p in folder.iterdir() if p.is_file() and not p.name.startswith(".")]
    return sorted(name for name in names if not any(fnmatch(name.lower(), pattern) for pattern in skipped))


def fingerprint_of_model(ref: str | Path) -> str:
    """Digest of all files that decide a model, or an adapter and the models under it."""
    folder = folder_of(ref)
    if not is_adapter(folder):
        return fingerprint_of(folder, deciding(folder))
    adapters, root = stacked(folder, sits_on(folder) or "", f"model {ref}")
    folders = [*adapters, folder_of(root)]
    return digest(*(fingerprint_of(each, deciding(each)) for each in folders))
