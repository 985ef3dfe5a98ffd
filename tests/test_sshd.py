"""That the real sshd and the proxy of the tests do what other tests rely on."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from proxy import Proxy
from sshd import Sshd, login_user, processes, state


@pytest.fixture(scope="module")
def server() -> Iterator[Sshd]:
    with Sshd() as server:
        yield server


def ssh(config: Path, *words: str, **options: object) -> subprocess.CompletedProcess[str]:
    words = ("ssh", "-F", str(config), "-o", "BatchMode=yes", "box", *words)
    return subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, **options)


def started(config: Path) -> subprocess.Popen[bytes]:
    """An ssh whose far side has said something, and echoes."""
    process = subprocess.Popen(["ssh", "-F", config, "box", "echo up; cat"], stdin=-1, stdout=-1, stderr=-1)
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    return process


def test_a_command_runs_there_with_a_state_directory_of_the_servers_own(server, monkeypatch):
    done = ssh(server.ssh_config(), 'echo "$CMDOP_STATE_DIR"')

    assert (done.stdout, done.returncode) == (f"{server.state}\n", 0), done.stderr


def test_the_mark_by_which_tests_are_tidied_up_reaches_the_far_side():
    with Sshd(env={"COLOUR": "dark blue"}) as server:
        done = ssh(server.ssh_config(), 'echo "$CMDOP_TEST_RUN $CMDOP_TEST $COLOUR"')

    assert done.stdout == f"{os.environ['CMDOP_TEST_RUN']} {os.environ['CMDOP_TEST']} dark blue\n"


def test_options_win_over_the_fixtures_own():
    with Sshd(ForceCommand="echo forced") as server:
        done = ssh(server.ssh_config(), "echo asked")

    assert done.stdout == "forced\n"


def test_options_of_the_client_win_too(server):
    assert ssh(server.ssh_config(Port=1), "true").returncode == 255
    assert ssh(server.ssh_config(IdentityFile=None), "true").returncode == 255


@pytest.mark.parametrize("shell", ["bash", "dash", "fish", "tcsh", "zsh"])
def test_a_new_user_logs_in_with_that_shell(server, shell):
    with login_user(shell) as user:
        done = ssh(
            server.ssh_config(user=user.name), "ps -o comm= -p $$; pwd" if shell != "fish" else "status fish-path"
        )
        assert done.returncode == 0, done.stderr
        assert shell in done.stdout
        assert done.stdout.endswith(f"{user.home}\n") or shell == "fish"

    assert user.name not in Path("/etc/passwd").read_text()
    assert not user.home.exists()


def test_what_a_user_left_running_ends_with_them(server):
    with login_user("dash") as user:
        done = ssh(server.ssh_config(user=user.name), "setsid sleep 1000 >/dev/null 2>&1 & echo $!")
        assert done.stdout.strip().isdigit(), done.stderr
        left = [
            pid for pid, _, name in processes() if name == "sleep" and Path(f"/proc/{pid}").stat().st_uid == user.uid
        ]
        assert left

    assert not [pid for pid in left if state(pid)]


def test_the_processes_that_serve_a_connection_can_be_killed(server):
    process = started(server.ssh_config())
    serving = server.children()
    assert serving

    server.kill_children()

    _, said = process.communicate(timeout=60)
    assert process.returncode == 255, said
    assert server.pid not in serving
    assert ssh(server.ssh_config(), "echo still there").stdout == "still there\n"


def test_the_processes_that_serve_a_connection_can_be_frozen(server):
    process = started(server.ssh_config())
    stopped = server.kill_children(signal.SIGSTOP)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"echo\n")
    process.stdin.flush()

    states = {state(pid) for pid in stopped}
    server.kill_children(signal.SIGCONT)

    assert states == {"T"}
    assert process.communicate(timeout=60) == (b"echo\n", b"")


def test_it_comes_back_on_the_same_port():
    with Sshd() as server:
        port, process = server.port, started(server.ssh_config())
        server.stop()
        assert process.wait(60) == 255
        process.communicate()
        assert "Connection refused" in ssh(server.ssh_config(), "true").stderr

        server.start()

        assert server.port == port
        assert ssh(server.ssh_config(), "echo back").stdout == "back\n"


def test_it_leaves_nothing_behind():
    with Sshd() as server:
        done = ssh(server.ssh_config(), "setsid sleep 1000 >/dev/null 2>&1 & echo $!")
        pid, listener = int(done.stdout), server.pid

    assert not server.folder.exists()
    assert not [one for one in (pid, listener) if state(one)]


def test_an_option_it_does_not_know_is_told():
    with pytest.raises(RuntimeError, match="Bad configuration option: Nonsense"), Sshd(Nonsense="yes"):
        pass


class Echo:
    """A server that sends back what it gets, each connection on a thread."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        with sock:
            try:
                while data := sock.recv(65536):
                    sock.sendall(data)
            except OSError:
                pass

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    echo = Echo()
    with Proxy(echo.port) as proxy:
        yield proxy
    echo.close()


def connected(proxy: Proxy) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", proxy.port), timeout=20)
    sock.sendall(b"hello")
    assert exactly(sock, 5) == b"hello"
    return sock


def exactly(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size and (more := sock.recv(size - len(data))):
        data += more
    return data


def test_the_proxy_leads_there_and_back_and_passes_ends_on(proxy):
    with connected(proxy) as sock:
        sock.sendall(b"last words")
        sock.shutdown(socket.SHUT_WR)

        assert exactly(sock, 100) == b"last words"


def test_a_cut_resets_and_new_connections_work(proxy):
    with connected(proxy) as sock, connected(proxy) as other:
        assert proxy.cut() == 2

        for one in (sock, other):
            with pytest.raises(ConnectionResetError):
                one.recv(1)

    connected(proxy).close()


def test_frozen_it_forwards_nothing_and_later_everything(proxy):
    with connected(proxy) as sock:
        proxy.freeze()
        sock.sendall(b"meanwhile")
        sock.settimeout(0.2)
        with pytest.raises(TimeoutError):
            sock.recv(1)
        assert proxy.forwarded[0] == len(b"hello")
        sock.settimeout(20)

        proxy.thaw()

        assert exactly(sock, 9) == b"meanwhile"


def test_throttled_it_carries_so_much_a_second(proxy):
    proxy.throttle(400_000)
    with connected(proxy) as sock:
        start = time.monotonic()
        sock.sendall(b"x" * 200_000)

        assert len(exactly(sock, 200_000)) == 200_000
        assert time.monotonic() - start > 0.45


def test_it_refuses_and_accepts_again_on_the_same_port(proxy):
    with connected(proxy) as sock:
        proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", proxy.port), timeout=20)
        sock.sendall(b"still")
        assert exactly(sock, 5) == b"still"

        port = proxy.port
        proxy.accept()

        assert proxy.port == port
        connected(proxy).close()


def test_ssh_goes_through_it(server):
    with Proxy(server.port) as proxy:
        config = server.ssh_config(Port=proxy.port, HostKeyAlias=f"[{server.host}]:{server.port}")
        assert ssh(config, "echo through").stdout == "through\n"
        process = started(config)

        proxy.cut()

        assert process.wait(60) == 255
        _, said = process.communicate()
        assert re.search(rb"reset|closed|broken", said, re.IGNORECASE)
