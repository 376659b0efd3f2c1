"""Odd tokenizers, chat templates, generation settings and sidecars of verbalizers; entered in `odd_changes.ODD`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from odd_changes import (
    Change,
    content,
    gone,
    named,
    odd,
    opens,
    replacing,
    settings,
    sidecar,
    template,
    then,
    tokenizer,
)

# --- tokenizers --------------------------------------------------------------------------------------------------


def vocabulary(alter: Callable[[dict[str, Any]], object]) -> Change:
    def change(folder: Path) -> None:
        told = json.loads((folder / "tokenizer.json").read_text())
        alter(told)
        (folder / "tokenizer.json").write_text(json.dumps(told))

    return change


def special(tokens: dict[str, Any], name: str = "special_tokens_map.json") -> Change:
    return content(name, json.dumps(tokens))


odd(
    "a normalizer that doubles forty times",
    "its normalizer can make",
    tokenizer(normalizer=replacing({"String": "a"}, "aa", 40)),
)
odd(
    "a normalizer that grows at a rare sign",
    "its normalizer can make",
    tokenizer(normalizer=replacing({"String": "㏕"}, "x" * 10**6)),
)
odd(
    "a normalizer that fills every gap",
    "its normalizer can make",
    tokenizer(normalizer=replacing({"Regex": "q*"}, "z" * 99)),
)
odd("a normalizer of no pattern", r"tokenizer\.json: .*Onig", tokenizer(normalizer=replacing({"Regex": "(?<("}, "x")))
odd(
    "a decoder that grows",
    "its decoder can make",
    tokenizer(
        decoder={
            "type": "Sequence",
            "decoders": [{"type": "Replace", "pattern": {"String": "e"}, "content": "ee" * 60}],
        }
    ),
)
odd(
    "a pre-tokenizer that tries for ever",
    r"tokenizer\.json: .*(retry-limit|seconds)",
    tokenizer(pre_tokenizer={"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}),
)
odd(
    "a post-processor that repeats",
    "its template has 5000 parts",
    tokenizer(
        post_processor={
            "type": "TemplateProcessing",
            "single": [{"Sequence": {"id": "A", "type_id": 0}}] * 5000,
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}],
            "special_tokens": {},
        }
    ),
)
odd("merges dropped at random", "it drops merges at random", vocabulary(lambda t: t["model"].update(dropout=0.5)))
odd("merges lost", "it has lost its merges", vocabulary(lambda t: t["model"].update(merges=[])))
odd(
    "a merge of unknown words",
    r"tokenizer\.json: .*out of vocabulary",
    vocabulary(lambda t: t["model"]["merges"].append(["zz", "qq"])),
)
odd("a model of an unknown type", r"tokenizer\.json: ", vocabulary(lambda t: t["model"].update(type="Evil")))
odd("a model that is a list", r"tokenizer\.json: ", tokenizer(model=[1]))
odd("no model", r"tokenizer\.json: .*[Mm]odel", tokenizer(model=...))
odd("a vocabulary of negative numbers", r"tokenizer\.json: ", vocabulary(lambda t: t["model"]["vocab"].update(x=-1)))
odd("a vocabulary of nothing", "tokenizer|marker", vocabulary(lambda t: t["model"].update(vocab={}, merges=[])))
odd(
    "ids beyond the model",
    "id|ids|vocabulary|marker",
    vocabulary(lambda t: t["model"]["vocab"].update({w: i + 900 for w, i in t["model"]["vocab"].items()})),
)
odd(
    "padding to a thousand million",
    opens,
    tokenizer(
        padding={
            "strategy": {"Fixed": 10**9},
            "direction": "Right",
            "pad_to_multiple_of": None,
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": "x",
        }
    ),
)
odd(
    "truncation to three tokens",
    opens,
    tokenizer(truncation={"max_length": 3, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}),
)
odd("added tokens of a number", r"tokenizer\.json: ", tokenizer(added_tokens=7))
odd("a tokenizer of an unknown class", opens, named(tokenizer_class="EvilTokenizer"))
odd("a tokenizer of a class that needs a library", opens, named(tokenizer_class="BertJapaneseTokenizer"))
odd("a tokenizer class that is a list", "tokenizer", named(tokenizer_class=["Qwen2Tokenizer"]))
odd("an end of text that is a number", "tokenizer|token", named(eos_token=7))
odd("an end of text that is a list", "tokenizer|token", named(eos_token=["x"]))
odd("a length that is a word", "tokenizer of .* cannot encode", named(model_max_length="long"))
odd("a padding side that is none", "tokenizer", named(padding_side="above"))
odd("added tokens that are none", "tokenizer", named(added_tokens_decoder={"x": 7}))
odd("special tokens that are a number", "tokenizer", named(extra_special_tokens=7))
odd("files elsewhere in the tokenizer's settings", opens, named(tokenizer_file="/etc/passwd", vocab_file="/etc/passwd"))
odd(
    "files elsewhere in the special tokens",
    "special_tokens_map.json: its 'tokenizer_file' is no special token",
    special({"tokenizer_file": "/etc/passwd"}),
)
odd(
    "special tokens a list",
    "special_tokens_map.json: it is not a JSON object",
    content("special_tokens_map.json", "[]"),
)
odd("added tokens a list", "added_tokens.json: it is not a JSON object", content("added_tokens.json", "[]"))

# --- chat templates and generation ---------------------------------------------------------------------------------

CHAT = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
_BAD = "chat template of .*"
for _words, _text, _said in [
    ("that loops", "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "takes more than"),
    ("that counts in the processor", "{% set x = 99999999 ** 99999999 %}", "takes more than"),
    ("of fifty megabytes", "{{ 'abcde' * 10**7 }}", "characters|more than 1 seconds"),
    ("of a gigabyte", "{{ 'abcde' * 10**9 }}", "MB"),
    ("that widens", "{{ '%0999999999d' % 1 }}", "MB|characters"),
    ("that calls itself", "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError"),
    ("that raises", "{{ raise_exception('only system turns') }}", "only system turns"),
    ("of no syntax", "{% for m in messages %}", "TemplateSyntaxError"),
    ("with an unknown filter", CHAT + "{{ 1 | evil }}", "evil"),
    ("with an unknown name", CHAT + "{{ evil.name }}", "'evil' is undefined"),
    ("that divides by zero", CHAT + "{{ 1 / 0 }}", "ZeroDivisionError"),
    ("that reaches into Python", "{{ messages.__class__.__mro__ }}", "unsafe"),
    ("that calls what it should not", "{{ ''.format.__globals__.os }}", "unsafe|undefined|no attribute"),
    ("that includes a file", "{% include '/etc/passwd' %}", "loader"),
    ("with turns of another shape", "{{ messages[5]['content'] }}", "undefined|list"),
]:
    odd(f"a template {_words}", _BAD + f"({_said})", template(_text))
odd("a template without the message", "it is not inside the encoded prompt", template("<|im_start|>user"))
odd("a template that writes the message twice", "it is 2 times in the encoded prompt|neighbours", template(CHAT + CHAT))
odd("a template of nothing but space", "tokenizer|marker|prompt", template("  \n"))
odd("a template of 2 MB", "chat_template.jinja: it takes 2 MB", template("{# " + "x" * 2_100_000 + " #}" + CHAT))
odd("a template with today's date", opens, template("{{ strftime_now('%d %B %Y, %H:%M') }}\n" + CHAT))
odd("a template that draws", opens, template("{{ [1, 2, 3, 4, 5, 6, 7, 8] | random }}" + CHAT))
odd(
    "templates by name without a default",
    _BAD + "default",
    then(gone("chat_template.jinja"), named(chat_template=[{"name": "x", "template": CHAT}])),
)
odd("a template that is a number", "chat template|tokenizer", then(gone("chat_template.jinja"), named(chat_template=7)))
for _key, _value, _said in [
    ("eos_token_id", "end", "eos_token_id"), ("eos_token_id", [1, "x"], "eos_token_id"),
    ("eos_token_id", {"a": 1}, "eos_token_id"), ("eos_token_id", True, "eos_token_id"),
    ("eos_token_id", 10**30, opens), ("temperature", -1, opens), ("temperature", "hot", opens),
    ("cache_implementation", "evil", "cache_implementation"), ("max_length", -5, opens),
    ("_from_model_config", "x", opens),
]:  # fmt: skip
    odd(f"generation_config.json's {_key} {_value!r}", _said, settings("generation_config.json", **{_key: _value}))

# --- sidecars ------------------------------------------------------------------------------------------------------

for _scale in (True, False, 0, -150, -0.5, float("nan"), float("inf"), "0", "-150", 1e39):
    odd(f"a scale of {_scale!r}", r"injection_scale is ", sidecar(extraction={"injection_scale": _scale}))
odd("a base that is a list", "sidecar .*base_checkpoint", sidecar(base_checkpoint=["a"]))
odd("a width of another model", "width", sidecar(d_model=32))
odd("a block the model has not", "blocks 0 to 3", sidecar(extraction_layer_index=9))
