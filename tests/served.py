"""A machine that is served on a relay by a real `cmdop-relay serve`, for tests."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from cmdop_jupyter.machines.presets import Place
from cmdop_jupyter.machines.relay import RelayMachine
from cmdop_jupyter.relay.connection import SILENCE, Relay
from cmdop_jupyter.relay.keys import ApiKey


class Served:
    """`cmdop-relay serve`, which can be killed and begun anew; its sessions are in `folder`.

    Attributes:
        said: Its words on stderr.
    """

    def __init__(self, key: Path, folder: Path, *options: str) -> None:
        tasks = str(Path(__file__).with_name("tasks.py"))
        program = [sys.executable, tasks, "cmdop_jupyter.relay", "serve", "--key", str(key), *options]
        self._command, self._folder = program, folder
        self.said: list[str] = []
        self._process: subprocess.Popen[str] | None = None
        self.start()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Begin, and wait until it is on the relay. It serves several tests, and belongs to none of them."""
        environment = {key: value for key, value in os.environ.items() if key != "CMDOP_TEST"}
        environment["CMDOP_STATE_DIR"] = str(self._folder / "state")
        process = subprocess.Popen(self._command, stderr=subprocess.PIPE, text=True, env=environment)
        there = threading.Event()

        def listen() -> None:
            assert process.stderr is not None
            with process.stderr:
                for line in process.stderr:
                    self.said.append(line)
                    if " is on the relay " in line:
                        there.set()
            there.set()

        self._process = process
        self._listening = threading.Thread(target=listen, daemon=True)
        self._listening.start()
        assert there.wait(30), "".join(self.said)
        assert process.poll() is None, "".join(self.said)

    def waits(self) -> str:
        """What it waits for now, a line a task."""
        process, begin = self._process, len(self.said)
        if process is None or process.poll() is not None:
            return "it does not run\n"
        process.send_signal(signal.SIGUSR1)
        end = time.monotonic() + 5
        while "told\n" not in self.said[begin:] and time.monotonic() < end:
            time.sleep(0.05)
        return "".join(itertools.takewhile(lambda line: line != "told\n", self.said[begin:]))

    def end(self, number: int = signal.SIGTERM) -> int:
        """End it; its sessions go on."""
        process = self._process
        assert process is not None
        if process.poll() is None:
            process.send_signal(number)
        code = process.wait(20)
        self._listening.join(20)
        return code


@contextlib.contextmanager
def served(key: Path, folder: Path, *options: str) -> Iterator[Served]:
    it = Served(key, folder, *options)
    try:
        yield it
    finally:
        it.end()


def relay_of(api_key: str, *, url: str | None = None, silence: float = SILENCE) -> Relay:
    """A way to the relay of a key; `url`: by way of a proxy."""
    key = ApiKey.parse(api_key)
    return Relay(url or key.url, key.identity, key.workspace_public, silence=silence)


def machine_at(relay: Relay, name: str = "box") -> RelayMachine:
    return RelayMachine(Place(f"relay:{name}", "relay", (name,), silence=relay.silence), relay)
