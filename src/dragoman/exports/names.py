"""References as others may read them.

In: a path, an address or a name. Out: of a path here the last name alone, of an address no password and no query.
"""

from __future__ import annotations

import re

from dragoman.core import public_address

_LOCAL = re.compile(r"(?P<kind>file:)?(?:[/~\\]|\.{1,2}[/\\]|[A-Za-z]:[/\\])")  # a path, by its beginning


def without_folders(text: str) -> str:
    """A reference as others may read it: of a path here the last name alone, of an address no password and no query.

    By the text alone, so that a copy of the run says the same where the path leads nowhere.
    """
    found = _LOCAL.match(text)
    if not found:
        return public_address(text)
    return (found["kind"] or "") + re.split(r"[/\\]", text.rstrip("/\\"))[-1]
