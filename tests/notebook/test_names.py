"""What a session is called in a notebook, what that binds, and what happens when the name runs already."""

from __future__ import annotations

import pytest

STAY = "exec sleep 1000"


def test_a_name_is_bound_to_the_stream(notebook):
    notebook.good(f"%%cmdop --name bound\n{STAY}")

    assert notebook.ask("(bound.name, bound is cmdop['bound'], cmdop.latest is bound)") == ("bound", True, True)


def test_a_name_that_is_no_identifier_is_in_the_mapping(notebook):
    notebook.good(f"%%cmdop --name not-a.name\n{STAY}")
    notebook.good(f"%%cmdop --name lambda\n{STAY}")

    assert notebook.ask("[cmdop[name].state for name in ('not-a.name', 'lambda')]") == ["running", "running"]


def test_a_name_that_would_hide_a_variable_is_refused_before_anything_runs(notebook):
    notebook.good("results = [1, 2, 3]")

    cell = notebook.run(f"%%cmdop --name results\n{STAY}")

    assert "--name results would hide a variable of yours (list)" in str(cell.error)
    assert notebook.ask("results") == [1, 2, 3]
    assert notebook.run("%cmdop tail results").error.ename == "SessionNotFound"


@pytest.mark.parametrize("name", ["print", "wait_for", "cmdop"])
def test_a_name_of_python_or_of_ours_is_refused(notebook, name):
    assert f"--name {name} would hide" in str(notebook.run(f"%%cmdop --name {name}\n{STAY}").error)


def test_a_variable_that_is_a_stream_may_be_taken(notebook):
    for number in range(2):
        notebook.good(f"%%cmdop --name again --wait\necho {number}")

    assert notebook.ask("again.text()") == "1\n"


def test_without_a_name_one_is_made_and_bound_to_nothing(notebook):
    for _ in range(2):
        notebook.good(f"%%cmdop\n{STAY}; ./serve.sh")

    assert notebook.ask("[cmdop[name].state for name in ('sleep', 'sleep-2')]") == ["running", "running"]
    assert notebook.ask("'sleep' in globals()") is False


def test_a_name_that_runs_is_refused_and_the_ways_are_told(notebook):
    notebook.good(f"%%cmdop --name taken\n{STAY}")

    cell = notebook.run(f"%%cmdop --name taken\n{STAY}")

    assert (cell.error.ename, len(cell.error.traceback)) == ("NameInUse", 1)
    for way in ("--name", "%cmdop stop taken", "--if-running attach", "replace"):
        assert way in str(cell.error)


def test_the_same_command_can_be_attached_to(notebook):
    cell = f"%%cmdop --name joined --if-running attach\necho hello; {STAY}"
    notebook.good(cell)
    first = notebook.ask("(await joined.wait_for('hello')).stream.session_id")

    notebook.good(cell)

    assert notebook.ask("joined.session_id") == first
    assert notebook.ask("(await wait_for('hello', 'joined')).start") == 0


@pytest.mark.parametrize("other", ["--cwd /\necho hello; " + STAY, "\necho hullo; " + STAY])
def test_another_command_is_not_attached_to(notebook, other):
    name = f"unlike{len(other)}"
    notebook.good(f"%%cmdop --name {name} --if-running attach\necho hello; {STAY}")

    cell = notebook.run(f"%%cmdop --name {name} --if-running attach {other}")

    assert "is running with another command or other options" in str(cell.error)
    assert notebook.ask(f"cmdop['{name}'].state") == "running"


@pytest.mark.parametrize("option", ["--if-running replace", "--replace"])
def test_what_runs_can_be_replaced(notebook, option):
    name = f"old{len(option)}"
    notebook.good(f"%%cmdop --name {name}\n{STAY}")
    notebook.good(f"before = {name}")

    notebook.good(f"%%cmdop --name {name} {option}\necho new; {STAY}")

    assert notebook.ask(f"(before.state, {name}.state, {name}.session_id != before.session_id)") == (
        "ended",
        "running",
        True,
    )


def test_run_all_works_again_with_one_line_of_configuration(own_notebook):
    cells = (
        '%load_ext cmdop_jupyter\n%config CmdopMagics.if_running = "replace"',
        "%%cmdop --name server\necho port $RANDOM; exec sleep 1000",
        "port = (await wait_for(r'port (\\d+)', 'server', timeout=30))[1]",
        "%%cmdop --name client\necho done; exec sleep 1000",
        "done = await wait_for('done', 'client', timeout=30)",
    )
    for cell in cells:
        own_notebook.good(cell)
    own_notebook.restart()
    for cell in cells:
        own_notebook.good(cell)

    assert own_notebook.ask("[server.state, client.state, done.stream is client]") == ["running", "running", True]
    states = own_notebook.good("%cmdop ps").text
    assert (states.count("running"), states.count("stopped by INT")) == (2, 2)


def test_what_is_taken_is_not_replaced_by_loading(own_notebook):
    own_notebook.good("wait_for = 'mine'")

    cell = own_notebook.load()

    assert "wait_for: taken by a variable of yours" in cell.text
    assert own_notebook.ask("(wait_for, callable(wait_all), len(cmdop))") == ("mine", True, 0)


def test_loading_twice_and_unloading_change_nothing_else(own_notebook):
    own_notebook.load()
    own_notebook.good(f"%%cmdop --name kept\n{STAY}")
    assert own_notebook.good("%reload_ext cmdop_jupyter").text == ""
    assert own_notebook.ask("(kept.state, callable(wait_for))") == ("running", True)

    own_notebook.good("%unload_ext cmdop_jupyter")

    assert own_notebook.ask("(kept.state, 'wait_for' in globals(), 'cmdop' in globals())") == ("running", False, False)
    assert "not found" in own_notebook.run("%cmdop ps").stderr


@pytest.mark.parametrize(
    "line", ["if_running = 'maybe'", "tail = 0", "max_log = 'big'", "max_log = '1G,forget'", "tty = 'round'"]
)
def test_a_configuration_that_makes_no_sense_is_refused(notebook, line):
    cell = notebook.run(f"%config CmdopMagics.{line}")

    assert cell.stderr.startswith("ERROR")


def test_where_sessions_cannot_be_kept_loading_says_so_and_can_be_tried_again(own_notebook, state_dir):
    state_dir.mkdir(mode=0o777)
    state_dir.chmod(0o777)

    cell = own_notebook.load()

    assert (cell.error.ename, len(cell.error.traceback)) == ("StoreRefused", 1)
    assert own_notebook.ask("'wait_for' in globals()") is False
    state_dir.chmod(0o700)
    own_notebook.good("%load_ext cmdop_jupyter")
    own_notebook.good("%%cmdop --name first --wait\ntrue")
