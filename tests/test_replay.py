"""Where a terminal's picture can begin in the middle of its output, and what was switched on before."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmdop_jupyter.notebook.views.replay import Modes, beginning

MODES = [b"\x1b[?1049h", b"\x1b[?1049l", b"\x1b[?25;2004h", b"\x1b=", b"\x1b>", b"\x1bc"]
ATOMS = [*MODES, b"a", b"\n", b"\x1b", b"[?", b"7l"]
PIECES = st.lists(st.lists(st.sampled_from(ATOMS), max_size=4).map(b"".join))


def modes(*pieces: bytes) -> Modes:
    made = Modes()
    for piece in pieces:
        made.feed(piece)
    return made


@given(pieces=PIECES)
def test_modes_do_not_depend_on_how_the_bytes_were_cut(pieces):
    assert modes(*pieces).prefix() == modes(b"".join(pieces)).prefix()


@given(pieces=PIECES)
def test_the_prefix_brings_a_fresh_terminal_into_the_same_modes(pieces):
    assert modes(modes(*pieces).prefix()).prefix() == modes(*pieces).prefix()


def test_a_full_screen_program_has_the_other_screen_until_it_leaves():
    assert modes(b"\x1b[?1049h\x1b[?1h").other_screen
    assert not modes(b"\x1b[?1049h", b"text", b"\x1b[?1049l").other_screen


def test_a_reset_forgets_all():
    assert modes(b"\x1b[?1049h\x1b=", b"\x1bc").prefix() == b""


@pytest.mark.parametrize(
    ("data", "at"),
    [(b"31mred\nnext", 7), (b"5;3Habc\x1b[2Jx", 7), (b"\x9f\x98\x80 plain", 3), (b"plain", 0), (b"", 0)],
)
def test_a_picture_begins_behind_a_line_else_at_a_sequence_else_at_a_character(data, at):
    assert beginning(data) == at
