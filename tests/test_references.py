"""What a researcher points at (dictionaries, labels, checkpoints in any published place) goes through the main job."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save_file as save_arrays

import dictionary_folders as folders
from ar_checkpoints import WIDTH, base_of
from asking import directions_of, explain
from dragoman.core import Refusal, Site, Talk
from dragoman.doctor import examine, open_subject
from dragoman.doctor.checkpoint import base_names
from dragoman.models.decode import Verbalizer
from dragoman.models.resolve import how_fed
from dragoman.neuronpedia import Explained, parse, write_explanations
from dragoman.report import write_page
from dragoman.store import RunFolder
from dragoman.verbalizers import registry
from dragoman.verbalizers.registry import Checkpoint
from dragoman.verbalizers.sidecar import NAME, sidecar_file
from range_server import Served, serving
from small_world import World, easynla_run
from tiny_checkpoints import BLOCK, dataset_sidecar_of, save_adapter, save_checkpoint, sidecar_of, write_sidecar
from verbalizer_doubles import next_logits

SOURCE_ID = f"gemma-2-2b/{BLOCK}-tiny-res"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    with serving() as served:
        monkeypatch.setenv("HF_ENDPOINT", served.url)
        yield served


def publish(served: Served, folder: Path, at: str, repo: str = "org/dictionaries", revision: str = "main") -> None:
    for path in folder.iterdir():
        served.files[f"/{repo}/resolve/{revision}/{at}/{path.name}"] = path


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def source_rows(run: RunFolder) -> np.ndarray:
    return run.vectors()[0]["source"]


# --- dictionaries ------------------------------------------------------------------------------------------------


def test_an_array_of_a_file_is_explained_by_key_and_index(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = np.random.default_rng(3).standard_normal((6, WIDTH)).astype(np.float32)
    np.savez(tmp_path / "probes.npz", truth=rows, other=rows[::-1])
    monkeypatch.chdir(tmp_path)
    for n, text in enumerate((f"file:{tmp_path}/probes.npz#truth[4,1]", "probes.npz#truth[4,1]")):
        run = explain(world.request(dictionary=text, features=()), tmp_path / f"run{n}")
        assert [r["feature"] for r in run.rows()] == ["4", "1"]
        np.testing.assert_allclose(source_rows(run), unit(rows[[4, 1]]), atol=1e-6)
        assert run.manifest["dictionary"]["ref"] == text
        assert run.manifest["dictionary"]["at"].endswith("probes.npz#truth[4,1]")


def test_an_index_and_features_beside_it_are_one_too_many(world: World, tmp_path: Path) -> None:
    np.savez(tmp_path / "probes.npz", truth=np.eye(6, WIDTH, dtype=np.float32))
    with pytest.raises(Refusal, match="its features are named twice; name them once"):
        directions_of(world.request(dictionary=f"file:{tmp_path}/probes.npz#truth[4]", features=("1",)))


def written(run: RunFolder) -> list[dict[str, Any]]:
    """Rows of the reading that every feature has: what its row writes."""
    return [row for row in run.rows() if row["condition"] == "writes"]


@pytest.mark.parametrize("layout", ["sparsify", "dictionary_learning"])
def test_a_layout_of_another_project_is_explained(
    world: World, tmp_path: Path, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted = folders.planted(d_sae=2 * WIDTH, d_in=WIDTH)
    for name, value in (("D_IN", WIDTH), ("D_SAE", 2 * WIDTH), ("BLOCK", BLOCK), ("ARRAYS", planted)):
        monkeypatch.setattr(folders, name, value)
    made = {
        "sparsify": lambda: folders.sparsify(tmp_path, f"layers.{BLOCK}"),
        "dictionary_learning": lambda: folders.dictionary_learning(tmp_path),
    }[layout]()
    run = explain(world.request(dictionary=str(made)), tmp_path / "run")
    assert [row["feature"] for row in written(run)] == ["0", "3", "7", "11"]
    np.testing.assert_allclose(source_rows(run), unit(planted["W_dec"][[0, 3, 7, 11]]), atol=1e-6)


def test_a_dictionary_of_the_hub_is_explained_without_being_fetched_whole(
    world: World, tmp_path: Path, hub: Served
) -> None:
    publish(hub, Path(world.sae), "res/l1")
    run = explain(world.request(dictionary="hf:org/dictionaries/res/l1#3,7", features=()), tmp_path / "run")
    assert [r["feature"] for r in written(run)] == ["3", "7"]
    np.testing.assert_allclose(source_rows(run), world.rows[[3, 7]], atol=1e-6)
    commit = hub.commit("org/dictionaries", "main")
    assert run.manifest["dictionary"]["at"] == f"hf:org/dictionaries@{commit}/res/l1#3,7" and hub.ranges


def test_the_direct_route_is_made_again_when_a_dictionary_has_changed_in_its_folder(
    world: World, tmp_path: Path
) -> None:
    """The statistics are kept under the dictionary's files, not under the name of their folder."""
    from small_world import write_sae

    write_sae(tmp_path / "sae")
    said: list[str] = []
    asked = world.request(dictionary=str(tmp_path / "sae"), route="direct")
    sites = (world.source, world.target)

    def key() -> str:
        return asked.readings(*sites, Talk(say=said.append)).direct(asked.open())[2]

    first = key()
    assert key() == first and said[-1].startswith("reused direct")
    path = tmp_path / "sae" / "sae_weights.safetensors"
    save_arrays({k: (v * 2 if k == "b_enc" else v[::-1].copy()) for k, v in load_arrays(path).items()}, path)
    assert key() != first and not said[-1].startswith("reused")


# --- Neuronpedia -------------------------------------------------------------------------------------------------


@pytest.fixture
def export(tmp_path: Path) -> Path:
    """An export as their site writes it, with a record that names the dictionary on the hub."""
    ref = parse(f"np:{SOURCE_ID}")
    said = [Explained(index=str(i), text=f"planted label {i}", confidence=None, notes={}) for i in (3, 7)]
    write_explanations(tmp_path / "export", ref, said, type_name="them", model_name="m", author="a")
    record = {
        "id": ref.source, "modelId": ref.model, "hfRepoId": "org/dictionaries", "hfFolderId": "res/l1",
        "saelensConfig": {"hook_name": f"blocks.{BLOCK}.hook_resid_post"},
    }  # fmt: skip
    (tmp_path / "export" / "v1" / ref.path / "source.jsonl").write_text(json.dumps(record) + "\n")
    return tmp_path / "export"


def test_a_neuronpedia_feature_is_explained_with_its_labels_on_rows_and_page(
    world: World, tmp_path: Path, hub: Served, export: Path
) -> None:
    publish(hub, Path(world.sae), "res/l1")
    asked = world.request(dictionary=f"np:{SOURCE_ID}/7", features=(), labels=str(export))
    run = explain(asked, tmp_path / "run")
    assert {(r["feature"], r["label"], r["condition"]) for r in run.rows()} == {
        ("7", "planted label 7", "fires"),
        ("7", "planted label 7", "writes"),
    }
    np.testing.assert_allclose(source_rows(run), world.rows[[7]], atol=1e-6)
    assert run.manifest["dictionary"]["at"] == f"hf:org/dictionaries@{hub.commit('org/dictionaries', 'main')}/res/l1"
    assert "planted label 7" in write_page(run, run.page).read_text()


def test_an_address_with_a_password_and_a_signature_is_kept_in_no_file_of_the_run(
    world: World, tmp_path: Path, hub: Served, export: Path
) -> None:
    publish(hub, Path(world.sae), "res/l1")
    for path in export.rglob("*"):
        if path.is_file():
            hub.files[f"/{path.relative_to(export)}"] = path
    address = hub.url.replace("://", "://user:PASSWORD@") + "/v1?X-Amz-Signature=SIGNED#hf_" + "T" * 34
    said: list[str] = []
    asked = world.request(dictionary=f"np:{SOURCE_ID}/7", features=(), labels=address)
    run = explain(asked, tmp_path / "run", Talk(say=said.append))
    assert run.rows()[0]["label"] == "planted label 7"
    assert any(headers.get("authorization", "").startswith("Basic ") for headers in hub.headers)
    write_page(run, run.page)
    assert run.manifest["settings"]["labels"] == f"{hub.url}/v1"
    kept = b"".join(path.read_bytes() for path in run.path.iterdir()) + "".join(said).encode()
    assert not [secret for secret in (b"PASSWORD", b"SIGNED", b"user:", b"TTTT") if secret in kept]
    # The page of a run that an earlier version kept with both.
    manifest = json.loads((run.path / "manifest.json").read_text())
    manifest["settings"]["labels"] = address
    (run.path / "manifest.json").write_text(json.dumps(manifest))
    page = write_page(RunFolder.open(run.path), run.page).read_text()
    assert "PASSWORD" not in page and "SIGNED" not in page
    several = world.request(dictionary=f"np:{SOURCE_ID}", features=("7", "5"), labels=str(export))
    assert directions_of(several).labels == ("planted label 7", "")


def test_a_neuronpedia_id_brings_its_place_in_the_model_along(world: World, hub: Served, export: Path) -> None:
    publish(hub, Path(world.sae), "res/l1")
    asked = world.request(dictionary=f"np:{SOURCE_ID}/7", features=(), labels=str(export), source=None)
    assert directions_of(asked).site == Site("google/gemma-2-2b", BLOCK)


def test_a_neuronpedia_id_without_labels_does_not_say_where_the_weights_are(
    world: World, tmp_path: Path, export: Path
) -> None:
    for text in (f"np:{SOURCE_ID}/7", f"{SOURCE_ID}/7", f"https://www.neuronpedia.org/{SOURCE_ID}/7"):
        with pytest.raises(Refusal, match="does not say where the weights are; pass --labels"):
            explain(world.request(dictionary=text, features=()), tmp_path / "run")
    (export / "v1" / SOURCE_ID / "source.jsonl").unlink()
    with pytest.raises(Refusal, match=r"and the export in .*export has no source\.jsonl"):
        explain(world.request(dictionary=f"np:{SOURCE_ID}/7", features=(), labels=str(export)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_index_of_neuronpedia_and_other_features_are_one_too_many(world: World, hub: Served, export: Path) -> None:
    publish(hub, Path(world.sae), "res/l1")
    with pytest.raises(Refusal, match="its features are named twice; drop --features, or the index"):
        directions_of(world.request(dictionary=f"np:{SOURCE_ID}/7", features=("3",), labels=str(export)))


def test_a_path_that_only_looks_like_a_neuronpedia_id_is_the_path(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "runs" / "1-sae"
    here.mkdir(parents=True)
    (here / "0").symlink_to(world.sae, target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    assert directions_of(world.request(dictionary="runs/1-sae/0")).ids == ("0", "3", "7", "11")


# --- where a sidecar lies ----------------------------------------------------------------------------------------


def test_a_sidecar_one_folder_up_counts_where_the_folder_has_weights_and_none_of_its_own(tmp_path: Path) -> None:
    step = tmp_path / "run" / "iter_4"
    (step / "deep").mkdir(parents=True)
    write_sidecar(tmp_path / "run", {"kind": "nla_model"})
    assert sidecar_file(step) == step / NAME, "it holds no weights"
    for folder in (step, step / "deep"):
        (folder / "adapter_model.safetensors").touch()
    assert sidecar_file(step) == tmp_path / "run" / NAME
    assert sidecar_file(step / "deep") == step / "deep" / NAME, "two folders up is somebody else's"
    write_sidecar(step, {"kind": "nla_model"})
    assert sidecar_file(step) == step / NAME and sidecar_file(step / "deep") == step / NAME


def test_the_sidecar_above_is_found_from_inside_the_folder_and_through_a_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = tmp_path / "run" / "iter_4"
    step.mkdir(parents=True)
    (step / "adapter_model.safetensors").touch()
    write_sidecar(tmp_path / "run", {"kind": "nla_model"})
    (tmp_path / "latest").symlink_to(step, target_is_directory=True)
    monkeypatch.chdir(step)
    assert sidecar_file(Path()).samefile(tmp_path / "run" / NAME)
    assert sidecar_file(tmp_path / "latest") == (tmp_path / "run" / NAME).resolve()


def test_a_step_of_a_run_speaks_as_it_does_with_the_sidecar_beside_it(world: World, tmp_path: Path) -> None:
    step = easynla_run(tmp_path / "run", Path(world.target.model))
    vectors = np.random.default_rng(1).standard_normal((2, WIDTH)).astype(np.float32)
    above = Verbalizer(step, contract="karvonen")
    (step / NAME).write_bytes((tmp_path / "run" / NAME).read_bytes())
    beside = Verbalizer(step, contract="karvonen")
    np.testing.assert_array_equal(next_logits(above, vectors), next_logits(beside, vectors))
    assert above.identity == beside.identity and above.identity["sidecar"]


def test_a_sidecar_two_folders_up_is_refused(world: World, tmp_path: Path) -> None:
    step = easynla_run(tmp_path / "run" / "rl", Path(world.target.model))
    (tmp_path / "run" / "rl" / NAME).rename(tmp_path / "run" / NAME)
    with pytest.raises(Refusal, match=r"iter_4: it holds no nla_meta\.yaml"):
        Verbalizer(step, contract="karvonen")


# --- contracts, registry, bases ------------------------------------------------------------------------------------


def listed(monkeypatch: pytest.MonkeyPatch, ref: str, **entry: Any) -> Checkpoint:
    """Put a checkpoint into the registry."""
    known = {"id": "org/published", "role": "av", "base": "m", "contract": "karvonen", "blocks": [BLOCK], **entry}
    found = Checkpoint.model_validate(known)
    monkeypatch.setattr(registry, "find", lambda asked: found if str(asked).startswith(ref) else None)
    return found


def test_a_norm_matched_checkpoint_is_explained_when_its_contract_is_named(world: World, tmp_path: Path) -> None:
    step = str(easynla_run(tmp_path / "run", Path(world.target.model)))
    with pytest.raises(Refusal, match="does not say which contract its vector is fed by"):
        explain(world.request(by=step), tmp_path / "none")
    assert not (tmp_path / "none").exists()
    run = explain(world.request(by=step, contract="karvonen"), tmp_path / "out")
    told = run.manifest["verbalizers"]["by"]
    assert (told["contract"], told["hook_block"], told["site"]) == ("karvonen", 1, str(world.target))
    assert len(written(run)) == 4


def test_the_registry_gives_the_contract_and_what_it_leaves_open(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = str(easynla_run(tmp_path / "run", Path(world.target.model)))
    listed(monkeypatch, step, switches={"hook_block": 2})
    run = explain(world.request(by=step), tmp_path / "out")
    told = run.manifest["verbalizers"]["by"]
    assert (told["contract"], told["hook_block"]) == ("karvonen", 2)
    assert told["settings"] == {"block": BLOCK, "hook_block": 2}


def test_the_registry_gives_the_base_and_the_doctor_takes_its_word(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As asher577's: an adapter on the supervised verbalizer, which is a folder of another repository."""
    warm = save_checkpoint(tmp_path / "warm" / "av", "gemma3", model=base_of("gemma3", 5), sidecar={"kind": "x"})
    step = easynla_run(tmp_path / "run", warm, base_name=world.target.model)
    config = step / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": "/elsewhere/av_sft"}))
    asked: list[str] = []

    def download(repo: str, *, revision: str | None, **_: Any) -> str:
        asked.append(repo)
        return str(tmp_path / "warm")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    with pytest.raises(Refusal, match=r"its adapter was trained on /elsewhere/av_sft, its sidecar names"):
        world.request(by=str(step), contract="karvonen").verbalizer()
    listed(monkeypatch, str(step), switches={"stacked_on": "org/warm/av"})
    run = explain(world.request(by=str(step), map="post", route="map"), tmp_path / "out")
    told = run.manifest["verbalizers"]["by"]
    assert told["base"] == "org/warm/av" and told["site"] == str(world.target) and set(asked) == {"org/warm"}
    vectors = run.vectors()[0]["washed"]
    by_hand = next_logits(Verbalizer(step, contract="karvonen", base=str(warm)), vectors)
    np.testing.assert_array_equal(next_logits(world.request(by=str(step)).verbalizer(), vectors), by_hand)


def test_a_base_given_by_hand_does_not_settle_what_the_registry_does() -> None:
    names = {"its adapter_config.json": "/elsewhere/av_sft"}
    assert base_names("x", names, "org/warm/av").status == "fault"
    assert base_names("x", names, "org/warm/av", vouched=True).status != "fault"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"contract": "kitft"}, r"contract 'kitft' for .*: it was trained with contract 'karvonen', as dragoman's"),
        ({"settings": {"hook_block": 2}}, r"hook_block 2 for .*: it was trained with hook_block 1.*leave it out"),
        ({"settings": {"block": 0}}, r"block 0 for .*: it was trained with block 1"),
    ],
)
def test_what_the_registry_is_sure_of_cannot_be_said_otherwise(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], sentence: str
) -> None:
    listed(monkeypatch, "org/published", switches={"hook_block": 1})
    with pytest.raises(Refusal, match=sentence):
        explain(world.request(by="org/published", **changes), tmp_path / "run")
    with pytest.raises(Refusal, match=sentence):
        Verbalizer.open("org/published", **changes)
    (finding,) = (f for f in examine(open_subject(by="org/published", **changes)) if f.check == "opening")
    assert finding.status == "fault" and str(finding.refusal()).count("it was trained with") == 1
    same = how_fed("org/published", "karvonen", {"hook_block": 1}, None)
    assert same == {"contract": "karvonen", "settings": {"block": 1, "hook_block": 1}, "base": None}
    assert not (tmp_path / "run").exists()


def test_a_setting_that_the_sidecar_contradicts_is_refused(world: World, tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="it reads block 1, and the block given is 0"):
        explain(world.request(settings={"block": 0}), tmp_path / "run")
    with pytest.raises(Refusal, match=r"its injection_scale is 12, and the norm given is 150"):
        explain(world.request(settings={"norm": 150}), tmp_path / "run")


def test_of_what_is_known_second_hand_a_person_knows_better(monkeypatch: pytest.MonkeyPatch) -> None:
    listed(monkeypatch, "org/published", mark="second-hand", missing="the block", switches={"hook_block": 1})
    with pytest.raises(Refusal, match="known second-hand only; missing: the block"):
        how_fed("org/published", None, {}, None)
    told = how_fed("org/published", "oracle", {"block": 0, "question": "What?"}, "org/base")
    assert told["contract"] == "oracle" and told["settings"]["block"] == 0 and told["base"] == "org/base"


def test_a_repository_whose_verbalizer_lies_deeper_is_refused_with_its_folder(world: World, tmp_path: Path) -> None:
    for ref in ("achand45/gemma-3-12b-it-nla-L32", "achand45/gemma-3-12b-it-nla-L32@main"):
        with pytest.raises(
            Refusal, match=r"it lies in a folder of that repository, rl_vllm/iter_000400; use achand45/.*/iter_000400"
        ):
            explain(world.request(by=ref), tmp_path / "run")
    told = how_fed("achand45/gemma-3-12b-it-nla-L32/rl_vllm/iter_000300", None, {}, None)
    assert told["contract"] == "karvonen" and told["settings"]["block"] == 32


# --- the doctor before a run -----------------------------------------------------------------------------------------


def test_a_scale_of_another_unit_stops_the_run_before_there_is_a_folder(world: World, tmp_path: Path) -> None:
    sidecar = sidecar_of("gemma3") | {"d_model": WIDTH, "base_checkpoint": world.target.model}
    sidecar["extraction"] = {"injection_scale": 12.0 / 5000}
    folder = save_checkpoint(tmp_path / "av", "gemma3", model=base_of("gemma3"), sidecar=sidecar)
    with pytest.raises(
        Refusal,
        match=r"injection_scale of the sidecar: measured 0\.0024, must be between 1/200 and 200 times "
        r".*get the published sidecar again",
    ):
        explain(world.request(by=str(folder)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_adapter_that_was_never_trained_stops_the_run(world: World, tmp_path: Path) -> None:
    sidecar = dataset_sidecar_of("gemma3")
    sidecar["extraction"] |= {"base_model": world.target.model, "d_model": WIDTH}
    folder = save_adapter(tmp_path / "av", "gemma3", Path(world.target.model), sidecar=sidecar)
    path = folder / "adapter_model.safetensors"
    save_arrays({k: v * 0 if "lora_B" in k else v for k, v in load_arrays(path).items()}, path)
    said: list[str] = []
    never = r"largest entry of its \d+ B matrices: measured 0, must be above 0 .*never trained"
    with pytest.raises(Refusal, match=never):
        explain(world.request(by=str(folder), contract="karvonen"), tmp_path / "run", Talk(say=said.append))
    assert not (tmp_path / "run").exists() and said[-1] == "checking the verbalizers"


def test_a_fault_of_a_checkpoint_in_the_hubs_cache_is_found_too(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The doctor downloads nothing, but what has just been opened is here."""
    step = easynla_run(tmp_path / "repo" / "rl", Path(world.target.model))
    path = step / "adapter_model.safetensors"
    save_arrays({k: v * 0 if "lora_B" in k else v for k, v in load_arrays(path).items()}, path)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(tmp_path / "repo"))
    with pytest.raises(Refusal, match=r"^org/name/rl/iter_4, largest entry of its \d+ B matrices"):
        explain(world.request(by="org/name/rl/iter_4", contract="karvonen"), tmp_path / "run")
