"""Cells and verbs on other machines, in a real kernel. The machines are `sh -c` links with stores of their own."""

from __future__ import annotations

import json
import os
import re
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from kernels import html_of, result_of

from cmdop_jupyter.directory import how
from cmdop_jupyter.errors import InvalidRequest, SessionNotFound
from cmdop_jupyter.machines.presets import Place, explicit
from cmdop_jupyter.notebook.links import choose
from cmdop_jupyter.sessions import Session, SessionNotSeen, once

STAY = "exec sleep 1000"
HANGS = f"1000.{os.getpid()}"  # seconds, and how its process is known
SERVER = """
import http.server
class Hello(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(b"hello from there")
server = http.server.HTTPServer(("127.0.0.1", 0), Hello)
print("port", server.server_port, flush=True)
server.serve_forever()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the machines keep their sessions, and a home without configuration."""
    folder = tmp_path_factory.mktemp("machines")
    (folder / "home").mkdir()
    (folder / "gate").touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(folder / "home"))
        for name in ("STATE_HOME", "CACHE_HOME", "CONFIG_HOME"):
            patch.setenv(f"XDG_{name}", str(folder / name.lower()))
        yield folder


@pytest.fixture(scope="module")
def notebook(folder, notebook):
    """The notebook has a cmdop.toml beside it. `gated` is reached while a file is there, `live` asks first."""
    (notebook.work / "cmdop.toml").write_text(configuration(folder))
    return notebook


def configuration(folder: Path) -> str:
    """Machines on this one, each with a folder of sessions of its own."""

    def store(name: str) -> str:
        return json.dumps(["env", f"CMDOP_STATE_DIR={folder / name}", "sh", "-c"])

    ask = '"$SSH_ASKPASS" "password: " >/dev/null && exec sh -c "$0"'
    gate = f'test -e {folder / "gate"} && exec env CMDOP_STATE_DIR={folder / "gated"} sh -c "$0"'
    return f"""
[machines.far]
link = {store("far")}
tags = ["web", "blue"]
[machines.near]
link = {store("near")}
cwd = "/tmp"
env = {{ GREETING = "hello" }}
[machines.twin]
link = {store("near")}
[machines.gated]
link = {json.dumps(["sh", "-c", gate])}
[machines.asks]
link = {json.dumps(["sh", "-c", ask])}
[machines.dead]
link = ["sh", "-c", "echo the cable is out >&2; exit 1"]
[machines.hangs]
link = ["sh", "-c", "sleep {HANGS}"]
[machines.fresh]
link = {store("fresh")}
[machines.live]
link = {store("live")}
confirm = true
"""


@pytest.fixture
def remembered(notebook) -> Iterator[Path]:
    """The list of machines that were reached before, as it was once the test is over."""
    path = Path(notebook._env["CMDOP_STATE_DIR"], "machines.json")
    before = path.read_text() if path.exists() else "[]"
    yield path
    path.write_text(before)


@pytest.fixture
def page(notebook):
    """Somebody looks at the notebook, and could answer."""
    notebook.page = True
    yield
    notebook.page = False


# -- cells


def test_a_cell_runs_on_the_machine_that_its_line_names(notebook, folder):
    cell = notebook.good("%%cmdop far --name there\npwd; echo $CMDOP_STATE_DIR; exec sleep 1000")
    notebook.good("await wait_for('/far$', 'there')")

    assert notebook.ask("(there.machine, there.text().splitlines(), cmdop['there'] is there)") == (
        "far",
        [str(folder / "home"), str(folder / "far")],
        True,
    )
    assert notebook.ask("repr(there)").startswith("<Stream there on far: running")
    notebook.wait_until(lambda: "there on far: " in cell.text and str(folder / "far") in cell.text)


def test_a_machine_has_a_folder_and_variables_and_a_cell_wins(notebook, folder):
    notebook.good("word = 'bonjour'")
    notebook.good('%%cmdop near --name plain --wait\necho "$PWD $GREETING"')
    notebook.good('%%cmdop near --name other --wait --cwd ~ -e GREETING=hi -e word\necho "$PWD $GREETING $word"')

    assert notebook.ask("(plain.text(), other.text())") == (
        "/tmp hello\n",
        f"{folder / 'home'} hi bonjour\n",
    )


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("farr", "UnknownMachine", "did you mean far"),
        ("dead", "ConnectFailed", "the cable is out"),
        ("ssh://me@host:port", "InvalidRequest", "ssh://"),
    ],
)
def test_a_machine_that_cannot_be_is_one_line_and_nothing_is_started(notebook, name, error, words):
    cell = notebook.run(f"%%cmdop {name} --name nothing\n{STAY}")

    assert (cell.error.ename, len(cell.error.traceback)) == (error, 1)
    assert words in str(cell.error)
    assert notebook.ask("'nothing' in cmdop or 'nothing' in globals()") is False


def test_a_configuration_that_makes_no_sense_is_one_line(notebook):
    path = notebook.work / "cmdop.toml"
    before = path.read_text()
    path.write_text(before + "\n[machines.far2]\nlnk = ['sh', '-c']\n")
    try:
        cell = notebook.run(f"%%cmdop far --name nothing\n{STAY}")
        ps = result_of(notebook.good("%cmdop ps"))
    finally:
        path.write_text(before)

    assert (cell.error.ename, len(cell.error.traceback)) == ("ConfigError", 1)
    assert "machines.far2.lnk" in str(cell.error)
    assert "name" in ps or "no sessions" in ps


def test_a_dry_run_tells_how_the_machine_is_reached_and_dials_nothing(notebook):
    told = result_of(notebook.good("%%cmdop dead --name nothing --dry-run\necho hello"))

    rows = dict(re.split(r"  +", line, maxsplit=1) for line in told.splitlines()[1:])
    assert rows["machine"] == "dead (link)"
    assert rows["reached by"] == "sh -c 'echo the cable is out >&2; exit 1'"
    assert rows["known from"].startswith("cmdop.toml in ")
    assert (rows["in"], rows["script"]) == ("its home folder", "echo hello")


def test_a_name_that_runs_there_is_told_with_its_machine(notebook):
    notebook.good(f"%%cmdop far --name taken\n{STAY}")
    notebook.good(f"%%cmdop --name taken\n{STAY}")

    cell = notebook.run(f"%%cmdop far --name taken\n{STAY}")

    assert (cell.error.ename, len(cell.error.traceback)) == ("NameInUse", 1)
    assert "`%cmdop stop far:taken`" in str(cell.error)


def test_the_same_command_there_can_be_attached_to_or_replaced(notebook):
    cell = f"%%cmdop far --name joined --if-running {{}}\necho hello; {STAY}"
    notebook.good(cell.format("attach"))
    first = notebook.ask("joined.session_id")

    notebook.good(cell.format("attach"))
    same = notebook.ask("joined.session_id")
    notebook.good(cell.format("replace"))

    assert same == first
    assert notebook.ask("(joined.session_id, joined.machine, joined.state)") != (first, "far", "running")
    assert notebook.ask("(joined.machine, joined.state)") == ("far", "running")


def test_where_nobody_can_be_asked_a_machine_that_wants_a_word_runs_nothing(notebook):
    cell = notebook.run("%%cmdop live --name deploy --wait\ntrue")

    assert len(cell.error.traceback) == 1
    assert "confirm = true, cmdop.toml in" in str(cell.error)
    assert "say --yes. Nothing was started" in str(cell.error)
    notebook.good("%%cmdop live --name deploy --wait --yes\ntrue")
    assert notebook.ask("(deploy.machine, deploy.exit.code)") == ("live", 0)


@pytest.mark.parametrize(("answer", "runs"), [("y", True), ("", False), ("no", False)])
def test_a_machine_that_wants_a_word_is_asked_for_before_a_cell_runs(notebook, page, answer, runs):
    cell = notebook.start(f"%%cmdop live --name asked{answer} --wait\ntrue # {answer}")
    request = notebook._client.get_stdin_msg(timeout=30)
    notebook._client.input(answer)
    cell.wait()

    assert "Run `true #" in request["content"]["prompt"]
    assert (cell.error is None) is runs
    assert notebook.ask(f"'asked{answer}' in cmdop") is runs


# -- verbs over machines


def read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:  # it is gone
        return ""


def rows_of(table: str) -> dict[tuple[str, str], str]:
    """Lines of `ps` by name and machine."""
    return {tuple(line.split()[:2]): line for line in table.splitlines()}


def test_ps_lists_the_sessions_of_all_machines_and_why_one_could_not_be_asked(notebook, remembered):
    notebook.good("%%cmdop far --name listed\necho 12345; exec sleep 1000")
    notebook.good(f"%%cmdop --name listed\n{STAY}")
    notebook.good("%%cmdop near --name over --wait --no-raise\nexit 3")
    notebook.good("%cmdop connect twin")
    remembered.write_text(json.dumps(["dead", *json.loads(remembered.read_text()), "gone"]))

    cell = notebook.good("%cmdop ps")
    one = result_of(notebook.good("%cmdop ps --machine near"))

    rows = rows_of(result_of(cell))
    assert "running" in rows["listed", "far"]
    assert "running" in rows["listed", "local"]
    assert "exit 3" in rows["over", "near"]
    assert ("over", "twin") not in rows
    assert re.search(r"^not asked: dead was not reached: .*the cable is out.*`%cmdop connect dead`", cell.text, re.M)
    assert re.search(r"^not asked: nothing has the name 'gone' any more.*`%cmdop forget gone`", cell.text, re.M)
    assert "the cable is out" in html_of(cell)
    assert ("over", "near") in rows_of(one)
    assert {machine for _, machine in rows_of(one)} == {"machine", "near"}
    assert "the cable is out" in str(notebook.run("%cmdop ps --machine dead").error)


def test_ps_asks_no_question_of_the_person_who_looks(notebook, page, remembered):
    remembered.write_text(json.dumps(["asks"]))

    cell = notebook.good("%cmdop ps")

    assert re.search(r"^not asked: asks was not reached", cell.text, re.M)


def test_ps_waits_for_no_machine_that_says_nothing_and_leaves_no_dial_behind(notebook, remembered):
    remembered.write_text(json.dumps(["hangs"]))
    notebook.good("from cmdop_jupyter.notebook import links; limit, links.LIMIT = links.LIMIT, 0.3")

    cell = notebook.good("%cmdop ps")

    notebook.good("links.LIMIT = limit")
    assert "not asked: hangs said nothing in 0.3 s; `%cmdop connect hangs` dials it" in cell.text
    notebook.wait_until(lambda: not [path for path in Path("/proc").glob("[0-9]*/cmdline") if HANGS in read(path)])


def test_a_name_means_this_notebooks_stream_and_a_machine_may_be_said(notebook):
    notebook.good("%%cmdop --name twice\necho here; exec sleep 1000")
    notebook.good("%%cmdop far --name twice\necho there; exec sleep 1000")
    notebook.good("await wait_for('here|there', 'twice')")

    assert result_of(notebook.good("%cmdop tail twice")) == "there"
    assert result_of(notebook.good("%cmdop tail far:twice")) == "there"
    notebook.wait_until(lambda: result_of(notebook.good("%cmdop tail local:twice")) == "here")
    assert "no session 'near:twice'" in str(notebook.run("%cmdop tail near:twice").error)
    assert notebook.run("%cmdop tail nowhere:twice").error.ename == "UnknownMachine"


def test_a_name_on_several_machines_is_an_error_that_names_them(notebook):
    for machine in ("far", "near"):
        notebook.good(f"%%cmdop {machine} --name both\necho {machine}; exec sleep 1000")
        notebook.good(f"await wait_for('{machine}', 'both')")
    notebook.good("both.detach(); del both")

    cell = notebook.run("%cmdop stop both")

    assert len(cell.error.traceback) == 1
    assert "say which one, far:both or near:both" in str(cell.error)
    assert "stopped by INT" in result_of(notebook.good("%cmdop stop near:both"))
    assert result_of(notebook.good("%cmdop tail both")) == "far"
    assert notebook.good("%cmdop attach near:both").error is None
    assert notebook.ask("(both.machine, both.text().splitlines()[0])") == ("near", "near")


def test_rm_deletes_on_the_machine_that_has_it(notebook):
    for name in ("old", "older", "oldest"):
        notebook.good(f"%%cmdop near --name {name} --wait\ntrue")
    notebook.good("%%cmdop --name old --wait\ntrue")

    assert result_of(notebook.good("%cmdop rm near:old")) == "removed near:old"
    assert "removed" in result_of(notebook.good("%cmdop rm --ended"))
    assert {("older", "near"), ("oldest", "near")} <= set(rows_of(notebook.good("%cmdop ps").text))
    told = result_of(notebook.good("%cmdop rm --ended --machine near"))
    assert "near:older" in told
    assert "near:oldest" in told
    assert not {("older", "near"), ("oldest", "near")} & set(rows_of(notebook.good("%cmdop ps").text))


def test_forward_gives_a_url_that_leads_there(notebook, folder):
    (folder / "serve.py").write_text(SERVER)
    notebook.good(f"%%cmdop far --name served\n{sys.executable} {folder}/serve.py 2>/dev/null")
    port = notebook.ask(r"(await wait_for(r'port (\d+)', 'served'))[1]")

    cell = notebook.good(f"%cmdop forward served {port}")
    notebook.good(f"url = %cmdop forward served {port}")

    found = re.match(r"(http://127\.0\.0\.1:(\d+)/)  leads to port (\d+) on far", result_of(cell))
    assert found[3] == port != found[2]
    assert f'<a href="{found[1]}"' in html_of(cell)
    assert notebook.ask("str(url)") == found[1]
    assert notebook.ask("__import__('urllib.request').request.urlopen(url).read()") == b"hello from there"
    assert notebook.run("%cmdop forward served 70000").error.ename == "InvalidRequest"


def test_a_stop_without_a_link_is_told_and_arrives_when_it_is_back(notebook, page, folder):
    notebook.good(f"%%cmdop gated --name late\necho up; {STAY}")
    notebook.good("await wait_for('up', 'late')")
    gate = folder / "gate"
    gate.unlink()
    notebook.good("import os, signal; os.killpg(late._machine.bare._link._process.pid, signal.SIGKILL)")
    notebook.wait_until(lambda: notebook.ask("late.link") != "up")

    told = result_of(notebook.good("%cmdop stop late"))
    listed = notebook.good("%cmdop ps").text
    shown = notebook.ask("repr(late)")
    states = rows_by_name(result_of(notebook.good("%cmdop machines")))
    gate.touch()
    notebook.good("%cmdop connect gated")

    assert re.match(r"late: link (retrying|down).*, the stop waits for the link", told)
    assert re.search("^not asked: gated(: link retrying| was not reached)", listed, re.M)
    assert "a stop waits for it" in shown
    assert re.search("retrying|down", states["gated"])
    assert notebook.ask("(str(await late), late.status.stopped.took)") == ("ended by INT", "INT")


# -- machines


def rows_by_name(table: str) -> dict[str, str]:
    return {line.split()[0]: line for line in table.splitlines()}


def test_machines_lists_what_is_known_and_how_it_is_reached(notebook, folder, remembered):
    notebook.good("%%cmdop far --name once --wait\ntrue")
    remembered.write_text(json.dumps([*json.loads(remembered.read_text()), "gone"]))

    rows = rows_by_name(result_of(notebook.good("%cmdop machines")))

    assert rows["far"].split()[1:3] == ["env", f"CMDOP_STATE_DIR={folder / 'far'}"]
    for words in (" up ", ", 3.", " ms ", "web, blue"):
        assert words in rows["far"]
    assert "cmdop.toml in " in rows["far"]
    assert re.search("down: (not dialled yet|.*the cable is out)", rows["dead"])
    assert "this machine" in rows["local"]
    assert "nothing has the name 'gone' any more" in rows["gone"]


def test_connect_tells_each_step_and_what_is_around_sessions(notebook):
    cell = notebook.good("%cmdop connect fresh")

    steps, table = cell.text.split("state folder", 1)
    assert "running env CMDOP_STATE_DIR=" in steps
    assert f" on {socket.gethostname()}, agent " in steps
    for what in ("terminals", "shell", "logout"):
        assert what in table
    assert re.search(r"^fresh is up: Python 3\.\d+\.\d+ on .*round trip [\d.]+ ms$", table, re.M)
    assert "state folder" in result_of(notebook.good("%cmdop connect local"))


def test_a_dial_that_fails_has_told_its_steps(notebook):
    cell = notebook.run("%cmdop connect dead")

    assert "running sh -c" in cell.text
    assert (cell.error.ename, len(cell.error.traceback)) == ("ConnectFailed", 1)
    assert "the cable is out" in str(cell.error)


def test_a_forgotten_machine_is_not_asked_any_more(notebook, remembered):
    notebook.good("%%cmdop far --name before --wait\ntrue")
    remembered.write_text(json.dumps([*json.loads(remembered.read_text()), "dead"]))

    told = result_of(notebook.good("%cmdop forget dead"))

    assert told.startswith("dead is forgotten")
    assert "dead" not in notebook.good("%cmdop ps").text
    assert "'dead' is not among the machines reached before: " in str(notebook.run("%cmdop forget dead").error)
    assert "its link is up here" in result_of(notebook.good("%cmdop forget far"))


# -- completion


def complete(notebook, text: str) -> list[str]:
    reply = notebook._client.complete(text, len(text), reply=True, timeout=30)["content"]
    head = text[: reply["cursor_start"]]
    typing = len(head) - len(head.split(" ")[-1])
    return sorted((head + match)[typing:] for match in reply["matches"])


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("%%cmdop fa", ["far"]),
        ("%%cmdop --name api ne", ["near"]),
        ("%%cmdop --ephemeral ne", ["near"]),
        ("%%cmdop far ne", ["near"]),
        ("%%cmdop --cwd ne", []),
        ("%%cmdop lo", ["local"]),
        ("%cmdop connect tw", ["twin"]),
        ("%cmdop ps --machine ga", ["gated"]),
        ("%cmdop rm --ended --machine ga", ["gated"]),
        ("%cmdop ps --m", ["--machine"]),
    ],
)
def test_names_of_machines_are_offered(notebook, line, words):
    assert complete(notebook, line) == words


def test_names_of_sessions_on_machines_that_are_up_are_offered(notebook):
    notebook.good(f"%%cmdop far --name offered-there\n{STAY}")

    assert complete(notebook, "%cmdop attach offered") == ["offered-there"]
    assert complete(notebook, "%cmdop forward far:off") == ["far:offered-there"]


def test_only_machines_reached_before_can_be_forgotten(notebook, remembered):
    remembered.write_text(json.dumps(["dead"]))

    assert complete(notebook, "%cmdop forget de") == ["dead"]
    assert "machines" not in complete(notebook, "%cmdop forget ")


# -- after a restart (the last one, since the kernel is another afterwards)


def test_after_a_restart_ps_and_attach_work_across_machines(notebook):
    notebook.good("%%cmdop far --name kept\nseq 30; exec sleep 1000")
    notebook.good("await wait_for('^30$', 'kept')")
    notebook.kill9()
    notebook.restart()
    notebook.load()

    listed = notebook.good("%cmdop ps").text
    notebook.good("%cmdop attach kept")

    assert "running" in rows_of(listed)["kept", "far"]
    assert notebook.ask("(kept.machine, kept.text().splitlines()[-1])") == ("far", "30")
    assert notebook.ask("(await wait_for('^7$', 'kept')).line") == "7"
    assert "stopped by INT" in result_of(notebook.good("%cmdop stop kept"))


def test_this_machine_may_have_settings_too(own_notebook, tmp_path):
    text = f'[machines.local]\ncwd = "{tmp_path}"\nenv = {{ GREETING = "hello" }}\nconfirm = true\n'
    (own_notebook.work / "cmdop.toml").write_text(text)
    own_notebook.load()

    own_notebook.good('%%cmdop --name plain --wait --yes\necho "$PWD $GREETING"')
    own_notebook.good('%%cmdop --name other --wait -y --cwd / -e GREETING=hi\necho "$PWD $GREETING"')

    assert own_notebook.ask("(plain.text(), other.text())") == (f"{tmp_path} hello\n", "/ hi\n")
    assert "say --yes" in str(own_notebook.run("%%cmdop\ntrue").error)


# -- decisions, without a kernel


def found(machine: str, name: str, id: str = "", *, live: bool = True, created: int = 0) -> Session:
    facts = SimpleNamespace(id=id or f"{machine}-{name}-{created}", name=name, created_ns=created)
    return Session(machine, facts, SimpleNamespace(live=live))


@pytest.mark.parametrize(
    ("there", "wanted", "chosen"),
    [
        ([], "api", None),
        ([found("local", "api")], "build", None),
        ([found("local", "api"), found("web1", "api")], "api", "local-api-0"),
        ([found("local", "api", live=False), found("web1", "api")], "api", "web1-api-0"),
        ([found("local", "api", live=False), found("web1", "api", live=False)], "api", "local-api-0"),
        ([found("web1", "api", live=False, created=n) for n in (1, 3, 2)], "api", "web1-api-3"),
        ([found("web1", "api", "x"), found("web2", "api", "x")], "api", "x"),
        ([found("web1", "api", "x"), found("web2", "api", "y")], "y", "y"),
    ],
)
def test_what_runs_is_meant_first_and_this_machine_before_others(there, wanted, chosen):
    hit = choose(wanted, there)

    assert (hit and hit.facts.id) == chosen


@pytest.mark.parametrize("live", [True, False])
def test_two_machines_with_the_name_are_told_apart_by_the_user(live):
    with pytest.raises(InvalidRequest, match="'api' is on web1 and web2: say which one, web1:api or web2:api"):
        choose("api", [found("web1", "api", live=live), found("web2", "api", live=live)])


def test_a_session_that_two_names_lead_to_is_one():
    assert [one.machine for one in once([found("web1", "api", "x"), found("web2", "api", "x")])] == ["web1"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("ssh://me@host:2222", "ssh -p 2222 -l me host"),
        ("me@host", "ssh me@host"),
        ("docker://me@box", "docker exec -i --user=me box"),
        ("k8s://web/pod-1", "kubectl --namespace=web exec -i pod-1"),
        ("sudo://ada", "sudo -A -H -u ada"),
    ],
)
def test_how_a_machine_is_reached_in_the_users_words(name, words):
    assert how(Place(name, *explicit(name))) == words


def test_what_was_not_found_while_a_machine_was_away_says_so_and_pickles():
    import pickle

    error = pickle.loads(pickle.dumps(SessionNotSeen("api", ["apj"], ["web1 is down"])))

    assert isinstance(error, SessionNotFound)
    assert (error.wanted, error.nearest, error.unasked) == ("api", ("apj",), ("web1 is down",))
    assert "did you mean apj" in str(error)
    assert str(error).endswith("not everywhere was looked: web1 is down")
