"""A machine that is served on a relay: what fails is told apart, what it is to refuse it refuses, nothing is lost."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import signal
from collections.abc import AsyncIterator, Iterator

import pytest
from proxy import Proxy
from relays import TestRelay, free_ports
from relays import relay as open_relay
from served import machine_at, relay_of, served

from cmdop_jupyter.client import new_id
from cmdop_jupyter.errors import (
    ConnectFailed,
    KeyRefused,
    LogDropped,
    MachineOffline,
    Refused,
    RelayUnreachable,
    UnknownMachine,
)
from cmdop_jupyter.machines.base import Exit, LinkState, SessionFacts, StartRequest
from cmdop_jupyter.machines.relay import RelayMachine
from cmdop_jupyter.relay.connection import Card, Relay
from cmdop_jupyter.steady import Steady

NUMBERS = itertools.count(1)
SILENCE = 1.0


@pytest.fixture(scope="module")
def box(relay: TestRelay, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with served(relay.machine_key("box"), tmp_path_factory.mktemp("box"), "--tag", "gpu"):
        yield


@contextlib.asynccontextmanager
async def reached(api_key: str, name: str = "box", **more: object) -> AsyncIterator[RelayMachine]:
    """A machine, closed after the block, and its sessions ended."""
    machine = machine_at(relay_of(api_key, silence=SILENCE, **more), name)
    try:
        yield machine
    finally:
        await machine.close()


async def start(machine: RelayMachine | Steady, script: str, **more: object) -> SessionFacts:
    return await machine.start(StartRequest(new_id(), f"name-{next(NUMBERS)}", script=script, tty="none", **more))


async def read_all(machine: RelayMachine | Steady, session_id: str, at: int = 0) -> bytes:
    pieces = []
    while chunks := await machine.read(session_id, at, 256 * 1024):
        assert chunks[0].offset == at
        pieces += [chunk.data for chunk in chunks]
        at = chunks[-1].end
    return b"".join(pieces)


async def until_link(machine: RelayMachine, state: str) -> LinkState:
    while machine.link.state != state:
        await machine.link_change(machine.link)
    return machine.link


async def card_of(relay: Relay, name: str) -> Card:
    return next(card for card in await relay.roster() if card.name == name)


def numbers(count: int) -> bytes:
    return "".join(f"{number}\n" for number in range(1, count + 1)).encode()


# -- what fails


async def test_a_relay_that_is_not_there_is_told_from_a_machine_that_is_not(relay, key):
    async with reached(key, url=f"nats://127.0.0.1:{free_ports(1)[0]}") as machine:
        with pytest.raises(RelayUnreachable, match="look whether nats-server runs there"):
            await machine.connect()

    assert machine.link.state == "down"


async def test_a_key_that_the_relay_does_not_know_is_refused_at_once(relay):
    key = relay.api_key("op2")
    relay.revoke("op2")

    async with reached(key) as machine:
        with pytest.raises(KeyRefused, match="ask whoever runs `cmdop-relay keys`") as raised:
            await machine.connect()

    assert raised.value.needs_you
    assert key not in str(raised.value)


async def test_a_key_that_is_revoked_in_the_middle_ends_the_link_until_somebody_sees_to_it(relay, box):
    async with reached(relay.api_key("carl")) as machine:
        await machine.connect()
        relay.revoke("carl")

        link = await until_link(machine, "down")

    assert "refuses the key" in link.reason


async def test_a_machine_of_no_such_name_is_unknown_and_what_looks_like_it_is_said(box, key):
    async with reached(key, "bx") as machine:
        with pytest.raises(UnknownMachine, match="did you mean relay:box"):
            await machine.connect()


async def test_a_machine_that_left_is_offline_since_then(relay, key, tmp_path):
    with served(relay.machine_key("left"), tmp_path):
        pass

    async with reached(key, "left") as machine:
        with pytest.raises(MachineOffline, match=r"it left the relay at .* ago; look there whether") as raised:
            await machine.connect()

    assert raised.value.said_so
    assert raised.value.since_ns > 0


async def test_a_machine_that_vanished_is_offline_since_it_was_heard_of_last(relay, key, tmp_path):
    with served(relay.machine_key("gone"), tmp_path) as machine_side:
        machine_side.end(signal.SIGKILL)

    async with reached(key, "gone") as machine:
        with pytest.raises(MachineOffline, match="the relay heard of it last at") as raised:
            await machine.connect()

    assert not raised.value.said_so


async def test_an_observer_is_told_that_it_may_not_and_may_look(relay, box, key):
    async with reached(key) as operator, reached(relay.api_key("olga", "observer")) as observer:
        facts = await start(operator, "echo seen")

        with pytest.raises(Refused, match="an operator's is needed"):
            await start(observer, "true")
        with pytest.raises(Refused, match="an operator's is needed"):
            await observer.stop(facts.id, "call-1", 0.0)

        assert await read_all(observer, facts.id) == b"seen\n"


async def test_a_machine_gone_in_the_middle_ends_no_wait(relay, key, tmp_path):
    with served(relay.machine_key("middle"), tmp_path) as machine_side:
        async with reached(key, "middle") as machine:
            steady = Steady(machine)
            facts = await start(steady, "echo one; read line; echo $line")
            reading = asyncio.create_task(read_all(steady, facts.id))
            machine_side.end(signal.SIGKILL)
            away = await until_link(machine, "retrying")
            typing = asyncio.create_task(steady.write(facts.id, "me", 0, b"two\n"))
            machine_side.start()

            assert await reading == b"one\ntwo\n"
            assert await typing == 4
            assert "not connected to the relay" in away.reason
            assert machine.link.redials >= 1


async def test_without_room_on_the_relay_output_comes_from_the_machine_and_the_link_says_so(tmp_path):
    with open_relay(tmp_path / "keys") as relay, contextlib.ExitStack() as stack:
        relay.machine_key("other")
        with pytest.raises(ConnectFailed, match="insufficient storage"):
            relay.machine_key("full", keep_bytes=2**50)  # more than the server has: there is no stream for it
        (path,) = relay.folder.path.glob("*-full-*.key")
        machine_side = stack.enter_context(served(path, tmp_path))
        async with reached(relay.api_key("op1"), "full") as machine:
            facts = await start(machine, "seq 100000; read line; echo end")
            reading = asyncio.create_task(read_all(machine, facts.id))
            while not machine.link.reason:
                await machine.link_change(machine.link)
            await machine.write(facts.id, "me", 0, b"\n")

            assert await reading == numbers(100_000) + b"end\n"
            assert machine.link.state == "up"
            assert "output comes from the machine itself: " in machine.link.reason
            assert "LOG_full" in machine.link.reason
        assert any("LOG_full" in line for line in machine_side.said)


# -- what the machine is told


async def test_a_machine_with_fixed_commands_starts_those_and_nothing_else(relay, key, tmp_path):
    options = ("--allow", "greet=echo hello there", "--allow", "wait=sleep 1000")
    with served(relay.machine_key("fixed"), tmp_path, *options):
        async with reached(key, "fixed") as machine:
            facts = await start(machine, "greet\n", env={"PATH": "/nowhere"})
            assert await read_all(machine, facts.id) == b"hello there\n"
            for wrong in ({"script": "echo other"}, {"script": None}, {"script": "greet", "argv": ["id"]}):
                with pytest.raises(Refused, match="this machine runs greet, wait only"):
                    await machine.start(StartRequest(new_id(), "x", **wrong))
            with pytest.raises(Refused, match="opens no ports"):
                await machine._ask("dial", port=22)

            assert len(await machine.sessions()) == 1


async def test_a_machine_that_is_only_observed_changes_nothing_for_operators_either(relay, key, tmp_path):
    with served(relay.machine_key("seen"), tmp_path, "--observe-only"):
        async with reached(key, "seen") as machine:
            with pytest.raises(Refused, match="lets itself be observed only"):
                await start(machine, "true")

            assert await machine.sessions() == []


def test_a_key_of_another_machine_is_refused_before_anything_is_reached(relay, tmp_path):
    from cmdop_jupyter.relay.serve import main

    path = relay.machine_key("its-own")

    assert main(["--machine", "other", "--key", str(path)]) == 2


# -- the roster


async def test_the_roster_says_who_is_there_and_what_they_say_of_themselves(relay, box, key):
    way = relay_of(key)

    card = await card_of(way, "box")

    assert (card.up, card.tags) == (True, ("gpu",))
    assert {"hostname", "platform", "agent", "load"} <= card.facts.keys()
    await way.close()


# -- output


async def test_what_the_relay_does_not_keep_is_read_from_the_machine(relay, key, tmp_path):
    lines = 500_000  # 3.4 MB, where the relay keeps one
    with served(relay.machine_key("small", keep_bytes=2**20), tmp_path):
        async with reached(key, "small") as machine, reached(key, "small") as late:
            facts = await start(machine, f"seq {lines}; read line")
            first = asyncio.create_task(read_all(machine, facts.id))
            while (await machine.status(facts.id)).end < len(numbers(lines)):
                await machine.read(facts.id, (await machine.status(facts.id)).end - 1, 1)

            second = asyncio.create_task(read_all(late, facts.id))
            await machine.write(facts.id, "me", 0, b"\n")

            assert await first == await second == numbers(lines)


async def test_what_other_sessions_pushed_off_the_relay_is_read_from_the_machine(relay, key, tmp_path):
    with served(relay.machine_key("pushed", keep_bytes=2**20), tmp_path):
        async with reached(key, "pushed") as machine, reached(key, "pushed") as late:
            quiet = await start(machine, "seq 1000; read line")
            ended = await start(machine, "seq 1000")
            reading = asyncio.create_task(read_all(machine, quiet.id))
            assert await read_all(machine, ended.id) == numbers(1000)
            loud = await start(machine, "seq 500000")
            assert await read_all(machine, loud.id) == numbers(500_000)

            async with asyncio.timeout(60):
                assert await late.read(quiet.id, 0, 4)
                assert await read_all(late, ended.id) == numbers(1000)

            await machine.write(quiet.id, "me", 0, b"\n")
            assert await reading == numbers(1000)


async def test_what_neither_has_is_an_explicit_gap(box, key):
    async with reached(key) as machine:
        facts = await start(machine, "seq 100000; read line", max_log=64 * 1024)
        whole, at, gaps = numbers(100_000), 0, []
        got = b""
        while at < len(whole):
            try:
                chunks = await machine.read(facts.id, at, 50_000)
            except LogDropped as gap:
                gaps.append((gap.offset, gap.first))
                got += whole[gap.offset : gap.first]
                at = gap.first
                continue
            got += b"".join(chunk.data for chunk in chunks)
            at = chunks[-1].end

        assert got == whole
        await machine.write(facts.id, "me", 0, b"\n")


async def test_ten_watchers_cost_the_machine_one_upload(relay, key, tmp_path):
    lines = 300_000
    size = len(numbers(lines))
    with Proxy(relay.port) as proxy:
        path = relay.machine_key("busy")
        with served(path, tmp_path, "--url", f"nats://127.0.0.1:{proxy.port}"):
            async with contextlib.AsyncExitStack() as stack:
                machines = [await stack.enter_async_context(reached(key, "busy")) for _ in range(10)]
                facts = await start(machines[0], f"read line; seq {lines}")
                watching = [asyncio.create_task(read_all(machine, facts.id)) for machine in machines]
                while any(machine.feeds < 1 for machine in machines):
                    await machines[0].status(facts.id)
                before = proxy.forwarded[0]
                await machines[0].write(facts.id, "me", 0, b"\n")

                assert await asyncio.gather(*watching) == [numbers(lines)] * 10
                assert proxy.forwarded[0] - before < 1.2 * size


async def test_a_session_that_ended_while_nobody_was_there_is_read_whole(box, key):
    async with reached(key) as machine:
        facts = await start(machine, "seq 20000; exit 3")
        status = await machine.status(facts.id)
        while status.state != "ended":
            status = await machine.status(facts.id, status.seq)

        assert await read_all(machine, facts.id) == numbers(20_000)
        assert status.exit == Exit(3)


async def test_a_machine_is_not_reached_with_a_key_of_another_workspace(relay, box):
    async with reached(relay.api_key("op3", workspace="other")) as machine:
        with pytest.raises((UnknownMachine, ConnectFailed)):
            await machine.connect()
