"""`%%cmdop` on several machines: asks, starts, shows, waits."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..agent.store import first_line
from ..directory import several
from ..errors import InvalidRequest, LinkLost
from ..fleet import Fleet, FleetStream, Starter
from ..machines.base import Machine
from ..machines.presets import Place
from ..runtime import runtime
from ..wait import wait_all
from .notices import set_up
from .options import CellOptions
from .tables import Table
from .views import Views

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
    set_up(streams, options, views)
    fleet = Fleet(
        streams,
        request,
        at_most=options.at_most,
        stop_on_failure=options.stop_on_failure,
        starter=Starter(request, options.if_running, local),
        front=views.fleets(options.tail if options.view == "output" else 0),
    ).begin()
    made(fleet)
    if options.until:
        return wait_all(options.until, fleet, fail=options.fail, timeout=options.timeout, start="begin").result()
    if options.wait:
        fleet.wait_exit(options.timeout, fail=options.fail).result()
        if options.must_succeed:
            fleet.check()
    return None


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
