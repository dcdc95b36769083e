"""The clock, apart from ``time``: a test library may freeze that module's functions wherever it finds them.

That would freeze every timeout and every look at a peer. These are objects of their own, so it misses them.
"""

from __future__ import annotations

import time
from functools import partial

monotonic = partial(time.clock_gettime, time.CLOCK_MONOTONIC)  # which the C core reads too
monotonic_ns = partial(time.clock_gettime_ns, time.CLOCK_MONOTONIC)
thread_time = partial(time.clock_gettime, time.CLOCK_THREAD_CPUTIME_ID)
