"""Reconstructors (ARs): an explanation in, the vector it describes out, at the output of one block of its base model.

``files`` and ``contract`` read and check what lies in the folder, ``stack`` opens and truncates the model, ``local``
runs it.
"""

from dragoman.models.reconstruct.contract import LAYOUTS, Contract, read_contract
from dragoman.models.reconstruct.local import LocalReconstructor

__all__ = ["LAYOUTS", "Contract", "LocalReconstructor", "read_contract"]
