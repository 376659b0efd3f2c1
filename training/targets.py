"""What a verbalizer learns to say at a position of a text: graded by rule, and nothing that is not so.

In: documents of both kinds (written from a topic; human), a position in one. Out: ``corpus.Description``: a theme, two
or three salient words, the final token with its form and what followed, in the sentences that
``dragoman.measures.claims`` tells apart.

A theme is told only where the text up to the position bears it out, else "no particular topic":

- a category of the planted topics, and its topic, if their share of the words' votes is surely above .2 (a word votes
  by how often training documents that hold it are of each category), or if the text was written from it and names it;
- a subject in the text's own words: the headword of an entry, or a word that recurs in three sentences or more and
  whose share of the sentences is surely above .2.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

import numpy as np

from corpus import SALIENT, WORD, Description, Document, related

SHARE = 0.2
Z = 1.645  # one-sided 95 %
VOTERS = 4  # words at least
WINDOW = 80  # words a theme is read from
RECENT = 45  # words that salient ones are read from
RARE = 0.1  # share of training documents above which a word is about nothing
PRIOR = 5.0  # documents' worth of no opinion in a word's votes
LEAN = 0.12  # share of one class from which a word votes
KINDS = ("category", "topic")

PLANTED = (
    "This deals with {category}, in particular {topic}, in the form of {genre}.",
    "A passage about {category}: {topic}, written as {genre}.",
    "The theme is {category}; the subject is {topic}, told as {genre}.",
)
SUBJECT = (
    "This deals with {subject}, in the form of {genre}.",
    "A passage about {subject}, written as {genre}.",
    "The theme is {subject}, told as {genre}.",
)
NONE = "no particular topic"
WITHOUT = (
    "This deals with no particular topic, in the form of {genre}.",
    "A passage about no particular topic, written as {genre}.",
    "The theme is no particular topic, told as {genre}.",
)
NULL = "Nothing in particular."
PAIR = (
    'Words such as "{0}" and "{1}" stand out.',
    'It turns on "{0}", with "{1}" close by.',
    'The vocabulary is marked by "{0}" and "{1}".',
)
FINAL = (
    'Final token "{last}", {form}, {where}, and "{after}" is likely to follow.',
    'Final token "{last}", {form}, {where}; something like "{after}" comes next.',
)
# Weights in the loss: a theme is a few tokens among eighty, and style drowns them.
WEIGHTS = {
    "theme": 4.0,
    "topic": 2.0,
    "none": 1.5,
    "genre": 0.5,
    "word": 1.5,
    "last": 1.0,
    "form": 0.5,
    "after": 0.5,
}
STYLE = 0.3
# The first word decides between "nothing in particular" and a theme, and weighs alike in both: where nulls alone
# weighed more, all was told "nothing"; where they weighed what style does, they were not told from rows.
DECISION = 5.0


@dataclass(frozen=True, slots=True)
class Theme:
    """What a text is about: a category and perhaps its topic, or a subject in its own words; all "" for nothing."""

    category: str = ""
    topic: str = ""
    subject: str = ""


class Teller:
    """Writes descriptions; what it has counted comes from training documents only."""

    def __init__(self, documents: Sequence[Document]) -> None:
        """Count words by document, and by category and topic of the documents that were written from one."""
        train = [d for d in documents if d.split == "train"]
        self.n = len(train)
        self.frequency: Counter[str] = Counter()
        self.written = Counter(d.genre for d in train)
        self.in_genre: dict[str, Counter[str]] = defaultdict(Counter)
        counts: dict[str, dict[str, Counter[str]]] = {kind: defaultdict(Counter) for kind in KINDS}
        for document in train:
            words = set(_words(document.text))
            self.frequency.update(words)
            self.in_genre[document.genre].update(words)
            if document.category:
                for kind in KINDS:
                    counts[kind][getattr(document, kind)].update(words)
        self.votes = {kind: _votes(found) for kind, found in counts.items()}

    def rarity(self, word: str) -> float:
        """Inverse document frequency, in nats."""
        return math.log((self.n + 1) / (self.frequency[word] + 1))

    def surely(self, kind: str, words: Sequence[str]) -> str:
        """The category or topic whose share of the votes is surely above .2, or ""."""
        names, table = self.votes[kind]
        rows = [table[w] for w in dict.fromkeys(words) if w in table]
        if len(rows) < VOTERS:
            return ""
        votes = np.array(rows)
        mean = votes.mean(axis=0)
        best = int(mean.argmax())
        low = mean[best] - Z * votes[:, best].std(ddof=1) / math.sqrt(len(rows))
        return names[best] if low > SHARE else ""

    def theme(self, document: Document, prefix: str) -> Theme:
        """What the text up to a position is about, if that is so."""
        words = _words(prefix)[-WINDOW:]
        if not document.genre.endswith("code"):
            found = self.surely("category", words)
            if document.category:
                named = any(_names(document.topic, words)) or any(_names(document.category, words))
                if found == document.category or named:
                    deep = any(_names(document.topic, words)) or self.surely("topic", words) == document.topic
                    return Theme(category=document.category, topic=document.topic if deep else "")
            elif found:
                topic = self.surely("topic", words)
                return Theme(category=found, topic=topic)
        return Theme(subject=document.subject or self.recurring(document.genre, prefix))

    def recurring(self, genre: str, prefix: str) -> str:
        """The rarest word of those that surely recur in more than a fifth of the sentences, three at least, or "".

        Words that every tenth text of the kind holds are about nothing ("thou" of plays).
        """
        told = [set(_words(one)) for one in re.split(r"(?<=[.!?;:])\s+|\n+", prefix) if one.strip()]
        held = Counter(word for words in told for word in words)
        sure = [
            w
            for w, k in held.items()
            if k >= 3 and len(w) > 3 and _low(k, len(told)) > SHARE and not self.common(genre, w)
        ]
        if not sure:
            return ""
        word = max(sure, key=lambda w: (held[w] * self.rarity(w), w))
        forms = Counter(w for w in WORD.findall(prefix) if _plain(w) == word)
        return _bare(forms.most_common(1)[0][0])

    def common(self, genre: str, word: str) -> bool:
        """Whether a tenth of the texts, or of those of a genre, hold a word."""
        here = self.in_genre[genre][word] > RARE * max(self.written[genre], 1) if genre in self.in_genre else False
        return here or self.frequency[word] > RARE * self.n

    def salient(self, prefix: str) -> list[str]:
        """Two or three words of the last 45 by TF-IDF, no two forms of one; a third if it has half of the first."""
        counts = Counter(w for w in _words(prefix)[-RECENT:] if len(w) > 2)
        weight = {w: c * self.rarity(w) for w, c in counts.items()}
        out: list[str] = []
        for word in sorted(weight, key=lambda w: (-weight[w], w)):
            if not any(related(word, other) for other in out):
                out.append(word)
            if len(out) == 3:
                break
        return out if len(out) < 3 or weight[out[2]] >= weight[out[0]] / 2 else out[:2]

    def describe(self, document: Document, end: int, rng: np.random.Generator) -> Description:
        """The three sentences for ``document.text[:end]``."""
        prefix, rest = document.text[:end], document.text[end:]
        theme = self.theme(document, prefix)
        kind = int(rng.integers(3))
        slots = {"genre": document.genre}
        if theme.topic:
            told, slots = PLANTED, slots | {"category": theme.category, "topic": theme.topic}
        elif theme.category or theme.subject:
            told, slots = SUBJECT, slots | {"subject": theme.category or theme.subject}
        else:
            told = WITHOUT
        words = (self.salient(prefix) + ["it", "this"])[: max(2, len(self.salient(prefix)))]
        last, form, where, after = final(prefix, rest)
        parts = (
            _filled(told[kind], slots, {"category": "theme", "subject": "theme", "topic": "topic", "genre": "genre"}),
            _filled(
                (PAIR if len(words) == 2 else SALIENT)[int(rng.integers(3))],
                {str(i): w for i, w in enumerate(words)},
                dict.fromkeys("012", "word"),
            ),
            _filled(
                FINAL[int(rng.integers(2))],
                {"last": last, "form": form, "where": where, "after": after},
                {"last": "last", "form": "form", "where": "form", "after": "after"},
            ),
        )
        return _joined(parts)


def null() -> Description:
    """What is said of a vector that means nothing."""
    return Description(NULL, ((0, len(NULL), STYLE),))


def final(prefix: str, rest: str) -> tuple[str, str, str, str]:
    """The final token (its last twenty characters), its form, how the text stands there, three words that follow."""
    last = prefix.rsplit(None, 1)[-1].strip('"“”')[-20:].replace('"', "") or "quotation mark"
    after = " ".join(rest.split(None, 3)[:3]).replace('"', "")[:60] or "the end"
    where = (
        "ends a sentence"
        if last.endswith((".", "!", "?"))
        else "pauses"
        if last.endswith((",", ";", ":"))
        else "goes on"
    )
    return last, form_of(last.rstrip(".,;:!?)")), where, after


def form_of(word: str) -> str:
    """By spelling alone: what can be told of a word without knowing it."""
    if not any(c.isalnum() for c in word):
        return "a mark"
    if any(c.isdigit() for c in word):
        return "a number" if not any(c.isalpha() for c in word) else "letters and digits"
    if re.search(r"[_(){}\[\]<>=/\\$@#&*|.]", word) or re.search(r"[a-z][A-Z]", word):
        return "a name of code"
    if word.isupper() and len(word) > 1:
        return "in capitals"
    if word[:1].isupper():
        return "capitalised"
    return "a plain word" if "-" not in word else "a compound"


def all_described(
    teller: Teller, documents: Sequence[Document], owner: np.ndarray, end: np.ndarray, seed: int, workers: int = 1
) -> list[Description]:
    """Descriptions of many positions: the same whatever the number of processes."""
    jobs = [(int(d), int(e), i) for i, (d, e) in enumerate(zip(owner, end, strict=True))]
    if workers < 2:
        return [_one(teller, documents, job, seed) for job in jobs]
    _SHARED.update(teller=teller, documents=documents, seed=seed)
    with ProcessPoolExecutor(workers, mp_context=get_context("fork")) as pool:  # forked: nothing is copied over
        return list(pool.map(_one_shared, jobs, chunksize=500))


_SHARED: dict[str, object] = {}


def _one_shared(job: tuple[int, int, int]) -> Description:
    return _one(_SHARED["teller"], _SHARED["documents"], job, _SHARED["seed"])  # type: ignore[arg-type]


def _one(teller: Teller, documents: Sequence[Document], job: tuple[int, int, int], seed: int) -> Description:
    document, end, number = job
    return teller.describe(documents[document], end, np.random.default_rng([seed, number]))


def _words(text: str) -> list[str]:
    return [_plain(w) for w in WORD.findall(text)]


def _bare(word: str) -> str:
    """Without the possessive and marks at its end."""
    return word.rstrip("-'").removesuffix("'s").removesuffix("'S")


def _plain(word: str) -> str:
    return _bare(word).lower()


def _names(phrase: str, words: Sequence[str]) -> list[bool]:
    """Of each word, whether it is one of the phrase's content words or a form of one."""
    heads = [w for w in _words(phrase) if len(w) > 3]
    return [any(w == h or (len(w) > 4 and len(h) > 4 and w[:5] == h[:5]) for h in heads) for w in words]


def _votes(counts: dict[str, Counter[str]]) -> tuple[list[str], dict[str, np.ndarray]]:
    """Of each word that leans to some class, the share of its documents in each, shrunk towards no opinion."""
    names, total = sorted(counts), Counter[str]()
    for found in counts.values():
        total.update(found)
    words = sorted(w for w, n in total.items() if len(w) > 2 and n >= 8)
    at = {w: i for i, w in enumerate(words)}
    table = np.full((len(words), len(names)), PRIOR / max(1, len(names)), np.float32)
    for k, name in enumerate(names):
        for word, n in counts[name].items():
            if word in at:
                table[at[word], k] += n
    table /= table.sum(axis=1, keepdims=True)
    leans = table.max(axis=1, initial=0) >= LEAN
    return names, {w: table[i] for w, i in at.items() if leans[i]}


def _low(k: int, n: int) -> float:
    """Lower end of Wilson's interval, one-sided 95 %."""
    p, zz = k / n, Z * Z
    return (p + zz / (2 * n) - Z * math.sqrt(p * (1 - p) / n + zz / (4 * n * n))) / (1 + zz / n)


def _filled(template: str, slots: dict[str, str], kinds: dict[str, str]) -> tuple[str, list[tuple[int, int, float]]]:
    """The sentence, and the weights of what was filled in; the words for no topic count as a slot."""
    text, spans = "", list[tuple[int, int, float]]()
    for piece in re.split(r"(\{\w+\})", template):
        if piece.startswith("{"):
            name = piece[1:-1]
            spans.append((len(text), len(text) + len(slots[name]), WEIGHTS[kinds[name]]))
            text += slots[name]
        else:
            at = piece.find(NONE)
            if at >= 0:
                spans.append((len(text) + at, len(text) + at + len(NONE), WEIGHTS["none"]))
            text += piece
    return text, spans


def _joined(parts: Sequence[tuple[str, list[tuple[int, int, float]]]]) -> Description:
    text, weights = "", list[tuple[int, int, float]]()
    for part, spans in parts:
        start = len(text) + 2 * bool(text)
        text += ("\n\n" if text else "") + part
        weights += [(a + start, b + start, w) for a, b, w in spans]
    return Description(text, (*weights, (0, len(text), STYLE)))
