"""Random latents fire as often as asked, and as a dictionary's encoder does."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from dragoman.core import Refusal, Site
from dragoman.measures.fake import fake_dictionary

SITE = Site.parse("org/source:3")


@pytest.mark.parametrize("draw", ["isotropic", "covariance"])
def test_each_latent_fires_at_its_rate_and_by_its_projection(draw):
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(4000, 12)) * np.linspace(0.2, 5, 12) + 3).astype(np.float32)
    rates = np.geomspace(0.001, 0.3, 80)
    directions, encoder = fake_dictionary(x, rates, site=SITE, seed=1, draw=draw)
    f = encoder.encode(x)
    assert f.dtype == np.float32 and f.shape == (4000, 80) and (encoder.d_in, encoder.d_sae) == (12, 80)
    assert_allclose((f > 0).sum(axis=0), np.rint(rates * 4000), atol=1)
    projected = (x - x.mean(axis=0)) @ directions.unit.T
    for j in range(80):
        fires = f[:, j] > 0
        assert projected[fires, j].min() >= projected[~fires, j].max() - 1e-4
    assert directions.ids[:2] == ("fake-0", "fake-1") and directions.kind == "custom"
    again, _ = fake_dictionary(x, rates, site=SITE, seed=1, draw=draw)
    other, _ = fake_dictionary(x, rates, site=SITE, seed=2, draw=draw)
    assert (again.unit == directions.unit).all() and not np.allclose(other.unit, directions.unit)


def test_latents_drawn_by_covariance_lie_where_the_stream_varies():
    x = np.random.default_rng(3).normal(size=(500, 10)) * np.r_[10.0, np.ones(9)]
    spread = {
        draw: np.mean(np.square(fake_dictionary(x, np.full(200, 0.1), site=SITE, seed=0, draw=draw)[0].unit[:, 0]))
        for draw in ("isotropic", "covariance")
    }
    assert spread["isotropic"] == pytest.approx(0.1, abs=0.03)
    assert spread["covariance"] > 0.6


def test_rates_that_are_none_are_refused():
    x = np.random.default_rng(4).normal(size=(50, 4))
    for rates in ([0.0], [1.0], [], [[0.1]]):
        with pytest.raises(Refusal, match="rates between 0 and 1"):
            fake_dictionary(x, np.array(rates), site=SITE, seed=0)
    with pytest.raises(Refusal, match="of 50 rows a latent would fire at 0"):
        fake_dictionary(x, np.array([0.001]), site=SITE, seed=0)
    _, encoder = fake_dictionary(x, np.array([0.1]), site=SITE, seed=0)
    with pytest.raises(Refusal, match="the encoder reads width 4"):
        encoder.encode(np.ones((2, 5)))
