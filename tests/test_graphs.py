"""A circuit-tracer graph in, and the same graph out with the labels of its features."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ar_checkpoints import WIDTH
from asking import explain
from dragoman import explain as main_job
from dragoman.core import Refusal
from dragoman.exports.circuit import cantor, features_of_graph
from dragoman.store import RunFolder
from small_world import World, command
from tiny_checkpoints import BLOCK
from verbalizer_doubles import ScriptedVerbalizer


def node(layer: int, feature: int, position: int = 5, **more: Any) -> dict[str, Any]:
    return {
        "node_id": f"{layer}_{feature}_{position}", "feature": cantor(layer, feature), "layer": str(layer),
        "ctx_idx": position, "feature_type": "cross layer transcoder", "jsNodeId": f"{layer}_{feature}-0",
        "clerp": "", **more,
    }  # fmt: skip


def graph_at(path: Path, *nodes: Any, **more: Any) -> Path:
    query = {"pinnedIds": [], "supernodes": [], "linkType": "both", "clickedId": "", "sg_pos": ""}
    path.write_text(json.dumps({"metadata": {"slug": "s"}, "qParams": query, "nodes": nodes, "links": [], **more}))
    return path


ERROR = {"node_id": f"{BLOCK}_-1_5", "feature": -1, "feature_type": "mlp reconstruction error", "clerp": ""}


def test_features_of_the_layer_are_named_once_in_the_graph_s_order(tmp_path: Path) -> None:
    nodes = (node(20, 7), node(19, 3), node(20, 982, 2), node(20, 7, 6), node(20, 0), ERROR)
    assert features_of_graph(graph_at(tmp_path / "g.json", *nodes), 20) == ["7", "982", "0"]
    plain = node(20, 4) | {"feature": 4}  # schema version 0
    assert features_of_graph(graph_at(tmp_path / "h.json", plain), 20) == ["4"]


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([node(19, 3), node(4, 1)], r"no node is a feature of layer 20 \(it has features of layers 4, 19\)"),
        ([ERROR], r"it has features of layers none"),
        ([node(20, 3) | {"feature": 9}], "its feature is 9, and its id means 3 or"),
        ([3], "it has no list of nodes"),
    ],
)
def test_graphs_without_such_features_are_refused(tmp_path: Path, nodes: Any, message: str) -> None:
    with pytest.raises(Refusal, match=message):
        features_of_graph(graph_at(tmp_path / "g.json", *nodes), 20)


def test_what_is_no_graph_is_refused(tmp_path: Path) -> None:
    (tmp_path / "g.json").write_text("[1]")
    with pytest.raises(Refusal, match="it is no graph"):
        features_of_graph(tmp_path / "g.json", 20)


def test_a_graph_is_explained_and_written_again_with_its_labels(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    graph = graph_at(tmp_path / "graph.json", node(BLOCK, 11), node(BLOCK, 3), node(BLOCK + 1, 7), node(BLOCK, 11, 9))
    words = ("explain", world.sae, "--source", str(world.source), "--by", world.av, "--reading", "writes")
    words += ("--texts", str(world.root / "texts.txt"), "--max-new-tokens", "6", "-o", str(tmp_path / "run"))
    done = command(monkeypatch, capsys, *words, "--graph", str(graph))
    assert done.code == 0, done.err
    run = RunFolder.open(tmp_path / "run")
    alone = explain(world.request(features=("11", "3"), reading="writes", batch_size=None), tmp_path / "alone")
    assert [(r["feature"], r["text"]) for r in run.rows()] == [(r["feature"], r["text"]) for r in alone.rows()]
    assert [r["feature"] for r in run.rows()] == ["11", "3"]
    by = ScriptedVerbalizer(world.target, WIDTH, lambda v: f"Text about number {int(np.argmax(v))}.")
    asked, texts = features_of_graph(graph, BLOCK), world.root / "texts.txt"
    said = main_job(world.request().open(), features=asked, by=by, reading="writes", texts=texts, out=tmp_path / "said")
    out = ("export", str(said.path), "--format", "circuit-tracer", "--condition", "writes", "--graph", str(graph))
    made = command(monkeypatch, capsys, *out, "-o", str(tmp_path / "out"))
    assert made.code == 0, made.err
    own = {one.feature: one.text for one in said.explanations()}
    nodes = json.loads((tmp_path / "out" / "graph.json").read_text())["nodes"]
    assert [one["clerp"] for one in nodes] == [own["11"], own["3"], "", own["11"]]
    twice = command(monkeypatch, capsys, *words, "--graph", str(graph), "--features", "3")
    assert twice.code == 1 and "--graph beside --features" in twice.err
    prompt = command(monkeypatch, capsys, *words, "--graph", str(graph), "--prompt", "some text")
    assert prompt.code == 1 and "--graph beside prompts" in prompt.err
