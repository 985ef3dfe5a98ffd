"""A kernel that the tests of one module share, where a fresh one for each would only cost time."""

from __future__ import annotations

import ast
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from kernels import Cell, Kernel

from tools.leftovers import end_all


class Notebook(Kernel):
    """A kernel with the extension loaded."""

    def load(self) -> Cell:
        """Load the extension, as a notebook's first cell does."""
        return self.run("%load_ext cmdop_jupyter")

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
