"""The machines of one client, and on which of them a session is."""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import Callable, Mapping

from .directory import machine
from .errors import CmdopError, InvalidRequest, SessionNotFound
from .machines.base import Machine, SessionFacts
from .sessions import Session, SessionNotSeen, meant
from .steady import Steady

__all__ = ["Finder", "this_machine"]

ANSWER_SECONDS = 5.0  # that a machine has to say whether a session is there, of which nobody knows on which one it is


class Finder:
    """Remembers which machines were reached, and on which one each session is that was told of.

    Args:
        lookup: Gives the machine of a name.
        given: Machines that have a name here already.
        default: Name of the one that is meant where none is named; None: one must be.
        home: Name of the one that is always among them; None: none is.

    Attributes:
        default: As given, and may be set.
        lookup: As given.
    """

    def __init__(
        self,
        lookup: Callable[[str], Machine],
        given: Mapping[str, Machine],
        default: str | None,
        home: str | None = "local",
    ) -> None:
        self._home = home
        self.default = default
        self.lookup, self._given = lookup, given
        self._reached: dict[str, Machine] = {}
        self._told: dict[str, tuple[Machine, str]] = {}  # by id: where a session is that was told of, and its name

    def at(self, name: str | None) -> Machine:
        """The machine of that name; None is the default one. Raises UnknownMachine."""
        name = self.default if name is None else name
        if name is None:
            raise InvalidRequest("say on which machine, or choose one for all calls by `set_machine(name)`")
        if not isinstance(name, str):
            raise InvalidRequest(f"a machine is called by its name, not {name!r}")
        return self._given[name] if name in self._given else self.lookup(name)

    def somewhere(self) -> Machine:
        """The default machine; where there is none, this one, for a stream that will be attached elsewhere."""
        return machine() if self.default is None else self.at(None)

    def own(self) -> list[Machine]:
        """The machines of this client, the default first."""
        names = dict.fromkeys([self.default, *self._given, self._home, *self._reached])
        return [self._reached[name] if name in self._reached else self.at(name) for name in names if name]

    def reached(self, where: Machine) -> None:
        """Count a machine among those of this client."""
        self._reached[where.name] = where

    def tell(self, where: Machine, facts: SessionFacts) -> None:
        """Remember where a session is that is told of."""
        self.reached(where)
        self._told[facts.id] = where, facts.name

    async def ask(self, where: Machine) -> list[Session]:
        """All sessions of a machine. On the I/O thread, as what follows."""
        found = [Session(where.name, facts, status) for facts, status in await Steady(where).sessions()]
        self.reached(where)
        for one in found:
            self.tell(where, one.facts)
        return found

    async def locate(self, wanted: str) -> Machine:
        """Where a session is."""
        return (await self.find(wanted))[0]

    async def find(self, wanted: str) -> tuple[Steady, str]:
        """Where a session is, and its id: as was told, else where it runs, this machine first, else where it ended.

        Raises:
            SessionNotFound: None of this client's machines has it.
            InvalidRequest: Several other machines have one of that name.
        """
        if wanted in self._told:
            return Steady(self._told[wanted][0]), wanted
        own = {one.name: one for one in await asyncio.to_thread(self.own)}
        told = {where.name: where for where, name in self._told.values() if name == wanted}
        if not own:
            raise InvalidRequest(f"no machine was reached that could have {wanted!r}: `set_machine(name)` reaches one")
        first = next(iter(told.values())) if len(told) == 1 else own.get(self._home or "", next(iter(own.values())))
        found = await self.ask(first)
        hits = meant(wanted, found)
        problems = []
        if not (hits and hits[0].status.live):
            others = [one for name, one in own.items() if name != first.name]
            for heard, problem in await asyncio.gather(*map(self._ask_soon, others)):
                found += heard
                problems += [problem] if problem else []
            hits = meant(wanted, found)
        if len(hits) > 1:
            ids = " or ".join(f"{one.session_id} (on {one.machine})" for one in hits)
            raise InvalidRequest(f"several sessions are called {wanted!r}: say which one by its id, {ids}")
        if not hits:
            raise self._not_found(wanted, found, list(own), problems)
        return Steady((own | told | {first.name: first})[hits[0].machine]), hits[0].session_id

    async def _ask_soon(self, where: Machine) -> tuple[list[Session], str]:
        """Its sessions, and what keeps it from saying them."""
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return await self.ask(where), ""
        except TimeoutError:
            return [], f"{where.name} said nothing in {ANSWER_SECONDS:g} s (link {where.link.state})"
        except CmdopError as error:
            return [], str(error)

    def _not_found(self, wanted: str, found: list[Session], asked: list[str], problems: list[str]) -> SessionNotFound:
        names = list(dict.fromkeys(one.name for one in found))
        alike = difflib.get_close_matches(wanted, names, 3)
        if self.lookup is this_machine:
            return SessionNotFound(wanted, alike)
        rest = f"only on {', '.join(asked)}, which this client has reached; `set_machine(name)` adds another machine"
        return SessionNotSeen(wanted, alike, [*problems, rest])


def this_machine(name: str) -> Machine:
    """As `directory.machine`, and refuses all others."""
    if name != "local":
        raise InvalidRequest(
            f"this client is for this machine only, so it cannot reach {name!r}: take AsyncCMDOPClient() instead of "
            f"AsyncCMDOPClient.local(), or CMDOPClient() instead of CMDOPClient.local()"
        )
    return machine(name)
