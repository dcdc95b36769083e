"""Timeouts: the check of a caller's timeout, and the time that is left of it."""

from __future__ import annotations

import math

from ..system.clock import monotonic


def check_timeout(timeout: object) -> None:
    """Raise ``TypeError`` or ``ValueError`` for a wrong timeout, even if no wait follows."""
    if timeout is None:
        return
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
        raise TypeError(f"timeout must be seconds or None, not {timeout!r}")
    if math.isnan(timeout) or timeout < 0:
        raise ValueError(f"timeout must not be negative, not {timeout!r}")


class Deadline:
    """A point in monotonic time, computed once for all waits of an operation."""

    __slots__ = ("_at", "_timeout")

    def __init__(self, timeout: float | None) -> None:
        check_timeout(timeout)
        self._timeout = timeout
        self._at = None if timeout is None or math.isinf(timeout) else monotonic() + timeout

    def left(self) -> float:
        """Seconds left, none or less when the time is up; ``inf`` without a timeout."""
        return math.inf if self._at is None else self._at - monotonic()

    def remaining(self) -> float:
        """Seconds left. Raises ``TimeoutError`` when none are left."""
        if (left := self.left()) <= 0:
            raise TimeoutError(f"timed out after {self._timeout} s")
        return left
