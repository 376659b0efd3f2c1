"""What libraries raise becomes a refusal; what checkpoints bring to run runs within bounds."""

from __future__ import annotations

import errno
import time
from pathlib import Path

import pytest
from tokenizers import Regex, Tokenizer, models, pre_tokenizers

from dragoman.core import Refusal
from dragoman.models.tokenizer_child import answer as tried
from dragoman.store.boundary import Limits, ask, opening
from dragoman.store.spans import words_of

LIMITS = Limits(seconds=1, megabytes=300)


def raised(error: BaseException) -> str:
    """What becomes of an exception on its way out."""
    with pytest.raises(Refusal) as refused, opening(Path("folder/config.json")):
        raise error
    assert refused.value.__cause__ is error or isinstance(error, OSError)
    return str(refused.value)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (KeyError("x"), "folder/config.json: it cannot be opened (KeyError: 'x'); get the published files again."),
        (RecursionError(), "folder/config.json: it cannot be opened (RecursionError); get the published files again."),
        (ValueError("a\nb\x1b[31m  c"), "folder/config.json: it cannot be opened (a b [31m c); get the published"),
        (OSError("no file of that name"), "folder/config.json: it cannot be opened (no file of that name); get"),
        (
            OSError(errno.EACCES, "Permission denied", "x/y"),
            "reading x/y: unreadable folder or file (Permission denied)",
        ),
        (MemoryError(), "folder/config.json: it cannot be opened (MemoryError)"),
    ],
)
def test_whatever_a_library_raises_is_said_in_one_sentence(error: BaseException, said: str) -> None:
    assert raised(error).startswith(said)


def test_long_words_of_a_library_are_cut() -> None:
    assert len(words_of(ValueError("x" * 10_000))) < 250


def test_a_panic_of_rust_is_refused_too() -> None:
    tokenizer = Tokenizer(models.BPE({"a": 0}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("(a+)+$"), "isolated")
    with pytest.raises(Refusal, match=r"tokenizer: it cannot be opened \(.*retry-limit"), opening("tokenizer"):
        tokenizer.encode("a" * 40 + "c")


@pytest.mark.parametrize("passing", [KeyboardInterrupt(), SystemExit(2), Refusal("a", "b", "c")])
def test_interrupts_exits_and_refusals_pass(passing: BaseException) -> None:
    with pytest.raises(type(passing)) as seen, opening("x"):
        raise passing
    assert seen.value is passing


def script(folder: Path, body: str) -> Path:
    path = folder / "script.py"
    path.write_text(f"def answer(question):\n    {body}\n")
    return path


def test_an_answer_comes_back(tmp_path: Path) -> None:
    found = ask(script(tmp_path, "return question[::-1]"), ["a", "\ud800", None], LIMITS, "it", "mend it")
    assert found == [None, "\ud800", "a"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("\n    while True: pass", "it takes more than 1 seconds"),
        ("return len(str(7 ** 7 ** 9))", "it takes more than 1 seconds|ValueError"),
        ("return len(b'x' * 10 ** 9)", "it takes more than 300 MB"),
        ("import os; os.abort()", r"it ended the process it was tried in \(-6\), as when more than 300 MB"),
        ("return 1 / 0", "ZeroDivisionError: division by zero"),
        ("return 'x' * 5_000_000", "it makes 5000.* characters"),
        ("return set()", "TypeError"),
    ],
)
def test_what_takes_too_much_or_fails_is_refused_in_the_files_name(tmp_path: Path, body: str, said: str) -> None:
    start = time.monotonic()
    with pytest.raises(Refusal, match=f"^a/file: ({said})"):
        ask(script(tmp_path, body), None, LIMITS, "a/file", "mend it")
    assert time.monotonic() - start < 40  # of a busy machine


def test_a_file_in_the_working_directory_stands_in_for_no_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit(3)")
    monkeypatch.chdir(tmp_path)
    assert ask(script(tmp_path, "return 1"), None, LIMITS, "it", "mend it") == 1


def test_a_plain_tokenizer_holds_and_one_that_draws_does_not(tmp_path: Path) -> None:
    tokenizer = Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")]))
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert tried({"path": str(tmp_path / "tokenizer.json"), "texts": ["abab"]}) == {}
    tokenizer.model = models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")], dropout=0.1)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ValueError, match="at random"):
        tried({"path": str(tmp_path / "tokenizer.json"), "texts": ["abab"]})
