"""Handlers for what people do with output: hand it on in batches, hold back what is too fast, watch logs, keep it.

Each has a method that takes `(data)`, or `(data, channel)`, from any thread, on a loop or not. `stream.on_output` waits
for what that method returns, so a full handler holds its cursor back and the log keeps what is to come. A client that
ignores what it returns loses nothing either: then the handler grows.
"""

from .collector import Collector, CollectorFull
from .logs import LogProcessor, Rule
from .queues import BufferedHandler, FlowControlledHandler

__all__ = ["BufferedHandler", "Collector", "CollectorFull", "FlowControlledHandler", "LogProcessor", "Rule"]
