"""Run long commands from notebooks and scripts: output that stays live, is never lost, and can be waited for.

In a notebook: `%load_ext cmdop_jupyter`, then `%%cmdop?`. In a script: `AsyncCMDOPClient.local()`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .client import AsyncCMDOPClient as AsyncCMDOPClient
    from .machines.base import Exit as Exit
    from .machines.base import StopReport as StopReport
    from .stream import Stream as Stream
    from .stream import TerminalStream as TerminalStream
    from .wait import Match as Match
    from .wait import wait_all as wait_all
    from .wait import wait_for as wait_for

_ERRORS = """
    CmdopError CommandFailed ConfigError ConnectFailed Detached FailPatternSeen HostKeyChanged InputTooLong
    InvalidRequest LinkLost LogDropped NameInUse NotSupported PatternError PatternTooSlow PortClosed SessionEnded
    SessionNotFound SessionOver StartFailed StillRunning StoreRefused TooMuch UnknownMachine WaitTimeout
"""
_HOMES = {
    "AsyncCMDOPClient": "client",
    "Exit": "machines.base",
    "Match": "wait",
    "StopReport": "machines.base",
    "Stream": "stream",
    "TerminalStream": "stream",
    "wait_all": "wait",
    "wait_for": "wait",
    **dict.fromkeys(_ERRORS.split(), "errors"),
}
__all__ = ["__version__", "load_ipython_extension", *sorted(_HOMES)]


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is (PEP 562): `import cmdop_jupyter` alone costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


def load_ipython_extension(shell: Any) -> None:
    """`%load_ext cmdop_jupyter`."""
    from .notebook import load

    load(shell)


def unload_ipython_extension(shell: Any) -> None:
    """`%unload_ext cmdop_jupyter`; sessions go on."""
    from .notebook import unload

    unload(shell)
