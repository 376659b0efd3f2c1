"""Libraries that only some of dragoman needs: whether they are installed, told before anything is done with them.

In: what needs them, their names, the extra that brings them. Out: nothing. Refuses where one is absent, with the line
to type.
"""

from __future__ import annotations

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
