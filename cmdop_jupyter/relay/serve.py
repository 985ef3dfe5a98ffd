"""`cmdop-relay serve`: puts this machine on a relay, for ever: over cuts, restarts and days without the relay."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import importlib
import logging
import os
import platform
import random
import shlex
import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..agent.calls import Calls
from ..agent.environment import ASKING
from ..agent.store import SessionStore
from ..errors import CmdopError, InvalidRequest, KeyRefused, LinkLost
from ..machines.far import pause_before
from . import subjects
from .keys import MachineKey, read_machine_key
from .publishing import Publisher
from .seals import seal_card
from .serving import Rules, Service
from .wire import Silent, Wire

RENEW, LEASE = 10.0, 30.0  # seconds between two cards in the roster, and that one counts
SILENCE = 15.0  # seconds without a word after which the relay counts as gone
SETTLED = 1.0  # seconds that a wire must have held, for the next try to be made at once

log = logging.getLogger("cmdop_jupyter.relay")


@dataclass(frozen=True)
class Options:
    """How a machine serves.

    Attributes:
        allowed: Commands by name, when these only may be started.
        mirror: Publish every session that runs, asked for or not.
        tags: For the roster.
        silence: Seconds without a word after which the relay counts as gone.
    """

    allowed: Mapping[str, Sequence[str]] = field(default_factory=dict)
    observe_only: bool = False
    mirror: bool = False
    tags: tuple[str, ...] = ()
    silence: float = SILENCE


async def serve(key: MachineKey, options: Options) -> None:
    """Serve until cancelled; sessions go on after it.

    Raises:
        StoreRefused: The sessions' folder cannot be used.
    """
    store = SessionStore()
    publisher = Publisher(key.identity, Calls(store), always=options.mirror)
    rules = Rules(options.allowed, observe_only=options.observe_only)
    service = Service(key.identity, key.workspace_public, store, rules, publisher, _hello(options))
    beside = [asyncio.ensure_future(service.run()), asyncio.ensure_future(publisher.run())]
    failed = 0  # tries in a row that did not hold
    try:
        while True:
            began = time.monotonic()
            try:
                await _serve_once(key, options, service, publisher)
            except KeyRefused as error:
                log.error("%s", error)
            except LinkLost as error:  # it was up
                log.warning("the connection to the relay broke (%s); sessions go on", error.reason)
                failed = -1 if time.monotonic() - began > SETTLED else 0
            except CmdopError as error:
                log.warning("%s", error)
            failed += 1
            await asyncio.sleep(pause_before(failed, random.random()) if failed else 0.2 * random.random())
    finally:
        for task in beside:
            task.cancel()
        service.close()
        publisher.end()
        publisher.calls.close()


async def _serve_once(key: MachineKey, options: Options, service: Service, publisher: Publisher) -> None:
    """Serve over one wire until it breaks. Raises LinkLost, RelayUnreachable, KeyRefused."""
    machine = key.identity.proof.name
    inbox = subjects.machine_inbox(machine)
    wire = await Wire.open(key.url, key.identity, inbox, silence=options.silence, name=f"cmdop-relay {machine}")
    try:
        wire.on_denied(lambda subject: log.warning("the relay does not let %s publish on %s", machine, subject))
        await service.begin(wire)
        await publisher.begin(wire)
        await _announce(wire, key, options, "up")
        log.info("%s is on the relay %s, workspace %s", machine, wire.url, key.workspace)
        while wire.lost is None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RENEW):
                    await asyncio.shield(wire.gone)
            await _announce(wire, key, options, "up")
        raise LinkLost("the relay", wire.lost)
    except asyncio.CancelledError:
        with contextlib.suppress(CmdopError, TimeoutError):
            async with asyncio.timeout(2.0):
                await _announce(wire, key, options, "away")
                await wire.flush()
        raise
    finally:
        service.end()
        publisher.end()
        await wire.close()


async def _announce(wire: Wire, key: MachineKey, options: Options, state: str) -> None:
    """Renew the lease in the roster; where that fails the machine serves all the same."""
    machine = key.identity.proof.name
    facts = {
        "hostname": socket.gethostname(),
        "platform": f"{sys.platform} {os.uname().machine}",
        "agent": _version(),
        "tags": list(options.tags),
        "load": round(os.getloadavg()[0], 2),
        "renewed_ns": time.time_ns(),
        "lease_s": LEASE,
        "state": state,
        "allowed": sorted(options.allowed),
        "observe_only": options.observe_only,
    }
    try:
        await wire.request(subjects.roster(machine), seal_card(key.identity, facts))
    except Silent as error:
        if wire.lost is None:
            log.warning("the roster does not have %s: %s; `cmdop-relay keys FOLDER provision` makes it", machine, error)


def _hello(options: Options) -> dict[str, Any]:
    return {
        "agent": _version(),
        "python": platform.python_version(),
        "platform": f"{sys.platform} {os.uname().machine}",
        "hostname": socket.gethostname(),
        "pid": os.getpid(),
        "allowed": sorted(options.allowed),
        "observe_only": options.observe_only,
    }


def _version() -> str:
    return str(importlib.import_module(__package__.rpartition(".")[0]).__version__)


def run(key: MachineKey, options: Options) -> int:
    """`serve` as a process: ended by SIGTERM or SIGINT, its words on stderr."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    for name in ASKING:
        os.environ.pop(name, None)
    home = os.path.expanduser("~")
    os.chdir(home if os.access(home, os.X_OK) else "/")
    try:
        asyncio.run(_until_ended(key, options))
    except CmdopError as error:
        log.error("%s", error)
        return 1
    return 0


async def _until_ended(key: MachineKey, options: Options) -> None:
    loop = asyncio.get_running_loop()
    serving = asyncio.ensure_future(serve(key, options))
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, serving.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await serving


def main(words: list[str]) -> int:
    """Serve as the command line says; return the exit status (2: it made no sense)."""
    said = _parser().parse_args(words)
    try:
        key = read_machine_key(said.key)
        name = key.identity.proof.name
        if said.machine not in (None, name):
            raise InvalidRequest(f"the key {said.key} is of {name}, not of {said.machine}")
        if said.url:
            key = dataclasses.replace(key, url=said.url)
        allowed = dict(map(_allowed, said.allow))
        tags = tuple(subjects.check_name(tag, "a tag") for tag in said.tag)
    except CmdopError as error:
        sys.stderr.write(f"cmdop-relay: {error}\n")
        return 2
    return run(key, Options(allowed, said.observe_only, said.mirror, tags, said.silence))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="cmdop-relay serve", description="Be a machine on a relay, for ever.")
    parser.add_argument("--machine", metavar="NAME", help="the name that the key must be of")
    parser.add_argument("--key", required=True, metavar="FILE", help="as `cmdop-relay keys … machine` wrote it")
    parser.add_argument("--url", help="the relay, when it is not where the key says")
    parser.add_argument(
        "--allow", action="append", default=[], metavar="NAME=COMMAND", help="start this command only; repeatable"
    )
    parser.add_argument("--observe-only", action="store_true", help="start, type, signal and stop nothing")
    parser.add_argument("--mirror", action="store_true", help="publish the output of all sessions, asked for or not")
    parser.add_argument("--tag", action="append", default=[], metavar="TAG", help="shown in the roster; repeatable")
    parser.add_argument("--silence", type=float, default=SILENCE, help=argparse.SUPPRESS)
    return parser


def _allowed(text: str) -> tuple[str, list[str]]:
    name, equals, command = text.partition("=")
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise InvalidRequest(f"--allow {text!r} makes no sense: {error}") from None
    if not equals or not words:
        raise InvalidRequest(f"--allow is NAME=COMMAND, as in --allow 'deploy=/usr/local/bin/deploy now', not {text!r}")
    return subjects.check_name(name.strip(), "a command"), words
