"""Whether this machine has the device that was named.

In: a device in torch's words. Out: nothing. Refuses words that are no device, and devices that are not here.
"""

from __future__ import annotations

import torch

from dragoman.core import Refusal


def check_device(name: str) -> None:
    """Refuse a device that torch does not know or this machine does not have, before anything is loaded.

    Raises:
        Refusal: the sentence says which devices there are.
    """
    here = devices()
    try:
        device = torch.device(name)
    except (RuntimeError, ValueError):
        raise Refusal(f"device '{name[:40]}'", "it is no device", f"use one of {', '.join(here)}") from None
    if device.type not in here or (device.index or 0) >= (torch.cuda.device_count() if device.type == "cuda" else 1):
        raise Refusal(f"device '{name[:40]}'", "this machine has none such", f"use one of {', '.join(here)}")


def devices() -> list[str]:
    """Kinds and places of the devices that are here."""
    found = ["cpu"]
    if torch.cuda.is_available():
        found += ["cuda", *(f"cuda:{n}" for n in range(torch.cuda.device_count()))]
    if torch.backends.mps.is_available():
        found.append("mps")
    return found
