"""JSON Schema of what dragoman writes and prints, from its records: ``python tests/schemas.py`` makes ``docs/schemas``.

One schema takes an object as it is kept in a file and as ``--json`` prints it: with its ``schema``, and what a command
adds to it.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
from pydantic import TypeAdapter

from dragoman.commands.printing import VERSIONS
from dragoman.comparison.records import Comparison, Ranking
from dragoman.confidence import calibration, checked
from dragoman.doctor.finding import Finding
from dragoman.maps.artifact import CrossingIndex
from dragoman.records import ConditionEntry, Row
from dragoman.runs.forecast import Forecast
from dragoman.runs.label import Labelled
from dragoman.runs.match import Matching
from dragoman.scores import Scores
from dragoman.store.runsets import RunSet
from dragoman.verbalizers.registry import Checkpoint, Recommendation
from dragoman.view.bundle import Bundle

FOLDER = Path(__file__).parents[1] / "docs" / "schemas"
TEXT, NUMBER, OBJECTS = {"type": "string"}, {"type": "number"}, {"type": "array", "items": {"type": "object"}}
TEXTS = {"type": "array", "items": TEXT}
# What an object is made of, and what is added to it where it is printed.
OF: dict[str, tuple[Any, dict[str, Any]]] = {
    "row": (
        Row,
        {"run": TEXT, "reading": TEXT, "confidence": {"type": "object"}, "short": TEXT, "claims": OBJECTS}
        | {"context_label": {"type": "object"}},
    ),
    "condition": (ConditionEntry, {}),
    "scores": (Scores, {"run": TEXT}),
    "crossing": (CrossingIndex, {}),
    "forecast": (Forecast, {}),
    "runs": (RunSet, {}),
    "bundle": (Bundle, {}),
    "comparison": (Comparison, {"page": TEXT}),
    "ranking": (Ranking, {"page": TEXT, "dictionary": TEXT}),
    "checkpoint": (
        Checkpoint,
        {"usable": {"type": "boolean"}, "gigabytes": {"anyOf": [NUMBER, {"type": "null"}]}, "saes": OBJECTS},
    ),
    "recommendation": (Recommendation, {"rank": {"type": "integer"}, "checkpoint": {"type": "object"}}),
    "reliability": (checked.Reliability, {"confidences": TEXT}),
    "matching": (Matching, {}),
    "labels": (Labelled, {}),
    "calibration": (calibration.Reliability, {"calibration": TEXT}),
    "findings": (
        None,
        {"faults": {"type": "integer"}, "seconds": NUMBER}
        | {"findings": {"type": "array", "items": TypeAdapter(Finding).json_schema()}},
    ),
    "export": (
        None,
        {"format": TEXT, "source": TEXT, "condition": TEXT, "explanations": NUMBER, "empty": NUMBER}
        | {"must_exist": OBJECTS, "files": TEXTS},
    ),
    "page": (None, {"page": TEXT}),
}


def schema_of(kind: str) -> dict[str, Any]:
    """The JSON Schema of one kind of object."""
    record, more = OF[kind]
    told: dict[str, Any] = {"type": "object", "additionalProperties": False, "properties": {}}
    if record is not None:
        told = TypeAdapter(record).json_schema(mode="validation")
    version = {"schema": {"const": f"dragoman.{kind}/{VERSIONS[kind]}"}} if kind in VERSIONS else {}
    told["properties"] = version | told["properties"] | more
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **told}


@cache
def validator(kind: str) -> jsonschema.Draft202012Validator:
    """What holds an object against the published schema of its kind."""
    return jsonschema.Draft202012Validator(json.loads((FOLDER / f"{kind}.schema.json").read_text()))


def rendered() -> dict[str, str]:
    """Each file's name and text."""
    return {f"{kind}.schema.json": json.dumps(schema_of(kind), indent=1) + "\n" for kind in OF}


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, text in rendered().items():
        (FOLDER / name).write_text(text)
