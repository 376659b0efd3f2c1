"""Read two models over the same texts, token by token, in one pass: everything a crossing is made from.

In: two readers, texts, the SAE's encoder if there is one. Out: ``Aligned``: moments by fold, the direct route's and the
dictionary's sums, backgrounds, and a report of what was left out and why. Refuses texts that share no token ends, too
few of them, dictionaries whose sums would not fit, more outliers than sinks explain, and more than 1 % of rows that are
not finite.

A pair is two tokens, one of each model, that end at the same character of the same text: equal ends are equal prefixes.
Nothing that is chosen depends on batches or on the order of the texts: documents are named by the digest of their text
(a text that comes twice, or differs behind what is read, counts once), which settles their fold, which of their pairs
are kept, and the few texts read beforehand that settle the median norms and the calibration features. Sums then differ
by rounding only.

Memory besides the models, from Qwen2.5-7B (p = 3584) to Gemma-3-27B (q = 5376) with 4096 features watched: moments by
fold 2.9 GB while reading (``maps.moments``); sums of firings 8 M (p + q) = 0.29 GB; features that fire together 12
bytes a pair, at most 0.2 GB; calibration 5 x 512 x 8 q = 0.11 GB; one batch of rows 32 x 256 x 4 (p + 2 q) = 0.47 GB,
its 2048 kept pairs as float64 0.15 GB; pairs held out 4096 x 4 (p + q) = 0.15 GB; where each feature fires,
a few megabytes, and on which words, 64 MB. In all 4.3 GB, whatever the number of texts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from dragoman.core import Background, Refusal, frozen
from dragoman.dictionaries import Encoder
from dragoman.maps.aligned import Aligned, FiringsTally, HeldOutPairs
from dragoman.maps.firing_tokens import Fired, TokenTally
from dragoman.maps.words import WordTally
from dragoman.models.batches import Batch
from dragoman.models.behind import ahead, one_behind
from dragoman.models.encoding import Encodes, encoding_of
from dragoman.models.fused import fused_norms
from dragoman.models.harvest import Progress, Reader, on_host
from dragoman.models.in_order import InOrder, places
from dragoman.models.paired import (
    SIDES,
    Document,
    ReadingOptions,
    at_most_each,
    batch_name,
    calibrating,
    distinct,
    held_out_documents,
    in_batches,
    read_apart,
    refuse_other_width,
)
from dragoman.models.pairing import Pairing, Pairs, refuse_odd_pairs
from dragoman.models.pilot import Pilot, look_first
from dragoman.models.sums import Firing, Watched, pair_sums
from dragoman.store import digest, refuse_alike
from dragoman.store.spool import Spool

ROOM = 2e9  # bytes of sums over firings
Documents = Sequence[Document]
Tokens = tuple[Batch, Batch]


class ReadsBatches(Protocol):
    """Processes that have both models open and read batches; sums are taken here, whoever reads.

    ``ahead``: how many batches may be on their way or wait to be summed.
    """

    ahead: int

    def pairs(self, deal: InOrder[Documents], typical: Mapping[str, float], options: ReadingOptions) -> Iterator[Pairs]:
        """The pairs of every batch, in order; refuses a batch that ends every worker."""
        ...


def read_aligned(
    source: Reader,
    target: Reader,
    texts: Sequence[str],
    encoder: Encoder | None = None,
    *,
    options: ReadingOptions | None = None,
    progress: Progress | None = None,
    spool: Spool | None = None,
    device: str | None = None,
    every: bool = False,
    workers: ReadsBatches | None = None,
) -> Aligned:
    """Read every text once with both models and keep the sums; refused as the module says.

    Nothing is written but into ``spool``, where batches are kept until all is read: with it, a reading that was cut
    short goes on where it stopped, to the same sums. Longest texts come first, so that memory is at its most at the
    start. ``source``: the model whose features are carried into ``target``. ``texts``: one document each.
    ``encoder``: the SAE's, at the source; without it the direct and dictionary routes and their checks are left out.
    ``progress``: called with documents read and their number. ``device``: where activations stay and are summed, in
    float64, while the next batch is read; in numpy where none is named. ``every``: whether all features get direct rows
    there, not the watched ones alone. ``workers``: who reads the batches, if not this process; batches are the same
    and are summed in the same order, so sums are too. ``source`` and ``target`` then need no model of their own.
    """
    options = options or ReadingOptions()
    if encoder is not None:
        refuse_other_width(encoder, source)
    documents, left = distinct(texts)
    refuse_alike(texts, 2 * options.folds, f"{options.folds} folds of documents are judged on one another")
    documents, most = read_apart(documents, (source, target), options.max_tokens), len(documents)
    left["copy"] += most - len(documents)
    if len(documents) < 2 * options.folds:
        why = f"they differ behind the {options.max_tokens} tokens that are read of each, which leaves {len(documents)}"
        raise Refusal(f"{most} texts", why, f"give at least {2 * options.folds} that begin otherwise")
    columns = _columns(source, target, encoder, options)
    encoding = encoding_of(encoder, device) if encoder is not None else None
    pilot = look_first(source, target, [d.text for d in documents], encoding, options)
    reading = _Reading(source, target, encoding, columns, documents, pilot, options, spool, device, every=every)
    batches = list(in_batches(documents, options))
    if workers is None:
        read, beside = reading.read(batches), device
    else:
        read, beside = reading.dealt(batches, texts, workers), device or "cpu"  # workers are to wait for no sum
    done = 0
    models, own = (lambda: (source.model, target.model)), device if workers is None else None
    with fused_norms(own, models), one_behind(beside) as count:
        for batch, tokens, pairs in read:
            count(partial(reading.take, batch, tokens, pairs))
            done += len(batch)
            if progress:
                progress(done, len(documents))
    return reading.finish(len(texts), left, digest("\n".join(texts)))


def _columns(
    source: Reader, target: Reader, encoder: Encoder | None, options: ReadingOptions
) -> NDArray[np.int64] | None:
    """Columns of the watched features; refuses unknown ones, and more than there is room for."""
    if encoder is None:
        return None
    for name in (*(options.watched or ()), *(options.calibration or ())):
        if not (name.isdecimal() and len(name) < 19 and int(name) < encoder.d_sae):
            raise Refusal(f"feature {name}", f"the dictionary has 0 to {encoder.d_sae - 1}", "name one of these")
    columns = np.arange(encoder.d_sae)
    if options.watched is not None:
        columns = np.array(sorted({int(name) for name in (*options.watched, *(options.calibration or ()))}), np.int64)
    if not len(columns):
        raise Refusal("watching no feature", "there is nothing to count", "name some, or read without an encoder")
    need = 8.0 * len(columns) * (source.width + target.width)
    if need > ROOM:
        raise Refusal(
            f"watching {len(columns)} features",
            f"their sums would take {need / 1e9:.1f} GB, and {ROOM / 1e9:g} GB are allowed",
            "name the features that matter, and a few thousand others as rivals",
        )
    return columns


class _Reading:
    """The pass over all documents: holds sums, one batch of rows, and the pairs held out."""

    def __init__(
        self,
        source: Reader,
        target: Reader,
        encoding: Encodes | None,
        columns: NDArray[np.int64] | None,
        documents: Sequence[Document],
        pilot: Pilot,
        options: ReadingOptions,
        spool: Spool | None = None,
        device: str | None = None,
        *,
        every: bool = False,
    ) -> None:
        self.spool = spool
        self.source, self.target, self.encoding, self.device = source, target, encoding, device
        self.pilot, self.options = pilot, options
        self.counts: Counter[str] = Counter()
        self.tokens: dict[str, Counter[str]] = {side: Counter() for side in SIDES}
        self.fold, self.held_out, self.quota = held_out_documents([d.name for d in documents], options.folds)
        self.kept: list[HeldOutPairs] = []
        self.watched = self.firings = self.words = self.around = None
        if encoding is not None and columns is not None:
            self.watched = Watched(columns=columns, chosen=calibrating(pilot.fires, columns, options))
            ids = self.watched.ids
            self.firings = FiringsTally(ids, seed=options.seed)
            self.words, self.around = WordTally(ids), TokenTally(len(ids))
        sites, widths = (source.site, target.site), (source.width, target.width)
        product = getattr(np, options.product)
        self.sums = pair_sums(
            sites, widths, options.folds, self.watched, encoding, device=device, product=product, every=every
        )

    def read(self, batches: Sequence[Documents]) -> Iterator[tuple[Documents, Tokens | None, Pairs]]:
        """Every batch, its tokens where they were made beforehand, and its pairs: kept before, or read now."""
        stay = self.device is not None
        pairing = Pairing(
            source=self.source, target=self.target, typical=self.pilot.typical, options=self.options, stay=stay
        )

        def prepared(documents: Documents) -> tuple[Pairs | None, Tokens | None]:
            kept = self._kept(documents)
            return kept, pairing.prepared(documents) if stay and kept is None else None

        for batch, (kept, tokens) in ahead(prepared, batches, beside=stay):
            yield batch, tokens, kept if kept is not None else pairing.pairs(batch, tokens)

    def dealt(
        self, batches: Sequence[Documents], texts: Sequence[str], workers: ReadsBatches
    ) -> Iterator[tuple[Documents, None, Pairs]]:
        """The same, where workers read; a batch that none survives is named by its places in ``texts``."""

        def named(documents: Documents) -> str:
            return places((d.text for d in documents), texts)

        deal = InOrder(batches, workers.ahead, named=named, kept=self._kept)
        for batch, pairs in zip(batches, workers.pairs(deal, self.pilot.typical, self.options), strict=True):
            yield batch, None, pairs

    def _kept(self, documents: Documents) -> Pairs | None:
        """The pairs of a batch, if they were kept before."""
        kept = self.spool.get(batch_name(documents)) if self.spool is not None else None
        return None if kept is None else Pairs.of(kept, again=True)

    def take(self, documents: Documents, tokens: Tokens | None, pairs: Pairs) -> None:
        """Add a batch to every sum and count, and keep it if it was read just now."""
        if self.spool is not None and not pairs.again and self.spool.room:
            self.spool.keep(batch_name(documents), *pairs.kept)
        self.counts.update(pairs.counted["counts"])
        for side in SIDES:
            self.tokens[side].update(pairs.counted[side])
        if not len(pairs.documents):
            return
        fired = self.sums.add(pairs.x, pairs.y, pairs.documents)
        self._keep_held_out(pairs)
        if fired is None or not (self.firings and self.words and self.around):
            return
        self.firings.add(fired, pairs.documents, pairs.ends)
        self.around.add(self.firings, *self._tokens(documents, tokens, pairs, fired))
        text_of = {d.name: d.text for d in documents}
        self.words.add(fired, [text_of[name] for name in pairs.documents.tolist()], pairs.ends)

    def _tokens(
        self, documents: Documents, tokens: Tokens | None, pairs: Pairs, fired: csr_array
    ) -> tuple[list[int], list[Fired], list[NDArray[np.int64]]]:
        """Names of documents, activations at all of their tokens, and where all of these end."""
        parts = [Fired(fired=fired, documents=pairs.documents, ends=pairs.ends)]
        if self.encoding is not None and self.watched is not None and len(pairs.rest_x):
            rest = self.encoding.sparse(pairs.rest_x, self.watched.columns)
            parts.append(Fired(fired=rest, documents=pairs.rest_documents, ends=pairs.rest_ends))
        if tokens is not None:
            ends = [tokens[0].ends[k] for k in range(len(documents))]
        else:
            ends = self.source.ends([d.text for d in documents], max_tokens=self.options.max_tokens)
        return [d.name for d in documents], parts, ends

    def _keep_held_out(self, pairs: Pairs) -> None:
        mine = np.isin(pairs.documents, self.held_out)
        mine[mine] = at_most_each(pairs.documents[mine], self.quota, self.options.seed + 1)
        if mine.any():
            x, y = on_host(pairs.x[mine]), on_host(pairs.y[mine])
            self.kept.append(HeldOutPairs(fold=self.fold, x=x, y=y, documents=pairs.documents[mine]))

    def finish(self, given: int, left: Counter[str], texts: str) -> Aligned:
        """Everything that was counted."""
        n = self.counts["pairs"]
        refuse_odd_pairs(self.counts, self.tokens, (self.source, self.target), some=bool(self.kept))
        source, target = self.source.site, self.target.site
        firings = self.firings.finish() if self.firings else None
        summed = self.sums.finish()
        own, theirs = ((total / n).astype(np.float32) for total in summed.units)
        return Aligned(
            source=source,
            target=target,
            folded=summed.folded,
            sums=summed.firing.target if summed.firing else None,
            fired=summed.firing.source if summed.firing else None,
            calibration=summed.firing.calibration if summed.firing else None,
            background=Background(target, frozen(theirs), n, texts),
            source_background=Background(source, frozen(own), n, texts),
            held_out=_sorted(self.kept, self.fold),
            report=self._report(given, left, summed.firing),
            table=summed.table,
            firings=firings,
            words=self.words.finish() if self.words else None,
            tokens=self.around.finish(firings) if self.around and firings else None,
        )

    def _report(self, given: int, left: Counter[str], firing: Firing | None) -> dict[str, object]:
        """What was read and what was left out; every number counted, none estimated."""
        c, options = self.counts, self.options
        whys = ("early", "outlier at source", "outlier at target", "above the most of one document")
        tokens = {}
        for side, found in self.tokens.items():
            without = {why: found[why] for why in ("special", "first", "not finite", "no shared end")}
            tokens[side] = {"all": sum(without.values()) + c["shared ends"], "left out": without}
        unpaired = given - sum(left.values()) - c["documents"]
        return {
            "texts": given,
            "texts_left_out": {"blank": left["blank"], "copy": left["copy"], "without a pair": unpaired},
            "documents": c["documents"],
            "tokens": tokens,
            "shared_ends": c["shared ends"],
            "paired": {
                s: c["shared ends"] / max(c["shared ends"] + n["no shared end"], 1) for s, n in self.tokens.items()
            },
            "pairs_left_out": {why: c[why] for why in whys},
            "pairs": c["pairs"],
            "outliers": (c["outlier at source"] + c["outlier at target"]) / max(c["judged by norm"], 1),
            "median_norms": self.pilot.typical,
            "pilot_documents": self.pilot.documents,
            "watched": len(firing.target.ids) if firing else 0,
            "calibration": len(firing.calibration[0].ids) if firing and firing.calibration else 0,
            "manner": {
                k: getattr(options, k) for k in ("first", "per_document", "folds", "max_tokens", "seed", "product")
            },
        }


def _sorted(kept: Sequence[HeldOutPairs], fold: int) -> HeldOutPairs:
    """Pairs held out, in the order of their documents' names, whatever order they were read in."""
    documents = np.concatenate([pairs.documents for pairs in kept])
    order = np.argsort(documents, kind="stable")
    x, y = (np.concatenate([getattr(pairs, side) for pairs in kept])[order] for side in ("x", "y"))
    return HeldOutPairs(fold=fold, x=frozen(x), y=frozen(y), documents=frozen(documents[order], np.int64))
