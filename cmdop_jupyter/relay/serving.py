"""A machine's side of a relay: calls come in, are checked, and answered under their caller's own inbox."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import secrets
import time
from collections import Counter, deque
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any

from ..agent.answers import Answers
from ..agent.calls import Calls
from ..agent.outbox import Body
from ..agent.store import SessionStore
from ..errors import CmdopError, InvalidRequest, LinkLost, Refused
from . import subjects
from .proofs import Identity, Proof
from .publishing import Publisher
from .seals import Gate, seal_answer
from .wire import Msg, Wire

PIECE = 128 * 1024  # bytes of an answer's body in one message
SILENCE = 60.0  # seconds without a word after which a caller's link has ended
MOST_GUESTS = 2000
MOST_WAITING = 50_000, 64 * 1024 * 1024  # calls and bytes of calls that were not looked at yet: a flood fills no memory
MOST_UNDER_WAY = 1000  # calls of one link
LONGEST_WAIT = 30.0  # seconds that a call may ask to be answered later

# Of what a client asks to start, when commands are fixed: nothing that changes what the command does.
LEFT_TO_CLIENTS = (
    *("id", "name", "free_name", "tty", "cols", "rows", "input"),
    *("max_log", "log_policy", "ephemeral", "owner", "digest"),
)

log = logging.getLogger("cmdop_jupyter.relay")

Header = dict[str, Any]


class Rules:
    """What this machine does at all, whoever asks.

    Args:
        allowed: Commands by name; when there are any, nothing else is started, and no port is reached.
        observe_only: Nothing is changed.
    """

    def __init__(self, allowed: Mapping[str, Sequence[str]] | None = None, *, observe_only: bool = False) -> None:
        self.allowed = {name: list(argv) for name, argv in (allowed or {}).items()}
        self.observe_only = observe_only

    def applied(self, header: Header, body: bytes) -> bytes:
        """The body of a call as it may be done. Raises Refused."""
        op = header.get("op")
        if not self.allowed:
            return body
        if op == "dial" or (op == "surroundings" and header.get("detach")):
            raise Refused(f"this machine runs {self._names()} only, and opens no ports", answer=True)
        return self._start(body) if op == "start" else body

    def _start(self, body: bytes) -> bytes:
        asked = json.loads(body)
        if not isinstance(asked, dict):
            raise InvalidRequest("what is to be started makes no sense")
        name = asked.get("allowed") or str(asked.get("script") or "").strip()
        if name not in self.allowed or asked.get("argv"):
            raise Refused(f"this machine runs {self._names()} only; the text of the cell is that name", answer=True)
        kept = {key: asked[key] for key in LEFT_TO_CLIENTS if key in asked}
        return json.dumps({**kept, "argv": self.allowed[name], "title": name}).encode()

    def _names(self) -> str:
        return ", ".join(sorted(self.allowed))


class Guest:
    """One caller's link: what it has under way, dialled and owns."""

    def __init__(self, proof: Proof, store: SessionStore, now: float) -> None:
        self.proof, self.heard = proof, now
        self.epoch = secrets.token_hex(8)
        self.calls = Calls(store)
        self.answers = Answers(self.calls)
        self.tasks: dict[int, asyncio.Task[None]] = {}

    def close(self) -> None:
        for task in self.tasks.values():
            task.cancel()
        self.answers.close()
        self.calls.close()


class Service:
    """Answers everybody who may ask, over one wire after the other.

    Args:
        workspace_public: What callers prove themselves by.
        hello: What this machine says of itself.
    """

    def __init__(
        self,
        identity: Identity,
        workspace_public: str,
        store: SessionStore,
        rules: Rules,
        publisher: Publisher,
        hello: Header,
    ) -> None:
        self.identity, self.store, self.rules, self.publisher, self.hello = identity, store, rules, publisher, hello
        self.machine = identity.proof.name
        self._gate = Gate(workspace_public, self.machine, time.time_ns, log.warning, observe_only=rules.observe_only)
        self._loop = asyncio.get_running_loop()
        self._guests: dict[tuple[str, str], Guest] = {}
        self._wire: Wire | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def begin(self, wire: Wire) -> None:
        """Take calls from this wire. Raises LinkLost."""
        self._wire = wire
        for subject in (subjects.ask(self.machine), subjects.do(self.machine)):
            await wire.subscribe(subject, self._take, most=MOST_WAITING)

    def end(self) -> None:
        """The wire is gone: nobody hears the answers to what is under way; they are asked for again."""
        self._wire = None
        for guest in self._guests.values():
            for task in guest.tasks.values():
                task.cancel()
            guest.tasks.clear()

    def close(self) -> None:
        self.end()
        for guest in self._guests.values():
            guest.close()
        self._guests.clear()
        for task in self._tasks:
            task.cancel()

    async def run(self) -> None:
        """End the links of callers that vanished."""
        while True:
            await asyncio.sleep(SILENCE / 8)
            now = self._loop.time()
            for key, guest in list(self._guests.items()):
                if now - guest.heard > SILENCE:
                    self._guests.pop(key).close()

    @property
    def guests(self) -> int:
        return len(self._guests)

    # -- calls

    def _take(self, message: Msg) -> None:
        wire = self._wire
        try:
            proof, header, body = self._gate.check(message.subject, message.reply, message.data)
        except Refused as refused:
            if refused.answer and wire is not None:
                self._later(self._send(wire, message.reply, _error(refused), ()))
            return
        if wire is None:
            return
        link, number = subjects.link_of(message.reply)
        op, key = header.get("op"), (proof.public_key, link)
        if op == "bye":
            if key in self._guests:
                self._guests.pop(key).close()
            return
        guest = self._guests.get(key)
        if guest is None:
            if len(self._guests) >= MOST_GUESTS:
                self._guests.pop(self._least()).close()
            guest = self._guests[key] = Guest(proof, self.store, self._loop.time())
        guest.heard = self._loop.time()
        if op == "cancel":
            task = guest.tasks.pop(_number(header.get("call")), None)
            if task is not None:
                task.cancel()
        elif len(guest.tasks) >= MOST_UNDER_WAY and op != "ping":
            busy = InvalidRequest(f"{MOST_UNDER_WAY} calls of this link are under way on {self.machine} already")
            self._later(self._send(wire, message.reply, _error(busy), ()))
        elif number not in guest.tasks:
            work = self._serve(wire, guest, number, message.reply, header, body)
            guest.tasks[number] = asyncio.ensure_future(work)

    def _least(self) -> tuple[str, str]:
        """The longest silent link of whoever has the most: nobody's many links end another's."""
        most = Counter(caller for caller, _ in self._guests).most_common(1)[0][0]
        return min((key for key in self._guests if key[0] == most), key=lambda key: self._guests[key].heard)

    async def _serve(self, wire: Wire, guest: Guest, number: int, reply: str, header: Header, body: bytes) -> None:
        try:
            answer, parts = await self._answer(guest, header, body)
            await self._send(wire, reply, answer, parts)
        except LinkLost:
            pass
        finally:
            if guest.tasks.get(number) is asyncio.current_task():
                del guest.tasks[number]

    async def _answer(self, guest: Guest, header: Header, body: bytes) -> tuple[Header, Sequence[Body]]:
        op = header.get("op")
        try:
            if op == "hello":
                return {**self.hello, "epoch": guest.epoch, "root": self.store.root}, ()
            if op == "ping":
                asked = header.get("pending")
                numbers = asked if isinstance(asked, list) else []
                unknown = [number for number in numbers if _number(number) not in guest.tasks]
                return {"epoch": guest.epoch, "unknown": unknown}, ()
            if op == "mirror":
                wait = min(LONGEST_WAIT, max(0.0, float(header.get("wait") or 0.0)))
                return await self.publisher.mirror(str(header["session"]), int(header["offset"]), wait), ()
            body = self.rules.applied(header, body)
        except CmdopError as error:
            return _error(error), ()
        except (KeyError, TypeError, ValueError) as error:
            return _error(InvalidRequest(f"{op} makes no sense: {type(error).__name__} {error}")), ()
        answer, parts, _ = await guest.answers.answer(header, body)
        if op == "remove" and "error" not in answer:
            self.publisher.forget(str(header.get("session")))
        return answer, parts

    async def _send(self, wire: Wire, reply: str, answer: Header, parts: Sequence[Body]) -> None:
        """An answer in pieces, each signed."""
        left = deque(memoryview(part) for part in parts if part)
        for piece in range(1_000_000):
            room, taken = PIECE, []
            while left and room:
                taken.append(bytes(left[0][:room]))
                room -= len(taken[-1])
                left[0] = left[0][len(taken[-1]) :]
                if not left[0]:
                    left.popleft()
            header = {"more": True} if left else answer
            data = taken[0] if len(taken) == 1 else b"".join(taken)
            await wire.publish(reply, seal_answer(self.identity, reply, piece, header, data))
            if not left:
                return
            await asyncio.sleep(0.0)  # what is urgent goes between

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        async def quietly() -> None:
            with contextlib.suppress(LinkLost):
                await work

        task = asyncio.ensure_future(quietly())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _error(error: CmdopError) -> Header:
    return {"error": type(error).__name__, "args": list(error.args)}


def _number(value: object) -> int:
    return value if isinstance(value, int) else -1
