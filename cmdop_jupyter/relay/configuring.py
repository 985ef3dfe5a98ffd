"""Workspaces and servers in, the text of nats-server's configuration out. Pure: knows no folder, no person's seed."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field

from . import subjects
from .seals import MAX_PAYLOAD

ACCOUNTS_FILE = "accounts.conf"
ADVISORIES = "$JS.EVENT.ADVISORY.API"  # where the server tells who asked JetStream for what
MAX_CONSUMERS = 20_000  # of a workspace: cursors of people that are open, or were within the last minute
MAX_SUBSCRIPTIONS = 2_000  # of one key's connection
MAX_MESSAGE = 2 * 1024 * 1024  # bytes; one frame, and headers
assert MAX_MESSAGE > MAX_PAYLOAD


@dataclass
class Member:
    """A person or a machine of a workspace.

    Attributes:
        role: `operator`, `observer` or `machine`.
        connects_as: The public key that the server knows.
        public_key: The one its seals are checked by.
        made: When, as ISO 8601.
        revoked: When; '' while it is good.
        keep_bytes: Of a machine: bytes of its logs that the relay keeps.
    """

    role: str
    connects_as: str
    public_key: str
    made: str
    revoked: str = ""
    keep_bytes: int = 0


@dataclass
class Workspace:
    """An account of the server.

    Attributes:
        seed: Signs proofs. Secret.
        public: Its public key.
        admin_seed: Of the key that makes streams. Secret.
        admin: Its public key.
        members: By name; one that was revoked stays until its name is given anew.
    """

    seed: str
    public: str
    admin_seed: str
    admin: str
    members: dict[str, Member] = field(default_factory=dict)

    def good(self) -> dict[str, Member]:
        return {name: member for name, member in self.members.items() if not member.revoked}

    def __repr__(self) -> str:
        return f"<Workspace {self.public}: {len(self.good())} keys>"


@dataclass
class Node:
    """One server.

    Attributes:
        listen: `host:port` for clients.
        store: Folder of its streams.
        certificate, key: Files of TLS; '' for none.
        cluster: `host:port` for other servers; '' when it stands alone.
        routes: `host:port` of the others.
    """

    listen: str
    store: str
    certificate: str = ""
    key: str = ""
    cluster: str = ""
    routes: list[str] = field(default_factory=list)


def accounts(workspaces: dict[str, Workspace]) -> str:
    """The part that all servers of a relay share: who may connect, and what they may do."""
    lines = ["# Written by `cmdop-relay keys`, which writes it anew at each change: do not edit.", "accounts {"]
    for name, workspace in sorted(workspaces.items()):
        lines += [
            f"  {_quoted(name)} {{",
            f"    jetstream {{ max_consumers: {MAX_CONSUMERS} }}",
            "    users = [",
            *_user(f"admin of {name}", workspace.admin, admin_rights(name)),
        ]
        for member_name, member in sorted(workspace.good().items()):
            told = f"{member.role} {member_name} of {name}"
            lines += _user(told, member.connects_as, subjects.rights(member.role, member_name))
        lines += ["    ]", "  }"]
    return "\n".join([*lines, "}", ""])


def admin_rights(workspace: str) -> dict[str, list[str]]:
    """What may make streams, and reads and types nothing."""
    verbs = ("CREATE", "UPDATE", "INFO", "DELETE", "PURGE")
    return {
        "publish": [f"$JS.API.STREAM.{verb}.*" for verb in verbs] + ["$JS.API.INFO"],
        "subscribe": [f"{subjects.admin_inbox(workspace)}.>", ADVISORIES],
    }


def server(relay: str, name: str, node: Node, cluster_secret: str, pid_file: str) -> str:
    """The configuration of one server, which takes in the accounts."""
    lines = [
        "# Written by `cmdop-relay keys`, which writes it anew at each change. What you add to it is lost: add it to a",
        f"# file of your own that says `include {_quoted(f'{name}.conf')}`.",
        f"server_name: {_quoted(name)}",
        f"listen: {_quoted(node.listen)}",
        f"pid_file: {_quoted(pid_file)}",
        f"max_payload: {MAX_MESSAGE}",
        f"max_subscriptions: {MAX_SUBSCRIPTIONS}",
        "max_control_line: 4096",
        f"jetstream {{ store_dir: {_quoted(node.store)} }}",
    ]
    if node.certificate:
        lines.append(f"tls {{ cert_file: {_quoted(node.certificate)}, key_file: {_quoted(node.key)} }}")
    if node.cluster:
        routes = [_quoted(f"nats-route://relay:{cluster_secret}@{route}") for route in node.routes]
        lines += [
            "cluster {",
            f"  name: {_quoted(relay)}",
            f"  listen: {_quoted(node.cluster)}",
            f"  authorization {{ user: relay, password: {_quoted(cluster_secret)} }}",
            f"  routes: [{', '.join(routes)}]",
        ]
        if node.certificate:
            lines.append(
                f"  tls {{ cert_file: {_quoted(node.certificate)}, key_file: {_quoted(node.key)}, timeout: 5 }}"
            )
        lines.append("}")
    return "\n".join([*lines, f"include {_quoted(f'./{ACCOUNTS_FILE}')}", ""])


def _user(told: str, key: str, rights: dict[str, list[str]]) -> Iterable[str]:
    def allow(subject_list: list[str]) -> str:
        return "{ allow: [" + ", ".join(map(_quoted, subject_list)) + "] }"

    return [
        f"      # {told}",
        f"      {{ nkey: {key}, permissions {{",
        f"        publish: {allow(rights['publish'])}",
        f"        subscribe: {allow(rights['subscribe'])}",
        "      } }",
    ]


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
