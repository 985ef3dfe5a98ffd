"""A machine on a relay: its calls go over the relay, its output comes from JetStream, the rest from itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ..agent.log import Chunk
from ..errors import CmdopError, ConnectFailed, LinkLost
from ..relay.connection import Relay
from ..relay.feed import Feed, FeedBroken, Hole
from ..relay.link import RelayLink
from .far import FarMachine, Report
from .presets import Place

UNUSED = 60.0  # seconds after which nobody is believed to come back to a feed
MOST_FEEDS = 64  # of one machine that nobody waits on;
HANDLED = 1.0  # seconds that one is kept all the same, for who handles what came by it
RETRY_RELAY = 10.0  # seconds that a session is read from the machine after JetStream failed
DIRECTLY = "output comes from the machine itself"

Key = tuple[str, int]


class RelayMachine(FarMachine):
    """Sessions of a machine on a relay. Belongs to the loop of its first call.

    Args:
        place: Its `command` is one word: the machine's name on the relay.
        relay: The way there, for as many machines as there are.
        on_up: Called whenever the link has come up.

    Attributes:
        feeds: How many cursors had a feed from the relay made for them.
    """

    def __init__(self, place: Place, relay: Relay, on_up: Callable[[], object] = lambda: None) -> None:
        self.relay = relay
        self.feeds = 0
        super().__init__(place, on_up)

    def _begin(self) -> None:
        super()._begin()
        self._feeds: dict[str, list[Feed]] = {}
        self._directly: dict[str, tuple[int, float]] = {}  # sessions read from the machine up to an offset, or a time
        self._sweeper: asyncio.TimerHandle | None = None

    async def close(self) -> None:
        if self._sweeper is not None:
            self._sweeper.cancel()
        link = self._link
        self._close_feeds()
        await super().close()
        if isinstance(link, RelayLink):
            await link.closed()
        await self.relay.leave(self)

    async def _dial_once(self, tell: Report) -> RelayLink:
        (name,) = self.place.command
        tell(f"connecting to the relay {self.relay.url} …")
        self.relay.join(self)
        wire = await self.relay.wire()
        link = RelayLink(self.relay, wire, name, self.name, self._on_lost)
        try:
            tell(f"asking for {name} …")
            self._hello = await link.open()
            if self._kept is not None:
                await link.ask(self._kept)
        except (LinkLost, TimeoutError) as error:
            link.close("not opened")
            if wire.lost is not None:
                raise ConnectFailed(self.name, wire.lost) from None
            why = await self.relay.why_silent(name, self.name)
            if isinstance(why, ConnectFailed):
                raise why from None
            if isinstance(why, CmdopError) and not isinstance(error, TimeoutError):
                raise why from None
            raise ConnectFailed(self.name, "it does not answer, though it is on the relay") from None
        except CmdopError as error:
            link.close("not opened")
            raise ConnectFailed(self.name, str(error)) from None
        except BaseException:
            link.close("not opened")
            raise
        tell(f"agent {self._hello.get('agent')}, Python {self._hello.get('python')} on {self._hello.get('hostname')}")
        self._sweep()
        return link

    # -- output

    async def read(self, session_id: str, offset: int, max_bytes: int) -> list[Chunk]:
        while True:
            link = await self._ready(dial=False)
            assert isinstance(link, RelayLink)
            until, seconds = self._directly.get(session_id, (0, 0.0))
            if offset < until or asyncio.get_running_loop().time() < seconds:
                most = min(max_bytes, until - offset) if offset < until else max_bytes
                return await super().read(session_id, offset, most)
            feed = self._feed_at(session_id, offset, link) or await self._new_feed(session_id, offset, link)
            if feed is None:
                continue
            try:
                chunks = await feed.next(max_bytes)
            except Hole as hole:
                self._directly[session_id] = hole.until, 0.0
                self._put_back(session_id, feed)
            except FeedBroken as broken:
                feed.close()
                if link.lost is not None:
                    raise LinkLost(self.name, link.lost) from None
                if broken.failed:
                    self._fall_back(session_id, broken.reason)
            except asyncio.CancelledError:
                self._put_back(session_id, feed)
                raise
            else:
                self._put_back(session_id, feed)
                return chunks

    def _feed_at(self, session_id: str, offset: int, link: RelayLink) -> Feed | None:
        """A feed that goes on at that offset and that nobody waits on; it is the caller's until it is put back."""
        for feed in self._feeds.get(session_id, ()):
            until, _ = self._directly.get(session_id, (0, 0.0))
            if feed.at == offset or (feed.at < offset and offset == until):
                self._remove(session_id, feed)
                if feed.broken is not None or feed.link is not link:
                    feed.close()
                    break
                feed.at = offset
                return feed
        return None

    def _put_back(self, session_id: str, feed: Feed) -> None:
        if feed.broken is None and not self._closed:
            self._feeds.setdefault(session_id, []).append(feed)
            if len(self._feeds) > MOST_FEEDS:
                oldest = min((one for feeds in self._feeds.values() for one in feeds), key=lambda one: one.used)
                if asyncio.get_running_loop().time() - oldest.used > HANDLED:
                    self._discard(oldest)
        else:
            feed.close()

    async def _new_feed(self, session_id: str, offset: int, link: RelayLink) -> Feed | None:
        """Ask the machine to publish from there on; None when it is to be read from itself first."""
        answer, _ = await link.ask({"op": "mirror", "session": session_id, "offset": offset})
        if answer.get("failed"):
            self._fall_back(session_id, str(answer["failed"]))
            return None
        begin = int(answer["from"])
        if not answer["sequence"]:
            self._directly[session_id] = 2**63, 0.0  # it is over: what there is is read, and nothing comes behind it
            return None
        if begin > offset:
            self._directly[session_id] = begin, 0.0
            return None
        feed = Feed(link, session_id, offset, answer)
        try:
            await feed.open()
        except FeedBroken as broken:
            self._fall_back(session_id, broken.reason)
            return None
        except BaseException:
            feed.close()
            raise
        self.feeds += 1
        if self._state.state == "up" and self._state.reason.startswith(DIRECTLY):
            self._set("up")
        return feed

    def _fall_back(self, session_id: str, reason: str) -> None:
        """Read a session from the machine for a while, and let the link say so."""
        self._directly[session_id] = 0, asyncio.get_running_loop().time() + RETRY_RELAY
        words = f"{DIRECTLY}: {reason}"
        if self._state.state == "up" and self._state.reason != words:
            self._set("up", words)

    def _remove(self, session_id: str, feed: Feed) -> None:
        self._feeds[session_id].remove(feed)
        if not self._feeds[session_id]:
            del self._feeds[session_id]

    def _discard(self, feed: Feed) -> None:
        for session_id, feeds in self._feeds.items():
            if feed in feeds:
                self._remove(session_id, feed)
                break
        feed.close()

    def _close_feeds(self) -> None:
        for feeds in self._feeds.values():
            for feed in feeds:
                feed.close()
        self._feeds.clear()

    def _sweep(self) -> None:
        """Let go of what nobody reads any more."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        loop = asyncio.get_running_loop()
        for feed in [one for feeds in self._feeds.values() for one in feeds]:
            if feed.broken is not None or loop.time() - feed.used > UNUSED:
                self._discard(feed)
        if not self._closed:
            self._sweeper = loop.call_later(UNUSED / 4, self._sweep)
