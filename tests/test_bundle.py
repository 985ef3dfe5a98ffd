"""What the page loads: the terminal's program is built from the source beside it, and nothing comes from elsewhere."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "cmdop_jupyter" / "notebook"
BUNDLE = NOTEBOOK / "static" / "terminal.js"

# Ways of a page to load something, and hosts that things are loaded from.
LOADS = re.compile(
    r"""import\s*\(|\bimport\b[^;"'`(){}]*["'`]|@import|\bfetch\s*\(|XMLHttpRequest|importScripts\s*\(|new\s+Worker|sendBeacon"""
    r"""|EventSource|WebSocket|\burl\(|\.src\s*=|unpkg|jsdelivr|cdnjs|esm\.sh|<script|<link|<img""",
)
PAGE_CODE = sorted(
    path for path in NOTEBOOK.rglob("*.py") if re.search(r"export default|_esm\b|_css\b", path.read_text())
)


def test_the_bundle_is_built_from_the_source():
    command = [sys.executable, ROOT / "tools" / "build-js", "--digest"]
    digest = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    first_line = BUNDLE.read_text(encoding="utf-8").partition("\n")[0]

    assert first_line == f"// built from js/terminal {digest} by tools/build-js", "`make js` builds it anew"


def test_the_bundle_loads_nothing():
    assert LOADS.findall(BUNDLE.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", PAGE_CODE, ids=lambda path: path.stem)
def test_no_code_for_the_page_loads_anything(path):
    strings = re.findall(r'"""(.*?)"""', path.read_text(encoding="utf-8"), re.DOTALL)

    assert [LOADS.findall(text) for text in strings if LOADS.search(text)] == []


def test_there_is_code_for_the_page_to_look_at():
    assert "terminal" in {path.stem for path in PAGE_CODE}
    assert len(PAGE_CODE) > 1


@pytest.mark.parametrize(
    "code",
    ['import("https://cdn.example.org/x.js")', 'import x from "https://esm.sh/x"', "@import 'x.css'", "fetch (here)"],
)
def test_what_loads_something_is_found(code):
    assert LOADS.search(code)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


def test_the_wheel_has_the_bundle_and_the_licence_of_what_is_in_it(wheel):
    with zipfile.ZipFile(wheel) as archive:
        shipped = archive.read("cmdop_jupyter/notebook/static/terminal.js").decode()

    assert shipped == BUNDLE.read_text(encoding="utf-8")
    assert "The xterm.js authors" in shipped
    assert "Permission is hereby granted, free of charge" in shipped
