"""All machines at once: which session is where, how each is reached. Asks a person nothing but when told to connect."""

from __future__ import annotations

import asyncio
import contextlib
import difflib
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any

from ..config import Config
from ..directory import here, machine, reached_before
from ..errors import CmdopError, InvalidRequest, LinkLost, SessionNotFound, UnknownMachine
from ..machines.asking import Asking
from ..machines.base import Machine, SessionFacts, Status
from ..machines.far import FarMachine
from ..machines.presets import Place
from ..machines.stdio import StdioMachine
from ..runtime import NobodyWaits, on_main_thread, runtime
from ..sessions import Session, SessionNotSeen, meant
from ..steady import Steady
from . import doctor
from .views.record import link_words

LIMIT = 5.0  # seconds for each machine, all are asked at once

Sessions = list[tuple[SessionFacts, Status]]


@dataclass(frozen=True, slots=True)
class Heard:
    """What one machine said.

    Attributes:
        problem: Why it said nothing, and what to do, in a sentence; '' when it did.
    """

    machine: str
    found: tuple[Session, ...] = ()
    problem: str = ""


def address(machine_name: str, name: str) -> str:
    """A session's name that says on which machine: `web1:api`; `api` for this one."""
    return name if machine_name == "local" else f"{machine_name}:{name}"


# -- asking


def ask_local() -> Heard:
    """The sessions of this machine."""
    return _heard("local", runtime().wait(machine().sessions()))


def ask_one(name: str) -> Heard:
    """The sessions of a machine, which is dialled when that is needed. Raises UnknownMachine, ConnectFailed."""
    where = machine(name)
    return _heard(where.name, runtime().wait(Steady(where).sessions()))


def ask_others() -> list[Heard]:
    """What the machines say that were reached before, this one not among them. Each has `LIMIT` seconds.

    One that is not up is dialled by a link of its own, which is let go again: whoever only looks is not asked for a
    password, and leaves nothing behind.
    """
    quiet = Asking(None)
    try:
        return runtime().wait(_all([_ask_once(Ear(name, quiet)) for name in others()]))
    finally:
        runtime().call_later(quiet.close)


def others() -> list[str]:
    """Names of the machines that were reached before, or are now; this one is not among them."""
    known, before = _here(), reached_before()
    names = [name for name, one in known.items() if name in before or one.link.state != "down"]
    return names + [name for name in before if name not in known]


def _here() -> dict[str, Machine]:
    """The other machines of this process."""
    return {name: one for name, one in here().items() if name != "local"}


async def _all(questions: Iterable[Awaitable[Heard]]) -> list[Heard]:
    return list(await asyncio.gather(*questions))


async def _ask_once(ear: Ear) -> Heard:
    try:
        return await ear.ask()
    finally:
        await ear.close()


class Ear:
    """Asks one machine for its sessions, by its link of this process while that is up, else by a quiet one of its own.

    Args:
        quiet: Asks nobody anything.

    Attributes:
        where: Who answered last; None: nobody.
    """

    def __init__(self, name: str, quiet: Asking) -> None:
        self.name, self._quiet = name, quiet
        self.where: Machine | None = None
        self._own: FarMachine | None = None

    async def ask(self) -> Heard:
        """Its sessions, or why there is no answer in `LIMIT` seconds."""
        name, known = self.name, here().get(self.name)
        hint = f"`%cmdop connect {name}` dials it and reports each step"
        self.where, problem = None, ""
        if known is not None and known.link.state in ("connecting", "retrying"):
            return Heard(name, problem=f"{name}: {link_words(known.link, name, time.monotonic())}")
        try:
            async with asyncio.timeout(LIMIT):
                where = known if known is not None and known.link.state == "up" else await self._dialled(known)
                heard = _heard(name, await where.sessions())
                self.where = where
                return heard
        except TimeoutError:
            problem = f"{name} said nothing in {LIMIT:g} s; {hint}"
        except LinkLost as error:
            problem = str(error)
        except UnknownMachine:
            problem = gone(name)
        except CmdopError as error:
            problem = f"{error} ({hint})"
        await self.close()
        return Heard(name, problem=problem)

    async def _dialled(self, known: Machine | None) -> Machine:
        if self._own is None:
            place = known.place if isinstance(known, FarMachine) else await asyncio.to_thread(_place, self.name)
            if place.kind == "relay":  # there are no questions that it could ask
                return known if known is not None else await asyncio.to_thread(machine, self.name)
            self._own = StdioMachine(place, self._quiet)
        return self._own

    async def close(self) -> None:
        """Let go of a link of its own."""
        own, self._own = self._own, None
        if own is not None:
            await own.close()


def gone(name: str) -> str:
    """What there is to say of a machine that was reached before and that no file has now."""
    return f"nothing has the name {name!r} any more (`%cmdop forget {name}`, and it is not asked again)"


def _place(name: str) -> Place:
    return Config.load().resolve(name)


def _heard(name: str, sessions: Sessions) -> Heard:
    return Heard(name, tuple(Session(name, facts, status) for facts, status in sessions))


# -- finding


def locate(wanted: str) -> Session:
    """The session of that name, or id: `MACHINE:NAME` on that machine, else what runs here, else wherever there is one.

    Raises:
        SessionNotFound: There is none.
        InvalidRequest: Several machines have one.
    """
    where, _, name = wanted.rpartition(":")
    if where:
        heard = [ask_one(where)]
    else:
        heard = [ask_local()]
        near = choose(name, heard[0].found)
        if near is not None and near.status.live:
            return near
        heard += ask_others()
    everything = [one for each in heard for one in each.found]
    hit = choose(name, everything)
    if hit is not None:
        return hit
    names = list(dict.fromkeys(address(one.machine, one.facts.name) for one in everything))
    alike = difflib.get_close_matches(wanted, names, 3)
    unasked = [each.problem for each in heard if each.problem]
    raise SessionNotSeen(wanted, alike, unasked) if unasked else SessionNotFound(wanted, alike)


def choose(name: str, found: Iterable[Session]) -> Session | None:
    """The session that is meant: by id, else what runs by that name, else the newest that ended; this machine's first.

    Raises:
        InvalidRequest: Several other machines have one.
    """
    hits = meant(name, found)
    if len(hits) > 1:
        machines = [one.machine for one in hits]
        ways = " or ".join(address(where, name) for where in machines)
        raise InvalidRequest(f"{name!r} is on {' and '.join(machines)}: say which one, {ways}")
    return hits[0] if hits else None


def names_now(seconds: float) -> list[str]:
    """Names of the sessions on machines that are up, all that say so in time; dials nothing."""
    up = [machine(), *(one for one in _here().values() if one.link.state == "up")]

    async def ask(one: Machine) -> set[str]:
        with contextlib.suppress(CmdopError, TimeoutError):
            async with asyncio.timeout(seconds):
                names = {facts.name for facts, _ in await one.sessions()}
                return names | {address(one.name, name) for name in names}
        return set()

    async def ask_all() -> list[set[str]]:
        return await asyncio.gather(*map(ask, up))

    return sorted(set().union(*runtime().wait(ask_all())))


# -- links


class Steps:
    """What a dial reports on the I/O thread, said on the main thread while that waits, so in the cell that runs."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._left: deque[str] = deque()

    def add(self, step: str) -> None:
        """Called on the I/O thread."""
        self._left.append(step)
        runtime().submit(self._soon())

    def flush(self) -> None:
        """Say what is left. On the main thread."""
        while self._left:
            self._say(self._left.popleft())

    async def _soon(self) -> None:
        with contextlib.suppress(NobodyWaits):  # not yet, or not any more: whoever waited does it
            await on_main_thread(self.flush)


def connect(where: Machine, say: Callable[[str], None]) -> tuple[dict[str, Any], list[doctor.Check]]:
    """Reach a machine now, its questions asked; `say` each step. What it says of itself, and what is around sessions.

    Raises:
        ConnectFailed: It cannot be reached.
    """
    steps = Steps(say)

    async def reach() -> tuple[dict[str, Any], list[doctor.Check]]:
        facts = await where.connect(steps.add)
        if isinstance(where, FarMachine):
            return facts, doctor.read(await where.surroundings())
        return facts, await asyncio.to_thread(doctor.around)

    try:
        return runtime().wait(reach())
    finally:
        steps.flush()
