"""Every piece of code in README and docs is code: Python parses, names are public, commands know their options."""

from __future__ import annotations

import ast
import re
import shlex
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer.main

import command_docs
import dragoman
import fences
from dragoman.cli import app

FENCES = list(fences.fences())
NAMED = [f"{fence.page.relative_to(fences.ROOT)}:{fence.line}" for fence in FENCES]


def test_docs_of_the_command_line_are_those_of_its_help() -> None:
    """``make docs`` writes them."""
    assert command_docs.PAGE.read_text() == command_docs.rendered()


@pytest.mark.parametrize("fence", FENCES, ids=NAMED)
def test_a_fence_is_python_or_commands_that_exist(fence: fences.Fence) -> None:
    if fence.language == "python":
        tree = ast.parse(fence.text)
        used = {
            n.attr
            for n in ast.walk(tree)
            if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name) and n.value.id == "dg"
        }
        assert used <= set(dragoman.__all__)
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] == "dragoman":
                module = __import__(str(node.module), fromlist=["x"])
                assert all(hasattr(module, alias.name) for alias in node.names)
    for line in fence.commands:
        words = shlex.split(line, comments=True)
        if Path(words[0]).name == "dragoman":
            check_command(words[1:])
        elif words[0] == "make":
            assert re.search(rf"^{words[1]}:", (fences.ROOT / "Makefile").read_text(), re.MULTILINE), line
        elif Path(words[0]).name in ("python", "python3") and words[1].endswith(".py"):
            assert (fences.ROOT / words[1]).is_file(), line


@cache
def commands() -> Any:
    """The command line's, only read."""
    return typer.main.get_command(app)


def check_command(words: list[str]) -> None:
    """Its name, and every option it is given, are there."""
    command = commands()
    words = [word for word in words if word not in ("[OPTIONS]", "COMMAND", "[ARGS]...")]  # as usage is written
    while words and hasattr(command, "commands") and not words[0].startswith("-"):
        assert words[0] in command.commands, words[0]
        command, words = command.commands[words[0]], words[1:]
    known = {name for parameter in command.params for name in parameter.opts} | {"--help", "--help-all"}
    given = {word.partition("=")[0] for word in words if word.startswith("-")}
    assert given <= known, given - known


def test_there_are_fences_of_the_pair_to_run() -> None:
    runs = [fence for fence in FENCES if fence.of_the_pair]
    assert any(fence.language == "python" and fence.page.name == "python.md" for fence in runs)
    assert {"README.md", *(path.name for path in (fences.ROOT / "docs" / "howto").glob("*.md"))} - {"overnight.md"} <= {
        fence.page.name for fence in runs if fence.commands
    }


def test_pages_that_begin_alike_share_what_they_begin_with() -> None:
    a, b, c = ("a",), ("b",), ("c",)
    pages = {"one": [(1, a), (2, b)], "two": [(3, a), (4, b), (5, c)], "three": [(6, b)], "four": [(7, c), (8, a)]}
    after = {before: [(one.steps[-1], one.where) for one in some] for before, some in fences.tree_of(pages).items()}
    assert after == {
        (): [(a, "one:1"), (b, "three:6"), (c, "four:7")], (a,): [(b, "one:2")], (a, b): [(c, "two:5")],
        (c,): [(a, "four:8")],
    }  # fmt: skip
    steps = {page.name: fences.steps_of(page) for page in fences.PAGES}
    count = sum(len(some) for some in fences.tree_of(steps).values())
    assert count < sum(map(len, steps.values()))  # those of the how-tos begin with the same fit


@pytest.mark.parametrize(("second", "code"), [("1 / 1", 0), ("1 / 0", 1)])
def test_steps_find_what_those_before_them_left_and_a_failure_is_told(
    second: str, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def python(line: str) -> fences.Step:
        return sys.executable, "-c", f"import pathlib as p; {line}"

    first = python("p.Path('left').write_text('here')")
    found = {
        fences.PAGES[0]: [
            (1, first),
            (2, python("assert p.Path('left').read_text() == 'here'; p.Path('mine').touch()")),
        ],
        fences.PAGES[1]: [(1, first), (2, python(f"assert not p.Path('mine').exists(); {second}"))],
    }
    monkeypatch.setattr(fences, "steps_of", lambda page: found.get(page, []))
    assert fences.main() == code
    said = capsys.readouterr().err
    assert ("3 pieces" in said, "ZeroDivisionError" in said) == (code == 0, code == 1)


def test_words_a_newcomer_meets_are_told_and_help_says_where() -> None:
    lines = (fences.ROOT / "docs" / "glossary.md").read_text().splitlines()
    rows = [line.split("|")[1:3] for line in lines if line.startswith("| ") and not line.startswith("| word |")]
    told = {word.strip() for head, _ in rows for word in head.split(",")}
    assert told >= {
        *("native", "plain", "washed", "washout", "on-shell", "direct", "crossing", "card", "lift", "null"),
        *("planted category", "the post", "block", "contract", "AV", "AR", "fires", "writes", "dealt", "steering"),
    }
    assert all(meaning.strip() for _, meaning in rows)
    for name in ("explain", "fit"):
        assert commands().commands[name].epilog.endswith("Words: docs/glossary.md")
