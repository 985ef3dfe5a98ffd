"""What people are told when a machine is not reached: by real ssh and sshd, and by what docker and kubectl printed."""

from __future__ import annotations

import os
import pickle
import shlex
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from sshd import Sshd, fingerprint, free_port, login_user, make_key

from cmdop_jupyter.errors import ConnectFailed, HostKeyChanged
from cmdop_jupyter.machines import ssh_words
from cmdop_jupyter.machines.ssh_words import Question, cannot_run, explain, is_transient, read_prompt


@pytest.fixture(scope="module")
def server() -> Iterator[Sshd]:
    with Sshd(PasswordAuthentication="yes") as server:
        yield server


def said_by_ssh(config: Path, host: str = "box", **env: str) -> tuple[str, int]:
    """stderr and exit of a real ssh that nobody answers, without a terminal."""
    done = subprocess.run(
        ["ssh", "-F", config, "-T", host, "true"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        start_new_session=True,
        timeout=60,
        env={**os.environ, **env},
    )
    return done.stderr, done.returncode


def explained(config: Path, host: str = "box", refused: Question | None = None, **env: str) -> ConnectFailed:
    return explain("web1", "ssh", *said_by_ssh(config, host, **env), refused)


def headless(kind: str, text: str = "me@h's password:") -> Question:
    return Question("web1", f"web1: {text}", kind != "host key", kind, headless=True)


def test_an_unknown_host(server):
    error = explained(server.ssh_config(), "nohost.invalid")

    assert "nohost.invalid" in error.reason
    assert "Could not resolve hostname" in error.reason
    assert (error.busy, error.needs_you) == (False, False)


def test_nobody_listens(server):
    port = free_port()
    error = explained(server.ssh_config(Port=port))

    assert error.reason.startswith(f"nothing listens on port {port} of 127.0.0.1 (")
    assert "Connection refused" in error.reason
    assert "sshd" in error.remedy


def test_an_unknown_host_key_with_nobody_to_ask(server, tmp_path):
    config = server.ssh_config(UserKnownHostsFile=tmp_path / "known")
    shown = (
        "The authenticity of host 'h' can't be established.\nED25519 key fingerprint is SHA256:abc+/d.\nSure (yes/no)? "
    )
    error = explained(config, refused=headless("host key", shown))

    assert error.reason == (
        "its host key is not known here (ED25519 key fingerprint is SHA256:abc+/d), and nobody is there to say "
        "whether it is right"
    )
    assert "notebook" in error.remedy
    assert error.needs_you


def test_an_unknown_host_key_that_was_not_asked_about(server, tmp_path):
    error = explained(server.ssh_config(UserKnownHostsFile=tmp_path / "known", BatchMode="yes"))

    assert error.reason.startswith("its host key is not known here, and was not accepted")
    assert "Host key verification failed." in error.reason
    assert error.needs_you


def test_an_unknown_host_key_under_strict_checking(server, tmp_path):
    error = explained(server.ssh_config(UserKnownHostsFile=tmp_path / "known", StrictHostKeyChecking="yes"))

    assert "StrictHostKeyChecking forbids asking" in error.reason
    assert error.needs_you


@pytest.mark.parametrize("place", ["known", "known hosts of mine"])
def test_a_changed_host_key(server, tmp_path, place):
    other, known = make_key(tmp_path / "other"), tmp_path / place
    host = f"[127.0.0.1]:{server.port}"
    known.write_text(f"# mine\n{host} {other.with_name('other.pub').read_text()}")
    error = explained(server.ssh_config(UserKnownHostsFile=f'"{known}"'))

    assert isinstance(error, HostKeyChanged)
    assert error.offered == fingerprint(server.host_key.with_name("host_key.pub"))
    assert error.known == (fingerprint(other.with_name("other.pub")),)
    assert (error.file, error.line) == (str(known), 2)
    for part in (error.offered, *error.known, str(known)):
        assert part in error.reason
    assert error.needs_you
    assert not error.busy


def test_the_remedy_for_a_changed_host_key_works_as_it_stands(server, tmp_path):
    other, known = make_key(tmp_path / "other"), tmp_path / "it's known"
    known.write_text(f"[127.0.0.1]:{server.port} {other.with_name('other.pub').read_text()}")
    config = server.ssh_config(UserKnownHostsFile=f'"{known}"')
    command = explained(config).remedy.split("`")[1]
    assert shlex.split(command)[:2] == ["ssh-keygen", "-R"]

    subprocess.run(command, shell=True, check=True, capture_output=True)

    assert not isinstance(explained(config), HostKeyChanged)
    assert known.read_text() == ""


def test_a_changed_host_key_pickles_and_reads_well(server, tmp_path):
    error = HostKeyChanged("web1", "its host key has changed", "see to it", "SHA256:a", ("SHA256:b",), "/k", 3)
    again = pickle.loads(pickle.dumps(error))

    assert isinstance(again, ConnectFailed)
    assert vars(again) == vars(error)
    assert str(again) == "web1 was not reached: its host key has changed; see to it"


def test_a_revoked_host_key(server, tmp_path):
    known = tmp_path / "known"
    known.write_text(f"@revoked * {server.host_key.with_name('host_key.pub').read_text()}")
    error = explained(server.ssh_config(UserKnownHostsFile=known))

    assert "revoked" in error.reason
    assert error.needs_you


def test_no_key_is_accepted():
    with Sshd() as server:
        error = explained(server.ssh_config(IdentityFile=make_key(server.folder / "other")))

    assert error.reason.startswith("it accepted no key of yours, and would have taken: publickey (")
    assert "Permission denied (publickey)" in error.reason
    assert "authorized_keys" in error.remedy
    assert error.needs_you


def test_no_key_is_accepted_and_nobody_can_give_the_password(server):
    other = make_key(server.folder / "other")
    error = explained(server.ssh_config(IdentityFile=other), refused=headless("password"))

    assert error.reason == "it asks for a password (me@h's password:), and nobody is there to answer"
    assert error.remedy == "use keys or an agent, or connect from a notebook first"
    assert error.needs_you


def test_a_wrong_password(server, tmp_path):
    script = tmp_path / "ask"
    script.write_text("#!/bin/sh\necho wrong\n")
    script.chmod(0o700)
    ask = {"SSH_ASKPASS": str(script), "SSH_ASKPASS_REQUIRE": "force", "DISPLAY": "none:0"}
    with login_user("dash") as user:
        user.set_password("right")
        error = explained(server.ssh_config(user=user.name, PreferredAuthentications="password"), **ask)

    assert error.reason.startswith("the password was not accepted; ")
    assert "Permission denied (publickey,password)" in error.reason
    assert error.needs_you


def test_a_key_file_that_is_missing_is_named():
    with Sshd() as server:
        error = explained(server.ssh_config(IdentityFile=server.folder / "missing"))

    assert f"no such identity: {server.folder / 'missing'}" in error.reason


def test_too_many_keys_are_offered():
    with Sshd(MaxAuthTries=1) as server:
        keys = [make_key(server.folder / f"key{number}") for number in range(3)]
        error = explained(server.ssh_config(IdentityFile=keys))

    assert "IdentitiesOnly" in error.remedy
    assert "Too many authentication failures" in error.reason
    assert error.needs_you


def test_too_many_log_in_at_once():
    with Sshd(MaxStartups="1:100:1") as server, socket.create_connection((server.host, server.port)) as one:
        assert one.recv(1)  # it is being served
        stderr, code = said_by_ssh(server.ssh_config())

    error = explain("web1", "ssh", stderr, code, None)
    assert error.busy
    assert is_transient(stderr, code)
    assert not error.needs_you
    assert "MaxStartups" in error.remedy


def test_no_sessions_are_opened():
    with Sshd(MaxSessions=0) as server:
        error = explained(server.ssh_config())

    assert error.reason.startswith("it let you in and opened no session")


def test_no_common_algorithm(server):
    error = explained(server.ssh_config(HostKeyAlgorithms="ssh-rsa"))

    assert error.reason.startswith("the two sides know no common way: no matching host key type")
    assert "ssh-ed25519" in error.reason
    assert error.needs_you


def test_an_ssh_config_that_cannot_be_read(server):
    error = explained(server.ssh_config(Nonsense="yes"))

    assert "ssh does not like its configuration" in error.reason
    assert error.needs_you


def test_a_proxy_command_that_is_not_there_is_not_worth_another_try(server):
    stderr, code = said_by_ssh(server.ssh_config(ProxyCommand="nosuchprogram-here %h"))
    error = explain("web1", "ssh", stderr, code, None)

    assert "nosuchprogram-here" in error.reason
    assert not is_transient(stderr, code)


def test_a_jump_host_that_is_unknown(server):
    error = explained(server.ssh_config(ProxyJump="nohost.invalid"))

    assert "Could not resolve hostname nohost.invalid" in error.reason
    assert not error.busy


def test_a_jump_host_that_reaches_nobody(server, tmp_path):
    config = tmp_path / "both"
    jump = server.ssh_config(alias="jump").read_text()
    config.write_text(f"{jump}\n{server.ssh_config(Port=free_port(), ProxyJump='jump').read_text()}")
    error = explained(config)

    assert error.reason.startswith("the jump host does not lead on to it")


# Captured, or as the sources have them, where no server can be had: text, part of the reason, part of the remedy, and
# whether a person has to see to it.
SAID = {
    "ssh": [
        (
            "ssh: connect to host 10.0.0.1 port 22: Connection timed out",
            "10.0.0.1 does not answer: Connection timed",
            "VPN",
            0,
        ),
        ("ssh: connect to host h port 22: No route to host", "h does not answer: No route to host", "firewall", 0),
        ("ssh: connect to host h port 22: Network is unreachable", "h does not answer", "VPN", 0),
        (
            "ssh: Could not resolve hostname h: Temporary failure in name resolution",
            "the name h cannot be looked up now",
            "network",
            0,
        ),
        (
            "Connection timed out during banner exchange\nConnection to 1.2.3.4 port 22 timed out",
            "said nothing",
            "later",
            0,
        ),
        ("Timeout, server h not responding.", "said nothing", "later", 0),
        (
            'sign_and_send_pubkey: signing failed for ED25519 "k" from agent: agent refused operation\n'
            "me@h: Permission denied (publickey).",
            "agent did not use the key",
            "ssh-add -l",
            1,
        ),
        (
            'Load key "/home/me/k": bad permissions\nme@h: Permission denied (publickey).',
            'Load key "/home/me/k": bad',
            "keys",
            1,
        ),
        ("me@h: Permission denied (password).", "none of: password", "password", 1),
        (
            "Warning: remote port forwarding failed for listen port 80\n"
            "Error: remote port forwarding failed for listen port 80",
            "a port that",
            "ExitOnForwardFailure",
            1,
        ),
        ("bind [127.0.0.1]:80: Address already in use\nCould not request local forwarding.", "a port that", "Clear", 1),
        ("kex_exchange_identification: banner line 0: Not allowed at this time", "for a while", "minutes", 0),
        (
            "Received disconnect from 10.0.0.1 port 22:2: go away\nDisconnected from 10.0.0.1",
            "connection: go away",
            "",
            0,
        ),
        ("Connection closed by 10.0.0.1 port 22", "closed while logging in", "", 0),
        ("exec request failed on channel 0", "runs no commands", "", 0),
        ("ssh_askpass: exec(/s/ask): Permission denied\nme@h: Permission denied (publickey).", "/s/ask", "noexec", 1),
        ("WARNING: Your password has expired.\nPassword change required but no TTY available.", "expired", "change", 1),
    ],
    "docker": [
        (
            "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?",
            "does not answer",
            "systemctl",
            0,
        ),
        ("Error response from daemon: No such container: box", "there is no container box", "docker ps", 0),
        ("Error: No such container: box", "there is no container box", "docker ps", 0),
        (
            "Error response from daemon: container 3f2a1b is not running",
            "3f2a1b is not running",
            "docker start 3f2a1b",
            0,
        ),
        (
            "Error response from daemon: Container box is paused, unpause the container before exec",
            "box is paused",
            "unpause box",
            0,
        ),
        (
            "permission denied while trying to connect to the Docker daemon socket at unix:///var/run/docker.sock: Get "
            '"http://%2Fvar%2Frun%2Fdocker.sock/v1.24/containers/box/json": dial unix /var/run/docker.sock: connect: '
            "permission denied",
            "may not use the Docker daemon",
            "group `docker`",
            1,
        ),
        (
            'Failed to initialize: unable to resolve docker endpoint: context "nix": context not found: open '
            "/root/.docker/contexts/meta/a/meta.json: no such file or directory",
            "no such context",
            "docker context ls",
            1,
        ),
        ("unable to find user bob: no matching entries in passwd file", "no user bob", "", 1),
        (
            'OCI runtime exec failed: exec failed: unable to start container process: exec: "sh": executable file not '
            "found in $PATH: unknown",
            "no shell",
            "python3",
            1,
        ),
    ],
    "kubectl": [
        ('Error from server (NotFound): pods "web" not found', "there is no web among the pods", "get pods", 0),
        ('Error from server (NotFound): namespaces "ns" not found', "there is no ns among the namespaces", "", 0),
        (
            'Error from server (Forbidden): pods "web" is forbidden: User "me" cannot create resource "pods/exec" in '
            'API group "" in the namespace "ns"',
            "does not let you run commands",
            "auth can-i",
            1,
        ),
        ("error: You must be logged in to the server (Unauthorized)", "does not know you", "log in", 1),
        (
            'E1122 14:58:46.379554 17744 memcache.go:265] "Unhandled Error" err="couldn\'t get current '
            'server API group list"\n'
            "The connection to the server localhost:8080 was refused - did you specify the right host or port?",
            "nothing answers at localhost:8080",
            "cluster",
            0,
        ),
        (
            "Unable to connect to the server: dial tcp: lookup k8s on 10.0.0.2:53: no such host",
            "no such host",
            "VPN",
            0,
        ),
        ('error: context "nix" does not exist', "no context nix", "get-contexts", 1),
        ("Error from server (BadRequest): container side is not valid for pod web", "no such container", "describe", 0),
        (
            "error: cannot exec into a container in a completed pod; current phase is Succeeded",
            "the pod has ended",
            "",
            0,
        ),
    ],
    "sudo": [
        ("bob is not in the sudoers file.", "bob may not use sudo", "visudo", 1),
        ("bob is not in the sudoers file.  This incident will be reported.", "bob may not use sudo", "visudo", 1),
        (
            "Sorry, user bob is not allowed to execute '/bin/sh -c x' as root on box.",
            "does not let bob",
            "visudo",
            1,
        ),
        ("sudo: unknown user nosuch\nsudo: error initializing audit plugin sudoers_audit", "no user nosuch", "", 1),
        ("Sorry, try again.\nsudo: 3 incorrect password attempts", "did not accept the password", "own password", 1),
        ("sudo: no password was provided\nsudo: a password is required", "wants a password", "NOPASSWD", 1),
        ("sudo: no askpass program specified, try setting SUDO_ASKPASS", "wants a password", "NOPASSWD", 1),
        (
            'sudo: The "no new privileges" flag is set, which prevents sudo from running as root.',
            "can do nothing",
            "containers",
            1,
        ),
    ],
}


@pytest.mark.parametrize(
    ("kind", "text", "reason", "remedy", "needs_you"),
    [(kind, *row) for kind, rows in SAID.items() for row in rows],
)
def test_what_was_said_is_explained_and_kept(kind, text, reason, remedy, needs_you):
    error = explain("web1", kind, text + "\r\n", 255, None)

    assert reason in error.reason
    assert remedy.lower() in error.remedy.lower()
    assert any(line[:100] in error.reason for line in text.splitlines())
    assert error.needs_you == bool(needs_you)
    assert (error.busy, is_transient(text, 255)) == (False, False)


def test_it_is_explained_for_any_link_by_what_it_said():
    assert "no container box" in explain("web1", "link", "Error: No such container: box", 1, None).reason


def test_what_is_not_known_is_shown_as_it_was_said():
    error = explain("web1", "link", "one\ntwo\n\nthree \x1b[31mred\x1b[0m\nfour\n", 3, None)

    assert error.reason == "its command ended with 3: two / three red / four"
    assert (error.remedy, error.busy, error.needs_you) == ("", False, False)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (1, "ssh ended with 1 and said nothing"),
        (-9, "ssh was ended by signal 9 and said nothing"),
        (None, "ssh ended and said nothing"),
    ],
)
def test_silence_is_told_with_how_it_ended(code, reason):
    assert explain("web1", "ssh", "", code, None).reason == reason


def test_who_said_no_is_not_told_that_nobody_was_there():
    question = Question("web1", "web1: Verification code:", True, "code")
    error = explain("web1", "ssh", "me@h: Permission denied (keyboard-interactive).", 255, question)

    assert error.reason == "it asked for a one-time code (Verification code:), and got none"


def test_a_locked_key_with_nobody_there_is_for_the_agent():
    question = headless("passphrase", "Enter passphrase for key '/k':")

    assert "ssh-add" in explain("web1", "ssh", "me@h: Permission denied (publickey).", 255, question).remedy


def test_a_question_without_an_answer_is_not_blamed_for_another_failure():
    said = "ssh: connect to host h port 22: Connection refused"

    assert "nothing listens" in explain("web1", "ssh", said, 255, headless("passphrase")).reason


def test_a_program_that_is_not_there():
    error = cannot_run("web1", "/usr/bin/kubectl", FileNotFoundError(2, "No such file or directory"))

    assert error.reason == "there is no program '/usr/bin/kubectl' here"
    assert "package kubectl" in error.remedy
    assert error.needs_you


def test_a_program_that_may_not_be_run():
    assert "Permission denied" in cannot_run("web1", "x", PermissionError(13, "Permission denied")).reason


@pytest.mark.parametrize(
    ("prompt", "hint", "kind", "secret"),
    [
        ("me@host's password: ", "", "password", True),
        ("otp@host's password: ", "", "password", True),
        ("(token@host) Password: ", "", "password", True),
        ("[sudo] password for me: ", "", "password", True),
        ("[sudo] Passwort für me: ", "", "password", True),
        ("Enter passphrase for key '/home/me/.ssh/otp_password': ", "", "passphrase", True),
        ("Enter PIN for ED25519-SK key /k: ", "", "passphrase", True),
        ("(me@host) Verification code: ", "", "code", True),
        ("One-time password (OATH) for `me': ", "", "code", True),
        ("Duo two-factor login for me\n\nPasscode or option (1-3): ", "", "code", True),
        ("What is your quest? ", "", "other", True),
        ("Sure? (yes/no/[fingerprint])? ", "", "host key", False),
        ("Are you sure you want to continue connecting (yes/no)? ", "", "host key", False),
        ("Please type 'yes', 'no' or the fingerprint: ", "", "host key", False),
        ("Allow use of key /password?", "confirm", "other", False),
        ("Confirm user presence for key ECDSA-SK", "none", "other", False),
    ],
)
def test_a_prompt_tells_what_is_wanted(prompt, hint, kind, secret):
    question = read_prompt("web1", prompt, hint)

    assert (question.kind, question.secret) == (kind, secret)
    assert question.text == f"web1: {prompt.strip()}"


def test_a_prompt_cannot_play_with_the_terminal():
    question = read_prompt("web1", "\x1b[2J\x1b]0;title\x07Pass\x00word\u202e:\r\nnew\tline\x9b1m\x1b")

    assert question.text == "web1: Password:\nnewline1m"


def test_a_prompt_without_end_is_cut():
    assert len(read_prompt("web1", "x" * 100_000).text) < ssh_words.LONGEST_PROMPT + 10


def test_fingerprints_are_those_of_ssh_keygen(tmp_path):
    for kind in ("ed25519", "ecdsa", "rsa"):
        public = make_key(tmp_path / kind, kind=kind).with_name(f"{kind}.pub")
        assert ssh_words.fingerprint(public.read_text()) == fingerprint(public)
        assert ssh_words.fingerprint(f"@cert-authority *.x {public.read_text()}") == fingerprint(public)


@pytest.mark.parametrize("line", ["", "# comment", "host ssh-ed25519", "host ssh-ed25519 AAAA=!", "host ssh-rsa AAAAB"])
def test_a_line_without_a_key_has_no_fingerprint(line):
    assert ssh_words.fingerprint(line) == ""
