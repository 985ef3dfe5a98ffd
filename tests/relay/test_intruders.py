"""Who tries what is not theirs on a relay: a raw NATS client with a real key, a real server, and a machine's gate."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import nats.errors
import pytest
from intruders import Gated, Raw, gated, until
from nats.aio.client import Client
from relays import OTHER, TestRelay, relay

from cmdop_jupyter.errors import InvalidRequest, Refused
from cmdop_jupyter.relay import seals, subjects
from cmdop_jupyter.relay.configuring import MAX_MESSAGE
from cmdop_jupyter.relay.keys import ApiKey, read_machine_key
from cmdop_jupyter.relay.proofs import new_user
from cmdop_jupyter.relay.watch import watch

WRITE: dict[str, object] = {"op": "write", "session": "s1", "writer": "w", "offset": 0}
READ: dict[str, object] = {"op": "read", "session": "s1", "offset": 0, "max_bytes": 100}
INPUT = "cmdop.do.web1"
LOG = "cmdop.log.web1.s1"
PULLS = ["$JS.API.CONSUMER.MSG.NEXT.LOG_web1.{name}", "$JS.API.STREAM.MSG.GET.LOG_web1", "$JS.API.DIRECT.GET.LOG_web1"]
PULLS += ["$JS.API.DIRECT.GET.LOG_web1.cmdop.log.web1.pulled", "$JS.API.STREAM.INFO.LOG_web1", "$JS.API.INFO"]
NOT_OF_WEB2 = [LOG, subjects.roster("web1"), "_IN.op1.web1.link.1", "_IN.op1.js.x", "_IM.web1.x"]
NOT_OF_WEB2 += ["cmdop.ask.web1", "cmdop.do.web1", "cmdop.do.web2", f"$JS.API.CONSUMER.CREATE.LOG_web1.x.{LOG}"]
NOT_OF_WEB2 += ["$JS.API.STREAM.INFO.LOG_web1", "$JS.API.STREAM.MSG.GET.LOG_web1"]


class Cast:
    """A relay with two workspaces, and everybody's keys."""

    def __init__(self, it: TestRelay) -> None:
        self.it = it
        self.web1, self.web2 = it.machine_keys(["web1", "web2"])
        self.op1, self.op4 = (ApiKey.parse(it.api_key(name)) for name in ("op1", "op4"))
        self.obs = ApiKey.parse(it.api_key("obs", "observer"))
        self.op5 = ApiKey.parse(it.api_key("op5", workspace=OTHER))
        self.web1_key = read_machine_key(self.web1)


@pytest.fixture(scope="module")
def cast(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cast]:
    with relay(tmp_path_factory.mktemp("relay") / "keys") as it:
        yield Cast(it)


@pytest.fixture
async def web1(cast: Cast) -> AsyncIterator[Gated]:
    async with gated(cast.web1) as machine:
        yield machine


async def consumer(raw: Raw, filter_subject: str, deliver: str, stream: str = "LOG_web1", **options: object) -> dict:
    """What the server says to a new consumer."""
    name = f"c{time.time_ns()}"
    config: dict[str, object] = {"name": name, "filter_subject": filter_subject, "ack_policy": "none"}
    config |= {"deliver_policy": "all", "inactive_threshold": 5_000_000_000, **options}
    if deliver:
        config["deliver_subject"] = deliver
    asked = json.dumps({"stream_name": stream, "config": config}).encode()
    answer = await raw.connection.request(f"$JS.API.CONSUMER.CREATE.{stream}.{name}.{filter_subject}", asked, 10)
    return json.loads(answer.data)


async def printed(machine: Gated, data: bytes, subject: str = LOG) -> None:
    """A session of a machine has put out these bytes."""
    header = seals.seal_log(machine.raw.key.identity, subject, 0, [], data)
    await machine.raw.connection.jetstream().publish(subject, data, headers={subjects.LOG_HEADER: header})


# -- people who may do it can


async def test_an_operator_is_obeyed_and_answered(web1, op1):
    assert await op1.call("web1", WRITE) == {"done": "write"}
    assert web1.obeyed == [("op1", "write")]


async def test_an_observer_may_look(web1, obs):
    assert await obs.call("web1", READ) == {"done": "read"}


async def test_an_observer_follows_a_log_and_knows_it_is_the_machines(cast, web1, obs):
    deliver = f"{obs.inbox}.follow"
    messages = await obs.connection.subscribe(deliver)
    await printed(web1, b"hello", "cmdop.log.web1.greets")
    made = await consumer(obs, "cmdop.log.web1.greets", deliver, flow_control=True, idle_heartbeat=1_000_000_000)
    message = await messages.next_msg(10)

    assert "error" not in made
    header = message.headers[subjects.LOG_HEADER]
    assert seals.check_log(cast.web1_key.identity.proof, message.subject, header, message.data) == (0, [])


async def test_an_observer_sees_who_is_there(cast, web1, obs):
    deliver = f"{obs.inbox}.roster"
    messages = await obs.connection.subscribe(deliver)
    card = seals.seal_card(web1.raw.key.identity, {"state": "up"})
    await web1.raw.connection.jetstream().publish(subjects.roster("web1"), card)
    await consumer(obs, f"{subjects.ROSTER}.>", deliver, subjects.ROSTER_STREAM, deliver_policy="last_per_subject")
    message = await messages.next_msg(10)

    assert seals.check_card(cast.obs.workspace_public, message.subject, message.data)[1] == {"state": "up"}


# -- an observer types


async def test_an_observer_may_not_publish_input_and_the_servers_log_says_who_tried(cast, web1, obs, op1):
    subject, payload, reply = obs.sealed("web1", WRITE)

    assert "permissions violation" in await obs.is_refused(subject, payload, reply)
    await op1.call("web1", READ)
    assert web1.obeyed == [("op1", "read")]
    assert not web1.refused
    tried = [line for line in cast.it.log.splitlines() if "Violation" in line and INPUT in line]
    assert any(cast.obs.identity.connects_as in line for line in tried)


async def test_an_observers_call_by_where_all_may_publish_changes_nothing(web1, obs):
    await obs.publish(*obs.sealed("web1", WRITE, subject="cmdop.ask.web1"))
    await until(lambda: web1.refused)

    assert not web1.obeyed
    assert "observer obs" in web1.lines[0]


async def test_a_read_whose_answer_would_be_input_is_not_answered_and_the_log_says_who_tried(web1, obs, op1):
    await obs.publish(*obs.sealed("web1", READ, reply=INPUT))
    await until(lambda: web1.refused)
    await op1.call("web1", READ)

    assert web1.obeyed == [("op1", "read")]
    assert len(web1.refused) == 1  # and no answer of it came back as a call
    assert "observer obs" in web1.lines[0]
    assert repr(INPUT) in web1.lines[0]


async def test_a_consumer_that_delivers_to_input_types_nothing(cast, web1, obs):
    frame = seals.encode(WRITE, b"rm -rf\n")  # a session can print what it likes
    await printed(web1, frame, "cmdop.log.web1.frames")

    made = await consumer(obs, "cmdop.log.web1.frames", INPUT)

    assert "error" not in made  # nats-server takes it: only the gate is in the way
    await until(lambda: web1.refused)
    assert not web1.obeyed
    assert "did not come by a subject of this machine" in web1.lines[0]
    assert f"$JS.ACK.LOG_web1.{made['name']}." in web1.lines[0]


async def test_a_consumer_that_delivers_a_call_an_operator_signed_types_nothing(web1, obs, op1):
    _, payload, _ = op1.sealed("web1", WRITE, b"rm -rf\n")
    await printed(web1, payload, "cmdop.log.web1.stolen")

    await consumer(obs, "cmdop.log.web1.stolen", INPUT)

    await until(lambda: web1.refused)
    assert not web1.obeyed
    assert "did not come by a subject of this machine" in web1.lines[0]


async def test_who_has_a_consumer_deliver_to_input_is_told_to_who_watches(cast, web1, obs, op1):
    lines: list[str] = []
    watching = asyncio.create_task(watch(cast.it.folder.read(), lines.append))
    await until(lambda: lines)
    await printed(web1, b"x", "cmdop.log.web1.watched")
    await consumer(op1, "cmdop.log.web1.watched", f"{op1.inbox}.x")  # as it should be
    made = await consumer(obs, "cmdop.log.web1.watched", INPUT)
    await until(lambda: len(lines) > 1)
    watching.cancel()

    assert len(lines) == 2
    assert f"observer obs ({obs.key.identity.connects_as})" in lines[1]
    assert made["name"] in lines[1]
    assert repr(INPUT) in lines[1]


@pytest.mark.parametrize("subject", PULLS)
async def test_what_would_be_answered_to_input_is_not_permitted(web1, obs, op1, subject):
    await printed(web1, seals.encode(WRITE, b"rm -rf\n"), "cmdop.log.web1.pulled")
    made = await consumer(obs, "cmdop.log.web1.pulled", "")  # a pull consumer

    await obs.is_refused(subject.format(name=made["name"]), b'{"batch":1,"seq":1}', INPUT)
    await op1.call("web1", READ)

    assert not web1.refused
    assert web1.obeyed == [("op1", "read")]


async def test_the_answer_to_a_new_consumer_is_no_input_either(web1, obs):
    asked = json.dumps({"stream_name": "LOG_web1", "config": {"name": "x", "filter_subject": LOG}}).encode()

    await obs.publish(f"$JS.API.CONSUMER.CREATE.LOG_web1.x.{LOG}", asked, INPUT)

    await until(lambda: web1.refused)
    assert not web1.obeyed


@pytest.mark.parametrize("verb", ["CREATE", "UPDATE", "DELETE", "PURGE", "MSG.DELETE", "SNAPSHOT"])
@pytest.mark.parametrize("who", ["op1", "obs", "web2"])
async def test_nobody_but_the_admin_changes_a_stream(cast, verb, who):
    async with Raw(read_machine_key(cast.web2) if who == "web2" else getattr(cast, who)) as raw:
        assert await raw.is_refused(f"$JS.API.STREAM.{verb}.LOG_web1", b"{}", f"{raw.inbox}.x")


# -- what others are told


@pytest.mark.parametrize(
    "subject", ["_IN.op1.>", "_IN.>", ">", "_IN.*.web1.>", "_IN.op1.web1.link.1", "*.op1.>", "cmdop.do.web1", "cmdop.>"]
)
async def test_nobody_listens_to_what_another_is_told(obs, subject):
    assert "permissions violation" in await obs.cannot_listen(subject)


async def test_what_somebody_has_delivered_to_another_is_not_taken_for_an_answer(web1, op1, obs):
    reply = subjects.answer("op1", "web1", "link", 1)
    answers = await op1.connection.subscribe(reply)
    await printed(web1, seals.encode({"done": "write"}), "cmdop.log.web1.lies")

    await consumer(obs, "cmdop.log.web1.lies", reply)
    message = await answers.next_msg(10)

    with pytest.raises(Refused, match="not signed"):
        seals.check_answer(op1.key.workspace_public, "web1", reply, message.data)


@pytest.mark.parametrize("subject", ["cmdop.log.web1.mine", subjects.roster("web1")])
async def test_what_somebody_has_answered_into_a_stream_is_not_taken_for_the_machines(cast, web1, obs, op1, subject):
    asked = json.dumps({"stream_name": "LOG_web1", "config": {"name": "y", "filter_subject": LOG}}).encode()
    await obs.publish(f"$JS.API.CONSUMER.CREATE.LOG_web1.y.{LOG}", asked, subject)  # nats-server lets it
    messages = await op1.connection.subscribe(f"{op1.inbox}.look")
    stream = "LOG_web1" if subject.startswith("cmdop") else subjects.ROSTER_STREAM

    await consumer(op1, subject, f"{op1.inbox}.look", stream)
    while b"io.nats.jetstream" not in (message := await messages.next_msg(10)).data:
        pass  # an older one

    header = (message.headers or {}).get(subjects.LOG_HEADER)
    with pytest.raises(Refused):
        seals.check_log(cast.web1_key.identity.proof, subject, header, message.data)
    with pytest.raises(Refused):
        seals.check_card(cast.op1.workspace_public, subject, message.data)


# -- replays


async def test_a_signed_call_counts_once_whoever_sends_it_again(cast, web1, op1):
    call = op1.sealed("web1", WRITE)
    await op1.publish(*call)
    await until(lambda: web1.obeyed)

    await op1.publish(*call)
    async with Raw(cast.op4) as op4:
        await op4.publish(*call)
        await until(lambda: len(web1.refused) == 2)

    assert web1.obeyed == [("op1", "write")]
    assert all("came before" in refused.reason for refused in web1.refused)
    assert "operator op1" in web1.lines[0]


async def test_a_signed_call_is_not_obeyed_on_another_machine(cast, op1):
    _, payload, _ = op1.sealed("web1", WRITE)
    async with gated(cast.web2) as web2:
        await op1.publish("cmdop.do.web2", payload, subjects.answer("op1", "web2", "link", 1))
        await until(lambda: web2.refused)

        assert not web2.obeyed


async def test_a_call_of_yesterday_is_told_what_is_wrong(web1, op1):
    subject, payload, reply = op1.sealed("web1", WRITE, time_ns=time.time_ns() - 86400 * 10**9)
    answers = await op1.connection.subscribe(reply)
    await op1.publish(subject, payload, reply)
    answer = await answers.next_msg(10)

    assert b"86400 s old" in answer.data
    assert not web1.obeyed


# -- workspaces and machines


@pytest.fixture
async def op5(cast: Cast) -> AsyncIterator[Raw]:
    """An operator of the other workspace."""
    async with Raw(cast.op5) as raw:
        yield raw


async def test_an_operator_of_another_workspace_types_nothing(web1, op5, op1):
    with pytest.raises(nats.errors.NoRespondersError):
        await op5.connection.request(INPUT, op5.sealed("web1", WRITE)[1], 10)
    await op1.call("web1", READ)

    assert web1.obeyed == [("op1", "read")]
    assert not web1.refused


async def test_an_operator_of_another_workspace_reads_nothing(web1, op5):
    await printed(web1, b"secret", "cmdop.log.web1.private")

    made = await consumer(op5, "cmdop.log.web1.private", f"{op5.inbox}.x")

    assert made["error"]["description"] == "stream not found"


async def test_an_operator_of_another_workspace_lists_no_machine(cast, web1, op5):
    card = seals.seal_card(web1.raw.key.identity, {"state": "up"})
    await web1.raw.connection.jetstream().publish(subjects.roster("web1"), card)

    made = await consumer(op5, f"{subjects.ROSTER}.>", f"{op5.inbox}.x", subjects.ROSTER_STREAM)

    assert made["num_pending"] == 0


async def test_an_operator_of_another_workspace_with_a_key_of_this_one_is_not_obeyed(cast, web1, op1, op5):
    """What op5 signed comes over op1's connection."""
    subject, payload, _ = op5.sealed("web1", WRITE)
    await op1.publish(subject, payload, subjects.answer("op5", "web1", "link", 1))
    await until(lambda: web1.refused)

    assert not web1.obeyed
    assert "'op5'" in web1.lines[0]


@pytest.mark.parametrize("subject", NOT_OF_WEB2)
async def test_a_machine_does_not_speak_as_another(cast, subject):
    async with Raw(read_machine_key(cast.web2)) as web2:
        assert "permissions violation" in await web2.is_refused(subject)


@pytest.mark.parametrize("subject", ["cmdop.ask.web1", "cmdop.do.*", "cmdop.log.web1.*", "_IM.web1.>", "_IN.>", ">"])
async def test_a_machine_does_not_hear_what_another_does(cast, subject):
    async with Raw(read_machine_key(cast.web2)) as web2:
        assert "permissions violation" in await web2.cannot_listen(subject)


async def test_an_answer_of_one_machine_is_not_taken_for_anothers(cast, op1):
    web2 = read_machine_key(cast.web2)
    reply = subjects.answer("op1", "web1", "link", 1)
    forged = seals.seal_answer(web2.identity, reply, 0, {})

    with pytest.raises(Refused, match="an answer of web2 to what web1 was asked"):
        seals.check_answer(op1.key.workspace_public, "web1", reply, forged)


# -- keys


async def cannot_connect(url: str, **options: object) -> str:
    errors: list[Exception] = []

    async def note(error: Exception) -> None:
        errors.append(error)

    client = Client()
    with pytest.raises((nats.errors.Error, OSError, ValueError)) as refused:
        await client.connect(url, allow_reconnect=False, connect_timeout=5, error_cb=note, **options)
    await client.close()
    return f"{refused.value} {errors}".lower()


async def test_a_key_that_the_relay_does_not_know_does_not_connect_and_the_log_says_which(cast):
    seed = new_user()

    assert "authorization violation" in await cannot_connect(cast.it.url, nkeys_seed_str=seed)
    assert "authentication error" in cast.it.log


async def test_nobody_connects_without_a_key(cast):
    assert "authorization violation" in await cannot_connect(cast.it.url)


async def test_nobody_connects_by_a_name_and_a_password(cast):
    assert "authorization violation" in await cannot_connect(cast.it.url, user="lab", password="")


async def test_a_revoked_key_is_cut_off_and_others_are_not(cast, web1):
    key = ApiKey.parse(cast.it.api_key("dora"))
    async with Raw(key) as dora, Raw(cast.op4) as op4:
        await dora.call("web1", WRITE)

        cast.it.revoke("dora")

        await until(lambda: dora.connection.is_closed)
        await op4.call("web1", WRITE)
        assert not web1.raw.connection.is_closed
    assert "authorization violation" in await cannot_connect(cast.it.url, nkeys_seed_str=key.identity.seed)


# -- names, sizes, numbers


@pytest.mark.parametrize("name", ["*", ">", "web1.x", "", "web 1"])
async def test_no_call_goes_to_a_name_that_is_more_than_one_machine(op1, name):
    with pytest.raises(InvalidRequest):
        op1.sealed(name, WRITE)


@pytest.mark.parametrize("subject", ["cmdop.do.*", "cmdop.do.>", "cmdop.ask.*", "cmdop.ask.>"])
async def test_a_call_to_a_wildcard_reaches_no_machine(web1, op1, subject):
    _, payload, reply = op1.sealed("web1", WRITE)
    await op1.publish(subject, payload, reply)
    await op1.call("web1", READ)

    assert web1.obeyed == [("op1", "read")]
    assert not web1.refused


async def test_a_call_above_the_limit_is_refused_unread(web1, op1):
    _, payload, reply = op1.sealed("web1", WRITE, b"x" * 1024 * 1024)
    await op1.publish(INPUT, payload + b"x" * (seals.MAX_PAYLOAD - len(payload) + 1), reply)
    await until(lambda: web1.refused)

    assert not web1.obeyed
    assert f"above the {seals.MAX_PAYLOAD}" in web1.lines[0]


def test_a_payload_above_the_servers_limit_ends_the_connection_and_the_log_says_whose(cast):
    """nats-py would not send it, so this client is a bare socket."""
    from cmdop_jupyter.relay.proofs import _text, nkeys

    with socket.create_connection(("127.0.0.1", cast.it.port), 10) as sock, sock.makefile("rb") as lines:
        info = json.loads(lines.readline().removeprefix(b"INFO "))
        signature = _text(nkeys.from_seed(cast.op1.identity.seed.encode()).sign(info["nonce"].encode()))
        hello = {"verbose": False, "nkey": cast.op1.identity.connects_as, "sig": signature}
        sock.sendall(b"CONNECT " + json.dumps(hello).encode() + b"\r\nPING\r\n")
        assert lines.readline() == b"PONG\r\n"

        sock.sendall(f"PUB {INPUT} {MAX_MESSAGE + 1}\r\n".encode())

        assert lines.readline() == b"-ERR 'Maximum Payload Violation'\r\n"
        assert not lines.readline()
    assert "maximum payload" in cast.it.log.lower()


async def test_a_flood_of_calls_by_an_observer_holds_up_no_operator(cast, web1, op1, obs):
    began = time.monotonic()
    for number in range(3000):
        await obs.connection.publish("cmdop.ask.web1", b"junk" * 100, f"_IN.obs.web1.flood.{number}")
    for _ in range(300):
        subject, payload, reply = obs.sealed("web1", WRITE, subject="cmdop.ask.web1")
        await obs.connection.publish(subject, payload, reply)
    await obs.settle()

    assert await op1.call("web1", WRITE) == {"done": "write"}
    assert web1.obeyed == [("op1", "write")]
    await until(lambda: len(web1.refused) == 3300)
    most = seals.LINES_AT_ONCE + 1 + time.monotonic() - began
    assert len(web1.lines) <= 2 * most  # of two callers: obs, and somebody unproven
    assert any("observer obs" in line for line in web1.lines)


async def test_a_flood_of_signed_calls_is_refused_above_a_number_and_others_go_on(web1, op1, obs, monkeypatch):
    monkeypatch.setattr(seals, "CALLS_REMEMBERED", 50)
    for _ in range(100):
        subject, payload, reply = obs.sealed("web1", READ)
        await obs.connection.publish(subject, payload, reply)
    await obs.settle()

    assert await op1.call("web1", WRITE) == {"done": "write"}
    await until(lambda: len(web1.obeyed) + len(web1.refused) == 101)
    assert len(web1.obeyed) == 51
    assert "observer obs" in web1.lines[0]


def test_all_files_of_the_keys_folder_are_ours_alone(cast):
    files = [path for path in cast.it.folder.path.iterdir() if path.suffix in (".conf", ".json", ".key")]

    assert len(files) >= 5
    assert not [path for path in files if path.stat().st_mode & 0o077]


def test_no_seed_of_a_person_or_a_machine_is_kept(cast):
    kept = "".join(
        path.read_text() for path in Path(cast.it.folder.path).iterdir() if path.suffix in (".conf", ".json")
    )

    assert cast.op1.identity.connects_as in kept
    assert not [key for key in (cast.op1, cast.obs, cast.web1_key) if key.identity.seed in kept]
    assert os.path.exists(cast.web1)
