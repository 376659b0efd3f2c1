"""What is said on stderr tells no password, signature or token, whoever says it; data on stdout stays as it is."""

from __future__ import annotations

import sys

import pytest

from dragoman.cli import talking
from dragoman.commands.printing import guarded, put_json, tell, tell_lines

ADDRESS = "https://user:PASSWORD@host.example/v1/x?X-Amz-Signature=SIGNED"
TOKEN = "hf_" + "abcdefgh" * 4
SAID = f"reading {ADDRESS} with {TOKEN}"


def safe(said: str) -> bool:
    assert "host.example/v1/x" in said.replace("\n", "")
    return not [word for word in ("PASSWORD", "SIGNED", "abcdefgh") if word in said]


def test_sentences_bars_tracebacks_and_libraries_tell_none(capsys: pytest.CaptureFixture[str]) -> None:
    with guarded(), talking() as talk:
        talk.say(SAID)
        talk.bar(SAID, 1, 2)
    assert safe(capsys.readouterr().err)
    tell(SAID)
    assert safe(capsys.readouterr().err)
    tell_lines(f"Traceback\n  {SAID}")
    assert safe(capsys.readouterr().err)
    with guarded():
        sys.stderr.writelines([f"{SAID}\n"])
        assert sys.stderr.write(SAID) == len(SAID)
    assert safe(capsys.readouterr().err)


def test_data_is_what_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    with guarded():
        put_json({"text": "see https://host.example/x?page=2"})
        sys.stdout.write("see https://host.example/x?page=2")
    assert capsys.readouterr().out.count("?page=2") == 2
