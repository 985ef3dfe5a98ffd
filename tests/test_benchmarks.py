"""Benchmarks are run by hand: what they share with tests must not leave them behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
LOAD = """import importlib, benchmarks.__main__
for name in sys.argv[1:]:
    assert callable(importlib.import_module(f"benchmarks.{name}").main)"""


def test_each_can_be_run():
    names = [path.stem for path in (ROOT / "benchmarks").glob("*.py") if not path.stem.startswith("_")]

    assert names
    subprocess.run([sys.executable, "-c", f"import sys\n{LOAD}", *names], check=True, cwd=ROOT)
