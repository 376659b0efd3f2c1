"""A verbalizer that is open in workers of a Ray cluster, to which its calls are dealt.

In: a verbalizer's reference, how it is opened, a cluster. Out: a verbalizer that tells what a run has to know of it,
and answers calls in order. Refuses workers of other versions or other files, those that end whenever they open the
verbalizer or are asked about it, and what ``shards`` refuses.

One worker opens the verbalizer first, is asked what it is and looked at by the doctor. Where texts are to be read it
ends then, as they want the memory, and all are started when it speaks. What a worker does not survive, `shards` deals
again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from numpy.typing import NDArray

from dragoman.core import Explanation, Refusal, Site, Talk
from dragoman.models.ray_workers import Cluster, Ended, Workers, heard, ray_of, refusing, settled
from dragoman.models.shards import Deal, Shard
from dragoman.verbalizers.protocol import Call

_TOLD = ("name", "site", "width", "identity", "together", "reads_length", "trained_on_rows", "engine", "stamps")
_AGAIN = "look whether dragoman doctor says the same"


class Pool(Workers):
    """A verbalizer that is open in workers, while it speaks.

    It tells what a run asks of one: ``name``, ``site``, ``width``, ``identity``, ``together``, ``reads_length``,
    ``trained_on_rows``, ``engine``.
    """

    name: str
    site: Site
    width: int
    identity: dict[str, object]
    together: int
    reads_length: bool
    trained_on_rows: bool
    engine: str

    def __init__(
        self,
        ref: str,
        how: Mapping[str, Any],
        where: Cluster,
        look: Callable[[Any], object],
        talk: Talk,
        *,
        stays: bool = False,
    ) -> None:
        """Have one worker open it, tell what it is, and end.

        Args:
            ref: its reference.
            how: it is opened, as for ``Verbalizer.open``.
            where: its workers run.
            look: refuses it where something is wrong with it; found by its name in the worker.
            talk: where it is told of workers that come and end.
            stays: all workers are started at once, and stay to speak.
        """
        super().__init__(f"verbalizer {ref}", where, how.get("device", "cpu"), talk)
        self._ref, self._how, self._speaking = ref, dict(how), False
        try:
            self.first(where.workers if stays else 1)
            self.__dict__ |= self._asked(self._idle[0], _told)
            self._asked(self._idle[0], look)
        except BaseException:
            self.close()
            raise
        if not stays:
            self.close()

    def __repr__(self) -> str:
        """Its name, what it reads, where it is."""
        return f"Pool({self.name!r} at {self.site}, {self._cluster.workers} workers of {self._cluster.where})"

    def kind(self) -> type:
        """One open verbalizer."""
        return _Worker

    def asked(self) -> tuple[Any, ...]:
        """Its reference, and how it is opened."""
        return self._ref, self._how

    @contextmanager
    def speaking(self) -> Iterator[None]:
        """Inside, its workers stay."""
        if self._speaking:
            yield
            return
        self._speaking = True
        try:
            yield
        finally:
            self._speaking = False
            self.close()

    def verbalize(
        self, vectors: NDArray[Any], *, temperature: float = 0.0, seed: int = 0, max_new_tokens: int = 200
    ) -> list[Explanation]:
        """As the verbalizer itself."""
        how = {"temperature": temperature, "seed": seed, "max_new_tokens": max_new_tokens}
        call = Call(count=len(vectors), vectors=lambda rows: vectors[rows.start : rows.stop], **how)
        return next(self.answers([call]))

    def answers(self, calls: Sequence[Call]) -> Iterator[list[Explanation]]:
        """What each call is answered, in order.

        A row that no worker survives has no text and the problem ``records.ENDED``.

        Raises:
            Refusal: as the module says.
        """

        def say(worker: Any, shard: Shard) -> Any:
            call = calls[shard.call]
            return worker.say.remote(call.vectors(shard.rows), call.settings)

        with self.speaking():
            yield from self.dealt(Deal([call.count for call in calls], self._cluster.workers), say)

    def check(self, worker: Any, told: Mapping[str, Any]) -> None:
        """Refuse a worker of other files."""
        mine = self.__dict__.get("stamps")
        if mine not in (None, told["stamps"]) and self._asked(worker, _told)["identity"] != self.identity:
            why = f"its files of {self._what} are others than those that were looked at"
            raise Refusal(f"a worker on {told['host']}", why, "give all nodes the same files")

    def _asked(self, worker: Any, question: Callable[[Any], Any]) -> Any:
        """What a worker's verbalizer is asked."""
        found = heard(ray := ray_of(), worker.ask.remote(question))
        if isinstance(found, Ended):
            with suppress(Exception):
                ray.kill(worker)
            raise Refusal(self._what, f"its worker ended while it was looked at ({found.why})", _AGAIN)
        return found


class _Worker:
    """One open verbalizer. What it refuses is an answer: only a worker that has failed raises."""

    def __init__(self) -> None:
        self._opened: Any = None

    def open(self, ref: str, how: Mapping[str, Any], folder: str, threads: int) -> Any:
        """Open it as the driver would."""
        from dragoman.models.decode import Verbalizer

        def told() -> dict[str, object]:
            self._opened = Verbalizer.open(ref, **how)
            return {"stamps": self._opened.stamps, **placed}

        placed = settled(folder, threads)

        return refusing(told)

    def ask(self, question: Callable[[Any], Any]) -> Any:
        """Of the verbalizer."""
        return refusing(lambda: question(self._opened))

    def say(self, vectors: NDArray[Any], settings: Mapping[str, Any]) -> Any:
        """One explanation a row."""
        return refusing(lambda: self._opened.verbalize(vectors, **settings))


def _told(opened: Any) -> dict[str, object]:
    """What a run asks of a verbalizer."""
    return {name: getattr(opened, name) for name in _TOLD}
