"""One connection to a relay, which breaks once. What the library raises ends here: these are our errors and words."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from urllib.parse import urlsplit, urlunsplit

from ..errors import CmdopError, KeyRefused, LinkLost, NotSupported, RelayUnreachable
from .proofs import Identity

try:
    from nats import errors as nats_errors
    from nats.aio.client import Client
    from nats.aio.msg import Msg
except ImportError:
    raise NotSupported("the relay needs nats-py and nkeys: pip install 'cmdop-jupyter[relay]'") from None

OPEN_SECONDS = 10.0  # for one try, over all servers of the URL
TRY_SECONDS = 3  # for one of them
ANSWER_SECONDS = 5.0  # that the server itself may take for an answer
SHORTEST_PING = 0.2  # seconds between two
TURN = 0.005  # seconds after which a flood of messages lets others have the loop: the library does not
CLOSE_SECONDS = 2.0  # for the last words to be taken
DENIED = re.compile(r'Permissions Violation for (Publish|Subscription) (?:to )?"?([^"\s]+)', re.IGNORECASE)
REFUSED = ("authorization violation", "authentication revoked", "authentication expired", "account disabled")

log = logging.getLogger("cmdop_jupyter")
logging.getLogger("nats").setLevel(logging.CRITICAL)  # it has tracebacks for what we tell in words

Heard = Callable[[Msg], object]

__all__ = ["Msg", "Silent", "Wire", "bare"]


class Silent(CmdopError, TimeoutError):
    """The server has not answered: nobody takes what was asked there, or the key has no right to ask it."""


class _Client(Client):
    """The library's, which closes completely, and says so, also where nobody takes its last words any more.

    To send them then ends in an error half-way, of which nobody is told, or, where a network is silent, never.
    """

    def abort(self) -> None:
        self._pending, self._pending_data_size = [], 0
        writer = getattr(self._transport, "_io_writer", None)
        if writer is not None:
            writer.transport.abort()

    async def _close(self, status: int, do_cbs: bool = True) -> None:
        if self.last_error is not None:
            self.abort()
        await super()._close(status, do_cbs)


class Wire:
    """An open connection; see `open`. On one loop.

    Attributes:
        url: Of the server, without what is secret.
        lost: Why it broke; None while it is up.
        gone: Done once it has.
    """

    def __init__(self, url: str) -> None:
        self.url = bare(url)
        self.lost: str | None = None
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._client = _Client()
        self._denied: list[Callable[[str], object]] = []
        self._newest_error: BaseException | None = None

    @classmethod
    async def open(cls, url: str, identity: Identity, inbox: str, *, silence: float, name: str) -> Wire:
        """Connect to one of the servers of `url`, which may be several with commas between them.

        Args:
            inbox: What the subjects begin with on which the server itself answers.
            silence: Seconds without a word after which it counts as broken.
            name: What the server's own logs call it.

        Raises:
            RelayUnreachable: No server answers.
            KeyRefused: A server does not know the key.
        """
        self = cls(url)
        try:
            async with asyncio.timeout(OPEN_SECONDS):
                await self._client.connect(
                    servers=[one.strip() for one in url.split(",") if one.strip()],
                    allow_reconnect=False,  # a new wire is: what was under way on this one is told to have been lost
                    max_reconnect_attempts=1,
                    reconnect_time_wait=0,
                    connect_timeout=TRY_SECONDS,
                    ping_interval=max(SHORTEST_PING, silence / 3),  # type: ignore[arg-type]  # it sleeps so long
                    max_outstanding_pings=2,
                    nkeys_seed_str=identity.seed,
                    inbox_prefix=inbox,
                    name=name,
                    error_cb=self._on_error,
                    closed_cb=self._on_closed,
                    pending_size=8 * 1024 * 1024,
                )
        except (OSError, nats_errors.Error, TimeoutError, ValueError) as error:
            unknown = isinstance(error, nats_errors.NoServersError) and self._newest_error is not None
            raise self._why_not(self._newest_error if unknown else error) from None
        finally:
            if not self._client.is_connected:
                self._lose("it was not opened")
                await self._shut()
        return self

    @property
    def max_payload(self) -> int:
        """Bytes of one message."""
        return self._client.max_payload

    def on_denied(self, callback: Callable[[str], object]) -> Callable[[], object]:
        """Call with the subject whenever the server let nothing be published there; returns what ends that."""
        self._denied.append(callback)
        return lambda: self._denied.remove(callback) if callback in self._denied else None

    async def publish(
        self, subject: str, payload: bytes = b"", reply: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        """Publish; in the order of the calls. Raises LinkLost, and ValueError above `max_payload`."""
        try:
            await self._client.publish(subject, payload, reply, dict(headers) if headers else None)
        except nats_errors.MaxPayloadError:
            raise ValueError(f"{len(payload)} bytes are above the {self.max_payload} of one message") from None
        except (nats_errors.Error, OSError) as error:
            raise self._broken(error) from None

    async def subscribe(
        self, subject: str, heard: Heard, *, most: tuple[int, int] = (0, 0)
    ) -> Callable[[], Awaitable[None]]:
        """Call `heard` with each message; returns what ends that. What it raises is logged.

        Args:
            most: Messages and bytes that may wait to be heard; what comes then is dropped. 0: any number.
        """

        loop, since = asyncio.get_running_loop(), 0.0

        async def take(message: Msg) -> None:
            nonlocal since
            try:
                heard(message)
            except Exception:
                log.exception("a message on %s was not understood", message.subject)
            if loop.time() - since > TURN:
                await asyncio.sleep(0)
                since = loop.time()

        try:
            subscription = await self._client.subscribe(
                subject, cb=take, pending_msgs_limit=most[0], pending_bytes_limit=most[1]
            )
        except (nats_errors.Error, OSError) as error:
            raise self._broken(error) from None

        async def end() -> None:
            with contextlib.suppress(nats_errors.Error, OSError):
                await subscription.unsubscribe()

        return end

    async def request(self, subject: str, payload: bytes = b"", seconds: float = ANSWER_SECONDS) -> Msg:
        """Ask the server itself.

        Raises:
            Silent: There is no answer.
            LinkLost: The connection broke before it.
        """
        asking = asyncio.ensure_future(self._client.request(subject, payload, timeout=seconds))
        try:
            await asyncio.wait((asking, self.gone), return_when=asyncio.FIRST_COMPLETED)
            if not asking.done():
                raise LinkLost("the relay", self.lost or "closed")
            return asking.result()
        except nats_errors.NoRespondersError:
            raise Silent(f"nobody takes {subject} there") from None
        except (nats_errors.TimeoutError, TimeoutError):
            raise Silent(f"no answer to {subject} in {seconds:g} s") from None
        except (nats_errors.Error, OSError) as error:
            raise self._broken(error) from None
        finally:
            asking.cancel()

    async def flush(self) -> None:
        """Wait until the server has had what was published, and what it says to that has come. Raises LinkLost."""
        try:
            await self._client.flush(10)
        except (nats_errors.Error, OSError, TimeoutError) as error:
            raise self._broken(error) from None

    async def close(self, reason: str = "closed") -> None:
        self._lose(reason)
        await self._shut()

    # -- the parts

    async def _shut(self) -> None:
        with contextlib.suppress(nats_errors.Error, OSError, TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._client.close()
        self._client.abort()

    def _broken(self, error: BaseException) -> LinkLost:
        if not self._client.is_connected:
            self._lose(_words(error))
        return LinkLost("the relay", self.lost or repr(error))

    def _lose(self, reason: str) -> None:
        if self.lost is None:
            self.lost = reason
            if not self.gone.done():
                self.gone.set_result(None)

    async def _on_error(self, error: BaseException) -> None:
        self._newest_error = error
        denied = DENIED.search(str(error))
        if denied is not None:
            for callback in list(self._denied):
                callback(denied[2])

    async def _on_closed(self) -> None:
        words = _words(self._client.last_error or self._newest_error)
        self._lose("the relay refuses the key now" if _is_refusal(words) else words or "the relay hung up")

    def _why_not(self, error: BaseException | None) -> CmdopError:
        words = _words(error)
        if _is_refusal(words):
            return KeyRefused(self.url)
        return RelayUnreachable(self.url, words or "nothing answers there")


def bare(url: str) -> str:
    """A URL, or several, without user and password."""
    parts = [urlsplit(one.strip()) for one in url.split(",") if one.strip()]
    return ",".join(urlunsplit((one.scheme, one.netloc.rpartition("@")[2], "", "", "")) for one in parts)


def _is_refusal(words: str) -> bool:
    return any(text in words.lower() for text in REFUSED)


def _words(error: BaseException | None) -> str:
    if error is None:
        return ""
    if isinstance(error, nats_errors.AuthorizationError):
        return REFUSED[0]
    if isinstance(error, nats_errors.UnexpectedEOF):
        return "the connection was closed"
    if isinstance(error, nats_errors.StaleConnectionError):
        return "no word for too long"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return str(error).removeprefix("nats: ").strip("'\" ") or type(error).__name__
