"""Code in README and docs: ``python tests/fences.py`` runs what needs nothing but the embedded pair, each page in turn.

Fences of one page are run one after the other in one folder, as a reader would; pages beside one another. Pages that
begin with the same commands share them: every step gets a copy of the folder that those before it have left.
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
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
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


@dataclass(frozen=True)
class Started:
    """A step with those before it on its page, and where the page that was first to have it shows it."""

    steps: tuple[Step, ...]
    where: str


def tree_of(pages: Mapping[str, Sequence[tuple[int, Step]]]) -> dict[tuple[Step, ...], list[Started]]:
    """What may follow each beginning: a beginning that several pages have stands there once."""
    found: dict[tuple[Step, ...], dict[tuple[Step, ...], str]] = {}
    for page, numbered in pages.items():
        steps = tuple(step for _, step in numbered)
        for n, (line, _) in enumerate(numbered, 1):
            found.setdefault(steps[: n - 1], {}).setdefault(steps[:n], f"{page}:{line}")
    return {before: [Started(steps, where) for steps, where in after.items()] for before, after in found.items()}


def ran(one: Started, folder: Path) -> tuple[Started, Path, int, str]:
    """Run the last step in a folder that the steps before it have left; its exit code, and what it said."""
    env = {**os.environ, "PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1"}
    began = time.monotonic()
    done = subprocess.run(one.steps[-1], cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    said = done.stdout.decode(errors="replace")
    head = f"== {one.where}: {' '.join(one.steps[-1])[:200]}\n"
    return one, folder, done.returncode, f"{head}{said}\n-- {time.monotonic() - began:.0f} s\n"


def main() -> int:
    """Run them, as many at once as there are processors; the exit code of the first that fails."""
    pages = {str(page.relative_to(ROOT)): found for page in PAGES if (found := steps_of(page))}
    tree, count = tree_of(pages), 0
    with tempfile.TemporaryDirectory() as root, ThreadPoolExecutor(os.cpu_count()) as pool:

        def started(one: Started, before: Path | None) -> Future[tuple[Started, Path, int, str]]:
            folder = Path(tempfile.mkdtemp(dir=root))
            if before is not None:
                shutil.copytree(before, folder, dirs_exist_ok=True)
            return pool.submit(ran, one, folder)

        waiting = {started(one, None) for one in tree[()]}
        while waiting:
            ended, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for one, folder, code, said in (future.result() for future in ended):
                sys.stderr.write(said)
                if code:
                    pool.shutdown(cancel_futures=True)
                    return code
                count += 1
                waiting |= {started(later, folder) for later in tree.get(one.steps, ())}
                shutil.rmtree(folder)
    sys.stderr.write(f"{count} pieces of README and docs ran\n")
    return 0 if count else 1


if __name__ == "__main__":
    raise SystemExit(main())
