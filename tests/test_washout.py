import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from dragoman.core import Background, Directions, Refusal, frozen
from dragoman.washout import at_angle, mix, on_shell, on_shell_angle, projected, understood, wash
from planted_worlds import ELSEWHERE, TARGET, cosines, unit
from studies.strengths import on_shell_weight, sweep


def background(spread=0.3, d=8, site=TARGET):
    mean = np.zeros(d)
    mean[0] = np.sqrt(1 - spread)
    return Background(site, frozen(mean), 100)


def directions(array, site=TARGET):
    return Directions.of(site, np.atleast_2d(array), range(len(np.atleast_2d(array))))


def some(n=5, d=8, seed=0):
    array = np.random.default_rng(seed).normal(size=(n, d))
    array[:, 0] *= 0.3
    return array


@settings(max_examples=40, deadline=None)
@given(st.floats(0.01, np.pi / 2), st.integers(0, 100))
def test_angle_form_lies_at_exactly_that_angle_from_the_background(angle, seed):
    v = at_angle(directions(some(seed=seed)), background(), angle)
    assert_allclose(v.astype(float) @ np.eye(8)[0], np.cos(angle), atol=2e-7)
    assert_allclose(np.linalg.norm(v, axis=1), 1, atol=1e-6)
    assert v.dtype == np.float32


def test_a_right_angle_gives_the_direction_itself_when_it_is_orthogonal():
    d = directions(np.eye(8)[3:5])
    assert_allclose(at_angle(d, background(), np.pi / 2), d.unit, atol=1e-7)


def test_angle_form_keeps_the_sign_of_the_direction():
    d = some()
    plus, minus = (at_angle(directions(s * d), background(), 0.7) for s in (1, -1))
    assert_allclose((plus + minus)[:, 1:], 0, atol=1e-6)
    assert (cosines(plus[:, 1:], d[:, 1:]) > 0.999).all()


def test_scale_of_direction_or_background_is_irrelevant_to_either_form():
    d, b = some(), background()
    half = Background(TARGET, frozen(b.mean / 2), 100)
    for scaled in (at_angle(directions(50 * d), half, 0.7), at_angle(directions(d / 9), b, 0.7)):
        assert_allclose(scaled, at_angle(directions(d), b, 0.7), atol=1e-6)
    assert_allclose(mix(directions(50 * d), half, 0.3), mix(directions(d), b, 0.3), atol=1e-6)


def test_on_shell_lies_where_real_activations_lie():
    b = background(spread=0.3)
    assert_allclose(on_shell(directions(some()), b)[:, 0], np.sqrt(0.7), atol=1e-6)
    half = 0.5 * np.arccos(np.sqrt(0.7))
    assert_allclose(on_shell(directions(some()), b, times=0.5), at_angle(directions(some()), b, half), atol=1e-7)


@pytest.mark.parametrize(("spread", "weight"), [(0.0302, 0.150), (0.0579, 0.199), (0.7335, 0.624), (0.9169, 0.769)])
def test_on_shell_weight_of_the_published_verbalizers(spread, weight):
    b = background(spread)
    assert on_shell_weight(b) == pytest.approx(weight, abs=0.001)
    d = directions(np.eye(8)[2])
    assert_allclose(mix(d, b, on_shell_weight(b)), on_shell(d, b), atol=1e-6)


def test_mix_is_the_posts_form():
    d, b = some(), background()
    expected = unit(0.3 * unit(d) + 0.7 * np.eye(8)[0])
    assert_allclose(mix(directions(d), b, 0.3), expected, atol=1e-6)


def test_wash_knows_none_on_shell_and_a_number():
    d, b = directions(some()), background()
    assert_allclose(wash(d, None, "none"), d.unit)
    assert_allclose(wash(d, b, "on-shell"), on_shell(d, b))
    assert_allclose(wash(d, b, "0.3"), mix(d, b, 0.3))


def test_washout_refuses_directions_that_are_nothing_but_background():
    nearly = np.eye(8)[0] * 0.95 + np.eye(8)[1] * 0.2
    with pytest.raises(Refusal, match=r"feature 0: its cosine with the background is -0\.98"):
        on_shell(directions(-nearly), background())


def test_all_directions_that_are_nothing_but_background_are_named_at_once():
    nearly = np.eye(8)[0] * 0.95 + np.eye(8)[1] * 0.2
    several = directions(np.stack([nearly, np.eye(8)[2], -nearly]))
    with pytest.raises(Refusal, match=r"2 of 3 features \(0, 2\): their cosines with the background are beyond 0\.9 "):
        on_shell(several, background())
    many = directions(np.repeat(nearly[None], 21, axis=0))
    with pytest.raises(
        Refusal, match=r"21 of 21 features \(0, 1, .*, 19, \.\.\.\): their cosines .*; leave them out, or"
    ):
        on_shell(many, background())


@pytest.mark.parametrize("form", [lambda d, b: mix(d, b, 0.3), on_shell])
def test_washout_refuses_another_site(form):
    with pytest.raises(Refusal, match="a background at third-model:3: it is needed at target-model:12"):
        form(directions(some()), background(site=ELSEWHERE))


def test_washout_refuses_another_width_and_an_empty_background():
    with pytest.raises(Refusal, match="a background of width 9: the directions are 8 wide"):
        mix(directions(some()), background(d=9), 0.3)
    with pytest.raises(Refusal, match="length zero"):
        on_shell(directions(some()), background(spread=1.0))


@pytest.mark.parametrize("weight", [0.0, 1.0, -1.0, np.nan])
def test_mix_refuses_weights_outside_zero_and_one(weight):
    with pytest.raises(Refusal, match="between 0 and 1"):
        mix(directions(some()), background(), weight)


def test_angle_form_refuses_to_turn_past_the_right_angle():
    with pytest.raises(Refusal, match="at most at 90"):
        on_shell(directions(some()), background(), times=4.0)


def test_wash_refuses_unknown_words_and_a_missing_background():
    with pytest.raises(Refusal, match="washout 'strong': it is not known"):
        wash(directions(some()), background(), "strong")
    with pytest.raises(Refusal, match="no background was given"):
        wash(directions(some()), None, "on-shell")


def test_projected_has_nothing_of_the_background_and_the_rest_of_the_direction():
    d = some()
    v = projected(directions(d), background())
    assert_allclose(v[:, 0], 0, atol=1e-7)
    assert_allclose(v[:, 1:], unit(d[:, 1:]), atol=1e-6)


def test_wash_knows_projected_and_multiples_of_on_shell():
    d, b = directions(some()), background()
    assert_allclose(wash(d, b, "projected"), projected(d, b))
    assert_allclose(wash(d, b, "on-shell x 1.5"), on_shell(d, b, 1.5))
    assert understood("none") == ("none", 1.0)
    assert understood("0.3") == ("mix", 0.3)
    for word in ("on-shell x", "on-shell x many", "on-shell 2"):
        with pytest.raises(Refusal, match="it is not known; say none, on-shell, projected or a number"):
            understood(word)


def test_a_sweep_gives_every_strength_with_its_angle_in_order():
    d, b = directions(some()), background(0.1)
    shell = on_shell_angle(b)
    found = {s.name: s for s in sweep(d, b)}
    assert list(found)[:5] == [f"on-shell x {t:g}" for t in (0.5, 1, 1.5, 2, 3)]
    assert list(found)[-2:] == ["projected", "none"]
    for times in (0.5, 1.0, 3.0):
        one = found[f"on-shell x {times:g}"]
        assert one.times == pytest.approx(times, abs=1e-4)
        assert one.angle == pytest.approx(times * shell, abs=1e-4)
        assert_allclose(one.vectors, on_shell(d, b, times))
    assert found["projected"].angle == pytest.approx(np.pi / 2, abs=1e-4)
    assert_allclose(found["0.3"].vectors, mix(d, b, 0.3))
    assert_allclose(found["none"].vectors, d.unit)


def test_a_sweep_leaves_out_multiples_past_the_right_angle():
    names = [s.name for s in sweep(directions(some()), background(0.43))]
    assert "on-shell x 2" in names and "on-shell x 3" not in names
    with pytest.raises(Refusal, match="washout weight 2"):
        sweep(directions(some()), background(), weights=(2.0,))
