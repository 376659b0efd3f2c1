"""Where other people's libraries open other people's files: whatever they raise becomes one sentence.

In: the file or folder that is opened, and a block that hands it to a library. Out: nothing, when the block ends well.
Refuses what the library could not open, whatever kind of exception it threw: transformers alone raises some twenty
kinds over a torn or odd checkpoint, tokenizers panics. The exception stays the refusal's cause. Keep the block to the
library's call: a fault of dragoman's own inside it would be told as a fault of the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dragoman.core import Refusal
from dragoman.store.files import refusing

AGAIN = "get the published files again"
_LIMIT = 200  # characters of a library's own words


@contextmanager
def opening(path: Path | str, why: str = "it cannot be opened", instead: str = AGAIN) -> Iterator[None]:
    """Turn what a library raises inside the block into a `Refusal`.

    Args:
        path: what is opened, as the refusal names it.
        why: what could not be done; the library's own words follow in brackets.
        instead: what to do.
    """
    try:
        yield
    except Refusal:
        raise
    except BaseException as error:
        # Rust's panics are no Exception to Python. Ctrl-C and the ends of processes pass.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        if isinstance(error, OSError) and error.errno is not None:
            with refusing("reading", Path(error.filename or path)):
                raise
        raise Refusal(f"{path}", f"{why} ({told(error)})", instead) from error


def told(error: BaseException) -> str:
    """What an exception says, short and on one line; its kind where it says little."""
    words = " ".join("".join(c if c.isprintable() else " " for c in str(error)).split())
    words = words if len(words) <= _LIMIT else words[:_LIMIT] + "..."
    # A KeyError's whole message is the key.
    bare = not words or isinstance(error, LookupError | AssertionError | AttributeError)
    return f"{type(error).__name__}: {words}" if bare and words else words or type(error).__name__
