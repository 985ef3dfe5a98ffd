"""Raw NATS clients with real keys, and a machine that is nothing but its gate: what it obeyed and what it refused."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import secrets
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg

from cmdop_jupyter.errors import Refused
from cmdop_jupyter.relay import seals, subjects
from cmdop_jupyter.relay.keys import ApiKey, MachineKey, read_machine_key

NUMBERS = itertools.count(1)
LINK = secrets.token_hex(8)
SECONDS = 20  # until what must come has come


async def until(come: Callable[[], Any], told: Callable[[], object] = lambda: "") -> Any:
    """Return what `come` gives once it is true."""
    end = time.monotonic() + SECONDS
    while not (seen := come()):
        assert time.monotonic() < end, f"it did not come about: {told()}"
        await asyncio.sleep(0.005)
    return seen


class Raw:
    """A connection by a key, that may try whatever NATS has words for.

    Attributes:
        connection: nats-py's.
        violations: What the server did not permit, in its words.
    """

    def __init__(self, key: ApiKey | MachineKey, url: str = "") -> None:
        self.key, self.name = key, key.identity.proof.name
        self._url = url or key.url
        self.violations: list[str] = []
        self.connection: Client

    async def __aenter__(self) -> Raw:
        machine = isinstance(self.key, MachineKey)
        self.inbox = subjects.machine_inbox(self.name) if machine else subjects.library_inbox(self.name)
        self.connection = await nats.connect(
            self._url.split(","),
            nkeys_seed_str=self.key.identity.seed,
            inbox_prefix=self.inbox,
            error_cb=self._on_error,
            allow_reconnect=False,
            connect_timeout=5,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.connection.close()

    async def _on_error(self, error: Exception) -> None:
        self.violations.append(str(error))

    async def settle(self) -> None:
        """Return when the server has dealt with all that was sent; nats-py's PING may overtake it, a second one not."""
        await self.connection.flush(SECONDS)
        await self.connection.flush(SECONDS)

    async def publish(self, subject: str, payload: bytes, reply: str = "", **headers: str) -> None:
        """Publish, and return when the server has dealt with it."""
        await self.connection.publish(subject, payload, reply, headers=headers or None)
        await self.settle()

    async def is_refused(self, subject: str, payload: bytes = b"", reply: str = "") -> str:
        """Publish what the server must not permit; return its words."""
        before = len(self.violations)
        await self.connection.publish(subject, payload, reply)
        await until(lambda: len(self.violations) > before, lambda: f"{subject} was permitted to {self.name}")
        return self.violations[-1]

    async def cannot_listen(self, subject: str) -> str:
        """Subscribe to what the server must not permit; return its words."""
        before = len(self.violations)
        await self.connection.subscribe(subject)
        await until(lambda: len(self.violations) > before, lambda: f"{subject} was permitted to {self.name}")
        return self.violations[-1]

    def sealed(
        self, machine: str, header: dict[str, object], body: bytes = b"", **change: Any
    ) -> tuple[str, bytes, str]:
        """A call as it should be, but for what is given: subject, payload and reply, as `publish` takes them."""
        subject = change.pop("subject", "") or subjects.call(machine, header)
        reply = change.pop("reply", "") or subjects.answer(self.name, machine, LINK, next(NUMBERS))
        change.setdefault("time_ns", time.time_ns())
        payload = seals.seal_call(self.key.identity, machine, subject, reply, header, body, **change)
        return subject, payload, reply

    async def call(self, machine: str, header: dict[str, object], body: bytes = b"") -> dict[str, object]:
        """What a machine answers."""
        subject, payload, reply = self.sealed(machine, header, body)
        answers = await self.connection.subscribe(reply)
        await self.connection.publish(subject, payload, reply)
        answer = await answers.next_msg(SECONDS)
        await answers.unsubscribe()
        assert isinstance(self.key, ApiKey)
        return seals.check_answer(self.key.workspace_public, machine, reply, answer.data)[2]


class Gated:
    """A machine that obeys by writing down what it was asked to do.

    Attributes:
        raw: Its connection.
        obeyed: Who and what, of all that passed the gate.
        refused: The reasons of all that did not.
        lines: What its log says.
    """

    def __init__(self, key: MachineKey) -> None:
        self.raw = Raw(key)
        self.obeyed: list[tuple[str, str]] = []
        self.refused: list[Refused] = []
        self.lines: list[str] = []
        self._gate = seals.Gate(key.workspace_public, self.raw.name, time.time_ns, self.lines.append)

    async def start(self) -> None:
        await self.raw.__aenter__()
        for subject in (subjects.ask(self.raw.name), subjects.do(self.raw.name)):
            await self.raw.connection.subscribe(subject, cb=self._take)
        await self.raw.settle()

    async def _take(self, message: Msg) -> None:
        try:
            proof, header, _ = self._gate.check(message.subject, message.reply, message.data)
        except Refused as refused:
            self.refused.append(refused)
            if refused.answer:
                await self._answer(message.reply, {"error": "Refused", "args": [refused.reason]})
            return
        self.obeyed.append((proof.name, str(header["op"])))
        await self._answer(message.reply, {"done": header["op"]})

    async def _answer(self, reply: str, header: dict[str, object]) -> None:
        await self.raw.connection.publish(reply, seals.seal_answer(self.raw.key.identity, reply, 0, header))


@contextlib.asynccontextmanager
async def gated(path: Path) -> AsyncIterator[Gated]:
    """A machine by the key in a file."""
    machine = Gated(read_machine_key(path))
    await machine.start()
    try:
        yield machine
    finally:
        await machine.raw.__aexit__()
