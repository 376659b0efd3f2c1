"""What may lie beside a dictionary's own files: planted truth, direct rows at a target, calibrated confidences.

In: where a dictionary is, a file's name. Out: its path, or what it holds. Refuses a file that holds something else.
Labels lie there too (`read.LABELS`), and are read with the rows. Whatever a packaged dictionary brings along, a copy of
it under another path brings along as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dragoman.core import Refusal
from dragoman.dictionaries.refs import DictionaryRef
from dragoman.store import read_json

TRUTH = "truth.json"
DIRECT = "direct"  # folder of folders, one for each target, with direct.safetensors and background.safetensors
CONFIDENCE = "confidence.json"


def beside(dictionary: Path | DictionaryRef, name: str) -> Path | None:
    """The file or folder of that name in a dictionary's folder on this machine, if there is one."""
    if isinstance(dictionary, DictionaryRef):
        if dictionary.kind != "file":
            return None
        dictionary = Path(dictionary.place).expanduser()
    path = (dictionary if dictionary.is_dir() else dictionary.parent) / name
    return path if path.exists() else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """What is known of a dictionary whose texts were written from topics.

    ``features``: by id, with ``category``, ``topic`` and whatever else is told of it, in the order of the file.
    ``category_words``: the words that name a category, its own name and its topics'.
    """

    features: Mapping[str, Mapping[str, Any]]
    category_words: Mapping[str, list[str]]


def read_truth(path: Path) -> Truth:
    """A file of planted truth.

    Raises:
        Refusal: it holds something else.
    """
    found = read_json(path)
    try:
        features = {str(one["id"]): one for one in found["features"]}
        words = {str(name): [str(word) for word in some] for name, some in found["category_words"].items()}
        known = all(one["category"] in words and isinstance(one["topic"], str) for one in features.values())
    except (TypeError, KeyError, AttributeError):
        known = False
        features, words = {}, {}
    if not known:
        raise Refusal(f"{path}", "it is no list of features with category and topic", "get the published file again")
    return Truth(features=features, category_words=words)
