"""On the embedded pair: a crossed activation beside the target's own at that token, of documents that no map has read.

What is said of both is counted by ``bench/prompts.py``.
"""

from __future__ import annotations

import re

import numpy as np
import pytest

from dragoman import tiny
from dragoman.core import Site
from dragoman.maps.points import carry_points, fit_points
from dragoman.models.harvest import Reader
from dragoman.models.prompts import Activations, Prompt, read_prompts
from dragoman.runs.readings import Readings
from dragoman.runs.texts import Texts
from dragoman.store import read_jsonl

pytestmark = pytest.mark.usefixtures("pair_tokenizers")

READ, ASKED = 14, 12  # texts for the map, each of two documents; prompts
WORD = re.compile(r"(?<= )[a-z]{4,12}(?=[ ,.;])")
DOCUMENTS = read_jsonl(tiny.data("tiny-documents"))


def asked() -> list[str]:
    """Prompts that end with a word, of documents that no map has read."""
    rng, found = np.random.default_rng(0), list[str]()
    rows = [row for row in DOCUMENTS if row["split"] in ("heldout", "test")]
    for at in rng.permutation(len(rows)):
        words = [word for word in WORD.finditer(rows[at]["text"][:140]) if word.start() > 60]
        if words:
            found.append(rows[at]["text"][: words[-1].end()])
    return found[:ASKED]


def centred_cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    a, b = (x - x.mean(axis=0) for x in (a, b))
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    return a @ b.T


def test_a_crossed_activation_is_nearest_the_target_s_own_at_the_same_token() -> None:
    prompts = asked()
    # Few, long and of one length: the first tokens of each are left out, and what fills up the shorter is read as well.
    whole = [row["text"] for row in DOCUMENTS if row["split"] == "map"]
    step = len(whole) // READ
    texts = [" ".join(whole[start : start + step])[:270] for start in range(0, len(whole), step)]
    readings = Readings(source=tiny.SOURCE, target=tiny.TARGET, texts=Texts.of(texts), dtype="bfloat16")
    made = fit_points(readings.aligned(None)[0])

    def read(site: Site) -> Activations:
        return read_prompts(Reader.open(site, dtype="bfloat16"), [Prompt(text=text) for text in prompts])

    own, source = read(tiny.TARGET), read(tiny.SOURCE)
    assert [t.end for t in own.tokens] == [t.end for t in source.tokens] == [len(text) for text in prompts]
    crossed = carry_points(made, source.directions)
    assert (centred_cosines(crossed.unit, own.directions.unit).argmax(axis=1) == np.arange(ASKED)).mean() > 0.9
