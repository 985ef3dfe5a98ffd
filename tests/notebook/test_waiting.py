"""Cells that wait, in a real kernel: output goes on while one computes, an interrupt ends a wait and nothing else."""

from __future__ import annotations

import time

GO = "read go"
STAY = "exec sleep 1000"
TICKS = "i=0; while :; do i=$((i + 1)); echo tick $i; sleep 0.1; done"


def pictures(notebook, after: float, before: float) -> list[str]:
    """What Output widgets were told to show in that time."""
    updates = [message for message in notebook.iopub if message.kind == "comm_msg" and after < message.time < before]
    states = [message.content["data"].get("state", {}) for message in updates]
    return [state["outputs"][0]["data"]["text/html"] for state in states if state.get("outputs")]


def test_output_keeps_coming_while_a_cell_computes(notebook):
    notebook.good(f"%%cmdop --name ticking\n{TICKS}")
    notebook.good("await wait_for('tick 1$', 'ticking')")

    busy = notebook.start("import time; began = time.monotonic(); time.sleep(5); ended = time.monotonic()")
    busy.wait()

    began, ended = notebook.ask("began"), notebook.ask("ended")
    shown = pictures(notebook, began, ended)
    print(len(shown), "pictures in 5 s of time.sleep")
    assert len(shown) >= 10
    assert len(set(shown)) == len(shown)
    notebook.good("%cmdop stop ticking")


def test_a_waiting_cell_shows_what_it_waits_for(notebook):
    notebook.good(f"%%cmdop --name told --tty none\necho working; {GO}; echo ready")
    cell = notebook.start("match = await wait_for('ready', 'told')")

    notebook.wait_until(lambda: "… waiting for /ready/ in told, " in cell.text and "· working" in cell.text)
    notebook.type_into("told", b"\n")
    cell.wait()

    assert "✓ /ready/ in told after " in cell.text
    assert "… waiting" not in cell.text


def test_an_interrupt_ends_the_wait_and_nothing_else(notebook, record_property):
    for name in ("first", "second"):
        notebook.good(f"%%cmdop --name {name}\necho up; {STAY}")
    taken = []
    for code in ("await wait_for('never', 'first')", "wait_for('never', 'first').result()", "await first"):
        cell = notebook.start(code)
        notebook.wait_until(lambda cell=cell: "… waiting for" in cell.text)
        interrupted = time.monotonic()
        notebook.interrupt()
        cell.wait()
        taken.append(round((cell.sent + cell.seconds - interrupted) * 1000))
        assert cell.error.ename in ("CancelledError", "KeyboardInterrupt")
        assert "goes on" in str(cell.error)

    record_property("milliseconds", taken)
    print("an interrupt takes", taken, "ms")
    assert max(taken) < 1000
    assert notebook.ask("[first.state, second.state]") == ["running", "running"]
    assert notebook.ask("(await wait_for('up', 'first')).line") == "up"


def test_an_interrupt_ends_a_cell_that_waits_for_the_exit_and_not_the_command(notebook):
    cell = notebook.start(f"%%cmdop --name slow --wait\necho up; {STAY}")
    notebook.wait_until(lambda: "… waiting for" in cell.text)

    notebook.interrupt()
    cell.wait()

    assert cell.error.ename == "KeyboardInterrupt"
    assert notebook.ask("slow.state") == "running"


def test_an_interrupt_that_finds_no_wait_kills_no_session(notebook):
    notebook.good(f"%%cmdop --name bystander\n{STAY}")
    cell = notebook.start("print('begun', flush=True); import time; time.sleep(100)")
    notebook.wait_until(lambda: "begun" in cell.stdout)

    notebook.interrupt()
    cell.wait()

    assert cell.error.ename == "KeyboardInterrupt"
    assert notebook.ask("bystander.state") == "running"


def test_a_cell_with_a_wait_run_again_gives_the_same_match(notebook):
    notebook.good(f"%%cmdop --name repeated\nseq 9; {STAY}")
    code = r"print((await wait_for(r'\d', 'repeated'))[0])"

    results = [notebook.run_as(cell, code).stdout for cell in ("one", "two", "one", "two", "three")]

    assert results == ["1\n", "2\n", "1\n", "2\n", "3\n"]


def test_waits_in_cells_of_a_front_end_that_names_none_go_on(notebook):
    notebook.good(f"%%cmdop --name nameless\nseq 9; {STAY}")

    assert [notebook.ask(r"(await wait_for(r'\d', 'nameless'))[0]") for _ in range(3)] == ["1", "2", "3"]


def test_twenty_sessions_at_once(notebook, record_property):
    began = time.monotonic()
    for number in range(20):
        notebook.good(f"%%cmdop --name crowd{number}\nread x; echo ready {number}; {STAY}")
    notebook.good("crowd = [cmdop[f'crowd{number}'] for number in range(20)]")
    notebook.good("for stream in crowd: stream.send_input('\\n')")

    found = notebook.ask(r"[int(m[1]) for m in await wait_all(r'^ready (\d+)', crowd, timeout=60)]", timeout=90)

    assert found == list(range(20))
    record_property("seconds", time.monotonic() - began)
    assert notebook.ask("{stream.state for stream in crowd}") == {"running"}
    notebook.good("stops = [stream.stop() for stream in crowd]\nfor stop in stops: await stop", timeout=60)


def test_a_task_of_an_earlier_cell_waits_while_others_run(notebook):
    notebook.good(f"%%cmdop --name background --tty none\n{GO}; echo ready; {STAY}")
    notebook.good("import asyncio; task = asyncio.create_task(wait_for('ready', 'background'))")
    assert notebook.ask("task.done()") is False

    notebook.good("background.send_input('\\n')")

    assert notebook.ask("(await task).line") == "ready"


def test_handlers_run_on_the_main_thread_and_print_into_their_cell(notebook):
    notebook.good(f"%%cmdop --name handled --tty none\necho one; {GO}; echo two")
    cell = notebook.good(
        "import threading\n"
        "def handler(data):\n"
        "    print(data, threading.current_thread() is threading.main_thread())\n"
        "_ = handled.on_output(handler)"
    )
    notebook.good("handled.send_input('\\n'); await handled")

    notebook.wait_until(lambda: "two" in cell.stdout)
    assert cell.stdout.replace("' True\nb'", "") == "b'one\\ntwo\\n' True\n"  # in one call, or in two


def test_a_handler_that_raises_is_told_on_the_page(notebook):
    notebook.good("%%cmdop --name raising --wait\necho hello")

    def told() -> bool:
        return any(
            message.kind == "stream" and "LookupError: no use" in message.content["text"] for message in notebook.iopub
        )

    notebook.good("def handler(data):\n    raise LookupError('no use')\n_ = raising.on_output(handler)")

    notebook.wait_until(told)
    assert notebook.ask("raising.metrics.handler_errors") == 1
