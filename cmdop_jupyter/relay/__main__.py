"""`cmdop-relay keys …` and `cmdop-relay serve …`."""

from __future__ import annotations

import importlib
import sys

USAGE = """usage: cmdop-relay keys FOLDER …   who may be on a relay, and what its nats-server is to know
       cmdop-relay serve …         be a machine on a relay
Each says more with --help."""


def main(words: list[str] | None = None) -> int:
    """Do what the command line asks; return the exit status (2: it made no sense, 1: it failed)."""
    verb, *rest = (sys.argv[1:] if words is None else words) or [""]
    if verb == "keys":
        from .cli import main as keys

        return keys(rest)
    if verb == "serve":
        return int(importlib.import_module(".serve", __package__).main(rest))
    print(USAGE, file=sys.stdout if verb in ("-h", "--help") else sys.stderr)
    return 0 if verb in ("-h", "--help") else 2


if __name__ == "__main__":
    sys.exit(main())
