"""The light parts say what the packages say, and load none of them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import cmdop_jupyter.agent
from cmdop_jupyter.agent import light

SAYABLE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(value=SAYABLE)
def test_json_is_written_as_the_package_writes_it(value):
    assert light.dumps(value) == json.dumps(value, separators=(",", ":"))


@given(value=SAYABLE, indent=st.sampled_from([None, 1]), ascii_only=st.booleans())
def test_json_is_read_as_the_package_reads_it(value, indent, ascii_only):
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    try:
        expected = json.loads(text.decode())
    except UnicodeDecodeError:
        with pytest.raises(ValueError, match="surrogates"):
            light.loads(text)
    else:
        assert light.loads(b" \n" + text + b"\t ") == expected


@pytest.mark.parametrize("text", [b"", b"{", b'{"a', b"1 2", b"nope", b"\xff", b'"\n"'])
def test_what_is_no_json_raises_value_error(text):
    with pytest.raises(ValueError):  # noqa: PT011 - whatever json says
        light.loads(text)


@pytest.mark.parametrize("value", [b"bytes", object(), {1: 2}])
def test_what_json_cannot_say_raises_type_error(value):
    with pytest.raises(TypeError):
        light.dumps(value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_json_has_not_raise_value_error(value):
    with pytest.raises(ValueError, match="JSON has no"):
        light.dumps([value])


def test_signals_have_the_numbers_of_the_package():
    assert {name: getattr(light.signal, name) for name in signal.Signals.__members__} == dict(
        signal.Signals.__members__.items()
    )


def test_a_supervisor_loads_neither_the_packages_nor_what_they_load():
    folder = str(Path(cmdop_jupyter.agent.__file__).parent)
    code = f"import sys; sys.path.insert(0, {str(Path(folder).parent)!r}); import agent.supervisor; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], check=True, stdout=subprocess.PIPE, text=True)

    assert not {"enum", "json", "re", "signal", "socket", "functools", "collections"} & set(done.stdout.split())
