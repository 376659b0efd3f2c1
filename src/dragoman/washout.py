"""Mixing a direction into what activations have in common, so that a verbalizer reads it as an activation.

In: directions and a ``Background`` at one site. Out: unit vectors (n, d_model), float32, ready to inject. Refuses
another site and directions that are nothing but background.

An AV was trained on activations, which share a large mean; a bare direction is far from anything it has seen. In the
affine map's terms a direction is a difference of points, and washing it out turns it back into a point.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dragoman.core import Background, Directions, Floats, Refusal, refuse_other_site, unit_rows

RIGHT = float(np.pi / 2)
_NAMED = 20  # features that a refusal names
_SAME = 0.9  # |cos(d, background)| above which too little of the direction is left


def mix(directions: Directions, background: Background, weight: float) -> Floats:
    """The post's form: unit(weight d + (1 - weight) b), d and b both of unit length.

    Where d is not orthogonal to b, ``weight`` is not a strength; ``on_shell`` is.

    Raises:
        Refusal: another site, a weight outside (0, 1), or a mixture that cancels to nothing.
    """
    _refuse_mismatch(directions, background)
    if not 0 < weight < 1:
        raise Refusal(f"washout weight {weight:g}", "it lies between 0 and 1", "say none for the bare direction")
    rows = weight * directions.unit.astype(np.float64) + (1 - weight) * _unit(background.mean)
    return unit_rows(rows, "washed directions")[0]


def at_angle(directions: Directions, background: Background, angle: float) -> Floats:
    """cos(angle) b + sin(angle) d_perp, d_perp the part of d orthogonal to the unit background b, at unit length.

    The cosine with the background is exactly cos(angle) whatever d is, and the sign of d is kept.

    Args:
        directions: at the background's site.
        background: of the verbalizer's inputs.
        angle: in radians, above 0 and at most a right angle.

    Raises:
        Refusal: another site, an angle out of range, or a direction within cosine 0.9 of the background.
    """
    _refuse_mismatch(directions, background)
    _refuse_same(directions, background)
    return unit_rows(turned(directions.unit, background.mean, angle), "washed directions")[0]


def turned(rows: NDArray[Any], mean: NDArray[Any], angle: float) -> NDArray[np.float64]:
    """The angle form in float64: cos(angle) b + sin(angle) d_perp of rows (n, d) and a mean (d,) of any lengths.

    Raises:
        Refusal: an angle of 0 or less, or of more than a right angle.
    """
    if not 0 < angle <= RIGHT + 1e-9:
        raise Refusal(
            f"a washout angle of {np.degrees(angle):.1f} degrees",
            "it lies above 0 and at most at 90, where nothing of the background is left",
            "use fewer times the on-shell angle",
        )
    b, d = _unit(mean), np.asarray(rows, dtype=np.float64)
    across = d - (d @ b)[:, None] * b
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    return np.cos(angle) * b + np.sin(angle) * across


def projected(directions: Directions, background: Background) -> Floats:
    """The direction with the mean projected out: unit(d - <d, b> b), nothing of the background left.

    Raises:
        Refusal: as ``at_angle`` does.
    """
    return at_angle(directions, background, RIGHT)


def on_shell(directions: Directions, background: Background, times: float = 1.0) -> Floats:
    """Wash out to where real activations lie: ``times`` the angle whose cosine is sqrt(1 - Var).

    Raises:
        Refusal: as ``at_angle`` does.
    """
    return at_angle(directions, background, times * on_shell_angle(background))


def on_shell_angle(background: Background) -> float:
    """The angle (radians) at which real activations lie to their mean: its cosine is sqrt(1 - Var)."""
    return float(np.arccos(min(background.constant_cosine, 1.0)))


def wash(directions: Directions, background: Background | None, how: str) -> Floats:
    """What to inject.

    ``"none"`` the bare direction; ``"on-shell"``, or ``"on-shell x 1.5"`` for more or less of it; ``"projected"``
    without the mean; or a number in (0, 1), the post's weight.

    Raises:
        Refusal: another word, no background where one is needed, or as ``mix`` and ``on_shell`` do.
    """
    if how == "none":
        return directions.unit
    if background is None:
        raise Refusal(f"washout {how}", "no background was given", "harvest one at the target, or say none")
    form, strength = understood(how)
    if form == "mix":
        return mix(directions, background, strength)
    return projected(directions, background) if form == "projected" else on_shell(directions, background, strength)


def understood(how: str) -> tuple[str, float]:
    """The form of a washout word (``none``, ``on-shell``, ``projected``, ``mix``) and its strength.

    Raises:
        Refusal: a word that is no washout.
    """
    if how in ("none", "on-shell", "projected"):
        return how, 1.0
    head, _, times = how.partition(" x ")
    try:
        return ("on-shell", float(times)) if head == "on-shell" and times else ("mix", float(how))
    except ValueError:
        raise Refusal(
            f"washout '{how}'", "it is not known", "say none, on-shell, projected or a number between 0 and 1"
        ) from None


def _unit(mean: NDArray[Any]) -> NDArray[np.float64]:
    mean = np.asarray(mean, dtype=np.float64)
    return mean / np.linalg.norm(mean)


def nothing_else(directions: Directions, background: Background, how: str) -> NDArray[np.bool_]:
    """Which directions (n,) are nothing but background, so that washing them ``how`` would refuse them."""
    if understood(how)[0] in ("none", "mix"):
        return np.zeros(len(directions), dtype=np.bool_)
    return _beyond(directions, background)


def _beyond(directions: Directions, background: Background) -> NDArray[np.bool_]:
    return np.abs(_along(directions, background)) > _SAME


def _along(directions: Directions, background: Background) -> NDArray[np.float64]:
    """Cosines (n,) with the background."""
    return directions.unit.astype(np.float64) @ _unit(background.mean)


def _refuse_same(directions: Directions, background: Background) -> None:
    """Refuse directions that are nothing but background."""
    along, lost = _along(directions, background), np.flatnonzero(_beyond(directions, background))
    if not len(lost):
        return
    row, instead = int(np.argmax(np.abs(along))), "check that the map has not collapsed onto the mean"
    if len(lost) == 1:
        why = f"its cosine with the background is {along[row]:+.2f}, so little of it would be left"
        raise Refusal(f"feature {directions.ids[row]}", why, f"leave it out, or {instead}")
    named = ", ".join(directions.ids[k] for k in lost[:_NAMED]) + (", ..." if len(lost) > _NAMED else "")
    raise Refusal(
        f"{len(lost)} of {len(directions)} features ({named})",
        f"their cosines with the background are beyond {_SAME} (up to {along[row]:+.2f}), so little would be left",
        f"leave them out, or {instead}",
    )


def _refuse_mismatch(directions: Directions, background: Background) -> None:
    refuse_other_site("a background", background.site, directions.site)
    if background.mean.size != directions.d_model:
        raise Refusal(
            f"a background of width {background.mean.size}",
            f"the directions are {directions.d_model} wide",
            "take both from the same model",
        )
    if not np.linalg.norm(background.mean) > 1e-6:
        raise Refusal("a background of length zero", "it has no direction", "wash out nothing (say none)")
