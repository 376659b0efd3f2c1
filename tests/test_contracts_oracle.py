"""Activation oracles: the vector at every placeholder, a question, an answer; logits by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from dragoman.core import Refusal
from dragoman.models.decode import Verbalizer
from plain_reading import Plain
from tiny_checkpoints import CHAT, WIDTH, save_adapter, save_checkpoint, tokenizer_file, tokenizer_of
from verbalizer_doubles import next_logits

QUESTION = "What is the concept about?"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = save_checkpoint(tmp_path_factory.mktemp("oracle") / "base", "qwen3")
    teach_placeholder().save_pretrained(folder)
    return folder


def teach_placeholder() -> Any:
    """The tiny vocabulary lacks " ?", which every published one has as one token."""
    tokenizer, content = tokenizer_of("qwen3"), json.loads(tokenizer_file("qwen3"))
    vocab = content["model"]["vocab"]
    # A token the text never uses makes room, so that the model's table keeps its size.
    spare = max((t for t in vocab if t.isalpha() and len(t) > 5), key=lambda t: vocab[t])
    vocab["\u0120?"] = vocab.pop(spare)
    content["model"]["merges"] = [m for m in content["model"]["merges"] if "".join(m) != spare] + [["\u0120", "?"]]
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(content))
    return tokenizer


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = save_adapter(tmp_path_factory.mktemp("oracle") / "lora", "qwen3", base)
    (folder / "nla_meta.yaml").unlink()  # oracles are published without one
    return folder


def settings(**more: Any) -> dict[str, Any]:
    return {"block": 2, "question": QUESTION, **more}


@pytest.mark.parametrize("count", [1, 3])
def test_logits_equal_a_plain_reading_at_every_placeholder(base: Path, adapter: Path, count: int) -> None:
    ours = Verbalizer(adapter, contract="oracle", settings=settings(positions=count))
    text = (
        f"<|im_start|>user\nLayer: 2\n{' ?' * count} \n{QUESTION}<|im_end|>\n"
        "<|im_start|>assistant\n<think>\n\n</think>\n\n"
    )
    ids = teach_placeholder().encode(text, add_special_tokens=False)
    assert (ours.prompt.text, list(ours.prompt.ids)) == (text, ids)
    places = [k for k, i in enumerate(ids) if i == ours.sidecar.marker_id][:count]
    assert places == list(range(ours.prompt.slot, ours.prompt.slot + count))
    plain = Plain.open("qwen3", base, adapter)
    vectors = np.random.default_rng(1).normal(size=(2, WIDTH["qwen3"])).astype(np.float32)
    for vector, got in zip(vectors, next_logits(ours, vectors), strict=True):
        unit = torch.tensor(vector) / torch.tensor(vector).norm()

        def add(_module: Any, _args: Any, hidden: Any, unit: torch.Tensor = unit) -> Any:
            changed = hidden.clone()
            for place in places:
                changed[0, place] += changed[0, place].norm() * unit
            return changed

        handle = plain.blocks[1].register_forward_hook(add)
        with torch.no_grad():
            want = plain.net(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
        handle.remove()
        torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-3 * float(want.abs().max()))


def test_an_answer_is_all_that_is_said_and_the_question_is_part_of_its_identity(adapter: Path, base: Path) -> None:
    ours = Verbalizer(adapter, contract="oracle", settings=settings())
    vectors = np.random.default_rng(1).normal(size=(3, WIDTH["qwen3"])).astype(np.float32)
    said = ours.verbalize(vectors, max_new_tokens=5)
    assert [ours.verbalize(v[None], max_new_tokens=5)[0] for v in vectors] == said
    assert all(not {"no opening tag", "no closing tag"} & set(e.problems) for e in said)
    other = Verbalizer(adapter, contract="oracle", settings=settings(question="Is it about food?"))
    assert ours.site.block == 2 and ours.site.model == str(base) and ours.identity["sidecar"] is None
    assert ours.identity["prompt"] != other.identity["prompt"]


def test_what_no_file_says_must_be_given(adapter: Path, base: Path, tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="an activation oracle has no sidecar, and block and question is not given"):
        Verbalizer(adapter, contract="oracle")
    with pytest.raises(Refusal, match="positions 0: the vector needs a place"):
        Verbalizer(adapter, contract="oracle", settings=settings(positions=0))
    with pytest.raises(Refusal, match=r"it holds no nla_meta\.yaml"):
        Verbalizer(adapter)
    (tmp_path / "bare").mkdir()
    with pytest.raises(Refusal, match=r"neither its adapter nor a config\.json tells the width"):
        Verbalizer(tmp_path / "bare", contract="oracle", settings=settings())


def test_a_tokenizer_or_template_that_tears_the_placeholders_is_refused(adapter: Path, tmp_path: Path) -> None:
    torn = save_checkpoint(tmp_path / "base", "qwen3")  # its vocabulary has no " ?"
    with pytest.raises(Refusal, match=r"placeholder ' \?': this tokenizer splits it into 2 tokens"):
        Verbalizer(adapter, contract="oracle", settings=settings(), base=str(torn))
    template = adapter / "chat_template.jinja"
    template.write_text("Is it so ? " + CHAT["qwen3"])
    with pytest.raises(Refusal, match="it does not stand 2 times in a row in the encoded prompt"):
        Verbalizer(adapter, contract="oracle", settings=settings(positions=2))
    template.write_text(CHAT["qwen3"])


def test_the_captured_engine_adds_at_every_placeholder_too(adapter: Path) -> None:
    ours = Verbalizer(adapter, contract="oracle", settings=settings(positions=3), engine="captured")
    vectors = np.random.default_rng(2).normal(size=(5, WIDTH["qwen3"])).astype(np.float32)
    said = ours.verbalize(vectors, max_new_tokens=10)
    with ours.looped():
        loop = ours.verbalize(vectors, max_new_tokens=10)
    assert [e.raw for e in said] == [e.raw for e in loop]
    assert [e.log_probability for e in said] == pytest.approx([e.log_probability for e in loop], abs=1e-4)
    assert len({e.log_probability for e in said}) > 1
