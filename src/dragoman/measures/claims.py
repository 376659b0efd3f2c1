"""The sentences of a text, and whether where its feature fires bears each of them out.

In: a text; windows in which its feature fires and is silent, windows in which other features fire, theme sentences of
other texts, the words the feature fires on, an embedder. Out: the sentences by what they speak of, a status each with
its reason and its figures, and a short label made of the supported ones alone. Refuses what the embedder refuses.

A text is not right or wrong as a whole: of a feature that fires on one word and has no theme, the sentence about the
final token may be right where the sentence about the theme is made up. "Supported" means that the evidence speaks for
the sentence by more than it does for sentences made for other features; "unsupported" that it does not, which a true
sentence may suffer too; "unchecked" that there is too little evidence. What a sentence about the final token foretells
of what comes next is not checked. Windows are those in which the feature fires most, so a theme of its weaker firings
does not count. That a feature has no particular topic is no theme: such a sentence is unchecked.

A theme is one of documents: made where the feature is silent in the same documents, it is supported as often (62 % of
100 latents with a topic, against 61 %; ``bench/yardstick.py``). A final token is not (9 % against 33 %, and 5 % against
53 % of latents without a topic).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, overload

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from dragoman.embed import Embedder
from dragoman.measures.firing import FINAL, WORD, quoted, variants
from dragoman.scores import ClaimStatus
from dragoman.stats.roc import ContextEmbeddings, detection_table

Kind = Literal["theme", "words", "token"]
Status = Literal["supported", "unsupported", "unchecked"]
Doubles = NDArray[np.float64]
Found = tuple[Status, str, dict[str, float]]
FEWEST = 3  # windows of either kind by which anything is checked
FEWEST_DEALT = 19  # sentences or features of which the 95th percentile is one that was seen
SHARE = 0.2  # of a feature's activation on the token that a sentence names
TIMES = 4.0  # and so many times the mean share of other features
HOLD = 0.3  # of the firing windows that hold a word which stands out
AREA = 0.7  # under the ROC curve, of a theme sentence between firing and silent windows
ABOVE_DEALT = 0.95  # of other features' theme sentences on the same windows
ABOVE_OTHERS = 0.98  # of other features' windows, for the same sentence
LEVEL = 0.01  # chance of as many windows at the rate of silent windows and of other features', per word
_PARAGRAPH = re.compile(r"\n\s*\n|\n(?=\s*[-*•\d])")
_SENTENCE = re.compile(r"(?<=[.!?…。！？])[\"'”’)]*\s+(?=[\"'“‘(]?[A-Z0-9\u0080-\uffff])")
_OPENER = re.compile(
    r"^.*?\b(?:about|deals with|concern(?:s|ing)|discuss(?:es|ing)|describ(?:es|ing)|refers to|revolves around"
    r"|relat(?:es|ing|ed) to|focus(?:es|ing) on|(?:themes?|topics?|subject) (?:is|are|of))\s+",
    re.IGNORECASE,
)
_CUT = re.compile(r"[.;!?]|,? (?:written as|told as|in the form of)\b|, (?!in particular\b|especially\b|and\b)")
_NO_TOPIC = re.compile(r"\bno particular (?:topic|subject|theme)\b|^\W*nothing in particular\b", re.IGNORECASE)
_FEW = f"there are fewer than {FEWEST} windows of either kind to check it by"
_LONGEST = 60  # characters of a label's theme


@dataclass(frozen=True, slots=True)
class Claim:
    """One sentence of a text, as it stands there, by what it speaks of; ``quoted``: what it puts in quotes."""

    kind: Kind
    text: str
    quoted: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Windows:
    """What is known of where one feature fires.

    ``firing``, ``silent``: windows of text. ``words``: word -> share of its activation; ``along_row``: how its own row
    stands out there, see ``maps.along_row``; None where nobody counted.
    """

    firing: Sequence[str]
    silent: Sequence[str]
    words: Mapping[str, float] | None = None
    along_row: Mapping[str, float] | None = None

    @cached_property
    def spoken(self) -> dict[str, list[frozenset[str]]]:
        """The lower-cased words of each window, by kind."""
        kinds = {"firing": self.firing, "silent": self.silent}
        return {kind: [frozenset(WORD.findall(text.lower())) for text in texts] for kind, texts in kinds.items()}


def claims_of(text: str) -> tuple[Claim, ...]:
    """The sentences of a text, in order.

    ``token``: it speaks of the final or last token or word. ``words``: it quotes two or more words. ``theme``: all
    others. Full stops within quotes end nothing. Of any verbalizer: nothing here knows its templates.
    """
    return tuple(_claim(sentence) for paragraph in _PARAGRAPH.split(text) for sentence in _sentences(paragraph))


def _sentences(paragraph: str) -> list[str]:
    masked = re.sub(r"\"[^\"\n]{1,80}\"|“[^”\n]{1,80}”", lambda m: f'"{"x" * (len(m.group()) - 2)}"', paragraph)
    ends = [m.span() for m in _SENTENCE.finditer(masked)]
    starts, stops = [0, *(b for _, b in ends)], [*(a for a, _ in ends), len(paragraph)]
    found = [paragraph[a:b].strip() for a, b in zip(starts, stops, strict=True)]
    return [sentence for sentence in found if WORD.search(sentence)]


def _claim(sentence: str) -> Claim:
    said = quoted(sentence)
    kind: Kind = "token" if FINAL.search(sentence) else "words" if len(said) > 1 else "theme"
    return Claim(kind, sentence, said)


class Elsewhere(Sequence[Windows]):
    """Windows of other features, and what is asked of them again and again, found once."""

    def __init__(self, windows: Iterable[Windows]) -> None:
        """Of these, as they come."""
        self._windows = tuple(windows)
        self._holding, self._shares = dict[str, int](), dict[str, float]()
        self._means: Doubles | None = None

    @classmethod
    def of(cls, windows: Sequence[Windows]) -> Elsewhere:
        """Those given; themselves where they are such already."""
        return windows if isinstance(windows, Elsewhere) else cls(windows)

    @overload
    def __getitem__(self, at: int) -> Windows: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[Windows]: ...
    def __getitem__(self, at: int | slice) -> Windows | Sequence[Windows]:
        """One, or some."""
        return self._windows[at]

    def __len__(self) -> int:
        """How many features."""
        return len(self._windows)

    @cached_property
    def often(self) -> int:
        """How many fire in some window."""
        return sum(bool(w.firing) for w in self._windows)

    @cached_property
    def firing(self) -> list[str]:
        """The windows they fire in."""
        return [text for w in self._windows for text in w.firing]

    @cached_property
    def _spoken(self) -> list[frozenset[str]]:
        return [words for w in self._windows for words in w.spoken["firing"]]

    def holding(self, word: str) -> int:
        """How many of these hold a word, as by `_holding`."""
        if word not in self._holding:
            self._holding[word] = _holding_of(self.firing, self._spoken, word)
        return self._holding[word]

    def share(self, word: str) -> float:
        """Mean share of activation on a word, of those whose words were counted."""
        if word not in self._shares:
            counted = [w.words for w in self._windows if w.words]
            self._shares[word] = float(np.mean([_share(words, word) for words in counted])) if counted else 0.0
        return self._shares[word]

    def means(self, embedder: Embedder, width: int) -> Doubles:
        """(n, width): of each that fires somewhere where the first few windows lie in the mean; by one embedder.

        None of them where they are too few to be compared with.
        """
        if self._means is None:
            often = [w.firing[:FEWEST] for w in self._windows if w.firing]
            means = [_rows(embedder, some).mean(axis=0) for some in often] if len(often) >= FEWEST_DEALT else []
            self._means = np.array(means) if means else np.zeros((0, width))
        return self._means


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Theme:
    """What a theme sentence is judged by: where windows lie, float64, and the line that chance would reach.

    ``windows``: the feature's, of either kind. ``others`` (k, e): of each other feature the mean of some of the windows
    in which it fires. ``dealt``: AUROC on the windows that 95 % of other features' theme sentences keep below; NaN
    where there are too few.
    """

    embedder: Embedder
    windows: ContextEmbeddings
    others: Doubles
    dealt: float

    @classmethod
    def of(cls, own: Windows, others: Elsewhere, dealt: Sequence[str] | Doubles, embedder: Embedder) -> _Theme | None:
        """None where there are too few windows, or too few others to compare with."""
        if min(len(own.firing), len(own.silent)) < FEWEST or max(others.often, len(dealt)) < FEWEST_DEALT:
            return None
        windows = ContextEmbeddings.of(_rows(embedder, own.firing), _rows(embedder, own.silent))
        line = float("nan")
        if len(dealt) >= FEWEST_DEALT:
            rows = dealt if isinstance(dealt, np.ndarray) else _rows(embedder, dealt)
            line = float(np.quantile(detection_table(rows, [windows]), ABOVE_DEALT))
        return cls(
            embedder=embedder,
            windows=windows,
            others=others.means(embedder, windows.firing.shape[1]),
            dealt=line,
        )

    def judge(self, sentence: str) -> Found:
        """Whether a sentence tells the windows by more than other sentences do, and these by more than other windows.

        Three lines, all to be passed: an AUROC between firing and silent windows; it is above that of 95 % of the dealt
        sentences on the same windows (any sentence may tell a conversation from an essay); and the sentence is nearer
        to where this feature fires than to where 98 % of the other features fire (a true commonplace is near all).
        """
        row = _rows(self.embedder, [sentence])
        area = float(detection_table(row, [self.windows])[0, 0])
        near = float(self.windows.firing.astype(np.float64).mean(axis=0) @ row[0])
        figures, failed = {"auroc": area, "cosine": near, "line": AREA}, []
        if area < AREA:
            failed.append(f"of which {AREA:.2f} would do")
        if not np.isnan(self.dealt):
            figures["dealt"] = self.dealt
            if area <= self.dealt:
                failed.append(f"as one in twenty of other features' sentences do ({self.dealt:.2f})")
        if len(self.others):
            figures["elsewhere"] = float(np.quantile(self.others @ row[0], ABOVE_OTHERS))
            if near <= figures["elsewhere"]:
                failed.append("and it is as near to where other features fire")
        why = f"it tells windows where the feature fires from others with AUROC {area:.2f}"
        if failed:
            return "unsupported", ", ".join([why, *failed]), figures
        return "supported", f"{why}, and better than sentences of other features do", figures


def _rows(embedder: Embedder, texts: Sequence[str]) -> Doubles:
    """(n, e) float64: where texts lie."""
    return embedder.encode(list(texts)).astype(np.float64)


def check_claims(
    claims: Sequence[Claim],
    own: Windows,
    *,
    others: Sequence[Windows] = (),
    dealt: Sequence[str] | Doubles = (),
    embedder: Embedder,
) -> tuple[ClaimStatus, ...]:
    """A status for each sentence of one feature's text.

    Args:
        claims: of ``claims_of``.
        own: what is known of where the feature fires.
        others: the same of other features, of whom silent windows are not needed; ``Elsewhere`` keeps what it found.
        dealt: theme sentences of other features' texts, as many of them as there are, or where the embedder places
            them (n, e).
        embedder: places sentences and windows; best one that keeps what it has read.
    """
    elsewhere = Elsewhere.of(others)
    theme = _Theme.of(own, elsewhere, dealt, embedder)
    return tuple(_checked(claim, own, elsewhere, theme) for claim in claims)


def declines(sentence: str) -> bool:
    """Whether a theme sentence says that there is no topic, as verbalizers say that were taught to."""
    return _NO_TOPIC.search(sentence) is not None


def label_of(claims: Sequence[ClaimStatus]) -> str:
    """A short label of the supported sentences alone: the token in quotes, the theme's own words; else ""."""
    parts = []
    for claim in claims:
        if claim.status == "supported" and claim.kind != "words":
            part = f'"{token_of(claim.sentence)[0]}"' if claim.kind == "token" else topic_of(claim.sentence)
            parts += [part] if part and part not in parts else []
    parts.sort(key=lambda part: part[0] != '"')  # the word before the theme
    return "; ".join(parts)


def topic_of(sentence: str) -> str:
    """The topic words of a theme sentence, as it has them: without its opening, up to what follows the topic."""
    rest = sentence[found.end() :] if (found := _OPENER.match(sentence)) else sentence
    topic = (rest[: cut.start()] if (cut := _CUT.search(rest, 1)) else rest).strip(" \"“”'‘’*_.")
    if len(topic) <= _LONGEST:
        return topic
    return f"{topic[: _LONGEST + 1].rsplit(None, 1)[0]} ..."


def _checked(claim: Claim, own: Windows, others: Elsewhere, theme: _Theme | None) -> ClaimStatus:
    if claim.kind == "token":
        found = _token(claim, own, others)
    elif claim.kind == "words":
        found = _words(claim, own, others)
    elif declines(claim.text):
        found = ("unchecked", "it says that there is no particular topic", {})
    else:
        found = theme.judge(claim.text) if theme is not None else ("unchecked", _FEW, {})
    status, why, figures = found
    figures = {name: round(number, 4) for name, number in figures.items()}
    return ClaimStatus(
        sentence=claim.text, kind=claim.kind, status=status, why=why, figures=figures, quoted=claim.quoted
    )


def token_of(sentence: str) -> tuple[str, ...]:
    """What a sentence about the final token says it is: its last word, and the mark at its end where there is one."""
    found = FINAL.search(sentence)
    said = quoted(sentence[found.end() :] if found else sentence) or quoted(sentence)
    if not said:
        return ()
    words, mark = WORD.findall(said[0]), said[0][-1]
    return (*words[-1:], *((mark,) if not mark.isalnum() else ()))


def _token(claim: Claim, own: Windows, others: Elsewhere) -> Found:
    """Whether enough of the activation is on the token that the sentence names."""
    named = token_of(claim.text)
    if not named:
        return "unchecked", "it quotes no token", {}
    if own.words is None:
        return "unchecked", "nobody counted on which words the feature fires", {}
    if not own.words:
        return "unchecked", "the feature never fired in the texts that were read", {}
    token = max(named, key=lambda one: _share(own.words, one))
    share, base = _share(own.words, token), others.share(token)
    line = max(SHARE, TIMES * base)
    why = f'{share:.0%} of its activation is on "{token}", where {line:.0%} would do'
    return ("supported" if share >= line else "unsupported"), why, {"share": share, "dealt": base, "line": line}


def _share(words: Mapping[str, float] | None, word: str) -> float:
    """Share of activation on a word, its plural and its singular."""
    return sum((words or {}).get(one, 0.0) for one in variants(word))


def _words(claim: Claim, own: Windows, others: Elsewhere) -> Found:
    """Whether at least half of the words stand out: in windows in which it fires, or by its activation."""
    if min(len(own.firing), len(own.silent)) < FEWEST and not own.words:
        return "unchecked", _FEW, {}
    words = list({word.lower(): word for word in claim.quoted}.values())
    rest = len(own.silent) + len(others.firing)
    told, stand = [], 0
    for word in words:
        held = _holding(own, "firing", word)
        elsewhere = _holding(own, "silent", word) + others.holding(word)
        base = (elsewhere + 0.5) / (rest + 1)
        often = bool(own.firing) and held >= HOLD * len(own.firing)
        rare = often and rest > 0 and float(binom.sf(held - 1, len(own.firing), base)) <= LEVEL
        stand += rare or _share(own.words, word) >= SHARE
        told.append(f'"{word}" in {held} of {len(own.firing)} windows')
    found: Status = "supported" if 2 * stand >= len(words) else "unsupported"
    return found, f"{stand} of {len(words)} stand out: {', '.join(told)}", {"stand out": stand, "words": len(words)}


def _holding(windows: Windows, kind: Literal["firing", "silent"], word: str) -> int:
    """How many windows of a kind hold a word whole, in any case, or its plural or singular; a phrase as it stands."""
    return _holding_of(getattr(windows, kind), windows.spoken[kind], word)


def _holding_of(texts: Sequence[str], spoken: Sequence[frozenset[str]], word: str) -> int:
    """The same of any windows; ``spoken``: their words."""
    if not WORD.fullmatch(word):
        return sum(word.lower() in text.lower() for text in texts)
    forms = variants(word)
    return sum(not forms.isdisjoint(words) for words in spoken)
