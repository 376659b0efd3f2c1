"""The confidences that a run is believed by: a file's, or those that lie beside its dictionary.

In: a file's path or nothing, a run. Out: kits, and the run's scores with "confidence" in them. Refuses a file that
holds anything else. Where none lies beside the dictionary, or the sentence embedder is absent, there is no confidence,
and that is said.
"""

from __future__ import annotations

from pathlib import Path

from dragoman.core import Refusal, Site
from dragoman.dictionaries.beside import calibrated_on, confidence_for
from dragoman.explain.request import Say
from dragoman.judge import trusted
from dragoman.score import Kits
from dragoman.store import RunFolder


def kits_from(path: str | Path | None, say: Say = lambda _text: None, run: RunFolder | None = None) -> Kits | None:
    """The kits of a file, or those beside the run's dictionary if they were calibrated on its pair; else None.

    Raises:
        Refusal: a named file is not there, or any file holds something else.
    """
    pair = (Site.parse(run.manifest["source"]), Site.parse(run.manifest["target"])) if run is not None else None
    if path is not None:
        kits, sites = Kits.load(Path(path)), calibrated_on(Path(path))
        if pair is not None and sites not in (None, pair):
            say(f"{path} was calibrated on other models: its confidences are a guess until you have checked some")
        return kits
    if run is None or pair is None:
        return None
    found = confidence_for(run.manifest.get("dictionary") or {}, *pair)
    if isinstance(found, str):
        say(f"no confidence: {found}; --confidence names a file")
        return None
    return Kits.load(found)


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
