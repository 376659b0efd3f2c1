"""Absent libraries: runs are looked at without those that open models; what needs them says the line to type."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from dragoman.core import Refusal
from dragoman.models.resolve import _read_once
from dragoman.store.libraries import refuse_absent
from report_fixture import build_run

HIDDEN = ("torch", "transformers", "peft", "accelerate", "sentence_transformers")
WITHOUT = f"""
import sys
from importlib.machinery import PathFinder
found = PathFinder.find_spec
PathFinder.find_spec = lambda name, *more: None if name in {HIDDEN} else found(name, *more)
from dragoman.cli import main
sys.argv = ["dragoman", *sys.argv[1:]]
main()
"""


def without(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", WITHOUT, *words], capture_output=True, text=True, timeout=600)


def test_one_absent_and_two_absent_are_named_with_the_extra() -> None:
    refuse_absent("what is there", "json", extra="x")
    with pytest.raises(Refusal, match=r"^it: nobodys_library is not installed; run: pip install 'dragoman\[x\]'\.$"):
        refuse_absent("it", "json", "nobodys_library", extra="x")
    with pytest.raises(Refusal, match=r"a_b_c and d_e_f are not installed; run: pip install 'dragoman\[x\]' or wait"):
        refuse_absent("it", "a_b_c", "d_e_f", extra="x", more=" or wait")


@pytest.mark.parametrize(
    "words",
    [
        ("explain", "tiny-sae", "--features", "1", "--by", "tiny-gemma-av"),
        ("fit", "tiny-sae", "--by", "tiny-gemma-av"),
        ("doctor", "--by", "tiny-gemma-av"),
        ("demo",),
    ],
    ids=lambda words: words[0],
)
def test_what_opens_a_model_says_what_to_install(words: tuple[str, ...]) -> None:
    found = without(*words)
    assert (found.returncode, found.stdout) == (1, ""), found.stderr
    assert found.stderr == (
        "dragoman: what opens a model: torch and transformers and peft and accelerate and sentence_transformers are "
        "not installed; run: pip install 'dragoman[local]'.\n"
    )


def test_a_verbalizer_is_recommended_without() -> None:
    found = without("checkpoints", "--for", "Qwen/Qwen2.5-7B-Instruct:20", "--json")
    first = json.loads(found.stdout)[0]
    assert (found.returncode, found.stderr, first["relation"], first["usable"]) == (0, "", "native", True)


def test_a_run_is_reported_compared_and_exported_without(tmp_path: Path) -> None:
    run = str(build_run(tmp_path / "run", info=False).path)
    for words in (
        ("report", run),
        ("compare", run, run),
        ("export", run, "--format", "csv", "-o", str(tmp_path / "out")),
    ):
        found = without(*words)
        assert found.returncode == 0, (words, found.stderr)


def test_what_reads_an_embedded_model_is_named_where_it_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dragoman.store.libraries.find_spec", lambda _name: None)
    with pytest.raises(Refusal, match=r"gguf is not installed; run: pip install 'dragoman\[gguf\]'"), _read_once():
        pytest.fail("it was read")
