"""Which features a line of words means: ids, ranges, all, files, the most often firing, a draw; what is refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import dragoman
from dragoman.core import Refusal
from dragoman.dictionaries import Asked, Dictionary
from dragoman.maps import Crossing
from dragoman.maps.dictionary import to_watch
from dragoman.runs.crossings import fit_crossing
from dragoman.store import RunFolder
from small_world import Said, World, command
from test_dictionary_commands import explaining, refused, sae

DEAD = (4, 9)
Command = Callable[..., Said]


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    monkeypatch.setenv("COLUMNS", "80")
    return lambda *words: command(monkeypatch, capsys, *map(str, words))


@pytest.fixture
def opened(world: World, tmp_path: Path) -> Dictionary:
    """30 features, two of them dead."""
    return dragoman.open_dictionary(sae(tmp_path / "sae", dead=DEAD), site=world.source)


def ids(opened: Dictionary, words: str, **how: object) -> list[str]:
    return list(opened.features(words, **how))  # type: ignore[arg-type]


# --- what is meant --------------------------------------------------------------------------------------------------


def test_ids_ranges_and_mixtures_keep_the_order_they_are_written_in(opened: Dictionary) -> None:
    assert ids(opened, "12") == ["12"] and ids(opened, "7, 3") == ["7", "3"]
    assert ids(opened, "0-3") == ["0", "1", "2", "3"] and ids(opened, "5-5") == ["5"]
    assert ids(opened, "29,0-2,10") == ["29", "0", "1", "2", "10"]


def test_all_and_ranges_set_dead_rows_aside_and_name_them(opened: Dictionary) -> None:
    whole = opened.features("all").directions
    assert whole is opened.rows() and whole.dead == ("4", "9") and len(whole) == 28
    some = opened.features("3-5,9-11").directions
    assert some.ids == ("3", "5", "10", "11") and some.dead == ("4", "9")
    assert opened.features("3,5").directions.dead == ()
    np.testing.assert_array_equal(some.unit[1], opened.features([5]).directions.unit[0])


def test_a_file_names_one_id_a_line(opened: Dictionary, tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_text("\ufeff7\n\n  3 \r\n11\n")
    assert ids(opened, f"@{tmp_path}/ids.txt") == ["7", "3", "11"]
    assert ids(opened, f"0,@{tmp_path}/ids.txt,20-21") == ["0", "7", "3", "11", "20", "21"]


def test_a_draw_is_by_its_seed_of_living_rows_that_are_not_named(opened: Dictionary) -> None:
    one = ids(opened, "random:5", seed=1)
    assert one == ids(opened, "random:5", seed=1) != ids(opened, "random:5", seed=2) and len(set(one)) == 5
    every = ids(opened, "random:28")
    assert sorted(every, key=int) == [str(k) for k in range(30) if k not in DEAD] and every != sorted(every, key=int)
    both = ids(opened, "0-19,random:10")
    assert sorted(both[18:], key=int) == [str(k) for k in range(20, 30)]


def test_top_takes_those_that_fire_in_most_documents_equals_by_number(opened: Dictionary) -> None:
    firings = {str(k): float(k % 7) for k in range(30)}
    # 6: 6, 13, 20, 27; then 5: 5, 12, 19, 26; 4 is dead.
    assert ids(opened, "top:6", firings=firings) == ["6", "13", "20", "27", "5", "12"]
    assert ids(opened, "13,top:4", firings=firings) == ["13", "6", "20", "27", "5"]
    assert ids(opened, "top:9", firings=firings)[8:] == ["11"], "4 has no direction, though it is counted"
    seen = ids(opened, "top:2,random:3", firings=firings, seed=3)
    assert seen[:2] == ["6", "13"] and len(set(seen)) == 5


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("3,,4", "features '3,,4': an id is empty"),
        ("0-99", "features 0-99 of .*: it has 30 features .d_sae 30.; name ids from 0 to 29"),
        ("0-999999999999", "features 0-999999999999 of .*: it has 30 features"),
        ("9-3", "features '9-3': it runs backwards; write 3-9"),
        ("3,bees", "feature bees of .*: it has 30 features"),
        ("30", "feature 30 of .*: it has 30 features"),
        ("3,3", "features '3,3': 3 is there twice"),
        ("0-9,5", "feature 5 of .*: it is named twice, by 0-9 and by 5"),
        ("0-9,8-12", "feature 8 of .*: it is named twice, by 0-9 and by 8-12"),
        ("5,05", "feature 5 of .*: it is named twice, by 5 and by 05"),
        ("3,4", "feature 4 of .*: its row is zero"),
        ("4-4", "features '4-4' of .*: none of them has a direction"),
        ("all,3", "features 'all,3': all names every feature already; say all alone"),
        ("top:0", "features 'top:0': it takes a whole number of 1 or more; write top:100"),
        ("random:many", "features 'random:many': it takes a whole number"),
        ("random:3,random:4", "random is there twice"),
        ("random:29", "features random:29 of .*: 28 of its 30 features have a direction .*; ask for 28 at most"),
        ("top:3", "features top:3 of .*: how often its features fire was not counted; fit a crossing"),
        ("@", "features '@': no file is named"),
        ("7" * 201, "no id has 201 characters"),
    ],
)
def test_words_that_mean_nothing_there_are_one_sentence_with_the_offender(
    opened: Dictionary, words: str, sentence: str
) -> None:
    with pytest.raises(Refusal, match=sentence) as refusal:
        opened.features(words)
    assert "\n" not in str(refusal.value)


def test_top_is_refused_where_some_were_not_counted_or_too_few_fire(opened: Dictionary) -> None:
    some = {str(k): 1.0 for k in range(20)}
    with pytest.raises(Refusal, match="features top:3 of .*: firings of 10 of its 30 features were not counted"):
        opened.features("top:3", firings=some)
    without_dead = {str(k): float(k < 12) for k in range(30) if k not in DEAD}
    assert len(opened.features("top:10", firings=without_dead)) == 10, "rows without a direction need no counts"
    with pytest.raises(Refusal, match="10 features that are not named otherwise fire in the texts.*10 at most"):
        opened.features("top:11", firings=without_dead)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (b"1\n2,3\n", r"ids.txt, line 2: '2,3' is no id; write one id a line"),
        (b"1\n0-9\n", "ids.txt, line 2: '0-9' is no id"),
        (b"1\n2\n1\n", "ids.txt, line 3: 1 stands in line 1 too"),
        (b"\n \n", "ids.txt: there is no id in it"),
        (b"\xff\xfe1", "ids.txt: it is no text"),
    ],
)
def test_a_file_that_holds_no_ids_is_refused_by_its_line(tmp_path: Path, text: bytes, sentence: str) -> None:
    (tmp_path / "ids.txt").write_bytes(text)
    with pytest.raises(Refusal, match=sentence):
        Asked.parse(f"@{tmp_path}/ids.txt")
    with pytest.raises(Refusal, match="No such file"):
        Asked.parse(f"@{tmp_path}/none.txt")


def test_one_that_asks_for_every_row_has_all_watched_at_once(opened: Dictionary) -> None:
    rows = opened.rows()
    assert to_watch(rows, rows.ids) == rows.ids


# --- from the command line and from Python ---------------------------------------------------------------------------


def test_explain_takes_the_most_often_firing_of_a_crossing_and_counts_them_itself(
    shell: Command, world: World, tmp_path: Path
) -> None:
    fitted = fit_crossing(world.request().open(), world.target, texts=world.root / "texts.txt")
    fitted.save(tmp_path / "crossing")
    table = fitted.direct
    assert table is not None
    often = sorted(range(30), key=lambda k: (-float(table.n_eff[k]), k))[:3]
    how = ("--by", world.av, "--source", world.source, "--max-new-tokens", "4")
    through = ("--through", tmp_path / "crossing", "-o", tmp_path / "through")
    fresh = ("--texts", world.root / "texts.txt", "-o", tmp_path / "fresh")
    for more in (through, fresh):
        said = shell("explain", world.sae, *how, "--features", "top:3", *more)
        assert said.code == 0, said.err
        assert RunFolder.open(more[-1]).manifest["features"] == [str(k) for k in often]
    assert RunFolder.open(tmp_path / "fresh").rows() == RunFolder.open(tmp_path / "through").rows()


def test_all_and_a_range_say_what_is_set_aside(shell: Command, world: World, tmp_path: Path) -> None:
    folder = sae(tmp_path / "sae", dead=tuple(range(2, 29)))
    for words, left in (("all", ["0", "1", "29"]), ("0-4", ["0", "1"])):
        out = tmp_path / words
        said = shell(*explaining(world, folder, out, "--features", words, "--map", "post", "--route", "map"))
        assert said.code == 0 and "set aside" in said.err and "(2, 3, 4" in said.err, said.err
        assert RunFolder.open(out).manifest["features"] == left


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (("--map", "post", "--route", "map"), "features 'top:3' of .*: the post's map counts no firings"),
        (("--route", "as-is"), "features 'top:3' of .*: how often they fire is counted on the way to another stream"),
    ],
)
def test_top_is_refused_before_any_model_where_nothing_counts(
    shell: Command, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...], sentence: str
) -> None:
    monkeypatch.setattr("dragoman.models.decode.Verbalizer.open", lambda *_a, **_k: pytest.fail("a model was opened"))
    said = shell(*explaining(world, world.sae, tmp_path / "run", "--features", "top:3", *more))
    refused(said)

    assert re.search(sentence, said.err), said.err


def test_a_large_dictionary_or_plain_vectors_have_no_top_of_themselves(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dragoman.runs.crossings.WHOLE", 20)
    how = {"by": world.av, "out": tmp_path / "run", "features": "top:2"}
    sae_here = dragoman.open_dictionary(world.sae, site=world.source)
    with pytest.raises(Refusal, match="of its 30 features only those asked for and 2000 others would be counted"):
        dragoman.explain(sae_here, **how)  # type: ignore[arg-type]
    np.save(tmp_path / "v.npy", world.rows)
    vectors = dragoman.open_dictionary(tmp_path / "v.npy", site=world.source)
    with pytest.raises(Refusal, match="features 'top:2' of .*: vectors have no encoder that could fire"):
        dragoman.explain(vectors, **how)  # type: ignore[arg-type]


def test_a_fit_takes_the_same_words_but_top(shell: Command, world: World, tmp_path: Path) -> None:
    rest = ("--by", world.av, "--source", world.source, "--texts", world.root / "texts.txt", "-o", tmp_path / "c")
    said = shell("fit", world.sae, *rest, "--features", "top:4")
    assert "features 'top:4' of a fit: which features fire most often is known once it is fitted" in refused(said)
    assert shell("fit", world.sae, *rest, "--features", "0-4,random:2").code == 0
    assert Crossing.load(tmp_path / "c").target == world.target
