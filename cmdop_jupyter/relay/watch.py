"""What a server tells of requests to JetStream in, who let a consumer deliver to somebody else's subject out.

The machine that was meant sees the name of the consumer only.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable

from nats.aio.msg import Msg

from ..errors import ConnectFailed
from . import subjects
from .configuring import ADVISORIES, Workspace
from .folder import Relay
from .provision import admin

_CREATE = "$JS.API.CONSUMER.CREATE."


def judged(workspace: Workspace, advisory: bytes) -> str | None:
    """What is wrong with a request to JetStream that the server tells of; None where nothing is."""
    try:
        said = json.loads(advisory)
        subject, user = str(said["subject"]), str(said["client"]["user"])
        if not subject.startswith(_CREATE):
            return None
        deliver = str(json.loads(said["request"])["config"].get("deliver_subject") or "")
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
    named = {member.connects_as: (name, member) for name, member in workspace.members.items()}
    name, member = named.get(user, ("", None))
    if member is not None and member.role != "machine" and deliver.startswith(f"{subjects.inbox(name)}."):
        return None
    who = f"{member.role} {name} ({user})" if member is not None else user
    return f"{who} made the consumer {subject.removeprefix(_CREATE)[:200]!r}, which delivers to {deliver[:200]!r}"


async def watch(relay: Relay, tell: Callable[[str], object]) -> None:
    """Call `tell` with a line of each such request in any workspace, until cancelled. Raises ConnectFailed."""
    broken = asyncio.Event()
    async with contextlib.AsyncExitStack() as stack:
        for name, workspace in relay.workspaces.items():

            async def look(message: Msg, name: str = name, workspace: Workspace = workspace) -> None:
                line = judged(workspace, message.data)
                if line:
                    tell(f"{name}: {line}")

            connection = await stack.enter_async_context(admin(relay, name, workspace, 0, broken))
            await connection.subscribe(ADVISORIES, cb=look)
            for _ in range(2):  # the library's first PING may overtake the subscription
                await connection.flush()
        tell(f"watching {', '.join(sorted(relay.workspaces)) or 'nothing'}")
        await broken.wait()
    raise ConnectFailed(relay.url, "the connection broke", "begin anew when it is up")
