"""Range requests: only what is asked for crosses the wire, and an odd server is a refusal."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

import dictionary_folders as made
from dictionary_folders import ARRAYS, BLOCK, D_SAE
from dragoman.core import Refusal, Site
from dragoman.dictionaries import DictionaryRef, open_dictionary
from dragoman.dictionaries.hub import commit_of, pinned
from dragoman.store import ArraysFile
from dragoman.store import hub as hub_questions
from dragoman.store.remote import RemoteFile
from dragoman.store.spans import FAR_LIMIT, StoredArray
from range_server import Served, serving
from reading import read_directions, read_encoder

BODY = np.random.default_rng(0).integers(0, 256, 1 << 20, dtype=np.uint8).tobytes()
SITE = Site("m", BLOCK)


@pytest.fixture
def served() -> Iterator[Served]:
    with serving() as server:
        server.files["/f"] = BODY
        yield server


def remote(served: Served, path: str = "/f", **settings: Any) -> RemoteFile:
    return RemoteFile(served.url + path, wait=lambda seconds: None, **settings)


def test_bytes_come_from_where_they_are_asked_and_are_counted(served: Served) -> None:
    with remote(served) as file:
        assert file.size == len(BODY) and served.requests == 1
        assert file.read(500_000, 1000) == BODY[500_000:501_000]
        assert file.read(len(BODY) - 5, 5) == BODY[-5:]
        assert file.read(10, 20) == BODY[10:30] and served.requests == 3  # the opening is already here
        assert file.read(7, 0) == b""
        assert file.fetched == served.sent == 65_536 + 1000 + 5 and file.requests == 3


def test_near_spans_are_one_request_and_far_ones_their_own(served: Served) -> None:
    starts = [200_000, 200_500, 210_000, 600_000, 900_000]
    buffers = [bytearray(100) for _ in starts]
    with remote(served) as file:
        assert file.size
        file.fill([(s, memoryview(b)) for s, b in zip(starts, buffers, strict=True)])
    assert [bytes(b) for b in buffers] == [BODY[s : s + 100] for s in starts]
    assert sorted(served.ranges[1:]) == [(200_000, 210_100), (600_000, 600_100), (900_000, 900_100)]


def test_spans_outside_the_file_are_refused(served: Served) -> None:
    with remote(served) as file, pytest.raises(Refusal, match="it ends at byte 1048576"):
        file.read(len(BODY) - 5, 6)


def test_a_server_that_ignores_ranges_is_refused_before_the_file_is_sent(served: Served) -> None:
    served.fault = lambda path, seen: "whole"
    with remote(served) as file, pytest.raises(Refusal, match="ignores byte ranges and would send the whole file"):
        file.read(0, 10)
    assert file.fetched == 0


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        ("silent", "does not say which bytes it sends"),
        ("elsewhere", "were asked for and the server sends"),
        ("grown", "it changed while it was read"),
        ("other", "it changed while it was read"),
        ("more", "the server sent"),
        (404, "there is no such file"),
        (401, r"wants permission \(401\); log in"),
        (403, r"wants permission \(403\)"),
        (418, "the server answers 418"),
        (416, "has no such bytes"),
    ],
)
def test_odd_answers_are_one_sentence(served: Served, fault: Any, why: str) -> None:
    with remote(served) as file:
        assert file.size == len(BODY)
        served.fault = lambda path, seen: fault
        with pytest.raises(Refusal, match=why) as error:
            file.read(500_000, 1000)
    assert "\n" not in str(error.value) and str(error.value).startswith(served.url)


@pytest.mark.parametrize("fault", [503, 429, "cut"])
def test_a_stumbling_server_is_asked_again(served: Served, fault: Any) -> None:
    served.fault = lambda path, seen: fault if seen % 2 == 0 else None
    waits: list[float] = []
    with RemoteFile(served.url + "/f", wait=waits.append) as file:
        assert file.read(500_000, 1000) == BODY[500_000:501_000]
    assert waits == [0.2, 0.2]


def test_a_server_that_keeps_stumbling_is_refused_with_its_answer(served: Served) -> None:
    served.fault = lambda path, seen: 503
    with (
        remote(served, retries=2) as file,
        pytest.raises(Refusal, match=r"cannot be fetched \(the server answers 503\)"),
    ):
        assert file.size
    assert served.requests == 3


def test_nobody_listening_is_refused() -> None:
    with serving() as gone:
        url = gone.url
    with RemoteFile(url, wait=lambda s: None) as file, pytest.raises(Refusal, match="check the connection"):
        assert file.size


def test_signed_addresses_are_not_printed_but_headers_are_sent(served: Served) -> None:
    served.files["/f"] = BODY
    signed = RemoteFile(f"{served.url}/gone?key=SECRET", headers={"Authorization": "Bearer T"})
    with signed as file, pytest.raises(Refusal) as error:
        assert file.size
    assert "SECRET" not in str(error.value)
    assert served.headers[0]["authorization"] == "Bearer T"
    assert served.headers[0]["accept-encoding"] == "identity"


# Arrays far away


def test_rows_of_a_far_decoder_cost_what_they_take(served: Served) -> None:
    rows = np.random.default_rng(1).standard_normal((4000, 256)).astype(np.float32)  # 4 MB
    served.files["/d"] = save({"W_dec": rows, "b": rows[0]})
    with remote(served, "/d") as file:
        arrays = ArraysFile(file)
        np.testing.assert_array_equal(arrays.array("W_dec").rows([3999, 17, 2000]), rows[[3999, 17, 2000]])
        np.testing.assert_array_equal(arrays.whole("b"), rows[0])
        assert file.fetched < 65_536 + 5 * 1024 and served.sent == file.fetched


def test_columns_of_a_far_decoder_are_passed_through_or_refused(served: Served) -> None:
    rows = np.random.default_rng(1).standard_normal((40, 256)).astype(np.float32)
    served.files["/d"] = save({"W_dec": rows})
    with remote(served, "/d") as file:
        np.testing.assert_array_equal(ArraysFile(file).array("W_dec").columns([200, 3]), rows[:, [200, 3]])
        huge = StoredArray(source=file, offset=0, dtype=np.dtype("<f4"), shape=(4096, 65_536), name="W_dec")
        with pytest.raises(Refusal, match=r"columns of it, which lie across the file, would fetch 1,074 MB"):
            huge.columns(range(45))
        with pytest.raises(Refusal, match="reading it would fetch 1,074 MB over the network; download the file once"):
            huge.whole()
    assert FAR_LIMIT < 4096 * 65_536 * 4


# The hub


@pytest.fixture
def hub(served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Served:
    """The hub's two addresses (listing and files) on loopback, its cache empty."""
    import huggingface_hub.constants as constants

    monkeypatch.setenv("HF_ENDPOINT", served.url)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub._snapshot_download.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    return served


def put(hub: Served, folder: Path, repo: str, inside: str = "", revision: str = "main") -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            name = f"{inside}/{path.relative_to(folder).as_posix()}".lstrip("/")
            hub.files[f"/{repo}/resolve/{revision}/{name}"] = path.read_bytes()


def test_a_hub_dictionarys_rows_come_by_ranges(hub: Served, tmp_path: Path) -> None:
    arrays = made.planted(4, 3000, 64)
    config = {"d_sae": 3000, "d_in": 64}
    folder = made.saelens(tmp_path / "s", arrays, **config)
    (folder / "labels.json").write_text(json.dumps({"2999": "law"}))
    put(hub, folder, "chanind/qwen-saes", "pile/matryoshka/k-100", "abc123")
    text = "hf:chanind/qwen-saes@abc123/pile/matryoshka/k-100#2999,4"
    found = read_directions(text)
    np.testing.assert_allclose(found.unit * found.norms[:, None], arrays["W_dec"][[2999, 4]], rtol=1e-5)
    assert found.ids == ("2999", "4") and found.labels == ("law", "") and found.site == SITE
    assert re.fullmatch(r"hf:chanind/qwen-saes@[0-9a-f]{40}/pile/matryoshka/k-100#2999,4", found.origin)
    whole = (folder / "sae_weights.safetensors").stat().st_size
    assert hub.sent < whole / 5
    assert "authorization" not in hub.headers[-1]


def test_hub_dictionaries_without_a_listing_are_refused(hub: Served, tmp_path: Path) -> None:
    put(hub, made.saelens(tmp_path / "s"), "org/repo", "a")
    with pytest.raises(Refusal, match=r"hf:org/repo/b: the repository has no such folder"):
        read_directions("hf:org/repo/b")
    hub.fault = lambda path, seen: 401 if path.startswith("/api") else None
    with pytest.raises(Refusal, match="hf:org/repo/a: the hub"):
        read_directions("hf:org/repo/a")
    hub.fault = lambda path, seen: None
    (tmp_path / "s" / "cfg.json").unlink()
    hub.files.clear()
    put(hub, tmp_path / "s", "org/repo", "a")
    with pytest.raises(Refusal, match=r"folder hf:org/repo/a: unknown dictionary layout \(it holds sae_weights"):
        read_directions("hf:org/repo/a")


def test_each_layout_that_can_be_read_far_away_is(hub: Served, tmp_path: Path) -> None:
    makers = {
        "google/gemma-scope-2b-pt-res": made.gemma_scope,
        "google/gemma-scope-2-12b-it": made.gemma_scope_2,
        "fnlp/Llama3_1-8B-Base-LXR-8x": made.llama_scope,
        "EleutherAI/sae-llama-3-8b-32x": made.sparsify,
    }
    for repo, make in makers.items():
        root = tmp_path / repo.replace("/", "_")
        path = make(root)
        put(hub, root / path.relative_to(root).parts[0], repo)
        inside = "/".join(path.relative_to(root).parts[1:])
        found = open_dictionary(f"{repo}/{inside}").weights
        assert found.stated.block == BLOCK and found.d_sae == D_SAE
        np.testing.assert_array_equal(found.rows([7]), ARRAYS["W_dec"][[7]])
        assert read_encoder(f"hf:{repo}/{inside}").d_sae == D_SAE


def test_a_torch_file_on_the_hub_must_be_fetched_first(hub: Served, tmp_path: Path) -> None:
    put(hub, made.dictionary_learning(tmp_path), "andyrdt/saes", "resid_post_layer_20/trainer_1")
    with pytest.raises(Refusal, match=r"not read in ranges over the network; run: hf download andyrdt/saes --include"):
        read_directions("andyrdt/saes/resid_post_layer_20/trainer_1")


def test_a_vector_file_on_the_hub(hub: Served) -> None:
    hub.files["/org/repo/resolve/main/probes/v.safetensors"] = save({"v": np.eye(5, dtype=np.float32)})
    assert read_directions("org/repo/probes/v.safetensors#3", site=SITE).ids == ("3",)


def test_all_reads_are_of_the_commit_that_a_branch_was_first(hub: Served, tmp_path: Path) -> None:
    put(hub, made.saelens(tmp_path / "old"), "org/repo", "a")
    hub.commits[("org/repo", "main")] = "1" * 40
    ref = DictionaryRef.parse("hf:org/repo/a#3")
    hub_questions._COMMITS.clear()
    assert commit_of(ref) == "1" * 40 and str(pinned(ref)) == f"hf:org/repo@{'1' * 40}/a#3"
    assert DictionaryRef.parse(str(pinned(ref))) == pinned(ref) == pinned(pinned(ref))
    first = read_directions(ref)
    # The branch moves to a commit of other rows.
    for name in list(hub.files):
        hub.files[name.replace("/main/", f"/{'1' * 40}/")] = hub.files[name]
    put(hub, made.saelens(tmp_path / "new", ARRAYS | {"W_dec": ARRAYS["W_dec"][::-1].copy()}), "org/repo", "a")
    hub.commits.clear()
    hub.commits[("org/repo", "main")] = "2" * 40
    np.testing.assert_array_equal(read_directions(ref).unit, first.unit)
    hub_questions._COMMITS.clear()
    assert commit_of(ref) == "2" * 40 and not np.array_equal(read_directions(ref).unit, first.unit)
    np.testing.assert_array_equal(read_directions(f"hf:org/repo@{'1' * 40}/a#3").unit, first.unit)
    asked = hub.requests
    assert commit_of(DictionaryRef.parse(f"hf:org/repo@{'3' * 40}/a")) == "3" * 40
    assert commit_of(DictionaryRef.parse(tmp_path)) is None and hub.requests == asked
    hub_questions._COMMITS.clear()


def test_revisions_that_the_hub_does_not_have_are_refused(hub: Served, tmp_path: Path) -> None:
    put(hub, made.saelens(tmp_path / "s"), "org/repo", "a", "refs/pr/3")
    assert len(read_directions("hf:org/repo@refs/pr/3/a")) == D_SAE
    with pytest.raises(Refusal, match="the hub has the repository, but not the revision 'v9'"):
        read_directions("hf:org/repo@v9/a")
    with pytest.raises(Refusal, match="the hub has no such repository, or it is gated"):
        read_directions("hf:org/other/a")


def test_the_hubs_cache_is_asked_before_the_hub(hub: Served, tmp_path: Path) -> None:
    root = tmp_path / "cache" / "models--org--repo"
    commit = "a" * 40
    made.saelens(root / "snapshots" / commit / "k-100")
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(commit)
    assert len(read_directions("hf:org/repo/k-100")) == D_SAE
    assert commit_of(DictionaryRef.parse("hf:org/repo/k-100")) == commit
    assert hub.requests == 0


def test_a_hub_that_cannot_be_reached_says_what_to_fetch(hub: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving() as gone:
        monkeypatch.setenv("HF_ENDPOINT", gone.url)
    with pytest.raises(Refusal, match="the hub cannot be reached.*run: hf download org/repo --local-dir FOLDER"):
        read_directions("hf:org/repo/x")


# SAELens' registry

REGISTRY = """\
other-release:
  repo_id: org/other
  saes:
  - id: a
    path: a
scope-res:
  conversion_func: llama_scope
  model: m
  repo_id: org/repo
  saes:
  - id: layer_20/width_16k
    path: deep/k-100
    norm_scaling_factor: 0.25
  - id: odd
    path: nowhere
  - id: stray
    path: ../../other/repo
empty-release:
  saes: []
"""


def test_a_release_is_looked_up_without_importing_saelens(
    hub: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = "sae:scope-res/layer_20/width_16k#3"
    with pytest.raises(Refusal, match="sae_lens is not installed; run: pip install sae-lens, or name the repository"):
        read_directions(ref)
    (tmp_path / "lib" / "sae_lens").mkdir(parents=True)
    (tmp_path / "lib" / "sae_lens" / "__init__.py").write_text("raise ImportError('must not be imported')")
    (tmp_path / "lib" / "sae_lens" / "pretrained_saes.yaml").write_text(REGISTRY)
    monkeypatch.syspath_prepend(str(tmp_path / "lib"))
    folder = made.saelens(tmp_path / "s", normalize_activations="expected_average_only_in")
    put(hub, folder, "org/repo", "deep/k-100")
    assert read_directions(ref).ids == ("3",)
    assert read_encoder(DictionaryRef.parse(ref)).input_factor == 0.25
    at = f"sae:scope-res@{hub.commit('org/repo', 'main')}/layer_20/width_16k#3"
    assert str(pinned(DictionaryRef.parse(ref))) == at and read_directions(at).ids == ("3",)
    for odd, why in {
        "sae:scope-res/layer_9": r"has no such id \(it has layer_20/width_16k, odd, stray, ...\)",
        "sae:no-release/a": "has no release 'no-release'",
        "sae:empty-release/a": "does not say where the release lies",
        "sae:scope-res/stray": "names a path outside the repository",
    }.items():
        with pytest.raises(Refusal, match=why):
            read_directions(odd)
