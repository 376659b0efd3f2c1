"""What a person sees: tables with whole words at 80 and 120 columns, the demo's end, which texts to believe, help."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import typer
import typer.main

from dragoman.cli import app
from dragoman.commands.boundary import quiet_libraries
from dragoman.commands.examples import FIRST
from dragoman.commands.printing import Steps
from dragoman.commands.show import show_scores, with_scores
from dragoman.commands.tables import show_table, widths_for
from dragoman.commands.verdict import believed, beside, next_after, show_three, three
from dragoman.demo import STEPS
from dragoman.models.load import quicker_dtype
from dragoman.report.opened import Manifest
from dragoman.scores import Scores
from dragoman.store import RunFolder
from report_fixture import build_run
from small_world import Said, World, command
from test_commands import COMMANDS, explaining

Command = Callable[..., Said]
WIDTHS = (80, 120)


@pytest.fixture(params=WIDTHS)
def wide(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setenv("COLUMNS", str(request.param))
    return request.param


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    monkeypatch.setenv("COLUMNS", "80")
    return lambda *words: command(monkeypatch, capsys, *map(str, words))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 45 features that was scored."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    build_run(folder)
    return folder


def widest(text: str) -> int:
    return max(map(len, text.splitlines()))


# --- tables ---------------------------------------------------------------------------------------------------------


def test_headings_give_way_before_words_and_words_before_numbers_which_never_do() -> None:
    heads, rows = ("condition", "a long heading"), [["random directions", "12345"]]
    assert widths_for(40, heads, rows) == [17, 14]
    assert widths_for(30, heads, rows) == [17, 11]
    assert widths_for(20, heads, rows) == [11, 7], "the heading takes two lines, the words two"
    assert widths_for(18, heads, rows) is None, "directions and heading do not stand side by side"
    assert widths_for(19, ("a", "b"), [["xx", "1234567"] for _ in range(3)]) == [2, 7]


def test_a_table_on_a_narrow_screen_breaks_no_word(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [["procrustes_washed", "random directions", "[+0.104, +0.217]"], ["", "other features", ""]]
    for width in (200, 50, 44, 30, 20):
        monkeypatch.setenv("COLUMNS", str(width))
        show_table("against each null", ("condition", "null", "95 % interval"), rows, words=2)
        said = capsys.readouterr().out
        words = {word.strip(",") for word in re.sub("\u00a0", " ", said).split()}
        assert {"procrustes_washed", "random", "directions", "other", "features"} <= words, said
        assert "[+0.104, +0.217]" in " ".join(said.split())


def test_scores_fit_their_screen_with_whole_words(
    finished: Path, wide: int, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunFolder.open(finished)
    assert run.scores is not None
    show_scores(run.scores, run.manifest)
    said = capsys.readouterr().out
    assert widest(said) <= wide
    for name in ("procrustes_washed", "random_washed", "directions", "category", "interval"):
        assert re.search(rf"\b{name}\b", said), name


def test_checkpoints_fit_their_screen_and_break_neither_role_nor_pair(
    shell: Command, monkeypatch: pytest.MonkeyPatch, wide: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(wide))
    for words in (("checkpoints",), ("checkpoints", "--for", "Qwen/Qwen2.5-7B-Instruct")):
        said = shell(*words)
        lines = [line for line in said.out.splitlines() if "/" not in line]
        assert said.code == 0 and max(map(len, lines)) <= wide
    said = shell("checkpoints").out
    assert "pair" in said and "second-hand" in said and "kitft/nla-qwen2.5-7b-L20-av" in said
    assert not re.search(r"\b(rol|pai|confirme)\b", said)


# --- the demo's end -------------------------------------------------------------------------------------------------


def test_steps_are_told_with_the_time_that_is_left() -> None:
    now = [0.0]
    steps = Steps({"reading": 30.0, "saying": 60.0, "scoring": 90.0}, clock=lambda: now[0])
    assert steps.begun("reading") == "step 1 of 3: reading (about 3 min left)"
    now[0] = 60.0  # twice as long as usual, so the rest is taken to be too
    assert steps.begun("saying") == "step 2 of 3: saying (about 5 min left)"
    now[0] = 90.0
    assert steps.begun("scoring") == "step 3 of 3: scoring (about 2 min left)"
    now[0] = 9.0
    assert steps.begun("scoring") == "step 3 of 3: scoring (about 9 s left)" and steps.begun("other") == "other"


def test_the_demo_ends_with_three_features_a_verdict_a_table_and_the_next_command(
    shell: Command, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder.open(finished)
    scores = Scores.of(run.scores or {}, "the scores")

    def experiment(*given: Any, **_how: Any) -> RunFolder:
        talk = given[3]
        for step in list(STEPS)[:3]:
            talk.step(step)
        talk.say("a detail that nobody asked for")
        talk.bar("washed", 45, 45)
        warnings.warn_explicit("odd weights", UserWarning, "transformers/x.py", 1, module="transformers.x")
        return run

    monkeypatch.setattr("dragoman.demo.experiment", experiment)
    monkeypatch.setattr("dragoman.scoring.score_run", lambda *_a, **_k: scores)
    said = shell("demo", "-o", finished)
    assert said.code == 0, said.err
    lines = said.out.splitlines()
    assert max(len(line) for line in lines if not line.startswith("page: ")) <= 80
    heads = [line for line in lines if re.match(r"feature \d+ fires in documents about ", line)]
    assert len(heads) == 3 and sum(line.split() == ["fires", "on", "writes"] for line in lines) == 3
    verdict = next(k for k, line in enumerate(lines) if line.startswith("Texts that name the topic"))
    table = next(k for k, line in enumerate(lines) if line.startswith("condition"))
    assert verdict < table and lines[-1].startswith("next: dragoman explain tiny-sae --features")
    assert any(line.startswith("procrustes_washed ") for line in lines[table:])
    assert [line.split(":")[0] for line in said.err.splitlines()] == [f"step {k} of 5" for k in range(1, 6)]
    assert "min left)" in said.err and "odd weights" not in said.err
    told = json.loads(shell("demo", "-o", finished, "--json").out)
    assert told["schema"] == "dragoman.scores/1" and told["table"]


def test_the_demo_computes_in_what_the_processor_is_quick_at(
    shell: Command, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, asked = RunFolder.open(finished), list[str]()
    monkeypatch.setattr("dragoman.demo.experiment", lambda *_given, dtype, **_how: asked.append(dtype) or run)
    monkeypatch.setattr("dragoman.scoring.score_run", lambda *_a, **_k: Scores.of(run.scores or {}, "the scores"))
    for capability in ("AVX512", "AVX2", "DEFAULT"):
        monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda capability=capability: capability)
        assert shell("demo", "-o", finished).code == 0
        assert shell("demo", "-o", finished, "--dtype", "float16").code == 0
    assert asked == ["bfloat16", "float16", "float32", "float16", "float32", "float16"]
    assert (quicker_dtype("cpu"), quicker_dtype("cuda")) == ("float32", "bfloat16")
    odd = shell("demo", "-o", finished, "--dtype", "")
    assert odd.code == 1 and "known are float32" in odd.err


def test_verbose_lets_details_through(shell: Command, finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunFolder.open(finished)

    def experiment(*given: Any, **_how: Any) -> RunFolder:
        given[3].say("a detail")
        return run

    monkeypatch.setattr("dragoman.demo.experiment", experiment)
    monkeypatch.setattr("dragoman.scoring.score_run", lambda *_a, **_k: Scores.of(run.scores or {}, "the scores"))
    assert "a detail" in shell("--verbose", "demo", "-o", finished).err
    assert "a detail" not in shell("demo", "-o", finished).err


def test_three_features_are_the_first_of_each_kind_in_the_run_s_own_order() -> None:
    info = {str(k): {"category": "c", "topic": "t"} for k in range(6)}

    def named(*found: int | None) -> list[dict[str, Any]]:
        return [{"feature": str(k), "names_category": bool(f)} for k, f in enumerate(found) if f is not None]

    per = {"direct": named(0, 1, 1, 1, None, 1), "washed": named(0, 1, 0, 1, 1, 0)}
    scores = Scores.of({"format": 2, "per_feature": per}, "the scores")
    manifest, readings = Manifest.of({"feature_info": info}, "m"), {"fires on": "direct", "writes": "washed"}
    kinds = ["both name it", "one of them names it", "none names it"]
    assert three(scores, manifest, readings) == list(zip(["1", "2", "0"], kinds, strict=True))
    alone = Scores.of({"format": 2, "per_feature": {"direct": per["direct"][1:2]}}, "the scores")
    assert three(alone, manifest, readings) == [("1", "its one text names it")]


def test_texts_stand_side_by_side_under_their_titles_in_whole_words(capsys: pytest.CaptureFixture[str]) -> None:
    lines = beside([("fires on", "one two three four five\n\nsix"), ("writes", "漢字 seven")], 24)
    assert lines == ["fires on     writes", "one two      漢字 seven", "three four", "five", "six"]
    rows = [{"feature": "1", "condition": "direct", "sample": 0, "text": "\x1b[2Jevil"}]
    scores = Scores.of({"format": 2, "per_feature": {"direct": [{"feature": "1", "names_category": True}]}}, "s")
    manifest = Manifest.of({"feature_info": {"1": {"category": "c"}}}, "m")
    show_three(rows, scores, manifest, {"fires on": "direct", "writes": "washed"})
    said = capsys.readouterr().out
    assert "\x1b" not in said and "it fires too rarely for this reading" in " ".join(said.split())


# --- which texts to believe ------------------------------------------------------------------------------------------


def row(feature: str, condition: str, **more: Any) -> dict[str, Any]:
    return {"feature": feature, "condition": condition, "sample": 0, "text": "x", **more}


def sure(chance: float, answered: bool) -> dict[str, Any]:
    return {"confidence": {"probability": chance, "answered": answered, "member": "card", "why": []}}


MANIFEST: Mapping[str, Any] = {"conditions": [{"name": "fires", "reading": "fires"}, {"name": "writes"}]}


def test_confident_texts_are_to_be_believed_and_those_abstained_on_are_not() -> None:
    rows = [
        row("7", "fires", **sure(0.93, True)), row("7", "writes", **sure(0.4, False)),
        row("8", "fires", **sure(1, True)),
        row("7", "fires") | {"sample": 1}, row("9", "random", **sure(0.99, True)),
    ]  # fmt: skip
    manifest = {"conditions": [*MANIFEST["conditions"], {"name": "random", "null": "random directions"}]}
    assert believed(rows, manifest) == [
        "Believe 2 of 3 texts: 7 fires on (0.93); 8 fires on (1.00).",
        "Do not believe 1 of 3 texts, on which dragoman abstains: 7 writes (0.40).",
    ]


def test_without_a_confidence_supported_sentences_are_and_without_evidence_nothing_is() -> None:
    held = {"claims": [{"status": "unsupported"}, {"status": "supported"}]}
    told = believed([row("7", "fires", **held), row("7", "writes", claims=[{"status": "unsupported"}])], MANIFEST)
    assert len(told) == 1 and told[0].startswith("Believe of 1 of 2 texts the sentences without a mark")
    assert told[0].endswith("7 fires on. No confidence is calibrated for these models.")
    sentences = [{"status": "unsupported"}, {"status": "supported", "probability": 0.9, "answered": True}]
    unsure = [{"status": "supported", "probability": 0.3, "answered": False}]
    calibrated = [row("7", "fires", claims=sentences), row("7", "writes", claims=unsure)]
    assert believed(calibrated, MANIFEST) == [
        "Believe of 1 of 2 texts the sentences whose P has an answer: 7 fires on. Of all others nothing is answered."
    ]
    assert believed(calibrated[1:], MANIFEST) == ["Believe no sentence: none has an answer."]
    assert believed([row("7", "writes", claims=[{"status": "unchecked"}])], MANIFEST)[0].startswith("Nothing here was")
    assert believed([row("7", "fires", claims=[])], MANIFEST) == [
        "Believe no sentence: none is borne out where its feature fires."
    ]
    assert believed([row("7", "fires")], MANIFEST)[0].startswith("Nothing here was checked against where")
    assert believed([], MANIFEST) == []


def test_a_thousand_features_are_counted_and_the_first_named() -> None:
    (told,) = believed([row(str(k), "fires", **sure(0.9, True)) for k in range(1000)], MANIFEST)
    assert told.startswith("Believe 1000 of 1000 texts: 0 fires on (0.90); 1 ") and told.endswith(
        "; and 992 features more."
    )
    assert len(told) < 250


def test_what_comes_next_is_a_score_that_can_be_made() -> None:
    bare, run = {"conditions": [{"name": "washed"}]}, Path("run")
    assert next_after([row("7", "washed")], bare, run) == "dragoman score run --ar AR"
    assert next_after([row("7", "washed", claims=[])], bare, run) == "dragoman score run"
    assert next_after([], bare | {"feature_info": {"7": {"category": "c"}}}, run) == "dragoman score run"
    assert next_after([], {"conditions": [{"name": "native"}]}, run) == "dragoman score run"


def test_explain_ends_by_saying_which_texts_to_believe_and_what_to_type_next(
    shell: Command, world: World, tmp_path: Path
) -> None:
    said = shell(*explaining(world, tmp_path / "run"))
    assert said.code == 0, said.err
    told = " ".join(said.out.split())
    assert told.startswith("The map is unusable: ")
    assert told.count("Believe no text that it carried.") == 2  # before the texts, and first of what ends them
    assert said.out.rstrip().endswith(f"next: dragoman score {tmp_path}/run")
    run = RunFolder.open(tmp_path / "run")
    rows = with_scores(run.rows(), run.scores, run.manifest)
    # Marked on the screen, in the rows and on the page: what the map carried, and nothing else.
    assert {row["condition"] for row in rows if "unusable map" in row["problems"]} == {"writes"}  # type: ignore[operator]
    assert (
        said.out.count("flagged: ") == sum(bool(row["problems"]) for row in rows)
        and said.out.count("unusable map") >= 2
    )
    assert "no better than none" in run.page.read_text()
    assert not [line for line in believed(rows, run.manifest) if "writes" in line]
    lines = [line for line in said.out.splitlines() if str(tmp_path) not in line]
    assert max(map(len, lines)) <= 80


# --- help, words and streams -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*COMMANDS, "confidence fit", "confidence recalibrate"])
def test_help_fits_shows_examples_and_has_a_short_name(
    shell: Command, monkeypatch: pytest.MonkeyPatch, wide: int, name: str
) -> None:
    monkeypatch.setenv("COLUMNS", str(wide))
    said = shell(*name.split(), "-h")
    assert said.code == 0 and not said.err and said.out == shell(*name.split(), "--help").out
    assert len(said.out.splitlines()) <= 60
    whole = shell(*name.split(), "--help-all")
    assert whole.code == 0 and (whole.out == said.out) == (name not in FIRST)
    for told in (said.out, whole.out):
        assert widest(told) <= wide and "…" not in told and "<bool>" not in told
        examples = told.partition("Examples:")[2].strip().splitlines()
        assert examples[0].strip().startswith(f"dragoman {name}"), told
        assert all(re.match(" *(dragoman|curl|Words:) ", line) for line in examples if line.strip()), "none is broken"


@pytest.mark.parametrize("name", FIRST)
def test_a_long_help_shows_ten_options_first_and_where_the_others_are(shell: Command, name: str) -> None:
    said, whole = shell(name, "-h").out, shell(name, "--help-all").out
    assert re.findall(r"^╭─ (.+?) ─+╮$", said, re.MULTILINE) == ["Arguments", "Most used"]
    first = re.findall(r"^│ (--[a-z-]+)", said, re.MULTILINE)
    assert len(first) == 11 and first[-1] == "--help-all"
    panels = re.findall(r"^╭─ (.+?) ─+╮$", whole, re.MULTILINE)
    assert panels[:2] == ["Arguments", "Most used"]
    assert re.findall(r"^│ (--[a-z-]+)", whole.partition("Most used")[2].partition("╰")[0], re.MULTILINE) == first
    others = said.partition("--help-all shows these too:")[2].partition("Examples:")[0]
    counted = 0
    for panel in panels[2:]:
        (line,) = (line.strip() for line in others.splitlines() if line.strip().startswith(f"{panel} "))
        under = whole.partition(f"╭─ {panel} ")[2].partition("╰")[0]
        names = [one for one in re.findall(r"^│ (--[a-z-]+)", under, re.MULTILINE) if one != "--help"]
        more = re.search(r" and (\d+) more$", line)
        shown = re.findall(r"--[a-z-]+", line)
        assert shown == names[: len(shown)] and len(names) == len(shown) + (int(more[1]) if more else 0)
        counted += len(names)
    options = typer.main.get_command(app).commands[name].params  # type: ignore[attr-defined]
    assert len(first) - 1 + counted == sum(param.param_type_name == "option" for param in options)


def test_the_common_ten_options_of_explain_are_those_most_people_need(shell: Command) -> None:
    assert re.findall(r"^│ (--[a-z]+) ", shell("explain", "-h").out, re.MULTILINE)[:10] == [
        *("--features", "--by", "--out", "--source", "--reading", "--through", "--texts", "--native", "--samples"),
        "--device",
    ]
    assert "'dragoman explain --help-all' lists what can be said" in shell("explain", "x", "--odd").err


def test_the_version_has_a_short_name_too(shell: Command) -> None:
    assert shell("-V").out == shell("--version").out != ""
    assert shell("-h").out == shell("--help").out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("explain", "x", "--by", "a", "--by", "b"), "Option --by is given twice, and takes one value; give it once"),
        (("explain", "x", "-o", "a", "--out=b"), "Option --out is given twice"),
        (("checkpoints", "--for", "a", "--for", "b"), "Option --for is given twice"),
        (("explain", "x", "--featurs", "1"), "No such option: --featurs. Did you mean '--features'"),
        (("explian",), "Did you mean 'explain'?"),
    ],
)
def test_wrong_usage_names_what_is_wrong_and_what_was_meant(
    shell: Command, words: tuple[str, ...], sentence: str
) -> None:
    said = shell(*words)
    assert said.code == 2 and not said.out and sentence in said.err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--route", "dirct"), "route 'dirct': known are map, direct, .*; did you mean 'direct'"),
        (("--reading", "fire"), "reading 'fire': known are both, .*; did you mean 'fires'"),
        (("--map", "alinged"), "did you mean 'aligned'"),
        (("--dtype", "bfloat"), "did you mean 'bfloat16'"),
        (("--contract", "kitf"), "did you mean 'kitft'"),
        (("--by", "tiny-gema-av"), "did you mean 'tiny-gemma-av'"),
        (("--route", "teleport"), "use one of these"),
    ],
)
def test_a_word_that_is_nearly_known_is_answered_with_it(
    shell: Command, world: World, tmp_path: Path, words: tuple[str, ...], sentence: str
) -> None:
    by = () if "--by" in words else ("--by", world.av)
    said = shell("explain", world.sae, "--source", world.source, "-o", tmp_path / "run", *by, *words)
    assert said.code == 1 and not said.out and re.search(sentence, said.err), said.err


def test_a_condition_that_is_nearly_there_is_answered_with_it(shell: Command, finished: Path, tmp_path: Path) -> None:
    where = ("--model-id", "m", "--source-id", "20-tiny-res", "-o", tmp_path / "out")
    said = shell("export", finished, *where, "--condition", "wahsed")
    assert said.code == 1 and "did you mean 'washed'" in said.err


def test_a_model_nobody_made_a_checkpoint_for_is_told_and_a_name_of_nothing_refused(shell: Command) -> None:
    said = shell("checkpoints", "--for", "EleutherAI/pythia-70m")
    assert said.code == 0 and "no checkpoint was made for EleutherAI/pythia-70m or its family" in said.err
    assert shell("checkpoints", "--for", "Qwen/Qwen2.5-7B-Instruct").err == ""
    said = shell("checkpoints", "--for", "foo")
    assert said.code == 1 and not said.out and "model 'foo': no checkpoint knows it; write its hub id" in said.err
    assert "did you mean 'tiny-gemma'" in shell("checkpoints", "--for", "tiny-gema:12").err
    for model in ("Qwen/Qwen2.5-7B-Instruct", "google/gemma-3-12b-it", "meta-llama/Llama-3.1-8B-Instruct"):
        first = json.loads(shell("checkpoints", "--for", model, "--json").out)[0]
        assert "*" not in first["checkpoint"]["id"] and first["schema"] == "dragoman.recommendation/1"


def test_json_names_its_schema_and_stands_alone_on_stdout(
    shell: Command, world: World, finished: Path, tmp_path: Path
) -> None:
    said = shell(*explaining(world, tmp_path / "run", "--json"))
    assert {json.loads(line)["schema"] for line in said.out.splitlines()} == {"dragoman.row/1"}
    assert json.loads(shell("checkpoints", "--json").out)[0]["schema"] == "dragoman.checkpoint/1"
    assert json.loads(shell("doctor", "--by", world.av, "--json").out)["schema"] == "dragoman.findings/1"
    page = json.loads(shell("report", finished, "--json").out)
    assert page == {"schema": "dragoman.page/1", "page": str(finished / "page.html")}
    fitting = ("fit", world.sae, "--source", world.source, "--by", world.av, "--texts", world.root / "texts.txt")
    made = json.loads(shell(*fitting, "-o", tmp_path / "c", "--json").out)
    assert made["schema"] == "dragoman.crossing/1" and made == json.loads(
        shell("inspect", tmp_path / "c", "--json").out
    )


def test_libraries_are_quiet_unless_somebody_asks() -> None:
    def odd() -> None:
        warnings.warn_explicit("odd", UserWarning, "x.py", 1, module="transformers.modeling_utils")

    before = dict(os.environ)
    with quiet_libraries():
        odd()
        assert os.environ["TQDM_DISABLE"] == "1" and os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] == "1"
    assert dict(os.environ) == before
    with quiet_libraries(), pytest.raises(UserWarning, match="mine"):
        warnings.warn_explicit("mine", UserWarning, "x.py", 1, module="dragoman.core")
    with quiet_libraries(False), pytest.raises(UserWarning, match="odd"):
        odd()


def outside(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "80", **environment}
    return subprocess.run(
        [sys.executable, "-m", "dragoman", *words], capture_output=True, text=True, env=env, check=False
    )


def test_no_color_takes_colours_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    coloured = re.compile(r"\x1b\[[0-9;]*3[0-7]")
    assert coloured.search(outside("explain", "-h", FORCE_COLOR="1").stdout)
    for words in (("explain", "-h"), ("checkpoints", "--for", "Qwen/Qwen2.5-7B-Instruct")):
        assert not coloured.search(outside(*words, FORCE_COLOR="1", NO_COLOR="1").stdout)


def test_a_shell_completes_commands_and_options() -> None:
    asked = {"_DRAGOMAN_COMPLETE": "complete_bash", "COMP_WORDS": "dragoman exp", "COMP_CWORD": "1"}
    assert outside(**asked).stdout.split() == ["explain", "export"]
    asked |= {"COMP_WORDS": "dragoman explain --fea", "COMP_CWORD": "2"}
    assert outside(**asked).stdout.split() == ["--features"]
    shown = outside("--show-completion", "bash", _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    assert shown.returncode == 0 and "_DRAGOMAN_COMPLETE=complete_bash" in shown.stdout
