"""Every planted fault is caught by the check that is there for it; clean subjects of six families raise no alarm."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer.testing

import dragoman
from dragoman.commands.doctor import doctor
from dragoman.commands.printing import console
from dragoman.core import Refusal, Site
from dragoman.doctor import Finding, Subject, examine, open_subject, quick
from dragoman.doctor.checkpoint import BASE
from dragoman.doctor.finding import Check, sheet
from dragoman.doctor.injection import CACHE, SCALE, SCALE_AT_SITE
from dragoman.doctor.prompt import TOKENIZER, VOCABULARY
from dragoman.doctor.stream import ORIENTATION
from dragoman.models.decode import Verbalizer
from dragoman.models.load import decoder_blocks
from dragoman.models.watch import stream_over
from planted_faults import (
    FAULTS,
    Fault,
    adapter_folder,
    av_folder,
    clean,
    dictionary_of,
    reader_of,
    texts_that_name_bos,
    with_dictionary,
)
from small_world import TEXTS, World
from tiny_checkpoints import (
    ALL_FAMILIES,
    BLOCK,
    dataset_sidecar_of,
    save_adapter,
    save_checkpoint,
    sidecar_of,
    write_sidecar,
)
from verbalizer_doubles import ScriptedVerbalizer


def faulty(findings: list[Finding]) -> dict[str, Finding]:
    return {f.check: f for f in findings if f.status == "fault"}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f.name)
def test_a_planted_fault_is_caught_by_its_check(tmp_path: Path, fault: Fault) -> None:
    found = faulty(examine(fault.plant(tmp_path)))
    assert fault.check in found, f"caught only by {sorted(found)}"
    finding = found[fault.check]
    assert finding.do and finding.measured is not None and finding.what


@pytest.mark.parametrize("family", ALL_FAMILIES)
@pytest.mark.parametrize("adapter", [False, True], ids=["full", "adapter"])
def test_no_alarm_on_clean_checkpoints(tmp_path: Path, family: str, adapter: bool) -> None:
    findings = examine(clean(tmp_path, family, adapter=adapter))
    assert not faulty(findings), faulty(findings)
    done = {f.check for f in findings if f.status == "ok"}
    wanted = {"role", "tokenizer", "bos", "template", "vocabulary", "slot-in-prompt", "slot", "sign", "scale"}
    wanted |= {"scale-at-site", "embedding-scale", "overflow", "cache", "marker-read", "background-text"}
    wanted |= {"decoder-orientation", "off-by-one", "wrong-dictionary", "loud-rows", "sink"}
    assert wanted <= done
    told = [f"{f.measured}" for f in findings if f.check == "background-text"]
    assert told and all(re.fullmatch(r"[0-2] of 3 alike|3 of 3 alike, whose logits differ", one) for one in told)
    assert not adapter or {"adapter-trained", "adapter-fits", "adapter-applied", "base"} <= done


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_no_alarm_in_half_precision(tmp_path: Path, dtype: str) -> None:
    for family in ("qwen2", "gemma3"):
        folder, _ = adapter_folder(tmp_path / family, family)
        findings = examine(Subject(by=str(folder), verbalizer=Verbalizer(folder, dtype=dtype)))
        assert not faulty(findings), faulty(findings)


def test_no_alarm_on_norm_matched_adds(tmp_path: Path) -> None:
    for family in ("qwen2", "gemma3"):
        base = save_checkpoint(tmp_path / family / "base", family)
        sidecar = dataset_sidecar_of(family)
        sidecar["extraction"] |= {"base_model": str(base)}
        folder = save_adapter(tmp_path / family / "adapter", family, base, sidecar=sidecar)
        findings = examine(Subject(by=str(folder), verbalizer=Verbalizer(folder, contract="karvonen")))
        assert not faulty(findings), faulty(findings)
        by_check = {f.check: f for f in findings}
        assert by_check["scale"].origin == "norm of the stream it is added to, before block 2"
        assert by_check["sign"].status == by_check["slot"].status == "ok"
        assert by_check["scale-at-site"].status == "skipped"


@pytest.mark.parametrize("positions", [1, 3])
def test_no_alarm_on_activation_oracles(tmp_path: Path, positions: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dragoman.models.contracts.oracle.PLACEHOLDER", " the")  # the tiny tokenizer splits " ?"
    folder, _ = adapter_folder(tmp_path, "qwen2")
    (folder / "nla_meta.yaml").unlink()
    settings = {"block": BLOCK, "question": "What is this about?", "positions": positions}
    oracle = Verbalizer(folder, contract="oracle", settings=settings)
    findings = examine(Subject(by=str(folder), verbalizer=oracle))
    assert not faulty(findings), faulty(findings)
    (slot,) = (f for f in findings if f.check == "slot")
    assert str(slot.measured).count(",") == positions - 1


def test_a_base_that_a_person_gives_settles_what_the_files_disagree_about(tmp_path: Path) -> None:
    folder, base = adapter_folder(tmp_path, "qwen2")
    write_sidecar(folder, sidecar_of("qwen2") | {"base_checkpoint": "org/public-name"})
    given = Verbalizer(folder, base=str(base))
    (found,) = (f for f in quick([given]) if f.check == "base")
    assert found.status == "ok" and "one was given" in found.origin
    for named in ("org/public-name", "org/quite-another"):
        (found,) = (f for f in examine(Subject(by=str(folder), base=named)) if f.check == "base")
        assert found.status == ("ok" if named.endswith("public-name") else "fault")


def test_clean_servers_and_scripts_raise_no_alarm(tmp_path: Path) -> None:
    script = ScriptedVerbalizer(Site("m", 1), 8, lambda v: f"the largest entry is {int(np.argmax(v))}")
    (finding,) = (f for f in examine(Subject(verbalizer=script)) if f.check == "canary")
    assert finding.status == "ok"
    deaf = ScriptedVerbalizer(Site("m", 1), 8, lambda _v: "the same to everybody")
    assert "canary" in faulty(examine(Subject(verbalizer=deaf)))
    lost = ScriptedVerbalizer(Site("m", 1), 8, lambda v: f"这个字是汉字 {int(np.argmax(v))}")
    assert "another script" in faulty(examine(Subject(verbalizer=lost)))["canary"].do


def test_texts_that_name_a_beginning_of_text_token_raise_no_alarm(tmp_path: Path) -> None:
    """They are read as characters, here as where rows are made from them: nothing is doubled."""
    found = {f.check: f for f in examine(texts_that_name_bos(tmp_path))}
    assert found["bos"].status == "ok"


def test_the_off_by_one_names_the_right_block(tmp_path: Path) -> None:
    for stated in (BLOCK - 1, BLOCK + 1):
        found = faulty(examine(with_dictionary(tmp_path / str(stated), stated=stated)))
        assert f"state m:{BLOCK} " in found["off-by-one"].do
        assert set(found) == {"off-by-one"}


def test_a_dictionary_three_blocks_away_or_transposed_is_not_taken_for_off_by_one(tmp_path: Path) -> None:
    transposed = next(f for f in FAULTS if f.name == "transposed decoder").plant(tmp_path)
    assert "off-by-one" not in faulty(examine(transposed))


def test_a_model_of_one_block_has_none_beside_it_to_compare_with(tmp_path: Path) -> None:
    reader = reader_of(av_folder(tmp_path, "llama"), 0)
    model: Any = reader.model
    model.model.layers = model.model.layers[:1]
    subject = Subject(dictionary="sae", encoder=dictionary_of(reader, rank=16), source=reader)
    found = {f.check: f for f in examine(subject)}
    assert found["wrong-dictionary"].status == "ok" and "least of 1 blocks" in found["wrong-dictionary"].what
    assert found["off-by-one"].status == "skipped" and "no block beside" in found["off-by-one"].do


def test_what_is_not_at_hand_is_skipped_with_the_reason(tmp_path: Path) -> None:
    encoder = dictionary_of(reader_of(av_folder(tmp_path, "llama"), BLOCK), rank=8)
    findings = {f.check: f for f in examine(Subject(encoder=encoder, dictionary="sae"))}
    assert findings["decoder-orientation"].status == "ok"
    assert findings["off-by-one"].status == "skipped" and "pass --source" in findings["off-by-one"].do
    findings = {f.check: f for f in examine(Subject(by="org/elsewhere", ar="org/nowhere"))}
    assert findings["role"].status == "skipped" and "not on this machine" in findings["role"].do


def test_quick_passes_the_clean_and_refuses_a_fault_in_one_sentence(tmp_path: Path) -> None:
    good = Verbalizer(av_folder(tmp_path, "gemma3"))
    encoder = dictionary_of(reader_of(tmp_path / "av", BLOCK), rank=8)
    findings = quick([good], encoder=encoder)
    assert {"slot", "sign", "scale", "cache", "role", "decoder-orientation"} <= {f.check for f in findings}
    flipped = next(f for f in FAULTS if f.name == "sign flipped").plant(tmp_path / "flipped").verbalizer
    assert flipped is not None
    turned = r"cosine of the vector .*measured -1, must be within 0\.01 of 1 .*its sign is flipped"
    with pytest.raises(Refusal, match=turned):
        quick([good, flipped])
    served = next(f for f in FAULTS if f.check == "canary").plant(tmp_path / "served").verbalizer
    assert served is not None
    with pytest.raises(Refusal, match="turn prefix caching off"):
        quick([served])


def test_quick_refuses_a_transposed_dictionary(tmp_path: Path) -> None:
    encoder = next(f for f in FAULTS if f.name == "transposed decoder").plant(tmp_path).encoder
    with pytest.raises(Refusal, match="transpose it, rows are features"):
        quick([], encoder=encoder)


def test_references_and_what_is_open_are_examined_alike(world: World) -> None:
    """The public ``dragoman.examine``, by name and by what a person holds already."""
    how: Any = {"ar": world.root / "target-ar", "texts": TEXTS}
    named = dragoman.examine(sae=world.sae, by=world.av, source=str(world.source), **how)
    done = {f.check for f in named if f.status != "skipped"}
    assert {"role", "slot", "sign", "decoder-orientation", "dictionary-width", "off-by-one"} <= done
    sae = dragoman.open_dictionary(world.sae, site=world.source)  # its site need not be said again
    av = dragoman.Verbalizer.open(world.av)
    assert dragoman.examine(sae=sae, by=av, **how) == named
    assert dragoman.examine(sae=Path(world.sae), by=Path(world.av), source=world.source, **how) == named
    alone = dragoman.examine(by=av)
    assert alone == examine(open_subject(by=world.av)) and not faulty(alone)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ({}, "examine: nothing is named; pass sae= or by=, or both"),
        ({"source": "m:1"}, "a source alone says nothing"),
        ({"source": "m:1", "ar": "x"}, "a source alone says nothing"),
        ({"by": "x", "source": "m"}, "a site names a model and a block"),
        ({"by": "x", "texts": "one text"}, "they are one text"),
        (
            {"by": "x", "texts": {"one text", "another"}},
            "^texts of type set: .* more than once; pass a list of texts.$",
        ),
        ({"by": "x", "texts": iter(["one text"])}, "texts of type list_iterator: "),
        ({"by": "x", "texts": 5}, "texts of type int: "),
        ({"by": "x", "texts": []}, "they are no list of texts with words in them"),
        ({"by": "x", "texts": ["one text", ""]}, "they are no list of texts with words in them"),
        ({"by": "x", "texts": ["one text", 2]}, "they are no list of texts with words in them"),
        ({"by": "x", "device": "cuda:77"}, "device 'cuda:77'"),
        ({"by": ScriptedVerbalizer(Site("m", 1), 8, str), "contract": "kitft"}, "it is settled how it is fed"),
    ],
)
def test_what_cannot_be_examined_is_refused(words: dict[str, Any], why: str) -> None:
    with pytest.raises(Refusal, match=why):
        dragoman.examine(**words)
    with pytest.raises(Refusal, match="a subject and what to open besides"):
        examine(Subject(), by="x")


@pytest.mark.parametrize("texts", [["a"], ["  "], ["a", "b", "c"], ["One sentence of a few words."]])
def test_texts_too_short_to_judge_a_stream_by_are_refused_and_accuse_no_dictionary(
    world: World, texts: list[str]
) -> None:
    why = r"^texts: they have \d+ tokens after the first of each, and a stream is judged by 32 at least; give more"
    with pytest.raises(Refusal, match=why):
        dragoman.examine(sae=world.sae, source=world.source, texts=texts)


@pytest.mark.parametrize(("texts", "why"), [(["a"], "tokens after the first"), (["half \ud83d"], "half a character")])
def test_texts_that_are_refused_leave_no_hook_on_the_model(tmp_path: Path, texts: list[str], why: str) -> None:
    reader = reader_of(av_folder(tmp_path, "llama"), BLOCK)
    with pytest.raises(Refusal, match=why):
        stream_over(reader, texts, [BLOCK])
    assert not any(block._forward_hooks or block._forward_pre_hooks for block in decoder_blocks(reader.model))


def test_what_does_not_open_is_a_finding() -> None:
    (found,) = (f for f in dragoman.examine(sae="nowhere/at-all.npy") if f.check == "opening")
    assert found.status == "fault" and found.subject == "nowhere/at-all.npy" and found.do


runner = typer.testing.CliRunner()


def command() -> typer.Typer:
    app = typer.Typer()
    app.command()(doctor)
    return app


def said(arguments: list[str]) -> tuple[int, dict[str, Any]]:
    result = runner.invoke(command(), [*arguments, "--json"])
    return result.exit_code, json.loads(result.stdout)


def test_the_command_exits_with_0_when_all_is_well_and_with_1_on_a_fault(tmp_path: Path) -> None:
    good = str(av_folder(tmp_path, "qwen2"))
    code, report = said(["--by", good])
    assert (code, report["faults"]) == (0, 0)
    assert {f["check"] for f in report["findings"]} >= {"slot", "sign", "scale", "bos"}
    fault = next(f for f in FAULTS if f.name == "unmerged tokenizer").plant(tmp_path / "bad").by
    code, report = said(["--by", str(fault)])
    assert code == 1 and report["faults"] == 2
    assert {f["check"] for f in report["findings"] if f["status"] == "fault"} == {"opening", "tokenizer"}


def test_the_command_says_a_swap_once_for_each_side(tmp_path: Path) -> None:
    av = av_folder(tmp_path, "qwen2")
    ar = next(f for f in FAULTS if f.name.startswith("swapped: rec")).plant(tmp_path).by
    code, report = said(["--by", str(ar), "--ar", str(av)])
    roles = [f for f in report["findings"] if f["check"] == "role"]
    assert code == 1 and [f["status"] for f in roles] == ["fault", "fault"]
    assert said(["--by", str(av), "--ar", str(ar)])[0] == 0


def test_the_screen_shows_faults_first_with_what_to_do(tmp_path: Path) -> None:
    fault = next(f for f in FAULTS if f.name == "no BOS").plant(tmp_path).by
    result = runner.invoke(command(), ["--by", str(fault)], env={"COLUMNS": "200"})
    assert result.exit_code == 1
    first, *rest = result.stdout.splitlines()
    assert first.startswith("fault") and first.endswith("bos")
    assert rest[-1].startswith("1 fault, ") and "begin with it" in result.stdout


def lines_of(*found: Finding, width: int = 80) -> list[str]:
    """The sheet as a terminal of this many columns shows it."""
    out = console(width=width)
    with out.capture() as shown:
        out.print(sheet(found, 1))
    return [line.rstrip() for line in shown.get().splitlines()]


@pytest.mark.parametrize(
    ("check", "against", "held"),
    [
        (Check("c", "w"), 5.0, "equal to 5"),
        (TOKENIZER, 45.0, "below 45"),
        (CACHE, 1e-3, "above 0.001"),
        (VOCABULARY, 429.0, "at most 429"),
        (ORIENTATION, 0.1, "at least 0.1"),
        (SCALE, 1.5, "within 2% of 1.5"),
        (SCALE_AT_SITE, 69.0, "between 1/200 and 200 times 69"),
        (BASE, "org/m", "the same model as org/m"),
    ],
    ids=lambda one: one.name if isinstance(one, Check) else "",
)
def test_the_sheet_says_how_a_measure_stands_to_its_limit(check: Check, against: float | str, held: str) -> None:
    well, fault = (check.of("s", 7.0, against, do, what="w", origin="o") for do in ("", "mend it"))
    assert lines_of(well)[1].endswith(f"w: 7 ({held})")
    assert lines_of(fault)[1] == f"      w: 7, must be {held} (o)"
    assert str(fault.refusal()) == f"s, w: measured 7, must be {held} (o); mend it."


def test_what_is_shown_beside_a_measure_or_in_words_is_no_limit() -> None:
    beside, words = Check("c", "w", relation="beside"), Check("c", "w", relation="")
    assert lines_of(beside.of("s", 1.0, 2.0))[1].endswith("w: 1 (beside 2)")
    assert lines_of(beside.of("s", 1.0, 2.0, "mend it"))[1] == "      w: 1, beside 2"
    assert lines_of(words.of("s", "none", "fewer than all"))[1].endswith("w: none (fewer than all)")
    assert lines_of(words.of("s", "none", None))[1].endswith("w: none")


def test_wrapped_lines_of_the_sheet_keep_their_indent() -> None:
    long = Check("c", "word " * 30, "source " * 30)
    faulty, ok, skipped = long.of("s", 1.0, 2.0, "mend " * 30), long.of("s", 1.0, 1.0), long.skipped("s", "why " * 30)
    for found, indent in ((faulty, 6), (ok, 29), (skipped, 8)):
        head, *rest = lines_of(found)[1 if found is ok else 0 : -1]
        wrapped = [line for line in rest if line]
        assert wrapped and head.startswith({"ok": "  ok    c  "}.get(found.status, found.status))
        assert all(len(line) <= 80 and len(line) - len(line.lstrip()) == indent for line in wrapped), wrapped


def test_the_command_refuses_a_source_alone() -> None:
    result = runner.invoke(command(), ["--source", "m:1"])
    assert isinstance(result.exception, Refusal) and "says nothing about a dictionary" in str(result.exception)


def test_the_command_refuses_texts_too_short_to_judge_a_stream_by(tmp_path: Path, world: World) -> None:
    (tmp_path / "texts.txt").write_text("a\n", encoding="utf-8")
    named = ["--sae", world.sae, "--source", str(world.source), "--texts", str(tmp_path / "texts.txt")]
    result = runner.invoke(command(), named)
    assert isinstance(result.exception, Refusal) and "tokens after the first of each" in str(result.exception)


def test_findings_are_json_even_when_a_measurement_is_no_number() -> None:
    finding = Finding(check="overflow", subject="m", what="w", measured=float("nan"), against=1.0, status="fault")
    assert json.loads(json.dumps(finding.plain(), allow_nan=False))["measured"] == "nan"


def test_every_fault_of_the_list_is_planted() -> None:
    named = " | ".join(f.name for f in FAULTS)
    wanted = ["too early", "too late", "transposed decoder", "missing square root", "doubled square root", "double BOS"]
    wanted += ["no BOS", "500 times", "shifted slot", "unmerged tokenizer", "cache on", "sign flipped"]
    wanted += ["wrong base model", "stale adapter", "half-precision overflow", "swapped", "wrong template"]
    assert all(word in named for word in wanted)
    assert sidecar_of("qwen2")["role"] == "av"
