"""What a person writes for a dictionary, where that is, and what may lie beside its own files.

In: text such as ``sae:RELEASE/SAE_ID#INDEX``, ``hf:ORG/REPO@REV/PATH#INDEX``, ``ORG/REPO/PATH``,
``file:PATH#KEY[INDEX]``, a path or a packaged name; where a dictionary is, and a file's name. Out: a `DictionaryRef`,
or a path here; the path of planted truth, direct rows at a target or calibrated confidences, or what they hold. Refuses
text of none of these forms, and a file that holds something else. Looks at no network, and at the disk only to tell a
path from a hub id, and for what lies beside.

Labels lie there too. Whatever a packaged dictionary brings along, a copy of it under another path brings along as well.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, Literal

from dragoman import tiny
from dragoman.core import Refusal, Site, public_address
from dragoman.dictionaries.folder import Folder
from dragoman.store import ArraysFile, read_json, refusing
from dragoman.store.cells import whole
from dragoman.store.hub import REPOSITORY, REVISION
from dragoman.store.spans import meant, shown

LABELS = "labels.json"
TRUTH = "truth.json"
DIRECT = "direct"  # folder of folders, one for each target, with the two files of the direct route at it
TABLE, BACKGROUND = "direct.safetensors", "background.safetensors"
CONFIDENCE = "confidence.json"

Kind = Literal["sae", "hf", "file"]
_OF_FILES = {".safetensors", ".npy", ".npz", ".pt", ".pth", ".bin", ".gguf", ".csv", ".parquet"}
FORMS = "sae:RELEASE/SAE_ID, hf:ORG/REPO@REVISION/PATH, ORG/REPO/PATH, file:PATH#KEY[INDEX] or a path"
_INDICES = r"(?P<indices>\d{1,12}(?:,\d{1,12})*)"
_SAE = re.compile(rf"(?P<place>[^/#@\s]+)(?:@(?P<revision>{REVISION}))?/(?P<inside>[^#\s]+?)(?:#{_INDICES})?$")
_HUB = re.compile(
    rf"(?P<place>{REPOSITORY})(?:@(?P<revision>{REVISION}))?(?:/(?P<inside>[^#\s]*?))?/?(?:#{_INDICES})?$"
)
_FILE = re.compile(rf"(?P<place>[^#]+)(?:#(?P<key>[^\[\]#]+)?(?:\[{_INDICES}\])?)?$")


@dataclass(frozen=True, slots=True, kw_only=True)
class DictionaryRef:
    """A dictionary, and perhaps features of it.

    ``place``: a SAELens release ("sae"), a hub repository ("hf") or a path ("file"). ``inside``: the SAE id, or the
    path in the repository. ``revision``: of the repository, which for "sae" is the one the release lies in. ``key``:
    which array of a file. ``indices``: which features.
    """

    kind: Kind
    place: str
    inside: str = ""
    revision: str | None = None
    key: str | None = None
    indices: tuple[int, ...] = ()

    @classmethod
    def parse(cls, text: str | Path) -> DictionaryRef:
        """Read any of the forms; what is there as a path is that path. Refused when it is none of them."""
        if isinstance(text, Path):
            return cls(kind="file", place=str(text))
        scheme, colon, rest = text.strip().partition(":")
        patterns = {"sae": _SAE, "hf": _HUB, "file": _FILE}
        if colon and scheme in patterns:
            return cls._of(scheme, patterns[scheme].match(rest), text)
        if scheme in ("np", "http", "https"):
            why = "it is the address of a page, not of a dictionary's files"
            raise Refusal(f"dictionary '{public_address(text)}'", why, f"name it as {FORMS}")
        if not _looks_like_hub(text):
            return cls._of("file", _FILE.match(text.strip()), text)
        return cls._of("hf", _HUB.match(text.strip()), text)

    @classmethod
    def _of(cls, scheme: str, found: re.Match[str] | None, text: str) -> DictionaryRef:
        groups = found.groupdict() if found else {}
        inside = groups.get("inside") or ""
        dots = any(not part.strip(".") for part in groups.get("place", "").split("/")) and scheme == "hf"
        if not found or dots or any(part in ("..", ".", "") for part in inside.split("/") if inside):
            raise Refusal(f"dictionary '{public_address(text)}'", "it is of no known form", f"name it as {FORMS}")
        kinds: dict[str, Kind] = {"sae": "sae", "hf": "hf", "file": "file"}
        indices = groups.get("indices")
        return cls(
            kind=kinds[scheme],
            place=groups["place"],
            inside=inside,
            revision=groups.get("revision"),
            key=groups.get("key"),
            indices=tuple(int(i) for i in indices.split(",")) if indices else (),
        )

    def __str__(self) -> str:
        """The one form it is printed in."""
        indices = ",".join(map(str, self.indices))
        if self.kind == "file":
            where = f"[{indices}]" if indices else ""
            return f"file:{self.place}" + (f"#{self.key or ''}{where}" if self.key or where else "")
        revision = f"@{self.revision}" if self.revision else ""
        inside = f"/{self.inside}" if self.inside else ""
        return f"{self.kind}:{self.place}{revision}{inside}" + (f"#{indices}" if indices else "")


def _looks_like_hub(text: str) -> bool:
    """Whether text without a scheme is ORG/REPO and perhaps a path, and not a path here."""
    bare = text.strip()
    if bare.startswith((".", "/", "~")) or Path(bare.partition("#")[0]).exists():
        return False
    return bool(_HUB.match(bare))


def located(ref: str | Path | DictionaryRef) -> Path | DictionaryRef:
    """Where a dictionary's files are: a packaged folder or a path, or a reference that is read by ranges.

    Raises:
        Refusal: a bare name that is neither here nor packaged, or text of no known form.
    """
    if isinstance(ref, Path):
        return ref.expanduser()
    if isinstance(ref, DictionaryRef):
        return ref
    if ref in tiny.DATA:
        return tiny.data(ref)
    if not set(ref) & set("/:") and not Path(ref.partition("#")[0]).exists():
        what, why = f"'{public_address(ref)}'", "there is no such folder or file here"
        if PurePath(ref.partition("#")[0]).suffix in _OF_FILES:
            raise Refusal(what, why, "check the path")
        names = [name for name in tiny.DATA if name.endswith("-sae")]
        forms = f"give a path, sae:RELEASE/SAE_ID, hf:ORG/REPO/PATH, or one of {', '.join(names)}"
        raise Refusal(what, f"{why}, and it is no packaged dictionary", meant(ref, names, forms))
    return DictionaryRef.parse(ref)


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
        folders = [f for f in sorted(root.iterdir()) if (f / TABLE).exists() and (f / BACKGROUND).exists()]
    return next((f for f in folders if Site.parse(str(ArraysFile(f / TABLE).meta.get("site"))) == target), None)


def place_of(entry: Mapping[str, Any]) -> Path | DictionaryRef | None:
    """Where a run's dictionary is on this machine, as far as its manifest says so."""
    at, ref = entry.get("at"), entry.get("ref")
    if isinstance(at, str):
        return DictionaryRef.parse(at)
    if not isinstance(ref, str):
        return None
    try:
        return tiny.data(ref) if ref in tiny.DATA else Path(ref)
    except Refusal:  # the package is not installed
        return None


def read_labels(folder: Folder) -> dict[str, str]:
    """Labels by feature id of ``labels.json`` in a dictionary's folder. Refused when it holds something else."""
    labels = folder.json(LABELS)
    what = f"{folder.where}/{LABELS}"
    if not isinstance(labels, dict):
        raise Refusal(what, "labels are a JSON object {id: label}", "write it so, or take the file away")
    odd = next((i for i, label in labels.items() if not isinstance(label, str)), None)
    if odd is not None:
        raise Refusal(what, f"the label of '{shown(odd)}' is not text", "write labels as {id: label}")
    # Halves of characters can stand in JSON, and nowhere else.
    return {i: str(whole(label)) for i, label in labels.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """What is known of a dictionary whose texts were written from topics.

    ``features``: by id, with ``category``, ``topic`` and whatever else is told of it, in the order of the file.
    ``category_words``: the words that name a category, its own name and its topics'.
    """

    features: Mapping[str, Mapping[str, Any]]
    category_words: Mapping[str, list[str]]

    def of(self, ids: Sequence[str]) -> dict[str, object]:
        """What a run's manifest says of these features.

        Scores by planted truth are read over whole runs: with a feature of which nothing is known there are none.
        """
        if not all(i in self.features for i in ids):
            return {"feature_info": {}}
        return {"feature_info": {i: self.features[i] for i in ids}, "category_words": self.category_words}


def read_truth(path: Path) -> Truth:
    """A file of planted truth. Refused when it holds something else."""
    found = read_json(path)
    try:
        features = {str(one["id"]): one for one in found["features"]}
        words = {str(name): [str(word) for word in some] for name, some in found["category_words"].items()}
        named = {name for name, some in words.items() if any(word.strip() for word in some)}
        known = all(one["category"] in named and isinstance(one["topic"], str) for one in features.values())
    except (TypeError, KeyError, AttributeError):
        known = False
        features, words = {}, {}
    if not known:
        why = "it is no list of features with a topic and a category that has words"
        raise Refusal(f"{path}", why, "get the published file again")
    return Truth(features=features, category_words=words)
