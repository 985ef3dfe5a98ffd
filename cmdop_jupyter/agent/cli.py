"""`cmdop-agent sessions | log | stop | remove | prune`: the sessions of this machine, from a shell."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time
from typing import Any

from . import status
from .errors import CmdopError, LogDropped
from .stopping import GRACE, told
from .store import SessionStore, raise_answer

READ_SIZE = 1024 * 1024
STOP_SECONDS = 60.0  # until a supervisor that is stopping its session has to have answered


def main(words: list[str]) -> int:
    """Do what the command line asks; return the exit status (2: it made no sense, 1: it failed)."""
    parser = argparse.ArgumentParser(prog="cmdop-agent", description="Sessions of cmdop_jupyter on this machine.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("sessions", help="list them: name, state, age, size, command")
    for name, words_of in (
        ("log", "print its output"),
        ("stop", "end its command"),
        ("remove", "delete it, if it ended"),
    ):
        commands.add_parser(name, help=words_of).add_argument("session", help="its name or id")
    commands.add_parser("prune", help="sweep out old ended sessions")
    asked = parser.parse_args(words)
    try:
        _do(SessionStore(), asked.command, getattr(asked, "session", ""))
    except CmdopError as error:
        print(f"cmdop-agent: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is flushed at the end
        return 1
    return 0


def _do(store: SessionStore, command: str, wanted: str) -> None:
    if command == "sessions":
        for facts in store.sessions():
            age = (time.time_ns() - int(str(facts["created_ns"]))) // 1_000_000_000
            print(f"{facts['name']:24} {facts['state']:8} {age:>8} s {facts['end']:>12} B  {facts['title']}")
        return
    if command == "prune":
        print(f"{len(store.prune())} sessions removed")
        return
    facts = store.find(wanted)
    session_id = str(facts["id"])
    if command == "remove":
        store.remove(session_id)
    elif command == "log":
        _print_log(store, session_id, int(str(facts["end"])))
    elif facts["state"] == status.ENDED:
        print(f"{facts['name']} had ended already")
    else:
        report = _stop(store, session_id, lost=facts["state"] == status.LOST)
        print(f"{facts['name']}: {told(report['took'], report['seconds'], report['ended'], report['left'])}")


def _stop(store: SessionStore, session_id: str, *, lost: bool) -> dict[str, Any]:
    if lost:
        return store.stop_lost(session_id, GRACE)
    with store.connect(session_id) as sock:
        sock.settimeout(STOP_SECONDS)
        report = raise_answer(store.ask(sock, {"op": "stop", "id": 1}))["report"]
    assert isinstance(report, dict)
    return report


def _print_log(store: SessionStore, session_id: str, end: int) -> None:
    offset = 0
    with contextlib.closing(store.reader(session_id)) as reader:
        while offset < end:
            try:
                chunks = reader.read(offset, READ_SIZE, end)
            except LogDropped as gap:
                print(f"cmdop-agent: {gap}", file=sys.stderr)
                offset = gap.first
                continue
            for chunk in chunks:
                sys.stdout.buffer.write(chunk.data)
            offset = chunks[-1].end
        sys.stdout.buffer.flush()
