"""What ssh and sudo ask a person (passwords, codes, host keys), brought to a Python callable, and the answer back.

ssh and sudo run a script of ours (SSH_ASKPASS, SUDO_ASKPASS), which hands the prompt to this process over a Unix socket
in a folder that is for us alone. An answer passes through, and is kept nowhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import secrets
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable

from ..agent.control import is_ours
from ..agent.environment import ASK_SOCKET, ASK_TOKEN
from ..agent.places import default_root, drop_socket, listen, make_private, reachable
from ..errors import StoreRefused
from .ssh_words import Question, read_prompt

__all__ = ["Asker", "Asking", "Dial", "Question"]

Asker = Callable[[Question], Awaitable[str | None]]  # None: no answer

FOLDER = "asking"  # under the state directory
MAX_REQUEST = 64 * 1024  # bytes; prompts have some hundred
REQUEST_SECONDS = 10.0  # for a script that has connected to say what it wants
ACCEPT_AGAIN = 1.0  # seconds, when the system has no descriptor for another one
STALE_SECONDS = 60.0  # after which a folder whose socket nobody serves is one of a process that was killed
FORCE_SINCE = (8, 4)  # the OpenSSH whose ssh takes SSH_ASKPASS without a display when told so
NO_DISPLAY = "cmdop:0"  # what an older one is told; nothing connects to it

# What the script runs. Standard library only; a socket's path may be too long for its address.
CLIENT = f"""
import json, os, socket, sys
answer = b""
try:
    place = os.environ["{ASK_SOCKET}"]
    folder = os.open(os.path.dirname(place), os.O_RDONLY)
    near = "/proc/self/fd/%d/%s" % (folder, os.path.basename(place))
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(near if os.path.isdir("/proc/self/fd") else place)
    prompt, hint = " ".join(sys.argv[1:]), os.environ.get("SSH_ASKPASS_PROMPT", "")
    request = dict(token=os.environ["{ASK_TOKEN}"], prompt=prompt, hint=hint)
    sock.sendall(json.dumps(request).encode() + b"\\n")
    while True:
        data = sock.recv(65536)
        if not data:
            break
        answer += data
except (KeyError, OSError):
    answer = b""
if answer[:1] != b"+":
    sys.exit(1)
sys.stdout.buffer.write(answer[1:] + b"\\n")
"""


class Dial:
    """One attempt to reach a machine; within `async with`, what it runs may ask.

    Attributes:
        machine: Its name.
        refused: The newest question that got no answer; None: there was none.
        hopeless: Set when a person said no, or when nobody is there for what it cannot do without: end the command,
            ssh would go on and try empty passwords.
    """

    def __init__(self, asking: Asking, machine: str) -> None:
        self._asking, self.machine = asking, machine
        self._token = secrets.token_urlsafe(32)
        self._asked: set[str] = set()  # prompts that were answered
        self._open = 0
        self._environment: dict[str, str] = {}
        self._scripts: set[asyncio.Task[None]] = set()
        self.refused: Question | None = None
        self.hopeless = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Dial of {self.machine}: {self._open} open{', refused' if self.refused else ''}>"

    @property
    def open(self) -> bool:
        """Whether somebody is being asked, or stands in line for it."""
        return self._open > 0

    @property
    def environment(self) -> dict[str, str]:
        """Variables for the command, which must run in a session of its own, without a terminal."""
        return dict(self._environment)

    async def __aenter__(self) -> Dial:
        """Raises StoreRefused: there is no private folder to be had."""
        self._environment = {**await self._asking._ready(), ASK_TOKEN: self._token}
        self._asking._dials[self._token] = self
        return self

    async def __aexit__(self, *_: object) -> None:
        self._asking._dials.pop(self._token, None)
        self._environment = {}
        for task in self._scripts:
            task.cancel()
        if self._scripts:
            await asyncio.wait(self._scripts)

    async def _ask(self, prompt: str, hint: str) -> str | None:
        """The answer to one prompt, in its turn; None: none."""
        ask = self._asking.ask
        question = read_prompt(self.machine, prompt, hint, again=prompt in self._asked, headless=ask is None)
        self._open += 1
        try:
            answer = None
            if ask is not None and not self.hopeless.is_set():
                async with self._asking._turn:
                    if not self.hopeless.is_set():
                        answer = await ask(question)
        except Exception as error:  # whatever the callable is: the dial must not hang on it
            facts = {"message": f"asking a question of {self.machine} failed", "exception": error}
            asyncio.get_running_loop().call_exception_handler(facts)
        finally:
            self._open -= 1
        if answer is not None:
            self._asked.add(prompt)
        elif hint != "none":  # that one is only shown
            self.refused = question
            if ask is not None or question.kind != "passphrase":  # ssh may have other keys
                self.hopeless.set()
        return answer


class Asking:
    """Has `ask` answer what is asked by whatever runs in a `dial`, one question at a time over all machines.

    Belongs to one loop. Nothing is made before the first dial.

    Args:
        ask: Takes a question, gives the answer. It is cancelled when the answer is not needed any more. No callable, or
            no answer (None): the command is told so at once.
    """

    def __init__(self, ask: Asker | None) -> None:
        self.ask = ask
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._folder = self._place = ""
        self._listener: socket.socket | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._dials: dict[str, Dial] = {}
        self._scripts: dict[asyncio.Task[None], socket.socket] = {}
        self._turn = asyncio.Lock()
        self._starting = asyncio.Lock()
        self._environment: dict[str, str] = {}

    def dial(self, machine: str) -> Dial:
        """For `async with`: one attempt to reach `machine`, whose questions are answered until it is left."""
        return Dial(self, machine)

    def close(self) -> None:
        """Answer nothing more, and remove the script. A later dial makes it anew."""
        if self._listener is not None:
            if self._pid == os.getpid() and self._loop is not None and not self._loop.is_closed():
                self._loop.remove_reader(self._listener)
            self._listener.close()
        if self._pid == os.getpid():  # in a forked child all the rest is its parent's
            for task in list(self._scripts):
                task.cancel()
                self._forget(task)
            if self._folder:
                drop_socket(self._place, self._folder)
                shutil.rmtree(self._folder, ignore_errors=True)
        self._begin()

    async def _ready(self) -> dict[str, str]:
        """Make the script and listen, once; return the variables that lead to them."""
        if self._pid != os.getpid():
            self.close()
        async with self._starting:
            if not self._environment:
                forced = how_to_force(await asyncio.to_thread(ssh_version), os.environ.get("DISPLAY"))
                self._environment = {**self._make(), **forced}
            return self._environment

    def _make(self) -> dict[str, str]:
        self._folder = make_folder()
        script = os.path.join(self._folder, "ask")
        try:
            write_script(script)
            self._listener, self._place = listen(self._folder)
        except OSError as error:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise StoreRefused(self._folder, error.strerror or str(error)) from None
        self._listener.setblocking(False)
        self._loop = asyncio.get_running_loop()
        self._listen(self._listener)
        return {"SSH_ASKPASS": script, "SUDO_ASKPASS": script, ASK_SOCKET: self._place}

    def _listen(self, listener: socket.socket) -> None:
        if self._loop is not None and listener is self._listener:
            self._loop.add_reader(listener, self._accept, self._loop, listener)

    def _accept(self, loop: asyncio.AbstractEventLoop, listener: socket.socket) -> None:
        try:
            sock, _ = listener.accept()
        except BlockingIOError:
            return
        except OSError:  # it would be ready for ever
            loop.remove_reader(listener)
            loop.call_later(ACCEPT_AGAIN, self._listen, listener)
            return
        task = loop.create_task(self._serve(sock))
        self._scripts[task] = sock
        task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[None]) -> None:
        sock = self._scripts.pop(task, None)
        if sock is not None:
            sock.close()

    async def _serve(self, sock: socket.socket) -> None:
        """One script: hear what it wants, ask, answer. It is told nothing when the token is not that of a dial."""
        sock.setblocking(False)
        if not is_ours(sock):
            return
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                request = await _line(sock)
        except (OSError, TimeoutError, ValueError):
            return
        dial = self._dials.get(request["token"])
        if dial is None:
            return
        asking = loop.create_task(dial._ask(request["prompt"], request["hint"]))
        gone = loop.create_task(_until_gone(sock))  # ssh ends the script once a touched key has made it needless
        me = asyncio.current_task()
        assert me is not None
        dial._scripts.add(me)
        try:
            await asyncio.wait([asking, gone], return_when=asyncio.FIRST_COMPLETED)
            if asking.done() and (answer := asking.result()) is not None:
                with contextlib.suppress(OSError):
                    await loop.sock_sendall(sock, b"+" + answer.encode(errors="surrogateescape"))
        finally:
            dial._scripts.discard(me)
            for task in (asking, gone):
                task.cancel()
            await asyncio.gather(asking, gone, return_exceptions=True)


def make_folder() -> str:
    """A new private folder of this process under the state directory; those of processes that were killed go."""
    root = os.path.join(default_root(), FOLDER)
    make_private(root)
    for name in os.listdir(root):
        _remove_if_stale(os.path.join(root, name))
    return tempfile.mkdtemp(dir=root, prefix=f"{os.getpid()}-")


def _remove_if_stale(folder: str) -> None:
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as sock:
        if time.time() - os.stat(folder).st_mtime < STALE_SECONDS:
            return
        try:
            with reachable(os.path.join(folder, "ctl")) as path:
                sock.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            shutil.rmtree(folder, ignore_errors=True)


def write_script(path: str) -> None:
    """What ssh and sudo run with a prompt as its word: prints the answer, or fails."""
    text = f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -I -S -c {shlex.quote(CLIENT)} "$@"\n'
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o700), "w", encoding="utf-8") as file:
        file.write(text)


def how_to_force(version: tuple[int, int] | None, display: str | None) -> dict[str, str]:
    """What makes an ssh of that version ask by SSH_ASKPASS; no version: there is none here."""
    if version is None or version >= FORCE_SINCE:
        return {"SSH_ASKPASS_REQUIRE": "force"}
    return {} if display else {"DISPLAY": NO_DISPLAY}


def read_version(said: str) -> tuple[int, int] | None:
    """OpenSSH's version, from what `ssh -V` says."""
    found = re.search(r"OpenSSH_(?:for_Windows_)?(\d+)\.(\d+)", said)
    return (int(found[1]), int(found[2])) if found else None


def ssh_version() -> tuple[int, int] | None:
    """The version of the `ssh` in PATH; None where there is none, or it is not OpenSSH's."""
    try:
        done = subprocess.run(["ssh", "-V"], stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
    except OSError:
        return None
    return read_version(done.stderr)


async def _line(sock: socket.socket) -> dict[str, str]:
    """The request of a script. Raises ValueError: it is none."""
    data = b""
    while not data.endswith(b"\n"):
        more = await asyncio.get_running_loop().sock_recv(sock, MAX_REQUEST)
        data += more
        if not more or len(data) > MAX_REQUEST:
            raise ValueError("no request")
    request = json.loads(data)
    wanted = ("token", "prompt", "hint")
    if not isinstance(request, dict) or not all(isinstance(request.get(name), str) for name in wanted):
        raise ValueError("no request")
    return request


async def _until_gone(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while await asyncio.get_running_loop().sock_recv(sock, 1024):
            pass
