"""What carries directions from one residual stream into another: map, direct route, dictionary ridge, or each its own.

In: sums over aligned tokens and the dictionary, or pooled texts. Out: a ``Crossing``, and from it directions at the
target with a card each. Refuses routes that were not prepared, features that fire too rarely for the route asked, and
directions of another site.

Over aligned tokens the map's penalty is chosen on left-out documents; its ``held_out`` report is of the same map fitted
without the fold of the pairs it is judged by. Cards compare the map with the direct route: over the same documents, so
that what little the two err together is in ``agreement`` and ``margin``, unless a direct table of other documents is
given. Pooled texts are the seed post's recipe.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray

from dragoman.core import Background, Directions, Refusal, Site, refuse_other_site
from dragoman.maps.algebra import HOST, Algebra
from dragoman.maps.aligned import Aligned, Firings
from dragoman.maps.cards import by_route, cards_as_is, carry_by_choice, make_cards
from dragoman.maps.diagnostics import Baselines, held_out, usable
from dragoman.maps.dictionary import DictionaryKey
from dragoman.maps.direct import DirectTable, FiringSums, blend
from dragoman.maps.firing_tokens import FiringTokens
from dragoman.maps.linear import LinearMap
from dragoman.maps.moments import FoldedMoments, Moments
from dragoman.maps.penalty import Calibration, Overlap, fit_map, fit_pooled
from dragoman.maps.words import FiringWords
from dragoman.records import Card
from dragoman.store import digest

Recipe = Literal["aligned", "post"]
Route = Literal["map", "direct", "dictionary", "blend", "auto", "as-is"]
ROUTES: tuple[Route, ...] = get_args(Route)
ASKED = "it was asked for"
ALONE = "no feature was watched in these texts, so there is no other"
REACH = 2  # blocks that count as neighbours


@dataclass(frozen=True, kw_only=True, eq=False)
class Crossing:
    """What carries directions from ``source`` to ``target``.

    ``recipe``: fitted on aligned tokens, or on pooled texts as in the post. ``background``, ``source_background``: mean
    unit activation at either site. ``map``: with ``held_out`` on its report; ``moments``: that it was fitted on.
    ``direct``: the direct route's table. Of aligned tokens besides: ``back``, the map from target to source; ``folds``,
    ``baselines`` and ``fired``, for cards; ``firings`` and ``tokens``, for windows of text; ``words``, on which
    features fire; ``sums``, for dictionary ridge, or ``solved``, its table, once saved. ``dictionary``: which one it
    was fitted on. ``texts``: what was read. What was not prepared is None; nothing is needed where both sites are one.

    Not saved: ``digests`` of what it was made from; ``left_out``: what became of either model's rows when read;
    ``name``: how refusals call it.
    """

    recipe: Recipe
    source: Site
    target: Site
    background: Background
    source_background: Background | None = None
    map: LinearMap | None = None
    moments: Moments | None = None
    direct: DirectTable | None = None
    back: LinearMap | None = None
    baselines: Baselines | None = None
    folds: FoldedMoments | None = None
    fired: FiringSums | None = None
    firings: Firings | None = None
    words: FiringWords | None = None
    tokens: FiringTokens | None = None
    sums: FiringSums | None = None
    solved: DirectTable | None = None
    dictionary: DictionaryKey | None = None
    texts: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    digests: Mapping[str, str] = field(default_factory=dict)
    left_out: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    name: str = "this crossing"

    def __repr__(self) -> str:
        """Where it leads and how it was fitted."""
        return f"Crossing({self.source} -> {self.target}, {self.recipe}{f', {self.map.method}' if self.map else ''})"

    @classmethod
    def from_tokens(
        cls,
        aligned: Aligned,
        dictionary: Directions,
        *,
        direct: DirectTable | None = None,
        overlap: Overlap | None = None,
        seed: int = 0,
        texts: Sequence[str] = (),
        algebra: Algebra = HOST,
    ) -> Self:
        """Fit the map and all that judges it; it depends on no feature that is asked for later.

        Takes two eigendecompositions a fold (source and target width) and some solves: seconds below width 1000,
        minutes at 3584 and 5376 in numpy.

        Args:
            aligned: what was read.
            dictionary: the SAE's decoder rows at the source: the penalty is chosen on the calibration features among
                them, and ranks are among them.
            direct: a table from other documents in the place of that of ``aligned``.
            overlap: counts the lens words that rows and images share, for the choice of the penalty.
            seed: of the random directions that cards are ranked among, and of the features the penalty is chosen on.
            texts: those that were read, where windows are to be cut from them later.
            algebra: where it is computed.

        Raises:
            Refusal: too few pairs, other texts, or a dictionary or table of another site.
        """
        source, target = aligned.source, aligned.target
        refuse_other_site("dictionary directions", dictionary.site, source)
        if direct is not None:
            refuse_other_site("direct statistics", direct.site, target)
        _refuse_other_texts(texts, aligned.background)
        calibration = None
        if aligned.calibration is not None:
            calibration = Calibration(directions=dictionary, direct=aligned.calibration, overlap=overlap, seed=seed)
        with ThreadPoolExecutor(1) as beside:
            key = beside.submit(DictionaryKey.of, dictionary)  # it hashes all rows: a second of a large dictionary
            forward = fit_map(aligned.folded, source, target, calibration=calibration, algebra=algebra)
            # Only a check: too few rows for the target's width make it a weak one, not a wrong one.
            turned = algebra.reversed(aligned.folded)
            back = fit_map(turned, target, source, allow_underdetermined=True, algebra=algebra)
            forward = judged(aligned, forward, algebra)
            moments = algebra.total(aligned.folded)
        direct = aligned.direct if direct is None else direct
        return cls(
            recipe="aligned",
            source=source,
            target=target,
            background=aligned.background,
            source_background=aligned.source_background,
            map=forward,
            moments=moments,
            direct=direct,
            back=back,
            baselines=Baselines.of(forward, moments, dictionary, back, rng=np.random.default_rng(seed)),
            folds=aligned.folded,
            fired=aligned.fired,
            firings=aligned.firings,
            words=aligned.words,
            tokens=aligned.tokens,
            sums=aligned.sums,
            dictionary=key.result(),
            texts=tuple(texts),
            settings={"seed": seed},
        )

    @classmethod
    def from_pooled(
        cls,
        x_pooled: NDArray[Any],
        y_pooled: NDArray[Any],
        source_background: Background,
        background: Background,
        *,
        direct: DirectTable | None = None,
        dictionary: Directions | None = None,
        lam: float = 100.0,
        seed: int = 0,
        method: Literal["ridge", "procrustes"] = "ridge",
        texts: Sequence[str] = (),
    ) -> Self:
        """The seed post's recipe: see ``fit_pooled``.

        Args:
            x_pooled: (texts, p) mean over a text's source activations.
            y_pooled: (texts, q) the same of the target.
            source_background: of the source, whose site it names.
            background: of the target.
            direct: the direct route's table, for that route and for cards.
            dictionary: of the direct table's features.
            lam: ridge penalty on the raw scale.
            seed: of the split into fitted and held-out texts.
            method: ``"ridge"`` or ``"procrustes"``.
            texts: those that were read.

        Raises:
            Refusal: as ``fit_pooled``; other texts, or a table or dictionary of another site.
        """
        source, target = source_background.site, background.site
        if direct is not None:
            refuse_other_site("direct statistics", direct.site, target)
        if dictionary is not None:
            refuse_other_site("dictionary directions", dictionary.site, source)
        _refuse_other_texts(texts, source_background)
        made, moments = fit_pooled(x_pooled, y_pooled, source, target, lam=lam, seed=seed, method=method)
        return cls(
            recipe="post",
            source=source,
            target=target,
            background=background,
            source_background=source_background,
            map=made,
            moments=moments,
            direct=direct,
            dictionary=None if dictionary is None else DictionaryKey.of(dictionary),
            texts=tuple(texts),
            settings={"seed": seed, "lam": lam},
        )

    @cached_property
    def partial(self) -> DirectTable | None:
        """Dictionary ridge of every watched feature, solved when first asked for; None where it was not counted."""
        return self.sums.partial_table() if self.solved is None and self.sums is not None else self.solved

    @property
    def dead(self) -> tuple[str, ...]:
        """Features of the dictionary that have no direction and took no part."""
        return () if self.dictionary is None else self.dictionary.dead

    def cards(self, directions: Directions) -> list[Card]:
        """A card per direction with all the evidence there is; none where no map was fitted."""
        if self.map is None or self.moments is None:
            return []
        return make_cards(
            directions,
            self.map,
            self.moments,
            self.direct,
            back=self.back,
            folds=self.folds,
            fired=self.fired,
            baselines=self.baselines,
        )

    def carry(self, directions: Directions, route: Route = "map") -> tuple[Directions, list[Card]]:
        """Directions at the target, and their cards, which tell the route where there is a choice of routes.

        ``map``: by the map. ``direct``: the target's mean where the feature fires. ``dictionary``: the same with all
        other features held fixed. ``blend``: half map, half direct. ``auto``: each by the route its card speaks for,
        which is the map for all where no feature was watched. ``as-is``: rows of a neighbouring block of the same
        model, unchanged. Within one site every route leaves directions as they are, and there are no cards.

        Raises:
            Refusal: an unknown route, one that was not prepared, or, but for ``map``, ``auto`` and ``as-is``, a feature
                that was not watched or fires too rarely.
        """
        if route == "auto" and self.source != self.target:
            mapped, cards = self._mapped(directions, route), self.cards(directions)
            if self.direct is None:
                return mapped, [by_route(card, "map", ALONE) for card in cards]
            return carry_by_choice(mapped, self.direct, cards)
        carried = self.directions(directions, route)
        if self.source == self.target:
            return carried, []
        as_is = route == "as-is"
        cards = cards_as_is(directions, self.direct, self.fired) if as_is else self.cards(directions)
        return carried, [by_route(card, route, ASKED) for card in cards] if as_is or self.recipe == "aligned" else cards

    def directions(self, directions: Directions, route: Route = "map") -> Directions:
        """As ``carry``, without cards: they cost a few solves, and only ``auto`` needs them."""
        if route not in ROUTES:
            raise Refusal(f"route '{route}'", f"known are {', '.join(ROUTES)}", "use one of these")
        refuse_other_site("directions", directions.site, self.source)
        if self.source == self.target:
            return directions
        if route == "as-is":
            return neighbouring(directions, self.target)
        if route == "auto":
            return self.carry(directions, route)[0]
        if route == "map":
            return self._mapped(directions, route)
        found = self._table(route).rows(directions.ids, labels=directions.labels)
        return blend(self._mapped(directions, route), found) if route == "blend" else found

    def _mapped(self, directions: Directions, route: Route) -> Directions:
        if self.map is None:
            raise Refusal(f"route '{route}'", "it was not prepared", "prepare the crossing with that route")
        return self.map.carry(directions)

    def _table(self, route: Route) -> DirectTable:
        """What a route reads off firings, or a refusal."""
        found = self.partial if route == "dictionary" else self.direct
        if found is not None:
            return found
        if self.recipe == "post":
            why, instead = "it was not prepared", "prepare the crossing with that route"
        elif self.fired is None:
            why = "no feature was watched in these texts"
            instead = "say --route map, or name a dictionary that has an encoder"
        else:
            why = f"{len(self.fired.ids)} features were watched, too many to hold one another fixed"
            instead = "say --route direct, or name the features that matter with --features"
        raise Refusal(f"route '{route}'", why, instead)

    def save(self, folder: str | Path) -> None:
        """Write a new folder that can be shared: see ``dragoman.maps.artifact``.

        Raises:
            Refusal: there is no map, a direct table without its dictionary, or the folder is there already.
        """
        from dragoman.maps.artifact import save_crossing

        save_crossing(self, Path(folder))

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        source: Site | None = None,
        target: Site | None = None,
        dictionary: Directions | None = None,
    ) -> Self:
        """Read what ``save`` wrote; it carries the same, and makes the same cards.

        Args:
            folder: a crossing.
            source: where it should carry from.
            target: where it should carry to.
            dictionary: directions that it should have been fitted on, all of a dictionary or some.

        Raises:
            Refusal: another site or dictionary, another format, or a file that is missing, torn or changed.
        """
        from dragoman.maps.artifact import parts_of

        made = cls(**parts_of(Path(folder)), name=f"crossing {folder}")
        if source is not None:
            refuse_other_site(f"the source of {made.name}", made.source, source)
        made.refuse_others(dictionary, target)
        return made

    def refuse_others(self, dictionary: Directions | None, target: Site | None) -> None:
        """Refuse directions that it was not fitted for, and a reader of another stream.

        Args:
            dictionary: directions, all of a dictionary or some.
            target: where they should arrive.

        Raises:
            Refusal: another site, or another dictionary than it was fitted on.
        """
        if target is not None:
            refuse_other_site(f"the target of {self.name}", self.target, target)
        if dictionary is not None:
            refuse_other_site("dictionary directions", dictionary.site, self.source)
            if self.dictionary is not None:
                self.dictionary.refuse_another(dictionary, self.name)


def neighbouring(directions: Directions, target: Site) -> Directions:
    """The same vectors, said to live at ``target``, at most two blocks away in the same model.

    A residual stream is added to, not replaced, so a direction written at block 40 is still there at block 41, and a
    verbalizer of block 41 reads it as it is: the seed post's first observation. Farther on it has been read, rotated
    and written over; then a map between the two blocks has to be fitted.

    Raises:
        Refusal: another model or revision, or a block more than two away.
    """
    source = directions.site
    refuse_far(source, target)
    if source.block == target.block:
        return replace(directions, site=target)
    origin = f"{directions.origin or source}, read as it is at block {target.block}"
    return replace(directions, site=target, origin=origin)


def refuse_far(source: Site, target: Site) -> None:
    """Refuse sites whose streams are not read as they are: see `neighbouring`."""
    away = abs(source.block - target.block)
    revisions = source.revision and target.revision and source.revision != target.revision
    if source.model != target.model or revisions:
        raise Refusal(
            f"reading {source} at {target}", "they are streams of different models", "carry it by map or direct route"
        )
    if away > REACH:
        raise Refusal(
            f"reading {source} as it is at {target}",
            f"they are {away} blocks apart, and {REACH} count as neighbours",
            "fit a map between the two blocks",
        )


def judged(aligned: Aligned, forward: LinearMap, algebra: Algebra = HOST) -> LinearMap:
    """The map with ``held_out`` on its report: of the map that the other folds give at the same penalty."""
    pairs = aligned.held_out
    rest = tuple(m for k, m in enumerate(aligned.folded.folds) if k != pairs.fold)
    trial = fit_map(
        FoldedMoments(folds=rest, documents=aligned.folded.documents),
        aligned.source,
        aligned.target,
        penalty=forward.settings["lam_rel"],
        standardise=bool(forward.settings.get("standardised")),
        allow_underdetermined=True,
        algebra=algebra,
    )
    found = held_out(trial, pairs.x, pairs.y, documents=pairs.documents)
    word, why = usable(found)
    told = {"held_out": found, "usable": word, "usable_why": why, "pairing": "aligned tokens"}
    return replace(forward, report=forward.report | told | {"harvest": dict(aligned.report)})


def _refuse_other_texts(texts: Sequence[str], background: Background) -> None:
    if texts and background.texts != digest("\n".join(texts)):
        raise Refusal(
            f"{len(texts)} texts for a crossing",
            "they are not those that both models read",
            "pass the texts that were read, or none",
        )
