"""What is kept in the cache is taken again only where nothing that decides it has changed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from dragoman.core import Refusal, Talk
from dragoman.dictionaries import DictionaryRef, open_dictionary
from dragoman.dictionaries.hub import commit_of
from dragoman.models.decode import Verbalizer
from dragoman.models.folder import deciding
from dragoman.models.load import fingerprint_of_model
from dragoman.runs import readings as keys
from dragoman.store import hub as hub_questions
from range_server import Served, serving
from small_world import World, build, write_sae
from tiny_checkpoints import save_adapter

TEXTS = ["One text.", "Another text."]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> World:
    return build(tmp_path_factory.mktemp("world"))


@pytest.fixture
def world(shared: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """A copy to be changed, its sites under the same names."""
    monkeypatch.setenv("DRAGOMAN_CACHE", str(tmp_path / "cache"))
    return World(shutil.copytree(shared.root, tmp_path / "world"))


def key(world: World, texts: list[str] = TEXTS, kind: str = "harvest-4", *more: str, **asked: Any) -> str:
    return world.request(**asked).readings(world.source, world.target).key(kind, texts, *more)


def keeping_time(change: Callable[[Path], object], path: Path) -> None:
    """As rsync -a, tar and builders of images leave a file that they replaced."""
    before = path.stat()
    change(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def last_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def one_letter(path: Path) -> None:
    """Another letter somewhere in the middle, so that JSON stays as long as it was."""
    text = path.read_text()
    at = next(i for i in range(len(text) // 2, len(text)) if text[i] in "abcdef0123456789")
    path.write_text(text[:at] + ("7" if text[at] != "7" else "6") + text[at + 1 :])


# --- models ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["llama", "gemma"])
@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja"])
def test_every_file_of_a_model_decides_even_of_the_same_size_and_time(world: World, side: str, name: str) -> None:
    before = key(world)
    path = world.root / side / name
    keeping_time(last_byte if name.endswith(".safetensors") else one_letter, path)
    changed = key(world)
    assert changed != before
    for more in ("added_tokens.json", "merges.txt", "model-00002.safetensors"):
        (world.root / side / more).write_text("{}")
        assert key(world) not in (before, changed)
        (world.root / side / more).unlink()
    assert key(world) == changed


def test_what_people_read_and_what_is_never_read_do_not_decide(world: World) -> None:
    before = key(world)
    for name in ("README.md", "LICENSE", ".gitattributes", "pytorch_model.bin", "consolidated.00.safetensors"):
        (world.root / "llama" / name).write_text("x")
    assert key(world) == before


def test_cache_keys_and_identities_count_the_same_files(world: World) -> None:
    folder = Path(world.av)
    named = folder / "additional_chat_templates" / "tools.jinja"
    named.parent.mkdir()
    named.write_text("{{ messages }}")
    for name in ("unheard_of.json", "README.md", "trainer_state.json", "pytorch_model.bin"):
        (folder / name).write_text("{}")
    counted = set(deciding(folder))
    assert {"additional_chat_templates/tools.jinja", "unheard_of.json", "config.json"} <= counted
    assert not {"README.md", "trainer_state.json", "pytorch_model.bin"} & counted
    identity = Verbalizer(folder).identity
    assert set(identity["weights"]) | set(identity["files"]) | {"nla_meta.yaml"} == counted
    before = fingerprint_of_model(folder)
    named.write_text("{{ messages[0] }}")
    assert fingerprint_of_model(folder) != before


def test_under_an_adapter_the_base_decides_as_well(world: World) -> None:
    folder = save_adapter(world.root / "adapter", "gemma3", world.root / "gemma")
    before = fingerprint_of_model(folder)
    keeping_time(last_byte, folder / "adapter_model.safetensors")
    middle = fingerprint_of_model(folder)
    keeping_time(one_letter, world.root / "gemma" / "tokenizer.json")
    assert len({before, middle, fingerprint_of_model(folder)}) == 3


def test_a_harvest_is_made_again_when_a_tokenizer_has_changed(world: World) -> None:
    said: list[str] = []
    readings = world.request().readings(world.source, world.target, Talk(say=said.append))
    first, _ = readings.pooled()
    again, _ = readings.pooled()
    assert said[-1].startswith("reused harvest") and np.array_equal(first.x, again.x)
    path = world.root / "llama" / "tokenizer.json"
    told = json.loads(path.read_text())
    told["model"]["merges"] = told["model"]["merges"][: len(told["model"]["merges"]) // 2]
    path.write_text(json.dumps(told))
    other, _ = readings.pooled()
    assert said[-1].startswith("reading 40 texts") and not np.allclose(first.x, other.x, atol=1e-3)


def test_a_damaged_harvest_is_made_again_and_said(world: World) -> None:
    said: list[str] = []
    readings = world.request().readings(world.source, world.target, Talk(say=said.append))
    first, name = readings.pooled()
    (entry,) = (p for p in (world.root.parent / "cache" / "harvest").iterdir() if not p.name.startswith("."))
    assert entry.name == name
    for damage in (last_byte, lambda path: os.truncate(path, 100)):
        damage(entry)
        again, _ = readings.pooled()
        assert np.array_equal(first.x, again.x) and np.array_equal(first.background.mean, again.background.mean)
        assert said[-2] == (
            f"cached harvest {name[:8]} is damaged (its bytes are not what was written), so it is made again"
        )
    readings.pooled()
    assert said[-1].startswith("reused harvest")


# --- how, what and by what -------------------------------------------------------------------------------------------


def test_how_texts_are_read_decides_and_the_device_does_not(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    before = key(world)
    changed = [
        key(world, dtype="bfloat16"),
        key(world, kind="harvest-5"),
        key(world, TEXTS, "harvest-4", "more"),
        key(world, TEXTS[::-1]),
        key(world, ["\n".join(TEXTS)]),  # one text of two lines
        key(world, [TEXTS[0] + "\n", *TEXTS[1:]]),
    ]
    for name in ("dragoman", "transformers", "tokenizers", "torch"):
        with monkeypatch.context() as patch:
            real = keys.version_of
            patch.setattr(keys, "version_of", lambda asked, n=name, real=real: "99" if asked == n else real(asked))
            changed.append(key(world))
    assert len({before, *changed}) == 1 + len(changed)
    assert before == key(world, device="cuda:1", batch_size=3, seed=5) == key(world)
    monkeypatch.setattr(
        keys, "version_of", lambda asked, real=keys.version_of: real(asked).partition("+")[0] + "+cu126"
    )
    assert key(world) == before


# --- dictionaries ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sae_weights.safetensors", "cfg.json"])
def test_every_file_of_a_dictionary_decides_even_of_the_same_size_and_time(tmp_path: Path, name: str) -> None:
    write_sae(tmp_path / "sae")
    asked = [DictionaryRef.parse(text) for text in (f"{tmp_path}/sae", f"file:{tmp_path}/sae/sae_weights.safetensors")]
    before = [open_dictionary(one).fingerprint() for one in asked]
    keeping_time(last_byte if name.endswith(".safetensors") else one_letter, tmp_path / "sae" / name)
    after = [open_dictionary(one).fingerprint() for one in asked]
    assert not set(before) & set(after)
    (tmp_path / "sae" / "labels.json").write_text("{}")
    assert not set(after) & {open_dictionary(one).fingerprint() for one in asked}


def test_of_a_file_of_vectors_it_counts_with_its_key_and_what_lies_beside(tmp_path: Path) -> None:
    np.savez(tmp_path / "v.npz", a=np.eye(4), b=np.eye(4))
    np.save(tmp_path / "large.npy", np.eye(4))
    asked = DictionaryRef.parse(f"file:{tmp_path}/v.npz#a")
    before = open_dictionary(asked).fingerprint()
    assert before != open_dictionary(DictionaryRef.parse(f"file:{tmp_path}/v.npz#b")).fingerprint()
    keeping_time(last_byte, tmp_path / "large.npy")  # another file of vectors is nobody's business
    assert open_dictionary(asked).fingerprint() == before
    (tmp_path / "cfg.json").write_text("{}")
    assert open_dictionary(asked).fingerprint() != before


def test_aligned_tokens_are_read_again_for_another_dictionary_of_the_same_size_and_time(world: World) -> None:
    said: list[str] = []
    asked, talk = world.request(), Talk(say=said.append)

    def tokens() -> Any:
        return asked.readings(world.source, world.target, talk).aligned(asked.open())[0]

    first = tokens()
    tokens()
    assert said[-1].startswith("reused aligned tokens")

    def turned(path: Path) -> None:
        arrays = load_file(path)
        save_file({k: np.flip(v, 0 if k == "W_dec" else -1).copy() for k, v in arrays.items()}, path)

    keeping_time(turned, Path(world.sae) / "sae_weights.safetensors")
    other = tokens()
    assert not said[-1].startswith("reused aligned tokens")
    assert first.sums is not None and not np.allclose(first.sums.beta(), other.sums.beta())


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A hub on the loopback address."""
    with serving() as served:
        monkeypatch.setenv("HF_ENDPOINT", served.url)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
        hub_questions._COMMITS.clear()
        yield served
        hub_questions._COMMITS.clear()


def test_a_dictionary_of_the_hub_counts_by_the_commit_it_is_now(tmp_path: Path, hub: Served) -> None:
    write_sae(tmp_path / "sae")
    for revision in ("main", "v1", "c" * 40):
        for path in (tmp_path / "sae").iterdir():
            hub.files[f"/org/saes/resolve/{revision}/res/{path.name}"] = path
    names = ["hf:org/saes/res", "hf:org/saes@v1/res"]
    before = [open_dictionary(DictionaryRef.parse(name)).fingerprint() for name in names]
    pinned = open_dictionary(DictionaryRef.parse(f"hf:org/saes@{'c' * 40}/res")).fingerprint()
    hub.commits |= {("org/saes", "main"): "1" * 40, ("org/saes", "v1"): "2" * 40}
    hub_questions._COMMITS.clear()
    after = [open_dictionary(DictionaryRef.parse(name)).fingerprint() for name in names]
    assert len({*before, *after, pinned}) == 5
    assert pinned == open_dictionary(DictionaryRef.parse(f"hf:org/saes@{'c' * 40}/res")).fingerprint()
    hub_questions._COMMITS.clear()
    hub.fault = lambda path, _: 500 if path.startswith("/api/models/org/saes/revision") else None
    with pytest.raises(Refusal, match="hf:org/saes@v1/res"):
        open_dictionary(DictionaryRef.parse("hf:org/saes@v1/res")).fingerprint()


def test_a_dictionary_in_the_hub_s_cache_counts_by_its_bytes(tmp_path: Path, hub: Served) -> None:
    root = tmp_path / "hub" / "models--org--saes"
    for letter in "ab":
        (root / "snapshots" / (letter * 40)).mkdir(parents=True)
        write_sae(root / "snapshots" / (letter * 40) / "res")
    (root / "refs").mkdir()
    found = []
    keeping_time(last_byte, root / "snapshots" / ("b" * 40) / "res" / "sae_weights.safetensors")
    for letter in "aba":
        (root / "refs" / "main").write_text(letter * 40)
        found.append(open_dictionary(DictionaryRef.parse("hf:org/saes/res")).fingerprint())
    assert found[0] == found[2] != found[1] and hub.requests == 0


def test_a_whole_commit_is_not_asked_about(hub: Served) -> None:
    hub.files["/org/saes/resolve/main/res/cfg.json"] = b"{}"
    assert commit_of(DictionaryRef.parse(f"hf:org/saes@{'d' * 40}/res")) == "d" * 40 and hub.requests == 0
    assert commit_of(DictionaryRef.parse("hf:org/saes/res")) == hub.commit("org/saes", "main") and hub.requests == 1


# --- verbalizers -----------------------------------------------------------------------------------------------------


def test_a_verbalizer_is_another_when_its_tokenizer_or_configuration_is(world: World) -> None:
    folder = Path(world.av)
    before = Verbalizer(world.av).identity
    assert before == Verbalizer(world.av).identity
    (folder / "generation_config.json").write_text('{"eos_token_id": 1}')
    after = Verbalizer(world.av).identity
    assert after != before and {**after, "files": before["files"]} == before


def test_the_texts_of_the_file_that_was_asked_for_decide(world: World) -> None:
    said: list[str] = []
    talk = Talk(say=said.append)
    first = world.request().readings(world.source, world.target, talk).pooled()[1]
    keeping_time(one_letter, world.root / "texts.txt")
    assert world.request().readings(world.source, world.target, talk).pooled()[1] != first
