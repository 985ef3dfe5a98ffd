"""The commands of docs/relay.md, word for word, in a home and on ports of their own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from relays import free_ports, program

from cmdop_jupyter.relay.cli import _parser as keys_parser
from cmdop_jupyter.relay.keys import ApiKey

PAGE = (Path(__file__).parents[2] / "docs" / "relay.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"(?m)^```sh\n(.*?)^```", PAGE, re.DOTALL)
OPEN = "for _ in $(seq 100); do (: </dev/tcp/127.0.0.1/{port}) 2>/dev/null && break; sleep 0.1; done\n"


def test_a_relay_in_five_minutes_is_one(tmp_path):
    port = free_ports(1)[0]
    script = "set -e\ntrap 'kill $(jobs -p)' EXIT\n" + "".join(COMMANDS[:2]).replace("4222", str(port))
    script = script.replace("home.conf &\n", "home.conf &\n" + OPEN.format(port=port)) + 'echo "$CMDOP_API_KEY"\n'
    bin_folder = os.pathsep.join([str(Path(sys.executable).parent), str(Path(program()).parent)])
    environment = {"HOME": str(tmp_path), "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}"}
    command = f'cmdop-relay() {{ {sys.executable} -m cmdop_jupyter.relay "$@"; }}\n'  # installed or not
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])

    done = subprocess.run(["bash", "-c", command + script], env=environment, capture_output=True, text=True, timeout=60)

    assert done.returncode == 0, done.stderr
    keys = re.findall(r"(?m)^cmd_\S+$", done.stdout)
    assert [ApiKey.parse(key).identity.proof.name for key in keys] == ["obs", "op1"]
    assert "Made: lab: the roster" in done.stderr
    assert "Made: lab: web1" in done.stderr
    assert (tmp_path / "web1.key").exists()
    assert "workspace lab" in done.stdout


def test_the_page_names_every_verb_and_no_other():
    verbs = next(action.choices for action in keys_parser()._actions if action.dest == "verb")
    rows = PAGE.partition("`cmdop-relay keys FOLDER …` | |")[2].partition("`cmdop-relay serve …`")[0]
    named = set(re.findall(r"(?m)^\| `(\w+)", rows))

    assert named == set(verbs)
