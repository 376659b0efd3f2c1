"""What explaining will take, reckoned from sizes alone: memory at the peak, tokens, time, disk.

In: sizes of models, dictionary and texts; constants that were measured, with the machine they were measured on. Out: a
``Forecast``, which is JSON too. Refuses nothing: what is not known is None, and a sentence says what and why.

Memory is that of the step that takes most. Reading: source and target are open up to their blocks, beside them the
verbalizers where all models are opened at once (``runs.order``), with sums over pairs of tokens (``maps.moments``,
``models.aligned``) that do not grow with more texts. Saying: the verbalizers, at once or each alone, with a cache of
keys and values and the logits of one step. Constants: the process itself with its libraries, and
what a tokenizer takes for every byte of its file.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from dragoman.core import BAND
from dragoman.maps.direct import WHOLE
from dragoman.maps.moments import FOLDS, PER_DOCUMENT
from dragoman.models.needs import ModelNeeds
from dragoman.models.room import gpu_name
from dragoman.records import Record

Order = Literal["at once", "one at a time"]  # of opening models, see ``runs.order``
DecodedBy = Literal["measured mean", "measured mean, firing as in other texts", "measured mean if all fire", "the most"]
_SINGLE, _DOUBLE = 4, 8  # bytes of a number
_NUMBER = {"float32": 4, "bfloat16": 2, "float16": 2}
# Texts read together, and characters of short ones that are: products of many rows keep a GPU busier, and Python starts
# fewer.
TEXTS, CHARACTERS = {"cpu": 32, "gpu": 64}, {"cpu": 0, "gpu": 16_384}
_LONGEST = 256  # tokens of a text that are read
_INSIDE = 12  # rows of a block's width that are held inside it: queries, keys, values, the wider layer, its products
_POOLED = 2  # copies of the products of pooled texts, while the post's map is fitted
_WAITING = 1024  # rows that wait for their product, by fold
_CALIBRATED = 512  # features by which the penalty is chosen, by fold
_GRAM = 12  # bytes of an entry of features that fire together, sparse
_TOGETHER = 0.02  # of all pairs of features, how many ever do
_CELLS = 2**24  # activations encoded at a time
_LOGITS = 3  # copies of one step's logits: as they come, in float32, their logarithms
_PROMPT = 150  # tokens of a verbalizer's prompt, about
_RIVALS, _OTHERS = 50, 2000  # watched besides each feature of a dictionary too large to count whole; besides all


class ModelForecast(Record):
    """A model that is opened. ``roles``: by, native, source, target. ``bytes``: its weights in memory."""

    model: str
    roles: tuple[str, ...]
    parameters: int | None
    bytes: int | None
    fetched_bytes: int | None


class Forecast(Record):
    """What a run will take; None where something is not known, which ``unknown`` says.

    ``features``, ``texts``: how many. ``conditions``: features by condition, at most. ``read_tokens``: by model.
    ``decoded_tokens``: of all explanations, ``decoded_by``: by the verbalizer's measured mean, by that if features
    fire as often as in the texts of a table that lies beside the dictionary, by that if all fire often enough to have
    the reading "fires", which reading alone tells, or the most there can be.
    ``fetched_bytes``: from the hub. ``written_bytes``: on the disk, of ``free_bytes`` there. ``host_bytes``,
    ``gpu_bytes``: memory at the peak, in the step ``peak_step``, models opened in this ``order``. ``seconds``: from
    constants of ``machine``.
    """

    source: str
    target: str
    device: str
    dtype: str
    features: int
    conditions: dict[str, int]
    samples: int
    texts: int
    models: tuple[ModelForecast, ...]
    read_tokens: dict[str, int]
    decoded_tokens: int
    decoded_by: DecodedBy
    fetched_bytes: int | None
    written_bytes: int
    free_bytes: int
    host_bytes: int | None
    gpu_bytes: int | None
    peak_step: str
    order: Order
    seconds: int | None
    machine: str | None
    unknown: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """What memory and time follow from.

    ``p``, ``q``: widths of source and target. ``held``: the verbalizers. ``read``: models opened to read texts, up to
    their blocks, none where nothing is read. ``d_sae``: features of the dictionary; ``aligned``: whether they are
    counted token by token. ``rows``: said together. ``most``: tokens of a long one among their explanations.
    """

    p: int
    q: int
    held: Sequence[ModelNeeds]
    read: Sequence[ModelNeeds]
    d_sae: int
    features: int
    aligned: bool
    rows: int
    most: int
    dtype: str


@cache
def constants() -> Mapping[str, Any]:
    """What was measured."""
    return json.loads((files("dragoman.runs") / "constants.json").read_text(encoding="utf-8"))


def weights_bytes(model: ModelNeeds, dtype: str) -> int | None:
    """Of a model in memory."""
    return None if model.parameters is None and model.opened is None else _in_memory(model) * _NUMBER[dtype]


def host_peak(sizes: Sizes, order: Order = "at once", *, stay: bool = False) -> tuple[int, str] | None:
    """Bytes at the peak where all is computed on the CPU, and the step; None where a model's size is not known.

    ``stay``: whether models that are read stay open while words are said.
    """
    if not _known(sizes):
        return None

    def lying(model: ModelNeeds) -> int:
        return (weights_bytes(model, sizes.dtype) or 0) + _tokenizer(model)

    steps = _steps(sizes, order, lying, "cpu", stay=stay)
    step = max(steps, key=lambda name: steps[name])
    return int(constants()["process_bytes"] + _rows(sizes) + steps[step]), step


def gpu_peak(sizes: Sizes, order: Order = "at once", *, stay: bool = False) -> tuple[int, int, str] | None:
    """Bytes at the peak on a GPU and on its host, and the GPU's step; sums lie on both, as they go to the disk.

    ``stay``: as of ``host_peak``.
    """
    if not _known(sizes):
        return None
    steps = _steps(sizes, order, lambda model: weights_bytes(model, sizes.dtype) or 0, "gpu", stay=stay)
    step = max(steps, key=lambda name: steps[name])
    # Weights are pages of their files on the way to the device, which the system takes back; they are not counted.
    host = constants()["gpu_process_bytes"] + sum(map(_tokenizer, (*sizes.held, *sizes.read)))
    return int(steps[step]), int(host + max(_opening(sizes), _on_host(sizes))), step


def _known(sizes: Sizes) -> bool:
    return all(weights_bytes(model, sizes.dtype) is not None for model in (*sizes.held, *sizes.read))


def _steps(sizes: Sizes, order: Order, lying: Callable[[ModelNeeds], int], kind: str, *, stay: bool) -> dict[str, int]:
    """Bytes of each step on a device of a kind, ``cpu`` or ``gpu``; ``lying``: of one open model.

    One at a time no verbalizer stays open.
    """
    alone, held = [lying(model) for model in sizes.held], 0
    if order == "at once":
        held = sum(alone)
        steps = {"saying": held + max((_saying(sizes, model) for model in sizes.held), default=0)}
    else:
        each = (one + _saying(sizes, model) for one, model in zip(alone, sizes.held, strict=True))
        steps = {"saying": max(each, default=0)}
    if sizes.read:
        read = sum(map(lying, sizes.read))
        texts = TEXTS[kind]
        steps["reading"] = held + read + _working(sizes, texts) + _every_row(sizes, texts)
        if sizes.aligned or kind == "cpu":
            steps["reading"] += _sums(sizes)
        steps["saying"] += read if stay else 0
    return steps


def _opening(sizes: Sizes) -> int:
    """A dictionary's rows while they are brought to unit length, as stored and as directions, some in float64."""
    return sizes.p * (2 * _SINGLE * sizes.d_sae + 2 * _DOUBLE * min(BAND, sizes.d_sae))


def _rows(sizes: Sizes) -> int:
    """A dictionary's rows; token by token they are counted with its encoder."""
    return 0 if sizes.aligned and sizes.read else _SINGLE * sizes.d_sae * sizes.p


def _on_host(sizes: Sizes) -> int:
    """What lies beside the process where models are on a GPU: rows, sums as they go to the disk, a direct table."""
    found = _rows(sizes) + (_sums(sizes) if sizes.read else 0)
    # Every feature's direct row, as it comes from the GPU and at unit length.
    return found + (2 * _SINGLE * sizes.d_sae * sizes.q if sizes.aligned and sizes.d_sae > WHOLE else 0)


def _tokenizer(model: ModelNeeds) -> int:
    told = constants()
    return int(model.tokenizer_bytes * told["tokenizer_bytes_a_byte"]) or told["tokenizer_bytes"]


def _working(sizes: Sizes, texts: int) -> int:
    """One batch of so many texts inside a model, and its rows of both."""
    tokens = texts * _LONGEST
    return tokens * (_INSIDE * max(sizes.p, sizes.q) * _NUMBER[sizes.dtype] + _SINGLE * (sizes.p + 2 * sizes.q))


def _every_row(sizes: Sizes, texts: int) -> int:
    """Direct rows of all features of a large dictionary, which a GPU sums besides those that are counted."""
    large = sizes.aligned and sizes.d_sae > WHOLE
    return sizes.d_sae * (_DOUBLE * sizes.q + 2 * _SINGLE * texts * PER_DOCUMENT) if large else 0


def _sums(sizes: Sizes) -> int:
    """Sums over pairs of tokens, and what they are made with; of pooled texts, one reading's and what is solved."""
    p, q = sizes.p, sizes.q
    products = _DOUBLE * (p * p + p * q + q * q)
    if not sizes.aligned:
        return _POOLED * products if len(sizes.read) == 2 else 0
    moments = products * (FOLDS + 1) + FOLDS * _WAITING * _SINGLE * (p + q)
    watched = sizes.d_sae if sizes.d_sae <= WHOLE else min(sizes.d_sae, _OTHERS + sizes.features * (1 + _RIVALS))
    firing = _DOUBLE * watched * (p + q) + FOLDS * _CALIBRATED * _DOUBLE * q
    gram = _GRAM * watched**2 * _TOGETHER if watched <= WHOLE else 0
    encoder = 3 * _SINGLE * sizes.d_sae * p  # both of its matrices, and the rows as directions
    return int(moments + firing + gram + encoder + _SINGLE * _CELLS)


def _saying(sizes: Sizes, model: ModelNeeds) -> int:
    """Cache and logits of rows that a verbalizer says together."""
    number = _NUMBER[sizes.dtype]
    keys = 2 * (model.blocks or 0) * (model.keys or model.width or 0) * (_PROMPT + sizes.most) * number
    return sizes.rows * (keys + _LOGITS * _SINGLE * (model.vocabulary or 0))


def this_machine(device: str, dtype: str) -> tuple[Mapping[str, Any] | None, str]:
    """The constants measured on a machine like this one, and what this one is called."""
    name = f"{_processor()}, {os.cpu_count()} cores" if device == "cpu" else gpu_name(device)
    found = [m for m in constants()["machines"] if m["machine"] == name and m["dtype"] == dtype]
    return (found[0] if found else None), name


@cache
def _processor() -> str:
    """The processor's name."""
    try:
        told = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        told = []
    named = (line.partition(":")[2].strip() for line in told if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()


def seconds_on(
    machine: Mapping[str, Any],
    sizes: Sizes,
    read_tokens: Mapping[str, int],
    said: Mapping[str, int],
    order: Order = "at once",
) -> int:
    """About how long it takes.

    Args:
        machine: constants of it: parameters opened a second, operations a second.
        sizes: of what is opened.
        read_tokens: by model.
        said: tokens to say, by verbalizer's model.
        order: one at a time, verbalizers are opened to be looked at, and once more to speak.
    """
    by_name = {model.ref: model for model in (*sizes.held, *sizes.read)}
    read = sum(2 * _in_memory(by_name[name]) * tokens for name, tokens in read_tokens.items())
    if sizes.aligned and sizes.read:
        read += 2 * sizes.d_sae * sizes.p * read_tokens.get(sizes.read[0].ref, 0)
    decoded = sum(2 * (by_name[name].parameters or 0) * tokens for name, tokens in said.items())
    times = 2 if order == "one at a time" and sizes.read else 1
    opened = times * sum(map(_in_memory, sizes.held)) + sum(map(_in_memory, sizes.read))
    whole = opened / machine["opened_a_second"] + read / machine["read_a_second"] + decoded / machine["said_a_second"]
    return max(1, round(whole + machine["start_seconds"]))


def _in_memory(model: ModelNeeds) -> int:
    """Parameters that are opened: up to a block, of a model that is only read."""
    return (model.parameters if model.opened is None else model.opened) or 0
