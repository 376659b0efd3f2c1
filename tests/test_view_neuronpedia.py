"""A selection in Neuronpedia's layout: the files of ``dragoman export``, with activations; or one sentence why not."""

from __future__ import annotations

import gzip
import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dragoman.commands.export import export
from dragoman.core import Refusal
from dragoman.neuronpedia import NeuronpediaRef, write_explanations
from dragoman.neuronpedia.activations import Window, activation_rows
from dragoman.neuronpedia.write import Explained
from dragoman.records import TokenWindow
from dragoman.store import RunFolder
from dragoman.store.firing import write_tokens
from dragoman.view import packed
from viewed_run import HOSTILE_ID, RARE_ID, client_of, make_run, viewed

pytest.importorskip("starlette", reason="run: pip install 'dragoman[view]'")

WHAT = "model_id=gemma-2-2b&source_id=20-gemmascope-res-16k&author_id=cl1"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return make_run(tmp_path_factory.mktemp("packed") / "run", 12)


@pytest.fixture(scope="module")
def client(run: RunFolder) -> Iterator[Any]:
    view = viewed(run)
    yield client_of(view)
    view.close()


def files_of(answer: Any) -> dict[str, bytes]:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-disposition"] == 'attachment; filename="run.neuronpedia.zip"'
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def rows_of(content: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in gzip.decompress(content).splitlines()]


def test_all_of_a_run_is_what_the_command_writes(client: Any, run: RunFolder, tmp_path: Path) -> None:
    found = files_of(client.get(f"/run/neuronpedia.zip?{WHAT}"))
    how = {"model_id": "gemma-2-2b", "source_id": "20-gemmascope-res-16k", "author_id": "cl1"}
    export(run.path, out=tmp_path / "export", **how)
    made = tmp_path / "export"
    assert found == {p.relative_to(made).as_posix(): p.read_bytes() for p in made.rglob("*") if p.is_file()}
    assert client.get(f"/run/neuronpedia.zip?{WHAT}").content == client.get(f"/run/neuronpedia.zip?{WHAT}").content


def test_a_selection_is_all_of_it_and_nothing_else(client: Any) -> None:
    found = files_of(client.get(f"/run/neuronpedia.zip?{WHAT}&status=differs&condition=writes"))
    root = "v1/gemma-2-2b/20-gemmascope-res-16k"
    texts, fires = (rows_of(found[f"{root}/{kind}/batch-0.jsonl.gz"]) for kind in ("explanations", "activations"))
    assert [row["index"] for row in texts] == ["3", "7", "11"] and {row["typeName"] for row in texts} == {
        "dragoman_foreign-av_writes"
    }
    assert [row["index"] for row in fires] == ["3", "7", "11"] and {row["creatorId"] for row in fires} == {"cl1"}
    one = fires[0]
    assert "".join(one["tokens"]) == " spoke of oil painting all day, of the valley."
    assert one["values"] == [0, 0, 0, 0, 0, 1.25, 0, 0, 7.5]
    assert (one["maxValue"], one["maxValueTokenIndex"], one["minValue"]) == (7.5, 8, 0)
    assert "the 3 rows of\n`activations/batch-N.jsonl.gz`" in found[f"{root}/README.md"].decode()


def test_hostile_texts_go_in_whole(client: Any) -> None:
    found = files_of(client.get(f"/run/neuronpedia.zip?{WHAT}&q={HOSTILE_ID}"))
    assert all(b"\0" not in content or name.endswith(".gz") for name, content in found.items())
    rows = [row for name, content in found.items() if "/explanations/" in name for row in rows_of(content)]
    assert HOSTILE_ID in {row["index"] for row in rows}


@pytest.mark.parametrize(
    ("query", "why"),
    [
        ("source_id=20-res&author_id=a", "no model id is given; fill in what the model is called there"),
        ("model_id=gemma-2-2b&author_id=a", "no source id is given"),
        ("model_id=gemma-2-2b&source_id=20-res", "no author id is given"),
        ("model_id=gemma-2-2b&source_id=20-res&author_id=a%20b", "every explanation belongs to a user"),
        ("model_id=gemma-2-2b&source_id=12-res&author_id=a", "its rows live at block 12"),
        ("model_id=gpt2-small&source_id=20-res&author_id=a", "gpt2"),
        ("model_id=..%2F..&source_id=20-res&author_id=a", "model"),
        ("model_id=gemma-2-2b&source_id=..%2F20-res&author_id=a", "source"),
        (f"{WHAT}&q=nothingofthekind", "nothing is selected; change the filters"),
        (f"{WHAT}&kind=controls", "random directions"),
        (f"{WHAT}&status=nosuch", "status"),
    ],
)
def test_what_cannot_be_written_is_refused_in_a_sentence(query: str, why: str, client: Any) -> None:
    answer = client.get(f"/run/neuronpedia.zip?{query}")
    assert answer.status_code == 422 and "Nothing was written" in answer.text
    assert why in answer.text and "content-disposition" not in answer.headers


def test_large_selections_are_refused(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "MOST", 5)
    assert "12 features are selected, and 5 at most" in client.get(f"/run/neuronpedia.zip?{WHAT}").text


def test_the_form_carries_the_selection_and_what_the_run_tells(client: Any) -> None:
    page = client.get("/run/features?status=weak&q=%22%3Cb%3E").text + client.get("/run/features?status=weak").text
    assert '<input type="hidden" name="status" value="weak">' in page and "<b>" not in page
    for name, value in (("model_id", "gemma-2-2b"), ("source_id", "20-gemmascope-res-16k"), ("author_id", "")):
        assert f'<input name="{name}" value="{value}" maxlength="200" required>' in page
    assert 'action="/run/neuronpedia.zip"' in page and RARE_ID


def test_tokens_of_other_windows_are_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", 4)
    write_tokens(run, {"3": [TokenWindow(ends=(4000,), at=(0,), fires=(1.0,))]})
    how = {"model_id": "gemma-2-2b", "source_id": "20-res", "author_id": "a"}
    with pytest.raises(Refusal, match="activations of feature 3: its tokens are not those of its windows"):
        export(run.path, out=tmp_path / "out", **how)
    assert not (tmp_path / "out").exists()


def test_unknown_activations_are_never_told_as_numbers() -> None:
    windows = [
        Window(index="1", tokens=[("a", None), (" b", 2.0), (" c", 0.0), (" d", None)]),
        Window(index="1", tokens=[("a", 1.0), (" b", None), (" c", 2.0)]),
        Window(index="1", tokens=[("a", 0.0)]),
        Window(index="1", tokens=[("a", None)]),
    ]
    rows = activation_rows(windows, "m", "20-s", "me", lambda *parts: str(len(parts)))
    assert [(row["tokens"], row["values"]) for row in rows] == [([" b", " c"], [2.0, 0.0])]


def test_without_activations_nothing_is_promised(tmp_path: Path) -> None:
    source = NeuronpediaRef(model="m", source="20-s")
    how = {"type_name": "t", "model_name": "av", "author": "me"}
    write_explanations(tmp_path / "out", source, [Explained(index="1", text="About rye.")], **how)
    assert "which this export does not\nhold" in (tmp_path / "out/v1/m/20-s/README.md").read_text()
    assert not (tmp_path / "out/v1/m/20-s/activations").exists()
