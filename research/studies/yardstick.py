"""What every measure of features sees, of every route and every control: rows first, then their texts.

In: a ground, a ``Library``. Out: conditions (directions at the target, of chosen latents), what the judging texts say
of each latent, and measures of rows. Refuses what the rooms below refuse.

Texts are of three kinds that share no document: what the product reads (maps, direct tables), nine thousand openings
for the controls' rows, and the judging texts, from which firing words, hard negatives and windows are taken. Latents
are chosen by frequency alone, except where a measure needs a kind: those of one word, those without a topic.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from dragoman.core import Directions
from dragoman.maps import Crossing, LinearMap
from dragoman.measures.fake import fake_dictionary
from dragoman.measures.firing import FiringWords
from dragoman.models.encoding import encoded
from studies.cast import Cast, standing
from studies.choice import LEAST_FIRING, Chosen, at_most, choose, firing_counts
from studies.cofiring import MOST, Whitening
from studies.controls import dealt, earlier_rows, fake_direct, like_activations, shuffled_map, silent_rows
from studies.ground import Ground
from studies.library import Library
from studies.lines import Lines
from studies.row_judge import FEW, RowJudge, nearest_columns, own_words, telling
from studies.tokens import Tokens
from studies.tuning import Tuner, fit_documents, post_maps


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How many latents of each kind at most: see ``Chosen``; ``fakes``: random projections."""

    drawn: int = 600
    fakes: int = 300
    one_word: int = 400
    topicless: int = 320
    topical: int = 100


@dataclass(frozen=True, kw_only=True, eq=False)
class PairReading:
    """One direction of the embedded pair, read: all that rows are made from and judged by.

    ``fit``: tokens of the openings that direct and control rows rest on; ``judge``: tokens of the judging texts.
    ``fakes``: random projections with thresholds, at the source, and ``fake_encoder`` that says where they fire.
    """

    ground: Ground
    crossing: Crossing
    fit: Tokens
    judge: Tokens
    chosen: Chosen
    fakes: Directions
    fake_encoder: Any
    library: Library
    seed: int = 0
    notes: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, ground: Ground, library: Library, sizes: Sizes, *, seed: int = 0) -> PairReading:
        """Read the texts and choose the latents."""
        crossing = library.crossing(ground)
        fit, judge = library.split(ground, "direct"), library.split(ground, "judge")
        chosen = choose(
            ground,
            judge,
            library.words(ground),
            drawn=sizes.drawn,
            one_words=sizes.one_word,
            topicless=sizes.topicless,
            topical=sizes.topical,
            seed=seed,
        )
        counts = firing_counts(judge)
        able = [i for i, n in counts.items() if n >= LEAST_FIRING and i in ground.latents]
        rates = np.array([counts[i] for i in at_most(able, sizes.fakes, seed=seed + 1)]) / len(judge)
        fakes, encoder = fake_dictionary(fit.x[ground.source.block], rates, site=ground.source, seed=seed)
        return cls(
            ground=ground,
            crossing=crossing,
            fit=fit,
            judge=judge,
            chosen=chosen,
            fakes=fakes,
            fake_encoder=encoder,
            library=library,
            seed=seed,
            notes=dict(chosen.notes),
        )

    @cached_property
    def words(self) -> FiringWords:
        """Which words the dictionary's latents fire on, in the judging texts."""
        return self.library.words(self.ground)

    @cached_property
    def fake_fired(self) -> Any:
        """(judging tokens, fakes) sparse activations of the fake latents."""
        return encoded(self.fake_encoder, self.judge.x[self.ground.source.block])

    @cached_property
    def whitening(self) -> Whitening:
        """Of the target's rows, over the openings."""
        return self.library.whitening(self.ground)

    def routes(self) -> dict[str, Directions]:
        """Every condition's rows at the target; the two of fake latents have their own ids."""
        ground, target, every = self.ground, self.ground.target, self.chosen.every
        rows = ground.directions(every)
        crossing = self.crossing
        found: dict[str, Directions] = {"writes": crossing.directions(rows, "map")}
        if crossing.direct is None:
            raise RuntimeError("a crossing over tokens has a direct table")
        able = crossing.direct.frequent(rows)
        found["fires"] = crossing.directions(able, "direct")
        found["blend"] = crossing.directions(able, "blend")
        found |= {name: made.carry(rows) for name, made in self.post_maps().items()}
        found["silent"] = silent_rows(self.fit, target, able.ids)
        found["before the first firing"] = earlier_rows(self.fit, target, able.ids)
        found["dealt rows"] = dealt(found["writes"], self.seed)
        moments = crossing.moments
        forward = crossing.map
        if moments is None or forward is None:
            raise RuntimeError("a crossing over tokens has a map")
        noise = like_activations(moments, ground.source, len(rows), np.random.default_rng(self.seed + 2))
        carried = forward.carry(noise)
        found["random directions"] = Directions.of(target, carried.unit, every, kind="random", origin="random")
        found["shuffled map"] = shuffled_map(self.library.held_out(ground), forward, self.seed).carry(rows)
        found["fake fires"] = self.fake_direct()
        found["fake writes"] = forward.carry(self.fakes)
        return {name: standing(one, crossing.background) for name, one in found.items()}

    def post_maps(self) -> dict[str, LinearMap]:
        """The post's recipe at its literal penalty, at its own relative one, tuned, and its ablation."""
        made, notes = post_maps(self.ground, self.library, self.tuner, seed=self.seed)
        self.notes.update(notes)
        return made

    @cached_property
    def tuner(self) -> Tuner:
        """Chooses penalties by how well images of latents that are not judged here co-fire, on the last openings."""
        held = self.fit.of(slice(fit_documents(self.fit), None))
        return Tuner.of(
            self.ground,
            self.fit,
            held,
            self.fit.y[self.ground.target.block],
            without=self.chosen.every,
            whitening=self.whitening,
            seed=self.seed,
        )

    def fake_direct(self) -> Directions:
        """The direct route of the fake latents."""
        return fake_direct(self.fakes, self.fake_encoder, self.fit, self.ground)

    def row_judge(self, ids: tuple[str, ...], *, most: int = MOST) -> RowJudge:
        """The judge of rows that carry the names of these latents, or of fake ones, by ``most`` tokens of a kind."""
        judges, key = self.library.judges, (self.ground.name, ids, most, self.seed)
        if key not in judges:
            fake = ids[0] in set(self.fakes.ids)
            every = self.fakes if fake else self.ground.rows
            rows, lenses = every.pick(ids), self.library.lenses(self.ground)
            fired = self.fake_fired if fake else self.judge.fired
            judges[key] = RowJudge(
                rows=rows,
                y=self.judge.y[self.ground.target.block],
                tokens=telling(rows, every, fired, self.judge.documents, most=most, seed=self.seed),
                silent=telling(rows, every, fired, self.judge.documents, siblings=False, seed=self.seed),
                whitening=self.whitening,
                words=own_words(lenses.source, rows),
                lens=lenses.target,
                seed=self.seed,
            )
        return judges[key]

    @cached_property
    def relatives(self) -> dict[str, list[str]]:
        """Of each chosen latent the five whose rows are nearest in the whole dictionary; of fakes among fakes."""
        found: dict[str, list[str]] = {}
        for every, ids in ((self.ground.rows, self.chosen.every), (self.fakes, self.fakes.ids)):
            near = nearest_columns(every.pick(ids), every)
            found |= {i: [every.ids[k] for k in some] for i, some in zip(ids, near, strict=True)}
        return found

    def judge_of(self, rows: Directions) -> RowJudge:
        """The one of all chosen latents, or of all fakes, as the rows are named."""
        return self.row_judge(self.fakes.ids if rows.ids[0] in set(self.fakes.ids) else self.chosen.every)

    def lines(self) -> Lines:
        """A study's lines over what was chosen here: rows of the drawn latents, texts of those of one word."""
        cast = Cast.on(self.ground, self.crossing, self.chosen.every)
        judges = {
            name: self.row_judge(ids, most=FEW)
            for name, ids in (("judge", self.chosen.drawn), ("fakes", self.fakes.ids))
        }
        return Lines(cast=cast, one_word=self.chosen.one_word, **judges)


def sizes_of(n: int, *, one_word: int) -> Sizes:
    """How many latents a study takes: ``n`` by frequency, a third as many fakes, those of one word for their texts."""
    return Sizes(drawn=n, fakes=max(n // 3, 2), one_word=max(one_word, 2), topicless=0, topical=0)
