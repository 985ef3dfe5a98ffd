"""The store's calls over one byte stream: what is written in which order, how much of it, and what is answered."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import json
import os
import random
import select
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmdop_jupyter.agent import rpc
from cmdop_jupyter.agent.calls import Calls
from cmdop_jupyter.agent.errors import (
    InvalidRequest,
    LogDropped,
    NameInUse,
    PortClosed,
    SessionNotFound,
    SessionOver,
    StoreRefused,
)
from cmdop_jupyter.agent.frames import MAX_HEADER, FrameDecoder, FrameError, encode
from cmdop_jupyter.agent.log import CHANNELS, Chunk
from cmdop_jupyter.agent.outbox import (
    BULK,
    MAX_WINDOW,
    MIN_PIECE,
    MIN_WINDOW,
    PIECE,
    QUEUE_SECONDS,
    URGENT,
    VIEWS,
    Outbox,
    Window,
    frames_of,
)
from cmdop_jupyter.agent.rpc import MOST_CHUNKS, Server, keep_agent_socket, pack_chunks, unpack_chunks
from cmdop_jupyter.agent.store import SessionStore, raise_answer
from cmdop_jupyter.machines.link import ACKNOWLEDGE
from tools.leftovers import marked

AGENT = Path(rpc.__file__).parent
STAY = "exec sleep 1000"
PATIENCE = 20  # seconds until an agent that says nothing fails the test

# -- chunks

CHUNKS = st.lists(
    st.tuples(st.sampled_from(CHANNELS), st.integers(0, 2**63 - 1), st.integers(0, 2**32), st.binary(max_size=9))
)


def in_a_row(pieces: list[tuple[str, int, int, bytes]], offset: int) -> list[Chunk]:
    """Chunks of a log, each behind the one before."""
    chunks = []
    for channel, wall_ns, mono_ms, data in pieces:
        chunks.append(Chunk(offset, channel, wall_ns, mono_ms, data))
        offset += len(data)
    return chunks


def over_the_wire(header: dict[str, Any], body: list[bytes]) -> tuple[dict[str, Any], list[bytes]]:
    ((there, data),) = FrameDecoder().feed(encode(header, b"".join(body)))
    return there, [data]


@given(pieces=CHUNKS, offset=st.integers(0, 2**60), size=st.integers(1, 9))
def test_chunks_come_out_as_they_went_in_however_their_bytes_are_cut(pieces, offset, size):
    chunks = in_a_row(pieces, offset)

    header, (data,) = over_the_wire(*pack_chunks(chunks))

    assert unpack_chunks(header, [data[at : at + size] for at in range(0, len(data), size)]) == chunks


def test_one_answer_describes_so_many_chunks_and_no_more():
    chunks = in_a_row([("stdout", 2**63 - 1, 2**32 - 1, b"x" * 100)] * (MOST_CHUNKS + 1), 2**60)

    header, body = pack_chunks(chunks)

    assert unpack_chunks(*over_the_wire(header, body)) == chunks[:MOST_CHUNKS]
    assert len(encode(header)) < MAX_HEADER // 2


@pytest.mark.parametrize(
    ("header", "body"),
    [
        ({"offset": 0, "chunks": [[0, 1, 1, 3]]}, b"four"),
        ({"offset": 0, "chunks": [[0, 1, 1, 5]]}, b"four"),
        ({"offset": 0, "chunks": [[0, 1, 1, 5], [0, 1, 1, -1]]}, b"four"),
        ({"offset": 0, "chunks": [[9, 1, 1, 4]]}, b"four"),
        ({"offset": 0, "chunks": [[0, 1, 4]]}, b"four"),
        ({"offset": "zero", "chunks": [[0, 1, 1, 4]]}, b"four"),
        ({"chunks": []}, b""),
        ({"offset": 0}, b""),
    ],
    ids=["too little", "too much", "negative", "no channel", "no time", "no offset", "offset missing", "no chunks"],
)
def test_chunks_that_make_no_sense_are_refused(header, body):
    with pytest.raises(FrameError):
        unpack_chunks(header, [body])


# -- what goes first


@dataclass
class Answer:
    """One that was put into an outbox, and what has come of it."""

    number: int
    urgency: int
    body: bytes
    put_at: int  # bytes on the wire when it was put
    frames_before: int  # that had come whole by then


@dataclass
class Wire:
    """An outbox that is written from, a piece at a time, and the far end that puts answers together again.

    Attributes:
        frames: Those that came whole: number, where they begin on the wire, bytes of body.
        came: The answers, by number: header and body.
    """

    outbox: Outbox = field(default_factory=Outbox)
    now: float = 0.0
    put: dict[int, Answer] = field(default_factory=dict)
    frames: list[tuple[int, int, int]] = field(default_factory=list)
    came: dict[int, tuple[dict[str, Any], bytes]] = field(default_factory=dict)
    size: int = 0  # bytes on the wire
    acknowledged: int = 0
    _decoder: FrameDecoder = field(default_factory=FrameDecoder)
    _pieces: dict[int, list[bytes]] = field(default_factory=dict)
    _frames_size: int = 0

    def answer(self, urgency: int, sizes: list[int]) -> None:
        number = len(self.put)
        parts = [random.Random(f"{number} {part}").randbytes(size) for part, size in enumerate(sizes)]
        self.put[number] = Answer(number, urgency, b"".join(parts), self.size, len(self.frames))
        self.outbox.put({"number": number, "fact": f"of {number}"}, parts, urgency)

    def write(self, most: int) -> int:
        """Write up to `most` bytes, in one go as `writev` would."""
        data = b"".join(self.outbox.buffers(self.now))[:most]
        self.outbox.written(len(data))
        self.size += len(data)
        for header, body in self._decoder.feed(data):
            self._hear(header, body)
        return len(data)

    def _hear(self, header: dict[str, Any], body: bytes) -> None:
        number = header["number"]
        self.frames.append((number, self._frames_size, len(body)))
        self._frames_size += len(encode(header, body))
        self._pieces.setdefault(number, []).append(body)
        assert len(body) <= PIECE
        assert bool(header.get("bulk")) == (self.put[number].urgency != URGENT)
        if "more" not in header:
            assert number not in self.came, f"{number} is answered twice"
            self.came[number] = header, b"".join(self._pieces[number])

    @property
    def bulk(self) -> int:
        """Bytes of bulk that came."""
        return sum(size for number, _, size in self.frames if self.put[number].urgency != URGENT)

    def acknowledge(self) -> None:
        self.acknowledged = self.bulk
        self.outbox.window.acknowledged(self.bulk, self.now)

    def finish(self) -> None:
        while self.write(1_000_000) or self.acknowledged < self.bulk:
            self.acknowledge()


URGENCIES = st.sampled_from([URGENT, BULK, BULK, VIEWS])
SIZES = st.lists(st.sampled_from([0, 1, 5, 1000, MIN_PIECE, PIECE - 1, PIECE, PIECE + 1, 250_000]), max_size=3)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("answer"), URGENCIES, SIZES),
        st.tuples(st.just("write"), st.sampled_from([1, 7, 8, 50, 1000, 8192, 65536, 300_000])),
        st.tuples(st.just("acknowledge"), st.sampled_from([0.0, 0.001, 0.5])),
    ),
    max_size=40,
)


def run(steps: list[tuple[Any, ...]]) -> Wire:
    wire = Wire()
    for what, *how in steps:
        if what == "answer":
            wire.answer(*how)
        elif what == "write":
            wire.write(*how)
        else:
            wire.now += how[0]
            wire.acknowledge()
    return wire


@given(steps=STEPS)
def test_every_answer_arrives_whole_whatever_is_written_at_a_time(steps):
    wire = run(steps)
    wire.finish()

    assert wire.came.keys() == wire.put.keys()
    for number, (header, body) in wire.came.items():
        assert body == wire.put[number].body
        assert header["fact"] == f"of {number}"
    assert wire.outbox.buffers(wire.now) == []


@given(steps=STEPS)
def test_what_is_urgent_waits_for_one_frame_of_bulk_at_most(steps):
    wire = run(steps)
    wire.finish()

    for answer in wire.put.values():
        if answer.urgency == URGENT:
            last = max(place for place, (number, *_) in enumerate(wire.frames) if number == answer.number)
            between = wire.frames[answer.frames_before : last]
            assert sum(wire.put[number].urgency != URGENT for number, *_ in between) <= 1


@given(steps=STEPS)
def test_answers_of_bulk_take_turns_and_views_come_last(steps):
    wire = run(steps)
    wire.finish()

    places: dict[int, list[int]] = {}
    for place, (number, *_) in enumerate(wire.frames):
        places.setdefault(number, []).append(place)
    for one, other in itertools.permutations([one for one in wire.put.values() if one.urgency != URGENT], 2):

        def waited(since: int, until: int, other: Answer = other) -> bool:
            return other.put_at <= wire.frames[since][1] and places[other.number][-1] > until

        for before, after in itertools.pairwise(places[one.number]):
            if one.urgency == other.urgency and waited(before, after):
                assert any(before < place < after for place in places[other.number])
        if (one.urgency, other.urgency) == (VIEWS, BULK):
            assert not any(waited(place, place) for place in places[one.number])


@given(steps=STEPS)
def test_nothing_beyond_the_window_is_sent_before_it_is_acknowledged(steps):
    wire = run(steps)
    window = wire.outbox.window
    while size := wire.write(1_000_000):  # a frame
        assert wire.bulk - wire.acknowledged < window.size + window.piece, f"{size} more bytes"

    if wire.came.keys() != wire.put.keys():
        assert wire.bulk - wire.acknowledged >= window.size


@given(sizes=SIZES, pieces=st.lists(st.integers(1, PIECE), min_size=1, max_size=5))
def test_a_long_body_is_cut_into_frames_of_the_size_asked_for_at_each(sizes, pieces):
    body = [os.urandom(size) for size in sizes]
    asked = []

    def piece() -> int:
        asked.append(max(pieces[len(asked) % len(pieces)], 1000))
        return asked[-1]

    frames = list(frames_of({"number": 1, "fact": 2}, body, piece))
    found = FrameDecoder().feed(b"".join(part for frame in frames for part in frame))

    assert b"".join(data for _, data in found) == b"".join(body)
    assert [len(data) for _, data in found[:-1]] == asked[:-1]
    assert len(found[-1][1]) <= asked[-1]
    assert [header for header, _ in found[:-1]] == [{"number": 1, "more": True}] * (len(found) - 1)
    assert found[-1][0] == {"number": 1, "fact": 2}


# -- how much of it


@dataclass
class Simulated:
    """A link that carries `rate` bytes/s, with `delay` seconds there and back, always full of bulk.

    Attributes:
        throughput: Bytes/s in the second half of the time.
        queued: The longest that a frame stood in line in the second half.
    """

    rate: float
    delay: float
    seconds: float
    throughput: float = 0.0
    queued: float = 0.0

    def run(self) -> Simulated:
        window, now, free_at, got, told = Window(), 0.0, 0.0, 0, 0
        numbers = itertools.count()
        events: list[tuple[float, int, str, int, float]] = []
        arrived = 0
        while now < self.seconds:
            while window.open:
                size = window.piece
                window.sent(size, now)
                begins = max(now, free_at)
                free_at = begins + size / self.rate
                heapq.heappush(events, (free_at + self.delay / 2, next(numbers), "data", size, begins - now))
            now, _, what, count, queued = heapq.heappop(events)
            if what == "got":
                window.acknowledged(count, now)
                continue
            got += count
            if now > self.seconds / 2:
                arrived += count
                self.queued = max(self.queued, queued)
            if got - told >= ACKNOWLEDGE:
                told = got
                heapq.heappush(events, (now + self.delay / 2, next(numbers), "got", got, 0.0))
        self.throughput = arrived / (self.seconds / 2)
        return self


@pytest.mark.parametrize("delay", [0.0, 0.001, 0.01, 0.03, 0.1, 0.3])
@pytest.mark.parametrize("rate", [1e5, 3e5, 1e6, 3e6, 1e7, 3e7, 1e8])
def test_the_window_finds_what_a_link_carries_without_a_long_queue(rate, delay):
    link = Simulated(rate, delay, seconds=16 if rate >= 1e7 else 20).run()

    possible = min(rate, MAX_WINDOW / max(delay, 1e-6))
    assert link.throughput >= 0.8 * possible
    assert link.queued <= max(2 * QUEUE_SECONDS, (MIN_WINDOW + MIN_PIECE) / rate)


@given(
    steps=st.lists(
        st.tuples(st.integers(0, 400), st.floats(0, 2), st.floats(0, 1), st.booleans()), min_size=1, max_size=30
    )
)
def test_the_window_keeps_within_its_bounds(steps):
    window, now, sent, acknowledged = Window(), 0.0, 0, 0
    for count, pause, share, look in steps:
        for _ in range(count):
            if not look or window.open:
                window.sent(window.piece, now)
                sent += window.piece
        now += pause
        acknowledged += int((sent - acknowledged) * share)
        window.acknowledged(acknowledged, now)

        assert MIN_WINDOW <= window.size <= MAX_WINDOW
        assert MIN_PIECE <= window.piece <= PIECE


def fill(window: Window, now: float) -> int:
    """Send until the window is closed; return the bytes."""
    size = 0
    while window.open:
        window.sent(PIECE, now)
        size += PIECE
    return size


def test_a_window_that_was_filled_grows_when_the_way_is_short():
    window = Window()
    before = window.size

    window.acknowledged(fill(window, 0.0), 0.01)

    assert window.size > before


def test_a_window_that_was_not_filled_stays():
    window = Window()
    before = window.size
    assert window.open
    window.sent(PIECE, 0.0)

    window.acknowledged(PIECE, 0.01)

    assert window.size == before


def test_a_window_shrinks_when_the_queue_is_long():
    window = Window()
    sent = fill(window, 0.0)
    window.acknowledged(sent, 0.01)
    before = window.size
    sent += fill(window, 1.0)

    window.acknowledged(sent, 1.0 + 0.01 + 4 * QUEUE_SECONDS)

    assert window.size < before


def test_a_long_way_is_no_long_queue():
    window = Window()
    before, sent = window.size, 0
    for turn in range(10):
        sent += fill(window, float(turn))
        window.acknowledged(sent, turn + 0.3)

    assert window.size > before


@pytest.mark.parametrize("total", [101, 49])
def test_more_than_was_sent_or_less_than_before_cannot_be_acknowledged(total):
    window = Window()
    window.sent(100, 0.0)
    window.acknowledged(50, 0.1)

    with pytest.raises(FrameError, match="acknowledged"):
        window.acknowledged(total, 0.2)


# -- the server


class Client:
    """Asks a server on the same loop: what it writes is read at once, and acknowledged as a link does it."""

    def __init__(self, calls: Calls | StoreRefused) -> None:
        self.server = Server(calls, self._read)
        self.answered: list[int] = []
        self._decoder = FrameDecoder()
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[tuple[dict[str, Any], bytes]]] = {}
        self._pieces: dict[int, list[bytes]] = {}
        self._bulk = 0
        self._reading = False

    def begin(self, op: str, body: bytes = b"", **facts: object) -> int:
        """Ask, and return the request's number."""
        number = next(self._numbers)
        self._waiting[number] = asyncio.get_running_loop().create_future()
        self.server.feed(encode({"op": op, "number": number, **facts}, body))
        return number

    async def answer(self, number: int) -> tuple[dict[str, Any], bytes]:
        header, body = await self._waiting[number]
        return raise_answer(header), body

    async def ask(self, op: str, body: bytes = b"", **facts: object) -> tuple[dict[str, Any], bytes]:
        return await self.answer(self.begin(op, body, **facts))

    def _read(self) -> None:
        if self._reading:
            return
        self._reading = True
        while buffers := self.server.outbox.buffers(asyncio.get_running_loop().time()):
            data = b"".join(buffers)
            self.server.outbox.written(len(data))
            for header, body in self._decoder.feed(data):
                self._hear(header, body)
            self.server.feed(encode({"op": "got", "bytes": self._bulk}))
        self._reading = False

    def _hear(self, header: dict[str, Any], body: bytes) -> None:
        number = header["number"]
        self._bulk += len(body) if header.get("bulk") else 0
        self._pieces.setdefault(number, []).append(body)
        if not header.get("more"):
            self.answered.append(number)
            self._waiting[number].set_result((header, b"".join(self._pieces.pop(number))))


def facts_in(answer: tuple[dict[str, Any], bytes]) -> dict[str, Any]:
    """A session's facts: in the body, as they may be long."""
    _, body = answer
    return json.loads(body)


@pytest.fixture
async def client(store: SessionStore) -> Any:
    client = Client(Calls(store))
    yield client
    client.server.close()


async def test_many_calls_under_way_are_each_answered(client, start):
    sessions = [start(f"read go; echo {number} went", tty="none") for number in range(4)]
    reads = {
        client.begin("read", session=session.id, offset=0, max_bytes=1000): number
        for _ in range(50)
        for number, session in enumerate(sessions)
    }
    seen = [(await client.ask("status", session=session.id))[0]["seq"] for session in sessions]
    changes = [client.begin("status", session=one.id, seen=seq) for one, seq in zip(sessions, seen, strict=True)]
    found = await asyncio.gather(*(client.ask("find", wanted=session.id) for session in sessions))
    assert [facts_in(answer)["id"] for answer in found] == [session.id for session in sessions]
    assert not {*reads, *changes} & {*client.answered}

    for session in reversed(sessions):
        await client.ask("write", b"\n", session=session.id, writer="w", offset=0)

    for number, which in reads.items():
        header, body = await client.answer(number)
        chunks = unpack_chunks(header, [body])
        assert b"".join(chunk.data for chunk in chunks) == f"{which} went\n".encode()
    for number, seq in zip(changes, seen, strict=True):
        assert (await client.answer(number))[0]["seq"] != seq


async def test_what_is_cancelled_is_not_answered_and_all_else_goes_on(client, start):
    session = start("read go; echo went", tty="none")
    dropped = client.begin("read", session=session.id, offset=0, max_bytes=10)
    kept = client.begin("read", session=session.id, offset=0, max_bytes=10)
    await client.ask("ping")

    client.server.feed(encode({"op": "cancel", "number": dropped}))
    client.server.feed(encode({"op": "cancel", "number": 4711}))  # it was answered meanwhile
    await client.ask("write", b"\n", session=session.id, writer="w", offset=0)

    header, body = await client.answer(kept)
    assert b"".join(chunk.data for chunk in unpack_chunks(header, [body])) == b"went\n"
    await client.ask("ping")
    assert dropped not in client.answered


async def test_a_request_and_its_cancel_may_come_together(client, start):
    session = start(STAY)
    request = encode({"op": "read", "number": 99, "session": session.id, "offset": 0, "max_bytes": 10})

    client.server.feed(request + encode({"op": "cancel", "number": 99}))
    await client.ask("ping")

    client.server.feed(request)  # it is over, so its number is free
    await client.ask("ping")
    assert 99 not in client.answered


@pytest.mark.parametrize(
    ("op", "facts", "body", "said"),
    [
        ("fly", {}, b"", "no 'fly'"),
        ("", {}, b"", "no ''"),
        ("status", {}, b"", "'session'"),
        ("find", {}, b"", "'wanted'"),
        ("read", {"session": "s", "offset": "begin", "max_bytes": 1}, b"", ""),
        ("read", {"session": ["s"], "offset": 0, "max_bytes": 1}, b"", ""),
        ("tail", {"session": "../../etc", "max_bytes": 1}, b"", ""),
        ("write", {"session": "s"}, b"", "writer"),
        ("start", {}, b"not JSON", ""),
        ("start", {}, b"[1]", ""),
        ("start", {}, b"\xff", ""),
        ("start", {}, b"[" * 100_000, ""),
        ("dial", {"port": "http"}, b"", "http"),
        ("dial", {"port": 70_000}, b"", "1 to 65535"),
        ("recv", {}, b"", "connection"),
        ("keep_ended", {"seconds": 1}, b"", "max_bytes"),
    ],
)
async def test_what_makes_no_sense_is_refused_and_the_link_goes_on(client, start, op, facts, body, said):
    session = start(STAY)
    facts = {name: session.id if value == "s" else value for name, value in facts.items()}

    with pytest.raises((InvalidRequest, SessionNotFound)) as refused:
        await client.ask(op, body, **facts)

    assert said in str(refused.value)
    assert (await client.ask("status", session=session.id))[0]["state"] == "running"


async def test_a_refusal_that_quotes_a_lot_arrives_all_the_same(client):
    asked = {"id": "id", "name": "n" * (MAX_HEADER + 1), "script": "true"}

    with pytest.raises(InvalidRequest, match="nnn"):
        await asyncio.wait_for(client.ask("start", json.dumps(asked).encode()), PATIENCE)


async def test_a_command_of_many_words_is_started_and_found(client):
    words = ["true", *(["x" * 100_000] * 3)]  # facts above what a header may hold
    asked = {"id": "long", "name": "long", "argv": words, "tty": "none"}

    started = facts_in(await asyncio.wait_for(client.ask("start", json.dumps(asked).encode()), PATIENCE))
    found = facts_in(await asyncio.wait_for(client.ask("find", wanted="long"), PATIENCE))

    assert started["id"] == found["id"] == "long"
    assert started["argv"] == found["argv"] == words


async def test_errors_of_the_store_cross_the_link_as_themselves(client, start, store):
    over = start("exit 3", name="over", tty="none")
    over.until_ended()
    api = start(STAY, name="api")

    with pytest.raises(SessionNotFound) as missing:
        await client.ask("find", wanted="apu")
    assert (missing.value.wanted, missing.value.nearest) == ("apu", ("api",))
    with pytest.raises(NameInUse) as taken:
        await client.ask("start", json.dumps({"id": "other", "name": "api", "script": "true"}).encode())
    assert (taken.value.name, taken.value.session_id) == ("api", api.id)
    with pytest.raises(SessionOver) as late:
        await client.ask("write", b"x", session=over.id, writer="w", offset=0)
    assert (late.value.session, late.value.state) == ("over", "ended")
    with pytest.raises(PortClosed) as closed:
        await client.ask("recv", connection=1)
    assert "closed" in str(closed.value)


async def test_a_gap_crosses_the_link_with_its_ends(client, start):
    session = start("seq 200000", max_log=65536, tty="none")
    status = session.until_ended()
    first, last = status["dropped"]

    with pytest.raises(LogDropped) as gap:
        await client.ask("read", session=session.id, offset=first, max_bytes=10)

    assert (gap.value.offset, gap.value.first) == (first, last)


async def test_without_a_store_every_call_says_why():
    client = Client(StoreRefused("/nowhere", "not yours"))

    for op in ("ping", "sessions", "read"):
        with pytest.raises(StoreRefused, match="cannot be kept in /nowhere: not yours"):
            await client.ask(op, session="s", offset=0, max_bytes=1)


async def test_a_list_of_sessions_may_be_longer_than_a_header(client, start):
    argv = ["true", "x" * 100_000]
    ids = [start(argv=argv, tty="none").id for _ in range(4)]

    _, body = await client.ask("sessions")

    assert len(body) > MAX_HEADER
    assert [(one["id"], one["argv"]) for one in json.loads(body)] == [(number, argv) for number in ids]


class Chatty(Calls):
    """Has a log in which the channels took turns very often."""

    chunks = in_a_row([(CHANNELS[n % 2], n, n, b"line %d\n" % n) for n in range(2 * MOST_CHUNKS + 500)], 1000)

    async def tail(self, session_id: str, max_bytes: int) -> tuple[list[Chunk], int, dict[str, Any]]:
        return self.chunks, 77, {"state": "running", "seq": 1, "end": self.chunks[-1].end}

    async def read(self, session_id: str, offset: int, max_bytes: int) -> list[Chunk]:
        return [chunk for chunk in self.chunks if chunk.offset >= offset]


async def test_of_a_tail_with_very_many_chunks_the_newest_come_and_the_newlines_still_count(store):
    client = Client(Chatty(store))

    header, body = await client.ask("tail", session="s", max_bytes=1_000_000)

    chunks = unpack_chunks(header, [body])
    assert chunks == Chatty.chunks[-MOST_CHUNKS:]
    assert header["before"] == 77 + len(Chatty.chunks) - MOST_CHUNKS


async def test_a_log_with_very_many_chunks_is_read_in_several_answers(store):
    client = Client(Chatty(store))
    found: list[Chunk] = []
    while len(found) < len(Chatty.chunks):
        header, body = await client.ask("read", session="s", offset=found[-1].end if found else 0, max_bytes=9)
        found += unpack_chunks(header, [body])

    assert found == Chatty.chunks


@pytest.mark.parametrize(
    "frame",
    [
        {"op": "ping"},
        {"op": "ping", "number": "1"},
        {"op": "ping", "number": None},
        {"op": "ping", "number": [1]},
        {},
        {"op": "cancel", "number": [1]},
        {"op": "cancel"},
        {"op": "got"},
        {"op": "got", "bytes": "7"},
        {"op": "got", "bytes": 1},
        {"op": "got", "bytes": -1},
    ],
    ids=repr,
)
async def test_a_frame_that_makes_no_sense_is_an_error_and_no_guess(client, frame):
    with pytest.raises(FrameError):
        client.server.feed(encode(frame))


async def test_two_requests_under_way_cannot_have_one_number(client, start):
    request = encode({"op": "status", "number": 1, "session": start(STAY).id})

    with pytest.raises(FrameError, match="a number of its own, not 1"):
        client.server.feed(request + request)


async def test_bytes_that_are_no_frame_are_an_error(client):
    with pytest.raises(FrameError):
        client.server.feed(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")


@given(data=st.binary(max_size=60))
@settings(max_examples=300)
def test_whatever_comes_is_answered_or_a_frame_error(data):
    async def feed() -> None:
        server = Server(StoreRefused("/nowhere", "none"), lambda: None)
        with contextlib.suppress(FrameError):
            server.feed(data)
        server.close()

    asyncio.run(feed())


# -- the process


class Served:
    """An agent that serves on pipes, as behind ssh."""

    def __init__(self, *, code: str = "") -> None:
        words = ["-c", code, "nonce"] if code else ["-I", "-S", str(AGENT), "serve", "nonce"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        self.process = subprocess.Popen([sys.executable, *words], **pipes)
        self._numbers = itertools.count(1)
        self._decoder = FrameDecoder()
        assert self.process.stdout is not None
        assert self.process.stdin is not None
        self.stdin, self._stdout = self.process.stdin, self.process.stdout
        said = b""
        while said.count(b"\n") < 2:
            said += self._read()
        nothing, line, frames = said.split(b"\n", 2)
        nonce, _, facts = line.partition(b" ")
        assert (nothing, nonce, frames) == (b"", b"nonce", b"")
        self.hello = json.loads(facts)

    def _read(self) -> bytes:
        assert select.select([self._stdout], [], [], PATIENCE)[0], "the agent says nothing"
        data = os.read(self._stdout.fileno(), 65536)
        assert data, "the agent has ended"
        return data

    def send(self, op: str, body: bytes = b"", **facts: object) -> int:
        number = next(self._numbers)
        self.stdin.write(encode({"op": op, "number": number, **facts}, body))
        self.stdin.flush()
        return number

    def ask(self, op: str, body: bytes = b"", **facts: object) -> dict[str, Any]:
        """Ask, and return the answer; the calls before it need not be answered."""
        number = self.send(op, body, **facts)
        while True:
            for header, _ in self._decoder.feed(self._read()):
                if header["number"] == number:
                    return raise_answer(header)

    def ended(self) -> tuple[int, str]:
        """Its exit code, and what it said on stderr."""
        assert self.process.stderr is not None
        code = self.process.wait(PATIENCE)
        return code, self.process.stderr.read().decode()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.stdin, self._stdout, self.process.stderr):
            assert pipe is not None
            with contextlib.suppress(OSError):
                pipe.close()


@pytest.fixture
def served() -> Iterator[Served]:
    served = Served()
    yield served
    served.close()


def everything_of_this_test() -> set[int]:
    """Pids of the processes that it has started, directly or not, and that run."""
    return set(marked("CMDOP_TEST", os.environ["CMDOP_TEST"]))


def test_an_agent_says_its_nonce_and_who_it_is_first(served, state_dir):
    assert served.hello["pid"] == served.process.pid
    assert served.hello["python"] == ".".join(map(str, sys.version_info[:3]))
    assert served.ask("ping")["root"] == str(state_dir)


def test_the_end_of_its_input_ends_the_agent_and_leaves_sessions_alone(served, store):
    asked = {"id": "kept", "name": "kept", "script": STAY, "tty": "none"}
    served.ask("start", json.dumps(asked).encode())
    seq = served.ask("status", session="kept")["seq"]
    for _ in range(20):  # of all of which no answer comes
        served.send("read", session="kept", offset=0, max_bytes=10)
        served.send("status", session="kept", seen=seq)
    served.ask("ping")

    served.stdin.close()

    assert served.ended() == (0, "")
    status = store.status("kept")
    assert status["state"] == "running"
    assert everything_of_this_test() == {status["supervisor"], status["pid"]}


def test_bytes_that_make_no_sense_end_the_agent_and_it_says_so(served):
    served.stdin.write(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")
    served.stdin.flush()

    code, said = served.ended()

    assert code == 0
    assert said.startswith("cmdop-agent: not a frame")
    assert everything_of_this_test() == set()


def test_an_agent_that_nobody_hears_ends(served):
    served._stdout.close()
    served.send("ping")

    assert served.ended() == (0, "")


def test_a_client_that_says_nothing_for_long_is_gone():
    code = "import sys; from cmdop_jupyter.agent import rpc; rpc.SILENCE = 0.2; sys.exit(rpc.serve('nonce'))"
    served = Served(code=code)

    assert served.ended() == (0, "")
    served.close()


def test_what_was_said_before_a_client_stopped_reading_is_kept_within_bounds(served, start):
    session = start("head -c 30000000 /dev/zero", tty="none")
    session.until_ended()
    before = peak_memory(served.process.pid)
    for offset in range(0, 30_000_000, 1_000_000):
        served.send("read", session=session.id, offset=offset, max_bytes=1_000_000)

    assert served.ask("ping")
    assert peak_memory(served.process.pid) - before < 60_000_000


def peak_memory(pid: int) -> int:
    """The most bytes that a process ever had in memory."""
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


def test_what_ssh_was_told_about_questions_does_not_reach_sessions(monkeypatch, start, store):
    told = ("SSH_ASKPASS", "SUDO_ASKPASS", "SSH_ASKPASS_REQUIRE", "CMDOP_ASK_TOKEN", "CMDOP_ASK_SOCKET")
    for name in told:
        monkeypatch.setenv(name, "of a link")
    served = Served()
    script = "echo " + " ".join(f"[${name}]" for name in told)
    served.ask("start", json.dumps({"id": "s", "name": "s", "script": script, "tty": "none"}).encode())
    served.close()

    status = store.status("s")
    while status["state"] != "ended":
        status = store.status("s")
    with contextlib.closing(store.reader("s")) as reader:
        (chunk,) = reader.read(0, 1000, status["end"])
    assert chunk.data == b"[] [] [] [] []\n"


def test_a_forwarded_agent_is_found_under_one_name_whichever_link_it_came_by(monkeypatch, tmp_path):
    monkeypatch.setenv("SSH_CONNECTION", "10.0.0.1 1 10.0.0.2 22")
    stable = tmp_path / "ssh-agent"
    for place in ("/tmp/ssh-one/agent.1", "/tmp/ssh-two/agent.2"):
        monkeypatch.setenv("SSH_AUTH_SOCK", place)
        keep_agent_socket(str(tmp_path))

        assert os.environ["SSH_AUTH_SOCK"] == str(stable)
        assert os.readlink(stable) == place

    keep_agent_socket(str(tmp_path))  # by a link to ourselves: it does not lead to itself
    assert os.readlink(stable) == "/tmp/ssh-two/agent.2"
    assert [path.name for path in tmp_path.iterdir()] == ["ssh-agent"]


def test_an_agent_of_this_machine_keeps_its_name(monkeypatch, tmp_path):
    monkeypatch.delenv("SSH_CONNECTION", raising=False)
    monkeypatch.setenv("SSH_AUTH_SOCK", "/run/user/1000/agent")

    keep_agent_socket(str(tmp_path))

    assert os.environ["SSH_AUTH_SOCK"] == "/run/user/1000/agent"
    assert not (tmp_path / "ssh-agent").is_symlink()
