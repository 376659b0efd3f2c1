"""`dragoman export` for delphi, circuit-tracer, tables and the Hub: by the readers' own code, of .venv/readers."""

from __future__ import annotations

import ast
import asyncio
import csv
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from pydantic import ValidationError

from dragoman.commands.export import export
from dragoman.core import Refusal
from dragoman.exports.circuit import cantor, labelled_graph
from dragoman.exports.entries import entries_of_run
from dragoman.exports.tables import COLUMNS
from dragoman.records import TokenWindow
from dragoman.report.opened import ShownRun
from dragoman.scores import FORMAT
from dragoman.store import RunFolder
from dragoman.store.firing import write_tokens
from report_fixture import HOSTILE
from test_neuronpedia_export import VERBALIZER, row

READERS = Path(sys.prefix) / "readers"  # requirements/readers.txt, which no other test can import
TEXTS = {"982": "About pricking, and thorns.", "7": '=SUM(A1) "quoted", ünï\nsecond line', "31": HOSTILE}


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """Two readings of three features; the second abstains; one null."""
    conditions = [
        {"name": "fires", "reading": "fires", "route": "direct", "washout": "on-shell", "verbalizer": VERBALIZER},
        {"name": "writes", "reading": "writes", "route": "map", "washout": "on-shell", "verbalizer": VERBALIZER},
        {"name": "random", "null": "random directions", "route": "map", "washout": "none", "verbalizer": VERBALIZER},
    ]
    manifest = {"dragoman": "0.2.0", "source": "/home/me/models/qwen:20", "target": "google/gemma-3-27b-it:41"}
    manifest |= {"conditions": conditions, "plan_digest": "f" * 64, "dictionary": {"ref": "/home/me/sae"}}
    folder = RunFolder.create(tmp_path / "run", manifest)
    rows = [row(f, c, f"{text} ({c})") for c in ("fires", "writes") for f, text in TEXTS.items()]
    rows += [row("982", "fires", "another sample", sample=1), row("random-0", "random", "x", kind="random")]
    with folder.writing() as open_rows:
        open_rows.append(rows)
    sure = [{"feature": f, "probability": p, "answered": p > 0.5, "member": "m", "why": []} for f, p in
            (("982", 0.9), ("7", 0.2))]  # fmt: skip
    confidence = {"embedder": "e", "members": {}, "per_feature": {"fires": sure}}
    folder.write_scores({"format": FORMAT, "confidence": confidence})
    folder.write_contexts({"982": {"firing": ["a thorn pricked <b>me</b>"], "silent": []}})
    folder.write_lens({"fires": {"982": {"source": ["thorn", "prick"], "carried": ["rose"]}}})
    return folder


def written(run: RunFolder, out: Path, format_: str, **more: Any) -> Path:
    export(run.path, out=out, format_=format_, **more)
    return out


@pytest.fixture
def readers(monkeypatch: pytest.MonkeyPatch) -> Path:
    """Packages that read exports; single modules of them, for they need far more than what is read here."""
    if not READERS.is_dir():
        pytest.skip(f"{READERS} is not there: make install")
    monkeypatch.syspath_prepend(str(READERS))
    return READERS


def module_of(path: Path) -> Any:
    """A file as a module, without the package it is of."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pieces_of(path: Path, *names: str) -> dict[str, Any]:
    """Functions and classes of a file, by name, executed alone."""
    tree = ast.parse(path.read_text())
    body = [n for n in tree.body if isinstance(n, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)]
    chosen = [n for n in body if n.name in names]
    assert {n.name for n in chosen} == set(names)
    import dataclasses

    import aiofiles

    scope: dict[str, Any] = {
        "dataclass": dataclasses.dataclass,
        "json": json,
        "aiofiles": aiofiles,
        "NamedTuple": NamedTuple,
    }
    scope |= dict.fromkeys(("LatentRecord", "ActivatingExample", "NonActivatingExample"), object)
    exec(compile(ast.Module(body=list(chosen), type_ignores=[]), str(path), "exec"), scope)
    return scope


def test_delphi_files_hold_each_text_as_a_json_string(run: RunFolder, tmp_path: Path) -> None:
    out = written(run, tmp_path / "d", "delphi")
    assert sorted(p.name for p in out.iterdir()) == [f"layers.20_latent{n}.txt" for n in ("31", "7", "982")]
    for feature, text in TEXTS.items():
        assert json.loads((out / f"layers.20_latent{feature}.txt").read_text()) == f"{text} (fires)"
    other = written(run, tmp_path / "e", "delphi", condition="writes", hookpoint="model.layers.20.mlp")
    assert json.loads((other / "model.layers.20.mlp_latent7.txt").read_text()).endswith("(writes)")


def test_delphi_s_own_loader_reads_them(run: RunFolder, tmp_path: Path, readers: Path) -> None:
    out = written(run, tmp_path / "d", "delphi")
    code = pieces_of(readers / "delphi/explainers/explainer.py", "ExplainerResult", "explanation_loader")
    latent = pieces_of(readers / "delphi/latents/latents.py", "Latent")["Latent"]("layers.20", 7)
    record = type("Record", (), {"latent": latent})()
    found = asyncio.run(code["explanation_loader"](record, str(out)))
    assert found.explanation == f"{TEXTS['7']} (fires)"


def test_cantor_s_number_is_its_own() -> None:
    assert [cantor(*p) for p in ((0, 0), (1, 0), (0, 1), (2, 0), (20, 15589))] == [0, 1, 2, 3, 121843834]
    assert len({cantor(a, b) for a in range(40) for b in range(40)}) == 1600


def graph_of(schema: int = 1) -> dict[str, Any]:
    def node(layer: int, feature: int, **more: Any) -> dict[str, Any]:
        return {
            "node_id": f"{layer}_{feature}_5", "feature": cantor(layer, feature) if schema else feature,
            "layer": str(layer), "ctx_idx": 5, "feature_type": "cross layer transcoder",
            "jsNodeId": f"{layer}_{feature}-0", "clerp": "", **more,
        }  # fmt: skip

    error = {"feature_type": "mlp reconstruction error", "node_id": "20_-1_5", "feature": -1, "clerp": ""}
    nodes = [node(20, 982), node(20, 7), node(19, 982), node(20, 4), node(20, 982) | error]
    query: dict[str, Any] = {"pinnedIds": [], "supernodes": [], "linkType": "both", "clickedId": "", "sg_pos": ""}
    query["clerps"] = json.dumps([["12", "kept"], [str(nodes[0]["feature"]), "replaced"]])
    metadata = {"slug": "s", "scan": "x", "transcoder_list": [], "prompt_tokens": [], "prompt": "p"}
    return {"metadata": metadata | {"schema_version": schema}, "qParams": query, "nodes": nodes, "links": []}


@pytest.mark.parametrize("schema", [0, 1])
def test_a_graph_gets_labels_under_both_of_its_ids(run: RunFolder, tmp_path: Path, schema: int) -> None:
    (tmp_path / "graph.json").write_text(json.dumps(graph_of(schema)))
    out = written(run, tmp_path / "c", "circuit-tracer", graph=tmp_path / "graph.json")
    graph = json.loads((out / "graph.json").read_text())
    thorns, unsure = "About pricking, and thorns. (fires)", 'unsure: =SUM(A1) "quoted", ünï second line (fires)'
    assert [n["clerp"] for n in graph["nodes"]] == [thorns, unsure, "", "", ""]
    number = {f: str(cantor(20, f) if schema else f) for f in (982, 7)}
    # By its number alone 982 would be layer 19's too: what the graph said of it stays.
    ours = {number[982]: thorns if schema else "replaced", number[7]: unsure}
    assert dict(json.loads(graph["qParams"]["clerps"])) == {"12": "kept", **ours}
    labels = json.loads((out / "labels.json").read_text())
    assert labels["20_982"] == thorns and labels["20_7"] == unsure and set(labels) == {"20_7", "20_31", "20_982"}
    assert dict(json.loads((out / "clerps.json").read_text()))[str(cantor(20, 982))] == thorns
    assert dict(json.loads((out / "local-clerps.json").read_text()))["🤖20_982"] == thorns
    assert "local-clerp-SCAN" in (out / "README.md").read_text()


def test_a_labelled_graph_is_one_by_circuit_tracer_s_own_model(run: RunFolder, tmp_path: Path, readers: Path) -> None:
    module = module_of(readers / "circuit_tracer/frontend/graph_models.py")
    nodes = [module.Node.feature_node(20, 5, f).model_dump() for f in (982, 7)]
    (tmp_path / "graph.json").write_text(json.dumps({**graph_of(), "nodes": nodes}))
    out = written(run, tmp_path / "c", "circuit-tracer", graph=tmp_path / "graph.json")
    found = module.Model.model_validate_json((out / "graph.json").read_text())
    assert [n.clerp.startswith("About pricking") for n in found.nodes] == [True, False]
    assert (out / "features" / f"{found.nodes[0].feature}.json").is_file()


def test_a_page_of_a_feature_fits_circuit_tracer_s_own_model_but_for_what_nobody_measured(
    run: RunFolder, tmp_path: Path, readers: Path
) -> None:
    module = module_of(readers / "circuit_tracer/frontend/feature_models.py")
    out = written(run, tmp_path / "c", "circuit-tracer")
    page = (out / "features" / f"{cantor(20, 982)}.json").read_text()
    with pytest.raises(ValidationError) as told:
        module.Model.model_validate_json(page)
    missing = {str(one["loc"][0]): one["type"] for one in told.value.errors()}
    assert missing == dict.fromkeys(
        ("transcoder_id", "quantile_values", "histogram", "activation_frequency"), "missing"
    )
    # Their page draws these where they are, and does without.
    script = (readers / "circuit_tracer/frontend/assets/attribution_graph/render-act-histogram.js").read_text()
    assert "if (!(featureData && featureData.histogram)) return;" in script
    assert "featureData && featureData.quantile_values" in script
    assert "featureData.activation_frequency !== undefined" in script
    assert not any("transcoder_id" in one.read_text() for one in (readers / "circuit_tracer/frontend").rglob("*.js"))


def test_a_page_of_a_feature_is_what_the_viewer_reads(run: RunFolder, tmp_path: Path) -> None:
    out = written(run, tmp_path / "c", "circuit-tracer")
    page = json.loads((out / "features" / f"{cantor(20, 982)}.json").read_text())
    (quantile,) = page["examples_quantiles"]
    (example,) = quantile["examples"]
    assert example["tokens"] == ["a thorn pricked <b>me</b>"] and len(example["tokens_acts_list"]) == 1
    assert {"quantile_name", "examples"} == set(quantile) and example["train_token_ind"] == 0
    assert page["top_logits"] == ["thorn", "prick"] and page["bottom_logits"] == []
    assert (page["act_min"], page["act_max"]) == (0.0, 1.0) and page["index"] == 982
    assert len(list((out / "features").iterdir())) == 3 and not (out / "graph.json").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nodes": 3}, "the graph: it has no list of nodes"),
        ({"nodes": [3]}, "it has no list of nodes"),
        ({"nodes": []}, "none of its features of layer 20 is explained here"),
        (
            {"nodes": [graph_of()["nodes"][0] | {"feature": 5}]},
            "node 20_982_5: its feature is 5, and its id means 982 or",
        ),
    ],
)
def test_a_graph_that_is_none_is_refused(change: Any, message: str) -> None:
    with pytest.raises(Refusal, match=message):
        labelled_graph({**graph_of(), **change}, {(20, 982): "thorns"}, [20])


def test_a_csv_reads_back_and_holds_no_formula(run: RunFolder, tmp_path: Path) -> None:
    out = written(run, tmp_path / "t", "csv")
    with (out / "explanations.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS and len(rows) == 7
    by = {(r["feature"], r["condition"], r["sample"]): r for r in rows}
    assert by["982", "fires", "0"]["confidence"] == "0.9" and by["982", "fires", "0"]["answered"] == "true"
    assert by["7", "fires", "0"]["text"] == f"'{TEXTS['7']} (fires)" and by["7", "writes", "0"]["confidence"] == ""
    assert by["31", "writes", "0"]["reading"] == "writes" and by["982", "fires", "1"]["text"] == "another sample"
    assert not any(cell.startswith(("=", "+", "-", "@")) for r in rows for cell in (r["text"], r["label"]))
    import pandas

    assert len(pandas.read_csv(out / "explanations.csv")) == 7


def test_a_parquet_reads_back_as_it_was(run: RunFolder, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    out = written(run, tmp_path / "t", "parquet")
    table = parquet.read_table(out / "explanations.parquet")
    assert tuple(table.column_names) == COLUMNS and table.num_rows == 7
    rows = table.to_pylist()
    assert rows[1]["text"] == f"{TEXTS['7']} (fires)" and rows[1]["answered"] is False
    assert rows[0]["confidence"] == 0.9 and rows[0]["prompt"] is None and rows[0]["problems"] == []
    again = written(run, tmp_path / "u", "parquet")
    assert (again / "explanations.parquet").read_bytes() == (out / "explanations.parquet").read_bytes()


def test_without_pyarrow_one_sentence_says_what_to_install(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(Refusal, match=r"pyarrow, which is not installed; run: pip install 'dragoman\[parquet\]'"):
        written(run, tmp_path / "t", "parquet")
    assert not (tmp_path / "t").exists()


def test_a_data_set_has_a_card_whose_head_the_hub_reads(run: RunFolder, tmp_path: Path) -> None:
    from huggingface_hub import DatasetCard

    out = written(run, tmp_path / "h", "hub", licence="cc-by-4.0")
    content = (out / "README.md").read_text(encoding="utf-8")
    card = DatasetCard(content)
    told = card.data.to_dict()
    assert told["license"] == "cc-by-4.0" and told["size_categories"] == ["n<1K"]
    (config,) = told["configs"]
    assert config["data_files"] == [{"split": "train", "path": "data/explanations.jsonl"}]
    rows = [json.loads(line) for line in (out / "data" / "explanations.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 7 and tuple(rows[0]) == COLUMNS and rows[1]["text"] == f"{TEXTS['7']} (fires)"
    assert "answers for 1 of 2 first explanations" in content and "/home/me" not in content and "qwen:20" in content
    assert "| fires | direct | on-shell |" in content and all(f"| `{name}` |" in content for name in COLUMNS)
    bare = yaml.safe_load((written(run, tmp_path / "i", "hub") / "README.md").read_text().split("---")[1])
    assert "license" not in bare


def test_a_card_says_first_that_the_run_is_not_finished(run: RunFolder, tmp_path: Path) -> None:
    path = run.path / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"rows": 9}))
    card = (written(RunFolder.open(run.path), tmp_path / "h", "hub") / "README.md").read_text()
    assert "\n\n**The run is not finished: it holds 8 of its 9" in card and "to finish it.**\n\n7 explanations" in card


def test_a_card_says_first_that_the_map_is_unusable(run: RunFolder, tmp_path: Path) -> None:
    path = run.path / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"about": {"map": "the map is unusable: it explains 0"}}))
    card = (written(RunFolder.open(run.path), tmp_path / "h", "hub") / "README.md").read_text()
    assert "\n\n**The map is unusable: it explains 0. Believe no text that it carried.**\n\n7 explanations" in card


@pytest.mark.parametrize("format_", ["neuronpedia", "delphi", "circuit-tracer", "csv", "parquet", "hub"])
def test_every_export_of_a_run_with_an_unusable_map_says_so(
    run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str], format_: str
) -> None:
    path = run.path / "manifest.json"
    told = json.loads(path.read_text()) | {"source": "np:gemma-2-2b/20:20", "about": {"map": "the map is unusable"}}
    ids: dict[str, Any] = {"model_id": "m", "source_id": "20-x", "author_id": "clkht01d40000jv08hvalcvly"}
    for about in (told, told | {"about": {}}):
        path.write_text(json.dumps(about))
        out = tmp_path / f"out{len(about['about'])}"
        export(run.path, out=out, format_=format_, **(ids if format_ == "neuronpedia" else {}))
        said = capsys.readouterr().err
        readme = "".join(one.read_text() for one in out.rglob("README.md"))
        assert ("The map is unusable. Believe no text that it carried." in said) == bool(about["about"])
        assert readme.count("The map is unusable. Believe no text") == (bool(about["about"]) and bool(readme))
        assert "not finished" not in said
    path.write_text(json.dumps(told | {"rows": 9}))
    export(run.path, out=tmp_path / "short", format_=format_, **(ids if format_ == "neuronpedia" else {}))
    assert f"{run.path}: The run is not finished: it holds 8 of its 9 explanations." in capsys.readouterr().err


@pytest.mark.usefixtures("readers")
def test_the_data_set_loads_by_the_library(run: RunFolder, tmp_path: Path) -> None:
    # In a process of its own: other libraries here import datasets too wherever they find it.
    code = (
        "import datasets, json, sys; folder, cache = sys.argv[1:]; "
        "print(json.dumps(list(datasets.load_dataset(folder, split='train', cache_dir=cache))))"
    )
    words = [sys.executable, "-c", code, str(written(run, tmp_path / "h", "hub")), str(tmp_path / "cache")]
    environment = {**os.environ, "PYTHONPATH": str(READERS), "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert len(rows) == 7 and rows[1]["text"] == f"{TEXTS['7']} (fires)" and tuple(rows[0]) == COLUMNS


def test_activations_are_exported_with_their_prompts(tmp_path: Path) -> None:
    conditions = [{"name": "activation", "route": "map", "washout": "none", "verbalizer": VERBALIZER}]
    manifest = {"source": "m:20", "target": "n:41", "conditions": conditions, "plan_digest": "f" * 64}
    folder = RunFolder.create(tmp_path / "run", manifest)
    token = {"prompt": "a ripe mango", "number": 0, "token": " mango", "position": 3, "begin": 6, "end": 12}
    with folder.writing() as rows:
        rows.append([row("p0t3", "activation", "fruit", kind="activation", token=token)])
    out = written(folder, tmp_path / "t", "csv")
    (one,) = csv.DictReader((out / "explanations.csv").read_text(encoding="utf-8").splitlines())
    assert (one["prompt"], one["token"], one["position"]) == ("a ripe mango", " mango", "3")
    for format_ in ("delphi", "circuit-tracer"):
        with pytest.raises(Refusal, match="activation 'p0t3': .* knows features by their number in a dictionary"):
            written(folder, tmp_path / "x", format_)
    with pytest.raises(Refusal, match="it is of activations at prompts, which nobody has an index for"):
        export(
            folder.path, model_id="m", source_id="20-res", out=tmp_path / "n", condition="activation", author_id="me"
        )


@pytest.mark.parametrize(
    ("format_", "more", "message"),
    [
        ("parket", {}, "format 'parket': known are neuronpedia, delphi, circuit-tracer, csv, parquet, hub"),
        ("neuronpedia", {}, "it files explanations by model and source; pass --model-id ID"),
        ("csv", {"model_id": "m"}, "--model-id beside --format csv: it is of --format neuronpedia"),
        ("hub", {"hookpoint": "layers.1"}, "--hookpoint beside --format hub: it is of --format delphi"),
        ("delphi", {"licence": "mit"}, "--licence beside --format delphi: it is of --format hub"),
        ("delphi", {"hookpoint": "../../x"}, "hookpoint '../../x': it is no name of a module"),
        ("delphi", {"condition": "random"}, "condition 'random': the run has fires, writes"),
        ("csv", {"condition": "nothing"}, "condition 'nothing': the run has fires, writes"),
        ("csv", {"condition": "wrtes"}, "the run has fires, writes; did you mean 'writes'"),
    ],
)
def test_what_a_format_cannot_have_is_refused(
    run: RunFolder, tmp_path: Path, format_: str, more: dict[str, Any], message: str
) -> None:
    with pytest.raises(Refusal, match=message):
        written(run, tmp_path / "out", format_, **more)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("format_", ["delphi", "circuit-tracer", "csv", "hub"])
def test_what_is_there_already_is_not_written_over(run: RunFolder, tmp_path: Path, format_: str) -> None:
    out = written(run, tmp_path / "out", format_)
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    with pytest.raises(Refusal, match="it is there already"):
        written(run, out, format_)
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before


def test_entries_of_several_conditions_are_not_one_label(run: RunFolder) -> None:
    from dragoman.exports.entries import numbered

    with pytest.raises(Refusal, match="feature 982: it has an explanation of fires and one of writes"):
        numbered(entries_of_run(ShownRun.of(run)), "circuit-tracer")


def test_a_circuit_page_bears_the_strength_of_each_token(run: RunFolder, tmp_path: Path) -> None:
    out = written(run, tmp_path / "none", "circuit-tracer", condition="fires")
    page = json.loads((out / f"features/{cantor(20, 982)}.json").read_text())
    assert page["examples_quantiles"][0]["examples"][0]["tokens_acts_list"] == [0.0] and page["act_max"] == 1.0
    window = TokenWindow(ends=(1, 7, 15), at=(1, 2), fires=(1.5, 4.0), unread=(0,))
    write_tokens(run, {"982": [window]})
    out = written(run, tmp_path / "some", "circuit-tracer", condition="fires")
    page = json.loads((out / f"features/{cantor(20, 982)}.json").read_text())
    (example,) = page["examples_quantiles"][0]["examples"]
    assert example["tokens"] == ["a", " thorn", " pricked", " <b>me</b>"] and page["act_max"] == 4.0
    assert example["tokens_acts_list"] == [0.0, 1.5, 4.0, 0.0] and example["train_token_ind"] == 2
    write_tokens(run, {"982": [TokenWindow(ends=(400,), at=(0,), fires=(1.0,))]})
    with pytest.raises(Refusal, match="activations of feature 982: its tokens are not those of its windows"):
        written(run, tmp_path / "wrong", "circuit-tracer", condition="fires")
    assert not (tmp_path / "wrong").exists()


def with_windows(folder: Path, count: int) -> tuple[RunFolder, int]:
    """A run of so many features, each with a long window in tokens; and how many characters its windows have."""
    entry = {"name": "fires", "reading": "fires", "route": "direct", "washout": "on-shell", "verbalizer": VERBALIZER}
    manifest = {"source": "qwen:20", "target": "gemma:41", "conditions": [entry], "plan_digest": "e" * 64}
    made, texts = RunFolder.create(folder, manifest), {str(n): f"{n} " + "a thorn " * 4_000 for n in range(count)}
    with made.writing() as rows:
        rows.append([row(feature, "fires", "About thorns.") for feature in texts])
    made.write_contexts({feature: {"firing": [text], "silent": []} for feature, text in texts.items()})
    write_tokens(made, {name: [TokenWindow(ends=(3, 9), at=(1,), fires=(2.0,))] for name in texts})
    return made, sum(map(len, texts.values()))


@pytest.mark.parametrize("format_", ["circuit-tracer", "neuronpedia"])
def test_windows_are_read_one_feature_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format_: str) -> None:
    import tracemalloc

    named = {"model_id": "m", "source_id": "20-x", "author_id": "me"} if format_ == "neuronpedia" else {}
    monkeypatch.setattr(RunFolder, "contexts", property(lambda _: pytest.fail("all windows were read")))
    peaks, sizes = list[int](), list[int]()
    for count in (40, 160):
        run, size = with_windows(tmp_path / f"run{count}", count)
        sizes.append(size)
        tracemalloc.start()
        written(run, tmp_path / f"out{count}", format_, **named)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < (sizes[1] - sizes[0]) / 2
