"""What is exported goes into Neuronpedia's tables by its importer's steps; what it needs is there, and is named."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from dragoman.commands.export import export
from dragoman.core import Refusal
from dragoman.neuronpedia import Explained, parse, write_explanations
from dragoman.neuronpedia.activations import Window
from dragoman.store import RunFolder
from neuronpedia_tables import activated, database, imported, put, with_source
from report_fixture import build_run

AUTHOR = "clkht01d40000jv08hvalcvly"
MODEL, SOURCE = "smollm2-135m", "20-tiny-res"
REF = parse(f"np:{MODEL}/{SOURCE}")
HOW = {"type_name": "dragoman_foreign-av", "model_name": "kitft/nla-av", "author": AUTHOR}


def exported(run: Path, out: Path, **changes: Any) -> None:
    asked: dict[str, Any] = {
        "model_id": MODEL, "source_id": SOURCE, "format_": "neuronpedia", "condition": None, "type_name": None,
        "explanation_model": None, "author_id": AUTHOR, "batch_size": 20, "resid_pre": False, "as_json": False,
    }  # fmt: skip
    export(run=run, out=out, **{**asked, **changes})


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return build_run(tmp_path / "run")


def features(run: RunFolder) -> list[str]:
    return sorted({row["feature"] for row in run.rows() if row["kind"] == "feature"})


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_every_row_goes_in_and_a_second_import_changes_nothing(run: RunFolder, tmp_path: Path) -> None:
    exported(run.path, tmp_path / "out")
    held = database()
    with_source(held, MODEL, SOURCE, features(run), AUTHOR)
    assert imported(held, tmp_path / "out", MODEL, SOURCE) == 45
    assert imported(held, tmp_path / "out", MODEL, SOURCE) == 45
    kinds = held.execute('SELECT DISTINCT "typeName", "authorId", "modelId", "layer" FROM "Explanation"').fetchall()
    assert kinds == [("dragoman_foreign-av", AUTHOR, MODEL, SOURCE)]
    for (notes,) in held.execute('SELECT "notes" FROM "Explanation"'):
        assert json.loads(notes)["text"]


@pytest.mark.parametrize("missing", ["User", "Model", "Source", "Neuron"])
def test_each_row_that_the_readme_asks_for_is_needed(
    run: RunFolder, tmp_path: Path, missing: str, capsys: pytest.CaptureFixture[str]
) -> None:
    exported(run.path, tmp_path / "out")
    held = database()
    creator = "somebody-else" if missing == "User" else AUTHOR
    model, source = ("another" if missing == "Model" else MODEL), ("20-other" if missing == "Source" else SOURCE)
    with_source(held, model, source, features(run)[: 44 if missing == "Neuron" else 45], creator)
    with pytest.raises(sqlite3.IntegrityError, match="FOREIGN KEY"):
        imported(held, tmp_path / "out", MODEL, SOURCE)
    assert f"| `{missing}` |" in (tmp_path / "out/v1" / MODEL / SOURCE / "README.md").read_text()
    assert f"  {missing}: " in capsys.readouterr().err


@pytest.mark.parametrize("name", ["explanation_type.jsonl", "explanation_model_type.jsonl", "eval_type.jsonl"])
def test_each_file_beside_the_batches_is_needed(run: RunFolder, tmp_path: Path, name: str) -> None:
    exported(run.path, tmp_path / "out")
    (tmp_path / "out/v1/config" / name).unlink()
    held = database()
    with_source(held, MODEL, SOURCE, features(run), AUTHOR)
    with pytest.raises(FileNotFoundError):
        imported(held, tmp_path / "out", MODEL, SOURCE)


def test_an_author_that_is_none_is_refused_because_the_table_rejects_it(run: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="a row without one is rejected; pass --author-id"):
        exported(run.path, tmp_path / "out", author_id="")
    assert not (tmp_path / "out").exists()
    held = database()
    with_source(held, MODEL, SOURCE, ["1"], AUTHOR)
    row = {"id": "c1", "modelId": MODEL, "layer": SOURCE, "index": "1", "description": "a"}
    with pytest.raises(sqlite3.IntegrityError, match="FOREIGN KEY"):
        put(held, "Explanation", **row, authorId="")
    put(held, "Explanation", **row, authorId=AUTHOR)


def test_text_that_the_importer_would_break_goes_in(tmp_path: Path) -> None:
    odd = ["a \0 b", "a \\u0000 b", "a \\\\u0000 b", "half \ud800 of one", "sep\u2028arate", '"quoted" \\ back']
    told = [Explained(index=str(n), text=text, notes={"samples": [text], text: text}) for n, text in enumerate(odd)]
    write_explanations(tmp_path, REF, told, **HOW)
    held = database()
    with_source(held, MODEL, SOURCE, [str(n) for n in range(len(odd))], AUTHOR)
    assert imported(held, tmp_path, MODEL, SOURCE) == len(odd)
    notes = [json.loads(n) for (n,) in held.execute('SELECT "notes" FROM "Explanation" ORDER BY "index"')]
    assert [note["text"] for note in notes[:3]] == ["a   b", "a   b", "a \\  b"]
    assert [note["text"] for note in notes[3:]] == odd[3:]


def test_a_copied_run_gives_the_same_bytes_without_folders_and_times(run: RunFolder, tmp_path: Path) -> None:
    manifest = json.loads((run.path / "manifest.json").read_text())
    where = {"ref": "/home/me/sae", "at": "file:/home/me/sae#3", "digest": "d"}
    for condition in manifest["conditions"]:
        condition["verbalizer"] = "/home/me/models/own-av"
    manifest |= {"dictionary": where, "source": "/home/me/models/source:20", "target": "../models/target:12"}
    (run.path / "manifest.json").write_text(json.dumps(manifest))
    exported(run.path, tmp_path / "out")
    copied = tmp_path / "elsewhere" / "copy"
    shutil.copytree(run.path, copied)
    for path in copied.iterdir():
        os.utime(path, (1_000_000_000, 1_000_000_000))
    exported(copied, tmp_path / "again")
    assert files(tmp_path / "out") == files(tmp_path / "again")
    held = database()
    with_source(held, MODEL, SOURCE, features(run), AUTHOR)
    imported(held, tmp_path / "out", MODEL, SOURCE)
    told = json.loads(held.execute('SELECT "notes" FROM "Explanation"').fetchone()[0])
    assert (told["source"], told["target"], told["verbalizer"]) == ("source:20", "target:12", "own-av")
    assert told["dictionary"] == {"ref": "sae", "at": "file:sae#3", "digest": "d"}
    everything = (
        b"".join(files(tmp_path / "out").values())
        + str(held.execute('SELECT * FROM "Explanation"').fetchall()).encode()
    )
    assert b"/home/me" not in everything and str(tmp_path).encode() not in everything


def test_activations_go_in_beside_their_features(tmp_path: Path) -> None:
    fires = [("a \0", 0.0), (" half \ud800", 2.5), (" of\u2028it", 1.0)]
    windows = [Window(index=index, tokens=fires) for index in "12"]
    told = [Explained(index=index, text="a") for index in "12"]
    write_explanations(tmp_path, REF, told, windows=windows, **HOW)
    held = database()
    with pytest.raises(sqlite3.IntegrityError, match="FOREIGN KEY"):
        activated(held, tmp_path, MODEL, SOURCE)
    with_source(held, MODEL, SOURCE, ["1", "2"], AUTHOR)
    assert imported(held, tmp_path, MODEL, SOURCE) == activated(held, tmp_path, MODEL, SOURCE) == 2
    for tokens, values, most, at in held.execute(
        'SELECT "tokens", "values", "maxValue", "maxValueTokenIndex" FROM "Activation"'
    ):
        assert json.loads(tokens)[0] == "a  " and json.loads(values) == [0.0, 2.5, 1.0] and (most, at) == (2.5, 1)


def test_more_batches_of_activations_than_the_importer_lists_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dragoman.neuronpedia.write.MOST_FILES", 2)
    windows = [Window(index="1", tokens=[(f"token {n}", 1.0)]) for n in range(3)]
    how: dict[str, Any] = {**HOW, "windows": windows}
    with pytest.raises(Refusal, match="batches of 1 rows: of activations there would be more than the 2 that the imp"):
        write_explanations(tmp_path, REF, [Explained(index="1", text="a")], batch_size=1, **how)
    assert not list(tmp_path.iterdir())
    write_explanations(tmp_path, REF, [Explained(index="1", text="a")], batch_size=2, **how)


def test_two_sources_share_the_files_of_settings(tmp_path: Path) -> None:
    other = parse(f"np:{MODEL}/21-tiny-res")
    one = [Explained(index="1", text="a")]
    write_explanations(tmp_path, REF, one, **HOW)
    write_explanations(tmp_path, other, one, **HOW | {"model_name": "kitft/other-av"})
    write_explanations(tmp_path, REF, one, **HOW)
    names = [
        json.loads(x)["name"] for x in (tmp_path / "v1/config/explanation_model_type.jsonl").read_text().splitlines()
    ]
    assert names == ["kitft/nla-av", "kitft/other-av"]
    with pytest.raises(Refusal, match="it describes 'dragoman_foreign-av' otherwise; name a new folder"):
        write_explanations(tmp_path, parse(f"np:{MODEL}/22-res"), one, **HOW | {"author": "another"})
    assert not (tmp_path / f"v1/{MODEL}/22-res").exists()


def test_the_readme_names_the_other_way_in_and_its_limits(tmp_path: Path) -> None:
    write_explanations(tmp_path, REF, [Explained(index="1", text="a"), Explained(index="1", text="b")], **HOW)
    said = " ".join((tmp_path / "v1" / MODEL / SOURCE / "README.md").read_text().split())
    assert "2 explanations of 1 features, in 1 files" in said
    assert "POST /api/feature/upload-batch" in said and "at least one activation" in said
    assert f"/api/admin/import?modelId={MODEL}&sourceId={SOURCE}&explanations=only" in said
