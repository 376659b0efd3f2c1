"""A language model that is shown excerpts with marked words, and says in a few words what the marked ones share.

In: an instruct model (packaged name, folder or hub id), excerpts. Out: labels, by greedy decoding: the
same model, excerpts, batch and device, the same words. Refuses a model without a chat template, or whose template does
not show a message as it is, prompts beyond its context, and what opening a model refuses.

What excerpts hold of the tokenizer's markup is characters, never a turn or an end.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig

from dragoman.core import Refusal, public_address
from dragoman.measures.excerpts import CLOSE, OPEN
from dragoman.models.choose import Ending
from dragoman.models.encode import encode_as_characters
from dragoman.models.language import padded
from dragoman.models.load import fingerprint_of_model, load_model, load_tokenizer
from dragoman.records import LabelsHead
from dragoman.store import digest
from dragoman.store.labels import FORMAT
from dragoman.verbalizers.prompt import encoded, render_chat

TOKENS = 24  # of a label, at most
ASK = (
    "Here are excerpts from different texts. In each, the words that matter are marked like {}this{}.\n\n{}\n\n"
    "What do the marked words have in common? Answer with a short phrase."
)
BEGUN = "The marked words have in common:"  # how the answer begins: small models repeat the question otherwise
_SLOT = "EXCERPTS-STAND-HERE"  # where the message stands in the rendered chat
_LEAD = re.compile(r"^(?:\d{1,2}[.)]|[-*•#>]+)\s+")
_AROUND = " \t\"'“”‘’`*_.:;,\N{REPLACEMENT CHARACTER}"


class Labeller:
    """An instruct model that makes labels. ``name``: its reference."""

    def __init__(self, ref: str | Path, *, dtype: str = "float32", device: str = "cpu") -> None:
        """Open its tokenizer and render its chat; weights are opened with the first labels.

        Raises:
            Refusal: as the module says.
        """
        self.name, self._dtype, self._device = f"{ref}", dtype, device
        self.tokenizer: Any = load_tokenizer(ref)
        what = f"model {ref}"
        if not getattr(self.tokenizer, "chat_template", None):
            why = "it has no chat template, so it cannot be asked for a label"
            raise Refusal(what, why, "name an instruct model")
        turns = [{"role": "user", "content": _SLOT}]
        # Models that would think aloud first are told not to; templates of others know no such word.
        rendered = render_chat(self.tokenizer, turns, switches={"enable_thinking": False}).text
        parts = rendered.split(_SLOT)
        if len(parts) != 2:
            why = "its chat template does not show a message once, as it is"
            raise Refusal(what, why, "name another instruct model")
        self._before, self._after = ([*encoded(part, self.tokenizer)] for part in (parts[0], parts[1] + BEGUN))
        self._frame = rendered

    def head(self, windows: int) -> LabelsHead:
        """What decides its labels; it reads every byte of the model's files. ``windows``: the most it is shown."""
        return LabelsHead(
            format=FORMAT,
            holds="labels from contexts",
            model=public_address(self.name),
            files=fingerprint_of_model(self.name),
            dtype=self._dtype,
            prompt=digest(self._frame, ASK, BEGUN, OPEN, CLOSE),
            windows=windows,
            tokens=TOKENS,
        )

    @cached_property
    def _model(self) -> Any:
        model, _ = load_model(self.name, dtype=self._dtype, device=self._device)
        net: Any = model
        stops = sorted(Ending(net, self.tokenizer, f"model {self.name}").stops)
        pad = self.tokenizer.pad_token_id
        # In place of the checkpoint's own settings, whose penalties and temperatures would have a say.
        net.generation_config = GenerationConfig(
            max_new_tokens=TOKENS, do_sample=False, eos_token_id=stops or None, pad_token_id=0 if pad is None else pad
        )
        return net

    def open(self) -> None:
        """Open the weights now.

        Raises:
            Refusal: they cannot be opened.
        """
        _ = self._model

    @torch.inference_mode()
    def label(self, asked: Sequence[Sequence[str]]) -> list[str]:
        """A label of each entry's excerpts; "" where it says nothing. All are decoded together.

        Raises:
            Refusal: a prompt is longer than the model reads.
        """
        ids, mask = padded([self._prompt(excerpts) for excerpts in asked], left=True)
        most = getattr(self._model.config.get_text_config(), "max_position_embeddings", None)
        if isinstance(most, int) and ids.shape[1] + TOKENS > most:
            why = f"a prompt has {ids.shape[1]} tokens and its label may have {TOKENS}, and it reads {most}"
            raise Refusal(f"model {self.name}", why, "ask for fewer --windows, or name another model")
        said = self._model.generate(input_ids=ids.to(self._device), attention_mask=mask.to(self._device))
        written = self.tokenizer.batch_decode(said[:, ids.shape[1] :], skip_special_tokens=True)
        return [cleaned(text) for text in written]

    def _prompt(self, excerpts: Sequence[str]) -> list[int]:
        listed = "\n".join(f"{number}. {excerpt}" for number, excerpt in enumerate(excerpts, 1))
        message = ASK.format(OPEN, CLOSE, listed)
        return [*self._before, *encode_as_characters(self.tokenizer, message), *self._after]


def cleaned(text: str) -> str:
    """The first line with a word in it, without a list's mark, quotes, marks of excerpts and the last full stop."""
    for line in text.splitlines():
        plain = " ".join(line.replace(OPEN, "").replace(CLOSE, "").split())
        plain = _LEAD.sub("", plain).strip(_AROUND)
        if any(character.isalnum() for character in plain):
            return plain
    return ""
