"""Turns of a chat as a tokenizer's chat template writes them: in bounded time and memory, and the same on every day.

In: a tokenizer, turns, further words for the template, a date. Out: the text, and the date if the template asked for
it. Refuses tokenizers without a chat template, templates that fail or say no, and those that take more than the
limits or write more than a prompt can be. `chat_child` renders it, in a process of its own (see `store.bounded`).

Templates that put today's date into the prompt (Llama 3.2, Granite) are given one day, ``DAY``, whatever the day is
and wherever the machine stands: a run can be gone on with tomorrow, and the same command says the same. No day is the
right one, because a checkpoint was trained over many. ``DAY`` is the one that Llama's own template writes where it is
given no clock; a setting names another.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import Any

from dragoman.core import Refusal
from dragoman.store.boundary import Limits, ask, opening

DAY = "2024-07-26"
LONGEST = 1_000_000  # characters of a rendered prompt; the longest context of a published base holds about as many
# Published templates take milliseconds and a few megabytes; the process itself a tenth of a second and 60 MB.
LIMITS = Limits(seconds=3, megabytes=600, answer=8 * LONGEST)
_CHILD = Path(__file__).with_name("chat_child.py")
INSTEAD = "put the chat_template.jinja the checkpoint was trained with into its folder"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """``text``; ``day``: the date the template was told, None if it did not ask."""

    text: str
    day: str | None


def render_chat(
    tokenizer: Any,
    turns: Sequence[Mapping[str, str]],
    *,
    opened: bool = True,
    switches: Mapping[str, Any] | None = None,
    day: str = DAY,
) -> Rendered:
    """The text of a chat.

    Args:
        tokenizer: anything with ``chat_template``, and where it has several ``get_chat_template``; its
            ``special_tokens_map`` is known to the template.
        turns: of ``role`` and ``content``.
        opened: whether the answer's turn is begun.
        switches: further words for the template, such as ``enable_thinking``.
        day: the date a template is told, YYYY-MM-DD.

    Raises:
        Refusal: as the module says.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise Refusal(
            "tokenizer",
            "it has no chat template, so the prompt of the verbalizer cannot be rendered",
            INSTEAD,
        )
    where = getattr(tokenizer, "name_or_path", "")
    what = f"chat template of {where}" if where else "chat template"
    checked_day(day)
    with opening(what, "it cannot be used", INSTEAD):
        template = tokenizer.chat_template
        template = template if isinstance(template, str) else tokenizer.get_chat_template()
        variables = json.dumps({**getattr(tokenizer, "special_tokens_map", {}), **(switches or {})})
    try:
        return _rendered(str(template), json.dumps(list(map(dict, turns))), opened, variables, day)
    except Refusal as refusal:
        raise Refusal(what, refusal.why, refusal.instead) from refusal


def checked_day(day: str) -> str:
    """A date as it was written; refuse other text."""
    try:
        known = date.fromisoformat(day).isoformat() == day
    except (TypeError, ValueError):
        known = False
    if not known:
        raise Refusal(f"date '{day}'", "it is no date", "write it as YYYY-MM-DD")
    return day


@lru_cache(maxsize=256)
def _rendered(template: str, turns: str, opened: bool, variables: str, day: str) -> Rendered:
    """The same template, turns and words give the same text, whoever asks: kept."""
    question = {
        "template": template,
        "turns": json.loads(turns),
        "opened": opened,
        "variables": json.loads(variables),
        "moment": f"{day}T12:00:00",
        "longest": LONGEST,
    }
    found = ask(_CHILD, question, LIMITS, "chat template", INSTEAD)
    return Rendered(text=found["text"], day=day if found["asked_for_the_date"] else None)
