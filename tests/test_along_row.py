"""How a row stands out where its feature fires: numpy's numbers, a bell curve's tail of random ones, the test."""

import numpy as np
import pytest
from scipy.sparse import csr_array
from scipy.stats import norm

from dragoman.confidence.learnt import LearntTest, fit_learnt, line_of
from dragoman.core import Directions, Refusal, Site
from dragoman.maps.along_row import LEAST, along_rows
from dragoman.maps.direct import FiringSums
from dragoman.maps.moments import Moments
from dragoman.measures.fake import fake_dictionary

SITE, WIDTH, DOCUMENTS, TOKENS, RARE = Site("m", 1), 24, 120, 40, 0.02


def stream(seed=0):
    """Activations of 12 sparse features in noise (n, p), the features' rows and when they fire, documents of tokens."""
    rng = np.random.default_rng(seed)
    n = DOCUMENTS * TOKENS
    rows = np.linalg.qr(rng.normal(size=(WIDTH, 12)))[0].T
    f = (rng.random((n, 12)) < RARE) * rng.lognormal(1.8, 0.3, (n, 12))
    return rng.normal(size=(n, WIDTH)) + f @ rows + 3.0, rows, f, np.repeat(np.arange(DOCUMENTS), TOKENS)


def found(rows, f, x, documents, ids=None):
    names = [str(k) for k in range(len(rows))] if ids is None else ids
    fired = FiringSums(SITE, names, WIDTH).add(csr_array(f), x, documents)
    return along_rows(Directions.of(SITE, rows, names), fired, Moments.of(x, x[:, :3]))


def test_it_is_what_numpy_finds_token_by_token():
    x, rows, f, documents = stream()
    one = found(rows, f, x, documents)["3"]
    centred = x - x.mean(axis=0)
    shift = f[:, 3] @ centred / f[:, 3].sum()
    totals = np.bincount(documents, weights=f[:, 3])
    assert one["sharpness"] == pytest.approx(shift @ rows[3] / (centred @ rows[3]).std(), abs=1e-4)
    n_eff = totals.sum() ** 2 / (totals**2).sum()
    length = np.sqrt(shift @ shift - np.sum(centred.var(axis=0)) / n_eff)
    assert one["cosine"] == pytest.approx(shift @ rows[3] / length, abs=1e-4)
    assert one["share"] == pytest.approx(n_eff / DOCUMENTS, abs=1e-6)


def test_few_documents_do_not_take_a_row_further_from_where_its_feature_fires():
    """A bare cosine with a mean over 24 documents is a quarter smaller than with one over all 120."""
    x, rows, f, documents = stream()
    few = documents < 24
    whole, part = found(rows, f, x, documents), found(rows, f[few], x[few], documents[few])
    ratio = np.mean([part[k]["cosine"] for k in whole]) / np.mean([whole[k]["cosine"] for k in whole])
    assert ratio == pytest.approx(1, abs=0.05)


def of_fakes(x, documents):
    _, encoder = fake_dictionary(x, np.full(200, RARE), site=SITE, seed=1)
    return [one["sharpness"] for one in found(encoder.rows, encoder.encode(x), x, documents).values()]


def test_a_fake_stands_out_as_a_bell_curves_tail_does_and_a_learnt_row_more():
    x, rows, f, documents = stream()
    threshold = norm.isf(RARE)
    tail = RARE / (norm.pdf(threshold) - threshold * RARE)  # mean of a normal z, weighted by how far it is above
    noise = np.random.default_rng(7).normal(size=x.shape)
    assert np.mean(of_fakes(noise, documents)) == pytest.approx(tail, rel=0.03)
    own = [one["sharpness"] for one in found(rows, f, x, documents).values()]
    assert min(own) > np.quantile(of_fakes(x, documents), 0.95)


def test_what_was_not_watched_or_never_fired_has_none_and_the_least_is_bounded():
    x, rows, f, documents = stream()
    f = f.copy()
    f[:, 5] = 0
    assert set(found(rows, f, x, documents)) == {str(k) for k in range(12) if k != 5}
    fired = FiringSums(SITE, ["0"], WIDTH).add(csr_array(f[:, :1]), x, documents)
    moments = Moments.of(x, x[:, :3])
    assert along_rows(Directions.of(SITE, rows[1:2], ["1"]), fired, moments) == {}
    assert along_rows(Directions.of(SITE, rows[:1], ["0"], kind="random"), fired, moments) == {}
    turned = along_rows(Directions.of(SITE, -rows[:1], ["0"]), fired, moments)["0"]
    assert turned["sharpness"] == LEAST and turned["cosine"] < 0


def test_another_site_or_width_is_refused():
    x, rows, f, documents = stream()
    fired = FiringSums(SITE, ["0"], WIDTH).add(csr_array(f[:, :1]), x, documents)
    with pytest.raises(Refusal, match="statistics of where features fire"):
        along_rows(Directions.of(Site("m", 2), rows[:1], ["0"]), fired, Moments.of(x, x))
    with pytest.raises(Refusal, match="all three are of the source"):
        along_rows(Directions.of(SITE, rows[:1], ["0"]), fired, Moments.of(x[:, :3], x))


def drawn(sharper, n, rng):
    """Evidence on n latents, ``sharper`` by so much than others."""
    return [
        {"row_sharpness": float(a), "row_cosine": float(b), "row_share": float(c)}
        for a, b, c in zip(rng.normal(1 + sharper, 0.2, n), rng.normal(0.5, 0.1, n), rng.normal(-3, 1, n), strict=True)
    ]


def test_the_test_passes_learnt_latents_and_so_many_fakes_as_the_line_was_drawn_for():
    rng = np.random.default_rng(2)
    latents, fakes, more = drawn(1.2, 300, rng), drawn(0, 200, rng), drawn(0, 2000, rng)
    told = fit_learnt(latents, np.arange(300), fakes, seed=0)
    assert told is not None
    line = line_of(told.fakes, 200)
    test = told.test(line)
    assert test.fakes == np.mean(told.fakes >= line) == 0.01 and test.latents == np.mean(told.latents >= line) > 0.9
    assert test.passes(more).mean() < 0.03 and test.passes(drawn(1.2, 500, rng)).mean() > 0.9
    assert not test.passes([{"row_sharpness": 9.0}, {}]).any(), "what was not measured does not pass"
    assert LearntTest.of(test.to_json(), "again").to_json() == test.to_json()
    again = fit_learnt(latents, np.arange(300), fakes, seed=0)
    assert again is not None and again.test(line).to_json() == test.to_json()


def test_the_line_counts_the_fakes_that_would_be_answered_alone():
    odds = np.linspace(-2, 2, 200)
    assert line_of(odds[:2], 200) < -1e6 and line_of(np.empty(0), 200) < -1e6, "few enough whichever pass"
    assert np.sum(odds[:40] >= line_of(odds[:40], 200)) == 2 and np.sum(odds >= line_of(odds, 200)) == 2
    assert line_of(odds[:40], 200) < line_of(odds, 200)
    assert np.sum(odds >= line_of(odds, 99)) == 0


def test_latents_that_are_like_fakes_pass_as_seldom_as_these():
    rng = np.random.default_rng(3)
    told = fit_learnt(drawn(0, 300, rng), np.arange(300), drawn(0, 200, rng), seed=0)
    assert told is not None and told.test(line_of(told.fakes, 200)).latents < 0.05


def test_few_of_either_give_no_test():
    rng = np.random.default_rng(4)
    assert fit_learnt(drawn(1, 300, rng), np.arange(300), drawn(0, 29, rng), seed=0) is None
    assert fit_learnt(drawn(1, 29, rng), np.arange(29), drawn(0, 300, rng), seed=0) is None
