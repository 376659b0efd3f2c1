"""A study from its name to rows: prepare, have said, have read. Resumes wherever it stopped.

In: a study's name, a ground, a ``Library``, where to work. Out: a run folder with its reading. Refuses unknown names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from dragoman.core import Refusal, Talk
from dragoman.models.decode import Verbalizer
from dragoman.models.embedder import SentenceEmbedder
from dragoman.models.reconstruct import Reconstructor
from dragoman.store import RunFolder
from dragoman.verbalizers.protocol import AnyVerbalizer
from studies import data, depth, drift, post, procrustes, strength, trust
from studies.cast import Cast
from studies.ground import Ground
from studies.library import Library
from studies.reading import read_back, read_contexts

COMPARED = ("trust",)  # studies in which texts are compared with other texts
Prepare = Callable[[Ground, Library, int, int], Cast]


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """A question, how many features it takes, and how its conditions are made."""

    name: str
    question: str
    features: int
    prepare: Prepare


STUDIES: Mapping[str, Study] = {
    name: Study(name=name, question=room.QUESTION, features=room.FEATURES, prepare=room.prepare)
    for name, room in (
        ("post", post),
        ("procrustes", procrustes),
        ("data", data),
        ("depth", depth),
        ("washout", strength),
        ("drift", drift),
        ("trust", trust),
    )
}


def study_of(name: str) -> Study:
    """A study by name."""
    if name not in STUDIES:
        raise Refusal(f"study '{name}'", f"known are {', '.join(STUDIES)}", "name one of these, or all")
    return STUDIES[name]


class Voices:
    """Verbalizers, reconstructors and the embedder, opened when they are first needed and kept."""

    def __init__(self, *, device: str, dtype: str) -> None:
        """On ``device`` in ``dtype``; reconstructors and the embedder in float32."""
        self.device, self.dtype = device, dtype
        self._verbalizers: dict[str, Verbalizer] = {}
        self._readers: dict[str, Reconstructor] = {}
        self._embedder: SentenceEmbedder | None = None

    def verbalizer(self, ref: str) -> Verbalizer:
        """A verbalizer by reference."""
        if ref not in self._verbalizers:
            self._verbalizers[ref] = Verbalizer(ref, dtype=self.dtype, device=self.device)
        return self._verbalizers[ref]

    def reader(self, ref: str) -> Reconstructor:
        """A reconstructor by reference."""
        if ref not in self._readers:
            self._readers[ref] = Reconstructor.open(ref, device=self.device)
        return self._readers[ref]

    def embedder(self) -> SentenceEmbedder:
        """The sentence model."""
        if self._embedder is None:
            self._embedder = SentenceEmbedder(device=self.device, batch_size=256)
        return self._embedder


def say(
    study: Study,
    ground: Ground,
    library: Library,
    voices: Voices,
    work: Path,
    *,
    n: int | None = None,
    seed: int = 0,
    batch_size: int = 128,
) -> RunFolder:
    """Everything a study wants said, into ``work/STUDY/GROUND``."""
    talk = library.talk
    talk.say(f"{study.name}, {ground.name}: {study.question}")
    cast = study.prepare(ground, library, n or study.features, seed)
    verbalizers: dict[str, AnyVerbalizer] = {"by": voices.verbalizer(ground.by)}
    if any(condition.verbalizer == "native" for condition in cast.conditions):
        verbalizers["native"] = voices.verbalizer(ground.native)
    named = Talk(say=talk.say, bar=lambda what, done, total: talk.bar(f"{study.name}: {what}", done, total))
    run = cast.say(work / study.name / ground.name, verbalizers, seed=seed, batch_size=batch_size, talk=named)
    if study.name == "trust" and not (run.path / "contexts.json").exists():
        run.write_contexts(library.contexts(ground, cast.features, seed=seed))
    return run


def hear(study: Study, ground: Ground, run: RunFolder, voices: Voices, talk: Talk) -> None:
    """Have a run's texts read by the sentence model, and where a confidence is at stake by the reconstructors.

    Most studies are judged by what latents fire on, which needs neither.
    """
    if study.name not in COMPARED:
        return
    readers: dict[str, Reconstructor] = {}
    if study.name == "trust":
        readers = {"target": voices.reader(ground.reads_target), "source": voices.reader(ground.reads_source)}
    if (run.path / "contexts.json").exists():
        read_contexts(run, voices.embedder())
    read_back(run, voices.embedder(), readers, talk.towards(f"{study.name} {ground.name}: reading back"))
