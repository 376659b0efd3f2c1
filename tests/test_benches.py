"""``make bench`` runs every bench that needs nothing besides; what is left out of it says why."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAKEFILE = (ROOT / "Makefile").read_text()


def named(variable: str) -> set[str]:
    """The scripts that a variable of the Makefile names."""
    found = re.search(rf"^{variable} := (.+)$", MAKEFILE, re.MULTILINE)
    assert found is not None
    return {name.removeprefix("bench/") for name in found[1].split()}


BY_HAND, IMPORTED = named("BY_HAND"), named("IMPORTED")
SCRIPTS = {path.name: path for path in (ROOT / "bench").glob("*.py")}


def demanded(tree: ast.AST) -> list[str]:
    """Options that a script cannot do without, and words that it takes by their place."""
    found = []
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        if not (isinstance(call.func, ast.Attribute) and call.func.attr == "add_argument"):
            continue
        names = [one.value for one in call.args if isinstance(one, ast.Constant)]
        how = {one.arg: one.value for one in call.keywords}
        given = isinstance(own := how.get("required"), ast.Constant) and own.value
        if given or (not str(names[0]).startswith("-") and "nargs" not in how):
            found.append(str(names[0]))
    return found


def test_make_bench_leaves_out_what_it_names_alone() -> None:
    assert "$(filter-out $(BY_HAND) $(IMPORTED),$(wildcard bench/*.py))" in MAKEFILE
    assert set(SCRIPTS) >= BY_HAND | IMPORTED and not BY_HAND & IMPORTED


@pytest.mark.parametrize("name", sorted(SCRIPTS))
def test_a_bench_runs_without_options_or_says_what_to_type(name: str) -> None:
    tree = ast.parse(SCRIPTS[name].read_text())
    if name in IMPORTED:
        assert "__main__" not in SCRIPTS[name].read_text()
        return
    assert "__main__" in SCRIPTS[name].read_text()
    if name in BY_HAND:
        assert f"python bench/{name}" in (ast.get_docstring(tree) or "")
    else:
        assert demanded(tree) == []


def test_what_cannot_do_without_an_option_is_seen() -> None:
    assert demanded(ast.parse(SCRIPTS["real_size.py"].read_text())) == ["--scratch"]
    assert demanded(ast.parse("p.add_argument('run'); p.add_argument('-n', required=False)")) == ["run"]
