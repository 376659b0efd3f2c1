"""Models by their names: whether two are one, one in another tuning, or of one family.

In: hub ids and packaged names. Out: words and yes or no. Refuses nothing: a name that says nothing is its own family.
"""

from __future__ import annotations

import re

_TUNING = re.compile(r"[-_](instruct|it|chat|base|pt|hf|bnb-4bit|fp8|awq|gptq)(?=$|[-_])")
_FAMILY = re.compile(r"^([a-z]+(?:-[a-z]+)*)[-_]?v?(\d+)")


def family(model: str) -> str:
    """A model's family by its name: ``qwen 2``, ``gemma 3``, ``llama 3``; the bare name where it shows no number."""
    name = _bare(model).removeprefix("meta-").removeprefix("tiny-")
    found = _FAMILY.match(name)
    alone = {"gemma": "gemma 3", "smollm2": "smollm 2"}  # the embedded pair, by its packaged names
    return alone.get(name) or (f"{found[1]} {found[2]}" if found else name)


def same_model(one: str, other: str) -> bool:
    """Equal but for organisation and case."""
    return _bare(one) == _bare(other)


def same_but_tuning(one: str, other: str) -> bool:
    """Equal but for what was done after pretraining: ``-Instruct``, ``-it``, ``-Base`` and the like."""
    return _untuned(one) == _untuned(other)


def _bare(model: str) -> str:
    return model.partition("@")[0].rpartition("/")[2].casefold()


def _untuned(model: str) -> str:
    return _TUNING.sub("", _bare(model))
