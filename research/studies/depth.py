"""Which depth: a dictionary's own rows at other blocks of its model, and a verbalizer fed from blocks near its own.

In: a ground, a library. Out: rows judged, conditions to be said. Truth is known inside one model: a map fitted between
blocks of the source carries a latent's own row from the dictionary's block to another, where it is judged by the words
that the row itself writes and by where the latent fires. Penalties are alike at every block, and beside it tuned by one
criterion (co-firing of latents that are not judged, on texts that neither fit nor judge).

At the target the rows are carried to blocks around the verbalizer's, and read as they are (in that block's own
background) or carried home within the target; all at the one penalty.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from dragoman.core import Background, Directions, Floats, Site, frozen
from dragoman.maps import Moments
from dragoman.measures.fake import fake_dictionary
from dragoman.models.encoding import encoded
from dragoman.models.lens import Lens
from dragoman.washout import on_shell
from studies.cast import Cast, standing
from studies.choice import choose, firing_counts, words_of
from studies.cofiring import TellingTokens, Whitening
from studies.ground import Ground
from studies.library import Library
from studies.lines import Lines
from studies.row_judge import RowJudge, own_words, telling
from studies.tokens import Tokens
from studies.tuning import Tuner, ridge_at, settings_of
from studies.yardstick import sizes_of

QUESTION = "At which blocks of its model is a feature's row still legible, and may a verbalizer be fed from one nearby?"
FEATURES, ONE_WORD = 600, 100
STEPS = 8  # blocks of the source
NEAR = (-4, -2, -1, 0, 1, 2, 4)  # blocks around the verbalizer's
LAM = 0.1
JUDGING = 2000  # texts
HELD = 0.8  # of the map's sentences are fitted on; penalties are tuned on the others


def prepare(ground: Ground, library: Library, n: int = FEATURES, seed: int = 0) -> Cast:
    """Two lines a source block, and two conditions a neighbouring target block."""
    source, target = ground.source, ground.target
    depth = {side.model: len_blocks(library, side) for side in (source, target)}
    across = tuple(sorted({*np.linspace(1, depth[source.model] - 1, STEPS).astype(int).tolist(), source.block}))
    near = tuple(b for step in NEAR if 0 <= (b := target.block + step) < depth[target.model])
    tokens = library.blocks(ground, "map", across, near)
    judge = library.blocks(ground, "judge", across, (), at_most=JUDGING)
    sizes = sizes_of(n, one_word=ONE_WORD * n // FEATURES)
    chosen = choose(ground, judge, words_of(judge), drawn=n, one_words=sizes.one_word, seed=seed)
    cast = Cast.on(ground, library.crossing(ground), chosen.every)
    lines = Lines(cast=cast, judge=None, fakes=None, one_word=chosen.one_word)
    count = int(tokens.documents.max()) + 1
    fitted, held = (tokens.of(part) for part in (slice(0, int(HELD * count)), slice(int(HELD * count), None)))
    inside(lines, ground, library, tokens, judge, (fitted, held), (across, depth[source.model]), chosen.drawn, seed)
    nearby(lines, ground, tokens, fitted, near)
    cast.measured["notes"] = {"chosen from": dict(chosen.notes), "penalty alike": LAM}
    return cast


def inside(
    lines: Lines,
    ground: Ground,
    library: Library,
    tokens: Tokens,
    judge: Tokens,
    parts: tuple[np.ndarray, np.ndarray],
    blocks: tuple[tuple[int, ...], int],
    drawn: tuple[str, ...],
    seed: int,
) -> None:
    """Rows of the drawn latents and of random projections, at each block of the source's own model.

    ``parts``: rows of ``tokens`` that are fitted on and that tune; ``blocks``: those asked for, and how many there are.
    """
    (fitted, held), (across, deep), source = parts, blocks, ground.source
    counts = firing_counts(judge)
    rates = np.array([counts[i] for i in drawn[: max(len(drawn) // 3, 2)]]) / len(judge)
    encoder: Any
    fakes, encoder = fake_dictionary(tokens.x[source.block], rates, site=source, seed=seed)
    lens, own = library.lens(source), ground.rows.pick(drawn)
    every, fake_fired = ground.rows, encoded(encoder, judge.x[source.block])
    both = {
        "": (own, *tokens_of(own, every, judge.fired, judge.documents, seed)),
        "fake latents, ": (fakes, *tokens_of(fakes, fakes, fake_fired, judge.documents, seed)),
    }
    home = f"block {source.block}, as it is"
    for block in across:
        site = replace(source, block=block)
        whitening = Whitening.of(tokens.x[block])
        judges = {
            kind: judge_at(rows, judge.x[block], hard, silent, whitening, lens, seed)
            for kind, (rows, hard, silent) in both.items()
        }
        about: dict[str, Any] = {"block": block, "relative_depth": (block + 1) / deep}
        if block == source.block:
            lines.add(home, own, judge=judges[""], texts=(), **about)
            lines.add(f"fake latents, {home}", fakes, judge=judges["fake latents, "], kind="control", texts=(), **about)
            continue
        moments = Moments.of(tokens.x[source.block][fitted], tokens.x[block][fitted])
        tuner = Tuner.of(ground, tokens, held, tokens.x[block], without=drawn, whitening=whitening, seed=seed)
        for how, made in (
            (f"penalty {LAM:g}", ridge_at(moments, source, site, LAM)),
            ("tuned", tuner.ridge(moments, source, site)),
        ):
            name = f"block {block}, {how}"
            lines.add(name, made.carry(own), judge=judges[""], texts=(), **about, **settings_of(made))
            if how == "tuned":
                carried = made.carry(fakes)
                judging = judges["fake latents, "]
                lines.add(f"fake latents, {name}", carried, judge=judging, kind="control", texts=(), **about)
                lines.compare((name, f"fake latents, {name}"), (name, home))


def tokens_of(
    rows: Directions, every: Directions, fired: Any, documents: np.ndarray, seed: int
) -> tuple[TellingTokens, TellingTokens]:
    """Tokens that tell rows from their siblings and from silence, and from silence alone."""
    hard = telling(rows, every, fired, documents, seed=seed)
    return hard, telling(rows, every, fired, documents, siblings=False, seed=seed)


def judge_at(
    rows: Directions,
    y: Floats,
    tokens: TellingTokens,
    silent: TellingTokens,
    whitening: Whitening,
    lens: Lens,
    seed: int,
) -> RowJudge:
    """The judge of rows at a block of the source's model, by the words that the same model's lens reads off them."""
    return RowJudge(
        rows=rows,
        y=y,
        tokens=tokens,
        silent=silent,
        whitening=whitening,
        words=own_words(lens, rows),
        lens=lens,
        seed=seed,
    )


def nearby(lines: Lines, ground: Ground, tokens: Tokens, fitted: np.ndarray, near: tuple[int, ...]) -> None:
    """Texts of rows that were carried to blocks around the verbalizer's: read there as they are, and carried home."""
    source, target = ground.source, ground.target
    rows = ground.directions(lines.one_word)
    x = tokens.x[source.block][fitted]
    for block in near:
        site = replace(target, block=block)
        carried = ridge_at(Moments.of(x, tokens.y[block][fitted]), source, site, LAM).carry(rows)
        there = background_at(tokens, fitted, site)
        kept = standing(carried, there)
        told: dict[str, Any] = {"block": block, "away": block - target.block}
        name = f"target block {block}"
        here = replace(kept, site=target)  # said to live where the verbalizer reads: the post's first observation
        lines.text(f"{name}, as it is", here, vectors=on_shell(kept, there), **told)
        if block != target.block:
            moments = Moments.of(tokens.y[block][fitted], tokens.y[target.block][fitted])
            lines.text(f"{name}, carried home", ridge_at(moments, site, target, LAM).carry(carried), **told)
            home = f"target block {target.block}, as it is"
            lines.compare(*((f"{name}, {how}", home) for how in ("as it is", "carried home")))


def len_blocks(library: Library, site: Site) -> int:
    """How many blocks a model has."""
    return int(library.reader(site).model.config.num_hidden_layers)


def background_at(tokens: Tokens, rows: np.ndarray, site: Site) -> Background:
    """The mean unit activation of a target block."""
    y = tokens.y[site.block][rows].astype(np.float64)
    mean = (y / np.linalg.norm(y, axis=1, keepdims=True)).mean(axis=0)
    return Background(site, frozen(mean), len(rows))
