"""Code in README and docs: ``python tests/fences.py`` runs what needs nothing but the embedded pair, each page in turn.

Fences of one page are run one after the other in one folder, as a reader would. Pages that begin with the same commands
share them: where they part, a page gets a copy of the folder as it was there.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_COMMAND = re.compile(r"^(\$ )?(?:dragoman|python|make|pip|\.venv/bin/\S+)\b")


@dataclass(frozen=True)
class Fence:
    """One fence: its page, the line it begins in, its language ("" where none is said) and what it holds."""

    page: Path
    line: int
    language: str
    text: str

    @property
    def commands(self) -> list[str]:
        """Its lines that a shell would run, comments cut off; none where it is Python or something that is shown."""
        if self.language == "python":
            return []
        lines = [line.split("  #")[0].strip() for line in self.text.splitlines()]
        return [line.removeprefix("$ ") for line in lines if _COMMAND.match(line)]

    @property
    def of_the_pair(self) -> bool:
        """Whether it names the embedded pair, and nothing that a reader has to bring."""
        return "tiny-" in self.text and not re.search(r"\b(SAE|AV|RUN|FILE|FOLDER|MODEL|CROSSING|TEXTS)\b", self.text)


def fences() -> Iterator[Fence]:
    """All of them."""
    for page in PAGES:
        text = page.read_text()
        for match in _FENCE.finditer(text):
            yield Fence(page, text[: match.start()].count("\n") + 1, match[1], match[2])


Step = tuple[str, ...]


def steps_of(page: Path) -> list[tuple[int, Step]]:
    """What of a page is run: the line its fence begins in, and the words of each command."""
    found: list[tuple[int, Step]] = []
    for fence in fences():
        if fence.page == page and fence.of_the_pair:
            if fence.language == "python":
                found.append((fence.line, (sys.executable, "-c", fence.text)))
            for words in map(shlex.split, fence.commands):
                found.append((fence.line, (str(Path(sys.executable).parent / Path(words[0]).name), *words[1:])))
    return found


def shared(pages: Iterable[Sequence[Step]]) -> set[tuple[Step, ...]]:
    """Beginnings that several pages have."""
    counts = Counter(tuple(steps[:n]) for steps in pages for n in range(1, len(steps) + 1))
    return {beginning for beginning, count in counts.items() if count > 1}


def main() -> int:
    """Run them; the exit code of the first that fails."""
    ran, pages = 0, {page: found for page in PAGES if (found := steps_of(page))}
    recurring = shared([step for _, step in found] for found in pages.values())
    kept: dict[tuple[Step, ...], Path] = {}
    with tempfile.TemporaryDirectory() as root:
        for number, (page, found) in enumerate(pages.items()):
            folder = Path(root) / f"page-{number}"
            folder.mkdir()
            for n, (line, step) in enumerate(found, 1):
                beginning = tuple(one for _, one in found[:n])
                if beginning in kept:
                    shutil.rmtree(folder)
                    shutil.copytree(kept[beginning], folder)
                    continue
                sys.stderr.write(f"== {page.relative_to(ROOT)}:{line}: {' '.join(step)[:200]}\n")
                began = time.monotonic()
                code = subprocess.run(step, cwd=folder, env={**os.environ, "PYTHONWARNINGS": "ignore"}).returncode
                if code:
                    return code
                sys.stderr.write(f"-- {time.monotonic() - began:.0f} s\n")
                ran += 1
                if beginning in recurring:
                    kept[beginning] = Path(root) / f"kept-{len(kept)}"
                    shutil.copytree(folder, kept[beginning])
            shutil.rmtree(folder)
    sys.stderr.write(f"{ran} pieces of README and docs ran\n")
    return 0 if ran else 1


if __name__ == "__main__":
    raise SystemExit(main())
