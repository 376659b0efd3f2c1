"""The doctor on adapters of every kind: no alarm where the merged model answers as PEFT does."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from adapter_checkpoints import WEIGHTS, save_base, save_peft, told
from dragoman.doctor import examine
from dragoman.doctor.checkpoint import merged, trained
from dragoman.doctor.examine import open_patient, quick
from dragoman.models.decode import LocalVerbalizer
from dragoman.models.merge import Agreement
from dragoman.store import ArraysFile
from tiny_checkpoints import save_adapter, save_checkpoint

KINDS = {
    "input embeddings alone": {"target_modules": ["embed_tokens"]},
    "both embeddings": {"target_modules": ["embed_tokens", "lm_head"]},
    "tying asked for": {"target_modules": ["q_proj", "embed_tokens"], "ensure_weight_tying": True},
    "dora": {"use_dora": True},
    "patterns": {"rank_pattern": {r"^model\.layers\.0\..*down_proj": 2}, "alpha_pattern": {"layers.0.mlp.*": 32.0}},
    "trained output layer": {"modules_to_save": ["lm_head"]},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("base") / "gemma3", "gemma3", tied=True)


@pytest.mark.parametrize("kind", KINDS)
def test_no_alarm_on_adapters_that_answer_as_peft_does(base: Path, tmp_path: Path, kind: str) -> None:
    adapter = save_peft(tmp_path / "adapter", "gemma3", base, **{"target_modules": ["down_proj"], **KINDS[kind]})
    found = {f.check: f for f in quick([LocalVerbalizer(adapter)])}
    assert found["adapter-merged"].verdict == "ok" and 0 < float(found["adapter-merged"].measured or 0) < 1e-5
    assert found["adapter-trained"].verdict == "ok"
    assert found["adapter-applied"].verdict == ("skipped" if kind in ("dora", "input embeddings alone") else "ok")


def test_a_vision_tower_that_the_base_lacks_is_no_fault(tmp_path: Path) -> None:
    inside = save_checkpoint(tmp_path / "inside", "gemma3_wrapped")
    alone = save_checkpoint(tmp_path / "alone", "gemma3")
    adapter = save_adapter(tmp_path / "adapter", "gemma3_wrapped", inside)
    found = {f.check: f for f in quick([LocalVerbalizer(adapter, base=str(alone))])}
    assert found["adapter-fits"].verdict == found["adapter-applied"].verdict == found["adapter-merged"].verdict == "ok"


def test_a_sum_that_is_off_is_a_fault_with_its_layer_and_limit() -> None:
    off = Agreement(layer="lm_head", error=0.29, limit=1e-4, whole=0.2, whole_limit=1e-3)
    (found,) = merged("x", SimpleNamespace(merged=[off]))
    assert found.verdict == "fault" and found.measured == 0.29 and found.against == 1e-4
    assert "(lm_head)" in found.what and "of the model's output 0.2" in found.origin
    assert merged("x", None) == merged("x", SimpleNamespace()) == []


def test_an_adapter_that_does_not_open_says_why(base: Path, tmp_path: Path) -> None:
    adapter = told(save_peft(tmp_path / "adapter", "gemma3", base), init_lora_weights="pissa_niter_4")
    (found,) = (f for f in examine(open_patient(by=str(adapter))) if f.check == "opening")
    assert found.verdict == "fault" and "init_lora_weights=pissa_niter_4" in str(found.measured)


def test_embeddings_as_peft_starts_them_were_never_trained(base: Path, tmp_path: Path) -> None:
    adapter = save_peft(tmp_path / "adapter", "gemma3", base, target_modules=["embed_tokens"], size=0.0)
    assert trained("x", ArraysFile(adapter / WEIGHTS)).verdict == "fault"
