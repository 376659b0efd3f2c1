"""The captured engine, uncaptured on the CPU, says what the loop says: every family, every contract, any slots."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from dragoman.core import Explanation, Refusal
from dragoman.models import captured, engines
from dragoman.models.captured import Captured
from dragoman.models.contracts.base import Hook
from dragoman.models.decode import Verbalizer
from dragoman.models.load import decoder_blocks, text_stack
from dragoman.models.slots import NAME, attention_of
from dragoman.models.watch import fed
from tiny_checkpoints import ALL_FAMILIES, WIDTH, dataset_sidecar_of, save_checkpoint
from verbalizer_doubles import next_logits

TOKENS, LONG = 8, 16
ROWS = 5
CLOSE = "</explanation>"


def opened(folder: Path, family: str, contract: str) -> Verbalizer:
    save_checkpoint(folder, family, sidecar=dataset_sidecar_of(family) if contract == "karvonen" else None)
    return Verbalizer(folder, contract=contract, engine="captured")


@pytest.fixture(scope="module", params=ALL_FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module", params=["kitft", "karvonen"])
def case(
    request: pytest.FixtureRequest, family: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Verbalizer, NDArray[np.float32]]:
    vectors = np.random.default_rng(0).normal(size=(ROWS, WIDTH[family])).astype(np.float32)
    return opened(tmp_path_factory.mktemp(family) / "av", family, request.param), vectors


@pytest.fixture(scope="module")
def loop(case: tuple[Verbalizer, NDArray[np.float32]]) -> list[Explanation]:
    """What the loop says of its rows, greedily."""
    verbalizer, vectors = case
    with verbalizer.looped():
        return verbalizer.verbalize(vectors, max_new_tokens=TOKENS)


@pytest.fixture(scope="module")
def plain_case(family: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Verbalizer, NDArray[np.float32]]:
    """Rows of one contract whose texts differ early in every family."""
    vectors = np.random.default_rng(0).normal(size=(ROWS + 2, WIDTH[family])).astype(np.float32)
    return opened(tmp_path_factory.mktemp(family) / "av", family, "kitft"), vectors


@pytest.fixture(scope="module")
def start(plain_case: tuple[Verbalizer, NDArray[np.float32]]) -> int:
    """A token that most of its rows say, at different steps."""
    return common(ids_of(*plain_case))


@pytest.fixture(scope="module")
def qwen2(tmp_path_factory: pytest.TempPathFactory) -> Verbalizer:
    return opened(tmp_path_factory.mktemp("one") / "av", "qwen2", "kitft")


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three slots, so that most rows begin when others are over."""
    monkeypatch.setattr(engines, "MOST_SLOTS_CPU", 3)


@pytest.fixture
def prompts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How the rest of a prompt is read: at once, or through the step."""
    monkeypatch.setattr(captured, "FED", 64 if request.param == "fed" else 1)
    return request.param


def anew(verbalizer: Verbalizer, vectors: NDArray[np.float32], **how: Any) -> list[Explanation]:
    """What the captured engine says, made anew."""
    assert verbalizer._engine is not None
    verbalizer._engine.close()
    return verbalizer.verbalize(vectors, **how)


def both(
    verbalizer: Verbalizer, vectors: NDArray[np.float32], **how: Any
) -> tuple[list[Explanation], list[Explanation]]:
    """What the captured engine says, made anew, and what the loop says."""
    ours = anew(verbalizer, vectors, **how)
    with verbalizer.looped():
        return ours, verbalizer.verbalize(vectors, **how)


def same(ours: list[Explanation], loop: list[Explanation]) -> None:
    assert [e.raw for e in ours] == [e.raw for e in loop]
    assert [e.tokens for e in ours] == [e.tokens for e in loop]
    assert [e.log_probability for e in ours] == pytest.approx([e.log_probability for e in loop], abs=1e-4)
    assert [e.problems for e in ours] == [e.problems for e in loop]


class Follows:
    """An output layer under which one token is surely followed by another, as in a chain."""

    def __init__(self, verbalizer: Verbalizer, chain: dict[int, int]) -> None:
        self._net, self._chain = verbalizer.model, chain
        self._last: torch.Tensor | None = None

    def __enter__(self) -> None:
        # The table tells which tokens a step reads, whichever engine makes it; prompts come as embeddings.
        self._handles = [
            self._net.get_input_embeddings().register_forward_hook(self._note),
            self._net.get_output_embeddings().register_forward_hook(self._follow),
        ]

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _note(self, _module: Any, args: Any, _output: Any) -> None:
        self._last = args[0].reshape(-1)

    def _follow(self, _module: Any, _args: Any, output: torch.Tensor) -> torch.Tensor:
        if self._last is None or len(self._last) != output[..., 0].numel():
            return output
        rows = output.clone().view(-1, output.shape[-1])
        for row, token in enumerate(self._last.tolist()):
            if token in self._chain:
                rows[row, self._chain[token]] = 1e4
        return rows.view(output.shape)


def common(said: list[list[int]]) -> int:
    """The token that most rows say, at different steps."""
    where: dict[int, dict[int, int]] = {}
    for row, ids in enumerate(said):
        for step, token in enumerate(ids[:-6]):
            where.setdefault(token, {}).setdefault(row, step)
    found = max(where, key=lambda token: len(set(where[token].values())))
    assert len(set(where[found].values())) >= 2
    return found


def ids_of(verbalizer: Verbalizer, vectors: NDArray[np.float32]) -> list[list[int]]:
    with verbalizer.looped():
        return [
            found[0] for found in verbalizer._decode(verbalizer.feed(vectors), lambda x, _a, _s: x.argmax(-1), LONG)
        ]


@pytest.mark.parametrize("prompts", ["read", "fed"], indirect=True)
def test_greedy_texts_are_the_loops_however_prompts_are_read(
    case: tuple[Verbalizer, NDArray[np.float32]], loop: list[Explanation], few: None, prompts: str
) -> None:
    verbalizer, vectors = case
    ours = anew(verbalizer, vectors, max_new_tokens=TOKENS)
    same(ours, loop)
    # What is added in a block by its own norm hardly moves some of these random models.
    assert len({e.raw for e in ours}) > 1 or verbalizer.contract.name == "karvonen"


def test_rows_fit_into_slots_that_are_as_many_fewer_or_one(
    case: tuple[Verbalizer, NDArray[np.float32]], loop: list[Explanation]
) -> None:
    verbalizer, vectors = case
    same(anew(verbalizer, vectors, max_new_tokens=TOKENS), loop)
    alone = [verbalizer.verbalize(v[None], max_new_tokens=TOKENS)[0] for v in vectors[:3]]
    same(alone, loop[:3])


def test_samples_are_a_rows_own_whatever_stands_beside_it(
    plain_case: tuple[Verbalizer, NDArray[np.float32]], monkeypatch: pytest.MonkeyPatch
) -> None:
    verbalizer, vectors = plain_case
    how = {"temperature": 0.8, "seed": 3, "max_new_tokens": 12}
    ours, loop = both(verbalizer, vectors, **how)
    same(ours, loop)
    monkeypatch.setattr(engines, "MOST_SLOTS_CPU", 2)
    turned = anew(verbalizer, vectors[::-1].copy(), **how)
    assert [e.raw for e in turned[::-1]] == [e.raw for e in ours]
    other = verbalizer.verbalize(vectors, **{**how, "seed": 4})
    assert [e.raw for e in other] != [e.raw for e in ours]


# How a row ends knows nothing of how the next one's prompt is read: each of either, in every family.
@pytest.mark.parametrize(("prompts", "end"), [("read", "tag"), ("fed", "token")], indirect=["prompts"])
def test_rows_that_are_over_give_their_slots_to_others(
    plain_case: tuple[Verbalizer, NDArray[np.float32]], start: int, few: None, prompts: str, end: str
) -> None:
    verbalizer, vectors = plain_case
    tokenizer = verbalizer.tokenizer
    tag = [tokenizer.eos_token_id] if end == "token" else tokenizer.encode(CLOSE, add_special_tokens=False)
    if end == "tag":
        assert len(tag) > 1, "the tag is spread over tokens"
    with Follows(verbalizer, dict(pairwise([start, *tag]))):
        ours, loop = both(verbalizer, vectors, max_new_tokens=LONG)
    same(ours, loop)
    closed = [e for e in ours if "no closing tag" not in e.problems]
    assert all(e.raw.endswith(CLOSE) for e in closed)
    assert len({e.tokens for e in (closed if end == "tag" else ours)}) >= 2


def test_each_row_has_its_own_most_tokens(qwen2: Verbalizer) -> None:
    vectors = np.random.default_rng(4).normal(size=(7, WIDTH["qwen2"])).astype(np.float32)
    limits = [3, 12, 1, 9, 14, 2, 11]
    feed = qwen2.feed(vectors)
    engine = Captured(
        qwen2.model,
        qwen2.ending,
        shared=feed.shared,
        tail=feed.embeddings.shape[1] - feed.shared,
        most=max(limits),
        slots=2,
    )
    said = engine.run(lambda part: qwen2.feed(vectors[part.start : part.stop]), limits)
    engine.close()
    whole = ids_of(qwen2, vectors)
    assert [ids for ids, _ in said] == [ids[:limit] for ids, limit in zip(whole, limits, strict=True)]
    assert [len(sure) for _, sure in said] == [len(ids) for ids, _ in said]
    # Two slots, fifty-two tokens: no slot was idle but at the end.
    assert sum(len(ids) for ids, _ in said) / 2 <= engine.steps < sum(len(ids) for ids, _ in said) / 2 + max(limits)


def test_the_model_is_as_it_was_afterwards(case: tuple[Verbalizer, NDArray[np.float32]]) -> None:
    verbalizer, vectors = case
    assert verbalizer._engine is not None
    before = next_logits(verbalizer, vectors)
    verbalizer.verbalize(vectors, max_new_tokens=2)
    assert text_stack(verbalizer.model).config._attn_implementation != NAME  # type: ignore[union-attr]
    assert torch.equal(next_logits(verbalizer, vectors), before)
    assert not any(block._forward_hooks for block in decoder_blocks(verbalizer.model))
    verbalizer._engine.close()
    assert not any(hasattr(module, "slot_tables") for module, _ in attention_of(verbalizer.model))


def test_what_watches_the_modules_meets_the_loop(qwen2: Verbalizer) -> None:
    met = fed(qwen2, np.ones((2, WIDTH["qwen2"]), np.float32))
    assert met.refusal is None and met.logits is not None
    assert met.entering[0].shape == (2, len(qwen2.prompt.ids), WIDTH["qwen2"])


def test_engines_are_chosen_by_word_and_say_why(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "av", "qwen2")
    assert Verbalizer(folder).engine.startswith("engine: loop, as auto takes")
    assert Verbalizer(folder).together == engines.TOGETHER["loop"]
    assert Verbalizer(folder, engine="captured").engine == "engine: captured, on cpu"
    assert Verbalizer(folder, engine="captured").together == engines.TOGETHER["captured"]
    with pytest.raises(Refusal, match="engine 'fast': known are auto, loop, captured"):
        Verbalizer(folder, engine="fast")


def test_refuses_logits_that_are_no_numbers(qwen2: Verbalizer) -> None:
    head = qwen2.model.get_output_embeddings()

    def spoil(_module: Any, _args: Any, output: torch.Tensor) -> torch.Tensor:
        return torch.full_like(output, float("nan"))

    handle = head.register_forward_hook(spoil)
    with pytest.raises(Refusal, match="logits are not finite numbers"):
        qwen2.verbalize(np.ones((2, WIDTH["qwen2"]), np.float32), max_new_tokens=3)
    handle.remove()
    assert qwen2.verbalize(np.ones((2, WIDTH["qwen2"]), np.float32), max_new_tokens=3)


@pytest.mark.parametrize("fault", ["cap", "window", "odd"])
def test_refuses_models_whose_attention_is_another(tmp_path: Path, fault: str) -> None:
    verbalizer = Verbalizer(save_checkpoint(tmp_path / "av", "gemma3"))
    attention: Any = attention_of(verbalizer.model)[1][0]
    if fault == "cap":
        attention.attn_logit_softcapping, why = 30.0, "it caps scores"
    elif fault == "odd":
        attention.k_proj, why = torch.nn.Identity(), "its block 1 has no attention with keys in heads"
    else:
        # The model's masks are made by its configuration, the window that slots keep by the module.
        attention.sliding_window, why = 4, "its logits are others than its own"
    args = verbalizer.model, verbalizer.ending, verbalizer._rows
    with pytest.raises(Refusal, match=why):
        engines.engine_for("captured", *args)


def test_what_a_driver_raises_is_a_refusal(qwen2: Verbalizer, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("PassManager::run failed\n  at sm_90")

    class Cuda:
        device = torch.device("cuda")

    monkeypatch.setattr(engines, "_both", broken)
    engine, told = engines.engine_for("auto", qwen2.model, qwen2.ending, Cuda())  # type: ignore[arg-type]
    assert engine is None
    assert told == (
        "engine: loop, as the captured one cannot be used: the captured engine: RuntimeError: "
        "PassManager::run failed at sm_90"
    )
    with pytest.raises(Refusal, match="RuntimeError: PassManager::run failed at sm_90; use --engine loop"):
        engines.engine_for("captured", qwen2.model, qwen2.ending, Cuda())  # type: ignore[arg-type]


def test_refuses_a_hook_where_the_step_reads_the_prompt(qwen2: Verbalizer) -> None:
    feed = qwen2.feed(np.ones((1, WIDTH["qwen2"]), np.float32))
    last = feed.embeddings.shape[1] - 1
    hooked = type(feed)(
        embeddings=feed.embeddings, shared=feed.shared, hooks=(Hook(block=0, positions=(last,), change=lambda h: h),)
    )
    engine = Captured(qwen2.model, qwen2.ending, shared=feed.shared, tail=last + 1 - feed.shared, most=4, slots=1)
    with pytest.raises(Refusal, match="a hook at the last position of a prompt"):
        engine.run(lambda _rows: hooked, [4])
    engine.close()


def test_identity_does_not_depend_on_the_engine(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "av", "llama")
    loop, ours = Verbalizer(folder, engine="loop"), Verbalizer(folder, engine="captured")
    assert json.dumps(loop.identity) == json.dumps(ours.identity)
