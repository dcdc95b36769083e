"""The C core beside the reference: ports of both speak to each other, nothing leaks, nobody comes in between.

That its codec is the same is in test_engines_agree.py; that its ring is, in test_ring.py.
"""

from __future__ import annotations

import dataclasses
import gc
import inspect
import os
import pydoc
import random
import re
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgpack
import pytest

import shmchannel
from shmchannel import Channel, ChannelError, CloneError, EndOfChannel, Port, WouldBlock, engine, layout
from shmchannel.codec.interfaces import Interface
from shmchannel.ring import end as ring
from shmchannel.system.processes import has_gil
from shmchannel.waiting import sleeper as waiting
from support import engines, peers
from support.engines import needs_c
from support.flavours import FLAVOURS, Peer
from support.inside import consumer_of, producer_of, writer_of
from support.values import alike

pytestmark = needs_c

PAIRS = [("c", "python"), ("python", "c"), ("c", "compiled"), ("c", "c")]


@pytest.fixture(params=PAIRS, ids="-".join)
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[Port, Port]]:
    """Two ports of one channel with a small ring, each of its engine."""
    channel = Channel(capacity=4096)
    with (
        engines.connected(channel, request.param[0]) as one,
        engines.connected(channel, request.param[1]) as two,
    ):
        yield one, two


def something(chance: random.Random) -> Any:
    """A value whose message is whole or in parts, wraps or not, plain or tagged or a graph."""
    size = chance.choice([0, 1, 30, 500, 1500, 2100, 5000, 20_000])
    kind = chance.randrange(5)
    if kind == 0:
        return chance.randbytes(size)
    if kind == 1:
        return {"text": "é" * (size // 2), "n": (size, -size, float(size))}
    if kind == 2:
        shared = [size]
        return [shared, shared, bytearray(size)]
    return {size, chance.random(), None, str(size)} if kind == 3 else None


@pytest.mark.usefixtures("often_switching")
def test_ports_of_both_engines_understand_each_other(pair: tuple[Port, Port]) -> None:
    one, two = pair
    failures: list[BaseException] = []

    def write(port: Port, seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(300):
            assert port.write_sync(something(chance), timeout=50)

    def read(port: Port, seed: int) -> None:
        chance = random.Random(seed)
        try:
            for _ in range(300):
                assert alike(port.read_sync(timeout=50), something(chance))
        except BaseException as error:
            failures.append(error)

    threads = [
        threading.Thread(target=action, args=(port, seed))
        for action, port, seed in [(write, one, 1), (read, two, 1), (write, two, 2), (read, one, 2)]
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("theirs", ["1", ""], ids=["python", "c"])
def test_a_peer_of_the_other_engine_elsewhere(
    flavour: str, theirs: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHMCHANNEL_PUREPYTHON", theirs)  # for who begins to import from here on
    channel = Channel(capacity=4096)
    with engines.connected(channel, "python" if theirs == "" else "c") as port:
        peer = Peer(flavour, peers.echo, channel.handle)
        for value in (None, {"xs": (1, 2.5)}, b"x" * 3000, "y" * 30_000, {1, 2}, [[1]] * 2):
            assert port.write_sync(value, timeout=30)
            assert alike(port.read_sync(timeout=30), value)
        port.close_sync()
        peer.join()


def test_one_environment_variable_chooses_at_run_time() -> None:
    for value, wanted in (("1", False), ("", True)):
        said = subprocess.run(
            [sys.executable, "-c", "import shmchannel; print(shmchannel.native)"],
            env=os.environ | {"SHMCHANNEL_PUREPYTHON": value},
            capture_output=True,
            check=True,
            timeout=50,
        )
        assert said.stdout.decode().strip() == str(wanted)
    assert shmchannel.native is True


def test_the_constants_of_the_ring_are_the_references() -> None:
    text = (Path(engine.__file__).parent / "native" / "layout.h").read_text()
    found = {
        name: int(number)
        for line in re.findall(r"enum \{(.*?)\}", text)
        for name, number in re.findall(r"(\w+) = (\d+)", line)
    }
    assert len(found) == 20
    assert found == {name: getattr(layout, name) for name in found}


# -- calls: a QuickMethod, and the method in Python behind it

QUICK = ["write_nowait", "write_sync", "read_nowait", "read_sync", "__next__"]


@pytest.mark.parametrize("name", QUICK)
def test_a_quick_method_is_described_as_the_one_in_python(name: str) -> None:
    quick = getattr(Port, name)
    reference = quick.__wrapped__
    assert inspect.isfunction(reference)
    for method, function in ((quick, reference), (quick.__get__(1), reference.__get__(1))):
        assert inspect.signature(method) == inspect.signature(function)
        assert inspect.getdoc(method) == inspect.getdoc(function)
        assert inspect.isroutine(method)
        assert method.__qualname__ == f"Port.{name}"
    assert inspect.getsource(quick) == inspect.getsource(reference)
    assert f"{name}(" in pydoc.render_doc(Port, renderer=pydoc.plaintext)


CALLS: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
    *((name, (), {}) for name in QUICK[:2]),
    *((name, (1, 2), {}) for name in QUICK),
    *((name, (1,), {"other": 2}) for name in QUICK),
    *((name, (1,), {"timeout": 1}) for name in QUICK),
    *(
        (name, arguments, {"timeout": timeout})
        for name, arguments in (("write_sync", (1,)), ("read_sync", ()))
        for timeout in ("1", True, -1, -0.5, float("nan"), -(10**30), 1j, object)
    ),
    *(
        ("write_sync", (1,), {"timeout": timeout})
        for timeout in (0, 1, 1.5, -0.0, float("inf"), 10**30, None)
    ),
    *((name, (1,), {"value": 2}) for name in QUICK[:2]),
    *((name, (1,), {"transfer": transfer}) for name in QUICK[:2] for transfer in (2, [3], [])),
    ("write_sync", (), {"value": 1, "timeout": 1}),
    ("write_sync", (len,), {}),
    ("read_sync", (0,), {}),
    ("read_sync", (), {"timeout": 0.0}),
]


@pytest.mark.parametrize("call", CALLS, ids=str)
@pytest.mark.parametrize("state", ["open", "closed", "no port"])
def test_a_call_of_a_quick_method_does_what_the_one_in_python_does(call: Any, state: str) -> None:
    name, arguments, named = call
    answers = []
    for method in (getattr(Port, name), getattr(Port, name).__wrapped__):
        channel = Channel()
        with engines.connected(channel, "c") as one, engines.connected(channel, "c") as two:
            if state == "closed":
                one.close_sync()
            try:
                answer = method("no port" if state == "no port" else one, *arguments, **named)
            except Exception as error:
                answer = type(error), str(error)
            written = []
            with suppress(WouldBlock, EndOfChannel):
                while True:
                    written.append(two.read_nowait())
            answers.append((answer, written))
    assert answers[0] == answers[1]


def test_what_need_not_wait_runs_no_python_frame() -> None:
    channel = Channel()
    with engines.connected(channel, "c") as one, engines.connected(channel, "c") as two:
        frames: list[str] = []
        calls = [
            *(lambda: one.write_sync(1), lambda: one.write_sync(1, timeout=5), lambda: one.write_nowait(1)),
            *(two.read_sync, lambda: two.read_sync(5), lambda: two.read_sync(timeout=2.5)),
            *(two.read_nowait, lambda: next(two)),
        ]
        for _ in range(5):
            one.write_sync(1)  # there is enough to read
        for call in calls:
            call()  # once the types are known
        sys.setprofile(
            lambda frame, event, _: frames.append(frame.f_code.co_name) if event == "call" else None
        )
        try:
            for call in calls:
                call()
        finally:
            sys.setprofile(None)
        assert set(frames) <= {"<lambda>"}


@pytest.mark.parametrize("write", ["write_sync", "write_nowait"])
def test_a_write_that_waits_goes_on_with_what_was_encoded(write: str) -> None:
    encoded: list[int] = []
    known = [Interface(Nosy, serialize=lambda _: encoded.append(1), deserialize=lambda _: "nosy")]
    channel = Channel(capacity=4096, interfaces=known)
    with engines.connected(channel, "c") as one, engines.connected(channel, "c") as two:
        with suppress(WouldBlock):
            while True:
                one.write_nowait(None)
        if write == "write_nowait":
            with pytest.raises(WouldBlock):
                one.write_nowait(Nosy())
        else:
            writer = threading.Thread(target=one.write_sync, args=(Nosy(),), kwargs={"timeout": 30})
            writer.start()
            while two.read_sync(timeout=30) != "nosy":
                pass
            writer.join()
        assert encoded == [1]


# -- who comes in between


class Nosy:
    """Uses the port in the middle of its own encoding or decoding."""

    def __init__(self, use: Any = None) -> None:
        self.use = use


def nosy(use: Any) -> Interface:
    def serialize(instance: Nosy) -> Any:
        return instance.use() if instance.use else None

    return Interface(Nosy, serialize=serialize, deserialize=lambda _value: use())


def test_a_port_that_is_used_in_the_middle_of_encoding_and_decoding() -> None:
    got: list[Any] = []
    two: list[Port] = []
    channel = Channel(interfaces=[nosy(lambda: got.append(two[0].read_nowait()))])
    with engines.connected(channel, "c") as one, engines.connected(channel, "c") as other:
        two.append(other)
        # It is written before the message around it, which is encoded first and published then.
        assert one.write_sync([1, Nosy(lambda: one.write_sync("from within")), "x" * 5000])
        assert other.read_nowait() == "from within"
        # The message is taken out before it is decoded: what is read within is the next one.
        assert one.write_sync("next")
        assert other.read_nowait() == [1, None, "x" * 5000]
        assert got == ["next"]


@pytest.mark.parametrize("size", [10, 100_000], ids=["small", "in the ring"])
def test_a_message_that_does_not_decode_is_consumed(size: int) -> None:
    channel = Channel(capacity=1 << 20)
    with engines.connected(channel, "c") as one, engines.connected(channel, "c") as two:
        outgoing: Any = producer_of(one)
        for broken in (
            b"\xc6\0\0\0\1" * size,
            b"\xc4\1x\xc1" + b"x" * size,
            b"\xdb\xff\xff\xff\xff" + b"x" * size,
        ):
            outgoing.try_write(broken)
            one.write_sync("next")
            with pytest.raises(CloneError, match="does not decode"):
                two.read_nowait()
            assert two.read_nowait() == "next"
        with pytest.raises(WouldBlock):
            two.read_nowait()


@pytest.mark.usefixtures("often_switching")
def test_large_messages_that_do_not_decode_go_to_one_reader_each() -> None:
    # What is wrong is said in Python, in which threads take turns: each message is out of the ring by then.
    channel = Channel(capacity=1 << 20)
    with engines.connected(channel, "c") as one, engines.connected(channel, "c") as two:
        outgoing: Any = producer_of(one)
        refused: list[int] = []

        def read() -> None:
            while True:
                try:
                    two.read_sync(timeout=30)
                except CloneError:
                    refused.append(1)
                except EndOfChannel:
                    return

        readers = [threading.Thread(target=read) for _ in range(4)]
        for reader in readers:
            reader.start()
        for broken in (b"\x91" * 300 + b"x" * 5000, b"\x93\x01" + b"\xc1" * 5000):
            for _ in range(300):
                while outgoing.try_write(broken) is None:
                    os.sched_yield()
        one.close_sync()
        for reader in readers:
            reader.join()
        assert len(refused) == 600


class Reads:
    """Garbage that reads a message once it is found."""

    def __init__(self, port: Port, got: list[Any]) -> None:
        self.cycle, self.port, self.got = self, port, got

    def __del__(self) -> None:
        try:
            self.got.append(self.port.read_nowait())
        except WouldBlock:
            pass


def test_a_finalizer_that_reads_this_very_port_does_not_come_in_between() -> None:
    # Up to 3.11 the collector runs where containers are allocated: in the midst of decoding.
    channel = Channel()
    with engines.connected(channel, "c") as one, engines.connected(channel, "c") as two:
        got: list[Any] = []
        large = [[number] for number in range(2000)]
        gc.set_threshold(10)
        try:
            for number in range(100):
                one.write_sync([number, large])
                Reads(two, got)
                try:
                    got.append(two.read_nowait())
                except WouldBlock:  # a finalizer was first
                    pass
        finally:
            gc.set_threshold(700)
        gc.collect()
        assert sorted(number for number, _ in got) == list(range(100))
        assert all(value == large for _, value in got)


@pytest.mark.parametrize("act", ["write", "read"])
def test_others_run_while_a_large_message_is_copied(act: str) -> None:
    channel = Channel(capacity=1 << 28)
    with engines.connected(channel, "c") as one, engines.connected(channel, "c") as two:
        value = bytes(1 << 26)
        if act == "read":
            one.write_sync(value)
        gate, ran = threading.Lock(), threading.Event()
        gate.acquire()

        def wait() -> None:
            with gate:
                ran.set()

        waiting = threading.Thread(target=wait)
        waiting.start()
        before = sys.getswitchinterval()
        sys.setswitchinterval(50)  # only who lets go of the GIL lets others run
        try:
            gate.release()
            if act == "write":
                one.write_sync(value)
            else:
                assert len(two.read_nowait()) == len(value)
            assert ran.is_set()
        finally:
            sys.setswitchinterval(before)
            waiting.join()


def test_a_close_while_another_thread_copies() -> None:
    for _ in range(20):
        channel = Channel(capacity=1 << 26)
        one, two = engines.connected(channel, "c"), engines.connected(channel, "c")
        accepted: list[bool] = []

        def write(port: Port = one, accepted: list[bool] = accepted) -> None:
            try:
                while True:
                    accepted.append(port.write_sync(bytes(1 << 20)))
            except shmchannel.PortClosed:
                pass

        writing = threading.Thread(target=write)
        writing.start()
        count = 0
        while count < 10:
            assert two.read_sync(timeout=30) == bytes(1 << 20)
            count += 1
        one.close_sync()
        writing.join()
        with pytest.raises(EndOfChannel):
            while True:
                two.read_sync(timeout=30)
                count += 1
        assert count == accepted.count(True)
        two.close_sync()


@pytest.mark.skipif(
    not has_gil(),
    reason="no thread can wait for the midst of a copy without a GIL; test_races.py closes at any moment",
)
@pytest.mark.parametrize("act", ["read", "write"])
def test_a_frame_whose_end_is_shut_while_it_is_copied_does_not_count(act: str) -> None:
    channel = Channel(capacity=1 << 28)
    with engines.connected(channel, "c") as one, engines.connected(channel, "c") as two:
        outgoing, incoming = producer_of(one), consumer_of(two)
        value = bytes(1 << 26)
        if act == "read":
            assert outgoing.try_write(value)
        end, copy = (
            (outgoing, lambda: outgoing.try_write(value)) if act == "write" else (incoming, incoming.try_read)
        )
        fill = incoming.fill
        started, done, answers = threading.Event(), threading.Event(), []

        def work() -> None:
            started.set()
            answers.append(copy())
            done.set()

        thread = threading.Thread(target=work)
        before = sys.getswitchinterval()
        sys.setswitchinterval(50)  # so that this thread goes on when the other is copying
        try:
            thread.start()
            assert started.wait(30)
            end.shut(0.0)
            assert not done.is_set()
        finally:
            sys.setswitchinterval(before)
            thread.join()
        assert not answers[0]
        assert incoming.fill == fill


# -- messages that are decoded in the ring, which are those of more than 4 KiB


def test_text_in_the_ring_is_copied_before_it_is_decoded() -> None:
    """Text of ASCII is looked at in its own memory, so only other text shows the copy."""
    size = 1 << 19
    channel = Channel(capacity=1 << 22)
    with engines.connected(channel, "c") as one, engines.connected(channel, "c") as two:
        one.write_sync(["x" * size + "é"])
        tracemalloc.start()
        try:
            (text,) = two.read_nowait()
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert text == "x" * size + "é"
        assert peak >= 2 * size  # the copy and the text


@pytest.mark.usefixtures("often_switching")
@pytest.mark.parametrize("wrapped", [True, False], ids=["in the ring", "by itself"])
def test_two_threads_that_copy_large_bytes_out_share_no_message(wrapped: bool) -> None:
    count, size, got = 50, 1 << 20, []
    channel = Channel(capacity=1 << 26)
    with engines.connected(channel, "c") as one, engines.connected(channel, "c") as two:
        for number in range(count):
            large = bytes([number]) * size
            one.write_sync([number, large] if wrapped else large)
        one.close_sync()

        def read() -> None:
            for value in two:
                number, large = value if wrapped else (value[0], value)
                got.append(number)
                assert large == bytes([number]) * size

        threads = [threading.Thread(target=read) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(got) == [*range(count)]


@pytest.mark.parametrize("key", [("a", (1, 2.5)), 2.5, b"bytes", None, frozenset({1, "a"})])
def test_any_key_of_a_large_message(key: Any) -> None:
    channel = Channel(capacity=1 << 16)
    with engines.connected(channel, "c") as one, engines.connected(channel, "c") as two:
        one.write_sync({key: bytes(5000)})
        assert two.read_nowait() == {key: bytes(5000)}


def test_a_key_whose_hash_reads_on_from_the_same_port() -> None:
    class Key:
        def __hash__(self) -> int:
            if "two" in ports:
                read.append(ports["two"].read_nowait())
            return 1

    read: list[Any] = []
    ports: dict[str, Port] = {}
    known = [Interface(Key, serialize=lambda _: None, deserialize=lambda _: Key())]
    channel = Channel(capacity=1 << 16, interfaces=known)
    with engines.connected(channel, "c") as one, engines.connected(channel, "c") as two:
        for value in ({(1, Key()): bytes(5000)}, {Key()}, {frozenset({Key()}), bytes(5000).hex()}):
            one.write_many_sync([value, "next", *["more"] * 9])
            ports["two"] = two
            assert len(two.read_sync()) == len(value)
            del ports["two"]
            with suppress(WouldBlock):
                while True:
                    read.append(two.read_nowait())
            assert read == ["next", *["more"] * 9]
            read.clear()


def test_parts_of_a_message_that_is_too_large_are_kept_no_longer() -> None:
    most = 1 << 20
    channel = Channel(capacity=1 << 22, max_message_size=most)
    with engines.connected(channel, "c") as one, engines.connected(channel, "c") as two:
        outgoing: Any = producer_of(one)
        for last, fits in ((bytes(most // 2), True), (bytes(most // 2 + 1), False)):
            tracemalloc.start()
            try:
                assert outgoing.try_write(bytes(most // 2), layout.PART)
                assert outgoing.try_write(last, layout.PART)
                while two.statistics().incoming_fill:  # a try does not take all parts
                    with pytest.raises(WouldBlock):
                        two.read_nowait()
                held, _ = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
            assert (held >= most) == fits
            outgoing.abort()


def test_the_padding_of_batches_is_zeros() -> None:
    channel = Channel(capacity=4096)
    with engines.connected(channel, "c") as one, engines.connected(channel, "c"):
        # The second batch is made in the memory of the first.
        values = [*[b"\xff" * 500] * 20, bytes(3000), *(bytes(size) for size in range(40))]
        frames = writer_of(one).batches(values)[1].frames
        place = 0
        while place < len(frames):
            length = int.from_bytes(frames[place : place + layout.HEADER], sys.byteorder) >> 3
            after = place + layout.frame_size(length)
            assert not any(frames[place + layout.HEADER + length : after])
            place = after


# -- what is left


def resident() -> int:
    """Bytes of memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


LEAVES_NOTHING: list[Any] = [
    {"id": 12345, "name": "worker-7", "xs": [1, 2, 3], "ok": True, "score": 2.5},
    [(1, "a"), {2, "é"}, frozenset([3]), b"x" * 5000, 2**80, -(2**31), memoryview(b"view"), "y" * 5000],
    [[1]] * 2,
    {"nested": {"deep": [[[{}]]]}, (1, 2): None, 7: slice(1, 2)},
    ["\ud800"],
    [object()],
    [{1: object}],
]


def test_a_million_messages_leave_no_reference_behind() -> None:
    codec, broken = (
        engine.Codec(),
        [b"\x93\x01\xa1x\xc1", b"\x82\x01\x91\xa1", b"\xc9\0\0\0\5\0\x92\xd4\2\0\xd4"],
    )

    def turn(times: int) -> None:
        for value in LEAVES_NOTHING:
            for _ in range(times):
                try:
                    codec.decode(codec.encode(value))
                except CloneError:
                    pass
        for payload in broken:
            for _ in range(times):
                try:
                    codec.decode(payload)
                except CloneError:
                    pass

    turn(200)
    gc.collect()
    blocks, memory = sys.getallocatedblocks(), resident()
    turn(10_000)  # a hundred thousand of all kinds
    quick, value = codec.decode, codec.encode(LEAVES_NOTHING[0])
    for _ in range(1_000_000):
        quick(value)
    gc.collect()
    assert sys.getallocatedblocks() - blocks < 200
    assert resident() - memory < 4 << 20


def test_ports_that_come_and_go_leave_nothing() -> None:
    def turn(times: int) -> None:
        for _ in range(times):
            channel = Channel(capacity=1 << 16)
            with engines.connected(channel, "c") as one, engines.connected(channel, "c") as two:
                for value in LEAVES_NOTHING[:3]:
                    one.write_sync(value)
                    two.read_sync()
                one.write_sync("left unread")
                outgoing: Any = producer_of(one)
                outgoing.try_write(b"a part", 2)

    turn(20)
    gc.collect()
    blocks, memory = sys.getallocatedblocks(), resident()
    turn(300)
    gc.collect()
    assert sys.getallocatedblocks() - blocks < 300
    assert resident() - memory < 4 << 20


def test_instances_leave_no_reference_behind() -> None:
    class Thing:
        pass

    @dataclasses.dataclass
    class Record:
        x: Any
        y: Any = dataclasses.field(init=False)

    def turn() -> None:
        for value in (things, complete, [complete, complete], lacking, [Record(1), object()]):
            with suppress(ChannelError):
                payload = codec.encode(value)
                codec.decode(payload)
                codec.decode(payload.replace(b"\xa1y", b"\xa1z"))

    interfaces: Any = [
        Interface(Thing, serialize=lambda _: [1], deserialize=lambda _: Thing()),
        Interface(Record, name="record"),
    ]
    codec = engine.Codec(interfaces)
    things = [Thing() for _ in range(50)]
    lacking, complete = ([Record([number]) for number in range(50)] for _ in range(2))
    for record in complete:
        record.y = (2,)
    turn()
    gc.collect()
    blocks, references = sys.getallocatedblocks(), [sys.getrefcount(one) for one in interfaces]
    for _ in range(50):
        turn()
    gc.collect()
    assert [sys.getrefcount(one) for one in interfaces] == references
    assert sys.getallocatedblocks() - blocks < 100


def test_the_lock_of_an_end_goes_with_it() -> None:
    def turn(times: int) -> None:
        for _ in range(times):
            channel = Channel(capacity=4096)
            engines.connected(channel, "c").close_sync()

    turn(3)
    tracemalloc.start()
    try:
        turn(3)
        gc.collect()
        before, _ = tracemalloc.get_traced_memory()
        turn(100)
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 100 * 2 * 32  # a lock is a semaphore, of 32 bytes or more


def test_the_constants_in_c_are_those_in_python() -> None:
    sources = sorted((Path(__file__).parent.parent / "src/shmchannel/native").glob("*.h"))
    if not sources:
        pytest.skip("no sources in C here")
    in_c: dict[str, int] = {}
    for source in sources:
        for enum in re.findall(r"enum \{([^}]*)\}", source.read_text()):
            for name, value in re.findall(r"(\w+) = ([\d <]+)", enum):
                in_c[name] = eval(value)
    shared = {name for name in in_c if hasattr(layout, name)} | {
        "BATCH",
        "NO_SPIN",
        "SPIN_APART",
        "SPIN_BESIDE",
        "LONG_YIELD",
        "REST",
        "SLEEP_COSTS",
        "MOST_CREDIT",
        "MOST_LACK",
    }
    assert {"TAIL", "HEAD", "READER", "WRITER", "CONTROL_SIZE", "HEADER", "WHOLE", "ABORT", "BATCH"} <= shared
    for name in shared:
        known = next(one for one in (layout, ring, waiting) if hasattr(one, name))
        assert in_c[name] == getattr(known, name), name


@pytest.mark.parametrize("place", range(4))
def test_keys_that_differ_in_eight_bytes_alone_are_not_taken_for_each_other(place: int) -> None:
    """The decoder keeps the keys that came before, each in a place that other keys share."""
    parts = ["a" * 8, "a" * 8, "a" * 8, "a" * 7]  # 31 bytes: no longer key is kept
    keys = ["".join([*parts[:place], f"{number:07}", *parts[place + 1 :]]) for number in range(5000)]
    codec = engine.Codec()
    assert [codec.decode(msgpack.packb({key: 1})) for key in keys] == [{key: 1} for key in keys]


def test_keys_that_end_with_zeros_are_told_apart_wherever_the_message_ends() -> None:
    codec = engine.Codec()
    keys = [text + "\0" * zeros for zeros in range(32) for text in ("", "a", "eight by", "é")]
    values = [{key: after} for key in keys for after in (None, 1.5)]
    for value in [*values, *values]:
        assert codec.decode(msgpack.packb(value)) == value
        with pytest.raises(CloneError):
            codec.decode(msgpack.packb(value)[:-1])
    assert codec.decode(msgpack.packb(dict.fromkeys(keys))) == dict.fromkeys(keys)
