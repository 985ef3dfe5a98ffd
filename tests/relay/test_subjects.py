"""Names on a relay: what can be one, what each is answered under, and what a key may do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmdop_jupyter.agent.rpc import Server
from cmdop_jupyter.errors import InvalidRequest
from cmdop_jupyter.relay import subjects

IDS = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True)
NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", fullmatch=True).filter(lambda name: name != "js")
NO_NAMES = ["", "*", ">", "a.b", "a.*", "web 1", "web1\n", "-a", "_a", "a" * 65, "wéb", "js", "a\0", "$JS"]


@pytest.mark.parametrize("name", NO_NAMES)
def test_what_would_be_more_or_less_than_one_token_is_no_name(name):
    with pytest.raises(InvalidRequest, match="cannot be the name of a machine"):
        subjects.ask(name)


@pytest.mark.parametrize("make", [subjects.do, subjects.inbox, subjects.stream, subjects.roster, subjects.logs])
@pytest.mark.parametrize("name", ["*", ">", "a.b"])
def test_no_subject_is_made_of_a_wildcard_or_a_dot(make, name):
    with pytest.raises(InvalidRequest):
        make(name)


@given(session=IDS)
def test_a_session_is_one_token_and_comes_back_from_it(session):
    word = subjects.token(session)

    assert "." not in word
    assert subjects.untoken(word) == session


@given(one=IDS, other=IDS)
def test_two_sessions_have_two_tokens(one, other):
    assert (subjects.token(one) == subjects.token(other)) == (one == other)


@pytest.mark.parametrize("session", ["", "*", "a b", "a=2Eb", "a.*", ">", "a" * 65])
def test_what_is_no_id_has_no_token(session):
    with pytest.raises(InvalidRequest):
        subjects.token(session)


@given(person=NAMES, machine=NAMES, link=NAMES, number=st.integers(0, 10**15 - 1))
def test_an_answer_is_known_as_one_of_that_person_and_machine(person, machine, link, number):
    reply = subjects.answer(person, machine, link, number)

    assert subjects.is_answer(reply, person, machine)
    assert not subjects.is_answer(reply, person + "x", machine)
    assert not subjects.is_answer(reply, person, machine + "x")
    assert subjects.link_of(reply) == (link, number)


ANSWER = "_IN.op1.web1.link.1"
NO_ANSWERS = ["", "cmdop.do.web1", "_IN.op1.web1", "_IN.op1.web1.l", "_IN.op1.web1.l.", "_IN.op1.web1.l.1.2"]
NO_ANSWERS += ["_IN.op1.web1..1", "_IN.op1.web1.*.1", "_IN.op1.web1.l.>", "_IN.op1.web1.l.-1", "_IN.op1.web1.l.1 "]
NO_ANSWERS += ["_IN.op1.web1.l.²", "x_IN.op1.web1.l.1", ANSWER + "\n"]


def test_an_answer_is_what_it_looks_like():
    assert subjects.is_answer(ANSWER, "op1", "web1")


@pytest.mark.parametrize("reply", NO_ANSWERS)
def test_nothing_else_is_an_answer(reply):
    assert not subjects.is_answer(reply, "op1", "web1")


def test_every_call_of_the_agent_either_looks_or_changes():
    ops = {name[4:] for name in dir(Server) if name.startswith("_op_")}

    assert ops <= subjects.LOOKS | subjects.CHANGES
    assert not subjects.LOOKS & subjects.CHANGES


def test_looking_at_surroundings_changes_something_when_it_runs_words():
    assert subjects.call("web1", {"op": "surroundings", "detach": []}) == "cmdop.ask.web1"
    assert subjects.call("web1", {"op": "surroundings", "detach": ["touch", "/x"]}) == "cmdop.do.web1"


@pytest.mark.parametrize("op", [None, 3, "", "begone", ["read"]])
def test_a_call_nobody_knows_has_no_subject(op):
    with pytest.raises(InvalidRequest, match="no call"):
        subjects.call("web1", {"op": op})
