"""No property is timed: on a busy machine the first example alone may take longer than any deadline."""

from __future__ import annotations

from hypothesis import settings


def test_no_example_of_a_property_has_a_deadline() -> None:
    assert settings().deadline is None and settings(max_examples=7).deadline is None
