"""Sums added to in place, against statistics that are made anew at every batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csr_array

from dragoman.core import Refusal
from dragoman.routes import DictionaryStatistics, DirectStatistics
from dragoman.routes.tally import Tally
from planted_worlds import TARGET, sparse_world


def test_a_tally_is_the_statistics_that_accumulate_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dragoman.routes.tally._BAND", 7)
    world = sparse_world(n=3000, p=48, q=56, m=40)
    ids = [str(i) for i in range(40)]
    tally, oracle = Tally(TARGET, ids, 56, pairs=True), DictionaryStatistics.empty(TARGET, ids, 56)
    for numbers in np.split(np.arange(150), [1, 50, 100]):
        mine = np.isin(world.documents, numbers)
        batch = (csr_array(world.f[mine]), world.y[mine], world.documents[mine])
        tally.add(*batch)
        oracle = oracle.accumulate(*batch)
    sums, dictionary = tally.finish()
    assert dictionary and dictionary.direct is sums and isinstance(sums, DirectStatistics)
    for part in ("weight_sum", "weight_sq_sum", "weighted_sum", "y_sum"):
        assert_allclose(getattr(sums, part), getattr(oracle.direct, part), rtol=1e-12, atol=1e-12)
    assert_array_equal(sums.documents, oracle.direct.documents)
    assert_allclose(dictionary.gram.toarray(), oracle.gram.toarray(), rtol=1e-12)
    with pytest.raises(Refusal, match="adding rows: the tally was finished"):
        tally.add(*batch)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"y": np.zeros((2, 5))}, r"activations \(2, 3\), target rows \(2, 5\)"),
        ({"f": csr_array([[0.0, -1, 0], [0, 0, 0]])}, "negative"),
        ({"y": np.array([[np.nan] * 4, [0.0] * 4])}, "NaN"),
        ({"documents": np.array(["a", "b"])}, "they are integers"),
        ({"documents": np.array([1, 8])}, "document 8: its rows came before"),
    ],
)
def test_a_tally_refuses_rows_that_do_not_fit(change: dict[str, Any], sentence: str) -> None:
    tally = Tally(TARGET, ["a", "b", "c"], 4)
    batch: dict[str, Any] = {"f": csr_array(np.ones((2, 3))), "y": np.zeros((2, 4)), "documents": np.array([1, 2])}
    tally.add(**(batch | {"documents": np.array([8, 9])}))
    with pytest.raises(Refusal, match=sentence):
        tally.add(**(batch | change))
