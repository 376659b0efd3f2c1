"""What ``-h`` and ``--help-all`` show: flags without a type, the options that most people need first.

In: a command's options. Out: its help. Refuses nothing.

Of a command that `examples` names first options of, ``-h`` shows a short form: what the command does in two paragraphs,
its arguments and those options by their first sentence, the names of all others under their headings, examples.
``--help-all`` shows everything; of other commands it is the same as ``-h``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from copy import copy
from typing import Any

from typer.core import TyperArgument, TyperCommand, TyperGroup

from dragoman.commands.examples import FIRST, MOST_USED
from dragoman.commands.printing import put

_ALL = "--help-all"
_PARAGRAPHS = 2  # of what a command does, that the short form shows
_ROOM = 56  # characters of names under one heading
_SENTENCE = re.compile(r"(?<=\.)\s+(?=[A-Z])")


class HelpfulGroup(TyperGroup):
    """Several commands."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Its options."""
        return _without_types(super().get_params(ctx))


class HelpfulCommand(TyperCommand):
    """One command; its usage names arguments as its help does, and help is listed last."""

    def __init__(self, name: str | None, *, params: list[Any] | None = None, **how: Any) -> None:
        """As the library's; where a command has many options, those most people need come first."""
        first = FIRST.get(name or "", ())
        if not {param.name for param in params or []}.issuperset(first):
            first = ()  # another command of that name
        for param in params or []:
            if param.name in first:
                param.rich_help_panel = MOST_USED
        ordered = sorted(params or [], key=lambda one: _place(one, first))
        super().__init__(name, params=ordered, **how)
        self.help = "\n\n".join(" ".join(one.split()) for one in (self.help or "").split("\n\n"))
        self._first, self._all = first, None

    @property
    def whole(self) -> str:
        """The option that shows all of the help."""
        return _ALL if self._first else "--help"

    def get_params(self, ctx: Any) -> list[Any]:
        """Its options, ``--help-all`` the last."""
        found = super().get_params(ctx)
        if self._all is None and self.add_help_option:
            self._all = self._help_all(found[-1])
        return _without_types([*found, *([] if self._all is None else [self._all])])

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """The words of the usage line, ``SAE`` where the library writes ``{SAE}``."""
        return [re.sub("[{}]", "", piece) for piece in super().collect_usage_pieces(ctx)]

    def get_help_option(self, ctx: Any) -> Any:
        """``--help``, under the heading of the command's last option."""
        found = super().get_help_option(ctx)
        if found is not None and self.params:
            found.rich_help_panel = getattr(self.params[-1], "rich_help_panel", None)
        return found

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """The help: the short form where there is one and nobody asked for all."""
        if not self._first or ctx.meta.get(_ALL):
            super().format_help(ctx, formatter)
            return
        short = copy(self)
        short._first, short._all, short.add_help_option = (), None, False
        short.params = [_brief(one) for one in (*self.params, self._all) if self._leads(one)]
        short.help = "\n\n".join((self.help or "").split("\n\n")[:_PARAGRAPHS])
        short.epilog = "\n".join([*self._others(), "", self.epilog or ""])
        short.format_help(ctx, formatter)

    def _leads(self, param: Any) -> bool:
        return isinstance(param, TyperArgument) or param is self._all or param.name in self._first

    def _others(self) -> Iterable[str]:
        """The headings that the short form leaves out, each with the names under it."""
        under, own = dict[str, list[str]](), list[Any](self.params)
        for param in own:
            if not self._leads(param) and not param.hidden:
                under.setdefault(param.rich_help_panel or "Options", []).append(max(param.opts, key=len))
        wide = max(map(len, under), default=0)
        yield f"{_ALL} shows these too:"
        for heading, names in under.items():
            yield f"  {heading:{wide}}  {_listed(names)}"

    def _help_all(self, help_option: Any) -> Any:
        """The option, made after ``--help``; hidden where it would show the same."""
        found = copy(help_option)
        found.name, found.opts, found.hidden = "help_all", [_ALL], not self._first
        found.rich_help_panel = MOST_USED if self._first else help_option.rich_help_panel
        found.help, found.callback = "Show every option and exit.", _show_all
        return found


def _show_all(ctx: Any, _param: Any, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        ctx.meta[_ALL] = True
        put(ctx.get_help())  # which draws it, and leaves an empty line
        ctx.exit()


def _without_types(params: list[Any]) -> list[Any]:
    """Flags take no value, and an argument's name tells what it is: neither shows a type of Python's."""
    for param in params:
        if isinstance(param, TyperArgument):
            param.display_type = lambda ctx: ""
        elif param.is_flag and param.metavar is None:
            param.metavar = ""
    return params


def _brief(param: Any) -> Any:
    """The same, told by its first sentence."""
    found = copy(param)
    found.help = _SENTENCE.split(param.help or "")[0]
    if not isinstance(param, TyperArgument):
        found.min = found.max = None
    return found


def _listed(names: Sequence[str]) -> str:
    """Names as far as there is room, and how many more there are."""
    for count in range(len(names), 0, -1):
        more = f" and {len(names) - count} more" if count < len(names) else ""
        if len(told := f"{', '.join(names[:count])}{more}") <= _ROOM:
            return told
    return f"{len(names)} options"


def _place(param: Any, first: Sequence[str]) -> int:
    if param.name in first:
        return first.index(param.name)
    return -1 if isinstance(param, TyperArgument) else len(first)
