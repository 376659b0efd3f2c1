"""Sentences of a text and what bears them out: planted windows, planted words, and texts that make things up."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dragoman.core import Refusal
from dragoman.embed import LexicalEmbedder
from dragoman.measures.claims import Windows, check_claims, claims_of, declines, label_of, token_of, topic_of
from dragoman.models import embedder as embedders
from dragoman.scores import ClaimStatus, ConfidenceScores, FeatureConfidence, Scores
from dragoman.scoring import JudgedRun, add_claims, claim_scores
from dragoman.scoring.claims import held_back
from dragoman.store import RunFolder
from judging import whole

TOPICS = [
    "tennis racket court match", "cell division biology mitosis", "vikings norse longship raid",
    "salary wage payroll employer", "galaxy star telescope orbit", "bread oven flour yeast", "piano chord melody song",
    "hurricane storm wind flood", "parliament election vote law", "beehive honey bee nectar", "dress silk fashion hem",
    "python code compiler loop", "tooth dentist gum floss", "truck cargo highway diesel", "clock minute hour pendulum",
    "wine grape vineyard cork", "adoption orphan foster parent", "police detective crime arrest",
    "garden rose soil petal", "heat drought desert dune", "movie scene actor film", "island lagoon reef palm",
    "coal turbine reactor grid", "prayer monk temple shrine", "dog puppy leash bark",
]  # fmt: skip
SPOKEN = "the people came again because it was a good day and they said so to others while time went by"
FILLER = SPOKEN.split()
LEXICAL = LexicalEmbedder()


def passage(rng: np.random.Generator, *planted: str) -> str:
    return " ".join(rng.permutation([*rng.choice(FILLER, 14), *planted]))


def theme(topic: str) -> str:
    one, two, *_ = topic.split()
    return f"A passage about {one}: {two}, written as a diary entry."


def said(topic: str, token: str) -> str:
    a, b, c, _ = topic.split()
    salient = f'Words such as "{a}", "{b}" and "{c}" stand out.'
    return f'{theme(topic)}\n\n{salient}\n\nFinal token "{token}" goes on; something like "of the" comes next.'


def topical(k: int, words: dict[str, float] | None = None) -> Windows:
    """Feature k fires where its topic is spoken of."""
    rng = np.random.default_rng([k, 7])
    firing = [passage(rng, *TOPICS[k].split(), *rng.choice(TOPICS[k].split(), 3)) for _ in range(10)]
    silent = [passage(rng, *TOPICS[(k + 1 + rng.integers(len(TOPICS) - 1)) % len(TOPICS)].split()) for _ in range(10)]
    return Windows(firing=firing, silent=silent, words={"day": 0.5, "good": 0.1} if words is None else words)


def anywhere(token: str) -> Windows:
    """A feature that fires on one word, whatever is spoken of."""
    rng = np.random.default_rng(3)
    pick = [TOPICS[k].split() for k in rng.permutation(len(TOPICS))[:20]]
    return Windows(
        firing=[passage(rng, *words, token) for words in pick[:10]],
        silent=[passage(rng, *words) for words in pick[10:]],
        words={token: 0.8},
    )


def judged(text: str, own: Windows, skip: int = -1, **more: Any) -> dict[str, ClaimStatus]:
    others = [topical(k) for k in range(len(TOPICS)) if k != skip]
    dealt = [theme(t) for k, t in enumerate(TOPICS) if k != skip]
    found = check_claims(claims_of(text), own, **{"others": others, "dealt": dealt, "embedder": LEXICAL} | more)
    return {one.kind: one for one in found}


def test_sentences_are_told_apart_by_what_they_speak_of_and_kept_as_they_stand() -> None:
    text = said(TOPICS[0], "day")
    claims = claims_of(text)
    assert [c.kind for c in claims] == ["theme", "words", "token"] and "\n\n".join(c.text for c in claims) == text
    assert claims[1].quoted == ("tennis", "racket", "court") and token_of(claims[2].text) == ("day",)
    one = claims_of('It deals with "cats". The end is "report. The report" and “Dr. X”! The last word is \'ran.\' ')
    assert [c.kind for c in one] == ["theme", "words", "token"] and token_of(one[2].text) == ("ran", ".")
    assert [c.text for c in claims_of("One thing.\n- Two things\n- Three, e.g. this.")] == [
        "One thing.", "- Two things", "- Three, e.g. this.",
    ]  # fmt: skip
    assert claims_of("") == () and claims_of(" ...\n\n--") == () and claims_of("no stop")[0].kind == "theme"


def test_what_is_said_where_the_feature_fires_is_borne_out() -> None:
    found = judged(said(TOPICS[4], "day"), topical(4), skip=4, others=[topical(k, {"so": 0.9}) for k in range(4)])
    assert {kind: one.status for kind, one in found.items()} == dict.fromkeys(("theme", "words", "token"), "supported")
    assert found["theme"].figures["auroc"] >= 0.9 > found["theme"].figures["dealt"]
    assert found["token"].figures == {"share": 0.5, "dealt": 0.0, "line": 0.2} and found["token"].why.startswith("50%")
    assert label_of(list(found.values())) == '"day"; galaxy: star'


def test_of_a_feature_without_a_theme_the_token_alone_is_borne_out() -> None:
    own = anywhere("needs")
    for topic in TOPICS:
        found = judged(said(topic, "Need"), own)
        assert [found[kind].status for kind in ("theme", "words", "token")] == [
            "unsupported",
            "unsupported",
            "supported",
        ]
        assert label_of(list(found.values())) == '"Need"'


def test_that_there_is_no_topic_is_no_theme_to_be_checked() -> None:
    text = said(TOPICS[0], "Need").replace(theme(TOPICS[0]), "A passage about no particular topic, written as a novel.")
    found = judged(text, anywhere("needs"))
    assert found["theme"].status == "unchecked" and "no particular topic" in found["theme"].why
    assert label_of(list(found.values())) == '"Need"'
    assert declines("Nothing in particular.") and not declines("Nothing is more particular than a tennis racket.")


def test_a_token_that_every_feature_fires_on_is_not_borne_out() -> None:
    own, text = topical(0, {"the": 0.3, "day": 0.1}), 'The final token "the" goes on.'
    usual = [topical(k, {"the": 0.1}) for k in range(1, 5)]
    assert judged(text, own, others=usual)["token"].status == "unsupported"
    assert judged(text, own, others=[topical(k, {"a": 0.9}) for k in range(1, 5)])["token"].status == "supported"
    assert judged('The final token "day" goes on.', own)["token"].status == "unsupported"


def test_words_that_stand_in_its_windows_and_in_no_others_stand_out() -> None:
    own = topical(9)
    assert judged('"honey", "bees" and "submarine" stand out', own, skip=9)["words"].status == "supported"
    few = judged('"the", "people" and "honey" stand out', own, skip=9)["words"]
    assert few.status == "unsupported" and few.figures == {"stand out": 1, "words": 3}
    assert judged('It has "good" and "day"', own)["words"].status == "supported"  # by its activation


@pytest.mark.parametrize(
    ("own", "more", "kinds"),
    [
        (Windows(firing=("a",), silent=("b",)), {}, {"theme", "words", "token"}),
        (topical(0, {}), {}, {"token"}),
        (topical(0), {"others": (), "dealt": ()}, {"theme"}),
    ],
)
def test_too_little_evidence_leaves_a_sentence_unchecked(own: Windows, more: dict[str, Any], kinds: set[str]) -> None:
    found = judged(said(TOPICS[0], "day"), own, **more)
    assert {kind for kind, one in found.items() if one.status == "unchecked"} == kinds
    assert all(one.why and bool(one.figures) == (one.status != "unchecked") for one in found.values())
    assert judged("Final token ends.", topical(0))["token"].status == "unchecked"


@pytest.mark.parametrize(
    ("sentence", "topic"),
    [
        (theme(TOPICS[0]), "tennis: racket"),
        ("This deals with love, in particular jealousy, in the form of an essay.", "love, in particular jealousy"),
        ("The theme is work; the subject is pay, told as a poem.", "work"),
        ("Legal documents.", "Legal documents"),
        (f"It is about {'very ' * 20}long things", f"{('very ' * 12).strip()} ..."),
    ],
)
def test_a_label_has_the_topic_words_of_its_sentence(sentence: str, topic: str) -> None:
    assert topic_of(sentence) == topic


def a_run(path: Path, texts: Sequence[str], contexts: dict[str, Any]) -> RunFolder:
    features = [str(k) for k in range(len(texts))]
    conditions = [
        {"name": "direct", "washout": "on-shell", "route": "direct", "verbalizer": "av"},
        {"name": "random", "washout": "on-shell", "route": "direct", "verbalizer": "av", "null": "random directions"},
    ]
    run = RunFolder.create(path, {"plan_digest": "x", "conditions": conditions, "features": features})
    for feature, text in zip(features, texts, strict=True):
        run.append([whole({"feature": feature, "condition": "direct", "sample": 0, "text": text})])
    run.append([whole({"feature": "random-0", "condition": "random", "sample": 0, "text": theme(TOPICS[0])})])
    run.write_contexts(contexts)
    return run


def entry(windows: Windows) -> dict[str, Any]:
    return {"firing": list(windows.firing), "silent": list(windows.silent), "words": dict(windows.words or {})}


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    contexts = {str(k): entry(topical(k)) for k in range(len(TOPICS))}
    contexts["1"] = entry(anywhere("need"))
    del contexts["2"]["words"], contexts["3"]
    return a_run(tmp_path / "run", [said(topic, "day") for topic in TOPICS[:4]], contexts)


def test_a_runs_sentences_are_checked_by_condition_and_feature_and_kept(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = claim_scores(JudgedRun.of(run), LEXICAL)
    assert set(found) == {"direct"} and [one.feature for one in found["direct"]] == ["0", "1", "2", "3"]
    statuses = [[claim.status for claim in one.claims] for one in found["direct"]]
    assert statuses == [
        ["supported", "supported", "unsupported"],  # every other feature fires on that token too
        ["unsupported", "unsupported", "unsupported"],
        ["supported", "supported", "unchecked"],
        ["unchecked", "unchecked", "unchecked"],
    ]
    assert [one.label for one in found["direct"]] == ["tennis: racket", "", "vikings: norse", ""]
    monkeypatch.setattr(embedders, "SentenceEmbedder", lambda **_: LEXICAL)
    told: list[str] = []
    run.write_scores({"format": 2, "seed": 5})
    add_claims(run, told.append)
    kept = Scores.of(run.scores, "scores")
    assert kept.claims == found and kept.seed == 5 and len(told) == 1
    assert "claims" in repr(kept)


def test_without_windows_nothing_is_checked_and_a_missing_embedder_is_told(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent() -> Path:
        raise Refusal("sentence embedder", "it is not installed", "install it")

    told: list[str] = []
    monkeypatch.setattr(embedders, "packaged_folder", absent)
    add_claims(run, told.append)
    assert told == ["no sentence is checked against where its feature fires: the sentence embedder is not installed"]
    monkeypatch.undo()
    run.write_scores({"table": []})
    add_claims(run, told.append)
    assert "format: field required; score the run again" in told[1] and run.scores == {"table": []}
    (run.path / "contexts.json").unlink()
    add_claims(run, told.append)
    assert len(told) == 2


@pytest.mark.parametrize(
    "more", [{"words": ["day"]}, {"words": {"day": 1.5}}, {"forms": {"digit": "much"}}, {"other": {}}]
)
def test_shares_that_are_none_are_refused_and_a_run_without_them_is_read(run: RunFolder, more: dict[str, Any]) -> None:
    windows: dict[str, Any] = {"firing": ["a"], "silent": []}
    run.write_contexts({"1": windows})
    assert run.contexts == {"1": windows}
    whole_of = windows | {"words": {"day": 0.5}, "forms": {}}
    run.write_contexts({"1": whole_of})
    assert run.contexts == {"1": whole_of}
    run.write_contexts({"1": windows | more})
    with pytest.raises(Refusal, match="does not hold windows of text by feature"):
        _ = run.contexts


def test_a_confidence_has_no_answer_where_the_theme_is_not_borne_out(run: RunFolder) -> None:
    claims = claim_scores(JudgedRun.of(run), LEXICAL)
    rows = tuple(
        FeatureConfidence(feature=str(k), probability=0.9, answered=k != 3, member="m", why=()) for k in range(4)
    )
    given = ConfidenceScores(embedder="e", members={}, per_feature={"direct": rows, "other": rows[1:2]})
    made = held_back(given, claims)
    assert [one.answered for one in made.per_feature["direct"]] == [True, False, True, False]
    assert made.per_feature["other"][0].answered and made.per_feature["direct"][1].probability == 0.9
    assert held_back(given, {}) == given
    # A text that declines to tell a theme says nothing that such a probability is of.
    none = {
        condition: tuple(
            one.model_copy(
                update={
                    "claims": tuple(
                        c.model_copy(update={"sentence": "No particular topic.", "status": "unchecked"})
                        for c in one.claims
                        if c.kind == "theme"
                    )
                }
            )
            for one in some
        )
        for condition, some in claims.items()
    }
    assert not any(one.answered for one in held_back(given, none).per_feature["direct"])
