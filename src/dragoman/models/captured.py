"""The engine that says many rows at once: slots of a preallocated cache, one step captured as a CUDA graph.

In: a model, what ends a row, and for each row what its contract feeds. Out: token ids and log-probabilities of every
row. A row that is over gives its slot to the next one while the others go on; nothing waits for the device within a
step, and what has been said is looked at every few steps, one look behind. On a CPU the same steps run uncaptured.
Refuses models that slots are not known for, and those whose logits come out otherwise than the model's own.

What rows share is read once. Of the rest of a prompt a short one is fed through the step itself, a token at a time; a
longer one, or one that a contract changes inside a block, is read at once for all rows that begin together.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.compiler import config as limits

from dragoman.core import Refusal
from dragoman.models import slots as over
from dragoman.models.board import CLOSERS, COUNT, DONE, FACTS, LIMIT, POSITION, TOKEN, UNDEFINED, Board, Look, chosen
from dragoman.models.choose import Ending, undefined
from dragoman.models.contracts.base import Feed
from dragoman.models.fused import fused_norms
from dragoman.models.hooked import hooked
from dragoman.models.load import decoder_blocks
from dragoman.models.logits import logits_of

STRIDE = 8  # sizes of captured steps are multiples of it
FED = 16  # a prompt's end of at most so many tokens is fed through the step
AT_ONCE = 256  # rows whose prompts are made together
EVERY = 4  # steps between two looks

FeedOf = Callable[[range], Feed]
RowTokens = tuple[list[int], list[float]]


class Captured:
    """A model's decode step over slots.

    ``slots``: rows said together. ``shared``, ``tail``: positions of a prompt that all rows share, and those behind.
    ``most``: longest answer in tokens. ``compiled``: blocks go through ``torch.compile`` before they are captured,
    which pays after some thousands of rows. ``every``: steps between two looks at what was said.
    """

    @torch.inference_mode(mode=False)  # what is kept is kept alike, whoever asks
    def __init__(
        self,
        net: Any,
        ending: Ending,
        *,
        shared: int,
        tail: int,
        most: int,
        slots: int,
        compiled: bool = False,
        every: int = EVERY,
    ) -> None:
        """Take the memory; a step is captured when one of its size is first asked for."""
        self.net, self.ending, self.shared, self.tail, self.most, self.slots = net, ending, shared, tail, most, slots
        self._embed, self._logits = net.get_input_embeddings(), outputs_of(net)
        table = self._embed.weight
        self.device, self.graphs = table.device, table.device.type == "cuda"
        vocabulary = int(net.get_output_embeddings().weight.shape[0])
        self.cache = over.SlotCache(net, slots=slots, shared=shared, own=room(tail + most))
        self.board = Board(self.device, slots, most, vocabulary, ending)
        self._prompts = torch.zeros(slots + 1, min(tail, FED), table.shape[1], dtype=table.dtype, device=self.device)
        self._every, self._lag = (every, 1) if self.graphs else (1, 0)
        sizes = {max(STRIDE, _down(slots // part)) for part in (1, 2, 4, 8)} if self.graphs else set()
        self._sizes = sorted({min(size, slots) for size in sizes} | {slots})
        self._listed = {size: torch.full((size,), slots, device=self.device) for size in self._sizes}
        self._held: dict[int, list[int]] = {}
        self._captures: dict[tuple[int, bool], Any] = {}
        self._pool: Any = None
        self._compiled = [torch.compile(b.forward, dynamic=False) for b in decoder_blocks(net)] if compiled else []
        self.steps = 0  # made since the last run began

    @property
    def sizes(self) -> list[int]:
        """Numbers of rows that steps are captured for, rising."""
        return list(self._sizes)

    def close(self) -> None:
        """Give the memory back."""
        self._captures.clear()
        self.cache.close()

    @torch.inference_mode()
    def run(
        self,
        feed_of: FeedOf,
        limits: Sequence[int],
        *,
        temperature: float = 0.0,
        uniform: torch.Tensor | None = None,
    ) -> list[RowTokens]:
        """Say rows 0, 1, 2 ... of which ``limits`` gives the most tokens each.

        Args:
            feed_of: what a contract feeds for a range of rows; all rows share the same first positions.
            limits: most tokens of each row.
            temperature: 0 takes the likeliest; above it, ``uniform`` (rows, most tokens) decides what is drawn.
            uniform: numbers in [0, 1), each row's own.

        Returns:
            Ids and natural-log probabilities of each row, in order, the token that ends it included.

        Raises:
            Refusal: logits that are no numbers.
        """
        if temperature > 0 and uniform is None:
            raise ValueError("a temperature above 0 needs numbers to draw at")
        run = _Run(self, feed_of, list(limits), uniform)
        self.board.state.zero_()
        self.board.state[DONE] = 1
        # Steps of padded sizes write there too: at the first of a slot's own positions, never before it.
        self.board.state[POSITION] = self.shared
        self.board.temperature = temperature or 1.0
        self.board.inverse.fill_(1 / self.board.temperature)
        self._held.clear()
        self.steps = 0
        looks: deque[Look] = deque()
        turn = 0
        while run.goes_on:
            run.begin_rows(turn)
            steps = min(self._every, run.left)
            if steps:
                self._advance(run.slots, steps, draws=temperature > 0)
                turn += 1
                looks.append(self._look(turn))
                run.count(steps)
            if not steps or len(looks) > self._lag:
                run.take(looks.popleft())
        return run.found()

    def read_shared(self, embeddings: torch.Tensor) -> None:
        """Read what all rows share, embeddings (shared, d_model), into the cache."""
        if self.shared:
            at = torch.arange(self.shared, device=self.device)
            self.cache.hidden(embeddings, over.Rows(at * 0, at, "shared", 0))

    def read_prompts(self, feed: Feed, slot: torch.Tensor) -> torch.Tensor:
        """Read prompts behind the shared positions, all but their last one; hidden rows (n, tail - 1, d_model)."""
        behind = feed.embeddings[:, self.shared : -1]
        count, length = behind.shape[:2]
        at = (self.shared + torch.arange(length, device=self.device)).repeat(count)
        rows = over.Rows(slot.repeat_interleave(length), at, "prompt", length)
        with hooked(self.net, feed.hooks, self.shared, (count, length)):
            return self.cache.hidden(behind.reshape(count * length, -1), rows).view(count, length, -1)

    def put(self, slot: list[int], feed: Feed, limits: list[int], uniform: torch.Tensor | None, *, fed: bool) -> None:
        """Let rows begin in slots: their prompts' ends wait to be fed, or are read now."""
        at = self._sent(torch.tensor(slot))
        state = torch.zeros(FACTS, len(slot), dtype=torch.int32)
        state[POSITION] = self.shared + (0 if fed else self.tail - 1)
        state[COUNT] = 1 - self.tail if fed else 0
        state[LIMIT] = torch.tensor(limits, dtype=torch.int32)
        if not fed and self.tail > 1:
            self.read_prompts(feed, at)
        # What is fed stands where it is asked for by position: read prompts have only their last row to give.
        last = feed.embeddings[:, self.shared :] if fed else feed.embeddings[:, -1:]
        self._prompts[at, -last.shape[1] :] = last.to(self._prompts.dtype)
        if uniform is not None:
            self.board.uniform[at, : uniform.shape[1]] = self._sent(uniform)
        self.board.state[:, at] = self._sent(state)

    def _step(self, rows: over.Rows, *, draws: bool) -> None:
        """One token of each row: of its prompt while that lasts, then of its own."""
        state = self.board.state[:, rows.slot]
        # How far the end of the prompt still is; from there on a slot's own tokens are read.
        ahead = self.shared + self.tail - 1 - rows.position
        kept = self._prompts.shape[1]
        of_prompt = self._prompts[rows.slot, (kept - 1 - ahead).clamp(0, kept - 1)]
        own = self._embed(state[TOKEN].long())
        hidden = self.cache.hidden(torch.where((ahead >= 0)[:, None], of_prompt, own), rows)
        chosen(self._logits(hidden), rows.slot, self.board, draws=draws)

    def _rows(self, slot: torch.Tensor, *, whole: bool = False) -> over.Rows:
        position = self.board.state[POSITION][slot].long()
        length = self.cache.own if self.graphs else int(position.max()) + 1 - self.shared
        return over.Rows(slot, position, "step", length, whole)

    def _advance(self, live: list[int], steps: int, *, draws: bool) -> None:
        """A round of steps of the slots in ``live``."""
        self.steps += steps
        if not self.graphs:
            rows = self._rows(torch.tensor(live), whole=live == list(range(len(live))))
            self._step(rows, draws=draws)
            return
        size = next(size for size in self._sizes if size >= len(live))
        graph = self._graph(size, draws=draws)
        listed = live + [self.slots] * (size - len(live))
        if self._held.get(size) != listed:
            self._listed[size].copy_(self._sent(torch.tensor(listed)))
            self._held[size] = listed
        for _ in range(steps):
            graph.replay()

    def _graph(self, size: int, *, draws: bool) -> Any:
        """The captured step of a size; made when it is first asked for, on slots that hold nothing."""
        key = (size, draws)
        if key not in self._captures:
            self._held.pop(size, None)
            self._listed[size].fill_(self.slots)
            with self._quicker():
                self._captures[key] = self._capture(
                    lambda: self._step(self._rows(self._listed[size]), draws=draws),
                )
        return self._captures[key]

    def _capture(self, step: Callable[[], None]) -> Any:
        side = torch.cuda.Stream(self.device)
        side.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(side):  # kernels are compiled and libraries take their workspaces before the capture
            for _ in range(3):
                step()
        torch.cuda.current_stream(self.device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            step()
        self._pool = graph.pool()
        return graph

    @contextmanager
    def _quicker(self) -> Iterator[None]:
        """Inside, blocks run compiled where that was asked for; else norms, which a compiler fuses too, in one kernel.

        A block's six kernels a norm are the most there is to gain beside products without a compiler.
        """
        if not self._compiled:
            with fused_norms(self.device, lambda: [self.net]):
                yield
            return
        blocks: Any = decoder_blocks(self.net)
        # One graph a size and kind of block; past the limit blocks would run as they are, without a word.
        limits.recompile_limit = max(limits.recompile_limit, 64)
        for block, compiled in zip(blocks, self._compiled, strict=True):
            block.forward = compiled
        try:
            yield
        finally:
            for block in blocks:
                del block.forward  # the class has its own

    def _look(self, turn: int) -> Look:
        """Copy what the board says; on a GPU behind the steps that are queued, without waiting for them."""
        parts = (self.board.state, self.board.said, self.board.sure)
        if not self.graphs:
            return Look(turn, *parts, None)
        state, said, sure = (
            torch.empty(part.shape, dtype=part.dtype, pin_memory=True).copy_(part, non_blocking=True) for part in parts
        )
        arrived = torch.cuda.Event()
        arrived.record()
        return Look(turn, state, said, sure, arrived)

    def _sent(self, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor on the device, without waiting for it."""
        return tensor.pin_memory().to(self.device, non_blocking=True) if self.graphs else tensor


class _Run:
    """Rows of one run: which have begun, where they stand, and what those that are over said."""

    def __init__(self, engine: Captured, feed_of: FeedOf, limits: list[int], uniform: torch.Tensor | None) -> None:
        self._engine, self._feed_of, self._limits, self._uniform = engine, feed_of, limits, uniform
        self._free = list(range(engine.slots))[::-1]
        self._owner: dict[int, int] = {}  # slot -> row
        self._since: dict[int, int] = {}  # slot -> round in which its row began
        self._left: dict[int, int] = {}  # slot -> steps that its row can still use
        self._closers: dict[int, int] = {}  # slot -> tokens met that may end the tag
        self._begun = 0
        self._waiting: deque[tuple[range, Feed]] = deque()
        self._said: list[RowTokens | None] = [None] * len(limits)
        self._first = True
        self._fed = True

    @property
    def goes_on(self) -> bool:
        return self._begun < len(self._limits) or bool(self._owner)

    @property
    def slots(self) -> list[int]:
        return sorted(self._owner)

    @property
    def left(self) -> int:
        """Steps after which every row is over for certain, whatever it says: more would be made for nobody."""
        return max((self._left[slot] for slot in self._owner), default=0)

    def count(self, steps: int) -> None:
        """So many steps are on their way."""
        for slot in self._owner:
            self._left[slot] = max(0, self._left[slot] - steps)

    def found(self) -> list[RowTokens]:
        return [said for said in self._said if said is not None]

    def begin_rows(self, turn: int) -> None:
        """Give free slots to the next rows."""
        engine = self._engine
        while self._free and self._begun < len(self._limits):
            left = len(self._limits) - self._begun
            # Prompts that are read at once cost little more for many rows than for one: wait for an eighth of them.
            if not self._fed and self._owner and len(self._free) < min(left, engine.slots // 8):
                return
            rows, feed = self._next(min(left, len(self._free)))
            slot = [self._free.pop() for _ in rows]
            limits = [self._limits[row] for row in rows]
            uniform = None if self._uniform is None else self._uniform[rows.start : rows.stop]
            engine.put(slot, feed, limits, uniform, fed=self._fed)
            self._owner.update(zip(slot, rows, strict=True))
            self._since.update(dict.fromkeys(slot, turn))
            fed = engine.tail - 1 if self._fed else 0
            self._left.update((at, fed + limit) for at, limit in zip(slot, limits, strict=True))
            self._closers.update(dict.fromkeys(slot, 0))
            self._begun = rows.stop

    def _next(self, most: int) -> tuple[range, Feed]:
        """The next rows, at most so many, and their feed."""
        if self._waiting:
            rows, feed = self._waiting.popleft()
        else:
            # Fed prompts are made ahead of need, as making them waits for the device; read ones carry hooks of all
            # their rows, so they are made for just those that begin.
            count = AT_ONCE if self._fed and not self._first else min(most, AT_ONCE)
            rows = range(self._begun, min(self._begun + count, len(self._limits)))
            feed = self._feed_of(rows)
            self._check(feed)
        if len(rows) > most and not feed.hooks:
            self._waiting.appendleft((rows[most:], _part(feed, slice(most, None))))
            rows, feed = rows[:most], _part(feed, slice(0, most))
        return rows, feed

    def _check(self, feed: Feed) -> None:
        """Read what is shared, with the first rows; see how the rest of prompts is read."""
        engine = self._engine
        if any(engine.shared + engine.tail - 1 in hook.positions for hook in feed.hooks):
            raise Refusal("a hook at the last position of a prompt", "that position is read by the step", over.LOOP)
        if not self._first:
            return
        self._first = False
        self._fed = not feed.hooks and engine.tail <= FED
        engine.read_shared(feed.embeddings[0, : engine.shared])

    def take(self, look: Look) -> None:
        """Take what rows said that are over by a look, and free their slots."""
        look.wait()
        state = look.state.tolist()
        for slot, row in list(self._owner.items()):
            if self._since[slot] >= look.turn:
                continue  # the look is older than the row
            if state[UNDEFINED][slot]:
                raise undefined()
            if not state[DONE][slot] and state[CLOSERS][slot] == self._closers[slot]:
                continue
            self._closers[slot] = state[CLOSERS][slot]
            count = max(0, state[COUNT][slot])
            ids = look.said[slot, :count].tolist()
            end = self._engine.ending.within(ids)
            if end is None and not state[DONE][slot]:
                continue
            self._said[row] = ids[:end], look.sure[slot, :end].tolist() if end else look.sure[slot, :count].tolist()
            del self._owner[slot]
            self._free.append(slot)


def _part(feed: Feed, rows: slice) -> Feed:
    return Feed(embeddings=feed.embeddings[rows], shared=feed.shared)


def outputs_of(net: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """What makes logits (rows, vocabulary) of rows (rows, d_model); the output layer itself where that is all."""
    told: Any = net.config.get_text_config()
    names = ("final_logit_softcapping", "logit_scale", "logits_scaling")
    return logits_of(net) if any(getattr(told, name, None) for name in names) else net.get_output_embeddings()


def room(tokens: int) -> int:
    """Positions kept for so many tokens: a multiple of sixteen."""
    return math.ceil(tokens / 16) * 16


def _down(slots: int) -> int:
    return slots // STRIDE * STRIDE
