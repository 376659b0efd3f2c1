"""Evidence on explanations, gathered from rows, embeddings, reconstructions and contexts, against brute force."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from dragoman.confidence.evidence import Evidence, ReadBack, gather_evidence
from dragoman.core import Directions, Refusal
from dragoman.records import Row
from dragoman.stats.roc import ContextEmbeddings
from judging import whole
from planted_worlds import TARGET, unit
from study_worlds import row

RNG = np.random.default_rng(0)
FEATURES = ("7", "3", "9")


def typed(*given: Any, **more: Any) -> Row:
    return Row.of(whole(row(*given, **more)), "rows.jsonl")


CARD = {"margin": 0.25, "n_eff": 100.0, "nearest": "4", "status": "ok", "home_margin": None}
# each feature's second sample stands before its first
ROWS = [
    typed(name, "auto", f"text {sample} of {name}", sample, card=CARD, tokens=20 + sample, problems=["empty"] * sample)
    for name in FEATURES
    for sample in (1, 0, 2)
]
FIRST = [1, 4, 7]
TEXTS = unit(RNG.normal(size=(9, 5))).astype(np.float32)
OUTPUTS = 3.0 * RNG.normal(size=(9, 6)) + 1.0
MEAN = unit(RNG.normal(size=(50, 6)) + 1.0).mean(axis=0)
SOUGHT = Directions.of(TARGET, RNG.normal(size=(3, 6)), ["9", "7", "3"])
RIVALS = Directions.of(TARGET, np.vstack([RNG.normal(size=(20, 6)), SOUGHT.unit]), [*range(100, 120), "9", "7", "3"])


def gather(**more: Any) -> dict[str, Evidence]:
    return gather_evidence(ROWS, TEXTS, **more)


def centred(k: int) -> np.ndarray:
    return unit(unit(OUTPUTS[k]) - MEAN)


def test_each_feature_is_assessed_once_by_its_first_sample_in_the_order_it_comes() -> None:
    rows = [one.model_copy(update={"log_probability": -float(k)}) for k, one in enumerate(ROWS)]
    gathered = gather_evidence(rows, TEXTS)
    assert list(gathered) == list(FEATURES)
    found = list(gathered.values())
    assert [one["log_probability"] for one in found] == [-1.0, -4.0, -7.0]
    assert [one["problems"] for one in found] == [0.0] * 3
    assert all(one["tokens"] == pytest.approx(np.log(20)) for one in found)


def test_a_card_gives_its_numbers_and_no_words() -> None:
    one = gather()["3"]
    assert one["margin"] == 0.25 and one["n_eff"] == pytest.approx(np.log(100)) and one["home_margin"] is None
    assert not {"nearest", "status", "category", "label", "text"} & set(one)
    assert list(gather_evidence([r.model_copy(update={"card": None}) for r in ROWS], TEXTS)) == list(FEATURES)


def test_samples_agree_as_much_as_their_pairs_do_on_the_mean() -> None:
    for k, name in enumerate(FEATURES):
        a, b, c = TEXTS[3 * k : 3 * k + 3].astype(float)
        assert gather()[name]["sample_agreement"] == pytest.approx((a @ b + a @ c + b @ c) / 3, abs=1e-6)
    found = gather_evidence(ROWS[1::3], TEXTS[1::3])
    assert [one["sample_agreement"] for one in found.values()] == [None] * 3


def test_a_reconstruction_counts_by_its_centred_cosine_with_what_was_sought() -> None:
    found = gather(read_back={"reconstruction": ReadBack(outputs=OUTPUTS, mean=MEAN, sought=SOUGHT)})
    for name, k in zip(FEATURES, FIRST, strict=True):
        row_of = SOUGHT.pick([name]).unit[0]
        assert found[name]["reconstruction"] == pytest.approx(float(centred(k) @ row_of), abs=1e-6)
        assert found[name]["reconstruction_rank"] is None


def test_a_rank_is_the_place_among_the_rivals() -> None:
    back = ReadBack(outputs=OUTPUTS, mean=MEAN, sought=SOUGHT, rivals=RIVALS)
    found = gather(read_back={"reconstruction": back})
    for name, k in zip(FEATURES, FIRST, strict=True):
        own = centred(k) @ SOUGHT.pick([name]).unit[0]
        others = [centred(k) @ r for i, r in zip(RIVALS.ids, RIVALS.unit, strict=True) if i != name]
        assert found[name]["reconstruction_rank"] == pytest.approx(np.log(1 + sum(c > own for c in others)))


def test_the_features_own_row_is_no_rival() -> None:
    """What was sought lies a little off the row of its name, which would otherwise come before it."""
    output = np.eye(6)[0]
    sought = Directions.of(TARGET, output[None] + 0.2 * np.eye(6)[1], ["7"])
    rivals = Directions.of(TARGET, np.eye(6)[:3], ["7", "8", "9"])
    rows, texts = [typed("7", "auto", "t")], TEXTS[:1]
    back = ReadBack(outputs=output[None], mean=np.zeros(6), sought=sought, rivals=rivals)
    assert gather_evidence(rows, texts, read_back={"r": back})["7"]["r_rank"] == 0.0
    renamed = Directions.of(TARGET, np.eye(6)[:3], ["1", "8", "9"])
    back = ReadBack(outputs=output[None], mean=np.zeros(6), sought=sought, rivals=renamed)
    assert gather_evidence(rows, texts, read_back={"r": back})["7"]["r_rank"] == pytest.approx(np.log(2))


def test_features_that_nothing_was_sought_for_have_no_reconstruction() -> None:
    back = ReadBack(outputs=OUTPUTS, mean=MEAN, sought=SOUGHT.pick(["9"]), rivals=RIVALS)
    found = gather(read_back={"reconstruction_source": back})
    assert found["9"]["reconstruction_source"] is not None and found["9"]["reconstruction_source_rank"] is not None
    assert found["7"]["reconstruction_source"] is found["7"]["reconstruction_source_rank"] is None


def test_outputs_of_later_samples_are_not_looked_at() -> None:
    gone = OUTPUTS.copy()
    gone[[k for k in range(9) if k not in FIRST]] = np.nan
    whole, part = (
        gather(read_back={"r": ReadBack(outputs=o, mean=MEAN, sought=SOUGHT, rivals=RIVALS)}) for o in (OUTPUTS, gone)
    )
    assert whole == part


def test_a_text_that_is_its_firing_contexts_detects_them_wholly() -> None:
    said = TEXTS[FIRST[0]]
    across = unit(RNG.normal(size=(8, 5)))
    silent = unit(across - (across @ said)[:, None] * said)
    contexts = {"7": ContextEmbeddings.of(np.tile(said, (4, 1)), silent)}
    found = gather(contexts=contexts)
    assert found["7"]["detection"] == 1.0 and found["7"]["context_gap"] == pytest.approx(1.0, abs=1e-6)
    turned = gather(contexts={"7": ContextEmbeddings.of(silent, np.tile(said, (4, 1)))})
    assert turned["7"]["detection"] == 0.0
    assert found["7"]["detection_cosine"] == -turned["7"]["detection_cosine"] > 0.5
    assert found["3"]["detection"] is found["3"]["detection_cosine"] is found["3"]["context_gap"] is None


def test_detection_is_the_share_of_pairs_in_which_the_firing_context_is_nearer() -> None:
    firing, silent = unit(RNG.normal(size=(5, 5))), unit(RNG.normal(size=(7, 5)))
    found = gather(contexts={"9": ContextEmbeddings.of(firing, silent)})["9"]
    near, far = firing @ TEXTS[FIRST[2]], silent @ TEXTS[FIRST[2]]
    assert found["detection"] == pytest.approx(np.mean(near[:, None] > far[None, :]))
    contrast = firing.mean(axis=0) - silent.mean(axis=0)
    length = np.linalg.norm(contrast)
    assert found["detection_cosine"] == pytest.approx((near.mean() - far.mean()) / length, abs=1e-6)
    alike = (firing @ firing.T)[~np.eye(5, dtype=bool)].mean()
    assert found["context_gap"] == pytest.approx(alike - (firing @ silent.T).mean(), abs=1e-6)
    assert found["detection_centred"] is None
    manner = np.full(5, 0.2, np.float32)
    own = TEXTS[FIRST[2]] - manner
    centred = gather(contexts={"9": ContextEmbeddings.of(firing, silent)}, usual=manner)["9"]["detection_centred"]
    assert centred == pytest.approx(own @ contrast / length / np.linalg.norm(own), abs=1e-6)


def test_without_contexts_there_is_no_such_evidence() -> None:
    for one in gather().values():
        assert one["detection"] is one["detection_cosine"] is one["detection_centred"] is one["context_gap"] is None
        assert "reconstruction" not in one


@pytest.mark.parametrize(
    ("texts", "read_back", "message"),
    [
        (TEXTS[:8], {}, "8 texts for 9 rows: each row has one; read the same rows"),
        (
            TEXTS,
            {"reconstruction": ReadBack(outputs=OUTPUTS[:5], mean=MEAN, sought=SOUGHT)},
            "5 reconstruction for 9 rows",
        ),
    ],
)
def test_what_is_not_one_per_row_is_refused(texts: np.ndarray, read_back: Mapping[str, ReadBack], message: str) -> None:
    with pytest.raises(Refusal, match=message):
        gather_evidence(ROWS, texts, read_back=read_back)
