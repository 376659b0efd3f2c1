"""Reconstructors: open one, and say which directions it should find in a run's texts.

In: a reference, a run folder. Out: an open reconstructor, Directions at its site. Refuses one whose layout nobody
knows, and a site at which the run has no directions.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from dragoman.core import Directions, Refusal, Site
from dragoman.explain.manifest import SOURCE_ROWS
from dragoman.models.reconstruct import LocalReconstructor
from dragoman.models.resolve import hub_place
from dragoman.store import RunFolder
from dragoman.verbalizers import registry


def open_reconstructor(
    ref: str, *, layout: str | None = None, dtype: str = "float32", device: str = "cpu"
) -> LocalReconstructor:
    """A reconstructor in the layout that is named, or that the registry knows; ours are in kitft's.

    Raises:
        Refusal: nobody knows its layout, the registry knows another one, or its folder in the repository.
    """
    known, place = registry.find(ref), hub_place(ref)
    if known is not None and known.ar_folder and place and not place.inside and not Path(ref).exists():
        why = f"it lies in a folder of that repository, {known.ar_folder}"
        raise Refusal(f"reconstructor {ref}", why, f"use {known.reader_ref}")
    sure = known.reader_layout if known else None
    if layout and sure and layout != sure:
        raise Refusal(
            f"layout '{layout}' for {ref}", f"it is laid out as {sure}, as dragoman's registry knows", "leave it out"
        )
    named = layout or sure
    if named is None:
        raise Refusal(
            f"reconstructor {ref}",
            "its layout is not known, and its files do not say",
            "pass --ar-layout kitft or --ar-layout easynla, as its authors say",
        )
    return LocalReconstructor(ref, layout=named, dtype=dtype, device=device)


def reconstructable(run: RunFolder, site: Site) -> Directions | dict[str, Directions]:
    """What a reconstructor at ``site`` should find: the dictionary's own rows, or the carried ones before washout.

    Raises:
        Refusal: the run has directions at neither.
    """
    source, target = Site.parse(run.manifest["source"]), Site.parse(run.manifest["target"])
    kept, _ = run.vectors()
    if (site.model, site.block) == (source.model, source.block):
        if SOURCE_ROWS not in kept:
            raise Refusal(
                f"{run.path}",
                "it does not hold its dictionary's rows",
                "give the command that made it once more: it keeps what was said, and adds them",
            )
        return Directions.of(source, kept[SOURCE_ROWS], run.manifest["features"])
    if (site.model, site.block) != (target.model, target.block):
        raise Refusal(
            f"a reconstructor at {site}",
            f"the run's directions are at {source} and {target}",
            "use a reconstructor of one of these",
        )
    rows_of: Mapping[str, object] = {k.removeprefix("bare/"): v for k, v in kept.items() if k.startswith("bare/")}
    order = {c: list(dict.fromkeys(r["feature"] for r in run.rows() if r["condition"] == c)) for c in rows_of}
    return {c: Directions.of(target, kept[f"bare/{c}"], order[c]) for c in rows_of if order[c]}
