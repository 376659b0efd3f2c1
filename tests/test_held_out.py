"""What held-out documents tell: windows of all strengths, silent documents, shares of words; nothing hangs on order."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from dragoman.calibration.held_out import KEPT, HeldOutTally, of_words
from dragoman.calibration.sizes import Sizes
from dragoman.core import Refusal

SIZES = Sizes(firing=6, silent=5)
LEAD = "long long ago somebody said something "


def read(n, order, *, batches=1, seed=0):
    """Latent 0 fires on "apple", the more the later the text, and at half of that on "then"; 1 fires nowhere.

    Every third text has "pear" in its place.
    """
    texts = {k: f"{LEAD}item{k} {'apple then' if k % 3 else 'pear now'} rested{k}" for k in range(n)}
    tally = HeldOutTally(("0", "1"), seed=seed)
    for part in np.array_split(np.array(order), batches):
        rows, documents, ends = [], [], []
        for k in part.tolist():
            start = 0
            for token in texts[k].split():
                end = texts[k].index(token, start) + len(token)
                start = end
                rows.append([{"apple": 1.0, "then": 0.5}.get(token, 0.0) * (1 + k), 0.0])
                documents.append(k)
                ends.append(end)
        tally.add(csr_array(np.array(rows)), np.array(documents), np.array(ends), texts)
    return tally.finish(texts, SIZES)


def test_windows_are_of_all_strengths_and_silent_ones_of_documents_without_a_firing():
    found = read(60, range(60))["0"]
    assert [len(found[kind]) for kind in ("firing", "silent")] == [6, 5]
    assert all("apple then rested" in window for window in found["firing"])
    assert not any("apple" in window or "then" in window for window in found["silent"])
    strengths = [int(window.split("item")[1].split()[0]) for window in found["firing"]]
    assert strengths == sorted(strengths, reverse=True)  # which rise with the number
    assert strengths[-1] < 12 and strengths[0] > 45


def test_words_have_their_shares_of_the_activation():
    found = read(30, range(30))
    assert found["0"]["words"] == {"apple": pytest.approx(2 / 3, abs=1e-4), "then": pytest.approx(1 / 3, abs=1e-4)}
    assert found["1"] | {"silent": []} == {"firing": [], "silent": [], "words": {}}


@given(st.permutations(range(40)), st.integers(1, 5))
@settings(max_examples=10, deadline=None)
def test_neither_order_nor_batches_matter(order, batches):
    assert read(40, order, batches=batches) == read(40, range(40))


def test_another_seed_draws_other_windows():
    assert read(200, range(200), seed=1)["0"]["silent"] != read(200, range(200))["0"]["silent"]


def test_what_is_held_is_bounded():
    tally = HeldOutTally(("0", "1"))
    texts = {k: f"word{k} and more" for k in range(500)}
    for k in texts:
        fired = csr_array([[1.0, 0.0], [0.0, 0.0]])
        tally.add(fired, np.array([k, k]), np.array([len(f"word{k}"), len(texts[k])]), texts)
    assert len(tally._firing[0]) <= 2 * KEPT and len(tally._silent[1]) <= 2 * KEPT
    assert not tally._silent[0] and not tally._firing[1]
    found = tally.finish(texts, SIZES)
    assert len(found["0"]["firing"]) == 6 and len(found["1"]["silent"]) == 5


def test_windows_of_words():
    texts = [f"{LEAD}about item{k} {'garden' if k % 2 else 'house'} with rain{k}" for k in range(20)]
    found = of_words(texts, ["garden", "absent"], SIZES, seed=0)
    assert [len(found["garden"][kind]) for kind in ("firing", "silent")] == [6, 5]
    assert all("garden" in window for window in found["garden"]["firing"])
    assert not any("garden" in window for window in found["garden"]["silent"])
    assert found["garden"]["words"] == {"garden": 1.0} and found["absent"]["firing"] == []
    assert of_words(texts, ["absent", "garden"], SIZES, seed=0) == found


def test_too_little_is_refused():
    with pytest.raises(Refusal, match="nothing can be learnt"):
        Sizes(latents=3)
