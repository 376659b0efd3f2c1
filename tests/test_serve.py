"""The service: the texts that ``explain`` gives, bounds, refusals, one worker, an end that is told."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from ar_checkpoints import WIDTH
from asking import explain
from dragoman import Refusal, Run, activations, open_dictionary
from dragoman import explain as main_job
from dragoman.maps import Crossing
from dragoman.runs.crossings import fit_crossing, map_alone
from dragoman.runs.opened import Opened
from dragoman.runs.options import Options
from dragoman.serving.asked import Bounds, refusal_of, request_model
from small_world import World, decoder
from verbalizer_doubles import ScriptedVerbalizer

pytest.importorskip("fastapi", reason="run: pip install 'dragoman[serve]'")
PORT = 8766
HERE = f"http://127.0.0.1:{PORT}"
SHORT = {"max_new_tokens": 6}
TEXT = "The model reads the number of the texts"


@pytest.fixture(scope="module")
def crossing(world: World) -> Crossing:
    return fit_crossing(world.request().open(), world.target, texts=world.root / "texts.txt")


def client_of(opened: Opened, **bounds: Any) -> Any:
    from starlette.testclient import TestClient

    from dragoman.serving.app import app_of
    from dragoman.serving.asked import Bounds
    from dragoman.serving.worker import Worker

    told = Bounds(**bounds)
    worker = Worker(told.waiting)
    made = TestClient(app_of(opened, worker, PORT, told), base_url=HERE, raise_server_exceptions=False)
    made.worker = worker  # type: ignore[attr-defined]
    return made


@pytest.fixture(scope="module")
def opened(world: World, crossing: Crossing) -> Opened:
    """Two random models and their verbalizer, with prompts."""
    return Opened.open(world.request().open(), by=world.av, through=crossing, prompts=True)


@pytest.fixture(scope="module")
def client(opened: Opened) -> Iterator[Any]:
    made = client_of(opened, body=60_000, vectors=5, prompts=2, characters=500)
    yield made
    made.worker.end()


def numbers(vector: Any) -> str:
    """A text that tells which vector it is of: a random model says the same of all."""
    return f"Text about {' '.join(str(round(100 * float(one))) for one in vector)}."


@pytest.fixture(scope="module")
def scripted(world: World, crossing: Crossing) -> Opened:
    """The same, of a verbalizer that tells its vectors apart."""
    by = ScriptedVerbalizer(world.target, WIDTH, numbers)
    return Opened.open(world.request().open(), by=by, through=crossing, prompts=True)


@pytest.fixture(scope="module")
def telling(scripted: Opened) -> Iterator[Any]:
    made = client_of(scripted)
    yield made
    made.worker.end()


def said(answer: Any) -> list[tuple[str, str, str]]:
    assert answer.status_code == 200, answer.text
    return [(one["feature"], one["condition"], one["text"]) for one in answer.json()["explanations"]]


# --- the same texts -------------------------------------------------------------------------------------------------


def test_features_have_the_texts_that_explain_gives(
    client: Any, world: World, crossing: Crossing, tmp_path: Path
) -> None:
    answer = client.post("/explain", json={"features": ["3", "7", "0"], "samples": 2, **SHORT})
    asked = world.request(features=("3", "7", "0"), through=crossing, samples=2, batch_size=None, texts=None)
    run = explain(asked, tmp_path / "run")
    assert said(answer) == [(r["feature"], r["condition"], r["text"]) for r in run.rows()]
    assert len({text for _, _, text in said(answer)}) > 3  # those that are drawn tell features apart
    told = answer.json()
    first = told["explanations"][0]
    assert first["reading"] == "fires" and first["card"]["status"] in ("ok", "weak", "differs", "unverified")
    own = Run(run).explanations()
    assert [one["claims"] for one in told["explanations"]] == [[c.to_json() for c in one.claims] for one in own]
    assert [one["short"] for one in told["explanations"]] == [one.short for one in own]
    assert set(told["too_rare"]) == {"0"} and "effective document" in told["too_rare"]["0"]
    assert told["map_doubt"].startswith("the map is unusable")  # two random models
    assert (told["source"], told["target"]) == (str(world.source), str(world.target))
    assert str(tmp_path) not in answer.text and "/run" not in json.dumps(told["settings"])


def test_vectors_are_read_as_rows_and_never_as_features_of_their_number(telling: Any, scripted: Opened) -> None:
    rows = decoder()[[11, 3]]
    answer = telling.post("/explain", json={"vectors": rows.tolist(), **SHORT})
    wrote = telling.post("/explain", json={"features": ["11", "3"], **SHORT})
    own = {name: text for name, condition, text in said(wrote) if condition == "writes"}
    assert said(answer) == [("0", "writes", own["11"]), ("1", "writes", own["3"])]
    assert all(one["card"]["n_eff"] is None for one in answer.json()["explanations"])  # nobody counted where they fire
    assert scripted.alone is not None and scripted.alone.direct is None
    assert own["11"] != own["3"]


def test_prompts_have_the_texts_that_explain_gives(
    telling: Any, scripted: Opened, world: World, crossing: Crossing, tmp_path: Path
) -> None:
    prompts = [{"text": TEXT, "at": "last"}, {"text": TEXT, "at": "#2"}]
    answer = telling.post("/explain", json={"prompts": prompts, **SHORT})
    read = activations(world.source, prompts)
    run = main_job(read, by=scripted.by, through=crossing, out=tmp_path / "run")
    assert len({one.text for one in run.explanations()}) == 2
    assert said(answer) == [(one.feature, one.condition, one.text) for one in run.explanations()]
    assert answer.json()["explanations"][1]["token"]["position"] == 2


def test_prompts_are_answered_whatever_reading_features_are_asked_for_by(
    telling: Any, scripted: Opened, world: World, crossing: Crossing
) -> None:
    body = {"prompts": [{"text": TEXT, "at": "last"}], **SHORT}
    writes = Opened.open(
        world.request().open(), by=scripted.by, through=crossing, prompts=True, options=Options(reading="writes")
    )
    other = client_of(writes)
    assert said(other.post("/explain", json=body)) == said(telling.post("/explain", json=body))
    other.worker.end()


def test_a_site_alone_answers_vectors_through_a_crossing(
    world: World, crossing: Crossing, telling: Any, scripted: Opened
) -> None:
    opened = Opened.open(world.source, by=scripted.by, through=crossing)
    alone = client_of(opened)
    body = {"vectors": decoder()[[5]].tolist(), **SHORT}
    assert said(alone.post("/explain", json=body)) == said(telling.post("/explain", json=body))
    assert alone.get("/health").json()["asks"] == ["vectors"]
    refused = alone.post("/explain", json={"features": ["5"]})
    assert refused.status_code == 422 and "the body: it names no vectors; send vectors" in refused.json()["message"]
    alone.worker.end()


def test_what_could_carry_nothing_is_refused_early(world: World, crossing: Crossing, tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="name a crossing with --through"):
        Opened.open(world.source, by=world.av)
    with pytest.raises(Refusal, match="it carries from"):
        Opened.open(world.target, by=world.av, through=crossing)
    other = tmp_path / "vectors.npy"
    np.save(other, decoder()[::-1])
    with pytest.raises(Refusal, match="is another row in the dictionary it was fitted on"):
        Opened.open(open_dictionary(other, site=world.source, orientation="rows"), by=world.av, through=crossing)


def test_a_crossing_without_its_dictionary_s_counts_carries_by_the_map_alone(world: World, crossing: Crossing) -> None:
    directions = world.request().open().features(["3"]).directions
    alone = map_alone(crossing)
    np.testing.assert_array_equal(alone.directions(directions, "map").unit, crossing.directions(directions, "map").unit)
    with pytest.raises(Refusal, match="no feature was watched"):
        alone.directions(directions, "direct")


# --- what is refused ------------------------------------------------------------------------------------------------

ROW = [1.0] * WIDTH


def test_a_kind_that_is_not_served_is_named() -> None:
    asked = request_model(("vectors", "prompts"), 3, Bounds())
    with pytest.raises(ValidationError) as wrong:
        asked.model_validate({"features": ["3"]})
    told = str(refusal_of(wrong.value.errors()[0], ("vectors", "prompts")))
    assert told == "the body's features: that is not asked for here; send one of vectors, prompts."


@pytest.mark.parametrize(
    ("body", "status", "sentence"),
    [
        ({"features": ["9999"]}, 404, "feature"),
        ({"features": ["mango"]}, 404, "mango"),
        ({"features": ["3", "3"]}, 422, "it is named twice"),
        ({"features": []}, 422, "the body's features: it has 0 entries, and 1 is the least; send at least 1."),
        ({"features": ["1", "2", "3", "4", "5", "6"]}, 422, "more entries than are taken at once; send at most 5."),
        ({"features": "3"}, 422, "the body's features: it is no list; send a list, in square brackets."),
        ({"features": [3]}, 422, "the body's features.0: it is no text; send a text, in quotes."),
        ({"features": ["3"], "vectors": [ROW]}, 422, "the body's vectors: one request asks for one kind; send one of"),
        ({"features": ["3"], "route": "map"}, 422, "the body's route: there is no such thing to ask for here; leave"),
        ({"vectors": [ROW[:-1]]}, 422, f"it has {WIDTH - 1} numbers, and vectors of the source are {WIDTH} wide"),
        ({"vectors": [[*ROW, 1.0]]}, 422, f"it has {WIDTH + 1} numbers, and vectors of the source are {WIDTH} wide"),
        ({"vectors": [ROW, [0.0] * WIDTH]}, 422, "vector 1: it is zero"),
        ({"vectors": [[3e38] * WIDTH]}, 422, "vector 0: its length is beyond float32; scale it down"),
        ({"features": ["3"], "a\x1b[31m\u202e": 1}, 422, r"the body's a\x1b[31m\u202e: there is no such"),
        ({"vectors": [[1e300, *ROW[1:]]]}, 422, "too large for float32"),
        ({"vectors": [ROW] * 6}, 422, "at most 5"),
        ({"prompts": [{"text": "   "}]}, 422, "there is no word in it"),
        ({"prompts": [{"text": TEXT, "at": "zebra"}]}, 422, "no token ends with it there"),
        ({"prompts": [{"text": TEXT, "at": "all"}]}, 422, "at most 5 are explained at once"),
        ({"prompts": [{"text": "a b " * 100}, {"text": "a b " * 100}]}, 422, "at most 500 are read at once"),
        ({"prompts": [{"text": TEXT}] * 3}, 422, "at most 2"),
        ({"prompts": [{"text": ""}]}, 422, "the body's prompts.0.text: it is empty; write something"),
        ({"prompts": ["a"]}, 422, "the body's prompts.0: it is no JSON object; send an object"),
        ({"prompts": [{}]}, 422, "the body's prompts.0.text: it is missing; send it."),
        ({"vectors": [["1", *ROW[1:]]]}, 422, "the body's vectors.0.0: it is no number; send one, without quotes."),
        ({"features": ["3" * 300]}, 422, "it has more than 200 characters; shorten it."),
        ({"features": ["3"], "max_new_tokens": 4000}, 422, "the body's max_new_tokens: it is above 512; send 512"),
        ({"features": ["3"], "samples": 2.5}, 422, "the body's samples: it is no whole number; send one"),
        ({"features": ["3"], "seed": -1}, 422, "the body's seed: it is below 0; send 0 or more."),
        ({}, 422, "the body: it names neither features, vectors nor prompts; send one of"),
        ([], 422, "neither features"),
    ],
)  # fmt: skip
def test_what_is_asked_wrongly_is_refused_in_one_sentence(client: Any, body: Any, status: int, sentence: str) -> None:
    answer = client.post("/explain", json=body)
    told = answer.json()
    assert answer.status_code == status, answer.text
    assert sentence in told["message"], told
    assert set(told) == {"message", "what", "why", "instead"} and "\n" not in told["message"]
    assert told["message"] == f"{told['what']}: {told['why']}; {told['instead']}."


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_are_none_are_refused(client: Any, number: str) -> None:
    row = ",".join([number, *["1"] * (WIDTH - 1)])
    answer = client.post("/explain", content=f'{{"vectors": [[{row}]]}}', headers={"Content-Type": "application/json"})
    assert answer.status_code == 422 and "finite number" in answer.json()["message"], answer.text


@pytest.mark.parametrize("content", [b"{", b"\xff", b"", b"[" * 9000, b'{"features": ["\xed\xa0\x80"]}'])
def test_bodies_that_are_no_json_are_refused(client: Any, content: bytes) -> None:
    answer = client.post("/explain", content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 404, 422) and answer.json()["message"], answer.text


def test_a_body_of_another_kind_is_refused(client: Any) -> None:
    answer = client.post("/explain", content=b'{"features": ["3"]}', headers={"Content-Type": "text/plain"})
    assert answer.status_code == 422 and "prompts, as application/json." in answer.json()["message"]
    answer = client.post("/explain")
    assert answer.status_code == 422 and answer.json()["message"].startswith("the body: there is none; send an object")


@pytest.mark.parametrize("told", [True, False])
def test_a_body_above_the_bound_is_refused_whether_its_length_is_told_or_not(client: Any, told: bool) -> None:
    def parts() -> Iterator[bytes]:
        yield from [b" " * 10_000] * 10

    answer = client.post("/explain", content=b" " * 100_000 if told else parts())
    assert answer.status_code == 413 and "it takes more than 60000 bytes" in answer.json()["message"]


def test_other_hosts_origins_methods_and_addresses_are_refused(client: Any) -> None:
    body = {"features": ["3"], **SHORT}
    cases = {
        421: {"headers": {"Host": "evil.example"}},
        403: {"headers": {"Origin": "http://evil.example"}},
    }
    for status, how in cases.items():
        answer = client.post("/explain", json=body, **how)
        assert answer.status_code == status and answer.json()["message"]
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert client.post("/explain", json=body, headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
    answer = client.get("/explain")
    assert answer.status_code == 405 and answer.headers["allow"] == "POST"
    for path in ("/", "/docs", "/redoc", "/../etc/passwd"):
        assert client.get(path).status_code == 404 and "/openapi.json" in client.get(path).json()["message"]


# --- what it tells of itself ----------------------------------------------------------------------------------------


def test_health_says_what_is_served(client: Any, world: World) -> None:
    told = client.get("/health").json()
    assert told["status"] == "ok" and told["asks"] == ["features", "vectors", "prompts"]
    assert told["width"] == WIDTH and told["crossing"]["recipe"] == "aligned"
    assert (told["source"], told["target"]) == (str(world.source), str(world.target))
    assert told["bounds"]["vectors"] == 5 and told["busy"] is False and told["waiting"] == 0


def test_metrics_count_requests_and_texts(world: World, crossing: Crossing, opened: Opened) -> None:
    client = client_of(opened)
    client.post("/explain", json={"features": ["3"], **SHORT})
    client.post("/explain", json={"features": ["9999"]})
    client.get("/nowhere")
    told = client.get("/metrics").text
    assert 'dragoman_requests_total{path="/explain",status="200"} 1.0' in told
    assert 'dragoman_requests_total{path="/explain",status="404"} 1.0' in told
    assert 'dragoman_requests_total{path="other",status="404"} 1.0' in told
    assert 'dragoman_explanations_total{kind="features"} 2.0' in told  # two readings
    assert "dragoman_explain_seconds_count 1.0" in told and "dragoman_waiting 0.0" in told
    client.worker.end()


# --- one worker -----------------------------------------------------------------------------------------------------


class Gate:
    """A verbalizer's answer that waits until it is let through."""

    def __init__(self) -> None:
        self.begun, self.open, self.calls = threading.Event(), threading.Event(), 0

    def __call__(self, vector: Any) -> str:
        self.calls += 1
        self.begun.set()
        assert self.open.wait(30)
        return f"Text about gate {int(np.argmax(vector))}."


@pytest.fixture
def gated(world: World, crossing: Crossing) -> tuple[Opened, Gate]:
    gate = Gate()
    gate.open.set()
    opened = Opened.open(
        world.request().open(), by=ScriptedVerbalizer(world.target, WIDTH, gate), through=map_alone(crossing)
    )
    gate.open.clear()
    gate.begun.clear()
    gate.calls = 0
    return opened, gate


def asked_at_once(client: Any, count: int, ready: Callable[[int], None]) -> list[Any]:
    """Answers of requests that are sent one after the other without waiting for answers."""
    answers: list[Any] = [None] * count

    def ask(k: int) -> None:
        answers[k] = client.post("/explain", json={"features": [str(k)]})

    threads = [threading.Thread(target=ask, args=(k,)) for k in range(count)]
    for k, thread in enumerate(threads):
        thread.start()
        ready(k)
    for thread in threads:
        thread.join(60)
    return answers


def until(what: Callable[[], bool]) -> None:
    for _ in range(1000):
        if what():
            return
        threading.Event().wait(0.01)
    raise AssertionError("it never came about")


def test_more_requests_than_may_wait_are_told_so(gated: tuple[Opened, Gate]) -> None:
    opened, gate = gated
    client = client_of(opened, waiting=1)

    def ready(k: int) -> None:
        until(lambda: client.worker.busy if k == 0 else client.worker.waiting == 1)
        if k == 2:
            gate.open.set()

    def third(k: int) -> None:
        if k < 2:
            ready(k)
            return
        refused = client.post("/explain", json={"features": ["9"]})
        assert refused.status_code == 503 and refused.headers["retry-after"] == "5"
        assert refused.json()["message"] == "the service: as many requests wait as may; ask again in a while."
        assert client.get("/health").json()["waiting"] == 1  # others are answered meanwhile
        gate.open.set()

    answers = asked_at_once(client, 2, lambda k: (ready(k), third(2) if k == 1 else None)[0])
    assert [one.status_code for one in answers] == [200, 200]
    client.worker.end()


@pytest.fixture
def late(gated: tuple[Opened, Gate], monkeypatch: pytest.MonkeyPatch) -> None:
    """Two minutes are over when the first batch has begun."""
    from dragoman.serving import app, worker

    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + 120 * gated[1].begun.is_set())
    for part in (app, worker):
        monkeypatch.setattr(part, "time", clock)
    monkeypatch.setattr(app, "_LOOK", 0.01)


def test_work_that_is_late_is_given_up_and_the_next_is_answered(gated: tuple[Opened, Gate], late: None) -> None:
    opened, gate = gated
    client = client_of(opened, seconds=60)
    answer = client.post("/explain", json={"features": ["3"]})
    assert answer.status_code == 504 and "it took too long" in answer.json()["message"]
    gate.open.set()
    until(lambda: not client.worker.busy)
    assert said(client.post("/explain", json={"features": ["4"]}))[0][2].startswith("Text about gate")
    client.worker.end()


def test_a_late_request_says_no_more_batches(gated: tuple[Opened, Gate], late: None) -> None:
    opened, gate = gated
    client = client_of(opened, seconds=60)
    body = {"features": ["1", "2", "3"], "samples": 1}
    opened_small = opened.options.__class__(batch_size=1, reading="writes")
    object.__setattr__(opened, "options", opened_small)
    assert client.post("/explain", json=body).status_code == 504
    gate.open.set()
    until(lambda: not client.worker.busy)
    assert gate.calls == 1  # of three batches
    client.worker.end()


def test_who_waits_is_told_when_the_service_ends(gated: tuple[Opened, Gate]) -> None:
    opened, gate = gated
    client = client_of(opened)

    def ready(k: int) -> None:
        until(lambda: client.worker.busy if k == 0 else client.worker.waiting == 1)
        if k == 1:
            client.worker.end()

    answers = asked_at_once(client, 2, ready)
    assert [one.status_code for one in answers] == [503, 503]
    assert answers[0].json()["message"] == "the service: it ends; start it again, and ask again."
    gate.open.set()
    assert client.worker.join(10)
    assert client.post("/explain", json={"features": ["3"]}).status_code == 503


def test_a_fault_is_one_sentence_and_the_service_goes_on(gated: tuple[Opened, Gate]) -> None:
    opened, gate = gated
    gate.open.set()
    client = client_of(opened)
    whole, opened.by._answer = opened.by._answer, lambda _vector: 1 / 0  # type: ignore[attr-defined]
    fault = client.post("/explain", json={"features": ["3"]})
    assert fault.status_code == 500 and "ZeroDivisionError, which is a fault of dragoman" in fault.json()["message"]
    opened.by._answer = whole  # type: ignore[attr-defined]
    assert client.post("/explain", json={"features": ["3"]}).status_code == 200
    client.worker.end()
