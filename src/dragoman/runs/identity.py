"""What explaining is of: the dictionary's entry in a manifest, and what a calibration must be of to judge the run.

In: a dictionary, a verbalizer, options. Out: an entry; a ``RunIdentity``. Refuses, before anything is read, a
calibration of something else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dragoman.confidence.calibration import MADE, RunIdentity
from dragoman.core import Directions, Refusal, Site
from dragoman.dictionaries import Dictionary
from dragoman.dictionaries.layout import VECTORS
from dragoman.runs.options import Options
from dragoman.scoring import calibration_of
from dragoman.store import digest, plain
from dragoman.verbalizers.protocol import AnyVerbalizer


def refuse_uncalibrated(
    confidence: str | Path | None,
    of: Dictionary | Site,
    target: Site,
    options: Options,
    by: AnyVerbalizer | None = None,
    routes: Sequence[str] = (),
) -> None:
    """Refuse, before anything is read or said, a calibration of another pair, dictionary, verbalizer, route or way.

    Args:
        confidence: the file; none, or one that is no calibration, is not refused.
        of: whose features are explained; a site where no dictionary is open, only vectors that live there.
        target: where the verbalizer reads.
        options: of the run.
        by: the verbalizer; not compared before it is open.
        routes: that features go by; where left out, what the options alone tell of them.
    """
    if (calibration := calibration_of(confidence)) is None:
        return
    if isinstance(of, Site) and calibration.on != MADE:
        why = "it is a calibration, which is of a dictionary, and none is named"
        raise Refusal(f"{confidence}", why, "name the dictionary, or leave --confidence out")
    verbalizer = None if by is None else plain(by.identity)
    found = run_identity(of, target, options, verbalizer or {}, routes or _sure_routes(options))
    calibration.refuse_another(found, f"{confidence}")


def _sure_routes(options: Options) -> tuple[str, ...]:
    """The routes that features go by whatever is read; which of them have the reading "fires" is known later."""
    if options.route is not None:
        return (options.route,)
    return ("direct",) if options.reading == "fires" else ("map",)


def run_identity(
    of: Dictionary | Site, target: Site, options: Options, verbalizer: Mapping[str, Any], routes: Sequence[str] = ()
) -> RunIdentity:
    """What explaining features of a dictionary, or vectors of a site, is of, as calibrations tell it."""
    where = "" if isinstance(of, Site) or of.layout == VECTORS else of.where
    return RunIdentity(
        source=str(of if isinstance(of, Site) else of.site),
        target=str(target),
        dictionary=digest(where) if isinstance(where, Path) else str(where),
        verbalizer=verbalizer,
        map=options.map,
        routes=tuple(sorted(routes)),
        washout=options.washout,
        samples=options.samples,
        temperature=options.drawn_at,
        max_new_tokens=options.max_new_tokens,
    )


def entry_of(dictionary: Dictionary, directions: Directions, dead: tuple[str, ...] = ()) -> dict[str, object]:
    """What was asked for, where it was read, and a digest: of a packaged folder, else of the rows that were read.

    ``files``: digest of all of its files, the encoder's too, and of how they are read. ``layout``: of vectors without
    an encoder alone, that they are that. ``dead``: of those set aside because they have no direction, where any are,
    how many.
    """
    where, entry = dictionary.where, dict[str, object](ref=dictionary.ref, files=dictionary.fingerprint())
    if isinstance(where, Path):
        entry |= {"digest": digest(where)}
    else:
        entry |= {"at": str(where), "digest": digest(str(where), directions.unit)}
    if dictionary.layout == VECTORS:
        entry["layout"] = VECTORS
    dead = directions.dead or dead
    return entry | ({"dead": len(dead)} if dead else {})
