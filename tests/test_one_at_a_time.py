"""Models opened all at once or one at a time: the same run, byte for byte, and one model alive where one is enough."""

from __future__ import annotations

import gc
import json
import shutil
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dragoman
import dragoman.core
from dragoman.core import Refusal, Site, Talk
from dragoman.dictionaries import Asked, open_dictionary
from dragoman.models import load
from dragoman.models.decode import Verbalizer
from dragoman.models.needs import ModelNeeds
from dragoman.models.prompts import activations
from dragoman.models.vllm import engine
from dragoman.runs import order, plan, readings
from dragoman.runs.dry_run import dry_run
from dragoman.runs.forecast import Sizes, gpu_peak, host_peak
from dragoman.runs.order import COMFORT, planned
from dragoman.runs.run import Run
from dragoman.runs.texts import Texts
from dragoman.runs.turns import InTurn, speaking
from embedded_once import shared
from small_world import TEXTS, World, write_sae
from tiny_checkpoints import BLOCK, save_checkpoint, sidecar_of
from vllm_double import Double, install

pytestmark = pytest.mark.usefixtures("no_hub")
FAMILY = {"source": "qwen2", "target": "gemma3"}
Explained = Callable[..., Run]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A source with a verbalizer of its own, a target with another, a dictionary, texts."""
    root = tmp_path_factory.mktemp("one")
    for name, family in FAMILY.items():
        save_checkpoint(root / name, family, sidecar=sidecar_of(family) | {"base_checkpoint": str(root / name)})
    World(root)
    write_sae_of(root / "sae", 48)
    (root / "texts.txt").write_text("\n".join(" ".join(text.split()) for text in TEXTS))
    with pytest.MonkeyPatch.context() as patch:
        shared(patch)
        yield root


def write_sae_of(folder: Path, width: int) -> None:
    from safetensors.numpy import save_file

    write_sae(folder)
    w = np.random.default_rng(0).standard_normal((30, width)).astype(np.float32)
    w /= np.linalg.norm(w, axis=1, keepdims=True)
    arrays = {"W_dec": w, "W_enc": w.T.copy(), "b_enc": np.zeros(30, np.float32), "b_dec": np.zeros(width, np.float32)}
    save_file(arrays, folder / "sae_weights.safetensors")
    told = json.loads((folder / "cfg.json").read_text())
    (folder / "cfg.json").write_text(json.dumps(told | {"d_in": width}))


@pytest.fixture
def explained(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Explained:
    """Explain features of the dictionary; ``free``: bytes that are said to be free."""

    def run(name: str, *, free: int | None = None, what: Any = None, cache: Path | None = None, **how: Any) -> Run:
        monkeypatch.setenv("DRAGOMAN_CACHE", str(cache or place / "cache"))
        monkeypatch.setattr(order, "free_bytes", lambda device: free)
        source = Site(str(place / "source"), BLOCK)
        usual: dict[str, Any] = {"native": str(place / "source"), "max_new_tokens": 6, "batch_size": 4}
        usual |= {"texts": place / "texts.txt", "features": ["0", "3", "7", "11", "19"]} | how
        if what is not None:
            usual.pop("features")
        opened = open_dictionary(str(place / "sae"), site=source) if what is None else what
        return dragoman.explain(opened, by=str(place / "target"), out=tmp_path / name, **usual)

    return run


def written(run: Run) -> dict[str, bytes]:
    """Every file of a run but its log."""
    paths = (path for path in run.folder.path.rglob("*") if path.is_file() and path.name != "log.txt")
    return {path.relative_to(run.folder.path).as_posix(): path.read_bytes() for path in paths}


@pytest.fixture(scope="module")
def usual() -> dict[str, bytes]:
    """Files of the usual run at once, which the first test that asks for it makes."""
    return {}


def whole(explained: Explained, usual: dict[str, bytes]) -> dict[str, bytes]:
    if not usual:
        usual.update(written(explained("at once")))
    return usual


@pytest.mark.parametrize("how", [{}, {"map": "post", "batch_size": None}, {"samples": 2, "native": None}])
def test_both_orders_write_the_same_run_byte_for_byte(
    explained: Explained, usual: dict[str, bytes], how: dict[str, Any]
):
    mine = written(explained("at once", **how)) if how else whole(explained, usual)
    theirs = written(explained("low", free=0, **how))
    assert set(mine) == set(theirs) and mine["rows.jsonl"] == theirs["rows.jsonl"] and mine["rows.jsonl"]
    assert [name for name in mine if mine[name] != theirs[name]] == []


def test_so_they_do_for_activations_at_prompts(explained: Explained, place: Path):
    what = activations(Site(str(place / "source"), BLOCK), ["the people of the city vote", "a careful researcher"])
    runs = [explained(name, free=free, what=what) for name, free in (("at once", None), ("low", 0))]
    assert written(runs[0])["rows.jsonl"] == written(runs[1])["rows.jsonl"]


class Alive:
    """Which models are alive: those with an output layer, and those opened to be read up to a block."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._nets: list[weakref.ref[Any]] = []
        self.while_read: list[int] = []
        self.while_said: list[tuple[int, int]] = []
        ready, real, harvest = load.ready, Verbalizer.verbalize, readings.read_aligned

        def watched(*args: Any) -> Any:
            net = ready(*args)
            self._nets.append(weakref.ref(net))
            return net

        def said(one: Verbalizer, *args: Any, **how: Any) -> Any:
            self.while_said.append(self.now())
            return real(one, *args, **how)

        def read(*args: Any, **how: Any) -> Any:
            self.while_read.append(self.now()[0])
            assert self.now()[1] == 2
            return harvest(*args, **how)

        monkeypatch.setattr(load, "ready", watched)
        monkeypatch.setattr(Verbalizer, "verbalize", said)
        monkeypatch.setattr(readings, "read_aligned", read)

    def now(self) -> tuple[int, int]:
        """Whole models, and those that are read. Nothing is collected here: who closes a model does that."""
        nets = [net for ref in self._nets if (net := ref()) is not None]
        cut = sum(hasattr(net, "blocks_of_the_whole") for net in nets)
        return len(nets) - cut, cut


def test_one_at_a_time_no_reader_is_alive_when_words_are_said_nor_a_verbalizer_when_texts_are_read(
    explained: Explained, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    alive = Alive(monkeypatch)
    gc.disable()
    try:
        explained("low", free=0, cache=tmp_path / "cache")
    finally:
        gc.enable()
    assert alive.while_read == [0]
    assert alive.while_said and set(alive.while_said) == {(1, 0)}
    assert alive.now() == (0, 0)


def test_at_once_the_verbalizers_stay_and_the_readers_go(
    explained: Explained, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    alive = Alive(monkeypatch)
    explained("at once", free=10**12, cache=tmp_path / "cache")
    assert alive.while_read == [2] and set(alive.while_said) == {(2, 0)}


def test_the_lenses_are_gone_when_words_are_said(explained: Explained, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    from dragoman.models.lens import LensPair

    lenses: list[weakref.ref[Any]] = []
    opening, real = LensPair.open, Verbalizer.verbalize
    alive: list[int] = []

    def opened(*args: Any, **how: Any) -> Any:
        pair = opening(*args, **how)
        lenses.append(weakref.ref(pair.target.rows))
        return pair

    def said(one: Verbalizer, *args: Any, **how: Any) -> Any:
        alive.append(sum(ref() is not None for ref in lenses))
        return real(one, *args, **how)

    monkeypatch.setattr("dragoman.models.lens.FEWEST", 1)
    monkeypatch.setattr(LensPair, "open", opened)
    monkeypatch.setattr(Verbalizer, "verbalize", said)
    run = explained("low", free=0, cache=tmp_path / "cache")
    assert len(lenses) == 1 and set(alive) == {0}
    assert "lens.json" in written(run)


@pytest.mark.parametrize(("frees", "calls"), [((None, 0), 1), ((0, None), 1), ((0, 0), 3)])
def test_a_run_that_was_stopped_goes_on_in_either_order(
    explained: Explained,
    usual: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    frees: tuple[Any, Any],
    calls: int,
):
    rows = whole(explained, usual)["rows.jsonl"]
    real, made = plan._verbalized, [0]

    def stopped(*args: Any) -> Any:
        made[0] += 1
        if made[0] > calls:
            raise KeyboardInterrupt
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(plan, "_verbalized", stopped)
        with pytest.raises(dragoman.core.Interrupted):
            explained("run", free=frees[0])
    assert 0 < len((tmp_path / "run" / "rows.jsonl").read_bytes()) < len(rows)
    assert written(explained("run", free=frees[1]))["rows.jsonl"] == rows


def test_a_run_grows_in_the_other_order(explained: Explained):
    at_once = explained("a", features=["0", "3"]), explained("a")
    low = explained("b", free=0, features=["0", "3"]), explained("b", free=0)
    assert written(at_once[1])["rows.jsonl"] == written(low[1])["rows.jsonl"]


def test_a_broken_verbalizer_is_refused_before_anything_is_read(
    explained: Explained, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    broken = tmp_path / "broken"
    shutil.copytree(place / "source", broken)
    (broken / "model.safetensors").unlink()
    monkeypatch.setattr(readings.Reader, "open", classmethod(lambda *args, **how: pytest.fail("a model was read")))
    with pytest.raises(Refusal, match=r"no \*.safetensors weights"):
        explained("run", free=0, native=str(broken), cache=tmp_path / "cache")
    assert not (tmp_path / "run").exists()


def test_files_that_changed_since_they_were_looked_at_are_refused(place: Path, tmp_path: Path):
    folder = tmp_path / "av"
    shutil.copytree(place / "target", folder)
    seen: list[object] = []
    one = InTurn(lambda: Verbalizer.open(str(folder)), seen.append, "cpu", Talk())
    assert len(seen) == 1 and "closed" in repr(one)
    config = folder / "generation_config.json"
    config.write_text(config.read_text() + " ")
    with pytest.raises(Refusal, match="its files, or .*, changed since it was looked at"), speaking(one):
        pytest.fail("it spoke")
    assert "closed" in repr(one)


def test_a_closed_verbalizer_tells_what_the_open_one_does(place: Path):
    opened = Verbalizer.open(str(place / "target"))
    one = InTurn(lambda: Verbalizer.open(str(place / "target")), lambda it: None, "cpu", Talk())
    for name in ("name", "site", "width", "identity", "together", "reads_length", "trained_on_rows", "engine"):
        assert getattr(one, name) == getattr(opened, name)
    vectors = np.random.default_rng(0).standard_normal((2, one.width)).astype(np.float32)
    assert one.verbalize(vectors, max_new_tokens=4) == opened.verbalize(vectors, max_new_tokens=4)
    with speaking(one):
        assert "open)" in repr(one)


def test_a_vllm_that_runs_is_stopped_when_its_verbalizer_is_closed(place: Path, monkeypatch: pytest.MonkeyPatch):
    """The module holds the one that runs, so that dropping the verbalizer alone would leave it on the card."""
    double = install(Double(), monkeypatch)
    how: dict[str, Any] = {"engine": "vllm"}
    one = InTurn(lambda: Verbalizer.open(str(place / "target"), **how), lambda it: None, "cpu", Talk())
    vectors = np.random.default_rng(0).standard_normal((2, one.width)).astype(np.float32)
    with speaking(one):
        one.verbalize(vectors, max_new_tokens=4)
        assert (len(double.started), double.stopped, len(engine._running)) == (1, 0, 1)
        held = weakref.ref(one._opened.model)
    assert double.stopped == 1 and engine._running == [] and held() is None


def needs(parameters: int | None) -> ModelNeeds:
    blocks = () if parameters is None else (parameters // 10,) * 10
    return ModelNeeds(
        ref=f"m{parameters}", parameters=parameters, width=64, blocks=10, tokenizer_bytes=1, by_block=blocks
    )


def sizes(*held: ModelNeeds, read: tuple[ModelNeeds, ...] = ()) -> Sizes:
    how: dict[str, Any] = {"p": 64, "q": 64, "d_sae": 100, "features": 5, "aligned": False, "rows": 4, "most": 10}
    return Sizes(held=held, read=read, dtype="bfloat16", **how)


def test_the_order_follows_from_sizes_and_what_is_free(monkeypatch: pytest.MonkeyPatch):
    by, native = needs(27 * 10**9), needs(7 * 10**9)
    read = needs(7 * 10**9).upto(4), needs(27 * 10**9).upto(5)
    whole = sizes(by, native, read=read)
    at_once, low = gpu_peak(whole), gpu_peak(whole, "one at a time")
    assert at_once is not None and low is not None
    weights = 2 * (27 + 7 + 3.5 + 27 * 0.6) * 1e9
    assert abs(at_once[0] - weights) < 1e9 and at_once[2] == "reading"
    assert abs(low[0] - 2 * 27e9) < 1e9 and low[2] == "saying"
    for free, wanted in ((at_once[0] / COMFORT + 1, "at once"), (at_once[0] / COMFORT - 1, "one at a time")):
        monkeypatch.setattr(order, "free_bytes", lambda device, free=free: int(free))
        assert planned(whole, "cuda").order == wanted
    told = planned(whole, "cuda").sentence
    assert told.startswith("one model at a time: all at once would take about 107") and "that are free" in told
    monkeypatch.setattr(order, "free_bytes", lambda device: None)
    assert planned(whole, "cuda").order == "at once"
    unknown = planned(sizes(needs(None)), "cuda")
    assert unknown.order == "one at a time" and unknown.sentence.endswith("the size of one is not known")
    peaks = host_peak(whole), host_peak(whole, "one at a time")
    assert peaks[0] is not None and peaks[1] is not None and peaks[1][0] < peaks[0][0]


def test_the_order_is_told_in_one_sentence_and_by_a_dry_run(explained: Explained, place: Path, tmp_path: Path):
    said: list[str] = []
    brief: dict[str, Any] = {"talk": Talk(say=said.append), "features": ["0"], "native": None, "map": "post"}
    explained("low", free=1, **brief)
    assert len([line for line in said if line.startswith("one model at a time: ")]) == 1
    explained("at once", **brief)
    assert len([line for line in said if line.startswith("one model at a time")]) == 1
    dictionary = open_dictionary(str(place / "sae"), site=Site(str(place / "source"), BLOCK))
    found = []
    for free in (10**15, 0):
        order.free_bytes = lambda device, free=free: free  # explained() puts it back
        found.append(
            dry_run(
                dictionary,
                by=str(place / "target"),
                native=str(place / "source"),
                out=tmp_path / "dry",
                features=Asked.parse("0-4"),
                texts=Texts.read(place / "texts.txt"),
            )
        )
    assert [one.order for one in found] == ["at once", "one at a time"]
    assert found[1].host_bytes is not None and found[0].host_bytes is not None
    assert found[1].host_bytes < found[0].host_bytes


def test_a_verbalizer_that_a_caller_opened_stays_the_callers(
    explained: Explained, usual: dict[str, bytes], place: Path
):
    opened = Verbalizer.open(str(place / "source"))
    rows = written(explained("a", free=0, native=opened))["rows.jsonl"]
    assert rows == whole(explained, usual)["rows.jsonl"] and opened.model is not None
