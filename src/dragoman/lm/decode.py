"""Run a verbalizer checkpoint in this process: vectors in, Explanations out.

In: a checkpoint with its sidecar (full, or a PEFT adapter on a base model), vectors (n, d_model). Out: one Explanation
per row. Contract: embedding replacement (kitft), that is one prompt embedding is overwritten by the vector at a
fixed norm. Refuses checkpoints without weights or sidecar, bases of another width, float16 where the norm would
overflow, vectors of another width and vectors without a direction.

All prompts of a checkpoint are equal but for one row, so batches need no padding, and keys and values of what stands
before the slot are computed once and shared. Rows leave the batch when they close the tag or end the text.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import DynamicCache

from dragoman.core import Explanation, Floats, Refusal, Site
from dragoman.lm.load import check_site, load_model, torch_dtype
from dragoman.lm.resolve import folder_of
from dragoman.store import digest, file_sha256
from dragoman.verbalize.prompt import CLOSE, build_prompt, parse
from dragoman.verbalize.protocol import checked_vectors
from dragoman.verbalize.sidecar import NAME, Sidecar, read_sidecar

ADAPTER = "adapter_config.json"
FLOAT16_LIMIT = 60_000.0  # the largest float16 is 65,504, and the row is only the start of the stream
TURN_ENDS = ("<end_of_turn>", "<|im_end|>", "<|eot_id|>")
# The tag in any tokenisation, and what may follow it inside the token that ends it.
_TAIL = len(CLOSE) + 2

Choose = Callable[[torch.Tensor, list[int], int], torch.Tensor]


class LocalVerbalizer:
    """A verbalizer run by transformers in this process.

    ``site``: the stream it reads. ``prompt``: its checked prompt. ``sidecar``: how it wants its vector.
    """

    def __init__(
        self, ref: str | Path, *, base: str | None = None, dtype: str = "float32", device: str = "cpu"
    ) -> None:
        """Load and check a checkpoint.

        Args:
            ref: packaged name, folder or hub id of the checkpoint.
            base: model an adapter sits on, when the sidecar names another one or none.
            dtype: float32, bfloat16 or float16.
            device: where to run, in torch's words.

        Raises:
            Refusal: the checkpoint, its sidecar, its tokenizer and its base do not fit each other.
        """
        folder = folder_of(ref)
        kind = torch_dtype(dtype)
        sidecar = read_sidecar(folder, name=Path(ref).name)
        if kind is torch.float16 and sidecar.injection_scale > FLOAT16_LIMIT:
            raise Refusal(
                f"verbalizer {ref} in float16",
                f"its vectors are injected at norm {sidecar.injection_scale:g}, and float16 ends at 65504",
                "use bfloat16 or float32",
            )
        self._ref, self._folder, self._dtype, self._device = str(ref), folder, dtype, device
        self._base = _base_of(folder, sidecar, base, self._ref)
        self.sidecar = sidecar
        self._site = Site(sidecar.base or self._base, sidecar.block)
        net, tokenizer = self._opened()
        self._net: Any = net
        self._tokenizer: Any = tokenizer
        self.prompt = build_prompt(sidecar, tokenizer)
        with torch.inference_mode():
            # The model's own module: on Gemma it multiplies by sqrt(d), once.
            ids = torch.tensor(self.prompt.ids, device=device)
            self._rows: torch.Tensor = self._net.get_input_embeddings()(ids)
        _flatten_head(net)
        self._stops = _stops(net, tokenizer)
        # Only a token with a ">" in it can end the tag; the rest is never decoded to look.
        self._closers = {i for word, i in tokenizer.get_vocab().items() if ">" in word}

    @property
    def site(self) -> Site:
        """The residual stream it reads: base model and block."""
        return self._site

    @property
    def name(self) -> str:
        """The reference it was loaded by."""
        return self._ref

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that decides its words: checkpoint, sha256 of files, contract, dtype, norm, base, prompt."""
        return self._identity

    @cached_property
    def _identity(self) -> dict[str, Any]:
        """Made once: it reads every byte of the weights."""
        known = {
            "contract": "kitft",
            "checkpoint": self._ref,
            "site": str(self._site),
            "sidecar": file_sha256(self._folder / NAME),
            "weights": _weights(self._folder),
            "base": self._base,
            "prompt": digest(self.prompt.text, np.array(self.prompt.ids, np.int64)),
            "injection_scale": self.sidecar.injection_scale,
            "dtype": self._dtype,
        }
        return {**known, "base_weights": _weights(folder_of(self._base))} if _is_adapter(self._folder) else known

    @torch.inference_mode()
    def prompt_embeddings(self, vectors: NDArray[Any]) -> torch.Tensor:
        """Embeddings (n, prompt length, d_model) of the prompt with each of ``vectors`` (n, d_model) in the slot.

        The vector is brought to L2 norm ``injection_scale`` in float32 (norms below 1e-12 are refused), then cast to
        the model's dtype. Magnitude is lost, sign is not.
        """
        what = f"verbalizer {self._ref}"
        rows = torch.tensor(checked_vectors(vectors, self.sidecar.d_model, what))
        norms = torch.linalg.vector_norm(rows, dim=-1, keepdim=True).clamp_min(1e-12)
        if not torch.isfinite(norms).all():
            raise Refusal(
                f"vectors for {what}", "their norm is beyond float32", "scale them down; only direction counts"
            )
        scaled = rows / (norms / self.sidecar.injection_scale)
        out = self._rows.expand(len(rows), -1, -1).clone()
        out[:, self.prompt.slot] = scaled.to(out.device, out.dtype)
        return out

    @torch.inference_mode()
    def verbalize(
        self, vectors: NDArray[Any], *, temperature: float = 0.0, seed: int = 0, max_new_tokens: int = 200
    ) -> list[Explanation]:
        """One explanation per row of ``vectors`` (n, d_model), decoded together.

        Args:
            vectors: rows at ``site``; only direction counts, sign included.
            temperature: 0 takes the likeliest token; above 0 samples from the whole distribution.
            seed: with the vector itself it decides a row's sample, whatever else is in the batch. Equal vectors get
                equal samples; draw several by changing the seed.
            max_new_tokens: rows that are not done by then are flagged "no closing tag".

        Returns:
            Explanations in order. ``raw`` leaves out the end-of-text token, ``tokens`` counts it.

        Raises:
            Refusal: wrong width, no direction, or logits that are not numbers.
        """
        if max_new_tokens < 1:
            raise Refusal(f"max_new_tokens {max_new_tokens}", "nothing could be said", "ask for at least 1")
        if not 0 <= temperature < float("inf"):
            raise Refusal(f"temperature {temperature}", "it must be 0 or more", "use 0 for greedy decoding")
        rows = checked_vectors(vectors, self.sidecar.d_model, f"verbalizer {self._ref}")
        if not len(rows):
            return []
        choose = _Sampler(rows, temperature, seed, max_new_tokens) if temperature > 0 else _likeliest
        return [self._explanation(ids) for ids in self._decode(self.prompt_embeddings(rows), choose, max_new_tokens)]

    def _decode(self, embeddings: torch.Tensor, choose: Choose, limit: int) -> list[list[int]]:
        """Token ids said by each row of prompt embeddings (n, T, d), end-of-text token included."""
        slot, count = self.prompt.slot, len(embeddings)
        cache = DynamicCache(config=self._net.config)
        self._logits(cache, inputs_embeds=embeddings[:1, :slot])
        cache.batch_repeat_interleave(count)
        logits = self._logits(cache, inputs_embeds=embeddings[:, slot:])
        said: list[list[int]] = [[] for _ in range(count)]
        alive = list(range(count))
        for step in range(limit):
            chosen = choose(logits, alive, step)
            for row, token in zip(alive, chosen.tolist(), strict=True):
                said[row].append(token)
            going = [k for k, row in enumerate(alive) if not self._done(said[row])]
            if not going or step + 1 == limit:
                break
            if len(going) < len(alive):
                kept = torch.tensor(going, device=chosen.device)
                cache.batch_select_indices(kept)
                chosen, alive = chosen[kept], [alive[k] for k in going]
            logits = self._logits(cache, input_ids=chosen[:, None])
        return said

    def _logits(self, cache: DynamicCache, **inputs: torch.Tensor) -> torch.Tensor:
        """Logits (rows, vocabulary) after the last of the inputs; the cache grows by them."""
        # Positions and masks follow from the cache's length: all rows are equally long, so none is padded.
        return self._net(**inputs, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1]

    def _done(self, ids: list[int]) -> bool:
        if ids[-1] in self._stops:
            return True
        return ids[-1] in self._closers and CLOSE in self._text(ids[-_TAIL:])

    def _text(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def _explanation(self, ids: list[int]) -> Explanation:
        kept = ids[:-1] if ids[-1] in self._stops else ids
        return parse(self._text(kept), tokens=len(ids), opened=self.prompt.opened)

    def _opened(self) -> tuple[Any, Any]:
        """Model and tokenizer, adapter merged in, chat template of the checkpoint's own folder in place."""
        adapted = _is_adapter(self._folder)
        net, tokenizer = load_model(self._base if adapted else self._ref, dtype=self._dtype, device=self._device)
        width = check_site(self._site, net)
        if width != self.sidecar.d_model:
            raise Refusal(
                f"verbalizer {self._ref}",
                f"its sidecar says width {self.sidecar.d_model}, "
                f"{'its base ' + self._base if adapted else 'the model'} has width {width}",
                "use the base model the checkpoint was trained on",
            )
        if not adapted:
            return net, tokenizer
        own_template = self._folder / "chat_template.jinja"
        if own_template.is_file():
            tokenizer.chat_template = own_template.read_text(encoding="utf-8")
        return _merged(net, self._folder, self._ref, self._device), tokenizer


class _Sampler:
    """Draws by inverting the cumulative distribution at one uniform number per row and step.

    Each row's numbers come from its own generator, seeded by ``seed`` and the row's bytes, so neither its neighbours
    nor the rows that left matter; and they are drawn on the CPU, so the device does not either.
    """

    def __init__(self, rows: Floats, temperature: float, seed: int, steps: int) -> None:
        self._temperature = temperature
        draws = []
        for row in rows:
            generator = torch.Generator().manual_seed(int(digest(str(seed), row)[:15], 16))
            draws.append(torch.rand(steps, generator=generator, dtype=torch.float64))
        self._uniform = torch.stack(draws)

    def __call__(self, logits: torch.Tensor, alive: list[int], step: int) -> torch.Tensor:
        """Ids (rows,) drawn from logits (rows, vocabulary)."""
        _refuse_undefined(logits.amax(dim=-1))
        cumulative = torch.softmax(logits.float() / self._temperature, dim=-1).cumsum(dim=-1)
        uniform = self._uniform[alive, step].to(logits.device)
        # The first token whose cumulative weight reaches a level above zero has weight itself.
        level = (uniform * cumulative[:, -1].double()).float().clamp_min(1e-30)
        return torch.searchsorted(cumulative, level[:, None])[:, 0]


def _likeliest(logits: torch.Tensor, _alive: list[int], _step: int) -> torch.Tensor:
    top, ids = logits.max(dim=-1)
    _refuse_undefined(top)
    return ids


def _refuse_undefined(top: torch.Tensor) -> None:
    if not torch.isfinite(top).all():
        raise Refusal("decoding", "the model's logits are not finite numbers", "use bfloat16 or float32")


def _flatten_head(net: Any) -> None:
    """Let the output layer multiply rows (n, d) instead of (n, 1, d).

    The last position cut out of longer rows is not contiguous; torch then copies the whole vocabulary's weights once
    per row (15 GB for 45 rows of Gemma's) before it multiplies.
    """
    head = net.get_output_embeddings()
    forward = head.forward
    head.forward = lambda x: forward(x.reshape(-1, x.shape[-1])).unflatten(0, x.shape[:-1])


def _is_adapter(folder: Path) -> bool:
    return (folder / ADAPTER).is_file()


def _weights(folder: Path) -> dict[str, str]:
    """sha256 of each weight file of a folder."""
    return {path.name: file_sha256(path) for path in sorted(folder.glob("*.safetensors"))}


def _base_of(folder: Path, sidecar: Sidecar, base: str | None, ref: str) -> str:
    """The base model's reference; refuse folders without weights and checkpoints that name no base."""
    adapted = _is_adapter(folder)
    if adapted and not (folder / "adapter_model.safetensors").is_file():
        raise Refusal(
            f"verbalizer {ref}", "the folder holds no adapter_model.safetensors", "download the adapter's weights"
        )
    if not adapted and not any(folder.glob("*.safetensors")):
        raise Refusal(
            f"verbalizer {ref}", "the folder holds no *.safetensors weights", "download the checkpoint's weights"
        )
    stated = base or sidecar.base
    if not stated and adapted:
        stated = json.loads((folder / ADAPTER).read_text(encoding="utf-8")).get("base_model_name_or_path")
    if not stated:
        raise Refusal(
            f"verbalizer {ref}",
            "neither sidecar nor adapter names the model it was made from",
            "add base_checkpoint to the sidecar",
        )
    return str(stated)


def _merged(net: Any, folder: Path, ref: str, device: str) -> Any:
    """The base model with a LoRA adapter added to its weights; refuse one that does not fit, whole or in part.

    Merged rather than carried along, in every dtype: one product per layer instead of three. The update is computed
    in float32 and the sum rounded once.
    """
    from peft import PeftConfig, PeftModel

    config = PeftConfig.from_pretrained(str(folder))
    if str(getattr(config.peft_type, "value", config.peft_type)) != "LORA":
        raise Refusal(
            f"verbalizer {ref}", f"its adapter is of type {config.peft_type}, not LoRA", "merge it into its base"
        )
    config.inference_mode = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # peft warns of tensors it could not place; they are refused below
            adapted: Any = PeftModel(net, config)
            placed = adapted.load_adapter(str(folder), "default", torch_device=device)
        missing, extra = list(placed.missing_keys), list(placed.unexpected_keys)
        if missing or extra:
            raise Refusal(
                f"verbalizer {ref}",
                f"{len(missing)} of its adapter's tensors are missing and {len(extra)} have no place in the base",
                "use the base model the adapter was trained on",
            )
        merged = adapted.merge_and_unload(safe_merge=True)
    except (ValueError, RuntimeError, KeyError) as err:
        raise Refusal(
            f"verbalizer {ref}",
            f"its adapter does not fit the base model ({' '.join(str(err).split())[:160]})",
            "use the base model the adapter was trained on",
        ) from err
    return merged.eval().requires_grad_(False)


def _stops(net: Any, tokenizer: Any) -> set[int]:
    """Every id that ends a text or a turn, by generation settings, configuration, tokenizer and the families' words."""
    stated = [getattr(net.generation_config, "eos_token_id", None), getattr(net.config, "eos_token_id", None)]
    stated.append(getattr(tokenizer, "eos_token_id", None))
    # Base models name only the end of a document, yet a verbalizer made from one ends its turn.
    words = tokenizer.get_vocab()
    stated.append([words[word] for word in TURN_ENDS if word in words])
    return {int(i) for ids in stated if ids is not None for i in (ids if isinstance(ids, list | tuple) else [ids])}
