"""In which order a run's models are opened: all at once, or one at a time where the memory would not do for all.

In: what verbalizers, source and target need (``models.needs``), the device. Out: an ``Order``, and the sentence that
tells of it. Refuses nothing: where a size is not known, one at a time, which takes the least.

At once: verbalizers, source and target lie side by side, and the verbalizers stay. One at a time: each verbalizer is
opened, looked at by the doctor and closed, so that a broken one is refused before hours of reading; then source and
target are read, side by side up to their blocks; then each verbalizer is opened again and speaks, in the order of the
rows. Rows, manifest and resuming know nothing of the order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dragoman.core import Refusal, Site, Talk
from dragoman.models.needs import ModelNeeds, model_needs, verbalizer_needs
from dragoman.models.room import free_bytes
from dragoman.models.sizes import model_ref
from dragoman.runs.forecast import Order, Sizes, constants, gpu_peak, host_peak
from dragoman.runs.options import Options
from dragoman.verbalizers.protocol import UNSAID, AnyVerbalizer, HowFed

COMFORT = 0.75  # of the free memory that a forecast may take: it is right within a third, and others come and go
ROWS = {"cpu": 64, "gpu": 512}  # said together, unless somebody says otherwise


@dataclass(frozen=True, slots=True)
class Planned:
    """An order; ``peak``: bytes at once would take, ``free``: of the device. None of what is not known."""

    order: Order
    peak: int | None
    free: int | None

    @property
    def sentence(self) -> str:
        """Why one at a time."""
        if self.peak is None:
            return "one model at a time, as the size of one is not known"
        free = "" if self.free is None else f", of {self.free / 1e9:.1f} GB that are free"
        return f"one model at a time: all at once would take about {self.peak / 1e9:.1f} GB{free}"


def planned(sizes: Sizes, device: str) -> Planned:
    """The order of a run of these sizes: at once where that is comfortable, or where nothing tells what is free."""
    peak = peak_of(sizes, device, "at once")
    if peak is None:
        return Planned("one at a time", None, None)
    free = free_bytes(device)
    order: Order = "at once" if free is None or peak <= COMFORT * free else "one at a time"
    return Planned(order, peak, free)


def peak_of(sizes: Sizes, device: str, order: Order, *, stay: bool = False) -> int | None:
    """Bytes at the peak on the device; ``stay``: with models that are read left open while words are said."""
    peak = host_peak if device == "cpu" else gpu_peak
    found = peak(sizes, order, stay=stay)
    return None if found is None else found[0]


def readers(source: Site, target: Site, pair: Mapping[str, Mapping[str, int]]) -> list[ModelNeeds]:
    """What is opened to read texts, up to its block; one model at two blocks is opened once."""
    blocks: dict[str, list[int]] = {}
    for site in (source, target):
        blocks.setdefault(model_ref(site), []).append(site.block)
    return [model_needs(ref, pair).upto(max(own)) for ref, own in blocks.items()]


def one_at_a_time(
    by: tuple[AnyVerbalizer | str, HowFed],
    native: AnyVerbalizer | str | None,
    source: Site,
    target: Site,
    options: Options,
    talk: Talk,
    *,
    read: bool,
    workers: bool = False,
    **about: Any,
) -> bool:
    """Whether a run opens its models one at a time, which is told then.

    Args:
        by: the verbalizer or its reference, and how it is fed.
        native: another one, of the source.
        source: what is read of the source's model.
        target: what is read of the target's.
        options: of the run.
        talk: where it is told.
        read: whether texts are read.
        workers: whether verbalizers are opened in workers, which give way to reading, whatever is free here.
        about: ``width`` of the source's stream, ``d_sae`` and ``features`` of the dictionary, ``dtype``, ``device``.
    """
    if workers:
        return read
    sizes = _sizes(by, native, source, target, options, read=read, **about)
    if sizes is None:
        return False
    found = planned(sizes, about["device"])
    if found.order == "one at a time":
        talk.say(found.sentence)
    return found.order == "one at a time"


def readers_stay(
    by: tuple[AnyVerbalizer | str, HowFed],
    native: AnyVerbalizer | str | None,
    source: Site,
    target: Site,
    options: Options,
    **about: Any,
) -> bool:
    """Whether there is room for the models that are read beside those that speak, from one dictionary to the next.

    As of ``one_at_a_time``; not where nothing tells what is free.
    """
    sizes = _sizes(by, native, source, target, options, read=True, **about)
    peak = None if sizes is None else peak_of(sizes, about["device"], "at once", stay=True)
    free = free_bytes(about["device"])
    return peak is not None and free is not None and peak <= COMFORT * free


def _sizes(
    by: tuple[AnyVerbalizer | str, HowFed],
    native: AnyVerbalizer | str | None,
    source: Site,
    target: Site,
    options: Options,
    *,
    read: bool,
    **about: Any,
) -> Sizes | None:
    """What memory follows from; None where a caller opened the verbalizers, or nothing can be opened."""
    refs = [(one, fed) for one, fed in (by, (native, UNSAID)) if isinstance(one, str)]
    if not refs:  # what a caller opened is the caller's
        return None
    pair, device, width = constants()["pair"], about["device"], about["width"]
    try:
        held = [verbalizer_needs(ref, fed, pair).whole for ref, fed in refs]
        opened = readers(source, target, pair) if read else []
    except Refusal:  # whoever opens it says what is wrong with it
        return None
    rows = options.batch_size or ROWS["cpu" if device == "cpu" else "gpu"]
    return Sizes(
        p=width,
        q=held[0].width or width,
        held=held,
        read=opened,
        d_sae=about["d_sae"],
        features=about["features"],
        aligned=read and source != target and options.serving != "as-is" and options.map == "aligned",
        rows=min(rows, max(1, 2 * about["features"])),
        most=options.max_new_tokens,
        dtype=about["dtype"],
    )
