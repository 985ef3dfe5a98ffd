"""The client's handle on one session: cursors over its log, input, control. Knows no notebook."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator
from typing import TYPE_CHECKING, Any, Literal, overload

from .agent.log import Chunk
from .agent.stopping import GRACE
from .agent.tree import signal_number
from .errors import Detached, FailPatternSeen, InvalidRequest, ObserverOnly, SessionNotFound, TooMuch
from .events import disconnects, exits, output, reconnects, statuses
from .lines import Line, clean
from .machines.base import Exit, Forward, Machine, SessionFacts, Status, StopReport
from .notify import Notifier, Wanted, notices, read_wanted, tell
from .pieces import Pieces
from .prompts import Answer, Mark, Prompt, PromptWatch, asked, from_environment, given
from .reading import Begin, Gap, Lines, Records, Start, batches, known, offset_of, on_caller, read_chunks, tail_lines
from .runtime import Pending, runtime
from .steady import Steady
from .streams import Metrics, streams
from .subscription import Events, Handler, Subscription, Subscriptions, arity, is_async
from .waiting import Match, Pattern, Patterns, Wait, WaitPlaces, exit_in, exit_unless, words
from .watching import watched
from .words import human_bytes, human_seconds
from .writing import Input

if TYPE_CHECKING:
    import pandas

__all__ = ["Gap", "Metrics", "Stream", "TerminalStream", "streams"]

TEXT_LIMIT = 64 * 1024 * 1024  # bytes that `text` gives in one piece
BEFORE_BYTES = 64 * 1024  # of the log that `Match.before` looks at


class Stream:
    """One session, as a client sees it. Several streams may look at one session; none of them owns it.

    What starts something (`send_input`, `stop` …) does so at the call and returns an awaitable, which may be
    ignored in a notebook cell. What reads (`read`, `text`, `tail` …) blocks for as long as the disk or the link needs.

    Args:
        machine: Where its session is.
        mode: `"operator"`, or `"observer"`: one that cannot type, resize, signal, stop, forward a port, change the
            limit. A courtesy, not a fence.
        locate: Gives the machine of a session that is to be attached to, by id or name; by default it is `machine`.
    """

    def __init__(
        self,
        machine: Machine,
        *,
        mode: Literal["operator", "observer"] = "operator",
        locate: Callable[[str], Awaitable[Machine]] | None = None,
    ) -> None:
        if mode not in ("operator", "observer"):
            raise InvalidRequest(f'mode is "operator" or "observer", not {mode!r}')
        self._subscriptions = Subscriptions(lambda: self.status.end)
        self._machine, self._locate, self._mode = self._steady(machine), locate, mode
        self._forwards: dict[int, Forward] = {}
        self._forwarding = asyncio.Lock()
        self._facts: SessionFacts | None = None
        self._origin = 0  # where cursors begin when nothing else is said
        self._known = Status("starting", -1, 0)
        self._input = Input()
        self._waits = WaitPlaces(0)
        self._answers: list[Answer] = []
        self._answered = Mark()

    # -- life

    def attach(self, session_id: str, start: Start = "now") -> Pending[Stream]:
        """Attach to a session, by id or name; handlers begin at `start`: `"now"` (the default), `"begin"` or an offset.

        Raises:
            SessionNotFound: There is none.
            Detached: This stream is attached already.
        """
        offset_of(start, 0)  # one that makes no sense is told now
        return Pending(self._attach(session_id, start), f"attach {session_id}")

    async def _attach(self, session_id: str, start: Start, *, listed: bool = True) -> Stream:
        if self._facts is not None:
            raise Detached(f"this stream is attached to {self._facts.name} already; take another, or detach() it first")
        if self._locate is not None:
            self._machine = self._steady(await self._locate(session_id))
        facts = await self._machine.find(session_id)
        status = await self._machine.status(facts.id)
        self.adopt(facts, offset_of(start, status.end), status, listed=listed)
        return self

    def _steady(self, machine: Machine) -> Steady:
        return Steady(machine, lambda: len(self._subscriptions.all) > 1)

    def adopt(self, facts: SessionFacts, origin: int, status: Status | None = None, *, listed: bool = True) -> None:
        """Take a session that is known to be there; `listed` puts the stream into `streams`. On the I/O thread."""
        self._facts, self._origin = facts, origin
        self._known = status or Status("starting", -1, 0)
        self._input, self._waits = Input(), WaitPlaces(origin)
        if listed:
            streams.add(self)
        self._subscriptions.attach(facts.name)

    def detach(self) -> None:
        """Let go of the session: no handler is called any more; it goes on, and `attach` works again."""
        self._subscriptions.detach()
        forwards, self._forwards = self._forwards, {}
        for forward in forwards.values():
            runtime().call_later(forward.close)
        streams.drop(self)
        self._facts = None

    def close(self) -> None:
        """End this object, as `detach`."""
        self.detach()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- facts

    @property
    def facts(self) -> SessionFacts:
        """What is known of the session from its start on. Raises Detached."""
        if self._facts is None:
            raise Detached("this stream is not attached to a session; `await stream.attach(session_id)` does it")
        return self._facts

    @property
    def session_id(self) -> str:
        return self.facts.id

    @property
    def name(self) -> str:
        return self.facts.name

    @property
    def machine(self) -> str:
        """The name of the machine it is on."""
        return self._machine.name

    @property
    def mode(self) -> str:
        """`operator` or `observer`."""
        return self._mode

    @property
    def link(self) -> str:
        """`connecting`, `up`, `retrying` or `down`."""
        return self._machine.link.state

    @property
    def status(self) -> Status:
        """The session now; on the I/O thread, or while the link is slow, the newest that is known."""
        if self._facts is not None and not runtime().here():
            try:
                runtime().wait(self.refresh(), timeout=1.0)
            except TimeoutError:
                return self._known
        return self._known

    async def refresh(self) -> Status:
        """Ask the machine for the status. On the I/O thread."""
        self._known = await self._machine.status(self.session_id)
        return self._known

    @property
    def state(self) -> str:
        """`starting`, `running`, `held`, `exited`, `ended` or `lost`."""
        return self.status.state

    @property
    def exit(self) -> Exit | None:
        """How the command ended; None while it runs."""
        return self.status.exit

    @property
    def metrics(self) -> Metrics:
        """Figures at this moment."""
        status = self.status
        return Metrics(
            bytes=status.end,
            lines=status.newlines,
            chunks=self._subscriptions.pieces,
            seconds=self.seconds(status),
            lag=self._subscriptions.lags(status.end),
            redials=self._machine.link.redials,
            handler_errors=self._subscriptions.errors,
            dropped=status.dropped[1] - status.dropped[0],
        )

    def seconds(self, status: Status) -> float:
        """How long the command has run, or ran, by its machine's clock."""
        return self.facts.seconds(status)

    def __repr__(self) -> str:
        if self._facts is None:
            return "<Stream, not attached>"
        text = f"<Stream {self.name} on {'this machine' if self.machine == 'local' else self.machine}: "
        if self.link != "up":
            link = self._machine.link
            stops = ", a stop waits for it" if self.session_id in self._machine.stops else ""
            known = f"{self._known.state}, " if self._known.seq >= 0 else ""
            return f"{text}{known}link {link.state} ({link.reason}){stops}>"
        try:
            status = self.status
        except SessionNotFound:
            return text + "removed>"
        text += f"{status.state} {human_seconds(self.seconds(status))}, {human_bytes(status.end)}"
        if status.exit is not None:
            text += f", {status.exit}"
        elif status.clock_ms and status.end:
            text += f", last output {human_seconds((status.clock_ms - status.output_ms) / 1000)} ago"
        return text + ">"

    def __await__(self) -> Generator[Any, Any, Exit | None]:
        """Wait until the command has exited; gives the `Exit` (None when the session was lost)."""
        return self.wait_exit().__await__()

    def wait_exit(self, timeout: float | None = None, *, fail: Patterns | None = None) -> Pending[Exit | None]:
        """As `await stream`, with a time limit, and with patterns for lines that are an error; `.result()` blocks.

        Raises:
            StillRunning: It has not exited in `timeout` seconds.
            FailPatternSeen: A line matched `fail`.
        """
        if fail is None:
            work = exit_in(self._machine, self.facts, timeout)
        else:
            failing = self._begin_wait(Wait([], fail=fail, timeout=timeout, exit_ends=True), "begin")
            work = exit_unless(failing, self._machine, self.facts, timeout)
        return Pending(watched([self], "to exit", work), f"exit of {self.name}", tied=True)

    # -- cursors

    def chunks(self, start: Start = None, *, follow: bool = True) -> AsyncIterator[Chunk]:
        """The log from `start` on (`"begin"`, `"now"`, an offset; by default where this stream began), as it grows.

        Ends when the session has ended; without `follow`, with what is there. A `Gap` stands for dropped bytes.
        """
        return on_caller(self._batches("chunks", self.session_id, self._start_of(start), follow=follow))

    def __aiter__(self) -> AsyncIterator[Chunk]:
        """`async for chunk in stream`: as `chunks()`."""
        return self.chunks()

    async def _batches(self, name: str, session_id: str, start: Begin, *, follow: bool) -> AsyncIterator[list[Chunk]]:
        with self._subscriptions.at(name) as position:
            async for batch in batches(self._machine, session_id, start, follow=follow):
                position.offset = batch[0].offset
                yield batch
                position.offset = batch[-1].end
                position.pieces += len(batch)

    def _start_of(self, start: Start) -> Begin:
        """Pin where a cursor begins, as of this call."""
        if start == "now":
            pinned = runtime().submit(self.refresh())

            async def end() -> int:
                return (await asyncio.wrap_future(pinned)).end

            return end
        return known(self._origin if start is None else offset_of(start, 0))

    def read(self, start: int = 0, max_bytes: int | None = None) -> bytes:
        """The bytes of the log from `start` on, all channels as they were read; what was dropped is left out."""
        end = self.status.end
        if max_bytes is not None:
            end = min(end, start + max_bytes)
        return b"".join(chunk.data for chunk in read_chunks(self._machine, self.session_id, start, end))

    def text(self) -> str:
        """All output as text: decoded, without escape sequences.

        Raises:
            TooMuch: The log is above 64 MiB.
        """
        status = self.status
        size = status.end - (status.dropped[1] - status.dropped[0])
        if size > TEXT_LIMIT:
            raise TooMuch(size, TEXT_LIMIT)
        lines = list(self.lines())
        end = "\n" if lines and lines[-1].whole else ""
        return "\n".join(line.text for line in lines) + end

    @overload
    def lines(self, start: Start = ..., *, channel: str | None = ..., as_: None = ...) -> Lines: ...
    @overload
    def lines(self, start: Start = ..., *, channel: str | None = ..., as_: Literal["json"]) -> Records: ...

    def lines(
        self, start: Start = "begin", *, channel: str | None = None, as_: Literal["json"] | None = None
    ) -> Lines | Records:
        """The lines of the log: plain iteration gives what is there, `async for` follows until the session ends.

        With `as_="json"` what the lines say that are JSON objects, as dicts; other lines are counted in `skipped`.
        """
        if as_ not in (None, "json"):
            raise InvalidRequest(f'as_ is "json" or nothing, not {as_!r}')
        lines = Lines(self, start, channel, None)
        return lines if as_ is None else Records(lines)

    def to_pandas(self, start: Start = "begin", *, channel: str | None = None) -> pandas.DataFrame:
        """The lines that are there as a table: offset (bytes), time (UTC), channel, line. Needs pandas.

        `grep(...)` and `lines(as_="json")` have it too.
        """
        return Lines(self, start, channel, None).to_pandas()

    def grep(self, pattern: Pattern, *, channel: str | None = None) -> Lines:
        """The lines that match a regular expression; as `lines()`. Searches the full log at hundreds of MB/s."""
        return Lines(self, "begin", channel, pattern)

    def tail(self, n: int = 10) -> list[Line]:
        """The newest `n` lines, oldest first; the last may be unfinished."""
        if n < 1:
            raise InvalidRequest(f"a number of lines is 1 or more, got {n}")
        return tail_lines(self._machine, self.session_id, n)

    # -- handlers

    def on_output(
        self,
        handler: Handler,
        *,
        channel: str | None = None,
        unit: str = "chunk",
        start: Start = None,
        thread: bool = False,
    ) -> Subscription:
        """Call `handler(data)` or `handler(data, channel)` with all output from `start` on, in order, once.

        It runs on the loop it was registered from; without a running loop, or with `thread`, on a worker of its own. A
        slow one delays nobody: it has its own cursor. One that raises is reported and counted; the stream goes on.

        Args:
            channel: Output of `"stdout"`, `"stderr"` or `"tty"` only.
            unit: `"chunk"`: bytes as they were read. `"text"`: str, decoded, never half a character. `"line"`: str,
                whole lines without their end and without escape sequences; the unfinished last one at the end.
            start: `"begin"`, `"now"`, an offset; by default where this stream began.

        Raises:
            InvalidRequest: It cannot be called so.
        """
        if is_async(handler):
            raise InvalidRequest("this handler is `async`: register it by on_output_async")
        return self._on_output(handler, channel, unit, start, thread)

    def on_output_async(
        self,
        handler: Handler,
        *,
        channel: str | None = None,
        unit: str = "chunk",
        start: Start = None,
        thread: bool = False,
    ) -> Subscription:
        """As `on_output`, for a coroutine function; the next piece comes when it has returned."""
        return self._on_output(handler, channel, unit, start, thread)

    def _on_output(self, handler: Handler, channel: str | None, unit: str, start: Start, thread: bool) -> Subscription:
        count, pieces = arity(handler), Pieces(unit, channel)
        offset_of("begin" if start is None else start, 0)  # one that makes no sense is told now
        pinned = self._start_of(start) if self._facts is not None else None

        def events() -> Events:
            begin = pinned or self._start_of(start)
            return output(self._machine, self.session_id, begin, pieces, count, self._subscriptions.report)

        return self._subscriptions.add(handler, events, thread=thread)

    def on_exit(self, handler: Handler, *, thread: bool = False) -> Subscription:
        """Call `handler(exit)` once when the command has exited: an `Exit`, or None when the session was lost."""
        arity(handler, most=1)
        return self._subscriptions.add(handler, lambda: exits(self._machine, self.session_id), thread=thread)

    def on_status(self, handler: Handler, *, thread: bool = False) -> Subscription:
        """Call `handler(status)` with the `Status` now, and after each change until the session has ended."""
        arity(handler, most=1)
        return self._subscriptions.add(handler, lambda: statuses(self._machine, self.session_id), thread=thread)

    def on_disconnect(self, handler: Handler, *, thread: bool = False) -> Subscription:
        """Call `handler(reason)` whenever the link to its machine breaks; cursors go on when it is back."""
        arity(handler, most=1)
        return self._subscriptions.add(handler, lambda: disconnects(self._machine), thread=thread)

    def on_reconnect(self, handler: Handler, *, thread: bool = False) -> Subscription:
        """Call `handler(gap)` whenever the link is back, with the seconds it was away."""
        arity(handler, most=1)
        return self._subscriptions.add(handler, lambda: reconnects(self._machine), thread=thread)

    def on_error(self, handler: Handler, *, thread: bool = False) -> Subscription:
        """Call `handler(error)` when a handler raised, a sink failed or a cursor met a gap; then none is printed."""
        arity(handler, most=1)
        return self._subscriptions.on_error(handler, thread=thread)

    def on_prompt(self, handler: Handler, *, thread: bool = False) -> Subscription:
        """Call `handler(prompt)` with a `Prompt` whenever the command waits for somebody to type, once for each.

        That is: no output for 0.3 s, the newest line has no end, and a process reads the session's terminal.
        """
        arity(handler, most=1)
        return self._subscriptions.add(handler, lambda: asked(PromptWatch(self._machine, self.facts)), thread=thread)

    def answer(
        self,
        pattern: Pattern,
        *,
        env: str | None = None,
        value: str | Callable[[], str] | None = None,
    ) -> Subscription:
        """Type an answer, and Enter, at each prompt that `pattern` is found in: once a prompt, three times the same.

        Args:
            env: The environment variable here that holds the answer; looked at each time, kept nowhere.
            value: The answer itself, or what gives it.

        Raises:
            PatternError, InvalidRequest: It cannot be done so, or there is no such variable.
        """
        self._operate("answer")
        if (env is None) == (value is None):
            raise InvalidRequest("an answer is the value of a variable (env=) or a value (value=), one of the two")
        answer = Answer(pattern, from_environment(env) if env is not None else given(value))
        self._answers.append(answer)

        def events() -> Events:
            machine, session = self._machine, self.facts

            async def type_in(data: bytes, writer: str) -> None:
                await machine.write(session.id, writer, 0, data)

            return answer.run(PromptWatch(machine, session, self._answered), type_in, self._subscriptions.report)

        return self._subscriptions.add(answer.told, events, thread=True)

    def _answers_to(self, prompt: Prompt) -> bool:
        """Whether that prompt is answered by itself."""
        return any(answer.takes(prompt) for answer in self._answers)

    def notify(self, wanted: str | Wanted, handler: Notifier | None = None, *, start: Start = None) -> Subscription:
        """Call `handler(title, text, stream)`, on a worker, for each notice of what is `wanted`.

        Args:
            wanted: `end` (it has exited), `fail` (badly), `match=REGEX` (a line does), `silence=10m` (it says nothing
                for so long), separated by commas. Of lines that match there is a notice a minute; it counts the rest.
            handler: By default what `set_notifier` was given.
            start: Where `match` begins, as of `on_output`.
        """
        want = read_wanted(wanted) if isinstance(wanted, str) else wanted
        offset_of("begin" if start is None else start, 0)
        pinned = self._start_of(start) if self._facts is not None else None

        def events() -> Events:
            return notices(self._machine, self.facts, want, pinned or self._start_of(start), self)

        return self._subscriptions.add(handler or tell, events, thread=True)

    # -- input and control

    def send_input(self, data: bytes | str) -> Pending[None]:
        """Type `data`, exactly: no newline is added. Calls keep their order. Done when its machine has all of it.

        Raises:
            SessionOver: The command is gone, or takes no input.
            InputTooLong: A line is longer than a terminal takes.
        """
        self._operate("type")
        if not isinstance(data, (bytes, bytearray, memoryview, str)):
            raise InvalidRequest(f"input is bytes or str, not {type(data).__name__}")
        return self._type(data.encode() if isinstance(data, str) else bytes(data), "send_input")

    def send_eof(self) -> Pending[None]:
        """End the input: ^D on a terminal, closed for a pipe."""
        self._operate("end the input")
        return self._type(b"", "send_eof", eof=True)

    def _type(self, data: bytes, what: str, *, eof: bool = False) -> Pending[None]:
        if self._input.pid != os.getpid():  # a forked child is a writer of its own
            self._input = Input()
        return Pending(self._input.send(self._machine, self.session_id, data, eof=eof), what)

    def send_resize(self, cols: int, rows: int) -> Pending[None]:
        """Set the size of its terminals, in characters."""
        self._operate("resize")
        return Pending(self._machine.resize(self.session_id, cols, rows), "send_resize")

    def send_signal(self, signal: str | int) -> Pending[None]:
        """Send a signal (`"INT"`, `"SIGUSR1"`, 15) to its terminal's foreground group, else to the command's."""
        self._operate("signal")
        try:
            signal_number(signal)
        except ValueError as error:
            raise InvalidRequest(str(error)) from None
        return Pending(self._machine.signal(self.session_id, str(signal)), "send_signal")

    def stop(self, grace: float = GRACE) -> Pending[StopReport]:
        """End the command and all it started: INT, TERM, KILL, `grace` seconds apart. Gives what it took.

        Works on a session whose command has exited and left something running, and on a lost one.
        """
        self._operate("stop")
        if grace < 0:
            raise InvalidRequest(f"grace must not be negative, got {grace}")
        work = watched([self], "to end", self._machine.stop(self.session_id, uuid.uuid4().hex, grace))
        return Pending(work, f"stop {self.name}")

    def forward(self, port: int) -> Pending[str]:
        """Open a port here, on 127.0.0.1, that leads to `port` on the session's machine; gives its URL.

        The same one again for the same port. Closed with the stream. Connections through it break when the link does,
        and new ones wait until it is back.
        """
        self._operate("forward a port")
        return Pending(self._forward(port), f"forward {port}")

    async def _forward(self, port: int) -> str:
        async with self._forwarding:
            session = self.facts
            if port not in self._forwards:
                forward = await self._machine.forward(port)
                if self._facts is not session:
                    forward.close()
                    raise Detached("the stream was detached meanwhile")
                self._forwards[port] = forward
            return f"http://127.0.0.1:{self._forwards[port].port}/"

    def limit(self, max_log: int, policy: str | None = None) -> Pending[None]:
        """Change the log's size limit (bytes) and what happens there: `drop-oldest` or `hold`."""
        self._operate("change the limit")
        return Pending(self._machine.limit(self.session_id, max_log, policy), "limit")

    def _operate(self, what: str) -> None:
        if self._mode == "observer":
            raise ObserverOnly(self._facts.name if self._facts is not None else "a session", what)

    # -- waiting

    def wait_for(
        self,
        pattern: Patterns,
        *,
        fail: Patterns | None = None,
        timeout: float | None = None,
        start: Start = None,
        channel: str | None = None,
        settle: float = 0.25,
    ) -> Pending[Match]:
        """Wait until a line matches `pattern`; see `cmdop_jupyter.wait_for`."""
        wait = Wait(pattern, fail=fail, timeout=timeout, channel=channel, settle=settle)
        what = f"/{wait.words}/"
        work = watched([self], what, self._begin_wait(wait, start))
        return Pending(work, f"wait_for {what} in {self.name}", tied=True)

    def _begin_wait(self, wait: Wait, start: Start) -> Coroutine[Any, Any, Match]:
        """Pin where `wait` begins; what is returned does it, on the I/O thread."""
        session, places = self.facts, self._waits
        return self._run_wait(wait, session, places, self._start_of(places.begin() if start is None else start))

    async def _run_wait(self, wait: Wait, session: SessionFacts, places: WaitPlaces, start: Begin) -> Match:
        machine = self._machine
        with self._subscriptions.at(f"wait_for /{wait.words}/") as position:
            hit, pattern, began = await wait.run(machine, session, start, position)

        def before() -> str:
            chunks = read_chunks(machine, session.id, max(began, hit.start - BEFORE_BYTES), hit.start)
            return clean(b"".join(chunk.data for chunk in chunks if chunk.channel == hit.channel))

        match = Match(hit, pattern, self, before)
        if hit.failed:
            raise FailPatternSeen(words([pattern]), session.name, match.line, match)
        places.matched(match.end)
        return match


TerminalStream = Stream
