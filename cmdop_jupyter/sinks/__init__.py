"""Forwarders of a session's log: to a WebSocket, a database, a file. Each goes on where the other side has it."""

from .base import Sink
from .database import to_database
from .file import to_file
from .websocket import to_websocket

__all__ = ["Sink", "to_database", "to_file", "to_websocket"]
