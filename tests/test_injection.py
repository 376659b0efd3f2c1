"""The vector stands where the contract wants it, at the norm it wants, and nothing else of the prompt is touched.

The oracle is written from the contract's description alone: raw safetensors table, tokenizers library, jinja2, one row
at a time. It shares no code with the package.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pytest
import torch
import yaml
from numpy.typing import NDArray
from safetensors.torch import load_file
from tokenizers import Tokenizer

from dragoman.core import Refusal
from dragoman.models.decode import LocalVerbalizer
from tiny_checkpoints import BOS, CHAT, FAMILIES, MARKER, SCALE, WIDTH, model_of, save_checkpoint, sidecar_of


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {f: save_checkpoint(tmp_path_factory.mktemp(f) / "av", f) for f in FAMILIES}


@pytest.fixture(scope="module", params=FAMILIES)
def case(request: pytest.FixtureRequest, folders: dict[str, Path]) -> Iterator[tuple[str, Path, LocalVerbalizer]]:
    yield request.param, folders[request.param], LocalVerbalizer(folders[request.param])


def vectors_for(family: str, count: int = 5, seed: int = 0) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(count, WIDTH[family])) * rng.uniform(0.01, 100, (count, 1))).astype(np.float32)


def oracle_ids(family: str, folder: Path, sidecar: dict[str, Any]) -> list[int]:
    message = sidecar["prompt_templates"]["av"].format(injection_char=sidecar["tokens"]["injection_char"])
    text = jinja2.Template(CHAT[family], keep_trailing_newline=True).render(
        messages=[{"role": "user", "content": message}], add_generation_prompt=True, bos_token=BOS[family]
    )
    return Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text, add_special_tokens=False).ids


def oracle_row(family: str, folder: Path, vector: NDArray[np.float32]) -> torch.Tensor:
    """Steps 1 to 6 of the contract for one vector."""
    sidecar = yaml.safe_load((folder / "nla_meta.yaml").read_text(encoding="utf-8"))
    tokens = sidecar["tokens"]
    ids = oracle_ids(family, folder, sidecar)
    (table,) = [t for k, t in load_file(folder / "model.safetensors").items() if k.endswith("embed_tokens.weight")]
    rows = table[torch.tensor(ids)].clone()
    if family == "gemma3":
        rows = rows * torch.tensor(math.sqrt(table.shape[1]), dtype=torch.float32)
    sites = [
        k
        for k in range(1, len(ids) - 1)
        if ids[k] == tokens["injection_token_id"]
        and ids[k - 1] == tokens["injection_left_neighbor_id"]
        and ids[k + 1] == tokens["injection_right_neighbor_id"]
    ]
    assert len(sites) == 1
    if BOS[family]:
        bos = Tokenizer.from_file(str(folder / "tokenizer.json")).token_to_id(BOS[family])
        assert bos is not None and ids.count(bos) == 1 and ids[0] == bos
    wide = torch.tensor(vector, dtype=torch.float32)
    norm = wide.norm().clamp_min(1e-12)
    rows[sites[0]] = wide / (norm / sidecar["extraction"]["injection_scale"])
    return rows


def test_tiny_models_are_tiny() -> None:
    assert all(sum(p.numel() for p in model_of(f).parameters()) < 1_000_000 for f in FAMILIES)


def test_prompt_embeddings_equal_the_contract_bit_for_bit(case: tuple[str, Path, LocalVerbalizer]) -> None:
    family, folder, verbalizer = case
    vectors = vectors_for(family)
    got = verbalizer.prompt_embeddings(vectors)
    want = torch.stack([oracle_row(family, folder, v) for v in vectors])
    assert got.dtype == want.dtype == torch.float32
    assert torch.equal(got, want)


def test_decoding_feeds_the_model_exactly_these_embeddings(case: tuple[str, Path, LocalVerbalizer]) -> None:
    family, _, verbalizer = case
    vectors = vectors_for(family, 3)
    seen: list[torch.Tensor] = []

    def note(_module: Any, _args: Any, kwargs: dict[str, Any]) -> None:
        if kwargs.get("inputs_embeds") is not None:
            seen.append(kwargs["inputs_embeds"])

    handle = verbalizer._net.register_forward_pre_hook(note, with_kwargs=True)
    verbalizer.verbalize(vectors, max_new_tokens=3)
    handle.remove()
    prefix, rest = seen
    assert prefix.shape[0] == 1, "what stands before the slot is computed once"
    assert prefix.shape[1] == verbalizer.prompt.slot
    fed = torch.cat([prefix.expand(3, -1, -1), rest], dim=1)
    assert torch.equal(fed, verbalizer.prompt_embeddings(vectors))


def test_only_the_slot_differs_between_rows(case: tuple[str, Path, LocalVerbalizer]) -> None:
    family, _, verbalizer = case
    got = verbalizer.prompt_embeddings(vectors_for(family, 2))
    differing = (got[0] != got[1]).any(dim=-1).nonzero().flatten().tolist()
    assert differing == [verbalizer.prompt.slot]


def test_the_row_keeps_its_norm_after_the_cast_to_bfloat16(folders: dict[str, Path]) -> None:
    for family, folder in folders.items():
        verbalizer = LocalVerbalizer(folder, dtype="bfloat16")
        rows = verbalizer.prompt_embeddings(vectors_for(family))
        assert rows.dtype == torch.bfloat16
        norms = rows[:, verbalizer.prompt.slot].float().norm(dim=-1)
        assert torch.allclose(norms, torch.full_like(norms, SCALE[family]), rtol=0.01)


def test_magnitude_is_thrown_away_and_sign_is_not(case: tuple[str, Path, LocalVerbalizer]) -> None:
    family, _, verbalizer = case
    vectors = vectors_for(family)
    slot = verbalizer.prompt.slot
    plain = verbalizer.prompt_embeddings(vectors)[:, slot]
    assert torch.equal(verbalizer.prompt_embeddings(vectors * np.float32(4))[:, slot], plain)
    assert torch.equal(verbalizer.prompt_embeddings(-vectors)[:, slot], -plain)


def test_the_marker_is_read_with_its_own_family(folders: dict[str, Path]) -> None:
    # Each family has its own marker and neighbours; a copied sidecar is noticed.
    foreign = sidecar_of("qwen2") | {"d_model": WIDTH["llama"], "base_checkpoint": "x"}
    folder = save_checkpoint(folders["llama"].parent / "copied", "llama", sidecar=foreign)
    with pytest.raises(Refusal, match=f"marker '{MARKER['qwen2']}'"):
        LocalVerbalizer(folder)


def test_refuses_vectors_of_another_width(case: tuple[str, Path, LocalVerbalizer]) -> None:
    family, _, verbalizer = case
    with pytest.raises(Refusal, match=f"vectors of width 7 .* has width {WIDTH[family]}"):
        verbalizer.prompt_embeddings(np.ones((2, 7), np.float32))
    with pytest.raises(Refusal, match="takes one row per vector"):
        verbalizer.verbalize(np.ones(WIDTH[family], np.float32))


@pytest.mark.parametrize(
    ("value", "sentence"),
    [(0.0, "row 1: its length is zero"), (np.nan, "row 1: it holds NaN"), (np.inf, "row 1: it holds NaN or infinite")],
)
def test_refuses_vectors_without_a_direction(
    case: tuple[str, Path, LocalVerbalizer], value: float, sentence: str
) -> None:
    family, _, verbalizer = case
    vectors = vectors_for(family, 3)
    vectors[1] = value
    with pytest.raises(Refusal, match=sentence):
        verbalizer.verbalize(vectors)


def test_refuses_vectors_whose_norm_is_beyond_float32(case: tuple[str, Path, LocalVerbalizer]) -> None:
    family, _, verbalizer = case
    with pytest.raises(Refusal, match="their norm is beyond float32"):
        verbalizer.verbalize(np.full((1, WIDTH[family]), 3e38, np.float32))
