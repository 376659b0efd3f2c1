"""A contract is named by a person, the registry or the file itself; never guessed, never against the file."""

from __future__ import annotations

import math
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pytest
import torch

import dragoman.models.contracts
from dragoman.core import Refusal
from dragoman.models.contracts import contract_class, contract_names
from dragoman.models.decode import Verbalizer
from tiny_checkpoints import (
    BLOCK,
    BOS,
    CHAT,
    SCALE,
    TEMPLATE,
    WIDTH,
    dataset_sidecar_of,
    save_adapter,
    save_checkpoint,
    sidecar_of,
    tokenizer_of,
    write_sidecar,
)
from verbalizer_doubles import next_logits, prompt_embeddings

SOURCE = Path(dragoman.models.contracts.__file__).parent
VECTORS = np.random.default_rng(0).normal(size=(2, WIDTH["qwen2"])).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("named") / "av", "qwen2")


@pytest.fixture
def said(folder: Path, tmp_path: Path) -> Any:
    """The same weights beside another sidecar."""

    def make(sidecar: dict[str, Any]) -> Path:
        copied = Path(shutil.copytree(folder, tmp_path / "copied", dirs_exist_ok=True))
        return write_sidecar(copied, sidecar)

    return make


def without(content: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {k: v for k, v in content.items() if k not in keys}


# --- names -------------------------------------------------------------------------------------------------------


def test_every_file_of_the_package_is_one_contract_of_that_name() -> None:
    files = {path.stem for path in SOURCE.glob("*.py")} - {"__init__", "base"}
    assert set(contract_names()) == {name.replace("_", "-") for name in files} >= {"kitft", "karvonen"}
    for name in contract_names():
        found = contract_class(name)
        assert found.name == name and found.summary and found.sampling.source


def test_names_are_known_without_loading_torch() -> None:
    code = (
        "import sys; from dragoman.models.contracts import contract_names; print(*contract_names());"
        "sys.exit(any(m in sys.modules for m in ('torch', 'transformers')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0 and done.stdout.split() == list(contract_names())


def test_the_engine_and_the_base_know_no_contract_by_name() -> None:
    for path in (SOURCE / "base.py", SOURCE / "__init__.py", SOURCE.parent / "decode.py"):
        text = path.read_text(encoding="utf-8")
        assert not [name for name in contract_names() if name in text.lower()], path


def test_sampling_defaults_are_data_and_are_not_applied(folder: Path) -> None:
    sampling = contract_class("kitft").sampling
    assert (sampling.temperature, sampling.max_new_tokens) == (0.7, 200)
    verbalizer = Verbalizer(folder)
    assert verbalizer.verbalize(VECTORS, max_new_tokens=4) == verbalizer.verbalize(
        VECTORS, temperature=0.0, max_new_tokens=4
    )


def test_an_unknown_name_is_refused_with_the_known_ones(folder: Path) -> None:
    with pytest.raises(Refusal, match=r"contract 'soft-prompt': known are .*karvonen, kitft"):
        Verbalizer(folder, contract="soft-prompt")


# --- who may leave the name out ----------------------------------------------------------------------------------


def test_a_models_own_sidecar_with_a_scale_says_kitft_itself(folder: Path) -> None:
    silent, named = Verbalizer(folder), Verbalizer(folder, contract="kitft")
    assert silent.contract.name == "kitft" and silent.identity == named.identity
    assert silent.identity["contract"] == "kitft"


SAYS_NOTHING = "the sidecar does not say which contract its vector is fed by; pass --contract with one of"


@pytest.mark.parametrize(
    "sidecar",
    [
        dataset_sidecar_of("qwen2"),
        {**sidecar_of("qwen2"), "extraction": None},
        {**sidecar_of("qwen2"), "extraction": {"injection_scale": "raw"}},
        {**sidecar_of("qwen2"), "kind": "something"},
        {**sidecar_of("qwen2"), "training": {"injection_mode": "multiply"}},
    ],
    ids=["dataset", "no scale", "raw", "other kind", "other mode"],
)
def test_a_file_that_does_not_say_is_refused(said: Any, sidecar: dict[str, Any]) -> None:
    with pytest.raises(Refusal, match=SAYS_NOTHING):
        Verbalizer(said(sidecar))


@pytest.mark.parametrize("scale", ["many", "8e4 or so", "", 0, -150, 10**400, float("nan"), True, [150], {"norm": 1}])
def test_a_scale_that_is_none_is_a_sentence_about_the_value_not_about_contracts(said: Any, scale: Any) -> None:
    folder = said({**sidecar_of("qwen2"), "extraction": {"injection_scale": scale}})
    for contract in (None, "kitft"):
        with pytest.raises(
            Refusal, match=r"extraction\.injection_scale.* is (wrong|.*, not a positive number)"
        ) as caught:
            Verbalizer(folder, contract=contract)
        assert "contract" not in str(caught.value)


def test_a_sidecar_may_name_its_contract_outright(said: Any) -> None:
    at = said({**dataset_sidecar_of("qwen2"), "contract": "karvonen"})
    assert Verbalizer(at).contract.name == "karvonen"
    with pytest.raises(Refusal, match="contract 'kitft' for sidecar .*: its sidecar names contract 'karvonen'"):
        Verbalizer(at, contract="kitft")
    with pytest.raises(Refusal, match="contract 'prefix': known are"):
        Verbalizer(said({**dataset_sidecar_of("qwen2"), "contract": "prefix"}))


def test_a_reconstructor_is_refused_before_its_contract_is_asked_for(said: Any) -> None:
    reader = {**sidecar_of("qwen2"), "role": "ar", "extraction": {"injection_scale": None}}
    for contract in (None, "kitft", "karvonen"):
        with pytest.raises(Refusal, match="its role is 'ar', not a verbalizer's"):
            Verbalizer(said(reader), contract=contract)


@pytest.mark.parametrize(
    ("contract", "change", "sentence"),
    [
        ("karvonen", {}, "states extraction.injection_scale 1.5, and this contract has none"),
        (
            "karvonen",
            {"extraction": None, "training": {"injection_mode": "normalize"}},
            "states training.injection_mode normalize, and this contract has none",
        ),
        ("kitft", {"training": {"injection_mode": "multiply"}}, "states injection mode 'multiply'"),
        ("kitft", {"kind": "nla_model_universal"}, "its sidecar is of kind 'nla_model_universal'"),
        ("karvonen", {"kind": "nla_model_universal", "extraction": None}, "is of kind 'nla_model_universal'"),
    ],
)
def test_a_name_that_contradicts_the_file_is_refused(
    said: Any, contract: str, change: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(Refusal, match=sentence):
        Verbalizer(said({**sidecar_of("qwen2"), **change}), contract=contract)


def test_norm_matched_add_needs_no_scale_and_takes_the_sidecar_of_the_training_data(said: Any) -> None:
    verbalizer = Verbalizer(said(dataset_sidecar_of("qwen2")), contract="karvonen")
    assert verbalizer.sidecar.injection_scale is None and verbalizer.sidecar.template == TEMPLATE
    assert (verbalizer.site.model, verbalizer.site.block) == ("tiny-random-qwen2", BLOCK)
    assert verbalizer.identity["contract"] == "karvonen" and "injection_scale" not in verbalizer.identity
    model = Verbalizer(said({**sidecar_of("qwen2"), "extraction": None}), contract="karvonen")
    assert torch.equal(next_logits(model, VECTORS), next_logits(verbalizer, VECTORS))


def test_the_two_contracts_say_different_things_of_one_vector(said: Any, folder: Path) -> None:
    added = next_logits(Verbalizer(said(dataset_sidecar_of("qwen2")), contract="karvonen"), VECTORS)
    assert (added - next_logits(Verbalizer(folder), VECTORS)).abs().max() > 0.1


# --- what a contract leaves open ---------------------------------------------------------------------------------


def test_unknown_settings_and_values_of_another_kind_are_refused(folder: Path) -> None:
    with pytest.raises(
        Refusal, match="setting 'alpha' of contract 'kitft': it takes block, chat_template, date, norm,"
    ):
        Verbalizer(folder, settings={"alpha": 2})
    for key, value, kind in (("chat_template", "no", "bool"), ("block", True, "int"), ("slots", ["a"], "Mapping")):
        with pytest.raises(Refusal, match=f"setting '{key}' of contract 'kitft': .* is no {kind}"):
            Verbalizer(folder, settings={key: value})


@pytest.mark.parametrize("stated", [{"injection_scale": "raw"}, {"injection_scale": None}])
def test_a_checkpoint_trained_on_raw_activations_needs_a_norm(said: Any, stated: dict[str, Any]) -> None:
    at = said({**sidecar_of("qwen2"), "extraction": stated})
    with pytest.raises(Refusal, match=r"injection_scale is .*, not a positive number"):
        Verbalizer(at, contract="kitft")
    loud = Verbalizer(at, contract="kitft", settings={"norm": 120})
    slot = loud.prompt.slot
    assert prompt_embeddings(loud, VECTORS)[:, slot].norm(dim=-1).tolist() == pytest.approx([120, 120])
    assert loud.identity["injection_scale"] == 120 and loud.identity["settings"] == {"norm": 120}
    root = Verbalizer(at, contract="kitft", settings={"norm": "sqrt_d_model"})
    assert root.sidecar.injection_scale == pytest.approx(math.sqrt(WIDTH["qwen2"]))
    with pytest.raises(Refusal, match="the given norm is 'loud', not a positive number"):
        Verbalizer(at, contract="kitft", settings={"norm": "loud"})


def test_a_norm_that_contradicts_the_file_is_refused(folder: Path) -> None:
    with pytest.raises(Refusal, match="its injection_scale is 1.5, and the norm given is 120"):
        Verbalizer(folder, settings={"norm": 120})
    assert Verbalizer(folder, settings={"norm": SCALE["qwen2"]}).sidecar.injection_scale == SCALE["qwen2"]


def test_the_training_datas_sidecar_does_for_replacement_when_a_norm_is_given(said: Any, folder: Path) -> None:
    at = said(dataset_sidecar_of("qwen2"))
    with pytest.raises(Refusal, match="describes a dataset .* stores no injection scale"):
        Verbalizer(at, contract="kitft")
    given = Verbalizer(at, contract="kitft", settings={"norm": SCALE["qwen2"]})
    assert torch.equal(next_logits(given, VECTORS), next_logits(Verbalizer(folder), VECTORS))


def test_a_prefilled_answer_is_put_behind_the_prompt_and_parsed_as_opened(folder: Path) -> None:
    plain = Verbalizer(folder)
    begun = Verbalizer(folder, settings={"prefill": "<explanation>\n"})
    assert begun.prompt.text == plain.prompt.text + "<explanation>\n" and begun.prompt.opened
    assert (
        begun.prompt.slot == plain.prompt.slot
        and begun.prompt.ids[: plain.prompt.slot] == plain.prompt.ids[: plain.prompt.slot]
    )
    assert all("no opening tag" not in e.problems for e in begun.verbalize(VECTORS, max_new_tokens=4))
    assert all("no opening tag" in e.problems for e in plain.verbalize(VECTORS, max_new_tokens=4))


def test_answers_of_a_verbalizer_without_tags_are_not_blamed_for_it(folder: Path) -> None:
    said = Verbalizer(folder, settings={"tagged": False}).verbalize(VECTORS, max_new_tokens=4)
    assert all(not {"no opening tag", "no closing tag"} & set(e.problems) for e in said)


def test_slots_of_the_template_are_given_beside_the_file(said: Any) -> None:
    template = "Depth {depth_pct} of {model_tag}. " + TEMPLATE
    at = said({**sidecar_of("qwen2"), "prompt_templates": {"av": template}})
    with pytest.raises(Refusal, match=r"its slot '\{(depth_pct|model_tag)\}' has no value"):
        Verbalizer(at)
    filled = Verbalizer(at, settings={"slots": {"depth_pct": 71, "model_tag": "qwen"}})
    assert "Depth 71 of qwen." in filled.prompt.text


def test_without_chat_template_the_message_stands_alone_behind_the_tokenizers_own_bos(tmp_path: Path) -> None:
    sidecar = without(sidecar_of("llama"))
    stored = save_checkpoint(tmp_path / "av", "llama", sidecar={**sidecar, "training": {"chat_template": False}})
    raw = Verbalizer(stored)
    tokenizer = tokenizer_of("llama")
    assert raw.prompt.text == TEMPLATE.format(injection_char=raw.sidecar.marker)
    assert raw.prompt.ids == tuple(tokenizer.encode(raw.prompt.text, add_special_tokens=True))
    assert raw.prompt.ids[0] == tokenizer.bos_token_id != raw.prompt.ids[1]
    with pytest.raises(Refusal, match="trained without a chat template, and the setting says otherwise"):
        Verbalizer(stored, settings={"chat_template": True})
    write_sidecar(stored, sidecar)
    assert Verbalizer(stored, settings={"chat_template": False}).prompt == raw.prompt
    rendered = jinja2.Template(CHAT["llama"], keep_trailing_newline=True).render(
        messages=[{"role": "user", "content": raw.prompt.text}], add_generation_prompt=True, bos_token=BOS["llama"]
    )
    assert Verbalizer(stored).prompt.text == rendered


def test_a_block_is_given_where_the_file_names_none_and_only_there(said: Any, folder: Path) -> None:
    at = said(without(sidecar_of("qwen2"), "extraction_layer_index"))
    with pytest.raises(Refusal, match="does not say which block's output it reads"):
        Verbalizer(at)
    assert Verbalizer(at, settings={"block": 2}).site.block == 2
    with pytest.raises(Refusal, match=f"it reads block {BLOCK}, and the block given is 2"):
        Verbalizer(folder, settings={"block": 2})


def test_the_width_falls_back_to_the_models_own_configuration(said: Any, folder: Path, tmp_path: Path) -> None:
    bare = without(sidecar_of("qwen2"), "d_model")
    assert Verbalizer(said(bare)).sidecar.d_model == WIDTH["qwen2"]
    adapter = save_adapter(tmp_path / "adapter", "qwen2", folder, sidecar={**bare, "base_checkpoint": str(folder)})
    assert Verbalizer(adapter).sidecar.d_model == WIDTH["qwen2"]
    wrapped = without(sidecar_of("gemma3_wrapped"), "d_model")
    at = save_checkpoint(tmp_path / "wrapped", "gemma3_wrapped", sidecar=wrapped)
    assert Verbalizer(at).sidecar.d_model == WIDTH["gemma3_wrapped"]
    with pytest.raises(Refusal, match=r"its fields disagree about d_model \(\[48, 64\]\)"):
        Verbalizer(said({**sidecar_of("qwen2"), "extraction": {"injection_scale": 1.5, "d_model": 64}}))


def test_an_adapter_whose_sidecar_names_another_base_needs_to_be_told_which(folder: Path, tmp_path: Path) -> None:
    # The data of an RL stage comes from the public model; its adapter sits on the merged stage before it.
    adapter = save_adapter(tmp_path / "rl", "qwen2", folder, sidecar=dataset_sidecar_of("qwen2"))
    with pytest.raises(Refusal, match=r"trained on .*av, its sidecar names tiny-random-qwen2, and on another model"):
        Verbalizer(adapter, contract="karvonen")
    told = Verbalizer(adapter, contract="karvonen", base=str(folder))
    assert told.site.model == "tiny-random-qwen2" and told.identity["base"] == str(folder)
