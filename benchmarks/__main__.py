"""Runs what this folder measures, and prints one table of it; the same as JSON goes to build/bench.json.

    python -m benchmarks [--full] [--only NAME]

Each module here has `main(full: bool) -> list[dict]`; a row has `name`, `value`, `unit`, `bound` (`">= 0.85"`,
`"<= 20"` or None) and `detail`. What misses its bound is marked, and is no failure of the run: figures depend on the
machine.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import pkgutil
import platform
import sys
import tempfile
import time
import traceback
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cmdop_jupyter import directory
from tools.leftovers import end_all

MARK = "CMDOP_BENCH_RUN"
ROOT = Path(__file__).parents[1]
sys.path += [str(ROOT / "tools"), str(ROOT / "tests" / "page")]  # as pytest has them, for what both use
Row = dict[str, Any]


def verdict(value: float, bound: str | None) -> str:
    """`ok`, `MISS`, or nothing where there is no bound."""
    if bound is None:
        return ""
    sign, limit = bound.split()
    if sign not in ("<=", ">="):
        raise ValueError(f"a bound begins with <= or >=, got {bound!r}")
    return "ok" if (value <= float(limit) if sign == "<=" else value >= float(limit)) else "MISS"


def table(rows: Sequence[Row]) -> str:
    """The rows in columns as wide as they must be."""
    lines = [("what", "measured", "", "bound", "", "")]
    lines += [(r["name"], number(r["value"]), r["unit"], r["bound"] or "", r["verdict"], r["detail"]) for r in rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column == 1 else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 or value == 0 else f"{value:.3g}"


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpus": os.cpu_count(),
        "processor": platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 2),
    }


def measure(module: str, full: bool) -> list[Row]:
    """Run one module with sessions of its own; end what it leaves running."""
    mark = uuid.uuid4().hex
    before = dict(os.environ)
    with tempfile.TemporaryDirectory(prefix="cmdop-bench-") as folder:
        os.environ.update({"CMDOP_STATE_DIR": f"{folder}/state", MARK: mark})
        try:
            rows: list[Row] = importlib.import_module(f"benchmarks.{module}").main(full)
        finally:
            directory._machines.clear()  # the next module has other folders
            end_all(MARK, mark)
            os.environ.clear()
            os.environ.update(before)
    return [{**row, "module": module, "verdict": verdict(row["value"], row["bound"])} for row in rows]


def main() -> int:
    names = sorted(
        found.name
        for found in pkgutil.iter_modules([str(Path(__file__).parent)])
        if not found.name.startswith("_") and "\ndef main(" in (Path(__file__).parent / f"{found.name}.py").read_text()
    )
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure, and print a table of it.")
    parser.add_argument("--full", action="store_true", help="the real sizes; without, small ones that take seconds")
    parser.add_argument("--only", choices=names, action="append", metavar="NAME", help=f"of {', '.join(names)}")
    given = parser.parse_args()

    rows: list[Row] = []
    crashed: list[str] = []
    about = machine()
    for name in given.only or names:
        print(f"{name} …", end="", file=sys.stderr, flush=True)
        started = time.monotonic()
        try:
            rows += measure(name, given.full)
        except Exception:
            crashed.append(name)
            print(" crashed", file=sys.stderr)
            traceback.print_exc()
        else:
            print(f" {time.monotonic() - started:.1f} s", file=sys.stderr)

    result = ROOT / "build" / "bench.json"
    result.parent.mkdir(exist_ok=True)
    report = {"machine": about, "full": given.full, "crashed": crashed, "rows": rows}
    result.write_text(json.dumps(report, indent=1) + "\n")
    print(table(rows))
    print(", ".join(f"{key} {value}" for key, value in about.items()))
    missed = sum(row["verdict"] == "MISS" for row in rows)
    print(f"{len(rows)} figures, {missed} beyond their bound" + "".join(f"; {name} crashed" for name in crashed))
    return 1 if crashed else 0


if __name__ == "__main__":
    sys.exit(main())
