"""What every measure of features sees, of every route and every control: rows first, then their texts.

In: a ground, a ``Library``. Out: conditions (directions at the target, of chosen latents), what the judging texts say
of each latent, and measures of rows. Refuses what the rooms below refuse.

Texts are of three kinds that share no document: what the product reads (maps, direct tables), nine thousand openings
for the controls' rows, and the judging texts, from which firing words, hard negatives and windows are taken. Latents
are chosen by frequency alone, except where a measure needs a kind: those of one word, those without a topic.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dragoman.core import Directions
from dragoman.maps import Crossing, DirectTable, FiringSums, LinearMap, fit_pooled
from dragoman.maps.linear import fit_ridge, relative_lambda
from dragoman.measures.cofiring import Whitening, cofiring
from dragoman.measures.fake import fake_dictionary
from dragoman.measures.firing import WORD, FiringWords, WordTally, one_word
from dragoman.models.aligned import encoded
from studies.cast import standing
from studies.choice import at_most, by_frequency, with_topic, without_topic
from studies.controls import earlier_rows, silent_rows
from studies.ground import Ground
from studies.library import Library
from studies.post import like_activations, shuffled_map
from studies.tokens import Tokens

Doubles = NDArray[np.float64]
DRAWN, FAKES, ONE_WORD, TOPICLESS, TOPICAL = 600, 300, 400, 320, 100
LEAST_FIRING = 10  # judging tokens: fewer give no AUROC
POST_REL = 0.18  # the post's penalty of 100 in units of its own pooled rows, as science puts it (simulated)
SIBLINGS = 5  # nearest decoder rows, whose firing tokens are the hard negatives


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """Ids of latents.

    ``drawn``: by frequency alone. ``one_word``: those of which one word has most of the activation in the judging
    texts, with that word. ``topicless``: without a category; ``topical``: with one that has most of their firing.
    """

    drawn: tuple[str, ...]
    one_word: Mapping[str, str]
    topicless: tuple[str, ...]
    topical: tuple[str, ...] = ()

    @property
    def every(self) -> tuple[str, ...]:
        """All, once."""
        return tuple(sorted({*self.drawn, *self.one_word, *self.topicless, *self.topical}, key=int))


@dataclass(frozen=True, kw_only=True, eq=False)
class Yard:
    """One direction of the pair, read: all that rows are made from and judged by.

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
    def read(cls, ground: Ground, library: Library, *, sizes: Mapping[str, int] | None = None, seed: int = 0) -> Yard:
        """Read the texts and choose the latents."""
        sizes = {
            "drawn": DRAWN,
            "fakes": FAKES,
            "one_word": ONE_WORD,
            "topicless": TOPICLESS,
            "topical": TOPICAL,
            **(sizes or {}),
        }
        crossing = library.crossing(ground)
        fit, judge = library.split(ground, "direct"), library.split(ground, "judge")
        often = dict(enumerate(np.asarray((judge.fired > 0).sum(axis=0)).ravel().tolist()))
        counts = {str(i): float(n) for i, n in often.items()}
        able = [i for i, n in counts.items() if n >= LEAST_FIRING and i in ground.latents]
        words = words_of(judge)
        ones = {i: one_word(words.of(i)[0]) for i in able}
        single = {i: word for i, word in ones.items() if word is not None and WORD.fullmatch(word)}  # marks are a form
        drawn = by_frequency(able, counts, min(sizes["drawn"], len(able)), seed=seed)
        kept = at_most(single, sizes["one_word"], seed=seed)
        chosen = Chosen(
            drawn=drawn,
            one_word={i: single[i] for i in kept},
            topicless=at_most(without_topic(ground, able), sizes["topicless"], seed=seed),
            topical=at_most(with_topic(ground, able), sizes["topical"], seed=seed),
        )
        rates = np.array([counts[i] for i in at_most(able, sizes["fakes"], seed=seed + 1)]) / len(judge)
        fakes, encoder = fake_dictionary(fit.x[ground.source.block], rates, site=ground.source, seed=seed)
        notes = {"able": len(able), "one_word": len(single), "of": len(counts), "judging tokens": len(judge)}
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
            notes=notes,
        )

    @cached_property
    def words(self) -> FiringWords:
        """Which words the dictionary's latents fire on, in the judging texts."""
        return words_of(self.judge)

    @cached_property
    def fake_fired(self) -> Any:
        """(judging tokens, fakes) sparse activations of the fake latents."""
        return encoded(self.fake_encoder, self.judge.x[self.ground.source.block])

    @cached_property
    def whitening(self) -> Whitening:
        """Of the target's rows, over the openings."""
        return Whitening.of(self.fit.y[self.ground.target.block])

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
        ground, rows = self.ground, self.library.pooled(self.ground, "map")
        where = (ground.source, ground.target)
        literal, moments = fit_pooled(rows.x, rows.y, *where, seed=self.seed)
        turned, _ = fit_pooled(rows.x, rows.y, *where, seed=self.seed, method="procrustes")
        self.notes["post lam_rel"] = float(100.0 / relative_lambda(moments, 1.0))
        made = {"post": literal, "procrustes": turned}
        for name, lam_rel in (("post, its relative penalty", POST_REL), ("post, tuned", self.tuned(rows.x, rows.y))):
            lam = relative_lambda(moments, lam_rel)
            made[name] = fit_ridge(moments, *where, lam, allow_underdetermined=True)
            self.notes[f"{name} lam_rel"] = lam_rel
        return made

    def tuned(self, x: Any, y: Any) -> float:
        """The relative penalty whose images of latents that are not judged here co-fire best, on the openings."""
        ground = self.ground
        counts = np.asarray((self.fit.fired > 0).sum(axis=0)).ravel()
        chosen = set(self.chosen.every)
        others = [i for i in ground.latents if i not in chosen and counts[int(i)] >= 50]
        ids = at_most(others, 200, seed=self.seed + 5)
        rows = ground.directions(ids)
        fired = self.fit.fired.tocsc()[:, [int(i) for i in ids]]
        best, at = -np.inf, POST_REL
        _, moments = fit_pooled(x, y, ground.source, ground.target, seed=self.seed)
        for lam_rel in (0.03, 0.1, 0.3, 1.0, 3.0, 10.0):
            lam = relative_lambda(moments, lam_rel)
            made = fit_ridge(moments, ground.source, ground.target, lam, allow_underdetermined=True)
            score = cofiring(
                made.carry(rows).unit,
                self.fit.y[ground.target.block],
                fired,
                self.fit.documents,
                whitening=self.whitening,
                rng=np.random.default_rng(self.seed),
            )
            if (mean := float(np.nanmean(score))) > best:
                best, at = mean, lam_rel
        return at

    def fake_direct(self) -> Directions:
        """The direct route of the fake latents."""
        ids, y = list(self.fakes.ids), self.fit.y[self.ground.target.block]
        sums = FiringSums(self.ground.target, ids, y.shape[1])
        fired = encoded(self.fake_encoder, self.fit.x[self.ground.source.block])
        table: DirectTable = sums.add(fired, y, self.fit.documents).table()
        return Directions.of(self.ground.target, table.beta, ids, kind="custom", origin="direct route of fake latents")

    def cofiring_of(self, rows: Directions) -> Doubles:
        """AUROC of each row against where its latent fires in the judging texts; NaN where it fires too rarely."""
        fake = rows.ids[0] in set(self.fakes.ids)
        where = {name: k for k, name in enumerate(self.fakes.ids)}
        columns = np.array([where[i] if fake else int(i) for i in rows.ids])
        near = self.relatives
        return cofiring(
            rows.unit,
            self.judge.y[self.ground.target.block],
            self.fake_fired if fake else self.judge.fired,
            self.judge.documents,
            whitening=self.whitening,
            columns=columns,
            siblings=np.array([[where[k] if fake else int(k) for k in near[i]] for i in rows.ids]),
            rng=np.random.default_rng(self.seed),
        )

    @cached_property
    def relatives(self) -> dict[str, list[str]]:
        """Of each chosen latent the five whose rows are nearest in the whole dictionary; of fakes among fakes."""
        found: dict[str, list[str]] = {}
        for rows, ids in ((self.ground.rows, self.chosen.every), (self.fakes, self.fakes.ids)):
            cosines = rows.pick(ids).unit @ rows.unit.T
            where = {name: k for k, name in enumerate(rows.ids)}
            cosines[np.arange(len(ids)), [where[i] for i in ids]] = -np.inf
            order = np.argsort(-cosines, axis=1)[:, :SIBLINGS]
            found |= {i: [rows.ids[k] for k in near] for i, near in zip(ids, order, strict=True)}
        return found


def words_of(tokens: Tokens, fired: Any = None, ids: tuple[str, ...] | None = None) -> FiringWords:
    """Which words latents fire on, over some tokens."""
    fired = tokens.fired if fired is None else fired
    tally = WordTally(ids or [str(i) for i in range(fired.shape[1])])
    step = 8192
    for start in range(0, len(tokens), step):
        rows = slice(start, start + step)
        texts = [tokens.texts[d] for d in tokens.documents[rows]]
        tally.add(fired[rows], texts, tokens.ends[rows])
    return tally.finish()


def dealt(rows: Directions, seed: int) -> Directions:
    """The same rows under one another's names."""
    order = np.random.default_rng(seed + 4).permutation(len(rows))
    moved = np.roll(order, 1)
    unit = np.empty_like(rows.unit)
    unit[order] = rows.unit[moved]
    return Directions.of(rows.site, unit, rows.ids, labels=rows.labels, origin="dealt")
