"""The screens: every number stands under its own heading."""

from __future__ import annotations

from typing import Any

import pytest

from dragoman.commands.show import show_reconstruction


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("┃│ \n").replace("┃", "│").split("│")]


@pytest.mark.parametrize("with_shuffled", [True, False])
def test_the_shuffled_fve_stands_beside_the_fve_and_not_beside_the_cosine(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], with_shuffled: bool
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    row: dict[str, Any] = {
        "condition": "washed",
        "n": 8,
        "cosine": {"value": 0.25, "extra": {"shuffled": 0.125}},
        "fve": {"value": -0.5, "extra": {"shuffled": -0.75} if with_shuffled else {}},
        "top1": {"value": 0.5},
        "mrr": {"value": 0.625},
    }
    show_reconstruction({"reconstructor": "ar", "site": "m:1", "table": [row]})
    lines = capsys.readouterr().out.splitlines()
    heads = next(cells(line) for line in lines if "condition" in line)
    shown = dict(zip(heads, next(cells(line) for line in lines if "washed" in line), strict=True))
    assert heads[heads.index("FVE") + 1] == "shuffled FVE"
    assert shown == {
        "condition": "washed", "texts": "8", "centred cosine": "+0.250", "FVE": "-0.500",
        "shuffled FVE": "-0.750" if with_shuffled else "", "top-1": "50%", "chance": "12.5%", "MRR": "0.625",
    }  # fmt: skip
