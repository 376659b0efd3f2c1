"""What a verbalizer is taught to say at a position: nothing that is not so, in sentences the product tells apart."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from compare import compared
from corpus import REGISTERS, Document, read_passages
from dragoman.measures.claims import claims_of, declines
from dragoman.models.decode import Verbalizer
from dragoman.models.harvest import Reader
from judged import Told, Truth, f1, figures
from small_world import TEXTS, World
from sources import SOURCES
from targets import NONE, NULL, WEIGHTS, Teller, all_described, final, form_of, null


def words(text: str) -> list[str]:
    return text.split()


SEA = words("the ship and the harbour and the anchor and the sail and the mast were seen by the crew from the deck")
LAW = [
    "the",
    "court",
    "and",
    "the",
    "judge",
    "and",
    "the",
    "jury",
    "and",
    "the",
    "verdict",
    "and",
    "the",
    "statute",
    "were",
    "seen",
    "by",
    "the",
    "crowd",
    "from",
    "the",
    "bench",
]
PLAIN = words("it was so that they came and went and said what they had to say and then it was late and dark again")


def document(words: list[str], rng: np.random.Generator, **more: str) -> Document:
    text = " ".join(f"{w}." if k % 9 == 8 else w for k, w in enumerate(rng.permutation(words * 2)))
    how = {"category": "", "topic": "", "genre": "a novel", "split": "train"} | more
    return Document(text=text, **how)


@pytest.fixture(scope="module")
def teller() -> Teller:
    rng = np.random.default_rng(3)
    sea = [document(SEA, rng, category="travel", topic="sailing ships", genre="an opinion") for _ in range(20)]
    law = [document(LAW, rng, category="law", topic="trial by jury", genre="an opinion") for _ in range(20)]
    return Teller(sea + law + [document(PLAIN, rng) for _ in range(200)])


def kinds(text: str) -> list[str]:
    return [claim.kind for claim in claims_of(text)]


def test_a_theme_is_told_only_where_the_text_bears_it_out(teller: Teller) -> None:
    rng = np.random.default_rng(1)
    about = document(SEA, rng, category="travel", topic="sailing ships", genre="an opinion")
    told = teller.describe(about, len(about.text), rng).text
    assert "travel" in told and NONE not in told
    # A like text of which nothing is planted has the theme by its own words; an unlike one written "from" it has none.
    assert teller.theme(document(SEA, rng), about.text).category == "travel"
    elsewhere = document(PLAIN, rng, category="travel", topic="sailing ships", genre="an opinion")
    assert teller.theme(elsewhere, elsewhere.text).category == ""
    plain = document(PLAIN, rng)
    assert declines(claims_of(teller.describe(plain, len(plain.text), rng).text)[0].text)


def test_a_subject_is_a_headword_or_a_word_that_recurs(teller: Teller) -> None:
    headed = Document("", "", "", "a dictionary entry", "train", subject="otter")
    assert teller.theme(headed, "otter n. a beast").subject == "otter"
    bare = Document("", "", "", "a novel", "train")
    again = "Heathcliff came. Then Heathcliff went. At last Heathcliff's dog was there too. It was late."
    assert teller.theme(bare, again).subject == "Heathcliff"
    once = "Heathcliff came. Then he went. At last a dog was there too. It was late."
    thin = "Heathcliff came. " * 3 + "It was so. " * 40
    assert teller.theme(bare, once).subject == "" and teller.theme(bare, thin).subject == ""
    common = "They went. They came. They said so. They had it."
    assert teller.theme(bare, common).subject == ""  # every text of the kind holds the word


def test_the_product_tells_the_sentences_apart_and_reads_the_token(teller: Teller) -> None:
    rng = np.random.default_rng(2)
    for words in (SEA, PLAIN):
        for end in (40, 77, 120):
            one = document(words, rng, **({"category": "travel", "topic": "sailing ships"} if words is SEA else {}))
            said = teller.describe(one, end, rng)
            assert kinds(said.text) == ["theme", "words", "token"]
            told, truth = Told.of(f"<explanation>\n{said.text}\n</explanation>"), Truth.of(teller, one, end)
            assert set(told.words) == set(truth.words) and len(told.words) in (2, 3)
            assert told.token[0].lower() in one.text[:end].lower().split()[-1]
            assert bool(told.theme) == truth.named_by(told)
    assert kinds(null().text) == ["theme"] and Told.of(null().text).nothing and not Told.of(null().text).theme


def test_what_is_filled_in_weighs_more_than_style(teller: Teller) -> None:
    rng = np.random.default_rng(4)
    about = document(SEA, rng, category="travel", topic="sailing ships", genre="an opinion")
    said = teller.describe(about, len(about.text), rng)
    at = said.text.index("travel")
    assert said.weight(at, at + 6) == WEIGHTS["theme"]
    assert said.weight(0, 2) < WEIGHTS["after"] and said.weight(-9, -2) == 1.0  # the tags around it
    plain = document(PLAIN, rng)
    none = teller.describe(plain, len(plain.text), rng)
    at = none.text.index(NONE)
    assert none.weight(at, at + 5) == WEIGHTS["none"]


@pytest.mark.parametrize(
    ("word", "form"),
    [
        ("house", "a plain word"),
        ("London", "capitalised"),
        ("NASA", "in capitals"),
        ("1984", "a number"),
        ("-->", "a mark"),
        ("x86", "letters and digits"),
        ("self.name", "a name of code"),
        ("getName", "a name of code"),
        ("well-known", "a compound"),
    ],
)
def test_forms_are_told_by_spelling(word: str, form: str) -> None:
    assert form_of(word) == form


def test_the_end_of_a_text_and_quotation_marks_do_no_harm() -> None:
    assert final('He said "stop', "") == ("stop", "a plain word", "goes on", "the end")
    last, _, where, after = final("It ended.", ' "And then" it\nbegan again')
    assert (last, where, after) == ("ended.", "ends a sentence", "And then it")


def test_descriptions_are_the_same_for_the_same_seed(teller: Teller) -> None:
    rng = np.random.default_rng(6)
    some = [document(SEA, rng) for _ in range(3)]
    owner, end = np.array([0, 1, 2, 0]), np.array([50, 60, 70, 80])
    once = all_described(teller, some, owner, end, 9)
    assert once == all_described(teller, some, owner, end, 9) != all_described(teller, some, owner, end, 10)
    assert once == all_described(teller, some, owner, end, 9, workers=2)


def test_figures_count_false_themes_and_declined_ones(teller: Teller) -> None:
    rng = np.random.default_rng(7)
    sea, plain = document(SEA, rng, category="travel", topic="sailing ships"), document(PLAIN, rng)
    truths = [Truth.of(teller, one, len(one.text)) for one in (sea, plain)]
    right = [teller.describe(one, len(one.text), rng).text for one in (sea, plain)]
    found = figures(right, truths)
    assert found["theme"] == found["token"] == found["words"] == 1.0
    assert found["false_theme"] == found["declined"] == found["nothing"] == found["words_dealt"] == 0.0
    wrong = figures(["A passage about law, told as a novel.", "A passage about law, told as a novel."], truths)
    assert wrong["theme"] == wrong["token"] == 0.0 and wrong["false_theme"] == 1.0
    mute = figures([NULL, NULL], truths)
    assert mute["declined"] == mute["nothing"] == 1.0 and mute["false_theme"] == 0.0
    assert f1(["ships", "law"], ["ship", "mast"]) == 0.5 and f1([], ["ship"]) == 0.0


def test_passages_are_read_with_their_kind_and_headword(tmp_path: Path) -> None:
    row = {"text": "otter n. a beast", "register": "dictionary", "work": "dict-x:otter", "split": "map"}
    other = row | {"register": "novel", "text": "It was late", "work": "box:otter", "split": "train"}
    with gzip.open(tmp_path / "p.jsonl.gz", "wt") as file:
        file.write("\n".join(json.dumps(one) for one in (row, other)))
    first, second = read_passages(tmp_path / "p.jsonl.gz")
    assert (first.subject, first.genre, first.split, first.category) == ("otter", "a dictionary entry", "map", "")
    assert second.subject == "" and second.work == "box:otter"
    assert {one.register for one in SOURCES} == set(REGISTERS)


def test_any_verbalizer_is_held_against_the_rule_at_the_same_positions(world: World, teller: Teller) -> None:
    rng = np.random.default_rng(8)
    documents = [Document(text, "", "", "a novel", "train") for text in TEXTS[:4]]
    own = Teller(documents)
    spoken = [
        {"kind": "human", "document": i, "end": 60, "text": own.describe(one, 60, rng).text}
        for i, one in enumerate(documents)
    ] + [{"kind": "null", "text": NULL}]
    verbalizer = Verbalizer.open(world.av)
    found = compared(spoken, documents, verbalizer, Reader.open(verbalizer.site), limit=3)
    assert set(found) == {"human"} and found["human"]["said"]["n"] == 3 == found["human"]["by"]["n"]
    assert found["human"]["said"]["token"] == 1.0 > found["human"]["by"]["token"]  # random weights say nothing of it
