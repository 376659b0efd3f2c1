"""What may lie beside a dictionary's own files: planted truth, direct rows at a target, calibrated confidences.

In: where a dictionary is, a file's name. Out: its path, or what it holds. Refuses a file that holds something else.
Labels lie there too. Whatever a packaged dictionary brings along, a copy of it under another path brings along as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dragoman.core import Refusal, Site
from dragoman.dictionaries.folder import Folder
from dragoman.dictionaries.refs import DictionaryRef
from dragoman.store import ArraysFile, read_json, refusing
from dragoman.store.spans import shown

LABELS = "labels.json"
TRUTH = "truth.json"
DIRECT = "direct"  # folder of folders, one for each target, with the two files of the direct route at it
TABLE, BACKGROUND = "direct.safetensors", "background.safetensors"
CONFIDENCE = "confidence.json"


def beside(dictionary: Path | DictionaryRef, name: str) -> Path | None:
    """The file or folder of that name in a dictionary's folder on this machine, if there is one."""
    if isinstance(dictionary, DictionaryRef):
        if dictionary.kind != "file":
            return None
        dictionary = Path(dictionary.place).expanduser()
    with refusing("reading", dictionary):
        path = (dictionary if dictionary.is_dir() else dictionary.parent) / name
        return path if path.exists() else None


def direct_folder(dictionary: Path | DictionaryRef, target: Site) -> Path | None:
    """The folder beside a dictionary that holds the direct route's table and background at a target, if one does.

    Raises:
        Refusal: a table there is torn, or names no site.
    """
    root = beside(dictionary, DIRECT)
    if root is None:
        return None
    with refusing("reading", root):
        folders = [f for f in sorted(root.iterdir()) if (f / TABLE).is_file() and (f / BACKGROUND).is_file()]
    return next((f for f in folders if Site.parse(str(ArraysFile(f / TABLE).meta.get("site"))) == target), None)


def read_labels(folder: Folder) -> dict[str, str]:
    """Labels by feature id of ``labels.json`` in a dictionary's folder.

    Raises:
        Refusal: it holds something else.
    """
    labels = folder.json(LABELS)
    what = f"{folder.where}/{LABELS}"
    if not isinstance(labels, dict):
        raise Refusal(what, "labels are a JSON object {id: label}", "write it so, or take the file away")
    odd = next((i for i, label in labels.items() if not isinstance(label, str)), None)
    if odd is not None:
        raise Refusal(what, f"the label of '{shown(odd)}' is not text", "write labels as {id: label}")
    # Halves of characters can stand in JSON, and nowhere else.
    return {i: label.encode("utf-8", "replace").decode() for i, label in labels.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """What is known of a dictionary whose texts were written from topics.

    ``features``: by id, with ``category``, ``topic`` and whatever else is told of it, in the order of the file.
    ``category_words``: the words that name a category, its own name and its topics'.
    """

    features: Mapping[str, Mapping[str, Any]]
    category_words: Mapping[str, list[str]]

    def of(self, ids: Sequence[str]) -> dict[str, Any]:
        """What a run's manifest says of these features.

        Scores by planted truth are read over whole runs: with a feature of which nothing is known there are none.
        """
        if not all(i in self.features for i in ids):
            return {"feature_info": {}}
        return {"feature_info": {i: self.features[i] for i in ids}, "category_words": self.category_words}


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
