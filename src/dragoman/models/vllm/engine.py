"""The engine that hands prompts, as embeddings, to a vLLM in this process; the one place where vllm is imported.

In: a model that transformers opened, what ends a row, and for each row what its contract feeds. Out: token ids and
log-probabilities of every row, as of the other engines. Refuses a device that vLLM does not run on, embeddings that
it would cast or hang on, temperatures it would change, rows that ended by no rule of ours, and what the canary refuses.

Started when rows are first said: the loop says the canary's rows, the model leaves the GPU, vLLM takes its place. Of
several engines in a process one runs at a time; the next one stops it. vLLM draws with a seed a row, so equal seeds
give equal words whatever else is in the batch; they are other words than the loop's, which draws by other rules.
"""

from __future__ import annotations

import gc
import importlib
import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from dragoman.core import Refusal
from dragoman.models.captured import AT_ONCE, FeedOf, RowTokens
from dragoman.models.choose import Ending, undefined
from dragoman.models.contracts.base import Feed
from dragoman.models.vllm import canary
from dragoman.models.vllm.weights import LOOP
from dragoman.store.libraries import refuse_absent

WHAT = "vLLM"
COLDEST = 0.01  # below, vLLM draws at this, and warns
TOGETHER = {"cuda": 2048, "cpu": 64}  # rows of a call
AT_A_TIME = {"cuda": 512, "cpu": 64}  # that it computes together
_FAULT = "report this as a fault of dragoman"
# What a person may set otherwise: memory for keys on a CPU (GiB), threads where they are, no talk, no reports home.
_SETTINGS = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_USE_FLASHINFER_SAMPLER": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
}
# What may not: in this process, where embeddings need no copies, and without reports to its makers.
_NEEDED = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_NO_USAGE_STATS": "1"}
_log = logging.getLogger(__name__)
_running: list[Any] = []  # one at most


class VllmEngine:
    """VLLM on one verbalizer's model.

    ``net``, ``ending``: as the other engines have them. ``folder``: gives the folder that vLLM loads, when it is
    needed. ``trial``: gives the feed of the canary's rows. ``dtype``: what it computes in. ``compared``: how far
    vLLM was from the loop, once it has started.
    """

    def __init__(
        self, net: Any, ending: Ending, *, folder: Callable[[], Path], trial: Callable[[], Feed], dtype: str
    ) -> None:
        """Nothing is started yet."""
        self._net, self._ending, self._folder, self._trial, self._dtype = net, ending, folder, trial, dtype
        table = net.get_input_embeddings().weight
        self._device, self._width = table.device, int(table.shape[1])
        self._llm: Any = None
        self._room = 0  # tokens of the longest row it was started for
        self.compared: canary.Apart | None = None

    @property
    def together(self) -> int:
        """How many rows a call had best be given."""
        return TOGETHER[self._device.type]

    def say(
        self,
        feed_of: FeedOf,
        count: int,
        most: int,
        *,
        temperature: float = 0.0,
        seeds: Sequence[int] | None = None,
    ) -> list[RowTokens]:
        """Ids and log-probabilities of ``count`` rows of at most ``most`` tokens each.

        Args:
            feed_of: what a contract feeds for a range of rows.
            count: rows.
            most: tokens of each.
            temperature: 0 takes the likeliest; above it, ``seeds`` decide what is drawn.
            seeds: each row's own.

        Returns:
            Ids and natural-log probabilities at temperature 1 of each row, the token that ends it included.

        Raises:
            Refusal: as the module says; or vLLM cannot be started, with what it says.
        """
        if temperature > 0 and seeds is None:
            raise ValueError("a temperature above 0 needs seeds to draw by")
        refuse_cold(temperature)
        parts = [range(at, min(at + AT_ONCE, count)) for at in range(0, count, AT_ONCE)]
        prompts = [row for part in parts for row in self._prompts(feed_of(part), len(part))]
        self._start(len(prompts[0]) + most)
        drawn = [self._sampling(most, temperature, seeds[row] if seeds else None) for row in range(count)]
        return [self._checked(one, most) for one in self._generated(prompts, drawn)]

    def close(self) -> None:
        """Stop vLLM and put the model back where it was; it is started again when rows are said."""
        if self._llm is None:
            return
        stopped, self._llm, self._room = self._llm, None, 0
        if self in _running:
            _running.remove(self)
        with suppress(Exception):  # whatever it holds is dropped with it
            stopped.llm_engine.engine_core.shutdown()
        del stopped
        gc.collect()
        with suppress(Exception):
            importlib.import_module("vllm.distributed.parallel_state").cleanup_dist_env_and_memory()
        self._net.to(self._device)

    def _start(self, room: int) -> None:
        """Have vLLM run, with room for rows of so many tokens, and compared with the loop."""
        if self._llm is not None and room <= self._room:
            return
        for one in list(_running):
            one.close()
        feed = self._trial()
        prompts = self._prompts(feed, len(feed.embeddings))
        steps = min(canary.TOKENS, room - len(prompts[0]))
        wanted = canary.reference(self._net, feed, steps)
        folder = self._folder()
        if self._device.type == "cuda":
            self._net.to("cpu")
            torch.cuda.empty_cache()
        _running.append(self)
        try:
            with hushed():
                self._llm = _made(folder, self._dtype, room, self._device)
        except Exception as error:  # whatever a driver, a compiler or another version raises
            self._drop()
            raise Refusal(f"starting {version()}", _said_of(error), LOOP) from error
        except BaseException:
            self._drop()
            raise
        self._room = room
        self._compare(wanted, prompts, steps)

    def _drop(self) -> None:
        """Forget what was not started whole."""
        _running.remove(self)
        self._net.to(self._device)

    def _compare(self, wanted: canary.Reference, prompts: list[torch.Tensor], steps: int) -> None:
        """Refuse a vLLM that the canary refuses: on prompts it has not met, and again when it holds parts of them."""
        drawn = [self._sampling(steps, 0.0, None, ends=False)] * len(prompts)
        try:
            for _ in range(2):
                said = [self._told(one) for one in self._generated(prompts, drawn)]
                self.compared = canary.refuse_other(wanted, [i for i, _ in said], [s for _, s in said], version())
        except BaseException:
            self.close()
            raise
        _log.info("%s beside the loop: %s", version(), self.compared)

    def _prompts(self, feed: Feed, count: int) -> list[torch.Tensor]:
        """Embeddings (T, d_model) of each row, on the CPU; refuse what vLLM would cast, misread or hang on."""
        given = feed.embeddings
        kind = self._net.get_input_embeddings().weight.dtype
        if feed.hooks:
            raise Refusal(WHAT, "hooks act inside the model, and it takes embeddings alone", LOOP)
        if given.ndim != 3 or given.shape[0] != count or given.shape[2] != self._width or not given.shape[1]:
            why = f"they are {tuple(given.shape)}, and ({count}, tokens, {self._width}) is wanted"
            raise Refusal(f"embeddings for {WHAT}", why, _FAULT)
        if given.dtype != kind:
            raise Refusal(f"embeddings for {WHAT}", f"they are {given.dtype}, and it computes in {kind}", _FAULT)
        if not bool(torch.isfinite(given).all()):
            raise Refusal(f"embeddings for {WHAT}", "some are NaN or infinite", "use bfloat16 or float32")
        return list(given.to("cpu").contiguous().unbind(0))

    def _sampling(self, most: int, temperature: float, seed: int | None, *, ends: bool = True) -> Any:
        """How vLLM says a row: our stops and no other, special tokens in the text, a log-probability a token."""
        how: dict[str, Any] = {"stop": list(self._ending.closing), "stop_token_ids": sorted(self._ending.stops)}
        return _vllm().SamplingParams(
            temperature=temperature,
            seed=seed,
            max_tokens=most,
            logprobs=0,
            ignore_eos=True,  # ours are among the stops, whatever its folder says
            skip_special_tokens=False,
            spaces_between_special_tokens=False,
            **(how if ends else {}),
        )

    def _generated(self, prompts: list[torch.Tensor], drawn: list[Any]) -> list[Any]:
        """What vLLM gives, a row each; it is stopped where it is interrupted, as rows would stay in it."""
        try:
            told = self._llm.generate([{"prompt_embeds": one} for one in prompts], drawn, use_tqdm=False)
        except Exception as error:  # of its kernels, for instance, which do not take every model
            self.close()
            raise Refusal(version(), f"it does not run this model: {_said_of(error)}", LOOP) from error
        except BaseException:
            self.close()
            raise
        if len(told) != len(prompts):
            raise Refusal(WHAT, f"it gave {len(told)} rows for {len(prompts)}", canary.INSTEAD)
        return [one.outputs[0] for one in told]

    def _told(self, said: Any) -> RowTokens:
        """Ids and their log-probabilities; refuse those that are no numbers, or not one a token."""
        ids = [int(token) for token in said.token_ids]
        if not ids or len(said.logprobs or ()) != len(ids):
            raise Refusal(WHAT, f"it gave {len(ids)} tokens and {len(said.logprobs or ())} numbers", canary.INSTEAD)
        sure = [float(one[token].logprob) for token, one in zip(ids, said.logprobs, strict=True)]
        if not torch.isfinite(torch.tensor(sure)).all():
            raise undefined()
        return ids, sure

    def _checked(self, said: Any, most: int) -> RowTokens:
        """A row up to where it ends by our rule; refuse one that ended by another."""
        ids, sure = self._told(said)
        end = self._ending.within(ids)
        if end is None and len(ids) != most:
            why = f"it ended a row after {len(ids)} tokens (by {said.finish_reason}), where none of ours ends"
            raise Refusal(version(), why, canary.INSTEAD)
        return ids[:end], sure[:end]


def refuse_cold(temperature: float) -> None:
    """Refuse temperatures that vLLM would change."""
    if 0 < temperature < COLDEST:
        raise Refusal(f"temperature {temperature:g} by {WHAT}", f"it draws at {COLDEST:g} instead", LOOP)


def refuse_elsewhere(device: str) -> None:
    """Refuse a device that the installed vLLM does not run on, before anything is loaded.

    Raises:
        Refusal: vLLM is not installed, cannot be imported, or was built for another kind of device; a GPU that is not
            the first.
    """
    refuse_absent(WHAT, "vllm", extra="vllm")
    try:
        with hushed():
            kind = str(importlib.import_module("vllm.platforms").current_platform.device_type)
            _vllm().LLM  # noqa: B018  # it is imported when it is asked for
    except Exception as error:
        raise Refusal(f"importing {WHAT}", _said_of(error), LOOP) from error
    wanted = torch.device(device)
    if wanted.type != kind:
        raise Refusal(
            f"{WHAT} on {device}", f"{version()} as it is installed runs on '{kind}'", f"pass --device {kind}"
        )
    if wanted.index:
        why = "in one process it takes the first GPU that is to be seen"
        raise Refusal(f"{WHAT} on {device}", why, f"set CUDA_VISIBLE_DEVICES={wanted.index} and pass --device {kind}")


def _said_of(error: Exception) -> str:
    """What a library says went wrong, on one line: its beginning, as settings are told behind it."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def version() -> str:
    """VLLM and its version."""
    return f"vllm {_vllm().__version__}"


def _vllm() -> Any:
    """The library, with its settings made before it reads them."""
    os.environ.update(_NEEDED)
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import vllm  # pyright: ignore[reportMissingImports]
    return vllm


@torch.inference_mode(mode=False)  # what is kept is kept alike, whoever asks
def _made(folder: Path, dtype: str, room: int, device: torch.device) -> Any:
    """A vLLM that has loaded a folder; of a GPU it takes nine tenths of what is free."""
    how: dict[str, Any] = {"enforce_eager": True, "block_size": 32}
    if device.type == "cuda":
        free, whole = torch.cuda.mem_get_info(device)
        how = {"gpu_memory_utilization": round(0.9 * free / whole, 3)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the libraries it brings
        return _vllm().LLM(
            model=str(folder),
            tokenizer=str(folder),
            dtype=dtype,
            load_format="safetensors",
            trust_remote_code=False,
            generation_config="vllm",  # nothing of the folder's: what is drawn is told with each row
            logprobs_mode="raw_logprobs",
            enable_prompt_embeds=True,
            enable_prefix_caching=True,
            max_model_len=room,
            max_num_seqs=AT_A_TIME[device.type],
            use_tqdm_on_load=False,
            seed=0,
            **how,
        )


@contextmanager
def hushed() -> Iterator[None]:
    """Inside, what is written to this process's output and error streams goes to the log: its libraries talk there."""
    with tempfile.TemporaryFile() as talk:
        kept = [os.dup(1), os.dup(2)]
        try:
            for stream in (1, 2):
                os.dup2(talk.fileno(), stream)
            yield
        finally:
            for stream, before in zip((1, 2), kept, strict=True):
                os.dup2(before, stream)
                os.close(before)
            talk.seek(0)
            for line in talk.read(1 << 20).decode("utf-8", "replace").splitlines():
                _log.debug("%s", line)
