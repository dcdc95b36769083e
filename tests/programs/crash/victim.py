"""A victim: in a fork of a case, in an interpreter there, or as a program of its own, for gdb.

python -m programs.crash.victim CASE
"""

from __future__ import annotations

import json
import sys
from typing import Any

from support.apart import names_tagged

from .board import Board
from .scenarios import SCENARIOS
from .steps import Step, Victim
from .storms import STORMS


def be_victim(case: dict[str, Any]) -> None:
    """Run the scenario in this process, or in an interpreter of it."""
    names_tagged(case["tag"])
    if case.get("interpreter"):
        from support.flavours import new_interpreter

        made = new_interpreter()
        made.exec(f"from programs.crash import victim; victim.act({json.dumps(case)!r})")
        made.close()
    else:
        act(json.dumps(case))


def act(text: str) -> None:
    """Run the scenario in this interpreter."""
    case = json.loads(text)
    names_tagged(case["tag"])
    begin = (SCENARIOS | STORMS)[case["scenario"]].victim
    assert begin
    begin(victim_of(case))


def victim_of(case: dict[str, Any]) -> Victim:
    """The victim of a case, which this process or interpreter is from now on."""
    step = Step(*case["step"]) if case.get("step") else None
    board, gdb = Board(case["board"]), bool(case.get("gdb"))
    return Victim(board, step, case["action"], case.get("record", ""), gdb=gdb)


if __name__ == "__main__":
    be_victim(json.loads(sys.argv[1]))
