"""Where a command ends: refusals, interrupts and faults as one sentence and an exit code.

In: the command line's application. Out: an exit code: 0 done, 1 refused or at fault, 2 wrong usage, 130 interrupted.
What a library or the system raised is said as a refusal where the sentence is plain; anything else is a fault of
dragoman, said in one sentence, with the traceback where --debug (or DRAGOMAN_DEBUG=1) asks for it.
"""

from __future__ import annotations

import os
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

import typer
import typer.main
from typer.core import TyperOption
from typer.exceptions import TyperException

from dragoman.commands.help import HelpfulCommand, HelpfulGroup
from dragoman.commands.printing import guarded, one_line, tell, tell_lines
from dragoman.core import Refusal
from dragoman.store import refusing
from dragoman.store.spans import meant

_LONGEST = 400  # characters of somebody else's sentence


class _Stopped(Exception):
    """Ctrl-C, as an exception that the command-line library lets through."""


class Debug:
    """Whether tracebacks are shown."""

    wanted = False


class Verbose:
    """Whether what libraries say is let through, and every sentence of a long command."""

    wanted = False


_LIBRARIES = "transformers|torch|peft|accelerate|sentence_transformers|huggingface_hub|tokenizers|gguf"
_QUIET = {
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TQDM_DISABLE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


@contextmanager
def quiet_libraries(wanted: bool = True) -> Iterator[None]:
    """Inside, libraries show no progress bars and tell no warnings of their own; refusals and faults are as ever.

    What somebody has set in the environment stays as it is.
    """
    if not wanted:
        yield
        return
    mine = [name for name in _QUIET if name not in os.environ]
    os.environ.update({name: _QUIET[name] for name in mine})
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=rf"({_LIBRARIES})\b")
            yield
    finally:
        for name in mine:
            os.environ.pop(name, None)


@contextmanager
def _kept() -> Iterator[None]:
    """Inside, an interrupt keeps its sentence, and a file that ends early its error: the library would drop both."""
    try:
        yield
    except KeyboardInterrupt as stop:
        raise _Stopped(str(stop)) from stop
    except EOFError as end:
        raise RuntimeError(f"something ended early ({end})") from end


class Commands(HelpfulGroup):
    """Several commands, whose interrupts say what was kept."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        with _kept():
            return super().invoke(ctx)


class Command(HelpfulCommand):
    """One command, in the same way."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As the library's; an option that takes one value is refused a second time, where the last one would win."""
        if not ctx.resilient_parsing:
            _refuse_repeated(self, ctx, args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run it."""
        with _kept(), quiet_libraries(not Verbose.wanted):
            return super().invoke(ctx)


def _refuse_repeated(command: Any, ctx: Any, args: list[str]) -> None:
    """Refuse an option given twice that takes one value; wrong words are left to the library."""
    try:
        _, _, order = command.make_parser(ctx).parse_args(args=list(args))
    except TyperException:
        return
    seen: set[str] = set()
    for param in order:
        if not isinstance(param, TyperOption) or param.multiple or param.is_flag or param.count:
            continue
        if param.name in seen:
            said = max(param.opts, key=len)
            ctx.fail(f"Option {said} is given twice, and takes one value; give it once")
        seen.add(str(param.name))


def end_refused(refused: Sequence[Refusal], of: int, what: str) -> None:
    """Tell, when all else is done, what became of some of several pieces of work, and end; nothing where there is none.

    ``of``: how many there are; ``what``: what they are.
    """
    for refusal in refused:
        tell(f"dragoman: {refusal}")
    if refused:
        tell(f"dragoman: {of - len(refused)} of {of} {what} are done; run the same command again for the others.")
        raise typer.Exit(1)


def run(app: typer.Typer, name: str) -> NoReturn:
    """Run an application and end the process with its exit code."""
    Debug.wanted = Verbose.wanted = False
    with guarded():
        code = _run(app, name)
    raise SystemExit(code)


@cache
def _commands(app: typer.Typer) -> Any:
    """The application's commands, built of their signatures once: a process may run many."""
    return typer.main.get_command(app)


def _run(app: typer.Typer, name: str) -> int:
    try:
        found = _commands(app)(standalone_mode=False, prog_name=name)
    except Refusal as refusal:
        tell(f"{name}: {refusal}")
        return _traced(1)
    except (_Stopped, KeyboardInterrupt) as stop:
        tell(f"{name}: {str(stop) or 'interrupted; run the same command again, what was finished is kept.'}")
        return 130
    except TyperException as wrong:
        return _usage(wrong, name)
    except typer.Exit as end:
        return end.exit_code
    except typer.Abort:
        return 1
    except Exception as error:
        known = translated(error)
        if known is not None:
            tell(f"{name}: {known}")
        else:
            tell(
                f"{name}: this is a fault of dragoman: {type(error).__name__}: {_short(error)}; "
                f"'{name} --debug COMMAND ...' shows where it is, please report it."
            )
        return _traced(1)
    return found if isinstance(found, int) else 0


def _traced(code: int) -> int:
    if Debug.wanted:
        tell_lines(traceback.format_exc())
    return code


def _usage(wrong: Any, name: str) -> int:
    """Wrong words: how the command is called, and what is wrong. A command without any has shown its help."""
    if type(wrong).__name__ != "NoArgsIsHelpError":
        ctx = getattr(wrong, "ctx", None)
        if ctx is not None:
            tell_lines(ctx.get_usage())
        whole = getattr(getattr(ctx, "command", None), "whole", "--help")
        asked = f" ('{ctx.command_path} {whole}' lists what can be said)" if ctx is not None else ""
        tell(f"{name}: {_short(_worded(wrong)).rstrip('.')}{asked}.")
    return int(wrong.exit_code)


def _worded(wrong: Any) -> str:
    """What is wrong; of an option that is none, the one that was likely meant."""
    if getattr(wrong, "possibilities", None) and hasattr(wrong, "option_name"):
        return f"{wrong.message}. {meant(wrong.option_name, wrong.possibilities, '').replace('did', 'Did')}".rstrip(
            ". "
        )
    return str(wrong.format_message())


def _short(error: object) -> str:
    text = one_line(" ".join(str(error).split()))
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def translated(error: Exception) -> Refusal | None:
    """What a library or the system raised, as a refusal; None where no plain sentence says what to do."""
    room = type(error).__module__.partition(".")[0]
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return Refusal(
            "this command", "the memory is not enough for it", "lower --batch-size, or pass --dtype bfloat16"
        )
    if isinstance(error, UnicodeEncodeError) and "surrogates" in error.reason:
        return Refusal("a text or a name", "it holds half a character", "write it whole, or leave it out")
    if room in ("huggingface_hub", "httpx", "httpcore"):
        return Refusal("the hub", f"it could not be asked ({_short(error)})", "check the network, or pass a folder")
    if type(error).__name__ == "SafetensorError":
        return Refusal("a safetensors file", f"it is damaged ({_short(error)})", "fetch or make it again")
    if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
        try:
            with refusing("using", Path(str(error.filename))):
                raise error
        except Refusal as known:
            return known
    return None
