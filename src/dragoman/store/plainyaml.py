"""YAML as plain values, from files that nobody vouches for.

In: the text or the path of a small YAML file. Out: dicts, lists, strings and numbers. Refuses tags that would build
other objects, aliases that would multiply the file or hold themselves, large files, and all that is not YAML.
"""

from __future__ import annotations

from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from dragoman.core import Refusal
from dragoman.store.files import opened
from dragoman.store.spans import words_of

_SIZE = 64 << 10  # bytes: a sidecar takes a few thousand, and the parser needs a second for so many
_NODES = 50_000  # values after every alias has been written out; a sidecar has some fifty
_DEPTH = 40
INSTEAD = "get the published file again"


def read_yaml(path: Path, what: str) -> Any:
    """The contents of a file, which a refusal calls ``what``. Refused as the module says."""
    with opened(path) as file:
        content = file.read(_SIZE + 1)
    if len(content) > _SIZE:
        raise Refusal(what, f"it cannot be read as plain YAML (it takes more than {_SIZE >> 10} kB)", INSTEAD)
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Refusal(what, f"it cannot be read as plain YAML (it is not UTF-8: {error.reason})", INSTEAD) from error
    return parse_yaml(text, what)


def parse_yaml(text: str, what: str, why: str = "it cannot be read as plain YAML", instead: str = INSTEAD) -> Any:
    """The contents of a text. Refused as the module says.

    A refusal calls it ``what``, begins its reason with ``why`` (the parser's own follows in brackets), and advises
    ``instead``.
    """
    try:
        return deepcopy(_parsed(text))
    # Beside its own errors the parser lets through whatever a value's conversion meets: dates that are none, numbers
    # of ten thousand digits, words under a number's tag.
    except Exception as error:
        raise Refusal(what, f"{why} ({words_of(error, 160)})", instead) from error


@lru_cache(maxsize=32)
def _parsed(text: str) -> Any:
    """A checkpoint's sidecar is asked for a dozen times a run, and the parser takes milliseconds a time."""
    loader = _Shallow(text)
    root = loader.get_single_node()
    if root is None:
        return None
    _written_out(root, {}, set())
    return loader.construct_document(root)


class _Shallow(yaml.SafeLoader):
    """The plain loader, for values that are not nested deep: each level costs the scanner more than the one before."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self.depth += 1
        if self.depth > _DEPTH:
            raise ValueError(f"it is nested more than {_DEPTH} deep")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def _written_out(node: yaml.Node, known: dict[int, int], within: set[int]) -> int:
    """How many values a node stands for when its aliases are written out; counted, not done.

    Ten aliases to ten aliases, nine times over, are a few hundred bytes of text. As plain values they would be shared,
    but merged (``<<``) or printed they would not.
    """
    if id(node) in known:
        return known[id(node)]
    if id(node) in within:
        raise ValueError("a value holds itself")
    within.add(id(node))
    children: list[yaml.Node] = []
    if isinstance(node, yaml.SequenceNode):
        children = list(node.value)
    elif isinstance(node, yaml.MappingNode):
        children = [part for pair in node.value for part in pair]
    total = 1 + sum(_written_out(child, known, within) for child in children)
    if total > _NODES:
        raise ValueError(f"with its aliases written out it holds more than {_NODES} values")
    within.discard(id(node))
    known[id(node)] = total
    return total
