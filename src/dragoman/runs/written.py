"""From chosen features and a crossing to a run's folder: carry, wash, say, keep.

In: features, a crossing, readings, open verbalizers, options. Out: the run's folder, with rows, windows, tokens and
lens words. Refuses a calibration of other routes before anything is said, features asked for by id of which washing
leaves nothing, and a native verbalizer where the source's background was not read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dragoman.core import Background, Directions, Refusal, Talk
from dragoman.dictionaries import Features
from dragoman.maps import Crossing
from dragoman.records import UNUSABLE_MAP
from dragoman.runs.build import RunBuilder, together
from dragoman.runs.carried import About, Carried, conditions_of, unusable, washable, without
from dragoman.runs.crossings import lens_words, tokens_of, windows_of
from dragoman.runs.grow import keep_tokens, keep_windows, keep_words
from dragoman.runs.identity import entry_of, refuse_uncalibrated
from dragoman.runs.options import Options
from dragoman.runs.readings import Readings
from dragoman.store import RunFolder, plain
from dragoman.store.spans import shown
from dragoman.verbalizers.protocol import AnyVerbalizer
from dragoman.washout import wash


def written_run(
    chosen: Features,
    crossing: Crossing,
    readings: Readings,
    by: AnyVerbalizer,
    native: AnyVerbalizer | None,
    options: Options,
    out: Path,
    settings: Mapping[str, Any],
    confidence: str | Path | None = None,
) -> RunFolder:
    """Carry, wash, say and keep; a calibration of other routes is refused before anything is said."""
    directions, talk = chosen.directions, readings.talk
    carried, about = conditions_of(directions, crossing, options, talk.say)
    routes = sorted({one.route for one in carried})
    refuse_uncalibrated(confidence, chosen.dictionary, by.site, options, by, routes)
    if native is not None:
        carried = _with_natives(chosen.directions, carried, _own(crossing), options, about, talk)
    directions = _explained(chosen, carried, about.get("background", {}))
    verbalizers, backgrounds = {"by": by}, {"by": crossing.background}
    if native is not None:
        # Native and foreign are fed alike: a bare decoder row is as far off one model's shell as off the other's.
        verbalizers = {"by": by, "native": native}
        backgrounds |= {"native": _own(crossing)}
    rows, words = {one.name: one.directions for one in carried if one.route != "as-is"}, {}
    if crossing.source != crossing.target:
        words = lens_words(readings, directions, rows)
    if readings.once:
        readings.close()
    builder = RunBuilder(directions=directions, backgrounds=backgrounds)
    if native is not None:
        builder.add("native", directions, route="identity", washout=options.washout, by="native")
    for one in carried:
        how = {"route": one.route, "washout": options.washout, "cards": one.cards, "reading": one.reading}
        how["flags"] = [UNUSABLE_MAP] if unusable(crossing, one.route) else []
        builder.add(one.name, one.directions, keep_bare=True, map=options.map, **how)
    truth = chosen.dictionary.truth
    folder = builder.write(
        out,
        verbalizers,
        options,
        talk,
        {
            "dictionary": entry_of(chosen.dictionary, directions, crossing.dead),
            "settings": {**options.settings, "batch_size": together(options, verbalizers), **settings},
            **({"labels": whose} if (whose := chosen.dictionary.labelled.to_json()) else {}),
            "digests": dict(crossing.digests),
            "map_report": {crossing.map.method: crossing.map.report["held_out"]} if crossing.map else {},
            "about": ({"left_out": plain(crossing.left_out)} if crossing.left_out else {}) | about,
            **(truth.of(directions.ids) if truth is not None else {}),
        },
        grows=True,
    )
    windows = windows_of(crossing, directions, seed=options.seed)
    if windows is not None:
        keep_windows(folder, windows)
        if tokens := tokens_of(crossing, windows):
            keep_tokens(folder, tokens)
    if words:
        keep_words(folder, words)
    return folder


def _with_natives(
    directions: Directions,
    carried: Sequence[Carried],
    own: Background,
    options: Options,
    about: About,
    talk: Talk,
) -> list[Carried]:
    """Conditions without features whose native row cannot be washed: every text is judged beside its native one."""
    rows = Carried(name="native", directions=directions, route="identity", cards=(), reading=None)
    left, aside = washable(rows, own, options.washout, talk.say)
    if left is None:
        wash(directions, own, options.washout)  # refuses, with the reason
    if not aside:
        return list(carried)
    about["background"] = {"native": aside, **about.get("background", {})}
    kept = [without(one, set(aside)) for one in carried]
    return [one for one in kept if one is not None]


def _explained(chosen: Features, carried: Sequence[Carried], background: Mapping[str, Sequence[str]]) -> Directions:
    """The directions without those set aside in every condition they might have; refuse the latter asked for by id.

    ``background``: by condition, which are set aside.
    """
    kept, ids = {name for one in carried for name in one.directions.ids}, chosen.directions.ids
    aside = {name for some in background.values() for name in some} - kept
    named = [name for name in ids if name in aside and (not kept or name in chosen.by_id)]
    if named:
        of = f"feature {shown(named[0])}" if len(named) == 1 else f"{len(named)} features ({shown(', '.join(named))})"
        why = "what is injected would be nothing but background, of which washing leaves nothing"
        raise Refusal(f"{of} of {chosen.dictionary.name}", why, "leave it out of --features, or say --washout none")
    return chosen.directions.pick([name for name in ids if name not in aside]) if aside else chosen.directions


def _own(crossing: Crossing) -> Background:
    """What the source's stream has in common, for its own verbalizer."""
    if crossing.source_background is None:
        raise Refusal("a native verbalizer", "the source's background was not read", "fit the crossing again")
    return crossing.source_background
