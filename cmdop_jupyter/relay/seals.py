"""Calls, answers, logs and cards in; the same, signed, out; and back, checked. Pure: knows no connection and no clock.

A server's permissions do not hold back who names somebody else's subject as a reply, or as where a consumer delivers.
So a machine obeys what is signed for it, for that subject and that reply, and a client believes what is signed by the
machine it asked.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import struct
from collections.abc import Callable, Mapping

from ..agent.frames import MAX_BODY, MAX_HEADER, FrameDecoder, FrameError, encode
from ..errors import CmdopError, Refused
from . import subjects
from .proofs import Identity, Proof, canonical, check_proof

__all__ = [
    "Gate",
    "Identity",
    "Proof",
    "check_answer",
    "check_card",
    "check_log",
    "seal_answer",
    "seal_call",
    "seal_card",
    "seal_log",
]

Header = dict[str, object]

SECONDS = 120  # that a call is obeyed after it was signed, or before, where clocks differ
CALLS_REMEMBERED = 100_000  # of one caller within that time; above that they are refused
MAX_PAYLOAD = 8 + MAX_HEADER + MAX_BODY  # bytes of one call or answer
LINES_AT_ONCE = 10  # on refusals of one caller; then one a second
MOST_TOLD = 1000  # callers of whom refusals are told apart
_LENGTHS = struct.Struct(">II")
_NS = 1_000_000_000


def seal_call(
    identity: Identity,
    machine: str,
    subject: str,
    reply: str,
    header: Mapping[str, object],
    body: bytes = b"",
    *,
    time_ns: int,
    nonce: str = "",
) -> bytes:
    """Return a call as it is published: a frame whose header has a seal. Each needs its own, a repeated one too.

    Args:
        subject: Where it goes, see `subjects.call`.
        reply: Where its answer is to come, see `subjects.answer`.
        time_ns: The time now, since the epoch.
        nonce: Something that no other call of this caller has; made, where none is given.
    """
    nonce = nonce or secrets.token_urlsafe(12)
    text = _call_text(identity.proof, machine, subject, reply, header, body, time_ns, nonce)
    seal = {"proof": identity.proof.facts(), "time_ns": time_ns, "nonce": nonce, "signature": identity.sign(text)}
    return encode({**header, "seal": seal}, body)


class Gate:
    """What a machine obeys: calls that a person of its workspace signed for it, just now and once.

    Args:
        workspace_public: The public key of the machine's workspace.
        machine: Its name.
        clock: The time in nanoseconds since the epoch.
        log: Called with a line about who was refused what: of one caller ten at once, then one a second.
        observe_only: Refuse whatever changes something.
    """

    def __init__(
        self,
        workspace_public: str,
        machine: str,
        clock: Callable[[], int],
        log: Callable[[str], object] = lambda line: None,
        *,
        observe_only: bool = False,
    ) -> None:
        self._workspace_public, self._machine, self._clock = workspace_public, machine, clock
        self._observe_only = observe_only
        self._subjects = {subjects.ask(machine), subjects.do(machine)}
        self._seen: dict[str, dict[str, int]] = {}  # nonces of each caller, oldest first, and until when they count
        self._log = log
        self._told: dict[str, tuple[float, int, int]] = {}  # of whom: lines left, when, refusals since the last line

    def check(self, subject: str, reply: str, payload: bytes) -> tuple[Proof, Header, bytes]:
        """Return who calls, the call without its seal, and its body.

        Raises:
            Refused: It is not to be obeyed. With `answer` the caller is proven and `reply` is theirs, so that they
                can be told; else nobody is to be answered.
        """
        try:
            return self._check(subject, reply, payload)
        except Refused as refused:
            self._tell(refused, subject, reply)
            raise

    def _check(self, subject: str, reply: str, payload: bytes) -> tuple[Proof, Header, bytes]:
        if subject not in self._subjects:
            raise Refused("it did not come by a subject of this machine")
        header, seal, body = _opened(payload)
        proof = check_proof(self._workspace_public, seal.get("proof"))
        time_ns, nonce = seal.get("time_ns"), seal.get("nonce")
        if type(time_ns) is not int or not isinstance(nonce, str) or not 8 <= len(nonce) <= 64:
            raise Refused("its seal has no time or no nonce")
        text = _call_text(proof, self._machine, subject, reply, header, body, time_ns, nonce)
        if proof.kind != "person" or not proof.verify(text, seal.get("signature")):
            raise Refused(f"it is not signed by {proof.name}, or for another machine, subject or reply, or was changed")
        who = str(proof)
        if not subjects.is_answer(reply, proof.name, self._machine):
            raise Refused(f"its answer would go to {reply[:200]!r}, which is not {proof.name}'s", who)
        self._check_time(time_ns, who)
        self._check_role(proof, subject, header)
        self._check_once(proof.public_key, nonce, time_ns, who)
        return proof, header, body

    def _check_time(self, time_ns: int, who: str) -> None:
        late = (self._clock() - time_ns) / _NS
        if abs(late) > SECONDS:
            words = f"{late:.0f} s old" if late > 0 else f"from {-late:.0f} s ahead"
            told = f"the call is {words} by the clock of {self._machine}; {SECONDS} s are allowed: set the clocks right"
            raise Refused(told, who, answer=True)

    def _check_role(self, proof: Proof, subject: str, header: Header) -> None:
        who, op = str(proof), str(header.get("op"))[:40]
        try:
            right, changes = subjects.call(self._machine, header), subjects.changes(header)
        except CmdopError as error:
            raise Refused(str(error)[:200], who, answer=True) from None
        if right != subject:
            raise Refused(f"{op!r} is not taken on {subject}", who, answer=True)
        if changes and proof.role != "operator":
            raise Refused(f"an {proof.role} may look at {self._machine}, and not {op!r}", who, answer=True)
        if changes and self._observe_only:
            raise Refused(f"{self._machine} lets itself be observed only, and takes no {op!r}", who, answer=True)

    def _check_once(self, public_key: str, nonce: str, time_ns: int, who: str) -> None:
        now = self._clock()
        seen = self._seen.setdefault(public_key, {})
        while seen and next(iter(seen.values())) < now:
            del seen[next(iter(seen))]
        if nonce in seen:
            raise Refused("the same call came before", who)  # unanswered: the first one is
        if len(seen) >= CALLS_REMEMBERED:
            raise Refused(f"more than {CALLS_REMEMBERED} calls in {SECONDS} s; go on in a moment", who, answer=True)
        seen[nonce] = max(time_ns, now) + SECONDS * _NS

    def _tell(self, refused: Refused, subject: str, reply: str) -> None:
        now = self._clock()
        who = refused.who or "somebody unproven"
        lines, last, more = self._told.get(who, (float(LINES_AT_ONCE), now, 0))
        lines = min(LINES_AT_ONCE, lines + max(0, now - last) / _NS)
        if lines < 1:
            self._told[who] = lines, now, more + 1
            return
        if len(self._told) >= MOST_TOLD:
            self._told.clear()
        self._told[who] = lines - 1, now, 0
        also = f" ({more} more since the last line)" if more else ""
        self._log(f"refused {who} on {subject[:100]!r}, reply {reply[:100]!r}: {refused.reason}{also}")


def seal_answer(identity: Identity, reply: str, piece: int, header: Mapping[str, object], body: bytes = b"") -> bytes:
    """Return a piece of a machine's answer as it is published; `piece` counts from 0 within one `reply`."""
    signature = identity.sign(_answer_text(identity.proof, reply, piece, header, body))
    return encode({**header, "seal": {"proof": identity.proof.facts(), "piece": piece, "signature": signature}}, body)


def check_answer(workspace_public: str, machine: str, reply: str, payload: bytes) -> tuple[Proof, int, Header, bytes]:
    """Return the machine's proof, the number of the piece, its header without seal, its body. Raises Refused."""
    header, seal, body = _opened(payload)
    proof, piece = check_proof(workspace_public, seal.get("proof")), seal.get("piece")
    if proof.kind != "machine" or proof.name != machine:
        raise Refused(f"an answer of {proof.name} to what {machine} was asked", str(proof))
    if type(piece) is not int or not proof.verify(
        _answer_text(proof, reply, piece, header, body), seal.get("signature")
    ):
        raise Refused(f"an answer that {machine} has not signed for {reply[:200]!r}")
    return proof, piece, header, body


def seal_log(identity: Identity, subject: str, offset: int, facts: object, data: bytes) -> str:
    """Return the header of a log's message: where in the log it begins, what is told of it, and the signature."""
    signature = identity.sign(_log_text(identity.proof, subject, offset, facts, data))
    return json.dumps([offset, facts, signature], separators=(",", ":"))


def check_log(machine: Proof, subject: str, header: str | None, data: bytes) -> tuple[int, object]:
    """Return where in the log a message begins, and what is told of it. Raises Refused if it is not that machine's."""
    try:
        offset, facts, signature = json.loads(header or "")
        text = _log_text(machine, subject, offset, facts, data)
    except (ValueError, TypeError, RecursionError):
        raise Refused(f"a message on {subject[:200]!r} that has no seal") from None
    if type(offset) is not int or offset < 0 or machine.kind != "machine" or not machine.verify(text, signature):
        raise Refused(f"a message on {subject[:200]!r} that {machine.name} has not signed")
    return offset, facts


def seal_card(identity: Identity, facts: Mapping[str, object]) -> bytes:
    """Return what a machine says of itself in the roster, with its proof."""
    signature = identity.sign(canonical("card", identity.proof.workspace, identity.proof.name, facts))
    return json.dumps({**facts, "seal": {"proof": identity.proof.facts(), "signature": signature}}).encode()


def check_card(workspace_public: str, subject: str, value: bytes) -> tuple[Proof, Header]:
    """Return whose card it is and what it says. Raises Refused for one that its machine has not signed."""
    try:
        facts = json.loads(value)
        seal = facts.pop("seal")
        proof = check_proof(workspace_public, seal["proof"])
        text = canonical("card", proof.workspace, proof.name, facts)
        signature = seal["signature"]
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError):
        raise Refused(f"a card at {subject[:200]!r} that makes no sense") from None
    if proof.kind != "machine" or subjects.roster(proof.name) != subject or not proof.verify(text, signature):
        raise Refused(f"a card at {subject[:200]!r} that its machine has not signed")
    return proof, facts


def _opened(payload: bytes) -> tuple[Header, Mapping[str, object], bytes]:
    """The header of the one frame that a payload is, its seal, and its body."""
    if len(payload) > MAX_PAYLOAD:
        raise Refused(f"it has {len(payload)} bytes, above the {MAX_PAYLOAD} of one message")
    if len(payload) < _LENGTHS.size or sum(_LENGTHS.unpack_from(payload)) + _LENGTHS.size != len(payload):
        raise Refused(f"its {len(payload)} bytes are not one frame")
    try:
        ((header, body),) = FrameDecoder().feed(payload)
    except FrameError as error:
        raise Refused(str(error)[:200]) from None
    seal = header.pop("seal", None)
    if not isinstance(seal, Mapping):
        raise Refused("it is not signed")
    return header, seal, body


def _call_text(
    proof: Proof,
    machine: str,
    subject: str,
    reply: str,
    header: Mapping[str, object],
    body: bytes,
    time_ns: int,
    nonce: str,
) -> bytes:
    return _text("call", proof.workspace, machine, subject, reply, header, _digest(body), time_ns, nonce)


def _answer_text(proof: Proof, reply: str, piece: int, header: Mapping[str, object], body: bytes) -> bytes:
    return _text("answer", proof.workspace, proof.name, reply, piece, header, _digest(body))


def _log_text(proof: Proof, subject: str, offset: int, facts: object, data: bytes) -> bytes:
    return _text("log", proof.workspace, proof.name, subject, offset, facts, _digest(data))


def _text(kind: str, *parts: object) -> bytes:
    try:
        return canonical(kind, *parts)
    except ValueError as error:
        raise Refused(f"it makes no sense: {str(error)[:200]}") from None


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
