"""A libFuzzer target for the decoder, by atheris: ``make fuzz SECONDS=60``.

Anything but a value or a ChannelError is a finding: libFuzzer prints the input and keeps it. The corpus is
an encoded value of every row of docs/values.md, and of the cycles of the tests.
"""

import sys
import tempfile
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parent.parent))

with atheris.instrument_imports(include=["shmchannel"]):
    from shmchannel import ChannelError
    from shmchannel.clone import decode, encode

import test_clone
import test_hostile


def corpus(folder: str) -> None:
    names = {name: __import__(name) for name in test_clone.MODULES}
    seeds = [eval(example, names) for _, example, _ in test_clone.ROWS if example]
    payloads = [encode(value) for value in [*seeds, *test_clone.cycles()]]
    payloads += [test_hostile.codec.encode(value) for value in test_hostile.EXAMPLES]
    for number, payload in enumerate(payloads):
        (Path(folder) / str(number)).write_bytes(payload)


def one(data: bytes) -> None:
    for decoder in (decode, test_hostile.codec.decode):
        try:
            decoder(data)
        except ChannelError:
            pass


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        corpus(folder)
        atheris.Setup(
            [sys.argv[0], "-max_len=4096", "-timeout=10", "-rss_limit_mb=1024", *sys.argv[1:], folder], one
        )
        atheris.Fuzz()
