"""Results that could not be written, and texts that are too few or alike, are refused before any model is opened."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedModel

from dragoman.core import Refusal
from dragoman.dictionaries import open_dictionary
from dragoman.runs.explain import explain as run_explain
from dragoman.runs.run import Run
from dragoman.scoring import score_run
from dragoman.store import refuse_alike
from dragoman.store.files import TEMPORARY
from dragoman.store.outputs import check_file, check_folder, check_run, new_folder, refuse_there
from report_fixture import build_run
from small_world import Said, World, command

Dragoman = Callable[..., Said]
NO_FOLDER = Path("/proc/none")  # a file system that takes no new files, whoever asks


class OpenedError(BaseException):
    """A model was opened; no boundary turns it into a refusal."""


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing opens a model."""

    def opens(*_args: Any, **_how: Any) -> None:
        raise OpenedError

    monkeypatch.setattr(PreTrainedModel, "from_pretrained", opens)


@pytest.fixture
def dragoman(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], no_model: None) -> Dragoman:
    return lambda *words: command(monkeypatch, capsys, *map(str, words))


def sentence(said: Said) -> str:
    """The one sentence of a refusal; nothing else was said."""
    told = said.err.lstrip("\n")  # an empty bar's line
    assert said.code == 1 and not said.out
    assert told.startswith("dragoman: ") and told.endswith(".\n") and told.count("\n") == 1, said.err
    return told


def contents(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.rglob("*"))


# --- where results go -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("check", [check_file, check_folder, check_run])
def test_a_place_that_can_be_written_is_itself_and_nothing_is_left_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, check: Callable[[Path], Path]
) -> None:
    for place in (tmp_path / "new", tmp_path / "a" / "b" / "new", Path("runs") / "new"):
        monkeypatch.chdir(tmp_path)
        assert check(place) is place
    (tmp_path / "linked").symlink_to(tmp_path)
    check(tmp_path / "linked" / "new")
    assert contents(tmp_path) == [str(tmp_path / "linked")]


@pytest.mark.parametrize("check", [check_file, check_folder, check_run])
def test_a_place_that_cannot_be_written_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, check: Callable[[Path], Path]
) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    with pytest.raises(Refusal, match="writing .*file/run.*: Not a directory; check the path"):
        check(tmp_path / "file" / "run" / "one")
    with pytest.raises(Refusal, match="writing .*gone.*; check the path"):
        check(tmp_path / "gone" / "run")
    with pytest.raises(Refusal, match="name there has 300 bytes; write a shorter name|File name too long; check the"):
        check(tmp_path / "new" / ("ü" * 150) / "run")
    with pytest.raises(Refusal, match="^writing .*: File name too long; check the path"):
        check(tmp_path / ("ü" * 150))
    with pytest.raises(Refusal, match=f"writing {NO_FOLDER}/run: "):
        check(NO_FOLDER / "run")
    for error, why in (
        (PermissionError(13, "Permission denied"), "unwritable"),
        (OSError(28, "No space"), "full disk"),
    ):

        def fails(*_path: Any, error: OSError = error, **_how: Any) -> None:
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(tempfile, "TemporaryFile", fails)
            with pytest.raises(Refusal, match=f"^writing .*new: {why}"):
                check(tmp_path / "new")
        with monkeypatch.context() as patch:  # a folder above that nobody may look into; the superuser may
            patch.setattr(Path, "stat", fails)
            with pytest.raises(Refusal, match=f"^writing .*new: {why}"):
                check(tmp_path / "new")
    assert contents(tmp_path) == [str(tmp_path / "file"), str(tmp_path / "gone")]


def test_files_folders_and_runs_each_ask_for_their_own(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("mine")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    check_file(tmp_path / "file")
    check_folder(tmp_path / "other")
    for name, why in (("other", "it is a folder, and a file"), ("pipe", "it is a pipe"), ("link", "it is a link")):
        with pytest.raises(Refusal, match=why):
            check_file(tmp_path / name)
    for check in (check_folder, check_run):
        with pytest.raises(Refusal, match="file is no folder; name another place"):
            check(tmp_path / "file")
    with pytest.raises(Refusal, match=r"output folder .*other: it holds other files \(thesis.tex\); name a new folder"):
        check_run(tmp_path / "other")
    run = build_run(tmp_path / "run")
    check_run(run.path)
    (run.path / "manifest.json").write_text("{")
    with pytest.raises(Refusal, match="manifest.json: it is not JSON"):
        check_run(run.path)


def test_a_name_leaves_room_for_the_file_that_is_written_first(tmp_path: Path) -> None:
    from dragoman.store import write_text

    longest = os.pathconf(tmp_path, "PC_NAME_MAX")
    fits = tmp_path / ("a" * (longest - TEMPORARY))
    write_text(check_file(fits), "there")
    with pytest.raises(Refusal, match=f"a name of {longest} bytes leaves no room for the file that is written beside"):
        check_file(tmp_path / ("a" * longest))


# --- the commands -----------------------------------------------------------------------------------------------------


def words_of(name: str, world: World, out: Path) -> list[str]:
    """A command that would write to ``out``."""
    told = {
        "demo": (),
        "explain": (world.sae, "--by", world.av, "--source", str(world.source)),
        "fit": (world.sae, "--by", world.av, "--source", str(world.source)),
        "confidence fit": (str(world.root / "a-run"), "--checked", str(world.root / "checked.csv")),
        "confidence recalibrate": (str(world.root / "a-run"), "--checked", str(world.root / "checked.csv")),
        "report": (str(world.root / "a-run"),),
        "export": (str(world.root / "a-run"), "--model-id", "gemma-2-2b", "--source-id", "1-res", "--author-id", "me"),
    }
    return [*name.split(), *told[name], "-o", str(out)]


@pytest.mark.parametrize(
    "name", ["demo", "explain", "fit", "report", "export", "confidence fit", "confidence recalibrate"]
)
def test_every_command_looks_at_its_output_before_anything_else(
    world: World, tmp_path: Path, dragoman: Dragoman, name: str
) -> None:
    (tmp_path / "file").write_text("mine")
    before = contents(world.root)
    assert "Not a directory; check the path." in sentence(dragoman(*words_of(name, world, tmp_path / "file" / "out")))
    assert f"writing {NO_FOLDER}/out" in sentence(dragoman(*words_of(name, world, NO_FOLDER / "out")))
    long = sentence(dragoman(*words_of(name, world, tmp_path / ("n" * 300))))
    assert "no file or repository has a name of 300 bytes" in long
    if name in ("demo", "explain"):
        said = sentence(dragoman(*words_of(name, world, tmp_path)))
        assert f"output folder {tmp_path}: it holds other files (file)" in said
    if name == "fit":
        assert f"{tmp_path}: it is there already; name a new folder" in sentence(
            dragoman(*words_of(name, world, tmp_path))
        )
    if name not in ("demo", "explain", "export", "fit"):
        assert "it is a folder, and a file is written" in sentence(dragoman(*words_of(name, world, tmp_path)))
    assert contents(world.root) == before and contents(tmp_path) == [str(tmp_path / "file")]


def test_the_library_looks_at_its_output_first_too(world: World, tmp_path: Path, no_model: None) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(Refusal, match="file is no folder; name another place"):
        run_explain("nowhere", by="nowhere", out=tmp_path / "file")
    run = build_run(tmp_path / "run")
    (run.path / "scores.json").unlink(missing_ok=True)
    (run.path / "scores.json").mkdir()
    with pytest.raises(Refusal, match="scores.json': it is a folder, and a file is written"):
        score_run(run, ar="nowhere")


# --- texts ------------------------------------------------------------------------------------------------------------


def words(n: int) -> list[str]:
    return [f"The people of city {k} vote" for k in range(n)]


@pytest.mark.parametrize(
    ("texts", "told"),
    [
        ([], "0 texts: w; give at least 3 different texts."),
        (["one"], "1 text: w; give at least 3 different texts."),
        (["one"] * 300, "1 text, repeated 300 times: w; give at least 3 different texts."),
        (["One day", "one  day ", "ONE\tday"], "1 text, repeated 3 times: w; give at least 3 different texts."),
        (["one", "two", "one"], "2 different texts among 3: w; give at least 3 different texts."),
        (["one", "two"], "2 texts: w; give at least 3 different texts."),
        (["", " "], "2 texts without a word: w; give at least 3 different texts."),
    ],
)
def test_too_few_texts_are_counted_in_one_sentence(texts: list[str], told: str) -> None:
    with pytest.raises(Refusal) as caught:
        refuse_alike(texts, 3, "w")
    assert str(caught.value) == told
    with pytest.raises(Refusal, match=r"^a\.txt: it holds .*, and w; give at least 3 different texts\.$"):
        refuse_alike(texts, 3, "w", "a.txt")
    refuse_alike(words(3), 3, "w")


def write(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def asked(world: World, texts: Path | None, out: Path, sae: Path | None = None, **more: Any) -> None:
    """The main job by references, as a caller of the library writes it."""
    dictionary = open_dictionary(sae or world.sae, site=world.source)
    run_explain(dictionary, by=world.av, out=out, features=("0", "3"), texts=texts, max_new_tokens=4, **more)


@pytest.mark.parametrize(
    ("texts", "more", "why"),
    [
        (words(1) * 300, {}, "it holds 1 text, repeated 300 times, and 5 folds of documents are judged on one another"),
        (words(9) * 5, {}, "it holds 9 different texts among 45, and 5 folds of documents are judged on one another"),
        (words(7), {"map": "post", "route": "map"}, "it holds 7 texts, and the map is judged on a fifth of them"),
        (words(7), {"map": "post", "route": "blend"}, "it holds 7 texts, and the map is judged on a fifth of them"),
        (words(1) * 2, {"map": "post", "route": "direct"}, "it holds 1 text, repeated 2 times, and what is usual of"),
    ],
)
def test_explain_refuses_too_few_texts_before_any_model(
    world: World, tmp_path: Path, no_model: None, texts: list[str], more: dict[str, Any], why: str
) -> None:
    path = write(tmp_path / "texts.jsonl", texts)
    with pytest.raises(Refusal, match=f"^{path}: {why}"):
        asked(world, path, tmp_path / "run", **more)
    assert not (tmp_path / "run").exists()


def test_enough_texts_go_on_to_the_model(world: World, tmp_path: Path, no_model: None) -> None:
    for count, more in ((10, {}), (8, {"map": "post", "route": "map"}), (2, {"map": "post", "route": "direct"})):
        path = write(tmp_path / "texts.jsonl", words(count))
        with pytest.raises(OpenedError):
            asked(world, path, tmp_path / f"run-{count}", **more)


@pytest.mark.parametrize("name", ["explain", "fit"])
def test_commands_refuse_too_few_texts_before_any_model(
    world: World, tmp_path: Path, dragoman: Dragoman, name: str
) -> None:
    path = write(tmp_path / "texts.jsonl", words(1) * 300)
    said = sentence(dragoman(*words_of(name, world, tmp_path / "out"), "--texts", path))
    assert f"{path}: it holds 1 text, repeated 300 times, and 5 folds of documents are judged on one another" in said
    assert not (tmp_path / "out").exists()


def test_an_unusable_encoder_is_refused_before_the_verbalizer_is_opened(
    world: World, tmp_path: Path, no_model: None
) -> None:
    import shutil

    sae = Path(shutil.copytree(world.sae, tmp_path / "sae"))
    told = json.loads((sae / "cfg.json").read_text()) | {"architecture": "gated"}
    (sae / "cfg.json").write_text(json.dumps(told))
    with pytest.raises(Refusal, match="or carry its rows without an encoder: --map post --route map"):
        asked(world, None, tmp_path / "run", sae)


# --- a run's own files ------------------------------------------------------------------------------------------------


OWN = ["manifest.json", "rows.jsonl", "vectors.safetensors", "scores.json", "contexts.json", "ROWS.jsonl"]
OWN.append("context_labels.jsonl")


@pytest.mark.parametrize("name", OWN)
def test_no_page_and_no_result_is_written_over_a_file_of_a_run(dragoman: Dragoman, tmp_path: Path, name: str) -> None:
    run, other = build_run(tmp_path / "run"), build_run(tmp_path / "other")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    (tmp_path / "linked").symlink_to(run.path)
    for place in (run.path / name, other.path / name, tmp_path / "linked" / name):
        with pytest.raises(Refusal, match=f"{name}: it is a file of the run there, which would be lost; name another"):
            Run(run).write_page(place)
        assert f"writing {place}: it is a file of the run there" in sentence(dragoman("report", run.path, "-o", place))
        said = dragoman("confidence", "fit", run.path, tmp_path / "checked.csv", "-o", place)
        assert "it is a file of the run there" in sentence(said)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_nothing_is_written_over_a_folder_of_runs_or_a_crossing(dragoman: Dragoman, tmp_path: Path) -> None:
    run = build_run(tmp_path / "set" / "run")
    own = [
        tmp_path / "set" / "runs.json",
        *(tmp_path / "crossing" / name for name in ("crossing.json", "map.safetensors")),
    ]
    (tmp_path / "crossing").mkdir()
    for path in own:
        path.write_text("{}")
    for path, of in zip(own, ("folder of runs", "crossing", "crossing"), strict=True):
        said = sentence(dragoman("report", run.path, "-o", path))
        assert f"writing {path}: it is a file of the {of} there, which would be lost; name another file" in said
        assert path.read_text() == "{}"
    (tmp_path / "crossing" / "crossing.json").unlink()
    for path in (tmp_path / "runs.json", own[2]):  # no such folder is there
        assert Run(run).write_page(path) == path


def test_every_file_of_a_run_is_known_as_its_own() -> None:
    from dragoman.store import labels, logfile, runs, scored

    names = {
        value
        for module in (labels, logfile, runs, scored)
        for name, value in vars(module).items()
        if name.isupper()
        and isinstance(value, str)
        and Path(value).suffix in (".json", ".jsonl", ".txt", ".safetensors")
    }
    assert names - {runs.RUNS} <= set(runs.FILES) and "context_labels.jsonl" in names


def test_a_page_goes_into_its_run_or_anywhere_else(tmp_path: Path) -> None:
    run = Run(build_run(tmp_path / "run"))
    for place in (run.path / "page.html", run.path / "other.html", tmp_path / "rows.jsonl"):
        assert run.write_page(place) == place and place.read_text().startswith("<!")
    with pytest.raises(Refusal, match="it is a folder, and a file is written"):
        run.write_page("")


def test_a_new_folder_s_name_leaves_room_for_the_one_it_is_written_under(tmp_path: Path) -> None:
    refuse_there(tmp_path / "n" / ("x" * 200))
    with pytest.raises(
        Refusal, match="leaves no room for the file that is written beside it first; write a shorter name"
    ):
        refuse_there(tmp_path / ("x" * 245))
    with new_folder(tmp_path / ("x" * 200)) as made:
        (made / "a").write_text("a")
    with pytest.raises(Refusal, match="it is there already"), new_folder(tmp_path / ("x" * 200)):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["x" * 200]
