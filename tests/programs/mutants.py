"""``make mutants``: breaks the code in one place at a time, and runs the tests that are to notice.

Takes ten minutes. Exits with 1 if a mutant lives, or if what it changes is not in the code any more.
``make mutants MUTANTS=decode`` takes those whose file has that in its name.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent.parent
LEFT_OUT = shutil.ignore_patterns(".git", ".venv*", "build", "dist", "__pycache__", ".*_cache", ".hypothesis")
FAILED = 1  # pytest's exit code for tests that fail; any other means that they did not run
LONGEST = 300  # seconds of a run; a test that hangs has noticed


class Mutant(NamedTuple):
    file: str  # in src/shmchannel
    code: str  # that is there once
    becomes: str
    tests: str  # files in tests/


MUTANTS = [
    # -- decoding, in C
    Mutant("native/state.h", " && key->words[3] == words[3]", "", "test_native.py test_codec.py"),
    Mutant(
        "native/decode_scalars.h",
        "is_ascii(decoder->in_ring ? copy : text, length)",
        "is_ascii(text, length)",
        "test_native.py",
    ),
    Mutant(
        "native/decode_scalars.h",
        "COPY(decoder->in_ring, length, memcpy",
        "COPY((Lock *)NULL, length, memcpy",
        "test_native.py",
    ),
    Mutant(
        "native/decode.h",
        "    Py_XDECREF(interface);\n",
        "",
        "test_native.py",
    ),
    # -- encoding, in C
    Mutant(
        "native/encode.h",
        "    Py_XDECREF(pair);\n    Py_XDECREF(name);\n    Py_XDECREF(value);\n    return status;",
        "    Py_XDECREF(pair);\n    Py_XDECREF(name);\n    return status;",
        "test_native.py",
    ),
    Mutant(
        "native/batches.h", "    memset(place + size - 8, 0, 8); /* the padding */\n", "", "test_native.py"
    ),
    Mutant(
        "native/encode.h",
        "int changed = level_changed(level);",
        "int changed = 0; (void)level;",
        "test_interfaces.py",
    ),
    # -- the ring, in C
    Mutant("native/read_message.h", "    if (size > most) {", "    if (size > most + 1) {", "test_native.py"),
    Mutant("native/read_message.h", "    if (self->end.closed)\n        return 0;\n", "", "test_native.py"),
    Mutant("native/end.h", "    lock_free(&end->lock);\n", "", "test_native.py"),
    # -- in Python
    Mutant(
        "system/files.py",
        " and pid == os.getpid()",
        "",
        "test_exit.py test_forks.py test_hygiene.py test_transfer.py",
    ),
    Mutant("codec/types.py", "    _require(_decimal_text()(value) == text)\n", "", "test_types.py"),
    Mutant("port/peer.py", "if lost and self._slot:", "if lost:", "test_peer.py"),
    Mutant(
        "system/doorbell.py",
        "            self._ours[:] = bytes(KEY_SIZE)\n",
        "            pass\n",
        "test_multiplex.py",
    ),
    Mutant(
        "segment.py",
        "        fence()  # step: fence_after_connect",
        "        # step: fence_after_connect",
        "test_channel.py",
    ),
    Mutant("cli/snapshot.py", " or head != frame.start - layout.HEADER:", ":", "test_cli_snapshot.py"),
]


def main() -> int:
    wanted = [mutant for mutant in MUTANTS if all(word in mutant.file for word in sys.argv[1:])]
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copy = Path(folder) / "copy"
        shutil.copytree(ROOT, copy, ignore=LEFT_OUT, symlinks=True)
        lives = [mutant for mutant in wanted if not is_noticed(copy, mutant)]
    print(f"{len(wanted) - len(lives)} of {len(wanted)} mutants were noticed")
    return bool(lives)


def is_noticed(copy: Path, mutant: Mutant) -> bool:
    """Break the code in the copy, run the tests, and mend it again."""
    file = copy / "src" / "shmchannel" / mutant.file
    code = file.read_text()
    if code.count(mutant.code) != 1:
        print(
            f"GONE   {mutant.file}: {mutant.code.strip()!r} is there {code.count(mutant.code)} times",
            flush=True,
        )
        return False
    file.write_text(code.replace(mutant.code, mutant.becomes))
    try:
        build(copy, mutant)
        noticed = fails(copy, mutant.tests)
    finally:
        file.write_text(code)
        build(copy, mutant)
    print(f"{'      ' if noticed else 'LIVES '} {mutant.file}: {mutant.code.strip()!r}", flush=True)
    return noticed


def build(copy: Path, mutant: Mutant) -> None:
    if mutant.file.startswith("native/"):
        command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace", "--force"]
        environment = {**os.environ, "SHMCHANNEL_BUILD_NATIVE": "1", "CFLAGS": "-O1 -w"}
        subprocess.run(command, cwd=copy, env=environment, check=True, timeout=LONGEST, capture_output=True)


def fails(copy: Path, tests: str) -> bool:
    command = [sys.executable, "-m", "pytest", "-n", "0", "-q", "-x", "-p", "no:cacheprovider"]
    command += [f"tests/{file}" for file in tests.split()]
    environment = {**os.environ, "PYTHONPATH": str(copy / "src")}
    pipe = subprocess.PIPE
    try:
        done = subprocess.run(
            command,
            cwd=copy,
            env=environment,
            stdout=pipe,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=LONGEST,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return True
    if done.returncode not in (0, FAILED):
        raise SystemExit(f"pytest {tests} ended with {done.returncode}:\n{done.stdout}")
    return done.returncode == FAILED


if __name__ == "__main__":
    sys.exit(main())
