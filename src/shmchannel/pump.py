"""Carrying bytes between a port and asyncio's byte streams."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .errors import EndOfChannel
from .port.port import Port

if TYPE_CHECKING:
    import asyncio

CHUNK = 1 << 16  # bytes of one read, and so of one message


async def pump(source: asyncio.StreamReader | Port, target: Port | asyncio.StreamWriter) -> int:
    """Carry bytes from a ``StreamReader`` into a port, or from a port into a ``StreamWriter``.

    Returns the number of bytes, when the source ends. Waits while the target is full. Closes neither: then
    call ``end_writing`` or ``close`` of the port, or ``write_eof`` of the writer. A cancelled pump may have
    read a piece that it has not written, so do not go on with its two ends.

    Raises ``TypeError`` for other arguments and for a message that is not bytes, ``EndOfChannel`` if the
    port's other side ends before the source does, and what reading and writing raise.
    """
    if isinstance(source, Port):
        if isinstance(target, Port):
            raise TypeError(
                "pump carries bytes between a port and a stream: "
                "one of the two is a StreamReader or a StreamWriter"
            )
        if not hasattr(target, "drain"):
            raise TypeError(f"pump needs a StreamWriter to carry a port's bytes to, not {target!r}")
        return await _pump_out(source, target)
    if not isinstance(target, Port):
        raise TypeError("pump carries bytes between a port and a stream: one of the two is a Port")
    if not hasattr(source, "read"):
        raise TypeError(f"pump needs a StreamReader to carry bytes from, not {source!r}")
    return await _pump_in(source, target)


async def _pump_in(reader: asyncio.StreamReader, port: Port) -> int:
    total = 0
    while chunk := await reader.read(CHUNK):
        if not await port.write(chunk):
            raise EndOfChannel(f"the other side has ended, after {total} bytes")
        total += len(chunk)
    return total


async def _pump_out(port: Port, writer: asyncio.StreamWriter) -> int:
    total = 0
    async for chunk in port:
        if not isinstance(chunk, bytes):
            raise TypeError(
                f"pump carries bytes, but this port has read a {type(chunk).__name__}: {chunk!r:.100}"
            )
        writer.write(chunk)
        await writer.drain()
        total += len(chunk)
    return total
