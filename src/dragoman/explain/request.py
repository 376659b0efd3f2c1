"""What is asked, and where progress goes.

In: the words of the command line or of a caller. Out: a ``Request``. Refuses words that are no route and no washout.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from dragoman.core import Refusal, Site
from dragoman.store import check_name
from dragoman.washout import understood

Route = Literal["map", "direct", "dictionary", "blend", "auto"]
MapKind = Literal["post", "aligned"]
Say = Callable[[str], None]
Bar = Callable[[str, int, int], None]
ROUTES = ("map", "direct", "dictionary", "blend", "auto")
MAPS = ("post", "aligned")
MOST_TIMES = 100  # on-shell angles: they would have to be below a degree
_NAMES = ("dictionary", "by", "base", "native", "labels", "texts")


@dataclass(frozen=True, slots=True, kw_only=True)
class Talk:
    """Where progress goes: a sentence, or ``bar(what, done, total)``."""

    say: Say = lambda _text: None
    bar: Bar = lambda _what, _done, _total: None

    def towards(self, what: str) -> Callable[[int, int], None]:
        """A bar's callback for one piece of work."""
        return lambda done, total: self.bar(what, done, total)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What was asked, in the words of the command line.

    ``dictionary``: packaged name, folder, file, ``sae:``, ``hf:`` or Neuronpedia reference. ``features``: ids, empty
    for all. ``by``: the verbalizer; ``contract``, ``settings`` and ``base``: how it is fed and what its adapter
    sits on, where neither its sidecar nor the registry says. ``native``: a verbalizer of the source model to
    compare with, if there is one. ``key``, ``orientation``, ``d_model`` and ``k``: which array of the dictionary's
    file, which way its decoder lies, how wide the stream is and how many features a TopK keeps, where its files do
    not say. ``map``: fitted on aligned tokens, or on pooled texts as in the post; routes dictionary and auto need
    the former, so the post's recipe is map "post" and route "map". ``labels``: folder or address of a Neuronpedia
    export with the dictionary's labels; ``resid_pre``: its source counts the block that it enters. ``texts``: a
    file, or None for the sentences that come with the embedded pair. ``washout``: see ``dragoman.washout.wash``.
    ``samples``: texts per feature, of several the first greedy, the others drawn at ``temperature``; None is 0
    (greedy) for one sample and 1 for several.
    """

    dictionary: str
    features: tuple[str, ...]
    by: str
    source: Site | None = None
    contract: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    base: str | None = None
    native: str | None = None
    key: str | None = None
    orientation: Literal["rows", "columns"] | None = None
    d_model: int | None = None
    k: int | None = None
    labels: str | None = None
    resid_pre: bool = False
    route: Route = "auto"
    map: MapKind = "aligned"
    washout: str = "on-shell"
    texts: str | None = None
    lam: float = 100.0
    samples: int = 1
    temperature: float | None = None
    seed: int = 0
    batch_size: int = 64
    max_new_tokens: int = 120
    dtype: str = "float32"
    device: str = "cpu"

    def check(self) -> None:
        """Refuse words that can be no route, washout, temperature or name, before anything is opened.

        Raises:
            Refusal: the first that is none.
        """
        check_route(self.route, self.washout, self.map)
        for name in _NAMES:
            word = getattr(self, name)
            if word is not None:
                check_name(word, name)

    @property
    def drawn_at(self) -> float:
        """The temperature, said or usual: a verbalizer's own distribution is that at 1."""
        if self.temperature is not None:
            return self.temperature
        return 1.0 if self.samples > 1 else 0.0


def needs_encoder(request: Request) -> bool:
    """Whether the crossing asks where the dictionary's features fire."""
    return request.map == "aligned" or request.route in ("direct", "blend")


def check_route(route: str, washout: str, kind: str = "aligned") -> None:
    """Refuse words that are no route and no washout, before anything dear is done."""
    if route not in ROUTES:
        raise Refusal(f"route '{route}'", f"known are {', '.join(ROUTES)}", "use one of these")
    if kind not in MAPS:
        raise Refusal(f"map '{kind}'", f"known are {', '.join(MAPS)}", "use one of these")
    if kind == "post" and route in ("dictionary", "auto"):
        raise Refusal(f"route '{route}'", "it is counted on aligned tokens", "say --map aligned, or --route map")
    form, strength = understood(washout)
    if (form == "mix" and not 0 < strength < 1) or (form == "on-shell" and not 0 < strength <= MOST_TIMES):
        raise Refusal(
            f"washout '{washout[:40]}'",
            "its strength is out of range",
            f"use a share between 0 and 1, or on-shell x up to {MOST_TIMES}",
        )
