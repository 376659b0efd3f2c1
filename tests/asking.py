"""The main job asked for in one value, as the command line asks for it: opened here, and handed to ``explain``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dragoman.core import Directions, Site, Talk
from dragoman.dictionaries import Dictionary, open_dictionary
from dragoman.models.decode import Verbalizer
from dragoman.runs import explain as main_job
from dragoman.runs.options import Options
from dragoman.runs.readings import Readings
from dragoman.runs.texts import Texts
from dragoman.store import RunFolder

_OPTIONS = ("reading", "route", "washout", "samples", "temperature", "max_new_tokens", "batch_size", "seed")


@dataclass(frozen=True, kw_only=True)
class Asked:
    dictionary: str
    features: tuple[str, ...]
    by: str
    source: Site | None = None
    contract: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    base: str | None = None
    native: str | None = None
    key: str | None = None
    orientation: Any = None
    d_model: int | None = None
    k: int | None = None
    labels: str | None = None
    resid_pre: bool = False
    through: Any = None
    reading: Any = None
    route: Any = None
    map: Any = None
    washout: str = "on-shell"
    texts: str | None = None
    samples: int = 1
    temperature: float | None = None
    seed: int = 0
    batch_size: int | None = 64
    max_new_tokens: int = 120
    confidence: str | None = None
    dtype: str = "float32"
    device: str = "cpu"

    def open(self) -> Dictionary:
        """Its dictionary."""
        names = ("labels", "resid_pre", "key", "orientation", "d_model", "k")
        return open_dictionary(self.dictionary, site=self.source, **{name: getattr(self, name) for name in names})

    def verbalizer(self) -> Verbalizer:
        """The one that speaks."""
        fed = {"contract": self.contract, "settings": self.settings, "base": self.base}
        return Verbalizer.open(self.by, **fed, dtype=self.dtype, device=self.device)

    def readings(self, source: Site, target: Site, talk: Talk | None = None) -> Readings:
        """What two models make of its texts."""
        how = {"dtype": self.dtype, "device": self.device, "talk": talk or Talk()}
        return Readings(source=source, target=target, texts=Texts.of(self.texts), **how)

    def options(self) -> Options:
        """What else decides."""
        return Options(map=self.map or "aligned", **{name: getattr(self, name) for name in _OPTIONS})


def directions_of(asked: Asked) -> Directions:
    """What is asked for, of a dictionary opened for it alone."""
    return asked.open().features(asked.features or None).directions


def explain(asked: Asked, out: Path, talk: Talk | None = None) -> RunFolder:
    """The main job: opened, explained."""
    asked.options()
    chosen = asked.open().features(asked.features or None)
    run = main_job.explain(
        chosen,
        by=asked.by,
        contract=asked.contract,
        settings=asked.settings,
        base=asked.base,
        out=out,
        through=asked.through,
        native=asked.native,
        map=asked.map,
        texts=asked.texts,
        confidence=asked.confidence,
        dtype=asked.dtype,
        device=asked.device,
        talk=talk,
        **{name: getattr(asked, name) for name in _OPTIONS},
    )
    return run.folder
