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
            return self._said(net.eval(), words, rows, sampling)

        inner = SimpleNamespace(engine_core=SimpleNamespace(shutdown=shutdown))
        return SimpleNamespace(generate=generate, llm_engine=inner)

    def _said(self, net: Any, words: Any, rows: torch.Tensor, sampling: list[Any]) -> list[Any]:
        """Rows together, greedily, each until one of its stops."""
        cache: Any = DynamicCache(config=net.config)
        inputs: dict[str, torch.Tensor] = {"inputs_embeds": rows}
        said = [SimpleNamespace(token_ids=[], logprobs=[], finish_reason="") for _ in sampling]
        while not all(one.finish_reason for one in said):
            logits = net(**inputs, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1]
            sure, chosen = logits.float().log_softmax(-1).max(-1)
            inputs = {"input_ids": chosen[:, None]}
            for one, how, token, log in zip(said, sampling, chosen.tolist(), sure.tolist(), strict=True):
                if one.finish_reason:
                    continue
                one.token_ids.append(token)
                one.logprobs.append({token: SimpleNamespace(logprob=log + self.off)})
                text = words.decode(one.token_ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
                ended = token in how.stop_token_ids or any(end in text for end in how.stop)
                if ended or len(one.token_ids) == self.cut:
                    one.finish_reason = "stop"
                elif len(one.token_ids) == how.max_tokens:
                    one.finish_reason = "length"
        return [SimpleNamespace(outputs=[one]) for one in said]


def install(double: Double, monkeypatch: pytest.MonkeyPatch) -> Double:
    """Have the engine use it."""
    monkeypatch.setattr(engine, "_vllm", lambda: double.library)
    monkeypatch.setattr(engine, "refuse_elsewhere", lambda _device: None)
    monkeypatch.setattr("dragoman.models.asked.refuse_absent", lambda *_, **__: None)
    return double
