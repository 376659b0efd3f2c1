"""What a run's ``manifest.json`` must be before anything reads in it, and before texts are judged by it.

In: a manifest as JSON. Out: nothing. Refuses conditions, features and planted truth of another form than dragoman
writes, and, for judging, a planted category that no word names. What a manifest leaves out its readers ask for by
`required` and `check_whole`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dragoman.core import Refusal, Site
from dragoman.store.spans import shown


def check_manifest(path: Path, manifest: Mapping[str, Any]) -> None:
    """Refuse a manifest whose parts are of another form than they are written in."""
    for name, (fits, form) in _PARTS.items():
        if name in manifest and not fits(manifest[name]):
            raise _odd(path, f"its {name} {form}")


def required(path: Path, manifest: Mapping[str, Any], name: str) -> Any:
    """A part that somebody needs of a manifest, by its name; refused where it is not there."""
    if name not in manifest:
        raise _odd(path, f"it tells no {name}")
    return manifest[name]


def check_whole(path: Path, manifest: Mapping[str, Any]) -> None:
    """Refuse a manifest without what every run that dragoman wrote tells: its places and its conditions."""
    for name in ("source", "target"):
        Site.parse(required(path, manifest, name))
    if not required(path, manifest, "conditions"):
        raise _odd(path, "its conditions are none")


def short_of(manifest: Mapping[str, Any], rows: int) -> str:
    """How many explanations a run of that many rows has of those that it will have; "" of one that has all.

    A manifest that does not count its rows tells its conditions, each of which has some, and perhaps how many samples
    every feature has in each.
    """
    names = [one["name"] for one in manifest.get("conditions") or []]
    samples = (manifest.get("settings") or {}).get("samples")
    of_all = samples * len(names) * len(manifest.get("features", ())) if isinstance(samples, int) else 0
    due = manifest.get("rows", of_all)
    return f"it holds {rows} of its {due} explanations" if rows < due else ""


def check_truth(path: Path, manifest: Mapping[str, Any]) -> None:
    """Refuse planted truth that nothing can be judged by: a category that no word names.

    A run with such a manifest can be shown all the same.
    """
    words = manifest.get("category_words") or {}
    for feature, info in (manifest.get("feature_info") or {}).items():
        if not any(word.strip() for word in words.get(info["category"], ())):
            category, whose = shown(info["category"]), shown(feature)
            raise _odd(path, f"no word in its category_words names the category '{category}' of feature {whose}")


def _odd(path: Path, why: str) -> Refusal:
    return Refusal(f"{path}", why, "make the run again in another folder")


def _texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _conditions(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(one, dict) and isinstance(one.get("name"), str) for one in value)


def _truth(value: object) -> bool:
    each = value.values() if isinstance(value, dict) else [None]
    return all(isinstance(one, dict) and isinstance(one.get("category"), str) for one in each)


def _words(value: object) -> bool:
    return isinstance(value, dict) and all(_texts(some) for some in value.values())


def _object(value: object) -> bool:
    return value is None or isinstance(value, dict)


def _parts(value: object) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(
            isinstance(one, dict)
            and _texts(one.get("features"))
            and _count(one.get("rows"))
            and isinstance(one.get("plan"), str)
            for one in value
        )
    )


def _count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


_OBJECTS = [
    "dictionary",
    "settings",
    "labels",
    "verbalizers",
    "digests",
    "versions",
    "seeds",
    "map_report",
    "background",
    "about",
]
_PARTS: dict[str, tuple[Callable[[object], bool], str]] = {
    "conditions": (_conditions, "are no list of objects with names"),
    "features": (_texts, "are no list of ids"),
    "feature_info": (_truth, "is no object of features with categories"),
    "category_words": (_words, "is no object of lists of words"),
    "parts": (_parts, "are no list of features with rows and a plan"),
    "rows": (_count, "is no count of them"),
    "source": (lambda value: isinstance(value, str), "is no site"),
    "target": (lambda value: isinstance(value, str), "is no site"),
    **dict.fromkeys(_OBJECTS, (_object, "is no object")),
}
