"""Rounds of captured steps, one look behind, on padded sizes: rehearsed with steps that are replayed plainly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from dragoman.models import captured
from dragoman.models.board import DONE, POSITION, Look
from dragoman.models.captured import Captured
from dragoman.models.decode import Verbalizer
from dragoman.models.engines import slots_for
from tiny_checkpoints import WIDTH, dataset_sidecar_of, save_checkpoint

TOKENS = 10
ROWS = 23
SLOTS = 10


class Graph:
    """A step that is replayed by making it again."""

    def __init__(self, step: Callable[[], None]) -> None:
        self.replay = step


class Rehearsed(Captured):
    """As on a GPU, but for the GPU: sizes, rounds of several steps, and looks that are read a round later."""

    def __init__(self, *args: Any, every: int, **how: Any) -> None:
        super().__init__(*args, **how)
        self.graphs, self._every, self._lag = True, every, 1
        self._sizes = [4, 8, self.slots]
        self._listed = {size: torch.full((size,), self.slots) for size in self._sizes}
        self.made: list[tuple[int, bool]] = []

    def _graph(self, size: int, *, draws: bool) -> Any:
        self.made.append((size, draws))
        return super()._graph(size, draws=draws)

    def _capture(self, step: Callable[[], None]) -> Any:
        for _ in range(3):
            step()
        return Graph(step)

    def _look(self, turn: int) -> Look:
        board = self.board
        assert int(board.state[DONE, self.slots]) == 1 and int(board.state[POSITION, self.slots]) == self.shared
        return Look(turn, board.state.clone(), board.said.clone(), board.sure.clone(), None)

    def _sent(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor


@pytest.fixture(scope="module", params=["kitft", "karvonen"])
def verbalizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Verbalizer:
    sidecar = dataset_sidecar_of("gemma3") if request.param == "karvonen" else None
    folder = save_checkpoint(tmp_path_factory.mktemp("av") / "av", "gemma3", sidecar=sidecar)
    return Verbalizer(folder, contract=request.param)


@pytest.fixture(scope="module")
def vectors() -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(size=(ROWS, WIDTH["gemma3"])).astype(np.float32)


@pytest.mark.parametrize("fed", [1, 64])
@pytest.mark.parametrize("every", [3])
def test_every_row_says_what_the_loop_says(
    verbalizer: Verbalizer, vectors: NDArray[np.float32], fed: int, every: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(captured, "FED", fed)
    monkeypatch.setattr(captured, "AT_ONCE", 5)
    feed = verbalizer.feed(vectors)
    limits = np.random.default_rng(1).integers(1, TOKENS + 1, ROWS).tolist()
    tail = feed.embeddings.shape[1] - feed.shared
    how: Any = {"shared": feed.shared, "tail": tail, "most": TOKENS, "slots": SLOTS}
    engine = Rehearsed(verbalizer.model, verbalizer.ending, every=every, **how)
    for _ in range(2):  # the second run meets what the first one left
        said = engine.run(lambda part: verbalizer.feed(vectors[part.start : part.stop]), limits)
        with torch.inference_mode():
            loop = verbalizer._decode(feed, lambda logits, _alive, _step: logits.argmax(-1), TOKENS)
        wanted = [ids[:limit] for (ids, _), limit in zip(loop, limits, strict=True)]
        assert [ids for ids, _ in said] == wanted
        assert [len(sure) for _, sure in said] == [len(ids) for ids in wanted]
    assert {size for size, _ in engine.made} == {4, 8, SLOTS}, "fewer rows are said by smaller steps"
    engine.run(lambda part: verbalizer.feed(vectors[part.start : part.stop]), [1 + every] * SLOTS)
    begins = tail - 1 if fed > tail and not feed.hooks else 0
    assert engine.steps == begins + 1 + every, "no step is made for rows that are over for certain"
    engine.close()


def test_slots_are_as_many_as_memory_has_room_for(verbalizer: Verbalizer, monkeypatch: pytest.MonkeyPatch) -> None:
    from dragoman.core import Refusal
    from dragoman.models import engines

    class Cuda:
        """A model that says it is on a GPU."""

        dtype, config = torch.bfloat16, verbalizer.model.config

        def get_input_embeddings(self) -> Any:
            return type("Table", (), {"weight": torch.empty(1, device="meta")})

    free = [2**33]
    monkeypatch.setattr(engines.over, "attention_of", lambda _net: [(None, (4, 128))] * 28)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _device: 0)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _device: 0)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (free[0], 2**40))
    how = {"shared": 104, "tail": 6, "most": 200}
    monkeypatch.setattr(engines, "on_gpu", lambda _device: True)
    net: Any = Cuda()
    assert slots_for(net, rows=10_000, **how) == engines.MOST_SLOTS
    assert slots_for(net, rows=3, **how) == 8
    kept = 28 * 2 * 4 * 128 * 2 * 208  # bytes of a row's keys and values
    free[0] = 100 * kept
    found = slots_for(net, rows=10_000, **how)
    assert 8 <= found < 100 and found % 8 == 0
    free[0] = kept // 2
    with pytest.raises(Refusal, match="MiB of GPU memory are needed for a row, and 0 are left"):
        slots_for(net, rows=1, **how)
