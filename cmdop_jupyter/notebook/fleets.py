"""`%%cmdop` on several machines: asks, starts, shows, waits; and brings one back after a kernel restart."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..agent.store import first_line
from ..directory import machine, several
from ..errors import CmdopError, InvalidRequest, LinkLost, SessionNotFound
from ..fleet import Fleet, FleetFront, FleetStream, Starter
from ..machines.base import Machine, StartRequest
from ..machines.presets import Place
from ..notify import read_wanted
from ..runtime import runtime
from ..sessions import Session, meant, once
from ..steady import Steady
from ..wait import wait_all
from .links import ask_local, ask_others
from .notices import set_up, tell_end
from .options import CellOptions
from .tables import Table
from .views import Views

REACH_SECONDS = 20.0  # that a machine has to say which sessions it has
TOLD = 12  # names that a question tells


def run_cell(
    options: CellOptions,
    views: Views,
    local: Mapping[str, Any],
    keep: tuple[float, int],
    made: Callable[[Fleet], None],
) -> object:
    """Run what a cell asks for, on all its machines.

    Args:
        local: What is different of the request on this machine.
        keep: How long ended sessions are kept, in seconds, and how much of them, in bytes.
        made: Told the fleet before anything is waited for.
    """
    found = several(options.machines)
    places = [place for place, _ in found]
    request = options.request
    if not places:
        raise InvalidRequest(f"{' '.join(options.machines)} has no machine in it, so nothing was started")
    if options.dry_run:
        rows = [[place.name, place.kind, place.source, "yes" if place.confirm else ""] for place in places]
        return Table(
            ["nothing was started", "kind", "known from", "asks first"], rows, notes=str(request.script).splitlines()
        )
    confirm(places, f"`{first_line(str(request.script))[:80]}`", options.confirmed)
    runtime().wait(_keep([where for _, where in found], keep))
    streams = [FleetStream(where, request.name) for _, where in found]
    notify = set_up(streams, options, views)
    fleet = Fleet(
        streams,
        request,
        at_most=options.at_most,
        stop_on_failure=options.stop_on_failure,
        starter=Starter(request, options.if_running, local),
        front=views.fleets(options.tail if options.view == "output" else 0),
    ).begin()
    made(fleet)
    if notify is not None and read_wanted(options.notify).end:
        tell_end(fleet, notify)
    if options.until:
        return wait_all(options.until, fleet, fail=options.fail, timeout=options.timeout, start="begin").result()
    if options.wait:
        fleet.wait_exit(options.timeout, fail=options.fail).result()
        if options.must_succeed:
            fleet.check()
    return None


class Found(Starter):
    """Of a fleet that was brought back: what it started is there or is not, and its script is not here."""

    async def start(self, member: FleetStream) -> None:
        if not member.attached:
            raise SessionNotFound(member.name)

    def check_again(self) -> None:
        name = self._request.name
        raise InvalidRequest(
            f"{name} was brought back from its sessions, and what it ran is not known here: run its cell again. "
            f"Nothing was started"
        )


def bring_back(wanted: str, front: FleetFront) -> Fleet | None:
    """The fleet that sessions of one name are, on several machines; None where `wanted` is no such name.

    Args:
        wanted: `deploy`, of all machines that were reached before; or `web[01-20]:deploy`, `@front:deploy`.

    Raises:
        InvalidRequest: None of these machines has a session of that name.
    """
    where, _, name = wanted.rpartition(":")
    if where and not (where.startswith("@") or "[" in where):
        return None
    if where:
        machines = [one for _, one in several([where])]
        found = runtime().wait(_newest(machines, name))
        if not found:
            raise InvalidRequest(f"no machine of {where} has a session {name!r}")
    else:
        hits = [hit for each in [ask_local(), *ask_others()] for hit in meant(name, each.found)]
        if len(once(hits)) < 2 or len({(hit.facts.digest, hit.title) for hit in hits}) > 1:
            return None
        found = {hit.machine: hit for hit in once(hits)}
        machines = [machine(one) for one in found]
    members = [FleetStream(one, name) for one in machines]
    first = min(found.values(), key=lambda one: one.facts.created_ns)
    request = StartRequest(id="", name=name, script=first.title)
    fleet = Fleet(members, request, starter=Found(request), front=front)

    async def adopt() -> None:
        for member in members:
            if member.machine in found:
                member.adopt(found[member.machine].facts, 0, found[member.machine].status)

    runtime().wait(adopt())
    return fleet.begin(started=first.facts.created_ns / 1e9)


async def _newest(machines: Sequence[Machine], name: str) -> dict[str, Session]:
    """What runs by that name on each machine, else the newest that ended; none of those that do not say so in time."""

    async def ask(one: Machine) -> list[Session]:
        with contextlib.suppress(CmdopError, TimeoutError):
            async with asyncio.timeout(REACH_SECONDS):
                sessions = await Steady(one).sessions()
                return meant(name, [Session(one.name, facts, status) for facts, status in sessions])
        return []

    answers = await asyncio.gather(*map(ask, machines))
    return {hits[0].machine: hits[0] for hits in answers if hits}


async def _keep(machines: Sequence[Machine], keep: tuple[float, int]) -> None:
    async def set_one(machine: Machine) -> None:
        with contextlib.suppress(LinkLost):  # it is told when it is dialled
            await machine.keep_ended(*keep)

    await asyncio.gather(*map(set_one, machines))


def confirm(places: Sequence[Place], what: str, confirmed: bool) -> None:
    """Ask before something runs where that is wanted: once, of all machines. Raises InvalidRequest: nobody agreed."""
    asking = [place for place in places if place.confirm]
    if not asking or confirmed:
        return
    names = [place.name for place in asking]
    more = f" and {len(names) - TOLD} more" if len(names) > TOLD else ""
    told = ", ".join(names[:TOLD]) + more
    sources = ", ".join(dict.fromkeys(place.source for place in asking))
    want = "wants" if len(names) == 1 else "want"
    wanted = f"{told} {want} a word before a cell runs there (confirm = true, {sources})"
    others = f", and on {len(places) - len(names)} that do not ask" if len(places) > len(names) else ""
    try:
        answer = input(
            f"{wanted}. Run {what}{' on these ' + str(len(names)) + others if len(places) > 1 else ''}? [y/N] "
        )
    except (EOFError, NotImplementedError):  # the latter is ipykernel's, for a front end that takes no input
        raise InvalidRequest(f"{wanted}, and nobody can be asked here: say --yes. Nothing was started") from None
    if answer.strip().lower() not in ("y", "yes"):
        raise InvalidRequest(f"{told}: not confirmed, so nothing was started")
