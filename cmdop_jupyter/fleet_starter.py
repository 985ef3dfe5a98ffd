"""How a fleet's command is started on one machine, and what becomes of a namesake there."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Mapping
from typing import Any

from .agent.stopping import GRACE
from .client import new_id
from .errors import InvalidRequest, NameInUse
from .fleet_stream import FleetStream
from .machines.base import StartRequest

__all__ = ["Starter"]


class Starter:
    """How a fleet starts its command on one machine.

    Args:
        request: What to start; each machine gets an id of its own.
        if_running: What happens to a session of that name: `error`, `attach` (if it is the same command) or `replace`.
        local: What is different on this machine.
    """

    def __init__(
        self, request: StartRequest, if_running: str = "error", local: Mapping[str, Any] | None = None
    ) -> None:
        self._request, self._if_running, self._local = request, if_running, local or {}

    def check_again(self) -> None:
        """Raise where it cannot be started anew."""

    async def start(self, member: FleetStream) -> None:
        """Start it and give `member` its session. Raises what stands in its way."""
        where = member._machine
        more = self._local if where.name == "local" else {}
        request = dataclasses.replace(self._request, id=new_id(), **more)
        try:
            facts = await where.start(request)
        except NameInUse as clash:
            if self._if_running == "error":
                raise
            facts = await where.find(clash.session_id)
            if self._if_running == "replace":
                await where.stop(facts.id, uuid.uuid4().hex, GRACE)
                facts = await where.start(dataclasses.replace(request, id=new_id()))
            elif facts.digest != request.digest:
                raise InvalidRequest(
                    f"{request.name} is running on {where.name} with another command or other options, so this did "
                    f"not attach to it; `--replace` stops it first"
                ) from None
        if request.owner is not None and request.ephemeral is not None:
            await where.own(facts.id, request.owner)
        member.adopt(facts, 0)
