"""The verbalizers of a run, opened: here, here while they speak, or in workers; and looked at by the doctor.

In: references, or verbalizers that are open. Out: verbalizers. Refuses what opening refuses, verbalizers in which the
doctor finds a fault, and open ones where workers are to open them.
"""

from __future__ import annotations

from dragoman.core import Refusal, Talk, public_address
from dragoman.doctor import quick
from dragoman.models.decode import Verbalizer
from dragoman.models.ray_speaking import Pool
from dragoman.models.ray_workers import Cluster
from dragoman.runs.turns import InTurn
from dragoman.verbalizers.protocol import UNSAID, AnyVerbalizer, HowFed, HowOpened


def speakers(
    by: AnyVerbalizer | str,
    native: AnyVerbalizer | str | None,
    fed: HowFed,
    talk: Talk,
    how: HowOpened,
    *,
    one_at_a_time: bool = False,
    pool: Cluster | None = None,
) -> tuple[AnyVerbalizer, AnyVerbalizer | None]:
    """The verbalizers, opened if they are references (``how``: in what, where), and looked at by the doctor.

    ``one_at_a_time``: those that are opened here are closed again, and open only while they speak. ``pool``: the
    workers that open them in place of this process.
    """
    if pool is not None:
        stays = not one_at_a_time and native is None
        own = None if native is None else _in_workers(native, UNSAID, talk, how, pool, stays=stays)
        return _in_workers(by, fed, talk, how, pool, stays=stays), own
    if one_at_a_time:
        return _in_turn(by, fed, talk, how), None if native is None else _in_turn(native, UNSAID, talk, how)
    if isinstance(by, str):
        talk.say(f"opening verbalizer {public_address(by)}")
        by = Verbalizer.open(by, **fed, **how)
        if how["engine"] != "auto":
            talk.say(by.engine)
    if isinstance(native, str):
        native = Verbalizer.open(native, **how)
    talk.say("checking the verbalizers")
    quick([by] if native is None else [by, native])
    return by, native


def _in_turn(one: AnyVerbalizer | str, fed: HowFed, talk: Talk, how: HowOpened) -> AnyVerbalizer:
    """A verbalizer looked at by the doctor; closed until it speaks where it was opened here."""
    if not isinstance(one, str):
        quick([one])
        return one
    talk.say(f"opening verbalizer {public_address(one)} and checking it")
    made = InTurn(lambda: Verbalizer.open(one, **fed, **how), lambda it: quick([it]), how["device"], talk)
    if how["engine"] != "auto":
        talk.say(made.engine)
    return made


def _in_workers(
    one: AnyVerbalizer | str,
    fed: HowFed,
    talk: Talk,
    how: HowOpened,
    pool: Cluster,
    *,
    stays: bool,
) -> AnyVerbalizer:
    """A verbalizer that workers open, and the doctor has looked at in one of them; ``stays``: they are kept then."""
    talk.say(f"opening verbalizer {public_address(str(one))} in a worker and checking it")
    made = Pool(str(one), {**fed, **how}, pool, _looked_at, talk, stays=stays)
    if how["engine"] != "auto":
        talk.say(made.engine)
    return made


def _looked_at(one: AnyVerbalizer) -> None:
    quick([one])


def refuse_open(on: str | None, *verbalizers: AnyVerbalizer | str | None) -> None:
    """Refuse verbalizers that are open here where workers are to open them."""
    for one in verbalizers:
        if on is not None and one is not None and not isinstance(one, str):
            raise Refusal(f"verbalizer {one.name} on {on}", "it is open in this process", "pass its reference")
