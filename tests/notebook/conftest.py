"""A kernel that the tests of one module share, where a fresh one for each would only cost time."""

from __future__ import annotations

import ast
import asyncio
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from kernels import Cell, Kernel

from cmdop_jupyter.agent.store import SessionStore
from cmdop_jupyter.machines.local import LocalMachine
from tools.leftovers import end_all


class Notebook(Kernel):
    """A kernel that is asked what tests want to know.

    Attributes:
        page: Whether it is told that somebody looks, and could answer; a program that runs notebooks says no.
    """

    page = False

    def start(self, code: str) -> Cell:
        sent = time.monotonic()
        cell = Cell(self, code, self._client.execute(code, allow_stdin=self.page))
        cell.sent = sent
        return cell

    def load(self) -> Cell:
        """Load the extension, as a notebook's first cell does."""
        return self.run("%load_ext cmdop_jupyter")

    def run(self, code: str, timeout: float = 30) -> Cell:
        try:
            return super().run(code, timeout)
        except TimeoutError:
            self.interrupt()  # the next test wants to run as well
            raise

    def run_as(self, cell_id: str, code: str) -> Cell:
        """Run code as the cell of that id, as front ends that name their cells do."""
        content = {"code": code, "silent": False, "store_history": True, "user_expressions": {}, "allow_stdin": False}
        message = self._client.session.msg("execute_request", content, metadata={"cellId": cell_id})
        cell = Cell(self, code, message["header"]["msg_id"])
        self._client.shell_channel.send(message)
        return cell.wait()

    def type_into(self, name: str, data: bytes) -> None:
        """Type into a session past the kernel, which may be busy."""

        async def write() -> None:
            machine = LocalMachine(SessionStore(self._env["CMDOP_STATE_DIR"]))
            await machine.write((await machine.find(name)).id, uuid.uuid4().hex, 0, data)
            await machine.close()

        asyncio.run(write())

    def ask(self, expression: str, timeout: float = 30) -> Any:
        """The value of an expression in the kernel; `await` may stand in it."""
        cell = self.run(f"print(repr({expression}))", timeout)
        assert cell.error is None, cell.error
        return ast.literal_eval(cell.stdout)

    def good(self, code: str, timeout: float = 30) -> Cell:
        """Run a cell that must not raise."""
        cell = self.run(code, timeout)
        assert cell.error is None, cell.error
        return cell


@pytest.fixture(scope="module")
def notebook(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notebook]:
    """One for all tests of the module: they take names of their own, and count on nothing of the others."""
    folder, mark = tmp_path_factory.mktemp("notebook"), uuid.uuid4().hex
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CMDOP_STATE_DIR", str(folder / "state"))
        patch.setenv("CMDOP_TEST", mark)
        try:
            with Notebook(folder / "kernel") as notebook:
                notebook.load()
                yield notebook
        finally:
            end_all("CMDOP_TEST", mark)


@pytest.fixture
def own_notebook(state_dir, tmp_path) -> Iterator[Notebook]:
    """One for this test alone, the extension not loaded yet."""
    with Notebook(tmp_path / "kernel") as notebook:
        yield notebook
