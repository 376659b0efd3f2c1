"""How features are explained: their readings or one route, the washout, how many samples are drawn and how.

In: words and numbers of the command line or of a caller. Out: ``Options``. Refuses words that are no reading, route,
map or washout, pairs of them that do not go together, and samples that could only repeat themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from numbers import Real
from typing import Literal, get_args

from dragoman.core import MOST_SAMPLES, MOST_SEED, MOST_TOGETHER, MOST_TOKENS, Refusal
from dragoman.maps.crossing import ROUTES, Route
from dragoman.records import Reading
from dragoman.runs.plan import MAX_NEW_TOKENS, check_samples
from dragoman.store.spans import meant, shown
from dragoman.washout import understood

MapKind = Literal["aligned", "post"]
MAPS: tuple[MapKind, ...] = get_args(MapKind)
AskedReading = Literal["both", "fires", "writes"]
ASKED_READINGS: tuple[AskedReading, ...] = get_args(AskedReading)
READING_OF: Mapping[str, Reading] = {"direct": "fires", "dictionary": "fires", "map": "writes"}  # others read neither
MOST_TIMES = 100  # on-shell angles: they would have to be below a degree

_MOST = {"samples": MOST_SAMPLES, "max_new_tokens": MOST_TOKENS, "batch_size": MOST_TOGETHER}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What decides a run beside the things it is made of.

    ``reading``: "fires", what a feature fires on (by the direct route), "writes", what its row writes (by the map), or
    both, a condition each; None is both where they can be had. ``route``: one condition by that route in their place,
    see ``Crossing.carry``. ``map``: fitted on aligned tokens, or on pooled texts as in the post; routes
    dictionary and auto need the former. ``washout``: see ``dragoman.washout.wash``. ``samples``: texts per feature, of
    several the first greedy, the others drawn at ``temperature``; None is 0 (greedy) for one sample and 1, the
    verbalizer's own distribution, for several. ``batch_size``: vectors handed over together; None is what suits the
    verbalizers.

    Raises:
        Refusal: the first of them that is out of range.
    """

    reading: AskedReading | None = None
    route: Route | None = None
    map: MapKind = "aligned"
    washout: str = "on-shell"
    samples: int = 1
    temperature: float | None = None
    max_new_tokens: int = MAX_NEW_TOKENS
    batch_size: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Check every word, before anything dear is done."""
        check_route(self.route, self.washout, self.map)
        check_reading(self.reading, self.route)
        check_seed(self.seed)
        for name, most in _MOST.items():
            if name != "batch_size" or self.batch_size is not None:
                _refuse_no_whole(name, getattr(self, name), 1, most)
        if isinstance(self.temperature, bool) or not isinstance(self.temperature, Real | None):
            raise Refusal(f"temperature {shown(repr(self.temperature))}", "it is no number", "pass a float")
        check_samples(self.samples, self.drawn_at)

    @property
    def drawn_at(self) -> float:
        """The temperature, said or usual."""
        if self.temperature is not None:
            return self.temperature
        return 1.0 if self.samples > 1 else 0.0

    @property
    def settings(self) -> dict[str, object]:
        """As a manifest tells them; how many vectors are handed over together only where that was said."""
        told = {**asdict(self), "temperature": self.drawn_at}
        return told if self.batch_size else {name: one for name, one in told.items() if name != "batch_size"}

    @property
    def serving(self) -> Route:
        """The route that needs all that has to be read for what is asked; "auto" for both readings."""
        if self.route is not None:
            return self.route
        if self.reading == "fires":
            return "direct"
        return "map" if self.reading == "writes" or self.map == "post" else "auto"

    @property
    def asks_firings(self) -> bool:
        """Whether the crossing asks where the dictionary's features fire."""
        return self.serving != "as-is" and (self.map == "aligned" or self.serving in ("direct", "blend"))


def check_seed(seed: object) -> None:
    """Refuse what no generator of random numbers starts from, before anything is made."""
    _refuse_no_whole("seed", seed, 0, MOST_SEED)


def _refuse_no_whole(name: str, value: object, least: int, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise Refusal(f"{name} {shown(repr(value))}", f"it is no whole number of {least} or more", "pass an int")
    if value > most:
        raise Refusal(f"{name} above {most}", "that is the most that can be asked for", "pass a smaller int")


def check_reading(reading: str | None, route: str | None) -> None:
    """Refuse words that are no reading, and a reading beside a route that gives another."""
    if reading is None:
        return
    if reading not in ASKED_READINGS:
        raise Refusal(
            f"reading '{shown(reading, 40)}'",
            f"known are {', '.join(ASKED_READINGS)}",
            meant(str(reading), ASKED_READINGS, "use one of these"),
        )
    if route is not None and READING_OF.get(route) != reading:
        given = f"the reading '{READING_OF[route]}' alone" if route in READING_OF else "neither reading"
        raise Refusal(f"reading '{reading}' by route '{route}'", f"that route gives {given}", "say one of the two")


def check_route(route: str | None, washout: str, kind: str = "aligned") -> None:
    """Refuse words that are no route, no map and no washout, and routes that the map does not have."""
    if route is not None and route not in ROUTES:
        raise Refusal(
            f"route '{shown(route, 40)}'",
            f"known are {', '.join(ROUTES)}",
            meant(str(route), ROUTES, "use one of these"),
        )
    if kind not in MAPS:
        raise Refusal(
            f"map '{shown(kind, 40)}'",
            f"known are {', '.join(MAPS)}",
            meant(str(kind), MAPS, "use one of these"),
        )
    if kind == "post" and route in ("dictionary", "auto"):
        raise Refusal(f"route '{route}'", "it is counted on aligned tokens", "say --map aligned, or --route map")
    if not isinstance(washout, str):
        raise Refusal(f"washout {shown(repr(washout))}", "it is no word and no share", "say on-shell, none or 0.3")
    form, strength = understood(washout)
    if (form == "mix" and not 0 < strength < 1) or (form == "on-shell" and not 0 < strength <= MOST_TIMES):
        raise Refusal(
            f"washout '{washout[:40]}'",
            "its strength is out of range",
            f"use a share between 0 and 1, or on-shell x up to {MOST_TIMES}",
        )
