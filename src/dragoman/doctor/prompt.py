"""Is the prompt what the checkpoint was trained on: tokenizer whole, one BOS, its own family's template, slot in place.

In: a tokenizer, a sidecar, the ids that are fed. Out: findings ``tokenizer``, ``bos``, ``template``,
``slot-in-prompt``, ``vocabulary``. Reads ids and strings only; what reaches the model is checked in ``injection``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from dragoman.core import Refusal
from dragoman.doctor.finding import BESIDE, Check, Finding
from dragoman.doctor.subject import Subject
from dragoman.models.watch import table_shape
from dragoman.verbalizers.prompt import PLAIN_ENGLISH, render_chat
from dragoman.verbalizers.sidecar import Sidecar

# What families write between turns. A template of the right family writes words its tokenizer knows as one token.
TURN_WORD = re.compile(
    r"<\|[^<>|\s]{1,40}\|>|<(?:start|end)_of_turn>|<\uff5c[^<>\uff5c]{1,40}\uff5c>|<(?:bos|eos|s)>|</s>"
)
TWO_TURNS = [{"role": "user", "content": "Good morning."}, {"role": "assistant", "content": "Good morning to you."}]
HALF = len(PLAIN_ENGLISH) / 2

TOKENIZER = Check(
    "tokenizer",
    "tokens of a plain English sentence, and the sentence read back",
    f"half its {len(PLAIN_ENGLISH)} characters; the embedded pair's need 20, one without merges 90",
    "below",
)
BOS = Check("bos", "its prompt", "the tokenizer does not begin texts with one")
TEMPLATE = Check("template", "turn marks of its prompt that are no single token")
VOCABULARY = Check("vocabulary", "ids its tokenizer can give", "rows of the model's embedding table", "at most")
SLOT_IN_PROMPT = Check("slot-in-prompt", "position the vector is meant for")


def check_prompt(subject: Subject) -> list[Finding]:
    """All checks of the verbalizer's prompt; those of the source's tokenizer are in ``stream``."""
    local, name = subject.local, subject.verbalizer_name
    if local is None:
        return [BOS.skipped(name, "the verbalizer does not run in this process, so its prompt cannot be seen")]
    ids = local.prompt.ids
    return [
        tokenizer_whole(name, local.tokenizer),
        bos(name, "beginning-of-text tokens of its prompt", local.tokenizer, ids),
        template(name, local.tokenizer, local.prompt.text),
        vocabulary(name, local.tokenizer, ids, table_shape(local)[0]),
        slot_in_prompt(name, local.sidecar, ids, local.prompt.slot),
    ]


def tokenizer_whole(name: str, tokenizer: Any) -> Finding:
    """A tokenizer that lost its merges gives one token a character and goes on without an error."""
    ids = tokenizer.encode(PLAIN_ENGLISH, add_special_tokens=False)
    back = str(tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)).strip()
    measured, fault = float(len(ids)), ""
    if len(ids) >= HALF:
        fault = "it has lost its merges: copy the original tokenizer.json of the base model into the folder"
    elif back != PLAIN_ENGLISH:
        measured = f"{len(ids)}, read back otherwise"
        fault = f"it reads the sentence back as '{back[:60]}': copy the base model's original tokenizer.json"
    return TOKENIZER.of(name, measured, HALF, fault)


def expects_bos(tokenizer: Any) -> str:
    """Why a text of this tokenizer begins with one BOS; empty where it does not."""
    bos_id, bos = getattr(tokenizer, "bos_token_id", None), getattr(tokenizer, "bos_token", None)
    if bos_id is None or not bos:
        return ""
    plain = tokenizer.encode("Good morning.", add_special_tokens=True)
    if plain and plain[0] == bos_id:
        return "the tokenizer begins every text with one"
    text = rendered(tokenizer, TWO_TURNS)
    # Some families open every turn with their BOS token: theirs is no beginning of text.
    return "its chat template begins with one" if text.startswith(bos) and text.count(bos) == 1 else ""


def bos(name: str, what: str, tokenizer: Any, ids: Sequence[int]) -> Finding:
    """None, one or two: two shift every position, none takes the attention sink away."""
    bos_id = getattr(tokenizer, "bos_token_id", None)
    why = expects_bos(tokenizer)
    leading = next((n for n, i in enumerate(ids) if i != bos_id), len(ids)) if bos_id is not None else 0
    fault = ""
    if leading > 1:
        fault = "write it once: render the chat template to text and encode that without special tokens"
    elif leading == 0 and why:
        fault = "begin with it: use the chat template the checkpoint was trained with"
    return BOS.of(name, float(leading), "1" if why else "0 or 1", fault, what=what, origin=why)


def template(name: str, tokenizer: Any, text: str = "") -> Finding:
    """Turn marks of the prompt must be tokens of this tokenizer, and a chat without any of its tokens is no chat.

    ``text``: the prompt as rendered; empty takes a short chat through the tokenizer's template.
    """
    chat = rendered(tokenizer, TWO_TURNS)
    text = text or chat
    if not text:
        return TEMPLATE.skipped(name, "its tokenizer has no chat template that can be rendered")
    marks = sorted(set(TURN_WORD.findall(text)))
    strange = [m for m in marks if len(tokenizer.encode(m, add_special_tokens=False)) != 1]
    special = set(getattr(tokenizer, "all_special_ids", ())) | set(getattr(tokenizer, "added_tokens_decoder", ()))
    known = [i for i in tokenizer.encode(text, add_special_tokens=False) if i in special]
    # Some contracts feed the bare message: that one need not hold any.
    is_chat = bool(chat) and text.startswith(chat.partition(TWO_TURNS[0]["content"])[0])
    fault = ""
    if strange:
        fault = (
            f"{', '.join(strange[:3])} belong to another family: put the chat_template.jinja the checkpoint was "
            "trained with into its folder"
        )
    elif is_chat and not known:
        fault = "none of the tokenizer's special tokens is in it: use the chat template the checkpoint was trained with"
    measured = float(len(strange)) if marks else f"no marks, {len(known)} special tokens"
    origin = f"the tokenizer's vocabulary; the prompt holds {', '.join(marks[:4]) or 'no mark known here'}"
    return TEMPLATE.of(name, measured, 0.0 if marks else None, fault, origin=origin)


def rendered(tokenizer: Any, chat: list[dict[str, str]]) -> str:
    """A short chat through the tokenizer's template; empty where it has none or refuses this chat."""
    if not getattr(tokenizer, "chat_template", None):
        return ""
    for turns in (chat, chat[:1]):
        try:
            return render_chat(tokenizer, turns, opened=len(turns) == 1).text
        except Refusal:  # as templates do for chats they do not take
            continue
    return ""


def vocabulary(name: str, tokenizer: Any, ids: Sequence[int], table: int) -> Finding:
    """Every id that is fed, and every id the tokenizer can give, needs a row in the embedding table."""
    need = max(max(ids, default=0) + 1, len(tokenizer))
    fault = "" if need <= table else "tokenizer and model are of different checkpoints: use those of one"
    return VOCABULARY.of(name, float(need), float(table), fault)


def slot_in_prompt(name: str, sidecar: Sidecar, ids: Sequence[int], slot: int) -> Finding:
    """The slot is where the marker stands between its stored neighbours, found anew in the ids."""
    if not sidecar.marker:
        return SLOT_IN_PROMPT.skipped(name, "its contract has no marker: the vector is added at the prompt's end")
    left, right = sidecar.left_id, sidecar.right_id
    places = [k for k, i in enumerate(ids) if i == sidecar.marker_id]
    fits = [k for k in places if 0 < k < len(ids) - 1 and left in (None, ids[k - 1]) and right in (None, ids[k + 1])]
    fault = ""
    if not fits:
        fault = (
            f"the marker (id {sidecar.marker_id}) does not stand between its neighbours {left} and {right}: use "
            "template, chat template and tokenizer of one checkpoint"
        )
    elif fits != [slot] and not (left is right is None and slot in fits):
        fault = "the vector goes beside the marker: replace the embedding at the marker itself"
    against = ", ".join(map(str, fits)) or f"none of {len(places)} places"
    origin = f"where the prompt holds the marker '{sidecar.marker}' between its stored neighbours"
    relation = None if len(fits) == 1 else "one of" if fits else BESIDE
    return SLOT_IN_PROMPT.of(name, float(slot), against, fault, origin=origin, relation=relation)
