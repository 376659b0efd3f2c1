"""Labels for attribution graphs of circuit-tracer, and its local feature files.

In: entries of one condition by layer; perhaps a graph. Out: which features a graph's nodes are of; a new folder:
labels under both ids that a graph has for a feature, a page of each feature, a copy of the graph with its labels.
Refuses features without a number, and graphs that are no such JSON.

A graph (circuit-tracer 0.5.0, ``frontend/graph_models.py``) names a feature F of layer L in two ways: ``node_id``
begins with "L_F_", and ``feature`` is Cantor's number of the pair, (L + F)(L + F + 1) / 2 + F; in graphs of schema
version 0 it is F itself. Its page reads labels from ``qParams.clerps``, pairs of ``feature`` as text and the label, and
keeps those that a reader writes in the browser under ``local-clerp-SCAN``, pairs of "🤖L_F" and the label
(``util-cg.js``). It reads a feature's page from ``SCAN/N.json``, N being Cantor's number, where SCAN begins with "./"
(``init-feature-examples.js``).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dragoman.core import Refusal
from dragoman.exports.entries import Entry, numbered, windows_in_tokens
from dragoman.records import TokenWindow
from dragoman.store.files import opened
from dragoman.store.outputs import new_folder
from dragoman.store.spans import shown

_NODE = re.compile(r"(?P<layer>\d{1,4})_(?P<feature>\d{1,12})_\d{1,6}")
_KIND = "cross layer transcoder"  # what the graph calls every feature's node
_LIMIT = 1 << 30  # bytes of a graph


def cantor(layer: int, feature: int) -> int:
    """Cantor's number of a pair: what a graph's ``feature`` holds."""
    return (layer + feature) * (layer + feature + 1) // 2 + feature


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """The features of one layer: ``entries`` of one condition, and by feature what is known around them.

    ``contexts``: the run's windows; ``tokens``: of each of these windows, its tokens and activations, where the run
    keeps them; ``lens``: "source": the words that its row writes most. Each is asked for one feature at a time.
    ``distrust``: what is said first, where the map that carried them is unusable.
    """

    layer: int
    entries: Sequence[Entry]
    contexts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    tokens: Mapping[str, Sequence[TokenWindow]] = field(default_factory=dict)
    lens: Mapping[str, Mapping[str, Sequence[str]]] = field(default_factory=dict)
    distrust: str = ""


def write_circuit(folder: Path, blocks: Sequence[Block], graph: Path | None = None) -> list[Path]:
    """Write labels, feature pages and, where one is given, the graph with its labels; a page at a time is held.

    Args:
        folder: to be made.
        blocks: of which the features are.
        graph: a graph's JSON file.

    Raises:
        Refusal: two blocks are of one layer, or as the module says.
    """
    by_layer = {one.layer: one for one in blocks}
    if len(by_layer) < len(blocks):
        raise Refusal("labels of two runs of one layer", "a node has one label", "export them one at a time")
    found = {
        layer: {n: each for n, each in numbered(one.entries, "circuit-tracer").items() if each.brief}
        for layer, one in by_layer.items()
    }
    labels = {(layer, n): each.brief for layer, some in found.items() for n, each in some.items()}
    drawn = None if graph is None else labelled_graph(_graph(graph), labels, list(by_layer))
    files = {
        "labels.json": {f"{layer}_{n}": label for (layer, n), label in labels.items()},
        "clerps.json": [[str(cantor(layer, n)), label] for (layer, n), label in labels.items()],
        "local-clerps.json": [[f"\N{ROBOT FACE}{layer}_{n}", label] for (layer, n), label in labels.items()],
        **({} if drawn is None else {"graph.json": drawn}),
    }
    with new_folder(folder) as made:
        (made / "features").mkdir()
        for name, value in files.items():
            _write(made / name, value)
        for layer, some in found.items():
            for n, each in some.items():
                _write(made / f"features/{cantor(layer, n)}.json", _page(n, by_layer[layer], each))
        wrong = "".join(f"**Layer {one.layer}: {one.distrust}**\n\n" for one in blocks if one.distrust)
        told = _readme(list(by_layer), len(labels), wrong, graph=drawn is not None)
        (made / "README.md").write_text(told, encoding="utf-8")
    return [folder / name for name in files] + [folder / "features"]


def _write(path: Path, value: object) -> None:
    path.write_bytes(json.dumps(value, allow_nan=False).encode("ascii"))


def features_of_graph(path: Path, layer: int) -> list[str]:
    """The features of one layer that a graph's nodes are of, each once, in the graph's order.

    Args:
        path: a graph's JSON file.
        layer: whose features.

    Raises:
        Refusal: it is no graph, a node's two ids contradict each other, or no node is of that layer.
    """
    found = features_by_layer(path)
    if layer not in found:
        have = ", ".join(map(str, sorted(found))) or "none"
        why = f"no node is a feature of layer {layer} (it has features of layers {have})"
        raise Refusal(f"graph {path}", why, "name the dictionary of one of these, or another graph")
    return found[layer]


def features_by_layer(path: Path) -> dict[int, list[str]]:
    """The features that a graph's nodes are of, by layer. Refused as by `features_of_graph`, but for a layer."""
    found: dict[int, dict[str, None]] = {}
    for _, layer, number in _feature_nodes(_graph(path)):
        found.setdefault(layer, {})[str(number)] = None
    return {layer: list(some) for layer, some in found.items()}


def _feature_nodes(graph: Mapping[str, Any]) -> Iterator[tuple[int, int, int]]:
    """Of each node that is a feature's: which node it is, its layer, its number in the layer's dictionary.

    Raises:
        Refusal: there is no list of nodes, or a node's two ids contradict each other.
    """
    nodes = graph.get("nodes")
    if not isinstance(nodes, list) or not all(isinstance(n, dict) for n in nodes):
        raise Refusal("the graph", "it has no list of nodes", "name a file that circuit-tracer wrote")
    for k, node in enumerate(nodes):
        found = _NODE.fullmatch(str(node.get("node_id"))) if node.get("feature_type") == _KIND else None
        if found is None:
            continue
        layer, number, told = int(found["layer"]), int(found["feature"]), node.get("feature")
        if told not in (number, cantor(layer, number)):
            why = f"its feature is {shown(told)}, and its id means {number} or {cantor(layer, number)}"
            raise Refusal(f"node {shown(node['node_id'])}", why, "name the graph as circuit-tracer wrote it")
        yield k, layer, number


def labelled_graph(
    graph: Mapping[str, Any], labels: Mapping[tuple[int, int], str], layers: Sequence[int]
) -> dict[str, object]:
    """A copy of a graph whose nodes of these features bear their labels, in ``clerp`` and in ``qParams.clerps``.

    ``labels``: by layer and number; ``layers``: which are explained. Where ``feature`` is the number alone, one that
    the graph has in several layers is left out of ``qParams.clerps``, which could not tell them apart.

    Raises:
        Refusal: it has no nodes, a node's two ids contradict each other, or no node is of these features.
    """
    named, query = list(_feature_nodes(graph)), graph.get("qParams") or {}
    if not isinstance(query, dict):
        raise Refusal("the graph", "its qParams are no object", "name a file that circuit-tracer wrote")
    made, pairs = list(graph["nodes"]), dict[str, str]()
    whose = dict[str, set[tuple[int, int]]]()
    for k, at, number in named:
        key = str(made[k]["feature"])
        whose.setdefault(key, set()).add((at, number))
        if (label := labels.get((at, number))) is not None:
            pairs[key] = label
            made[k] = {**made[k], "clerp": label}
    if not pairs:
        raise Refusal(
            "the graph", f"none of its features of {_called(layers)} is explained here", "name another graph or run"
        )
    pairs = {key: label for key, label in pairs.items() if len(whose[key]) == 1}
    kept = query.get("clerps")
    kept = json.loads(kept) if isinstance(kept, str) and kept else kept or []
    others = [pair for pair in kept if isinstance(pair, list) and pair and str(pair[0]) not in pairs]
    clerps = json.dumps([*others, *map(list, pairs.items())])  # the page parses it: it is text there
    return {**graph, "qParams": {**query, "clerps": clerps}, "nodes": made}


def _graph(path: Path) -> dict[str, Any]:
    with opened(path) as file:
        content = file.read(_LIMIT + 1)
    try:
        told = json.loads(content) if len(content) <= _LIMIT else None
    except (ValueError, RecursionError) as error:
        raise Refusal(f"{path}", "it is not JSON", "name a graph that circuit-tracer wrote") from error
    if not isinstance(told, dict):
        raise Refusal(f"{path}", "it is no graph", "name a file that circuit-tracer wrote")
    return told


def _page(number: int, block: Block, one: Entry) -> dict[str, object]:
    """What the page shows of a feature: where it fires, with strengths where the run keeps them by token."""
    layer, own = block.layer, block.contexts.get(one.feature, {})
    windows = windows_in_tokens(one.feature, {one.feature: own}, block.tokens)
    if not windows:
        windows = [[(str(text), None)] for text in own.get("firing", [])]
    largest = max((strength or 0.0 for found in windows for _, strength in found), default=0.0)
    words = [str(word) for word in block.lens.get(one.feature, {}).get("source", [])]
    return {
        "layer": layer,
        "index": number,
        "explanation": one.text,
        "label": one.brief,
        "act_min": 0.0,
        "act_max": largest or 1.0,
        "top_logits": words[:10],
        "bottom_logits": [],
        "examples_quantiles": [{"quantile_name": "Where it fires most", "examples": [*map(_example, windows)]}],
    }


def _example(found: Sequence[tuple[str, float | None]]) -> dict[str, object]:
    """A window; its page knows no unknown strength, so that of a token that was not read is 0."""
    acts = [strength or 0.0 for _, strength in found]
    return {
        "tokens": [token for token, _ in found],
        "tokens_acts_list": acts,
        "train_token_ind": max(range(len(acts)), key=acts.__getitem__),
        "is_repeated_datapoint": False,
    }


def _called(layers: Sequence[int]) -> str:
    return f"layer{'' if len(layers) == 1 else 's'} {', '.join(map(str, layers))}"


def _readme(layers: Sequence[int], count: int, wrong: str, *, graph: bool) -> str:
    """What is in the folder and how it is used."""
    drawn = "`graph.json`: the graph with these labels in its nodes and in `qParams.clerps`.\n\n" if graph else ""
    return f"""\
# Labels of {count} features of {_called(layers)}, for circuit-tracer

{wrong}Written by dragoman. A label that begins with "unsure: " is one that dragoman does not answer for.

`labels.json`: label by "layer_feature", as node ids begin. `clerps.json`: pairs of Cantor's number and label, the value
of a graph's `qParams.clerps` and of the page's `?clerps=`. `local-clerps.json`: the same as a browser keeps it, under
`local-clerp-SCAN` of its local storage.

{drawn}`features/N.json`: a page a feature, N being Cantor's number of layer and feature. Put the folder where the page
is served from, and set the graph's `metadata.scan` to `./features`. Windows bear the strength of each token where the
run keeps it; tokens that were not read (the first of a text, sinks) stand at 0, as all do of a run that keeps none.
"""
