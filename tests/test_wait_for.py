"""Waiting on real sessions: where a wait begins, what ends it, and that live and history give one answer."""

from __future__ import annotations

import asyncio
import random
import re
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from live import GO, Create, creating, go, live_terminal

from cmdop_jupyter import wait_all, wait_for
from cmdop_jupyter.client import Terminal
from cmdop_jupyter.errors import (
    FailPatternSeen,
    InvalidRequest,
    PatternError,
    PatternTooSlow,
    SessionEnded,
    SessionNotFound,
    WaitTimeout,
)
from cmdop_jupyter.runtime import Pending
from cmdop_jupyter.stream import Stream
from cmdop_jupyter.waiting import Match
from cmdop_jupyter.watching import no_cell, set_current_cell


@pytest.fixture
def create(state_dir) -> Iterator[Create]:
    with creating() as create:
        yield create


@pytest.fixture
def terminal(state_dir) -> Iterator[Terminal]:
    with live_terminal() as terminal:
        yield terminal


class Cells:
    """A notebook's cells, as the front end tells of them."""

    def __init__(self) -> None:
        self._run = 0
        self._now: tuple[str, int] | None = None
        set_current_cell(lambda: self._now)

    def run(self, cell: str) -> None:
        """From now on `cell` runs, once more."""
        self._run += 1
        self._now = (cell, self._run)

    def resume(self, cell: str, run: int) -> None:
        self._now = (cell, run)


@pytest.fixture
def cells() -> Iterator[Cells]:
    yield Cells()
    set_current_cell(no_cell)


def fields(match: Match) -> dict[str, object]:
    """All that a match tells of the log."""
    names = ("line", "pattern", "index", "start", "end", "time", "channel", "cut", "before")
    return {name: getattr(match, name) for name in names} | {"groups": match.groups(), "whole": match[0]}


# -- what is found


def test_a_match_tells_what_it_caught_and_where(create):
    stream = create("echo starting; echo ready on port 8080 now", name="api")
    stream.wait_exit().result()

    match = stream.wait_for(r"port (?P<port>\d+)").result()

    assert (match[0], match[1], match["port"]) == ("port 8080", "8080", "8080")
    assert (match.group(), match.group(0, 1), match.groups()) == ("port 8080", ("port 8080", "8080"), ("8080",))
    assert match.groupdict() == {"port": "8080"}
    assert (match.line, match.before) == ("ready on port 8080 now", "starting\nready on ")
    assert (match.pattern, match.index, match.channel, match.cut) == (r"port (?P<port>\d+)", 0, "stdout", False)
    assert stream.read()[match.start : match.end] == b"port 8080"
    assert match.stream is stream
    assert abs(match.time - time.time()) < 100
    assert repr(match) == "<Match 'port 8080' in 'ready on port 8080 now', stdout at byte 18>"


async def test_what_was_printed_before_the_call_counts(terminal):
    stream = await terminal.create(command=f"echo ready; {GO}", tty="none")
    assert await stream.wait_for("ready")

    assert (await stream.wait_for("ready", start="begin")).start == 0


async def test_a_line_counts_when_it_is_whole(terminal, tmp_path):
    stream = await terminal.create(command=f"printf 'listening on port 80'; {GO}; echo 80", tty="none")
    waiter = stream.wait_for(r"port (\d+)", settle=60)
    async for _ in stream.chunks():
        break
    await stream.send_input("\n")

    assert (await waiter)[1] == "8080"


async def test_an_unfinished_line_counts_once_it_has_been_quiet(terminal):
    stream = await terminal.create(command="read -p 'go on? ' answer; echo $answer")

    match = await stream.wait_for(r"go on\?", channel="stderr")
    await stream.send_input("yes\n")

    assert match.line == "go on? "
    assert (await stream.wait_for("^yes$")).channel == "stdout"


async def test_what_was_typed_is_no_output(terminal):
    stream = await terminal.create(command=f"{GO}; echo got $go")

    await stream.send_input("secret\n")

    assert (await stream.wait_for("secret")).line == "got secret"


def test_a_question_on_the_terminal_is_found_there(create):
    stream = create("read -s -p 'Password: ' secret < /dev/tty 2> /dev/tty; echo; echo ${#secret}")

    assert stream.wait_for("Password:", channel="tty").result().channel == "tty"
    stream.send_input("hidden\n").result()
    assert stream.wait_for("^6$").result()


def test_of_several_patterns_the_first_in_the_log_wins(create):
    stream = create("echo ready; echo done")

    match = stream.wait_for(["done", "ready"]).result()

    assert (match[0], match.index, match.pattern) == ("ready", 1, "ready")


def test_patterns_may_be_compiled_or_bytes(create):
    stream = create(r"printf 'Ready\n\377\376 raw\n'")

    assert stream.wait_for(re.compile("READY", re.I)).result()[0] == "Ready"
    match = stream.wait_for(rb"\xff(.) raw").result()
    assert (match[1], match.start) == (b"\xfe", 6)
    assert stream.wait_for(re.compile(rb"RAW", re.I), start="begin").result()[0] == b"raw"


def test_one_channel_can_be_looked_at(create):
    stream = create("echo ready; echo ready >&2", tty="none")

    assert stream.wait_for("ready", channel="stderr").result().channel == "stderr"


def test_letters_are_those_of_python(create):
    assert create("echo user josé logged in").wait_for(r"user (\w+) logged").result()[1] == "josé"


# -- where a wait begins


def test_a_wait_begins_behind_the_last_match(create):
    stream = create("echo a 1; echo b 1; echo a 2; echo b 2")

    found = [stream.wait_for(pattern).result().line for pattern in ("a", "b", "a", "b")]

    assert found == ["a 1", "b 1", "a 2", "b 2"]


def test_a_wait_may_begin_elsewhere(create):
    stream = create(f"echo ready 1; {GO}; echo ready 2", tty="none")
    first = stream.wait_for("ready").result()
    now = stream.wait_for("ready", start="now")
    go(stream)

    assert now.result().line == "ready 2"
    assert stream.wait_for("ready", start="begin").result().start == first.start
    assert stream.wait_for("ready", start=2).result().line == "ready 2"


def test_a_wait_that_went_back_moves_nothing_back(create):
    stream = create("echo 1; echo 2; echo 3")
    stream.wait_for("2").result()

    assert stream.wait_for(r"\d", start="begin").result()[0] == "1"
    assert stream.wait_for(r"\d").result()[0] == "3"


def test_fail_matches_and_handlers_move_nothing(create):
    stream = create("echo one; echo two")
    stream.on_output(lambda data: None)
    with pytest.raises(FailPatternSeen):
        stream.wait_for("never", fail="two").result()

    assert stream.wait_for(r"\w+").result()[0] == "one"


def test_waits_at_once_are_independent(create):
    stream = create(f"{GO}; echo a; echo b; echo c", tty="none")
    waits = [stream.wait_for(pattern) for pattern in ("c", "a", "b", "a|b")]

    go(stream)

    assert [wait.result()[0] for wait in waits] == ["c", "a", "b", "a"]


def test_the_same_cell_run_again_begins_where_it_began(create, cells):
    stream = create("seq 10")
    cells.run("first")
    one = [stream.wait_for(r"\d+").result()[0] for _ in range(2)]
    cells.run("second")
    two = stream.wait_for(r"\d+").result()[0]

    cells.run("first")
    again = [stream.wait_for(r"\d+").result()[0] for _ in range(2)]
    cells.run("second")
    two_again = stream.wait_for(r"\d+").result()[0]
    cells.run("third")
    three = stream.wait_for(r"\d+").result()[0]

    assert (one, two) == (["1", "2"], "3")
    assert (again, two_again) == (one, two)
    assert three == "4"


def test_a_wait_more_than_last_time_goes_on_behind_the_last_match(create, cells):
    stream = create("seq 10")
    cells.run("loop")
    stream.wait_for(r"\d+").result()
    cells.run("loop")

    assert [stream.wait_for(r"\d+").result()[0] for _ in range(3)] == ["1", "2", "3"]


def test_a_cell_whose_waits_go_on_in_the_background_is_not_confused_with_others(create, cells):
    stream = create("seq 10")
    cells.run("background")
    one = stream.wait_for(r"\d+").result()[0]
    cells.run("other")
    two = stream.wait_for(r"\d+").result()[0]
    cells.resume("background", 1)

    assert (one, two, stream.wait_for(r"\d+").result()[0]) == ("1", "2", "3")


# -- how else a wait ends


def test_a_timeout_tells_the_last_line_and_the_session_goes_on(create):
    stream = create(f"echo working; {GO}", name="api", tty="none")
    stream.wait_for("never|working").result()

    with pytest.raises(WaitTimeout, match=r"no line of api matched /never/ in 0.05 s; last line 'working'. It goes on"):
        stream.wait_for("never", timeout=0.05, start="begin").result()
    with pytest.raises(WaitTimeout, match=r"no line came behind byte 7, where this wait began"):
        stream.wait_for("working", timeout=0.05).result()

    assert stream.state == "running"


def test_a_timeout_without_a_line_says_so(create):
    with pytest.raises(WaitTimeout, match="no line came"):
        create(GO, tty="none").wait_for("never", timeout=0.05).result()


def test_what_is_there_is_found_however_short_the_timeout(create):
    stream = create("seq 100000")
    stream.wait_exit().result()

    assert stream.wait_for("^100000$", timeout=0).result()


def test_a_line_that_fails_ends_the_wait(create):
    stream = create("echo fine; echo ERROR: no disk; echo ready", name="api")

    with pytest.raises(FailPatternSeen, match=r"api printed a line that matches fail=/ERROR: \(\.\*\)/") as raised:
        stream.wait_for("ready", fail=["Traceback", "ERROR: (.*)"]).result()

    assert (raised.value.line, raised.value.match[1], raised.value.match.index) == ("ERROR: no disk", "no disk", 1)


def test_on_one_line_fail_wins(create):
    with pytest.raises(FailPatternSeen):
        create("echo ready with ERROR").wait_for("ready", fail="ERROR").result()


def test_the_end_of_the_session_ends_the_wait_and_tells_its_last_lines(create):
    stream = create("seq 10; exit 3", name="build")

    with pytest.raises(SessionEnded) as raised:
        stream.wait_for("never").result()

    assert str(raised.value) == (
        "build ended (exit 3) and no line matched /never/; its last lines:\n  6\n  7\n  8\n  9\n  10"
    )
    assert raised.value.last_lines == ("6", "7", "8", "9", "10")


def test_an_exit_that_was_not_0_ends_the_wait_half_a_second_later_though_output_is_held(create):
    stream = create("sleep 1000 & exit 3", tty="none")

    with pytest.raises(SessionEnded, match="exit 3"):
        stream.wait_for("never").result()

    status = stream.status
    assert status.state == "exited"
    assert status.clock_ms >= status.exited_ms + 500


def test_the_last_words_of_a_failed_command_still_count(create):
    stream = create("{ while kill -0 $$; do :; done; echo last words; } 2> /dev/null & exit 3", tty="none")

    assert stream.wait_for("last words").result()


def test_an_exit_of_0_ends_no_wait_while_output_is_held(create, tmp_path):
    script = f"mkfifo {tmp_path}/go; {{ read line < {tmp_path}/go; echo ready; exec sleep 1000; }} & exit 0"
    stream = create(script, tty="none")
    stream.wait_exit().result()
    waiter = stream.wait_for("ready")

    (tmp_path / "go").write_text("\n")

    assert waiter.result()[0] == "ready"
    assert stream.state == "exited"


def test_a_session_that_is_stopped_ends_its_waits(create):
    stream = create("echo ready; exec sleep 1000")
    stream.wait_for("ready").result()
    waiter = stream.wait_for("never")

    stream.stop().result()

    with pytest.raises(SessionEnded, match="ended by INT"):
        waiter.result()


def test_a_pattern_that_is_too_slow_is_told(create):
    stream = create(f"echo {'a' * 60}b")

    with pytest.raises(PatternTooSlow):
        stream.wait_for(r"(a|a|b?)+(a|aa)+\1$|^((a+)+)+$(?=x)", timeout=60).result()


# -- what is refused at the call


def test_a_pattern_that_does_not_compile_is_refused_at_the_call(create):
    with pytest.raises(PatternError, match="regular expression"):
        create("true").wait_for("port (")


@pytest.mark.parametrize(
    "wrong",
    [
        {"pattern": 5},
        {"pattern": []},
        {"pattern": "x", "channel": "stdin"},
        {"pattern": "x", "settle": 0.01},
        {"pattern": "x", "timeout": -1},
        {"pattern": "x", "timeout": float("nan")},
        {"pattern": "x", "start": "later"},
        {"pattern": "x", "fail": [None]},
    ],
)
def test_what_makes_no_sense_is_refused_at_the_call(create, wrong):
    with pytest.raises(InvalidRequest):
        create("true").wait_for(**wrong)


def test_a_stream_that_is_not_there_is_told_with_what_looks_like_it(create):
    create("true", name="server")

    with pytest.raises(SessionNotFound, match="did you mean server"):
        wait_for("x", "sever")


def test_a_wait_without_a_stream_is_on_the_latest(create):
    create("echo older")
    newer = create("echo newer")

    assert wait_for(r"\w+").result().stream is newer
    assert wait_for(r"\w+", newer, start="begin").result()[0] == "newer"


async def test_a_blocking_wait_is_refused_where_streams_are_served(terminal):
    stream = await terminal.create(command="echo hello")

    async def on_the_io_thread() -> None:
        stream.wait_for("hello").result()

    with pytest.raises(RuntimeError, match="use `await`"):
        await Pending(on_the_io_thread(), "it")


# -- ways to wait


async def test_a_wait_may_be_a_task_one_of_several_or_limited(terminal):
    stream = await terminal.create(command=f"echo one; {GO}; echo two; echo three; {GO}", tty="none")
    task = asyncio.create_task(stream.wait_for("two"))
    gathered = asyncio.gather(stream.wait_for("one"), stream.wait_for("three"))
    await stream.send_input("\n")

    assert (await task)[0] == "two"
    assert [match[0] for match in await gathered] == ["one", "three"]
    assert (await asyncio.wait_for(stream.wait_for("two", start="begin"), 30))[0] == "two"
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(stream.wait_for("never"), 0.05)
    assert stream.state == "running"


def test_a_script_may_wait(state_dir):
    done = subprocess.run(
        [
            sys.executable,
            "-W",
            "error",
            "-c",
            """
import asyncio
from cmdop_jupyter import AsyncCMDOPClient, wait_for
async def main():
    async with AsyncCMDOPClient.local() as client:
        await client.terminal.create(command="echo port 8080; exec sleep 1000", name="api")
        match = await wait_for(r"port (\\d+)", "api", timeout=60)
        print(match[1])
        await match.stream.stop()
asyncio.run(main())
""",
        ],
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert (done.stdout, done.stderr, done.returncode) == ("8080\n", "", 0)


async def test_wait_all_gives_the_match_of_every_stream(terminal):
    streams = [await terminal.create(command=f"echo ready {number}") for number in range(5)]

    matches = await wait_all(r"ready (\d)", streams, timeout=60)

    assert [match[1] for match in matches] == list("01234")
    assert [match.stream for match in matches] == streams


async def test_wait_all_may_be_done_with_the_first(terminal):
    quiet = await terminal.create(command="exec sleep 1000")
    failed = await terminal.create(command="exit 3")
    ready = await terminal.create(command="echo ready; exec sleep 1000")

    (match,) = await wait_all("ready", [quiet, failed, ready], any=True)

    assert match.stream is ready


async def test_wait_all_fails_with_the_first_that_fails(terminal):
    quiet = await terminal.create(command="exec sleep 1000")
    failed = await terminal.create(command="exit 3", name="failed")

    with pytest.raises(SessionEnded, match="failed ended"):
        await wait_all("ready", [quiet, failed])
    with pytest.raises(SessionEnded, match="failed ended"):
        await wait_all("ready", [failed], any=True)
    with pytest.raises(InvalidRequest, match="no stream to wait for"):
        wait_all("ready", [])


# -- live and from history

PIECES = (b"port 80", b"80\n", b"ready\n", b"\xc3", b"\xa9\n", b"\r", b"a prompt> ", b"\x1b[31mERROR\x1b[0m\n")
WRITER = """
import os, sys, time
child = os.fork()
for channel, text, pause in {late!r} if child == 0 else {plan!r}:
    time.sleep(pause)
    os.write(channel, text)
os._exit({code})
"""


@pytest.mark.parametrize("seed", range(5))
async def test_live_and_from_history_a_wait_gives_one_answer(terminal, seed):
    chance = random.Random(seed)
    plan, late = [
        [
            (chance.choice((1, 1, 2)), chance.choice(PIECES), chance.choice((0, 0, 0.01, 0.06, 0.15)))
            for _ in range(count)
        ]
        for count in (6, 8)
    ]
    script = WRITER.format(plan=plan, late=late, code=seed % 2)
    stream = await terminal.create(command=script, shell=sys.executable, tty="none")
    asked = [
        {"pattern": r"port (\d+)"},
        {"pattern": [r"é", r"\$ $", "> $"], "settle": 0.1},
        {"pattern": "never", "fail": "ERROR"},
        {"pattern": rb"\x1b\[31m(\w+)", "channel": "stderr"},
        {"pattern": "never"},
    ]

    live = await asyncio.gather(*(answer(stream, **one) for one in asked))
    async for _ in stream.chunks():
        pass
    history = await asyncio.gather(*(answer(stream, **one) for one in asked))

    assert live == history


async def answer(stream: Stream, **asked: object) -> object:
    """What a wait gives, in a form that can be compared."""
    try:
        return fields(await stream.wait_for(start="begin", timeout=60, **asked))
    except FailPatternSeen as failed:
        return fields(failed.match)
    except SessionEnded as ended:
        return ended.how


def test_a_pause_inside_a_line_gives_one_answer(create):
    stream = create("printf 'port 80'; sleep 0.4; echo 80")
    live = [stream.wait_for(r"port (\d+)", start="begin", settle=settle) for settle in (0.25, 5)]
    found = [wait.result() for wait in live]
    stream.wait_exit().result()

    history = [stream.wait_for(r"port (\d+)", start="begin", settle=settle).result() for settle in (0.25, 5)]

    assert [match[1] for match in found] == ["80", "8080"]
    assert list(map(fields, found)) == list(map(fields, history))
