"""The claims of writes and closes on what they move and free."""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Any

import pytest

from shmchannel.system import forks
from shmchannel.transfer.claims import Claims
from support.midway import midway


def test_of_two_claims_on_an_instance_one_has_it_until_it_is_released_or_gone() -> None:
    instance = object()
    first, second = Claims(), Claims()
    assert first.add(instance)
    assert not second.add(instance)
    first.release()
    third = Claims()
    assert third.add(instance)
    del third
    assert Claims().add(instance)


def test_a_claim_that_was_cut_off_while_it_went_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a signal handler that raises: Python swallows that in the callback of a weak reference."""
    instance, claims, cut = object(), Claims(), []

    def trace(frame: Any, _event: str, _argument: Any) -> None:
        if frame.f_code.co_name == "_drop":
            cut.append(frame)
            raise KeyboardInterrupt

    assert claims.add(instance)
    monkeypatch.setattr(sys, "unraisablehook", lambda _unraisable: None)
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        del claims
    finally:
        sys.settrace(before)
    assert cut
    assert Claims().add(instance)


def test_a_claim_that_goes_takes_no_other_away() -> None:
    instance, claims, later = object(), Claims(), Claims()
    assert claims.add(instance)
    with midway("drop", lambda: made.append(later.add(instance))):
        made: list[bool] = []
        del claims
    assert made == [True]
    assert not Claims().add(instance)


def test_a_fork_by_c_code_has_none_of_its_parents_claims() -> None:
    instance, claims = object(), Claims()
    assert claims.add(instance)
    pid = ctypes.PyDLL(None).fork()
    if pid == 0:
        os._exit(not (forks.noticed() and Claims().add(instance)))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert not Claims().add(instance)
