"""``dragoman compare``: two settings side by side, feature by feature, every difference tested.

In: two run folders. Out: a table on stdout, or JSON, or a page. Refuses what ``dragoman.comparison`` refuses.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dragoman.commands.printing import console, put, put_record, styled, talking
from dragoman.commands.tables import show_table
from dragoman.commands.words import MACHINE, Seed, folder_path, out_file

if TYPE_CHECKING:
    from dragoman.comparison.records import AgreementOverNulls, Comparison, ConditionPair, Side

SETTINGS = 12  # in which runs differ, told on a screen; the page and the JSON have all
LISTED = 3  # features whose texts are least alike
_NO_SETTING = ("versions", "digests")  # words that a name begins with: told on a screen where nothing else differs


def compare(
    a: Annotated[Path, typer.Argument(metavar="RUN_A", parser=folder_path, help="A run folder.")],
    b: Annotated[
        Path,
        typer.Argument(
            metavar="RUN_B",
            parser=folder_path,
            help="Another of the same dictionary and target; or the same, to compare two of its conditions.",
        ),
    ],
    condition: Annotated[
        list[str] | None,
        typer.Option(
            "--condition",
            metavar="NAME",
            help="Which conditions go together: NAME of both, or NAME_A=NAME_B; may be repeated. Default: those that "
            "both have.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o", "--out", parser=out_file, metavar="FILE", help="Page to write: the texts side by side, static HTML."
        ),
    ] = None,
    seed: Seed = 0,
    as_json: Annotated[
        bool, typer.Option("--json", rich_help_panel=MACHINE, help="The comparison on stdout as JSON.")
    ] = False,
) -> None:
    """Compare two settings, feature by feature: every measure that both runs have, A less B, all tests counted.

    What one of them was not scored for is named as missing; dragoman score fills it in.
    """
    from dragoman.comparison import compare_runs
    from dragoman.comparison.page import write_comparison
    from dragoman.store import RunFolder

    first, second = RunFolder.open(a), RunFolder.open(b)
    with talking() as talk:
        found = compare_runs(first, second, conditions=condition or (), seed=seed, talk=talk)
    page = None if out is None else write_comparison(found, first, second, out)
    if as_json:
        put_record("comparison", found.to_json() | ({} if page is None else {"page": str(page)}))
        return
    show_comparison(found)
    if page is not None:
        put(f"page: {page}")


def show_comparison(found: Comparison) -> None:
    """Who is compared, in what they differ, every pair of conditions."""
    out = console()
    for name, side in (("A", found.a), ("B", found.b)):
        out.print(styled(f"{name}: {_side(side)}"), soft_wrap=True)
        if side.distrust:
            out.print(styled(side.distrust, "bold red"))
    _show_settings(found)
    for pair in found.pairs:
        out.print()
        _show_pair(pair)
    out.print()
    if found.tests:
        out.print(styled(_tested(found), "dim"))


def _side(side: Side) -> str:
    said = ", ".join(dict.fromkeys(filter(None, side.verbalizers.values())))
    return f"{side.run}, {side.features} feature{'' if side.features == 1 else 's'}" + (f", by {said}" if said else "")


def _show_settings(found: Comparison) -> None:
    out = console()
    some = [one for one in found.differing if not one.name.startswith(_NO_SETTING)] or list(found.differing)
    if not some:
        out.print(styled("Their settings, verbalizers, digests and versions are the same."))
        return
    told = [f"{one.name} ({_said(one.a)} in A, {_said(one.b)} in B)" for one in some[:SETTINGS]]
    more = len(found.differing) - len(told)
    rest = f"; {more} more, digests and versions among them (--json has all)" if more else ""
    out.print(styled(f"They differ in {'; '.join(told)}{rest}."))


def _said(value: str | None) -> str:
    return "not told" if value is None else value


def _show_pair(pair: ConditionPair) -> None:
    from dragoman.comparison.values import BOTH, MEASURES

    out = console()
    others = [f"{n} in {name} alone" for name, n in (("A", pair.only_a), ("B", pair.only_b)) if n]
    title = pair.a if pair.a == pair.b else f"{pair.a} of A beside {pair.b} of B"
    counted = f"{pair.n} feature{'' if pair.n == 1 else 's'} in both" + (f" ({', '.join(others)})" if others else "")
    rows = [
        [
            MEASURES[one.measure][0],
            str(one.features),
            f"{one.a:.3f}",
            f"{one.b:.3f}",
            f"{one.value:+.3f}",
            f"[{one.low:+.3f}, {one.high:+.3f}]",
            f"{one.p:.2g}",
            f"{one.adjusted:.2g}{'*' if one.holds else ''}",
        ]
        for one in pair.differences
    ]
    heads = ("measure", "n", "A", "B", "A − B", "95 % interval", "p", "Holm")
    if rows:
        show_table(f"{title}: {counted}", heads, rows)
    else:
        out.print(styled(f"{title}: {counted}", "bold"))
    for one in pair.differences:
        over = one.extra.get("over_a"), one.extra.get("over_b")
        if over[0] != over[1]:
            told = f"{MEASURES[one.measure][0]}: A's is over {over[0]} features, B's over {over[1]}."
            out.print(styled(told, "dim"))
    neither = [MEASURES[one.measure][0] for one in pair.missing if one.why.startswith(BOTH)]
    for one in pair.missing:
        if not one.why.startswith(BOTH):
            out.print(styled(f"missing: {MEASURES[one.measure][0]}, {one.why}.", "yellow"))
    if neither:
        out.print(styled(f"missing in both runs: {', '.join(neither)} (the page and --json say why).", "dim"))
    _show_texts(pair)
    if pair.over_nulls is not None:
        show_agreement(pair.over_nulls)


def show_agreement(one: AgreementOverNulls, whose: str = "") -> None:
    """Whether two verbalizers agree above nulls; ``whose``: which two, where there are several."""
    out = console()
    for line in one.lines:
        out.print(styled(f"{whose}{line}"))


def _show_texts(pair: ConditionPair) -> None:
    out, agreement = console(), pair.agreement
    told = f"texts: {agreement.same} of {agreement.n} are the same to the letter"
    if (one := agreement.likeness) is not None:
        told += f"; likeness by words with the own one less that with other features' {one}, p {one.p:.2g}"
    out.print(styled(f"{told}."))
    unlike = [one for one in pair.features if one.likeness < 1][:LISTED]
    if unlike:
        named = ", ".join(f"{one.feature} ({one.likeness:.2f})" for one in unlike)
        out.print(styled(f"least alike by words: {named}"))


def _tested(found: Comparison) -> str:
    holding = sum(one.holds for pair in found.pairs for one in pair.differences)
    first = next(one for pair in found.pairs for one in pair.differences)
    return (
        f"{holding} of {found.tests} differences hold (*) at {found.level:g} when p is adjusted by Holm over all "
        f"{found.tests} tests that were made. {first.method[0].upper()}{first.method[1:]}; null: {first.null}."
    )
