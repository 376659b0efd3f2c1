"""What a caller in Python passes, as what it is meant to be.

In: references, paths, open things, words. Out: the same, of one type. Refuses in one sentence what is nothing of the
kind, before anything is opened.
"""

from __future__ import annotations

from numbers import Real
from pathlib import Path
from typing import Any

from dragoman.core import Refusal, Site, Talk
from dragoman.dictionaries import Dictionary, open_dictionary
from dragoman.dictionaries.beside import DictionaryRef
from dragoman.maps import Crossing
from dragoman.store.spans import shown
from dragoman.verbalizers.protocol import AnyVerbalizer


def verbalizer_of(given: object, name: str) -> AnyVerbalizer | str:
    """An open verbalizer, or the reference of one."""
    if isinstance(given, str | Path):
        return str(given)
    if not isinstance(given, type) and isinstance(given, AnyVerbalizer):
        return given
    raise _odd(name, given, "it is no verbalizer", "pass an open one, or its reference")


def dictionary_of(given: object) -> Dictionary:
    """A dictionary, opened if it is a reference."""
    if isinstance(given, Dictionary):
        return given
    if isinstance(given, str | Path | DictionaryRef):
        return open_dictionary(given)
    raise _odd("what is read", given, "it is no dictionary", "pass features of a dictionary, one, or its reference")


def crossing_of(given: object) -> Crossing | None:
    """A crossing, loaded if it is a folder; None where none is named."""
    if given is None or isinstance(given, Crossing):
        return given
    return Crossing.load(path_of(given, "through", "pass a crossing, or its folder"))


def opened_crossing(through: Crossing | str | Path | None, texts: object, map: str | None) -> Crossing | None:
    """The crossing that is named; refuse words that speak of fitting another."""
    crossing = crossing_of(through)
    if crossing is None:
        return None
    if texts is not None:
        raise Refusal(f"texts beside {crossing.name}", "it was fitted on texts of its own", "name one of the two")
    if map is not None and map != crossing.recipe:
        raise Refusal(f"map '{map}' with {crossing.name}", f"it was fitted as {crossing.recipe}", "leave --map out")
    return crossing


def refuse_crossed_as_is(crossing: Crossing | None) -> None:
    """Refuse a crossing where directions cross as they are."""
    if crossing is not None:
        what = f"route 'as-is' through {crossing.name}"
        raise Refusal(what, "as they are, directions cross by nothing", "leave it out")


def target_of(given: object) -> Site:
    """Where directions should arrive: a site, its text, or what an open verbalizer reads."""
    if isinstance(given, Site):
        return given
    if not isinstance(given, type) and isinstance(given, AnyVerbalizer):
        return given.site
    return Site.parse(str(given))


def talk_of(given: object) -> Talk:
    """Where progress goes; nowhere when None."""
    if given is None or isinstance(given, Talk):
        return given or Talk()
    raise _odd("talk", given, "it is no Talk", "pass Talk(say=print), or leave it out")


def washout_of(given: object) -> str:
    """How directions are washed, as a word; a share may be a number."""
    if isinstance(given, str) or (isinstance(given, Real) and not isinstance(given, bool)):
        return str(given)
    raise _odd("washout", given, "it is no word and no share", "say on-shell, none, projected or 0.3")


def path_of(given: object, name: str, instead: str = "pass a str or a Path") -> Path:
    """A path."""
    if isinstance(given, str | Path):
        return Path(given)
    raise _odd(name, given, "it is no path", instead)


def path_if_any(given: object, name: str) -> Path | None:
    """A path, or None where none is named."""
    return None if given is None else path_of(given, name, "pass a str or a Path, or leave it out")


def several_of(given: object, name: str, instead: str) -> list[Any]:
    """What a list or tuple holds; text is none, for its letters would be taken for its parts."""
    if isinstance(given, list | tuple):
        return list(given)
    raise _odd(name, given, "it is no list", instead)


def conditions_of(given: object) -> tuple[str, ...]:
    """Names of conditions, of which one may stand alone."""
    every = [given] if isinstance(given, str) else several_of(given, "conditions", "pass a list of names")
    odd = next((one for one in every if not isinstance(one, str)), None)
    if odd is not None:
        raise _odd("condition", odd, "it is no name", "pass a str")
    return tuple(every)


def word_of(given: object, name: str) -> str:
    """A word."""
    if isinstance(given, str):
        return given
    raise _odd(name, given, "it is no word", "pass a str")


def _odd(name: str, given: object, why: str, instead: str) -> Refusal:
    return Refusal(f"{name} {shown(repr(given))}", why, instead)
