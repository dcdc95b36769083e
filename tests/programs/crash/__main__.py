"""``make crash``: the matrix, its part in C under gdb, random kills. Exits with 1 if anything was wrong.

``--write`` puts the table into a page, between its two marks.
"""

from __future__ import annotations

import argparse
import platform
import shutil
import sys
import time
from pathlib import Path

from support import apart

from .matrix import IN_C, Totals, kinds, run_in_c, run_matrix, run_storm
from .scenarios import SCENARIOS
from .steps import ACTIONS

BEGIN, END = "<!-- crash: begin -->", "<!-- crash: end -->"


def main() -> int:
    parser = argparse.ArgumentParser(prog="crash", description=__doc__)
    parser.add_argument("--every", type=int, default=1, help="take each n-th step only")
    parser.add_argument("--rounds", type=int, default=2000, help="random kills")
    parser.add_argument("--actions", default=",".join(ACTIONS))
    parser.add_argument("--scenario", action="append", help="one of: " + "; ".join(SCENARIOS))
    parser.add_argument("--write", type=Path, help="a page that has the marks")
    options = parser.parse_args()
    apart.enter()
    lines = run(options)
    failed = lines.pop()
    print("\n".join(lines))
    print(failed)
    if options.write:
        page = options.write.read_text()
        before, rest = page.split(BEGIN)
        after = rest.split(END)[1]
        options.write.write_text("\n".join([before + BEGIN, "", *lines, "", END + after]))
    return failed != "nothing was wrong"


def run(options: argparse.Namespace) -> list[str]:
    """Run everything; return the report's lines. The last line tells what was wrong."""
    totals, started = Totals(), time.monotonic()
    names, actions = options.scenario or list(SCENARIOS), options.actions.split(",")

    def say(what: str) -> None:
        print(
            f"{time.monotonic() - started:.0f} s: {what}, {totals.cases} cases", file=sys.stderr, flush=True
        )

    for kind in kinds():
        run_matrix(totals, kind, dict.fromkeys(actions, options.every), names)
        say(str(kind))
    for kind in kinds():
        if kind.ring == "C" and shutil.which("gdb") and {*names} & {*IN_C}:
            run_in_c(totals, kind, every=options.every, actions=actions, names=names)
            say(f"in C, under gdb: {kind}")
    share = options.rounds // len(kinds())
    for number, kind in enumerate(kinds()):
        run_storm(totals, kind, share + (number < options.rounds % len(kinds())), number)
        say(f"random kills, {kind}")
    made = f"Python {platform.python_version()}; " + "; ".join(map(str, kinds()))
    wrong = [f"WRONG: {case}" for case in totals.failed]
    count = f"{totals.cases} cases in {(time.monotonic() - started) / 60:.0f} minutes ({made}). "
    count += f"{totals.missed} did not come by their step; {len(wrong)} were wrong. {totals.timing()}."
    return [*totals.table(), "", count, "\n".join(wrong) or "nothing was wrong"]


if __name__ == "__main__":
    sys.exit(main())
