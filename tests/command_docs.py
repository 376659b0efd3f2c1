"""``docs/cli.md`` as the help tells it: ``python tests/command_docs.py`` writes it, and a test compares."""

from __future__ import annotations

import html
import re
from pathlib import Path

import typer.main
from typer import cli as typer_cli

from dragoman.cli import app

PAGE = Path(__file__).parents[1] / "docs" / "cli.md"


def rendered() -> str:
    """The page."""
    command = typer.main.get_command(app)
    text = typer_cli.get_docs_for_click(
        obj=command, ctx=typer.Context(command), name="dragoman", title="The command line"
    )
    text = re.sub(r"\[bold\](.*?)\[/\]", r"`\1`", text)
    return html.unescape(text).strip() + "\n"


if __name__ == "__main__":
    PAGE.write_text(rendered())
