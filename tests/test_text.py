"""Text and HTML of lines and sessions: readable everywhere, and nothing in it can act."""

from __future__ import annotations

import json
import pickle
import random
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmdop_jupyter.agent.log import Chunk
from cmdop_jupyter.notebook.views import colors
from cmdop_jupyter.notebook.views.fold import PLAIN, Style, StyledLine, fold
from cmdop_jupyter.notebook.views.text import (
    DIM,
    GLYPHS,
    MAX_SAVED,
    Facts,
    frozen_bundle,
    header_html,
    human_bytes,
    human_seconds,
    one_line,
    shown,
    snapshot_bundle,
    to_ansi,
    to_html,
    to_text,
)

CAPTURED = Path(__file__).parent / "captured"
TAGS = {"code", "div", "span", "b", "i", "u", "br", "details", "summary"}
ATTRIBUTES = {"style", "title", "role", "aria-label", "open"}
STYLES = re.compile(r"[-a-z0-9#:;,.()% ]*", re.IGNORECASE)


class Page(HTMLParser):
    """Reads HTML as strictly as we mean it: our tags only, closed in order, with our attributes only."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.texts: list[str] = []
        self.styled: list[tuple[str, str]] = []  # text and the style it stands in
        self.titles: list[tuple[str, str]] = []  # text and the title it stands in
        self._open: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)
        self.close()
        assert not self._open

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        assert tag in TAGS
        assert set(found) <= ATTRIBUTES
        assert STYLES.fullmatch(found.get("style") or "")
        assert found.get("title") in (None, "stderr", "terminal")
        if tag != "br":
            self._open.append((tag, found))

    def handle_endtag(self, tag):
        assert self._open.pop()[0] == tag

    def handle_data(self, data):
        # Elsewhere JupyterLab and nbconvert take what stands between two `$` for mathematics.
        assert "code" in [tag for tag, _ in self._open]
        self.texts.append(data)
        self.styled.append((data, next((found["style"] for _, found in self._open[::-1] if "style" in found), "")))
        self.titles.append((data, next((found["title"] for _, found in self._open if "title" in found), "")))

    def handle_comment(self, data):
        raise AssertionError("a comment")

    def handle_decl(self, decl):
        raise AssertionError("a declaration")

    def handle_pi(self, data):
        raise AssertionError("a processing instruction")

    @property
    def text(self) -> str:
        return "".join(self.texts)


def lines_of(data: bytes, channel: str = "stdout") -> list[StyledLine]:
    return fold([Chunk(0, channel, 0, 0, data)])


def line(text: str, style: Style = PLAIN, channel: str = "stdout", **more) -> StyledLine:
    return StyledLine(channel, ((text, style),), **{"characters": len(text), **more})


FACTS = Facts(
    name="api",
    machine="my-server",
    session_id="k3v9",
    command="./serve.sh --port 0",
    state="running",
    started=1_700_000_000,
    elapsed=192,
    bytes=48_000,
    lines=1234,
    rate=2100,
    log="/home/someone/.local/state/cmdop/my-server/sessions/k3v9/log",
)
FAILED = replace(FACTS, state="ended", exit="exit 3", failed=True)


# -- shown


def test_shown_leaves_ordinary_text_alone():
    text = "plain text\twith a tab\nand a line: ✓ 漢字 e\u0301 café שלום"

    assert shown(text) is text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\0", "␀"),
        ("a\x1b[31mb", "a␛[31mb"),
        ("a\rb\x08", "a␍b␈"),
        ("\x7f", "␡"),
        ("\x9b31m", "\ufffd31m"),
        ("user\u202egnp.exe", "user\ufffdgnp.exe"),
        ("\u2066x\u2069", "\ufffdx\ufffd"),
        ("a\u2028b\u2029c", "a␤b␤c"),
        ("\ud800 \udcff", "\ufffd \ufffd"),
    ],
)
def test_shown_makes_visible_what_could_act(text, expected):
    assert shown(text) == expected


@given(st.text())
def test_shown_text_has_no_controls_and_can_be_saved(text):
    made = shown(text)

    assert len(made) == len(text) or "[redacted]" in made
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", made)
    assert shown(made) == made
    made.encode()


# -- lines


@pytest.mark.parametrize(
    "hostile",
    [
        b"<script>alert(1)</script>",
        b"<img src=x onerror=alert(1)>",
        b"</div></pre></details><h1>out",
        b"<!-- <![CDATA[ <?php &lt;b&gt; &amp; &#60;",
        b"\x1b]8;;javascript:alert(1)\x1b\\click\x1b]8;;\x1b\\",
        b"\x1b]52;c;c2VjcmV0\x07",
        b"\x1b]0;a title\x07",
        b"\x1b]0;no end <script>",
        b"\xe2<b>\xff\0",
        b"\x1b[38;2;1;2;3m\x1b[48;5;9m\" onclick='x' style=\"y",
        "\u202e<b>\u2066".encode(),
    ],
)
@pytest.mark.parametrize("channel", ["stdout", "stderr", "tty", 'no"<such>'])
def test_hostile_output_is_inert(hostile, channel):
    lines = lines_of(hostile, channel)

    page = Page(to_html(lines))

    assert page.text == "".join(f"{text}\n" for text in to_text(lines).splitlines())
    assert "\x1b" not in to_text(lines)
    assert "alert(1)" not in "".join(style for _, style in page.styled)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["stdout", "stderr", "tty"]),
            st.lists(
                st.binary(max_size=30) | st.sampled_from([b"<b>", b"&", b"\x1b[1;31m", b"\x1b[48;2;9;9;9m", b"\n"])
            ),
        ),
        max_size=6,
    )
)
def test_the_text_of_the_page_is_the_plain_text(parts):
    lines = fold([Chunk(0, channel, 0, 0, b"".join(pieces)) for channel, pieces in parts])

    assert Page(to_html(lines)).text == "".join(f"{text}\n" for text in to_text(lines).split("\n") if lines)
    assert re.sub(r"\x1b\[[0-9;]*m", "", to_ansi(lines)) == to_text(lines)


def test_stderr_is_told_apart_by_more_than_colour():
    lines = [line("out"), line("err", channel="stderr"), line("err 2", channel="stderr"), line("ask", channel="tty")]

    html = to_html(lines)

    assert Page(html).titles == [("out\n", ""), ("err\nerr 2\n", "stderr"), ("ask\n", "terminal")]
    assert 'aria-label="stderr"' in html
    assert "border-left" in html


def test_styles_reach_the_page():
    lines = lines_of(b"\x1b[1;3;4;2;31mall\x1b[0m \x1b[7mback\x1b[0m \x1b[30;42mbar\x1b[0m \x1b[34;7mturned")

    html = to_html(lines)

    assert '<b style="color:#c44;opacity:.7"><i><u>all</u></i></b>' in html
    assert '<span style="background:#777;color:#000">back</span>' in html
    assert '<span style="background:#00cd00;color:#000">bar</span>' in html
    assert '<span style="background:#00e;color:#fff">turned</span>' in html


def test_white_text_is_that_of_the_page():
    assert ">white<" not in to_html(lines_of(b"\x1b[37mwhite\x1b[97mwhite"))
    assert "whitewhite" in to_html(lines_of(b"\x1b[37mwhite\x1b[97mwhite"))


def test_styles_reach_a_terminal_as_they_came():
    data = b"\x1b[1;2;3;4;7;31;42mall\x1b[0m \x1b[95;104mbright\x1b[0m \x1b[38;5;200;48;2;1;2;3mmany\x1b[0m plain"

    assert to_ansi(lines_of(data)) == data.decode()


def test_notes_say_what_is_missing_of_lines():
    whole, cut = line("whole"), line("cut", characters=1_048_576)
    late, both = line("late", headless=True, trimmed=True), line("both", headless=True, trimmed=True, characters=5)
    expected = [
        "… 1 earlier line not shown",
        "whole",
        "cut … 1,048,576 characters",
        "… late",
        "… both … more than 5 characters",
    ]

    lines = [whole, cut, late, both]

    assert to_text(lines, skipped=1).split("\n") == expected
    assert to_ansi(lines, skipped=1).split("\n") == expected
    assert Page(to_html(lines, skipped=1)).text == "".join(f"{text}\n" for text in expected)
    assert to_text([whole], skipped=12_345).startswith("… 12,345 earlier lines not shown\n")


def test_nothing_is_an_empty_block():
    assert to_text([]) == to_ansi([]) == Page(to_html([])).text == ""


@pytest.mark.parametrize("name", ["plain", "git-clone.raw", "yes.raw"])
def test_the_page_of_an_ordinary_tail_is_hardly_longer_than_its_text(name):
    if name == "plain":
        words = [b"INFO"] * 8 + [b"\x1b[33mWARN\x1b[0m"]
        rows = [b"2026-11-22 10:11:12 %b app: request <%d> & answer, done" % (words[n % 9], n) for n in range(200)]
        lines = lines_of(b"\n".join(rows))
    else:
        lines = lines_of((CAPTURED / name).read_bytes() * 20)

    assert len(to_html(lines).encode()) <= 1.3 * len(to_text(lines).encode()) + 200


# -- colours


def contrast(one: tuple[int, int, int], other: tuple[int, int, int]) -> float:
    light, dark = sorted((colors.luminance(one), colors.luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def rgb(css: str) -> tuple[int, int, int]:
    digits = css.removeprefix("#")
    digits = digits if len(digits) == 6 else "".join(digit * 2 for digit in digits)
    return int(digits[:2], 16), int(digits[2:4], 16), int(digits[4:], 16)


WHITE, NEARLY_BLACK = (255, 255, 255), (17, 17, 17)  # JupyterLab's pages


def test_every_colour_of_the_palette_can_be_read_on_light_and_on_dark_pages():
    for color in {*range(256)} - {7, 15}:
        opening, _ = colors.tags(Style(fg=color))
        seen = rgb(re.fullmatch(r'<span style="color:(#[0-9a-f]+)">', opening)[1])

        least = 3.9 if color < 16 else 3.3
        assert contrast(seen, WHITE) >= least
        assert contrast(seen, NEARLY_BLACK) >= least


PARTS = st.integers(0, 255)


@given(st.tuples(PARTS, PARTS, PARTS))
def test_every_colour_there_is_can_be_read_on_light_and_on_dark_pages(color):
    seen = colors.readable(color)

    assert contrast(seen, WHITE) >= 3.3
    assert contrast(seen, NEARLY_BLACK) >= 3.3


@given(st.tuples(PARTS, PARTS, PARTS))
def test_ordinary_text_can_be_read_on_every_background(color):
    opening, _ = colors.tags(Style(bg=color))
    seen = re.search(r"color:(#\w+)", opening.partition(";")[2])[1]

    assert contrast(rgb(seen), color) >= 4.5


@given(st.tuples(PARTS, PARTS, PARTS))
def test_a_colour_keeps_its_hue_order(color):
    seen = colors.readable(color)

    assert sorted(range(3), key=lambda at: (color[at], at)) == sorted(
        range(3), key=lambda at: (seen[at], color[at], at)
    )


# -- sessions


def test_one_line_tells_the_facts():
    assert one_line(FACTS) == "api on my-server: running, 3m12s, 48 kB, 1,234 lines, 2.1 kB/s"
    assert one_line(FAILED) == "api on my-server: failed, exit 3, after 3m12s, 48 kB, 1,234 lines"


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"silent": 40.0}, "last output 40 s ago"),
        ({"silent": 59.9}, "last output 59 s ago"),
        ({"silent": 200.0}, "last output 3m20s ago"),
        ({"state": "held", "held": "the disk is full"}, "held, the disk is full"),
        ({"exit": "exit 0", "held_by": "node[4711]"}, "exit 0, output held by node[4711]"),
        ({"exit": "ended by TERM", "stopped": "stopped by TERM in 0.2 s"}, "ended by TERM, stopped by TERM in 0.2 s"),
        ({"prompt": "Password: "}, "running, asks 'Password: '"),
        ({"lines": 1}, "1 line,"),
    ],
)
def test_the_line_says_what_is_out_of_the_ordinary(more, words):
    facts = replace(FACTS, **more)

    assert words in one_line(facts)
    assert words.rstrip(",") in Page(header_html(facts)).text.replace(" · ", ", ")


@pytest.mark.parametrize(
    "more", [{"silent": 10.0}, {"silent": 99.0, "exit": "exit 0"}, {"silent": 99.0, "state": "lost"}]
)
def test_silence_is_told_only_when_it_says_something(more):
    assert "ago" not in one_line(replace(FACTS, **more))


def test_the_header_is_one_line_and_a_note_has_its_own():
    page = Page(header_html(FACTS, note="saved <here>"))

    assert page.text == "● api on my-server · running · 3m12s · 48 kB · 1,234 lines · 2.1 kB/ssaved <here>"


@pytest.mark.parametrize(
    ("facts", "red"),
    [
        (FACTS, False),
        (replace(FACTS, exit="exit 0"), False),
        (FAILED, True),
        (replace(FACTS, state="lost", failed=True), True),
    ],
)
def test_what_failed_is_red(facts, red):
    glyph, style = Page(header_html(facts)).styled[0]

    assert (style == f"color:{colors.PAGE[1]}") is red
    assert (glyph in "✗?") is red
    assert header_html(facts).count("<b>") == 1 + red


def test_the_glyph_tells_the_states_apart():
    states = [
        *[replace(FACTS, state=state) for state in ("starting", "running", "held")],
        replace(FACTS, exit="exit 0"),
        FAILED,
        replace(FACTS, silent=11),
        replace(FACTS, link="link retrying"),
        replace(FACTS, state="stopping"),
        replace(FACTS, state="lost", failed=True),
    ]

    assert len({Page(header_html(facts)).styled[0][0] for facts in states}) == len(states)


@pytest.mark.parametrize(("glyph", "color"), GLYPHS)
def test_the_glyphs_of_states_stand_out_as_wcag_wants_of_graphics(glyph, color):
    for page in (WHITE, NEARLY_BLACK):
        assert contrast(rgb(color), page) >= 3.0
        assert contrast(seen_through(rgb(color), page, DIM), page) >= 3.0, "in a line that is dim"


@pytest.mark.parametrize(("text", "page"), [((33, 33, 33), WHITE), (WHITE, NEARLY_BLACK)])
def test_what_is_dim_can_be_read_as_wcag_wants_of_text(text, page):
    once = seen_through(text, page, DIM)

    assert contrast(once, page) >= 4.5
    assert contrast(seen_through(once, page, DIM), page) >= 4.5, "something dim in something dim"


def seen_through(color: tuple[int, int, int], page: tuple[int, int, int], opacity: float) -> tuple[int, int, int]:
    red, green, blue = (round(opacity * one + (1 - opacity) * other) for one, other in zip(color, page, strict=True))
    return red, green, blue


def test_hostile_names_are_inert_too():
    evil = "<script>\x1b]0;x\x07\n\u202e\ud800"
    facts = replace(
        FACTS, name=evil, machine=evil, session_id=evil, command=evil, log=evil, held=evil, exit=evil, prompt=evil
    )

    for html in (header_html(facts, note=evil), frozen_bundle(facts, [], [], 3)["text/html"]):
        Page(html)
        html.encode()
    assert "\n" not in one_line(facts)
    assert "\x1b" not in frozen_bundle(facts, [], [], 3)["text/plain"]


def test_a_snapshot_is_one_folded_line_that_says_when_it_was_true():
    bundle = snapshot_bundle(FACTS, [line("newest")], 1_700_000_192.5)

    as_of = "as of 2023-11-14 22:16:32 UTC"
    assert bundle["text/plain"] == f"{one_line(FACTS)} ({as_of})\nnewest"
    assert bundle["text/html"].startswith("<details><summary")
    page = Page(bundle["text/html"])
    assert page.text.startswith(
        f"● api on my-server · running · 3m12s · 48 kB · 1,234 lines · 2.1 kB/s · {as_of}newest\n"
    )
    assert page.text.endswith(f"started 2023-11-14 22:13:20 UTC, full log: {FACTS.log} on my-server")


def test_a_snapshot_without_output_is_its_line():
    assert snapshot_bundle(FACTS, [], 1_700_000_192)["text/plain"].count("\n") == 0


def test_a_snapshot_holds_the_newest_lines_and_counts_the_others():
    text = snapshot_bundle(FACTS, [line(str(number)) for number in range(200)], 0, skipped_lines=1000)["text/plain"]

    assert text.split("\n")[1:3] == ["… 1,120 earlier lines not shown", "120"]


def test_the_frozen_text_has_head_and_tail_and_says_exactly_what_lies_between():
    head, tail = [line(f"first {n}") for n in range(20)], [line(f"last {n}") for n in range(80)]

    bundle = frozen_bundle(FAILED, head, tail, 12_345, 3_400_000)

    expected = [
        one_line(FAILED),
        *[one.text for one in head],
        f"… 12,345 lines (3.4 MB) not shown, full log: {FACTS.log} …",
        *[one.text for one in tail],
        "$ ./serve.sh --port 0",
        f"session k3v9, started 2023-11-14 22:13:20 UTC, full log: {FACTS.log} on my-server",
    ]
    assert bundle["text/plain"].split("\n") == expected
    assert bundle["text/html"].startswith("<details open>")
    page = Page(bundle["text/html"]).text
    for text in expected[1:]:
        assert text in page
    assert expected[-1] in page
    assert ("✗", f"color:{colors.PAGE[1]}") in Page(bundle["text/html"]).styled


def test_short_output_is_frozen_whole_wherever_it_was_given():
    lines = [line(str(number)) for number in range(100)]

    for head, tail in ((lines, []), ([], lines), (lines[:50], lines[50:])):
        text = frozen_bundle(FACTS, head, tail, 0)["text/plain"]
        assert text.split("\n")[1:101] == [one.text for one in lines]
        assert "not shown" not in text


def test_too_many_lines_are_left_out_and_counted():
    lines = [line(str(number)) for number in range(150)]

    text = frozen_bundle(FACTS, [], lines, 0)["text/plain"].split("\n")
    assert text[20:23] == ["19", f"… 50 lines not shown, full log: {FACTS.log} …", "70"]

    text = frozen_bundle(replace(FACTS, log=""), lines[:30], lines[30:], 7)["text/plain"].split("\n")
    assert text[20:23] == ["19", "… 57 lines not shown …", "70"]


def test_without_output_the_frozen_text_is_its_facts():
    assert frozen_bundle(replace(FACTS, command="", log=""), [], [], 0)["text/plain"].split("\n") == [
        one_line(FACTS),
        "session k3v9, started 2023-11-14 22:13:20 UTC",
    ]


@pytest.mark.parametrize("text", ["x" * 2000, "&" * 2000, "漢" * 1000, "\U0001f600" * 1000, "'\"<>" * 500])
@pytest.mark.parametrize("rainbow", [False, True])
def test_what_stays_in_a_file_is_bounded_whatever_the_output(text, rainbow):
    draw = random.Random(1)
    spans = tuple((char, Style(fg=(draw.randrange(256), n % 256, 9))) for n, char in enumerate(text)) if rainbow else ()
    lines = [StyledLine("stderr" if n % 2 else "stdout", spans or ((text, PLAIN),), 2_000_000) for n in range(100)]

    for bundle in (frozen_bundle(FACTS, lines[:20], lines[20:], 10**6, 10**9), snapshot_bundle(FACTS, lines, 0)):
        assert sum(len(part.encode()) for part in bundle.values()) <= MAX_SAVED
        assert bundle["text/plain"].count("… 2,000,000 characters\n") >= 79
        assert json.loads(json.dumps(bundle)) == bundle
        Page(bundle["text/html"])


def test_ordinary_output_is_frozen_uncut():
    lines = [line("x" * 120)] * 100

    assert frozen_bundle(FACTS, lines[:20], lines[20:], 5)["text/plain"].count("x" * 120) == 100


def test_sizes_and_times_read_as_everywhere():
    assert (human_bytes(48_000), human_bytes(3_400_000)) == ("48 kB", "3.4 MB")
    assert human_seconds(192) == "3m12s"


def test_lines_can_be_handed_to_another_process():
    assert pickle.loads(pickle.dumps(line("x", Style(fg=3)))) == line("x", Style(fg=3))
