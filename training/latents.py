"""What the latents of many sites fire on, by rule and by halves of the documents, and which of them go together.

In: sparse codes at shared positions, the words there, the documents. Out: a record a latent and half (words and their
shares, form, words before and after that are raised, category and topic with a lower bound); the rule's text of a
record; which latents of all sites correlate, and of which none is trained on, nor anything beside it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components

import settings as s
from corpus import SALIENT, Description, Document
from dragoman.maps.words import FORMS, word_at, word_span
from targets import FINAL, PAIR, PLANTED, STYLE, SUBJECT, WEIGHTS, WITHOUT, Z, _filled, _joined

LEAST = 0.05  # share of the activation from which a word counts as one that a latent fires on
RAISED = 3.0  # times as often beside it as elsewhere, for a word before or after
NEIGHBOURS = ("\n", " ", "")


@dataclass(frozen=True, slots=True)
class Words:
    """Of every position: word, the one before and after (ids into ``names``), forms (n, f) bool, document's class."""

    names: list[str]
    at: np.ndarray
    before: np.ndarray
    after: np.ndarray
    forms: np.ndarray
    category: np.ndarray
    topic: np.ndarray
    categories: list[str]
    topics: list[str]

    @classmethod
    def of(cls, documents: Sequence[Document], owner: np.ndarray, end: np.ndarray) -> Words:
        """Look at each position's text."""
        known: dict[str, int] = {}
        rows = np.zeros((len(owner), 3), np.int64)
        forms = np.zeros((len(owner), len(FORMS)), bool)
        for i, (d, e) in enumerate(zip(owner, end, strict=True)):
            text = documents[d].text
            start, stop = word_span(text, int(e))
            trio = (word_at(text, int(e)), *_beside(text, start, stop))
            rows[i] = [known.setdefault(w, len(known)) for w in trio]
            forms[i] = [rule(text, int(e)) for rule in FORMS.values()]
        categories = sorted({d.category for d in documents if d.category})
        topics = sorted({d.topic for d in documents if d.topic})
        of_category, of_topic = {c: i for i, c in enumerate(categories)}, {t: i for i, t in enumerate(topics)}
        return cls(
            list(known),
            *rows.T,
            forms,
            np.array([of_category.get(documents[d].category, -1) for d in owner]),
            np.array([of_topic.get(documents[d].topic, -1) for d in owner]),
            categories,
            topics,
        )


def _beside(text: str, start: int, stop: int) -> tuple[str, str]:
    before = text[max(0, start - 40) : start].split()
    after = text[stop : stop + 40].split()
    clean = lambda w: w.strip(".,;:!?\"'()[]{}“”").lower()  # noqa: E731
    return clean(before[-1]) if before else "", clean(after[0]) if after else ""


@dataclass(frozen=True, slots=True)
class Codes:
    """The k latents of most activation at each position: index (n, k), value (n, k); ``size`` latents in all."""

    index: torch.Tensor
    value: torch.Tensor
    size: int

    @classmethod
    @torch.inference_mode()
    def of(cls, encode: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, size: int) -> Codes:
        """Of rows (n, d) by what encodes them as (n, ``size``)."""
        step = max(1, 2**28 // size)
        found = [encode(x[i : i + step]).topk(min(s.TOPK, size), dim=1) for i in range(0, len(x), step)]
        return cls(torch.cat([f.indices for f in found]).int(), torch.cat([f.values for f in found]).half(), size)

    def __getitem__(self, rows: torch.Tensor) -> Codes:
        """Those positions alone."""
        return Codes(self.index[rows], self.value[rows], self.size)

    def dense(self) -> torch.Tensor:
        """(n, size) float32."""
        out = torch.zeros(len(self.index), self.size, device=self.index.device)
        return out.scatter_(1, self.index.long(), self.value.float())

    def summed(self, by: torch.Tensor, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Sums of activation by (latent, class of position): latent, class, sum, of pairs with any, by latent."""
        flat, value = (self.index.long() * count + by[:, None]).flatten(), self.value.float().flatten()
        keep = value > 0
        keys, where = flat[keep].unique(return_inverse=True)
        total = torch.zeros(len(keys), device=keys.device).index_add_(0, where, value[keep])
        return (keys // count).cpu().numpy(), (keys % count).cpu().numpy(), total.cpu().numpy()


@dataclass(frozen=True, slots=True)
class Record:
    """One latent by one half of the documents. Shares are of its activation there; bounds one-sided, 95 %."""

    latent: int
    positions: int
    effective: float
    words: dict[str, float]
    form: str
    before: tuple[str, ...]
    after: tuple[str, ...]
    category: str
    category_low: float
    topic: str
    topic_low: float

    @classmethod
    def read(cls, row: dict[str, Any]) -> Record:
        """As it was written: lists are tuples again."""
        made: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in row.items()}
        return cls(**made)


def records(codes: Codes, words: Words, rows: np.ndarray, owner: np.ndarray) -> dict[int, Record]:
    """Of each latent that fires at five of the positions ``rows`` or more."""
    device = codes.index.device
    some = codes[torch.as_tensor(rows, device=device)]
    put = lambda a: torch.as_tensor(np.ascontiguousarray(a[rows]), device=device)  # noqa: E731
    fired = torch.zeros(codes.size, device=device)
    fired.index_add_(0, some.index.long().flatten(), (some.value > 0).float().flatten())
    total = np.zeros(codes.size)
    of_document = some.summed(put(owner), int(owner.max(initial=0)) + 1)
    squares = np.zeros(codes.size)
    np.add.at(total, of_document[0], of_document[2])
    np.add.at(squares, of_document[0], of_document[2].astype(np.float64) ** 2)
    effective = total**2 / np.maximum(squares, 1e-12)
    top = _top(some.summed(put(words.at), len(words.names)), total, 6)
    sides = []
    for side in (words.before, words.after):
        base = np.bincount(side[rows], minlength=len(words.names)) / max(1, len(rows))
        sides.append(_top(some.summed(put(side), len(words.names)), total, 12, base))
    shares = np.zeros((codes.size, len(FORMS)))
    for f in range(len(FORMS)):
        sums = torch.zeros(codes.size, device=device)
        held = some.value.float() * put(words.forms[:, f])[:, None]
        shares[:, f] = sums.index_add_(0, some.index.long().flatten(), held.flatten()).cpu().numpy()
    shares /= np.maximum(total, 1e-12)[:, None]
    base_form = words.forms[rows].mean(axis=0)
    classes = [
        _largest(some.summed(put(c + 1), len(names) + 1), total, codes.size)
        for c, names in ((words.category, words.categories), (words.topic, words.topics))
    ]
    names = list(FORMS)
    out = {}
    for k in np.flatnonzero(fired.cpu().numpy() >= 5):
        lift = shares[k] - base_form
        form = names[int(lift.argmax())] if lift.max(initial=0) > 0.5 else ""
        (c, c_share), (t, t_share) = ((int(best[k]), float(mass[k] / total[k])) for best, mass in classes)
        out[int(k)] = Record(
            latent=int(k),
            positions=int(fired[k]),
            effective=round(float(effective[k]), 1),
            words={words.names[w]: round(v, 3) for w, v in top.get(k, ()) if v >= LEAST and words.names[w].strip()},
            form=form,
            before=tuple(words.names[w] for w, _ in sides[0].get(k, ()) if words.names[w])[:3],
            after=tuple(words.names[w] for w, _ in sides[1].get(k, ()) if words.names[w])[:3],
            category=words.categories[c] if c >= 0 else "",
            category_low=round(low(c_share, effective[k]), 3) if c >= 0 else 0.0,
            topic=words.topics[t] if t >= 0 else "",
            topic_low=round(low(t_share, effective[k]), 3) if t >= 0 else 0.0,
        )
    return out


def _top(
    sums: tuple[np.ndarray, np.ndarray, np.ndarray], total: np.ndarray, most: int, base: np.ndarray | None = None
) -> dict[int, list[tuple[int, float]]]:
    """Of each latent the classes of largest share; with a ``base``, of those of 2 % or more that are raised thrice."""
    latent, of, value = sums
    share = value / np.maximum(total[latent], 1e-12)
    rank = share
    if base is not None:
        rank = np.where(share >= 0.02, share / np.maximum(base[of], 1e-6), 0.0)
    keep = np.flatnonzero(rank >= (RAISED if base is not None else 0.02))
    keep = keep[np.lexsort((of[keep], -rank[keep], latent[keep]))]
    out: dict[int, list[tuple[int, float]]] = {}
    for i in keep:
        mine = out.setdefault(int(latent[i]), [])
        if len(mine) < most:
            mine.append((int(of[i]), float(share[i])))
    return out


def _largest(
    sums: tuple[np.ndarray, np.ndarray, np.ndarray], total: np.ndarray, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """The class of most activation of each latent (class 0, no class, apart) as an index from 0, and its sum."""
    latent, of, value = (a[sums[1] > 0] for a in sums)
    best, mass = np.full(size, -1), np.zeros(size)
    order = np.argsort(value, kind="stable")
    best[latent[order]], mass[latent[order]] = of[order] - 1, value[order]
    return best, mass


def low(share: float, n: float) -> float:
    """Lower end of Wilson's interval of a share among ``n`` effective documents, one-sided 95 %."""
    zz = Z * Z
    return (share + zz / (2 * n) - Z * math.sqrt(max(0.0, share * (1 - share)) / n + zz / (4 * n * n))) / (1 + zz / n)


def agreement(one: Record, other: Record | None) -> dict[str, float]:
    """How far two halves tell the same, by field, from 0 to 1: what a field may weigh in training."""
    if other is None:
        return {"theme": 0.0, "words": 0.0, "token": 0.0}
    return {
        "theme": float(theme_of(one) == theme_of(other)),
        "words": _overlap(_around(one), _around(other)),
        "token": _overlap(tuple(one.words), tuple(other.words)) if one.words or other.words else 1.0,
    }


def _overlap(one: Sequence[str], other: Sequence[str]) -> float:
    both = len(set(one) & set(other))
    return both / max(1, min(len(set(one)), len(set(other))))


def theme_of(record: Record) -> tuple[str, str]:
    """Category and topic whose share is surely above .2, "" where none is."""
    category = record.category if record.category_low > 0.2 else ""
    return category, record.topic if category and record.topic_low > 0.2 else ""


def _around(record: Record) -> tuple[str, ...]:
    """Words that stand out: those before it, then those it fires on beyond the first."""
    out = [w for w in (*record.before, *list(record.words)[1:]) if w.isalpha() and len(w) > 2]
    return tuple(dict.fromkeys(out))[:3]


def rule_text(record: Record, trust: Mapping[str, float], rng: np.random.Generator) -> Description:
    """The record in the sentences of a verbalizer, weighted by ``agreement``."""
    category, topic = theme_of(record)
    slots, kind = {"genre": "texts of many kinds"}, int(rng.integers(3))
    if topic:
        told, slots = PLANTED, slots | {"category": category, "topic": topic}
    elif category:
        told, slots = SUBJECT, slots | {"subject": category}
    else:
        told = WITHOUT
    parts = [_filled(told[kind], slots, {"category": "theme", "subject": "theme", "topic": "topic", "genre": "genre"})]
    around = _around(record)
    if len(around) > 1:
        chosen = (PAIR if len(around) == 2 else SALIENT)[int(rng.integers(3))]
        parts.append(_filled(chosen, {str(i): w for i, w in enumerate(around)}, dict.fromkeys("012", "word")))
    fires = list(record.words)[:3]
    if fires:
        last = '" or "'.join(w.replace('"', "quotation mark") for w in fires)
        shown = {"last": last, "form": record.form or "of no one form"}
        shown |= {"where": f"{sum(record.words.values()):.0%} of it", "after": " ".join(record.after[:1]) or "anything"}
        of = {"last": "last", "form": "form", "where": "form", "after": "after"}
        parts.append(_filled(FINAL[int(rng.integers(2))], shown, of))
    else:
        form = record.form or "any word"
        parts.append((f"Final token: {form}.", [(13, 13 + len(form), WEIGHTS["form"])]))
    fields = ["theme", *(["words"] if len(around) > 1 else []), "token"]
    scaled = [
        (text, [(a, b, STYLE + (w - STYLE) * trust[field]) for a, b, w in spans])
        for field, (text, spans) in zip(fields, parts, strict=True)
    ]
    return _joined(scaled)


@torch.inference_mode()
def correlated(codes: Sequence[Codes], threshold: float = 0.3, chunk: int = 4096) -> csr_array:
    """Of all latents, dictionary after dictionary, which two correlate above: symmetric (count, count), no diagonal."""
    sizes = [c.size for c in codes]
    count, device = sum(sizes), codes[0].index.device
    product = torch.zeros(count, count, device=device)
    sums, squares, n = torch.zeros(count, device=device), torch.zeros(count, device=device), 0
    for start in range(0, len(codes[0].index), chunk):
        rows = torch.arange(start, min(start + chunk, len(codes[0].index)), device=device)
        x = torch.cat([c[rows].dense() / c.value.float().max().clamp_min(1e-6) for c in codes], dim=1)
        product.addmm_(x.T, x)
        sums += x.sum(0)
        squares += x.pow(2).sum(0)
        n += len(rows)
    spread = (squares / n - (sums / n).pow(2)).clamp_min(1e-12).sqrt()
    left, right = list[np.ndarray](), list[np.ndarray]()
    for start in range(0, count, 4096):
        piece = slice(start, min(start + 4096, count))
        r = product[piece] / n - (sums[piece, None] / n) * (sums[None] / n)
        a, b = torch.where(r > threshold * spread[piece, None] * spread[None])
        left.append((a + start).cpu().numpy())
        right.append(b.cpu().numpy())
    a, b = np.concatenate(left), np.concatenate(right)
    apart = a != b
    return csr_array((np.ones(int(apart.sum()), np.int8), (a[apart], b[apart])), (count, count))


@dataclass(slots=True)
class HeldOut:
    """Which latents are left out of training, while they are chosen: ``out`` (count,) bool.

    ``beside`` (count,): how many that correlate with each may still be trained on. A latent is apart when it is out and
    nothing beside it is trained on. Whole connected components would be simpler, but one of them holds nine tenths of
    all latents, and what lies outside it is of an odd kind: marks and words that stand alone.
    """

    near: csr_array
    out: np.ndarray
    beside: np.ndarray

    @classmethod
    def of(cls, near: csr_array, never: np.ndarray) -> HeldOut:
        """Begin with those that are ``never`` trained on: (count,) bool."""
        return cls(near, never.copy(), near @ (~never).astype(np.int64))

    def around(self, latent: int) -> np.ndarray:
        """What correlates with a latent."""
        return self.near.indices[self.near.indptr[latent] : self.near.indptr[latent + 1]]

    def leave(self, latent: int) -> None:
        """Leave out a latent with all that correlates with it."""
        for k in (latent, *self.around(latent)):
            if not self.out[k]:
                self.out[k] = True
                self.beside[self.around(k)] -= 1

    def draw(self, pool: np.ndarray, wanted: int, largest: int, share: float, rng: np.random.Generator) -> np.ndarray:
        """Up to ``wanted`` of the pool, at random, until ``share`` of all are out; none with more than ``largest``."""
        chosen = list[int]()
        for k in rng.permutation(pool).tolist():
            if len(chosen) >= wanted or self.out.mean() >= share:
                break
            if len(self.around(k)) <= largest:
                self.leave(k)
                chosen.append(k)
        return np.array(chosen, np.int64)

    def top_up(self, pools: Sequence[np.ndarray], wanted: int, share: float, rng: np.random.Generator) -> None:
        """Of each pool leave out what those need that ask for the fewest more, until ``wanted`` of it are apart."""
        orders = [rng.permutation(pool) for pool in pools]
        for most in (1, 2, 4, 8, 16):
            for order in orders:
                for k in order.tolist():
                    if self.out.mean() >= share or self.apart()[order].sum() >= wanted:
                        break
                    if self.out[k] and 0 < self.beside[k] <= most:
                        self.leave(k)

    def apart(self) -> np.ndarray:
        """(count,) bool: out, and nothing beside it is trained on."""
        return self.out & (self.beside == 0)


def clusters(near: csr_array, judged: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """(count,) of judged latents those of one dictionary that correlate, directly or by others judged; else alone."""
    one = coo_array(near)
    a, b = one.coords
    dictionary = np.searchsorted(starts, np.arange(near.shape[0]), side="right")
    keep = judged[a] & judged[b] & (dictionary[a] == dictionary[b])
    _, of = connected_components(coo_array((one.data[keep], (a[keep], b[keep])), near.shape), directed=False)
    return of


def main_word(record: Record, least: float = 0.3) -> str:
    """The word a latent fires on most, if it takes so much and is a word; else ""."""
    word, share = next(iter(record.words.items()), ("", 0.0))
    return word if share >= least and word.isalpha() and len(word) > 2 else ""


def unseen_words(
    some: Sequence[Mapping[int, Record]], count: int, seed: int, common: frozenset[str] = frozenset()
) -> list[str]:
    """``count`` of the words that latents of any dictionary fire on most, drawn; no ``common`` ones."""
    words = sorted({main_word(r) for records in some for r in records.values()} - common - {""})
    return sorted(words[i] for i in np.random.default_rng(seed).permutation(len(words))[:count])


def told(record: Record) -> dict[str, object]:
    """A record as it is written."""
    return asdict(record)
