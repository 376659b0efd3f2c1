"""The lens against the model itself: families, tied and untied, wrapped; words; what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

import tiny_checkpoints
from dragoman.core import Refusal
from dragoman.models import lens as room
from dragoman.models.lens import Lens, LensPair, norm_kind, shared_words
from dragoman.models.load import is_adapter

WIDTH = 24
SMALL: dict[str, dict[str, Any]] = {
    "llama": {"num_key_value_heads": 2},
    "qwen2": {"num_key_value_heads": 2, "tie_word_embeddings": True},
    "gemma3_text": {"num_key_value_heads": 2, "head_dim": 6},
    "cohere2": {"num_key_value_heads": 2},
    "gpt_neox": {},
    "gpt2": {},
    "phi": {},
}


def net_of(family: str, *, seed: int = 0) -> Any:
    """A random model whose norms are far from the ones they start as."""
    if family == "gemma3_wrapped":
        net = tiny_checkpoints.model_of(family)
    else:
        size = len(tokenizer_for(family))
        shape = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 32}
        if family == "gpt2":
            shape = {"n_embd": WIDTH, "n_layer": 2, "n_head": 4}
        ends = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
        config = AutoConfig.for_model(family, vocab_size=size, **shape, **ends, **SMALL[family])
        net = AutoModelForCausalLM.from_config(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in net.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) * 0.5)
    return net.eval()


def saved(folder: Path, family: str, net: Any = None, **how: Any) -> Path:
    (net_of(family) if net is None else net).save_pretrained(folder, **how)
    tokenizer_for(family).save_pretrained(folder)
    return folder


def tokenizer_for(family: str) -> PreTrainedTokenizerFast:
    return tiny_checkpoints.tokenizer_of("gemma3" if family.startswith("gemma3") else "llama")


def end_of(net: Any) -> tuple[torch.nn.Module, torch.nn.Module]:
    """A model's final norm and output layer, as modules."""
    (name,) = [n for n, _ in net.named_parameters() if room._NORM.match(n)]
    return net.get_submodule(name.removesuffix(".weight")), net.get_output_embeddings()


def slopes_of(net: Any, direction: np.ndarray) -> tuple[np.ndarray, float]:
    """How all logits rise along a direction, from places as far on either side of one orthogonal to it, so that the
    norm divides by the same number on both; and that number."""
    norm, head = end_of(net)
    d = torch.from_numpy(direction)
    centred = d - d.mean() if "LayerNorm" in type(norm).__name__ else d
    x = torch.randn(len(d), generator=torch.Generator().manual_seed(3))
    x = x - x @ centred / (centred @ centred) * centred
    both = torch.stack([x + d, x - d])
    spread = both - both.mean(dim=1, keepdim=True) if centred is not d else both
    size = spread.pow(2).mean(dim=1).sqrt()
    assert size[0] == pytest.approx(size[1])
    with torch.no_grad():
        logits = head(norm(both))
    return ((logits[0] - logits[1]) / 2).numpy(), float(size[0])


@pytest.mark.parametrize("family", [*SMALL, "gemma3_wrapped"])
def test_scores_are_the_derivative_of_the_models_own_logits(family, tmp_path):
    net = net_of(family)
    lens = Lens.open(saved(tmp_path, family, net))
    rows = np.random.default_rng(0).normal(size=(3, lens.d_model)).astype(np.float32)
    ids = tokenizer_for(family).get_vocab()
    mark = "▁" if family.startswith("gemma3") else "Ġ"
    assert len(lens.words) > 20
    for row, scores in zip(rows, lens.scores(rows), strict=True):
        slopes, size = slopes_of(net, row)
        for word, score in zip(lens.words, scores, strict=True):
            own = [n for piece, n in ids.items() if piece.startswith(mark) and piece[1:].lower() == word]
            assert score / size == pytest.approx(slopes[own].max(), rel=1e-4, abs=1e-4 * float(np.abs(slopes).max()))


def meta_of(family: str) -> Any:
    """One block of a family as transformers builds it, without numbers."""
    config: Any = AutoConfig.for_model(family)
    for name in ("num_hidden_layers", "n_layer", "n_layers"):
        if hasattr(config, name):
            setattr(config, name, 1)
    for name in ("layer_types", "mlp_layer_types", "attention_types"):
        if getattr(config, name, None):
            setattr(config, name, getattr(config, name)[:1])
    if family in ("ministral", "hunyuan_v1_dense"):
        config.head_dim = 64  # which these leave open
    with torch.device("meta"):
        if family.endswith("_vl_text"):  # inside a wrapper only
            return getattr(transformers, type(config).__name__.replace("Config", "Model"))(config)
        return AutoModelForCausalLM.from_config(config)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", sorted(room._KINDS))
def test_every_family_scales_as_transformers_does(family):
    net = meta_of(family)
    names = [n for n, _ in net.named_parameters()]
    (name,) = [n for n in names if room._NORM.match(n)]
    assert len([n for n in names if room._TABLE.match(n)]) == 1
    norm = net.get_submodule(name.removesuffix(".weight")).to_empty(device="cpu")
    torch.manual_seed(0)
    with torch.no_grad():
        for part in norm.parameters():
            part.copy_(torch.rand_like(part) + 0.5)
        x = torch.randn(3, len(norm.weight)) + 1
        bias = getattr(norm, "bias", None)
        given = norm(x) - (0 if bias is None else bias)
        if norm_kind(family) == "layer":
            x = x - x.mean(dim=1, keepdim=True)
        scale = norm.weight + 1 if norm_kind(family) == "one plus" else norm.weight
        torch.testing.assert_close(given, x / x.pow(2).mean(dim=1, keepdim=True).sqrt() * scale, rtol=1e-3, atol=1e-3)


def lens_of(words: dict[str, list[list[float]]], *, centred: bool = False) -> Lens:
    """A lens made by hand: word -> rows of its tokens."""
    names = sorted(words)
    counts = np.array([len(words[w]) for w in names])
    rows = torch.tensor([row for w in names for row in words[w]], dtype=torch.float32)
    starts = np.cumsum(counts) - counts
    return Lens(ref="by hand", words=tuple(names), rows=rows, starts=starts, centred=centred)


def test_a_word_takes_the_larger_score_of_its_tokens():
    lens = lens_of({"paris": [[1.0, 0.0], [0.0, 2.0], [-1.0, -1.0]], "the": [[0.5, 0.5]]})
    rows = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]])
    np.testing.assert_allclose(lens.scores(rows), [[1.0, 0.5], [2.0, 0.5], [2.0, -1.0]])
    assert lens.top(rows, 1) == [("paris",)] * 3
    assert lens.top(rows, 5)[0] == ("paris", "the")
    assert lens.top(rows[:0]) == [] and lens.scores(rows[:0]).shape == (0, 2)


def test_a_layer_norm_takes_the_mean_of_a_row_off():
    lens = lens_of({"one": [[1.0, 0.0]], "two": [[0.0, 1.0]]}, centred=True)
    np.testing.assert_allclose(lens.scores(np.array([[3.0, 1.0]])), [[1.0, -1.0]])


def test_lists_among_given_words_and_words_that_two_share():
    first = lens_of({"cat": [[1.0, 0.0]], "dog": [[0.9, 0.0], [0.0, 3.0]], "tree": [[0.0, 1.0]]})
    second = lens_of({"dog": [[1.0, 0.0]], "house": [[5.0, 5.0]], "tree": [[0.0, 1.0]]})
    assert shared_words(first, second) == ("dog", "tree")
    assert first.top(np.array([[0.0, 1.0]]), 2, among=("tree", "cat")) == [("tree", "cat")]
    some = first.only(("dog", "tree"))
    assert some.words == ("dog", "tree") and some.starts.tolist() == [0, 2] and some.rows.shape == (3, 2)
    np.testing.assert_array_equal(some.scores(np.eye(2)), first.scores(np.eye(2))[:, 1:])
    with pytest.raises(Refusal, match="none of the 1 words"):
        first.only(("house",))
    with pytest.raises(Refusal, match="share 2 words"):
        LensPair.of(first, second)
    pair = LensPair(source=first.only(("dog", "tree")), target=second.only(("dog", "tree")))
    assert pair.shared(np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([[1.0, 0.0], [1.0, 0.0]]), 1).tolist() == [1, 1]


def test_blocks_change_nothing(tmp_path, monkeypatch):
    folder = saved(tmp_path, "llama")
    whole = Lens.open(folder)
    rows = np.random.default_rng(1).normal(size=(7, WIDTH))
    expected, top = whole.scores(rows), whole.top(rows, 3)
    monkeypatch.setattr(room, "_BLOCK", 3)
    monkeypatch.setattr(room, "_ROWS", 2)
    again = Lens.open(folder)
    torch.testing.assert_close(again.rows, whole.rows, rtol=0, atol=0)
    np.testing.assert_allclose(again.scores(rows), expected, rtol=1e-5, atol=1e-6)
    assert again.top(rows, 3) == top


def test_shards_give_what_one_file_gives(tmp_path):
    net = net_of("llama")
    whole = Lens.open(saved(tmp_path / "one", "llama", net))
    parts = saved(tmp_path / "parts", "llama", net, max_shard_size="20KB")
    assert len(list(parts.glob("*.safetensors"))) > 1
    torch.testing.assert_close(Lens.open(parts).rows, whole.rows, rtol=0, atol=0)


def fast(vocabulary: list[str]) -> PreTrainedTokenizerFast:
    pieces = {piece: n for n, piece in enumerate(vocabulary)}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE(pieces, [])))


def test_words_begin_with_a_space_and_are_of_letters():
    # "Ã©" is é in bytes, "ÐĴÐ" one and a half characters, "²" no letter though its lower case is itself.
    tokenizer = fast(["ĠThe", "Ġthe", "Ġof", "the", "ĠcafÃ©", "ĠÐĴÐ", "Ġdon't", "ĠÐ²Ð¾Ð´Ð°", "Ġ123", "ĠTHE", "Ġbeyond"])
    ids, words, starts = room._vocabulary(tokenizer, 10, "a model")
    assert words == ("café", "the", "вода")
    assert ids == [4, 0, 1, 9, 7] and starts.tolist() == [0, 1, 4]
    ids, words, starts = room._vocabulary(fast(["▁Stra", "▁Straße", "▁été", "▁▁to", "▁a"]), 5, "a model")
    assert (ids, words) == ([0, 1, 2], ("stra", "straße", "été"))
    with pytest.raises(Refusal, match="no token of its vocabulary is a word"):
        room._vocabulary(fast(["the", "##ing"]), 2, "a model")


def changed(folder: Path, **settings: Any) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))
    return folder


def test_what_would_give_other_words_is_refused(tmp_path):
    folder = saved(tmp_path, "llama")
    plain = (folder / "config.json").read_text()
    with pytest.raises(Refusal, match="quantised"):
        Lens.open(changed(folder, quantization_config={"quant_method": "fp8"}))
    (folder / "config.json").write_text(plain)
    with pytest.raises(Refusal, match="how the final norm of nemotron models scales is not known"):
        Lens.open(changed(folder, model_type="nemotron"))
    (folder / "config.json").write_text(plain)
    weights = load_file(folder / "model.safetensors")
    head, norm = "lm_head.weight", "model.norm.weight"

    def rewritten(**others: torch.Tensor | None) -> Path:
        kept = {k: v for k, v in {**weights, **others}.items() if v is not None}
        save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
        return folder

    with pytest.raises(Refusal, match="stores no unembedding"):
        Lens.open(rewritten(**{head: None}))
    with pytest.raises(Refusal, match="final norm was not found"):
        Lens.open(rewritten(**{norm: None}))
    with pytest.raises(Refusal, match="2 arrays could be it"):
        Lens.open(rewritten(**{"norm.weight": weights[norm].clone()}))
    with pytest.raises(Refusal, match="NaN or infinite"):
        Lens.open(rewritten(**{norm: torch.full_like(weights[norm], torch.nan)}))
    with pytest.raises(Refusal, match="24 wide and its final norm 12"):
        Lens.open(rewritten(**{norm: weights[norm][:12].clone()}))
    rewritten()
    with pytest.raises(Refusal, match="stored with other numbers"):
        Lens.open(changed(folder, tie_word_embeddings=True))
    rewritten(**{head: weights["model.embed_tokens.weight"].clone()})
    assert Lens.open(folder).d_model == WIDTH
    lens = Lens.open(rewritten(**{head: None}))
    with pytest.raises(Refusal, match="24 wide"):
        lens.scores(np.ones((2, 5)))
    with pytest.raises(Refusal, match="NaN or infinite"):
        lens.scores(np.full((1, WIDTH), np.nan))
    with pytest.raises(Refusal, match="no device"):
        Lens.open(folder, device="nowhere")


def test_an_adapter_is_refused(tmp_path):
    base = tiny_checkpoints.save_checkpoint(tmp_path / "base", "llama")
    adapter = tiny_checkpoints.save_adapter(tmp_path / "adapter", "llama", base)
    assert is_adapter(adapter)
    with pytest.raises(Refusal, match="it is an adapter"):
        Lens.open(adapter)
