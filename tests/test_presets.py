"""Names that say how to get there, the commands they stand for, and what ssh makes of ours."""

from __future__ import annotations

import pickle
import shlex
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmdop_jupyter.errors import InvalidRequest
from cmdop_jupyter.machines.presets import (
    Place,
    docker_command,
    explicit,
    kubectl_command,
    ssh_command,
    sudo_command,
)

OPTIONS = shlex.split(
    "ssh -T -e none -o IgnoreUnknown=SessionType,StdinNull,ForkAfterAuthentication -o RequestTTY=no "
    "-o RemoteCommand=none -o SessionType=default -o StdinNull=no -o ForkAfterAuthentication=no "
    "-o ClearAllForwardings=yes -o PermitLocalCommand=no -o ControlMaster=no "
    "-o ServerAliveInterval=5 -o ServerAliveCountMax=3"
)


def what_ssh_makes_of(command):
    """Each option that ssh would use, as `ssh -G` says, its values in a list."""
    words = [command[0], "-G", *command[1:]]
    done = subprocess.run(words, check=True, capture_output=True, text=True, timeout=20)
    options = {}
    for line in done.stdout.splitlines():
        key, _, value = line.partition(" ")
        options.setdefault(key, []).append(value)
    return options


@pytest.mark.parametrize(
    ("destination", "words"),
    [
        ("web1", ["--", "web1"]),
        ("me@web1", ["--", "me@web1"]),
        ("me@corp.example@gate", ["--", "me@corp.example@gate"]),
        ("ssh://web1", ["--", "web1"]),
        ("ssh://web1/", ["--", "web1"]),
        ("ssh://Me@Web1:2222", ["-p", "2222", "-l", "Me", "--", "Web1"]),
        ("ssh://me%40corp@web1", ["-l", "me@corp", "--", "web1"]),
        ("ssh://me@[fe80::1%eth0]:22", ["-p", "22", "-l", "me", "--", "fe80::1%eth0"]),
        ("fe80::1", ["--", "fe80::1"]),
    ],
)
def test_ssh_gets_our_options_then_the_destination(destination, words):
    assert list(ssh_command(destination)) == OPTIONS + words


def test_more_options_stand_behind_ours():
    command = ssh_command("ssh://web1:22", options=("-F", "file"))

    assert list(command) == [*OPTIONS, "-F", "file", "-p", "22", "--", "web1"]


@pytest.mark.parametrize(
    "destination",
    [
        "",
        "@",
        "me@",
        "@web1",
        "ssh://",
        "ssh://@web1",
        "-oProxyCommand=touch x",
        "me@-oProxyCommand=touch x",
        "-oProxyCommand=touch@web1",
        "ssh://-lroot@web1",
        "ssh://%2Doption@web1",
        "ssh://-oProxyCommand=x",
        "ssh://[-x]",
        "web1;reboot",
        "$(reboot)",
        "web 1",
        "web1\n",
        "web*",
        "!web1",
        "a`id`@web1",
        "me -x@web1",
        "me\\@web1",
        "ssh://web1:0",
        "ssh://web1:65536",
        "ssh://web1:ssh",
        "ssh://web1/srv",
        "ssh://web1?x=1",
    ],
)
def test_what_could_be_an_option_or_reach_a_shell_is_refused(destination):
    with pytest.raises(InvalidRequest):
        ssh_command(destination)


def test_host_and_port_without_ssh_are_refused_with_the_right_form():
    with pytest.raises(InvalidRequest, match="ssh://me@web1:2222"):
        ssh_command("me@web1:2222")


def test_a_password_in_a_name_is_refused_and_not_repeated():
    with pytest.raises(InvalidRequest, match="password") as caught:
        explicit("ssh://me:geheim@web1")

    assert "geheim" not in str(caught.value)


@given(st.text(max_size=12), st.booleans())
def test_a_destination_is_refused_or_stands_alone_behind_the_dashes(text, url):
    try:
        command = ssh_command(f"ssh://{text}" if url else text)
    except InvalidRequest:
        return

    dashes = command.index("--")
    host = command[dashes + 1]
    assert len(command) == dashes + 2
    assert not host.startswith("-")
    assert not set(host.rpartition("@")[2]) & set("'`\"$\\;&<>|(){}*?! \n\t\0")
    assert list(command[: len(OPTIONS)]) == OPTIONS


HOSTILE = """
IgnoreUnknown {ignore}
Host *
    UseKeychain yes
    RequestTTY force
    RemoteCommand tmux attach
    LocalForward 8080 localhost:80
    RemoteForward 9090 localhost:90
    DynamicForward 1080
    ExitOnForwardFailure yes
    Tunnel yes
    ControlMaster auto
    ControlPath {folder}/%C
    PermitLocalCommand yes
    LocalCommand touch {folder}/ran
    SessionType none
    StdinNull yes
    ForkAfterAuthentication yes
    ServerAliveInterval 0
    EscapeChar ~
    User somebody
"""


def test_our_options_win_over_the_users_file(tmp_path):
    config = tmp_path / "config"
    config.write_text(HOSTILE.format(folder=tmp_path, ignore="UseKeychain"))
    options = ("-F", str(config))

    theirs = what_ssh_makes_of(("ssh", *options, "web1"))
    ours = what_ssh_makes_of(ssh_command("web1", options=options, ignore_unknown=["UseKeychain"]))

    assert theirs["requesttty"] == ["force"]
    assert theirs["controlmaster"] == ["auto"]
    assert {"remotecommand", "localforward", "remoteforward", "dynamicforward"} <= theirs.keys()
    assert ours["requesttty"] == ["false"]
    assert ours["sessiontype"] == ["default"]
    assert ours["stdinnull"] == ours["forkafterauthentication"] == ours["permitlocalcommand"] == ["no"]
    assert ours["controlmaster"] == ours["tunnel"] == ["false"]
    assert ours["escapechar"] == ["none"]
    assert ours["serveraliveinterval"] == ["5"]
    assert ours["serveralivecountmax"] == ["3"]
    assert ours.get("remotecommand", ["none"]) == ["none"]
    assert not {"localforward", "remoteforward", "dynamicforward"} & ours.keys()
    assert ours["controlpath"][0].startswith(str(tmp_path))  # a live master of theirs is used
    assert ours["user"] == ["somebody"]


def test_the_users_ignored_options_must_be_told_to_ssh_again(tmp_path):
    config = tmp_path / "config"
    config.write_text("IgnoreUnknown UseKeychain\nUseKeychain yes\n")
    options = ("-F", str(config))

    with pytest.raises(subprocess.CalledProcessError):
        what_ssh_makes_of(ssh_command("web1", options=options))
    assert what_ssh_makes_of(ssh_command("web1", options=options, ignore_unknown=["UseKeychain"]))


def test_ssh_reads_user_and_port_out_of_a_url(tmp_path):
    config = tmp_path / "config"
    config.write_text("Host web1\n HostName 192.0.2.1\n Port 1\n User somebody\n")

    made = what_ssh_makes_of(ssh_command("ssh://me@web1:2222", options=("-F", str(config))))

    assert (made["hostname"], made["user"], made["port"]) == (["192.0.2.1"], ["me"], ["2222"])


def test_ssh_takes_what_follows_for_the_remote_command():
    words = (*ssh_command("web1", options=("-F", "none")), "-oPort=99")  # as the last word is appended

    assert what_ssh_makes_of(words)["port"] == ["22"]


@pytest.mark.parametrize(
    ("name", "kind", "line"),
    [
        ("docker://box", "docker", "docker exec -i box sh -c"),
        ("docker://1000:1000@box", "docker", "docker exec -i --user=1000:1000 box sh -c"),
        ("docker://box?context=far", "docker", "docker --context=far exec -i box sh -c"),
        ("k8s://prod/web-0", "kubectl", "kubectl --namespace=prod exec -i web-0 -- sh -c"),
        ("k8s://prod/web-0/app", "kubectl", "kubectl --namespace=prod exec -i web-0 --container=app -- sh -c"),
        (
            "k8s://prod/web-0?context=arn:aws:eks:eu:1:cluster/x",
            "kubectl",
            "kubectl --context=arn:aws:eks:eu:1:cluster/x --namespace=prod exec -i web-0 -- sh -c",
        ),
        ("sudo://postgres", "sudo", "sudo -A -H -u postgres -- sh -c"),
        ("sudo://%231000", "sudo", "sudo -A -H -u #1000 -- sh -c"),
    ],
)
def test_an_explicit_name_is_a_command_that_takes_one_more_word(name, kind, line):
    assert explicit(name) == (kind, tuple(line.split()))


@pytest.mark.parametrize("name", ["web1", "local", "@web", "@", "", "a.b.c"])
def test_a_plain_name_says_nothing_of_the_way(name):
    assert explicit(name) is None


def test_user_at_host_is_ssh():
    assert explicit("me@web1") == ("ssh", ssh_command("me@web1"))


@pytest.mark.parametrize(
    "name",
    [
        "docker://",
        "docker://-it",
        "docker://--privileged@box",
        "docker://box sh",
        "docker://box/x",
        "docker://box?context=",
        "docker://box?context=-x",
        "docker://box?tls=1",
        "k8s://pod",
        "k8s:///pod",
        "k8s://ns/-it",
        "k8s://ns/pod/--",
        "k8s://ns/pod/c/d",
        "k8s://Ns/pod",
        "sudo://",
        "sudo://-i",
        "sudo://a b",
        "sudo://a/b",
        "sudo://a?context=b",
    ],
)
def test_names_that_cannot_be_right_are_refused(name):
    with pytest.raises(InvalidRequest):
        explicit(name)


def test_an_unknown_scheme_is_refused_with_the_nearest():
    with pytest.raises(InvalidRequest, match="did you mean docker://"):
        explicit("dokcer://box")
    with pytest.raises(InvalidRequest, match="k8s://namespace/pod"):
        explicit("https://example.com")


@given(st.sampled_from(["docker", "k8s", "sudo"]), st.text(max_size=15))
def test_no_explicit_name_smuggles_in_an_option(scheme, text):
    try:
        way = explicit(f"{scheme}://{text}")
    except InvalidRequest:
        return

    plain = {"docker": docker_command("x"), "k8s": kubectl_command("x", "x"), "sudo": sudo_command("x")}[scheme]
    ours = {"--context", "--namespace", "--user", "--container", *plain}
    assert {word.partition("=")[0] for word in way[1] if word.startswith("-")} <= ours
    assert way[1][-2:] == ("sh", "-c")


def test_a_shell_there_gets_the_word_as_it_is():
    tail = sudo_command("x")[-2:]  # what docker, kubectl and sudo end with
    done = subprocess.run([*tail, "printf %s \"it's 'one' word\""], capture_output=True, check=True, text=True)

    assert done.stdout == "it's 'one' word"


def test_a_place_can_be_a_key_and_be_pickled():
    place = Place("web1", "ssh", ssh_command("web1"), env={"A": "1"})

    assert {place: 1}[pickle.loads(pickle.dumps(place))] == 1
