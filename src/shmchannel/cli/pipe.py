"""``create``, ``cat`` and ``tee``: a shell's end of a channel, with a JSON value a line."""

from __future__ import annotations

import argparse
import os
import sys
import threading
from typing import BinaryIO

from ..channel import Channel
from ..errors import ChannelError, ChannelNotFound, CloneError, EndOfChannel, InterfaceError, PeerLost
from ..port.port import Port
from ..system.processes import printable
from .jsonlines import Jsonlines, NotJson

_BATCH = 1000  # messages that are printed at once


def create(options: argparse.Namespace) -> int:
    """Make a channel that lingers, and print its handle."""
    channel = Channel(capacity=options.capacity, linger=True)
    try:
        print(channel.handle, flush=True)
    except OSError:
        for port in (channel.connect(), channel.connect()):  # nobody knows the handle: it must not linger
            port.close_sync()
        raise
    return 0


def cat(options: argparse.Namespace) -> int:
    """Print the messages until the other side ends."""
    with Channel.from_handle(options.handle).connect() as port:
        return _print_all(port, options.count)


def tee(options: argparse.Namespace) -> int:
    """Write each line of the input to the channel; copy it to the output, or print the replies."""
    if sys.stdin is None:
        complain("stdin is closed, and tee has no lines to write")
        return 1
    with Channel.from_handle(options.handle).connect() as port:
        if options.replies:
            return _exchange(port)
        return _write_all(port, sys.stdin.buffer, sys.stdout.buffer)


def _print_all(port: Port, most: int | None = None) -> int:
    """Print values until the end, at most ``most``; return 1 if a value could not be shown."""
    lines, status, count = Jsonlines(), 0, 0
    while most is None or count < most:
        try:
            values = port.read_many_sync(_BATCH if most is None else min(_BATCH, most - count))
        except EndOfChannel:
            return status
        except (CloneError, InterfaceError, ChannelNotFound) as error:  # that message is gone; others follow
            count += 1
            complain(f"message {count}: {error}")
            status = 1
            continue
        for value in values:
            count += 1
            try:
                sys.stdout.buffer.write(lines.line(value).encode() + b"\n")
            except CloneError as error:
                complain(f"message {count}: {error}")
                status = 1
        sys.stdout.buffer.flush()
    return status


def _write_all(port: Port, source: BinaryIO, copy: BinaryIO | None) -> int:
    """Write the value of each line, and copy the line once it is accepted; stop at a line without a value."""
    lines = Jsonlines()
    for number, line in enumerate(source, 1):
        if not line.strip():
            continue
        try:
            accepted = port.write_sync(lines.value(line))
        except (NotJson, CloneError) as error:
            complain(f"line {number}: {error}")
            return 1
        if not accepted:
            complain(f"the other side has ended: line {number} and the lines after it are not written")
            return 1
        if copy is not None:
            copy.write(line if line.endswith(b"\n") else line + b"\n")
            copy.flush()
    return 0


def _exchange(port: Port) -> int:
    """Write in a thread and print in this one, so that neither waits for the other."""
    write_status = 0

    def write() -> None:
        nonlocal write_status
        try:
            with open(os.dup(sys.stdin.fileno()), "rb") as source:
                write_status = _write_all(port, source, None)
        except PeerLost:
            write_status = 1  # the reader reports it
        except ChannelError:
            return  # the port was closed: printing is over or has failed
        except OSError as error:
            complain(f"stdin: {error.strerror or error}")
            write_status = 1
        port.end_writing()  # the other side's loop ends, and the other side may still answer

    # A daemon: if the other side ends first, the rest of the input is not waited for.
    threading.Thread(target=write, daemon=True).start()
    read_status = _print_all(port)
    return max(read_status, write_status)


def complain(text: str) -> None:
    """Print a line to stderr. What it quotes may come from the other side."""
    print(f"shmchannel: {printable(text)}", file=sys.stderr)
