"""A crossing as a folder: the same carried, the same bytes, and everything that must not be taken for it refused."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from dragoman.core import Background, Directions, Refusal, Site, frozen
from dragoman.maps import Crossing, DirectTable
from dragoman.maps.artifact import inspect_crossing, lines_of
from dragoman.maps.crossing import ROUTES
from dragoman.maps.diagnostics import usable_means
from dragoman.models.aligned import read_aligned
from dragoman.store import digest, file_sha256, write_json
from planted_readers import FIRST, PlantedPair, planted_pair
from planted_worlds import ELSEWHERE, SOURCE, TARGET, at_source, rows
from small_world import command

TEXTS = [f"text number {k}, é" for k in range(60)]


@pytest.fixture(scope="module")
def pair() -> PlantedPair:
    return planted_pair(documents=160, rate=0.06)


@pytest.fixture(scope="module")
def dictionary(pair: PlantedPair) -> Directions:
    return replace(at_source(pair.world.source), dead=("77",))


@pytest.fixture(scope="module")
def aligned_crossing(pair: PlantedPair, dictionary: Directions) -> Crossing:
    read = read_aligned(pair.source, pair.target, pair.texts, pair.encoder, options=FIRST)
    return Crossing.from_tokens(read, dictionary, seed=3, texts=pair.texts)


@pytest.fixture(scope="module")
def pooled_crossing(pair: PlantedPair, aligned_crossing: Crossing, dictionary: Directions) -> Crossing:
    x, y = rows(60, 48, 56, np.random.default_rng(0))
    told = digest("\n".join(TEXTS))
    means = [Background(s, frozen(a.mean(0) / 9), 60, told) for s, a in ((SOURCE, x), (TARGET, y))]
    return Crossing.from_pooled(
        x, y, *means, direct=aligned_crossing.direct, dictionary=dictionary, lam=7.0, texts=TEXTS
    )


@pytest.fixture(scope="module", params=["aligned", "pooled"])
def crossing(request: pytest.FixtureRequest) -> Crossing:
    return request.getfixturevalue(f"{request.param}_crossing")


@pytest.fixture
def folder(aligned_crossing: Crossing, tmp_path: Path) -> Path:
    aligned_crossing.save(tmp_path / "crossing")
    return tmp_path / "crossing"


def restated(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    index = json.loads((folder / "crossing.json").read_text())
    change(index)
    write_json(folder / "crossing.json", index)


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_loaded_crossing_carries_to_the_bit_what_the_fitted_one_does_and_makes_the_same_cards(
    crossing: Crossing, dictionary: Directions, tmp_path: Path
) -> None:
    crossing.save(tmp_path / "new" / "folder")
    again = Crossing.load(tmp_path / "new" / "folder", source=SOURCE, target=TARGET, dictionary=dictionary.pick("39"))
    assert (again.recipe, again.source, again.target) == (crossing.recipe, SOURCE, TARGET)
    noise = Directions.of(SOURCE, np.random.default_rng(1).normal(size=(5, 48)), range(5), kind="random")
    routes = ROUTES[:-1] if crossing.recipe == "aligned" else ("map", "direct", "blend", "auto")
    for route in routes:
        for asked in (dictionary, noise):
            if asked is noise and route not in ("map", "auto"):
                continue
            (one, cards), (two, same) = crossing.carry(asked, route), again.carry(asked, route)
            assert np.array_equal(one.unit, two.unit) and np.array_equal(one.norms, two.norms)
            assert (one.ids, one.labels, one.origin) == (two.ids, two.labels, two.origin)
            assert cards == same and len(cards) == len(asked)
            assert [c.model_fields_set for c in cards] == [c.model_fields_set for c in same]
    for name in ("background", "source_background"):
        mine, theirs = getattr(crossing, name), getattr(again, name)
        assert np.array_equal(mine.mean, theirs.mean)
        assert (mine.site, mine.n, mine.texts) == (theirs.site, theirs.n, theirs.texts)
    assert again.texts == crossing.texts and again.dead == ("77",) and again.settings == crossing.settings
    assert crossing.map and again.map and again.map.report["held_out"] == crossing.map.report["held_out"]


def test_firings_and_texts_come_along_for_windows(aligned_crossing: Crossing, folder: Path, pair: PlantedPair) -> None:
    again = Crossing.load(folder)
    assert again.firings and aligned_crossing.firings and again.texts == tuple(pair.texts)
    assert np.array_equal(again.firings.documents, aligned_crossing.firings.documents)
    assert again.words == aligned_crossing.words and again.words is not None and any(again.words.words)


def test_the_same_crossing_is_the_same_bytes_also_when_it_was_loaded(crossing: Crossing, tmp_path: Path) -> None:
    crossing.save(tmp_path / "one")
    crossing.save(tmp_path / "two")
    Crossing.load(str(tmp_path / "one")).save(f"{tmp_path}/three/")  # a place may be told in words
    assert contents(tmp_path / "one") == contents(tmp_path / "two") == contents(tmp_path / "three")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["one", "three", "two"]


def test_the_index_names_sites_dictionary_report_and_every_file(folder: Path, aligned_crossing: Crossing) -> None:
    index = json.loads((folder / "crossing.json").read_text())
    assert (index["holds"], index["format"], index["recipe"]) == ("crossing", 1, "aligned")
    assert (index["source"], index["target"]) == (str(SOURCE), str(TARGET))
    assert (index["source_width"], index["target_width"]) == (48, 56)
    assert index["dictionary"] == {"features": 40, "digest": aligned_crossing.dictionary.digest}  # type: ignore[union-attr]
    assert index["held_out"]["fve_unit"] > index["held_out"]["constant_fve_unit"]
    assert index["files"] == {
        name: file_sha256(folder / name) for name in contents(folder) if name not in ("crossing.json", "README.md")
    }


def test_inspect_says_what_its_verdict_means(
    aligned_crossing: Crossing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    aligned_crossing.save(tmp_path / "folder")
    said = command(monkeypatch, capsys, "inspect", str(tmp_path / "folder"))
    penalty = next(line for line in said.out.splitlines() if line.startswith("penalty"))
    assert "which is lambda_rel" in penalty
    verdict, meaning = said.out.splitlines()[7:9]
    assert said.code == 0 and verdict.startswith("good: it explains") and meaning == usable_means()


def test_the_readme_is_a_card_with_baselines_and_no_place_on_this_machine(crossing: Crossing, tmp_path: Path) -> None:
    here = Site(str(tmp_path / "models" / "my-model"), 4)
    moved = replace(crossing, source=here, map=replace(crossing.map, source=here))  # type: ignore[type-var]
    moved.save(tmp_path / "folder")
    text = (tmp_path / "folder" / "README.md").read_text()
    _, front, body = text.split("---\n", 2)
    assert yaml.safe_load(front)["library_name"] == "dragoman"
    assert "dragoman explain SAE --through FOLDER" in body and "| the mean alone | rows dealt at random |" in body
    told = crossing.map.report["held_out"]  # type: ignore[union-attr]
    assert f"| {told['fve_unit']:.3f} | {told['constant_fve_unit']:.3f} |" in body
    assert f"| {told['top1']:.3f} |  | {told['shuffled_top1']:.3f} |" in body
    assert str(tmp_path) not in text and "# From my-model:4 to target-model:12" in body


def test_the_penalty_is_stated_relative_to_the_source_and_with_its_reason(crossing: Crossing, tmp_path: Path) -> None:
    crossing.save(tmp_path / "folder")
    text, fitted = (tmp_path / "folder" / "README.md").read_text(), crossing.map
    assert fitted is not None
    stated = f"lambda {fitted.settings['lam']:.4g}, which is lambda_rel {fitted.settings['lam_rel']:.2g}"
    assert any(stated in line for line in lines_of(inspect_crossing(tmp_path / "folder"))) and stated in text
    assert ((fitted.report.get("penalty") or {}).get("reason") or "Penalty: ") in text


def test_hub_models_are_named_in_the_front_matter(pooled_crossing: Crossing, tmp_path: Path) -> None:
    there = Site("org/model", 4)
    replace(pooled_crossing, source=there, map=replace(pooled_crossing.map, source=there)).save(tmp_path / "a")  # type: ignore[type-var]
    front = (tmp_path / "a" / "README.md").read_text().split("---\n")[1]
    assert yaml.safe_load(front)["base_model"] == ["org/model"]


# --- refusals ----------------------------------------------------------------------------------------------------


def test_other_sites_and_dictionaries_are_refused(folder: Path, dictionary: Directions) -> None:
    with pytest.raises(Refusal, match=r"the source of .* at source-model:20: it is needed at third-model:3"):
        Crossing.load(folder, source=ELSEWHERE)
    with pytest.raises(Refusal, match=r"the target of .* at target-model:12: it is needed at source-model:20"):
        Crossing.load(folder, target=SOURCE)
    with pytest.raises(Refusal, match="dictionary directions at target-model:12"):
        Crossing.load(folder, dictionary=replace(dictionary, site=TARGET))
    other = Directions.of(SOURCE, dictionary.unit[::-1], dictionary.ids)
    with pytest.raises(Refusal, match=r"feature \d+ is another row in the dictionary it was fitted on; name that"):
        Crossing.load(folder, dictionary=other)
    with pytest.raises(Refusal, match="it was fitted on 40 features, and none is 40"):
        Crossing.load(folder, dictionary=Directions.of(SOURCE, dictionary.unit[:1], ["40"]))
    with pytest.raises(Refusal, match="its rows are 47 wide, those it was fitted on are 48 wide"):
        Crossing.load(folder, dictionary=Directions.of(SOURCE, np.eye(47)[:1], ["1"]))


def test_a_dictionary_is_known_in_another_precision_and_length(folder: Path, dictionary: Directions) -> None:
    coarse = Directions.of(SOURCE, 7 * dictionary.unit.astype(np.float16), dictionary.ids)
    assert Crossing.load(folder, dictionary=coarse.pick(["5", "1"])).recipe == "aligned"


def test_another_format_and_another_thing_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="it does not hold a crossing; name a folder"):
        Crossing.load(tmp_path)
    restated(folder, lambda index: index.update(format=2))
    with pytest.raises(Refusal, match="it is a crossing of format 2, and this dragoman reads format 1; use"):
        Crossing.load(folder)
    restated(folder, lambda index: index.update(format=1, colour="red"))
    with pytest.raises(Refusal, match=r"crossing.json: colour: extra inputs are not permitted"):
        Crossing.load(folder)
    restated(folder, lambda index: (index.pop("colour"), index.pop("recipe")))
    with pytest.raises(Refusal, match=r"crossing.json: recipe: field required"):
        Crossing.load(folder)
    (folder / "crossing.json").write_text('{"holds": "cross')
    with pytest.raises(Refusal, match="it is not JSON"):
        Crossing.load(folder)


def test_every_file_that_is_torn_missing_or_changed_is_refused(folder: Path, tmp_path: Path) -> None:
    names = json.loads((folder / "crossing.json").read_text())["files"]
    assert len(names) == 19 and {"words.safetensors", "tokens.safetensors"} <= set(names)
    for name in names:
        for k, damage in enumerate((lambda b: b[:-1], lambda b: b[:-1] + bytes([b[-1] ^ 1]), None)):
            copy = tmp_path / f"{name.replace('/', '-')}-{k}"
            shutil.copytree(folder, copy)
            if damage is None:
                (copy / name).unlink()
            else:
                (copy / name).write_bytes(damage((folder / name).read_bytes()))
            why = "it is missing from the crossing" if damage is None else r"it is not the file .* \(torn or changed\)"
            with pytest.raises(Refusal, match=why):
                Crossing.load(copy)
            shutil.rmtree(copy)


def test_an_index_that_tells_of_other_files_is_refused(folder: Path) -> None:
    whole = json.loads((folder / "crossing.json").read_text())
    sites = {"source": str(ELSEWHERE)}
    for change, why in (
        (sites, "its crossing.json tells of another map than it holds"),
        ({"target_width": 57}, "its crossing.json tells of another map than it holds"),
        ({"files": {k: v for k, v in whole["files"].items() if k != "back.safetensors"}}, "does not name back.safe"),
        ({"files": {}}, "does not name back.safetensors"),
        ({"files": whole["files"] | {"../secret": "0"}}, "names a file outside of it, ../secret; do not use it"),
        ({"files": whole["files"] | {"/etc/hostname": "0"}}, "names a file outside of it"),
    ):
        write_json(folder / "crossing.json", whole | change)
        with pytest.raises(Refusal, match=why):
            Crossing.load(folder)


@pytest.mark.parametrize(
    "part", ["direct.safetensors", "fired.safetensors", "folds/fold-1.safetensors", "texts.jsonl.gz"]
)
def test_an_index_that_leaves_out_a_part_is_refused(folder: Path, part: str) -> None:
    restated(folder, lambda index: index["files"].pop(part))
    for job in (Crossing.load, inspect_crossing):
        with pytest.raises(Refusal, match=f"does not name {part}"):
            job(folder)


@pytest.mark.parametrize(
    "told",
    [
        {"held_out": {}},
        {"source": "other/model:3"},
        {"target_width": 5},
        {"method": "procrustes"},
        {"map_settings": {"lam": 1.0}},
    ],
)
def test_an_index_that_tells_of_another_map_is_refused_also_by_who_only_looks(
    folder: Path, told: dict[str, Any]
) -> None:
    restated(folder, lambda index: index.update(told))
    for job in (Crossing.load, inspect_crossing):
        with pytest.raises(Refusal, match="tells of another map than it holds"):
            job(folder)


@pytest.mark.parametrize(
    ("part", "told", "why"),
    [
        ("dictionary", None, "tells of another dictionary than it was fitted on"),
        ("dictionary", {"features": 3}, "tells of another dictionary than it was fitted on"),
        ("dictionary", {"digest": "0"}, "tells of another dictionary than it was fitted on"),
        ("texts", {"digest": "0"}, "they are not the texts its maps were read from"),
        ("texts", {"n_source": 0}, "n_source: input should be greater than 0"),
    ],
)
def test_an_index_that_tells_of_another_dictionary_or_of_other_texts_is_refused_also_by_who_only_looks(
    folder: Path, part: str, told: dict[str, Any] | None, why: str
) -> None:
    restated(folder, lambda index: index.update({part: told if told is None else index[part] | told}))
    for job in (Crossing.load, inspect_crossing):
        with pytest.raises(Refusal, match=why):
            job(folder)


def test_better_numbers_than_the_map_s_own_are_refused(folder: Path) -> None:
    restated(folder, lambda index: index["held_out"].update(fve_unit=0.99))
    with pytest.raises(Refusal, match="tells of another map than it holds"):
        inspect_crossing(folder)


def test_other_texts_are_refused_on_either_side(
    pair: PlantedPair, dictionary: Directions, pooled_crossing: Crossing, tmp_path: Path
) -> None:
    read = read_aligned(pair.source, pair.target, pair.texts[:40], pair.encoder, options=FIRST)
    with pytest.raises(Refusal, match="39 texts for a crossing: they are not those that both models read"):
        Crossing.from_tokens(read, dictionary, texts=pair.texts[:39])
    pooled_crossing.save(tmp_path / "kept")
    packed = gzip.compress(b'{"text": "another"}\n', mtime=0)
    (tmp_path / "kept" / "texts.jsonl.gz").write_bytes(packed)
    restated(
        tmp_path / "kept",
        lambda index: index["files"].update({"texts.jsonl.gz": file_sha256(tmp_path / "kept" / "texts.jsonl.gz")}),
    )
    with pytest.raises(Refusal, match="they are not the texts its maps were read from"):
        Crossing.load(tmp_path / "kept")


def test_what_cannot_be_shared_is_not_written(pooled_crossing: Crossing, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="no map was fitted; prepare it with route map"):
        replace(pooled_crossing, map=None).save(tmp_path / "a")
    with pytest.raises(Refusal, match="it does not know the dictionary of its direct table"):
        replace(pooled_crossing, dictionary=None).save(tmp_path / "a")
    with pytest.raises(Refusal, match="it is there already"):
        pooled_crossing.save(folder)
    assert not (tmp_path / "a").exists()


def test_who_saves_second_is_told_that_it_is_there(
    pooled_crossing: Crossing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def late(path: Path, obj: Any) -> None:
        (tmp_path / "kept").mkdir()
        (tmp_path / "kept" / "other").touch()
        write_json(path, obj)

    monkeypatch.setattr("dragoman.maps.artifact.write_json", late)
    with pytest.raises(Refusal, match="it is there already"):
        pooled_crossing.save(tmp_path / "kept")
    assert [path.name for path in tmp_path.rglob("*")] == ["kept", "other"]


def test_saving_that_is_interrupted_leaves_nothing(
    pooled_crossing: Crossing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("dragoman.maps.artifact.write_json", stop)
    with pytest.raises(KeyboardInterrupt):
        pooled_crossing.save(tmp_path / "kept")
    assert list(tmp_path.iterdir()) == []


# --- within a model ----------------------------------------------------------------------------------------------


def test_as_is_reads_rows_of_a_neighbouring_block_unchanged_and_checks_them_by_firings() -> None:
    here, there = Site("model", 40), Site("model", 41)
    asked = Directions.of(here, np.eye(4)[:2], ["0", "1"])
    background = Background(there, frozen(np.full(4, 0.4)), 9)
    bare = Crossing(recipe="post", source=here, target=there, background=background)
    carried, cards = bare.carry(asked, "as-is")
    assert carried.site == there and np.array_equal(carried.unit, asked.unit)
    assert [(c.route, c.status, c.coverage) for c in cards] == [("as-is", "unverified", None)] * 2
    table = DirectTable.of(there, ["0", "1"], np.eye(4)[[0, 0]] + 0.1 * np.eye(4)[[2, 3]], np.array([80.0, 80.0]))
    checked = replace(bare, direct=table).carry(asked, "as-is")[1]
    assert checked[1].status == "differs" and checked[1].margin is not None and checked[1].margin <= 0
    for route, what in (("map", "it was not prepared"), ("direct", "it was not prepared"), ("auto", "not prepared")):
        with pytest.raises(Refusal, match=what):
            bare.carry(asked, route)  # type: ignore[arg-type]
    far = replace(bare, target=Site("model", 43))
    with pytest.raises(Refusal, match="they are 3 blocks apart, and 2 count as neighbours"):
        far.carry(asked, "as-is")


def test_within_one_site_directions_stay_as_they_are() -> None:
    asked = Directions.of(SOURCE, np.eye(4)[:2], ["0", "1"])
    own = Crossing(recipe="post", source=SOURCE, target=SOURCE, background=Background(SOURCE, frozen(np.ones(4)), 1))
    for route in ROUTES:
        carried, cards = own.carry(asked, route)
        assert carried is asked and cards == []
    with pytest.raises(Refusal, match="third-model"):
        own.carry(replace(asked, site=ELSEWHERE))
