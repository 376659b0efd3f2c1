"""Run a verbalizer checkpoint in this process: vectors in, Explanations out.

In: a checkpoint (full, or PEFT adapters on a base model), the contract it is fed by, vectors (n, d_model). Out: one
Explanation per row. What a contract is, ``contracts`` knows: here are only token ids, embeddings and hooks. Refuses
checkpoints without weights, bases of another width, float16 where a norm would overflow, vectors of another width and
vectors without a direction.

All prompts of a checkpoint are equally long, so batches need no padding, and keys and values of the positions that
rows share are computed once. Rows leave the batch when they close the tag or end the text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import DynamicCache

from dragoman.core import Explanation, Floats, Refusal, Site
from dragoman.models.adapters import ADAPTER, refuse_quantised
from dragoman.models.contracts import contract_for
from dragoman.models.contracts.base import Asked, Contract, Feed, Hook
from dragoman.models.folder import (
    TEMPLATE,
    TOKENIZER,
    check_folder,
    deciding_digests,
    read_template,
    weight_digests,
    weight_files,
)
from dragoman.models.load import (
    decoder_blocks,
    is_adapter,
    load_model,
    load_tokenizer,
    sits_on,
    stacked,
    torch_dtype,
)
from dragoman.models.merge import Agreement, merge_adapter
from dragoman.models.resolve import folder_of
from dragoman.models.stops import stops
from dragoman.store import digest, file_sha256
from dragoman.store.boundary import opening
from dragoman.verbalizers.prompt import CLOSE, Prompt, parse
from dragoman.verbalizers.protocol import check_temperature, checked_vectors
from dragoman.verbalizers.sidecar import Sidecar, sidecar_file, width_in

FLOAT16_LIMIT = 60_000.0  # the largest float16 is 65,504, and the row is only the start of the stream
# The tag in any tokenisation, and what may follow it inside the token that ends it.
_TAIL = len(CLOSE) + 2

Choose = Callable[[torch.Tensor, list[int], int], torch.Tensor]


class LocalVerbalizer:
    """A verbalizer run by transformers in this process.

    ``site``: the stream it reads. ``prompt``: its checked prompt. ``sidecar``: how it wants its vector. ``contract``:
    what feeds it. ``merged``: how each of its adapters, now in the weights, agrees with PEFT unmerged.
    """

    def __init__(
        self,
        ref: str | Path,
        *,
        contract: str | None = None,
        settings: Mapping[str, Any] | None = None,
        base: str | None = None,
        dtype: str = "float32",
        device: str = "cpu",
    ) -> None:
        """Load and check a checkpoint.

        Args:
            ref: packaged name, folder or hub id of the checkpoint.
            contract: how it wants to be fed, by name; None takes what its sidecar itself says, and guesses nothing.
            settings: what the contract leaves open and the sidecar does not say; each contract names its own.
            base: model an adapter sits on, when the sidecar names another one or none.
            dtype: float32, bfloat16 or float16.
            device: where to run, in torch's words.

        Raises:
            Refusal: the checkpoint, its sidecar, its contract, its tokenizer and its base do not fit each other.
        """
        folder, kind, self._ref = folder_of(ref), torch_dtype(dtype), str(ref)
        asked = Asked(ref=self._ref, folder=folder, settings=dict(settings or {}), width_of=_width_of)
        self.contract: Contract = contract_for(asked, contract)
        if kind is torch.float16 and self.contract.loudest > FLOAT16_LIMIT:
            raise Refusal(
                f"verbalizer {ref} in float16",
                f"its vectors are injected at norm {self.contract.loudest:g}, and float16 ends at 65504",
                "use bfloat16 or float32",
            )
        self._folder, self._dtype, self._device = folder, dtype, device
        self._base = _base_of(self.contract.weights, self.sidecar, base, self._ref)
        self._stack, self._root = stacked(self.contract.weights, self._base, f"verbalizer {ref}")
        self._site = self.contract.site(self._base)
        self.merged: list[Agreement] = []
        net, tokenizer = self._opened()
        self._net: Any = net
        self._tokenizer: Any = tokenizer
        self.prompt: Prompt = self.contract.prompt(tokenizer)
        with torch.inference_mode():
            # The model's own module: on Gemma it multiplies by sqrt(d), once.
            ids = torch.tensor(self.prompt.ids, device=device)
            self._rows: torch.Tensor = self._net.get_input_embeddings()(ids)
        _flatten_head(net)
        self._stops = stops(net, tokenizer, f"verbalizer {ref}")
        # Only a token with a ">" in it can end the tag; the rest is never decoded to look.
        self._closers = {i for word, i in tokenizer.get_vocab().items() if ">" in word}

    @property
    def sidecar(self) -> Sidecar:
        """How the checkpoint wants its vector."""
        return self.contract.sidecar

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
        """Everything that decides its words: checkpoint, sha256 of files, contract, dtype, norm, base, prompt.

        ``settings``: digest of all files beside the weights, its own and its bases': configuration, tokenizer, prompt.
        """
        return self._identity

    @cached_property
    def _identity(self) -> dict[str, Any]:
        """Made once: it reads every byte of the weights."""
        sidecar = sidecar_file(self._folder)
        known = {
            "contract": self.contract.name,
            "checkpoint": self._ref,
            "site": str(self._site),
            "sidecar": file_sha256(sidecar) if sidecar.is_file() else None,
            "weights": weight_digests(self.contract.weights),
            "files": deciding_digests(self.contract.weights),
            "base": self._base,
            "prompt": digest(self.prompt.text, np.array(self.prompt.ids, np.int64)),
            "prompt_text": self.prompt.text,
            "prompt_date": self.prompt.day,
            **self.contract.identity,
            "dtype": self._dtype,
        }
        # What lies under an adapter: adapters, highest first, and the whole model.
        for depth, folder in enumerate(self._below):
            name = "base" if not depth else "root" if folder == self._below[-1] else f"base_{depth}"
            known |= {f"{name}_weights": weight_digests(folder), f"{name}_files": deciding_digests(folder)}
        return known

    @property
    def _below(self) -> list[Path]:
        """Folders under an adapter, highest first; none under a whole checkpoint."""
        return [*reversed(self._stack[:-1]), folder_of(self._root)] if self._stack else []

    @torch.inference_mode()
    def feed(self, vectors: NDArray[Any]) -> Feed:
        """What the contract makes of ``vectors`` (n, d_model): prompt embeddings, and hooks where it has any."""
        rows = checked_vectors(vectors, self.contract.width, f"verbalizer {self._ref}")
        return self.contract.feed(self.prompt, self._rows, torch.tensor(rows))

    @torch.inference_mode()
    def prompt_embeddings(self, vectors: NDArray[Any]) -> torch.Tensor:
        """Embeddings (n, prompt length, d_model) of the prompt for each of ``vectors`` (n, d_model).

        Where the contract puts the vector into the prompt, it is brought to its norm in float32 (norms below 1e-12
        are refused), then cast to the model's dtype. Magnitude is lost, sign is not.
        """
        return self.feed(vectors).embeddings

    @torch.inference_mode()
    def next_logits(self, vectors: NDArray[Any]) -> torch.Tensor:
        """Logits (n, vocabulary) of the first token said of each of ``vectors`` (n, d_model)."""
        return self._prefill(self.feed(vectors), self._cache())

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
            Explanations in order. ``raw`` leaves out the end-of-text token, the numbers count it.

        Raises:
            Refusal: wrong width, no direction, or logits that are not numbers.
        """
        if max_new_tokens < 1:
            raise Refusal(f"max_new_tokens {max_new_tokens}", "nothing could be said", "ask for at least 1")
        check_temperature(temperature)
        rows = checked_vectors(vectors, self.contract.width, f"verbalizer {self._ref}")
        if not len(rows):
            return []
        choose = _Sampler(rows, temperature, seed, max_new_tokens) if temperature > 0 else _likeliest
        return [self._explanation(*found) for found in self._decode(self.feed(rows), choose, max_new_tokens)]

    def _decode(self, feed: Feed, choose: Choose, limit: int) -> list[tuple[list[int], float]]:
        """Token ids said by each row of a feed, end-of-text token included, and their mean log-probability."""
        cache, count = self._cache(), len(feed.embeddings)
        logits = self._prefill(feed, cache)
        said: list[list[int]] = [[] for _ in range(count)]
        total = [0.0] * count
        alive = list(range(count))
        for step in range(limit):
            chosen = choose(logits, alive, step)
            for row, token, one in zip(alive, chosen.tolist(), _log_probability(logits, chosen).tolist(), strict=True):
                said[row].append(token)
                total[row] += one
            going = [k for k, row in enumerate(alive) if not self._done(said[row])]
            if not going or step + 1 == limit:
                break
            if len(going) < len(alive):
                kept = torch.tensor(going, device=chosen.device)
                cache.batch_select_indices(kept)
                chosen, alive = chosen[kept], [alive[k] for k in going]
            logits = self._logits(cache, input_ids=chosen[:, None])
        return [(ids, whole / len(ids)) for ids, whole in zip(said, total, strict=True)]

    def _cache(self) -> DynamicCache:
        return DynamicCache(config=self._net.config)

    def _prefill(self, feed: Feed, cache: DynamicCache) -> torch.Tensor:
        """Logits (n, vocabulary) after the prompts of a feed; the cache holds them then. Hooks are gone afterwards."""
        shared = feed.shared
        if shared:
            self._logits(cache, inputs_embeds=feed.embeddings[:1, :shared])
            cache.batch_repeat_interleave(len(feed.embeddings))
        with ExitStack() as hooks:
            for hook in feed.hooks:
                hooks.enter_context(_changed(decoder_blocks(self._net)[hook.block], hook, shared))
            return self._logits(cache, inputs_embeds=feed.embeddings[:, shared:])

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

    def _explanation(self, ids: list[int], sure: float) -> Explanation:
        text = self._text(ids[:-1] if ids[-1] in self._stops else ids)
        found = parse(text, tokens=len(ids), opened=self.prompt.opened, tagged=self.contract.tagged)
        return replace(found, log_probability=sure)

    def _opened(self) -> tuple[Any, Any]:
        """Model and tokenizer, adapters merged in; tokenizer or chat template in an adapter's own folder win."""
        whole = self._root if self._stack else self.contract.weights
        if self._stack:
            refuse_quantised(folder_of(whole), f"verbalizer {self._ref}")
        opened: tuple[Any, Any] = load_model(whole, dtype=self._dtype, device=self._device)
        net, tokenizer = opened
        width = int(net.get_input_embeddings().weight.shape[1])
        if width != self.contract.stream:
            raise Refusal(
                f"verbalizer {self._ref}",
                f"its sidecar says width {self.contract.stream}, "
                f"{'its base ' + self._root if self._stack else 'the model'} has width {width}",
                "use the base model the checkpoint was trained on",
            )
        self.contract.check(net, self._site)
        for folder in self._stack:
            check_folder(folder, f"verbalizer {self._ref}")
            with opening(folder / ADAPTER, "its adapter cannot be put on its base"):
                net, agreement = merge_adapter(net, folder, f"verbalizer {self._ref}", self._device)
            self.merged.append(agreement)
            if (folder / TOKENIZER).is_file():
                tokenizer = load_tokenizer(folder)
            if (folder / TEMPLATE).is_file():
                tokenizer.chat_template = read_template(folder / TEMPLATE)
        return net, tokenizer


@contextmanager
def _changed(module: torch.nn.Module, hook: Hook, shared: int) -> Iterator[None]:
    """Inside, a block's output is changed as a hook says, its positions counted from behind the shared ones."""
    places = [position - shared for position in hook.positions]

    def change(_module: Any, _args: Any, output: Any) -> Any:
        hidden = (output[0] if isinstance(output, tuple) else output).clone()
        hidden[:, places] = hook.change(hidden[:, places])
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    handle = module.register_forward_hook(change)
    try:
        yield
    finally:
        handle.remove()


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


def _log_probability(logits: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """Natural-log probability (rows,), at temperature 1, of the chosen ids; float32, half precision is too coarse."""
    # A row of a large vocabulary fits a CPU's cache, all rows do not: one by one they take a quarter of the time.
    parts = logits.split(1 if logits.device.type == "cpu" else len(logits))
    whole = torch.cat([part.float().logsumexp(dim=-1) for part in parts])
    return logits.gather(-1, chosen[:, None])[:, 0].float() - whole


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


def _base_of(folder: Path, sidecar: Sidecar, base: str | None, ref: str) -> str:
    """The base model's reference; refuse folders without weights, and checkpoints that name no base, or two."""
    adapted = is_adapter(folder)
    if adapted and not (folder / "adapter_model.safetensors").is_file():
        raise Refusal(
            f"verbalizer {ref}", "the folder holds no adapter_model.safetensors", "download the adapter's weights"
        )
    if not adapted:
        weight_files(folder, f"verbalizer {ref}")
    below = sits_on(folder) if adapted else None
    if not base and below and sidecar.base and Path(below).name.lower() != Path(sidecar.base).name.lower():
        raise Refusal(
            f"verbalizer {ref}",
            f"its adapter was trained on {below}, its sidecar names {sidecar.base}, "
            "and on another model than its own an adapter says fluent nonsense",
            "pass --base with the model, or the merged earlier stage, that it sits on",
        )
    stated = base or sidecar.base or below
    if not stated:
        raise Refusal(
            f"verbalizer {ref}",
            "neither sidecar nor adapter names the model it was made from",
            "add base_checkpoint to the sidecar",
        )
    return str(stated)


def _width_of(ref: str) -> int | None:
    """Width of a base model as its config.json states it."""
    return width_in(folder_of(ref))
