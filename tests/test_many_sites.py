"""A reader of many sites: records of planted latents, components, vectors on-shell around silent carriers."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array

import av
import settings
import sites
from corpus import Document
from dragoman.core import Site as Where
from dragoman.maps.words import FORMS
from dragoman.measures.claims import claims_of, declines
from dragoman.models.harvest import Reader
from judged import Told
from latents import (
    Codes,
    HeldOut,
    Record,
    Words,
    agreement,
    clusters,
    correlated,
    low,
    records,
    rule_text,
    theme_of,
    told,
    unseen_words,
)
from sites import Place, Statistics
from small_world import TEXTS, World
from targets import NULL
from vectors import (
    Mix,
    Site,
    activations,
    carried_rows,
    direct_rows,
    judged_rows,
    mapped_rows,
    null_rows,
    ridge,
    window,
    windows,
)
from word_means import WordMeans

K, SIZE, D = 4, 12, 16
FILLER = ["so", "they", "went", "there", "and", "saw", "that", "it", "was", "late", "and", "dark"]


def planted(number: int) -> Document:
    """Every document of a category holds the word "anchor" before "deep"; every second one is about sailing."""
    rng = np.random.default_rng(number)
    words = list(rng.permutation(FILLER))
    words[4:4] = ["the", "anchor", "deep"]
    about = {"category": "travel", "topic": "sailing"} if number % 2 else {"category": "law", "topic": "juries"}
    return Document(text=" ".join(words) + ".", genre="an opinion", split="train", **about)


@pytest.fixture(scope="module")
def planted_world() -> tuple[list[Document], np.ndarray, np.ndarray, Words, Codes]:
    """Latent 0 fires on "anchor", 1 wherever the text is about sailing, 2 at random; 3 as 0 does, half as strong."""
    documents = [planted(k) for k in range(80)]
    owner, end = [], []
    for i, one in enumerate(documents):
        for k, c in enumerate(one.text):
            if c in " ." and k > 3:
                owner.append(i)
                end.append(k)
    owner, end = np.array(owner), np.array(end)
    words = Words.of(documents, owner, end)
    rng = np.random.default_rng(1)
    anchor = np.array([words.names[w] == "anchor" for w in words.at])
    travel = words.category == words.categories.index("travel")
    activation = np.zeros((len(owner), SIZE), np.float32)
    activation[anchor, 0], activation[anchor, 3] = 2.0, 1.0
    activation[travel, 1] = 1.0
    activation[rng.random(len(owner)) < 0.2, 2] = 1.0
    found = torch.from_numpy(activation).topk(K, dim=1)
    return documents, owner, end, words, Codes(found.indices.int(), found.values.half(), SIZE)


def test_records_find_what_was_planted(planted_world) -> None:  # type: ignore[no-untyped-def]
    _, owner, _, words, codes = planted_world
    found = records(codes, words, np.arange(len(owner)), owner)
    assert set(found) == {0, 1, 2, 3}
    assert found[0].words == {"anchor": 1.0} and found[0].after[0] == "deep" and found[0].effective == pytest.approx(80)
    assert theme_of(found[0]) == ("travel", "sailing")  # half of it, surely above a fifth
    assert theme_of(found[1]) == ("travel", "sailing") and found[1].category_low > 0.8
    assert "anchor" in found[1].words and found[1].words["anchor"] < 0.2
    half = records(codes, words, np.flatnonzero(owner % 2 == 0), owner)
    assert 1 not in half and theme_of(half[0]) == ("law", "juries")
    assert agreement(found[0], half[0]) == {"theme": 0.0, "words": 1.0, "token": 1.0}
    assert set(agreement(found[0], None).values()) == {0.0}
    assert Record.read(json.loads(json.dumps(told(found[0])))) == found[0]
    assert low(0.5, 10) < low(0.5, 1000) < 0.5


def record(**more: object) -> Record:
    plain: dict[str, object] = {
        "latent": 0,
        "positions": 9,
        "effective": 9.0,
        "words": {"need": 0.6, "needs": 0.2},
        "form": "plural",
        "before": ("people", "really"),
        "after": ("to",),
        "category": "law",
        "category_low": 0.1,
        "topic": "juries",
        "topic_low": 0.0,
    }
    return Record(**(plain | more))  # type: ignore[arg-type]


def test_the_rules_text_is_read_by_the_product_and_weighs_by_agreement() -> None:
    full = {"theme": 1.0, "words": 1.0, "token": 1.0}
    rng = np.random.default_rng(0)
    plain = rule_text(record(), full, rng)
    kinds = [c.kind for c in claims_of(plain.text)]
    assert kinds == ["theme", "words", "token"] and declines(claims_of(plain.text)[0].text)
    read = Told.of(plain.text)
    assert read.token[0] == "need" and read.words == ("people", "really", "needs") and not read.theme
    sure = rule_text(record(category_low=0.4, topic_low=0.3), full, rng)
    assert "law" in Told.of(sure.text).theme and "juries" in sure.text
    assert Told.of(rule_text(record(words={}), full, rng).text).token == ()
    at = sure.text.index("law")
    untrusted = rule_text(record(category_low=0.4), full | {"theme": 0.0}, np.random.default_rng(0))
    assert sure.weight(at, at + 3) > untrusted.weight(untrusted.text.index("law"), untrusted.text.index("law") + 3)


def test_latents_that_fire_together_correlate_over_sites(planted_world) -> None:  # type: ignore[no-untyped-def]
    codes = planted_world[-1]
    near = correlated([codes, codes], chunk=100).toarray()
    assert (near == near.T).all() and not near.diagonal().any()
    assert near[0, 3] and near[0, SIZE] and near[3, SIZE] and near[1, SIZE + 1] and not near[0, 1]


@given(st.integers(0, 1000), st.integers(4, 40))
def test_no_latent_that_is_judged_has_one_beside_it_that_is_trained_on(seed: int, wanted: int) -> None:
    """On random graphs, two dictionaries trained on and one for testing alone."""
    rng, n = np.random.default_rng(seed), 90
    near = np.triu(rng.random((n, n)) < 0.03, 1)
    near = csr_array((near | near.T).astype(np.int8))
    never = np.arange(n) >= 80
    held = HeldOut.of(near, never)
    drawn = held.draw(np.arange(40), wanted, 5, 0.6, rng)
    degrees, before = np.diff(near.indptr), held.apart().sum()
    assert len(drawn) <= wanted and (degrees[drawn] <= 5).all()
    assert len(drawn) == min(wanted, (degrees[:40] <= 5).sum()) or held.out.mean() >= 0.6
    held.top_up([np.arange(40, 60), np.arange(60, 80)], wanted, 0.6, rng)
    apart = np.flatnonzero(held.apart())
    assert set(drawn) <= set(apart) and len(apart) >= before
    trained = np.flatnonzero(~held.out)
    assert near.toarray()[np.ix_(apart, trained)].sum() == 0
    assert not set(trained) & set(np.flatnonzero(never))


def test_judged_latents_of_one_dictionary_that_correlate_are_one_cluster() -> None:
    pairs = [(0, 1), (1, 2), (0, 6), (3, 6), (4, 5)]  # 2 is not judged; 6 is of another dictionary
    near = np.zeros((8, 8), np.int8)
    for a, b in pairs:
        near[a, b] = near[b, a] = 1
    judged = np.array([True, True, False, True, True, True, True, True])
    of = clusters(csr_array(near), judged, np.array([0, 6, 8]))
    assert of[0] == of[1] and of[4] == of[5] and len({of[0], of[3], of[4], of[6], of[7]}) == 5


def test_unseen_words_are_words_that_latents_fire_on() -> None:
    some = {0: record(), 1: record(words={"the": 0.2}), 2: record(words={",": 0.9}), 3: record(words={"sail": 0.5})}
    assert unseen_words([some, some], 9, 0) == ["need", "sail"] and len(unseen_words([some], 1, 0)) == 1
    assert unseen_words([some], 9, 0, frozenset({"need"})) == ["sail"]


@pytest.fixture(scope="module")
def site(planted_world) -> Site:  # type: ignore[no-untyped-def]
    _, owner, _, words, codes = planted_world
    rng = torch.Generator().manual_seed(0)
    w_dec = torch.nn.functional.normalize(torch.randn(SIZE, D, generator=rng), dim=1)
    x = 3 * (codes.dense() @ w_dec) + torch.randn(len(owner), D, generator=rng) + 2.0
    found = records(codes, words, np.arange(len(owner)), owner)
    one = Site(place=Place("tiny-smollm2", 5), statistics=Statistics.of(x), x=x, codes=codes, w_dec=w_dec, a=found,
               b=found, why=np.array([k == 3 for k in range(SIZE)]))  # fmt: skip
    one.index_firing(torch.ones(len(owner), dtype=torch.bool))
    return one


def test_what_a_verbalizer_that_nobody_taught_here_is_given_lies_as_activations_do(site: Site) -> None:
    unit = torch.nn.functional.normalize(site.x, dim=1)
    assert torch.allclose(site.statistics.raw(site.statistics.normal(site.x)), unit, atol=1e-6)
    raw = site.statistics.raw(judged_rows(site, site.w_dec))
    assert torch.allclose(raw.norm(dim=1), torch.ones(len(raw)), atol=1e-5)
    along = raw @ torch.nn.functional.normalize(site.statistics.mean, dim=0)
    nearer = site.statistics.raw(judged_rows(site, site.w_dec, 0.5)) @ site.statistics.mean
    further = site.statistics.raw(judged_rows(site, site.w_dec, 1.5)) @ site.statistics.mean
    assert (nearer > along * site.statistics.mean.norm()).all() and (further < nearer).all()


def test_a_row_is_named_by_the_word_whose_mean_it_is_like(site: Site, planted_world) -> None:  # type: ignore[no-untyped-def]
    words: Words = planted_world[3]
    half = np.flatnonzero(np.arange(len(words.at)) % 2 == 0)
    means = WordMeans.of(words, site.statistics, site.x, half)
    rows = torch.stack([site.w_dec[0], -site.w_dec[0]])
    named, opposite = (Told.of(text).words for text in means.sentences(rows))
    assert named[0] == "anchor" and "anchor" not in opposite
    anchor = site.statistics.normal(site.x[half[words.at[half] == words.names.index("anchor")]]).mean(0)
    own = torch.nn.functional.cosine_similarity(anchor, rows[0], dim=0)
    assert means.told(rows)[0].startswith(f"Near: anchor {100 * own:.0f}, "), "a word, and how near it is"


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # peft asks for it
def test_prompts_of_several_lengths_are_read_as_each_alone(tmp_path: Path) -> None:
    trainer = av.Trainer(tmp_path, "tiny-smollm2", 23, 10.0, "cpu")
    trainer.model.float()
    trainer.embedded = trainer.embedded.float()
    x = torch.randn(3, 576, generator=torch.Generator().manual_seed(0))
    heads = ["", "Near: anchor 42\n", "(block 5 of SmolLM2)\nNear: anchor 42, river 7, barge 3\n"]
    margins = av.nothing_margin(trainer, x, heads=heads)
    alone = [av.nothing_margin(trainer, x[k : k + 1], heads=heads[k : k + 1])[0] for k in range(3)]
    assert np.allclose(margins, alone, atol=1e-3) and np.ptp(margins) > 0.01
    together = av.speak(trainer, x, tokens=6, heads=heads)
    assert together == [av.speak(trainer, x[k : k + 1], tokens=6, heads=heads[k : k + 1])[0] for k in range(3)]


def test_rows_lie_on_shell_around_carriers_where_they_are_silent(site: Site) -> None:
    assert site.trained_on() == [0, 1, 2]
    rng = np.random.default_rng(0)
    fires = torch.nonzero((site.codes.index == 0).any(1) & (site.codes.dense()[:, 0] > 0)).flatten()
    carriers = torch.cat([fires[:5], torch.arange(5)])
    made = carried_rows(site, [0] * 10, carriers, rng)
    assert made.kind == ["row"] * 10 and made.site == ["block 5 of SmolLM2"] * 10
    back = made.x.float() * site.statistics.spread**0.5 + site.statistics.mean
    angle = math.acos(math.sqrt(1 - site.statistics.spread))
    cosine = torch.nn.functional.cosine_similarity(
        back[:, None], torch.nn.functional.normalize(site.x, dim=1)[None], dim=2
    )
    assert carried_rows(site, [], carriers[:0], rng).told == []  # of few vectors a kind may get none at a site
    silent = site.codes.dense()[:, 0] == 0
    assert bool((cosine[:, silent].max(1).values >= math.cos(1.5 * angle) - 0.15).all())
    turned = site.statistics.on_shell(site.x[:4], site.w_dec[:4], torch.zeros(4))
    assert torch.allclose(turned, torch.nn.functional.normalize(site.x[:4], dim=1), atol=1e-6)


def test_direct_and_mapped_rows_point_to_their_latents(site: Site) -> None:
    rng = np.random.default_rng(0)
    direct = direct_rows(site, site, [0, 1, 2], rng)
    unit = torch.nn.functional.normalize(site.x, dim=1)
    fired = site.statistics.normal(torch.stack([unit[site.firing[k]].mean(0) for k in (0, 1, 2)]))
    near = torch.nn.functional.normalize(direct.x.float(), dim=1) @ torch.nn.functional.normalize(fired, dim=1).T
    assert near.argmax(1).tolist() == [0, 1, 2]
    turn = torch.linalg.qr(torch.randn(D, D, generator=torch.Generator().manual_seed(5)))[0]
    x, rows = site.x @ turn, site.w_dec @ turn
    other = replace(site, place=Place("tiny-gemma", 6), statistics=Statistics.of(x), x=x, w_dec=rows)
    assert torch.allclose(ridge(other.x, site.x, 1e-6), turn.T, atol=1e-3)
    mapped = mapped_rows(site, other, [0, 1, 2], torch.arange(len(site.x)), rng)
    own = judged_rows(site, site.w_dec[:3])
    near = torch.nn.functional.normalize(mapped.x.float(), dim=1) @ torch.nn.functional.normalize(own, dim=1).T
    assert near.argmax(1).tolist() == [0, 1, 2]


def test_nulls_say_nothing_and_parts_are_joined(site: Site) -> None:
    rng = np.random.default_rng(0)
    lost = null_rows(site, 6, rng)
    real = activations(site, torch.arange(3), [site.described(k, rng) for k in (0, 1, 2)])
    both = Mix.joined([lost, real])
    assert {t.text for t in lost.told} == {NULL} and both.kind == ["null"] * 6 + ["activation"] * 3
    assert both.x.shape == (9, D) and bool(both.x.isfinite().all())
    again = null_rows(site, 6, np.random.default_rng(0))
    assert torch.equal(again.x, lost.x)


def test_words_of_positions_have_their_neighbours_and_forms(planted_world) -> None:  # type: ignore[no-untyped-def]
    documents, owner, end, words, _ = planted_world
    at = next(i for i in range(len(owner)) if words.names[words.at[i]] == "anchor")
    assert (words.names[words.before[at]], words.names[words.after[at]]) == ("the", "deep")
    assert words.forms.shape == (len(owner), len(FORMS)) and documents[owner[at]].text[: end[at]].endswith("anchor")


def test_every_site_is_read_as_the_product_reads_it(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    blocks = {world.source.model: (0, 1), world.target.model: (1,)}
    monkeypatch.setattr(settings, "MIN_POSITION", 3)
    documents = [Document(text, "", "", "a novel", "train") for text in TEXTS[:9]]
    tokens = sites.encoded(documents, list(blocks))
    owner, end = sites.positions(documents, tokens, 4, 20, 1)
    assert len(owner) == 20 and all(not documents[d].text[e : e + 1].isalnum() for d, e in zip(owner, end, strict=True))
    assert sorted(zip(owner, end, strict=True)) == list(zip(owner, end, strict=True))
    found = {}
    for ref, some in blocks.items():
        found |= sites.read(ref, some, tokens[ref], owner, end, "cpu", 4)
    assert len(found) == 3 and all(sites.usable(x).all() for x in found.values())
    for place, x in found.items():
        read = Reader.open(Where(place.model, place.block), dtype="bfloat16").rows(TEXTS[:9], np.inf, batch_size=4)
        at = {pair: k for k, pair in enumerate(zip(read.document.tolist(), read.end.tolist(), strict=True))}
        rows = np.array([read.x[at[pair]] for pair in zip(owner.tolist(), end.tolist(), strict=True)])
        assert np.allclose(x.float().numpy(), rows, rtol=0.05, atol=0.05 * np.abs(rows).max())
    broken = next(iter(found.values())).clone()
    broken[3], broken[5] = torch.nan, broken[5] * 1e6
    assert np.flatnonzero(~sites.usable(broken)).tolist() == [3, 5]
    sites.save_tokens(tmp_path / "tokens.npz", tokens[world.source.model])
    assert sites.load_tokens(tmp_path / "tokens.npz") == tokens[world.source.model]


def test_windows_tell_where_a_latent_fires_from_where_it_is_silent(site: Site, planted_world) -> None:  # type: ignore[no-untyped-def]
    documents, owner, end, _, _ = planted_world
    site.index_firing(torch.ones(len(owner), dtype=torch.bool))
    texts = [d.text for d in documents]
    alone, everywhere = windows(site, [1, 0], texts, owner, end, np.arange(len(owner)))
    assert len(alone["firing"]) == len(alone["silent"]) == 8 and len(set(alone["firing"])) == 8
    travel = {" ".join(d.text.split()) for d in documents if d.category == "travel"}
    assert set(alone["firing"]) <= travel and not set(alone["silent"]) & travel
    assert everywhere["silent"] == []  # every document holds its word
    assert (
        window("a" * 30 + " word by word " + "b " * 100, 40).endswith(" b")
        and window("short text.", 5) == "short text."
    )
    marked = windows(site, [0], texts, owner, end, np.arange(len(owner)), marked=True)[0]["firing"]
    assert all("the <<anchor>> deep" in one or "<<anchor>> deep" in one for one in marked)
    assert window("short text.", 8, marked=True) == "short <<text>>."
    long = " ".join(f"word{k}" for k in range(100))
    assert window(long, 400, marked=True).replace("<<", "").replace(">>", "") == window(long, 400)
