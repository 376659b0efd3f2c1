"""The texts that everything is trained on, with their splits: written from a topic, and human.

In: rows of ``category, topic, prompt, text`` (``write_text.py``), passages (``passages.py``). Out: documents. What an
AV learns to say of a position in one is in ``targets.py``.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Sequence
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
SALIENT = (
    'Words such as "{0}", "{1}" and "{2}" stand out.',
    'It turns on "{0}", with "{1}" and "{2}" close by.',
    'The vocabulary is marked by "{0}", "{1}" and "{2}".',
)


@dataclass(frozen=True, slots=True)
class Document:
    """One text with its split (train, dev, test, heldout; fresh; of human text also map, direct, judge).

    ``category``, ``topic``: what it was written from, "" for human text, of which nothing is planted. ``subject``: the
    headword of a dictionary's entry, else "". ``work``: the source work of human text, which has one split.
    """

    text: str
    category: str
    topic: str
    genre: str
    split: str
    subject: str = ""
    work: str = ""


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


def categories(documents: Sequence[Document]) -> list[str]:
    """Planted categories in the order of a probe's classes."""
    return sorted({d.category for d in documents if d.category})


def read_fresh(path: Path, corpus: list[Document]) -> list[Document]:
    """Documents that were written after the corpus, all of split "fresh"; none may stand in the corpus."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    texts = {d.text for d in corpus}
    both = sum(row["text"] in texts for row in rows)
    if both:
        raise ValueError(f"{both} of {len(rows)} fresh documents stand in the corpus that verbalizers are trained on")
    return [Document(row["text"], row["category"], row["topic"], "", "fresh") for row in rows]


REGISTERS = {
    "changelog": "a list of changes",
    "chat": "a conversation",
    "code, C": "C code",
    "code, Perl": "Perl code",
    "code, Python": "Python code",
    "commentary": "a commentary",
    "computing": "a glossary entry",
    "dictionary": "a dictionary entry",
    "drama": "a play",
    "essay": "an essay",
    "game": "the text of a game",
    "handbook": "a handbook",
    "kernel": "technical notes",
    "law": "a legal text",
    "manual page": "a manual page",
    "novel": "a novel",
    "programming": "a programming manual",
    "satire": "a satirical entry",
    "saying": "a saying",
    "scripture": "scripture",
    "speech": "a speech",
    "tale": "a tale of war and magic",
}
ENTRIES = ("computing", "dictionary", "satire")  # registers whose passages tell of the word that heads them


def read_passages(path: Path) -> list[Document]:
    """Human passages of ``passages.py`` as documents without planted truth."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return [
        Document(row["text"], "", "", REGISTERS[row["register"]], row["split"], headword(row), row["work"])
        for row in rows
    ]


def headword(row: dict[str, str]) -> str:
    """The word an entry is headed by, if its passage begins with it and it is one word or two; else ""."""
    word = row["work"].split(":", 1)[-1] if row["register"] in ENTRIES else ""
    heads = row["text"].lower().startswith(word.lower()) and word.replace(" ", "").isalpha()
    return word.lower() if word and heads and len(word) > 2 and len(word.split()) < 3 else ""


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

    def weight(self, start: int, end: int, outside: float = 1.0) -> float:
        """Weight of a token that covers these characters; ``outside``: of one that covers none of the text."""
        return next((w for a, b, w in self.weights if start < b and end > a), outside)


def related(one: str, other: str) -> bool:
    """Whether two words look like forms of one: one holds the other, or they share a stem of five letters."""
    return one in other or other in one or one[:5] == other[:5]
