"""Directions carried over a pair that was read token by token, against the planted ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose

from dragoman.core import Directions, Refusal, Site
from dragoman.maps import Crossing, DirectTable, make_cards
from dragoman.maps.aligned import Aligned
from dragoman.maps.diagnostics import held_out
from dragoman.maps.dictionary import to_watch
from dragoman.maps.linear import fit_ridge, relative_lambda
from dragoman.maps.moments import FoldedMoments, fold_of
from dragoman.maps.penalty import choose_penalty
from dragoman.models.aligned import read_aligned
from dragoman.store import document_name
from planted_readers import FIRST, PlantedPair, planted_pair
from planted_worlds import SOURCE, TARGET, at_source, cosines


@pytest.fixture(scope="module")
def pair() -> PlantedPair:
    return planted_pair(documents=240)


@pytest.fixture(scope="module")
def aligned(pair: PlantedPair) -> Aligned:
    return read_aligned(pair.source, pair.target, pair.texts, pair.encoder, options=FIRST)


@pytest.fixture(scope="module")
def dictionary(pair: PlantedPair) -> Directions:
    return at_source(pair.world.source)


@pytest.fixture(scope="module")
def crossing(aligned: Aligned, dictionary: Directions) -> Crossing:
    return Crossing.from_tokens(aligned, dictionary)


def without_sae(aligned: Aligned) -> Aligned:
    return replace(aligned, sums=None, fired=None, calibration=None)


@pytest.mark.parametrize(
    ("route", "least"), [("map", 0.99), ("direct", 0.9), ("dictionary", 0.99), ("blend", 0.95), ("auto", 0.9)]
)
def test_every_route_finds_the_planted_directions(
    pair: PlantedPair, crossing: Crossing, dictionary: Directions, route: str, least: float
) -> None:
    asked = dictionary.pick(["3", "17", "30"])
    carried, cards = crossing.carry(asked, route)  # type: ignore[arg-type]
    assert carried.site == TARGET and carried.ids == asked.ids and carried.kind == "feature"
    assert cosines(carried.unit, pair.world.target[[3, 17, 30]]).min() > least
    assert [card.route for card in cards] == ["direct" if route == "auto" else route] * 3
    assert all(card.route_why for card in cards)


def test_the_dictionary_route_holds_fixed_what_fires_along(dictionary: Directions) -> None:
    """Feature 1 fires wherever 0 does: the mean where 0 fires is turned towards it, the partial effect is not."""
    pair = planted_pair()
    along = pair.world.f[:, 0] > 0
    extra = np.where(along, 1.0, 0.0) * (pair.world.f[:, 1] == 0)
    x = pair.world.x + extra[:, None] * pair.world.source[1]
    y = pair.world.y + extra[:, None] * pair.world.target[1]
    found = read_aligned(
        replace(pair.source, table=x), replace(pair.target, table=y), pair.texts, pair.encoder, options=FIRST
    )
    made = Crossing.from_tokens(found, dictionary)
    own = {r: made.carry(dictionary.pick(["0"]), r)[0].unit @ pair.world.target[:2].T for r in ("direct", "dictionary")}
    assert own["direct"][0, 1] > 0.4 > 0.15 > abs(own["dictionary"][0, 1])
    assert own["dictionary"][0, 0] > 0.95 > own["direct"][0, 0]


def test_the_map_is_ridge_on_all_pairs_at_the_penalty_by_which_images_co_fire(
    aligned: Aligned, crossing: Crossing, dictionary: Directions
) -> None:
    told = crossing.map.report["penalty"]
    assert told["rule"] == "cofiring" and told["features"] >= 30
    moments = aligned.folded.total
    ridge = fit_ridge(moments, SOURCE, TARGET, relative_lambda(moments, told["lam_rel"]))
    assert_allclose(crossing.map.weight, ridge.weight, rtol=1e-10)
    assert crossing.map.report["rows_per_dimension"] == aligned.report["pairs"] / 48


def test_the_map_back_is_of_the_same_pairs_turned_round(aligned: Aligned, crossing: Crossing) -> None:
    turned = tuple(fold.reversed() for fold in aligned.folded.folds)
    lam_rel = choose_penalty(FoldedMoments(folds=turned, documents=aligned.folded.documents)).lam_rel
    moments = aligned.folded.total.reversed()
    back = fit_ridge(moments, TARGET, SOURCE, relative_lambda(moments, lam_rel))
    assert_allclose(crossing.back.weight, back.weight, rtol=1e-8, atol=1e-12)


def test_the_held_out_report_is_of_a_map_that_has_not_seen_the_judges(
    pair: PlantedPair, aligned: Aligned, crossing: Crossing
) -> None:
    owner = np.array([document_name(text) for text in pair.texts])[pair.numbers()]
    out = fold_of(owner) == aligned.held_out.fold
    rest = aligned.folded.without(aligned.held_out.fold)
    assert rest.count == (~out).sum()
    lam = relative_lambda(rest, crossing.map.settings["lam_rel"])
    trial = fit_ridge(rest, SOURCE, TARGET, lam)
    order = np.argsort(owner[out], kind="stable")
    truth = held_out(trial, pair.x()[out][order], pair.y()[out][order], documents=owner[out][order])
    found = crossing.map.report["held_out"]
    assert list(found) == list(truth)
    assert_allclose([found[k] for k in truth], list(truth.values()), rtol=1e-5, atol=1e-6)
    assert found["fve_unit"] > 0.8 and found["top1"] > 0.9
    assert crossing.map.report["usable"] == "good"


def test_cards_bear_all_the_evidence(aligned: Aligned, crossing: Crossing, dictionary: Directions) -> None:
    asked = dictionary.pick(["2", "11"])
    cards = crossing.cards(asked)
    known = ("coverage", "kappa", "norm", "rel", "cycle", "purity", "n_eff", "agreement", "margin", "nearest")
    ranks = ("coverage_over_random", "coverage_over_dictionary", "cycle_over_dictionary")
    for card in cards:
        assert all(getattr(card, name) is not None for name in (*known, *ranks))
        assert card.purity > 0.9 and card.cycle > 0.9 and card.margin > 0.3 and card.rel > 0.9
    plain = make_cards(asked, crossing.map, aligned.folded.total, aligned.sums.table())
    for name in ("coverage", "n_eff", "agreement", "margin", "nearest"):
        assert [getattr(card, name) for card in cards] == [getattr(card, name) for card in plain]


def test_without_an_sae_the_map_is_chosen_by_prediction_and_other_routes_are_refused(
    pair: PlantedPair, aligned: Aligned, dictionary: Directions
) -> None:
    made = Crossing.from_tokens(without_sae(aligned), dictionary)
    carried, cards = made.carry(dictionary.pick(["4"]), "map")
    assert made.map.report["penalty"]["rule"] == "fallback"
    assert cosines(carried.unit, pair.world.target[[4]])[0] > 0.98
    assert cards[0].n_eff is None and cards[0].purity is None and cards[0].cycle is not None
    for route in ("direct", "dictionary", "blend"):
        with pytest.raises(Refusal, match=f"route '{route}': no feature was watched in these texts; say --route map"):
            made.carry(dictionary.pick(["4"]), route)


def test_without_an_sae_auto_is_the_map_and_says_why(
    pair: PlantedPair, aligned: Aligned, crossing: Crossing, dictionary: Directions
) -> None:
    asked = dictionary.pick(["4", "9"])
    made = Crossing.from_tokens(without_sae(aligned), dictionary)
    carried, cards = made.carry(asked, "auto")
    assert_allclose(carried.unit, made.carry(asked, "map")[0].unit)
    assert cosines(carried.unit, pair.world.target[[4, 9]]).min() > 0.98
    why = "no feature was watched in these texts, so there is no other"
    assert [(card.route, card.route_why) for card in cards] == [("map", why)] * 2
    assert_allclose(made.directions(asked, "auto").unit, carried.unit)
    probe = replace(asked, ids=("probe", "other"))
    assert [card.route_why for card in crossing.carry(probe, "auto")[1]] == ["the direct route does not watch it"] * 2


def test_a_direct_table_of_other_documents_takes_the_place_of_its_own(
    pair: PlantedPair, aligned: Aligned, crossing: Crossing, dictionary: Directions
) -> None:
    n_eff = np.full(40, 60.0)
    n_eff[7] = 3.0
    other = DirectTable.of(TARGET, [str(i) for i in range(40)], pair.world.target, n_eff)
    made = Crossing.from_tokens(aligned, dictionary, direct=other)
    assert_allclose(made.map.weight, crossing.map.weight)
    cards = made.cards(dictionary.pick(["6", "7"]))
    assert [card.n_eff for card in cards] == [60, 3] and cards[1].agreement is None
    assert cosines(made.carry(dictionary.pick(["6"]), "direct")[0].unit, pair.world.target[[6]])[0] > 1 - 1e-6
    with pytest.raises(Refusal, match="direct statistics"):
        Crossing.from_tokens(aligned, dictionary, direct=DirectTable.of(SOURCE, ["1"], np.ones((1, 56)), np.ones(1)))


def test_features_to_watch_are_those_asked_for_their_neighbours_and_some_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dragoman.maps.dictionary.NEAR", 3)
    monkeypatch.setattr("dragoman.maps.dictionary.OTHERS", 20)
    rows = np.random.default_rng(0).normal(size=(500, 16))
    rows[7], rows[300] = rows[9] + 0.1 * rows[1], -rows[9]
    dictionary = at_source(rows)
    found = to_watch(dictionary, [9])
    cosine = dictionary.unit @ dictionary.unit[9]
    assert {str(i) for i in np.argsort(-cosine)[:4]} <= set(found) and "7" in found and "9" in found
    assert 20 <= len(found) <= 24 and found == tuple(sorted(found, key=int))
    assert found == to_watch(dictionary, ["9"])
    monkeypatch.setattr("dragoman.maps.dictionary.NEAR", 9000)
    assert len(to_watch(dictionary, ["1"])) == 500
    with pytest.raises(Refusal, match="feature 500"):
        to_watch(dictionary, ["500"])


def test_the_map_does_not_depend_on_what_is_asked_for(crossing: Crossing, dictionary: Directions) -> None:
    alone, _ = crossing.carry(dictionary.pick(["5"]))
    among, _ = crossing.carry(dictionary)
    assert_allclose(alone.unit[0], among.unit[5], atol=1e-6)


def test_a_crossing_of_sums_from_the_disk_carries_the_same(
    aligned: Aligned, crossing: Crossing, dictionary: Directions, tmp_path
) -> None:
    aligned.save(tmp_path / "kept")
    again = Crossing.from_tokens(Aligned.load(tmp_path / "kept"), dictionary)
    for route in ("map", "direct", "dictionary", "blend", "auto"):
        a, b = (made.carry(dictionary.pick(["8", "20"]), route) for made in (crossing, again))
        assert_allclose(a[0].unit, b[0].unit, atol=1e-6)
        assert a[1] == b[1]


def test_too_many_features_cannot_be_held_fixed(aligned: Aligned, crossing: Crossing, dictionary: Directions) -> None:
    made = replace(crossing, sums=None)
    with pytest.raises(Refusal, match=r"route 'dictionary': 40 features were watched, too many .* say --route direct"):
        made.carry(dictionary.pick(["1"]), "dictionary")
    assert made.carry(dictionary.pick(["1"]), "direct")[0].site == TARGET


def test_unknown_routes_and_other_sites_are_refused(
    aligned: Aligned, crossing: Crossing, dictionary: Directions
) -> None:
    with pytest.raises(Refusal, match="route 'teleport': known are map, direct, dictionary, blend, auto, as-is"):
        crossing.carry(dictionary, "teleport")  # type: ignore[arg-type]
    elsewhere = replace(dictionary, site=Site("third-model", 3))
    with pytest.raises(Refusal, match="third-model:3"):
        crossing.carry(elsewhere)
    with pytest.raises(Refusal, match="dictionary directions"):
        Crossing.from_tokens(aligned, elsewhere)


def test_fewer_pairs_than_the_source_is_wide_are_refused(dictionary: Directions) -> None:
    pair = planted_pair()
    options = replace(FIRST, per_document=1)
    few = read_aligned(pair.source, pair.target, pair.texts[:30], pair.encoder, options=options)
    with pytest.raises(Refusal, match="a map from 30 rows of width 48"):
        Crossing.from_tokens(few, dictionary)
