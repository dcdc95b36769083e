"""A victim: in a fork of a case, in an interpreter there, or as a program of its own, for gdb.

python -m programs.crash.victim CASE
"""

from __future__ import annotations

import json
import secrets
import sys
from collections.abc import Callable
from typing import Any

from shmchannel import segment
from shmchannel.transfer import sweep

from .board import Board
from .scenarios import SCENARIOS
from .steps import Step, Victim
from .storms import STORMS


def be_victim(case: dict[str, Any]) -> None:
    """In the victim's process: do what the scenario says, here or in an interpreter."""
    name_by_tag(case["tag"])
    if case.get("interpreter"):
        from support.flavours import new_interpreter

        made = new_interpreter()
        made.exec(f"from programs.crash import victim; victim.act({json.dumps(case)!r})")
        made.close()
    else:
        act(json.dumps(case))


def act(text: str) -> None:
    """Play the victim in this interpreter."""
    case = json.loads(text)
    name_by_tag(case["tag"])
    step = Step(*case["step"]) if case.get("step") else None
    board, gdb = Board(case["board"]), bool(case.get("gdb"))
    victim = Victim(board, step, case["action"], case.get("record", ""), gdb=gdb)
    (SCENARIOS | STORMS)[case["scenario"]].victim(victim)


def name_by_tag(tag: str = "") -> str:
    """Have all names that are made here begin with a tag, and sweeps look at no others."""
    tag = tag or _random(6)
    secrets.token_urlsafe = lambda _size=None: tag + _random(6)
    sweep.block_names = lambda: [name for name in _list_blocks() if tag in name]
    segment.handles = lambda: [name for name in _list_handles() if tag in name]
    return tag


_random: Callable[..., str] = secrets.token_urlsafe
_list_blocks, _list_handles = sweep.block_names, segment.handles


if __name__ == "__main__":
    be_victim(json.loads(sys.argv[1]))
