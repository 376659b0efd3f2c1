"""A verbalizer that is open only while it speaks, so that a card holds one model at a time.

In: how it is opened. Out: a verbalizer that tells what a run has to know of it, name, site, width and identity, while
it is closed. Refuses what opening and the doctor refuse, at once and not when it is to speak, and files that changed in
between.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from numpy.typing import NDArray

from dragoman.core import Explanation, Refusal, Site, Talk
from dragoman.models.room import let_go
from dragoman.verbalizers.protocol import AnyVerbalizer


class InTurn:
    """A verbalizer that was opened, looked at by the doctor and closed again, and is opened once more to speak."""

    def __init__(self, again: Callable[[], Any], look: Callable[[Any], object], device: str, talk: Talk) -> None:
        """Open it, have it looked at, keep what a run tells of it, and close it.

        Args:
            again: opens it, the same every time.
            look: refuses it where something is wrong with it.
            device: that it runs on, whose memory is given back.
            talk: where it is told that it is opened.
        """
        self._again, self._device, self._talk = again, device, talk
        self._opened: Any = again()
        try:
            look(self._opened)
            self.name: str = self._opened.name
            self.site: Site = self._opened.site
            self.width: int = self._opened.width
            self.identity: dict[str, object] = self._opened.identity
            self.together: int = self._opened.together
            self.reads_length: bool = self._opened.reads_length
            self.trained_on_rows: bool = self._opened.trained_on_rows
            self.engine: str = self._opened.engine
            self._stamps: object = self._opened.stamps
        finally:
            self.close()

    def __repr__(self) -> str:
        """Its name, what it reads, whether it is open."""
        return f"InTurn({self.name!r} at {self.site}, {'open' if self._opened is not None else 'closed'})"

    @contextmanager
    def speaking(self) -> Iterator[None]:
        """Inside, it is open.

        Raises:
            Refusal: its files, or the vLLM that says its words, are not those that were looked at.
        """
        if self._opened is not None:
            yield
            return
        self._talk.say(f"opening {self.name}, which speaks now")
        self._opened = self._again()
        try:
            if self._opened.stamps != self._stamps:
                why = "its files, or the vLLM that says its words, changed since it was looked at"
                raise Refusal(f"verbalizer {self.name}", why, "run the same command again")
            yield
        finally:
            self.close()

    def close(self) -> None:
        """Give its memory back, its engine's too: a vLLM that runs is held by its module."""
        opened, self._opened = self._opened, None
        if opened is not None:
            opened.close()
        del opened
        let_go(self._device)

    def verbalize(
        self, vectors: NDArray[Any], *, temperature: float = 0.0, seed: int = 0, max_new_tokens: int = 200
    ) -> list[Explanation]:
        """As the verbalizer itself; opened for these vectors alone where it is not open."""
        with self.speaking():
            return self._opened.verbalize(vectors, temperature=temperature, seed=seed, max_new_tokens=max_new_tokens)


@contextmanager
def speaking(verbalizer: AnyVerbalizer) -> Iterator[None]:
    """Inside, a verbalizer that is open only while it speaks is open, here or in workers; others are as they were."""
    with getattr(verbalizer, "speaking", nullcontext)():
        yield
