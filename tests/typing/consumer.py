"""A program that uses shmchannel, as mypy --strict must see it; never run."""

from typing import Any

from shmchannel import Channel, ChannelError, EndOfChannel, PeerLost, Port, Statistics


def use(handle: str) -> int:
    channel = Channel(capacity=1 << 16, linger=True, max_message_size=1 << 20)
    other: Channel = Channel.from_handle(handle, max_message_size=10)
    size: int = other.capacity
    with channel.connect() as port:
        accepted: bool = port.write_sync({"a": [1, 2]}, timeout=1.5)
        value: Any = port.read_sync(timeout=None)
        port.write_nowait((value, accepted))
        for message in port:
            print(message)
        record: Statistics = port.statistics()
    closed: bool = port.closed
    return size + record.messages_read + closed


def mistakes(channel: Channel, port: Port) -> None:
    Channel("handle")  # type: ignore[call-arg]
    Channel(capacity="1")  # type: ignore[arg-type]
    port.write_sync(1, 2)  # type: ignore[call-arg]
    port.read_sync(timeout="1")  # type: ignore[arg-type]
    channel.handle = "x"  # type: ignore[misc]
    port.statistics().capacity = 1  # type: ignore[misc]
    error: type[ChannelError] = EndOfChannel
    error = PeerLost
    error = ValueError  # type: ignore[assignment]
    print(error)
