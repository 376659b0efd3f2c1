"""The two directions of the embedded pair, and which of their latents a study is about."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, replace

import numpy as np
import pytest

from dragoman.core import Refusal
from studies.ground import (
    GROUNDS,
    LEVELS,
    Ground,
    Latent,
    ground_of,
    level_of,
    seen_before,
    stratified,
)
from study_worlds import ground_with, latent

SHARES = {"faint": 0.07, "middling": 0.2, "sharp": 0.6}
RARE = ("birds", "boats", "bread", "tea")


@pytest.fixture(params=list(GROUNDS))
def ground(request: pytest.FixtureRequest) -> Ground:
    return ground_of(request.param)


def planted() -> Ground:
    """At each level one category with 60 latents and four with 12, of any frequency; 30 without a level."""
    rng = np.random.default_rng(0)
    many = [(level, c) for level in LEVELS for c in ("common",) * 60 + RARE * 12]
    made = [
        latent(str(k), category, selectivity=SHARES[level], documents=float(rng.uniform()))
        for k, (level, category) in enumerate(many)
    ]
    return ground_with([*made, *(latent(str(1000 + k), "common", selectivity=0.01) for k in range(30))])


@pytest.mark.parametrize(
    ("share", "level"),
    [
        (0.0, None), (0.0499, None), (0.05, "faint"), (0.0999, "faint"), (0.1, "middling"), (0.2999, "middling"),
        (0.3, "sharp"), (1.0, "sharp"),
    ],
)  # fmt: skip
def test_a_level_begins_at_its_border(share: float, level: str | None) -> None:
    assert level_of(latent("1", selectivity=share)) == level


def test_a_latent_takes_its_own_fields_of_a_row_and_leaves_the_rest() -> None:
    one = latent("7", "boats")
    told = {**asdict(one), "top_tokens": ["one", "two"], "rank": 3}
    assert Latent.of(told) == one
    with pytest.raises(KeyError, match="n_eff"):
        Latent.of({k: v for k, v in told.items() if k != "n_eff"})


def test_latents_that_ship_name_a_category_with_words_and_a_row_of_the_dictionary(ground: Ground) -> None:
    assert len(ground.latents) > 2000
    assert all(name == one.id and one.category in ground.words for name, one in ground.latents.items())
    assert set(ground.latents) <= set(ground.rows.ids)
    assert max(len(one.top_tokens) for one in ground.latents.values()) == 8
    assert ground.rows.site == ground.source and ground.rows.d_model == ground.encoder.d_in


def test_directions_bear_what_they_fire_on_in_the_order_asked(ground: Ground) -> None:
    asked = list(ground.latents)[5:2:-1]
    found = ground.directions(asked)
    assert found.ids == tuple(asked)
    assert found.labels == tuple(f"{ground.latents[i].category}: {ground.latents[i].topic}" for i in asked)
    assert (found.unit == ground.rows.pick(asked).unit).all()
    assert {i: Latent.of(row) for i, row in ground.information(asked).items()} == {i: ground.latents[i] for i in asked}


def test_a_direction_nobody_knows_is_refused() -> None:
    with pytest.raises(Refusal, match="direction 'gemma-to-llama': known are smollm2-to-gemma, gemma-to-smollm2"):
        ground_of("gemma-to-llama")


@pytest.mark.parametrize("n", [27, 45, 99])
def test_levels_and_thirds_of_frequency_get_equal_numbers(n: int) -> None:
    ground = planted()
    chosen = [ground.latents[i] for i in stratified(ground, n)]
    assert len({one.id for one in chosen}) == n
    for level in LEVELS:
        mine = sorted(one.documents for one in ground.latents.values() if level_of(one) == level)
        borders = [mine[len(mine) // 3], mine[2 * len(mine) // 3]]
        cells = np.searchsorted(borders, [one.documents for one in chosen if level_of(one) == level], side="right")
        assert np.bincount(cells, minlength=3).tolist() == [n // 9] * 3


def test_a_category_is_not_chosen_for_being_common() -> None:
    ground = planted()
    counts = Counter(ground.latents[i].category for i in stratified(ground, 45))
    assert set(counts) == {"common", *RARE} and max(counts.values()) - min(counts.values()) <= 1


@pytest.mark.parametrize("n", [27, 225])
def test_what_ships_is_chosen_evenly(ground: Ground, n: int) -> None:
    chosen = stratified(ground, n)
    assert len(set(chosen)) == n and list(chosen) == sorted(chosen, key=int)
    assert Counter(level_of(ground.latents[i]) for i in chosen) == dict.fromkeys(LEVELS, n // 3)
    counts = Counter(ground.latents[i].category for i in chosen)
    assert max(counts.values()) - min(counts.values()) <= 2 and len(counts) == min(n, 45)


def test_what_was_reported_before_is_left_out_of_the_dictionary_it_was_reported_of() -> None:
    before, ground = seen_before(), ground_of("smollm2-to-gemma")
    assert len(before) == 450 and before <= set(ground.latents)
    pool = [i for i, one in ground.latents.items() if i not in before and level_of(one)]
    assert set(stratified(ground, len(pool))) == set(pool)
    other = ground_of("gemma-to-smollm2")
    pool = [i for i, one in other.latents.items() if level_of(one)]
    assert set(stratified(other, len(pool))) == set(pool)


def test_the_same_seed_chooses_the_same_and_another_seed_others() -> None:
    ground = planted()
    first, again, other = (stratified(ground, 45, seed=seed) for seed in (3, 3, 4))
    assert first == again and first != other
    assert len(set(first) & set(other)) < 40


def test_what_is_to_be_left_out_is_not_chosen() -> None:
    ground = planted()
    first = stratified(ground, 99)
    second = stratified(ground, 99, without=first)
    assert not set(first) & set(second)


@pytest.mark.parametrize("n", [0, 325])
def test_more_features_than_there_are_are_refused(n: int) -> None:
    with pytest.raises(Refusal, match=f"{n} features: there are 324 to choose from; ask for fewer, and at least one"):
        stratified(planted(), n)


def test_latents_without_a_category_are_never_chosen() -> None:
    ground = planted()
    assert all(level_of(ground.latents[i]) for i in stratified(ground, 324))
    alone = ground_with([replace(latent("1"), selectivity=0.01)])
    with pytest.raises(Refusal, match="there are 0 to choose from"):
        stratified(alone, 1)
