"""What all tests share: sessions in a folder of their own, a real kernel, and nothing left running behind a test."""

from __future__ import annotations

import contextlib
import itertools
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from kernels import Kernel
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

from tools.leftovers import end_all

RUN_MARK, TEST_MARK = "CMDOP_TEST_RUN", "CMDOP_TEST"
RUN = uuid.uuid4().hex
NUMBERS = itertools.count()
PAGE, CONTRACT = "tests/page/", "tests/test_machine.py"

# The same examples each time, so that a change is judged by itself; with CHAOS=1 others each time, and more.
CHAOS = "CHAOS" in os.environ
settings.register_profile("any speed", deadline=None, derandomize=not CHAOS, max_examples=300 if CHAOS else 50)
settings.load_profile("any speed")


class OneBrowser(LoadFileScheduling):
    """A file stays in one process, and all that has a browser in another one, which begins with it.

    Several browsers at once, with a JupyterLab each, are more than a small machine does well.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        if file == CONTRACT:  # the longest: a kind of machine is one unit
            return file + nodeid.partition("[")[2].partition("-")[0].rstrip("]")
        return PAGE if file.startswith(PAGE) else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> OneBrowser:
    return OneBrowser(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: not item.nodeid.startswith(PAGE))


@contextlib.contextmanager
def own_sessions(folder: Path) -> Iterator[Path]:
    """A CMDOP_STATE_DIR under `folder`, not made yet; afterwards every process started meanwhile is ended.

    Processes are known by a mark in their environment. What a fixture of a wider scope starts has not that mark; it
    goes with its fixture, at the latest with the run.
    """
    state, mark = folder / "state", f"{RUN}:{next(NUMBERS)}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CMDOP_STATE_DIR", str(state))
        patch.setenv(TEST_MARK, mark)
        try:
            yield state
        finally:
            if any(folder.iterdir()):  # else no session was there; to find their processes takes a look at all
                end_all(TEST_MARK, mark)


@pytest.fixture(autouse=True)
def state_dir(tmp_path: Path) -> Iterator[Path]:
    """The folder of this test's sessions, not made yet. What the test leaves running is ended after it."""
    with own_sessions(tmp_path) as path:
        yield path


@pytest.fixture
def kernel(state_dir: Path, tmp_path: Path) -> Iterator[Kernel]:
    """A real kernel of this Python, with the sessions of `state_dir` and nothing of the user's configuration."""
    with Kernel(tmp_path / "kernel") as kernel:
        yield kernel


class Notebooks:
    """Gives each notebook what `state_dir` gives a test: fixtures do not reach notebooks. Ends what the run left."""

    def __init__(self) -> None:
        self._notebook = contextlib.ExitStack()
        self._path: Path | None = None

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        if item.path.suffix != ".ipynb" or item.path == self._path:
            return
        folder = item.config._tmp_path_factory.mktemp(item.path.stem)
        self._path = item.path
        self._notebook.enter_context(own_sessions(folder))
        self._notebook.enter_context(pytest.MonkeyPatch.context()).setenv("IPYTHONDIR", str(folder / "ipython"))

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
        try:
            return (yield)  # nbval stops the kernel after the last cell of a notebook
        finally:
            if nextitem is None or nextitem.path != self._path:
                self._notebook.close()
                self._path = None

    def pytest_sessionfinish(self) -> None:
        end_all(RUN_MARK, RUN)


def pytest_configure(config: pytest.Config) -> None:
    for name in [name for name in os.environ if name.startswith("CMDOP_")]:
        del os.environ[name]
    os.environ[RUN_MARK] = RUN
    config.pluginmanager.register(Notebooks())
