"""Which models the registry's checkpoints were made for, so that a name it does not know can be told from one it does.

In: the registry; a model's name. Out: names; whether one is known. Refuses what reading the registry refuses.
"""

from __future__ import annotations

import re

from dragoman.verbalizers.modelnames import family, same_but_tuning
from dragoman.verbalizers.registry import checkpoints

_BLOCK = re.compile(r":\d+$")


def models() -> tuple[str, ...]:
    """Every model that a checkpoint sits on or reads, each once."""
    named = [name for c in checkpoints() for name in (c.base, *(_BLOCK.sub("", one) for one in c.reads))]
    return tuple(dict.fromkeys(named))


def is_known(source: str) -> bool:
    """Whether any checkpoint was made for this model (or site), another tuning of it or its family."""
    model = _BLOCK.sub("", source)
    return any(same_but_tuning(model, one) or family(model) == family(one) for one in models())
