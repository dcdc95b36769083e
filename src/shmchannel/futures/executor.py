"""What the executors of processes and of interpreters share: submitting, mapping and ending."""

from __future__ import annotations

import itertools
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from time import monotonic
from typing import Any, TypeVar

from .functions import Names
from .pool import Pool

T = TypeVar("T")


class PoolExecutor(Executor):
    """An executor whose workers have a channel each."""

    def __init__(self, pool: Pool) -> None:
        self._names = Names()
        self._pool = pool
        # The collecting thread has the pool and not the executor. So a dropped executor ends.
        weakref.finalize(self, self._pool.shutdown, wait=False, cancel=False).atexit = False

    # Names of the standard's that libraries, and its own tests, look at.

    @property
    def _max_workers(self) -> int:
        return self._pool.size

    @property
    def _broken(self) -> str:
        return self._pool.reason

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Have a worker call ``fn(*args, **kwargs)``, and return the future of its result.

        What cannot be cloned fails that future with the ``CloneError`` that says where it is. Raises
        ``RuntimeError`` after ``shutdown``, and ``BrokenExecutor`` once the pool has given up.
        """
        return self._pool.submit([self._names.of(fn), args, kwargs])

    def map(
        self,
        fn: Callable[..., T],
        /,
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[T]:
        """Return an iterator over ``fn`` of the items of ``iterables``, in their order.

        ``timeout`` is in seconds from this call to the last result. ``chunksize`` calls travel together as
        one task. With a ``buffersize`` there are at most so many tasks ahead of the results that were asked
        for; without, all are submitted now.
        """
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        if not (buffersize is None or isinstance(buffersize, int)):
            raise TypeError("buffersize must be an integer or None")
        if buffersize is not None and buffersize < 1:
            raise ValueError("buffersize must be None or > 0")
        end = None if timeout is None else monotonic() + timeout
        items = zip(*iterables, strict=False)
        if chunksize == 1:
            return self._map(fn, items, end, buffersize)
        chunks = ((fn, chunk) for chunk in iter(lambda: list(itertools.islice(items, chunksize)), []))
        return _flat(self._map(call_each, chunks, end, buffersize))

    def _map(
        self, fn: Callable[..., Any], items: Iterator[Any], end: float | None, buffersize: int | None
    ) -> Iterator[Any]:
        futures = deque(self.submit(fn, *arguments) for arguments in itertools.islice(items, buffersize))
        rest = itertools.islice(items, 0 if buffersize is None else None)
        return _results(weakref.ref(self), fn, rest, futures, end)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more tasks, and end once all are done; with ``wait``, return then.

        With ``cancel_futures``, the tasks that no worker has yet are cancelled.
        """
        self._pool.shutdown(wait=wait, cancel=cancel_futures)


def checked_size(max_workers: int | None, default: int) -> int:
    if max_workers is None:
        return default
    if max_workers <= 0:
        raise ValueError("max_workers must be greater than 0")
    return max_workers


def _results(
    executor: weakref.ref[PoolExecutor],
    fn: Callable[..., Any],
    rest: Iterator[Any],
    futures: deque[Future[Any]],
    end: float | None,
) -> Iterator[Any]:
    """Yield the results of futures, and submit one of the rest before each. At the end cancel what is left.

    It has the executor weakly: a dropped one ends, as the standard's does.
    """
    try:
        while futures:
            alive = executor()
            if alive is not None:
                futures.extend(alive.submit(fn, *arguments) for arguments in itertools.islice(rest, 1))
            del alive
            yield _result(futures.popleft(), end)
    finally:
        for future in futures:
            future.cancel()


def _result(future: Future[Any], end: float | None) -> Any:
    try:
        return future.result(None if end is None else end - monotonic())
    finally:
        future.cancel()
        del future  # an exception has this frame, and the future the exception: a cycle


def _flat(chunks: Iterator[list[Any]]) -> Iterator[Any]:
    """Yield the items of lists, and keep none of them."""
    for chunk in chunks:
        chunk.reverse()
        while chunk:
            yield chunk.pop()


def call_each(function: Callable[..., Any], chunk: list[tuple[Any, ...]]) -> list[Any]:
    """What a worker calls for a chunk of a map."""
    return [function(*arguments) for arguments in chunk]
