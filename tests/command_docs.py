"""``docs/cli.md`` as the help tells it: ``python tests/command_docs.py`` writes it, and a test compares."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

import typer.main
from typer import cli as typer_cli

from dragoman.cli import app

_EXAMPLES = re.compile(r"^Examples:\n((?:  (?:dragoman|curl) .*\n)+)", re.MULTILINE)
PAGE = Path(__file__).parents[1] / "docs" / "cli.md"


def rendered() -> str:
    """The page."""
    command = typer.main.get_command(app)
    text = typer_cli.get_docs_for_click(
        obj=command, ctx=typer.Context(command), name="dragoman", title="The command line"
    )
    text = re.sub(r"\[bold\](.*?)\[/\]", r"`\1`", text)
    for first in _first_lines(command):
        shortened = re.compile(rf"^(\* `[\w-]+`: ){re.escape(first[:15])}.*\.\.\.$", re.MULTILINE)
        text = shortened.sub(lambda found, whole=first: found[1] + whole, text)
    text = text.replace("Words: docs/glossary.md", "Words: [glossary](glossary.md)")
    return _EXAMPLES.sub(_fenced, html.unescape(text)).strip() + "\n"


def _first_lines(command: Any) -> list[str]:
    """What each command does, in its help's first paragraph, which a list of commands cuts short."""
    inner = getattr(command, "commands", {}).values()
    return [" ".join(one.help.split("\n\n")[0].split()) for one in inner] + [
        f for one in inner for f in _first_lines(one)
    ]


def _fenced(found: re.Match[str]) -> str:
    """The examples as a fence, a command a line."""
    lines = [line.strip() for line in found[1].split("\n") if line.strip()]
    return "\n".join(["Examples:", "", "```console", *(f"$ {line}" for line in lines), "```", ""])


if __name__ == "__main__":
    PAGE.write_text(rendered())
