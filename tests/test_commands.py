"""The command line from outside: what it prints, where, and its exit codes."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest

from dragoman.commands.words import settings_from
from dragoman.core import Refusal
from dragoman.maps.dictionary import NEAR, OTHERS
from dragoman.maps.direct import WHOLE
from report_fixture import build_run
from small_world import Said, World, command

Dragoman = Callable[..., Said]
COMMANDS = ("demo", "explain", "fit", "inspect", "score", "report", "checkpoints", "doctor", "export")


@pytest.fixture
def dragoman(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Dragoman:
    monkeypatch.setenv("COLUMNS", "100")
    return lambda *words: command(monkeypatch, capsys, *map(str, words))


def refused(said: Said) -> str:
    """The one sentence of a refusal; nothing else was said."""
    assert said.code == 1 and not said.out
    assert said.err.startswith("dragoman: ") and said.err.endswith(".\n") and said.err.count("\n") == 1, said.err
    return said.err


def explaining(world: World, out: Path, *more: str) -> list[str]:
    return [
        *("explain", world.sae, "--by", world.av, "--source", str(world.source), "--features", "0,3"),
        *("--texts", str(world.root / "texts.txt"), "--max-new-tokens", "4", "-o", str(out), *more),
    ]


# --- help -----------------------------------------------------------------------------------------------------------


def test_without_words_the_commands_are_listed(dragoman: Dragoman) -> None:
    said = dragoman()
    assert all(name in said.out + said.err for name in COMMANDS)
    assert dragoman("--help").code == 0


def test_the_package_runs_as_a_module() -> None:
    done = subprocess.run([sys.executable, "-m", "dragoman", "--version"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"dragoman {version('dragoman')}\n", "")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself_in_100_columns(dragoman: Dragoman, name: str) -> None:
    said = dragoman(name, "--help")
    assert said.code == 0 and not said.err and f"Usage: dragoman {name}" in said.out
    assert max(map(len, said.out.splitlines())) <= 100


@pytest.mark.parametrize(
    ("name", "panels"),
    [
        (
            "explain",
            [
                "Most used",
                "What is explained",
                "How it crosses",
                "The verbalizer",
                "What it says",
                "Output and machine",
            ],
        ),
        ("fit", ["Most used", "What is explained", "How it crosses", "The verbalizer", "Output and machine"]),
    ],
)
def test_options_stand_under_headings_at_80_columns(
    dragoman: Dragoman, monkeypatch: pytest.MonkeyPatch, name: str, panels: list[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    said = dragoman(name, "--help-all").out
    assert re.findall(r"^╭─ (.+?) ─+╮$", said, re.MULTILINE) == ["Arguments", *panels]
    assert (
        f"Usage: dragoman {name} [OPTIONS] {'[SAE]' if name == 'explain' else 'SAE'}" in said
        and max(map(len, said.splitlines())) <= 80
    )
    assert "{" not in said and "9223372036854775807" not in said and "…" not in said


def test_help_of_fit_says_what_is_watched_of_a_large_dictionary(dragoman: Dragoman) -> None:
    told = re.sub(r"[\s│]+", " ", dragoman("fit", "--help-all").out)
    assert f"Of more than {WHOLE} features only these, the {NEAR} nearest of each and {OTHERS} drawn at random" in told


@pytest.mark.parametrize(
    "words",
    [("explain",), ("explain", "tiny-sae", "--samples", "0"), ("export",), ("translate",), ("--nothing",)],
)
def test_wrong_usage_ends_with_2_and_runs_nothing(dragoman: Dragoman, words: tuple[str, ...]) -> None:
    said = dragoman(*words)
    assert said.code == 2 and not said.out and "Usage: dragoman" in said.err


def test_samples_need_no_temperature_and_refuse_none_at_all(dragoman: Dragoman, world: World, tmp_path: Path) -> None:
    said = dragoman(*explaining(world, tmp_path / "run", "--samples", "2", "--json"))
    rows = [json.loads(line) for line in said.out.splitlines()]
    assert said.code == 0 and [row["sample"] for row in rows] == [0, 0, 0, 1, 1, 1]
    assert all(row["log_probability"] < 0 for row in rows)
    told = refused(dragoman(*explaining(world, tmp_path / "cold", "--samples", "4", "--temperature", "0")))
    assert "4 samples at temperature 0" in told and not (tmp_path / "cold").exists()


# --- checkpoints ------------------------------------------------------------------------------------------------------


def test_checkpoints_as_json_are_one_array(dragoman: Dragoman) -> None:
    said = dragoman("checkpoints", "--json")
    rows = json.loads(said.out)
    assert said.code == 0 and not said.err and len(rows) > 50
    assert {"id", "base", "blocks", "contract", "quality", "saes", "usable", "missing"} <= set(rows[0])
    assert all(row["usable"] or row["missing"] for row in rows)


def test_a_verbalizer_is_recommended_for_a_model(dragoman: Dragoman) -> None:
    said = dragoman("checkpoints", "--for", "Qwen/Qwen2.5-7B-Instruct")
    lines = said.out.splitlines()
    assert said.code == 0 and lines[1].startswith(" 1. kitft/nla-qwen2.5-7b-L20-av  kitft")
    assert "The first 8 of" in said.out and "--all" in said.out and "dragoman explain DICTIONARY --by" in said.out
    rows = json.loads(dragoman("checkpoints", "--for", "Qwen/Qwen2.5-7B-Instruct:20", "--json").out)
    assert [row["rank"] for row in rows] == list(range(1, 9))
    assert rows[0]["relation"] == "native" and "exactly yours" in rows[0]["reason"]
    every = dragoman("checkpoints", "--for", "Qwen/Qwen2.5-7B-Instruct", "--all")
    assert "The first" not in every.out and every.out.count("\n") > said.out.count("\n")


def test_a_neuronpedia_model_nobody_knows_is_refused(dragoman: Dragoman) -> None:
    assert "not in dragoman's table" in refused(dragoman("checkpoints", "--for", "np:who-is-it/3-res/1"))


# --- explain ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (("--setting", "bad"), "setting 'bad': it is not NAME=VALUE; write for example --setting norm=150."),
        (("--setting", "norm=1", "--setting", "norm=2"), "setting 'norm=2': norm is given twice"),
        (("--setting", "colour=red"), "setting 'colour' of contract 'kitft': it takes block, "),
        (("--setting", "block=first"), "setting 'block' of contract 'kitft': 'first' is no int"),
        (("--contract", "guess"), "contract 'guess': known are continuous, karvonen, kitft, oracle, selfie, "),
        (("--route", "teleport"), "route 'teleport': known are map, direct, dictionary, blend, auto"),
        (("--washout", "2"), "washout '2'"),
        (("--source", "m"), "site 'm'"),
        (("--labels", "nowhere"), "export nowhere: there is no such folder"),
    ],
)
def test_what_cannot_be_explained_is_one_sentence_and_1(
    dragoman: Dragoman, world: World, tmp_path: Path, more: tuple[str, ...], sentence: str
) -> None:
    words = explaining(world, tmp_path / "run", *more)
    if more[0] in words[: -len(more)]:  # an option that is said twice is another refusal
        at = words.index(more[0])
        del words[at : at + 2]
    said = dragoman(*words)
    talk = said.err.rpartition("dragoman: ")
    assert said.code == 1 and not said.out and sentence in talk[2] and talk[2].count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_rows_go_to_stdout_as_json_lines_and_talk_to_stderr(dragoman: Dragoman, world: World, tmp_path: Path) -> None:
    said = dragoman(*explaining(world, tmp_path / "run", "--json"))
    rows = [json.loads(line) for line in said.out.splitlines()]
    told = [(r["reading"], r["feature"]) for r in rows]
    assert said.code == 0 and told == [("fires", "3"), ("writes", "0"), ("writes", "3")]
    assert "checking the verbalizers" in said.err
    assert (tmp_path / "run" / "page.html").is_file()
    again = dragoman(*explaining(world, tmp_path / "run"))
    assert (
        again.code == 0
        and "page: " in again.out
        and "kept 3 rows" in again.err
        and "0 [fires on] fires in" in again.out
    )
    other = dragoman(*explaining(world, tmp_path / "run", "--washout", "none"))
    assert other.code == 1 and "it holds another run" in other.err


def test_settings_are_json_where_they_can_be() -> None:
    said = settings_from(["block=3", "question=What is it?", "chat_template=false", 'slots={"depth_pct": 50}', "a=b=c"])
    assert said == {
        "block": 3, "question": "What is it?", "chat_template": False, "slots": {"depth_pct": 50}, "a": "b=c",
    }  # fmt: skip
    for word in ("=3", "block"):
        with pytest.raises(Refusal, match="it is not NAME=VALUE"):
            settings_from([word])


# --- score, report, export, doctor ----------------------------------------------------------------------------------


def test_a_run_is_exported_for_neuronpedia(dragoman: Dragoman, tmp_path: Path) -> None:
    build_run(tmp_path / "run")
    where = ("--model-id", "smollm2-135m", "--source-id", "20-tiny-res", "--author-id", "clkht01d40000jv08hvalcvly")
    said = dragoman("export", tmp_path / "run", *where, "-o", tmp_path / "out")
    path = Path(said.out.strip())
    assert said.code == 0 and path == tmp_path / "out/v1/smollm2-135m/20-tiny-res/explanations/batch-0.jsonl.gz"
    rows = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
    assert len(rows) == 45 and all(0 < len(row["description"]) <= 512 for row in rows)
    told = json.loads(
        dragoman("export", tmp_path / "run", *where, "-o", tmp_path / "native", "--condition", "native", "--json").out
    )
    assert (told["condition"], told["explanations"]) == ("native", 45)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (("--source-id", "21-tiny-res"), "its rows live at block 21, the run's at block 20"),
        (("--source-id", "20-tiny-res", "--condition", "random_plain"), "it is of random directions"),
        (("--source-id", "20-tiny-res", "--condition", "boiled"), "the run has no such condition"),
        (("--source-id", "tiny"), "is no source id"),
        (("--source-id", "20-tiny-res"), "pass --author-id with the id of a row of its table"),
        (("--source-id", "20-tiny-res", "--format", "cvs"), "format 'cvs': known are neuronpedia"),
    ],
)
def test_an_export_to_the_wrong_place_is_refused(
    dragoman: Dragoman, tmp_path: Path, changes: tuple[str, ...], sentence: str
) -> None:
    build_run(tmp_path / "run")
    said = dragoman("export", tmp_path / "run", "--model-id", "m", "-o", tmp_path / "out", *changes)
    assert sentence in refused(said) and not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["score", "report", "export"])
def test_what_is_no_run_folder_is_refused(dragoman: Dragoman, tmp_path: Path, name: str) -> None:
    more = ("--model-id", "m", "--source-id", "1-res") if name == "export" else ()
    assert "it is not a run folder" in refused(dragoman(name, tmp_path, *more))


def test_a_run_without_anything_to_judge_by_says_what_to_do(dragoman: Dragoman, world: World, tmp_path: Path) -> None:
    assert dragoman(*explaining(world, tmp_path / "run", "--map", "post", "--route", "map")).code == 0
    said = dragoman("score", tmp_path / "run").err
    assert (
        "no confidence: none lies beside the dictionary" in said
        and "nothing to judge by; run explain with --native AV, score with --ar AR" in said
    )


def test_the_doctor_is_told_how_a_verbalizer_is_fed(dragoman: Dragoman, world: World) -> None:
    said = dragoman("doctor", "--by", world.av, "--json")
    told = json.loads(said.out)
    assert said.code == 0 and told["findings"] and not any(f["status"] == "fault" for f in told["findings"])
    assert "it is not NAME=VALUE" in refused(dragoman("doctor", "--by", world.av, "--setting", "bad"))
    wrong = dragoman("doctor", "--by", world.av, "--setting", "block=0", "--json")
    assert wrong.code == 1 and "the block given is 0" in wrong.out
    assert "a source alone says nothing" in refused(dragoman("doctor", "--source", "m:1"))


def test_the_doctor_reads_a_dictionary_by_any_reference(dragoman: Dragoman, world: World) -> None:
    said = dragoman("doctor", "--sae", f"file:{world.sae}", "--source", str(world.source), "--json")
    checks = {f["check"]: f for f in json.loads(said.out)["findings"]}
    assert checks["decoder-orientation"]["status"] == "ok" and checks["dictionary-width"]["status"] == "ok"
