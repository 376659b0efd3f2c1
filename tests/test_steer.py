"""Steering tiny models by directions whose words are known, against steering by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import CohereConfig, CohereForCausalLM, GraniteConfig, GraniteForCausalLM, PreTrainedTokenizerFast

import tiny_checkpoints
from dragoman.core import Refusal, Site
from dragoman.measures.overlap import rank_auroc
from dragoman.models.harvest import Reader
from dragoman.models.load import decoder_blocks
from dragoman.models.logits import hidden_rows, logits_of
from dragoman.models.steer import NEUTRAL, _words, first_tokens, steering_table

PLAIN = ("water", "music", "doctor", "kitchen", "election", "bridge", "winter", "soldier")
WORDS = ("people", "city", "vote", "vector", "careful", "concept")


def reader_of(family: str, block: int) -> Reader:
    return Reader(
        site=Site(f"tiny-{family}", block),
        model=tiny_checkpoints.model_of(family),
        tokenizer=tiny_checkpoints.tokenizer_of(family),
    )


def planted(reader: Reader, words: tuple[str, ...] = WORDS) -> np.ndarray:
    """(n, d): the unembedding rows of words, less their mean: what raises one of them more than the others."""
    head = reader.model.get_output_embeddings().weight.detach().float()
    rows = head[first_tokens(reader.tokenizer, words)].numpy()
    return rows - rows.mean(axis=0)


@pytest.mark.parametrize("family", ["llama", "gemma3", "gemma3_wrapped"])
def test_the_row_of_a_word_raises_that_word(family):
    reader = reader_of(family, 3)
    words = WORDS if len(set(first_tokens(reader.tokenizer, WORDS))) == len(WORDS) else ("people", "city", "vector")
    table = steering_table(reader, planted(reader, words), [[w] for w in words], median_norm=20.0, times=1.0)
    assert table.shape == (len(words), len(words)) and table.dtype == np.float32
    assert (table.argmax(axis=1) == np.arange(len(words))).all()
    assert (np.diag(table) > 0).all()


@pytest.mark.parametrize("block", [0, 2, 3])
def test_a_table_is_steering_one_prompt_at_a_time_by_hand(block):
    reader = reader_of("llama", block)
    directions = np.random.default_rng(0).normal(size=(3, reader.width))
    lists = [["people", "city"], ["vote", "vote", "concept"]]
    found = steering_table(reader, directions, lists, median_norm=7.0, times=0.5, batch_size=2)
    expected = np.zeros((3, 2))
    ids = [[reader.tokenizer(f" {w}", add_special_tokens=False)["input_ids"][0] for w in some] for some in lists]
    for prompt in NEUTRAL:
        tokens = torch.tensor([reader.tokenizer(prompt)["input_ids"]])
        with torch.no_grad():
            plain = reader.model(tokens).logits[0, -1].log_softmax(0)
            for i, d in enumerate(directions):
                step = torch.from_numpy(d / np.linalg.norm(d) * 3.5).float()
                hook = decoder_blocks(reader.model)[block].register_forward_hook(
                    lambda _m, _a, out, step=step: (out[0] + step, *out[1:]) if isinstance(out, tuple) else out + step
                )
                rise = reader.model(tokens).logits[0, -1].log_softmax(0) - plain
                hook.remove()
                expected[i] += [float(rise[own].mean()) / len(NEUTRAL) for own in ids]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_neither_batches_nor_lengths_matter_and_nothing_stays_behind():
    reader = reader_of("llama", 1)
    directions = planted(reader)
    lists = [[w] for w in WORDS]
    told: list[tuple[int, int]] = []
    one = steering_table(reader, directions, lists, median_norm=5.0, progress=lambda *n: told.append(n), batch_size=4)
    two = steering_table(reader, directions * 1e-3, lists, median_norm=5.0, batch_size=1)
    np.testing.assert_allclose(one, two, rtol=1e-3, atol=1e-5)
    assert told == [(4, 6), (6, 6)]
    assert not any(block._forward_hooks for block in decoder_blocks(reader.model))
    nothing = steering_table(reader, directions, lists, median_norm=1e-6)
    assert np.abs(nothing).max() < 1e-4


def test_what_cannot_be_steered_is_refused():
    reader = reader_of("llama", 1)
    rows, lists = planted(reader), [[w] for w in WORDS]
    with pytest.raises(Refusal, match="32 wide"):
        steering_table(reader, rows[:, :5], lists, median_norm=1.0)
    with pytest.raises(Refusal, match="has no length"):
        steering_table(reader, rows * 0, lists, median_norm=1.0)
    with pytest.raises(Refusal, match="not finite"):
        steering_table(reader, rows * np.nan, lists, median_norm=1.0)
    with pytest.raises(Refusal, match="holds no word"):
        steering_table(reader, rows, [["city"], []], median_norm=1.0)
    for length in (np.inf, 0.0, np.nan):
        with pytest.raises(Refusal, match="no length"):
            steering_table(reader, rows, lists, median_norm=length)


def test_words_are_read_as_they_stand_in_a_text():
    pieces = [
        "▁The",
        "▁city",
        "▁",
        "city",
        "T",
        "h",
        "e",
        "c",
        "i",
        "t",
        "y",
        "▁c",
        "▁ci",
        "▁Paris",
        "▁p",
        "a",
        "r",
        "s",
        "p",
        "<unk>",
    ]
    tokenizer = Tokenizer(models.Unigram([(p, -float(n)) for n, p in enumerate(pieces)], len(pieces) - 1))
    # As Llama 2's: a space before every text, so that " city" by itself would begin with a lone mark.
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    assert first_tokens(wrapped, ["city"]) == [1]
    assert first_tokens(wrapped, ["paris"]) == [pieces.index("▁Paris")]  # whole when capitalised, "▁p" and more if not
    split = Tokenizer(models.WordLevel({"The": 0, " ": 1, "city": 2, "<unk>": 3}, "<unk>"))
    split.pre_tokenizer = pre_tokenizers.Split(" ", "isolated")
    assert first_tokens(PreTrainedTokenizerFast(tokenizer_object=split), ["city"]) == [None]


def test_a_word_that_no_token_begins_is_left_out_and_a_list_of_such_words_is_refused() -> None:
    vocabulary = {"The": 0, " city": 1, " ": 2, "igg": 3, "Igg": 4, "IGG": 5, "<unk>": 6}
    split = Tokenizer(models.WordLevel(vocabulary, "<unk>"))
    split.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(" (?=[iI])"), "isolated"),
            pre_tokenizers.Split(Regex(" [cC][a-zA-Z]+"), "isolated"),
        ]
    )
    wrapped = PreTrainedTokenizerFast(tokenizer_object=split)
    assert first_tokens(wrapped, ["igg", "city"]) == [None, 1]
    ids, member = _words(wrapped, [("igg", "city"), ("city",)])
    assert ids.tolist() == [1] and member.tolist() == [[1.0], [1.0]]
    with pytest.raises(Refusal, match="begins none of igg with a token of its own"):
        _words(wrapped, [("city",), ("igg",)])


def small(kind: str) -> torch.nn.Module:
    shape = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2}
    shape |= {"num_attention_heads": 4, "num_key_value_heads": 2, "bos_token_id": 0, "eos_token_id": 1}
    torch.manual_seed(0)
    if kind == "granite":
        return GraniteForCausalLM(GraniteConfig(**shape, logits_scaling=4.0, initializer_range=0.5)).eval()
    return CohereForCausalLM(CohereConfig(**shape, logit_scale=0.25, initializer_range=0.5)).eval()


@pytest.mark.parametrize("kind", ["granite", "cohere"])
def test_logits_of_chosen_rows_are_the_models_own(kind):
    net = small(kind)
    ids = torch.tensor([[3, 4, 5]])
    with torch.no_grad():
        own = net(input_ids=ids).logits[0]
        torch.testing.assert_close(logits_of(net)(hidden_rows(net, ids)[0, 1:]), own[1:])


def test_soft_caps_are_kept_and_an_unknown_last_step_is_refused(monkeypatch):
    net = tiny_checkpoints.model_of("gemma3")
    monkeypatch.setattr(net.config, "final_logit_softcapping", 2.0)
    ids = torch.tensor([[3, 4, 5]])
    with torch.no_grad():
        found = logits_of(net)(hidden_rows(net, ids)[0])
        torch.testing.assert_close(found, net(input_ids=ids).logits[0])
    assert found.abs().max() <= 2.0
    other = small("granite")
    other.register_forward_hook(lambda _m, _a, out: setattr(out, "logits", out.logits.cos()))
    with pytest.raises(Refusal, match="not known here"):
        logits_of(other)


@pytest.mark.usefixtures("pair_tokenizers")
def test_the_packaged_target_steered_by_its_own_unembedding_writes_those_words():
    reader = Reader.open(Site("tiny-gemma", 16), whole=True, dtype="bfloat16")
    rows = planted(reader, PLAIN)
    typical = reader.typical(["The people of the city vote in an election.", "He laid another course of bricks."])
    table = steering_table(reader, rows, [[w] for w in PLAIN], median_norm=typical)
    assert rank_auroc(table).mean() > 0.95
    assert rank_auroc(np.roll(table, 1, axis=0)).mean() < 0.6  # rows dealt to the next word
