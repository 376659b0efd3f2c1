"""A run scored, and confidences made from explanations of it that somebody checked.

In: a ``Run`` or its folder; a file of checked rows. Out: ``Scores``, kept in the folder; a ``ConfidenceSet`` with its
``Reliability``. Refuses what ``dragoman.scoring`` refuses.
"""

from __future__ import annotations

from pathlib import Path

from dragoman.confidence.checked import Reliability
from dragoman.confidence.model import ConfidenceSet
from dragoman.core import Talk
from dragoman.models.load import check_device
from dragoman.runs.given import path_if_any, path_of, talk_of
from dragoman.runs.options import check_seed
from dragoman.runs.run import Run
from dragoman.scores import Scores
from dragoman.scoring import fit_from, recalibrate_from, score_run
from dragoman.store import RunFolder


def score(
    run: Run | str | Path,
    *,
    ar: str | None = None,
    ar_layout: str | None = None,
    confidence: str | Path | None = None,
    steer: bool = False,
    generate: bool = False,
    seed: int = 0,
    dtype: str = "float32",
    device: str = "cpu",
    talk: Talk | None = None,
) -> Scores:
    """Judge a run's texts by all there is: natives, nulls, planted categories, contexts, a reconstructor, confidences.

    Args:
        run: a run, or its folder.
        ar: a reconstructor (text back to vector) of source or target.
        ar_layout: "kitft" or "easynla", where the registry does not say.
        confidence: a file of confidences; those beside the dictionary, if of this pair, when None.
        steer: also steer the target's model by the rows that arrived: do they raise the words of their own feature?
        generate: also let the source's model write from the texts: do the features fire on that?
        seed: of every resampling, and of what is written.
        dtype: the reconstructor, the steered and the writing model compute in.
        device: models run on.
        talk: where progress goes.

    Raises:
        Refusal: the run is not finished, there is nothing to judge by, or a part refuses.
    """
    check_device(device)
    check_seed(seed)
    told = talk_of(talk)
    how = {"seed": seed, "device": device, "ar": ar, "layout": ar_layout, "dtype": dtype, "generate": generate}
    bar = told.towards("writing passages")
    return score_run(
        _folder(run), confidence=path_if_any(confidence, "confidence"), steer=steer, say=told.say, progress=bar, **how
    )


def fit_confidence(
    run: Run | str | Path, checked: str | Path, *, ar: str | None = None, seed: int = 0, talk: Talk | None = None
) -> tuple[ConfidenceSet, Reliability]:
    """Fit a confidence on the explanations of a run that were checked.

    Args:
        run: a run, or its folder.
        checked: CSV or JSON lines with columns feature, condition (where the run has several) and right; at least 40
            rows, 8 right and 8 wrong.
        ar: a reconstructor whose reading counts as evidence.
        seed: of folds and resampling.
        talk: where progress goes.

    Returns:
        The set, which names its pair of sites, and its reliability on rows it had not seen.

    Raises:
        Refusal: see ``dragoman.confidence.checked``.
    """
    check_seed(seed)
    return fit_from(_folder(run), path_of(checked, "checked"), ar=ar, seed=seed, say=talk_of(talk).say)


def recalibrate_confidence(
    run: Run | str | Path,
    checked: str | Path,
    confidence: str | Path | None = None,
    *,
    ar: str | None = None,
    seed: int = 0,
    talk: Talk | None = None,
) -> tuple[ConfidenceSet, Reliability]:
    """Keep a set's order of explanations, and fit its slope and offset anew on checked ones of another pair.

    ``confidence``: a file, or None for what lies beside the run's dictionary, else beside the embedded one. It takes 30
    checked rows, 5 right and 5 wrong. Otherwise as ``fit_confidence``.
    """
    check_seed(seed)
    say = talk_of(talk).say
    return recalibrate_from(
        _folder(run), path_of(checked, "checked"), path_if_any(confidence, "confidence"), ar=ar, seed=seed, say=say
    )


def _folder(run: Run | str | Path) -> RunFolder:
    return run.folder if isinstance(run, Run) else RunFolder.open(path_of(run, "run", "pass a run, or its folder"))
