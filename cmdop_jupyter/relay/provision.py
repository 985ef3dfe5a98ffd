"""Makes the streams of workspaces on a running relay, by each workspace's own admin key.

Machines may not make streams: one that may could take in the subjects of others.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

try:
    from nats.aio.client import Client
    from nats.errors import Error as NatsError
    from nats.js import JetStreamContext
    from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType, StreamConfig
    from nats.js.errors import APIError, NotFoundError
except ImportError:
    from ..errors import NotSupported

    raise NotSupported("the relay needs nats-py and nkeys: pip install 'cmdop-jupyter[relay]'") from None

from ..errors import ConnectFailed
from . import subjects
from .configuring import Workspace
from .folder import Relay

CONNECT_SECONDS = 2  # to one server
CLOSE_SECONDS = 1.0
ANSWER_SECONDS = 5.0
LOG_SECONDS = 24 * 3600.0  # that the relay keeps of a log; the machine keeps it longer
ROSTER_BYTES = 64 * 1024 * 1024  # at about 1 KiB a machine
MAX_LOG_MESSAGE = 256 * 1024  # bytes; its data, and what is told of each chunk of it
MAX_CARD = 64 * 1024
DUPLICATE_SECONDS = 120.0  # what the server takes when none is said


def roster_stream(replicas: int) -> StreamConfig:
    """The stream of the key-value bucket of machines; without roll-ups, by which one key could empty it."""
    return replace(
        _stream(subjects.ROSTER_STREAM, f"{subjects.ROSTER}.>", replicas),
        discard=DiscardPolicy.NEW,
        max_msgs_per_subject=1,
        max_bytes=ROSTER_BYTES,
        max_msg_size=MAX_CARD,
    )


def log_stream(machine: str, keep_bytes: int, replicas: int) -> StreamConfig:
    """The stream of a machine's logs."""
    return replace(
        _stream(subjects.stream(machine), subjects.logs(machine), replicas),
        discard=DiscardPolicy.OLD,
        max_bytes=keep_bytes,
        max_age=LOG_SECONDS,
        max_msg_size=MAX_LOG_MESSAGE,
        deny_purge=True,
    )


def _stream(name: str, subject: str, replicas: int) -> StreamConfig:
    """What all streams have: on disk, and nobody may delete or replace a message of theirs."""
    return StreamConfig(
        name=name,
        subjects=[subject],
        retention=RetentionPolicy.LIMITS,
        storage=StorageType.FILE,
        duplicate_window=DUPLICATE_SECONDS,
        num_replicas=replicas,
        deny_delete=True,
        allow_rollup_hdrs=False,
        allow_direct=False,
    )


async def provision(relay: Relay, only: str = "", seconds: float = 0) -> list[str]:
    """Make what is missing, and take away what belonged to revoked machines. May be repeated.

    Args:
        only: A workspace; '' for all.
        seconds: How long a server that lets the admin not in, or refuses, is asked again; it may be reloading.

    Returns:
        What was done, a line each.

    Raises:
        ConnectFailed: No server was reached, it does not know the admin, or it refused a stream.
    """
    done: dict[str, None] = {}
    for name, workspace in sorted(relay.workspaces.items()):
        if name == only or not only:
            await _workspace(relay, name, workspace, seconds, done)
    return list(done)


async def _workspace(relay: Relay, name: str, workspace: Workspace, seconds: float, done: dict[str, None]) -> None:
    end = asyncio.get_running_loop().time() + seconds
    while True:
        left = end - asyncio.get_running_loop().time()
        try:
            async with admin(relay, name, workspace, left) as connection:  # a reload may cut it
                jetstream = connection.jetstream(timeout=ANSWER_SECONDS)
                await _make(jetstream, roster_stream(relay.replicas), f"{name}: the roster", done)
                for member_name, member in sorted(workspace.members.items()):
                    if member.role == "machine" and member.revoked:
                        await _remove(jetstream, member_name, f"{name}: the end of {member_name}", done)
                    elif member.role == "machine":
                        wanted = log_stream(member_name, member.keep_bytes, relay.replicas)
                        await _make(jetstream, wanted, f"{name}: {member_name}", done)
            return
        except APIError as error:
            reason = f"JetStream refused a stream of {name}: {error.description}"
            remedy = "give the server more storage, or machines less (`machine --keep`)"
        except (NatsError, TimeoutError) as error:  # a cluster that has no leader yet says nothing
            reason = f"JetStream did not answer ({error or type(error).__name__})"
            remedy = "is a majority of its servers up?"
        if left <= 0:  # while a server reloads or elects, it refuses what it takes in a moment
            raise ConnectFailed(relay.url, reason, remedy)
        await asyncio.sleep(0.1)


async def _make(jetstream: JetStreamContext, wanted: StreamConfig, what: str, done: dict[str, None]) -> None:
    """Make a stream, or change it; what is missing is noted first, as the answer may be cut off."""
    assert wanted.name is not None
    try:
        there = (await jetstream.stream_info(wanted.name)).config
    except NotFoundError:
        done[what] = None
        await jetstream.add_stream(wanted)
        return
    asked = {key: value for key, value in vars(wanted).items() if value is not None}
    if any(getattr(there, key) != value for key, value in asked.items()):
        done[what] = None
        await jetstream.update_stream(replace(there, **asked))


async def _remove(jetstream: JetStreamContext, machine: str, what: str, done: dict[str, None]) -> None:
    """Take a machine off the roster, then its logs: as long as they are there, it is not done."""
    try:
        await jetstream.stream_info(subjects.stream(machine))
        done[what] = None
        await jetstream.purge_stream(subjects.ROSTER_STREAM, subject=subjects.roster(machine))
        await jetstream.delete_stream(subjects.stream(machine))
    except NotFoundError:
        return


@asynccontextmanager
async def admin(
    relay: Relay, name: str, workspace: Workspace, seconds: float, broken: asyncio.Event | None = None
) -> AsyncIterator[Client]:
    """A connection by the key of a workspace that makes streams, within `with`; `broken` is set when it ends.

    Raises:
        ConnectFailed: No server lets it in.
    """
    seen: list[Exception] = []

    async def quiet(error: Exception) -> None:
        seen.append(error)

    async def on_close() -> None:
        if broken is not None:
            broken.set()

    end = asyncio.get_running_loop().time() + seconds
    while True:
        connection = Client()
        try:
            await connection.connect(
                relay.url.split(","),
                nkeys_seed_str=workspace.admin_seed,
                inbox_prefix=subjects.admin_inbox(name),
                allow_reconnect=False,
                max_reconnect_attempts=1,  # or it tries each server 60 times all the same
                reconnect_time_wait=0,
                connect_timeout=CONNECT_SECONDS,
                error_cb=quiet,
                closed_cb=on_close,
                name=f"cmdop-relay keys ({name})",
            )
            break
        except (OSError, NatsError, TimeoutError) as error:
            await _close(connection)
            told = seen[-1] if seen else error
            untrusted = isinstance(told, ssl.SSLError)
            if not untrusted and asyncio.get_running_loop().time() < end:
                await asyncio.sleep(0.1)
                continue
            if "authorization" in f"{error} {told}".lower():
                reason, remedy = f"the server does not know workspace {name} yet", "reload it, then `provision`"
            elif untrusted:
                reason, remedy = str(told), "set SSL_CERT_FILE to the certificate of its authority"
            else:
                reason, remedy = str(told) or type(told).__name__, "start it, then `provision`"
            raise ConnectFailed(relay.url, reason, remedy) from None
    try:
        yield connection
    finally:
        await _close(connection)


async def _close(connection: Client) -> None:
    """Close, also what has failed half-way in TLS, which the library would wait for without an end."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(CLOSE_SECONDS):
            await connection.close()
