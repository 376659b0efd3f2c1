"""The doctor asks a model by public names alone, and leaves its modules and tensors to the rooms that import torch."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import dragoman.doctor
import dragoman.models
from dragoman.doctor import Subject
from dragoman.models.decode import Verbalizer
from dragoman.models.harvest import Reader

ROOMS = {room.__name__: Path(str(room.__file__)).parent for room in (dragoman.doctor, dragoman.models)}
FILES = sorted(path for folder in ROOMS.values() for path in folder.rglob("*.py"))
LIBRARIES = {"peft", "torch", "transformers", "tokenizers"}
# What modules and tensors can do, and nothing that a reader, a verbalizer or an array of numpy's is asked for.
OF_TORCH = {"backward", "cpu", "detach", "forward", "generate", "get_input_embeddings", "get_output_embeddings"}
OF_TORCH |= {"long", "named_modules", "named_parameters", "new_tensor", "new_zeros", "numpy", "parameters"}
OF_TORCH |= {"register_forward_hook", "register_forward_pre_hook", "register_hook", "state_dict", "to"}
# Nothing public keeps a cluster that Ray starts to this machine, where it was imported before, and off stdout.
OF_OTHERS = {"ray_workers.py": {"_private", "_worker_logs_enabled"}}


def private(name: object) -> bool:
    return isinstance(name, str) and name.startswith("_") and not name.startswith("__")


def private_reads(tree: ast.AST) -> Iterator[str]:
    """Names with an underscore that are read of anything but ``self`` and ``cls``, by a dot or by ``getattr``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and private(node.attr):
            if not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")):
                yield node.attr
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("getattr", "hasattr"):
            yield from (word.value for word in node.args if isinstance(word, ast.Constant) and private(word.value))


@pytest.mark.parametrize("path", FILES, ids=lambda path: "/".join(path.parts[-2:]))
def test_no_private_name_of_another_object_is_read(path: Path) -> None:
    assert not set(private_reads(ast.parse(path.read_text(encoding="utf-8")))) - OF_OTHERS.get(path.name, set())


@pytest.mark.parametrize("line", ["x._net", "x.y._net.z", "getattr(x, '_net', None)", "hasattr(x, '_net')"])
def test_such_a_reading_would_be_found(line: str) -> None:
    assert list(private_reads(ast.parse(line))) == ["_net"]


def test_the_doctor_touches_no_module_and_no_tensor() -> None:
    for path in sorted(ROOMS["dragoman.doctor"].glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        assert not names & OF_TORCH, path.name
        imported = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        imported |= {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
        assert not {name.partition(".")[0] for name in imported} & LIBRARIES, path.name


def test_what_it_asks_of_a_verbalizer_is_documented() -> None:
    told = f"{Verbalizer.__doc__} {' '.join(name for name in vars(Verbalizer) if not name.startswith('_'))}"
    asked = ("name", "site", "base", "adapters", "whole", "model", "tokenizer", "contract", "prompt", "merged", "width")
    assert all(name in told for name in asked)
    assert {"model", "tokenizer", "site"} <= set(Reader.__dataclass_fields__)
    assert Subject().local is None and Subject().width == 0
