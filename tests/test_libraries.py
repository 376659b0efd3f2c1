"""Absent libraries: runs are looked at without those that open models; what needs them says the line to type."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dragoman.core import Refusal
from dragoman.models.packaged import _read_once
from dragoman.store.libraries import refuse_absent
from report_fixture import build_run

HIDDEN = ("torch", "transformers", "peft", "accelerate", "sentence_transformers")
WITHOUT = f"""
import sys
from importlib.machinery import PathFinder
found = PathFinder.find_spec
PathFinder.find_spec = lambda name, *more: None if name in {HIDDEN} else found(name, *more)
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
import json
from dragoman.cli import main

def said(words):
    sys.argv, out, err, code = ["dragoman", *words], StringIO(), StringIO(), 0
    with redirect_stdout(out), redirect_stderr(err):
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
    return code, out.getvalue(), err.getvalue()

print(json.dumps([said(words) for words in json.loads(sys.argv[1])]))
"""


def without(*commands: tuple[str, ...]) -> list[list[Any]]:
    """Exit code, stdout and stderr of commands, one after another in a process that finds none of the libraries."""
    words = [sys.executable, "-c", WITHOUT, json.dumps(commands)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0 and not done.stderr, done.stderr
    return json.loads(done.stdout)


def test_one_absent_and_two_absent_are_named_with_the_extra() -> None:
    refuse_absent("what is there", "json", extra="x")
    with pytest.raises(Refusal, match=r"^it: nobodys_library is not installed; run: pip install 'dragoman\[x\]'\.$"):
        refuse_absent("it", "json", "nobodys_library", extra="x")
    with pytest.raises(Refusal, match=r"a_b_c and d_e_f are not installed; run: pip install 'dragoman\[x\]' or wait"):
        refuse_absent("it", "a_b_c", "d_e_f", extra="x", more=" or wait")


OPENS = (
    ("explain", "tiny-sae", "--features", "1", "--by", "tiny-gemma-av"),
    ("fit", "tiny-sae", "--by", "tiny-gemma-av"),
    ("doctor", "--by", "tiny-gemma-av"),
    ("demo",),
)


def test_a_run_is_looked_at_a_verbalizer_recommended_and_what_opens_a_model_says_what_to_install(
    tmp_path: Path,
) -> None:
    run = str(build_run(tmp_path / "run", info=False).path)
    looks = (("report", run), ("compare", run, run), ("export", run, "--format", "csv", "-o", str(tmp_path / "out")))
    asks = ("checkpoints", "--for", "Qwen/Qwen2.5-7B-Instruct:20", "--json")
    found = without(asks, *looks, *OPENS)
    code, out, err = found[0]
    first = json.loads(out)[0]
    assert (code, err, first["relation"], first["usable"]) == (0, "", "native", True)
    for words, (code, _, err) in zip(looks, found[1:4], strict=True):
        assert code == 0, (words, err)
    install = (
        "dragoman: what opens a model: torch and transformers and peft and accelerate and sentence_transformers are "
        "not installed; run: pip install 'dragoman[local]'.\n"
    )
    assert [*zip(OPENS, found[4:], strict=True)] == [(words, [1, "", install]) for words in OPENS]


def test_what_reads_an_embedded_model_is_named_where_it_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dragoman.store.libraries.find_spec", lambda _name: None)
    with pytest.raises(Refusal, match=r"gguf is not installed; run: pip install 'dragoman\[gguf\]'"), _read_once():
        pytest.fail("it was read")
