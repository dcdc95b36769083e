"""The clock, apart from ``time``: a test library may freeze that module's functions wherever it finds them.

That would freeze every timeout and every look at a peer. These are objects of their own, so it misses them.
"""

from __future__ import annotations

import time
from functools import partial

# The clock of ``time.monotonic``, which the C core reads too. On macOS CLOCK_MONOTONIC also counts sleep.
_CLOCK = getattr(time, "CLOCK_UPTIME_RAW", time.CLOCK_MONOTONIC)
monotonic = partial(time.clock_gettime, _CLOCK)
monotonic_ns = partial(time.clock_gettime_ns, _CLOCK)
thread_time = partial(time.clock_gettime, time.CLOCK_THREAD_CPUTIME_ID)
