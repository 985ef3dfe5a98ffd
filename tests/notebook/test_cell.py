"""`%%cmdop` cells in a real kernel: what runs, what they wait for, what they hand over and what they refuse."""

from __future__ import annotations

import statistics

import pytest

GO = "read go"


def test_a_cell_returns_at_once_while_its_command_goes_on(notebook, record_property):
    baseline = statistics.median(notebook.good("pass").seconds for _ in range(5))

    cells = [notebook.good(f"%%cmdop --name once{number}\nexec sleep 1000") for number in range(3)]

    taken = [round((cell.seconds - baseline) * 1000) for cell in cells]
    record_property("milliseconds", taken)
    print("a cell takes", taken, "ms")
    assert notebook.ask("[once0.state, once1.state, once2.state]") == ["running"] * 3


def test_the_body_is_passed_on_untouched(notebook):
    lines = r"""$HOME ${x} {x} {{y}} \n \\ ' " `date` $(date)
%time 1 + 1
!ls {x} $x
what?
    %%cmdop --wait
#  ümlaut ✓	tab """
    notebook.good("x = 'a variable'\n")
    notebook.good(f"%%cmdop --name untouched --tty none --wait\ncat <<'END'\n{lines}\nEND\n")

    assert notebook.ask("untouched.read()") == f"{lines}\n".encode()


def test_variables_are_handed_over_and_stored_nowhere(notebook, tmp_path):
    secret = "xyzzy-94c1"
    notebook.good(f"SECRET = '{secret}'\nCOUNT = 42\nimport os, pathlib\nWHERE = pathlib.Path('/srv/data')\n")
    notebook.good(f"os.environ['OUTSIDE'] = '{secret}-outside'")

    notebook.good(
        "%%cmdop --name handed --tty none --keep-script -e SECRET -e COUNT -e WHERE -e OUTSIDE -e X=plain\n"
        f'echo "${{#SECRET}} $COUNT $WHERE ${{#OUTSIDE}} $X"\n{GO}'
    )

    assert notebook.ask("(await wait_for('plain', 'handed')).line") == "10 42 /srv/data 18 plain"
    state = notebook.ask("os.environ['CMDOP_STATE_DIR']")
    holders = notebook.ask(
        f"[str(p) for p in pathlib.Path({state!r}).rglob('*') if p.is_file() and {secret.encode()!r} in p.read_bytes()]"
    )
    assert holders == []


def test_a_variable_that_cannot_be_handed_over_starts_nothing(notebook):
    notebook.good("THINGS = [1, 2]")

    cell = notebook.run("%%cmdop --name refused -e THINGS\ntrue")

    assert "THINGS is a list here" in str(cell.error)
    assert notebook.run("%cmdop tail refused").error.ename == "SessionNotFound"


def test_wait_blocks_until_the_exit_and_shows_the_output(notebook):
    cell = notebook.good("%%cmdop --name waited --wait\necho one\necho two >&2\nexit 0")

    assert notebook.ask("waited.exit.code") == 0
    assert "one\n" in cell.text
    assert "two\n" in cell.text
    assert "exit 0" in cell.text


def test_a_failure_that_was_waited_for_raises_with_the_last_lines(notebook):
    cell = notebook.run("%%cmdop --name failing --wait\nseq 10\nexit 3")

    assert (cell.error.ename, len(cell.error.traceback)) == ("CommandFailed", 1)
    assert "failing failed (exit 3); its last lines:\n  6\n  7\n  8\n  9\n  10" in str(cell.error)
    assert cell.reply["status"] == "error"


def test_a_failure_may_be_let_pass(notebook):
    cell = notebook.good("%%cmdop --name failed --wait --no-raise\nexit 3")

    assert "exit 3" in cell.text


def test_until_gives_the_match(notebook):
    notebook.good(r"%%cmdop --name served --until 'port (\d+)'" + f"\necho on port 8080\n{GO}")

    assert notebook.ask("(_[1], _.line, served.state)") == ("8080", "on port 8080", "running")


def test_until_ends_with_the_session(notebook):
    cell = notebook.run("%%cmdop --name unready --until ready\necho broken; exit 3")

    assert (cell.error.ename, len(cell.error.traceback)) == ("SessionEnded", 1)
    assert "unready ended (exit 3) and no line matched /ready/; its last lines:\n  broken" in str(cell.error)


def test_fail_ends_the_waiting_and_not_the_command(notebook):
    until = notebook.run(f"%%cmdop --name troubled --until ready --fail 'ERROR.*'\necho ERROR 7\n{GO}")
    wait = notebook.run(f"%%cmdop --name worried --wait --fail 'ERROR.*'\necho ERROR 7\n{GO}")

    for cell, name in ((until, "troubled"), (wait, "worried")):
        assert cell.error.ename == "FailPatternSeen"
        assert "'ERROR 7'" in str(cell.error)
        assert notebook.ask(f"{name}.state") == "running"


def test_wait_with_fail_is_done_at_the_exit_though_output_is_held(notebook):
    notebook.good("%%cmdop --name leaving --tty none --wait --fail ERROR\nsleep 1000 & exit 0")

    assert notebook.ask("leaving.state") == "exited"


@pytest.mark.parametrize(("way", "error"), [("--wait", "StillRunning"), ("--until never", "WaitTimeout")])
def test_timeout_limits_the_waiting_and_not_the_command(notebook, way, error):
    name = f"patient{way[2]}"

    cell = notebook.run(f"%%cmdop --name {name} {way} --timeout 0.1\n{GO}")

    assert (cell.error.ename, len(cell.error.traceback)) == (error, 1)
    assert notebook.ask(f"{name}.state") == "running"


def test_a_dry_run_starts_nothing(notebook):
    cell = notebook.good("%%cmdop --name dry --dry-run --cwd / -e X=1\necho $X\n")

    assert "nothing was started" in cell.text
    assert "echo $X" in cell.text
    assert notebook.ask("'dry' in globals()") is False
    assert notebook.run("%cmdop tail dry").error.ename == "SessionNotFound"


def test_without_a_view_the_cell_has_one_line(notebook):
    cell = notebook.good(f"%%cmdop --name hidden --view none\necho some output\n{GO}")

    assert cell.text.startswith("<Stream hidden on this machine: ")
    assert "\n" not in cell.text.strip()


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("--tyt none", "did you mean --tty"),
        ("my-server", "no machine is called 'my-server'"),
        ("--name 'a b'", "cannot be a name"),
        ("--cwd /nowhere/at/all", "not started"),
        ("--max-log 1", "64 KiB"),
        ("--shell /no/such/shell", "/no/such/shell"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(notebook, line, error):
    cell = notebook.run(f"%%cmdop {line}\necho hello")

    assert len(cell.error.traceback) == 1
    assert error in cell.error.traceback[0]
    assert cell.error.traceback[0].startswith("\x1b[31m")


def test_a_cell_without_a_command_is_refused(notebook):
    assert "no command" in str(notebook.run("%%cmdop --name empty\n   \n").error)


def test_errors_can_be_caught(notebook):
    notebook.good(
        "from cmdop_jupyter import CommandFailed, WaitTimeout\n"
        "caught = []\n"
        "try:\n    get_ipython().run_cell_magic('cmdop', '--name caught1 --wait', 'exit 3')\n"
        "except CommandFailed as error:\n    caught.append(error.how)\n"
        "try:\n    await wait_for('never', 'hidden_or_not', timeout=0)\n"
        "except LookupError as error:\n    caught.append(error.wanted)\n"
        "try:\n    await wait_for('never', 'caught1', timeout=0.05)\n"
        "except (WaitTimeout, RuntimeError) as error:\n    caught.append(type(error).__name__)\n"
    )

    assert notebook.ask("caught") == ["exit 3", "hidden_or_not", "SessionEnded"]


def test_a_full_log_holds_the_command_and_its_limit_can_be_raised(notebook):
    notebook.good("%%cmdop --name full --tty none --max-log 100k,hold\nseq 1000000")
    notebook.good("while full.state != 'held': pass")

    cell = notebook.good("%cmdop limit full 1G")

    assert "the log of full keeps 1.0 GB (hold)" in cell.text
    assert notebook.ask("(await full).code") == 0


def test_no_input_means_that_nobody_is_asked(notebook):
    notebook.good("%%cmdop --name mute --no-input --wait\nread line || echo no input")

    assert notebook.ask("mute.text()") == "no input\n"


def test_the_page_of_a_newcomer_is_there(notebook):
    reply = notebook.run("%%cmdop?").reply

    (page,) = [payload["data"]["text/plain"] for payload in reply["payload"] if payload["source"] == "page"]
    for word in ("--name", "--until", "--if-running", "--ephemeral", "wait_for", "%cmdop help"):
        assert word in page


def test_an_ephemeral_session_ends_when_its_kernel_is_gone_and_not_before(own_notebook):
    own_notebook.load()
    own_notebook.good("%%cmdop --name brief --ephemeral=1\nexec sleep 1000")
    own_notebook.good("%%cmdop --name stays\nexec sleep 1000")
    own_notebook.good("began = brief.status.clock_ms")
    own_notebook.good("while brief.status.clock_ms < began + 1500: pass")
    assert own_notebook.ask("brief.state") == "running"

    own_notebook.kill9()
    own_notebook.restart()

    own_notebook.load()
    own_notebook.good("%cmdop attach brief")
    assert own_notebook.ask("(await brief).signal") == "INT"
    assert "stays" in own_notebook.good("%cmdop ps").text
    assert own_notebook.ask("cmdop['brief'].status.stopped.took") == "INT"
