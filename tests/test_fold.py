"""Folding: what a terminal would show of the last lines, from bytes cut anywhere."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmdop_jupyter.agent.log import Chunk
from cmdop_jupyter.notebook.views.cells import MAX_COLUMNS, MAX_MARKS, width
from cmdop_jupyter.notebook.views.fold import MAX_STRING, PLAIN, Style, StyledLine, fold

CAPTURED = Path(__file__).parent / "captured"


def log(*pieces: bytes | tuple[str, bytes], start: int = 0) -> list[Chunk]:
    """Chunks of a log from offset `start` on; bytes alone are of stdout."""
    chunks, offset = [], start
    for piece in pieces:
        channel, data = ("stdout", piece) if isinstance(piece, bytes) else piece
        chunks.append(Chunk(offset, channel, 0, 0, data))
        offset += len(data)
    return chunks


def captured(name: str) -> list[Chunk]:
    path = CAPTURED / name
    if path.suffix == ".raw":
        return log(path.read_bytes())
    return log(*[(channel, text.encode()) for channel, text in map(json.loads, path.read_text().splitlines())])


def texts(lines: Iterable[StyledLine]) -> list[str]:
    return [line.text for line in lines]


def screen(*pieces: bytes | tuple[str, bytes], **options) -> list[str]:
    return texts(fold(log(*pieces), **options))


# -- recorded programs


def test_pip_leaves_one_full_bar():
    assert texts(fold(captured("pip.raw"))) == [
        "Looking in indexes: http://packages.example.org/simple",
        "Collecting demo-wheel",
        "  Downloading demo_wheel-1.0-py3-none-any.whl (3.0 MB)",
        "     ━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━ 3.0/3.0 MB 1.9 MB/s  0:00:01",
        "Installing collected packages: demo-wheel",
        "Successfully installed demo-wheel-1.0",
    ]


def test_pip_half_way_shows_the_bar_as_it_stands():
    data = (CAPTURED / "pip.raw").read_bytes()
    half = data[: data.index(b"\x1b[2K", data.index(b"1.6/3.0 MB"))]

    last = fold(log(half))[-1]

    assert last.text.startswith("     ━━━━━━━━━━━━━━━━━━━━╸━━━━━━━━━━━━━━━━━━━ 1.6/3.0 MB")
    assert last.spans[1] == ("━" * 20 + "╸", Style(fg=197))


def test_apt_folds_its_percentages_and_takes_its_status_line_away():
    assert texts(fold(captured("apt.raw"))) == [
        "Reading package lists... Done",
        "Building dependency tree... Done",
        "Reading state information... Done",
        "0 upgraded, 0 newly installed, 1 reinstalled, 0 to remove and 115 not upgraded.",
        "Need to get 19.0 kB of archives.",
        "After this operation, 0 B of additional disk space will be used.",
        "Get:1 http://packages.example.org/debian bookworm/main amd64 sensible-utils all 0.0.17+nmu1 [19.0 kB]",
        "Fetched 19.0 kB in 0s (1085 kB/s)",
        "debconf: delaying package configuration, since apt-utils is not installed",
        "(Reading database ... 118587 files and directories currently installed.)",
        "Preparing to unpack .../sensible-utils_0.0.17+nmu1_all.deb ...",
        "Unpacking sensible-utils (0.0.17+nmu1) over (0.0.17+nmu1) ...",
        "Setting up sensible-utils (0.0.17+nmu1) ...",
        "Processing triggers for man-db (2.11.2-2) ...",
        "",
    ]


@pytest.mark.parametrize("tail", [False, True])
def test_apt_half_way_has_its_status_line_below_all_others(tail):
    data = (CAPTURED / "apt.raw").read_bytes()
    half = data[data.index(b"Unpacking") if tail else 0 : data.index(b"Processing triggers")]

    lines = texts(fold(log(half, start=1000 if tail else 0)))

    assert lines[-2] == "Setting up sensible-utils (0.0.17+nmu1) ..."
    assert lines[-1] == f"Progress: [ 80%] [{'#' * 78}{'.' * 20}]"


def test_tqdm_on_stderr_and_prints_on_stdout_both_read_well():
    assert [(line.channel, line.text) for line in fold(captured("tqdm.jsonl"))] == [
        ("stderr", "epochs: 100%|█████████████████████████████████████| 3/3 [00:01<00:00,  1.93it/s]"),
        ("stdout", "epoch 0 done"),
        ("stdout", "epoch 1 done"),
        ("stdout", "epoch 2 done"),
    ]


def test_tqdm_half_way_has_one_row_a_bar():
    chunks = captured("tqdm.jsonl")
    last = max(number for number, chunk in enumerate(chunks) if b"epoch 2:  " in chunk.data)

    lines = [line for line in fold(chunks[: last + 1]) if line.channel == "stderr"]

    assert [line.text.partition("|")[0] for line in lines] == ["epochs:  67%", "epoch 2:  82%"]


def test_two_bars_stay_two_rows():
    assert texts(fold(captured("tqdm-two-bars.jsonl"))) == [
        "second: 100%|█████████████████████████| 30/30 [00:00<00:00, 64.53it/s]",
        "first: 100%|██████████████████████████| 30/30 [00:00<00:00, 64.36it/s]",
    ]


def test_git_clone_leaves_a_line_for_each_of_its_counters():
    assert texts(fold(captured("git-clone.raw"))) == [
        "Cloning into 'copy'...",
        "remote: Enumerating objects: 1502, done.",
        "remote: Counting objects: 100% (1502/1502), done.",
        "remote: Compressing objects: 100% (1502/1502), done.",
        "Receiving objects: 100% (1502/1502), 60.07 KiB | 279.00 KiB/s, done.",
        "remote: Total 1502 (delta 0), reused 0 (delta 0), pack-reused 0",
    ]


def test_layers_are_updated_in_place():
    chunks = captured("layers.raw")
    half = chunks[0].data[: chunks[0].data.rindex(b"\x1b[3A", 0, len(chunks[0].data) // 2)]

    assert texts(fold(log(half))) == [
        "latest: Pulling from library/demo",
        "a3ed95caeb02: Downloading [===========>              ]  4.4MB/10MB",
        "9c1b6dd6c1e6: Downloading [===========>              ]  4.4MB/10MB",
        "51f5c6a04d83: Downloading [===========>              ]  4.4MB/10MB",
    ]
    assert texts(fold(chunks)) == [
        "latest: Pulling from library/demo",
        "a3ed95caeb02: Pull complete",
        "9c1b6dd6c1e6: Pull complete",
        "51f5c6a04d83: Pull complete",
        "Status: Downloaded newer image for demo:latest",
    ]


def test_colors_are_told_apart_in_all_their_forms():
    lines = fold(captured("colors.raw"))

    assert lines[0].spans[0] == ("30", Style(fg=0))
    assert lines[0].spans[-1] == ("97", Style(fg=15))
    assert lines[1].spans[-1] == ("107", Style(bg=15))
    assert [style.fg for _, style in lines[2].spans] == list(range(16, 52, 3))
    assert lines[9].spans[0] == ("#", Style(fg=(255, 0, 128)))
    assert lines[10].spans[1] == (" ", Style(bg=(8, 64, 247)))
    assert [(text, style) for text, style in lines[11].spans if text != " "] == [
        ("bold", Style(bold=True)),
        ("dim", Style(dim=True)),
        ("italic", Style(italic=True)),
        ("under", Style(underline=True)),
        ("inverse", Style(inverse=True)),
        ("all", Style(fg=1, bold=True, underline=True)),
    ]


def test_a_thousand_lines_of_yes_leave_the_last_two_hundred():
    assert texts(fold(captured("yes.raw"))) == ["y"] * 200


def test_vim_shows_its_screen_and_takes_it_away_when_it_ends():
    data = (CAPTURED / "vim.raw").read_bytes()
    opened = texts(fold(log(data[: data.index(b"\x1b[?25h", data.index(b"poem.txt"))]), columns=120))

    assert opened[:5] == ["before", "one", "two", "three", "~"]
    assert opened[4:-1] == ["~"] * 36
    assert opened[-1].startswith('"poem.txt" 3 lines, 14 bytes')
    assert len(opened) == 41
    assert texts(fold(log(data), columns=120)) == ["before", "after"]


def test_a_program_that_scrolled_its_own_screen_takes_all_of_it_away():
    assert screen(b"one\n" * 3 + b"\x1b[?1049h" + b"y\x1b[K\n" * 9 + b"\x1b[?1049ltwo", max_lines=8) == ["one"] * 3 + [
        "two"
    ]
    assert screen(b"one\n" * 3 + b"\x1b[?1049h" + b"y\x1b[K\n" * 99 + b"\x1b[?1049ltwo", max_lines=8) == ["two"]


def test_bash_lines_read_as_they_were_edited():
    assert texts(fold(captured("bash.raw"), columns=120)) == [
        "$ echo goodbye world",
        "goodbye world",
        "$ echo x y",
        "x y",
        "$ echox y",
        "bash: echox: command not found",
        "$ exit",
        "exit",
    ]


# -- lines and cursors


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"one\ntwo", ["one", "two"]),
        (b"one\r\ntwo\r\n", ["one", "two"]),
        (b"one\n\nthree\n", ["one", "", "three"]),
        (b"10%\r20%", ["20%"]),
        (b"long line\rshort", ["shortline"]),
        (b"long line\rshort\x1b[K", ["short"]),
        (b"abc\b\bX", ["aXc"]),
        (b"\b\bab", ["ab"]),
        (b"a\tb\n\tc", ["a       b", "        c"]),
        (b"abcdef\x1b[3D\x1b[1K", ["    ef"]),
        (b"abcdef\x1b[2Kx", ["      x"]),
        (b"abcdef\x1b[3GX", ["abXdef"]),
        (b"abcdef\x1b[2`X", ["aXcdef"]),
        (b"a\x1b[3Cb", ["a   b"]),
        (b"one\ntwo\nthree\x1b[2AX", ["one  X", "two", "three"]),
        (b"one\ntwo\nthree\x1b[2FX", ["Xne", "two", "three"]),
        (b"one\ntwo\n\x1b[2A\x1b[1BX", ["one", "Xwo"]),
        (b"one\ntwo\n\x1b[2A\x1b[EX", ["one", "Xwo"]),
        (b"one\ntwo\n\x1b[99AX", ["Xne", "two"]),
        (b"one\x1b[99BX", ["one", "   X"]),
        (b"one\ntwo\nthree\x1b[2A\x1b[J", ["one"]),
        (b"one\ntwo\x1b[1Jx", ["", "   x"]),
        (b"one\ntwo\x1b[2J\x1b[Hx", ["x"]),
        (b"one\ntwo\x1b[3Jx", ["one", "twox"]),
        (b"a\x1b7bc\n\x1b8X", ["aXc"]),
        (b"a\x1b[sbc\n\x1b[uX", ["aXc"]),
        (b"one\ntwo\x1b[1;2HX", ["oXe", "two"]),
        (b"one\ntwo\x1b[1dX", ["oneX", "two"]),
        (b"one\x1b[3;2fX", ["one", "", " X"]),
        (b"abcdef\x1b[4G\x1b[2PX", ["abcX"]),
        (b"abcdef\x1b[4G\x1b[2@X", ["abcX def"]),
        (b"abcdef\x1b[2G\x1b[2X", ["a  def"]),
        (b"one\ntwo\x1bMX\x1bDY\x1bEZ", ["oneX", "two Y", "Z"]),
        (b"one\x1bctwo", ["two"]),
        (b"one\x0btwo\x0cthree", ["one", "two", "three"]),
        (b"done \n  \n", ["done", ""]),
        (b"one\n\x1b[2P\x1b[K\x1b[31m", ["one"]),
    ],
)
def test_the_screen_is_that_of_a_terminal(data, expected):
    assert screen(data) == expected


def test_a_cleared_progress_bar_leaves_no_row():
    assert screen(("stderr", b"50%"), b"one\n", ("stderr", b"\r   \r")) == ["one"]


def test_a_bar_cleared_with_a_background_leaves_one():
    assert fold(log(b"\x1b[41m  "))[0].spans == (("  ", Style(bg=1)),)
    assert fold(log(b"\x1b[7m  \x1b[m  "))[0].spans == (("  ", Style(inverse=True)),)


def test_each_channel_continues_its_own_row_where_it_stands():
    assert screen(("stderr", b"10%"), b"one\n", ("stderr", b"\r20%"), b"two\nthr", ("stderr", b"\r30%"), b"ee\n") == [
        "30%",
        "one",
        "two",
        "three",
    ]


def test_cursor_up_goes_to_the_previous_row_of_the_same_channel():
    assert screen(("stderr", b"a\n"), b"one\n", ("stderr", b"b\n"), b"two\n", ("stderr", b"\x1b[2AA\n\x1b[1BC")) == [
        "A",
        "one",
        "b",
        "two",
        "C",
    ]


def test_colors_do_not_leak_into_another_channel():
    lines = fold(log(("stderr", b"\x1b[31mred"), b"plain"))

    assert lines[1].spans == (("plain", PLAIN),)


def test_an_unfinished_row_stays_in_the_picture_however_much_others_write():
    lines = screen(("stderr", b"loading 10%"), b"line\n" * 500, ("stderr", b"\rloading 20%"), max_lines=10)

    assert lines == ["loading 20%", *["line"] * 9]


def test_only_the_last_lines_are_kept():
    assert screen(b"".join(b"%d\n" % number for number in range(1000)), max_lines=3) == ["997", "998", "999"]


def test_the_cursor_goes_no_further_up_than_the_lines_that_are_kept():
    lines = screen(b"".join(b"%d\n" % number for number in range(1000)) + b"\x1b[500AX", max_lines=5)

    assert lines == ["X95", "996", "997", "998", "999"]


def test_lines_out_of_reach_leave_their_colors_behind():
    data = b"\x1b[31mred\n" + b"more\n" * 300 + b"\x1b[1mbold\n"

    lines = fold(log(data), max_lines=5)

    assert lines[0].spans == (("more", Style(fg=1)),)
    assert lines[-1].spans == (("bold", Style(fg=1, bold=True)),)


def test_many_lines_are_the_same_as_few_where_they_begin():
    many = b"".join(b"%d\n" % number for number in range(7))
    other = ("stderr", b"x\n")

    assert screen(b"unfinished ", other, many, max_lines=5)[-5:] == ["2", "3", "4", "5", "6"]
    assert screen(b"\x1b[9C" + many, max_lines=5) == ["2", "3", "4", "5", "6"]
    assert screen(b"long row\n" * 9 + b"\x1b[5A", other, many, max_lines=5) == [
        "3ong row",
        "4ong row",
        "x",
        "5",
        "6",
    ]
    status = screen(b"kept\n\x1b7\x1b[40;1H", other, many, ("tty", b"y\n"), b"\x1b8more", max_lines=5)
    assert status == ["kept", "x", "y", "more", "6"]


def test_a_cursor_saved_in_a_line_that_is_gone_returns_to_the_oldest_row():
    data = b"one\x1b7\n" + b"x\x1b[K\n" * 50 + b"\x1b8X"

    assert screen(data, max_lines=5)[-6:] == ["x  X", *["x"] * 4]


def test_a_terminal_of_known_width_wraps():
    assert screen(b"abcdef", columns=4) == ["abcd", "ef"]
    assert screen(b"abcd\nef", columns=4) == ["abcd", "ef"]
    assert screen(b"abcd\b\bX", columns=4) == ["aXcd"]
    assert screen("abc漢字".encode(), columns=4) == ["abc", "漢字"]
    assert screen("漢a".encode(), columns=1) == ["a"]
    assert screen(b"abc\x1b[99C\x1b[99GX", columns=4) == ["abcX"]
    assert screen(b"abcd\x1b[1G\x1b[@X", columns=4) == ["Xabc"]


def test_wide_characters_are_overwritten_whole():
    assert screen("漢字x\rab".encode()) == ["ab字x"]
    assert screen("漢字x\ra".encode()) == ["a 字x"]
    assert screen("漢字x\x1b[2Gab".encode()) == [" ab x"]
    assert screen("漢字x\x1b[2G\x1b[K\n".encode()) == [""]
    assert screen("漢字x\x1b[3G\x1b[P".encode()) == ["漢 x"]
    assert screen("a漢\x1b[3G\x1b[@".encode()) == ["a"]


def test_combining_characters_stay_on_their_letter():
    assert screen("e\u0301a\b\bx".encode()) == ["xa"]
    assert screen("漢\u0301a".encode()) == ["漢\u0301a"]
    assert screen("\u0301a".encode()) == ["a"]
    assert screen(b"a" + "\u0301".encode() * 100) == ["a" + "\u0301" * MAX_MARKS]


def test_soft_hyphens_and_direction_marks_take_a_column():
    assert screen("a\u202eb\u00ad\rXYZ".encode()) == ["XYZ\u00ad"]


# -- colours


@pytest.mark.parametrize(
    ("sequence", "style"),
    [
        (b"\x1b[31m", Style(fg=1)),
        (b"\x1b[1;31;42m", Style(fg=1, bg=2, bold=True)),
        (b"\x1b[95;104m", Style(fg=13, bg=12)),
        (b"\x1b[31m\x1b[39m", PLAIN),
        (b"\x1b[41m\x1b[49m", PLAIN),
        (b"\x1b[1;2m\x1b[22m", PLAIN),
        (b"\x1b[3;4;7m\x1b[23;24;27m", PLAIN),
        (b"\x1b[1m\x1b[m", PLAIN),
        (b"\x1b[1;;31m", Style(fg=1)),
        (b"\x1b[21m", Style(underline=True)),
        (b"\x1b[4:3m", Style(underline=True)),
        (b"\x1b[4:3m\x1b[4:0m", PLAIN),
        (b"\x1b[38;5;200m", Style(fg=200)),
        (b"\x1b[38;5;999m", Style(fg=255)),
        (b"\x1b[48;2;1;2;3m", Style(bg=(1, 2, 3))),
        (b"\x1b[48;2;1;2;999m", Style(bg=(1, 2, 255))),
        (b"\x1b[38:5:200m", Style(fg=200)),
        (b"\x1b[38:2:1:2:3m", Style(fg=(1, 2, 3))),
        (b"\x1b[38:2::1:2:3m", Style(fg=(1, 2, 3))),
        (b"\x1b[38:2::1:2:3:0:1m", Style(fg=(1, 2, 3))),
        (b"\x1b[58;5;1;3m", Style(italic=True)),
        (b"\x1b[58:2::1:2:3m", PLAIN),
        (b"\x1b[38;5m", Style(fg=0)),
        (b"\x1b[38m", PLAIN),
        (b"\x1b[38;7;1m", Style(bold=True)),
        (b"\x1b[38:2:1m", PLAIN),
        (b"\x1b[>4;2m", PLAIN),
        (b"\x1b[99999999999999999999m", PLAIN),
        (b"\x1b[" + b"1;" * 500 + b"m", PLAIN),
        (b"\x1b[9;53m", PLAIN),
    ],
)
def test_a_style_is_what_its_sequences_say(sequence, style):
    assert fold(log(sequence + b"text"))[0].spans == (("text", style),)


# -- what must not be shown


@pytest.mark.parametrize(
    "hidden",
    [
        b"\x1b]0;a title\x07",
        b"\x1b]0;a title\x1b\\",
        b"\x1b]0;a title\xc2\x9c",
        b"\x1b]52;c;c2VjcmV0\x07",
        b"\x1bPq#0;2;0;0;0#0~~@@\x1b\\",
        b"\x1b_Gf=24;payload\x1b\\",
        b"\x1b^private\x1b\\",
        b"\x1bXstring\x1b\\",
        b"\x1b]1337;File=:" + b"A" * 3 * MAX_STRING + b"\x07",
        b"\x1b(B",
        b"\x1b#8",
        b"\x1b=",
        b"\x1b>",
        b"\x1b[?25l",
        b"\x1b[?1;2c",
        b"\x1b[6n",
        b"\x1b[!p",
        b"\x1b[ q",
        b"\x1b[<u",
        b"\x1b[22;0;0t",
        b"\x07",
        b"\x0e\x0f",
        b"\x7f",
    ],
)
def test_what_says_nothing_to_a_reader_is_dropped(hidden):
    assert screen(b"be" + hidden + b"fore\nafter") == ["before", "after"]


def test_the_text_of_a_link_is_shown_and_its_address_is_not():
    assert screen(b"\x1b]8;;http://example.org/\x1b\\text\x1b]8;;\x1b\\ on") == ["text on"]


def test_a_string_without_an_end_hides_no_more_than_its_line():
    assert screen(b"a\x1b]0;title\nb\x1bPdcs\r\nc") == ["a", "b", "c"]


def test_a_string_without_an_end_hides_no_more_than_4_kib():
    assert screen(b"a\x1b]0;" + b"x" * 5000 + b"visible") == ["a" + "x" * (5000 - MAX_STRING + 4) + "visible"]


def test_a_string_is_ended_by_the_next_sequence():
    assert screen(b"\x1b]0;title\x1b[31mred") == ["red"]
    assert screen(b"\x1b]0;title\x18text") == ["␘text"]


@pytest.mark.parametrize(
    "cut", [b"\x1b", b"\x1b[", b"\x1b[3", b"\x1b[3;1", b"\x1b(", b"\x1b]", b"\x1b]0;t\x1b", b"\xe2\x9c"]
)
def test_what_has_not_come_whole_is_not_shown_yet(cut):
    assert screen(b"text" + cut) == ["text"]


def test_a_sequence_is_put_together_though_another_channel_wrote_in_between():
    assert fold(log(b"\x1b[3", ("stderr", b"x\n"), b"1mred"))[1].spans == (("red", Style(fg=1)),)
    assert screen(b"\xe2\x9c", ("stderr", b"x\n"), b"\x93 done") == ["x", "✓ done"]
    assert screen(b"\x1b]0;ti", ("stderr", b"x\n"), b"tle\x1b", ("stderr", b"y\n"), b"\\text") == ["x", "y", "text"]


def test_a_broken_sequence_is_dropped_and_reading_goes_on():
    assert screen(b"a\x1b[3\x1b[31mb") == ["ab"]
    assert screen(b"a\x1b[3\xe2\x9c\x93b") == ["a✓b"]
    assert screen(b"a\x1b\x1b[1mb") == ["ab"]


def test_an_endless_sequence_is_given_up():
    assert screen(b"a\x1b[" + b"1" * 5000, ("stderr", b"x\n"), b"mb") == ["amb", "x"]


def test_controls_without_a_meaning_are_made_visible():
    assert screen(b"a\0b\x01\x1cc") == ["a␀b␁␜c"]
    assert screen("a\x85b\x9bc".encode()) == ["a\ufffdb\ufffdc"]


def test_bytes_that_are_not_utf8_are_replaced():
    assert screen(b"a\xffb\xc3\ncaf\xe9\n") == ["a\ufffdb\ufffd", "caf\ufffd"]


# -- a tail


LINES = [
    "plain",
    "\x1b[1;31mred\x1b[0m",
    "\x1b]8;;http://example.org/\x1b\\link\x1b]8;;\x07",
    "✓ 漢字 fertig",
    "\x1b(Blast",
]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_tail_shows_whole_lines_or_nothing_wherever_it_begins(end):
    data = "".join(line + end for line in LINES).encode()
    whole = screen(data)

    for start in range(1, len(data)):
        tail = texts(fold(log(data[start:], start=start)))
        assert tail in (whole[len(whole) - len(tail) :], [])
        assert len(tail) >= data.count(b"\n", start) - 1


def test_a_tail_inside_a_progress_bar_shows_the_newest_state():
    data = b"".join(b"\r%3d%% of a lot" % percent for percent in range(101))

    for start in range(1, 500):
        assert texts(fold(log(data[start:], start=start))) == ["100% of a lot"]


def test_a_tail_inside_its_only_line_shows_it_without_the_rest_of_a_sequence():
    data = b"\x1b[1;31mone line\x1b]0;title\x07 without an end"

    for start in range(1, 7):
        (line,) = fold(log(data[start:], start=start))
        assert (line.text, line.headless) == ("one line without an end", True)
    for start in range(data.index(b"0;title"), data.index(b" without")):
        assert texts(fold(log(data[start:], start=start))) == [" without an end"]


def test_a_tail_inside_a_character_does_not_show_its_rest():
    for start in (1, 2):
        assert texts(fold(log("✓".encode()[start:] + b"50 done", start=start))) == ["50 done"]


def test_a_channel_that_did_not_begin_the_tail_loses_only_the_rest_of_a_character():
    assert texts(fold(log(b"ut\n", ("stderr", b"\x9c\x93Password: "), start=9))) == ["Password: ".rstrip()]


def test_a_tail_that_begins_with_a_line_loses_nothing():
    assert texts(fold(log(b"one\ntwo", start=100), from_start=True)) == ["one", "two"]
    assert texts(fold(log(b"one\ntwo", start=0))) == ["one", "two"]
    assert texts(fold(log(b"one\ntwo", start=100))) == ["two"]


def test_leaving_an_alternate_screen_that_nobody_saw_begin_takes_nothing_away():
    assert texts(fold(log(b"x\none\n\x1b[?1049ltwo", start=5))) == ["one", "two"]


# -- long lines


def test_a_megabyte_without_a_newline_is_cut_and_says_how_long_it_is():
    (line,) = fold(log(*[b"x" * 65536] * 16))

    assert line.text == "x" * MAX_COLUMNS
    assert line.characters == 1_048_576
    assert line.cut


def test_a_line_of_just_the_width_is_not_cut():
    (line,) = fold(log(b"x" * MAX_COLUMNS))

    assert (line.characters, line.cut) == (MAX_COLUMNS, False)


def test_a_long_line_in_a_tail_is_cut_at_both_ends():
    (line,) = fold(log(b"1234" * 4000, start=7))

    assert (line.headless, line.cut, line.characters) == (True, True, 16_000)


def test_long_lines_of_wide_characters_are_counted_in_characters():
    (line,) = fold(log("漢".encode() * 5000))

    assert (len(line.text), line.characters) == (MAX_COLUMNS // 2, 5000)
    (line,) = fold(log(b"x" + "漢".encode() * 1500))
    assert (len(line.text), line.characters) == (MAX_COLUMNS // 2, 1501)


def test_a_long_line_that_is_erased_starts_anew():
    (line,) = fold(log(b"x" * 5000 + b"\r\x1b[Kshort"))

    assert (line.text, line.cut) == ("short", False)
    (line,) = fold(log(b"x" * 5000 + b"\x1b[1000D\x1b[K"))
    assert line.characters == 4000


def test_text_put_far_to_the_right_is_counted_too():
    (line,) = fold(log(b"a\x1b[9999C" + b"b" * 10 + b"\n"))

    assert line.text == "a"
    assert line.cut


@pytest.mark.parametrize("sizes", [{"max_lines": 0}, {"columns": 0}, {"screen_rows": 0}])
def test_sizes_must_be_positive(sizes):
    with pytest.raises(ValueError, match="at least 1"):
        fold([], **sizes)


# -- properties

ATOMS = [
    *[b"a", b"bc ", b"\n", b"\n", b"\r", b"\r\n", b"\b", b"\t", b"\0", b"\x9c", b"\x1b", b"\x07", b"\x18", b"\\", b"["],
    *[b"\xe2", b"\x9c", b"\x93", b"\xff", "漢".encode(), "e\u0301".encode(), "\u202e".encode()],
    *[
        b"\x1b[31m",
        b"\x1b[0m",
        b"\x1b[",
        b"2",
        b";",
        b"m",
        b"K",
        b"\x1b[K",
        b"\x1b[2K",
        b"\x1b[J",
        b"\x1b[2J",
        b"\x1b[1J",
    ],
    *[b"\x1b[A", b"\x1b[3A", b"\x1b[B", b"\x1b[2C", b"\x1b[D", b"\x1b[5G", b"\x1b[H", b"\x1b[99;9H", b"\x1b[3;4H"],
    *[
        b"\x1b7",
        b"\x1b8",
        b"\x1b[s",
        b"\x1b[u",
        b"\x1b[P",
        b"\x1b[@",
        b"\x1b[X",
        b"\x1bM",
        b"\x1bD",
        b"\x1bE",
        b"\x1bc",
    ],
    *[b"\x1b]0;", b"\x1b]8;;x\x1b\\", b"\x1bP", b"\x1b[?1049h", b"\x1b[?1049l", b"\x1b[r", b"\x1b[40;1H"],
    *[b"x" * 70, b"line\n" * 12],
]
CHANNELS = st.sampled_from(["stdout", "stderr", "tty"])
PIECE = st.lists(st.sampled_from(ATOMS), max_size=6).map(b"".join)
# Of one channel in each inner list: however it is cut, it is one run of bytes.
RUNS = st.lists(st.tuples(CHANNELS, st.lists(PIECE, max_size=5)), max_size=8)
OPTIONS = st.fixed_dictionaries(
    {
        "max_lines": st.integers(1, 12),
        "columns": st.none() | st.integers(1, 30),
        "screen_rows": st.integers(1, 12),
        "from_start": st.booleans(),
    }
)


@given(runs=RUNS, options=OPTIONS)
def test_the_picture_does_not_depend_on_how_the_bytes_were_cut(runs, options):
    whole = log(*[(channel, b"".join(pieces)) for channel, pieces in runs], start=1)
    cut = log(*[(channel, piece) for channel, pieces in runs for piece in pieces], start=1)
    bytewise = log(*[(chunk.channel, bytes([byte])) for chunk in whole for byte in chunk.data], start=1)

    assert fold(cut, **options) == fold(whole, **options)
    assert fold(bytewise, **options) == fold(whole, **options)


@given(runs=RUNS, options=OPTIONS)
def test_the_picture_keeps_its_limits_and_shows_no_control(runs, options):
    lines = fold(log(*[(channel, piece) for channel, pieces in runs for piece in pieces], start=1), **options)

    assert len(lines) <= options["max_lines"]
    for line in lines:
        assert not any(char < " " or "\x7f" <= char < "\xa0" for char in line.text)
        assert line.characters >= len(line.text)
        assert all(text for text, _ in line.spans)
        assert all(one[1] != other[1] for one, other in zip(line.spans, line.spans[1:], strict=False))


@given(data=st.lists(st.tuples(CHANNELS, st.binary(max_size=300)), max_size=10), options=OPTIONS)
def test_no_bytes_make_it_fail(data, options):
    fold(log(*data, start=1), **options)


WORDS = st.text(st.characters(exclude_categories=["C", "M", "Zl", "Zp"]).filter(width), max_size=20)


@given(lines=st.lists(WORDS, max_size=30), max_lines=st.integers(1, 10), end=st.sampled_from(["\n", "\r\n"]))
def test_plain_lines_are_shown_as_they_are(lines, max_lines, end):
    text = "".join(line + end for line in lines)

    assert screen(text.encode(), max_lines=max_lines) == [line.rstrip(" ") for line in lines][-max_lines:]


@given(parts=st.lists(st.tuples(CHANNELS, st.lists(WORDS, min_size=1, max_size=3)), max_size=10))
def test_whole_lines_of_several_channels_come_in_the_order_they_were_written(parts):
    pieces = [(channel, "".join(f"{line}\n" for line in lines).encode()) for channel, lines in parts]

    shown = [(line.channel, line.text) for line in fold(log(*pieces))]

    assert shown == [(channel, line.rstrip(" ")) for channel, lines in parts for line in lines]


@given(updates=st.lists(st.text("ab █", min_size=1, max_size=8), min_size=1, max_size=20))
def test_carriage_returns_overwrite_column_by_column(updates):
    shown = ""
    for update in updates:
        shown = update + shown[len(update) :]

    lines = screen("\r".join(updates).encode())

    assert lines == ([shown.rstrip(" ")] if shown.strip(" ") else [])
