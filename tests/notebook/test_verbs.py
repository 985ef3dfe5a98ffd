"""`%cmdop VERB` in a real kernel: each does its one thing and returns something that reads well."""

from __future__ import annotations

import pytest
from kernels import html_of, result_of

from cmdop_jupyter.notebook.verbs import Verbs

STAY = "exec sleep 1000"


def test_help_lists_every_verb(notebook):
    page = result_of(notebook.good("%cmdop help"))

    for verb in Verbs.names():
        assert f"%cmdop {verb}" in page
    assert result_of(notebook.good("%cmdop")) == page


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("pss", "did you mean ps"),
        ("./serve.sh", "to run a command: `%%cmdop`"),
        ("tail", "the following arguments are required: name"),
        ("tail nobody", "no session 'nobody'"),
        ("tail nobody -n many", "invalid int"),
        ("send", "a name is missing"),
        ("wait", "a name and a regular expression"),
        ("wait nobody", "a name and a regular expression"),
        ("rm", "rm --ended"),
        ("rm nobody --ended", "rm --ended"),
        ("forward nobody", "required: port"),
        ("forward nobody http", "a port is a number, not 'http'"),
        ("forget web1", "'web1' is not among the machines reached before: there are none"),
        ("connect", "required: machine"),
        ("connect loca", "did you mean local"),
        ("machines all", "'all' is one word too many"),
        ("limit nobody", "required: size"),
        ("ps extra", "extra"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(notebook, line, error):
    cell = notebook.run(f"%cmdop {line}")

    assert len(cell.error.traceback) == 1
    assert error in str(cell.error)


def test_ps_lists_what_runs_and_what_ended(notebook):
    notebook.good(f"%%cmdop --name listed\necho hello; {STAY}")
    notebook.good("%%cmdop --name gone --wait --no-raise\nexit 3")
    notebook.good("await wait_for('hello', 'listed')")

    cell = notebook.good("%cmdop ps")

    rows = {row.split()[0]: row for row in result_of(cell).splitlines()}
    assert "running" in rows["listed"]
    assert "6 B" in rows["listed"]
    assert f"echo hello; {STAY}" in rows["listed"]
    assert "exit 3" in rows["gone"]
    assert "<table>" in html_of(cell)
    assert notebook.ask("[facts.name for facts, status in _ if facts.name == 'listed']") == ["listed"]


def test_attach_shows_a_session_with_its_history_and_binds_its_name(notebook):
    notebook.good(f"%%cmdop --name brought\nseq 30; {STAY}")
    notebook.good("await brought.wait_for('^30$')")
    notebook.good("brought.detach(); del brought")

    cell = notebook.good("%cmdop attach brought")

    notebook.wait_until(lambda: "\n29\n30" in cell.text)
    assert notebook.ask("[brought.state, brought.tail(1)[0].text]") == ["running", "30"]


def test_a_terminal_takes_no_filter_and_without_a_page_attach_shows_text(notebook):
    notebook.good(f"%%cmdop --name whole --tty full\nseq 30; {STAY}")
    notebook.good("await whole.wait_for('^30$')")

    assert "leave out --tail" in str(notebook.run("%cmdop attach whole --view terminal --tail 3").error)
    cell = notebook.good("%cmdop attach whole")
    notebook.wait_until(lambda: "\n29\n30" in cell.text)


def test_attach_tells_when_a_variable_has_the_name(notebook):
    notebook.good(f"%%cmdop --name crowded\n{STAY}")
    notebook.good("crowded = 5")

    cell = notebook.good("%cmdop attach crowded")

    assert "crowded would hide a variable of yours (int), so it is not bound: cmdop['crowded']" in cell.text
    assert notebook.ask("(crowded, cmdop['crowded'].state)") == (5, "running")


def test_tail_gives_the_newest_lines(notebook):
    notebook.good("%%cmdop --name counted --wait\nseq 100")

    assert result_of(notebook.good("%cmdop tail counted -n 3")) == "98\n99\n100"
    assert len(result_of(notebook.good("%cmdop tail counted")).splitlines()) == 10


def test_looking_at_another_session_does_not_make_it_the_latest(notebook):
    notebook.good(f"%%cmdop --name other\necho other; {STAY}")
    notebook.good("other.detach()")
    notebook.good(f"%%cmdop --name mine\necho mine; {STAY}")

    notebook.good("%cmdop tail other")

    assert notebook.ask("cmdop.latest.name") == "mine"


def test_send_types_a_line_exactly(notebook):
    notebook.good("%%cmdop --name typed --tty none\nexec cat")

    notebook.good("x = 5")
    told = result_of(notebook.good(r"%cmdop send typed  two  words $x {x} \n 'quoted'"))
    notebook.good("%cmdop send -n typed no end")

    notebook.good("typed.send_eof()")
    assert told == r"typed 31 bytes into typed"
    assert notebook.ask("(await typed, typed.read())[1]") == b" two  words $x {x} \\n 'quoted'\nno end"


def test_signal_reaches_the_command(notebook):
    notebook.good("%%cmdop --name signalled\ntrap 'exit 9' USR1; echo ready; while :; do sleep 0.05; done")
    notebook.good("await wait_for('ready', 'signalled')")

    assert result_of(notebook.good("%cmdop signal signalled SIGUSR1")) == "sent USR1 to signalled"
    assert notebook.ask("(await signalled).code") == 9
    assert "NOPE" in str(notebook.run("%cmdop signal signalled NOPE").error)


def test_stop_tells_what_it_took(notebook):
    notebook.good(f"%%cmdop --name halted\n{STAY}")

    told = result_of(notebook.good("%cmdop stop halted"))

    assert told.startswith("halted: stopped by INT in ")
    assert notebook.ask("halted.state") == "ended"
    assert "had ended already" in result_of(notebook.good("%cmdop stop halted"))


def test_stop_means_the_session_that_runs_by_that_name_now(notebook):
    notebook.good("%%cmdop --name reused --wait\ntrue")
    notebook.good(
        "from cmdop_jupyter import AsyncCMDOPClient\n"
        "from cmdop_jupyter.streams import streams\n"
        "made = await AsyncCMDOPClient.local().terminal.create(command='exec sleep 1000', name='reused')\n"
        "streams.add(reused)"
    )

    assert "stopped by INT" in result_of(notebook.good("%cmdop stop reused"))
    assert notebook.ask("made.state") == "ended"


def test_wait_gives_the_match(notebook):
    notebook.good(f"%%cmdop --name awaited\necho port 8080; {STAY}")

    cell = notebook.good(r"%cmdop wait awaited 'port (\d+)' --timeout 30s")

    assert result_of(cell).startswith("<Match 'port 8080'")
    assert notebook.run("%cmdop wait awaited never --timeout 0.1").error.ename == "WaitTimeout"


def test_limit_changes_what_the_log_keeps(notebook):
    notebook.good(f"%%cmdop --name limited\n{STAY}")

    assert result_of(notebook.good("%cmdop limit limited 1Gi")) == "the log of limited keeps 1.1 GB (drop-oldest)"
    assert result_of(notebook.good("%cmdop limit limited 1M,hold")) == "the log of limited keeps 1.0 MB (hold)"


def test_rm_deletes_what_has_ended_and_nothing_else(notebook):
    notebook.good("%%cmdop --name deleted --wait\ntrue")
    notebook.good(f"%%cmdop --name spared\n{STAY}")

    assert "stop it first" in str(notebook.run("%cmdop rm spared").error)
    assert result_of(notebook.good("%cmdop rm deleted")) == "removed deleted"
    assert notebook.run("%cmdop tail deleted").error.ename == "SessionNotFound"
    assert notebook.ask("('deleted' in cmdop, repr(deleted))") == (False, "<Stream deleted on this machine: removed>")


def test_the_text_of_what_is_removed_stays_as_it_was_at_the_end(notebook):
    cell = notebook.good("%%cmdop --name brief\nseq 3")
    notebook.good("await streams['brief']\n%cmdop rm brief")

    notebook.wait_until(lambda: "exit 0" in str(cell.outputs))
    assert "could not be drawn" not in notebook.good("1").stderr


def test_rm_ended_deletes_all_that_has_ended(own_notebook):
    own_notebook.load()
    own_notebook.good(f"%%cmdop --name spared\n{STAY}")
    for name in ("first", "second"):
        own_notebook.good(f"%%cmdop --name {name} --wait\ntrue")

    assert result_of(own_notebook.good("%cmdop rm --ended")) == "removed first, second"
    assert len(result_of(own_notebook.good("%cmdop ps")).splitlines()) == 2
    assert result_of(own_notebook.good("%cmdop rm --ended")) == "removed nothing"


def test_keep_writes_the_text_into_this_cell(notebook):
    notebook.good("%%cmdop --name told --wait\nseq 5; printf '\\033[31mred\\033[0m <b>bold</b>\\n'")

    cell = notebook.good("%cmdop keep told")

    assert "1\n2\n3\n4\n5\nred <b>bold</b>\n" in result_of(cell)
    assert "&lt;b&gt;bold&lt;/b&gt;" in html_of(cell)
    assert "\x1b" not in html_of(cell) + result_of(cell)


def test_doctor_looks_and_leaves_nothing_changed(notebook):
    text = result_of(notebook.good("%cmdop doctor"))

    for what in ("Python", "ipykernel", "ssh", "state folder", "control sockets", "terminals", "shell", "logout"):
        assert what in text
    assert notebook.ask("[check.what for check in map(_.__getitem__, range(len(_))) if not check.ok]") == []
