"""The vLLM server as an engine: rows of a double are the loop's, and every way a server may fail is one refusal."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from adapter_checkpoints import save_base, save_peft
from dragoman import cli
from dragoman.core import Refusal
from dragoman.models.asked import check_engine, refuse_beside_server
from dragoman.models.decode import Verbalizer, site_of_verbalizer
from dragoman.models.vllm import server
from dragoman.models.vllm.canary import ROWS
from dragoman.store.http import Bounds
from small_world import World, command
from tiny_checkpoints import WIDTH, dataset_sidecar_of, save_checkpoint
from vllm_double import ServedDouble, serving

TOKENS = 12
OPENED = 2 * ROWS  # rows that the canary says before one is believed


def vectors(count: int = 5) -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(size=(count, WIDTH["gemma3"])).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("served") / "av", "gemma3")


@pytest.fixture
def double(folder: Path) -> Iterator[ServedDouble]:
    made = ServedDouble(folder=str(folder))
    with serving(made):
        yield made


@pytest.fixture(scope="module")
def running(folder: Path) -> Iterator[tuple[ServedDouble, Verbalizer]]:
    with serving(made := ServedDouble(folder=str(folder))):
        yield made, opened(folder, made)


@pytest.fixture
def shared(running: tuple[ServedDouble, Verbalizer]) -> Iterator[tuple[ServedDouble, Verbalizer]]:
    """A server that tells of itself as before when a test is over, and a verbalizer that it says the words of."""
    yield running
    running[0].fault, running[0].tell = lambda _before: "", lambda _path, told: told


def opened(folder: Path, double: ServedDouble, **how: Any) -> Verbalizer:
    return Verbalizer(folder, contract="kitft", engine=f"vllm:{double.url}", **how)


@contextmanager
def refused(match: str) -> Iterator[None]:
    """Refused in one sentence."""
    with pytest.raises(Refusal, match=match) as error:
        yield
    assert "\n" not in str(error.value)


def test_words_are_the_loops_and_the_server_is_in_the_identity(folder: Path, double: ServedDouble) -> None:
    verbalizer = opened(folder, double)
    assert double.rows == OPENED and verbalizer.together == server.TOGETHER
    assert verbalizer.identity["engine"] == "vllm 0.0-double on a server, model av"
    assert verbalizer.engine == f"engine: vllm 0.0-double on a server, model av, at {double.url}"
    ours = verbalizer.verbalize(vectors(20), max_new_tokens=TOKENS)
    with verbalizer.looped():
        loop = verbalizer.verbalize(vectors(20), max_new_tokens=TOKENS)
    assert [replace(one, log_probability=0) for one in ours] == [replace(one, log_probability=0) for one in loop]
    assert [one.log_probability for one in ours] == pytest.approx([one.log_probability for one in loop], abs=1e-4)
    assert len({one.raw for one in ours}) > 1 and double.rows == OPENED + ROWS + 20
    how = double.asked[-1]
    assert how.model == "av" and how.max_tokens == TOKENS and how.ignore_eos and not how.skip_special_tokens
    assert "</explanation>" in how.stop and how.stop_token_ids and how.seed is None and how.return_token_ids
    assert (how.top_p, how.top_k, how.min_p, how.repetition_penalty) == (1, 0, 0, 1)
    verbalizer.close()
    assert verbalizer.verbalize(vectors(1), max_new_tokens=2)


def test_rows_are_drawn_by_seeds_of_their_own_and_the_canary_speaks_at_that_temperature(
    folder: Path, double: ServedDouble
) -> None:
    verbalizer = opened(folder, double)
    for rows in (vectors(3), vectors(3)[::-1].copy()):
        verbalizer.verbalize(rows, max_new_tokens=2, temperature=0.7, seed=5)
    warm = [one.seed for one in double.asked if one.temperature == 0.7]
    assert sorted(warm[:ROWS]) == list(range(ROWS)) and sorted(warm[ROWS : ROWS + 3]) == sorted(warm[-3:])
    with refused(r"temperature 0\.001 by vLLM: it draws at 0\.01 instead"):
        verbalizer.verbalize(vectors(3), temperature=0.001)


def test_numbers_that_are_others_only_where_it_draws_are_refused(shared: tuple[ServedDouble, Verbalizer]) -> None:
    double, verbalizer = shared

    def tell(path: str, told: Any) -> Any:
        if path == "/v1/completions" and double.asked[-1].temperature > 0:
            told["choices"][0]["logprobs"]["token_logprobs"][0] += 0.2  # as --logprobs-mode processed_logprobs has it
        return told

    double.tell = tell
    assert verbalizer.verbalize(vectors(2), max_new_tokens=2)
    with refused(r"\(vllm 0\.0-double .*does not say what the plain loop says .*, at most 0\.2, and"):
        verbalizer.verbalize(vectors(2), max_new_tokens=2, temperature=0.7)


@pytest.mark.parametrize("change", [lambda rows: rows * 8, lambda rows: rows[:, 1:]], ids=["scaled", "a position lost"])
def test_a_server_that_reads_embeddings_otherwise_is_refused(folder: Path, double: ServedDouble, change: Any) -> None:
    double.change = change
    serve = f"vllm serve {folder} --dtype float32 --enable-prompt-embeds --generation-config vllm"
    with refused(
        rf"^vLLM at http://127.*: it does not say what the plain .*; serve this very model \({serve}\), or use "
    ):
        opened(folder, double)


def test_a_server_in_half_precision_is_refused_beside_a_loop_in_float32(folder: Path) -> None:
    with serving(double := ServedDouble(folder=str(folder), dtype="bfloat16")):
        with refused("it does not say what the plain loop says"):
            opened(folder, double)
        assert opened(folder, double, dtype="bfloat16").verbalize(vectors(2), max_new_tokens=2)


def test_adapters_are_told_with_the_folder_to_serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRAGOMAN_CACHE", str(tmp_path / "cache"))
    base = save_base(tmp_path / "base", "gemma3", tied=True)
    adapter = save_peft(tmp_path / "av", "gemma3", base, size=0.3)
    with serving(double := ServedDouble(folder=str(base))), pytest.raises(Refusal, match="does not say") as error:
        opened(adapter, double)
    (kept,) = (tmp_path / "cache" / "merged").glob("[!.]*")
    assert f"vllm serve {kept} --dtype float32" in str(error.value)
    with serving(double := ServedDouble(folder=str(kept))):
        verbalizer = opened(adapter, double)
        ours = verbalizer.verbalize(vectors(), max_new_tokens=TOKENS)
        with verbalizer.looped():
            assert [one.raw for one in verbalizer.verbalize(vectors(), max_new_tokens=TOKENS)] == [o.raw for o in ours]
    with refused(rf"it gave no answer that can be used \(.*refused\); start it \(vllm serve {kept} "):
        opened(adapter, double)


def test_what_is_refused_before_weights_are_read(
    tmp_path: Path, folder: Path, double: ServedDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(*_: Any, **__: Any) -> None:
        raise AssertionError("weights were read")

    monkeypatch.setattr("dragoman.models.decode.load_model", read)
    inside = save_checkpoint(tmp_path / "av", "llama", sidecar=dataset_sidecar_of("llama"))
    for ask in (site_of_verbalizer, Verbalizer):
        with refused("contract 'karvonen' adds its vector inside the model"):
            ask(str(inside), contract="karvonen", engine=f"vllm:{double.url}")
    double.models = ()
    with refused("it serves no model; have it serve one, under one name: vllm serve /"):
        opened(folder, double)
    assert double.rows == 0


ABOUT: dict[str, tuple[Callable[[ServedDouble], Any], str]] = {
    "several": (lambda d: setattr(d, "models", ("av", "b\x1b")), r"it serves 2 models \(av, b\\x1b\)"),
    "unnamed": (lambda d: setattr(d, "models", ("a\x1b[2J",)), "its model has no name"),
    "short": (
        lambda d: setattr(d, "room", 20),
        r"its rows have 20 tokens at most, and \d+ of the prompt and 8 are need",
    ),
    "no version": (lambda d: setattr(d, "version", "a b"), "it does not say which version of vLLM it is"),
    "no room": (lambda d: setattr(d, "room", None), "it does not say how long a row may be"),
    "a list": (
        lambda d: setattr(d, "tell", lambda *_: []),
        "its answer is no object; see that a vLLM server runs there",
    ),
    "deep": (lambda d: setattr(d, "tell", lambda *_: {"version": {}}), "it does not say which version"),
}


@pytest.mark.parametrize("name", ABOUT)
def test_what_a_server_tells_of_itself(folder: Path, double: ServedDouble, name: str) -> None:
    change, why = ABOUT[name]
    change(double)
    with refused(f"^vLLM at http://127.0.0.1:.*{why}"):
        opened(folder, double)
    assert double.rows == 0


FAULTS = {
    "silent": r"it sent 0 bytes in \d+ s, too slow to go on",
    "endless": "it sends more than .* kB where less was due",
    "cut": r"it gave no answer that can be used \(peer closed connection",
    "elsewhere": "it redirects elsewhere",
    "<html>no</html>": r"its answer is no JSON \(<html>no",
    "nothing": "its answer is no JSON",
    "[]": "its answer is no object",
    "{}": "its answer has no row of token ids and log-probabilities",
    "[" * 99_999: "its answer is no JSON",
    "401 ": r"it wants a key \(401\); set VLLM_API_KEY",
    "500 a\x1b[2J b": r"it answers 500: a\\x1b\[2J b; look at its log, and run the same command again",
    "400 other width": r"it answers 400: other width; have it serve this very model \(vllm serve /",
    "400 You must set `--enable-prompt-embeds` to input": "started without --enable-prompt-embeds; start it with that",
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault[:12])
def test_a_server_that_fails_amid_rows(
    shared: tuple[ServedDouble, Verbalizer], monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    double, verbalizer = shared
    assert verbalizer.verbalize(vectors(6), max_new_tokens=2)
    if fault == "silent":
        monkeypatch.setattr(verbalizer._engine._client._whole, "bounds", Bounds(silent=20, grace=1.0))  # type: ignore
    begun = double.rows
    double.fault = lambda before: fault if before > begun + ROWS + 2 else ""
    with refused(rf"^vLLM at http://127.0.0.1:\d+: .*{FAULTS[fault]}"):
        verbalizer.verbalize(vectors(6), max_new_tokens=2)


ROWS_TOLD = {
    "no ids": lambda row: row.pop("token_ids"),
    "no row": lambda row: row.update(token_ids=7),
    "beyond the vocabulary": lambda row: row["token_ids"].__setitem__(0, 10**9),
    "below it": lambda row: row["token_ids"].__setitem__(0, -1),
    "not whole": lambda row: row["token_ids"].__setitem__(0, True),
    "no numbers": lambda row: row.update(logprobs=None),
}


@pytest.mark.parametrize("name", ROWS_TOLD)
def test_rows_without_a_token_id_and_a_number_each(shared: tuple[ServedDouble, Verbalizer], name: str) -> None:
    def tell(path: str, told: Any) -> Any:
        if path == "/v1/completions":
            ROWS_TOLD[name](told["choices"][0])
        return told

    double, verbalizer = shared
    double.tell = tell
    with refused("its answer has no row of token ids and log-probabilities"):
        verbalizer.verbalize(vectors(1), max_new_tokens=2)


@pytest.mark.parametrize(("sure", "why"), [([None, -1.0], "not finite"), ([-1.0], "it gave 2 tokens and 1 numbers")])
def test_log_probabilities_that_are_none(shared: tuple[ServedDouble, Verbalizer], sure: list[Any], why: str) -> None:
    row = {"token_ids": [1, 2], "logprobs": {"token_logprobs": sure}}
    shared[0].tell = lambda path, told: {"choices": [row]} if path == "/v1/completions" else told
    with refused(why):
        shared[1].verbalize(vectors(1), max_new_tokens=2)


def test_a_row_that_ended_by_no_rule_and_rows_too_long_are_refused(folder: Path, double: ServedDouble) -> None:
    verbalizer = opened(folder, double)
    double.cut = 9
    with refused(r"it ended a row after 9 tokens \(by stop\), where none of ours ends"):
        verbalizer.verbalize(vectors(), max_new_tokens=TOKENS)
    double.cut, double.room = None, len(verbalizer.prompt.ids) + 40
    assert verbalizer.verbalize(vectors(1), max_new_tokens=40)
    with refused(rf"start it with --max-model-len {double.room + 1} or more, or lower --max-new-tokens"):
        verbalizer.verbalize(vectors(1), max_new_tokens=41)


def test_a_server_that_is_another_one_meanwhile_is_refused(folder: Path, double: ServedDouble) -> None:
    verbalizer, before = opened(folder, double), opened(folder, double).stamps
    double.version = "0.1"
    with refused(r"it is version 0\.1 with model av now, and was vllm 0\.0-double on a server, model av; "):
        verbalizer.verbalize(vectors(1), max_new_tokens=2)
    assert opened(folder, double).stamps != before
    double.version, double.change = "0.0-double", lambda rows: rows * 2  # other weights under the same name
    with refused("it does not say what the plain loop says"):
        verbalizer.verbalize(vectors(1), max_new_tokens=2)


def test_ctrl_c_ends_what_is_under_way(folder: Path, double: ServedDouble) -> None:
    # A server of its own: rows that another test left under way would be counted among these.
    verbalizer, begun = opened(folder, double), double.rows

    def fault(before: int) -> str:
        if before == begun + ROWS + 3:
            os.kill(os.getpid(), signal.SIGINT)
        return "silent" if before > begun + ROWS else ""

    double.fault = fault
    # A suite that a shell runs behind itself ignores the signal from the start.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            verbalizer.verbalize(vectors(6), max_new_tokens=2)  # the server would be silent for ever
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("path", ["", "/v1/"])
def test_keys_and_passwords_are_sent_and_never_told(
    folder: Path, double: ServedDouble, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):  # which would look for 127.0.0.1 on itself
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.setenv("VLLM_API_KEY", "S3CRET")
    verbalizer = opened(folder, double) if path else None
    address = double.url.replace("//", "//me:S3CRET@") + path
    by = Verbalizer(folder, contract="kitft", engine=f"vllm:{address}")
    assert "S3CRET" not in f"{by.identity}{by.engine}{by!r}"
    if verbalizer is not None:
        assert double.headers[0]["Authorization"] == "Bearer S3CRET" and verbalizer.identity == by.identity
    double.models = ()
    with pytest.raises(Refusal) as error:
        by.verbalize(vectors(1))
    assert "S3CRET" not in str(error.value) and f"{double.url}" in str(error.value)


@pytest.mark.parametrize(
    "word",
    ["vllm:", "vllm:host:8000", "vllm:http://", "vllm:http://h:x", "vllm:ftp://h", "vllm:http://h?q", "vllm:http://h#f",
     "vllm:http://[h", "vllm:http://h /", "vllm:http://u:S3CRET@h:x", "vllm://u:S3CRET@h", "http://u:S3CRET@h"],
)  # fmt: skip
def test_words_that_name_no_server(word: str) -> None:
    why = "no server has such an address; say vllm:http://HOST:PORT|known are auto, .* and vllm:ADDRESS"
    with pytest.raises(Refusal, match=why) as error:
        check_engine(word)
    assert "S3CRET" not in str(error.value)


def test_what_a_server_leaves_no_place_for() -> None:
    word = "vllm:http://u:S3CRET@host:8000"
    check_engine(word)
    refuse_beside_server(word, None, None)
    refuse_beside_server("vllm", "native", "ray")
    with refused("^--native with --engine vllm:http://host:8000: a server says one verbalizer's words"):
        refuse_beside_server(word, "native", None)
    with refused("^--on ray with --engine vllm:http://host:8000: the server says the words"):
        refuse_beside_server(word, None, "ray")


def test_a_run_whose_server_died_is_gone_on_with_and_by_no_other(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = ServedDouble(folder=world.av, models=("a",))
    words = ["explain", world.sae, "--source", str(world.source), "--by", world.av, "--features", "0,3,7,11"]
    words += ["--texts", str(world.root / "texts.txt"), "--reading", "writes", "--batch-size", "1"]
    words += ["--max-new-tokens", "6"]

    def run(out: str, *more: str) -> tuple[int, str]:
        said = command(monkeypatch, capsys, *words, "-o", str(tmp_path / out), *more)
        return said.code, said.err + said.out

    with serving(made) as word:
        code, told = run("dry", "--engine", word, "--dry-run")
        assert code == 0 and "a server says the words" in told and made.rows == 0
        assert run("whole", "--engine", word)[0] == 0
        count = made.rows
        made.rows, made.fault = 0, lambda before: "nothing" if before > count - 12 else ""
        code, told = run("killed", "--engine", word)
        assert code == 1 and "its answer is no JSON" in told and "run the same command" in told
        kept = (tmp_path / "killed" / "rows.jsonl").read_bytes()
        made.fault, made.version = lambda _before: "", "0.1"
        code, told = run("killed", "--engine", word)
        assert code == 1 and "it holds another run" in told
        made.version = "0.0-double"
        assert run("killed", "--engine", "loop")[0] == 1
    made.over.clear()
    with serving(made) as word:  # at another port
        assert run("killed", "--engine", word)[0] == 0
    code, told = run("late", "--engine", word)
    assert code == 1 and "it gave no answer that can be used" in told and not (tmp_path / "late").exists()
    assert run("late", "--engine", word, "--dry-run")[0] == 1
    whole = (tmp_path / "whole" / "rows.jsonl").read_bytes()
    assert (tmp_path / "killed" / "rows.jsonl").read_bytes() == whole and whole.startswith(kept) and whole != kept
    manifest = json.loads((tmp_path / "whole" / "manifest.json").read_text())
    (engine,) = {one["engine"] for one in manifest["verbalizers"].values()}
    assert engine == "vllm 0.0-double on a server, model a"
    assert made.url.encode() not in (tmp_path / "whole" / "manifest.json").read_bytes()


def test_the_command_refuses_words_first(tmp_path: Path) -> None:
    words = ["explain", "tiny-sae", "--features", "1", "--by", "tiny-gemma-av", "--engine", "vllm:http://h:1"]
    for more, why in ((["--native", "x"], "--native with"), (["--on", "ray"], "--on ray with")):
        for dry in ([], ["--dry-run"]):
            with pytest.raises(Refusal, match=f"^{why} --engine vllm:http://h:1"):
                cli.app([*words, *more, *dry, "-o", str(tmp_path / "out")], standalone_mode=False)
