"""The process that `bounded` starts: it limits itself, runs one script's ``answer``, and prints what that gave.

In: JSON on standard input. Out: JSON on standard output, ``{"answer": ...}`` or ``{"failed": why}``. Imports nothing of
dragoman.
"""

from __future__ import annotations

import contextlib
import json
import resource
import runpy
import sys
from typing import Any


def limit(seconds: int, size: int) -> None:
    """Limit processor time and address space; systems that do not know a limit leave the parent's clock."""
    for kind, soft, hard in ((resource.RLIMIT_CPU, seconds, seconds + 1), (resource.RLIMIT_AS, size, size)):
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(kind, (soft, hard))
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def answered(asked: dict[str, Any]) -> dict[str, Any]:
    """The script's answer, or why there is none."""
    limit(asked["seconds"], asked["bytes"])
    try:
        text = json.dumps({"answer": runpy.run_path(asked["script"])["answer"](asked["question"])})
    except MemoryError:
        return {"failed": f"it takes more than {asked['bytes'] >> 20} MB"}
    except BaseException as error:  # Rust's panics are no Exception
        said = " ".join(str(error).split())
        return {"failed": f"{type(error).__name__}: {said[:300]}" if said else type(error).__name__}
    if len(text) > asked["answer"]:
        return {"failed": f"it makes {len(text)} characters"}
    return json.loads(text)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(answered(json.loads(sys.stdin.buffer.read()))))
