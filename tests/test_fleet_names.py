"""Words with brackets, and the names they stand for. Pure."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmdop_jupyter.errors import InvalidRequest
from cmdop_jupyter.fleet_names import MOST, counted, expand

WORDS = st.text("abyz._-@/", max_size=4)
ITEMS = st.lists(st.text("abz", min_size=1, max_size=3), min_size=1, max_size=4)


@pytest.mark.parametrize(
    ("word", "names"),
    [
        ("web1", ["web1"]),
        ("web[01-03]", ["web01", "web02", "web03"]),
        ("web[8-11]", ["web8", "web9", "web10", "web11"]),
        ("web[08-11]", ["web08", "web09", "web10", "web11"]),
        ("web[099-100]", ["web099", "web100"]),
        ("web[1-003]", ["web001", "web002", "web003"]),
        ("[a,b]", ["a", "b"]),
        ("db-[eu,us]-[1-2].x", ["db-eu-1.x", "db-eu-2.x", "db-us-1.x", "db-us-2.x"]),
        ("n[1-2,7,a-b]", ["n1", "n2", "n7", "na-b"]),
        ("n[1,1-2]", ["n1", "n2"]),
        ("ssh://me@web[01-02]:22", ["ssh://me@web01:22", "ssh://me@web02:22"]),
        ("ssh://[::1]:22", ["ssh://[::1]:22"]),
        ("ssh://[fe80::[1-2]]", None),
        ("@web", ["@web"]),
        ("", [""]),
    ],
)
def test_a_word_stands_for_names(word, names):
    if names is None:
        with pytest.raises(InvalidRequest):
            expand(word)
    else:
        assert expand(word) == names


@pytest.mark.parametrize(
    ("word", "why"),
    [
        ("web[1-3", "without its other half"),
        ("web1-3]", "without its other half"),
        ("web[]", "nothing in one place"),
        ("web[1,,2]", "nothing in one place"),
        ("web[9-1]", r"it is \[1-9\]"),
        ("web[1-99999999999999999999999]", f"more than {MOST}"),
        ("[1-200][1-200]", "40000 names"),
    ],
)
def test_what_makes_no_sense_is_told(word, why):
    with pytest.raises(InvalidRequest, match=why):
        expand(word)


@given(WORDS, st.integers(0, 300), st.integers(0, 50), st.integers(0, 5), WORDS)
def test_a_range_counts_with_the_zeros_it_was_given(before, low, more, width, after):
    first, last = f"{low:0{width}}", f"{low + more:0{width}}"
    names = expand(f"{before}[{first}-{last}]{after}")

    numbers = [name.removeprefix(before).removesuffix(after) if after else name[len(before) :] for name in names]
    assert [int(number) for number in numbers] == list(range(low, low + more + 1))
    if width > 3:
        assert {len(number) for number in numbers} == {width}


@given(st.lists(st.tuples(WORDS, ITEMS), max_size=3), WORDS)
def test_several_brackets_are_every_combination_once(parts, end):
    word = "".join(f"{before}[{','.join(items)}]" for before, items in parts) + end
    wanted = [""]
    for before, items in parts:
        wanted = [name + before + item for name in wanted for item in items]

    assert expand(word) == list(dict.fromkeys(name + end for name in wanted))


@given(st.text("ab[]-,:019", max_size=12))
def test_any_word_is_names_or_one_error(word):
    try:
        names = expand(word)
    except InvalidRequest:
        return
    assert names
    assert len(names) == len(set(names)) <= MOST


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["web01", "db", "web02", "web03"], ["web[01-03]"]),
        ([f"n{number}" for number in range(8, 13)], ["n[8-12]"]),
        (["a1-x", "a2-x"], ["a[1-2]-x"]),
        (["web1", "web3"], []),
        (["web01", "web2"], []),
        (["one", "web1", "z1", "z99999999999999"], []),
    ],
)
def test_names_that_count_have_a_word_for_all_of_them(names, words):
    assert counted(names) == words
    assert all(set(expand(word)) <= set(names) for word in words)
