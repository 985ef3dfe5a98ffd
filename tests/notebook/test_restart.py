"""Kernels and supervisors that go away: what goes on, what is told, and that no byte is missing."""

from __future__ import annotations

import hashlib
import os
import signal
from pathlib import Path

import pytest

COUNT = 400_000
FLOOD = f"seq -f 'line %.0f of the flood' {COUNT}; echo done; exec sleep 1000"
WHOLE = "".join(f"line {number} of the flood\n" for number in range(1, COUNT + 1)) + "done\n"
DIGEST = hashlib.sha256(WHOLE.encode()).hexdigest()


@pytest.mark.parametrize("end", ["restart", "kill9"])
def test_after_a_restart_every_byte_is_there(own_notebook, end):
    own_notebook.load()
    own_notebook.good(f"%%cmdop --name flood\n{FLOOD}")
    own_notebook.good("%%cmdop --name over --wait\necho finished")
    own_notebook.good("await wait_for('line 1000 of', 'flood')")

    if end == "kill9":
        own_notebook.kill9()
    own_notebook.restart()
    told = own_notebook.load()
    listed = own_notebook.good("%cmdop ps")
    own_notebook.good("%cmdop attach flood")
    own_notebook.good("await wait_for('^done$', 'flood', timeout=60)", timeout=90)

    assert "still running: flood; `%cmdop attach NAME` brings one back" in told.text
    assert "over" not in told.text
    rows = {row.split()[0]: row for row in listed.text.splitlines()}
    assert "running" in rows["flood"]
    assert "exit 0" in rows["over"]
    assert own_notebook.ask("__import__('hashlib').sha256(flood.read()).hexdigest()") == DIGEST
    assert own_notebook.ask("flood.read() == b''.join([chunk.data async for chunk in flood.chunks(follow=False)])")
    assert own_notebook.ask("[line.text for line in flood.tail(2)]") == [f"line {COUNT} of the flood", "done"]


def test_a_fresh_kernel_tells_nothing_when_nothing_runs(own_notebook):
    assert own_notebook.load().text == ""


def test_a_session_that_ended_meanwhile_is_brought_back_too(own_notebook):
    own_notebook.load()
    own_notebook.good("%%cmdop --name short\necho hello; read x; exit 4")
    own_notebook.kill9()
    own_notebook.type_into("short", b"\n")
    own_notebook.restart()
    own_notebook.load()

    cell = own_notebook.good("%cmdop attach short")
    assert own_notebook.ask("(await short).code") == 4

    own_notebook.wait_until(lambda: "exit 4" in cell.text and "hello" in cell.text)


def test_a_session_whose_supervisor_was_killed_is_told_as_lost_and_can_be_stopped(own_notebook):
    own_notebook.load()
    cell = own_notebook.good("%%cmdop --name api --tty none\necho pid $$; exec sleep 1000")
    pid = int(own_notebook.ask(r"(await wait_for(r'pid (\d+)', 'api'))[1]"))
    waiter = own_notebook.start("await wait_for('never', 'api')")
    own_notebook.wait_until(lambda: "… waiting" in waiter.text)

    os.kill(supervisor_of(own_notebook), signal.SIGKILL)
    waiter.wait()

    assert waiter.error.ename == "SessionEnded"
    assert "lost" in str(waiter.error)
    assert own_notebook.ask("(api.state, api.exit, (await api))") == ("lost", None, None)
    own_notebook.wait_until(lambda: "lost" in cell.text and f"pid {pid}" in cell.text)
    assert "lost" in own_notebook.good("%cmdop ps").text
    assert "lost" in own_notebook.ask("repr(api)")
    assert Path(f"/proc/{pid}/comm").read_text() == "sleep\n"

    report = own_notebook.good("%cmdop stop api").text

    assert "api: stopped by INT in " in report
    assert not alive(pid)
    assert own_notebook.ask("api.read()") == f"pid {pid}\n".encode()


def supervisor_of(notebook) -> int:
    """Pid of the one supervisor there is."""
    (pid,) = [
        int(place.name)
        for place in Path("/proc").glob("[0-9]*")
        if f"supervise\0{notebook._env['CMDOP_STATE_DIR']}/" in read(place / "cmdline")
    ]
    return pid


def alive(pid: int) -> bool:
    """Whether the process runs; one that nobody has waited for does not."""
    status = read(Path(f"/proc/{pid}/stat"))
    return bool(status) and status.rpartition(")")[2].split()[0] != "Z"


def read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # it is gone, or not ours
        return ""
