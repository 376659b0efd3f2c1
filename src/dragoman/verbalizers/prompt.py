"""The one prompt of a verbalizer, with the slot its vector goes into; and what its answer says.

In: a sidecar and a tokenizer; decoded text. Out: a ``Prompt``; an ``Explanation``. Refuses damaged tokenizers,
markers that are not the sidecar's single token, prompts where the marker is not exactly once between its stored
neighbours, and a doubled or missing BOS. All prompts of one checkpoint are equal but for the slot's embedding.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from dragoman.core import Explanation, Refusal
from dragoman.store.boundary import opening
from dragoman.verbalizers.chat import DAY, Rendered, render_chat
from dragoman.verbalizers.sidecar import SLOT, Sidecar, slots_of
from dragoman.verbalizers.smells import fallbacks

OPEN, CLOSE = "<explanation>", "</explanation>"
PLAIN_ENGLISH = "The people of the city were given the right to vote in the first election of the new year."

_SPECIAL = re.compile(r"<\|[^<>|]{1,40}\|>|</?(?:s|bos|eos|pad|unk|start_of_turn|end_of_turn)>")
_CJK = re.compile(r"[\u1100-\u11ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff]")
_MARKER_BLOCK = re.compile(r"[\u3200-\u33ff]")  # where published checkpoints take their marker from
_CHARACTER_RUN = re.compile(r"(\S{1,8}?)\1{11,}")


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
    """

    slots: Mapping[str, str] = field(default_factory=dict)
    chat: bool = True
    prefill: str = ""
    switches: Mapping[str, Any] = field(default_factory=dict)
    day: str = DAY


def build_prompt(
    sidecar: Sidecar, tokenizer: Any, *, slots: Mapping[str, str] | None = None, wording: Wording | None = None
) -> Prompt:
    """Render the template as one user message, encode it, and check it against the sidecar.

    Args:
        sidecar: what the checkpoint wants.
        tokenizer: anything with ``encode``, ``chat_template``, ``bos_token`` and its id.
        slots: values of further template slots, when nothing else of the wording is needed.
        wording: what the prompt needs beside the sidecar.

    Raises:
        Refusal: tokenizer and sidecar do not belong together; the message says which check failed.
    """
    how = wording or Wording(slots=dict(slots or {}))
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
    """A user message as the model sees it: the rendered text and its ids.

    Rendering and encoding are two steps without special tokens: the chat template writes the BOS itself, and the
    one-step call differs between transformers versions.

    Raises:
        Refusal: no chat template although one is needed, or a doubled or torn BOS.
    """
    written = Rendered(text=message, day=None)
    if wording.chat:
        turn = [{"role": "user", "content": message}]
        written = render_chat(tokenizer, turn, switches=wording.switches, day=wording.day)
    written = replace(written, text=written.text + wording.prefill)
    ids = encoded(written.text, tokenizer, special=not wording.chat)
    _refuse_bos(message, written.text, ids, tokenizer)
    return written, ids


def encoded(text: str, tokenizer: Any, *, special: bool = False) -> tuple[int, ...]:
    """Token ids of a text; ``special``: whether the tokenizer adds its own before and after it.

    Raises:
        Refusal: the tokenizer fails at it, as some do at some texts.
    """
    where = getattr(tokenizer, "name_or_path", "")
    with opening(f"tokenizer of {where}" if where else "tokenizer", "it cannot encode a text"):
        return tuple(int(i) for i in tokenizer.encode(text, add_special_tokens=special))


def parse(raw: str, *, tokens: int = 0, opened: bool = False, tagged: bool = True) -> Explanation:
    """What stood between the tags of a decoded answer, and which health checks it failed.

    Nothing is dropped: an answer without a closing tag keeps its body, one without tags is returned whole, without
    special tokens; both are flagged. ``opened``: the prompt ended with the opening tag. ``tagged``: the verbalizer
    was trained to use tags at all. Problems: "no opening tag", "no closing tag", "other script" (a tenth of the
    letters are Chinese, Japanese or Korean, or a sign of the block markers are taken from occurs: the marker's own
    embedding was read), "repeats itself", the names of fallback phrases (``smells``), "empty".
    """
    problems = []
    body = raw
    if OPEN in body:
        body = body.split(OPEN, 1)[1]
    elif tagged and not opened:
        problems.append("no opening tag")
    if CLOSE in body:
        body = body.split(CLOSE, 1)[0]
    elif tagged:
        problems.append("no closing tag")
    text = _SPECIAL.sub("", body).strip()
    if _foreign(text):
        problems.append("other script")
    if _repeats(text):
        problems.append("repeats itself")
    problems.extend(fallbacks(text))
    if not text:
        problems.append("empty")
    return Explanation(text=text, raw=raw, problems=tuple(problems), tokens=tokens)


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


def _refuse_other_marker(sidecar: Sidecar, tokenizer: Any) -> None:
    # encode, not convert_tokens_to_ids: byte-level vocabularies do not key on the character.
    ids = encoded(sidecar.marker, tokenizer)
    if len(ids) != 1:
        raise Refusal(
            f"marker '{sidecar.marker}'",
            f"this tokenizer splits it into {len(ids)} tokens, and only one can be replaced",
            "use the tokenizer the verbalizer was trained with",
        )
    if ids[0] != sidecar.marker_id or ids[0] == getattr(tokenizer, "unk_token_id", None):
        raise Refusal(
            f"marker '{sidecar.marker}'",
            f"this tokenizer gives it id {ids[0]}, the sidecar says {sidecar.marker_id}",
            "use the tokenizer the verbalizer was trained with",
        )


def _filled(sidecar: Sidecar, slots: Mapping[str, str]) -> str:
    known = {**slots, SLOT: sidecar.marker}
    missing = sorted(slots_of(sidecar.template, "sidecar") - known.keys())
    if missing:
        raise Refusal(
            "verbalizer template",
            f"its slot '{{{missing[0]}}}' has no value",
            "pass a value for it, or use another verbalizer",
        )
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
        raise Refusal(
            "verbalizer prompt",
            f"it has more than one beginning-of-text token ({bos}), which shifts every position",
            "write it once, in the chat template only",
        )
    if leading == 0 and text.startswith(bos):
        raise Refusal(
            "verbalizer prompt",
            f"its beginning-of-text token ({bos}) is not encoded as one token",
            "use the tokenizer the verbalizer was trained with",
        )


def _slot(ids: tuple[int, ...], sidecar: Sidecar) -> int:
    """Index of the marker that stands between its stored neighbours."""
    seen = [k for k, i in enumerate(ids) if i == sidecar.marker_id]
    inner = [k for k in seen if 0 < k < len(ids) - 1]
    if not inner:
        raise Refusal(
            f"marker '{sidecar.marker}'",
            "it is not inside the encoded prompt" if not seen else "it stands at the edge of the encoded prompt",
            "use template and tokenizer of the same checkpoint",
        )
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
        raise Refusal(
            f"marker '{sidecar.marker}'",
            f"it is {len(fits)} times in the encoded prompt, so the place of the vector is not certain",
            "use a template that shows it once",
        )
    return fits[0]


def _foreign(text: str) -> bool:
    letters = sum(c.isalpha() for c in text)
    return bool(_MARKER_BLOCK.search(text)) or 10 * len(_CJK.findall(text)) > letters


def _repeats(text: str) -> bool:
    """Fewer than half of its word 4-grams are distinct (of at least 12), or a few characters run on and on."""
    words = text.split()
    grams = [tuple(words[k : k + 4]) for k in range(len(words) - 3)]
    return (len(grams) >= 12 and 2 * len(set(grams)) < len(grams)) or bool(_CHARACTER_RUN.search(text))
