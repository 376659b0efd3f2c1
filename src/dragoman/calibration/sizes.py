"""How much a calibration reads and says.

In: numbers. Out: ``Sizes``. Refuses numbers below what anything can be learnt from.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from dragoman.core import Refusal
from dragoman.store.spans import shown

LEAST = {"documents": 40, "latents": 20, "known": 3, "nulls": 3, "firing": 3, "silent": 3, "paired": 20}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """``documents``: read at most, drawn by the seed. ``latents``: drawn at random. ``known``: known answers of a kind.

    Of vectors without an encoder so many directions are made as ``latents`` says, three of each of ``words``.

    ``nulls``: of each null. ``firing``, ``silent``: windows of a latent. ``dealt``: sentences of other latents held
    against each known answer, of each kind. ``paired``: documents of which both models' tokens are held in memory, for
    what is constructed.
    """

    documents: int = 6000
    latents: int = 400
    known: int = 40
    nulls: int = 60
    firing: int = 24
    silent: int = 24
    dealt: int = 1
    paired: int = 600

    @property
    def words(self) -> int:
        """Of which directions are made: a third of ``latents``, 20 at least."""
        return max(-(-self.latents // 3), LEAST["latents"])

    def __post_init__(self) -> None:
        """Refuse too few of anything."""
        for one in fields(self):
            value, fewest = getattr(self, one.name), LEAST.get(one.name, 1)
            if isinstance(value, bool) or not isinstance(value, int):
                raise Refusal(f"{one.name} {shown(repr(value))}", "it is no whole number", "pass an int")
            if value < fewest:
                name = one.name
                raise Refusal(
                    f"{value} {name}", f"nothing can be learnt from fewer than {fewest}", f"ask for more {name}"
                )
