"""Names in, the NATS subjects, streams and rights that belong to them out. Pure: knows no connection.

A workspace is an account of the server, so no subject has its name. Machines and people are one token each.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from ..errors import InvalidRequest

# What only looks, and what changes something: the two subjects of a machine, which differ in who may publish there.
LOOKS = {"ping", "hello", "sessions", "find", "status", "read", "read_nowait", "tail", "prompt", "surroundings"}
LOOKS |= {"mirror", "cancel", "bye"}
CHANGES = {"start", "write", "signal", "resize", "stop", "limit", "remove", "own", "keep_ended"}
CHANGES |= {"dial", "recv", "send", "hang_up"}

BUCKET = "cmdop_roster"  # key: a machine; value: its card, see `seals.seal_card`
ROSTER_STREAM = f"KV_{BUCKET}"
LOG_HEADER = "Cmdop"  # the one header of a log's message, see `seals.seal_log`
LOGS, ROSTER = "cmdop.log", f"$KV.{BUCKET}"

_PEOPLE, _MACHINES, _ADMINS = "_IN", "_IM", "_IA"  # first tokens of inboxes: none can be another's
_JS = "js"  # in a person's inbox, where a machine's name would be: what the server itself answers
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_SESSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_DOT = "=2E"


def check_name(name: str, what: str = "a machine") -> str:
    """Return a name that can be one token of a subject. Raises InvalidRequest; nothing is ever cut or replaced."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidRequest(
            f"{name!r} cannot be the name of {what} on a relay: names are 1 to 64 letters, digits, _ and -, and begin "
            f"with a letter or a digit; no dots, * or >"
        )
    if name == _JS:
        raise InvalidRequest(f"{_JS!r} cannot be the name of {what} on a relay: it is kept for JetStream's answers")
    return name


def token(session: str) -> str:
    """A session's id as one token. Raises InvalidRequest."""
    if not isinstance(session, str) or not _SESSION.fullmatch(session):
        raise InvalidRequest(f"{session!r} is no id of a session")
    return session.replace(".", _DOT)


def untoken(word: str) -> str:
    """The id of a session whose token this is. Raises InvalidRequest."""
    session = word.replace(_DOT, ".")
    if token(session) != word:
        raise InvalidRequest(f"{word!r} is no token of a session's id")
    return session


def ask(machine: str) -> str:
    """Where a machine takes calls that only look."""
    return f"cmdop.ask.{check_name(machine)}"


def do(machine: str) -> str:
    """Where a machine takes calls that change something; the server lets only operators publish there."""
    return f"cmdop.do.{check_name(machine)}"


def changes(header: Mapping[str, object]) -> bool:
    """Whether a call changes something. Raises InvalidRequest for one that a relay does not carry."""
    op = header.get("op")
    if not isinstance(op, str) or op not in LOOKS | CHANGES:
        raise InvalidRequest(f"a relay carries no call {op!r}")
    return op in CHANGES or (op == "surroundings" and bool(header.get("detach")))  # which runs those words


def call(machine: str, header: Mapping[str, object]) -> str:
    """Where a machine takes that call. Raises InvalidRequest for one that a relay does not carry."""
    return do(machine) if changes(header) else ask(machine)


def inbox(person: str) -> str:
    """All that a person can be answered under; another's is not theirs to subscribe."""
    return f"{_PEOPLE}.{check_name(person, 'a person')}"


def library_inbox(person: str) -> str:
    """The `inbox_prefix` of a person's connection: where the server answers them, and consumers deliver."""
    return f"{inbox(person)}.{_JS}"


def machine_inbox(machine: str) -> str:
    """The `inbox_prefix` of a machine's own connection."""
    return f"{_MACHINES}.{check_name(machine)}"


def admin_inbox(workspace: str) -> str:
    """The `inbox_prefix` of the connection that makes streams."""
    return f"{_ADMINS}.{check_name(workspace, 'a workspace')}"


def answers(person: str, machine: str, link: str = "") -> str:
    """What all answers of a machine to a person begin with; of one link, when given."""
    begin = f"{inbox(person)}.{check_name(machine)}."
    return f"{begin}{check_name(link, 'a link')}." if link else begin


def answer(person: str, machine: str, link: str, number: int) -> str:
    """Where a machine answers one call. A link's name is random, so that no answer fits another call."""
    return f"{answers(person, machine, link)}{number}"


def is_answer(subject: str, person: str, machine: str) -> bool:
    """Whether a subject is exactly such a one: link and number follow, and nothing else."""
    begin = answers(person, machine)
    link, _, number = subject.removeprefix(begin).partition(".")
    return subject.startswith(begin) and bool(_NAME.fullmatch(link) and re.fullmatch(r"[0-9]{1,15}", number))


def link_of(reply: str) -> tuple[str, int]:
    """The link and the number in a subject that `answer` made."""
    _, _, _, link, number = reply.split(".")
    return link, int(number)


def stream(machine: str) -> str:
    """The JetStream stream that has a machine's logs."""
    return f"LOG_{check_name(machine)}"


def logs(machine: str) -> str:
    """All logs of a machine, as a stream's subjects say it."""
    return f"{LOGS}.{check_name(machine)}.*"


def log(machine: str, session: str) -> str:
    """Where a machine publishes a session's log."""
    return f"{LOGS}.{check_name(machine)}.{token(session)}"


def roster(machine: str) -> str:
    """Where a machine publishes its card; the bucket's key is its name."""
    return f"{ROSTER}.{check_name(machine)}"


def rights(role: str, name: str) -> dict[str, list[str]]:
    """What a key may publish and subscribe, as (nats-server's) lists of subjects.

    Args:
        role: `operator`, `observer` or `machine`.
        name: Of the person or machine.
    """
    if role == "machine":
        own = stream(name)
        return {
            "publish": [
                f"{LOGS}.{name}.*",
                roster(name),
                f"{_PEOPLE}.*.{name}.>",
                f"$JS.API.STREAM.INFO.{own}",
                f"$JS.API.STREAM.MSG.GET.{own}",
            ],
            "subscribe": [ask(name), do(name), f"{machine_inbox(name)}.>"],
        }
    calls = {"operator": ["cmdop.ask.*", "cmdop.do.*"], "observer": ["cmdop.ask.*"]}[role]
    consumers = [
        f"$JS.API.CONSUMER.CREATE.*.*.{LOGS}.*.*",
        f"$JS.API.CONSUMER.CREATE.{ROSTER_STREAM}.*.{ROSTER}.>",
        "$JS.FC.>",
    ]
    return {"publish": [*calls, *consumers], "subscribe": [f"{inbox(name)}.>"]}
