"""The example of a web server: over HTTP, with clients that go away and a worker that is killed."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from support.examples import start, until_gone

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

SLOW = 3_000_000  # rounds, a second or more


class Server:
    def __init__(self, port: int, pid: int, lines: Any) -> None:
        self.port, self.pid, self.lines = port, pid, lines

    async def ask(self, path: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n".encode())
        return reader, writer

    async def get(self, path: str) -> tuple[int, dict[str, Any]]:
        reader, writer = await self.ask(path)
        head, body = (await reader.read()).split(b"\r\n\r\n", 1)
        writer.close()
        await writer.wait_closed()
        return int(head.split()[1]), json.loads(body)

    async def until(self, **wanted: Any) -> dict[str, Any]:
        """Its status, once that is so; the test's deadline ends the wait."""
        while True:
            _, status = await self.get("/status")
            if wanted.items() <= status.items():
                return status
            await asyncio.sleep(0.01)

    def worker(self) -> int:
        found = re.fullmatch(r"worker (\d+)\n", self.lines.readline())
        assert found
        return int(found[1])


@contextmanager
def serving(number: int = signal.SIGINT, status: int = 130) -> Iterator[Server]:
    """A server; at the end it and its worker get that signal (SIGKILL: it alone), and end quietly."""
    with start("examples/web_server.py", "--port", "0") as program:
        assert program.stdout
        try:
            found = re.fullmatch(r"serving at http://127.0.0.1:(\d+)\n", program.stdout.readline())
            assert found
            yield Server(int(found[1]), program.pid, program.stdout)
        finally:
            (os.kill if number == signal.SIGKILL else os.killpg)(program.pid, number)
            text, errors = program.communicate(timeout=40)
    assert (program.returncode, text, errors) == (status, "", "")
    until_gone(program.pid)


def digest_of(text: str, rounds: int) -> str:
    return hashlib.pbkdf2_hmac("sha256", text.encode(), b"salt", rounds).hex()


@pytest.mark.slow
def test_each_of_two_hundred_requests_at_once_has_its_own_answer() -> None:
    # From many rounds to few: with several threads answers overtake each other.
    asked = [(f"text {number}", 1 + (200 - number) * 50) for number in range(200)]

    async def ask(server: Server) -> None:
        paths = [f"/digest/{text.replace(' ', '%20')}?rounds={rounds}" for text, rounds in asked]
        answers = await asyncio.gather(*map(server.get, paths))
        wanted = [(200, {"text": text, "digest": digest_of(text, rounds)}) for text, rounds in asked]
        assert answers == wanted
        assert await server.get("/status") == (200, {"worker": worker, "waiting": 0, "answered": 200})
        for rounds in ("0", "-1", "x", "10000001"):
            assert (await server.get(f"/digest/x?rounds={rounds}"))[0] == 400

    with serving() as server:
        worker = server.worker()
        asyncio.run(ask(server))


def test_the_work_of_clients_that_go_away_is_called_off() -> None:
    async def ask(server: Server) -> None:
        clients = [await server.ask(f"/digest/{number}?rounds={SLOW // 10}") for number in range(100)]
        await server.until(waiting=100)
        for _, writer in clients:
            writer.close()
        await server.until(waiting=0)
        assert await server.get("/digest/last?rounds=7") == (
            200,
            {"text": "last", "digest": digest_of("last", 7)},
        )
        _, status = await server.get("/status")
        assert status["answered"] < 101  # the last one's turn came after all others'

    with serving() as server:
        server.worker()
        asyncio.run(ask(server))


@pytest.mark.parametrize("connected", [pytest.param(False, marks=pytest.mark.slow), True])
def test_requests_of_a_killed_worker_are_answered_503_and_another_takes_over(connected: bool) -> None:
    async def ask(server: Server) -> None:
        first = server.worker()
        if connected:
            assert (await server.get("/digest/x?rounds=1"))[0] == 200
            slow = [asyncio.create_task(server.get(f"/digest/{n}?rounds={SLOW}")) for n in range(20)]
            await server.until(waiting=20)
        os.kill(first, signal.SIGKILL)
        if connected:
            assert await asyncio.gather(*slow) == [(503, {"error": "the worker has ended"})] * 20
        second = server.worker()
        assert first != second == (await server.until(worker=second))["worker"]
        assert (await server.get("/digest/y?rounds=9"))[1]["digest"] == digest_of("y", 9)

    with serving() as server:
        asyncio.run(ask(server))


@pytest.mark.parametrize(
    ("number", "status"),
    [
        pytest.param(signal.SIGINT, 130, id="SIGINT"),
        pytest.param(signal.SIGTERM, -signal.SIGTERM, id="SIGTERM", marks=pytest.mark.slow),
    ],
)
def test_a_signal_lets_the_requests_under_way_be_answered_and_leaves_nothing(
    number: int, status: int
) -> None:
    async def ask(server: Server) -> tuple[int, dict[str, Any]]:
        assert (await server.get("/digest/x?rounds=1"))[0] == 200  # the worker is there
        under_way = asyncio.create_task(server.get(f"/digest/y?rounds={SLOW}"))
        await server.until(waiting=1)
        os.killpg(server.pid, number)
        return await under_way

    with serving(0, status) as server:  # 0: no other signal
        server.worker()
        answer = asyncio.run(ask(server))
        assert answer == (200, {"text": "y", "digest": digest_of("y", SLOW)})


def test_the_worker_of_a_server_that_is_killed_ends_by_itself() -> None:
    async def ask(server: Server) -> None:
        assert (await server.get("/digest/x?rounds=1"))[0] == 200

    with serving(signal.SIGKILL, -signal.SIGKILL) as server:
        server.worker()
        asyncio.run(ask(server))
