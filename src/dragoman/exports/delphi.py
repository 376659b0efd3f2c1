"""Explanations as delphi keeps them, for its scorers: one file a latent.

In: entries of one condition, the hookpoint's name there. Out: a new folder of ``HOOKPOINT_latentN.txt``, each a JSON
string, as ``delphi.explainers.explainer.explanation_loader`` reads them (eai-delphi 0.1.3: the file is called by
``str(Latent)``, which is f"{module_name}_latent{latent_index}"). Refuses names that are no hookpoint, features without
a number, and folders that are there already.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from dragoman.core import Refusal
from dragoman.exports.entries import Entry, numbered
from dragoman.store.outputs import new_folder
from dragoman.store.spans import shown

_HOOKPOINT = re.compile(r"\w[\w.\-]{0,199}", re.ASCII)


def write_delphi(folder: Path, entries: Sequence[Entry], hookpoint: str) -> list[Path]:
    """Write a file a feature; those without a word are left out, as delphi would score their emptiness.

    Args:
        folder: to be made.
        entries: of one condition.
        hookpoint: delphi's name of the place, such as ``layers.20``.
    """
    if not _HOOKPOINT.fullmatch(hookpoint):
        why = "it is no name of a module, and it names the files"
        raise Refusal(f"hookpoint '{shown(hookpoint)}'", why, "write it as delphi does, such as layers.20")
    found = {number: one.text for number, one in numbered(entries, "delphi").items() if one.text.strip()}
    if not found:
        raise Refusal("explanations", "none has a word", "choose a condition that has some")
    names = {f"{hookpoint}_latent{number}.txt": text for number, text in found.items()}
    with new_folder(folder) as made:
        for name, text in names.items():
            (made / name).write_bytes(json.dumps(text).encode("ascii"))
    return [folder / name for name in names]
