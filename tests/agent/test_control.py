"""The control socket with handlers of the test's own: what is answered, when, and to whom."""

from __future__ import annotations

import os
import resource
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cmdop_jupyter.agent import control
from cmdop_jupyter.agent.control import FLOOD, Control
from cmdop_jupyter.agent.errors import InvalidRequest
from cmdop_jupyter.agent.poll import Loop

from .conftest import Wire


class Served:
    """A control socket, and a session of which the test says how it is."""

    def __init__(self, folder: Path) -> None:
        self._place = str(folder / "ctl")
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(self._place)
        listener.listen()
        self.loop, self.seq, self.end, self.done = Loop(), 1, 0, 0
        handlers = {"refuse": self._refuse, "count": self._count}
        self.control = Control(self.loop, listener, handlers, self.status, lambda _: None)

    def status(self) -> dict[str, object]:
        return {"seq": self.seq, "end": self.end}

    def is_now(self, seq: int, end: int) -> None:
        self.seq, self.end = seq, end
        self.control.publish(seq, end)

    def connect(self) -> Wire:
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(self._place)
        return Wire(sock)

    def run(self, seconds: float = 0.0) -> None:
        """Serve for so long, or until there is nothing more to do at once."""
        self.loop._going = True
        self.loop.after("the test", seconds, self.loop.stop)
        self.loop.run()

    def told(self, wire: Wire, number: int) -> bool:
        """Whether a request has been answered."""
        wire.sock.setblocking(False)
        try:
            for header, _ in wire.decoder.feed(wire.sock.recv(65536)):
                wire.answers[header.pop("id")] = header
        except BlockingIOError:
            pass
        return number in wire.answers

    def ask(self, wire: Wire, op: str, **facts: object) -> dict[str, object]:
        number = wire.send(op, **facts)
        while not self.told(wire, number):
            self.run()
        return wire.answer(number)

    @staticmethod
    def _refuse(*_: object) -> object:
        raise PermissionError(1, "Operation not permitted")

    def _count(self, *_: object) -> object:
        self.done += 1
        return {"done": self.done}


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    some = Served(tmp_path)
    yield some
    some.control.close(0.0)


@pytest.fixture
def wire(served: Served) -> Iterator[Wire]:
    some = served.connect()
    served.run()
    yield some
    some.close()


def test_what_the_system_refuses_is_told_and_the_next_request_is_served(served, wire):
    first, second = wire.send("refuse"), wire.send("count")
    served.run()

    with pytest.raises(InvalidRequest, match="refuse was refused: Operation not permitted"):
        wire.answer(first)
    assert wire.answer(second) == {"done": 1}


def test_a_call_is_done_once_for_a_thousand_calls(served, wire):
    for number in range(control.REMEMBERED):
        assert served.ask(wire, "count", call=f"c{number}") == {"done": number + 1}

    assert served.ask(wire, "count", call="c0") == {"done": 1}
    assert served.ask(wire, "count") == {"done": control.REMEMBERED + 1}


def test_whoever_is_in_step_waits_and_whoever_is_behind_is_told(served, wire):
    served.is_now(seq=3, end=100)
    waits, behind = wire.send("status", seen=3, past=100), wire.send("status", seen=2, past=100)
    output, change = wire.send("status", seen=3, past=50), wire.send("status", seen=3)
    served.run()

    assert wire.answer(behind) == wire.answer(output) == {"seq": 3, "end": 100}
    assert not served.told(wire, waits)
    served.is_now(seq=3, end=101)
    assert served.told(wire, waits)
    assert not served.told(wire, change)
    served.is_now(seq=4, end=101)
    assert served.told(wire, change)


def test_under_a_flood_output_is_told_after_a_pause_and_a_change_at_once(served, wire, monkeypatch):
    monkeypatch.setattr(control, "PAUSE", 0.2)
    served.is_now(seq=1, end=0)
    first = wire.send("status", seen=1, past=0)
    served.run()
    served.is_now(seq=1, end=FLOOD + 1)
    assert served.told(wire, first)
    began = time.monotonic()
    output = wire.send("status", seen=1, past=FLOOD + 1)
    served.run()
    served.is_now(seq=1, end=FLOOD + 2)
    assert not served.told(wire, output)
    while not served.told(wire, output):
        served.run(0.01)
    assert time.monotonic() - began > 0.1

    more = wire.send("status", seen=1, past=FLOOD + 2)
    served.run()
    served.is_now(seq=1, end=3 * FLOOD)
    change = wire.send("status", seen=1, past=3 * FLOOD)
    served.run()
    served.is_now(seq=2, end=3 * FLOOD)
    assert served.told(wire, more)
    assert served.told(wire, change)


def test_clients_that_find_no_descriptor_left_are_taken_later(served, wire, monkeypatch):
    monkeypatch.setattr(control, "ACCEPT_AGAIN", 0.05)
    other = served.connect()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.open(os.devnull, os.O_RDONLY)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        served.run(0.1)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert served.ask(other, "count") == {"done": 1}
    other.close()
