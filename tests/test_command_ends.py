"""Where a command ends: one sentence and an exit code, whatever was raised, and on a real Ctrl-C."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors import SafetensorError

from dragoman.core import Interrupted, Refusal
from dragoman.store import RunFolder
from nursery import Nursery, wait_until
from small_world import Said, World, command

Dragoman = Callable[..., Said]


@pytest.fixture
def dragoman_(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Dragoman:
    monkeypatch.delenv("DRAGOMAN_DEBUG", raising=False)
    return lambda *words: command(monkeypatch, capsys, *map(str, words))


@pytest.fixture
def raising(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Lets ``dragoman report`` raise something."""

    def set_up(error: BaseException) -> None:
        def fails(*_args: Any, **_how: Any) -> Any:
            raise error

        monkeypatch.setattr(RunFolder, "open", fails)

    return set_up


class OutOfMemoryError(RuntimeError):
    """As torch's."""


def half() -> UnicodeEncodeError:
    try:
        "\ud83d".encode()
    except UnicodeEncodeError as error:
        return error
    raise AssertionError


KNOWN: list[tuple[Exception, str]] = [
    (Refusal("a thing", "it is odd", "mend it"), "a thing: it is odd; mend it."),
    (OSError(errno.ENOSPC, "No space left on device", "/a/file"), "using /a/file: full disk"),
    (PermissionError(errno.EACCES, "Permission denied", "/a/file"), "using /a/file: closed folder or file"),
    (FileNotFoundError(errno.ENOENT, "No such file", "/a/file"), "using /a/file: No such file; check the path."),
    (OSError(errno.EIO, "Input/output error", "/a/file"), "using /a/file: Input/output error"),
    (MemoryError(), "this command: the memory is not enough for it; lower --batch-size"),
    (OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "this command: the memory is not enough for it"),
    (half(), "a text or a name: it holds half a character"),
    (LocalEntryNotFoundError("cannot find the requested files"), "the hub: it could not be asked (cannot find"),
    (SafetensorError("Error while deserializing header: HeaderTooLarge"), "a safetensors file: it is damaged"),
]


@pytest.mark.parametrize(("error", "sentence"), KNOWN, ids=[type(error).__name__ for error, _ in KNOWN])
def test_what_is_known_to_go_wrong_is_one_sentence(
    dragoman_: Dragoman, raising: Any, error: Exception, sentence: str
) -> None:
    raising(error)
    said = dragoman_("report", "somewhere")
    assert (said.code, said.out) == (1, "") and said.err.startswith(f"dragoman: {sentence}"), said.err
    assert said.err.count("\n") == 1 and "fault of dragoman" not in said.err


@pytest.mark.parametrize(
    "error",
    [
        ValueError("planted\nin two lines"), KeyError("planted"), RecursionError("planted"), AssertionError("planted"),
        RuntimeError("planted"), EOFError("planted"), ZeroDivisionError("planted"), OSError("planted"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "planted"), StopIteration("planted"),
    ],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_anything_else_is_a_fault_of_dragoman_and_debug_shows_where(
    dragoman_: Dragoman, raising: Any, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    raising(error)
    said = dragoman_("report", "somewhere")
    assert (said.code, said.out) == (1, "") and said.err.count("\n") == 1 and "Traceback" not in said.err
    assert said.err.startswith("dragoman: this is a fault of dragoman: ") and "planted" in said.err
    assert "'dragoman --debug COMMAND ...' shows where it is" in said.err
    traced = dragoman_("--debug", "report", "somewhere")
    assert traced.code == 1 and traced.err.startswith(said.err) and "Traceback" in traced.err
    assert "in fails" in traced.err and type(error).__name__ in traced.err
    assert dragoman_("report", "somewhere").err == said.err, "debug is for one call"
    monkeypatch.setenv("DRAGOMAN_DEBUG", "1")
    assert "Traceback" in dragoman_("report", "somewhere").err


def test_a_long_message_is_cut(dragoman_: Dragoman, raising: Any) -> None:
    raising(ValueError("x" * 10_000))
    assert len(dragoman_("report", "somewhere").err) < 700


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (Interrupted("interrupted: 2 of 36 rows are kept in run; run the same command again to go on."), None),
        (KeyboardInterrupt(), "interrupted; run the same command again, what was finished is kept."),
    ],
)
def test_an_interrupt_keeps_its_sentence(
    dragoman_: Dragoman, raising: Any, error: BaseException, sentence: str | None
) -> None:
    raising(error)
    said = dragoman_("report", "somewhere")
    assert (said.code, said.out, said.err) == (130, "", f"dragoman: {sentence or error}\n")


def test_exit_codes_of_commands_are_kept(dragoman_: Dragoman) -> None:
    assert dragoman_("--help").code == 0 and dragoman_("checkpoints", "--json").code == 0
    assert dragoman_().code == 2 and dragoman_("translate").code == 2
    assert "No such command 'translate'" in dragoman_("translate").err


def lines_in(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_ctrl_c_says_what_is_kept_and_the_same_command_goes_on(
    world: World, tmp_path: Path, dragoman_: Dragoman, nursery: Nursery
) -> None:
    out, log = tmp_path / "run", tmp_path / "log"
    words = [
        *("explain", world.sae, "--by", world.av, "--source", str(world.source), "--max-new-tokens", "2"),
        *("--texts", str(world.root / "texts.txt"), "--map", "post", "--route", "map"),
        *("--features", ",".join(map(str, range(12))), "--batch-size", "2", "-o", str(out)),
    ]
    process = nursery.start(words, log=tmp_path / "said", SLOWLY="slow_explain", SECONDS="10", LOG=str(log))
    wait_until(lambda: lines_in(log) >= 2)
    os.kill(process, signal.SIGINT)
    code, said, talk = nursery.ended(), *((tmp_path / f"said.{end}").read_text() for end in ("out", "err"))
    kept = lines_in(out / "rows.jsonl")
    assert (code, said) == (130, "") and kept == 2, talk
    assert talk.endswith(
        f"dragoman: interrupted: {kept} of 12 rows are kept in {out}; run the same command again to go on.\n"
    )
    assert "Traceback" not in talk
    again = dragoman_(*words)
    assert again.code == 0 and f"kept {kept} rows that were there, made {12 - kept}" in again.err, again.err
    assert lines_in(out / "rows.jsonl") == 12 and "page: " in again.out
