"""Facts of alignment, lift, washout and metrics that are known beforehand: the design's list, at its tolerances.

The number in a name is the fact's; facts about maps are in ``test_known_answers``.
"""

from functools import cache
from itertools import permutations
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.stats import binom
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from dragoman.core import Background, Directions, Refusal, frozen
from dragoman.maps import LinearMap
from dragoman.maps.diagnostics import held_out
from dragoman.stats.intervals import t_interval
from dragoman.stats.lift import (
    doubly_centred,
    doubly_centred_lift,
    lift_estimate,
    lift_per_feature,
    permutation_moments,
    permutation_p,
)
from dragoman.washout import at_angle, mix, on_shell, turned
from planted_worlds import SOURCE, TARGET, unit
from studies.strengths import on_shell_weight

# --- 13: alignment by end offsets --------------------------------------------------------------------------------

TEXTS = [
    "  two leading spaces, and a tail ",
    "a wave 👋🏽 and a family 👩‍👩‍👧 here",
    "cafe\u0301 and nai\u0308ve, e\u0301\u0302 twice",
    "漢字かな交じり文 and 한국어",
    "one line\r\nand another\r\n\r\nlast",
    "",
    "The vector stands between the tags of the text.",
]
CORPUS = ["the tags of the text and the vector between", "one line and another two leading spaces"] * 20


@cache
def tokenizer(kind: str) -> Any:
    """Byte-level, as SmolLM2 and Qwen; or sentence pieces with bytes to fall back on, as Gemma. Both put BOS first."""
    if kind == "bytes":
        made = Tokenizer(models.BPE())
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
        special, alphabet = ["<s>"], pre_tokenizers.ByteLevel.alphabet()
    else:
        made = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
        made.normalizer = normalizers.Replace(" ", "▁")
        made.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]  # type: ignore[list-item]
        )
        special, alphabet = ["<s>", "<unk>", *(f"<0x{b:02X}>" for b in range(256))], []
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(CORPUS, trainer)
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return made


def token_ends(kind: str) -> Any:
    from dragoman.models.harvest import TokenRows

    spans = [tokenizer(kind).encode(text).offsets for text in TEXTS]
    kept = [(d, e, p) for d, own in enumerate(spans) for p, (b, e) in enumerate(own) if e > b]
    document, end, position = np.array(kept, dtype=np.int64).T
    return TokenRows(x=position[:, None].astype(np.float32), document=document, end=end, position=position, dropped=0)


def read_so_far(kind: str, document: int, position: int) -> str:
    ids = tokenizer(kind).encode(TEXTS[document]).ids[1 : position + 1]
    return tokenizer(kind).decode(ids, skip_special_tokens=False)


def test_13_every_pair_of_two_tokenizers_has_read_the_same_characters():
    from dragoman.models.harvest import shared_ends

    left, right = token_ends("bytes"), token_ends("pieces")
    pairs = list(zip(*shared_ends(left, right), strict=True))
    assert {int(left.document[i]) for i, _ in pairs} == {0, 1, 2, 3, 4, 6}
    for i, j in pairs:
        document, end = int(left.document[i]), int(left.end[i])
        assert (int(right.document[j]), int(right.end[j])) == (document, end)
        for kind, rows, row in (("bytes", left, i), ("pieces", right, j)):
            assert read_so_far(kind, document, int(rows.position[row])) == TEXTS[document][:end]


def test_13_identical_tokenizers_pair_one_to_one_but_for_pieces_of_one_character():
    from dragoman.models.harvest import shared_ends

    for kind in ("bytes", "pieces"):
        rows = token_ends(kind)
        a, b = shared_ends(rows, rows)
        assert np.array_equal(a, b)
        places = set(zip(rows.document.tolist(), rows.end.tolist(), strict=True))
        assert len(a) == len(places) < len(rows.end)  # emoji are several pieces that end together


# --- 14, 15, 16: lift --------------------------------------------------------------------------------------------


def noise(n, seed):
    return np.random.default_rng(seed).normal(size=(n, n))


def test_14_a_constant_with_a_diagonal_lifts_by_that_diagonal():
    s = 0.4 * np.ones((7, 7)) + np.diag(np.full(7, 0.25))
    for lift in (lift_per_feature(s), doubly_centred_lift(s)):
        assert_allclose(lift, 0.25, atol=1e-12)


def test_14_generic_texts_and_hubs_leave_the_doubly_centred_lift_and_z_as_they_are():
    s, rng = noise(9, 0), np.random.default_rng(1)
    moved = s + rng.normal(size=(9, 1)) + rng.normal(size=9)
    assert_allclose(doubly_centred(moved), doubly_centred(s), atol=1e-12)
    z = [lift_estimate(m, rng=np.random.default_rng(0), permutations=99).extra["z"] for m in (s, moved)]
    assert z[0] == pytest.approx(z[1], abs=1e-11)


def test_14_the_posts_lift_in_matrix_form_equals_its_definition():
    s, n = noise(9, 2), 9
    loop = [s[k, k] - np.mean([s[k, j] for j in range(n) if j != k]) for k in range(n)]
    assert_allclose(lift_per_feature(s), loop, atol=1e-12)
    assert_allclose(lift_per_feature(s), n / (n - 1) * (np.diag(s) - s.mean(axis=1)), atol=1e-12)
    assert lift_per_feature(s).mean() == pytest.approx(doubly_centred_lift(s).mean(), abs=1e-12)


def test_14_closed_form_permutation_moments_equal_full_enumeration():
    s = noise(6, 3)
    totals = [sum(s[k, p] for k, p in enumerate(order)) for order in permutations(range(6))]
    mean, variance = permutation_moments(s)
    assert mean == pytest.approx(np.mean(totals), abs=1e-12)
    assert variance == pytest.approx(np.var(totals), abs=1e-12)


def test_14_single_and_repeated_features_are_handled():
    with pytest.raises(Refusal, match="three features at least"):
        lift_per_feature(np.ones((1, 1)))
    twice = np.ones((5, 5))
    assert_allclose(doubly_centred_lift(twice), 0, atol=1e-12)
    assert lift_estimate(twice, rng=np.random.default_rng(0), permutations=99).extra["z"] == 0


def test_15_the_posts_interval_and_p_follow_from_its_mean_sd_and_n():
    low, high, p = t_interval(0.163, 0.148, 45)
    assert (low, high) == (pytest.approx(0.118, abs=0.001), pytest.approx(0.207, abs=0.001))
    assert p == pytest.approx(3e-9, rel=0.2)


def test_15_a_monte_carlo_p_is_never_zero():
    s = np.eye(20) + 1e-3 * noise(20, 4)
    assert permutation_p(s, np.random.default_rng(0), n=199) >= 1 / 200


def test_16_the_permutation_test_rejects_one_null_in_twenty_also_with_hubs():
    rng, n, rejected = np.random.default_rng(5), 15, 0
    for _ in range(500):
        s = rng.normal(size=(n, n)) + 2 * rng.normal(size=n) + rng.normal(size=(n, 1))
        rejected += permutation_p(s, rng, n=199) <= 0.05
    assert 0.03 <= rejected / 500 <= 0.08
    assert binom.ppf(0.0005, 500, 0.05) <= rejected <= binom.ppf(0.9995, 500, 0.05)


# --- 17: washout -------------------------------------------------------------------------------------------------


def background(spread, d=8):
    mean = np.zeros(d)
    mean[0] = np.sqrt(1 - spread)
    return Background(TARGET, frozen(mean), 100)


def test_17_the_angle_form_lies_at_exactly_its_angle_whatever_the_lengths():
    rng = np.random.default_rng(6)
    d, b = rng.normal(size=(50, 300)), rng.normal(size=300)
    for angle in (0.05, 0.7, 1.5, np.pi / 2):
        v = turned(d, b, angle)
        assert_allclose(v @ unit(b), np.cos(angle), atol=1e-12)
        assert_allclose(np.linalg.norm(v, axis=1), 1, atol=1e-12)
        assert_allclose(turned(70 * d, b / 9, angle), v, atol=1e-12)
        assert (np.sum((v - np.cos(angle) * unit(b)) * d, axis=1) > 0).all()


def test_17_a_right_angle_gives_an_orthogonal_direction_back():
    d = np.eye(8)[3:5]
    assert_allclose(turned(d, np.eye(8)[0], np.pi / 2), d, atol=1e-12)
    kept = Directions.of(TARGET, d, range(2))
    assert_allclose(at_angle(kept, background(0.3), np.pi / 2), d, atol=1e-7)


@pytest.mark.parametrize(
    ("spread", "weight", "degrees"),
    [(0.0302, 0.150, 10), (0.0579, 0.199, 14), (0.7335, 0.624, 59), (0.9169, 0.769, 73)],
)
def test_17_natural_strengths_of_the_published_verbalizers(spread, weight, degrees):
    b, d = background(spread), Directions.of(TARGET, np.eye(8)[[2]], [0])
    assert on_shell_weight(b) == pytest.approx(weight, abs=0.001)
    assert np.degrees(np.arccos(on_shell(d, b)[0, 0])) == pytest.approx(degrees, abs=0.5)
    assert_allclose(mix(d, b, on_shell_weight(b)), on_shell(d, b), atol=1e-6)


# --- 19: metrics -------------------------------------------------------------------------------------------------


def test_19_a_constant_predictor_explains_nothing_and_has_the_raw_cosine_its_spread_gives():
    y = unit(np.random.default_rng(7).normal(size=(600, 16)) + 3.0)
    mean = y.mean(axis=0)
    constant = LinearMap(
        source=SOURCE, target=TARGET, weight=np.zeros((4, 16)), mean_x=np.zeros(4), mean_y=mean, method="ridge"
    )
    found = held_out(constant, np.ones((600, 4)), y)
    assert found["fve_raw"] == pytest.approx(0, abs=1e-9)
    assert found["centred_cosine"] == 0
    assert found["raw_cosine"] == pytest.approx(np.sqrt(1 - (1 - mean @ mean)), abs=1e-9)
    assert found["constant_fve_unit"] == pytest.approx(found["fve_unit"], abs=1e-9)
