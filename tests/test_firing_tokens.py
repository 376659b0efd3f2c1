"""Activations at every token of the windows in which features fire: exact against all rows, whole or refused."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from asking import explain
from dragoman.core import Directions, Refusal
from dragoman.maps import Crossing
from dragoman.maps.aligned import Aligned, by_name, contexts
from dragoman.maps.firing_tokens import FiringTokens, TokenTally, token_windows
from dragoman.maps.windows import sentences_around
from dragoman.models.aligned import read_aligned
from dragoman.records import TokenWindow
from dragoman.runs.crossings import by_tokens, tokens_of, windows_of
from dragoman.store import RunFolder, document_name
from dragoman.store.firing import read_tokens, token_places, windows_at, write_tokens
from dragoman.store.runs import TOKENS
from planted_readers import FIRST, WORDS, PlantedPair, planted_pair
from small_world import World

PIECES = re.compile(r"\s*\S+")


@pytest.fixture(scope="module")
def pair() -> PlantedPair:
    return planted_pair(documents=120, rate=0.05, source_sinks={(3, 7): 80.0})


@pytest.fixture(scope="module")
def aligned(pair: PlantedPair) -> Aligned:
    return read_aligned(pair.source, pair.target, pair.texts, pair.encoder, options=FIRST)


def test_every_token_of_every_window_has_the_activation_of_its_row(pair: PlantedPair, aligned: Aligned) -> None:
    assert aligned.firings and aligned.tokens
    table = pair.source.rows(pair.texts).x  # all but the first word of each text
    f = pair.encoder.encode(table).reshape(len(pair.texts), WORDS - 1, -1)
    number = {document_name(text): d for d, text in enumerate(pair.texts)}
    texts, seen, silent, unread = by_name(pair.texts), 0, 0, 0
    for m in range(40):
        windows, _ = contexts(aligned.firings, texts, m, rng=np.random.default_rng(0))
        found = token_windows(aligned.firings, aligned.tokens, texts, str(m))
        assert len(found) == len(windows)
        for k, (text, one) in enumerate(zip(windows, found, strict=True)):
            d = number[int(aligned.firings.documents[m, k])]
            first = pair.texts[d].index(text)
            assert "".join(token for token, _ in one.tokens(text)) == text
            for token, strength in one.tokens(text):
                word = len(pair.texts[d][: first + len(token)].split()) - 1
                first += len(token)
                assert PIECES.fullmatch(token)
                if strength is None:
                    assert word == 0 or (d, word) == (3, 7), "the first token of a text and a sink are not read"
                    unread += 1
                else:
                    assert strength == pytest.approx(max(float(f[d, word - 1, m]), 0), rel=1e-4)
                    seen, silent = seen + (strength > 0), silent + (strength == 0)
            assert max(one.fires) == pytest.approx(float(aligned.firings.strength[m, k]), rel=1e-4)
    assert min(seen, silent, unread) > 30


def test_they_survive_the_disk_and_are_the_same_bytes(pair: PlantedPair, aligned: Aligned, tmp_path: Path) -> None:
    aligned.save(tmp_path / "one")
    again = Aligned.load(tmp_path / "one")
    assert again.tokens and again.tokens.ids == aligned.tokens.ids  # type: ignore[union-attr]
    turned = read_aligned(pair.source, pair.target, pair.texts[::-1], pair.encoder, options=FIRST)
    turned.save(tmp_path / "two")
    assert (tmp_path / "one/tokens.safetensors").read_bytes() == (tmp_path / "two/tokens.safetensors").read_bytes()


def test_what_others_displaced_is_forgotten_and_nothing_else(
    pair: PlantedPair, aligned: Aligned, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = list[int]()

    def forgetful(tally: TokenTally, features: int) -> None:
        plain(tally, features)
        tally._most = 0

    def noting(tally: TokenTally, *told: Any) -> None:
        add(tally, *told)
        held.append(len(tally._cells))

    plain, add = TokenTally.__init__, TokenTally.add
    monkeypatch.setattr(TokenTally, "__init__", forgetful)
    monkeypatch.setattr(TokenTally, "add", noting)
    again = read_aligned(pair.source, pair.target, pair.texts, pair.encoder, options=replace(FIRST, batch_size=7))
    assert again.tokens and aligned.tokens
    for name in ("documents", "starts", "ends", "read", "windows", "which"):
        assert (getattr(again.tokens, name) == getattr(aligned.tokens, name)).all(), name
    np.testing.assert_allclose(again.tokens.strength, aligned.tokens.strength, rtol=1e-4)
    assert max(held) <= 40 * 10 and held[-1] == len(np.flatnonzero(again.firings.documents[:, :10] >= 0))  # type: ignore[union-attr]


def test_a_reading_kept_before_has_none_and_still_opens(aligned: Aligned, tmp_path: Path) -> None:
    replace(aligned, tokens=None).save(tmp_path / "old")
    assert not (tmp_path / "old/tokens.safetensors").exists()
    assert Aligned.load(tmp_path / "old").tokens is None


def test_damaged_ones_are_refused(aligned: Aligned, pair: PlantedPair, tmp_path: Path) -> None:
    assert aligned.tokens and aligned.firings
    with pytest.raises(Refusal, match="their windows do not fit together; make them again"):
        replace(aligned.tokens, ids=aligned.tokens.ids[1:])
    with pytest.raises(Refusal, match="of other features than the firings"):
        token_windows(replace(aligned.firings, ids=("x",) * 40), aligned.tokens, by_name(pair.texts), "x")
    none = aligned.tokens
    few = FiringTokens(
        ids=none.ids, documents=none.documents[:0], starts=none.starts[:1], ends=none.ends[:0], read=none.read[:0],
        windows=none.windows, which=none.which, strength=none.strength,
    )  # fmt: skip
    with pytest.raises(Refusal, match=r"document [0-9a-f]{16}: its tokens were not read"):
        token_windows(aligned.firings, few, by_name(pair.texts), "3")
    with pytest.raises(Refusal, match="it does not hold activations of tokens"):
        aligned.firings.save(tmp_path / "other")
        FiringTokens.load(tmp_path / "other")


# --- in runs -----------------------------------------------------------------------------------------------------


def test_a_run_keeps_them_beside_its_windows(world: World, tmp_path: Path) -> None:
    run = explain(world.request(features=("0", "3")), tmp_path / "run")
    found = read_tokens(run)
    read = [" ".join(text.split()) for text in (world.root / "texts.txt").read_text().splitlines()]
    assert run.contexts and list(found) == list(run.contexts)
    for name, windows in found.items():
        texts = run.contexts[name]["firing"]
        assert len(texts) == len(windows)
        for text, one in zip(texts, windows, strict=True):
            assert one.fires and "".join(token for token, _ in one.tokens(text)) == text
            assert any(f"{one.before}{text}{one.after}" in line for line in read)
    again = explain(world.request(features=("0", "3")), tmp_path / "again")
    assert (again.path / TOKENS).read_bytes() == (run.path / TOKENS).read_bytes()


def test_a_crossing_keeps_them_and_one_without_gives_none(world: World, tmp_path: Path) -> None:
    asked = world.request(features=("3",), route="map")
    crossing = by_tokens(asked.open(), asked.readings(world.source, world.target))
    row = Directions.of(world.source, world.rows[3:4], ["3"])
    windows = windows_of(crossing, row, seed=0)
    assert windows
    kept = tokens_of(crossing, windows)
    crossing.save(tmp_path / "kept")
    assert tokens_of(Crossing.load(tmp_path / "kept"), windows) == kept and set(kept) == set(windows)
    replace(crossing, tokens=None).save(tmp_path / "before")
    before = Crossing.load(tmp_path / "before")
    assert before.tokens is None and tokens_of(before, windows) == {} and windows_of(before, row, seed=0) == windows


def run_at(path: Path, plan: str = "a" * 16) -> RunFolder:
    return RunFolder.create(path, {"plan_digest": plan, "conditions": [], "features": ["0"]})


def test_lines_are_read_by_their_places_and_another_runs_are_refused(tmp_path: Path) -> None:
    run, one = run_at(tmp_path / "run"), TokenWindow(ends=(3, 7), at=(1,), fires=(2.5,), unread=(0,))
    assert read_tokens(run) == {} and list(token_places(run.path / TOKENS, run.plan)) == []
    write_tokens(run, {"a": [one], 'b"\n</script>': [one, one]})
    places = list(token_places(run.path / TOKENS, run.plan))
    assert [name for name, _, _ in places] == ["a", 'b"\n</script>']
    assert windows_at(run.path / TOKENS, *places[1][1:], places[1][0]) == (one, one)
    with pytest.raises(Refusal, match="is of another feature; make the run again"):
        windows_at(run.path / TOKENS, *places[0][1:], "b")
    other = run_at(tmp_path / "other", "b" * 16)
    (other.path / TOKENS).write_bytes((run.path / TOKENS).read_bytes())
    with pytest.raises(Refusal, match="it does not hold this run's activations"):
        read_tokens(other)


@pytest.mark.parametrize(
    "line",
    ["[]", '{"feature":3,"windows":[]}', '{"feature":"3","windows":[{"ends":[3,3]}]}', '{"feature":"3"}', "\x00\xff",
     '{"feature":"3","windows":[{"ends":[4],"at":[1],"fires":[1.0]}]}',
     '{"feature":"3","windows":[{"ends":[4],"at":[0],"fires":[-1.0]}]}',
     '{"feature":"3","windows":[{"ends":[4],"at":[0],"fires":[1e999]}]}',
     '{"feature":"3","windows":[]}\n{"feature":"3","windows":[]}'],
)  # fmt: skip
def test_odd_lines_are_refused(line: str, tmp_path: Path) -> None:
    run = run_at(tmp_path / "run")
    write_tokens(run, {})
    with (run.path / TOKENS).open("a") as file:
        file.write(line + "\n")
    with pytest.raises(Refusal, match=re.escape(str(run.path / TOKENS))):
        read_tokens(run)


def test_a_window_in_tokens_is_the_window() -> None:
    one = TokenWindow(ends=(3, 9), at=(1,), fires=(2.5,), unread=(0,))
    assert one.tokens("The zebra runs") == [("The", None), (" zebra", 2.5), (" runs", None)]
    assert TokenWindow().tokens("whole") == [("whole", None)] and TokenWindow().tokens("") == []


TALE = "One day. He said no. Then the zebra ran off home. It was late.\nNext line here"


@pytest.mark.parametrize(
    ("window", "before", "after"),
    [
        ("the zebra ran", "Then ", " off home."),
        ("He said", "", " no."),
        ("He said no.", "", ""),
        ("One", "", " day."),
        ("late.", "It was ", ""),
        ("no. Then", "He said ", " the zebra ran off home."),
        ("Next line", "", " here"),
        ("here", "Next line ", ""),
    ],
)
def test_sentences_are_told_whole(window: str, before: str, after: str) -> None:
    start = TALE.index(window)
    assert sentences_around(TALE, start, start + len(window)) == (before, after)


def test_very_long_sentences_are_cut_at_words_and_scripts_without_spaces_are_not_told() -> None:
    before, after = sentences_around("word " * 200, 500, 519)
    assert set(before.split()) == set(after.split()) == {"word"} and 200 < min(len(before), len(after)) <= 240
    assert sentences_around("漢字" * 400, 500, 520) == ("", "")
