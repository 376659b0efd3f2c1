"""Reconstructors (ARs): an explanation in, the vector it describes out, at the output of one block of its base model.

``contract`` reads and checks what lies in the folder, ``stack`` opens and truncates the model, ``local`` runs it.
"""

from dragoman.models.reconstruct.contract import LAYOUTS, Contract, read_contract
from dragoman.models.reconstruct.local import Reconstructor

__all__ = ["LAYOUTS", "Contract", "Reconstructor", "read_contract"]
