"""A web server in asyncio that gives CPU work to a worker process over a channel.

    python examples/web_server.py [--port N]         # and in another shell:
    curl 'http://127.0.0.1:8000/digest/some-text?rounds=100000'
    curl http://127.0.0.1:8000/status

Requests are numbered, so their answers may come in any order. When a client goes away, the server cancels
its work. When the worker is killed, the server answers the requests under way with 503, and starts another
worker with a channel of its own. After Ctrl-C or SIGTERM the server first answers the requests under way.
Prints its address and each worker's pid. Needs starlette and uvicorn.
"""

import argparse
import asyncio
import hashlib
import itertools
import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from shmchannel import Channel, ChannelNotFound, PeerLost, PortClosed, WouldBlock

MOST_ROUNDS = 10_000_000


def work(handle: str) -> None:
    """Answer each job when it is done. A job without a text cancels the job with that number."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # this process ends with the server
    jobs: dict[int, Future[None]] = {}

    def answer(number: int, text: str, rounds: int) -> None:
        digest = hashlib.pbkdf2_hmac("sha256", text.encode(), b"salt", rounds)  # releases the GIL
        port.write_sync((number, digest.hex()))

    with (
        suppress(ChannelNotFound, PeerLost),  # the server ended before this worker connected, or was killed
        Channel.from_handle(handle).connect() as port,
        ThreadPoolExecutor() as pool,
    ):
        try:
            for number, text, rounds in port:
                if text is not None:
                    jobs[number] = pool.submit(answer, number, text, rounds)
                    jobs[number].add_done_callback(lambda _, number=number: jobs.pop(number))
                elif job := jobs.get(number):
                    job.cancel()
        finally:
            pool.shutdown(cancel_futures=True)


def say(line: str) -> None:
    """Print a line, if anybody reads the output. The server goes on in any case."""
    with suppress(OSError):
        os.write(1, f"{line}\n".encode())


class WorkerLost(Exception):
    """The worker has ended without an answer to this request."""


class Worker:
    """A worker process, a port to it, and the requests that wait for answers. ``with`` ends the process."""

    def __enter__(self) -> "Worker":
        channel = Channel()
        self.process = multiprocessing.get_context("spawn").Process(target=work, args=(channel.handle,))
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # the worker inherits that Ctrl-C is ignored
        try:
            self.process.start()
            self.port = channel.connect()
        finally:
            signal.signal(signal.SIGINT, before)
        self.numbers, self.answered = itertools.count(), 0
        self.waiting: dict[int, asyncio.Future[str]] = {}
        return self

    def __exit__(self, *_reason: object) -> None:
        self.port.close_sync()  # ends the worker's loop
        self.process.join()

    async def digest(self, text: str, rounds: int) -> str:
        """Raises ``WorkerLost``."""
        number = next(self.numbers)
        future = self.waiting[number] = asyncio.get_running_loop().create_future()
        try:
            if not await self.port.write((number, text, rounds)):
                raise WorkerLost
            return await future
        except (PeerLost, PortClosed):
            raise WorkerLost from None
        except asyncio.CancelledError:
            with suppress(WouldBlock, PeerLost, PortClosed):  # then nobody gets its answer
                self.port.write_nowait((number, None, 0))
            raise
        finally:
            del self.waiting[number]

    async def read(self) -> None:
        with suppress(PeerLost):
            async for number, digest in self.port:
                self.answered += 1
                future = self.waiting.get(number)
                if future and not future.done():  # otherwise its client has gone away
                    future.set_result(digest)

    async def run(self) -> None:
        """Hand out answers until the process has ended; then fail the requests that still wait."""
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self.process.sentinel, ended.set)
        reading = asyncio.create_task(self.read())
        try:
            await ended.wait()
            await asyncio.wait([reading], timeout=1)  # PeerLost comes within 200 ms, if at all
        finally:
            loop.remove_reader(self.process.sentinel)
            reading.cancel()
        for future in self.waiting.values():
            if not future.done():
                future.set_exception(WorkerLost())


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    async def keep_a_worker() -> None:
        while True:
            with Worker() as worker:
                app.state.worker = worker
                say(f"worker {worker.process.pid}")
                await worker.run()
            await asyncio.sleep(0 if worker.answered else 1)  # perhaps no worker can start

    keeping = asyncio.create_task(keep_a_worker())
    await asyncio.sleep(0)  # starts the first worker
    yield
    keeping.cancel()
    await asyncio.wait([keeping])


async def digest(request: Request) -> Response:
    text, rounds = request.path_params["text"], request.query_params.get("rounds", "100000")
    if not (rounds.isdecimal() and 0 < int(rounds) <= MOST_ROUNDS):
        return JSONResponse({"error": f"rounds is a number from 1 to {MOST_ROUNDS}"}, 400)
    await request.body()
    answer = asyncio.create_task(request.app.state.worker.digest(text, int(rounds)))
    gone = asyncio.create_task(request.receive())  # after the body only the client's leaving comes
    try:
        await asyncio.wait([answer, gone], return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            return Response(status_code=499)  # nobody reads it
        return JSONResponse({"text": text, "digest": answer.result()})
    except WorkerLost:
        return JSONResponse({"error": "the worker has ended"}, 503, {"Retry-After": "1"})
    finally:
        answer.cancel()
        gone.cancel()


async def status(request: Request) -> Response:
    worker: Worker = request.app.state.worker
    counts = {"waiting": len(worker.waiting), "answered": worker.answered}
    return JSONResponse({"worker": worker.process.pid, **counts})


def port_number(text: str) -> int:
    if not 0 <= int(text) <= 65535:
        raise ValueError
    return int(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--port", type=port_number, default=8000, help="0 takes any free port (default: 8000)"
    )
    options = parser.parse_args()
    routes = [Route("/digest/{text}", digest), Route("/status", status)]
    app = Starlette(routes=routes, lifespan=lifespan)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    try:
        with socket.create_server(("127.0.0.1", options.port), backlog=1024) as listener:
            say("serving at http://{}:{}".format(*listener.getsockname()))
            server.run(sockets=[listener])
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:  # the port is in use, say
        sys.exit(f"{os.path.basename(sys.argv[0])}: port {options.port}: {os.strerror(error.errno)}")


if __name__ == "__main__":
    main()
