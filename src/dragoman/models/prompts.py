"""A model's activations at tokens of a person's own prompts.

In: a model's site, prompts, and of each the token that is meant. Out: ``Activations``: the vectors, and the prompt,
token and position of each. Refuses prompts without a word, tokens that are not in the prompt or are there several
times, prompts beyond 4096 tokens, and what stands in the attention sink: the first position, and whatever is as long.

A token is named by what is written there ("mango"; of a word of several tokens the last is taken, which has read all of
it), by its position ("#7", 0 being the first), or as "last" or "all". Where the same is written twice, "mango#2" is the
second. A prompt is read as it stands, without a chat's turns, alone, so that other prompts have no part in its numbers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dragoman.core import Directions, Floats, Refusal, Site, Talk
from dragoman.models.harvest import OUTLIER, Reader, encoded_whole, reading, refuse_undefined
from dragoman.models.load import check_device, text_stack
from dragoman.records import PromptToken
from dragoman.store import read_jsonl, read_texts, refuse_halves
from dragoman.store.spans import shown
from dragoman.store.textfiles import kind_of

MOST_TOKENS = 4096  # of a prompt
NAMED = 24  # tokens that a refusal names
_NUMBERED = re.compile(r"(?P<text>.*)#(?P<number>\d{1,6})", re.DOTALL)
# Read beside, so that what is usual of the model is not told by a prompt of three tokens, of which one may be a sink.
_USUAL = (
    "The committee met on Tuesday to discuss the new library, and most of those present agreed with the plan.",
    "Rain fell over the hills all night; by morning the river had risen to the lowest step of the old mill.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """``text``: what the model reads; ``at``: the token that is meant, see the module."""

    text: str
    at: str = "last"


@dataclass(frozen=True, slots=True, kw_only=True)
class Activations:
    """Activations at one site: ``directions`` of kind "activation", and each one's ``tokens``."""

    directions: Directions
    tokens: tuple[PromptToken, ...]

    @property
    def site(self) -> Site:
        """Where they were read."""
        return self.directions.site

    def __len__(self) -> int:
        """How many."""
        return len(self.tokens)

    def __iter__(self) -> Iterator[str]:
        """Their ids, such as ``p0t5``: prompt 0, position 5."""
        return iter(self.directions.ids)

    def __repr__(self) -> str:
        """How many, where."""
        return f"Activations({len(self)} at {self.site}, width {self.directions.d_model})"

    @property
    def rows(self) -> Floats:
        """The activations (n, d_model) at the length they have in the stream."""
        return self.directions.unit * self.directions.norms[:, None]


def activations(
    source: Site | str,
    prompts: str | Path | Sequence[str | Mapping[str, Any]],
    at: str | int = "last",
    *,
    dtype: str = "float32",
    device: str = "cpu",
    talk: Talk | None = None,
) -> Activations:
    """Read a model's activations at tokens of prompts.

    Args:
        source: the model and the block whose output is read, or its text, MODEL:BLOCK.
        prompts: one, several, or the path of a file of them; an entry or line of JSON may say its own "at".
        at: which token: what is written there, "last", "all", or a position; see the module.
        dtype: the model computes in.
        device: the model runs on.
        talk: where progress goes.

    Raises:
        Refusal: as the module says, and what opening a model refuses.
    """
    site, asked = source if isinstance(source, Site) else Site.parse(source), prompts_of(prompts, at)
    check_device(device)
    talk = talk or Talk()
    talk.say(f"reading {len(asked)} prompt{'' if len(asked) == 1 else 's'} with {site.model}")
    return read_prompts(Reader.open(site, dtype=dtype, device=device), asked, talk)


def prompts_of(given: object, at: str | int = "last") -> list[Prompt]:
    """Prompts as a caller gives them: one text, several, or a file of them (a ``Path``: .txt, .jsonl).

    Raises:
        Refusal: there are none, one has no word, or is no text; an "at" that is neither a text nor a position.
    """
    if isinstance(given, Path):
        entries: list[object] = _entries(given)
        what = f"{given}, prompt"
    else:
        entries = [given] if isinstance(given, str | Mapping) else list(given) if isinstance(given, Sequence) else []
        what = "prompt"
    if not entries:
        raise Refusal("prompts", "there are none", "pass a text, a list of them, or the path of a file")
    return [_prompt(entry, at, f"{what} {number}") for number, entry in enumerate(entries)]


def _entries(path: Path) -> list[object]:
    kind = kind_of(path.name)
    if kind not in (".txt", ".jsonl"):
        why = f"prompts are not read from '{shown(path.suffix)}' files"
        raise Refusal(f"{path}", why, "pass a .txt of a prompt a line, or a .jsonl")
    return list(read_jsonl(path)) if kind == ".jsonl" else list(read_texts(path))


def _prompt(entry: object, at: str | int, what: str) -> Prompt:
    text, own = (entry.get("text"), entry.get("at", at)) if isinstance(entry, Mapping) else (entry, at)
    if not isinstance(text, str):
        raise Refusal(what, 'it is no text and has no string "text"', 'pass a text, or {"text": ..., "at": ...}')
    if not text.strip():
        raise Refusal(what, "there is no word in it", "leave it out")
    refuse_halves(text, what)
    if isinstance(own, int) and not isinstance(own, bool) and own >= 0:
        own = f"#{own}"
    if not isinstance(own, str) or not own:
        instead = 'say "last", "all", a word of it, or a position'
        raise Refusal(f"{what} at {shown(repr(own))}", "that is no token", instead)
    return Prompt(text=text, at=own)


def read_prompts(reader: Reader, prompts: Sequence[Prompt], talk: Talk | None = None) -> Activations:
    """Activations of an open model at the prompts' tokens; refused as the module says."""
    talk, width = talk or Talk(), reader.width
    split = [_Split.of(reader.tokenizer, prompt, number) for number, prompt in enumerate(prompts)]
    chosen = [one.chosen() for one in split]  # refused before the model computes anything
    usual = [_Split.of(reader.tokenizer, Prompt(text=text), number) for number, text in enumerate(_USUAL)]
    streams = []
    for done, one in enumerate(split, 1):
        streams.append(_stream(reader, one.ids))
        talk.bar("prompts", done, len(split))
    longest = _longest([*zip(streams, split, strict=True), *((_stream(reader, one.ids), one) for one in usual)])
    rows, ids, tokens, sinks = [np.zeros((0, width), np.float32)], list[str](), list[PromptToken](), 0
    for stream, one, positions in zip(streams, split, chosen, strict=True):
        norms = np.linalg.norm(stream.astype(np.float64), axis=1)
        bad = [p for p in positions if not np.isfinite(norms[p])]
        refuse_undefined(len(bad), len(positions), reader.site, reader.model.dtype)
        kept = [p for p in positions if norms[p] <= longest]
        sinks += len(positions) - len(kept)
        if not kept:
            p = positions[0]
            why = f"it is an attention sink there, {norms[p] / (longest / OUTLIER):.0f} times as long as usual"
            raise Refusal(f"{one.called(p)} at {reader.site}", why, "name another token")
        rows.append(stream[kept])
        tokens += [one.token(p) for p in kept]
        ids += [f"p{one.number}t{p}" for p in kept]
    if sinks:
        talk.say(f"left out {sinks} token{'' if sinks == 1 else 's'} that are attention sinks")
    labels = [token.token.strip() or repr(token.token) for token in tokens]
    made = Directions.of(
        reader.site, np.concatenate(rows), ids, labels=labels, kind="activation", origin=f"activations at {reader.site}"
    )
    return Activations(directions=made, tokens=tuple(tokens))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Split:
    """A prompt as tokens: ``ids`` and ``spans`` of characters, equal where a token has none."""

    prompt: Prompt
    number: int
    ids: list[int]
    spans: list[tuple[int, int]]

    @classmethod
    def of(cls, tokenizer: Any, prompt: Prompt, number: int) -> _Split:
        encoded = encoded_whole(tokenizer, [prompt.text], MOST_TOKENS + 1)
        if len(encoded.ids[0]) > MOST_TOKENS:
            raise Refusal(f"prompt {number}", f"it has more than {MOST_TOKENS} tokens", "shorten it")
        return cls(prompt=prompt, number=number, ids=encoded.ids[0], spans=encoded.spans[0])

    @property
    def open(self) -> list[int]:
        """Positions that can be asked for: of pieces of one character the last; not the first position."""
        ends = {end: k for k, (begin, end) in enumerate(self.spans) if end > begin and k}
        return sorted(ends.values())

    def written(self, position: int) -> str:
        begin, end = self.spans[position]
        return self.prompt.text[begin:end]

    def token(self, position: int) -> PromptToken:
        begin, end = self.spans[position]
        return PromptToken(
            prompt=self.prompt.text, number=self.number, token=self.written(position), position=position, begin=begin,
            end=end,
        )  # fmt: skip

    def called(self, position: int) -> str:
        return f"token '{shown(self.written(position), 40)}' (position {position}) of prompt {self.number}"

    def chosen(self) -> list[int]:
        """The positions that are meant."""
        at, there = self.prompt.at, self.open
        if not there:
            why = "it has no token behind the first position, which is an attention sink"
            raise Refusal(f"prompt {self.number}", why, "write more than one word")
        if at == "all":
            return there
        if at == "last":
            return there[-1:]
        found = self._ending(at)
        numbered = _NUMBERED.fullmatch(at) if not found else None
        if numbered and not numbered["text"]:
            return [self._position(int(numbered["number"]))]
        if numbered:
            at, which = numbered["text"], int(numbered["number"])
            found = self._ending(at)
            if found and not 1 <= which <= len(found):
                why = f"it is there {len(found)} time{'' if len(found) == 1 else 's'}"
                what = f"'{shown(self.prompt.at)}' of prompt {self.number}"
                raise Refusal(what, why, f"say {self._choices(at, found)}")
            found = found[which - 1 : which]
        what = f"'{shown(at)}' of prompt {self.number}"
        if not found:
            named = ", ".join(f"'{shown(self.written(p), 30)}'" for p in there[:NAMED])
            more = f" and {len(there) - NAMED} more" if len(there) > NAMED else ""
            raise Refusal(what, "no token ends with it there", f"name one of {named}{more}")
        if len(found) > 1:
            raise Refusal(what, f"it is there {len(found)} times", f"say {self._choices(at, found)}")
        if found[0] not in there:
            self._position(found[0])  # refuses the first position
        return found

    def _choices(self, at: str, found: Sequence[int]) -> str:
        return " or ".join(f"'{shown(at)}#{k}' (position {p})" for k, p in enumerate(found[:NAMED], 1))

    def _position(self, position: int) -> int:
        """A position, if it can be asked for."""
        there, what = self.open, f"position {position} of prompt {self.number}"
        if position == 0 or (position < len(self.spans) and self.spans[position][0] == self.spans[position][1]):
            why = "the first position and the model's own marks are attention sinks, which hold no meaning of the text"
            raise Refusal(what, why, f"name one from {there[0]} to {there[-1]}")
        if position not in there:
            why = "it is a piece of a character" if position < len(self.spans) else f"it has {len(self.spans)} tokens"
            raise Refusal(what, why, f"name one from {there[0]} to {there[-1]}")
        return position

    def _ending(self, at: str) -> list[int]:
        """Positions at which tokens end that together are ``at``, blanks before it aside."""
        text, wanted = self.prompt.text, at.strip()
        if not wanted:
            return []
        ends = {end: k for k, (begin, end) in enumerate(self.spans) if end > begin}
        begins = set[int]()
        for begin, end in self.spans:
            written = text[begin:end]
            begins |= {begin, begin + len(written) - len(written.lstrip())} if written else set()
        places = (m.start() for m in re.finditer(f"(?={re.escape(wanted)})", text))
        return [ends[p + len(wanted)] for p in places if p in begins and p + len(wanted) in ends]


@torch.inference_mode()
def _stream(reader: Reader, ids: Sequence[int]) -> Floats:
    """What a prompt's tokens leave behind the site's block (T, d_model)."""
    base: Any = text_stack(reader.model)
    with reading(reader.model, reader.site.block) as caught:
        base(input_ids=torch.tensor([list(ids)], device=reader.model.device), use_cache=False)
    return caught[0][0].detach().float().cpu().numpy()


def _longest(streams: Sequence[tuple[Floats, _Split]]) -> float:
    """The length above which an activation is a sink's: 5 times the median, as wherever streams are read."""
    norms = np.concatenate([np.linalg.norm(x.astype(np.float64), axis=1)[one.open] for x, one in streams])
    return OUTLIER * float(np.median(norms[np.isfinite(norms)]))
