"""Machines of a relay by name: in cells, in cmdop.toml, and of a client that has a relay only."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from clients import configured
from relays import TestRelay
from served import served

from cmdop_jupyter import AsyncCMDOPClient
from cmdop_jupyter.config import Config
from cmdop_jupyter.errors import ConfigError, InvalidRequest, SessionNotFound
from cmdop_jupyter.machines.settings import parse_file


@pytest.fixture(scope="module")
def box(relay: TestRelay, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with served(relay.machine_key("box"), tmp_path_factory.mktemp("box"), "--tag", "gpu"):
        yield


def test_a_name_that_begins_with_relay_is_a_machine_there():
    place = Config().resolve("relay:box")

    assert (place.name, place.kind, place.command) == ("relay:box", "relay", ("box",))


@pytest.mark.parametrize("wrong", ["relay:", "relay:a.b", "relay:*", "relay:a b", "relay:>"])
def test_a_name_that_cannot_be_on_a_relay_is_refused(wrong):
    with pytest.raises(InvalidRequest, match="cannot be a machine's name on a relay"):
        Config().resolve(wrong)


def test_a_file_gives_a_machine_of_a_relay_another_name():
    text = '[machines.trainer]\nrelay = "box"\ncwd = "/srv"\n[relay]\nurl = "nats://there"\napi_key_env = "KEY"'

    config = Config([parse_file(text, "/cmdop.toml")])

    assert (config.resolve("trainer").command, config.resolve("trainer").cwd) == (("box",), "/srv")
    assert config.relay == {"url": "nats://there", "api_key_env": "KEY"}


def test_a_key_in_a_file_is_refused_and_not_shown():
    with pytest.raises(ConfigError, match="api_key_env") as raised:
        parse_file('[relay]\napi_key = "cmd_secret"', "/cmdop.toml")

    assert "cmd_secret" not in str(raised.value)


async def test_a_client_of_a_relay_lists_who_is_there_and_runs_commands_there(box, key, tmp_path, state_dir):
    with configured(tmp_path / "configured"):
        client = AsyncCMDOPClient.remote(key)
        (info,) = [one for one in await client.machines.list() if one.name == "box"]
        done = await client.terminal.execute("echo $((6 * 7))", machine="box")
        same = await client.terminal.execute("echo same", machine="relay:box")

    assert (info.kind, info.present, info.tags) == ("relay", True, ("gpu",))
    assert (done.stdout, same.stdout) == (b"42\n", b"same\n")
    assert key not in repr(client)


async def test_a_client_of_a_relay_knows_no_other_machines(box, key, tmp_path, state_dir):
    with configured(tmp_path / "configured"):
        client = AsyncCMDOPClient.remote(key)

        with pytest.raises(InvalidRequest, match="say on which machine"):
            await client.terminal.execute("true")
        await client.terminal.set_machine("box")
        with pytest.raises(SessionNotFound):
            await client.terminal.stop("nobody")


def test_a_cell_runs_on_a_machine_of_a_relay(box, key, kernel):
    kernel.run(f"import os; os.environ['CMDOP_API_KEY'] = {key!r}\n%load_ext cmdop_jupyter")

    cell = kernel.run("%%cmdop relay:box --name there --wait\necho it is $((6 * 7))")

    assert cell.error is None
    assert "it is 42" in kernel.run("print(b''.join([chunk.data async for chunk in there.chunks('begin')]))").stdout
