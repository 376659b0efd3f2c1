"""Read two models over the same texts to see which latents of one's dictionary fire where features of the other's do.

In: two readers, texts, an encoder at either site, columns of the first. Out: ``Matched``. Refuses what pairs of tokens
are refused for (``models.pairing``) and what ``maps.matching`` refuses. Holds a batch of rows, and sums.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dragoman.maps.matching import CoActivation, Matched
from dragoman.models.encoding import Encodes
from dragoman.models.harvest import Progress, Reader
from dragoman.models.paired import SIDES, ReadingOptions, batch_name, distinct, in_batches, read_apart
from dragoman.models.pairing import Pairing, Pairs, refuse_odd_pairs
from dragoman.models.pilot import look_first
from dragoman.store import refuse_alike
from dragoman.store.spool import Spool


def read_matching(
    source: Reader,
    target: Reader,
    texts: Sequence[str],
    first: Encodes,
    columns: NDArray[np.int64],
    second: Encodes,
    *,
    options: ReadingOptions,
    spool: Spool,
    progress: Progress | None = None,
    stay: bool = False,
) -> Matched:
    """Read every text once with both models.

    Args:
        source: where the features are read.
        target: where the latents are.
        texts: one document each.
        first: the features' encoder.
        columns: which of its features.
        second: the latents' encoder, of which all are looked at.
        options: how texts are read; nothing of what it watches.
        spool: where pairs are kept until all is read, so that a reading cut short goes on.
        progress: called with documents read and their number.
        stay: whether rows stay on the models' device until they are encoded.

    Raises:
        Refusal: as the module says.
    """
    sums = CoActivation(len(columns), second.encoder.d_sae)
    documents, _ = distinct(texts)
    refuse_alike(texts, 2 * options.folds, f"{options.folds} folds of documents are judged on one another")
    documents = read_apart(documents, (source, target), options.max_tokens)
    typical = look_first(source, target, [d.text for d in documents], None, options).typical
    pairing = Pairing(source=source, target=target, typical=typical, options=options, stay=stay)
    counts, tokens = Counter[str](), {side: Counter[str]() for side in SIDES}
    done = 0
    for batch in in_batches(documents, options):
        kept = spool.get(batch_name(batch))
        pairs = pairing.pairs(batch) if kept is None else Pairs.of(kept, again=True)
        if kept is None and spool.room:
            spool.keep(batch_name(batch), *pairs.kept)
        counts.update(pairs.counted["counts"])
        for side in SIDES:
            tokens[side].update(pairs.counted[side])
        if len(pairs.documents):
            sums.add(first.sparse(pairs.x, columns), second.sparse(pairs.y), pairs.documents)
        done += len(batch)
        if progress:
            progress(done, len(documents))
    refuse_odd_pairs(counts, tokens, (source, target), some=True)
    return sums.matched()
