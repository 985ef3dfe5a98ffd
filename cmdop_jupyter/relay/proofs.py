"""Who somebody on a relay is: a seed of their own, and a proof that their workspace signed. Pure.

What signs seals is derived from the seed and is not the key that answers a server's challenge: a server chooses what
it has signed there, and could choose a call.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import lru_cache

from ..errors import CmdopError, NotSupported, Refused
from .subjects import check_name

try:
    import nkeys
    from nacl.exceptions import CryptoError
    from nacl.signing import SigningKey, VerifyKey
    from nacl.utils import random as random_bytes
except ImportError:
    raise NotSupported("the relay needs nats-py and nkeys: pip install 'cmdop-jupyter[relay]'") from None

ROLES = {"operator": "person", "observer": "person", "machine": "machine"}  # and the kind that has it
PROOFS_REMEMBERED = 4096
_SEALS = b"cmdop seal key 1\0"  # in front of what the derived key is made of
_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False).encode
_USER, _ACCOUNT = nkeys.PREFIX_BYTE_USER, nkeys.PREFIX_BYTE_ACCOUNT


def new_user() -> str:
    """A new seed for a person or a machine."""
    return _new(_USER)


def new_workspace() -> str:
    """A new seed for a workspace; it signs proofs and connects nowhere."""
    return _new(_ACCOUNT)


def public_of(seed: str) -> str:
    """The public key of a seed, as nats-server takes it. Raises ValueError."""
    prefix, raw = _decoded(seed)
    head = bytes([prefix]) + bytes(SigningKey(raw).verify_key)
    return base64.b32encode(head + bytes(nkeys.crc16_checksum(head))).decode().rstrip("=")


def seal_key(seed: str) -> str:
    """The public key that seals of a seed are checked by. Raises ValueError."""
    return _text(bytes(_signer(seed).verify_key))


def canonical(kind: str, *parts: object) -> bytes:
    """What is signed: one text for the same facts, whatever order they came in. Raises ValueError."""
    try:
        return _CANONICAL(["cmdop-1", kind, *parts]).encode()
    except (TypeError, RecursionError) as error:
        raise ValueError(f"what is signed makes no sense: {error}") from None


@dataclass(frozen=True)
class Proof:
    """A workspace says who has a key, and what they may do.

    Attributes:
        kind: `person` or `machine`.
        name: Theirs, one token of a subject.
        role: `operator`, `observer` or `machine`.
        workspace: Its name.
        public_key: What their seals are checked by.
        signature: The workspace's, over all that.
    """

    kind: str
    name: str
    role: str
    workspace: str
    public_key: str
    signature: str

    def facts(self) -> dict[str, str]:
        """As JSON takes it, and `check_proof`."""
        return asdict(self)

    def text(self) -> bytes:
        return canonical("proof", self.kind, self.name, self.role, self.workspace, self.public_key)

    def verify(self, text: bytes, signature: object) -> bool:
        """Whether the holder of this proof signed a text."""
        return _verifies(_raw(self.public_key), text, signature)

    def __str__(self) -> str:
        return f"{self.role} {self.name} ({self.public_key[:12]}…)"


class Identity:
    """A person or a machine that can sign: a seed and its proof. Never shows the seed.

    Args:
        seed: An nkey user seed; the server knows its public key.
        proof: Its workspace's.

    Raises:
        ValueError: The seed makes no sense, or the proof is of another.
    """

    def __init__(self, seed: str, proof: Proof) -> None:
        self.seed, self.proof = seed, proof
        self._signer = _signer(seed)
        if seal_key(seed) != proof.public_key:
            raise ValueError(f"the proof of {proof.name} is not of this key")

    @property
    def connects_as(self) -> str:
        """The public key that the server knows."""
        return public_of(self.seed)

    def sign(self, text: bytes) -> str:
        return _text(self._signer.sign(text).signature)

    def __repr__(self) -> str:
        return f"<Identity {self.proof}>"

    __str__ = __repr__


def issue(workspace_seed: str, workspace: str, role: str, name: str, seed: str) -> Proof:
    """Return the proof that a workspace gives to who has `seed`. Raises ValueError, InvalidRequest."""
    check_name(name, f"a {ROLES[role]}")
    _, raw = _decoded(workspace_seed, _ACCOUNT)
    bare = Proof(ROLES[role], name, role, workspace, seal_key(seed), "")
    return Proof(**{**bare.facts(), "signature": _text(SigningKey(raw).sign(bare.text()).signature)})


def check_proof(workspace_public: str, facts: object) -> Proof:
    """Return the proof that `facts` are. Raises Refused for what that workspace has not signed."""
    names = [field.name for field in fields(Proof)]
    if not isinstance(facts, Mapping) or set(facts) != set(names):
        raise Refused("it has no proof of who sent it")
    words = tuple(facts[name] for name in names)
    if not all(isinstance(word, str) and len(word) <= 200 for word in words):
        raise Refused("its proof makes no sense")
    return _checked(workspace_public, *words)


@lru_cache(PROOFS_REMEMBERED)
def _checked(workspace_public: str, *words: str) -> Proof:
    proof = Proof(*words)
    claims = f"it claims to be {proof.role[:20]!r} {proof.name[:64]!r}"
    if not _verifies(_workspace_key(workspace_public), proof.text(), proof.signature):
        raise Refused(f"{claims}, which the key of this workspace has not signed")
    try:
        check_name(proof.name)
        _raw(proof.public_key)
    except CmdopError as error:
        raise Refused(f"{claims}: {error}") from None
    if ROLES.get(proof.role) != proof.kind:
        raise Refused(f"{claims}, and no {proof.kind[:20]!r} has that role")
    return proof


@lru_cache(64)
def _workspace_key(workspace_public: str) -> bytes:
    try:
        raw = base64.b32decode(workspace_public + "=" * (-len(workspace_public) % 8))
    except binascii.Error:
        raw = b""
    if len(raw) != 35 or raw[0] != _ACCOUNT or bytes(nkeys.crc16_checksum(raw[:-2])) != raw[-2:]:
        raise ValueError("the public key of the workspace is damaged")
    return raw[1:-2]


def _verifies(key: bytes, text: bytes, signature: object) -> bool:
    try:
        if not isinstance(signature, str):
            return False
        VerifyKey(key).verify(text, _raw(signature, 64))
    except (CryptoError, Refused):
        return False
    return True


def _signer(seed: str) -> SigningKey:
    _, raw = _decoded(seed, _USER)
    return SigningKey(hashlib.sha256(_SEALS + raw).digest())


def _new(prefix: int) -> str:
    seed: bytes = nkeys.encode_seed(random_bytes(32), prefix)
    return seed.decode()


def _decoded(seed: str, wanted: int | None = None) -> tuple[int, bytes]:
    """The kind of a seed and its 32 bytes. The library checks neither its checksum nor its length."""
    try:
        raw = base64.b32decode(seed + "=" * (-len(seed) % 8))
        prefix, key = nkeys.decode_seed(seed.encode())
    except (ValueError, IndexError, nkeys.NkeysError):
        raise ValueError("a seed is damaged") from None
    if len(raw) != 36 or bytes(nkeys.crc16_checksum(raw[:-2])) != raw[-2:] or wanted not in (None, prefix):
        raise ValueError("a seed is damaged, or of another kind")
    return prefix, bytes(key)


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _raw(text: str, size: int = 32) -> bytes:
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (ValueError, binascii.Error):
        raw = b""
    if len(raw) != size or _text(raw) != text:
        raise Refused("a key or a signature makes no sense")
    return raw
