"""What a port knows of its peer."""

from __future__ import annotations

from typing import Any

from shmchannel import Channel
from shmchannel.port.peer import Peer
from support.inside import slot_of


def test_a_peer_that_is_forgotten_during_a_look_is_not_lost() -> None:
    """Another thread closes the port meanwhile, and the descriptor's number may be another file's by then."""
    with Channel().connect() as port:

        class Slot:
            """The port's slot, which is closed while its peer is looked for."""

            def peer_is_lost(self) -> bool:
                peer.forget()
                return True

            def __getattr__(self, name: str) -> Any:
                return getattr(slot, name)

        slot, looked = slot_of(port), Slot()
        peer = Peer(looked, spin=False)  # type: ignore[arg-type]
        assert peer.look()
        assert not peer.lost


def test_a_peer_that_has_died_is_lost() -> None:
    with Channel().connect() as port:
        slot = slot_of(port)

        class Slot:
            def peer_is_lost(self) -> bool:
                return True

            def __getattr__(self, name: str) -> Any:
                return getattr(slot, name)

        peer = Peer(Slot(), spin=False)  # type: ignore[arg-type]
        assert not peer.look()
        assert peer.lost
