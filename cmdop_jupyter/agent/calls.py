"""What clients may ask of a store, for one asyncio loop: plain values go in, dicts and chunks come out.

Reads come straight from a log's files; all else goes over one connection to the session's supervisor. Knows no link: a
machine of the client wraps it for this machine, `rpc` serves it to others.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
from typing import Any, cast

from .errors import CmdopError, InvalidRequest, LogDropped, SessionOver
from .frames import FrameDecoder, encode
from .log import Chunk, LogReader
from .status import ENDED, LIVE, LOST
from .store import SessionStore, raise_answer

MAX_READERS = 64  # logs that are kept open; each has up to four descriptors
NOTHING_TO_STOP = {"took": "", "seconds": 0.0, "ended": [], "left": []}
NOBODY_READS = {"reading": "", "echo": False, "canonical": False, "signals": False, "end": 0}

Answer = dict[str, Any]


class Calls:
    """The calls of `Machine`, with the meaning told there. In a forked child the connections are made anew."""

    def __init__(self, store: SessionStore) -> None:
        self.store = store
        self._controls: dict[str, _Control] = {}
        self._connecting: dict[str, asyncio.Lock] = {}
        self._readers: dict[str, LogReader] = {}
        self._owned: dict[str, str] = {}
        self._over: dict[str, Answer] = {}  # status of those that have ended: it is final
        self._pid = os.getpid()

    async def start(self, asked: Answer) -> Answer:
        return self._with_log(await asyncio.to_thread(self.store.start, asked))

    async def sessions(self) -> list[Answer]:
        """Facts and status of each, oldest first."""
        found = await asyncio.to_thread(self.store.sessions)
        return [self._with_log(self._with_times(str(facts["id"]), facts)) for facts in found]

    async def find(self, wanted: str) -> Answer:
        return self._with_log(await asyncio.to_thread(self.store.find, wanted))

    async def status(self, session_id: str, seen: int | None = None) -> Answer:
        if seen is None:
            return await self._status(session_id)
        status = self._newest(session_id) or await self._status(session_id)
        while status["seq"] == seen and status["state"] in LIVE:
            status = await self._change(session_id, status, output=False)
        return status

    async def read(self, session_id: str, offset: int, max_bytes: int) -> list[Chunk]:
        status = self._newest(session_id) or await self._status(session_id)
        while status["end"] <= offset and status["state"] in LIVE:
            status = await self._change(session_id, status, output=True)
        end = status["end"]
        return self._reader(session_id).read(offset, max_bytes, end) if end > offset else []

    async def read_nowait(self, session_id: str, offset: int, max_bytes: int) -> list[Chunk]:
        status = self._newest(session_id)
        if status is None or status["end"] < offset + max_bytes:
            status = await self._status(session_id)
        return self._reader(session_id).read(offset, max_bytes, status["end"])

    async def tail(self, session_id: str, max_bytes: int) -> tuple[list[Chunk], int, Answer]:
        """Chunks, newline bytes in front of them, and the status they were read by."""
        status = await self.status(session_id)
        reader = self._reader(session_id)
        chunks = _newest(reader, max(status["end"] - max_bytes, status["dropped"][1]), status["end"])
        if not chunks:
            return [], status["newlines"], status
        first = chunks[0]
        # Asked with that byte itself, since the one in front of it may have been dropped.
        before = reader.newlines_before(first.offset + 1) - first.data.startswith(b"\n")
        return chunks, before, status

    async def write(self, session_id: str, writer: str, offset: int, data: bytes, eof: bool = False) -> int:
        header = {"op": "write", "writer": writer, "offset": offset, "eof": eof}
        try:
            return int((await self._ask(session_id, header, data))["accepted"])
        except SessionOver:  # perhaps by just this, which is asked again since its answer was cut off
            accepted, ended = (await self.status(session_id)).get("typed", {}).get(writer, (-1, False))
            if offset + len(data) <= accepted and (ended or not eof):
                return int(accepted)
            raise

    async def resize(self, session_id: str, cols: int, rows: int, call: str = "") -> None:
        await self._ask(session_id, {"op": "resize", "cols": cols, "rows": rows, "call": call})

    async def signal(self, session_id: str, name: str, call: str = "") -> None:
        await self._ask(session_id, {"op": "signal", "signal": name, "call": call})

    async def stop(self, session_id: str, call: str, grace: float) -> Answer:
        """The report of what it took."""
        status = await self.status(session_id)
        if status["state"] == ENDED:
            return status.get("stopped") or NOTHING_TO_STOP
        if status["state"] != LOST:
            with contextlib.suppress(_Gone):
                answer = await self._ask(session_id, {"op": "stop", "call": call, "grace": grace})
                return cast(Answer, answer["report"])
            status = await self.status(session_id)
        if status["state"] == ENDED:
            return status.get("stopped") or NOTHING_TO_STOP
        return await asyncio.to_thread(self.store.stop_lost, session_id, grace)

    async def limit(self, session_id: str, max_log: int, policy: str | None = None, call: str = "") -> None:
        await self._ask(session_id, {"op": "limit", "limit": max_log, "policy": policy, "call": call})

    async def prompt(self, session_id: str) -> Answer:
        """How somebody waits for input there: see `InputWait`."""
        try:
            answer = await self._ask(session_id, {"op": "prompt"})
        except (InvalidRequest, SessionOver):  # an older supervisor, or none
            answer = {"end": (await self.status(session_id))["end"]}
        return {name: answer.get(name, default) for name, default in NOBODY_READS.items()}

    async def own(self, session_id: str, owner: str) -> None:
        self._owned[session_id] = owner
        await self._ask(session_id, {"op": "hello", "owner": owner})

    async def remove(self, session_id: str) -> None:
        await asyncio.to_thread(self.store.remove, session_id)
        self._forget(session_id)
        self._over.pop(session_id, None)
        if session_id in self._readers:
            self._readers.pop(session_id).close()

    def close(self) -> None:
        for control in self._controls.values():
            control.close()
        for reader in self._readers.values():
            reader.close()
        self._controls.clear()
        self._readers.clear()

    # -- the parts

    def _with_log(self, facts: Answer) -> Answer:
        return {**facts, "log": self.store.log_folder(str(facts["id"]))}

    def _check_process(self) -> None:
        """In a forked child, let go of the connections: they are its parent's."""
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._controls, self._connecting, self._owned = {}, {}, {}

    def _reader(self, session_id: str) -> LogReader:
        if session_id not in self._readers:
            while len(self._readers) >= MAX_READERS:
                self._readers.pop(next(iter(self._readers))).close()
            self._readers[session_id] = self.store.reader(session_id)
        return self._readers[session_id]

    def _forget(self, session_id: str) -> None:
        if session_id in self._controls:
            self._controls.pop(session_id).close()
        self._owned.pop(session_id, None)
        self._connecting.pop(session_id, None)

    def _newest(self, session_id: str) -> Answer | None:
        """The last status we heard of, if a change of it would reach us."""
        if session_id in self._over:
            return self._over[session_id]
        self._check_process()
        control = self._controls.get(session_id)
        return control.newest if control is not None and not control.gone else None

    async def _status(self, session_id: str) -> Answer:
        if session_id in self._over:
            return self._over[session_id]
        with contextlib.suppress(_Gone):
            control = await self._control(session_id)
            return control.hear(await control.ask({"op": "status"}))
        status = self._with_times(session_id, await asyncio.to_thread(self.store.status, session_id))
        if status["state"] not in LIVE:  # else its supervisor dropped us, yet lives: the next call dials again
            self._over[session_id] = status
            self._forget(session_id)
        return status

    def _with_times(self, session_id: str, answer: Answer) -> Answer:
        """What a store says. Of a lost session it does not know the time; the log knows that of its last byte."""
        if answer["state"] == LOST and answer["end"]:
            last = self._reader(session_id).read(answer["end"] - 1, 1, answer["end"])[-1].mono_ms
            return {**answer, "output_ms": last, "clock_ms": max(last, answer.get("clock_ms", 0))}
        return answer

    async def _change(self, session_id: str, known: Answer, *, output: bool) -> Answer:
        """Wait until the session's state (with `output`: or the end of its log) is not as in `known`."""
        with contextlib.suppress(_Gone):
            return await (await self._control(session_id)).change(known, output)
        return await self._status(session_id)

    async def _ask(self, session_id: str, header: Answer, body: bytes = b"") -> Answer:
        try:
            return await (await self._control(session_id)).ask(header, body)
        except _Gone:
            status = await self.status(session_id)
            if header["op"] == "stop":
                raise
            facts = self.store.facts(session_id)
            raise SessionOver(str(facts["name"]), str(status["state"])) from None

    async def _control(self, session_id: str) -> _Control:
        self._check_process()
        async with self._connecting.setdefault(session_id, asyncio.Lock()):
            control = self._controls.get(session_id)
            if control is None or control.gone:
                try:
                    sock = self.store.connect(session_id)
                except OSError as error:
                    raise _Gone(str(error)) from None
                sock.setblocking(False)
                _, control = await asyncio.get_running_loop().create_unix_connection(_Control, sock=sock)
                self._controls[session_id] = control
                if session_id in self._owned:
                    await control.ask({"op": "hello", "owner": self._owned[session_id]})
            return control


class _Gone(CmdopError, ConnectionError):
    """The supervisor is not there."""


class _Control(asyncio.Protocol):
    """One connection to a supervisor, shared by all calls on its session."""

    def __init__(self) -> None:
        self.newest: Answer | None = None
        self.gone = False
        self._decoder = FrameDecoder()
        self._numbers = itertools.count(1)
        self._waiting: dict[object, asyncio.Future[Answer]] = {}
        self._transport: asyncio.Transport | None = None
        self._changes: dict[bool, asyncio.Future[Answer]] = {}  # requests under way: for output too, or not

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        for header, _ in self._decoder.feed(data):
            future = self._waiting.pop(header.pop("id"), None)
            if future is not None and not future.done():
                future.set_result(header)

    def connection_lost(self, error: Exception | None) -> None:
        self.gone = True
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(_Gone("the supervisor went away"))
        self._waiting.clear()

    async def ask(self, header: Answer, body: bytes = b"") -> Answer:
        number, future = self._send(header, body)
        try:
            return raise_answer(await future)
        finally:
            self._waiting.pop(number, None)

    def _send(self, header: Answer, body: bytes = b"") -> tuple[int, asyncio.Future[Answer]]:
        if self.gone or self._transport is None or self._transport.is_closing():
            raise _Gone("the supervisor went away")
        number = next(self._numbers)
        future = self._waiting[number] = asyncio.get_running_loop().create_future()
        self._transport.write(encode({**header, "id": number}, body))
        return number, future

    def hear(self, answer: Answer) -> Answer:
        """Keep a status as the newest."""
        self.newest = answer
        return answer

    async def change(self, known: Answer, output: bool) -> Answer:
        """Wait until the newest status differs from `known`. All who wait for the same share one request."""
        while self.newest is None or (
            self.newest["seq"] == known["seq"] and (not output or self.newest["end"] <= known["end"])
        ):
            change = self._changes.get(output)
            if change is None or change.done():
                change = self._changes[output] = self._ask_change(self.newest or known, output)
            raise_answer(await asyncio.shield(change))
        return self.newest

    def _ask_change(self, known: Answer, output: bool) -> asyncio.Future[Answer]:
        """The answer, which is heard first of all, and not by a task of its own: each line of output takes one."""
        past = known["end"] if output else None
        _, change = self._send({"op": "status", "seen": known["seq"], "past": past})
        change.add_done_callback(self._changed)
        return change

    def _changed(self, change: asyncio.Future[Answer]) -> None:
        if not change.cancelled() and change.exception() is None and "error" not in change.result():
            self.hear(change.result())

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


def _newest(reader: LogReader, start: int, end: int) -> list[Chunk]:
    """What there is from `start` to `end`, without a hole: from behind the part that was dropped, if there is one."""
    chunks: list[Chunk] = []
    while start < end:
        try:
            chunks = reader.read(start, end - start, end)
        except LogDropped as gap:
            if gap.first <= start:
                return []
            start = gap.first
            continue
        if not chunks or chunks[-1].end >= end:
            break
        start = chunks[-1].end
    return chunks
