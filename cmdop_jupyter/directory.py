"""The machines of this process by name, one object each; those reached before; who is asked what ssh asks."""

from __future__ import annotations

import contextlib
import functools
import getpass
import json
import logging
import os
import platform
import shlex
import sys
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .agent.places import default_root, make_private
from .config import Config
from .errors import CmdopError, ConfigError, NotSupported
from .fleet_names import counted
from .machines.asking import Asking, Question
from .machines.base import LinkState, Machine
from .machines.far import FarMachine
from .machines.local import LocalMachine
from .machines.parcel import agent_parcel
from .machines.presets import RELAY, Place, relay_name
from .machines.stdio import StdioMachine
from .runtime import NobodyWaits, on_main_thread

if TYPE_CHECKING:
    from .relay.connection import Card, Relay

RECENT = 50  # machines that are remembered

log = logging.getLogger("cmdop_jupyter")

Asker = Callable[[Question], Awaitable[str | None]]

NOT_DIALLED = LinkState("down", "not dialled yet")


@dataclass(frozen=True, slots=True, repr=False)
class MachineInfo:
    """A machine at the moment it was asked for; nothing is dialled to know it.

    Attributes:
        name: What the user calls it.
        kind: `local`, `ssh`, `docker`, `kubectl`, `sudo`, `link` or `relay`; '' where that is not known.
        reached_by: The command that gets there, without what we add to it.
        tags: Of the configuration.
        link_state: How its link is.
        agent, python: Their versions there; '' before it was reached.
        round_trip: Seconds that the newest ping took; None while that is not known.
        source: Where it is known from.
        error: Why it cannot be reached as it is; None where nothing stands in the way yet.
        present: Whether the relay hears of it; None where no relay was asked.
        heard: When the relay heard of it last, in seconds since the epoch.
    """

    name: str
    kind: str = ""
    reached_by: str = ""
    tags: tuple[str, ...] = ()
    link_state: LinkState = NOT_DIALLED
    agent: str = ""
    python: str = ""
    round_trip: float | None = None
    source: str = ""
    error: CmdopError | None = None
    present: bool | None = None
    heard: float | None = None

    @property
    def link(self) -> str:
        """`connecting`, `up`, `retrying` or `down`."""
        return self.link_state.state

    def __repr__(self) -> str:
        if self.error is not None:
            return f"<Machine {self.name}: {self.error}>"
        if self.present is False and self.heard is not None:
            since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.heard))
            return f"<Machine {self.name}: {self.reached_by}, offline, last heard of at {since}>"
        reason = f" ({self.link_state.reason})" if self.link != "up" and self.link_state.reason else ""
        return f"<Machine {self.name}: {self.reached_by}, {self.link}{reason}>"


_machines: dict[str, Machine] = {}
_places: dict[str, Place] = {}
_asker: Asker | None = None
_asking: Asking | None = None
_relays: dict[tuple[str, str], Relay] = {}
_remote: dict[tuple[Relay, str], Machine] = {}  # of clients that have a relay only


def machine(name: str = "local") -> Machine:
    """The machine of that name.

    Raises:
        UnknownMachine: Nothing has that name.
        InvalidRequest, ConfigError: It cannot be what it says it is.
    """
    if name == "local" and name in _machines:
        return _machines[name]  # without a look at any file
    try:
        place = Config.load().resolve(name)
    except ConfigError as error:
        if name != "local":
            raise
        log.warning("%s", error)  # what is wrong with other machines must not stop this one
        place = Place("local", "local")
    return _at(place)


def several(words: Iterable[str]) -> list[tuple[Place, Machine]]:
    """The machines that words stand for, each once, and how each is reached: names, `@group`, `web[01-20]`.

    Raises:
        UnknownMachine, InvalidRequest, ConfigError: As `machine`; UnknownMachines tells of all that are wrong.
    """
    return [(place, _at(place)) for place in Config.load().several(words)]


def _at(place: Place) -> Machine:
    known = _machines.get(place.name)
    if known is None or (_places[place.name] != place and known.link.state == "down"):
        _places[place.name] = place
        _machines[place.name] = known = _made(place)
    return known


def here() -> dict[str, Machine]:
    """The machines that were asked for in this process, by name."""
    return dict(_machines)


def reached_before() -> list[str]:
    """Names of the machines that this user has reached from here, the newest first; `local` is not among them."""
    names = _remembered()
    return [name for name, one in _machines.items() if one.link.state == "up" and name not in ("local", *names)] + names


def machine_names() -> list[str]:
    """Names that a machine may be asked for by, those reached before among them."""
    names = [name for name in Config.load().names() if not name.startswith("@")]
    return list(dict.fromkeys([*names, *reached_before()]))


def fleet_words() -> list[str]:
    """Words for several machines: groups and tags as `@name`, and `web[01-20]` where names count."""
    names = Config.load().names()
    return [*(name for name in names if name.startswith("@")), *counted(machine_names())]


def known(names: Iterable[str] | None = None) -> list[MachineInfo]:
    """The machines of those names, by default all that are known, as they are now; nothing is dialled.

    Raises:
        ConfigError: A file makes no sense.
    """
    config = Config.load()
    return [_info(config, name) for name in (machine_names() if names is None else names)]


def _info(config: Config, name: str) -> MachineInfo:
    one = _machines.get(name)
    try:
        place = config.resolve(name)
    except CmdopError as error:
        return MachineInfo(name, error=error)
    if place.kind == "local":
        link, trip, python = LinkState("up"), None, platform.python_version()
    elif isinstance(one, FarMachine) and (one.place == place or one.link.state != "down"):
        place, link, python = one.place, one.link, str(one.hello.get("python", ""))
        trip = one.round_trip if link.state == "up" else None
    else:
        link, trip, python = NOT_DIALLED, None, ""
    agent = agent_parcel().version if python else ""
    return MachineInfo(name, place.kind, how(place), place.tags, link, agent, python, trip, place.source)


def how(place: Place) -> str:
    """How a machine is reached, without what we add to it: `ssh -p 2222 me@host`."""
    words = list(place.command)
    if place.kind == "local":
        return "this machine"
    if place.kind == "relay":
        return f"relay:{words[0]}"
    if place.kind == "ssh":
        ours = len(words) - words[::-1].index("-o") + 1 if "-o" in words else 1
        words = ["ssh", *(word for word in words[ours:] if word != "--")]
    elif words[-2:] == ["sh", "-c"]:
        words = [word for word in words[:-2] if word != "--"]
    return shlex.join(words)


def forget(name: str) -> None:
    """Do not list a machine among those reached before."""
    _write([one for one in _remembered() if one != name])


def set_asker(asker: Asker | None) -> None:
    """Ask `asker` what ssh asks while nobody waits on the main thread; None: then nobody is asked."""
    global _asker
    _asker = asker


def _made(place: Place) -> Machine:
    global _asking
    if place.kind == "local":
        return LocalMachine(place=place)
    if place.kind == "relay":
        return _on_relay(place, relay())
    if _asking is None:
        _asking = Asking(_ask)
    return StdioMachine(place, _asking, on_up=functools.partial(_remember, place.name))


def _on_relay(place: Place, way: Relay) -> Machine:
    from .machines.relay import RelayMachine

    return RelayMachine(place, way, on_up=functools.partial(_remember, place.name))


def relay(api_key: str | None = None, url: str | None = None) -> Relay:
    """The way to a relay: as given, else as CMDOP_API_KEY and CMDOP_RELAY_URL say, else as cmdop.toml says.

    Raises:
        BadKey: There is no key, or it is none.
        NotSupported: What it takes is not installed.
    """
    try:
        from .relay.connection import Relay
        from .relay.keys import ApiKey
    except ImportError:
        raise NotSupported("the relay needs nats-py and nkeys: pip install 'cmdop-jupyter[relay]'") from None
    said = Config.load().relay
    key = ApiKey.parse(api_key or os.environ.get(said.get("api_key_env", "CMDOP_API_KEY"), ""))
    where = url or os.environ.get("CMDOP_RELAY_URL") or said.get("url") or key.url
    known = where, key.identity.proof.public_key
    if known not in _relays:
        _relays[known] = Relay(where, key.identity, key.workspace_public)
    return _relays[known]


def machines_on(way: Relay) -> Callable[[str], Machine]:
    """Gives the machines of one relay by their names there, one object each."""

    def lookup(name: str) -> Machine:
        (bare,) = relay_name(name.removeprefix(RELAY))
        if (way, bare) not in _remote:
            _remote[way, bare] = _on_relay(Place(bare, "relay", (bare,), source="as given"), way)
        return _remote[way, bare]

    return lookup


def announced(way: Relay, cards: Iterable[Card], lookup: Callable[[str], Machine]) -> list[MachineInfo]:
    """The machines of a roster."""
    infos = []
    for card in cards:
        one = lookup(card.name)
        assert isinstance(one, FarMachine)
        trip = one.round_trip if one.link.state == "up" else None
        agent, python = str(card.facts.get("agent", "")), str(one.hello.get("python", ""))
        infos.append(
            MachineInfo(
                card.name,
                "relay",
                f"relay:{card.name}",
                card.tags,
                one.link,
                agent,
                python,
                trip,
                f"the relay {way.url}",
                present=card.up,
                heard=card.heard_ns / 1e9,
            )
        )
    return infos


async def _ask(question: Question) -> str | None:
    """Somebody who waits for us is asked where they wait; else in the page."""
    with contextlib.suppress(NobodyWaits):
        return await on_main_thread(functools.partial(_ask_here, question))
    return await _asker(question) if _asker is not None else None


def _ask_here(question: Question) -> str | None:
    """Ask at the keyboard, or in the cell that runs; None where nobody can be asked."""
    if "ipykernel" not in sys.modules and not sys.stdin.isatty():
        return None
    try:
        return (getpass.getpass if question.secret else input)(f"{question.text.rstrip()} ")
    except Exception:  # a kernel whose front end takes no input has an error of its own for it
        return None
    except KeyboardInterrupt:
        return None


def _file() -> Path:
    return Path(default_root()) / "machines.json"


def _remembered() -> list[str]:
    try:
        names = json.loads(_file().read_text())
    except (OSError, ValueError):
        return []
    return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []


def _remember(name: str) -> None:
    names = _remembered()
    if names[:1] != [name]:
        _write([name, *(one for one in names if one != name)][:RECENT])


def _write(names: list[str]) -> None:
    path = _file()
    fresh = path.with_name(f"{path.name}.{os.getpid()}")
    with contextlib.suppress(OSError, CmdopError):  # to be remembered is a convenience
        make_private(str(path.parent))
        fresh.write_text(json.dumps(names))
        fresh.replace(path)
