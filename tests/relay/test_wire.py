"""One connection to a relay that breaks, however it does: it says so, and leaves nothing behind."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from proxy import Proxy
from relays import TestRelay
from served import relay_of

from cmdop_jupyter.errors import LinkLost
from cmdop_jupyter.relay.wire import Wire

SILENCE = 0.6
MUCH = bytes(1024 * 1024)


@pytest.fixture
def proxy(relay: TestRelay) -> Iterator[Proxy]:
    with Proxy(relay.port) as proxy:
        yield proxy


async def stuck(key: str, proxy: Proxy) -> Wire:
    """A wire on which nothing moves any more, with more to be sent than the system takes."""
    wire = await relay_of(key, url=f"nats://127.0.0.1:{proxy.port}", silence=SILENCE).wire()
    proxy.freeze()
    for _ in range(7):
        await wire.publish("cmdop.ask.nobody", MUCH)
        await asyncio.sleep(0)
    return wire


async def test_a_wire_that_is_cut_with_much_to_be_sent_says_so(key, proxy):
    wire = await stuck(key, proxy)

    await asyncio.to_thread(proxy.cut)
    async with asyncio.timeout(10):
        await wire.gone

    assert "reset" in wire.lost or "lost" in wire.lost
    with pytest.raises(LinkLost):
        await wire.publish("cmdop.ask.nobody")
    await wire.close()
    proxy.thaw()


async def test_a_wire_on_which_nothing_moves_says_so_and_is_closed(key, proxy):
    before = asyncio.all_tasks()
    wire = await stuck(key, proxy)

    async with asyncio.timeout(10):
        await wire.gone
        assert wire.lost == "no word for too long"
        await wire.close()
        for task in asyncio.all_tasks() - before:  # the library's, which end with its connection
            await asyncio.wait([task])
    proxy.thaw()


async def test_a_wire_that_is_closed_does_not_wait_for_a_network_that_takes_nothing(key, proxy):
    wire = await stuck(key, proxy)

    async with asyncio.timeout(10):
        await wire.close("enough")

    assert wire.lost == "enough"
    proxy.thaw()
