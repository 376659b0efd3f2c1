"""A dry run: what would be opened, read, said and taken, with nothing opened, fetched or written."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from dragoman import cli, tiny
from dragoman.core import Refusal, Site
from dragoman.dictionaries import Asked, Dictionary, open_dictionary
from dragoman.maps import Crossing
from dragoman.maps.direct import FLOOR
from dragoman.models.needs import ModelNeeds, model_needs
from dragoman.runs import forecast
from dragoman.runs.crossings import firings_of, fit_crossing
from dragoman.runs.dry_run import dry_run
from dragoman.runs.forecast import Forecast, Sizes, constants, gpu_peak, host_peak, seconds_on, this_machine
from dragoman.runs.options import Options
from dragoman.runs.texts import Texts
from dragoman.store import RunFolder, read_json
from schemas import FOLDER
from small_world import D_SAE, World
from store_faults import one_sentence

GIB = 1 << 30


@pytest.fixture
def reckoned(world: World, tmp_path: Path) -> Callable[..., Forecast]:
    """A dry run of the small world's dictionary."""
    dictionary = open_dictionary(world.sae, site=world.source)

    def run(what: Dictionary = dictionary, **how: Any) -> Forecast:
        how = {"by": world.av, "texts": Texts.read(world.root / "texts.txt")} | how
        words = how.pop("features", None)
        return dry_run(what, out=tmp_path / "run", features=None if words is None else Asked.parse(words), **how)

    return run


def needed(parameters: int | None, **more: Any) -> ModelNeeds:
    return ModelNeeds(ref=f"m{parameters}", parameters=parameters, tokenizer_bytes=1, **more)


def sizes(**changes: Any) -> Sizes:
    one = needed(7_000_000_000, width=3584, blocks=28, keys=512, vocabulary=150_000)
    usual: dict[str, Any] = {"p": 3584, "q": 5376, "held": [one], "read": [one, needed(27_000_000_000)]}
    usual |= {"d_sae": 65_536, "features": 45, "aligned": True, "rows": 64, "most": 100, "dtype": "bfloat16"}
    return Sizes(**usual | changes)


def test_features_conditions_models_and_tokens_are_those_of_the_run(
    world: World, reckoned: Callable[..., Forecast], tmp_path: Path
) -> None:
    found = reckoned(features="0,3,7", options=Options(samples=2, max_new_tokens=6))
    assert (found.features, found.conditions, found.samples) == (3, {"fires": 3, "writes": 3}, 2)
    assert found.texts == 40 and found.decoded_tokens == 2 * 6 * 6 and found.decoded_by == "the most"
    assert [one.roles for one in found.models] == [(f"by {world.av}",), ("source",), ("target",)]
    reader = world.source
    tokens = count_tokens(Path(reader.model), Texts.read(world.root / "texts.txt").sentences)
    assert found.read_tokens[reader.model] == tokens
    assert found.fetched_bytes == 0 and not found.gpu_bytes and found.host_bytes and found.written_bytes
    assert not (tmp_path / "run").exists()


def count_tokens(folder: Path, texts: list[str]) -> int:
    from dragoman.models.load import load_tokenizer

    return sum(len(ids) for ids in load_tokenizer(folder)(texts)["input_ids"])


def test_words_settle_conditions(reckoned: Callable[..., Forecast]) -> None:
    assert reckoned().conditions == {"fires": D_SAE, "writes": D_SAE}
    assert reckoned(features="random:4,2").features == 5
    assert reckoned(features="0-9", options=Options(reading="writes")).conditions == {"writes": 10}
    assert reckoned(features="0-9", options=Options(map="post")).conditions == {"writes": 10}
    assert reckoned(features="0-9", options=Options(route="auto")).conditions == {"auto": 10}


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ({"features": "30"}, "it has 30 features"),
        ({"features": "28-30"}, "it has 0 to 29"),
        ({"texts": Texts(own=("one", "two"))}, "2 texts"),
        ({"by": "org/unheard-of"}, "its files are not here, and dragoman's registry does not know where it reads"),
    ],
)
def test_what_words_and_sizes_tell_is_refused(reckoned: Callable[..., Forecast], how: dict[str, Any], why: str) -> None:
    with pytest.raises(Refusal, match=why) as error:
        reckoned(**how)
    assert one_sentence(error)


@pytest.fixture(scope="module")
def crossing(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dry") / "crossing"
    fit_crossing(world.request().open(), world.target, texts=world.root / "texts.txt").save(folder)
    return folder


def test_through_a_crossing_nothing_is_read_and_only_what_fires_is_said(
    reckoned: Callable[..., Forecast], crossing: Path
) -> None:
    loaded = Crossing.load(crossing)
    often = {name for name, n in (firings_of(loaded) or {}).items() if n >= FLOOR}
    found = reckoned(features="0-9", through=loaded)
    assert found.conditions == {"fires": len(often & set(map(str, range(10)))), "writes": 10}
    assert (found.texts, found.read_tokens, len(found.models)) == (0, {}, 1) and found.peak_step == "saying"


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--through", "CROSSING", "--texts", "TEXTS"), "it was fitted on texts of its own"),
        (("--through", "CROSSING", "--map", "post"), "it was fitted as aligned"),
        (("--through", "CROSSING", "--route", "as-is"), "directions cross by nothing"),
        (("--through", "CROSSING", "--source", "TARGET"), "it is needed at"),
        (("--route", "as-is"), "they are streams of different models"),
        (("--device", "banana"), "it is no device"),
        (("--engine", "banana"), "known are auto, loop, captured"),
        (("--at", "last"), "there is no prompt"),
        (("--labels", "nonsense"), "there is no such folder"),
        (("--confidence", "TEXTS"), "it is not JSON"),
        (("--features", "1", "--graph", "TEXTS"), "both say which features"),
        (("--out", "OTHER"), "it holds another run"),
    ],
)
def test_words_that_explain_refuses_are_refused_dry(
    world: World, crossing: Path, tmp_path: Path, words: tuple[str, ...], why: str
) -> None:
    told = {"plan_digest": "0", "source": "m:1", "target": "n:1", "features": ["1"], "rows": 1}
    told |= {"conditions": [{"name": "writes"}]}
    RunFolder.create(tmp_path / "other", told)
    texts = str(world.root / "texts.txt")
    named = {"CROSSING": str(crossing), "TEXTS": texts, "TARGET": str(world.target), "OTHER": str(tmp_path / "other")}
    usual = {"--source": str(world.source), "--by": world.av, "--out": str(tmp_path / "run")}
    if "--through" not in words:
        usual["--texts"] = texts
    asked = usual | {word: named.get(value, value) for word, value in zip(words[::2], words[1::2], strict=True)}
    with pytest.raises(Refusal, match=why) as error:
        cli.app(["explain", world.sae, "--dry-run", *chain(*asked.items())], standalone_mode=False)
    assert one_sentence(error)


def test_one_stream_is_opened_once_to_read_and_not_at_all_where_nothing_is(
    world: World, reckoned: Callable[..., Forecast]
) -> None:
    own = reckoned(open_dictionary(world.sae, site=world.target))
    assert [one.roles[0] for one in own.models[1:]] == ["source and target"] and own.conditions == {"identity": D_SAE}


def test_the_peak_is_that_of_the_step_that_takes_most() -> None:
    whole, step = host_peak(sizes()) or (0, "")
    assert step == "reading" and whole > 2 * (7 + 7 + 27) * 10**9
    alone, step = host_peak(sizes(read=[])) or (0, "")
    assert step == "saying" and 14e9 < alone < 20e9
    many, _ = host_peak(sizes(read=[], rows=512)) or (0, "")
    assert many > alone and host_peak(sizes(held=[needed(None)])) is None
    # No larger with bfloat16 than with float32, and sums do not shrink with it.
    wide, _ = host_peak(sizes(dtype="float32")) or (0, "")
    assert 1.8 < wide / whole < 2.0
    gpu, host, step = gpu_peak(sizes()) or (0, 0, "")
    assert (
        step == "reading" and 82e9 < gpu < 1.05 * whole and host < 12e9 and gpu_peak(sizes(read=[needed(None)])) is None
    )


def test_a_gpus_host_holds_rows_and_sums_and_no_weights() -> None:
    """As measured at this size on an H200: 3.5 GB where one model is read, 3.6 with the map of the post, 11 aligned."""
    plain: dict[str, Any] = {"d_sae": 65_536, "aligned": False}
    one, another = needed(7 * 10**9), replace(needed(27 * 10**9), ref="another", vocabulary=262_208, width=5376)

    def host(**how: Any) -> float:
        return (gpu_peak(sizes(**how)) or (0, 0, ""))[1] / 1e9

    alike = host(held=[one], read=[one], q=3584, **plain)
    assert alike == pytest.approx(3.5, rel=0.15)
    assert host(held=[another, one], read=[one, another], q=5376, **plain) == pytest.approx(3.6, rel=0.2)
    assert host(held=[another], read=[one, another], q=5376, d_sae=65_536, features=45) == pytest.approx(11, rel=0.2)
    assert host(held=[one], read=[one], q=3584, d_sae=2 * 65_536, aligned=False) > 1.5 * alike


def test_a_gpu_sums_direct_rows_of_all_features_of_a_large_dictionary() -> None:
    large, small = (gpu_peak(sizes(d_sae=n, features=45)) or (0, 0, "") for n in (65_536, 8_192))
    assert large[2] == small[2] == "reading"
    assert large[0] - small[0] > 65_536 * 8 * sizes().q


def test_time_is_told_by_constants_of_this_machine_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = {"start_seconds": 10, "opened_a_second": 1e9, "read_a_second": 1e12, "said_a_second": 1e12}
    machine = {"machine": "one, 2 cores", "dtype": "float32", **rates}
    monkeypatch.setattr(forecast, "_processor", lambda: "one")
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    monkeypatch.setattr(forecast, "constants", lambda: {**constants(), "machines": [machine]})
    assert this_machine("cpu", "float32") == (machine, "one, 2 cores")
    assert this_machine("cpu", "bfloat16")[0] is None and this_machine("cuda", "float32") == (None, "cuda")
    one = needed(1_000_000_000)
    plain = sizes(held=[one], read=[one], aligned=False, features=1)
    assert seconds_on(machine, plain, {one.ref: 1000}, {one.ref: 500}) == 10 + 2 + 2 + 1
    assert seconds_on(machine, plain, {one.ref: 1000}, {one.ref: 500}, "one at a time") == 10 + 3 + 2 + 1
    half = replace(plain, held=[], read=[replace(one, opened=2_000_000_000, parameters=4_000_000_000)])
    assert seconds_on(machine, half, {one.ref: 1000}, {}) == 10 + 2 + 4, "no more than what is opened is read with"


def test_a_machine_nobody_measured_is_said_to_be_one(
    reckoned: Callable[..., Forecast], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forecast, "_processor", lambda: "unheard of")
    found = reckoned()
    assert found.seconds is None and any("no constant for this machine (unheard of" in one for one in found.unknown)
    assert any("in two runs on one H200" in one for one in reckoned(device="cuda").unknown)


def test_time_on_a_card_is_told_of_models_as_large_as_those_it_was_measured_with(
    reckoned: Callable[..., Forecast], monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = {"start_seconds": 10, "opened_a_second": 1e9, "read_a_second": 1e12, "said_a_second": 1e12}
    machine = {"machine": "cuda", "dtype": "float32", "least_parameters": 1, **rates}
    monkeypatch.setattr(forecast, "constants", lambda: {**constants(), "machines": [machine]})
    assert reckoned(device="cuda").seconds is not None
    machine["least_parameters"] = 7_000_000_000
    found = reckoned(device="cuda")
    assert found.seconds is None
    assert any("verbalizers of 7 thousand million parameters and more" in one for one in found.unknown)


def test_the_embedded_pair_is_told_before_it_is_converted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRAGOMAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("dragoman.models.packaged._make", lambda *_: pytest.fail("a model was converted"))
    found = dry_run(open_dictionary("tiny-sae"), by="tiny-gemma-av", out=tmp_path / "run", features=Asked.parse("0-31"))
    assert found.target == str(Site("tiny-gemma", 12)) and found.texts == 1000
    assert found.written_bytes > 8e8 and any("tokens are letters" in one for one in found.unknown)
    assert found.conditions == {"fires": 32, "writes": 32} and found.decoded_by == "measured mean"
    # Of other texts the packaged table tells how often each fires in so many tokens: 2 of 16 were found in such 300.
    own = Texts.of(Texts().sentences[:300])
    found = dry_run(
        open_dictionary("tiny-sae"), by="tiny-gemma-av", out=tmp_path / "run", features=Asked.parse("0-15"), texts=own
    )
    assert found.conditions == {"fires": 2, "writes": 16}
    assert found.decoded_by == "measured mean, firing as in other texts"
    assert not (tmp_path / "cache").exists() and not (tmp_path / "run").exists()
    for name in tiny.MODELS:
        assert model_needs(name, constants()["pair"]).parameters


def test_a_model_of_the_hub_is_told_by_its_listing(monkeypatch: pytest.MonkeyPatch) -> None:
    class File:
        def __init__(self, name: str, size: int, here: bool) -> None:
            self.filename, self.file_size, self.will_download = name, size, not here

    files = [File("model.safetensors", 4000, False), File("config.json", 10, True)]

    def listed(*_: Any, dry_run: bool = False, **__: Any) -> list[File]:
        if not dry_run:
            raise OSError("nothing of it is cached")
        return files

    monkeypatch.setattr("huggingface_hub.snapshot_download", listed)
    found = model_needs("org/some", {})
    assert (found.parameters, found.fetched) == (2000, 4000) and "16 bits" in found.why

    def away(*_: Any, **__: Any) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr("huggingface_hub.snapshot_download", away)
    found = model_needs("org/some", {})
    assert found.parameters is None and found.fetched is None and "does not say how large" in found.why


def test_the_command_prints_it_and_its_json_is_of_the_schema(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["explain", world.sae, "--source", str(world.source), "--by", world.av, "--features", "0-3", "--dry-run"]
    words += ["--texts", str(world.root / "texts.txt"), "-o", str(tmp_path / "run")]
    cli.app(words, standalone_mode=False)
    said = capsys.readouterr().out
    assert "memory at the peak: 0." in said and "to say: fires 4, writes 4, 1 each; at most 1600 tokens" in said
    cli.app([*words, "--json"], standalone_mode=False)
    told = json.loads(capsys.readouterr().out)
    assert told.pop("schema") == "dragoman.forecast/1"
    jsonschema.validate(told, read_json(FOLDER / "forecast.schema.json"))
    assert Forecast.of(told, "stdout").features == 4 and not (tmp_path / "run").exists()
    with pytest.raises(Refusal, match="--dry-run beside prompts"):
        cli.app([*words, "--prompt", "one"], standalone_mode=False)


def test_nothing_that_computes_is_imported_for_it() -> None:
    code = "import sys, dragoman.runs.dry_run, dragoman.commands.explain; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
