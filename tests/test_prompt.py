"""One prompt per checkpoint, its slot certain; answers parsed without dropping any."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.core import Directions, Refusal, Site
from dragoman.verbalizers.prompt import Wording, build_prompt
from dragoman.verbalizers.protocol import AnyVerbalizer, parse
from dragoman.verbalizers.sidecar import Sidecar, read_sidecar
from tiny_checkpoints import BOS, FAMILIES, MARKER, sidecar_of, tokenizer_of, write_sidecar
from verbalizer_doubles import ScriptedVerbalizer


def sidecar(folder: Path, family: str) -> Sidecar:
    return read_sidecar(write_sidecar(folder, sidecar_of(family)))


@pytest.mark.parametrize("family", FAMILIES)
def test_slot_is_the_marker_between_its_neighbours(tmp_path: Path, family: str) -> None:
    stored, tokenizer = sidecar(tmp_path, family), tokenizer_of(family)
    prompt = build_prompt(stored, tokenizer)
    assert tokenizer.decode([prompt.ids[prompt.slot]]) == MARKER[family]
    assert prompt.ids.count(stored.marker_id) == 1
    assert (prompt.left_id, prompt.right_id) == (stored.left_id, stored.right_id)
    assert prompt.ids[prompt.slot - 1 : prompt.slot + 2] == (stored.left_id, stored.marker_id, stored.right_id)
    assert f"<concept>{MARKER[family]}</concept>" in prompt.text
    assert not prompt.opened


@pytest.mark.parametrize("family", FAMILIES)
def test_prompt_has_exactly_one_bos_or_none_where_the_family_has_none(tmp_path: Path, family: str) -> None:
    tokenizer = tokenizer_of(family)
    prompt = build_prompt(sidecar(tmp_path, family), tokenizer)
    if BOS[family] is None:
        assert tokenizer.bos_token_id is None
    else:
        assert prompt.ids[0] == tokenizer.bos_token_id
        assert prompt.ids.count(tokenizer.bos_token_id) == 1
        # What goes wrong when the rendered text is encoded the usual way.
        assert tokenizer.encode(prompt.text)[:2] == [tokenizer.bos_token_id] * 2


def test_missing_neighbours_are_computed_when_the_marker_is_there_once(tmp_path: Path) -> None:
    stored = sidecar(tmp_path, "qwen2")
    prompt = build_prompt(replace(stored, left_id=None, right_id=None), tokenizer_of("qwen2"))
    assert (prompt.left_id, prompt.right_id) == (stored.left_id, stored.right_id)


def test_neighbours_tell_the_slot_from_a_marker_elsewhere(tmp_path: Path) -> None:
    stored = sidecar(tmp_path, "qwen2")
    twice = replace(stored, template="A sign ㈎ is there.\n" + stored.template)
    prompt = build_prompt(twice, tokenizer_of("qwen2"))
    assert prompt.ids.count(stored.marker_id) == 2
    assert prompt.slot == max(k for k, i in enumerate(prompt.ids) if i == stored.marker_id)
    with pytest.raises(Refusal, match="it is 2 times in the encoded prompt"):
        build_prompt(replace(twice, left_id=None, right_id=None), tokenizer_of("qwen2"))


def test_further_template_slots_are_filled_or_refused(tmp_path: Path) -> None:
    stored = sidecar(tmp_path, "qwen2")
    deep = replace(stored, template="Depth {depth_pct}. " + stored.template)
    assert "Depth 70." in build_prompt(deep, tokenizer_of("qwen2"), wording=Wording(slots={"depth_pct": "70"})).text
    with pytest.raises(Refusal, match="its slot '{depth_pct}' has no value"):
        build_prompt(deep, tokenizer_of("qwen2"))


def test_a_prompt_that_opens_the_tag_says_so(tmp_path: Path) -> None:
    tokenizer = tokenizer_of("qwen2")
    tokenizer.chat_template = str(tokenizer.chat_template) + "<explanation>"
    assert build_prompt(sidecar(tmp_path, "qwen2"), tokenizer).opened


@pytest.mark.parametrize("family", FAMILIES)
def test_refuses_a_tokenizer_that_lost_its_merges(tmp_path: Path, family: str) -> None:
    with pytest.raises(
        Refusal, match=r"plain English sentence of \d+ characters becomes \d+ tokens, so it has lost its merges"
    ):
        build_prompt(sidecar(tmp_path, family), tokenizer_of(family, merges=False))


def test_refuses_a_marker_of_several_tokens(tmp_path: Path) -> None:
    other = replace(sidecar(tmp_path, "qwen2"), marker="㈵")
    with pytest.raises(Refusal, match=r"splits it into \d tokens, and only one can be replaced"):
        build_prompt(other, tokenizer_of("qwen2"))


def test_refuses_a_marker_whose_id_is_not_the_stored_one(tmp_path: Path) -> None:
    stored = sidecar(tmp_path, "qwen2")
    with pytest.raises(Refusal, match=f"gives it id {stored.marker_id}, the sidecar says {stored.marker_id + 1}"):
        build_prompt(replace(stored, marker_id=stored.marker_id + 1), tokenizer_of("qwen2"))


@pytest.mark.parametrize("side", ["left_id", "right_id"])
def test_refuses_other_neighbours_than_stored(tmp_path: Path, side: str) -> None:
    stored = sidecar(tmp_path, "gemma3")
    with pytest.raises(Refusal, match=r"its neighbours in the prompt are \d+ and \d+, the sidecar says .*3"):
        build_prompt(replace(stored, **{side: 3}), tokenizer_of("gemma3"))


def test_refuses_a_prompt_that_lost_its_marker(tmp_path: Path) -> None:
    tokenizer = tokenizer_of("qwen2")
    tokenizer.chat_template = "{{ messages[0]['role'] }} says nothing"
    with pytest.raises(Refusal, match="it is not inside the encoded prompt"):
        build_prompt(sidecar(tmp_path, "qwen2"), tokenizer)


def test_refuses_a_marker_at_the_edge_of_the_prompt(tmp_path: Path) -> None:
    tokenizer = tokenizer_of("qwen2")
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    with pytest.raises(Refusal, match="it stands at the edge of the encoded prompt"):
        build_prompt(replace(sidecar(tmp_path, "qwen2"), template="concept{injection_char}"), tokenizer)


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_refuses_a_second_bos_from_the_sidecar_template(tmp_path: Path, family: str) -> None:
    stored = sidecar(tmp_path, family)
    with pytest.raises(Refusal, match="more than one beginning-of-text token"):
        build_prompt(replace(stored, template=f"{BOS[family]}{stored.template}"), tokenizer_of(family))


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_refuses_a_second_bos_from_the_chat_template(tmp_path: Path, family: str) -> None:
    tokenizer = tokenizer_of(family)
    tokenizer.chat_template = "{{ bos_token }}" + str(tokenizer.chat_template)
    with pytest.raises(Refusal, match="more than one beginning-of-text token"):
        build_prompt(sidecar(tmp_path, family), tokenizer)


def test_refuses_a_bos_that_is_not_one_token(tmp_path: Path) -> None:
    tokenizer = tokenizer_of("qwen2")

    class Renamed:
        bos_token, bos_token_id, unk_token_id = "<s>", 5, None
        chat_template = "<s>" + str(tokenizer.chat_template)
        encode = staticmethod(tokenizer.encode)

    with pytest.raises(Refusal, match="is not encoded as one token"):
        build_prompt(sidecar(tmp_path, "qwen2"), Renamed())


def test_a_bos_that_opens_every_turn_is_the_templates_business(tmp_path: Path) -> None:
    # SmolLM2 names <|im_start|> as its BOS.
    tokenizer = tokenizer_of("qwen2")
    tokenizer.bos_token = "<|im_start|>"
    prompt = build_prompt(sidecar(tmp_path, "qwen2"), tokenizer)
    assert prompt.ids.count(tokenizer.convert_tokens_to_ids("<|im_start|>")) == 3


def test_refuses_a_tokenizer_without_chat_template(tmp_path: Path) -> None:
    tokenizer = tokenizer_of("qwen2")
    tokenizer.chat_template = None
    with pytest.raises(Refusal, match="it has no chat template"):
        build_prompt(sidecar(tmp_path, "qwen2"), tokenizer)


GOOD = "<explanation>\nA recipe.\n\nThe phrase 'two eggs'.\n\nFinal token 'eggs', then 'and'.\n</explanation>"


def test_a_good_answer_is_parsed_without_problems() -> None:
    got = parse(f"Sure.\n{GOOD}<|im_end|>", tokens=40)
    assert got.text.startswith("A recipe.") and got.text.endswith("then 'and'.")
    assert (len(got.text.split("\n\n")), got.problems, got.tokens) == (3, (), 40)


@pytest.mark.parametrize(
    ("raw", "text", "problems"),
    [
        ("<explanation>\ncut off", "cut off", ("no closing tag",)),
        ("only closed</explanation>", "only closed", ("no opening tag",)),
        ("no tags at all<|im_end|><eos></s>", "no tags at all", ("no opening tag", "no closing tag")),
        ("<explanation>  </explanation>", "", ("empty",)),
        ("<explanation>这是一个汉字 yes</explanation>", "这是一个汉字 yes", ("other script",)),
        ("<explanation>The sign ㈎ in a list</explanation>", "The sign ㈎ in a list", ("other script",)),
        (f"<explanation>{'on and ' * 20}</explanation>", ("on and " * 20).strip(), ("repeats itself",)),
        (f"<explanation>a{'!?' * 20}</explanation>", "a" + "!?" * 20, ("repeats itself",)),
    ],
)
def test_each_problem_is_flagged_and_nothing_is_dropped(raw: str, text: str, problems: tuple[str, ...]) -> None:
    got = parse(raw)
    assert (got.text, got.problems, got.raw) == (text, problems, raw)


@given(st.text(alphabet="ab! \n\u2003", max_size=60))
def test_a_run_of_characters_is_found_wherever_it_stands(text: str) -> None:
    # The definition, on the whole text; what is asked in use is asked of long words alone.
    run = re.search(r"(\S{1,8}?)\1{11,}", text) is not None
    words = text.split()
    grams = [tuple(words[k : k + 4]) for k in range(len(words) - 3)]
    again = len(grams) >= 12 and 2 * len(set(grams)) < len(grams)
    assert ("repeats itself" in parse(f"<explanation>{text}</explanation>").problems) == (run or again)


def test_a_quoted_foreign_word_is_no_problem() -> None:
    text = "A long English text about the city of Tokyo, which quotes its name 東京 once and goes on in English."
    assert parse(f"<explanation>{text}</explanation>").problems == ()


def test_an_answer_to_an_opened_prompt_needs_no_opening_tag() -> None:
    got = parse("a recipe</explanation>", opened=True)
    assert (got.text, got.problems) == ("a recipe", ())


@given(st.text(max_size=300))
def test_parsing_never_fails_and_flags_what_is_empty(raw: str) -> None:
    got = parse(raw)
    assert got.raw == raw
    assert ("empty" in got.problems) == (not got.text)


def test_scripted_verbalizer_answers_with_the_nearest_directions_text() -> None:
    site = Site("toy", 3)
    directions = Directions.of(site, np.eye(4), ["a", "b", "c", "d"])
    scripted = ScriptedVerbalizer.nearest(directions, ["apple", "bread", "cheese", "dates"])
    assert isinstance(scripted, AnyVerbalizer)
    said = scripted.verbalize(np.array([[0.1, 5.0, 0, 0], [0, 0, -1, 0.2]], np.float32))
    assert [e.text for e in said] == ["bread", "dates"]
    assert [e.problems for e in said] == [(), ()]
    assert [e.log_probability for e in said] == [None, None]
    assert scripted.site == site


def test_scripts_of_other_texts_have_other_identities() -> None:
    directions = Directions.of(Site("toy", 3), np.eye(2), ["a", "b"])
    one, two = (ScriptedVerbalizer.nearest(directions, texts) for texts in (["x", "y"], ["x", "z"]))
    assert one.identity != two.identity


def test_scripted_verbalizer_refuses_what_a_real_one_refuses() -> None:
    scripted = ScriptedVerbalizer(Site("toy", 3), 4, lambda v: "up" if v[0] > 0 else "down")
    assert [e.text for e in scripted.verbalize(np.array([[1, 0, 0, 0], [-1, 0, 0, 0]], np.float32))] == ["up", "down"]
    with pytest.raises(Refusal, match=r"vectors of width 3 .* has width 4"):
        scripted.verbalize(np.ones((1, 3), np.float32))
    with pytest.raises(Refusal, match="takes one row per vector"):
        scripted.verbalize(np.ones(4, np.float32))
    with pytest.raises(Refusal, match="its length is zero"):
        scripted.verbalize(np.zeros((1, 4), np.float32))
