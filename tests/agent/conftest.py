"""A store of the test's own, and sessions in it, waited for by what their supervisors say, never by the clock."""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import signal
import socket
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cmdop_jupyter.agent.frames import FrameDecoder, encode
from cmdop_jupyter.agent.log import Chunk
from cmdop_jupyter.agent.store import SessionStore, raise_answer

PATIENCE = 60  # seconds until a supervisor that says nothing fails the test


class Wire:
    """One connection to a supervisor. Closing it is what a client that dies looks like."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.decoder = FrameDecoder()
        self._numbers = itertools.count(1)
        self.answers: dict[object, dict[str, Any]] = {}
        sock.settimeout(PATIENCE)

    def send(self, op: str, body: bytes = b"", **facts: object) -> int:
        """Ask, and return the request's number."""
        number = next(self._numbers)
        self.sock.sendall(encode({"op": op, "id": number, **facts}, body))
        return number

    def answer(self, number: int) -> dict[str, Any]:
        """Wait for the answer to a request; raise it if it is an error."""
        while number not in self.answers:
            data = self.sock.recv(65536)
            if not data:
                raise ConnectionError("the supervisor went away")
            for header, _ in self.decoder.feed(data):
                self.answers[header.pop("id")] = header
        return raise_answer(self.answers.pop(number))

    def ask(self, op: str, body: bytes = b"", **facts: object) -> dict[str, Any]:
        return self.answer(self.send(op, body, **facts))

    def close(self) -> None:
        self.sock.close()


class Session:
    """A session that a test has started."""

    def __init__(self, store: SessionStore, session_id: str) -> None:
        self.store, self.id = store, session_id
        self._typed = 0

    def connect(self) -> Wire:
        return Wire(self.store.connect(self.id))

    def ask(self, op: str, body: bytes = b"", **facts: object) -> dict[str, Any]:
        """One request over a connection of its own."""
        with contextlib.closing(self.connect()) as wire:
            return wire.ask(op, body, **facts)

    def status(self) -> dict[str, Any]:
        return self.store.status(self.id)

    def until(self, true: Callable[[dict[str, Any]], bool], *, output: bool = False) -> dict[str, Any]:
        """Wait for a status of which `true` is, asked at each change (with `output`: of the log, too)."""
        status = self.status()
        with contextlib.suppress(OSError), contextlib.closing(self.connect()) as wire:
            while not true(status):
                past = {"past": status["end"]} if output else {}
                status = wire.ask("status", seen=status["seq"], **past)
        if not true(status):
            status = self.status()
        assert true(status), f"the session has ended before: {status}\n{self.text()!r}"
        return status

    def until_state(self, *states: str) -> dict[str, Any]:
        return self.until(lambda status: status["state"] in states)

    def until_ended(self) -> dict[str, Any]:
        return self.until_state("ended")

    def until_logged(self, text: bytes, channel: str = "stdout", times: int = 1) -> dict[str, Any]:
        """Wait until the log has `text`."""
        return self.until(lambda status: self.log(status["end"]).get(channel, b"").count(text) >= times, output=True)

    def chunks(self, end: int | None = None) -> list[Chunk]:
        """All of the log that is kept."""
        end = self.status()["end"] if end is None else end
        with contextlib.closing(self.store.reader(self.id)) as reader:
            offset, chunks = 0, []
            while piece := reader.read(offset, 1 << 20, end):
                chunks += piece
                offset = piece[-1].end
        return chunks

    def log(self, end: int | None = None) -> dict[str, bytes]:
        """The log, by channel."""
        found: dict[str, list[bytes]] = {}
        for chunk in self.chunks(end):
            found.setdefault(chunk.channel, []).append(chunk.data)
        return {channel: b"".join(parts) for channel, parts in found.items()}

    def text(self, channel: str = "stdout") -> bytes:
        return self.log().get(channel, b"")

    def type(self, data: bytes, *, eof: bool = False) -> int:
        """Type as one writer that types nothing twice."""
        accepted = self.ask("write", data, writer="test", offset=self._typed, eof=eof)["accepted"]
        self._typed += len(data)
        return int(accepted)

    def stop(self, grace: float = 5.0) -> dict[str, Any]:
        """Stop it, and return the report."""
        report = self.ask("stop", grace=grace)["report"]
        assert isinstance(report, dict)
        return report

    @contextlib.contextmanager
    def supervisor(self) -> Iterator[int]:
        """A handle of the supervisor; waits at the end until it is gone."""
        handle = os.pidfd_open(self.status()["supervisor"])
        try:
            yield handle
            assert select.select([handle], [], [], PATIENCE)[0]  # readable: it is gone
        finally:
            os.close(handle)

    def kill_supervisor(self) -> None:
        """As the out-of-memory killer would."""
        with self.supervisor() as handle:
            signal.pidfd_send_signal(handle, signal.SIGKILL)

    @property
    def folder(self) -> Path:
        return Path(self.store.folder, self.id)


Start = Callable[..., Session]


def unique() -> str:
    """An id that no session of another run on this machine has: processes are told by it."""
    return uuid.uuid4().hex


@pytest.fixture
def store(state_dir: Path) -> SessionStore:
    """The store of this test."""
    return SessionStore(str(state_dir))


@pytest.fixture
def start(store: SessionStore) -> Iterator[Start]:
    """Starts a session: `start(script, **what SessionStore.start takes)`."""
    numbers = itertools.count(1)

    def start_one(script: str | None = None, **asked: Any) -> Session:
        number = next(numbers)
        asked = {"id": unique(), "name": f"n{number}", "script": script, **asked}
        return Session(store, store.start(asked)["id"])

    return start_one
