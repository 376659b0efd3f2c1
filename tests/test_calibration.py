"""A calibration: right sentences sure, nulls never answered, verdicts that know nothing refused; bounds and lines."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta, binomtest

from dragoman.calibration.answers import FEWEST_RIGHT, agreement_with_known, calibrated, gathered, kinds_of, of_kinds
from dragoman.calibration.deal import dealt
from dragoman.calibration.draw import Truth, drawn
from dragoman.calibration.fitted import components, fitted
from dragoman.calibration.inputs import concept
from dragoman.calibration.outcome import SentenceAbout, dealt_sentences, kappa, sentences_of, verdicts
from dragoman.calibration.texts import ANOTHER, FAKE
from dragoman.commands.calibrate import lines_of
from dragoman.confidence.calibration import Calibration, kind_of
from dragoman.confidence.evidence import Evidence
from dragoman.confidence.fit import fit_unseen
from dragoman.confidence.risk import answer_line, bound_of, error_bound, independent
from dragoman.core import Refusal, Talk
from dragoman.embed import LexicalEmbedder
from dragoman.measures.claims import Windows, check_claims, claims_of, token_of
from dragoman.scoring.judged_run import CachedEmbedder
from dragoman.scoring.sentences import Reference
from dragoman.store import form_of
from planted_calibration import (
    IDENTITY,
    LATENTS,
    SIZES,
    another,
    held_out,
    text_of,
    with_feature,
    with_text,
    word,
    world,
)

EMBEDDER = CachedEmbedder(LexicalEmbedder(width=256))


def checked(**how):
    texts, watched = world(**how)
    return verdicts(texts, watched, EMBEDDER, dealt=1, seed=0, talk=Talk()), watched


def calibration_of(found, watched):
    return calibrated(watched, found, IDENTITY, SIZES, 0, "2026-01-02", "texts", EMBEDDER, Talk())


@pytest.fixture(scope="module")
def planted():
    found, watched = checked()
    return calibration_of(found, watched), found, watched


def test_right_sentences_are_sure_and_wrong_ones_are_not(planted):
    made, found, watched = planted
    own, _ = gathered(found, watched, Reference(sentences=made.sentences, embedder=EMBEDDER))
    p = np.array([one.probability for one in made.predict(own.evidence)], dtype=object)
    token = np.array([kind_of(row) == "token" for row in own.evidence])
    named = np.array([int(one) % 3 > 0 for one in own.group])  # groups are latents, in their order
    assert own.right[token & named].all() and own.right[~named].mean() < 0.2
    assert min(p[token & named]) > 0.7 and np.mean(p[token & ~named]) < 0.2


def test_a_kind_of_sentence_that_is_hardly_ever_borne_out_has_no_answer_and_is_named(planted):
    made, found, watched = planted
    own, _ = gathered(found, watched, Reference(sentences=made.sentences, embedder=EMBEDDER))
    kinds = [kind_of(row) for row in own.evidence]
    counts = {kind: (kinds.count(kind), sum(own.right[k] for k in range(len(kinds)) if kinds[k] == kind))
              for kind in set(kinds)}  # fmt: skip
    assert {kind: (one.n, one.right) for kind, one in made.kinds.items()} == counts
    assert {kind for kind, one in made.kinds.items() if one.calibrated} == {"token"}
    for kind, one in zip(kinds, made.predict(own.evidence), strict=True):
        assert (one.probability is None) == (kind != "token") and (kind == "token" or not one.answered)
    assert made.reliability.n == counts["token"][0]
    n, right = counts["theme"]
    assert made.told.endswith(f"; none about themes ({right} of {n} borne out)")


def test_where_no_kind_is_borne_out_nothing_is_calibrated(planted):
    made, found, watched = planted
    own, nulls = gathered(found, watched, Reference(sentences=made.sentences, embedder=EMBEDDER))
    few = np.zeros(len(own.right), bool)
    few[np.flatnonzero([kind_of(row) == "token" for row in own.evidence])[: FEWEST_RIGHT - 1]] = True
    kinds = kinds_of(replace(own, right=few))
    assert not any(one.calibrated for one in kinds.values())
    with pytest.raises(Refusal, match="of no kind of sentence are 10 borne out"):
        of_kinds(own, nulls, [kind for kind, one in kinds.items() if one.calibrated])


def test_no_null_is_answered_where_truth_is_planted(planted):
    made, found, watched = planted
    _, nulls = gathered(found, watched, Reference(sentences=made.sentences, embedder=EMBEDDER))
    assert made.line is not None and len(nulls) == 60
    assert not any(one.answered for text in nulls for one in made.predict(text.evidence))
    assert set(made.reliability.nulls.values()) == {0.0}


@pytest.mark.parametrize("true", [True, False])
def test_what_is_true_of_where_a_fake_latent_fires_is_no_false_answer(planted, true):
    """Fakes that fire on a word of their own in documents of the evidence; in held-out ones on the same, or not."""
    made, rng = planted[0], np.random.default_rng(5)
    texts, watched = world()
    fakes = [f"fake-{k}" for k in range(12)]
    said = [with_feature(text_of(150 + k, 150 + k, rng, null=FAKE, sure=2.0), name) for k, name in enumerate(fakes)]
    held = {name: held_out(150 + k if true else 130 + k, rng) for k, name in enumerate(fakes)}
    watched = replace(watched, held_out=watched.held_out | held)
    found = verdicts([*(t for t in texts if t.null != FAKE), *said], watched, EMBEDDER, dealt=1, seed=0, talk=Talk())
    about = {one.feature: right for one, right in found.fakes.items() if one.kind == "token"}
    assert about == dict.fromkeys(fakes, true) and not {one.feature for one in found.own} & set(fakes)
    _, nulls = gathered(found, watched, Reference(sentences=made.sentences, embedder=EMBEDDER))
    chances = [(made.predict(text.evidence), text.outcomes) for text in nulls if text.null == FAKE]
    answered = np.mean([any(one.answered for one in some) for some, _ in chances])
    false = np.mean([any(p.answered and not r for p, r in zip(some, own, strict=True)) for some, own in chances])
    assert answered > 0.5 and false == (0 if true else answered)
    again = calibration_of(found, watched)
    worth = again.reliability
    assert worth.nulls[ANOTHER] == worth.nulls_answered[ANOTHER] == 0
    if true:
        assert again.line is not None and worth.nulls[FAKE] == 0 and worth.nulls_answered[FAKE] > 0.5
    else:
        assert worth.nulls[FAKE] == worth.nulls_answered[FAKE] <= 0.02


def standing(one, sharpness):
    """The same where the latent's row stands out so far."""
    along = {"sharpness": sharpness, "cosine": 0.5, "share": 0.1}
    return replace(one, text=replace(one.text, windows=replace(one.text.windows, along_row=along)))


@pytest.mark.parametrize("sharper", [True, False])
def test_fakes_are_answered_no_more_than_other_nulls_whatever_is_true_of_where_they_fire(planted, sharper):
    """Forty fakes of which true things are said; latents stand out more along their rows than they do, or alike."""
    rng, fakes = np.random.default_rng(6), [f"fake-{k}" for k in range(40)]
    texts, watched = world()
    said = [with_feature(text_of(150 + k, 150 + k, rng, null=FAKE, sure=2.0), name) for k, name in enumerate(fakes)]
    held = {name: held_out(150 + k, rng) for k, name in enumerate(fakes)}
    far = {one.feature: 1.0 + sharper * 3.0 + float(rng.random()) for one in texts}
    texts = [standing(one, far[one.feature]) for one in texts if one.null != FAKE]
    texts += [standing(one, 1.0 + float(rng.random())) for one in said]
    watched = replace(watched, held_out=watched.held_out | held)
    found = verdicts(texts, watched, EMBEDDER, dealt=1, seed=0, talk=Talk())
    made = calibration_of(found, watched)
    assert made.learnt is not None and made.learnt.n_fakes == 40 and made.reliability.nulls_answered[FAKE] <= 0.02
    own, nulls = gathered(found, watched, Reference(sentences=made.sentences, embedder=EMBEDDER))
    chances = made.predict(own.evidence)
    if sharper:
        assert made.learnt.latents == 1 and np.mean([one.answered for one in chances]) > 0.15
        of_fakes = [one for text in nulls if text.null == FAKE for one in made.predict(text.evidence)]
        sure = [one for one in of_fakes if one.probability is not None and one.probability >= (made.line or 1)]
        assert len(sure) > 20 and {one.unanswered for one in sure} == {"row does not stand out"}
        bare = [{name: value for name, value in row.items() if not name.startswith("row_")} for row in own.evidence]
        told = {one.unanswered for one in made.predict(bare)}
        assert told == {None, "below the line", "row not measured"} and not any(o.answered for o in made.predict(bare))
        told = {one.unanswered for one in made.model_copy(update={"line": None}).predict(own.evidence)}
        assert told == {None, "no line"}, "none of a kind that is not calibrated"
        assert [one.probability for one in made.predict(bare)] == [one.probability for one in chances]
        assert "none about latents that stand out no more than random directions (0% of 60)" in made.told
        assert all(len(line) <= 80 for line in lines_of(made))
        assert any(line.startswith("stand out along their rows") for line in lines_of(made))
    else:
        assert made.learnt.latents < 0.3 and np.mean([one.answered for one in chances]) < 0.1


def test_what_it_is_worth_is_told(planted):
    made, _, _ = planted
    worth = made.reliability
    assert worth.kappa > 0.9 and worth.known >= 30 and worth.auroc > 0.85
    assert worth.error is not None and worth.bound is not None and worth.error <= worth.bound <= 0.2
    assert made.told.startswith(
        f"calibrated on 60 latents of this dictionary on 2026-01-02; answers {worth.answered:.0%} of sentences about "
        "final tokens at <= 20 % error"
    )
    assert f"; {worth.features_answered:.0%} of the latents have an answer; " in made.told


def test_a_feature_is_answered_where_one_of_its_sentences_is():
    """Each latent says its text by two readings; a latent is counted once, whichever of them is answered."""
    texts, watched = world()
    both = [replace(one, condition="writes") for one in texts if not one.null]
    found = verdicts([*texts, *both], watched, EMBEDDER, dealt=1, seed=0, talk=Talk())
    made = calibration_of(found, watched)
    own, nulls = gathered(found, watched, Reference(sentences=made.sentences, embedder=EMBEDDER))
    own, nulls = of_kinds(own, nulls, ["token"])
    result, answered = fitted(own, nulls, seed=0), set[int]()
    for feature, answers in zip(own.feature.tolist(), result.answers.tolist(), strict=True):
        answered |= {feature} if answers else set()
    worth = made.reliability
    assert worth.features_answered == len(answered) / LATENTS and result.answers.mean() == worth.answered
    assert 0 < len(answered) < result.answers.sum() and len(own.right) == 2 * LATENTS


def test_the_command_tells_it_in_lines_of_eighty_columns(planted):
    made, _, _ = planted
    lines = lines_of(made)
    assert all(len(line) <= 80 for line in lines)
    assert any(line.startswith("themes") and line.endswith("too few: no answer") for line in lines)
    assert any(line.startswith("final tokens") and line.split()[-1] == str(made.kinds["token"].right) for line in lines)
    assert any(line.startswith("answers ") and f"{made.reliability.bound:.0%}" in line for line in lines)


def test_verdicts_that_know_nothing_are_refused():
    found, watched = checked(moved=7)
    assert abs(agreement_with_known(found, watched)[0]) < 0.3
    with pytest.raises(Refusal, match=r"the verdicts agree with \d+ known answers by kappa"):
        calibration_of(found, watched)


def test_the_same_seed_gives_the_same_bytes_and_comes_back_from_its_file(planted, tmp_path):
    made, _, _ = planted
    again = calibration_of(*checked())
    again.save(tmp_path / "a.json")
    made.save(tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    back = Calibration.load(tmp_path / "a.json")
    assert back.told == made.told and back.right.weights == made.right.weights and back.spans == made.spans


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"source": "c:1"}, "the source"), ({"target": "c:1"}, "the target"), ({"dictionary": "e"}, "the dictionary"),
        ({"verbalizer": {"name": "other"}}, "the verbalizer"), ({"washout": "none"}, "the washout"),
        ({"map": "post"}, "the map"), ({"routes": ("blend",)}, "goes by blend"), ({"samples": 4}, "samples"),
    ],
)  # fmt: skip
def test_a_run_of_another_kind_is_refused(planted, changes, told):
    made, _, _ = planted
    made.refuse_another(IDENTITY, "pair.json")
    made.refuse_another(another(IDENTITY, routes=("map",)), "pair.json")
    with pytest.raises(Refusal, match=told):
        made.refuse_another(another(IDENTITY, **changes), "pair.json")


@pytest.mark.parametrize("text", ['{"kind": "dragoman calibration", "format": 9}', '{"kind": "x"}', "[]"])
def test_other_files_and_versions_are_refused(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(Refusal, match="calibration"):
        Calibration.load(tmp_path / "x.json")


def claims(*sentences):
    return [claim for one in sentences for claim in claims_of(one)]


def test_verdicts_are_those_of_a_runs_own_sentences_on_held_out_documents(planted):
    _, found, watched = planted
    for k, (one, right) in enumerate(found.own.items()):
        entry = watched.held_out[one.feature]
        if one.kind == "token":
            assert right == (token_of(one.sentence)[0] in entry["words"])
        elif k % 8 == 0:
            own = [text for text in found.texts if not text.null and text.feature != one.feature]
            others = sorted(set(watched.latents) - {one.feature})
            status = check_claims(
                claims(one.sentence),
                Windows(**entry),
                others=[Windows(**watched.held_out[name]) for name in others],
                dealt=[s.sentence for text in own for s in sentences_of(text) if s.kind == "theme"],
                embedder=EMBEDDER,
            )[0]
            assert right == (status.status == "supported")


def test_a_theme_is_borne_out_where_its_words_are_those_of_the_firing_windows():
    texts, watched = world()
    texts[1] = with_text(texts[1], f"It is about {word(1)}.")
    texts[2] = with_text(texts[2], f'The vocabulary is marked by "{word(2)}" and "{word(90)}".')
    texts[4] = with_text(texts[4], f'The vocabulary is marked by "{word(91)}", "{word(92)}" and "{word(4)}".')
    wide = CachedEmbedder(LexicalEmbedder())  # few words share a place
    found = verdicts(texts, watched, wide, dealt=1, seed=0, talk=Talk()).own
    assert [found[sentences_of(texts[k])[0]] for k in (1, 2, 4)] == [True, True, False]
    assert not found[sentences_of(texts[5])[0]]


def test_what_cannot_be_checked_has_no_verdict():
    texts, watched = world()
    watched.held_out["1"] |= {"firing": ["only one window"], "words": {}}
    texts[2] = with_text(texts[2], "The final token is a word.")
    found = verdicts(texts, watched, EMBEDDER, dealt=1, seed=0, talk=Talk())
    assert not [one for one in (*found.own, *found.dealt) if one.feature == "1"]
    assert not [one for one in found.own if one.feature == "2"]
    own, _ = gathered(found, watched, Reference(sentences={}, embedder=EMBEDDER))
    assert len(own.right) == len(found.own) == 2 * 60 - 4


def test_texts_of_a_concept_are_about_its_word():
    texts, watched = world()
    rng = np.random.default_rng(1)
    one = replace(text_of(100, 100, rng), feature=f"{word(100)} at 0.7", concept=concept(word(100)))
    known = replace(watched, words=(word(100),), held_out={**watched.held_out, concept(word(100)): held_out(100, rng)})
    found = verdicts([*texts, one], known, EMBEDDER, dealt=2, seed=0, talk=Talk())
    assert found.own[SentenceAbout(f'The final token is "{word(100)}".', "token", concept(word(100)))]
    dealt_to = [about for about in found.dealt if about.feature == concept(word(100))]
    assert [about.kind for about in dealt_to] == ["theme", "theme", "token", "token"]
    assert not any(found.dealt[about] for about in dealt_to)


@given(st.integers(1, 3), st.integers(0, 5))
@settings(max_examples=20, deadline=None)
def test_dealt_sentences_are_of_others(n, seed):
    own = {str(k): claims(f'About {word(k)}. The final token is "{word(k)}".') for k in range(6)}
    given_out = dealt_sentences(own, ["0", "3", "none"], n, seed=seed)
    for name, some in given_out.items():
        assert [one.kind for one in some] == ["theme"] * n + ["token"] * n
        assert len(set(some)) == 2 * n and not set(some) & set(own.get(name, ()))


@given(st.integers(1, 300), st.data())
@settings(max_examples=40, deadline=None)
def test_the_bound_is_clopper_and_pearsons(n, data):
    wrong = data.draw(st.integers(0, n))
    told = error_bound(wrong, n)
    assert told == pytest.approx(binomtest(wrong, n, alternative="less").proportion_ci(0.9).high)
    assert wrong == n or told == pytest.approx(beta.ppf(0.9, wrong + 1, n - wrong))
    assert wrong / n <= told <= 1 and (wrong == n or told <= error_bound(wrong + 1, n) + 1e-12)


def test_the_bound_refuses_what_is_no_count():
    for wrong, n in ((1, 0), (3, 2), (-1, 5)):
        with pytest.raises(Refusal):
            error_bound(wrong, n)


@given(st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_a_line_keeps_what_it_promises(seed):
    rng = np.random.default_rng(seed)
    p = rng.random(200)
    right = rng.random(200) < p ** rng.choice([0.3, 1.0, 4.0])
    nulls = {"a": rng.random(50) * rng.random(), "b": rng.random(50) * rng.random()}
    line = answer_line(p, right, np.arange(200), nulls)
    if line.threshold is None:
        assert line.why and not line.answered
        return
    taken = p >= line.threshold
    assert line.answered == taken.sum() and line.wrong == (~right[taken]).sum()
    assert line.bound is not None and line.bound <= 0.2
    assert all(np.mean(some >= line.threshold) <= 0.02 for some in nulls.values())


def test_answers_are_wrong_too_often_in_a_tenth_of_worlds_at_most():
    """Probabilities that say nothing of sentences of which a fifth is wrong: certified by chance alone."""
    wrong = 0
    for seed in range(150):
        rng = np.random.default_rng(seed)
        p, right = rng.random(120), rng.random(120) < 0.8
        wrong += answer_line(p, right, np.arange(120), {}).threshold is not None
    assert wrong <= 0.1 * 150 + 2 * np.sqrt(150 * 0.1 * 0.9)


def test_nothing_is_answered_where_a_null_is_as_sure():
    p = np.linspace(0.5, 1, 100)
    line = answer_line(p, np.ones(100, bool), np.arange(100), {"fake": np.ones(50), "other": np.zeros(50)})
    assert line.threshold is None and "'fake'" in line.why


@pytest.mark.parametrize("giant", [20, 60, 120])
def test_a_large_group_that_is_right_or_wrong_as_one_does_not_pass_for_many(giant):
    """The same world, where a share of the sentences is one group: one draw says little of how often it is wrong."""
    wrong = 0
    for seed in range(150):
        rng = np.random.default_rng(seed)
        right = np.append(np.full(giant, rng.random() < 0.8), rng.random(200 - giant) < 0.8)
        clusters = np.append(np.zeros(giant, int), 1 + np.arange(200 - giant))
        wrong += answer_line(rng.random(200), right, clusters, {}).threshold is not None
    assert wrong <= 0.1 * 150 + 2 * np.sqrt(150 * 0.1 * 0.9)


def test_groups_count_as_if_each_were_right_or_wrong_as_one():
    assert independent(np.arange(50)) == 50 and independent(np.repeat(np.arange(5), 10)) == 5
    assert independent(np.append(np.zeros(28, int), [1, 2])) == pytest.approx(30**2 / (28**2 + 2))
    p, right = np.linspace(0.5, 1, 40), np.ones(40, bool)
    assert answer_line(p, right, np.arange(40), {}).threshold is not None
    line = answer_line(p, right, np.repeat(np.arange(4), 10), {})
    assert line.threshold is None
    assert line.why == "those it could answer are of features that fire together, and count as 4 (11 at least)"


@given(st.lists(st.integers(0, 12), min_size=2, max_size=60), st.data())
@settings(max_examples=60, deadline=None)
def test_more_wrong_is_never_surer(groups, data):
    clusters = np.array(groups)
    wrong = np.array(data.draw(st.lists(st.booleans(), min_size=len(groups), max_size=len(groups))))
    more = wrong | np.array(data.draw(st.lists(st.booleans(), min_size=len(groups), max_size=len(groups))))
    assert bound_of(wrong, clusters) <= bound_of(more, clusters) + 1e-12


def test_too_many_wrong_are_told_with_what_they_count_for():
    p, clusters = np.linspace(1, 0, 60), np.arange(60) // 2
    line = answer_line(p, np.arange(60) % 2 == 0, clusters, {})
    assert line.threshold is None
    told = "of its 21 surest sentences, which count as 11, 10 are wrong: with 90% confidence up to "
    assert line.why.startswith(told) and line.why.endswith("%, and 20% at most may be")


def test_the_surest_may_be_of_few_groups_where_all_are_of_many():
    """The third setting: thirty surest sentences of nine groups, none wrong, which tells too little alone."""
    clusters = np.append(np.repeat(np.arange(9), [8, 5, 4, 4, 3, 2, 2, 1, 1]), 9 + np.arange(570) // 2)
    p, right = np.linspace(1, 0, 600), np.arange(600) < 130
    assert independent(clusters[:30]) < 7
    line = answer_line(p, right, clusters, {})
    assert line.threshold is not None and line.answered >= 120 and line.wrong / line.answered <= 0.1


def test_unseen_probabilities_are_of_fits_without_the_group():
    sklearn = pytest.importorskip("sklearn.linear_model")
    rng = np.random.default_rng(0)
    x, groups = rng.normal(size=(120, 2)), np.repeat(np.arange(40), 3)
    y = rng.random(120) < 1 / (1 + np.exp(-2 * x[:, 0]))
    rows: list[Evidence] = [{"a": float(a), "b": float(b)} for a, b in x]
    step, unseen = fit_unseen(rows, y, groups=groups, seed=0)
    penalty = step.report["penalty"]
    wide = (x - x.mean(axis=0)) / x.std(axis=0)
    whole = sklearn.LogisticRegression(C=1 / penalty, tol=1e-8, max_iter=1000).fit(wide, y)
    assert step.weights == pytest.approx(whole.coef_[0], abs=1e-3)
    fold = np.random.default_rng(0).permutation(40)[groups] % 5
    for k in range(5):
        part = sklearn.LogisticRegression(C=1 / penalty, tol=1e-8, max_iter=1000).fit(wide[fold != k], y[fold != k])
        z = part.decision_function(wide[fold == k])
        assert unseen[fold == k] == pytest.approx(step.slope * z + step.offset, abs=1e-2)


@given(st.lists(st.text(min_size=1, max_size=8), max_size=40), st.integers(0, 5), st.integers(1, 30))
@settings(max_examples=50, deadline=None)
def test_no_document_is_evidence_and_outcome(texts, seed, most):
    first, second = dealt(texts, most, seed)
    kept = {form_of(text) for text in texts} - {""}
    mine, theirs = (set(map(form_of, some)) for some in (first, second))
    assert not mine & theirs and len(first) + len(second) == len(mine | theirs) == min(most, len(kept))
    assert [*map(set, dealt(texts[::-1], most, seed))] == [set(first), set(second)]


def test_latents_are_drawn_whatever_they_fire_on():
    often = {str(k): 20.0 + k for k in range(180)}
    share = {str(k): (k * 7 % 180) / 180 for k in range(180)}
    chosen = drawn(often, share, 90, seed=1)
    assert len(set(chosen)) == 90 and chosen == drawn(often, share, 90, seed=1) != drawn(often, share, 90, seed=2)
    for low in range(0, 180, 60):
        assert sum(low <= int(name) < low + 60 for name in chosen) == 30
    with pytest.raises(Refusal, match="fire in enough documents"):
        drawn({"1": 30.0}, {}, 9, seed=0)


def test_truths_know_what_names_them():
    assert Truth(word="need").named_by('The final token is "needs".', ("needs",))
    assert not Truth(word="need").named_by('The final token is "want".', ("want",))
    assert Truth(form="digit").named_by("", ("1999",)) and not Truth(form="digit").named_by("", ("year",))


def test_kappa_and_groups():
    half, crossed = [True, True, False, False], [True, False, True, False]
    assert kappa(half, half) == 1 and kappa(crossed, half) == 0 == kappa([True], [True])
    together = np.zeros((50, 3))
    together[:10, :2] = 1
    together[20:30, 2] = 1
    assert components(together).tolist() == [0, 0, 1]
    assert word(3) != word(13)
