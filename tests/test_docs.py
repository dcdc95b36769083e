"""What the documentation says is so: its code runs, prints what it says, and its tables are the code's."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from shmchannel import blocks, errors, ring, segment

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
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
        id=f"{page.name}:{page.read_text()[: found.start()].count(chr(10)) + 1}",
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


def test_the_examples_were_found() -> None:
    assert len(EXAMPLES) >= 7
    assert len(SHELL_EXAMPLES) >= 5


def test_links_between_pages_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def table(heading: str) -> list[list[str]]:
    """The rows of the first table with that column heading in docs/layout.md, cells without backticks."""
    text = (ROOT / "docs" / "layout.md").read_text()
    rows = text[text.index(heading) :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip().replace("`", "") for cell in row.strip("|").split("|")] for row in rows]


def test_the_documented_layout_is_the_codes() -> None:
    header = {name: int(offset) for offset, name, *_ in table("| offset | word | stored by |")}
    assert header == {name: 8 * getattr(segment, name) for name in vars(segment) if name.endswith("_WORD")}

    records = {name: int(offset) for offset, name, _ in table("| offset | record |")}
    assert records == {"CREATOR": segment.CREATOR, "SLOTS[0]": segment.SLOTS[0], "SLOTS[1]": segment.SLOTS[1]}
    words = {name: int(offset) for offset, name, _ in table("| offset in it | word | meaning |")}
    assert words == {
        name: 8 * getattr(segment, name)
        for name in ("STATE", "PID", "STARTED", "INTERPRETER", "BELL", "NAMESPACE")
    }

    places = [offset for offset, _ in table("| offset | what |")]
    assert places == [
        str(segment.RINGS[0]),
        str(segment.RINGS[1]),
        str(segment.DATA),
        f"{segment.DATA} + capacity",
    ]
    control = {name: int(offset) for offset, name, *_ in table("| offset in it | word | stored by |")}
    names = ("TAIL", "MESSAGES", "PRODUCER_CLOSED", "MOVES", "HEAD", "SPINS", "READER", "WRITER")
    assert control == {name: 8 * getattr(ring, name) for name in names}
    assert max(control.values()) < ring.CONTROL_SIZE == segment.RINGS[1] - segment.RINGS[0]
    flags = {name: int(byte) for byte, name, _ in table("| byte | flag |")}
    assert flags == {
        name: getattr(ring, name) for name in ("READER_SLEEPS", "READER_RINGS", "CONSUMER_CLOSED")
    }
    needs = {name: int(half) for half, name, _ in table("| half | need |")}
    assert needs == {name: getattr(ring, name) for name in ("WRITER_SLEEPS", "WRITER_RINGS")}
    kinds = {name: int(kind) for kind, name, _ in table("| kind | name |")}
    assert kinds == {name: getattr(ring, name) for name in ("WHOLE", "PART", "LAST", "ABORT")}
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
