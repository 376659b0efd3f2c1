"""Libraries that only some of dragoman needs: whether they are installed, told before anything is done with them.

In: what needs them, their names, the extra that brings them. Out: nothing, or a version. Refuses where one is absent,
with the line to type.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import version
from importlib.util import find_spec

from dragoman.core import Refusal


def refuse_absent(what: str, *libraries: str, extra: str, more: str = "") -> None:
    """Refuse where a library is not installed.

    Args:
        what: needs them, as the sentence begins.
        libraries: top-level modules.
        extra: of dragoman, that brings them.
        more: what else may be done instead.

    Raises:
        Refusal: some are absent.
    """
    absent = [name for name in libraries if find_spec(name) is None]
    if absent:
        why = f"{' and '.join(absent)} {'is' if len(absent) == 1 else 'are'} not installed"
        raise Refusal(what, why, f"run: pip install 'dragoman[{extra}]'{more}")


@cache
def version_of(package: str) -> str:
    """The version of an installed package, which stays what it was when a process first asked.

    Read from its files a millisecond each, and a run's names ask for a dozen several times.

    Raises:
        PackageNotFoundError: it is not installed.
    """
    return version(package)
