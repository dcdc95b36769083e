"""Classes of other libraries that many people send: what to do about an instance that nobody has listed.

They are known by their names. So none of these libraries is imported.
"""

from __future__ import annotations

from typing import NamedTuple

PORT_BUFFER = "shmchannel.PortBuffer"  # the name of its interface


class _Known(NamedTuple):
    """What to do about an instance of a class, and of those of its subclasses that the table lacks."""

    listing: str = ""  # how the class's interface is listed; empty if there is none
    instead: str = ""  # what to write for an instance of a subclass, or of a class without an interface
    reason: str = ""  # why there is nothing to list


_ARROW = _Known("*shmchannel.arrow.arrow_interfaces")
_PANDAS = "*shmchannel.pandas.pandas_interfaces"
_MASKED = _Known(instead="its data and its mask, which are two arrays")

_MOVES = _Known(reason="a buffer moves, which takes a port: port.write_sync(value, transfer=[buffer])")

_KNOWN = {
    "shmchannel.transfer.buffer.SharedBuffer": _MOVES,
    "shmchannel.transfer.port_buffer.PortBuffer": _MOVES,
    "shmchannel.channel.Channel": _Known(reason="a Channel travels through a port: port.write_sync(channel)"),
    "numpy.ndarray": _Known("shmchannel.numpy.ndarray_interface", "numpy.asarray(...) of it"),
    "numpy.ma.MaskedArray": _MASKED,
    "numpy.ma.core.MaskedArray": _MASKED,  # its name before NumPy 2
    "numpy.generic": _Known("*shmchannel.numpy.scalar_interfaces"),
    "pyarrow.lib.Table": _ARROW,
    "pyarrow.lib.RecordBatch": _ARROW,
    "pyarrow.lib.ChunkedArray": _ARROW,
    "pyarrow.lib.Array": _ARROW,
    "pandas.DataFrame": _Known(_PANDAS, "pandas.DataFrame(...) of it"),
    "pandas.Series": _Known(_PANDAS, "pandas.Series(...) of it"),
    "pandas.Index": _Known(_PANDAS),
    "pandas.Timestamp": _Known(_PANDAS),
    "pandas.Timedelta": _Known(_PANDAS),
    "pandas.Period": _Known(_PANDAS),
    "pandas.Interval": _Known(_PANDAS),
    "pandas.api.typing.NaTType": _Known(_PANDAS),
    "pandas.api.typing.NAType": _Known(_PANDAS),
    "pandas.arrays.SparseArray": _Known(instead="it dense, as series.sparse.to_dense()"),
}


def advice(kind: type) -> str:
    """Return what to do about an instance of a class that is not listed."""
    for base in kind.__mro__:
        known = _KNOWN.get(f"{getattr(base, '__module__', '')}.{base.__qualname__}")
        if known and known.reason:
            return known.reason
        if known and known.listing and (base is kind or not known.instead):
            return f"list {known.listing} in interfaces=[...]"
        if known:
            return f"write {known.instead}, or list its class in interfaces=[...]"
    return "list its class in interfaces=[...]"


def to_list(name: str) -> str:
    """Return what to list for an instance that has come under the name of an interface."""
    known = _KNOWN.get(name)
    return known.listing if known and known.listing else "its class"
