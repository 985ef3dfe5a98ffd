"""What has broken other tools, tried on real sessions through the client: every byte kept, every wait answered."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import shlex
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cmdop_jupyter import SessionEnded, StartFailed, Stream
from cmdop_jupyter.client import Terminal
from cmdop_jupyter.machines.base import Status
from cmdop_jupyter.machines.local import LocalMachine
from cmdop_jupyter.runtime import runtime

Run = Callable[..., Awaitable[Stream]]
GROUPS = Path("/sys/fs/cgroup")
SIZE = 100_000_000


@pytest.fixture
async def run(state_dir: Path) -> AsyncIterator[Run]:
    """Start a command on this machine; `run(script, tty=…)` gives its stream."""
    machine = LocalMachine()
    terminal = Terminal(machine)

    async def start(script: str, **options: Any) -> Stream:
        return await terminal.create(command=script, **options)

    yield start
    runtime().wait(machine.close())


async def ended(stream: Stream) -> Stream:
    """Wait for the end of the log, not just for the exit."""
    async for _ in stream.chunks("begin"):
        pass
    return stream


async def test_a_character_cut_in_two_is_one_character_for_a_wait(run: Run) -> None:
    stream = await run(r"printf 'caf\303'; read x; printf '\251 open\n'; sleep 60")
    async for chunk in stream.chunks():
        assert chunk.data == b"caf\xc3"
        break
    await stream.send_input("\n")

    match = await stream.wait_for(r"(\w+) open", channel="stdout", timeout=30)

    assert match[1] == "café"
    assert stream.read().replace(b"\r\n", b"") == b"caf\xc3\xa9 open\n"


async def test_a_lone_lead_byte_and_nuls_are_kept_exactly_and_harm_no_line(run: Run) -> None:
    stream = await ended(await run(r"printf 'a\303\nb\0c\n\0\0\nready\n'"))

    assert stream.read() == b"a\xc3\nb\0c\n\0\0\nready\n"
    assert [line.text for line in stream.lines()] == ["a�", "b\0c", "\0\0", "ready"]
    assert (await stream.wait_for("^ready$", timeout=30)).line == "ready"


async def test_words_are_unicode_words_as_in_re(run: Run) -> None:
    stream = await run("echo 'user josé logged in'")

    assert (await stream.wait_for(r"user (\w+) logged in", timeout=30))[1] == "josé"


async def test_an_osc_without_an_end_hides_its_own_line_only(run: Run) -> None:
    stream = await run(r"printf '\033]0;a title that never ends\nready on port 8080\n'")

    assert (await stream.wait_for(r"port (\d+)", timeout=30))[1] == "8080"


async def test_a_line_of_100_MB_without_newline_is_kept_and_waited_through(run: Run) -> None:
    stream = await run(f"head -c {SIZE} /dev/zero | tr '\\0' x; echo; echo done", tty="none")

    match = await stream.wait_for("^done$", timeout=100)
    digest, size = hashlib.sha256(), 0
    async for chunk in stream.chunks("begin"):
        digest.update(chunk.data)
        size += len(chunk.data)

    assert match.start == SIZE + 1
    assert size == SIZE + 6
    expected = hashlib.sha256(b"x" * SIZE + b"\ndone\n").hexdigest()
    assert digest.hexdigest() == expected


async def test_an_unfinished_line_that_pauses_counts_live_and_from_history_alike(run: Run) -> None:
    stream = await run("printf 'port 80'; read x; printf '80\\n'; sleep 60")

    live = await stream.wait_for(r"port (\d+)", timeout=30, start="begin")
    await stream.send_input("\n")
    await stream.wait_for(r"^(port 80)?80$", timeout=30, start="begin")
    again = await stream.wait_for(r"port (\d+)", timeout=30, start="begin")

    assert live[1] == again[1] == "80"
    assert (live.start, live.end, live.time) == (again.start, again.end, again.time)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A git repository with a commit of 3,000 lines."""
    folder = tmp_path / "repository"
    script = (
        f"git init -q {folder} && cd {folder} && seq 3000 > numbers && git add numbers && "
        "git -c user.name=a -c user.email=a@example.org commit -qm numbers"
    )
    subprocess.run(["sh", "-c", script], check=True)
    return folder


@pytest.mark.parametrize(
    "command",
    ["git -C {repository} log -p", "git -C {repository} --paginate log -p", "seq 3000 | less", "seq 3000 | more"],
)
async def test_a_pager_prints_and_ends(run: Run, repository: Path, command: str) -> None:
    stream = await ended(await run(command.format(repository=shlex.quote(str(repository)))))

    assert stream.exit is not None
    assert stream.exit.ok
    assert "3000" in stream.text().splitlines()[-1]
    assert len(list(stream.lines(channel="stdout"))) >= 3000


async def test_questions_are_asked_on_the_terminal_and_answers_never_enter_stdout(run: Run) -> None:
    stream = await run(
        "python3 -c 'import getpass; a = input(\"name? \"); b = getpass.getpass(); print(len(a), len(b))'"
    )

    await stream.wait_for(r"name\? $", timeout=30)
    await stream.send_input("somebody\n")
    await stream.wait_for(r"^Password: $", channel="tty", timeout=30)
    await stream.send_input("secret\n")
    match = await stream.wait_for(r"^\d+ \d+$", timeout=30)
    await ended(stream)

    assert match.line == "8 6"
    assert "".join(line.text for line in stream.lines(channel="stdout")).replace("name? ", "") == "8 6"
    assert b"secret" not in stream.read()


async def test_a_prompt_on_dev_tty_as_sudo_asks_can_be_answered(run: Run) -> None:
    stream = await run("exec 3<>/dev/tty; printf 'password for you: ' >&3; read -rs -u 3 word; echo \"${#word} long\"")

    await stream.wait_for(r"password for \w+: $", timeout=30)
    await stream.send_input("0123456789\n")

    assert (await stream.wait_for(r"(\d+) long", timeout=30))[1] == "10"


async def test_what_is_typed_is_echoed_and_never_matches(run: Run) -> None:
    stream = await run('read line; echo "got: ${line%%-*}"')

    await stream.send_input("ready-to-type\n")
    match = await stream.wait_for("ready", timeout=30)

    assert match.line == "got: ready"


async def test_stdout_closed_early_does_not_end_the_session(run: Run) -> None:
    stream = await run("exec >&-; echo still here >&2; read x; exit 4")

    assert (await stream.wait_for("still here", timeout=30)).channel == "stderr"
    await stream.send_input("\n")
    exit = await stream

    assert exit is not None
    assert exit.code == 4


async def test_a_server_left_in_the_background_lives_on_and_is_named(run: Run) -> None:
    stream = await run("(while :; do sleep 1000; done) &\nexit 0")

    exit = await stream
    status = stream.status
    while not status.held_by and status.live:
        status = await changed(stream, status)
    report = await stream.stop(grace=0.1)

    assert exit is not None
    assert exit.ok
    assert status.state == "exited"
    assert any(holder.startswith("bash[") for holder in status.held_by)
    assert report.left == ()
    assert (await ended(stream)).state == "ended"


async def changed(stream: Stream, known: Status) -> Status:
    """The stream's status once it is another than `known`."""
    return await asyncio.wrap_future(runtime().submit(stream._machine.status(stream.session_id, known.seq)))


@pytest.mark.parametrize(
    ("script", "how"),
    [
        ("exit 0", "exit 0"),
        ("exit 3", "exit 3"),
        ("no-such-command-anywhere", "exit 127"),
        ("kill -SEGV $$", "ended by SEGV"),
        ("kill -KILL $$", "ended by KILL"),
    ],
)
async def test_exits_are_told_apart(run: Run, script: str, how: str) -> None:
    assert str(await (await run(script))) == how


@pytest.fixture
def small_memory() -> Iterator[Path]:
    """A control group that may use 40 MB, of either version; needs root."""
    first = GROUPS / "memory"
    group = (first if first.is_dir() else GROUPS) / f"cmdop-test-{os.getpid()}"
    assert os.access(group.parent, os.W_OK), f"making a control group in {group.parent} needs root: sudo make test"
    limits = ["memory.limit_in_bytes", "memory.memsw.limit_in_bytes"] if first.is_dir() else ["memory.max"]
    group.mkdir()
    try:
        for name in limits:
            with contextlib.suppress(FileNotFoundError):  # where swap is not counted
                (group / name).write_text("40000000")
        yield group
    finally:
        group.rmdir()


async def test_a_command_out_of_memory_is_told_as_that(run: Run, small_memory: Path) -> None:
    stream = await run(f"echo $$ > {small_memory}/cgroup.procs; exec python3 -c 'print(len(bytearray(200_000_000)))'")

    exit = await stream
    await ended(stream)

    assert exit is not None
    assert (exit.signal, exit.out_of_memory) == ("KILL", True)
    assert str(exit) == "ended by KILL (out of memory)"


async def test_a_missing_folder_or_interpreter_starts_nothing(run: Run) -> None:
    with pytest.raises(StartFailed, match="/nowhere/at/all: No such file or directory"):
        await run("true", cwd="/nowhere/at/all")
    with pytest.raises(StartFailed, match="/no/interpreter: No such file or directory"):
        await run("#!/no/interpreter\ntrue")


async def test_a_script_of_300_kB_with_every_special_character_runs_unchanged(run: Run) -> None:
    lines = [f": '{number} $HOME {{}} \\\\ `x` !! %d ~'" for number in range(10_000)]
    text = "\n".join([*lines, 'cat "$0" | sha256sum'])
    assert len(text) > 300_000

    stream = await ended(await run(text))

    assert stream.text().split()[0] == hashlib.sha256(text.encode()).hexdigest()


async def test_a_wait_on_a_failed_command_ends_though_its_output_is_held(run: Run) -> None:
    stream = await run("echo broken; sleep 1000 & exit 3")

    with pytest.raises(SessionEnded, match=r"exit 3(.|\n)*broken"):
        await stream.wait_for("never", timeout=60)
    await stream.stop(grace=0.1)


async def test_a_state_folder_with_a_long_path_works(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 100) / ("y" * 100)
    monkeypatch.setenv("CMDOP_STATE_DIR", str(folder))
    stream = await Terminal(LocalMachine()).create(command="read x; echo got $x")
    await stream.send_input("it\n")

    assert (await stream.wait_for("got (.*)", timeout=30))[1] == "it"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MB; needs root."""
    assert os.getuid() == 0, "mounting a small disk needs root: sudo make test"
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m,mode=700", "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


async def test_a_full_disk_holds_the_command_and_loses_nothing(
    run: Run, monkeypatch: pytest.MonkeyPatch, small_disk: Path
) -> None:
    monkeypatch.setenv("CMDOP_STATE_DIR", str(small_disk / "state"))
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(4_000_000))
    stream = await Terminal(LocalMachine()).create(command="seq 1 800000", tty="none")
    status = stream.status
    while status.state != "held":
        status = await changed(stream, status)
    assert "No space left on device" in status.held
    ballast.unlink()
    assert str(await stream) == "exit 0"
    await ended(stream)

    assert stream.read() == b"".join(b"%d\n" % number for number in range(1, 800_001))
