"""How a direction crosses from one model into another.

``map``: push it through a linear map fitted on paired activations (``ridge``, ``procrustes``; ``post`` is the seed
post's preset). ``direct``: look where its feature fires and take the target's mean there. ``cards`` lets each route
judge the other; ``evaluate`` judges a map on rows it has not seen. Everything is fitted from ``Moments`` or
``DirectStatistics``, which merge, so a fit may be spread over shards.
"""

from dragoman.routes.cards import Card, make_cards
from dragoman.routes.direct import DirectStatistics, DirectTable, blend
from dragoman.routes.evaluate import held_out
from dragoman.routes.linear import LinearMap
from dragoman.routes.moments import Moments
from dragoman.routes.post import the_posts_recipe
from dragoman.routes.procrustes import fit_procrustes
from dragoman.routes.ridge import RidgePath, fit_ridge, relative_lambda

__all__ = [
    "Card",
    "DirectStatistics",
    "DirectTable",
    "LinearMap",
    "Moments",
    "RidgePath",
    "blend",
    "fit_procrustes",
    "fit_ridge",
    "held_out",
    "make_cards",
    "relative_lambda",
    "the_posts_recipe",
]
