"""Render a chat template, in the process that `store.boundary` starts: the environment templates are written for.

In: the template, the turns, the variables, the moment it may take for now. Out: the text, and whether the template
asked for the moment. The same bytes give the same text wherever and whenever it is rendered: the clock stands, and what
jinja draws at random is drawn from a seed. The names a template finds here are those that transformers gives it.
"""

from __future__ import annotations

import json
import random
from datetime import datetime
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace


class Generation(Extension):
    """The block ``{% generation %}``, by which trainers mark the answer; its contents stand as they are."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        """Its body, in a scope of its own."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body).set_lineno(line)


class Names(Namespace):
    """``namespace()`` without names that begin with an underscore."""

    def __init__(*args: Any, **named: Any) -> None:
        """Take names and values as ``dict`` does."""
        self, given = args[0], dict(*args[1:], **named)
        Namespace.__init__(self, {})
        for name, value in given.items():
            self[name] = value

    def __setitem__(self, name: str, value: Any) -> None:
        """Refuse names that could reach into Python."""
        if str(name).startswith("_"):
            raise TemplateError(f"a namespace takes no name {name!r}")
        super().__setitem__(name, value)


class Dict:
    """``dict(...)`` and ``dict.fromkeys(...)`` without the type behind them."""

    def __call__(self, *args: Any, **named: Any) -> dict[Any, Any]:
        """A dict."""
        return dict(*args, **named)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        """A dict of keys."""
        return dict.fromkeys(*args)


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> None:
    raise TemplateError(message)


def answer(question: dict[str, Any]) -> dict[str, Any]:
    """``template``, ``turns``, ``opened``, ``variables``, ``moment`` to ``text`` and ``asked_for_the_date``."""
    moment, asked = datetime.fromisoformat(question["moment"]), []

    def strftime_now(form: str) -> str:
        asked.append(form)
        return moment.strftime(form)

    random.seed(0)  # of the filter "random" and of lipsum()
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals.update(
        raise_exception=_raise_exception, strftime_now=strftime_now, dict=Dict(), namespace=Names
    )
    text = environment.from_string(question["template"]).render(
        messages=question["turns"],
        tools=None,
        documents=None,
        add_generation_prompt=question["opened"],
        **question["variables"],
    )
    if len(text) > question["longest"]:
        raise ValueError(f"the text it makes is {len(text)} characters long, and {question['longest']} are allowed")
    return {"text": text, "asked_for_the_date": bool(asked)}
