"""The page of a session's state: always 4 KiB, read whole or not at all; and the moves that a state may make."""

from __future__ import annotations

import itertools
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmdop_jupyter.agent import status
from cmdop_jupyter.agent.status import NEXT, PAGE, check_move, read_page, write_page

WORDS = st.text(max_size=6000)
FACTS = st.fixed_dictionaries(
    {"state": st.sampled_from(sorted(NEXT)), "end": st.integers(0, 2**63)},
    optional={
        "held": WORDS,
        "held_by": st.lists(WORDS, max_size=200),
        "stopped": st.fixed_dictionaries({"took": st.just("KILL"), "ended": st.lists(WORDS), "left": st.lists(WORDS)}),
    },
)


@pytest.fixture
def page(tmp_path):
    path = tmp_path / "status"
    path.write_bytes(b" " * PAGE)
    fd = os.open(path, os.O_WRONLY)
    yield path, fd
    os.close(fd)


@given(every=st.lists(FACTS, min_size=1, max_size=3))
def test_the_page_keeps_its_size_and_says_the_newest_whatever_is_said(tmp_path_factory, every):
    path = tmp_path_factory.mktemp("page") / "status"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    for facts in every:
        before = repr(facts)
        write_page(fd, facts)
        assert os.stat(path).st_size == PAGE
        told = read_page(str(path))
        assert (told["state"], told["end"]) == (facts["state"], facts["end"])
        assert set(told) == set(facts)
        assert repr(facts) == before
    os.close(fd)


def test_facts_that_fit_are_kept_as_they_are(page):
    path, fd = page
    facts = {"state": "ended", "exit": {"code": 3}, "held": "josé \x00\x1b", "dropped": [1, 2], "echo": None}
    write_page(fd, facts)

    assert read_page(str(path)) == facts


def test_a_report_of_a_thousand_processes_is_cut_until_it_fits(page):
    path, fd = page
    names = [f"worker[{number}]" for number in range(1000)]
    facts = {"state": "exited", "stopped": {"took": "KILL", "ended": names, "left": []}}
    write_page(fd, facts)

    told = read_page(str(path))["stopped"]
    assert told["took"] == "KILL"
    assert told["ended"] == names[: len(told["ended"])]
    assert 50 < len(told["ended"]) < 1000
    assert facts["stopped"]["ended"] == names  # what was handed over is not cut
    assert len(names) == 1000


@pytest.mark.parametrize(
    "damage", [lambda page: page[:20], lambda page: page.replace(b"running", b"stopped"), lambda page: page[:0]]
)
def test_a_damaged_page_is_refused(page, damage):
    path, fd = page
    write_page(fd, {"state": "running"})
    path.write_bytes(damage(path.read_bytes()))

    with pytest.raises(ValueError, match="damaged"):
        read_page(str(path))


def test_a_page_that_is_not_there_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_page(str(tmp_path / "status"))


def test_every_move_but_the_listed_ones_is_refused():
    for old, new in itertools.product(NEXT, NEXT):
        if new in NEXT[old]:
            check_move(old, new)
        else:
            with pytest.raises(ValueError, match=f"from {old} to {new}"):
                check_move(old, new)


def test_a_session_that_may_still_move_is_live():
    assert {state for state in NEXT if NEXT[state]} == set(status.LIVE)
