"""Read two models over the same texts: what maps and the direct route are made from.

In: two sites, texts, an SAE encoder for the direct route. Out: pooled rows for the post's map; direct-route statistics.
Streams documents; holds one chunk of activations at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.sparse import csr_array, vstack
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from dragoman.core import Background, Floats, Refusal, Site, frozen
from dragoman.directions import Encoder
from dragoman.lm.harvest import (
    MAX_TOKENS,
    Progress,
    TokenRows,
    median_norm,
    pilot_rows,
    pool,
    shared_ends,
    token_rows,
)
from dragoman.lm.load import check_site, load_model
from dragoman.maps import FiringSums
from dragoman.store import Contents, digest, write_arrays

CHUNK = 128  # documents read at a time
SLICE = 4096  # rows encoded at a time: a dense (rows, d_sae) array of all of a chunk would be gigabytes
_FILE = Contents(
    called="a harvest",
    holds="harvest",
    origin="dragoman harvest",
    arrays={"x": "np", "y": "nq", "source_background": "p", "background": "q"},
    words={"source": str, "target": str, "n": int, "source_n": int, "texts": str},
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """A model opened to be read at one site."""

    site: Site
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast

    @classmethod
    def open(cls, site: Site, *, dtype: str = "float32", device: str = "cpu") -> Reader:
        """Load the model of a site."""
        ref = f"{site.model}@{site.revision}" if site.revision else site.model
        model, tokenizer = load_model(ref, dtype=dtype, device=device)
        return cls(site=site, model=model, tokenizer=tokenizer)

    @property
    def width(self) -> int:
        """Width of the stream at the site; refuses a block the model does not have."""
        return check_site(self.site, self.model)

    def pilot(self, texts: Sequence[str]) -> TokenRows:
        """Rows of a few of the texts, whatever their length: see ``pilot_rows``."""
        return pilot_rows(self.model, self.tokenizer, self.site, texts)

    def typical(self, texts: Sequence[str]) -> float:
        """Median norm of the pilot's tokens, for ``rows``."""
        return median_norm(self.pilot(texts).x)

    def rows(
        self,
        texts: Sequence[str],
        typical: float | None = None,
        *,
        batch_size: int = 32,
        max_tokens: int = MAX_TOKENS,
    ) -> TokenRows:
        """Every token of a few texts, one block of rows; those longer than 5 times ``typical`` are left out.

        ``typical`` is these texts' own when left out: read in pieces, pass that of all the texts.
        """
        parts = list(
            token_rows(
                self.model,
                self.tokenizer,
                self.site,
                texts,
                batch_size=batch_size,
                max_tokens=max_tokens,
                typical=typical,
            )
        )
        if len(parts) == 1:
            return parts[0]
        joined = {k: np.concatenate([getattr(p, k) for p in parts]) for k in ("x", "document", "end", "position")}
        dropped, special, first = (sum(getattr(p, k) for p in parts) for k in ("dropped", "special", "first"))
        return TokenRows(**joined, dropped=dropped, special=special, first=first)


def direct_statistics(
    source: Reader, target: Reader, encoder: Encoder, texts: Sequence[str], *, progress: Progress | None = None
) -> tuple[FiringSums, Background]:
    """Where each latent fires in the source, what the target holds there, and the target's background.

    Raises:
        Refusal: the encoder's width is not the source's, or no token end is shared.
    """
    refuse_other_width(encoder, source)
    typical = [reader.typical(texts) for reader in (source, target)]
    ids = [str(i) for i in range(encoder.d_sae)]
    stats: FiringSums | None = None
    unit_sum, count = 0.0, 0
    for start in range(0, len(texts), CHUNK):
        piece = texts[start : start + CHUNK]
        x, y = source.rows(piece, typical[0]), target.rows(piece, typical[1])
        left, right = shared_ends(x, y)
        if not len(left):
            raise Refusal("these texts", "the two tokenizers share no token end in them", "give running text")
        if stats is None:
            stats = FiringSums(target.site, ids, y.x.shape[1])
        fired = vstack([csr_array(encoder.encode(x.x[left[i : i + SLICE]])) for i in range(0, len(left), SLICE)])
        stats.add(fired, y.x[right], x.document[left] + start)
        rows = y.x[right].astype(np.float64)
        unit_sum = unit_sum + (rows / np.linalg.norm(rows, axis=1, keepdims=True)).sum(0)
        count += len(rows)
        if progress:
            progress(min(start + CHUNK, len(texts)), len(texts))
    if stats is None:
        raise Refusal(
            "an empty list of texts", "the direct route needs texts in which features fire", "pass --texts FILE"
        )
    mean: Floats = (unit_sum / count).astype(np.float32)  # type: ignore[union-attr]
    return stats, Background(target.site, mean, count, digest("\n".join(texts)))


def refuse_other_width(encoder: Encoder, source: Reader) -> None:
    """Refuse an SAE of another width than the source's stream."""
    if encoder.d_in != source.width:
        raise Refusal(
            f"an SAE of width {encoder.d_in}", f"the source stream is {source.width} wide", "use an SAE of that model"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Harvest:
    """What the post's map is fitted on: one pooled row per text and model, and the target's background.

    ``x``: (texts, d_source) and ``y``: (texts, d_target), float32. The backgrounds: mean unit activation over all
    tokens, at either site.
    """

    source: Site
    target: Site
    x: Floats
    y: Floats
    source_background: Background
    background: Background

    def save(self, path: Path) -> None:
        """Write to one file."""
        words = {"holds": "harvest", "source": str(self.source), "target": str(self.target)}
        words |= {"n": self.background.n, "source_n": self.source_background.n, "texts": self.background.texts}
        means = {"source_background": self.source_background.mean, "background": self.background.mean}
        write_arrays(path, {"x": self.x, "y": self.y, **means}, words)

    @classmethod
    def load(cls, path: Path) -> Harvest:
        """Read what ``save`` wrote."""
        arrays, meta = _FILE.read(path)
        source, target = Site.parse(meta["source"]), Site.parse(meta["target"])
        own = Background(source, frozen(arrays["source_background"]), meta["source_n"], meta["texts"])
        background = Background(target, frozen(arrays["background"]), meta["n"], meta["texts"])
        x, y = arrays["x"], arrays["y"]
        return cls(source=source, target=target, x=x, y=y, source_background=own, background=background)


def harvest(source: Reader, target: Reader, texts: Sequence[str], *, progress: Progress | None = None) -> Harvest:
    """Pool both models over the same texts (the post's way) and keep the target's background.

    ``progress`` counts texts over both models.
    """
    total = 2 * len(texts)
    pooled = []
    for turn, reader in enumerate((source, target)):
        say = _shifted(progress, turn * len(texts), total) if progress else None
        pooled.append(pool(reader.model, reader.tokenizer, reader.site, texts, progress=say))
    x, y = pooled[0], pooled[1]
    key = digest("\n".join(texts))
    return Harvest(
        source=source.site,
        target=target.site,
        x=x.rows,
        y=y.rows,
        source_background=Background(source.site, frozen(x.unit_mean), x.tokens, key),
        background=Background(target.site, frozen(y.unit_mean), y.tokens, key),
    )


def _shifted(progress: Progress, before: int, total: int) -> Progress:
    return lambda done, _n: progress(before + done, total)


def activations_at(
    reader: Reader, texts: Sequence[str], ends: Sequence[int], say: Callable[[int, int], None] | None = None
) -> tuple[Floats, np.ndarray]:
    """One activation a text, at the token that ends at (or first after) a character, and which texts had one."""
    found: dict[int, np.ndarray] = {}
    for rows in token_rows(reader.model, reader.tokenizer, reader.site, texts, progress=say):
        for document in np.unique(rows.document):
            mine = np.flatnonzero((rows.document == document) & (rows.end >= ends[document]))
            if len(mine):
                found[int(document)] = rows.x[mine[np.argmin(rows.end[mine])]]
    which = np.array(sorted(found))
    return np.stack([found[i] for i in which]).astype(np.float32), which
