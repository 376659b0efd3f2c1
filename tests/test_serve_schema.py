"""The service keeps to its own OpenAPI page: schemathesis makes requests from it, right ones and wrong ones."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from ar_checkpoints import WIDTH
from dragoman.runs.crossings import fit_crossing
from dragoman.runs.opened import Opened
from small_world import World
from verbalizer_doubles import ScriptedVerbalizer

pytest.importorskip("fastapi", reason="run: pip install 'dragoman[serve]'")
schemathesis = pytest.importorskip("schemathesis", reason="run: pip install schemathesis")
PORT = 8766
HOST = {"Host": f"127.0.0.1:{PORT}"}


@pytest.fixture(scope="module")
def app(world: World) -> Any:
    """Two random models, a verbalizer without one, and prompts; no sentence is checked, which takes long."""
    from dragoman.serving.app import app_of
    from dragoman.serving.asked import Bounds
    from dragoman.serving.worker import Worker

    dictionary = world.request().open()
    crossing = fit_crossing(dictionary, world.target, texts=world.root / "texts.txt")
    by = ScriptedVerbalizer(world.target, WIDTH, lambda v: f"Text about number {int(np.argmax(v))}.")
    opened = replace(Opened.open(dictionary, by=by, through=crossing, prompts=True), embedder=None)
    bounds = Bounds(vectors=4, prompts=2)
    return app_of(opened, Worker(bounds.waiting), PORT, bounds)


@pytest.fixture(scope="module")
def api(app: Any) -> Any:
    return schemathesis.openapi.from_asgi("/openapi.json", app, headers=HOST)


def answered(api: Any, address: str, mode: Any) -> Counter[int]:
    """How often each status came back; every answer is as the page says."""
    from schemathesis.specs.openapi.checks import positive_data_acceptance

    operation = next(one for one in (found.ok() for found in api.get_all_operations()) if one.label == address)
    seen: Counter[int] = Counter()

    @settings(max_examples=50, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(operation.as_strategy(generation_mode=mode))
    def asked(case: Any) -> None:
        answer = case.call(headers=HOST)
        seen[answer.status_code] += 1
        left_out = []
        if answer.status_code == 422:  # said in words of dragoman's own, whatever is wrong
            assert not re.search("input|valid|item|not as it must be", answer.json()["message"]), answer.json()
        if mode.is_positive and answer.status_code == 422:
            # No schema can say which words stand in a prompt: what is refused then is never the body's form.
            assert not answer.json()["what"].startswith("the body"), answer.json()
            left_out = [positive_data_acceptance]
        case.validate_response(answer, excluded_checks=left_out)

    asked()
    return seen


def test_right_requests_are_answered_or_refused_for_what_they_say(api: Any) -> None:
    seen = answered(api, "POST /explain", schemathesis.GenerationMode.POSITIVE)
    # How many of each: hypothesis also draws constants of whatever is imported, so other tests of the run decide that.
    assert set(seen) <= {200, 404, 422} and seen[200], seen


def test_wrong_requests_are_refused(api: Any) -> None:
    seen = answered(api, "POST /explain", schemathesis.GenerationMode.NEGATIVE)
    assert set(seen) <= {400, 404, 413, 422} and seen[422], seen


@pytest.mark.parametrize("address", ["GET /health", "GET /metrics"])
def test_what_it_tells_of_itself_is_as_the_page_says(api: Any, address: str) -> None:
    assert answered(api, address, schemathesis.GenerationMode.POSITIVE) == {200: 1}
