"""From a far shell to a running agent: real shells over pipes, real cuts, and everything that can be in the way."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import json
import os
import pickle
import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmdop_jupyter.agent import loader
from cmdop_jupyter.errors import InvalidRequest
from cmdop_jupyter.machines.bootstrap import (
    MAX_NOISE,
    WORD,
    AgentDamaged,
    AgentFailed,
    Bootstrap,
    BootstrapError,
    CacheRefused,
    NoPython,
    NoShell,
    TooMuchNoise,
    looking_word,
    word_of,
)
from cmdop_jupyter.machines.parcel import Parcel, parcel_of

AGENT = Path(loader.__file__).parent
PYTHON = os.path.realpath(sys.executable)
SHELLS = ["bash", "dash", "fish", "tcsh", *(["zsh"] if shutil.which("zsh") else [])]
NOISE = b"Welcome! no news today\n"
NONCE = "6e6f6e6365"

# What runs the parcel of these tests: says hello as the agent does, then what its environment is, then all it hears.
ECHOES = """
from . import installed
import json, os, sys
installed.hold()
os.write(1, installed.hello(sys.argv[2]))
os.write(1, json.dumps(dict(os.environ)).encode() + b"\\n")
while True:
    data = os.read(0, 65536)
    if not data:
        break
    os.write(1, data)
"""


def echoing_parcel() -> Parcel:
    package, _, _ = (AGENT / "__main__.py").read_text().partition("\ndef main")
    sources = {name: (AGENT / name).read_bytes() for name in ("__init__.py", "installed.py", "light.py", "loader.py")}
    return parcel_of({**sources, "__main__.py": (package + ECHOES).encode()}, "0")


PARCEL = echoing_parcel()


@dataclass
class Link:
    """A far side that was reached."""

    bootstrap: Bootstrap
    process: subprocess.Popen[bytes]
    _rest: bytes = b""

    def __post_init__(self) -> None:
        self._rest = self.bootstrap.rest

    def read(self, size: int) -> bytes:
        while len(self._rest) < size:
            data = os.read(self.process.stdout.fileno(), 65536)
            assert data, "the far side went away"
            self._rest += data
        data, self._rest = self._rest[:size], self._rest[size:]
        return data

    def environment(self) -> dict[str, str]:
        line = b""
        while not line.endswith(b"\n"):
            line += self.read(1)
        return json.loads(line)


@dataclass
class Box:
    """A far side on this machine: a home, a PATH with what is put there, and shells reached by their full paths."""

    home: Path
    bin: Path
    links: contextlib.ExitStack
    env: dict[str, str] = field(default_factory=dict)

    @property
    def cache(self) -> Path:
        return self.home / ".cache" / "cmdop"

    @property
    def agent(self) -> Path:
        return self.cache / f"agent-{PARCEL.digest}.pyz"

    def has(self, name: str, script: str = "") -> None:
        """Put a program on PATH: this Python, or a script for sh."""
        place = self.bin / name
        if script:
            place.write_text(f"#!/bin/sh\n{script}\n")
            place.chmod(0o755)
        else:
            place.symlink_to(PYTHON)

    def has_old_python(self, name: str) -> None:
        """A Python that takes itself for 3.6, wherever it is asked."""
        old = 'import sys; sys.version_info = (3, 6, 15, "final", 0); exec(sys.argv[-1])'
        self.has(name, f'[ "$1" = -V ] && echo Python 3.6.15 && exit\nexec {PYTHON} -I -c \'{old}\' "$@"')

    def dial(self, word: str = WORD, shell: str = "sh", **options: Any) -> Link:
        """Have a shell run the word, and talk to what it runs until the agent is there. Raises BootstrapError."""
        return self.dial_command([found(shell), "-c", word], **options)

    def dial_command(self, command: list[str], *, breaks: bool = False, **options: Any) -> Link:
        """As `dial`, by any command; `breaks` changes the last byte that is sent."""
        env = {"HOME": str(self.home), "PATH": str(self.bin), **self.env}
        bootstrap = Bootstrap(PARCEL, **options)
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=env, cwd=self.home)
        self.links.callback(hang_up, process)
        send(process, bootstrap.first)
        while not bootstrap.done:
            data = os.read(process.stdout.fileno(), 65536)
            if not data:
                raise bootstrap.end(process.wait(), process.stderr.read())
            answer = bootstrap.feed(data)
            send(process, answer[:-1] + b"?" if breaks and answer else answer)
        return Link(bootstrap, process)


def found(shell: str) -> str:
    path = shutil.which(shell)
    assert path, f"these tests need {shell}: install it"
    return path


def send(process: subprocess.Popen[bytes], data: bytes) -> None:
    with contextlib.suppress(BrokenPipeError):  # it ended; what it said tells why
        process.stdin.write(data)
        process.stdin.flush()


def hang_up(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(BrokenPipeError):
        process.stdin.close()
    process.stdout.close()
    process.stderr.close()
    process.wait()


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    """A far side with nothing on its PATH."""
    home, programs = tmp_path / "home", tmp_path / "bin"
    home.mkdir()
    programs.mkdir()
    with contextlib.ExitStack() as links:
        yield Box(home, programs, links)


@pytest.fixture
def ready(box: Box) -> Box:
    """A far side with a python3."""
    box.has("python3")
    return box


@pytest.fixture
def small_home(ready: Box) -> Iterator[Box]:
    """A far side whose home has 1 MB; needs root."""
    assert os.getuid() == 0, "mounting a small disk needs root: sudo make test"
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "tmpfs", str(ready.home)], check=True)
    yield ready
    subprocess.run(["umount", "--lazy", str(ready.home)], check=True)


# -- words


@pytest.mark.parametrize("word", [WORD, word_of("/opt/python-3.12/bin/python3.12")])
def test_the_word_has_nothing_that_a_shell_could_mind(word):
    assert not set(word) & set("\n$!\\`'")


def test_the_word_that_looks_further_is_one_quoted_text_for_every_shell():
    begin, quoted, end = looking_word().split("'")

    assert (begin, end) == ("sh -c ", "")
    assert not set(quoted) & set("\n!\\")


@pytest.mark.parametrize("python", ["python3.12", "/usr/bin/python3", "~/env/bin/python", "./a,b@c:d+e-f_g"])
def test_a_configured_python_is_used_as_it_is(python):
    assert word_of(python).split(" ", 1)[0] == python


@pytest.mark.parametrize(
    "python",
    ["", "/my env/python", "/a'b", "-python", "a=b/python", "/$HOME/python", "/p\n", "/é", "!p", "~bob/python"],
)
def test_a_configured_python_that_some_shell_would_change_is_refused(python):
    with pytest.raises(InvalidRequest, match="symbolic link"):
        word_of(python)


# -- the client's half


def lines_of(nonce: str = NONCE) -> dict[str, bytes]:
    return {
        "missing": loader.line(nonce, {"was": "missing", "cache": "/c"}),
        "here": loader.line(nonce, {"was": "here", "cache": "/c"}),
        "hello": loader.line(nonce, {"agent": PARCEL.digest, "python": "3.9.1"}),
        "other": loader.line(nonce, {"agent": "0" * 64}),
        "old": loader.line(nonce, {"error": "old", "python": "3.6.15"}),
    }


def heard(pieces: list[bytes]) -> tuple[object, ...]:
    """All that comes of some pieces: what was sent, and how it went."""
    bootstrap, sent = Bootstrap(PARCEL, nonce=NONCE), b""
    for at, piece in enumerate(pieces):
        try:
            sent += bootstrap.feed(piece)
        except BootstrapError as error:
            return type(error), str(error)
        if bootstrap.done:
            return sent, bootstrap.hello, bootstrap.was, bootstrap.rest + b"".join(pieces[at + 1 :]), bootstrap.noise
    return sent, str(bootstrap.end(1, b"words")), bootstrap.was


LINES = lines_of()
ATOMS = [
    *(line[:9] for line in LINES.values()),
    *(line[9:] for line in LINES.values()),
    *LINES.values(),
    b"",
    b"\n",
    NONCE.encode() + b" ",
    b"{}\n",
    b"\xff\x00rest",
    b"n" * (MAX_NOISE // 2),
    Bootstrap(PARCEL, nonce=NONCE).first[:200],
]
PIECES = st.lists(st.lists(st.sampled_from(ATOMS), max_size=4).map(b"".join), max_size=8)


@given(pieces=PIECES)
def test_what_is_understood_does_not_depend_on_how_the_bytes_were_cut(pieces):
    whole = heard([b"".join(pieces)])

    assert heard(pieces) == whole


@given(sizes=st.lists(st.integers(1, 40), min_size=1))
def test_an_agent_that_was_sent_is_there_however_the_bytes_were_cut(sizes):
    stream = b"hello\n" + LINES["missing"] + b"profile\n" + LINES["hello"] + b"\x00\x01frames"
    pieces = []
    while stream:
        size = sizes[len(pieces) % len(sizes)]
        pieces.append(stream[:size])
        stream = stream[size:]

    facts = {"agent": PARCEL.digest, "python": "3.9.1", "was": "missing"}
    assert heard(pieces) == (PARCEL.data, facts, "missing", b"\x00\x01frames", b"hello\nprofile\n")


def test_an_agent_that_is_there_is_not_sent():
    sent, _, was, *_ = heard([LINES["here"], LINES["hello"]])

    assert (sent, was) == (b"", "here")


def test_the_loader_is_one_line():
    first = Bootstrap(PARCEL).first

    assert first.endswith(b"\n")
    assert first.count(b"\n") == 1


def test_the_loader_does_not_contain_the_nonce():
    assert NONCE.encode() not in Bootstrap(PARCEL, nonce=NONCE).first


def test_what_looks_at_the_version_is_simple_python():
    outer = ast.parse(Bootstrap(PARCEL).first, feature_version=(3, 7)).body[0].value
    inner = ast.parse(outer.args[0].value, feature_version=(3, 7))

    assert {type(node).__name__ for node in inner.body} == {"Import", "If", "Expr"}


def test_a_line_with_the_nonce_of_another_is_noise():
    bootstrap = Bootstrap(PARCEL, nonce="another")

    bootstrap.feed(LINES["missing"])

    assert not bootstrap.was


def test_an_agent_that_is_not_the_one_that_was_sent_is_refused():
    bootstrap = Bootstrap(PARCEL, nonce=NONCE)
    bootstrap.feed(LINES["here"])

    with pytest.raises(AgentDamaged, match="not ours"):
        bootstrap.feed(LINES["other"])


def test_noise_up_to_64_kib_is_skipped_and_its_beginning_kept():
    bootstrap = Bootstrap(PARCEL, nonce=NONCE)

    assert bootstrap.feed(b"n" * MAX_NOISE + LINES["missing"][:9]) == b""
    assert bootstrap.feed(LINES["missing"][9:]) == PARCEL.data
    assert bootstrap.noise == b"n" * 200


@pytest.mark.parametrize("size", [1000, 10**9])
def test_more_noise_is_too_much(size):
    noise = b"buy now " * (MAX_NOISE // 8 + 1) + LINES["missing"]
    bootstrap = Bootstrap(PARCEL, nonce=NONCE)

    with pytest.raises(TooMuchNoise, match="buy now buy"):
        all(bootstrap.feed(noise[at : at + size]) == b"" for at in range(0, len(noise), size))


def test_an_answer_without_an_end_is_an_error():
    with pytest.raises(NoShell, match="no end"):
        Bootstrap(PARCEL, nonce=NONCE).feed(f"\n{NONCE} {{".encode() + b" " * MAX_NOISE)


def test_what_the_agent_sends_behind_its_hello_is_no_echo():
    stream = LINES["here"] + LINES["hello"] + Bootstrap(PARCEL, nonce=NONCE).first

    assert heard([stream])[3] == Bootstrap(PARCEL, nonce=NONCE).first


@pytest.mark.parametrize("answer", ["[]", "{", '{"was": "odd"}'])
def test_an_answer_that_makes_no_sense_is_an_error(answer):
    with pytest.raises(NoShell, match="makes no sense"):
        Bootstrap(PARCEL, nonce=NONCE).feed(f"\n{NONCE} {answer}\n".encode())


@pytest.mark.parametrize(
    ("code", "said", "printed", "kind", "further", "words"),
    [
        (127, b"sh: 1: python3: not found\n", b"", NoPython, True, "sh: 1: python3: not found"),
        (1, b"python3: Command not found.\n", b"", NoPython, True, "Command not found"),  # tcsh
        (1, b"xcode-select: note: no developer tools\n", b"", NoPython, True, "xcode-select"),
        (2, b"Unknown option: -I\nusage: python3\n", b"", NoPython, True, "Unknown option"),
        (None, b"", b"", NoPython, True, "the stream ended"),
        (0, b"", b"This account is restricted\n", NoShell, False, "This account is restricted"),
        (1, b"", b"", NoShell, False, "exit 1"),
        (0, b"", b"\x1b[2Jout\xff", NoShell, False, r"\x1b[2Jout"),
        (1, b"Error: No such container: python-app\n", b"", BootstrapError, False, "No such container"),
        (255, b"ssh: connect: refused\n", b"", BootstrapError, False, "refused"),
        (1, b"ImportError: no zlib\n", LINES["here"], AgentFailed, False, "ImportError"),
    ],
)
def test_an_early_end_is_explained(code, said, printed, kind, further, words):
    bootstrap = Bootstrap(PARCEL, nonce=NONCE)
    bootstrap.feed(printed)

    error = bootstrap.end(code, said)

    assert (type(error), error.look_further) == (kind, further)
    assert words in str(error)


def test_errors_pickle():
    error = pickle.loads(pickle.dumps(NoPython("none", "install one", True)))

    assert (error.reason, error.remedy, error.look_further) == ("none", "install one", True)
    assert str(error) == "none; install one"


# -- real shells


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("word", [WORD, looking_word()], ids=["word", "looking"])
def test_the_agent_comes_up_through_every_shell_and_its_noise(ready, shell, word):
    (ready.bin / "sh").symlink_to(found("sh"))

    link = ready.dial(f"echo '{NOISE.decode().strip()}'; {word}", shell)

    assert link.bootstrap.hello["was"] == "missing"
    assert link.bootstrap.hello["agent"] == PARCEL.digest
    assert link.bootstrap.hello["python"] == "{}.{}.{}".format(*sys.version_info)
    assert link.bootstrap.hello["path"] == str(ready.bin / "python3")
    assert link.bootstrap.hello["cache"] == str(ready.cache)
    assert link.bootstrap.noise == NOISE


def test_behind_the_hello_every_byte_passes_both_ways(ready):
    link = ready.dial()
    link.environment()
    data = bytes(range(256)) * 1000
    sending = threading.Thread(target=send, args=(link.process, data))

    sending.start()

    assert link.read(len(data)) == data
    sending.join()


def test_the_agent_is_sent_once(ready):
    assert [ready.dial().bootstrap.was for _ in range(2)] == ["missing", "here"]


def test_the_agent_is_for_its_user_only(ready):
    umask = os.umask(0)
    try:
        ready.dial()
    finally:
        os.umask(umask)

    assert stat.S_IMODE(ready.cache.stat().st_mode) == 0o700
    assert stat.S_IMODE(ready.agent.stat().st_mode) == 0o600


def test_the_agent_is_kept_where_xdg_cache_home_says(ready, tmp_path):
    ready.env["XDG_CACHE_HOME"] = str(tmp_path / "elsewhere")

    assert ready.dial().bootstrap.hello["cache"] == str(tmp_path / "elsewhere" / "cmdop")
    assert not ready.cache.exists()


@pytest.mark.parametrize("shell", SHELLS)
def test_a_login_shell_gives_its_environment_whatever_the_paths(ready, shell, tmp_path):
    odd = tmp_path / 'it\'s "a" $HOME!\\ é'
    odd.mkdir()
    agent = odd / "agent.pyz"
    agent.write_bytes(PARCEL.data)
    (ready.home / ".profile").write_text("FROM_LOGIN=yes; export FROM_LOGIN; echo hello from the profile\n")
    (ready.home / ".zprofile").write_text("export FROM_LOGIN=yes; echo hello from the profile\n")
    (ready.home / ".login").write_text("setenv FROM_LOGIN yes; echo hello from the profile\n")
    fish = ready.home / ".config" / "fish"
    fish.mkdir(parents=True)
    (fish / "config.fish").write_text("status is-login; and set -x FROM_LOGIN yes; and echo hello from the profile\n")
    code = f"from agent import loader; loader.become({str(agent)!r}, {NONCE!r}, {found(shell)!r})"
    command = [PYTHON, "-c", f"import sys; sys.path.insert(0, {str(AGENT.parent)!r}); {code}"]
    env = {"HOME": str(ready.home), "PATH": os.environ["PATH"]}

    done = subprocess.run(command, input=b"frames", stdout=subprocess.PIPE, env=env, check=True)

    noise, _, rest = done.stdout.partition(f"\n{NONCE} ".encode())
    hello, environment, echo = rest.split(b"\n", 2)
    assert b"hello from the profile" in noise
    assert json.loads(hello)["agent"] == PARCEL.digest
    assert json.loads(environment)["FROM_LOGIN"] == "yes"
    assert not [name for name in json.loads(environment) if name.startswith("CMDOP_AGENT")]
    assert echo == b"frames"


def test_a_login_goes_by_the_users_own_shell(ready):
    (ready.home / ".profile").write_text("export FROM_LOGIN=yes\necho hello from the profile\n")

    link = ready.dial(login=True)

    assert b"hello from the profile" in link.bootstrap.noise
    assert link.environment()["FROM_LOGIN"] == "yes"


def test_without_login_there_is_none(ready):
    (ready.home / ".profile").write_text("export FROM_LOGIN=yes\n")

    assert "FROM_LOGIN" not in ready.dial().environment()


def test_a_profile_that_ends_the_login_is_named(ready):
    (ready.home / ".profile").write_text("echo closed for today\nexit 3\n")

    with pytest.raises(AgentFailed, match=r"login shell ended.*exit 3.*closed for today.*leave `login` out"):
        ready.dial(login=True)


# -- Pythons


@pytest.mark.parametrize("shell", SHELLS)
def test_no_python3_is_told_and_may_be_looked_for(box, shell):
    with pytest.raises(NoPython, match=r"python3 does not run there .*not found|nknown command") as caught:
        box.dial(shell=shell)

    assert caught.value.look_further


@pytest.mark.parametrize("shell", SHELLS)
def test_no_python_at_all_is_told(box, shell):
    (box.bin / "sh").symlink_to(found("sh"))

    with pytest.raises(NoPython, match=r"no Python there; tried python3, python, python3\.14") as caught:
        box.dial(looking_word(), shell)

    assert not caught.value.look_further


def test_a_python_that_is_too_old_says_so(box):
    box.has_old_python("python3")

    with pytest.raises(NoPython, match=r"too old: 3\.6\.15") as caught:
        box.dial()

    assert caught.value.look_further
    assert not box.cache.exists()


def test_the_first_python_that_runs_is_taken(box):
    (box.bin / "sh").symlink_to(found("sh"))
    box.has_old_python("python3")
    box.has("python", "echo the python command exists in 3.12 >&2; exit 127")
    box.has("python3.13", "read -r line; exit 1")  # would eat what is not meant for it
    box.has("python3.12")

    assert box.dial(looking_word()).bootstrap.hello["path"] == str(box.bin / "python3.12")


def test_pythons_that_do_not_serve_are_listed(box):
    (box.bin / "sh").symlink_to(found("sh"))
    box.has_old_python("python3")
    box.has("python", "echo the python command exists in 3.12 >&2; exit 127")

    with pytest.raises(NoPython, match=r"no Python from 3\.9 on there: python3 is 3\.6\.15, python does not run;"):
        box.dial(looking_word())


def test_a_configured_python_needs_no_path(box, tmp_path):
    python = tmp_path / "mine"
    python.symlink_to(PYTHON)

    assert box.dial(word_of(str(python))).bootstrap.hello["path"] == str(python)


# -- no shell


def test_a_forced_command_is_shown(ready):
    with pytest.raises(NoShell, match=r"exit 0\).*This account is restricted.*ForceCommand") as caught:
        ready.dial_command(["/bin/sh", "-c", "echo This account is restricted"])

    assert not caught.value.look_further


def test_what_sends_back_what_it_gets_is_no_shell(ready):
    with pytest.raises(NoShell, match="sends back what we send"):
        ready.dial_command([found("cat")])


def test_a_flood_instead_of_an_answer_ends_the_try(ready):
    with pytest.raises(TooMuchNoise, match="y y y"):
        ready.dial_command([found("yes")])


# -- the cache


def test_a_home_that_is_read_only_is_told(small_home):
    subprocess.run(["mount", "-o", "remount,ro", str(small_home.home)], check=True)

    with pytest.raises(CacheRefused, match=r"Read-only file system \(.*/home/\.cache\).*XDG_CACHE_HOME"):
        small_home.dial()


def test_a_disk_without_room_is_told_and_nothing_half_written_stays(small_home):
    small_home.cache.mkdir(parents=True, mode=0o700)
    with open(small_home.home / "ballast", "wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))

    with pytest.raises(CacheRefused, match=r"No space left on device \(.*/cmdop.*XDG_CACHE_HOME"):
        small_home.dial()
    assert list(small_home.cache.iterdir()) == []


def test_a_cache_of_somebody_else_is_refused(ready):
    ready.cache.mkdir(parents=True, mode=0o700)
    os.chown(ready.cache, 12345, 12345)

    with pytest.raises(CacheRefused, match=r"belongs to uid 12345.*\(.*/\.cache/cmdop\)"):
        ready.dial()


@pytest.mark.parametrize("mode", [0o770, 0o702])
def test_a_cache_that_others_can_change_is_refused(ready, mode):
    ready.cache.mkdir(parents=True)
    ready.cache.chmod(mode)

    with pytest.raises(CacheRefused, match=f"its mode is {mode:o}: others could change it"):
        ready.dial()


def test_a_cache_in_a_folder_where_anybody_could_swap_it_is_refused(ready):
    ready.cache.mkdir(parents=True, mode=0o700)
    ready.cache.parent.chmod(0o777)

    with pytest.raises(CacheRefused, match="others could change it"):
        ready.dial()


def test_a_cache_in_a_folder_like_tmp_is_taken(ready):
    ready.cache.parent.mkdir()
    ready.cache.parent.chmod(0o1777)

    assert ready.dial().bootstrap.done


@pytest.mark.parametrize("place", [".cache", ".cache/cmdop"])
def test_a_file_in_the_place_of_the_cache_is_refused(ready, place):
    (ready.home / place).parent.mkdir(exist_ok=True)
    (ready.home / place).write_text("")

    with pytest.raises(CacheRefused, match=r"not a (folder|directory)|Not a directory"):
        ready.dial()


def test_a_cache_that_is_a_link_to_elsewhere_is_refused(ready, tmp_path):
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    ready.cache.parent.mkdir()
    ready.cache.symlink_to(tmp_path / "elsewhere")

    with pytest.raises(CacheRefused, match="it is not a folder"):
        ready.dial()


def test_many_may_arrive_at_once(ready):
    with ThreadPoolExecutor(6) as pool:
        links = [one.result() for one in [pool.submit(ready.dial) for _ in range(6)]]

    assert {link.bootstrap.hello["agent"] for link in links} == {PARCEL.digest}
    assert sorted(path.suffix for path in ready.cache.iterdir()) == [".lock", ".pyz"]
    assert hashlib.sha256(ready.agent.read_bytes()).hexdigest() == PARCEL.digest


def test_an_agent_that_was_tampered_with_never_runs_and_is_replaced(ready, tmp_path):
    ready.dial()
    evil = f"open({str(tmp_path / 'ran')!r}, 'w')"
    ready.agent.write_bytes(parcel_of({"__main__.py": evil.encode()}, "0").data)

    link = ready.dial()

    assert link.bootstrap.was == "damaged"
    assert ready.agent.read_bytes() == PARCEL.data
    assert not (tmp_path / "ran").exists()


def test_an_agent_that_arrives_damaged_is_not_kept(ready):
    with pytest.raises(AgentDamaged, match=r"arrived damaged.*leave out `-t`"):
        ready.dial(breaks=True)

    assert list(ready.cache.iterdir()) == []


def test_a_link_that_breaks_while_the_agent_is_sent_leaves_nothing(ready):
    bootstrap = Bootstrap(PARCEL)
    env = {"HOME": str(ready.home), "PATH": str(ready.bin)}
    with subprocess.Popen([found("sh"), "-c", WORD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env) as process:
        send(process, bootstrap.first)
        data = b""
        while not data:
            data = bootstrap.feed(os.read(process.stdout.fileno(), 65536))
        send(process, data[:-1])
        process.stdin.close()

        assert process.stdout.read() == b""
        assert process.wait() == 0
    assert list(ready.cache.iterdir()) == []


def test_a_visit_is_noted_on_the_file(ready):
    ready.dial()
    os.utime(ready.agent, (1, 1))

    ready.dial()

    assert ready.agent.stat().st_mtime > 1
