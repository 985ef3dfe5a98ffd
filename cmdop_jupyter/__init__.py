"""Run long commands from notebooks and scripts: output that stays live, is never lost, and can be waited for.

In a notebook: `%load_ext cmdop_jupyter`, then `%%cmdop?`. In a script: `AsyncCMDOPClient()`, or `CMDOPClient()`
which blocks.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .blocking import CMDOPClient as CMDOPClient
    from .client import AsyncCMDOPClient as AsyncCMDOPClient
    from .directory import MachineInfo as MachineInfo
    from .execution import Completed as Completed
    from .fleet import Fleet as Fleet
    from .fleet import run_fleet as run_fleet
    from .handlers import BufferedHandler as BufferedHandler
    from .handlers import Collector as Collector
    from .handlers import FlowControlledHandler as FlowControlledHandler
    from .handlers import LogProcessor as LogProcessor
    from .handlers import Rule as Rule
    from .machines.base import Exit as Exit
    from .machines.base import StopReport as StopReport
    from .notify import set_notifier as set_notifier
    from .prompts import Prompt as Prompt
    from .sessions import Session as Session
    from .sinks import Sink as Sink
    from .sinks import to_database as to_database
    from .sinks import to_file as to_file
    from .sinks import to_websocket as to_websocket
    from .stream import Stream as Stream
    from .stream import TerminalStream as TerminalStream
    from .wait import Match as Match
    from .wait import wait_all as wait_all
    from .wait import wait_for as wait_for

_ERRORS = """
    BadKey CmdopError CommandFailed CommandTimeout ConfigError ConnectFailed Detached FailPatternSeen HostKeyChanged
    InputTooLong InvalidRequest LinkLost LogDropped NameInUse NotSupported ObserverOnly PatternError PatternTooSlow
    PortClosed PromptCameBack Refused SessionEnded SessionNotFound SessionOver StartFailed StillRunning StoreRefused
    TooMuch UnknownMachine UnknownMachines WaitTimeout
"""
_HOMES = {
    "AsyncCMDOPClient": "client",
    "BufferedHandler": "handlers",
    "CMDOPClient": "blocking",
    "Collector": "handlers",
    "Completed": "execution",
    "Exit": "machines.base",
    "Fleet": "fleet",
    "FlowControlledHandler": "handlers",
    "LogProcessor": "handlers",
    "MachineInfo": "directory",
    "Match": "wait",
    "Prompt": "prompts",
    "Rule": "handlers",
    "Session": "sessions",
    "Sink": "sinks",
    "StopReport": "machines.base",
    "Stream": "stream",
    "TerminalStream": "stream",
    "run_fleet": "fleet",
    "set_notifier": "notify",
    "to_database": "sinks",
    "to_file": "sinks",
    "to_websocket": "sinks",
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
