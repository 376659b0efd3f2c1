"""What dragoman asks of vLLM, done by transformers: the same calls and answers, and the faults a version may have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

from dragoman.models.vllm import engine

Change = Callable[[torch.Tensor], torch.Tensor]


@dataclass
class Double:
    """vLLM in a few lines; ``started``: what each was started with; ``asked``: sampling of every row.

    ``change``: what it does to embeddings (count, T, d_model) before it reads them. ``cut``: rows end after so many
    tokens, by no rule. ``off``: added to log-probabilities.
    """

    change: Change = field(default=lambda rows: rows)
    cut: int | None = None
    off: float = 0.0
    started: list[dict[str, Any]] = field(default_factory=list)
    asked: list[SimpleNamespace] = field(default_factory=list)
    stopped: int = 0

    @property
    def library(self) -> Any:
        sampling = lambda **how: SimpleNamespace(**{"stop": (), "stop_token_ids": (), **how})  # noqa: E731
        return SimpleNamespace(LLM=self._started, SamplingParams=sampling, __version__="0.0-double")

    def _started(self, **how: Any) -> Any:
        self.started.append(how)
        net: Any = AutoModelForCausalLM.from_pretrained(how["model"], dtype=getattr(torch, how["dtype"]))
        words: Any = AutoTokenizer.from_pretrained(how["tokenizer"])

        def shutdown() -> None:
            self.stopped += 1

        @torch.inference_mode()
        def generate(prompts: list[dict[str, torch.Tensor]], sampling: list[Any], *, use_tqdm: bool) -> list[Any]:
            assert not use_tqdm and len(prompts) == len(sampling)
            self.asked.extend(sampling)
            rows = self.change(torch.stack([one["prompt_embeds"] for one in prompts]))
            return [self._said(net.eval(), words, row, one) for row, one in zip(rows, sampling, strict=True)]

        inner = SimpleNamespace(engine_core=SimpleNamespace(shutdown=shutdown))
        return SimpleNamespace(generate=generate, llm_engine=inner)

    def _said(self, net: Any, words: Any, row: torch.Tensor, how: Any) -> Any:
        """One row, greedily, until one of its stops."""
        cache: Any = DynamicCache(config=net.config)
        inputs: dict[str, torch.Tensor] = {"inputs_embeds": row[None]}
        ids: list[int] = []
        sure: list[dict[int, Any]] = []
        reason = "length"
        while len(ids) < how.max_tokens and reason == "length":
            logs = net(**inputs, past_key_values=cache, use_cache=True).logits[0, -1].float().log_softmax(-1)
            ids.append(int(logs.argmax()))
            sure.append({ids[-1]: SimpleNamespace(logprob=float(logs.max()) + self.off)})
            inputs = {"input_ids": torch.tensor([ids[-1:]])}
            text = words.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
            if ids[-1] in how.stop_token_ids or any(end in text for end in how.stop) or len(ids) == self.cut:
                reason = "stop"
        said = SimpleNamespace(token_ids=ids, logprobs=sure, finish_reason=reason)
        return SimpleNamespace(outputs=[said])


def install(double: Double, monkeypatch: pytest.MonkeyPatch) -> Double:
    """Have the engine use it."""
    monkeypatch.setattr(engine, "_vllm", lambda: double.library)
    monkeypatch.setattr(engine, "refuse_elsewhere", lambda _device: None)
    monkeypatch.setattr("dragoman.models.asked.refuse_absent", lambda *_, **__: None)
    return double
