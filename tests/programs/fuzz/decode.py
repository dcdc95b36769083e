"""A libFuzzer target for the decoder, by atheris: ``make fuzz SECONDS=60``.

Anything but a value or a ChannelError is a finding, and so is a difference between the C core and the Python
core, over msgpack's compiled part and over its fallback: libFuzzer prints the input and keeps it. The corpus
is an encoded value of every row of docs/values.md, and of the cycles of the tests.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import atheris

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

with atheris.instrument_imports(include=["shmchannel"]):
    from shmchannel import ChannelError

from support import engines, listed
from support.documented import MODULES, ROWS
from support.values import alike, cycles

CORPUS = "SHMCHANNEL_CORPUS"  # the folder, for the process that fuzzes


def corpus(folder: str) -> None:
    names = {name: __import__(name) for name in MODULES}
    seeds = [eval(example, names) for _, example, _ in ROWS if example]
    payloads = [engines.encode(value) for value in [*seeds, *cycles()]]
    payloads += [listed.codec.encode(value) for value in listed.EXAMPLES]
    payloads += [
        payload.replace(b"\xd4\x78\0", b"\xd4\x79\0") for payload in payloads
    ]  # as if they were moved
    for number, payload in enumerate(payloads):
        (Path(folder) / str(number)).write_bytes(payload)


def decoded(decoder: Callable[[bytes], Any], data: bytes) -> Any:
    try:
        return [decoder(data)]
    except ChannelError:
        return "refused"


def one(data: bytes) -> None:
    for decoder, compared in ((engines.decode, alike), (listed.codec.decode, both_or_none)):
        results = []
        for name in engines.HERE:
            with engines.made_by(name):
                results.append(decoded(decoder, data))
        if not all(compared(results[0], other) for other in results[1:]):
            raise AssertionError(f"{engines.HERE} differ")


def both_or_none(one: Any, other: Any) -> bool:
    return (one == "refused") is (other == "refused")


if __name__ == "__main__":
    options = [sys.argv[0], "-max_len=4096", "-timeout=10", "-rss_limit_mb=1024", *sys.argv[1:]]
    if CORPUS in os.environ:
        atheris.Setup([*options, os.environ[CORPUS]], one)
        atheris.Fuzz()  # never returns: it ends the process
    with tempfile.TemporaryDirectory() as folder:
        corpus(folder)
        sys.exit(subprocess.call([sys.executable, *sys.argv], env=os.environ | {CORPUS: folder}))
