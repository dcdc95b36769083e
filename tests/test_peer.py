"""What a port knows of its peer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from shmchannel import Channel, SharedBuffer
from shmchannel.port.peer import Peer
from shmchannel.segment import Slot
from support.engines import RINGS, connected
from support.inside import peer_of, slot_of


class Looked:
    """A port's slot, in which a look for the peer finds something else."""

    def __init__(self, slot: Slot, peer_is_lost: Callable[[], bool]) -> None:
        self._slot, self.peer_is_lost = slot, peer_is_lost

    def __getattr__(self, name: str) -> Any:
        return getattr(self._slot, name)


def peer_with(slot: Slot, peer_is_lost: Callable[[], bool]) -> Peer:
    return Peer(Looked(slot, peer_is_lost), spin=False)  # type: ignore[arg-type]


def test_a_peer_that_is_forgotten_during_a_look_is_not_lost() -> None:
    """Another thread closes the port meanwhile, and the descriptor's number may be another file's by then."""

    def forget() -> bool:
        peer.forget()
        return True

    with Channel().connect() as port:
        peer = peer_with(slot_of(port), forget)
        assert peer.look()
        assert not peer.lost


def test_a_peer_that_has_died_is_lost() -> None:
    with Channel().connect() as port:
        peer = peer_with(slot_of(port), lambda: True)
        assert not peer.look()
        assert peer.lost


@pytest.mark.parametrize("look", [Peer.has_connected, Peer.rings_here, Peer.spins, Peer.heard])
def test_a_close_in_the_midst_of_a_look_raises_nothing(
    look: Callable[[Peer], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    channel = Channel()
    with channel.connect() as port, channel.connect():
        peer = Peer(slot_of(port), spin=True)
        slots = iter([slot_of(port)])  # then another thread has closed the port
        with monkeypatch.context() as patch:
            patch.setattr(Peer, "_slot", property(lambda _peer: next(slots, None)), raising=False)
            look(peer)


class Indexed:
    """The words of a segment, for users that slice none of them."""

    def __init__(self, words: memoryview) -> None:
        self.words = words

    def __getitem__(self, index: int) -> int:
        assert type(index) is int
        return self.words[index]

    def __setitem__(self, index: int, word: int) -> None:
        assert type(index) is int
        self.words[index] = word


@pytest.mark.parametrize("engine", RINGS)
def test_what_all_threads_look_at_is_never_sliced(engine: str) -> None:
    """Without a GIL, two slices at once may release the words for good: see ``part`` in mapping.py."""
    channel = Channel()
    segment = channel._segment
    segment.words = Indexed(segment.words)  # type: ignore[assignment]
    with connected(channel, engine) as one, connected(channel, engine) as two:
        buffer, large = SharedBuffer(5000), bytes(1 << 18)
        assert one.write_sync([buffer, large], transfer=[buffer])
        assert two.read_sync()[1] == large
        assert peer_of(one).look()
        assert two.peer is not None
    segment.words = segment.words.words  # type: ignore[attr-defined]


def test_an_error_of_a_look_is_not_taken_for_a_peer_that_lives() -> None:
    def released() -> bool:
        raise ValueError("operation forbidden on released memoryview object")

    with Channel().connect() as port:
        slot = slot_of(port)
        peer = peer_with(slot, released)
        with pytest.raises(ValueError, match="released"):
            peer.look()
        slot.hold.close()  # by another thread, which closes the port
        assert peer.look()
