"""The ring, the codec and the messages in use: in C if that is built and wanted, or the reference in Python.

``SHMCHANNEL_PUREPYTHON=1`` wants Python. The classes in C are those in Python with their quick paths
replaced: _native.pyi says which. Both write the same bytes, and a port of either speaks with a port of the
other.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from . import messages
from .codec import codec, lent
from .ring import consumer, producer

Method = TypeVar("Method", bound=Callable[..., Any])

native: bool = not os.environ.get("SHMCHANNEL_PUREPYTHON")
"""Whether the core in C is in use."""
if native:
    try:
        from . import _native
    except ImportError:  # it was not built
        native = False

Codec, Producer, Consumer = codec.Codec, producer.Producer, consumer.Consumer
MessageWriter, MessageReader = messages.MessageWriter, messages.MessageReader
copy = lent.copy


def _with_c(reference: type[Any], in_c: type[Any]) -> Any:
    """The class of the reference, in which the methods of the one in C replace those of the same name."""

    def begin(self: Any, *arguments: Any) -> None:
        reference.__init__(self, *arguments)
        self._prepare(*arguments)  # after it, because it takes some of the attributes

    return type(reference.__name__, (in_c, reference), {"__init__": begin, "__module__": __name__})


def quick(go_on: Callable[..., Any] | None = None) -> Callable[[Method], Method]:
    """Have a port's method try in C, without a Python frame, before it is called: a write or a read.

    ``go_on(port, payload)`` writes what did not go in at once, with the timeout if the method has one.
    Without it the method is a read.
    """

    def quickened(method: Method) -> Method:
        if native and not TYPE_CHECKING:
            takes_timeout = "timeout" in method.__code__.co_varnames
            return functools.update_wrapper(_native.QuickMethod(method, go_on, takes_timeout), method)
        return method

    return quickened


if native and not TYPE_CHECKING:
    Codec = _with_c(Codec, _native.Codec)
    Producer, Consumer = _with_c(Producer, _native.Producer), _with_c(Consumer, _native.Consumer)
    MessageWriter = _with_c(MessageWriter, _native.MessageWriter)
    MessageReader = _with_c(MessageReader, _native.MessageReader)
    copy = _native.copy
