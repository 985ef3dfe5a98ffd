"""What README and `%%cmdop?` say is so: commands, options, verbs, names and signatures; their examples run."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from IPython.core.inputtransformer2 import TransformerManager
from kernels import Kernel

import cmdop_jupyter
from cmdop_jupyter import AsyncCMDOPClient, Stream, wait_for
from cmdop_jupyter.agent.installed import KEEP_SECONDS
from cmdop_jupyter.machines.far import LONGEST_PAUSE, pause_before
from cmdop_jupyter.machines.parcel import agent_parcel
from cmdop_jupyter.machines.presets import SILENCE, explicit
from cmdop_jupyter.machines.settings import KEYS, SHORTEST_SILENCE, parse_file
from cmdop_jupyter.machines.stdio import DIALS
from cmdop_jupyter.notebook.magics import CmdopMagics
from cmdop_jupyter.notebook.options import Defaults, cell_parser
from cmdop_jupyter.notebook.verbs import HELP, Verbs
from cmdop_jupyter.notebook.views.question import ANSWER_SECONDS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def python_in(page: Path) -> list[str]:
    """The Python examples of a page."""
    return re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


PYTHON = python_in(ROOT / "README.md")
CODE = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", README, flags=re.DOTALL | re.MULTILINE))
OPTION = re.compile(r"(?<![\w-])(--[a-z][a-z-]*|-[a-z](?![\w-]))")
SCRIPT, SETTINGS = "asyncio.run(", "c.Cmdop"
CELLS = [block for block in PYTHON if SCRIPT not in block and SETTINGS not in block]


def one(mark: str) -> str:
    """The only Python example with `mark` in it."""
    [block] = [block for block in PYTHON if mark in block]
    return block


def table(under: str) -> dict[str, list[str]]:
    """The first table under a heading or line: first column to the others."""
    rows = re.search(rf"^{re.escape(under)}$.*?((?:^\|[^\n]*\n)+)", README, re.DOTALL | re.MULTILINE)
    assert rows, under
    cells = [re.split(r"(?<!\\)\|", row.strip("|\n")) for row in rows[1].splitlines()[2:]]
    return {first.strip(): [cell.strip() for cell in others] for first, *others in cells}


def parser_options() -> set[str]:
    return {option for action in cell_parser()._actions for option in action.option_strings}


@pytest.mark.parametrize("block", PYTHON, ids=lambda block: block.split("\n")[0])
def test_each_python_example_of_the_readme_is_python_or_a_magic(block: str) -> None:
    code = TransformerManager().transform_cell(block)

    compile(code, "README.md", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


def test_the_cells_of_the_readme_run_one_after_the_other_in_a_kernel(kernel: Kernel) -> None:
    assert len(CELLS) >= 4

    for block in CELLS:
        assert kernel.run(block).error is None, block

    assert kernel.run("url, api.state").text.startswith("('http://127.0.0.1:")


def test_the_script_of_the_readme_runs(tmp_path: Path) -> None:
    path = tmp_path / "script.py"
    path.write_text(one(SCRIPT), encoding="utf-8")

    said = subprocess.run([sys.executable, path], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60)

    assert re.fullmatch(r"it listens on \d+\nstopped by \w+ in .*\n", said.stdout), said.stdout
    assert said.stderr == ""


def test_the_examples_of_the_page_of_the_client_run_one_after_the_other(kernel: Kernel, tmp_path: Path) -> None:
    for block in python_in(ROOT / "docs" / "client.md"):
        if SCRIPT in block:
            subprocess.run([sys.executable, "-c", block], cwd=tmp_path, check=True, timeout=60)
        else:
            assert kernel.run(block).error is None, block


def test_the_settings_of_the_readme_hold_for_a_new_kernel(tmp_path: Path) -> None:
    profile = tmp_path / "k" / "ipython" / "profile_default"
    profile.mkdir(parents=True)
    (profile / "ipython_config.py").write_text(one(SETTINGS), encoding="utf-8")

    with Kernel(tmp_path / "k") as kernel:
        shown = kernel.run("%config CmdopMagics.if_running")

    assert shown.error is None
    assert shown.text == "'attach'"


def test_the_table_of_options_is_the_parser() -> None:
    first_column = " ".join(table("## `%%cmdop`"))

    assert set(OPTION.findall(first_column)) == parser_options()


def test_the_table_of_options_has_the_real_defaults_and_choices() -> None:
    rows = {OPTION.findall(first)[0]: (first, others) for first, others in table("## `%%cmdop`").items()}
    defaults = Defaults()
    for name, value in (
        ("--if-running", defaults.if_running),
        ("--tty", defaults.tty),
        ("--view", defaults.view),
        ("--tail", defaults.tail),
        ("--max-log", defaults.max_log),
    ):
        assert rows[name][1][-1].strip("`") == str(value)
    for action in cell_parser()._actions:
        if action.choices:
            [name] = [option for option in action.option_strings if option in rows]
            assert "\\|".join(map(str, action.choices)) in rows[name][0]


def test_the_page_of_the_magic_has_the_options_of_the_parser() -> None:
    page = set(OPTION.findall(inspect.getdoc(CmdopMagics.cmdop) or ""))

    assert page <= parser_options()
    for action in cell_parser()._actions:
        assert not action.option_strings or page & set(action.option_strings), action.dest


def test_each_line_of_cmdop_in_the_readme_can_be_read() -> None:
    lines = re.findall(r"^%%cmdop(?! \[)(.*)$", "\n".join(PYTHON), re.MULTILINE)
    assert lines

    for line in lines:
        cell_parser().read(line.split())


def test_the_table_of_verbs_and_the_help_have_the_verbs_there_are() -> None:
    verb = re.compile(r"%cmdop ([a-z]+)")
    in_table = set(verb.findall(" ".join(table("## `%cmdop`"))))

    assert in_table == set(Verbs.names()) == set(verb.findall(HELP))


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_each_verb_that_a_page_names_exists(path: Path) -> None:
    named = re.findall(r"(?<!%)%cmdop ([a-z]+)", path.read_text(encoding="utf-8"))

    assert set(named) <= set(Verbs.names())


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_each_link_of_a_page_leads_somewhere(path: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", path.read_text(encoding="utf-8"))

    assert [link for link in links if not (path.parent / link).exists()] == []


def test_each_make_target_that_the_readme_names_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))

    assert {word for code in CODE for word in re.findall(r"^make ([a-z]+)", code)} <= targets


def test_each_word_of_cmdop_agent_in_the_readme_exists() -> None:
    words = set(re.findall(r"^cmdop-agent (\w+)", README, re.MULTILINE))
    agent = Path(cmdop_jupyter.__file__).parent / "agent"
    usage = subprocess.run(
        [sys.executable, "-I", "-S", agent, "--help"], capture_output=True, text=True, check=True, timeout=60
    )

    assert words
    assert words <= set(re.findall(r"\w+", usage.stdout.partition("{")[2].partition("}")[0]))


def test_the_signature_of_wait_for_in_the_readme_is_the_real_one() -> None:
    [shown] = re.findall(r"^await wait_for\((.*)\)$", README, re.MULTILINE)
    plain = [
        parameter.replace(annotation=inspect.Parameter.empty)
        for parameter in inspect.signature(wait_for).parameters.values()
    ]

    assert f"({shown})" == str(inspect.Signature(plain))


def test_each_error_and_class_that_the_readme_names_can_be_imported() -> None:
    names = {code for code in CODE if re.fullmatch(r"([A-Z][a-z]+){2,}", code)}

    assert {"WaitTimeout", "SessionEnded"} <= names
    assert names <= set(cmdop_jupyter.__all__)


def members(owner: Any, prefix: str) -> list[str]:
    """Names that the readme says `owner` has."""
    return [name for code in CODE for name in re.findall(rf"^{re.escape(prefix)}(\w+)", code)]


def test_each_part_of_a_stream_that_the_readme_names_exists() -> None:
    named = members(Stream, "api.") + [code.partition("(")[0] for code in CODE if re.match(r"(send|on)_\w+", code)]

    assert len(named) > 10
    assert [name for name in named if not hasattr(Stream, name)] == []


def test_each_setting_that_the_readme_names_exists_and_none_is_missing() -> None:
    rows = [code for first in table("## Configuration") for code in re.findall(r"`([^`]+)`", first)]
    named = {name.rpartition(".")[2] for name in rows if "." in name}

    assert named == set(CmdopMagics.class_traits(config=True))
    assert "CMDOP_STATE_DIR" in rows


def test_the_client_has_what_the_readme_says() -> None:
    client = AsyncCMDOPClient.local()

    for name in {name for code in CODE for name in re.findall(r"^client\.terminal\.(\w+)", code)}:
        assert callable(getattr(client.terminal, name))


# -- other machines

MACHINES = (ROOT / "docs" / "machines.md").read_text(encoding="utf-8")


def codes_in_first_column(text: str, after: str) -> list[str]:
    """What is set as code in the first column of the first table behind `after`."""
    rows = re.search(r"((?:^\|[^\n]*\n)+)", text.partition(after)[2], re.MULTILINE)
    assert rows, after
    return [code for row in rows[1].splitlines()[2:] for code in re.findall(r"`([^`]+)`", row.split("|")[1])]


def test_the_page_of_machines_has_every_key_of_a_machine() -> None:
    assert codes_in_first_column(MACHINES, "Every key of a machine:") == list(KEYS)


def test_the_page_of_machines_has_the_tables_of_a_file() -> None:
    tables = codes_in_first_column(MACHINES, "[defaults]\ndetach")

    assert tables == ["[machines.NAME]", "[groups]", "[defaults]", "[relay]"]
    for table in tables:
        parse_file(table, "cmdop.toml")
    with pytest.raises(cmdop_jupyter.ConfigError, match="there are machines, groups, defaults"):
        parse_file("[xyz]", "cmdop.toml")


@pytest.mark.parametrize("path", [ROOT / "README.md", ROOT / "docs" / "machines.md"], ids=lambda path: path.name)
def test_the_files_that_a_page_shows_are_right(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    shown = re.findall(r"^( *)```toml\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE)
    assert shown

    for margin, block in shown:
        file = parse_file(re.sub(f"^{margin}", "", block, flags=re.MULTILINE), "cmdop.toml")
        assert file.machines
        assert file.groups


def test_the_names_that_lead_to_machines_do() -> None:
    names = codes_in_first_column(MACHINES, "## What a machine may be called")
    shown = re.findall(r"^%%cmdop (\S+://\S+)", README, re.MULTILINE)

    assert {explicit(name)[0] for name in shown} == {"ssh", "docker", "kubectl", "sudo"}
    for name in names:
        if "@" in name or "://" in name:
            assert explicit(name)
        else:
            assert name in ("local", "cmdop.toml", "Host", "~/.ssh/config", "Include")


def test_the_messages_that_the_page_explains_are_those_that_are_told() -> None:
    package = Path(cmdop_jupyter.__file__).parent
    told = " ".join(path.read_text(encoding="utf-8") for path in package.rglob("*.py"))
    told = re.sub(r'"\s*\n\s*f?r?"', "", told)
    messages = codes_in_first_column(MACHINES, "## When it does not work")

    assert len(messages) > 15
    assert [message for message in messages if message not in re.sub(r"\{\w+\}", "machine", told)] == []


def test_the_figures_of_a_link_are_the_real_ones() -> None:
    assert SILENCE == 15
    assert f"at least {SHORTEST_SILENCE:g}" in MACHINES
    assert f"at most {LONGEST_PAUSE:g} s" in MACHINES
    for attempt, words in ((1, "0.5 to 1 s"), (2, "1 to 2 s")):
        assert words == f"{pause_before(attempt, 0):g} to {pause_before(attempt, 1):g} s"
        assert words in MACHINES
    assert DIALS == 8
    assert "At most eight machines are dialled" in MACHINES
    assert KEEP_SECONDS == 30 * 24 * 3600
    assert ANSWER_SECONDS == 120
    assert 50_000 <= len(agent_parcel().data) <= 70_000
    assert "about 60 kB" in MACHINES
