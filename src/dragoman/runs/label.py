"""Labels from contexts: a language model says what a run's features fire on, from windows of text, beside verbalizers.

In: a run that keeps windows and activations of their tokens, a model that makes labels. Out: ``context_labels.jsonl``
in its folder, ``Labelled``. Refuses runs of plain vectors, runs without windows or without tokens, labels that are
there already by another model or from other windows, and what the model refuses.

A label is made from half of a feature's windows, the strongest of them first (``measures.excerpts``); the others judge
it. Labels are made some at a time, part by part as the run grew, so that a process that was cut short, or a run that
grew since, goes on to the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol

from dragoman.core import Interrupted, Refusal, Talk
from dragoman.dictionaries.layout import VECTORS
from dragoman.measures.excerpts import dealt_windows, marked
from dragoman.models.labeller import Labeller
from dragoman.models.load import check_device
from dragoman.records import ContextLabel, LabelsHead, Record, TokenWindow
from dragoman.runs.given import path_of, talk_of
from dragoman.runs.grow import parts_of
from dragoman.runs.options import check_seed
from dragoman.runs.run import Run
from dragoman.scores import LabelScores
from dragoman.scoring.labels import add_labels
from dragoman.store import RunFolder, digest
from dragoman.store.apart import tokens_apart, windows_apart
from dragoman.store.labels import LABELS, need_labels, read_labels
from dragoman.store.manifests import short_of
from dragoman.store.runs import Rows
from dragoman.store.spans import shown

WINDOWS = 8  # shown of a feature, at most
FEWEST = 2  # shown: what one window has in common with itself says nothing
TOGETHER = 16  # features labelled at once; what a batch holds may decide a word, so it is not asked for
Excerpts = Sequence[str]


class Labels(Protocol):
    """What makes labels; see ``models.labeller.Labeller``."""

    def head(self, windows: int) -> LabelsHead:
        """What decides them."""
        ...

    def open(self) -> None:
        """Be ready, or refuse."""
        ...

    def label(self, asked: Sequence[Excerpts]) -> list[str]:
        """A label of each entry's excerpts."""
        ...


class Labelled(Record):
    """A run's labels from contexts. ``unlabelled``: features without windows enough; ``scores``: what labels are worth.

    ``made``: what made them.
    """

    run: str
    made: LabelsHead
    labels: tuple[ContextLabel, ...]
    unlabelled: int
    scores: LabelScores | None = None


def label(
    run: Run | str | Path,
    model: str | Path | Labels,
    *,
    windows: int = WINDOWS,
    dtype: str = "float32",
    device: str = "cpu",
    seed: int = 0,
    talk: Talk | None = None,
) -> Labelled:
    """Label a run's features from windows in which they fire, and judge the labels by the windows held back.

    Args:
        run: a run, or its folder.
        model: an instruct model: a packaged name, a folder, or a hub id; or what makes labels.
        windows: the most of a feature that it is shown.
        dtype: the model computes in.
        device: the model runs on.
        seed: of the deals that judge.
        talk: where progress goes.

    Raises:
        Refusal: as the module says.
        Interrupted: Ctrl-C; what was labelled is kept.
    """
    check_device(device)
    check_seed(seed)
    folder = run.folder if isinstance(run, Run) else RunFolder.open(path_of(run, "run", "pass a run, or its folder"))
    if windows < FEWEST:
        raise Refusal(f"{windows} windows", "a label is of what several have in common", f"ask for {FEWEST} or more")
    talk = talk_of(talk)
    with windows_apart(folder) as contexts:
        tokens = tokens_apart(folder)
        _refuse_without(folder, contexts, tokens)
        maker = Labeller(model, dtype=dtype, device=device) if isinstance(model, str | Path) else model
        asked = _Asked(folder, contexts, tokens, windows)
        with folder.locked():
            _make(folder, asked, maker, maker.head(windows), talk)
            found = need_labels(folder)
    told = add_labels(folder, talk.say, seed=seed, device=device)
    return Labelled(
        run=f"{folder.path}",
        made=found.head,
        labels=tuple(found.by_feature.values()),
        unlabelled=asked.unlabelled,
        scores=told.context_labels if told else None,
    )


def _refuse_without(run: RunFolder, contexts: Mapping[str, Any], tokens: Mapping[str, Sequence[TokenWindow]]) -> None:
    """Refuse a run in which nothing is known of where features fire."""
    what = f"labels from contexts of {run.path}"
    if (run.manifest.get("dictionary") or {}).get("layout") == VECTORS:
        raise Refusal(what, "its directions are plain vectors, which fire nowhere", "explain a dictionary's features")
    if not contexts:
        if short := short_of(run.manifest, len(run.rows())):
            raise Refusal(what, f"{short}, and windows are kept with the last", "run its own command again first")
        why = "it keeps no windows of text in which its features fire"
        raise Refusal(what, why, "explain them by the aligned map (without --map post), which keeps some")
    if not tokens:
        why = "it does not tell on which tokens of its windows features fire"
        raise Refusal(what, why, "make the run again with this version, which keeps that")


class _Asked:
    """Excerpts of each feature that has windows enough, in batches, part by part of the run."""

    def __init__(
        self,
        run: RunFolder,
        contexts: Mapping[str, Mapping[str, Any]],
        tokens: Mapping[str, Sequence[TokenWindow]],
        most: int,
    ) -> None:
        self._contexts, self._tokens, self._most = contexts, tokens, most
        self.batches, self.unlabelled = list[list[str]](), 0
        for part in parts_of(run.manifest):
            able = [name for name in part.features if len(self.excerpts(name)) >= FEWEST]
            self.unlabelled += len(part.features) - len(able)
            self.batches += [able[at : at + TOGETHER] for at in range(0, len(able), TOGETHER)]
        if not self.batches:
            why = f"none of its features has {2 * FEWEST} windows in which it fires"
            raise Refusal(f"labels from contexts of {run.path}", why, "explain features that fire in more texts")

    def excerpts(self, feature: str) -> list[str]:
        """The windows it is labelled from, marked, strongest first."""
        if feature not in self._contexts or feature not in self._tokens:
            return []
        firing, tokens = self._contexts[feature]["firing"], self._tokens[feature]
        if len(tokens) < len(firing) or not all(one.fits(text) for text, one in zip(firing, tokens, strict=False)):
            why = "its tokens are not those of its windows"
            raise Refusal(f"activations of feature {shown(feature)}", why, "make the run again")
        return [marked(firing[k], tokens[k]) for k in dealt_windows(firing)[0][: self._most]]

    def names(self) -> Iterator[str]:
        """All features that are labelled."""
        return (name for batch in self.batches for name in batch)


def _make(run: RunFolder, asked: _Asked, maker: Labels, head: LabelsHead, talk: Talk) -> None:
    """Make what is not there yet; the run's lock is held."""
    done = _done(run, asked, head)
    total, made = sum(map(len, asked.batches)), sum(map(len, asked.batches[:done]))
    if done == len(asked.batches):
        talk.say(f"all {total} labels by {head.model} are there")
        return
    talk.say(f"labelling {total - made} features from windows of text with {head.model}")
    maker.open()  # refused before anything is written
    with closing(Rows(run.path / LABELS, run.rows_plan)) as file:
        file.keep(1 + made if made else 0)  # a batch that was cut short is made again, whole
        bar = talk.towards("labels")
        for batch in asked.batches[done:]:
            excerpts = [asked.excerpts(name) for name in batch]
            try:
                labels = maker.label(excerpts)
            except KeyboardInterrupt as stop:
                kept = f"interrupted: {made} of {total} labels are kept"
                raise Interrupted(f"{kept}; run the same command again to go on.") from stop
            rows = [_row(*one).to_json() for one in zip(batch, labels, excerpts, strict=True)]
            file.append(rows if made else [head.to_json(), *rows])
            made += len(batch)
            bar(made, total)


def _row(feature: str, label: str, excerpts: Excerpts) -> ContextLabel:
    return ContextLabel(feature=feature, label=label, windows=len(excerpts), shown=digest(*excerpts))


def _done(run: RunFolder, asked: _Asked, head: LabelsHead) -> int:
    """How many batches are there; refuse labels of another model, or from other windows."""
    found = read_labels(run)
    if found is None:
        return 0
    what, instead = f"labels from contexts of {run.path}", f"remove {LABELS} there to make them anew"
    for name in ("files", "dtype", "prompt", "windows", "tokens"):
        before, now = getattr(found.head, name), getattr(head, name)
        if before != now:
            of = f"by {shown(found.head.model)}" if name in ("files", "prompt") else f"with {name} {shown(before)}"
            raise Refusal(what, f"those that are there were made {of}, and are not mixed", instead)
    for name, one in zip(asked.names(), found.by_feature.values(), strict=False):
        excerpts = asked.excerpts(name)
        if one.feature != name or one.shown != digest(*excerpts):
            why = f"its label of feature {shown(one.feature)} was made from other windows"
            raise Refusal(what, why, instead)
    there, done = len(found), 0
    for batch in asked.batches:
        there -= len(batch)
        if there < 0:
            break
        done += 1
    return done
