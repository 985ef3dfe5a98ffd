"""A relay whose disk is full: sessions go on, output comes from their machine, and the link says why."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from relays import relay as open_relay
from served import machine_at, relay_of, served

from cmdop_jupyter.machines import relay as relay_machines
from cmdop_jupyter.machines.base import StartRequest
from cmdop_jupyter.steady import Steady

MEGABYTES = 256  # of which nats-server takes three quarters
COUNT = 500_000  # lines at a time, 3.4 MB
LINES = "".join(f"{number}\n" for number in range(1, COUNT + 1)).encode()


class Disk:
    """A file system of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.parent.mkdir(mode=0o700)
        folder.mkdir(mode=0o700)
        self._mount("tmpfs", f"size={MEGABYTES}m,mode=700")

    def fill(self) -> None:
        """Leave room for less than what is put out at once."""
        used = int(subprocess.run(["du", "-sk", self.folder], check=True, capture_output=True).stdout.split()[0])
        self._mount("tmpfs", f"remount,size={used + 1000}k")

    def make_room(self) -> None:
        self._mount("tmpfs", f"remount,size={MEGABYTES}m")

    def _mount(self, kind: str, options: str) -> None:
        subprocess.run(["mount", "-t", kind, "-o", options, kind, str(self.folder)], check=True)

    def close(self) -> None:
        subprocess.run(["umount", str(self.folder)], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    disk = Disk(tmp_path / "keys" / "n1.store")
    yield disk
    disk.close()


async def test_output_comes_from_the_machine_while_the_disk_of_the_relay_is_full(
    disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(relay_machines, "RETRY_RELAY", 0.5)
    with open_relay(tmp_path / "keys") as relay, served(relay.machine_key("box", keep_bytes=32 * 2**20), tmp_path):
        machine = machine_at(relay_of(relay.api_key("op1")))
        steady = Steady(machine)
        facts = await steady.start(StartRequest("id-1", "x", script=f"while read x; do seq {COUNT}; done", tty="none"))
        at = 0

        async def put_out() -> None:
            nonlocal at
            await steady.write(facts.id, "me", at // len(LINES), b"\n")
            begin = at
            while at < begin + len(LINES):
                (*_, last) = chunks = await steady.read(facts.id, at, 2**20)
                assert b"".join(chunk.data for chunk in chunks) == LINES[at - begin : last.end - begin]
                at = last.end

        async def until_link(good: Callable[[str], bool]) -> str:
            while not good(reason := machine.link.reason):
                await machine.link_change(machine.link)
            return reason

        async with asyncio.timeout(90):
            await put_out()
            assert (machine.link.state, machine.link.reason) == ("up", "")
            disk.fill()
            await put_out()
            why = await until_link(bool)
            assert machine.link.state == "up"
            assert why.startswith("output comes from the machine itself: JetStream has confirmed nothing for 10 s")
            assert why.endswith("make room there, and restart it")
            await put_out()  # waits for nothing any more

            disk.make_room()
            relay.stop()
            relay.start()
            while machine.link.state != "up" or machine.link.reason or not machine._feeds.get(facts.id):
                await put_out()
        await machine.close()
