"""Conditions times features times samples, verbalized in fixed batches that survive being killed.

In: conditions (vectors to inject, and which verbalizer says them), verbalizers, a run folder. Out: rows in the folder,
one durable append per finished batch, in the plan's order. What is batched with what, and which seed a batch draws
with, depends on the plan alone, so a run that was killed and gone on with leaves the same bytes as one that was not.
Refuses rows of another plan, verbalizers of another site, and samples that could only repeat themselves.

Of several samples the first is greedy and the others are drawn: the first says what is likeliest, the others how sure
the verbalizer is of it. Scores read the first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, islice
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dragoman.core import Directions, Floats, Interrupted, Refusal, Site, frozen, refuse_other_site
from dragoman.records import ENDED, Card, PromptToken
from dragoman.runs.turns import speaking
from dragoman.store import Rows, RunFolder, digest, stable_json
from dragoman.verbalizers.protocol import Call, answers, check_temperature

if TYPE_CHECKING:
    from dragoman.core import Explanation
    from dragoman.verbalizers.protocol import AnyVerbalizer

Progress = Callable[[str, int, int], None]
MAX_NEW_TOKENS = 200  # of one explanation, unless somebody says otherwise


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """Vectors to be said under one name.

    ``vectors``: (n, d) float32 as they are injected (a verbalizer rescales them). ``ids``, ``labels``: n strings.
    ``verbalizer``: key of the verbalizer that says them. ``kind``: "feature" or "random". ``cards``: n diagnostics,
    or none at all. ``site``: where the vectors live; a verbalizer of another site is refused. ``flags``: on every text.
    ``tokens``: of activations, the n tokens they were read at.
    """

    name: str
    vectors: Floats
    ids: tuple[str, ...]
    verbalizer: str
    labels: tuple[str, ...]
    kind: str = "feature"
    cards: tuple[Card, ...] = ()
    site: Site | None = None
    flags: tuple[str, ...] = ()
    tokens: tuple[PromptToken, ...] = ()

    def __post_init__(self) -> None:
        """Check once that everything is one per row, and that ids are not repeated."""
        object.__setattr__(self, "vectors", frozen(self.vectors))
        n = len(self.ids)
        if self.vectors.ndim != 2 or len(self.vectors) != n or not n or len(self.labels) != n:
            raise Refusal(
                f"condition '{self.name}'",
                f"vectors of shape {self.vectors.shape} do not go with {n} ids and {len(self.labels)} labels",
                "pass one row, one id and one label each, and at least one",
            )
        for what, some in (("cards", self.cards), ("tokens", self.tokens)):
            if some and len(some) != n:
                why = f"{len(some)} {what} for {n} vectors"
                raise Refusal(f"condition '{self.name}'", why, "pass one each or none")
        if len(set(self.ids)) != n:
            raise Refusal(
                f"condition '{self.name}'",
                "an id is there twice",
                "name every feature once",
            )
        if not np.isfinite(self.vectors).all():
            raise Refusal(
                f"condition '{self.name}'",
                "its vectors hold NaN or infinite numbers",
                "make them again",
            )

    @classmethod
    def of(
        cls,
        name: str,
        directions: Directions,
        verbalizer: str,
        *,
        vectors: NDArray[Any] | None = None,
        cards: Sequence[Card] = (),
        flags: Sequence[str] = (),
        tokens: Sequence[PromptToken] = (),
    ) -> Condition:
        """Directions under a name; ``vectors`` (n, d), for example washed ones, are injected in place of the rows."""
        return cls(
            name=name,
            vectors=directions.unit if vectors is None else vectors,
            ids=directions.ids,
            verbalizer=verbalizer,
            labels=directions.labels,
            kind=directions.kind,
            cards=tuple(cards),
            site=directions.site,
            flags=tuple(flags),
            tokens=tuple(tokens),
        )

    def written(self, at: int) -> dict[str, object]:
        """A card as it is written: without what nobody set, not even to None."""
        return self.cards[at].model_dump(mode="json", exclude_unset=True)

    def row(self, at: int, sample: int, explanation: Explanation) -> dict[str, object]:
        """What is written of one explanation."""
        return {
            "feature": self.ids[at],
            "label": self.labels[at],
            "kind": self.kind,
            "condition": self.name,
            "sample": sample,
            "text": explanation.text,
            "raw": explanation.raw,
            "problems": [*explanation.problems, *self.flags],
            "tokens": explanation.tokens,
            # To a digit that rounding in other batches, or on another device, does not reach.
            "log_probability": None if explanation.log_probability is None else round(explanation.log_probability, 4),
            "card": self.written(at) if self.cards else None,
            **({"token": self.tokens[at].to_json()} if self.tokens else {}),
        }


def check_samples(samples: int, temperature: float) -> None:
    """Refuse several samples of which the later ones could only repeat the first, and temperatures that are none."""
    check_temperature(temperature)
    if samples > 1 and not temperature > 0:
        raise Refusal(
            f"{samples} samples at temperature {temperature:g}",
            "greedy decoding says the same thing every time",
            "ask for one sample, or a temperature above 0",
        )


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows said together: (condition, row number) each, for the ``sample``-th time; ``seed`` is the batch's own."""

    items: tuple[tuple[Condition, int], ...]
    sample: int
    seed: int

    @property
    def keys(self) -> list[tuple[str, int, str]]:
        """(condition, sample, feature) of its rows, in order."""
        return [(condition.name, self.sample, condition.ids[at]) for condition, at in self.items]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything that decides the rows, apart from the verbalizers themselves.

    ``samples`` explanations per vector. A single one is drawn at ``temperature``, where 0 is greedy; of several, sample
    0 is greedy, whatever the temperature, and the others are drawn at it. ``seed`` starts all randomness.
    """

    conditions: tuple[Condition, ...]
    batch_size: int = 32
    samples: int = 1
    seed: int = 0
    temperature: float = 0.0
    max_new_tokens: int = MAX_NEW_TOKENS

    def __post_init__(self) -> None:
        """Refuse plans that cannot be carried out or could only repeat themselves."""
        names = [c.name for c in self.conditions]
        if not names or len(set(names)) != len(names):
            raise Refusal(
                f"conditions {names}",
                "every condition needs a name of its own",
                "name at least one, each once",
            )
        if min(self.batch_size, self.samples, self.max_new_tokens) < 1:
            raise Refusal(
                f"batch size {self.batch_size}, samples {self.samples}, max_new_tokens {self.max_new_tokens}",
                "each must be at least 1",
                "pass positive numbers",
            )
        check_samples(self.samples, self.temperature)

    def temperature_of(self, sample: int) -> float:
        """What a sample is drawn at: the first of several is greedy."""
        return 0.0 if self.samples > 1 and sample == 0 else self.temperature

    def batches(self) -> Iterator[Batch]:
        """All batches, in the order their rows stand in the file.

        Neighbouring conditions of one verbalizer share batches: a decoding step costs less per row the more there are.
        """
        for _, together in groupby(self.conditions, key=lambda c: c.verbalizer):
            conditions = list(together)
            items = [(c, at) for c in conditions for at in range(len(c.ids))]
            for sample in range(self.samples):
                for start in range(0, len(items), self.batch_size):
                    seed = self._seed(conditions[0].name, sample, start)
                    yield Batch(tuple(items[start : start + self.batch_size]), sample, seed)

    def _seed(self, name: str, sample: int, start: int) -> int:
        """A batch's own seed: from the plan's seed and the batch's place, never from what was drawn before it."""
        text = f"{self.seed}/{name}/{sample}/{start // self.batch_size}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1

    def digest(self, verbalizers: Mapping[str, AnyVerbalizer], *more: str) -> str:
        """Hex sha256 of what decides the rows, for ``manifest["plan_digest"]``.

        Counts conditions (vectors, ids, labels, cards), settings, the verbalizers' identities, and whatever ``more``
        says (a version, a digest).
        """
        settings = f"{self.batch_size}/{self.samples}/{self.seed}/{self.temperature!r}/{self.max_new_tokens}"
        if self.samples > 1:  # earlier versions drew the first sample too: their rows are another plan's
            settings += "/first greedy"
        parts: list[str | NDArray[Any]] = [settings]
        for c in self.conditions:
            told = [
                c.name,
                c.kind,
                c.verbalizer,
                c.ids,
                c.labels,
                [c.written(at) for at in range(len(c.cards))],
                verbalizers[c.verbalizer].identity,
                *c.flags,
                *([[token.to_json() for token in c.tokens]] if c.tokens else []),
            ]
            parts += [stable_json(told), c.vectors]
        return digest(*parts, *more)


@dataclass(frozen=True, slots=True)
class Done:
    """How many rows were there already, and how many were made."""

    reused: int
    made: int


def execute(
    plan: Plan,
    folder: RunFolder,
    verbalizers: Mapping[str, AnyVerbalizer],
    progress: Progress | None = None,
    *,
    after: int = 0,
) -> Done:
    """Verbalize every condition into the folder, going on from wherever an earlier process stopped.

    Finished batches are never said again, but for rows that ended every worker (`models.shards`); a batch that was cut
    short is said again whole.
    ``after``: rows of earlier parts of the run, which stand before its own.
    ``progress(condition, done, total)`` is called per condition with the rows there already, then after each batch.

    Raises:
        Refusal: on another plan's rows, a missing verbalizer or one of another site, a second writer, a full disk.
        Interrupted: on Ctrl-C; what was finished is on disk.
    """
    _refuse_verbalizers(plan, verbalizers)
    batches = list(plan.batches())
    total = sum(len(b.items) for b in batches)
    made = reused = 0
    try:
        with folder.writing() as rows:
            finished, again = _finished(rows, batches, after)
            if again:
                _said_again(again, rows, plan, verbalizers)
            tally = _Tally(plan, batches[:finished], progress)
            reused = tally.rows
            for batch, found in _said(batches[finished:], plan, verbalizers):
                rows.append(found)
                made += len(batch.items)
                tally.count(batch)
    except KeyboardInterrupt as stop:
        raise Interrupted(
            f"interrupted: {sum(1 for _ in folder.each_row()) - after} of {total} rows are kept in {folder.path}; "
            "run the same command again to go on."
        ) from stop
    return Done(reused, made)


class _Tally:
    """Rows done per condition, told to the progress callback."""

    def __init__(self, plan: Plan, finished: Sequence[Batch], progress: Progress | None) -> None:
        self.progress = progress
        self.total = {c.name: plan.samples * len(c.ids) for c in plan.conditions}
        self.done = dict.fromkeys(self.total, 0)
        for batch in finished:
            self._add(batch)
        self.rows = sum(self.done.values())
        for name in self.total:
            self._tell(name)

    def count(self, batch: Batch) -> None:
        self._add(batch)
        for name in dict.fromkeys(condition.name for condition, _ in batch.items):
            self._tell(name)

    def _add(self, batch: Batch) -> None:
        for condition, _ in batch.items:
            self.done[condition.name] += 1

    def _tell(self, name: str) -> None:
        if self.progress is not None:
            self.progress(name, self.done[name], self.total[name])


def _refuse_verbalizers(plan: Plan, verbalizers: Mapping[str, AnyVerbalizer]) -> None:
    """Every condition's verbalizer is there and reads the stream the vectors live in."""
    for condition in plan.conditions:
        if condition.verbalizer not in verbalizers:
            raise Refusal(
                f"condition '{condition.name}'",
                f"its verbalizer '{condition.verbalizer}' is not among {sorted(verbalizers)}",
                "pass it, or name one of these",
            )
        if condition.site is not None:
            refuse_other_site(
                f"condition '{condition.name}'",
                condition.site,
                verbalizers[condition.verbalizer].site,
            )


def _finished(rows: Rows, batches: Sequence[Batch], after: int) -> tuple[int, dict[int, Batch]]:
    """How many batches are on disk whole, behind the first rows; rows of a batch cut short are cut off.

    And those of their rows that ended every worker, by their place in the file, each as a batch of its own.
    """
    there, ended = list[tuple[Any, ...]](), set[int]()
    for number, r in enumerate(islice(rows.each(), after, None)):
        there.append((r.get("condition"), r.get("sample"), r.get("feature")))
        if ENDED in (r.get("problems") or ()):
            ended.add(number)
    finished = at = 0
    again: dict[int, Batch] = {}
    for batch in batches:
        keys = batch.keys
        found = there[at : at + len(keys)]
        if found != keys[: len(found)]:
            _refuse_rows(rows, after + at)
        if len(found) < len(keys):
            break
        for number, item in enumerate(batch.items, at):
            if number in ended:
                again[after + number] = replace(batch, items=(item,))
        finished, at = finished + 1, at + len(keys)
    if finished == len(batches) and at < len(there):
        _refuse_rows(rows, after + at)
    rows.keep(after + at)
    return finished, again


def _said_again(again: Mapping[int, Batch], rows: Rows, plan: Plan, verbalizers: Mapping[str, AnyVerbalizer]) -> None:
    """Have rows that ended every worker said once more, and put in their places."""
    found = [row for _, (row,) in _said(list(again.values()), plan, verbalizers)]
    whole = rows.read()
    for number, row in zip(again, found, strict=True):
        whole[number] = row
    rows.replace(whole)


def _refuse_rows(rows: Rows, at: int) -> None:
    raise Refusal(
        f"{rows.path}, rows from {at + 1} on",
        "they are not the rows this plan makes there",
        "name a new folder, or ask for the plan they were made by",
    )


def _said(
    batches: Sequence[Batch], plan: Plan, verbalizers: Mapping[str, AnyVerbalizer]
) -> Iterator[tuple[Batch, list[dict[str, object]]]]:
    """Batches, verbalized in order, as rows."""
    for key, together in groupby(batches, key=lambda batch: batch.items[0][0].verbalizer):
        verbalizer, ordered = verbalizers[key], list(together)
        with speaking(verbalizer):
            for batch, said in zip(ordered, answers(verbalizer, [_call(b, plan) for b in ordered]), strict=True):
                yield batch, _verbalized(batch, said, verbalizer.name)


def _call(batch: Batch, plan: Plan) -> Call:
    """What the verbalizer of a batch is asked."""

    def vectors(rows: range) -> Floats:
        return np.stack([condition.vectors[at] for condition, at in batch.items[rows.start : rows.stop]])

    how = {"temperature": plan.temperature_of(batch.sample), "max_new_tokens": plan.max_new_tokens}
    return Call(count=len(batch.items), vectors=vectors, seed=batch.seed, **how)


def _verbalized(batch: Batch, said: Sequence[Explanation], name: str) -> list[dict[str, object]]:
    if len(said) != len(batch.items):
        raise Refusal(
            f"verbalizer {name}",
            f"it gave {len(said)} explanations for {len(batch.items)} vectors",
            "report this as a fault of that verbalizer",
        )
    return [condition.row(at, batch.sample, one) for (condition, at), one in zip(batch.items, said, strict=True)]
