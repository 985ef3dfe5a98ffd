"""Streams on real sessions of this machine, for tests of the client."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

from cmdop_jupyter.client import Terminal
from cmdop_jupyter.machines.base import Machine
from cmdop_jupyter.machines.local import LocalMachine
from cmdop_jupyter.runtime import runtime
from cmdop_jupyter.stream import Stream

GO = "read go"  # what stands behind it in a script waits until `go` is called
Create = Callable[..., Stream]


@contextlib.contextmanager
def live_terminal() -> Iterator[Terminal]:
    """`client.terminal` on the sessions of this test's folder."""
    machine = LocalMachine()
    try:
        yield Terminal(machine)
    finally:
        runtime().wait(machine.close())


@contextlib.contextmanager
def creating() -> Iterator[Create]:
    """A function that starts a script and gives its stream, without a loop: `create("echo hi", tty="none")`."""
    with creating_at(LocalMachine()) as create:
        yield create


@contextlib.contextmanager
def creating_at(machine: Machine) -> Iterator[Create]:
    """As `creating`, on that machine; what runs there is stopped in the end."""
    terminal = Terminal(machine)

    def create(script: str, **options: Any) -> Stream:
        return asyncio.run(terminal.create(command=script, **options))

    try:
        yield create
    finally:
        runtime().wait(_clear(machine))


async def _clear(machine: Machine) -> None:
    for facts, status in await machine.sessions():
        if status.live:
            await machine.stop(facts.id, f"clean-{facts.id}", 0.0)
    await machine.close()


def go(stream: Stream) -> None:
    """Let a script go on that waits at `GO`."""
    stream.send_input("\n").result()


async def first(count: int, items: AsyncIterator[Any]) -> list[Any]:
    """The first `count` of them."""
    found = []
    async for item in items:
        found.append(item)
        if len(found) == count:
            break
    return found


async def until(is_so: Callable[[], Any], change: Callable[[], Awaitable[Any]]) -> None:
    """Wait for one change after the other until it is so."""
    while not is_so():
        await change()


def numbered(first: int, last: int) -> bytes:
    """What `seq` prints."""
    return "".join(f"{number}\n" for number in range(first, last + 1)).encode()
