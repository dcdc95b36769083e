"""The blocks of SharedBuffers that a port has under way: it holds each one until its message is read."""

from __future__ import annotations

from .block import Block

MOST = 256  # blocks in a direction; each has a descriptor until it is read


class UnderWay:
    """The blocks that one port has sent, with their locks."""

    def __init__(self, limit: int) -> None:
        """At most ``limit`` bytes of blocks may be under way together; 0: any number."""
        self._limit = limit
        self.blocks: set[tuple[int, Block]] = set()
        """Each with the position of the ring's reader once it is read."""

    def leave_room(self, sizes: list[int], read: int) -> bool:
        """Whether blocks of these sizes may follow, if the reader is at position ``read``.

        They may if none is under way, whatever their sizes.
        """
        for entry in self.blocks.copy():  # another thread may add one meanwhile
            if entry[0] <= read:
                self.blocks.discard(entry)
                entry[1].let_go()  # here: a buffer that was moved away may be kept, and keeps the block
        before = [block.size for _, block in self.blocks.copy()]
        fits = sum(before) + sum(sizes) <= self._limit and len(before) + len(sizes) <= MOST
        return fits or not (before and self._limit)

    def let_go(self) -> None:
        """Let go of all blocks, each in one thread only."""
        while self.blocks:
            try:
                _, block = self.blocks.pop()
            except KeyError:
                return  # another thread has the last one
            block.let_go()
