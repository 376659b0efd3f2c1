"""The doctor on verbalizers trained on rows: no alarm where all is well, and one for each thing fed amiss."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from dragoman.doctor import Finding, Subject, examine
from dragoman.models.decode import Verbalizer
from reserved_tokens import reserving, save_tokenizer
from tiny_checkpoints import WIDTH, save_checkpoint

ROW = tuple(f"<|reserved_special_token_{n}|>" for n in (10, 11, 12))
PAD = "<|fim_pad|>"
FAMILIES = ("qwen2", "gemma3")
KINDS = ("selfie", "continuous", "span-add")


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folders = {family: save_checkpoint(tmp_path_factory.mktemp(family) / "base", family) for family in FAMILIES}
    return {family: save_tokenizer(at, reserving(family, PAD, *ROW)) for family, at in folders.items()}


def adapter(folder: Path, family: str) -> Path:
    width, draw = WIDTH[family], torch.Generator().manual_seed(2)
    parts = {"log_scale": torch.tensor([0.7]), "bias": torch.randn(width, generator=draw)}
    parts |= {name: torch.randn(width, 2, generator=draw) for name in ("U", "V")}
    header = {"projection_type": "scalar_affine_plus_low_rank", "model_dim": str(width)}
    save_file(parts, folder / "adapter.safetensors", metadata=header)
    return folder


def opened(kind: str, family: str, folder: Path, scratch: Path, made: type[Verbalizer] = Verbalizer) -> Verbalizer:
    begun = "<bos>" if family == "gemma3" else ""
    text = f'{begun}What is the meaning of "{PAD}"? The meaning of "{PAD}" is "'
    settings: dict[str, Any] = {
        "selfie": {"block": 1, "template": text, "marker": PAD},
        "continuous": {"block": 1, "model": str(folder), "norm": "row"},
        "span-add": {"block": 1, "model": str(folder), "hook_block": 2},
    }[kind]
    at = adapter(scratch, family) if kind == "selfie" else folder
    return made(at, contract=kind, settings=settings, base=str(folder))


def findings_of(verbalizer: Verbalizer) -> dict[str, Finding]:
    return {f.check: f for f in examine(Subject(by=verbalizer.name, verbalizer=verbalizer))}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", KINDS)
def test_no_alarm_where_all_is_well(
    bases: dict[str, Path], tmp_path: Path, family: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dragoman.models.watch.DEPTH", 1)  # what is added deeper down is watched all the same
    found = findings_of(opened(kind, family, bases[family], tmp_path))
    assert not {name: f for name, f in found.items() if f.status == "fault"}
    assert {found[name].status for name in ("slot", "sign", "scale", "embedding-scale", "cache")} == {"ok"}
    assert str(found["slot"].measured).count(",") == {"selfie": 1, "continuous": 0, "span-add": 3}[kind]
    origins = {"selfie": "norm that its contract gives the vector", "span-add": "what its contract adds there"}
    assert found["scale"].origin.startswith(origins.get(kind, "norm that its contract gives"))


def times(verbalizer: Verbalizer, factor: float, put: float = 0.0) -> Callable[[Any], Any]:
    """A feed with the vector's part so many times as long, and so much of ones beside it."""

    def change(fed: Any) -> Any:
        if fed.hooks:
            (hook,) = fed.hooks
            wrong = lambda h: h + factor * (hook.change(h) - h)  # noqa: E731
            return dataclasses.replace(fed, hooks=(dataclasses.replace(hook, change=wrong),))
        rows, rest = fed.embeddings.clone(), verbalizer.contract.resting()
        for place in verbalizer.contract.places(verbalizer.prompt):
            bias = 0 if rest is None else rest
            rows[:, place] = factor * (rows[:, place] - bias) + bias + put
        return dataclasses.replace(fed, embeddings=rows)

    return change


FAULTS: dict[str, tuple[str, str, Callable[[Verbalizer], Callable[[Any], Any]]]] = {
    "soft token half as long": ("selfie", "scale", lambda v: times(v, 0.5)),
    "another bias": ("selfie", "scale", lambda v: times(v, 1.0, put=0.5)),
    "soft token turned round": ("selfie", "sign", lambda v: times(v, -1.0)),
    "row twice as long": ("continuous", "scale", lambda v: times(v, 2.0)),
    "row turned round": ("continuous", "sign", lambda v: times(v, -1.0)),
    "added five times as much": ("span-add", "scale", lambda v: times(v, 5.0)),
    "added the other way": ("span-add", "sign", lambda v: times(v, -1.0)),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_thing_fed_amiss_is_caught_by_its_check(bases: dict[str, Path], tmp_path: Path, fault: str) -> None:
    kind, check, plant = FAULTS[fault]

    class Meddling(Verbalizer):
        def feed(self, vectors: Any) -> Any:
            return plant(self)(super().feed(vectors))

    assert findings_of(opened(kind, "qwen2", bases["qwen2"], tmp_path, Meddling))[check].status == "fault"
