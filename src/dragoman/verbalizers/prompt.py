"""The one prompt of a verbalizer, with the slot its vector goes into: made in bounds, and the same on every day.

In: a sidecar and a tokenizer. Out: a ``Prompt``. Refuses damaged tokenizers, markers that are not the sidecar's single
token, prompts where the marker is not exactly once between its stored neighbours, a doubled or missing BOS, and chat
templates that are missing, fail, say no, take more than the limits or write more than a prompt can be: `chat_child`
renders them, in a process of its own (see `store.boundary`). All prompts of one checkpoint are equal but for the slot's
embedding.

Templates that put today's date into the prompt (Llama 3.2, Granite) are given one day, ``DAY``, whatever the day is
and wherever the machine stands: a run can be gone on with tomorrow. No day is the right one, because a checkpoint was
trained over many. ``DAY`` is the one that Llama's own template writes where it is given no clock; a setting names
another.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import Any

from dragoman.core import Refusal
from dragoman.store.boundary import Limits, ask, opening
from dragoman.verbalizers.protocol import OPEN
from dragoman.verbalizers.sidecar import SLOT, Sidecar, slots_of

PLAIN_ENGLISH = "The people of the city were given the right to vote in the first election of the new year."
DAY = "2024-07-26"
LONGEST = 1_000_000  # characters of a rendered prompt; the longest context of a published base holds about as many
# Published templates take milliseconds and a few megabytes; the process itself a tenth of a second and 60 MB.
LIMITS = Limits(seconds=3, megabytes=600, answer=8 * LONGEST)
_RESERVED = re.compile(r"<\|[^<>|\s]{1,60}\|>")
_CHILD = Path(__file__).with_name("chat_child.py")
INSTEAD = "put the chat_template.jinja the checkpoint was trained with into its folder"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """Token ids of the prompt. ``slot``: index of the marker, where the vector goes in.

    ``left_id`` and ``right_id``: the slot's neighbours. ``text``: the rendered prompt. ``opened``: it already ends
    with the opening tag, so that an answer need not repeat it. ``day``: the date its chat template was told, None where
    it did not ask for one.
    """

    ids: tuple[int, ...]
    slot: int
    left_id: int
    right_id: int
    text: str
    opened: bool = False
    day: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wording:
    """What a checkpoint's prompt needs beside its sidecar.

    ``slots``: values of further template slots (for example ``depth_pct``). ``chat``: the message is a user turn of
    the chat template; else it is encoded as it stands, with the tokenizer's own BOS. ``prefill``: how the answer
    begins, put after the prompt (published ones use the opening tag). ``switches``: further words for the
    chat template, such as ``enable_thinking``. ``day``: the date a chat template is told when it asks for today's.
    ``system``: what the system turn before the message says; none where it is empty.
    """

    slots: Mapping[str, str] = field(default_factory=dict)
    chat: bool = True
    prefill: str = ""
    switches: Mapping[str, Any] = field(default_factory=dict)
    day: str = DAY
    system: str = ""


def build_prompt(sidecar: Sidecar, tokenizer: Any, *, wording: Wording | None = None) -> Prompt:
    """Render the template as one user message, encode it, and check it against the sidecar.

    ``tokenizer``: anything with ``encode``, ``chat_template``, ``bos_token`` and its id.

    Raises:
        Refusal: tokenizer and sidecar do not belong together; the message says which check failed.
    """
    how = wording or Wording()
    refuse_damaged(tokenizer)
    _refuse_other_marker(sidecar, tokenizer)
    written, ids = render(_filled(sidecar, how.slots), tokenizer, how)
    slot = _slot(ids, sidecar)
    return Prompt(
        ids=ids,
        slot=slot,
        left_id=ids[slot - 1],
        right_id=ids[slot + 1],
        text=written.text,
        opened=written.text.rstrip().endswith(OPEN),
        day=written.day,
    )


def render(message: str, tokenizer: Any, wording: Wording) -> tuple[Rendered, tuple[int, ...]]:
    """A user message as the model sees it: the rendered text and its ids; refuse a doubled or torn BOS.

    Rendering and encoding are two steps without special tokens: the chat template writes the BOS itself, and the
    one-step call differs between transformers versions.
    """
    written = Rendered(text=message, day=None)
    if wording.chat:
        turns = [{"role": "system", "content": wording.system}] if wording.system else []
        turns.append({"role": "user", "content": message})
        written = render_chat(tokenizer, turns, switches=wording.switches, day=wording.day)
    written = replace(written, text=written.text + wording.prefill)
    ids = encoded(written.text, tokenizer, special=not wording.chat)
    _refuse_bos(message, written.text, ids, tokenizer)
    return written, ids


def encoded(text: str, tokenizer: Any, *, special: bool = False) -> tuple[int, ...]:
    """Token ids of a text; ``special``: whether the tokenizer adds its own before and after it.

    Refuses a tokenizer that fails at the text, as some do at some texts.
    """
    where = getattr(tokenizer, "name_or_path", "")
    with opening(f"tokenizer of {where}" if where else "tokenizer", "it cannot encode a text"):
        return tuple(int(i) for i in tokenizer.encode(text, add_special_tokens=special))


def refuse_damaged(tokenizer: Any) -> None:
    """A byte-pair tokenizer that lost its merges still encodes, one token per character, without any error."""
    count = len(encoded(PLAIN_ENGLISH, tokenizer))
    if 2 * count >= len(PLAIN_ENGLISH):
        raise Refusal(
            "tokenizer",
            f"a plain English sentence of {len(PLAIN_ENGLISH)} characters becomes {count} tokens, "
            "so it has lost its merges",
            "copy the original tokenizer.json of the base model into the folder",
        )


def refuse_torn(text: str, tokenizer: Any) -> None:
    """Refuse turn marks and reserved tokens of a prompt (``<|...|>``) that are no single token of this tokenizer."""
    for word in dict.fromkeys(_RESERVED.findall(text)):
        count = len(encoded(word, tokenizer))
        if count != 1:
            why = f"this tokenizer splits {word} into {count} tokens, and the prompt was trained with it as one"
            raise Refusal("verbalizer prompt", why, "use the tokenizer, or the prompt, that it was trained with")


def _refuse_other_marker(sidecar: Sidecar, tokenizer: Any) -> None:
    # encode, not convert_tokens_to_ids: byte-level vocabularies do not key on the character.
    ids = encoded(sidecar.marker, tokenizer)
    if len(ids) != 1:
        why = f"this tokenizer splits it into {len(ids)} tokens, and only one can be replaced"
        raise Refusal(f"marker '{sidecar.marker}'", why, "use the tokenizer the verbalizer was trained with")
    if ids[0] != sidecar.marker_id or ids[0] == getattr(tokenizer, "unk_token_id", None):
        why = f"this tokenizer gives it id {ids[0]}, the sidecar says {sidecar.marker_id}"
        raise Refusal(f"marker '{sidecar.marker}'", why, "use the tokenizer the verbalizer was trained with")


def _filled(sidecar: Sidecar, slots: Mapping[str, str]) -> str:
    known = {**slots, SLOT: sidecar.marker}
    missing = sorted(slots_of(sidecar.template, "sidecar") - known.keys())
    if missing:
        why = f"its slot '{{{missing[0]}}}' has no value"
        raise Refusal("verbalizer template", why, "pass a value for it, or use another verbalizer")
    return sidecar.template.format_map(known)


def _refuse_bos(message: str, text: str, ids: tuple[int, ...], tokenizer: Any) -> None:
    """Exactly one leading BOS where the chat template writes one.

    Some families use their BOS token to open every turn, so later ones are the template's business.
    """
    bos, bos_id = (getattr(tokenizer, "bos_token", None), getattr(tokenizer, "bos_token_id", None))
    if not bos or bos_id is None:
        return
    leading = next((n for n, i in enumerate(ids) if i != bos_id), len(ids))
    if leading > 1 or bos in message:
        why = f"it has more than one beginning-of-text token ({bos}), which shifts every position"
        raise Refusal("verbalizer prompt", why, "write it once, in the chat template only")
    if leading == 0 and text.startswith(bos):
        why = f"its beginning-of-text token ({bos}) is not encoded as one token"
        raise Refusal("verbalizer prompt", why, "use the tokenizer the verbalizer was trained with")


def _slot(ids: tuple[int, ...], sidecar: Sidecar) -> int:
    """Index of the marker that stands between its stored neighbours."""
    seen = [k for k, i in enumerate(ids) if i == sidecar.marker_id]
    inner = [k for k in seen if 0 < k < len(ids) - 1]
    if not inner:
        why = "it is not inside the encoded prompt" if not seen else "it stands at the edge of the encoded prompt"
        raise Refusal(f"marker '{sidecar.marker}'", why, "use template and tokenizer of the same checkpoint")
    left, right = sidecar.left_id, sidecar.right_id
    fits = [k for k in inner if left in (None, ids[k - 1]) and right in (None, ids[k + 1])]
    if not fits:
        k = inner[0]
        raise Refusal(
            f"marker '{sidecar.marker}'",
            f"its neighbours in the prompt are {ids[k - 1]} and {ids[k + 1]}, the sidecar says {left} and {right}",
            "use template, chat template and tokenizer of the same checkpoint",
        )
    if len(fits) > 1:
        why = f"it is {len(fits)} times in the encoded prompt, so the place of the vector is not certain"
        raise Refusal(f"marker '{sidecar.marker}'", why, "use a template that shows it once")
    return fits[0]


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
    """The text of a chat of ``turns`` (``role`` and ``content``), refused as the module says.

    ``tokenizer``: anything with ``chat_template``, and where it has several ``get_chat_template``; its
    ``special_tokens_map`` is known to the template. ``opened``: whether the answer's turn is begun. ``switches``:
    further words for the template, such as ``enable_thinking``. ``day``: the date a template is told, YYYY-MM-DD.
    """
    if not getattr(tokenizer, "chat_template", None):
        why = "it has no chat template, so the prompt of the verbalizer cannot be rendered"
        raise Refusal("tokenizer", why, INSTEAD)
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
