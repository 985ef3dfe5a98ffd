"""`cmdop-agent`: the sessions of this machine from a shell; also what starts a supervisor, by path."""

from __future__ import annotations

import sys

if not __package__:  # `python -I -S <folder or zipapp>`: make the folder a package without importing what is above it
    _package = type(sys)("cmdop_agent")
    _package.__path__ = [sys.path[0]]
    sys.modules["cmdop_agent"] = _package
    __package__ = "cmdop_agent"
    __spec__ = type(__spec__)("cmdop_agent.__main__", None)  # type: ignore[misc]  # newer Pythons go by this one


def main() -> int:
    """Run what the command line asks for; return the exit status."""
    if sys.argv[1:2] == ["supervise"]:
        from . import supervisor

        if "agent-" in sys.path[0]:  # it was sent here
            from .installed import hold

            hold()
        supervisor.main(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
        return 0
    if sys.argv[1:2] == ["serve"]:
        from .installed import unpacked

        if __package__ == "cmdop_agent":  # from there it need not be compiled again
            sys.modules["cmdop_agent"].__path__ = [unpacked()]
        from . import rpc

        return rpc.serve(sys.argv[2])
    from . import cli

    return cli.main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
