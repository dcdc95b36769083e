"""How the code is built: no private name leaves its file, a function fits on a screen, no mutant is stale.

That imports point downwards is tested in test_docs.py, beside the map of the modules.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from programs.mutants import MUTANTS

SOURCE = Path(__file__).parent.parent / "src" / "shmchannel"
MODULES = sorted(SOURCE.rglob("*.py"))

# Private names that are not ours: of namedtuples, and of Python where it has no public way.
FOREIGN = {
    *("_replace", "_asdict", "_fields", "_make"),
    *("_value_", "_name_"),  # of an enum's member, which a subclass may not redefine
    "_is_owned",  # of an RLock
    "_register_atexit",  # of threading: the one hook that runs before threads are joined
    *("_is_gil_enabled", "_getframe"),
    *("_actions", "_choices_actions", "_SubParsersAction"),  # argparse has no public way to its options
}


def private(name: str | None) -> bool:
    return name is not None and name.startswith("_") and not name.startswith("__")


def names_of(tree: ast.Module) -> set[str]:
    """The names that a file gives to functions, classes, variables and attributes."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            found.add(node.id if isinstance(node, ast.Name) else node.attr)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.add(node.value)  # in __slots__
    return found


def reaches(path: Path) -> Iterator[str]:
    """Where a file uses a private name of another file."""
    tree = ast.parse(path.read_text())
    own = names_of(tree) | FOREIGN
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and private(node.attr) and node.attr not in own:
            if isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"):
                continue  # a base class's
            yield f"{path.name}:{node.lineno}: {ast.unparse(node)}"
        if isinstance(node, ast.ImportFrom) and node.level:
            for alias in node.names:
                if private(alias.name) and alias.name != "_native":
                    yield f"{path.name}:{node.lineno}: import {alias.name}"


def test_no_file_uses_a_private_name_of_another() -> None:
    assert [one for path in MODULES for one in reaches(path)] == []


def test_such_a_use_would_be_found(tmp_path: Path) -> None:
    (tmp_path / "user.py").write_text(
        "from .port import Port, _hidden\nPort()._connection\nPort().write(1)\n"
    )
    assert list(reaches(tmp_path / "user.py")) == [
        "user.py:1: import _hidden",
        "user.py:2: Port()._connection",
    ]


def python_functions(path: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno
            yield f"{path.name}: {node.name}", node.end_lineno - node.lineno + 1


def c_functions(path: Path) -> Iterator[tuple[str, int]]:
    begin, name = 0, ""
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if re.match(r"\w.*\(", line) and not line.endswith(";"):
            begin, name = number, line
        elif line == "}" and begin:
            yield f"{path.name}: {name}", number - begin + 1
            begin = 0


def test_a_function_fits_on_a_screen() -> None:
    in_python = {name: lines for path in MODULES for name, lines in python_functions(path)}
    assert len(in_python) > 800
    assert {name: lines for name, lines in in_python.items() if lines > 60} == {}


def test_a_function_in_c_fits_on_a_screen() -> None:
    sources = sorted((SOURCE / "native").glob("*.[ch]"))
    if not sources:
        pytest.skip("no core in C here")
    in_c = {name: lines for path in sources for name, lines in c_functions(path)}
    assert len(in_c) > 150
    assert {name: lines for name, lines in in_c.items() if lines > 80} == {}


def test_a_mutant_breaks_code_that_is_there_once() -> None:
    # Without the core in C, none of its files are there.
    mutants = [mutant for mutant in MUTANTS if (SOURCE / mutant.file).exists()]
    counts = {mutant.code: (SOURCE / mutant.file).read_text().count(mutant.code) for mutant in mutants}
    assert {code: count for code, count in counts.items() if count != 1} == {}
