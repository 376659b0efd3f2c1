"""Run a reconstructor in this process: texts in, vectors out.

In: a checkpoint in a named layout, explanations. Out: vectors (n, d_model) float32 at ``.site``. The text goes into
the template as a raw string, blocks 0 to K read it, and the value head is applied to block K's own output at the last
real token. Refuses texts with nothing to read, a missing or doubled BOS, a template whose encoding does not end as it
did in training, tokenizers of another vocabulary, and outputs that are not finite.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as f

from dragoman.core import Floats, Refusal, Site
from dragoman.models.adapters import ADAPTER_WEIGHTS, refuse_quantised
from dragoman.models.encode import encode_filled
from dragoman.models.folder import digests
from dragoman.models.harvest import reading
from dragoman.models.load import base_of, is_adapter, load_tokenizer, torch_dtype
from dragoman.models.merge import Agreement
from dragoman.models.reconstruct.contract import EASY_META, SLOT, Contract, read_contract, read_head
from dragoman.models.reconstruct.stack import final_norm, merge_lora, open_stack, truncate
from dragoman.models.resolve import called, folder_of, layout_of
from dragoman.store import digest, file_sha256, read_arrays
from dragoman.verbalizers.prompt import encoded
from dragoman.verbalizers.protocol import parse
from dragoman.verbalizers.sidecar import NAME, sidecar_file

# Families that open every turn with what their tokenizer calls BOS, and whose models never saw it before plain text.
TURN_STARTS = ("<|im_start|>",)


class Reconstructor:
    """A reconstructor run by transformers in this process.

    ``name``: the reference it was opened by. ``site``: the stream it predicts. ``base``: the model it was made from, by
    reference. ``contract``: how it is read. ``merged``: how its adapter, now in the weights, agrees with PEFT unmerged.
    """

    @classmethod
    def open(
        cls,
        ref: str | Path,
        *,
        layout: str | None = None,
        base: str | None = None,
        dtype: str = "float32",
        device: str = "cpu",
    ) -> Reconstructor:
        """Load a checkpoint in the layout that is named, or that dragoman's registry knows.

        Refuses layouts that nobody knows or that contradict the registry, and whatever ``__init__`` refuses.
        """
        return cls(ref, layout=layout_of(str(ref), layout), base=base, dtype=dtype, device=device)

    def __init__(
        self, ref: str | Path, *, layout: str, base: str | None = None, dtype: str = "float32", device: str = "cpu"
    ) -> None:
        """Load and check a checkpoint, by its own files alone.

        Args:
            ref: packaged name, folder or hub id of the checkpoint.
            layout: "kitft" or "easynla"; the files do not tell, so the caller must.
            base: model an adapter sits on, when the sidecar names another one or none.
            dtype: float32, bfloat16 or float16 of the blocks; the head runs in float32.
            device: where to run, in torch's words.

        Raises:
            Refusal: checkpoint, layout, sidecar, tokenizer and base do not fit each other.
        """
        self.name, self._dtype, self._device = str(ref), dtype, device
        self._what = f"reconstructor {ref}"
        kind, self._folder = torch_dtype(dtype), folder_of(ref)
        self.contract: Contract = read_contract(self._folder, layout, name=called(self.name))
        stated = base or self.contract.base
        if is_adapter(self._folder):
            stated = base_of(self._folder, self.contract.base, base, self._what)
        if not stated:
            why = "no file names the model it was made from"
            raise Refusal(self._what, why, f"add base_checkpoint to its {NAME}")
        self.base = str(stated)
        self.site: Site = Site(self.contract.base or self.base, self.contract.block)
        weight, bias, rest = read_head(self._folder / self.contract.head_file, self.contract.d_model)
        self._weight = torch.tensor(weight, device=device)
        self._bias = None if bias is None else torch.tensor(bias, device=device)
        self.merged: list[Agreement] = []
        self._stack: Any = self._opened(kind, rest)
        self._norm = final_norm(self._stack) if self.contract.final_norm else None
        own = (self._folder / "tokenizer.json").is_file()
        self._tokenizer: Any = load_tokenizer(self._folder if own or self.contract.form == "full" else self.base)
        self._suffix = self._ending()
        self.token_ids(["The people of the city vote."])  # a tokenizer that does not fit is refused here, not later

    def __repr__(self) -> str:
        """Its name, what it predicts and how it is laid out."""
        width, layout = self.contract.d_model, self.contract.layout
        return f"Reconstructor({self.name!r} at {self.site}, width {width}, layout {layout})"

    @property
    def identity(self) -> dict[str, object]:
        """Everything that decides its vectors: checkpoint, sha256 of files, layout, dtype, base, template, BOS rule.

        Made once: it reads every byte of the weights.
        """
        return self._identity

    @cached_property
    def _identity(self) -> dict[str, object]:
        contract, folder = self.contract, self._folder
        known: dict[str, object] = {
            "contract": f"{contract.layout} reconstructor",
            "form": contract.form,
            "checkpoint": self.name,
            "site": str(self.site),
            "sidecar": file_sha256(sidecar_file(folder)),
            **digests(folder),
            "base": self.base,
            "template": digest(contract.template),
            "special_tokens": contract.special,
            "final_norm": contract.final_norm,
            "head_bias": self._bias is not None,
            "head_input_norm": contract.scale,
            "mse_scale": contract.mse_scale,
            "dtype": self._dtype,
        }
        if (folder / EASY_META).is_file():
            known |= {"ar_meta": file_sha256(folder / EASY_META), "trained_on_quant": contract.quant}
        return known if contract.form == "full" else known | digests(folder_of(self.base), "base_")

    def token_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of the template around each text, its tags taken off first.

        Refuses empty texts, and encodings that are not those of training.
        """
        if isinstance(texts, str):
            raise Refusal(f"texts for {self._what}", "they are one string", "pass a list of texts")
        ids = []
        for number, text in enumerate(texts):
            body = parse(text, opened=True).text
            if not body:
                raise Refusal(f"text {number} for {self._what}", "it is empty", "leave out empty explanations")
            ids.append(encode_filled(self._tokenizer, self._filled, body, special=self.contract.special))
        for row in ids:
            self._refuse_encoding(row)
        return ids

    @torch.inference_mode()
    def reconstruct(self, texts: Sequence[str], *, batch_size: int = 16) -> Floats:
        """Vectors (n, d_model) float32 that the texts describe, at ``site``; only their direction was trained.

        Texts of similar length share a batch and are padded on the right, where no real token can see it.

        Args:
            texts: explanations, with or without their tags.
            batch_size: how many at once; it changes speed and the last bits only.

        Raises:
            Refusal: a text that cannot be read, or outputs that are NaN or infinite.
        """
        ids = self.token_ids(texts)
        out = np.zeros((len(ids), self.contract.d_model), np.float32)
        order = sorted(range(len(ids)), key=lambda k: len(ids[k]))
        with reading(self._stack, self.contract.block) as caught:
            for start in range(0, len(order), max(1, batch_size)):
                rows = order[start : start + max(1, batch_size)]
                lengths = torch.tensor([len(ids[k]) for k in rows])
                tokens = torch.nn.utils.rnn.pad_sequence([torch.tensor(ids[k]) for k in rows], batch_first=True)
                mask = torch.arange(tokens.shape[1]) < lengths[:, None]
                self._stack(
                    input_ids=tokens.to(self._device), attention_mask=mask.long().to(self._device), use_cache=False
                )
                hidden = caught[0]
                at = torch.arange(len(rows), device=hidden.device), (lengths - 1).to(hidden.device)
                out[rows] = self._predicted(hidden[at]).cpu().numpy()
        if not np.isfinite(out).all():
            raise Refusal(self._what, f"its outputs in {self._dtype} are not finite", "use bfloat16 or float32")
        return out

    def _predicted(self, last: torch.Tensor) -> torch.Tensor:
        """The value head on block outputs (n, d), float32."""
        if self._norm is not None:
            last = self._norm(last)
        last = last.float()
        if self.contract.scale is not None:
            last = f.normalize(last, dim=-1, eps=1e-12) * self.contract.scale
        return f.linear(last, self._weight, self._bias)

    def _filled(self, text: str) -> str:
        return self.contract.template.format(**{SLOT: text})

    def _ending(self) -> list[int]:
        """Ids every encoded text must end with: as stored, else the template's end without its first token.

        The first one merges with the explanation's last character.
        """
        if self.contract.suffix_ids is not None:
            return list(self.contract.suffix_ids)
        end = self.contract.template.split(f"{{{SLOT}}}", 1)[-1].format()
        return list(encoded(end, self._tokenizer))[1:]

    def _refuse_encoding(self, ids: list[int]) -> None:
        """Refuse ids that do not begin and end as they did in training."""
        bos, word = self._tokenizer.bos_token_id, self._tokenizer.bos_token
        rows = len(self._stack.get_input_embeddings().weight)
        limit = getattr(self._stack.config, "max_position_embeddings", None)
        if self.contract.special and bos is not None and word not in TURN_STARTS and ids[:1] != [bos]:
            why = f"its tokenizer does not write its beginning-of-text token ({word}), and it was trained with it"
            raise Refusal(self._what, why, "use the tokenizer files that were published with it")
        if bos is not None and ids[:2] == [bos, bos]:
            why = f"its encoding begins with two of {word}"
            raise Refusal(self._what, why, "write it once, in tokenizer or template")
        if self._suffix and ids[-len(self._suffix) :] != self._suffix:
            why = f"its encoded template ends with ids {ids[-len(self._suffix) :]}, in training with {self._suffix}"
            raise Refusal(self._what, why, "use template and tokenizer of the same checkpoint")
        if max(ids) >= rows:
            why = f"its tokenizer gives id {max(ids)}, its model knows {rows}"
            raise Refusal(self._what, why, "use its own tokenizer")
        if limit is not None and len(ids) > limit:
            what = f"a text of {len(ids)} tokens for {self._what}"
            raise Refusal(what, f"it reads {limit} at most", "shorten the text")

    def _opened(self, kind: torch.dtype, rest: Mapping[str, Any]) -> Any:
        """Blocks 0 to K with the adapter merged in."""
        contract, full = self.contract, self.contract.form == "full"
        folder = self._folder if full else folder_of(self.base)
        if not full:
            refuse_quantised(folder, self._what)
        stack = open_stack(folder, kind, self._device, self._what, headless=full)
        width = int(stack.get_input_embeddings().weight.shape[1])
        if width != contract.d_model:
            raise Refusal(
                self._what,
                f"it was trained at width {contract.d_model}, "
                f"{'its model' if full else 'its base ' + self.base} has width {width}",
                "use the base it was trained on",
            )
        truncate(stack, contract.block, self._what)
        if not full:
            tensors = rest or read_arrays(self._folder / ADAPTER_WEIGHTS)[0]
            self.merged = [merge_lora(stack, contract.lora, tensors, self._what)]
        return stack
