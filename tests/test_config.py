"""Names of machines: which files are read, which of them wins, what they may say, and what ssh's own file adds."""

from __future__ import annotations

import os
import pickle
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmdop_jupyter import config as config_module
from cmdop_jupyter.config import Config, stranger
from cmdop_jupyter.errors import CmdopError, ConfigError, InvalidRequest, UnknownMachine
from cmdop_jupyter.machines import ssh_hosts
from cmdop_jupyter.machines.presets import ssh_command
from cmdop_jupyter.machines.settings import KEYS, nearest, parse_file
from cmdop_jupyter.machines.ssh_hosts import HostLine, SshHosts, read_ssh_hosts


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home of its own, with the current folder in a project below it."""
    home = tmp_path / "home"
    (home / "project" / "notebooks").mkdir(parents=True)
    (home / ".ssh").mkdir()
    (home / ".config" / "cmdop").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.chdir(home / "project" / "notebooks")
    return home


def config(text, ssh=""):
    """A configuration of one file, and what Host lines there are."""
    hosts = SshHosts(tuple(HostLine(tuple(line.split())) for line in ssh.splitlines()))
    return Config([parse_file(text, "/p/cmdop.toml")], hosts)


def problem(text):
    with pytest.raises(ConfigError) as caught:
        config(text)
    assert caught.value.path == "/p/cmdop.toml"
    assert str(caught.value).startswith("/p/cmdop.toml: ")
    return caught.value


# -- what a machine may say


def test_a_machine_has_all_that_its_table_says():
    place = config(
        """
        [machines.web1]
        ssh = "me@web1.example.com"
        python = "/opt/python"
        cwd = "~/app"
        env = { A = "1", B = "" }
        shell = "zsh"
        login = true
        detach = "systemd"
        tags = ["web", "prod"]
        confirm = true
        silence = 30
        """
    ).resolve("web1")

    assert (place.name, place.kind) == ("web1", "ssh")
    assert place.command == ssh_command("me@web1.example.com")
    assert (place.python, place.cwd, place.shell) == ("/opt/python", "~/app", "zsh")
    assert place.env == {"A": "1", "B": ""}
    assert place.login is place.confirm is True
    assert place.detach == ("systemd-run", "--user", "--scope", "--quiet", "--collect", "--")
    assert place.tags == ("web", "prod")
    assert place.silence == 30.0
    assert place.source == "cmdop.toml in /p"


@pytest.mark.parametrize(
    ("way", "kind", "command"),
    [
        ('docker = "box"', "docker", "docker exec -i box sh -c"),
        ('docker = "me@box?context=far"', "docker", "docker --context=far exec -i --user=me box sh -c"),
        ('docker = "docker://box"', "docker", "docker exec -i box sh -c"),
        ('kubectl = "prod/web-0"', "kubectl", "kubectl --namespace=prod exec -i web-0 -- sh -c"),
        ('sudo = "postgres"', "sudo", "sudo -A -H -u postgres -- sh -c"),
        ('link = ["lxc", "exec", "box", "--", "sh", "-c"]', "link", "lxc exec box -- sh -c"),
        ('ssh = "ssh://me@web1:22"', "ssh", " ".join(ssh_command("ssh://me@web1:22"))),
    ],
)
def test_each_way_makes_its_command(way, kind, command):
    place = config(f"[machines.m]\n{way}").resolve("m")

    assert (place.kind, place.command) == (kind, tuple(command.split()))


def test_detach_may_be_words_and_none_at_all():
    machines = config(
        '[machines]\na = {sudo = "x", detach = ["setsid"]}\nb = {sudo = "x", detach = []}\n'
        '[defaults]\ndetach = "systemd"'
    )

    assert machines.resolve("a").detach == ("setsid",)
    assert machines.resolve("b").detach == ()


def test_a_machine_without_a_way_is_the_host_of_that_name_in_sshs_file():
    text = "[machines.gpu]\nconfirm = true"

    place = config(text, ssh="gpu").resolve("gpu")

    assert (place.kind, place.command, place.confirm) == ("ssh", ssh_command("gpu"), True)
    with pytest.raises(ConfigError, match='ssh = "gpu"') as caught:
        config(text).resolve("gpu")
    assert caught.value.key == "machines.gpu"


@pytest.mark.parametrize(
    ("text", "key", "reason"),
    [
        ('[machine.web1]\nssh = "x"', "machine", "did you mean machines"),
        ('[machines.web1]\nshh = "x"', "machines.web1.shh", "did you mean ssh"),
        ('[machines.web1]\nzzz = "x"', "machines.web1.zzz", "there are ssh, docker"),
        ("machines = 3", "machines", "it is a table, not a number"),
        ("[machines]\nweb1 = 'me@web1'", "machines.web1", "it is a table, not a string"),
        ("[machines.'web 1']\nssh = 'x'", "machines.web 1", "cannot be a name"),
        ("[machines.'@web']\nssh = 'x'", "machines.@web", "cannot be a name"),
        ("[machines.web1]\nssh = 3", "machines.web1.ssh", "it is a string, not a number"),
        ("[machines.web1]\nssh = ''", "machines.web1.ssh", "it cannot be ''"),
        ("[machines.web1]\nssh = '-oProxyCommand=x'", "machines.web1.ssh", "no destination for ssh"),
        ("[machines.web1]\nssh = 'web1:22'", "machines.web1.ssh", "ssh://web1:22"),
        ("[machines.web1]\ndocker = '--help'", "machines.web1.docker", "cannot be a container"),
        ("[machines.web1]\nkubectl = 'pod'", "machines.web1.kubectl", "k8s://namespace/pod"),
        ("[machines.web1]\nlink = 'docker exec box'", "machines.web1.link", '["docker", "exec", "box"]'),
        ("[machines.web1]\nlink = []", "machines.web1.link", "it is empty"),
        ("[machines.web1]\nlink = ['a', 1]", "machines.web1.link", "a list of strings, not a number"),
        ("[machines.web1]\nssh = 'a'\nlink = ['b']", "machines.web1", "2 ways to be reached: ssh and link"),
        ("[machines.local]\nssh = 'a'", "machines.local.ssh", "`local` is this machine"),
        ("[machines.web1]\nlogin = 'yes'", "machines.web1.login", "it is true or false, not a string"),
        ("[machines.web1]\nconfirm = 1", "machines.web1.confirm", "it is true or false, not a number"),
        ("[machines.web1]\ncwd = 1979-05-27", "machines.web1.cwd", "not a date or time"),
        ("[machines.web1]\nenv = ['A=1']", "machines.web1.env", "it is a table of variables, not a list"),
        ("[machines.web1]\nenv = {PORT = 80}", "machines.web1.env", "PORT is a number; a variable's value"),
        ("[machines.web1]\nenv = {'A=' = '80'}", "machines.web1.env", "'A=' cannot be a variable"),
        ("[machines.web1]\nsilence = 0.5", "machines.web1.silence", "at least 1, not 0.5"),
        ("[machines.web1]\nsilence = true", "machines.web1.silence", "a number of seconds"),
        ("[machines.web1]\nsilence = nan", "machines.web1.silence", "a number of seconds"),
        ("[machines.web1]\nsilence = inf", "machines.web1.silence", "a number of seconds"),
        ("[machines.web1]\ntags = 'web'", "machines.web1.tags", "it is a list of names, not a string"),
        ("[machines.web1]\ntags = ['@web']", "machines.web1.tags", "cannot be a name"),
        ("[machines.web1]\ndetach = 'sytemd'", "machines.web1.detach", '"systemd" or a list of words'),
        ("[defaults]\nssh = 'jump'", "defaults.ssh", "belongs in [machines.NAME]"),
        ("[defaults]\nlogn = true", "defaults.logn", "did you mean login"),
        ("[groups]\nweb = 'web1'", "groups.web", "it is a list of machines, not a string"),
        ("[groups]\nweb = [1]", "groups.web", "it is a string, not a number"),
        ("[groups]\n'@web' = []", "groups.@web", "cannot be a name"),
        ("[groups]\na = ['@b']\nb = ['@c']\nc = ['@a']", "groups.a", "it contains itself: a → b → c → a"),
        ("[groups]\nweb = []\nall = ['@wbe']", "groups.all", "no group or tag is called '@wbe'; did you mean @web?"),
    ],
)
def test_what_cannot_be_is_named_with_file_key_and_what_would_be_right(text, key, reason):
    error = problem(text)

    assert error.key == key
    assert reason in error.reason


def test_a_broken_file_gives_its_line():
    assert "line 3" in problem('[machines.web1]\nssh = "x"\ncwd = \n').reason


def test_the_error_is_ours_a_value_error_and_pickles():
    error = problem("[machine]")

    assert isinstance(error, CmdopError)
    assert isinstance(error, ValueError)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


JUNK = st.recursive(
    st.sampled_from(["1", "true", "'x'", "''", "nan", "1979-05-27", "'systemd'", "[]", "{}"]),
    lambda inner: (
        st.lists(inner, max_size=2).map(lambda items: f"[{', '.join(items)}]")
        | st.tuples(st.sampled_from(["A", "ssh", "'@b'"]), inner).map(lambda pair: f"{{{pair[0]} = {pair[1]}}}")
    ),
    max_leaves=4,
)


@given(st.sampled_from(["machines.m", "defaults", "groups", "machines"]), st.sampled_from([*KEYS, "other"]), JUNK)
def test_any_value_anywhere_is_taken_or_is_a_config_error(table, key, value):
    wrong, machines = "", Config()
    try:
        machines = config(f"[{table}]\n{key} = {value}", ssh=" ".join(["m", "other", "A", *KEYS]))
    except ConfigError as error:
        wrong = error.key

    assert not wrong or wrong.startswith(table.partition(".")[0])
    for name in machines.names():
        if not name.startswith("@"):
            machines.resolve(name)


# -- which file wins


def write(path, text):
    path.write_text(text)
    return path


def test_the_narrowest_file_wins_for_each_machine_and_group_as_a_whole(home, monkeypatch):
    write(
        home / ".config" / "cmdop" / "config.toml",
        '[machines]\na = {ssh = "user"}\nb = {ssh = "user", cwd = "/user"}\nc = {ssh = "user"}\n'
        '[groups]\ng = ["a"]\nh = ["c"]\n[defaults]\nsilence = 20\nenv = {A = "user", B = "user"}\nshell = "user"',
    )
    write(
        home / "project" / "cmdop.toml",
        '[machines]\na = {ssh = "project"}\nb = {ssh = "project"}\n[groups]\ng = ["b"]\n'
        '[defaults]\nshell = "project"\nenv = {B = "project", C = "project"}',
    )
    write(home / "chosen.toml", '[machines.a]\nssh = "chosen"\nenv = {C = "chosen"}\n[defaults]\nlogin = true')
    monkeypatch.setenv("CMDOP_CONFIG", "~/chosen.toml")

    seen = Config.load()
    a, b, c = (seen.resolve(name) for name in "abc")

    assert [place.command[-1] for place in (a, b, c)] == ["chosen", "project", "user"]
    assert [place.source for place in (a, b, c)] == [
        "chosen.toml in ~",
        "cmdop.toml in ~/project",
        "config.toml in ~/.config/cmdop",
    ]
    assert b.cwd is None
    assert (a.silence, a.shell, a.login) == (20, "project", True)
    assert a.env == {"A": "user", "B": "project", "C": "chosen"}
    assert (seen.group("g"), seen.group("h")) == (["b"], ["c"])


def test_only_the_nearest_project_file_is_read(home):
    write(home / "cmdop.toml", '[machines.far]\nssh = "x"')
    write(home / "project" / "cmdop.toml", '[machines.near]\nssh = "x"')

    assert "near" in Config.load().names()
    assert "far" not in Config.load().names()
    assert "far" in Config.load(home).names()


def test_the_users_folder_may_lie_elsewhere_but_not_at_a_relative_path(home, monkeypatch):
    (home / "xdg" / "cmdop").mkdir(parents=True)
    write(home / "xdg" / "cmdop" / "config.toml", '[machines.m]\nssh = "xdg"')
    write(home / ".config" / "cmdop" / "config.toml", '[machines.m]\nssh = "dot"')

    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "xdg"))
    assert Config.load().resolve("m").command[-1] == "xdg"
    monkeypatch.setenv("XDG_CONFIG_HOME", "xdg")
    monkeypatch.chdir(home)
    assert Config.load().resolve("m").command[-1] == "dot"


def test_a_file_is_read_anew_each_time(home):
    write(home / "project" / "cmdop.toml", '[machines.one]\nssh = "x"')
    before = Config.load()
    write(home / "project" / "cmdop.toml", '[machines.two]\nssh = "x"')

    assert "one" in before.names()
    assert Config.load().names() == ["local", "two"]


def test_without_files_there_is_this_machine(home):
    assert Config.load().names() == ["local"]


def test_a_chosen_file_that_is_missing_is_an_error(home, monkeypatch):
    monkeypatch.setenv("CMDOP_CONFIG", str(home / "none.toml"))

    with pytest.raises(ConfigError, match=r"none\.toml: CMDOP_CONFIG names this file, and it is not there"):
        Config.load()


def test_a_file_that_is_not_text_gives_its_line(home):
    (home / "project" / "cmdop.toml").write_bytes(b"# one\n# two \xff\n")

    with pytest.raises(ConfigError, match=r"UTF-8.*line 2"):
        Config.load()


def test_a_file_with_a_byte_order_mark_is_read(home):
    (home / "project" / "cmdop.toml").write_bytes(b'\xef\xbb\xbf[machines.m]\r\nssh = "x"\r\n')

    assert Config.load().resolve("m").kind == "ssh"


def test_a_deleted_folder_leaves_the_users_own_file(home, monkeypatch):
    write(home / ".config" / "cmdop" / "config.toml", '[machines.m]\nssh = "x"')
    (home / "gone").mkdir()
    monkeypatch.chdir(home / "gone")
    (home / "gone").rmdir()

    assert Config.load().resolve("m").kind == "ssh"


def test_a_strangers_file_above_our_folder_is_refused_unless_it_is_chosen(home, monkeypatch):
    path = write(home / "project" / "cmdop.toml", '[machines.m]\nlink = ["sh", "-c"]')
    owners = {path: os.getuid() + 1}
    monkeypatch.setattr(config_module, "_owner", lambda path: owners.get(path, os.getuid()))

    with pytest.raises(ConfigError, match=f"it belongs to uid {os.getuid() + 1}, not to you"):
        Config.load()
    monkeypatch.setenv("CMDOP_CONFIG", str(path))
    assert Config.load().resolve("m").kind == "link"


@pytest.mark.parametrize(("owner", "trusted"), [(0, True), (1000, True), (1001, True), (1002, False)])
def test_a_file_of_ours_of_root_or_of_the_folders_owner_is_trusted(owner, trusted):
    assert (stranger(owner, us=1000, host=1001) == "") is trusted


# -- resolving


FILE = """
[machines]
web1 = {ssh = "web1.example.com", tags = ["web"]}
web2 = {sudo = "www", tags = ["web", "slow"]}
local = {cwd = "/tmp", tags = ["slow"]}

[groups]
front = ["web1", "@slow", "docker://cache", "gpu"]
all = ["@front", "@web", "me@elsewhere", "local"]

[defaults]
login = true
"""


def test_explicit_forms_come_first_then_files_then_ssh():
    seen = config(FILE, ssh="gpu web1")

    found = {name: seen.resolve(name) for name in ("local", "web1", "gpu", "docker://cache", "me@web1", "ssh://web1")}

    assert [(place.kind, place.source) for place in found.values()] == [
        ("local", "cmdop.toml in /p"),
        ("ssh", "cmdop.toml in /p"),
        ("ssh", "~/.ssh/config"),
        ("docker", "as given"),
        ("ssh", "as given"),
        ("ssh", "as given"),
    ]
    assert found["web1"].command[-1] == "web1.example.com"
    assert found["ssh://web1"].command[-1] == "web1"
    assert [name for name, place in found.items() if not place.login] == ["local"]
    assert [place.name for place in found.values()] == list(found)


def test_local_is_this_machine_with_what_its_table_says():
    assert config("").resolve("local").command == ()
    assert config(FILE).resolve("local").cwd == "/tmp"


def test_an_unknown_name_has_its_nearest():
    with pytest.raises(UnknownMachine) as caught:
        config(FILE, ssh="GPU-1").resolve("wbe1")
    assert caught.value.nearest[0] == "web1"
    assert "did you mean web1" in str(caught.value)
    assert "cmdop.toml" in str(caught.value)
    assert "~/.ssh/config" in str(caught.value)
    with pytest.raises(UnknownMachine, match="did you mean GPU-1"):
        config(FILE, ssh="GPU-1").resolve("gpu1")


def test_a_name_that_is_part_of_others_has_them_as_nearest():
    assert nearest("db", ["production-db-7.example.com", "web"]) == ("production-db-7.example.com",)
    assert nearest("zz", ["web1", "local"]) == ()


@pytest.mark.parametrize("name", ["", "-oProxyCommand=x", "web1 ", "*"])
def test_what_is_no_name_is_unknown(name):
    with pytest.raises(UnknownMachine):
        config(FILE, ssh="*").resolve(name)


def test_an_explicit_form_that_cannot_be_right_is_refused():
    with pytest.raises(InvalidRequest):
        config(FILE).resolve("ssh://-x")


def test_a_group_is_expanded_in_order_each_machine_once():
    seen = config(FILE, ssh="gpu")

    assert seen.group("front") == seen.group("@front") == ["web1", "web2", "local", "docker://cache", "gpu"]
    assert seen.group("@all") == ["web1", "web2", "local", "docker://cache", "gpu", "me@elsewhere"]
    assert seen.group("@slow") == ["web2", "local"]
    assert seen.groups["front"] == ("web1", "@slow", "docker://cache", "gpu")


def test_a_group_is_no_machine():
    with pytest.raises(InvalidRequest, match="@web is not one machine: web1, web2"):
        config(FILE).resolve("@web")
    with pytest.raises(UnknownMachine, match=r"no group or tag is called '@wbe'; did you mean @web\?"):
        config(FILE).resolve("@wbe")
    with pytest.raises(UnknownMachine, match="no group or tag"):
        config(FILE).group("web1")


@pytest.mark.parametrize("member", ["wbe1", "ssh://-x", "local2"])
def test_a_member_that_is_no_machine_is_an_error_of_the_file_and_stops_nothing_else(member):
    seen = config(f'{FILE}\n[machines.x]\nssh = "x"'.replace('"gpu"', f'"{member}"'))

    with pytest.raises(ConfigError) as caught:
        seen.group("all")
    assert (caught.value.path, caught.value.key) == ("/p/cmdop.toml", "groups.front")
    assert member in caught.value.reason
    assert seen.resolve("x").kind == "ssh"


def test_names_are_all_there_is_to_ask_for_each_once():
    seen = config(FILE, ssh="gpu web1\nweb*\n!x y\ngpu *\n-bad a(b local")

    assert seen.names() == ["local", "web1", "web2", "gpu", "y", "@front", "@all", "@web", "@slow"]


def test_every_single_name_of_the_list_resolves():
    seen = config(FILE, ssh="gpu web1\nweb*\n!x y")

    assert all(seen.resolve(name).name == name for name in seen.names() if not name.startswith("@"))


# -- what ssh's own file names


def ssh_matches(path, name):
    """Whether ssh itself heeds a `User matched` of that file for a name."""
    words = ["ssh", "-F", str(path), "-G", name]
    return "user matched\n" in subprocess.run(words, capture_output=True, check=True, text=True, timeout=20).stdout


def test_hosts_come_from_the_users_ssh_config(home):
    write(home / ".ssh" / "config", "IgnoreUnknown UseKeychain\nHost gpu\n  HostName 192.0.2.1\nHost *\n  User me\n")

    place = Config.load().resolve("gpu")

    assert (place.kind, place.source) == ("ssh", "~/.ssh/config")
    assert place.command == ssh_command("gpu", ignore_unknown=["UseKeychain"])
    assert Config.load().names() == ["local", "gpu"]
    assert Config.load().resolve("me@other").command[5].endswith(",UseKeychain")


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("Host a b", ["a", "b"]),
        ("host a\nHOST b", ["a", "b"]),
        ("Host=a\nHost = b\n\tHost\tc", ["a", "b", "c"]),
        ('Host "a" b', ["a", "b"]),
        ("Host a # b\n#Host c\n  # Host d", ["a"]),
        ("Host a\r\nHost b\r\n", ["a", "b"]),
        ("HostName a\nHostKeyAlias b", []),
        ("Host\nHost \nHost #", []),
        ("Host web* ?db\nHost a* abc", ["abc"]),
        ("Match host a\nHost b", ["b"]),
        ("Host a !a b", ["b"]),
        ("Host a a\nHost a", ["a"]),
        ("Host \x00 \xff a", ["ÿ", "a"]),
    ],
)
def test_host_lines_as_ssh_reads_them(tmp_path, text, names):
    path = tmp_path / "config"
    path.write_bytes(text.encode())

    assert read_ssh_hosts(path).names() == names


def test_included_files_are_read_where_they_are_included(home):
    (home / ".ssh" / "more.d").mkdir()
    write(home / ".ssh" / "config", "Host a\nMatch all\nInclude more.d/* ~/abs.conf nowhere\nHost z\n")
    write(home / ".ssh" / "more.d" / "2", "Host c\n")
    write(home / ".ssh" / "more.d" / "1", f'Host b\nMatch all\nInclude "{home}/with blank"\n')
    write(home / "with blank", "Host b2\nIgnoreUnknown One,Two")
    write(home / "abs.conf", "Host d\n")

    hosts = read_ssh_hosts(home / ".ssh" / "config")

    assert hosts.names() == ["a", "b", "b2", "c", "d", "z"]
    assert hosts.ignore_unknown == ("One", "Two")


def test_what_is_included_under_a_host_line_is_for_those_hosts_only(tmp_path):
    user = "\n  User matched\n"
    write(tmp_path / "more", f"Host a.corp{user}Host b{user}Host *.corp{user}")
    path = write(tmp_path / "config", f"Host *.corp !c.corp\n  Include {tmp_path}/more\nHost z{user}")

    hosts = read_ssh_hosts(path)

    assert hosts.names() == ["a.corp", "z"]
    for name in ("a.corp", "b", "c.corp", "d.corp", "z"):
        assert hosts.knows(name) is ssh_matches(path, name), name


def test_host_lines_bound_what_is_included_all_the_way_down(tmp_path):
    user = "\n  User matched\n"
    write(tmp_path / "inner", f"Host ab{user}Host a.corp b.corp{user}")
    write(tmp_path / "outer", f"Host a*\n  Include {tmp_path}/inner\n")
    path = write(tmp_path / "config", f"Host *.corp\n  Include {tmp_path}/outer\n")

    heeded = [name for name in ("ab", "a.corp", "b.corp") if ssh_matches(path, name)]

    assert read_ssh_hosts(path).names() == heeded == ["a.corp"]


def test_a_file_that_includes_itself_ends(tmp_path):
    path = write(tmp_path / "config", "Host a\nMatch all\nInclude config other *\nHost b\n")
    write(tmp_path / "other", f"Include {path}\nHost c\n")

    assert set(read_ssh_hosts(path).names()) == {"a", "b", "c"}


def test_files_within_files_end_where_ssh_ends_them(tmp_path):
    for number in range(40):
        write(tmp_path / f"{number}", f"Host h{number}\nMatch all\nInclude {tmp_path}/{number + 1}\n")

    assert read_ssh_hosts(tmp_path / "0").names() == [f"h{number}" for number in range(17)]


def test_a_file_that_is_not_there_or_not_text_names_nobody(tmp_path):
    assert read_ssh_hosts(tmp_path / "none") == SshHosts()
    assert read_ssh_hosts(tmp_path) == SshHosts()
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00Host a\n\x80Host b\n")
    assert read_ssh_hosts(tmp_path / "bytes").names() == []


@pytest.mark.parametrize("text", ["Host *", "Host ?*", "Host **", "Host * !bastion", "Host *\nHost !a"])
def test_a_name_that_only_a_line_for_all_matches_is_not_known(tmp_path, text):
    assert not read_ssh_hosts(write(tmp_path / "config", text)).knows("a")


PATTERN = st.text("ab*?!.", min_size=1, max_size=4)


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("web*", ["web", "web1", "aweb"]),
        ("web? !web9 db", ["web", "web1", "web9", "db", "web11"]),
        ("!web1", ["web1", "web2"]),
        ("*.a.b a-?", ["x.a.b", ".a.b", "xaab", "a-b", "a-"]),
        ("[ab] a+", ["a", "[ab]", "a+", "aa"]),
        ("WEB", ["web", "WEB"]),
        ('"web" #web2', ["web", "web2"]),
    ],
)
def test_a_host_line_matches_what_it_matches_for_ssh(tmp_path, line, names):
    path = write(tmp_path / "config", f"Host {line}\n  User matched\n")
    hosts = read_ssh_hosts(path)

    for name in names:
        assert hosts.knows(name) is ssh_matches(path, name), name


@given(st.lists(PATTERN, min_size=1, max_size=3), st.text("ab.", min_size=1, max_size=4))
def test_a_plain_pattern_matches_itself_and_a_negated_one_forbids(patterns, name):
    known = HostLine((*patterns, name)).matches(name)
    forbidden = HostLine((*patterns, name, f"!{name}")).matches(name)

    assert known or any(pattern.startswith("!") for pattern in patterns)
    assert not forbidden


def test_listing_many_hosts_compares_each_with_its_own_line_only(monkeypatch):
    match, compared = ssh_hosts._match, []
    monkeypatch.setattr(ssh_hosts, "_match", lambda pattern, name: compared.append(name) or match(pattern, name))
    lines = tuple(HostLine((f"h{number}",)) for number in range(500))

    assert len(Config([], SshHosts(lines)).names()) == 501
    assert len(compared) == 500


def test_a_folder_may_be_given(home):
    write(home / "project" / "cmdop.toml", '[machines.m]\nssh = "x"')

    assert Config.load(home).names() == ["local"]
    assert Config.load(Path(home, "project", "notebooks")).names() == ["local", "m"]
