"""A relay of a module and the key of its operator, and connections of those whom a module's `cast` has."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from intruders import Raw
from relays import TestRelay
from relays import relay as open_relay


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestRelay]:
    with open_relay(tmp_path_factory.mktemp("relay") / "keys") as relay:
        yield relay


@pytest.fixture(scope="module")
def key(relay: TestRelay) -> str:
    return relay.api_key("op1")


@pytest.fixture
async def op1(cast: Any) -> AsyncIterator[Raw]:
    async with Raw(cast.op1) as raw:
        yield raw


@pytest.fixture
async def obs(cast: Any) -> AsyncIterator[Raw]:
    """An observer."""
    async with Raw(cast.obs) as raw:
        yield raw
