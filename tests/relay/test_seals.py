"""Seals: what was signed is taken as it was; whatever else differs is refused, and says who sent it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmdop_jupyter.agent.frames import MAX_BODY, encode
from cmdop_jupyter.errors import Refused
from cmdop_jupyter.relay import proofs, seals, subjects
from cmdop_jupyter.relay.mirror import MOST_CHUNKS
from cmdop_jupyter.relay.proofs import Identity, Proof, check_proof, issue, new_user, new_workspace, public_of
from cmdop_jupyter.relay.provision import MAX_LOG_MESSAGE
from cmdop_jupyter.relay.publishing import PIECE

SECOND = 1_000_000_000
NOW = 1_800_000_000 * SECOND
ACCOUNT, OTHER_ACCOUNT = new_workspace(), new_workspace()
WORKSPACE, OTHER_WORKSPACE = public_of(ACCOUNT), public_of(OTHER_ACCOUNT)


def member(role, name, account=ACCOUNT, workspace="lab"):
    seed = new_user()
    return Identity(seed, issue(account, workspace, role, name, seed))


OPERATOR, OBSERVER, OTHER = member("operator", "op1"), member("observer", "obs"), member("operator", "op4")
STRANGER = member("operator", "op1", OTHER_ACCOUNT)
WEB1, WEB2 = member("machine", "web1"), member("machine", "web2")
READ = {"op": "read", "session": "s1", "offset": 7, "max_bytes": 100}
WRITE = {"op": "write", "session": "s1", "writer": "w", "offset": 0}

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
FACTS = st.dictionaries(st.text().filter(lambda key: key not in ("seal", "op", "detach")), JSON, max_size=4)
LOOKS = FACTS.map(lambda facts: {**facts, "op": "status"})


class Clock:
    def __init__(self):
        self.now = NOW

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def lines():
    return []


@pytest.fixture
def gate(clock, lines):
    return gate_of("web1", clock, lines)


def gate_of(machine="web1", clock=lambda: NOW, lines=None, **options):
    return seals.Gate(WORKSPACE, machine, clock, lambda line: None if lines is None else lines.append(line), **options)


def reply_of(identity=OPERATOR, number=1, machine="web1"):
    return subjects.answer(identity.proof.name, machine, "link", number)


def call_of(header=READ, body=b"", identity=OPERATOR, **change):
    """Subject, reply and payload of a call that is as it should be, but for what is given."""
    subject = change.get("subject") or subjects.call("web1", header)
    reply = change.get("reply") or reply_of(identity, change.get("number", 1))
    sealed = {"machine": "web1", "subject": subject, "reply": reply, "time_ns": NOW, "nonce": "", **change}
    sealed.pop("number", None)
    return subject, reply, seals.seal_call(identity, header=header, body=body, **sealed)


# -- calls


@given(header=LOOKS, body=st.binary(max_size=200))
def test_a_call_arrives_as_it_was_signed(header, body):
    proof, seen, data = gate_of().check(*call_of(header, body))

    assert (proof, seen, data) == (OPERATOR.proof, header, body)


CALL = call_of(READ, b"some bytes", nonce="12345678")


@given(at=st.integers(0, len(CALL[2]) - 1), bit=st.integers(0, 7))
def test_a_call_of_which_a_bit_was_changed_is_refused_or_says_the_same(at, bit):
    payload = bytearray(CALL[2])
    payload[at] ^= 1 << bit
    try:
        seen = gate_of().check(CALL[0], CALL[1], bytes(payload))
    except Refused:
        return

    assert seen == (OPERATOR.proof, READ, b"some bytes")


@given(payload=st.binary(max_size=300))
def test_bytes_that_are_no_call_are_refused(payload):
    with pytest.raises(Refused) as refused:
        gate_of().check("cmdop.do.web1", reply_of(), payload)

    assert not refused.value.answer


@given(facts=FACTS, body=st.binary(max_size=50))
def test_a_frame_without_a_seal_is_refused(facts, body):
    with pytest.raises(Refused, match="not signed"):
        gate_of().check("cmdop.do.web1", reply_of(), encode({**WRITE, **facts}, body))


def refusal(gate, *call):
    with pytest.raises(Refused) as refused:
        gate.check(*call)
    return refused.value


@pytest.mark.parametrize("rest", [b"x", CALL[2]])
def test_a_call_with_something_behind_it_is_refused(gate, rest):
    assert "not one frame" in refusal(gate, CALL[0], CALL[1], CALL[2] + rest).reason


def test_a_call_for_another_machine_is_refused(clock):
    _, reply, payload = call_of()

    refused = refusal(gate_of("web2", clock), "cmdop.ask.web2", reply.replace("web1", "web2"), payload)

    assert "another machine" in refused.reason


def test_a_call_by_a_subject_of_another_machine_is_refused(gate):
    assert "subject" in refusal(gate, *call_of(subject="cmdop.ask.web2")).reason


def test_a_call_whose_reply_was_changed_on_the_way_is_refused(gate):
    subject, _, payload = call_of()

    refused = refusal(gate, subject, reply_of(number=2), payload)

    assert "reply" in refused.reason
    assert not refused.answer


@pytest.mark.parametrize(
    "reply", ["cmdop.do.web1", "_IN.op4.web1.link.1", "_IN.op1.web2.link.1", "_IN.op1.js.link.1", "_IN.op1.web1.l", ""]
)
def test_an_answer_goes_nowhere_but_to_the_caller(gate, lines, reply):
    payload = seals.seal_call(OPERATOR, "web1", "cmdop.ask.web1", reply, READ, time_ns=NOW)

    refused = refusal(gate, "cmdop.ask.web1", reply, payload)

    assert "which is not op1's" in refused.reason
    assert not refused.answer
    assert "operator op1" in lines[0]


def test_a_call_signed_by_another_workspace_is_refused_and_says_who_it_claims_to_be(gate, lines):
    refused = refusal(gate, *call_of(WRITE, identity=STRANGER))

    assert "has not signed" in refused.reason
    assert "'op1'" in lines[0]


def test_a_call_that_shows_the_proof_of_another_is_refused(gate):
    forged = Identity(OBSERVER.seed, OBSERVER.proof)
    forged.proof = OPERATOR.proof

    assert "not signed by op1" in refusal(gate, *call_of(WRITE, identity=forged)).reason


def test_a_machine_calls_nobody(gate):
    assert "not signed by web2" in refusal(gate, *call_of(identity=WEB2)).reason


@pytest.mark.parametrize("late", [121, -121, 86400])
def test_a_call_that_is_too_old_or_ahead_says_by_how_much(gate, late):
    refused = refusal(gate, *call_of(time_ns=NOW - late * SECOND))

    assert f"{abs(late)} s" in refused.reason
    assert refused.answer


@pytest.mark.parametrize("late", [119, -119])
def test_clocks_may_differ_by_less_than_two_minutes(gate, late):
    assert gate.check(*call_of(time_ns=NOW - late * SECOND))


@pytest.mark.parametrize("ahead", [0, 100])
def test_a_call_counts_once_for_as_long_as_it_would_be_taken(gate, clock, ahead):
    call = call_of(time_ns=NOW + ahead * SECOND)
    gate.check(*call)
    clock.now += (seals.SECONDS + ahead) * SECOND - 1

    refused = refusal(gate, *call)

    assert "came before" in refused.reason
    assert not refused.answer  # or the caller would take it for the first one's answer


def test_a_caller_with_too_many_calls_holds_up_no_other(gate, clock, monkeypatch):
    monkeypatch.setattr(seals, "CALLS_REMEMBERED", 3)
    for number in range(3):
        gate.check(*call_of(number=number))

    assert "more than 3 calls" in refusal(gate, *call_of(number=4)).reason
    assert gate.check(*call_of(identity=OTHER))
    clock.now += (seals.SECONDS + 1) * SECOND
    assert gate.check(*call_of(number=5, time_ns=clock.now))


@pytest.mark.parametrize("op", sorted(subjects.CHANGES))
def test_an_observer_changes_nothing(gate, lines, op):
    refused = refusal(gate, *call_of({"op": op}, identity=OBSERVER))

    assert "an observer may look" in refused.reason
    assert refused.answer
    assert "observer obs" in lines[0]


@pytest.mark.parametrize("op", sorted(subjects.LOOKS))
def test_an_observer_looks(gate, op):
    assert gate.check(*call_of({"op": op}, identity=OBSERVER))[0] == OBSERVER.proof


@pytest.mark.parametrize("identity", [OPERATOR, OBSERVER])
@pytest.mark.parametrize("header", [WRITE, {"op": "surroundings", "detach": ["sh"]}])
def test_what_changes_something_is_not_taken_where_everybody_may_publish(gate, identity, header):
    call = call_of(header, identity=identity, subject="cmdop.ask.web1")

    assert "not taken on cmdop.ask.web1" in refusal(gate, *call).reason


def test_a_machine_that_is_only_to_be_observed_obeys_no_operator(clock):
    gate = gate_of(clock=clock, observe_only=True)

    assert "observed only" in refusal(gate, *call_of(WRITE)).reason
    assert gate.check(*call_of(READ))


@pytest.mark.parametrize("op", [None, "begone", 7])
def test_a_call_nobody_knows_is_refused(gate, op):
    assert "no call" in refusal(gate, *call_of({"op": op}, subject="cmdop.ask.web1")).reason


def test_a_payload_above_the_limit_is_refused_unread(gate):
    assert "above" in refusal(gate, CALL[0], CALL[1], b"\0" * (seals.MAX_PAYLOAD + 1)).reason


def test_the_longest_body_there_is_goes_through(gate):
    assert len(gate.check(*call_of(WRITE, b"x" * MAX_BODY))[2]) == MAX_BODY


def test_a_header_that_nests_too_deep_is_refused(gate):
    header = b'{"op":"read","seal":{},"x":' + b"[" * 50_000 + b"]" * 50_000 + b"}"
    payload = len(header).to_bytes(4, "big") + bytes(4) + header

    assert refusal(gate, CALL[0], CALL[1], payload)


def test_of_many_refusals_ten_are_told_at_once_then_one_a_second_with_their_number(gate, clock, lines):
    call = call_of(WRITE, identity=OBSERVER)
    for _ in range(50):
        refusal(gate, *call)
    clock.now += SECOND
    refusal(gate, *call)
    refusal(gate, *call)

    assert len(lines) == 11
    assert "(40 more since the last line)" in lines[10]


def test_who_makes_a_flood_hides_nobody_else_in_the_log(gate, lines):
    for _ in range(50):
        refusal(gate, "cmdop.do.web1", "", b"junk")
    refusal(gate, *call_of(WRITE, identity=OBSERVER))

    assert "observer obs" in lines[-1]
    assert all("somebody unproven" in line for line in lines[:-1])


# -- answers, logs, cards


@given(header=FACTS, body=st.binary(max_size=200), piece=st.integers(0, 9))
def test_an_answer_arrives_as_it_was_signed(header, body, piece):
    payload = seals.seal_answer(WEB1, reply_of(), piece, header, body)

    assert seals.check_answer(WORKSPACE, "web1", reply_of(), payload) == (WEB1.proof, piece, header, body)


ANSWER = seals.seal_answer(WEB1, reply_of(), 0, {"number": 1}, b"data")


@given(at=st.integers(0, len(ANSWER) - 1), bit=st.integers(0, 7))
def test_an_answer_of_which_a_bit_was_changed_is_refused_or_says_the_same(at, bit):
    payload = bytearray(ANSWER)
    payload[at] ^= 1 << bit
    try:
        seen = seals.check_answer(WORKSPACE, "web1", reply_of(), bytes(payload))
    except Refused:
        return

    assert seen == (WEB1.proof, 0, {"number": 1}, b"data")


@pytest.mark.parametrize("identity", [WEB2, OPERATOR, STRANGER])
def test_nobody_answers_in_place_of_a_machine(identity):
    payload = seals.seal_answer(identity, reply_of(), 0, {}, b"data")

    with pytest.raises(Refused):
        seals.check_answer(WORKSPACE, "web1", reply_of(), payload)


def test_an_answer_to_one_call_is_none_to_another():
    with pytest.raises(Refused, match="not signed"):
        seals.check_answer(WORKSPACE, "web1", reply_of(number=2), ANSWER)


CHUNKS = [[0, NOW, 12, 4]]


@given(offset=st.integers(0, 2**60), facts=JSON, data=st.binary(max_size=200))
def test_a_message_of_a_log_arrives_as_it_was_signed(offset, facts, data):
    header = seals.seal_log(WEB1, subjects.log("web1", "s.1"), offset, facts, data)

    assert "\n" not in header
    assert header.isascii()
    assert seals.check_log(WEB1.proof, subjects.log("web1", "s.1"), header, data) == (offset, facts)


def test_the_largest_message_of_a_log_is_one_that_its_stream_takes():
    size = PIECE - MOST_CHUNKS + 1
    facts = [[2, 2**63, 2**40, 1]] * (MOST_CHUNKS - 1) + [[2, 2**63, 2**40, size]]
    header = seals.seal_log(WEB1, subjects.log("web1", "s" * 64), 2**60, facts, bytes(PIECE))

    assert len(header) + PIECE + 1024 < MAX_LOG_MESSAGE  # JetStream's own headers
    assert len(header) < 64 * 1024


@pytest.mark.parametrize(
    ("proof", "session", "data"),
    [
        (WEB2.proof, "s1", b"data"),
        (OPERATOR.proof, "s1", b"data"),
        (WEB1.proof, "s2", b"data"),
        (WEB1.proof, "s1", b"d"),
    ],
)
def test_a_message_of_another_machine_or_session_or_with_other_bytes_is_refused(proof, session, data):
    header = seals.seal_log(WEB1, subjects.log("web1", "s1"), 0, CHUNKS, b"data")

    with pytest.raises(Refused, match="has not signed"):
        seals.check_log(proof, subjects.log("web1", session), header, data)


@pytest.mark.parametrize(
    "header", [None, "", "[]", "{}", "[1,2]", '[0,[],"x"]', '[-1,[],"x"]', "[" * 9000, "[NaN,1,2]"]
)
def test_a_message_with_a_seal_that_is_none_is_refused(header):
    with pytest.raises(Refused):
        seals.check_log(WEB1.proof, subjects.log("web1", "s1"), header, b"data")


@given(facts=FACTS)
def test_a_card_arrives_as_it_was_signed(facts):
    card = seals.seal_card(WEB1, facts)

    assert seals.check_card(WORKSPACE, subjects.roster("web1"), card) == (WEB1.proof, facts)


@pytest.mark.parametrize(
    ("identity", "machine"), [(WEB2, "web1"), (WEB1, "web2"), (OPERATOR, "op1"), (STRANGER, "op1")]
)
def test_a_card_of_another_is_refused(identity, machine):
    with pytest.raises(Refused):
        seals.check_card(WORKSPACE, subjects.roster(machine), seals.seal_card(identity, {"state": "up"}))


@given(value=st.binary(max_size=100) | st.sampled_from([b"[]", b"{}", b'{"seal":1}', b'{"seal":{"proof":{}}}', b"1"]))
def test_bytes_that_are_no_card_are_refused(value):
    with pytest.raises(Refused):
        seals.check_card(WORKSPACE, subjects.roster("web1"), value)


# -- proofs and identities


@pytest.mark.parametrize(
    "change", [{"role": "operator"}, {"name": "op1"}, {"workspace": "other"}, {"public_key": OPERATOR.proof.public_key}]
)
def test_a_proof_that_says_something_else_is_refused(change):
    with pytest.raises(Refused, match="has not signed"):
        check_proof(WORKSPACE, replace(OBSERVER.proof, **change).facts())


@pytest.mark.parametrize(
    "facts", [None, 1, [], {}, {**OPERATOR.proof.facts(), "name": 1}, {**OPERATOR.proof.facts(), "x": ""}]
)
def test_what_is_no_proof_is_refused(facts):
    with pytest.raises(Refused):
        check_proof(WORKSPACE, facts)


def test_a_person_signed_as_a_machine_is_refused():
    bare = Proof("person", "op1", "machine", "lab", OPERATOR.proof.public_key, "")
    signer = proofs.SigningKey(proofs._decoded(ACCOUNT)[1])
    signed = replace(bare, signature=proofs._text(signer.sign(bare.text()).signature))

    with pytest.raises(Refused, match="no 'person' has that role"):
        check_proof(WORKSPACE, signed.facts())


def test_an_identity_needs_the_proof_of_its_own_key():
    with pytest.raises(ValueError, match="not of this key"):
        Identity(OTHER.seed, OPERATOR.proof)


def test_an_identity_never_shows_its_seed():
    shown = f"{OPERATOR!r} {OPERATOR} {OPERATOR.proof!r} {vars(OPERATOR.proof)}"

    assert "op1" in shown
    assert OPERATOR.seed not in shown


def test_the_key_that_signs_calls_is_not_the_one_a_server_has_sign_its_challenge():
    """A server chooses the challenge: it could be a call."""
    subject, reply, _ = call_of(nonce="12345678")
    text = seals._call_text(OPERATOR.proof, "web1", subject, reply, READ, b"", NOW, "12345678")
    challenge = proofs.nkeys.from_seed(OPERATOR.seed.encode()).sign(text)

    assert OPERATOR.proof.verify(text, OPERATOR.sign(text))
    assert not OPERATOR.proof.verify(text, proofs._text(challenge))


def test_the_public_key_of_a_seed_is_the_one_nkeys_gives():
    assert OPERATOR.connects_as == proofs.nkeys.from_seed(OPERATOR.seed.encode()).public_key.decode().rstrip("=")


@pytest.mark.parametrize(
    "seed",
    ["", "SU", OPERATOR.seed[:-1], OPERATOR.seed[:-1] + "!", OPERATOR.seed[::-1], "é" * 58],
    ids=["empty", "short", "cut", "no base32", "reversed", "no ASCII"],  # a seed is another one in each process
)
def test_a_damaged_seed_is_refused_and_not_shown(seed):
    with pytest.raises(ValueError, match="a seed is damaged") as refused:
        public_of(seed)

    assert not seed or seed not in str(refused.value)


def test_a_workspace_key_connects_nobody():
    with pytest.raises(ValueError, match="another kind"):
        Identity(ACCOUNT, OPERATOR.proof)
