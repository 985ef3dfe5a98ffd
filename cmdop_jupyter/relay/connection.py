"""A person's way to a relay: one wire for all machines reached by it, opened when it is needed, and the roster."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import CmdopError, KeyRefused, LinkLost, MachineOffline, Refused, UnknownMachine
from ..machines.settings import nearest
from . import subjects
from .proofs import Identity
from .seals import check_card
from .wire import Msg, Silent, Wire

SILENCE = 15.0  # seconds
ROSTER_SECONDS = 5.0  # for all of it

__all__ = ["Card", "Relay"]


@dataclass(frozen=True, slots=True)
class Card:
    """A machine as it said itself, at the moment it was asked for.

    Attributes:
        name: On the relay.
        up: Whether it renewed its lease in time, and has not said good-bye.
        heard_ns: When it was heard of last, by the clock of the relay.
        facts: `hostname`, `platform`, `agent`, `tags`, `load` and what else it says.
    """

    name: str
    up: bool
    heard_ns: int
    facts: Mapping[str, Any]

    @property
    def said_so(self) -> bool:
        """It left in order."""
        return self.facts.get("state") == "away"

    @property
    def tags(self) -> tuple[str, ...]:
        tags = self.facts.get("tags")
        return tuple(str(tag) for tag in tags) if isinstance(tags, list) else ()


class Relay:
    """A relay, as one key reaches it. Belongs to the loop of its first call; a forked child's is its own.

    Args:
        url: Of one of its servers, or of several with commas between them.
        identity: Whose key it is.
        workspace_public: What machines prove themselves by.
        silence: Seconds without a word after which the connection counts as broken.
    """

    def __init__(self, url: str, identity: Identity, workspace_public: str, *, silence: float = SILENCE) -> None:
        self.url, self.identity, self.workspace_public, self.silence = url, identity, workspace_public, silence
        self.workspace = identity.proof.workspace
        self._users: set[object] = set()
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._wire: Wire | None = None
        self._opening: asyncio.Task[Wire] | None = None

    def __repr__(self) -> str:
        return f"<Relay {self.url}: {self.identity.proof}>"

    async def wire(self) -> Wire:
        """The wire, up. Raises RelayUnreachable, KeyRefused."""
        if self._pid != os.getpid():
            self._begin()
        if self._wire is not None and self._wire.lost is None:
            return self._wire
        if self._opening is None or self._opening.done():
            self._opening = asyncio.ensure_future(self._open())
            self._opening.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await asyncio.shield(self._opening)

    async def _open(self) -> Wire:
        person = self.identity.proof.name
        inbox = subjects.library_inbox(person)
        wire = await Wire.open(self.url, self.identity, inbox, silence=self.silence, name=f"cmdop {person}")
        self._wire = wire
        return wire

    def join(self, user: object) -> None:
        """Keep the wire for `user` until it leaves."""
        self._users.add(user)

    async def leave(self, user: object) -> None:
        """The last one to leave closes the wire."""
        self._users.discard(user)
        if not self._users:
            await self.close()

    async def close(self) -> None:
        opening, wire = self._opening, self._wire
        self._opening = self._wire = None
        if opening is not None and not opening.done():
            opening.cancel()
        if wire is not None:
            await wire.close()

    # -- the roster

    async def roster(self) -> list[Card]:
        """All machines of the workspace that were ever announced and whose card is theirs, by name.

        Raises:
            RelayUnreachable, KeyRefused: It was not reached.
            LinkLost: The connection broke meanwhile.
            Refused: The roster cannot be read; says why.
        """
        return await self._cards(f"{subjects.ROSTER}.>")

    async def card(self, machine: str) -> Card | None:
        """What one machine says of itself; None where it never did."""
        cards = await self._cards(subjects.roster(machine))
        return cards[0] if cards else None

    async def _cards(self, wanted: str) -> list[Card]:
        wire = await self.wire()
        name = secrets.token_hex(8)
        where = f"{subjects.library_inbox(self.identity.proof.name)}.{name}"
        config = {
            "name": name,
            "filter_subject": wanted,
            "deliver_policy": "last_per_subject",
            "deliver_subject": where,
            "ack_policy": "none",
            "replay_policy": "instant",
            "max_deliver": 1,
            "mem_storage": True,
            "num_replicas": 1,
            "inactive_threshold": 5 * 10**9,
        }
        cards: list[Card] = []
        expected, seen = -1, 0
        there: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        now = time.time_ns()

        def heard(message: Msg) -> None:
            nonlocal seen
            seen += 1
            card = self._read(message, now)
            if card is not None:
                cards.append(card)
            if seen == expected and not there.done():
                there.set_result(None)

        end = await wire.subscribe(where, heard)
        try:
            answer = await consumer(wire, subjects.ROSTER_STREAM, config)
            expected = int(answer.get("num_pending", 0)) + int(answer.get("delivered", {}).get("consumer_seq", 0))
            if seen < expected:
                async with asyncio.timeout(ROSTER_SECONDS):
                    await asyncio.wait((there, wire.gone), return_when=asyncio.FIRST_COMPLETED)
                if wire.lost is not None:
                    raise LinkLost("the relay", wire.lost)
        except TimeoutError:
            pass  # what has come is what there is to tell
        finally:
            await end()
        return sorted(cards, key=lambda card: card.name)

    def _read(self, message: Msg, now: int) -> Card | None:
        try:
            proof, facts = check_card(self.workspace_public, message.subject, message.data)
            lease = float(str(facts["lease_s"]))
        except (Refused, KeyError, ValueError):
            return None
        heard = int(message.metadata.timestamp.timestamp() * 1e9)  # a machine's own clock may be wrong
        up = facts.get("state") == "up" and now - heard <= lease * 1e9
        return Card(proof.name, up, heard, facts)

    async def why_silent(self, machine: str, shown: str) -> CmdopError:
        """Why a machine answers nothing, `shown` to the user by that name."""
        try:
            cards = {card.name: card for card in await self.roster()}
        except KeyRefused as error:
            return error
        except CmdopError as error:
            return MachineOffline(shown, f"it is not connected to the relay ({error})")
        card = cards.get(machine)
        if card is None:
            return UnknownMachine(shown, tuple(f"relay:{name}" for name in nearest(machine, cards)))
        ago = _ago((time.time_ns() - card.heard_ns) / 1e9)
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(card.heard_ns / 1e9))
        how = f"it left the relay at {when}" if card.said_so else f"the relay heard of it last at {when}"
        return MachineOffline(shown, f"{how}, {ago} ago", card.heard_ns, card.said_so)


async def consumer(wire: Wire, stream: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Make an ephemeral consumer; return what JetStream says of it.

    Raises:
        Refused: It may not be, or cannot be.
        Silent: JetStream does not answer.
        LinkLost: The connection broke.
    """
    subject = f"$JS.API.CONSUMER.CREATE.{stream}.{config['name']}.{config['filter_subject']}"
    denied: list[str] = []
    forget = wire.on_denied(denied.append)
    try:
        request = {"stream_name": stream, "config": config, "action": "create"}
        answer = json.loads((await wire.request(subject, json.dumps(request).encode())).data)
    except Silent:
        if subject in denied:
            raise Refused(f"this key may not read {stream} on the relay") from None
        raise
    finally:
        forget()
    if "error" in answer:
        raise Refused(f"JetStream refuses to read {stream}: {answer['error'].get('description', answer['error'])}")
    return dict(answer)


def _ago(seconds: float) -> str:
    if seconds < 120:
        return f"{max(0, seconds):.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h" if seconds < 172800 else f"{seconds / 86400:.0f} days"
