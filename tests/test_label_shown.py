"""Labels from contexts where a reader meets them: the command, page, viewer, tables; escaped, and named as such."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from dragoman.commands.show import rows_of, show_rows, show_scores
from dragoman.embed import LexicalEmbedder
from dragoman.exports.entries import entries_of_run
from dragoman.exports.tables import write_csv
from dragoman.models import embedder, labeller
from dragoman.report import write_page
from dragoman.report.headline import headline
from dragoman.report.opened import ShownRun
from dragoman.report.words import Controls
from dragoman.scores import FORMAT, Scores
from dragoman.scoring.judged_run import JudgedRun
from dragoman.scoring.labels import with_labels
from dragoman.store import RunFolder
from dragoman.store.labels import LABELS, need_labels
from dragoman.store.runs import Rows
from report_fixture import HOSTILE, whole_estimate
from small_world import command
from test_label import HEAD, WORDS, planted
from tiny_checkpoints import save_checkpoint

HEADLINE = "16 explanations of 8 features. Labels from contexts by echo tell windows in which their feature fires from"


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A planted run whose labels are right, but for one that is hostile; judged by words alone."""
    made = planted(tmp_path / "run", 8)
    rows = Rows(made.path / LABELS, made.rows_plan)
    rows.append([HEAD.to_json()])
    for k in range(8):
        rows.append([{"feature": f"{k}", "label": HOSTILE if k == 3 else WORDS[k], "windows": 5, "shown": "d"}])
    rows.close()
    made.write_scores(with_labels(Scores(format=FORMAT), JudgedRun.of(made), LexicalEmbedder(), seed=0).to_json())
    return made


def test_the_page_shows_them_beside_the_texts_and_what_they_are_worth(run: RunFolder, tmp_path: Path) -> None:
    page = write_page(run, tmp_path / "page.html").read_text()
    assert page.count("Label from contexts by echo, not the verbalizer’s:") == 8
    assert f'<q dir="auto">{WORDS[2]}</q> <small>on windows it was not shown, AUROC of label from contexts' in page
    assert "Beside labels from contexts" in page and "wrong minus label from contexts" in page
    assert "<script>alert" not in page and "&lt;script&gt;alert" in page
    assert HEADLINE in page and "none of them scored" not in page


@pytest.mark.parametrize(
    ("low", "high", "told"),
    [(0.1, 0.3, "tell more than they do"), (-0.1, 0.3, "do not beat them"), (-0.3, -0.1, "tell less than they do")],
)
def test_the_headline_tells_whether_texts_beat_labels(low: float, high: float, told: str) -> None:
    rate = whole_estimate(condition="label", features=3, value=0.61, low=0.4, extra={"others": 0.49})
    over = [whole_estimate(what=f"{name} minus label", low=low, high=high) for name in ("fires", "random")]
    labels = {"embedder": "e", "model": "m", "label": "label", "table": [rate], "over": over, "per_feature": {}}
    scores = Scores.of({"format": 2, "context_labels": labels}, "it")
    assert headline(scores, 3, 9, Controls(names=frozenset({"random"}))) == (
        "9 explanations of 3 features. Labels from contexts by m tell windows in which their feature fires from others "
        f"with a mean AUROC of 0.610, labels of other features with 0.490, which the interval does not exclude; “fires "
        f"on” explanations {told}."
    )


def test_the_viewer_shows_them_and_leaves_out_what_cannot_be_read(run: RunFolder) -> None:
    pytest.importorskip("starlette", reason="run: pip install 'dragoman[view]'")
    from viewed_run import client_of, viewed

    view = viewed(run)
    page, hostile, overview = (client_of(view).get(f"/run/{k}").text for k in ("feature?id=2", "feature?id=3", ""))
    view.close()
    assert f'Label from contexts by echo, not the verbalizer’s: <q dir="auto">{WORDS[2]}</q>' in page
    assert HEADLINE in overview
    assert "right " in page.partition("AUROC of")[2][:120]
    assert "<script>alert" not in hostile and "&lt;script&gt;alert" in hostile
    (run.path / LABELS).write_text("[]\n")
    view = viewed(run)
    assert any(one.startswith(f"{LABELS} is left out") for one in view.index.about["missing"])
    assert "Label from contexts" not in client_of(view).get("/run/feature?id=2").text
    view.close()


def test_tables_have_columns_of_them(run: RunFolder, tmp_path: Path) -> None:
    entries = entries_of_run(ShownRun.of(run, windows=False))
    path = write_csv(tmp_path / "table.csv", entries)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {(row["context_label"], row["context_label_by"]) for row in rows if row["feature"] == "2"} == {
        (WORDS[2], "echo")
    }


def test_rows_and_scores_tell_them_on_the_terminal(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    rows = rows_of(run)
    assert rows[2]["context_label"] == {"label": WORDS[2], "model": "echo"}
    show_rows(rows, run.manifest)
    assert f"label from contexts by echo, not the verbalizer's: {WORDS[2]}" in capsys.readouterr().out
    show_scores(run.scores or {}, run.manifest)
    told = " ".join(capsys.readouterr().out.split())
    assert "wrong minus label from contexts" in told and "these texts do not beat a label from contexts" in told


def test_the_command_labels_and_judges_a_run_and_is_refused_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, model = planted(tmp_path / "run", 8), tmp_path / "model"
    save_checkpoint(model, "llama")
    monkeypatch.setattr(labeller, "ASK", "the {}concept{} of:\n{}\n")
    monkeypatch.setattr(labeller, "BEGUN", "the people")
    monkeypatch.setattr(embedder, "SentenceEmbedder", lambda **_how: LexicalEmbedder())
    monkeypatch.setattr(embedder, "packaged_folder", lambda: tmp_path)
    words = ("label", str(run.path), "--with", str(model), "--windows", "2")
    first = command(monkeypatch, capsys, *words, "--json")
    assert first.code == 0, first.err
    told: dict[str, Any] = json.loads(first.out)
    assert told["schema"] == "dragoman.labels/1" and len(told["labels"]) == 8 and told["unlabelled"] == 0
    assert [row["condition"] for row in told["scores"]["table"]] == ["label from contexts", "right", "wrong"]
    assert run.scores and run.scores["context_labels"] == told["scores"]
    again = command(monkeypatch, capsys, *words)
    assert again.code == 0 and "all 8 labels by" in again.err and "on windows that" in " ".join(again.out.split())
    assert need_labels(run).head.windows == 2
    other = command(monkeypatch, capsys, *words[:-1], "3")
    assert other.code == 1 and other.err.count("\n") == 1 and "were made with windows 2" in other.err
