"""The nouns every room shares, and how dragoman says no.

In: plain values; addresses, and sentences that may hold some. Out: small frozen types whose arrays are checked once,
here, and read-only from then on; addresses without secrets. No files, no models, no statistics.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
NO_LENGTH = 1e-12  # a row shorter than this has no direction
BAND = 4096  # rows that are brought to unit length at a time
MOST_TOKENS = 32_768  # of one answer: several hours of it on a CPU, and more than any verbalizer was trained to say
MOST_SAMPLES, MOST_TOGETHER = 1_000, 65_536  # explanations of one feature; directions decoded in one batch
MOST_SEED = 2**63 - 1
Kind = Literal["feature", "random", "shuffled", "custom", "activation"]
Place = Literal["output", "input", "written", "inside"]

_BLOCKS = 10_000  # no model has so many
_SITE = re.compile(r"^(?P<model>[^@]+?)(?:@(?P<revision>[^:@]+))?:(?P<block>[0-9]+)$")

# Names of places in a model, as TransformerLens, SAELens, Hugging Face, nnsight, dictionary_learning and sparsify write
# them. Lists of blocks, by class (model.layers; multimodal: model.language_model.layers; GPT-2: transformer.h;
# Pythia: gpt_neox.layers; OPT: model.decoder.layers; MPT: transformer.blocks), with or without wrappers around them.
_LIST = r"(?:(?:model|language_model|text_model|transformer|gpt_neox|decoder|base_model)\.)*(?:layers|h|blocks)"
_NUMBER = r"(?:\.(?P<block>\d{1,6})|\[(?P<index>\d{1,6})\])"
_TUPLE = r"(?:\.0|\[0\])?"  # a block's output is a tuple in most classes, and its first entry is the stream
_WHOLE_BLOCK = re.compile(
    rf"{_LIST}{_NUMBER}(?:\.(?:(?P<output>output|hook_out|hook_resid_post)|(?P<input>inputs?|hook_in|hook_resid_pre)){_TUPLE})?"
)
_IN_NAME = re.compile(r"resid_(?P<where>post|pre)_layer_(?P<block>\d{1,6})")
# What a block's MLP or attention adds to the stream: a direction of that block's output, and no encoder's input.
_WRITTEN = re.compile(
    rf"{_LIST}{_NUMBER}\.(?:hook_(?:mlp|attn)_out|mlp|post_feedforward_layernorm)(?:\.(?:output|hook_out){_TUPLE})?"
)
_INSIDE = re.compile(rf"{_LIST}{_NUMBER}\.[\w.\[\]]+")

# Addresses and messages are kept and shown without passwords, signatures and tokens.
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://\S+")
_CLOSING = re.compile(r"[;:,.)\]}'\"…]*$")  # what ends a sentence or a quotation, not the address
_PORT = re.compile(r"[^@]*:(?!\d*$)[^@]*")  # a "host:port" whose port is no number is the start of "user:password"
_TOKEN = re.compile(r"\b(hf_|hf_oauth_|api_org_)[A-Za-z0-9]{16,}")
_BEARER = re.compile(r"\b(Bearer|Basic)\s+[\w.~+/=-]{8,}", re.IGNORECASE)


class Refusal(Exception):
    """dragoman will not do this: *what* was asked, *why* it cannot be, what to do *instead*.

    The command line prints it as one sentence and exits with 1; nothing has been written by halves.
    """

    def __init__(self, what: str, why: str, instead: str) -> None:
        """Keep the three parts without passwords, signatures and tokens; the message joins them into one sentence."""
        self.what, self.why, self.instead = (without_secrets(part) for part in (what, why, instead))
        super().__init__(f"{self.what}: {self.why}; {self.instead}.")


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during long work; its one sentence says what was kept and how to go on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Talk:
    """Where progress goes: ``say(sentence)``, ``bar(what, done, total)``, ``step(what)``; nowhere unless told.

    ``kept(folder)``: called once the folder of the run that is made is there, and is this run's.
    """

    say: Callable[[str], None] = lambda _text: None
    bar: Callable[[str, int, int], None] = lambda _what, _done, _total: None
    step: Callable[[str], None] = lambda _name: None
    kept: Callable[[Path], None] = lambda _folder: None

    def towards(self, what: str) -> Callable[[int, int], None]:
        """A bar's callback for one piece of work."""
        return lambda done, total: self.bar(what, done, total)


@dataclass(frozen=True, slots=True)
class Site:
    """A residual stream: the output of decoder block ``block`` of a model.

    Block k's output is ``hidden_states[k + 1]`` in transformers (entry 0 is the embedding), except for the last block,
    whose entry transformers normalises; hooks on the block are right for all of them. This and ``Hook`` are the only
    places where layer conventions are translated. Prints and parses as ``model@revision:block``.
    """

    model: str
    block: int
    revision: str | None = None

    def __post_init__(self) -> None:
        """Refuse a negative block."""
        if self.block < 0:
            instead = "name the block whose output is meant, for example :20 for blocks.20.hook_resid_post"
            raise Refusal(f"site {self.model}:{self.block}", "blocks are counted from 0", instead)

    @classmethod
    def parse(cls, text: str) -> Site:
        """Read ``model:block`` or ``model@revision:block``."""
        text = str(text)  # a caller may pass what is no text
        found = _SITE.match(text.strip())
        if not found:
            asked = f"site '{text if len(text) <= 100 else text[:100] + '...'}'"
            instead = "write it as MODEL:BLOCK, for example Qwen/Qwen2.5-7B-Instruct:20"
            raise Refusal(asked, "a site names a model and a block", instead)
        block = found["block"].lstrip("0") or "0"
        if len(block) > len(str(_BLOCKS)) or int(block) >= _BLOCKS:
            shown = block if len(block) < 20 else f"{block[:20]}... ({len(block)} digits)"
            raise Refusal(f"site {found['model']}:{shown}", f"no model has {_BLOCKS} blocks", "name a block it has")
        return cls(found["model"], int(block), found["revision"])

    @classmethod
    def before_block(cls, model: str, block: int, revision: str | None = None, *, what: str | None = None) -> Site:
        """The stream that enters a block: what left the block before.

        Args:
            model: as of a site.
            block: the block that is entered (``blocks.K.hook_resid_pre``).
            revision: as of a site.
            what: how a refusal calls what reads there.

        Raises:
            Refusal: what enters block 0 is the embedding, and no site.
        """
        return cls(model, cls.block_before(block, what or f"what enters block {block} of {model}"), revision)

    @staticmethod
    def block_before(block: int, what: str) -> int:
        """The block whose output enters ``block``, where the model is not known; refusals as of ``before_block``."""
        if block < 1:
            raise Refusal(
                what,
                "it reads the embedding, which enters block 0 and is not the output of a block",
                "use one at the output of a block (blocks.K.hook_resid_post)",
            )
        return block - 1

    def __str__(self) -> str:
        """``model@revision:block``."""
        return f"{self.model}{'@' + self.revision if self.revision else ''}:{self.block}"


@dataclass(frozen=True, slots=True)
class Hook:
    """A place of block ``block``: its "output", its "input", what its MLP or attention has "written", or "inside"."""

    block: int
    place: Place

    @classmethod
    def parse(cls, name: str) -> Hook | None:
        """The place that a hook's or module's name means; None for a name of another form."""
        found = _WHOLE_BLOCK.fullmatch(name)
        if found:
            return cls._at(found, "input" if found["input"] else "output")
        found = _IN_NAME.fullmatch(name)
        if found:
            return cls(int(found["block"]), "output" if found["where"] == "post" else "input")
        found = _WRITTEN.fullmatch(name)
        if found:
            return cls._at(found, "written")
        found = _INSIDE.fullmatch(name)
        return cls._at(found, "inside") if found else None

    @classmethod
    def _at(cls, found: re.Match[str], place: Place) -> Hook:
        return cls(int(found["block"] or found["index"]), place)


_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_DIRECTIONS = re.compile("[\u202a-\u202e\u2066-\u2069]")


def harmless(text: str) -> str:
    """Text that shows the words that are there, in HTML: no control characters, no half characters.

    Embeddings, overrides and isolates of direction show other words; they are written out, as on the terminal.
    """
    written = _DIRECTIONS.sub(lambda found: f"\\u{ord(found[0]):04x}", _CONTROLS.sub("\N{REPLACEMENT CHARACTER}", text))
    return written.encode("utf-8", "replace").decode()


def public_address(address: str) -> str:
    """An address without user, password, query and fragment; other text (a path, a hub reference) unchanged.

    What stands behind the question mark may be a signature, and what stands before the host's ``@`` a password.
    """
    scheme, there, rest = address.partition("://")
    if not there or not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*", scheme.strip()):
        return _blotted(address)
    authority = re.split(r"[/?#\\]", rest, maxsplit=1)[0]
    if "@" in authority:
        rest = authority.rpartition("@")[2] + rest[len(authority) :]
    elif "@" in rest and _PORT.fullmatch(authority):  # a password with a slash or a question mark in it
        rest = rest.rpartition("@")[2]
    return _blotted(f"{scheme}://{re.split(r'[?#]', rest, maxsplit=1)[0]}")


def without_secrets(text: str) -> str:
    """A sentence whose addresses are public ones, and whose access tokens are blotted out."""
    if "://" in text:
        text = _ADDRESS.sub(_public, text)
    return _blotted(text)


def _public(found: re.Match[str]) -> str:
    address = found[0]
    closing = _CLOSING.search(address)
    end = closing[0] if closing else ""
    return public_address(address[: len(address) - len(end)]) + end


def _blotted(text: str) -> str:
    return _BEARER.sub(r"\1 ***", _TOKEN.sub(r"\1***", text))


def is_format(told: object, number: int) -> bool:
    """Whether what a file says of its format is this number; true and 1.0 are none."""
    return type(told) is int and told == number


def frozen(array: Any, dtype: Any = np.float32) -> NDArray[Any]:
    """A contiguous read-only copy, so that a value type cannot be changed behind its back.

    What is so already, and is no view of what may still change, is taken as it is: maps and tables are gigabytes.
    """
    if isinstance(array, np.ndarray) and array.dtype == dtype and array.base is None:
        flags = array.flags
        if flags.c_contiguous and not flags.writeable:
            return array
    out = np.array(array, dtype=dtype, order="C")
    out.flags.writeable = False
    return out


def row_lengths(rows: NDArray[Any]) -> NDArray[np.float64]:
    """Lengths ``(n,)`` of rows ``(n, d)``, some thousand at a time: a dictionary's would take gigabytes in float64."""
    bands = (rows[start : start + BAND].astype(np.float64) for start in range(0, len(rows), BAND))
    return np.concatenate([np.zeros(0), *(np.linalg.norm(band, axis=1) for band in bands)])


def unit_rows(rows: NDArray[Any], what: str) -> tuple[Floats, Floats]:
    """Split rows ``(n, d)`` into unit rows and norms ``(n,)``; refuse zero, infinite and undefined rows."""
    rows = np.asarray(rows)
    unit, norms = np.empty(rows.shape, np.float32), np.empty(len(rows), np.float32)
    for start in range(0, len(rows), BAND):
        band = slice(start, start + BAND)
        wide = rows[band].astype(np.float64)
        bad = np.flatnonzero(~np.isfinite(wide).all(axis=1))
        if bad.size:
            why = "it holds NaN or infinite numbers"
            raise Refusal(f"{what}, row {start + bad[0]}", why, "drop the row or mend the file")
        found = np.linalg.norm(wide, axis=1)
        if (found < NO_LENGTH).any():
            row = start + int(np.flatnonzero(found < NO_LENGTH)[0])
            raise Refusal(f"{what}, row {row}", "its length is zero, so it has no direction", "leave that row out")
        unit[band], norms[band] = wide / found[:, None], found
    unit.flags.writeable = norms.flags.writeable = False
    return unit, norms


@dataclass(frozen=True, slots=True)
class Directions:
    """Unit rows in the residual stream at a site.

    ``unit``: (n, d_model) float32, read-only. ``norms``: (n,) lengths before normalising. ``ids`` and ``labels``: n
    strings. ``kind`` says what they are; ``origin`` where they came from (file, digest, how they crossed). ``dead``:
    ids of rows that were left out of these because they have no direction, their length being zero.
    """

    site: Site
    ids: tuple[str, ...]
    unit: Floats
    norms: Floats
    labels: tuple[str, ...]
    kind: Kind = "feature"
    origin: str = ""
    dead: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        site: Site,
        rows: NDArray[Any],
        ids: Sequence[str | int],
        *,
        labels: Sequence[str] | None = None,
        kind: Kind = "feature",
        origin: str = "",
    ) -> Directions:
        """Check raw rows ``(n, d_model)`` and keep them at unit length."""
        rows = np.asarray(rows)
        if rows.ndim != 2 or len(ids) != len(rows) or not len(rows):
            what = f"directions of shape {rows.shape} with {len(ids)} ids"
            why = "directions are one row each with one id each, and at least one"
            raise Refusal(what, why, "pass rows of shape (n, d_model)")
        unit, norms = unit_rows(rows, f"directions from {origin or site}")
        names = tuple(str(i) for i in ids)
        return cls(site, names, unit, norms, tuple(labels) if labels is not None else ("",) * len(names), kind, origin)

    def __len__(self) -> int:
        """How many directions."""
        return len(self.ids)

    def __repr__(self) -> str:
        """How many, of what kind, where."""
        return f"Directions({len(self)} of kind {self.kind} at {self.site}, width {self.d_model})"

    @property
    def d_model(self) -> int:
        """Width of the stream."""
        return int(self.unit.shape[1])

    def pick(self, ids: Iterable[str | int]) -> Directions:
        """The named directions, in the order asked; refuse unknown ids."""
        where = {name: row for row, name in enumerate(self.ids)}
        wanted = [str(i) for i in ids]
        missing = [i for i in wanted if i not in where]
        if missing and missing[0] in self.dead:
            why = "its row is zero, so it has no direction (a dead feature)"
            raise Refusal(f"feature {missing[0]} of {self.origin or self.site}", why, "leave it out of --features")
        if missing:
            why = f"it is not among the {len(self)} directions of {self.origin or self.site}"
            raise Refusal(f"feature {missing[0]}", why, "name one of them (ids are as in the file)")
        rows = [where[i] for i in wanted]
        return replace(
            self,
            ids=tuple(wanted),
            unit=frozen(self.unit[rows]),
            norms=frozen(self.norms[rows]),
            labels=tuple(self.labels[r] for r in rows),
        )

    def moved(self, site: Site, rows: NDArray[Any], origin: str) -> Directions:
        """The same features elsewhere: new rows ``(n, width)`` at another site, ids, labels and kind kept."""
        unit, norms = unit_rows(rows, f"directions after {origin}")
        return replace(self, site=site, unit=unit, norms=norms, origin=origin)


def refuse_other_site(what: str, have: Site, need: Site) -> None:
    """Refuse when two things do not live in the same residual stream.

    Revisions are compared only where both are stated.
    """
    same = (have.model, have.block) == (need.model, need.block)
    if same and have.revision and need.revision:
        same = have.revision == need.revision
    if not same:
        raise Refusal(
            f"{what} at {have}", f"it is needed at {need}", f"use one made for {need}, or make it again there"
        )


@dataclass(frozen=True, slots=True)
class Background:
    """What activations at a site have in common.

    ``mean``: (d_model,) mean of unit-normalised activations, **not** renormalised: its length is
    sqrt(1 - spread), which is also the cosine a constant predictor reaches. ``n`` activations, from texts of digest
    ``texts``.
    """

    site: Site
    mean: Floats = field(repr=False)
    n: int
    texts: str = ""

    @property
    def spread(self) -> float:
        """Var = 1 - |mean|^2, the variance of unit-normalised activations."""
        return float(1.0 - np.sum(self.mean.astype(np.float64) ** 2))

    @property
    def constant_cosine(self) -> float:
        """Expected cosine of an activation with the mean direction: what predicting a constant scores."""
        return float(np.linalg.norm(self.mean.astype(np.float64)))


@dataclass(frozen=True, slots=True)
class Explanation:
    """What a verbalizer said of one vector.

    ``text`` is what stood between the tags, ``raw`` everything decoded, ``problems`` the health checks that failed
    (empty means none did), ``tokens`` how many were decoded. ``log_probability``: mean natural-log probability, at
    temperature 1, of the tokens said, those that end the text or close the tag included, whatever temperature they
    were drawn at; None where nobody counted it. Batches round it differently, so it has no part in equality.
    """

    text: str
    raw: str
    problems: tuple[str, ...] = ()
    tokens: int = 0
    log_probability: float | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number that says what it was compared with.

    ``value`` with interval ``[low, high]`` at ``level``; two-sided ``p`` against ``null``; ``n`` units of ``unit``;
    ``statistic`` names the quantity, ``method`` how interval and p were made.
    """

    value: float
    low: float
    high: float
    p: float
    n: int
    statistic: str
    null: str
    unit: str
    method: str
    level: float = 0.95
    extra: dict[str, int | float] = field(default_factory=dict)

    def __str__(self) -> str:
        """``+0.249 [+0.222, +0.276]``."""
        return f"{self.value:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"

    def __repr__(self) -> str:
        """The same with p, n and null."""
        return f"{type(self).__name__}({self}, p {self.p:.2g}, n {self.n}, null: {self.null})"

    def _repr_html_(self) -> str:
        """The number, what it is of and what it is compared with, every word escaped: for a notebook."""
        told = f"{self.statistic}; {self.n} {self.unit}; p {self.p:.2g} against {self.null}; {self.method}"
        return f"<p><b>{html.escape(str(self))}</b> <small>{html.escape(told)}</small></p>"
