"""Run a verbalizer checkpoint in this process: vectors in, Explanations out.

In: a checkpoint (full, or PEFT adapters on a base model), the contract it is fed by, vectors (n, d_model). Out: one
Explanation per row. What a contract is, ``contracts`` knows: here are only token ids, embeddings and hooks. Refuses
checkpoints without weights, bases of another width, float16 where a norm would overflow, vectors of another width and
vectors without a direction.

All prompts of a checkpoint are equally long, so batches need no padding, and keys and values of the positions that
rows share are computed once. Rows leave the batch when they close the tag or end the text. ``_decode`` is the plain
loop; ``engines`` says when another engine decodes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import DynamicCache

from dragoman.core import Explanation, Floats, Refusal, Site
from dragoman.models.adapters import refuse_quantised
from dragoman.models.asked import by_vllm, check_engine, server_of
from dragoman.models.choose import Choose, Ending, Sampler, likeliest, log_probability, row_seeds, uniform_numbers
from dragoman.models.contracts import contract_for
from dragoman.models.contracts.base import CheckpointRequest, Contract, Feed
from dragoman.models.engines import TOGETHER, SlotEngine, engine_for
from dragoman.models.folder import ADAPTER, TEMPLATE, TOKENIZER, check_folder, deciding, digests, read_template
from dragoman.models.hooked import hooked
from dragoman.models.load import base_of, load_model, load_tokenizer, stacked, torch_dtype, with_template
from dragoman.models.merge import Agreement, merge_adapter
from dragoman.models.resolve import folder_of, how_fed
from dragoman.models.vllm import engine as vllm
from dragoman.models.vllm.canary import ROWS
from dragoman.models.vllm.client import Client, serve_line
from dragoman.models.vllm.engine import VllmEngine
from dragoman.models.vllm.rows import RowsByVllm
from dragoman.models.vllm.server import ServerEngine
from dragoman.models.vllm.weights import merged_folder, refuse_unserved
from dragoman.store import digest, file_sha256
from dragoman.store.boundary import opening
from dragoman.verbalizers.prompt import Prompt
from dragoman.verbalizers.protocol import check_temperature, checked_vectors, parse
from dragoman.verbalizers.sidecar import Sidecar, sidecar_file, width_in

FLOAT16_LIMIT = 60_000.0  # the largest float16 is 65,504, and the row is only the start of the stream


class Verbalizer:
    """A verbalizer run by transformers in this process.

    ``name``: the reference it was opened by. ``site``: the stream it reads; ``width``: of its vectors. ``base``: the
    model it was made from, by reference. ``adapters``: the folders merged into a whole model, lowest first, none where
    it is one itself; ``whole``: that model, by reference or folder. ``model`` and ``tokenizer``: as opened, adapters in
    the weights. ``contract``: what feeds it. ``prompt``: its checked prompt. ``merged``: how each adapter agrees with
    PEFT unmerged.
    """

    @classmethod
    def open(
        cls,
        ref: str | Path,
        *,
        contract: str | None = None,
        settings: Mapping[str, Any] | None = None,
        base: str | None = None,
        dtype: str = "float32",
        device: str = "cpu",
        engine: str = "auto",
        compiled: bool = False,
    ) -> Verbalizer:
        """Load a checkpoint, fed as is said here, and else as dragoman's registry knows of a published one.

        Refuses what contradicts the registry, what nobody says, and whatever ``__init__`` refuses.
        """
        fed = how_fed(str(ref), contract, settings or {}, base)
        return cls(ref, **fed, dtype=dtype, device=device, engine=engine, compiled=compiled)

    def __init__(
        self,
        ref: str | Path,
        *,
        contract: str | None = None,
        settings: Mapping[str, Any] | None = None,
        base: str | None = None,
        dtype: str = "float32",
        device: str = "cpu",
        engine: str = "auto",
        compiled: bool = False,
    ) -> None:
        """Load and check a checkpoint, by its own files alone.

        Args:
            ref: packaged name, folder or hub id of the checkpoint.
            contract: how it wants to be fed, by name; None takes what its sidecar itself says, and guesses nothing.
            settings: what the contract leaves open and the sidecar does not say; each contract names its own.
            base: model an adapter sits on, when the sidecar names another one or none.
            dtype: float32, bfloat16 or float16.
            device: where to run, in torch's words.
            engine: what says the words, see ``engines``: auto, loop, captured, vllm, or vllm:ADDRESS of a server.
            compiled: whether the captured engine's blocks go through ``torch.compile``; it pays after some thousands of
                rows.

        Raises:
            Refusal: the checkpoint, its sidecar, its contract, its tokenizer and its base do not fit each other.
        """
        check_engine(engine)
        self._folder, kind, self.name = folder_of(ref), torch_dtype(dtype), str(ref)
        self._what, self._dtype, self._device = f"verbalizer {ref}", dtype, device
        self.contract = _contract(self.name, self._folder, contract, settings, base)
        if kind is torch.float16 and self.contract.loudest > FLOAT16_LIMIT:
            why = f"its vectors are injected at norm {self.contract.loudest:g}, and float16 ends at 65504"
            raise Refusal(f"{self._what} in float16", why, "use bfloat16 or float32")
        self.base = base_of(self.contract.weights, self.sidecar.base, base, self._what)
        self.adapters, root = stacked(self.contract.weights, self.base, self._what)
        self.whole: str | Path = root if self.adapters else self.contract.weights
        if by_vllm(engine):
            refuse_unserved(self.contract, folder_of(self.whole), self._what)
        if engine == "vllm":
            vllm.refuse_elsewhere(device)
        client = None if (address := server_of(engine)) is None else Client(address, self._serve)
        if client is not None and not self.adapters:  # their folder is made of the model that is opened
            client.about()
        self.site: Site = self.contract.site(self.base)
        self.width: int = self.contract.width
        self.merged: list[Agreement] = []
        self.model, self.tokenizer = self._opened()
        self.prompt: Prompt = self.contract.prompt(self.tokenizer)
        with torch.inference_mode():
            # The model's own module: on Gemma it multiplies by sqrt(d), once.
            ids = torch.tensor(self.prompt.ids, device=device)
            self._rows: torch.Tensor = self.model.get_input_embeddings()(ids)
        _flatten_head(self.model)
        self.ending = Ending(self.model, self.tokenizer, self._what, closing=self.contract.closing)
        self._engine: SlotEngine | RowsByVllm | None
        if by_vllm(engine):
            self._engine, self.engine = self._by_vllm(client)
        else:
            self._engine, self.engine = engine_for(
                engine, self.model, self.ending, self._rows, compiled=compiled, loop_only=self.contract.loop_only
            )

    def __repr__(self) -> str:
        """Its name, what it reads and how it is fed."""
        return f"Verbalizer({self.name!r} at {self.site}, width {self.width}, contract {self.contract.name})"

    @property
    def sidecar(self) -> Sidecar:
        """How the checkpoint wants its vector."""
        return self.contract.sidecar

    @property
    def identity(self) -> dict[str, object]:
        """Everything that decides its words: checkpoint, sha256 of files, contract, dtype, norm, base, prompt.

        ``files``, and ``base_files`` and so on of what lies under it: the files beside the weights. Made once: it
        reads every byte of the weights.
        """
        # Other engines say the same words up to rounding; vLLM draws others, and may be of another version.
        engine = {"engine": self._engine.name} if isinstance(self._engine, RowsByVllm) else {}
        return {**self._identity, **engine}

    @cached_property
    def _identity(self) -> dict[str, object]:
        sidecar = sidecar_file(self._folder)
        known = {
            "contract": self.contract.name,
            "checkpoint": self.name,
            "site": str(self.site),
            "sidecar": file_sha256(sidecar) if sidecar.is_file() else None,
            **digests(self.contract.weights),
            "base": self.base,
            "prompt": digest(self.prompt.text, np.array(self.prompt.ids, np.int64)),
            "prompt_text": self.prompt.text,
            "prompt_date": self.prompt.day,
            **self.contract.identity,
            "dtype": self._dtype,
        }
        # What lies under an adapter: adapters, highest first, and the whole model.
        below = [*reversed(self.adapters[:-1]), folder_of(self.whole)] if self.adapters else []
        for depth, folder in enumerate(below):
            name = "base" if not depth else "root" if folder == below[-1] else f"base_{depth}"
            known |= digests(folder, f"{name}_")
        return known

    @property
    def stamps(self) -> tuple[tuple[str, int, int], ...]:
        """Path, size and time of change of every file that decides it, and which vLLM: others are another's."""
        folders = dict.fromkeys([self._folder, self.contract.weights, *self.adapters, folder_of(self.whole)])
        paths = [folder / name for folder in folders for name in deciding(folder)]
        by = [(self._engine.name, 0, 0)] if isinstance(self._engine, RowsByVllm) else []
        return (*by, *((f"{path}", (found := path.stat()).st_size, found.st_mtime_ns) for path in paths))

    @torch.inference_mode()
    def feed(self, vectors: NDArray[Any]) -> Feed:
        """What the contract makes of ``vectors`` (n, d_model): prompt embeddings, and hooks where it has any."""
        rows = checked_vectors(vectors, self.width, self._what)
        return self.contract.feed(self.prompt, self._rows, torch.tensor(rows))

    @torch.inference_mode()
    def verbalize(
        self, vectors: NDArray[Any], *, temperature: float = 0.0, seed: int = 0, max_new_tokens: int = 200
    ) -> list[Explanation]:
        """One explanation per row of ``vectors`` (n, d_model), decoded together.

        Args:
            vectors: rows at ``site``; direction counts, sign included, and length only where ``reads_length``.
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
        rows = checked_vectors(vectors, self.width, self._what)
        if not len(rows):
            return []
        if self._engine is not None:
            said = self._by_engine(self._engine, rows, temperature, seed, max_new_tokens)
        else:
            choose = Sampler(rows, temperature, seed, max_new_tokens) if temperature > 0 else likeliest
            said = self._decode(self.feed(rows), choose, max_new_tokens)
        return [self._explanation(*found) for found in said]

    @property
    def reads_length(self) -> bool:
        """Whether a vector's length counts, and not its direction alone."""
        return self.contract.reads_length

    @property
    def trained_on_rows(self) -> bool:
        """Whether it was trained on bare dictionary rows."""
        return self.contract.trained_on_rows

    @property
    def together(self) -> int:
        """How many rows a call had best be given, where there are so many."""
        if isinstance(self._engine, RowsByVllm):
            return self._engine.together
        return TOGETHER["loop" if self._engine is None else "captured"]

    def close(self) -> None:
        """Stop an engine that holds memory of its own, which outlives whoever holds the verbalizer; it starts again."""
        if self._engine is not None:
            self._engine.close()

    @contextmanager
    def looped(self) -> Iterator[None]:
        """Inside, the plain loop says the words: it alone calls the model's modules at every token, hooks and all."""
        engine, self._engine = self._engine, None
        if isinstance(engine, RowsByVllm):
            engine.close()  # it may have the model's place on a GPU
        try:
            yield
        finally:
            self._engine = engine

    def _by_engine(
        self, engine: SlotEngine | RowsByVllm, rows: Floats, temperature: float, seed: int, limit: int
    ) -> list[tuple[list[int], float]]:
        """As ``_decode``, by the captured engine or vLLM; above temperature 0 each draws by numbers of its own."""
        feed_of, warm = lambda part: self.feed(rows[part.start : part.stop]), temperature > 0
        if isinstance(engine, RowsByVllm):
            seeds = row_seeds(rows, seed) if warm else None
            found = engine.say(feed_of, len(rows), limit, temperature=temperature, seeds=seeds)
        else:
            uniform = uniform_numbers(rows, seed, limit) if warm else None
            found = engine.say(feed_of, len(rows), limit, temperature=temperature, uniform=uniform)
        return [(ids, sum(sure) / len(sure)) for ids, sure in found]

    def _vllm_folder(self) -> Path:
        """What vLLM loads: the checkpoint, or a folder with adapters in the weights."""
        return merged_folder(self.model, self.tokenizer, self._identity) if self.adapters else folder_of(self.whole)

    def _serve(self) -> str:
        return serve_line(str(self._vllm_folder()), self._dtype)

    def _by_vllm(self, client: Client | None) -> tuple[RowsByVllm, str]:
        """VLLM on this model, adapters in its weights: here, where it is started when rows are first said, or there."""
        trial = np.random.default_rng(0).standard_normal((ROWS, self.width)).astype(np.float32)
        how = {"folder": self._vllm_folder, "trial": lambda: self.feed(trial), "dtype": self._dtype}
        if client is None:
            return VllmEngine(self.model, self.ending, **how), f"engine: {vllm.version()}, on {self._device}"
        made = ServerEngine(client, self.model, self.ending, **how)
        return made, f"engine: {made.name}, at {client.name}"

    def _decode(self, feed: Feed, choose: Choose, limit: int) -> list[tuple[list[int], float]]:
        """Token ids said by each row of a feed, end-of-text token included, and their mean log-probability."""
        cache, count = DynamicCache(config=self.model.config), len(feed.embeddings)
        logits = self._prefill(feed, cache)
        said: list[list[int]] = [[] for _ in range(count)]
        total = [0.0] * count
        alive = list(range(count))
        for step in range(limit):
            chosen = choose(logits, alive, step)
            for row, token, one in zip(alive, chosen.tolist(), log_probability(logits, chosen).tolist(), strict=True):
                said[row].append(token)
                total[row] += one
            going = [k for k, row in enumerate(alive) if not self.ending.over(said[row])]
            if not going or step + 1 == limit:
                break
            if len(going) < len(alive):
                kept = torch.tensor(going, device=chosen.device)
                cache.batch_select_indices(kept)
                chosen, alive = chosen[kept], [alive[k] for k in going]
            logits = self._logits(cache, input_ids=chosen[:, None])
        return [(ids, whole / len(ids)) for ids, whole in zip(said, total, strict=True)]

    def _prefill(self, feed: Feed, cache: DynamicCache) -> torch.Tensor:
        """Logits (n, vocabulary) after the prompts of a feed; the cache holds them then. Hooks are gone afterwards."""
        shared = feed.shared
        if shared:
            self._logits(cache, inputs_embeds=feed.embeddings[:1, :shared])
            cache.batch_repeat_interleave(len(feed.embeddings))
        with hooked(self.model, feed.hooks, shared):
            return self._logits(cache, inputs_embeds=feed.embeddings[:, shared:])

    def _logits(self, cache: DynamicCache, **inputs: torch.Tensor) -> torch.Tensor:
        """Logits (rows, vocabulary) after the last of the inputs; the cache grows by them."""
        # Positions and masks follow from the cache's length: all rows are equally long, so none is padded.
        return self.model(**inputs, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1]

    def _explanation(self, ids: list[int], sure: float) -> Explanation:
        text = self.ending.text(ids[:-1] if ids[-1] in self.ending.stops else ids)
        answer, odd = self.contract.answer(text)
        found = parse(answer, tokens=len(ids), opened=self.prompt.opened, tagged=self.contract.tagged)
        return replace(found, raw=text, problems=(*odd, *found.problems), log_probability=sure)

    def _opened(self) -> tuple[Any, Any]:
        """Model and tokenizer, adapters merged in; tokenizer or chat template in an adapter's own folder win."""
        if self.adapters:
            refuse_quantised(folder_of(self.whole), self._what)
        opened: tuple[Any, Any] = load_model(self.whole, dtype=self._dtype, device=self._device)
        net, tokenizer = opened
        width = int(net.get_input_embeddings().weight.shape[1])
        if width != self.contract.stream:
            raise Refusal(
                self._what,
                f"its sidecar says width {self.contract.stream}, "
                f"{f'its base {self.whole}' if self.adapters else 'the model'} has width {width}",
                "use the base model the checkpoint was trained on",
            )
        self.contract.check(net, self.site)
        for folder in self.adapters:
            check_folder(folder, self._what)
            with opening(folder / ADAPTER, "its adapter cannot be put on its base"):
                net, agreement = merge_adapter(net, folder, self._what, self._device)
            self.merged.append(agreement)
            if (folder / TOKENIZER).is_file():
                tokenizer = load_tokenizer(folder)
            if (folder / TEMPLATE).is_file():
                tokenizer = with_template(tokenizer, read_template(folder / TEMPLATE))
        return net, tokenizer


def _flatten_head(net: Any) -> None:
    """Let the output layer multiply rows (n, d) instead of (n, 1, d).

    The last position cut out of longer rows is not contiguous; torch then copies the whole vocabulary's weights once
    per row (15 GB for 45 rows of Gemma's) before it multiplies.
    """
    head = net.get_output_embeddings()
    forward = head.forward
    head.forward = lambda x: forward(x.reshape(-1, x.shape[-1])).unflatten(0, x.shape[:-1])


def _width_of(ref: str) -> int | None:
    """Width of a base model as its config.json states it."""
    return width_in(folder_of(ref))


def _contract(
    name: str, folder: Path, contract: str | None, settings: Mapping[str, Any] | None, base: str | None
) -> Contract:
    """What feeds a checkpoint."""
    request = CheckpointRequest(ref=name, folder=folder, settings=dict(settings or {}), base=base, width_of=_width_of)
    return contract_for(request, contract)


def site_of_verbalizer(
    ref: str,
    contract: str | None = None,
    settings: Mapping[str, Any] | None = None,
    base: str | None = None,
    *,
    engine: str = "auto",
) -> Site:
    """The stream a verbalizer reads, by its files and what is said as for ``Verbalizer.open``; no weights are read.

    Raises:
        Refusal: as ``Verbalizer.open``, as far as files tell; ``engine`` cannot say its words.
    """
    what, fed = f"verbalizer {ref}", how_fed(ref, contract, settings or {}, base)
    opened = _contract(ref, folder_of(ref), fed["contract"], fed["settings"], fed["base"])
    below = base_of(opened.weights, opened.sidecar.base, fed["base"], what)
    if by_vllm(engine):
        adapters, root = stacked(opened.weights, below, what)
        refuse_unserved(opened, folder_of(root) if adapters else opened.weights, what)
    return opened.site(below)
