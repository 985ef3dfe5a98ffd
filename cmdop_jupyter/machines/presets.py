"""From what the user calls a machine to the command that gives its stdin and stdout. Runs nothing, reads nothing."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote

from ..agent.errors import InvalidRequest
from .base import StartRequest

__all__ = [
    "FORMS",
    "RELAY",
    "Place",
    "asked_at",
    "docker_command",
    "explicit",
    "kubectl_command",
    "relay_name",
    "ssh_command",
    "sudo_command",
]

SILENCE = 15.0  # seconds; what `ServerAliveInterval` times `ServerAliveCountMax` below come to

# What the user's ssh_config must not change: a terminal, other commands or forwards than ours, a master that we leave
# behind. The first value that ssh meets holds, and these it meets before any file. Those that it may be too old to
# know are 8.7's.
SSH_UNKNOWN = ("SessionType", "StdinNull", "ForkAfterAuthentication")
SSH_OPTIONS = (
    *("RequestTTY=no", "RemoteCommand=none", "SessionType=default", "StdinNull=no", "ForkAfterAuthentication=no"),
    *("ClearAllForwardings=yes", "PermitLocalCommand=no", "ControlMaster=no"),
    *("ServerAliveInterval=5", "ServerAliveCountMax=3"),
)
# What OpenSSH 9.6 refuses (ssh.c, `valid_hostname` and `valid_ruser`), since these reach shells by ProxyCommand and
# Match exec; of a host also what makes it a pattern.
BAD_IN_HOST = re.compile(r"""\A-|['`"$\\;&<>|(){}*?!\s\x00-\x1f\x7f]""")
BAD_IN_USER = re.compile(r"""\A-|['`";&<>|(){}\x00-\x1f\x7f]|\s-|\\\Z""")
CONTAINER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
KUBERNETES_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?")
ON_A_RELAY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
ACCOUNT = re.compile(r"[^\s\x00-\x1f\x7f/-][^\s\x00-\x1f\x7f/]*")
CONTEXT = re.compile(r"[^\s\x00-\x1f\x7f-][^\s\x00-\x1f\x7f]*")  # such as arn:aws:eks:…:cluster/name

FORMS = {
    "ssh": "ssh://user@host:port",
    "docker": "docker://container",
    "k8s": "k8s://namespace/pod",
    "sudo": "sudo://user",
}
RELAY = "relay:"  # in front of a machine's name on the relay


@dataclass(frozen=True, slots=True)
class Place:
    """How a machine is reached, and how commands run there.

    Attributes:
        name: What the user calls it.
        kind: `local`, `ssh`, `docker`, `kubectl`, `sudo`, `link` or `relay`.
        command: Gives the far side's stdin and stdout; what a shell there is to run is appended as one last word.
            Empty for local; for a relay the machine's name there.
        python: The interpreter there; None: it is looked for.
        cwd: Where sessions run, as written there; None: in its home.
        env: Variables of every session there.
        shell: What runs cells there.
        login: Take the environment of a login shell.
        detach: Words in front of the supervisor's command.
        tags: Groups that it says itself that it belongs to.
        confirm: Ask before a cell runs there.
        silence: Seconds without a word after which the link counts as broken.
        source: Where all this is known from, for people.
    """

    name: str
    kind: str
    command: tuple[str, ...] = ()
    python: str | None = None
    cwd: str | None = None
    env: Mapping[str, str] = field(default_factory=dict, hash=False)
    shell: str | None = None
    login: bool = False
    detach: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    confirm: bool = False
    silence: float = SILENCE
    source: str = ""


def asked_at(place: Place, request: StartRequest) -> dict[str, Any]:
    """What a store at that place is asked to start."""
    return {
        **asdict(request),
        "env": {**place.env, **request.env},
        "cwd": request.cwd or place.cwd,
        "shell": request.shell or place.shell,
        "detach": list(request.detach or place.detach),
    }


def ssh_command(
    destination: str, *, options: Iterable[str] = (), ignore_unknown: Iterable[str] = ()
) -> tuple[str, ...]:
    """The system's `ssh`, in the user's configuration but for what would spoil the bytes.

    Args:
        destination: `host`, `user@host` or `ssh://user@host:port`.
        options: More words, behind ours and so unable to undo them.
        ignore_unknown: The user's own `IgnoreUnknown` patterns. Ours hides theirs, and ssh ends at an option of the
            file that it does not know.

    Raises:
        InvalidRequest: No such destination can be, or it would be taken for an option.
    """
    host, user, port = _ssh_url(destination) if destination.startswith("ssh://") else (destination, None, None)
    before, at, name = host.rpartition("@")
    account = user if user is not None else before if at else None
    if not name or BAD_IN_HOST.search(name):
        raise InvalidRequest(f"{destination!r} is no destination for ssh: no host is called {name!r}")
    if account is not None and (not account or BAD_IN_USER.search(account)):
        raise InvalidRequest(f"{destination!r} is no destination for ssh: no user is called {account!r}")
    if re.fullmatch(r"[^:]+:\d+", name):
        raise InvalidRequest(f"{destination!r} is no destination for ssh: with a port it is ssh://{destination}")
    unknown = ",".join(dict.fromkeys((*SSH_UNKNOWN, *ignore_unknown)))
    words = ["ssh", "-T", "-e", "none", "-o", f"IgnoreUnknown={unknown}"]
    for option in SSH_OPTIONS:
        words += ["-o", option]
    words += options
    words += ["-p", str(port)] if port is not None else []
    words += ["-l", user] if user is not None else []
    return (*words, "--", host)


def docker_command(container: str, *, user: str | None = None, context: str | None = None) -> tuple[str, ...]:
    """A shell in a running container. Raises InvalidRequest."""
    _check(CONTAINER, container, "container")
    words = ["docker"]
    words += [f"--context={_check(CONTEXT, context, 'docker context')}"] if context is not None else []
    words += ["exec", "-i"]
    words += [f"--user={_check(ACCOUNT, user, 'user')}"] if user is not None else []
    return (*words, container, "sh", "-c")


def kubectl_command(
    namespace: str, pod: str, *, container: str | None = None, context: str | None = None
) -> tuple[str, ...]:
    """A shell in a pod, in its default container unless one is named. Raises InvalidRequest."""
    _check(KUBERNETES_NAME, namespace, "namespace")
    _check(KUBERNETES_NAME, pod, "pod")
    words = ["kubectl"]
    words += [f"--context={_check(CONTEXT, context, 'kubectl context')}"] if context is not None else []
    words += [f"--namespace={namespace}", "exec", "-i", pod]
    words += [f"--container={_check(KUBERNETES_NAME, container, 'container')}"] if container is not None else []
    return (*words, "--", "sh", "-c")


def sudo_command(user: str) -> tuple[str, ...]:
    """A shell of another user of this machine; `#1000` is a user by number. Raises InvalidRequest.

    Always with `-A`: without a terminal sudo asks by SUDO_ASKPASS only then, or where DISPLAY is set too. Where no
    password is needed it changes nothing; where one is, and nobody can be asked, sudo fails at once.
    """
    return ("sudo", "-A", "-H", "-u", _check(ACCOUNT, user, "user"), "--", "sh", "-c")


def explicit(name: str, *, ignore_unknown: Iterable[str] = ()) -> tuple[str, tuple[str, ...]] | None:
    """The kind and command of a name that says by itself how to get there; None where it does not.

    Raises:
        InvalidRequest: It says so, and cannot be right.
    """
    scheme, colon, rest = name.partition("://")
    if name.startswith(RELAY):
        return "relay", relay_name(name.removeprefix(RELAY).removeprefix("//"))
    if not colon:
        return ("ssh", ssh_command(name, ignore_unknown=ignore_unknown)) if "@" in name.lstrip("@") else None
    if scheme == "ssh":
        return "ssh", ssh_command(name, ignore_unknown=ignore_unknown)
    if scheme not in READERS:
        near = difflib.get_close_matches(scheme, FORMS, 1)
        hint = f"did you mean {near[0]}://" if near else "there are " + ", ".join(FORMS.values())
        raise InvalidRequest(f"{scheme}:// is no way to reach a machine; {hint}")
    place, _, query = rest.partition("?")
    context = _context(scheme, query)
    kind, read = READERS[scheme]
    return kind, read(place, context)


def relay_name(name: str) -> tuple[str]:
    """A machine on a relay, by its name there. Raises InvalidRequest."""
    if not ON_A_RELAY.fullmatch(name):
        raise InvalidRequest(
            f"{name!r} cannot be a machine's name on a relay: it has letters, digits, `_` and `-`, at most 64"
        )
    return (name,)


def _docker(place: str, context: str | None) -> tuple[str, ...]:
    user, at, container = place.rpartition("@")
    return docker_command(container, user=unquote(user) if at else None, context=context)


def _kubectl(place: str, context: str | None) -> tuple[str, ...]:
    parts = place.split("/")
    if len(parts) not in (2, 3):
        raise InvalidRequest(f"k8s://{place} is no pod: it is {FORMS['k8s']}, or {FORMS['k8s']}/container")
    return kubectl_command(parts[0], parts[1], container=parts[2] if len(parts) == 3 else None, context=context)


def _sudo(place: str, context: str | None) -> tuple[str, ...]:
    if context is not None:
        raise InvalidRequest("sudo:// takes a user, and no context")
    return sudo_command(unquote(place))


READERS: Mapping[str, tuple[str, Callable[[str, str | None], tuple[str, ...]]]] = {
    "docker": ("docker", _docker),
    "k8s": ("kubectl", _kubectl),
    "sudo": ("sudo", _sudo),
}


def _context(scheme: str, query: str) -> str | None:
    asked = dict(parse_qsl(query, keep_blank_values=True))
    unknown = sorted(asked.keys() - {"context"})
    if unknown:
        raise InvalidRequest(f"{scheme}:// does not know ?{unknown[0]}=; the only one there is is ?context=")
    return asked.get("context")


def _ssh_url(url: str) -> tuple[str, str | None, int | None]:
    """Host, user and port of an ssh:// URL."""
    place = url.removeprefix("ssh://").removesuffix("/")
    account, at, where = place.rpartition("@")
    if ":" in account:
        shown = f"ssh://{account.partition(':')[0]}:…@{where}"
        raise InvalidRequest(f"{shown} holds a password, which a name cannot: ssh asks for it when it needs one")
    matched = re.fullmatch(r"(?:\[([^\[\]]*)\]|([^:\[\]/?#]*))(?::(\d*))?", where)
    if matched is None:
        raise InvalidRequest(f"{url!r} is no {FORMS['ssh']}")
    port = int(matched[3]) if matched[3] else None
    if port is not None and not 0 < port < 65536:
        raise InvalidRequest(f"{url!r} has no port: they go from 1 to 65535")
    return matched[1] or matched[2] or "", unquote(account) if at else None, port


def _check(rule: re.Pattern[str], text: str, what: str) -> str:
    if not rule.fullmatch(text):
        raise InvalidRequest(f"{text!r} cannot be a {what}")
    return text
