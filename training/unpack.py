"""Paragraphs out of the files of a package, by kind of file.

In: a package's unpacked root and a ``Source``. Out: (work, paragraphs) of every work, in a fixed order. Paragraphs are
raw: ``passages.py`` cleans, cuts and drops. Markup that carries no prose (code blocks, synopses, tables) is left out.
"""

from __future__ import annotations

import gzip
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path

import yaml

from sources import Source

Works = Iterator[tuple[str, list[str]]]
LEFT_OUT = ("ethnic", "men-women", "drugs")  # sayings that say nothing but ill of people
_BLANK = re.compile(r"\n[ \t]*\n")
_DIGITS = {c: i for i, c in enumerate("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")}


def works(root: Path, source: Source) -> Works:
    """Every work of a source; those of one name (by ``work`` or ``named``) are one, in the order of their files."""
    files = sorted({f for pattern in source.files for f in root.glob(pattern) if f.is_file() and not f.is_symlink()})
    found: dict[str, list[str]] = {}
    for file in files:
        if file.suffix in (".dat", ".u8") or file.name in LEFT_OUT:
            continue
        for entry, paragraphs in READERS[source.kind](file):
            found.setdefault(_name(root, file, entry, source), []).extend(paragraphs)
    yield from found.items()


def _name(root: Path, file: Path, entry: str, source: Source) -> str:
    where = str(file.relative_to(root))
    if source.work == "package":
        return source.package
    if source.work == "entry":
        return f"{source.package}:{entry}"
    named = re.search(source.named, where if "/" in source.named else file.name) if source.named else None
    return f"{source.package}:{named.group(1) if named else where}{f'#{entry}' if entry else ''}"


def content(file: Path) -> bytes:
    """The bytes of a file, unzipped where its name says gzip (dictzip is gzip)."""
    raw = file.read_bytes()
    return gzip.decompress(raw) if file.suffix in (".gz", ".dz") else raw


def characters(file: Path) -> str:
    """UTF-8, else Latin-1."""
    raw = content(file)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def read_text(file: Path) -> Works:
    """Blank lines part paragraphs, and lines of nothing but %."""
    text = re.sub(r"^%+$", "", characters(file).replace("\r\n", "\n"), flags=re.MULTILINE)
    yield "", _BLANK.split(text)


def read_fortunes(file: Path) -> Works:
    """Lines of one % part sayings."""
    yield "", re.split(r"\n%\n", characters(file))


class _Blocks(HTMLParser):
    """Text of paragraphs, list items and definitions; scripts, headings and what is preformatted are left out."""

    blocks = frozenset({"p", "dd", "li", "blockquote", "item", "para", "desc"})
    silent = frozenset({"pre", "script", "style", "head", "nav", "table", "code", "info", "title", "credit", "footer"})

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[str] = [""]
        self.quiet = 0
        self.inside = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.quiet += tag in self.silent and tag != "code"
        if tag in self.blocks:
            self.inside += 1
            self.found.append("")

    def handle_endtag(self, tag: str) -> None:
        self.quiet = max(0, self.quiet - (tag in self.silent and tag != "code"))
        if tag in self.blocks:
            self.inside = max(0, self.inside - 1)
            self.found.append("")

    def handle_data(self, data: str) -> None:
        if self.inside and not self.quiet:
            self.found[-1] += data


def read_html(file: Path) -> Works:
    """HTML, and XML that calls its paragraphs p, para, item or li."""
    parser = _Blocks()
    parser.feed(characters(file))
    yield "", [one for one in parser.found if not one.lstrip().startswith(("Next:", "Previous:", "Up:"))]


_ROFF = (
    (re.compile(r"\\f(?:\[[^\]]*\]|\(..|.)"), ""),
    (re.compile(r"\\s[-+]?\d+|\\[&|^/,:%]"), ""),
    (re.compile(r"\\\((?:em|en|hy)|\\-"), "-"),
    (re.compile(r"\\\((?:aq|cq|oq)|\\\[aq\]"), "'"),
    (re.compile(r"\\\((?:lq|rq|dq)|\\\*\([lr]q|\\\*[LR]"), '"'),
    (re.compile(r"\\(?:\(..|\*\(..|\*.|\[[^\]]*\])"), ""),
    (re.compile(r"\\e"), r"\\"),
    (re.compile(r"\\[ ~0]"), " "),
)


def read_man(file: Path) -> Works:
    """Roff of manual pages without fonts, headings and preformatted parts; nothing of a page that sources another."""
    found, quiet = [""], False
    for line in characters(file).splitlines():
        if line.startswith((".so ",)):
            return
        macro, _, rest = line.partition(" ")
        if macro in (".nf", ".EX", ".fi", ".EE", ".TS", ".TE"):
            quiet = macro in (".nf", ".EX", ".TS")
            found.append("")
        elif quiet or line.startswith((".\\", "'\\")):
            continue
        elif macro in (".PP", ".P", ".LP", ".TP", ".IP", ".SH", ".SS", ".sp", ".HP"):
            found.append("")
        elif macro in (".B", ".I", ".BR", ".IR", ".RB", ".BI", ".IB", ".RI", ".SM"):
            between = " " if macro in (".B", ".I", ".SM") else ""
            found[-1] += "\n" + between.join(_words(rest))
        elif not line.startswith((".", "'")):
            found[-1] += "\n" + line
    for pattern, instead in _ROFF:
        found = [pattern.sub(instead, one) for one in found]
    yield "", found


def _words(rest: str) -> list[str]:
    return [quoted or plain for quoted, plain in re.findall(r'"([^"]*)"|(\S+)', rest)]


def read_pod(file: Path) -> Works:
    """Plain paragraphs of Perl's documentation, without commands and code; formatting codes give their text."""
    found = [one for one in _BLANK.split(characters(file)) if one and one[0] not in "= \t"]
    found = [re.sub(r"[BCFILSX]<<+ (.*?) >>+", r"\1", one, flags=re.DOTALL) for one in found]
    for _ in range(3):  # codes nest
        found = [re.sub(r"[BCFILSX]<([^<>|]*\|)?([^<>]*)>", r"\2", one) for one in found]
    yield "", [re.sub(r"E<(\w+)>", lambda m: {"lt": "<", "gt": ">"}.get(m[1], ""), one) for one in found]


def read_rst(file: Path) -> Works:
    """Paragraphs of reStructuredText that are neither indented nor directives, roles and literals as plain words."""
    found = [one for one in _BLANK.split(characters(file)) if not re.match(r"\s|\.\.|:\w+:|[=|+*#-]", one)]
    found = [one for one in found if not re.search(r"\n[=~^\"'*#`+-]{3,}\s*$", one)]
    yield "", [re.sub(r":[\w:]+:`([^`<]*)[^`]*`|``?([^`]*)``?_*", r"\1\2", one).rstrip(":") for one in found]


def read_dictd(file: Path) -> Works:
    """Entries of a dictd dictionary; those about the database itself are left out."""
    data = content(next(file.parent.glob(f"{file.stem}.dict*")))
    seen = set[tuple[int, int]]()
    for line in file.read_text(encoding="utf-8").splitlines():
        word, start, length = line.split("\t")[:3]
        at = (_number(start), _number(length))
        if at in seen or word.startswith("00"):
            continue
        seen.add(at)
        yield word, [data[at[0] : sum(at)].decode("utf-8", "replace")]


def _number(digits: str) -> int:
    value = 0
    for digit in digits:
        value = value * 64 + _DIGITS[digit]
    return value


def read_sword(file: Path) -> Works:
    """Blocks (books) of a SWORD module in zip compression, tags dropped; a verse or a remark is a paragraph."""
    index, data = file.with_suffix(".bzs").read_bytes(), file.read_bytes()
    for number, (start, size, _) in enumerate(struct.iter_unpack("<III", index)):
        if not size:
            continue
        text = zlib.decompress(data[start : start + size]).decode("utf-8", "replace")
        text = re.sub(r"<note.*?</note>|<title.*?</title>|<scripRef[^>]*>|</scripRef>", " ", text, flags=re.DOTALL)
        text = re.sub(r"<(?:/verse|verse[^>]*eID|/p|p|br|lb|milestone)[^>]*>|\0", "\n\n", text)
        yield f"{file.stem}{number}", _BLANK.split(re.sub(r"<[^>]*>", "", text))


def read_r(file: Path) -> Works:
    """Character vectors of an R lazy-load database: long ones, each a book; empty strings part paragraphs."""
    data, at, number = file.read_bytes(), 0, 0
    while at + 4 < len(data):
        # Each value: its unpacked length (4 bytes, big-endian), then a zlib stream.
        unpacker = zlib.decompressobj()
        value = unpacker.decompress(data[at + 4 :])
        at = len(data) - len(unpacker.unused_data)
        lines = list(_strings(value))
        if sum(map(len, lines)) > 100_000:
            number += 1
            yield f"book {number}", _BLANK.split("\n".join(lines))


def _strings(value: bytes) -> Iterator[str]:
    """CHARSXP values of an R serialisation in XDR: flags with type 9, a length, the bytes."""
    for found in re.finditer(rb"\x00[\x00-\x0f][\x00-\xff]\x09(?=\x00[\x00-\x3f])", value):
        (size,) = struct.unpack(">I", value[found.end() : found.end() + 4])
        piece = value[found.end() + 4 : found.end() + 4 + size]
        if len(piece) == size:
            yield piece.decode("utf-8", "replace")


def read_wml(file: Path) -> Works:
    """Strings marked for translation, a story's or a help text's; neighbours are one scene."""
    text = characters(file)
    found = re.findall(r'_\s*\(?\s*"((?:[^"]|"")*)"', text)
    yield "", ["\n".join(re.sub(r'""', '"', one.replace("\\\n", "").replace("\\n", "\n")) for one in found)]


def read_chat(file: Path) -> Works:
    """Conversations of turns."""
    told = yaml.safe_load(characters(file))["conversations"]
    yield "", ["\n".join(" ".join(str(turn).split()) for turn in one) for one in told]


def read_code(file: Path) -> Works:
    """The lines as they stand."""
    yield "", [characters(file)]


READERS: dict[str, Callable[[Path], Works]] = {
    "text": read_text,
    "html": read_html,
    "man": read_man,
    "pod": read_pod,
    "rst": read_rst,
    "fortune": read_fortunes,
    "dictd": read_dictd,
    "sword": read_sword,
    "r": read_r,
    "wml": read_wml,
    "chat": read_chat,
    "code": read_code,
}
