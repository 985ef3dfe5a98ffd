"""Who may know whom: DESIGN.md's import rule, read off the source of whatever modules there are."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "cmdop_jupyter"

# Each room, and what it may import of the others. A room is a folder or a module; it may always import itself.
# What stands under `if TYPE_CHECKING:` is not asked: it is gone when the code runs.
ROOMS = {
    "agent": set(),
    "words": set(),
    "fleet_names": {"agent.errors", "errors"},
    "errors": {"agent.errors", "words"},
    "dialect": {"agent.errors", "errors"},
    "lines": {"agent.errors", "agent.log", "errors"},
    "needles": {"agent.errors", "errors", "dialect", "lines"},
    "lanes": {"agent.errors", "agent.log", "errors", "lines", "needles"},
    "patterns": {"agent.errors", "agent.log", "errors", "lanes", "lines", "needles"},
    "pieces": {"agent.log", "errors", "lines"},
    "machines.relay": {"agent", "errors", "words", "machines", "relay"},
    "machines": {"agent", "errors", "words"},
    "config": {"agent", "errors", "words", "machines", "fleet_names"},
    "relay": {"agent", "errors", "words", "machines", "config", "runtime"},
    "runtime": {"agent", "errors", "words", "machines"},
    "directory": {"agent", "errors", "words", "machines", "relay", "config", "fleet_names", "runtime"},
    "shared": {"agent.log"},
    "steady": {"agent", "errors", "words", "machines", "shared"},
    "watching": set(),
    "waiting": {"agent", "errors", "words", "machines", "patterns", "lines", "watching"},
    "subscription": {"agent", "errors", "words", "machines", "runtime"},
    "streams": {"errors"},
}
ROOMS["reading"] = ROOMS["writing"] = {*ROOMS["waiting"], "runtime", "waiting"}
ROOMS["prompts"] = {"agent", "errors", "words", "machines", "lines", "needles", "subscription"}
ROOMS["events"] = {*ROOMS["reading"], "pieces", "reading", "subscription"}
ROOMS["notify"] = {*ROOMS["events"], "patterns", "words"}
ROOMS["stream"] = {*ROOMS["events"], "events", "needles", "notify", "prompts", "steady", "streams", "writing"}
ROOMS["wait"] = ROOMS["sinks"] = {*ROOMS["stream"], "stream"}
ROOMS["handlers"] = {*ROOMS["stream"], "needles"}
ROOMS["sessions"] = {"agent", "errors", "words", "machines"}
ROOMS["finding"] = {*ROOMS["directory"], "directory", "sessions", "shared", "steady"}
ROOMS["execution"] = {*ROOMS["reading"], "reading", "shared", "steady"}
ROOMS["client"] = {
    *ROOMS["wait"],
    "config",
    "directory",
    "wait",
    "handlers",
    "sinks",
    "sessions",
    "finding",
    "execution",
}
ROOMS["blocking"] = {*ROOMS["client"], "client"}
ROOMS["fleet_stream"] = {*ROOMS["stream"], "stream"}
ROOMS["fleet_starter"] = {*ROOMS["client"], "client", "fleet_stream"}
ROOMS["fleet"] = {*ROOMS["fleet_starter"], "fleet_starter"}
ROOMS["notebook"] = {*ROOMS["fleet"], "fleet", "fleet_names"}
ROOMS["__init__"] = {*ROOMS["notebook"], "notebook"}

PURE = (
    "agent.frames",
    "agent.keyboard",
    "agent.outbox",
    "dialect",
    "fleet_names",
    "lanes",
    "lines",
    "machines.bootstrap",
    "machines.presets",
    "machines.ssh_rules",
    "needles",
    "patterns",
    "pieces",
    "relay.configuring",
    "relay.proofs",
    "relay.seals",
    "relay.subjects",
    "sinks.rows",
    "words",
)
TOUCHES_THE_WORLD = {
    "asyncio",
    "io",
    "os",
    "pathlib",
    "select",
    "socket",
    "subprocess",
    "tempfile",
    "threading",
    "time",
}
KNOW_NOTEBOOKS = {"IPython", "comm", "ipykernel", "ipywidgets", "jupyter_client", "traitlets"}
NEWER_THAN_3_9 = {"compression", "tomllib", "annotationlib"}
SLOW_TO_IMPORT = {"asyncio", "ctypes", "logging", "pathlib", "subprocess", "tempfile", "typing"}


def name_of(path: Path) -> str:
    """The module in a file: its name within the package, `__init__` for the package itself."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


MODULES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def tree(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


def nodes_that_run(node: ast.AST, *, at_import: bool = False) -> Iterator[ast.AST]:
    """All below `node` but what stands under `if TYPE_CHECKING:`; `at_import` leaves out the insides of functions."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        if at_import and isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        yield child
        yield from nodes_that_run(child, at_import=at_import)


def own_imports(module: str, nodes: Iterable[ast.AST]) -> set[str]:
    """Modules of this package that the nodes import."""
    package = module.split(".") if MODULES[module].stem == "__init__" else module.split(".")[:-1]
    if module == "__init__":
        package = []
    found = set()
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1] + (node.module.split(".") if node.module else [])
            for alias in node.names:  # `from . import log` names a module, `from .log import Chunk` a thing in one
                whole = ".".join([*base, alias.name])
                found.add(whole if whole in MODULES else ".".join(base) or "__init__")
    return found


def outside_imports(nodes: Iterable[ast.AST]) -> set[str]:
    """Top-level names of what the nodes import by absolute name."""
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add((node.module or "").partition(".")[0])
    return found


def is_in(module: str, rooms: set[str]) -> bool:
    return any(module == room or module.startswith(f"{room}.") for room in rooms)


AGENT = [module for module in MODULES if is_in(module, {"agent"})]


@pytest.mark.parametrize("module", MODULES)
def test_every_module_has_a_place_in_the_rule(module):
    assert is_in(module, set(ROOMS)), (
        f"{MODULES[module].relative_to(PACKAGE.parent)} is in none of the rooms: give it one in ROOMS of this file, "
        f"with what it may import"
    )


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_one_way(module):
    room = next((room for room in ROOMS if is_in(module, {room})), "")
    seen = own_imports(module, nodes_that_run(tree(module)))

    against_the_rule = {other for other in seen if not is_in(other, {room, *ROOMS.get(room, ())})}

    assert not against_the_rule, f"{module} may not know {sorted(against_the_rule)}"


@pytest.mark.parametrize("module", MODULES)
def test_the_package_imports_itself_by_relative_imports(module):
    assert "cmdop_jupyter" not in outside_imports(ast.walk(tree(module)))


@pytest.mark.parametrize("module", AGENT)
def test_the_agent_needs_the_standard_library_of_python_3_9_only(module):
    assert outside_imports(ast.walk(tree(module))) <= sys.stdlib_module_names - NEWER_THAN_3_9


@pytest.mark.parametrize("module", AGENT)
def test_the_agent_is_written_in_python_3_9(module):
    ast.parse(MODULES[module].read_text(encoding="utf-8"), feature_version=(3, 9))


def test_a_supervisor_imports_nothing_slow():
    slow, seen, new = set(), set(), {"agent", "agent.supervisor"}
    while new:
        module = new.pop()
        seen.add(module)
        nodes = list(nodes_that_run(tree(module), at_import=True))
        slow |= {f"{module} imports {name}" for name in outside_imports(nodes) & SLOW_TO_IMPORT}
        new |= own_imports(module, nodes) - seen

    assert not slow


def test_a_supervisor_loads_nothing_slow_by_way_of_others():
    loaded = modules_after("import agent.supervisor", "-I", "-S")

    assert "agent.supervisor" in loaded
    assert not loaded & SLOW_TO_IMPORT


@pytest.mark.parametrize("module", [module for module in PURE if module in MODULES])
def test_pure_modules_touch_nothing(module):
    assert not outside_imports(ast.walk(tree(module))) & TOUCHES_THE_WORLD


@pytest.mark.parametrize("module", [module for module in MODULES if module != "runtime"])
def test_only_runtime_imports_threading(module):
    assert not outside_imports(nodes_that_run(tree(module))) & {"_thread", "threading"}


@pytest.mark.parametrize("module", [module for module in MODULES if not is_in(module, {"notebook"})])
def test_only_notebook_knows_notebooks(module):
    assert not outside_imports(ast.walk(tree(module))) & KNOW_NOTEBOOKS


def test_importing_the_package_loads_no_notebook():
    loaded = modules_after("import cmdop_jupyter")

    assert "cmdop_jupyter" in loaded
    assert not loaded & KNOW_NOTEBOOKS


@pytest.mark.parametrize("module", [module for module, path in MODULES.items() if "__all__ = " in path.read_text()])
def test_what_a_module_exports_is_there_and_public(module):
    imported = importlib.import_module("cmdop_jupyter" if module == "__init__" else f"cmdop_jupyter.{module}")

    missing = {name for name in imported.__all__ if not hasattr(imported, name)}
    private = {name for name in imported.__all__ if name.startswith("_")} - {"__version__"}

    assert not missing
    assert not private


def modules_after(statement: str, *options: str) -> set[str]:
    """Names of the modules that a fresh Python has loaded after `statement`; the agent is there as `agent`."""
    paths = [str(PACKAGE.parent), str(PACKAGE)]
    code = f"import sys; sys.path += {paths}\n{statement}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, *options, "-c", code], check=True, stdout=subprocess.PIPE, text=True)
    return set(done.stdout.split())
