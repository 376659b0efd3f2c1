"""JSON Schema of what dragoman writes, from its own records: ``python tests/schemas.py`` writes ``docs/schemas``."""

from __future__ import annotations

import json
from pathlib import Path

from dragoman.maps.artifact import CrossingIndex
from dragoman.records import ConditionEntry, Record, Row
from dragoman.runs.forecast import Forecast
from dragoman.scores import Scores
from dragoman.store.runsets import RunSet
from dragoman.view.bundle import Bundle

FOLDER = Path(__file__).parents[1] / "docs" / "schemas"
OF: dict[str, type[Record]] = {
    "row": Row,
    "condition": ConditionEntry,
    "scores": Scores,
    "crossing": CrossingIndex,
    "forecast": Forecast,
    "runs": RunSet,
    "bundle": Bundle,
}


def rendered() -> dict[str, str]:
    """Each file's name and text."""
    return {
        f"{name}.schema.json": json.dumps(
            {
                "$schema": "https://json-schema.org/draft/2020-12/schema",
                **record.model_json_schema(mode="validation"),
            },
            indent=1,
        )
        + "\n"
        for name, record in OF.items()
    }


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, text in rendered().items():
        (FOLDER / name).write_text(text)
