"""What explaining will take, for a person: a line each for models, files, memory, tokens, time and disk.

In: a ``Forecast``. Out: lines on stdout. Refuses nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dragoman.commands.printing import put
from dragoman.runs.progress import duration

if TYPE_CHECKING:
    from dragoman.runs.forecast import Forecast


def show_forecast(found: Forecast) -> None:
    """Everything it says, and what is not known."""
    put(f"{found.features} features at {found.source}, read at {found.target}")
    for model in found.models:
        size = "size not known" if model.bytes is None else f"{_size(model.bytes)} in {found.dtype}"
        fetched = model.fetched_bytes
        fetch = ", its files are not here" if fetched is None else f", {_size(fetched)} to fetch" if fetched else ""
        put(f"model: {model.model} ({', '.join(model.roles)}), {size}{fetch}")
    put(f"to fetch: {'not known' if found.fetched_bytes is None else _size(found.fetched_bytes)}")
    put(f"disk: {_size(found.written_bytes)}, of {_size(found.free_bytes)} free")
    memory = "not known" if found.host_bytes is None else f"{_size(found.host_bytes)} of the host"
    gpu = "" if found.gpu_bytes is None else f", {_size(found.gpu_bytes)} of the GPU"
    put(f"memory at the peak: {memory}{gpu}{f', while {found.peak_step}' if found.peak_step else ''}")
    put(f"models: {'all opened at once' if found.order == 'at once' else 'opened one at a time'}")
    read = ", ".join(f"{tokens} by {model}" for model, tokens in found.read_tokens.items())
    put(f"to read: {f'{found.texts} texts, {read} tokens' if found.texts else 'nothing'}")
    parts = ", ".join(f"{name} {count}" for name, count in found.conditions.items())
    most = "at most " if found.decoded_by == "the most" else "about "
    rare = {
        "measured mean if all fire": "; fewer where features fire too rarely to be read",
        "measured mean, firing as in other texts": "; if features fire as often as in the texts they were counted in",
    }.get(found.decoded_by, "")
    put(f"to say: {parts}, {found.samples} each; {most}{found.decoded_tokens} tokens{rare}")
    time = "not known" if found.seconds is None else f"about {duration(found.seconds)} (measured on {found.machine})"
    put(f"time: {time}; less where the cache holds what was read before")
    for sentence in found.unknown:
        put(f"note: {sentence}")


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
