"""Chat templates: rendered as transformers does, within bounds, and the same on every day."""

from __future__ import annotations

import json
import random
import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from dragoman.core import Refusal
from dragoman.models.decode import Verbalizer
from dragoman.store import digest
from dragoman.verbalizers import prompt as chat
from dragoman.verbalizers.prompt import DAY, render_chat
from tiny_checkpoints import CHAT, save_adapter, save_checkpoint, tokenizer_of

TURNS = [{"role": "system", "content": "Be <brief> & kind."}, {"role": "user", "content": "Grüß dich,\n “world”"}]
# Each has one thing that published templates do and plain jinja does not, or does otherwise.
TEMPLATES = [
    *CHAT.values(),
    "{%- for m in messages %}\n    {%- if loop.first %}\n  {{ m.content | trim }}\n  {% endif %}\n{%- endfor %} x\n",
    "{% for m in messages %}{% if m.role == 'system' %}{% continue %}{% endif %}{{ m.content }}{% break %}{% endfor %}",
    "{{ messages | tojson }}{{ messages | tojson(indent=2) }}{{ {'b': 1, 'a': 'ß'} | tojson(sort_keys=true) }}",
    "{% set ns = namespace(found=false, n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
    "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}",
    "{% generation %}{% set a = 1 %}{{ a }}{% endgeneration %}{{ a is defined }}",
    "{{ dict(a=1) }}{{ dict.fromkeys(['x']) }}{{ tools is none }}{{ documents }}{{ bos_token }}{{ more }}",
    "{% macro turn(m) %}[{{ m.role | upper }}]{% endmacro %}{% for m in messages %}{{ turn(m) }}{% endfor %}",
    "{{ messages[-1]['content'].split('\n')[0].strip() }}{{ messages[0].get('x', 'none') }}",
    "{% if not strftime_now is defined %}no clock{% endif %}{{ '%s-%s' % (1, 2) }}{{ 'a' ~ 1 ~ none }}",
]  # fmt: skip


class Told:
    """A tokenizer, as far as templates know one."""

    special_tokens_map = {"bos_token": "<s>", "eos_token": "</s>"}
    name_or_path = "somewhere"

    def __init__(self, template: Any) -> None:
        self.chat_template = template


def here(script: Path, question: Any, *_: Any) -> Any:
    """What the process of its own would answer; that it is asked is shown by those below."""
    before = random.getstate()
    try:
        return runpy.run_path(str(script))["answer"](json.loads(json.dumps(question)))
    finally:
        random.setstate(before)


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("opened", [True, False])
def test_a_template_is_rendered_as_transformers_renders_it(
    template: str, opened: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs, _ = render_jinja_template(
        conversations=[TURNS], chat_template=template, add_generation_prompt=opened, more="x", **Told.special_tokens_map
    )
    monkeypatch.setattr(chat, "ask", here)
    ours = render_chat(Told(template), TURNS, opened=opened, switches={"more": "x"})
    assert ours.text == theirs[0] and ours.day is None


DATED = "Today: {{ strftime_now('%d %b %Y %H:%M %Z') }}. {{ messages[0].content }}"


def test_a_template_that_asks_for_the_date_is_told_one_day_whatever_the_day(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for zone in ("UTC", "Pacific/Kiritimati", "Pacific/Pago_Pago"):
        monkeypatch.setenv("TZ", zone)
        chat._rendered.cache_clear()
        found.append(render_chat(Told(DATED), TURNS))
    assert found[0] == found[1] == found[2]
    assert found[0].text.startswith("Today: 26 Jul 2024 12:00 .") and found[0].day == DAY
    assert render_chat(Told(DATED), TURNS, day="2025-01-31").text.startswith("Today: 31 Jan 2025")


def test_what_a_template_draws_at_random_is_drawn_once_and_for_all() -> None:
    drawn = "{{ range(99999) | random }} {{ lipsum(1) }}"
    first = render_chat(Told(drawn), TURNS)
    chat._rendered.cache_clear()
    assert render_chat(Told(drawn), TURNS) == first


@pytest.mark.parametrize("day", ["today", "2025-02-30", "20250101", "", 7])
def test_a_day_that_is_none_is_refused(day: Any) -> None:
    with pytest.raises(Refusal, match=f"date '{day}': it is no date; write it as YYYY-MM-DD"):
        render_chat(Told(DATED), TURNS, day=day)


def test_the_refusal_names_where_the_template_is_from() -> None:
    with pytest.raises(Refusal, match="^chat template of somewhere: TemplateError: no; put the chat_template.jinja"):
        render_chat(Told("{{ raise_exception('no') }}"), TURNS)


def test_a_verbalizers_prompt_and_its_date_are_kept_and_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_checkpoint(tmp_path / "av", "qwen2")
    plain = Verbalizer(folder).identity
    assert plain["prompt_date"] is None and "㈎" in plain["prompt_text"]
    (folder / "chat_template.jinja").write_text("{{ strftime_now('%d %B %Y') }}\n" + CHAT["qwen2"])
    first = Verbalizer(folder)
    monkeypatch.setenv("TZ", "Pacific/Kiritimati")
    chat._rendered.cache_clear()
    assert Verbalizer(folder).identity == first.identity  # tomorrow, elsewhere: the same run
    assert first.identity["prompt_date"] == DAY
    assert first.identity["prompt_text"] == first.prompt.text and first.prompt.text.startswith("26 July 2024\n")
    other = Verbalizer(folder, settings={"date": "2025-01-31"})
    assert other.prompt.text.startswith("31 January 2025") and other.identity != first.identity
    with pytest.raises(Refusal, match="date 'tomorrow': it is no date"):
        Verbalizer(folder, settings={"date": "tomorrow"})


# --- every byte that decides is in the identity ------------------------------------------------------------------


def marked(path: Path) -> None:
    """A change of bytes that changes nothing else: a space at the end of a JSON file, a comment in a template."""
    path.write_text(path.read_text() + ("{# #}" if path.suffix == ".jinja" else " "))


BESIDE = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


@pytest.mark.parametrize("name", BESIDE)
def test_a_changed_file_beside_the_weights_is_another_verbalizer(tmp_path: Path, name: str) -> None:
    folder = save_checkpoint(tmp_path / "av", "llama")
    before = Verbalizer(folder).identity
    assert set(BESIDE) <= set(before["files"])
    marked(folder / name)
    after = Verbalizer(folder).identity
    assert after != before and digest(json.dumps(after["prompt"])) == digest(json.dumps(before["prompt"]))


@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
def test_so_is_a_changed_file_of_any_model_below_an_adapter(tmp_path: Path, name: str) -> None:
    base = save_checkpoint(tmp_path / "base", "qwen2")
    middle = save_adapter(tmp_path / "middle", "qwen2", base)
    lower = json.loads((middle / "adapter_config.json").read_text()) | {"base_model_name_or_path": str(base)}
    (middle / "adapter_config.json").write_text(json.dumps(lower))
    top = save_adapter(tmp_path / "top", "qwen2", base)
    stated = json.loads((top / "adapter_config.json").read_text()) | {"base_model_name_or_path": str(middle)}
    (top / "adapter_config.json").write_text(json.dumps(stated))
    before = Verbalizer(top, base=str(middle)).identity
    assert {"base_weights", "base_files", "root_weights", "root_files"} <= set(before)
    marked(base / name)
    between = Verbalizer(top, base=str(middle)).identity
    assert between != before
    marked(middle / "adapter_config.json")
    assert Verbalizer(top, base=str(middle)).identity != between


def test_a_tokenizer_with_templates_by_name_takes_its_default() -> None:
    tokenizer = tokenizer_of("qwen2")
    tokenizer.chat_template = {"default": CHAT["qwen2"], "tool_use": "no"}
    plain = render_chat(tokenizer_of("qwen2"), TURNS)
    assert replace(render_chat(tokenizer, TURNS)) == plain
