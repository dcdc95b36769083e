"""``make soak``: runs for some minutes in three parts, and prints what the processes have after each part.

Exits with 1 if a message was lost, altered or duplicated, or if anything hangs or has grown.
"""

from __future__ import annotations

import argparse
import platform
import secrets
import sys
import time

from support import apart

from .census import Census
from .director import INTERPRETERS, Director, Options
from .plan import KINDS

PARTS = {"start": 0.1, "middle": 0.45, "end": 0.45}  # of the time, before that census


def main() -> int:
    parser = argparse.ArgumentParser(prog="soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=secrets.randbits(32))
    parser.add_argument("--count", type=int, help="so many channels, however long that takes")
    for name in Options._fields[1:]:
        default = Options._field_defaults[name]
        parser.add_argument("--" + name.replace("_", "-"), type=type(default), default=default)
    options = vars(parser.parse_args())
    minutes, count = options.pop("minutes"), options.pop("count")
    print(f"seed {options['seed']}, Python {platform.python_version()}", flush=True)
    if not INTERPRETERS:
        print("no interpreters before Python 3.14", flush=True)
    apart.enter()
    director = Director(Options(**options))
    try:
        soak(director, minutes * 60, count)
    finally:
        director.close()
    print(summary(director))
    for failure in director.failures:
        print(f"WRONG: {failure}")
    return bool(director.failures)


def soak(director: Director, seconds: float, count: int | None) -> None:
    print_table_head()
    first: dict[str, Census] = {}
    for name, share in PARTS.items():
        if count:
            director.run(channels=round(count * share))
        else:
            director.run(until=time.monotonic() + seconds * share)
        if director.failures:
            return
        left, found = director.left(), director.census()
        print_rows(name, found, len(left))
        first = first or found
        director.compare(first, found)


def print_table_head() -> None:
    print(
        "\n| at the | process | resident KiB | descriptors | shared mappings | threads | names in /dev/shm |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")


def print_rows(when: str, found: dict[str, Census], names: int) -> None:
    for name, one in found.items():
        cells = [when, name, *map(str, one), str(names)]
        print("| " + " | ".join(cells) + " |", flush=True)


def summary(director: Director) -> str:
    totals = director.totals
    kinds = ", ".join(f"{totals[kind]:,} in {kind}s" for kind in KINDS if totals[kind])
    half_made = totals.get("half made", 0)
    size = totals["bytes"] / 2**30
    lines = [
        "",
        f"{totals['channels']:,} channels, {director.options.channels} at once; "
        f"{totals['mixed']:,} of them from C to Python; ends: {kinds}.",
        f"{totals['written']:,} messages written, {totals['came']:,} read, {size:.1f} GiB.",
        f"{totals['kills']} processes killed; {totals['lost']:,} ends met PeerLost.",
        ", ".join(f"{count:,} {what}" for what, count in director.of_pools.items()) + " in pools of workers.",
        *([f"{half_made} semaphores that glibc had half made were left by the killed."] if half_made else []),
        f"{len(director.failures)} wrong"
        if director.failures
        else "Nothing lost, altered, duplicated or left",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
