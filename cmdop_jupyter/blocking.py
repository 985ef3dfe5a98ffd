"""`CMDOPClient`: the client for code without a loop. Each call blocks until it is done, and gives its result."""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Concatenate, Generic, Literal, ParamSpec, TypeVar, overload

from .agent.log import Chunk
from .client import AsyncCMDOPClient, Machines, Mode, Terminal
from .lines import Line
from .machines.base import Exit, SessionFacts, Status
from .reading import Lines, Records, Start
from .runtime import Pending, runtime
from .stream import Stream
from .streams import Metrics
from .subscription import Handler, Subscription
from .waiting import Pattern

if TYPE_CHECKING:
    import pandas

__all__ = ["BlockingMachines", "BlockingStream", "BlockingTerminal", "CMDOPClient"]

A = TypeVar("A")
P = ParamSpec("P")
T = TypeVar("T")


class _Twin(Generic[A]):
    """Does what another object does, and waits for it."""

    def __init__(self, behind: A) -> None:
        self._awaited = behind

    @property
    def _behind(self) -> A:
        if runtime().here():
            raise RuntimeError(
                "CMDOPClient and its streams wait, and cannot be called where streams are served; "
                "use AsyncCMDOPClient, and `await`"
            )
        return self._awaited


def _blocking(method: Callable[Concatenate[A, P], Pending[T]]) -> Callable[Concatenate[_Twin[A], P], T]:
    """The method that waits for what `method` gives to await."""

    @functools.wraps(method)
    def call(self: _Twin[A], /, *args: P.args, **options: P.kwargs) -> T:
        return method(self._behind, *args, **options).result()

    signature = inspect.signature(method)
    gives = str(signature.return_annotation).removeprefix("Pending[").removesuffix("]")
    call.__signature__ = signature.replace(return_annotation=gives)  # type: ignore[attr-defined]  # for help()
    return call


class BlockingStream(_Twin[Stream]):
    """A `Stream` whose calls block: what sends, waits or asks returns when it is done, and gives the result.

    Handlers run on workers, each on one of its own, since nobody's loop is free for them.
    """

    @property
    def stream(self) -> Stream:
        """The same session for code with a loop, and for what takes a `Stream`."""
        return self._awaited

    # -- life

    def attach(self, session_id: str, start: Start = "now") -> BlockingStream:
        """Attach to a session, by id or name; handlers begin at `start`: `"now"` (the default), `"begin"` or an offset.

        Raises:
            SessionNotFound: There is none.
            Detached: This stream is attached already.
        """
        self._behind.attach(session_id, start).result()
        return self

    def detach(self) -> None:
        """Let go of the session: no handler is called any more; it goes on, and `attach` works again."""
        self._awaited.detach()

    def close(self) -> None:
        """End this object, as `detach`."""
        self._awaited.close()

    def __enter__(self) -> BlockingStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- facts

    @property
    def facts(self) -> SessionFacts:
        """What is known of the session from its start on. Raises Detached."""
        return self._awaited.facts

    @property
    def session_id(self) -> str:
        return self._awaited.session_id

    @property
    def name(self) -> str:
        return self._awaited.name

    @property
    def machine(self) -> str:
        """The name of the machine it is on."""
        return self._awaited.machine

    @property
    def mode(self) -> str:
        """`operator` or `observer`."""
        return self._awaited.mode

    @property
    def link(self) -> str:
        """`connecting`, `up`, `retrying` or `down`."""
        return self._awaited.link

    @property
    def status(self) -> Status:
        """The session now; while the link is slow, the newest that is known."""
        return self._awaited.status

    @property
    def state(self) -> str:
        """`starting`, `running`, `held`, `exited`, `ended` or `lost`."""
        return self._awaited.state

    @property
    def exit(self) -> Exit | None:
        """How the command ended; None while it runs."""
        return self._awaited.exit

    @property
    def metrics(self) -> Metrics:
        """Figures at this moment."""
        return self._awaited.metrics

    def __repr__(self) -> str:
        return repr(self._awaited)

    # -- reading

    def chunks(self, start: Start = None, *, follow: bool = True) -> Iterator[Chunk]:
        """The log from `start` on (`"begin"`, `"now"`, an offset; by default where this stream began), as it grows.

        Ends when the session has ended; without `follow`, with what is there. A `Gap` stands for dropped bytes.
        """
        stream = self._behind
        return _walk(stream._batches("chunks", stream.session_id, stream._start_of(start), follow=follow))

    def __iter__(self) -> Iterator[Chunk]:
        """`for chunk in stream`: as `chunks()`."""
        return self.chunks()

    def read(self, start: int = 0, max_bytes: int | None = None) -> bytes:
        """The bytes of the log from `start` on, all channels as they were read; what was dropped is left out."""
        return self._behind.read(start, max_bytes)

    def text(self) -> str:
        """All output as text: decoded, without escape sequences. Raises TooMuch above 64 MiB."""
        return self._behind.text()

    @overload
    def lines(self, start: Start = ..., *, channel: str | None = ..., as_: None = ...) -> Lines: ...
    @overload
    def lines(self, start: Start = ..., *, channel: str | None = ..., as_: Literal["json"]) -> Records: ...

    def lines(
        self, start: Start = "begin", *, channel: str | None = None, as_: Literal["json"] | None = None
    ) -> Lines | Records:
        """The lines that are in the log. With `as_="json"` what those say that are JSON objects, as dicts."""
        if as_ is None:
            return self._behind.lines(start, channel=channel)
        return self._behind.lines(start, channel=channel, as_=as_)

    def to_pandas(self, start: Start = "begin", *, channel: str | None = None) -> pandas.DataFrame:
        """The lines that are there as a table: offset (bytes), time (UTC), channel, line. Needs pandas."""
        return self._behind.to_pandas(start, channel=channel)

    def grep(self, pattern: Pattern, *, channel: str | None = None) -> Lines:
        """The lines that match a regular expression; as `lines()`. Searches the full log at hundreds of MB/s."""
        return self._behind.grep(pattern, channel=channel)

    def tail(self, n: int = 10) -> list[Line]:
        """The newest `n` lines, oldest first; the last may be unfinished."""
        return self._behind.tail(n)

    # -- handlers

    def on_output(
        self, handler: Handler, *, channel: str | None = None, unit: str = "chunk", start: Start = None
    ) -> Subscription:
        """Call `handler(data)` or `handler(data, channel)` with all output from `start` on; see `Stream.on_output`."""
        return self._awaited.on_output(handler, channel=channel, unit=unit, start=start, thread=True)

    def on_output_async(
        self, handler: Handler, *, channel: str | None = None, unit: str = "chunk", start: Start = None
    ) -> Subscription:
        """As `on_output`, for a coroutine function; each call of it is a loop of its own."""
        return self._awaited.on_output_async(handler, channel=channel, unit=unit, start=start, thread=True)

    def on_exit(self, handler: Handler) -> Subscription:
        """Call `handler(exit)` once when the command has exited: an `Exit`, or None when the session was lost."""
        return self._awaited.on_exit(handler, thread=True)

    def on_status(self, handler: Handler) -> Subscription:
        """Call `handler(status)` with the `Status` now, and after each change until the session has ended."""
        return self._awaited.on_status(handler, thread=True)

    def on_disconnect(self, handler: Handler) -> Subscription:
        """Call `handler(reason)` whenever the link to its machine breaks; cursors go on when it is back."""
        return self._awaited.on_disconnect(handler, thread=True)

    def on_reconnect(self, handler: Handler) -> Subscription:
        """Call `handler(gap)` whenever the link is back, with the seconds it was away."""
        return self._awaited.on_reconnect(handler, thread=True)

    def on_error(self, handler: Handler) -> Subscription:
        """Call `handler(error)` when a handler raised, a sink failed or a cursor met a gap; then none is printed."""
        return self._awaited.on_error(handler, thread=True)

    def on_prompt(self, handler: Handler) -> Subscription:
        """Call `handler(prompt)` with a `Prompt` whenever the command waits for somebody to type; see `Stream`."""
        return self._awaited.on_prompt(handler, thread=True)

    def answer(
        self, pattern: Pattern, *, env: str | None = None, value: str | Callable[[], str] | None = None
    ) -> Subscription:
        """Type an answer, and Enter, at each prompt that `pattern` is found in; see `Stream.answer`."""
        return self._awaited.answer(pattern, env=env, value=value)

    def notify(
        self, wanted: str, handler: Callable[[str, str, BlockingStream], object] | None = None, *, start: Start = None
    ) -> Subscription:
        """Call `handler(title, text, stream)` for each notice of what is `wanted`; see `Stream.notify`."""
        if handler is None:
            return self._awaited.notify(wanted, start=start)

        @functools.wraps(handler)
        def tell(title: str, text: str, _: Stream) -> object:
            return handler(title, text, self)

        return self._awaited.notify(wanted, tell, start=start)

    # -- input, control and waiting

    send_input = _blocking(Stream.send_input)
    send_eof = _blocking(Stream.send_eof)
    send_resize = _blocking(Stream.send_resize)
    send_signal = _blocking(Stream.send_signal)
    stop = _blocking(Stream.stop)
    forward = _blocking(Stream.forward)
    limit = _blocking(Stream.limit)
    wait_for = _blocking(Stream.wait_for)
    wait_exit = _blocking(Stream.wait_exit)


def _with_stream(create: Callable[Concatenate[A, P], Stream]) -> Callable[Concatenate[A, P], BlockingStream]:
    """As `create`, whose stream blocks."""

    @functools.wraps(create)
    def call(self: A, /, *args: P.args, **options: P.kwargs) -> BlockingStream:
        return BlockingStream(create(self, *args, **options))

    signature = inspect.signature(create).replace(return_annotation="BlockingStream")
    call.__signature__ = signature  # type: ignore[attr-defined]  # for help()
    return call


class BlockingTerminal(_Twin[Terminal]):
    """Sessions on a client's machines: `client.terminal`; see `Terminal`."""

    set_machine = _blocking(Terminal.set_machine)
    get_active_session = _blocking(Terminal.get_active_session)
    list_sessions = _blocking(Terminal.list_sessions)
    execute = _blocking(Terminal.execute)
    get_output = _blocking(Terminal.get_output)
    send_input = _blocking(Terminal.send_input)
    resize = _blocking(Terminal.resize)
    send_signal = _blocking(Terminal.send_signal)
    stop = _blocking(Terminal.stop)
    create = _with_stream(_blocking(Terminal.create))

    def stream(self, mode: Mode = "operator") -> BlockingStream:
        """A stream to register handlers on before it is attached: `stream.attach(session_id)`.

        Args:
            mode: An `"observer"` cannot type, resize, signal or stop.
        """
        return BlockingStream(self._behind.stream(mode))


class BlockingMachines(_Twin[Machines]):
    """The machines of a client: `client.machines`; see `Machines`."""

    list = _blocking(Machines.list)


class CMDOPClient:
    """`AsyncCMDOPClient` for code without a loop: `with CMDOPClient() as client`. Each call gives its result.

    A cell of a notebook may use it too, although a loop runs there: that loop waits meanwhile, and with it handlers
    which others registered on it. Handlers of its own streams run on workers. Ctrl-C, or the stop button, ends a wait.

    Args:
        behind: The client that does the work.

    Attributes:
        terminal: Sessions.
        machines: Where they may be.
    """

    def __init__(self, behind: AsyncCMDOPClient | None = None) -> None:
        self._behind = behind or AsyncCMDOPClient()
        self.terminal = BlockingTerminal(self._behind.terminal)
        self.machines = BlockingMachines(self._behind.machines)

    @classmethod
    def local(cls) -> CMDOPClient:
        """A client of this machine only."""
        return cls(AsyncCMDOPClient.local())

    @classmethod
    def remote(cls, api_key: str | None = None, url: str | None = None) -> CMDOPClient:
        """A client of the machines on a relay, as `AsyncCMDOPClient.remote`. Raises BadKey, NotSupported."""
        return cls(AsyncCMDOPClient.remote(api_key, url))

    def __enter__(self) -> CMDOPClient:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def __repr__(self) -> str:
        return repr(self._behind).replace("AsyncCMDOPClient", type(self).__name__)


def _walk(batches: AsyncIterator[list[Chunk]]) -> Iterator[Chunk]:
    while (batch := Pending(_next(batches), "chunks", tied=True).result()) is not None:
        yield from batch


async def _next(batches: AsyncIterator[list[Chunk]]) -> list[Chunk] | None:
    return await anext(batches, None)
