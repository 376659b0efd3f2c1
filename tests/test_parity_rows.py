"""Verbalizers trained on dictionary rows, against a reading of each written from its publication: plain transformers.

One vector at a time, the whole prompt anew at every step, no cache: ids by the tokenizers library, embeddings out of
the raw table, changes by a hook of its own. The last test plants the mistakes that nobody would see in the words.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from tokenizers import Tokenizer

from dragoman.core import Refusal
from dragoman.models.contracts.base import replaced
from dragoman.models.decode import Verbalizer
from plain_reading import Plain
from reserved_tokens import reserving, save_tokenizer
from tiny_checkpoints import BOS, CHAT, FAMILIES, WIDTH, save_checkpoint
from verbalizer_doubles import next_logits

TOKENS = 5
LAYER, HOOKED = 3, 1
SOFT, BEGIN, END, ROW = (f"<|reserved_special_token_{n}|>" for n in (0, 10, 11, 12))
KINDS = ("selfie", "selfie-low-rank", "continuous", "span-add")
Logits = Callable[[NDArray[np.float32], list[int]], torch.Tensor]


@dataclass(frozen=True)
class Case:
    kind: str
    ours: Verbalizer
    read: Logits  # the reading by hand: a vector and what was said of it to the next token's logits
    ids: list[int]
    vectors: NDArray[np.float32]

    def agrees(self) -> None:
        got = next_logits(self.ours, self.vectors)
        want = torch.stack([self.read(vector, []) for vector in self.vectors])
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4 * float(want.abs().max()))


class Hand:
    """A model of one family, its table and its tokenizer, without anything of ours."""

    def __init__(self, family: str, folder: Path) -> None:
        self.family, self.plain = family, Plain.open(family, folder)
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))

    def ids(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    @torch.no_grad()
    def logits(self, ids: list[int], put: dict[int, torch.Tensor]) -> torch.Tensor:
        """Next-token logits after ids, with other embeddings at some positions."""
        rows = self.plain.embed(ids).clone()
        for place, row in put.items():
            rows[place] = row
        return self.plain.net(inputs_embeds=rows[None], use_cache=False).logits[0, -1]


def selfie(hand: Hand, parts: dict[str, torch.Tensor], text: str) -> tuple[list[int], Logits]:
    """scale x/|x| + x/|x| U V^T + bias, scale = exp(log_scale), wherever the reserved token stands."""
    ids = hand.ids(text)

    def read(vector: NDArray[np.float32], said: list[int]) -> torch.Tensor:
        x = torch.tensor(vector)
        x = x / x.norm()
        token = torch.exp(parts["log_scale"]) * x + parts["bias"]
        if "U" in parts:
            token = token + parts["V"] @ (parts["U"].T @ x)
        return hand.logits([*ids, *said], {k: token for k, i in enumerate(ids) if [i] == hand.ids(SOFT)})

    return ids, read


def continuous(hand: Hand) -> tuple[list[int], Logits]:
    """The row as it is in place of the reserved token between its marks; a plain text with BOS that says LAYER."""
    ids = hand.ids(f"{BOS[hand.family] or ''}At layer {LAYER}, {BEGIN}{ROW}{END} encodes ")

    def read(vector: NDArray[np.float32], said: list[int]) -> torch.Tensor:
        return hand.logits([*ids, *said], {ids.index(hand.ids(ROW)[0]): torch.tensor(vector)})

    return ids, read


def span_add(hand: Hand) -> tuple[list[int], Logits]:
    """0.2 of the last four tokens' mean norm along the unit row, added to these four, at one block's output."""
    told = [
        {
            "role": "system",
            "content": "You are an expert in concept interpretation.\nI will inject an internal intervention into your "
            "hidden states.\nPlease complete the final sentence based on the intervention you experience.\n",
        },
        {"role": "user", "content": "The target concept is: "},
    ]
    form = jinja2.Template(CHAT[hand.family], keep_trailing_newline=True)
    ids = hand.ids(form.render(messages=told, add_generation_prompt=True, bos_token=BOS[hand.family]))

    def read(vector: NDArray[np.float32], said: list[int]) -> torch.Tensor:
        unit = torch.tensor(vector) / torch.tensor(vector).norm()

        def hook(_module: Any, _args: Any, output: Any) -> Any:
            hidden = (output[0] if isinstance(output, tuple) else output).clone()
            last = range(len(ids) - 4, len(ids))
            mean = sum(float(hidden[0, k].norm()) for k in last) / 4
            for k in last:
                hidden[0, k] += 0.2 * mean * unit
            return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

        handle = hand.plain.blocks[HOOKED].register_forward_hook(hook)
        try:
            return hand.logits([*ids, *said], {})
        finally:
            handle.remove()

    return ids, read


def save_map(folder: Path, parts: dict[str, torch.Tensor], **settings: Any) -> Path:
    """An adapter as its makers store it."""
    kind = "scalar_affine_plus_low_rank" if "U" in parts else "scalar_affine"
    told = {"projection": {"type": kind, "normalize_input": True}, **settings}
    folder.mkdir(exist_ok=True)
    dim = str(len(parts["bias"]))
    save_file(parts, folder / "adapter.safetensors", metadata={"config_json": json.dumps(told), "model_dim": dim})
    return folder


def parts_of(width: int, *, rank: int) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(5)
    parts = {"log_scale": torch.tensor([0.4]), "bias": torch.randn(width, generator=draw)}
    if rank:
        parts |= {name: torch.randn(width, rank, generator=draw) * 0.4 for name in ("U", "V")}
    return parts


@pytest.fixture(scope="module", params=FAMILIES)
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Hand]:
    folder = save_checkpoint(tmp_path_factory.mktemp(request.param) / "whole", request.param)
    save_tokenizer(folder, reserving(request.param, SOFT, BEGIN, END, ROW))
    return request.param, folder, Hand(request.param, folder)


@pytest.fixture(scope="module", params=KINDS)
def case(
    request: pytest.FixtureRequest, base: tuple[str, Path, Hand], tmp_path_factory: pytest.TempPathFactory
) -> Case:
    (family, folder, hand), kind = base, request.param
    draw = np.random.default_rng(7)
    vectors = (draw.normal(size=(3, WIDTH[family])) * draw.uniform(0.2, 3, (3, 1))).astype(np.float32)
    engine = "loop" if kind == "span-add" else "captured"
    if kind == "continuous":
        (ids, read), settings = continuous(hand), {"model": str(folder), "block": LAYER, "norm": "row"}
        ours = Verbalizer(folder, contract=kind, settings=settings, engine=engine)
    elif kind == "span-add":
        (ids, read), settings = span_add(hand), {"model": str(folder), "block": 2, "hook_block": HOOKED}
        ours = Verbalizer(folder, contract=kind, settings=settings, engine=engine)
    else:
        begun = BOS[family] or ""
        text = f'{begun}What is the meaning of "{SOFT}"?\nThe meaning of "{SOFT}" is "'
        parts = parts_of(WIDTH[family], rank=3 if "rank" in kind else 0)
        prompt = {"template": text, "reserved_token": SOFT}
        at = save_map(tmp_path_factory.mktemp(kind) / "adapter", parts, soft_prompt=prompt, model={"name": str(folder)})
        ids, read = selfie(hand, parts, text)
        ours = Verbalizer(at, contract="selfie", settings={"block": 2}, engine=engine)
    return Case(kind, ours, read, ids, vectors)


def test_ids_and_next_token_logits_equal_the_reading_by_hand(case: Case) -> None:
    assert list(case.ours.prompt.ids) == case.ids
    case.agrees()
    # The vectors matter a hundred times the tolerance, or the comparison would say nothing.
    logits = [case.read(vector, []) for vector in case.vectors]
    assert (logits[0] - logits[1]).abs().max() > 0.01 * logits[0].abs().max()


def test_greedy_texts_of_every_engine_are_those_of_the_reading_by_hand(case: Case) -> None:
    said = case.ours.verbalize(case.vectors, max_new_tokens=TOKENS)
    with case.ours.looped():
        assert [e.raw for e in case.ours.verbalize(case.vectors, max_new_tokens=TOKENS)] == [e.raw for e in said]
    for vector, explanation in zip(case.vectors, said, strict=True):
        ids: list[int] = []
        while len(ids) < TOKENS and not (ids and case.ours.ending.over(ids)):
            ids.append(int(case.read(vector, ids).argmax()))
        kept = ids[:-1] if ids[-1] in case.ours.ending.stops else ids
        assert (explanation.raw, explanation.tokens) == (case.ours.ending.text(kept), len(ids))
    assert case.ours.engine.startswith("engine: loop, as asked" if case.kind == "span-add" else "engine: captured")


def test_the_engine_that_cannot_feed_it_is_refused_by_name(base: tuple[str, Path, Hand]) -> None:
    settings = {"model": "m", "block": 2, "hook_block": HOOKED}
    with pytest.raises(Refusal, match="the captured engine: its vector is added at the last position of the prompt"):
        Verbalizer(base[1], contract="span-add", settings=settings, engine="captured")


SELFIE, CONTINUOUS, SPAN = (f"dragoman.models.contracts.{name}" for name in ("selfie", "continuous", "span_add"))


def units(vectors: torch.Tensor) -> torch.Tensor:
    return vectors / vectors.norm(dim=1, keepdim=True)


def turned(contract: Any, vectors: torch.Tensor) -> torch.Tensor:
    """U and V the other way round."""
    parts = contract._map.tensors
    return units(vectors) * parts["log_scale"].exp() + units(vectors) @ parts["V"] @ parts["U"].T


SOFT_MISTAKES = {
    "scale taken for its logarithm": (f"{SELFIE}.Selfie.carried", lambda _self, v: 0.4 * units(v)),
    "no bias": (f"{SELFIE}.Selfie.resting", lambda _self: None),
    "vectors at their own length": (f"{SELFIE}.Selfie.carried", lambda self, v: self._map.linear(v)),
    "the first place alone": (f"{SELFIE}.Selfie.places", lambda _self, prompt: (prompt.slot,)),
}
MISTAKES: dict[str, dict[str, tuple[str, Any]]] = {
    "selfie": SOFT_MISTAKES,
    "selfie-low-rank": SOFT_MISTAKES | {"low rank turned round": (f"{SELFIE}.Selfie.carried", turned)},
    "continuous": {
        "rows at length one": (f"{CONTINUOUS}.Continuous.carried", lambda _self, v: units(v)),
        "the mark before it": (f"{CONTINUOUS}.replaced", lambda rows, slot, v: replaced(rows, slot - 1, v)),
    },
    "span-add": {
        "another block": (f"{SPAN}.SpanAdd.hook_block", HOOKED + 1),
        "another share": (f"{SPAN}.SpanAdd._share", 0.25),
        "each token's own norm": (f"{SPAN}.SpanAdd.added", lambda _self, h: 0.2 * h.norm(dim=-1)),
        "the other way round": (
            f"{SPAN}.SpanAdd.added",
            lambda _self, h: -0.2 * h.norm(dim=-1).mean(dim=1, keepdim=True).expand(h.shape[:2]),
        ),
        "one token less": (f"{SPAN}.SpanAdd.places", lambda _self, p: tuple(range(p.slot + 1, len(p.ids)))),
        "one token short of the end": (f"{SPAN}.SpanAdd.places", lambda _self, p: tuple(range(p.slot, len(p.ids) - 1))),
    },
}


def test_no_mistake_in_what_is_fed_would_pass(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    for mistake, (name, planted) in MISTAKES[case.kind].items():
        with monkeypatch.context() as meddling:
            meddling.setattr(name, planted)
            with pytest.raises(AssertionError, match="not close"):
                case.agrees()
                pytest.fail(f"{mistake} went by")
    case.agrees()
