import json

import numpy as np
import pytest
from numpy.testing import assert_allclose

from dragoman.confidence.model import ConfidenceSet
from dragoman.core import Refusal
from dragoman.stats.roc import auroc
from studies.two_steps import fit_two_steps

ASKS = {"right": ("fits", "agree"), "arrived": ("margin",)}


def planted(n=400, seed=0):
    """Right where fits and agree say so; features arrive (margin 0.3), nulls do not, and may fit by accident."""
    rng = np.random.default_rng(seed)
    fits, agree = rng.normal(size=n), rng.normal(size=n)
    right = rng.random(n) < 1 / (1 + np.exp(-(1.5 * fits + 1.0 * agree)))
    rows = [{"fits": f, "agree": a, "margin": m} for f, a, m in zip(fits, agree, rng.normal(0.3, 0.1, n), strict=True)]
    nulls = [
        {"fits": f, "agree": a, "margin": m}
        for f, a, m in zip(rng.normal(size=n), rng.normal(size=n), rng.normal(-0.3, 0.1, n), strict=True)
    ]
    return rows, right, nulls, [f"topic {k % 20}" for k in range(n)]


@pytest.fixture(scope="module")
def trust():
    rows, right, nulls, groups = planted()
    return fit_two_steps(rows, right, nulls, groups=groups, asks=ASKS, fitted_on="planted worlds")


def test_a_probability_is_that_of_arrival_times_that_of_being_right(trust):
    rows, *_ = planted(seed=1)
    arrived = trust.arrived.predict([{"margin": row["margin"]} for row in rows])
    right = trust.right.predict([{"fits": row["fits"], "agree": row["agree"]} for row in rows])
    assert_allclose(trust.predict(rows), arrived * right)


def test_features_keep_their_calibration_and_nulls_are_not_answered(trust):
    rows, right, nulls, _ = planted(n=2000, seed=2)
    p = trust.predict(rows)
    assert auroc(p[right], p[~right]) > 0.8
    for low in (0.2, 0.4, 0.6, 0.8):
        mine = (p >= low) & (p < low + 0.2)
        assert abs(p[mine].mean() - right[mine].mean()) < 0.06
    assert (trust.predict(nulls) >= trust.threshold).mean() <= 0.02
    assert (trust.predict(rows) >= trust.threshold).mean() > 0.3
    assert trust.report["nulls"]["bound"] <= 0.02


def test_a_null_that_fits_by_accident_would_be_believed_without_the_first_step(trust):
    _, _, nulls, _ = planted(n=1000, seed=3)
    alone = trust.right.predict([{"fits": row["fits"], "agree": row["agree"]} for row in nulls])
    assert (alone >= trust.threshold).mean() > 0.2


def test_the_reasons_name_arrival_beside_what_speaks_for_the_words(trust):
    why = trust.why({"fits": 2.0, "agree": 0.0, "margin": -0.4})
    assert set(why) == {"fits", "agree", "arrived"}
    assert why["arrived"] < -1
    assert why["fits"] > 0
    assert list(why) == sorted(why, key=lambda name: -abs(why[name]))


def test_no_line_is_drawn_below_even_odds():
    rows, right, _, groups = planted()
    harmless = [{"fits": -5.0, "agree": -5.0, "margin": -1.0 - 0.001 * k} for k in range(400)]
    assert fit_two_steps(rows, right, harmless, groups=groups, asks=ASKS).threshold == 0.5


def test_too_few_nulls_promise_nothing():
    rows, right, nulls, groups = planted()
    with pytest.raises(Refusal, match="149"):
        fit_two_steps(rows, right, nulls[:100], groups=groups, asks=ASKS)


def test_a_kit_may_hold_both_steps_and_survives_a_file(trust, tmp_path):
    rows, *_ = planted(seed=4)
    kits = ConfidenceSet.holding({"both": (("fits", "agree", "margin"), trust)})
    kits.save(tmp_path / "kits.json")
    back = ConfidenceSet.load(tmp_path / "kits.json")
    said = [one.probability for one in back.predict(rows) if one is not None]
    assert_allclose(said, trust.predict(rows))
    assert back.predict([{"fits": 1.0, "agree": 1.0, "margin": None}]) == [None]
    assert back.members[0].confidence.report["fitted_on"] == "planted worlds"


@pytest.mark.parametrize("part", ["right", "threshold", "report"])
def test_a_torn_kit_of_two_steps_is_refused(trust, part):
    told = json.loads(json.dumps(ConfidenceSet.holding({"both": (("margin",), trust)}).to_json()))
    del told["kits"][0]["confidence"][part]
    with pytest.raises(Refusal, match="damaged"):
        ConfidenceSet.from_json(told)
