"""The documentation is true: its code runs and prints what it says; its tables and maps are the code's."""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import os
import pty
import re
import runpy
import subprocess
import sys
import tty
from pathlib import Path

import pytest

import shmchannel
from shmchannel import errors, layout
from shmchannel.transfer import block as blocks

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "shmchannel"
BESIDE = [ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md"]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(
    r"^```python\n(.*?)^```$(?:(?:(?!```).)*?^```output\n(.*?)^```$)?", re.MULTILINE | re.DOTALL
)
needs_interpreters = pytest.mark.skipif(
    sys.version_info < (3, 14), reason="needs Python 3.14: concurrent.interpreters"
)
EXAMPLES = [
    pytest.param(
        code,
        output,
        id=f"{page.relative_to(ROOT)}:{page.read_text()[: found.start()].count(chr(10)) + 1}",
        marks=[needs_interpreters, pytest.mark.varies] if "interpreter" in code.lower() else [],
    )
    for page in PAGES
    for found in BLOCK.finditer(page.read_text())
    for code, output in [found.groups()]
]


SHELL_BLOCK = re.compile(r"^```sh\n(.*?)^```$\s*^```output\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SHELL_EXAMPLES = [
    pytest.param(*found.groups(), id=f"{page.name}:{page.read_text()[: found.start()].count(chr(10)) + 1}")
    for page in PAGES
    for found in SHELL_BLOCK.finditer(page.read_text())
]


@pytest.mark.parametrize(("code", "output"), EXAMPLES)
def test_an_example_runs_as_printed(tmp_path: Path, code: str, output: str | None) -> None:
    """If the library that it shows is installed."""
    for library in re.findall(
        r"^import (attrs|gevent|pandas|polars|pyarrow|pydantic|torch)$", code, re.MULTILINE
    ):
        if not importlib.util.find_spec(library):
            pytest.skip(f"needs {library}")
    program = tmp_path / "example.py"
    program.write_text(code)
    done = subprocess.run(
        [sys.executable, program], cwd=tmp_path, capture_output=True, text=True, timeout=50, check=False
    )
    assert done.stderr == ""
    assert done.returncode == 0
    assert output is None or done.stdout == output


@pytest.mark.parametrize(("code", "output"), SHELL_EXAMPLES)
def test_a_shell_example_runs_as_printed(tmp_path: Path, code: str, output: str) -> None:
    """Except for ``...``, which stands for any text, and for the width of columns."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PATH": path, "LC_ALL": "C.UTF-8"},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.stderr == ""
    assert done.returncode == 0
    pattern = ".*".join(re.escape(" ".join(part.split())) for part in output.split("..."))
    assert re.fullmatch(pattern.replace("\\ .*", ".*").replace(".*\\ ", ".*"), " ".join(done.stdout.split()))


def test_the_shell_examples_were_found() -> None:
    assert len(SHELL_EXAMPLES) >= 5


def test_every_example_is_run() -> None:
    """Either the test above runs it or, if it has a title, the next one."""
    for page in PAGES:
        text = page.read_text()
        titled = text.count("```python title=") if page.name == "tutorial.md" else 0
        assert text.count("```py") == len(BLOCK.findall(text)) + titled, page
    assert len(EXAMPLES) >= 30


def test_the_tutorial_followed_to_the_letter(tmp_path: Path) -> None:
    """Except for the installation: this interpreter has the library already."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path}
    text = (ROOT / "docs" / "tutorial.md").read_text()
    steps = re.findall(r'^```(?:python title="([^"]+)"|console)\n(.*?)^```$', text, re.MULTILINE | re.DOTALL)
    assert "pip install" in steps[0][1]
    typed = 0
    for name, block in steps[1:]:
        if name:
            (tmp_path / name).write_text(block)
            continue
        for command, expected in re.findall(r"^\$ (.+)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE):
            shown, errors = in_a_terminal(command, tmp_path, environment)
            assert errors == ""
            assert re.fullmatch(re.escape(expected).replace(r"\.\.\.", ".+"), shown), shown
            typed += 1
    assert typed == len([name for name, _ in steps if name]) - 1  # the worker is started by the others


def in_a_terminal(command: str, folder: Path, environment: dict[str, str]) -> tuple[str, str]:
    """Return what a command shows, and what it writes to stderr.

    In a terminal Python writes each line at once and in one piece. So lines of several programs do not mix.
    """
    leader, follower = pty.openpty()
    with open(leader, "rb", buffering=0) as terminal, open(follower, "wb") as output:
        tty.setraw(output)
        shell = ["bash", "-c", command]
        done = subprocess.run(
            shell, cwd=folder, env=environment, stdout=output, stderr=subprocess.PIPE, timeout=50, check=False
        )
        output.close()
        shown = b""
        with contextlib.suppress(OSError):  # the end, as a terminal tells it
            while more := terminal.read(65536):
                shown += more
    return shown.decode(), done.stderr.decode()


def test_the_pictures_are_what_their_script_draws() -> None:
    drawn = runpy.run_path(str(ROOT / "docs" / "pictures.py"))["PICTURES"]
    files = {path.name: path.read_text() for path in (ROOT / "docs" / "pictures").iterdir()}
    assert files == {name: draw() for name, draw in drawn.items()}


def test_the_reference_has_all_that_is_public() -> None:
    text = (ROOT / "docs" / "reference.md").read_text()
    assert sorted(re.findall(r"^::: shmchannel\.(\w+)$", text, re.MULTILINE)) == sorted(shmchannel.__all__)
    members = re.findall(r'^        - "?(\w+)"?$', text, re.MULTILINE)
    assert sorted(members) == sorted(name for name in dir(shmchannel.Port) if not name.startswith("_"))


def rows(page: Path, heading: str) -> list[list[str]]:
    """The rows of the first table with that beginning of its heading, cells without bold and backticks."""
    text = page.read_text()
    lines = text[text.index(heading) :].split("\n\n")[0].splitlines()
    return [[re.sub(r"[*`]", "", cell).strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_figures_of_the_first_pages_are_those_of_the_performance_page() -> None:
    measured = {name: cells for name, *cells in rows(ROOT / "docs" / "performance.md", "| | one-way")[2:]}
    heading, _, *shown = rows(ROOT / "docs" / "index.md", "| | shmchannel |")
    for column, name in enumerate(heading[1:], start=1):
        rate, _, trip, _, large, _ = measured[name.replace("multiprocessing.", "mp.")]
        assert [row[column] for row in shown] == [f"{1000 * int(rate):,}", f"{trip} µs", f"{large} GiB/s"]
    pipe, best = measured["mp.Pipe"], measured["cloudtoid-interprocess"]
    ratios = re.findall(r"\*\*(\d[^*]*)\*\*", (ROOT / "README.md").read_text())
    assert ratios == [pipe[1], best[1], pipe[3]]


def test_every_page_is_in_the_navigation() -> None:
    listed = re.findall(r"[\w./-]+\.md\b", (ROOT / "docs" / "mkdocs.yml").read_text())
    pages = [str(path.relative_to(ROOT / "docs")) for path in PAGES if path != ROOT / "README.md"]
    assert sorted(listed) == sorted(pages)


def test_links_between_pages_lead_somewhere() -> None:
    for page in [*PAGES, *BESIDE]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def text_blocks(after: str) -> list[str]:
    """The text blocks of CONTRIBUTING.md from that heading to the next."""
    section = (ROOT / "CONTRIBUTING.md").read_text().split(f"## {after}\n")[1].split("\n## ")[0]
    return re.findall(r"^```text\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)


def mapped() -> list[str]:
    """The files on the map, from top to bottom."""
    (block,) = text_blocks("The map")
    files, folder = [], ""
    for indent, name in re.findall(r"^( *)(\S+)", block, re.MULTILINE):
        if name.endswith("/"):
            folder = name
        else:
            files.append(f"{folder if indent else ''}{name}")
    return files


def imported(module: str) -> set[str]:
    """The files that a module imports from its package, wherever in it the import stands."""
    found = set()
    for node in ast.walk(ast.parse((PACKAGE / module).read_text())):
        if isinstance(node, ast.Import):
            found |= {"__init__.py" for each in node.names if each.name.split(".")[0] == "shmchannel"}
        elif isinstance(node, ast.ImportFrom) and node.level:
            above = PACKAGE.joinpath(module).parents[node.level - 1]
            target = above.joinpath(*(node.module or "").split("."))
            for name in {each.name for each in node.names} - {"_native"}:
                places = target / f"{name}.py", target.with_suffix(".py"), target / "__init__.py"
                found.add(str(next(path for path in places if path.exists()).relative_to(PACKAGE)))
    return found


def test_the_map_has_every_module_and_header_once() -> None:
    files = {path for path in PACKAGE.rglob("*") if path.suffix in (".py", ".c", ".h")}
    files -= {
        path for path in files if path.name == "__init__.py" and len(ast.parse(path.read_text()).body) == 1
    }
    assert sorted(mapped()) == sorted(str(path.relative_to(PACKAGE)) for path in files)


def test_every_import_points_down_the_map() -> None:
    files = mapped()
    for number, file in enumerate(files):
        if file.startswith("native/"):
            included = re.findall(r'^#include "(\w+\.h)"$', (PACKAGE / file).read_text(), re.MULTILINE)
            below = {f"native/{name}" for name in included}
        else:
            below = imported(file)
        assert below <= set(files[number + 1 :]), f"{file} imports {sorted(below - set(files[number:]))}"


def test_the_library_imports_neither_command_line_nor_benchmarks_nor_bridge_nor_pools() -> None:
    library = mapped()[mapped().index("__init__.py") :]
    assert not [file for file in library if file.startswith(("cli/", "bench/", "bridge/", "futures/"))]


def test_the_way_of_a_message_leads_by_names_that_are_there() -> None:
    blocks = text_blocks("The way of a message")
    steps = re.findall(r"^ *(\S+) +([\w/]+\.(?:py|h))", "".join(blocks), re.MULTILINE)
    assert len(steps) == sum(block.count("\n") for block in blocks) >= 20
    for name, file in steps:
        text = (PACKAGE / file).read_text()
        if file.endswith(".py"):
            *owner, function = name.split(".")
            nodes = [node for node in ast.walk(ast.parse(text)) if getattr(node, "name", "") in owner]
            inside = ast.unparse(nodes[0]) if owner else text
            assert re.search(rf"^ *(async )?def {function}\(", inside, re.MULTILINE), f"{file} has no {name}"
        else:
            assert re.search(rf"^static .*\b{name}\(", text, re.MULTILINE), f"{file} has no {name}"


def table(heading: str) -> list[list[str]]:
    """The rows of the first table with that column heading in docs/layout.md, cells without backticks."""
    text = (ROOT / "docs" / "layout.md").read_text()
    rows = text[text.index(heading) :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip().replace("`", "") for cell in row.strip("|").split("|")] for row in rows]


def test_the_documented_layout_is_the_codes() -> None:
    header = {name: int(offset) for offset, name, *_ in table("| offset | word | stored by |")}
    assert header == {name: 8 * getattr(layout, name) for name in vars(layout) if name.endswith("_WORD")}

    records = {name: int(offset) for offset, name, _ in table("| offset | record |")}
    assert records == {"CREATOR": layout.CREATOR, "SLOTS[0]": layout.SLOTS[0], "SLOTS[1]": layout.SLOTS[1]}
    words = {name: int(offset) for offset, name, _ in table("| offset in it | word | meaning |")}
    assert words == {
        name: 8 * getattr(layout, name)
        for name in ("STATE", "PID", "STARTED", "INTERPRETER", "BELL", "NAMESPACE", "NETWORK")
    }

    places = [offset for offset, _ in table("| offset | what |")]
    assert places == [
        str(layout.RINGS[0]),
        str(layout.RINGS[1]),
        *map(str, layout.GIVEN_BACK),
        str(layout.DATA),
        f"{layout.DATA} + capacity",
    ]
    control = {name: int(offset) for offset, name, *_ in table("| offset in it | word | stored by |")}
    names = ("TAIL", "MESSAGES", "PRODUCER_CLOSED", "MOVES", "LENT_BYTES", "LENT_BLOCKS")
    names += ("HEAD", "SPINS", "READER", "WRITER")
    assert control == {name: 8 * getattr(layout, name) for name in names}
    assert max(control.values()) < layout.CONTROL_SIZE == layout.RINGS[1] - layout.RINGS[0]
    flags = {name: int(byte) for byte, name, _ in table("| byte | flag |")}
    names = ("READER_SLEEPS", "READER_BELL", "CONSUMER_CLOSED", "BLOCKS_RECEIVED")
    assert flags == {name: getattr(layout, name) for name in names}
    needs = {name: int(half) for half, name, _ in table("| half | need |")}
    assert needs == {name: getattr(layout, name) for name in ("WRITER_SLEEPS", "WRITER_BELL")}
    kinds = {name: int(kind) for kind, name, _ in table("| kind | name |")}
    assert kinds == {name: getattr(layout, name) for name in ("WHOLE", "PART", "LAST", "ABORT")}
    fields = {name: int(offset) for offset, name, _ in table("| offset in the head |")}
    assert tuple(fields) == blocks.Record._fields
    for name, offset in fields.items():
        value: bytes | int = b"?" if name in ("magic", "channel") else 63
        packed = blocks.RECORD.pack(*blocks.Record(b"", 0)._replace(**{name: value}))
        assert packed.index(63) == offset


def test_every_error_is_documented_with_what_else_it_is() -> None:
    text = (ROOT / "docs" / "errors.md").read_text()
    for name, kind in vars(errors).items():
        if isinstance(kind, type) and kind.__module__ == errors.__name__ and name != "ChannelError":
            also = [base.__name__ for base in kind.__bases__ if base is not errors.ChannelError]
            assert f"| `{name}` | {'`' + also[0] + '`' if also else ''}".rstrip() + " |" in text, name


def test_each_fault_that_was_mended_has_the_test_that_is_named() -> None:
    """In the tables of docs/reliability.md: a file, or a function of one."""
    text = (ROOT / "docs" / "reliability.md").read_text()
    faults = text[text.index("## Faults that were found and mended") :]
    rows = [line for line in faults.splitlines() if line.startswith("| ") and not line.startswith("| ---")]
    sources = {file.name: file.read_text() for file in (ROOT / "tests").glob("test_*.py")}
    for row in rows:
        named = re.findall(r"`(test_\w+)(\.py)?`", row.split("|")[-2])
        assert named or row.split("|")[-2].strip() == "test", row
        for name, ending in named:
            found = f"{name}.py" in sources if ending else any(f"def {name}(" in s for s in sources.values())
            assert found, f"there is no {name}{ending}"


def test_the_versions_on_the_page_of_platforms_are_those_that_are_claimed_tested_and_built() -> None:
    page, project, workflow = (
        (ROOT / name).read_text()
        for name in ("docs/platforms.md", "pyproject.toml", ".github/workflows/tests.yml")
    )
    listed = re.findall(r"^\| (3\.\d+) \|", page, re.MULTILINE)
    assert listed == re.findall(r"Programming Language :: Python :: ([\d.]+)", project)
    assert listed == re.findall(r"3\.\d+", re.search(r"python: \[(.*)\]", workflow)[1])  # type: ignore[index]
    assert listed == [f"3.{minor}" for minor in re.findall(r"\bcp3(\d+)-\*", project)]
