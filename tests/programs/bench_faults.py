"""A turn of the bench in which faulty rivals take part: ``python tests/programs/bench_faults.py``."""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import Any

from shmchannel.bench import isolated
from shmchannel.bench.rivals import RIVALS, End, Rival

PIPE = RIVALS["mp.Pipe"]


def opened(connection: Any) -> tuple[End, bool]:
    """The end of a pipe, and whether it is the far side's."""
    far, end = connection
    return PIPE.open(end), far


def make(room: Any) -> tuple[Any, Any]:
    near, far = PIPE.make(room)
    return (False, near), (True, far)


def raises_near(state: Any) -> End:
    end, far = opened(state)
    if not far:
        raise LookupError("no such\npeer")
    return end


def raises_far(state: Any) -> End:
    end, far = opened(state)
    if far:
        raise LookupError("no such peer there")
    return end


def hangs(state: Any) -> End:
    end, _ = opened(state)
    return end._replace(receive=threading.Event().wait)


def dies(state: Any) -> End:
    end, far = opened(state)
    if not far:
        os.kill(os.getpid(), signal.SIGKILL)
    return end


def exits(state: Any) -> End:
    end, far = opened(state)
    if not far:
        print("that was too much", file=sys.stderr, flush=True)
        os._exit(3)
    return end


def alters(state: Any) -> End:
    end, far = opened(state)
    return end if far else end._replace(send=lambda value: end.send(altered(value)))


def altered(value: Any) -> Any:
    if isinstance(value, dict):
        return {**value, "ok": False}
    return value + 1 if hasattr(value, "dtype") else value  # numpy's arrays have one


def doubles(state: Any) -> End:
    end, far = opened(state)

    def send(value: Any) -> None:
        end.send(value)
        if isinstance(value, dict):
            end.send(value)

    return end if far else end._replace(send=send)


def loses(state: Any) -> End:
    end, far = opened(state)
    numbers = iter(range(1 << 20))

    def send(value: Any) -> None:
        if next(numbers) != 3:
            end.send(value)

    return end if far else end._replace(send=send)


def talks(state: Any) -> End:
    """It works, but prints lines that are no answers."""
    print('{"unheard": "of"}\n[1]\nnot JSON', flush=True)
    return opened(state)[0]


FAULTS = {
    fault.__name__: Rival(fault.__name__, ("process",), make, fault)
    for fault in [raises_near, raises_far, hangs, dies, exits, alters, doubles, loses, talks]
}

if __name__ in ("__main__", "__mp_main__"):  # the turn's process, and its far side's
    RIVALS.update(FAULTS)
if __name__ == "__main__":
    raise SystemExit(isolated.main())
