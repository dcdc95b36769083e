"""A bridge: two programs on two machines see one channel, even if the link breaks."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shmchannel import (
    Channel,
    ChannelCorrupted,
    ChannelError,
    CloneError,
    EndOfChannel,
    PeerLost,
    Port,
    SharedBuffer,
    WouldBlock,
)
from support.flavours import Peer
from support.marks import BOTH_WAYS
from support.peers import fill
from support.values import alike, shared_values, values

zmq = pytest.importorskip("zmq")

from shmchannel.bridge import CLEAR, Bridge, wire  # noqa: E402
from shmchannel.bridge.link import Inlet, Listener  # noqa: E402
from shmchannel.bridge.portable import check_portable  # noqa: E402
from shmchannel.bridge.queues import Inbox, Outbox  # noqa: E402
from shmchannel.bridge.raw_port import Messages  # noqa: E402
from shmchannel.bridge.relay import MOST_REFUSALS, TICK, Relay  # noqa: E402
from shmchannel.ring.producer import frame  # noqa: E402
from support import bridges  # noqa: E402
from support.bridges import DIALER, LISTENER, RawPeer, bridged, cutting  # noqa: E402

KILLED = -signal.SIGKILL
SECONDS = 30  # a deadline, for what takes far less


def writing(port: Port, numbers: range, size: int = 100) -> threading.Thread:
    def write() -> None:
        for number in numbers:
            assert port.write_sync((number, bytes(size)), timeout=SECONDS)

    thread = threading.Thread(target=write)
    thread.start()
    return thread


def check_range(port: Port, numbers: range, size: int = 100) -> None:
    for number in numbers:
        assert port.read_sync(timeout=SECONDS) == (number, bytes(size))


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def gives_up(bridge: Bridge, why: str) -> None:
    """Have a bridge that nothing lets in give up, once it knows why."""
    until(lambda: why in bridge._relay._why_down)
    bridge._relay._timeout = 0
    with pytest.raises(PeerLost, match=why):
        bridge.wait(SECONDS)


# -- messages, ends and losses


def test_values_arrive_as_they_were() -> None:
    with bridged() as ends:

        @settings(
            max_examples=60, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
        )
        @given(values | shared_values())
        def check(value: Any) -> None:
            assert ends.near.write_sync(value, timeout=SECONDS)
            arrived = ends.far.read_sync(timeout=SECONDS)
            assert alike(arrived, value)
            assert ends.far.write_sync(arrived, timeout=SECONDS)
            assert alike(ends.near.read_sync(timeout=SECONDS), value)

        check()


def test_order_is_kept_both_ways_at_once() -> None:
    numbers = range(20_000)
    with bridged() as ends:
        writers = [writing(port, numbers) for port in (ends.near, ends.far)]
        reader = threading.Thread(target=check_range, args=(ends.far, numbers))
        reader.start()
        check_range(ends.near, numbers)
        for thread in (reader, *writers):
            thread.join(SECONDS)
            assert not thread.is_alive()


@pytest.mark.parametrize("far_capacity", [4096, 1 << 20])
@pytest.mark.parametrize("lend_limit", BOTH_WAYS)
def test_a_message_may_be_larger_than_rings_window_and_packets(
    far_capacity: int, lend_limit: int | None
) -> None:
    message = os.urandom(9_000_000)
    with bridged(far_capacity=far_capacity, lend_limit=lend_limit, window=100_000) as ends:
        for size in (len(message), wire.PIECE, wire.PIECE + 1, wire.PIECE - 8, 4000, 0):
            writer = threading.Thread(target=ends.near.write_sync, args=(message[:size],))
            writer.start()
            assert ends.far.read_sync(timeout=SECONDS) == message[:size]
            writer.join(SECONDS)


def test_an_end_arrives_after_all_messages() -> None:
    with bridged() as ends:
        for number in range(1000):
            ends.near.write_sync(number)
        ends.near.close_sync()
        assert list(ends.far) == [*range(1000)]
        with pytest.raises(EndOfChannel):
            ends.far.read_sync(timeout=SECONDS)
        assert ends.far.write_sync("late") is False
        ends.listens.wait(SECONDS)
        ends.dials.wait(SECONDS)


def test_an_end_releases_a_writer_on_the_other_side() -> None:
    with bridged() as ends:
        results: list[bool] = []

        def write_until_refused() -> None:
            while ends.far.write_sync(bytes(1000)):
                pass
            results.append(False)

        writer = threading.Thread(target=write_until_refused)
        writer.start()
        assert ends.near.read_sync(timeout=SECONDS) == bytes(1000)
        ends.near.close_sync()
        writer.join(SECONDS)
        assert results == [False]
        ends.listens.wait(SECONDS)
        ends.dials.wait(SECONDS)


def test_the_end_of_one_direction_leaves_the_other() -> None:
    with bridged() as ends:
        asyncio.run(ends.near.create_stream().send_eof())
        with pytest.raises(EndOfChannel):
            ends.far.read_sync(timeout=SECONDS)
        for number in range(10):
            assert ends.far.write_sync(number)
            assert ends.near.read_sync(timeout=SECONDS) == number
        ends.far.close_sync()
        with pytest.raises(EndOfChannel):
            ends.near.read_sync(timeout=SECONDS)
        ends.listens.wait(SECONDS)
        ends.dials.wait(SECONDS)


def write_and_wait(handle: str) -> None:
    with Channel.from_handle(handle).connect() as port:
        for number in range(100):
            port.write_sync(number)
        port.read_sync()


@pytest.mark.parametrize("flavour", ["fork", "spawn"])
def test_a_loss_arrives_after_all_messages(flavour: str) -> None:
    near, far = Channel(), Channel()
    peer = Peer(flavour, write_and_wait, near.handle)
    with (
        Bridge(near.connect(), "tcp://127.0.0.1:*", clients=CLEAR) as one,
        Bridge(far.connect(), one.address, server=CLEAR) as two,
        far.connect() as port,
    ):
        assert port.read_sync(timeout=SECONDS) == 0
        os.kill(peer.pid, signal.SIGKILL)
        peer.join(KILLED)
        with pytest.raises(PeerLost):
            for number in range(1, 101):
                assert port.read_sync(timeout=SECONDS) == number
        with pytest.raises(PeerLost):
            port.write_sync("late")
        two.wait(SECONDS)
        one.wait(SECONDS)


def test_a_full_window_holds_up_the_writer_and_nothing_is_lost() -> None:
    window = 1 << 18
    with bridged(window=window) as ends:
        message, count = bytes(1000), 0
        with pytest.raises(TimeoutError):
            while ends.near.write_sync(message, timeout=2):
                count += 1
        # Two rings, a window of packets, and a batch that was read when the window still had some room.
        assert 1 << 17 < count * 1000 < 2 * (1 << 16) + window + 2 * wire.PIECE
        for _ in range(count):
            assert ends.far.read_sync(timeout=SECONDS) == message
        with pytest.raises(WouldBlock):
            ends.far.read_nowait()


def test_leaving_the_with_waits_for_all_messages() -> None:
    near, far = Channel(), Channel()
    arrived = []
    with far.connect() as port:
        with Bridge(near.connect(), "tcp://127.0.0.1:*", clients=CLEAR) as one:
            with near.connect() as writer:
                written = fill(writer)
            two = Bridge(far.connect(), one.address, server=CLEAR)
        arrived = list(port)  # only now: until here all of them were in the far ring, or waited for room
        two.wait(SECONDS)
    assert arrived == [0] * written


# -- messages that cannot leave their machine


class Once:
    """Transferable, without memory."""

    def __init__(self, value: Any) -> None:
        self.value, self.detached = value, False

    def detach(self) -> Any:
        self.detached = True
        return self.value

    @classmethod
    def attach(cls, value: Any) -> Once:
        return cls(value)


def moving(port: Port) -> None:
    buffer = SharedBuffer(1000)
    port.write_sync({"it": buffer}, transfer=[buffer])


def moving_what_is_shared(port: Port) -> None:
    once, shared = Once([1, 2]), [1]
    port.write_sync([shared, shared, once], transfer=[once])


def writing_a_channel(port: Port) -> None:
    port.write_sync(("reply to", Channel()))


@pytest.mark.parametrize("size", [100, 1 << 20])
def test_a_buffer_of_a_port_crosses_with_its_content(size: int) -> None:
    near, far = Channel(), Channel()
    with (
        near.connect() as writer,
        far.connect() as reader,
        Bridge(near.connect(), "tcp://127.0.0.1:*", clients=CLEAR) as one,
    ):
        two = Bridge(far.connect(), one.address, server=CLEAR)
        buffer = writer.buffer(size)
        buffer.view[:] = b"x" * size
        assert writer.write_sync([buffer], transfer=[buffer])
        [theirs] = reader.read_sync(timeout=SECONDS)
        assert theirs.view == b"x" * size
        writer.close_sync()
        reader.close_sync()
        two.wait(SECONDS)


@pytest.mark.parametrize("write", [moving, moving_what_is_shared, writing_a_channel])
def test_a_message_that_cannot_leave_its_machine_ends_the_bridge_after_those_before_it(write: Any) -> None:
    near, far = Channel(interfaces=[Once]), Channel()
    with near.connect() as writer, far.connect() as reader:
        one = Bridge(near.connect(), "tcp://127.0.0.1:*", clients=CLEAR)
        two = Bridge(far.connect(), one.address, server=CLEAR)
        writer.write_sync("before")
        write(writer)
        assert reader.read_sync(timeout=SECONDS) == "before"
        with pytest.raises(PeerLost):
            reader.read_sync(timeout=SECONDS)
        with pytest.raises(CloneError, match="bridged channel"):
            one.wait(SECONDS)
        with pytest.raises(PeerLost, match="bridged channel"):
            two.wait(SECONDS)
        with pytest.raises(PeerLost):
            writer.read_sync(timeout=SECONDS)


@pytest.mark.parametrize(
    "value",
    [
        (b"\x93\xd4\x79\0", "\x93y"),
        [121, "shmchannel.Channel", {(1, b"\x93\xd4\x79\0")}],
        ([121, "x", 0], {"shmchannel.Channel": (120, "shmchannel.Channel", 1)}),
    ],
)
@pytest.mark.parametrize("shared", [False, True])
def test_bytes_that_look_like_such_a_message_are_carried(value: Any, shared: bool) -> None:
    from shmchannel.codec.codec import Codec

    payload = Codec().encode([value, value] if shared else (value,))
    check_portable(payload)


# -- peers that may connect


def test_a_key_that_is_not_listed_is_refused() -> None:
    near, far = Channel(), Channel()
    stranger = zmq.curve_keypair()
    one = Bridge(near.connect(), "tcp://127.0.0.1:*", keys=LISTENER, clients=[DIALER[0]])
    two = Bridge(far.connect(), one.address, keys=stranger, server=LISTENER[0])
    with pytest.raises(ChannelError, match="does not admit our key"):
        two.wait(SECONDS)
    with near.connect() as writer, pytest.raises(WouldBlock):
        writer.read_nowait()
    one.close()


def test_after_a_stranger_a_listed_client_is_served() -> None:
    near, far = Channel(), Channel()
    strange = Channel()
    with Bridge(near.connect(), "tcp://127.0.0.1:*", keys=LISTENER, clients=[DIALER[0]]) as one:
        stranger = Bridge(strange.connect(), one.address, keys=zmq.curve_keypair(), server=LISTENER[0])
        with pytest.raises(ChannelError, match="does not admit our key"):
            stranger.wait(SECONDS)
        with (
            Bridge(far.connect(), one.address, keys=DIALER, server=LISTENER[0]),
            near.connect() as writer,
            far.connect() as reader,
        ):
            writer.write_sync("for the listed")
            assert reader.read_sync(timeout=SECONDS) == "for the listed"


@pytest.mark.parametrize(
    "options",
    [
        {"keys": DIALER, "server": zmq.curve_keypair()[0]},  # another's
        pytest.param({"server": CLEAR}, marks=pytest.mark.slow),  # without encryption
    ],
)
def test_the_wrong_server_is_not_talked_to(options: dict[str, Any]) -> None:
    near, far = Channel(), Channel()
    one = Bridge(near.connect(), "tcp://127.0.0.1:*", keys=LISTENER, clients=[DIALER[0]])
    two = Bridge(far.connect(), one.address, **options)
    gives_up(two, "not as a bridge with that server key")
    one.close()


def test_nothing_is_in_the_clear_unless_the_caller_says_so() -> None:
    port = Channel().connect()
    address = "tcp://127.0.0.1:*"
    for options in (
        {},
        {"clients": [DIALER[0]]},
        {"server": LISTENER[0]},
        {"clients": CLEAR, "server": CLEAR},
    ):
        with pytest.raises(TypeError):
            Bridge(port, address, **options)  # type: ignore[arg-type]
    for options in ({"clients": CLEAR}, {"server": CLEAR}):
        with pytest.raises(TypeError, match="an address is a str"):
            Bridge(port, None, **options)  # type: ignore[arg-type]
        with pytest.raises(UnicodeEncodeError):  # zmq finds it, and the bridge frees all that it has made
            Bridge(port, "tcp://127.0.0.1:\udc80", **options)  # type: ignore[arg-type]
    for options in ({"keys": DIALER, "clients": CLEAR}, {"keys": DIALER, "server": CLEAR}):
        with pytest.raises(ValueError, match="CLEAR"):
            Bridge(port, address, **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no pair"):
        Bridge(port, address, keys=(DIALER[0], LISTENER[1]), clients=[])
    with pytest.raises(ValueError, match="40 characters"):
        Bridge(port, address, keys=DIALER, server="short")
    with pytest.raises(TypeError, match="a list of public keys"):
        Bridge(port, address, keys=DIALER, clients=DIALER[0])
    with port, pytest.raises(ChannelError, match="cannot listen"):
        Bridge(port, "tcp://192.0.2.1:7000", keys=LISTENER, clients=[])  # no address of ours


# -- the link


def test_a_link_that_is_reset_again_and_again_loses_and_doubles_nothing() -> None:
    numbers = range(30_000)
    with cutting() as (by, made), bridged(by=by, window=1 << 18) as ends:
        writers = [writing(port, numbers) for port in (ends.near, ends.far)]
        reader = threading.Thread(target=check_range, args=(ends.far, numbers))
        reader.start()
        for start in range(0, len(numbers), 3000):
            check_range(ends.near, numbers[start : start + 3000])
            made[0].cut()
        for thread in (reader, *writers):
            thread.join(SECONDS)
            assert not thread.is_alive()
        assert made[0].connections > 1


@pytest.mark.parametrize("lend_limit", BOTH_WAYS)
def test_a_large_message_survives_a_cut_in_the_middle_of_it(lend_limit: int | None) -> None:
    message = os.urandom(30_000_000)
    with cutting() as (by, made), bridged(by=by, lend_limit=lend_limit) as ends:
        ends.near.write_sync(0)
        assert ends.far.read_sync(timeout=SECONDS) == 0
        writer = threading.Thread(target=ends.near.write_sync, args=(message,))
        writer.start()
        until(lambda: ends.listens._relay._out.next > 100)
        made[0].cut()
        assert ends.far.read_sync(timeout=SECONDS) == message
        writer.join(SECONDS)
        assert made[0].connections > 1


def test_a_bridge_out_of_reach_for_too_long_is_lost() -> None:
    with cutting() as (by, made), bridged(by=by, timeout=1) as ends:
        ends.near.write_sync("before")
        assert ends.far.read_sync(timeout=SECONDS) == "before"
        made[0].admits = False
        made[0].cut()
        for port, bridge in ((ends.near, ends.listens), (ends.far, ends.dials)):
            with pytest.raises(PeerLost):
                port.read_sync(timeout=SECONDS)
            with pytest.raises(PeerLost, match="for 1 s"):
                bridge.wait(SECONDS)
            with pytest.raises(PeerLost):
                port.write_sync("late")


def test_messages_that_have_arrived_are_read_before_the_loss() -> None:
    with bridged(far_capacity=1 << 20) as ends:
        for number in range(2000):
            ends.near.write_sync(number)
        assert ends.far.read_sync(timeout=SECONDS) == 0
        until(lambda: ends.listens._relay._out.next > 0 and ends.listens._relay._out.empty)
        ends.listens.close()
        for number in range(1, 2000):
            assert ends.far.read_sync(timeout=SECONDS) == number
        with pytest.raises(PeerLost):
            ends.far.read_sync(timeout=SECONDS)


@pytest.mark.parametrize("closer", ["listens", "dials"])
def test_a_bridge_that_is_closed_is_a_loss_on_both_sides(closer: str) -> None:
    with bridged() as ends:
        ends.near.write_sync("before")
        assert ends.far.read_sync(timeout=SECONDS) == "before"
        getattr(ends, closer).close()
        for port in (ends.near, ends.far):
            with pytest.raises(PeerLost):
                port.read_sync(timeout=SECONDS)
        other = ends.dials if closer == "listens" else ends.listens
        with pytest.raises(PeerLost, match="it was closed"):
            other.wait(SECONDS)


@pytest.mark.parametrize("who", ["listens", "dials"])
def test_a_restarted_bridge_is_no_reconnection(who: str) -> None:
    """The other side's port is lost, and the new bridge gets nothing that was meant for the old one."""
    program = Path(__file__).parent / "support" / "bridges.py"
    channel, again = Channel(), Channel()
    free = socket.create_server(("127.0.0.1", 0))
    address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    free.close()
    role = "answer" if who == "listens" else "ask"
    mine: dict[str, Any] = {"server": CLEAR} if who == "listens" else {"clients": CLEAR}
    with subprocess.Popen(
        [sys.executable, program, role, address, "1000000"], stdout=subprocess.DEVNULL
    ) as old:
        bridge = Bridge(channel.connect(), address, **mine)
        with channel.connect() as port:
            port.write_sync(
                (0, bytes(1000))
            )  # what either program waits for, so that it does not end by itself
            assert port.read_sync(timeout=SECONDS)[0] == 0
            old.kill()
            old.wait(SECONDS)
            theirs: dict[str, Any] = {"clients": CLEAR} if who == "listens" else {"server": CLEAR}
            new = Bridge(again.connect(), address, timeout=None, **theirs)  # not lost by itself
            with pytest.raises(PeerLost):
                while True:
                    port.read_sync(timeout=SECONDS)
            with pytest.raises(PeerLost, match="restarted"):
                bridge.wait(SECONDS)
            with again.connect() as other, pytest.raises(WouldBlock):
                other.read_nowait()
            new.close()


def test_a_third_bridge_is_refused_and_the_two_go_on() -> None:
    with bridged() as ends:
        ends.near.write_sync(1)
        assert ends.far.read_sync(timeout=SECONDS) == 1
        channel = Channel()
        third = Bridge(channel.connect(), ends.listens.address, keys=DIALER, server=LISTENER[0])
        with channel.connect() as port:
            gives_up(third, "has its peer already")
            with pytest.raises(PeerLost):
                port.read_sync(timeout=SECONDS)
        ends.near.write_sync(2)
        assert ends.far.read_sync(timeout=SECONDS) == 2


def test_both_sides_need_the_same_largest_message() -> None:
    near, far = Channel(max_message_size=1000), Channel(max_message_size=2000)
    one = Bridge(near.connect(), "tcp://127.0.0.1:*", clients=CLEAR)
    two = Bridge(far.connect(), one.address, server=CLEAR)
    gives_up(two, "2000 bytes at one end and 1000 at the other")
    one.close()


# -- packets that no bridge sends


def hello(session: bytes = b"s" * 16, peer: bytes = wire.NOBODY, **changes: Any) -> bytes:
    usual = wire.Hello(session, peer, 1, 0, 1 << 20, 1 << 30, 0)
    return wire.pack(usual._replace(**changes))


@contextlib.contextmanager
def false_peer(context: Any, address: str) -> Iterator[Any]:
    with context.socket(zmq.DEALER) as dealer:
        dealer.set(zmq.LINGER, 1000)
        dealer.connect(address)
        yield dealer


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        b"\xff" * 100,
        b"\2",
        hello()[:-1],
        wire.pack(wire.Data(1, frame(b"\xc0"))),  # number 0 has not come
        wire.pack(wire.Data(0, b"\xff" * 8)),  # longer than it is
        wire.pack(wire.Data(0, frame(b"", 7))),
        wire.pack(wire.Data(0, frame(b"", wire.END) + frame(b"\xc0"))),
        wire.pack(wire.Data(0, frame(b"\xc0")[:12])),
        wire.pack(wire.Ack(7, 0)),  # never sent
        hello(next=7),
        hello(),  # a second one, which would have everything sent again
        hello(connection=2),
    ],
    ids=lambda packet: f"{packet[:1].hex()}-{len(packet)}-{packet[40:49].hex()}",
)
def test_a_packet_that_no_bridge_sends_ends_the_bridge(packet: bytes) -> None:
    channel = Channel()
    with zmq.Context() as context, channel.connect() as port:
        bridge = Bridge(channel.connect(), "tcp://127.0.0.1:*", clients=CLEAR)
        with false_peer(context, bridge.address) as dealer:
            dealer.send(hello())
            assert isinstance(wire.unpack(dealer.recv()), wire.Hello)
            dealer.send(packet)
            with pytest.raises(ChannelCorrupted, match="the other side"):
                bridge.wait(SECONDS)
        with pytest.raises(PeerLost):
            port.read_sync(timeout=SECONDS)


def test_a_first_hello_that_expects_packets_never_sent_ends_the_bridge() -> None:
    channel = Channel()
    with zmq.Context() as context, channel.connect() as port:
        bridge = Bridge(channel.connect(), "tcp://127.0.0.1:*", clients=CLEAR)
        with false_peer(context, bridge.address) as dealer:
            dealer.send(hello(next=7))
            with pytest.raises(ChannelCorrupted, match="acknowledges 7 packets of 0"):
                bridge.wait(SECONDS)
        with pytest.raises(PeerLost):
            port.read_sync(timeout=SECONDS)


@pytest.mark.parametrize(
    ("frames", "what"),
    [
        ([(wire.WHOLE, 1001)], "larger than max_message_size"),
        ([(wire.PART, 600), (wire.PART, 401)], "larger than max_message_size"),
        ([(wire.LAST, 1001)], "larger than max_message_size"),
        ([(wire.PART, 600), (wire.END, 0)], "without its last part"),
        ([(wire.PART, 600), (wire.WHOLE, 100)], "without its last part"),
    ],
)
def test_a_message_that_is_too_large_or_cut_off_is_not_delivered(
    frames: list[tuple[int, int]], what: str
) -> None:
    channel = Channel(max_message_size=1000)
    with zmq.Context() as context, channel.connect() as port:
        bridge = Bridge(channel.connect(), "tcp://127.0.0.1:*", clients=CLEAR)
        with false_peer(context, bridge.address) as dealer:
            dealer.send(hello(max_message_size=1000))
            for number, (kind, size) in enumerate(frames):
                dealer.send(wire.pack(wire.Data(number, frame(bytes(size), kind))))
            with pytest.raises(ChannelCorrupted, match=what):
                bridge.wait(SECONDS)
        with pytest.raises(PeerLost):
            port.read_sync(timeout=SECONDS)


def test_a_late_hello_of_a_replaced_connection_is_ignored() -> None:
    channel = Channel()
    with zmq.Context() as context, channel.connect() as port:
        bridge = Bridge(channel.connect(), "tcp://127.0.0.1:*", clients=CLEAR)
        with (
            false_peer(context, bridge.address) as now,
            false_peer(context, bridge.address) as before,
        ):
            for dealer in (now, before):
                dealer.set(zmq.RCVTIMEO, SECONDS * 1000)
            now.send(hello(connection=2))
            answer = wire.unpack(now.recv())
            assert isinstance(answer, wire.Hello)
            before.send(hello(peer=answer.session, connection=1))
            before.send(
                hello(b"t" * 16)
            )  # a third session: when its answer comes, the late HELLO has been seen
            assert "peer already" in str(wire.unpack(before.recv()))
            port.write_sync("for the peer")
            while not isinstance(wire.unpack(now.recv()), wire.Data):
                pass
        bridge.close()


class FalseSocket:
    """It frees its descriptor at once when it is closed; ZeroMQ does so later, in another thread."""

    def __init__(self) -> None:
        self.closed = False
        self.descriptor, self.other_end = os.pipe()

    def get(self, _option: int) -> int:
        return self.descriptor

    def recv_multipart(self, _flags: int) -> list[bytes]:
        raise zmq.Again

    def close(self, _linger: int) -> None:
        if not self.closed:
            self.closed = True
            os.close(self.descriptor)
            os.close(self.other_end)


def test_a_socket_that_is_closed_twice_leaves_its_descriptors_number_to_others() -> None:
    async def close_twice() -> bytes:
        loop = asyncio.get_running_loop()
        socket: Any = FalseSocket()
        inlet = Inlet(socket, print)
        inlet.close()
        reading, writing = os.pipe()
        assert reading == socket.descriptor  # the number belongs to another file now
        arrived = loop.create_future()
        loop.add_reader(reading, lambda: arrived.done() or arrived.set_result(os.read(reading, 1)))
        try:
            inlet.close()
            os.write(writing, b"x")
            return await asyncio.wait_for(arrived, SECONDS)
        finally:
            loop.remove_reader(reading)
            os.close(reading)
            os.close(writing)

    assert asyncio.run(close_twice()) == b"x"


def test_a_packet_is_taken_even_if_a_failing_send_has_consumed_its_signal() -> None:
    async def take() -> bytes:
        arrived = asyncio.get_running_loop().create_future()
        owner: Any = SimpleNamespace(received=lambda _route, packet: arrived.set_result(packet))
        link = Listener(owner, "inproc://here", None, frozenset())
        await asyncio.sleep(0)  # its first check
        descriptor = link._inlet.socket.get(zmq.FD)
        try:
            with link._context.socket(zmq.DEALER) as dealer:
                dealer.connect(link.address)
                dealer.send(b"a packet")
                while select.select([descriptor], [], [], 0)[0]:
                    assert not link.answer(b"no such route", b"")
                return await asyncio.wait_for(arrived, SECONDS)
        finally:
            link.close()
            link.terminate()

    assert asyncio.run(take()) == b"a packet"


def test_a_peer_that_ignores_the_window_ends_the_bridge() -> None:
    channel = Channel(capacity=4096)
    with zmq.Context() as context, channel.connect() as port:
        bridge = Bridge(channel.connect(), "tcp://127.0.0.1:*", clients=CLEAR, window=100_000)
        with false_peer(context, bridge.address) as dealer:
            dealer.send(hello())
            assert isinstance(wire.unpack(dealer.recv()), wire.Hello)
            for number in range(100):
                dealer.send(wire.pack(wire.Data(number, frame(bytes(2000)))))
            until(lambda: bridge._relay.error is not None)
        bridge.close()
        with pytest.raises(ChannelCorrupted, match="more than the 100000 bytes"):
            bridge.wait(SECONDS)
        assert port.statistics().bytes_written == 0


# -- peers that read nothing, or say nothing


def test_a_connection_that_breaks_while_its_packets_wait_does_not_end_the_process() -> None:
    program = Path(__file__).parent / "support" / "bridges.py"
    command = [sys.executable, program, "outlive", "tcp://127.0.0.1:*", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS)
    assert (done.returncode, done.stdout) == (0, "true\n"), done.stderr


def test_a_flood_of_hellos_gets_few_answers_and_costs_the_peer_nothing() -> None:
    near, far = Channel(), Channel()
    with (
        zmq.Context() as context,
        Bridge(near.connect(), "tcp://127.0.0.1:*", clients=CLEAR) as one,
        Bridge(far.connect(), one.address, server=CLEAR),
        near.connect() as writer,
        far.connect() as reader,
    ):
        writer.write_sync(0)
        assert reader.read_sync(timeout=SECONDS) == 0
        with false_peer(context, one.address) as dealer:
            started, answers = time.monotonic(), 0
            for _ in range(5000):
                dealer.send(hello(b"t" * 16))
            last = hello(b"t" * 16, max_message_size=7)  # gets another answer, if it gets one
            while True:
                dealer.send(last)
                if dealer.poll(100):
                    answers += 1
                    if "7 bytes at one end" in str(wire.unpack(dealer.recv())):
                        break
            assert answers <= MOST_REFUSALS * ((time.monotonic() - started) / TICK + 2)
        writer.write_sync(1)
        assert reader.read_sync(timeout=SECONDS) == 1


def test_no_more_waits_for_a_peer_than_our_own_window_whatever_it_says() -> None:
    channel, window = Channel(capacity=1 << 16), 1 << 17
    with zmq.Context() as context, channel.connect() as port:
        bridge = Bridge(channel.connect(), "tcp://127.0.0.1:*", clients=CLEAR, window=window)
        with false_peer(context, bridge.address) as dealer:
            dealer.send(hello(window=1 << 60))
            assert isinstance(wire.unpack(dealer.recv()), wire.Hello)
            count = 0
            with pytest.raises(TimeoutError):
                while count < 10_000:
                    port.write_sync(bytes(1000), timeout=2)
                    count += 1
            assert count * 1000 < (1 << 16) + window + 2 * wire.PIECE
        bridge.close()


def test_a_peer_that_sends_and_never_reads_is_given_up() -> None:
    channel = Channel(capacity=1 << 20)
    with channel.connect() as port:
        bridge = Bridge(channel.connect(), "tcp://127.0.0.1:*", clients=CLEAR, timeout=0.5, window=1 << 24)
        peer = RawPeer(bridge.address)
        try:
            peer.send(hello(window=1 << 24))
            writer = threading.Thread(target=fill, args=(port,))
            writer.start()
            with pytest.raises(OSError):  # noqa: PT011  # a reset or a broken pipe
                for _ in range(SECONDS * 10):
                    peer.send(wire.pack(wire.Ack(0, 0)))
                    time.sleep(0.1)
            writer.join(SECONDS)
        finally:
            peer.socket.close()
        with pytest.raises(PeerLost, match=r"for 0\.5 s"):
            bridge.wait(SECONDS)


def test_a_listener_gives_up_a_peer_that_says_nothing() -> None:
    channel = Channel()
    with zmq.Context() as context, channel.connect() as port:
        bridge = Bridge(channel.connect(), "tcp://127.0.0.1:*", clients=CLEAR, timeout=0.5)
        with false_peer(context, bridge.address) as dealer:
            dealer.send(hello())
            with pytest.raises(PeerLost, match="nothing has come from it for 3 s"):
                bridge.wait(SECONDS)
        with pytest.raises(PeerLost):
            port.read_sync(timeout=SECONDS)


def test_a_dialer_makes_a_new_connection_when_it_hears_nothing() -> None:
    channel = Channel()
    with zmq.Context() as context, channel.connect(), context.socket(zmq.ROUTER) as router:
        router.set(zmq.LINGER, 0)
        router.set(zmq.RCVTIMEO, SECONDS * 1000)
        router.bind("tcp://127.0.0.1:*")
        bridge = Bridge(channel.connect(), router.get_string(zmq.LAST_ENDPOINT), server=CLEAR)
        route, packet = router.recv_multipart()
        first = wire.unpack(packet)
        assert isinstance(first, wire.Hello)
        router.send_multipart([route, hello(peer=first.session)])
        while True:
            route, packet = router.recv_multipart()
            again = wire.unpack(packet)
            if isinstance(again, wire.Hello):
                break
        assert (again.session, again.peer, again.connection) == (first.session, b"s" * 16, 2)
        bridge.close()


def test_a_relay_that_is_over_before_it_starts_leaves_no_coroutine_behind() -> None:
    async def run(port: Port) -> None:
        def make(owner: Any) -> Listener:
            return Listener(owner, "tcp://127.0.0.1:*", None, frozenset())

        relay = Relay(Messages(port), make, None, 1 << 20)
        relay.abort("it was closed")
        await relay.run()

    with warnings.catch_warnings(record=True) as warned, Channel().connect() as port:
        warnings.simplefilter("always")
        asyncio.run(run(port))
        gc.collect()
    assert not [str(one.message) for one in warned]


def test_strangers_that_send_anything_change_nothing() -> None:
    near, far = Channel(), Channel()
    with (
        zmq.Context() as context,
        Bridge(near.connect(), "tcp://127.0.0.1:*", clients=CLEAR) as one,
        Bridge(far.connect(), one.address, server=CLEAR),
        near.connect() as writer,
        far.connect() as reader,
    ):
        writer.write_sync(0)
        assert reader.read_sync(timeout=SECONDS) == 0
        host, port = one.address.removeprefix("tcp://").split(":")
        for garbage in (b"GET / HTTP/1.0\r\n\r\n", os.urandom(1000), b"\xff" + bytes(8) + b"\x7f"):
            with socket.create_connection((host, int(port)), timeout=SECONDS) as raw:
                raw.sendall(garbage)
        with false_peer(context, one.address) as dealer:
            dealer.send_multipart([b"a", b"b", b"c"])
            for packet in (b"", os.urandom(100), hello(), wire.pack(wire.Ack(99, 3)), hello(peer=b"x" * 16)):
                dealer.send(packet)
            dealer.send(wire.pack(wire.Data(1, frame(b"\xc0"))))
            dealer.send(wire.pack(wire.Refused("go away")))
            dealer.send(hello(b"t" * 16))
            while "peer already" not in str(wire.unpack(dealer.recv())):
                pass
        writer.write_sync(1)
        assert reader.read_sync(timeout=SECONDS) == 1


@settings(max_examples=300, derandomize=True, database=None)
@given(st.binary(max_size=200), st.sampled_from([b"", b"\1", b"\2" + bytes(15), b"\3", b"\4", hello()]))
def test_bytes_are_a_packet_or_corrupted(data: bytes, start: bytes) -> None:
    try:
        packet = wire.unpack(start + data)
        if isinstance(packet, wire.Data):
            for one in wire.split(packet.frames):
                assert len(one.payload(packet.frames)) == one.length
    except ChannelCorrupted:
        pass


@settings(max_examples=200, derandomize=True, database=None)
@given(st.data())
def test_each_packet_is_taken_once_even_if_sent_again(data: st.DataObject) -> None:
    out, into = Outbox(), Inbox(1000)
    out.window = 1000
    taken, way = [], []
    for _ in range(data.draw(st.integers(1, 40))):
        step = data.draw(st.sampled_from(["send", "arrive", "deliver", "acknowledge", "reconnect"]))
        if step == "send" and out.has_room:
            way.append(out.add(bytes(data.draw(st.integers(1, 300))) + out.next.to_bytes(2, "big")))
        elif step == "arrive" and way:
            packet = wire.unpack(way.pop(0))
            assert isinstance(packet, wire.Data)
            into.add(packet)
        elif step == "deliver" and into:
            taken.append(int.from_bytes(into.first()[-2:], "big"))
            into.done()
        elif step == "acknowledge":
            out.acknowledge(into.delivered)
        elif step == "reconnect":
            out.acknowledge(into.delivered)
            way = list(out.unacknowledged())
    assert taken == [*range(len(taken))]


# -- two machines


def may_make_namespaces() -> bool:
    name = f"shmch-try-{os.getpid()}"
    try:
        made = subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False, timeout=SECONDS)
        if made.returncode == 0:
            subprocess.run(["ip", "netns", "del", name], check=True, timeout=SECONDS)
    except OSError:
        return False
    return made.returncode == 0


@pytest.fixture
def two_machines() -> Iterator[list[str]]:
    """Two network namespaces with a link between them, 10.77.0.1 and 10.77.0.2; their names."""
    if not may_make_namespaces():
        pytest.skip("network namespaces are not permitted here")
    names = [f"shmch-{os.getpid()}-{number}" for number in (1, 2)]
    with contextlib.ExitStack() as stack:
        for name in names:
            ip("netns", "add", name)
            stack.callback(ip, "netns", "del", name)
        ip("-n", names[0], "link", "add", "veth1", "type", "veth", "peer", "name", "veth2", "netns", names[1])
        for number, name in enumerate(names, 1):
            ip("-n", name, "addr", "add", f"10.77.0.{number}/24", "dev", f"veth{number}")
            for device in ("lo", f"veth{number}"):
                ip("-n", name, "link", "set", device, "up")
        yield names


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, timeout=SECONDS)


def in_machine(name: str, *arguments: object) -> subprocess.Popen[str]:
    command = ["ip", "netns", "exec", name, sys.executable, bridges.__file__, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def connections(name: str) -> int:
    """How many TCP connections are established there."""
    command = ["ip", "netns", "exec", name, "cat", "/proc/net/tcp"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True, timeout=SECONDS).stdout
    return sum(line.split()[3] == "01" for line in lines.splitlines()[1:])


@pytest.mark.slow
def test_a_cable_that_is_pulled_and_put_back_loses_and_doubles_nothing(two_machines: list[str]) -> None:
    count = 40_000
    with (
        in_machine(two_machines[0], "answer", "tcp://10.77.0.1:7000", count) as answers,
        in_machine(two_machines[1], "ask", "tcp://10.77.0.1:7000", count) as asks,
    ):
        try:
            assert answers.stdout
            assert asks.stdout
            assert json.loads(answers.stdout.readline()) == "tcp://10.77.0.1:7000"
            for seen in (0, 1000):
                while json.loads(asks.stdout.readline()) < seen:
                    pass
                ip("-n", two_machines[0], "link", "set", "veth1", "down")
                while any(map(connections, two_machines)):  # until both have given the connection up
                    time.sleep(0.05)
                ip("-n", two_machines[0], "link", "set", "veth1", "up")
            assert asks.stdout.read().split()[-1] == str(count - 1000)
            assert asks.wait(SECONDS) == 0
            assert json.loads(answers.stdout.read()) == count - 1
            assert answers.wait(SECONDS) == 0
        finally:
            asks.kill()
            answers.kill()


def test_a_bridge_that_is_closed_before_its_tasks_start_leaves_no_coroutine_unawaited() -> None:
    abandoned = []
    messages: Any = SimpleNamespace(abandon=lambda: abandoned.append(True))
    link: Any = SimpleNamespace(address="nowhere", close=lambda: None, terminate=lambda: None)

    async def main() -> None:
        relay = Relay(messages, lambda _owner: link, None, 1 << 20)
        relay.abort("closed at once")
        await relay.run()

    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        asyncio.run(main())
        gc.collect()
    assert not seen
    assert abandoned == [True]
