"""Keys as text: what was given out comes back, and what is not whole says what is wrong with it and shows nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmdop_jupyter.errors import BadKey
from cmdop_jupyter.notebook.views.redact import MARK, Redactor
from cmdop_jupyter.relay import keys
from cmdop_jupyter.relay.folder import Relay, write_secret
from cmdop_jupyter.relay.keys import ApiKey, read_machine_key

RELAY = Relay("r", "tls://relay.example.org:4222")
RELAY.add_workspace("lab")
KEY = RELAY.add_person("lab", "op1", "operator")
TEXT = KEY.format()
MACHINE = RELAY.add_machine("lab", "web1")


def wrong(text: str | None) -> str:
    with pytest.raises(BadKey) as error:
        ApiKey.parse(text)
    words = str(error.value)
    assert not text or len(text) < 12 or (text not in words and text[8:] not in words)
    return words


@pytest.mark.parametrize("around", ["", " ", "\n"])
def test_an_api_key_comes_back_from_its_text(around):
    key = ApiKey.parse(around + TEXT + around)

    assert (key.url, key.workspace, key.workspace_public) == (KEY.url, "lab", KEY.workspace_public)
    assert (key.identity.seed, key.identity.proof) == (KEY.identity.seed, KEY.identity.proof)


@pytest.mark.parametrize("text", [None, "", "  ", "\n"])
def test_an_empty_key_says_how_to_get_one(text):
    assert "CMDOP_API_KEY" in wrong(text)


@pytest.mark.parametrize("text", ["nope", "sk-1234", TEXT[1:], TEXT.upper(), "é" * 40])
def test_what_is_no_key_says_how_keys_begin(text):
    assert "begin with 'cmd_'" in wrong(text)


@given(end=st.integers(4, len(TEXT) - 1))
def test_a_key_that_was_cut_is_not_whole(end):
    assert "not whole" in wrong(TEXT[:end])


@given(at=st.integers(4, len(TEXT) - 1), char=st.sampled_from("abcXYZ019-_ é."))
def test_a_key_of_which_a_character_was_changed_is_not_whole(at, char):
    changed = TEXT[:at] + char + TEXT[at + 1 :]
    if changed != TEXT:
        assert "not whole" in wrong(changed)


def packed(said: object, version: int = keys.VERSION) -> str:
    """Something with a checksum that fits."""
    raw = bytes([version]) + (said if isinstance(said, bytes) else json.dumps(said).encode())
    text = keys.MARK + keys.base64.urlsafe_b64encode(raw).decode().rstrip("=")
    return text + keys._checksum(text)


def test_a_key_of_a_later_version_says_so():
    assert "of version 2, and this package knows 1" in wrong(packed([], 2))


PARTS = ["tls://r", "lab", KEY.workspace_public, KEY.identity.seed, "operator", "op1", KEY.identity.proof.signature]


def test_a_key_is_made_of_these_parts():
    assert ApiKey.parse(packed(PARTS)).identity.proof == KEY.identity.proof


@pytest.mark.parametrize(
    "said", [b"", b"{", [], {}, "x", [1] * 7, PARTS[:6], [*PARTS[:6], "x"], [*PARTS[:4], "admin", *PARTS[5:]]]
)
def test_a_key_with_other_parts_makes_no_sense(said):
    assert "makes no sense" in wrong(packed(said))


@pytest.mark.parametrize("at", range(1, 7))
def test_a_key_of_which_a_part_is_another_makes_no_sense(at):
    other = Relay("r", "x")
    other.add_workspace("lab")
    theirs = other.add_person("lab", "op2", "observer")
    parts = [
        "x",
        "den",
        theirs.workspace_public,
        theirs.identity.seed,
        "observer",
        "op2",
        theirs.identity.proof.signature,
    ]

    assert "makes no sense" in wrong(packed([*PARTS[:at], parts[at], *PARTS[at + 1 :]]))


@pytest.mark.parametrize("key", [KEY, MACHINE])
def test_no_key_shows_its_seed(key):
    for shown in (repr(key), str(key), f"{key}", repr([key]), repr(key.identity), repr(vars(key))):
        assert key.identity.seed not in shown


# -- in a notebook


@pytest.mark.parametrize(
    "shown", ["{}", "key={}", "CMDOP_API_KEY={}", "remote('{}')", 'api_key="{}"', "a {} b", "{}.", "x\n{}\ny"]
)
@pytest.mark.parametrize("url", ["tls://relay.example.org", "nats://10.0.0.1:4222", "nats://a,nats://b", "ws://x"])
def test_an_api_key_is_masked_wherever_it_is_shown(shown, url):
    relay = Relay("r", url)
    relay.add_workspace("some_lab-2")
    text = relay.add_person("some_lab-2", "Some_One-3", "observer").format()

    seen = Redactor()(shown.format(text))

    assert MARK in seen
    assert not [at for at in range(len(text) - 8) if text[at : at + 8] in seen]


# -- of a machine


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "web1.key"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    path.chmod(0o600)
    return path


def wrong_file(path: Path) -> str:
    with pytest.raises(BadKey) as error:
        read_machine_key(path)
    assert MACHINE.identity.seed not in str(error.value)
    assert str(path) in str(error.value)
    return str(error.value)


def test_a_machines_key_comes_back_from_its_file(tmp_path):
    path = tmp_path / "key"
    write_secret(path, MACHINE.format())
    key = read_machine_key(path)

    assert path.stat().st_mode & 0o777 == 0o600
    assert (key.url, key.workspace, key.workspace_public) == (MACHINE.url, "lab", MACHINE.workspace_public)
    assert (key.identity.seed, key.identity.proof) == (MACHINE.identity.seed, MACHINE.identity.proof)


def test_a_key_that_is_not_there_says_how_to_get_one(tmp_path):
    assert "No such file" in wrong_file(tmp_path / "web1.key")


@pytest.mark.parametrize("text", ["", " \n"])
def test_an_empty_file_says_so(tmp_path, text):
    assert "is empty" in wrong_file(written(tmp_path, text))


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
def test_a_key_that_others_can_read_is_not_taken(tmp_path, mode):
    path = written(tmp_path, MACHINE.format())
    path.chmod(mode)

    assert "chmod 600" in wrong_file(path)


@given(end=st.integers(1, len(MACHINE.format()) - 3))
def test_a_cut_file_says_so(tmp_path_factory, end):
    assert "cut" in wrong_file(written(tmp_path_factory.mktemp("cut"), MACHINE.format()[:end]))


@pytest.mark.parametrize("text", [b"\xff\xfe", "[]", "{}", "null", '{"version": 1}', TEXT])
def test_a_file_of_something_else_makes_no_sense(tmp_path, text):
    assert "makes no sense" in wrong_file(written(tmp_path, text))


@pytest.mark.parametrize(
    "change", [{"seed": KEY.identity.seed}, {"proof": KEY.identity.proof.facts()}, {"proof": {}}, {"seed": 1}]
)
def test_a_file_whose_parts_do_not_fit_makes_no_sense(tmp_path, change):
    assert "makes no sense" in wrong_file(written(tmp_path, json.dumps({**json.loads(MACHINE.format()), **change})))


def test_a_file_of_a_later_version_says_so(tmp_path):
    said = {**json.loads(MACHINE.format()), "version": 2}

    assert "of version 2" in wrong_file(written(tmp_path, json.dumps(said)))


def test_a_persons_key_is_no_machines(tmp_path):
    said = {**json.loads(MACHINE.format()), "seed": KEY.identity.seed, "proof": KEY.identity.proof.facts()}

    assert "makes no sense" in wrong_file(written(tmp_path, json.dumps(said)))
