"""Which engine says a verbalizer's words, and how many rows it says together.

In: a word (auto, loop or captured), a model, its prompt. Out: the captured engine, made when rows are first said and
kept for the next ones, or nothing where the plain loop is used, with a line that says which and why. Refuses unknown
words; a captured engine that was asked for by name and cannot be had; and rows that no memory is left for. vLLM, in
this process (``vllm``) or on a server (``vllm:ADDRESS``), has a room of its own (`dragoman.models.vllm`), and is never
taken unasked.

``loop``: all rows together, one eager step after another; it runs whatever transformers runs. ``captured``: see
``captured``; about four times as fast on an H200 at the shapes of Qwen2.5-7B and Gemma-3-27B. ``auto`` takes the latter
on a CUDA device, where the model runs so, and the former elsewhere: on two cores little is gained.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from dragoman.core import Refusal
from dragoman.models import slots as over
from dragoman.models.asked import check_engine
from dragoman.models.captured import AT_ONCE, STRIDE, Captured, FeedOf, RowTokens, outputs_of, room
from dragoman.models.choose import Ending
from dragoman.models.contracts.base import Feed

MOST_SLOTS = 512  # more of them gain 2 to 5 % on an H200
MOST_SLOTS_CPU = 128  # products of so many rows keep two cores busy
TOGETHER = {"loop": 64, "captured": 2048}  # rows of a call: some for every slot, or the last ones are said by few
LEFT_FREE = 0.15  # of the memory that is free when slots are counted
# Of the largest logit: another order of sums, in half precision over all blocks.
_CLOSE = {torch.float32: 1e-3}
_CLOSE_HALF = 0.1


class SlotEngine:
    """The captured engine of one model, made for as many rows as are said and memory has room for.

    ``compiled``: its blocks go through ``torch.compile``.
    """

    def __init__(self, net: Any, ending: Ending, *, compiled: bool = False) -> None:
        """Nothing is made yet."""
        self._net, self._ending, self.compiled = net, ending, compiled
        self._made: Captured | None = None
        self._rows, self._most = 0, MOST_SLOTS  # rows it was made for, and slots there was room for

    def say(
        self, feed_of: FeedOf, count: int, most: int, *, temperature: float = 0.0, uniform: torch.Tensor | None = None
    ) -> list[RowTokens]:
        """Ids and log-probabilities of ``count`` rows of at most ``most`` tokens each; see ``Captured.run``."""
        first = feed_of(range(1))
        shared, tail = first.shared, first.embeddings.shape[1] - first.shared
        while True:
            try:
                engine = self._fitting(shared, tail, most, count)
                return engine.run(feed_of, [most] * count, temperature=temperature, uniform=uniform)
            except torch.OutOfMemoryError as full:
                # What was counted as free was not: other programs take some too.
                self._most //= 2
                self.close()
                torch.cuda.empty_cache()
                if self._most < STRIDE:
                    raise Refusal("decoding", "no GPU memory is left for its cache", "free some of it") from full

    def close(self) -> None:
        """Give its memory back; it is made again when rows are said."""
        if self._made is not None:
            self._made.close()
        self._made = None

    def _fitting(self, shared: int, tail: int, most: int, rows: int) -> Captured:
        """The engine that is there, or another one where it is too small for these rows."""
        made = self._made
        fits = made is not None and (made.shared, made.tail) == (shared, tail) and made.most >= most
        # Where fewer slots were made than there were rows, more rows would not get more.
        if made is not None and fits and (rows <= self._rows or made.slots < self._rows):
            return made
        self.close()
        slots = min(self._most, slots_for(self._net, shared=shared, tail=tail, most=most, rows=rows))
        self._rows = rows
        self._made = Captured(
            self._net, self._ending, slots=slots, shared=shared, tail=tail, most=most, compiled=self.compiled
        )
        return self._made


def on_gpu(device: torch.device) -> bool:
    """Whether a device is one whose memory torch can tell of."""
    return device.type == "cuda"


def slots_for(net: Any, *, shared: int, tail: int, most: int, rows: int) -> int:
    """How many slots are worth while for so many rows, and fit into the memory that is free now.

    Args:
        net: the model.
        shared: positions that all rows share.
        tail: positions of a prompt behind them.
        most: longest answer, in tokens.
        rows: how many are to be said.

    Raises:
        Refusal: there is no room for a single row.
    """
    device = net.get_input_embeddings().weight.device
    if not on_gpu(device):
        return min(rows, MOST_SLOTS_CPU)
    wanted = min(MOST_SLOTS, math.ceil(rows / STRIDE) * STRIDE)
    told, size = net.config.get_text_config(), net.dtype.itemsize
    wide = 4 * (getattr(told, "intermediate_size", None) or 4 * told.hidden_size) + 8 * told.hidden_size
    kept = sum(2 * heads * d for _, (heads, d) in over.attention_of(net)) * size
    each = kept * room(tail + most) + 16 * most + size * (2 * told.vocab_size + wide)
    once = kept * shared + size * AT_ONCE * (2 * (shared + tail) * told.hidden_size + tail * wide)
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    free = int((1 - LEFT_FREE) * (torch.cuda.mem_get_info(device)[0] + unused)) - once
    if free < each:
        why = f"{each / 2**20:.0f} MiB of GPU memory are needed for a row, and {max(free, 0) / 2**20:.0f} are left"
        raise Refusal("decoding", why, "free some of it, or lower --max-new-tokens")
    return wanted if wanted * each <= free else max(1, free // each // STRIDE * STRIDE)


def engine_for(
    word: str, net: Any, ending: Ending, prompt: torch.Tensor, *, compiled: bool = False, loop_only: str = ""
) -> tuple[SlotEngine | None, str]:
    """The captured engine, or None for the loop; and a line that says which and why.

    Args:
        word: auto, loop or captured.
        net: the model.
        ending: what ends a row.
        prompt: (T, d_model) its prompt's embeddings, on which it is tried.
        compiled: whether blocks go through ``torch.compile``.
        loop_only: why the loop alone can feed this verbalizer's vectors; empty where it is not so.

    Raises:
        Refusal: the word is none; or "captured" was asked for, and the model does not run so.
    """
    check_engine(word)
    device = prompt.device.type
    if word == "loop":
        return None, "engine: loop, as asked for"
    if word == "auto" and device != "cuda":
        return None, f"engine: loop, as auto takes the captured one on CUDA alone, and this is {device}"
    try:
        if loop_only:
            raise Refusal("the captured engine", loop_only, over.LOOP)
        _tried(net, ending, prompt)
    except Refusal as refusal:
        if word == "captured":
            raise
        return None, f"engine: loop, as the captured one cannot be used: {refusal.what}: {refusal.why}"
    return SlotEngine(net, ending, compiled=compiled), f"engine: captured, on {device}"


def _tried(net: Any, ending: Ending, prompt: torch.Tensor) -> None:
    """Refuse a model that does not run over slots, or gives other logits there than by itself."""
    over.attention_of(net)
    try:
        own, again = _both(net, ending, prompt)
    except Refusal:
        raise
    except Exception as error:  # whatever a driver, a compiler or a model of another build raises
        told = " ".join(str(error).split())[:160]
        raise Refusal("the captured engine", f"{type(error).__name__}: {told}", over.LOOP) from error
    close = _CLOSE.get(net.dtype, _CLOSE_HALF) * float(own.abs().max())
    if not bool(torch.isfinite(own).all()):
        return  # what is wrong with the model is refused when it speaks
    if not float((own - again).abs().max()) <= close:
        raise Refusal(f"a {type(net).__name__} over slots", "its logits are others than its own", over.LOOP)


@torch.inference_mode()
def _both(net: Any, ending: Ending, prompt: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (vocabulary,) behind a prompt, by the model alone and over slots; and two steps are made."""
    own = net(inputs_embeds=prompt[None], use_cache=False, logits_to_keep=1).logits[0, -1].float()
    shared = len(prompt) // 2
    # The last position of what is read is left for the step, so that one more is put behind.
    feed = Feed(embeddings=torch.cat([prompt, prompt[-1:]])[None], shared=shared)
    engine = Captured(net, ending, shared=shared, tail=len(prompt) + 1 - shared, most=2, slots=1)
    try:
        engine.read_shared(prompt[:shared])
        hidden = engine.read_prompts(feed, torch.zeros(1, dtype=torch.int64, device=prompt.device))[:, -1]
        again = outputs_of(net)(hidden)[0].float()
        engine.run(lambda _rows: feed, [2])
    finally:
        engine.close()
    return own, again
