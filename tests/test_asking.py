"""Questions of real ssh and sudo, and what becomes of the answers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from sshd import Sshd, User, fingerprint, login_user, make_key, sudo_rule

from cmdop_jupyter.agent.environment import ASK_SOCKET, ASK_TOKEN, ASKING
from cmdop_jupyter.errors import StoreRefused
from cmdop_jupyter.machines import asking as module
from cmdop_jupyter.machines.asking import (
    Asker,
    Asking,
    Dial,
    Question,
    how_to_force,
    read_version,
)

PASSWORD = "Gänse füttern 7%"
PACKAGE = Path(__file__).parents[1] / "cmdop_jupyter"


@pytest.fixture(scope="module")
def server() -> Iterator[Sshd]:
    with Sshd(PasswordAuthentication="yes") as server:
        yield server


@pytest.fixture(scope="module")
def user() -> Iterator[User]:
    with login_user("dash") as user:
        user.set_password(PASSWORD)
        yield user


@pytest.fixture
def made() -> Iterator[Callable[[Asker | None], Asking]]:
    """Makes an Asking, and closes it after the test."""
    all_made: list[Asking] = []

    def make(ask: Asker | None) -> Asking:
        all_made.append(Asking(ask))
        return all_made[-1]

    yield make
    for one in all_made:
        one.close()


class Person:
    """Answers from a list, in order, and remembers what was asked."""

    def __init__(self, *answers: str | None) -> None:
        self.answers, self.questions = list(answers), []

    async def __call__(self, question: Question) -> str | None:
        self.questions.append(question)
        return self.answers.pop(0)

    @property
    def kinds(self) -> list[str]:
        return [question.kind for question in self.questions]


class Slow(Person):
    """Answers when it is told to."""

    def __init__(self, *answers: str | None) -> None:
        super().__init__(*answers)
        self.asked: asyncio.Queue[Question] = asyncio.Queue()
        self.may_answer = asyncio.Semaphore(0)
        self.cancelled = asyncio.Event()

    async def __call__(self, question: Question) -> str | None:
        self.asked.put_nowait(question)
        try:
            await self.may_answer.acquire()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return await super().__call__(question)


async def run(dial: Dial, *words: object, env: Mapping[str, str] | None = None) -> tuple[int, str, str]:
    """Run a command as a dial's: in a session of its own, without a terminal. Gives its exit, stdout and stderr."""
    process = await start(dial, *words, env=env)
    said, errors = await process.communicate()
    assert process.returncode is not None
    return process.returncode, said.decode(), errors.decode()


async def start(dial: Dial, *words: object, env: Mapping[str, str] | None = None) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *map(str, words),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
        env={**os.environ, **dial.environment, **(env or {})},
    )


def passwords_only(server: Sshd, user: User, **options: object) -> Path:
    return server.ssh_config(user=user.name, PreferredAuthentications="password", IdentityFile=None, **options)


async def test_a_password_reaches_ssh(server, user, made):
    person = Person(PASSWORD)
    async with made(person).dial("web1") as dial:
        code, said, errors = await run(dial, "ssh", "-F", passwords_only(server, user), "box", "echo in")

    assert (code, said) == (0, "in\n"), errors
    assert person.questions == [Question("web1", f"web1: {user.name}@127.0.0.1's password:", True, "password")]
    assert dial.refused is None
    assert not dial.hopeless.is_set()


async def test_a_wrong_password_is_asked_for_again_and_the_question_says_so(server, user, made):
    person = Person("wrong", PASSWORD)
    async with made(person).dial("web1") as dial:
        code, _, errors = await run(dial, "ssh", "-F", passwords_only(server, user), "box", "true")

    assert code == 0, errors
    assert [question.text.endswith("(the last answer was not accepted)") for question in person.questions] == [
        False,
        True,
    ]


async def test_the_passphrase_of_a_key_reaches_ssh(server, made):
    key = make_key(server.folder / "locked", passphrase="open sesame")
    server.authorize(key)
    person = Person("open sesame")
    async with made(person).dial("web1") as dial:
        code, said, errors = await run(dial, "ssh", "-F", server.ssh_config(IdentityFile=key), "box", "echo in")

    assert (code, said) == (0, "in\n"), errors
    assert (person.kinds, person.questions[0].secret) == (["passphrase"], True)
    assert str(key) in person.questions[0].text


async def test_keyboard_interactive_questions_reach_ssh(user, made):
    person = Person(PASSWORD)
    with Sshd(UsePAM="yes", KbdInteractiveAuthentication="yes") as server:
        config = server.ssh_config(user=user.name, PreferredAuthentications="keyboard-interactive")
        async with made(person).dial("web1") as dial:
            code, said, errors = await run(dial, "ssh", "-F", config, "box", "echo in")

    assert (code, said) == (0, "in\n"), errors + server.log
    assert person.kinds == ["password"]


@pytest.mark.parametrize("answer", ["yes", "fingerprint"])
async def test_an_unknown_host_key_is_asked_about_and_kept_when_accepted(server, made, tmp_path, answer):
    known, shown = tmp_path / "known_hosts", fingerprint(server.host_key.with_name("host_key.pub"))
    person = Person(shown if answer == "fingerprint" else answer)
    async with made(person).dial("web1") as dial:
        config = server.ssh_config(UserKnownHostsFile=known)
        code, said, errors = await run(dial, "ssh", "-F", config, "box", "echo in")

    assert (code, said) == (0, "in\n"), errors
    assert (person.kinds, person.questions[0].secret) == (["host key"], False)
    assert shown in person.questions[0].text
    assert server.host_key.with_name("host_key.pub").read_text().split()[1] in known.read_text()


@pytest.mark.parametrize("answer", ["no", None])
async def test_an_unknown_host_key_that_is_not_accepted_ends_the_dial(server, made, tmp_path, answer):
    known = tmp_path / "known_hosts"
    async with made(Person(answer)).dial("web1") as dial:
        config = server.ssh_config(UserKnownHostsFile=known)
        code, _, errors = await run(dial, "ssh", "-F", config, "box", "echo in")

    assert (code, known.exists()) == (255, False)
    assert "Host key verification failed" in errors
    assert dial.hopeless.is_set() == (answer is None)


async def test_a_wrong_word_about_a_host_key_is_asked_about_again(server, made, tmp_path):
    person = Person("perhaps", "no")
    async with made(person).dial("web1") as dial:
        await run(dial, "ssh", "-F", server.ssh_config(UserKnownHostsFile=tmp_path / "known"), "box", "true")

    assert person.kinds == ["host key", "host key"]


async def test_with_nobody_there_it_is_refused_at_once(server, user, made):
    async with made(None).dial("web1") as dial:
        process = await start(dial, "ssh", "-F", passwords_only(server, user), "box", "true")
        await dial.hopeless.wait()
        process.terminate()
        await process.communicate()

    assert dial.refused == Question("web1", f"web1: {user.name}@127.0.0.1's password:", True, "password", headless=True)


async def test_with_nobody_there_ssh_goes_on_to_a_key_without_a_passphrase(server, made):
    locked = make_key(server.folder / "locked-first", passphrase="x")
    server.authorize(locked)
    async with made(None).dial("web1") as dial:
        config = server.ssh_config(IdentityFile=[locked, server.identity])
        code, said, errors = await run(dial, "ssh", "-F", config, "box", "echo in")

    assert (code, said) == (0, "in\n"), errors
    assert dial.refused is not None
    assert dial.refused.kind == "passphrase"
    assert not dial.hopeless.is_set()


async def test_who_said_no_is_not_asked_again_in_that_dial(server, user, made):
    person = Person(None)
    async with made(person).dial("web1") as dial:
        code, _, _ = await run(dial, "ssh", "-F", passwords_only(server, user), "box", "true")

    assert (code, len(person.questions)) == (255, 1)
    assert dial.hopeless.is_set()
    assert dial.refused == person.questions[0]


async def test_two_dials_that_ask_at_once_come_one_after_the_other(server, user, made):
    person = Slow(PASSWORD, PASSWORD)
    asking, config = made(person), passwords_only(server, user)
    async with asking.dial("web1") as first, asking.dial("web2") as second:
        ends = [asyncio.create_task(run(dial, "ssh", "-F", config, "box", "true")) for dial in (first, second)]
        asked = await person.asked.get()
        while not (first.open and second.open):
            await asyncio.wait(ends, timeout=0.01)
        assert person.asked.empty()
        person.may_answer.release()
        then = await person.asked.get()
        assert len(person.questions) == 1
        person.may_answer.release()

        assert [code for code, _, _ in await asyncio.gather(*ends)] == [0, 0]
        assert {asked.machine, then.machine} == {"web1", "web2"}
        assert not first.open
        assert not second.open


async def test_a_question_goes_when_what_asked_is_gone(server, user, made):
    person = Slow()
    async with made(person).dial("web1") as dial:
        process = await start(dial, "ssh", "-F", passwords_only(server, user), "box", "true")
        await person.asked.get()
        assert dial.open
        os.killpg(process.pid, signal.SIGKILL)
        await process.communicate()

        await person.cancelled.wait()

    assert not dial.open
    assert dial.refused is None


async def test_a_question_goes_with_its_dial(server, user, made):
    person = Slow()
    async with made(person).dial("web1") as dial:
        process = await start(dial, "ssh", "-F", passwords_only(server, user), "box", "true")
        await person.asked.get()
        process.kill()

    assert person.cancelled.is_set()
    assert not dial.open
    await process.communicate()


async def test_a_callable_that_fails_is_told_of_and_the_dial_ends(server, user, made):
    async def fail(question: Question) -> str:
        raise LookupError("no front end")

    told: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, facts: told.append(facts))
    async with made(fail).dial("web1") as dial:
        code, _, _ = await run(dial, "ssh", "-F", passwords_only(server, user), "box", "true")

    assert code == 255
    assert [str(facts["exception"]) for facts in told] == ["no front end"]
    assert dial.hopeless.is_set()


async def ask_as(environment: Mapping[str, str], prompt: str = "Password:") -> tuple[int | None, str]:
    """Run the script as ssh does; give its exit and its answer."""
    script = environment["SSH_ASKPASS"]
    process = await asyncio.create_subprocess_exec(
        script, prompt, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, env=dict(environment)
    )
    said, _ = await process.communicate()
    return process.returncode, said.decode()


async def test_the_script_prints_the_answer(made):
    async with made(Person("a'b\"c $d \\e")).dial("web1") as dial:
        assert await ask_as(dial.environment) == (0, "a'b\"c $d \\e\n")


async def test_an_empty_answer_is_an_answer(made):
    async with made(Person("")).dial("web1") as dial:
        assert await ask_as(dial.environment) == (0, "\n")


@pytest.mark.parametrize("token", ["", "nonsense"])
async def test_a_wrong_token_is_asked_nothing(made, token):
    person = Person("secret")
    async with made(person).dial("web1") as dial:
        assert await ask_as({**dial.environment, ASK_TOKEN: token}) == (1, "")

    assert person.questions == []


async def test_a_token_dies_with_its_dial(made):
    person = Person("secret")
    asking = made(person)
    async with asking.dial("web1") as dial:
        environment = dial.environment
    async with asking.dial("web1") as next_dial:
        assert next_dial.environment[ASK_TOKEN] != environment[ASK_TOKEN]
        assert await ask_as(environment) == (1, "")

    assert person.questions == []
    assert dial.environment == {}


async def test_another_user_is_not_listened_to(made, monkeypatch):
    monkeypatch.setattr(module, "is_ours", lambda sock: False)
    person = Person("secret")
    async with made(person).dial("web1") as dial:
        assert await ask_as(dial.environment) == (1, "")

    assert person.questions == []


def test_the_peer_is_known_by_its_user():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert module.is_ours(ours)


@pytest.mark.parametrize(
    "said", [b"", b"\n", b"[]\n", b'{"token": 1}\n', b"GET / HTTP/1.1\r\n\r\n", b"x" * 70_000 + b"\n"]
)
async def test_what_makes_no_sense_gets_no_answer(made, said):
    async with made(Person("secret")).dial("web1") as dial:
        reader, writer = await asyncio.open_unix_connection(dial.environment[ASK_SOCKET])
        writer.write(said)
        writer.write_eof()
        with contextlib.suppress(ConnectionResetError):  # where not all of it was read
            assert await reader.read() == b""
        writer.close()
        assert await ask_as(dial.environment) == (0, "secret\n")


async def test_script_and_socket_are_private_and_in_the_state_directory(made, state_dir):
    asking = made(None)
    async with asking.dial("web1") as dial:
        script, place = Path(dial.environment["SSH_ASKPASS"]), Path(dial.environment[ASK_SOCKET])
        modes = [stat.S_IMODE(path.stat().st_mode) for path in (script.parent.parent, script.parent, script)]
        assert state_dir in script.parents
        assert script.parent == place.parent
        assert modes == [0o700, 0o700, 0o700]
    asking.close()

    assert not script.parent.exists()


async def test_a_state_directory_with_a_long_path_will_do(made, monkeypatch, tmp_path):
    monkeypatch.setenv("CMDOP_STATE_DIR", str(tmp_path / ("long" * 40) / "state"))
    async with made(Person("yes")).dial("web1") as dial:
        assert len(dial.environment[ASK_SOCKET]) > 150
        assert await ask_as(dial.environment) == (0, "yes\n")


async def test_a_state_directory_that_others_may_write_to_is_refused(made, state_dir):
    state_dir.mkdir(mode=0o777, parents=True)
    state_dir.chmod(0o777)
    with pytest.raises(StoreRefused):
        async with made(None).dial("web1"):
            pass


async def test_after_closing_the_next_dial_makes_everything_anew(made):
    asking = made(Person("one"))
    async with asking.dial("web1"):
        pass
    asking.close()

    async with asking.dial("web1") as dial:
        assert await ask_as(dial.environment) == (0, "one\n")


FORKED = """
import asyncio, os, subprocess, sys
from cmdop_jupyter.machines.asking import Asking
from cmdop_jupyter.runtime import runtime

async def answer(question):
    return f"{question.machine} of {'parent' if os.getpid() == parent else 'child'}"

async def ask(name):
    async with asking.dial(name) as dial:
        script = dial.environment["SSH_ASKPASS"]
        done = await asyncio.to_thread(subprocess.run, [script, "?"], env=dial.environment, stdout=-1, text=True)
        return script, done.stdout

parent, asking = os.getpid(), Asking(answer)
mine, said = runtime().wait(ask("one"))
assert said == "one of parent\\n", said
child = os.fork()
if child == 0:
    theirs, said = runtime().wait(ask("two"))
    assert said == "two of child\\n", said
    asking.close()
    assert theirs != mine and os.path.exists(mine) and not os.path.exists(theirs)
    os._exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
assert runtime().wait(ask("three")) == (mine, "three of parent\\n")
runtime().call_later(asking.close)
runtime().wait(asyncio.sleep(0))
assert not os.path.exists(mine)
"""


def test_a_forked_child_asks_for_itself_and_leaves_its_parents_alone():
    words = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKED]
    done = subprocess.run(words, cwd=PACKAGE.parent, capture_output=True, text=True, timeout=60)

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


async def test_what_a_killed_process_left_is_removed_and_what_others_use_is_kept(made, state_dir):
    used, dead = made(None), state_dir / "asking" / "1-dead"
    async with used.dial("web1") as dial:
        dead.mkdir(mode=0o700)
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(dead / "ctl"))
        kept = Path(dial.environment["SSH_ASKPASS"]).parent
        long_ago = time.time() - 2 * module.STALE_SECONDS
        os.utime(kept, (long_ago, long_ago))
        os.utime(dead, (long_ago, long_ago))

        async with made(None).dial("web2"):
            assert kept.exists()
            assert not dead.exists()


def all_argvs() -> Iterator[bytes]:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            yield path.read_bytes()


async def test_answers_and_tokens_are_in_no_repr_no_argv_and_no_file(server, user, made, state_dir):
    person = Slow(PASSWORD)
    asking = made(person)
    async with asking.dial("web1") as dial:
        config = passwords_only(server, user)
        process = await start(dial, "ssh", "-F", config, "box", "echo in; exec sleep 1000")
        await person.asked.get()
        token = dial.environment[ASK_TOKEN]
        person.may_answer.release()
        assert process.stdout is not None
        assert await process.stdout.readline() == b"in\n"
        argvs = list(all_argvs())
        files = [path.read_text() for path in state_dir.rglob("*") if path.is_file()]
        os.killpg(process.pid, signal.SIGKILL)
        await process.communicate()

    assert files
    texts = (*files, repr(dial), repr(asking), repr(person.questions))
    assert not [text for text in texts if token in text or PASSWORD in text]
    assert not [argv for argv in argvs if token.encode() in argv or PASSWORD.encode() in argv]


async def test_a_line_that_is_only_shown_refuses_nothing(made):
    async with made(None).dial("web1") as dial:
        shown = {**dial.environment, "SSH_ASKPASS_PROMPT": "none"}
        assert await ask_as(shown, "Confirm user presence for key ED25519-SK") == (1, "")

    assert dial.refused is None
    assert not dial.hopeless.is_set()


async def test_its_variables_are_those_that_sessions_must_not_have(made):
    async with made(None).dial("web1") as dial:
        assert set(dial.environment) == set(ASKING)


@pytest.mark.parametrize(
    ("version", "display", "variables"),
    [
        ((9, 2), None, {"SSH_ASKPASS_REQUIRE": "force"}),
        ((8, 4), ":0", {"SSH_ASKPASS_REQUIRE": "force"}),
        ((8, 3), None, {"DISPLAY": module.NO_DISPLAY}),
        ((7, 4), ":0", {}),
        (None, None, {"SSH_ASKPASS_REQUIRE": "force"}),
    ],
)
def test_how_an_ssh_is_made_to_ask_depends_on_its_version(version, display, variables):
    assert how_to_force(version, display) == variables


@pytest.mark.parametrize(
    ("said", "version"),
    [
        ("OpenSSH_9.2p1 Debian-2+deb12u10, OpenSSL 3.0.19 27 Jan 2026\n", (9, 2)),
        ("OpenSSH_7.4p1, OpenSSL 1.0.2k-fips  26 Jan 2017\n", (7, 4)),
        ("OpenSSH_10.0p2, LibreSSL 3.3.6\n", (10, 0)),
        ("Sun_SSH_1.1\n", None),
    ],
)
def test_what_ssh_says_of_its_version(said, version):
    assert read_version(said) == version


def test_the_ssh_here_has_a_version():
    assert (module.ssh_version() or (0, 0)) >= (7, 0)


ASK_SUDO = """
import asyncio, json, os, sys
sys.path.insert(0, sys.argv[1])
from cmdop_jupyter.machines.asking import Asking
from cmdop_jupyter.machines.ssh_words import explain
answers, command = json.loads(sys.stdin.read())
questions = []

async def ask(question):
    questions.append([question.kind, question.secret, question.text])
    return answers.pop(0)

async def main():
    asking = Asking(ask if answers else None)
    async with asking.dial("box") as dial:
        process = await asyncio.create_subprocess_exec(*command, stdin=-3, stdout=-1, stderr=-1, start_new_session=True,
                                                       env={**os.environ, **dial.environment})
        said, errors = await process.communicate()
    asking.close()
    why = explain("box", "sudo", errors.decode(), process.returncode, dial.refused)
    print(json.dumps([process.returncode, said.decode(), questions, str(why)]))

asyncio.run(main())
"""


def python_for(user: User) -> str:
    """A Python that this package runs by and that the user may run."""
    for python in (sys.executable, shutil.which("python3", path="/usr/bin:/usr/local/bin")):
        test = [python, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"]
        try:
            if python and subprocess.run(test, user=user.uid, group=user.gid, extra_groups=[], cwd="/").returncode == 0:
                return python
        except OSError:
            continue
    raise FileNotFoundError(
        "no python3 of 3.11 or later that other users may run; install one: apt-get install python3"
    )


def sudo_as(user: User, other: User, *answers: str) -> tuple[int, str, list[list[object]], str]:
    """What comes of `sudo -u other id -un`, run by `user`, with these answers."""
    package = user.home / "package"
    if not package.exists():
        shutil.copytree(PACKAGE, package / "cmdop_jupyter", ignore=shutil.ignore_patterns("__pycache__"))
        user.owns(package)
    command = ["sudo", "-A", "-k", "-u", other.name, "--", "id", "-un"]
    done = subprocess.run(
        [python_for(user), "-I", "-c", ASK_SUDO, package],
        input=json.dumps([answers, command]),
        capture_output=True,
        text=True,
        user=user.uid,
        group=user.gid,
        extra_groups=[],
        cwd="/",
        env=user.variables,
    )
    assert done.returncode == 0, done.stderr
    code, said, questions, why = json.loads(done.stdout)
    return code, said, questions, why


@pytest.fixture(scope="module")
def other() -> Iterator[User]:
    with login_user("dash") as other:
        yield other


def test_a_password_reaches_sudo(user, other):
    with sudo_rule(user, other.name):
        code, said, questions, why = sudo_as(user, other, PASSWORD)

    assert (code, said) == (0, f"{other.name}\n"), why
    assert questions == [["password", True, f"box: [sudo] password for {user.name}:"]]


def test_with_nobody_there_sudo_fails_and_says_why(user, other):
    with sudo_rule(user, other.name):
        code, _, _, why = sudo_as(user, other)

    assert code == 1
    assert "asks for a password" in why
    assert "nobody is there" in why


def test_without_a_password_sudo_asks_nothing(user, other):
    with sudo_rule(user, other.name, password=False):
        assert sudo_as(user, other)[:3] == (0, f"{other.name}\n", [])


def test_a_user_who_may_not_use_sudo_is_told(user, other):
    code, _, _, why = sudo_as(user, other, PASSWORD)

    assert code == 1
    assert f"{user.name} may not use sudo here" in why
