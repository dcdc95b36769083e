"""What a pool and a worker say to each other, over one channel a worker.

The pool writes calls: ``[function, arguments, keywords]``, or the bytes of the pickle of one. The worker says
that it is ready, and then writes an answer to each call, in their order: ``[kind, seconds, payload]``.
"""

from __future__ import annotations

import pickle
from typing import Any

from ..codec.builtin_exceptions import traceback_of
from ..codec.interfaces import Interface, listed
from ..errors import CloneError, EndOfChannel, InterfaceError, PeerLost, PortClosed, RemoteError
from ..port.port import Port
from .errors import WorkerLost
from .functions import FUNCTIONS, find

# The kinds of what a worker writes. BROKEN: its initializer failed. LEFT_OUT: the pool took the call back.
READY, BROKEN, LEFT_OUT, RESULT, ERROR, PICKLED_RESULT, PICKLED_ERROR = range(7)
_PICKLED = {RESULT: PICKLED_RESULT, ERROR: PICKLED_ERROR}
_PLAIN = {pickled: kind for kind, pickled in _PICKLED.items()}

CANNOT_CROSS = (CloneError, InterfaceError)
OVER = (EndOfChannel, PeerLost, PortClosed)


def interfaces_with(users: tuple[type | Interface, ...]) -> tuple[Interface, ...]:
    """The interfaces of a pool's channels: the user's, and ours for what the user has not listed.

    Raises ``TypeError`` or ``ValueError`` for a wrong one.
    """
    theirs = listed(users)
    classes = {one.cls for one in theirs}
    ours = (*FUNCTIONS, Interface(WorkerLost))
    return theirs + tuple(one for one in ours if one.cls not in classes)


# -- calls


def run(call: Any) -> Any:
    """Do what a call says, and return what its function does."""
    if isinstance(call, Exception):  # the call has come, and could not be decoded
        raise call
    function, arguments, keywords = pickle.loads(call) if isinstance(call, bytes) else call
    if isinstance(function, str):
        function = find(function)
    return function(*arguments, **keywords)


# -- answers


def write_answer(port: Port, kind: int, seconds: float, payload: Any, *, pickles: bool) -> None:
    """Write the result or the error of a call, in the first of the ways in which it can cross.

    An error always can, as a ``RemoteError`` at least. So a pool that pickles tries that first.
    """
    ways = [kind]
    if pickles:
        ways.insert(1 if kind == RESULT else 0, _PICKLED[kind])
    failure: BaseException | None = None
    for way in ways:
        try:
            port.write_sync([way, seconds, pickle.dumps(payload) if way in _PLAIN else payload])
            return
        except OVER:
            raise
        except BaseException as error:  # also what a method of the payload's raises, as SystemExit
            failure = error
    write_answer(port, ERROR, seconds, [failure, ""], pickles=pickles)


def text_of(error: BaseException) -> str:
    """The traceback of an error, for a note."""
    return traceback_of(error).rstrip()


def outcome(kind: int, payload: Any) -> tuple[Any, BaseException | None]:
    """Return the result, or the error with the worker's traceback as a note."""
    if kind in _PLAIN:
        kind, payload = _PLAIN[kind], pickle.loads(payload)
    if kind == RESULT:
        return payload, None
    error, text = payload
    noted = isinstance(error, RemoteError) and error.traceback.rstrip() == text
    if text and not noted:
        error.add_note(f"In the worker:\n{text}")
    return None, error
