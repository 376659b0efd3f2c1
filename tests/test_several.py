"""Several dictionaries in one command: a run each, one verbalizer, one folder that other commands take."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ar_checkpoints import WIDTH
from asking import explain as explain_one
from dragoman.core import Interrupted, Refusal, Site, Talk
from dragoman.dictionaries import Asked, several
from dragoman.dictionaries.several import folder_names, named
from dragoman.models.decode import Verbalizer
from dragoman.models.harvest import Reader
from dragoman.runs import common as common_module
from dragoman.runs import order, plan
from dragoman.runs.common import Common
from dragoman.runs.readings import Readings
from dragoman.runs.run import Run
from dragoman.runs.several import explain_each, of_graph, opened
from dragoman.store import RunFolder
from dragoman.store.runsets import RunSet, SetEntry, check_set, one_run, runs_of
from dragoman.verbalizers.protocol import UNSAID
from small_world import World, command
from test_graphs import graph_at, node
from test_remote import REGISTRY
from verbalizer_doubles import ScriptedVerbalizer

BLOCKS = (1, 2)


@pytest.fixture(scope="module")
def blocks(world: World) -> Path:
    """A folder of dictionaries, one of block 1 and one of block 2, and a stranger."""
    folder = world.root / "blocks"
    for block in BLOCKS:
        at_block(world, folder / f"layers.{block}", block)
    (folder / "notes").mkdir()
    (folder / "notes" / "a.txt").write_text("not a dictionary")
    return folder


def at_block(world: World, folder: Path, block: int, **more: Any) -> Path:
    """A copy of the world's dictionary that says it is of a block."""
    shutil.copytree(world.sae, folder)
    told = json.loads((folder / "cfg.json").read_text())
    told["metadata"] |= {"hook_name": f"blocks.{block}.hook_resid_post"} | more
    (folder / "cfg.json").write_text(json.dumps(told))
    return folder


def common_of(world: World, by: Any, **changes: Any) -> Common:
    options = {"reading": "writes", "batch_size": 4, "max_new_tokens": 6} | changes.pop("options", {})
    how = {"dtype": "float32", "device": "cpu", "engine": "auto", "compiled": False}
    usual: dict[str, Any] = {"native": None, "fed": UNSAID, "through": None, "map": None, "confidence": None}
    usual |= {"options": options, "texts": str(world.root / "texts.txt"), "how": how}
    return Common.of(by, **(usual | changes))


@pytest.fixture
def words(world: World, blocks: Path) -> list[str]:
    """Words of the command line for both dictionaries."""
    usual = ["--source", world.source.model, "--by", world.av, "--texts", str(world.root / "texts.txt")]
    return ["explain", str(blocks), *usual, "--max-new-tokens", "6", "--features", "0,3", "--reading", "writes"]


Speak = Callable[..., list[Any]]


@pytest.fixture
def speak(world: World, blocks: Path, tmp_path: Path) -> Speak:
    """Explain features of both dictionaries by a scripted verbalizer; ``said`` gets what is told."""

    def run(features: str = "0,3", said: list[str] | None = None, out: str = "set", **changes: Any) -> list[Any]:
        answer = lambda v: f"Text about number {int(np.argmax(v))}, says {out}."  # noqa: E731
        by = ScriptedVerbalizer(world.target, WIDTH, answer, script=out)
        asked = opened(named([str(blocks)])[0], world.source.model, tmp_path / out)
        asked = [replace(one, features=Asked.parse(features)) for one in asked]
        talk = Talk(say=(said if said is not None else []).append)
        return [ended for _, ended in explain_each(asked, common_of(world, by, **changes), tmp_path / out, talk)]

    return run


# --- what is named ----------------------------------------------------------------------------------------------------


def test_a_folder_and_a_pattern_name_their_dictionaries_in_order(world: World, blocks: Path, tmp_path: Path) -> None:
    for block in (10, 9):
        at_block(world, tmp_path / f"layers.{block}" / "resid", block)
        at_block(world, tmp_path / f"[a-z]?{block}", block)
    assert named([str(blocks)]) == ([str(blocks / "layers.1"), str(blocks / "layers.2")], True)
    inner = [str(tmp_path / f"layers.{block}/resid") for block in (9, 10)]
    assert named([f"{tmp_path}/layers.*/resid"]) == (inner, True)
    assert named([f"{tmp_path}/[a-z]?*"])[0] == [f"{tmp_path}/[a-z]?9", f"{tmp_path}/[a-z]?10"]
    assert named([world.sae]) == ([world.sae], False) and named(["tiny-sae"]) == (["tiny-sae"], False)
    assert named([world.sae, "tiny-sae"]) == ([world.sae, "tiny-sae"], True)
    with pytest.raises(Refusal, match="nothing fits the pattern"):
        named([f"{tmp_path}/blocks.*"])


def test_patterns_of_a_release_and_of_a_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lib" / "sae_lens").mkdir(parents=True)
    (tmp_path / "lib" / "sae_lens" / "__init__.py").write_text("raise ImportError('must not be imported')")
    (tmp_path / "lib" / "sae_lens" / "pretrained_saes.yaml").write_text(REGISTRY)
    monkeypatch.syspath_prepend(str(tmp_path / "lib"))
    assert named(["sae:scope-res/layer_*"])[0] == ["sae:scope-res/layer_20/width_16k"]
    with pytest.raises(Refusal, match=r"'sae:scope-res/block\*': nothing fits the pattern"):
        named(["sae:scope-res/block*"])
    tree = {"": {"README.md": True, "layers.10": False, "layers.9": False, ".git": False}}
    tree |= {"layers.10": {"mlp": False}, "layers.9": {"mlp": False, "attn": False}}
    monkeypatch.setattr(several.hub, "commit", lambda *_: "c0")
    monkeypatch.setattr(several.hub, "listing", lambda repo, sha, folder, what: tree[folder])
    assert named(["org/repo/layers.*/mlp"])[0] == ["hf:org/repo/layers.9/mlp", "hf:org/repo/layers.10/mlp"]
    assert named(["hf:org/repo@v1/*"])[0] == ["hf:org/repo@v1/layers.9", "hf:org/repo@v1/layers.10"]


@pytest.mark.parametrize(
    ("refs", "names"),
    [
        (("hf:o/r/layers.3", "hf:o/r/layers.4"), ["layers.3", "layers.4"]),
        (("hf:o/r/layers.3/mlp", "hf:o/r/layers.4/mlp"), ["layers.3-mlp", "layers.4-mlp"]),
        (("sae:one/a#3", "sae:two/a"), ["one-a", "two-a"]),
        (("hf:o/r/X", "hf:o/r/x"), ["hf-o-r-X", "hf-o-r-x-2"]),
        (("file:/p/v.npz#up", "file:/p/v.npz#down"), ["up", "down"]),
        (("/p/\x1b[31m$(rm)/..x", "/p/é 'q'/"), ["x", "q"]),
        (("/p/-", "/p/+"), ["p", "p-2"]),
    ],
)
def test_runs_are_called_by_what_tells_their_dictionaries_apart(refs: tuple[str, ...], names: list[str]) -> None:
    assert folder_names(refs, {}) == names


def test_names_that_were_given_stay_and_a_dictionary_is_named_once() -> None:
    assert folder_names(["hf:o/r/b/x", "hf:o/r/a/x@"], {"hf:o/r/a/x@": "mine"})[1] == "mine"
    assert folder_names(["hf:o/r/b/x"], {"hf:o/r/a/x": "x"}) == ["b-x"]
    for twice in (["hf:o/r/a", "o/r/a#3"], ["/p/a", "/p/b/../a/"], ["tiny-sae", "tiny-sae"]):
        with pytest.raises(Refusal, match="it is named twice"):
            folder_names(twice, {})


# --- the runs ---------------------------------------------------------------------------------------------------------


def test_each_run_is_that_of_its_dictionary_alone_and_the_verbalizer_is_opened_once(
    world: World, blocks: Path, words: list[str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("DRAGOMAN_CACHE", str(tmp_path / "cache"))
    times = list[str]()
    for opened_once in (Verbalizer, Reader):
        patched(monkeypatch, opened_once, times)
    done = command(monkeypatch, capsys, *words, "-o", str(tmp_path / "set"))
    assert done.code == 0, done.err
    assert times == [world.av, f"{world.source.model}:1", str(world.target)]
    assert [path.name for path in runs_of(tmp_path / "set")] == ["layers.1", "layers.2"]
    assert done.out.endswith(f"next: dragoman view {tmp_path / 'set'}\n") and "layers.2: " in done.out
    for block in BLOCKS:
        request = world.request(dictionary=str(blocks / f"layers.{block}"), features=("0", "3"), reading="writes")
        site = Site(world.source.model, block)
        alone = explain_one(replace(request, source=site, batch_size=None), tmp_path / f"alone{block}")
        run = RunFolder.open(tmp_path / "set" / f"layers.{block}")
        assert run.rows() == alone.rows() and run.manifest["source"] == str(site)
    told = command(monkeypatch, capsys, *words, "-o", str(tmp_path / "set"), "--json")
    rows = [json.loads(line) for line in told.out.splitlines()]
    assert [row["run"] for row in rows] == ["layers.1"] * 2 + ["layers.2"] * 2


def patched(monkeypatch: pytest.MonkeyPatch, kind: Any, times: list[str]) -> None:
    """Note what is opened."""
    opening = kind.open
    monkeypatch.setattr(kind, "open", lambda ref, **how: times.append(f"{ref}") or opening(ref, **how))


def test_where_room_is_short_the_readers_go_before_words_are_said(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("DRAGOMAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(order, "free_bytes", lambda device: 0)
    times = list[str]()
    patched(monkeypatch, Reader, times)
    done = command(monkeypatch, capsys, *words, "-o", str(tmp_path / "set"))
    assert done.code == 0, done.err
    assert len(times) == 4 and "one model at a time" in done.err


def test_what_is_finished_is_not_looked_at_again_and_more_features_are_added(
    speak: Speak, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    speak()
    said = list[str]()
    with monkeypatch.context() as patch:
        patch.setattr(Common, "explained", lambda *_: pytest.fail("it was explained again"))
        runs = speak(said=said)
    assert "layers.1 was finished before" in said and [len(run.folder.rows()) for run in runs] == [2, 2]
    runs = speak("0,3,7")
    assert [run.manifest["features"] for run in runs] == [["0", "3", "7"]] * 2
    shutil.rmtree(tmp_path / "set" / "layers.2")
    assert [len(run.folder.rows()) for run in speak("0,3,7")] == [3, 3]
    (tmp_path / "ids").write_text("0\n3\n7\n")
    assert [len(run.folder.rows()) for run in speak(f"@{tmp_path / 'ids'}")] == [3, 3]
    (tmp_path / "ids").write_text("0\n3\n7\n11\n")
    assert [len(run.folder.rows()) for run in speak(f"@{tmp_path / 'ids'}")] == [4, 4], "a file of other ids is another"


def test_what_was_never_begun_and_is_not_asked_for_any_more_is_forgotten(speak: Speak, tmp_path: Path) -> None:
    speak()
    named = RunSet.at(tmp_path / "set")
    assert named is not None
    never = SetEntry(name="layers.9", dictionary="elsewhere", source="m:9")
    named.model_copy(update={"runs": (*named.runs, never)}).write(tmp_path / "set")
    with pytest.raises(Refusal, match=r"1 of its 3 runs hold no explanation yet \(layers.9\)"):
        runs_of(tmp_path / "set")
    speak()
    assert [path.name for path in runs_of(tmp_path / "set")] == ["layers.1", "layers.2"]


def test_ctrl_c_keeps_what_is_done_and_the_same_call_goes_on(
    speak: Speak, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, saying = Readings.aligned, plan._verbalized

    def between(self: Readings, *args: Any, **how: Any) -> Any:
        if self.source.block == BLOCKS[1]:
            raise KeyboardInterrupt
        return reading(self, *args, **how)

    def within(*args: Any) -> Any:
        if len(list((tmp_path / "set").glob("*/rows.jsonl"))) > 1:
            raise KeyboardInterrupt
        return saying(*args)

    with monkeypatch.context() as patch:
        patch.setattr(Readings, "aligned", between)
        with pytest.raises(Interrupted, match=r"1 of 2 dictionaries are done in .*run the same command again"):
            speak()
    assert [one.done is not None for one in RunSet.at(tmp_path / "set").runs] == [True, False]  # type: ignore[union-attr]
    with pytest.raises(Refusal, match=r"1 of its 2 runs hold no explanation yet \(layers.2\)"):
        runs_of(tmp_path / "set")
    assert [path.name for path in runs_of(tmp_path / "set", begun=True)] == ["layers.1"]
    with monkeypatch.context() as patch:
        patch.setattr(plan, "_verbalized", within)
        with pytest.raises(Interrupted, match=r"0 of 2 rows are kept.*\(1 of 2 dictionaries are done.\)"):
            speak()
    assert [len(run.folder.rows()) for run in speak()] == [2, 2]


def test_one_that_is_refused_midway_holds_up_no_other_and_is_told_at_the_end(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reading, ending = Readings.aligned, common_module.refuse_ended

    def refused(self: Readings, *args: Any, **how: Any) -> Any:
        if self.source.block == BLOCKS[0]:
            raise Refusal("its texts", "no two tokens end together", "name others")
        return reading(self, *args, **how)

    def ended(run: RunFolder) -> RunFolder:
        if run.path.name == "layers.2":
            raise Refusal("feature 3", "every worker that was to say it ended", "look into the log")
        return ending(run)

    words += ["-o", str(tmp_path / "set")]
    with monkeypatch.context() as patch:
        patch.setattr(Readings, "aligned", refused)
        done = command(patch, capsys, *words)
    assert done.code == 1 and "layers.2: " in done.out and "layers.1: " not in done.out
    told = done.err.splitlines()[-2:]
    assert told[0].startswith("dragoman: ") and told[0].endswith(
        "layers.1: its texts: no two tokens end together; name others."
    )
    assert told[1] == "dragoman: 1 of 2 dictionaries are done; run the same command again for the others."
    assert [one.done is not None for one in RunSet.at(tmp_path / "set").runs] == [False, True]  # type: ignore[union-attr]
    with monkeypatch.context() as patch:
        patch.setattr(common_module, "refuse_ended", ended)
        done = command(patch, capsys, *words)
    assert done.code == 0 and "layers.2 was finished before" in done.err, "only the other is tried"
    shutil.rmtree(tmp_path / "set" / "layers.2")
    with monkeypatch.context() as patch:
        patch.setattr(common_module, "refuse_ended", ended)
        done = command(patch, capsys, *words)
    assert done.code == 1 and "layers.1: " in done.out and "layers.2: feature 3: every worker" in done.err
    assert len(RunFolder.open(tmp_path / "set" / "layers.2").rows()) == 2
    assert command(monkeypatch, capsys, *words).code == 0


def test_a_page_that_cannot_be_written_holds_up_no_other(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words += ["-o", str(tmp_path / "set")]
    assert command(monkeypatch, capsys, *words).code == 0
    page = RunFolder.open(tmp_path / "set" / "layers.1").page
    page.unlink()
    page.mkdir()
    done = command(monkeypatch, capsys, *words)
    assert done.code == 1 and "layers.2: " in done.out and str(page) in done.err.splitlines()[-2]
    assert done.err.splitlines()[-1].startswith("dragoman: 1 of 2 dictionaries are done")


def test_a_run_that_cannot_be_scored_holds_up_no_other(
    speak: Speak, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    speak(options={"reading": "both"})
    (tmp_path / "set" / "layers.1" / "rows.jsonl").write_text("{")
    scored = command(monkeypatch, capsys, "score", str(tmp_path / "set"), "--json")
    assert scored.code == 1 and [json.loads(line)["run"] for line in scored.out.splitlines()] == ["layers.2"]
    assert scored.err.splitlines()[-1] == "dragoman: 1 of 2 runs are done; run the same command again for the others."


def test_nothing_is_opened_where_one_of_them_cannot_be_explained(
    world: World, blocks: Path, words: list[str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(Verbalizer, "open", lambda *_, **__: pytest.fail("a verbalizer was opened"))
    far, other = at_block(world, tmp_path / "far", 99), at_block(world, tmp_path / "other", 1, model_name="n")
    broken = at_block(world, tmp_path / "broken", 1)
    (broken / "sae_weights.safetensors").write_bytes(b"torn")
    run = tmp_path / "run"
    told = {"plan_digest": "0", "source": "m:1", "target": "n:1", "features": ["1"], "rows": 1}
    RunFolder.create(run, told | {"conditions": [{"name": "writes"}]})
    (tmp_path / "strange").mkdir()
    (tmp_path / "strange" / "thesis.txt").write_text("mine")
    (tmp_path / "pair.json").write_text('{"kind": "dragoman calibration"}')
    plain = [word for word in words if word not in ("--source", world.source.model)]
    bare = words[2 : words.index("--features")]
    cases: list[tuple[list[str], str]] = [
        ([words[0], str(far), *words[1:]], "has 4 blocks"),
        ([words[0], str(broken), *words[1:]], str(broken)),
        ([plain[0], str(other), *plain[1:]], "they are of several models (n, m)"),
        ([words[0], str(other), *words[1:]], "they are of several models (n, m)"),
        ([words[0], str(blocks / "layers.1"), *words[1:]], "it is named twice"),
        ([*words, "--labels", str(tmp_path)], "an export has those of one"),
        ([*words, "--prompt", "a text"], "they are read at one place"),
        ([*plain, "--source", str(world.source)], "every dictionary has a block of its own"),
        ([*words[:-3], "0-99", *words[-2:]], "it has 30 features"),
        (["explain", f"{blocks / 'layers.1'}#[77]", f"{blocks / 'layers.2'}", *bare], "feature 77"),
        ([*words, "--native", world.av], "it is needed at"),
        ([*words, "-o", str(run)], "it holds a run, and several dictionaries take a folder"),
        ([*words, "-o", str(tmp_path / "strange")], "it holds other files (thesis.txt)"),
        ([*words, "--graph", str(graph_at(tmp_path / "g.json", node(9, 1)))], "both say which features"),
    ]
    for asked, why in cases:
        done = command(monkeypatch, capsys, *asked, *([] if "-o" in asked else ["-o", str(tmp_path / "out")]))
        assert done.code == 1 and why in done.err and done.err.count("\n") == 1, (asked, done.err)
    assert not (tmp_path / "out").exists() and not RunSet.at(run)


def test_crossings_and_calibrations_are_of_one_dictionary(
    world: World, blocks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dragoman.runs import several as each

    asked = opened(named([str(blocks)])[0], world.source.model, tmp_path / "set")
    (tmp_path / "pair.json").write_text('{"kind": "dragoman calibration"}')
    monkeypatch.setattr(common_module, "_refuse_unread", lambda _: None)
    with pytest.raises(Refusal, match="a calibration is of one"):
        each.check_each(asked, common_of(world, world.av, confidence=tmp_path / "pair.json"), tmp_path / "set")
    common = common_of(world, world.av)
    crossed = replace(common, fitted=type("Crossing", (), {"name": "crossing c"})())
    with pytest.raises(Refusal, match="through crossing c: a crossing is of one"):
        each.check_each(asked, crossed, tmp_path / "set")


def test_what_cannot_be_read_leaves_no_folder_behind(speak: Speak, tmp_path: Path) -> None:
    (tmp_path / "few.txt").write_text("\n".join(f"one line {k}" for k in range(12)))
    assert [type(one) for one in speak(texts=str(tmp_path / "few.txt"))] == [Refusal, Refusal]
    assert not (tmp_path / "set").exists()


def test_a_dry_run_sums_them(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["-o", str(tmp_path / "set"), "--dry-run"]
    done = command(monkeypatch, capsys, *words, *out)
    assert done.code == 0 and "layers.2: 2 features at" in done.out and "2 dictionaries together:" in done.out
    elsewhere = command(monkeypatch, capsys, *words, *out, "--device", "cuda")
    assert elsewhere.code == 0 and "of the GPU" in elsewhere.out, elsewhere.err
    told = json.loads(command(monkeypatch, capsys, *words, *out, "--json").out)
    assert told["features"] == 4 and told["conditions"] == {"writes": 4} and told["decoded_tokens"] == 4 * 6
    assert told["source"].endswith(":1,2") and len(told["models"]) == 3 and not (tmp_path / "set").exists()


# --- the folder -------------------------------------------------------------------------------------------------------


def test_a_graph_goes_in_and_comes_out_with_labels_of_all_its_blocks(
    world: World, blocks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from dragoman.exports.circuit import features_by_layer

    graph = graph_at(tmp_path / "graph.json", node(2, 7), node(1, 3), node(2, 3), node(3, 9), node(1, 3, 8))
    layers = features_by_layer(graph)
    assert layers == {2: ["7", "3"], 1: ["3"], 3: ["9"]}
    asked, said = opened(named([str(blocks)])[0], world.source.model, tmp_path / "set"), list[str]()
    asked = of_graph(asked, layers, Talk(say=said.append))
    assert said == ["1 feature of the graph is of block 3, of which no dictionary is named"]
    by = ScriptedVerbalizer(world.target, WIDTH, lambda v: f"Text about number {int(np.argmax(v))}.")
    runs = [
        run for _, run in explain_each(asked, common_of(world, by), tmp_path / "set", Talk()) if isinstance(run, Run)
    ]
    words = ("export", str(tmp_path / "set"), "--format", "circuit-tracer", "--graph", str(graph))
    done = command(monkeypatch, capsys, *words, "-o", str(tmp_path / "out"))
    assert done.code == 0, done.err
    text = {(run.manifest["source"][-1], e.feature): e.text for run in runs for e in run.explanations()}
    nodes = json.loads((tmp_path / "out" / "graph.json").read_text())["nodes"]
    want = [text["2", "7"], text["1", "3"], text["2", "3"], "", text["1", "3"]]
    assert [one["clerp"] for one in nodes] == want and text["1", "3"] != ""
    labels = json.loads((tmp_path / "out" / "labels.json").read_text())
    assert labels == {"1_3": text["1", "3"], "2_3": text["2", "3"], "2_7": text["2", "7"]}
    assert len(list((tmp_path / "out" / "features").iterdir())) == 3
    with pytest.raises(Refusal, match=r"both are of block 1, and a node is of one"):
        of_graph([asked[0], asked[0]], layers, Talk())
    with pytest.raises(Refusal, match=r"no node is a feature of their blocks \(it has features of layers 9\)"):
        of_graph(asked, {9: ["1"]}, Talk())


def test_numbers_that_layers_share_are_not_mixed_up_in_graphs_of_the_first_version(tmp_path: Path) -> None:
    from dragoman.exports.circuit import labelled_graph

    nodes = [node(1, 3) | {"feature": 3}, node(2, 3) | {"feature": 3}, node(2, 7) | {"feature": 7}]
    made = labelled_graph({"nodes": nodes}, {(1, 3): "one", (2, 3): "two", (2, 7): "seven"}, [1, 2])
    assert [one["clerp"] for one in made["nodes"]] == ["one", "two", "seven"]
    assert json.loads(made["qParams"]["clerps"]) == [["7", "seven"]]
    made = labelled_graph({"nodes": nodes}, {(1, 3): "one", (2, 7): "seven"}, [1, 2])
    assert [one.get("clerp") for one in made["nodes"]] == ["one", nodes[1].get("clerp"), "seven"]
    assert json.loads(made["qParams"]["clerps"]) == [["7", "seven"]], "a number that another layer has too"


def test_view_score_rank_and_export_take_the_folder(
    speak: Speak, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    speak(options={"reading": "both"})
    folder = tmp_path / "set"
    (folder / "mine").mkdir()
    (folder / "mine" / "notes.txt").write_text("a stranger")
    scored = command(monkeypatch, capsys, "score", str(folder), "--json")
    assert scored.code == 0, scored.err
    assert [json.loads(line)["run"] for line in scored.out.splitlines()] == ["layers.1", "layers.2"]
    shown = command(monkeypatch, capsys, "view", str(folder), "--bundle", str(tmp_path / "pages"))
    assert shown.code == 0 and "layers.2" in (tmp_path / "pages" / "index.html").read_text()
    speak(options={"reading": "both"}, out="other")
    ranked = command(monkeypatch, capsys, "rank", str(folder), str(tmp_path / "other"), "--json")
    assert ranked.code == 0, ranked.err
    assert [json.loads(line)["dictionary"][-8:] for line in ranked.out.splitlines()] == ["layers.1", "layers.2"]
    mixed = command(monkeypatch, capsys, "rank", str(folder), str(folder / "layers.1"))
    assert mixed.code == 1 and "it is one run, and others are folders of several" in mixed.err
    table = command(monkeypatch, capsys, "export", str(folder), "--format", "csv", "-o", str(tmp_path / "t"))
    assert table.code == 1 and "it is a folder of 2 runs, and --format csv takes one" in table.err
    page = command(monkeypatch, capsys, "report", str(folder))
    assert page.code == 1 and "it is a folder of several runs; name one in it" in page.err
    one = command(monkeypatch, capsys, "explain", "tiny-sae", "-o", str(folder))
    assert one.code == 1 and "it is a folder of several runs" in one.err


@pytest.mark.parametrize(
    "told",
    ["[]", "{", '{"format": true, "kind": "dragoman runs", "runs": []}', '{"format": 1, "kind": "x", "runs": []}'],
)
def test_an_index_that_is_none_is_refused(tmp_path: Path, told: str) -> None:
    (tmp_path / "runs.json").write_text(told)
    for read in (runs_of, check_set, lambda path: one_run(path, "compare")):
        with pytest.raises(Refusal, match=r"runs\.json"):
            read(tmp_path)


@pytest.mark.parametrize("name", ["../out", "/etc", "a/b", "", ".hidden", "x" * 300, "a\x1b[31m"])
def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    entry = {"name": name, "dictionary": "d", "source": "m:1", "done": None}
    (tmp_path / "runs.json").write_text(json.dumps({"format": 1, "kind": "dragoman runs", "runs": [entry]}))
    with pytest.raises(Refusal, match=r"runs\.json: runs.0.name"):
        runs_of(tmp_path)
