"""The vLLM engine without vLLM: what it refuses and when, the canary, and one that transformers stands in for."""

from __future__ import annotations

import inspect
import math
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from adapter_checkpoints import save_base, save_peft, told
from dragoman import cli
from dragoman.core import Refusal
from dragoman.models.asked import check_engine
from dragoman.models.contracts import contract_class, contract_names
from dragoman.models.decode import Verbalizer, site_of_verbalizer
from dragoman.models.vllm import canary
from dragoman.models.vllm.engine import VllmEngine
from dragoman.models.vllm.weights import merged_folder
from tiny_checkpoints import WIDTH, dataset_sidecar_of, save_checkpoint
from vllm_double import Double, install

TOKENS = 12


def vectors_of(family: str, count: int = 5, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(count, WIDTH[family])).astype(np.float32)


@pytest.fixture(scope="module", params=["llama", "gemma3"])
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def folder(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp(family) / "av", family)


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> Double:
    return install(Double(), monkeypatch)


@pytest.fixture
def no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever opens a model fails."""

    def opened(*_: Any, **__: Any) -> None:
        raise AssertionError("weights were read")

    monkeypatch.setattr("dragoman.models.decode.load_model", opened)


def engine_of(verbalizer: Verbalizer) -> VllmEngine:
    assert isinstance(verbalizer._engine, VllmEngine)
    return verbalizer._engine


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is installed here")
@pytest.mark.parametrize("more", [(), ("--dry-run",)])
def test_absent_vllm_is_told_with_the_line_to_type(more: tuple[str, ...]) -> None:
    words = ["explain", "tiny-sae", "--features", "1", "--by", "tiny-gemma-av", "--engine", "vllm", *more]
    with pytest.raises(Refusal) as error:
        cli.app(words, standalone_mode=False)
    assert str(error.value) == (
        "--engine vllm: vllm is not installed; run: pip install 'dragoman[vllm]' (or use --engine captured or loop)."
    )
    with pytest.raises(Refusal, match=r"pip install 'dragoman\[vllm\]'"):
        Verbalizer("tiny-gemma-av", engine="vllm")
    check_engine("loop")


@pytest.mark.parametrize("name", contract_names())
def test_contracts_that_make_hooks_are_those_that_say_so(name: str) -> None:
    contract = contract_class(name)
    assert contract.adds_inside == ("Hook(" in inspect.getsource(inspect.getmodule(contract)))  # type: ignore[arg-type]


def test_contracts_that_add_inside_are_refused_before_weights_are_read(
    tmp_path: Path, double: Double, no_weights: None
) -> None:
    folder = save_checkpoint(tmp_path / "av", "llama", sidecar=dataset_sidecar_of("llama"))
    why = r"^verbalizer .*av by vLLM: contract 'karvonen' adds its vector inside the model, .*; use --engine captured"
    with pytest.raises(Refusal, match=why):
        site_of_verbalizer(str(folder), contract="karvonen", engine="vllm")
    with pytest.raises(Refusal, match=why):
        Verbalizer(folder, contract="karvonen", engine="vllm")
    assert site_of_verbalizer(str(folder), contract="karvonen").block == 1
    assert not double.started


def test_quantised_weights_are_refused_before_they_are_read(tmp_path: Path, double: Double, no_weights: None) -> None:
    folder = save_checkpoint(tmp_path / "av", "llama")
    (folder / "config.json").rename(folder / "adapter_config.json")
    told(folder, quantization_config={"quant_method": "fp8"})
    (folder / "adapter_config.json").rename(folder / "config.json")
    with pytest.raises(Refusal, match=r"av by vLLM: its weights are quantised"):
        Verbalizer(folder, contract="kitft", engine="vllm")
    assert not double.started


def test_words_are_the_loops_and_the_engine_is_in_the_identity(folder: Path, family: str, double: Double) -> None:
    verbalizer = Verbalizer(folder, contract="kitft", engine="vllm")
    assert verbalizer.engine == "engine: vllm 0.0-double, on cpu" and not double.started
    assert verbalizer.identity["engine"] == "vllm 0.0-double"
    assert "engine" not in Verbalizer(folder, contract="kitft").identity
    ours = verbalizer.verbalize(vectors_of(family), max_new_tokens=TOKENS)
    with verbalizer.looped():
        loop = verbalizer.verbalize(vectors_of(family), max_new_tokens=TOKENS)
    assert double.stopped == 1
    assert [replace(one, log_probability=0) for one in ours] == [replace(one, log_probability=0) for one in loop]
    assert [one.log_probability for one in ours] == pytest.approx([one.log_probability for one in loop], abs=1e-4)
    assert len({one.raw for one in ours}) > 1
    (how,) = double.started
    assert how["max_model_len"] == len(verbalizer.prompt.ids) + TOKENS and how["load_format"] == "safetensors"
    assert how["enable_prompt_embeds"] and not how["trust_remote_code"] and how["model"] == str(folder)


def test_it_is_started_again_for_longer_rows_alone_and_one_at_a_time(folder: Path, family: str, double: Double) -> None:
    one, two = (Verbalizer(folder, contract="kitft", engine="vllm") for _ in range(2))
    for verbalizer, most in ((one, 4), (one, 3), (one, 6), (two, 6)):
        verbalizer.verbalize(vectors_of(family, 2), max_new_tokens=most)
    length = len(one.prompt.ids)
    assert [how["max_model_len"] for how in double.started] == [length + 4, length + 6, length + 6]
    assert double.stopped == 2 and engine_of(one)._llm is None
    engine_of(two).close()
    engine_of(two).close()
    assert double.stopped == 3


def test_rows_are_drawn_by_seeds_of_their_own(folder: Path, family: str, double: Double) -> None:
    verbalizer = Verbalizer(folder, contract="kitft", engine="vllm")
    rows = vectors_of(family, 3)
    verbalizer.verbalize(rows, max_new_tokens=2, temperature=0.7, seed=5)
    first = {(one.seed, one.temperature) for one in double.asked[-3:]}
    verbalizer.verbalize(rows[::-1].copy(), max_new_tokens=2, temperature=0.7, seed=5)
    assert {(one.seed, one.temperature) for one in double.asked[-3:]} == first and len(first) == 3
    verbalizer.verbalize(rows, max_new_tokens=2, temperature=0.7, seed=6)
    assert not {(one.seed, one.temperature) for one in double.asked[-3:]} & first
    assert all(0 <= seed < 2**60 for seed, _ in first)
    with pytest.raises(Refusal, match=r"temperature 0\.001 by vLLM: it draws at 0\.01 instead"):
        verbalizer.verbalize(rows, temperature=0.001)
    engine_of(verbalizer).close()


FAULTS = {
    "scaled twice": lambda rows: rows * math.sqrt(rows.shape[-1]),
    "not scaled": lambda rows: rows / math.sqrt(rows.shape[-1]),
    "rows mixed up": lambda rows: rows.roll(1, 0),
    "vectors dropped": lambda rows: rows[:1].expand_as(rows),
    "a position lost": lambda rows: rows[:, 1:],
}


# In half precision it is known by a tenth of a nat a token: random models as small as these tell vectors by less.
@pytest.mark.parametrize(
    ("fault", "dtype"), [*((one, "float32") for one in FAULTS), *((one, "bfloat16") for one in list(FAULTS)[:2])]
)
def test_a_vllm_that_treats_embeddings_otherwise_is_refused(
    folder: Path, family: str, monkeypatch: pytest.MonkeyPatch, fault: str, dtype: str
) -> None:
    double = install(Double(change=FAULTS[fault]), monkeypatch)
    verbalizer = Verbalizer(folder, contract="kitft", engine="vllm", dtype=dtype)
    times = 2 if fault == "not scaled" else 1  # it is not believed the second time either
    for _ in range(times):
        with pytest.raises(Refusal, match=r"^vllm 0\.0-double: it does not say what the plain loop says of the same"):
            verbalizer.verbalize(vectors_of(family), max_new_tokens=TOKENS)
    assert len(double.started) == double.stopped == times


def test_rounding_of_half_precision_is_let_through(folder: Path, family: str, double: Double) -> None:
    verbalizer = Verbalizer(folder, contract="kitft", engine="vllm", dtype="bfloat16")
    verbalizer.verbalize(vectors_of(family), max_new_tokens=TOKENS)
    found = engine_of(verbalizer).compared
    assert found is not None and found.tokens > canary.ROWS and found.holds(torch.bfloat16)
    engine_of(verbalizer).close()


@pytest.mark.parametrize(("off", "why"), [(0.05, "0.05 nats off"), (math.nan, "logits are not finite")])
def test_other_log_probabilities_are_refused(
    folder: Path, family: str, monkeypatch: pytest.MonkeyPatch, off: float, why: str
) -> None:
    install(Double(off=off), monkeypatch)
    with pytest.raises(Refusal, match=why):
        Verbalizer(folder, contract="kitft", engine="vllm").verbalize(vectors_of(family), max_new_tokens=TOKENS)


def test_a_row_that_ended_by_no_rule_is_refused(folder: Path, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    install(Double(cut=canary.TOKENS + 1), monkeypatch)
    verbalizer = Verbalizer(folder, contract="kitft", engine="vllm")
    with pytest.raises(Refusal, match=r"it ended a row after 9 tokens \(by stop\), where none of ours ends"):
        verbalizer.verbalize(vectors_of(family), max_new_tokens=TOKENS)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda rows: rows[..., :-1], "is wanted"),
        (lambda rows: rows[0], "is wanted"),
        (lambda rows: rows[:, :0], "is wanted"),
        (lambda rows: rows.double(), r"they are torch\.float64, and it computes in torch\.float32"),
        (lambda rows: rows.index_fill(1, torch.tensor([2]), math.inf), "NaN or infinite"),
    ],
    ids=["width", "one row", "no tokens", "dtype", "infinite"],
)
def test_embeddings_that_vllm_would_cast_or_hang_on_are_refused(
    folder: Path, family: str, double: Double, change: Any, why: str
) -> None:
    verbalizer = Verbalizer(folder, contract="kitft", engine="vllm")
    feed = verbalizer.feed(vectors_of(family))
    with pytest.raises(Refusal, match=why):
        engine_of(verbalizer).say(lambda _part: replace(feed, embeddings=change(feed.embeddings), shared=0), 5, 2)
    assert not double.started


@pytest.mark.parametrize("targets", [["q_proj", "up_proj"], ["q_proj", "lm_head"]], ids=["blocks", "one tied end"])
def test_merged_adapters_lie_in_the_cache_as_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, double: Double, targets: list[str]
) -> None:
    monkeypatch.setenv("DRAGOMAN_CACHE", str(tmp_path / "cache"))
    base = save_base(tmp_path / "base", "llama", tied=True)
    adapter = save_peft(tmp_path / "av", "llama", base, size=0.3, target_modules=targets)
    verbalizer = Verbalizer(adapter, contract="kitft", engine="vllm")
    ours = verbalizer.verbalize(vectors_of("llama"), max_new_tokens=TOKENS)
    (kept,) = (tmp_path / "cache" / "merged").glob("[!.]*")
    assert double.started[0]["model"] == str(kept) and not [*kept.glob("*.bin")]
    with verbalizer.looped():
        loop = verbalizer.verbalize(vectors_of("llama"), max_new_tokens=TOKENS)
    assert [one.raw for one in ours] == [one.raw for one in loop]
    assert merged_folder(verbalizer.model, verbalizer.tokenizer, verbalizer.identity) == kept
    plain = Verbalizer(base, contract="kitft")
    assert [one.raw for one in plain.verbalize(vectors_of("llama"), max_new_tokens=TOKENS)] != [o.raw for o in ours]


def test_rows_that_differ_are_weighed_up_to_the_first_other_token() -> None:
    logs = torch.tensor([[[0.6, 0.4], [0.9, 0.1], [0.9, 0.1]]]).log()
    wanted = canary.Reference(torch.tensor([[0, 0, 0]]), logs, torch.float32)
    found = canary.apart(wanted, [[0, 1, 1]], [[math.log(0.6), math.log(0.1), -50.0]])
    assert found.tokens == 2 and found.reported_most < 1e-6
    assert found.behind_most == pytest.approx(math.log(9)) and found.behind_mean == pytest.approx(math.log(9) / 2)
    assert not found.holds(torch.float32) and not found.holds(torch.bfloat16)
    with pytest.raises(Refusal, match=r"it said \[2\] tokens where 3 were asked"):
        canary.refuse_other(wanted, [[0, 0]], [[-1.0, -1.0]], "vllm")
