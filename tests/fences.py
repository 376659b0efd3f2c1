"""Code in README and docs: ``python tests/fences.py`` runs what needs nothing but the embedded pair, each page in turn.

Fences of one page are run one after the other in one folder, as a reader would.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
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


def main() -> int:
    """Run them; the exit code of the first that fails."""
    ran = 0
    for page in PAGES:
        chosen = [fence for fence in fences() if fence.page == page and fence.of_the_pair]
        with tempfile.TemporaryDirectory() as folder:
            for fence in chosen:
                steps = [[sys.executable, "-c", fence.text]] if fence.language == "python" else []
                for words in map(shlex.split, fence.commands):
                    steps.append([str(Path(sys.executable).parent / Path(words[0]).name), *words[1:]])
                for step in steps:
                    sys.stderr.write(f"== {page.name}:{fence.line}: {' '.join(step)[:200]}\n")
                    code = subprocess.run(step, cwd=folder, env={**os.environ, "PYTHONWARNINGS": "ignore"}).returncode
                    if code:
                        return code
                    ran += 1
    sys.stderr.write(f"{ran} pieces of README and docs ran\n")
    return 0 if ran else 1


if __name__ == "__main__":
    raise SystemExit(main())
