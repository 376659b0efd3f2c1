"""Which token a row says next, how sure the model was of it, and where the row ends.

In: logits (rows, vocabulary) of rows that each say one token a step. Out: token ids, their natural-log probabilities at
temperature 1, and how many of a row's tokens belong to it. Refuses logits that are no numbers, and end-of-text tokens
that are none. The loop and the captured engine choose by these rules, so they say the same words up to rounding; vLLM
ends rows by them too, and draws by its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from dragoman.core import Floats, Refusal
from dragoman.store import digest
from dragoman.store.boundary import AGAIN
from dragoman.store.spans import shown
from dragoman.verbalizers.protocol import CLOSE

# The tag in any tokenisation, and what may follow it inside the token that ends it.
TAIL = len(CLOSE) + 2
_TURN_ENDS = ("<end_of_turn>", "<|im_end|>", "<|eot_id|>")

Choose = Callable[[torch.Tensor, list[int], int], torch.Tensor]


def row_seeds(rows: Floats, seed: int) -> list[int]:
    """A number of 60 bits a row, by ``seed`` and the row's bytes: neither its neighbours nor rows that left matter."""
    return [int(digest(str(seed), row)[:15], 16) for row in rows]


def uniform_numbers(rows: Floats, seed: int, steps: int) -> torch.Tensor:
    """Numbers (n, steps) in [0, 1), float64 on the CPU: a row's own, whatever stands beside it.

    They are drawn on the CPU, so the device does not matter either.
    """
    draws = []
    for own in row_seeds(rows, seed):
        generator = torch.Generator().manual_seed(own)
        draws.append(torch.rand(steps, generator=generator, dtype=torch.float64))
    return torch.stack(draws)


def drawn(logits: torch.Tensor, uniform: torch.Tensor, temperature: float) -> torch.Tensor:
    """Ids (rows,) by inverting the cumulative distribution of logits (rows, vocabulary) at one number (rows,) each."""
    cumulative = torch.softmax(logits.float() / temperature, dim=-1).cumsum(dim=-1)
    # The first token whose cumulative weight reaches a level above zero has weight itself.
    level = (uniform.to(logits.device) * cumulative[:, -1].double()).float().clamp_min(1e-30)
    return torch.searchsorted(cumulative, level[:, None])[:, 0]


class Sampler:
    """Draws each row's tokens at its own ``uniform_numbers``."""

    def __init__(self, rows: Floats, temperature: float, seed: int, steps: int) -> None:
        """``rows``: the vectors (n, d) that are said; ``steps``: most tokens of one."""
        self._temperature = temperature
        self._uniform = uniform_numbers(rows, seed, steps)

    def __call__(self, logits: torch.Tensor, alive: list[int], step: int) -> torch.Tensor:
        """Ids (rows,) drawn from logits (rows, vocabulary)."""
        refuse_undefined(logits.amax(dim=-1))
        return drawn(logits, self._uniform[alive, step], self._temperature)


def likeliest(logits: torch.Tensor, _alive: list[int], _step: int) -> torch.Tensor:
    """Ids (rows,) of the largest logits; of equal ones the lowest."""
    top, ids = logits.max(dim=-1)
    refuse_undefined(top)
    return ids


def log_probability(logits: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """Natural-log probability (rows,), at temperature 1, of the chosen ids; float32, half precision is too coarse."""
    # A row of a large vocabulary fits a CPU's cache, all rows do not: one by one they take a quarter of the time.
    parts = logits.split(1 if logits.device.type == "cpu" else len(logits))
    whole = torch.cat([part.float().logsumexp(dim=-1) for part in parts])
    return logits.gather(-1, chosen[:, None])[:, 0].float() - whole


def refuse_undefined(top: torch.Tensor) -> None:
    """Refuse rows whose largest logit is no finite number."""
    if not torch.isfinite(top).all():
        raise undefined()


def undefined() -> Refusal:
    """What is said of logits that are no numbers."""
    return Refusal("decoding", "the model's logits are not finite numbers", "use bfloat16 or float32")


class Ending:
    """Where a row ends: at a token that ends a text or a turn, or with the closing tag, whatever its tokens are.

    ``stops``: ids of the former. ``closing``: the tag, and what further texts end an answer by some contracts.
    ``closers``: ids of tokens with a ">" in them, or with the last letter of those texts: only these can end a row so,
    and the rest is never decoded to look.
    """

    def __init__(self, net: Any, tokenizer: Any, what: str, *, closing: Sequence[str] = ()) -> None:
        """Read both off a model and its tokenizer; ``what``: how refusals call the checkpoint.

        ``closing``: texts that end an answer, beside the tag.
        """
        self._tokenizer = tokenizer
        self.closing = (CLOSE, *closing)
        vocabulary = tokenizer.get_vocab()  # a large one takes a quarter of a second
        self.stops = _stops(net, tokenizer, vocabulary, what)
        marks = {form for text in self.closing for form in _forms(text[-1])}
        self.closers = {i for mark in marks for word, i in vocabulary.items() if mark in word}

    def text(self, ids: list[int]) -> str:
        """What ids say, special tokens too."""
        return str(self._tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def over(self, ids: list[int]) -> bool:
        """Whether the last of ``ids`` ends the row."""
        if ids[-1] in self.stops:
            return True
        if ids[-1] not in self.closers:
            return False
        text = self.text(ids[-TAIL:])
        return any(closing in text for closing in self.closing)

    def within(self, ids: list[int]) -> int | None:
        """How many of ``ids`` a row says before it is over, the token that ends it counted; None if it goes on."""
        for at, token in enumerate(ids):
            if (token in self.stops or token in self.closers) and self.over(ids[max(0, at + 1 - TAIL) : at + 1]):
                return at + 1
        return None


def _forms(character: str) -> list[str]:
    """How vocabularies write a character: as it is, as a byte, and byte-level ones a control character shifted up."""
    shifted = [chr(ord(character) + 256)] if ord(character) < 33 else []
    return [character, f"<0x{ord(character):02X}>", *shifted]


def _stops(net: Any, tokenizer: Any, vocabulary: Mapping[str, int], what: str) -> set[int]:
    """Every id that ends a text or a turn, by generation settings, configuration, tokenizer and the families' words."""
    config = getattr(net.config, "text_config", None) or net.config
    stated = {
        "generation_config.json": getattr(net.generation_config, "eos_token_id", None),
        "config.json": getattr(net.config, "eos_token_id", None),
        "text_config": getattr(config, "eos_token_id", None) if config is not net.config else None,
        "tokenizer": getattr(tokenizer, "eos_token_id", None),
    }
    found: set[int] = set()
    for where, said in stated.items():
        for one in said if isinstance(said, list | tuple) else [] if said is None else [said]:
            if isinstance(one, bool) or not isinstance(one, int) or one < 0:
                raise Refusal(what, f"its eos_token_id in {where} is {shown(repr(said))}, not a token's number", AGAIN)
            found.add(one)
    # Base models name only the end of a document, yet a verbalizer made from one ends its turn.
    return found | {vocabulary[word] for word in _TURN_ENDS if word in vocabulary}
