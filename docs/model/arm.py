"""The protocol's pairs of stores and loads on arm64, as litmus tests for herd7; check.py runs them.

ring.pml and lend.pml search whole runs, on a memory of their own that reorders nearly everything. Here each
pair of steps that two processes have to take in order is a test of its own, in the instructions that the code
is on arm64, against Arm's own memory model. herd7 lists every outcome that the model allows.

A side is its steps, by the names that the code gives them: ``publish_tail(TAIL=1)`` stores,
``look_at_tail(TAIL)`` loads, ``fence_before_publish`` orders. A side exists in the form of the core in C and
in that of the core in Python, and each form meets each. The outcome ``never`` must not be possible. Without
any one fence it must be: otherwise the test would not notice that the code had lost that fence.

Of two instructions that a step may be, the test has the weaker one. What the code happens to have between two
steps (a lock, a branch, a system call) is left out. So what is shown here holds for what is really run.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from itertools import product, zip_longest
from pathlib import Path
from typing import NamedTuple

PATIENCE = 600  # seconds for all tests together


class Pair(NamedTuple):
    """Two sides that run at once."""

    title: str
    first: str
    other: str
    never: str  # the outcome: what steps have loaded, or what a word holds at the end
    python: str = ""  # which sides are Python in both cores: first, other, both


# ``READER.1`` is byte 1 of that word, ``WRITER:0`` its first half; the other side loads such words at once.
PAIRS = [
    Pair(
        "a frame is there once the tail covers it",
        "fill_frame(FRAME=1) fence_before_publish publish_tail(TAIL=1)",
        "look_at_tail(TAIL) fence_before_copy copy_frame(FRAME)",
        "look_at_tail=1 copy_frame=0",
    ),
    Pair(
        "a frame's room is filled after it was copied out",
        "copy_frame(FRAME) fence_before_consume consume(HEAD=1)",
        "look_at_head(HEAD) fence_after_room fill_frame(FRAME=1)",
        "copy_frame=1 look_at_head=1",
    ),
    Pair(
        "a reader that falls asleep, and a writer that publishes",
        "publish_tail(TAIL=1) fence_after_publish look_at_reader(READER)",
        "announce(READER.0=1) fence_after_announce look_again(TAIL)",
        "look_at_reader=0 look_again=0",
    ),
    Pair(
        "a writer that falls asleep, and a reader that makes room",
        "consume(HEAD=1) fence_after_consume look_at_writer(WRITER)",
        "announce(WRITER:0=1) fence_after_announce look_again(HEAD)",
        "look_at_writer=0 look_again=0",
        python="other",
    ),
    Pair(
        "a flag is cleared before the post, so that the next announcement stands",
        "clear_reader(READER.0=0) release_of_post post_reader(SEMAPHORE=1)",
        "sleep(SEMAPHORE) acquire_of_sleep announce(READER.0=1)",
        "sleep=1 READER=0",
    ),
    Pair(
        "a bell's key is there once its reader has announced itself",
        "make_key(KEY=1) fence_after_key announce(READER.1=1)",
        "look_at_reader(READER) fence_before_key look_at_key(KEY)",
        "look_at_reader=256 look_at_key=0",
        python="both",
    ),
    Pair(
        "a writer that has closed has published its last frame before",
        "publish_tail(TAIL=1) fence_after_publish say_producer_closed(PRODUCER_CLOSED=1)",
        "look_for_end(PRODUCER_CLOSED) fence_after_end look_last(TAIL)",
        "look_for_end=1 look_last=0",
        python="other",
    ),
    Pair(
        "a port that has closed has said before that it does not read",
        "say_consumer_closed(READER.2=1) post_refusal shut_producer say_producer_closed(PRODUCER_CLOSED=1)",
        "look_for_end(PRODUCER_CLOSED) fence_after_end look_if_closed(READER.2)",
        "look_for_end=1 look_if_closed=0",
        python="both",
    ),
    Pair(
        "a reader that has closed has said before what it has taken",
        "consume(HEAD=1) fence_before_say_closed say_consumer_closed(READER.2=1)",
        "look_if_closed(READER.2) fence_before_look_if_taken look_if_taken(HEAD)",
        "look_if_closed=1 look_if_taken=0",
    ),
    Pair(
        "a lent block is filled once its message is there",
        "fill_block(BLOCK=1) fence_before_publish publish_tail(TAIL=1)",
        "look_at_tail(TAIL) fence_before_copy read_block(BLOCK)",
        "look_at_tail=1 read_block=0",
    ),
    Pair(
        "a block is filled anew after its reader has read it",
        "read_block(BLOCK) fence_before_give_back give_back(GIVEN_BACK=1)",
        "look_if_given_back(GIVEN_BACK) fence_before_fill fill_block(BLOCK=1)",
        "read_block=1 look_if_given_back=1",
        python="both",
    ),
    Pair(
        "what a reader has written into a block does not come after",
        "write_block(BLOCK=1) fence_before_give_back give_back(GIVEN_BACK=1)",
        "look_if_given_back(GIVEN_BACK) fence_before_fill fill_block(BLOCK=2)",
        "look_if_given_back=1 BLOCK=1",
        python="both",
    ),
    Pair(
        "both ports end: one of them finds the block that is under way",
        "let_go(UNLOCKED=1) fence_after_let_go look_if_received(RECEIVED)",
        "say_received(RECEIVED=1) fence_after_received look_at_locks(UNLOCKED)",
        "look_if_received=0 look_at_locks=0",
        python="both",
    ),
    Pair(
        "both ports end: one of them knows that a block was moved",
        "say_moved(MOVES=1) fence_after_let_go look_if_received(RECEIVED)",
        "say_received(RECEIVED=1) fence_after_received look_if_moved(MOVES)",
        "look_if_received=0 look_if_moved=0",
        python="both",
    ),
    Pair(
        "a record's process is there once its state is",
        "write_process(PID=1) fence_before_state say_state(STATE=1)",
        "look_at_state(STATE) fence_after_state read_process(PID)",
        "look_at_state=1 read_process=0",
        python="both",
    ),
    Pair(
        "two sides connect at once: one of them sees the other",
        "say_state(STATE=1) fence_after_connect look_at_slots(OTHER)",
        "say_state(OTHER=1) fence_after_connect look_at_slots(STATE)",
        "look_at_slots=0",
        python="both",
    ),
    Pair(
        "a peer that connects finds the block that is under way to it, or its sender finds the peer",
        "address_block(RECORD=1) fence_after_address look_at_state(STATE)",
        "say_state(STATE=1) fence_before_adopt look_at_record(RECORD)",
        "look_at_state=0 look_at_record=0",
        python="both",
    ),
    Pair(
        "a pool takes a task back, or finds that its worker has begun it",
        "say_begun(BEGUN=1) fence_after_begun look_at_limit(LIMIT)",
        "say_limit(LIMIT=1) fence_after_limit look_if_begun(BEGUN)",
        "look_at_limit=0 look_if_begun=0",
        python="both",
    ),
    Pair(
        "a header is there once its magic is",
        "write_header(HEADER=1) fence_before_magic say_magic(MAGIC=1)",
        "look_at_magic(MAGIC) fence_after_magic read_header(HEADER)",
        "look_at_magic=1 read_header=0",
        python="both",
    ),
]

# What the steps are in C that are in C. A load may be a LDAPR from Armv8.3 on, where compilers take it for an
# acquire; before, and where the code has the default order of C11, it is a LDAR. LDAPR orders less.
IN_C = {
    **dict.fromkeys(("publish_tail", "consume", "announce", "clear_reader"), "STLR"),
    **dict.fromkeys(("look_at_tail", "look_at_head", "look_at_reader", "look_at_writer"), "LDAPR"),
    **dict.fromkeys(("look_again", "look_if_taken"), "LDAPR"),
    "look_if_closed": "LDAR",
}
# What the fences are in C: an instruction, or that the next store is a release, or the last load an acquire.
DMB, BESIDE = ["DMB ISH"], list[str]()
FENCES_IN_C = {
    **dict.fromkeys(("fence_after_publish", "fence_after_announce", "fence_after_consume"), DMB),
    **dict.fromkeys(("fence_before_publish", "fence_before_consume"), BESIDE),
    **dict.fromkeys(("fence_before_copy", "fence_after_room", "fence_before_look_if_taken"), BESIDE),
}
# In Python each is a ``fence()``: it releases a lock of its own, and acquires it again.
FENCE = ["STLR X20,[X21]", "LDAR X22,[X21]"]
# In both cores a post is a release, and who returns from a wait or takes a lock has acquired it.
OF_LOCKS = {
    **dict.fromkeys(("release_of_post", "acquire_of_sleep"), BESIDE),
    "post_refusal": FENCE[:1],
    "shut_producer": FENCE[1:],
}

# What a lock of Python is on arm64, from its first release to its second acquire: PyMutex from 3.14 on,
# before that sem_post and sem_wait. Each with the processor's atomics, and without ("LL/SC").
LOCKS = {
    "PyMutex": "MOV X5,#1; MOV X6,#0; CASAL X5,X6,[X4]; MOV X7,#0; MOV X8,#1; CASAL X7,X8,[X4]",
    "PyMutex, LL/SC": "LDAXR X5,[X4]; STLXR W6,X9,[X4]; LDAXR X7,[X4]; STLXR W8,X10,[X4]",
    "semaphore": "MOV X5,#1; LDADDL X5,X6,[X4]; MOV X7,#1; MOV X8,#0; CASA X7,X8,[X4]",
    "semaphore, LL/SC": "LDXR X5,[X4]; STLXR W6,X10,[X4]; LDAXR X7,[X4]; STXR W8,X9,[X4]",
}
# A lock that is not acquired again is no fence.
RELEASED_ONLY = "MOV X5,#1; LDADDL X5,X6,[X4]"


class Step(NamedTuple):
    """``name(word=value)`` stores, ``name(word)`` loads, a name alone is a fence."""

    name: str
    word: str
    part: str
    offset: str
    value: str


class Code(NamedTuple):
    """One side of a test: its instructions, what its registers hold at first, and which a step has loaded."""

    lines: list[str]
    registers: dict[str, str]
    loaded: dict[str, str]


class Litmus(NamedTuple):
    """A test, and whether its outcome must be possible."""

    title: str
    variant: str  # the forms of the two sides; without which fence
    text: str
    possible: bool


def steps_of(side: str) -> list[Step]:
    return [Step(*one) for one in re.findall(r"(\w+)(?:\((\w+)([.:]?)(\d?)=?(\d?)\))?", side)]


def fences_of(side: str) -> list[str]:
    return [step.name for step in steps_of(side) if not step.word]


def instruction(step: Step, fence: str, fences: dict[str, list[str]], *, in_c: bool, without: str) -> str:
    """What a store or a load is, if that fence is beside it: the one before a store, or after a load."""
    plain, ordered = ("STR", "STLR") if step.value else ("LDR", "LDAPR")
    in_core = IN_C.get(step.name) if in_c else None
    if fences.get(fence) != BESIDE:
        return in_core or plain
    return plain if fence == without else in_core or ordered


def assemble(side: str, *, in_c: bool, without: str) -> Code:
    """The instructions of a side, in the form of one core."""
    code = Code([], {"X20": "1", "X21": "lock"}, {})
    fences = OF_LOCKS | (FENCES_IN_C if in_c else {})
    steps = steps_of(side)
    for at, step in enumerate(steps):
        if not step.word:
            if step.name != without:
                code.lines.extend(fences.get(step.name, FENCE))
            continue
        beside = at - 1 if step.value else at + 1
        fence = steps[beside].name if 0 <= beside < len(steps) else ""
        access = instruction(step, fence, fences, in_c=in_c, without=without)
        place, number = f"X{at}", 10 + at
        code.registers.update({place: step.word.lower(), f"X{number}": step.value or "9"})
        if step.offset > "0":
            code.lines.append(f"ADD {place},{place},#{step.offset}")
        byte = "B" if step.part == "." else ""
        code.lines.append(f"{access}{byte} {'W' if step.part else 'X'}{number},[{place}]")
        if not step.value:
            code.loaded[step.name] = f"X{number}"
    return code


def litmus(sides: Sequence[Code], never: str) -> str:
    """A test as herd7 reads it, but for its name."""
    begin, outcome = [], []
    for number, side in enumerate(sides):
        for register, value in side.registers.items():
            word = f"lock{number}" if value == "lock" else value
            begin += [f"{number}:{register}={word};"] + ([] if word.isdigit() else [f"uint64_t {word}=0;"])
    for what, value in (one.split("=") for one in never.split()):
        loaded = [f"{n}:{side.loaded[what]}={value}" for n, side in enumerate(sides) if what in side.loaded]
        outcome += loaded or [f"[{what.lower()}]={value}"]
    columns = [[f"P{number}", *side.lines] for number, side in enumerate(sides)]
    rows = [" | ".join(f"{line:<20}" for line in row) + " ;" for row in zip_longest(*columns, fillvalue="")]
    condition = " /\\ ".join(outcome)
    return "\n".join(["{", *dict.fromkeys(begin), "}", *rows, f"exists ({condition})", ""])


def tests_of(pair: Pair) -> Iterator[Litmus]:
    """A pair in each form of its sides, and again without each of its fences."""
    sides = {"first": pair.first, "other": pair.other}
    cores = [("Python",) if pair.python in (name, "both") else ("C", "Python") for name in sides]
    fences = [fence for side in sides.values() for fence in fences_of(side)]
    for core, without in product(product(*cores), ("", *dict.fromkeys(fences))):
        codes = [
            assemble(side, in_c=one == "C", without=without)
            for side, one in zip(sides.values(), core, strict=True)
        ]
        variant = " and ".join(core) + (f", without {without}" if without else "")
        yield Litmus(pair.title, variant, litmus(codes, pair.never), bool(without))


def tests_of_locks() -> Iterator[Litmus]:
    """Whether ``fence()`` is a full fence: of two sides that store, fence and load, one sees the other."""
    for name, lines in {**LOCKS, "released only": RELEASED_ONLY}.items():
        registers = {"X4": "lock", "X9": "1", "X10": "0", "X1": "1", "X2": "2"}
        ours = ["STR X1,[X0]", *lines.split("; "), "LDR X3,[X2]"]
        loaded = {"first": "X3", "released": "X6", "acquired": "X8"}
        first = Code(ours, {**registers, "X0": "one", "X2": "other", "X3": "9"}, loaded)
        theirs = ["STR X1,[X0]", "DMB ISH", "LDR X3,[X2]"]
        other = Code(theirs, {"X0": "other", "X1": "1", "X2": "one", "X3": "9"}, {"other": "X3"})
        succeeds = " released=0 acquired=0" if "LL/SC" in name else ""  # the code tries again if not
        text = litmus([first, other], f"first=0 other=0{succeeds}")
        yield Litmus("a lock of Python that is released and acquired", name, text, name == "released only")


def tests() -> list[Litmus]:
    return [test for pair in PAIRS for test in tests_of(pair)] + list(tests_of_locks())


def outcomes(found: Sequence[Litmus]) -> list[bool | None]:
    """Whether Arm's model allows each test's outcome; None for a test that herd7 does not understand."""
    with tempfile.TemporaryDirectory(prefix="shmchannel-arm-") as folder:
        for number, test in enumerate(found):
            Path(folder, f"t{number}.litmus").write_text(f"AArch64 t{number}\n{test.text}")
        command = ["herd7", "-variant", "mixed", *(f"t{number}.litmus" for number in range(len(found)))]
        said = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, text=True, timeout=PATIENCE).stdout
    observed = dict(re.findall(r"^Observation t(\d+) \w+ (\d+ \d+)$", said, re.MULTILINE))
    counts = [observed.get(str(number), "0 0").split() for number in range(len(found))]
    return [None if counted == ["0", "0"] else counted[0] != "0" for counted in counts]


def check() -> list[str]:
    """Run every test; print a row for each pair. Return what is wrong."""
    every = tests()
    found = list(zip(every, outcomes(every), strict=True))
    print(f"\n| {'arm64: each pair of steps, in C and in Python':<74} | forms | without a fence | found |")
    print(f"| {'-' * 74} | ----: | --------------: | ----- |")
    complaints = []
    for title in dict.fromkeys(test.title for test in every):
        ours = [(test, possible) for test, possible in found if test.title == title]
        wrong = [test for test, possible in ours if possible is not test.possible]
        counts = [sum(test.possible is possible for test, _ in ours) for possible in (False, True)]
        result = "not as expected" if wrong else "never; possible without"
        print(f"| {title:<74} | {counts[0]:>5} | {counts[1]:>15} | {result} |")
        complaints += [f"arm64: {title} ({test.variant}): not as expected:\n{test.text}" for test in wrong]
    print(f"\n{len(every)} litmus tests")
    return complaints
