"""When a session asks, and what answers by itself: real programs on real terminals."""

from __future__ import annotations

import asyncio
import json
import logging
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from live import Create, creating, creating_at, until
from reach import own_places
from sshd import Sshd, login_user, make_key, sudo_rule

from cmdop_jupyter.agent.log import Chunk
from cmdop_jupyter.errors import InvalidRequest, PatternError, PromptCameBack
from cmdop_jupyter.machines.base import InputWait
from cmdop_jupyter.machines.presets import Place
from cmdop_jupyter.machines.stdio import StdioMachine
from cmdop_jupyter.prompts import Prompt, Unfinished, prompt_of, unfinished
from cmdop_jupyter.stream import Stream

PYTHON = f"exec {shlex.quote(sys.executable)} -I -c "
SECRET = "tro0ub4dor-7f2c9"
TICKS = "import select\nwhile True:\n    select.select([0], [], [], 0.5)\n    print('tick.', end='', flush=True)"


@pytest.fixture
def create(state_dir) -> Iterator[Create]:
    with creating() as create:
        yield create


class Asked:
    """The prompts of a stream, as a handler gets them."""

    def __init__(self, stream: Stream) -> None:
        self._queue: asyncio.Queue[Prompt] = asyncio.Queue()
        stream.on_prompt(self._queue.put)

    async def next(self) -> Prompt:
        return await self._queue.get()

    def empty(self) -> bool:
        return self._queue.empty()


def log_of(stream: Stream) -> bytes:
    return stream.read()


def files_in(folder: Path) -> list[str]:
    return [path.read_bytes().decode("latin-1") for path in folder.rglob("*") if path.is_file()]


# -- the newest line, without I/O


def chunk(offset: int, data: bytes, channel: str = "stdout", ms: int = 0) -> Chunk:
    return Chunk(offset, channel, 0, ms, data)


def test_a_line_without_an_end_is_unfinished():
    assert unfinished([chunk(0, b"hello\nname: ")]) == Unfinished("name: ", 12, edited=False)


@pytest.mark.parametrize("data", [b"", b"name:\n", b"name:\r\n", b"one\n\x1b[0m", b"one\n  "])
def test_a_line_that_has_ended_or_is_blank_is_none(data):
    assert unfinished([chunk(0, data)]) is None


def test_a_line_is_put_together_of_all_its_chunks_and_is_shown_without_its_colours():
    chunks = [chunk(0, b"\x1b[1mna"), chunk(6, b"me\x1b[0m: ")]

    assert unfinished(chunks) == Unfinished("name: ", 14, edited=False)


def test_of_two_channels_the_one_that_spoke_last_counts():
    chunks = [chunk(0, b"name: ", "stderr"), chunk(6, b"bob\r\n", "tty", ms=900)]

    assert unfinished(chunks) is None


def test_what_was_read_at_the_same_moment_may_have_been_written_before():
    chunks = [chunk(0, b"word: ", "tty", ms=10), chunk(6, b"connecting\n", "stdout", ms=11)]

    assert unfinished(chunks) == Unfinished("word: ", 6, edited=False)


def test_what_was_answered_is_no_part_of_the_next_question_on_its_line():
    chunks = [chunk(0, b"sure? really? ")]

    assert unfinished(chunks, since=6) == Unfinished("really? ", 14, edited=False)
    assert unfinished(chunks, since=14) is None


@pytest.mark.parametrize("data", [b"\x1b[?1049h\x1b[2Jfile\nname: ", b"~\r\n\x1b[1;1Hname: ", b"\x1b[Hname: "])
def test_what_a_full_screen_program_draws_is_no_line(data):
    assert unfinished([chunk(0, data)]) is None


def test_after_a_full_screen_program_lines_count_again():
    assert unfinished([chunk(0, b"\x1b[?1049h~\x1b[?1049l\r\n$ ")]) is not None


# -- what is a prompt, without I/O


@pytest.mark.parametrize(
    ("text", "reading", "asks"),
    [
        ("anything", "read", True),
        ("anything", "poll", False),
        ("anything", "hidden", False),
        ("anything?", "", False),
        ("name: ", "poll", True),
        ("Continue? [Y/n] ", "poll", True),
        ("$ ", "poll", True),
        ("name:", "hidden", True),
        ("45%", "hidden", False),
        ("[####", "poll", False),
    ],
)
def test_who_is_sure_to_read_asks_who_may_read_asks_where_the_line_does(text, reading, asks):
    wait = InputWait(reading, echo=True, canonical=True, signals=True, end=5)

    assert (prompt_of(Unfinished(text, 5, edited=False), wait) is not None) is asks


@pytest.mark.parametrize(
    ("text", "echo", "canonical", "signals", "edited", "secret", "enter"),
    [
        ("n: ", True, True, True, False, False, b"\n"),
        ("n: ", False, True, True, False, True, b"\n"),
        ("n: ", False, False, True, False, False, b"\r"),
        ("n: ", False, False, False, False, True, b"\r"),
        ("$ ", False, False, False, True, False, b"\r"),
        ("Password: ", False, False, True, True, True, b"\r"),
    ],
)
def test_what_is_typed_is_secret_where_the_terminal_does_not_echo_and_no_line_editor_does(
    text, echo, canonical, signals, edited, secret, enter
):
    prompt = prompt_of(Unfinished(text, 5, edited=edited), InputWait("read", echo, canonical, signals, 5))

    assert prompt == Prompt(text, secret, 5, enter)


# -- on_prompt


@pytest.mark.parametrize(
    ("script", "text", "secret"),
    [
        ("read -p 'name: ' x", "name: ", False),
        ("read -s -p 'word: ' x", "word: ", True),
        (f"{PYTHON}'input(\"how many \")'", "how many ", False),
        (f"{PYTHON}'import getpass; getpass.getpass()'", "Password: ", True),
        ("printf 'go on? '; sleep 0.6; read x", "go on? ", False),
    ],
)
@pytest.mark.parametrize("tty", ["split", "full"])
async def test_a_program_that_asks_is_told_of_with_its_question(create, script, text, secret, tty):
    asked = Asked(await asyncio.to_thread(create, script, tty=tty))

    prompt = await asked.next()

    assert (prompt.text, prompt.secret, prompt.offset) == (text, secret, len(text))


async def test_a_line_editor_asks_and_shows_what_is_typed_itself(create):
    script = f"{PYTHON}'import readline; print(input(\"name? \"))'"
    stream = await asyncio.to_thread(create, script, tty="full", env={"TERM": "xterm-256color"})

    prompt = await Asked(stream).next()

    assert (prompt.text, prompt.secret, prompt.enter) == ("name? ", False, b"\r")


@pytest.mark.parametrize(
    "script",
    [
        "printf working...; sleep 1000",
        "printf 'working: '; while :; do :; done",
        PYTHON + shlex.quote(TICKS),
        "cat",
        "echo name:; cat",
        "cat <(printf 'name: '; sleep 1000)",
    ],
    ids=["sleeps", "computes", "polls and prints", "says nothing", "ended line", "reads a pipe"],
)
async def test_a_program_that_does_not_ask_is_left_alone(create, script):
    stream = await asyncio.to_thread(create, script)
    asked = Asked(stream)
    other = await asyncio.to_thread(create, "sleep 1.5; read -p 'name: ' x")

    await Asked(other).next()  # which had the time it takes

    assert asked.empty()


async def test_vim_does_not_ask(create, tmp_path):
    assert shutil.which("vim")
    stream = await asyncio.to_thread(create, f"exec vim -u NONE {tmp_path}/file:", tty="full")
    asked = Asked(stream)
    other = await asyncio.to_thread(create, "sleep 1.5; read -p 'name: ' x")

    await Asked(other).next()

    assert asked.empty()
    assert b"\x1b[" in log_of(stream)


async def test_a_prompt_is_told_of_once_and_the_next_one_too(create):
    stream = await asyncio.to_thread(create, "read -p 'one: ' x; read -p 'two: ' y; echo $x-$y")
    asked = Asked(stream)

    first = await asked.next()
    await stream.send_input("1\n")
    second = await asked.next()
    await stream.send_input("2\n")
    await stream

    assert (first.text, second.text) == ("one: ", "two: ")
    assert asked.empty()


async def test_who_reads_a_pipe_never_asks(create):
    stream = await asyncio.to_thread(create, "printf 'name: '; read x", tty="none")

    await stream.on_prompt(lambda prompt: pytest.fail("it cannot ask"))


# -- answers


async def test_an_answer_is_typed_once_with_enter(create, monkeypatch):
    monkeypatch.setenv("MY_NAME", "ada lovelace")
    stream = await asyncio.to_thread(create, "read -p 'name: ' x; echo got $x; read -t 1 -p 'more: ' y; echo [$y]")
    stream.answer("name:", env="MY_NAME")

    await stream

    assert [line.text for line in stream.lines() if line.channel == "stdout"] == ["got ada lovelace", "[]"]


@pytest.mark.parametrize("how", ["read -s -p 'word: ' x", "getpass"])
async def test_a_secret_that_answers_is_kept_nowhere(create, monkeypatch, caplog, capfd, state_dir, how):
    monkeypatch.setenv("MY_WORD", SECRET)
    caplog.set_level(logging.DEBUG)
    check = (
        f"import getpass, sys; sys.exit(getpass.getpass('word: ') != bytes.fromhex('{SECRET.encode().hex()}').decode())"
    )
    script = PYTHON + shlex.quote(check) if how == "getpass" else f"{how}; [ ${{#x}} = {len(SECRET)} ]"
    stream = await asyncio.to_thread(create, script)
    answering = stream.answer("(?i)word", env="MY_WORD")
    kept = [repr(answering), repr(stream), repr(stream._answers), repr(vars(stream._answers[0]))]

    exit = await stream

    assert exit.ok
    kept += [caplog.text, *capfd.readouterr(), repr(stream.status), json.dumps(repr(stream.facts))]
    kept += files_in(state_dir)
    assert not any(SECRET in one for one in kept)


async def test_several_answers_each_take_their_prompt(create, monkeypatch):
    monkeypatch.setenv("WORD", "sesame")
    stream = await asyncio.to_thread(create, "read -p 'name: ' x; read -s -p 'word: ' y; echo $x $y")
    stream.answer("word", env="WORD")
    stream.answer("name", value="ali")

    await stream

    assert stream.tail(1)[0].text == "ali sesame"


async def test_a_prompt_on_the_same_line_as_an_answered_one_is_its_own(create):
    stream = await asyncio.to_thread(create, "read -p 'sure? ' x; read -p 'really? ' y; echo $x$y")
    stream.answer("^sure", value="1")
    stream.answer("^really", value="2")

    await stream

    assert stream.tail(1)[0].text.endswith("12")


async def test_a_program_that_shows_what_was_typed_does_not_ask_again(create):
    script = f"""{PYTHON}'
import sys, tty
tty.setcbreak(0)
print("word: ", end="", flush=True)
key = " "
while key != chr(10):
    key = sys.stdin.read(1).replace(chr(13), chr(10))
    print(key.strip(chr(10)), end="", flush=True)
print("\\ngot", sys.stdin.read(1))'"""
    stream = await asyncio.to_thread(create, script, tty="full")
    stream.answer("word", value="my word")
    asked = Asked(stream)
    while (await asked.next()).text != "word: my word":
        pass

    await stream.send_input("!")
    await stream

    assert stream.tail(1)[0].text == "got !"


async def test_a_prompt_that_comes_back_is_answered_three_times_and_then_left_to_the_user(create):
    stream = await asyncio.to_thread(create, "while read -s -p 'word: ' x; do echo wrong $x; done; echo gave up")
    told: asyncio.Queue[BaseException] = asyncio.Queue()
    stream.on_error(told.put)
    stream.answer("word", value="no")

    error = await told.get()

    assert isinstance(error, PromptCameBack)
    assert str(error) == "'word:' was answered 3 times and asks again; it is left to you (send_input)"
    assert stream.text().count("wrong no") == 3
    await stream.send_eof()
    await until(lambda: "gave up" in stream.text(), lambda: asyncio.sleep(0))


async def test_two_who_answer_the_same_prompt_type_once(create):
    stream = await asyncio.to_thread(create, "read -p 'name: ' x; read -t 1 -p 'more: ' y; echo $x[$y]")
    stream.answer("name", value="ada")
    stream.answer("name", value="ada")

    await stream

    assert stream.tail(1)[0].text.endswith("ada[]")


async def test_a_variable_that_is_not_there_is_refused_at_once_by_name(create, monkeypatch):
    monkeypatch.delenv("NO_SUCH", raising=False)
    stream = await asyncio.to_thread(create, "sleep 1000")

    with pytest.raises(InvalidRequest, match="no environment variable NO_SUCH"):
        stream.answer("x", env="NO_SUCH")


async def test_what_makes_no_sense_as_an_answer_is_refused_at_once(create, monkeypatch):
    monkeypatch.setenv("LINES_OF", "a\nb")
    stream = await asyncio.to_thread(create, "sleep 1000")

    with pytest.raises(InvalidRequest, match="LINES_OF has a line end"):
        stream.answer("x", env="LINES_OF")
    with pytest.raises(PatternError):
        stream.answer("(", value="x")
    with pytest.raises(InvalidRequest, match="one of the two"):
        stream.answer("x")
    with pytest.raises(InvalidRequest, match="must be one for str"):
        stream.answer(b"x", value="x")


# -- over a link, and of other users


@pytest.fixture
def far(tmp_path) -> Iterator[Create]:
    place = Place("far", "link", (*own_places(tmp_path), "sh", "-c"))
    with creating_at(StdioMachine(place)) as create:
        yield create


async def test_over_a_link_it_is_the_same(far):
    stream = await asyncio.to_thread(far, "read -s -p 'word: ' x; echo ${#x}")

    prompt = await Asked(stream).next()
    stream.answer("word", value="12345")
    await stream

    assert (prompt.text, prompt.secret) == ("word: ", True)
    assert stream.tail(1)[0].text == "word: 5" or stream.tail(1)[0].text == "5"


async def test_sudo_asks_for_a_password_and_is_answered(create):
    """As a user whose sudo asks: what sudo sleeps in cannot be seen, its terminal can."""
    with login_user() as user, sudo_rule(user, "root"):
        user.set_password("sesame open")
        script = f"exec setpriv --reuid={user.name} --regid={user.name} --init-groups sudo -k id -un"
        stream = await asyncio.to_thread(create, script)

        prompt = await Asked(stream).next()
        stream.answer("password for", value="sesame open")
        exit = await stream

        assert prompt.secret
        assert prompt.text.startswith("[sudo] password for")
        assert exit.ok, stream.text()
        assert "sesame" not in stream.text()


async def test_ssh_asks_about_a_host_key_and_for_a_passphrase(create, tmp_path):
    with Sshd() as sshd:
        key = make_key(tmp_path / "key", passphrase="open it")
        sshd.authorize(key)
        config = sshd.ssh_config(IdentityFile=key, UserKnownHostsFile=tmp_path / "known", StrictHostKeyChecking="ask")
        stream = await asyncio.to_thread(create, f"SSH_AUTH_SOCK= ssh -F {config} box echo there")
        asked = Asked(stream)

        first = await asked.next()
        stream.answer("continue connecting", value="yes")
        second = await asked.next()
        stream.answer("passphrase for key", value="open it")
        exit = await stream

        assert ("fingerprint" in first.text, first.secret) == (True, False)
        assert second.secret
        assert exit.ok, stream.text()
        assert "open it" not in stream.text()
