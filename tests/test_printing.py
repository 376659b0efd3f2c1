"""Nothing that is printed holds a control sequence: labels, texts, names, refusals, tables, logs, on every command."""

from __future__ import annotations

import io
import json
import logging
import re
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from rich.text import Text

import dragoman
from dragoman import cli
from dragoman.commands import printing
from dragoman.commands.printing import console, guarded, one_line, put, put_json, styled, tell, visible
from dragoman.commands.show import show_rows, show_scores
from dragoman.core import Refusal
from dragoman.doctor.finding import Finding
from dragoman.runs.run import Run
from dragoman.scores import Scores
from dragoman.store import RunFolder
from report_fixture import build_run
from small_world import Said, command

CLIPBOARD = "\x1b]52;c;ZXZpbA==\x07"
HOSTILE = f"evil{CLIPBOARD}\x1b[2J\x9b31m\x1b]0;title\x1b\\\x08\r\x00\x7f\x85\u202eabc\u2066\u2028[bold]x[/nothing]"
BIDI = {chr(c) for c in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))}
SGR = re.compile(r"\x1b\[[0-9;]*m")
# What rich writes to move its own progress bars on a terminal.
OWN = re.compile(r"\x1b\[(?:[0-9;]*m|\?25[lh]|1A|2K|\d*G)|\r")

Dragoman = Callable[..., Said]


@pytest.fixture
def dragoman_(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Dragoman:
    monkeypatch.setenv("COLUMNS", "200")
    return lambda *words: command(monkeypatch, capsys, *map(str, words))


def hidden(text: str) -> set[str]:
    """Characters that a terminal obeys instead of showing them; spelled out apart from the code that replaces them."""
    odd = {c for c in text if (ord(c) < 32 and c not in "\n\t") or 0x7F <= ord(c) <= 0x9F or 0xD800 <= ord(c) <= 0xDFFF}
    return odd | ({*text} & BIDI) | ({*text} & {"\u2028", "\u2029"})


def clean(said: Said, *, shown: bool = True) -> None:
    whole = said.out + said.err
    assert not hidden(said.out) and not hidden(said.err), whole
    assert not shown or "\\x1b]52;c;ZXZpbA==" in whole.replace("\n", ""), whole


def poisoned(value: Any) -> Any:
    """The same value with something hostile at the end of every text in it."""
    if isinstance(value, str):
        return value + HOSTILE
    if isinstance(value, dict):
        return {key: poisoned(one) for key, one in value.items()}
    return [poisoned(one) for one in value] if isinstance(value, list) else value


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


# --- the function ----------------------------------------------------------------------------------------------------


def test_every_control_character_is_shown_by_its_code() -> None:
    for code in [*range(0x100), *range(0x2020, 0x2070), *range(0xD7F0, 0xE010), 0x1F44B]:
        told = visible(f"a{chr(code)}b")
        assert not hidden(told)
        if hidden(chr(code)):
            assert told == (f"a\\x{code:02x}b" if code < 256 else f"a\\u{code:04x}b")
        else:
            assert told == f"a{chr(code)}b", "nothing else is changed"
    assert visible("two\nlines\tand") == "two\nlines\tand" and one_line("two\nlines\tand") == "two\\nlines\\tand"
    assert visible(visible(HOSTILE)) == visible(HOSTILE)
    assert visible("漢字 👩‍👩‍👧 العربية \u200f") == "漢字 👩‍👩‍👧 العربية \u200f"


def test_json_keeps_its_value(capsys: pytest.CaptureFixture[str]) -> None:
    value = {"label": HOSTILE, HOSTILE: [HOSTILE, "漢字", "\ud83d"], "n": 1}
    for indent in (None, 2):
        put_json(value, indent=indent)
        said = capsys.readouterr().out
        assert not hidden(said) and json.loads(said) == value and "漢字" in said


def test_lines_are_one_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    put(f"a\n{HOSTILE}")
    tell(f"b\n{HOSTILE}")
    said = capsys.readouterr()
    assert said.out.count("\n") == said.err.count("\n") == 1 and not hidden(said.out + said.err)


@pytest.mark.parametrize("terminal", [True, False])
def test_a_console_shows_codes_in_strings_tables_titles_and_texts(
    monkeypatch: pytest.MonkeyPatch, terminal: bool
) -> None:
    from rich.table import Table

    monkeypatch.setenv("TERM", "xterm-256color")
    stream = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    table = Table(title=HOSTILE)
    table.add_column(HOSTILE)
    table.add_row(HOSTILE)
    table.add_row(Text(HOSTILE, style="bold link file:///etc/passwd"))
    out = console(width=400)
    out.print(table, HOSTILE, Text(HOSTILE), styled(HOSTILE, "bold"))
    said = stream.getvalue()
    assert not hidden(SGR.sub("", said)) and bool(SGR.search(said)) == terminal
    assert said.count("[bold]x[/nothing]") == 7, "what looks like markup is text"
    assert "]8;" not in said.replace("\\x1b]8;", ""), "no hyperlinks"


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_and_talk_show_codes(monkeypatch: pytest.MonkeyPatch, terminal: bool) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    stream = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    with guarded(), cli.talking() as talk:
        talk.say(HOSTILE)
        talk.bar(HOSTILE, 1, 2)
        sys.stderr.write(f"a library writes {CLIPBOARD}\n")
        talk.bar(HOSTILE, 2, 2)
    said = stream.getvalue()
    assert not hidden(OWN.sub("", said)), said
    assert "52;c;ZXZpbA==" in said and CLIPBOARD not in said and "\x1b]" not in said


@pytest.mark.parametrize("terminal", [True, False])
def test_what_libraries_write_is_shown_and_streams_come_back(monkeypatch: pytest.MonkeyPatch, terminal: bool) -> None:
    streams = [Terminal() if terminal else io.StringIO() for _ in range(2)]
    monkeypatch.setattr(sys, "stdout", streams[0])
    monkeypatch.setattr(sys, "stderr", streams[1])
    log = logging.getLogger("some.library")
    with guarded():
        handler = logging.StreamHandler()
        log.addHandler(handler)
        log.warning("log %s", HOSTILE)
        log.removeHandler(handler)
        sys.stderr.write(warnings.formatwarning(HOSTILE, UserWarning, HOSTILE, 1, line=HOSTILE))
        sys.stdout.write(HOSTILE)
        sys.stdout.writelines([HOSTILE, "\n"])
        sys.stderr.write("\r 50% of a bar \x1b[31mred\x1b[0m")
        assert sys.stdout.isatty() == terminal
    assert sys.stdout is streams[0] and sys.stderr is streams[1]
    out, err = (stream.getvalue() for stream in streams)
    assert not hidden(out) and out.count("\\x1b]52;c;ZXZpbA==\\x07") == 2
    assert not hidden(SGR.sub("", err.replace("\r 50%", " 50%")))
    assert err.count("\\x1b]52;c;ZXZpbA==\\x07") >= 2
    assert ("\x1b[31mred" in err) == terminal, "colours pass where there is a terminal"


def test_a_stream_of_another_encoding_shows_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    with guarded():
        put("漢字 …")
        sys.stdout.flush()
    assert raw.getvalue() == b"\\u6f22\\u5b57 \\u2026\n"


def test_one_module_prints() -> None:
    room = Path(dragoman.__file__).parent
    odd = re.compile(r"sys\.(?:stdout|stderr|__std)|\bConsole\(|\bprint\(|typer\.echo|secho|rich import print")
    found = {
        f"{path.relative_to(room)}: {line.strip()}"
        for path in room.rglob("*.py")
        if path.name not in ("printing.py", "bounded_child.py")  # the child's stdout is a pipe to its parent
        for line in path.read_text(encoding="utf-8").splitlines()
        if odd.search(line) and ".print(" not in line and "print(mean(" not in line
    }
    assert not found


# --- the commands ----------------------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A finished run in which every text, label and score's word is hostile."""
    folder = build_run(tmp_path / "run")
    hostile = RunFolder.create(tmp_path / "hostile", folder.manifest)
    hostile.append([row | {k: row[k] + HOSTILE for k in ("text", "label", "raw")} for row in folder.rows()])
    hostile.write_scores(folder.scores or {})
    return hostile


@pytest.mark.parametrize("more", [(), ("--json",)])
def test_explain(dragoman_: Dragoman, run: RunFolder, monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...]) -> None:
    def explained(_chosen: Any, *, talk: Any, **_how: Any) -> Run:
        talk.say(f"opening {HOSTILE}")
        talk.bar(HOSTILE, 1, 1)
        return Run(run)

    monkeypatch.setattr("dragoman.runs.explain.explain", explained)
    monkeypatch.setattr("dragoman.models.decode.Verbalizer.open", lambda *_a, **_k: None)
    said = dragoman_("explain", "tiny-sae", *more)
    assert said.code == 0, said.err
    clean(said, shown=not more)
    if more:
        assert [json.loads(line)["text"] for line in said.out.splitlines()] == [row["text"] for row in run.rows()]


@pytest.mark.parametrize("more", [(), ("--json",)])
def test_score(dragoman_: Dragoman, run: RunFolder, monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...]) -> None:
    def scored(*_args: Any, say: Any, **_how: Any) -> Scores:
        say(HOSTILE)
        return Scores.of(poisoned(run.scores), "it")

    monkeypatch.setattr("dragoman.scoring.score_run", scored)
    said = dragoman_("score", run.path, *more)
    assert said.code == 0, said.err
    clean(said)


def test_every_table_of_scores(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = poisoned(run.manifest) | {"map_report": dict.fromkeys([HOSTILE], run.manifest["map_report"]["ridge"])}
    show_scores(poisoned(run.scores), manifest)
    show_rows([poisoned(row | {"card": None}) | {"card": row["card"]} for row in run.rows()])
    said = capsys.readouterr().out
    assert not hidden(said) and said.count("\\x1b]52;c;ZXZpbA==") > 100


def test_report_export_fit_and_inspect_name_hostile_files(
    dragoman_: Dragoman, run: RunFolder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    odd = HOSTILE.replace("\x00", "").replace("/", "-")
    said = dragoman_("report", run.path, "-o", tmp_path / f"{odd}.html")
    assert said.code == 0 and (tmp_path / f"{odd}.html").is_file()
    clean(said)
    where = ("--model-id", "smollm2-135m", "--source-id", "20-tiny-res", "--author-id", "somebody")
    for more in ((), ("--json",)):
        said = dragoman_("export", run.path, *where, "-o", tmp_path / f"{odd}{len(more)}", *more)
        assert said.code == 0, said.err
        clean(said, shown=not more)
    monkeypatch.setattr(
        "dragoman.runs.crossings.fit_crossing", lambda *_a, **_k: (_ for _ in ()).throw(Refusal(HOSTILE, "a", "b"))
    )
    said = dragoman_("fit", "tiny-sae", "--target", "tiny-gemma:12", "-o", tmp_path / odd)
    assert said.code == 1
    clean(said)
    said = dragoman_("inspect", tmp_path / odd)
    assert said.code == 1
    clean(said)


@pytest.mark.parametrize("more", [(), ("--json",)])
def test_doctor(dragoman_: Dragoman, monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...]) -> None:
    words: Any = dict.fromkeys(("subject", "check", "what", "do", "origin"), HOSTILE)
    found = [Finding(status=v, measured=HOSTILE, against=HOSTILE, **words) for v in ("ok", "fault", "skipped")]
    monkeypatch.setattr("dragoman.doctor.open_subject", lambda **_how: None)
    monkeypatch.setattr("dragoman.doctor.examine", lambda _subject: found)
    said = dragoman_("doctor", "--sae", "x", *more)
    assert said.code == 1 and said.out
    clean(said, shown=not more)
    if more:
        assert json.loads(said.out)["findings"][0]["do"] == HOSTILE


def test_checkpoints_usage_and_faults(dragoman_: Dragoman, monkeypatch: pytest.MonkeyPatch) -> None:
    clean(dragoman_("checkpoints", "--for", f"m{HOSTILE.replace(chr(0), '')}"))
    for words in (("checkpoints", "--width", HOSTILE), (HOSTILE,), ("explain", "x", f"--{HOSTILE}")):
        said = dragoman_(*words)
        assert said.code == 2 and not said.out
        clean(said, shown=words[0] == HOSTILE)
    for error in (ValueError(HOSTILE), OSError(28, HOSTILE, HOSTILE), Refusal(HOSTILE, HOSTILE, HOSTILE)):

        def fails(*_args: Any, error: Exception = error, **_how: Any) -> Any:
            raise error

        monkeypatch.setattr(RunFolder, "open", fails)
        for debug in ((), ("--debug",)):
            said = dragoman_(*debug, "report", "somewhere")
            assert said.code == 1 and not said.out and ("Traceback" in said.err) == bool(debug)
            clean(said)


def test_what_tests_print_as_json_is_held_against_its_schema() -> None:
    assert printing.with_schema("page", {"page": "x"})["schema"] == "dragoman.page/1"
    with pytest.raises(jsonschema.ValidationError, match="'other' was unexpected"):
        printing.with_schema("page", {"other": "x"})


def test_on_a_terminal_lines_of_a_sentence_end_between_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    sentence = "dragoman: 'org/a-name-of-hyphens': there is no such folder here, and the hub has none; give a path."
    monkeypatch.setenv("COLUMNS", "80")
    for terminal, lines in ((False, 1), (True, 2)):
        stream = Terminal() if terminal else io.StringIO()
        monkeypatch.setattr(sys, "stderr", stream)
        tell(sentence)
        said = stream.getvalue().splitlines()
        assert len(said) == lines and " ".join(said) == sentence and (not terminal or max(map(len, said)) <= 80)
