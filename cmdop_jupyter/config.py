"""Names of machines, out of files, and what they stand for: a `Place`. Reads files; runs and reaches nothing.

What says it most narrowly wins. A machine, and a group, is taken whole from the first of these that has it, while
`[defaults]` are joined key by key in the same order:

1. the file that the environment variable CMDOP_CONFIG names;
2. the nearest `cmdop.toml` in the notebook's folder or above it;
3. `$XDG_CONFIG_HOME/cmdop/config.toml`, by default in `~/.config`;
4. for names that are in none of them: the Host lines of `~/.ssh/config`, and of what it includes.

```toml
[machines.web1]
ssh = "me@web1.example.com"              # or docker, kubectl, sudo, relay (a string), link (a list of words); nothing:
cwd = "/srv/app"                         # as in ~/.ssh/config. Paths are the far side's, and are not expanded here
tags = ["web"]
confirm = true

[groups]
all = ["@web", "db[1-3]", "docker://cache"]  # @ is a group, or all machines with that tag

[defaults]                               # below each machine but `local`, also those that no file mentions
detach = "systemd"

[relay]
api_key_env = "CMDOP_API_KEY"            # the variable that has the key; the key itself does not belong in a file
url = "nats://relay.example.com"         # where it is not as the key says
```
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .errors import CmdopError, ConfigError, InvalidRequest, UnknownMachine, UnknownMachines
from .fleet_names import expand
from .machines.presets import Place, explicit, ssh_command
from .machines.settings import WAYS, ConfigFile, did_you_mean, nearest, parse_file
from .machines.ssh_hosts import SshHosts, read_ssh_hosts

__all__ = ["Config"]

FILE = "cmdop.toml"


class Config:
    """Machines and groups as files have them at one moment.

    Args:
        files: The narrowest first.
        ssh: What ssh's own configuration knows.

    Attributes:
        relay: `url` and `api_key_env`, where a file has them.

    Raises:
        ConfigError: A group contains itself, or one that there is not.
    """

    def __init__(self, files: Sequence[ConfigFile] = (), ssh: SshHosts | None = None) -> None:
        self._ssh = ssh or SshHosts()
        self._machines: dict[str, tuple[ConfigFile, Mapping[str, Any]]] = {}
        self._groups: dict[str, tuple[ConfigFile, tuple[str, ...]]] = {}
        self._defaults: Mapping[str, Any] = {}
        self.relay: Mapping[str, str] = {}
        for file in files:
            for name, settings in file.machines.items():
                self._machines.setdefault(name, (file, settings))
            for name, members in file.groups.items():
                self._groups.setdefault(name, (file, members))
            self._defaults = _above(self._defaults, file.defaults)
            self.relay = {**file.relay, **self.relay}
        for name in self._groups:
            self._check_group(name, ())

    @classmethod
    def load(cls, folder: Path | None = None) -> Config:
        """What the files say now, seen from `folder`; by default the current one, which is the notebook's.

        Raises:
            ConfigError: One of them cannot be read, or says something that cannot be.
        """
        return cls(_read_files(folder), read_ssh_hosts(Path(os.path.expanduser("~/.ssh/config"))))

    @property
    def groups(self) -> Mapping[str, tuple[str, ...]]:
        """The groups, with their members as they are written down."""
        return {name: members for name, (_, members) in self._groups.items()}

    def names(self) -> list[str]:
        """All that can be asked for by name: `local`, machines, hosts of ssh, then groups and tags as `@name`."""
        tags = [tag for name in self._machines for tag in self._settings(name).get("tags", ())]
        groups = [f"@{name}" for name in (*self._groups, *tags)]
        return list(dict.fromkeys(["local", *self._machines, *self._ssh.names(), *groups]))

    def resolve(self, name: str) -> Place:
        """The machine of that name.

        Raises:
            UnknownMachine: There is none; has the nearest names.
            InvalidRequest: It says how to get there and cannot be right, or is a group.
            ConfigError: A file has it, without saying how it is reached.
        """
        if name.startswith("@"):
            raise InvalidRequest(f"{name} is not one machine: {', '.join(self.group(name))}")
        way = None if name == "local" else explicit(name, ignore_unknown=self._ssh.ignore_unknown)
        if way is not None:
            return Place(name, *way, **self._defaults, source="as given")
        if name in self._machines:
            return self._from_file(name, *self._machines[name])
        if name == "local":
            return Place(name, name, source="as given")
        if self._ssh.knows(name):
            return Place(name, "ssh", self._ssh_command(name), **self._defaults, source="~/.ssh/config")
        raise UnknownMachine(name, nearest(name, self.names()))

    def group(self, name: str) -> list[str]:
        """The machines of a group, else all with that tag, each once; the `@` in front of the name may be missing.

        Raises:
            UnknownMachine: There is no such group or tag.
            ConfigError: A member is no machine.
        """
        members: dict[str, None] = {}
        self._collect(name.removeprefix("@"), members, set())
        if not members and name.removeprefix("@") not in self._groups:
            wanted = "@" + name.removeprefix("@")
            raise UnknownMachine(wanted, nearest(wanted, [name for name in self.names() if name.startswith("@")]))
        return list(members)

    def several(self, words: Iterable[str]) -> list[Place]:
        """The machines that words stand for, each once: names, `@group`, `@tag`, `web[01-20]`.

        Raises:
            UnknownMachine: There is none of that one name.
            UnknownMachines: Of one or more of several; says of all which.
            InvalidRequest, ConfigError: As `resolve`.
        """
        places: dict[str, Place] = {}
        errors: dict[str, CmdopError] = {}
        for word in words:
            try:
                names = expand(word)
            except InvalidRequest as error:
                errors.setdefault(word, error)
                continue
            for name in names:
                try:
                    for member in self.group(name) if name.startswith("@") else [name]:
                        places.setdefault(member, self.resolve(member))
                except CmdopError as error:
                    errors.setdefault(name, error)
        if errors and len(places) + len(errors) > 1:
            raise UnknownMachines(tuple(errors.values()))
        for only in errors.values():
            raise only
        return list(places.values())

    def _from_file(self, name: str, file: ConfigFile, settings: Mapping[str, Any]) -> Place:
        fields = {key: value for key, value in self._settings(name).items() if key not in WAYS}
        if name == "local":
            return Place(name, name, **fields, source=file.source)
        kind = next((way for way in WAYS if way in settings), None)
        if kind is None and not self._ssh.knows(name):
            raise ConfigError(
                file.path,
                f"machines.{name}",
                f"it does not say how it is reached, and ~/.ssh/config has no such Host; one of {', '.join(WAYS)} "
                f'says so, such as `ssh = "{name}"`',
            )
        if kind is None or kind == "ssh":
            return Place(name, "ssh", self._ssh_command(settings.get("ssh", name)), **fields, source=file.source)
        return Place(name, kind, settings[kind], **fields, source=file.source)

    def _ssh_command(self, destination: str) -> tuple[str, ...]:
        return ssh_command(destination, ignore_unknown=self._ssh.ignore_unknown)

    def _settings(self, name: str) -> Mapping[str, Any]:
        own = self._machines[name][1]
        return own if name == "local" else _above(own, self._defaults)

    def _tagged(self, tag: str) -> list[str]:
        return [name for name in self._machines if tag in self._settings(name).get("tags", ())]

    def _collect(self, group: str, members: dict[str, None], seen: set[str]) -> None:
        seen.add(group)
        if group not in self._groups:
            members.update(dict.fromkeys(self._tagged(group)))
            return
        file, written = self._groups[group]
        for member in written:
            if not member.startswith("@"):
                try:
                    for name in expand(member):
                        self.resolve(name)
                        members[name] = None
                except (InvalidRequest, UnknownMachine) as error:
                    raise ConfigError(file.path, f"groups.{group}", str(error)) from None
            elif member[1:] not in seen:
                self._collect(member[1:], members, seen)

    def _check_group(self, name: str, above: tuple[str, ...]) -> None:
        file, members = self._groups[name]
        if name in above:
            raise ConfigError(file.path, f"groups.{name}", f"it contains itself: {' → '.join((*above, name))}")
        for member in members:
            if member[1:] in self._groups and member.startswith("@"):
                self._check_group(member[1:], (*above, name))
            elif member.startswith("@") and not self._tagged(member[1:]):
                known = [known for known in self.names() if known.startswith("@")]
                near = did_you_mean(nearest(member, known))
                raise ConfigError(file.path, f"groups.{name}", f"no group or tag is called {member!r}{near}")


def _above(upper: Mapping[str, Any], lower: Mapping[str, Any]) -> Mapping[str, Any]:
    """Settings with others below them; variables are joined one by one."""
    joined = {**lower, **upper}
    if "env" in upper and "env" in lower:
        joined["env"] = {**lower["env"], **upper["env"]}
    return joined


# -- finding and reading files


def _read_files(folder: Path | None) -> list[ConfigFile]:
    """The files there are, the narrowest first."""
    paths = []
    chosen = os.environ.get("CMDOP_CONFIG")
    if chosen:
        path = Path(os.path.expanduser(chosen)).absolute()
        if not path.is_file():
            raise ConfigError(str(path), "", "CMDOP_CONFIG names this file, and it is not there")
        paths.append(path)
    with contextlib.suppress(FileNotFoundError):  # the current folder was deleted
        start = (folder or Path.cwd()).absolute()
        nearest_one = next((at / FILE for at in (start, *start.parents) if os.path.isfile(at / FILE)), None)
        if nearest_one is not None and not any(path.samefile(nearest_one) for path in paths):
            _check_owner(nearest_one, start)
            paths.append(nearest_one)
    base = os.environ.get("XDG_CONFIG_HOME", "")  # a relative one is to be ignored, says its specification
    own = Path(base if os.path.isabs(base) else os.path.expanduser("~/.config"), "cmdop", "config.toml")
    return [_read_file(path) for path in (*paths, own) if os.path.isfile(path)]


def _read_file(path: Path) -> ConfigFile:
    try:
        return parse_file(path.read_bytes().decode("utf-8-sig"), str(path))
    except OSError as error:
        raise ConfigError(str(path), "", f"it cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ConfigError(str(path), "", f"it is not UTF-8 (line {line})") from None


def _check_owner(path: Path, folder: Path) -> None:
    """Refuse what somebody else left above our folder, as in /tmp: it says what we run."""
    if os.name == "posix":
        reason = stranger(_owner(path), os.getuid(), _owner(folder))
        if reason:
            raise ConfigError(str(path), "", f"{reason}; if you trust it, name it in CMDOP_CONFIG")


def _owner(path: Path) -> int:
    return path.stat().st_uid


def stranger(owner: int, us: int, host: int) -> str:
    """Why a file is not to be trusted that belongs to neither us nor root nor `host`, whose folder we work in."""
    if owner in (0, us, host):
        return ""
    return f"it belongs to uid {owner}, not to you, and would say what runs in your name"
