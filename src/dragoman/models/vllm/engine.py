"""The engine that hands prompts, as embeddings, to a vLLM in this process; the one place where vllm is imported.

In, out: see ``rows``. Refuses a device that vLLM does not run on, and whatever ``rows`` refuses.

Started when rows are first said: the loop says the canary's rows, the model leaves the GPU, vLLM takes its place. Of
several engines in a process one runs at a time; the next one stops it.
"""

from __future__ import annotations

import gc
import importlib
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from dragoman.core import Refusal
from dragoman.models.captured import RowTokens
from dragoman.models.vllm import canary
from dragoman.models.vllm.rows import WHAT, HowSaid, RowsByVllm, counted
from dragoman.models.vllm.weights import LOOP
from dragoman.store.libraries import refuse_absent

TOGETHER = {"cuda": 2048, "cpu": 64}  # rows of a call
AT_A_TIME = {"cuda": 512, "cpu": 64}  # that it computes together
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


class VllmEngine(RowsByVllm):
    """VLLM in this process."""

    def __init__(self, *model: Any, **how: Any) -> None:
        """Nothing is started yet; see ``RowsByVllm``."""
        super().__init__(*model, **how)
        self._llm: Any = None
        self._room = 0  # tokens of the longest row it was started for

    @property
    def name(self) -> str:
        """Its version."""
        return version()

    @property
    def together(self) -> int:
        """How many rows a call had best be given."""
        return TOGETHER[self._device.type]

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

    def _ready(self, length: int, how: HowSaid) -> None:
        """Have vLLM run, with room for rows of so many tokens, and compared with the loop."""
        room = length + how.most
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
        self._compare(wanted, prompts)

    def _drop(self) -> None:
        """Forget what was not started whole."""
        _running.remove(self)
        self._net.to(self._device)

    def _compare(self, wanted: canary.Reference, prompts: list[torch.Tensor]) -> None:
        """Refuse a vLLM that the canary refuses: on prompts it has not met, and again when it holds parts of them."""
        try:
            for _ in range(2):
                self._weigh(wanted, prompts)
        except BaseException:
            self.close()
            raise
        _log.info("%s beside the loop: %s", version(), self.compared)

    def _sampling(self, most: int, temperature: float, seed: int | None, *, ends: bool = True) -> Any:
        """How vLLM says a row: our stops and no other, special tokens in the text, a log-probability a token."""
        how = {"stop": list(self._ending.closing), "stop_token_ids": sorted(self._ending.stops)}
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

    def _said(self, prompts: list[torch.Tensor], how: HowSaid) -> list[tuple[RowTokens, str]]:
        """All rows in one call."""
        seeds = how.seeds or [None] * len(prompts)
        drawn = [self._sampling(how.most, how.temperature, seed, ends=how.ends) for seed in seeds]
        return [(self._told(one), one.finish_reason) for one in self._generated(prompts, drawn)]

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
        """Ids and their log-probabilities."""
        ids = [int(token) for token in said.token_ids]
        sure = [float(one[token].logprob) for token, one in zip(ids, said.logprobs or (), strict=False)]
        return counted(ids, sure, len(said.logprobs or ()))


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
    how = {"enforce_eager": True, "block_size": 32}
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
