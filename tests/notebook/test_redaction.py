"""No secret in what a notebook shows or saves, whichever way it came there; what the objects hold stays exact."""

from __future__ import annotations

import json

import pytest
from sshd import Sshd

SECRET = "hunter2-4711"
SAYS = f"echo token={SECRET}"
STAY = "exec sleep 1000"
ENDED = "try: await wait_for('never', 'ended', start='begin')\nexcept Exception as error: "
ERRORS = {
    "CommandFailed": f"%%cmdop --name failed --wait\n{SAYS}; exit 3",
    "SessionEnded": "await wait_for('never', 'ended', start='begin')",
    "WaitTimeout": "await wait_for('never', 'stays', timeout=0.1, start='begin')",
    "a line that was cut": "cut.wait_for('never', timeout=0.1, start='begin').result()",
    "FailPatternSeen": "await wait_for('never', 'stays', fail='tok.*', start='begin')",
    "PatternTooSlow": r"await wait_for(r'(a|a|b?)+(a|aa)+\1$|^((a+)+)+$(?=x)', 'slow', start='begin')",
    "another one's cause": f"{ENDED}raise RuntimeError('it ended') from error",
    "another one's context": f"{ENDED}1 / 0",
    "one of a group": f"{ENDED}raise ExceptionGroup('two', [error, ValueError('b')])",
}
RESULTS = {
    "a match": "await wait_for('tok.*', 'stays', start='begin')",
    "what it caught alone": f"await wait_for('{SECRET[:4]}.*', 'stays', start='begin')",
    "a match beyond what is told of its line": f"await wait_for('x+tok.*{SECRET[:4]}', 'cut', start='begin')",
    "matches": "await wait_all('token', ['stays', 'ended'], start='begin')",
    "a match in a list": "[await wait_for('token', 'stays', start='begin')]",
    "lines": "list(cmdop['stays'].lines())",
    "an error": f"{ENDED}caught = error\n[caught]",
    "what was executed": "from cmdop_jupyter import AsyncCMDOPClient\n"
    f"async with AsyncCMDOPClient.local() as client: said = await client.terminal.execute('{SAYS}')\nsaid",
    "a tail": "%cmdop tail stays",
    "titles": "%cmdop ps",
    "the text kept": "%cmdop keep stays ended",
    "facts": "stays.facts",
    "a fleet": f"%%cmdop local here --name many --wait --no-raise\n{SAYS}; exit 3",
    "a dry run": f"%%cmdop --dry-run\n{SAYS}",
    "what is not yet over": f"%%cmdop --name alive\n{SAYS}; printf 'password={SECRET}: '; read x",
}


@pytest.fixture(scope="module")
def notebook(notebook, tmp_path_factory):
    """With sessions that have said a secret: `slow` on a line that takes a bad pattern long, `cut` on a long one."""
    store = tmp_path_factory.mktemp("here")
    (notebook.work / "cmdop.toml").write_text(
        f'[machines.here]\nlink = ["env", "CMDOP_STATE_DIR={store}", "sh", "-c"]\n'
    )
    notebook.page = True
    for name, script in {
        "stays": f"{SAYS}; {STAY}",
        "ended": f"{SAYS}; exit 3",
        "slow": f"echo {'a' * 60}b token={SECRET}; {STAY}",
        "cut": f"echo {'x' * 286}token={SECRET}; {STAY}",
    }.items():
        notebook.good(f"%%cmdop --name {name}\n{script}")
        notebook.good(f"await wait_for('token', '{name}', start='begin')")
    return notebook


@pytest.fixture
def leaks(notebook):
    """Where a page was told the secret since the test began: the code of cells is what somebody typed."""
    before = len(notebook.iopub)

    def leaks() -> list[str]:
        told = [json.dumps(one.content, default=str) for one in notebook.iopub[before:] if one.kind != "execute_input"]
        return [text[max(0, text.index(SECRET[:6]) - 200) :][:400] for text in told if SECRET[:6] in text]

    return leaks


@pytest.mark.parametrize("name", ERRORS)
def test_no_secret_is_in_an_error(notebook, leaks, name):
    cell = notebook.run(ERRORS[name])

    assert cell.error is not None
    told = f"{cell.error.evalue}\n{cell.error}"
    assert "[redacted]" in told or name == "a line that was cut", told
    assert not leaks()


@pytest.mark.parametrize("name", RESULTS)
def test_no_secret_is_in_what_a_cell_shows(notebook, leaks, name):
    cell = notebook.good(RESULTS[name])

    notebook.wait_until(lambda: "[redacted]" in json.dumps(cell.outputs))
    assert not leaks()


def test_errors_and_matches_stay_exact(notebook):
    notebook.good(f"{ENDED}kept = error")
    notebook.good("match = await wait_for('tok.*', 'stays', start='begin')")

    assert notebook.ask("(kept.last_lines[-1], match.line, match[0])") == (f"token={SECRET}",) * 3
    assert SECRET in notebook.ask("str(kept)")


def test_errors_of_others_are_shown_as_they_are(notebook):
    cell = notebook.run("raise ValueError('token=mine')")

    assert cell.error.evalue == "token=mine"
    assert "token=mine" in str(cell.error)


def test_no_secret_of_a_machine_that_is_reached_by_ssh_is_shown(notebook, leaks):
    with Sshd() as sshd:
        before = (notebook.work / "cmdop.toml").read_text()
        link = ["ssh", "-F", str(sshd.ssh_config()), "box"]
        (notebook.work / "cmdop.toml").write_text(f"{before}[machines.box]\nlink = {json.dumps(link)}\n")
        cell = notebook.good(f"%%cmdop box --name over-there\n{SAYS}; read x; exit 3")
        waited = notebook.good("await wait_for('token.*', 'over-there')")
        notebook.good("%cmdop send over-there now")
        failed = notebook.run("await cmdop['over-there']")
        notebook.wait_until(lambda: "exit 3" in json.dumps(cell.outputs))

        assert "token=[redacted]" in waited.text
        assert "token=[redacted]" in json.dumps(cell.outputs)
        assert failed.error is None or SECRET not in str(failed.error)
        assert not leaks()
        notebook.good("%cmdop rm over-there")


def test_unloaded_it_leaves_errors_and_values_as_they_were(own_notebook):
    own_notebook.load()
    own_notebook.good(f"%%cmdop --name gone --wait\n{SAYS}")
    own_notebook.good("from cmdop_jupyter import wait_for")
    own_notebook.good("match = await wait_for('token', 'gone', start='begin')")

    own_notebook.good("%unload_ext cmdop_jupyter")

    assert SECRET in own_notebook.good("match").text
    assert "_showtraceback" not in own_notebook.ask("list(vars(get_ipython()))")
