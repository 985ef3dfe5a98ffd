"""The terminal's program in the package is built from the source beside it, and needs nothing from elsewhere."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
BUNDLE = ROOT / "cmdop_jupyter" / "notebook" / "static" / "terminal.js"


def test_the_bundle_is_built_from_the_source():
    command = [sys.executable, ROOT / "tools" / "build-js", "--digest"]
    digest = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    first_line = BUNDLE.read_text(encoding="utf-8").partition("\n")[0]

    assert first_line == f"// built from js/terminal {digest} by tools/build-js", "`make js` builds it anew"


def test_the_bundle_loads_nothing():
    code = BUNDLE.read_text(encoding="utf-8")

    for word in (
        "import(",
        "fetch(",
        "XMLHttpRequest",
        "importScripts(",
        "new Worker(",
        "//cdn",
        "unpkg",
        "jsdelivr",
        "url(",
    ):
        assert word not in code, word


def test_the_bundle_brings_the_licence_of_what_is_in_it():
    assert "The xterm.js authors" in BUNDLE.read_text(encoding="utf-8")
