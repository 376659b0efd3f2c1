"""Which token ids end an answer.

In: a model and its tokenizer. Out: ids. Refuses settings whose end of text is no token id.
"""

from __future__ import annotations

from typing import Any

from dragoman.core import Refusal
from dragoman.store.boundary import AGAIN
from dragoman.store.spans import shown

TURN_ENDS = ("<end_of_turn>", "<|im_end|>", "<|eot_id|>")


def stops(net: Any, tokenizer: Any, what: str) -> set[int]:
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
    words = tokenizer.get_vocab()
    return found | {words[word] for word in TURN_ENDS if word in words}
