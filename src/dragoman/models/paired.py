"""Read two models over the same texts: what maps and the direct route are made from.

In: two sites, texts, an SAE encoder for the direct route. Out: pooled rows for the post's map; direct-route statistics;
for reading token by token (`aligned`), ``ReadingOptions`` and what is chosen by the texts themselves. Refuses numbers
that leave nothing to read or to judge on. Streams documents; holds one chunk of activations at a time.

No choice depends on batches or on the order of the texts: a document is named by the digest of its text, and every draw
has a generator of the document's own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dragoman.core import Background, Floats, Refusal, Site, frozen
from dragoman.dictionaries import Encoder
from dragoman.maps import FiringSums
from dragoman.maps.moments import FOLDS, PER_DOCUMENT, fold_of
from dragoman.models.encode import shared_cuts
from dragoman.models.harvest import (
    MAX_TOKENS,
    Progress,
    Reader,
    encoded_whole,
    pool,
    refuse_undefined,
    shared_ends,
    token_rows,
)
from dragoman.models.sums import DeviceFirings, HostFirings
from dragoman.store import Contents, digest, document_name, write_arrays

CHUNK = 128  # documents read at a time
SIDES = ("source", "target")
LeftOut = Mapping[str, Mapping[str, int]]  # side -> rows kept, outliers, not finite
_FILE = Contents(
    called="a harvest",
    holds="harvest",
    origin="dragoman harvest",
    arrays={"x": "np", "y": "nq", "source_background": "p", "background": "q"},
    words={"source": str, "target": str, "n": int, "source_n": int, "texts": str, "left_out": dict},
)
FIRST = 10  # least token position: before it streams differ from later ones, and no verbalizer was trained there
CANDIDATES = 512  # features among which 150 calibrate the penalty
HELD_OUT = 4096  # pairs kept whole
_HEAD = 32  # characters: what differs there is read, whatever the tokenizer


def direct_statistics(
    source: Reader,
    target: Reader,
    encoder: Encoder,
    texts: Sequence[str],
    *,
    progress: Progress | None = None,
    device: str | None = None,
) -> tuple[FiringSums, Background, LeftOut]:
    """Where each latent fires in the source, what the target holds there, its background, and what was left out.

    ``device``: where activations stay and are summed, in float64; in numpy where none is named.

    Raises:
        Refusal: the encoder's width is not the source's, no token end is shared, or too many rows are not finite.
    """
    refuse_other_width(encoder, source)
    typical = [reader.typical(texts) for reader in (source, target)]
    stats = FiringSums(target.site, range(encoder.d_sae), target.width)
    sums: Any = HostFirings(stats, encoder) if device is None else DeviceFirings(stats, encoder, device)
    count = 0
    tally = {side: Counter[str]() for side in SIDES}
    for start in range(0, len(texts), CHUNK):
        piece = texts[start : start + CHUNK]
        stay = device is not None
        x, y = source.rows(piece, typical[0], stay=stay), target.rows(piece, typical[1], stay=stay)
        for side, rows in zip(SIDES, (x, y), strict=True):
            tally[side].update(counted(len(rows.x), rows.dropped, rows.undefined))
        left, right = shared_ends(x, y)
        if not len(left):
            for side, reader in zip(SIDES, (source, target), strict=True):
                refuse_tally(tally[side], reader)
            raise Refusal("these texts", "the two tokenizers share no token end in them", "give running text")
        sums.add(x.x[left], y.x[right], x.document[left] + start)
        count += len(left)
        if progress:
            progress(min(start + CHUNK, len(texts)), len(texts))
    if not count:
        why = "the direct route needs texts in which features fire"
        raise Refusal("an empty list of texts", why, "pass --texts FILE")
    for side, reader in zip(SIDES, (source, target), strict=True):
        refuse_tally(tally[side], reader)
    mean: Floats = (sums.finish() / count).astype(np.float32)
    return stats, Background(target.site, mean, count, digest("\n".join(texts))), tally


def counted(kept: int, dropped: int, undefined: int) -> dict[str, int]:
    """What became of one model's rows."""
    return {"kept": kept, "outliers": dropped - undefined, "not finite": undefined}


def refuse_tally(tally: Mapping[str, int], reader: Reader) -> None:
    """Refuse a reading of which too many rows are not finite."""
    refuse_undefined(tally["not finite"], sum(tally.values()), reader.site, reader.dtype)


def told_left_out(left_out: LeftOut, source: Site, target: Site) -> list[str]:
    """A sentence for each model of which rows that are not finite were left out."""
    sites = {"source": source, "target": target}
    return [
        f"left out {n['not finite']} of {sum(n.values())} activations of {sites[side]} that are not finite"
        for side, n in left_out.items()
        if n.get("not finite")
    ]


def refuse_other_width(encoder: Encoder, source: Reader) -> None:
    """Refuse an SAE of another width than the source's stream."""
    if encoder.d_in != source.width:
        why = f"the source stream is {source.width} wide"
        raise Refusal(f"an SAE of width {encoder.d_in}", why, "use an SAE of that model")


@dataclass(frozen=True, slots=True, kw_only=True)
class Harvest:
    """What the post's map is fitted on: one pooled row per text and model, and the target's background.

    ``x``: (texts, d_source) and ``y``: (texts, d_target), float32. The backgrounds: mean unit activation over all
    tokens, at either site. ``left_out``: what became of each model's rows.
    """

    source: Site
    target: Site
    x: Floats
    y: Floats
    source_background: Background
    background: Background
    left_out: LeftOut = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write to one file."""
        words = {
            "holds": "harvest", "source": str(self.source), "target": str(self.target), "n": self.background.n,
            "source_n": self.source_background.n, "texts": self.background.texts,
            "left_out": {side: dict(counts) for side, counts in self.left_out.items()},
        }  # fmt: skip
        means = {"source_background": self.source_background.mean, "background": self.background.mean}
        write_arrays(path, {"x": self.x, "y": self.y, **means}, words)

    @classmethod
    def load(cls, path: Path) -> Harvest:
        """Read what ``save`` wrote."""
        arrays, meta = _FILE.read(path)
        source, target = Site.parse(meta["source"]), Site.parse(meta["target"])
        own = Background(source, frozen(arrays["source_background"]), meta["source_n"], meta["texts"])
        background = Background(target, frozen(arrays["background"]), meta["n"], meta["texts"])
        rows = {"x": arrays["x"], "y": arrays["y"], "left_out": meta["left_out"]}
        return cls(source=source, target=target, source_background=own, background=background, **rows)


def harvest(source: Reader, target: Reader, texts: Sequence[str], *, progress: Progress | None = None) -> Harvest:
    """Pool both models over the same characters of the same texts (the post's way) and keep the target's background.

    Where a text is too long for one of the models, both read it up to the last token end that they share.
    ``progress`` counts texts over both models.

    Raises:
        Refusal: as ``pool`` does, or every text gives one and the same row.
    """
    total, until = 2 * len(texts), cuts_of(source, target, texts)
    pooled = []
    for turn, reader in enumerate((source, target)):
        say = _shifted(progress, turn * len(texts), total) if progress else None
        pooled.append(pool(reader, texts, until=until, progress=say))
    x, y = pooled[0], pooled[1]
    for reader, one in zip((source, target), pooled, strict=True):
        if not np.ptp(one.rows, axis=0).any():
            why = f"every one gives the same row at {reader.site}"
            raise Refusal(f"{len(texts)} texts", why, "give texts that differ more")
    key = digest("\n".join(texts))
    return Harvest(
        source=source.site,
        target=target.site,
        x=x.rows,
        y=y.rows,
        source_background=Background(source.site, frozen(x.unit_mean), x.tokens, key),
        background=Background(target.site, frozen(y.unit_mean), y.tokens, key),
        left_out={
            side: counted(one.tokens, one.dropped, one.undefined) for side, one in zip(SIDES, pooled, strict=True)
        },
    )


def cuts_of(source: Reader, target: Reader, texts: Sequence[str], max_tokens: int = MAX_TOKENS) -> list[int]:
    """The character up to which both models read each text."""
    first, second = (encoded_whole(reader.tokenizer, texts, max_tokens) for reader in (source, target))
    return shared_cuts(first, second, texts, max_tokens)


def _shifted(progress: Progress, before: int, total: int) -> Progress:
    return lambda done, _n: progress(before + done, total)


def activations_at(reader: Reader, texts: Sequence[str], ends: Sequence[int]) -> tuple[Floats, np.ndarray]:
    """One activation a text, at the token that ends at (or first after) a character, and which texts had one."""
    found: dict[int, np.ndarray] = {}
    for rows in token_rows(reader, texts):
        for document in np.unique(rows.document):
            mine = np.flatnonzero((rows.document == document) & (rows.end >= ends[document]))
            if len(mine):
                found[int(document)] = rows.x[mine[np.argmin(rows.end[mine])]]
    which = np.array(sorted(found))
    return np.stack([found[i] for i in which]).astype(np.float32), which


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadingOptions:
    """How texts are read.

    ``first``: least position of a token, in both models. ``per_document``: most pairs of one text, drawn at random.
    ``folds``: of documents. ``watched``: features to count (all when left out); give those that matter and some
    thousand more as rivals when a dictionary is large. ``calibration``: features the penalty is chosen on; when left
    out, those that fire in most of the texts read beforehand. ``batch_size``: texts read together;
    ``batch_characters``: more short ones, as long as their number times the longest's characters is no more than that:
    a GPU takes as long to be told what to do with 64 short texts as with 300. ``product``: precision of products.
    """

    first: int = FIRST
    per_document: int = PER_DOCUMENT
    folds: int = FOLDS
    watched: tuple[str, ...] | None = None
    calibration: tuple[str, ...] | None = None
    batch_size: int = 32
    batch_characters: int = 0
    max_tokens: int = MAX_TOKENS
    seed: int = 0
    product: Literal["float64", "float32"] = "float64"

    def __post_init__(self) -> None:
        """Refuse numbers that leave nothing to read or to judge on."""
        least = {"first": 1, "per_document": 1, "folds": 3, "batch_size": 1, "max_tokens": 2, "seed": 0}
        for name, low in (least | {"batch_characters": 0}).items():
            if getattr(self, name) < low:
                raise Refusal(f"reading with {name} {getattr(self, name)}", f"it is at least {low}", "use the default")


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A text and the digest it goes by."""

    name: int
    text: str


def distinct(texts: Sequence[str]) -> tuple[list[Document], Counter[str]]:
    """Documents by name, and how many texts were left out as blank or as copies of one before."""
    found: dict[int, Document] = {}
    left: Counter[str] = Counter()
    for text in texts:
        name = document_name(text)
        if not text.strip():
            left["blank"] += 1
        elif name in found:
            left["copy"] += 1
        else:
            found[name] = Document(name=name, text=text)
    return list(found.values()), left


def read_apart(documents: Sequence[Document], readers: Sequence[Reader], max_tokens: int) -> list[Document]:
    """The documents of which a model reads something that it reads of no other: of those alike as far as that, one.

    Texts under one long heading differ behind what is read. Left together, a map would be judged on what it has seen.
    """
    heads = Counter(d.text[:_HEAD] for d in documents)
    likely = [d for d in documents if heads[d.text[:_HEAD]] > 1]
    first: dict[str, int] = {}
    read: dict[int, str] = {}
    for start in range(0, len(likely), CHUNK):
        piece = likely[start : start + CHUNK]
        ends = [reader.ends([d.text for d in piece], max_tokens=max_tokens) for reader in readers]
        for document, *own in zip(piece, *ends, strict=True):
            told = document.text[: max((int(each[-1]) for each in own if len(each)), default=0)]
            read[document.name] = told
            first[told] = min(document.name, first.get(told, document.name))
    return [d for d in documents if d.name not in read or first[read[d.name]] == d.name]


def in_batches(documents: Iterable[Document], options: ReadingOptions) -> Iterator[list[Document]]:
    """Documents that are read together, longest first, so that memory is at its most at the start."""
    order, start = sorted(documents, key=lambda d: (-len(d.text), d.name)), 0
    while start < len(order):
        many = max(options.batch_size, options.batch_characters // len(order[start].text))
        yield order[start : start + many]
        start += many


def batch_name(documents: Sequence[Document]) -> str:
    """What a batch is kept by."""
    return " ".join(str(d.name) for d in documents)


def held_out_documents(names: Sequence[int], folds: int) -> tuple[int, NDArray[np.int64], int]:
    """The fold with most documents, which of them judge a map that has not seen it, and how many pairs each gives."""
    every = np.array(sorted(names), dtype=np.int64)
    mine = fold_of(every, folds)
    fold = int(np.argmax(np.bincount(mine, minlength=folds)))
    chosen = every[mine == fold][:HELD_OUT]  # names are digests: the first are a random choice
    return fold, chosen, int(np.clip(HELD_OUT // len(chosen), 1, PER_DOCUMENT))


def calibrating(fires: NDArray[Any], columns: NDArray[np.int64], options: ReadingOptions) -> NDArray[np.int64]:
    """Which of the watched features (places in ``columns``) calibrate the penalty.

    Those asked for; or 512 that fire in the texts read beforehand, of which ``fires`` (d_sae,) counts in how many: half
    of them those that fire in most, which are often enough in few texts too, half drawn from the others.
    """
    if options.calibration is not None:
        return np.flatnonzero(np.isin(columns, [int(name) for name in options.calibration]))
    order = np.argsort(-fires[columns], kind="stable")
    order = order[fires[columns[order]] > 0]
    frequent, others = order[: CANDIDATES // 2], order[CANDIDATES // 2 :]
    drawn = np.random.default_rng(options.seed).permutation(others)[: CANDIDATES - len(frequent)]
    return np.sort(np.concatenate([frequent, drawn]))


def at_most_each(documents: NDArray[np.int64], rows: int, seed: int) -> NDArray[np.bool_]:
    """At most ``rows`` rows of each document, as a mask (n,): rows of one document are alike.

    Each document's are drawn by a generator of its own, so that its neighbours have no part in the draw.
    """
    keep = np.ones(len(documents), dtype=bool)
    names, counts = np.unique(documents, return_counts=True)
    for name in names[counts > rows]:
        mine = np.flatnonzero(documents == name)
        keep[mine[np.random.default_rng([seed, int(name)]).permutation(len(mine))[rows:]]] = False
    return keep
