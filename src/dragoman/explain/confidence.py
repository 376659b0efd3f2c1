"""The confidences that a run is believed by: a file's, or those that ship.

In: a file's path or nothing, a run. Out: kits, and the run's scores with "confidence" in them. Refuses a file that
holds anything else. Where nothing ships, or the sentence embedder is absent, there is no confidence, and that is said.
"""

from __future__ import annotations

from pathlib import Path

from dragoman import tiny
from dragoman.core import Refusal
from dragoman.explain.request import Say
from dragoman.judge import trusted
from dragoman.score import Kits
from dragoman.store import RunFolder

PACKAGED = "tiny-confidence"


def kits_from(path: str | Path | None, say: Say = lambda _text: None, run: RunFolder | None = None) -> Kits | None:
    """The kits of a file, or those that ship, for runs of the pair they were calibrated on; else None.

    A confident label on models that nobody calibrated it on would be the worst there is, so it takes a file, named.

    Raises:
        Refusal: a named file is not there, or any file holds something else.
    """
    if path is not None:
        return Kits.load(Path(path))
    try:
        shipped = tiny.data(PACKAGED)
    except Refusal:
        say("no confidence: none ships here, and --confidence names no file")
        return None
    if run is not None and not _of_the_pair(run):
        say("no confidence: the one that ships was calibrated on other models; --confidence names a file")
        return None
    return Kits.load(shipped)


def _of_the_pair(run: RunFolder) -> bool:
    places = {str(run.manifest.get("source")), str(run.manifest.get("target"))}
    return places == {str(tiny.SOURCE), str(tiny.TARGET)}


def believe(run: RunFolder, path: str | Path | None, say: Say, *, device: str = "cpu") -> None:
    """Put "confidence" into the run's scores, beside what was scored before, if there are kits and the embedder.

    Raises:
        Refusal: a file was named, and it or the embedder is not there.
    """
    kits = kits_from(path, say, run)
    if kits is None:
        return
    # Here, not above: it takes seconds to import, and most runs have no use for it where nothing ships.
    from dragoman.models.embedder import SentenceEmbedder, packaged_folder

    try:
        packaged_folder()
    except Refusal:
        if path is not None:
            raise
        say("no confidence: the sentence embedder it reads with is not installed")
        return
    say("judging how far to trust each text")
    run.write_scores((run.scores or {}) | {"confidence": trusted(run, SentenceEmbedder(device=device), kits)})
