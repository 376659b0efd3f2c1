"""Activations at tokens of prompts: which token is meant, whose numbers they are, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import dragoman
import tiny_checkpoints
from dragoman.core import Refusal, Site
from dragoman.models.harvest import Reader
from dragoman.models.prompts import MOST_TOKENS, Prompt, prompts_of, read_prompts
from tiny_checkpoints import BLOCK

TEXT = "the people vote in the city and the people walk"


def reader_of(family: str) -> Reader:
    return Reader(
        site=Site(f"tiny-{family}", BLOCK),
        model=tiny_checkpoints.model_of(family),
        tokenizer=tiny_checkpoints.tokenizer_of(family),
    )


def hidden(reader: Reader, text: str) -> np.ndarray:
    """The model's own answer (T, d)."""
    told = reader.tokenizer(text, return_tensors="pt")
    with torch.no_grad():
        return reader.model(**told, output_hidden_states=True).hidden_states[BLOCK + 1][0].float().numpy()


@pytest.mark.parametrize("family", ["qwen2", "llama", "gemma3"])
def test_rows_are_what_the_model_holds_at_the_token(family):
    reader = reader_of(family)
    found = read_prompts(reader, [Prompt(text=TEXT, at="all"), Prompt(text="people and people", at="people#2")])
    own = hidden(reader, TEXT)
    for row, token in zip(found.rows, found.tokens, strict=True):
        expected = own if token.number == 0 else hidden(reader, "people and people")
        np.testing.assert_allclose(row, expected[token.position], rtol=1e-4, atol=1e-5)
        assert token.prompt[token.begin : token.end] == token.token
    assert found.directions.kind == "activation" and [t.number for t in found.tokens][-2:] == [0, 1]
    assert found.tokens[-1].end == len("people and people")
    assert all(token.position > 0 for token in found.tokens)
    assert list(found)[0] == f"p0t{found.tokens[0].position}" and f"Activations({len(found)} at" in repr(found)


def test_other_prompts_have_no_part_in_the_numbers():
    reader = reader_of("llama")
    alone = read_prompts(reader, [Prompt(text=TEXT)])
    beside = read_prompts(reader, [Prompt(text=TEXT * 3), Prompt(text=TEXT), Prompt(text="the city")])
    assert np.array_equal(alone.rows[0], beside.rows[1])


@pytest.mark.parametrize(
    ("at", "ends"),
    [
        ("last", [len(TEXT)]),
        ("vote", [TEXT.index("vote") + 4]),
        (" vote", [TEXT.index("vote") + 4]),
        ("the city", [TEXT.index("city") + 4]),
        ("people#1", [TEXT.index("people") + 6]),
        ("people#2", [TEXT.rindex("people") + 6]),
    ],
)
@pytest.mark.parametrize("family", ["qwen2", "llama", "gemma3"])
def test_a_token_is_found_by_what_is_written_there(family, at, ends):
    found = read_prompts(reader_of(family), [Prompt(text=TEXT, at=at)])
    assert [token.end for token in found.tokens] == ends


def test_a_word_of_several_tokens_is_read_at_its_last():
    reader = reader_of("llama")
    word = "peoplevotecity"
    text = f"the city and {word} walk"
    split = [t for t in read_prompts(reader, [Prompt(text=text, at="all")]).tokens if 13 <= t.end <= 13 + len(word)]
    assert len(split) > 1
    (token,) = read_prompts(reader, [Prompt(text=text, at=word)]).tokens
    assert token.end == 13 + len(word) and word.endswith(token.token.strip())


def test_a_position_counts_every_token_and_literal_text_goes_first():
    reader = reader_of("llama")
    everything = read_prompts(reader, [Prompt(text=TEXT, at="all")]).tokens
    (one,) = read_prompts(reader, [Prompt(text=TEXT, at=f"#{everything[3].position}")]).tokens
    assert one == everything[3]
    (said,) = read_prompts(reader, prompts_of(TEXT, everything[3].position)).tokens
    assert said == everything[3]
    (written,) = read_prompts(reader, [Prompt(text="see the#1 and the city", at="the#1")]).tokens
    assert written.end == len("see the#1")


@pytest.mark.parametrize(
    ("at", "message"),
    [
        ("mango", "'mango' of prompt 0: no token ends with it there; name one of '"),
        ("peopl", "no token ends with it there"),
        ("people", r"it is there 2 times; say 'people#1' \(position \d+\) or 'people#2' \(position \d+\)"),
        ("people#3", "'people#3' of prompt 0: it is there 2 times; say 'people#1'"),
        ("people#0", "it is there 2 times; say"),
        ("mango#2", "'mango' of prompt 0: no token ends with it there"),
        ("#0", "position 0 of prompt 0: the first position .*attention sinks.*; name one from 1 to"),
        ("#999", "position 999 of prompt 0: it has .* tokens; name one from 1 to"),
        ("  ", "no token ends with it there"),
    ],
)
def test_a_token_that_is_not_there_or_not_one_is_refused(at, message):
    with pytest.raises(Refusal, match=message):
        read_prompts(reader_of("llama"), [Prompt(text=TEXT, at=at)])


def test_the_first_position_is_refused_by_name_where_no_mark_stands_before_it():
    reader = reader_of("qwen2")  # it has no BOS: the first word stands in the sink
    with pytest.raises(Refusal, match="position 0 of prompt 0: the first position and the model's own marks"):
        read_prompts(reader, [Prompt(text="a city", at="a")])
    with pytest.raises(Refusal, match="it has no token behind the first position"):
        read_prompts(reader, [Prompt(text="a")])


def test_a_sink_behind_the_first_position_is_refused_or_left_out(monkeypatch):
    from dragoman.models import prompts

    reader, said = reader_of("llama"), list[str]()
    plain = prompts._stream

    def with_a_sink(reader, ids):
        rows = plain(reader, ids).copy()
        if len(ids) == len(reader.tokenizer(TEXT)["input_ids"]):
            rows[3] *= 50
        return rows

    monkeypatch.setattr(prompts, "_stream", with_a_sink)
    with pytest.raises(Refusal, match=r"token '.*' \(position 3\) of prompt 0 at .*: it is an attention sink there"):
        read_prompts(reader, [Prompt(text=TEXT, at="#3")])
    found = read_prompts(reader, [Prompt(text=TEXT, at="all")], dragoman.Talk(say=said.append))
    assert 3 not in [token.position for token in found.tokens] and len(found) > 5
    assert said == ["left out 1 token that are attention sinks"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "prompts: there are none"),
        ("", "prompt 0: there is no word in it"),
        (["the city", " \n"], "prompt 1: there is no word in it"),
        ([3], "prompt 0: it is no text"),
        ([{"at": "last"}], 'it is no text and has no string "text"'),
        ([{"text": "the city", "at": 1.5}], "prompt 0 at 1.5: that is no token"),
        ([{"text": "the city", "at": True}], "that is no token"),
        ([{"text": "the city", "at": ""}], "that is no token"),
        ("half \ud800", "it holds half a character"),
        ({"the city"}, "prompts: there are none"),
    ],
)
def test_what_is_no_prompt_is_refused(given: Any, message: str):
    with pytest.raises(Refusal, match=message):
        prompts_of(given)


def test_a_prompt_beyond_all_measure_is_refused():
    with pytest.raises(Refusal, match=f"prompt 0: it has more than {MOST_TOKENS} tokens; shorten it"):
        read_prompts(reader_of("llama"), [Prompt(text="the " * (MOST_TOKENS + 5))])


def test_a_file_holds_a_prompt_a_line_or_json_lines_that_say_their_own_token(tmp_path: Path):
    (tmp_path / "a.txt").write_text("the city\n\nthe people vote\n")
    assert prompts_of(tmp_path / "a.txt", "all") == [
        Prompt(text="the city", at="all"),
        Prompt(text="the people vote", at="all"),
    ]
    rows = [{"text": "the city walk", "at": "city"}, {"text": "the people vote"}, {"text": "the people vote", "at": 2}]
    (tmp_path / "b.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert [p.at for p in prompts_of(tmp_path / "b.jsonl")] == ["city", "last", "#2"]
    (tmp_path / "c.jsonl").write_text('{"prompt": "the city"}')
    with pytest.raises(Refusal, match="c.jsonl, prompt 0: it is no text"):
        prompts_of(tmp_path / "c.jsonl")
    (tmp_path / "d.csv").write_text("the city")
    with pytest.raises(Refusal, match="prompts are not read from '.csv' files; pass a .txt"):
        prompts_of(tmp_path / "d.csv")
