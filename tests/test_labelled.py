"""Labels of a Neuronpedia export on a dictionary: its own, another's (refused), or nobody can tell (said so)."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from asking import explain
from dragoman.core import Refusal, Site, Talk
from dragoman.dictionaries import Dictionary, open_dictionary
from dragoman.dictionaries import hub as hub_room
from dragoman.dictionaries.labelled import Names
from dragoman.neuronpedia import Explained, parse, write_explanations
from dragoman.report import write_page
from report_fixture import build_run
from small_world import D_SAE, World
from tiny_checkpoints import BLOCK

OWN, OTHER = f"gpt2-small/{BLOCK}-res-jb", f"gpt2-small/{BLOCK}-res_post_32k-oai"
HOOK = f"blocks.{BLOCK}.hook_resid_post"


def export(folder: Path, ref: str = OWN, *, last: int = 4, bare: bool = False, **record: Any) -> Path:
    """An export of labels, with a record that says so and ``record`` besides."""
    source = parse(f"np:{ref}")
    said = [Explained(index=str(i), text=f"label {i}") for i in (*range(4), last)]
    write_explanations(folder, source, said, type_name="t", model_name="m", author="someone")
    config = {"hook_name": HOOK} | record.pop("config", {})
    told = {"id": source.source, "modelId": source.model, "saelensConfig": config} | record
    path = folder / "v1" / source.path
    if not bare:
        (path / "source.jsonl").write_text(json.dumps(told) + "\n")
    return path


def told(sae: str | Path, path: Path, **metadata: Any) -> Path:
    """A copy of a dictionary whose settings say more of it."""
    folder = Path(shutil.copytree(sae, path))
    config = json.loads((folder / "cfg.json").read_text())
    config["metadata"] |= metadata
    (folder / "cfg.json").write_text(json.dumps(config))
    return folder


def opened(dictionary: str | Path, labels: Path) -> Dictionary:
    return open_dictionary(dictionary, site=Site("gpt2-small", BLOCK), labels=labels)


# --- by its own settings ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bare", [False, True], ids=["record", "rows alone"])
@pytest.mark.parametrize("own", [OWN, f"np:{OWN}", OWN.upper()])
def test_labels_of_the_source_that_the_dictionary_names_are_its_own(
    world: World, tmp_path: Path, own: str, bare: bool
) -> None:
    sae = told(world.sae, tmp_path / "sae", neuronpedia_id=own)
    found = opened(sae, export(tmp_path / "e", bare=bare))
    assert found.features(("3",)).directions.labels == ("label 3",)
    assert found.labelled.to_json() == {"source": f"np:{OWN}", "verified": True, "told_by": "its Neuronpedia id"}


@pytest.mark.parametrize("bare", [False, True], ids=["record", "rows alone"])
def test_labels_of_another_dictionary_at_the_same_block_are_refused(world: World, tmp_path: Path, bare: bool) -> None:
    sae = told(world.sae, tmp_path / "sae", neuronpedia_id=OWN)
    found = opened(sae, export(tmp_path / "e", OTHER, bare=bare))
    why = f"labels for np:{OTHER}: they are of another dictionary, {OTHER}, and this one is {OWN}; pass the export of"
    with pytest.raises(Refusal, match=why):
        found.features(("3",))


@pytest.mark.parametrize("odd", [None, 3, "", "none", "gpt2-small", ["a"], "gpt2-small/../x", "http://[/x"])
def test_an_id_that_is_none_tells_nothing(world: World, tmp_path: Path, odd: Any) -> None:
    sae = told(world.sae, tmp_path / "sae", neuronpedia_id=odd)
    assert not opened(sae, export(tmp_path / "e")).labelled.told_by


# --- by its place -----------------------------------------------------------------------------------------------------


def cached(sae: str, root: Path, name: str = "models--org--dictionaries", inside: str = "res/l1") -> Path:
    """The dictionary as the hub's cache keeps it."""
    return Path(shutil.copytree(sae, root / name / "snapshots" / ("0" * 40) / inside))


def test_the_place_on_the_hub_tells(world: World, tmp_path: Path) -> None:
    here = cached(world.sae, tmp_path)
    own = export(tmp_path / "a", hfRepoId="Org/dictionaries", hfFolderId="/res/l1/")
    for path in (here, here / "sae_weights.safetensors"):
        for written in (path, str(path), f"file:{path}"):
            assert opened(written, own).labelled.told_by == "its place on the hub"
    for n, (repo, folder) in enumerate([("org/dictionaries", "res/l2"), ("org/others", "res/l1")]):
        labels = export(tmp_path / f"b{n}", hfRepoId=repo, hfFolderId=folder)
        why = f"another dictionary, {repo}/{folder}, and this one is org/dictionaries/res/"
        for written in (here, str(here), f"file:{here}"):
            with pytest.raises(Refusal, match=why):
                _ = opened(written, labels).labels
    whole = cached(world.sae, tmp_path / "w", inside="")
    assert opened(whole, export(tmp_path / "c", hfRepoId="org/dictionaries")).labelled.told_by == "its place on the hub"


def test_one_name_in_common_is_enough(world: World, tmp_path: Path) -> None:
    here = cached(told(world.sae, tmp_path / "sae", neuronpedia_id=OWN).as_posix(), tmp_path)
    moved = export(tmp_path / "a", hfRepoId="new/place", hfFolderId="res")
    assert opened(here, moved).labelled.told_by == "its Neuronpedia id"
    renamed = export(tmp_path / "b", OTHER, hfRepoId="org/dictionaries", hfFolderId="res/l1")
    assert opened(here, renamed).labelled.told_by == "its place on the hub"


def test_the_registry_tells(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [
        {"id": "l1", "path": "res/l1", "neuronpedia": OWN},
        {"id": "l2", "path": "res/l2"},
    ]
    listing = tmp_path / "pretrained_saes.yaml"
    told_by = {"repo_id": "org/dictionaries", "saes": entries}
    listing.write_text("r:\n" + "".join(f"  {line}\n" for line in json.dumps(told_by, indent=1).splitlines()))
    monkeypatch.setattr(hub_room, "_registry", lambda _ref: listing)
    from dragoman.dictionaries.beside import DictionaryRef
    from dragoman.dictionaries.folder import LocalFolder
    from dragoman.dictionaries.labelled import names_of

    folder = LocalFolder(world.sae)
    found = names_of(DictionaryRef.parse("sae:r/l1"), folder, D_SAE)
    assert found == Names(source=OWN, listed="r/l1", hub="org/dictionaries/res/l1", d_sae=D_SAE)
    other = names_of(DictionaryRef.parse("sae:r/l2"), folder, D_SAE)
    assert other.source == "" and other.listed == "r/l2"
    assert other.compared(Names(listed="r/l1"))[1] == "r/l1, and this one is r/l2"
    assert found.compared(Names(listed="r/l1")) == ("SAELens' registry", "")


# --- by its size ------------------------------------------------------------------------------------------------------


def test_another_number_of_features_is_another_dictionary(world: World, tmp_path: Path) -> None:
    larger = opened(world.sae, export(tmp_path / "a", config={"d_sae": 2 * D_SAE}))
    with pytest.raises(Refusal, match=f"dictionary, one of {2 * D_SAE} features, and this one has {D_SAE}; pass"):
        _ = larger.labels
    beyond = opened(world.sae, export(tmp_path / "b", last=D_SAE))
    with pytest.raises(Refusal, match=f"there is one for feature {D_SAE}, and the dictionary ends at {D_SAE - 1}"):
        _ = beyond.labels
    batch = export(tmp_path / "d") / "explanations" / "batch-0.jsonl.gz"
    row = json.loads(gzip.decompress(batch.read_bytes()).splitlines()[0]) | {"index": "1" * 5000}
    batch.write_bytes(gzip.compress(json.dumps(row).encode()))
    with pytest.raises(Refusal, match=rf"one for feature 1+\.\.\., and the dictionary ends at {D_SAE - 1}"):
        _ = opened(world.sae, batch.parent.parent).labels
    for n, same in enumerate([D_SAE, None, True, "many"]):
        fits = opened(world.sae, export(tmp_path / f"c{n}", last=D_SAE - 1, config={"d_sae": same}))
        assert fits.labels[str(D_SAE - 1)] == f"label {D_SAE - 1}" and not fits.labelled.told_by


# --- where nothing tells ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bare", [False, True], ids=["record", "rows alone"])
def test_a_run_and_its_page_say_that_nobody_can_tell_whose_labels_they_are(
    world: World, tmp_path: Path, bare: bool
) -> None:
    said: list[str] = []
    asked = world.request(labels=str(export(tmp_path / "e", OTHER, bare=bare)), features=("3",))
    run = explain(asked, tmp_path / "run", Talk(say=said.append))
    assert run.manifest["labels"] == {"source": f"np:{OTHER}", "verified": False, "told_by": ""}
    doubt = f"the labels are of np:{OTHER}, and nothing tells whether that is this dictionary"
    assert said.count(doubt) == 1
    page = write_page(run, run.page).read_text()
    assert f"of np:{OTHER}: nothing tells whether that is this dictionary; no verbalizer saw them" in page
    assert "Neuronpedia’s label (perhaps of another dictionary), which no verbalizer saw" in page


def test_a_run_with_labels_of_its_own_says_by_what(world: World, tmp_path: Path) -> None:
    said: list[str] = []
    sae = told(world.sae, tmp_path / "sae", neuronpedia_id=OWN)
    asked = world.request(dictionary=str(sae), labels=str(export(tmp_path / "e")), features=("3",))
    run = explain(asked, tmp_path / "run", Talk(say=said.append))
    assert run.manifest["labels"] == {"source": f"np:{OWN}", "verified": True, "told_by": "its Neuronpedia id"}
    assert not any("the labels are of" in sentence for sentence in said)
    page = write_page(run, run.page).read_text()
    assert "nothing tells" not in page and "perhaps of another" not in page


def test_a_run_without_an_export_says_nothing_of_labels(world: World, tmp_path: Path) -> None:
    assert "labels" not in explain(world.request(features=("3",)), tmp_path / "run").manifest
    page = write_page(build_run(tmp_path / "old"), tmp_path / "page.html").read_text()
    assert "perhaps of another" not in page
