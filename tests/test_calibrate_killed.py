"""``dragoman calibrate`` killed while it reads and while it writes: the same command ends with the same bytes."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from pathlib import Path

import pytest

from nursery import Nursery, wait_until
from small_world import World
from tiny_checkpoints import CORPUS

KEPT = ("reading/held-out", "reading/pairs", "run/rows.jsonl", "run/contexts.json", "run/vectors.safetensors")


@pytest.fixture(scope="module")
def arguments(world: World) -> list[str]:
    """Its words, over enough texts for features to fire often in two thirds of them."""
    lines = [f"{' '.join(CORPUS)[7 * (i % 60) : 7 * (i % 60) + 90]} number {i}".split() for i in range(90)]
    (world.root / "many.txt").write_text("\n".join(map(" ".join, lines)))
    return [
        *("calibrate", world.sae, "--by", world.av, "--source", str(world.source)),
        *("--texts", str(world.root / "many.txt"), "--documents", "90", "--latents", "20", "--nulls", "3"),
        *("--known", "3", "--max-new-tokens", "8", "--batch-size", "3", "-o", str(world.root / "pair.json")),
    ]


def work(cache: Path) -> Path:
    """Where a calibration keeps what was read and said."""
    (found,) = (cache / "calibration").iterdir()
    return found


def test_killed_calibrations_end_with_the_bytes_of_one_that_was_not(
    world: World, arguments: list[str], tmp_path: Path, nursery: Nursery
) -> None:
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    codes, chance, killed = [nursery.run(arguments, cache=whole, here=True)], random.Random(3), 0
    for _ in range(6):
        before = sizes(torn)
        child = nursery.start(arguments, cache=torn)
        wait_until(lambda before=before: sizes(torn) > before)
        time.sleep(chance.uniform(0, 0.05))
        os.kill(child, signal.SIGKILL)
        killed += nursery.ended() == -signal.SIGKILL
    assert killed == 6
    codes.append(nursery.run(arguments, cache=torn))
    assert codes == [1, 1]  # models of chance: what they say is not borne out, and no calibration is written
    assert not (world.root / "pair.json").exists()
    for name in KEPT:
        assert (work(torn) / name).read_bytes() == (work(whole) / name).read_bytes(), name
    assert len((work(whole) / "run/rows.jsonl").read_text().splitlines()) > 40
    for name in KEPT[:2]:  # a bit that a disk has flipped
        content = bytearray((work(torn) / name).read_bytes())
        content[len(content) * 2 // 3] ^= 4
        (work(torn) / name).write_bytes(content)
    assert nursery.run(arguments, cache=torn, log=tmp_path / "said") == 1
    told = (tmp_path / "said.err").read_text()
    assert "calibrating by where latents of" in told and not (tmp_path / "said.out").read_text()
    assert all(f"cached reading {name} is damaged" in told for name in ("held-out", "pairs")), told
    for name in KEPT:
        assert (work(torn) / name).read_bytes() == (work(whole) / name).read_bytes(), name


def sizes(cache: Path) -> int:
    """Bytes of what was read and said; grows with every step that is kept."""
    total = 0
    for file in cache.glob("calibration/**/*"):
        with contextlib.suppress(FileNotFoundError):  # written under another name first, and renamed meanwhile
            total += file.stat().st_size if file.is_file() else 0
    return total
