"""The registry of published checkpoints: whole, honest about what it does not know, and useful for a source model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from dragoman import tiny
from dragoman.commands import checkpoints as command
from dragoman.core import Refusal, Site
from dragoman.models.contracts import contract_names
from dragoman.verbalizers import registry
from dragoman.verbalizers.registry import Contract, checkpoints, contract_of, family, find, parse_registry, recommend

ROOT = Path(__file__).parents[1]
# nla-contract.md, section 5, row by row: an id each, and what the row states.
PUBLISHED = {
    "kitft/nla-qwen2.5-7b-L20-av": ("kitft", 20, 3584),
    "kitft/nla-qwen2.5-7b-L20-ar": ("kitft", 20, 3584),
    "kitft/nla-gemma3-12b-L32-av": ("kitft", 32, 3840),
    "kitft/nla-gemma3-27b-L41-av": ("kitft", 41, 5376),
    "kitft/Llama-3.3-70B-NLA-L53-ar": ("kitft", 53, 8192),
    "kitft/nla-qwen2.5-7b-actor-step4200": ("kitft", 20, 3584),
    "kitft/Llama-3.3-70B-NLA-av": ("kitft", 53, 8192),
    "dormantx/Qwen2.5-1.5B-Instruct-NLA-L18-av": ("kitft", 18, 1536),
    "andyx10/Qwen2.5-1.5B-Instruct-NLA-L18": ("kitft", 18, 1536),
    "syvb/nla-qwen2.5-7b-L20-av-matryoshka-sonnet46-v3-rl": ("kitft", 20, 3584),
    "syvb/nla-qwen2.5-7b-L20-ar-matryoshka-sonnet46-v3": ("kitft", 20, 3584),
    "anicka/nla-qwen2.5-7b-L20-av-v2": ("kitft", 20, 3584),
    "anicka/nla-qwen2.5-7b-universal-av-grpo": ("kitft", None, 3584),
    "anicka/nla-qwen3-4b-universal-ar": ("kitft", None, 2560),
    "anicka/nla-phi4-universal-av-v2": ("kitft", None, 5120),
    "AlexWortega/Qwen1.7bnla": ("universal", None, 2048),
    "syvb/nanonla-qwen3-8b-L24-av": ("karvonen", 24, 4096),
    "syvb/nanonla-qwen3-8b-L24-av-ctrl": ("karvonen", 24, 4096),
    "syvb/nanonla-qwen3-8b-L24-rl-lora": ("karvonen", 24, 4096),
    "asher577/nla-qwen-3-8b": ("karvonen", 24, 4096),
    "ceselder/nanonla-l24-av-qwen3-8b": ("karvonen", 24, 4096),
    "ceselder/qwen3.6-27b-nla-rl": ("karvonen", 42, 5120),
    "achand45/gemma-3-12b-it-nla-L47": ("karvonen", 47, 3840),
    "THU-KEG/SAEVerbalizer-27B": ("span-add", 16, 5376),
    "keenanpepper/selfie-adapters-llama-3.1-8b-instruct": ("selfie", 19, 4096),
    "Transluce/features_explain_llama3.1_8b_llama3.1_8b": ("continuous", None, 4096),
    "Transluce/features_explain_llama3.1_8b_llama3_8b": ("continuous", None, 4096),
    "adamkarvonen/checkpoints_latentqa_cls_past_lens_addition_Qwen3-8B": ("oracle", None, 4096),
    "adamkarvonen/checkpoints_cls_latentqa_sae_addition_Qwen3-8B": ("oracle", None, 4096),
    "adamkarvonen/checkpoints_latentqa_cls_past_lens_addition_gemma-2-9b-it": ("oracle", None, 3584),
}
REFUSED = {
    "Kameshr/nla-qwen2.5-7b-L20-av": "second-hand only; missing: the norm a direction should be given",
    "Yooniel/gemma-3-12b-it-nla-L32-wildchat": "second-hand only; missing: which folder holds the adapter",
    "ceselder/nanoNLA-gemma4-rl": "second-hand only; missing: the block",
    "ceselder/easynla-dsv4-flash-nla-ckpts": "second-hand only; missing: the width",
    "Solshine/gemma-4-e2b-nla-L23-av-priordev-wd3-20k": "second-hand only; missing: which of its variants",
    "anicka/nla-qwen3-4b-v2": "second-hand only; missing: whether it is a verbalizer of one block",
    "minnesotanlp/nla-qwen3-4b-L24-av": "second-hand only; missing: the files themselves",
    "shijtang/mini-nla-qwen2.5-0.5b": "not known; missing: contract and block",
    "TuHan/tiny-nla": "not known; missing: contract and block",
    "antebe1/nla-crosscoder-qwen3-1.7b-resid-av": "not known; missing: contract and block",
    "RiverRider/srt-nla-av-v1": "not known; missing: a reader for prefix adapters",
    "adamkarvonen/checkpoints_latentqa_cls_past_lens_gemma-3-27b-it": "second-hand only; missing: whether those",
    "keenanpepper/selfie-adapters-qwen2.5-7b": "second-hand only; missing: names, bases, blocks and prompts",
    "Transluce/features_explain_llama3.1_8b_llama3.1_8b_instruct": "second-hand only; missing: how its prompt begins",
    "THU-KEG/SAEVerbalizer-Adapter-1B-to-27B": "second-hand only; missing: the files themselves",
}


OURS = {"hf:tiny-sae", "tiny-sae", "hf:tiny-gemma-sae", "tiny-gemma-sae"}


@pytest.mark.parametrize("ref", PUBLISHED)
def test_a_published_checkpoint_is_found_with_its_contract_block_and_width(ref: str) -> None:
    contract, block, width = PUBLISHED[ref]
    found = find(ref)
    assert found is not None
    assert (contract_of(ref), found.d_model) == (contract, width)
    assert found.blocks == (() if block is None else (block,))


@pytest.mark.parametrize("ref", REFUSED)
def test_a_layout_not_known_at_first_hand_is_refused_and_says_what_is_missing(ref: str) -> None:
    with pytest.raises(Refusal, match=REFUSED[ref]):
        contract_of(ref)


def test_a_checkpoint_nobody_listed_is_refused_rather_than_guessed() -> None:
    assert find("somebody/new-nla-L12-av") is None
    with pytest.raises(Refusal, match="not in dragoman's registry.*do not say which injection contract"):
        contract_of("somebody/new-nla-L12-av")


@pytest.mark.parametrize("suffix", ["", "@main", "@db8c88b400e36e603d0563abcf8d289e5eff5687", "/"])
def test_revision_and_case_do_not_matter(suffix: str) -> None:
    found = find(f"KITFT/nla-gemma3-27b-l41-av{suffix}")
    assert found is not None and found.id == "kitft/nla-gemma3-27b-L41-av"


@pytest.mark.parametrize("inside", ["/rl_vllm/iter_000400", "/rl_vllm/critic_latest/", "@main/rl_vllm"])
def test_a_folder_in_a_repository_is_the_repositorys(inside: str) -> None:
    found = find(f"achand45/gemma-3-12b-it-nla-L32{inside}")
    assert found is not None and found.id == "achand45/gemma-3-12b-it-nla-L32"
    pattern = find(f"syvb/nanonla-qwen3-8b-L24-rl-lora{inside}")
    assert pattern is not None and pattern.id == "syvb/nanonla-qwen3-8b-L24-rl-*"
    assert find(f"/data/achand45/gemma-3-12b-it-nla-L32{inside}") is None  # a folder here, of whatever name


def test_what_lies_in_a_folder_of_its_repository_is_recommended_with_that_folder(
    capsys: pytest.CaptureFixture[str],
) -> None:
    from dragoman.models.resolve import hub_place

    for c in checkpoints():
        for ref in filter(None, (c.ref, c.reader_ref, c.switches.stacked_on)):
            assert "*" in ref or c.demo or hub_place(ref) is not None, ref
    command.checkpoints(source="google/gemma-3-12b-it:24", width=None, every=False, as_json=False)
    said = capsys.readouterr().out
    assert " 1. achand45/gemma-3-12b-it-nla-L24/rl_vllm/iter_000400  karvonen" in said
    assert "reconstructor: achand45/gemma-3-12b-it-nla-L24/rl_vllm/critic_latest" in said


def test_an_oracle_is_its_own_models_verbalizer() -> None:
    found = next(r for r in recommend("Qwen/Qwen3-8B:18") if r.checkpoint.contract == "oracle")
    assert (found.relation, found.usable) == ("native", True) and "reads any block" in found.reason
    assert "--setting 'question=...'" in found.checkpoint.note


def test_a_hub_cache_folder_is_its_repository_and_another_folder_is_nothing(tmp_path: Path) -> None:
    cached = tmp_path / "models--kitft--nla-gemma3-12b-L32-av" / "snapshots" / "0123abc"
    found = find(str(cached))
    assert found is not None and found.id == "kitft/nla-gemma3-12b-L32-av"
    assert find(str(tmp_path / "nla-gemma3-12b-L32-av")) is None  # a name is no evidence of what is inside


def test_the_most_specific_pattern_wins() -> None:
    named = find("syvb/nanonla-qwen3-8b-L24-av")
    pattern = find("syvb/nanonla-qwen3-8b-L24-av-multi16")
    assert named is not None and pattern is not None
    assert (named.id, pattern.id) == ("syvb/nanonla-qwen3-8b-L24-av", "syvb/nanonla-qwen3-8b-L24-av-*")


def test_partners_are_listed_and_point_back() -> None:
    for c in checkpoints():
        other = find(c.partner) if c.partner else None
        assert c.partner is None or other is not None, c.id
        if c.older:
            newer = find(c.older)
            assert newer is not None and (newer.blocks, newer.base) == (c.blocks, c.base)
        if other is not None and other.role == "ar" and c.role == "av":
            assert (other.base, other.d_model) == (c.base, c.d_model)


@pytest.mark.parametrize(("name", "site"), [("tiny-smollm2-av", tiny.SOURCE), ("tiny-gemma-av", tiny.TARGET)])
def test_the_embedded_pair_is_listed_as_its_sidecars_say(name: str, site: Site) -> None:
    stated = yaml.safe_load((tiny.data(name) / "nla_meta.yaml").read_text())
    found = find(name)
    assert found is not None
    assert (found.base, found.blocks) == (site.model, (site.block,))
    assert (found.d_model, found.blocks[0]) == (stated["d_model"], stated["extraction_layer_index"])
    assert found.switches.scale == stated["extraction"]["injection_scale"]
    tokens = stated["tokens"]
    assert (found.switches.marker, found.switches.marker_id) == (tokens["injection_char"], tokens["injection_token_id"])
    assert found.switches.neighbours == (tokens["injection_left_neighbor_id"], tokens["injection_right_neighbor_id"])


def test_contracts_of_the_registry_are_those_that_are_built_and_each_has_a_checkpoint() -> None:
    assert set(contract_names()) == set(get_args(Contract)) - {"unknown"} <= {c.contract for c in checkpoints()}


def test_what_is_not_confirmed_is_recommended_last_and_says_what_is_missing() -> None:
    found = recommend("Qwen/Qwen3-8B:24")
    assert [r.usable for r in found] == sorted((r.usable for r in found), reverse=True)
    refused = [r for r in found if not r.usable]
    assert refused and all(f"refused: {r.checkpoint.missing}" in r.reason for r in refused)


def test_references_to_dictionaries_are_of_the_form_that_is_read() -> None:
    from dragoman.dictionaries.beside import DictionaryRef

    refs = {ref for c in checkpoints() for s in c.saes for ref in s.refs} - OURS
    assert len(refs) > 8
    assert all(str(DictionaryRef.parse(ref)) == ref for ref in refs)


def test_what_the_registry_tells_a_loader_is_what_its_contract_takes() -> None:
    from dragoman.models.contracts import contract_class

    told = [c for c in checkpoints() if c.role in ("av", "pair") and c.usable and c.contract in contract_names()]
    assert len(told) > 20
    for c in told:
        contract = contract_class(c.contract)
        assert set(c.settings) <= set(contract.common) | set(contract.settings), c.id
    anicka = find("anicka/nla-qwen2.5-7b-L20-av-v2")
    assert anicka is not None and anicka.settings == {"block": 20, "prefill": "<explanation>"}


@pytest.mark.parametrize(
    ("ref", "layout"),
    [
        ("kitft/nla-gemma3-12b-L32-ar", "kitft"),
        ("achand45/gemma-3-12b-it-nla-L32", "easynla"),
        ("kitft/nla-gemma3-12b-L32-av", None),
        ("AlexWortega/Qwen1.7bnla", None),
        ("shijtang/mini-nla-qwen2.5-3b", None),
    ],
)
def test_a_reconstructors_layout_follows_from_its_makers(ref: str, layout: str | None) -> None:
    found = find(ref)
    assert found is not None and found.reader_layout == layout


def test_distances_to_dictionaries_say_early_and_exact() -> None:
    qwen = find("kitft/nla-qwen2.5-7b-L20-av")
    llama = find("kitft/Llama-3.3-70B-NLA-L53-av")
    assert qwen is not None and llama is not None
    assert [qwen.distance(s) for s in qwen.saes] == [0, -1]
    assert [llama.distance(s) for s in llama.saes] == [-3]
    assert qwen.saes[0].refs == (
        "hf:chanind/qwen2.5-7B-it-layer-20-saes@db8c88b400e36e603d0563abcf8d289e5eff5687/pile/matryoshka/k-100",
    )
    gemma = find("kitft/nla-gemma3-27b-L41-av")
    assert gemma is not None
    assert gemma.saes[0].refs == (
        "hf:google/gemma-scope-2-27b-it/resid_post_all/layer_41_width_262k_l0_small",
        "sae:gemma-scope-2-27b-it-res-all/layer_41_width_262k_l0_small",
    )


def entry(**changes: object) -> str:
    base = {"id": "a/b", "role": "av", "base": "Qwen/Qwen3-8B", "contract": "kitft", "blocks": [3], "n_blocks": 8}
    return yaml.safe_dump({"checkpoints": [{**base, **changes}]})


def test_a_sound_entry_is_read() -> None:
    assert parse_registry(entry())[0].where == "3/8"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (entry(blocks=[8]), "block \\(8,\\) of 8"),
        (entry(mark="second-hand"), "says what is missing"),
        (entry(missing="its scale"), "says what is missing"),
        (entry(contract="unknown"), "go together"),
        (entry(blocks=[]), "has blocks, or reads any"),
        (entry(contract="replace"), "Input should be"),
        (entry(colour="red"), "Extra inputs"),
        (entry(saes=[{"block": 3, "release": "x"}]), "needs release and sae_id, or repo"),
        ("checkpoints: !!python/object/apply:os.system [true]", "could not determine a constructor"),
        ("{", "damaged"),
        ("[]", "damaged"),
        (entry() + entry().split("\n", 1)[1], "lists a/b twice"),
    ],
)
def test_a_damaged_registry_is_refused(text: str, said: str) -> None:
    with pytest.raises(Refusal, match=said):
        parse_registry(text)


def test_records_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        checkpoints()[0].contract = "karvonen"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("source", "first", "relation"),
    [
        ("Qwen/Qwen2.5-7B-Instruct:20", "kitft/nla-qwen2.5-7b-L20-av", "native"),
        ("google/gemma-3-12b-it:32", "kitft/nla-gemma3-12b-L32-av", "native"),
        ("google/gemma-3-12b-it:24", "achand45/gemma-3-12b-it-nla-L24", "native"),
        ("google/gemma-3-12b-pt:32", "kitft/nla-gemma3-12b-L32-av", "other tuning"),
        ("google/gemma-3-27b-it:41", "kitft/nla-gemma3-27b-L41-av", "native"),
        ("meta-llama/Llama-3.3-70B-Instruct:50", "kitft/Llama-3.3-70B-NLA-L53-av", "native"),
        ("meta-llama/Llama-3.2-3B:16", "kitft/Llama-3.3-70B-NLA-L53-av", "family"),
        ("meta-llama/Llama-3.1-8B:16", "Transluce/features_explain_llama3.1_8b_llama3.1_8b", "native"),
        ("meta-llama/Llama-3.1-8B-Instruct:19", "keenanpepper/selfie-adapters-llama-3.1-8b-instruct", "native"),
        ("tiny-smollm2:23", "tiny-smollm2-av", "native"),
        ("mistralai/Mistral-7B-v0.1:16", "kitft/nla-qwen2.5-7b-L20-av", "foreign"),
    ],
)
def test_the_first_recommendation_is_the_nearest_known_verbalizer(source: str, first: str, relation: str) -> None:
    best = recommend(source)[0]
    assert (best.checkpoint.id, best.relation) == (first, relation)
    assert best.usable and best.reason


def test_recommendations_rank_what_can_run_before_what_cannot_and_toys_last() -> None:
    found = recommend("meta-llama/Llama-3.1-8B-Instruct")
    usable = [r.usable for r in found]
    assert usable == sorted(usable, reverse=True)
    assert all("refused: " in r.reason for r in found if not r.usable)
    runnable = [r.checkpoint.id for r in found if r.usable]
    assert set(runnable[-2:]) == {"tiny-gemma-av", "tiny-smollm2-av"}
    assert all(r.checkpoint.role in ("av", "pair") for r in found)
    assert not any(r.checkpoint.older for r in found)


def test_an_own_encoder_of_a_bundle_comes_after_natives_and_before_the_family() -> None:
    relations = [r.relation for r in recommend("Qwen/Qwen2.5-7B-Instruct") if r.usable]
    assert relations.index("own encoder") > max(n for n, r in enumerate(relations) if r == "native")
    assert relations.index("own encoder") < relations.index("family")


def test_another_width_is_another_model() -> None:
    assert recommend("Qwen/Qwen2.5-7B-Instruct", 3584)[0].relation == "native"
    assert "native" not in {r.relation for r in recommend("Qwen/Qwen2.5-7B-Instruct", 4096)}


def test_the_distance_to_the_block_is_told() -> None:
    assert "3 blocks from yours" in recommend("meta-llama/Llama-3.3-70B-Instruct:50")[0].reason
    assert "exactly yours" in recommend("Qwen/Qwen2.5-7B-Instruct", block=20)[0].reason


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("google/gemma-3-27b-it", "tiny-gemma", True),
        ("meta-llama/Meta-Llama-3.1-8B", "meta-llama/Llama-3.3-70B-Instruct", True),
        ("Qwen/Qwen2.5-7B", "Qwen/Qwen2.5-1.5B-Instruct", True),
        ("google/gemma-2-2b", "google/gemma-3-12b-it", False),
        ("Qwen/Qwen2.5-7B", "Qwen/Qwen3-8B", False),
        ("tiny-smollm2", "HuggingFaceTB/SmolLM2-135M", True),
    ],
)
def test_families_are_told_by_name(one: str, other: str, same: bool) -> None:
    assert (family(one) == family(other)) is same


@given(st.text(max_size=60))
def test_any_name_is_ranked_without_error(name: str) -> None:
    found = recommend(name.rstrip("0123456789") or "x")
    assert len(found) == len({r.checkpoint.id for r in found}) > 20


@pytest.mark.parametrize("columns", [80, 120])
def test_the_command_prints_a_table_no_wider_than_its_screen(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    command.checkpoints(source=None, width=None, every=False, as_json=False)
    said = capsys.readouterr()
    assert not said.err
    assert all(c.id in said.out for c in checkpoints())
    assert max(len(line) for line in said.out.splitlines()) <= columns


def test_the_command_recommends_and_keeps_references_whole(capsys: pytest.CaptureFixture[str]) -> None:
    url = "https://www.neuronpedia.org/qwen2.5-7b-it/20-matryoshka-65k/982"
    command.checkpoints(source=url, width=None, every=False, as_json=False)
    said = capsys.readouterr().out
    assert " 1. kitft/nla-qwen2.5-7b-L20-av  kitft" in said
    assert find("kitft/nla-qwen2.5-7b-L20-av").saes[0].refs[0] in said  # type: ignore[union-attr]


def test_json_is_one_array_with_what_was_derived(capsys: pytest.CaptureFixture[str]) -> None:
    command.checkpoints(source=None, width=None, every=False, as_json=True)
    every = json.loads(capsys.readouterr().out)
    assert [row["id"] for row in every] == [c.id for c in checkpoints()]
    command.checkpoints(source="google/gemma-3-27b-it:41", width=None, every=False, as_json=True)
    first = json.loads(capsys.readouterr().out)[0]
    assert first["rank"] == 1 and first["usable"] is True
    assert first["checkpoint"]["saes"][0]["distance"] == 0


def test_a_neuronpedia_model_nobody_knows_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Refusal, match="not in dragoman's table"):
        command.checkpoints(source="np:bert-large/3-x/1", width=None, every=False, as_json=False)
    assert not capsys.readouterr().out


def test_the_registry_is_read_only_when_asked_for() -> None:
    code = (
        "import sys, dragoman.verbalizers.registry as r, dragoman.commands.checkpoints\n"
        "assert r.checkpoints.cache_info().currsize == 0\n"
        "assert not {'torch', 'transformers', 'scipy', 'httpx', 'rich'} & set(sys.modules)\n"
        "r.find('kitft/x'); assert r.checkpoints.cache_info().currsize == 1"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr


def test_the_command_loads_no_large_library() -> None:
    code = (
        "import sys\nfrom dragoman.commands.checkpoints import checkpoints\n"
        "checkpoints(source='Qwen/Qwen3-8B', width=None, every=False, as_json=True)\n"
        "assert not {'torch', 'transformers', 'scipy', 'httpx', 'peft'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)[0]["rank"] == 1


def test_the_contracts_page_names_every_checkpoint_and_every_contract() -> None:
    page = (ROOT / "docs" / "contracts.md").read_text()
    missing = [c.id for c in registry.checkpoints() if f"`{c.id}`" not in page]
    assert not missing
    assert all(f"`{name}`" in page for name in contract_names())
