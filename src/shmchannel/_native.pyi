"""What _native.c has: quick paths for engine.py to put over the codec's and the ring's classes."""

from array import array
from collections.abc import Callable, Iterable
from mmap import mmap
from typing import Any

from .codec.interfaces import Interface, Serialized
from .messages import Batch
from .ring.producer import Note

class Codec:
    def _prepare(self, by_class: dict[type[Any], Interface], /) -> None: ...
    def encode(self, value: object, /) -> bytes: ...
    def encode_moving(self, value: object, moves: dict[int, Serialized], /) -> bytes: ...
    def decode(self, payload: bytes, /) -> Any: ...

class Producer:
    messages: int
    max_message_size: int
    def _prepare(
        self,
        memory: mmap,
        control: int,
        data: int,
        capacity: int,
        codec: Codec,
        wake: Callable[[], object],
        bell: Callable[[], object],
        next_look: array[float],
        /,
    ) -> None: ...
    def put(self, value: object, /) -> bytes | None: ...
    def try_write(
        self, payload: bytes | memoryview, kind: int = ..., note: Note | None = ..., /
    ) -> bool | None: ...
    def abort(self) -> None: ...
    def batches(self, values: Iterable[object], /) -> list[Batch]: ...
    def try_write_frames(self, frames: bytes, start: int, /) -> tuple[int, int]: ...
    def _shut(self, timeout: float, /) -> None: ...

class Consumer:
    messages: int
    max_message_size: int
    def _prepare(
        self,
        memory: mmap,
        control: int,
        data: int,
        capacity: int,
        codec: Codec,
        wake: Callable[[], object],
        bell: Callable[[], object],
        spins: Callable[[], int],
        budget: array[int],
        beside: int,
        semaphore: int,
        timed_wait: int,
        fixed: int,
        peers_file: int,
        peers_byte: int,
        /,
    ) -> None: ...
    def take(self) -> Any: ...
    def take_soon(self) -> Any: ...
    def take_many(self, values: list[Any], most: int, /) -> None: ...
    def try_read(self) -> bytes | None: ...
    def ready(self) -> bool: ...
    def spin(self) -> bool: ...
    def sleep(self, timeout: float, a_slice: float, /) -> bool: ...
