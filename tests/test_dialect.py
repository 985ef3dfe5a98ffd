"""What a text pattern means: what it means to `re`, on every line and in every engine."""

from __future__ import annotations

import re
import warnings

import pytest
from hypothesis import assume, given, reject, settings
from hypothesis import strategies as st

from cmdop_jupyter.agent.log import Chunk
from cmdop_jupyter.dialect import Expression
from cmdop_jupyter.errors import PatternError
from cmdop_jupyter.patterns import Grep, Searcher

LETTERS = ["a", "b", "A", "1", "_", " ", "-", r"\.", "é", "²", "K", "k", "ß", "ſ", "s", "İ", "ı", "i", "I", "✓", "\t"]
SETS = [
    r"\w",
    r"\d",
    r"\s",
    r"\W",
    r"\D",
    r"\S",
    ".",
    "[ab]",
    "[^a]",
    r"[\w-]",
    r"[^\s]",
    "[a-k1]",
    r"[^\W\d]",
    "[é-ü]",
]
SETS += [r"[\s\d]", r"\n", r"[\n\x0b]", r"[^\n]", "[[:alpha:]]", "[^]a]", r"\x41", r"\u00e9"]
PLACES = ["^", "$", r"\b", r"\B", r"\A", r"\Z"]
TIMES = ["*", "+", "?", "{2}", "{1,2}", "{,2}", "*?", "+?", "??", "{0,2}?"]
SINGLE = st.sampled_from(LETTERS + SETS)


def larger(smaller: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Patterns made of smaller ones."""
    several = st.lists(smaller, min_size=2, max_size=3)
    return st.one_of(
        several.map("".join),
        several.map("|".join).map("(?:{})".format),
        several.map("|".join).map("({})".format),
        smaller.map("(?P<name>{})".format),
        smaller.map("({})".format),
        st.builds("(?:{}){}".format, smaller, st.sampled_from(TIMES)),
        st.builds("{}{}".format, SINGLE, st.sampled_from([*TIMES, "*+", "++", "?+"])),
        st.builds("({}{})".format, st.sampled_from(["?=", "?!", "?<=", "?<!", "?>", "?i:", "?s:", "?m:"]), smaller),
        st.builds("({})(?(1){}|{})".format, smaller, smaller, smaller),
        smaller.map(r"({})\1".format),
    )


PATTERN = st.recursive(SINGLE | st.sampled_from(PLACES), larger, max_leaves=8)
FLAGS = st.sampled_from(["", "", "", "(?i)", "(?s)", "(?m)", "(?a)", "(?ai)"])
SYMBOLS = "aabbAB11_ -.\t\0éß²KkſsİıiI✓😀\u0301\u00a0\u2028\x85\x1c\x0b٣"
ONE_LINE = st.text(st.sampled_from(SYMBOLS), max_size=8) | st.text(st.sampled_from("aabAB1_ -.\t\x1c"), max_size=8)
ONE_LINE |= st.text(st.characters(exclude_characters="\n\r\x1b", exclude_categories=["Cs"]), max_size=8)


def compiled(source: str) -> re.Pattern[str]:
    """The pattern, if it is one that is searched for."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = re.compile(source)
    except re.error:
        reject()
    try:
        Expression(source)
    except PatternError as error:
        if "the group that it stands in" not in str(error):
            raise
        reject()
    return found


@settings(max_examples=500)
@given(
    flags=FLAGS, pattern=PATTERN, lines=st.lists(ONE_LINE, min_size=1, max_size=5), patience=st.sampled_from([-1, 8])
)
def test_a_text_pattern_means_what_re_means(flags, pattern, lines, patience):
    wanted = compiled(flags + pattern)
    if r"\1" in pattern and "i" in flags + pattern:
        assume(all(line.isascii() for line in lines))  # the one thing that differs, see `dialect`
    first = next((line for line in lines if wanted.search(line)), None)
    log = [Chunk(0, "stdout", 0, 0, "".join(line + "\n" for line in lines).encode())]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cmdop_jupyter.needles._PATIENCE", patience)
        hit = Searcher([wanted]).feed(log)
        grep = Grep(wanted).feed(log)

    assert [line.text for line in grep] == [line for line in lines if wanted.search(line)]
    assert (hit and hit.line) == first
    if hit is not None:
        match = wanted.search(hit.line)
        assert match is not None
        assert (hit.match.regs, hit.match.groupdict()) == (match.regs, match.groupdict())
        before = len("".join(line + "\n" for line in lines[: lines.index(hit.line)]).encode())
        assert hit.start == before + len(hit.line[: match.start()].encode())
        assert hit.end == before + len(hit.line[: match.end()].encode())


EVERY_CHARACTER = "".join(chr(code) for code in range(0x110000) if code != 10 and not 0xD800 <= code < 0xE000)


@pytest.mark.parametrize("pattern", [r"\w", r"\d", r"[^\s]", r"[^\W\d_]", "(?i)[a-zß-ü]", "(?i)[^kſ]", r"(?ai)[\Wk]"])
def test_a_set_has_the_same_members_as_in_re(pattern):
    expression = Expression(pattern)
    wanted = re.findall(pattern, EVERY_CHARACTER)

    assert expression.exact(ascii=False).findall(EVERY_CHARACTER) == wanted
    assert expression.exact(ascii=True).findall(EVERY_CHARACTER[:127]) == re.findall(pattern, EVERY_CHARACTER[:127])
    some = wanted[::101]
    assert [found.decode() for found in expression.loose(ascii=False).findall("".join(some).encode())] == some


def test_google_re2_looks_for_long_repeats_as_far_as_it_can_count():
    loose = Expression("x{1001}y{2,1001}").loose(ascii=True)

    assert loose.search(b"x" * 1001 + b"yy") is not None
    assert loose.search(b"x" * 999 + b"yy") is None


def test_every_letter_matches_what_re_matches_whatever_the_case():
    for letter in "kKsSſiIİıßẞµμÅåΩωΣσςǅΐΐﬅﬆꭰᎠ𐐀":
        wanted = re.findall(letter, EVERY_CHARACTER, re.IGNORECASE)

        assert Expression(letter, re.IGNORECASE).exact(ascii=False).findall(EVERY_CHARACTER) == wanted


@pytest.mark.parametrize(
    ("pattern", "line"),
    [
        ("(?:foo){e<=1}", "fox"),
        (r"[a&&b]", "&"),
        (r"[a||b]", "|"),
        (r"[a~~b]", "~"),
        (r"(?i)straße", "STRASSE"),
        (r"a(?#comment)b", "ab"),
        (r"(?x) a  b # c", "ab"),
        ("a\\\nb", "ab"),
        (r"x{,3}y", "xxy"),
        (r"x{,y", "x{,y"),
        (r"\Afoo\Z", "foo"),
        (r"^foo$", "foo"),
        (r"(?-m:^foo$)", "foo"),
        (r"\x66\157\u006f", "foo"),
        (r"\N{LATIN SMALL LETTER F}oo", "foo"),
        (r"[[:alpha:]]", "x"),
        (r"[[:alpha:]]", "a]"),
        (r"\B", ""),
        (r"(?<=(?:([ab])){2})c", "abc"),
        (r"(a)b(?<=\1b)c", "abc"),
        (r"(a*)*", "b"),
        (r"x{1001}", "x" * 1001),
    ],
)
def test_syntax_that_other_engines_read_otherwise_means_what_re_means(pattern, line):
    wanted = compiled(pattern).search(line)

    hit = Searcher([pattern]).feed([Chunk(0, "stdout", 0, 0, f"{line}\n".encode())])

    assert (hit and hit.match.regs) == (wanted and wanted.regs)


@pytest.mark.parametrize("pattern", [r"(((?:a|^))(?(1)a|\b))\1", r"(a(?(1)b|c))+", r"(?P<x>(?=(?(x)a|b)))"])
def test_a_condition_on_the_group_it_stands_in_is_refused(pattern):
    with pytest.raises(PatternError, match="the group that it stands in"):
        Expression(pattern)


@pytest.mark.parametrize("pattern", [r"(a)?(?(1)b|c)", r"(?:(a)|b)(?(1)c|d)"])
def test_a_condition_on_a_group_that_is_closed_is_not(pattern):
    Expression(pattern)
