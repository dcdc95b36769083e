"""docs/model/ring.pml and the code have the same steps: each by its name, and none in one of them alone.

Each safeguard of ring.pml and of lend.pml has a mutant.

``make model`` searches the model; here is only what ties it to the code.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "shmchannel"
RING, LEND = ((ROOT / "docs" / "model" / name).read_text() for name in ("ring.pml", "lend.pml"))
CHECK = (ROOT / "docs" / "model" / "check.py").read_text()
# The functions whose steps the ring in C has for itself.
TRIES = ("try_write", "_write", "_publish", "try_read", "_take", "_copy", "_attend")


def labels(model: str) -> set[str]:
    """The steps of a model: its labels in lower case. One with a capital is only where a goto leads."""
    return set(re.findall(r"^([a-z]\w*):$", model, re.MULTILINE)) - {"end_drain"}


LABELS = labels(RING)


def steps(text: str) -> set[str]:
    """The steps that code names in its comments."""
    return set(re.findall(r"\bstep: (\w+)", text))


def steps_in(path: str, functions: tuple[str, ...] = ()) -> set[str]:
    """The same, of a Python file or of those functions in it."""
    text = (SOURCE / path).read_text()
    if not functions:
        return steps(text)
    named: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef) and node.name in functions:
            named |= steps("\n".join(text.splitlines()[node.lineno - 1 : node.end_lineno]))
    return named


def test_each_step_of_the_model_is_named_in_the_code_and_no_other() -> None:
    assert len(LABELS) > 30
    files = (
        *("ring/end.py", "ring/producer.py", "ring/consumer.py"),
        *("waiting/sleeper.py", "port/connection.py"),
    )
    assert set().union(*map(steps_in, files)) == LABELS


def test_threads_and_tasks_wait_by_the_same_steps() -> None:
    waiting = {"spin", "announce", "fence_after_announce", "look_again", "sleep", "withdraw", "look_if_alive"}
    assert steps_in("waiting/sleeper.py") == steps_in("waiting/event_loop.py") == waiting
    assert waiting - {"spin"} <= steps((SOURCE / "native/wait.h").read_text())


def test_the_ring_in_c_has_the_steps_of_the_one_in_python() -> None:
    sources = sorted(SOURCE.glob("**/*.[ch]"))
    if not sources:
        pytest.skip("no ring in C here")
    named = steps("\n".join(path.read_text() for path in sources))
    tries = steps_in("ring/producer.py", TRIES) | steps_in("ring/consumer.py", TRIES)
    assert len(tries) > 20
    assert tries - named == set(), "steps of the ring in Python that no C file names"
    assert named - LABELS == set(), "steps of C files that the model lacks"


@pytest.mark.parametrize(
    ("model", "name", "others"),
    [
        # One only saves a write that would be refused anyway, one is the slice's, one the first half of
        # another.
        (RING, "RING_MUTANTS", {"look_if_refused", "look_if_alive", "look_if_closed"}),
        # Its mutant is the one that looks, and does not compare the trip.
        (LEND, "LEND_MUTANTS", {"look_if_given_back", "look_if_alive"}),
    ],
    ids=["ring", "lend"],
)
def test_each_fence_and_each_look_back_has_a_mutant(model: str, name: str, others: set[str]) -> None:
    switches = set(re.findall(r"\bWITHOUT_(\w+)", model))
    table = CHECK[CHECK.index(f"{name} = [") :].partition("\n]\n")[0]
    mutants = set(re.findall(r'^    \("(\w+)", ', table, re.MULTILINE))
    assert mutants == switches
    taken_out = {re.sub("_(reader|writer)$", "", one) for one in mutants} | mutants
    begins = ("fence_", "look_again", "look_last", "look_if_", "post_", "remove_", "take_back")
    must = {one for one in labels(model) if one.startswith(begins)}
    assert must - taken_out == others
