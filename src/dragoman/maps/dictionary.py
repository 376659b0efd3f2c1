"""Which dictionary a crossing was fitted on, told by so few numbers that a crossing can bear them.

In: a dictionary's directions. Out: a ``DictionaryKey``, which knows any of them again. Refuses directions of another
dictionary, and files that hold another thing.

Of each row four inner products with fixed random vectors are kept: they tell rows apart whose cosine is below 0.9999,
and do not mind in which precision, or how many at a time, the rows were read.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dragoman.core import Directions, Floats, Refusal, frozen
from dragoman.store import Contents, digest, write_arrays

_FILE = Contents(
    called="a dictionary's key",
    holds="dictionary key",
    origin="dragoman fit",
    arrays={"sketch": "mk"},
    words={"ids": list, "dead": list, "width": int, "digest": str},
)
_NUMBERS = 4
_NEAR = 0.01
NEAR, OTHERS = 50, 2000  # rivals of each feature asked for, and features drawn at random, that are watched besides


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DictionaryKey:
    """``ids``: M features; ``sketch``: (M, 4) float32; ``width``: of their rows; ``digest``: of all rows and ids.

    ``dead``: features that have no direction.
    """

    ids: tuple[str, ...]
    sketch: Floats
    width: int
    digest: str
    dead: tuple[str, ...] = ()

    @classmethod
    def of(cls, directions: Directions) -> DictionaryKey:
        """The key of all directions of a dictionary."""
        return cls(
            ids=directions.ids,
            sketch=frozen(_sketch(directions)),
            width=directions.d_model,
            digest=digest("\n".join(directions.ids), directions.unit),
            dead=directions.dead,
        )

    def refuse_another(self, directions: Directions, place: str) -> None:
        """Refuse directions that are not rows of this dictionary; ``place`` is where the crossing lies.

        Raises:
            Refusal: a row of another width, of an unknown id, or that points elsewhere.
        """
        what, instead = f"a dictionary for {place}", "name that dictionary, or fit a crossing on this one"
        if directions.d_model != self.width:
            raise Refusal(
                what, f"its rows are {directions.d_model} wide, those it was fitted on are {self.width} wide", instead
            )
        where = {name: row for row, name in enumerate(self.ids)}
        unknown = next((name for name in directions.ids if name not in where), None)
        if unknown is not None:
            raise Refusal(what, f"it was fitted on {len(self.ids)} features, and none is {unknown}", instead)
        off = np.abs(_sketch(directions) - self.sketch[[where[name] for name in directions.ids]]).max(axis=1)
        if off.max() > _NEAR:
            name = directions.ids[int(np.argmax(off))]
            raise Refusal(what, f"feature {name} is another row in the dictionary it was fitted on", instead)

    def save(self, path: Path) -> None:
        """Write to one file."""
        words = {name: getattr(self, name) for name in ("width", "digest")}
        lists = {"ids": list(self.ids), "dead": list(self.dead)}
        write_arrays(path, {"sketch": self.sketch}, {"holds": "dictionary key", **lists, **words})

    @classmethod
    def load(cls, path: Path) -> DictionaryKey:
        """Read what ``save`` wrote."""
        arrays, words = _FILE.read(path)
        ids, dead = tuple(words["ids"]), tuple(words["dead"])
        if arrays["sketch"].shape != (len(ids), _NUMBERS):
            raise Refusal(f"{path}", f"its sketch is of {len(arrays['sketch'])} rows, not {len(ids)}", "fit it again")
        return cls(ids=ids, dead=dead, sketch=frozen(arrays["sketch"]), width=words["width"], digest=words["digest"])


def to_watch(dictionary: Directions, asked: Iterable[str | int], *, seed: int = 0) -> tuple[str, ...]:
    """Which features of a large dictionary to count: those asked for, their rivals, and some thousand others.

    A card's margin is against the features that are counted, so the likeliest to be mistaken for those asked for are
    among them: the 50 nearest by decoder cosine of each.

    Raises:
        Refusal: a feature the dictionary does not have.
    """
    own = dictionary.pick(asked)
    if len(own) == len(dictionary):
        return dictionary.ids
    chosen = set(own.ids)
    count = min(NEAR + 1, len(dictionary))
    for row in own.unit:
        nearest = np.argpartition(-(dictionary.unit @ row), count - 1)[:count]
        chosen |= {dictionary.ids[i] for i in nearest}
    drawn = np.random.default_rng(seed).permutation(len(dictionary))[:OTHERS]
    chosen |= {dictionary.ids[i] for i in drawn}
    return tuple(name for name in dictionary.ids if name in chosen)


def _sketch(directions: Directions) -> Floats:
    fixed = np.random.default_rng(0).normal(size=(directions.d_model, _NUMBERS)).astype(np.float32)
    return directions.unit @ fixed
