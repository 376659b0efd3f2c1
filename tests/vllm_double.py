"""What dragoman asks of vLLM, done by transformers: the same calls and answers, and the faults a version may have."""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

from dragoman.models.vllm import engine

Change = Callable[[torch.Tensor], torch.Tensor]


@dataclass
class Double:
    """vLLM in a few lines; ``started``: what each was started with; ``asked``: sampling of every row.

    ``change``: what it does to embeddings (count, T, d_model) before it reads them. ``cut``: rows end after so many
    tokens, by no rule. ``off``: added to log-probabilities.
    """

    change: Change = field(default=lambda rows: rows)
    cut: int | None = None
    off: float = 0.0
    started: list[dict[str, Any]] = field(default_factory=list)
    asked: list[SimpleNamespace] = field(default_factory=list)
    stopped: int = 0

    @property
    def library(self) -> Any:
        sampling = lambda **how: SimpleNamespace(**{"stop": (), "stop_token_ids": (), **how})  # noqa: E731
        return SimpleNamespace(LLM=self._started, SamplingParams=sampling, __version__="0.0-double")

    def _started(self, **how: Any) -> Any:
        self.started.append(how)
        net: Any = AutoModelForCausalLM.from_pretrained(how["model"], dtype=getattr(torch, how["dtype"]))
        words: Any = AutoTokenizer.from_pretrained(how["tokenizer"])

        def shutdown() -> None:
            self.stopped += 1

        @torch.inference_mode()
        def generate(prompts: list[dict[str, torch.Tensor]], sampling: list[Any], *, use_tqdm: bool) -> list[Any]:
            assert not use_tqdm and len(prompts) == len(sampling)
            self.asked.extend(sampling)
            rows = self.change(torch.stack([one["prompt_embeds"] for one in prompts]))
            return self._said(net.eval(), words, rows, sampling)

        inner = SimpleNamespace(engine_core=SimpleNamespace(shutdown=shutdown))
        return SimpleNamespace(generate=generate, llm_engine=inner)

    def _said(self, net: Any, words: Any, rows: torch.Tensor, sampling: list[Any]) -> list[Any]:
        """Rows together, greedily, each until one of its stops."""
        cache: Any = DynamicCache(config=net.config)
        inputs: dict[str, torch.Tensor] = {"inputs_embeds": rows}
        said = [SimpleNamespace(token_ids=[], logprobs=[], finish_reason="") for _ in sampling]
        while not all(one.finish_reason for one in said):
            logits = net(**inputs, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1]
            sure, chosen = logits.float().log_softmax(-1).max(-1)
            inputs = {"input_ids": chosen[:, None]}
            for one, how, token, log in zip(said, sampling, chosen.tolist(), sure.tolist(), strict=True):
                if one.finish_reason:
                    continue
                one.token_ids.append(token)
                one.logprobs.append({token: SimpleNamespace(logprob=log + self.off)})
                text = words.decode(one.token_ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
                ended = token in how.stop_token_ids or any(end in text for end in how.stop)
                if ended or len(one.token_ids) == self.cut:
                    one.finish_reason = "stop"
                elif len(one.token_ids) == how.max_tokens:
                    one.finish_reason = "length"
        return [SimpleNamespace(outputs=[one]) for one in said]


def install(double: Double, monkeypatch: pytest.MonkeyPatch) -> Double:
    """Have the engine use it."""
    monkeypatch.setattr(engine, "_vllm", lambda: double.library)
    monkeypatch.setattr(engine, "refuse_elsewhere", lambda _device: None)
    monkeypatch.setattr("dragoman.models.asked.refuse_absent", lambda *_, **__: None)
    return double


_SAID: dict[tuple[Any, ...], Any] = {}


@cache
def _model(folder: str, dtype: str) -> tuple[Any, Any]:
    net: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
    return net, AutoTokenizer.from_pretrained(folder)


@dataclass
class ServedDouble(Double):
    """A vLLM server in a few lines, on ``folder``'s model in ``dtype``. ``url``: where; ``rows``: requests for one.

    ``models``: what it serves, by name; ``room``: how long a row may be; ``tell``: changes what is answered, by path.
    ``fault``: given how many rows were asked for before, a word that the handler knows.
    """

    folder: str = ""
    dtype: str = "float32"
    version: str = "0.0-double"
    models: tuple[str, ...] = ("av",)
    room: int = 4096
    tell: Callable[[str, Any], Any] = field(default=lambda _path, told: told)
    fault: Callable[[int], str] = field(default=lambda _before: "")
    rows: int = 0
    headers: list[dict[str, str]] = field(default_factory=list)
    url: str = ""
    over: threading.Event = field(default_factory=threading.Event)
    lock: Any = field(default_factory=threading.Lock)

    def about(self, path: str) -> Any:
        if path == "/version":
            return self.tell(path, {"version": self.version})
        data = [{"id": one, "object": "model", "max_model_len": self.room} for one in self.models]
        return self.tell(path, {"object": "list", "data": data})

    def completed(self, request: dict[str, Any]) -> Any:
        given = torch.load(io.BytesIO(base64.b64decode(request["prompt_embeds"])), weights_only=True)
        how = SimpleNamespace(**{"stop": [], "stop_token_ids": [], "seed": None} | request)
        with self.lock, torch.inference_mode():
            self.asked.append(how)
            net, words = _model(self.folder, self.dtype)
            rows = self.change(given[None].to(net.dtype))
            # Tests ask again and again for the canary's rows, which take most of their time.
            key = (self.folder, self.dtype, self.cut, self.off, how.max_tokens, *how.stop, str(rows.shape))
            key = (*key, rows.float().numpy().tobytes())
            if key not in _SAID:
                (_SAID[key],) = self._said(net, words, rows, [how])
        (said,) = deepcopy(_SAID[key]).outputs
        logs = [log.logprob for step in said.logprobs for log in step.values()]
        told = {"index": 0, "text": "", "token_ids": said.token_ids, "finish_reason": said.finish_reason}
        return self.tell("/v1/completions", {"choices": [told | {"logprobs": {"token_logprobs": logs}}]})


class _Handler(BaseHTTPRequestHandler):
    double: ServedDouble

    def log_message(self, format: str, *args: object) -> None:
        """Be silent."""

    def do_GET(self) -> None:
        self.double.headers.append(dict(self.headers))
        self._answer(200, json.dumps(self.double.about(self.path)).encode())

    def do_POST(self) -> None:
        double, body = self.double, self.rfile.read(int(self.headers["Content-Length"]))
        with double.lock:
            double.rows, fault = double.rows + 1, double.fault(double.rows)
        if fault == "silent":
            double.over.wait()
        elif fault == "endless":
            with suppress(OSError):
                self.wfile.write(b"HTTP/1.0 200 OK\r\n\r\n")
                while not double.over.is_set():
                    self.wfile.write(b" " * 65536)
        elif fault == "elsewhere":
            self._answer(307, b"", Location="http://127.0.0.1:1/v1/completions")
        elif fault == "cut":
            self._answer(200, b'{"choices": [', **{"Content-Length": "4000"})
        elif fault[:3].isdigit():
            self._answer(int(fault[:3]), json.dumps({"error": {"message": fault[4:]}}).encode())
        elif fault:
            self._answer(200, b"" if fault == "nothing" else fault.encode())
        else:
            self._answer(200, json.dumps(double.completed(json.loads(body))).encode())

    def _answer(self, status: int, body: bytes, **headers: str) -> None:
        with suppress(OSError):  # whoever asked has gone
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(body))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)


class _Server(ThreadingHTTPServer):
    request_queue_size = 300  # as many as are asked for together


@contextmanager
def serving(double: ServedDouble) -> Iterator[str]:
    """Inside, it serves; the word that names it as an engine."""
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"double": double}))
    double.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"vllm:{double.url}"
    finally:
        double.over.set()
        server.shutdown()
        server.server_close()
        thread.join(5)
