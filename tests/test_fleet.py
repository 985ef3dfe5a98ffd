"""One command on many machines, for real: `sh -c` links with stores of their own, and one sshd for several."""

from __future__ import annotations

import asyncio
import json
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest
from clients import configured
from reach import ssh_to
from sshd import Sshd

from cmdop_jupyter import (
    CommandFailed,
    Detached,
    FailPatternSeen,
    Fleet,
    InvalidRequest,
    SessionEnded,
    StillRunning,
    UnknownMachine,
    UnknownMachines,
    run_fleet,
    wait_all,
    wait_for,
)
from cmdop_jupyter.streams import streams

STAY = "exec sleep 1000"
SIX = [f"web{number:02}" for number in range(1, 7)]
DEAD = 'link = ["sh", "-c", "echo the cable is out >&2; exit 1"]\ntags = ["flaky"]'


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[Path]:
    """web01 to web06, and `dead`, which cannot be reached."""
    with configured(tmp_path / "far", *SIX, dead=DEAD) as folder:
        with (folder / "cmdop.toml").open("a") as file:
            file.write('[groups]\nfront = ["web[01-02]", "web04"]\n')
        yield folder


def by_number(folder: Path, **scripts: str) -> str:
    """A script that does something else on each machine: by its name, else `other`."""
    cases = "".join(f"*/{name}/state) {script} ;;\n" for name, script in scripts.items() if name != "other")
    return f"case $CMDOP_STATE_DIR in\n{cases}*) {scripts.get('other', ':')} ;;\nesac"


# -- which machines


async def test_words_are_machines_in_their_order_each_once(machines):
    fleet = await run_fleet(["web03", "@front", "web[02-04]"], "true")

    assert list(fleet) == ["web03", "web01", "web02", "web04"]


async def test_all_names_that_are_none_are_told_at_once_and_nothing_is_started(machines):
    with pytest.raises(UnknownMachines, match=r"web1 \(did you mean .*; 'nope\[' .*Nothing was started") as caught:
        run_fleet(["web01", "web1", "nope[", "@front"], "touch ../started", name="never")

    assert isinstance(caught.value, UnknownMachine)
    assert [type(error).__name__ for error in caught.value.errors] == ["UnknownMachine", "InvalidRequest"]
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    assert "never" not in streams.fleets


def test_one_name_that_is_none_is_told_as_for_one_machine(machines):
    with pytest.raises(UnknownMachine, match="no machine is called 'web09'") as caught:
        run_fleet("web09", "true")

    assert not isinstance(caught.value, UnknownMachines)


# -- how it went


async def test_a_fleet_is_a_mapping_of_streams(machines):
    fleet = await run_fleet("web[01-03]", "pwd; echo $CMDOP_STATE_DIR", name="where")

    assert [fleet[name].text().split()[1] for name in fleet] == [str(machines / name / "state") for name in fleet]
    assert fleet["web02"].name == "web02:where"
    assert streams["web02:where"] is fleet["web02"]
    assert list(fleet.ok) == list(fleet)
    assert repr(fleet) == "<Fleet where on 3 machines: 3 ok>"


async def test_partial_failure_is_told_and_the_others_go_on(machines):
    script = by_number(machines, web02="echo about to fail; exit 3", web03="kill -9 $$", other="echo fine")
    fleet = await run_fleet(["web[01-04]", "dead"], script, name="mixed")

    assert fleet.summary() == "2 ok, 3 failed"
    assert list(fleet.ok) == ["web01", "web04"]
    assert list(fleet.failed) == ["web02", "web03", "dead"]
    assert "the cable is out" in fleet.not_started["dead"]
    rows = {row.machine: (row.outcome, row.exit, row.last_line) for row in await asyncio.to_thread(fleet.rows)}
    assert rows["web01"] == ("ok", "exit 0", "fine")
    assert rows["web02"] == ("failed", "exit 3", "about to fail")
    assert rows["web03"] == ("failed", "ended by KILL", "")
    assert rows["dead"][0] == "failed"
    with pytest.raises(Exception, match="the cable is out"):
        fleet["dead"].tail()
    with pytest.raises(CommandFailed, match=r"3 of 5 machines: web02 exit 3; web03 ended by KILL; dead was not"):
        fleet.check()


async def test_its_table_has_a_row_a_machine(machines):
    fleet = await run_fleet(["web01", "dead"], "echo one; echo two")

    table = fleet.to_pandas()

    assert list(table.columns) == ["machine", "outcome", "state", "exit", "seconds", "bytes", "lines", "last_line"]
    assert list(table.machine) == ["web01", "dead"]
    assert (table.bytes[0], table.lines[0], table.last_line[0]) == (8, 2, "two")
    assert list(table[table.outcome == "failed"].machine) == ["dead"]


async def test_what_failed_is_run_anew(machines):
    gate = machines / "gate"
    fleet = await run_fleet("web[01-03]", by_number(machines, web02=f"test -e {gate}"), name="again")
    gate.touch()

    again = await fleet.rerun()

    assert list(fleet.failed) == list(again) == list(again.ok) == ["web02"]
    assert streams.fleets["again"] is again
    assert list(await fleet.rerun(fleet.ok)) == ["web01", "web03"]
    with pytest.raises(InvalidRequest, match="nothing to run anew: 1 ok"):
        again.rerun()
    with pytest.raises(InvalidRequest, match="web09: not of the fleet again"):
        fleet.rerun(["web01", "web09"])


# -- how many at once


async def test_no_more_run_at_once_than_asked_for(machines):
    shared = machines / "under-way"
    shared.mkdir()
    script = f"mkdir {shared}/$$; ls {shared} | wc -l; sleep 0.3; rmdir {shared}/$$"

    fleet = await run_fleet("web[01-06]", script, at_most=2)

    assert fleet.summary() == "6 ok"
    assert max(int(stream.text()) for stream in fleet.values()) == 2


async def test_by_default_one_that_never_exits_keeps_none_from_starting(machines):
    fleet = run_fleet("web[01-06]", f"echo up; {STAY}")

    assert list(await wait_all("up", fleet, timeout=60)) == SIX
    assert fleet.summary() == "6 running"
    assert {report.took for report in (await fleet.stop()).values()} == {"INT"}
    assert (await fleet).summary() == "6 stopped"


async def test_after_a_failure_no_more_are_started_and_those_that_run_go_on(machines):
    script = by_number(machines, web01="echo up; read line", web02="exit 3")
    fleet = run_fleet("web[01-06]", script, at_most=2, stop_on_failure=True)
    with pytest.raises(Detached, match="web06:command has no session: not started: web02 had failed"):
        await wait_all("never", [fleet["web06"]])
    await wait_all("up", [fleet["web01"]])

    assert fleet.summary() == "4 skipped, 1 running, 1 failed"
    assert fleet.not_started["web05"] == "not started: web02 had failed"
    with pytest.raises(Detached, match="web05:command has no session: not started: web02 had failed"):
        fleet["web05"].text()
    await fleet["web01"].send_input("\n")
    assert (await fleet).summary() == "1 ok, 4 skipped, 1 failed"
    assert list(await fleet.rerun()) == SIX[1:]


async def test_a_fleet_that_is_stopped_starts_no_more(machines):
    fleet = run_fleet("web[01-03]", f"echo up; {STAY}", at_most=1)
    await wait_all("up", fleet, any=True, timeout=60)

    reports = await fleet.stop()

    assert list(reports) == ["web01"]
    assert (await fleet).summary() == "1 stopped, 2 skipped"


@pytest.mark.parametrize("wrong", [{"at_most": 0}, {"command": ["ls"]}, {"machines": []}])
def test_what_makes_no_sense_starts_nothing(machines, wrong):
    with pytest.raises(InvalidRequest):
        run_fleet(**{"machines": "web01", "command": "true", **wrong})


# -- waiting


async def test_waiting_for_all_gives_matches_by_machine(machines):
    fleet = run_fleet("web[01-03]", f"basename $(dirname $CMDOP_STATE_DIR); {STAY}", name="ready", at_most=3)

    ready = await wait_all(r"web(\d+)", "ready", timeout=60)

    assert {name: match[1] for name, match in ready.items()} == {"web01": "01", "web02": "02", "web03": "03"}
    assert [match[1] for match in await wait_all(r"web(\d+)", list(fleet.values()), start="begin")] == [
        "01",
        "02",
        "03",
    ]


async def test_waiting_for_some_passes_over_those_that_end(machines):
    script = by_number(
        machines, web02="exit 3", web03=f"echo up; {STAY}", other=f"echo ready; read go; echo up; {STAY}"
    )
    fleet = run_fleet(["dead", "web[01-04]"], script, name="some")

    assert list(await wait_all("up", fleet, any=True, timeout=60)) == ["web03"]
    await wait_all("ready", [fleet["web04"]], timeout=60)
    await fleet["web04"].send_input("\n")
    assert list(await wait_all("up", fleet, at_least=2, start="begin", timeout=60)) == ["web03", "web04"]
    with pytest.raises(InvalidRequest, match="at_least is 1 to 5"):
        wait_all("up", fleet, at_least=6)
    with pytest.raises(InvalidRequest, match="contradicts"):
        wait_all("up", fleet, any=True, at_least=2)


async def test_a_wait_that_cannot_be_met_says_on_which_machine(machines):
    fleet = run_fleet("web[01-02]", by_number(machines, web02="exit 3", other=STAY), name="told")

    with pytest.raises(SessionEnded, match=r"web02:told ended \(exit 3\)"):
        await wait_all("up", fleet, timeout=60)
    with pytest.raises(SessionEnded, match=r"web02:told ended"):
        await wait_all("up", fleet, at_least=2, timeout=60)
    with pytest.raises(InvalidRequest, match="told is a fleet of 2 machines"):
        wait_for("up", "told")


async def test_a_wait_for_the_end_may_have_a_limit_and_lines_that_are_errors(machines):
    fleet = run_fleet("web[01-02]", by_number(machines, web02=f"echo ERROR 7; {STAY}", other=STAY), name="watched")

    with pytest.raises(FailPatternSeen, match="web02:watched printed a line"):
        await fleet.wait_exit(60, fail="ERROR")
    with pytest.raises(StillRunning, match=r"watched has not exited in 0\.1 s"):
        await fleet.wait_exit(0.1)


# -- over ssh


async def test_machines_at_one_sshd_one_with_a_key_nobody_knows(tmp_path):
    nobody = tmp_path / "nobody"
    nobody.write_text("")
    with Sshd() as sshd, configured(tmp_path / "far") as folder:
        good = ssh_to(sshd)
        strange = ssh_to(sshd, UserKnownHostsFile=nobody, StrictHostKeyChecking="yes")
        links = [good, good, strange, good]
        (folder / "cmdop.toml").write_text(
            "".join(f"[machines.box{n:02}]\nlink = {json.dumps(link)}\n" for n, link in enumerate(links, 1))
        )

        fleet = await run_fleet("box[01-04]", "echo from here")

        assert fleet.summary() == "3 ok, 1 failed"
        assert "host key" in fleet.not_started["box03"].lower()
        assert await asyncio.to_thread(fleet["box04"].text) == "from here\n"


def test_scripts_without_a_loop_block(machines):
    fleet = run_fleet("web[01-02]", "true").wait_exit(60).result()

    assert isinstance(fleet, Fleet)
    assert fleet.check() is fleet
