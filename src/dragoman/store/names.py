"""Words that name a file, a folder or a repository, looked at before anything is opened.

In: a word as somebody wrote it. Out: the same word. Refuses words that are empty, that no file system has room for,
that hold a NUL, and the home of a user who is not there.
"""

from __future__ import annotations

from pathlib import Path

from dragoman.core import Refusal

_PART, _WHOLE, _SHOWN = 255, 4096, 60  # bytes of a name and of a path, on every file system in use; characters told


def check_name(word: str, what: str) -> str:
    """The word, if a file or a repository can be called so; it need not be there.

    Args:
        word: what somebody wrote.
        what: what it names, for the sentence ("--texts", "dictionary").

    Raises:
        Refusal: as the module says.
    """
    told = f"{what} '{word if len(word) <= _SHOWN else word[:_SHOWN] + '...'}'"
    place = word.partition("#")[0].encode("utf-8", "surrogatepass")  # what follows are an array's name and its rows
    size, longest = len(place), 0 if b"://" in place else max(map(len, place.split(b"/")))
    if not word.strip():
        raise Refusal(told, "it is empty", "name something, or leave the option out")
    if "\0" in word:
        raise Refusal(told, "it holds a NUL, which no name has", "write it without")
    if size > _WHOLE or longest > _PART:
        raise Refusal(told, f"no file or repository has a name of {max(size, longest)} bytes", "write a shorter name")
    if word.startswith("~"):
        try:
            Path(word).expanduser()
        except RuntimeError:
            raise Refusal(
                told, f"there is no user '{word[1:].partition('/')[0]}' here", "write the whole path"
            ) from None
    return word
