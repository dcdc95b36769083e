"""What the documentation says is so: its code runs, prints what it says, and its tables are the code's."""

from __future__ import annotations

import ast
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import shmchannel
from shmchannel import errors, layout
from shmchannel.transfer import block as blocks

ROOT = Path(__file__).parent.parent
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
        marks=[needs_interpreters] if "interpreter" in code.lower() else [],
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
    program = tmp_path / "example.py"
    program.write_text(code)
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, timeout=30, check=False)
    assert done.stderr == ""
    assert done.returncode == 0
    assert output is None or done.stdout == output


@pytest.mark.parametrize(("code", "output"), SHELL_EXAMPLES)
def test_a_shell_example_runs_as_printed(tmp_path: Path, code: str, output: str) -> None:
    """But for ``...``, which stands for anything, and for how wide columns are."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PATH": path, "LC_ALL": "C.UTF-8"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.stderr == ""
    assert done.returncode == 0
    pattern = ".*".join(re.escape(" ".join(part.split())) for part in output.split("..."))
    assert re.fullmatch(pattern.replace("\\ .*", ".*").replace(".*\\ ", ".*"), " ".join(done.stdout.split()))


def test_the_shell_examples_were_found() -> None:
    assert len(SHELL_EXAMPLES) >= 5


def test_every_example_is_run() -> None:
    """By the test above or, with a title, by the next."""
    for page in PAGES:
        text = page.read_text()
        titled = text.count("```python title=") if page.name == "tutorial.md" else 0
        assert text.count("```py") == len(BLOCK.findall(text)) + titled, page
    assert len(EXAMPLES) >= 30


def test_the_tutorial_followed_to_the_letter(tmp_path: Path) -> None:
    """But for its installation, which is this interpreter's."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONUNBUFFERED": "1"}
    text = (ROOT / "docs" / "tutorial.md").read_text()
    steps = re.findall(r'^```(?:python title="([^"]+)"|console)\n(.*?)^```$', text, re.MULTILINE | re.DOTALL)
    assert "pip install" in steps[0][1]
    typed = 0
    for name, block in steps[1:]:
        if name:
            (tmp_path / name).write_text(block)
            continue
        for command, expected in re.findall(r"^\$ (.+)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE):
            shell = ["bash", "-c", command]
            done = subprocess.run(
                shell, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=50, check=False
            )
            assert done.stderr == ""
            assert re.fullmatch(re.escape(expected).replace(r"\.\.\.", ".+"), done.stdout), done.stdout
            typed += 1
    assert typed == len([name for name, _ in steps if name]) - 1  # the worker is started by the others


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


def imported_on_loading(module: Path) -> set[str]:
    """The modules of the package that a module imports at its top level."""
    statements = ast.parse(module.read_text()).body
    found = {
        name
        for one in [
            *statements,
            *(inner for each in statements if isinstance(each, ast.Try) for inner in each.body),
        ]
        if isinstance(one, ast.ImportFrom) and one.level == 1
        for name in ([one.module] if one.module else [each.name for each in one.names])
    }
    return found - {"_native"}


def test_the_map_has_every_module_after_what_it_imports() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    listed = re.findall(r"^\| `(\w+)\.py` \|", text, re.MULTILINE)
    package = ROOT / "src" / "shmchannel"
    assert sorted(listed) == sorted(path.stem for path in package.glob("*.py") if path.stem[:2] != "__")
    for number, name in enumerate(listed):
        assert imported_on_loading(package / f"{name}.py") <= set(listed[:number]), name
    headers = re.findall(r"`(\w+\.h)`", text)
    assert sorted(headers) == sorted(path.name for path in (package / "native").iterdir())


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
        for name in ("STATE", "PID", "STARTED", "INTERPRETER", "BELL", "NAMESPACE")
    }

    places = [offset for offset, _ in table("| offset | what |")]
    assert places == [
        str(layout.RINGS[0]),
        str(layout.RINGS[1]),
        str(layout.DATA),
        f"{layout.DATA} + capacity",
    ]
    control = {name: int(offset) for offset, name, *_ in table("| offset in it | word | stored by |")}
    names = ("TAIL", "MESSAGES", "PRODUCER_CLOSED", "MOVES", "HEAD", "SPINS", "READER", "WRITER")
    assert control == {name: 8 * getattr(layout, name) for name in names}
    assert max(control.values()) < layout.CONTROL_SIZE == layout.RINGS[1] - layout.RINGS[0]
    flags = {name: int(byte) for byte, name, _ in table("| byte | flag |")}
    assert flags == {
        name: getattr(layout, name) for name in ("READER_SLEEPS", "READER_RINGS", "CONSUMER_CLOSED")
    }
    needs = {name: int(half) for half, name, _ in table("| half | need |")}
    assert needs == {name: getattr(layout, name) for name in ("WRITER_SLEEPS", "WRITER_RINGS")}
    kinds = {name: int(kind) for kind, name, _ in table("| kind | name |")}
    assert kinds == {name: getattr(layout, name) for name in ("WHOLE", "PART", "LAST", "ABORT")}
    fields = {name: int(offset) for offset, name, _ in table("| offset in the head |")}
    assert tuple(fields) == blocks.Record._fields
    for name, offset in fields.items():
        value: bytes | int = b"?" if name in ("magic", "channel") else 63
        packed = blocks._RECORD.pack(*blocks.Record(b"", 0)._replace(**{name: value}))
        assert packed.index(63) == offset


def test_every_error_is_documented_with_what_else_it_is() -> None:
    text = (ROOT / "docs" / "errors.md").read_text()
    for name, kind in vars(errors).items():
        if isinstance(kind, type) and kind.__module__ == errors.__name__ and name != "ChannelError":
            also = [base.__name__ for base in kind.__bases__ if base is not errors.ChannelError]
            assert f"| `{name}` | {'`' + also[0] + '`' if also else ''}".rstrip() + " |" in text, name
