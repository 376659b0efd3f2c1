"""The corpus: files that are torn, that lie, that carry code or unpack to more than any memory, and what refuses them.

`CASES` names each, with a builder that writes it, the reader that must refuse it and what the refusal says. Built in
code, so that no hostile file lies in the repository. Run as a program it reads the bombs under a limit of memory:

    python tests/malformed.py light|heavy

and prints one JSON object a line: name, what was said, seconds, megabytes that the process grew.
"""

from __future__ import annotations

import json
import re
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

CANARY = "canary"  # a file that code in a hostile file would make
# Address space for the bombs: torch alone maps some gigabytes of libraries.
MEMORY = {"light": 2_500_000_000, "heavy": 6_000_000_000}
_HEAVY_READERS = {"tensors", "contract", "norm-matched", "reconstructor"}


@dataclass(frozen=True, kw_only=True)
class Case:
    """A malformed file or folder.

    ``make`` writes it into an empty folder and gives what ``reader`` (of ``whole_files.READERS``) is called with;
    ``said`` is a pattern of the refusal. A ``bomb`` is read in a process of limited memory.
    """

    name: str
    reader: str
    said: str
    make: Callable[[Path], Path]
    bomb: bool = False
    torch: bool = False

    @property
    def weight(self) -> str:
        return "heavy" if self.torch or self.reader in _HEAVY_READERS else "light"


CASES: dict[str, Case] = {}


def case(
    reader: str, said: str, *, name: str = "", bomb: bool = False, torch: bool = False
) -> Callable[[Callable[[Path], Path]], Callable[[Path], Path]]:
    """Enter the builder that follows, under its own name with spaces."""

    def enter(make: Callable[[Path], Path]) -> Callable[[Path], Path]:
        called = name or make.__name__.replace("_", " ").strip()
        if called in CASES:
            raise ValueError(f"two cases are called '{called}'")
        CASES[called] = Case(name=called, reader=reader, said=said, make=make, bomb=bomb, torch=torch)
        return make

    return enter


def corpus() -> list[Case]:
    """All cases."""
    import malformed_archives  # noqa: F401
    import malformed_arrays  # noqa: F401
    import malformed_folders  # noqa: F401
    import malformed_texts  # noqa: F401

    # Run as a program this module is another than the one the builders entered themselves in.
    from malformed import CASES as entered

    return list(entered.values())


def _peak() -> float:
    """Megabytes this process has held at most since `_forget`, its own alone."""
    found = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    return int(found[1]) / 1024 if found else 0.0


def _forget() -> None:
    """Let the peak begin at what is held now."""
    Path("/proc/self/clear_refs").write_text("5")


def main(weight: str) -> None:
    """Read the bombs of a weight under its limit of memory."""
    from dragoman.core import Refusal
    from whole_files import READERS, SAMPLES

    chosen = [one for one in corpus() if one.bomb and one.weight == weight]
    with tempfile.TemporaryDirectory() as made:
        root = Path(made).resolve()
        for number, sample in enumerate(SAMPLES):  # what readers import is not what bombs take
            if any(sample.reader == one.reader for one in chosen) and (weight == "heavy" or not sample.loads_torch):
                (root / f"whole-{number}").mkdir()
                READERS[sample.reader](sample.make(root / f"whole-{number}"))
        paths = []
        for number, one in enumerate(chosen):
            (root / str(number)).mkdir()
            paths.append(one.make(root / str(number)))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY[weight], MEMORY[weight]))
        for one, path in zip(chosen, paths, strict=True):
            _forget()
            before, start = _peak(), time.process_time()
            try:
                READERS[one.reader](path)
                said = "it was read"
            except Refusal as refusal:
                said = str(refusal)
            except BaseException as error:
                said = f"{type(error).__name__}: {error}"
            taken, grown = time.process_time() - start, _peak() - before
            row = {"name": one.name, "said": said, "seconds": taken, "megabytes": grown}
            sys.stdout.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
