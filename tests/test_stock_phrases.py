"""Stock phrases are recognised by name, flagged by the parser, and ordinary explanations hold none."""

from __future__ import annotations

import pytest

from dragoman.verbalizers.protocol import STOCK_PHRASES, parse, stock_phrases

EG, CJK, END = (phrase.name for phrase in STOCK_PHRASES)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ('A list.\n\nFinal token "e.g." introduces an example, then a name.', (EG,)),
        ('A list.\n\nFinal token "e.g.-". ends a truncated clause.', (EG,)),
        ("A list.\n\nfinal token 'e.g.,' opens an aside.", (EG,)),
        ("The snippet is about a Chinese character used as a keyword.", (CJK,)),
        ("An entry for a Japanese kanji and its reading.", (CJK,)),
        ("A CJK compatibility symbol in a table.", (CJK,)),
        ("A Korean keyword that names a company.", (CJK,)),
        ("Formal text.\n\nFinal token marks the end of text.", (END,)),
        ('A Chinese character.\n\nFinal token "e.g." at the end of text.', (EG, CJK, END)),
    ],
)
def test_each_fallback_is_named(text: str, names: tuple[str, ...]) -> None:
    assert stock_phrases(text) == names


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Names of landmarks (e.g., a tower) in a travel guide.",
        'Final token "example" opens a list; e.g. names of cities follow.',
        "A recipe from a Chinese restaurant, with soy sauce.",
        "A Japanese novel whose main character is a writer.",
        "The end of the text repeats its beginning.",
        "The end of a textbook chapter.",
    ],
)
def test_ordinary_explanations_hold_none(text: str) -> None:
    assert stock_phrases(text) == ()


def test_the_parser_flags_them_and_keeps_the_text_and_its_paragraphs() -> None:
    text = 'A list of sights.\n\nThe phrase "famous for".\n\nFinal token "e.g." introduces a name.'
    got = parse(f"<explanation>\n{text}\n</explanation>")
    assert (got.text, got.problems) == (text, (EG,))
    assert len(got.text.split("\n\n")) == 3 and got.text.split("\n\n")[-1].startswith("Final token")


def test_every_stock_phrase_says_whose_it_is_and_has_a_name_of_its_own() -> None:
    assert len({phrase.name for phrase in STOCK_PHRASES}) == len(STOCK_PHRASES)
    assert all(phrase.whose for phrase in STOCK_PHRASES)
