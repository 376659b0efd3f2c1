"""Words of the command line that can be nothing: one sentence each, before any model or dictionary is opened."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from dragoman.commands.words import DTYPES
from dragoman.core import Refusal, Site
from dragoman.models.load import DTYPES as KNOWN
from dragoman.models.load import check_device, devices
from dragoman.runs.plan import check_samples
from dragoman.store import check_name
from dragoman.verbalizers.protocol import check_temperature
from report_fixture import build_run
from small_world import Said, command

Dragoman = Callable[..., Said]

LONG, DEEP, NINES = "a" * 300, "/".join(["folder"] * 1000), "9" * 5000
NAMES = {  # what no file, folder or repository is called
    "": "it is empty", "  ": "it is empty", LONG: "no file or repository has a name of 300 bytes",
    DEEP: "no file or repository has a name of", "~nobodyx/v.npy": "there is no user 'nobodyx' here",
    "漢" * 100: "has a name of 300 bytes", f"org/{LONG}": "has a name of 300 bytes",
}  # fmt: skip
DEVICES = {
    "cuda": "this machine has none such; use one of cpu", "cuda:9": "this machine has none such",
    "mps": "this machine has none such", "foo": "it is no device", "": "it is no device", "CUDA": "it is no device",
    "cuda:-1": "it is no device", f"cuda:{NINES}": "it is no device", "cuda:0:1": "it is no device",
    "meta": "this machine has none such", "xpu": "this machine has none such", "cpu:7": "this machine has none such",
}  # fmt: skip
TYPES = {"int8": "known are float32, bfloat16, float16", "": "known are", "float": "known are", LONG: "known are"}
SEEDS = {"-1": "'--seed'", str(2**70): "'--seed'", "1.5": "'--seed'", "": "'--seed'", NINES: "'--seed'"}
COUNTS = {"0": "", "-3": "", "1e3": "", "": "", NINES: ""}  # of things there is at least one of
SITES = {
    "m": "a site names a model and a block", "m:-1": "a site names a model and a block", ":3": "a site names",
    "m:١": "a site names a model", "": "it is empty",
    f"m:{'9' * 200}": "no model has 10000 blocks", "m:10000": "no model has 10000 blocks",
}  # fmt: skip
FILES = {".": "it is a folder, and a file is written", "/": "it is a folder", "": "it is empty", LONG: "300 bytes"}
TEMPERATURES = {
    "1e-300": "it is 0, for the likeliest, or lies between 0.000001 and 1000", "nan": "temperature",
    "inf": "it is no finite number", "-1": "'--temperature'", "1e9": "lies between 0.000001",
    "1e400": "no finite number", "warm": "'--temperature'", "-inf": "",
}  # fmt: skip
WASHOUTS = {
    "nan": "out of range", "inf": "out of range", "-0.5": "out of range", "1e400": "out of range", "0": "out of range",
    "1e-400": "out of range", "on-shell x nan": "out of range", "on-shell x inf": "out of range", "": "it is not known",
    "on-shell x -1": "out of range", "on-shell x 1e9": "out of range", "on-shell x": "it is not known",
    "boiled": "it is not known", NINES: "out of range",
}  # fmt: skip


def table() -> list[tuple[list[str], str]]:
    """Every command with every word that can be nothing, and a part of its sentence; RUN stands for a run's folder."""
    return [*of_explain(), *of_fit(), *of_others(), *of_many_runs()]


Rows = list[tuple[list[str], str]]


def added(rows: Rows, start: list[str], option: str, words: dict[str, str]) -> None:
    rows.extend(([*start, f"{option}={word}"], sentence) for word, sentence in words.items())


def of_explain() -> Rows:
    explain, rows = ["explain", "tiny-sae"], Rows()
    add = partial(added, rows)
    for option in ("--by", "--native", "--base", "--labels", "--texts", "--confidence", "--out", "--source"):
        add(explain, option, NAMES)
    rows += [(["explain", "--", word], sentence) for word, sentence in NAMES.items()]
    rows += [(["explain", f"file:{LONG}/v.npy"], "has a name of"), (["explain", "~nobodyx/v.npy#k[1]"], "no user")]
    for option, words in (
        ("--device", DEVICES), ("--dtype", TYPES), ("--seed", SEEDS), ("--batch-size", COUNTS), ("--source", SITES),
        ("--samples", COUNTS | {"1000000000": ""}), ("--max-new-tokens", COUNTS | {"1000000000": ""}),
        ("--temperature", TEMPERATURES), ("--washout", WASHOUTS), ("--route", {"": "route ''", "fly": "route 'fly'"}),
        ("--map", {"": "map ''", LONG: "map '"}), ("--setting", {"": "it is not NAME=VALUE", "=": "NAME=VALUE"}),
        ("--features", {"": "--features", ",": "--features", " , ": "--features", f"@{DEEP}": "has a name of"}),
        ("--at", {"": "--at: it is empty", " ": "--at: it is empty"}),
    ):  # fmt: skip
        add(explain, option, words)
    return rows


def of_fit() -> Rows:
    rows = Rows()
    add = partial(added, rows)
    rows += [(["fit", "--by=tiny-gemma-av", "--", word], sentence) for word, sentence in NAMES.items()]
    rows += [(["fit", "tiny-sae"], "it leads to one verbalizer or one place")]
    rows += [(["inspect", "--", word], sentence) for word, sentence in NAMES.items()]
    for option, words in (
        ("--lam", {"nan": "lam", "inf": "no finite number", "-1": "no positive number", "1e400": "no finite number"}),
        ("--method", {"": "known are ridge", LONG: "known are ridge"}), ("--seed", SEEDS), ("--out", NAMES),
        ("--by", NAMES), ("--map", {"": "map ''", LONG: "map '"}), ("--texts", NAMES), ("--source", SITES),
        ("--device", DEVICES), ("--dtype", TYPES), ("--features", {"": "--features", ",": "--features"}),
    ):  # fmt: skip
        add(["fit", "tiny-sae", *([] if option == "--by" else ["--by=tiny-gemma-av"])], option, words)
    add(["fit", "tiny-sae"], "--target", SITES)
    for word in ("fit", "recalibrate"):
        add(["confidence", word, "RUN"], "--checked", NAMES)
        for option, words in (("--ar", NAMES), ("--seed", SEEDS), ("--device", DEVICES), ("--dtype", TYPES)):
            add(["confidence", word, "RUN", "--checked=c.csv"], option, words)
        add(["confidence", word, "RUN", "--checked=c.csv"], "--out", FILES)
    return rows


def of_others() -> Rows:
    rows = Rows()
    add = partial(added, rows)
    add(["demo"], "--device", DEVICES)
    add(["demo"], "--out", NAMES)
    add(["demo"], "--dtype", TYPES)
    add(["demo"], "--seed", SEEDS)
    add(["demo"], "--features", COUNTS | {"6": ""})
    for name, more in (("score", []), ("report", []), ("export", ["--model-id=m", "--source-id=1-r"])):
        rows += [([name, *more, "--", word], sentence) for word, sentence in NAMES.items()]
    for option, words in (("--device", DEVICES), ("--dtype", TYPES), ("--seed", SEEDS), ("--ar", NAMES)):
        add(["score", "RUN"], option, words)
    add(["score", "RUN"], "--confidence", NAMES)
    add(["report", "RUN"], "--out", FILES)
    add(["export", "RUN", "--model-id=m", "--source-id=1-r"], "--batch-size", COUNTS)
    add(["export", "RUN", "--model-id=m", "--source-id=1-r"], "--out", NAMES)
    add(["export", "RUN", "--source-id=1-r"], "--model-id", {"": "Neuronpedia id", LONG: "Neuronpedia id"})
    add(["checkpoints"], "--for", NAMES)
    add(["checkpoints"], "--width", COUNTS)
    for option in ("--sae", "--by", "--native", "--ar", "--base", "--texts", "--source"):
        add(["doctor", "--by=tiny-gemma-av"] if option != "--by" else ["doctor"], option, NAMES)
    for option, words in (("--device", DEVICES), ("--dtype", TYPES), ("--source", SITES)):
        add(["doctor", "--by=tiny-gemma-av"], option, words)
    return rows


def of_many_runs() -> Rows:
    rows = Rows()
    add = partial(added, rows)
    for start in (["view"], ["compare", "RUN"], ["rank", "RUN"], ["calibrate", "--by=tiny-gemma-av"], ["serve"]):
        rows += [([*start, "--", word], sentence) for word, sentence in NAMES.items()]
    add(["compare", "RUN", "RUN"], "--out", FILES)
    add(["rank", "RUN", "RUN"], "--page", FILES)
    add(["view", "RUN"], "--bundle", NAMES)
    for start in (["calibrate", "tiny-sae"], ["serve", "tiny-sae"]):
        for option, words in (
            ("--by", NAMES), ("--texts", NAMES), ("--source", SITES), ("--device", DEVICES), ("--dtype", TYPES),
        ):  # fmt: skip
            add(start, option, words)
    add(["view", "RUN"], "--port", {"-1": "'--port'", "65536": "'--port'", "": "'--port'", NINES: "'--port'"})
    return rows


TABLE = table()
MODULES = [
    f"dragoman.{name}"
    for name in ("calibration.calibrate", "runs.explain", "runs.opened", "runs.score", "serving.app", "view.app",
                 "comparison.ranked", "demo", "doctor", "scoring", "runs.crossings", "runs.several")
]  # fmt: skip


@pytest.fixture
def dragoman(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Dragoman:
    """The command line where there is no accelerator and nothing may be opened."""
    import torch

    for module in MODULES:  # first: what they import must not be what stands in its place below
        import_module(module)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)

    def opened(*_args: object, **_how: object) -> None:
        raise AssertionError("something was opened")

    for place in (
        "dragoman.dictionaries.open_dictionary", "dragoman.models.decode.Verbalizer.open", "dragoman.demo.experiment",
        "dragoman.scoring.score_run", "dragoman.doctor.open_subject", "dragoman.models.load.load_model",
        "dragoman.maps.Crossing.load", "dragoman.models.decode.site_of_verbalizer",
    ):  # fmt: skip
        monkeypatch.setattr(place, opened)
    return lambda *words: command(monkeypatch, capsys, *words)


@pytest.mark.parametrize("name", sorted({words[0] for words, _ in TABLE}))
def test_a_word_that_can_be_nothing_is_one_sentence_and_nothing_is_opened(
    dragoman: Dragoman, tmp_path: Path, name: str
) -> None:
    build_run(tmp_path / "RUN")
    before = sorted(tmp_path.rglob("*"))
    number, wrong = count(), []
    for words, sentence in TABLE:
        if words[0] != name:
            continue
        said = dragoman(*words)
        told = said.err.splitlines()
        usage = said.code == 2 and len(told) == 2 and told[0].startswith("Usage: dragoman")
        well = (said.code == 1 and len(told) == 1) or usage
        if not (well and not said.out and told[-1].startswith("dragoman: ") and told[-1].endswith(".")):
            wrong.append(([w[:60] for w in words], said.code, said.err[:300]))
        elif sentence not in told[-1] or "fault of dragoman" in said.err or len(told[-1]) > 600:
            wrong.append(([w[:60] for w in words], sentence, said.err[:300]))
        next(number)
    assert not wrong, f"{len(wrong)} of {next(number)}: " + "\n".join(map(str, wrong))
    assert sorted(tmp_path.rglob("*")) == before, "something was written"


def test_the_table_is_large() -> None:
    assert len(TABLE) > 500 and len({words[0] for words, _ in TABLE}) == 15


def test_words_of_a_dtype_are_those_that_models_are_loaded_in() -> None:
    assert set(DTYPES) == set(KNOWN)


def test_devices_that_are_here_are_let_through(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    check_device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert devices()[:4] == ["cpu", "cuda", "cuda:0", "cuda:1"]
    for name in ("cuda", "cuda:1"):
        check_device(name)
    with pytest.raises(Refusal, match=r"^device 'cuda:2': this machine has none such; use one of cpu, cuda, cuda:0"):
        check_device("cuda:2")


def test_a_device_of_torch_s_own_that_is_not_here_is_refused_as_its_word_is(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    device: Any = torch.device("cuda")
    with pytest.raises(Refusal, match=r"^device 'cuda': this machine has none such"):
        check_device(device)


@pytest.mark.parametrize(
    "word",
    [
        "a", "a/b", "~/models", "./x", "tiny-sae", "org/name@main/sub", "a" * 255, "sae:r/s#1,2,3",
        f"probes.npz#key[{','.join(map(str, range(200)))}]", f"https://host/x?signature={'f' * 900}", "漢字",
    ],
)  # fmt: skip
def test_names_that_something_can_have_are_let_through(word: str) -> None:
    assert check_name(word, "name") == word


def test_a_name_with_a_nul_is_refused() -> None:
    with pytest.raises(Refusal, match="it holds a NUL, which no name has"):
        check_name("a\0b", "name")


@pytest.mark.parametrize("temperature", [float("nan"), float("inf"), -1.0, 1e-300, 1e9, -0.5])
def test_temperatures_nothing_can_be_drawn_at_are_refused_by_every_caller(temperature: float) -> None:
    for check in (check_temperature, lambda t: check_samples(1, t)):
        with pytest.raises(Refusal, match=r"it is 0, for the likeliest, or lies between 0\.000001 and 1000"):
            check(temperature)
    for fine in (0.0, 0.000001, 0.7, 1.0, 1000.0):
        check_temperature(fine)


def test_sites_are_read_with_leading_zeros_and_up_to_the_last_block() -> None:
    assert Site.parse("m:0007").block == 7 and Site.parse("m@r:9999").block == 9999
