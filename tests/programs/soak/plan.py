"""Draw channels: each by its number, so that a seed gives the same channels again."""

from __future__ import annotations

import math
from random import Random
from typing import Any

NOISE = Random(7).randbytes((8 << 20) + 65_537)  # payloads are cut from it
LARGEST = 8 << 20  # bytes

KINDS = ("thread", "loop", "interpreter")
# When an end closes: when the other has; after its writes; after its reads, too; after some reads.
DRAIN, WRITTEN, ALL, ABRUPT = "drain", "written", "all", "abrupt"


def draw_channel(seed: int, number: int, hosts: int, most: int, linger: float) -> list[dict[str, Any]]:
    """The two ends of a channel. Each writes up to ``most`` messages; a share ``linger`` lingers."""
    random = Random(f"{seed}/{number}")
    ways = random.choice([(DRAIN, WRITTEN), (DRAIN, ALL), (DRAIN, ABRUPT), (ALL, ALL), (WRITTEN, ABRUPT)])
    counts = [int(most ** random.random()) - random.randrange(2) for _ in ways]
    capacity, lingers = 1 << random.randrange(12, 21), random.random() < linger
    ends = []
    for side, way in enumerate(random.sample(ways, 2)):
        theirs = counts[1 - side]
        limit = {ALL: theirs, ABRUPT: random.randint(0, theirs)}.get(way)
        end = {"channel": number, "side": side, "seed": seed, "way": way, "limit": limit}
        end |= {"count": counts[side], "kind": random.choice(KINDS), "host": random.randrange(hosts)}
        ends.append(end | ({} if side else {"capacity": capacity, "linger": lingers}))
    return ends


def draw_size(random: Random, largest: int) -> int:
    """A number of bytes: as often from 1 to 10 as from 1 MiB to 10 MiB."""
    return int(math.exp(random.random() * math.log(largest + 1))) - 1 if random.random() < 0.97 else 0
