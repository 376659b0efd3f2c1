"""Norm-matched add is done while the prompt is read, at the marker, in one block; and nothing of it stays behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from dragoman.core import Refusal
from dragoman.models.contracts.base import Feed, Hook
from dragoman.models.decode import LocalVerbalizer
from dragoman.models.load import decoder_blocks
from plain_reading import Plain
from tiny_checkpoints import WIDTH, dataset_sidecar_of, save_adapter, save_checkpoint

FAMILIES = ("qwen2", "gemma3_wrapped")


@pytest.fixture(scope="module", params=FAMILIES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[LocalVerbalizer, Plain]:
    family = request.param
    folder = tmp_path_factory.mktemp(family) / "av"
    save_checkpoint(folder, family, sidecar=dataset_sidecar_of(family))
    return LocalVerbalizer(folder, contract="karvonen"), Plain.open(family, folder)


def vectors_for(plain: Plain, count: int = 3) -> NDArray[np.float32]:
    return np.random.default_rng(3).normal(size=(count, WIDTH[plain.family])).astype(np.float32)


def hooks(verbalizer: LocalVerbalizer) -> int:
    return sum(len(block._forward_hooks) for block in decoder_blocks(verbalizer._net))


def test_the_hook_is_there_for_the_rest_of_the_prompt_and_for_nothing_else(case: tuple[LocalVerbalizer, Plain]) -> None:
    ours, plain = case
    seen: list[tuple[int, int]] = []

    def note(_module: Any, _args: Any, kwargs: dict[str, Any]) -> None:
        given = kwargs.get("inputs_embeds", kwargs.get("input_ids"))
        seen.append((given.shape[1], hooks(ours)))

    handle = ours._net.register_forward_pre_hook(note, with_kwargs=True)
    ours.verbalize(vectors_for(plain), max_new_tokens=4)
    handle.remove()
    before, behind = plain.slot, len(plain.ids) - plain.slot
    assert seen == [(before, 0), (behind, 1), (1, 0), (1, 0), (1, 0)]
    assert hooks(ours) == 0


def test_only_the_marker_is_changed_and_only_at_block_one(case: tuple[LocalVerbalizer, Plain]) -> None:
    ours, plain = case
    vector = vectors_for(plain, 1)
    kept: dict[int, torch.Tensor] = {}

    def keep(at: int) -> Any:
        def hook(_module: Any, args: Any, kwargs: dict[str, Any]) -> None:
            kept[at] = (args[0] if args else kwargs["hidden_states"]).clone()

        return hook

    def inputs(with_vector: bool) -> dict[int, torch.Tensor]:
        kept.clear()
        blocks = decoder_blocks(ours._net)
        handles = [blocks[k].register_forward_pre_hook(keep(k), with_kwargs=True) for k in (1, 2)]
        with torch.no_grad():
            if with_vector:
                ours.next_logits(vector)
            else:
                ours._net(input_ids=torch.tensor([plain.ids]), use_cache=False)
        for handle in handles:
            handle.remove()
        return dict(kept)

    bare, fed = inputs(False), inputs(True)
    behind = {k: x[:, plain.slot :] for k, x in bare.items()}
    torch.testing.assert_close(fed[1], behind[1], rtol=1e-4, atol=1e-4)  # what enters block 1 is the bare prompt
    change = (fed[2] - behind[2])[0].norm(dim=-1)
    assert change[0] == pytest.approx(float(behind[2][0, 0].norm()), rel=1e-3), "by the output's own norm"
    assert (change[1:] < 1e-3 * change[0]).all()
    cosine = torch.nn.functional.cosine_similarity((fed[2] - behind[2])[0, 0], torch.tensor(vector[0]), dim=0)
    assert cosine == pytest.approx(1.0, abs=1e-4)


def test_decoding_follows_the_loop_that_hooks_the_prompt_and_not_the_one_that_hooks_every_step(
    case: tuple[LocalVerbalizer, Plain],
) -> None:
    ours, plain = case
    vector = vectors_for(plain, 1)
    steps: list[torch.Tensor] = []
    handle = ours._net.register_forward_hook(lambda _m, _a, out: steps.append(out.logits[0, -1].clone()))
    ours.verbalize(vector, max_new_tokens=6)
    handle.remove()
    got = torch.stack(steps[1:])  # the first call reads what stands before the marker
    right = torch.stack(plain.karvonen_steps(vector[0], len(got)))
    wrong = torch.stack(plain.karvonen_steps(vector[0], len(got), always=True))
    torch.testing.assert_close(got, right, rtol=1e-3, atol=1e-3)
    assert (got[1:] - wrong[1:]).abs().max() > 0.1


def test_an_error_while_the_prompt_is_read_leaves_no_hook_behind(case: tuple[LocalVerbalizer, Plain]) -> None:
    ours, plain = case
    vectors = vectors_for(plain)
    before = ours.verbalize(vectors, max_new_tokens=4)

    def fail(_module: Any, _args: Any, _output: Any) -> None:
        if hooks(ours) > 1:  # its own and the contract's: in the hooked part of the prompt
            raise RuntimeError("planted")

    handle = decoder_blocks(ours._net)[-1].register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="planted"):
        ours.verbalize(vectors, max_new_tokens=4)
    handle.remove()
    assert hooks(ours) == 0
    assert ours.verbalize(vectors, max_new_tokens=4) == before


def test_sign_matters_and_magnitude_does_not(case: tuple[LocalVerbalizer, Plain]) -> None:
    ours, plain = case
    vectors = vectors_for(plain)
    logits = ours.next_logits(vectors)
    assert torch.allclose(ours.next_logits(vectors * np.float32(1e4)), logits, atol=2e-4)
    assert (ours.next_logits(-vectors) - logits).abs().max() > 0.01


def test_another_block_can_be_named_and_one_that_is_not_there_is_refused(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "av", "qwen2", sidecar=dataset_sidecar_of("qwen2"))
    vectors = np.random.default_rng(3).normal(size=(1, WIDTH["qwen2"])).astype(np.float32)
    usual = LocalVerbalizer(folder, contract="karvonen")
    later = LocalVerbalizer(folder, contract="karvonen", settings={"hook_block": 2})
    assert (usual.next_logits(vectors) - later.next_logits(vectors)).abs().max() > 0.01
    assert (usual.identity["hook_block"], later.identity["hook_block"]) == (1, 2)
    with pytest.raises(Refusal, match="a hook at block 4: the model has blocks 0 to 3"):
        LocalVerbalizer(folder, contract="karvonen", settings={"hook_block": 4})


def test_adapters_on_adapters_are_all_merged_and_the_uppermost_brings_the_template(tmp_path: Path) -> None:
    # An RL stage is often published on top of the adapter of the stage before it.
    base = save_checkpoint(tmp_path / "base", "qwen3")
    said = dataset_sidecar_of("qwen3")
    first = save_adapter(tmp_path / "sft", "qwen3", base, rslora=True, sidecar=said)
    second = save_adapter(tmp_path / "rl", "qwen3", base, seed=5, sidecar=said)
    (first / "chat_template.jinja").write_text("not this one: {{ messages[0]['content'] }} .")
    ours = LocalVerbalizer(second, contract="karvonen", base=str(first))
    plain = Plain.open("qwen3", base, first, second)
    vector = vectors_for(plain, 1)
    got, want = ours.next_logits(vector)[0], plain.karvonen_logits(vector[0])
    torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-3 * float(want.abs().max()))
    assert set(ours.identity["root_weights"]) == {"model.safetensors"}
    assert set(ours.identity["base_weights"]) == {"adapter_model.safetensors"}


def test_an_adapter_that_also_touched_the_vision_tower_is_read_whatever_its_names_there(tmp_path: Path) -> None:
    base = save_checkpoint(tmp_path / "base", "gemma3_wrapped")
    said = dataset_sidecar_of("gemma3_wrapped")
    adapter = save_adapter(tmp_path / "adapter", "gemma3_wrapped", base, sidecar=said)
    vector = np.random.default_rng(0).normal(size=(1, WIDTH["gemma3_wrapped"])).astype(np.float32)
    want = LocalVerbalizer(adapter, contract="karvonen", base=str(base)).next_logits(vector)
    tensors = load_file(adapter / "adapter_model.safetensors")
    older = {k.replace("vision_tower.", "vision_tower.vision_model."): v for k, v in tensors.items()}
    assert older.keys() != tensors.keys()
    save_file(older, adapter / "adapter_model.safetensors")
    assert torch.equal(LocalVerbalizer(adapter, contract="karvonen", base=str(base)).next_logits(vector), want)


def test_a_hook_among_the_shared_positions_is_refused() -> None:
    rows = torch.zeros(2, 5, 3)
    for position in (1, 5):
        hook = Hook(block=1, positions=(position,), change=lambda h: h)
        with pytest.raises(Refusal, match="rows share the first 2 of 5 positions"):
            Feed(embeddings=rows, hooks=(hook,), shared=2)
