"""Windows held out end at their token: firing ones of all strengths, silent ones beside them, siblings'; bounded."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from dragoman.calibration.held_out import KEPT, OutcomeTally, of_words
from dragoman.calibration.sizes import BEFORE, Sizes
from dragoman.core import Refusal
from dragoman.maps.windows import ending_at

SIZES = Sizes(firing=6, silent=5, hard=4)
LEAD = "long long ago somebody said something "


def read(n, order, *, batches=1, seed=0):
    """Latent 0 fires on "apple" and 1, its sibling, on "pear"; each text has one of them, and other words."""
    texts = {k: f"{LEAD}item{k} {'apple' if k % 3 else 'pear'} then rested{k}" for k in range(n)}
    tally = OutcomeTally(("0", "1"), {"0": "1"}, seed=seed)
    for part in np.array_split(np.array(order), batches):
        rows, documents, ends = [], [], []
        for k in part.tolist():
            start = len(LEAD)
            for token in texts[k][start:].split():
                end = texts[k].index(token, start) + len(token)
                rows.append([1.0 + k if token == "apple" else 0.0, 2.0 if token == "pear" else 0.0])
                documents.append(k)
                ends.append(end)
        tally.add(csr_array(np.array(rows)), np.array(documents), np.array(ends), texts)
    return tally.finish(texts, SIZES)


def test_windows_end_where_the_latent_fires_is_silent_and_where_its_sibling_fires():
    found = read(60, range(60))["0"]
    assert [len(found[kind]) for kind in ("firing", "silent", "hard")] == [6, 5, 4]
    assert {w.split()[-1] for w in found["firing"]} == {"apple"} and {w.split()[-1] for w in found["hard"]} == {"pear"}
    assert not any(w.endswith(("apple", "pear")) for w in found["silent"])
    strengths = sorted(int(w.split()[-2].removeprefix("item")) for w in found["firing"])
    assert strengths[0] < 12 < 45 < strengths[-1]  # of all strengths, which rise with the number


def test_no_window_is_kept_of_a_latent_that_fires_too_rarely():
    assert "0" not in read(3, range(3))


@given(st.permutations(range(40)), st.integers(1, 5))
@settings(max_examples=10, deadline=None)
def test_neither_order_nor_batches_matter(order, batches):
    assert read(40, order, batches=batches) == read(40, range(40))


def test_what_is_held_is_bounded():
    tally = OutcomeTally(("0",), {"0": "0"})
    texts = {k: f"word{k} and more" for k in range(500)}
    for k in texts:
        tally.add(csr_array([[1.0], [0.0]]), np.array([k, k]), np.array([len(f"word{k}"), len(texts[k])]), texts)
    assert len(tally._fires["0"]) <= 2 * KEPT
    found = tally.finish(texts, SIZES)["0"]
    assert len(found["firing"]) == 6 and len(found["silent"]) <= 5


def test_windows_of_words():
    texts = [f"{LEAD}{LEAD}about item{k} garden with rain{k}" for k in range(20)]
    found = of_words(texts, ["garden", "absent"], SIZES, seed=0)
    assert list(found) == ["garden"] and [len(found["garden"][kind]) for kind in found["garden"]] == [6, 5, 0]
    assert all(w.endswith(" garden") for w in found["garden"]["firing"])
    assert not any(w.endswith("garden") for w in found["garden"]["silent"])


@given(st.text(alphabet="ab \n", min_size=1, max_size=80), st.data())
@settings(max_examples=60, deadline=None)
def test_a_window_ends_at_its_place_and_is_no_longer_than_asked_for(text, data):
    stop = data.draw(st.integers(1, len(text)))
    window = ending_at(text, stop, before=BEFORE)
    assert text[:stop].endswith(window) and len(window) <= BEFORE


def test_too_little_is_refused():
    with pytest.raises(Refusal, match="nothing can be learnt"):
        Sizes(latents=3)
