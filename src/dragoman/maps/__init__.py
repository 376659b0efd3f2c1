"""How a direction crosses from one model into another.

``crossing`` is what everything else is for: it is fitted from ``aligned`` tokens (``penalty`` chooses the map by rule)
or from pooled texts (``post``), carries directions by a route, makes their ``cards``, and is saved as an ``artifact``.
``linear``: maps fitted from ``moments``. ``direct``: the target's mean where a feature fires. ``diagnostics`` and
``evaluate``: what is known of a direction under a map, and of a map on rows it has not seen. ``folds`` keeps documents
apart. ``firings``: where each feature fires, and windows of text. ``words``: on which words it fires.
"""

from dragoman.maps.cards import make_cards
from dragoman.maps.crossing import Crossing
from dragoman.maps.direct import DirectTable, FiringSums
from dragoman.maps.linear import LinearMap
from dragoman.maps.moments import Moments
from dragoman.maps.penalty import fit_pooled

__all__ = ["Crossing", "DirectTable", "FiringSums", "LinearMap", "Moments", "fit_pooled", "make_cards"]
