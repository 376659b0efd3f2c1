"""``explain`` before it is done: what it would open, fetch, read, say and take; nothing is opened, fetched or written.

In: an open dictionary and what ``explain`` is asked for. Out: a ``Forecast``. Refuses what sizes and words tell: blocks
and widths that do not go together, features beyond the dictionary, too few texts, texts that are not here, verbalizers
whose place nobody knows.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from dragoman.core import Refusal, Site, refuse_other_site
from dragoman.dictionaries import Asked, Dictionary
from dragoman.dictionaries.beside import BACKGROUND, TABLE
from dragoman.maps import Crossing, DirectTable
from dragoman.maps.crossing import refuse_far
from dragoman.maps.direct import FLOOR
from dragoman.models.asked import check_device_word, server_of
from dragoman.models.needs import ModelNeeds, VerbalizerNeeds, folder_here, verbalizer_needs
from dragoman.models.sizes import check_place
from dragoman.models.vllm.client import Client
from dragoman.runs.forecast import (
    DecodedBy,
    Forecast,
    ModelForecast,
    Sizes,
    constants,
    gpu_peak,
    host_peak,
    seconds_on,
    this_machine,
    weights_bytes,
)
from dragoman.runs.given import refuse_crossed_as_is
from dragoman.runs.grow import refuse_another
from dragoman.runs.identity import refuse_uncalibrated
from dragoman.runs.options import Options
from dragoman.runs.order import COMFORT, ROWS, Planned, planned, readers
from dragoman.runs.texts import Texts
from dragoman.store.arrays import load_background
from dragoman.store.outputs import check_run
from dragoman.verbalizers.protocol import UNSAID, HowFed

_SAMPLED = 200  # texts whose tokens are counted
_LONGEST = 256  # tokens of a text that are read
_ROW = 3_000  # bytes of an explanation with its diagnostics


def dry_run(
    dictionary: Dictionary,
    *,
    by: str,
    out: Path,
    features: Asked | None = None,
    through: Crossing | None = None,
    native: str | None = None,
    fed: HowFed | None = None,
    options: Options | None = None,
    texts: Texts | None = None,
    confidence: Path | None = None,
    dtype: str = "float32",
    device: str = "cpu",
    engine: str = "auto",
) -> Forecast:
    """What ``explain`` would take with the same words; see there.

    Raises:
        Refusal: as the module says.
    """
    served = server_of(engine)
    if served is not None:
        Client(served).about()
    options, texts, pair = options or Options(), texts or Texts(), constants()["pair"]
    source = dictionary.site
    first = verbalizer_needs(by, fed or UNSAID, pair)
    second = None if native is None else verbalizer_needs(native, UNSAID, pair)
    target, alike = first.site, first.site == source
    check_place(source, dictionary.d_model)
    check_place(target, what="what the verbalizer reads")
    _refuse_early(source, target, options, through, out, device)
    refuse_uncalibrated(confidence, dictionary, target, options)
    ids, count = _features(dictionary, features)
    beside = dictionary.direct_folder(target) if texts.own is None else None
    if through is None:
        of_both = native is not None
        texts.refuse_few(
            source, target, map=options.map, route=options.serving, native=of_both, counted=beside is not None
        )
    given = [] if through is not None else _given(texts, options, alike, beside is not None, second is not None)
    read = readers(source, target, pair) if given else []
    tokens, guessed = _tokens(read, given)
    table = through.direct if through is not None else None if beside is None else DirectTable.load(beside / TABLE)
    elsewhere = dictionary.direct_folder(target) if table is None and through is None and read else None
    if elsewhere is not None:
        table = _as_often(elsewhere, tokens[read[-1].ref])
    conditions = _conditions(dictionary, options, table, ids, count, alike=alike, fitted=through)
    known = "fires" not in conditions or (table is not None and ids is not None)
    if second is not None:
        conditions = {"native": count, **conditions}
    models = _models(first, second, by, native, read, dtype)
    sizes = Sizes(
        p=dictionary.d_model,
        q=first.whole.width or dictionary.d_model,
        held=[one.whole for one in (first, second) if one is not None],
        read=read,
        d_sae=dictionary.d_sae,
        features=count,
        aligned=not alike and options.serving != "as-is" and options.map == "aligned" and bool(read),
        rows=min(options.batch_size or ROWS["cpu" if device == "cpu" else "gpu"], max(1, sum(conditions.values()))),
        most=min(options.max_new_tokens, 2 * max(_mean(one, options) for one in (by, native) if one is not None)),
        dtype=dtype,
    )
    said, by_mean = _said(conditions, options, by, native)
    unknown = [one.why for one in [*sizes.held, *read] if one.why] + guessed
    order = planned(sizes, device)
    memory, gpu = _memory(sizes, device, order, unknown)
    seconds, machine = None, None
    constant, name = this_machine(device, dtype)
    whole = {first.whole.ref: said["by"]}
    if second is not None:
        whole[second.whole.ref] = whole.get(second.whole.ref, 0) + said["native"]
    if served is not None:
        unknown.append("time: a server says the words, and nothing is known of how fast")
    elif constant is None:
        unknown.append(f"time: no constant for this machine ({name}, {dtype})")
    elif any((one.parameters or 0) < constant.get("least_parameters", 0) for one in sizes.held):
        least = f"{constant['least_parameters'] / 1e9:g} thousand million parameters"
        unknown.append(f"time: on {name} it was measured with verbalizers of {least} and more; smaller ones are slower")
    elif memory is not None:
        seconds, machine = seconds_on(constant, sizes, tokens, whole, order.order), name
    fetched = [one.fetched for one in (first, second) if one] + [one.fetched_bytes for one in models]
    return Forecast(
        source=str(source),
        target=str(target),
        device=device,
        dtype=dtype,
        features=count,
        conditions=conditions,
        samples=options.samples,
        texts=len(given),
        models=models,
        read_tokens=tokens,
        decoded_tokens=sum(said.values()),
        decoded_by=_decoded_by(by_mean, known, elsewhere is not None),
        fetched_bytes=None if None in fetched else sum(one or 0 for one in fetched) + _rows_bytes(dictionary, sizes),
        written_bytes=_written(sizes, conditions, options.samples) + sum(one.written for one in [*sizes.held, *read]),
        free_bytes=shutil.disk_usage(_there(out)).free,
        host_bytes=None if memory is None else memory[0],
        gpu_bytes=gpu,
        peak_step="" if memory is None else memory[1],
        order=order.order,
        seconds=seconds,
        machine=machine,
        unknown=tuple(dict.fromkeys(unknown)),
    )


def _refuse_early(
    source: Site, target: Site, options: Options, through: Crossing | None, out: Path, device: str
) -> None:
    """Refuse what ``explain`` refuses by places, words and the folder that is there."""
    check_device_word(device)
    if options.serving == "as-is":
        refuse_crossed_as_is(through)
        refuse_far(source, target)
    elif through is not None:
        refuse_other_site("dictionary directions", source, through.source)
        through.refuse_others(None, target)
    check_run(out)
    refuse_another(out, {"source": str(source), "target": str(target), "settings": options.settings})


def _as_often(lying: Path, tokens: int) -> DirectTable:
    """What lies beside a dictionary was counted on other texts; of so many tokens each feature fires as often."""
    table, counted = DirectTable.load(lying / TABLE), load_background(lying / BACKGROUND).n
    return replace(table, n_eff=table.n_eff * np.float32(tokens / max(1, counted)))


def _decoded_by(by_mean: bool, known: bool, elsewhere: bool) -> DecodedBy:
    if not by_mean:
        return "the most"
    if not known:
        return "measured mean if all fire"
    return "measured mean, firing as in other texts" if elsewhere else "measured mean"


def _given(texts: Texts, options: Options, alike: bool, beside: bool, native: bool) -> list[str]:
    """The texts that are read, as ``prepare`` has it. ``beside``: whether the direct route's table lies there."""
    if not alike and options.map == "aligned" and options.serving != "as-is":
        return texts.sentences if beside else texts.all
    if not alike and options.serving == "direct" and not native:
        return [] if beside else texts.openings
    return texts.all if options.serving == "blend" and not alike and not beside else texts.sentences


def _features(dictionary: Dictionary, asked: Asked | None) -> tuple[list[str] | None, int]:
    """Ids where the words alone tell them, and how many there are, rows without a direction among them."""
    if asked is None:
        ids = [str(one) for one in dictionary.indices]
        return (ids, len(ids)) if ids else (None, dictionary.d_sae)
    return asked.ids_and_count(dictionary.d_sae, dictionary.name, dictionary.weights.names)


def _conditions(
    dictionary: Dictionary,
    options: Options,
    table: DirectTable | None,
    ids: Sequence[str] | None,
    count: int,
    *,
    alike: bool,
    fitted: Crossing | None,
) -> dict[str, int]:
    """Features by condition; those that fire too rarely for "fires" are left out where a table tells."""
    if alike or options.route is not None:
        return {options.route or "identity": count}
    counted = (
        fitted.direct is not None if fitted is not None else options.map == "aligned" or options.serving == "direct"
    )
    fires = counted and dictionary.layout != "vectors"
    firing = count
    if fires and table is not None:
        often = {name for name, n in zip(table.ids, table.n_eff.tolist(), strict=True) if n >= FLOOR}
        firing = sum(name in often for name in ids) if ids is not None else min(count, len(often))
    wanted = {"fires": firing if fires else 0, "writes": count}
    if options.reading in ("fires", "writes"):
        wanted = {options.reading: wanted[options.reading]}
    return {name: n for name, n in wanted.items() if n}


def _models(
    first: VerbalizerNeeds,
    second: VerbalizerNeeds | None,
    by: str,
    native: str | None,
    read: Sequence[ModelNeeds],
    dtype: str,
) -> tuple[ModelForecast, ...]:
    """Every opening of a model, in order; what is fetched is told with the first."""
    told: list[tuple[ModelNeeds, str]] = [(first.whole, f"by {by}")]
    if second is not None:
        told.append((second.whole, f"native {native}"))
    roles = ("source", "target") if len(read) == 2 else ("source and target",)
    told += zip(read, roles[: len(read)], strict=True)
    seen, models = set[str](), []
    for needs, role in told:
        fetched = 0 if needs.ref in seen else needs.fetched
        seen.add(needs.ref)
        size = weights_bytes(needs, dtype)
        models.append(
            ModelForecast(
                model=needs.ref, roles=(role,), parameters=needs.parameters, bytes=size, fetched_bytes=fetched
            )
        )
    return tuple(models)


def _tokens(read: Sequence[ModelNeeds], texts: Sequence[str]) -> tuple[dict[str, int], list[str]]:
    """Tokens that each model reads, by some of the texts; and what was guessed."""
    some = [texts[k * len(texts) // min(len(texts), _SAMPLED)] for k in range(min(len(texts), _SAMPLED))]
    found, guessed = {}, []
    for needs in read:
        if needs.tokenizer is None:
            letters = constants()["characters_a_token"]
            lengths = [min(_LONGEST, len(text) / letters) for text in some]
            guessed.append(f"{needs.ref}'s tokenizer is not here: tokens are letters by {letters}")
        else:
            lengths = _lengths(needs.tokenizer, some)
        found[needs.ref] = round(sum(lengths) / len(some) * len(texts))
    return found, guessed


def _lengths(path: Path, texts: Sequence[str]) -> list[float]:
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise Refusal(f"{path}", "it is no tokenizer that can be opened", "fetch the model again") from error
    tokenizer.no_truncation()
    return [float(min(_LONGEST, len(one.ids))) for one in tokenizer.encode_batch(list(texts))]


def _said(conditions: Mapping[str, int], options: Options, by: str, native: str | None) -> tuple[dict[str, int], bool]:
    """Tokens to say, by verbalizer; and whether all of it is by a measured mean, not the most there can be."""
    means, said, known = constants()["explanation_tokens"], {"by": 0}, True
    for name, count in conditions.items():
        key, ref = ("native", str(native)) if name == "native" else ("by", by)
        known = known and ref in means
        said[key] = said.get(key, 0) + round(count * options.samples * _mean(ref, options))
    return said, known


def _mean(ref: str, options: Options) -> int:
    """Tokens of one explanation, as measured; where nobody did, the most there can be."""
    return min(constants()["explanation_tokens"].get(ref, options.max_new_tokens), options.max_new_tokens)


def _memory(sizes: Sizes, device: str, order: Planned, unknown: list[str]) -> tuple[tuple[int, str] | None, int | None]:
    """Host bytes and the step, and the GPU's bytes."""
    if device == "cpu":
        found = host_peak(sizes, order.order)
        if found is None:
            unknown.append("memory: a model's size is not known")
        return found, None
    both = gpu_peak(sizes, order.order)
    if both is None:
        unknown.append("memory: a model's size is not known")
        return None, None
    unknown.append("memory on a GPU is reckoned by the same sums; in two runs on one H200 it was 4 and 13 % too much")
    if order.free is None and (least := gpu_peak(sizes, "one at a time")) is not None:
        least_gb, comfortable = least[0] / 1e9, both[0] / COMFORT / 1e9
        unknown.append(
            f"what is free on {device} is not known here: with less than {comfortable:.1f} GB models are opened one at "
            f"a time, which takes {least_gb:.1f} GB"
        )
    return (both[1], both[2]), both[0]


def _rows_bytes(dictionary: Dictionary, sizes: Sizes) -> int:
    """What comes over the network of a dictionary that is not here: all of it where its encoder is read."""
    if isinstance(dictionary.where, Path) or folder_here(str(dictionary.where.place)) is not None:
        return 0
    return 4 * sizes.p * (2 * sizes.d_sae if sizes.aligned else sizes.features)


def _written(sizes: Sizes, conditions: Mapping[str, int], samples: int) -> int:
    """The run's folder, and what is kept in the cache of reading."""
    vectors = 4 * (sum(conditions.values()) * 2 * sizes.q + sizes.features * sizes.p)
    kept = 0
    if sizes.read:
        kept = 8 * 5 * (sizes.p**2 + sizes.p * sizes.q + sizes.q**2)
        kept += 8 * sizes.d_sae * (sizes.p + sizes.q) if sizes.aligned else 0
    return sum(conditions.values()) * samples * _ROW + vectors + kept


def _there(out: Path) -> Path:
    """The nearest folder that is there."""
    whole = out.absolute()
    return next(place for place in (whole, *whole.parents) if place.is_dir())
