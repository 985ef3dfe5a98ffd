"""For tests that start no process: without the search for what they left running, which takes longer than they do."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def state_dir() -> None:
    """In place of the one of `tests/conftest.py`."""
    return None
