"""`cmdop-relay keys FOLDER …`: a command line in, a changed folder of keys and a running relay's streams out.

An API key goes to stdout, and nothing else does but lists; the rest is said on stderr.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import re
import signal
import sys
from pathlib import Path

from ..errors import CmdopError, ConnectFailed, InvalidRequest
from .configuring import ACCOUNTS_FILE, Node
from .folder import KEEP_BYTES, Folder, Relay, write_secret
from .provision import provision
from .subjects import check_name
from .watch import watch

RELOAD_SECONDS = 10.0  # until a server that was told to reload has to know what is new
LOOPBACK = ("127.", "localhost:", "[::1]:")
SIZES = {"": 1, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def main(words: list[str]) -> int:
    """Do what the command line asks; return the exit status (2: it made no sense, 1: it failed)."""
    asked = _parser().parse_args(words)
    try:
        _VERBS[asked.verb](Folder(asked.folder), asked)
    except CmdopError as error:
        _say(f"cmdop-relay: {error}")
        return 1
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="cmdop-relay keys", description="Who may be on a relay.")
    parser.add_argument("folder", help="where the relay's keys are kept, 0700")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    for name, told in (("init", "begin a relay, with its first server"), ("server", "add a server to its cluster")):
        verb = verbs.add_parser(name, help=told)
        verb.add_argument("name", help="the relay's name" if name == "init" else "the server's name")
        verb.add_argument("--listen", default="0.0.0.0:4222", metavar="HOST:PORT", help="for clients (%(default)s)")
        verb.add_argument("--store", metavar="DIR", help="for its streams (FOLDER/NAME.store)")
        verb.add_argument("--tls-cert", default="", metavar="FILE")
        verb.add_argument("--tls-key", default="", metavar="FILE")
        verb.add_argument("--no-tls", action="store_true", help="go without, where others could listen")
        told = "for the other servers of a cluster"
        verb.add_argument("--cluster", metavar="HOST:PORT", help=told, default="", required=name == "server")
        if name == "init":
            verb.add_argument("--url", help="where people and machines reach it; several with commas between")
            verb.add_argument("--replicas", type=int, choices=(1, 3, 5), default=1, help="servers that keep a stream")

    _changing(verbs, "workspace", "add a workspace", "name")
    machine = _changing(verbs, "machine", "add a machine, and write its key to a file", "workspace", "name")
    machine.add_argument("--out", metavar="FILE", help="(NAME.key)")
    machine.add_argument("--keep", type=_size, default=KEEP_BYTES, metavar="SIZE", help="of its logs (256MiB)")
    _changing(verbs, "operator", "add a person who may do all, and print the API key once", "workspace", "name")
    _changing(verbs, "observer", "add a person who may look, and print the API key once", "workspace", "name")
    _changing(verbs, "revoke", "take a key back", "workspace", "name")
    verbs.add_parser("list", help="who has a key")
    verbs.add_parser("provision", help="make the streams that are missing, when a server was not up")
    verbs.add_parser("watch", help="say who lets output be delivered where it should not be, until ended")
    return parser


def _changing(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser], name: str, told: str, *positional: str
) -> argparse.ArgumentParser:
    verb = verbs.add_parser(name, help=told)
    for word in positional:
        verb.add_argument(word)
    told = "have nats-server take it in: this process, or those that run by this folder's configurations"
    verb.add_argument("--reload", type=int, nargs="?", const=0, metavar="PID", help=told)
    return verb


def _size(text: str) -> int:
    match = re.fullmatch(r"(\d{1,15})([KMG]iB)?", text, re.IGNORECASE)
    if match is None or not int(match[1]):
        raise argparse.ArgumentTypeError(f"{text!r} is no size; as in 256MiB")
    return int(match[1]) * SIZES[(match[2] or "").upper()]


# -- the verbs


def _init(folder: Folder, asked: argparse.Namespace) -> None:
    check_name(asked.name, "a relay")
    first = asked.name if not asked.cluster else f"{asked.name}-1"
    node = _node(folder, first, asked)
    if asked.replicas > 1 and not asked.cluster:
        raise InvalidRequest("--replicas is for a cluster: give --cluster too, and add servers by `server`")
    url = asked.url or f"{'tls' if node.certificate else 'nats'}://{asked.listen}"
    if not asked.url and re.match(r"(0\.0\.0\.0|\[::\]):", asked.listen):
        raise InvalidRequest(f"{asked.listen} is no address to reach it by: say --url, as in nats://relay.example.org")
    folder.create(Relay(asked.name, url, asked.replicas, nodes={first: node}))
    _say(f"{folder.config(first)} is its configuration; start it by: nats-server -c {folder.config(first)}")


def _server(folder: Folder, asked: argparse.Namespace) -> None:
    check_name(asked.name, "a server")
    with folder.changing() as relay:
        if asked.name in relay.nodes:
            raise InvalidRequest(f"there is a server {asked.name!r} already")
        if not all(node.cluster for node in relay.nodes.values()):
            raise InvalidRequest("this relay is no cluster: `init` it with --cluster")
        relay.nodes[asked.name] = _node(folder, asked.name, asked)
        for name, node in relay.nodes.items():
            node.routes = sorted(other.cluster for each, other in relay.nodes.items() if each != name)
    _say(
        f"{folder.config(asked.name)} and {folder.path / ACCOUNTS_FILE} are its configuration, together; start it by: "
        f"nats-server -c {folder.config(asked.name)}\nAll others have a new route now: reload them, see `list`"
    )


def _node(folder: Folder, name: str, asked: argparse.Namespace) -> Node:
    if f"{name}.conf" == ACCOUNTS_FILE:
        raise InvalidRequest(f"a server cannot be called {name!r}: {ACCOUNTS_FILE} is what all of them share")
    if bool(asked.tls_cert) != bool(asked.tls_key):
        raise InvalidRequest("--tls-cert and --tls-key go together")
    if not (asked.tls_cert or asked.no_tls or asked.listen.startswith(LOOPBACK)):
        raise InvalidRequest(
            "without TLS, whoever is on the way reads all output and input: give --tls-cert and --tls-key, or "
            "--no-tls if something else protects the way"
        )
    for what in (asked.listen, asked.cluster):
        if what and not re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+):[0-9]{1,5}", what):
            raise InvalidRequest(f"{what!r} is no HOST:PORT")
    certificate, key = (str(Path(file).absolute()) if file else "" for file in (asked.tls_cert, asked.tls_key))
    for file in filter(None, (certificate, key)):
        if not os.access(file, os.R_OK):
            raise InvalidRequest(f"{file} cannot be read")
    store = Path(asked.store or folder.path / f"{name}.store").absolute()
    return Node(asked.listen, str(store), certificate, key, asked.cluster)


def _workspace(folder: Folder, asked: argparse.Namespace) -> None:
    with folder.changing() as relay:
        relay.add_workspace(asked.name)
    _taken_in(folder, relay, asked, asked.name)


def _machine(folder: Folder, asked: argparse.Namespace) -> None:
    path = Path(asked.out or f"{asked.name}.key")
    with folder.changing() as relay:
        key = relay.add_machine(asked.workspace, asked.name, asked.keep)
        try:
            write_secret(path, key.format())
        except OSError as error:
            raise InvalidRequest(f"{path} cannot be written ({error.strerror}); say --out") from None
    _say(f"{path} is the key of {asked.name}: give it to that machine, and to nobody else")
    _taken_in(folder, relay, asked, asked.workspace)


def _person(folder: Folder, asked: argparse.Namespace) -> None:
    with folder.changing() as relay:
        key = relay.add_person(asked.workspace, asked.name, asked.verb)
    print(key.format(), flush=True)
    _say(f"This is the API key of {key.identity.proof}; it is shown once, and kept nowhere")
    _taken_in(folder, relay, asked, "")


def _revoke(folder: Folder, asked: argparse.Namespace) -> None:
    with folder.changing() as relay:
        member = relay.revoke(asked.workspace, asked.name)
    _say(f"The key of {member.role} {asked.name} is good until the server is reloaded, which cuts its connections")
    _taken_in(folder, relay, asked, asked.workspace if member.role == "machine" and asked.reload is not None else "")


def _list(folder: Folder, asked: argparse.Namespace) -> None:
    relay = folder.read()
    print(f"relay {relay.name} at {relay.url}, {relay.replicas} of each stream")
    for name, node in sorted(relay.nodes.items()):
        print(f"  server {name} on {node.listen}: nats-server -c {folder.config(name)}")
    for name, workspace in sorted(relay.workspaces.items()):
        print(f"workspace {name}, its key {workspace.public}, its admin {workspace.admin}")
        for member_name, member in sorted(workspace.members.items()):
            state = f"revoked {member.revoked}" if member.revoked else f"since {member.made}"
            print(f"  {member.role:8} {member_name:20} {member.connects_as}  {state}")


def _provision(folder: Folder, asked: argparse.Namespace) -> None:
    for line in asyncio.run(provision(folder.read())) or ["nothing was missing"]:
        _say(line)


def _watch(folder: Folder, asked: argparse.Namespace) -> None:
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(watch(folder.read(), _say))


_VERBS = {
    "init": _init,
    "server": _server,
    "workspace": _workspace,
    "machine": _machine,
    "operator": _person,
    "observer": _person,
    "revoke": _revoke,
    "list": _list,
    "provision": _provision,
    "watch": _watch,
}


def _taken_in(folder: Folder, relay: Relay, asked: argparse.Namespace, workspace: str) -> None:
    """Have the server take in a change, or say how; make the streams of a workspace, when one is given."""
    if asked.reload is None:
        _say("A server that runs takes it in by: nats-server --signal reload=PID (here, --reload does it)")
    for pid in [asked.reload] if asked.reload else _pids(folder, relay) if asked.reload is not None else ():
        _reload(pid)
    if workspace:
        try:
            seconds = 0.0 if asked.reload is None else RELOAD_SECONDS
            lines = asyncio.run(provision(relay, workspace, seconds))
        except ConnectFailed as error:
            _say(f"Its streams are not made: {error}: cmdop-relay keys {folder.path} provision")
        else:
            _say("\n".join([f"Made: {line}" for line in lines]))


def _pids(folder: Folder, relay: Relay) -> list[int]:
    """The servers that run here by the configurations of a folder."""
    found = []
    for name in relay.nodes:
        with contextlib.suppress(OSError, ValueError):
            found.append(int(folder.pid_file(name).read_text()))
    if not found:
        raise InvalidRequest(f"no server runs here by {folder.path}; say --reload PID, or reload it where it runs")
    return found


def _reload(pid: int) -> None:
    try:
        command = Path(f"/proc/{pid}/comm").read_text()
    except OSError:
        raise InvalidRequest(f"there is no process {pid}; nothing was reloaded, though the files are written") from None
    if not command.startswith("nats-server"):  # another would end by that signal
        raise InvalidRequest(f"process {pid} is {command.strip()!r} and no nats-server; it was left alone")
    try:
        os.kill(pid, signal.SIGHUP)
    except OSError as error:
        raise InvalidRequest(f"nats-server {pid} was not reloaded: {error.strerror}") from None


def _say(text: str) -> None:
    if text:
        print(text, file=sys.stderr)
