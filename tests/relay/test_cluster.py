"""A relay of three servers that each keep all streams: what is published in a flood is there exactly, too."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from intruders import Raw, until
from relays import TestRelay, relay
from served import machine_at, relay_of, served

from cmdop_jupyter.machines.base import StartRequest
from cmdop_jupyter.relay.keys import read_machine_key
from cmdop_jupyter.relay.subjects import LOG_HEADER

LINES = 1_000_000
SIZE = sum(len(f"{number}\n") for number in range(1, LINES + 1))


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[TestRelay]:
    with relay(tmp_path / "relay", servers=3) as it:
        yield it


async def test_a_flood_is_on_a_replicated_stream_once_and_in_order(cluster, tmp_path):
    """Such a stream takes one message at a time that says which one it follows; those behind it go by their ids."""
    path = cluster.machine_key("box")
    with served(path, tmp_path):
        machine = machine_at(relay_of(await asyncio.to_thread(cluster.api_key, "op1")))
        script = f"read line; exec seq {LINES}"
        session = (await machine.start(StartRequest("flood", "flood", script=script, tty="none"))).id
        read = 0
        reading = asyncio.ensure_future(machine.read(session, 0, 2**20))
        await until(lambda: machine.feeds)
        await machine.write(session, "me", 0, b"\n")
        while chunks := await reading:
            read = chunks[-1].end
            reading = asyncio.ensure_future(machine.read(session, read, 2**20))
        feeds = machine.feeds
        await machine.close()

    headers, sizes = [], []
    async with Raw(read_machine_key(path)) as box:
        for number in range(1, (await ask(box, "STREAM.INFO"))["state"]["last_seq"] + 1):
            message = (await ask(box, "STREAM.MSG.GET", {"seq": number}))["message"]
            headers.append(base64.b64decode(message["hdrs"]).decode())
            sizes.append(len(base64.b64decode(message.get("data", ""))))

    ours = [next(line for line in one.splitlines() if line.startswith(LOG_HEADER)) for one in headers]
    begins = [json.loads(line.partition(":")[2])[0] for line in ours]
    assert begins == [sum(sizes[:number]) for number in range(len(sizes))]
    assert (read, sum(sizes), feeds) == (SIZE, SIZE, 1)
    assert any("Nats-Msg-Id" in one for one in headers)


async def ask(box: Raw, call: str, asked: object = None) -> dict:
    payload = json.dumps(asked).encode() if asked else b""
    return json.loads((await box.connection.request(f"$JS.API.{call}.LOG_box", payload, timeout=20)).data)
