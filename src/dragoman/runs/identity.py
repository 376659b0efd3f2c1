"""What explaining is of: the dictionary's entry in a manifest, and what a calibration must be of to judge the run.

In: features, a verbalizer, options. Out: an entry; a ``RunIdentity``. Refuses, before anything is read, a calibration
of something else.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dragoman.confidence.calibration import RunIdentity
from dragoman.core import Directions
from dragoman.dictionaries import Dictionary, Features
from dragoman.models.prompts import Activations
from dragoman.runs.options import Options
from dragoman.scoring import calibration_of
from dragoman.store import digest, plain
from dragoman.verbalizers.protocol import AnyVerbalizer


def refuse_uncalibrated(
    confidence: str | Path | None, chosen: Features | Activations, by: AnyVerbalizer, options: Options
) -> None:
    """Refuse, before anything is read, a calibration of another pair, dictionary, verbalizer or way of saying.

    By which routes features go is known later, and refused then. Activations have no confidence, and no file is none.
    """
    if confidence is None or isinstance(chosen, Activations):
        return
    calibration = calibration_of(confidence)
    if calibration is not None:
        calibration.refuse_another(run_identity(chosen, by, options), str(confidence))


def run_identity(chosen: Features, by: AnyVerbalizer, options: Options, routes: Sequence[str] = ()) -> RunIdentity:
    """What explaining these features is of, as calibrations tell it."""
    entry = entry_of(chosen.dictionary, chosen.directions)
    return RunIdentity(
        source=str(chosen.directions.site),
        target=str(by.site),
        dictionary=str(entry.get("at") or entry["digest"]),
        verbalizer=plain(by.identity),
        map=options.map,
        routes=tuple(sorted(routes)),
        washout=options.washout,
        samples=options.samples,
        temperature=options.drawn_at,
        max_new_tokens=options.max_new_tokens,
    )


def entry_of(dictionary: Dictionary, directions: Directions, dead: tuple[str, ...] = ()) -> dict[str, object]:
    """What was asked for, where it was read, and a digest: of a packaged folder, else of the rows that were read.

    ``files``: digest of all of its files, the encoder's too, and of how they are read. ``dead``: of those set aside
    because they have no direction, where any are, how many.
    """
    where, entry = dictionary.where, dict[str, object](ref=dictionary.ref, files=dictionary.fingerprint())
    if isinstance(where, Path):
        entry |= {"digest": digest(where)}
    else:
        entry |= {"at": str(where), "digest": digest(str(where), directions.unit)}
    dead = directions.dead or dead
    return entry | ({"dead": len(dead)} if dead else {})
