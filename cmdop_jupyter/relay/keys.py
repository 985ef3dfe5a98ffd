"""What a person or a machine is given to be on a relay, from text and to it. No message or repr has a secret of it.

An API key is `cmd_`, base64url of a version byte and JSON, and six characters of checksum, so that scanners can know
one: `cmd_[A-Za-z0-9_-]{100,}`, the last six base62 of the CRC-32 of what stands before them.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import zlib
from dataclasses import dataclass
from pathlib import Path

from ..errors import BadKey, CmdopError
from .proofs import ROLES, Identity, Proof, check_proof, public_of, seal_key

__all__ = ["ApiKey", "MachineKey", "read_machine_key"]

MARK = "cmd_"
VERSION = 1
_CHECKSUM = 6  # characters
_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_WHERE = "`cmdop-relay keys FOLDER operator WORKSPACE NAME` makes one, and prints it once"
_MOST = 64 * 1024  # bytes of a key's file


@dataclass(frozen=True, repr=False)
class ApiKey:
    """How a person reaches the machines of a workspace.

    Attributes:
        url: Of the relay.
        workspace: Its name.
        identity: Who they are.
        workspace_public: What proofs of others are checked by.
    """

    url: str
    workspace: str
    identity: Identity
    workspace_public: str

    def format(self) -> str:
        """As text; this is the secret."""
        proof = self.identity.proof
        said = [self.url, self.workspace, self.workspace_public, self.identity.seed, proof.role, proof.name]
        packed = json.dumps([*said, proof.signature], separators=(",", ":")).encode()
        text = MARK + base64.urlsafe_b64encode(bytes([VERSION]) + packed).decode().rstrip("=")
        return text + _checksum(text)

    @classmethod
    def parse(cls, text: str | None) -> ApiKey:
        """Return the key that a text is. Raises BadKey, which says what is wrong and shows nothing of it."""
        text = (text or "").strip()
        if not text:
            raise BadKey(f"there is no API key: give api_key=, or set CMDOP_API_KEY; {_WHERE}")
        if not text.startswith(MARK):
            raise BadKey(f"that is no API key: they begin with {MARK!r}; {_WHERE}")
        body, sum_ = text[:-_CHECKSUM], text[-_CHECKSUM:]
        if len(body) <= len(MARK) or _checksum(body) != sum_:
            raise BadKey(
                f"the API key is not whole: its checksum does not fit its {len(text)} characters, so some were lost or "
                f"changed; copy it again, or make a new one"
            )
        try:
            raw = base64.b64decode(body[len(MARK) :] + "=" * (-len(body[len(MARK) :]) % 4), b"-_", validate=True)
            if raw[0] != VERSION:
                raise BadKey(
                    f"the API key is of version {raw[0]}, and this package knows {VERSION}; install a newer one"
                )
            url, workspace, public, seed, role, name, signature = json.loads(raw[1:])
            proof = Proof(ROLES[role], name, role, workspace, seal_key(seed), signature)
            return cls(str(url), workspace, _identity(public, seed, proof, "person"), public)
        except BadKey:
            raise
        except (binascii.Error, CmdopError, ValueError, TypeError, KeyError, IndexError, AttributeError):
            raise BadKey(f"the API key makes no sense, though its checksum fits; make a new one: {_WHERE}") from None

    def __repr__(self) -> str:
        return f"<ApiKey {self.identity.proof} of {self.workspace} at {self.url}>"


@dataclass(frozen=True, repr=False)
class MachineKey:
    """How a machine is on a relay. Attributes as of `ApiKey`."""

    url: str
    workspace: str
    identity: Identity
    workspace_public: str

    def format(self) -> str:
        """As the text of a file; this is a secret."""
        said = {
            "version": VERSION,
            "url": self.url,
            "workspace": self.workspace,
            "workspace_public": self.workspace_public,
            "seed": self.identity.seed,
            "proof": self.identity.proof.facts(),
        }
        return json.dumps(said, indent=2) + "\n"

    def __repr__(self) -> str:
        return f"<MachineKey {self.identity.proof} of {self.workspace} at {self.url}>"


def read_machine_key(path: str | os.PathLike[str]) -> MachineKey:
    """Return the machine's key in a file. Raises BadKey, which says what is wrong and shows nothing of it."""
    where = f"the machine's key {os.fspath(path)}"
    make = "`cmdop-relay keys FOLDER machine WORKSPACE NAME` makes one"
    try:
        with Path(path).open("rb") as file:
            if os.fstat(file.fileno()).st_mode & 0o077:
                raise BadKey(f"{where} can be read by others: `chmod 600 {os.fspath(path)}`")
            raw = file.read(_MOST)
    except OSError as error:
        raise BadKey(f"{where} cannot be read ({error.strerror}); {make}") from None
    if not raw.strip():
        raise BadKey(f"{where} is empty; {make}")
    try:
        said = json.loads(raw)
        if said["version"] != VERSION:
            raise BadKey(f"{where} is of version {said['version']!r:.20}, and this package knows {VERSION}; update it")
        proof = Proof(**said["proof"])
        identity = _identity(said["workspace_public"], said["seed"], proof, "machine")
        return MachineKey(str(said["url"]), str(said["workspace"]), identity, said["workspace_public"])
    except BadKey:
        raise
    except (CmdopError, ValueError, TypeError, KeyError, AttributeError):
        raise BadKey(f"{where} makes no sense, or is cut; {make}") from None


def _identity(workspace_public: str, seed: str, proof: Proof, kind: str) -> Identity:
    """Who has that seed. Raises ValueError or CmdopError unless all that fits together."""
    if check_proof(workspace_public, proof.facts()).kind != kind:
        raise ValueError(f"the key is not of a {kind}")
    public_of(seed)
    return Identity(seed, proof)


def _checksum(text: str) -> str:
    number, digits = zlib.crc32(text.encode()), ""
    for _ in range(_CHECKSUM):
        number, digit = divmod(number, len(_DIGITS))
        digits = _DIGITS[digit] + digits
    return digits
