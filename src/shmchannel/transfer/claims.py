"""Claims: the instances that a write is moving or a close is freeing, so that no two do so at once."""

from __future__ import annotations

import threading
import weakref
from functools import partial
from typing import Any

from ..system import forks
from ..system.interrupts import locked

_claims: dict[int, weakref.ref[Claims]] = {}  # by the id of the instance
_lock = threading.RLock()  # no thread waits for anything while it has it


def _forget_parent() -> None:
    global _lock
    _lock = threading.RLock()
    _claims.clear()  # in a fork the other threads are gone, and so are their writes


forks.in_child(_forget_parent)


class Claims:
    """The instances that one write or one close has claimed. They are free again once this is gone.

    So a claim does not outlive a write that a signal handler cuts off, wherever that was.
    """

    def __init__(self) -> None:
        self._instances: dict[int, Any] = {}  # kept, so that no other object gets an id of these

    def add(self, instance: Any) -> bool:
        """Claim an instance. False if another write or close has it."""
        self._instances[id(instance)] = instance
        mine = weakref.ref(self, partial(_drop, id(instance)))
        left = _claims.get(id(instance))
        if left is not None and left() is None:  # a signal handler cut off its ``_drop``
            _drop(id(instance), left)
        return _claims.setdefault(id(instance), mine) is mine  # one step, also for threads

    def release(self) -> None:
        """Give up all claims; may be repeated."""
        for identity in self._instances:
            claim = _claims.get(identity)
            if claim and claim() is self:  # it lives, so nobody else takes it away
                _claims.pop(identity, None)
        self._instances = {}


def _drop(identity: int, claim: weakref.ref[Claims]) -> None:
    def drop() -> None:
        if _claims.get(identity) is claim:  # only its own Claims takes a claim away
            _claims.pop(identity, None)

    locked(_lock, drop)
