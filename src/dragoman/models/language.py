"""The source model as a judge of texts: what it writes from a description, and which windows a description foretells.

In: a causal language model, descriptions, windows of text. Out: passages; rises of log-probability; how much latents
fire on passages; whether rises tell firing windows from others. Refuses windows without a token, log-probabilities that
are not finite, passages without a token that can be read, and models whose last step is not known (``logits``).

No instruction has to be followed to weigh a window: the description stands before it, and what counts is how much
likelier the window becomes than behind the same prompt without one (detection by likelihood; the judges of Paulo et
al., arXiv 2410.13928, are asked instead). Generation score: do latents fire on what is written from their description?

Prompts: a chat model is asked for the passage in its own template; any other goes on from "Description: ... Text:".
What a text holds of a tokenizer's markup is characters or left out, never a turn or an end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
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
from dragoman.models.logits import Logits, hidden_rows, logits_of
from dragoman.stats.roc import FEWEST, auroc
from dragoman.store import digest

ASK = "Here is a description of a passage of text.\n\n{}\n\nWrite that passage, and nothing else."
BEFORE = "Description: {}\n\nText:"
WITHOUT = "Text:"
MOST = 256  # tokens of a description, or of a window
_POSITIONS, _ROWS = 2048, 4096  # whose whole vocabulary's logits are held at a time; rows that are encoded together
Progress = Callable[[int, int], None]
Ids = list[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
    """A model opened to write and to weigh."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    _logits: Logits = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """See that the model's last step is known."""
        object.__setattr__(self, "_logits", logits_of(self.model))

    @classmethod
    def open(cls, ref: str | Path, *, dtype: str = "float32", device: str = "cpu") -> Self:
        """Open a causal language model.

        Raises:
            Refusal: it cannot be loaded, or its last step is not known.
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
        prompts = [self._asked(text) for text in self._cut(descriptions)]
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

        (tokens,) float32, log p(token | description, window so far) - log p(token | window so far), nats. Their mean
        weighs the window as a whole, ``most_surprised`` the place that the description tells most of. The first 256
        tokens are read, as of the description.

        Args:
            descriptions: n texts.
            windows: of each description, any number; a window that several have is weighed alone once.
            batch_size: windows weighed together.
            progress: windows weighed, and all.

        Raises:
            Refusal: a window without a token, or log-probabilities that are not finite.
        """
        own = self._cut(descriptions)
        bare = sorted({w for some in windows for w in some})
        jobs = [(BEFORE.format(text), w) for text, some in zip(own, windows, strict=True) for w in some]
        jobs += [(WITHOUT, w) for w in bare]
        values = self._weighed(jobs, batch_size, progress)
        alone = dict(zip(bare, values[len(jobs) - len(bare) :], strict=True))
        found, at = [], 0
        for some in windows:
            found.append([v - alone[w] for v, w in zip(values[at : at + len(some)], some, strict=True)])
            at += len(some)
        return found

    def _cut(self, texts: Sequence[str]) -> list[str]:
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

    def _ids(self, jobs: Sequence[tuple[str, str]]) -> list[tuple[Ids, Ids]]:
        """Token ids of prompts (with what the tokenizer puts first) and windows (as they stand behind a prompt)."""
        prompts = list(dict.fromkeys(p for p, _ in jobs))
        windows = list(dict.fromkeys(w for _, w in jobs))
        long = 4 * MOST  # nothing is cut here: descriptions have been
        begun = dict(zip(prompts, encode_texts(self.tokenizer, prompts, long).ids, strict=True))
        placed = encode_texts(self.tokenizer, [f"{WITHOUT} {w}" for w in windows], long)
        behind = {
            w: [i for i, (_, end) in zip(ids, spans, strict=True) if end > len(WITHOUT)][:MOST]
            for w, ids, spans in zip(windows, placed.ids, placed.spans, strict=True)
        }
        empty = next((w for w in windows if not w.strip() or not behind[w]), None)
        if empty is not None:
            raise Refusal(f"window {empty!r}", "it has no token to be weighed", "leave it out")
        return [(begun[p], behind[w]) for p, w in jobs]

    def _batch(self, ids: Sequence[tuple[Ids, Ids]]) -> list[Floats]:
        """Log-probabilities of the second ids after the first, nats, and after those before them."""
        device = self.model.device
        rows, mask = padded([a + b for a, b in ids], left=False)
        hidden = hidden_rows(self.model, rows.to(device), mask.to(device))
        where = [(row, len(a) + k - 1, b[k]) for row, (a, b) in enumerate(ids) for k in range(len(b))]
        row, position, token = (torch.tensor(part, device=device) for part in zip(*where, strict=True))
        parts = []
        for start in range(0, len(row), _POSITIONS):
            part = slice(start, start + _POSITIONS)
            logits = self._logits(hidden[row[part], position[part]])
            parts.append(logits.gather(1, token[part, None])[:, 0] - torch.logsumexp(logits, dim=1))
        flat = torch.cat(parts).cpu().numpy()
        if not np.isfinite(flat).all():
            raise Refusal("windows", "their log-probabilities are not finite", "use bfloat16 or float32")
        return np.split(flat, np.cumsum([len(b) for _, b in ids])[:-1])


def most_surprised(rises: NDArray[Any], most: int = 3) -> float:
    """Mean of the ``most`` largest rises of a window's tokens: a feature fires at one place, not all over a window."""
    return float(np.sort(rises)[-most:].mean()) if len(rises) else 0.0


def padded(ids: Sequence[Ids], *, left: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids (b, T) of texts, and a mask that is 1 at them."""
    width = max(map(len, ids))
    rows, mask = torch.zeros((len(ids), width), dtype=torch.long), torch.zeros((len(ids), width), dtype=torch.long)
    for row, own in enumerate(ids):
        place = slice(width - len(own), width) if left else slice(len(own))
        rows[row, place], mask[row, place] = torch.tensor(own), 1
    return rows, mask


def generation_table(
    passages: Sequence[Sequence[str]],
    reader: Reader,
    encoder: Any,
    columns: Sequence[int],
    *,
    batch_size: int = 32,
) -> Floats:
    """(n, N): how much latent ``columns[j]`` fires on the passages of description i: the mean of ``passage_peaks``."""
    found = passage_peaks(passages, reader, encoder, columns, batch_size=batch_size)
    return np.stack([one.mean(axis=0) for one in found]) if found else np.zeros((0, len(columns)), np.float32)


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


def detection_auroc(
    rises: Sequence[Sequence[float] | NDArray[Any]], firing: Sequence[Sequence[bool]]
) -> NDArray[np.float64]:
    """(n,): how often a description's rise is larger at a window in which its latent fires than at one in which not.

    Args:
        rises: of each description, one number a window, such as the mean of what ``Judge.surprise`` gives.
        firing: of each description, whether the latent fires in each of the windows.

    Returns:
        Areas under the ROC curve; NaN where there are fewer than three windows of either kind.

    Raises:
        Refusal: a description with other numbers of rises and of windows.
    """
    if len(rises) != len(firing) or any(len(a) != len(b) for a, b in zip(rises, firing, strict=True)):
        raise Refusal("detection", "rises and windows do not go together", "pass one number and one answer a window")
    found = np.full(len(rises), np.nan)
    for k, (values, fires) in enumerate(zip(rises, firing, strict=True)):
        where = np.asarray(fires, dtype=bool)
        if min(int(where.sum()), int((~where).sum())) >= FEWEST:
            found[k] = auroc(np.asarray(values)[where], np.asarray(values)[~where])
    return found
