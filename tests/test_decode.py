"""Batched decoding says what transformers says one row at a time, and refuses checkpoints that do not fit together."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from dragoman.core import Refusal, Site
from dragoman.models.choose import Sampler
from dragoman.models.decode import Verbalizer
from dragoman.verbalizers.protocol import AnyVerbalizer
from tiny_checkpoints import BLOCK, FAMILIES, WIDTH, model_of, save_adapter, save_checkpoint, sidecar_of, write_sidecar
from verbalizer_doubles import prompt_embeddings

TOKENS = 18
CLOSE = "</explanation>"


@dataclass(frozen=True)
class Case:
    """A tiny checkpoint, opened by dragoman and, apart from it, by transformers."""

    family: str
    folder: Path
    verbalizer: Verbalizer
    net: Any
    tokenizer: Any

    def vectors(self, count: int = 5, seed: int = 0) -> NDArray[np.float32]:
        return np.random.default_rng(seed).normal(size=(count, WIDTH[self.family])).astype(np.float32)

    def generate(self, vectors: NDArray[np.float32], tokens: int = TOKENS, **how: Any) -> list[list[int]]:
        """transformers' own greedy answer, one row at a time."""
        rows = prompt_embeddings(self.verbalizer, vectors).clone()
        mask = torch.ones(1, rows.shape[1], dtype=torch.long)
        how = {"do_sample": False, "max_new_tokens": tokens, "pad_token_id": 0, **how}
        with torch.no_grad():
            return [self.net.generate(inputs_embeds=row[None], attention_mask=mask, **how)[0].tolist() for row in rows]

    @cached_property
    def plainly(self) -> list[list[int]]:
        """transformers' own answer to eight vectors, of which five are the first, where nobody steps in."""
        return self.generate(self.vectors(8))

    def text(self, ids: list[int]) -> str:
        kept = ids[:-1] if ids[-1] == self.tokenizer.eos_token_id else ids
        return self.tokenizer.decode(kept, skip_special_tokens=False)


@pytest.fixture(scope="module", params=FAMILIES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    family = request.param
    folder = save_checkpoint(tmp_path_factory.mktemp(family) / "av", family)
    net = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return Case(family, folder, Verbalizer(folder), net, AutoTokenizer.from_pretrained(folder))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("one") / "av", "qwen2")


Hook = Callable[..., Any]


def follow(chain: dict[int, int], sizes: list[int] | None = None) -> Hook:
    """A forward hook under which each token of ``chain`` is surely followed by its partner; notes batch sizes."""

    def hook(_module: Any, _args: Any, kwargs: dict[str, Any], output: Any) -> Any:
        ids = kwargs.get("input_ids")
        if ids is None or ids.numel() == 0:
            return output
        if sizes is not None:
            sizes.append(len(ids))
        for row, last in enumerate(ids[:, -1].tolist()):
            if last in chain:
                output.logits[row, -1, chain[last]] = 1e4
        return output

    return hook


def common_token(said: list[list[int]]) -> int:
    """The token that most rows say, first at different steps: rows will leave at different times."""
    first: dict[int, dict[int, int]] = {}
    for row, ids in enumerate(said):
        for step, token in enumerate(ids[:-4]):
            first.setdefault(token, {}).setdefault(row, step)
    found = max(first, key=lambda t: len(set(first[t].values())))
    assert len(set(first[found].values())) >= 2, "the case must let rows leave at different steps"
    return found


def test_it_is_a_verbalizer_of_its_site(case: Case) -> None:
    assert isinstance(case.verbalizer, AnyVerbalizer)
    assert case.verbalizer.site == Site(f"tiny-random-{case.family}", BLOCK)
    assert case.verbalizer.name == str(case.folder)


def test_batched_greedy_equals_one_at_a_time_equals_generate(case: Case) -> None:
    vectors = case.vectors()
    batched = case.verbalizer.verbalize(vectors, max_new_tokens=TOKENS)
    alone = [case.verbalizer.verbalize(v[None], max_new_tokens=TOKENS)[0] for v in vectors]
    theirs = case.plainly[:5]
    assert batched == alone
    assert [e.raw for e in batched] == [case.text(ids) for ids in theirs]
    assert [e.tokens for e in batched] == [len(ids) for ids in theirs]


def log_probability(case: Case, vector: NDArray[np.float32], ids: list[int]) -> float:
    """The oracle: transformers' own forward over prompt and answer at once, without a cache."""
    rows = prompt_embeddings(case.verbalizer, vector[None]).clone()
    with torch.no_grad():
        whole = torch.cat([rows, case.net.get_input_embeddings()(torch.tensor([ids]))], dim=1)
        logits = case.net(inputs_embeds=whole, use_cache=False).logits[0, rows.shape[1] - 1 : -1]
    said = torch.log_softmax(logits.double(), dim=-1)[torch.arange(len(ids)), torch.tensor(ids)]
    return float(said.mean())


@pytest.mark.parametrize("temperature", [0.0, 0.8, 1.7])
def test_the_log_probability_is_that_of_one_forward_at_temperature_1_whatever_it_was_drawn_at(
    case: Case, temperature: float
) -> None:
    vectors = case.vectors(4)
    drawn: list[list[int]] = []
    plain = case.verbalizer._explanation
    case.verbalizer._explanation = lambda ids, sure: (drawn.append(ids), plain(ids, sure))[1]  # type: ignore[method-assign]
    try:
        ours = case.verbalizer.verbalize(vectors, temperature=temperature, seed=5, max_new_tokens=10)
    finally:
        del case.verbalizer._explanation
    theirs = [log_probability(case, vector, ids) for vector, ids in zip(vectors, drawn, strict=True)]
    assert [e.log_probability for e in ours] == pytest.approx(theirs, abs=2e-4)
    assert max(theirs) - min(theirs) > 0.01
    alone = [case.verbalizer.verbalize(v[None], temperature=temperature, seed=5, max_new_tokens=10)[0] for v in vectors]
    assert [e.log_probability for e in alone] == pytest.approx([e.log_probability for e in ours], abs=2e-4)


def test_the_token_that_ends_the_text_counts_and_rows_that_left_count_no_more(case: Case) -> None:
    vectors = case.vectors(8)
    eos = case.tokenizer.eos_token_id
    theirs = case.plainly
    start = common_token(theirs)
    chain = {start: eos}
    handle = case.verbalizer.model.register_forward_hook(follow(chain), with_kwargs=True)
    ours = case.verbalizer.verbalize(vectors, max_new_tokens=TOKENS)
    handle.remove()
    assert len({e.tokens for e in ours}) >= 2
    for vector, ids, said in zip(vectors, theirs, ours, strict=True):
        sure = ids[said.tokens - 2] == start  # then the end was planted, of log-probability 0
        before = ids[: said.tokens - sure]
        assert said.log_probability == pytest.approx(
            log_probability(case, vector, before) * len(before) / said.tokens, abs=2e-4
        )


def test_rows_leave_when_they_close_the_tag_and_the_others_go_on_unchanged(case: Case) -> None:
    vectors = case.vectors(8)
    start = common_token(case.plainly)
    tag = case.tokenizer.encode(CLOSE, add_special_tokens=False)
    assert len(tag) > 1, "the tag is spread over tokens"
    sizes: list[int] = []
    chain = dict(pairwise([start, *tag]))
    handles = [
        case.verbalizer.model.register_forward_hook(follow(chain, sizes), with_kwargs=True),
        case.net.register_forward_hook(follow(chain), with_kwargs=True),
    ]
    ours = case.verbalizer.verbalize(vectors, max_new_tokens=TOKENS)
    theirs = case.generate(vectors, stop_strings=[CLOSE], tokenizer=case.tokenizer)
    for handle in handles:
        handle.remove()
    assert [e.raw for e in ours] == [case.text(ids) for ids in theirs]
    closed = [e for e in ours if "no closing tag" not in e.problems]
    assert all(e.raw.endswith(CLOSE) and CLOSE not in e.text for e in closed)
    assert len({e.tokens for e in closed}) >= 2
    assert sizes == sorted(sizes, reverse=True) and len(set(sizes)) >= 2, "the batch shrinks"


def test_rows_leave_at_the_end_of_text_token(case: Case) -> None:
    vectors = case.vectors(8)
    eos = case.tokenizer.eos_token_id
    chain = {common_token(case.plainly): eos}
    handles = [n.register_forward_hook(follow(chain), with_kwargs=True) for n in (case.verbalizer.model, case.net)]
    ours = case.verbalizer.verbalize(vectors, max_new_tokens=TOKENS)
    theirs = case.generate(vectors)
    for handle in handles:
        handle.remove()
    assert [e.raw for e in ours] == [case.text(ids) for ids in theirs]
    assert [e.tokens for e in ours] == [len(ids) for ids in theirs]
    assert len({e.tokens for e in ours}) >= 2
    assert not any(case.tokenizer.eos_token in e.raw for e in ours)


def test_rows_leave_at_the_end_of_a_turn_although_a_base_model_names_only_the_end_of_a_document(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "av", "gemma3")
    for name, ends in (("config.json", 1), ("generation_config.json", 1), ("tokenizer_config.json", "<eos>")):
        settings = json.loads((folder / name).read_text())
        settings["eos_token" if name.startswith("tokenizer") else "eos_token_id"] = ends
        (folder / name).write_text(json.dumps(settings))
    verbalizer = Verbalizer(folder)
    turn = AutoTokenizer.from_pretrained(folder).convert_tokens_to_ids("<end_of_turn>")
    after_anything: dict[int, int] = dict.fromkeys(range(600), int(turn))
    handle = verbalizer.model.register_forward_hook(follow(after_anything), with_kwargs=True)
    said = verbalizer.verbalize(np.ones((1, WIDTH["gemma3"]), np.float32), max_new_tokens=8)
    handle.remove()
    assert said[0].tokens == 2 and "<end_of_turn>" not in said[0].raw


def test_the_words_depend_on_direction_and_sign_but_not_on_magnitude(case: Case) -> None:
    vectors = case.vectors()
    said = [e.raw for e in case.verbalizer.verbalize(vectors, max_new_tokens=16)]
    assert len(set(said)) == len(said)
    turned = [e.raw for e in case.verbalizer.verbalize(-vectors, max_new_tokens=16)]
    assert all(a != b for a, b in zip(said, turned, strict=True))
    scaled = [e.raw for e in case.verbalizer.verbalize(vectors * np.float32(1024), max_new_tokens=16)]
    assert scaled == said


def test_a_sample_depends_on_seed_and_vector_alone(case: Case) -> None:
    vectors = case.vectors(4)

    def sample(rows: NDArray[np.float32], seed: int = 3) -> list[str]:
        return [e.raw for e in case.verbalizer.verbalize(rows, temperature=0.8, seed=seed, max_new_tokens=8)]

    together = sample(vectors)
    assert sample(vectors) == together
    assert [sample(v[None])[0] for v in vectors] == together
    assert sample(vectors[::-1]) == together[::-1]
    assert all(a != b for a, b in zip(together, sample(vectors, seed=4), strict=True))


def test_a_cooler_sample_comes_close_to_greedy(case: Case) -> None:
    vectors = case.vectors(3)
    cold = case.verbalizer.verbalize(vectors, temperature=1e-3, max_new_tokens=8)
    assert cold == case.verbalizer.verbalize(vectors, max_new_tokens=8)


def test_samples_follow_the_softmax_at_the_temperature() -> None:
    logits = torch.tensor([1.0, -2.0, 0.5, -30.0, 2.0])
    rows = np.random.default_rng(0).normal(size=(400, 3)).astype(np.float32)
    sampler = Sampler(rows, 0.7, 0, 50)
    alive = list(range(400))
    drawn = torch.stack([sampler(logits.expand(400, -1), alive, step) for step in range(50)])
    share = torch.bincount(drawn.flatten(), minlength=5) / drawn.numel()
    want = torch.softmax(logits / 0.7, dim=0)
    # Four standard errors of a share of 20,000 independent draws.
    assert (share - want).abs().le(4 * (want * (1 - want) / drawn.numel()).sqrt() + 1e-9).all()


def test_a_token_without_weight_is_never_drawn() -> None:
    rows = np.random.default_rng(1).normal(size=(500, 3)).astype(np.float32)
    sampler = Sampler(rows, 1.0, 0, 4)
    sampler._uniform[:, 0], sampler._uniform[:, 1] = 0.0, 1.0 - 1e-12
    logits = torch.tensor([-1e9, 0.0, 0.0, -1e9]).expand(500, -1)
    drawn = {int(t) for step in range(4) for t in sampler(logits, list(range(500)), step)}
    assert drawn == {1, 2}


def test_no_vectors_give_no_words(case: Case) -> None:
    assert case.verbalizer.verbalize(np.zeros((0, WIDTH[case.family]), np.float32)) == []


def test_bfloat16_decodes_and_says_so_in_its_identity(case: Case) -> None:
    half = Verbalizer(case.folder, dtype="bfloat16")
    said = half.verbalize(case.vectors(2), max_new_tokens=4)
    assert all(1 <= e.tokens <= 4 for e in said)
    assert (half.identity["dtype"], case.verbalizer.identity["dtype"]) == ("bfloat16", "float32")


def test_identity_names_what_decides_the_words(folder: Path, tmp_path: Path) -> None:
    identity = Verbalizer(folder).identity
    assert identity["contract"] == "kitft" and identity["injection_scale"] == 1.5
    assert identity["base"] == "tiny-random-qwen2" and set(identity["weights"]) == {"model.safetensors"}
    json.dumps(identity)
    other = Path(shutil.copytree(folder, tmp_path / "other"))
    save_checkpoint(other, "qwen2", model=model_of("qwen2", seed=5))
    changed = Verbalizer(other).identity
    assert changed["weights"] != identity["weights"]
    assert changed["sidecar"] == identity["sidecar"] and changed["prompt"] == identity["prompt"]


@pytest.mark.parametrize("family", FAMILIES)
def test_an_adapter_says_what_its_merged_model_says(tmp_path: Path, family: str) -> None:
    base = save_checkpoint(tmp_path / "base", family)
    (base / "chat_template.jinja").unlink()  # the base has none, the adapter's folder brings it
    adapter = save_adapter(tmp_path / "adapter", family, base)
    tensors, update = (load_file(base / "model.safetensors"), load_file(adapter / "adapter_model.safetensors"))
    changed = 0
    for name, first in update.items():
        if ".lora_A." not in name:
            continue
        second = update[name.replace(".lora_A.", ".lora_B.")]
        target = name.removeprefix("base_model.model.").replace(".lora_A.weight", ".weight")
        tensors[target] = tensors[target] + 2.0 * second @ first  # lora_alpha / r = 2
        changed += 1
    assert changed == 28
    merged = save_checkpoint(tmp_path / "merged", family)
    save_file(tensors, merged / "model.safetensors", metadata={"format": "pt"})

    vectors = np.random.default_rng(2).normal(size=(3, WIDTH[family])).astype(np.float32)
    ours = Verbalizer(adapter)
    said = ours.verbalize(vectors, max_new_tokens=TOKENS)
    assert said == Verbalizer(merged).verbalize(vectors, max_new_tokens=TOKENS)
    plain = Verbalizer(save_checkpoint(tmp_path / "plain", family)).verbalize(vectors, max_new_tokens=TOKENS)
    assert all(a.raw != b.raw for a, b in zip(said, plain, strict=True))
    assert ours.site == Site(str(base), BLOCK)
    assert set(ours.identity["weights"]) == {"adapter_model.safetensors"}
    assert set(ours.identity["base_weights"]) == {"model.safetensors"}


def test_the_base_of_an_adapter_can_be_named_or_found_in_its_own_settings(tmp_path: Path, folder: Path) -> None:
    adapter = save_adapter(tmp_path / "adapter", "qwen2", folder)
    by_sidecar = Verbalizer(adapter)
    sidecar = sidecar_of("qwen2")
    write_sidecar(adapter, {**sidecar, "base_checkpoint": None})
    assert Verbalizer(adapter).identity["base"] == str(folder)
    write_sidecar(adapter, {**sidecar, "base_checkpoint": "org/public-name"})
    named = Verbalizer(adapter, base=str(folder))
    assert named.site.model == "org/public-name"
    vectors = np.random.default_rng(0).normal(size=(2, WIDTH["qwen2"])).astype(np.float32)
    assert named.verbalize(vectors, max_new_tokens=6) == by_sidecar.verbalize(vectors, max_new_tokens=6)


def test_refuses_a_checkpoint_that_names_no_base(tmp_path: Path) -> None:
    bare = save_checkpoint(tmp_path / "av", "qwen2", sidecar={**sidecar_of("qwen2"), "base_checkpoint": None})
    with pytest.raises(Refusal, match="neither sidecar nor adapter names the model"):
        Verbalizer(bare)


def test_refuses_an_adapter_whose_base_has_another_width(tmp_path: Path, folder: Path) -> None:
    adapter = save_adapter(tmp_path / "adapter", "qwen2", folder)
    llama = save_checkpoint(tmp_path / "llama", "llama")
    with pytest.raises(Refusal, match=r"its sidecar says width 48, its base .*llama has width 32"):
        Verbalizer(adapter, base=str(llama))


def test_refuses_an_adapter_that_fits_its_base_only_in_part(tmp_path: Path, folder: Path) -> None:
    adapter = save_adapter(tmp_path / "adapter", "qwen2", folder)
    weights = load_file(adapter / "adapter_model.safetensors")
    dropped = sorted(weights)[:2]
    save_file({k: v for k, v in weights.items() if k not in dropped}, adapter / "adapter_model.safetensors")
    with pytest.raises(Refusal, match="2 of its adapter's tensors are missing and 0 have no place"):
        Verbalizer(adapter)


def test_refuses_an_adapter_of_other_shapes(tmp_path: Path, folder: Path) -> None:
    adapter = save_adapter(tmp_path / "adapter", "qwen2", folder)
    settings = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(settings | {"r": 3}))
    with pytest.raises(Refusal, match="its adapter does not fit the base model"):
        Verbalizer(adapter)


def test_refuses_an_adapter_that_is_not_lora(tmp_path: Path, folder: Path) -> None:
    adapter = save_adapter(tmp_path / "adapter", "qwen2", folder)
    settings = {"peft_type": "IA3", "target_modules": ["k_proj"], "feedforward_modules": [], "task_type": "CAUSAL_LM"}
    (adapter / "adapter_config.json").write_text(json.dumps(settings))
    with pytest.raises(Refusal, match="its adapter is of type .*IA3, not LoRA"):
        Verbalizer(adapter)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("adapter_model.safetensors", r"holds no adapter_model\.safetensors"),
        ("nla_meta.yaml", r"holds no nla_meta\.yaml"),
    ],
)
def test_refuses_an_adapter_folder_with_a_file_missing(tmp_path: Path, folder: Path, name: str, sentence: str) -> None:
    adapter = save_adapter(tmp_path / "adapter", "qwen2", folder)
    (adapter / name).unlink()
    with pytest.raises(Refusal, match=sentence):
        Verbalizer(adapter)


def test_refuses_a_checkpoint_without_weights(tmp_path: Path, folder: Path) -> None:
    bare = Path(shutil.copytree(folder, tmp_path / "bare"))
    (bare / "model.safetensors").unlink()
    with pytest.raises(Refusal, match=r"the folder holds no \*\.safetensors weights"):
        Verbalizer(bare)


def test_refuses_a_full_checkpoint_of_another_width(tmp_path: Path) -> None:
    other = save_checkpoint(tmp_path / "av", "qwen2", sidecar={**sidecar_of("qwen2"), "d_model": 64})
    with pytest.raises(Refusal, match="its sidecar says width 64, the model has width 48"):
        Verbalizer(other)


def test_refuses_a_block_the_model_does_not_have(tmp_path: Path) -> None:
    other = save_checkpoint(tmp_path / "av", "qwen2", sidecar={**sidecar_of("qwen2"), "extraction_layer_index": 9})
    with pytest.raises(Refusal, match="the model has blocks 0 to 3"):
        Verbalizer(other)


def test_refuses_an_unknown_dtype(folder: Path) -> None:
    with pytest.raises(Refusal, match="dtype 'int8'"):
        Verbalizer(folder, dtype="int8")


def test_refuses_float16_where_the_norm_would_overflow(tmp_path: Path, folder: Path) -> None:
    loud = sidecar_of("qwen2") | {"extraction": {"injection_scale": 80000}}
    with pytest.raises(Refusal, match="injected at norm 80000, and float16 ends at 65504"):
        Verbalizer(save_checkpoint(tmp_path / "av", "qwen2", sidecar=loud), dtype="float16")
    assert Verbalizer(folder, dtype="float16").identity["dtype"] == "float16"


def test_refuses_to_say_nothing_or_at_no_temperature(case: Case) -> None:
    with pytest.raises(Refusal, match="max_new_tokens 0"):
        case.verbalizer.verbalize(case.vectors(1), max_new_tokens=0)
    for temperature in (-1.0, float("nan"), float("inf")):
        with pytest.raises(Refusal, match=f"temperature {temperature:g}"):
            case.verbalizer.verbalize(case.vectors(1), temperature=temperature)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_refuses_logits_that_are_not_numbers(tmp_path: Path, temperature: float) -> None:
    broken = Verbalizer(save_checkpoint(tmp_path / "av", "qwen2"))
    # Not stored so (such weights are refused when they are opened): as where half precision overflows on the way.
    broken.model.model.norm.weight.fill_(float("nan"))
    with pytest.raises(Refusal, match="logits are not finite numbers"):
        broken.verbalize(np.ones((1, WIDTH["qwen2"]), np.float32), temperature=temperature)
