"""Which words a feature fires on: against sums made one token at a time, planted words, rules that can be read off."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.sparse import csr_array

from dragoman.core import Refusal
from dragoman.maps import words as module
from dragoman.measures.firing import (
    FORMS,
    FiringWords,
    WordTally,
    final_token,
    named_table,
    names_word,
    one_word,
    quoted,
    word_at,
)
from dragoman.store import write_arrays

TEXTS = (
    'The nurse said, "I don\'t know."\nSarah walked 12 well-known dogs; they needed 3 cats!',
    "Nurses need more than a word. A WORD, a word and the city's parties.",
)
IDS = ("7", "0", "12")


def ends_of(text: str) -> list[int]:
    return [k + 1 for k, c in enumerate(text) if not c.isspace()]


ROWS = [(text, end) for text in TEXTS for end in ends_of(text)]


def brute(f: np.ndarray, rows: list[tuple[str, int]]) -> tuple[list[dict[str, float]], list[dict[str, float]]]:
    words: list[dict[str, float]] = []
    forms: list[dict[str, float]] = []
    for column in f.T:
        mass: dict[str, float] = defaultdict(float)
        form: dict[str, float] = defaultdict(float)
        for x, (text, end) in zip(column, rows, strict=True):
            mass[word_at(text, end)] += x
            for name, rule in FORMS.items():
                form[name] += x * rule(text, end)
        total = column.sum()
        words.append({w: x / total for w, x in mass.items() if x > 0} if total else {})
        forms.append({n: x / total for n, x in form.items()} if total else {})
    return words, forms


def tally(f: np.ndarray, rows: list[tuple[str, int]], cuts: list[int]) -> FiringWords:
    counted = WordTally(IDS)
    for a, b in zip([0, *cuts], [*cuts, len(rows)], strict=True):
        some = rows[a:b]
        counted.add(csr_array(f[a:b]), [t for t, _ in some], np.array([e for _, e in some], np.int64))
    return counted.finish()


@given(
    f=arrays(np.float32, (len(ROWS), len(IDS)), elements=st.sampled_from([0, 0, 0, 0.5, 1.25, 3])),
    cut=st.integers(0, len(ROWS)),
    seed=st.integers(0, 99),
)
def test_shares_are_those_of_one_token_after_another_in_any_order(f: np.ndarray, cut: int, seed: int) -> None:
    words, forms = brute(f.astype(np.float64), ROWS)
    order = np.random.default_rng(seed).permutation(len(ROWS))
    for made in (tally(f, ROWS, [cut]), tally(f[order], [ROWS[k] for k in order], [])):
        for k, feature in enumerate(IDS):
            own, form = made.of(feature)
            first = sorted(words[k].values(), reverse=True)[: module.SHOWN]
            assert list(own.values()) == pytest.approx(first) and sum(own.values()) <= 1 + 1e-9
            assert own == pytest.approx({word: words[k][word] for word in own})
            assert form == pytest.approx(forms[k])
    seen = [word_at(text, end) for text, end in ROWS]
    assert made.base_words == pytest.approx({word: seen.count(word) / len(seen) for word in made.base_words})
    assert made.base_forms == pytest.approx({n: np.mean([rule(t, e) for t, e in ROWS]) for n, rule in FORMS.items()})


def test_a_planted_word_is_found_whatever_pieces_it_is_read_in() -> None:
    f = np.array([[word_at(t, e) == "nurse", 0, word_at(t, e) in ("dogs", "cats")] for t, e in ROWS], float)
    made = tally(f, ROWS, [10, 11])
    assert made.of(7)[0] == {"nurse": 1.0} and made.of("0") == ({}, {})
    words, forms = made.of("12")
    assert words == {"cats": 0.5, "dogs": 0.5} and list(words) == ["cats", "dogs"]
    assert forms["plural"] == 1 and forms["digit"] == 0
    assert one_word(made.of(7)[0]) == "nurse" and one_word(words) is None and one_word(words, least=0.5) == "cats"
    assert one_word({"\n": 1.0}) is None


def test_pruning_keeps_the_words_of_most_activation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ROOM", 8)
    monkeypatch.setattr(module, "KEPT", 4)
    rng = np.random.default_rng(0)
    names = [f"w{k}" for k in range(40)]
    counted, mass = WordTally(["a", "b"]), defaultdict(float)
    for _ in range(30):
        text = " ".join(rng.permutation(names))
        ends = np.array([text.index(f"{n} ") + len(n) if f"{n} " in text else len(text) for n in names])
        f = np.array([[10.0 - k if k < 3 else 0.01, 0] for k in range(40)])
        counted.add(f, [text] * 40, ends)
        for n, x in zip(names, f[:, 0], strict=True):
            mass[n] += x
    own, _ = counted.finish().of("a")
    total = sum(mass.values())
    assert {n: own[n] for n in ("w0", "w1", "w2")} == pytest.approx({n: mass[n] / total for n in ("w0", "w1", "w2")})
    assert sum(own.values()) <= 1 and len(own) < 40


def test_words_are_whole_and_marks_stand_alone() -> None:
    text = TEXTS[0]
    assert (
        word_at(text, text.index("don") + 2) == "don't" and word_at(text, text.index("well-known") + 5) == "well-known"
    )
    assert word_at(text, text.index(",") + 1) == "," and word_at(text, text.index("\n") + 1) == "\n"
    for end in (0, len(text) + 1):
        with pytest.raises(Refusal, match="that ends at character"):
            word_at(text, end)


def test_forms_are_rules_on_the_word_and_its_place() -> None:
    text = TEXTS[0]

    def at(piece: str) -> set[str]:
        end = text.index(piece) + len(piece)
        return {name for name, rule in FORMS.items() if rule(text, end)}

    assert at("The") == {"capital", "sentence start", "line start"}
    assert at('"') == {"quote"} and at(",") == {"comma"} and at("\n") == {"line break"} and at("12") == {"digit"}
    assert at("I") == {"capital"}  # after a comma and a quotation mark
    assert at("Sarah") == {"capital", "sentence start", "line start"}
    assert at("walked") == {"past tense"} and at("dogs") == {"plural"} and at("well-known") == {"hyphenated"}
    assert FORMS["possessive"](TEXTS[1], TEXTS[1].index("city's") + 6)
    assert FORMS["sentence start"](TEXTS[1], TEXTS[1].index("A WORD") + 1)
    assert FORMS["capitals only"](TEXTS[1], TEXTS[1].index("WORD") + 4)


def test_a_word_is_named_whole_in_any_case_or_number() -> None:
    text = 'The NURSES of this city\'s wards say "need", and (a comma) ends it.'
    assert all(names_word(text, w) for w in ("nurse", "Nurses", "ward", "city", "need", "needs", ","))
    assert not any(names_word(text, w) for w in ("nur", "it is", "nee", ".", "war"))
    table = named_table(["one dog", "two Parties", "none"], ["dogs", "party", "dog"])
    assert table.tolist() == [[1, 0, 1], [0, 1, 0], [0, 0, 0]]


def test_the_final_token_is_what_its_sentence_quotes_first() -> None:
    assert final_token('About "x" and "y".\n\nFinal token "Need," pauses; "the end" comes next.') == "need"
    assert final_token("The last word is 'don’t,' it seems") == "don’t" and final_token('Final token "." ends') == "."
    assert final_token('The final token ends.\n\nIt has "quotes"') is None and final_token("no such thing") is None
    assert quoted("the dogs' 'bone' and the cat's «Milch» “a b”") == ("bone", "Milch", "a b")


def test_firing_words_survive_the_disk_and_damage_is_refused(tmp_path: Path) -> None:
    f = np.random.default_rng(1).random((len(ROWS), len(IDS))) * (np.arange(3) != 1)
    made = tally(f, ROWS, [5])
    made.save(tmp_path / "words.safetensors")
    again = FiringWords.load(tmp_path / "words.safetensors")
    assert again == made and [list(w) for w in again.words] == [list(w) for w in made.words]
    write_arrays(tmp_path / "other", {"x": np.zeros(2)}, {"holds": "firings"})
    with pytest.raises(Refusal, match="does not hold firing words"):
        FiringWords.load(tmp_path / "other")
    parts = {"starts": [0, 2, 1], "word": [0, 0], "share": [0.5, 0.5], "form_share": [[0.0], [0.0]]}
    base = {"base_forms": [0.1], "base_words": [0.2]}
    told = {"holds": "firing words", "ids": ["1", "2"], "words": ["a"], "forms": ["digit"]}
    write_arrays(tmp_path / "torn", {k: np.array(v) for k, v in (parts | base).items()}, told)
    with pytest.raises(Refusal, match="do not fit together"):
        FiringWords.load(tmp_path / "torn")
    with pytest.raises(Refusal, match="feature 3: it was not among"):
        made.of(3)


@pytest.mark.parametrize(
    ("f", "ends", "why"),
    [
        (np.ones((2, 3)), [3], "activations"),
        (np.ones((2, 2)), [3, 3], "features are counted"),
        (-np.ones((2, 3)), [3, 3], "negative"),
        (np.full((2, 3), np.nan), [3, 3], "NaN"),
        (np.ones((2, 3)), [3, 400], "ends at character 400"),
    ],
)
def test_rows_that_do_not_pair_are_refused(f: np.ndarray, ends: list[int], why: str) -> None:
    with pytest.raises(Refusal, match=why):
        WordTally(IDS).add(f, [TEXTS[0]] * 2, np.array(ends))
