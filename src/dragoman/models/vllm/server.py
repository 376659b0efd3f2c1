"""The engine that hands prompts, as embeddings, to a vLLM server that somebody runs.

In, out: see ``rows``. Refuses a server that is not what it was, rows longer than it takes, answers without one token id
and one log-probability a token, and whatever ``client`` and ``rows`` refuse.

The canary speaks when the verbalizer is opened and again with every call: whoever serves may have started something
else meanwhile, under the same name. A request is one row, as a seed belongs to a whole request; some hundreds are under
way at a time. What a server's generation_config.json would decide is said with every row.
"""

from __future__ import annotations

import base64
import io
import logging
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from typing import Any

import torch

from dragoman.core import Refusal
from dragoman.models.captured import RowTokens
from dragoman.models.vllm import canary
from dragoman.models.vllm.client import Client
from dragoman.models.vllm.rows import HowSaid, RowsByVllm, counted
from dragoman.store.http import NoAnswer

TOGETHER = 1024  # rows of a call
AT_A_TIME = 256  # requests under way: what a server of vLLM's computes together by default
_TOKEN = 1 << 10  # bytes of an answer that a token explains
_HEARD = 0.5  # seconds until Ctrl-C is heard for certain
_PLAIN = {
    "n": 1,
    "stream": False,
    "logprobs": 0,
    "return_token_ids": True,
    "return_tokens_as_token_ids": True,  # a piece of a character is no JSON
    "ignore_eos": True,  # ours are among the stops, whatever its folder says
    "skip_special_tokens": False,
    "spaces_between_special_tokens": False,
    "top_p": 1.0,
    "top_k": 0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}
_log = logging.getLogger(__name__)


class ServerEngine(RowsByVllm):
    """VLLM on a server. ``about``: what that is."""

    def __init__(self, client: Client, *model: Any, **how: Any) -> None:
        """Ask the server what it is, and have the canary speak; see ``RowsByVllm``.

        Raises:
            Refusal: as the module says.
        """
        super().__init__(*model, **how)
        self._client = client
        feed = self._trial()
        self._rows = self._prompts(feed, len(feed.embeddings))
        self.about = client.about()
        self._refuse_long(len(self._rows[0]), canary.TOKENS)
        self._wanted = canary.reference(self._net, feed)
        for _ in range(2):  # on prompts it has not met, and again when it holds parts of them
            self._compare(HowSaid(canary.TOKENS))
        _log.info("%s beside the loop: %s", self.name, self.compared)

    @property
    def name(self) -> str:
        """Its version and its name for the model; not where it is, which may change."""
        return f"vllm {self.about.version} on a server, model {self.about.model}"

    @property
    def together(self) -> int:
        """How many rows a call had best be given."""
        return TOGETHER

    def close(self) -> None:
        """Nothing is open between two calls."""

    def _ready(self, length: int, how: HowSaid) -> None:
        """Refuse a server that is another one now, or takes no rows as long as these."""
        found = self._client.about()
        if found[:2] != self.about[:2]:
            why = f"it is version {found.version} with model {found.model} now, and was {self.name}"
            raise Refusal(self._client.what, why, "have it serve what it served, or write into another folder")
        self.about = found
        self._refuse_long(length, how.most)
        self._compare(how)

    def _refuse_long(self, length: int, most: int) -> None:
        """Refuse rows that the server would cut."""
        if length + most > self.about.room:
            why = f"its rows have {self.about.room} tokens at most, and {length} of the prompt and {most} are needed"
            instead = f"start it with --max-model-len {length + most} or more, or lower --max-new-tokens"
            raise Refusal(self._client.what, why, instead)

    def _compare(self, how: HowSaid) -> None:
        """Have the canary speak, and above temperature 0 once more at that: a server may report other numbers there."""
        wanted = self._wanted.within(min(canary.TOKENS, how.most))
        try:
            self._weigh(wanted, self._rows)
            if how.temperature > 0:
                self._weigh(wanted, self._rows, how.temperature)
        except Refusal as refusal:
            if refusal.what != self.name:
                raise
            instead = f"serve this very model ({self._client.serve()}), or {canary.INSTEAD}"
            raise Refusal(f"{self._client.what} ({self.name})", refusal.why, instead) from refusal

    def _said(self, prompts: list[torch.Tensor], how: HowSaid) -> list[tuple[RowTokens, str]]:
        """All rows, some hundreds of requests at a time; the first that fails ends the others, as Ctrl-C does."""
        pool = ThreadPoolExecutor(min(AT_A_TIME, len(prompts)), thread_name_prefix="dragoman-vllm")
        seeds = how.seeds or [None] * len(prompts)
        rows: list[Future[tuple[RowTokens, str]]] = []
        try:
            for prompt, seed in zip(prompts, seeds, strict=True):
                rows.append(pool.submit(self._row, prompt, seed, how))  # one by one: Ctrl-C may come between two
            while not (first := _failed(rows)) and not all(row.done() for row in rows):
                # Python may miss a signal that comes just as a wait begins, and hears it when the wait is over.
                wait(rows, timeout=_HEARD, return_when=FIRST_EXCEPTION)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            while not all(row.done() for row in rows):
                self._client.cut()  # again and again: a request that was about to begin opens a connection yet
                wait(rows, timeout=0.05)
            self._client.close()  # servers end idle connections when they like
        # Those that were cut along with a late answer say nothing of why.
        later = [error for error in _failed(rows) if isinstance(error, NoAnswer)]
        failed = sorted([*first, *later], key=lambda error: isinstance(error, NoAnswer) and error.again)
        if failed:
            raise self._client.refusal(failed[0]) if isinstance(failed[0], NoAnswer) else failed[0]
        return [row.result() for row in rows]

    def _row(self, prompt: torch.Tensor, seed: int | None, how: HowSaid) -> tuple[RowTokens, str]:
        """One row: a request, and its answer."""
        held = io.BytesIO()
        torch.save(prompt.clone(), held)  # what it is a part of would be saved with it
        request = {
            **_PLAIN,
            "model": self.about.model,
            "max_tokens": how.most,
            "temperature": how.temperature,
        }
        if seed is not None:
            request["seed"] = seed
        if how.ends:
            request |= {"stop": list(self._ending.closing), "stop_token_ids": sorted(self._ending.stops)}
        most = (64 + len(prompt) + how.most) * _TOKEN
        return self._told(self._client.completed(request, base64.b64encode(held.getvalue()), most))

    def _told(self, answer: dict[str, object]) -> tuple[RowTokens, str]:
        """Ids, log-probabilities, and what ended the row, out of an answer."""
        choices = answer.get("choices")
        said = choices[0] if isinstance(choices, list) and len(choices) == 1 else None
        ids = said.get("token_ids") if isinstance(said, dict) else None
        logs = said.get("logprobs") if isinstance(said, dict) else None
        sure = logs.get("token_logprobs") if isinstance(logs, dict) else None
        size = self._net.get_output_embeddings().weight.shape[0]
        whole = isinstance(ids, list) and all(type(token) is int and 0 <= token < size for token in ids)
        if said is None or not whole or not isinstance(sure, list):
            why = "its answer has no row of token ids and log-probabilities"
            raise Refusal(self._client.what, why, canary.INSTEAD)
        numbers = [one if isinstance(one, float) else 0.0 if one == 0 else float("nan") for one in sure]
        return counted(ids or [], numbers, len(numbers)), str(said.get("finish_reason"))


def _failed(rows: list[Future[tuple[RowTokens, str]]]) -> list[BaseException]:
    """What ended those rows that are over and were not said."""
    over = [row.exception() for row in rows if row.done() and not row.cancelled()]
    return [error for error in over if error is not None]
