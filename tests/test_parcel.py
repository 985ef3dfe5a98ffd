"""The agent as one file: the same bytes each time, and it runs from there."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import cmdop_jupyter
from cmdop_jupyter.agent import store
from cmdop_jupyter.agent.frames import FrameDecoder, encode
from cmdop_jupyter.machines.bootstrap import Bootstrap
from cmdop_jupyter.machines.parcel import Parcel, agent_parcel, parcel_of

AGENT = Path(store.__file__).parent


@pytest.fixture
def zipapp(tmp_path: Path) -> Path:
    """The agent as a far side has it."""
    parcel = agent_parcel()
    path = tmp_path / "cache" / f"agent-{parcel.digest}.pyz"
    path.parent.mkdir()
    path.write_bytes(parcel.data)
    return path


def test_the_same_sources_give_the_same_bytes():
    sources = {"b.py": b"b", "a.py": b"a"}

    assert parcel_of(sources, "1") == parcel_of(dict(reversed(sources.items())), "1")


def test_other_sources_give_another_digest():
    assert parcel_of({"a.py": b"a"}, "1").digest != parcel_of({"a.py": b"b"}, "1").digest


def test_it_holds_every_module_of_the_agent_as_it_is():
    with zipfile.ZipFile(io.BytesIO(agent_parcel().data)) as archive:
        packed = {name: archive.read(name) for name in archive.namelist()}

    assert packed == {path.name: path.read_bytes() for path in AGENT.glob("*.py")}
    assert "__main__.py" in packed


def test_it_says_what_it_is():
    parcel = agent_parcel()

    assert parcel.digest == hashlib.sha256(parcel.data).hexdigest()
    assert parcel.version == cmdop_jupyter.__version__
    assert len(repr(parcel)) < 200


def test_it_is_made_once():
    assert agent_parcel() is agent_parcel()


def test_two_processes_make_the_same():
    code = "from cmdop_jupyter.machines.parcel import agent_parcel; print(agent_parcel().digest)"
    done = subprocess.run([sys.executable, "-c", code], cwd=AGENT.parents[1], stdout=subprocess.PIPE, check=True)

    assert done.stdout.decode().strip() == agent_parcel().digest


def test_it_runs_from_the_zip(zipapp):
    done = subprocess.run([sys.executable, "-I", "-S", zipapp, "sessions"], capture_output=True, check=True)

    assert (done.stdout, done.stderr) == (b"", b"")


def test_it_serves_from_the_zip(zipapp):
    parcel = Parcel(b"", agent_parcel().digest, "")
    bootstrap = Bootstrap(parcel, nonce="nonce")
    answers = FrameDecoder()
    command = [sys.executable, "-I", "-S", zipapp, "serve", "nonce"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        while not bootstrap.done:
            bootstrap.feed(os.read(process.stdout.fileno(), 65536))
        process.stdin.write(encode({"number": 1, "op": "ping"}))
        process.stdin.flush()
        frames = answers.feed(bootstrap.rest)
        while not frames:
            data = os.read(process.stdout.fileno(), 65536)
            assert data, "the agent went away"
            frames = answers.feed(data)
        process.stdin.close()

        assert process.wait() == 0
    assert bootstrap.hello["pid"] == process.pid
    assert frames[0][0]["number"] == 1
    assert "error" not in frames[0][0]
