"""docs/model/ring.pml and the code have the same steps: each by its name, and none in one of them alone.

Each safeguard of the three models has a mutant. Each fence of the code is in a litmus test of arm.py.

``make model`` searches the models and runs all litmus tests; here is only what ties them to the code.
"""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "shmchannel"
RING, LEND, BEGUN = (
    (ROOT / "docs" / "model" / name).read_text() for name in ("ring.pml", "lend.pml", "begun.pml")
)
CHECK = (ROOT / "docs" / "model" / "check.py").read_text()
sys.path.insert(0, str(ROOT / "docs" / "model"))
import arm  # noqa: E402

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


def test_a_pool_and_its_worker_have_the_steps_of_their_model() -> None:
    assert steps_in("futures/begun.py") | steps_in("futures/crew.py") == labels(BEGUN)


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
        (BEGUN, "BEGUN_MUTANTS", set()),
    ],
    ids=["ring", "lend", "begun"],
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


# -- arm.py

PYTHON = "\n".join(path.read_text() for path in SOURCE.glob("**/*.py"))
C = "\n".join(path.read_text() for path in SOURCE.glob("native/*.h"))
# What the reader of a block does is the user's; these two stand for what a post and a wait are.
NOT_OURS = {"read_block", "write_block", "release_of_post", "acquire_of_sleep"}
LITMUS_STEPS = {
    step.name for pair in arm.PAIRS for side in (pair.first, pair.other) for step in arm.steps_of(side)
}


def test_each_step_of_a_litmus_test_is_named_in_the_code() -> None:
    assert LITMUS_STEPS - NOT_OURS - steps(PYTHON) == set()
    assert {*arm.IN_C, *arm.FENCES_IN_C} - steps(C) == set()


def test_each_fence_of_the_code_is_in_a_litmus_test() -> None:
    fencing = set()
    for path in sorted(SOURCE.glob("**/*.py")):
        text = path.read_text()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and node.name != "fence":
                body = "\n".join(text.splitlines()[node.lineno - 1 : node.end_lineno])
                named = {step for step in steps(body) if step.startswith("fence_")}
                fences = bool(re.search(r"\bfence\(\)", body))
                assert bool(named) == fences, f"{path}: {node.name} fences without a step, or the reverse"
                fencing |= named
    assert len(fencing) > 15
    assert fencing - LITMUS_STEPS == set()
    assert {step for step in steps(C) if step.startswith("fence_")} - LITMUS_STEPS == set()


PROBE = """
#include "ring.h"
void publish_tail(Ring *ring, uint64_t after) { ring_publish(ring, after, 1); }
void consume(Ring *ring, uint64_t after) { ring_consume(ring, after); }
RingAnswer look_at_tail(Ring *ring, Frame *frame) { return ring_next(ring, frame); }
RingAnswer look_at_head(Ring *ring) { return ring_load_head(ring); }
bool look_again(Ring *ring) { return ring_readable(ring); }
uint64_t look_at_reader(Ring *ring) { return load(ring, READER); }
uint64_t look_at_writer(Ring *ring) { return load(ring, WRITER); }
uint64_t look_if_taken(Ring *ring) { return load(ring, HEAD); }
void announce(Ring *ring) { atomic_store(reader_flag(ring, READER_SLEEPS), 1); }
void clear_reader(Ring *ring) { atomic_store(reader_flag(ring, READER_SLEEPS), 0); }
bool look_if_closed(Ring *ring) { return atomic_load(reader_flag(ring, CONSUMER_CLOSED)); }
void fence_after_publish(void) { atomic_thread_fence(memory_order_seq_cst); }
"""


@pytest.mark.skipif(not shutil.which("aarch64-linux-gnu-gcc"), reason="no compiler for arm64 here")
def test_the_compiler_makes_what_the_litmus_tests_have(tmp_path: Path) -> None:
    (tmp_path / "probe.c").write_text(PROBE)
    command = ["aarch64-linux-gnu-gcc", "-O2", "-S", "-o", "-", f"-I{SOURCE / 'native'}", "probe.c"]
    made = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    functions = dict(re.findall(r"^(\w+):\n(.*?)\n\s*\.size", made, re.MULTILINE | re.DOTALL))
    for step, expected in {**arm.IN_C, "fence_after_publish": "DMB"}.items():
        ordered = re.findall(r"\t(ldap?r|stlr|dmb)b?\t", functions[step])
        assert {one.upper().replace("LDAR", "LDAPR") for one in ordered} == {
            expected.replace("LDAR", "LDAPR")
        }


BOTH_SIDES_ALIKE = ("C and C", "Python and Python")


@pytest.mark.skipif(not shutil.which("herd7"), reason="docs/model/install-herd7 installs herd7")
def test_arm64_reorders_no_pair_of_steps() -> None:
    """``make model`` runs the other tests too, and each one without its fences."""
    found = [test for test in arm.tests() if test.variant in BOTH_SIDES_ALIKE]
    assert len(found) > len(arm.PAIRS)
    allowed = [
        test for test, possible in zip(found, arm.outcomes(found), strict=True) if possible is not False
    ]
    assert allowed == []
