"""A search by meaning: made when it is asked for, kept, and never in the way of words."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dragoman.core import Floats, Refusal
from dragoman.embed import Embedder
from dragoman.view import meaning
from dragoman.view.opened import Viewed
from viewed_run import client_of, make_run, words_alone

pytest.importorskip("starlette", reason="run: pip install 'dragoman[view]'")


class Counting:
    """An embedder that counts the texts it is given, and waits where it is told to."""

    name = "counting"

    def __init__(self, gate: threading.Event | None = None, most: int | None = None) -> None:
        self.texts, self._inner, self._gate, self._most = 0, words_alone(), gate, most

    def encode(self, texts: Sequence[str]) -> Floats:
        if self._gate is not None and list(texts) != ["width"]:
            self._gate.wait(20)
        self.texts += len(texts)
        if self._most is not None and self.texts > self._most:
            raise MemoryError
        return self._inner.encode(texts)


def test_the_nearest_are_those_of_the_whole_order_and_of_equals_the_first() -> None:
    rng = np.random.default_rng(0)
    for count, most in ((1000, 100), (1000, 1000), (5, 9), (0, 3)):
        cosines, among = rng.standard_normal(1000).round(1).astype(np.float32), rng.permutation(1000)[:count]
        whole = among[np.argsort(-cosines[among], kind="stable")][:most]
        assert [n for n, _ in meaning.best(cosines, among, most)] == whole.tolist(), (count, most)


def ids(answer: Any) -> list[str]:
    import re

    return re.findall(r'<span class="id">([^<]*)</span>', answer.text)


def test_what_lies_nearest_comes_first_with_its_cosine(tmp_path: Path) -> None:
    view = Viewed(make_run(tmp_path / "run", scored=False), "run", words_alone)
    client = client_of(view)
    assert view.meaning.wait(20)
    answer = client.get("/run/features?q=Text+about+tropical+fruit&by=meaning")
    assert ids(answer)[0] == "19"
    assert 'title="cosine with what was asked"' in answer.text
    assert set(ids(client.get("/run/features?q=tropical+fruit&by=meaning&status=weak"))) <= {
        str(k) for k in range(1, 60, 4)
    }
    assert "by what is said of them" in client.get("/run/feature?id=0").text
    view.close()


def test_cosines_are_those_of_the_embedder(tmp_path: Path) -> None:
    view = Viewed(make_run(tmp_path / "run", 8), "run", words_alone)
    assert view.meaning.wait(20)
    told = view.meaning.near_text("Text about volcanoes")
    with view.index.reading() as database:
        gists = [g for (g,) in database.execute("SELECT gist FROM texts WHERE condition = -1 ORDER BY feature")]
    inner = words_alone()
    assert told is not None
    assert told[: len(gists)] == pytest.approx(
        inner.encode(gists) @ inner.encode(["Text about volcanoes"])[0], abs=1e-5
    )
    view.close()


def test_words_are_found_while_it_is_being_made(tmp_path: Path) -> None:
    gate = threading.Event()
    view = Viewed(make_run(tmp_path / "run"), "run", lambda: Counting(gate))
    client = client_of(view)
    assert view.meaning.state == "not asked for"
    answer = client.get("/run/features?q=beekeeping&by=meaning")
    assert "texts are being read for their meaning" in answer.text
    assert "0" in ids(answer)
    gate.set()
    assert view.meaning.wait(20)
    assert "being read" not in client.get("/run/features?q=beekeeping&by=meaning").text
    view.close()


def test_without_an_embedder_that_is_said_and_words_are_found(tmp_path: Path) -> None:
    def absent() -> Embedder:
        raise Refusal("sentence embedder", "the package is not installed", "run: pip install it")

    view = Viewed(make_run(tmp_path / "run"), "run", absent)
    client = client_of(view)
    assert not view.meaning.wait(20)
    answer = client.get("/run/features?q=beekeeping&by=meaning")
    assert "no search by meaning: the package is not installed; run: pip install it" in answer.text
    assert "0" in ids(answer)
    view.close()


def test_what_was_made_is_kept_and_an_interrupted_making_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meaning, "_BATCH", 4)
    run = make_run(tmp_path / "run")
    first, second, third = Counting(most=45), Counting(), Counting()
    torn = Viewed(run, "run", lambda: first)
    assert not torn.meaning.wait(20)
    assert "the embedder failed (MemoryError)" in torn.meaning.told
    torn.close()
    whole = Viewed(run, "run", lambda: second)
    assert whole.meaning.wait(20)
    assert second.texts < 40
    rows = np.array(whole.meaning._rows)
    whole.close()
    again = Viewed(run, "run", lambda: third)
    assert again.meaning.wait(20)
    assert third.texts == 1  # the width alone
    assert np.array_equal(np.array(again.meaning._rows), rows)
    again.close()


@pytest.mark.parametrize("damage", ["note", "rows", "other"])
def test_what_is_damaged_or_of_another_state_is_made_again(tmp_path: Path, damage: str) -> None:
    run, counting = make_run(tmp_path / "run"), Counting()
    view = Viewed(run, "run", words_alone)
    assert view.meaning.wait(20)
    view.close()
    note = run.path / "meaning.json"
    if damage == "note":
        note.write_text("{")
    elif damage == "rows":
        (run.path / "meaning.f32").write_bytes(b"short")
    else:
        note.write_text(json.dumps({**json.loads(note.read_text()), "state": "another"}))
    again = Viewed(run, "run", lambda: counting)
    assert again.meaning.wait(20)
    assert counting.texts > 60
    again.close()
