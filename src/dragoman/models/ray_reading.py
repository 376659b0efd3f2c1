"""Two models that are open in workers of a Ray cluster, which read batches of texts for a driver that has neither.

In: two sites, in what and on what they are opened, a cluster; batches. Out: what the driver has to know of both models
(``Afar``), and the pairs of every batch, in order. Refuses workers of other versions or other files, those that end
whenever they open the models, a batch that ends three of them, and what opening and reading refuse.

A worker has both models open up to their blocks. What it reads comes back as it is kept by a reading cut short: rows on
the host and counts. Sums are the driver's, over the same batches in the same order, so they are those of a reading
without workers wherever the same numbers are read: on the same kind of device, with as many threads on a CPU.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from dragoman.core import Refusal, Site, Talk
from dragoman.models.aligned import Documents
from dragoman.models.fused import fused_norms
from dragoman.models.harvest import PILOT, TokenRows, ends_of, open_both, pilot_texts
from dragoman.models.in_order import InOrder, Piece, places
from dragoman.models.load import fingerprint_of_model, load_tokenizer
from dragoman.models.paired import SIDES, ReadingOptions
from dragoman.models.pairing import Pairing, Pairs
from dragoman.models.ray_workers import Cluster, Workers, refusing, settled
from dragoman.models.sizes import model_ref
from dragoman.store.spool import Kept

AHEAD = 2  # batches a worker that are on their way, or wait to be summed
_FIRST = (
    "look without --on what is wrong, ask for fewer workers where they lack memory, or leave out all of these at once: "
    "others are then read first, and if they end workers too, it is not the texts"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Afar:
    """A model that is open in workers; it tells what a driver asks of a ``Reader``, but for the model itself."""

    site: Site
    side: str
    width: int
    dtype: str
    tokenizer: PreTrainedTokenizerFast
    pool: ReadingPool

    def pilot(self, texts: Sequence[str]) -> TokenRows:
        """As `Reader.pilot`, by one of the workers."""
        return self.pool.pilot(self.side, texts)

    def ends(self, texts: Sequence[str], *, max_tokens: int) -> list[NDArray[np.int64]]:
        """As `Reader.ends`."""
        return ends_of(self.tokenizer, texts, max_tokens)


class ReadingPool(Workers):
    """Workers with both models open. ``ahead``: see ``aligned.ReadsBatches``."""

    def __init__(
        self,
        source: Site,
        target: Site,
        how: Mapping[str, Any],
        where: Cluster,
        talk: Talk,
        *,
        texts: Sequence[str],
        most: int,
        summed: str | None = None,
    ) -> None:
        """Have workers open both models; one is there when this returns.

        Args:
            source: read with the first model.
            target: read with the second.
            how: they are opened, as for ``Reader.open``: ``dtype`` and ``device``.
            where: workers run.
            talk: where it is told of workers that come and end.
            texts: to be read; those that no worker survives are named by their places among them.
            most: batches there are to be read, at most.
            summed: the device of the driver's sums, in numpy when None: models compute as beside such sums.
        """
        what = " and ".join(dict.fromkeys((model_ref(source), model_ref(target))))
        super().__init__(f"reading with {what}", where, how["device"], talk)
        self._sites, self._how, self._summed, self._texts = (source, target), dict(how), summed, texts
        self._files = [fingerprint_of_model(model_ref(site)) for site in self._sites]
        self._told: Mapping[str, Any] = {}
        self.ahead = AHEAD * where.workers
        self.first(max(1, min(where.workers, most)))

    def __enter__(self) -> ReadingPool:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End its workers."""
        self.close()

    @property
    def readers(self) -> tuple[Any, Any]:
        """Both models, as `Afar` tells of them."""
        first, second = (
            Afar(site=site, side=side, tokenizer=load_tokenizer(model_ref(site)), pool=self, **self._told[side])
            for side, site in zip(SIDES, self._sites, strict=True)
        )
        return first, second

    def kind(self) -> type:
        """Two open models."""
        return _Worker

    def asked(self) -> tuple[Any, ...]:
        """Where they are read, and how they are opened."""
        return *self._sites, self._how, self._summed

    def check(self, worker: Any, told: Mapping[str, Any]) -> None:
        """Refuse a worker of other files."""
        for site, found, ours in zip(self._sites, told["files"], self._files, strict=True):
            if found != ours:
                why = f"its files of model {model_ref(site)} are others than those here"
                raise Refusal(f"a worker on {told['host']}", why, "give all nodes the same files")
        self._told = told

    def pilot(self, side: str, texts: Sequence[str]) -> TokenRows:
        """The rows of the texts that are read beforehand, with one of the models.

        Which they are goes by their digests: one that is left out alone has another read in its place.
        """
        chosen = [texts[i] for i in pilot_texts(texts, PILOT)]
        model = model_ref(self._sites[SIDES.index(side)])
        deal = InOrder(
            [chosen], 1, named=lambda few: f"{places(few, self._texts)}, read first by {model}", instead=_FIRST
        )
        (rows,) = self.dealt(deal, lambda worker, _piece: worker.pilot.remote(side, chosen))
        return rows

    def pairs(self, deal: InOrder[Documents], typical: Mapping[str, float], options: ReadingOptions) -> Iterator[Pairs]:
        """The pairs of every batch, in order."""

        def read(worker: Any, piece: Piece) -> Any:
            return worker.read.remote(deal.pieces[piece.number], dict(typical), options)

        return self.dealt(deal, read)

    def taken(self, found: Any) -> Any:
        """Pairs out of Ray's store, in which there is room for few of them."""
        if isinstance(found, TokenRows):
            return found
        arrays, counted = found
        return Pairs.of(({name: np.array(rows) for name, rows in arrays.items()}, counted))


class _Worker:
    """Both models, open up to their blocks. What they refuse is an answer: only a worker that has failed raises."""

    def __init__(self) -> None:
        self._readers: tuple[Any, Any] = (None, None)
        self._summed: str | None = None
        self._norms: ExitStack | None = None

    def open(
        self, source: Site, target: Site, how: Mapping[str, Any], summed: str | None, folder: str, threads: int
    ) -> Any:
        """Open them as the driver would."""

        def told() -> dict[str, object]:
            self._readers, self._summed = open_both(source, target, **how), summed
            files = [fingerprint_of_model(model_ref(site)) for site in (source, target)]
            sides = zip(SIDES, self._readers, strict=True)
            return {"files": files, **placed, **{side: {"width": r.width, "dtype": r.dtype} for side, r in sides}}

        placed = settled(folder, threads)
        return refusing(told)

    def pilot(self, side: str, texts: Sequence[str]) -> Any:
        """Rows of the texts that are read beforehand."""
        return refusing(lambda: self._readers[SIDES.index(side)].pilot(texts))

    def read(self, documents: Documents, typical: Mapping[str, float], options: ReadingOptions) -> Any:
        """Pairs of a batch and what was left out, as they are kept."""
        source, target = self._readers
        stay = self._summed is not None
        pairing = Pairing(source=source, target=target, typical=typical, options=options, stay=stay)

        def kept() -> Kept:
            if self._norms is None:  # not before: the pilot is read without
                self._norms = ExitStack()
                self._norms.enter_context(fused_norms(self._summed, lambda: (source.model, target.model)))
            return pairing.pairs(documents, pairing.prepared(documents) if stay else None).kept

        return refusing(kept)
