"""On the embedded pair: what is said of a crossed activation, beside what is said of the target's own at that token.

Texts were written from topics, so the category of each is known. The same verbalizer reads the target's own activation
at a word's end and the source's, carried there. Null: the same texts dealt to the other prompts.
"""

from __future__ import annotations

import re

import numpy as np

from dragoman import tiny
from dragoman.core import Site
from dragoman.maps.points import carry_points, fit_points
from dragoman.models.decode import Verbalizer
from dragoman.models.harvest import Reader
from dragoman.models.prompts import Activations, Prompt, read_prompts
from dragoman.runs.readings import Readings
from dragoman.runs.texts import Texts
from dragoman.store import read_jsonl

READ, ASKED = 240, 24  # texts for the map; prompts
WORD = re.compile(r"(?<= )[a-z]{4,12}(?=[ ,.;])")
DOCUMENTS = read_jsonl(tiny.data("tiny-documents"))


def asked() -> list[tuple[str, str]]:
    """(prompt that ends with a word, category), of documents that no map has read."""
    rng, found = np.random.default_rng(0), list[tuple[str, str]]()
    rows = [row for row in DOCUMENTS if row["split"] in ("heldout", "test")]
    for at in rng.permutation(len(rows)):
        words = [word for word in WORD.finditer(rows[at]["text"][:240]) if word.start() > 60]
        if words:
            found.append((rows[at]["text"][: words[-1].end()], rows[at]["category"]))
    return found[:ASKED]


def centred_cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    a, b = (x - x.mean(axis=0) for x in (a, b))
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    return a @ b.T


def named(texts: list[str], categories: list[str]) -> tuple[float, float]:
    """How often a text names its own prompt's category, and how often the category of another prompt."""
    table = np.array([[category in text.lower() for category in categories] for text in texts])
    other = np.array([[a != b for b in categories] for a in categories])
    return float(np.diag(table).mean()), float(table[other].mean())


def test_a_crossed_activation_is_named_about_as_often_as_the_target_s_own() -> None:
    prompts, categories = (list(some) for some in zip(*asked(), strict=True))
    texts = [row["text"] for row in DOCUMENTS if row["split"] == "map"][:: 1000 // READ][:READ]
    readings = Readings(source=tiny.SOURCE, target=tiny.TARGET, texts=Texts.of(texts))
    made = fit_points(readings.aligned(None)[0])

    def read(site: Site) -> Activations:
        return read_prompts(Reader.open(site), [Prompt(text=text) for text in prompts])

    own, source = read(tiny.TARGET), read(tiny.SOURCE)
    assert [t.end for t in own.tokens] == [t.end for t in source.tokens] == [len(text) for text in prompts]
    crossed = carry_points(made, source.directions)
    assert (centred_cosines(crossed.unit, own.directions.unit).argmax(axis=1) == np.arange(ASKED)).mean() > 0.9
    verbalizer = Verbalizer.open("tiny-gemma-av")
    said = verbalizer.verbalize(np.concatenate([own.directions.unit, crossed.unit]), max_new_tokens=24)
    words = [one.text for one in said]
    (own_rate, own_dealt), (rate, dealt) = named(words[:ASKED], categories), named(words[ASKED:], categories)
    assert own_rate > own_dealt + 0.2  # the verbalizer reads its own model's activations at all
    assert rate > dealt + 0.2 and rate > own_rate - 0.25
