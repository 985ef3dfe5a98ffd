"""Connections of those whom a module's `cast` has: people with a key each, of a relay of that module."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from intruders import Raw


@pytest.fixture
async def op1(cast: Any) -> AsyncIterator[Raw]:
    async with Raw(cast.op1) as raw:
        yield raw


@pytest.fixture
async def obs(cast: Any) -> AsyncIterator[Raw]:
    """An observer."""
    async with Raw(cast.obs) as raw:
        yield raw
