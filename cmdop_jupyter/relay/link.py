"""One person's calls on one machine of a relay: signed, numbered, answered or known to be lost. It breaks once."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from ..agent.store import raise_answer
from ..errors import CmdopError, InvalidRequest, LinkLost, Refused
from . import subjects
from .connection import Relay
from .proofs import Proof
from .seals import check_answer, seal_call
from .wire import Msg, Wire

RATE_SECONDS = 0.1  # over which the rate is measured
OPEN_SECONDS = 10.0  # for a machine that is there to say hello
MOST_ASKED_ABOUT = 1000  # calls of which one ping asks whether they are still under way
FIRST_PATIENCE = 0.5  # seconds of that after which it is asked again; then twice as many
NOBODY = "503"  # what the server says where nobody takes a call

Header = dict[str, Any]


@dataclass(slots=True)
class _Call:
    future: asyncio.Future[tuple[Header, list[bytes]]]
    subject: str
    pieces: list[bytes] = field(default_factory=list)
    doubts: int = 0  # pings in a row whose answer did not know it


class RelayLink:
    """The calls on a machine over one wire. On one loop.

    Args:
        shown: What the user calls the machine; `machine` is its name on the relay.
        silence: Seconds without a word after which the link counts as broken.
        on_lost: Called once with this link and the reason when it has broken after it was opened.

    Attributes:
        proof: Whom answers are of; None before the first.
        refused: Answers that were not what they should be, and were dropped.
        heard: When the newest answer came, by the loop's clock.
        round_trip, rate, lost: As `machines.far.FarLink` has them.
    """

    def __init__(
        self, relay: Relay, wire: Wire, machine: str, shown: str, on_lost: Callable[[RelayLink, str], object]
    ) -> None:
        self.relay, self.wire, self.machine = relay, wire, machine
        self._shown, self._on_lost = shown, on_lost
        self._loop = asyncio.get_running_loop()
        self._name = secrets.token_hex(8)
        self._number = 0
        self._calls: dict[int, _Call] = {}
        self._epoch: object = None
        self._up = False
        self._end_subscription: Callable[[], Coroutine[Any, Any, None]] | None = None
        self._forget_denied: Callable[[], object] = lambda: None
        self._tasks: set[asyncio.Future[object]] = set()
        self._tick: asyncio.TimerHandle | None = None
        self._watching: asyncio.Task[None] | None = None
        self._bytes, self._measured = 0, (self._loop.time(), 0)
        self._asked_before = 0  # numbers up to this one were given before the last ping
        self.proof: Proof | None = None
        self.refused = 0
        self.heard = self._loop.time()
        self.round_trip: float | None = None
        self.rate = 0.0
        self.lost: str | None = None

    async def open(self) -> Header:
        """Say hello; return what the machine says of itself.

        Raises:
            LinkLost: Nobody answers, or the connection broke.
            CmdopError: What it answers.
        """
        person = self.relay.identity.proof.name
        self._forget_denied = self.wire.on_denied(self._denied)
        self._end_subscription = await self.wire.subscribe(  # type: ignore[assignment]
            subjects.answers(person, self.machine, self._name) + "*", self._hear
        )
        self._watching = asyncio.ensure_future(self._watch_wire())
        async with asyncio.timeout(OPEN_SECONDS):
            hello = await self._say_hello()
        self._epoch = hello.pop("epoch", None)
        self._up = True
        self._watch()
        return hello

    async def ask(self, header: Header, body: bytes = b"") -> tuple[Header, list[bytes]]:
        """As `machines.far.FarLink.ask`. Raises Refused too, for what this key may not do."""
        if self.wire.lost is not None:
            self.close(self.wire.lost)  # before the next call could find it up, and fail on it again
        if self.lost is not None:
            raise LinkLost(self._shown, self.lost)
        self._number += 1
        number = self._number
        call = self._calls[number] = _Call(self._loop.create_future(), subjects.call(self.machine, header))
        try:
            await self._publish(number, call.subject, header, body)
            answer, pieces = await call.future
        except asyncio.CancelledError:
            if self.lost is None:
                self.later(self._say({"op": "cancel", "call": number}))
            raise
        finally:
            self._calls.pop(number, None)
        return raise_answer(answer), pieces

    async def ping(self) -> float | None:
        """Seconds that a question and its answer take; None when the link broke. Calls that were lost are told so."""
        old = [number for number in self._calls if number <= self._asked_before][:MOST_ASKED_ABOUT]
        self._asked_before = self._number
        began = self._loop.time()
        with contextlib.suppress(LinkLost):
            answer, _ = await self.ask({"op": "ping", "pending": old})
            self.round_trip = self._loop.time() - began
            if self._up and answer.get("epoch") != self._epoch:
                self.close("the machine's side began anew")
                return None
            unknown = answer.get("unknown")
            self._doubt(old, set(unknown) if isinstance(unknown, list) else set())
            return self.round_trip
        return None

    def later(self, work: Coroutine[Any, Any, object]) -> None:
        """Do something that nobody waits for."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def close(self, reason: str = "closed") -> None:
        """End it; calls under way raise LinkLost."""
        if self.lost is not None:
            return
        self.lost = reason
        if self._tick is not None:
            self._tick.cancel()
        self._forget_denied()
        if self._watching is not None and self._watching is not asyncio.current_task():
            self._watching.cancel()
        for call in self._calls.values():
            if not call.future.done():
                call.future.set_exception(LinkLost(self._shown, reason))
                call.future.exception()  # perhaps nobody waits any more
        self.later(self._hang_up())
        if self._up:
            self._on_lost(self, reason)

    async def closed(self) -> None:
        """Wait until what `close` began is done."""
        rest = [task for task in self._tasks if task is not asyncio.current_task()]
        if rest:
            await asyncio.wait(rest, timeout=2.0)

    # -- the parts

    async def _say_hello(self) -> Header:
        """Say it until it is answered: the machine's own connection may just have broken, and not know it yet."""
        patience = FIRST_PATIENCE
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    return (await self.ask({"op": "hello"}))[0]
            patience *= 2

    async def _publish(self, number: int, subject: str, header: Header, body: bytes) -> None:
        identity = self.relay.identity
        reply = subjects.answer(identity.proof.name, self.machine, self._name, number)
        payload = seal_call(identity, self.machine, subject, reply, header, body, time_ns=time.time_ns())
        try:
            await self.wire.publish(subject, payload, reply)
        except ValueError as error:
            raise InvalidRequest(f"{header.get('op')} is too much for one call over this relay: {error}") from None
        except LinkLost as error:
            self.close(error.reason)
            raise LinkLost(self._shown, error.reason) from None

    async def _say(self, header: Header) -> None:
        """What has no answer."""
        self._number += 1
        with contextlib.suppress(CmdopError):
            await self._publish(self._number, subjects.call(self.machine, header), header, b"")

    async def _hang_up(self) -> None:
        if self.wire.lost is None:
            await self._say({"op": "bye"})
            if self._end_subscription is not None:
                await self._end_subscription()

    async def _watch_wire(self) -> None:
        await asyncio.shield(self.wire.gone)
        self.close(self.wire.lost or "closed")

    def _hear(self, message: Msg) -> None:
        number = message.subject.rpartition(".")[2]
        call = self._calls.get(int(number)) if number.isdigit() else None
        if call is None or call.future.done():
            return  # of a call that was cancelled
        if not message.data and message.headers and message.headers.get("Status") == NOBODY:
            self.close("it is not connected to the relay now")
            return
        try:
            proof, piece, header, body = check_answer(
                self.relay.workspace_public, self.machine, message.subject, message.data
            )
        except Refused:
            self.refused += 1
            return
        if piece != len(call.pieces):
            self.refused += 1
            return
        self.proof, self.heard = proof, self._loop.time()
        self._measure(len(body))
        call.pieces.append(body)
        if not header.get("more"):
            call.future.set_result((header, call.pieces))

    def _measure(self, size: int) -> None:
        self._bytes += size
        since, before = self._measured
        if self.heard - since >= RATE_SECONDS:
            self.rate = (self._bytes - before) / (self.heard - since)
            self._measured = self.heard, self._bytes

    def _denied(self, subject: str) -> None:
        """The server let nothing be published there: none of the calls on that subject is under way."""
        role = self.relay.identity.proof.role
        for call in self._calls.values():
            if call.subject == subject and not call.future.done():
                call.future.set_exception(
                    Refused(
                        f"the relay takes no such call for {self._shown} with the key of an {role}; "
                        f"an operator's is needed, see `cmdop-relay keys`",
                        str(self.relay.identity.proof),
                    )
                )

    def _doubt(self, asked: list[int], unknown: set[int]) -> None:
        """Calls that the machine knows nothing of, twice in a row, were lost on the way, or their answers were."""
        for number in asked:
            call = self._calls.get(number)
            if call is None or call.future.done():
                continue
            call.doubts = call.doubts + 1 if number in unknown else 0
            if call.doubts >= 2:
                call.future.set_exception(LinkLost(self._shown, "the call or its answer was lost on the relay"))

    def _watch(self) -> None:
        """Ask for a sign of life where there was none for a while; without one the link is broken."""
        if self.lost is not None:
            return
        silence = self.relay.silence
        if self._loop.time() - self.heard >= silence:
            self.close(f"no word in {silence:g} s")
            return
        self.later(self.ping())
        self._tick = self._loop.call_later(silence / 3, self._watch)
