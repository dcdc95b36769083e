"""``make crash``: the whole matrix, then the random kills. Exits with 1 when anything was wrong."""

from __future__ import annotations

import argparse
import os
import sys
import time

from .matrix import Totals, kinds, run_matrix
from .scenarios import SCENARIOS
from .steps import ACTIONS


def main() -> int:
    parser = argparse.ArgumentParser(prog="crash", description=__doc__)
    parser.add_argument("--every", type=int, default=1, help="take each n-th step only")
    parser.add_argument("--actions", default=",".join(ACTIONS))
    parser.add_argument("--scenario", action="append", help="one of: " + "; ".join(SCENARIOS))
    options = parser.parse_args()
    totals = Totals()
    for kind in kinds():
        started = time.monotonic()
        run_matrix(
            totals, kind, every=options.every, actions=options.actions.split(","), names=options.scenario or SCENARIOS
        )
        print(f"{kind}: {totals.cases} cases so far, {time.monotonic() - started:.0f} s", file=sys.stderr)
    print("\n".join(totals.table()))
    print(f"\n{totals.cases} cases, {totals.missed} of them without coming by their step; {totals.timing()}.")
    for case in totals.failed:
        print("FAILED:", case)
    return bool(totals.failed)


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    sys.exit(main())
