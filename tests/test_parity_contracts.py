"""What is fed and what comes out, against an independent reading: six families, two contracts, full and PEFT."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from dragoman.models.decode import Verbalizer
from plain_reading import Plain
from tiny_checkpoints import ALL_FAMILIES, WIDTH, dataset_sidecar_of, save_adapter, save_checkpoint, sidecar_of
from verbalizer_doubles import next_logits, prompt_embeddings

TOKENS = 6


@dataclass(frozen=True)
class Case:
    contract: str
    ours: Verbalizer
    plain: Plain

    @property
    def vectors(self) -> NDArray[np.float32]:
        rng = np.random.default_rng(7)
        lengths = rng.uniform(0.01, 100, (3, 1))
        return (rng.normal(size=(3, WIDTH[self.plain.family])) * lengths).astype(np.float32)

    def logits(self, vector: NDArray[np.float32], said: tuple[int, ...] = ()) -> torch.Tensor:
        read = self.plain.kitft_logits if self.contract == "kitft" else self.plain.karvonen_logits
        return read(vector, said)


def sidecar(family: str, contract: str, base: Path) -> dict[str, Any]:
    if contract == "kitft":
        return {**sidecar_of(family), "base_checkpoint": str(base)}
    dataset = dataset_sidecar_of(family)
    return {**dataset, "extraction": {**dataset["extraction"], "base_model": str(base)}}


@pytest.fixture(scope="module", params=ALL_FAMILIES)
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    return request.param, save_checkpoint(tmp_path_factory.mktemp(request.param) / "base", request.param)


@pytest.fixture(scope="module", params=["kitft-full", "kitft-peft", "karvonen-full", "karvonen-peft"])
def case(request: pytest.FixtureRequest, base: tuple[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Case:
    (family, folder), (contract, form) = base, request.param.split("-")
    at = tmp_path_factory.mktemp("checkpoint") / form
    said = sidecar(family, contract, folder)
    if form == "full":
        made = save_checkpoint(at, family, sidecar=said)
        plain = Plain.open(family, made)
    else:
        # Norm-matched verbalizers are published with rsLoRA, the others without.
        made = save_adapter(at, family, folder, sidecar=said, rslora=contract == "karvonen")
        plain = Plain.open(family, folder, made)
    return Case(contract, Verbalizer(made, contract=contract), plain)


def test_ids_and_slot_are_those_of_the_plain_reading(case: Case) -> None:
    assert list(case.ours.prompt.ids) == case.plain.ids
    assert case.ours.prompt.slot == case.plain.slot


def test_prompt_embeddings_equal_the_plain_reading_bit_for_bit(case: Case) -> None:
    got = prompt_embeddings(case.ours, case.vectors)
    if case.contract == "kitft":
        want = torch.stack([case.plain.kitft_rows(v) for v in case.vectors])
    else:
        want = case.plain.embed(case.plain.ids).expand(3, -1, -1)
    assert got.dtype == torch.float32 and torch.equal(got, want)


def test_next_token_logits_equal_the_plain_reading(case: Case) -> None:
    got = next_logits(case.ours, case.vectors)
    want = torch.stack([case.logits(v) for v in case.vectors])
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4 * float(want.abs().max()))
    # The vectors matter twenty times the tolerance, or the comparison would say nothing.
    assert (want[0] - want[1]).abs().max() > 0.002 * want.abs().max()


def test_greedy_in_a_batch_is_greedy_alone_is_the_plain_reading(case: Case) -> None:
    batched = case.ours.verbalize(case.vectors, max_new_tokens=TOKENS)
    assert [case.ours.verbalize(v[None], max_new_tokens=TOKENS)[0] for v in case.vectors] == batched
    for vector, explanation in zip(case.vectors[:2], batched, strict=False):
        said: tuple[int, ...] = ()
        while len(said) < TOKENS and (not said or said[-1] not in case.ours.ending.stops):
            said = (*said, int(case.logits(vector, said).argmax()))
        kept = said[:-1] if said[-1] in case.ours.ending.stops else said
        assert explanation.raw == case.ours.tokenizer.decode(kept, clean_up_tokenization_spaces=False)
        assert explanation.tokens == len(said)
