"""The package's public names: each is its home's own, and looking at them imports nothing heavy.

Apart from test_api.py, whose world stands in for one of them while its tests run.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import pytest

import dragoman

PACKAGE = Path(dragoman.__file__).parent


def test_all_is_what_there_is_and_every_name_is_its_home_s_own() -> None:
    homes = dragoman._HOMES
    assert sorted(dragoman.__all__) == sorted([*homes, "__version__"]) == sorted(dir(dragoman))
    assert list(homes) == sorted(homes) and 20 <= len(homes) <= 35
    for name, home in homes.items():
        assert getattr(dragoman, name) is getattr(import_module(f"dragoman.{home}"), name), name
        assert callable(getattr(dragoman, name))
    assert dragoman.__version__ == version("dragoman")
    assert (PACKAGE / "py.typed").is_file()
    with pytest.raises(AttributeError, match="no attribute 'translate'"):
        dragoman.translate  # noqa: B018


def test_what_type_checkers_see_is_what_is_resolved() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.name: str(node.module) for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert seen == {name: f"dragoman.{home}" for name, home in dragoman._HOMES.items()}


def test_no_public_name_is_a_room_s() -> None:
    """A submodule of the same name would take the place of the function as soon as anybody imports it."""
    rooms = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert not rooms & set(dragoman.__all__)


def test_a_dict_of_anything_stands_at_an_edge_alone() -> None:
    """JSON that comes in or goes out, and words of other libraries. All else is told by types that have fields."""
    found = {"dict[str, Any]": list[str](), "Mapping[str, Any]": list[str]()}
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Subscript) and (told := ast.unparse(node)) in found:
                found[told].append(str(path.relative_to(PACKAGE)))
        other_names = [node for node in tree.body if isinstance(node, ast.Assign) and ast.unparse(node.value) in found]
        assert not other_names, f"{path} gives it another name"
    assert len(found["dict[str, Any]"]) <= 60, found["dict[str, Any]"]
    assert not [name for name in found["dict[str, Any]"] if name.startswith("report/")]
    assert len(found["Mapping[str, Any]"]) <= 200, "nor does it stand in the other's place"


def test_import_is_light_and_a_light_name_stays_so() -> None:
    code = """import sys, dragoman as dg
dg.Refusal, dg.Site, dg.Estimate
print(sorted({"torch", "transformers", "pandas", "scipy"} & set(sys.modules)))"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
