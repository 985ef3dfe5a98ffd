"""`cmdop-relay keys`: what people type, the files it writes, and a real nats-server that takes them in."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from nats.aio.client import Client
from nats.errors import Error as NatsError
from relays import Server, TestRelay, free_ports, program, relay

from cmdop_jupyter.relay.__main__ import main
from cmdop_jupyter.relay.folder import Folder
from cmdop_jupyter.relay.keys import ApiKey, read_machine_key

SEED = re.compile("S[UA][A-Z2-7]{56}")  # of a user's or an account's key


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path / "keys"


@pytest.fixture
def keys(folder, capsys):
    """What `cmdop-relay keys FOLDER …` prints and says; it must do well."""

    def run(*words: object) -> tuple[str, str]:
        status = main(["keys", str(folder), *map(str, words)])
        said = capsys.readouterr()
        assert status == 0, said.err
        return said.out.strip(), said.err.strip()

    return run


@pytest.fixture
def refused(folder, capsys):
    """What it says when it must fail."""

    def run(*words: object) -> str:
        assert main(["keys", str(folder), *map(str, words)]) == 1
        said = capsys.readouterr()
        assert not said.out
        return said.err.strip()

    return run


@pytest.fixture
def begun(keys):
    keys("init", "home", "--listen", f"127.0.0.1:{free_ports(1)[0]}")
    keys("workspace", "lab")
    return keys


async def connects(key) -> bool:
    client = Client()

    async def quiet(error: Exception) -> None:
        pass

    try:
        await client.connect(key.url, nkeys_seed_str=key.identity.seed, allow_reconnect=False, error_cb=quiet)
    except NatsError as error:
        if "authorization violation" not in str(error).lower():
            raise
        return False
    finally:
        await client.close()
    return True


def test_a_relay_in_a_few_commands(folder, begun, keys):
    """Keys made before the server runs, while it runs, and taken back."""
    _, said = keys("machine", "lab", "web1")
    assert "web1.key is the key of web1" in said
    assert f"cmdop-relay keys {folder} provision" in said  # nothing runs yet
    op1 = ApiKey.parse(keys("operator", "lab", "op1")[0])
    server = Server(Folder(folder), "home")
    server.start()
    try:
        assert set(keys("provision")[1].splitlines()) == {"lab: the roster", "lab: web1"}
        assert keys("provision")[1] == "nothing was missing"
        assert asyncio.run(connects(op1))
        assert asyncio.run(connects(read_machine_key("web1.key")))

        _, said = keys("machine", "lab", "web2", "--keep", "10MiB", "--reload", server.pid)
        obs = ApiKey.parse(keys("observer", "lab", "obs", "--reload")[0])
        keys("revoke", "lab", "op1", "--reload")
        _, gone = keys("revoke", "lab", "web1", "--reload", server.pid)

        assert "Made: lab: web2" in said
        assert "Made: lab: the end of web1" in gone
        assert asyncio.run(connects(obs))
        assert not asyncio.run(connects(op1))
        assert not asyncio.run(connects(read_machine_key("web1.key")))
    finally:
        server.kill()


def test_an_api_key_is_all_that_goes_to_stdout_and_is_kept_nowhere(folder, begun):
    text, said = begun("operator", "lab", "op1")
    kept = "".join(path.read_text() for path in folder.iterdir() if path.is_file())

    assert ApiKey.parse(text).identity.proof.name == "op1"
    assert ApiKey.parse(text).identity.seed not in kept + said
    assert text not in kept + said


def test_a_list_shows_who_has_a_key_and_no_secret(folder, begun):
    key = ApiKey.parse(begun("operator", "lab", "op1")[0])
    begun("observer", "lab", "obs")
    begun("revoke", "lab", "obs")
    listed, _ = begun("list")
    secrets = [fact for fact in _strings(json.loads((folder / "relay.json").read_text())) if SEED.fullmatch(fact)]

    assert f"operator op1                  {key.identity.connects_as}  since 20" in listed
    assert any(line.startswith("  observer obs") and "  revoked 20" in line for line in listed.splitlines())
    assert len(secrets) == 2  # of the workspace and of its admin
    assert not [secret for secret in secrets if secret in listed]


def _strings(value: object) -> list[str]:
    if isinstance(value, dict):
        return [text for each in value.values() for text in _strings(each)]
    return [value] if isinstance(value, str) else []


def test_all_that_is_written_is_ours_alone(folder, begun, tmp_path):
    begun("machine", "lab", "web1")

    assert folder.stat().st_mode & 0o777 == 0o700
    for path in (*folder.iterdir(), tmp_path / "web1.key"):
        assert path.stat().st_mode & 0o077 == 0, path


def test_a_name_can_be_given_anew_once_its_key_was_revoked(begun, refused):
    old = ApiKey.parse(begun("operator", "lab", "op1")[0])
    assert "lab has an operator called 'op1'" in refused("observer", "lab", "op1")
    begun("revoke", "lab", "op1")
    new = ApiKey.parse(begun("observer", "lab", "op1")[0])

    assert new.identity.proof.role == "observer"
    assert new.identity.connects_as != old.identity.connects_as


NO_NAMES = ["a.b", "*", ">", "a b", "js", ""]


@pytest.mark.parametrize("name", NO_NAMES)
@pytest.mark.parametrize("verb", ["machine", "operator", "observer"])
def test_a_name_that_is_none_makes_no_key(folder, begun, refused, verb, name):
    before = (folder / "relay.json").read_text()

    assert "cannot be the name of" in refused(verb, "lab", name)
    assert (folder / "relay.json").read_text() == before


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["workspace", "lab"], "there is a workspace 'lab' already"),
        (["workspace", "a.b"], "cannot be the name of a workspace"),
        (["operator", "den", "op1"], "no workspace is called 'den'; there are: lab"),
        (["revoke", "lab", "op1"], "no key of 'op1'; there are: none"),
        (["init", "again", "--listen", "127.0.0.1:1"], "has a relay already"),
        (["machine", "lab", "web1", "--out", "no/such/folder/key"], "cannot be written"),
        (["server", "two", "--listen", "127.0.0.1:1", "--cluster", "127.0.0.1:2"], "is no cluster"),
        (["workspace", "den", "--reload", "999999999"], "no process 999999999"),
        (["workspace", "den", "--reload"], "no server runs here"),
    ],
)
def test_what_cannot_be_is_refused_with_a_word(begun, refused, words, told):
    assert told in refused(*words)


def test_a_key_that_could_not_be_written_is_not_made(folder, begun, refused):
    refused("machine", "lab", "web1", "--out", "no/such/folder/key")

    assert not Folder(folder).read().workspace("lab").members


def test_a_machines_key_overwrites_no_file(begun, refused, tmp_path):
    (tmp_path / "web1.key").write_text("mine")

    assert "File exists" in refused("machine", "lab", "web1")
    assert (tmp_path / "web1.key").read_text() == "mine"


def test_only_a_nats_server_is_told_to_reload(begun, refused):
    """The signal would end most others."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        assert "no nats-server; it was left alone" in refused("workspace", "den", "--reload", other.pid)
        other.communicate(b"\n")
    assert other.returncode == 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--listen", "10.0.0.1:4222"], "without TLS"),
        (["--listen", "0.0.0.0:4222", "--no-tls"], "say --url"),
        (["--listen", "127.0.0.1"], "no HOST:PORT"),
        (["--listen", "127.0.0.1:4222", "--tls-cert", "c.pem"], "go together"),
        (["--listen", "127.0.0.1:4222", "--tls-cert", "c.pem", "--tls-key", "k.pem"], "cannot be read"),
        (["--listen", "127.0.0.1:4222", "--replicas", "3"], "--replicas is for a cluster"),
    ],
)
def test_a_relay_that_would_not_be_safe_or_reached_is_not_begun(folder, refused, words, told):
    assert told in refused("init", "home", *words)
    assert not folder.exists()


def test_a_folder_that_is_none_says_how_to_begin(refused):
    assert "init" in refused("list")


def test_a_folder_that_others_can_read_is_not_used(folder, begun, refused):
    folder.chmod(0o755)

    assert "chmod 700" in refused("operator", "lab", "op1")


def test_two_commands_at_once_lose_no_key(folder, begun):
    code = "import sys; from cmdop_jupyter.relay.__main__ import main; sys.exit(main(sys.argv[1:]))"
    words = [sys.executable, "-c", code, "keys", str(folder), "operator", "lab"]
    at_once = [subprocess.Popen([*words, f"p{n}"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) for n in range(4)]
    for each in at_once:
        each.communicate()

    assert sorted(Folder(folder).read().workspace("lab").members) == ["p0", "p1", "p2", "p3"]


def test_every_configuration_is_one_that_nats_server_takes(folder, keys, tmp_path):
    for suffix in ("cert", "key"):
        (tmp_path / suffix).touch()
    _certificate(tmp_path / "cert", tmp_path / "key")
    tls = ["--tls-cert", tmp_path / "cert", "--tls-key", tmp_path / "key"]
    url = ["--url", "tls://a.example.org,tls://b.example.org"]
    keys("init", "big", *tls, *url, "--cluster", "127.0.0.1:6222", "--replicas", 3)
    keys("server", "big-2", *tls, "--cluster", "127.0.0.1:6223")
    keys("workspace", "lab")
    keys("machine", "lab", "web1")
    keys("operator", "lab", "op1")
    for name in ("big-1", "big-2"):
        done = subprocess.run([program(), "-t", "-c", folder / f"{name}.conf"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_a_relay_with_tls_is_reached_by_who_trusts_its_certificate(folder, keys, tmp_path, monkeypatch):
    _certificate(tmp_path / "cert", tmp_path / "key")
    listen = f"127.0.0.1:{free_ports(1)[0]}"
    keys("init", "safe", "--listen", listen, "--tls-cert", tmp_path / "cert", "--tls-key", tmp_path / "key")
    server = Server(Folder(folder), "safe")
    server.start()
    try:
        _, said = keys("workspace", "lab", "--reload")
        assert "CERTIFICATE_VERIFY_FAILED" in said
        assert "set SSL_CERT_FILE" in said
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert"))
        assert keys("provision")[1] == "lab: the roster"
        assert ApiKey.parse(keys("operator", "lab", "op1")[0]).url == f"tls://{listen}"
    finally:
        server.kill()


def _certificate(certificate: Path, key: Path) -> None:
    words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1"]
    words += [
        "-subj",
        "/CN=localhost",
        "-addext",
        "subjectAltName=IP:127.0.0.1",
        "-keyout",
        str(key),
        "-out",
        str(certificate),
    ]
    subprocess.run(words, check=True, capture_output=True)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with relay(tmp_path_factory.mktemp("cluster") / "keys", servers=3) as it:
        yield it


def test_in_a_cluster_every_server_knows_every_key_and_streams_are_on_three(cluster: TestRelay):
    key = cluster.machine_key("web1")
    for url in cluster.url.split(","):
        one = read_machine_key(key)
        assert asyncio.run(connects(type(one)(url, one.workspace, one.identity, one.workspace_public)))

    assert asyncio.run(_replicas(read_machine_key(key))) == 3


async def _replicas(key) -> int:
    client = Client()
    await client.connect(key.url.split(","), nkeys_seed_str=key.identity.seed, inbox_prefix="_IM.web1")
    try:
        return (await client.jetstream().stream_info("LOG_web1")).config.num_replicas or 0
    finally:
        await client.close()


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["keys", "--help"]])
def test_help_is_there(words, capsys):
    try:
        status = main(words)
    except SystemExit as ended:
        status = ended.code

    assert status == 0
    assert "cmdop-relay keys" in capsys.readouterr().out


def test_a_verb_nobody_knows_says_which_there_are(capsys):
    assert main(["begone"]) == 2
    assert "cmdop-relay serve" in capsys.readouterr().err
