"""The main job, from references to a run folder: ask, open, cross, say, keep."""

from dragoman.explain.contexts import contexts_of
from dragoman.explain.crossing import (
    Crossing,
    crossing,
    direct_table,
    fitted,
    harvested,
)
from dragoman.explain.manifest import background_report, own_version, versions
from dragoman.explain.open import (
    default_texts,
    how_fed,
    open_for,
    open_verbalizer,
)
from dragoman.explain.request import ROUTES, Bar, Request, Route, Say, Talk, check_route
from dragoman.explain.run import carry_out, explain

__all__ = [
    "ROUTES",
    "Bar",
    "Crossing",
    "Request",
    "Route",
    "Say",
    "Talk",
    "background_report",
    "carry_out",
    "check_route",
    "contexts_of",
    "crossing",
    "default_texts",
    "direct_table",
    "explain",
    "fitted",
    "harvested",
    "how_fed",
    "open_for",
    "open_verbalizer",
    "own_version",
    "versions",
]
