"""Topical documents: splits, and the description of a prefix that an AV learns to write.

In: rows of ``category, topic, prompt, text``. Out: documents with a split, and three short paragraphs for a prefix of
one: what it is about (category before topic, so that a greedy reader decides the category first), which words stand out
in its last 45 words by TF-IDF, and the final word with what followed.
"""

from __future__ import annotations

import gzip
import json
import math
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import settings as s

WORD = re.compile(r"[A-Za-z][A-Za-z'-]+")

GENRES = {
    "Write a short story": "a short story",
    "Write a personal diary": "a diary entry",
    "Write a short paragraph": "a plain paragraph",
    "Give an opinion": "an opinion",
    "Describe a scene": "a description of a scene",
    "Write an encyclopedia": "an encyclopedia entry",
    "Give practical advice": "practical advice",
    "Write a news report": "a news report",
    "Explain": "an explanation for beginners",
    "Write a conversation": "a conversation",
}
THEMES = (
    "This deals with {category}, in particular {topic}, in the form of {genre}.",
    "A passage about {category}: {topic}, written as {genre}.",
    "The theme is {category}; the subject is {topic}, told as {genre}.",
)
SALIENT = (
    'Words such as "{0}", "{1}" and "{2}" stand out.',
    'It turns on "{0}", with "{1}" and "{2}" close by.',
    'The vocabulary is marked by "{0}", "{1}" and "{2}".',
)
FINAL = (
    'Final token "{last}" {where}, and "{after}" is likely to follow.',
    'Final token "{last}" {where}; something like "{after}" comes next.',
)


@dataclass(frozen=True, slots=True)
class Document:
    """One text with its planted truth and its split (train, dev, test, heldout; fresh)."""

    text: str
    category: str
    topic: str
    genre: str
    split: str


def read(path: Path) -> list[Document]:
    """Documents with their splits, the same for the same file and seed."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    heldout = set(heldout_topics(rows))
    rng = np.random.default_rng(s.SEED)
    draw = rng.random(len(rows))
    out = []
    for row, u in zip(rows, draw, strict=True):
        split = "test" if u < s.TEST_SHARE else "dev" if u < s.TEST_SHARE + s.DEV_SHARE else "train"
        if row["topic"] in heldout:
            split = "heldout"
        genre = next(g for start, g in GENRES.items() if row["prompt"].startswith(start))
        out.append(Document(row["text"], row["category"], row["topic"], genre, split))
    return out


def read_fresh(path: Path, corpus: list[Document]) -> list[Document]:
    """Documents that were written after the corpus, all of split "fresh"; none may stand in the corpus."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    texts = {d.text for d in corpus}
    both = sum(row["text"] in texts for row in rows)
    if both:
        raise ValueError(f"{both} of {len(rows)} fresh documents stand in the corpus that verbalizers are trained on")
    return [Document(row["text"], row["category"], row["topic"], "", "fresh") for row in rows]


def heldout_topics(rows: list[dict[str, str]]) -> list[str]:
    """27 topics, one from each of 27 categories."""
    rng = np.random.default_rng(s.SEED + 1)
    topics: dict[str, set[str]] = {}
    for row in rows:
        topics.setdefault(row["category"], set()).add(row["topic"])
    chosen = rng.permutation(sorted(topics))[: s.HELDOUT_TOPICS]
    return [str(rng.choice(sorted(topics[c]))) for c in sorted(chosen)]


@dataclass(frozen=True, slots=True)
class Description:
    """Three paragraphs, and how much parts of them weigh in the loss: (first character, end, weight)."""

    text: str
    weights: tuple[tuple[int, int, float], ...]

    @classmethod
    def of(cls, theme: str, salient: str, final: str, document: Document) -> Description:
        """Join the paragraphs. Category and topic are a few tokens among eighty: unweighted, style drowns them."""
        text = "\n\n".join((theme, salient, final))
        category = theme.index(document.category)
        topic = theme.index(document.topic, category + len(document.category))
        return cls(
            text,
            (
                (category, category + len(document.category), s.CATEGORY_WEIGHT),
                (topic, topic + len(document.topic), s.TOPIC_WEIGHT),
                (len(text) - len(final), len(text), s.FINAL_WEIGHT),
            ),
        )

    def weight(self, start: int, end: int) -> float:
        """Weight of a token that covers these characters."""
        return next((w for a, b, w in self.weights if start < b and end > a), 1.0)


class Describer:
    """Writes the three paragraphs; document frequencies come from training documents only."""

    def __init__(self, documents: list[Document]) -> None:
        """Count in how many training documents each word occurs."""
        seen: Counter[str] = Counter()
        train = [d for d in documents if d.split == "train"]
        for document in train:
            seen.update({w.lower() for w in WORD.findall(document.text)})
        self.n = len(train)
        self.frequency = seen

    def salient(self, prefix: str) -> list[str]:
        """Three words of the last 45 by TF-IDF, most salient first, no two of them forms of one word."""
        words = [w.lower() for w in WORD.findall(prefix[-600:])][-45:]
        counts = Counter(w for w in words if len(w) > 2)
        weight = {w: c * math.log((self.n + 1) / (self.frequency[w] + 1)) for w, c in counts.items()}
        out: list[str] = []
        for word in sorted(weight, key=lambda w: (-weight[w], w)):
            if not any(related(word, other) for other in out):
                out.append(word)
        return out[:3]

    def describe(self, document: Document, end: int, rng: np.random.Generator) -> Description:
        """Theme, salient words, final token, for ``document.text[:end]``."""
        prefix, rest = document.text[:end], document.text[end:]
        words = self.salient(prefix) + ["it", "this", "that"]
        last = prefix.rsplit(None, 1)[-1].strip('"“”')[-20:]
        after = rest.split(None, 3)[:3]
        where = (
            "ends a sentence"
            if last.endswith((".", "!", "?"))
            else "pauses"
            if last.endswith((",", ";", ":"))
            else "goes on"
        )
        theme = THEMES[rng.integers(len(THEMES))].format(
            category=document.category, topic=document.topic, genre=document.genre
        )
        salient = SALIENT[rng.integers(len(SALIENT))].format(*words)
        final = FINAL[rng.integers(len(FINAL))].format(
            last=last, where=where, after=" ".join(after).replace('"', "") or "the end"
        )
        return Description.of(theme, salient, final, document)


def related(one: str, other: str) -> bool:
    """Whether two words look like forms of one: one holds the other, or they share a stem of five letters."""
    return one in other or other in one or one[:5] == other[:5]
