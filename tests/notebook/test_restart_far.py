"""A kernel that is killed while a session on another machine goes on: the next one gets every byte, once."""

from __future__ import annotations

import hashlib
import json

import pytest
from reach import own_places

COUNT = 400_000
LINES = "seq -f 'line %.0f of the flood'"
FLOOD = f"{LINES} {COUNT // 2}; read go; {LINES} {COUNT // 2 + 1} {COUNT}; echo done; exec sleep 1000"
WHOLE = "".join(f"line {number} of the flood\n" for number in range(1, COUNT + 1)) + "done\n"
DIGEST = hashlib.sha256(WHOLE.encode()).hexdigest()
TAKE = """
import hashlib
seen, size, pieces = hashlib.sha256(), 0, 0
def take(data):
    global size, pieces
    seen.update(data)
    size += len(data)
    pieces += 1
"""


@pytest.fixture
def far_notebook(own_notebook, tmp_path, monkeypatch):
    """A notebook beside a cmdop.toml with a machine called `far`, whose sessions are in a folder of their own."""
    words = [*own_places(tmp_path / "far"), "sh", "-c"]
    (own_notebook.work / "cmdop.toml").write_text(f"[machines.far]\nlink = {json.dumps(words)}\n")
    own_notebook.load()
    return own_notebook


@pytest.mark.parametrize("who", ["far:flood", "flood"])
def test_after_a_kill_every_byte_is_there(far_notebook, who):
    far_notebook.good(f"%%cmdop far --name flood --tty none\n{FLOOD}")
    far_notebook.good(TAKE + "_ = flood.on_output(take)")
    far_notebook.good("await wait_for('line 1000 of', 'flood')")

    far_notebook.kill9()
    far_notebook.restart()
    far_notebook.load()
    listed = far_notebook.good("%cmdop ps")
    cell = far_notebook.good(f"%cmdop attach {who}")
    far_notebook.good(TAKE + "taking = flood.on_output(take, start='begin', thread=True)")
    far_notebook.good("await flood.send_input('\\n'); await wait_for('^done$', 'flood', timeout=60)", timeout=90)
    far_notebook.wait_until(lambda: far_notebook.ask("size") >= len(WHOLE))

    assert far_notebook.ask("(size, seen.hexdigest(), taking.errors)") == (len(WHOLE), DIGEST, 0)
    assert far_notebook.ask("(flood.machine, flood.name, flood.state)") == ("far", "flood", "running")
    assert far_notebook.ask("hashlib.sha256(flood.read()).hexdigest()") == DIGEST
    assert "flood" in listed.text
    assert "far" in listed.text
    far_notebook.wait_until(lambda: f"line {COUNT} of the flood" in cell.text)


def test_after_a_kill_what_was_typed_is_typed_once(far_notebook):
    far_notebook.good("%%cmdop far --name typed --tty none\nexec cat")
    far_notebook.good("for number in range(1000): await typed.send_input(f'{number}\\n')")
    sending = far_notebook.start("for number in range(1000, 10**9): await typed.send_input(f'{number}\\n')")
    far_notebook.kill9()
    far_notebook.restart()
    far_notebook.load()
    far_notebook.good("%cmdop attach far:typed")
    far_notebook.good("await typed.send_input('end\\n'); await typed.send_eof()")

    assert far_notebook.ask("(await typed).code") == 0
    *numbers, end = far_notebook.ask("typed.read().split()")
    assert sending.reply is None
    assert end == b"end"
    assert numbers == [b"%d" % number for number in range(len(numbers))]
    assert len(numbers) >= 1000
