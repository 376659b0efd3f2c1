"""Processes that share a batch, and parts of a share, learn what one process learns from the whole batch."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
from pathlib import Path

import pytest
import torch

import av
import size
from small_world import World

ROWS = torch.Generator().manual_seed(3)
X, Y = torch.randn(8, 3, generator=ROWS), torch.randn(8, 2, generator=ROWS)


def learnt(rank: int, world: int, pieces: int) -> torch.Tensor:
    """A linear map after three steps on this process's share of the same eight rows."""
    weight = torch.nn.Parameter(torch.zeros(3, 2))

    def losses(_step: int) -> list[torch.Tensor]:
        shares = [torch.arange(8)[rank::world][k::pieces] for k in range(pieces)]
        return [(X[some] @ weight - Y[some]).pow(2).mean() / pieces for some in shares]

    av.descend([weight], losses, rate=0.3, steps=3, seconds=0.0, say=str)
    return weight.detach()


def one_of_two(rank: int, port: int, out: Path) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1")
    os.environ["MASTER_PORT"] = str(port)
    with av.joined("cpu") as device:
        assert device == "cpu" and av.first() == (rank == 0)
        with pytest.raises(SystemExit, match="give --steps"):
            av.descend([torch.nn.Parameter(torch.zeros(1))], lambda _: [], rate=1.0, steps=None, seconds=1.0, say=str)
        torch.save(learnt(rank, 2, 2), out / f"{rank}.pt")


def test_two_processes_and_parts_learn_what_one_learns(tmp_path: Path) -> None:
    alone = learnt(0, 1, 1)
    assert alone.abs().min() > 0 and av.first()
    assert torch.allclose(learnt(0, 1, 4), alone, atol=1e-6)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    forked = multiprocessing.get_context("fork")  # what is imported need not be imported again
    both = [forked.Process(target=one_of_two, args=(rank, port, tmp_path)) for rank in (0, 1)]
    for process in both:
        process.start()
    for process in both:
        process.join(60)
    assert [process.exitcode for process in both] == [0, 0]
    for rank in (0, 1):
        assert torch.allclose(torch.load(tmp_path / f"{rank}.pt", weights_only=True), alone, atol=1e-6)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # PEFT asks an older transformers
def test_what_a_step_takes_is_told(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--base", str(world.source.model), "--av-batch", "4", "--pieces", "2", "--steps", "1", "--device", "cpu"]
    monkeypatch.setattr("sys.argv", ["size.py", *words, "--block", "0", "--vectors", "3600"])
    size.main()
    told = json.loads(capsys.readouterr().out)
    assert told["processes"] == 1 and told["batch"] == 4 and 0 < told["learnt"] < told["parameters"]
    assert told["rows_per_s"] == pytest.approx(4 / told["step_s"], rel=0.01)
    assert told["hours"] == pytest.approx(1 / told["rows_per_s"], abs=1e-3)
