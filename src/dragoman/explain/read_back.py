"""Which directions a reconstructor should find in a run's texts.

In: a run folder, a reconstructor's site. Out: Directions at that site. Refuses a site at which the run has none.
"""

from __future__ import annotations

from collections.abc import Mapping

from dragoman.core import Directions, Refusal, Site
from dragoman.explain.manifest import SOURCE_ROWS
from dragoman.store import RunFolder


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
