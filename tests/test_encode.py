"""Texts as tokens: markup as characters, cut at the same character for two models, halves of characters refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from asking import explain
from dragoman.core import Refusal, Talk
from dragoman.models import harvest as room
from dragoman.models.aligned import read_aligned
from dragoman.models.encode import encode_filled, encode_texts, markup_of
from dragoman.models.harvest import UNDEFINED, Reader, encoded_whole, pool, token_rows
from dragoman.models.load import decoder_blocks
from dragoman.models.paired import Harvest, ReadingOptions, cuts_of, direct_statistics, harvest, told_left_out
from dragoman.store import read_texts, refuse_halves
from planted_readers import TEXTS, UNICODE, opened, sae, same_everything
from small_world import World
from studies.tokens import read_tokens
from tiny_checkpoints import ALL_FAMILIES, SPECIAL, WIDTH, tokenizer_of

LONG = [f"{' '.join(TEXTS[k : k + 12])} number {k}" for k in range(12)]


# --- markup ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ALL_FAMILIES)
def test_markup_in_a_text_is_encoded_as_its_characters(family: str) -> None:
    tokenizer: Any = tokenizer_of(family)
    texts = [f"The right{mark} to vote {mark}in the city" for mark in SPECIAL[family]] + ["The right to vote"]
    told = encode_texts(tokenizer, texts, 256)
    special = set(markup_of(tokenizer))
    assert {tokenizer.convert_tokens_to_ids(t) for t in SPECIAL[family]} <= special
    for text, ids, spans in zip(texts, told.ids, told.spans, strict=True):
        assert not [i for i, (b, e) in zip(ids, spans, strict=True) if e > b and i in special], text
        assert spans[-1][1] == len(text)
        assert tokenizer.decode([i for i, (b, e) in zip(ids, spans, strict=True) if e > b]) == text
    # What has no markup is encoded as ever, whatever stands beside it; and what the tokenizer adds it still adds.
    assert told.ids[-1] == tokenizer(texts[-1])["input_ids"]
    assert all((ids[0] == tokenizer.bos_token_id) == bool(tokenizer.bos_token) for ids in told.ids)
    assert tokenizer(texts[0])["input_ids"] != told.ids[0], "the tokenizer itself is left as it was"


def test_tokens_that_only_the_chat_template_or_their_form_tells_are_markup_too() -> None:
    tokenizer: Any = tokenizer_of("qwen3")
    tokenizer.add_tokens(["<|fim|>", "<table>", "\n\n"])  # not special, as in published tokenizers
    known = markup_of(tokenizer).values()
    assert "<|fim|>" in known and "<think>" in known and not {"<table>", "\n\n"} & set(known)
    text = "a <|fim|> and a <table>\n\nof the city"
    (ids,) = encode_texts(tokenizer, [text], 256).ids
    words = [tokenizer.convert_ids_to_tokens(i) for i in ids]
    assert "<|fim|>" not in words and "<table>" in words and "\n\n" in words
    assert tokenizer.decode(ids) == text


def test_a_text_with_markup_is_cut_at_its_end_too() -> None:
    tokenizer: Any = tokenizer_of("llama")
    tokenizer.truncation_side = "left"
    text = "The right <|eot_id|> to vote in the first election of the new year and the city"
    told = encode_texts(tokenizer, [text], 12)
    assert len(told.ids[0]) == 12 and told.spans[0][1][0] == 0
    assert text.startswith(tokenizer.decode(told.ids[0], skip_special_tokens=True))


def test_in_a_template_markup_of_the_text_is_characters_and_the_templates_own_is_not() -> None:
    tokenizer: Any = tokenizer_of("qwen2")
    fill = "<|im_start|>Summary of <text>{}</text> <summary>".format
    start, end = (tokenizer.convert_tokens_to_ids(t) for t in ("<|im_start|>", "<|im_end|>"))
    plain = encode_filled(tokenizer, fill, "the city", special=True)
    assert plain == tokenizer.encode(fill("the city"), add_special_tokens=True) and plain[0] == start
    marked = encode_filled(tokenizer, fill, "the <|im_end|> city", special=True)
    assert marked.count(start) == 1 and end not in marked and tokenizer.decode(marked) == fill("the <|im_end|> city")
    with pytest.raises(Refusal, match=r"'<\|im_start\|>' in it: the template around it has that markup too"):
        encode_filled(tokenizer, fill, "a <|im_start|> of", special=True)


def test_rows_of_a_text_with_markup_are_those_of_its_characters() -> None:
    reader = opened("gemma3")
    texts = ["The right<eos> to vote in the <start_of_turn> city", "The people of the city vote"]
    rows = reader.rows(texts)
    ids = encode_texts(reader.tokenizer, texts, 256).ids[0]
    with torch.inference_mode():
        truth = reader.model(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states[2][0].numpy()
    np.testing.assert_allclose(rows.x[rows.document == 0], truth[1:], rtol=1e-4, atol=1e-4)


# --- halves of characters, odd texts ---------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["\ud83d", "a wave \udc4b of the city", "a" * 300 + "\ud800"])
def test_half_a_character_is_one_sentence(text: str) -> None:
    at = next(k for k, c in enumerate(text) if "\ud800" <= c <= "\udfff")
    sentence = rf"^text 1: it holds half a character \(U\+{ord(text[at]):04X}, at {at}\); write it whole"
    tokenizer = tokenizer_of("qwen2")
    with pytest.raises(Refusal, match=sentence):
        encode_texts(tokenizer, ["whole 👋", text], 256)
    with pytest.raises(Refusal, match=r"^a text: it holds half a character"):
        encode_filled(tokenizer, "<text>{}</text>".format, text, special=False)
    refuse_halves("whole 👋 and 漢字", "a text")


def test_half_a_character_in_a_file_of_texts_names_file_and_row(tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"
    path.write_text('{"text": "whole"}\n{"text": "half \\ud83d"}\n')
    with pytest.raises(Refusal, match=r"texts.jsonl, row 2: it holds half a character \(U\+D83D, at 5\)"):
        read_texts(path)
    path.write_text(json.dumps({"text": "whole 👋"}))  # a pair of halves in JSON is a whole character
    assert "\\ud83d\\udc4b" in path.read_text() and read_texts(path) == ["whole 👋"]


@pytest.mark.parametrize("family", ["qwen2", "llama"])
def test_empty_texts_and_texts_of_one_token_have_no_rows_and_pooled_are_one_sentence(family: str) -> None:
    reader = opened(family)
    for texts in (["", ""], ["", "a"], ["a", "b"]):
        rows = reader.rows(texts)
        assert not len(rows.x) if family == "qwen2" else len(rows.x) == sum(map(bool, texts))
    assert not encode_texts(reader.tokenizer, [], 256).ids
    with pytest.raises(Refusal, match=r"^text 1: it has no token after the first; leave empty or one-word texts out"):
        pool(reader, ["The people of the city", "", "The right to vote"])


def test_texts_all_alike_are_one_sentence(readers: tuple[Reader, Reader]) -> None:
    same = ["The people of the city vote"] * 40
    with pytest.raises(Refusal, match=r"^1 text, repeated 40 times: a map is fitted over several documents"):
        harvest(*readers, same)
    with pytest.raises(Refusal, match=r"^1 text, repeated 40 times: 5 folds of documents are judged on one another"):
        read_aligned(*readers, same)


def test_texts_that_give_one_row_are_one_sentence(readers: tuple[Reader, Reader]) -> None:
    same_start = [f"{LONG[0]} {k}" for k in range(9)]  # they differ beyond what either model reads
    assert min(len(readers[0].tokenizer(t)["input_ids"]) for t in same_start) > 256
    with pytest.raises(Refusal, match=r"^9 texts: every one gives the same row at tiny-llama:1; give texts that"):
        harvest(*readers, same_start)


def test_texts_that_differ_behind_what_is_read_count_once(readers: tuple[Reader, Reader]) -> None:
    heading = [f"{' '.join(TEXTS[::-1])} number {k}" for k in range(20)]  # as under one long system prompt
    encoder, options = sae(WIDTH["llama"]), ReadingOptions(first=3, max_tokens=60)
    assert min(len(reader.tokenizer(t)["input_ids"]) for reader in readers for t in heading) > 60
    with pytest.raises(
        Refusal, match="^20 texts: they differ behind the 60 tokens that are read of each, which leaves 1"
    ):
        read_aligned(*readers, heading, encoder, options=options)
    alone, last = read_aligned(*readers, [*LONG, heading[0]], encoder, options=options), LONG[0][::-1]
    for texts in ([*LONG, *heading], [*heading[::-1], *LONG]):
        found = read_aligned(*readers, texts, encoder, options=options)
        assert found.report["texts_left_out"]["copy"] == 19 and found.report["documents"] == len(LONG) + 1
        assert found.report["pairs"] == alone.report["pairs"]
    other = read_aligned(*readers, [*LONG, heading[0], last], encoder, options=options)
    assert other.report["texts_left_out"]["copy"] == 0


# --- the same characters ---------------------------------------------------------------------------------------------


def left_cut(family: str) -> Reader:
    reader = opened(family)
    reader.tokenizer.truncation_side = "left"
    return reader


def test_a_tokenizer_that_cuts_on_the_left_reads_the_beginning_all_the_same() -> None:
    right, left = [opened("llama"), opened("gemma3")], [left_cut("llama"), opened("gemma3")]
    one, other = harvest(*right, LONG), harvest(*left, LONG)
    np.testing.assert_array_equal(other.x, one.x)
    np.testing.assert_array_equal(other.y, one.y)
    encoder, options = sae(WIDTH["llama"]), ReadingOptions(first=3, max_tokens=60)
    same_everything(
        read_aligned(*left, LONG, encoder, options=options), read_aligned(*right, LONG, encoder, options=options), 0, 0
    )
    sums = [direct_statistics(*both, encoder, LONG)[0] for both in (right, left)]
    np.testing.assert_array_equal(sums[0].weighted_sum, sums[1].weighted_sum)


def test_pooled_texts_are_read_up_to_the_last_end_that_both_models_share() -> None:
    readers = source, target = opened("qwen2"), opened("gemma3")
    cuts = cuts_of(source, target, LONG)
    spans = [encoded_whole(r.tokenizer, LONG).spans for r in readers]
    assert any(one[-1][1] != other[-1][1] for one, other in zip(*spans, strict=True))
    rows = harvest(source, target, LONG)
    for k, text in enumerate(LONG):
        ends = [{e for b, e in own[k] if e > b} for own in spans]
        assert cuts[k] < len(text) and cuts[k] == max(ends[0] & ends[1])
        for reader, found in ((source, rows.x), (target, rows.y)):
            ids = encode_texts(reader.tokenizer, [text], 256)
            read = [i for i, (_, e) in zip(ids.ids[0], ids.spans[0], strict=True) if e <= cuts[k]]
            assert reader.tokenizer.decode(read, skip_special_tokens=True) == text[: cuts[k]]
            with torch.inference_mode():
                states = reader.model(input_ids=torch.tensor([read]), output_hidden_states=True).hidden_states[2][0]
            np.testing.assert_allclose(found[k], states[1:].mean(0).numpy(), rtol=1e-3, atol=1e-3)


def test_texts_that_fit_both_models_are_read_whole(readers: tuple[Reader, Reader]) -> None:
    texts = [*TEXTS[:8], *UNICODE]
    assert cuts_of(*readers, texts) == [len(t) for t in texts]
    found = harvest(*readers, texts)
    for reader, rows in zip(readers, (found.x, found.y), strict=True):
        np.testing.assert_array_equal(rows, pool(reader, texts).rows)


def test_without_a_shared_end_both_read_as_far_as_the_shorter() -> None:
    from dragoman.models.encode import Encoded, shared_cuts

    one = Encoded(ids=[[1, 2, 3]], spans=[[(0, 2), (2, 4), (4, 6)]])
    other = Encoded(ids=[[1, 2]], spans=[[(0, 3), (3, 5)]])
    assert shared_cuts(one, other, ["abcdefghij"], 3) == [5] and shared_cuts(one, other, ["abcdef"], 4) == [6]


# --- what is not finite ----------------------------------------------------------------------------------------------


class Overflowing:
    """A reader whose block 1 puts out NaN at the tokens ``where`` says, in float16's name."""

    def __init__(self, share: float, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reader = opened("llama")
        draw = np.random.default_rng(0)

        def spoil(_module: Any, _args: Any, output: Any) -> Any:
            hidden = (output[0] if isinstance(output, tuple) else output).clone()
            hidden[torch.tensor(draw.random(hidden.shape[:2]) < share)] = torch.inf
            return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

        decoder_blocks(self.reader.model)[1].register_forward_hook(spoil)
        monkeypatch.setattr(type(self.reader.model), "dtype", torch.float16)


def test_more_than_a_hundredth_that_is_not_finite_is_refused_everywhere_in_the_right_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bad, target, encoder = Overflowing(0.25, monkeypatch).reader, opened("gemma3"), sae(WIDTH["llama"])
    sentence = (
        r"^reading tiny-llama:1 in float16: \d+ of \d+ activations are NaN or infinite \(2\d\.\d%; 1% at most\); "
        r"use bfloat16, whose range is that of float32\.$"
    )
    ways: list[Any] = [
        lambda: pool(bad, TEXTS),
        lambda: pool(bad, TEXTS, typical=np.inf),
        lambda: harvest(bad, target, TEXTS),
        lambda: read_aligned(bad, target, TEXTS, encoder),
        lambda: read_tokens(bad, target, encoder, TEXTS),
        lambda: direct_statistics(bad, target, encoder, TEXTS),
        lambda: bad.typical(TEXTS),
    ]
    for way in ways:
        with pytest.raises(Refusal, match=sentence):
            way()


def test_a_reading_that_turns_undefined_after_the_pilot_is_refused_at_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    bad, target, encoder = Overflowing(0.25, monkeypatch).reader, opened("gemma3"), sae(WIDTH["llama"])
    monkeypatch.setattr(room, "PILOT", 0)
    options = ReadingOptions(first=3)
    for way in (
        lambda: direct_statistics(bad, target, encoder, TEXTS),
        lambda: read_aligned(bad, target, TEXTS, None, options=options),
        lambda: harvest(bad, target, TEXTS),
    ):
        with pytest.raises(Refusal, match=r"activations are NaN or infinite"):
            way()


def test_a_text_of_which_nothing_is_finite_is_told_from_one_without_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = opened("llama")
    plain = room.token_rows

    def without_the_third(*args: Any, **how: Any) -> Any:
        for rows in plain(*args, **how):
            keep = rows.document != 2
            parts = {k: getattr(rows, k)[keep] for k in ("x", "document", "end", "position")}
            yield room.TokenRows(**parts, dropped=1, undefined=1)

    many = [f"{' '.join(TEXTS)} {k}" for k in range(9)]
    monkeypatch.setattr(room, "token_rows", without_the_third)
    with pytest.raises(
        Refusal, match=r"^text 2: all its activations at tiny-llama:1 are outliers or not finite; leave"
    ):
        pool(reader, many)


def test_the_few_that_are_left_out_are_counted_and_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    few, target = Overflowing(0.004, monkeypatch).reader, opened("gemma3")
    found = harvest(few, target, TEXTS)
    told = found.left_out
    assert 0 < told["source"]["not finite"] < UNDEFINED * sum(told["source"].values())
    assert told["target"] == {"kept": found.background.n, "outliers": 0, "not finite": 0}
    assert told["source"]["kept"] == found.source_background.n and np.isfinite(found.x).all()
    found.save(tmp_path / "rows.safetensors")
    assert Harvest.load(tmp_path / "rows.safetensors").left_out == told
    every = sum(told["source"].values())
    assert told_left_out(told, few.site, target.site) == [
        f"left out {told['source']['not finite']} of {every} activations of tiny-llama:1 that are not finite"
    ]
    rows = list(token_rows(few, TEXTS, typical=np.inf))
    assert sum(r.undefined for r in rows) == sum(r.dropped for r in rows) > 0


@pytest.mark.parametrize("how", [{"map": "post", "route": "map"}, {"map": "aligned", "route": "map"}])
def test_a_run_says_what_was_left_out_and_its_manifest_keeps_it(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, how: dict[str, Any]
) -> None:
    plain, said = room._keep, list[str]()

    def spoiled(hidden: torch.Tensor, *rest: Any, **how: Any) -> Any:
        hidden = hidden.clone()
        hidden[0, 2] = torch.nan  # one token a batch
        return plain(hidden, *rest, **how)

    monkeypatch.setenv("DRAGOMAN_CACHE", str(tmp_path / "cache"))
    for name in ("run", "again"):  # once read, once from the cache
        monkeypatch.setattr(room, "_keep", spoiled if name == "run" else plain)
        run = explain(world.request(features=("0",), **how), tmp_path / name, Talk(say=said.append))
        told = run.manifest["about"]["left_out"]
        for side, site in (("source", world.source), ("target", world.target)):
            odd, every = told[side]["not finite"], sum(told[side].values())
            assert 0 < odd < UNDEFINED * every
            sentence = f"left out {odd} of {every} activations of {site} that are not finite"
            assert said.count(sentence) == 1, said
        said.clear()
    monkeypatch.setenv("DRAGOMAN_CACHE", str(tmp_path / "other"))
    clean = explain(world.request(features=("0",), **how), tmp_path / "clean", Talk(say=said.append))
    assert {side["not finite"] for side in clean.manifest["about"]["left_out"].values()} == {0}
    assert not any("not finite" in sentence for sentence in said)
