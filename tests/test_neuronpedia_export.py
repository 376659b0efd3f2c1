"""`dragoman export`: a run's texts under Neuronpedia's ids, and refusals where they would land on the wrong feature."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from dragoman.commands.export import export
from dragoman.core import Refusal
from dragoman.neuronpedia import Export, parse
from dragoman.store import RunFolder

VERBALIZER = "kitft/nla-gemma3-27b-L41-av"
ASKED: dict[str, Any] = {
    "model_id": "qwen2.5-7b-it", "source_id": "20-matryoshka-65k", "format_": "neuronpedia", "condition": None,
    "type_name": None, "explanation_model": None, "author_id": "clkht01d40000jv08hvalcvly", "batch_size": 1024,
    "resid_pre": False, "as_json": False,
}  # fmt: skip


def row(feature: str, condition: str, text: str, **more: Any) -> dict[str, Any]:
    made = {"feature": feature, "label": "", "kind": "feature", "condition": condition, "sample": 0, "text": text}
    return {**made, "raw": text, "problems": [], "tokens": 3, "log_probability": None, "card": None, **more}


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    conditions = [
        {"name": "native", "route": "identity", "washout": "on-shell", "verbalizer": "kitft/nla-qwen2.5-7b-L20-av"},
        {"name": "washed", "route": "map", "washout": "on-shell", "verbalizer": VERBALIZER},
        {"name": "random_washed", "route": "map", "washout": "on-shell", "verbalizer": VERBALIZER},
    ]
    folder = RunFolder.create(
        tmp_path / "run",
        {"dragoman": "0.2.0", "source": "Qwen/Qwen2.5-7B-Instruct:20", "target": "google/gemma-3-27b-it:41",
         "dictionary": {"ref": "d", "digest": "e"}, "conditions": conditions, "plan_digest": "f" * 64},
    )  # fmt: skip
    folder.append([
        row("982", "native", "own words"),
        row("982", "washed", "<explanation>Food.\n\nMore of it.", card={"margin": 0.5}),
        row("982", "washed", "Cooking.", sample=1),
        row("1748", "washed", "", problems=["empty"]),
        row("7", "washed", "Music."),
        row("random-0", "random_washed", "nothing", kind="random"),
    ])  # fmt: skip
    return folder


def exported(run: RunFolder, out: Path, **changes: Any) -> None:
    export(run=run.path, out=out, **{**ASKED, **changes})


def written(out: Path) -> list[dict[str, Any]]:
    """Every row of an export's batches."""
    batches = sorted(out.glob("v1/*/*/explanations/*.gz"))
    return [json.loads(line) for path in batches for line in gzip.decompress(path.read_bytes()).splitlines()]


def kinds(out: Path) -> list[tuple[str, str]]:
    """Method and model of every row."""
    return [(row["typeName"], row["explanationModelName"]) for row in written(out)]


def test_a_run_is_written_and_read_back_with_its_provenance(
    run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sure = [{"feature": "982", "probability": 0.75, "answered": True, "member": "card", "why": []}]
    run.write_scores({"format": 2, "confidence": {"embedder": "e", "members": {}, "per_feature": {"washed": sure}}})
    exported(run, tmp_path / "out")
    said = capsys.readouterr()
    path = tmp_path / "out/v1/qwen2.5-7b-it/20-matryoshka-65k/explanations/batch-0.jsonl.gz"
    assert said.out == f"{path}\n"
    assert said.err.startswith("left out 1 features whose explanation is empty\n")
    for needed in ("User: id 'clkht01d40000jv08hvalcvly'", "Source: modelId 'qwen2.5-7b-it'", "feature/upload-batch"):
        assert needed in said.err
    labels = Export.open(tmp_path / "out", parse("np:qwen2.5-7b-it/20-matryoshka-65k")).labels()
    assert labels == {"7": "Music.", "982": "Food."}
    rows = {row["index"]: row for row in written(tmp_path / "out")}
    assert kinds(tmp_path / "out") == [("dragoman_foreign-av", VERBALIZER)] * 2
    told = json.loads(rows["982"]["notes"])
    assert told["text"] == "<explanation>Food.\n\nMore of it."
    assert told["confidence"] == 0.75 and told["answered"] is True
    assert told["samples"] == ["Cooking."]
    assert told["card"] == {"margin": 0.5}
    assert (told["condition"], told["route"], told["verbalizer"]) == ("washed", "map", VERBALIZER)
    assert (told["source"], told["target"], told["run"]) == (
        "Qwen/Qwen2.5-7B-Instruct:20", "google/gemma-3-27b-it:41", "f" * 16,
    )  # fmt: skip
    assert json.loads(rows["7"]["notes"])["confidence"] is None


def test_json_says_what_was_written(run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exported(run, tmp_path / "out", as_json=True, condition="native", type_name="mine", explanation_model="me")
    said = json.loads(capsys.readouterr().out)
    assert (said["source"], said["condition"], said["explanations"]) == (
        "np:qwen2.5-7b-it/20-matryoshka-65k",
        "native",
        1,
    )
    assert kinds(tmp_path / "out") == [("mine", "me")]


def test_a_native_condition_is_named_one(run: RunFolder, tmp_path: Path) -> None:
    exported(run, tmp_path / "out", condition="native")
    assert kinds(tmp_path / "out") == [("dragoman_native-av", "kitft/nla-qwen2.5-7b-L20-av")]


def test_a_second_export_changes_nothing(run: RunFolder, tmp_path: Path) -> None:
    exported(run, tmp_path / "out")
    (path,) = (tmp_path / "out").rglob("*.gz")
    before = path.read_bytes()
    exported(run, tmp_path / "out")
    exported(run, tmp_path / "again")
    assert path.read_bytes() == before == next((tmp_path / "again").rglob("*.gz")).read_bytes()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_": "parket"}, "format 'parket': known are neuronpedia"),
        ({"condition": "direct"}, "no such condition; its conditions of features are: native, washed"),
        ({"condition": "random_washed"}, "random directions, which nobody has an index for"),
        ({"source_id": "21-matryoshka-65k"}, "rows live at block 21, the run's at block 20"),
        ({"resid_pre": True}, "rows live at block 19, the run's at block 20"),
        ({"source_id": "0-res", "resid_pre": True}, "np:qwen2.5-7b-it/0-res: it reads the embedding"),
        ({"model_id": "qwen3-8b"}, "that is Qwen/Qwen3-8B, the run's directions are of Qwen/Qwen2.5-7B-Instruct"),
        ({"source_id": "matryoshka"}, "begins with the layer"),
        ({"author_id": ""}, "every explanation belongs to a user of the receiving database"),
    ],
)
def test_labels_that_would_land_on_the_wrong_feature_are_refused(
    run: RunFolder, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(Refusal, match=message):
        exported(run, tmp_path / "out", **changes)
    assert not (tmp_path / "out").exists()


def test_a_source_that_counts_the_block_it_enters_is_one_above(run: RunFolder, tmp_path: Path) -> None:
    exported(run, tmp_path / "out", source_id="21-res", resid_pre=True)
    assert (tmp_path / "out/v1/qwen2.5-7b-it/21-res/explanations/batch-0.jsonl.gz").is_file()


def test_two_conditions_without_a_washed_one_ask_which(run: RunFolder, tmp_path: Path) -> None:
    run.append([row("1", "direct", "a"), row("1", "blend", "b")])
    with run.writing() as rows:
        kept = [r for r in rows.read() if r["condition"] != "washed"]
        rows.keep(0)
        rows.append(kept)
    with pytest.raises(Refusal, match="conditions native, direct, blend; name one"):
        exported(run, tmp_path / "out")


def test_models_the_table_does_not_know_are_taken_as_named(run: RunFolder, tmp_path: Path) -> None:
    exported(run, tmp_path / "out", model_id="my-model", source_id="20-my-sae")
    assert Export.open(tmp_path / "out", parse("np:my-model/20-my-sae")).labels()["7"] == "Music."


def test_both_readings_are_written_each_under_a_method_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunFolder.create(
        tmp_path / "readings",
        {"source": "Qwen/Qwen2.5-7B-Instruct:20", "plan_digest": "f" * 64,
         "conditions": [{"name": name, "reading": name, "route": "map", "verbalizer": VERBALIZER}
                        for name in ("fires", "writes")]},
    )  # fmt: skip
    run.append([row("982", "fires", "Baking. By a nun."), row("982", "writes", "Bread."), row("7", "writes", "Music.")])
    claim = {"sentence": "By a nun.", "kind": "theme", "status": "unsupported", "why": "w"}
    claims = {"fires": [{"feature": "982", "label": "baking", "claims": [claim]}]}
    run.write_scores({"format": 2, "claims": claims})
    exported(run, tmp_path / "out", as_json=True)
    said = json.loads(capsys.readouterr().out)
    assert (said["condition"], said["explanations"]) == ("fires, writes", 3)
    rows = written(tmp_path / "out")
    assert sorted((row["index"], row["description"], row["typeName"]) for row in rows) == [
        ("7", "Music.", "dragoman_foreign-av_writes"),
        ("982", "Baking. By a nun.", "dragoman_foreign-av_fires"),
        ("982", "Bread.", "dragoman_foreign-av_writes"),
    ]
    (fires,) = (json.loads(row["notes"]) for row in rows if row["typeName"].endswith("_fires"))
    assert (fires["reading"], fires["short"]) == ("fires", "baking") and fires["claims"][0]["status"] == "unsupported"
    types = (tmp_path / "out/v1/config/explanation_type.jsonl").read_text().splitlines()
    assert [json.loads(line)["name"] for line in types] == ["dragoman_foreign-av_fires", "dragoman_foreign-av_writes"]
    readme = (tmp_path / "out/v1/qwen2.5-7b-it/20-matryoshka-65k/README.md").read_text()
    assert "Methods `dragoman_foreign-av_fires`, `dragoman_foreign-av_writes`" in readme
    exported(run, tmp_path / "one", condition="writes", type_name="mine")
    assert {row["typeName"] for row in written(tmp_path / "one")} == {"mine_writes"}
