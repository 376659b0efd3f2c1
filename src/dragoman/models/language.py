"""The source model as a judge of texts: what it writes from a description, and which windows a description foretells.

In: a causal language model, descriptions, windows of text. Out: passages; rises of log-probability. Refuses models
without a tokenizer that pads. No instruction has to be followed to weigh a window: the description stands before it,
and what counts is how much likelier the window becomes than without one.

Prompts: a chat model is asked for the passage in its own template; any other goes on from "Description: ... Text:".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from dragoman.core import Floats
from dragoman.models.harvest import Reader
from dragoman.models.load import load_model, text_stack

ASK = "Here is a description of a passage of text.\n\n{}\n\nWrite that passage, and nothing else."
BEFORE = "Description: {}\n\nText:"
WITHOUT = "Text:"
MOST = 256  # tokens of a description, or of a window
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
    """A model opened to write and to weigh."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast

    @classmethod
    def open(cls, ref: str | Path, *, dtype: str = "float32", device: str = "cpu") -> Self:
        """Open a causal language model."""
        model, tokenizer = load_model(ref, dtype=dtype, device=device)
        return cls(model=model, tokenizer=tokenizer)

    @torch.inference_mode()
    def write_from(
        self,
        descriptions: Sequence[str],
        *,
        n: int = 5,
        tokens: int = 40,
        seed: int = 0,
        batch_size: int = 32,
        progress: Progress | None = None,
    ) -> list[list[str]]:
        """``n`` passages of at most ``tokens`` tokens from each description, drawn at temperature 1 and top-p 0.95.

        A batch's draws depend on the seed and on the batch's place, so the same call writes the same.
        """
        prompts = [self._asked(text) for text in descriptions]
        jobs = [(k, prompt) for k, prompt in enumerate(prompts) for _ in range(n)]
        found: list[list[str]] = [[] for _ in prompts]
        model: Any = self.model
        with _padded_left(self.tokenizer):
            for start in range(0, len(jobs), batch_size):
                piece = jobs[start : start + batch_size]
                encoded = self._encoded([prompt for _, prompt in piece])
                torch.manual_seed(seed + start)
                ids = model.generate(
                    **encoded,
                    max_new_tokens=tokens,
                    do_sample=True,
                    temperature=1.0,
                    top_p=0.95,
                    top_k=0,
                    pad_token_id=self.tokenizer.pad_token_id,
                )
                written = self.tokenizer.batch_decode(ids[:, encoded["input_ids"].shape[1] :], skip_special_tokens=True)
                for (k, _), text in zip(piece, written, strict=True):
                    found[k].append(text.strip())
                if progress is not None:
                    progress(min(start + batch_size, len(jobs)), len(jobs))
        return found

    @torch.inference_mode()
    def surprise(
        self,
        descriptions: Sequence[str],
        windows: Sequence[Sequence[str]],
        *,
        batch_size: int = 32,
        progress: Progress | None = None,
    ) -> list[list[Floats]]:
        """Of each description and each of its windows: how much likelier each token of the window becomes by it.

        (tokens,) float32, log p(token | description, window so far) - log p(token | window so far), nats.
        """
        bare = sorted({w for some in windows for w in some})
        jobs = [(BEFORE.format(text), w) for text, some in zip(descriptions, windows, strict=True) for w in some]
        jobs += [(WITHOUT, w) for w in bare]
        values = self._weighed(jobs, batch_size, progress)
        alone = dict(zip(bare, values[len(jobs) - len(bare) :], strict=True))
        found, at = [], 0
        for some in windows:
            found.append([v - alone[w] for v, w in zip(values[at : at + len(some)], some, strict=True)])
            at += len(some)
        return found

    def _asked(self, text: str) -> str:
        if getattr(self.tokenizer, "chat_template", None):
            turn = [{"role": "user", "content": ASK.format(text)}]
            return str(self.tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True))
        return BEFORE.format(text)

    def _encoded(self, prompts: Sequence[str]) -> Any:
        special = not getattr(self.tokenizer, "chat_template", None)  # a template brings its own
        encoded = self.tokenizer(list(prompts), return_tensors="pt", padding=True, add_special_tokens=special)
        return {key: encoded[key].to(self.model.device) for key in ("input_ids", "attention_mask")}

    def _weighed(self, jobs: Sequence[tuple[str, str]], batch_size: int, progress: Progress | None) -> list[Floats]:
        """Log-probabilities of each window's tokens after its prompt."""
        ids = self._ids(jobs)
        order = sorted(range(len(jobs)), key=lambda k: len(ids[k][0]) + len(ids[k][1]))
        found = [np.zeros(0, np.float32)] * len(jobs)
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            for k, value in zip(chosen, self._batch([ids[k] for k in chosen]), strict=True):
                found[k] = value
            if progress is not None:
                progress(min(start + batch_size, len(order)), len(order))
        return found

    def _ids(self, jobs: Sequence[tuple[str, str]]) -> list[tuple[list[int], list[int]]]:
        """Token ids of prompts (with what the tokenizer puts first) and windows (with the space before them)."""
        prompts = {p: self.tokenizer(p)["input_ids"][:MOST] for p in dict.fromkeys(p for p, _ in jobs)}
        windows = {
            w: self.tokenizer(f" {w}", add_special_tokens=False)["input_ids"][:MOST]
            for w in dict.fromkeys(w for _, w in jobs)
        }
        return [(list(prompts[p]), list(windows[w])) for p, w in jobs]

    def _batch(self, ids: Sequence[tuple[list[int], list[int]]]) -> list[Floats]:
        device, model = self.model.device, self.model
        width = max(len(a) + len(b) for a, b in ids)
        padded = torch.full((len(ids), width), int(self.tokenizer.pad_token_id or 0))  # type: ignore[arg-type]
        mask = torch.zeros((len(ids), width), dtype=torch.long)
        for row, (a, b) in enumerate(ids):
            padded[row, : len(a) + len(b)] = torch.tensor(a + b)
            mask[row, : len(a) + len(b)] = 1
        stack: Any = text_stack(model)
        hidden = stack(input_ids=padded.to(device), attention_mask=mask.to(device), use_cache=False).last_hidden_state
        where = [(row, len(a) + k - 1, b[k]) for row, (a, b) in enumerate(ids) for k in range(len(b))]
        row, position, token = (torch.tensor(part, device=device) for part in zip(*where, strict=True))
        head: Any = model.get_output_embeddings()
        parts = []
        for start in range(0, len(row), 4096):  # a vocabulary of 262,144 takes 4 GB for so many positions
            part = slice(start, start + 4096)
            logits = head(hidden[row[part], position[part]]).float()
            cap = getattr(model.config, "final_logit_softcapping", None)
            logits = torch.tanh(logits / cap) * cap if cap else logits
            parts.append(logits.gather(1, token[part, None])[:, 0] - torch.logsumexp(logits, dim=1))
        flat = torch.cat(parts).cpu().numpy()
        return np.split(flat, np.cumsum([len(b) for _, b in ids])[:-1])


def most_surprised(rises: NDArray[Any], most: int = 3) -> float:
    """Mean of the ``most`` largest rises of a window's tokens: a feature fires at one place, not all over a window."""
    return float(np.sort(rises)[-most:].mean()) if len(rises) else 0.0


class _padded_left:  # noqa: N801 - reads as what it does
    """Inside, a tokenizer pads on the left, as writing asks for."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer, self.side = tokenizer, tokenizer.padding_side

    def __enter__(self) -> None:
        self.tokenizer.padding_side = "left"

    def __exit__(self, *_: object) -> None:
        self.tokenizer.padding_side = self.side


def generation_table(
    passages: Sequence[Sequence[str]],
    reader: Reader,
    encoder: Any,
    columns: Sequence[int],
    *,
    batch_size: int = 32,
) -> Floats:
    """(n, N): how much latent ``columns[j]`` fires on the passages of description i.

    Of each passage the largest activation, averaged over the description's passages; empty passages count 0.

    Args:
        passages: of n descriptions.
        reader: the source model, at the dictionary's site.
        encoder: says where latents fire: ``encode(x) -> (rows, d_sae)``.
        columns: N latents.
        batch_size: passages read together.
    """
    flat = [(k, text) for k, some in enumerate(passages) for text in some if text.strip()]
    total = np.zeros((len(passages), len(columns)), dtype=np.float32)
    step = 64 * batch_size
    for start in range(0, len(flat), step):
        piece = flat[start : start + step]
        rows = reader.rows([text for _, text in piece], np.inf, batch_size=batch_size)
        best = np.zeros((len(piece), len(columns)), dtype=np.float32)
        for low in range(0, len(rows.x), 4096):
            part = slice(low, low + 4096)
            fired = _dense(encoder.encode(rows.x[part]))[:, list(columns)]
            np.maximum.at(best, rows.document[part], fired)
        np.add.at(total, [k for k, _ in piece], best)
    return total / np.array([max(len(some), 1) for some in passages], dtype=np.float32)[:, None]


def _dense(fired: Any) -> NDArray[Any]:
    return fired.toarray() if hasattr(fired, "toarray") else np.asarray(fired)
