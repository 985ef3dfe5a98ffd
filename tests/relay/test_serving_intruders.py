"""The same intruders against a real `cmdop-relay serve`: nothing they try is typed, and its log says who tried."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Iterator

import nats.errors
import psutil
import pytest
from intruders import Raw, until
from relays import OTHER, TestRelay, relay
from served import Served, served

from cmdop_jupyter.relay import seals, serving, subjects
from cmdop_jupyter.relay.keys import ApiKey, MachineKey, read_machine_key

INPUT = "cmdop.do.web1"
TYPED = b"intruder\n"
NUMBERS = itertools.count(1)


class Cast:
    def __init__(self, it: TestRelay, web1: Served, key: MachineKey) -> None:
        self.it, self.web1, self.key = it, web1, key
        self.op1, self.obs = ApiKey.parse(it.api_key("op1")), ApiKey.parse(it.api_key("obs", "observer"))
        self.op5 = ApiKey.parse(it.api_key("op5", workspace=OTHER))

    def refusals(self, what: str) -> list[str]:
        return [line for line in self.web1.said if "refused" in line and what in line]


@pytest.fixture(scope="module")
def cast(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cast]:
    with relay(tmp_path_factory.mktemp("relay") / "keys") as it:
        path = it.machine_key("web1")
        with served(path, tmp_path_factory.mktemp("web1")) as web1:
            yield Cast(it, web1, read_machine_key(path))


class Shell:
    """A session that would run what is typed into it."""

    def __init__(self, operator: Raw, machine: str = "web1") -> None:
        self.id, self._operator, self._machine = f"shell.{next(NUMBERS)}", operator, machine
        self.write = {"op": "write", "session": self.id, "writer": "w", "offset": 0}
        self.read = {"op": "read_nowait", "session": self.id, "offset": 0, "max_bytes": 1000}

    async def start(self) -> None:
        asked = {"id": self.id, "name": self.id, "script": "exec cat", "tty": "none"}
        answer = await self._operator.call(self._machine, {"op": "start"}, json.dumps(asked).encode())
        assert "error" not in answer, answer

    async def stop(self) -> None:
        await self._operator.call(self._machine, {"op": "stop", "session": self.id, "call": "end", "grace": 0.1})

    async def lines(self) -> int:
        """How many lines were typed, one more of an operator among them, which is behind all that came before."""
        mark = {**self.write, "writer": "mark"}
        assert "error" not in await self._operator.call(self._machine, mark, b"mark\n")
        size = 0
        while not size:
            header = {**self.read, "op": "read"}
            chunks = (await self._operator.call(self._machine, header))["chunks"]
            size = sum(chunk[3] for chunk in chunks)
        return 1 if size == len(b"mark\n") else 2


@pytest.fixture
async def shell(op1: Raw) -> AsyncIterator[Shell]:
    shell = Shell(op1)
    await shell.start()
    yield shell
    await shell.stop()


async def test_an_operator_types(shell, op1):
    answer = await op1.call("web1", shell.write, TYPED)

    assert answer["accepted"] == len(TYPED)


async def test_an_observer_may_not_publish_input(shell, obs):
    subject, payload, reply = obs.sealed("web1", shell.write, TYPED)

    assert "permissions violation" in await obs.is_refused(subject, payload, reply)
    assert await shell.lines() == 1


async def test_an_observers_input_where_all_may_publish_is_refused(cast, shell, obs):
    await obs.publish(*obs.sealed("web1", shell.write, TYPED, subject="cmdop.ask.web1"))

    await until(lambda: cast.refusals("'write' is not taken on cmdop.ask.web1"))
    assert "observer obs" in cast.refusals("'write' is not taken")[0]
    assert await shell.lines() == 1


async def test_an_observer_reads_with_input_as_reply_and_is_not_answered(cast, shell, obs):
    await obs.publish(*obs.sealed("web1", shell.read, reply=INPUT))

    await until(lambda: cast.refusals(f"its answer would go to {INPUT!r}"))
    assert await shell.lines() == 1


@pytest.mark.parametrize("signed", [True, False])
async def test_an_observers_consumer_delivers_to_input_and_types_nothing(cast, shell, op1, obs, signed):
    payload = op1.sealed("web1", shell.write, TYPED)[1] if signed else seals.encode(shell.write, TYPED)
    log = subjects.log("web1", f"printed{signed}")
    header = seals.seal_log(cast.key.identity, log, 0, [], payload)
    async with Raw(cast.key) as machine:  # what one of its sessions has printed
        await machine.connection.jetstream().publish(log, payload, headers={subjects.LOG_HEADER: header})
    config = {"name": f"c{signed}", "filter_subject": log, "deliver_subject": INPUT, "ack_policy": "none"}
    asked = json.dumps({"stream_name": "LOG_web1", "config": config}).encode()

    await obs.connection.request(f"$JS.API.CONSUMER.CREATE.LOG_web1.c{signed}.{log}", asked, 10)

    await until(lambda: cast.refusals(f"$JS.ACK.LOG_web1.c{signed}."))
    assert await shell.lines() == 1


async def test_an_observer_pulls_with_input_as_reply_and_may_not(shell, obs):
    await obs.is_refused("$JS.API.CONSUMER.MSG.NEXT.LOG_web1.c", b'{"batch":1}', INPUT)

    assert await shell.lines() == 1


async def test_a_call_that_comes_again_is_refused(cast, shell, op1):
    subject, payload, reply = op1.sealed("web1", shell.write, TYPED)
    await op1.publish(subject, payload, reply)
    await op1.publish(subject, payload, reply)

    await until(lambda: cast.refusals("the same call came before"))
    assert "operator op1" in cast.refusals("the same call came before")[0]


async def test_an_operator_of_another_workspace_reaches_nothing(cast, shell):
    async with Raw(cast.op5) as op5:
        for header in (shell.write, shell.read, {"op": "sessions"}):
            subject, payload, _ = op5.sealed("web1", header, TYPED)
            with pytest.raises(nats.errors.NoRespondersError):
                await op5.connection.request(subject, payload, 10)

    assert await shell.lines() == 1


async def test_a_call_above_the_limit_is_refused_and_the_machine_goes_on(cast, shell, op1):
    subject, payload, reply = op1.sealed("web1", shell.write, TYPED)
    await op1.publish(subject, payload + b"x" * seals.MAX_PAYLOAD, reply)

    await until(lambda: cast.refusals(f"above the {seals.MAX_PAYLOAD}"))
    assert await shell.lines() == 1


@pytest.fixture(scope="module")
def flooded(cast: Cast, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A machine whose log is full of what was tried."""
    with served(cast.it.machine_key("web2"), tmp_path_factory.mktemp("web2")) as web2:
        yield web2


@pytest.fixture
async def shell2(flooded: Served, op1: Raw) -> AsyncIterator[Shell]:
    shell = Shell(op1, "web2")
    await shell.start()
    yield shell
    await shell.stop()


async def test_a_flood_of_an_observer_holds_up_no_operator(flooded, shell2, obs):
    for number in range(2000):
        await obs.connection.publish("cmdop.ask.web2", b"junk" * 100, f"_IN.obs.web2.flood.{number}")
    for _ in range(200):
        subject, payload, reply = obs.sealed("web2", shell2.write, TYPED, subject="cmdop.ask.web2")
        await obs.connection.publish(subject, payload, reply)
    await obs.settle()

    assert await shell2.lines() == 1
    await until(lambda: any("observer obs" in line for line in flooded.said))


async def test_calls_that_wait_fill_no_memory_of_the_machine(flooded, op1, obs):
    """60 MB of calls come faster than they are looked at; what was not read yet waits at the relay."""
    process = psutil.Process(flooded.pid)
    most = before = process.memory_info().rss
    for number in range(60_000):
        await obs.connection.publish("cmdop.ask.web2", b"junk" * 250, f"_IN.obs.web2.flood.{number}")
        if number % 1000 == 0:
            most = max(most, process.memory_info().rss)
    await obs.settle()
    answer = asyncio.ensure_future(op1.call("web2", {"op": "ping"}))
    while not answer.done():
        await asyncio.wait([answer], timeout=0.02)
        most = max(most, process.memory_info().rss)

    assert "error" not in answer.result()
    assert most - before < 16e6


async def test_an_observers_many_links_end_no_operators(shell2, op1, obs):
    """A call of an operator is under way while an observer opens more links than a machine keeps."""
    subject, payload, reply = op1.sealed("web2", {**shell2.read, "op": "read"})  # waits: nothing was typed yet
    answers = await op1.connection.subscribe(reply)
    await op1.publish(subject, payload, reply)
    for number in range(serving.MOST_GUESTS + 10):
        link = subjects.answer("obs", "web2", f"link{number}", 1)
        subject, payload, _ = obs.sealed("web2", {"op": "ping"}, reply=link)
        await obs.connection.publish(subject, payload, link)
    await obs.settle()
    await obs.call("web2", {"op": "ping"})  # behind all of these

    await shell2.lines()

    assert (await answers.next_msg(20)).data
