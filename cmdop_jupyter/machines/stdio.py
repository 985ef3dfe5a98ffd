"""A machine behind a command's stdin and stdout (ssh, docker exec, sudo …): how its link is dialled."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from typing import Any

from ..errors import CmdopError, ConnectFailed, StoreRefused
from .asking import Asking, Dial
from .bootstrap import Bootstrap, BootstrapError, looking_word, word_of
from .far import FarMachine, Report
from .link import Link
from .parcel import agent_parcel
from .presets import Place
from .ssh_words import cannot_run, explain

DIALS = 8  # under way at once in this process: sshd refuses more (MaxStartups 10)
DIAL_SECONDS = 30.0  # without a question to the user
SSH_FAILED = 255  # how ssh exits when it did not come to run anything

_dials: dict[asyncio.AbstractEventLoop, asyncio.Semaphore] = {}


class StdioMachine(FarMachine):
    """Sessions of a user somewhere else, over one process however many they are. Belongs to the loop of its first call.

    Args:
        place: How it is reached.
        asking: Who answers ssh's questions.
        on_up: Called whenever the link has come up.
    """

    def __init__(self, place: Place, asking: Asking | None = None, on_up: Callable[[], object] = lambda: None) -> None:
        super().__init__(place, on_up)
        self._asking = asking or Asking(None)
        self._owns_asking = asking is None

    def _let_go(self) -> None:
        if self._owns_asking:
            self._asking.close()

    async def _dial_once(self, tell: Report) -> Link:
        place, loop = self.place, asyncio.get_running_loop()
        words = [word_of(place.python)] if place.python else [word_of(None), looking_word()]
        async with _dials.setdefault(loop, asyncio.Semaphore(DIALS)), contextlib.AsyncExitStack() as stack:
            try:
                dial = await stack.enter_async_context(self._asking.dial(self.name))
            except StoreRefused as error:
                raise ConnectFailed(self.name, f"nobody could answer its questions: {error}") from None
            missing: BootstrapError | None = None  # why the first word was in vain
            for word in words:
                tell(f"running {' '.join(place.command)} …")
                bootstrap = Bootstrap(agent_parcel(), login=place.login)
                link = Link(self.name, bootstrap, place.silence, self._on_lost)
                with contextlib.ExitStack() as unless_up:
                    unless_up.callback(link.close)
                    try:
                        self._hello = await self._open(link, [*place.command, word], dial)
                        tell(_told(self._hello))
                        await link.ask(self._kept or {"op": "ping"})
                        unless_up.pop_all()
                        return link
                    except BootstrapError as error:
                        said, code = await link.last_words()
                        unclear = type(error) is BootstrapError or code == SSH_FAILED
                        if unclear and missing is None and not bootstrap.noise:
                            raise explain(self.name, place.kind, said, code, dial.refused) from None
                        if not error.look_further or word is words[-1]:
                            told = missing or error if type(error) is BootstrapError else error
                            raise ConnectFailed(self.name, told.reason, told.remedy) from None
                        missing = error
                        tell(f"{error.reason}; looking for another Python")
                    except ConnectFailed:
                        raise
                    except CmdopError as error:  # what the agent answers first: its store is refused
                        raise ConnectFailed(self.name, str(error)) from None
                    except OSError as error:
                        raise cannot_run(self.name, place.command[0], error) from None
        raise AssertionError("the last word either opens or raises")

    async def _open(self, link: Link, command: list[str], dial: Dial) -> dict[str, Any]:
        """Open a link; without a question to the user it may take `DIAL_SECONDS`."""
        loop = asyncio.get_running_loop()
        opening = asyncio.ensure_future(link.open(command, {**os.environ, **dial.environment}))
        hopeless = asyncio.ensure_future(dial.hopeless.wait())
        deadline = loop.time() + DIAL_SECONDS
        try:
            while not opening.done():
                if dial.open:
                    deadline = loop.time() + DIAL_SECONDS
                elif hopeless.done():  # else ssh goes on trying, and asking
                    link.close()
                    said, code = await link.last_words()
                    raise explain(self.name, self.place.kind, said, code, dial.refused)
                elif loop.time() > deadline:
                    raise ConnectFailed(self.name, f"no answer in {DIAL_SECONDS:g} s")
                news = [one for one in (opening, hopeless) if not one.done()]
                await asyncio.wait(news, timeout=0.5, return_when=asyncio.FIRST_COMPLETED)
            return opening.result()
        finally:
            opening.cancel()
            hopeless.cancel()


def _told(hello: dict[str, Any]) -> str:
    return f"Python {hello.get('python')} on {hello.get('hostname')}, agent {hello.get('was') or 'here'}"
