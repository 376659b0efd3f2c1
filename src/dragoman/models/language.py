"""The source model as a judge of texts: what it writes from a description, and how much latents fire on that.

In: a causal language model, descriptions. Out: passages; the peaks of latents on them. Refuses descriptions without
passages, and latents that the dictionary has not. Generation score (Paulo et al., arXiv 2410.13928): do latents fire on
what is written from their description?

Prompts: a chat model is asked for the passage in its own template; any other goes on from "Description: ... Text:".
What a text holds of a tokenizer's markup is characters or left out, never a turn or an end.
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

from dragoman.core import Floats, Refusal
from dragoman.models.encode import encode_filled, encode_texts, markup_of
from dragoman.models.harvest import Reader
from dragoman.models.load import load_model
from dragoman.store import digest

ASK = "Here is a description of a passage of text.\n\n{}\n\nWrite that passage, and nothing else."
BEFORE = "Description: {}\n\nText:"
MOST = 256  # tokens of a description
_ROWS = 4096  # that are encoded together
Progress = Callable[[int, int], None]
Ids = list[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
    """A model opened to write."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast

    @classmethod
    def open(cls, ref: str | Path, *, dtype: str = "float32", device: str = "cpu") -> Self:
        """Open a causal language model.

        Raises:
            Refusal: it cannot be loaded.
        """
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

        A batch's draws depend on the seed and on the batch's place: the same call on the same device writes the same.
        The caller's own random numbers are left as they were. Passages may be empty.

        Args:
            descriptions: texts, of which the first 256 tokens are read.
            n: passages of each.
            tokens: the most of a passage.
            seed: of the draws.
            batch_size: passages written together, their prompts padded on the left.
            progress: passages written, and all.
        """
        prompts = [self._asked(text) for text in self.beginnings(descriptions)]
        jobs = [(k, prompt) for k, prompt in enumerate(prompts) for _ in range(n)]
        found: list[list[str]] = [[] for _ in prompts]
        model: Any = self.model
        cuda = [model.device] if model.device.type == "cuda" else []
        pad = self.tokenizer.pad_token_id
        with torch.random.fork_rng(devices=cuda):
            for start in range(0, len(jobs), batch_size):
                piece = jobs[start : start + batch_size]
                ids, mask = padded([prompt for _, prompt in piece], left=True)
                torch.manual_seed(int(digest(str(seed), str(start))[:15], 16))
                said = model.generate(
                    input_ids=ids.to(model.device),
                    attention_mask=mask.to(model.device),
                    max_new_tokens=tokens,
                    do_sample=True,
                    temperature=1.0,
                    top_p=0.95,
                    top_k=0,
                    pad_token_id=0 if pad is None else pad,
                )
                written = self.tokenizer.batch_decode(said[:, ids.shape[1] :], skip_special_tokens=True)
                for (k, _), text in zip(piece, written, strict=True):
                    found[k].append(text.strip())
                if progress is not None:
                    progress(min(start + batch_size, len(jobs)), len(jobs))
        return found

    def beginnings(self, texts: Sequence[str]) -> list[str]:
        """The beginnings of texts, of at most 256 tokens each."""
        spans = encode_texts(self.tokenizer, texts, MOST).spans
        return [text[: max((end for _, end in own), default=0)] for text, own in zip(texts, spans, strict=True)]

    def _asked(self, text: str) -> Ids:
        """Token ids of what asks for a passage."""
        for written in markup_of(self.tokenizer).values():
            text = text.replace(written, " ")
        chat = bool(getattr(self.tokenizer, "chat_template", None))
        return encode_filled(self.tokenizer, self._turn if chat else BEFORE.format, text, special=not chat)

    def _turn(self, text: str) -> str:
        turn = [{"role": "user", "content": ASK.format(text)}]
        return str(self.tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True))


def padded(ids: Sequence[Ids], *, left: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids (b, T) of texts, and a mask that is 1 at them."""
    width = max(map(len, ids))
    rows, mask = torch.zeros((len(ids), width), dtype=torch.long), torch.zeros((len(ids), width), dtype=torch.long)
    for row, own in enumerate(ids):
        place = slice(width - len(own), width) if left else slice(len(own))
        rows[row, place], mask[row, place] = torch.tensor(own), 1
    return rows, mask


def passage_peaks(
    passages: Sequence[Sequence[str]],
    reader: Reader,
    encoder: Any,
    columns: Sequence[int],
    *,
    batch_size: int = 32,
) -> list[Floats]:
    """Of each description (passages, N): the largest activation of latent ``columns[j]`` on each of its passages.

    A passage without a second token counts 0. The first token is left out, as everywhere; passages are short, so the
    next ones count.

    Args:
        passages: of n descriptions, at least one each.
        reader: the source model, at the dictionary's site.
        encoder: says where latents fire: ``encode(x) -> (rows, d_sae)``, dense or sparse.
        columns: N latents.
        batch_size: passages read together.

    Raises:
        Refusal: a description without passages, or a latent that the dictionary has not.
    """
    bare = next((k for k, some in enumerate(passages) if not len(some)), None)
    if bare is not None:
        raise Refusal(f"description {bare}", "nothing was written from it", "leave it out")
    wrong = next((j for j in columns if not 0 <= j < encoder.d_sae), None)
    if wrong is not None:
        raise Refusal(f"latent {wrong}", f"the dictionary has {encoder.d_sae}", "name one of these")
    found = [np.zeros((len(some), len(columns)), np.float32) for some in passages]
    flat = [(k, j, text) for k, some in enumerate(passages) for j, text in enumerate(some) if text.strip()]
    step = 64 * batch_size
    for start in range(0, len(flat), step):
        piece = flat[start : start + step]
        rows = reader.rows([text for _, _, text in piece], np.inf, batch_size=batch_size)
        best = np.zeros((len(piece), len(columns)), dtype=np.float32)
        for low in range(0, len(rows.x), _ROWS):
            part = slice(low, low + _ROWS)
            fired = encoder.encode(rows.x[part])[:, list(columns)]
            np.maximum.at(best, rows.document[part], _dense(fired))
        for (k, j, _), peak in zip(piece, best, strict=True):
            found[k][j] = peak
    return found


def _dense(fired: Any) -> NDArray[Any]:
    return fired.toarray() if hasattr(fired, "toarray") else np.asarray(fired)
