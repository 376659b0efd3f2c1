"""Several dictionaries named at once, and what the folder of each one's run is called.

In: references as ``beside`` has them, with ``*`` for any characters in a SAELens id, a path in a hub repository or a
path here; folders of dictionaries. Out: a reference each, in the order of their numbers; a name each. Refuses patterns
that nothing fits, and a dictionary that is named twice. Of the hub listings are read, of folders here names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from glob import escape
from pathlib import Path

from dragoman import tiny
from dragoman.core import Refusal
from dragoman.dictionaries.beside import DictionaryRef, located
from dragoman.dictionaries.folder import LocalFolder
from dragoman.dictionaries.hub import ids_of_release
from dragoman.dictionaries.layouts import layout_of
from dragoman.store import hub, refusing
from dragoman.store.spans import shown

_ANY = "*"
_MOST = 1000  # dictionaries of one pattern
_LONGEST = 100  # characters of a name
_DIGITS = re.compile(r"(\d{1,18})")


def named(refs: Sequence[str]) -> tuple[list[str], bool]:
    """One reference for each dictionary, and whether several were meant: by words, by a pattern or by a folder of them.

    Raises:
        Refusal: a pattern that no dictionary fits, or as reading the registry, the hub or the disk refuses.
    """
    found, several = list[str](), len(refs) > 1
    for ref in refs:
        inner = _inside(ref)
        several |= inner is not None
        found += [ref] if inner is None else inner
    return found, several


def _inside(ref: str) -> list[str] | None:
    """The dictionaries of a pattern or of a folder of dictionaries; None of what names one."""
    if _ANY not in ref or Path(ref).expanduser().exists():
        return _in_folder(ref)
    before = ref[: ref.index(_ANY)].rpartition("/")[0]
    here = bool(before) and Path(before).expanduser().is_dir()
    where = DictionaryRef.parse(f"file:{ref}" if here else ref)
    if where.kind == "file":
        root = Path(where.place).expanduser()
        anchor = Path(root.anchor) if root.is_absolute() else Path()
        with refusing("reading", anchor):
            pattern = _ANY.join(map(escape, str(root.relative_to(anchor)).split(_ANY)))
            paths = [p for p in anchor.glob(pattern) if p.is_file() or _is_dictionary(p)]
        fitting = [str(replace(where, place=str(p))) if where.key or where.indices else str(p) for p in paths]
    else:
        of_release, fits = where.kind == "sae", _pattern(where.inside)
        inside = ids_of_release(where) if of_release else _folders(where)
        fitting = [str(replace(where, inside=one)) for one in inside if not of_release or fits.fullmatch(one)]
    if not fitting:
        raise Refusal(f"dictionaries '{shown(ref)}'", "nothing fits the pattern", "write * for any part of a name")
    if len(fitting) > _MOST:
        raise Refusal(f"dictionaries '{shown(ref)}'", f"{len(fitting)} fit it, and {_MOST} are the most", "name fewer")
    return sorted(fitting, key=in_order)


def _folders(where: DictionaryRef) -> list[str]:
    """Paths in a hub repository that fit a pattern, component by component; files only at its end."""
    commit, found = hub.commit(where.place, where.revision, str(where)), [""]
    parts = where.inside.split("/")
    for k, part in enumerate(parts):
        if _ANY not in part:
            found = [f"{above}/{part}".lstrip("/") for above in found]
            continue
        fits, last = _pattern(part), k == len(parts) - 1
        listed = {above: hub.listing(where.place, commit, above, str(where)) for above in found}
        found = [
            f"{above}/{name}".lstrip("/")
            for above, entries in listed.items()
            for name, is_file in entries.items()
            if fits.fullmatch(name) and not name.startswith(".") and (not is_file or (last and part.count(".")))
        ]
    return found


def _pattern(words: str) -> re.Pattern[str]:
    """A star stands for any characters, and nothing else is special."""
    return re.compile(".*".join(map(re.escape, words.split(_ANY))), re.DOTALL)


def _in_folder(ref: str) -> list[str] | None:
    """The dictionaries in a folder here that is none itself; None where there are none."""
    path = Path(ref).expanduser()
    with refusing("reading", path):
        if ref in tiny.DATA or not path.is_dir() or _is_dictionary(path):
            return None
        inner = [str(one) for one in path.iterdir() if one.is_dir() and _is_dictionary(one)]
    return sorted(inner, key=in_order) or None


def _is_dictionary(path: Path) -> bool:
    return path.is_dir() and layout_of(LocalFolder(path)) is not None


def in_order(name: str) -> list[str]:
    """What names are sorted by, so that layer 10 comes after layer 9."""
    return [f"{int(part):018d}" if part.isdecimal() else part for part in _DIGITS.split(name)]


def folder_names(refs: Sequence[str], known: Mapping[str, str]) -> list[str]:
    """A folder's name for each dictionary: as few of the last parts of its reference as tell them apart.

    Args:
        refs: of the dictionaries, as they were named.
        known: names that earlier ones were given, by `identity`; they keep them.

    Raises:
        Refusal: a dictionary is named twice.
    """
    ours = [identity(ref) for ref in refs]
    for k, one in enumerate(ours):
        if one in ours[:k]:
            what = f"dictionary '{shown(refs[k])}'"
            raise Refusal(what, "it is named twice", "name each once, its features with --features")
    parts = [[part for part in re.split("[/:#]", one) if part] for one in ours]
    taken = {name.casefold() for name in known.values()}
    new = [some for one, some in zip(ours, parts, strict=True) if one not in known]
    depth = 1
    while depth < max(map(len, new), default=1) and not _apart([_name(one, depth) for one in new], taken):
        depth += 1
    names = list[str]()
    for one, some in zip(ours, parts, strict=True):
        name = own = known.get(one) or _name(some, depth)
        more = 1
        while one not in known and name.casefold() in taken:
            more += 1
            name = f"{own}-{more}"
        taken.add(name.casefold())
        names.append(name)
    return names


def identity(ref: str) -> str:
    """What a reference names, whatever it is called from where: its features and its revision have no part in it."""
    where = located(ref)
    if isinstance(where, Path):
        return ref if ref in tiny.DATA else f"{where.resolve()}"
    if where.kind != "file":
        return f"{replace(where, indices=(), revision=None)}"
    place = f"{Path(where.place).expanduser().resolve()}"
    return f"{place}#{where.key}" if where.key else place


def _name(parts: Sequence[str], depth: int) -> str:
    words = (re.sub(r"[^A-Za-z0-9_.-]+", "-", part).strip("-.") for part in parts[-depth:])
    return "-".join(filter(None, words))[-_LONGEST:].strip("-.") or "dictionary"


def _apart(names: Sequence[str], taken: set[str]) -> bool:
    folded = [name.casefold() for name in names]  # file systems may know names by capitals or not
    return len(set(folded)) == len(folded) and not taken & set(folded)
