"""From the text of one cmdop.toml to what it says of machines and groups, checked. Reads no files."""

from __future__ import annotations

import contextlib
import difflib
import json
import math
import os
import shlex
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..agent.store import NAME
from ..errors import ConfigError, InvalidRequest
from .presets import RELAY, explicit, relay_name, ssh_command

__all__ = ["WAYS", "ConfigFile", "did_you_mean", "nearest", "parse_file"]

SYSTEMD = ("systemd-run", "--user", "--scope", "--quiet", "--collect", "--")
SHORTEST_SILENCE = 1.0  # seconds


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """What one file says.

    Attributes:
        machines: Of each the fields of `Place` that it sets, and one of `ssh` (destination), `docker`, `kubectl`,
            `sudo`, `link` (command), `relay` (name there) at most.
        groups: Members, as they are written.
        defaults: Fields of `Place`.
        relay: `url`, and `api_key_env`: the environment variable that has the key.
    """

    path: str
    machines: Mapping[str, Mapping[str, Any]]
    groups: Mapping[str, tuple[str, ...]]
    defaults: Mapping[str, Any]
    relay: Mapping[str, str] = field(default_factory=dict)

    @property
    def source(self) -> str:
        """The file, as people find it."""
        folder, name = os.path.split(self.path)
        home = os.path.expanduser("~")
        inside = folder == home or folder.startswith(home + os.sep)
        return f"{name} in {'~' + folder[len(home) :] if inside else folder}"


def parse_file(text: str, path: str) -> ConfigFile:
    """Read what a file says. Raises ConfigError at the first thing that cannot be."""
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(path, "", f"it cannot be read as TOML: {error}") from None
    tables = ("machines", "groups", "defaults", "relay")
    _check_keys(path, "", document, tables)
    machines, groups, defaults, relay = (_table(path, key, document.get(key, {})) for key in tables)
    if "api_key" in relay:
        reason = "a key is a secret: leave it in an environment variable, and name that here, in `api_key_env`"
        raise ConfigError(path, "relay.api_key", reason)
    for key, names in (("machines", machines), ("groups", groups)):
        for name in names:
            _checked(path, f"{key}.{name}", _name, name)
    return ConfigFile(
        path,
        {name: _machine(path, name, _table(path, f"machines.{name}", table)) for name, table in machines.items()},
        {name: _checked(path, f"groups.{name}", _members, members) for name, members in groups.items()},
        _settings(path, "defaults", defaults, SETTINGS),
        _settings(path, "relay", relay, RELAY_KEYS),
    )


def _machine(path: str, name: str, table: Mapping[str, Any]) -> Mapping[str, Any]:
    settings = _settings(path, f"machines.{name}", table, KEYS)
    ways = [way for way in WAYS if way in settings]
    if name == "local" and ways:
        raise ConfigError(path, f"machines.local.{ways[0]}", "`local` is this machine; give that one another name")
    if len(ways) > 1:
        raise ConfigError(
            path, f"machines.{name}", f"it has {len(ways)} ways to be reached: {' and '.join(ways)}; one is needed"
        )
    return settings


def _settings(
    path: str, key: str, table: Mapping[str, Any], known: Mapping[str, Callable[[Any], Any]]
) -> Mapping[str, Any]:
    _check_keys(path, f"{key}.", table, known)
    return {name: _checked(path, f"{key}.{name}", known[name], value) for name, value in table.items()}


def _check_keys(path: str, prefix: str, table: Mapping[str, Any], known: Iterable[str]) -> None:
    for name in table:
        if name not in known:
            if name in WAYS:
                reason = "it says how one machine is reached, and belongs in [machines.NAME]"
            else:
                hint = did_you_mean(nearest(name, known)) or f"; there are {', '.join(known)}"
                reason = "there is no such key" + hint
            raise ConfigError(path, prefix + name, reason)


def _table(path: str, key: str, value: Any) -> Mapping[str, Any]:
    table: Mapping[str, Any] = _checked(path, key, _of(dict, "a table"), value)
    return table


def _checked(path: str, key: str, check: Callable[[Any], Any], value: Any) -> Any:
    try:
        return check(value)
    except ValueError as error:
        raise ConfigError(path, key, str(error)) from None


# -- values: each returns what a `Place` holds, or raises ValueError with the reason


def _of(kind: type, what: str) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        if type(value) is not kind:
            raise ValueError(f"it is {what}, not {_kind(value)}")
        return value

    return check


def _kind(value: Any) -> str:
    kinds = {
        str: "a string",
        bool: "true or false",
        int: "a number",
        float: "a number",
        list: "a list",
        dict: "a table",
    }
    return kinds.get(type(value), "a date or time")


def _text(value: Any) -> str:
    text: str = _of(str, "a string")(value)
    if not text.strip() or not text.isprintable():
        raise ValueError(f"it cannot be {text!r}")
    return text


def _words(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        raise ValueError(f"it is a list of words, not a string: {json.dumps(_split(value))}")
    return tuple(_of(str, "a list of strings")(word) for word in _of(list, "a list of words")(value))


def _split(text: str) -> list[str]:
    with contextlib.suppress(ValueError):
        return shlex.split(text)
    return text.split()


def _link(value: Any) -> tuple[str, ...]:
    words = _words(value)
    if not words or not words[0]:
        raise ValueError("it is empty; the first word is the command to run")
    return words


def _detach(value: Any) -> tuple[str, ...]:
    if isinstance(value, str) and value != "systemd":
        raise ValueError(f'it is "systemd" or a list of words, not the string {json.dumps(value)}')
    return SYSTEMD if value == "systemd" else _words(value)


def _name(value: Any) -> str:
    if not isinstance(value, str) or not NAME.fullmatch(value):
        raise ValueError(f"{value!r} cannot be a name: letters, digits, `.`, `_`, `-`, at most 64, not a sign first")
    return value


def _tags(value: Any) -> tuple[str, ...]:
    return tuple(_name(tag) for tag in _of(list, "a list of names")(value))


def _members(value: Any) -> tuple[str, ...]:
    return tuple(_text(member) for member in _of(list, "a list of machines")(value))


def _variables(value: Any) -> Mapping[str, str]:
    for name, text in _of(dict, "a table of variables")(value).items():
        if type(text) is not str or "\0" in text:
            raise ValueError(f"{name} is {_kind(text)}; a variable's value is a string, in quotes")
        if not name or "=" in name or "\0" in name:
            raise ValueError(f"{name!r} cannot be a variable")
    return dict(value)


def _silence(value: Any) -> float:
    if type(value) not in (int, float) or not math.isfinite(value) or value < SHORTEST_SILENCE:
        raise ValueError(f"it is a number of seconds, at least {SHORTEST_SILENCE:g}, not {value!r}")
    return float(value)


def _destination(value: Any) -> str:
    ssh_command(_text(value))
    return str(value)


def _on_relay(value: Any) -> tuple[str, ...]:
    try:
        return relay_name(_text(value).removeprefix(RELAY))
    except InvalidRequest as error:
        raise ValueError(str(error)) from None


def _reached(scheme: str) -> Callable[[Any], Any]:
    def check(value: Any) -> tuple[str, ...]:
        way = explicit(f"{scheme}://{_text(value).removeprefix(f'{scheme}://')}")
        return () if way is None else way[1]

    return check


SETTINGS: Mapping[str, Callable[[Any], Any]] = {
    "python": _text,
    "cwd": _text,
    "env": _variables,
    "shell": _text,
    "login": _of(bool, "true or false"),
    "detach": _detach,
    "tags": _tags,
    "confirm": _of(bool, "true or false"),
    "silence": _silence,
}
WAYS: Mapping[str, Callable[[Any], Any]] = {
    "ssh": _destination,
    "docker": _reached("docker"),
    "kubectl": _reached("k8s"),
    "sudo": _reached("sudo"),
    "link": _link,
    "relay": _on_relay,
}
RELAY_KEYS: Mapping[str, Callable[[Any], Any]] = {"api_key_env": _text, "url": _text}
KEYS = {**WAYS, **SETTINGS}


# -- names


def nearest(wanted: str, names: Iterable[str]) -> tuple[str, ...]:
    """Up to three names that look like the wanted one, whatever their case; else such as contain it."""
    folded = {name.casefold(): name for name in names}
    close = difflib.get_close_matches(wanted.casefold(), folded, 3)
    part = wanted.casefold().strip("@")
    return tuple(folded[name] for name in close or [name for name in folded if len(part) > 1 and part in name][:3])


def did_you_mean(names: Iterable[str]) -> str:
    """`; did you mean web1 or web2?`, or nothing."""
    names = list(names)
    return f"; did you mean {' or '.join(names)}?" if names else ""
