"""``dragoman explain`` of several dictionaries: a run each in one folder, the verbalizers opened once for all.

In: references, and the words of ``explain``. Out: a folder of runs, rows on stdout run by run; or what all would take.
Refuses what ``dragoman.runs.several`` refuses; one dictionary's refusal is told when the others are done.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dragoman.commands.boundary import end_refused
from dragoman.commands.forecast import show_forecast
from dragoman.commands.printing import console, put, put_record, styled, talking
from dragoman.commands.show import rows_of, show_calibration, show_rows
from dragoman.commands.verdict import show_believed
from dragoman.core import Refusal, Talk

if TYPE_CHECKING:
    from dragoman.dictionaries import Asked
    from dragoman.runs.common import Common
    from dragoman.runs.opened import Progress
    from dragoman.runs.run import Run
    from dragoman.runs.several import Named


def work_on_several(
    refs: Sequence[str],
    out: Path,
    *,
    source: str | None,
    read_as: Mapping[str, Any],
    features: Asked | None,
    graph: Path | None,
    as_json: bool,
    dry: bool,
    **how: Any,
) -> None:
    """Explain them, or with ``dry`` tell what all of them would take; ``how``: as of ``Common.of``."""
    from dataclasses import replace

    from dragoman.exports.circuit import features_by_layer
    from dragoman.runs.common import Common
    from dragoman.runs.opened import Progress
    from dragoman.runs.several import of_graph, opened

    progress = Progress(Talk())
    with talking() as progress.now:
        layers = None if graph is None else features_by_layer(graph)
        named = opened(refs, source, out, **read_as)
        if layers is None:
            asked = [replace(one, features=features) for one in named]
        else:
            asked = of_graph(named, layers, progress.talk())
        common = Common.of(**how)
    if dry:
        _forecast(asked, common, out, as_json=as_json)
    else:
        _explain(asked, common, out, progress, graph, as_json=as_json)


def _explain(
    asked: Sequence[Named], common: Common, out: Path, progress: Progress, graph: Path | None, *, as_json: bool
) -> None:
    """Explain them, and show each run when it is done."""
    from dragoman.runs.several import explain_each

    refused = list[Refusal]()
    with closing(explain_each(asked, common, out, progress.talk())) as work:
        while True:
            with talking() as progress.now:  # bars go before rows are shown
                found = next(work, None)
            if found is None:
                break
            one, ended = found
            try:
                if isinstance(ended, Refusal):
                    raise ended
                _show(one, ended, as_json=as_json)
            except Refusal as refusal:  # of a page that cannot be written too
                refused.append(refusal)
    end_refused(refused, len(asked), "dictionaries")
    if not as_json:
        labels = f"export {out} --format circuit-tracer --graph {graph}"
        console().print(styled(f"next: dragoman {f'view {out}' if graph is None else labels}"), soft_wrap=True)


def _show(one: Named, run: Run, *, as_json: bool) -> None:
    """One run, as ``explain`` of its dictionary alone shows it."""
    page = run.write_page()
    rows = rows_of(run.folder)
    if as_json:
        for row in rows:
            put_record("row", {"run": one.name, **row})
        return
    console().print(styled(f"{one.name}: {one.dictionary.site}\n", "bold underline"))
    show_rows(rows, run.manifest)
    show_calibration(run.scores)
    put(f"page: {page}")
    show_believed(rows, run.manifest, None)
    put("")


def _forecast(asked: Sequence[Named], common: Common, out: Path, *, as_json: bool) -> None:
    """Tell what all of them would take."""
    from dragoman.dictionaries import Asked as Words
    from dragoman.runs.dry_run import dry_run
    from dragoman.runs.several import check_each, together

    check_each(asked, common, out)
    by, native = common.by, common.native
    if not isinstance(by, str) or not (native is None or isinstance(native, str)):
        raise Refusal("a forecast", "it is of verbalizers that are not open", "pass their references")
    how, found = common.how, []
    forecast = partial(
        dry_run, by=by, native=native, fed=common.fed, options=common.options, texts=common.texts,
        dtype=how["dtype"], device=how["device"], engine=how["engine"],
    )  # fmt: skip
    for one in asked:
        words = one.features if one.features is None or isinstance(one.features, Words) else Words.parse(one.words)
        found.append(forecast(one.dictionary, out=out / one.name, features=words))
    whole = together(found)
    if as_json:
        put_record("forecast", whole.to_json())
        return
    for one, own in zip(asked, found, strict=True):
        put(f"{one.name}: {own.features} features at {own.source}, {own.decoded_tokens} tokens to say")
    put(f"{len(found)} dictionaries together:")
    show_forecast(whole)
