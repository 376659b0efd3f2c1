"""The texts of a calibration, in one run folder: of latents by the pipeline's own routes, of nulls, of concepts.

In: a crossing, latents, nulls and directions of concepts at the source. Out: a run folder with windows, lens words and
rows; from it ``CalibrationText``: each text with what is known around it. Refuses what building a run refuses. Resumes
as a run does.

A null stands under the name of a latent, as it would in a dictionary that were wrong: its evidence is the latent's
windows, with the null's own row, card and words. Fake latents have windows of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from dragoman.calibration.constructed import Pairs, fakes_of, like_activations, shuffled_map, under_nulls
from dragoman.core import Directions, Talk
from dragoman.maps import Crossing
from dragoman.maps.direct import FLOOR
from dragoman.records import Card, Reading, Row
from dragoman.runs.build import RunBuilder
from dragoman.runs.carried import Carried, conditions_of, washable
from dragoman.runs.crossings import lens_words, windows_of
from dragoman.runs.grow import keep_windows, keep_words
from dragoman.runs.options import Options
from dragoman.runs.readings import Readings
from dragoman.scoring.claims import known_windows
from dragoman.scoring.sentences import TextInContext
from dragoman.store import RunFolder
from dragoman.verbalizers.protocol import AnyVerbalizer

RANDOM, SHUFFLED, ANOTHER, FAKE, ALONE = "random", "shuffled map", "another's row", "fake latents", "background alone"
NULLS = (RANDOM, SHUFFLED, ANOTHER, FAKE, ALONE)
CONCEPTS, BACKGROUND = "concepts", "background"


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationText:
    """One ``text``, with the ``feature`` under whose name it stands; ``null``: which null it is, "" for none.

    ``concept``: of a constructed direction, the key of the concept that it is about.
    """

    text: TextInContext
    feature: str
    condition: str
    null: str = ""
    concept: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class TextPlan:
    """Of what texts are asked for.

    ``latents``: at the source, or directions that were made in their place. ``under``: those under whose names nulls
    stand. ``fakes`` and ``counted``: fake latents and the crossing that counted them, None where there is no encoder.
    ``concepts``: constructed directions at the source, beside latents. ``about``: id of such a one -> its concept.
    """

    crossing: Crossing
    readings: Readings
    options: Options
    latents: Directions
    under: Directions
    pairs: Pairs
    fakes: Directions | None
    counted: Crossing | None
    concepts: Directions | None
    about: Mapping[str, str]
    seed: int

    @classmethod
    def of(
        cls,
        crossing: Crossing,
        readings: Readings,
        options: Options,
        latents: Directions,
        pairs: Pairs,
        concepts: Directions | None,
        *,
        about: Mapping[str, str],
        rates: Mapping[str, float],
        nulls: int,
        seed: int,
    ) -> TextPlan:
        """Nulls of what was read; ``rates``: latent -> share of tokens at which it fires."""
        under = latents.pick(under_nulls(latents.ids, nulls, seed=seed))
        often = np.array([rates[name] for name in under.ids])
        fakes, counted = fakes_of(pairs, often, crossing, seed=seed)
        return cls(
            crossing=crossing, readings=readings, options=options, latents=latents, under=under, pairs=pairs,
            fakes=fakes, counted=counted, concepts=concepts, about=about, seed=seed,
        )  # fmt: skip

    @classmethod
    def of_made(
        cls,
        crossing: Crossing,
        readings: Readings,
        options: Options,
        made: Directions,
        about: Mapping[str, str],
        pairs: Pairs,
        *,
        nulls: int,
        seed: int,
    ) -> TextPlan:
        """Made directions in the place of latents; nulls stand under one of each concept, so none is another's twin."""
        of: dict[str, list[str]] = {}
        for name in made.ids:
            of.setdefault(about[name], []).append(name)
        concepts = under_nulls(list(of), nulls, seed=seed)
        under = made.pick([of[key][k % len(of[key])] for k, key in enumerate(concepts)])
        return cls(
            crossing=crossing, readings=readings, options=options, latents=made, under=under, pairs=pairs,
            fakes=None, counted=None, concepts=None, about=about, seed=seed,
        )  # fmt: skip

    def write(self, out: Path, by: AnyVerbalizer, talk: Talk) -> tuple[RunFolder, list[CalibrationText]]:
        """Have it said, or what is left of it; the folder, and every text with what is known around it."""
        own, _ = conditions_of(self.latents, self.crossing, self.options, talk.say)
        conditions = [("", self.latents, one) for one in own] + self._nulls(own)
        if self.concepts is not None:
            rows = self.crossing.directions(self.concepts, "map")
            cards = self.crossing.cards(self.concepts)
            conditions.append((CONCEPTS, self.concepts, _carried(CONCEPTS, rows, "map", cards, "writes")))
        conditions = [(null, rows, self._left(one, talk)) for null, rows, one in conditions]
        builder = RunBuilder(directions=self.latents, backgrounds={"by": self.crossing.background})
        for _, _, one in conditions:
            how = {"route": one.route, "washout": self.options.washout, "cards": one.cards, "reading": one.reading}
            builder.add(one.name, one.directions, **how)  # type: ignore[arg-type]
        alone = self._alone()
        builder.add(BACKGROUND, alone, route="identity", washout="none", vectors=alone.unit)
        folder = builder.write(out, {"by": by}, self.options, talk, {"calibration": True})
        windows = windows_of(self.crossing, self.latents, seed=self.seed) or {}
        if self.fakes is not None and self.counted is not None:
            windows |= windows_of(self.counted, self.fakes, seed=self.seed) or {}
        keep_windows(folder, windows)
        lens = dict[str, dict[str, dict[str, list[str]]]]()
        for _, source, one in conditions:
            lens |= lens_words(self.readings, source.pick(one.directions.ids), {one.name: one.directions})
        if lens:
            keep_words(folder, lens)
        return folder, self._texts(folder, [(null, one) for null, _, one in conditions], windows, lens)

    def _left(self, one: Carried, talk: Talk) -> Carried:
        """Without rows that cannot be washed; where none can, all, which building the run refuses."""
        return washable(one, self.crossing.background, self.options.washout, talk.say)[0] or one

    def _alone(self) -> Directions:
        background = self.crossing.background
        return Directions.of(background.site, background.mean[None], [BACKGROUND], kind="random", origin=BACKGROUND)

    def _nulls(self, own: Sequence[Carried]) -> list[tuple[str, Directions, Carried]]:
        """Nulls by the routes that the latents go by."""
        found: list[tuple[str, Directions, Carried]] = []
        routes: dict[str, Reading | None] = {one.route: one.reading for one in own}
        by_map = [route for route in ("map", "blend", "auto", "dictionary") if route in routes]
        if by_map:
            reading = routes[by_map[0]]
            noise = like_activations(self.pairs.x, self.crossing.source, self.under.ids, seed=self.seed)
            found.append((RANDOM, noise, self._mapped(RANDOM, noise, self.crossing, reading)))
            if self.crossing.map is not None:
                wrong = replace(self.crossing, map=shuffled_map(self.pairs, self.crossing.map, seed=self.seed))
                found.append((SHUFFLED, self.under, self._mapped(SHUFFLED, self.under, wrong, reading)))
            if self.fakes is not None and self.counted is not None:
                mapped = self._mapped(f"{FAKE} by map", self.fakes, self.counted, reading)
                found.append((FAKE, self.fakes, mapped))
        if "direct" in routes and self.fakes is not None and self.counted is not None:
            table = self.counted.direct
            if table is None:
                return found
            n_eff = dict(zip(table.ids, table.n_eff.tolist(), strict=True))
            often = self.fakes.pick(name for name in self.fakes.ids if n_eff[name] >= FLOOR)
            if len(often):
                rows, cards = table.rows(often.ids), self.counted.cards(often)
                found.append((FAKE, often, _carried(f"{FAKE} direct", rows, "direct", cards, routes["direct"])))
        return found

    def _mapped(self, name: str, rows: Directions, crossing: Crossing, reading: Reading | None) -> Carried:
        return _carried(name, crossing.directions(rows, "map"), "map", crossing.cards(rows), reading)

    def _texts(
        self, folder: RunFolder, conditions: Sequence[tuple[str, Carried]], windows: Mapping[str, Any], lens: Any
    ) -> list[CalibrationText]:
        rows: dict[str, dict[str, Row]] = {}
        for k, row in enumerate(folder.rows(), 1):
            if row["sample"] == 0:
                rows.setdefault(row["condition"], {})[row["feature"]] = Row.of(row, f"{folder.path}, row {k}")
        known = {name: known_windows(entry) for name, entry in windows.items()}
        readings: dict[str, Reading | None] = {one.name: one.reading for _, one in conditions}
        mine = [one for null, one in conditions if not null]
        others = {one.name: _other(one, mine) for one in mine}
        found: list[CalibrationText] = []

        def add(condition: str, name: str, row: Row, null: str, other: str, written: Any) -> None:
            known_text = TextInContext(
                row=row, reading=readings.get(condition), windows=known.get(name), other=other, lens=_lens(written)
            )
            about = self.about.get(name, "")
            found.append(CalibrationText(text=known_text, feature=name, condition=condition, null=null, concept=about))

        for null, one in conditions:
            for name, row in rows.get(one.name, {}).items():
                pair = others.get(one.name) if not null else _pair_of(one, conditions)
                other = rows.get(pair or "", {}).get(name)
                written = lens.get(one.name, {}).get(name)
                named = "" if null == CONCEPTS else null  # what is made of a known word is no null
                add(one.name, name, row, named, "" if other is None else other.text, written)
        self._dealt(rows, [one for null, one in conditions if not null], lens, add)
        return found

    def _dealt(self, rows: Any, own: Sequence[Carried], lens: Any, add: Any) -> None:
        """Another's row: texts, cards and lens words of others under these names; what the background alone says.

        Without an encoder all that would be of the other direction is what its own text has. So the row is swapped on
        its way: what the direction writes at the source is its own.
        """
        ids = list(self.under.ids)
        moved = Directions.of(self.under.site, np.roll(self.under.unit, -1, axis=0), ids)
        cards = dict(zip(ids, self.crossing.cards(moved), strict=False))
        alone = rows.get(BACKGROUND, {}).get(BACKGROUND)
        for one in own:
            there, written = rows.get(one.name, {}), lens.get(one.name, {})
            pair = _other(one, own)
            for name, another in zip(ids, ids[1:] + ids[:1], strict=True):
                if name not in there or another not in there:
                    continue
                other = rows.get(pair or "", {}).get(another)
                shown, card = written.get(another), cards.get(name)
                if self.fakes is None:  # no window tells whose row it is
                    card = there[name].card
                    shown = {**written[another], "source": written[name]["source"]} if written else None
                mine = there[another].model_copy(update={"card": card})
                add(one.name, name, mine, ANOTHER, "" if other is None else other.text, shown)
                if alone is not None:
                    mine = alone.model_copy(update={"card": there[name].card})
                    add(one.name, name, mine, ALONE, alone.text, written.get(name))


def _carried(name: str, rows: Directions, route: str, cards: Sequence[Card], reading: Reading | None) -> Carried:
    return Carried(name=name, directions=rows, route=route, cards=cards, reading=reading)


def _other(one: Carried, own: Sequence[Carried]) -> str | None:
    return next(
        (c.name for c in own if c.reading is not None and one.reading is not None and c.reading != one.reading), None
    )


def _pair_of(one: Carried, conditions: Sequence[tuple[str, Carried]]) -> str | None:
    """The condition that is the other reading of a null: of fakes there are both, of others the latent's own."""
    fakes = [c for null, c in conditions if null == FAKE]
    if one in fakes:
        return _other(one, fakes)
    return _other(one, [c for null, c in conditions if not null])


def _lens(entry: Mapping[str, Sequence[str]] | None) -> tuple[Sequence[str], Sequence[str]] | None:
    return None if entry is None else (entry["source"], entry["carried"])
