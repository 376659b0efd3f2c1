"""The bodies of ``dragoman score`` and ``dragoman confidence fit|recalibrate``: what they read, open and keep.

In: a run folder; by name, a reconstructor and a file of confidences; a file of checked rows. Out: the scores, written
into the folder; a set of confidences and its reliability, which are not written. Refuses what its parts refuse.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from dragoman import tiny
from dragoman.confidence.calibration import MADE
from dragoman.confidence.checked import (
    Checked,
    Reliability,
    fit_checked,
    matched,
    read_checked,
    recalibrate_checked,
)
from dragoman.confidence.model import ConfidenceSet
from dragoman.core import Directions, Estimate, Refusal
from dragoman.dictionaries import Dictionary
from dragoman.dictionaries.beside import CONFIDENCE, beside
from dragoman.embed import Embedder, LexicalEmbedder
from dragoman.scores import FORMAT, Scores
from dragoman.scoring.calibrated import calibrated_claims, calibration_of, refuse_another_run
from dragoman.scoring.claims import claim_scores, held_back
from dragoman.scoring.confidence import Say, confidence_scores, confidence_set, run_evidence, set_beside
from dragoman.scoring.generation import Generated, generation_scores, generative
from dragoman.scoring.judge import judge_run
from dragoman.scoring.judged_run import JudgedRun
from dragoman.scoring.labels import with_labels
from dragoman.scoring.measures import measure_scores, with_measured
from dragoman.scoring.reconstruction import sought_directions
from dragoman.scoring.steering import steerable, steering_scores, with_measure, with_steering
from dragoman.store import RunFolder, read_jsonl
from dragoman.store.outputs import check_file
from dragoman.store.runs import SCORES
from dragoman.store.scored import scores_of

if TYPE_CHECKING:
    from dragoman.models.reconstruct import Reconstructor

Progress = Callable[[int, int], None]
Written = tuple[Dictionary, dict[str, dict[str, str]]]  # as of `generative`


def score_run(
    folder: RunFolder,
    *,
    seed: int = 0,
    device: str = "cpu",
    ar: str | None = None,
    layout: str | None = None,
    dtype: str = "float32",
    confidence: str | Path | None = None,
    steer: bool = False,
    generate: bool = False,
    say: Say = lambda _text: None,
    progress: Progress | None = None,
) -> Scores:
    """Judge the run with MiniLM, as the post did, by words alone, by a reconstructor if named; keep the scores.

    ``confidence``: a file of confidences, or a calibration; if None those beside the dictionary, if of the run's pair.
    A run that only they can judge is judged by them alone. ``steer``: open the target's model too, and steer it by the
    carried rows.
    ``generate``: open the source's model too, and let it write from the texts; ``progress``: passages written, and all.

    Raises:
        Refusal: the run is not finished, there is nothing to judge by, or a part refuses.
    """
    from dragoman.models.embedder import SentenceEmbedder, packaged_folder

    packaged_folder()  # what is not installed is told before anything is opened
    check_file(folder.path / SCORES, of_run=True)
    run = JudgedRun.of(folder)
    run.refuse_unfinished()
    written_from = _refuse_early(run, steer=steer, generate=generate)
    calibration, embedder = calibration_of(confidence), SentenceEmbedder(device=device)
    if calibration is not None and confidence is not None:
        refuse_another_run(calibration, run, confidence, embedder.name)
    confidences = None if calibration is not None else confidence_set(confidence, say, run)
    reconstructor, directions = _opened(ar, run, layout=layout, dtype=dtype, device=device)
    also = [second_opinion(say)]
    scores = Scores(format=FORMAT)
    made = calibration is not None and calibration.on == MADE
    if (confidences is None and not made) or reconstructor is not None or run.judgeable:
        scores = judge_run(run, embedder, seed=seed, also=also, reconstructor=reconstructor, directions=directions)
    few = run.compared(seed)
    measures = measure_scores(few)
    if steer:
        steered = _steered(few, seed=seed, dtype=dtype, device=device, say=say)
        measures = with_steering(measures, {condition: one for condition, (one, _) in steered.items()})
        own = with_measured(scores.measured, "steering", {condition: each for condition, (_, each) in steered.items()})
        scores = scores.model_copy(update={"measured": own})
    if written_from is not None:
        generated, found = _generated(run, written_from, seed=seed, dtype=dtype, device=device, say=say, bar=progress)
        scores = scores.model_copy(update={"generated": generated})
        measures = with_measure(measures, "generation", found)
    if measures:
        scores = scores.model_copy(update={"measures": measures})
    if run.contexts:
        scores = scores.model_copy(update={"claims": claim_scores(run, embedder, seed=seed)})
        scores = with_labels(scores, run, embedder, seed=seed)
    if calibration is not None:
        scores = scores.model_copy(update=calibrated_claims(run, calibration, scores.claims, embedder))
    if confidences is not None:
        evidence = run_evidence(run, embedder, reconstructor=reconstructor, directions=directions, seed=seed)
        found = held_back(confidence_scores(evidence, confidences, embedder.name), scores.claims)
        scores = scores.model_copy(update={"confidence": found})
    folder.write_scores(scores)
    return scores


def add_confidence(
    folder: RunFolder, path: str | Path | None, say: Say, *, device: str = "cpu", embedder: Embedder | None = None
) -> None:
    """Put the confidence into the run's scores, beside what was scored before, if there is a set and the embedder.

    ``embedder``: the packaged one, where somebody has opened it. Where sentences were checked before, a text whose
    theme is not borne out has no answer.

    Raises:
        Refusal: a file was named, and it or the embedder is not there.
    """
    run, calibration = JudgedRun.of(folder), calibration_of(path)
    confidences = None if calibration is not None else confidence_set(path, say, run)
    if confidences is None and calibration is None:
        return
    from dragoman.models.embedder import SentenceEmbedder, packaged_folder

    try:
        packaged_folder()
    except Refusal:
        if path is not None:
            raise
        say("no confidence: the sentence embedder it reads with is not installed")
        return
    say("judging how far to trust each text")
    embedder = SentenceEmbedder(device=device) if embedder is None else embedder
    scores = scores_of(folder) or Scores(format=FORMAT)
    if calibration is not None and path is not None:
        refuse_another_run(calibration, run, path, embedder.name)
        told = calibrated_claims(run, calibration, scores.claims, embedder)
        folder.write_scores(scores.model_copy(update=told))
    if confidences is None:
        return
    found = confidence_scores(run_evidence(run, embedder), confidences, embedder.name)
    folder.write_scores(scores.model_copy(update={"confidence": held_back(found, scores.claims)}))


def _refuse_early(run: JudgedRun, *, steer: bool, generate: bool) -> Written | None:
    """Refuse, before anything dear is done, a run that cannot be steered or written from, and models that are nowhere.

    What is written from, if anything is.
    """
    from dragoman.models.sizes import check_read

    written_from = generative(run) if generate else None
    if generate:
        check_read(run.source)
    if steer:
        steerable(run)
        check_read(run.target)
    return written_from


def _opened(
    ar: str | None, run: JudgedRun, *, layout: str | None, dtype: str, device: str
) -> tuple[Reconstructor | None, Directions | Mapping[str, Directions] | None]:
    """The reconstructor of a name, and what it should find in the run; neither where none is named."""
    if ar is None:
        return None, None
    from dragoman.models.reconstruct import Reconstructor

    opened = Reconstructor.open(ar, layout=layout, dtype=dtype, device=device)
    return opened, sought_directions(run, opened.site)


def _steered(
    run: JudgedRun, *, seed: int, dtype: str, device: str, say: Say
) -> dict[str, tuple[Estimate, dict[str, float]]]:
    """What steering the target's model by the carried rows gives, by condition."""
    from dragoman.models.harvest import Reader

    say(f"steering {run.target} by the rows that arrived")
    return steering_scores(run, Reader.open(run.target, dtype=dtype, device=device, whole=True), seed=seed)


def _generated(
    run: JudgedRun,
    asked: Written,
    *,
    seed: int,
    dtype: str,
    device: str,
    say: Say,
    bar: Progress | None,
) -> tuple[Generated, dict[str, Estimate]]:
    """What the source's model writes from the texts, and whether features fire on it."""
    from dragoman.models.harvest import Reader
    from dragoman.models.language import Judge

    say(f"letting {run.source.model} write from the texts")
    reader = Reader.open(run.source, dtype=dtype, device=device, whole=True)
    judge = Judge(model=reader.model, tokenizer=reader.tokenizer)
    return generation_scores(run, asked, reader, judge, seed=seed, progress=bar)


def second_opinion(say: Say) -> LexicalEmbedder:
    """Words alone, weighed by how rare they are in the sentences that ship; alike where none ship, and that is told."""
    try:
        return _weighed(tiny.data("tiny-documents"))
    except Refusal:
        say("words are weighed alike: the sentences that tell how rare they are come with dragoman-tiny")
        return LexicalEmbedder()


@cache
def _weighed(documents: Path) -> LexicalEmbedder:
    """Read once a process: each comparison and score asks for it, and the sentences take a tenth of a second."""
    return LexicalEmbedder([row["text"] for row in read_jsonl(documents) if row["split"] == "map"])


def fit_from(
    folder: RunFolder,
    checked: Path,
    *,
    ar: str | None = None,
    layout: str | None = None,
    dtype: str = "float32",
    device: str = "cpu",
    seed: int = 0,
    say: Say = lambda _text: None,
) -> tuple[ConfidenceSet, Reliability]:
    """Fit a confidence on a run's evidence and the rows of it that were checked; see ``confidence.checked``."""
    found = checked_evidence(folder, checked, ar=ar, layout=layout, dtype=dtype, device=device, say=say)
    run = JudgedRun.of(folder)
    made, reliability = fit_checked(found, fitted_on=f"{run.source} in the words of {run.target}", seed=seed)
    return _of_pair(made, run), reliability


def recalibrate_from(
    folder: RunFolder,
    checked: Path,
    confidence: str | Path | None,
    *,
    ar: str | None = None,
    layout: str | None = None,
    dtype: str = "float32",
    device: str = "cpu",
    seed: int = 0,
    say: Say = lambda _text: None,
) -> tuple[ConfidenceSet, Reliability]:
    """Recalibrate a file's confidences, or those beside the run's dictionary or the embedded one, on checked rows."""
    run = JudgedRun.of(folder)
    named = confidence_set(confidence, say) if confidence is not None else None
    base = named or set_beside(run) or _shipped()
    found = checked_evidence(folder, checked, ar=ar, layout=layout, dtype=dtype, device=device, say=say)
    made, reliability = recalibrate_checked(base, found, seed=seed)
    return _of_pair(made, run), reliability


def _shipped() -> ConfidenceSet:
    """The set beside the embedded dictionary."""
    try:
        path = beside(tiny.data("tiny-sae"), CONFIDENCE)
    except Refusal:
        path = None
    if path is None:
        raise Refusal("recalibrating", "no confidence ships here", "name a file with --confidence, or fit one")
    return ConfidenceSet.load(path)


def _of_pair(made: ConfidenceSet, run: JudgedRun) -> ConfidenceSet:
    """A set with the pair of sites that it was calibrated on."""
    return made.model_copy(update={"sites": (str(run.source), str(run.target))})


def checked_evidence(
    folder: RunFolder, checked: Path, *, ar: str | None, layout: str | None, dtype: str, device: str, say: Say
) -> Checked:
    """The checked rows of a run with everything known of them; the file is read before any model is opened."""
    from dragoman.models.embedder import SentenceEmbedder

    rows, run = read_checked(checked), JudgedRun.of(folder)
    bare = {condition: dict.fromkeys(by_feature, {}) for condition, by_feature in run.texts.items()}
    matched(rows, bare, run.claims, str(checked))  # refused before anything dear is done
    reconstructor, directions = _opened(ar, run, layout=layout, dtype=dtype, device=device)
    say("gathering what is known of each text")
    embedder = SentenceEmbedder(device=device)
    evidence = run_evidence(run, embedder, reconstructor=reconstructor, directions=directions)
    return matched(rows, evidence, run.claims, str(checked))
