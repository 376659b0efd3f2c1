"""Evidence: what is read off a card and a text, and what each piece is called."""

import numpy as np
import pytest

from dragoman import tiny
from dragoman.confidence.evidence import (
    SIGNS,
    WORDS,
    ReadBack,
    evidence,
    evidence_words,
    gather_evidence,
    sample_agreement,
)
from dragoman.confidence.model import ConfidenceSet
from dragoman.core import Directions, Refusal, Site
from dragoman.embed import LexicalEmbedder
from dragoman.measures.claims import Windows
from dragoman.records import Card, Row
from dragoman.report.words import DIAGNOSTICS
from dragoman.scoring.sentences import Reference, TextInContext, sentence_evidence
from dragoman.stats.roc import ContextEmbeddings
from judging import whole


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


CARD = Card(coverage=0.4, norm=2.0, n_eff=100.0, nearest="5258", status="ok")


def test_evidence_takes_the_numbers_of_a_card_and_none_of_its_words():
    found = evidence(CARD, problems=("empty", "repeats itself"), tokens=90, reconstruction=0.3)
    assert {name: value for name, value in found.items() if value is not None} == {
        "coverage": 0.4,
        "norm": pytest.approx(np.log(2)),
        "n_eff": pytest.approx(np.log(100)),
        "problems": 2.0,
        "tokens": pytest.approx(np.log(90)),
        "reconstruction": 0.3,
    }


def test_evidence_without_a_card_is_what_the_text_shows():
    assert set(evidence(None)) == {"sample_agreement", "problems", "tokens"}
    found = evidence(Card(margin=float("nan"), norm=0.0))
    assert found["margin"] is None and found["norm"] == pytest.approx(np.log(1e-6)) and found["problems"] == 0.0


def test_sample_agreement_is_the_mean_cosine_over_pairs():
    rows = unit(np.random.default_rng(0).normal(size=(4, 9)))
    loop = np.mean([rows[i] @ rows[j] for i in range(4) for j in range(4) if i != j])
    assert sample_agreement(rows) == pytest.approx(loop)
    assert sample_agreement(rows[:1]) is None
    assert sample_agreement(np.tile(rows[0], (3, 1))) == pytest.approx(1)


def test_evidence_refuses_infinite_numbers():
    with pytest.raises(Refusal, match="evidence 'margin': it is infinite"):
        evidence(Card(margin=float("inf")))


ALONG = {"sharpness": 4.0, "cosine": 0.5, "share": 0.1}


def _of_a_sentence():
    """Names of what a calibration reads of a sentence, where everything is known around it."""
    windows = Windows(firing=["one two"] * 3, silent=["three four"] * 3, words={"one": 1.0}, along_row=ALONG)
    row = {"feature": "7", "condition": "fires", "sample": 0, "text": 'The final token is "one".'}
    text = TextInContext(
        row=Row.of(whole(row), "rows.jsonl"), reading="fires", windows=windows, lens=(["one"], ["one"]),
        other='The final token is "two".',
    )  # fmt: skip
    reference = Reference(sentences={"token": ['The final token is "three".']}, embedder=LexicalEmbedder(width=64))
    return {name for name, value in sentence_evidence(text, reference)[0].items() if value is not None}


def test_every_piece_of_evidence_that_can_be_had_has_words_of_its_own():
    """The page prints these, so that no raw name reaches it."""
    numbers = [name for name, field in Card.model_fields.items() if "float" in str(field.annotation)]
    contexts = {"7": ContextEmbeddings.of(np.eye(4)[:3], np.eye(4)[1:])}
    back = ReadBack(outputs=np.eye(4)[:1], mean=np.zeros(4), sought=Directions.of(Site("m", 1), np.eye(4)[:1], ["7"]))
    told = {"feature": "7", "condition": "auto", "sample": 0, "text": "x", "card": {"margin": 0.1}}
    had = gather_evidence(
        [Row.of(whole(told), "rows.jsonl")],
        np.eye(4)[:1].astype(np.float32),
        read_back={"reconstruction": back, "reconstruction_source": back},
        contexts=contexts,
    )["7"]
    assert {*numbers, *had, *_of_a_sentence(), "arrived"} == set(WORDS)
    assert len(set(WORDS.values())) == len(WORDS)
    assert set(SIGNS) <= set(WORDS)


def test_every_piece_of_evidence_that_ships_is_called_by_its_words():
    shipped = ConfidenceSet.load(tiny.data("tiny-sae") / "confidence.json")
    read = {name for member in shipped.members for name in (*member.needs, *member.confidence.names)}
    assert {"context_gap", "detection_centred", "detection_cosine"} <= read <= set(WORDS)
    assert evidence_words("detection is missing") == "telling where it fires (not measured)"
    assert evidence_words("whatever") == "whatever"


def test_the_page_calls_a_diagnostic_what_evidence_is_called():
    assert {name: words for name, (words, _) in DIAGNOSTICS.items() if name in WORDS} == {
        name: WORDS[name] for name in DIAGNOSTICS if name in WORDS
    }
